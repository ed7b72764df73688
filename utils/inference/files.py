"""The files of inference.py: finding inputs in files, folders, globs and lists, and naming outputs."""

import collections
import dataclasses
import errno
import functools
import glob
import os
import pathlib
import re
import stat
import sys

from datasets import images, windows
from datasets.bands import band_file
from datasets.readers.folder import EXTENSIONS
from datasets.readers.lists import read_text
from utils.errors import UserError, listed, shown
from utils.files import claim, identity
from utils.inference import ledgers
from utils.inference.stream import Failed
from utils.marks import is_marked_png
from utils.settings import expanded

PHOTO, LARGE, VIDEO = 'photograph', 'large photograph', 'video'  # kinds of inputs; a large one is read by rows
PHOTOS = EXTENSIONS
VIDEOS = ('.mp4', '.m4v', '.mov', '.avi', '.mkv', '.webm', '.mpg', '.mpeg', '.wmv', '.mts')
OPTIONAL = {'.avif': 'AVIF', '.heic': 'HEIF', '.heif': 'HEIF', '.hif': 'HEIF'}  # suffix -> the format's name in Pillow
SYSTEM = ('thumbs.db', 'ehthumbs.db', 'desktop.ini', '@eadir', '#recycle', '$recycle.bin', 'lost+found', '__macosx',
          'system volume information')  # what systems put into folders of photographs, beside names with a dot


@dataclasses.dataclass(frozen=True)
class Input:
  """A file to label.

  Attributes:
    path: its path, as given or found.
    name: its outputs' name below the output folder, without suffix: for a file in a folder, its path in there.
    kind: PHOTO, LARGE or VIDEO.
  """
  path: str
  name: str
  kind: str


@dataclasses.dataclass(frozen=True)
class LeftOut:
  """A file or folder that is none to label: its `path`, and what it is, as 'hidden' or '.txt'."""
  path: str
  what: str


def find(given, output_dir):
  """Lists the inputs of files, folders and globs, each path once, in the order given; folders sorted by name.

  Args:
    given: list of str. A glob stands for the files and folders that it matches; the folders of its matches are kept in
      the outputs from its first wildcard on.
    output_dir: folder of the outputs, which is passed over where it lies in a folder given.

  Returns:
    `(inputs, failures, left_out)`, lists of Input, Failed (of paths) and LeftOut.
  """
  found = {Input: {}, Failed: {}, LeftOut: {}}
  for place in given:
    items = list(_find(place, output_dir))
    if os.path.isdir(place) and all(isinstance(item, LeftOut) for item in items):
      items.append(Failed(place, 'no image in this folder', 'without an image'))
    for item in items:
      path = item.key if isinstance(item, Failed) else item.path
      found[type(item)].setdefault(os.path.abspath(path), item)
  ledger_in = functools.cache(ledgers.Ledger)  # of this folder of outputs, or of another
  for path in [path for path in found[Input]
               if any(ledger_in(folder).notes(path) for folder in pathlib.Path(path).parents)]:
    found[LeftOut][path] = LeftOut(found[Input].pop(path).path, 'written by this program')
  left_out = [item for path, item in found[LeftOut].items() if path not in found[Input]]
  return list(found[Input].values()), list(found[Failed].values()), left_out


def one_a_picture(inputs, bands):
  """Makes one Input of the files of a picture whose bands are files of their own; its name is without the band's.

  Args:
    inputs: list of Input.
    bands: names of the bands of the run's images; () for photographs.

  Returns:
    list of Input, each with the path of one of its bands' files.
  """
  kept = {}
  for item in inputs:
    own = band_file(item.path, bands) if bands else None
    if own is None:
      kept[item.path] = item
    else:
      place, paths = own
      name = item.name.removesuffix(bands[place]).rstrip('_-./')
      kept.setdefault(paths, dataclasses.replace(item, name=name or item.name))
  return list(kept.values())


def _find(place, output_dir):
  """Yields the Input, Failed and LeftOut of a file, folder or glob."""
  if os.path.lexists(place):
    base, matches = place if os.path.isdir(place) else os.path.dirname(place), [place]
  else:
    matches = sorted(glob.glob(place, recursive=True))
    base = os.path.dirname(re.split(r'[*?[]', place, maxsplit=1)[0])
  if not matches:
    yield Failed(place, 'does not exist', 'not found')
  for path in matches:
    if os.path.isdir(path):
      yield from _walk(path, base, output_dir)
    elif os.path.exists(path) and not os.path.isfile(path):
      yield Failed(path, 'is a pipe or device; a picture is read from a file', 'no file')
    else:
      yield _classified(path, base, kind_of(path) or PHOTO)


def _walk(folder, base, output_dir, above=()):
  """Yields the Input, Failed and LeftOut of all that is in a folder: its files, then its folders."""
  above = (*above, os.path.realpath(folder))
  try:
    paths = [os.path.join(folder, name) for name in sorted(os.listdir(folder))]
  except OSError as error:
    yield Failed(folder, f'cannot be listed: {error.strerror}', 'unreadable')
    return
  for path in sorted(paths, key=os.path.isdir):
    if os.path.basename(path).startswith('.'):
      yield LeftOut(path, 'hidden')
    elif os.path.exists(path) and not os.path.isdir(path) and not os.path.isfile(path):
      yield LeftOut(path, 'pipe or device')
    elif not os.path.isdir(path):
      yield _classified(path, base, kind_of(path))
    elif os.path.basename(path).lower() in SYSTEM:
      yield LeftOut(path, 'of the system')
    elif os.path.realpath(path) == os.path.realpath(output_dir):
      yield LeftOut(path, 'output folder')
    elif os.path.realpath(path) in above:
      yield LeftOut(path, 'linked to a folder above')
    else:
      yield from _walk(path, base, output_dir, above)


def _classified(path, base, kind):
  """Returns the Input, Failed or LeftOut of a file; `kind` None: it is no input by its name."""
  name, suffix = os.path.basename(path), os.path.splitext(path)[1].lower()
  if name.lower() in SYSTEM:
    return LeftOut(path, 'of the system')
  if kind is None:
    return LeftOut(path, shown(suffix) or 'without suffix')
  if os.path.isfile(path) and is_marked_png(path):
    return LeftOut(path, 'written by this program')
  optional = OPTIONAL.get(suffix)
  if optional and optional not in images.FORMATS:
    return Failed(path, images.REMEDIES[optional], suffix)
  below = os.path.relpath(path, base or '.')
  if below.startswith(os.pardir + os.sep):  # from a glob as */../../a.jpg: outputs stay in their folder
    below = name
  return Input(path, os.path.splitext(below)[0], kind)


def kind_of(path):
  """The kind of a file by its name: PHOTO, VIDEO, or None for any other."""
  suffix = os.path.splitext(path)[1].lower()
  if suffix in VIDEOS:
    return VIDEO
  return PHOTO if suffix in PHOTOS or suffix in OPTIONAL else None


def split_at_commas(values):
  """Splits the values of --input at their commas, but for the commas of files, folders and globs that are there.

  Args:
    values: list of str.

  Returns:
    list of str.
  """
  given = []
  for value in values:
    rest, parts = value.split(','), []
    while rest:
      longest = next((count for count in range(len(rest), 1, -1) if _is_there(','.join(rest[:count]))), 1)
      parts.append(','.join(rest[:longest]))
      rest = rest[longest:]
    parts = [expanded(part) for part in parts if part]  # the flag's value is, and so the first part
    if len(parts) > 1 and not all(map(_is_there, parts)):
      print(f'note: there is no {shown(value)}, so --input was cut at the commas', file=sys.stderr)
    given += parts
  return given


def _is_there(path):
  return os.path.lexists(path) or (glob.has_magic(path) and any(glob.iglob(path, recursive=True)))


def only_listed(inputs, list_path):
  """Selects the inputs that a file names, in its order, each once.

  Args:
    inputs: list of Input.
    list_path: path of the file: on each line an image's name, with or without suffix, or the end of its path, or a
      comment after `#`; None for all images.

  Returns:
    list of Input.

  Raises:
    UserError: if a line names no image or several.
  """
  if not list_path:
    return inputs
  by_name = collections.defaultdict(list)
  for item in inputs:
    for name in _names(item.path):
      by_name[name].append(item)
  chosen, wrong = {}, []
  lines = read_text(list_path)
  for where, line in lines:
    found = by_name.get(os.path.normpath(line)) or by_name.get(os.path.normpath(line.replace('\\', '/'))) or []
    if len(found) > 1:
      raise UserError(f'{shown(where)}: {shown(line)} stands for {len(found)} images, '
                      f'{listed(shown(item.path) for item in found)}; write more of the path, or the suffix')
    if not found and not line.startswith('#'):
      wrong.append(f'{shown(line)} (line {where.rpartition(":")[2]})')
    chosen.update(dict.fromkeys(found))
  if wrong:
    raise UserError(f'--list={shown(list_path)}: {len(wrong)} of its {len(lines)} names are not among the images '
                    f'given: {listed(wrong)}; a line is the name of an image, with or without suffix, or its path')
  return list(chosen)


def _names(path):
  """Set of the names that a list may have for a path: the path and its ends, with and without suffix."""
  parts = os.path.abspath(path).split(os.sep)
  names = {os.path.normpath(path), os.path.abspath(path), *(os.sep.join(parts[i:]) for i in range(1, len(parts)))}
  return names | {os.path.splitext(name)[0] for name in names}


def by_size(inputs, *, window_pixels, max_pixels, reading):
  """Tells photographs by their size, from their headers.

  Args:
    inputs: list of Input.
    window_pixels: number of pixels above which a photograph becomes LARGE, if its format can be read by rows; None for
      none.
    max_pixels: number of pixels above which a photograph is refused.
    reading: the Reading of the run's images.

  Returns:
    `(inputs, failures)`: a list of Input, and a list of Failed.
  """
  kept, failures = [], []
  for item in inputs:
    header = windows.read_header(item.path) if item.kind == PHOTO else None
    if header and header.pixels > max_pixels:
      failures.append(Failed(
          item.path, f'has {header.size[1]}x{header.size[0]} pixels; more than --max_input_pixels={max_pixels} may be '
          f'a decompression bomb; if it is none, give --max_input_pixels={header.pixels}', 'too many pixels'))
    elif header and window_pixels is not None and header.pixels > window_pixels and windows.by_rows(header, reading):
      kept.append(dataclasses.replace(item, kind=LARGE))
    else:
      kept.append(item)
  return kept, failures


def sizes(inputs, reading):
  """Yields (height, width) of each photograph that can be read, as a Reading turns it, from its header; None for each
  other Input."""
  for item in inputs:
    header = windows.read_header(item.path) if item.kind == PHOTO else None
    yield header and (images.upright_size(header) if reading.exif == 'turn' else header.size)


def output_names(inputs, output_dir, *, flat=False, frames=False):
  """Maps each input to its outputs' path without suffix; a name already taken gets a number, and a note is printed.

  Args:
    inputs: list of Input.
    output_dir: folder of the outputs.
    flat: whether all outputs lie in one folder, each under its image's own name, as in a submission.
    frames: whether the labels of a video's frames go into a folder of its name: none where those of photographs go.

  Returns:
    dict from Input to path.

  Raises:
    UserError: if `flat` and two images have one name.
  """
  targets, taken = {}, set()
  folders = {os.path.dirname(os.path.join(output_dir, item.name)) for item in inputs if item.kind != VIDEO}
  for item in inputs:
    stem = os.path.join(output_dir, os.path.basename(item.name) if flat else item.name)
    target, number = stem, 1
    while target in taken or (frames and item.kind == VIDEO and target in folders):
      number += 1
      target = f'{stem}-{number}'
    if target != stem and flat:
      raise UserError(f'--submission: {shown(item.path)} is the second image of its name; the archive has room for one')
    if target != stem:
      print(f'note: {shown(stem)} is taken, so {shown(item.path)} becomes {shown(target)}', file=sys.stderr)
    taken.add(target)
    targets[item] = target
  return targets


def obstacle(paths, inputs, ledger, *, overwrite):
  """Finds out whether files can be written; makes their folders.

  Args:
    paths: list of the files' paths.
    inputs: set of the `identity` of every input, none of which is ever replaced.
    ledger: a ledgers.Ledger.
    overwrite: whether files that this program did not write may be replaced.

  Returns:
    (reason, cause) as in Failed for the first file that cannot; None if all can.
  """
  for path in paths:
    try:
      folder = os.path.dirname(path) or '.'
      os.makedirs(folder, exist_ok=True)
      if not os.access(folder, os.W_OK):
        raise PermissionError(errno.EACCES, f'folder {shown(folder)} is not writable')
      status = os.lstat(path)
    except FileNotFoundError:
      continue
    except OSError as error:
      return f'its output {shown(path)} cannot be written: {error.strerror}', 'cannot be written'
    if identity(path) in inputs:
      return (f'its output {shown(path)} would overwrite an input, which not even --overwrite does; choose another '
              '--output_dir', 'would overwrite an input')
    if not stat.S_ISREG(status.st_mode) and not stat.S_ISLNK(status.st_mode):
      what = 'a folder' if stat.S_ISDIR(status.st_mode) else 'no plain file'
      return f'its output {shown(path)} cannot be written: it is {what}', 'cannot be written'
    if not overwrite and not ledger.owns(path):
      return (f'its output {shown(path)} exists, and this program did not write it or it was changed since; give '
              '--overwrite to replace it, or another --output_dir', 'would overwrite a file')
    claim([path], ledger.owns, overwrite=overwrite)
  return None
