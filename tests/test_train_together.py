"""train.py on several machines, as processes on loopback, and on several devices of one: the run of a single device."""

import json
import pathlib
import re
import signal

import numpy as np
import programs
import pytest
from few_shapes import convert_shapes
from machines import started
from test_replicas import on_cpus

import train
from utils.checkpoint_files import newest_checkpoint, open_checkpoint
from utils.training import run as training_run

IN_A_PROCESS = ('-c', 'import sys, tiny, train\nwith tiny.registered():\n  sys.exit(train.main())')
PATH = {'PYTHONPATH': str(pathlib.Path(__file__).parent)}
# The tiny network drops features. Its batch norms are kept: they would see the examples of one device at a time.
FLAGS = ('--dataset=shapes', '--net=tiny', '--checkpoint=none', '--freeze_batch_norm', '--crop_size=63,95',
         '--batch_size=4', '--loss=cross_entropy+lovasz', '--weight_decay=0.05', '--ema_decay=0.5',
         '--color_jitter=0.2', '--log_steps=1')
STEPS = 5

pytestmark = pytest.mark.usefixtures('tiny')


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
  """Nine shapes to train on, and three to evaluate, which two devices cannot share equally."""
  return convert_shapes(str(tmp_path_factory.mktemp('shapes')), train=9, val=3)


def flags(run_dir, data_dir, *more):
  return *FLAGS, f'--run_dir={run_dir}', f'--data_dir={data_dir}', *more


@pytest.fixture(scope='module')
def alone(tmp_path_factory, data_dir, tiny):
  """The run of a single device: (folder, output)."""
  folder = tmp_path_factory.mktemp('alone') / 'run'
  result = programs.run(train.main, *flags(folder, data_dir, f'--max_steps={STEPS}', '--eval_steps=3'))
  assert result.returncode == 0, result.stderr
  return folder, result.stdout


def losses(output):
  """Step -> loss as printed."""
  return {int(step): float(loss) for step, loss in re.findall(r'^step (\d+)/\d+  loss ([\d.]+)', output, re.M)}


def scores(output):
  """Step -> mean IoU as printed."""
  return {int(step): float(value) for step, value in re.findall(r'^step (\d+)  val: mean IoU ([\d.]+)', output, re.M)}


def assert_equal_run(folder, output, alone):
  """Asserts that a run has the losses, scores, weights, slots and averages of the run of a single device."""
  expected_folder, expected = alone
  found = losses(output)
  assert found and found == pytest.approx({step: losses(expected)[step] for step in found}, abs=2e-4)
  assert scores(output) == pytest.approx({step: scores(expected)[step] for step in scores(output)}, abs=2e-3)
  readers = [open_checkpoint(newest_checkpoint(str(path))) for path in (folder, expected_folder)]
  names = [reader.get_variable_to_shape_map().keys() for reader in readers]
  assert names[0] == names[1]
  for name in names[1]:
    values = [reader.get_tensor(name) for reader in readers]
    np.testing.assert_allclose(*values, rtol=5e-3, atol=2e-5, err_msg=name)


@pytest.mark.parametrize('stopped_at', [None, 2])
def test_two_devices_train_as_one_and_one_goes_on(alone, data_dir, tmp_path, monkeypatch, stopped_at):
  replicas, config, last = on_cpus(2), training_run.session_config, []

  def seen(text):
    if f'step {stopped_at}/' in text and not last:
      last.append(signal.raise_signal(signal.SIGTERM))

  with monkeypatch.context() as patch:
    patch.setattr(training_run, 'replicas_of', lambda num_gpus, cluster: replicas)
    patch.setattr(training_run, 'session_config', lambda *args, **options: _with_cpus(config(*args, **options), 2))
    result = programs.run(train.main, *flags(
        tmp_path, data_dir, f'--max_steps={STEPS}', '--eval_steps=3', '--summarize_gradients', '--summary_steps=2'),
        seen=seen)
  if stopped_at:
    assert result.returncode == 143
    result = programs.run(train.main, *flags(tmp_path, data_dir, f'--max_steps={STEPS}', '--eval_steps=3'))
    assert f'resumed at step {stopped_at + 1}' in result.stdout or f'resumed at step {stopped_at}' in result.stdout
  assert result.returncode == 0, result.stderr
  assert_equal_run(tmp_path, result.stdout, alone)


def _with_cpus(config, count):
  config.device_count['CPU'] = count
  return config


def machines_of(run_dir, data_dir, *more, **options):
  return started(2, *IN_A_PROCESS, *flags(run_dir, data_dir, *more), environ=PATH, **options)


def ended(machines):
  """Exit codes of machines, and the output of the first."""
  codes = [machine.ended() for machine in machines]
  assert all(code in (0, 143) for code in codes), '\n'.join(machine.output() for machine in machines)
  return codes, '\n'.join(machines[0].stdout)


def test_two_machines_train_as_one(alone, data_dir, tmp_path):
  with machines_of(tmp_path, data_dir, f'--max_steps={STEPS}', '--eval_steps=3', fork=False) as machines:
    codes, output = ended(machines)
    assert codes == [0, 0] and not losses('\n'.join(machines[1].stdout))
  assert_equal_run(tmp_path, output, alone)
  assert len(list(tmp_path.glob('events.*'))) == 1  # one writer
  assert json.loads((tmp_path / 'best' / 'best.json').read_text())['step'] in (3, STEPS)


def test_a_machine_that_is_killed_ends_the_other_and_the_same_commands_resume(alone, data_dir, tmp_path):
  with machines_of(tmp_path, data_dir, '--max_steps=100000', '--eval_steps=0', '--save_minutes=0') as machines:
    machines[0].seen('step 2/')
    machines[1].signal(signal.SIGKILL)
    assert machines[0].ended(60) == 1
    line, = machines[0].errors()
    assert re.match(r'error: worker 1 \(127.0.0.1:\d+\) died or cannot be reached; the last checkpoint is of step \d+; '
                    'start the same commands again', line)
  with machines_of(tmp_path, data_dir, '--max_steps=100000', '--eval_steps=0', tf_config=True) as machines:
    step = int(machines[0].seen('resumed at step').split()[3])
    assert step >= 2
    machines[0].seen(f'step {step + 1}/')
    machines[1].signal(signal.SIGTERM)  # to one of them alone
    codes, output = ended(machines)
    assert codes == [143, 143]
    said = [re.search(r'interrupted at step (\d+)', '\n'.join(machine.stdout)).group(1) for machine in machines]
    assert said[0] == said[1]
  assert newest_checkpoint(str(tmp_path)).endswith(f'-{said[0]}')


@pytest.mark.parametrize('flag, part', [('--learning_rate', '--learning_rate'), ('--max_steps', '--max_steps')])
def test_machines_with_other_flags_are_refused(data_dir, tmp_path, flag, part):
  values = {'--learning_rate': ('0.01', '0.02'), '--max_steps': ('5', '6')}[flag]
  given = () if flag == '--max_steps' else ('--max_steps=5',)
  with machines_of(tmp_path, data_dir, '--eval_steps=0', *given,
                   each=lambda number: [f'{flag}={values[number]}']) as machines:
    assert [machine.ended() for machine in machines] == [1, 1]
    for machine in machines:
      line, = machine.errors()
      assert 'worker 1' in line and f'{part} {values[1]} instead of {values[0]}' in line


def test_a_batch_that_cannot_be_shared_is_refused(data_dir, tmp_path, monkeypatch):
  replicas = on_cpus(2)
  monkeypatch.setattr(training_run, 'replicas_of', lambda num_gpus, cluster: replicas)
  result = programs.run(train.main, *flags(tmp_path / 'run', data_dir, '--batch_size=6', '--gradient_accumulation=2'))
  programs.assert_refused(result, '--batch_size=6 is the whole batch', '2 devices',
                          '--gradient_accumulation=2', 'multiples of 4')
  assert not (tmp_path / 'run').exists()
