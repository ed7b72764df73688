"""The pictures of the user's own folder: images and labels in pairs, and the splits that they belong to.

Images lie in `images`, labels in `labels` (or under another name of FOLDERS), in subfolders or not; a pair has the same
path below the two, but for the suffix. All labels may have an ending after their image's name, such as `_mask`; so
named they may lie beside the images. Folders `train/images` and `train/labels`, and so on for other splits, are the
same as `images/train` and `labels/train`.

Without lists, the subfolders `train`, `val` and `test` make the splits; without these an image belongs to val if the
SHA-256 of its name falls into the lowest fifth: other images and their order do not matter. Only where this leaves a
split empty, the image with the lowest hash goes to val, or the image with the highest to train. Names in other lists
are in neither. The split `all` has every pair.
"""

import collections
import dataclasses
import fnmatch
import hashlib
import os
import re
import unicodedata

from datasets.bands import find_band_files
from datasets.readers import lists
from utils.errors import UserError, listed

ALL = 'all'
VAL_SHARE = 0.2
EXTENSIONS = (*lists.IMAGE_EXTENSIONS, '.jfif', '.jpe', '.mpo', '.bmp', '.tif', '.tiff', '.webp', '.ppm', '.pgm',
              '.pbm', '.pnm', '.gif', '.avif', '.heic', '.heif', '.hif')
FOLDERS = {'images': ('images', 'image', 'imgs', 'img'),
           'labels': ('labels', 'label', 'masks', 'mask', 'annotations', 'gt')}
SPLITS = {'train': 'train', 'training': 'train', 'val': 'val', 'valid': 'val', 'validation': 'val', 'test': 'test',
          'testing': 'test'}  # name of a folder -> split
NO_LISTS = ('classes.txt', 'labels.txt', 'labelmap.txt', 'class_names.txt')  # class lists
_ENDINGS = re.compile(r'[ _.-]?(masks?|labels?|label(train)?ids|gt|gtfine|seg|segmentation|annotations?|l)',
                      re.IGNORECASE)
_LIST = re.compile(r'([a-z0-9_]+)\.txt')
LIST_FORM = ('a line of a list is a name, as cat1 for images/cat1.jpg, or the path of an image, or the paths of an '
              'image and its label')


@dataclasses.dataclass(frozen=True)
class Pictures:
  """The pictures below a folder.

  Attributes:
    root: the folder.
    images: dict of name -> path, or a tuple of paths with a band each.
    labels: dict of name -> path.
    notes: lines that say what was understood, such as an ending of all labels.
  """
  root: str
  images: dict
  labels: dict
  notes: tuple = ()

  @property
  def pairs(self):
    """Sorted list of the names that have both."""
    return sorted(self.images.keys() & self.labels.keys())


def find_folders(root):
  """Finds the folders of images and labels; their names may be in capitals.

  Args:
    root: the user's folder.

  Returns:
    dict of 'images' and 'labels' -> list of (prefix of the names, path of the folder); empty lists where there is none,
    and the same list for both where labels lie beside their images.
  """
  found = {kind: _folders_named(root, names, '')[:1] for kind, names in FOLDERS.items()}
  splits = _folders_named(root, SPLITS, '')
  for _, split in splits:
    prefix = f'{os.path.basename(split)}/'
    for kind, names in FOLDERS.items():
      found[kind] += _folders_named(split, names, prefix)[:1]
  if not found['images'] and not found['labels']:
    places = [('', root), *((f'{os.path.basename(path)}/', path) for _, path in splits)]
    together = [(prefix, path) for prefix, path in places if _labels_beside(_stems(path))]
    found = dict.fromkeys(FOLDERS, together)
  return found


def _folders_named(parent, names, prefix):
  """The subfolders of the given names, in any case, in the names' order: a list of (prefix, path)."""
  entries = sorted(entry.name for entry in os.scandir(parent) if entry.is_dir())
  return [(prefix, os.path.join(parent, entry)) for name in names for entry in entries if entry.lower() == name.lower()]


def _stems(path):
  """The names without suffix of the pictures in a folder itself."""
  return {os.path.splitext(entry.name)[0] for entry in os.scandir(path)
          if entry.name.lower().endswith(EXTENSIONS) and not entry.name.startswith('.')}


def _labels_beside(names):
  """Which of some names are those of labels: of a picture among them, with an ending such as _mask."""
  return {name for name in names for stem in [_without_ending(name)] if stem != name and stem in names}


def _without_ending(name):
  """A name without the ending of labels, such as _mask."""
  match = re.fullmatch(rf'(.+?)({_ENDINGS.pattern})', name, re.IGNORECASE)
  return match[1] if match else name


def find_pictures(root, band_names=()):
  """Finds images and labels and matches their names.

  Args:
    root: the user's folder.
    band_names: names of the bands, where dataset.json gives them: an image may then be a file for each band,
      `images/NAME_BAND.tif` or `images/NAME/BAND.tif`, and is a tuple of paths.

  Returns:
    a Pictures.

  Raises:
    UserError: if there are none, two have one name, or no label has the name of an image.
  """
  kinds, layout = {}, find_folders(root)
  for kind, folders in layout.items():
    kinds[kind] = {}
    for prefix, folder in folders:
      files = find_band_files(folder, band_names) if band_names and kind == 'images' else {}
      kinds[kind] |= {prefix + name: tuple(paths) for name, paths in files.items()} or _pictures_below(folder, prefix)
    if not kinds[kind]:
      raise UserError(f'there is no picture in {" or ".join(path for _, path in folders)} ({", ".join(EXTENSIONS)})')
  if layout['images'] == layout['labels']:
    names = _labels_beside(kinds['images'].keys())
    kinds = {'images': {name: path for name, path in kinds['images'].items() if name not in names},
             'labels': {name: path for name, path in kinds['labels'].items() if name in names}}
  return _matched(root, **kinds)


def _pictures_below(folder, prefix):
  """Lists the pictures of a folder and its subfolders: a dict of name -> path, a name in Unicode's form NFC."""
  def refuse(error):
    raise UserError(f'cannot list {error.filename}: {error.strerror}') from error

  found, seen = {}, set()
  for parent, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
    folders[:] = sorted(name for name in folders if not name.startswith('.'))
    if os.path.realpath(parent) in seen:  # a link back up
      folders.clear()
      continue
    seen.add(os.path.realpath(parent))
    for file in sorted(files):
      if file.lower().endswith(EXTENSIONS) and not file.startswith('.'):
        path = os.path.join(parent, file)
        stem = os.path.splitext(os.path.relpath(path, folder))[0].replace(os.sep, '/')
        name = unicodedata.normalize('NFC', prefix + stem)
        if name in found:
          raise UserError(f'{folder}: the name {name} comes twice, {os.path.basename(found[name])} and {file}; names '
                          'must be unique in a split')
        found[name] = path
  return found


def _matched(root, images, labels):
  """Makes the Pictures; takes an ending, such as _mask, off the names of labels where all of them have it."""
  if not images.keys().isdisjoint(labels):
    alone = sorted(images.keys() ^ labels.keys())
    return Pictures(root, images, labels, (f'without a partner: {listed(alone)}',) if alone else ())
  endings = collections.Counter()
  for name in labels:
    match = re.fullmatch(rf'(.+?)(\.(?:jpe?g|png|tiff?))?({_ENDINGS.pattern})?', name, re.IGNORECASE)
    endings[name[len(match[1]):]] += 1
  [(ending, count)] = endings.most_common(1)
  stripped = {name.removesuffix(ending): path for name, path in labels.items() if name.endswith(ending)}
  if count < len(labels) or not ending or images.keys().isdisjoint(stripped):
    raise UserError(f'{root}: no label has the name of an image, as images/a.jpg and labels/a.png have; there are '
                    f'{next(iter(images.values()))} and {next(iter(labels.values()))}, for example')
  return Pictures(root, images, stripped, (f'the labels have the names of the images and the ending {ending}',))


def find_splits(pictures, wanted=None):
  """Finds the names of each split.

  Args:
    pictures: a Pictures.
    wanted: dict of split -> patterns of names, from dataset.json; None for lists, subfolders or hashes.

  Returns:
    dict of split -> list of ('FILE:LINE' of a list, or None; name).

  Raises:
    UserError: naming the list and its line, or the pattern, that does not fit.
  """
  every = {ALL: [(None, name) for name in pictures.pairs]}
  if wanted is not None:
    return {**_by_patterns(pictures, wanted), **every}
  known = pictures.images.keys() | pictures.labels.keys()
  files = sorted(file for file in os.listdir(pictures.root) if _LIST.fullmatch(file) and file not in NO_LISTS)
  splits = {file.removesuffix('.txt'): read_list(os.path.join(pictures.root, file), known) for file in files}
  if ('train' in splits) != ('val' in splits):
    present, missing = ('train', 'val') if 'train' in splits else ('val', 'train')
    raise UserError(f'{pictures.root} holds {present}.txt but no {missing}.txt; give both, or neither for a split by '
                    'hash')
  if 'train' in splits:
    return {**every, **splits}
  folders = _by_folders(known)
  if {'train', 'val'} <= folders.keys():
    return {**every, **folders, **splits}
  if 'train' in folders:  # val comes from train, by hash
    return {**every, **folders, **_by_hash(pictures, [name for _, name in folders['train']]), **splits}
  if splits and not set(pictures.pairs) - {name for names in splits.values() for _, name in names}:
    return {**every, **splits}  # test.txt alone, which lists everything
  if folders or len(pictures.pairs) < 2:
    return {**every, **folders, **splits}
  elsewhere = {name for names in splits.values() for _, name in names}
  return {**every, **_by_hash(pictures, sorted(known - elsewhere)), **splits}


def _by_patterns(pictures, wanted):
  """The splits that dataset.json describes: patterns of names, lists in files, or 'rest' for what is in no other."""
  path, found, rest = os.path.join(pictures.root, 'dataset.json'), {}, []
  for split, patterns in wanted.items():
    found[split] = []
    for pattern in patterns:
      if pattern == 'rest':
        rest.append(split)
      elif pattern.endswith('.txt'):
        found[split] += read_list(lists.inside(pictures.root, pattern, path), pictures.images.keys())
      else:
        names = fnmatch.filter(pictures.pairs, unicodedata.normalize('NFC', pattern))
        if not names:
          raise UserError(f'{path}: splits: {split}: {pattern!r} fits no name, such as '
                          f'{listed(pictures.pairs, 3)}')
        found[split] += [(None, name) for name in names]
  taken = {name for names in found.values() for _, name in names}
  for split in rest:
    found[split] += [(None, name) for name in pictures.pairs if name not in taken]
  for split, names in found.items():
    if not names:
      raise UserError(f'{path}: splits: {split} is empty; nothing is left for "rest"')
  return {split: list(dict.fromkeys(names)) for split, names in found.items()}


def _by_folders(names):
  """The splits of names whose first folder is one of SPLITS; {} where there are other names."""
  found = collections.defaultdict(list)
  for name in sorted(names):
    found[SPLITS.get(name.split('/')[0].lower()) if '/' in name else None].append((None, name))
  return {} if None in found else dict(found)


def _by_hash(pictures, names):
  """The splits train and val by hash; a name without a partner goes where its hash says, and the converter names it."""
  train, val = hash_split([name for name in names if name in pictures.images and name in pictures.labels])
  for name in names:
    if not (name in pictures.images and name in pictures.labels):
      (val if _hash(name) < VAL_SHARE else train).append(name)
  return {'train': [(None, name) for name in sorted(train)], 'val': [(None, name) for name in sorted(val)]}


def read_list(path, known):
  """Reads a list of the pictures of a split; see LIST_FORM.

  Args:
    path: the list.
    known: names of all pictures.

  Returns:
    list of ('FILE:LINE', name).

  Raises:
    UserError: naming the line, if an image and a label in it have two names; or as `lists.read_text`.
  """
  return [(where, _listed_name(line, known, where)) for where, line in lists.read_text(path)]


def _listed_name(line, known, where):
  """The name of a picture that a line of a list means; the line itself where it means none."""
  name = _known_name(line, known)
  if name:
    return name
  names = [_known_name(field, known) or field for field in re.split(r'[\s,;]+', line) if field]
  if len(names) == 2 and names[0] in known:
    if _matches(*names):
      return names[0]
    raise UserError(f'{where}: {line!r} names two pictures, {names[0]} and {names[1]}; {LIST_FORM}')
  return unicodedata.normalize('NFC', line)


def _matches(image, label):
  """Whether the names in a line of a list are those of an image and its label, which may have an ending."""
  stem = os.path.splitext(label.replace('\\', '/').rpartition('/')[2])[0]
  return image == label or bool(_ENDINGS.fullmatch(stem.removeprefix(image.rpartition('/')[2])))


def _known_name(text, known):
  """Finds the name of a path or a file name: with or without suffix, with or without folders before it."""
  text = unicodedata.normalize('NFC', text.replace('\\', '/')).removeprefix('./')
  stem, extension = os.path.splitext(text)
  for name in (text, stem if extension.lower() in EXTENSIONS else text):
    if name in known:
      return name
    parts = name.split('/')
    for start in range(1, len(parts)):
      if parts[start - 1] != '..' and '/'.join(parts[start:]) in known:
        return '/'.join(parts[start:])
  return None


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
