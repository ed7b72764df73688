"""COCO 2017, semantic labels from its instances: 80 classes of things, and background.

Lin et al., "Microsoft COCO: common objects in context", 2014. A pixel has the class of the smallest instance on it and
is background (id 0, as in PASCAL VOC) where there is none; regions of a crowd are void where no single instance covers
them. Images without an instance are kept: all instances of the 80 classes were to be outlined, so they are background
throughout. 117266 of the 118287 images of train and 4952 of the 5000 of val have instances.
"""

import dataclasses
import json
import os

from datasets.dataset import BadFile, Dataset, Source, colormap, label_map
from datasets.readers import lists, masks
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
  masks.pycocotools('coco')  # checked before the JSON is read, which takes a while
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
    masks.check_size(height, width, where)
    file = lists.inside(folder, _field(image, 'file_name', str, where), where)
    ids.append(image_id)
    label = Instances(path, image_id, (height, width), tuple(annotations.pop(image_id, ())))
    sources.append(Source(name=os.path.splitext(os.path.basename(file))[0], image=lists.existing(file), label=label))
  if annotations:
    raise UserError(f'{path}: image_id {next(iter(annotations))} of an annotation is the id of no image')
  for names in (ids, [source.name for source in sources]):
    lists.refuse_duplicates(names, path)
  return sources


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
  return {**{key: entry[key] for key in _KEPT if key in entry}, 'segmentation': masks.shrink(entry['segmentation'])}


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
  objects = []
  for annotation in instances.annotations:
    where = f'annotation {annotation.get("id")}'
    category = annotation.get('category_id')
    if not isinstance(category, int) or category not in CATEGORIES:
      raise BadFile(str(instances), f'{where} has the category {category!r}; valid are those of COCO, 1 to 90')
    is_crowd = bool(annotation.get('iscrowd'))
    raw = IGNORE_LABEL if is_crowd else category
    objects.append(masks.Object(where, raw, annotation.get('segmentation'), is_crowd))
  return masks.draw(instances, objects)


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
