"""--train_split: another split than train is trained on, and who is scored on its images is told."""

import programs
import pytest
from originals import make_camvid
from programs import assert_refused

import evaluate
import train
from datasets import get_dataset, prepare, records
from datasets.hold_out import NOTHING
from utils.checkpoint_files import newest_checkpoint
from utils.runs import load_run
from utils.settings import parse
from utils.training import held_out
from utils.training.settings import TrainSettings

SHORT = ('--dataset=camvid', '--net=tiny', '--checkpoint=none', '--crop_size=31,41', '--batch_size=2', '--max_steps=2',
         '--freeze_batch_norm')

pytestmark = pytest.mark.usefixtures('tiny')


@pytest.fixture(scope='module')
def trained(tmp_path_factory, tiny):
  """(folder of the run, of the data, result) of a training on two images of train and one of val."""
  folder = tmp_path_factory.mktemp('camvid')
  make_camvid(folder / 'data')
  result = programs.run(train.main, *SHORT, '--train_split=trainval', '--eval_steps=0',
                        f'--data_dir={folder / "data"}', f'--run_dir={folder / "run"}')
  assert result.returncode == 0, result.stderr
  return folder / 'run', folder / 'data', result


def test_trainval_has_the_images_of_both(trained):
  run, data_dir, result = trained
  assert [source.name for source in get_dataset('camvid').sources(str(data_dir), 'trainval')] == ['f0', 'f1', 'f2']
  assert records.read_stats(data_dir, 'trainval')['num_examples'] == 3
  assert not (data_dir / 'train.json').exists() and 'too good' not in result.stdout + result.stderr
  config = load_run(str(run)).config
  assert config['dataset']['images'] == {'trainval': 3} and load_run(str(run)).train_split == 'trainval'


def test_val_of_a_run_on_trainval(trained):
  run, data_dir, _ = trained
  make = programs.run(train.main, *SHORT, '--eval_steps=1', '--train_split=trainval', f'--data_dir={data_dir}',
                      f'--run_dir={run.parent / "evaluated"}')
  assert 'warning: 1 images of val are trained on, so that its scores, ' in make.stdout, make.stderr
  result = programs.run(evaluate.main, f'--ckpt={run}')
  assert result.returncode == 0, result.stderr
  assert f'warning: {run} was trained on 1 of these images, such as f2; their score is too good' in result.stderr
  assert 'warning' not in programs.run(evaluate.main, f'--ckpt={run}', '--split=trainval').stderr


@pytest.fixture
def splits(tmp_path):
  """A folder with the records of train, val and trainval."""
  make_camvid(tmp_path / 'data')
  prepare.prepare(get_dataset('camvid'), str(tmp_path / 'data'), splits=('train', 'val', 'trainval'))
  return str(tmp_path / 'data')


def settings(data_dir, *words):
  return parse(TrainSettings, [*SHORT, f'--data_dir={data_dir}', *words])


def test_a_checkpoint_chosen_by_images_that_are_trained_on_is_said(splits, capsys):
  for words, count in ((['--eval_split=trainval'], 2), (['--train_split=trainval'], 1), (['--eval_split=train'], 2),
                       (['--train_split=val'], 1), ([], 0), (['--eval_split=trainval', '--eval_steps=0'], 0)):
    held_out.warn_if_trained_on(settings(splits, *words), NOTHING)
    found = capsys.readouterr().out
    assert f'warning: {count} images of ' in found and 'are trained on' in found if count else not found


def test_a_checkpoint_chosen_by_images_that_are_held_out_is_said(splits, capsys):
  for words, said in ((['--eval_split=trainval'], True), (['--eval_split=trainval', '--eval_steps=0'], False),
                      (['--eval_split=val'], False)):
    held_out.hold_out_of_run(settings(splits, '--hold_out=f0', *words), get_dataset('camvid'), None)
    assert ('note: the best checkpoint is chosen on trainval, which has all images of held_out, so that its score there'
            in capsys.readouterr().out) == said


def test_the_split_belongs_to_the_run(trained):
  run, data_dir, _ = trained
  result = programs.run(train.main, *SHORT, '--eval_steps=0', f'--data_dir={data_dir}', f'--run_dir={run}')
  assert_refused(result, 'train_split')
  assert newest_checkpoint(str(run)).endswith('-2')


def test_a_split_that_is_not_there_is_refused(trained):
  _, data_dir, _ = trained
  result = programs.run(train.main, *SHORT, '--train_split=every', f'--data_dir={data_dir}',
                        f'--run_dir={data_dir / "run"}')
  assert_refused(result, "camvid has no split 'every'; it has train, val, trainval, test")


def test_nothing_is_held_out_of_trainval(trained):
  _, data_dir, _ = trained
  result = programs.run(train.main, *SHORT, '--train_split=trainval', '--hold_out=f0', f'--data_dir={data_dir}',
                        f'--run_dir={data_dir / "run"}')
  assert_refused(result, '--train_split=trainval: images are held out of train and val alone')
