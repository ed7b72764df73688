"""Pixel geometry that fully convolutional networks share: mirrored padding and bilinear upsampling, for any size."""

import numpy as np

from utils.compat import tf

RESAMPLE_COLUMNS, RESAMPLE_ROWS = 'resample_columns', 'resample_rows'  # names of bilinear_upsample's matrix products


def spatial_size(tensor):
  """Returns (height, width) of a [B, H, W, C] tensor, each an int where it is known and a scalar tensor elsewhere."""
  static = tensor.shape.as_list()[1:3]
  dynamic = tf.shape(tensor)
  return tuple(dynamic[axis + 1] if size is None else size for axis, size in enumerate(static))


def centered(inner, outer):
  """Returns (row, column) of the first pixel of an area of size `inner` in the middle of one of size `outer`.

  Args:
    inner: (height, width), each an int or a scalar tensor.
    outer: the same, each at least as large.
  """
  return tuple((total - length) // 2 for length, total in zip(inner, outer))


def crop(features, first, size):
  """Cuts [B, size[0], size[1], C] out of [B, H, W, C], from cell `first` (row, column)."""
  return features[:, first[0]:first[0] + size[0], first[1]:first[1] + size[1], :]


def mirrored_pad(images, before, size):
  """Pads images by reflecting them at their border pixels, as often as it takes (a 1-pixel image repeats its pixel).

  Args:
    images: [B, H, W, C].
    before: pixels to add before the first (row, column).
    size: (height, width) after padding; each at least `before` + the images' own.

  Returns:
    [B, size[0], size[1], C] of the images' type.
  """
  for axis, length in enumerate(spatial_size(images)):
    period = tf.maximum(2 * (length - 1), 1)
    offset = tf.abs(tf.range(size[axis]) - before[axis]) % period
    images = tf.gather(images, tf.minimum(offset, period - offset) % tf.maximum(length, 1), axis=axis + 1)
  height, width = (length if isinstance(length, int) else None for length in size)
  images.set_shape([None, height, width, None])
  return images


def upsampling_matrix(cells, stride, first, size):
  """Weights by which the cells of a coarse map make up the pixels of a row or column, bilinearly.

  Column i is the triangle of half-width `stride` around cell i's center: the kernel of the bilinear transposed
  convolution of the FCN paper (section 3.3). Pixels beyond the outermost centers, which such a convolution lets fade
  to zero, take the outermost cell's value: their weights are scaled to sum to one.

  Args:
    cells: number of cells.
    stride: pixels between two cells.
    first: position of cell 0's center, in pixels from pixel 0; may be fractional or outside.
    size: number of pixels.

  Returns:
    float32 [size, cells]; every row sums to one.
  """
  pixel = tf.cast(tf.range(size), tf.float32)
  center = first + stride * tf.cast(tf.range(cells), tf.float32)
  pixel = tf.clip_by_value(pixel, center[0], center[-1])
  return tf.maximum(0.0, 1.0 - tf.abs(pixel[:, None] - center[None, :]) / stride)


def bilinear_upsample(scores, stride, first, size):
  """Upsamples a coarse map to pixels: a bilinear transposed convolution, as one matrix product along each axis.

  Args:
    scores: float [B, h, w, C].
    stride: pixels between two cells, one number or (along a column, along a row).
    first: (row, column) of the center of cell (0, 0), in pixels of the output.
    size: (height, width) of the output.

  Returns:
    float [B, size[0], size[1], C].
  """
  rows, columns = spatial_size(scores)
  strides = stride if isinstance(stride, tuple) else (stride, stride)
  vertical = upsampling_matrix(rows, strides[0], first[0], size[0])
  horizontal = upsampling_matrix(columns, strides[1], first[1], size[1])
  channels = scores.shape.as_list()[3]
  # Along rows first: where a map grows, they are still few. tf.einsum would transpose, and take twice the time.
  # wide: [B * h, size[1], C]; tall: [B, size[0], size[1] * C].
  wide = tf.matmul(horizontal, tf.reshape(scores, [-1, columns, channels]), name=RESAMPLE_COLUMNS)
  tall = tf.matmul(vertical, tf.reshape(wide, [-1, rows, size[1] * channels]), name=RESAMPLE_ROWS)
  return tf.reshape(tall, [-1, *size, channels])


def bilinear_kernel(shape, dtype=tf.float32, partition_info=None):
  """Initializer that makes a transposed convolution with stride 2 interpolate bilinearly, each class by itself.

  Args:
    shape: (k, k, classes out, classes in) with k = 3 (centered on a cell) or 4 (centered between cells).
    dtype: of the result.
    partition_info: ignored; part of an initializer's signature.
  """
  del partition_info
  size = shape[0]
  triangle = 1 - np.abs(np.arange(size) - (size - 1) / 2) / 2
  kernel = triangle[:, None, None, None] * triangle[None, :, None, None] * np.eye(shape[2], shape[3])
  return tf.constant(kernel, dtype)
