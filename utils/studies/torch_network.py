"""A network's TensorFlow graph as a PyTorch module of the same layers and weights.

Needs PyTorch (requirements-pytorch.txt); only benchmark_pytorch.py imports this file. Inside the module a tensor is
[B, C, H, W], with channels last in memory, the fastest layout of PyTorch's convolutions on CPUs.
"""

import dataclasses
import operator
from typing import Any

import numpy as np
import torch

from nets.geometry import RESAMPLE_COLUMNS, RESAMPLE_ROWS
from utils.compat import tf
from utils.errors import UserError
from utils.session import session_config

_AXES = (0, 3, 1, 2)  # axes of a [B, H, W, C] tensor in PyTorch's order
_SOURCES = ('Placeholder', 'VarHandleOp', 'RandomUniform')  # operations that depend on none of these are constant


@dataclasses.dataclass(frozen=True)
class _Weight:
  """The name and the array of a variable that no layer has taken yet."""
  name: str
  value: Any


@dataclasses.dataclass(frozen=True)
class _Build:
  """A module under construction: torch.fx.Graph, module of the layers, dict from variable name to torch parameter."""
  graph: Any
  root: Any
  parameters: dict

  def layer(self, op, module, *inputs):
    """Adds a layer named after a tf.Operation; returns its output."""
    name = _identifier(op.name)
    self.root.add_module(name, module)
    return self.graph.call_module(name, inputs)

  def buffer(self, op, value):
    """Adds a constant tensor that belongs to a tf.Operation; returns its node."""
    name = f'{_identifier(op.name)}_constant'
    self.root.register_buffer(name, value)
    return self.graph.get_attr(name)

  def take(self, weight, parameter):
    """Registers the torch parameter made of a _Weight; returns it."""
    self.parameters[weight.name] = parameter
    return parameter

  def call(self, function, *inputs, **options):
    """Adds a call of a function; returns its output."""
    return self.graph.call_function(function, inputs, options)


def convert(logits, images, values):
  """Builds the PyTorch module that computes a tensor of a TensorFlow graph, layer by layer.

  TensorFlow computes the constants, which depend on neither images, weights nor random numbers: offsets of the padding,
  matrices of the upsampling.

  Args:
    logits: tf.Tensor [B, H, W, C]; all tensors on the way to it have static shapes.
    images: tf.placeholder float32 [B, H, W, 3].
    values: dict from variable name to array.

  Returns:
    network: torch.fx.GraphModule from float32 [B, H, W, 3] to [B, C, H, W]; batch norms keep their statistics.
    parameters: dict from the name of a trainable variable to its torch parameter; a convolution's weights
      [kh, kw, in, out] are [out, in, kh, kw] there, a transposed convolution's [kh, kw, out, in] are
      [in, out, kh, kw].

  Raises:
    UserError: for an operation that has no counterpart here.
  """
  operations = _needed(logits)
  varying = _varying(operations)
  constants = _constants(operations, varying)
  build = _Build(torch.fx.Graph(), torch.nn.Module(), {})
  made = {}
  for op in operations:
    if op in varying:
      if op.type == 'Placeholder' and op is images.op:
        made[op] = build.call(torch.permute, build.graph.placeholder('images'), _AXES)
      elif op.type == 'VarHandleOp':
        made[op] = _Weight(op.name, values[op.name])
      elif op.type in _COUNTERPARTS:
        inputs = [made[tensor.op] if tensor.op in varying else constants[tensor] for tensor in op.inputs]
        made[op] = _COUNTERPARTS[op.type](build, op, *inputs)
      else:
        raise _no_counterpart(op)
  build.graph.output(made[logits.op])
  network = torch.fx.GraphModule(build.root, build.graph).eval().to(memory_format=torch.channels_last)
  trained = {variable.op.name for variable in logits.graph.get_collection(tf.GraphKeys.TRAINABLE_VARIABLES)}
  return network, {name: parameter for name, parameter in build.parameters.items() if name in trained}


def _needed(tensor):
  """List of the operations that a tensor depends on, each after its inputs."""
  needed, waiting = set(), [tensor.op]
  while waiting:
    op = waiting.pop()
    if op not in needed:
      needed.add(op)
      waiting += [source.op for source in op.inputs]
  return [op for op in tensor.graph.get_operations() if op in needed]


def _varying(operations):
  """Set of the operations that depend on one of _SOURCES; in the list `operations`, each comes after its inputs."""
  varying = set()
  for op in operations:
    if op.type in _SOURCES or any(tensor.op in varying for tensor in op.inputs):
      varying.add(op)
  return varying


def _constants(operations, varying):
  """Computes the constant inputs of the operations that vary: dict from tensor to array."""
  tensors = list(dict.fromkeys(
      tensor for op in operations if op in varying for tensor in op.inputs if tensor.op not in varying))
  with tf.Session(graph=operations[0].graph, config=session_config(gpu='none')) as session:
    return dict(zip(tensors, session.run(tensors)))


def _identifier(name):
  return name.replace('/', '_').replace('-', '_').replace('.', '_')


def _no_counterpart(op, what=''):
  return UserError(f'{op.name}: {op.type}{what} has no counterpart in PyTorch here; use --net=inception_v3')


def _conv2d(build, op, features, weight):
  kernel = weight.value.shape
  dilations = tuple(op.get_attr('dilations')[1:3])
  features, padding = _padded(build, op, features, kernel=kernel[:2], dilations=dilations)
  conv = torch.nn.Conv2d(kernel[2], kernel[3], kernel[:2], stride=_inner(op, 'strides'), padding=padding,
                         dilation=dilations, bias=False)
  conv.weight = build.take(weight, _parameter(weight.value.transpose(3, 2, 0, 1)))
  return build.layer(op, conv, features)


def _transposed_conv2d(build, op, size, weight, features):
  """A transposed convolution; TensorFlow's is the gradient of a convolution to its input."""
  del size
  kernel, strides = weight.value.shape, _inner(op, 'strides')
  if op.get_attr('padding') != b'VALID':
    raise _no_counterpart(op, ' with padding')
  spare = [out - (cells - 1) * stride - window for out, cells, stride, window in zip(
      op.outputs[0].shape.as_list()[1:3], op.inputs[2].shape.as_list()[1:3], strides, kernel)]
  conv = torch.nn.ConvTranspose2d(kernel[3], kernel[2], kernel[:2], stride=strides, output_padding=spare, bias=False)
  conv.weight = build.take(weight, _parameter(weight.value.transpose(3, 2, 0, 1)))
  return build.layer(op, conv, features)


def _batch_norm(build, op, features, *statistics):
  """A batch norm with fixed statistics; gain and offset are trained if they are variables."""
  if op.get_attr('is_training'):
    raise _no_counterpart(op, ' in training mode')
  gain, offset, mean, variance = statistics
  norm = torch.nn.BatchNorm2d(_value(mean).size, eps=op.get_attr('epsilon'))
  norm.running_mean, norm.running_var = (torch.tensor(_value(value)) for value in (mean, variance))
  for name, value in (('weight', gain), ('bias', offset)):
    trained = isinstance(value, _Weight)
    parameter = _parameter(_value(value), requires_grad=trained)
    setattr(norm, name, build.take(value, parameter) if trained else parameter)
  return build.layer(op, norm, features)


def _relu(build, op, features):
  """A ReLU, in place if nothing else reads its input."""
  return build.layer(op, torch.nn.ReLU(inplace=len(op.inputs[0].consumers()) == 1), features)


def _mirror_pad(build, op, features, paddings):
  """Padding of rows and columns by their mirror images, the border pixels included."""
  if op.get_attr('mode') != b'SYMMETRIC' or np.any(paddings[[0, 3]]):
    raise _no_counterpart(op, ' without the border pixels')
  return build.call(_symmetric, features, tuple(map(tuple, np.array(paddings)[1:3].tolist())))


def _symmetric(features, paddings):
  """Pads rows and columns by ((above, below), (left, right))."""
  for axis, (before, after) in enumerate(paddings, start=2):
    ends = features.narrow(axis, 0, before), features.narrow(axis, features.shape[axis] - after, after)
    features = torch.cat([ends[0].flip(axis), features, ends[1].flip(axis)], dim=axis)
  return features


def _max_pool(build, op, features):
  window = _inner(op, 'ksize')
  features, padding = _padded(build, op, features, kernel=window, value=-np.inf)
  return build.layer(op, torch.nn.MaxPool2d(window, _inner(op, 'strides'), padding), features)


def _average_pool(build, op, features):
  """An average pooling; TensorFlow's mean is over the cells of the map, without its padding."""
  window, (vertical, horizontal) = _inner(op, 'ksize'), _same_padding(op, _inner(op, 'ksize'))
  if vertical[0] != vertical[1] or horizontal[0] != horizontal[1]:
    raise _no_counterpart(op, ' with unequal padding')
  pool = torch.nn.AvgPool2d(window, _inner(op, 'strides'), (vertical[0], horizontal[0]), count_include_pad=False)
  return build.layer(op, pool, features)


def _elementwise(function):
  """The counterpart of an operation on tensors of one shape, or on a tensor and a number (or one per channel)."""

  def make(build, op, *inputs):
    return build.call(function, *(_operand(build, op, value) for value in inputs))

  return make


def _operand(build, op, value):
  """An input of an elementwise operation as PyTorch broadcasts it over [B, C, H, W]."""
  if isinstance(value, _Weight):
    name = _identifier(value.name)
    build.root.register_parameter(name, build.take(value, _parameter(value.value.reshape(-1, 1, 1))))
    return build.graph.get_attr(name)
  if not isinstance(value, np.ndarray | np.generic):
    return value
  if value.ndim == 0:
    return float(value)
  if value.ndim > 1:
    raise _no_counterpart(op, f' with a constant of shape {list(value.shape)}')
  return build.buffer(op, torch.tensor(value).reshape(-1, 1, 1))


def _concatenation(build, op, *inputs):
  *features, axis = inputs
  return build.call(torch.cat, list(features), dim=_AXES.index(int(axis) % 4))


def _resized(build, op, images, size):
  """A bilinear resizing that samples at the centers of pixels, TensorFlow 2's."""
  if op.get_attr('align_corners') or not op.get_attr('half_pixel_centers'):
    raise _no_counterpart(op, ' of TensorFlow 1')
  size = tuple(int(length) for length in size)
  return build.call(torch.nn.functional.interpolate, images, size, mode='bilinear', align_corners=False)


def _slice(build, op, features, begin, end, strides):
  if any(op.get_attr(f'{mask}_mask') for mask in ('ellipsis', 'new_axis', 'shrink_axis')) or len(begin) != 4:
    raise _no_counterpart(op, ' that changes the rank')
  open_ended = lambda mask, axis: op.get_attr(mask) >> axis & 1
  slices = [slice(None if open_ended('begin_mask', axis) else int(begin[axis]),
                  None if open_ended('end_mask', axis) else int(end[axis]), int(strides[axis])) for axis in _AXES]
  return build.call(operator.getitem, features, tuple(slices))


def _gather(build, op, features, indices, axis):
  return build.call(_rows, features, build.buffer(op, torch.tensor(indices).long()), int(axis))


def _rows(features, indices, axis):
  """Picks rows or columns, by way of [B, H, W, C], the order of the features in memory."""
  return features.permute(0, 2, 3, 1).index_select(axis, indices).permute(_AXES)


def _matrix_product(build, op, matrix, features):
  """The products of nets.geometry.bilinear_upsample, told apart by their names, since shapes can be alike."""
  matrix = build.buffer(op, torch.tensor(matrix))
  name = op.name.split('/')[-1]
  if name.startswith(RESAMPLE_COLUMNS):
    return build.call(torch.matmul, features, build.call(torch.t, matrix))
  if name.startswith(RESAMPLE_ROWS):
    return build.call(torch.matmul, matrix, features)
  raise _no_counterpart(op)


def _reshape(build, op, features, shape):
  """Returns its input: TensorFlow reshapes before and after its matrix products, PyTorch's need no reshape."""
  del build, shape
  beside = {op.inputs[0].op.type, *(user.type for user in op.outputs[0].consumers())}
  if 'BatchMatMulV2' not in beside:
    raise _no_counterpart(op)
  return features


def _random(build, op, shape):
  """Random numbers on the device of a constant, which moves with the module."""
  place = build.call(torch.Tensor.expand, build.buffer(op, torch.zeros(())), tuple(int(length) for length in shape))
  return build.call(torch.permute, build.call(torch.rand_like, place), _AXES)


_COUNTERPARTS = {
    # Arguments: the _Build, the tf.Operation, and its inputs: nodes, _Weights, or arrays if constant.
    'AddV2': _elementwise(operator.add),
    'AvgPool': _average_pool,
    'BatchMatMulV2': _matrix_product,
    'BiasAdd': _elementwise(operator.add),
    'ConcatV2': _concatenation,
    'Conv2D': _conv2d,
    'Conv2DBackpropInput': _transposed_conv2d,
    'Floor': _elementwise(torch.floor),
    'FusedBatchNormV3': _batch_norm,
    'GatherV2': _gather,
    'Identity': lambda build, op, value: value,
    'MaxPool': _max_pool,
    'MirrorPad': _mirror_pad,
    'Mul': _elementwise(operator.mul),
    'RandomUniform': _random,
    'ReadVariableOp': lambda build, op, weight: weight,
    'RealDiv': _elementwise(operator.truediv),
    'Relu': _relu,
    'ResizeBilinear': _resized,
    'Reshape': _reshape,
    'StridedSlice': _slice,
    'Sub': _elementwise(operator.sub),
}


def _parameter(value, requires_grad=True):
  return torch.nn.Parameter(torch.tensor(np.ascontiguousarray(value)), requires_grad=requires_grad)


def _value(value):
  return value.value if isinstance(value, _Weight) else value


def _inner(op, attribute):
  """The two entries of a list attribute for rows and columns."""
  return tuple(op.get_attr(attribute)[1:3])


def _padded(build, op, features, *, kernel, dilations=(1, 1), value=0.0):
  """Pads features if the layer cannot; returns the features and the (rows, columns) for the layer to pad."""
  vertical, horizontal = _same_padding(op, kernel, dilations)
  if vertical[0] == vertical[1] and horizontal[0] == horizontal[1]:
    return features, (vertical[0], horizontal[0])
  return build.call(torch.nn.functional.pad, features, (*horizontal, *vertical), value=value), (0, 0)


def _same_padding(op, kernel, dilations=(1, 1)):
  """TensorFlow's padding ((above, below), (left, right)); the larger half of an odd number comes last."""
  if op.get_attr('data_format') != b'NHWC' or op.get_attr('padding') not in (b'SAME', b'VALID'):
    raise _no_counterpart(op, ' with this padding or data format')
  if op.get_attr('padding') == b'VALID':
    return (0, 0), (0, 0)
  sizes = zip(op.inputs[0].shape.as_list()[1:3], op.outputs[0].shape.as_list()[1:3], kernel, _inner(op, 'strides'),
              dilations)
  totals = [max((out - 1) * stride + (window - 1) * dilation + 1 - length, 0)
            for length, out, window, stride, dilation in sizes]
  return tuple((total // 2, total - total // 2) for total in totals)
