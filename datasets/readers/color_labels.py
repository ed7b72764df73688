"""Label pictures in which colors, not numbers, stand for classes; and the lists of colors that come with them."""

import functools
import re

import numpy as np

from datasets import images, label_pictures
from datasets.readers import lists
from utils.errors import UserError

NEAR = 48  # Euclidean distance in RGB up to which an unknown color passes for a blurred known color
_COLOR_LINE = re.compile(r'(\d+)\s+(\d+)\s+(\d+)\s+(\S.*)')


def read_color_label(path, colors, transparent=None):
  """Reads a label picture whose colors are classes, of any mode: gray and palette pictures have colors as well.

  Args:
    path: file name of the picture.
    colors: tuple of ((r, g, b), raw_id), all in 0..255; several colors may have one raw id.
    transparent: raw id of wholly transparent pixels; None: that of the color beneath.

  Returns:
    raw labels, uint8 [H, W].

  Raises:
    BadFile: if the picture cannot be decoded, is a JPEG (whose colors are not exact), holds a color that is not in
      `colors`, or pixels that are neither opaque nor wholly transparent.
  """
  rgb, clear = read_colors(path)
  packed = _packed(rgb)
  known, ids = _sorted_table(colors)
  places = np.minimum(np.searchsorted(known, packed), len(known) - 1)
  unknown = known[places] != packed
  if clear is not None and transparent is not None:
    unknown &= ~clear
  elif clear is not None and (unknown & clear).any():
    raise images.BadFile(path, _describe_transparent(rgb, unknown & clear))
  if unknown.any():
    raise images.BadFile(path, _describe_unknown(packed, unknown, colors))
  raw = ids[places]
  if clear is not None and transparent is not None:
    raw[clear] = transparent
  return raw


def read_colors(path):
  """Decodes the colors of a label picture as they are stored.

  Returns:
    (uint8 [H, W, 3]; bool [H, W], True where pixels are wholly transparent, None where none is).

  Raises:
    BadFile: as `label_pictures.open_label`; or naming the place of a pixel that is neither opaque nor wholly
      transparent.
  """
  data, image = label_pictures.open_label(path)
  label_pictures.refuse_16_bit_colors(data, image, path)
  if image.mode in images.WIDE_MODES:  # Pillow would cut them to 255
    values = label_pictures.read_label(path)
    return np.repeat(values[..., np.newaxis], 3, axis=-1), None
  if not image.has_transparency_data:
    return np.asarray(image.convert('RGB')), None
  pixels = np.asarray(image.convert('RGBA'))
  alpha = pixels[..., 3]
  between = (alpha != 0) & (alpha != 255)
  if between.any():
    row, column = np.argwhere(between)[0]
    raise images.BadFile(path, f'has alpha {alpha[row, column]} at row {row}, column {column}; pixels of a label are '
                               f'opaque (255) or wholly transparent (0)')
  return pixels[..., :3], (alpha == 0 if (alpha == 0).any() else None)


def _describe_transparent(rgb, where):
  """Describes transparent pixels, bool [H, W], whose color is no class's."""
  row, column = np.argwhere(where)[0]
  return (f'has {np.count_nonzero(where)} transparent pixels, the first at row {row}, column {column}, and the color '
          f'beneath, {_text(rgb[row, column])}, stands for no class; "transparent" in dataset.json says which class '
          'they are, or "ignore"')


def _packed(rgb):
  """Turns colors, integers of 0..255 [..., 3], into 24-bit numbers, uint32 [...]."""
  rgb = rgb.astype(np.uint32)
  return rgb[..., 0] << 16 | rgb[..., 1] << 8 | rgb[..., 2]


@functools.lru_cache(maxsize=8)
def _sorted_table(colors):
  """Returns the colors as sorted 24-bit numbers, uint32 [N], and the raw id of each, uint8 [N]."""
  packed = _packed(np.array([color for color, _ in colors]))
  order = np.argsort(packed)
  return packed[order], np.array([raw_id for _, raw_id in colors], np.uint8)[order]


def _describe_unknown(packed, unknown, colors):
  """Describes the first unknown color: its place, how often it occurs, and the nearest known color."""
  row, column = np.argwhere(unknown)[0]
  value = int(packed[row, column])
  color = np.array([value >> 16, value >> 8 & 255, value & 255])
  num_others = len(np.unique(packed[unknown])) - 1
  count = int(np.count_nonzero(packed == value))
  text = (f'has the color {_text(color)}, which stands for no class, in {count} pixel{"s" * (count > 1)}, the first at '
          f'row {row}, column {column}')
  if num_others:
    text += f' ({num_others} more color{"s" * (num_others > 1)} unknown; {np.count_nonzero(unknown)} pixels in all)'
  distances = np.linalg.norm(np.array([known for known, _ in colors]) - color, axis=1)
  if distances.min() <= NEAR:
    text += (f'; the nearest known color is {_text(colors[distances.argmin()][0])}: has the label been a JPEG, or been '
             'drawn or resized with smooth edges?')
  return text


def _text(color):
  return ','.join(str(int(value)) for value in color)


def read_label_colors(path):
  """Reads a list of colors as it comes with CamVid, `label_colors.txt`: `R G B Name` on each line.

  Returns:
    a list of (name, (r, g, b)), in the file's order; white space in names is kept.

  Raises:
    UserError: naming the file and the line, if a line has another form, a value is above 255, or a name or a color
      comes twice; or if the file is missing or holds no line.
  """
  found, places = [], {}
  for where, line in lists.read_text(path):
    match = _COLOR_LINE.fullmatch(line)
    if not match:
      raise UserError(f'{where}: expected three numbers and a name, as in "128 64 128 Road", found {line!r}')
    color, name = tuple(int(value) for value in match.groups()[:3]), match.group(4)
    check_color(color, where)
    for item in (f'color {_text(color)}', f'name {name}'):
      lists.note_place(places, item, where)
    found.append((name, color))
  return found


def check_color(color, where):
  """Raises UserError, naming `where`, if a value of an RGB triple is above 255 or below 0."""
  for value in color:
    if not 0 <= value <= 255:
      raise UserError(f'{where}: the color {_text(color)} has the value {value}; valid are 0 to 255')
