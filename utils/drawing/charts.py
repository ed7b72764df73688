"""Charts of a network's results: confusion matrix, reliability diagram, scores by severity."""

import numpy as np

from utils.drawing import canvas

_SMALL_CELL, _LARGE_CELL = 15, 44  # pixels of a cell; only a large one has room for a number
_MOST_LARGE = 40  # classes up to which cells are large
_BAR, _BARS = 14, 260  # pixels: height of a bar of a severity chart, width of one for a score of 1
_SIDE, _LOW, _MARGIN = 420, 110, 64  # pixels: of the reliability diagram, of the histogram below it, around both


def confusion_chart(matrix, classes, title=''):
  """Draws a confusion matrix: each row, a true class, shows how its pixels were labeled.

  Args:
    matrix: int64 [C, C], rows truth, columns prediction.
    classes: class names, index = label id.
    title: a line above it.

  Returns:
    uint8 [h, w, 3], RGB. The darker a cell, the greater its share of the row; up to 40 classes the cells hold the
    share in percent. The row of a class that is not in the truth is gray.
  """
  classes = [canvas.named(*pair) for pair in enumerate(classes)]
  large = len(classes) <= _MOST_LARGE
  cell, font_size = (_LARGE_CELL, canvas.TEXT) if large else (_SMALL_CELL, canvas.SMALL)
  names = canvas.text_width(*classes, size=font_size) + 12
  left, top, size = names + 28, names + 64, cell * len(classes)
  width = max(left + size + 20, canvas.text_width(title, size=canvas.HEADING) + 2 * canvas.MARGIN)
  chart = canvas.Canvas(width, top + size + 20)
  chart.text(canvas.MARGIN, 20, title, size=canvas.HEADING)
  chart.text(left + size // 2, 46, 'predicted', 'm', size=font_size)
  chart.upwards(14, top + size // 2, 'truth', 'm', size=font_size)
  for index, name in enumerate(classes):
    middle = index * cell + cell // 2
    chart.text(left - 6, top + middle, name, 'r', size=font_size)
    chart.upwards(left + middle, top - 6, name, size=font_size)
  _draw_cells(chart, matrix, left, top, cell)
  return chart.array()


def _draw_cells(chart, matrix, left, top, cell):
  """Draws the cells of a confusion matrix, the first one's upper left corner at (left, top)."""
  truth = matrix.sum(axis=1)
  for row, column in np.ndindex(*matrix.shape):
    x, y = left + column * cell, top + row * cell
    share = matrix[row, column] / max(truth[row], 1)
    color = canvas.shade(share**0.7) if truth[row] else canvas.FAINT
    chart.bar(x, y, x + cell - 2, y + cell - 2, color, outline=canvas.FAINT)
    if cell == _LARGE_CELL and share >= 0.0005:
      text = f'{100 * share:.1f}' if share < 0.9995 else '100'
      chart.text(x + cell // 2 - 1, y + cell // 2 - 1, text, 'm', color=canvas.PAPER if share > 0.4 else canvas.INK)


def reliability_chart(counts, title, error):
  """Draws a reliability diagram (Guo et al., ICML 2017, figure 1), and below it the share of the pixels in each bin.

  Args:
    counts: float64 [3, bins]: pixels, right pixels and the sum of their confidences for bins of equal width; at least
      one pixel.
    title: a line above it, followed by the expected calibration error.
    error: expected calibration error, 0 to 1.

  Returns:
    uint8 [h, w, 3], RGB. Blue bars are as high as the accuracy of the bin's pixels, red lines as their mean confidence;
    a confidence above the accuracy has a pale bar between the two. Calibrated, the bars end at the lines.
  """
  pixels, right, confidence = counts
  top, below = _MARGIN, _MARGIN + _SIDE + 24
  title = f'{title}: expected calibration error {100 * error:.2f} %'
  width = max(_SIDE + 2 * _MARGIN, canvas.text_width(title, size=canvas.HEADING) + 2 * canvas.MARGIN)
  chart = canvas.Canvas(width, below + _LOW + _MARGIN)
  chart.text(canvas.MARGIN, 20, title, size=canvas.HEADING)
  chart.text(canvas.MARGIN, 44, 'blue: accuracy of the pixels in a bin; red line: their mean confidence')
  for place in range(len(pixels)):
    left, end = (_MARGIN + round(_SIDE * edge / len(pixels)) for edge in (place, place + 1))
    if pixels[place]:
      heights = [top + _SIDE * (1 - part[place] / pixels[place]) for part in (right, confidence)]
      chart.bar(left + 1, min(heights), end - 1, max(heights), canvas.SHORTFALL)
      chart.bar(left + 1, heights[0], end - 1, top + _SIDE, canvas.GAIN)
      chart.line(left + 1, heights[1], end - 1, heights[1], canvas.LOSS, width=2)
    share = pixels[place] / pixels.sum()
    chart.bar(left + 1, below + _LOW * (1 - share), end - 1, below + _LOW, canvas.GAIN)
  chart.line(_MARGIN, top + _SIDE, _MARGIN + _SIDE, top)
  _draw_axes(chart, (top, below))
  return chart.array()


def _draw_axes(chart, tops):
  """Draws frames, numbers and names around the two parts of a reliability diagram."""
  for y, height, name in zip(tops, (_SIDE, _LOW), ('accuracy', 'share of pixels')):
    chart.bar(_MARGIN, y, _MARGIN + _SIDE, y + height, outline=canvas.INK)
    for share in (0, 0.5, 1) if height == _LOW else np.linspace(0, 1, 6):
      chart.text(_MARGIN - 6, y + height * (1 - share), f'{share:.0%}', 'r')
    chart.upwards(12, y + height // 2, name, 'm')
  for share in np.linspace(0, 1, 6):
    chart.text(_MARGIN + _SIDE * share, tops[1] + _LOW + 12, f'{share:.0%}', 'm')
  chart.text(_MARGIN + _SIDE // 2, tops[1] + _LOW + 34, 'confidence', 'm')


def severity_chart(rows, severities, title, *, clean, before=None):
  """Draws scores that fall with a severity: a row of cells for each corruption, and a bar for their mean.

  Args:
    rows: dict from name to the list of its scores by severity, fractions of 1.
    severities: list of the severities.
    title: a line above it.
    clean: score without corruption, a fraction of 1, which a line through the bars marks.
    before: dict from name to the mean of an earlier result, which gets a bar of its own; None or {} for none.

  Returns:
    uint8 [h, w, 3], RGB. Cells hold percentages; the darker, the larger the share of `clean` that is lost.
  """
  note = f'score in % by severity, darker where more is lost; blue: their mean; line: clean, {100 * clean:.1f}'
  height, cells = (_BAR * (3 if before else 2) + 6), _LARGE_CELL * len(severities)
  chart, left = canvas.row_chart(
      title, list(rows), width=cells + canvas.INDENT + _BARS, height=height, right=110, bottom=40,
      note=note + ('; orange: mean before' if before else ''))
  start, bottom = left + cells + canvas.INDENT, canvas.TOP + height * len(rows)
  for row, (name, scores) in enumerate(rows.items()):
    top, mean = canvas.TOP + row * height, float(np.mean(scores))
    for column, score in enumerate(scores):
      _draw_score(chart, (left + column * _LARGE_CELL, top), (_LARGE_CELL, height), score, clean)
    bars = [(mean, canvas.GAIN)] + ([(before[name], canvas.SECOND)] if before else [])
    for place, (value, color) in enumerate(bars):
      above = top + 2 + (height - 4 - _BAR * len(bars)) // 2 + place * _BAR
      chart.bar(start, above, start + round(_BARS * value), above + _BAR - 3, color)
    change = f' ({100 * (mean - before[name]):+.1f})' if before else ''
    end = start + round(_BARS * max(clean, *(value for value, _ in bars)))
    chart.text(end + 8, top + height // 2, f'{100 * mean:.1f}{change}')
  for column, severity in enumerate(severities):
    chart.text(left + column * _LARGE_CELL + _LARGE_CELL // 2, bottom + 14, str(severity), 'm')
  chart.line(start + round(_BARS * clean), canvas.TOP, start + round(_BARS * clean), bottom)
  return chart.array()


def _draw_score(chart, corner, size, score, clean):
  """Draws a cell of a severity chart, the darker the more of `clean` is lost; `corner` and `size` are (x, y)."""
  (x, y), (width, height) = corner, size
  lost = min(max(1 - score / clean, 0), 1) if clean else 0
  chart.bar(x, y, x + width - 2, y + height - 2, canvas.shade(lost), outline=canvas.FAINT)
  chart.text(x + width // 2 - 1, y + height // 2 - 1, f'{100 * score:.1f}', 'm',
             color=canvas.PAPER if lost > 0.5 else canvas.INK)
