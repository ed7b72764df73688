"""Files that this program wrote, told from those of others: only its own are replaced unasked.

A PNG carries a mark behind its header: two text chunks, the second with a checksum of all that follows. A picture that
was edited since has lost the mark, or no longer fits its checksum. Other files are noted in the output folder's LEDGER
with their size and time of change.
"""

import contextlib
import json
import os
import struct
import zlib

from utils.errors import UserError, shown
from utils.files import replacing

SOFTWARE = 'FCN-GoogLeNet'
LEDGER = '.fcn-googlenet.jsonl'  # lines are only appended: nothing is lost where a run is killed, or two share a folder
_START, _HEADER = b'\x89PNG\r\n\x1a\n', 33  # bytes of the signature, and of it and the first chunk, IHDR


def _chunk(keyword, text):
  """A PNG's tEXt chunk (PNG specification, 11.3.4.3)."""
  body = b'tEXt' + keyword.encode() + b'\0' + text.encode('ascii', 'backslashreplace')
  return struct.pack('>I', len(body) - 4) + body + struct.pack('>I', zlib.crc32(body))


_MARK = _chunk('Software', SOFTWARE)


def marked(png, run):
  """Puts the mark into a PNG.

  Args:
    png: bytes of a PNG.
    run: the runs.Run whose result it is; the mark names its folder and its step.

  Returns:
    bytes.
  """
  rest = png[_HEADER:]
  return png[:_HEADER] + mark(run, zlib.crc32(rest)) + rest


def mark(run, checksum):
  """The mark of a PNG, bytes whose number does not depend on the checksum; arguments as of `marked`."""
  name = shown(os.path.basename(os.path.abspath(run.folder)))
  return _MARK + _chunk('Comment', f'run {name}, step {run.step}, checksum {checksum:08x}')


def carries_mark(path):
  """Whether a file is a PNG that this program wrote, edited since or not."""
  try:
    with open(path, 'rb') as file:
      start = file.read(_HEADER + len(_MARK))
  except OSError:
    return False
  return start.startswith(_START) and start.endswith(_MARK)


def _is_unchanged(path):
  """Whether a PNG with a mark is as it was written."""
  with open(path, 'rb') as file:
    data = file.read()[_HEADER + len(_MARK):]
  length = int.from_bytes(data[:4], 'big') + 12  # of the chunk: its text, and 4 bytes each of length, type, checksum
  return data[:length - 4].endswith(f'{zlib.crc32(data[length:]):08x}'.encode())


class Ledger:
  """Writes the files of an output folder, and knows those that this program wrote there before."""

  def __init__(self, folder):
    """Reads the folder's ledger, if there is one; a line that is none says nothing."""
    self._folder, self._noted = folder, {}
    with contextlib.suppress(OSError), open(os.path.join(folder, LEDGER), encoding='utf-8', errors='replace') as file:
      for line in file:
        with contextlib.suppress(ValueError, TypeError, KeyError, RecursionError):
          note = json.loads(line)
          self._noted.setdefault(note['file'], set()).add((note['size'], note['mtime_ns']))

  def owns(self, path):
    """Whether this program wrote the file at `path`, and nobody changed it since."""
    if os.path.islink(path) or not os.path.isfile(path):
      return False
    if carries_mark(path):
      return _is_unchanged(path)
    status = os.stat(path)
    return (status.st_size, status.st_mtime_ns) in self._noted.get(self._name(path), ())

  @contextlib.contextmanager
  def replacing(self, path):
    """As utils.files.replacing; notes a file that carries no mark, before it gets its name: where the process is killed
    in between, the next one knows it. Raises UserError if it cannot be written."""
    with replacing(path) as temporary:
      yield temporary
      if not carries_mark(temporary):
        self._note(path, temporary)

  def write_png(self, path, png, run):
    """Writes the bytes of a PNG with the mark of a runs.Run. Raises UserError if the file cannot be written."""
    with self.replacing(path) as temporary, open(temporary, 'wb') as file:
      file.write(marked(png, run))

  def _name(self, path):
    return os.path.relpath(path, self._folder)

  def _note(self, path, temporary):
    status, ledger = os.stat(temporary), os.path.join(self._folder, LEDGER)
    note = {'file': self._name(path), 'size': status.st_size, 'mtime_ns': status.st_mtime_ns}
    try:
      with open(ledger, 'a', encoding='utf-8') as file:
        file.write(json.dumps(note) + '\n')
    except OSError as error:
      raise UserError(f'cannot write {shown(ledger)}: {error.strerror}') from error
    self._noted.setdefault(note['file'], set()).add((note['size'], note['mtime_ns']))
