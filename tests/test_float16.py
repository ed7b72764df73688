"""train.py and evaluate.py with --precision on a pretended GPU: the graph is that for GPUs, computed by the CPU."""

import re

import pytest
from few_shapes import convert_shapes

import evaluate
import train
from datasets import pipeline
from utils.checkpoint_files import open_checkpoint
from utils.compat import tf

pytestmark = pytest.mark.usefixtures('tiny')


@pytest.fixture
def gpu(monkeypatch):
  """TensorFlow lists a GPU, for which the CPU stands; whether TF32 was switched on or off, in order."""
  switched = []

  def ahead(batches, device=None, copies=pipeline.ahead):
    return copies(batches, device and device.replace('gpu', 'cpu'))

  monkeypatch.setattr(pipeline, 'ahead', ahead)
  monkeypatch.setattr(tf.config, 'list_physical_devices', lambda kind: [kind])
  monkeypatch.setattr(tf.config.experimental, 'get_device_details', lambda device: {'compute_capability': (8, 0)})
  monkeypatch.setattr(tf.config.experimental, 'enable_tensor_float_32_execution', switched.append)
  monkeypatch.setattr(tf.config.experimental, 'tensor_float_32_execution_enabled', lambda: switched[-1])
  return switched


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
  return convert_shapes(str(tmp_path_factory.mktemp('shapes')), train=7, val=3, num_shards=1)


@pytest.fixture
def run(run_program, data_dir, tmp_path):
  """Runs train.py for `steps` steps in all, in a folder `run`; returns what it printed."""
  def runs(*options, steps):
    result = run_program(
        train.main, '--dataset=shapes', '--net=tiny', '--checkpoint=none', '--crop_size=63,95', '--batch_size=2',
        '--log_steps=1', '--eval_steps=0', f'--data_dir={data_dir}', f'--run_dir={tmp_path / "run"}',
        f'--max_steps={steps}', *options)
    assert result.returncode == 0, result.stderr
    return result.stdout
  return runs


def scale_in(prefix):
  """(scale, good steps, steps left out) in a checkpoint; None if it has none."""
  reader = open_checkpoint(str(prefix))
  names = [f'loss_scale/{name}' for name in ('scale', 'good_steps', 'left_out')]
  return tuple(reader.get_tensor(name).item() for name in names) if reader.has_tensor(names[0]) else None


@pytest.mark.parametrize('options', [(), ('--gradient_accumulation=2', '--ema_decay=0.9')])
def test_a_run_goes_on_with_its_scale_and_in_any_precision(options, run, gpu, tmp_path):
  folder = tmp_path / 'run'
  first = run('--precision=float16', *options, steps=2)
  assert re.findall(r'loss scale (\d+)', first) == ['32768'] * 2
  assert scale_in(folder / 'model.ckpt-2') == (32768, 2, 0)
  run('--precision=auto', *options, steps=3)
  assert scale_in(folder / 'model.ckpt-3') == (32768, 3, 0)
  assert 'precision float16\n' in first and 'precision float32 (products in TF32)' in run(*options, steps=4)
  assert scale_in(folder / 'model.ckpt-4') is None and gpu == [True] * 3
  last = run('--precision=float16', *options, steps=5)
  assert 'resumed at step 4' in last and 'step 5/5' in last
  assert scale_in(folder / 'model.ckpt-5') == (32768, 1, 0)


def test_scores_in_float32_are_never_in_tf32(run, gpu, run_program, tmp_path):
  run(steps=1)
  for precision, name in [('float32', 'metrics-val.json'), ('auto', 'metrics-val-float16.json')]:
    result = run_program(evaluate.main, f'--ckpt={tmp_path / "run"}', f'--precision={precision}')
    assert result.returncode == 0, result.stderr
    assert f'precision {"float32" if precision == "float32" else "float16"}\n' in result.stdout
    assert list(tmp_path.glob(f'run/**/{name}'))
  assert gpu == [True, False, False]
