"""Folders in PASCAL VOC's layout: the user's own, what labelme2voc writes, VOC itself.

    JPEGImages/a.jpg
    SegmentationClass/a.png                  or SegmentationClassPNG; .npy where labelme2voc wrote no PNG
    ImageSets/Segmentation/train.txt, val.txt   optional
    class_names.txt (or classes.txt, labels.txt)   the classes, the first of id 0

What the labels hold, ids, colors or values, is decided as for all pictures of the user's own (`own_labels`). Classes
without a color have that of VOC's palette in RGB labels; 255, the color 224,224,192 and labelme2voc's -1 are void.
Without a list of classes, labels in VOC's palette have VOC's own 21 classes.
"""

import dataclasses
import functools
import os
import re

import numpy as np
from PIL import Image

from datasets import images
from datasets.dataset import BadFile, Source, colormap
from datasets.readers import class_list, lists, own_labels, voc
from datasets.readers.annotations import classes, files, pictures, splits
from datasets.readers.annotations.record import Annotations
from datasets.readers.class_list import ClassLine
from datasets.readers.folder import ALL, EXTENSIONS
from utils.errors import UserError, listed
from utils.labels import IGNORE_LABEL

NAME = 'Pascal VOC'
LABELMAP = 'labelmap.txt'
VOID_COLOR = (224, 224, 192)  # color 255 of VOC's palette
MAX_PIXELS = 2**28  # greatest size of an array of labels, as of pictures
_CLASS_LISTS = ('class_names.txt', *classes.LISTS)
_LABELS = ('SegmentationClassPNG', 'SegmentationClass', 'SegmentationClassNpy')  # the first that there is
_IMAGES = ('JPEGImages', 'images', 'Images', '')
_LISTS = os.path.join('ImageSets', 'Segmentation')


def base(root):
  """Finds the folder of the layout: the folder itself or VOCdevkit/VOC2012 and the like in it; None without one.

  Raises:
    UserError: if there are several.
  """
  if os.path.isdir(os.path.join(root, 'SegmentationClass')) or os.path.isdir(os.path.join(root, _LABELS[0])):
    return root
  places = [os.path.join(root, place) for place in ('', 'VOCdevkit', 'TrainVal/VOCdevkit')]
  found = [os.path.join(place, folder) for place in places if os.path.isdir(place)
           for folder in sorted(os.listdir(place)) if re.fullmatch(r'VOC\d{4}', folder)]
  found = [folder for folder in found if os.path.isdir(os.path.join(folder, 'SegmentationClass'))]
  if len(found) > 1:
    raise UserError(f'--dataset={root} holds {" and ".join(found)}; give the path of one of them')
  return found[0] if found else None


def find(root):
  """Whether a folder is in VOC's layout, without CVAT's list of colors."""
  place = base(root)
  return bool(place) and not os.path.isfile(os.path.join(place, LABELMAP))


def read(root):
  """Reads a folder in VOC's layout; see `annotations.read`."""
  place = base(root)
  groups, notes = sources(place)
  labels = [source.label for group in groups.values() for source in group]
  lines, class_notes = _classes(place, labels)
  kept = [line for line in _with_voc_colors(lines) if not line.ignore]
  found, split_notes = splits.of_groups(groups, 'lists of ImageSets/Segmentation')
  return Annotations(form=NAME, classes=tuple(line.name for line in kept),
                     colors=tuple(line.color for line in kept), splits=found, lines=tuple(lines),
                     decide=functools.partial(decide, list(dict.fromkeys(labels)), lines),
                     notes=(*class_notes, *notes, *split_notes))


def _classes(place, labels):
  """Finds the classes.

  Args:
    place: folder of the layout.
    labels: paths of the labels.

  Returns:
    list of ClassLine; and notes.

  Raises:
    UserError: if nothing names the classes.
  """
  path = classes.list_path(place, _CLASS_LISTS)
  if path:
    lines = [dataclasses.replace(line, name=classes.canonical(line.name)) for line in class_list.read_classes(path)]
    notes = [f'classes and their order are those of {path}, the first of id {lines[0].raw_id} in the labels']
    if not any(line.color for line in lines):
      notes.append("the colors of RGB labels are those of VOC's palette, since the classes have none")
    return lines, notes
  if not _has_voc_palette(labels[0]):
    raise UserError(f'{place} has no list of classes ({", ".join(_CLASS_LISTS)}), and {labels[0]} is not in VOC\'s '
                    'palette; write the names of the classes to classes.txt, the first of id 0')
  return [ClassLine(name, tuple(color), False, raw_id, place)
          for raw_id, (name, color) in enumerate(zip(voc.CLASSES, voc.VOC.palette.tolist(), strict=True))], [
      f"classes are VOC's own 21, since the labels are in VOC's palette and there is none of {', '.join(_CLASS_LISTS)}"]


def _with_voc_colors(lines):
  """The lines of a list of classes, with the colors of VOC's palette, by id, where they have none of their own."""
  palette, given = list(map(tuple, colormap(256).tolist())), {line.color for line in lines}
  return [dataclasses.replace(line, color=line.color or next(iter({palette[line.raw_id]} - given), None))
          for line in lines]


def decide(paths, lines, told):
  """Decides how the labels are read.

  Args:
    paths: list of the labels.
    lines: list of ClassLine.
    told: dict of what the user says, see `dataset_file`.

  Returns:
    an own_labels.Meaning.

  Raises:
    UserError: as `own_labels.decide`.
  """
  labels, colored = told.get('labels'), _with_voc_colors(lines)
  if labels == 'colors' or labels is None and _in_colors(paths, {line.color for line in colored}):
    lines = colored
  colors = {line.color for line in lines}
  if colors != {None} and VOID_COLOR not in colors:
    lines = [*lines, ClassLine(own_labels.IGNORE, VOID_COLOR, True, IGNORE_LABEL, lines[0].where)]
  return own_labels.decide(paths, lines, labels=labels, transparent=told.get('transparent'))


def _in_colors(paths, known):
  """Whether there are RGB labels and one shows a color that is not gray, or all show no gray but those of classes."""
  found = set()
  for path in paths:
    header = images.read_header(path)
    if header and header.mode in ('RGB', 'RGBA'):
      found |= own_labels.colors_of(path)
      if any(len(set(color)) > 1 for color in found):
        return True
  return bool(found) and found <= known


def _has_voc_palette(path):
  """Whether a label is a palette picture in VOC's palette, or an RGB picture of VOC's colors."""
  if isinstance(path, Array):
    return False
  try:
    with Image.open(path, formats=('PNG',)) as picture:
      if picture.mode == 'P':
        table = np.array(picture.getpalette()[:3 * len(voc.CLASSES)])
        return len(table) >= 6 and (table == colormap(256).ravel()[:len(table)]).all()
      colors = picture.getcolors(256) if picture.mode == 'RGB' else None
  except Exception:  # Pillow raises nearly anything on broken data; the converter names the file
    return False
  known = {VOID_COLOR, *map(tuple, voc.VOC.palette.tolist())}
  return bool(colors) and {color for _, color in colors} <= known


@dataclasses.dataclass(frozen=True)
class Array(os.PathLike):
  """A label in a file of numpy, ids and -1 for void. `read_bytes` gives it as the grayscale PNG of the same ids."""
  path: str

  def __fspath__(self):
    return self.path

  def __str__(self):
    return self.path

  def read_bytes(self):
    """Returns a PNG, with 255 for -1. Raises BadFile if there is no array, or of other values."""
    try:
      array = np.load(self.path, mmap_mode='r', allow_pickle=False)
    except Exception as error:  # numpy raises nearly anything on broken data
      raise BadFile(self.path, f'is no array of numpy: {error}') from error
    if not isinstance(array, np.ndarray):
      raise BadFile(self.path, 'is an archive of arrays; a label is one array, as numpy.save writes it')
    if array.ndim != 2 or array.dtype.kind not in 'iu' or not 0 < array.size <= MAX_PIXELS:
      raise BadFile(self.path, f'is an array of {array.dtype} {array.shape}; a label is whole numbers [height, width]')
    array = np.where(array == -1, IGNORE_LABEL, array)
    if array.min() < 0 or array.max() > IGNORE_LABEL:
      raise BadFile(self.path, f'has label values from {array.min()} to {array.max()}; ids are 0 to 255, -1 is void')
    return images.encode_png(array.astype(np.uint8), level=1)


def sources(place):
  """Lists the labels and their images.

  Args:
    place: folder of the layout.

  Returns:
    dict of list name, such as 'train', or 'all' -> Sources; and notes.

  Raises:
    UserError: if there is no label or none of the images is there.
  """
  labels = _labels(place)
  if not labels:
    raise UserError(f'there is no label in {os.path.join(place, "SegmentationClass")}')
  index, found = pictures.Pictures(place), {}
  for name in labels:
    image = index.at(*(os.path.join(folder, f'{name}.jpg') for folder in _IMAGES))
    found[name] = Source(name=name.replace(os.sep, '/'), image=image or os.path.join(place, _IMAGES[0], f'{name}.jpg'),
                         label=labels[name])
  if not any(os.path.exists(source.image) for source in found.values()):
    source = next(iter(found.values()))
    raise UserError(f'{place} holds labels but no image of theirs, such as {source.image} for {source.label}; export '
                    'with the images, or put them into JPEGImages')
  return _listed_sources(place, found)


def _labels(place):
  """Lists the labels: dict of name -> path, or Array."""
  for folder in _LABELS:
    for extension, form in (('.png', str), ('.npy', Array)):
      found = files.walk(os.path.join(place, folder), (extension,))
      if found:
        lists.refuse_duplicates([files.stem(file) for file in found], os.path.join(place, folder))
        return {files.stem(file): form(os.path.join(place, folder, file)) for file in found}
  return {}


def _listed_sources(place, found):
  """Puts the sources into the splits of ImageSets/Segmentation; without lists, into 'all'."""
  folder = os.path.join(place, _LISTS)
  listing = sorted(file for file in os.listdir(folder) if file.endswith('.txt')) if os.path.isdir(folder) else []
  listing = [file for file in listing if os.path.getsize(os.path.join(folder, file))]
  if not listing:
    return {ALL: list(found.values())}, []
  groups, notes = {}, []
  for file in listing:
    path = os.path.join(folder, file)
    names = [_listed_name(line, found) for _, line in lists.read_text(path)]
    lists.refuse_duplicates(names, path)
    kept = [found[name] for name in names if name in found]
    if kept:
      groups[file.removesuffix('.txt')] = kept
    if len(kept) < len(names):
      missing = [name for name in names if name not in found]
      notes.append(f'{path}: {len(missing)} of {len(names)} names have no label and are left out: {listed(missing, 3)}')
  if not groups:
    raise UserError(f'none of the names in {folder} has a label; there are labels of {listed(found, 3)}')
  unlisted = found.keys() - {source.name.replace('/', os.sep) for group in groups.values() for source in group}
  if unlisted:
    notes.append(f'{len(unlisted)} labels stand in no list of {folder} and are left out: {listed(sorted(unlisted), 3)}')
  return groups, notes


def _listed_name(line, known):
  """Returns the name on a line of a list, which may stand in quotes or have an extension."""
  name = os.path.normpath(line.strip().strip('"'))
  return name if name in known or not name.lower().endswith(EXTENSIONS) else files.stem(name)
