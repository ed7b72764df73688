"""Faults of the machine: in training as users run it, and the study that makes them."""

import functools
import json
import os
import re
import resource
import subprocess
import sys
import time
import zipfile

import forks
import numpy as np
import programs
import pytest
from few_shapes import convert_shapes
from PIL import Image
from programs import assert_refused
from tensorflow.python.client import session

import train
from utils import exits
from utils.checkpoint_files import newest_checkpoint, read_step, steps_of
from utils.compat import tf
from utils.files import ROOT
from utils.settings import run as run_settings
from utils.studies import faults, faulty
from utils.training import saving

SHORT = ('--dataset=shapes', '--net=tiny', '--checkpoint=none', '--crop_size=63,95', '--batch_size=2', '--log_steps=1',
         '--schedule=constant', '--eval_steps=2', '--save_minutes=0', '--keep_checkpoints=2')

pytestmark = pytest.mark.usefixtures('tiny')


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
  """Six shapes to train on and two to evaluate."""
  return convert_shapes(str(tmp_path_factory.mktemp('shapes')), train=6, val=2, num_shards=1)


@pytest.fixture
def training(data_dir, tmp_path):
  """`training(*flags)` runs train.py for four steps in the test's folder `run`; returns a programs.Result."""
  return functools.partial(programs.run, train.main, *SHORT, f'--data_dir={data_dir}', f'--run_dir={tmp_path}/run',
                           '--max_steps=4')


def failing(monkeypatch, calls, error):
  """Lets calls of a session fail from number `calls` on."""
  own, count = session.BaseSession._run, iter(range(1, 10**9))

  def run(self, *args, **options):
    if next(count) >= calls:
      raise error
    return own(self, *args, **options)

  monkeypatch.setattr(session.BaseSession, '_run', run)


def error_of(result):
  """The one line about an error, of a program that ends with 1 and prints no traceback."""
  assert result.returncode == 1 and 'Traceback' not in result.stderr, result.stdout + result.stderr
  [line] = [line for line in result.stderr.splitlines() if line.startswith('error: ')]
  return line


@pytest.mark.parametrize('error, said', [
    (tf.errors.InternalError(None, None, faulty.LOST), ['the GPU failed or is gone', 'CUDA_ERROR_LAUNCH_FAILED']),
    (tf.errors.ResourceExhaustedError(None, None, 'OOM when allocating tensor with shape[4,5]'),
     ['not enough memory (OOM when allocating tensor with shape[4,5])', 'a smaller --crop_size'])])
def test_a_training_whose_device_fails_says_so_and_goes_on(error, said, training, tmp_path, monkeypatch):
  """At several calls of the session: before the first step, in a step, while saving and evaluating."""
  for calls in (2, 9, 15):
    run_dir = f'{tmp_path}/run-{calls}'
    with monkeypatch.context() as patch:
      failing(patch, calls, error)
      line = error_of(training(f'--run_dir={run_dir}'))
    assert said[0] in line and 'to go on' in line, line
    if 'the last checkpoint' in line:
      assert f'is of step {read_step(newest_checkpoint(run_dir))};' in line and all(part in line for part in said)
    result = training(f'--run_dir={run_dir}')
    assert result.returncode == 0 and read_step(newest_checkpoint(run_dir)) == 4


@pytest.mark.parametrize('seconds', [-faults.YEARS, -3600.0, 3600.0, faults.YEARS])
def test_a_clock_that_jumps_changes_nothing(seconds, training, tmp_path, monkeypatch):
  """Checkpoints are saved and deleted, the time left is none of minutes, what TensorBoard shows is on the disk."""
  own, calls = time.time, iter(range(10**9))
  monkeypatch.setattr(time, 'time', lambda: own() + (seconds if next(calls) >= 3 else 0.0))
  result = training()
  assert result.returncode == 0
  assert list(steps_of(f'{tmp_path}/run')) == [4, 3]
  left = re.findall(r'^step \d/4 .* images/s  (.*) left$', result.stdout, re.MULTILINE)
  assert len(left) == 4 and all(re.fullmatch(r'(\d+ min )?\d+ s', text) for text in left), left


def test_a_fault_in_a_training_leaves_a_log_in_its_folder(training, tmp_path, monkeypatch):
  failing(monkeypatch, 14, TypeError('a mistake'))
  result = training()
  [log] = (tmp_path / 'run').glob('fault-*.log')
  assert result.returncode == 2 and str(log) in result.stderr and 'Traceback' not in result.stderr
  assert 'TypeError: a mistake' in log.read_text() and newest_checkpoint(f'{tmp_path}/run')


def test_a_full_disk_leaves_whole_checkpoints(training, tmp_path, monkeypatch):
  """In every write of a checkpoint, by the files that are brought to the disk."""
  own = saving.sync
  for calls in range(1, 9, 2):
    count = iter(range(1, 10**9))

    def full(path, calls=calls, count=count):
      if next(count) == calls:
        raise OSError(28, 'No space left on device', path)
      own(path)

    with monkeypatch.context() as patch:
      patch.setattr(saving, 'sync', full)
      result = training()
    if result.returncode:
      line = error_of(result)
      assert 'cannot write' in line and 'No space left on device' in line
    assert not steps_of(f'{tmp_path}/run') or newest_checkpoint(f'{tmp_path}/run')
  assert training().returncode == 0 and read_step(newest_checkpoint(f'{tmp_path}/run')) == 4


@pytest.mark.parametrize('checkpoints', [True, False])
def test_a_disk_that_is_full_for_the_event_file_too(checkpoints, training, tmp_path, monkeypatch):
  """TensorFlow's writer fails again at the end, which must not hide what failed first."""
  def full_for_events():
    raise RuntimeError('/a/events; No space left on device\n\tFailed to flush 3 events')

  def full(path):
    raise OSError(28, 'No space left on device', path)

  if checkpoints:
    monkeypatch.setattr(saving, 'sync', full)
  with monkeypatch.context() as patch:
    patch.setattr(tf.summary.FileWriterCache, 'clear', full_for_events)
    line = error_of(training())
  tf.summary.FileWriterCache.clear()
  assert ('cannot write the checkpoint of step' if checkpoints else '/a/events; No space left on device') in line


# The study -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def fast_starts(monkeypatch):
  """What the study starts are Forks, but for programs that it prepares, and those of the system."""
  own = subprocess.Popen

  def launch(words, *, preexec_fn=None, **options):
    if words[0] == sys.executable and not preexec_fn:
      return forks.launch(words, **options)
    return own(words, preexec_fn=preexec_fn, **options)

  monkeypatch.setattr(subprocess, 'Popen', launch)


@pytest.mark.usefixtures('fast_starts')
def test_a_campaign_over_conversions(tmp_path):
  """Two faults of one program in processes of its own, as the study makes them all."""
  output = tmp_path / 'faults.json'
  settings = faults.FaultSettings(faults=('disk full', 'permission'), programs=('convert',), positions=1,
                                  output=str(output))
  assert faults.campaign(settings) == 0, output.read_text()
  cases = json.loads(output.read_text())['cases']
  assert [(case['fault'], case['code'], case['wrong']) for case in cases] == [
      ('disk full', 1, []), ('permission', 1, [])]
  assert '| disk full | convert | 1 | 1 | error: ' in (tmp_path / 'faults.md').read_text()


@pytest.mark.fast
@pytest.mark.parametrize('fault, code, text, after, wrong', [
    ('disk full', 1, 'error: cannot write x: No space left on device\n', 4, []),
    ('clock', 0, 'done\n', 4, []),
    ('clock', 1, 'error: no\n', 4, ['exit code 1, not 0']),
    ('disk full', 1, 'error: something\n', 4, ['does not name the fault: error: something']),
    ('disk full', 0, '', 4, ['exit code 0, not 1', '0 lines of errors']),
    ('GPU', None, 'error: the GPU failed or is gone\n', 4, ['hangs']),
    ('memory', 1, 'Traceback\nerror: memory\nerror: memory\n', 4, ['prints a traceback', '2 lines of errors']),
    ('memory', -6, 'terminate called after throwing std::bad_alloc\n', 4, []),
    ('disk full', -6, 'error: No space left\n', 4, ['exit code -6, not 1']),
    ('read-only', 1, 'error: Read-only file system\n', 3, ['the checkpoint of step 4 is gone']),
])
def test_what_is_wrong_is_found(fault, code, text, after, wrong):
  assert faults.complaints(fault, code, text, 4, after, []) == wrong
  assert faults.complaints(fault, code, text, 4, after, ['x is cut'])[0] == 'x is cut'


@pytest.mark.fast
def test_half_written_files_are_found(tmp_path):
  Image.fromarray(np.zeros([9, 9], np.uint8)).save(tmp_path / 'a_label.png')
  (tmp_path / 'a.json').write_text('{}')
  with zipfile.ZipFile(tmp_path / 'run.zip', 'w') as archive:
    archive.writestr('x', 'y' * 1000)
  (tmp_path / 'train.json').write_text('{"split": "train", "num_shards": 1, "shard_bytes": [5], "num_examples": 1}')
  [found] = faults.broken(str(tmp_path))
  assert found.startswith(f'{tmp_path}/train.json')
  (tmp_path / 'train.json').unlink()
  assert faults.broken(str(tmp_path)) == []
  for name, size in (('a_label.png', 40), ('a.json', 1), ('run.zip', 500)):
    os.truncate(tmp_path / name, size)
  assert len(faults.broken(str(tmp_path))) == 3


@pytest.mark.fast
def test_the_table_has_a_line_for_each_fault_and_program():
  case = {'fault': 'memory', 'program': 'train', 'share': 0.1, 'code': 1, 'line': 'error: a | b', 'wrong': [],
          'skipped': ''}
  lines = faults.table([case, {**case, 'code': 2, 'wrong': ['x', 'y']}, {
      **case, 'fault': 'read-only', 'code': None, 'skipped': 'no mounts'}]).splitlines()
  assert lines[2:] == ['| memory | train | 1, 2 | 2 | error: a   b | x; y |',
                       '| read-only | train |  | 1 | skipped: no mounts | nothing |']


@pytest.mark.fast
def test_faults_within_a_process(monkeypatch):
  own = time.time
  monkeypatch.setattr(time, 'time', own)
  faulty.jump('-1e6@2')
  assert abs(time.time() - own()) < 1e3 and own() - time.time() > 9e5
  monkeypatch.setattr(session.BaseSession, '_run', session.BaseSession._run)
  faulty.lose_gpu('2')
  with tf.Graph().as_default(), tf.Session() as made:
    one = tf.constant(1)
    assert made.run(one) == 1
    with pytest.raises(tf.errors.InternalError) as lost:
      made.run(one)
  assert exits.problem(lost.value).startswith('the GPU failed or is gone')


@pytest.mark.fast
def test_memory_is_limited():
  code = ('from utils.studies.faulty import limit_memory\nlimit_memory(8)\nbytes(2**20)\ntry:\n  bytearray(2**25)\n'
          'except MemoryError:\n  print("limited")')
  assert subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True).stdout == 'limited\n'
  assert resource.getrlimit(resource.RLIMIT_DATA) == (resource.RLIM_INFINITY,) * 2


@pytest.mark.fast
def test_an_unknown_fault_is_refused():
  assert_refused(programs.run(faulty.main, 'flood=1', 'train.py'), 'flood=1', 'memory, clock, gpu')
  assert_refused(programs.run(lambda words: run_settings(faults.campaign, faults.FaultSettings, words),
                              '--faults=flood'), '--faults=flood')
