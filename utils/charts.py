"""Charts as pictures."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_PAPER, _INK, _FAINT = (255, 255, 255), (30, 30, 30), (236, 236, 236)
_DARK = np.array([8, 48, 107])  # colour of a share of one; none is white
_SMALL, _LARGE = 15, 44  # pixels of a cell; numbers fit in the large ones
_MOST_LARGE = 40  # classes


def confusion_chart(matrix, classes, title=''):
  """Draws a confusion matrix: each row, a true class, shows how its pixels were labelled.

  Args:
    matrix: int64 [C, C], rows truth, columns prediction.
    classes: class names, index = label id.
    title: a line above it.

  Returns:
    uint8 [h, w, 3], RGB. The darker, the greater the share of the row; percentages stand in the cells where up to 40
    classes leave room for them. The row of a class that is not in the truth is grey.
  """
  cell = _LARGE if len(classes) <= _MOST_LARGE else _SMALL
  font = ImageFont.load_default(13 if cell == _LARGE else 11)
  heading = ImageFont.load_default(16)
  names = int(max(font.getlength(name) for name in classes)) + 12
  left, top = names + 28, names + 64
  size = cell * len(classes)
  width = max(left + size + 20, int(heading.getlength(title)) + 24)
  picture = Image.new('RGB', (width, top + size + 20), _PAPER)
  draw = ImageDraw.Draw(picture)
  draw.text((12, 12), title, fill=_INK, font=heading)
  draw.text((left + size // 2, 46), 'predicted', fill=_INK, font=font, anchor='mm')
  _draw_upwards(picture, 'truth', (14, top + size // 2), font, centred=True)
  for index, name in enumerate(classes):
    middle = index * cell + cell // 2
    draw.text((left - 6, top + middle), name, fill=_INK, font=font, anchor='rm')
    _draw_upwards(picture, name, (left + middle, top - 6), font)
  _draw_cells(draw, matrix, (left, top), cell, font)
  return np.asarray(picture)


def _draw_cells(draw, matrix, corner, cell, font):
  """Draws the matrix itself with its upper left corner at `corner`."""
  truth = matrix.sum(axis=1)
  for row, column in np.ndindex(*matrix.shape):
    x, y = corner[0] + column * cell, corner[1] + row * cell
    share = matrix[row, column] / max(truth[row], 1)
    color = tuple(np.rint(255 + share**0.7 * (_DARK - 255)).astype(int).tolist()) if truth[row] else _FAINT
    draw.rectangle((x, y, x + cell - 2, y + cell - 2), fill=color, outline=_FAINT)
    if cell == _LARGE and share >= 0.0005:
      text = f'{100 * share:.1f}' if share < 0.9995 else '100'
      draw.text((x + cell // 2 - 1, y + cell // 2 - 1), text, fill=_PAPER if share > 0.4 else _INK, font=font,
                anchor='mm')


def _draw_upwards(picture, text, place, font, centred=False):
  """Draws text that reads upwards, starting at `place` (or centred on it)."""
  left, top, right, bottom = font.getbbox(text)
  strip = Image.new('RGB', (int(right) + 2, int(bottom) + 4), _PAPER)
  ImageDraw.Draw(strip).text((0, 0), text, fill=_INK, font=font)
  strip = strip.transpose(Image.Transpose.ROTATE_90)
  x = place[0] - strip.width // 2
  picture.paste(strip, (x, place[1] - (strip.height // 2 if centred else strip.height)))
