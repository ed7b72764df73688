"""Run folders: the checkpoint that `--ckpt` names, and refused folders."""

import json
import shutil

import pytest

from utils import runs
from utils.compat import tf
from utils.errors import UserError

pytestmark = pytest.mark.fast

CONFIG = {
    'flags': {'seed': 0, 'skip': '8s', 'log_steps': 5},
    'dataset': {'classes': ['a', 'b'], 'palette': [[0, 0, 0]] * 2},
    'network': {'name': 'enet', 'skip': None},
}


def save(folder, step):
  """Writes a checkpoint with a global step alone."""
  folder.mkdir(parents=True, exist_ok=True)
  with tf.Graph().as_default(), tf.Session() as session:
    global_step = tf.train.get_or_create_global_step()
    global_step.load(step, session)
    saver = tf.train.Saver([global_step], save_relative_paths=True)
    saver.save(session, str(folder / 'model.ckpt'), global_step=step, write_meta_graph=False)


def write_best(folder, **values):
  (folder / 'best/best.json').write_text(json.dumps({'mean_iou': 0.5, 'step': 6, **values}))


@pytest.fixture
def folder(tmp_path):
  """A run with checkpoints of steps 3 and 9."""
  path = tmp_path / 'run'
  save(path, 3)
  save(path, 9)
  (path / 'config.json').write_text(json.dumps(CONFIG))
  return path


def test_a_folder_means_its_latest_checkpoint_or_its_best(folder):
  run = runs.load_run(f'{folder}/')
  assert (run.step, run.folder, run.classes) == (9, str(folder), ('a', 'b'))
  assert run.named == f'{folder}/model.ckpt-9 (step 9, the latest)'
  save(folder / 'best', 6)
  assert runs.load_run(str(folder)).step == 9  # nothing says on what it is best: a crash came before
  write_best(folder, split='val')
  run = runs.load_run(str(folder))
  assert run.named == f'{folder}/best/model.ckpt-6 (step 6, the best on val: mean IoU 0.5000)'
  assert runs.load_run(str(folder / 'best')).named == run.named and runs.load_run(str(folder / 'best')).step == 6
  assert runs.load_run(str(folder / 'best')).folder == str(folder)
  assert runs.load_run(str(folder / 'model.ckpt-3')).named == f'{folder}/model.ckpt-3 (step 3)'


@pytest.mark.parametrize('name', ['model.ckpt-3', 'model.ckpt-3.index'])
def test_one_checkpoint(folder, name):
  run = runs.load_run(str(folder / name))
  assert run.step == 3 and run.folder == str(folder)


def test_a_folder_may_be_moved(folder, tmp_path):
  shutil.move(folder, tmp_path / 'elsewhere')
  assert runs.load_run(str(tmp_path / 'elsewhere')).checkpoint == str(tmp_path / 'elsewhere/model.ckpt-9')


def test_a_missing_checkpoint_or_config_is_named(folder, tmp_path):
  (tmp_path / 'empty').mkdir()
  with pytest.raises(UserError, match='empty: no checkpoint'):
    runs.load_run(str(tmp_path / 'empty'))
  with pytest.raises(UserError, match='nowhere: no such'):
    runs.load_run(str(tmp_path / 'nowhere'))
  (folder / 'config.json').unlink()
  with pytest.raises(UserError, match='config.json'):
    runs.load_run(str(folder))


def test_a_checkpoint_named_by_itself_must_be_whole(folder):
  """Where the user names one checkpoint, no other takes its place; those beside it are listed."""
  data = folder / 'model.ckpt-9.data-00000-of-00001'
  data.write_bytes(data.read_bytes()[:-1])
  with pytest.raises(UserError, match=r'model.ckpt-9.data-00000-of-00001 is cut off .*; beside it are model.ckpt-3$'):
    runs.load_run(str(folder / 'model.ckpt-9'))
  index = folder / 'model.ckpt-3.index'
  index.write_bytes(index.read_bytes()[:20])
  with pytest.raises(UserError, match='model.ckpt-3.index is cut off'):
    runs.load_run(str(folder / 'model.ckpt-3'))
  with pytest.raises(UserError, match='no such run folder or checkpoint; beside it are model.ckpt-9, model.ckpt-3'):
    runs.load_run(str(folder / 'model.ckpt-7'))


def test_other_settings_are_refused_and_changeable_ones_are_not(folder):
  other = {**CONFIG, 'flags': {**CONFIG['flags'], 'seed': 1, 'log_steps': 50}}
  with pytest.raises(UserError, match=r'--seed \(0 there, 1 here\);'):
    runs.check_config(str(folder), runs.saved_config(str(folder)), other, may_differ=['log_steps'])
  other['flags']['seed'] = 0
  runs.check_config(str(folder), runs.saved_config(str(folder)), other, may_differ=['log_steps'])


def test_a_run_of_before_a_flag_has_its_default(folder):
  now = {**CONFIG, 'flags': {**CONFIG['flags'], 'train_split': 'train'}}
  runs.check_config(str(folder), CONFIG, now, defaults={'train_split': 'train'})
  now['flags']['train_split'] = 'trainval'
  with pytest.raises(UserError, match=r'--train_split \(train there, trainval here\)'):
    runs.check_config(str(folder), CONFIG, now, defaults={'train_split': 'train'})


def test_a_run_with_a_flag_that_is_gone_does_not_go_on_without_it(folder):
  saved = {**CONFIG, 'commit': '675d607', 'flags': {
      **CONFIG['flags'], 'class_mix': 0, 'context': 'none', 'layer_rate_decay': '1'}}
  runs.check_config(str(folder), saved, CONFIG)
  saved['flags'] |= {'layer_rate_decay': 0.9, 'of_tomorrow': True}
  with pytest.raises(UserError) as refused:
    runs.check_config(str(folder), saved, CONFIG)
  assert str(refused.value) == (
      f'{folder} holds a run with settings that this version does not have: --layer_rate_decay (0.9 there), '
      f'--of_tomorrow (True there); go on with the version that began it, commit \'675d607\', or start another run by '
      f'--init_from={folder}')


def test_numbers_in_lists_may_have_been_kept_as_text(folder):
  saved = {**CONFIG, 'flags': {**CONFIG['flags'], 'crop_size': ['319', '415'], 'scale_range': ['0.7', '2']}}
  now = {**CONFIG, 'flags': {**CONFIG['flags'], 'crop_size': [319, 415], 'scale_range': [0.7, 2.0]}}
  runs.check_config(str(folder), saved, now)
  now['flags']['crop_size'] = [319, 416]
  with pytest.raises(UserError, match=r'--crop_size \(319,415 there, 319,416 here\)'):
    runs.check_config(str(folder), saved, now)


def test_other_classes_are_refused(folder):
  other = {**CONFIG, 'dataset': {**CONFIG['dataset'], 'classes': ['b', 'a']}}
  with pytest.raises(UserError, match='a, b there, b, a here'):
    runs.check_config(str(folder), CONFIG, other)


def test_checkpoints_without_settings_are_refused(folder):
  (folder / 'config.json').unlink()
  with pytest.raises(UserError, match='checkpoints but no config.json'):
    runs.saved_config(str(folder))


@pytest.mark.parametrize('flags, best, step, choice', [
    ({'eval_steps': 3, 'eval_split': 'val'}, {'split': 'val', 'metric': 'mean_iou'}, 6, 'the best on val: mean IoU'),
    ({'eval_steps': 3, 'eval_split': 'val'}, {}, 6, 'the best on a split that is not named: mean IoU'),  # an old run's
    ({'eval_steps': 3, 'eval_split': 'test'}, {'split': 'val'}, 9,
     'the latest; the best on val: mean IoU 0.5000, of step 6, and training now evaluates test'),
    ({'eval_steps': 3, 'eval_split': 'val'}, {'split': 'val', 'metric': 'f1'}, 9, 'the best by another metric, f1'),
    ({'eval_steps': 0, 'eval_split': 'val'}, {'split': 'val'}, 9,
     'the latest; the best on val: mean IoU 0.5000, of step 6, after which training went on without evaluations'),
])
def test_the_best_checkpoint_is_used_while_its_split_is_evaluated(folder, flags, best, step, choice):
  save(folder / 'best', 6)
  write_best(folder, **best)
  (folder / 'config.json').write_text(json.dumps({**CONFIG, 'flags': flags}))
  run = runs.load_run(str(folder))
  assert run.step == step and choice in run.choice


def test_logs_of_faults_lie_in_the_folder_of_the_run_that_a_program_is_about(folder, monkeypatch):
  noted = []
  monkeypatch.setattr(runs, 'works_in', noted.append)
  runs.load_run(str(folder), flag='init_from')
  assert noted == []
  runs.load_run(str(folder))
  assert noted == [str(folder)]


@pytest.mark.parametrize('change', [
    {'network': None}, {'network': []}, {'network': {'name': 7}}, {'flags': {'run_dir': 5}}, {'flags': {'loss': 1}},
    {'flags': {'learning_rate': 'x'}}, {'flags': {'train_split': ['val']}},
    {'dataset': {'name': 'x', 'classes': ['a']}}])
def test_a_config_of_other_types_is_refused(folder, change):
  (folder / 'config.json').write_text(json.dumps({**CONFIG, **change}))
  with pytest.raises(UserError, match='config.json was not written by train.py'):
    runs.load_run(str(folder))


@pytest.mark.parametrize('content', ['[]', '{}', '{"mean_iou": "x", "step": 6}', '{"mean_iou": NaN, "step": 6}',
                                     '{"mean_iou": 0.5, "step": 6, "checkpoint": 7}',
                                     '{"mean_iou": 0.5, "step": 6, "no_better": ["x"]}',
                                     '{"mean_iou": 0.5, "step": -6}'])
def test_a_best_json_of_another_program_counts_for_nothing(folder, content, capsys):
  save(folder / 'best', 6)
  (folder / 'best/best.json').write_text(content)
  assert runs.load_run(str(folder)).step == 9
  assert 'best.json was not written by train.py; the latest checkpoint is taken' in capsys.readouterr().err


def test_a_best_json_leads_nowhere_else(folder, capsys):
  save(folder / 'best', 6)
  write_best(folder, split='val', checkpoint='../model.ckpt-3')
  assert runs.load_run(str(folder)).step == 9 and 'no checkpoint at' in capsys.readouterr().err


def test_one_process_a_folder(tmp_path):
  first, second = (runs.locked(str(tmp_path / 'run')) for _ in range(2))
  with first, pytest.raises(UserError, match='another run'):
    second.__enter__()
  with runs.locked(str(tmp_path / 'run')) as held:
    assert held is None
