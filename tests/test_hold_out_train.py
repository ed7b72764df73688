"""train.py and evaluate.py with images held out, on a few of the built-in shapes: what is trained on, kept, refused."""

import dataclasses
import json
import pathlib

import numpy as np
import programs
import pytest
from few_shapes import convert_shapes
from programs import assert_refused

import evaluate
import train
from datasets import hold_out
from datasets.hold_out import NOTHING, HoldOut
from utils.compat import tf
from utils.errors import UserError
from utils.evaluation.data import warn_of_seen
from utils.evaluation.run import variant
from utils.evaluation.settings import EvaluateSettings
from utils.runs import Run
from utils.settings import parse
from utils.studies import crf_search
from utils.training import held_out, hooks, losses, together
from utils.training.run import Training, class_weights
from utils.training.settings import Start, TrainSettings

SHORT = ('--dataset=shapes', '--net=tiny', '--checkpoint=none', '--crop_size=63,95', '--batch_size=2', '--log_steps=1',
         '--freeze_batch_norm', '--eval_steps=4')
HELD = '--hold_out=train-0000[0-2],val-00001'

pytestmark = pytest.mark.usefixtures('tiny')


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
  """Eight shapes to train on and two to evaluate."""
  return convert_shapes(str(tmp_path_factory.mktemp('shapes')), train=8, val=2)


def run(run_dir, data_dir, *words):
  return programs.run(train.main, *SHORT, f'--run_dir={run_dir}', f'--data_dir={data_dir}', *words)


@pytest.fixture(scope='module')
def seen():
  """Names of the images that were trained on since it was emptied, in their order."""
  names, refuse = [], hooks.LogHook._refuse_not_finite

  def note(self, values, session):
    names.extend(self._names_of(self.step - 1))
    refuse(self, values, session)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(hooks.LogHook, '_refuse_not_finite', note)
    yield names


@pytest.fixture(scope='module')
def held(tmp_path_factory, data_dir, tiny, seen):
  """A run of four steps without three of the images of train and one of val: (folder, output, names trained on)."""
  seen.clear()
  folder = tmp_path_factory.mktemp('runs') / 'held'
  result = run(folder, data_dir, HELD, '--max_steps=4', '--class_weights=median_frequency')
  assert result.returncode == 0, result.stderr
  return folder, result.stdout, list(seen)


@pytest.fixture(scope='module')
def whole(tmp_path_factory, data_dir, tiny):
  """A run of a step on all images."""
  folder = tmp_path_factory.mktemp('runs') / 'whole'
  assert run(folder, data_dir, '--max_steps=1', '--eval_steps=0').returncode == 0
  return folder


def test_only_what_is_left_is_trained_on_and_evaluated(held):
  folder, output, names = held
  assert set(names[:5]) == {f'train-0000{number}' for number in (3, 4, 5, 6, 7)} >= set(names[5:])
  assert ('held out, as the split held_out: 3 of the 8 images of train and 1 of the 2 images of val; '
          '--hold_out=train-0000[0-2],val-00001\n') in output
  assert output.rstrip().endswith(f'evaluate.py --ckpt={folder} --split=held_out')
  assert json.loads((folder / 'config.json').read_text())['hold_out'] == {
      'patterns': ['train-0000[0-2]', 'val-00001'], 'group_by': '', 'groups': [], 'splits': ['train', 'val'],
      'images': {'train': 3, 'val': 1}}


@pytest.mark.parametrize('split, count', [('held_out', 4), ('val', 1), ('train', 5)])
def test_an_evaluation_takes_it_from_the_run(held, split, count, data_dir):
  result = programs.run(evaluate.main, f'--ckpt={held[0]}', f'--split={split}')
  assert result.returncode == 0 and 'warning' not in result.stderr, result.stderr
  assert f'on the {count} images of {split} in {data_dir}' in result.stdout
  found = json.loads((held[0] / f'metrics-{split}.json').read_text())
  kept = HoldOut(('train-0000[0-2]', 'val-00001'), splits=('train', 'val'))
  stats = hold_out.read_stats(data_dir, split, kept)
  assert (found['num_images'], list(found['class_pixels'].values())) == (count, stats['class_pixels'])
  assert found.get('hold_out') == (kept.to_json() if split == 'held_out' else None)


def test_weights_of_classes_are_of_what_is_trained_on(data_dir):
  settings = parse(TrainSettings, [*SHORT, f'--data_dir={data_dir}', '--class_weights=median_frequency'])
  kept = HoldOut(('train-0000[0-2]',), splits=('train', 'val'))
  stats = hold_out.read_stats(data_dir, 'train', kept)
  found = class_weights(Training(settings, None, None, None, 0, held=kept))
  np.testing.assert_array_equal(found, losses.median_frequency_weights(stats['class_pixels'],
                                                                       stats['class_image_pixels']))
  assert (found != class_weights(Training(settings, None, None, None, 0))).any()


def test_machines_that_hold_other_images_out_are_told_apart(data_dir, tmp_path):
  """Also as many of them, by a file that differs from one machine to another; and records in other shards."""
  settings = parse(TrainSettings, [*SHORT, f'--data_dir={data_dir}', HELD])
  other = convert_shapes(str(tmp_path), train=8, val=2, num_shards=3)

  def facts(pattern, folder=data_dir):
    kept = HoldOut((pattern,), splits=('train', 'val'))
    changed = dataclasses.replace(settings, data=dataclasses.replace(settings.data, data_dir=folder))
    with tf.Graph().as_default(), tf.Session() as session:
      tf.get_variable('weights', initializer=1.0)
      session.run(tf.global_variables_initializer())
      return together.start_facts(Training(changed, None, None, None, 0, held=kept), session)

  first, second, third = facts('train-00002'), facts('train-00003'), facts('train-00002', other)
  assert facts('train-00002') == first
  differing = {name for name in first if first[name] != second[name]}
  assert differing == {'images of train', 'images of held_out'} and first['images of train'][0] == 7
  assert {name for name in first if first[name] != third[name]} == {'shards of train', 'shards of held_out'}


def test_a_resumed_run_goes_on_and_another_hold_out_is_refused(held, data_dir, seen):
  folder, _, names = held
  for words in ([], ['--hold_out=train-0000[0-3],val-00001'], ['--group_by=.$', '--fold=1/4']):
    assert_refused(run(folder, data_dir, '--class_weights=median_frequency', *words), 'other settings: --hold_out (')
  seen.clear()
  result = run(folder, data_dir, HELD, '--class_weights=median_frequency', '--max_steps=6')
  assert result.returncode == 0, result.stderr
  assert set(names[5:] + seen[:2]) == set(names[:5])  # the second epoch is finished


def test_a_file_that_has_changed_is_refused(tmp_path, data_dir):
  (tmp_path / 'list').write_text('train-00003\n')
  words = (f'--hold_out=@{tmp_path}/list', '--eval_split=held_out', '--eval_steps=1')
  result = run(tmp_path / 'run', data_dir, *words, '--max_steps=1')
  assert result.returncode == 0 and 'note: the best checkpoint is chosen on held_out' in result.stdout
  assert 'step 1  held_out: mean IoU' in result.stdout
  (tmp_path / 'list').write_text('train-00004\n')
  assert_refused(run(tmp_path / 'run', data_dir, *words, '--max_steps=2'), 'held out train-00003, and now it is '
                 'train-00004')


def test_folds_are_kept_by_their_groups(tmp_path, data_dir):
  words = ('--group_by=-(.*)', '--fold=2/8', '--eval_steps=0', '--max_steps=1')
  result = run(tmp_path / 'run', data_dir, *words)
  assert '1 of the 8 images of train and 1 of the 2 images of val; --fold=2/8 is 1 group, 00001\n' in result.stdout
  assert 'note: the best' not in result.stdout
  kept = json.loads((tmp_path / 'run/config.json').read_text())['hold_out']
  assert (kept['group_by'], kept['groups'], kept['images']) == ('-(.*)', ['00001'], {'train': 1, 'val': 1})
  assert programs.run(evaluate.main, f'--ckpt={tmp_path}/run', '--split=held_out').returncode == 0
  assert json.loads((tmp_path / 'run/metrics-held_out.json').read_text())['num_images'] == 2


def test_weights_that_have_seen_the_images_are_refused(held, whole, tmp_path, data_dir):
  """Of a run as --init_from, or as --checkpoint; a run that held out at least as much may go on."""
  short = ('--max_steps=1', '--eval_steps=0')
  for flag in ('init_from', 'checkpoint'):
    result = run(tmp_path / 'run', data_dir, HELD, f'--{flag}={whole}', *short)
    assert_refused(result, f'--{flag}={whole} was trained on 3 of the images that are held out here, such as train-000')
  assert_refused(run(tmp_path / 'run', data_dir, '--hold_out=train-0000[2-3]', f'--init_from={held[0]}', *short),
                 'trained on 1 of the images that are held out here, such as train-00003')
  assert not (tmp_path / 'run/config.json').exists()
  result = run(tmp_path / 'run', data_dir, '--hold_out=*-00001', f'--init_from={held[0]}', *short)
  assert result.returncode == 0, result.stderr


def test_a_run_on_all_of_train_and_val_has_seen_both(tmp_path, data_dir, capsys):
  """With trainval converted here or elsewhere; and what was trained on train alone is scored too well on trainval."""
  config = {'flags': {}, 'dataset': {'name': 'shapes'}, 'network': {}}
  on = lambda split: Run('run', 'run/model.ckpt-1', 1, {**config, 'flags': {'train_split': split}})
  both, other = HoldOut(('*-00001',), splits=('train', 'val')), HoldOut(('val-00001',), splits=('train', 'val'))
  with pytest.MonkeyPatch.context() as patch:
    refuse = lambda run, kept: (patch.setattr(held_out, 'run_of', lambda start: run),
                                held_out.refuse_seen(Start(init_from='x'), 'shapes', kept, str(tmp_path)))
    for path in pathlib.Path(data_dir).iterdir():
      (tmp_path / path.name).symlink_to(path)
    refuse(on('train'), other)
    with pytest.raises(UserError, match='--init_from=x was trained on 1 of the images that are held out here'):
      refuse(on('train'), both)
    for kept, count in ((other, 1), (both, 2)):
      with pytest.raises(UserError, match=f'was trained on {count} of the .*, such as (train-00001, )?val-00001;'):
        refuse(on('trainval'), kept)
    (tmp_path / 'trainval.json').write_bytes((tmp_path / 'train.json').read_bytes())
    refuse(on('trainval'), other)
  warn_of_seen(on('train'), str(tmp_path), 'trainval', NOTHING)
  assert 'run was trained on 8 of these images, such as train-00000, ' in capsys.readouterr().err
  warn_of_seen(on('train'), str(tmp_path), 'val', NOTHING)
  assert capsys.readouterr().err == ''


def test_images_that_were_trained_on_are_said(held, whole):
  result = programs.run(evaluate.main, f'--ckpt={whole}', '--split=held_out', '--hold_out=train-0000[1-2]')
  assert result.returncode == 0, result.stderr
  assert f'warning: {whole} was trained on 2 of these images, such as train-00001, train-00002; ' in result.stderr
  assert (whole / 'metrics-held_out-of_train-0000%5B1-2%5D.json').exists()
  result = programs.run(evaluate.main, f'--ckpt={held[0]}', '--split=held_out', '--hold_out=train-0000[2-3]')
  assert f'warning: {held[0]} was trained on 1 of these images, such as train-00003; ' in result.stderr
  result = programs.run(evaluate.main, f'--ckpt={held[0]}', '--split=held_out', '--hold_out=train-00002,val-*')
  assert result.returncode == 0 and 'warning' not in result.stderr


def test_names_of_results_hold_what_was_asked_for():
  def suffix(*words):
    return variant(parse(EvaluateSettings, ['--ckpt=x', '--split=held_out', *words]))

  assert suffix() == 'held_out' and suffix('--hold_out=a/b*', '--test_flip') == 'held_out-of_a%2Fb%2A-flip'
  assert suffix('--fold=1/2', '--group_by=^.') == 'held_out-of_1%2F2%2C%5E.'
  long = [suffix(f'--hold_out={"x" * 300}{end}') for end in 'ab']
  assert long[0] != long[1] and len(long[0]) < 40


@pytest.mark.parametrize('words, parts', [
    (['--hold_out=train-9*'], ['--hold_out: train-9* matches none of the 10 names', 'such as train-00000, ']),
    (['--hold_out=train-*'], ['all 8 images of train are held out']),
    (['--hold_out=val-*'], ['all images of val in ', 'are held out by val-*', 'held_out']),
    (['--eval_split=held_out'], ['nothing is held out', '--hold_out']),
    (['--group_by=^.'], ['--group_by=^. holds nothing out']),
])
def test_a_start_that_cannot_be_meant_is_refused(words, parts, tmp_path, data_dir):
  assert_refused(run(tmp_path / 'run', data_dir, *words), *parts)
  assert not (tmp_path / 'run/config.json').exists()


@pytest.mark.parametrize('main', [evaluate.main, crf_search.main])
def test_a_run_that_held_nothing_out_has_no_such_split(main, whole, monkeypatch):
  monkeypatch.setattr(crf_search.crf, 'require', lambda: None)
  assert_refused(programs.run(main, f'--ckpt={whole}', '--split=held_out'), f'{whole} held nothing out', '--hold_out')


def test_the_search_for_a_crf_reads_the_split(held, data_dir):
  kept = HoldOut(('train-0000[0-2]', 'val-00001'), splits=('train', 'val'))
  found = crf_search.read_images(data_dir, 'held_out', {0, 3}, kept)
  assert [found[number][0] for number in (0, 3)] == ['train-00000', 'val-00001']


def test_an_evaluation_of_other_names_than_the_splits_is_refused(whole):
  result = programs.run(evaluate.main, f'--ckpt={whole}', '--hold_out=train-00001')
  assert_refused(result, '--split=val: --hold_out and --fold choose the images of --split=held_out')
