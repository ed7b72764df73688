"""CVAT's export "Segmentation mask 1.1", and others of datumaro's VOC form: colors, named in labelmap.txt.

    labelmap.txt                    a label on each line: `name:red,green,blue:parts:actions`
    SegmentationClass/a.png         RGB in these colors; or grayscale, whose values count the lines from 0
    JPEGImages/a.jpg                where the export was made with its images; otherwise beside, under these names
    ImageSets/Segmentation/default.txt
"""

import dataclasses
import functools
import os

import numpy as np

from datasets import images, label_pictures
from datasets.dataset import colormap, label_map
from datasets.readers import class_list, color_labels
from datasets.readers.annotations import classes, splits, voc_folder
from datasets.readers.annotations.record import Annotations
from utils.errors import UserError
from utils.labels import IGNORE_LABEL

NAME = 'CVAT segmentation masks'
_VOC_VOID = 'ignored', voc_folder.VOID_COLOR  # datumaro's name of VOC's void, and its color


def find(root):
  """Whether a folder holds masks and a labelmap.txt."""
  place = voc_folder.base(root)
  return bool(place) and os.path.isfile(os.path.join(place, voc_folder.LABELMAP))


def read(root):
  """Reads the masks in a folder; see `annotations.read`."""
  place = voc_folder.base(root)
  path = os.path.join(place, voc_folder.LABELMAP)
  labels = _labelmap(path)
  groups, notes = voc_folder.sources(place)
  places = {label: line.where for label, line in labels.items()}
  colors = {label: line.color for label, line in labels.items()}
  if (0, 0, 0) not in colors.values() and classes.BACKGROUND not in colors:
    places = {classes.BACKGROUND: 'black', **places}
    colors[classes.BACKGROUND] = (0, 0, 0)
    notes.append(f'black, which is the color of no label in {path}, is {classes.BACKGROUND}')
  chosen = classes.choose(place, places, places, colors)
  table = {(0, 0, 0): chosen.rest, **{color: chosen.raws[label] for label, color in colors.items()}}
  sources, split_notes = splits.of_groups(groups, 'lists of ImageSets/Segmentation')
  return Annotations(
      form=NAME, classes=chosen.names, colors=chosen.colors, splits=sources,
      read_label=functools.partial(read_label, colors=tuple(table.items()),
                                   ids=tuple((line.raw_id, chosen.raws[label]) for label, line in labels.items())),
      notes=(*chosen.notes, *notes, *split_notes))


def _labelmap(path):
  """Reads a labelmap.txt: dict of label -> ClassLine, in the file's order.

  Where no label has a color, they have those of VOC's palette, as in datumaro.
  """
  lines = class_list.read_classes(path)
  colorless = [line.where for line in lines if not line.color]
  if colorless and len(colorless) < len(lines):
    raise UserError(f'{colorless[0]}: the label has no color, and others have; add it, as in "road:128,64,128::"')
  if colorless:
    lines = [dataclasses.replace(line, color=tuple(color)) for line, color in zip(lines, colormap(256).tolist())]
  return {classes.VOID if line.ignore or (line.name, line.color) == _VOC_VOID else classes.canonical(line.name): line
          for line in lines}


def read_label(path, colors, ids):
  """Reads a mask.

  Args:
    path: path of a picture.
    colors: tuple of ((r, g, b), raw label).
    ids: tuple of (number of a line of labelmap.txt, raw label), for grayscale pictures.

  Returns:
    raw labels, uint8 [H, W].

  Raises:
    BadFile: naming a color or a value that stands for no label.
  """
  if not _is_gray(path):
    return color_labels.read_color_label(path, colors)
  table = {IGNORE_LABEL: IGNORE_LABEL, **dict(ids)}
  grays = {color[0]: value for color, value in colors if len(set(color)) == 1}
  raw = label_pictures.read_label(path)
  contradictions = [value for value in np.unique(raw).tolist() if value in grays and grays[value] != table.get(value)]
  if contradictions:
    raise images.BadFile(path, f'is grayscale, and its value {contradictions[0]} means another label as the number '
                               f'of a line of {voc_folder.LABELMAP} than as a color; save it as RGB')
  return label_pictures.to_ids(raw, label_map(table), path)


def _is_gray(path):
  """Whether a file is a grayscale PNG."""
  try:
    header = images.png_header(images.read_bytes(path, images.PNG_HEADER))
  except images.BadFile:  # reading it names the file
    return False
  return bool(header) and header[1] == images.PNG_GRAY
