"""One step of training, as a function of a batch: loss, gradients, Adam."""

import collections
import fnmatch
import functools

from utils.compat import tf
from utils.errors import UserError
from utils.training import loss_scale
from utils.training.gradients import fast_gradients
from utils.training.losses import segmentation_loss

SCHEDULES = {
    # Name -> factor on the base rate, as a function of the share of the run that is done, 0..1.
    'constant': tf.ones_like,
    'step': lambda progress: tf.pow(0.1, tf.floor(progress * 3.0)),  # a tenth after each third of the run
    'poly': lambda progress: tf.pow(1.0 - progress, 0.9),  # power as in Chen et al., "DeepLab", PAMI 2018, section 4.1
}

StepOutputs = collections.namedtuple('StepOutputs', [
    'loss',  # float32 scalar, over labeled pixels; depends on the update, so that fetching it trains
    'weight_loss',  # float32 scalar, L2 loss of the weights
    'learning_rate',  # float32 scalar, the lowest rate of a trained variable
    'gradient_norm',  # float32 scalar, global norm before clipping; unless it is finite, no weight is changed
    'gradients',  # list of (gradient, variable), after clipping
    'predictions',  # int32 [B, H, W]
    'averages',  # the tf.train.ExponentialMovingAverage of the trained weights, or None
    'scaling',  # None, or dict: 'loss_scale', float32 scalar of this step, and 'left_out', int32 scalar with this step
])


def learning_rate(step, *, schedule, base, max_steps, warmup_steps=0):
  """The learning rate of a step.

  Args:
    step: int64 scalar tensor, 0 at the first step.
    schedule: a key of SCHEDULES.
    base: highest rate.
    max_steps: length of the run.
    warmup_steps: number of steps over which the rate rises linearly from zero.

  Returns:
    float32 scalar tensor.
  """
  step = tf.cast(step, tf.float32)
  rate = base * SCHEDULES[schedule](tf.minimum(step / max_steps, 1.0))
  if warmup_steps:
    rate *= tf.minimum((step + 1.0) / warmup_steps, 1.0)
  return rate


def trainable_variables(scopes, *, offsets=True):
  """Lists the trainable variables under `scopes`; all trainable variables if `scopes` is empty.

  Args:
    scopes: variable scopes, or patterns as InceptionV3/Mixed_*.
    offsets: whether gains and offsets of batch norms are included.

  Returns:
    list of variables.

  Raises:
    UserError: if a scope matches no variable.
  """
  every = [v for v in tf.trainable_variables() if offsets or not v.op.name.endswith(('/beta', '/gamma'))]
  if not scopes:
    return every
  variables = []
  for scope in scopes:
    under = [v for v in every if fnmatch.fnmatchcase(f'{v.op.name}/', f"{scope.rstrip('/')}/*")]
    if not under:
      tops = sorted({v.op.name.split('/')[0] for v in tf.trainable_variables()})
      raise UserError(f'--trainable_scopes: no trainable variable is under {scope!r}; the outermost scopes are '
                      f'{", ".join(tops)}')
    variables += [v for v in under if v not in variables]
  return variables


def dropout_seed(seed):
  """The `dropout_seed` of a training Mode: masks follow from the run's seed and the global step, also when resumed."""
  return seed, tf.cast(tf.train.get_or_create_global_step(), tf.int32)


def rate_factor(pretrained_scopes, new_layers_rate, new_scopes=()):
  """Returns `factor(name)`: the factor on a variable's learning rate.

  Args:
    pretrained_scopes: scopes whose factor is 1; all other variables are new layers.
    new_layers_rate: factor of the new layers.
    new_scopes: scopes or full variable names under `pretrained_scopes` that are new layers all the same.
  """

  def under(name, scopes):
    return f'{name}/'.startswith(tuple(f'{scope.rstrip("/")}/' for scope in scopes))

  return lambda name: 1.0 if under(name, pretrained_scopes) and not under(name, new_scopes) else new_layers_rate


def make_step(logits_fn, *, rate, pretrained_scopes, new_layers_rate=1.0, new_scopes=(), scopes=(), offsets=True,
              loss='cross_entropy', class_weights=None, gradient_accumulation=1, clip_norm=0.0, adam_epsilon=1e-8,
              ema_decay=0.0, products='none', scaled=False):
  """Returns `step(batch)`, which builds one training step.

  Args:
    logits_fn: `logits_fn(images)` -> (logits, end_points), in training mode.
    rate: scalar tensor, the learning rate.
    pretrained_scopes: scopes that learn at `rate`, see rate_factor.
    new_layers_rate: factor on the rate of all other variables, the new layers.
    new_scopes: scopes that are new layers all the same, see rate_factor.
    scopes: scopes to train; empty for all.
    offsets: whether the gains and offsets of batch norms are trained.
    loss: `kind` of losses.segmentation_loss.
    class_weights: see losses.segmentation_loss.
    gradient_accumulation: number of equal parts of a batch that go through the network one after the other, in the
      memory of a single part; losses and gradients are averaged. Batch norm, unless frozen, sees one part at a time.
    clip_norm: greatest global norm of the gradients; 0 for no limit.
    adam_epsilon: Adam's epsilon.
    ema_decay: decay of moving averages of the trained weights, 0 for none. They are kept in the checkpoint under
      `NAME/ExponentialMovingAverage`, and replace the weights in evaluation and inference.
    products: `products` of a rewritings.Rewritings.
    scaled: whether the loss is scaled for gradients in float16, see loss_scale.py.

  Returns:
    `step(batch)` -> StepOutputs, for a batch from pipeline.training_batches. It advances the global step, and raises
    UserError if a scope matches no variable.
  """

  def part_of_step(images, labels, scale=None):
    with fast_gradients(products):
      logits, _ = logits_fn(images)
    data_loss = segmentation_loss(logits, labels, kind=loss, class_weights=class_weights)
    weight_loss = tf.add_n(tf.losses.get_regularization_losses() or [tf.constant(0.0)])
    gradients = tf.gradients(data_loss + weight_loss, trainable_variables(scopes, offsets=offsets), grad_ys=scale)
    return data_loss, weight_loss, gradients, tf.argmax(logits, axis=-1, output_type=tf.int32)

  def step(batch):
    state, scale = loss_scale.loss_scale() if scaled else (None, None)
    data_loss, weight_loss, gradients, predictions = _accumulated(
        functools.partial(part_of_step, scale=scale), batch['image'], batch['label'], parts=gradient_accumulation)
    gradients = loss_scale.unscaled(gradients, scale)  # before their norm, which would overflow
    variables = trainable_variables(scopes, offsets=offsets)
    gradient_norm = tf.linalg.global_norm(gradients)
    if clip_norm:
      gradients, _ = tf.clip_by_global_norm(gradients, clip_norm, use_norm=gradient_norm)
    factor = rate_factor(pretrained_scopes, new_layers_rate, new_scopes)
    factors = [factor(variable.op.name) for variable in variables]
    pairs = list(zip(gradients, variables))
    advance, averages = _update(pairs, factors, rate, finite=tf.is_finite(gradient_norm), scaling=state,
                                adam_epsilon=adam_epsilon, ema_decay=ema_decay)
    with tf.control_dependencies([advance]):
      trained_loss = tf.identity(data_loss, name='loss')
      scaling = {'loss_scale': scale, 'left_out': state.left_out.read_value()} if scaled else None
    lowest = rate * min((factor for factor in factors if factor > 0), default=0.0)
    return StepOutputs(trained_loss, weight_loss, lowest, gradient_norm, pairs, predictions, averages, scaling)

  return step


def _update(pairs, factors, rate, *, finite, scaling, adam_epsilon, ema_decay):
  """Changes the weights and advances the global step.

  Args:
    pairs: list of (gradient, variable).
    factors: factors on the learning rate, one for each variable.
    rate: scalar tensor, the learning rate.
    finite: bool scalar tensor, whether to change the weights: a gradient that is not finite would spoil all of them.
      hooks.LogHook decides whether training goes on.
    scaling: the LossScale to adjust; None without scaling.
    adam_epsilon: Adam's epsilon.
    ema_decay: decay of moving averages of the weights, 0 for none.

  Returns:
    `(advance, averages)`: the op that does both, and the tf.train.ExponentialMovingAverage, or None.
  """
  skip = tf.logical_not(finite)
  # One op stands for all batch norms' updates: each op inside the tf.cond waits for what it is given here.
  with tf.control_dependencies([tf.group(*tf.get_collection(tf.GraphKeys.UPDATE_OPS))]):
    update = tf.cond(skip, tf.no_op, lambda: _adam(pairs, factors, rate, epsilon=adam_epsilon))
  if scaling:
    update = tf.group(update, loss_scale.adjusted(scaling, finite=finite))
  averages, global_step = None, tf.train.get_or_create_global_step()
  with tf.control_dependencies([update]):
    if ema_decay:
      # `num_updates` makes the decay small at first: the random weights from before a restore are soon forgotten.
      averages = tf.train.ExponentialMovingAverage(ema_decay, num_updates=global_step)
      update = averages.apply([variable for _, variable in pairs])
  with tf.control_dependencies([update]):
    return tf.assign_add(global_step, 1), averages


def _accumulated(function, images, labels, *, parts):
  """Calls `function` for equal parts of a batch, one after the other.

  Args:
    function: `function(images, labels)` -> (data_loss, weight_loss, list of gradients, predictions).
    images: [B, ...], B a multiple of `parts`.
    labels: [B, ...].
    parts: number of parts.

  Returns:
    a tuple like that of `function`: means over the parts, and the predictions of the whole batch.
  """
  results = []
  for index, part in enumerate(zip(tf.split(images, parts), tf.split(labels, parts))):
    # Without these dependencies the parts would run side by side, in the memory of the whole batch.
    before = [gradient for gradient in results[-1][2] if gradient is not None] if results else []
    with tf.control_dependencies(before), tf.variable_scope(tf.get_variable_scope(), reuse=index > 0 or None):
      results.append(function(*part))
  if parts == 1:
    return results[0]
  data_losses, weight_losses, gradients, predictions = zip(*results)
  mean = lambda values: None if values[0] is None else tf.add_n(values) / parts
  return mean(data_losses), weight_losses[0], [mean(values) for values in zip(*gradients)], tf.concat(predictions, 0)


def averaged(averages):
  """Returns a custom getter for a variable scope: moving averages replace the trained weights.

  Args:
    averages: the tf.train.ExponentialMovingAverage of the weights.
  """

  def get(getter, name, *args, **kwargs):
    variable = getter(name, *args, **kwargs)
    average = averages.average(variable)
    return variable if average is None else average

  return get


def _adam(pairs, factors, rate, *, epsilon):
  """Applies gradients by an Adam for each learning rate: Adam is invariant to a factor on the gradient."""
  updates = []
  for factor in sorted(set(factors)):
    group = [pair for pair, own in zip(pairs, factors) if own == factor]
    adam = tf.train.AdamOptimizer(rate * factor, epsilon=epsilon, name='Adam' if factor == 1 else f'Adam_{factor:g}')
    updates.append(adam.apply_gradients(group))
  return tf.group(*updates)
