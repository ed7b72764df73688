"""Files with valid checksums around absurd content, which would end the process if TensorFlow opened them."""

import json
import tracemalloc
import zlib

import hostile
import numpy as np
import pytest

from datasets import records
from datasets.reading import Reading
from utils import checkpoint_files, runs
from utils.checkpoint_index import check_index, check_old
from utils.compat import tf
from utils.errors import UserError

pytestmark = pytest.mark.fast

DATA = np.arange(4, dtype='<f4').tobytes()
FLOAT, TEXT = 1, 7
DATA_FILE = 'data-00000-of-00001'


def write(folder, **entries):
  hostile.write_checkpoint(folder / 'model.ckpt-1', entries, DATA)
  return str(folder / 'model.ckpt-1')


def test_an_honest_index_is_read(tmp_path):
  prefix = write(tmp_path, a=(FLOAT, [2, 2], 0, 16), b=(FLOAT, [], 4, 4), c=(FLOAT, [0, 5], 0, 0))
  found = checkpoint_files.read_tensors(prefix, 'abc')
  assert found['a'].tolist() == [[0, 1], [2, 3]] and found['b'] == 1 and found['c'].shape == (0, 5)


@pytest.mark.parametrize('entry, file, problem', [
    ((FLOAT, [2**40], 0, 16), 'index', r"'a' has the shape \[1099511627776\] of float32 in 16 bytes"),
    ((FLOAT, [10**9], 0, 16), 'index', 'of float32 in 16 bytes'), ((FLOAT, [3], 0, 16), 'index', 'in 16 bytes'),
    ((FLOAT, [2**40], 0, 2**42), DATA_FILE, '4398046511104 bytes from 0 on are not there'),
    ((FLOAT, [4], 2**50, 16), DATA_FILE, '16 bytes from 1125899906842624 on are not there'),
    ((FLOAT, [4], -16, 16), 'index', '16 bytes from -16 on'), ((FLOAT, [4], 0, -1), 'index', '-1 bytes from 0 on'),
    ((FLOAT, [-5], 0, 16), 'index', r'has the shape \[-5\]'), ((FLOAT, [2**40] * 2, 0, 16), 'index', 'has the shape'),
    ((FLOAT, [2**62, 2**62, 0], 0, 0), 'index', 'has the shape'), ((FLOAT, [1] * 300, 0, 4), 'index', 'has the shape'),
    ((20, [4], 0, 16), 'index', 'is no array'), ((99, [4], 0, 16), 'index', '99'), ((0, [4], 0, 16), 'index', '0'),
    ((TEXT, [2**30], 0, 16), 'index', 'of string in 16 bytes')])
def test_absurd_shapes(entry, file, problem, tmp_path):
  prefix = write(tmp_path, a=entry)
  with pytest.raises(UserError, match=f'^{prefix}.{file} is cut off or damaged: .*{problem}'):
    checkpoint_files.open_checkpoint(prefix)
  assert checkpoint_files.problem(prefix) == f'{prefix}.{file} is cut off or damaged'
  with pytest.raises(UserError, match='^--ckpt=.*cut off or damaged'):
    runs.load_run(prefix)


@pytest.mark.parametrize('restarts, problem', [((5,), 'its first name is left out'), ((), 'its first name'),
                                               ((0, 5), 'from the middle of a name on')])
def test_an_index_that_is_read_from_elsewhere_on(restarts, problem, tmp_path):
  """Its rows are honest, but TensorFlow would begin in the middle of one, and take what is there for another."""
  hostile.write_checkpoint(tmp_path / 'model.ckpt-1', {'a': (FLOAT, [2, 2], 0, 16)}, DATA, restarts)
  with pytest.raises(UserError, match=f'index is cut off or damaged: .*{problem}'):
    checkpoint_files.open_checkpoint(str(tmp_path / 'model.ckpt-1'))


@pytest.mark.parametrize('entry, problem', [
    ((FLOAT, [2**40]), r"'a' has the shape \[1099511627776\] in a file of"), ((FLOAT, [10**4]), 'in a file of'),
    ((FLOAT, [-5]), r'has the shape \[-5\]'), ((FLOAT, [2**40] * 2), 'has the shape'), ((20, [4]), 'is no array'),
    ((FLOAT, [1] * 300), 'has the shape'), ((99, [4]), '99'), ((0, [4]), '0')])
def test_absurd_shapes_in_old_checkpoints(entry, problem, tmp_path):
  path = tmp_path / 'model.ckpt-1'
  hostile.write_old_checkpoint(path, {'a': entry})
  with pytest.raises(UserError, match=f'^{path} is cut off or damaged: .*{problem}'):
    checkpoint_files.open_checkpoint(str(path))
  assert checkpoint_files.problem(str(path)) == f'{path} is cut off or damaged, or no checkpoint'


@pytest.mark.parametrize('restarts, cut', [((1,), None), ((0,), 60), ((0,), 0), ((0,), -1)])
def test_old_checkpoints_without_a_beginning(restarts, cut, tmp_path):
  path = tmp_path / 'model.ckpt-1'
  hostile.write_old_checkpoint(path, {'a': (FLOAT, [4])}, restarts)
  path.write_bytes(path.read_bytes()[:cut])
  with pytest.raises(UserError, match=f'^{path} is cut off or damaged: '):
    check_old(str(path))


def test_an_index_damaged_anywhere(tmp_path):
  """Whatever a checksum would find, a reader that looks at none must end with an error of one kind."""
  prefix = write(tmp_path, **{f'layer{number}': (FLOAT, [2], 8, 8) for number in range(5)})
  path = tmp_path / 'model.ckpt-1.index'
  whole, refused = path.read_bytes(), 0
  for place in range(len(whole)):
    for bit in (1, 128):
      path.write_bytes(whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1:])
      try:
        check_index(str(path), [f'{prefix}.data-00000-of-00001'])
      except UserError:
        refused += 1
  assert 0 < refused < 2 * len(whole)
  for length in range(len(whole)):
    path.write_bytes(whole[:length])
    with pytest.raises(UserError, match='is cut off or damaged'):
      check_index(str(path), [f'{prefix}.data-00000-of-00001'])


@pytest.mark.parametrize('length', [2**32, 2**40, 2**60, 2**63, 2**64 - 1])
def test_lengths_of_records(length, tmp_path):
  """Where the reader of a split looks before TensorFlow does, and where `verify` does."""
  path = tmp_path / 'train-00000-of-00001.tfrecord'
  path.write_bytes(hostile.record(b'abc') + hostile.record(b'abc', length))
  (tmp_path / 'train.json').write_text(json.dumps(
      {'num_examples': 2, 'num_shards': 1, 'class_names': ['a'], 'class_pixels': [1],
       'shard_bytes': [path.stat().st_size]}))
  with pytest.raises(UserError, match=rf'{path}: record 1 is corrupt \(it claims {length} bytes\)'):
    records.shard_paths(str(tmp_path), 'train')
  path.write_bytes(hostile.record(b'abc', length))
  with pytest.raises(UserError, match=rf'{path}: record 0 is corrupt \(it claims {length} bytes\)'):
    records.verify([str(path)])


@pytest.mark.parametrize('data, size', [
    (zlib.compress(bytes(2**28)), (4, 5)), (zlib.compress(bytes(60)), (2**31, 2**31)), (b'no', (4, 5)),
    (zlib.compress(bytes(59)), (4, 5)), (zlib.compress(bytes(61)), (4, 5)), (zlib.compress(bytes(60))[:9], (4, 5))])
def test_bands_of_another_size_are_refused_without_making_room_for_them(data, size):
  reading = Reading(bands=('a', 'b', 'c'))
  assert records.raw_image(zlib.compress(bytes(60)), (4, 5), reading).shape == (4, 5, 3)
  tracemalloc.start()
  try:
    with pytest.raises(UserError, match=f'not one of {size[1]}x{size[0]} pixels in 3 bands'):
      records.raw_image(data, size, reading)
    assert tracemalloc.get_traced_memory()[1] < 2**20
  finally:
    tracemalloc.stop()


def test_the_checksum_is_tensorflows(tmp_path):
  path = tmp_path / 'a'
  path.write_bytes(hostile.record(b'abc') + hostile.record(b''))
  assert list(tf.io.tf_record_iterator(str(path))) == [b'abc', b'']
