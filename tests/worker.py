"""A small training for tests of clusters: steps that add up a vector over all workers, watched and stopped together."""

import dataclasses
import functools
import os
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import numpy as np

from utils import cluster as clusters
from utils import settings
from utils.agreement import SameStartHook, StopTogetherHook, Sum
from utils.cluster import Workers
from utils.compat import tf
from utils.session import session_config
from utils.settings import Settings, flag, group
from utils.training.hooks import StopOnInterruptHook
from utils.watchdog import Watchdog


@dataclasses.dataclass(frozen=True)
class WorkerSettings(Settings):
  """Settings of the worker."""
  steps: int = flag(3, 'number of steps')
  pause: float = flag(0.0, 'seconds between two steps')
  inside: float = flag(0.0, 'seconds inside each step')
  early: float = flag(0.0, 'seconds before the first session call')
  rate: float = flag(1.0, 'a flag that must be the same')
  interval: float = flag(5.0, 'seconds between two questions of the watchdog')
  grace: float = flag(5.0, 'see Watchdog')
  linger: float = flag(3.0, 'see Watchdog')
  ask: float = flag(5.0, 'seconds in which a worker must answer')
  workers: Workers = group(Workers)


def work(options):
  """Runs the steps."""
  cluster = clusters.cluster_of(options.workers, os.environ)
  resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
      cluster.spec, task_type=clusters.JOB, task_id=cluster.index, num_accelerators={}, rpc_layer='grpc')
  strategy = tf.distribute.experimental.MultiWorkerMirroredStrategy(cluster_resolver=resolver)
  config = strategy.update_config_proto(session_config())
  server = clusters.start_server(cluster, config)
  answers = functools.partial(clusters.answers, seconds=options.ask)
  clusters.wait(cluster, options.workers.wait_minutes, answers=answers)
  with tf.Graph().as_default(), strategy.scope():
    state, step = {'step': 0}, build(strategy, options.inside, cluster)
    with StopOnInterruptHook() as interrupt, Watchdog(
        cluster, saved=lambda: state['step'], interval=options.interval, grace=options.grace,
        linger=options.linger, answers=answers) as watchdog:
      stop = StopTogetherHook(cluster, interrupt)
      same = SameStartHook(cluster, lambda session: {'rate': options.rate})
      matrix = Sum(cluster, [2, 2], tf.int64)
      print('early', flush=True)
      time.sleep(options.early)
      with tf.train.SingularMonitoredSession(
          hooks=[same, stop], scaffold=tf.train.Scaffold(), master=server.target, config=config) as session:
        own = 2**53 + 1 + np.arange(4).reshape(2, 2) * cluster.index  # exact in int64, not in float64
        print('matrix', matrix.add(session.raw_session(), own).tolist(), flush=True)
        while not session.should_stop() and state['step'] < options.steps:
          total = session.run(step)
          state['step'] += 1
          print(f'step {state["step"]}: {total:g}', flush=True)
          time.sleep(options.pause)
      watchdog.stop()
  print(f'end at step {state["step"]}', flush=True)
  return 128 + stop.signal if stop.signal else 0


def build(strategy, inside, cluster):
  """A step that trains a variable by the sum of the workers' ones; returns the variable's value."""

  def slow(values):
    time.sleep(inside)
    return values

  weight = tf.get_variable('weight', [1000], initializer=tf.zeros_initializer())

  def replica():
    ones = tf.py_func(slow, [np.ones(1000, np.float32)], tf.float32)
    ones.set_shape([1000])
    return ones

  total = strategy.reduce('SUM', strategy.extended.call_for_each_replica(replica), axis=None)
  with tf.control_dependencies([strategy.extended.update(
      weight, lambda variable, value: variable.assign_add(value), args=(total,), group=True)]):
    return tf.reduce_mean(strategy.extended.read_var(weight))


if __name__ == '__main__':
  sys.exit(settings.run(work, WorkerSettings))
