"""A canvas for all sheets and charts, and their colors, letters and margins.

Pictures are uint8 [height, width, 3], RGB. Places are in pixels: x runs to the right and y down from the upper left
corner. A text has the middle of its height at its y, and at its x its left end, its middle or its right end, as the
anchor 'l', 'm' or 'r' says.
"""

import math

import numpy as np
from PIL import Image, ImageDraw

from utils.drawing import fonts

PAPER, INK, GRAY, FAINT = (255, 255, 255), (30, 30, 30), (160, 160, 160), (236, 236, 236)
GAIN, LOSS, SHORTFALL = (66, 120, 181), (200, 60, 50), (240, 168, 160)  # blue, red, pale red
SECOND = (222, 143, 60)  # orange: bars of a second series, beside those in GAIN
WRONG = (214, 39, 40)  # red: wrong pixels
DARK = (8, 48, 107)  # navy: the darkest shade
SMALL, TEXT, HEADING = 11, 14, 18  # heights of letters in pixels
MARGIN, GAP = 12, 4  # pixels: around a chart, between pictures of a sheet
TOP, INDENT = 64, 10  # pixels of a chart: from its upper edge to its rows, from a row's name to the row


class Canvas:
  """A picture that is drawn on, white at first."""

  def __init__(self, width, height):
    self._image = Image.new('RGB', (width, height), PAPER)
    self._draw = ImageDraw.Draw(self._image)

  def text(self, x, y, text, anchor='l', *, size=TEXT, color=INK):
    """Writes a line of text of any script with its anchor at (x, y)."""
    width, parts = fonts.layout(text, size)
    own = fonts.font(None, size)
    if [face for _, _, face in parts] == [own]:
      self._draw.text((x, y), parts[0][1], fill=color, font=own, anchor=f'{anchor}m')
      return
    ascent, descent = own.getmetrics()  # fonts share a baseline: that of Pillow's own
    left, baseline = int(x - width * {'l': 0, 'm': 0.5, 'r': 1}[anchor]), int(y + (ascent - descent) / 2)
    for shift, part, face in parts:
      self._draw.text((left + shift, baseline), part, fill=color, font=face, anchor='ls')

  def upwards(self, x, y, text, anchor='l', *, size=TEXT):
    """Writes a line of text that reads upwards, around the column x; y is its start ('l') or its middle ('m')."""
    length, height = text_width(text, size=size), size + 4
    line = Canvas(length, height)
    line.text(0, height // 2, text, size=size)
    self.paste(x - height // 2, y - (length if anchor == 'l' else length // 2), np.rot90(line.array()))

  def bar(self, left, top, right, bottom, color=None, outline=None):
    """Fills and outlines a rectangle, its right column and bottom row included."""
    self._draw.rectangle((left, top, right, bottom), fill=color, outline=outline)

  def line(self, left, top, right, bottom, color=INK, *, width=1):
    """Draws a straight line from (left, top) to (right, bottom)."""
    self._draw.line((left, top, right, bottom), fill=color, width=width)

  def dot(self, x, y, radius=3):
    """Draws a disk around (x, y)."""
    self._draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=INK)

  def paste(self, x, y, picture):
    """Copies a picture onto the canvas with its upper left corner at (x, y)."""
    self._image.paste(Image.fromarray(picture), (x, y))

  def array(self):
    """Returns the picture: uint8 [height, width, 3], RGB."""
    return np.array(self._image)


def text_width(*texts, size=TEXT):
  """Returns the width of the longest of some lines of text, in whole pixels."""
  return math.ceil(max(fonts.layout(text, size)[0] for text in texts))


def fitting(text, width, *, size=TEXT):
  """Cuts a text at its front until no more than `width` pixels are left; an ellipsis marks the cut."""
  text = fonts.plain(text)
  while len(text) > 1 and text_width(text, size=size) > width:
    text = '…' + text[2:]
  return text


def named(number, name):
  """The name of a class as it is drawn: with its number, where no font has all letters of the name."""
  return name if fonts.drawable(name) else f'class {number}: {name}'


def letter_size(picture):
  """Returns the height in pixels of letters beside a picture: 14 to 48, the wider the picture the larger."""
  return int(np.clip(picture.shape[1] // 64, 14, 48))


def shade(share):
  """Returns the color of a share, from paper for 0 to DARK for 1."""
  return tuple(np.rint(255 + share * (np.array(DARK) - 255)).astype(int).tolist())


def beside(pictures):
  """Sets pictures of one height beside each other, GAP white pixels apart."""
  gap = np.full((len(pictures[0]), GAP, 3), PAPER, np.uint8)
  return np.concatenate([part for picture in pictures for part in (gap, picture)][1:], axis=1)


def stacked(pictures, gap=0):
  """Sets pictures under each other, each padded with white at its right to the widest, and below by `gap` pixels."""
  width = max(picture.shape[1] for picture in pictures)
  return np.concatenate([np.pad(picture, ((0, gap), (0, width - picture.shape[1]), (0, 0)), constant_values=255)
                         for picture in pictures])


def legend(entries, *, width, size=TEXT):
  """Draws a strip that names colors: a swatch and a name for each entry, in as many rows as the width asks.

  Args:
    entries: list of (name, color).
    width: wanted width in pixels; the strip gets wider where an entry would not fit.
    size: height of the letters in pixels.

  Returns:
    uint8 [h, w, 3] with w >= width; h is 0 where there are no entries.
  """
  pad, line = size // 2, size + size // 2
  widths = [text_width(name, size=size) + line + 2 * pad for name, _ in entries]
  width = max([width, *widths])
  places, x, y = [], 0, 0
  for needed in widths:
    if x + needed > width:
      x, y = 0, y + line
    places.append((x + pad, y + pad))
    x += needed
  strip = Canvas(width, y + line + pad if entries else 0)
  for (name, color), (x, y) in zip(entries, places):
    strip.bar(x, y, x + size - 1, y + size - 1, color, outline=INK)
    strip.text(x + line, y + size // 2, name, size=size)
  return strip.array()


def row_chart(title, names, *, width, height, right=MARGIN, bottom=MARGIN, note=''):
  """Starts a chart of rows under each other: writes its title, a note under the title, and each row's name at its left.

  Args:
    title: a line of text.
    names: the rows' names.
    width: pixels of the rows' content, at the right of the names.
    height: pixels of a row.
    right: pixels left free at the right of the rows.
    bottom: pixels left free below the rows.
    note: a line of text.

  Returns:
    (chart, left): a Canvas, and the column where the rows' content starts. The first row starts at TOP.
  """
  left = MARGIN + text_width(*names) + INDENT
  needed = 2 * MARGIN + max(text_width(title, size=HEADING), text_width(note))
  chart = Canvas(max(left + width + right, needed), TOP + height * len(names) + bottom)
  chart.text(MARGIN, 20, title, size=HEADING)
  chart.text(MARGIN, 44, note)
  for row, name in enumerate(names):
    chart.text(left - INDENT, TOP + row * height + height // 2, name, 'r')
  return chart, left
