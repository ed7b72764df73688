"""Drawing an image's objects in the order in which a tool's canvas shows them: a later one over those before it."""

import dataclasses
import os

import numpy as np

from datasets.dataset import BadFile
from datasets.readers.annotations import pictures
from utils.errors import brief


@dataclasses.dataclass(frozen=True, eq=False)
class Drawing(os.PathLike):
  """Objects of an image.

  Attributes:
    path: path of the file of annotations.
    place: the image's place in it.
    image: path of the picture.
    size: (height, width) in pixels, or None for that of the picture.
    objects: tuple of (place in messages, class name, what the tool says of it), the lowest first.
  """
  path: str
  place: str
  image: str
  size: tuple | None
  objects: tuple

  def __fspath__(self):
    return self.path

  def __str__(self):
    return f'{self.path}, {self.place}'


def draw(drawing, mask_of, raws, rest, turned):
  """Draws a label.

  Args:
    drawing: a Drawing.
    mask_of: `mask_of(what the tool says, drawing, place)` -> bool [H, W]; the drawing has a size.
    raws: dict of class name -> raw label.
    rest: raw label of pixels without an object.
    turned: as in `pictures.sized`.

  Returns:
    raw labels, uint8 [H, W].

  Raises:
    BadFile: naming the object that cannot be drawn.
  """
  drawing = pictures.sized(drawing, turned)
  label = np.full(drawing.size, rest, np.uint8)
  for where, name, value in drawing.objects:
    label[mask_of(value, drawing, where)] = raws[name]
  return label


def keep(value, keys):
  """Keeps of a JSON's object what is drawn: numbers, texts and arrays of the keys, of others what messages show."""
  kept = (np.ndarray, bytes, str, int, float)
  return {key: value[key] if isinstance(value[key], kept) else brief(value[key])
          for key in keys if value.get(key) is not None}


def number(value, key, label, where, least=None):
  """Returns `value[key]`. Raises BadFile if it is no finite number, or below `least`."""
  found = value.get(key)
  if isinstance(found, bool) or not isinstance(found, (int, float)) or not abs(found) < 1e9 or (
      least is not None and found < least):
    valid = 'a number' if least is None else f'a number of at least {least}'
    raise BadFile(str(label), f'{where}: {key!r} is to be {valid}; found {brief(found)}')
  return float(found)


def ellipse(center, radii, angle, label, where):
  """Draws an ellipse: the pixels whose centers are in it.

  Args:
    center, radii: (x, y) in pixels from the image's corner.
    angle: how far it is turned clockwise around its center, in radians.
    label, where: as in `draw`.

  Returns:
    bool [H, W].

  Raises:
    BadFile: if its center is far beyond the image.
  """
  (height, width), (x, y) = label.size, center
  if not (-width <= x <= 2 * width and -height <= y <= 2 * height):
    raise BadFile(str(label), f'{where} has its center at {x:g}, {y:g}, far beyond the image of {width}x{height} '
                              'pixels')
  mask = np.zeros(label.size, bool)
  if min(radii) <= 0:
    return mask
  cos, sin = np.cos(angle), np.sin(angle)
  reach_x, reach_y = np.hypot(radii[0] * cos, radii[1] * sin), np.hypot(radii[0] * sin, radii[1] * cos)
  rows = slice(max(0, int(y - reach_y)), max(0, min(height, int(y + reach_y) + 1)))
  columns = slice(max(0, int(x - reach_x)), max(0, min(width, int(x + reach_x) + 1)))
  down = (np.arange(rows.start, rows.stop) + 0.5 - y)[:, np.newaxis]
  right = np.arange(columns.start, columns.stop) + 0.5 - x
  along, across = (right * cos + down * sin) / radii[0], (down * cos - right * sin) / radii[1]
  mask[rows, columns] = along**2 + across**2 <= 1
  return mask
