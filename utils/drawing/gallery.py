"""Sheets of evaluated images: each as image | truth | prediction, under each other, with a legend."""

import dataclasses

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from utils.drawing import colors
from utils.labels import IGNORE_LABEL

HEIGHT = 360  # pixels; taller images are thinned out
_GAP = 4  # pixels of white
_PAPER, _INK, _WRONG = (255, 255, 255), (30, 30, 30), (214, 39, 40)


@dataclasses.dataclass(frozen=True)
class Row:
  """An evaluated image, thinned out to at most HEIGHT rows.

  Attributes:
    name: of its record.
    image: uint8 [h, w, 3], RGB.
    truth: integer [h, w], label ids or 255.
    prediction: integer [h, w], label ids.
    score: its mean IoU as a fraction of 1, or None.
  """
  name: str
  image: np.ndarray
  truth: np.ndarray
  prediction: np.ndarray
  score: float | None = None


def row(name, image, truth, prediction, score=None):
  """Returns the Row of an image of any size; it keeps nothing of the arrays given."""
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
      gap = np.full((len(picture), _GAP, 3), 255, np.uint8)
      picture = _captioned(np.concatenate([picture, gap, error_map(one)], axis=1),
                           f'{one.name}: mean IoU {100 * one.score:.1f} %   image | truth | prediction | errors in red')
    pictures.append(picture)
  width = max(picture.shape[1] for picture in pictures)
  padded = [np.pad(picture, ((0, _GAP), (0, width - picture.shape[1]), (0, 0)), constant_values=255)
            for picture in pictures]
  ids = set().union(*(np.unique(part).tolist() for one in rows for part in (one.truth, one.prediction)))
  return colors.with_legend(np.concatenate(padded), sorted(ids), classes, palette)


def error_map(one):
  """Paints what is wrong in a Row red over its pale grey image, and void in its color: uint8 [h, w, 3], RGB."""
  pale = (160 + one.image.mean(axis=-1, keepdims=True) * (95 / 255)).astype(np.uint8)
  picture = np.where((one.prediction != one.truth)[..., None], np.uint8(_WRONG), pale)
  return np.where((one.truth == IGNORE_LABEL)[..., None], np.uint8(colors.VOID_COLOR), picture)


def _captioned(picture, text):
  """Puts a line of text above a picture; one narrower than the text is padded with white on its right."""
  size = int(np.clip(picture.shape[1] // 80, 14, 28))
  font = ImageFont.load_default(size)
  width = max(picture.shape[1], int(np.ceil(font.getlength(text))) + size)
  strip = Image.new('RGB', (width, 2 * size), _PAPER)
  ImageDraw.Draw(strip).text((size // 2, size), text, fill=_INK, font=font, anchor='lm')
  return np.concatenate([np.asarray(strip), np.pad(picture, ((0, 0), (0, width - picture.shape[1]), (0, 0)),
                                                   constant_values=255)])
