"""The project's folder and commit, writing files whole or not at all and never over those of others, locks, and names
that TensorFlow takes."""

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
from utils.marks import is_own, marked_json, marked_text, without_mark

_PART = 1 << 20  # bytes read at a time
_MOST_JSON = 1 << 28  # bytes of a JSON: those of records have some hundred for each image
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # folder of the project, or of its package


_claimed = set()  # paths, see `_place`, of files that `claim` has allowed this process to replace


def claim(paths, own=is_own, *, overwrite=None, inputs=()):
  """Allows this process to write files, each once, before the work for them begins; see `replacing`.

  Args:
    paths: list of the files' paths.
    own: `own(path)` says whether this program wrote the file that is there; by default, by its mark.
    overwrite: whether files of others may be replaced, as the flag of this name says; None for a program without it.
    inputs: paths of files that are never replaced, whatever path or link leads to them.

  Raises:
    UserError: naming the first file that stays.
  """
  paths, inputs = list(paths), {identity(path) for path in inputs} - {None}
  for path in paths:
    if identity(path) in inputs:
      raise UserError(f'{shown(path)} would overwrite an input; name another place')
    _refuse_foreign(path, own, overwrite)
  _claimed.update(map(_place, paths))


def _refuse_foreign(path, own, overwrite=None):
  """Raises UserError if what is at `path` is not to be replaced; arguments as of `claim`."""
  if os.path.isdir(path) and not os.path.islink(path):
    raise UserError(f'cannot write {shown(path)}: it is a folder')
  if os.path.exists(path) and not os.path.isfile(path):
    raise UserError(f'cannot write {shown(path)}: it is no plain file')
  if os.path.lexists(path) and not overwrite and not own(path):
    how = 'move it away' if overwrite is None else 'give --overwrite to replace it'
    raise UserError(f'{shown(path)} is there already, and this program did not write it or it was changed since; '
                    f'{how}, or name another place')


def _place(path):
  """A path by which a file is known, whatever the present folder is."""
  folder, name = os.path.split(path)
  return os.path.join(os.path.realpath(folder), name)


def identity(path):
  """What tells a file, by its path or descriptor, from all others, whatever links lead to it: a tuple; None without it.
  """
  try:
    status = os.stat(path)
  except OSError:
    return None
  return status.st_dev, status.st_ino


@contextlib.contextmanager
def replacing(path, own=is_own):
  """Yields a temporary path beside `path` and renames it to `path` when the block ends well; removes it otherwise.

  A file that is there stays unless `own(path)`, see `claim`, or it was claimed before. The temporary name is short, so
  that every name that the file system takes can be written.

  Raises:
    UserError: if a file of others is there, or the file cannot be written (no permission, disk full); an earlier file
      at `path` is untouched.
  """
  place = _place(path)
  if place not in _claimed:
    _refuse_foreign(path, own)
  temporary = os.path.join(os.path.dirname(path), f'.{secrets.token_hex(6)}.tmp')
  try:
    yield temporary
    if place not in _claimed:
      _refuse_foreign(path, own)  # again: what has come meanwhile
    os.replace(temporary, path)
  except OSError as error:
    raise UserError(f'cannot write {shown(path)}: {error.strerror or error}') from error
  finally:
    _claimed.discard(place)
    with contextlib.suppress(OSError):
      os.unlink(temporary)


def ends_all(error):
  """Whether a UserError of `replacing` says that no other file can be written either: a full or read-only disk."""
  return getattr(error.__cause__, 'errno', None) in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def write_bytes(path, data, own=is_own):
  """Writes a file, whole or not at all, also where the power fails, see `replacing`."""
  with replacing(path, own) as temporary:
    with open(temporary, 'wb') as file:
      file.write(data)
    sync(temporary)


def write_json(path, value, own=is_own):
  """Writes the dict `value` to `path` as indented JSON with the mark, see `write_bytes`."""
  write_bytes(path, marked_json(value), own)


def write_text(path, text):
  """Writes Markdown with the mark, see `write_bytes`."""
  write_bytes(path, marked_text(text))


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
  """Reads a JSON file, without its mark.

  Raises:
    UserError: naming the file, if it is missing, broken, too large or nested too deep.
  """
  try:
    with open(path, 'rb') as file:
      data = file.read(_MOST_JSON + 1)
  except OSError as error:
    raise UserError(f'cannot read {path}: {error.strerror}') from error
  if len(data) > _MOST_JSON:
    raise UserError(f'{path} has {os.path.getsize(path)} bytes; at most {_MOST_JSON} are read')
  try:
    return without_mark(json.loads(data.decode('utf-8')))
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


def take_lock(file, busy, wait=False):
  """Takes the exclusive lock of an open file or folder, released by the system when the process ends.

  A file system without locks (some of NFS, Lustre, FUSE) gets a line on stderr, and work goes on.

  Args:
    file: the open file, or its descriptor.
    busy: message of the error where another process holds the lock.
    wait: wait until the other process has released it, instead.

  Raises:
    UserError: where another process holds the lock.
  """
  try:
    fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
  except OSError as error:
    if error.errno in (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES):
      raise UserError(busy) from error
    print(f'warning: no lock to be had here ({error.strerror}), so this cannot be noticed: {busy}', file=sys.stderr,
          flush=True)


@contextlib.contextmanager
def locked_folder(path, busy, wait=False):
  """Makes a folder and keeps other writers out of it; removes it if the block fails and leaves it empty.

  The lock is the folder's own, and leaves no file in it. Arguments and errors as of `make_folder` and `take_lock`.
  """
  existed = os.path.isdir(path)
  make_folder(path)
  folder = os.open(path, os.O_RDONLY)
  try:
    take_lock(folder, busy, wait)
    yield
  except BaseException:
    if not existed:
      with contextlib.suppress(OSError):
        os.rmdir(path)
    raise
  finally:
    os.close(folder)  # releases the lock


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
