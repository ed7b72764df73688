"""MATLAB files (.mat), read within bounds."""

import math
import os
import struct
import zlib

import numpy as np

_HEAD = 128  # bytes before the first element of a file of version 5
_MATRIX, _COMPRESSED = 14, 15  # types of elements: an array, and one that zlib has compressed
_CELL, _STRUCT, _OBJECT, _SPARSE = 1, 2, 3, 5  # classes of arrays
_LAST_NUMBERS = 15  # the last class of numbers; those behind it have no size
_MOST_DEPTH = 32  # of arrays in arrays; networks have 6
_MOST_GROWTH = 32  # bytes that may come of a compressed byte; weights and labels as published have 1 and 20
_SMALL = 2**28  # bytes that may come of any file
_CHUNK = 2**20  # bytes


def load(path, names):
  """Reads variables.

  Args:
    path: path of the file.
    names: names of the variables.

  Returns:
    dict from name to array, as scipy.io.loadmat has it, of those that are there.

  Raises:
    OSError: if it cannot be read.
    NotImplementedError: if it is of version 7.3, which is HDF5.
    ValueError: if it is no MATLAB file, damaged, or claims what would take far more memory than its size.
  """
  import scipy.io  # not at the top: every start of a program would wait for it

  with open(path, 'rb') as file:
    _check(file)
    file.seek(0)
    try:
      found = scipy.io.loadmat(file, variable_names=names)
    except NotImplementedError:
      raise
    except Exception as error:  # scipy raises nearly anything on a broken file
      raise ValueError(f'{type(error).__name__}: {error}') from error
  return {name: value for name, value in found.items() if isinstance(value, np.ndarray)}


class _Stream:
  """Reads a part of a file, or what zlib makes of it.

  Attributes:
    place: number of bytes read.
  """

  def __init__(self, file, count, most, inflates):
    """Reads the next `count` bytes of a file, of which `most` bytes may come if they are inflated."""
    self._file, self._left, self._most = file, count, most
    self._inflate = zlib.decompressobj() if inflates else None
    self._ready, self._at, self.place = b'', 0, 0

  def read(self, count):
    """The next `count` bytes, not many. Raises ValueError if there are not so many, or more than may come."""
    while len(self._ready) - self._at < count:
      self._fill()
    self._at, self.place = self._at + count, self.place + count
    return self._ready[self._at - count:self._at]

  def skip(self, count):
    """Leaves `count` bytes out."""
    while count > 0:
      count -= len(self.read(min(count, _CHUNK)))

  def _fill(self):
    data = self._inflate.unconsumed_tail if self._inflate else b''
    if not data:
      data = self._file.read(min(self._left, _CHUNK))
      self._left -= len(data)
    if not data:
      raise ValueError('it is cut off')
    try:
      more = self._inflate.decompress(data, _CHUNK) if self._inflate else data
    except zlib.error as error:
      raise ValueError(f'its compressed data are damaged ({error})') from error
    self._ready, self._at = self._ready[self._at:] + more, 0
    if self.place + len(self._ready) > self._most:
      raise ValueError(f'it holds more than {_MOST_GROWTH} times its own size')


def _check(file):
  """Checks a file of version 5, by MATLAB's description of the format, before scipy makes arrays of it.

  Raises:
    ValueError: if compressed elements hold far more than the file's size, an array claims more values than its bytes
      can hold, or arrays lie deep in arrays.
  """
  size = file.seek(0, os.SEEK_END)
  file.seek(0)
  order = {b'IM': '<', b'MI': '>'}.get(file.read(_HEAD)[126:])
  if order is None:  # of version 4, which compresses nothing; or no MATLAB file
    return
  left = max(_SMALL, _MOST_GROWTH * size)
  while len(tag := file.read(8)) == 8:
    kind, count = struct.unpack(f'{order}II', tag)
    end = file.tell() + count
    stream = _Stream(file, min(count, size - file.tell()), left, kind == _COMPRESSED)
    if kind == _COMPRESSED:
      kind, count = struct.unpack(f'{order}II', stream.read(8))
    if kind == _MATRIX:
      _check_matrix(stream, order, count)
    left -= stream.place
    file.seek(end)


def _small_element(stream, order):
  """Reads an element of a matrix's header, of few bytes."""
  tag = stream.read(8)
  kind, count = struct.unpack(f'{order}II', tag)
  if kind >> 16:  # the short form: type and length in four bytes, the data in the other four
    return tag[4:4 + min(kind >> 16, 4)]
  if count > _CHUNK:
    raise ValueError(f'a header of {count} bytes')
  data = stream.read(count)
  stream.skip(-count % 8)
  return data


def _check_matrix(stream, order, count, depth=0):
  """Checks a matrix of `count` bytes, and those in it, and reads to its end."""
  end = stream.place + count
  if depth > _MOST_DEPTH:
    raise ValueError(f'arrays lie in more than {_MOST_DEPTH} others')
  if not count:
    return
  kind = struct.unpack(f'{order}I', _small_element(stream, order)[:4].ljust(4, b'\0'))[0] & 255
  if kind <= _LAST_NUMBERS:
    dims = _numbers(_small_element(stream, order), order)
    _small_element(stream, order)  # its name
    total = math.prod(dims)
    if kind == _OBJECT:
      _small_element(stream, order)  # the name of its class
    if kind in (_STRUCT, _OBJECT):
      length = max(1, *_numbers(_small_element(stream, order), order))
      total *= len(_small_element(stream, order)) // length
    nests = kind in (_CELL, _STRUCT, _OBJECT)
    if min(dims, default=0) < 0 or (kind != _SPARSE and total * (8 if nests else 1) > count):
      raise ValueError(f'an array of {list(dims[:8])} values in {count} bytes')
    while nests and stream.place < end:
      inner, size = struct.unpack(f'{order}II', stream.read(8))
      if inner != _MATRIX:
        raise ValueError(f'an element of type {inner} where an array is expected')
      _check_matrix(stream, order, size, depth + 1)
  stream.skip(end - stream.place)


def _numbers(data, order):
  """The int32 in bytes, a tuple."""
  return struct.unpack(f'{order}{len(data) // 4}i', data[:len(data) // 4 * 4])
