"""Runs that go on after a crash end with the bits of a run without one; runs that have ended do not go on."""

import json
import re
import shutil

import programs
import pytest
from few_shapes import convert_shapes
from tensorflow.python.framework import config

import train

pytestmark = pytest.mark.usefixtures('tiny')

# Whatever is drawn at random, averaged, or changes with the number of the step.
FLAGS = ('--dataset=shapes', '--net=tiny', '--checkpoint=none', '--crop_size=63,95', '--batch_size=4', '--log_steps=1',
         '--nofreeze_batch_norm', '--dropout_keep_prob=0.8', '--gradient_accumulation=2', '--class_crops=0.5',
         '--mix_statistics=0.5', '--mix_amplitude=0.3', '--blur=2', '--noise=5',
         '--color_jitter=0.3', '--white_balance=0.2', '--gamma=1.5', '--warmup_steps=3', '--ema_decay=0.9',
         '--learning_rate=0.01', '--loss=cross_entropy+lovasz', '--save_minutes=0')


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
  """Seven shapes to train on, so that epochs end inside of batches, and two to evaluate."""
  return convert_shapes(str(tmp_path_factory.mktemp('shapes')), train=7, val=2)


def run(run_dir, data_dir, *args, **options):
  result = programs.run(train.main, *FLAGS, f'--run_dir={run_dir}', f'--data_dir={data_dir}', *args, **options)
  assert result.returncode == 0, result.stdout + result.stderr
  return result.stdout


def contents(run_dir, step):
  """Name -> bytes of the checkpoint of a step, and of all that is best."""
  found = [*run_dir.glob(f'model.ckpt-{step}.*'), *(path for path in (run_dir / 'best').iterdir())]
  return {path.relative_to(run_dir).as_posix(): path.read_bytes() for path in found if path.name != 'checkpoint'}


@pytest.fixture(scope='module')
def crashes(tmp_path_factory, data_dir, tiny):
  """A run of six steps, evaluated after every second, and what a crash at each line of its log would have left.

  Returns `(contents, folders)`: of the whole run; dict from a line's start to a folder.
  """
  place, folders = tmp_path_factory.mktemp('crashes'), {}

  def seen(text):
    line = re.match(r'(step \d+(/|  val)|the run is in)', text.splitlines()[-1])
    if line and line[1] not in folders:
      folders[line[1]] = shutil.copytree(place / 'run', place / str(len(folders)))

  run(place / 'run', data_dir, '--max_steps=6', '--eval_steps=2', seen=seen)
  return contents(place / 'run', 6), folders


@pytest.mark.parametrize('line, resumed, evaluated', [
    ('step 1/', 0, [2, 4, 6]),  # no checkpoint but the first
    ('step 4/', 3, [4, 6]),
    ('step 4  val', 4, [4, 6]),  # saved; the evaluation had not ended
    ('step 6/', 5, [6]),
    ('step 6  val', 6, [6]),  # nothing is left but the last evaluation
    ('the run is in', None, []),
])
def test_a_run_that_crashed_ends_with_the_same_bits(crashes, data_dir, line, resumed, evaluated):
  expected, folders = crashes
  output = run(folders[line], data_dir, '--max_steps=6', '--eval_steps=2')
  assert f'resumed at step {resumed} from' in output if resumed is not None else 'has reached step 6' in output
  assert [int(step) for step in re.findall(r'^step (\d+)  val', output, re.M)] == evaluated
  found = contents(folders[line], 6)
  assert len(found) == 5 and found == expected


def test_ops_in_a_fixed_order_end_with_the_same_bits_too(data_dir, tmp_path):
  """They add up in another order than without --deterministic: the bits are others than those of `crashes`."""
  args, crash = ('--max_steps=4', '--eval_steps=2', '--deterministic'), tmp_path / 'crash'

  def seen(text):
    if 'step 3/4' in text and not crash.exists():
      shutil.copytree(tmp_path / 'run', crash)

  try:
    run(tmp_path / 'run', data_dir, *args, seen=seen)
    assert config.is_op_determinism_enabled()
    assert 'resumed at step 2' in run(crash, data_dir, *args)
  finally:
    config.disable_op_determinism()
  assert contents(crash, 4) == contents(tmp_path / 'run', 4)


def test_a_larger_max_steps_goes_on_with_the_bits_of_a_run_that_did_not_crash(crashes, data_dir, tmp_path):
  whole = shutil.copytree(crashes[1]['the run is in'], tmp_path / 'whole')
  args, crash = ('--max_steps=9', '--eval_steps=2'), tmp_path / 'crash'

  def seen(text):
    if 'step 8/9' in text and not crash.exists():
      shutil.copytree(whole, crash)

  run(whole, data_dir, *args, seen=seen)
  # The command of before, given again, ends the longer run at no step in its middle.
  assert 'has reached step 7 already' in run(crash, data_dir, '--max_steps=6', '--eval_steps=2')
  assert 'resumed at step 7' in run(crash, data_dir, *args)
  assert contents(crash, 9) == contents(whole, 9)


def test_a_run_that_stopped_early_does_not_go_on_unless_it_is_to(crashes, data_dir, tmp_path):
  run_dir = shutil.copytree(crashes[1]['the run is in'], tmp_path / 'run')
  best = json.loads((run_dir / 'best/best.json').read_text())
  assert best['evaluated'] == 6 and best['no_better'] == [step for step in (2, 4, 6) if step > best['step']]
  best = {key: value for key, value in best.items() if key != 'no_better'}  # which earlier versions did not note
  (run_dir / 'best/best.json').write_text(json.dumps({**best, 'mean_iou': 0.99, 'step': 2}))
  args = ('--max_steps=20', '--eval_steps=2')
  output = run(run_dir, data_dir, *args, '--early_stop=2')
  assert f'{run_dir} has stopped early: 2 evaluations without a better mean IoU than 0.9900 (step 2); ' in output
  output = run(run_dir, data_dir, *args, '--early_stop=3')
  assert 'resumed at step 6' in output and 'stopping early: 3 evaluations' in output and '\nstep 8/20' in output
  assert '\nstep 9/20' not in output
  assert 'has stopped early' in run(run_dir, data_dir, *args, '--early_stop=3')
  assert json.loads((run_dir / 'best/best.json').read_text())['no_better'] == [4, 6, 8]
  # Evaluations that were never made do not count, whatever the steps between those to come.
  args = ('--max_steps=9', '--eval_steps=1', '--early_stop=4')
  assert 'stopping early: 4 evaluations without a better' in run(run_dir, data_dir, *args)
