"""CVAT's export "CVAT for images 1.1": an XML of shapes.

    annotations.xml                     of a task, a job or a project; or one in each of several folders
    images/a.jpg, images/SUBSET/a.jpg   where the export was made with its images; otherwise beside, under these names

Shapes are drawn in the order of `z_order`, those of one in the file's order, as CVAT's export "Segmentation mask 1.1"
does and with the same libraries (cvat/apps/dataset_manager/formats/mask.py and transformations.py): polygons and boxes,
which may be turned, by pycocotools, ellipses by OpenCV, masks by their run lengths. That export draws a turned box over
all other shapes of its z_order, and gives a group one label; here a box keeps its place, and a shape its label, as
CVAT's editor shows them. Images without such a shape are not exported there and left out here.
"""

import collections
import dataclasses
import functools
import math
import os
import re
from xml.parsers import expat

import numpy as np

from datasets.dataset import BadFile, Source
from datasets.readers import lists, masks
from datasets.readers.annotations import classes, files, pictures, splits
from datasets.readers.annotations.record import Annotations
from datasets.readers.folder import ALL
from utils.errors import UserError, listed

NAME = 'CVAT for images'
MAX_FILE = 2**29  # bytes
MAX_COORDINATE = 2**20  # pixels; far beyond any image
_AREAS = ('polygon', 'box', 'ellipse', 'mask')
_WITHOUT_AREA = ('polyline', 'points', 'skeleton', 'cuboid')
_HEAD = re.compile(rb'<annotations[\s>]')
_WANTED = 'export the task as "CVAT for images 1.1" or "Segmentation mask 1.1"'


@dataclasses.dataclass(frozen=True)
class Shape:
  """A shape of the XML: its element's `kind`, its attributes `values` and the `line` where it starts."""
  kind: str
  values: dict
  line: int


@dataclasses.dataclass(frozen=True, eq=False)
class Frame(os.PathLike):
  """An image of the XML, which `read_label` draws a label from.

  Attributes:
    path: path of the XML.
    line: line where the image starts.
    values: the image's attributes.
    shapes: list of its Shapes that have an area.
  """
  path: str
  line: int
  values: dict
  shapes: list

  def __fspath__(self):
    return self.path

  def __str__(self):
    return f'{self.path}:{self.line}'

  @property
  def size(self):
    """(height, width) in pixels; None where the XML has no numbers."""
    try:
      return int(self.values['height']), int(self.values['width'])
    except (KeyError, ValueError):
      return None


class _Parser:
  """Reads an XML from beginning to end.

  Attributes:
    path: path of the XML.
    labels: dict of label -> its color in hexadecimal, or ''.
    frames: list of Frames.
    left_out: Counter of the shapes without area.
  """

  def __init__(self, path):
    self.labels, self.frames, self.left_out = {}, [], collections.Counter()
    self.path, self._open, self._label, self._texts = path, [], {}, []
    self._expat = expat.ParserCreate()
    self._expat.StartDoctypeDeclHandler = self._refuse_doctype  # its entities could grow without bounds
    self._expat.StartElementHandler, self._expat.EndElementHandler = self._start, self._end
    self._expat.CharacterDataHandler = lambda text: self._texts.append(text)

  def parse(self):
    """Parses the file. Returns itself; raises UserError."""
    data = files.read_bounded(self.path, MAX_FILE)
    try:
      self._expat.Parse(data, True)
    except (expat.ExpatError, ValueError, LookupError) as error:  # the others: its encoding is unknown
      raise UserError(f'{self.path} is not valid XML: {error}') from error
    return self

  def _where(self):
    return f'{self.path}:{self._expat.CurrentLineNumber}'

  def _refuse_doctype(self, *_):
    raise UserError(f'{self._where()}: has a DOCTYPE, which no export of CVAT has')

  def _start(self, tag, values):
    parent = self._open[-1] if self._open else ''
    if not parent and tag != 'annotations':
      raise UserError(f'{self._where()}: starts with <{tag}>; an export of CVAT starts with <annotations>')
    if tag == 'track' and parent == 'annotations':
      raise UserError(f'{self._where()}: holds tracks, as "CVAT for video 1.1" does; {_WANTED}')
    if tag == 'image' and parent == 'annotations':
      self.frames.append(Frame(self.path, self._expat.CurrentLineNumber, values, []))
    elif parent == 'image' and tag in _AREAS:
      self.frames[-1].shapes.append(Shape(tag, values, self._expat.CurrentLineNumber))
    elif parent == 'image' and tag in _WITHOUT_AREA:
      self.left_out[tag] += 1
    elif tag == 'label':
      self._label = {}
    self._texts.clear()
    self._open.append(tag)

  def _end(self, tag):
    self._open.pop()
    if self._open[-1:] == ['label']:
      self._label[tag] = ''.join(self._texts).strip()
    elif tag == 'label' and self._label.get('name') and not self._label.get('parent'):  # a parent's: a skeleton's part
      self.labels.setdefault(classes.canonical(self._label['name']), self._label.get('color', ''))


def _files(root):
  """Lists the XML files of exports: in the folder itself, or annotations.xml in the folders below."""
  found = [file for file in sorted(os.listdir(root)) if file.lower().endswith('.xml') and not file.startswith('.')]
  found = found or [os.path.join(folder, 'annotations.xml') for folder in sorted(os.listdir(root))
                    if os.path.isfile(os.path.join(root, folder, 'annotations.xml'))]
  paths = [os.path.join(root, file) for file in found]
  return [path for path in paths if os.path.isfile(path) and _is_export(path)]


def _is_export(path):
  with open(path, 'rb') as file:
    return bool(_HEAD.search(file.read(4096)))


def find(root):
  """Whether a folder holds an XML of CVAT."""
  return bool(_files(root))


def read(root):
  """Reads the XML files in a folder; see `annotations.read`."""
  masks.pycocotools(NAME)
  parsed = [_Parser(path).parse() for path in _files(root)]
  labels, places = {}, {}
  for label, color in (item for parser in parsed for item in parser.labels.items()):
    labels.setdefault(label, color)
  frames = [frame for parser in parsed for frame in parser.frames]
  for frame in frames:
    for shape in frame.shapes:
      places.setdefault(classes.canonical(shape.values.get('label', '')), f'{frame.path}:{shape.line}')
  places.pop('', None)  # a shape without label, which `read_label` refuses
  chosen = classes.choose(root, [*labels, *places], places, {label: _color(text) for label, text in labels.items()})
  if any(shape.kind == 'ellipse' for frame in frames for shape in frame.shapes):
    masks.opencv(NAME)
  drawn = [frame for frame in frames if frame.shapes]
  if not drawn:
    raise UserError(f'{parsed[0].path} has {len(frames)} images and none with a shape that has an area '
                    f'({", ".join(_AREAS)})')
  sources, notes = splits.of_groups(_groups(root, drawn), 'subsets')
  pictures.refuse_none(sources, NAME, root)
  return Annotations(
      form=NAME, classes=chosen.names, colors=chosen.colors, splits=sources,
      read_label=functools.partial(read_label, raws=chosen.raws, rest=chosen.rest),
      notes=(*chosen.notes, 'shapes lie over each other as their z_order says, those of one z_order as in the file',
             *notes, *_notes(parsed, frames)))


def _color(text):
  """Parses a color such as #fa3253; None where it is none."""
  return tuple(bytes.fromhex(text[1:])) if re.fullmatch('#[0-9a-fA-F]{6}', text) else None


def _groups(root, frames):
  """Makes the Sources, by the subsets of a project: dict of subset -> list."""
  index, folder = pictures.Pictures(root), functools.partial(os.path.relpath, start=root)
  names = [(folder(os.path.dirname(frame.path)), frame.values.get('subset', ''), frame.values.get('name', ''))
           for frame in frames]
  stems = collections.Counter(files.stem(name) for _, _, name in names)
  groups = {}
  for frame, (place, subset, name) in zip(frames, names):
    if not name:
      raise UserError(f'{frame}: the image has no name')
    for part in (name, subset):
      lists.inside(root, part, str(frame))
    image = index.at(*(os.path.join(place, *parts) for parts in (
        ('images', subset, name), ('images', name), (subset, name), (name,)))) or index.find(
            os.path.join(place, subset, name), str(frame)) or os.path.join(root, place, 'images', subset, name)
    unique = files.stem(name)
    if stems[unique] > 1:
      unique = '/'.join(part for part in (place, subset, unique) if part not in ('', '.'))
    groups.setdefault(subset or ALL, []).append(Source(name=unique, image=image, label=frame))
  for sources in groups.values():
    lists.refuse_duplicates([source.name for source in sources], frames[0].path)
  return groups


def _notes(parsed, frames):
  """Says what is left out: shapes without area, images without shapes; and groups of several labels."""
  left_out = sum((parser.left_out for parser in parsed), collections.Counter())
  if left_out:
    yield f'left out, since they have no area: {", ".join(f"{kind} ({n})" for kind, n in sorted(left_out.items()))}'
  empty = [frame.values.get('name') for frame in frames if not frame.shapes]
  if empty:
    yield (f'{len(empty)} of {len(frames)} images have no shape with an area and are left out, as not yet labeled: '
           f'{listed(empty, 3)}')
  mixed = 0
  for frame in frames:
    groups = {(shape.values['group_id'], shape.values.get('label'))
              for shape in frame.shapes if 'group_id' in shape.values}
    mixed += len(groups) - len({group for group, _ in groups})
  if mixed:
    yield 'grouped shapes of several labels keep their own; CVAT\'s mask export gives a group the label of its largest'


def read_label(frame, raws, rest):
  """Draws the shapes of an image.

  Args:
    frame: a Frame.
    raws: dict of label -> raw label.
    rest: raw label of the pixels without a shape.

  Returns:
    raw labels, uint8 [H, W].

  Raises:
    BadFile: naming line and label of a shape that is not as CVAT writes it.
  """
  where = f'the image {frame.values.get("name")!r}'
  height, width = (_number(frame.values, key, frame, where, whole=True, least=1) for key in ('height', 'width'))
  if height * width > masks.MAX_PIXELS:
    raise BadFile(frame, f'{where} is said to have {width}x{height} pixels; 1 to {masks.MAX_PIXELS} in all are '
                         'understood')
  layers = []
  for shape in frame.shapes:
    place = f'{frame.path}:{shape.line}'
    label = classes.canonical(shape.values.get('label', ''))
    if label not in raws:
      raise BadFile(place, f'the {shape.kind} has the label {label!r}; known are {listed(raws, 20)}')
    order = _number(shape.values, 'z_order', place, f'the {shape.kind}', whole=True) if 'z_order' in shape.values else 0
    layers.append((order, shape, place, label))
  canvas = np.full((height, width), rest, np.uint8)
  for _, shape, place, label in sorted(layers, key=lambda layer: layer[0]):
    mask = _DRAW[shape.kind](shape.values, (height, width), place, f'the {shape.kind} (label {label!r})')
    canvas[mask] = raws[label]
  return canvas


def _number(values, key, place, what, whole=False, least=-MAX_COORDINATE):
  """Reads a number of an element's attributes. Raises BadFile."""
  text = values.get(key)
  try:
    number = (int if whole else float)(text)
  except (TypeError, ValueError):
    number = None
  if number is None or not least <= number <= MAX_COORDINATE:  # false for NaN too
    raise BadFile(place, f'{what} has {key}={text!r}; valid are {"whole " * whole}numbers from {least} to '
                         f'{MAX_COORDINATE}')
  return number


def _polygon(points, size, place, what):
  """Draws a polygon, float [N, 2] of (x, y): bool [H, W]."""
  points = np.around(points, 2)  # as CVAT's datumaro does
  length = np.abs(points - np.roll(points, 1, axis=0)).max(axis=1).sum()
  if length > masks.MAX_OUTLINE:
    raise BadFile(place, f'{what} has an outline longer than {masks.MAX_OUTLINE} pixels')
  mask = masks.pycocotools(NAME)
  return mask.decode(mask.frPyObjects([points.ravel().tolist()], *size))[:, :, 0].astype(bool)


def _draw_polygon(values, size, place, what):
  text = values.get('points', '')
  try:
    points = np.array([[float(value) for value in pair.split(',')] for pair in text.split(';')], np.float64)
    is_fine = points.ndim == 2 and points.shape[1] == 2 and (np.abs(points) <= MAX_COORDINATE).all()
  except (ValueError, OverflowError):
    is_fine = False
  if not is_fine:
    raise BadFile(place, f'{what} has the points {text[:60]!r}; valid are "x,y;x,y;x,y" of numbers within '
                         f'{MAX_COORDINATE} pixels')
  if len(points) < 3:
    raise BadFile(place, f'{what} has {len(points)} points; a polygon has at least 3')
  return _polygon(points, size, place, what)


def _draw_box(values, size, place, what):
  left, top, right, bottom = (_number(values, key, place, what) for key in ('xtl', 'ytl', 'xbr', 'ybr'))
  angle = math.radians(_number(values, 'rotation', place, what)) if 'rotation' in values else 0
  right, bottom = left + (right - left), top + (bottom - top)  # CVAT keeps width and height: the last bit may decide
  points = np.array([(left, top), (right, top), (right, bottom), (left, bottom)])
  if angle:
    x, y = left + (right - left) / 2, top + (bottom - top) / 2
    points = np.array([(x + math.cos(angle) * (px - x) - math.sin(angle) * (py - y),
                        y + math.sin(angle) * (px - x) + math.cos(angle) * (py - y)) for px, py in points.tolist()])
  return _polygon(points, size, place, what)


def _draw_ellipse(values, size, place, what):
  x, y = (_number(values, key, place, what) for key in ('cx', 'cy'))
  axes = tuple(round(_number(values, key, place, what, least=0)) for key in ('rx', 'ry'))
  angle = _number(values, 'rotation', place, what) if 'rotation' in values else 0
  canvas = np.zeros(size, np.uint8)
  masks.opencv(NAME).ellipse(canvas, (round(x), round(y)), axes, angle, 0, 360, 255, thickness=-1)
  return canvas > 0


def _draw_mask(values, size, place, what):
  """Draws a mask: run lengths along the rows of its box, first of pixels outside it."""
  left, top, width, height = (_number(values, key, place, what, whole=True, least=least)
                              for key, least in (('left', 0), ('top', 0), ('width', 1), ('height', 1)))
  if left + width > size[1] or top + height > size[0]:
    raise BadFile(place, f'{what} covers {width}x{height} pixels from {left},{top}, more than the image of '
                         f'{size[1]}x{size[0]}')
  try:
    counts = np.array([int(count) for count in values.get('rle', '').split(',')], np.int64)
  except (ValueError, OverflowError):
    counts = np.array([-1])
  if counts.min() < 0 or counts.max() > width * height or counts.sum() != width * height:
    raise BadFile(place, f'{what} has run lengths that do not make up its {width}x{height} pixels')
  canvas = np.zeros(size, bool)
  canvas[top:top + height, left:left + width] = np.repeat(
      np.arange(len(counts)) % 2 == 1, counts).reshape(height, width)
  return canvas


_DRAW = {'polygon': _draw_polygon, 'box': _draw_box, 'ellipse': _draw_ellipse, 'mask': _draw_mask}
