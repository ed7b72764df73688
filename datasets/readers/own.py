"""The user's own images and labels, from a folder of this layout:

    PATH/images/NAME.jpg   (or another picture format; in subfolders or not, see `folder`)
    PATH/labels/NAME.png   of the same size
    PATH/classes.txt       the class list, see `class_list`
    PATH/train.txt, PATH/val.txt   optional: a NAME on each line; other lists, such as test.txt, make further splits
    PATH/dataset.json      optional: how the pictures are read, where they do not prove it, see `dataset_file`

or from the export of an annotation tool (`annotations`). Labels are ids, colors, or values of the user's own, which is
decided once for the whole dataset (`own_labels`), as is how images are read (`survey`). The ids that are trained and
scored number the classes that are not ignored, in the order of the class list; 255 is always void.
"""

import collections
import dataclasses
import functools
import os
import re
import unicodedata
from collections.abc import Callable

import numpy as np

from datasets import survey
from datasets.dataset import Dataset, Source, colormap, label_map
from datasets.readers import annotations, class_list, dataset_file, folder, lists, own_labels
from datasets.reading import Decision
from utils.errors import UserError
from utils.labels import IGNORE_LABEL

CLASSES = 'classes.txt'
CLASS_LISTS = (CLASSES, 'labels.txt', 'labelmap.txt', 'class_dict.csv', 'class_names.txt', 'train/_classes.csv',
               '_classes.csv')  # the first that is there; the last two are Roboflow's


@dataclasses.dataclass(frozen=True, eq=False)
class OwnDataset(Dataset):
  """A Dataset with a folder of originals of its own.

  Its pictures are looked at by `decided` alone; until then `read_label` is None and `reading` the default.

  Attributes:
    root: the user's folder; `sources` reads there and ignores its `source_dir`.
    told: dict of what dataset.json and flags say of its pictures, see `dataset_file`.
    decide: `decide(told)` -> dict of the attributes that are decided by the pictures.
  """
  root: str = ''
  told: dict = dataclasses.field(default_factory=dict)
  decide: Callable | None = None


def own_dataset(path, reserved=()):
  """Makes the record of the user's own dataset.

  Args:
    path: folder of the layout above, or of an annotation tool's export.
    reserved: names of other datasets; the dataset of a folder with such a name gets 'own-' before it.

  Returns:
    an OwnDataset, its splits with the number of images found.

  Raises:
    UserError: naming the file and line, where the layout, the class list, dataset.json or a list is not as described.
  """
  root = os.path.normpath(path)
  if not os.path.isdir(root):
    raise UserError(f'--dataset={path}: no such folder')
  told = dataset_file.read(root)
  name = _name(told.get('name') or os.path.basename(os.path.abspath(root)), reserved)
  layout = folder.find_folders(root)
  listing = _class_list(root)
  if listing and all(_hold_pictures(layout[kind]) for kind in ('images', 'labels')):
    return _of_pictures(root, name, told, listing)
  exported = annotations.read(root)
  if exported:
    return _of_annotations(root, name, told, exported)
  missing = [kind for kind in ('images', 'labels') if not layout[kind]] + ([] if listing else [CLASSES])
  if not missing:
    folder.find_pictures(root)  # says where none is
  raise UserError(f'--dataset={path}: a folder of your own images holds images, labels and {CLASSES}; '
                  f'{" and ".join(missing)} {"is" if len(missing) == 1 else "are"} missing in {root}, and it is no '
                  f'export that is understood ({annotations.known()})')


def _class_list(root):
  """Path of the folder's class list; None if it has none."""
  return next((path for name in CLASS_LISTS if os.path.isfile(path := os.path.join(root, name))), None)


def _of_pictures(root, name, told, listing):
  """The OwnDataset of a folder of images and of labels that are pictures."""
  classes = class_list.read_classes(listing)
  own_labels.check_names(told, classes, os.path.join(root, dataset_file.FILE))
  pictures = folder.find_pictures(root, told.get('bands', ()))
  splits = folder.find_splits(pictures, told.get('splits'))
  kept = [line for line in classes if not line.ignore]
  return OwnDataset(
      name=name, classes=tuple(line.name for line in kept), palette=_palette([line.color for line in kept]),
      splits={split: len(names) for split, names in splits.items()},
      sources=functools.partial(_sources, pictures, splits),
      label_map=_label_map(classes),
      url=root, license="the user's own", root=root, told=told,
      decide=functools.partial(_decide_pictures, pictures, classes))


def _label_map(classes):
  """The label_map of labels with the raw ids of ClassLines."""
  kept = [line for line in classes if not line.ignore]
  void = {line.raw_id for line in classes if line.ignore} | {IGNORE_LABEL}
  return label_map({**dict.fromkeys(void, IGNORE_LABEL), **{line.raw_id: i for i, line in enumerate(kept)}})


def _decide_pictures(pictures, classes, told):
  """Looks at all pictures and decides how they are read. Returns a dict of attributes of the OwnDataset."""
  sources = [Source(name, pictures.images[name], pictures.labels[name]) for name in pictures.pairs]
  reading, decisions = survey.decide(sources, told)
  meaning = own_labels.decide([source.label for source in sources], classes, labels=told.get('labels'),
                              transparent=told.get('transparent'))
  notes = [Decision('files', note, 'as found') for note in pictures.notes]
  return {'reading': reading, 'decisions': (*notes, *decisions, *meaning.decisions), **_label_reading(meaning, classes)}


def _label_reading(meaning, classes):
  """The attributes of an OwnDataset that the Meaning of labels of ClassLines gives."""
  values = [meaning.values.get(line.raw_id) for line in classes if not line.ignore]
  return {'read_label': meaning.read_label, 'label_values': () if None in values else tuple(values)}


def _of_annotations(root, name, told, exported):
  """The OwnDataset of an annotation tool's export."""
  if exported.lines:
    own_labels.check_names(told, exported.lines, os.path.join(root, dataset_file.FILE))
  splits = dict(exported.splits)
  if folder.ALL not in splits:
    splits[folder.ALL] = _union(splits)
  pool = 'train' if 'train' in splits else folder.ALL
  if 'splits' in told:
    splits = _told_splits(root, splits[folder.ALL], told['splits'])
  elif not {'train', 'val'} <= splits.keys() and len(splits[pool]) > 1:
    held_out = {source.image for source in splits.get('test', ())} if len(splits) > 2 else ()
    sources = [source for source in splits[pool] if source.image not in held_out]
    chosen = folder.hash_split([source.name for source in sources])
    splits |= {split: [source for source in sources if source.name in names]
               for split, names in zip(('train', 'val'), map(set, chosen))}
    note = f'about a fifth of {pool} is val, by a hash of the names'
    exported = dataclasses.replace(exported, notes=(*exported.notes, note))
  return OwnDataset(
      name=name, classes=exported.classes, palette=_palette(exported.colors),
      splits={split: len(sources) for split, sources in splits.items()},
      sources=functools.partial(_listed_sources, splits),
      label_map=_label_map(exported.lines) if exported.lines else label_map(
          {IGNORE_LABEL: IGNORE_LABEL, **{i: i for i in range(len(exported.classes))}}),
      url=root, license="the user's own", root=root, told=told,
      decide=functools.partial(_decide_annotations, exported, splits[folder.ALL]))


def _told_splits(root, sources, wanted):
  """The splits of an export that dataset.json describes: dict of split -> list of `sources`."""
  named, splits = {unicodedata.normalize('NFC', source.name): source for source in sources}, {}
  for split, names in folder.find_splits(folder.Pictures(root, named, named), wanted).items():
    for where, name in names:
      if name not in named:
        raise UserError(f'{where}: there is no image of the name {name!r} in {root}; {folder.LIST_FORM}')
    splits[split] = [named[name] for _, name in names]
    lists.refuse_duplicates([name for _, name in names], f'{os.path.join(root, dataset_file.FILE)}: split {split}')
  return splits


def _union(splits):
  """The sources of all splits, each image once; names that two images have get their splits before them, 'train/a'."""
  found = {source.image: (split, source) for split, sources in splits.items() for source in sources}
  counts = collections.Counter(source.name for _, source in found.values())
  union = [source if counts[source.name] == 1 else dataclasses.replace(source, name=f'{split}/{source.name}')
           for split, source in found.values()]
  lists.refuse_duplicates([source.name for source in union], f'split {folder.ALL}')
  return sorted(union, key=lambda source: source.name)


def _decide_annotations(exported, sources, told):
  """As `_decide_pictures`, for an export."""
  reading, decisions = survey.decide(sources, told)
  notes = [Decision('files', note, exported.form) for note in exported.notes]
  if exported.decide:
    meaning = exported.decide(told)
    return {'reading': reading, 'decisions': (*notes, *decisions, *meaning.decisions),
            **_label_reading(meaning, exported.lines)}
  for key in ('labels', 'transparent'):
    if key in told:
      raise UserError(f'{key} is {told[key]!r}, and labels of {exported.form} are read as the export says; leave it '
                      'out')
  read_label = exported.read_label
  if 'turned' in getattr(read_label, 'keywords', {}):  # labels of the sizes of their pictures
    read_label = functools.partial(read_label, turned=reading.exif == 'turn')
  return {'reading': reading, 'read_label': read_label, 'decisions': (*notes, *decisions)}


def decided(dataset, flags=None):
  """Looks at the pictures of the user's own dataset and decides how they are read; other datasets stay as they are.

  Args:
    dataset: a Dataset.
    flags: dict of what flags say, see `dataset_file.checked`; they go before dataset.json.

  Returns:
    a Dataset with `reading`, `read_label`, `label_values` and `decisions`.

  Raises:
    UserError: if flags are given for a dataset that is not the user's own; or where two readings differ and nothing
      proves one.
  """
  check_told(dataset, flags)
  if not isinstance(dataset, OwnDataset):
    return dataset
  told = {**dataset.told, **(flags or {})}
  return dataclasses.replace(dataset, told=told, **dataset.decide(told))


def check_told(dataset, flags):
  """Raises UserError if flags, see `decided`, say how to read a dataset that is not the user's own."""
  for name in flags or () if not isinstance(dataset, OwnDataset) else ():
    raise UserError(f'--{name}: {dataset.name} is read as it was published; the flag is for folders of your own')


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


def _hold_pictures(folders):
  """Whether one of some folders, (prefix, path), holds a picture, at any depth."""
  return any(file.lower().endswith(folder.EXTENSIONS) for _, path in folders for _, _, files in os.walk(path)
             for file in files)


def _name(name, reserved):
  name = re.sub(r'[^A-Za-z0-9_.-]+', '_', name).strip('._-') or 'own'
  return f'own-{name}' if name in reserved else name


def _palette(colors):
  """Gives the classes without a color a free color of `colormap`. Returns uint8 [C, 3]."""
  free = iter(color for color in map(tuple, colormap(256).tolist()) if color not in colors)
  return np.array([color or next(free) for color in colors], np.uint8)


def _sources(pictures, splits, source_dir, split):
  """Lists a split of the user's folder; names without a partner are kept, for the converter to report."""
  del source_dir
  if split not in splits:
    raise UserError(f'{pictures.root} has no split {split!r}; it has {", ".join(splits)}')
  sources = []
  for where, name in splits[split]:
    if name not in pictures.images and name not in pictures.labels:
      raise UserError(f'{where}: there is no image and no label of the name {name!r} in {pictures.root}; '
                      f'{folder.LIST_FORM}')
    sources.append(Source(
        name=name, image=pictures.images.get(name, os.path.join(pictures.root, 'images', f'{name}.*')),
        label=pictures.labels.get(name, os.path.join(pictures.root, 'labels', f'{name}.png'))))
  lists.refuse_duplicates([source.name for source in sources], os.path.join(pictures.root, f'{split}.txt'))
  return sources


def _listed_sources(splits, source_dir, split):
  """The Sources of a split of an export."""
  del source_dir
  if split not in splits:
    raise UserError(f'there is no split {split!r}; there are {", ".join(splits)}')
  return splits[split]
