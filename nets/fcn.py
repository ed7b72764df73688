"""FCN-32s, FCN-16s, FCN-8s, FCN-4s and FCN-2s over any backbone.

Long, Shelhamer, Darrell, "Fully Convolutional Networks for Semantic Segmentation", CVPR 2015, sections 3 and 4.
"""

import dataclasses
import functools

from nets.batch_norm import batch_norm_scope
from nets.dropout import dropout
from nets.geometry import bilinear_kernel, bilinear_upsample, centered, crop, mirrored_pad, spatial_size
from nets.network import Network
from utils.compat import slim, tf

SCOPE = 'fcn'  # variable scope of all layers but the backbone's
DEFAULT_SKIP = '8s'  # the paper's finest


def fcn(backbone):
  """Returns the Network record of the FCNs over a Backbone."""
  return Network(
      name=backbone.name,
      build=functools.partial(fcn_logits, backbone),
      weight_decay=4e-5,  # slim's value for Inception
      skips=backbone.skips,
      default_skip=DEFAULT_SKIP,
      options=('decoder_channels', 'input_scale'),
      pretrained=backbone.pretrained or backbone.name,
      pretrained_scopes=backbone.scopes,
      pretrained_batch_norm=backbone.batch_norm,
      most_bands=backbone.most_bands,
  )


def fcn_logits(backbone, images, num_classes, mode, *, skip=DEFAULT_SKIP, decoder_channels=0, input_scale=1.0):
  """Builds an FCN: the backbone's maps fused from coarse to fine, scored, and upsampled to the images' own size.

  Args:
    backbone: a Backbone.
    images: as of Network.logits.
    num_classes: number of classes.
    mode: a Mode. Dropout is before the coarsest score layer, and in VGG also behind fc6; by default it keeps the
      backbone's share.
    skip: one of the backbone's skips.
    decoder_channels: 0 for fused class scores alone, as in the paper; else the number of feature channels that are
      fused beside them, and whose scores on the finest map are added to them.
    input_scale: factor by which the images are resized before they enter the backbone.

  Returns:
    logits: float32 [B, H, W, num_classes]; a pixel belongs to the same pixel of the images.
    end_points: dict from name to activation: the backbone's, and `score_STRIDE` of each map scored.

  Raises:
    ValueError: if the backbone does not have this `skip`.
  """
  if skip not in backbone.skips:
    raise ValueError(f'skip={skip!r} is none of {", ".join(backbone.skips)}')
  # Shapes are given for Inception v3, skip 8s and train.py's crops of 319x415 pixels.
  size = spatial_size(images)  # (319, 415)
  images = _rescaled(images, input_scale)  # [B, 319, 415, 3]
  scaled = spatial_size(images)
  padded = tuple(_padded_size(backbone, length) for length in scaled)  # (331, 427)
  before = centered(scaled, padded)  # (6, 6)
  mode = dataclasses.replace(mode, dropout_keep_prob=mode.dropout_keep_prob or backbone.dropout_keep_prob)
  # Mixed_7c: [B, 9, 12, 2048], Mixed_6e: [B, 19, 25, 768], Mixed_5d: [B, 39, 51, 288]
  end_points = backbone.features(mirrored_pad(images, before, padded), mode)
  for tap in backbone.taps:
    if tap.scale != 1.0:
      end_points[tap.end_point] *= tap.scale

  taps = backbone.taps[:backbone.skips.index(skip) + 1]
  drop = functools.partial(dropout, keep_prob=mode.dropout_keep_prob, mode=mode)
  with tf.variable_scope(SCOPE), slim.arg_scope(
      [slim.conv2d], weights_regularizer=slim.l2_regularizer(mode.weight_decay)):
    score = _fused_scores(taps, end_points, num_classes, drop)  # [B, 39, 51, num_classes]
    if decoder_channels:
      with slim.arg_scope(batch_norm_scope(mode.is_training, mode.fold_batch_norm, decay=mode.batch_norm_decay)):
        features = _decoded(taps, end_points, decoder_channels)  # [B, 39, 51, decoder_channels]
      score += _score(features, num_classes, 'score_decoder')

  # Position of cell (0, 0) and distance of the cells, in pixels of the images as they came in.
  ratio = tuple(tf.cast(inner, tf.float32) / tf.cast(outer, tf.float32) for inner, outer in zip(scaled, size))
  first = tuple((taps[-1].first - tf.cast(offset, tf.float32) + 0.5) / r - 0.5 for offset, r in zip(before, ratio))
  return bilinear_upsample(score, tuple(taps[-1].stride / r for r in ratio), first, size), end_points


def _fused_scores(taps, end_points, num_classes, drop):
  """Scores every map, and adds the upsampled scores of the coarser one to each: the paper's skips.

  Score layers start at zero, as in the paper (section 4.2), so that a net with one more skip starts as the coarser one.

  Args:
    taps: Taps, the coarsest first.
    end_points: dict from name to features; the scores are added to the dict as `score_STRIDE`.
    num_classes: number of classes.
    drop: dropout, applied to the coarsest features.

  Returns:
    float [B, h, w, num_classes] on the cells of the last tap.
  """
  fused = None
  for coarser, tap in zip((None,) + taps, taps):
    features = end_points[tap.end_point]  # [B, h, w, C]
    # [B, h, w, num_classes]
    score = _score(drop(features) if coarser is None else features, num_classes, f'score_{tap.stride}')
    fused = score if coarser is None else score + _upscore(fused, coarser, tap, spatial_size(score))
    end_points[f'score_{tap.stride}'] = fused
  return fused


def _decoded(taps, end_points, channels):
  """Brings every map to the same number of channels and fuses them from coarse to fine.

  Adding laterals to upsampled features is as in Lin et al., "Feature Pyramid Networks", CVPR 2017, section 3.

  Args:
    taps: Taps, the coarsest first.
    end_points: dict from name to features.
    channels: number of channels.

  Returns:
    float [B, h, w, channels] on the cells of the last tap.
  """
  with slim.arg_scope([slim.conv2d], normalizer_params={'scale': True},
                      weights_initializer=slim.variance_scaling_initializer()):
    fused = None
    for coarser, tap in zip((None,) + taps, taps):
      # [B, h, w, channels], as all that follow
      lateral = slim.conv2d(end_points[tap.end_point], channels, 1, scope=f'lateral_{tap.stride}')
      if coarser is None:
        fused = lateral
      else:
        first = (coarser.first - tap.first) / tap.stride
        fused = lateral + bilinear_upsample(fused, 2, (first, first), spatial_size(lateral))
        fused = slim.conv2d(fused, channels, 3, scope=f'fuse_{tap.stride}')
  return fused


def _score(features, num_classes, scope):
  """Class scores of every cell, which start at zero: from [B, h, w, C] to [B, h, w, num_classes]."""
  return slim.conv2d(features, num_classes, 1, weights_initializer=tf.zeros_initializer(), activation_fn=None,
                     normalizer_fn=_add_biases, scope=scope)


def _rescaled(images, scale):
  """Resizes images by a factor, bilinearly, at least to one pixel."""
  if scale == 1.0:
    return images
  lengths = spatial_size(images)
  size = [max(round(length * scale), 1) if isinstance(length, int)
          else tf.maximum(tf.cast(tf.round(tf.cast(length, tf.float32) * scale), tf.int32), 1) for length in lengths]
  # The resizing of TensorFlow 2 samples at pixel centers; TensorFlow 1's shifts by up to half a pixel.
  return tf.compat.v2.image.resize(images, size, method='bilinear')


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
      weights_initializer=bilinear_kernel, scope=f'upscore_{fine.stride}')  # [B, 2h + kernel - 2, 2w + kernel - 2, C]
  start = int((kernel - 1) / 2 - shift)  # a VALID transposed convolution puts coarse cell i on 2i + (kernel - 1) / 2
  if start < 0:  # the fine map reaches a cell or two beyond the upscored map
    paddings = [[-start, length - inner + start] for length, inner in zip(size, spatial_size(upscored))]
    upscored, start = tf.pad(upscored, [[0, 0], *paddings, [0, 0]], 'SYMMETRIC'), 0
  return crop(upscored, (start, start), size)
