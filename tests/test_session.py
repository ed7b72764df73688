"""The session's settings: which GPUs, how much of their memory, and what is said where they are not there."""

import os
import subprocess
import sys

import pytest

from utils import session
from utils.compat import tf
from utils.errors import UserError

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


@pytest.fixture
def gpus(monkeypatch):
  """Makes TensorFlow say that it sees so many GPUs."""
  return lambda number: monkeypatch.setattr(tf.config, 'list_physical_devices', lambda kind: [kind] * number)


def test_by_default_all_gpus_grow_as_needed():
  config = session.session_config()
  assert config.gpu_options.allow_growth and not config.gpu_options.visible_device_list
  assert config.gpu_options.per_process_gpu_memory_fraction == 0 and 'GPU' not in config.device_count


@pytest.mark.parametrize('gpu, expected', [('0', '0'), ('2,0', '2,0'), ('1, 2', '1,2')])
def test_gpus_are_chosen_by_number(gpus, gpu, expected):
  gpus(3)
  assert session.session_config(gpu=gpu).gpu_options.visible_device_list == expected


def test_a_share_of_the_memory_is_taken_at_once():
  options = session.session_config(gpu_memory_fraction=0.25).gpu_options
  assert options.per_process_gpu_memory_fraction == 0.25 and not options.allow_growth
  with pytest.raises(UserError, match='--gpu_memory_fraction=1.5: valid are 0 to 1'):
    session.session_config(gpu_memory_fraction=1.5)


def test_none_is_the_cpu_with_gpus_or_without(gpus):
  gpus(2)
  config = session.session_config(gpu='none')
  assert config.device_count['GPU'] == 0 and not config.gpu_options.visible_device_list
  with tf.Graph().as_default(), tf.Session(config=config) as made:
    assert {device.device_type for device in made.list_devices()} <= {'CPU', 'XLA_CPU'}


@pytest.mark.parametrize('gpu', ['3', '-1', '0,3', '0,0', '0,', '', 'all', '0.5', '²'])
def test_a_gpu_that_is_not_there_is_told_the_valid_ones(gpus, gpu):
  gpus(3)
  with pytest.raises(UserError, match=f'^--gpu={gpu}: valid are 0, 1, 2, or several'):
    session.session_config(gpu=gpu)


def test_without_a_gpu_none_can_be_chosen(gpus):
  gpus(0)
  with pytest.raises(UserError, match='^--gpu=0: TensorFlow sees no GPU here; .* --gpu=none'):
    session.session_config(gpu='0')


def test_train_refuses_a_gpu_that_is_not_there_before_it_does_anything(tmp_path):
  process = subprocess.run(
      [sys.executable, os.path.join(ROOT, 'train.py'), '--gpu=0', f'--run_dir={tmp_path / "run"}'], cwd=tmp_path,
      env={**os.environ, 'CUDA_VISIBLE_DEVICES': ''}, capture_output=True, text=True, check=False)
  assert process.returncode == 1
  assert process.stderr.startswith('error: --gpu=0: TensorFlow sees no GPU here') and process.stderr.count('\n') == 1
  assert list(tmp_path.iterdir()) == []
