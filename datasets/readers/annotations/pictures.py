"""The pictures that an export means: paths from other machines, matched with the files in the user's folder.

No path of an export is followed: it only picks one of the pictures that are in the folder.
"""

import dataclasses
import os
import re
import unicodedata
import urllib.parse

from datasets import images
from datasets.dataset import BadFile, Source
from datasets.readers import lists
from datasets.readers.annotations import files
from datasets.readers.folder import EXTENSIONS
from utils.errors import UserError, brief

_UPLOADED = re.compile('^[0-9a-f]{8}-')  # what Label Studio puts before the name of an uploaded file


class Pictures:
  """The pictures below a folder, by path and by name; names in Unicode's form NFC.

  Attributes:
    root: path of the folder.
  """

  def __init__(self, root):
    self.root = root
    self._at, self._at_stem, self._named = {}, {}, {}
    for path in files.walk(root, EXTENSIONS):
      known, name = _nfc(path), _nfc(os.path.basename(path))
      self._at[known] = path
      self._at_stem.setdefault(files.stem(known), path)
      for alias in dict.fromkeys((name, _uploaded_name(name), files.stem(name))):
        self._named.setdefault(alias, []).append(path)

  def at(self, *places):
    """Finds the picture at one of some places.

    Args:
      places: paths relative to the folder, with slashes of either kind.

    Returns:
      path of the first that is there, or else of the first whose place has a picture of the same stem and another
      extension; None if there is none.
    """
    places = [os.path.normpath(_nfc(place.replace('\\', '/'))) for place in places]
    found = next((self._at[place] for place in places if place in self._at), None) or next(
        (self._at_stem[files.stem(place)] for place in places if files.stem(place) in self._at_stem), None)
    return os.path.join(self.root, found) if found else None

  def find(self, reference, where, folders=()):
    """Finds the picture that a path from another machine means.

    Args:
      reference: the path, with slashes of either kind.
      where: place of the reference in messages.
      folders: folders, relative to the root, in which it is looked for first.

    Returns:
      path of a picture of this name, or of the one that it had before an upload, or of this stem and another extension;
      of several the one whose folders agree best. None if there is none.

    Raises:
      UserError: if several fit equally well, naming two; or the path is none.
    """
    parts = _parts(reference)
    if not parts or not _may_be_a_path(reference):
      raise UserError(f'{where}: {brief(reference)} is no path of a picture')
    placed = self.at(*(os.path.join(folder, *parts) for folder in folders))
    if placed:
      return placed
    names = (parts[-1], _UPLOADED.sub('', parts[-1]), files.stem(parts[-1]))
    found = next((self._named[name] for name in names if name in self._named), [])
    alike = {path: _common_end(_nfc(path).split(os.sep), [*parts[:-1], _nfc(os.path.basename(path))]) for path in found}
    best = [path for path in found if alike[path] == max(alike.values())]
    if len(best) > 1:
      paths = [os.path.join(self.root, path) for path in best]
      raise UserError(f'{where}: {brief(reference)} may be {paths[0]} or {paths[1]}; leave one of them in the '
                      'folder, or give them different names')
    return os.path.join(self.root, best[0]) if best else None

  def missing(self, reference):
    """Path at which a picture that is not there is reported missing, by the converter."""
    return os.path.join(self.root, 'images', _parts(reference)[-1])


def split_url(text):
  """The parts of a URL, as urllib.parse.urlsplit gives them; empty ones of a text that is none, as 'http://['."""
  try:
    return urllib.parse.urlsplit(text)
  except ValueError:
    return urllib.parse.urlsplit('')


def _nfc(path):
  return unicodedata.normalize('NFC', path)


def _uploaded_name(name):
  """The name that an upload to Label Studio makes of a file's."""
  return re.sub(r'[^-\w.]', '', name.strip().replace(' ', '_'))


def _may_be_a_path(text):
  """Whether a file may have this path: texts in JSON can hold what no name of a file can."""
  try:
    return b'\0' not in os.fsencode(text)
  except UnicodeEncodeError:
    return False


def _parts(reference):
  return [part for part in _nfc(reference).replace('\\', '/').split('/') if part not in ('', '.', '..')]


def _common_end(first, second):
  """Number of entries in which two lists agree, from their ends."""
  count = 0
  for one, other in zip(reversed(first), reversed(second)):
    if one != other:
      break
    count += 1
  return count


def sized(label, turned):
  """Gives a label the size of its picture, where it has none by itself.

  Args:
    label: record with `size`, (height, width) or None, and `image`, the path of the picture.
    turned: whether pictures are turned upright as EXIF says.

  Returns:
    a record with a size.

  Raises:
    BadFile: if the picture cannot be read.
  """
  if label.size:
    return label
  header = images.read_header(label.image)
  if header is None:  # the converter says more on the picture
    raise BadFile(str(label), f'has no size, since its picture {label.image} cannot be read')
  return dataclasses.replace(label, size=images.upright_size(header) if turned else header.size)


def make_sources(pairs, root):
  """Makes the sources of a split.

  Args:
    pairs: list of (path of a picture, label).
    root: the dataset's folder.

  Returns:
    list of Sources sorted by name: the picture's, with its folders before it where two have the same.

  Raises:
    UserError: if a picture comes twice, naming both places.
  """
  places = {}
  for path, label in pairs:
    lists.note_place(places, f'picture {path}', str(label))
  stems = [files.stem(os.path.relpath(path, root)) for path, _ in pairs]
  names = next((names for names in ([os.path.basename(stem) for stem in stems], [_joined(stem) for stem in stems])
                if len(set(names)) == len(names)), [_joined(os.path.relpath(path, root)) for path, _ in pairs])
  return sorted((Source(name=name, image=path, label=label) for name, (path, label) in zip(names, pairs)),
                key=lambda source: source.name)


def _joined(path):
  return path.replace(os.sep, '_')


def refuse_none(splits, form, root):
  """Raises UserError if no source of any split has a picture that exists; those missing one by one are bad files."""
  sources = [source for listed in splits.values() for source in listed]
  if sources and not any(os.path.exists(source.image) for source in sources):
    raise UserError(f'{root}: none of the {len(sources)} pictures of its {form} is there or in a folder below, '
                    f'such as {os.path.basename(sources[0].image)}; export with them, or put them beside it or '
                    f'into {os.path.join(root, "images")}')
