"""A training on several machines: they connect, start from the same, watch each other, and end together."""

import contextlib

import numpy as np

from datasets import hold_out
from utils import cluster as clusters
from utils.agreement import checksum
from utils.checkpoint_files import newest_checkpoint, read_step
from utils.compat import tf
from utils.errors import UserError
from utils.settings import changeable, to_dict
from utils.training.settings import TrainSettings
from utils.watchdog import Watchdog

# Flags that may change from one start of a run to the next, but not from one machine to another.
_ALIKE = ('max_steps', 'eval_steps', 'eval_split', 'early_stop')


@contextlib.contextmanager
def connected(training, config):
  """Connects this machine with the others, and watches them, while the block runs.

  Args:
    training: a Training.
    config: tf.ConfigProto of the session.

  Yields:
    `(target, watchdog)`: of the session, and the Watchdog; '' and None for a single machine.
  """
  cluster = training.cluster
  if cluster is None:
    yield '', None
    return
  server = clusters.start_server(cluster, config)
  clusters.wait(cluster, training.settings.workers.wait_minutes)
  print(f'{cluster.name(cluster.index)} of {cluster.size} trains along, with {training.replicas.count} devices in all'
        + ('' if cluster.is_chief else f'; {cluster.name(0)} has the log'), flush=True)
  with Watchdog(cluster, lambda: newest_step(training.settings.run_dir)) as watchdog:
    yield server.target, watchdog


def newest_step(run_dir):
  """Step of a run's newest checkpoint; None if there is none that can be read."""
  with contextlib.suppress(UserError):
    newest = newest_checkpoint(run_dir)
    return None if newest is None else read_step(newest)


def start_facts(training, session):
  """What all machines must have alike at the start, for SameStartHook: a dict from name to value."""
  settings, may_differ = to_dict(training.settings), set(changeable(TrainSettings)) - set(_ALIKE)
  weights = {variable.op.name: training.replicas.first_of(variable) for variable in tf.trainable_variables()}
  return {**{f'--{name}': value for name, value in settings.items() if name not in may_differ},
          'precision': training.precision, 'devices': training.replicas.local, 'step': training.start_step,
          'weights': checksum(session.run(weights)),
          **{f'{what} of {split}': value for split in training.settings.splits
             for what, value in _data_facts(training.data_dir, split, training.held).items()}}


def _data_facts(data_dir, split, held):
  """What decides the stream of a split's images: which there are, in what order, in how many shards."""
  names = hold_out.read_names(data_dir, split, held)
  return {'images': [len(names), checksum({'names': np.array(names)})],
          'shards': len(hold_out.shard_paths(data_dir, split, held))}
