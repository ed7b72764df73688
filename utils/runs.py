"""A run's folder: its config.json, its checkpoints, and the checkpoint that `--ckpt` names."""

import contextlib
import dataclasses
import fcntl
import functools
import importlib.metadata
import os
import subprocess
import sys

import numpy as np

from utils.compat import tf
from utils.errors import UserError
from utils.files import ROOT, make_folder, read_json, write_json

CONFIG = 'config.json'
LOCK = 'lock'
PACKAGES = ('tensorflow', 'tf-slim', 'tf-keras', 'numpy')
AVERAGE = '/ExponentialMovingAverage'  # suffix of tf.train.ExponentialMovingAverage to a variable's name
BEST = 'best'  # subfolder of the checkpoint with the best mean IoU on the split evaluated during training
BEST_SCORE = 'best.json'  # file in BEST: `split`, `metric`, `mean_iou`, `step`


@dataclasses.dataclass(frozen=True)
class Run:
  """A trained checkpoint and its run.

  Attributes:
    folder: the run's folder, to which results are written.
    checkpoint: prefix of the checkpoint's files.
    step: training step of the checkpoint.
    config: contents of config.json: `flags`, `dataset` (name, classes, palette), `network` (name, skip, options),
      `versions`, `commit`, `command`.
  """
  folder: str
  checkpoint: str
  step: int
  config: dict

  @property
  def classes(self):
    """Tuple of class names, index = label id."""
    return tuple(self.config['dataset']['classes'])

  @property
  def palette(self):
    """uint8 [num_classes, 3], RGB."""
    return np.array(self.config['dataset']['palette'], np.uint8)


def latest_checkpoint(folder):
  """Prefix of the newest checkpoint in `folder`, or None.

  Raises:
    UserError: if the folder's list names a checkpoint whose files are gone.
  """
  state = tf.train.get_checkpoint_state(folder)
  if state is None:
    return None
  if not tf.train.checkpoint_exists(state.model_checkpoint_path):
    raise UserError(f'{os.path.join(folder, "checkpoint")} names {state.model_checkpoint_path}, which is not there')
  return state.model_checkpoint_path


def open_checkpoint(prefix):
  """Opens a checkpoint for reading, V1 or V2.

  Returns:
    a tf.train.CheckpointReader.

  Raises:
    UserError: if it is missing, truncated, or no checkpoint.
  """
  if not tf.train.checkpoint_exists(prefix):
    raise UserError(f'no checkpoint at {prefix}')
  try:
    return tf.train.load_checkpoint(prefix)
  except (tf.errors.OpError, RuntimeError, ValueError) as error:
    raise UserError(f'checkpoint {prefix} cannot be read, it is truncated or no checkpoint: '
                    f'{str(error).splitlines()[0]}') from error


def read_tensors(prefix, names):
  """Reads tensors from a checkpoint.

  Args:
    prefix: prefix of the checkpoint's files.
    names: names of the tensors.

  Returns:
    dict from name to array.

  Raises:
    UserError: if the checkpoint is missing or damaged.
  """
  reader = open_checkpoint(prefix)
  try:
    return {name: reader.get_tensor(name) for name in names}
  except (tf.errors.OpError, RuntimeError, ValueError, IndexError) as error:  # IndexError: data beyond the file's end
    raise UserError(f'checkpoint {prefix} is truncated or damaged: {str(error).splitlines()[0]}') from error


def load_run(ckpt):
  """Finds the checkpoint that `--ckpt` names.

  Args:
    ckpt: a run's folder (its best checkpoint if training evaluated a split, else its latest), or a checkpoint in the
      folder, as `runs/voc-8s/model.ckpt-1000` (also with `.index`, or the folder `runs/voc-8s/best`).

  Returns:
    a Run.

  Raises:
    UserError: if there is no checkpoint, or no config.json of a run beside it.
  """
  ckpt = ckpt.rstrip('/')
  if os.path.isdir(ckpt):
    prefix = _best_checkpoint(ckpt) or latest_checkpoint(ckpt)
    if prefix is None:
      raise UserError(f'--ckpt={ckpt}: no checkpoint in this folder; give a folder that train.py wrote')
  else:
    prefix = ckpt.removesuffix('.index')
    if not tf.train.checkpoint_exists(prefix):
      raise UserError(f'--ckpt={ckpt}: no such run folder or checkpoint')
  folder = os.path.dirname(prefix) or '.'
  if os.path.basename(folder) == BEST:
    folder = os.path.dirname(folder) or '.'
  if not os.path.exists(os.path.join(folder, CONFIG)):
    raise UserError(f'--ckpt={ckpt}: no {CONFIG} in {folder}; it is not the folder of a run of train.py')
  config = read_json(os.path.join(folder, CONFIG))
  if not open_checkpoint(prefix).has_tensor('global_step'):
    raise UserError(f'--ckpt={ckpt}: {prefix} holds no global_step, so train.py did not write it')
  step = int(read_tensors(prefix, ['global_step'])['global_step'])
  return Run(folder=folder, checkpoint=prefix, step=step, config=config)


def read_best(folder):
  """Reads the score of the best checkpoint in a run's subfolder BEST: a dict, or None if there is none."""
  path = os.path.join(folder, BEST_SCORE)
  return read_json(path) if os.path.exists(path) else None


def _best_checkpoint(folder):
  """Prefix of a run's best checkpoint; None if the run was resumed without evaluations, or with another split."""
  best = os.path.join(folder, BEST)
  if os.path.exists(os.path.join(folder, CONFIG)):
    settings = read_json(os.path.join(folder, CONFIG)).get('flags', {})
    split = settings.get('eval_split')
    if not settings.get('eval_steps', True) or (split and (read_best(best) or {}).get('split', split) != split):
      return None
  return latest_checkpoint(best)


@contextlib.contextmanager
def locked(folder):
  """Creates a run's folder and takes an exclusive lock; the OS releases it when the process exits, however it exits.

  Raises:
    UserError: if the folder cannot be created or written, or another process holds the lock.
  """
  make_folder(folder)
  with open(os.path.join(folder, LOCK), 'w', encoding='utf-8') as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
      raise UserError(f'another run is training in {folder}; give this run another --run_dir') from error
    yield


def make_config(settings, dataset, network, command=''):
  """Makes the content of `config.json`.

  Args:
    settings: dict of the run's flags, plain values; flags that shape the network are repeated beside its name.
    dataset: the Dataset.
    network: the Network.
    command: the command that trains with these settings.

  Returns:
    dict, see Run.config.
  """
  return {
      'flags': settings,
      'dataset': {
          'name': dataset.name,
          'classes': list(dataset.classes),
          'palette': dataset.palette.tolist(),
      },
      'network': {'name': network.name, 'skip': settings['skip'],
                  **{name: settings[name] for name in network.options if name in settings}},
      'versions': {'python': sys.version.split()[0], **{name: importlib.metadata.version(name) for name in PACKAGES}},
      'commit': _commit(),
      'command': command,
  }


@functools.cache  # it asks git, in a process of its own
def _commit():
  """Commit of the code, followed by '+' where files differ from it; None outside a git checkout."""
  try:
    return subprocess.run(['git', 'describe', '--always', '--abbrev=40', '--dirty=+'], cwd=ROOT, check=True,
                          capture_output=True, text=True).stdout.strip()
  except (OSError, subprocess.CalledProcessError):
    return None


def saved_config(folder):
  """Reads the config.json of a run to be resumed; None if there is no checkpoint yet.

  Raises:
    UserError: if there are checkpoints without a config.json.
  """
  if not latest_checkpoint(folder):  # a start that failed before its first checkpoint does not bind the next
    return None
  path = os.path.join(folder, CONFIG)
  if not os.path.exists(path):
    raise UserError(f'{folder} holds checkpoints but no {CONFIG}; give this run another --run_dir')
  return read_json(path)


def check_config(folder, saved, config, may_differ=()):
  """Checks that a resumed run has the settings of its first start.

  Args:
    folder: the run's folder.
    saved: contents of its config.json, from saved_config.
    config: contents of the new config.json, from make_config.
    may_differ: names of flags that may change when a run is resumed.

  Raises:
    UserError: if the classes or any other flags differ, naming them.
  """
  if saved['dataset']['classes'] != config['dataset']['classes']:
    raise UserError(f'{folder} holds a run on other classes: {", ".join(saved["dataset"]["classes"])} there, '
                    f'{", ".join(config["dataset"]["classes"])} here; give this run another --run_dir')
  there, here = saved['flags'], config['flags']
  differing = [name for name in here if name not in may_differ and _plain(there.get(name)) != _plain(here[name])]
  if differing:
    text = ', '.join(f'--{name} ({_shown(there.get(name))} there, {_shown(here[name])} here)' for name in differing)
    raise UserError(f'{folder} holds a run with other settings: {text}; give this run another --run_dir')


def save_config(folder, config):
  """Writes a run's config.json."""
  write_json(os.path.join(folder, CONFIG), config)


def _plain(value):
  """A setting for comparison: earlier versions kept the numbers of a list as text."""
  if isinstance(value, list):
    return [_plain(part) for part in value]
  try:
    return float(value)
  except (TypeError, ValueError):
    return value


def _shown(value):
  return ','.join(map(str, value)) if isinstance(value, list) else value
