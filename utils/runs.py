"""A run's folder: its config.json, its checkpoints, and which of them `--ckpt` means."""

import contextlib
import dataclasses
import fcntl
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
AVERAGE = '/ExponentialMovingAverage'  # what tf.train.ExponentialMovingAverage adds to a variable's name
BEST = 'best'  # subfolder of the checkpoint with the best mean IoU on val


@dataclasses.dataclass(frozen=True)
class Run:
  """A trained checkpoint and what is needed to use it.

  Attributes:
    folder: the run's folder, where results are written.
    checkpoint: prefix of the checkpoint's files.
    step: number of training steps behind it.
    config: what `train.py` saved: `flags`, `dataset` (name, classes, palette), `network` (name,
      skip, options), `versions`, `commit`, `command`.
  """
  folder: str
  checkpoint: str
  step: int
  config: dict

  @property
  def classes(self):
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
    prefix: of the checkpoint's files.
    names: names that it holds.

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
  """Finds the checkpoint that `--ckpt` means.

  Args:
    ckpt: a run's folder (its best checkpoint where val was evaluated during training, else its latest), or one
      checkpoint inside it, as `runs/voc-8s/model.ckpt-1000` (also with `.index`, or the folder `runs/voc-8s/best`).

  Returns:
    a Run.

  Raises:
    UserError: if there is no checkpoint, or no config.json of a run beside it.
  """
  ckpt = ckpt.rstrip('/')
  if os.path.isdir(ckpt):
    prefix = latest_checkpoint(os.path.join(ckpt, BEST)) or latest_checkpoint(ckpt)
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


@contextlib.contextmanager
def locked(folder):
  """Creates a run's folder and holds it for this process; the system lets go of it however the process ends.

  Raises:
    UserError: if the folder cannot be made or written, or another process holds it.
  """
  make_folder(folder)
  with open(os.path.join(folder, LOCK), 'w', encoding='utf-8') as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
      raise UserError(f'another run is training in {folder}; give this one another --run_dir') from error
    yield


def make_config(settings, dataset, network):
  """Returns what `config.json` holds.

  Args:
    settings: dict of the run's flags, plain values; those that shape the network are repeated beside its name.
    dataset: the Dataset.
    network: the Network.
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
      'command': ' '.join(sys.argv),
  }


def _commit():
  """The commit that the code is at, with '+' behind it where files differ from it; None outside a git checkout."""
  try:
    return subprocess.run(['git', 'describe', '--always', '--abbrev=40', '--dirty=+'], cwd=ROOT, check=True,
                          capture_output=True, text=True).stdout.strip()
  except (OSError, subprocess.CalledProcessError):
    return None


def save_config(folder, config, may_differ=()):
  """Writes `config.json`, or checks that a run that is already there has the same settings.

  Args:
    folder: the run's folder.
    config: as of make_config.
    may_differ: names of flags that do not change what is trained, or that may change between resumes.

  Raises:
    UserError: if the folder holds a run with other settings, naming them, or checkpoints without a config.json.
  """
  path = os.path.join(folder, CONFIG)
  if latest_checkpoint(folder):  # a start that failed before its first checkpoint leaves nothing to mix
    if not os.path.exists(path):
      raise UserError(f'{folder} holds checkpoints but no {CONFIG}; give this run another --run_dir')
    saved = read_json(path)
    if saved['dataset']['classes'] != config['dataset']['classes']:
      raise UserError(f'{folder} holds a run on other classes: {", ".join(saved["dataset"]["classes"])} there, '
                      f'{", ".join(config["dataset"]["classes"])} here; give this one another --run_dir')
    there, here = saved['flags'], config['flags']
    differing = [name for name in here if name not in may_differ and there.get(name) != here[name]]
    if differing:
      listed = ', '.join(f'--{name} ({there.get(name)} there, {here[name]} here)' for name in differing)
      raise UserError(f'{folder} holds a run with other settings: {listed}; give this one another --run_dir')
  write_json(path, config)
