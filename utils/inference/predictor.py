"""A trained network as a frozen graph for inference.

The graph is built by the same `network.logits` as in training, with the checkpoint's values as constants in place of
variables: TensorFlow's graph optimizer then fuses convolution, bias and ReLU into one op and lays the weights out for
the CPU once instead of in every call.
"""

import contextlib
import ctypes
import hashlib
import queue
import threading

import numpy as np

from datasets.inputs import Input
from nets import get_network
from nets.network import Mode
from utils.checkpoint_files import open_checkpoint, read_tensors
from utils.compat import tf
from utils.errors import UserError, brief, listed
from utils.inference import mc_dropout
from utils.inference.labeler import PLAIN, Labeler, NotFinite, resizing
from utils.runs import AVERAGE
from utils.session import chosen_precision, device_names, session_config

_OUTPUTS = ('labels', 'probabilities')
_FINITE = 'finite'  # whether all logits are


class Predictor(Labeler):
  """Runs a trained network on images of any size. A context manager; `close()` frees the sessions' memory.

  With several devices, calls from several threads run side by side, each on a device that is free.
  """

  def __init__(self, run, precision='float32', *, samples=0, seed=0, views=PLAIN, temperature=1.0, threads=0, gpu=None,
               gpu_memory_fraction=0.0, devices=None):
    """Builds the run's network with its weights as constants.

    Args:
      run: a utils.runs.Run.
      precision: see utils.session.Device.
      samples: number of passes with dropout that are averaged (mc_dropout.py); 0 for one pass without dropout.
      seed: random seed of the dropout passes; a pass's masks depend on the seed and the number of the pass alone.
      views: a tta.Views, the views of each image over which probabilities are averaged.
      temperature: number that divides the logits of each pass, see temperature.py.
      threads: see utils.session.session_config.
      gpu: see utils.session.Device.
      gpu_memory_fraction: see utils.session.Device.
      devices: names of TensorFlow's devices, each of which computes images of its own; None for those of `gpu`.

    Raises:
      UserError: if the checkpoint does not hold exactly the run's network, the precision or a GPU is not available, or
        the network has no dropout to sample.
    """
    precision = chosen_precision(precision, gpu)
    # In bfloat16 the second round converts the weights once instead of in every call.
    config = session_config(precision, threads, gpu=gpu, gpu_memory_fraction=gpu_memory_fraction,
                            once=precision == 'float32')
    devices = device_names(gpu) if devices is None else devices
    super().__init__(len(run.classes), Input.from_config(run.config), views, len(devices), precision)
    self._samples, self._seed = samples, seed
    place = devices[0] if self.num_devices > 1 else None
    with tf.Graph().as_default() as graph, tf.device(place):
      constant_network(run, tf.placeholder(
          self.seen.reading.dtype, [None, None, None, len(self.seen.reading.names)], name='images'),
          dropout=samples > 0, temperature=temperature)
      tf.math.is_finite(tf.reduce_sum(graph.get_tensor_by_name('logits:0')), name=_FINITE)
    if samples:
      graph = self._with_seeds(graph, run)
    with graph.as_default(), tf.device(place):
      self._size, self._resized, self._restored = resizing(graph)
    self._sessions = Sessions(graph, inference_config(config, devices), devices)

  def _with_seeds(self, graph, run):
    """The graph whose dropout masks follow from seeds that are fed. Raises UserError if it drops nothing."""
    graph_def = tf.graph_util.extract_sub_graph(graph.as_graph_def(), _OUTPUTS)
    self._seeds = mc_dropout.take_seeds(graph_def)
    self._shared = mc_dropout.shared_tensors(graph_def, 'images', self._seeds)
    if not self._seeds:
      raise UserError(f'--samples={self._samples}: {_described(run)} drops nothing, so all passes would be the same; '
                      'samples need a network that was trained with --dropout_keep_prob below 1')
    with tf.Graph().as_default() as seeded:
      tf.import_graph_def(graph_def, name='')
    return seeded

  @property
  def is_one_pass(self):
    """See Labeler."""
    return not self._samples and super().is_one_pass

  def logits(self, images):
    """Predicts the logits, divided by the temperature, of one pass over the images as they are.

    Args:
      images: as of `labels`.

    Returns:
      float32 [B, H, W, num_classes].

    Raises:
      NotFinite: if one is not finite.
    """
    return self._finite(self._run('logits', images))

  def _scaled(self, images, size):
    return self._sessions.run(self._resized, {'images:0': images, self._size: size})

  def _view(self, images, number, size):
    output, resized = ('probabilities:0', {}) if self.views.plain else (self._restored, {self._size: size})
    for feeds in self._feeds(images, number * self._samples):
      yield self._sessions.run(output, {**feeds, **resized})

  def _feeds(self, images, first):
    """Yields the feeds of each pass over a view; `first` is the number of the first pass.

    Layers before the first dropout are computed once, not in every pass.
    """
    if not self._samples:
      yield {'images:0': images}
      return
    shared = dict(zip(self._shared, self._sessions.run(self._shared, {'images:0': images})))
    for number in range(first, first + self._samples):
      seeds = {name: [self._seed, number * len(self._seeds) + place] for place, name in enumerate(self._seeds)}
      yield {**shared, **seeds}

  def _run(self, output, images):
    names = [output, _FINITE] if output == 'labels' else [output]  # of labels alone one cannot tell
    fetches = [f'{name}:0' for name in names]
    with self._sessions.free() as session:
      if output not in session.optimized:  # the first call optimizes the graph, in many copies of the weights
        session.optimized.add(output)
        session.run(fetches, {'images:0': images[:1, :1, :1]})
        _return_free_memory()
      values, *finite = session.run(fetches, {'images:0': images})
    if not all(finite):
      raise NotFinite(self.precision)
    return values

  def close(self):
    """Closes the sessions, once the calls on them have come to their end."""
    self._sessions.close()


def _described(run):
  """The run's network in a few words."""
  network, keep_prob = run.config['network'], run.config['flags'].get('dropout_keep_prob')
  name = '-'.join(filter(None, (network['name'], network.get('skip'))))
  return name + (f' with --dropout_keep_prob={keep_prob:g}' if keep_prob else '')


def network_weights(run):
  """The weights of a run's network and nothing else: dict from variable name to array, moving averages if it has them.

  Raises:
    UserError: if the checkpoint does not hold exactly the run's network.
  """
  seen, weights = Input.from_config(run.config), weights_of(run)
  with tf.Graph().as_default():
    images = tf.placeholder(seen.reading.dtype, [None, None, None, len(seen.reading.names)])
    constant_network(run, images, weights=weights)
  return weights.used


def constant_network(run, images, *, dropout=False, temperature=1.0, weights=None, portable=False):
  """Builds a run's network, its weights as constants, up to the tensors `labels` and `probabilities`.

  Args:
    run: a utils.runs.Run.
    images: [B, H, W, N] with all bands of the run's images, of their dtype.
    dropout: whether dropout drops, as in training.
    temperature: number that divides the logits, but not those that are compared for the labels: these stay the same to
      the bit.
    weights: the run's Weights, which are read if None.
    portable: see nets.network.Mode.

  Returns:
    `(labels, probabilities)`: uint8 [B, H, W], and float32 [B, H, W, C].

  Raises:
    UserError: if the checkpoint does not hold exactly the run's network.
  """
  config, flags = run.config['network'], run.config['flags']
  network, weights = get_network(config['name']), weights or weights_of(run)
  mode = Mode(dropout=dropout, dropout_keep_prob=flags.get('dropout_keep_prob') if dropout else None,
              weight_decay=0.0, portable=portable)  # builds no losses
  # Runs of earlier versions have an option `context`: variables of it have no place in the network, as the error says.
  levels = Input.from_config(run.config).levels(images)
  try:
    with tf.variable_scope(tf.get_variable_scope(), custom_getter=weights):
      logits, _ = network.logits(levels, len(run.classes), mode, **network.shape(config))
  except (TypeError, ValueError, KeyError, AttributeError, OverflowError) as error:  # options of another type
    raise UserError(f'{run.folder}: no network is as its config.json says ({brief(config)}): '
                    f'{str(error).splitlines()[0]}') from error
  weights.check()
  labels = tf.cast(tf.argmax(logits, axis=-1, output_type=tf.int32), tf.uint8, name='labels')
  logits = tf.identity(logits if temperature == 1 else logits / temperature, name='logits')
  return labels, tf.nn.softmax(logits, name='probabilities')


def weights_of(run):
  """The Weights of a runs.Run. Raises UserError if the checkpoint is damaged."""
  return Weights(run.checkpoint, averaged=bool(run.config['flags'].get('ema_decay')))


class Weights:
  """The weights of a checkpoint, by name: a `custom_getter` of tf.variable_scope that makes constants of them."""

  def __init__(self, checkpoint, averaged=False):
    """Reads the weights; raises UserError if the checkpoint is damaged.

    Args:
      checkpoint: prefix of the checkpoint's files.
      averaged: whether the moving averages of variables that have one take their place, see `ema_decay` of
        training.step.make_step.
    """
    self._checkpoint, self._constants = checkpoint, {}
    self._shapes = open_checkpoint(checkpoint).get_variable_to_shape_map()
    # Optimizer slots and averages are named after their variable: `NAME/Adam`.
    names = [name for name in self._shapes if not any(above in self._shapes for above in _above(name))]
    sources = {name: name + AVERAGE if averaged and name + AVERAGE in self._shapes else name for name in names}
    found = read_tensors(checkpoint, sources.values())
    self._values = {name: found[source] for name, source in sources.items()}

  @property
  def used(self):
    """Dict from the names of the variables that the network took to their arrays."""
    return {name: self._values[name] for name in self._constants}

  def __call__(self, getter, name, shape=None, dtype=tf.float32, **options):
    """The constant for a variable; zeros for one that the checkpoint has not or in another shape, see `check`."""
    if name not in self._constants:
      value = self._values.get(name)
      if value is None or list(value.shape) != list(shape):
        value = np.zeros(shape, dtype.as_numpy_dtype)
      with tf.name_scope(None):
        self._constants[name] = tf.constant(value, name=name)
    return self._constants[name]

  def digest(self):
    """Digest of the weights, hexadecimal: the same whatever optimizer and step the checkpoint holds beside them."""
    found = hashlib.sha256()
    for name, value in sorted(self._values.items()):
      if value.ndim:  # numbers are the step, and the optimizer's
        found.update(f'{name} {value.dtype} {value.shape}'.encode())
        found.update(np.ascontiguousarray(value))
    return found.hexdigest()

  def check(self):
    """Raises UserError if a variable is missing or of another shape, if the checkpoint holds others beside them, or a
    value that is not finite: all pixels would then be of the first class."""
    variables = {name: constant.shape.as_list() for name, constant in self._constants.items()}
    scopes, shapes = {name.split('/')[0] for name in variables}, self._shapes
    extra = [name for name in shapes if name.split('/')[0] in scopes and name not in variables
             and not any(above in variables for above in _above(name))]
    problems = [f'{name} is missing in it' for name in variables if name not in shapes]
    problems += [f'{name} is {list(shapes[name])} in it and {shape} in the network' for name, shape in variables.items()
                 if name in shapes and list(shapes[name]) != shape]
    problems += [f'{name} has no place in the network' for name in sorted(extra)]
    if problems:
      raise UserError(f'checkpoint {self._checkpoint} is not of the network that its config.json describes: '
                      f'{listed(problems, separator="; ")}')
    broken = [name for name, value in self.used.items() if not np.isfinite(value).all()]
    if broken:
      raise UserError(f'checkpoint {self._checkpoint} holds values that are not finite: {listed(broken)}')


def _above(name):
  """Names of the variables of which a variable `name` may be a slot."""
  parts = name.split('/')
  return ['/'.join(parts[:-depth]) for depth in (1, 2)]


class _Session(tf.Session):
  """A session that notes the names of the outputs whose graph it has optimized."""

  def __init__(self, graph, config):
    super().__init__(graph=graph, config=config)
    self.optimized = set()


class Sessions:
  """Sessions of one graph, one on each device, for calls from several threads.

  The next session is made when all that are there are busy: a single picture waits for one.
  """

  def __init__(self, graph, config, devices):
    """Makes the session of the first device.

    Args:
      graph: the tf.Graph on the first device.
      config: the tf.ConfigProto of the sessions.
      devices: names of the devices.
    """
    self._graph, self._config, self._waiting = graph, config, list(devices[1:])
    self._free, self._made, self._lock = queue.LifoQueue(), 1, threading.Lock()
    self._free.put(_Session(graph, config))

  @contextlib.contextmanager
  def free(self):
    """Yields a session that nobody else uses, after waiting for one if need be."""
    session = self._take()
    try:
      yield session
    finally:
      self._free.put(session)

  def run(self, fetches, feeds):
    """Runs tensors, see tf.Session.run, on a device that is free."""
    with self.free() as session:
      return session.run(fetches, feeds)

  def _take(self):
    with contextlib.suppress(queue.Empty):
      return self._free.get_nowait()
    with self._lock:
      device = self._waiting.pop(0) if self._waiting else None
    if device is None:
      return self._free.get()
    session = _Session(_on_device(self._graph, device), self._config)
    with self._lock:
      self._made += 1
    return session

  def close(self):
    """Closes all sessions, each when its call has come to its end."""
    for _ in range(self._made):
      self._free.get().close()
    self._made = 0


def _on_device(graph, device):
  """A copy of a tf.Graph on another device."""
  graph_def = graph.as_graph_def()
  for node in graph_def.node:
    node.device = device
  with tf.Graph().as_default() as copy:
    tf.import_graph_def(graph_def, name='')
  return copy


def inference_config(config, devices):
  """Adds to the tf.ConfigProto of a session what a graph of constants needs, and leaves out what it does not.

  Of the time in which TensorFlow optimizes Inception v3, the search for tensors that could leave the memory of the
  device takes a third, without a result.

  Args:
    config: a tf.ConfigProto of session.session_config, changed in place.
    devices: names of the devices.
  """
  options = config.graph_options.rewrite_options
  options.memory_optimization = options.NO_MEM_OPT
  # The graph never changes: with this, the session drops its own copy of all the weights.
  config.experimental.optimize_for_static_graph = True
  if len(devices) > 1:
    config.allow_soft_placement = True  # ops that only the CPU has
    config.device_count['CPU'] = max(1, sum('CPU' in name for name in devices))
  return config


def _return_free_memory():
  """Returns freed memory to the system if the C library can (glibc); otherwise the process keeps it."""
  with contextlib.suppress(OSError, AttributeError):
    ctypes.CDLL(None).malloc_trim(0)
