"""The files of an output folder that this program wrote: only these are replaced unasked.

PNGs carry the mark of utils/marks.py. Other files are noted in the folder's LEDGER with their size and time of change.
"""

import contextlib
import json
import os

from utils.errors import UserError, shown
from utils.files import replacing
from utils.marks import is_marked_png, is_own, marked_png

LEDGER = '.fcn-googlenet.jsonl'  # lines are only appended: nothing is lost where a run is killed, or two share a folder


def about(run):
  """What the mark of a PNG says of the runs.Run whose result it is: its folder's name and its step."""
  return f'run {shown(os.path.basename(os.path.abspath(run.folder)))}, step {run.step}'


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
    if is_marked_png(path):
      return is_own(path)
    return self.notes(path)

  def notes(self, path):
    """Whether the ledger has the file at `path` as it is now."""
    noted = self._noted.get(self._name(path), ()) if self._noted else ()
    if not noted or not os.path.isfile(path):
      return False
    status = os.stat(path)
    return (status.st_size, status.st_mtime_ns) in noted

  @contextlib.contextmanager
  def replacing(self, path):
    """As utils.files.replacing; notes a file that carries no mark, before it gets its name: where the process is killed
    in between, the next one knows it. Raises UserError if it cannot be written."""
    with replacing(path, own=self.owns) as temporary:
      yield temporary
      if not is_marked_png(temporary):
        self._note(path, temporary)

  def write_png(self, path, png, run):
    """Writes the bytes of a PNG with the mark of a runs.Run. Raises UserError if the file cannot be written."""
    with self.replacing(path) as temporary, open(temporary, 'wb') as file:
      file.write(marked_png(png, about(run)))

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
