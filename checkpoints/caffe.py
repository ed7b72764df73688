"""Reads the weights in a `.caffemodel`, a protocol buffer of Caffe's message NetParameter, without Caffe.

Field numbers are those of src/caffe/proto/caffe.proto in BVLC's Caffe; the encoding is that of Protocol Buffers. Both
kinds of layer are read: LayerParameter, and V1LayerParameter from before 2015, as in VGG's files.
"""

import collections
import math
import mmap
import os

import numpy as np

from utils import varint
from utils.errors import UserError

_VARINT, _EIGHT_BYTES, _SPAN, _FOUR_BYTES = 0, 1, 2, 5  # wire types
_FIXED_SIZES = {_EIGHT_BYTES: 8, _FOUR_BYTES: 4}

_LAYERS = {2: (4, 6), 100: (1, 7)}  # field of NetParameter -> fields of a layer's name and blobs: V1, and current
_LEGACY_SHAPE = (1, 2, 3, 4)  # BlobProto: num, channels, height, width
_DATA, _SHAPE, _DOUBLE_DATA = 5, 7, 8  # BlobProto
_DIM = 1  # BlobShape

_MOST_BYTES = 2**31  # limit of a protocol buffer
_MOST_LAYERS = 10_000
_MOST_BLOBS = 16  # in a layer
_MOST_SHAPE_BYTES = 100


def read_caffemodel(path):
  """Reads every layer that has weights.

  Args:
    path: path of the file.

  Returns:
    dict from layer name to a list of float32 arrays in Caffe's order of axes: kernels [out, in, height, width] of a
    convolution, [in, out, height, width] of a deconvolution, [out, in] of an inner product, then biases [out]. Files
    with the old shape fields have four axes everywhere, the first ones 1.

  Raises:
    UserError: if the file cannot be read, is no `.caffemodel`, is cut short, or contradicts itself.
  """
  try:
    with open(path, 'rb') as file:
      size = os.fstat(file.fileno()).st_size
      if not 0 < size < _MOST_BYTES:
        raise UserError(f'{path} has {size} bytes; a .caffemodel has 1 to {_MOST_BYTES - 1}')
      net = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
  except OSError as error:
    raise UserError(f'cannot read {path}: {error.strerror}') from error
  layers = {}
  try:
    for number, message in _fields(net, _LAYERS, (_SPAN,)):
      name, blobs = _layer(message, *_LAYERS[number])
      if blobs and name in layers:
        raise ValueError(f'two layers {name!r}')
      if blobs:
        layers[name] = blobs
      if len(layers) > _MOST_LAYERS:
        raise ValueError(f'more than {_MOST_LAYERS} layers')
  except ValueError as error:
    raise UserError(f'{path} is no .caffemodel, or is cut short or damaged: {error}') from error
  if not layers:
    raise UserError(f'{path} holds no layer with weights, so it is no .caffemodel of a trained network')
  return layers


def _layer(message, name_field, blobs_field):
  """Returns (name, list of arrays) of a layer."""
  name, blobs = '', []
  for number, value in _fields(message, (name_field, blobs_field), (_SPAN,)):
    if number == name_field:
      name = str(value, 'utf-8')
    elif len(blobs) == _MOST_BLOBS:
      raise ValueError(f'layer {name!r} has more than {_MOST_BLOBS} arrays')
    else:
      blobs.append(value)
  return name, [_blob(blob, f'array {index} of layer {name!r}') for index, blob in enumerate(blobs)]


def _blob(message, what):
  """The float32 array of a BlobProto; takes no more memory than the file's numbers."""
  data = collections.defaultdict(bytearray)
  legacy_shape, shape = dict.fromkeys(_LEGACY_SHAPE, 0), None
  for number, value in _fields(message, (*_LEGACY_SHAPE, _SHAPE, _DATA, _DOUBLE_DATA),
                               (_VARINT, _SPAN, _FOUR_BYTES, _EIGHT_BYTES)):
    if isinstance(value, int):
      legacy_shape[number] = value
    elif number == _SHAPE:
      shape = _dims(value, what)
    else:
      data[number] += value  # packed as Caffe writes it, or number by number
  values = np.frombuffer(data[_DOUBLE_DATA], '<f8') if data[_DOUBLE_DATA] else np.frombuffer(data[_DATA], '<f4')
  shape = tuple(legacy_shape.values()) if shape is None else shape
  if math.prod(shape) != values.size:
    raise ValueError(f'{what} has the shape {list(shape)} and {values.size} numbers')
  return values.astype(np.float32, copy=False).reshape(shape)


def _dims(message, what):
  """The tuple of a BlobShape's dimensions, packed or not."""
  if len(message) > _MOST_SHAPE_BYTES:
    raise ValueError(f'{what} has a shape of {len(message)} bytes')
  dims = []
  for _, value in _fields(message, (_DIM,), (_VARINT, _SPAN)):
    if isinstance(value, int):
      dims.append(value)
      continue
    position = 0
    while position < len(value):
      dim, position = varint.read(value, position)
      dims.append(dim)
  return tuple(dims)


def _fields(message, numbers, wire_types):
  """Yields the fields `numbers` of a message; skips other fields and other wire types.

  Args:
    message: memoryview.
    numbers: field numbers.
    wire_types: wire types that the caller understands.

  Yields:
    (number, value): an int for a varint, a memoryview of the bytes for any other wire type.

  Raises:
    ValueError: if the message is no protocol buffer, or ends inside a field.
  """
  position = 0
  while position < len(message):
    tag, position = varint.read(message, position)
    number, wire_type = tag >> 3, tag & 7
    if wire_type == _VARINT:
      value, position = varint.read(message, position)
    elif wire_type == _SPAN or wire_type in _FIXED_SIZES:
      size = _FIXED_SIZES.get(wire_type)
      if size is None:
        size, position = varint.read(message, position)
      if size > len(message) - position:
        raise ValueError(f'a field claims {size} bytes and {len(message) - position} are left')
      value = message[position:position + size]
      position += size
    else:
      raise ValueError(f'unknown wire type {wire_type}')
    if number in numbers and wire_type in wire_types:
      yield number, value
