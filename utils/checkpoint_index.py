"""The index of a checkpoint (V2), or an old checkpoint of one file (V1), looked at before TensorFlow opens it.

TensorFlow takes an index whose checksums are right at its word: a shape that cannot be, or that is larger than the
memory, ends the process. The index is a table as of LevelDB (doc/table_format.md there), never compressed as TensorFlow
writes it, from names to messages BundleEntryProto (tensorflow/core/protobuf/tensor_bundle.proto). An old checkpoint is
such a table from slices to their values; its first row says what variables there are
(tensorflow/core/util/saved_tensor_slice.proto).
"""

import math
import mmap
import os
import struct

from google.protobuf.message import DecodeError

from utils import varint
from utils.compat import BundleEntry, SavedSlices, tf
from utils.errors import UserError

_MOST_BYTES = 1 << 26  # of an index: one with a thousand variables has 40 thousand
_MAGIC = (0xdb4775248b80fb57).to_bytes(8, 'little')
_FOOTER = 48  # bytes
_TRAILER = 5  # bytes behind a block: its compression, and a checksum
_MOST_DIMS = 254  # that TensorFlow knows


class Damaged(UserError):
  """A file of a checkpoint that is damaged: its `path`."""

  def __init__(self, path, reason):
    super().__init__(f'{path} is cut off or damaged: {reason}')
    self.path = path


def check_index(path, data_files):
  """Checks that an index claims no more than its data files hold.

  Args:
    path: path of the index.
    data_files: paths of the data files, in their order.

  Raises:
    Damaged: if it claims what cannot be, naming the variable, or is no index; or a data file is shorter than it claims.
    UserError: if it cannot be read, or is too large.
  """
  try:
    with open(path, 'rb') as file:
      data = file.read(_MOST_BYTES + 1)
    sizes = [os.path.getsize(file) for file in data_files]
  except OSError as error:
    raise UserError(f'cannot read {path}: {error.strerror}') from error
  if len(data) > _MOST_BYTES:
    raise UserError(f'{path} has {os.path.getsize(path)} bytes; at most {_MOST_BYTES} are read')
  try:
    for handle in _blocks(data):
      for name, value in _rows(data, handle):
        if name:  # the empty name is the header
          entry = BundleEntry.FromString(value)
          _check_entry(name.decode('utf-8', 'replace'), entry, len(sizes))
          if entry.offset + entry.size > sizes[entry.shard_id]:
            raise Damaged(data_files[entry.shard_id], f'{entry.size} bytes from {entry.offset} on are not there')
  except (ValueError, IndexError, TypeError, DecodeError) as error:
    raise Damaged(path, error) from error


def check_old(path):
  """Checks that an old checkpoint claims no more than it holds: no value takes less than a byte of it.

  Args:
    path: path of its one file.

  Raises:
    Damaged: if it claims what cannot be, naming the variable, or is no checkpoint.
    UserError: if it cannot be read.
  """
  try:
    with open(path, 'rb') as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
      name, value = next(_rows(data, next(_blocks(data), (0, 0))), (None, b''))
      if name != b'':
        raise ValueError('it does not begin with the names of its variables')
      for entry in SavedSlices.FromString(value).meta.tensor:
        dims, _ = _shape(entry.name, entry.shape, entry.type)
        if math.prod(dims) > len(data):
          raise ValueError(f'{entry.name!r} has the shape {dims[:8]} in a file of {len(data)} bytes')
  except OSError as error:
    raise UserError(f'cannot read {path}: {error.strerror}') from error
  except (ValueError, IndexError, TypeError, DecodeError) as error:
    raise Damaged(path, error) from error


def _shape(name, shape, kind):
  """The dimensions of a variable, a list, and its tf.DType. Raises ValueError or TypeError if they are of no array."""
  dims, kind = [dim.size for dim in shape.dim], tf.as_dtype(kind)  # TypeError: no such type
  if shape.unknown_rank or len(dims) > _MOST_DIMS or min(dims, default=0) < 0 or (
      math.prod(max(dim, 1) for dim in dims) >= 2**63):
    raise ValueError(f'{name!r} has the shape {dims[:8]}')
  if kind in (tf.resource, tf.variant):
    raise ValueError(f'{name!r} is no array')
  return dims, kind


def _check_entry(name, entry, num_files):
  """Raises ValueError or TypeError if an entry contradicts itself, or is of none of the data files."""
  dims, kind = _shape(name, entry.shape, entry.dtype)
  if entry.slices:
    raise ValueError(f'{name!r} is stored in slices, which are not read here')
  if not 0 <= entry.shard_id < num_files or min(entry.offset, entry.size) < 0:
    raise ValueError(f'{name!r} is said to have {entry.size} bytes from {entry.offset} on in file {entry.shard_id}')
  wanted = math.prod(dims) * max(kind.size or 1, 1)  # texts have a byte each at least, for their length
  if wanted > entry.size or (kind.size and wanted != entry.size):
    raise ValueError(f'{name!r} has the shape {dims[:8]} of {kind.name} in {entry.size} bytes')


def _blocks(data):
  """Yields the handles of the blocks of a table."""
  if data[-8:] != _MAGIC or len(data) < _FOOTER:
    raise ValueError('its end is missing')
  _, place = _handle(data, len(data) - _FOOTER)  # of what nobody reads
  for _, handle in _rows(data, _handle(data, place)[0]):
    yield _handle(handle, 0)[0]


def _rows(data, handle):
  """Yields (key, value), bytes, of a table's block at a handle, (offset, size)."""
  start, size = handle
  if start + size + _TRAILER > len(data):
    raise ValueError('a part of it lies beyond its end')
  if data[start + size]:
    raise ValueError('it is compressed, which TensorFlow does not do')
  block, key, before, place = data[start:start + size], b'', None, 0
  end = size - 4 * (1 + int.from_bytes(block[-4:], 'little'))  # where the places of its restarts begin
  if end < 0:
    raise ValueError('a part of it is cut off')
  restarts = [restart for restart, in struct.iter_unpack('<I', block[end:-4])]  # where TensorFlow may begin to read
  if restarts[:1] != [0]:
    raise ValueError('its first name is left out')
  unseen = {*restarts[1:]}
  while place < end:
    unseen.discard(place)
    shared, place = varint.read(block, place)
    rest, place = varint.read(block, place)
    length, place = varint.read(block, place)
    if shared > len(key) or place + rest + length > end:
      raise ValueError('a name in it is cut off')
    key = key[:shared] + block[place:place + rest]
    if before is not None and key <= before:
      raise ValueError('its names are in no order')
    before = key
    yield key, block[place + rest:place + rest + length]
    place += rest + length
  if unseen:
    raise ValueError('it is read from the middle of a name on')


def _handle(data, place):
  """Reads a handle: ((offset, size), place behind it)."""
  offset, place = varint.read(data, place)
  size, place = varint.read(data, place)
  return (offset, size), place
