"""Label maps as pictures: colors, overlays, legends and palette PNGs; maps of numbers with a scale."""

import io

import numpy as np
from PIL import Image

from utils.drawing import canvas
from utils.files import write_bytes
from utils.labels import IGNORE_LABEL
from utils.marks import marked_png

VOID_COLOR = (224, 224, 192)  # as in the palette of VOC's label PNGs
_HEAT = np.array([  # from 0 to the top in equal steps: matplotlib's inferno (CC0), lighter at every step
    (0, 0, 4), (33, 12, 74), (86, 16, 110), (137, 34, 106), (187, 55, 84), (227, 89, 50), (249, 140, 10),
    (249, 201, 50), (252, 255, 164)])


def full_palette(palette):
  """Extends a dataset's palette to every 8-bit label: black where there is no class, VOID_COLOR for void.

  Args:
    palette: uint8 [C, 3], C at most 255.

  Returns:
    uint8 [256, 3].

  Raises:
    ValueError: if the palette is of another shape.
  """
  palette = np.asarray(palette, np.uint8)
  if palette.ndim != 2 or palette.shape[1] != 3 or len(palette) > IGNORE_LABEL:
    raise ValueError(f'a palette is [C, 3] with C at most {IGNORE_LABEL}, not {palette.shape}')
  full = np.zeros((256, 3), np.uint8)
  full[:len(palette)] = palette
  full[IGNORE_LABEL] = VOID_COLOR
  return full


def colorize(label, palette):
  """Paints label ids in their classes' colors, IGNORE_LABEL in VOID_COLOR.

  Args:
    label: integer [..., H, W], values in [0, 255].
    palette: uint8 [C, 3], RGB.

  Returns:
    uint8 [..., H, W, 3], RGB.
  """
  return full_palette(palette)[label]


def overlay(image, label, palette, alpha=0.5):
  """Blends the label's colors into the image.

  Args:
    image: uint8 [H, W, 3], RGB.
    label: integer [H, W], values in [0, 255].
    palette: uint8 [C, 3], RGB.
    alpha: weight of the colors, from 0 (image alone) to 1 (colors alone).

  Returns:
    uint8 [H, W, 3], RGB.
  """
  weight = int(round(256 * alpha))  # in 256ths: 16-bit integers hold the products, at half a float image's memory
  blended = image.astype(np.uint16) * (256 - weight) + colorize(label, palette).astype(np.uint16) * weight
  return ((blended + 128) >> 8).astype(np.uint8)


def false_color(image, reading, bands=()):
  """Makes an image of many bands a picture.

  Args:
    image: [H, W, N] of the reading's dtype; of plain photographs uint8 [H, W, 3], which stays as it is.
    reading: a datasets.reading.Reading, by whose value ranges the bands are stretched.
    bands: places of the bands that a network sees; () for all. Red, green and blue of them are shown, where all three
      are there, or else the first three (see Reading.shown).

  Returns:
    uint8 [H, W, 3].
  """
  if reading.is_plain:
    return image
  shown = list(reading.shown(bands))
  low, high = (limits[shown] for limits in reading.limits(image.shape[-1]))
  levels = (image[..., shown].astype(np.float32) - low) * (255 / np.maximum(high - low, 1e-30))
  return np.rint(np.clip(np.nan_to_num(levels), 0, 255)).astype(np.uint8)


def side_by_side(image, truth, prediction, palette):
  """Sets an image, its true labels and its predicted labels beside each other.

  Args:
    image: uint8 [H, W, 3], RGB.
    truth: integer [H, W], label ids or IGNORE_LABEL.
    prediction: integer [H, W], label ids.
    palette: uint8 [C, 3], RGB.

  Returns:
    uint8 [H, 3 * W + 2 * canvas.GAP, 3], with white between.
  """
  return canvas.beside([image, colorize(truth, palette), colorize(prediction, palette)])


def legend(ids, classes, palette, *, width, font_size=canvas.TEXT):
  """Draws a strip that names classes: a swatch and a name for each, in as many rows as the width asks.

  Args:
    ids: the classes to name, e.g. np.unique(label); IGNORE_LABEL is named 'void'.
    classes: class names, index = label id.
    palette: uint8 [C, 3], RGB.
    width: wanted width in pixels; the strip gets wider where an entry would not fit.
    font_size: height of the letters in pixels.

  Returns:
    uint8 [h, w, 3] with w >= width; h is 0 where there is nothing to name.
  """
  colors = full_palette(palette).tolist()
  entries = [('void' if i == IGNORE_LABEL else canvas.named(i, classes[i]), tuple(colors[i])) for i in ids]
  return canvas.legend(entries, width=width, size=font_size)


def with_legend(picture, ids, classes, palette):
  """Puts the legend of `ids` under a picture; a picture narrower than the legend is padded with white at its right.

  Args:
    picture: uint8 [H, W, 3], RGB.
    ids: see `legend`.
    classes: class names, index = label id.
    palette: uint8 [C, 3], RGB.

  Returns:
    uint8 [H + h, max(W, w), 3]; `picture` is its upper left corner, unchanged.
  """
  strip = legend(ids, classes, palette, width=picture.shape[1], font_size=canvas.letter_size(picture))
  return canvas.stacked([picture, strip])


def heat(values, top):
  """Paints numbers, from black for 0 to pale yellow for `top` and above; the greater, the lighter.

  Args:
    values: float [H, W], from 0.
    top: the number that is lightest; where it is 0 all is black.

  Returns:
    uint8 [H, W, 3], RGB.
  """
  places = np.linspace(0, 255, len(_HEAT))
  table = np.stack([np.interp(np.arange(256), places, channel) for channel in _HEAT.T], axis=-1)
  levels = np.clip(values * (255 / top if top else 0), 0, 255)
  return np.rint(table).astype(np.uint8)[np.rint(levels).astype(np.uint8)]


def with_scale(picture, top, title):
  """Puts the scale of the colors of `heat` under a picture: a title, and a bar with numbers from 0 to `top` and more.

  Args:
    picture: uint8 [H, W, 3], RGB.
    top: the `top` that `heat` was given.
    title: name of the numbers, in a few words.

  Returns:
    uint8 [H + h, max(W, w), 3]; `picture` is its upper left corner, unchanged.
  """
  size = canvas.letter_size(picture)
  pad, numbers = size // 2, [f'{share * top:.2g}' for share in (0, 0.25, 0.5, 0.75)] + [f'{top:.2g}+']
  apart = canvas.text_width(*numbers, size=size) * 3 // 2 + pad  # numbers in the middle are centered, the last is not
  width = max(picture.shape[1], canvas.text_width(title, size=size) + 2 * pad, 4 * apart + 2 * pad)
  strip = canvas.Canvas(width, 3 * size + 4 * pad)
  strip.text(pad, pad + size // 2, title, size=size)
  strip.paste(pad, 2 * pad + size, heat(np.tile(np.linspace(0, 1, width - 2 * pad), (size, 1)), 1))
  for place, number, anchor in zip(np.linspace(pad, width - pad - 1, len(numbers)), numbers, 'lmmmr'):
    strip.text(place, 3 * pad + 2 * size + size // 2, number, anchor, size=size)
  return canvas.stacked([picture, strip.array()])


def label_png(label, palette):
  """Encodes label ids as an 8-bit palette PNG, as VOC's: the pixels' values are the ids, the palette their colors.

  Args:
    label: integer [H, W], values in [0, 255].
    palette: uint8 [C, 3], RGB, with C at most 255, or 256 for a palette of every value; None for a plain grayscale PNG.

  Returns:
    bytes.
  """
  label = np.asarray(label)
  if label.size and not 0 <= label.min() <= label.max() <= 255:
    raise ValueError(f'label ids from {label.min()} to {label.max()} do not fit in 8 bits')
  picture = Image.fromarray(label.astype(np.uint8))
  if palette is not None:
    picture.putpalette((palette if len(palette) == 256 else full_palette(palette)).tobytes())
  file = io.BytesIO()
  picture.save(file, 'PNG', optimize=False)
  return file.getvalue()


def write_png(path, picture):
  """Writes a uint8 [H, W, 3] RGB picture as PNG with the mark, whole or not at all, see utils.files.replacing."""
  file = io.BytesIO()
  Image.fromarray(picture).save(file, 'PNG')
  write_bytes(path, marked_png(file.getvalue()))
