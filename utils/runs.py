"""A run's folder: its config.json, its checkpoints, and the checkpoint that `--ckpt` names; or a run in one file."""

import contextlib
import dataclasses
import glob
import os
import sys
import types

import numpy as np

from utils.best import BEST, best_checkpoint, described, read_best, scored_on
from utils.checkpoint_files import LIST, folder_named, newest_checkpoint, problem, read_step, steps_of, without_suffix
from utils.errors import UserError, brief, listed, quoted, shown
from utils.exits import works_in
from utils.files import commit, make_folder, read_json, take_lock, write_json
from utils.installation import versions
from utils.packages import CONFIG, Package, is_package

LOCK = 'lock'
_ENTRIES = {  # part of config.json -> type of its entries, where they are there
    'network': {'name': str},
    'dataset': {'name': str},
    'flags': dict.fromkeys(('data_dir', 'run_dir', 'train_split', 'eval_split', 'checkpoint', 'init_from', 'loss',
                            'class_weights'), str)
             | dict.fromkeys(('learning_rate', 'batch_norm_decay', 'ema_decay', 'dropout_keep_prob'), (int, float)),
}
# Flags that earlier versions had, and the value of each with which training is as it is without the flag.
_FORMER_FLAGS = {'class_mix': 0.0, 'context': 'none', 'cutout': 0.0, 'decoupled_weight_decay': 0.0,
                 'layer_rate_decay': 1.0, 'rotation': 0.0}
AVERAGE = '/ExponentialMovingAverage'  # suffix of tf.train.ExponentialMovingAverage to a variable's name


@dataclasses.dataclass(frozen=True)
class Run:
  """A trained checkpoint and its run.

  Attributes:
    folder: the run's folder, or its package: the run's name in messages.
    checkpoint: prefix of the checkpoint's files; or the package.
    step: training step of the checkpoint.
    choice: why it is this one, in words, where a folder was named; else ''.
    config: contents of config.json: `flags`, `dataset` (name, classes, palette), `network` (name, skip, options),
      `hold_out` (see datasets/hold_out.py; null if nothing was held out), `versions`, `commit` (or version), `command`,
      `working_folder` (which paths in `flags` are relative to), `started` (a date) and `device` (a line).
  """
  folder: str
  checkpoint: str
  step: int
  config: dict
  choice: str = ''

  @property
  def results(self):
    """The folder that results are written to unless another is given: the run's, or one beside its package."""
    return f'{os.path.splitext(self.folder)[0]}-results' if is_package(self.folder) else self.folder

  def document(self, name):
    """The value of a JSON file in the run's folder or package; None if there is none. Raises UserError if it is broken.
    """
    if is_package(self.folder):
      return Package(self.folder).document(name)
    path = os.path.join(self.folder, name)
    return read_json(path) if os.path.exists(path) else None

  @property
  def named(self):
    """The checkpoint with its step, and why it is this one, for messages."""
    return f'{shown(self.checkpoint)} (step {self.step}{", " if self.choice else ""}{self.choice})'

  @property
  def classes(self):
    """Tuple of class names, index = label id."""
    return tuple(self.config['dataset']['classes'])

  @property
  def palette(self):
    """uint8 [num_classes, 3], RGB."""
    return np.array(self.config['dataset']['palette'], np.uint8)

  @property
  def train_split(self):
    """Name of the split that it was trained on."""
    return self.config['flags'].get('train_split') or 'train'  # a run of an earlier version does not say


def load_run(ckpt, flag='ckpt'):
  """Finds the checkpoint that `--ckpt` names.

  Args:
    ckpt: a run's folder (its best checkpoint on the split that training evaluates, else its latest), or a checkpoint
      in the folder, as `runs/voc-8s/model.ckpt-1000` (also any of its files, or the folder `runs/voc-8s/best`); or a
      package.
    flag: the flag's name in messages.

  Returns:
    a Run. Where the checkpoint of a folder is broken, it is that of the newest whole one; stderr then names both.

  Raises:
    UserError: if there is no checkpoint, it is broken, or there is no config.json of a run beside it.
  """
  given = f'--{flag}={ckpt}'
  prefix, choice = _named_checkpoint(ckpt, given)
  if is_package(prefix):
    config = Package(prefix).document(CONFIG)
    _check_types(config, f'{given}: its {CONFIG}')
    return Run(folder=prefix, checkpoint=prefix, step=read_step(prefix), config=config)
  folder = os.path.dirname(prefix) or '.'
  if os.path.basename(os.path.abspath(folder)) == BEST and not os.path.exists(os.path.join(folder, CONFIG)):
    folder = os.path.dirname(folder) or ('..' if folder == '.' else '.')
  if not os.path.exists(os.path.join(folder, CONFIG)):
    raise UserError(f'{given}: no {CONFIG} in {folder}; it is not the folder of a run of train.py')
  config = read_json(os.path.join(folder, CONFIG))
  _check_types(config, f'{given}: {os.path.join(folder, CONFIG)}')
  if flag == 'ckpt':  # the run that the program is about, not one that another starts from
    works_in(folder)
  return Run(folder=folder, checkpoint=prefix, step=read_step(prefix), config=config, choice=choice)


def _check_types(config, where):
  """Raises UserError if a config.json is not one of train.py, by its entries and their types."""
  try:
    entries = [config[part] for part in _ENTRIES]
    classes, palette = config['dataset']['classes'], np.array(config['dataset']['palette'])
    valid = (all(isinstance(entry, dict) for entry in entries) and all(isinstance(name, str) for name in classes)
             and isinstance(classes, list) and palette.dtype.kind == 'i' and palette.shape == (len(classes), 3)
             and palette.min() >= 0 and palette.max() <= 255
             and all(isinstance(config[part].get(name), (kind, types.NoneType))
                     for part, kinds in _ENTRIES.items() for name, kind in kinds.items())
             and isinstance(config.get('working_folder', ''), str))
  except (TypeError, KeyError, ValueError, AttributeError, OverflowError):
    valid = False
  if not valid:
    raise UserError(f'{where} was not written by train.py')


def _named_checkpoint(ckpt, given):
  """Finds the checkpoint that a user names; `given` is the flag with its value, for messages.

  Returns:
    `(prefix, choice)`, see Run.
  """
  folder = folder_named(ckpt)
  if folder:
    prefix, choice = _chosen(folder)
    if prefix is None:
      raise UserError(f'{given}: no checkpoint in this folder; give a folder that train.py wrote')
    return prefix, choice
  prefix = without_suffix(ckpt)
  others = [os.path.basename(other) for other in steps_of(os.path.dirname(prefix) or '.').values() if other != prefix]
  there = f'; beside it are {listed(others)}' if others else ''
  if not glob.glob(f'{glob.escape(prefix)}*'):
    raise UserError(f'{given}: no such run folder or checkpoint{there}')
  reason = problem(prefix)
  if reason:
    raise UserError(f'{given}: {reason}{there}')
  return prefix, ''


def _chosen(folder):
  """The checkpoint that a folder stands for: `(prefix, choice)`, see Run; (None, '') if it holds none."""
  if not os.path.exists(os.path.join(folder, CONFIG)):  # no run: its subfolder BEST, or any folder of checkpoints
    best = read_best(folder)
    return (best_checkpoint(folder), described(best)) if best else (newest_checkpoint(folder), '')
  choice = 'the latest'
  try:
    best, config = read_best(os.path.join(folder, BEST)), read_json(os.path.join(folder, CONFIG))
    flags = config.get('flags') if isinstance(config, dict) else None
    flags = flags if isinstance(flags, dict) else {}  # what is no config.json of a run is refused later
    split = flags.get('eval_split') or (best or {}).get('split')
    if best and not flags.get('eval_steps', True):
      choice += f'; {described(best)}, of step {best["step"]}, after which training went on without evaluations'
    elif best and not scored_on({'split': split, **best}, split):
      choice += f'; {described(best)}, of step {best["step"]}, and training now evaluates {shown(str(split))}'
    elif best:
      return best_checkpoint(os.path.join(folder, BEST)), described(best)
  except UserError as error:
    print(f'warning: {error}; the latest checkpoint is taken instead of the best', file=sys.stderr, flush=True)
  prefix = newest_checkpoint(folder)
  return prefix, choice if prefix else ''


@contextlib.contextmanager
def locked(folder):
  """Creates a run's folder and takes an exclusive lock; the OS releases it when the process exits, however it exits.

  Raises:
    UserError: if the folder cannot be created or written, or another process holds the lock.
  """
  make_folder(folder)
  path = os.path.join(folder, LOCK)
  try:
    try:
      lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except PermissionError:  # another user's
      lock = os.open(path, os.O_RDONLY)
  except OSError as error:
    raise UserError(f'cannot open {path}: {error.strerror}') from error
  try:
    take_lock(lock, f'another run is training in {folder}; give this run another --run_dir')
    works_in(folder)
    yield
  finally:
    os.close(lock)


def refuse_foreign(folder):
  """Raises UserError if a folder to train in holds files of other programs under the names of a run's."""
  if os.path.lexists(os.path.join(folder, CONFIG)):
    if not _is_config(os.path.join(folder, CONFIG)):
      raise UserError(f'{os.path.join(folder, CONFIG)} was not written by train.py; give this run another --run_dir')
    return
  names = os.listdir(folder) if os.path.isdir(folder) else ()
  taken = sorted(name for name in names if name in (LIST, BEST) or name.startswith('model.ckpt-'))
  if taken:
    raise UserError(f'{folder} holds {listed(taken)} but no {CONFIG}; give this run another --run_dir')


def _is_config(path):
  """Whether a file is the config.json of a run."""
  try:
    _check_types(read_json(path), path)
  except UserError:
    return False
  return True


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
      'versions': versions(),
      'commit': commit(),
      'command': command,
      'working_folder': os.getcwd(),
  }


def saved_config(folder):
  """Reads the config.json of a run to be resumed.

  Raises:
    UserError: if it is missing beside the checkpoints, or broken.
  """
  path = os.path.join(folder, CONFIG)
  if not os.path.exists(path):
    raise UserError(f'{folder} holds checkpoints but no {CONFIG}; give this run another --run_dir')
  return read_json(path)


def check_config(folder, saved, config, may_differ=(), defaults=None):
  """Checks that a resumed run has the settings of its first start.

  Args:
    folder: the run's folder.
    saved: contents of its config.json, from saved_config.
    config: contents of the new config.json, from make_config.
    may_differ: names of flags that may change when a run is resumed.
    defaults: dict from flag to what a run of an earlier version was trained with, which did not have the flag; None
      where it is not in the dict.

  Raises:
    UserError: if the classes or any other flags differ, or were set that this version does not have, naming them.
  """
  if saved['dataset']['classes'] != config['dataset']['classes']:
    raise UserError(f'{folder} holds a run on other classes: {", ".join(saved["dataset"]["classes"])} there, '
                    f'{", ".join(config["dataset"]["classes"])} here; give this run another --run_dir')
  there, here = (defaults or {}) | saved['flags'], config['flags']
  differing = [name for name in here if name not in may_differ and _plain(there.get(name)) != _plain(here[name])]
  if differing:
    text = ', '.join(f'--{name} ({_shown(there.get(name))} there, {_shown(here[name])} here)' for name in differing)
    raise UserError(f'{folder} holds a run with other settings: {text}; give this run another --run_dir')
  unknown = [name for name in there if name not in here and _plain(there[name]) != _FORMER_FLAGS.get(name)]
  if unknown:
    text = ', '.join(f'--{name} ({_shown(there[name])} there)' for name in unknown)
    at = f', commit {brief(saved["commit"])}' if saved.get('commit') else ''
    raise UserError(f'{folder} holds a run with settings that this version does not have: {text}; go on with the '
                    f'version that began it{at}, or start another run by {quoted(f"--init_from={folder}")}')


def save_config(folder, config):
  """Writes a run's config.json, the first time or again."""
  write_json(os.path.join(folder, CONFIG), config, own=_is_config)


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
