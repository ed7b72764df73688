"""Trains a network: the work of train.py."""

import contextlib
import dataclasses
import datetime
import functools
import gc
import os

from datasets import get_dataset, hold_out, inputs, pipeline, prepare, records, sanity
from datasets.hold_out import HoldOut
from datasets.inputs import Input
from nets import get_network
from nets.network import Mode
from utils import cluster as clusters
from utils import runs
from utils.agreement import GoodbyeHook, SameStartHook, StopTogetherHook, Sum
from utils.checkpoint_files import SavingAlone, newest_checkpoint, read_step
from utils.cluster import Cluster
from utils.compat import tf, without_collection
from utils.errors import UserError, shown
from utils.exits import again, problem
from utils.files import tensorflow_path
from utils.rewritings import rewritings
from utils.session import chosen_xla, device_line, device_type, gpu_numbers, session_config
from utils.settings import changeable, to_dict
from utils.training import compiled, finish, hooks, loss_scale, losses, start, summaries, together, warm_start
from utils.training.held_out import hold_out_of_run, warn_if_trained_on
from utils.training.replicas import Replicas, place, replicas_of
from utils.training.saving import CheckpointFolder
from utils.training.settings import TrainSettings
from utils.training.step import averaged, dropout_seed, learning_rate, make_step, rate_factor

# Steps in a row that may be left out because their gradients are not finite: see hooks.LogHook.
_MOST_LEFT_OUT = {'float32': 0, 'bfloat16': 3, 'float16': loss_scale.MOST_LEFT_OUT}


@dataclasses.dataclass(frozen=True)
class Training:
  """A prepared run.

  Attributes:
    settings: a TrainSettings, resolved.
    dataset: the Dataset.
    network: the Network.
    resumed: prefix of the run's own newest checkpoint; None for a new run.
    start_step: step of this checkpoint; 0 for a new run.
    seen: the inputs.Input of the network.
    band_colors: colors of its bands, see Mode.
    held: the HoldOut.
    absent: scopes of new layers that the pretrained checkpoint lacks, see start.absent_scopes.
    cluster: the Cluster of the machines that train together; None for one.
    replicas: the Replicas.
  """
  settings: TrainSettings
  dataset: object
  network: object
  resumed: str | None
  start_step: int
  seen: Input = Input()
  band_colors: tuple | None = None
  held: HoldOut = hold_out.NOTHING
  absent: tuple = ()
  cluster: Cluster | None = None
  replicas: Replicas = Replicas()

  @property
  def is_chief(self):
    """Whether this process writes the run's folder and its log."""
    return self.cluster is None or self.cluster.is_chief

  @property
  def data_dir(self):
    """Folder with the TFRecords."""
    return self.settings.data.data_dir

  @property
  def run_dir(self):
    """The run's folder, as TensorFlow takes it."""
    return tensorflow_path(self.settings.run_dir)

  @property
  def precision(self):
    """The precision that the run computes in, one of session.PRECISIONS."""
    return self.settings.device.chosen

  @property
  def input_device(self):
    """The device on which batches are to lie ready: the GPU; None for the CPU, where several devices take theirs."""
    return '/gpu:0' if device_type(self.settings.device.gpu) == 'GPU' and not self.replicas.strategy else None

  @property
  def rewritings(self):
    """The Rewritings of the run's graph, by the device that it computes on."""
    return rewritings(device_type(self.settings.device.gpu))

  @property
  def xla(self):
    """Whether XLA compiles the run's training step."""
    return compiles(self.settings, self.replicas)

  def logits(self, images, mode=Mode()):  # noqa: B008, the record is frozen
    """Builds the network for images float32 [B, H, W, N] in a Mode; returns `(logits, end_points)`."""
    mode = dataclasses.replace(mode, fold_batch_norm=self.rewritings.fold_batch_norm, replica=place())
    return self.network.logits(
        images, self.dataset.num_classes, mode, band_colors=self.band_colors, **self.settings.shape)


def train(settings):
  """Trains a network, or resumes its run.

  Args:
    settings: a TrainSettings.

  Returns:
    the exit code: 0 if the run has reached its end; 130 or 143 after Ctrl-C or SIGTERM.

  Raises:
    UserError: if settings, data or weights cannot be used; config.json and checkpoints of an earlier run are unchanged.
  """
  device, schedule = settings.device, settings.schedule
  cluster = clusters.cluster_of(settings.workers, os.environ)
  replicas = replicas_of(len(gpu_numbers(device.gpu)), cluster)
  replicas.check(schedule.batch_size, schedule.gradient_accumulation)
  config = replicas.session_config(session_config(
      device.precision, settings.bookkeeping.threads, gpu=device.gpu, gpu_memory_fraction=device.gpu_memory_fraction,
      tf32=True, once=True, xla=compiles(settings, replicas)))
  print(device_line(device), flush=True)
  if settings.deterministic:  # for the rest of the process
    tf.compat.v2.config.experimental.enable_op_determinism()
  if cluster and not cluster.is_chief:  # which converts the dataset, so that it is not done twice in one folder
    clusters.wait(cluster, settings.workers.wait_minutes, numbers=[0])
  run_dir = settings.resolved(get_dataset(settings.data.dataset)).run_dir
  with runs.locked(run_dir) if cluster is None or cluster.is_chief else contextlib.nullcontext():
    if cluster is None or cluster.is_chief:
      runs.refuse_foreign(run_dir)
    training, run_config = prepared(settings, cluster, replicas)
    ended = finish.ended(training.settings, training.start_step) if training.resumed else None
    if ended:
      print(ended)
      return 0
    with (_machine_named(training.settings), _bad_records_named(training), compiled.refused_clearly(),
          tf.Graph().as_default(), replicas.scope()):
      tf.set_random_seed(settings.seed)
      outputs, batch, scaffold = build(training)
      if training.is_chief:  # not before data and graph are there: a start that fails changes nothing
        runs.save_config(run_dir, run_config)
      return run_to_end(training, outputs, batch, scaffold, config)


def compiles(settings, replicas):
  """Whether XLA compiles the training step of a run with a TrainSettings, on its Replicas.

  Raises:
    UserError: if it is asked to, and the run has several devices.
  """
  if settings.xla == 'on' and replicas.strategy:
    raise UserError(f'--xla=on: XLA compiles the step of one device, and this run has {replicas.count}; use --xla=off')
  return chosen_xla(settings.xla, settings.device.gpu) and not replicas.strategy


def prepared(settings, cluster, replicas):
  """Finds what a run is to go on from, and prepares its data.

  Args:
    settings: a TrainSettings.
    cluster: a Cluster; None for one machine.
    replicas: the Replicas.

  Returns:
    `(training, config)`: a Training, and the content of config.json.

  Raises:
    UserError: see `train`.
  """
  dataset, network = get_dataset(settings.data.dataset), get_network(settings.model.net)
  run_dir = settings.resolved(dataset).run_dir
  resumed = newest_checkpoint(run_dir)
  saved = runs.saved_config(run_dir) if resumed else None  # a start that failed before its first does not bind this
  resolved = settings.resolved(dataset, saved and saved['flags'])
  config = runs.make_config(to_dict(resolved), dataset, network, command=settings.command)
  if saved:
    runs.check_config(run_dir, saved, config, may_differ=changeable(TrainSettings), defaults=to_dict(TrainSettings))
  absent = saved['network'].get('absent_scopes', ()) if saved else start.absent_scopes(resolved.start, network)
  config['network'] |= {'absent_scopes': list(absent)} if absent else {}
  prepare.prepare(dataset, resolved.data.data_dir, source_dir=resolved.data.source_dir, splits=resolved.splits,
                  told=resolved.data.reading.told, skip_bad=resolved.data.skip_bad)
  held, config['hold_out'] = hold_out_of_run(resolved, dataset, saved)
  stats = {split: hold_out.read_stats(resolved.data.data_dir, split, held) for split in resolved.splits}
  whole = {part: records.read_stats(resolved.data.data_dir, part) for part in held.whole(resolved.splits)}
  sanity.report(dataset.name, whole, stats)
  warn_if_trained_on(resolved, held)
  seen = choose_bands(resolved, network, run_dir, saved, held)
  config['dataset']['reading'], config['network']['bands'] = seen.reading.to_json(), seen.numbers
  # A run of an earlier version goes on with the means that it was trained with.
  colors = config['network']['band_colors'] = saved['network'].get('band_colors') if saved else seen.colors
  config['dataset'] |= {
      'label_values': stats[resolved.data.train_split].get('label_values', []),
      'images': {split: one['num_examples'] for split, one in stats.items()},
      'warnings': list(dict.fromkeys(sanity.warnings(whole) + sanity.warnings(stats)))}
  now = datetime.datetime.now(datetime.timezone.utc).strftime('%Y-%m-%d %H:%M UTC')
  config |= {'started': (saved or {'started': now}).get('started'), 'device': device_line(settings.device)}
  start_step = read_step(resumed) if resumed else 0
  return Training(resolved, dataset, network, resumed, start_step, seen, colors, held, tuple(absent), cluster,
                  replicas), config


def choose_bands(settings, network, run_dir, saved, held=hold_out.NOTHING):
  """Chooses the bands that the network sees, by --bands and the records.

  Args:
    settings: a TrainSettings, resolved.
    network: the Network.
    run_dir: the run's folder.
    saved: config.json of the run to be resumed; None for a new run.
    held: the HoldOut.

  Returns:
    an Input.

  Raises:
    UserError: if there is no such band, the network takes fewer, or the splits or the run have images of another kind.
  """
  data_dir, trained = settings.data.data_dir, settings.data.train_split
  seen = inputs.chosen(records.read_reading(data_dir, trained), settings.model.bands)
  if network.most_bands and len(seen.names) > network.most_bands:
    raise UserError(f'--net={network.name} sees at most {network.most_bands} bands, and the images have '
                    f'{len(seen.names)}; choose some by --bands')
  for split in held.whole(settings.splits):
    records.check_reading(data_dir, split, seen.reading, where=f'{trained} has', ranges=True)
  if saved:
    records.check_reading(data_dir, trained, Input.from_config(saved).reading, where=f'{run_dir} was trained on',
                          ranges=True)
  return seen


@contextlib.contextmanager
def _bad_records_named(training):
  """Turns a failure of pipeline or loss, inside the block, into a UserError that names the bad record, if any."""
  try:
    yield
  except (tf.errors.DataLossError, tf.errors.InvalidArgumentError):
    for split in training.settings.splits:
      records.verify(hold_out.shard_paths(training.data_dir, split, training.held),
                     num_classes=training.dataset.num_classes)
    raise


@without_collection()
def build(training):
  """Builds a run in the default graph: input pipeline, training step, restoring of the initial weights.

  Args:
    training: a Training.

  Returns:
    `(outputs, batch, scaffold)`: a step.StepOutputs, the batch that it trains on, and a tf.train.Scaffold.

  Raises:
    UserError: if data, scopes or initial weights do not fit the network.
  """
  settings = training.settings
  schedule, optimizer = settings.schedule, settings.optimizer
  batch, begin = pipeline.ahead(pipeline.training_batches(
      training.data_dir, settings.data.train_split, batch_size=schedule.batch_size, augmentation=settings.augmentation,
      seed=settings.seed, start_step=training.start_step, bands=training.seen.bands, held=training.held,
      places=training.replicas.positions(schedule.batch_size, schedule.gradient_accumulation)), training.input_device)
  if training.xla:
    batch = compiled.checked(batch, training.dataset.num_classes)
  rate = learning_rate(
      tf.train.get_or_create_global_step(), schedule=schedule.schedule, base=schedule.learning_rate,
      max_steps=schedule.max_steps, warmup_steps=schedule.warmup_steps)
  mode = Mode(is_training=True, dropout_keep_prob=optimizer.dropout_keep_prob,
              dropout_seed=dropout_seed(settings.seed),
              freeze_batch_norm=optimizer.freeze_batch_norm, batch_norm_decay=optimizer.batch_norm_decay,
              weight_decay=optimizer.weight_decay)
  scopes = {'pretrained_scopes': training.network.pretrained_scopes, 'new_layers_rate': schedule.new_layers_rate,
            'new_scopes': (*settings.start.checkpoint_exclude_scopes, *training.absent)}
  outputs = make_step(
      functools.partial(training.logits, mode=mode), rate=rate, **scopes, scopes=optimizer.trainable_scopes,
      offsets=optimizer.train_offsets, loss=optimizer.loss, class_weights=class_weights(training),
      gradient_accumulation=schedule.gradient_accumulation, clip_norm=optimizer.gradient_clip_norm,
      adam_epsilon=optimizer.adam_epsilon, ema_decay=optimizer.ema_decay,
      products=training.rewritings.products, scaled=training.precision == 'float16', replicas=training.replicas)(batch)
  if training.xla:  # but for the loss of the weights, which is fetched by itself
    outputs = compiled.compiled(outputs._replace(weight_loss=None))._replace(weight_loss=outputs.weight_loss)
  init_fn, names = start.choose(settings.start, training.network, resumed=training.resumed,
                                start_step=training.start_step, seen=training.seen, absent=training.absent,
                                classes=training.dataset.classes)
  if names and outputs.averages:
    init_fn = warm_start.with_averages(init_fn, outputs.averages, [variable for _, variable in outputs.gradients])
  if not training.resumed and start.learns_new_averages(names):
    start.say_if_averages_lag(optimizer.batch_norm_decay, schedule)
  print(start.overview(outputs.gradients, schedule.learning_rate, rate_factor(**scopes)), flush=True)
  saver = tf.train.Saver(builder=None if training.resumed else SavingAlone())
  # A variable is initialized or restored, or that fails: asking each whether it is would build thousands of ops.
  all_ready = tf.constant([], tf.string)
  # Each call of another kind takes TensorFlow a tenth of a second for such a graph: the input pipeline begins with the
  # initial values where there are any, else by itself, and what asks whether all is ready asks for the same.
  begin = tf.group(begin, tf.local_variables_initializer())
  return outputs, batch, tf.train.Scaffold(
      init_op=tf.group(tf.global_variables_initializer(), begin), init_fn=init_fn, saver=saver,
      local_init_op=begin if restored_whole(training, init_fn) else all_ready, ready_op=all_ready,
      ready_for_local_init_op=all_ready)


def restored_whole(training, init_fn):
  """The checkpoint of the run that its session restores as it is; None for new runs, and where `init_fn` restores."""
  return None if init_fn else training.resumed


def class_weights(training):
  """The weights of the classes in the loss, float [C]; None for ones."""
  kind = training.settings.optimizer.class_weights
  if kind == 'none':
    return None
  stats = hold_out.read_stats(training.data_dir, training.settings.data.train_split, training.held)
  return losses.CLASS_WEIGHTS[kind](stats['class_pixels'], stats['class_image_pixels'])


def run_to_end(training, outputs, batch, scaffold, config):
  """Runs the training steps in a session.

  Args:
    training: a Training.
    outputs: a step.StepOutputs.
    batch: the batch of the outputs.
    scaffold: tf.train.Scaffold.
    config: tf.ConfigProto of the session.

  Returns:
    the exit code, see `train`.
  """
  settings, restored = training.settings, restored_whole(training, scaffold.init_fn)
  try:
    with (_event_file_closed(), hooks.StopOnInterruptHook() as interrupt,
          together.connected(training, config) as (master, watchdog)):
      log, stop, chain = make_hooks(training, outputs, batch, scaffold, interrupt)
      if watchdog:
        chain.append(GoodbyeHook(training.cluster, watchdog))
      gc.freeze()  # the graph stays: a collection would go over its million objects
      with tf.train.SingularMonitoredSession(
          chain, scaffold, master, config, checkpoint_filename_with_path=(
              tensorflow_path(restored) if restored else None)) as session:
        while not session.should_stop():
          session.run(outputs.loss)
  finally:
    gc.unfreeze()
  if stop.signal is not None and not log.done:
    print(f'interrupted at step {log.step} of {settings.schedule.max_steps}, which is saved in '
          f'{shown(settings.run_dir)}; to go on: {again()}')
    return 128 + stop.signal
  if training.is_chief:
    print(f'the run is in {shown(settings.run_dir)}; {finish.next_line(settings)}')
  return 0


@contextlib.contextmanager
def _event_file_closed():
  """Closes TensorBoard's file behind the block. If this fails as well, what is said is why the block has failed."""
  try:
    yield
  except BaseException:
    with contextlib.suppress(Exception):
      tf.summary.FileWriterCache.clear()
    raise
  tf.summary.FileWriterCache.clear()


@contextlib.contextmanager
def _machine_named(settings):
  """Turns a failure of the machine inside the block, as too little memory, into a UserError that says how to go on."""
  try:
    yield
  except Exception as error:
    reason = problem(error)
    if reason is None:
      raise
    step = together.newest_step(settings.run_dir)
    saved = 'nothing was saved yet' if step is None else f'the last checkpoint in {settings.run_dir} is of step {step}'
    less = ('; a smaller --crop_size or --batch_size needs less, or --gradient_accumulation'
            if reason.startswith('not enough memory') else '')
    raise UserError(f'{reason}{less}; {saved}; to go on: {again()}') from error


@without_collection()
def make_hooks(training, outputs, batch, scaffold, interrupt):
  """Makes the hooks, in the order in which they see a step: a loss that is not finite ends the run before it is saved.

  Of several machines, the first alone writes; all evaluate.

  Args:
    training: a Training.
    outputs: a step.StepOutputs.
    batch: the batch of the outputs.
    scaffold: tf.train.Scaffold.
    interrupt: the StopOnInterruptHook.

  Returns:
    `(log, stop, hooks)`: the LogHook, the hook whose `signal` ends the run, and the list of all hooks.
  """
  settings, keeping, cluster = training.settings, training.settings.bookkeeping, training.cluster
  # Made for the first machine alone, it writes the graph so far, for TensorBoard.
  writer = tf.summary.FileWriterCache.get(training.run_dir) if training.is_chief else None
  batch_size = settings.schedule.batch_size
  log = hooks.LogHook(
      outputs, lambda step: pipeline.batch_names(
          training.data_dir, settings.data.train_split, batch_size=batch_size, seed=settings.seed, step=step,
          held=training.held),
      max_steps=settings.schedule.max_steps, batch_size=batch_size, every_steps=keeping.log_steps, writer=writer,
      max_left_out=_MOST_LEFT_OUT[training.precision])
  stop = StopTogetherHook(cluster, interrupt) if cluster else interrupt
  chain = [*([compiled.CompileHook()] if training.xla else []), log, stop]
  if cluster:
    chain.insert(0, SameStartHook(cluster, functools.partial(together.start_facts, training)))
  if training.is_chief:
    saver = scaffold.saver
    if training.replicas.strategy:
      saver = training.replicas.saver(tf.global_variables())
    checkpoints = CheckpointFolder(settings.run_dir, saver, keep=keeping.keep_checkpoints)
    if training.resumed:
      checkpoints.go_on_from(training.resumed)
    chain.append(hooks.SaveHook(
        checkpoints, every_secs=60 * keeping.save_minutes, writer=writer,
        saved=training.start_step if restored_whole(training, scaffold.init_fn) else None))
    chain += [hooks.SummaryHook(parts, outputs, every_steps=keeping.summary_steps, writer=writer)
              for parts in make_summaries(training, outputs, batch)]
    chain.append(hooks.WeightLossHook(outputs, every_steps=keeping.summary_steps, writer=writer))
  if keeping.eval_steps:
    chain.append(make_evaluation(training, outputs, writer, log))
  return log, stop, chain


def make_summaries(training, outputs, batch):
  """List of the functions that build the run's summaries. Arguments: see `make_hooks`."""
  drawn, loss = summaries.pictured(outputs, batch), training.settings.optimizer.loss
  summarize = [lambda: summaries.training_summary(
      outputs, drawn, training.dataset.palette, loss=loss, shown=training.seen.shown)]
  if training.settings.bookkeeping.summarize_gradients:
    summarize.append(lambda: summaries.gradient_summary(outputs, training.network.pretrained_scopes))
  return summarize


def make_evaluation(training, outputs, writer, log):
  """Makes the EvaluateHook; it evaluates the moving averages of the weights if there are any.

  Args:
    training: a Training.
    outputs: a step.StepOutputs.
    writer: tf.summary.FileWriter of the run.
    log: the LogHook.
  """
  keeping, cluster = training.settings.bookkeeping, training.cluster
  batches = pipeline.evaluation_batches(training.data_dir, keeping.eval_split, training.seen.bands, training.held)
  num_images = hold_out.read_stats(training.data_dir, keeping.eval_split, training.held)['num_examples']
  if cluster:
    batches = batches.shard(cluster.size, cluster.index)
    num_images = len(range(cluster.index, num_images, cluster.size))
  num_classes = training.dataset.num_classes
  summed = Sum(cluster, [num_classes, num_classes], tf.int64).add if cluster else lambda session, matrix: matrix
  getter = averaged(outputs.averages) if outputs.averages else None

  def logits(images):
    with tf.variable_scope(tf.get_variable_scope(), reuse=True, custom_getter=getter):
      return training.logits(images)[0]

  return hooks.EvaluateHook(
      batches, logits, dataset=training.dataset, split=keeping.eval_split, run_dir=training.settings.run_dir,
      writer=writer, log_hook=log, num_images=num_images, every_steps=keeping.eval_steps,
      early_stop=keeping.early_stop, flags=to_dict(training.settings), replicas=training.replicas, summed=summed)
