"""Files that no honest program writes: checkpoints and TFRecords with valid checksums around absurd content."""

import struct

from utils.varint import encoded as varint

_TABLE = []
for _byte in range(256):
  for _ in range(8):
    _byte = _byte >> 1 ^ (0x82f63b78 if _byte & 1 else 0)
  _TABLE.append(_byte)


def crc(data):
  """The masked CRC-32C that TensorFlow's files have."""
  value = 0xffffffff
  for byte in data:
    value = _TABLE[(value ^ byte) & 255] ^ value >> 8
  value ^= 0xffffffff
  return ((value >> 15 | value << 17) + 0xa282ead8) & 0xffffffff


def record(data, length=None):
  """A TFRecord of bytes, which claims another length if one is given."""
  head = struct.pack('<Q', len(data) if length is None else length)
  return head + struct.pack('<I', crc(head)) + data + struct.pack('<I', crc(data))


def _block(entries, restarts=(0,)):
  data = b''.join(b'\0' + varint(len(key)) + varint(len(value)) + key + value for key, value in entries)
  return data + struct.pack(f'<{len(restarts) + 1}I', *restarts, len(restarts))


def _table(rows, restarts=(0,)):
  """A table of rows in one block, which TensorFlow reads from any of the bytes `restarts` on."""
  table, handles = b'', []
  for block in (_block(rows, restarts), _block([])):
    handles.append(varint(len(table)) + varint(len(block)))
    table += block + b'\0' + struct.pack('<I', crc(block + b'\0'))
  block = _block([(b'\xff', handles[0])])
  index = varint(len(table)) + varint(len(block))
  table += block + b'\0' + struct.pack('<I', crc(block + b'\0'))
  return table + (handles[1] + index).ljust(40, b'\0') + struct.pack('<Q', 0xdb4775248b80fb57)


def _shape(dims):
  return b''.join(b'\x12' + varint(len(dim)) + dim for dim in (b'\x08' + varint(size) for size in dims))


def write_old_checkpoint(path, entries, restarts=(0,)):
  """Writes the beginning of an old checkpoint (V1), which says what variables it has, but not their values.

  Args:
    path: a pathlib.Path.
    entries: dict from variable to (number of the type, list of dimensions).
    restarts: see _table.
  """
  meta = b''
  for name, (kind, dims) in entries.items():
    shape = _shape(dims)
    entry = (b'\x0a' + varint(len(name)) + name.encode() + b'\x12' + varint(len(shape)) + shape + b'\x18'
             + varint(kind))
    meta += b'\x0a' + varint(len(entry)) + entry
  path.write_bytes(_table([(b'', b'\x0a' + varint(len(meta)) + meta)], restarts))


def write_checkpoint(prefix, entries, data=b'', restarts=(0,)):
  """Writes a checkpoint (V2).

  Args:
    prefix: its prefix, a pathlib.Path.
    entries: dict from variable to (number of the type, list of dimensions, offset, size) as the index claims them.
    data: bytes of the data file.
    restarts: see _table.
  """
  rows = [(b'', b'\x08\x01\x1a\x02\x08\x01')]  # one data file; version 1
  for name, (kind, dims, offset, size) in sorted(entries.items()):
    shape = _shape(dims)
    rows.append((name.encode(), b'\x08' + varint(kind) + b'\x12' + varint(len(shape)) + shape + b'\x20' + varint(offset)
                 + b'\x28' + varint(size) + b'\x35' + struct.pack('<I', crc(data[offset:offset + size]))))
  prefix.with_name(f'{prefix.name}.index').write_bytes(_table(rows, restarts))
  prefix.with_name(f'{prefix.name}.data-00000-of-00001').write_bytes(data)
