"""Checkpoints that survive a crash at any moment of their saving, and what is kept and deleted."""

import contextlib
import os
import shutil

import numpy as np
import pytest

from utils import checkpoint_files, files
from utils.compat import tf
from utils.errors import UserError
from utils.training import hooks, saving

pytestmark = pytest.mark.fast

DATA, INDEX = '.data-00000-of-00001', '.index'
VALUES = np.arange(1000, dtype=np.float32)


@contextlib.contextmanager
def checkpoints(folder, *, keep=2):
  """Yields `(CheckpointFolder, save)`; `save(step)` writes a checkpoint of its step and 1000 numbers plus the step."""
  folder.mkdir(parents=True, exist_ok=True)
  with tf.Graph().as_default(), tf.Session() as session:
    step = tf.train.get_or_create_global_step()
    weights = tf.get_variable('weights', initializer=tf.constant(VALUES))
    made = saving.CheckpointFolder(str(folder), tf.train.Saver([step, weights]), keep=keep)

    def save(number):
      step.load(number, session)
      weights.load(VALUES + number, session)
      made.save(session, number)

    yield made, save


def contents(folder):
  return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def whole(folder):
  """Step of the newest whole checkpoint, whose values are checked."""
  prefix = checkpoint_files.newest_checkpoint(str(folder))
  found = checkpoint_files.read_tensors(prefix, ['global_step', 'weights'])
  np.testing.assert_array_equal(found['weights'], VALUES + found['global_step'])
  return int(found['global_step'])


def test_the_newest_few_are_kept_and_listed(tmp_path):
  with checkpoints(tmp_path / 'run') as (_, save):
    for step in (3, 9, 12):
      save(step)
  assert sorted(os.listdir(tmp_path / 'run')) == sorted(
      ['checkpoint', *(f'model.ckpt-{step}{suffix}' for step in (9, 12) for suffix in (DATA, INDEX))])
  state = tf.train.get_checkpoint_state(str(tmp_path / 'run'))  # as others read it
  assert [os.path.basename(path) for path in state.all_model_checkpoint_paths] == ['model.ckpt-9', 'model.ckpt-12']
  assert tf.train.latest_checkpoint(str(tmp_path / 'run')) == str(tmp_path / 'run/model.ckpt-12')


@pytest.mark.parametrize('name', ['a*b[c]', 'sp ace', 'caf\udce9'])
def test_names_that_tensorflow_does_not_take(name, tmp_path):
  folder = tmp_path / name
  with checkpoints(folder) as (_, save):
    save(3)
  assert whole(folder) == 3 and not (folder / saving.SAVING).exists()


def test_each_step_is_on_the_disk_before_the_next(tmp_path, monkeypatch):
  calls = []

  def recorded(name, real):
    def call(path, *more, **options):
      calls.append((name, os.path.basename(path)))
      return real(path, *more, **options)
    monkeypatch.setattr(os, name, call)

  recorded('replace', os.replace)
  recorded('unlink', os.unlink)
  for module in (saving, files):
    monkeypatch.setattr(module, 'sync', lambda path: calls.append(('sync', os.path.basename(path))))
  with checkpoints(tmp_path / 'run', keep=1) as (_, save):
    save(3)
    calls.clear()
    save(4)
  calls = [(what, 'list' if name.endswith('.tmp') else name) for what, name in calls]
  new, old = 'model.ckpt-4', 'model.ckpt-3'
  assert [call for call in calls if call != ('unlink', 'list')] == [  # its temporary file, which is not there
      ('sync', new + DATA), ('sync', new + INDEX), ('replace', new + DATA), ('replace', new + INDEX), ('sync', 'run'),
      ('sync', 'list'), ('replace', 'list'), ('sync', 'run'), ('unlink', old + DATA), ('unlink', old + INDEX)]


def crashed(before, after):
  """Every state that a crash can leave of a save which turns the files `before` into `after`: dicts from name to bytes.

  What is not on the disk yet is cut anywhere, or zeros.
  """
  data, index = (f'model.ckpt-12{suffix}' for suffix in (DATA, INDEX))

  def remains(name):
    content = after[name]
    sizes = sorted({0, 1, len(content) // 2, len(content) - 1})
    return [None, *(content[:size] for size in sizes), bytes(len(content)), content]

  for part in remains(data):  # written to the subfolder, in any part
    for other in remains(index):
      yield {**before, **{f'{saving.SAVING}/{name}': content for name, content in ((data, part), (index, other))
                          if content is not None}}
  yield {**before, f'{saving.SAVING}/{data}.tempstate1234': after[data][:100]}
  for renamed in ([data], [index], [data, index]):  # a journal may keep the later of two renames alone
    yield {**before, **{name: after[name] for name in renamed}}
  listed = {**before, data: after[data], index: after[index], 'checkpoint': after['checkpoint']}
  yield {**before, data: after[data], index: after[index], '.0123456789ab.tmp': after['checkpoint'][:7]}
  yield listed
  yield {name: content for name, content in listed.items() if name != f'model.ckpt-3{DATA}'}  # the oldest goes
  yield after


def test_after_a_crash_at_any_moment_the_newest_whole_one_is_used_and_saving_goes_on(tmp_path):
  with checkpoints(tmp_path / 'run') as (_, save):
    save(3)
    save(9)
    before = contents(tmp_path / 'run')
    save(12)
    after = contents(tmp_path / 'run')
  states = list(crashed(before, after))
  assert len(states) > 40
  for number, state in enumerate(states):
    folder = tmp_path / f'{number}'
    (folder / saving.SAVING).mkdir(parents=True)
    order = sorted(state, key=lambda name: ('-3.' in name, '-9.' in name, name == 'checkpoint'))
    listed_new = state['checkpoint'] == after['checkpoint']
    for place, name in enumerate(reversed(order) if not listed_new else order):
      (folder / name).write_bytes(state[name])
      os.utime(folder / name, (1000 + place, 1000 + place))
    arrived = f'model.ckpt-12{DATA}' in state and f'model.ckpt-12{INDEX}' in state
    assert whole(folder) == (12 if arrived else 9), sorted(state)
    with checkpoints(folder) as (made, save):
      made.go_on_from(checkpoint_files.newest_checkpoint(str(folder)))
      save(12)  # again, as a resumed run does
      save(15)
    assert whole(folder) == 15 and checkpoint_files.problem(str(folder / 'model.ckpt-12')) is None
    assert set(os.listdir(folder)) - {'.0123456789ab.tmp', f'model.ckpt-3{INDEX}'} == {
        'checkpoint', *(f'model.ckpt-{step}{suffix}' for step in (12, 15) for suffix in (DATA, INDEX))}
    shutil.rmtree(folder)


def test_what_a_kill_kept_from_going_goes_when_the_run_goes_on(tmp_path):
  folder = tmp_path / 'run'
  with checkpoints(folder, keep=9) as (_, save):
    for step in (3, 9, 12):
      save(step)
  with checkpoints(folder, keep=1) as (made, _):
    made.go_on_from(str(folder / 'model.ckpt-12'))
  assert list(checkpoint_files.steps_of(str(folder))) == [12]


def test_what_is_broken_is_never_deleted(tmp_path):
  """Not what is cut off, and not what a power cut has left as zeros of the right size."""
  folder = tmp_path / 'run'
  with checkpoints(folder, keep=9) as (_, save):
    for step in (3, 6, 9, 12):
      save(step)
  os.truncate(folder / f'model.ckpt-3{DATA}', 100)
  (folder / f'model.ckpt-6{DATA}').write_bytes(bytes(os.path.getsize(folder / f'model.ckpt-6{DATA}')))
  with checkpoints(folder, keep=1) as (made, save):
    made.go_on_from(checkpoint_files.newest_checkpoint(str(folder)))
    save(15)
  assert list(checkpoint_files.steps_of(str(folder))) == [15, 6, 3]
  assert os.path.getsize(folder / f'model.ckpt-3{DATA}') == 100


@pytest.mark.parametrize('suffix', [DATA, INDEX])
def test_a_flipped_bit_anywhere_is_found_in_reading_and_in_restoring(suffix, tmp_path):
  """TensorFlow compares the checksums of tensors and of the index's blocks each time that it reads them."""
  folder = tmp_path / 'run'
  with checkpoints(folder) as (_, save):
    save(3)
  prefix, path = str(folder / 'model.ckpt-3'), folder / f'model.ckpt-3{suffix}'
  content = path.read_bytes()
  with tf.Graph().as_default(), tf.Session() as session:
    weights = tf.get_variable('weights', initializer=tf.constant(VALUES))
    step = tf.train.get_or_create_global_step()
    saver = tf.train.Saver([step, weights])
    for place in range(0, len(content), max(1, len(content) // 60)):
      path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1:])
      if checkpoint_files.problem(prefix) is None:  # padding between the index's parts
        saver.restore(session, prefix)
        np.testing.assert_array_equal(session.run(weights), VALUES + 3)
        assert suffix == INDEX
      else:
        with pytest.raises((tf.errors.OpError, ValueError)):
          saver.restore(session, prefix)
  path.write_bytes(content)
  assert checkpoint_files.problem(prefix) is None


def test_a_disk_that_is_full_is_said_in_one_line(tmp_path, monkeypatch, graph):
  def full(path):
    raise OSError(28, 'No space left on device')

  folder = tmp_path / 'run'
  with checkpoints(folder) as (_, save):
    save(3)
    before = contents(folder)
    monkeypatch.setattr(saving, 'sync', full)
    with pytest.raises(UserError, match='checkpoint of step 5: .* No space left on device; the checkpoints before'), \
        hooks._one_line_if_unwritable(5):
      save(5)
  assert contents(folder) == before and not (folder / saving.SAVING).exists()
