"""A few of the built-in shapes instead of all 900."""

import unittest.mock

from datasets import convert, get_dataset
from datasets.readers import shapes


def few_shapes(**counts):
  """A context in which splits of the built-in shapes have so many images, the first of those that they have."""
  return unittest.mock.patch.dict(shapes.SPLITS, counts)


def convert_shapes(data_dir, *, train, val, num_shards=2):
  """Converts the first images of the splits, so many of each; returns the folder."""
  with few_shapes(train=train, val=val):
    for split in shapes.SPLITS:
      convert.convert(get_dataset('shapes'), split, source_dir=None, data_dir=data_dir, num_shards=num_shards,
                      num_workers=1, progress=False)
  return data_dir
