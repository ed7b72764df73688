"""FCN-32s, FCN-16s and FCN-8s over any backbone.

Long, Shelhamer, Darrell, "Fully Convolutional Networks for Semantic Segmentation", CVPR 2015, sections 3 and 4.
"""

import functools

from nets.geometry import bilinear_kernel, bilinear_upsample, mirrored_pad, spatial_size
from nets.network import Network
from utils.compat import slim, tf

SKIPS = ('32s', '16s', '8s')  # number of taps used: 1, 2, 3
SCOPE = 'fcn'  # variable scope of all that is not the backbone's


def fcn(backbone):
  """Returns the Network record of the FCNs over a Backbone."""
  return Network(
      name=backbone.name,
      logits=functools.partial(fcn_logits, backbone),
      skips=SKIPS,
      pretrained=backbone.name,
      pretrained_scopes=backbone.scopes,
      pretrained_batch_norm=backbone.batch_norm,
  )


def fcn_logits(backbone, images, num_classes, is_training, *, skip=SKIPS[-1], dropout=None, dropout_keep_prob=None,
               freeze_batch_norm=False, batch_norm_decay=0.99, weight_decay=4e-5):
  """Builds an FCN: score layers on the taps, fused from coarse to fine, upsampled to the images' own size.

  Score layers start at zero, as in the paper (section 4.2), so that a net with one more skip starts as the coarser one.

  Args:
    backbone: a Backbone.
    images: float32 [B, H, W, 3], RGB in 0..255, any H and W from 1, known or not.
    num_classes: number of classes.
    is_training: whether batch norm, unless frozen, uses the batch's statistics.
    skip: one of SKIPS.
    dropout: whether dropout drops; None: as `is_training`.
    dropout_keep_prob: kept by dropout; None: the backbone's value.
    freeze_batch_norm: keep batch norm at its moving averages while training; its offsets are trained all the same.
    batch_norm_decay: decay of the moving averages. slim's 0.9997 takes ten thousand steps to forget its start.
    weight_decay: weight of the L2 loss on convolution weights, slim's value for Inception.

  Returns:
    logits: float32 [B, H, W, num_classes]; a pixel belongs to the same pixel of the images.
    end_points: dict from name to activation: the backbone's, and `score_STRIDE` of each tap used.

  Raises:
    ValueError: if `skip` is none of SKIPS.
  """
  if skip not in SKIPS:
    raise ValueError(f'skip={skip!r} is none of {", ".join(SKIPS)}')
  size = spatial_size(images)
  padded = tuple(_padded_size(backbone, length) for length in size)
  before = tuple((total - length) // 2 for total, length in zip(padded, size))
  dropout = is_training if dropout is None else dropout
  dropout_keep_prob = dropout_keep_prob or backbone.dropout_keep_prob
  end_points = backbone.features(
      mirrored_pad(images, before, padded), is_training, freeze_batch_norm=freeze_batch_norm,
      batch_norm_decay=batch_norm_decay, weight_decay=weight_decay, dropout=dropout,
      dropout_keep_prob=dropout_keep_prob)

  taps = backbone.taps[:SKIPS.index(skip) + 1]
  with tf.variable_scope(SCOPE), slim.arg_scope(
      [slim.conv2d], weights_initializer=tf.zeros_initializer(), activation_fn=None, normalizer_fn=_add_biases,
      weights_regularizer=slim.l2_regularizer(weight_decay)):
    fused = None
    for coarser, tap in zip((None,) + taps, taps):
      features = end_points[tap.end_point]
      if tap.scale != 1.0:
        features *= tap.scale
      if coarser is None:
        features = slim.dropout(features, dropout_keep_prob, is_training=dropout, scope='dropout')
      score = slim.conv2d(features, num_classes, 1, scope=f'score_{tap.stride}')
      fused = score if coarser is None else score + _upscore(fused, coarser, tap, spatial_size(score))
      end_points[f'score_{tap.stride}'] = fused
    first = tuple(taps[-1].first - tf.cast(offset, tf.float32) for offset in before)
    logits = bilinear_upsample(fused, taps[-1].stride, first, size)
  return logits, end_points


def _padded_size(backbone, length):
  """The smallest valid input size that holds `length` pixels and the margin on both sides; int or tensor, as given."""
  step, base = backbone.size_step, backbone.size_base
  steps = (length + 2 * backbone.margin - base + step - 1) // step
  steps = max(steps, 1) if isinstance(steps, int) else tf.maximum(steps, 1)
  return base + step * steps


def _add_biases(scores):
  """Adds the biases of a score layer: a sum, because TensorFlow fuses the gradient of slim's BiasAdd with the weights'.

  oneDNN's gradient of both at once in bfloat16 writes past the end of the biases, and crashes, where more than 2048
  channels go into less than 16 classes, as on VGG's fc7 (tensorflow 2.21, brgconv_bwd_w:avx10_1_512_amx).
  """
  return scores + slim.model_variable('biases', scores.shape[-1:], initializer=tf.zeros_initializer())


def _upscore(scores, coarse, fine, size):
  """Doubles the resolution of `scores` by a learned transposed convolution that starts as bilinear interpolation.

  Args:
    scores: float [B, h, w, C] on the cells of the Tap `coarse`.
    coarse: Tap of the scores.
    fine: Tap of half the stride, on whose cells the result lies.
    size: (height, width) of the fine map.

  Returns:
    float [B, size[0], size[1], C].
  """
  shift = (coarse.first - fine.first) / fine.stride  # coarse cell i lies on fine cell 2i + shift
  kernel = 3 if shift == int(shift) else 4
  num_classes = scores.shape.as_list()[3]
  upscored = slim.conv2d_transpose(
      scores, num_classes, kernel, stride=2, padding='VALID', activation_fn=None, biases_initializer=None,
      weights_initializer=bilinear_kernel, scope=f'upscore_{fine.stride}')
  start = int((kernel - 1) / 2 - shift)  # a VALID transposed convolution puts coarse cell i on 2i + (kernel - 1) / 2
  return upscored[:, start:start + size[0], start:start + size[1], :]
