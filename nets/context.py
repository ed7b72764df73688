"""Modules that let every cell of a coarse map see its wider surroundings, and the whole image.

Their layers take what the slim.arg_scope around them says, batch norms above all; but those of pooled maps, which have
one to a few dozen cells an image, have biases instead: too few for the statistics of a small batch. ReLUs and weights
after He et al. are set here.
"""

import contextlib

from nets.geometry import bilinear_upsample, resampled, spatial_size
from utils.compat import slim, tf

SCOPE = 'context'
# Pixels from a dilated kernel's centre to its other taps. DeepLabv3 (section 4) dilates by 6, 12 and 18 cells of 16
# pixels, for crops of 513 pixels. Two thirds of it are in proportion to images of 360 rows, of whose 22 rows of cells a
# kernel dilated by 18 would see little but its centre (its Figure 4); and whole cells at strides 32, 16 and 8.
ASPP_REACHES = (64, 128, 192)
PSP_BINS = (1, 2, 3, 6)  # PSPNet, section 3.2


def aspp(features, channels, *, stride, reaches=ASPP_REACHES):
  """Atrous spatial pyramid pooling: 1x1, dilated 3x3 and the image's mean, side by side, fused by 1x1.

  Chen, Papandreou, Schroff, Adam, "Rethinking Atrous Convolution for Semantic Image Segmentation" (DeepLabv3), 2017,
  section 3.3. The mean is over all of the map, so that a part of an image gives other features than the whole.

  Args:
    features: float32 [B, h, w, C], h and w from 1, known or not.
    channels: number of channels of each branch and of the result.
    stride: image pixels between two cells.
    reaches: pixels by which the taps of each dilated kernel are apart, whole multiples of the stride at best.

  Returns:
    float32 [B, h, w, channels].
  """
  with _scope():
    branches = [slim.conv2d(features, channels, 1, scope='cell')]
    for reach in reaches:
      branches.append(slim.conv2d(features, channels, 3, rate=max(reach // stride, 1), scope=f'reach_{reach}'))
    mean = tf.reduce_mean(features, axis=(1, 2), keepdims=True)
    mean = slim.conv2d(mean, channels, 1, normalizer_fn=None, scope='image')
    branches.append(tf.broadcast_to(mean, tf.shape(branches[0])))
    return slim.conv2d(tf.concat(branches, axis=3), channels, 1, scope='fuse')


def psp(features, channels, *, stride, bins=PSP_BINS):
  """Pyramid pooling: means of 1x1, 2x2, 3x3 and 6x6 bins, upsampled beside the features, fused by 3x3.

  Zhao, Shi, Qi, Wang, Jia, "Pyramid Scene Parsing Network", CVPR 2017, section 3.2. Each level is reduced to 1/N of the
  channels, N being the number of levels. The bins are parts of the map: a part of an image gives other features than
  the whole.

  Args:
    features: float32 [B, h, w, C], h and w from 1, known or not.
    channels: number of channels of the result, and of all levels together.
    stride: unused; the bins follow the map's size.
    bins: bins along each axis, of each level.

  Returns:
    float32 [B, h, w, channels].
  """
  del stride
  size = spatial_size(features)
  levels = [features]
  with _scope():
    for count in bins:
      pooled = slim.conv2d(bin_means(features, count), max(channels // len(bins), 1), 1, normalizer_fn=None,
                           scope=f'bins_{count}')
      width = tuple(tf.cast(length, tf.float32) / count for length in size)
      levels.append(bilinear_upsample(pooled, width, tuple(w / 2 - 0.5 for w in width), size))
    return slim.conv2d(tf.concat(levels, axis=3), channels, 3, scope='fuse')


def bin_means(features, bins):
  """Means of bins x bins equal parts of a map, as one matrix product along each axis.

  Args:
    features: float [B, h, w, C]; h and w need be neither multiples of `bins` nor as many.
    bins: bins along each axis.

  Returns:
    float [B, bins, bins, C]; their mean is the map's.
  """
  rows, columns = spatial_size(features)
  return resampled(features, binning_matrix(rows, bins), binning_matrix(columns, bins), (bins, bins))


def binning_matrix(cells, bins):
  """Weights by which the cells of a row or column make up the means of equal bins; a cell may lie in several in part.

  Args:
    cells: number of cells, an int or a scalar tensor.
    bins: number of bins.

  Returns:
    float32 [bins, cells]; every row sums to one.
  """
  width = tf.cast(cells, tf.float32) / bins
  start = width * tf.range(bins, dtype=tf.float32)[:, None]
  cell = tf.cast(tf.range(cells), tf.float32)[None, :]
  return tf.maximum(tf.minimum(start + width, cell + 1) - tf.maximum(start, cell), 0.0) / width


@contextlib.contextmanager
def _scope():
  """The variable scope of a context, and what its layers have in common."""
  with tf.variable_scope(SCOPE), slim.arg_scope(
      [slim.conv2d], activation_fn=tf.nn.relu, weights_initializer=slim.variance_scaling_initializer()):
    yield


# What `--context` knows: `context(features, channels, *, stride)` -> features on the same cells.
CONTEXTS = {'aspp': aspp, 'psp': psp}
