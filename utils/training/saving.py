"""Saving checkpoints so that at no moment a crash, of the process or of the machine, costs more than the last of them.

A checkpoint is written to the subfolder SAVING, brought to the disk, renamed into its place (data before index), and
listed in the file `checkpoint`: each step is on the disk before the next begins. Only then older checkpoints go, data
before index: what a crash leaves of one that goes are a few kilobytes.
"""

import os
import shutil

from utils.checkpoint_files import LIST, files_of, kept, problem
from utils.files import sync, tensorflow_path, write_bytes

SAVING = '.saving'  # subfolder of a checkpoint that is being written; what a crash leaves there goes with the next one
_NAME = 'model.ckpt'


def write_checkpoint(folder, saver, session, name):
  """Writes a checkpoint whole or not at all, and brings it to the disk; nothing else in the folder is changed.

  Args:
    folder: the folder.
    saver: tf.train.Saver of the variables to save.
    session: tf.Session.
    name: the checkpoint's name, as model.ckpt-9; files of this name are replaced, one by one.

  Raises:
    OSError, tf.errors.OpError, UserError: if it cannot be written.
  """
  saving = os.path.join(folder, SAVING)
  shutil.rmtree(saving, ignore_errors=True)
  try:
    os.mkdir(saving)
    saver.save(session, os.path.join(tensorflow_path(saving), name), write_meta_graph=False, write_state=False)
    names = sorted(os.listdir(saving))  # 'data' before 'index', without which there is no checkpoint
    for part in names:
      sync(os.path.join(saving, part))
    for part in names:
      os.replace(os.path.join(saving, part), os.path.join(folder, part))
  finally:
    shutil.rmtree(saving, ignore_errors=True)
  sync(folder)


class CheckpointFolder:
  """The checkpoints that a run writes to a folder; the newest few are kept.

  What is broken is never deleted.
  """

  def __init__(self, folder, saver, *, keep):
    """Makes the object; writes nothing.

    Args:
      folder: the folder.
      saver: tf.train.Saver of the variables to save.
      keep: number of checkpoints that are kept.
    """
    self._folder, self._saver, self._keep = folder, saver, keep
    self._kept, self._found = [], set()  # prefixes, the newest last; those that an earlier process has written

  def go_on_from(self, prefix):
    """Counts the checkpoints of an earlier process, up to a whole one, among those that are kept; deletes what is more.

    A process that is killed after a save has not deleted the oldest.
    """
    self._kept = [os.path.join(self._folder, os.path.basename(one)) for one in kept(prefix)]
    self._found = set(self._kept)
    self._drop()

  def save(self, session, step):
    """Writes the checkpoint of a step.

    Args:
      session: tf.Session.
      step: number in the checkpoint's name.

    Raises:
      OSError, tf.errors.OpError, UserError: if it cannot be written; the checkpoints before it are untouched.
    """
    prefix = os.path.join(self._folder, f'{_NAME}-{step}')
    write_checkpoint(self._folder, self._saver, session, os.path.basename(prefix))
    self._kept = [*(other for other in self._kept if other != prefix), prefix]
    self._found.discard(prefix)
    self._list()
    self._drop()

  def _list(self):
    """Writes the list of the checkpoints, the newest first, as TensorFlow does; names only, since a run may move."""
    names = [os.path.basename(prefix) for prefix in self._kept[-self._keep:]]
    lines = [f'model_checkpoint_path: "{names[-1]}"\n', *(f'all_model_checkpoint_paths: "{name}"\n' for name in names)]
    # A list of whoever: the folder is a run's.
    write_bytes(os.path.join(self._folder, LIST), ''.join(lines).encode(), own=os.path.isfile)
    sync(self._folder)

  def _drop(self):
    """Deletes the oldest checkpoints beyond those that are kept."""
    dropped, self._kept = self._kept[:-self._keep], self._kept[-self._keep:]
    for prefix in dropped:
      if prefix not in self._found or problem(prefix) is None:
        for path in files_of(prefix):
          os.unlink(path)
