"""Sheets of images: evaluated ones as image | truth | prediction, under each other; contact sheets of pairs."""

import dataclasses

import numpy as np
from PIL import Image

from utils.drawing import canvas, colors
from utils.labels import IGNORE_LABEL

HEIGHT = 360  # pixels; a taller image keeps every second, third, ... row and column
TILE = (320, 240)  # width and height in pixels that an image of a contact sheet fits into
PAIRS = 3  # in a row of a contact sheet
SPACE, _TITLE, _CAPTION = 8, 40, 22  # pixels: between tiles, height of a contact sheet's title and of a caption


@dataclasses.dataclass(frozen=True)
class Row:
  """An evaluated image, thinned out to at most HEIGHT rows.

  Attributes:
    name: of its record.
    image: uint8 [h, w, 3], RGB.
    truth: integer [h, w], label ids or IGNORE_LABEL.
    prediction: integer [h, w], label ids.
    score: its mean IoU as a fraction of 1, or None.
  """
  name: str
  image: np.ndarray
  truth: np.ndarray
  prediction: np.ndarray
  score: float | None = None


def row(name, image, truth, prediction, score=None):
  """Returns the Row of an image of any size, with copies of the arrays."""
  thin = (slice(None, None, -(-len(image) // HEIGHT)),) * 2
  return Row(name, image[thin].copy(), truth[thin].copy(), prediction[thin].copy(), score)


def sheet(rows, classes, palette, *, errors=False):
  """Draws rows under each other, with the legend of the classes in them.

  Args:
    rows: list of Row, at least one.
    classes: class names, index = label id.
    palette: uint8 [C, 3], RGB.
    errors: whether to add a map of the errors at the right, and a line with name and score above each row.

  Returns:
    uint8 [h, w, 3], RGB.
  """
  pictures = []
  for one in rows:
    picture = colors.side_by_side(one.image, one.truth, one.prediction, palette)
    if errors:
      picture = _captioned(canvas.beside([picture, error_map(one)]),
                           f'{one.name}: mean IoU {100 * one.score:.1f} %   image | truth | prediction | errors in red')
    pictures.append(picture)
  ids = set().union(*(np.unique(part).tolist() for one in rows for part in (one.truth, one.prediction)))
  return colors.with_legend(canvas.stacked(pictures, canvas.GAP), sorted(ids), classes, palette)


def error_map(one):
  """Paints the wrong pixels of a Row red over its pale gray image, and void in its color: uint8 [h, w, 3], RGB."""
  pale = (160 + one.image.mean(axis=-1, keepdims=True) * (95 / 255)).astype(np.uint8)
  picture = np.where((one.prediction != one.truth)[..., None], np.uint8(canvas.WRONG), pale)
  return np.where((one.truth == IGNORE_LABEL)[..., None], np.uint8(colors.VOID_COLOR), picture)


def _captioned(picture, text):
  """Puts a line of text above a picture, which is padded with white at its right if the text is wider."""
  size = canvas.letter_size(picture)
  strip = canvas.Canvas(max(picture.shape[1], canvas.text_width(text, size=size) + size), 2 * size)
  strip.text(size // 2, size, text, size=size)
  return canvas.stacked([strip.array(), picture])


@dataclasses.dataclass(frozen=True)
class Pair:
  """Two pictures of one image on a contact sheet.

  Attributes:
    left: uint8 [h, w, 3], RGB, at most TILE.
    right: another of the same size.
    name: written below; cut at its front where there is no room.
    head: text before the name, which is never cut.
  """
  left: np.ndarray
  right: np.ndarray
  name: str
  head: str = ''


def tile_size(width, height):
  """[width, height] in pixels of an image that is made as large as a tile of a contact sheet allows."""
  scale = min(TILE[0] / width, TILE[1] / height)
  return [max(1, round(side * scale)) for side in (width, height)]


def thumbnail(image):
  """Makes an image, a uint8 [H, W, 3] array or a PIL image, as large as a tile allows: uint8 [h, w, 3], RGB."""
  image = Image.fromarray(image) if isinstance(image, np.ndarray) else image.convert('RGB')
  size = tile_size(*image.size)
  method = Image.Resampling.BOX if size[0] < image.width or size[1] < image.height else Image.Resampling.NEAREST
  return np.asarray(image.resize(size, method))


def pairs(entries, title):
  """Draws a contact sheet: pairs of pictures side by side, PAIRS in a row, each with a caption.

  Args:
    entries: list of Pair, at least one.
    title: a line above them.

  Returns:
    uint8 [h, w, 3], RGB.
  """
  in_row = min(PAIRS, len(entries))
  step = (2 * TILE[0] + 2 * SPACE, TILE[1] + _CAPTION + SPACE)
  width = max(in_row * step[0] + SPACE, canvas.text_width(title, size=canvas.HEADING) + 2 * SPACE)
  drawn = canvas.Canvas(width, _TITLE + -(-len(entries) // in_row) * step[1])
  drawn.text(SPACE, _TITLE // 2, title, size=canvas.HEADING)
  for index, pair in enumerate(entries):
    x, y = SPACE + index % in_row * step[0], _TITLE + index // in_row * step[1]
    left, above = x + TILE[0] - pair.left.shape[1], y + (TILE[1] - len(pair.left)) // 2  # the two meet in the middle
    drawn.paste(left, above, pair.left)
    drawn.paste(x + TILE[0] + 2, above, pair.right)
    room = x + step[0] - left - 2 * SPACE - canvas.text_width(pair.head)
    drawn.text(left, y + TILE[1] + _CAPTION // 2, pair.head + canvas.fitting(pair.name, room))
  return drawn.array()
