"""Takes images out of the TFRecords again, as files to look at or to run inference.py on.

    python -m datasets.export --dataset=camvid --split=val --output_dir=photos --count=6
"""

import itertools
import os

from absl import flags

from datasets import DATASETS, get_dataset, records
from utils import errors
from utils.compat import tf
from utils.files import make_folder, replacing

FLAGS = flags.FLAGS


def export(data_dir, split, *, output_dir, count=None):
  """Writes images of a split, encoded as they are in its records, as `NAME.jpg` or `NAME.png`.

  Args:
    data_dir: folder with the dataset's shards.
    split: name of the split.
    output_dir: where to write; made where it is missing.
    count: number of images, the first ones; None for all.

  Returns:
    list of the images' paths.

  Raises:
    UserError: if there are no shards, or the folder cannot be written.
  """
  shards = records.shard_paths(data_dir, split)
  make_folder(output_dir)
  paths = []
  for name, extension, encoded in itertools.islice(_images(shards), count):
    paths.append(os.path.join(output_dir, f'{os.path.basename(name)}.{extension}'))
    with replacing(paths[-1]) as temporary, open(temporary, 'wb') as file:
      file.write(encoded)
  return paths


def _images(shards):
  """Yields (name, file extension, encoded image) of every record."""
  with tf.Graph().as_default(), tf.Session() as session:
    serialized = tf.data.make_one_shot_iterator(tf.data.TFRecordDataset(shards)).get_next()
    while True:
      try:
        features = tf.train.Example.FromString(session.run(serialized)).features.feature
      except tf.errors.OutOfRangeError:
        return
      name, kind, encoded = (features[f'image/{key}'].bytes_list.value[0] for key in ('name', 'format', 'encoded'))
      yield name.decode(), 'jpg' if kind == b'jpeg' else 'png', encoded


def _define_flags():
  flags.DEFINE_string('dataset', 'shapes', f'dataset: {", ".join(DATASETS)}')
  flags.DEFINE_string('data_dir', None, 'folder with the TFRecords; default data/DATASET')
  flags.DEFINE_string('split', 'val', 'split to take')
  flags.DEFINE_string('output_dir', 'photos', 'where to write')
  flags.DEFINE_integer('count', 0, 'number of images, the first ones; 0: all', lower_bound=0)


def main(argv):
  del argv
  dataset = get_dataset(FLAGS.dataset)
  paths = export(FLAGS.data_dir or f'data/{dataset.name}', FLAGS.split, output_dir=FLAGS.output_dir,
                 count=FLAGS.count or None)
  print(f'{len(paths)} images of {dataset.name} {FLAGS.split} in {FLAGS.output_dir}')


if __name__ == '__main__':
  _define_flags()
  errors.run(main)
