"""Sheets of evaluated images: each as image | truth | prediction, under each other, with a legend."""

import dataclasses

import numpy as np

from utils.drawing import canvas, colors
from utils.labels import IGNORE_LABEL

HEIGHT = 360  # pixels; a taller image keeps every second, third, ... row and column


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
