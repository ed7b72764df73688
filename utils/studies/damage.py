"""Damage to files in nine ways, each as disks, transfers and users cause it; random, by a numpy Generator.

A block is 64 bytes, or half of a smaller file. JSON is damaged in a tenth way, as programs with errors and people with
bad intentions do it: one value in it becomes another, of another type or size.
"""

import gzip
import json

import numpy as np

# Files of other kinds, by which 'swapped' replaces one: what a server gives in place of a download, and others.
_OTHERS = (b'<!DOCTYPE html>\n<html><head><title>404 Not Found</title></head><body>Not Found</body></html>\n',
           b'{"message": "Not Found", "status": 404}\n', b'%PDF-1.7\n1 0 obj\n<< /Type /Catalog >>\nendobj\n%%EOF\n',
           gzip.compress(b'some text\n' * 20, mtime=0), b'\x7fELF\2\1\1' + bytes(57), b'Not Found')
# Values that take another's place in a JSON: texts of JSON.
_VALUES = ('null', 'true', '-1', '0', '1.5', '1000000000000', '1' + '0' * 400, '1e400', 'NaN', '-Infinity', '""',
           '"\\ud800\\u0000"', '"../../../etc/passwd"', json.dumps('x' * 5000), '[]', '{}', '[[1, 2], [3]]',
           '[' * 20_000 + ']' * 20_000, json.dumps([0] * 5000))
_BLOCK = 64  # bytes
_MOST_BITS = 8  # that are flipped in a file


def _place(rng, data, length):
  """A random place of `length` bytes in a file."""
  return int(rng.integers(len(data) - length + 1))


def _length(data):
  return min(_BLOCK, (len(data) + 1) // 2)


def _with(data, start, block):
  return data[:start] + block + data[start + len(block):]


def _cut(rng, data):
  """A transfer that broke off."""
  return data[:rng.integers(1, max(2, len(data)))]


def _bits(rng, data):
  """Bits that tipped over."""
  flipped = bytearray(data)
  for _ in range(rng.integers(1, _MOST_BITS + 1)):
    flipped[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
  return bytes(flipped)


def _zeroed(rng, data):
  """A block that was never written."""
  return _with(data, _place(rng, data, _length(data)), bytes(_length(data)))


def _doubled(rng, data):
  """A block that was written twice."""
  start = _place(rng, data, _length(data))
  return data[:start + _length(data)] + data[start:]


def _noise(rng, data):
  """A block of another file."""
  return _with(data, _place(rng, data, _length(data)), rng.bytes(_length(data)))


def _head(rng, data):
  """Bytes that do not belong to the file, before it."""
  return rng.bytes(int(rng.integers(1, _BLOCK + 1))) + data


def _tail(rng, data):
  """The same behind it."""
  return data + rng.bytes(int(rng.integers(1, _BLOCK + 1)))


def _places(value, path=()):
  """Yields the paths of all values in a JSON's value, tuples of keys."""
  yield path
  for key, part in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
    yield from _places(part, (*path, key))


def _value(rng, data):
  """A JSON with another value somewhere."""
  content, mark = json.loads(data), 'put another value here'
  places = list(_places(content))
  path = places[rng.integers(len(places))]
  text = _VALUES[rng.integers(len(_VALUES))]
  if not path:
    return text.encode()
  inner = content
  for key in path[:-1]:
    inner = inner[key]
  inner[path[-1]] = mark
  return json.dumps(content, indent=1).replace(json.dumps(mark), text, 1).encode()


WAYS = {
    'cut': _cut,
    'bits': _bits,
    'zeroed': _zeroed,
    'doubled': _doubled,
    'noise': _noise,
    'head': _head,
    'tail': _tail,
    'empty': lambda rng, data: b'',
    'swapped': lambda rng, data: _OTHERS[rng.integers(len(_OTHERS))],
    'value': _value,
}


def damaged(way, data, seed):
  """Damages a file.

  Args:
    way: a key of WAYS.
    data: bytes of the file, at least one; for 'value' a JSON.
    seed: ints that all that is random follows from.

  Returns:
    bytes; they may be equal to `data` where a block of zeros is zeroed.
  """
  return WAYS[way](np.random.default_rng(seed), data)
