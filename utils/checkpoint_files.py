"""The files of checkpoints: reading them, whether they are whole, and the newest whole checkpoint of a folder; savers.

A checkpoint STEP of training consists of `model.ckpt-STEP.index` and `model.ckpt-STEP.data-00000-of-00001`; older ones
(V1) of one file. The file `checkpoint` beside them names the last one that was saved. All of these may be cut off,
missing or of another machine: what counts is what can be read. A package (utils/packages.py) is read as a checkpoint.
"""

import glob
import os
import re
import sys

from utils.checkpoint_index import check_index, check_old
from utils.compat import BulkSaverBuilder, tf
from utils.errors import UserError, listed, shown
from utils.files import tensorflow_path
from utils.packages import Package, is_package

LIST = 'checkpoint'  # file that names a folder's checkpoints
_SUFFIX = re.compile(r'\.(index|meta|data-\d{5}-of-\d{5})$')  # of a checkpoint's files
_FILE = re.compile(rf'model\.ckpt-(\d+)({_SUFFIX.pattern})?')
_NAMED = re.compile(rb'''^\s*model_checkpoint_path:\s*(["'])((?:[^\\\n]|\\.)+?)\1\s*$''', re.M)
_UNREADABLE = (tf.errors.OpError, RuntimeError, ValueError, IndexError)  # IndexError: data beyond the file's end


class SavingAlone(BulkSaverBuilder):
  """The `builder` of a tf.train.Saver that never restores: two ops less for each of a thousand variables."""

  def _AddRestoreOps(self, *args, **kwargs):
    return tf.no_op(name='restore_nothing')


class RestoringAlone(BulkSaverBuilder):
  """The `builder` of a tf.train.Saver that never saves."""

  def _AddSaveOps(self, filename_tensor, saveables):
    return filename_tensor


def open_checkpoint(prefix):
  """Opens a checkpoint for reading, V1 or V2, or a package.

  Returns:
    a tf.train.CheckpointReader, or a Package.

  Raises:
    UserError: if it is missing, truncated, or no checkpoint.
  """
  if is_package(prefix):
    return Package(prefix)
  missing = _missing(prefix)
  if missing:
    raise UserError(missing)
  if os.path.exists(f'{prefix}.index'):
    check_index(f'{prefix}.index', _data_files(prefix))
  else:
    check_old(prefix)
  try:
    return tf.train.load_checkpoint(tensorflow_path(prefix))
  except _UNREADABLE as error:
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
  except _UNREADABLE as error:
    raise UserError(f'checkpoint {prefix} is truncated or damaged: {str(error).splitlines()[0]}') from error


def read_step(prefix):
  """The training step of a checkpoint, an int. Raises UserError if it holds none, or is damaged."""
  if not open_checkpoint(prefix).has_tensor('global_step'):
    raise UserError(f'{prefix} holds no global_step, so train.py did not write it')
  return int(read_tensors(prefix, ['global_step'])['global_step'])


def problem(prefix):
  """What is wrong with a checkpoint, a phrase that names the file; None if every tensor in it can be read.

  TensorFlow compares each tensor with the checksum that the index holds for it.
  """
  if is_package(prefix):
    try:
      return Package(prefix).check()
    except UserError as error:
      return str(error)
  missing = _missing(prefix)
  if missing:
    return missing
  index = f'{prefix}.index' if os.path.exists(f'{prefix}.index') else prefix
  try:
    reader = open_checkpoint(prefix)
  except UserError as error:
    return f'{getattr(error, "path", index)} is cut off or damaged' + (', or no checkpoint' if index == prefix else '')
  data = _data_files(prefix) or [prefix]
  try:
    for name in reader.get_variable_to_shape_map():
      reader.get_tensor(name)
  except _UNREADABLE:
    return f'{listed(data)} {"is" if len(data) == 1 else "are"} cut off or damaged'
  return None


def _missing(prefix):
  """A phrase that names the file which a checkpoint lacks; None if none is missing."""
  data = _data_files(prefix)
  if os.path.exists(f'{prefix}.index'):
    count = int(data[0][-5:]) if data else 1
    wanted = [f'{prefix}.data-{number:05d}-of-{count:05d}' for number in range(count)]
    return next((f'{path} is missing' for path in wanted if path not in data), None)
  if data:
    return f'{prefix}.index is missing'
  return None if os.path.isfile(prefix) else f'no checkpoint at {prefix}'


def _data_files(prefix):
  return sorted(glob.glob(f'{glob.escape(prefix)}.data-?????-of-?????'))


def steps_of(folder):
  """The checkpoints in a run's folder, whole or not: dict from step to prefix, the newest first."""
  found = {}
  for name in os.listdir(folder) if os.path.isdir(folder) else ():
    match = _FILE.fullmatch(name)
    if match and not name.endswith('.meta'):
      found[int(match[1])] = os.path.join(folder, f'model.ckpt-{match[1]}')
  return dict(sorted(found.items(), reverse=True))


def newest_checkpoint(folder):
  """Finds the newest whole checkpoint of a folder: that of the greatest step, unless its list names an older one.

  A list that was written before the checkpoint of the greatest step does not count: the process, or the machine, ended
  before this was listed. What is broken is named on stderr, beside the checkpoint that is used.

  Args:
    folder: a run's folder, or its subfolder of the best checkpoint.

  Returns:
    the checkpoint's prefix; None if the folder holds no checkpoint.

  Raises:
    UserError: if it holds none that is whole, naming what is broken.
  """
  prefixes = list(steps_of(folder).values())
  named, complaints = _named(folder)
  if named and prefixes and _step(prefixes[0]) > _step(named) and _is_later(prefixes[0], folder):
    complaints, named = [f'{os.path.join(folder, LIST)} is older than {os.path.basename(prefixes[0])}'], None
  if named:
    prefixes = [named] + [prefix for prefix in prefixes if prefix != named]
  elif not prefixes:
    return None
  for prefix in prefixes:
    reason = problem(prefix)
    if reason is None:
      newer = [other for other in prefixes[1:] if prefix == named and _step(other) > _step(named)]
      if newer:
        complaints.append(f'{os.path.join(folder, LIST)} names {os.path.basename(named)}, '
                          f'though there is {os.path.basename(newer[0])}')
      if complaints:
        print(f'warning: {"; ".join(complaints)}; the checkpoint used is {shown(prefix)}', file=sys.stderr, flush=True)
      return prefix
    if prefix == named and not glob.glob(f'{glob.escape(prefix)}*'):
      reason = f'{os.path.join(folder, LIST)} names {os.path.basename(named)}, which is not there'
    complaints.append(reason)
  raise UserError(f'{folder} holds no whole checkpoint: {listed(complaints, separator="; ")}')


def _named(folder):
  """Reads the list of a folder's checkpoints.

  Returns:
    `(prefix, complaints)`: the prefix of the checkpoint in `folder` that the list names, wherever it says that this is;
    None without a usable list. And a list of a phrase about a list that cannot be used, or empty.
  """
  path = os.path.join(folder, LIST)
  try:
    with open(path, 'rb') as file:
      content = file.read(1 << 20)
  except FileNotFoundError:
    return None, []
  except OSError as error:
    return None, [f'{path} cannot be read ({error.strerror})']
  match = _NAMED.search(content)
  name = os.path.basename(os.fsdecode(_unescaped(match[2]))) if match else ''
  if name and '\0' not in name:  # which no file has
    prefix = os.path.join(folder, name)
    other = os.path.join(folder, prefix.rpartition('\\')[2])  # the list may be of a machine with Windows
    return other if _missing(prefix) and not _missing(other) else prefix, []
  return None, [f'{path} is empty' if not content.strip() else f'{path} names no checkpoint']


def _is_later(prefix, folder):
  """Whether a checkpoint was written after the list of its folder."""
  paths = files_of(prefix)
  return bool(paths) and os.path.getmtime(paths[-1]) > os.path.getmtime(os.path.join(folder, LIST))


def _unescaped(text):
  """The bytes that a string in a text of protocol buffers stands for: TensorFlow escapes all that is not ASCII."""
  marks = {b'n': b'\n', b't': b'\t', b'r': b'\r'}
  return re.sub(rb'\\([0-7]{1,3}|.)', lambda match: bytes([int(match[1], 8) & 255]) if match[1].isdigit()
                else marks.get(match[1], match[1]), text)


def _step(prefix):
  """The step in a checkpoint's name; -1 without one."""
  return int(prefix.rpartition('-')[2]) if re.search(r'-\d+$', prefix) else -1


def files_of(prefix):
  """Paths of a checkpoint's files, data before index; of an old one (V1) its one file."""
  others = [f'{prefix}.meta', f'{prefix}.index', prefix]
  return _data_files(prefix) + [path for path in others if os.path.isfile(path)]


def kept(prefix):
  """The checkpoints of a run up to one of them that are whole by their sizes: those which training may delete in time.

  All checkpoints of a run are of one size.

  Args:
    prefix: prefix of a whole checkpoint.

  Returns:
    list of prefixes in the order of steps, `prefix` last.
  """

  def sizes(one):
    return [(path.removeprefix(one), os.path.getsize(path)) for path in files_of(one) if not path.endswith('.meta')]

  found = sorted(steps_of(os.path.dirname(prefix) or '.').items())
  older = [one for step, one in found if step < _step(prefix) and not _missing(one) and sizes(one) == sizes(prefix)]
  return [*older, prefix]


def folder_named(path):
  """The folder that a user names, by its own path or that of the list of checkpoints in it; None if there is none."""
  path = path.rstrip('/') or path
  if os.path.basename(path) == LIST and os.path.isfile(path):
    return os.path.dirname(path) or '.'
  return path if os.path.isdir(path) else None


def without_suffix(path):
  """The prefix of a checkpoint that a user names by its prefix or by one of its files."""
  return _SUFFIX.sub('', path.rstrip('/'))
