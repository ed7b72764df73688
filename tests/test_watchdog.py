"""The watchdog of a cluster, without processes: it ends its own by one line, or leaves it alone."""

import threading
import time

import pytest

from utils.cluster import Cluster
from utils.compat import tf
from utils.errors import UserError
from utils.watchdog import FAILURES, Watchdog

pytestmark = pytest.mark.fast

CLUSTER = Cluster(('a:1', 'b:1', 'c:1'), 0)
AGAIN = 'start the same commands again on all machines to go on'


class Peers:
  """Stands for `answers`: whether each address answers, the questions, and the exit code of this process."""

  def __init__(self, **silent):
    """Takes, by the first letter of an address, the questions from the first on that get no answer; all for True."""
    self.silent, self.asked, self.code, self.left = silent, [], None, threading.Event()

  def __call__(self, address):
    self.asked.append(address)
    silent = self.silent.get(address[0], 0)
    return silent is not True and self.asked.count(address) > silent

  def leave(self, code):
    self.code = code
    self.left.set()


def watchdog(peers, saved=lambda: 7, grace=0.0, interval=0.002):
  return Watchdog(CLUSTER, saved, interval=interval, grace=grace, linger=0.0, answers=peers, leave=peers.leave)


def test_a_silent_worker_ends_a_process_that_hangs(capsys):
  peers = Peers(b=True)
  with watchdog(peers):
    assert peers.left.wait(10)  # stands for a session call that does not return
  assert peers.code == 1 and peers.asked.count('b:1') == FAILURES
  assert capsys.readouterr().err == (
      f'error: worker 1 (b:1) died or cannot be reached; the last checkpoint is of step 7; {AGAIN}\n')


def test_all_silent_workers_are_named_once(capsys):
  peers = Peers(b=True, c=True)
  with watchdog(peers, saved=lambda: None, grace=0.1):
    assert peers.left.wait(10)
    time.sleep(0.2)  # the other thread's turn
  assert capsys.readouterr().err == f'error: worker 1 (b:1), worker 2 (c:1) died or cannot be reached; {AGAIN}\n'


def test_some_questions_without_an_answer_are_forgiven():
  peers = Peers(b=FAILURES - 1)
  with watchdog(peers):
    while peers.asked.count('b:1') < 4 * FAILURES:
      time.sleep(0.001)
  assert not peers.left.is_set()


def test_workers_may_end_after_stop():
  peers = Peers()
  with watchdog(peers) as watch:
    while 'b:1' not in peers.asked:
      time.sleep(0.001)
    watch.stop()
    peers.silent = {'b': True, 'c': True}
    time.sleep(0.1)
  assert not peers.left.is_set()


def test_an_error_within_the_grace_is_the_end(capsys):
  peers = Peers(b=True)
  with pytest.raises(UserError, match=r'^worker 1 \(b:1\) died'), watchdog(peers, grace=0.5):
    while peers.asked.count('b:1') < FAILURES:
      time.sleep(0.001)
    raise tf.errors.UnavailableError(None, None, 'Socket closed')
  assert not peers.left.wait(0.6) and capsys.readouterr().err == ''


ABORTED = ("Graph execution error:\n\nDetected at node 'CollectiveReduceV2'\nCollective ops is aborted by: Device is "
           'another\nAdditional GRPC error information')


@pytest.mark.parametrize('error, silent, text', [
    (tf.errors.UnavailableError(None, None, ABORTED), {'c': True}, r'worker 2 \(c:1\) died or cannot be reached; the'),
    (tf.errors.InternalError(None, None, ABORTED), {'c': True}, r'worker 2 \(c:1\) died'),
    (tf.errors.FailedPreconditionError(None, None, ABORTED), {},
     'a worker failed or was started anew: Collective ops is aborted by: Device is another; the last checkpoint'),
    (tf.errors.AbortedError(None, None, ''), {}, 'a worker failed or was started anew: no reason given; the last'),
])
def test_errors_of_collective_ops_become_one_line(error, silent, text):
  peers = Peers(**silent)
  with pytest.raises(UserError, match=f'^{text}') as raised, watchdog(peers, interval=60.0):
    raise error
  assert len(str(raised.value).splitlines()) == 1 and str(raised.value).endswith(AGAIN)


def test_a_worker_that_saw_an_error_still_answers_for_a_while():
  peers = Peers()
  start = time.monotonic()
  with pytest.raises(UserError), Watchdog(CLUSTER, linger=0.2, answers=peers, leave=peers.leave):
    raise tf.errors.UnavailableError(None, None, 'Socket closed')
  assert time.monotonic() - start >= 0.2


@pytest.mark.parametrize('error', [
    tf.errors.DataLossError(None, None, 'corrupted record'), UserError('the loss is not finite'), KeyboardInterrupt()])
def test_other_errors_are_left_alone(error):
  peers = Peers(b=True)
  with pytest.raises(type(error)) as raised, Watchdog(CLUSTER, answers=peers, leave=peers.leave):
    raise error
  assert raised.value is error and peers.asked == []
