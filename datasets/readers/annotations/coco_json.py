"""COCO JSON, as COCO itself, CVAT, Label Studio, Roboflow, labelme2coco and makesense.ai write it.

A JSON holds `images`, `categories` and `annotations`; it lies in the folder itself, in `annotations`, or beside the
pictures in a folder of its split. Where objects overlap, the smaller lies over the larger.
"""

import dataclasses
import functools
import os
import re

from datasets.readers import masks
from datasets.readers.annotations import classes, json_files, pictures, splits
from datasets.readers.annotations.record import Annotations
from utils.errors import UserError, brief, listed
from utils.labels import IGNORE_LABEL

NAME = 'COCO JSON'
CROWDS = ('void', 'object')  # values of `iscrowd` in dataset.json
_LISTS = ('images', 'categories', 'annotations')
_RESULT = ('image_id', 'category_id')  # first keys of a detector's results in COCO's form
_KEPT = ('id', 'image_id', 'category_id', 'iscrowd')


@dataclasses.dataclass(frozen=True, eq=False)
class Instances(os.PathLike):
  """Annotations of an image.

  Attributes:
    path: path of the JSON.
    image: path of the picture.
    file_name: the picture's name in the JSON.
    size: (height, width) in pixels by the JSON, or else by the picture; None where neither says it.
    annotations: tuple of (id, class name, is crowd, segmentation as `masks.shrink` gives it).
  """
  path: str
  image: str
  file_name: str
  size: tuple | None
  annotations: tuple

  def __fspath__(self):
    return self.path

  def __str__(self):
    return f'{self.path}, image {self.file_name}'


@dataclasses.dataclass(frozen=True, eq=False)
class Content:
  """Content of a JSON.

  Attributes:
    path: its path.
    images: its list of images.
    annotations: dict of an image's id -> list of annotations, as `_shrink` keeps them.
    categories: dict of a category's id -> its JSON.
  """
  path: str
  images: list
  annotations: dict
  categories: dict


def find(root):
  return any(_is_coco(path) for path in json_files.list_files(root))


def _is_coco(path):
  """Whether a JSON is of one of COCO's forms, understood or not."""
  opening, outer, inner = json_files.first_keys(path)
  if opening == '[':
    return set(_RESULT) <= set(inner)
  return bool(set(_LISTS) & set(outer)) and json_files.holds(path, 'images', 'annotations')


def read(root):
  """Reads the COCO JSONs of a folder. Returns Annotations; raises UserError as `annotations.read`."""
  masks.pycocotools(NAME)  # checked before the JSON is read, which may take a while
  files, notes = _files(root)
  contents = {path: _content(path) for paths in files.values() for path in paths}
  names, used, colors = _classes(contents.values())
  chosen = classes.choose(root, names, used, colors)
  crowd, crowd_notes = _crowd(root, contents.values())
  index = pictures.Pictures(root)
  sources = {split: pictures.make_sources([pair for path in paths for pair in _pairs(contents[path], index)], root)
             for split, paths in files.items()}
  pictures.refuse_none(sources, NAME, root)
  return Annotations(
      form=NAME, classes=chosen.names, colors=chosen.colors, splits=sources,
      read_label=functools.partial(read_label, raws=chosen.raws, rest=chosen.rest, turned=True, crowd=crowd),
      notes=(*chosen.notes, *notes, 'where objects overlap, the smaller lies over the larger', *crowd_notes))


def _files(root):
  """Picks the JSONs that hold outlines. Returns them by split, as `splits.by_file`, and notes."""
  found = [path for path in json_files.list_files(root) if _is_coco(path)]
  usable = [path for path in found if not _other_form(path)]
  if not usable:
    raise UserError(f"{found[0]} holds {_other_form(found[0])}; understood are COCO's instances: images, categories "
                    'and annotations with polygons or run lengths')
  with_instances = [path for path in usable if os.path.basename(path).startswith('instances')]
  usable = with_instances or usable
  others = [os.path.relpath(path, root) for path in found if path not in usable]
  notes = [f'{listed(others)} is not read'] if others else []
  return splits.by_file(usable, root), notes


def _other_form(path):
  """What a JSON of COCO's holds that has no outlines, in words; '' for one that has."""
  if json_files.first_keys(path)[0] == '[':
    return "results of a detector in COCO's form, without images and categories"
  if json_files.holds(path, 'segments_info'):
    return "COCO's panoptic annotations, whose labels are pictures"
  return '' if json_files.holds(path, 'categories') else "COCO's captions, or no categories"


def _shrink(entry):
  """Keeps what is needed of an annotation, its numbers as arrays: as objects they would take gigabytes."""
  if 'segmentation' not in entry:
    return entry
  kept = {key: entry[key] for key in _KEPT if key in entry}
  return {**kept, 'has_attributes': 'attributes' in entry, 'segmentation': masks.shrink(entry['segmentation'])}


def _content(path):
  """Reads and checks a JSON. Returns a Content."""
  content = json_files.load(path, _shrink)
  images, categories, annotations = (json_files.field(content, key, list, path) for key in _LISTS)
  found = {}
  for index, category in enumerate(categories):
    where = f'{path}: category {index}'
    number = json_files.field(category, 'id', (int, str), where)
    name = classes.parsed(json_files.field(category, 'name', str, where), where)
    if number in found:
      raise UserError(f'{where}: the id {number!r} is that of {found[number]["name"]!r} already')
    found[number] = {**category, 'name': name}
  by_image = {json_files.field(image, 'id', (int, str), f'{path}: image {index}'): []
              for index, image in enumerate(images)}
  if len(by_image) < len(images):
    raise UserError(f'{path}: {len(images)} images have {len(by_image)} ids; each is to have its own')
  for index, annotation in enumerate(annotations):
    where = f'{path}: annotation {annotation.get("id", index) if isinstance(annotation, dict) else index}'
    for key, known, what in (('image_id', by_image, 'image'), ('category_id', found, 'category')):
      value = json_files.field(annotation, key, (int, str), where)
      if value not in known:
        raise UserError(f'{where}: its {key} {brief(value)} is the id of no {what}; there are '
                        f'{listed(map(brief, known)) or "none"}')
    by_image[annotation['image_id']].append(annotation)
  _refuse_without_outline(path, annotations)
  return Content(path, images, by_image, found)


def _refuse_without_outline(path, annotations):
  """Raises UserError if annotations have a box or key points alone: as background they would be wrong."""
  without = [annotation for annotation in annotations if not annotation.get('segmentation')]
  if without:
    raise UserError(f'{path}: {len(without)} of {len(annotations)} annotations have no outline, a box or key points at '
                    f'most, such as annotation {without[0].get("id")} of image {without[0]["image_id"]}; draw polygons '
                    'or masks for them, or take them out of the JSON')


def _classes(contents):
  """Finds the classes of all JSONs.

  Returns:
    names, in the JSONs' order; dict of name -> place of its first object; dict of name -> color.
  """
  names, used, colors, groups = {}, {}, {}, set()
  for content in contents:
    ids = {}
    for annotation in (annotation for found in content.annotations.values() for annotation in found):
      number = annotation['category_id']
      name = content.categories[number]['name']
      used.setdefault(name, f'{content.path}: annotation {annotation.get("id")}')
      if ids.setdefault(name, number) != number:
        raise UserError(f'{content.path}: the categories {ids[name]!r} and {number!r} are both named {name!r}, and '
                        'both have annotations; give them different names, or one id')
    for number, category in content.categories.items():
      names[category['name']] = True
      colors.setdefault(category['name'], _color(category.get('color')))
      groups |= {other['supercategory'] for other_id, other in content.categories.items()
                 if other_id != number and isinstance(other.get('supercategory'), str)
                 and other['supercategory'] == category['name']}
  return [name for name in names if name in used or name not in groups], used, colors


def _color(value):
  """A category's color as (r, g, b): of [r, g, b] or '#rrggbb'; None where there is none."""
  if isinstance(value, str) and re.fullmatch('#[0-9a-fA-F]{6}', value):
    value = list(bytes.fromhex(value[1:]))
  is_color = isinstance(value, list) and len(value) == 3 and all(
      isinstance(part, int) and 0 <= part <= 255 for part in value)
  return tuple(value) if is_color else None


def _crowd(root, contents):
  """Decides what annotations with `iscrowd` are. Returns a value of CROWDS, and notes."""
  found = [annotation for content in contents for annotations in content.annotations.values()
           for annotation in annotations]
  crowds = [annotation for annotation in found if annotation.get('iscrowd')]
  wanted = json_files.setting(root, 'iscrowd')
  if wanted not in (None, *CROWDS):
    raise UserError(f'{os.path.join(root, "dataset.json")}: \'iscrowd\' is {wanted!r}; valid are {", ".join(CROWDS)}')
  if not crowds:
    return CROWDS[0], ()
  count = f'annotations with iscrowd ({len(crowds)}) are'
  if wanted:
    return wanted, (f'{count} {wanted}, as dataset.json says',)
  if len(crowds) == len(found) or any(annotation.get('has_attributes') for annotation in crowds):
    reason = ('all are of this kind' if len(crowds) == len(found) else 'they have attributes, as CVAT writes them')
    return 'object', (f'{count} objects as others: {reason}, and mean masks, not crowds (dataset.json may say '
                      '"iscrowd": "void")',)
  return 'void', (f'{count} void where no other object covers them (dataset.json may say "iscrowd": "object")',)


def _pairs(content, index):
  """Finds the picture of each image. Returns a list of (path of the picture, Instances)."""
  base = os.path.splitext(os.path.basename(content.path))[0]
  tokens = (base.removeprefix('instances_'), splits.of_file(content.path, index.root) or '')
  folders = [os.path.relpath(os.path.dirname(content.path), index.root), '', 'images',
             *(os.path.join(*place, token) for token in tokens for place in ((), ('images',)))]
  pairs = []
  for number, image in enumerate(content.images):
    where = f'{content.path}: image {number}'
    file_name = json_files.field(image, 'file_name', str, where)
    size = None
    if image.get('height') is not None or image.get('width') is not None:
      size = tuple(json_files.field(image, key, int, where) for key in ('height', 'width'))
      masks.check_size(*size, where)
    path = index.find(file_name, where, folders) or index.missing(file_name)
    objects = tuple((annotation.get('id'), content.categories[annotation['category_id']]['name'],
                     bool(annotation.get('iscrowd')), annotation['segmentation'])
                    for annotation in content.annotations[image['id']])
    pairs.append((path, Instances(content.path, path, json_files.plain(file_name, where), size, objects)))
  return pairs


def read_label(instances, raws, rest, crowd, turned):
  """Draws the label of an image.

  Args:
    instances: an Instances.
    raws: dict of class name -> raw label.
    rest: raw label of pixels without an object.
    crowd: one of CROWDS: whether annotations with `iscrowd` are void below all objects, or objects as others.
    turned: as in `pictures.sized`.

  Returns:
    raw labels, uint8 [H, W].

  Raises:
    BadFile: naming the annotation, if its segmentation does not fit the image.
  """
  return masks.draw(pictures.sized(instances, turned), [
      masks.Object(f'annotation {number}', IGNORE_LABEL if is_crowd and crowd == 'void' else raws[name], segmentation,
                   is_crowd and crowd == 'void')
      for number, name, is_crowd, segmentation in instances.annotations], rest, strict=True)
