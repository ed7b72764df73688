"""The project's folder and commit, writing files whole or not at all, locks, and names that TensorFlow takes."""

import contextlib
import errno
import fcntl
import functools
import hashlib
import json
import os
import re
import secrets
import subprocess
import sys
import tempfile

from utils.errors import UserError, shown
from utils.installation import PACKAGE, version

_PART = 1 << 20  # bytes read at a time
_MOST_JSON = 1 << 28  # bytes of a JSON: those of records have some hundred for each image
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # folder of the project, or of its package


@contextlib.contextmanager
def replacing(path):
  """Yields a temporary path beside `path` and renames it to `path` when the block ends well; removes it otherwise.

  The temporary name is short, so that every name that the file system takes can be written.

  Raises:
    UserError: if the file cannot be written (no permission, disk full); an earlier file at `path` is untouched.
  """
  temporary = os.path.join(os.path.dirname(path), f'.{secrets.token_hex(6)}.tmp')
  try:
    yield temporary
    os.replace(temporary, path)
  except OSError as error:
    raise UserError(f'cannot write {shown(path)}: {error.strerror or error}') from error
  finally:
    with contextlib.suppress(OSError):
      os.unlink(temporary)


def write_json(path, value):
  """Writes `value` to `path` as indented JSON, whole or not at all, also where the power fails."""
  with replacing(path) as temporary:
    with open(temporary, 'w', encoding='utf-8') as file:
      json.dump(value, file, indent=2)
      file.write('\n')
    sync(temporary)


def sync(path):
  """Returns when the content of a file, or the names in a folder, are on the disk, so that a power cut leaves them.

  File systems that cannot do this for folders (some of FUSE and NFS) do without.
  """
  descriptor = os.open(path, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  except OSError as error:
    if error.errno != errno.EINVAL:
      raise
  finally:
    os.close(descriptor)


def text_of(*path):
  """The text of a small file, its path in parts, without white space around it; '' if it cannot be read."""
  try:
    with open(os.path.join(*path), encoding='utf-8', errors='replace') as file:
      return file.read().strip()
  except OSError:
    return ''


@functools.cache  # it asks git, in a process of its own
def commit():
  """Commit of the code, followed by '+' where files differ from it; None outside a git checkout.

  A package that pip has installed has a version instead, 'version 1.0.0': a commit there would be that of other code.
  """
  if PACKAGE:
    return f'version {version()}'
  try:
    return subprocess.run(['git', 'describe', '--always', '--abbrev=40', '--dirty=+'], cwd=ROOT, check=True,
                          capture_output=True, text=True).stdout.strip()
  except (OSError, subprocess.CalledProcessError):
    return None


def read_json(path):
  """Reads a JSON file. Raises UserError, naming the file, if it is missing, broken, too large or nested too deep."""
  try:
    with open(path, 'rb') as file:
      data = file.read(_MOST_JSON + 1)
  except OSError as error:
    raise UserError(f'cannot read {path}: {error.strerror}') from error
  if len(data) > _MOST_JSON:
    raise UserError(f'{path} has {os.path.getsize(path)} bytes; at most {_MOST_JSON} are read')
  try:
    return json.loads(data.decode('utf-8'))
  except RecursionError as error:
    raise UserError(f'{path} is not valid JSON: lists or objects are nested too deep') from error
  except ValueError as error:
    raise UserError(f'{path} is not valid JSON: {error}') from error


def file_digest(path, algorithm):
  """The digest of a file by an algorithm of hashlib, as 'sha256': bytes. The file is read in parts."""
  found = hashlib.new(algorithm)
  with open(path, 'rb') as file:
    while part := file.read(_PART):
      found.update(part)
  return found.digest()


def make_folder(path):
  """Creates a folder and its parents. Raises UserError if the folder cannot be created or written."""
  try:
    os.makedirs(path, exist_ok=True)
  except OSError as error:
    raise UserError(f'cannot create folder {shown(path)}: {error.strerror}') from error
  if not os.access(path, os.W_OK):
    raise UserError(f'folder {shown(path)} is not writable')


def take_lock(file, busy):
  """Takes the exclusive lock of an open file or folder, released by the system when the process ends.

  A file system without locks (some of NFS, Lustre, FUSE) gets a line on stderr, and work goes on.

  Args:
    file: the open file, or its descriptor.
    busy: message of the error where another process holds the lock.

  Raises:
    UserError: where another process holds the lock.
  """
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except OSError as error:
    if error.errno in (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES):
      raise UserError(busy) from error
    print(f'warning: no lock to be had here ({error.strerror}), so this cannot be noticed: {busy}', file=sys.stderr,
          flush=True)


_LITERAL = re.compile(r'(?!\w+://)[^*?\[\]\\\ud800-\udfff]*')  # no scheme, no pattern, no byte that is not UTF-8


def tensorflow_path(path):
  """The name under which TensorFlow reads and writes a file, or a checkpoint's prefix, of any name.

  TensorFlow takes *, ?, [, ] and \\ in checkpoints' names for patterns, `word://` for another file system, and refuses
  names that are not UTF-8. Such a folder gets a link of a plain name, which lasts as long as the process; the files of
  a prefix of such a name, as they are now, get one each.

  Raises:
    UserError: if there is no place for links.
  """
  if _LITERAL.fullmatch(path):
    return path
  path = os.path.abspath(path)
  folder, name = os.path.split(path)
  try:
    if os.path.isdir(path):
      return _link(path)
    return os.path.join(_link(folder), name) if _LITERAL.fullmatch(name) else _linked_files(folder, name)
  except OSError as error:
    raise UserError(f'{path}: TensorFlow cannot take this name, and no link to it can be made ({error.strerror}); '
                    'rename it') from error


@functools.cache
def _links():
  """A temporary folder for links, which is removed at the end of the process."""
  place = next((place for place in (tempfile.gettempdir(), '/tmp', '/var/tmp') if _LITERAL.fullmatch(place)), None)
  return tempfile.TemporaryDirectory(prefix='fcn-', dir=place)


@functools.cache
def _link(folder):
  """Path of a link to a folder."""
  link = os.path.join(tempfile.mkdtemp(dir=_links().name), 'folder')
  os.symlink(folder, link)
  return link


def _linked_files(folder, name):
  """Path of links to the files in a folder that begin with `name`, which the path takes the place of."""
  links = tempfile.mkdtemp(dir=_links().name)
  for entry in os.listdir(folder):
    if entry.startswith(name):
      os.symlink(os.path.join(folder, entry), os.path.join(links, 'file' + entry.removeprefix(name)))
  return os.path.join(links, 'file')
