"""Label Studio's run lengths of brush strokes: bits in a list of bytes, the highest first.

32 bits give the number of values, 5 the bits of a value less one, and four times 4 the bits of a length less one. Then
come runs: a bit that is set for equal values, 2 bits that choose one of the four sizes of lengths, the length less one,
and the value; or all the values, where the bit is not set. The values are an image's red, green, blue and alpha, of
which alpha is the stroke (https://github.com/thi-ng/umbrella, rle-pack, which Label Studio draws with).
"""

import numpy as np

_HEADER = 32 + 5 + 4 * 4  # bits
_WORD = 8  # bits of a value


def decode(data, height, width):
  """Decodes the strokes of one region.

  Args:
    data: bytes.
    height, width: of the image in pixels.

  Returns:
    alpha, uint8 [height, width]: not 0 on the stroke.

  Raises:
    ValueError: saying what is wrong, if they are cut off or of another size.
  """
  num_values, word, sizes = _header(data)
  if num_values != 4 * height * width or word != _WORD:
    raise ValueError(f'hold {num_values} values of {word} bits, where 4 of {_WORD} bits for each of {width}x{height} '
                     'pixels are wanted')
  values, place, position, end = np.empty(num_values, np.uint8), 0, _HEADER, 8 * len(data)
  while place < num_values:
    start = _bits(data, position, 3)
    size = sizes[start & 3]
    length = _bits(data, position + 3, size) + 1
    position += 3 + size
    count = 1 if start & 4 else length
    if position + _WORD * count > end:
      raise ValueError(f'end after {place} of {num_values} values')
    if place + length > num_values:
      raise ValueError(f'hold more than their {num_values} values')
    values[place:place + length] = (_bits(data, position, _WORD) if start & 4 or count == 1 else
                                    _words(data, position, count))
    position += _WORD * count
    place += length
  return values[3::4].reshape(height, width)


def _header(data):
  """Returns the number of values, the bits of each, and the four sizes of lengths in bits."""
  if 8 * len(data) < _HEADER:
    raise ValueError(f'have {len(data)} bytes, which is no header')
  return _bits(data, 0, 32), _bits(data, 32, 5) + 1, [_bits(data, 37 + 4 * index, 4) + 1 for index in range(4)]


def _bits(data, position, count):
  """Reads `count` bits as a number; bits behind the end are 0."""
  first, last = position >> 3, (position + count + 7) >> 3
  value = int.from_bytes(data[first:last].ljust(last - first, b'\0'), 'big')
  return value >> (8 * last - position - count) & ((1 << count) - 1)


def _words(data, position, count):
  """Reads `count` values of 8 bits, uint8 [count]."""
  first, shift = position >> 3, position & 7
  pair = np.frombuffer(data[first:first + count + 1].ljust(count + 1, b'\0'), np.uint8).astype(np.uint16)
  return ((pair[:-1] << 8 | pair[1:]) >> (8 - shift) & 255).astype(np.uint8)
