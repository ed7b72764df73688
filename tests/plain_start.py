"""Weights that make an encoder-decoder pass pixels on as they are, so that a test knows the logits in advance."""

import contextlib

import numpy as np

from utils.compat import tf


def _central(shape, dtype=tf.float32, partition_info=None):
  """Kernels that copy the cell in their middle, channel by channel; outputs beyond the inputs copy the last channel."""
  del partition_info
  kernel = np.zeros(shape)
  for channel in range(shape[3]):
    kernel[shape[0] // 2, shape[1] // 2, min(channel, shape[2] - 1), channel] = 1
  return tf.constant(kernel, dtype)


@contextlib.contextmanager
def plain_start():
  """A variable scope in which convolutions copy and batch norms, at their moving averages, do next to nothing."""

  def getter(getter, name, initializer=None, **options):
    return getter(name, initializer=_central if name.endswith('weights') else initializer, **options)

  with tf.variable_scope(tf.get_variable_scope(), custom_getter=getter):
    yield


def bright_pixels(network, size, pixel, background):
  """Pixels whose logits exceed half of the maximum, for an image of one color with one white pixel.

  Args:
    network: a Network.
    size: (height, width) of the image.
    pixel: (row, column) of the white pixel.
    background: RGB of the other pixels.

  Returns:
    list of (row, column).
  """
  image = np.tile(np.array(background, np.float32), (1, *size, 1))
  image[0, pixel[0], pixel[1]] = 255
  with plain_start():
    logits, _ = network.logits(tf.constant(image), 1)
  with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    value = session.run(logits)[0, :, :, 0]
  assert value.max() > 0
  return [tuple(place) for place in np.argwhere(value > value.max() / 2).tolist()]
