"""Labelme's JSON files, versions 3 to 6, and those of programs that write its form.

    a.jpg, a.json            a file beside each image, in one folder or in folders within folders; or
    images/a.jpg, labels/a.json

Shapes are drawn in the file's order, a later one over an earlier one, as Labelme's own `labelme.utils.shapes_to_label`
does with the same library: polygons, rectangles, circles, lines of 10 pixels, points of a radius of 5 pixels, masks.
The label `__ignore__` is void, `_background_` is background. An image is the file that `imagePath` leads to, also in
Windows' form; where it leads nowhere, the file of that name, then the one of the JSON's name, then the copy in
`imageData`.
"""

import base64
import binascii
import dataclasses
import functools
import io
import json
import math
import os
import re

import numpy as np
from PIL import Image, ImageDraw

from datasets import images
from datasets.dataset import BadFile, Source
from datasets.readers import lists
from datasets.readers.annotations import classes, files, pictures
from datasets.readers.annotations.record import Annotations
from datasets.readers.folder import ALL
from utils.errors import UserError, listed

NAME = 'Labelme JSON'
LINE_WIDTH, POINT_RADIUS = 10, 5  # pixels, as labelme.utils.shape_to_mask has them
MAX_FILE, MAX_SHAPES = 2**29, 2**26  # bytes of a file; of a file without its imageData
MAX_PIXELS = 2**28  # greatest size of an image in a JSON, as of other pictures
MAX_COORDINATE = 2**20  # pixels; far beyond any image
_MARKS = re.compile(rb'"(shapes"\s*:\s*\[|imagePath"\s*:|imageData"\s*:)')
_IMAGE_DATA = re.compile(rb'"imageData"\s*:\s*"')  # no string holds this: quotes in strings follow a backslash
_POINTS = {  # shape type -> least and greatest number of points
    'polygon': (3, None), 'rectangle': (2, 4), 'oriented_rectangle': (4, 4), 'circle': (2, 2), 'line': (2, 2),
    'linestrip': (2, None), 'point': (1, 1), 'mask': (2, 2)}
_LABEL_FOLDERS = ('labels', 'annotations', 'jsons', 'json')  # no part of a picture's name
_OWN = 'dataset.json'  # the project's own file, which may lie beside


@dataclasses.dataclass(frozen=True, eq=False)
class Drawing(os.PathLike):
  """A JSON whose shapes `read_label` draws.

  Attributes:
    path: path of the JSON.
    image: the image, which has the size where the JSON has none.
    size: (height, width) by the JSON; None where it has none.
  """
  path: str
  image: object
  size: tuple | None

  def __fspath__(self):
    return self.path

  def __str__(self):
    return self.path


@dataclasses.dataclass(frozen=True, eq=False)
class Embedded(os.PathLike):
  """The copy of an image in a JSON's `imageData`; decoded only when it is read."""
  path: str

  def __fspath__(self):
    return self.path

  def __str__(self):
    return f'{self.path}, imageData'

  def read_bytes(self):
    """Returns the encoded image. Raises BadFile if it is no base64."""
    data = files.read_bounded(self.path, MAX_FILE)
    span = _image_data(data)
    try:
      return base64.b64decode(data[slice(*span)] if span else b'', validate=True)
    except binascii.Error as error:
      raise BadFile(self, f'is not base64: {error}') from error


def find(root):
  """Whether a folder holds JSON files of Labelme; a few are looked into."""
  for path in _files(root)[:20]:
    with open(os.path.join(root, path), 'rb') as file:
      if _MARKS.search(file.read(2**16)):
        return True
  return False


def _files(root):
  return [path for path in files.walk(root, ('.json',)) if path != _OWN]


def read(root):
  """Reads the JSON files in a folder; see `annotations.read`.

  A file that cannot be read is kept, for `read_label` to refuse.
  """
  index, places, sources, empty, moved = pictures.Pictures(root), {}, [], [], []
  for relative in _files(root):
    path = os.path.join(root, relative)
    try:
      content, has_data = _load(path)
    except BadFile:
      content, has_data = {'shapes': [None]}, False
    for number, shape in enumerate(content['shapes'], 1):
      label = shape.get('label') if isinstance(shape, dict) else None
      if isinstance(label, str) and label.strip():
        places.setdefault(classes.canonical(label), f'{path}, shape {number}')
    image, is_named = _image(content, relative, index, has_data)
    empty += [] if content['shapes'] else [path]
    moved += [] if is_named else [f'{image} for {path}']
    size = content.get('imageHeight'), content.get('imageWidth')
    drawing = Drawing(path, image, size if _is_size(size) else None)
    sources.append(Source(name=_name(relative), image=image, label=drawing))
  lists.refuse_duplicates([source.name for source in sources], root)
  _refuse_shared_images(sources)
  chosen = classes.choose(root, sorted(places, key=lambda label: (label != classes.BACKGROUND, label)), places)
  return Annotations(
      form=NAME, classes=chosen.names, colors=chosen.colors,
      splits={ALL: sorted(sources, key=lambda source: source.name)},
      read_label=functools.partial(read_label, raws=chosen.raws, rest=chosen.rest),
      notes=(*chosen.notes, 'a later shape of a file lies over an earlier one, as Labelme draws them',
             *_notes(sources, empty, moved)))


def _notes(sources, empty, moved):
  """Says what else was decided: files without shapes, images found elsewhere or taken out of the JSON."""
  embedded = [str(source.image.path) for source in sources if isinstance(source.image, Embedded)]
  if empty:
    yield f'{len(empty)} of {len(sources)} files hold no shape: nobody labeled anything in {listed(empty, 3)}'
  if moved:
    yield f'imagePath of {len(moved)} files leads nowhere; taken by name: {listed(moved, 3)}'
  if embedded:
    yield f'the images of {len(embedded)} files are missing; the copies in imageData are used: {listed(embedded, 3)}'


def _name(relative):
  """Name of a JSON's source: its path without the folder of labels and without extension."""
  parts = files.stem(relative).split(os.sep)
  return '/'.join(parts[1:] if len(parts) > 1 and parts[0].lower() in _LABEL_FOLDERS else parts)


def _image(content, relative, index, has_data):
  """Finds the image of a JSON: (path or Embedded, whether imagePath leads there)."""
  folder, file = os.path.split(relative)
  where = os.path.join(index.root, relative)
  given = content.get('imagePath')
  given = given.replace('\\', '/') if isinstance(given, str) else ''
  found = given and index.at(os.path.join(folder, given))
  if found:
    return found, True
  for name in filter(None, (os.path.basename(given), file)):
    found = index.find(os.path.join(folder, name), where, ('',))
    if found:
      return found, not given
  missing = os.path.join(index.root, folder, os.path.basename(given) or files.stem(file))
  return Embedded(where) if has_data else missing, True


def _refuse_shared_images(sources):
  """Raises UserError if two files label one image."""
  seen = {}
  for source in sources:
    other = seen.setdefault(str(source.image), source)
    if other is not source:
      raise UserError(f'{other.label} and {source.label} both label {source.image}; leave one of them in the folder')


def _image_data(data):
  """Finds the text of imageData in the bytes of a JSON: (start, end); None if it has none."""
  match = _IMAGE_DATA.search(data)
  end = data.find(b'"', match.end()) if match else -1
  return (match.end(), end) if end > 0 else None


def _load(path):
  """Parses a JSON but for its imageData, which may be a hundred times as long as all else.

  Returns:
    the JSON's dict, 'imageData' empty, and whether it has imageData.

  Raises:
    BadFile: if it is none of Labelme's.
  """
  data = files.read_bounded(path, MAX_FILE)
  span = _image_data(data)
  if span:
    data = data[:span[0]] + data[span[1]:]
  if len(data) > MAX_SHAPES:
    raise BadFile(path, f'has {len(data)} bytes of shapes; at most {MAX_SHAPES} are understood')
  try:
    content = json.loads(data)
  except (ValueError, RecursionError) as error:
    raise BadFile(path, f'is not valid JSON: {error}') from error
  if not isinstance(content, dict) or not isinstance(content.get('shapes'), list):
    raise BadFile(path, 'is not a JSON of Labelme: it has no list "shapes"')
  return content, bool(span and span[0] < span[1])


def read_label(drawing, raws, rest):
  """Draws the shapes of a JSON.

  Args:
    drawing: a Drawing.
    raws: dict of label -> raw label.
    rest: raw label of the pixels without a shape.

  Returns:
    raw labels, uint8 [H, W].

  Raises:
    BadFile: naming shape and label, if a shape is not as Labelme writes it.
  """
  content, _ = _load(drawing.path)
  height, width = _size(content, drawing)
  canvas = Image.new('L', (width, height), rest)
  draw = ImageDraw.Draw(canvas)
  for number, shape in enumerate(content['shapes'], 1):
    label = shape.get('label') if isinstance(shape, dict) else None
    if not isinstance(label, str):
      raise BadFile(drawing.path, f'shape {number} has the label {label!r}; a label is a text')
    where = f'shape {number} (label {label!r})'
    if classes.canonical(label) not in raws:
      raise BadFile(drawing.path, f'{where} is of no known class; known are {listed(raws, 20)}')
    value = raws[classes.canonical(label)]
    kind, points = _parse(shape, drawing.path, where)
    if kind == 'mask':
      mask, corner = _mask(shape, points, (width, height), drawing.path, where)
      canvas.paste(value, corner, mask)
    else:
      _draw(draw, kind, points, value)
  return np.array(canvas)


def _size(content, drawing):
  """Returns the size of a JSON's image, (height, width)."""
  size = content.get('imageHeight'), content.get('imageWidth')
  if size == (None, None):  # files of version 3 do not have them
    return images.read_rgb(drawing.image).shape[:2]
  if not _is_size(size):
    raise BadFile(drawing.path, f'has the imageHeight {size[0]!r} and the imageWidth {size[1]!r}; whole numbers are '
                                f'valid, 1 to {MAX_PIXELS} pixels in all')
  return size


def _is_size(size):
  return all(type(value) is int and value > 0 for value in size) and math.prod(size) <= MAX_PIXELS


def _parse(shape, path, where):
  """Checks a shape. Returns its type and its points, a list of (x, y)."""
  kind, points = shape.get('shape_type') or 'polygon', shape.get('points')
  if not isinstance(kind, str) or kind not in _POINTS:
    raise BadFile(path, f'{where} has the shape_type {kind!r}; valid are {", ".join(_POINTS)}')
  if not isinstance(points, list):
    raise BadFile(path, f'{where} has no list of points')
  for point in points:
    is_pair = isinstance(point, list) and len(point) == 2 and all(type(value) in (int, float) for value in point)
    if not is_pair or not all(-MAX_COORDINATE <= value <= MAX_COORDINATE for value in point):  # false for NaN too
      raise BadFile(path, f'{where} has the point {str(point)[:80]}; a point is [x, y], two numbers within '
                          f'{MAX_COORDINATE} pixels')
  least, most = _POINTS[kind]
  if len(points) < least or most and len(points) > most or kind == 'rectangle' and len(points) == 3:
    needed = '2 or 4' if kind == 'rectangle' else least if least == most else f'at least {least}'
    raise BadFile(path, f'{where} has {len(points)} points; a {kind} has {needed}')
  return kind, [tuple(point) for point in points]


def _draw(draw, kind, points, value):
  """Draws a shape with Pillow's methods, and the same arguments, as labelme.utils.shape_to_mask does."""
  xs, ys = {x for x, _ in points}, {y for _, y in points}
  box = (min(xs), min(ys)), (max(xs), max(ys))
  if kind == 'rectangle' and (len(points) == 2 or len(xs) == len(ys) == 2):
    draw.rectangle(box, outline=value, fill=value)
  elif kind in ('line', 'linestrip'):
    draw.line(points, fill=value, width=LINE_WIDTH)
  elif kind in ('circle', 'point'):
    (x, y), radius = points[0], POINT_RADIUS if kind == 'point' else math.dist(*points)
    draw.ellipse(((x - radius, y - radius), (x + radius, y + radius)), outline=value, fill=value)
  else:
    draw.polygon(points, outline=value, fill=value)


def _mask(shape, points, size, path, where):
  """Decodes a mask: a PIL image of mode '1', and its left top corner (x, y)."""
  (left, top), (right, bottom) = [(int(x), int(y)) for x, y in points]
  if not (0 <= left <= right < size[0] and 0 <= top <= bottom < size[1]):
    raise BadFile(path, f'{where} has a mask from {left},{top} to {right},{bottom}; its image has {size[0]}x{size[1]} '
                        'pixels')
  try:
    data = base64.b64decode(shape.get('mask') or '', validate=True)
    mask = Image.open(io.BytesIO(data), formats=('PNG',))
    if mask.size != (right - left + 1, bottom - top + 1):
      raise ValueError(f'it has {mask.width}x{mask.height} pixels, and its points stand for '
                       f'{right - left + 1}x{bottom - top + 1}')
    pixels = np.asarray(mask)
    if pixels.ndim != 2:
      raise ValueError(f'it has pixels of mode {mask.mode}')
  except MemoryError:
    raise
  except Exception as error:  # Pillow raises nearly anything on broken data
    raise BadFile(path, f'{where} has a mask that is no PNG in base64 as Labelme writes it: {error}') from error
  return Image.fromarray(pixels.astype(bool)), (left, top)
