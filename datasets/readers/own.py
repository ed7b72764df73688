"""The user's own images and labels, from a folder of this layout:

    PATH/images/NAME.jpg   (or another picture format)
    PATH/labels/NAME.png   of the same size
    PATH/classes.txt
    PATH/train.txt, PATH/val.txt   optional: a NAME on each line; other lists, such as test.txt, make further splits

`classes.txt` has a class on each line: its name, then its color as three numbers, then the word `ignore` if its pixels
are void, neither trained on nor scored. Color and `ignore` may be left out; commas and white space separate:

    # comments and blank lines do not count
    road          128,64,128
    traffic sign  220 220 0
    unclear       0,0,0  ignore

Labels are all of one kind, which the files themselves show. Grayscale and palette PNGs hold raw ids: the number of the
class's line among all class lines, ignored classes included, from 0; 255 is always void. RGB PNGs hold colors of
`classes.txt`. The ids that are trained and scored number the classes that are not ignored, in the file's order.

Without train.txt and val.txt, an image belongs to val if the SHA-256 of its name falls into the lowest fifth; other
images and their order do not matter. Only where this leaves a split empty, the image with the lowest hash goes to val,
or the image with the highest to train. Names in other lists are in neither.
"""

import dataclasses
import functools
import hashlib
import os
import re

import numpy as np

from datasets import images
from datasets.dataset import Dataset, Source, colormap, label_map
from datasets.readers import color_labels, lists
from utils.errors import UserError
from utils.labels import IGNORE_LABEL
from utils.settings import expanded

VAL_SHARE = 0.2
EXTENSIONS = (*lists.IMAGE_EXTENSIONS, '.bmp', '.gif', '.ppm', '.tif', '.tiff', '.webp')
_CLASSES = 'classes.txt'
_LIST = re.compile(r'([a-z0-9_]+)\.txt')
_FORM = ('a line of classes.txt is a name (no number), then perhaps its color and the word ignore, as in '
         '"road 128,64,128"')


@dataclasses.dataclass(frozen=True, eq=False)
class OwnDataset(Dataset):
  """A Dataset with a folder of originals of its own.

  Attributes:
    root: the user's folder; `sources` reads there and ignores its `source_dir`.
  """
  root: str = ''


@dataclasses.dataclass(frozen=True)
class ClassLine:
  """A class of `classes.txt`: `name`, `color` as (r, g, b) or None, `ignore`, and its place `where` (FILE:LINE)."""
  name: str
  color: tuple | None
  ignore: bool
  where: str


def own_dataset(path, reserved=()):
  """Makes the record of the user's own dataset.

  Args:
    path: folder of the layout above.
    reserved: names of other datasets; the dataset of a folder with such a name gets 'own-' before it.

  Returns:
    an OwnDataset, its splits with the number of images found.

  Raises:
    UserError: naming the file and line, where the layout, `classes.txt` or a list is not as described.
  """
  root = os.path.normpath(expanded(path))
  _check_layout(path, root)
  classes = read_classes(os.path.join(root, _CLASSES))
  pictures, labels = _pairs(root)
  colors = tuple((line.color, raw_id) for raw_id, line in enumerate(classes) if line.color)
  ignored = tuple(raw_id for raw_id, line in enumerate(classes) if line.ignore)
  kept = [raw_id for raw_id, line in enumerate(classes) if not line.ignore]
  if _are_colors(labels, classes):
    read_label = functools.partial(color_labels.read_color_label, colors=colors)
  else:
    read_label = functools.partial(read_id_label, colors=colors, ignored=ignored)
  return OwnDataset(
      name=_name(root, reserved),
      classes=tuple(classes[raw_id].name for raw_id in kept),
      palette=_palette([classes[raw_id].color for raw_id in kept]),
      splits={split: len(names) for split, names in _splits(root, pictures, labels).items()},
      sources=functools.partial(_sources, root),
      label_map=label_map({**dict.fromkeys((*ignored, IGNORE_LABEL), IGNORE_LABEL),
                           **{raw_id: label for label, raw_id in enumerate(kept)}}),
      read_label=read_label,
      url=root,
      license="the user's own",
      root=root)


def originals(dataset, source_dir):
  """Returns the folder that a dataset is read from: the user's own, or else `source_dir`.

  Raises:
    UserError: if both are given.
  """
  if not isinstance(dataset, OwnDataset):
    return source_dir
  if source_dir and os.path.normpath(source_dir) != dataset.root:
    raise UserError(f'--source_dir={source_dir}: not needed, since --dataset is the folder of the originals')
  return dataset.root


def _check_layout(path, root):
  if not os.path.isdir(root):
    raise UserError(f'--dataset={path}: no such folder')
  missing = [name for name in ('images', 'labels', _CLASSES) if not os.path.exists(os.path.join(root, name))]
  if missing:
    raise UserError(f'--dataset={path}: a folder of your own images holds images, labels and {_CLASSES}; '
                    f'{" and ".join(missing)} {"is" if len(missing) == 1 else "are"} missing in {root}')


def _name(root, reserved):
  name = re.sub(r'[^A-Za-z0-9_.-]+', '_', os.path.basename(os.path.abspath(root))).strip('._-') or 'own'
  return f'own-{name}' if name in reserved else name


def read_classes(path):
  """Reads `classes.txt`.

  Returns:
    a list of ClassLine, in the file's order.

  Raises:
    UserError: naming the line, if it has another form or a name or a color comes twice; or if fewer than two classes
      are not ignored, or there are more classes than ids.
  """
  classes = [_parse_class(line, where) for where, line in lists.read_text(path) if not line.startswith('#')]
  places = {}
  for line in classes:
    lists.note_place(places, f'class {line.name!r}', line.where)
    if line.color:
      lists.note_place(places, f'color {",".join(map(str, line.color))}', line.where)
  if len(classes) > IGNORE_LABEL:
    raise UserError(f'{path}: {len(classes)} classes; at most {IGNORE_LABEL} have an id, {IGNORE_LABEL} itself is void')
  if sum(not line.ignore for line in classes) < 2:
    raise UserError(f'{path}: at least two classes that are not ignored are needed ("background" may be one)')
  return classes


def _parse_class(line, where):
  """Parses one line of `classes.txt`."""
  fields = re.sub(r'[\s,]+', ' ', line).strip().split(' ')
  ignore = fields[-1].lower() == 'ignore'
  fields = fields[:-1] if ignore else fields
  color = None
  if len(fields) > 3 and all(re.fullmatch(r'-?\d+', field) for field in fields[-3:]):
    color, fields = tuple(int(field) for field in fields[-3:]), fields[:-3]
    color_labels.check_color(color, where)
  name = ' '.join(fields)
  # A number before the name, or two after it, is a color or an id of another form: as a name it would go unnoticed.
  if not name or '#' in name or re.match(r'-?\d+\W?( |$)', name) or re.search(r' -?\d+ -?\d+$', name):
    raise UserError(f'{where}: {_FORM}; found {line!r}')
  return ClassLine(name, color, ignore, where)


def _palette(colors):
  """Gives the classes without a color a free color of `colormap`. Returns uint8 [C, 3]."""
  free = iter(color for color in map(tuple, colormap(256).tolist()) if color not in colors)
  return np.array([color or next(free) for color in colors], np.uint8)


def _pairs(root):
  """Lists images and labels: two dicts of name -> path."""
  found = []
  for kind in ('images', 'labels'):
    folder = os.path.join(root, kind)
    try:
      inner = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith('.'))
    except OSError as error:
      raise UserError(f'cannot list {folder}: {error.strerror}') from error
    if inner:
      raise UserError(f'{os.path.join(folder, inner[0])} is a folder; the pictures lie in {folder} itself, without '
                      'subfolders (train.txt and val.txt may list the names of a split)')
    found.append(lists.list_images(folder, EXTENSIONS))
    if not found[-1]:
      raise UserError(f'there is no picture in {folder} ({", ".join(EXTENSIONS)})')
  pictures, labels = found
  if pictures.keys().isdisjoint(labels):
    raise UserError(f'{root}: no label has the name of an image, as images/a.jpg and labels/a.png have; there are '
                    f'{next(iter(pictures.values()))} and {next(iter(labels.values()))}, for example')
  return pictures, labels


def _is_rgb(path):
  """Whether a PNG holds RGB or RGBA pixels, by its first bytes; None where the file is no PNG."""
  try:
    with open(path, 'rb') as file:
      header = images.png_header(file.read(images.PNG_HEADER))
  except OSError:  # the converter names the file
    return None
  return header and header[1] in (images.PNG_RGB, images.PNG_RGBA)


def _are_colors(labels, classes):
  """Whether the labels are colors, not ids. Raises UserError if there are both, or a class has no color."""
  kinds = {path: _is_rgb(path) for path in labels.values()}
  colors = [path for path, is_rgb in kinds.items() if is_rgb]
  ids = [path for path, is_rgb in kinds.items() if is_rgb is False]
  if colors and ids:
    raise UserError(f'labels must all be of one kind: {len(colors)} are RGB colors, such as {colors[0]}, and '
                    f'{len(ids)} are grayscale or palette pictures of ids, such as {ids[0]}')
  for line in classes if colors else ():
    if not line.color:
      raise UserError(f'{line.where}: the class {line.name!r} has no color, but labels such as {colors[0]} are RGB '
                      f'pictures (ids are to be grayscale or palette pictures); {_FORM}')
  return bool(colors)


def read_id_label(path, colors, ignored):
  """Reads a grayscale or palette picture of ids; refuses a picture whose colors contradict its ids.

  Args:
    path: file name of the picture.
    colors: tuple of ((r, g, b), raw_id) for the classes that have a color.
    ignored: tuple of the raw ids of void, beside 255.

  Returns:
    raw labels, uint8 [H, W].

  Raises:
    BadFile: as `images.read_label`; or if there are at least two pixel values, all are shown in colors of `colors`, and
      these stand for other classes than the values.
  """
  raw = images.read_label(path)
  place = np.full(256, -1)
  place[raw.ravel()] = np.arange(raw.size)  # position of a pixel of each value
  values = np.flatnonzero(place >= 0)
  if not colors or len(values) < 2:
    return raw
  known, void = dict(colors), {*ignored, IGNORE_LABEL}
  shown = [tuple(color) for color in images.read_rgb(path).reshape(-1, 3)[place[values]].tolist()]
  meant = {value: known.get(color) for value, color in zip(values.tolist(), shown)
           if value != IGNORE_LABEL or color in known}
  others = [value for value, raw_id in meant.items() if raw_id != value and not {raw_id, value} <= void]
  if len(meant) > 1 and others and None not in meant.values():
    raise images.BadFile(path, f'is a picture of ids, and shows id {others[0]} in the color that {_CLASSES} gives to '
                               f'id {meant[others[0]]}; if its colors are meant, save it as RGB, and if its ids are, '
                               f'correct the colors in {_CLASSES}')
  return raw


def _splits(root, pictures, labels):
  """Finds the names of each split: a dict of split -> list of ('FILE:LINE' of a list, or None; name)."""
  files = sorted(file for file in os.listdir(root) if _LIST.fullmatch(file) and file != _CLASSES)
  splits = {file.removesuffix('.txt'): _read_list(os.path.join(root, file), pictures.keys() | labels.keys())
            for file in files}
  if ('train' in splits) != ('val' in splits):
    present, missing = ('train', 'val') if 'train' in splits else ('val', 'train')
    raise UserError(f'{root} holds {present}.txt but no {missing}.txt; give both, or neither for a split by hash')
  if 'train' in splits:
    return splits
  listed = {name for names in splits.values() for _, name in names}
  pairs = sorted((pictures.keys() & labels.keys()) - listed)
  if len(pairs) < 2:
    raise UserError(f'{root}: {len(pairs)} pair of image and label is not enough for a train and a val split; list the '
                    'names in train.txt and val.txt, or add images')
  train, val = hash_split(pairs)
  for name in sorted((pictures.keys() ^ labels.keys()) - listed):  # the converter names the missing partner
    (val if _hash(name) < VAL_SHARE else train).append(name)
  return {**{split: [(None, name) for name in sorted(names)] for split, names in (('train', train), ('val', val))},
          **splits}


def _read_list(path, names):
  """Reads a list of names, without extensions where a name is not in `names` with its extension."""
  listed = []
  for where, line in lists.read_text(path):
    stem, extension = os.path.splitext(line)
    listed.append((where, stem if line not in names and extension.lower() in EXTENSIONS else line))
  return listed


def hash_split(names):
  """Splits names by their hashes; see the module's text.

  Args:
    names: list of at least two different names.

  Returns:
    `(train, val)`, two lists of names, neither empty.
  """
  ranked = sorted(names, key=_hash)
  num_val = sum(_hash(name) < VAL_SHARE for name in ranked)
  num_val = min(max(num_val, 1), len(ranked) - 1)
  return ranked[num_val:], ranked[:num_val]


def _hash(name):
  """Number from 0 to 1 that depends on the name alone."""
  digest = hashlib.sha256(os.fsencode(name)).digest()
  return int.from_bytes(digest[:8], 'big') / 2**64


def _sources(root, source_dir, split):
  """Lists a split of the user's folder; names without a partner are kept, for the converter to report."""
  del source_dir
  pictures, labels = _pairs(root)
  splits = _splits(root, pictures, labels)
  if split not in splits:
    raise UserError(f'{root} has no split {split!r}; it has {", ".join(splits)}')
  sources = []
  for where, name in splits[split]:
    if name not in pictures and name not in labels:
      raise UserError(f'{where}: there is no image and no label of the name {name!r} in {root}')
    sources.append(Source(name=name, image=pictures.get(name, os.path.join(root, 'images', f'{name}.*')),
                          label=labels.get(name, os.path.join(root, 'labels', f'{name}.png'))))
  lists.refuse_duplicates([source.name for source in sources], os.path.join(root, f'{split}.txt'))
  return sources
