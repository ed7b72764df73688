"""Dynamic loss scaling for float16: gradients are computed of the loss times a scale, so that small ones do not vanish.

Micikevicius et al., "Mixed Precision Training", ICLR 2018, section 3.2. The scale doubles after GROWTH_STEPS finite
steps in a row and halves at a step whose gradient is not finite, which then changes no weight. It is a power of two, so
that scaling and unscaling round nothing; it is kept in the checkpoint.
"""

import collections
import math

from utils.compat import tf

SCOPE = 'loss_scale'
INITIAL, SMALLEST, LARGEST = 2.0**15, 1.0, 2.0**24
GROWTH_STEPS = 2000
MOST_LEFT_OUT = int(math.log2(LARGEST))  # halvings in a row after which the scale is 1 for certain, and does not help

LossScale = collections.namedtuple('LossScale', [
    'scale',  # float32 variable, the scale of the next step
    'good_steps',  # int32 variable, steps in a row with finite gradients since the scale changed
    'left_out',  # int32 variable, steps of the run that were left out
])


def loss_scale():
  """Creates a LossScale."""

  def variable(name, value):
    return tf.get_variable(name, initializer=value, trainable=False)

  with tf.variable_scope(SCOPE):
    return LossScale(variable('scale', tf.constant(INITIAL)), variable('good_steps', 0), variable('left_out', 0))


def adjusted(state, *, finite):
  """Returns the op that adjusts a scale after a step.

  Args:
    state: a LossScale.
    finite: bool scalar tensor, whether the step's gradients were finite.
  """
  scale, good = state.scale.read_value(), state.good_steps.read_value() + 1
  grows = good >= GROWTH_STEPS
  after_good = tf.where(grows, tf.minimum(2.0 * scale, LARGEST), scale)
  after_bad = tf.maximum(scale / 2.0, SMALLEST)
  return tf.group(
      state.scale.assign(tf.where(finite, after_good, after_bad)),
      state.good_steps.assign(tf.where(finite & ~grows, good, 0)),
      state.left_out.assign_add(1 - tf.cast(finite, tf.int32)))


def unscaled(gradients, scale):
  """Divides gradients (tensors, or None) by a scale, which is None for no scaling."""
  if scale is None:
    return gradients
  return [None if gradient is None else gradient / scale for gradient in gradients]
