"""The training losses, over labeled pixels only, and class weights."""

import numpy as np

from utils.compat import tf
from utils.errors import UserError
from utils.labels import IGNORE_LABEL, median_frequency_weights
from utils.training.replicas import stacked, total, whole

SMOOTHING = 0.1  # share of a pixel's truth that smoothed cross-entropy spreads over all classes
OHEM_PROBABILITY = 0.7  # pixels whose true class has at most this probability are hard
OHEM_LEAST = 16  # keep at least 1/16 of the pixels, even if all are confident
LOVASZ_LEVELS = 1024  # errors are quantized to this many levels; within a level they are ties


def segmentation_loss(logits, labels, *, kind='cross_entropy', class_weights=None):
  """The loss over the labeled pixels of a batch; on several replicas, of the batch of all of them together.

  There every replica returns the loss of the whole batch, whose gradient is that of its own pixels.

  Args:
    logits: float32 [B, H, W, C].
    labels: int32 [B, H, W], label ids below C or IGNORE_LABEL, whose pixels add nothing and get no gradient.
    kind: a key of LOSSES, or several joined by `+`, for their sum.
    class_weights: float [C], or None for ones. Losses of single pixels (cross_entropy, ohem) are multiplied by
      the weight of the pixel's class; losses of whole classes (dice, lovasz) are averaged with these weights.

  Returns:
    float32 scalar; 0 for a batch without labeled pixels.

  Raises:
    UserError: if `kind` names a loss that does not exist.
  """
  functions = loss_functions(kind)
  labels = tf.cast(labels, tf.int64)  # GPUs have no kernels for most ops on int32, which would run on the host
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
      raise UserError(f'--loss={kind}: there is no loss {name!r}; valid are {", ".join(LOSSES)}, or several of these '
                      'joined by +')
  return [LOSSES[name] for name in names]


def cross_entropy(logits, ids, labelled, *, class_weights=None):
  """Softmax cross-entropy in nats, averaged over labeled pixels. All LOSSES have these arguments.

  Args:
    logits: float32 [B, H, W, C].
    ids: int64 [B, H, W], label ids below C; any valid id at unlabeled pixels.
    labelled: bool [B, H, W].
    class_weights: float32 [C] tensor, or None for ones.

  Returns:
    float32 scalar.
  """
  return _pixel_mean(_pixel_losses(logits, ids), ids, labelled, class_weights=class_weights)


def smoothed_cross_entropy(logits, ids, labelled, *, class_weights=None):
  """Cross-entropy with a truth of which SMOOTHING is spread evenly over the classes. Arguments: see `cross_entropy`.

  Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", CVPR 2016, section 7.
  """
  num_classes = logits.shape.as_list()[-1]
  truth = (1.0 - SMOOTHING) * _one_hot(ids, num_classes) + SMOOTHING / num_classes
  losses = tf.nn.softmax_cross_entropy_with_logits_v2(labels=tf.stop_gradient(truth), logits=logits)
  return _pixel_mean(losses, ids, labelled, class_weights=class_weights)


def ohem(logits, ids, labelled, *, class_weights=None):
  """Cross-entropy averaged over the hardest pixels: online hard example mining.

  Pixels whose true class has a probability of at most 0.7 are kept, or the hardest sixteenth if that is more. A
  threshold that gives way to a least number is the online bootstrapping of Wu et al., "Bridging Category-level and
  Instance-level Semantic Image Segmentation", arXiv:1605.06885; 0.7 and 1/16 are those of the common code for BiSeNet
  (OhemCELoss in github.com/CoinCheung/BiSeNet). The choice does not depend on `class_weights`. Arguments: see
  `cross_entropy`.
  """
  losses = _pixel_losses(logits, ids)
  ranked = tf.stop_gradient(tf.where(labelled, losses, -tf.ones_like(losses)))
  least = tf.maximum(tf.cast(total(tf.math.count_nonzero(labelled)), tf.int32) // OHEM_LEAST, 1)
  ranked_by_all = tf.reshape(stacked(ranked), [-1])
  most = tf.maximum(tf.size(ranked_by_all) // OHEM_LEAST, 1)  # as if all were labeled: a constant, which XLA needs
  bar = tf.math.top_k(ranked_by_all, most).values[least - 1]
  bar = tf.minimum(bar, -np.log(OHEM_PROBABILITY))
  return _pixel_mean(losses, ids, labelled & (ranked >= bar), class_weights=class_weights)


def dice(logits, ids, labelled, *, class_weights=None):
  """Soft Dice loss: mean over the classes in the batch's truth of 1 - 2 sum(p g) / (sum(p^2) + sum(g^2)).

  Milletari et al., "V-Net", 3DV 2016, section 3, for a single class. The mean over classes counts rare classes as much
  as frequent classes, as do the weights of Sudre et al., "Generalised Dice overlap", DLMIA 2017. Arguments: see
  `cross_entropy`.
  """
  probabilities, truth, labelled = _by_class(logits, ids, labelled)
  mask = tf.cast(labelled, tf.float32)[:, None]
  probabilities, truth = probabilities * mask, truth * mask
  pixels = total(tf.reduce_sum(truth, axis=0))
  overlaps = 2.0 * whole(tf.reduce_sum(probabilities * truth, axis=0))
  squares = whole(tf.reduce_sum(tf.square(probabilities), axis=0))
  losses = 1.0 - tf.math.divide_no_nan(overlaps, squares + pixels)
  return tf.reduce_sum(losses * _class_shares(pixels, class_weights))


def lovasz(logits, ids, labelled, *, class_weights=None):
  """Lovasz-softmax: the convex extension of 1 - IoU to probabilities, over the classes in the batch's truth.

  Berman et al., "The Lovasz-Softmax loss", CVPR 2018, over the whole batch. The loss of a class is the sum over pixels,
  from the greatest error |g - p| to the least, of the error times the pixel's increment of 1 - IoU. Errors are ranked
  by counting them at LOVASZ_LEVELS levels, in a seventh of the time of sorting; the pixels of a level share their
  increments. Arguments: see `cross_entropy`.
  """
  probabilities, truth, labelled = _by_class(logits, ids, labelled)
  num_classes = logits.shape.as_list()[-1]
  shape = [num_classes, 2, LOVASZ_LEVELS]  # bins by class, by truth, by level of p; void goes into one bin more
  size = int(np.prod(shape))
  levels = tf.cast(probabilities * (LOVASZ_LEVELS - 1.0) + 0.5, tf.int32)
  # The level of a NaN is negative: the count would fail before LogHook names the loss. Numbers of bins are float32, in
  # which they are exact: GPUs have no such kernels for int32.
  levels = tf.maximum(tf.cast(levels, tf.float32), 0.0)
  bins = levels + LOVASZ_LEVELS * (truth + 2.0 * np.arange(num_classes))
  bins = tf.where_v2(labelled[:, None], bins, float(size))
  counts = tf.raw_ops.DenseBincount(  # tf.math.bincount looks for the highest bin first, on the host
      input=tf.cast(tf.reshape(bins, [-1]), tf.int32), size=size, weights=tf.constant([]), binary_output=False)
  counts = total(tf.reshape(counts, shape))
  # The error is p in the background, and 1 - p, whose levels run the other way, in the foreground.
  background, foreground = counts[:, 0], tf.reverse(counts[:, 1], [-1])
  shares = _class_shares(tf.reduce_sum(foreground, axis=-1), class_weights)[:, None]
  added_background, added_foreground = (shares * added for added in _jaccard_steps(background, foreground))
  slopes = tf.reshape(tf.stack([added_background, -tf.reverse(added_foreground, [-1])], axis=1), [-1])
  slopes = tf.stop_gradient(tf.gather(tf.concat([slopes, [0.0]], axis=0), tf.cast(bins, tf.int32)))
  return tf.reduce_sum(added_foreground * foreground) + whole(tf.reduce_sum(probabilities * slopes))


def _jaccard_steps(background, foreground):
  """Increments of 1 - IoU by a pixel of each level, when pixels turn wrong level by level, from the highest.

  Pixels of a level turn wrong together: each gets the mean of two increments, with the level's foreground first and
  with its background first.

  Args:
    background: float32 [C, L], numbers of background pixels.
    foreground: float32 [C, L], numbers of foreground pixels.

  Returns:
    two float32 [C, L], for a background pixel and for a foreground pixel.
  """
  wrong_after = [tf.cumsum(counts, axis=-1, reverse=True) for counts in (background, foreground)]
  wrong_before = [after - counts for after, counts in zip(wrong_after, (background, foreground))]
  pixels = tf.maximum(wrong_after[1][:, :1], 1.0)  # pixels of the class
  union_before, union_after = pixels + wrong_before[0], pixels + wrong_after[0]
  right = pixels - 0.5 * (wrong_before[1] + wrong_after[1])
  return right / (union_before * union_after), 0.5 / union_before + 0.5 / union_after


def _pixel_losses(logits, ids):
  return tf.nn.sparse_softmax_cross_entropy_with_logits(labels=ids, logits=logits)


def _pixel_mean(losses, ids, mask, *, class_weights):
  """Mean over the pixels in `mask` of the losses, times their class weights if given; 0 for an empty mask."""
  weights = tf.cast(mask, tf.float32)
  count = tf.maximum(total(tf.reduce_sum(weights)), 1.0)
  if class_weights is not None:
    weights *= tf.gather(class_weights, ids)
  return whole(tf.reduce_sum(losses * weights)) / count


def _by_class(logits, ids, labelled):
  """Returns probabilities float32 [P, C], the one-hot truth float32 [P, C], and `labelled` as bool [P]."""
  num_classes = logits.shape.as_list()[-1]
  # With --precision=bfloat16 the graph rewriter would run a softmax and the ops after it in bfloat16, but not an exp.
  probabilities = tf.exp(tf.nn.log_softmax(tf.reshape(logits, [-1, num_classes])))
  return probabilities, _one_hot(tf.reshape(ids, [-1]), num_classes), tf.reshape(labelled, [-1])


def _one_hot(ids, num_classes):
  """The one-hot truth float32 [..., C] of label ids, whose range is checked: tf.one_hot accepts any id."""
  with tf.control_dependencies([tf.debugging.assert_less(tf.cast(tf.reduce_max(ids), tf.int32), num_classes)]):
    return tf.one_hot(ids, num_classes)


def _class_shares(pixels, class_weights):
  """Weights of the classes in a mean over the classes with pixels: float32 [C] that sums to 1, or all 0."""
  weights = tf.cast(pixels > 0, tf.float32)
  if class_weights is not None:
    weights *= class_weights
  return tf.math.divide_no_nan(weights, tf.reduce_sum(weights))


LOSSES = {
    # Name -> function, see cross_entropy for its arguments.
    'cross_entropy': cross_entropy,
    'smoothed_cross_entropy': smoothed_cross_entropy,
    'ohem': ohem,
    'dice': dice,
    'lovasz': lovasz,
}


def enet_weights(class_pixels, class_image_pixels=None):
  """Weights 1 / ln(1.02 + p) for a class of frequency p: from 1.4 for all pixels to 50 for the rarest class.

  ENet (Paszke et al., arXiv:1606.02147), section 5.2.

  Args:
    class_pixels: int [C], pixels of each class.
    class_image_pixels: unused, but an argument of all CLASS_WEIGHTS.

  Returns:
    float64 [C]; 0 for a class without pixels, as in the authors' code.
  """
  del class_image_pixels
  pixels = np.asarray(class_pixels, np.float64)
  frequency = pixels / max(pixels.sum(), 1.0)
  return np.where(pixels > 0, 1.0 / np.log(1.02 + frequency), 0.0)


CLASS_WEIGHTS = {
    # Name -> function, see median_frequency_weights for its arguments.
    'median_frequency': median_frequency_weights,
    'enet': enet_weights,
}
