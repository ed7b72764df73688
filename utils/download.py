"""Downloading files and unpacking archives, without trusting the network or the archive."""

import contextlib
import http.client
import os
import pathlib
import shutil
import stat
import struct
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
import zipfile
import zlib

from utils.errors import UserError
from utils.files import file_digest, identity, make_folder, take_lock
from utils.progress import Progress

_TIMEOUT = 10  # seconds to connect, and for the next bytes to arrive
_TRIES = 3  # retries of a transfer that broke off without new bytes
_PAUSE = 1  # seconds before the first such retry, doubled each time
_CHUNK = 1 << 18  # bytes
_MEGABYTE = 10**6
# The most that an archive may hold, by its own size: photographs do not shrink when they are packed, JSON to a tenth.
_MOST_GROWTH = 50
_SMALL = 2**30  # bytes that every archive may hold
_MOST_HEADER = 2**20  # bytes of a long name, or of another header of a tar archive
_LONG_HEADERS = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE,
                 tarfile.SOLARIS_XHDTYPE)


class _BrokenOff(Exception):
  """A transfer that ended before the end of the file."""


def fetch(url, path, size=None, digest=None, progress=True):
  """Downloads `url` to `path`, unless the file is there already; either way the file is checked.

  Received bytes are kept in `path`.part; a transfer that broke off, in this run or an earlier run, is resumed from
  there if the server supports it (HTTP ranges).

  Args:
    url: http(s) address.
    path: path of the file; it appears only when it is complete and as expected.
    size: size in bytes, None if unknown.
    digest: 'sha256:HEX', 'sha1:HEX' or 'md5:HEX', None if unknown.
    progress: whether to show the progress.

  Returns:
    `path`.

  Raises:
    UserError: if the address cannot be reached or the transfer keeps breaking off, naming the file to fetch by hand and
      its place; or if size or digest differ: a download is removed then, a file from before is kept.
  """
  if os.path.exists(path):
    problem = _difference(path, size, digest)
    if problem:
      raise UserError(f'{path} is not the file of {url}: {problem}; delete it to have it downloaded again')
    return path
  make_folder(os.path.dirname(path) or '.')
  part = f'{path}.part'
  by_hand = f'fetch it by hand and put it at {path}'
  try:
    return _download(url, part, path, size, digest, progress)
  except _BrokenOff as error:
    raise UserError(f'cannot download {url} ({error}); run again to go on from there, or {by_hand}') from error
  except urllib.error.URLError as error:
    if os.path.getsize(part) == 0:
      os.unlink(part)
    raise UserError(f'cannot download {url} ({_reason(error)}); {by_hand}') from error
  except OSError as error:
    raise UserError(f'cannot write {part}: {error.strerror or error}') from error


def _download(url, part, path, size, digest, progress):
  """Completes the file `part`, checks it and gives it its name `path`; removes it if it is not as expected.

  It gets its name before its lock is released: nobody writes to a file that has it. Result: `path`.
  """
  with open(part, 'ab') as file:
    take_lock(file, f'{part} is being downloaded by another process; wait for it, then run again')
    if identity(part) != identity(file.fileno()):  # another process has finished it since it was opened here
      return fetch(url, path, size, digest, progress)
    _transfer_all(url, file, size, progress)
    file.flush()
    problem = _difference(part, size, digest)
    if problem:
      os.unlink(part)
      raise UserError(f'{url} gave another file than expected: {problem}; the download was removed')
    os.replace(part, path)
    return path


def extract(archive, target, member=''):
  """Unpacks a tar (plain or gzipped) or zip archive; `target` appears whole or not at all.

  Only plain files are unpacked, with default permissions. An archive that could write outside of `target` (absolute
  names, '..', links, devices), or that holds far more than its own size, is refused as a whole.

  Args:
    archive: path of the archive.
    target: path that must not exist yet.
    member: folder or file within the archive that becomes `target`; '' for the whole archive as a folder.

  Raises:
    UserError: if the archive is missing, damaged, truncated or unsafe, or holds no `member`.
  """
  if os.path.exists(target):
    raise UserError(f'cannot unpack {archive} to {target}: that is already there')
  parent = os.path.dirname(os.path.abspath(target))
  make_folder(parent)
  temporary = tempfile.mkdtemp(prefix=f'{os.path.basename(target)}.', suffix='.tmp', dir=parent)
  root = os.path.join(temporary, 'root')  # with default permissions, where mkdtemp's folder is private
  try:
    os.mkdir(root)
    _unpack(archive, root, member)
    unpacked = os.path.join(root, member) if member else root
    if not os.path.exists(unpacked):
      raise UserError(f'{archive} holds no {member}')
    os.rename(unpacked, target)
  except (OSError, EOFError, RuntimeError, ValueError, struct.error, zlib.error, tarfile.TarError,
          zipfile.BadZipFile) as error:
    raise UserError(f'cannot unpack {archive}: {error or type(error).__name__}; if it is damaged, delete it to have it '
                    'downloaded again') from error
  finally:
    shutil.rmtree(temporary, ignore_errors=True)


def _difference(path, size, digest):
  """Difference of a file from its expected size and digest: a phrase that names both values, or None."""
  actual = os.path.getsize(path)
  if size is not None and actual != size:
    return f'{actual} bytes instead of {size}'
  if digest is not None:
    algorithm, _, expected = digest.partition(':')
    found = file_digest(path, algorithm).hex()
    if found != expected.lower():
      return f'{algorithm} {found} instead of {expected.lower()}'
  return None


def _reason(error):
  """A URLError in a few words: 'HTTP 404 Not Found', 'Connection refused', 'timed out'."""
  if isinstance(error, urllib.error.HTTPError):
    return f'HTTP {error.code} {error.reason}'
  return getattr(error.reason, 'strerror', None) or str(error.reason)


def _transfer_all(url, file, size, progress):
  """Transfers until `file` is complete; retries after a break, a few times where no new bytes arrive.

  Raises:
    _BrokenOff: if no new bytes arrive.
    urllib.error.URLError: if the address cannot be reached or answers with an error.
  """
  furthest, tries = 0, 0
  while True:
    try:
      return _transfer(url, file, size, progress)
    except _BrokenOff:
      reached = file.seek(0, os.SEEK_END)
      tries = 0 if reached > furthest else tries + 1
      furthest = max(furthest, reached)
      if tries > _TRIES:
        raise
      time.sleep(_PAUSE * 2**tries)


def _transfer(url, file, size, progress):
  """Appends the missing bytes of `url` to `file`, with one request. Raises _BrokenOff if some do not arrive."""
  start = file.seek(0, os.SEEK_END)
  if size is not None and start > size:
    start = file.truncate(0)  # remains of another file
  if start and start == size:
    return
  try:
    response = _request(url, start)
  except urllib.error.HTTPError as error:
    if not start or error.code != 416:
      raise
    # No bytes lie beyond those in `file`: it is complete, or the remains of another file.
    if error.headers.get('Content-Range', '').rpartition('/')[2] == str(start):
      return
    start = file.truncate(0)
    response = _request(url, start)
  with response:
    if response.status != 206:
      start = file.truncate(0)  # the server ignores ranges and starts from the beginning
    elif not response.headers.get('Content-Range', '').startswith(f'bytes {start}-'):
      file.truncate(0)
      raise _BrokenOff(f'asked for bytes {start}-, the server gave {response.headers.get("Content-Range")}')
    length = response.headers.get('Content-Length')
    total = None if length is None else start + int(length)
    if None not in (size, total) and size != total:
      raise UserError(f'{url} offers {total} bytes instead of {size}: it is not the file that is expected')
    _receive(response, file, None if length is None else int(length), progress)


def _request(url, start):
  """Opens `url` from byte `start` on. Raises urllib.error.URLError for every failure."""
  headers = {'User-Agent': 'fcn-googlenet'} | ({'Range': f'bytes={start}-'} if start else {})
  try:
    return urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=_TIMEOUT)
  except urllib.error.URLError:
    raise
  except (OSError, http.client.HTTPException) as error:  # the connection broke while the answer's head was read
    raise urllib.error.URLError(error) from error


def _receive(response, file, length, progress):
  """Appends a response to `file`. Raises _BrokenOff if less than `length` bytes (where not None) arrive."""
  name = os.path.basename(file.name).removesuffix('.part')
  total = None if length is None else -(-length // _MEGABYTE)
  received = 0
  with Progress(total, 'MB', label=name) if progress else contextlib.nullcontext() as shown:
    while True:
      try:
        chunk = response.read(_CHUNK)
      except (OSError, http.client.HTTPException) as error:
        raise _BrokenOff(str(error) or type(error).__name__) from error
      if not chunk:
        break
      file.write(chunk)
      received += len(chunk)
      if shown:
        shown.update(-(-received // _MEGABYTE) - shown.done)
  if length is not None and received < length:
    raise _BrokenOff(f'it broke off after {received} of {length} bytes')


def _unpack(archive, root, member):
  """Writes the plain files of `archive` at or below `member` to the folder `root`."""
  files = _tar_files(archive) if _is_tar(archive) else _zip_files(archive)
  wanted, left = pathlib.PurePosixPath(member), max(_SMALL, _MOST_GROWTH * os.path.getsize(archive))
  for name, open_file in files:
    path = pathlib.PurePosixPath(name)
    if path.is_absolute() or '..' in path.parts:
      raise UserError(f'{archive} is refused: {name!r} would be written outside of its folder')
    if not path.is_relative_to(wanted):
      continue
    target = os.path.join(root, path)
    os.makedirs(os.path.dirname(target), exist_ok=True)
    with open_file() as source, open(target, 'wb') as file:
      while part := source.read(_CHUNK):
        left -= len(part)
        if left < 0:
          raise UserError(f'{archive} is refused: it holds more than {_MOST_GROWTH} times its own size')
        file.write(part)


class _Entry(tarfile.TarInfo):
  """An entry of a tar archive. tarfile takes a damaged header for the end, and reads long ones into memory."""

  @classmethod
  def fromtarfile(cls, archive):
    """The next entry of a tarfile.TarFile. Raises tarfile.ReadError if its header is damaged."""
    try:
      return super().fromtarfile(archive)
    except tarfile.InvalidHeaderError as error:
      raise tarfile.ReadError(f'{error} at byte {archive.offset}') from error

  def _proc_member(self, archive):
    if self.size > _MOST_HEADER and self.type in _LONG_HEADERS:
      raise tarfile.ReadError(f'a header of {self.size} bytes')
    return super()._proc_member(archive)


def _open_tar(archive):
  """Opens a tar archive, plain or gzipped. Raises tarfile.TarError if it is none."""
  with open(archive, 'rb') as file:
    packed = file.read(2) == b'\x1f\x8b'
  return tarfile.open(archive, 'r:gz' if packed else 'r:', tarinfo=_Entry)


def _is_tar(archive):
  try:
    with _open_tar(archive):
      return True
  except (tarfile.TarError, EOFError, zlib.error):
    return False


def _tar_files(archive):
  """Yields (name, function that opens it for reading) of each file in a tar archive, checking that it is complete."""
  with _open_tar(archive) as tar:
    for item in tar:
      if item.isreg() and not item.issparse():
        yield item.name, lambda item=item: tar.extractfile(item)
      elif not item.isdir():
        raise UserError(f'{archive} is refused: {item.name!r} is a link or device, or has holes')
    # tarfile accepts an archive that is cut between two files, and leaves a checksum at the end unread.
    rest = tar.fileobj.read(_CHUNK)
    if not rest:
      raise tarfile.ReadError('it ends before its end mark')
    while rest:
      if rest.strip(b'\0'):
        raise tarfile.ReadError('there is more behind its end mark')
      rest = tar.fileobj.read(_CHUNK)


def _zip_files(archive):
  """Yields (name, function that opens it for reading) of each file in a zip archive; reading checks its checksum."""
  with zipfile.ZipFile(archive) as zipped:
    for item in zipped.infolist():
      if stat.S_ISLNK(item.external_attr >> 16):
        raise UserError(f'{archive} is refused: {item.filename!r} is a link or device')
      if item.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others may ask for any memory
        raise UserError(f'{archive} is refused: {item.filename!r} is compressed by another method than deflate')
      if not item.is_dir():
        yield item.filename, lambda item=item: zipped.open(item)
