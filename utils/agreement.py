"""What workers of a cluster agree on: sums over all of them, one step to stop at, and the same start.

All workers must build these in the same order, and make the session calls that run them alike: a call waits for its
like on every other worker. Arrays go over the network as tensors of numbers, texts as JSON; nothing is pickled.
"""

import contextlib
import hashlib
import itertools
import json
import signal

import numpy as np

from utils.cluster import JOB
from utils.compat import tf
from utils.errors import UserError, brief, listed

_GROUP = 1_000_000  # key of the workers' CPUs among groups of devices; tf.distribute numbers its groups from 1
_KEYS = itertools.count(1)  # keys of the collective ops in the group, which all workers count alike
_TEXT_BYTES = 1 << 16
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def _collective(op, cluster, value, **options):
  """Builds a collective op on the workers' CPUs: NCCL has no part in it, and no order to keep."""
  with tf.device(f'/job:{JOB}/task:{cluster.index}/device:CPU:0'):
    return op(input=value, group_size=cluster.size, group_key=_GROUP, instance_key=next(_KEYS), ordering_token=[],
              communication_hint='ring', **options)


class Sum:
  """Adds up an array over all workers. Fetched beside the training step, it costs no session call of its own.

  Attributes:
    own: placeholder of this worker's array.
    total: the sum; depends on `own`.
  """

  def __init__(self, cluster, shape, dtype):
    """Builds the ops.

    Args:
      cluster: a Cluster.
      shape: list of int, the same on all workers.
      dtype: tf.int32, tf.int64, tf.float32 or tf.float64.
    """
    self.own = tf.placeholder(dtype, shape)
    self.total = _collective(tf.raw_ops.CollectiveReduceV2, cluster, self.own, merge_op='Add', final_op='Id')

  def add(self, session, array):
    """Returns the sum of the workers' arrays; each of them must call this."""
    return session.run(self.total, {self.own: array})


class StopTogetherHook(tf.train.SessionRunHook):
  """Ends the run after the same step on all workers once one of them has received Ctrl-C or SIGTERM.

  Attributes:
    signal: number of the signal that any worker has received; None if there was none.
  """

  def __init__(self, cluster, interrupt):
    """Builds the ops.

    Args:
      cluster: a Cluster.
      interrupt: has `signal`, as hooks.StopOnInterruptHook, which must not be a hook of the session itself.
    """
    self._sum, self._interrupt = Sum(cluster, [len(_SIGNALS)], tf.int32), interrupt
    self.signal = None

  def before_run(self, run_context):
    received = [self._interrupt.signal == number for number in _SIGNALS]
    return tf.train.SessionRunArgs(self._sum.total, {self._sum.own: received})

  def after_run(self, run_context, run_values):
    received = [number for number, count in zip(_SIGNALS, run_values.results) if count]
    if received:
      self.signal = received[0]
      run_context.request_stop()


class GoodbyeHook(tf.train.SessionRunHook):
  """Keeps workers from ending before the last is at its end, as the last hook of the session; then stops the watch."""

  def __init__(self, cluster, watchdog):
    """Builds the ops.

    Args:
      cluster: a Cluster.
      watchdog: a watchdog.Watchdog.
    """
    self._sum, self._watchdog = Sum(cluster, [], tf.int32), watchdog

  def end(self, session):
    with contextlib.suppress(tf.errors.OpError):  # another is gone the moment that it has all answers
      self._sum.add(session, 1)
    self._watchdog.stop()


class SameStartHook(tf.train.SessionRunHook):
  """Ends the run before its first step if the workers do not start from the same: a result would be of no meaning."""

  def __init__(self, cluster, facts):
    """Builds the ops.

    Args:
      cluster: a Cluster.
      facts: `facts(session)` returns a dict from name to value, as JSON can hold it, that must be the same on all
        workers: flags, the step, `checksum` of the weights.
    """
    self._cluster, self._facts = cluster, facts
    self._own = tf.placeholder(tf.int32, [1, _TEXT_BYTES])
    self._all = _collective(tf.raw_ops.CollectiveGatherV2, cluster, self._own)

  def after_create_session(self, session, coord):
    facts = {name: _short(value) for name, value in self._facts(session).items()}
    text = np.frombuffer(json.dumps(facts).encode().ljust(_TEXT_BYTES), np.uint8)
    rows = session.run(self._all, {self._own: [text]})
    check_same(self._cluster, [json.loads(row.astype(np.uint8).tobytes()) for row in rows])


def check_same(cluster, facts):
  """Compares what the workers start from.

  Args:
    cluster: a Cluster.
    facts: list of dicts from name to text, one of each worker.

  Raises:
    UserError: if one differs from worker 0; the line names what does, and how.
  """
  different = []
  for number in range(1, cluster.size):
    names = [name for name in {**facts[0], **facts[number]} if facts[0].get(name) != facts[number].get(name)]
    if names:
      different.append(f'{cluster.name(number)} has ' + listed(
          f'{name} {facts[number].get(name, "none")} instead of {facts[0].get(name, "none")}' for name in names))
  if different:
    raise UserError(f'the workers must start alike, but compared to {cluster.name(0)}, '
                    f'{listed(different, most=3, separator="; ")}')


def _short(value):
  """A value as text; a long one as its start and its checksum."""
  text = json.dumps(value, sort_keys=True)
  return text if len(text) <= 60 else f'{brief(value)} ({checksum({"": np.array(text)})})'


def checksum(arrays):
  """16 hexadecimal digits that tell the contents of arrays.

  Args:
    arrays: dict from name to numpy array.
  """
  digest = hashlib.sha256()
  for name, array in sorted(arrays.items()):
    digest.update(f'{name} {array.dtype} {array.shape} '.encode())
    digest.update(np.ascontiguousarray(array).tobytes())
  return digest.hexdigest()[:16]
