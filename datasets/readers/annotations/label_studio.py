"""Label Studio's exports JSON and JSON-MIN: brush strokes, polygons, rectangles and ellipses.

The pictures lie beside the JSON or in folders below; they are found by their names, with or without the eight letters
that Label Studio puts before the name of an uploaded file. Results are drawn in their order, a later one over those
before it.
"""

import collections
import dataclasses
import functools
import glob
import math
import os
import urllib.parse

import numpy as np

from datasets.dataset import BadFile
from datasets.readers import masks
from datasets.readers.annotations import brush_rle, classes, drawing, json_files, pictures, splits
from datasets.readers.annotations.record import Annotations
from datasets.readers.folder import EXTENSIONS
from utils.errors import UserError, brief, listed

NAME = 'Label Studio JSON'
_TASKS = ('annotations', 'completions', 'predictions')
_MINIMAL = ('annotation_id', 'annotator')  # keys of JSON-MIN
_LABELS = ('brushlabels', 'polygonlabels', 'rectanglelabels', 'ellipselabels', 'labels')
_SHAPES = {'rle': 'brush', 'points': 'polygon', 'radiusX': 'ellipse', 'width': 'rectangle'}  # key -> shape that has it
_KEPT = ('rle', 'points', 'closed', 'x', 'y', 'width', 'height', 'radiusX', 'radiusY', 'rotation', 'image_rotation')
_NO_AREA = ('choices', 'datetime', 'keypoint', 'keypointlabels', 'number', 'pairwise', 'ranker', 'rating', 'relation',
            'taxonomy', 'textarea', 'vector', 'vectorlabels')


@dataclasses.dataclass(frozen=True)
class Task:
  """A task: its `place` in messages, its `data` (dict of key -> reference to a picture, among others) and `results`."""
  place: str
  data: dict
  results: list


def find(root):
  return bool(any(_is_export(path) for path in json_files.list_files(root)) or _other_exports(root))


def _is_export(path):
  if json_files.first_keys(path)[0] != '[':
    return False
  return json_files.holds(path, *_MINIMAL) or (
      json_files.holds(path, 'data') and any(json_files.holds(path, key) for key in _TASKS))


def _other_exports(root):
  """Files of exports that do not say what picture they belong to, or hold no outline: a dict of name -> a file."""
  found = {'brush labels': [path for ending in ('png', 'npy') for path in
                            sorted(glob.glob(os.path.join(glob.escape(root), f'task-*-annotation-*.{ending}')))],
           'YOLO': sorted(glob.glob(os.path.join(glob.escape(root), 'labels', '*.txt')))
                   if os.path.exists(os.path.join(root, 'notes.json')) else []}
  return {name: paths[0] for name, paths in found.items() if paths}


def read(root):
  """Reads the exports of a folder. Returns Annotations; raises UserError as `annotations.read`."""
  files = [path for path in json_files.list_files(root) if _is_export(path)]
  if not files:
    (name, path), *_ = _other_exports(root).items()
    raise UserError(f"{path} is of Label Studio's export as {name}, which "
                    + ('does not say what pictures its masks belong to' if name != 'YOLO' else 'is not understood')
                    + '; export as JSON and put the file into the folder')
  index, counts = pictures.Pictures(root), collections.Counter()
  names, used, sources = {}, {}, {}
  for split, paths in splits.by_file(files, root).items():
    pairs = [(path, _drawing(path, index, task, counts)) for path in paths for task in _tasks(path, counts)]
    for path, found in pairs:
      for where, name, _ in found.objects:
        names[name] = True
        used.setdefault(name, f'{path}, {found.place}: {where}')
    sources[split] = pictures.make_sources([(found.image, found) for _, found in pairs], root)
  sources = {split: found for split, found in sources.items() if found}
  if not sources:
    raise UserError(f'{files[0]}: none of its tasks has an annotation ({counts["unlabeled"]} tasks); label some first')
  pictures.refuse_none(sources, NAME, root)
  if counts['polygon'] or counts['rectangle']:
    masks.pycocotools(NAME)
  chosen = classes.choose(root, names, used)
  return Annotations(
      form=NAME, classes=chosen.names, colors=chosen.colors, splits=sources,
      read_label=functools.partial(read_label, raws=chosen.raws, rest=chosen.rest, turned=True),
      notes=(*chosen.notes, 'results are drawn in their order, a later one over those before it', *_notes(counts)))


def _notes(counts):
  """Lines about what was counted in reading."""
  lines = {
      'unlabeled': 'tasks without an annotation ({}) are left out; predictions do not count',
      'several': 'where a task has several annotations ({}), the ground truth is read, or else the latest',
      'empty': 'tasks whose annotation is empty ({}) show no object',
      'rectangle': 'rectangles ({}) are filled'}
  notes = [text.format(counts[key]) for key, text in lines.items() if counts[key]]
  no_area = [f'{counts[kind]} {kind}' for kind in _NO_AREA if counts[kind]]
  return notes + ([f'left out, since they have no area: {", ".join(no_area)}'] if no_area else [])


def _shrink(entry):
  """Keeps run lengths as bytes and points as arrays; as objects they would take gigabytes."""
  if isinstance(entry.get('rle'), list):
    values = masks.numbers(entry['rle'], 'iu')
    if isinstance(values, np.ndarray) and values.ndim == 1 and ((values >= 0) & (values < 256)).all():
      return {**entry, 'rle': values.astype(np.uint8).tobytes()}
  if isinstance(entry.get('points'), list):
    return {**entry, 'points': masks.numbers(entry['points'])}
  return entry


def _tasks(path, counts):
  """Reads the labeled tasks of an export, each with the annotation that counts. Returns a list of Tasks."""
  by_id = {}
  for number, entry in enumerate(json_files.load(path, _shrink)):
    where = f'{path}: task {number}'
    if not isinstance(entry, dict):
      raise UserError(f'{where} is {brief(entry)}; it is to be an object')
    task_id = entry.get('id', number)
    if 'data' in entry:
      data = json_files.field(entry, 'data', dict, where)
      key = next((key for key in _TASKS[:2] if key in entry), None)
      done = json_files.field(entry, key, list, where) if key else []
      if isinstance(entry.get('file_upload'), str):
        data = {**data, 'file_upload': entry['file_upload']}
    else:  # JSON-MIN: an entry for each annotation
      data = {key: value for key, value in entry.items() if isinstance(value, (str, list))}
      done = [{**entry, 'result': [{'value': value, **value} for found in data.values() if isinstance(found, list)
                                   for value in found if isinstance(value, dict) and
                                   (_shape(value) or 'original_width' in value)]}]
      done = done if entry.get('annotation_id') is not None else []
    task_id = brief(task_id)
    if 'data' in entry and task_id in by_id:
      raise UserError(f'{where} has the id {task_id}, as another task has; each is to have its own')
    by_id.setdefault(task_id, (data, []))[1].extend(done)
  tasks = [Task(f'task {task_id}', data, _chosen(f'{path}: task {task_id}', done, counts))
           for task_id, (data, done) in by_id.items()]
  return [task for task in tasks if task.results is not None]


def _chosen(where, done, counts):
  """Picks an annotation of a task. Returns its results; None if there is none that was not skipped."""
  for annotation in done:
    if not isinstance(annotation, dict):
      raise UserError(f'{where}: an annotation is {brief(annotation)}; it is to be an object')
  valid = [annotation for annotation in done if not (annotation.get('was_cancelled') or annotation.get('skipped'))]
  counts['unlabeled'] += not valid
  counts['several'] += len(valid) > 1
  if not valid:
    return None
  best = max(valid, key=_rank)
  return json_files.field(best, 'result', list, f'{where}: its annotation')


def _rank(annotation):
  """Sorts annotations of a task: the greatest is the one to read."""
  number = annotation.get('id')
  date = annotation.get('updated_at') or annotation.get('created_at') or ''
  return bool(annotation.get('ground_truth')), str(date), number if isinstance(number, int) else 0


def _identity(result):
  """What tells whether two results are the same shape: its id, or else the shape itself."""
  if result.get('id') is not None:
    return brief(result['id'])
  return tuple((key, value.tobytes() if isinstance(value, np.ndarray) else str(value))
               for key, value in sorted(result['value'].items()) if key not in _LABELS)


def _drawing(path, index, task, counts):
  """Makes the Drawing of a task."""
  where = f'{path}, {task.place}'
  objects, sizes = [], set()
  shapes = [(number, result) for number, result in enumerate(task.results, 1) if _is_shape(result, where, counts)]
  labeled = {_identity(result) for _, result in shapes if _labels(result)}
  for number, result in shapes:
    place, labels = f'result {number}', _labels(result)
    if not labels and _identity(result) in labeled:  # <Labels> beside <Brush>: the shape comes again with its label
      continue
    if len(labels) != 1 or not isinstance(labels[0], str):
      raise UserError(f'{where}: {place} has {"the labels " + listed(labels) if labels else "no label"}; a pixel has '
                      'one class, so each result is to have one label')
    sizes.add(tuple(json_files.field(result, f'original_{key}', int, f'{where}: {place}') for key in
                    ('height', 'width')))
    counts[_shape(result['value'])] += 1
    name = classes.parsed(labels[0], f'{where}: {place}')
    shape = {**result['value'], 'image_rotation': result.get('image_rotation')}
    objects.append((place, name, drawing.keep(shape, _KEPT)))
  if len(sizes) > 1 or any('item_index' in result for _, result in shapes):
    raise UserError(f'{where} has results of several pictures; a task is to have one')
  for height, width in sizes:
    masks.check_size(height, width, where)
  counts['empty'] += not objects
  picture = _picture(task.data, index, where)
  return drawing.Drawing(path, task.place, picture, next(iter(sizes), None), tuple(objects))


def _is_shape(result, where, counts):
  """Whether a result has an area. Raises UserError if it is of a kind that is not understood."""
  if isinstance(result, dict) and result.get('type') in _NO_AREA:
    counts[result['type']] += 1
    return False
  value = json_files.field(result, 'value', dict, f'{where}: a result')
  kind = next((key for key in _NO_AREA if key in value), None)
  if kind:  # JSON-MIN has no types
    counts[kind] += 1
    return False
  if not _shape(value):
    raise UserError(f'{where}: a result is of the type {brief(result.get("type"))}, with '
                    f'{listed(value)}; understood are brush strokes, polygons, rectangles and ellipses')
  return True


def _shape(value):
  return next((shape for key, shape in _SHAPES.items() if key in value), None)


def _labels(result):
  """The labels of a result, a list."""
  found = next((result['value'][key] for key in _LABELS if key in result['value']), [])
  return found if isinstance(found, list) else [found]


def _picture(data, index, where):
  """Finds a task's picture. Returns its path, or one that does not exist."""
  references = {key: _path(value) for key, value in data.items() if isinstance(value, str)}
  references = {key: path for key, path in references.items() if path.lower().endswith(EXTENSIONS)}
  upload = references.pop('file_upload', None)
  if 'image' in references:
    references = {'image': references['image']}
  if len(references) > 1:
    raise UserError(f'{where} has several pictures in its data, {listed(references)}; name the right one "image"')
  paths = [*references.values(), *([upload] if upload else [])]
  if not paths:
    raise UserError(f'{where} names no picture in its data, which has {listed(data) or "nothing"}; its file is to '
                    f'end in {", ".join(EXTENSIONS)}')
  found = (index.find(path, where, ('', 'images')) for path in paths)
  return next(filter(None, found), None) or index.missing(paths[0])


def _path(reference):
  """The path in a reference: that of a URL, or of the folder that Label Studio serves."""
  parts = pictures.split_url('' if reference.startswith('data:') else reference.strip())
  served = urllib.parse.parse_qs(parts.query).get('d')
  return served[0] if served else urllib.parse.unquote(parts.path)


def read_label(label, raws, rest, turned):
  """Draws the label of a task; as `drawing.draw`."""
  return drawing.draw(label, _mask, raws, rest, turned)


def _mask(value, label, where):
  """Draws one result. Returns bool [H, W]; raises BadFile."""
  if value.get('image_rotation'):
    raise BadFile(str(label), f'{where}: the picture was turned by {brief(value["image_rotation"])} degrees '
                              'in Label Studio; turn it back there')
  shape, (height, width) = _shape(value), label.size
  number = functools.partial(drawing.number, value, label=label, where=where)
  if shape == 'brush':
    return _brush(value, label, where)
  if shape == 'polygon':
    points = value['points']
    if not isinstance(points, np.ndarray) or points.ndim != 2 or points.shape[1] != 2 or value.get('closed') is False:
      raise BadFile(str(label), f'{where}: its points are to be a closed list of [x, y] in percent; found '
                                f'{brief(points if value.get("closed", True) else "an open one")}')
    with np.errstate(over='ignore'):  # infinite points are refused as those far away
      points = points / 100 * (width, height)
    return masks.polygon(points, label, where)
  x, y = number('x') / 100 * width, number('y') / 100 * height  # in the order in which Label Studio reckons
  angle = math.radians(number('rotation') if value.get('rotation') is not None else 0)
  if shape == 'ellipse':
    radii = number('radiusX', least=0) / 100 * width, number('radiusY', least=0) / 100 * height
    return drawing.ellipse((x, y), radii, angle, label, where)
  right, down = number('width', least=0) / 100 * width, number('height', least=0) / 100 * height
  cos, sin = math.cos(angle), math.sin(angle)  # turned around its first corner
  return masks.polygon(np.array([(x, y), (x + right * cos, y + right * sin),
                                 (x + right * cos - down * sin, y + right * sin + down * cos),
                                 (x - down * sin, y + down * cos)]), label, where)


def _brush(value, label, where):
  if not isinstance(value['rle'], bytes):
    raise BadFile(str(label), f'{where}: its run lengths are to be a list of bytes, 0 to 255; found '
                              f'{brief(value["rle"])}')
  try:
    return brush_rle.decode(value['rle'], *label.size) > 0
  except ValueError as error:
    raise BadFile(str(label), f'{where}: its run lengths {error}') from error
