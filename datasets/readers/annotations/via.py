"""VGG Image Annotator 1 and 2: its JSON and CSV of regions, and the projects that it saves.

Regions are drawn in their order, a later one over those before it, in pixels of the picture as a browser shows it. A
region's class is the value of one of its attributes.
"""

import collections
import csv
import dataclasses
import functools
import json
import os
import urllib.parse

import numpy as np

from datasets.dataset import BadFile
from datasets.readers import class_list, masks
from datasets.readers.annotations import classes, drawing, json_files, pictures, splits
from datasets.readers.annotations.record import Annotations
from utils.errors import UserError, brief, listed

NAME = 'VGG Image Annotator'
_METADATA, _ATTRIBUTES = '_via_img_metadata', '_via_attributes'
_VERSION_3 = {'project', 'config', 'attribute'}  # keys of a project of VIA 3
_ENTRY = {'filename', 'regions'}
_COLUMNS = ('filename', 'region_count', 'region_shape_attributes', 'region_attributes')
_NO_AREA = ('point', 'polyline')
_AREAS = ('circle', 'ellipse', 'polygon', 'rect')
_KEPT = ('name', 'all_points_x', 'all_points_y', 'x', 'y', 'width', 'height', 'cx', 'cy', 'r', 'rx', 'ry', 'theta')
_SETTING = 'via_attribute'


@dataclasses.dataclass(frozen=True)
class Picture:
  """A picture's entry: its `path` of JSON or CSV, its `name`, its `regions`: list of (place, shape, attributes)."""
  path: str
  name: str
  regions: list


def find(root):
  return bool(_files(root))


def _files(root):
  return [path for ending in ('.json', '.csv') for path in json_files.list_files(root, ending) if _is_via(path)]


def _is_via(path):
  if path.lower().endswith('.csv'):
    return set(_COLUMNS) <= set(_header(path))
  opening, outer, inner = json_files.first_keys(path)
  if opening != '{':
    return False
  if _METADATA in outer or _ATTRIBUTES in outer or '_via_settings' in outer or set(outer) >= _VERSION_3:
    return True
  return set(inner) >= _ENTRY or 'filename' in inner and json_files.holds(path, 'region_attributes')


def _header(path):
  """The columns of a CSV; none for other files."""
  try:
    with open(path, encoding='utf-8-sig', newline='') as file:
      return [name.lstrip('#') for name in next(csv.reader([file.readline(2**12)]), [])]
  except (OSError, ValueError, csv.Error):
    return []


def read(root):
  """Reads VIA's files in a folder. Returns Annotations; raises UserError as `annotations.read`."""
  masks.pycocotools(NAME)
  entries, options = {}, {}
  for split, paths in splits.by_file(_files(root), root).items():
    found = [_read_csv(path) if path.lower().endswith('.csv') else _read_json(path) for path in paths]
    entries[split] = [picture for listed_pictures, _ in found for picture in listed_pictures]
    options |= {name: values for _, known in found for name, values in known.items()}
  everything = [picture for found in entries.values() for picture in found]
  attribute = _attribute(root, everything)
  single = None if attribute else _single_class(root, everything)
  index, counts = pictures.Pictures(root), collections.Counter()
  names, used, sources = dict.fromkeys(options.get(attribute, ())), {}, {}
  for split, found in entries.items():
    drawings = [_drawing(picture, index, attribute, single, counts) for picture in found]
    for label in drawings:
      for where, name, _ in label.objects:
        names[name] = True
        used.setdefault(name, f'{label}: {where}')
    sources[split] = pictures.make_sources([(label.image, label) for label in drawings], root)
  pictures.refuse_none(sources, NAME, root)
  chosen = classes.choose(root, names, used)
  what = f'regions have no attribute; all are {single!r}'
  if attribute:
    what = f"a region's class is its attribute {attribute!r}"
  return Annotations(
      form=NAME, classes=chosen.names, colors=chosen.colors, splits=sources,
      read_label=functools.partial(read_label, raws=chosen.raws, rest=chosen.rest, turned=True),
      notes=(*chosen.notes, what, 'regions are drawn in their order, a later one over those before it',
             *_notes(counts)))


def _notes(counts):
  """Lines about what was counted in reading."""
  notes = [f'pictures without a region ({counts["empty"]}) show no object'] if counts['empty'] else []
  no_area = [f'{counts[kind]} {kind}' for kind in _NO_AREA if counts[kind]]
  return notes + ([f'left out, since they have no area: {", ".join(no_area)}'] if no_area else [])


def _shrink(entry):
  """Turns lists of coordinates into arrays; as objects they would take gigabytes."""
  return {key: masks.numbers(value) if key in ('all_points_x', 'all_points_y') else value
          for key, value in entry.items()}


def _read_json(path):
  """Reads an export or a project.

  Returns:
    list of Pictures; dict of attribute -> the values that the project offers for it.
  """
  content = json_files.load(path, _shrink)
  if set(content) >= _VERSION_3:
    raise UserError(f'{path} is a project of VIA 3, which is not understood; use VIA 2, or export COCO')
  entries, options = content, {}
  if any(key.startswith('_via_') for key in content):
    entries = json_files.field(content, _METADATA, dict, path)
    known = content.get(_ATTRIBUTES)
    known = known.get('region') if isinstance(known, dict) else None
    options = {name: [classes.parsed(option, path) for option in value['options']]
               for name, value in (known if isinstance(known, dict) else {}).items()
               if isinstance(value, dict) and isinstance(value.get('options'), dict)}
  found = []
  for key, entry in entries.items():
    name = json_files.field(entry, 'filename', str, f'{path}, {brief(key)}')
    regions = json_files.field(entry, 'regions', (list, dict), f'{path}, image {name}')
    regions = list(regions.values()) if isinstance(regions, dict) else regions
    where = f'{path}, image {name}: region'
    found.append(Picture(path, name, [
        (f'region {number}', *(json_files.field(region, f'{part}_attributes', dict, f'{where} {number}')
                               for part in ('shape', 'region')))
        for number, region in enumerate(regions, 1)]))
  return found, options


def _read_csv(path):
  """Reads a CSV of regions; returns as `_read_json`."""
  found = {}
  try:
    with open(path, encoding='utf-8-sig', newline='') as file:
      rows = csv.reader(file)
      columns = [name.lstrip('#') for name in next(rows)]
      for row in rows:
        if row:
          _add_row(dict(zip(columns, row)), found, path, f'{path}:{rows.line_num}')
  except (OSError, UnicodeDecodeError, csv.Error) as error:
    raise UserError(f'cannot read {path}: {error}; VIA also exports JSON') from error
  return list(found.values()), {}


def _add_row(row, found, path, where):
  """Adds a region of a CSV's row to `found`, a dict of picture's name and size -> Picture."""
  if not all(row.get(column) for column in _COLUMNS):
    raise UserError(f'{where}: a row has values for {", ".join(_COLUMNS)}; found '
                    f'{brief(list(row.values()))}')
  picture = found.setdefault((row['filename'], row.get('file_size')), Picture(path, row['filename'], []))
  parts = []
  for column in _COLUMNS[2:]:
    try:
      parts.append(json.loads(row[column], object_hook=_shrink))
    except (ValueError, RecursionError):
      parts.append(None)
    if not isinstance(parts[-1], dict):
      raise UserError(f'{where}: {column} is to be an object of JSON; found {brief(row[column])}')
  if parts[0] or row['region_count'] != '0':
    picture.regions.append((f'region {len(picture.regions) + 1}', *parts))


def _values(attributes, attribute):
  """The values that a region has for an attribute: several where boxes are checked."""
  value = attributes.get(attribute)
  if isinstance(value, dict):
    return [name for name, checked in value.items() if checked]
  text = '' if value is None else str(value).strip()
  return [text] if text else []


def _attribute(root, everything):
  """Finds the attribute that is the class: the one that all regions with an area have; None where none has any.

  Raises:
    UserError: if there are several, or none that all regions have, or dataset.json names one that is not there.
  """
  regions = [attributes for picture in everything for _, shape, attributes in picture.regions
             if shape.get('name') not in _NO_AREA]
  counts = collections.Counter(name for attributes in regions for name in attributes if _values(attributes, name))
  wanted = json_files.setting(root, _SETTING)
  path = os.path.join(root, 'dataset.json')
  if wanted is not None:
    if wanted not in counts:
      raise UserError(f'{path}: {_SETTING} is {wanted!r}; the regions have {listed(counts) or "no attribute"}')
    return wanted
  complete = [name for name, count in counts.items() if count == len(regions)]
  if len(complete) == 1 or len(counts) == 1:
    return (complete or list(counts))[0]
  if counts:
    found = ', '.join(f'{name} in {count} of {len(regions)} regions' for name, count in counts.items())
    raise UserError(f'{everything[0].path}: which attribute is the class? There are {found}; name it in {path}, as in '
                    f'{{"{_SETTING}": "{next(iter(counts))}"}}')
  return None


def _single_class(root, everything):
  """The class of regions without attributes: the one that classes.txt names beside the background."""
  if not any(shape.get('name') not in _NO_AREA for picture in everything for _, shape, _ in picture.regions):
    raise UserError(f'{everything[0].path if everything else root}: no region has an area; understood are '
                    f'{", ".join(_AREAS)}')
  path = classes.list_path(root)
  names = [classes.canonical(line.name) for line in (class_list.read_classes(path) if path else ()) if not line.ignore]
  named = [name for name in names if not classes.is_background(name)]
  if len(named) != 1:
    raise UserError(f'{everything[0].path}: no region has an attribute that is its class; give them one in VIA, or '
                    f'name the one class of all in {path or os.path.join(root, classes.LISTS[0])}: a line '
                    '"background" and a line with its name')
  return named[0]


def _drawing(picture, index, attribute, single, counts):
  """Makes the Drawing of a picture."""
  place = f'image {json_files.plain(picture.name, picture.path)}'
  where, objects = f'{picture.path}, {place}', []
  for region, shape, attributes in picture.regions:
    kind = shape.get('name')
    if kind in _NO_AREA:
      counts[kind] += 1
      continue
    if kind not in _AREAS:
      raise UserError(f'{where}: {region} has the shape {brief(kind)}; understood are {", ".join(_AREAS)}')
    values = _values(attributes, attribute) if attribute else [single]
    if len(values) != 1:
      found = f'has the values {listed(values)}' if values else 'has no value'
      raise UserError(f'{where}: {region} {found} for the attribute {attribute!r}; a region is to have one class')
    objects.append((region, classes.parsed(values[0], f'{where}: {region}'), drawing.keep(shape, _KEPT)))
  counts['empty'] += not objects
  folders = os.path.relpath(os.path.dirname(picture.path), index.root), '', 'images'
  path = index.find(_file(picture.name), where, folders) or index.missing(_file(picture.name))
  return drawing.Drawing(picture.path, place, path, None, tuple(objects))


def _file(name):
  """The path in a picture's name, which may be an address."""
  return urllib.parse.unquote(pictures.split_url(name).path) if '://' in name else name


def read_label(label, raws, rest, turned):
  """Draws the label of a picture; as `drawing.draw`."""
  return drawing.draw(label, _mask, raws, rest, turned)


def _mask(shape, label, where):
  """Draws one region. Returns bool [H, W]; raises BadFile."""
  number = functools.partial(drawing.number, shape, label=label, where=where)
  if shape['name'] == 'polygon':
    found = [shape.get(f'all_points_{axis}') for axis in 'xy']
    if not all(isinstance(values, np.ndarray) and values.ndim == 1 and values.size == np.size(found[0])
               for values in found):
      raise BadFile(str(label), f'{where}: all_points_x and all_points_y are to be lists of equally many numbers; '
                                f'found {" and ".join(brief(values) for values in found)}')
    return masks.polygon(np.stack(found, axis=-1), label, where)
  if shape['name'] == 'rect':
    left, top = number('x'), number('y')
    right, bottom = left + number('width', least=0), top + number('height', least=0)
    return masks.polygon(np.array([(left, top), (right, top), (right, bottom), (left, bottom)]), label, where)
  radii = [number(key, least=0) for key in (('r', 'r') if shape['name'] == 'circle' else ('rx', 'ry'))]
  angle = number('theta') if shape.get('theta') is not None else 0
  return drawing.ellipse((number('cx'), number('cy')), radii, angle, label, where)
