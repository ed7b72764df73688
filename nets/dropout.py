"""Dropout of all networks: features times a mask, in ops that layout optimizer, XLA and mixed precision pass through.

slim's and TensorFlow's own end in SelectV2 with a scalar, at which the layout optimizer gives up on the whole graph.
"""

import re
import zlib

from utils.compat import tf


def dropout(features, keep_prob, *, mode, scope='dropout', whole_channels=False):
  """Sets a random share of the features to zero and scales up the others, so that the expected sum stays.

  Args:
    features: float [B, H, W, C].
    keep_prob: share of the features that are kept, above 0 to 1.
    mode: a Mode: whether it drops, and by which seed.
    scope: name scope of the ops.
    whole_channels: whether channels of an image are dropped as a whole: Tompson et al., "Efficient Object
      Localization", CVPR 2015, section 3.2.

  Returns:
    float [B, H, W, C]; `features` themselves where nothing is dropped.
  """
  if not mode.drops or keep_prob == 1:
    return features
  with tf.name_scope(scope) as name:
    known, shape = features.shape.as_list(), tf.shape(features)
    kept = [1 if whole_channels and axis in (1, 2) else shape[axis] if length is None else length
            for axis, length in enumerate(known)]
    # Floor of keep_prob + [0, 1): 1 for the share keep_prob, else 0.
    mask = tf.floor(keep_prob + _uniform(kept, name, mode)) * (1 / keep_prob)
    return tf.multiply(features, mask, name='dropped')


def _uniform(shape, name, mode):
  """float32 of a shape in [0, 1): from (seed, step) and the layer's name, or without them from TensorFlow's own state.

  A second build of a layer, for another part of the batch, has another name and so another mask. A replica takes its
  own examples' share of the mask of all. The numbers are those of tf.random.stateless_uniform: the low 23 of 32 random
  bits. XLA draws the same bits, but takes the high ones.
  """
  if mode.dropout_seed is None:
    return tf.random.uniform(shape)
  run, step = mode.dropout_seed
  name = re.sub(r'^replica_\d+/', '', name)  # the scope in which tf.distribute builds all replicas but the first
  layer = zlib.crc32(f'{run} {name}'.encode()) >> 1  # fits in an int32
  number, count = mode.replica
  bits = tf.random.stateless_uniform([count * shape[0], *shape[1:]], tf.stack([layer, step]), minval=None, maxval=None,
                                     dtype=tf.int32)
  if count > 1:
    bits = bits[number * shape[0]:(number + 1) * shape[0]]
  mantissa = tf.bitwise.bitwise_and(bits, 0x7FFFFF)
  return tf.bitcast(tf.bitwise.bitwise_or(mantissa, 0x3F800000), tf.float32) - 1.0  # from [1, 2)
