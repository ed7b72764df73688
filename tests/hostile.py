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


def _block(entries):
  data = b''.join(b'\0' + varint(len(key)) + varint(len(value)) + key + value for key, value in entries)
  return data + struct.pack('<II', 0, 1)


def write_checkpoint(prefix, entries, data=b''):
  """Writes a checkpoint (V2).

  Args:
    prefix: its prefix, a pathlib.Path.
    entries: dict from variable to (number of the type, list of dimensions, offset, size) as the index claims them.
    data: bytes of the data file.
  """
  rows = [(b'', b'\x08\x01\x1a\x02\x08\x01')]  # one data file; version 1
  for name, (kind, dims, offset, size) in sorted(entries.items()):
    shape = b''.join(b'\x12' + varint(len(dim)) + dim for dim in (b'\x08' + varint(size) for size in dims))
    rows.append((name.encode(), b'\x08' + varint(kind) + b'\x12' + varint(len(shape)) + shape + b'\x20' + varint(offset)
                 + b'\x28' + varint(size) + b'\x35' + struct.pack('<I', crc(data[offset:offset + size]))))
  table, handles = b'', []
  for block in (_block(rows), _block([])):
    handles.append(varint(len(table)) + varint(len(block)))
    table += block + b'\0' + struct.pack('<I', crc(block + b'\0'))
  block = _block([(b'\xff', handles[0])])
  index = varint(len(table)) + varint(len(block))
  table += block + b'\0' + struct.pack('<I', crc(block + b'\0'))
  footer = (handles[1] + index).ljust(40, b'\0') + struct.pack('<Q', 0xdb4775248b80fb57)
  prefix.with_name(f'{prefix.name}.index').write_bytes(table + footer)
  prefix.with_name(f'{prefix.name}.data-00000-of-00001').write_bytes(data)
