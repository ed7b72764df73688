"""Files with valid checksums around absurd content, which would end the process if TensorFlow opened them."""

import json

import hostile
import numpy as np
import pytest

from datasets import records
from utils import checkpoint_files, runs
from utils.checkpoint_index import check_index
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


def test_the_checksum_is_tensorflows(tmp_path):
  path = tmp_path / 'a'
  path.write_bytes(hostile.record(b'abc') + hostile.record(b''))
  assert list(tf.io.tf_record_iterator(str(path))) == [b'abc', b'']
