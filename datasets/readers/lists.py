"""Reading split lists and folders of originals. Lists come with downloads, so nothing in them is trusted."""

import codecs
import os
import re

from utils.errors import UserError

IMAGE_EXTENSIONS = ('.jpg', '.jpeg', '.png')


def find_root(source_dir, places, marker, *, dataset):
  """Finds the folder of the originals at or below the folder that the user gave.

  Args:
    source_dir: the folder that the user gave.
    places: paths below `source_dir` where the layout may start, the most particular first; '' is the folder itself.
    marker: path that must exist below the folder.
    dataset: name of the dataset, for the message.

  Returns:
    the path of the folder that holds `marker`.

  Raises:
    UserError: listing the places, if none of them holds `marker`.
  """
  if not os.path.isdir(source_dir):
    raise UserError(f'--source_dir={source_dir}: no such folder; {dataset} is to be read from there')
  for place in places:
    root = os.path.normpath(os.path.join(source_dir, place))
    if os.path.exists(os.path.join(root, marker)):
      return root
  looked = ', '.join(os.path.normpath(os.path.join(source_dir, place, marker)) for place in places)
  raise UserError(f'--source_dir={source_dir} does not hold {dataset}: there is none of {looked}')


def read_text(path):
  """Reads the lines of a text file that are not blank: UTF-8, or UTF-16 with its mark.

  Bytes that are not UTF-8 become surrogates, as in file names that are not.

  Returns:
    a list of (where, line): 'FILE:LINE' and the line without white space around it.

  Raises:
    UserError: if the file is missing, holds no line, or is no text.
  """
  try:
    with open(path, 'rb') as file:
      data = file.read()
  except OSError as error:
    raise UserError(f'cannot read the list {path}: {error.strerror}') from error
  try:
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
      text = data.decode('utf-16')
    else:
      text = data.decode('utf-8', 'surrogateescape').removeprefix('\ufeff')  # some editors put this mark first
  except UnicodeDecodeError as error:
    raise UserError(f'{path} is not a list: {error}') from error
  if '\0' in text:
    raise UserError(f'{path} is not a list: it holds zero bytes; save it as UTF-8 text')
  lines = [line.strip() for line in re.split(r'\r\n|\r|\n', text)]
  lines = [(f'{path}:{number}', line) for number, line in enumerate(lines, 1) if line]
  if not lines:
    raise UserError(f'the list {path} is empty')
  return lines


def read_lines(path):
  """Reads a split list with several fields on a line.

  Returns:
    a list of (where, fields): 'FILE:LINE' and the fields of a line that is not blank, split at white space.

  Raises:
    UserError: as `read_text`.
  """
  return [(where, line.split()) for where, line in read_text(path)]


def read_names(path):
  """Reads a list with a plain name on each line.

  Returns:
    a list of names, in the list's order.

  Raises:
    UserError: if a line is not a single name without a path, or a name comes twice.
  """
  names = []
  for where, fields in read_lines(path):
    if len(fields) != 1 or os.path.basename(fields[0]) != fields[0] or fields[0] in ('.', '..'):
      raise UserError(f'{where}: expected one image name without a path, found {" ".join(fields)!r}')
    names.append(fields[0])
  refuse_duplicates(names, path)
  return names


def refuse_duplicates(names, where):
  """Raises UserError if a name comes twice: predictions and messages could not be told apart."""
  seen = set()
  for name in names:
    if name in seen:
      raise UserError(f'{where}: the name {name} comes twice; names must be unique in a split')
    seen.add(name)


def note_place(places, item, where):
  """Notes the place of an item, which may stand in a list only once.

  Args:
    places: dict of item -> 'FILE:LINE'; `item` is added.
    item: phrase, such as 'name Road'.
    where: 'FILE:LINE' of the item.

  Raises:
    UserError: naming both places, if the item was noted before.
  """
  if item in places:
    raise UserError(f'{where}: the {item} stands in {places[item]} already')
  places[item] = where


def inside(root, relative, where):
  """Joins a path from a list to the folder that must contain it.

  Raises:
    UserError: if the path is absolute or climbs out of `root`.
  """
  path = os.path.normpath(relative)
  if os.path.isabs(path) or path.split(os.sep)[0] == '..':
    raise UserError(f'{where}: the path {relative} leaves {root}')
  return os.path.join(root, path)


def existing(path):
  """Returns `path`; where it does not exist, an image beside it of the same stem and another extension, if any.

  Copies of a dataset are often recompressed while their lists keep the old names.
  """
  if not os.path.exists(path):
    stem = os.path.splitext(path)[0]
    for extension in IMAGE_EXTENSIONS:
      if os.path.exists(stem + extension):
        return stem + extension
  return path


def list_images(folder, extensions=IMAGE_EXTENSIONS):
  """Lists the images of a folder.

  Args:
    folder: path.
    extensions: tuple of the lower-case endings of image files.

  Returns:
    a dict of stem -> path, sorted by stem.

  Raises:
    UserError: if the folder is missing, or two images share a stem.
  """
  try:
    files = sorted(os.listdir(folder))
  except OSError as error:
    raise UserError(f'cannot list {folder}: {error.strerror}') from error
  files = [file for file in files if file.lower().endswith(extensions) and not file.startswith('.')]
  refuse_duplicates([os.path.splitext(file)[0] for file in files], folder)
  return {os.path.splitext(file)[0]: os.path.join(folder, file) for file in files}
