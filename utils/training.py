"""One step of training, as a function of a batch: loss, gradients, Adam."""

import collections

from utils.compat import tf
from utils.errors import UserError
from utils.losses import segmentation_loss

SCHEDULES = {
    # The factor on the base rate as a function of how much of the run is done, 0..1.
    'constant': tf.ones_like,
    'step': lambda progress: tf.pow(0.1, tf.floor(progress * 3.0)),  # a tenth after each third of the run
    'poly': lambda progress: tf.pow(1.0 - progress, 0.9),  # power as in Chen et al., "DeepLab", PAMI 2018, section 4.1
}

StepOutputs = collections.namedtuple('StepOutputs', [
    'loss',  # cross-entropy, averaged over labelled pixels; depends on the update, so that fetching it trains
    'weight_loss',  # L2 of the weights
    'learning_rate',  # of the pretrained layers
    'gradient_norm',  # of all gradients together, before clipping; where it is not finite, no weight is changed
    'gradients',  # list of (gradient, variable), after clipping
    'predictions',  # int32 [B, H, W]
])


def learning_rate(step, *, schedule, base, max_steps, warmup_steps=0):
  """The learning rate of a step.

  Args:
    step: int64 scalar tensor, 0 at the first step.
    schedule: a key of SCHEDULES.
    base: highest rate.
    max_steps: length of the run.
    warmup_steps: number of steps over which the rate rises linearly from nothing.

  Returns:
    float32 scalar tensor.
  """
  step = tf.cast(step, tf.float32)
  rate = base * SCHEDULES[schedule](tf.minimum(step / max_steps, 1.0))
  if warmup_steps:
    rate *= tf.minimum((step + 1.0) / warmup_steps, 1.0)
  return rate


def trainable_variables(scopes):
  """The trainable variables under `scopes`, all of them if there are none given.

  Raises:
    UserError: if a scope matches no variable.
  """
  if not scopes:
    return tf.trainable_variables()
  variables = []
  for scope in scopes:
    under = [v for v in tf.trainable_variables() if v.op.name == scope or v.op.name.startswith(scope.rstrip('/') + '/')]
    if not under:
      tops = sorted({v.op.name.split('/')[0] for v in tf.trainable_variables()})
      raise UserError(f'--trainable_scopes: no trainable variable is under {scope!r}; the outermost scopes are '
                      f'{", ".join(tops)}')
    variables += [v for v in under if v not in variables]
  return variables


def make_step(logits_fn, *, rate, pretrained_scopes, new_layers_rate=1.0, scopes=(), class_weights=None, clip_norm=0.0,
              adam_epsilon=1e-8):
  """Returns `step(batch)`, which builds one training step.

  Args:
    logits_fn: `logits_fn(images)` -> (logits, end_points), in training mode.
    rate: scalar tensor, the learning rate.
    pretrained_scopes: scopes that learn at `rate`; the others are new layers.
    new_layers_rate: factor on the rate of the new layers.
    scopes: scopes to train; empty for all.
    class_weights: as of losses.segmentation_loss.
    clip_norm: greatest norm of all gradients together; 0 for no limit.
    adam_epsilon: Adam's epsilon.

  Returns:
    `step(batch)` -> StepOutputs, for a batch as of datasets.pipeline. It advances the global step.
  """

  def step(batch):
    logits, _ = logits_fn(batch['image'])
    loss = segmentation_loss(logits, batch['label'], class_weights=class_weights)
    weight_loss = tf.add_n(tf.losses.get_regularization_losses() or [tf.constant(0.0)])
    variables = trainable_variables(scopes)
    gradients = tf.gradients(loss + weight_loss, variables)
    gradient_norm = tf.linalg.global_norm(gradients)
    if clip_norm:
      gradients, _ = tf.clip_by_global_norm(gradients, clip_norm, use_norm=gradient_norm)
    pairs = list(zip(gradients, variables))
    with tf.control_dependencies(tf.get_collection(tf.GraphKeys.UPDATE_OPS)):
      # A gradient that is not finite would spoil every weight at once; hooks.LogHook decides whether training goes on.
      update = tf.cond(tf.is_finite(gradient_norm),
                       lambda: _adam(pairs, rate, new_layers_rate, pretrained_scopes, adam_epsilon), tf.no_op)
    with tf.control_dependencies([update]):
      advance = tf.assign_add(tf.train.get_or_create_global_step(), 1)
    with tf.control_dependencies([advance]):
      trained_loss = tf.identity(loss, name='loss')
    return StepOutputs(trained_loss, weight_loss, rate, gradient_norm, pairs,
                       tf.argmax(logits, axis=-1, output_type=tf.int32))

  return step


def _adam(pairs, rate, new_layers_rate, pretrained_scopes, epsilon):
  """Applies the gradients by one Adam for each of the two learning rates: Adam does not see a factor on a gradient."""
  in_pretrained = lambda variable: variable.op.name.split('/')[0] in pretrained_scopes
  pretrained = [(gradient, variable) for gradient, variable in pairs if in_pretrained(variable)]
  new = [(gradient, variable) for gradient, variable in pairs if not in_pretrained(variable)]
  updates = []
  for group, factor, name in [(pretrained, 1.0, 'Adam'), (new, new_layers_rate, 'AdamNew')]:
    if group:
      updates.append(tf.train.AdamOptimizer(rate * factor, epsilon=epsilon, name=name).apply_gradients(group))
  return tf.group(*updates)
