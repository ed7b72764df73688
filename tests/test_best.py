"""The best checkpoint of a run: replaced wholly or not at all, whenever a crash comes; of one split and metric."""

import json
import os
import shutil
import sys

import pytest

from utils import best
from utils.checkpoint_files import problem, read_step
from utils.compat import tf
from utils.errors import UserError

pytestmark = pytest.mark.fast

DATA = '.data-00000-of-00001'


class Killed(BaseException):
  """The end of the process: what is not done yet is never done."""


class Moments:
  """Counts what is done to files in a folder, and ends it all at one of these moments, before it is done."""

  def __init__(self, folder, last):
    self.folder, self.last, self.count, self.is_on = str(folder), last, 0, False

  def __call__(self, event, arguments):
    if self.is_on and event in ('open', 'os.rename', 'os.remove', 'os.mkdir', 'os.rmdir', 'shutil.rmtree') and any(
        str(part).startswith(self.folder) for part in arguments) and (event != 'open' or 'r' not in str(arguments[1])):
      self.moment()

  def moment(self):
    self.count += 1
    if self.count > self.last:
      raise Killed

  def __enter__(self):
    self.is_on = True
    return self

  def __exit__(self, *exception):
    self.is_on = False


_current = []
sys.addaudithook(lambda event, arguments: _current and _current[0](event, arguments))


@pytest.fixture(scope='module')
def checkpoints(tmp_path_factory):
  """A folder with whole checkpoints of steps 3 and 6."""
  folder = tmp_path_factory.mktemp('checkpoints')
  with tf.Graph().as_default(), tf.Session() as session:
    step = tf.train.get_or_create_global_step()
    for number in (3, 6):
      step.load(number, session)
      tf.train.Saver([step]).save(session, str(folder / f'model.ckpt-{number}'), write_meta_graph=False)
  return folder


def value(step, score=0.5, split='val'):
  return {'split': split, 'metric': 'mean_iou', 'mean_iou': score, 'step': step}


def saves(checkpoints, folder, step, moment=lambda: None):
  """A `save` that writes a checkpoint as TensorFlow does: under other names first, the data before the index."""

  def save(name):
    os.makedirs(folder / f'{name}_temp', exist_ok=True)
    for suffix in (DATA, '.index'):
      content = (checkpoints / f'model.ckpt-{step}{suffix}').read_bytes()
      with open(folder / f'{name}_temp/part{suffix}', 'wb') as file:
        file.write(content[:-1])
        moment()
        file.write(content[-1:])
    for suffix in (DATA, '.index'):
      os.rename(folder / f'{name}_temp/part{suffix}', folder / f'{name}{suffix}')
    os.rmdir(folder / f'{name}_temp')

  return save


def replaced(checkpoints, folder, step, last=10**9, **options):
  """Replaces the best checkpoint, up to the moment `last`; returns the number of moments."""
  moments = Moments(folder, last)
  _current[:] = [moments]
  try:
    with moments:
      best.replace_best(str(folder), value(step, **options), saves(checkpoints, folder, step, moments.moment))
  finally:
    _current.clear()
  return moments.count


def content(folder):
  return sorted(os.listdir(folder))


def test_evaluations_that_were_made_are_counted():
  """Not those that would have been, had --eval_steps always been what it is now."""
  noted = {**value(1000), 'evaluated': 1500, 'no_better': [1500]}
  assert best.no_better_since(noted, 1500, every_steps=100, early_stop=2) is None
  assert best.no_better_since(noted, 1500, every_steps=100, early_stop=1).startswith('1 evaluations without a better ')
  assert best.steps_since({**value(1000), 'no_better': [900, 1000, 1200, 1250, 1300]}, 1250, 100) == [1200, 1250]
  assert best.steps_since({**value(1000), 'evaluated': 1500}, 1499, 250) == [1250]  # of an earlier version


@pytest.mark.parametrize('first, second', [(3, 6), (6, 3), (6, 6)])  # of one step: another split, or a run that repeats
@pytest.mark.parametrize('is_old', [False, True])
def test_a_crash_at_any_moment_leaves_one_best_that_best_json_describes(first, second, is_old, checkpoints, tmp_path):
  begun = tmp_path / 'begun'
  replaced(checkpoints, begun, first, score=0.4)
  if is_old:  # as an earlier version left it
    (begun / 'checkpoint').write_text(f'model_checkpoint_path: "model.ckpt-{first}"\n')
    (begun / 'best.json').write_text(json.dumps(value(first, 0.4)))
  count = replaced(checkpoints, shutil.copytree(begun, tmp_path / 'whole'), second)
  assert count >= 12 and len([name for name in content(tmp_path / 'whole') if 'ckpt' in name]) == 2
  seen = set()
  for last in range(count):
    folder = tmp_path / f'killed-{last}'
    shutil.copytree(begun, folder)
    with pytest.raises(Killed):
      replaced(checkpoints, folder, second, last=last)
    described, prefix = best.read_best(str(folder)), best.best_checkpoint(str(folder))
    assert problem(prefix) is None and read_step(prefix) == described['step']
    assert (described['step'], described['mean_iou']) in ((first, 0.4), (second, 0.5))
    seen.add(described['mean_iou'])
    replaced(checkpoints, folder, 6, score=0.6)  # and it goes on
    prefix = best.best_checkpoint(str(folder))
    assert read_step(prefix) == 6 and best.read_best(str(folder))['mean_iou'] == 0.6
    name = os.path.basename(prefix)
    assert [entry for entry in content(folder) if not entry.endswith('.tmp')] == sorted(
        ['best.json', f'{name}{DATA}', f'{name}.index'])
  assert seen == {0.4, 0.5}


def test_a_first_best_that_was_not_finished_is_none(checkpoints, tmp_path):
  count = replaced(checkpoints, tmp_path / 'whole', 6)
  for last in range(count):
    folder = tmp_path / f'killed-{last}'
    with pytest.raises(Killed):
      replaced(checkpoints, folder, 6, last=last)
    assert best.best_checkpoint(str(folder)) is None or read_step(best.best_checkpoint(str(folder))) == 6


def test_what_cannot_be_written_leaves_the_old_one(checkpoints, tmp_path):
  replaced(checkpoints, tmp_path / 'best', 3)

  def full(name):
    (tmp_path / 'best' / f'{name}{DATA}').write_bytes(b'half')
    raise UserError('the disk is full')

  with pytest.raises(UserError, match='full'):
    best.replace_best(str(tmp_path / 'best'), value(6, 0.9), full)
  assert read_step(best.best_checkpoint(str(tmp_path / 'best'))) == 3


def test_others_files_stay(checkpoints, tmp_path):
  folder = tmp_path / 'best'
  replaced(checkpoints, folder, 3)
  (folder / 'notes.txt').touch()
  (folder / 'model.ckpt-60.index').touch()  # of a name that begins as that of step 6
  replaced(checkpoints, folder, 6)
  assert content(folder) == ['best.json', f'model.ckpt-6{DATA}', 'model.ckpt-6.index', 'notes.txt']


@pytest.mark.parametrize('told, split, comparable', [
    ({'split': 'val', 'metric': 'mean_iou'}, 'val', True), ({'split': 'val'}, 'val', True),
    ({'split': 'val', 'metric': 'mean_iou'}, 'test', False), ({'split': 'val', 'metric': 'f1'}, 'val', False),
    ({}, 'val', False)])
def test_scores_of_other_splits_and_metrics_are_not_compared(told, split, comparable):
  assert best.scored_on({'mean_iou': 0.5, 'step': 3, **told}, split) == comparable
