"""JSON files of annotation tools: telling them apart cheaply, and reading them with care.

They lie in the user's folder itself or in a folder right below it: `annotations`, or that of a split.
"""

import collections
import functools
import json
import mmap
import os
import re

from datasets.readers.annotations import files
from utils.errors import UserError, brief

MAX_FILE = 2**31  # bytes
_HEAD = 2**14  # bytes from which a file's first keys are read
_TOKEN = re.compile(r'"((?:[^"\\]|\\.)*)"\s*(:?)|[{}\[\]]')


def list_files(root, extension='.json'):
  """Lists the files of a dataset that may hold annotations.

  Args:
    root: the dataset's folder.
    extension: their ending.

  Returns:
    sorted list of paths in `root` and in the folders right below it.
  """
  folders = [root, *(entry.path for entry in _entries(root) if entry.is_dir() and not entry.name.startswith('.'))]
  return sorted(entry.path for folder in folders for entry in _entries(folder)
                if entry.name.lower().endswith(extension) and not entry.name.startswith('.') and entry.is_file())


def _entries(folder):
  try:
    with os.scandir(folder) as entries:
      return list(entries)
  except OSError:  # the reader of the folder says so
    return []


def first_keys(path):
  """Reads the first keys of a JSON file from its beginning.

  Returns:
    (opening, outer, inner): '{' or '[', '' for a file of another kind; the keys of the outermost object, and the keys
    one level below it, each a tuple as far as they stand in the first bytes.
  """
  try:
    state = os.stat(path)
  except OSError:
    return '', (), ()
  return _first_keys(path, state.st_mtime_ns, state.st_size)


@functools.lru_cache(maxsize=2**16)
def _first_keys(path, time, size):
  del time, size  # a changed file is read again
  try:
    with open(path, 'rb') as file:
      text = file.read(_HEAD).decode('utf-8-sig', 'replace').lstrip()
  except OSError:
    return '', (), ()
  keys, depth = {1: [], 2: []}, 0
  for token in _TOKEN.finditer(text):
    if token[1] is None:
      depth += 1 if token[0] in '{[' else -1
    elif token[2] and depth in keys:
      keys[depth].append(token[1])
  return text[:1] if text[:1] in ('{', '[') else '', tuple(keys[1]), tuple(keys[2])


def holds(path, *words):
  """Whether a file holds all the words, each as a JSON's string, anywhere in it."""
  try:
    with open(path, 'rb') as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
      return all(content.find(f'"{word}"'.encode()) >= 0 for word in words)
  except (OSError, ValueError):  # missing, or empty
    return False


def load(path, shrink=lambda entry: entry):
  """Reads a JSON file.

  Args:
    path: the file.
    shrink: `shrink(entry)` -> what is kept of each object, a dict, as soon as it is read.

  Returns:
    the content.

  Raises:
    UserError: naming the file, if it cannot be read, is no JSON or holds a key twice in one object.
  """
  def keep(pairs):
    entry = dict(pairs)
    if len(entry) != len(pairs):
      twice = next(key for key, count in collections.Counter(key for key, _ in pairs).items() if count > 1)
      raise UserError(f'{path}: the key {twice[:80]!r} comes twice in one object; each may come once')
    return shrink(entry)

  data = files.read_bounded(path, MAX_FILE)
  try:
    return json.loads(data.decode('utf-8-sig'), object_pairs_hook=keep)
  except RecursionError as error:
    raise UserError(f'{path} is not valid JSON of annotations: lists or objects are nested too deep') from error
  except ValueError as error:
    raise UserError(f'{path} is not valid JSON: {error}') from error


def field(entry, key, kinds, where):
  """Returns `entry[key]`. Raises UserError, naming `where`, if it is missing or of none of the types `kinds`."""
  kinds = kinds if isinstance(kinds, tuple) else (kinds,)
  value = entry.get(key) if isinstance(entry, dict) else None
  if not isinstance(value, kinds) or isinstance(value, bool):
    names = ' or '.join({dict: 'an object', list: 'a list', str: 'a text', int: 'a whole number'}[kind]
                        for kind in kinds)
    raise UserError(f'{where}: {key!r} is to be {names}; found {brief(value)}')
  return value


def plain(text, where):
  """A name in one line, without white space around it. Raises UserError, naming `where`, if nothing is left."""
  name = ' '.join(text.split())
  if not name:
    raise UserError(f'{where}: a name is empty')
  return name


def setting(root, key):
  """Returns the text that `dataset.json` beside the annotations has for a key; None where it has none."""
  path = os.path.join(root, 'dataset.json')
  if not os.path.exists(path) or not holds(path, key):
    return None
  content = load(path)
  return field(content, key, str, path) if key in content else None
