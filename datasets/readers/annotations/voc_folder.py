"""Folders in PASCAL VOC's layout: the user's own, what labelme2voc writes, VOC itself.

    JPEGImages/a.jpg
    SegmentationClass/a.png                  or SegmentationClassPNG; .npy where labelme2voc wrote no PNG
    ImageSets/Segmentation/train.txt, val.txt   optional
    class_names.txt (or classes.txt, labels.txt)   the classes, the first of id 0

Palette and grayscale labels hold ids, as everywhere; colors of RGB labels are those of the list of classes, and where
it has none, those of VOC's palette. 255, the color 224,224,192 and labelme2voc's -1 are void. Without a list of
classes, labels in VOC's palette have VOC's own 21 classes.
"""

import functools
import os
import re

import numpy as np
from PIL import Image

from datasets import images, label_pictures
from datasets.dataset import BadFile, Source, colormap, label_map
from datasets.readers import class_list, color_labels, lists, voc
from datasets.readers.annotations import classes, files, pictures, splits
from datasets.readers.annotations.record import Annotations
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
  names, colors, ids, table, class_notes = _class_table(place, labels)
  found, split_notes = splits.of_groups(groups, 'lists of ImageSets/Segmentation')
  table = {VOID_COLOR: IGNORE_LABEL, **dict(table)}
  return Annotations(form=NAME, classes=names, colors=colors, splits=found,
                     read_label=functools.partial(read_label, ids=ids, colors=tuple(table.items())),
                     notes=(*class_notes, *notes, *split_notes))


def _class_table(place, labels):
  """Finds the classes.

  Args:
    place: folder of the layout.
    labels: paths of the labels.

  Returns:
    class names; for each a color; for each id that the labels may hold (id, raw label or IGNORE_LABEL); for each color
    that RGB labels may hold (color, raw label or IGNORE_LABEL); and notes.

  Raises:
    UserError: if nothing names the classes.
  """
  path = classes.list_path(place, _CLASS_LISTS)
  palette = [tuple(color) for color in colormap(256).tolist()]
  if not path:
    if not _has_voc_palette(labels[0]):
      raise UserError(f'{place} has no list of classes ({", ".join(_CLASS_LISTS)}), and {labels[0]} is not in VOC\'s '
                      'palette; write the names of the classes to classes.txt, the first of id 0')
    ids = tuple((index, index) for index in range(len(voc.CLASSES)))
    return voc.CLASSES, tuple(palette[:len(ids)]), ids, tuple((palette[index], index) for index, _ in ids), [
        "classes are VOC's own 21, since the labels are in VOC's palette and there is none of "
        + ', '.join(_CLASS_LISTS)]
  lines = class_list.read_classes(path)
  given, kept = {line.color for line in lines}, [line for line in lines if not line.ignore]
  colors = {line.name: line.color or next(iter({palette[line.raw_id]} - given), None) for line in lines}
  raw = {line.name: IGNORE_LABEL if line.ignore else kept.index(line) for line in lines}
  notes = [f'classes and their order are those of {path}, the first of id {lines[0].raw_id} in the labels']
  if given == {None}:
    notes.append("the colors of RGB labels are those of VOC's palette, since the classes have none")
  return (tuple(classes.canonical(line.name) for line in kept), tuple(colors[line.name] for line in kept),
          tuple((line.raw_id, raw[line.name]) for line in lines),
          tuple((color, raw[name]) for name, color in colors.items() if color), notes)


def _has_voc_palette(path):
  """Whether a label is a palette picture in VOC's palette, or an RGB picture of VOC's colors."""
  if path.endswith('.npy'):
    return False
  try:
    with Image.open(path, formats=('PNG',)) as picture:
      if picture.mode == 'P':
        table = np.array(picture.getpalette()[:3 * len(voc.CLASSES)])
        return len(table) >= 6 and (table == colormap(256).ravel()[:len(table)]).all()
      colors = picture.getcolors(256) if picture.mode == 'RGB' else None
  except OSError:  # the converter names the file
    return False
  known = {VOID_COLOR, *map(tuple, voc.VOC.palette.tolist())}
  return bool(colors) and {color for _, color in colors} <= known


def read_label(path, ids, colors):
  """Reads a label of ids or colors.

  Args:
    path: path of a picture or of an .npy file.
    ids: tuple of (id, raw label or IGNORE_LABEL).
    colors: tuple of (color, raw label), for RGB pictures.

  Returns:
    raw labels, uint8 [H, W].

  Raises:
    BadFile: naming a value or a color that stands for no class.
  """
  if path.endswith('.npy'):
    values = _read_array(path)
  elif png_color(path) in (images.PNG_RGB, images.PNG_RGBA):
    return color_labels.read_color_label(path, colors)
  else:
    values = label_pictures.read_label(path)
  return label_pictures.to_ids(values, label_map({IGNORE_LABEL: IGNORE_LABEL, **dict(ids)}), path)


def png_color(path):
  """Returns the color type of a PNG, such as images.PNG_RGB; None where the file is no PNG."""
  try:
    with open(path, 'rb') as file:
      header = images.png_header(file.read(images.PNG_HEADER))
  except OSError:  # reading it names the file
    return None
  return header and header[1]


def _read_array(path):
  """Reads an array of ids, -1 for void: uint8 [H, W]."""
  try:
    array = np.load(path, mmap_mode='r', allow_pickle=False)
  except Exception as error:  # numpy raises nearly anything on broken data
    raise BadFile(path, f'is no array of numpy: {error}') from error
  if array.ndim != 2 or array.dtype.kind not in 'iu' or not 0 < array.size <= MAX_PIXELS:
    raise BadFile(path, f'is an array of {array.dtype} {array.shape}; a label is whole numbers [height, width]')
  array = np.where(array == -1, IGNORE_LABEL, array)
  if array.min() < 0 or array.max() > IGNORE_LABEL:
    raise BadFile(path, f'has label values from {array.min()} to {array.max()}; ids are 0 to 255, -1 is void')
  return array.astype(np.uint8)


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
  """Lists the labels: dict of name -> path."""
  for folder in _LABELS:
    for extension in ('.png', '.npy'):
      found = files.walk(os.path.join(place, folder), (extension,))
      if found:
        lists.refuse_duplicates([files.stem(file) for file in found], os.path.join(place, folder))
        return {files.stem(file): os.path.join(place, folder, file) for file in found}
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
