"""ONNX: a file for ONNX Runtime and others, by tf2onnx, with clean names and dimensions; weights in float16 or int8.

tf2onnx copies constants many times: VGG's fc6, 411 MB, takes it over 22 GB. Large kernels are therefore inputs of the
graph that it converts, and become initializers of the model afterwards.
"""

import json
import logging

import numpy as np

from utils.compat import tf
from utils.inference.engines import INPUT, OUTPUTS
from utils.packages import shortened

OPSET = 18
STAND_IN_BYTES = 1 << 20  # constants of this size are kept from tf2onnx
_KERNEL_OUTPUTS = {'Conv': 0, 'ConvTranspose': 1}  # op -> axis of the kernel that counts its outputs


def write(job, path):
  """Writes a graph.Job as an ONNX file. Weights in float16 or int8 are computed with in float32."""
  import onnx

  model = converted(job.graph_def)
  name_dimensions(model, job.shape, len(job.run.classes))
  if job.quantize == 'float16':
    store_as_float16(model)
  elif job.quantize == 'int8_weights':
    store_as_int8(model)
  onnx.helper.set_model_props(model, {key: value if isinstance(value, str) else json.dumps(value)
                                      for key, value in job.about.items()})
  onnx.save(model, path)


def converted(graph_def):
  """The onnx.ModelProto of a tf.GraphDef."""
  import tf2onnx

  logging.getLogger('tf2onnx').setLevel(logging.ERROR)
  outputs = [f'{name}:0' for name in OUTPUTS]
  # This folds batch norms into kernels, which is possible as long as these are constants.
  folded = tf2onnx.tf_loader.tf_optimize([f'{INPUT}:0'], outputs, graph_def)
  small, large = without_large(folded)
  model, _ = tf2onnx.convert.from_graph_def(
      small, input_names=[f'{name}:0' for name in (INPUT, *large)], output_names=outputs, opset=OPSET,
      tensors_to_rename={f'{name}:0': name for name in (INPUT, *OUTPUTS, *large)})
  for name, value in large.items():
    fill_in(model.graph, name, value)
  return model


def without_large(graph_def):
  """A copy of a tf.GraphDef with placeholders for its large constants, and a dict from their names to the arrays."""
  small, large = tf.GraphDef(versions=graph_def.versions, library=graph_def.library), {}
  for node in graph_def.node:
    if node.op == 'Const' and node.ByteSize() >= STAND_IN_BYTES:
      value = large[node.name] = tf.make_ndarray(node.attr['value'].tensor)
      stand_in = small.node.add(name=node.name, op='Placeholder')
      stand_in.attr['dtype'].CopyFrom(node.attr['dtype'])
      stand_in.attr['shape'].shape.CopyFrom(tf.TensorShape(value.shape).as_proto())
    else:
      small.node.add().CopyFrom(node)
  return small, large


def fill_in(graph, name, value):
  """Makes an initializer of an input of an onnx.GraphProto; where it is only transposed, of the transposed array."""
  from onnx import numpy_helper

  graph.input.remove(next(one for one in graph.input if one.name == name))
  users = [node for node in graph.node if name in node.input]
  for node in users:
    if node.op_type == 'Transpose':
      perm = next(attribute.ints for attribute in node.attribute if attribute.name == 'perm')
      graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value.transpose(perm)), node.output[0]))
      graph.node.remove(node)
  if any(node.op_type != 'Transpose' for node in users):
    graph.initializer.append(numpy_helper.from_array(value, name))


def name_dimensions(model, shape, num_classes):
  """Gives input and outputs of an onnx.ModelProto their dimensions: numbers, or batch, height and width.

  Args:
    model: the onnx.ModelProto.
    shape: shape of the images, a list; None for what may vary.
    num_classes: number of classes.
  """
  from onnx import helper

  area = [size or name for size, name in zip(shape, ('batch', 'height', 'width'))]
  dimensions = {INPUT: [*area, shape[3]], 'labels': area, 'probabilities': [*area, num_classes]}
  for value in (*model.graph.input, *model.graph.output):
    value.CopyFrom(helper.make_tensor_value_info(value.name, value.type.tensor_type.elem_type, dimensions[value.name]))


def _replace(graph, initializer, stored, nodes):
  """Puts other initializers, and nodes that make of them what an initializer held, in its place."""
  graph.initializer.remove(initializer)
  graph.initializer.extend(stored)
  for place, node in enumerate(nodes):  # before all that use them
    graph.node.insert(place, node)


def store_as_float16(model):
  """Stores the weights of an onnx.ModelProto as float16."""
  from onnx import TensorProto, helper, numpy_helper

  for initializer in list(model.graph.initializer):
    value = shortened(numpy_helper.to_array(initializer))
    if value.dtype == np.float16:
      name = f'{initializer.name}/float16'
      _replace(model.graph, initializer, [numpy_helper.from_array(value, name)],
               [helper.make_node('Cast', [name], [initializer.name], to=TensorProto.FLOAT)])


def store_as_int8(model):
  """Stores the kernels of an onnx.ModelProto as int8: whole numbers from -127 to 127, and a scale for each output."""
  from onnx import helper, numpy_helper

  axes = {node.input[1]: _KERNEL_OUTPUTS[node.op_type] for node in model.graph.node if node.op_type in _KERNEL_OUTPUTS}
  for initializer in list(model.graph.initializer):
    axis = axes.get(initializer.name)
    if axis is None:
      continue
    value = numpy_helper.to_array(initializer)
    others = tuple(other for other in range(value.ndim) if other != axis)
    scale = np.maximum(np.abs(value).max(axis=others, keepdims=True), 1e-30) / np.float32(127)
    names = f'{initializer.name}/int8', f'{initializer.name}/scale'
    stored = np.rint(value / scale).astype(np.int8), scale.ravel()
    _replace(model.graph, initializer, [numpy_helper.from_array(*pair) for pair in zip(stored, names)],
             [helper.make_node('DequantizeLinear', names, [initializer.name], axis=axis)])
