"""The measurement of starts, with processes made up; and what keeps starts short."""

import io
import json
import os
import subprocess
import sys

import pytest
from fake_clock import FakeClock
from programs import assert_refused
from script_flags import assert_flags

from utils.errors import UserError
from utils.files import ROOT
from utils.settings import parse
from utils.studies import starts
from utils.studies.starts import StartSettings


class Process:
  """Stands for subprocess.Popen: prints lines, each after a second."""

  def __init__(self, lines, clock):
    self.pid, self.killed, self.stdout = 7, False, self._lines(lines, clock)

  def _lines(self, lines, clock):
    for line in lines:
      clock.sleep(1.0)
      yield line + '\n'

  def __enter__(self):
    return self

  def __exit__(self, *exception):
    assert self.killed

  def kill(self):
    self.killed = True


def test_a_start_ends_at_its_result():
  clock = FakeClock()
  lines = ['device: CPU', 'step 1/9  loss 2', 'step 2/9  loss 1']
  times = starts.start(['train'], 'step 1/', launch=lambda *words, **options: Process(lines, clock),
                       cpu=lambda pid: pid / 2, clock=clock)
  assert times.tolist() == [3.5, 2.0]


def test_a_start_without_a_result_says_why():
  with pytest.raises(UserError, match='^train ended too early: error: no disk$'):
    starts.start(['train'], 'step 1/', launch=lambda *words, **options: Process(['x', 'error: no disk'], FakeClock()))


def test_cpu_seconds_are_those_of_the_process():
  before = starts.cpu_seconds(os.getpid())
  times = os.times()
  assert before == pytest.approx(times.user + times.system, abs=0.05)


def test_versions_start_in_turn_and_their_ratio_is_of_neighbors(small):
  seen, prepared, seconds = [], [], iter([[9, 9], [9, 9], [1, 10], [2, 40], [3, 20], [12, 20]])

  def start(words, result):
    seen.append((words, result))
    return next(seconds)

  lines = list(starts.measure_starts('resume', small, against='older', start=start,
                                     prepare=lambda words, **options: prepared.append(words)))
  roots = [os.path.dirname(words[1]) for words, _ in seen]
  assert roots == [ROOT, os.path.abspath('older')] * 3 and {result for _, result in seen} == {'step 2/'}
  assert [os.path.dirname(words[1]) for words in prepared] == roots[:2]
  runs = [{word for word in words if word.startswith('--run_dir=')} for words, _ in seen]
  assert runs[0] == runs[2] != runs[1] == runs[3]  # each version goes on with a run of its own
  assert [(line['case'], line['unit'], line['median']) for line in lines] == [
      ('float32: this version', 'CPU s', 2.0), ('float32: the other', 'CPU s', 7.0),
      ('float32: this version / the other, CPU s', 'ratio', 0.375),
      ('float32: this version', 's', 15.0), ('float32: the other', 's', 30.0),
      ('float32: this version / the other, s', 'ratio', 0.625)]


@pytest.fixture
def small(tmp_path):
  """A Setup of two timed starts after one."""
  from datasets import get_dataset
  from nets import get_network
  from utils.studies.benchmark import Setup

  return Setup(dataset=get_dataset('shapes'), network=get_network('enet'), data_dir='data',
               checkpoint='run/model.ckpt-0', size=(5, 7), batch_size=1, precisions=('float32',), steps=2,
               warmup_steps=1)


@pytest.mark.parametrize('kind, script', [
    ('train', 'train'), ('resume', 'train'), ('evaluate', 'evaluate'), ('inference', 'inference')])
def test_scripts_know_the_flags(small, tmp_path, kind, script):
  before, words, _ = starts.commands(kind, small, 'float32', str(tmp_path))
  assert os.path.basename(words[1]) == f'{script}.py' and (before is not None) == (kind == 'resume')
  assert_flags(script, [each[2:] for each in (before, words) if each])


def test_every_new_run_is_new(small, tmp_path):
  first, second = (starts.commands('train', small, 'float32', str(tmp_path))[1] for _ in range(2))
  assert first != second


def test_a_folder_without_scripts_is_refused(tmp_path, run_program):
  assert_refused(run_program(starts.main, f'--against={tmp_path}', f'--output={tmp_path}/x.json'),
                 f'--against={tmp_path}: no train.py in this folder')
  assert parse(StartSettings, ['--what=train', f'--against={ROOT}']).what == ('train',)


def test_a_start_imports_no_more_than_it_needs():
  """And leaves AutoGraph alone, collects garbage again, and finds SciPy where it is used."""
  program = '''
import gc, json, sys
import train
from utils.compat import tf
made = tf.data.Dataset.range(2).map(lambda number: len([number, 'AutoGraph'] if isinstance(number, tf.Tensor) else []))
found = [name for name in sys.modules if name.split('.')[0] == 'scipy'] + [
    name for name in sys.modules if name.startswith('__autograph_generated_file')]
import scipy.ndimage
print(json.dumps([found, gc.isenabled(), callable(scipy.ndimage.zoom)]))
'''
  output = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True, cwd=ROOT, check=True).stdout
  assert json.load(io.StringIO(output)) == [[], True, True]
