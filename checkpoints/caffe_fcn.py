"""The FCNs on VGG-16 that the FCN paper's authors released for Caffe, as variables of this project's FCNs.

Layers and geometry are those of voc-fcn8s and its neighbors in shelhamer/fcn.berkeleyvision.org. There the image is
padded by 100 zeros on each side, and cells of fc7 lie at 32i + 12.5 pixels of the image of any size. Here they
lie at 32i + 15.5 pixels of the image mirrored to the next multiple of 32. Where the two lattices coincide (3 pixels
before the image), logits agree away from the borders; else they equal the Caffe net's for a shifted image.
"""

import numpy as np

from checkpoints.slim_vgg import CLASSIFIER, convolution_from_caffe, from_caffe, require_finite
from utils.errors import UserError

FCN_MEANS = (122.67891434, 116.66876762, 104.00698793)  # RGB; infer.py subtracts these
# Stride, the coarsest first -> score layer, transposed convolution from the coarser scores to its cells, last
# upsampling of a net that ends there, and factor on the scored features (nets trained at once alone have it).
_HEADS = {32: ('score_fr', None, 'upscore', None), 16: ('score_pool4', 'upscore2', 'upscore16', 'scale_pool4'),
          8: ('score_pool3', 'upscore_pool4', 'upscore8', 'scale_pool3')}
_KERNEL = 4  # height and width of the transposed convolutions in between
_RELEASED_2014 = {'score-fr': 'score_fr', 'score2': 'upscore2', 'score-pool4': 'score_pool4', 'score4': 'upscore_pool4',
                  'score-pool3': 'score_pool3', 'upsample': 'upscore8'}  # names in fcn-8s-pascal.caffemodel


def is_fcn(layers):
  """Whether layers of a `.caffemodel` are those of an FCN."""
  return bool({'score_fr', 'score-fr'}.intersection(layers))


def fcn_from_caffe(layers, vgg, taps, *, path, num_classes):
  """This project's variables of an FCN.

  Args:
    layers: dict from checkpoints.caffe.read_caffemodel.
    vgg: a Vgg.
    taps: the backbone's Taps, the coarsest first.
    path: path of the file, for messages.
    num_classes: number of classes that the FCN must have.

  Returns:
    `(variables, skip, left_out, notes)`: dict from variable name to float32 array; '32s', '16s' or '8s'; names in
    `layers` without a variable; and lines about the last upsampling.

  Raises:
    UserError: if a layer is missing or has another shape.
  """
  names = {_RELEASED_2014.get(name, name): name for name in layers}
  renamed = {new: layers[name] for new, name in names.items() if new != CLASSIFIER}
  taps = [tap for tap in taps if tap.stride in _HEADS]  # nothing finer was released
  num_taps = max(index for index, tap in enumerate(taps, start=1) if _HEADS[tap.stride][0] in renamed)
  depths = {32: vgg.hidden, 16: vgg.depths[3], 8: vgg.depths[2]}
  heads, used, biases = {}, set(vgg.shapes()) - {CLASSIFIER}, 0
  for tap in taps[:num_taps]:
    score, upscore, last, scale = _HEADS[tap.stride]
    used |= {score, upscore, scale}
    if upscore:
      kernel, biases = _upscore(renamed, upscore, num_classes, path)
      heads[f'fcn/upscore_{tap.stride}/weights'] = kernel
    weights, own_biases = _score(renamed, score, scale, (1, 1, depths[tap.stride], num_classes), path)
    heads[f'fcn/score_{tap.stride}/weights'] = np.ascontiguousarray(weights / tap.scale, np.float32)
    heads[f'fcn/score_{tap.stride}/biases'] = own_biases + biases  # both are added to the same cells
  variables = from_caffe(renamed, vgg, path=path, means=FCN_MEANS) | heads
  left_out = [name for new, name in names.items() if new not in used | {last}]
  return variables, f'{tap.stride}s', left_out, _last_upscore(renamed.get(last), last, tap.stride)


def _score(layers, name, scale, shape, path):
  """(weights, biases) of a score layer of the shape [1, 1, in, classes], the factor on its input multiplied in."""
  if name not in layers:
    raise UserError(f'{path} has no layer {name}')
  outputs = layers[name][0].shape[:1]
  if outputs != shape[3:]:
    raise UserError(f'{path}: {name} scores {outputs[0] if outputs else "no"} classes; only the FCNs for VOC can be '
                    f'converted, which score {shape[3]}')
  weights, biases = convolution_from_caffe(layers[name], shape, f'{path}: {name}')
  if scale in layers:
    factor = layers[scale][0]
    if factor.size not in (1, shape[2]) or len(layers[scale]) > 1:
      raise UserError(f'{path}: {scale} has arrays of {[list(array.shape) for array in layers[scale]]} for {shape[2]} '
                      'channels')
    require_finite([factor], f'{path}: {scale}')
    weights = weights * factor.reshape(-1, 1)
  return weights, biases


def _upscore(layers, name, num_classes, path):
  """(kernel [height, width, out, in], biases or 0) of a transposed convolution, perhaps one for each class."""
  if name not in layers:
    raise UserError(f'{path} has no layer {name}')
  kernel, *biases = layers[name]
  shapes = [(num_classes, inner, _KERNEL, _KERNEL) for inner in (num_classes, 1)]
  if kernel.shape not in shapes or any(array.size != num_classes for array in biases) or len(biases) > 1:
    raise UserError(f'{path}: {name} has arrays of {" and ".join(str(list(a.shape)) for a in layers[name])}; wanted '
                    f'is {list(shapes[0])}')
  require_finite(layers[name], f'{path}: {name}')
  if kernel.shape[1] < num_classes:
    kernel = kernel * np.eye(num_classes, dtype=np.float32)[:, :, None, None]
  return np.ascontiguousarray(kernel.transpose(2, 3, 1, 0)), biases[0].reshape(-1) if biases else 0


def _last_upscore(arrays, name, stride):
  """Lines about the last upsampling: it is bilinear here, and any other kernel is lost."""
  if arrays is None:
    return []
  triangle = 1 - np.abs(np.arange(2 * stride) - (stride - 0.5)) / stride
  kernel = arrays[0]
  if kernel.shape[2:] == (2 * stride, 2 * stride):
    classes = np.eye(*kernel.shape[:2]) if kernel.shape[1] > 1 else np.ones(kernel.shape[:2])
    error = np.abs(kernel - classes[:, :, None, None] * np.outer(triangle, triangle)).max()
    if error < 1e-3 and len(arrays) == 1:
      return [f'{name} is bilinear, as the last upsampling is here']
  return [f'warning: {name} is not the bilinear kernel that the last upsampling has here; predictions will differ']
