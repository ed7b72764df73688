"""Packages: a run in one file, a zip archive of weights, config.json and model card, written, and read without trust.

    README.md         the model card
    config.json       the run's
    metadata.json     what the card says, as data
    weights/NAME.npy  a variable of the network: `numpy.load(package)['weights/NAME']`
    package.json      version of this format, and the SHA-256 of every other file

Nothing is compressed, so nothing can grow when it is read, and nothing is unpacked to a disk: names with `..`, links
and the like have no place to go, and are refused all the same. Of a variable's file the header has to fit its bytes;
pickles are never read. Checksums find damage; they do not say from whom a package is.
"""

import hashlib
import io
import json
import math
import os
import re
import stat
import struct
import zipfile
import zlib

import numpy as np

from utils.compat import tf
from utils.errors import UserError, brief, listed
from utils.files import replacing

CARD, CONFIG, METADATA, INDEX = 'README.md', 'config.json', 'metadata.json', 'package.json'
DOCUMENTS = (CARD, CONFIG, METADATA)
VERSION = 1  # of the format
_FORMAT = 'FCN-GoogLeNet run'
_TENSOR = re.compile(r'weights/(\w[\w.-]*(?:/\w[\w.-]*)*)\.npy', re.ASCII)
_PICTURE = re.compile(r'(?:best|worst|examples|confusion|calibration)-\w[\w.%-]*\.png', re.ASCII)
_START = b'PK\3\4'  # first bytes of a zip archive with a file in it
_END = struct.Struct('<4s4H2LH')  # end of central directory record (PKWARE's APPNOTE.TXT, 4.3.16), without a comment
_LOCATOR = 20  # bytes of the locator of a zip64 record, which would stand before it (4.3.15)
_MOST_BYTES = 2**32 - 1  # what a zip archive without zip64 can hold
_MOST_FILES = 10_000
_MOST_DIRECTORY = 4 << 20  # bytes of the list of files, which zipfile reads as a whole
_MOST_DOCUMENT = 64 << 20  # bytes of a file that is no variable
_TYPES = {'<f2': tf.float32, '<f4': tf.float32, '<i8': tf.int64}  # types of stored arrays -> of what is read
# The head of a file of numpy's format 1.0 as numpy writes it, which is a literal of Python: read as no more than that.
_NPY = re.compile(rb"\x93NUMPY\x01\x00..\{'descr': '(<f2|<f4|<i8)', 'fortran_order': False, "
                  rb"'shape': \((|\d{1,10},|\d{1,10}(?:, \d{1,10}){1,7})\), \} *\n", re.DOTALL)
_UNREADABLE = (OSError, EOFError, RuntimeError, ValueError, KeyError, NotImplementedError, zipfile.BadZipFile,
               zlib.error, struct.error)


def is_package(path):
  """Whether a path is a zip archive, damaged or not, by its first bytes."""
  try:
    with open(path, 'rb') as file:
      return file.read(len(_START)) == _START
  except (OSError, ValueError):  # ValueError: a path with a zero byte, which no file has
    return False


def write_package(path, documents, tensors, pictures=None):
  """Writes a package, whole or not at all. The same content makes the same bytes.

  Args:
    path: path of the archive.
    documents: dict from names of DOCUMENTS to str, or to a value that JSON can hold.
    tensors: dict from variable name to float32 array, or float16 to store it so, or int64.
    pictures: dict from file name to the bytes of a PNG.

  Raises:
    UserError: if it cannot be written, is larger than a zip archive may be, or would hold a name that is refused.
  """
  for name in pictures or ():
    if not _PICTURE.fullmatch(name):
      raise UserError(f'picture {name!r} cannot be stored: its name is none that a package takes')
  files = {name: content.encode() if isinstance(content, str) else _json(content)
           for name, content in documents.items()} | (pictures or {})
  total = sum(map(len, files.values())) + sum(tensor.nbytes for tensor in tensors.values())
  if total > 0.99 * _MOST_BYTES:
    raise UserError(f'{path}: {total / 1e9:.1f} GB are more than a zip archive holds, 4.3 GB')
  digests = {}
  with replacing(path) as temporary, zipfile.ZipFile(temporary, 'w', zipfile.ZIP_STORED, allowZip64=False) as archive:

    def add(name, content):
      entry = zipfile.ZipInfo(name)  # of 1980, so that time changes no byte
      entry.create_system, entry.external_attr = 3, (stat.S_IFREG | 0o644) << 16
      archive.writestr(entry, content)
      digests[name] = hashlib.sha256(content).hexdigest()

    for name, content in sorted(files.items()):
      add(name, content)
    for name, tensor in sorted(tensors.items()):
      add(_file_of(name), _npy(tensor))
    add(INDEX, _json({'format': _FORMAT, 'version': VERSION, 'sha256': dict(digests)}))


class Package:
  """An open package. Its variables are read by the methods of a tf.train.CheckpointReader, float16 as float32.

  Attributes:
    path: path of the archive.
  """

  def __init__(self, path):
    """Opens a package and checks all but the contents of its files.

    Raises:
      UserError: if it is damaged, no package, or holds what a package has not.
    """
    self.path = path
    try:
      _check_end(path)
      self._archive = zipfile.ZipFile(path)
    except _UNREADABLE as error:
      raise self._damaged(error) from error
    self._entries = _checked(path, self._archive.infolist())
    self._digests = self._read_index()
    self._tensors = {match[1]: name for name in self._entries if (match := _TENSOR.fullmatch(name))}

  def _damaged(self, error):
    reason = str(error).splitlines()[0] if str(error) else 'no more data'
    return UserError(f'{self.path} is cut off or damaged: {reason}')

  def _read_index(self):
    """Reads INDEX; returns the dict from names to SHA-256."""
    if INDEX not in self._entries:
      raise UserError(f'{self.path} holds no {INDEX}; it was not written by python -m checkpoints.package')
    index = self._parsed(INDEX, self._content(INDEX))
    if not isinstance(index, dict) or index.get('format') != _FORMAT or not isinstance(index.get('sha256'), dict):
      raise UserError(f'{self.path}: {INDEX} was not written by python -m checkpoints.package')
    if index.get('version') != VERSION:
      raise UserError(f'{self.path}: version {brief(index.get("version"))} of the format; this program reads {VERSION}')
    differing = sorted(index['sha256'].keys() ^ (self._entries.keys() - {INDEX}))
    if differing:
      raise UserError(f'{self.path} is refused: {INDEX} and the files differ in {listed(differing)}')
    return index['sha256']

  def _content(self, name):
    try:
      return self._archive.read(name)
    except _UNREADABLE as error:
      raise self._damaged(error) from error

  def _parsed(self, name, content):
    try:
      return json.loads(content)
    except (ValueError, RecursionError) as error:
      raise UserError(f'{self.path}: {name} is not valid JSON: {error}') from error

  def read(self, name):
    """The bytes of a file; None if there is none. Raises UserError if its checksum is not that of INDEX."""
    if name not in self._digests:
      return None
    content = self._content(name)
    if hashlib.sha256(content).hexdigest() != self._digests[name]:
      raise UserError(f'{self.path} is damaged: {name} has another checksum than {INDEX} says')
    return content

  def document(self, name):
    """The value of a JSON file; None if there is none. Raises UserError if it is damaged or broken."""
    content = self.read(name)
    return None if content is None else self._parsed(name, content)

  def pictures(self):
    """Dict from the names of its PNGs to their bytes. Raises UserError if one is damaged."""
    return {name: self.read(name) for name in self._entries if _PICTURE.fullmatch(name)}

  def check(self):
    """Reads everything. Raises UserError if anything is damaged."""
    for name in self._digests.keys() - set(self._tensors.values()):
      self.read(name)
    for name in self._tensors:
      self.get_tensor(name)

  def has_tensor(self, name):
    """Whether there is a variable of this name."""
    return name in self._tensors

  def get_tensor(self, name):
    """A variable's array. Raises UserError if it is damaged or missing."""
    if name not in self._tensors:
      raise UserError(f'{self.path} holds no variable {name}')
    file = self._tensors[name]
    content = self.read(file)
    shape, dtype, start = self._header(file, content)
    values = np.frombuffer(memoryview(content)[start:], dtype).reshape(shape)
    return values.astype(_TYPES[dtype.str].as_numpy_dtype)  # a copy, which may be written to

  def _header(self, file, head):
    """Reads the header of a variable's file: (shape, dtype, its length). Raises UserError if the rest is no such array.
    """
    match = _NPY.match(head)
    if match is None:
      raise UserError(f'{self.path}: {file} is no array of numbers in the form that a package has')
    shape, dtype = tuple(map(int, re.findall(rb'\d+', match[2]))), np.dtype(match[1].decode())
    size, wanted = self._entries[file].file_size - match.end(), math.prod(shape) * dtype.itemsize
    if size != wanted:
      raise UserError(f'{self.path}: {file} is refused: {size} bytes for {list(shape)} of type {dtype.str}')
    return shape, dtype, match.end()

  def _stored(self):
    """Yields (variable name, shape, tf.DType) of every variable, from the heads of the files."""
    for name, file in self._tensors.items():
      try:
        with self._archive.open(file) as stream:
          head = stream.read(1 << 10)
      except _UNREADABLE as error:
        raise self._damaged(error) from error
      shape, dtype, _ = self._header(file, head)
      yield name, list(shape), _TYPES[dtype.str]

  def get_variable_to_shape_map(self):
    """Dict from variable name to shape, a list."""
    return {name: shape for name, shape, _ in self._stored()}

  def get_variable_to_dtype_map(self):
    """Dict from variable name to tf.DType."""
    return {name: dtype for name, _, dtype in self._stored()}


def shortened(value):
  """A float32 array as float16, where that rounds as float16 does and no more; else, and of vectors, as it is.

  Vectors (biases, moments of batch norms) are small, and may be beyond float16's largest number, 65504; values of less
  than 2^-14 lose digits.
  """
  if value.ndim < 2 or value.dtype != np.float32:
    return value
  with np.errstate(over='ignore', invalid='ignore'):
    short = value.astype(np.float16)
    error = np.abs(short.astype(np.float32) - value).max(initial=0)
  return short if error <= 2.0**-11 * np.abs(value).max(initial=0) else value


def _file_of(name):
  """The file of a variable."""
  file = f'weights/{name}.npy'
  if not _TENSOR.fullmatch(file):
    raise UserError(f'variable {name!r} cannot be stored: its name is no path')
  return file


def _json(value):
  return (json.dumps(value, indent=2) + '\n').encode()


def _npy(tensor):
  stream = io.BytesIO()
  np.lib.format.write_array(stream, np.ascontiguousarray(tensor).reshape(tensor.shape), (1, 0), allow_pickle=False)
  return stream.getvalue()


def _check_end(path):
  """Raises UserError if an archive's end is not that of a package: before zipfile reads a list of files of any length.
  """
  size = os.path.getsize(path)
  if size > _MOST_BYTES:
    raise UserError(f'{path} is refused: {size} bytes; the largest package has {_MOST_BYTES}')
  with open(path, 'rb') as file:
    file.seek(-min(size, _LOCATOR + _END.size), os.SEEK_END)
    tail = file.read()
  if len(tail) < _END.size or not tail[-_END.size:].startswith(b'PK\5\6'):
    raise zipfile.BadZipFile('the list of its files is missing at its end')
  _, _, _, _, count, directory, _, _ = _END.unpack(tail[-_END.size:])
  if tail.startswith(b'PK\6\7') or count > _MOST_FILES or directory > _MOST_DIRECTORY:
    raise UserError(f'{path} is refused: a list of {count} files in {directory} bytes; a package has at most '
                    f'{_MOST_FILES} in {_MOST_DIRECTORY}, and no zip64')


def _checked(path, entries):
  """Dict from name to ZipInfo. Raises UserError if an entry is one that a package has not; names it."""
  found = {}
  for entry in entries:
    name, kind = entry.filename, stat.S_IFMT(entry.external_attr >> 16)
    is_tensor = _TENSOR.fullmatch(name)
    refused = (
        (not (is_tensor or _PICTURE.fullmatch(name) or name in (*DOCUMENTS, INDEX)), 'no package has such a file'),
        (name in found, 'it is there twice'),
        (kind not in (0, stat.S_IFREG), 'it is a link or device'),
        (entry.flag_bits & 1, 'it is encrypted'),
        (entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size,
         'it is compressed, and a package is not'),
        (not is_tensor and entry.file_size > _MOST_DOCUMENT, f'it has {entry.file_size} bytes'))
    for applies, reason in refused:
      if applies:
        raise UserError(f'{path} is refused: {name!r}: {reason}')
    found[name] = entry
  total = sum(entry.file_size for entry in found.values())
  if total > os.path.getsize(path):
    raise UserError(f'{path} is refused: its files claim {total} bytes, more than it has itself')
  return found
