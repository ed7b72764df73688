"""Workers of a cluster agree, stop together, and end by one line if one of them dies: real processes on loopback."""

import hashlib
import signal
import time

import numpy as np
import pytest
from machines import started

from utils.agreement import check_same, checksum
from utils.cluster import Cluster
from utils.errors import UserError

WORKER = 'tests/worker.py'
QUICK = ('--interval=0.3', '--ask=1', '--grace=0.5', '--linger=0.5')  # a watchdog that does not wait long


def test_workers_add_up_exactly_and_stop_at_the_same_step():
  """A proxy that the environment names is not asked: nothing answers there."""
  environ = {'http_proxy': 'http://127.0.0.1:9', 'https_proxy': 'http://127.0.0.1:9'}
  with started(2, WORKER, '--steps=10000', '--pause=0.02', environ=environ, fork=False) as machines:
    machines[1].seen('step 3: 6')  # each worker adds one at each step
    machines[1].signal(signal.SIGTERM)
    sent = time.monotonic()
    assert [machine.ended() for machine in machines] == [143, 143]
    assert time.monotonic() - sent < 20  # less than a hanging end would take
    total = 2 * (2**53 + 1)
    assert machines[0].seen('matrix') == f'matrix {[[total, total + 1], [total + 2, total + 3]]}'
    assert machines[0].stdout == machines[1].stdout  # the last step among them
    assert machines[0].stderr == [] and len(machines[1].stderr) == 2, machines[1].output()


def test_workers_that_start_differently_are_refused():
  with started(2, WORKER, each=lambda number: [f'--rate={number}'], tf_config=True) as machines:
    assert [machine.ended() for machine in machines] == [1, 1]
    for machine in machines:
      [error] = machine.stderr
      assert 'compared to worker 0' in error and 'worker 1' in error and error.endswith('has rate 1.0 instead of 0.0')
      assert 'step' not in '\n'.join(machine.stdout)


def test_a_killed_worker_ends_the_others_by_a_line_that_names_it():
  """Each of them that ends is one more that cannot be reached: they wait for each other."""
  with started(3, WORKER, '--steps=10000', each=lambda number: [f'--inside={number % 2}']) as machines:
    machines[1].seen('step 1')
    time.sleep(0.2)
    machines[1].signal(signal.SIGKILL)
    killed = time.monotonic()
    for machine in (machines[0], machines[2]):
      assert machine.ended() == 1 and time.monotonic() - killed < 60
      [error] = machine.errors()
      assert error == machine.stderr[-1] and error.startswith('error: worker 1 (127.0.0.1:'), machine.output()
      step = sum('step' in line for line in machine.stdout)
      assert f'died or cannot be reached; the last checkpoint is of step {step}; start the same' in error


@pytest.mark.parametrize('text, number, words', [
    ('step 2', signal.SIGSTOP, ['--pause=0.05']),  # nothing closes its connections
    ('early', signal.SIGKILL, ['--early=100']),  # the group of the collective ops waits for it
])
def test_a_session_call_that_hangs_ends_with_the_process(text, number, words):
  with started(2, WORKER, '--steps=10000', *QUICK, each=lambda index: words if index == 1 else []) as machines:
    for machine in machines:
      machine.seen(text)
    time.sleep(0.5)
    machines[1].signal(number)
    sent = time.monotonic()
    assert machines[0].ended() == 1 and time.monotonic() - sent < 60
    [error] = machines[0].stderr
    assert error.startswith('error: worker 1 (127.0.0.1:') and 'the last checkpoint is of step' in error
    if number == signal.SIGSTOP:  # once it goes on, it finds itself alone
      machines[1].signal(signal.SIGCONT)
      assert machines[1].ended() == 1 and machines[1].errors()[0].startswith('error: worker 0')


@pytest.mark.fast
def test_differences_are_named():
  cluster = Cluster(('a:1', 'b:1', 'c:1'), 2)
  facts = {'step': '20', 'batch_size': '4', 'weights': 'x'}
  check_same(cluster, [facts, dict(facts), dict(facts)])
  with pytest.raises(UserError) as raised:
    check_same(cluster, [facts, {'step': '0', 'batch_size': '4'}, {**facts, 'bands': '1'}])
  assert str(raised.value) == (
      'the workers must start alike, but compared to worker 0 (a:1), worker 1 (b:1) has step 0 instead of 20, weights '
      'none instead of x; worker 2 (c:1) has bands 1 instead of none')


@pytest.mark.fast
def test_a_checksum_tells_names_shapes_types_and_values():
  weights = {'b': np.zeros((2, 3), np.float32), 'a': np.arange(3)}
  assert checksum(weights) == checksum(dict(reversed(weights.items())))
  others = [{'b': weights['b']}, {**weights, 'b': np.zeros((3, 2), np.float32)}, {**weights, 'a': np.arange(3.0)},
            {**weights, 'a': np.arange(3)[::-1]}, {'b': weights['b'], 'c': weights['a']}]
  assert len({checksum(other) for other in [weights, *others]}) == 6
  assert checksum({'x': np.array([1], np.uint8)}) == hashlib.sha256(b'x uint8 (1,) \x01').hexdigest()[:16]
