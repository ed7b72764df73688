"""VGG weights from other frameworks under the names, in the shapes and for the input of TF-Slim's vgg_16 and vgg_19.

Simonyan, Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", 2014.
"""

import dataclasses
import re

import numpy as np

from nets.backbones import RGB_MEANS, VGG_CHANNELS, VGG_FC_CHANNELS, VGG_FC_KERNEL, VGG_LAYERS
from utils.errors import UserError

VGG_MEANS = (123.68, 116.779, 103.939)  # RGB means of VGG's authors; slim rounds them to two digits
CLASSIFIER = 'fc8'


@dataclasses.dataclass(frozen=True)
class Vgg:
  """Sizes of a VGG.

  Attributes:
    name: slim's name, which is its variables' scope.
    repeats: number of convolutions before each pool.
    depths: number of features of those convolutions.
    hidden: number of outputs of fc6 and fc7.
    num_classes: number of outputs of fc8.
  """
  name: str
  repeats: tuple
  depths: tuple = VGG_CHANNELS
  hidden: int = VGG_FC_CHANNELS
  num_classes: int = 1000

  def shapes(self):
    """dict from layer, in order, to the shape [height, width, in, out] of its kernel."""
    shapes, channels = {}, 3
    for block, (repeats, depth) in enumerate(zip(self.repeats, self.depths), start=1):
      for index in range(1, repeats + 1):
        shapes[f'conv{block}_{index}'] = (3, 3, channels, depth)
        channels = depth
    return shapes | {'fc6': (VGG_FC_KERNEL, VGG_FC_KERNEL, channels, self.hidden),
                     'fc7': (1, 1, self.hidden, self.hidden), CLASSIFIER: (1, 1, self.hidden, self.num_classes)}


VGGS = {name: Vgg(name, repeats) for name, repeats in VGG_LAYERS.items()}


def from_caffe(layers, vgg, *, path, means=VGG_MEANS):
  """Slim's variables from Caffe's layers.

  Args:
    layers: dict from checkpoints.caffe.read_caffemodel, of a network for BGR images. fc6 to fc8 may be inner products.
    vgg: a Vgg.
    path: path of the file, for messages.
    means: RGB means that were subtracted from the network's training images.

  Returns:
    dict from variable name to float32 array: kernels [height, width, in, out] and biases of every layer of `vgg`;
    without fc8 where it is missing or has another number of classes.

  Raises:
    UserError: if a layer is missing, has another shape, or belongs to another VGG.
  """
  converted = {name: convolution_from_caffe(layers[name], shape, f'{path}: {name}')
               for name, shape in _fitting(layers, vgg, path).items()}
  first = next(iter(converted))
  kernel, biases = converted[first]
  converted[first] = kernel[:, :, ::-1], biases  # BGR to RGB
  return _variables(converted, vgg, means)


def from_matconvnet(layers, vgg, *, path, means=VGG_MEANS):
  """Slim's variables from MatConvNet's layers, whose order of axes and colors is slim's.

  Args:
    layers: dict from checkpoints.matconvnet.read_mat.
    vgg: a Vgg.
    path: path of the file, for messages.
    means: RGB means that were subtracted from the network's training images.

  Returns:
    dict from variable name to float32 array, as from_caffe.

  Raises:
    UserError: as from_caffe.
  """
  wanted = _fitting(layers, vgg, path)
  for name, (height, width, depth, outputs) in wanted.items():
    kernel, biases = layers[name]
    if kernel.shape != (height, width, depth, outputs) or biases.shape != (outputs,):
      raise UserError(f'{path}: {name} has filters {list(kernel.shape)} and {biases.size} biases; {vgg.name} has '
                      f'{[height, width, depth, outputs]} and {outputs}')
    require_finite(layers[name], f'{path}: {name}')
  return _variables({name: layers[name] for name in wanted}, vgg, means)


def convolution_from_caffe(arrays, shape, what):
  """(kernel, biases) of a convolution, or of an inner product over the cells that a convolution of this shape covers.

  Args:
    arrays: the layer's kernel and biases, or its kernel alone where it has no biases.
    shape: (height, width, in, out) of the kernel.
    what: file and layer, for messages.

  Returns:
    `(kernel, biases)`: float32 of this shape, and [out].

  Raises:
    UserError: if the arrays have other sizes, or hold values that are not finite.
  """
  height, width, depth, outputs = shape
  kernel, biases = (*arrays, np.zeros(outputs, np.float32))[:2]
  possible = (outputs, depth, height, width), (1, 1, outputs, depth * height * width)
  if (1,) * (4 - kernel.ndim) + kernel.shape not in possible or biases.size != outputs or len(arrays) > 2:
    raise UserError(f'{what} has arrays of {" and ".join(str(list(array.shape)) for array in arrays)}; wanted are '
                    f'{list(possible[0])}, or {list(possible[1][2:])}, and {[outputs]}')
  require_finite(arrays, what)
  # An inner product's inputs are the map's cells with the channel as the first axis, as in a kernel.
  return kernel.reshape(possible[0]).transpose(2, 3, 1, 0), biases.reshape(outputs)


def require_finite(arrays, what):
  """Raises UserError if an array holds NaN or infinity."""
  if not all(np.isfinite(array).all() for array in arrays):
    raise UserError(f'{what} holds values that are not finite')


def _fitting(layers, vgg, path):
  """Shapes of the layers of `vgg` to convert; raises UserError if `layers` are not those of this VGG."""
  shapes = vgg.shapes()
  missing = [name for name in shapes if name not in layers and name != CLASSIFIER]
  foreign = [name for name in layers if re.fullmatch(r'conv\d+_\d+', name) and name not in shapes]
  problems = [f'{what} {", ".join(names)}' for what, names in (('lacks', missing), ('has', foreign)) if names]
  if problems:
    raise UserError(f'{path} is not of --net={vgg.name} ({" and ".join(VGGS)} are known): it {" and ".join(problems)}')
  if CLASSIFIER not in layers or layers[CLASSIFIER][-1].size != vgg.num_classes:
    del shapes[CLASSIFIER]
  return shapes


def _variables(layers, vgg, means):
  """Names the arrays as slim does, and lets the first layer's biases make up for the mean that slim subtracts.

  Exact except at the border, where the zeros around the image now stand for slim's mean color, not the file's.
  """
  require_finite([np.asarray(means)], f'{vgg.name}: the mean color')
  first = next(iter(layers))
  kernel, biases = layers[first]
  shift = np.subtract(RGB_MEANS, means)  # in each channel of the network's input, and so: kernel * shift
  layers = layers | {first: (kernel, biases + np.einsum('hwio,i->o', kernel.astype(np.float64), shift))}
  variables = {}
  for name, arrays in layers.items():
    block = name.split('_')[0]
    scope = f'{vgg.name}/{block}/{name}' if block != name else f'{vgg.name}/{name}'
    for kind, array in zip(('weights', 'biases'), arrays):
      variables[f'{scope}/{kind}'] = np.ascontiguousarray(array, np.float32)
  return variables
