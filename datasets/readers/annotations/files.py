"""Files of an export: those at any depth below its folder, and their content, read within bounds."""

import os

from datasets.dataset import BadFile


def walk(root, extensions):
  """Lists the files at any depth below a folder, without hidden ones.

  Args:
    root: path of the folder.
    extensions: tuple of lower-case endings.

  Returns:
    list of paths relative to `root`, sorted.
  """
  found, seen = [], set()
  for folder, folders, files in os.walk(root, followlinks=True):
    real = os.path.realpath(folder)
    folders[:] = [] if real in seen else [name for name in folders if not name.startswith('.')]  # links may go round
    if real not in seen:
      found += [os.path.relpath(os.path.join(folder, file), root) for file in files
                if file.lower().endswith(extensions) and not file.startswith('.')]
    seen.add(real)
  return sorted(found)


def read_bounded(path, most):
  """Reads a file of at most `most` bytes.

  Returns:
    bytes.

  Raises:
    BadFile: if it is larger or cannot be read.
  """
  try:
    with open(path, 'rb') as file:
      data = file.read(most + 1)
  except OSError as error:
    raise BadFile(path, f'cannot be read: {error.strerror}') from error
  if len(data) > most:
    raise BadFile(path, f'has {os.path.getsize(path)} bytes; at most {most} are understood')
  return data


def stem(path):
  """Returns a path without its extension."""
  return os.path.splitext(path)[0]
