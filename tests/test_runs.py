"""Run folders: what `--ckpt` means, and which folders are refused."""

import json
import shutil

import pytest

from utils import runs
from utils.compat import tf
from utils.errors import UserError

CONFIG = {
    'flags': {'seed': 0, 'skip': '8s', 'log_steps': 5},
    'dataset': {'classes': ['a', 'b'], 'palette': [[0, 0, 0]] * 2},
}


def save(folder, step):
  """Writes a checkpoint that holds a global step alone."""
  folder.mkdir(parents=True, exist_ok=True)
  with tf.Graph().as_default(), tf.Session() as session:
    global_step = tf.train.get_or_create_global_step()
    global_step.load(step, session)
    saver = tf.train.Saver([global_step], save_relative_paths=True)
    saver.save(session, str(folder / 'model.ckpt'), global_step=step, write_meta_graph=False)


@pytest.fixture
def folder(tmp_path):
  """A run with checkpoints 3 and 9, the latest."""
  path = tmp_path / 'run'
  save(path, 3)
  save(path, 9)
  (path / 'config.json').write_text(json.dumps(CONFIG))
  return path


def test_a_folder_means_its_latest_checkpoint_or_its_best(folder):
  run = runs.load_run(f'{folder}/')
  assert (run.step, run.folder, run.classes) == (9, str(folder), ('a', 'b'))
  save(folder / 'best', 6)
  assert runs.load_run(str(folder)).step == 6
  assert runs.load_run(str(folder / 'best')).folder == str(folder)


@pytest.mark.parametrize('name', ['model.ckpt-3', 'model.ckpt-3.index'])
def test_one_checkpoint(folder, name):
  run = runs.load_run(str(folder / name))
  assert run.step == 3 and run.folder == str(folder)


def test_a_folder_may_be_moved(folder, tmp_path):
  shutil.move(folder, tmp_path / 'elsewhere')
  assert runs.load_run(str(tmp_path / 'elsewhere')).checkpoint == str(tmp_path / 'elsewhere/model.ckpt-9')


def test_what_is_missing_is_named(folder, tmp_path):
  (tmp_path / 'empty').mkdir()
  with pytest.raises(UserError, match='empty: no checkpoint'):
    runs.load_run(str(tmp_path / 'empty'))
  with pytest.raises(UserError, match='nowhere: no such'):
    runs.load_run(str(tmp_path / 'nowhere'))
  (folder / 'config.json').unlink()
  with pytest.raises(UserError, match='config.json'):
    runs.load_run(str(folder))


def test_a_truncated_checkpoint_is_named(folder):
  data = folder / 'model.ckpt-9.data-00000-of-00001'
  data.write_bytes(data.read_bytes()[:-1])
  with pytest.raises(UserError, match='model.ckpt-9'):
    runs.load_run(str(folder))
  index = folder / 'model.ckpt-3.index'
  index.write_bytes(index.read_bytes()[:20])
  with pytest.raises(UserError, match='model.ckpt-3'):
    runs.load_run(str(folder / 'model.ckpt-3'))


def test_other_settings_are_refused_and_bookkeeping_is_not(folder):
  other = {**CONFIG, 'flags': {**CONFIG['flags'], 'seed': 1, 'log_steps': 50}}
  with pytest.raises(UserError, match=r'--seed \(0 there, 1 here\);'):
    runs.save_config(str(folder), other, may_differ=['log_steps'])
  other['flags']['seed'] = 0
  runs.save_config(str(folder), other, may_differ=['log_steps'])
  assert json.loads((folder / 'config.json').read_text())['flags']['log_steps'] == 50


def test_other_classes_are_refused(folder):
  other = {**CONFIG, 'dataset': {**CONFIG['dataset'], 'classes': ['b', 'a']}}
  with pytest.raises(UserError, match='a, b there, b, a here'):
    runs.save_config(str(folder), other)


def test_a_start_that_failed_before_its_first_checkpoint_is_forgotten(tmp_path):
  runs.save_config(str(tmp_path), CONFIG)
  runs.save_config(str(tmp_path), {**CONFIG, 'flags': {'seed': 7}})
  assert json.loads((tmp_path / 'config.json').read_text())['flags'] == {'seed': 7}


def test_one_process_a_folder(tmp_path):
  first, second = (runs.locked(str(tmp_path / 'run')) for _ in range(2))
  with first, pytest.raises(UserError, match='another run'):
    second.__enter__()
  with runs.locked(str(tmp_path / 'run')) as held:
    assert held is None
