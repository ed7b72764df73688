"""Label pictures: the ids that they hold, read without change, and their translation to a dataset's own."""

import numpy as np

from datasets import images
from datasets.dataset import BadFile

_GRAY_SCALE = {2: 85, 4: 17}  # Pillow's factors on 2- and 4-bit gray, which fill 0..255


def open_label(path):
  """Decodes a label picture by Pillow.

  Returns:
    (bytes, PIL image).

  Raises:
    BadFile: if it cannot be decoded, or is stored with loss, as in a JPEG.
  """
  data, image = images.open_picture(path)
  lossy = image.format in ('JPEG', 'MPO') or (image.format == 'WEBP' and data[12:16] == b'VP8 ') or (
      image.format == 'TIFF' and image.info.get('compression') == 'jpeg')
  if lossy:
    raise BadFile(path, f'is a {"JPEG" if image.format == "MPO" else image.format} with loss; labels must be stored '
                        'without loss, as PNG')
  return data, image


def read_label(path):
  """Reads a label picture of ids: the palette indices or the gray values, also where gray is stored as RGB.

  Returns:
    raw labels, uint8 [H, W].

  Raises:
    BadFile: if it cannot be decoded, has colors, transparent pixels or lossy compression, or values above 255.
  """
  data, image = open_label(path)
  if image.mode in ('LA', 'RGB', 'RGBA'):
    return _gray_values(image, data, path)
  if image.mode not in ('P', 'L', '1', *images.WIDE_MODES):
    raise BadFile(path, f'has pixels of mode {image.mode}; a label is a grayscale or palette picture of ids')
  raw = np.asarray(image)
  if image.mode == 'L' and image.format == 'PNG':
    raw = raw // _GRAY_SCALE.get(images.png_header(data)[0], 1)
  if image.mode in images.WIDE_MODES and not 0 <= raw.min() <= raw.max() <= 255:
    raise BadFile(path, f'has label values from {raw.min()} to {raw.max()}; ids are 0 to 255')
  return raw.astype(np.uint8)


def _gray_values(image, data, path):
  """The ids of a picture with several channels: red, green and blue must be equal, and every pixel opaque."""
  refuse_16_bit_colors(data, image, path)
  pixels = np.asarray(image)
  if image.mode in ('LA', 'RGBA') and pixels[..., -1].min() < 255:
    row, column = np.argwhere(pixels[..., -1] < 255)[0]
    raise BadFile(path, f'has alpha {pixels[row, column, -1]} at row {row}, column {column}; in a label of ids every '
                        'pixel is opaque')
  differ = (pixels[..., :3] != pixels[..., :1]).any(axis=-1) if image.mode != 'LA' else np.zeros(pixels.shape[:2], bool)
  if differ.any():
    row, column = np.argwhere(differ)[0]
    color = ','.join(map(str, pixels[row, column, :3]))
    raise BadFile(path, f'has the color {color} at row {row}, column {column}; a label of ids is gray or has a palette')
  return pixels[..., 0].copy()


def refuse_16_bit_colors(data, image, path):
  """Raises BadFile for a label with colors of 16 bits, see `open_label`."""
  if images.is_wide(data, image):
    raise BadFile(path, 'has colors of 16 bits; the colors of labels have 8')


def describe_valid(label_map):
  """Names the raw labels that a dataset has: '0 to 20, 255'."""
  valid = np.flatnonzero(label_map >= 0)
  runs = np.split(valid, np.flatnonzero(np.diff(valid) > 1) + 1)
  return ', '.join(str(run[0]) if len(run) == 1 else f'{run[0]} to {run[-1]}' for run in runs)


def to_ids(raw, label_map, path):
  """Maps raw labels to ids.

  Args:
    raw: uint8 [H, W].
    label_map: int16 [256], a `Dataset.label_map`.
    path: the label's file, for the message.

  Returns:
    uint8 [H, W] of ids and IGNORE_LABEL.

  Raises:
    BadFile: naming the first raw label that the dataset does not have.
  """
  ids = label_map.take(raw)
  if (ids < 0).any():
    row, column = np.argwhere(ids < 0)[0]
    others = len(np.unique(raw[ids < 0])) - 1
    more = f' ({others} more values are out of range too)' if others else ''
    raise BadFile(path, f'has label value {raw[row, column]} at row {row}, column {column}; '
                        f'valid are {describe_valid(label_map)}{more}')
  return ids.astype(np.uint8)
