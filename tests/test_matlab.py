"""MATLAB files that would take more memory than they should, and damaged ones."""

import struct
import zlib

import numpy as np
import pytest
import scipy.io

from utils import matlab

pytestmark = pytest.mark.fast


def write(path, compressed=True, **values):
  scipy.io.savemat(path, values, do_compression=compressed)
  return path


@pytest.mark.parametrize('compressed', [True, False])
def test_variables_are_those_asked_for(tmp_path, compressed):
  values = {'a': np.arange(6.0).reshape(2, 3), 'b': np.array([[1]], np.uint8)}
  path = write(tmp_path / 'a.mat', compressed, **values, c='text')
  found = matlab.load(path, ('a', 'b', 'x'))
  assert found.keys() == {'a', 'b'}
  np.testing.assert_array_equal(found['a'], values['a'])


def test_files_of_version_4(tmp_path):
  scipy.io.savemat(tmp_path / 'a.mat', {'a': np.eye(3)}, format='4')
  np.testing.assert_array_equal(matlab.load(tmp_path / 'a.mat', ['a'])['a'], np.eye(3))


def test_what_is_no_array_is_not_there(tmp_path):
  import scipy.sparse
  assert matlab.load(write(tmp_path / 'a.mat', a=scipy.sparse.eye(3)), ['a']) == {}


def test_bombs(tmp_path, monkeypatch):
  monkeypatch.setattr(matlab, '_SMALL', 10**5)
  path = write(tmp_path / 'a.mat', a=np.zeros(10**6, np.uint8), b=np.ones(3))
  assert path.stat().st_size * 32 < 10**6
  with pytest.raises(ValueError, match='holds more than 32 times its own size'):
    matlab.load(path, ['b'])
  assert write(path, False, a=np.zeros(10**6, np.uint8)).stat().st_size > 10**6
  assert matlab.load(path, ['a'])['a'].size == 10**6


@pytest.mark.parametrize('shape', [(2**31 - 1, 2**31 - 1), (2**30, 1)])
def test_cells_without_end(tmp_path, shape):
  """A cell array that claims more cells than there are bytes."""
  def element(kind, data):
    return struct.pack('<II', kind, len(data)) + data + bytes(-len(data) % 8)

  matrix = element(14, element(6, struct.pack('<II', 1, 0)) + element(5, struct.pack('<ii', *shape)) + element(1, b'a'))
  head = b'MATLAB 5.0 MAT-file'.ljust(124) + struct.pack('<H', 0x0100) + b'IM'
  data = zlib.compress(matrix)
  for content in (matrix, struct.pack('<II', 15, len(data)) + data):
    (tmp_path / 'a.mat').write_bytes(head + content)
    with pytest.raises(ValueError, match=rf'an array of \[{shape[0]}, {shape[1]}\] values in 48 bytes'):
      matlab.load(tmp_path / 'a.mat', ['a'])


def test_cells_in_cells(tmp_path):
  value = np.ones((1, 1))
  for _ in range(40):
    cell = np.empty((1, 1), object)
    cell[0, 0], value = value, cell
  with pytest.raises(ValueError, match='arrays lie in more than 32 others'):
    matlab.load(write(tmp_path / 'a.mat', a=value), ['a'])


def test_damage_anywhere(tmp_path):
  """A flipped bit is an error of one kind, or leaves an array."""
  path = write(tmp_path / 'a.mat', a=np.arange(50.0), b={'c': np.ones((2, 2)), 'd': 'text'})
  whole, kinds = path.read_bytes(), set()
  for place in range(len(whole)):
    path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1:])
    try:
      kinds |= {type(value) for value in matlab.load(path, ['a', 'b']).values()}
    except (ValueError, NotImplementedError):
      kinds.add(None)
  assert kinds == {None, np.ndarray}
