"""Measures how fast originals become TFRecords, in one process.

    python -m utils.studies.benchmark --what=convert --net=segnet_basic

The originals are made on the fly, the same ones every time: smooth noise of many scales, which compresses about as
photographs do, and labels whose borders are as long as those of street scenes. Only what every version of the project
has is used, the folder of one's own dataset and `datasets.convert.convert`: copied into another checkout, this file
measures that one.
"""

import functools
import os
import tempfile

import numpy as np
from PIL import Image

from datasets import get_dataset
from datasets.convert import convert

NUM_CLASSES = 11
CASES = {  # case -> (height, width, number of images, suffix of images, whether labels are colors)
    'JPEG 480x360, labels of ids': (360, 480, 16, 'jpg', False),
    'JPEG 1920x1280, labels of ids': (1280, 1920, 4, 'jpg', False),
    'PNG 480x360, labels of colors': (360, 480, 16, 'png', True),
}


def smooth(rng, height, width, channels, finest=256):
  """Noise as photographs have it, strong where coarse and weak where fine: float32 [H, W, channels] around 0.

  The finest has `finest` cells along each side.
  """
  total = np.zeros((height, width, channels), np.float32)
  for cells in (cells for cells in (4, 8, 16, 32, 64, 128, 256) if cells <= finest):
    coarse = rng.normal(0, 1 / cells, (cells, cells, channels)).astype(np.float32)
    for channel in range(channels):
      total[..., channel] += np.asarray(Image.fromarray(coarse[..., channel]).resize(
          (width, height), Image.Resampling.BICUBIC))
  return total


def photograph(rng, height, width):
  """Makes a picture: uint8 [H, W, 3]."""
  gray, tint = smooth(rng, height, width, 1), smooth(rng, height, width, 3)
  return np.clip(128 + 250 * gray + 60 * tint + rng.normal(0, 8, (height, width, 1)), 0, 255).astype(np.uint8)


def write_originals(folder, case):
  """Writes the folder of a dataset: images, labels, classes.txt and lists. `case` is a value of CASES."""
  height, width, count, suffix, in_colors = case
  rng = np.random.default_rng(0)
  palette = rng.permutation(256)[:3 * NUM_CLASSES].reshape(NUM_CLASSES, 3).astype(np.uint8)
  for name in ('images', 'labels'):
    os.makedirs(os.path.join(folder, name))
  for number in range(count):
    image = Image.fromarray(photograph(rng, height, width))
    image.save(os.path.join(folder, 'images', f'{number:02}.{suffix}'), quality=92)
    ids = smooth(rng, height, width, NUM_CLASSES, finest=32).argmax(axis=-1).astype(np.uint8)
    Image.fromarray(palette[ids] if in_colors else ids).save(os.path.join(folder, 'labels', f'{number:02}.png'))
  names = [f'{number:02}\n' for number in range(count)]
  lines = [f'class{index} {r},{g},{b}\n' for index, (r, g, b) in enumerate(palette.tolist())]
  for name, content in (('train.txt', names), ('val.txt', names[:1]), ('classes.txt', lines)):
    with open(os.path.join(folder, name), 'w', encoding='utf-8') as file:
      file.writelines(content)


def convert_once(folder):
  """Converts the dataset in a folder to records that are thrown away."""
  with tempfile.TemporaryDirectory() as data_dir:
    convert(get_dataset(folder), 'train', source_dir=None, data_dir=data_dir, num_workers=1, progress=False)


def conversions(folder):
  """Writes all originals below a folder; returns a dict from case to a function of no arguments that converts them."""
  functions = {}
  for number, (name, case) in enumerate(CASES.items()):
    place = os.path.join(folder, f'case{number}')
    write_originals(place, case)
    functions[name] = functools.partial(convert_once, place)
  return functions
