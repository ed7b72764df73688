"""Makes small VGGs in the files of Caffe and MatConvNet, by other means than those that read them."""

import numpy as np
import scipy.io
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from checkpoints.slim_vgg import Vgg

# Other sizes everywhere, so that axes that are swapped cannot pass.
THIN_16 = Vgg('vgg_16', (2, 2, 3, 3, 3), depths=(4, 5, 6, 7, 8), hidden=9, num_classes=11)
THIN_19 = Vgg('vgg_19', (2, 2, 4, 4, 4), depths=(5, 4, 6, 8, 7), hidden=9, num_classes=11)

_NUMBERS = {'int64': 3, 'float': 2, 'double': 1, 'string': 9, 'int32': 5}
# message -> field -> (number, type, repeated), after caffe.proto
_CAFFE = {
    'BlobShape': {'dim': (1, 'int64', True)},
    'BlobProto': {'num': (1, 'int32', False), 'channels': (2, 'int32', False), 'height': (3, 'int32', False),
                  'width': (4, 'int32', False), 'data': (5, 'float', True), 'diff': (6, 'float', True),
                  'shape': (7, 'BlobShape', False), 'double_data': (8, 'double', True)},
    'V1LayerParameter': {'bottom': (2, 'string', True), 'top': (3, 'string', True), 'name': (4, 'string', False),
                         'type': (5, 'int32', False), 'blobs': (6, 'BlobProto', True)},
    'LayerParameter': {'name': (1, 'string', False), 'type': (2, 'string', False), 'bottom': (3, 'string', True),
                       'top': (4, 'string', True), 'blobs': (7, 'BlobProto', True)},
    'NetParameter': {'name': (1, 'string', False), 'layers': (2, 'V1LayerParameter', True),
                     'layer': (100, 'LayerParameter', True)},
}
_V1_TYPES = {'Convolution': 4, 'InnerProduct': 14, 'Deconvolution': 39, 'ReLU': 18}


def net_message(packed=True):
  """A new, empty NetParameter, its repeated numbers packed or not."""
  file = descriptor_pb2.FileDescriptorProto(name='caffe.proto', package='caffe', syntax='proto2')
  for message, fields in _CAFFE.items():
    described = file.message_type.add(name=message)
    for name, (number, kind, repeated) in fields.items():
      field = described.field.add(name=name, number=number, label=3 if repeated else 1)
      if kind in _NUMBERS:
        field.type = _NUMBERS[kind]
        field.options.packed = packed and repeated and kind != 'string'
      else:
        field.type, field.type_name = 11, f'.caffe.{kind}'
  pool = descriptor_pool.DescriptorPool()
  pool.Add(file)
  return message_factory.GetMessageClass(pool.FindMessageTypeByName('caffe.NetParameter'))()


def write_caffemodel(path, layers, *, v1=False, packed=True, double=False):
  """Writes a .caffemodel.

  Args:
    path: of the file.
    layers: dict from name to (type, arrays); as V1, arrays get the old four-axis shape.
    v1: whether layers are V1LayerParameters.
    packed: whether numbers are packed.
    double: whether numbers are stored in double precision.

  Returns:
    path.
  """
  net = net_message(packed)
  net.name = 'a net'
  (net.layers if v1 else net.layer).add(name='relu1_1', type=_V1_TYPES['ReLU'] if v1 else 'ReLU', bottom=['conv1_1'])
  for name, (kind, arrays) in layers.items():
    layer = (net.layers if v1 else net.layer).add(name=name, type=_V1_TYPES[kind] if v1 else kind, top=[name])
    for array in arrays:
      blob = layer.blobs.add()
      if v1:
        blob.num, blob.channels, blob.height, blob.width = (1,) * (4 - array.ndim) + array.shape
      else:
        blob.shape.dim.extend(array.shape)
      (blob.double_data if double else blob.data).extend(array.ravel().tolist())
  path.write_bytes(net.SerializeToString())
  return path


def vgg_layers(vgg, seed=0, *, inner_products=False):
  """Random layers of a VGG as Caffe has them: dict from name to (type, [kernel, biases]), input BGR.

  Args:
    vgg: a Vgg.
    seed: of the random numbers.
    inner_products: whether fc6, fc7 and fc8 are inner products instead of convolutions.
  """
  rng = np.random.default_rng(seed)
  layers = {}
  for name, (height, width, depth, outputs) in vgg.shapes().items():
    kernel = rng.normal(size=(outputs, depth, height, width)) * np.sqrt(2 / (depth * height * width))
    kind = 'Convolution'
    if inner_products and name.startswith('fc'):
      kind, kernel = 'InnerProduct', kernel.reshape(outputs, -1)
    layers[name] = kind, [kernel.astype(np.float32), rng.normal(size=outputs).astype(np.float32)]
  return layers


def write_mat(path, layers, mean, *, old=False):
  """Writes a MatConvNet SimpleNN.

  Args:
    path: of the file.
    layers: dict from name to (kernel [height, width, in, out], biases).
    mean: average image.
    old: whether weights are the members `filters` and `biases`, and `normalization` stands by itself.

  Returns:
    path.
  """
  cells = []
  for name, (kernel, biases) in layers.items():
    row = biases.reshape(1, -1)
    pair = np.empty([1, 2], object)
    pair[0, 0], pair[0, 1] = kernel, row
    weights = {'filters': kernel, 'biases': row} if old else {'weights': pair}
    cells += [weights | {'name': name, 'type': 'conv', 'pad': np.ones([1, 4])},
              {'name': f'relu_{name}', 'type': 'relu'}]
  normalization = {'imageSize': np.array([224., 224., 3.]), 'averageImage': mean}
  meta = {'normalization': normalization} if old else {'meta': {'normalization': normalization}}
  scipy.io.savemat(path, {'layers': np.array(cells).reshape(1, -1), 'classes': {'name': 'cat'}} | meta)
  return path


def prototxt(vgg, height, width, heads='', *, pad=1, inner_products=False):
  """Text of a Caffe VGG on images of the size [height, width]; of an FCN with `heads`, the text after fc7."""
  text, bottom = f'input: "data" input_dim: 1 input_dim: 3 input_dim: {height} input_dim: {width}\n', 'data'
  pools = {'conv2_1': 'pool1', 'conv3_1': 'pool2', 'conv4_1': 'pool3', 'conv5_1': 'pool4', 'fc6': 'pool5'}
  for name, (size, _, _, outputs) in vgg.shapes().items():
    if heads and name == 'fc8':
      break
    if name in pools:
      text += layer_text('Pooling', pools[name], bottom,
                         parameters='pooling_param { pool: MAX kernel_size: 2 stride: 2 }')
      bottom = pools[name]
    if inner_products and name.startswith('fc'):
      text += layer_text('InnerProduct', name, bottom, parameters=f'inner_product_param {{ num_output: {outputs} }}')
    else:
      padding = {'conv1_1': pad, 'fc6': 0}.get(name, size // 2)
      text += layer_text('Convolution', name, bottom, parameters=
                         f'convolution_param {{ num_output: {outputs} kernel_size: {size} pad: {padding} }}')
    if name != 'fc8':
      text += layer_text('ReLU', f'relu_{name}', name, top=name)
    bottom = name
  return text + heads


def layer_text(kind, name, *bottoms, top=None, parameters=''):
  """The text of a layer."""
  inputs = ' '.join(f'bottom: "{bottom}"' for bottom in bottoms)
  return f'layer {{ name: "{name}" type: "{kind}" {inputs} top: "{top or name}" {parameters} }}\n'


def write_fcn(path, kind, num_classes=21, seed=0):
  """Writes a thin FCN-8s in one of the forms that were released, with random upsampling in between.

  Args:
    path: of the file.
    kind: 'heavy', 'at-once' (which scales the pools) or '2014' (V1, with other names, and biases after the first
      upsampling).
    num_classes: number of classes.
    seed: of the random numbers.

  Returns:
    the text of the layers after fc7.
  """
  rng = np.random.default_rng(seed)
  layers = {name: value for name, value in vgg_layers(THIN_16, seed).items() if name != 'fc8'}
  lines = []

  def add(layer, name, bottom, kernel, *, stride=1, biases):
    arrays = [kernel.astype(np.float32)] + [rng.normal(size=num_classes).astype(np.float32)] * biases
    layers[name] = layer, arrays
    lines.append(layer_text(layer, name, bottom, parameters=(
        f'convolution_param {{ num_output: {num_classes} bias_term: {str(biases).lower()} '
        f'kernel_size: {kernel.shape[2]} stride: {stride} }}')))

  def score(name, bottom, depth, factor=None):
    if kind == 'at-once' and factor:
      layers[f'scale_{bottom}'] = 'Scale', [(factor * rng.uniform(.5, 1.5, depth)).astype(np.float32)]
      lines.append(layer_text('Scale', f'scale_{bottom}', bottom, parameters='scale_param { bias_term: false }'))
      bottom = f'scale_{bottom}'
    add('Convolution', name, bottom, rng.normal(size=(num_classes, depth, 1, 1)) / np.sqrt(depth), biases=True)

  def fuse(fine, coarse, offset):
    lines.append(layer_text('Crop', f'{fine}c', fine, coarse, parameters=f'crop_param {{ axis: 2 offset: {offset} }}'))
    lines.append(layer_text('Eltwise', f'fuse_{fine}', coarse, f'{fine}c', parameters=
                            'eltwise_param { operation: SUM }'))
    return f'fuse_{fine}'

  names = (('score-fr', 'score2', 'score-pool4', 'score4', 'score-pool3', 'upsample') if kind == '2014' else
           ('score_fr', 'upscore2', 'score_pool4', 'upscore_pool4', 'score_pool3', 'upscore8'))
  kernels = rng.normal(size=(2, num_classes, num_classes, 4, 4)) / np.sqrt(4 * num_classes)
  triangle = 1 - np.abs(np.arange(16) - 7.5) / 8
  bilinear = np.eye(num_classes)[:, :, None, None] * np.outer(triangle, triangle)
  score(names[0], 'fc7', THIN_16.hidden)
  add('Deconvolution', names[1], names[0], kernels[0], stride=2, biases=kind == '2014')
  score(names[2], 'pool4', THIN_16.depths[3], factor=0.5)
  add('Deconvolution', names[3], fuse(names[2], names[1], offset=5), kernels[1], stride=2, biases=False)
  score(names[4], 'pool3', THIN_16.depths[2], factor=0.25)
  add('Deconvolution', names[5], fuse(names[4], names[3], offset=9), bilinear, stride=8, biases=False)
  lines.append(layer_text('Crop', 'score', names[5], 'data', parameters='crop_param { axis: 2 offset: 31 }'))
  write_caffemodel(path, layers, v1=kind == '2014')
  return ''.join(lines)
