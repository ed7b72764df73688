"""A trained network as a frozen graph for inference.

The graph is built by the same `network.logits` as in training. Its variables become constants straight from the
checkpoint: TensorFlow's graph optimiser then fuses convolution, bias and ReLU into one op and lays the weights out for
the CPU once instead of in every call.
"""

import contextlib
import ctypes

import numpy as np

from nets import get_network
from utils.compat import tf
from utils.errors import UserError
from utils.inference import mc_dropout
from utils.inference.tta import Views, scaled_size
from utils.runs import AVERAGE, open_checkpoint, read_tensors
from utils.session import session_config

_LISTED = 5  # variables that one error lists before it only counts them
_OUTPUTS = ('labels', 'probabilities')
_PLAIN = Views()


class Predictor:
  """Runs a trained network on images of any size. A context manager; `close()` frees what it holds.

  Attributes:
    num_classes: number of classes.
  """

  def __init__(self, run, precision='float32', *, samples=0, seed=0, views=_PLAIN, threads=0, gpu=None,
               gpu_memory_fraction=0.0):
    """Builds and freezes the run's network.

    Args:
      run: a utils.runs.Run.
      precision: 'float32' or 'bfloat16', see utils.session.session_config.
      samples: number of passes with dropout that are averaged (utils/sampling.py); 0 for one pass without dropout.
      seed: what is dropped follows from it and the number of the pass.
      views: a tta.Views: the ways in which each image is seen; what the network says is averaged over them.
      threads: see utils.session.session_config.
      gpu: see there.
      gpu_memory_fraction: see there.

    Raises:
      UserError: if the checkpoint does not hold exactly the run's network, the precision or a GPU is not available, or
        samples are asked of a network that drops nothing.
    """
    config = session_config(precision, threads, gpu=gpu, gpu_memory_fraction=gpu_memory_fraction)
    # The graph never changes: with this, the session drops its own copy of all the weights.
    config.experimental.optimize_for_static_graph = True
    self.num_classes = len(run.classes)
    self._samples, self._seed, self._views = samples, seed, views
    frozen = _frozen(run, dropout=samples > 0)
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
    self.labels(np.zeros([1, 1, 1, 3], np.uint8))  # the first call optimises the graph, in many copies of the weights
    _return_free_memory()

  def labels(self, images):
    """The most probable class of every pixel; only these leave the graph, so that memory stays low.

    Args:
      images: uint8 [B, H, W, 3], RGB; H and W from 1.

    Returns:
      uint8 [B, H, W], label ids.
    """
    if self._samples or not self._views.plain:
      return self.probabilities(images).argmax(axis=-1).astype(np.uint8)
    return self._run('labels', images)

  def probabilities(self, images):
    """The probability of every class at every pixel.

    Args:
      images: uint8 [B, H, W, 3], RGB; H and W from 1.

    Returns:
      float32 [B, H, W, num_classes]; the classes sum to one. With samples or views, their mean.
    """
    if self._samples or not self._views.plain:
      return self.sampled(images, measure=None)[0]
    return self._run('probabilities', images)

  def sampled(self, images, measure=mc_dropout.MEASURES[0]):
    """Averages passes with dropout over every view, or the views alone without samples.

    Args:
      images: uint8 [B, H, W, 3], RGB; H and W from 1.
      measure: of uncertainty, see utils.inference.mc_dropout.average; a pass over one view is a pass.

    Returns:
      `(mean, uncertainty)`: float32 [B, H, W, num_classes], whose classes sum to one, and float32 [B, H, W]; or None.
    """
    passes = self._passes(images)
    return mc_dropout.average(lambda number: next(passes), len(self._views.each) * max(self._samples, 1), measure)

  def _passes(self, images):
    """Yields float32 [B, H, W, num_classes] of every pass over every view, as the images lie."""
    size = images.shape[1:3]
    output, resizing = ('probabilities:0', {}) if self._views.plain else (self._restored, {self._size: size})
    for number, (scale, mirrored) in enumerate(self._views.each):
      seen = images
      if scale != 1:
        seen = self._session.run(self._resized, {'images:0': images, self._size: scaled_size(size, scale)})
      for feeds in self._feeds(seen[:, :, ::-1] if mirrored else seen, number * self._samples):
        probabilities = self._session.run(output, {**feeds, **resizing})
        yield probabilities[:, :, ::-1] if mirrored else probabilities

  def _feeds(self, images, first):
    """Yields what to feed for each pass over a view; `first` is the first one's number.

    What lies before the first dropout is computed once, not in every pass.
    """
    if not self._samples:
      yield {'images:0': images}
      return
    shared = dict(zip(self._shared, self._session.run(self._shared, {'images:0': images})))
    for number in range(first, first + self._samples):
      seeds = {name: [self._seed, number * len(self._seeds) + place] for place, name in enumerate(self._seeds)}
      yield {**shared, **seeds}

  def _run(self, output, images):
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
  return size, tf.cast(tf.round(images), tf.uint8), probabilities


def _described(run):
  """The run's network in a few words."""
  network, keep_prob = run.config['network'], run.config['flags'].get('dropout_keep_prob')
  name = '-'.join(filter(None, (network['name'], network.get('skip'))))
  return name + (f' with --dropout_keep_prob={keep_prob:g}' if keep_prob else '')


def _frozen(run, *, dropout=False):
  """The GraphDef of a run's network from `images` to _OUTPUTS, weights inside as constants; dropout as in training."""
  config = run.config['network']
  network = get_network(config['name'])
  # Runs of earlier versions have `context` beside these: if one was built, its variables have no place, and are named.
  options = {name: config[name] for name in ('skip', *network.options) if config.get(name) is not None}
  if dropout:
    options |= {'dropout': True, 'dropout_keep_prob': run.config['flags'].get('dropout_keep_prob')}
  with tf.Graph().as_default() as graph:
    images = tf.placeholder(tf.uint8, [None, None, None, 3], name='images')
    logits, _ = network.logits(tf.cast(images, tf.float32), len(run.classes), False, **options)
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
    checkpoint: prefix of its files.
    variables: dict from name to shape (list of int).

  Returns:
    dict from name to array.

  Raises:
    UserError: if a variable is missing or of another shape, the checkpoint holds layers that the network has not, or
      it is damaged.
  """
  shapes = open_checkpoint(checkpoint).get_variable_to_shape_map()
  scopes = {name.split('/')[0] for name in variables}
  # Optimiser slots are named after their variable: `NAME/Adam`.
  extra = [name for name in shapes if name.split('/')[0] in scopes and name not in variables
           and not any('/'.join(name.split('/')[:-depth]) in variables for depth in (1, 2))]
  problems = [f'{name} is missing in it' for name in variables if name not in shapes]
  problems += [f'{name} is {list(shapes[name])} in it and {shape} in the network' for name, shape in variables.items()
               if name in shapes and list(shapes[name]) != shape]
  problems += [f'{name} has no place in the network' for name in sorted(extra)]
  if problems:
    more = f', and {len(problems) - _LISTED} more' if len(problems) > _LISTED else ''
    raise UserError(f'checkpoint {checkpoint} is not of the network that its config.json describes: '
                    f'{"; ".join(problems[:_LISTED])}{more}')
  return read_tensors(checkpoint, variables)


def averages(checkpoint, names):
  """Reads the moving averages of those of the variables that have one, see training.make_step."""
  shapes = open_checkpoint(checkpoint).get_variable_to_shape_map()
  values = read_tensors(checkpoint, [name + AVERAGE for name in names if name + AVERAGE in shapes])
  return {name.removesuffix(AVERAGE): value for name, value in values.items()}


def freeze(graph_def, values):
  """Replaces variables by constants.

  Args:
    graph_def: tf.GraphDef of a network in inference mode, with nodes `labels` and `probabilities`.
    values: dict from variable name to array.

  Returns:
    the tf.GraphDef of what these two nodes need.
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
  """Gives memory that was freed back to the system, where the C library can (glibc); elsewhere it is only kept."""
  with contextlib.suppress(OSError, AttributeError):
    ctypes.CDLL(None).malloc_trim(0)
