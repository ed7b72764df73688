"""Folders of annotation tools' exports for tests: pictures, JSON, and the labels that are read from them."""

import json

import numpy as np
import originals
from PIL import Image

from datasets import convert, get_dataset
from datasets.readers import own


def picture(path, size, number=0):
  """Writes a picture of random pixels; `size` is (height, width)."""
  path.parent.mkdir(parents=True, exist_ok=True)
  pixels = np.random.default_rng(number).integers(0, 256, (*size, 3), np.uint8)
  Image.fromarray(pixels).save(path)


def write(path, content):
  """Writes a text, or anything else as JSON."""
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(content if isinstance(content, str) else json.dumps(content), encoding='utf-8')


def read(root, **flags):
  """The dataset of a folder, with all that is decided by its pictures."""
  return own.decided(get_dataset(str(root)), flags)


def notes(dataset):
  """What was decided, a line each."""
  return [str(decision) for decision in dataset.decisions]


def labels(root, split='all'):
  """Reads a folder's labels without conversion: the dataset, and a dict of name -> raw labels."""
  dataset = read(root)
  return dataset, {source.name: dataset.read_label(source.label) for source in dataset.sources(None, split)}


def converted(root, data_dir):
  """Converts a folder's train and val by the program; returns a dict of name -> (image, label) of both."""
  assert convert.main([f'--dataset={root}', f'--data_dir={data_dir}', '--num_workers=1']) == 0
  return originals.read_back(data_dir, 'train') | originals.read_back(data_dir, 'val')
