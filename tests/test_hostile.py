"""Files with valid checksums around absurd content, which would end the process if TensorFlow opened them."""

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


def write(folder, **entries):
  hostile.write_checkpoint(folder / 'model.ckpt-1', entries, DATA)
  return str(folder / 'model.ckpt-1')


def test_an_honest_index_is_read(tmp_path):
  prefix = write(tmp_path, a=(FLOAT, [2, 2], 0, 16), b=(FLOAT, [], 4, 4), c=(FLOAT, [0, 5], 0, 0))
  found = checkpoint_files.read_tensors(prefix, 'abc')
  assert found['a'].tolist() == [[0, 1], [2, 3]] and found['b'] == 1 and found['c'].shape == (0, 5)


@pytest.mark.parametrize('entry, problem', [
    ((FLOAT, [2**40], 0, 16), r"'a' has the shape \[1099511627776\] of float32 in 16 bytes"),
    ((FLOAT, [10**9], 0, 16), 'of float32 in 16 bytes'), ((FLOAT, [3], 0, 16), 'of float32 in 16 bytes'),
    ((FLOAT, [2**40], 0, 2**42), 'claims 4398046511104 bytes from 0 on, which its data file does not have'),
    ((FLOAT, [4], 2**50, 16), 'claims 16 bytes from 1125899906842624 on'), ((FLOAT, [4], -16, 16), 'from -16 on'),
    ((FLOAT, [4], 0, -1), 'claims -1 bytes'), ((FLOAT, [-5], 0, 16), r'has the shape \[-5\]'),
    ((FLOAT, [2**40, 2**40], 0, 16), 'has the shape'), ((FLOAT, [2**62, 2**62, 0], 0, 0), 'has the shape'),
    ((FLOAT, [1] * 300, 0, 4), 'has the shape'), ((99, [4], 0, 16), '99'), ((0, [4], 0, 16), '0'),
    ((TEXT, [2**30], 0, 16), 'of string in 16 bytes')])
def test_absurd_shapes(entry, problem, tmp_path):
  prefix = write(tmp_path, a=entry)
  with pytest.raises(UserError, match=f'model.ckpt-1.index is damaged, or no index of a checkpoint: .*{problem}'):
    checkpoint_files.open_checkpoint(prefix)
  assert checkpoint_files.problem(prefix) == f'{prefix}.index is cut off or damaged'
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
    with pytest.raises(UserError, match='damaged, or no index'):
      check_index(str(path), [f'{prefix}.data-00000-of-00001'])


@pytest.mark.parametrize('length', [2**32, 2**40, 2**60, 2**63, 2**64 - 1])
def test_lengths_of_records(length, tmp_path):
  path = tmp_path / 'train-00000-of-00001.tfrecord'
  path.write_bytes(hostile.record(b'abc', length))
  with pytest.raises(UserError, match=f'{path}: record 0 '):
    records.verify([str(path)])


def test_the_checksum_is_tensorflows(tmp_path):
  path = tmp_path / 'a'
  path.write_bytes(hostile.record(b'abc') + hostile.record(b''))
  assert list(tf.io.tf_record_iterator(str(path))) == [b'abc', b'']
