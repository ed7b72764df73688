"""COCO 2017, semantic labels from its instances: 80 classes of things, and background.

Lin et al., "Microsoft COCO: common objects in context", 2014. A pixel has the class of the smallest instance on it and
is background (id 0, as in PASCAL VOC) where there is none; regions of a crowd are void where no single instance covers
them. Images without an instance are kept: all instances of the 80 classes were to be outlined, so they are background
throughout. 117266 of the 118287 images of train and 4952 of the 5000 of val have instances.
"""

import dataclasses
import json
import os

import numpy as np

from datasets.dataset import Dataset, Source, colormap, label_map
from datasets.images import BadFile
from datasets.readers import lists
from datasets.readers.archives import ARCHIVES
from utils.errors import UserError
from utils.labels import IGNORE_LABEL

# Id in the JSON -> name. The ids have gaps: 11 of the 91 categories of the paper were never annotated.
CATEGORIES = {
    1: 'person', 2: 'bicycle', 3: 'car', 4: 'motorcycle', 5: 'airplane', 6: 'bus', 7: 'train', 8: 'truck', 9: 'boat',
    10: 'traffic light', 11: 'fire hydrant', 13: 'stop sign', 14: 'parking meter', 15: 'bench', 16: 'bird', 17: 'cat',
    18: 'dog', 19: 'horse', 20: 'sheep', 21: 'cow', 22: 'elephant', 23: 'bear', 24: 'zebra', 25: 'giraffe',
    27: 'backpack', 28: 'umbrella', 31: 'handbag', 32: 'tie', 33: 'suitcase', 34: 'frisbee', 35: 'skis',
    36: 'snowboard', 37: 'sports ball', 38: 'kite', 39: 'baseball bat', 40: 'baseball glove', 41: 'skateboard',
    42: 'surfboard', 43: 'tennis racket', 44: 'bottle', 46: 'wine glass', 47: 'cup', 48: 'fork', 49: 'knife',
    50: 'spoon', 51: 'bowl', 52: 'banana', 53: 'apple', 54: 'sandwich', 55: 'orange', 56: 'broccoli', 57: 'carrot',
    58: 'hot dog', 59: 'pizza', 60: 'donut', 61: 'cake', 62: 'chair', 63: 'couch', 64: 'potted plant', 65: 'bed',
    67: 'dining table', 70: 'toilet', 72: 'tv', 73: 'laptop', 74: 'mouse', 75: 'remote', 76: 'keyboard',
    77: 'cell phone', 78: 'microwave', 79: 'oven', 80: 'toaster', 81: 'sink', 82: 'refrigerator', 84: 'book',
    85: 'clock', 86: 'vase', 87: 'scissors', 88: 'teddy bear', 89: 'hair drier', 90: 'toothbrush'}
CLASSES = ('background', *CATEGORIES.values())
MAX_PIXELS = 2**26  # greatest size of an image in the JSON; the largest have 640x640
MAX_OUTLINE = 2**20  # greatest length of a polygon in pixels: pycocotools takes memory in proportion
_KEPT = ('id', 'image_id', 'category_id', 'iscrowd')  # keys of an annotation that are kept, beside 'segmentation'


@dataclasses.dataclass(frozen=True, eq=False)
class Instances(os.PathLike):
  """Annotations of an image, which `read_label` draws a label from.

  Attributes:
    path: path of the JSON.
    image_id: the image's id in the JSON.
    size: (height, width) in pixels, by the JSON.
    annotations: tuple of the JSON's dicts, the numbers of their segmentations as arrays.
  """
  path: str
  image_id: int
  size: tuple
  annotations: tuple

  def __fspath__(self):
    return self.path

  def __str__(self):
    return f'{self.path}, image {self.image_id}'


def _sources(source_dir, split):
  """Lists a split from `annotations/instances_<split>2017.json`, every image of it with its own annotations."""
  relative = os.path.join('annotations', f'instances_{split}2017.json')
  root = lists.find_root(source_dir, ('coco', 'COCO', ''), relative, dataset='coco')
  _pycocotools()  # checked before the JSON is read, which takes a while
  path, folder = os.path.join(root, relative), os.path.join(root, f'{split}2017')
  if not os.path.isdir(folder):
    raise UserError(f'--source_dir={source_dir} does not hold coco: there is no folder {folder}')
  content = _read(path)
  annotations = {}
  for index, annotation in enumerate(content['annotations']):
    image_id = _field(annotation, 'image_id', int, f'{path}: annotation {index}')
    annotations.setdefault(image_id, []).append(annotation)
  sources, ids = [], []
  for index, image in enumerate(content['images']):
    where = f'{path}: image {index}'
    image_id, height, width = (_field(image, key, int, where) for key in ('id', 'height', 'width'))
    if min(height, width) < 1 or height * width > MAX_PIXELS:
      raise UserError(f'{where} is said to be {width}x{height} pixels; 1 to {MAX_PIXELS} in all are understood')
    file = lists.inside(folder, _field(image, 'file_name', str, where), where)
    ids.append(image_id)
    label = Instances(path, image_id, (height, width), tuple(annotations.pop(image_id, ())))
    sources.append(Source(name=os.path.splitext(os.path.basename(file))[0], image=lists.existing(file), label=label))
  if annotations:
    raise UserError(f'{path}: image_id {next(iter(annotations))} of an annotation is the id of no image')
  for names in (ids, [source.name for source in sources]):
    lists.refuse_duplicates(names, path)
  return sources


def _pycocotools():
  """Returns the module pycocotools.mask. Raises UserError with the command that installs it."""
  try:
    from pycocotools import mask
  except ImportError as error:
    raise UserError(f'coco needs the package pycocotools ({error}): pip install -r requirements-coco.txt') from error
  return mask


def _read(path):
  """Reads the JSON of a split. Raises UserError if it is broken, or does not hold COCO's instances."""
  try:
    with open(path, encoding='utf-8') as file:
      content = json.load(file, object_hook=_shrink)
  except OSError as error:
    raise UserError(f'cannot read {path}: {error.strerror}') from error
  except (ValueError, RecursionError) as error:
    raise UserError(f'{path} is not valid JSON: {error}') from error
  for key in ('images', 'annotations', 'categories'):
    if not isinstance(content, dict) or not isinstance(content.get(key), list):
      raise UserError(f'{path} does not hold the instances of COCO: it has no list {key!r}')
  found = {}
  for index, category in enumerate(content['categories']):
    where = f'{path}: category {index}'
    found[_field(category, 'id', int, where)] = _field(category, 'name', str, where)
  for number in sorted(found.keys() | CATEGORIES):
    if found.get(number) != CATEGORIES.get(number):
      raise UserError(f'{path} does not hold the instances of COCO: its category {number} is {found.get(number)!r}, '
                      f'where COCO has {CATEGORIES.get(number)!r}')
  return content


def _shrink(entry):
  """Turns the numbers of an annotation into arrays while the JSON is read: as objects they would take gigabytes.

  Values of other types are kept as they are, for `read_label` to refuse.
  """
  if 'segmentation' not in entry:
    return entry
  segmentation = entry['segmentation']
  try:
    if isinstance(segmentation, list):
      segmentation = [np.array(polygon, np.float64) for polygon in segmentation]
    elif isinstance(segmentation, dict) and isinstance(segmentation.get('counts'), list):
      segmentation = {**segmentation, 'counts': np.array(segmentation['counts'], np.int64)}
  except (TypeError, ValueError, OverflowError):
    pass
  return {**{key: entry[key] for key in _KEPT if key in entry}, 'segmentation': segmentation}


def _field(entry, key, kind, where):
  """Returns `entry[key]`. Raises UserError, naming `where`, if it is missing or not of the type `kind`."""
  value = entry.get(key) if isinstance(entry, dict) else None
  if not isinstance(value, kind) or isinstance(value, bool):
    raise UserError(f'{where} has no {key!r} of the type {kind.__name__}')
  return value


def read_label(instances):
  """Draws the label of an image: crowds, and over them the instances, the largest first.

  Args:
    instances: an Instances.

  Returns:
    uint8 [H, W] of category ids, 0 for background and IGNORE_LABEL for crowds.

  Raises:
    BadFile: naming the annotation, if its category is none of COCO's or its segmentation does not fit the image.
  """
  mask = _pycocotools()
  parts = []
  for annotation in instances.annotations:
    where = f'annotation {annotation.get("id")}'
    category = annotation.get('category_id')
    if not isinstance(category, int) or category not in CATEGORIES:
      raise BadFile(str(instances), f'{where} has the category {category!r}; valid are those of COCO, 1 to 90')
    rle = _encode(annotation.get('segmentation'), instances, where)
    if rle:
      is_crowd = bool(annotation.get('iscrowd'))
      parts.append((not is_crowd, -int(mask.area(rle)), IGNORE_LABEL if is_crowd else category, rle))
  label = np.zeros(instances.size, np.uint8)
  for _, _, raw, rle in sorted(parts, key=lambda part: part[:2]):
    label[mask.decode(rle).astype(bool)] = raw
  return label


def _encode(segmentation, instances, where):
  """Turns a segmentation of any form into pycocotools' compressed run lengths; None where it has no area."""
  mask, (height, width) = _pycocotools(), instances.size
  if isinstance(segmentation, list):
    polygons = [polygon for polygon in segmentation if not _is_degenerate(polygon, instances, where)]
    return mask.merge(mask.frPyObjects(polygons, height, width)) if polygons else None
  if not isinstance(segmentation, dict) or segmentation.get('size') != [height, width]:
    size = segmentation.get('size') if isinstance(segmentation, dict) else segmentation
    raise BadFile(str(instances), f'{where} has run lengths of the size {str(size)[:40]}; the image is '
                                  f'{[height, width]} (height, width)')
  counts = segmentation.get('counts')
  if isinstance(counts, str):
    counts = _decompress(counts)
  if not isinstance(counts, np.ndarray) or counts.ndim != 1 or not counts.size or counts.min() < 0 or (
      counts.max() > height * width or counts.sum() != height * width):
    raise BadFile(str(instances), f'{where} has run lengths that do not make up its {height * width} pixels')
  return mask.frPyObjects({'size': [height, width], 'counts': counts}, height, width)


def _decompress(text):
  """Decodes compressed run lengths to int64 [N]; None if the text is invalid.

  A character holds five bits, the lowest first, and a sixth that is set where more follow. From the fourth number on,
  the difference to the number two places before is stored. (pycocotools 2.0.11 reads them too, but writes beyond its
  memory where they are broken.)
  """
  counts, value, shift = [], 0, 0
  for character in text:
    bits = ord(character) - ord('0')
    value |= (bits & 31) << shift
    shift += 5
    if not 0 <= bits < 64 or shift > 30:
      return None
    if not bits & 32:
      value -= (bits & 16) << shift - 4  # the sign
      counts.append(value + (counts[-2] if len(counts) > 2 else 0))
      value = shift = 0
  return None if shift else np.array(counts, np.int64)


def _is_degenerate(polygon, instances, where):
  """Whether a polygon has fewer than three points, and so no area. Raises BadFile if it does not fit the image."""
  if not isinstance(polygon, np.ndarray) or polygon.ndim != 1 or polygon.size % 2:
    raise BadFile(str(instances), f'{where} has a polygon that is not a list of x and y')
  points, size = polygon.reshape(-1, 2), np.array(instances.size[::-1])
  outside = ~((points >= -size) & (points <= 2 * size)).all(axis=1)  # true for NaN as well
  if outside.any():
    raise BadFile(str(instances), f'{where} has a polygon with the point {points[outside][0].tolist()}, far beyond '
                                  f'the image of {size[0]}x{size[1]} pixels')
  if np.abs(points - np.roll(points, 1, axis=0)).max(axis=1).sum() > MAX_OUTLINE:
    raise BadFile(str(instances), f'{where} has a polygon whose outline is longer than {MAX_OUTLINE} pixels')
  return len(points) < 3


COCO = Dataset(
    name='coco',
    classes=CLASSES,
    palette=colormap(len(CLASSES)),
    splits={'train': 118287, 'val': 5000},
    sources=_sources,
    label_map=label_map({0: 0, **{number: label for label, number in enumerate(CATEGORIES, 1)},
                         IGNORE_LABEL: IGNORE_LABEL}),
    read_label=read_label,
    url='https://cocodataset.org/#download',
    license="annotations CC BY 4.0; photographs from Flickr, under Flickr's terms of use",
    archives=ARCHIVES['coco'])
