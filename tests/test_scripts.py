"""Scripts that a study runs: ended with it, held still beside a stopwatch, watched for their memory."""

import pathlib
import signal
import sys
import time

import numpy as np
import pytest
from fake_clock import FakeClock

from utils.errors import UserError
from utils.exits import ended_by_sigterm
from utils.studies import scripts

pytestmark = pytest.mark.fast


class FakeProcess:
  """Stands for subprocess.Popen and for the process that it returns; `events` are the calls that act on it."""

  pid = 7

  def __init__(self, *, waits=(), polls=(), lines=(), output=''):
    """Takes the outcomes of `wait()` and of `poll()`, the lines in a pipe, or the output in a file."""
    self._waits, self._polls, self._output = list(waits), list(polls), output
    self.stdout, self.events, self.returncode = iter(lines), [], None

  def __call__(self, words, *, stdout, **options):
    self.words = words
    if self._output:
      stdout.write(self._output)
      stdout.flush()
    return self

  def __enter__(self):
    return self

  def __exit__(self, *exception):
    self.events.append('exit')

  def wait(self):
    self.events.append('wait')
    outcome = self._waits.pop(0)
    if isinstance(outcome, BaseException):
      raise outcome
    return outcome

  def poll(self):
    self.returncode = self._polls.pop(0)
    return self.returncode

  def send_signal(self, number):
    self.events.append(number.name)

  def terminate(self):
    self.events.append('terminate')

  def kill(self):
    self.events.append('kill')


def python(code):
  return [sys.executable, '-u', '-c', code]


def test_a_script_is_run_with_its_flags():
  process = FakeProcess(waits=[3, 3])
  assert scripts.run('train.py', ['--seed=1'], None, launch=process) == 3
  assert process.words[0] == sys.executable and process.words[2:] == ['--seed=1']
  path = pathlib.Path(process.words[1])
  assert path.is_file() and path.name == 'train.py'


@pytest.mark.parametrize('waits, events', [
    ([KeyboardInterrupt(), 130, 130], ['wait', 'wait', 'kill', 'wait', 'exit']),  # the terminal's Ctrl-C is enough
    ([KeyboardInterrupt(), KeyboardInterrupt(), -9], ['wait', 'wait', 'kill', 'wait', 'exit']),
    ([SystemExit(143), 143, 143], ['wait', 'terminate', 'wait', 'kill', 'wait', 'exit']),
])
def test_an_interrupted_script_gets_the_time_to_save(waits, events):
  process = FakeProcess(waits=waits)
  with pytest.raises(type(waits[0])):
    scripts.run('train.py', [], None, launch=process)
  assert process.events == events


def test_sigterm_ends_a_block_and_leaves_no_handler():
  before = signal.getsignal(signal.SIGTERM)
  with pytest.raises(SystemExit) as ended, ended_by_sigterm():
    signal.raise_signal(signal.SIGTERM)
  assert ended.value.code == 143 and signal.getsignal(signal.SIGTERM) == before


def test_a_script_and_a_step_are_timed_in_turn():
  clock, order = FakeClock(), []

  def lines():
    for number, seconds in enumerate([50.0, 7.0, 3.0, 5.0], 1):  # the start, a warm-up, two timed blocks
      clock.sleep(seconds)
      yield 'another line\n'
      order.append(f'line {number}')
      yield f'step {number}/9  loss 1.0\n'

  def step():
    order.append('step')
    clock.sleep(2.0)

  process = FakeProcess(lines=lines())
  process.events = order
  loop, bare = scripts.against(['train'], step, block=2, blocks=2, warmup_blocks=1, launch=process, clock=clock)
  assert loop == [1.5, 2.5] and bare == [2.0, 2.0]
  assert order == ['line 1', 'line 2', 'SIGSTOP', 'step', 'step', 'SIGCONT', 'line 3',
                   'SIGSTOP', 'step', 'step', 'SIGCONT', 'line 4', 'kill', 'exit']


def test_a_real_script_stands_still_and_its_end_is_said(tmp_path):
  """The script waits for each step before its next line, and its process is in Linux's state T during the step."""
  command = python(f'''
import os, time
with open('{tmp_path}/pid', 'w') as file:
  file.write(str(os.getpid()))
print('step 1/9')
print('step 2/9')
while not os.path.exists('{tmp_path}/go1'):
  time.sleep(0.01)
print('step 3/9')
while not os.path.exists('{tmp_path}/go2'):
  time.sleep(0.01)
print('error: no data')
''')
  states = []

  def state():
    stat = pathlib.Path('/proc', (tmp_path / 'pid').read_text(), 'stat').read_text()
    return stat.rpartition(')')[2].split()[0]

  def step():
    for _ in range(1000):  # until the signal is there
      if state() == 'T':
        break
      time.sleep(0.01)
    states.append(state())
    (tmp_path / f'go{len(states)}').touch()

  with pytest.raises(UserError, match='ended too early: error: no data'):
    scripts.against(command, step, block=1, blocks=3, warmup_blocks=1)
  assert states == ['T', 'T']


def test_memory_is_sampled_until_the_command_ends():
  clock = FakeClock()
  sizes = iter([(10, 40), (95, 90), None, (30, 90)])
  peak, samples = scripts.watched(['evaluate'], launch=FakeProcess(polls=[None] * 4 + [0], output='ready\n'),
                                  memory=lambda pid: next(sizes), clock=clock, sleep=clock.sleep)
  assert peak == 95 and samples == [(0.0, 10), (scripts.SAMPLE_SECONDS, 95), (3 * scripts.SAMPLE_SECONDS, 30)]


def test_memory_before_the_first_output_counts_for_the_peak_alone():
  peak, samples = scripts.watched(['evaluate'], launch=FakeProcess(polls=[None, 0]), memory=lambda pid: (10, 40),
                                  sleep=lambda seconds: None)
  assert peak == 40 and samples == []


@pytest.mark.parametrize('output, message', [('fine\nerror: out of luck\n', 'evaluate --x failed: error: out of luck'),
                                             ('', 'failed: it printed nothing')])
def test_a_watched_command_that_fails_is_said(output, message):
  process = FakeProcess(polls=[None, 1], output=output)
  with pytest.raises(UserError, match=message):
    scripts.watched(['evaluate', '--x'], launch=process, memory=lambda pid: (1, 1), sleep=lambda seconds: None)
  assert process.events == ['kill', 'exit']


def test_memory_of_a_real_command(tmp_path):
  """The command goes on until it has been seen a few times after its output."""
  seen = []

  def sleep(seconds):
    time.sleep(0.01)
    if (tmp_path / 'ready').exists():
      seen.append(seconds)
    if len(seen) == 4:
      (tmp_path / 'seen').touch()

  peak, samples = scripts.watched(python(f'''
import os, time
print('ready')
open('{tmp_path}/ready', 'w').close()
while not os.path.exists('{tmp_path}/seen'):
  time.sleep(0.01)
'''), sleep=sleep)
  assert len(samples) >= 3 and all(0 < size <= peak for _, size in samples)
  assert [when for when, _ in samples] == sorted(when for when, _ in samples)


def test_growth():
  assert scripts.growth([7.0] * 40) == 0
  assert scripts.growth(np.arange(40.0)) == 20  # from the middle of the second quarter to that of the last one
  assert scripts.growth([0.0] * 10 + [500.0] * 28 + [0.0] * 2) == 0  # neither the start nor the end counts
  assert scripts.growth([1.0, 9.0, 9.0]) == 0 and scripts.growth([]) == 0
