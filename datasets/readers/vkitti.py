"""Virtual KITTI 1.3.1 and 2: five driving sequences of KITTI rendered under ten conditions each, 1242x375.

Gaidon, Wang, Cabon and Vig, "Virtual worlds as proxy for multi-object tracking analysis", CVPR 2016; Cabon, Murray and
Humenberger, "Virtual KITTI 2", 2020. Labels are pictures in colors. In 1.3.1 every vehicle has a color of its own, by a
list for each video; in 2 every class has the same color in all videos.

There is no official split for segmentation. Here a whole world is held out, under all conditions, since frames of a
world are nearly the same under all of them. val is 0002, a town with a busy crossing, as 0001 and 0006 are; these two,
the road through woods 0018 and the motorway 0020 are train. `val_clone` is the part of val under the conditions of the
real video: a tenth, for evaluation during training. Images of Virtual KITTI 2 are those of the left camera, Camera_0,
as in 1.3.1.
"""

import functools
import itertools
import os

import numpy as np

from datasets.dataset import Dataset, Source, label_map
from datasets.readers import lists
from datasets.readers.archives import ARCHIVES
from datasets.readers.color_labels import check_color, read_color_label
from utils.errors import UserError
from utils.labels import IGNORE_LABEL

# Class -> its color in Virtual KITTI 2 (colors.txt).
COLORS = {
    'Terrain': (210, 0, 200), 'Sky': (90, 200, 255), 'Tree': (0, 199, 0), 'Vegetation': (90, 240, 0),
    'Building': (140, 140, 140), 'Road': (100, 60, 100), 'GuardRail': (250, 100, 255), 'TrafficSign': (255, 255, 0),
    'TrafficLight': (200, 200, 0), 'Pole': (255, 130, 0), 'Misc': (80, 80, 80), 'Truck': (160, 60, 60),
    'Car': (255, 127, 80), 'Van': (0, 139, 139)}
CLASSES = tuple(COLORS)
_UNDEFINED = {'Undefined': (0, 0, 0)}
_RAW = {**{name: label for label, name in enumerate(CLASSES)}, 'Undefined': IGNORE_LABEL}
COLORS2 = tuple((color, _RAW[name]) for name, color in {**COLORS, **_UNDEFINED}.items())

FRAMES = {'0001': 447, '0002': 233, '0006': 270, '0018': 339, '0020': 837}  # 2126, ten times over 21260
VARIATIONS = ('clone', '15-deg-left', '15-deg-right', '30-deg-left', '30-deg-right', 'fog', 'morning', 'overcast',
              'rain', 'sunset')
_VIDEOS = {  # split -> worlds and variations
    'train': (('0001', '0006', '0018', '0020'), VARIATIONS),
    'val': (('0002',), VARIATIONS),
    'val_clone': (('0002',), ('clone',))}
SPLITS = {split: len(variations) * sum(FRAMES[world] for world in worlds)
          for split, (worlds, variations) in _VIDEOS.items()}


def _sources(source_dir, split):
  """Lists a split of 1.3.1, as far as its videos are there."""
  root = lists.find_root(source_dir, ('vkitti', ''), 'vkitti_1.3.1_scenegt', dataset='vkitti')
  sources = []
  for world, variation in itertools.product(*_VIDEOS[split]):
    folders = [os.path.join(root, f'vkitti_1.3.1_{kind}', world, variation) for kind in ('rgb', 'scenegt')]
    if any(map(os.path.isdir, folders)):
      _read_encoding(_encoding_path(folders[1]))  # reports its mistakes before any label is read
      sources += _pair(*folders, name=f'{world}_{variation}_{{}}', image_name='{}.png', label_name='{}.png')
  return sources


def _sources2(source_dir, split):
  """Lists a split of Virtual KITTI 2, unpacked into one folder or into a folder for each archive."""
  root, parts = _find2(source_dir)
  sources = []
  for world, variation in itertools.product(*_VIDEOS[split]):
    video = os.path.join(_scene(world), variation)
    _check_colors(os.path.join(root, parts['textgt'], video, 'colors.txt'))
    folders = [os.path.join(root, parts[kind], video, 'frames', kind, 'Camera_0')
               for kind in ('rgb', 'classSegmentation')]
    if any(map(os.path.isdir, folders)):
      sources += _pair(*folders, name=f'{world}_{variation}_{{}}', image_name='rgb_{}.jpg',
                       label_name='classgt_{}.png')
  return sources


def _scene(world):
  """Name of a world in Virtual KITTI 2: Scene01 for 0001."""
  return f'Scene{world[2:]}'


def _find2(source_dir):
  """Finds Virtual KITTI 2.

  Returns:
    its folder, and a dict from each part to the part's folder in it: '' where all parts are unpacked to the same
    folder, else the name of the part's archive.
  """
  parts = {kind: f'vkitti_2.0.3_{kind}' for kind in ('rgb', 'classSegmentation', 'textgt')}
  for root in (os.path.join(source_dir, 'vkitti2'), source_dir):
    if any(os.path.isdir(os.path.join(root, _scene(world))) for world in FRAMES):
      return root, dict.fromkeys(parts, '')
  return lists.find_root(source_dir, ('vkitti2', ''), parts['classSegmentation'], dataset='vkitti2'), parts


def _pair(image_folder, label_folder, *, name, image_name, label_name):
  """Lists a video; frames without an image or a label are kept, for the converter to report.

  Args:
    image_folder, label_folder: paths.
    name, image_name, label_name: names of a frame and its files, with {} in the place of its number.
  """

  def frames(folder, pattern):
    prefix = pattern.partition('{')[0]
    return {stem.removeprefix(prefix): path for stem, path in lists.list_images(folder).items()
            if stem.startswith(prefix)}

  images, labels = frames(image_folder, image_name), frames(label_folder, label_name)
  return [Source(name=name.format(frame),
                 image=images.get(frame, os.path.join(image_folder, image_name.format(frame))),
                 label=labels.get(frame, os.path.join(label_folder, label_name.format(frame))))
          for frame in sorted(images.keys() | labels.keys())]


def _encoding_path(folder):
  """Path of the list of colors of 1.3.1 for the labels in `folder`, .../WORLD/VARIATION."""
  worlds, variation = os.path.split(folder)
  return f'{worlds}_{variation}_scenegt_rgb_encoding.txt'


def _read_encoding(path):
  """Reads a list of colors: a header, then `Category r g b` or `Category:ID r g b` on each line.

  Returns:
    tuple of ((r, g, b), raw id); colors of different vehicles have the id of their class.

  Raises:
    UserError: naming file and line, if a line has another form, a category is none of the dataset's, or a color
      stands for two categories.
  """
  raw_ids, lines = {}, lists.read_lines(path)
  if not lines[0][1][-1].isdecimal():
    del lines[0]
  for where, fields in lines:
    if len(fields) != 4 or not all(field.isdecimal() for field in fields[1:]):
      raise UserError(f'{where}: expected a category and three numbers, found {" ".join(fields)!r}')
    category, color = fields[0].partition(':')[0], tuple(map(int, fields[1:]))
    check_color(color, where)
    if category not in _RAW:
      raise UserError(f'{where}: unknown category {category}; known are {", ".join(_RAW)}')
    if raw_ids.setdefault(color, _RAW[category]) != _RAW[category]:
      raise UserError(f'{where}: the color {color} stands for another category already')
  if not raw_ids:
    raise UserError(f'{path} lists no color')
  return tuple(raw_ids.items())


def _read_label(path):
  """Reads a label of 1.3.1 by the list of its video: uint8 [H, W] of raw ids. Raises BadFile, and as _read_encoding."""
  return read_color_label(path, _read_encoding(_encoding_path(os.path.dirname(path))))


def _check_colors(path):
  """Raises UserError if there is a colors.txt of Virtual KITTI 2 and it has other colors than COLORS2."""
  if os.path.exists(path):
    found, known = dict(_read_encoding(path)), dict(COLORS2)
    for color in found:
      if found[color] != known.get(color):
        raise UserError(f'{path}: the color {color} stands for another category than in the published list')


VKITTI = Dataset(
    name='vkitti',
    classes=CLASSES,
    palette=np.array(list(COLORS.values()), np.uint8),
    splits=SPLITS,
    sources=_sources,
    label_map=label_map({raw: raw for raw in _RAW.values()}),
    read_label=_read_label,
    url='https://europe.naverlabs.com/research/computer-vision/proxy-virtual-worlds-vkitti-1/',
    license='CC BY-NC-SA 3.0: not for commercial use',
    archives=ARCHIVES['vkitti'])

VKITTI2 = Dataset(
    name='vkitti2',
    classes=CLASSES,
    palette=VKITTI.palette,
    splits=SPLITS,
    sources=_sources2,
    label_map=VKITTI.label_map,
    read_label=functools.partial(read_color_label, colors=COLORS2),
    url='https://europe.naverlabs.com/research/computer-vision/proxy-virtual-worlds-vkitti-2/',
    license=VKITTI.license,
    archives=ARCHIVES['vkitti2'])
