"""Writes a small split of random pictures as TFRecords, without any originals."""

import json

import numpy as np

from datasets import encoding, records
from datasets.dataset import Source
from datasets.readers.camvid import CAMVID
from utils.compat import tf


def write_split(data_dir, sources, split='val', classes=CAMVID.classes, num_examples=None):
  """Writes sources (labels raw, as CamVid has them) as a split of one shard."""
  data_dir.mkdir(exist_ok=True)
  with tf.io.TFRecordWriter(str(data_dir / records.shard_name(split, 0, 1))) as writer:
    for source in sources:
      pair = encoding.encode_pair(source, CAMVID.label_map)
      assert not isinstance(pair, Exception), pair
      writer.write(records.serialize(pair))
  stats = {'dataset': 'camvid', 'split': split, 'num_examples': num_examples or len(sources), 'num_shards': 1,
           'class_names': list(classes), 'class_pixels': [1] * len(classes)}
  (data_dir / f'{split}.json').write_text(json.dumps(stats))
  return data_dir


def drawn_sources():
  """Two random pictures of odd sizes; classes 0 to 3 and void (11 in CamVid's files)."""
  rng = np.random.default_rng(2)
  sizes = [(41, 30), (67, 96)]
  return [Source(f'drawn{number}', rng.integers(0, 256, (*size, 3)).astype(np.uint8),
                 rng.choice([0, 1, 2, 3, 11], size).astype(np.uint8)) for number, size in enumerate(sizes)]
