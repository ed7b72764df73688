"""A trained network as a frozen graph for inference.

The graph is built by the same `network.logits` as in training. Its variables become constants straight from the
checkpoint: TensorFlow's graph optimizer then fuses convolution, bias and ReLU into one op and lays the weights out for
the CPU once instead of in every call.
"""

import contextlib
import ctypes

import numpy as np

from datasets.inputs import Input
from nets import get_network
from nets.network import Mode
from utils.checkpoint_files import open_checkpoint, read_tensors
from utils.compat import tf
from utils.errors import UserError, listed
from utils.inference import mc_dropout
from utils.inference.tta import Views, scaled_size
from utils.runs import AVERAGE
from utils.session import session_config

_OUTPUTS = ('labels', 'probabilities')
_PLAIN = Views()


class Predictor:
  """Runs a trained network on images of any size. A context manager; `close()` frees the session's memory.

  Attributes:
    num_classes: number of classes.
    views: the tta.Views over which probabilities are averaged.
    seen: the inputs.Input: the kind of the images, and the bands of them that the network sees.
  """

  def __init__(self, run, precision='float32', *, samples=0, seed=0, views=_PLAIN, threads=0, gpu=None,
               gpu_memory_fraction=0.0):
    """Builds and freezes the run's network.

    Args:
      run: a utils.runs.Run.
      precision: see utils.session.Device.
      samples: number of passes with dropout that are averaged (mc_dropout.py); 0 for one pass without dropout.
      seed: random seed of the dropout passes; a pass's masks depend on the seed and the number of the pass alone.
      views: a tta.Views, the views of each image over which probabilities are averaged.
      threads: see utils.session.session_config.
      gpu: see utils.session.Device.
      gpu_memory_fraction: see utils.session.Device.

    Raises:
      UserError: if the checkpoint does not hold exactly the run's network, the precision or a GPU is not available, or
        the network has no dropout to sample.
    """
    config = session_config(precision, threads, gpu=gpu, gpu_memory_fraction=gpu_memory_fraction)
    # The graph never changes: with this, the session drops its own copy of all the weights.
    config.experimental.optimize_for_static_graph = True
    self.num_classes, self.seen = len(run.classes), Input.from_config(run.config)
    self._samples, self._seed, self.views = samples, seed, views
    frozen = frozen_graph(run, dropout=samples > 0)
    if samples:
      self._seeds = mc_dropout.take_seeds(frozen)
      self._shared = mc_dropout.shared_tensors(frozen, 'images', self._seeds)
      if not self._seeds:
        raise UserError(f'--samples={samples}: {_described(run)} drops nothing, so all passes would be the same; '
                        'samples need a network that was trained with --dropout_keep_prob below 1')
    with tf.Graph().as_default() as graph:
      tf.import_graph_def(frozen, name='')
      self._size, self._resized, self._restored = _resizing(graph)
    self._session = tf.Session(graph=graph, config=config)
    self._optimized = set()  # names of the outputs whose graph is
    self.labels(np.zeros([1, 1, 1, len(self.seen.reading.names)], self.seen.reading.dtype))

  def labels(self, images):
    """Predicts the most probable class of every pixel. Only labels leave the graph, so that memory stays low.

    Args:
      images: uint8 [B, H, W, 3], RGB, or [B, H, W, N] with all bands of a run's images, of their dtype; H and W from 1.

    Returns:
      uint8 [B, H, W], label ids.
    """
    if self._samples or not self.views.plain:
      return self.probabilities(images).argmax(axis=-1).astype(np.uint8)
    return self._run('labels', images)

  def probabilities(self, images):
    """Predicts the probability of every class at every pixel.

    Args:
      images: as of `labels`.

    Returns:
      float32 [B, H, W, num_classes]; the classes sum to 1. With samples or views, their mean.
    """
    if self._samples or not self.views.plain:
      return self.sampled(images, measure=None)[0]
    return self._run('probabilities', images)

  def sampled(self, images, measure=mc_dropout.MEASURES[0]):
    """Averages passes with dropout over every view; without samples, one pass over every view.

    Args:
      images: as of `labels`.
      measure: measure of the uncertainty over all passes, see mc_dropout.average.

    Returns:
      `(mean, uncertainty)`: float32 [B, H, W, num_classes], whose classes sum to 1, and float32 [B, H, W]; None without
      a measure.
    """
    return mc_dropout.average(self._passes(images), measure)

  def _passes(self, images):
    """Yields float32 [B, H, W, num_classes] of every pass over every view, in the images' size and orientation."""
    size = images.shape[1:3]
    output, resizing = ('probabilities:0', {}) if self.views.plain else (self._restored, {self._size: size})
    for number, (scale, mirrored) in enumerate(self.views.each):
      seen = images
      if scale != 1:
        seen = self._session.run(self._resized, {'images:0': images, self._size: scaled_size(size, scale)})
      for feeds in self._feeds(seen[:, :, ::-1] if mirrored else seen, number * self._samples):
        probabilities = self._session.run(output, {**feeds, **resizing})
        yield probabilities[:, :, ::-1] if mirrored else probabilities

  def _feeds(self, images, first):
    """Yields the feeds of each pass over a view; `first` is the number of the first pass.

    Layers before the first dropout are computed once, not in every pass.
    """
    if not self._samples:
      yield {'images:0': images}
      return
    shared = dict(zip(self._shared, self._session.run(self._shared, {'images:0': images})))
    for number in range(first, first + self._samples):
      seeds = {name: [self._seed, number * len(self._seeds) + place] for place, name in enumerate(self._seeds)}
      yield {**shared, **seeds}

  def _run(self, output, images):
    if output not in self._optimized:  # the first call optimizes the graph, in many copies of the weights
      self._optimized.add(output)
      self._run(output, images[:1, :1, :1])
      _return_free_memory()
    return self._session.run(f'{output}:0', {'images:0': images})

  def close(self):
    """Closes the session."""
    self._session.close()

  def __enter__(self):
    return self

  def __exit__(self, *exception):
    self.close()


def _resizing(graph):
  """Adds a placeholder for a size, and the images and the probabilities in that size; returns the three tensors.

  Bilinear, as images are scaled in training. TensorFlow 2's resizing samples at the centers of the pixels, TensorFlow
  1's shifts them by up to half a pixel.
  """
  size = tf.placeholder(tf.int32, [2])
  images, probabilities = (tf.compat.v2.image.resize(graph.get_tensor_by_name(f'{name}:0'), size)
                           for name in ('images', 'probabilities'))
  kind = graph.get_tensor_by_name('images:0').dtype
  return size, tf.saturate_cast(tf.round(images), kind) if kind.is_integer else images, probabilities


def _described(run):
  """The run's network in a few words."""
  network, keep_prob = run.config['network'], run.config['flags'].get('dropout_keep_prob')
  name = '-'.join(filter(None, (network['name'], network.get('skip'))))
  return name + (f' with --dropout_keep_prob={keep_prob:g}' if keep_prob else '')


def frozen_graph(run, *, dropout=False):
  """The GraphDef of a run's network from `images` to _OUTPUTS, weights as constants; `dropout` as in training."""
  config = run.config['network']
  network = get_network(config['name'])
  mode = Mode(dropout=dropout, dropout_keep_prob=run.config['flags'].get('dropout_keep_prob') if dropout else None)
  # Runs of earlier versions have an option `context`: variables of it have no place in the network, as the error says.
  seen = Input.from_config(run.config)
  with tf.Graph().as_default() as graph:
    images = tf.placeholder(seen.reading.dtype, [None, None, None, len(seen.reading.names)], name='images')
    logits, _ = network.logits(seen.levels(images), len(run.classes), mode, **network.shape(config))
    tf.cast(tf.argmax(logits, axis=-1, output_type=tf.int32), tf.uint8, name='labels')
    tf.nn.softmax(logits, name='probabilities')
    variables = {variable.op.name: variable.shape.as_list() for variable in tf.global_variables()}
  values = checked_values(run.checkpoint, variables)
  if run.config['flags'].get('ema_decay'):
    values |= averages(run.checkpoint, variables)
  return freeze(graph.as_graph_def(), values)


def checked_values(checkpoint, variables):
  """Reads a network's variables from a checkpoint of exactly this network.

  Args:
    checkpoint: prefix of the checkpoint's files.
    variables: dict from name to shape (list of int).

  Returns:
    dict from name to array.

  Raises:
    UserError: if a variable is missing or of another shape, or the checkpoint holds layers that the network lacks or is
      damaged.
  """
  shapes = open_checkpoint(checkpoint).get_variable_to_shape_map()
  scopes = {name.split('/')[0] for name in variables}
  # Optimizer slots are named after their variable: `NAME/Adam`.
  extra = [name for name in shapes if name.split('/')[0] in scopes and name not in variables
           and not any('/'.join(name.split('/')[:-depth]) in variables for depth in (1, 2))]
  problems = [f'{name} is missing in it' for name in variables if name not in shapes]
  problems += [f'{name} is {list(shapes[name])} in it and {shape} in the network' for name, shape in variables.items()
               if name in shapes and list(shapes[name]) != shape]
  problems += [f'{name} has no place in the network' for name in sorted(extra)]
  if problems:
    raise UserError(f'checkpoint {checkpoint} is not of the network that its config.json describes: '
                    f'{listed(problems, separator="; ")}')
  return read_tensors(checkpoint, variables)


def averages(checkpoint, names):
  """Reads the moving averages of variables, see `ema_decay` of training.step.make_step.

  Args:
    checkpoint: prefix of the checkpoint's files.
    names: names of variables; those without a moving average are ignored.

  Returns:
    dict from variable name to array.
  """
  shapes = open_checkpoint(checkpoint).get_variable_to_shape_map()
  values = read_tensors(checkpoint, [name + AVERAGE for name in names if name + AVERAGE in shapes])
  return {name.removesuffix(AVERAGE): value for name, value in values.items()}


def freeze(graph_def, values):
  """Replaces variables by constants.

  Args:
    graph_def: tf.GraphDef of a network in inference mode, with nodes `labels` and `probabilities`.
    values: dict from variable name to array.

  Returns:
    the tf.GraphDef of the nodes on which these two depend.
  """
  graph_def = tf.graph_util.extract_sub_graph(graph_def, _OUTPUTS)
  for node in graph_def.node:
    if node.op == 'VarHandleOp':
      _make_constant(node, values[node.name])
    elif node.op == 'ReadVariableOp':
      kind = node.attr['dtype'].type
      node.op = 'Identity'
      node.ClearField('attr')
      node.attr['T'].type = kind
  return tf.graph_util.extract_sub_graph(graph_def, _OUTPUTS)


def _make_constant(node, value):
  node.op = 'Const'
  node.ClearField('attr')
  node.attr['dtype'].type = tf.as_dtype(value.dtype).as_datatype_enum
  node.attr['value'].tensor.CopyFrom(tf.make_tensor_proto(value))


def _return_free_memory():
  """Returns freed memory to the system if the C library can (glibc); otherwise the process keeps it."""
  with contextlib.suppress(OSError, AttributeError):
    ctypes.CDLL(None).malloc_trim(0)
