"""One step of training, as a function of a batch: loss, gradients, Adam."""

import collections
import dataclasses
import fnmatch
import functools

from utils.compat import tf
from utils.errors import UserError
from utils.labels import IGNORE_LABEL
from utils.training import loss_scale
from utils.training.gradients import fast_gradients
from utils.training.losses import segmentation_loss
from utils.training.replicas import Replicas, place, total, totals

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


@dataclasses.dataclass(frozen=True)
class StepOptions:
  """What a training step does.

  Attributes:
    rate: scalar tensor, the learning rate.
    pretrained_scopes: scopes that learn at `rate`, see rate_factor.
    new_layers_rate: factor on the rate of all other variables, the new layers.
    new_scopes: scopes that are new layers all the same, see rate_factor.
    scopes: scopes to train; empty for all.
    offsets: whether the gains and offsets of batch norms are trained.
    loss: `kind` of losses.segmentation_loss.
    class_weights: see losses.segmentation_loss.
    gradient_accumulation: number of equal parts of a batch that go through the network one after the other, in the
      memory of a single part; losses and gradients are averaged over the parts, each by its share of the labeled
      pixels. Batch norm, unless frozen, sees one part at a time.
    clip_norm: greatest global norm of the gradients; 0 for no limit.
    adam_epsilon: Adam's epsilon.
    ema_decay: decay of moving averages of the trained weights, 0 for none. They are kept in the checkpoint under
      `NAME/ExponentialMovingAverage`, and replace the weights in evaluation and inference.
    products: `products` of a rewritings.Rewritings.
    scaled: whether the loss is scaled for gradients in float16, see loss_scale.py.
    replicas: the Replicas that share the step. Batch norm, unless frozen, sees the examples of one replica at a time,
      and its moving averages are averaged over the replicas.
  """
  rate: object
  pretrained_scopes: tuple
  new_layers_rate: float = 1.0
  new_scopes: tuple = ()
  scopes: tuple = ()
  offsets: bool = True
  loss: str = 'cross_entropy'
  class_weights: object = None
  gradient_accumulation: int = 1
  clip_norm: float = 0.0
  adam_epsilon: float = 1e-8
  ema_decay: float = 0.0
  products: str = 'none'
  scaled: bool = False
  replicas: Replicas = Replicas()

  @property
  def variables(self):
    """List of the variables that are trained. Raises UserError if a scope matches none."""
    return trainable_variables(self.scopes, offsets=self.offsets)


def make_step(logits_fn, **options):
  """Returns `step(batch)`, which builds one training step.

  Args:
    logits_fn: `logits_fn(images)` -> (logits, end_points), in training mode.
    **options: of a StepOptions.

  Returns:
    `step(batch)` -> StepOutputs, for a batch from pipeline.training_batches, of this process's share of the examples.
    To be called in the scope of the replicas. It advances the global step, and raises UserError if a scope matches no
    variable.
  """
  options = StepOptions(**options)
  replicas, parts = options.replicas, options.gradient_accumulation

  def step(batch):
    scaling = loss_scale.loss_scale() if options.scaled else None
    figures, gradients, predictions = replicas.each(
        functools.partial(_on_replica, logits_fn, options), replicas.dealt(batch, parts), scaling)
    data_loss, weight_loss, gradient_norm, scale = map(replicas.first_of, figures)
    pairs = list(zip(gradients, options.variables))
    factor = rate_factor(options.pretrained_scopes, options.new_layers_rate, options.new_scopes)
    factors = [factor(variable.op.name) for _, variable in pairs]
    advance, averages = _update(pairs, factors, options, finite=tf.is_finite(gradient_norm), scaling=scaling)
    # The losses of all replicas: where one replica adds up with the others, none may be left out of the run.
    losses = replicas.of_replicas(figures[0])
    with tf.control_dependencies([advance, *losses[1:]]):
      trained_loss = tf.identity(data_loss, name='loss')
      state = {'loss_scale': scale, 'left_out': scaling.left_out.read_value()} if options.scaled else None
    lowest = options.rate * min((factor for factor in factors if factor > 0), default=0.0)
    return StepOutputs(trained_loss, weight_loss, lowest, gradient_norm,
                       [(replicas.first_of(gradient), variable) for gradient, variable in pairs],
                       replicas.joined(predictions, parts), averages, state)

  return step


def _on_replica(logits_fn, options, shares, scaling):
  """Losses and gradients of the whole batch, and predictions of a replica's share of it.

  Args:
    logits_fn: see make_step.
    options: a StepOptions.
    shares: list of batches, the share of each replica of this process.
    scaling: a LossScale; None without scaling.

  Returns:
    `((data_loss, weight_loss, gradient_norm, scale), gradients, predictions)`; the gradients are clipped.
  """
  scale = scaling.scale.read_value() if scaling else None
  batch = shares[place()[0] - options.replicas.first]
  data_loss, weight_loss, gradients, predictions = _accumulated(
      functools.partial(_part_of_step, logits_fn, options, scale), batch['image'], batch['label'],
      parts=options.gradient_accumulation)
  gradients = loss_scale.unscaled(totals(gradients), scale)  # before their norm, which would overflow
  gradient_norm = tf.linalg.global_norm(gradients)
  if options.clip_norm:
    gradients, _ = tf.clip_by_global_norm(gradients, options.clip_norm, use_norm=gradient_norm)
  return (data_loss, weight_loss, gradient_norm, scale), gradients, predictions


def _part_of_step(logits_fn, options, scale, images, labels, share):
  """Losses, gradients and predictions of a part of a batch, as of `function` in _accumulated.

  Args:
    logits_fn: see make_step.
    options: a StepOptions.
    scale: factor on the gradients, float32 scalar; None for 1.
    images: float32 [B, h, w, N].
    labels: int32 [B, h, w].
    share: factor on the loss in the gradients; None for 1.
  """
  with fast_gradients(options.products):
    logits, _ = logits_fn(images)
  data_loss = segmentation_loss(logits, labels, kind=options.loss, class_weights=options.class_weights)
  weight_loss = tf.add_n(tf.losses.get_regularization_losses() or [tf.constant(0.0)])
  counted = data_loss if share is None else data_loss * share
  if place()[0] == 0:  # the weights are the same on all replicas: the first alone adds their loss
    counted += weight_loss
  gradients = tf.gradients(counted, options.variables, grad_ys=scale)
  return data_loss, weight_loss, gradients, tf.argmax(logits, axis=-1, output_type=tf.int32)


def _update(pairs, factors, options, *, finite, scaling):
  """Changes the weights and advances the global step.

  Args:
    pairs: list of (gradient, variable).
    factors: factors on the learning rate, one for each variable.
    options: a StepOptions.
    finite: bool scalar tensor, whether to change the weights: a gradient that is not finite would spoil all of them.
      hooks.LogHook decides whether training goes on.
    scaling: the LossScale to adjust; None without scaling.

  Returns:
    `(advance, averages)`: the op that does both, and the tf.train.ExponentialMovingAverage, or None.
  """
  # One op stands for all batch norms' updates.
  norms = options.replicas.equal_averages(tf.group(*tf.get_collection(tf.GraphKeys.UPDATE_OPS)))
  with tf.control_dependencies([norms]):
    update = _run_if(finite, lambda: _adam(pairs, factors, options))
  if scaling:
    update = tf.group(update, loss_scale.adjusted(scaling, finite=finite))
  averages, global_step = None, tf.train.get_or_create_global_step()
  with tf.control_dependencies([update]):
    if options.ema_decay:
      # `num_updates` makes the decay small at first: the weights of the start are soon forgotten.
      averages = tf.train.ExponentialMovingAverage(options.ema_decay, num_updates=global_step)
      update = averages.apply([variable for _, variable in pairs])
  with tf.control_dependencies([update]):
    return tf.assign_add(global_step, 1), averages


def _run_if(condition, build):
  """Runs ops if a condition holds.

  tf.cond hands every tensor that an op inside reads, gradients and variables alike, through an op of its own: a tenth
  of the ops of a training step. Here the ops only wait for a branch, and do not run if it is not taken.

  Args:
    condition: bool scalar tensor.
    build: `build()` builds the ops and returns one that waits for all of them.

  Returns:
    an op that has run when the others have, or are left out.
  """
  otherwise, taken = tf.raw_ops.Switch(data=condition, pred=condition)
  with tf.control_dependencies([tf.identity(taken)]):  # the Switch itself always runs
    update = build()
  with tf.control_dependencies([update]):
    return tf.raw_ops.Merge(inputs=[otherwise, tf.identity(taken)]).output.op


def _accumulated(function, images, labels, *, parts):
  """Calls `function` for equal parts of a batch, one after the other.

  Args:
    function: `function(images, labels, share)` -> (data_loss, weight_loss, list of gradients, predictions), where the
      data_loss counts `share` times in the gradients; None for once.
    images: [B, ...], B a multiple of `parts`.
    labels: [B, ...].
    parts: number of parts.

  Returns:
    a tuple like that of `function`: means over the parts, of the data_loss by labeled pixels; and the predictions of
    the whole batch.
  """
  if parts == 1:
    return function(images, labels, None)  # no split: GPUs have none for int32, and would pass labels through the host
  labels = tf.split(labels, parts)
  labeled = total(tf.stack([tf.reduce_sum(tf.cast(tf.not_equal(part, IGNORE_LABEL), tf.float32)) for part in labels]))
  shares = tf.unstack(tf.math.divide_no_nan(parts * labeled, tf.reduce_sum(labeled)))  # 1 where all parts have as many
  results, norms = [], tf.get_collection_ref(tf.GraphKeys.UPDATE_OPS)
  known = len(norms)
  for index, part in enumerate(zip(tf.split(images, parts), labels, shares)):
    # Without these dependencies the parts would run side by side, in the memory of the whole batch; and two updates of
    # an average, each of which reads it, changes it and writes it, could lose one of the two.
    before = [gradient for gradient in results[-1][2] if gradient is not None] + norms[known:] if results else []
    with tf.control_dependencies(before), tf.variable_scope(tf.get_variable_scope(), reuse=index > 0 or None):
      results.append(function(*part))
  data_losses, weight_losses, gradients, predictions = zip(*results)
  mean = lambda values: None if values[0] is None else tf.add_n(values) / parts
  data_loss = mean([share * value for share, value in zip(shares, data_losses)])
  return data_loss, weight_losses[0], [mean(values) for values in zip(*gradients)], tf.concat(predictions, 0)


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


class _Adam(tf.train.AdamOptimizer):
  """Adam that, under a tf.distribute.Strategy, takes gradients that are summed over the replicas already.

  As they come from the optimizer of TensorFlow 2.21, it would sum them itself, so that they could not be clipped by
  their norm.
  """

  def _distributed_apply(self, distribution, grads_and_vars, global_step=None, name=None):
    """See tf.train.Optimizer: without its reduction."""
    variables = [variable for _, variable in grads_and_vars]
    with tf.init_scope():
      self._create_slots(variables)
    self._prepare()
    extended = distribution.extended
    updates = [update for gradient, variable in grads_and_vars for update in extended.update(
        variable, lambda own, value: self._resource_apply_dense(value, own), args=(gradient,), group=False)]
    return distribution.group(extended.update_non_slot(
        extended.non_slot_devices(variables), lambda: self._finish(updates, 'update'), group=False))

  def apply_gradients(self, grads_and_vars, global_step=None, name=None):
    """See tf.train.Optimizer; to be called outside of replicas."""
    strategy = tf.distribute.get_strategy() if tf.distribute.has_strategy() else None
    if strategy is None:
      return super().apply_gradients(grads_and_vars, global_step, name)
    pairs = [(gradient, variable) for gradient, variable in grads_and_vars if gradient is not None]
    return self._distributed_apply(strategy, pairs)


def _adam(pairs, factors, options):
  """Applies gradients by an Adam for each learning rate: Adam is invariant to a factor on the gradient."""
  updates = []
  for factor in sorted(set(factors)):
    group = [pair for pair, own in zip(pairs, factors) if own == factor]
    name = 'Adam' if factor == 1 else f'Adam_{factor:g}'
    adam = _Adam(options.rate * factor, epsilon=options.adam_epsilon, name=name)
    updates.append(adam.apply_gradients(group))
  return tf.group(*updates)
