"""Reads the weights in a `.mat` file of MatConvNet's SimpleNN form, e.g. `imagenet-vgg-verydeep-19.mat`.

MatConvNet's utils/import-caffe.py, which made these files from Caffe's, writes kernels as [height, width, in, out] and
reverses the first layer's input channels, so that images are RGB; some readers swap height and width once more.
"""

import numpy as np

from utils import matlab
from utils.errors import UserError


def read_mat(path):
  """Reads every convolution; fully connected layers are convolutions there, too.

  Args:
    path: path of the file.

  Returns:
    `(layers, mean)`: a dict from layer name to (kernel float32 [height, width, in, out], biases float32 [out]), and the
    mean color of the average image that the network subtracts: float64 [3], RGB, or None where there is none.

  Raises:
    UserError: if the file cannot be read, is no MATLAB file, or has no such layers.
  """
  contents = _load(path)
  if 'layers' not in contents:
    raise UserError(f'{path} has no variable `layers`, so it is no network of MatConvNet')
  layers = {}
  for index, layer in enumerate(contents['layers'].ravel()):
    if _text(_member(layer, 'type')) != 'conv':
      continue
    name = _text(_member(layer, 'name')) or f'number {index}'
    if name in layers:
      raise UserError(f'{path} has two layers {name!r}')
    layers[name] = _convolution(layer, f'{path}: layer {name!r}')
  if not layers:
    raise UserError(f'{path} has no convolutions in `layers`')
  normalization = _member(contents.get('meta'), 'normalization')
  if normalization is None:
    normalization = contents.get('normalization')  # in older files
  return layers, _mean(_member(normalization, 'averageImage'), path)


def _load(path):
  """Reads the variables that hold a network from a MATLAB file."""
  try:
    return matlab.load(path, ('layers', 'normalization', 'meta'))
  except OSError as error:
    raise UserError(f'cannot read {path}: {error.strerror or error}') from error
  except NotImplementedError as error:
    raise UserError(f'{path} is a MATLAB 7.3 file, which is HDF5; save it with -v7 in MATLAB') from error
  except ValueError as error:
    raise UserError(f'{path} is no MATLAB file, or is cut short or damaged: {error}') from error


def _member(struct, name):
  """A member of a MATLAB struct as loadmat gives it, None where there is none."""
  names = getattr(getattr(struct, 'dtype', None), 'names', None) or ()
  return struct[name].flat[0] if name in names and struct.size else None


def _text(value):
  return str(value.flat[0]) if isinstance(value, np.ndarray) and value.dtype.kind == 'U' and value.size else ''


def _convolution(layer, what):
  """(kernel, biases) of a layer: the cell `weights`, in the oldest files the members `filters` and `biases`."""
  weights = _member(layer, 'weights')
  parts = [_member(layer, 'filters'), _member(layer, 'biases')] if weights is None else list(weights.ravel())
  if len(parts) != 2 or not all(isinstance(part, np.ndarray) and part.dtype.kind in 'fiu' for part in parts):
    raise UserError(f'{what} has no pair of filters and biases')
  kernel, biases = (part.astype(np.float32, copy=False) for part in parts)
  if kernel.ndim > 4:
    raise UserError(f'{what} has filters of the shape {list(kernel.shape)}')
  return kernel.reshape(kernel.shape + (1,) * (4 - kernel.ndim)), biases.ravel()  # MATLAB drops last axes of length 1


def _mean(image, path):
  """RGB mean of an average image [height, width, 3] or color; None where there is none."""
  if image is None or not image.size:
    return None
  if image.dtype.kind not in 'fiu' or image.shape[-1] != 3:
    raise UserError(f'{path}: normalization.averageImage is {image.dtype} {list(image.shape)}, not an RGB image')
  return image.reshape(-1, 3).mean(axis=0, dtype=np.float64)
