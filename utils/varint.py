"""Variable-length integers of Protocol Buffers ("Encoding", Base 128 Varints), which LevelDB's tables have as well."""


def read(data, place):
  """Reads the number at `place` of bytes.

  Returns:
    `(value, place behind it)`.

  Raises:
    ValueError: if it has no end, or more than ten bytes.
  """
  value = 0
  for index, byte in enumerate(data[place:place + 10]):
    value |= (byte & 127) << (7 * index)
    if byte < 128:
      return value, place + index + 1
  raise ValueError('a number without an end')


def encoded(value):
  """The bytes of an integer of 64 bits; a negative one has ten, as its two's complement."""
  found, value = bytearray(), value & 2**64 - 1
  while value > 127:
    found.append(value & 127 | 128)
    value >>= 7
  return bytes([*found, value])
