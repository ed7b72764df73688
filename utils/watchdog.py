"""Watchdog: a worker that dies ends the other workers of a cluster by one clear line.

What TensorFlow 2.21 does by itself, tried with two and three processes: if a process is killed, a collective op that
the others are in, or come to, fails at once with UnavailableError; each of them that ends makes the next one fail, so
that the error names the wrong one as often as not. Without an error, and for ever, hangs a session call whose partner
dies before its first collective op (if it is the first worker: repeats its request), whose partner stands still
(SIGSTOP, a machine without power), and a tf.train.MonitoredSession, which answers UnavailableError by starting a new
session on the broken server: use tf.train.SingularMonitoredSession.
"""

import contextlib
import os
import sys
import threading
import time

from utils import cluster as clusters
from utils.compat import tf
from utils.errors import UserError

INTERVAL = 5.0  # seconds between two questions to a worker, each of which it has ASK_SECONDS to answer
FAILURES = 3  # questions in a row without an answer after which a worker counts as dead, 10 to 30 s after its death
GRACE = 5.0  # seconds in which the session call may fail by itself, before the process is ended
LINGER = 3.0  # seconds for which a worker that has seen an error still answers, so that others find the one that died
_BROKEN = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.DeadlineExceededError,
           tf.errors.CancelledError)


class Watchdog:
  """Watches the other workers while a block runs; a context manager around all session calls.

      with Watchdog(cluster, saved=lambda: saver.step) as watchdog:
        ...
        watchdog.stop()  # behind the last session call that all workers make: from here on they may end

  If another worker dies or stands still, an error of TensorFlow becomes a UserError, and a session call that hangs ends
  with the process: exit code 1, the same line on stderr.
  """

  def __init__(self, cluster, saved=lambda: None, *, interval=INTERVAL, grace=GRACE, linger=LINGER,
               answers=clusters.answers, leave=os._exit):
    """Makes the watchdog.

    Args:
      cluster: a Cluster.
      saved: `saved()` returns the step of the last checkpoint; None if this worker does not know it.
      interval: see INTERVAL.
      grace: see GRACE.
      linger: see LINGER.
      answers: see cluster.answers.
      leave: function that ends the process with an exit code.
    """
    self._cluster, self._saved, self._answers, self._leave = cluster, saved, answers, leave
    self._interval, self._grace, self._linger = interval, grace, linger
    self._failures = dict.fromkeys(cluster.others, 0)
    self._stopped, self._leaving = threading.Event(), threading.Lock()

  def __enter__(self):
    for number in self._failures:
      threading.Thread(target=self._watch, args=(number,), daemon=True, name=f'watchdog of worker {number}').start()
    return self

  def stop(self):
    """Ends the watch."""
    self._stopped.set()

  def __exit__(self, kind, error, traceback):
    self.stop()
    if isinstance(error, _BROKEN) or isinstance(error, tf.errors.OpError) and 'Collective ops is aborted' in str(error):
      start = time.monotonic()
      line = self._line(self._silent() or clusters.silent(self._cluster, self._cluster.others, self._answers), error)
      time.sleep(max(0.0, start + self._linger - time.monotonic()))
      raise UserError(line) from error

  def _watch(self, number):
    """Asks a worker again and again; runs in a thread of its own."""
    while not self._stopped.wait(self._interval):
      answered = self._answers(self._cluster.addresses[number])
      self._failures[number] = 0 if answered else self._failures[number] + 1
      if self._failures[number] >= FAILURES:
        break
    if self._stopped.wait(self._grace) or not self._leaving.acquire(blocking=False):
      return
    print(f'error: {self._line(self._silent())}', file=sys.stderr)
    for stream in (sys.stdout, sys.stderr):
      with contextlib.suppress(OSError, ValueError):
        stream.flush()
    self._leave(1)

  def _silent(self):
    """Numbers of the workers that did not answer the last question."""
    return [number for number, count in self._failures.items() if count]

  def _line(self, numbers, error=None):
    """The message about workers that do not answer, or about an error with which all answer."""
    names = ', '.join(map(self._cluster.name, numbers))
    what = f'{names} died or cannot be reached' if names else f'a worker failed or was started anew: {_reason(error)}'
    step = self._saved()
    checkpoint = '' if step is None else f'the last checkpoint is of step {step}; '
    return f'{what}; {checkpoint}start the same commands again on all machines to go on'


def _reason(error):
  """The line of an OpError that says what happened, without TensorFlow's list of places in the graph."""
  lines = [line for line in error.message.splitlines() if line.strip()]
  return next((line for line in lines if 'Collective ops is aborted' in line), lines[0] if lines else 'no reason given')
