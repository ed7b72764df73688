"""Charts as pictures."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from utils.evaluation import calibration

_PAPER, _INK, _FAINT = (255, 255, 255), (30, 30, 30), (236, 236, 236)
_DARK = np.array([8, 48, 107])  # colour of a share of one; none is white
_SMALL, _LARGE = 15, 44  # pixels of a cell; numbers fit in the large ones
_MOST_LARGE = 40  # classes
_RIGHT, _BETWEEN, _SURE = (66, 120, 181), (240, 168, 160), (200, 60, 50)  # of a reliability diagram
_SIDE, _LOW, _MARGIN = 420, 110, 64  # pixels: of the reliability diagram, of the histogram below it, around both


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


def reliability_chart(counts, title=''):
  """Draws a reliability diagram (Guo et al., ICML 2017, figure 1), and below it how many pixels each bin holds.

  Args:
    counts: float64 [3, bins], see `calibration.bin_counts`; at least one pixel.
    title: a line above it, followed by the expected calibration error.

  Returns:
    uint8 [h, w, 3], RGB. Bars are as high as the share of the bin's pixels that are right, red lines as their mean
    confidence; where it is the higher one, the space between is pale. Calibrated, the bars end at the lines.
  """
  pixels, right, confidence = counts
  font, heading = ImageFont.load_default(13), ImageFont.load_default(16)
  top, below = _MARGIN, _MARGIN + _SIDE + 24
  picture = Image.new('RGB', (_SIDE + 2 * _MARGIN, below + _LOW + _MARGIN), _PAPER)
  draw = ImageDraw.Draw(picture)
  error = 100 * calibration.expected_error(counts)
  draw.text((12, 12), f'{title}: expected calibration error {error:.2f} %', fill=_INK, font=heading)
  draw.text((12, 36), 'how many are right (blue), and how sure the network is of them (red line)', fill=_INK, font=font)
  for place in range(len(pixels)):
    left, end = (_MARGIN + round(_SIDE * edge / len(pixels)) for edge in (place, place + 1))
    if pixels[place]:
      heights = [top + _SIDE * (1 - part[place] / pixels[place]) for part in (right, confidence)]
      draw.rectangle((left + 1, min(heights), end - 1, max(heights)), fill=_BETWEEN)
      draw.rectangle((left + 1, heights[0], end - 1, top + _SIDE), fill=_RIGHT)
      draw.line((left + 1, heights[1], end - 1, heights[1]), fill=_SURE, width=2)
    share = pixels[place] / pixels.sum()
    draw.rectangle((left + 1, below + _LOW * (1 - share), end - 1, below + _LOW), fill=_RIGHT)
  draw.line((_MARGIN, top + _SIDE, _MARGIN + _SIDE, top), fill=_INK)
  _draw_axes(picture, draw, font, (top, below))
  return np.asarray(picture)


def _draw_axes(picture, draw, font, tops):
  """Draws frames, numbers and names around the two parts of a reliability diagram."""
  for y, height, name in zip(tops, (_SIDE, _LOW), ('right, of the bin', 'of all pixels')):
    draw.rectangle((_MARGIN, y, _MARGIN + _SIDE, y + height), outline=_INK)
    for share in (0, 0.5, 1) if height == _LOW else np.linspace(0, 1, 6):
      draw.text((_MARGIN - 6, y + height * (1 - share)), f'{share:.0%}', fill=_INK, font=font, anchor='rm')
    _draw_upwards(picture, name, (12, y + height // 2), font, centred=True)
  for share in np.linspace(0, 1, 6):
    draw.text((_MARGIN + _SIDE * share, tops[1] + _LOW + 12), f'{share:.0%}', fill=_INK, font=font, anchor='mm')
  draw.text((_MARGIN + _SIDE // 2, tops[1] + _LOW + 34), 'confidence', fill=_INK, font=font, anchor='mm')


def _draw_upwards(picture, text, place, font, centred=False):
  """Draws text that reads upwards, starting at `place` (or centred on it)."""
  left, top, right, bottom = font.getbbox(text)
  strip = Image.new('RGB', (int(right) + 2, int(bottom) + 4), _PAPER)
  ImageDraw.Draw(strip).text((0, 0), text, fill=_INK, font=font)
  strip = strip.transpose(Image.Transpose.ROTATE_90)
  x = place[0] - strip.width // 2
  picture.paste(strip, (x, place[1] - (strip.height // 2 if centred else strip.height)))
