"""The training losses, over labelled pixels only, and class weights."""

import numpy as np

from utils.compat import tf
from utils.errors import UserError
from utils.labels import IGNORE_LABEL, median_frequency_weights

OHEM_PROBABILITY = 0.7  # pixels whose true class is less sure than this are hard
OHEM_LEAST = 16  # one pixel in so many is kept, however sure
LOVASZ_LEVELS = 1024  # to which errors are rounded for ranking them; their order within 1/1023 is left open


def segmentation_loss(logits, labels, *, kind='cross_entropy', class_weights=None):
  """The loss over the labelled pixels of a batch.

  Args:
    logits: float32 [B, H, W, C].
    labels: int32 [B, H, W] of ids below C, and IGNORE_LABEL, whose pixels add nothing and get no gradient.
    kind: a key of LOSSES, or several with `+` between them for their sum.
    class_weights: float [C], or None for ones. Losses of single pixels (cross_entropy, ohem) are multiplied by
      the weight of the pixel's class; losses of whole classes (dice, lovasz) are averaged with these weights.

  Returns:
    Scalar; 0 for a batch that is void altogether.

  Raises:
    UserError: if `kind` names a loss that does not exist.
  """
  functions = loss_functions(kind)
  labelled = tf.not_equal(labels, IGNORE_LABEL)
  ids = tf.where(labelled, labels, tf.zeros_like(labels))
  if class_weights is not None:
    class_weights = tf.constant(class_weights, tf.float32)
  return tf.add_n([function(logits, ids, labelled, class_weights=class_weights) for function in functions])


def loss_functions(kind):
  """Returns the functions of LOSSES that `kind` names, as 'ohem' or 'cross_entropy+lovasz'.

  Raises:
    UserError: if there is no such loss.
  """
  names = kind.split('+')
  for name in names:
    if name not in LOSSES:
      raise UserError(f'--loss={kind}: there is no loss {name!r}; valid are {", ".join(LOSSES)}, or several of them '
                      'with + between')
  return [LOSSES[name] for name in names]


def cross_entropy(logits, ids, labelled, *, class_weights=None):
  """Softmax cross-entropy in nats, averaged over labelled pixels.

  Args (of all of LOSSES):
    logits: float32 [B, H, W, C].
    ids: int32 [B, H, W] below C, anything where there is no label.
    labelled: bool [B, H, W].
    class_weights: float32 [C] tensor, or None for ones.

  Returns:
    Scalar.
  """
  return _pixel_mean(_pixel_losses(logits, ids), ids, labelled, class_weights=class_weights)


def ohem(logits, ids, labelled, *, class_weights=None):
  """Cross-entropy averaged over the hardest pixels: online hard example mining.

  Kept are the pixels whose true class has a probability of at most 0.7, or the hardest sixteenth if that is more. A
  threshold that gives way to a least number is the online bootstrapping of Wu et al., "Bridging Category-level and
  Instance-level Semantic Image Segmentation", arXiv:1605.06885; 0.7 and 1/16 are those of the common code for BiSeNet
  (OhemCELoss in github.com/CoinCheung/BiSeNet). What is hard does not depend on `class_weights`. Arguments as of
  `cross_entropy`.
  """
  losses = _pixel_losses(logits, ids)
  ranked = tf.stop_gradient(tf.where(labelled, losses, -tf.ones_like(losses)))
  least = tf.maximum(tf.reduce_sum(tf.cast(labelled, tf.int32)) // OHEM_LEAST, 1)
  bar = tf.reduce_min(tf.math.top_k(tf.reshape(ranked, [-1]), least, sorted=False).values)
  bar = tf.minimum(bar, -np.log(OHEM_PROBABILITY))
  return _pixel_mean(losses, ids, labelled & (ranked >= bar), class_weights=class_weights)


def dice(logits, ids, labelled, *, class_weights=None):
  """Soft Dice loss: 1 - 2 sum(p g) / (sum(p^2) + sum(g^2)) of every class in the batch's truth, averaged over them.

  Milletari et al., "V-Net", 3DV 2016, section 3. They have one class; with a mean over classes a rare one counts as
  much as a frequent one, as it does by the weights of Sudre et al., "Generalised Dice overlap", DLMIA 2017. Arguments
  as of `cross_entropy`.
  """
  probabilities, truth, labelled = _by_class(logits, ids, labelled)
  mask = tf.cast(labelled, tf.float32)[:, None]
  probabilities, truth = probabilities * mask, truth * mask
  pixels = tf.reduce_sum(truth, axis=0)
  overlaps = 2.0 * tf.reduce_sum(probabilities * truth, axis=0)
  losses = 1.0 - tf.math.divide_no_nan(overlaps, tf.reduce_sum(tf.square(probabilities), axis=0) + pixels)
  return tf.reduce_sum(losses * _class_shares(pixels, class_weights))


def lovasz(logits, ids, labelled, *, class_weights=None):
  """Lovasz-softmax: the convex extension of 1 - IoU to probabilities, over the classes in the batch's truth.

  Berman et al., "The Lovasz-Softmax loss", CVPR 2018, over the whole batch. The loss of a class is the sum over pixels,
  from the greatest error |g - p| to the least, of the error times what the pixel adds to 1 - IoU. Errors are ranked by
  counting them at LOVASZ_LEVELS levels, at a seventh of the time that sorting takes; the pixels of one level share what
  they add together. Arguments as of `cross_entropy`.
  """
  probabilities, truth, labelled = _by_class(logits, ids, labelled, dtype=tf.int32)
  num_classes = logits.shape.as_list()[-1]
  shape = [num_classes, 2, LOVASZ_LEVELS]  # bins by class, by truth, by level of p; void goes into one more
  size = int(np.prod(shape))
  levels = tf.cast(probabilities * (LOVASZ_LEVELS - 1.0) + 0.5, tf.int32)
  levels = tf.maximum(levels, 0)  # one that is not a number is negative, and would end the run without a word on why
  bins = levels + LOVASZ_LEVELS * (truth + 2 * tf.range(num_classes))
  bins = tf.where_v2(labelled[:, None], bins, size)
  counts = tf.cast(tf.reshape(tf.math.bincount(bins, minlength=size, maxlength=size), shape), tf.float32)
  # The error is p in the background, and 1 - p, whose levels run the other way, in the foreground.
  background, foreground = counts[:, 0], tf.reverse(counts[:, 1], [-1])
  shares = _class_shares(tf.reduce_sum(foreground, axis=-1), class_weights)[:, None]
  added_background, added_foreground = (shares * added for added in _jaccard_steps(background, foreground))
  slopes = tf.reshape(tf.stack([added_background, -tf.reverse(added_foreground, [-1])], axis=1), [-1])
  slopes = tf.stop_gradient(tf.gather(tf.concat([slopes, [0.0]], axis=0), bins))
  return tf.reduce_sum(added_foreground * foreground) + tf.reduce_sum(probabilities * slopes)


def _jaccard_steps(background, foreground):
  """What a pixel of each level adds to 1 - IoU, when pixels turn wrong level after level, from the highest.

  Pixels of one level turn together. Their order would matter a little; each gets the mean of what it adds if all of
  the level's foreground, or all of its background, goes first.

  Args:
    background: float32 [C, L], numbers of pixels.
    foreground: float32 [C, L], likewise.

  Returns:
    two float32 [C, L], for a pixel of the background and one of the foreground.
  """
  wrong_after = [tf.cumsum(counts, axis=-1, reverse=True) for counts in (background, foreground)]
  wrong_before = [after - counts for after, counts in zip(wrong_after, (background, foreground))]
  pixels = tf.maximum(wrong_after[1][:, :1], 1.0)  # of the class
  union_before, union_after = pixels + wrong_before[0], pixels + wrong_after[0]
  right = pixels - 0.5 * (wrong_before[1] + wrong_after[1])
  return right / (union_before * union_after), 0.5 / union_before + 0.5 / union_after


def _pixel_losses(logits, ids):
  return tf.nn.sparse_softmax_cross_entropy_with_logits(labels=ids, logits=logits)


def _pixel_mean(losses, ids, mask, *, class_weights):
  """Mean of `losses`, times the weights of their classes if there are any, where `mask` is true; 0 if it is nowhere."""
  weights = tf.cast(mask, tf.float32)
  count = tf.maximum(tf.reduce_sum(weights), 1.0)
  if class_weights is not None:
    weights *= tf.gather(class_weights, ids)
  return tf.reduce_sum(losses * weights) / count


def _by_class(logits, ids, labelled, *, dtype=tf.float32):
  """Returns probabilities float32 [P, C], ones and zeros of the truth as `dtype` [P, C], and labelled bool [P]."""
  num_classes = logits.shape.as_list()[-1]
  # With --precision=bfloat16 the graph rewriter would take a softmax, and all that follows it, to bfloat16; not an exp.
  probabilities = tf.exp(tf.nn.log_softmax(tf.reshape(logits, [-1, num_classes])))
  with tf.control_dependencies([tf.debugging.assert_less(ids, num_classes)]):  # one_hot lets it pass
    truth = tf.one_hot(tf.reshape(ids, [-1]), num_classes, dtype=dtype)
  return probabilities, truth, tf.reshape(labelled, [-1])


def _class_shares(pixels, class_weights):
  """Weights of the classes in a mean over those with pixels: float32 [C] that sums to 1, or zeros if none has any."""
  weights = tf.cast(pixels > 0, tf.float32)
  if class_weights is not None:
    weights *= class_weights
  return tf.math.divide_no_nan(weights, tf.reduce_sum(weights))


LOSSES = {
    # Each is called with logits, ids, and where they are labelled.
    'cross_entropy': cross_entropy,
    'ohem': ohem,
    'dice': dice,
    'lovasz': lovasz,
}


def enet_weights(class_pixels, class_image_pixels=None):
  """Weights 1 / ln(1.02 + p) for a class of frequency p: from 1.4 for all pixels to 50 for the rarest class.

  ENet (Paszke et al., arXiv:1606.02147), section 5.2.

  Args:
    class_pixels: int [C], pixels of each class.
    class_image_pixels: unused; there so that all of CLASS_WEIGHTS are called alike.

  Returns:
    float64 [C]; 0 for a class without pixels, as in the authors' code.
  """
  del class_image_pixels
  pixels = np.asarray(class_pixels, np.float64)
  frequency = pixels / max(pixels.sum(), 1.0)
  return np.where(pixels > 0, 1.0 / np.log(1.02 + frequency), 0.0)


CLASS_WEIGHTS = {
    # Each is called with the pixels of each class, and with the pixels of all images in which it occurs.
    'median_frequency': median_frequency_weights,
    'enet': enet_weights,
}
