"""2x2 max pooling that remembers the positions of the maxima, and unpooling that puts values back there."""

import collections

from nets.geometry import spatial_size
from utils.compat import tf

_WINDOW = {'ksize': [1, 2, 2, 1], 'strides': [1, 2, 2, 1], 'padding': 'SAME'}

# The tensors of a pooling that max_unpool needs: the positions of the maxima follow from both; `portable` of max_pool.
PoolToken = collections.namedtuple('PoolToken', ['features', 'pooled', 'portable'])


def max_pool(features, portable=False):
  """Pools windows of 2x2 pixels; at odd sizes the last row and column of windows hold fewer pixels.

  Args:
    features: float [B, H, W, C], any H and W from 1, known or not.
    portable: whether unpooling is built from ops that other engines than TensorFlow have: for export, not for training.

  Returns:
    pooled: [B, ceil(H / 2), ceil(W / 2), C].
    token: PoolToken for `max_unpool`.
  """
  pooled = tf.nn.max_pool2d(features, 2, 2, 'SAME')
  return pooled, PoolToken(features, pooled, portable)


def max_unpool(values, token):
  """Puts values where a pooling found its maxima and zeros elsewhere; of equal maxima, one position gets the value.

  The gradient of max pooling does the same with a gradient, and in TensorFlow it is much faster than scattering by
  index. Backward, unpooling gathers the gradient at those positions; the pooled features get none.

  Args:
    values: float [B, h, w, C], of the shape of the pooled features.
    token: PoolToken from `max_pool`.

  Returns:
    [B, H, W, C], the shape of the features before pooling.

  Raises:
    ValueError: if the values have another number of channels than the pooled features.
  """
  if values.shape[3] != token.pooled.shape[3]:
    raise ValueError(f'{values.shape[3]} channels cannot be put where the maxima of {token.pooled.shape[3]} were')
  unpool = _portable_unpool if token.portable else _unpool
  return unpool(values, token.features, token.pooled)


@tf.custom_gradient
def _unpool(values, features, pooled):
  """`max_unpool` with the token's parts as arguments, by which TensorFlow sees that no variable is involved."""

  def gradient(upstream):
    # Each window has one position, so a sum over it picks. TensorFlow's own gradient of MaxPoolGrad is slower, and with
    # the graph rewriter's bfloat16 it can lose positions: it looks for them by comparing values.
    mask = tf.raw_ops.MaxPoolGrad(orig_input=features, orig_output=pooled, grad=tf.ones_like(pooled), **_WINDOW)
    return _sum_pool(upstream * mask), None, None

  return tf.raw_ops.MaxPoolGrad(orig_input=features, orig_output=pooled, grad=values, **_WINDOW), gradient


def _portable_unpool(values, features, pooled):
  """`_unpool`, to the bit: compares the pixels of each window with its maximum; of equal ones, the first is meant."""
  rows, columns = spatial_size(features)
  height, width = spatial_size(pooled)
  padded = tf.pad(features, [[0, 0], [0, 2 * height - rows], [0, 2 * width - columns], [0, 0]],
                  constant_values=features.dtype.min)
  placed, taken = [], tf.zeros_like(pooled, tf.bool)
  for row, column in ((0, 0), (0, 1), (1, 0), (1, 1)):
    found = tf.equal(padded[:, row::2, column::2, :], pooled) & ~taken  # [B, height, width, C]
    placed.append(tf.where(found, values, tf.zeros_like(values)))
    taken |= found
  return tf.depth_to_space(tf.concat(placed, axis=3), 2)[:, :rows, :columns, :]


def _sum_pool(features):
  """Sums of windows of 2x2 pixels, of fewer pixels at the ends of odd sizes."""
  rows, columns = (length % 2 for length in spatial_size(features))
  # Padded, all windows hold four pixels: TensorFlow's average of fewer pixels divides by their number.
  return 4.0 * tf.nn.avg_pool2d(tf.pad(features, [[0, 0], [0, rows], [0, columns], [0, 0]]), 2, 2, 'VALID')
