"""Masks of polygons and run lengths in COCO's forms, drawn by pycocotools; nothing in them is trusted.

A segmentation is a list of polygons, each `[x, y, x, y, ...]` in pixels from the image's corner, which together make up
one object; or run lengths, `{'size': [height, width], 'counts': ...}`, down the columns and from left to right, as a
list of numbers or compressed to a text.
"""

import dataclasses

import numpy as np

from datasets.dataset import BadFile
from utils.errors import UserError, brief
from utils.installation import install

MAX_PIXELS = 2**26  # greatest size of an image whose label is drawn
MAX_OUTLINE = 2**20  # greatest length of a polygon in pixels: pycocotools takes memory in proportion
_MISSING = '{} needs the package {} ({}): {}'


@dataclasses.dataclass(frozen=True)
class Object:
  """An object to be drawn.

  Attributes:
    where: its place in messages, such as 'annotation 7'.
    raw: raw label of its pixels.
    segmentation: as `shrink` gives it.
    is_crowd: whether it lies below all that are none.
  """
  where: str
  raw: int
  segmentation: object
  is_crowd: bool = False


def pycocotools(who):
  """Returns the module pycocotools.mask. Raises UserError with `who` and the command that installs it."""
  try:
    from pycocotools import mask
  except ImportError as error:
    raise UserError(_MISSING.format(who, 'pycocotools', error, install('annotations'))) from error
  return mask


def opencv(who):
  """Returns the module cv2. Raises UserError with `who` and the command that installs it."""
  try:
    import cv2
  except ImportError as error:
    raise UserError(_MISSING.format(who, 'opencv-python-headless', error, install('annotations'))) from error
  return cv2


def check_size(height, width, where):
  """Raises UserError, naming `where`, if an image is said to have no pixels or too many to draw."""
  if min(height, width) < 1 or height * width > MAX_PIXELS:
    raise UserError(f'{where} is said to be {width}x{height} pixels; 1 to {MAX_PIXELS} in all are understood')


def shrink(segmentation):
  """Turns the numbers of a segmentation into arrays while a JSON is read: as objects they would take gigabytes.

  Of values of other types enough is kept for `draw` to refuse them.
  """
  if isinstance(segmentation, list):
    return [numbers(points) for points in segmentation]
  if isinstance(segmentation, dict) and segmentation:
    size, counts = segmentation.get('size'), segmentation.get('counts')
    counts = counts if isinstance(counts, str) else numbers(counts, 'iu')
    return {'size': size if isinstance(size, list) and all(type(side) is int for side in size) else brief(size),
            'counts': counts if isinstance(counts, np.ndarray) or counts is segmentation.get('counts') else None}
  return segmentation


def numbers(values, kinds='iuf'):
  """Turns a list of numbers into an array: float64, or int64 where `kinds` is 'iu'; others into a text for messages."""
  try:
    array = np.array(values)
  except (TypeError, ValueError, OverflowError, RecursionError):  # lists of unequal lengths, among others
    return brief(values)
  is_list = isinstance(values, list) and (array.dtype.kind in kinds or not array.size)
  return array.astype(np.float64 if 'f' in kinds else np.int64) if is_list else brief(values)


def draw(label, objects, rest=0, *, strict=False):
  """Draws crowds, and over them the other objects, the largest first.

  Args:
    label: what is drawn: `label.size` is its (height, width), `str(label)` its file and image in messages.
    objects: list of Objects.
    rest: raw label of pixels without an object.
    strict: refuse polygons of fewer than three points; otherwise they have no area.

  Returns:
    raw labels, uint8 [H, W].

  Raises:
    BadFile: naming the object, if its segmentation does not fit the image.
  """
  mask, parts = pycocotools(label), []
  for entry in objects:
    rle = _encode(entry.segmentation, label, entry.where, strict)
    if rle:
      parts.append((not entry.is_crowd, -int(mask.area(rle)), entry.raw, rle))
  drawn = np.full(label.size, rest, np.uint8)
  for _, _, raw, rle in sorted(parts, key=lambda part: part[:2]):
    drawn[mask.decode(rle).astype(bool)] = raw
  return drawn


def polygon(points, label, where):
  """Draws one polygon.

  Args:
    points: float [N, 2], x and y in pixels from the image's corner.
    label, where: as in `draw`.

  Returns:
    bool [H, W].

  Raises:
    BadFile: if there are fewer than three points, or one is far beyond the image.
  """
  return pycocotools(label).decode(_encode([points.ravel()], label, where, strict=True)).astype(bool)


def _encode(segmentation, label, where, strict):
  """Turns a segmentation of any form into pycocotools' compressed run lengths; None where it has no area."""
  mask, (height, width) = pycocotools(label), label.size
  if isinstance(segmentation, list):
    polygons = [points for points in segmentation if not _is_degenerate(points, label, where, strict)]
    return mask.merge(mask.frPyObjects(polygons, height, width)) if polygons else None
  if not isinstance(segmentation, dict) or segmentation.get('size') != [height, width]:
    size = segmentation.get('size') if isinstance(segmentation, dict) else segmentation
    raise BadFile(str(label), f'{where} has run lengths of the size {" ".join(str(size)[:40].split())}; the image '
                              f'is {[height, width]} (height, width)')
  counts = segmentation.get('counts')
  if isinstance(counts, str):
    counts = decompress(counts)
  if not isinstance(counts, np.ndarray) or counts.ndim != 1 or not counts.size or counts.min() < 0 or (
      counts.max() > height * width or counts.sum() != height * width):
    raise BadFile(str(label), f'{where} has run lengths that do not make up its {height * width} pixels')
  return mask.frPyObjects({'size': [height, width], 'counts': counts}, height, width)


def decompress(text):
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


def _is_degenerate(points, label, where, strict):
  """Whether a polygon has fewer than three points, and so no area. Raises BadFile if it does not fit the image."""
  if not isinstance(points, np.ndarray) or points.ndim != 1 or points.size % 2:
    raise BadFile(str(label), f'{where} has a polygon that is not a list of x and y')
  points, size = points.reshape(-1, 2), np.array(label.size[::-1])
  if strict and len(points) < 3:
    raise BadFile(str(label), f'{where} has a polygon of {len(points)} point{"s" * (len(points) != 1)}; at least three '
                              'enclose an area')
  outside = ~((points >= -size) & (points <= 2 * size)).all(axis=1)  # true for NaN as well
  if outside.any():
    raise BadFile(str(label), f'{where} has a polygon with the point {points[outside][0].tolist()}, far beyond '
                              f'the image of {size[0]}x{size[1]} pixels')
  if np.abs(points - np.roll(points, 1, axis=0)).max(axis=1).sum() > MAX_OUTLINE:
    raise BadFile(str(label), f'{where} has a polygon whose outline is longer than {MAX_OUTLINE} pixels')
  return len(points) < 3
