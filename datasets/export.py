"""Takes images out of the TFRecords again, as files to look at or to run inference.py on.

    python -m datasets.export --dataset=camvid --split=val --output_dir=photos --count=6

With --labels it writes a folder in the layout that train.py takes as --dataset (see datasets/own.py).
"""

import itertools
import os

from absl import flags

from datasets import DATASETS, get_dataset, records
from utils import errors
from utils.compat import tf
from utils.files import make_folder, replacing

FLAGS = flags.FLAGS


def export(dataset, data_dir, *, split, output_dir, count=None, labels=False):
  """Writes images of a split, encoded as they are in its records, as `NAME.jpg` or `NAME.png`.

  With `labels`, images go to `images`, labels of ids, 255 void, to `labels`, and the classes to `classes.txt`.

  Args:
    dataset: a Dataset.
    data_dir: folder with its shards.
    split: name of the split.
    output_dir: where to write; made where it is missing.
    count: number of images, the first ones; None for all.
    labels: whether to write the labels and the classes, too.

  Returns:
    list of the images' paths.

  Raises:
    UserError: if there are no shards, or the folder cannot be written.
  """
  shards = records.shard_paths(data_dir, split)
  images_dir, labels_dir = (os.path.join(output_dir, kind) if labels else output_dir for kind in ('images', 'labels'))
  make_folder(images_dir)
  make_folder(labels_dir)
  paths = []
  for name, extension, image, label in itertools.islice(_examples(shards), count):
    name = os.path.basename(name)
    paths.append(os.path.join(images_dir, f'{name}.{extension}'))
    _write(paths[-1], image)
    if labels:
      _write(os.path.join(labels_dir, f'{name}.png'), label)
  if labels:
    lines = [f'{name} {",".join(map(str, color))}\n' for name, color in zip(dataset.classes, dataset.palette.tolist())]
    _write(os.path.join(output_dir, 'classes.txt'), ''.join(lines).encode())
  return paths


def _write(path, encoded):
  with replacing(path) as temporary, open(temporary, 'wb') as file:
    file.write(encoded)


def _examples(shards):
  """Yields (name, file extension, encoded image, encoded label) of every record."""
  with tf.Graph().as_default(), tf.Session() as session:
    serialized = tf.data.make_one_shot_iterator(tf.data.TFRecordDataset(shards)).get_next()
    while True:
      try:
        features = tf.train.Example.FromString(session.run(serialized)).features.feature
      except tf.errors.OutOfRangeError:
        return
      name, kind, image, label = (features[key].bytes_list.value[0] for key in (
          'image/name', 'image/format', 'image/encoded', 'label/encoded'))
      yield name.decode(), 'jpg' if kind == b'jpeg' else 'png', image, label


def _define_flags():
  flags.DEFINE_string('dataset', 'shapes', f'dataset: {", ".join(DATASETS)}')
  flags.DEFINE_string('data_dir', None, 'folder with the TFRecords; default data/DATASET')
  flags.DEFINE_string('split', 'val', 'split to take')
  flags.DEFINE_string('output_dir', 'photos', 'where to write')
  flags.DEFINE_bool('labels', False, 'also write labels and classes.txt')
  flags.DEFINE_integer('count', 0, 'number of images, the first ones; 0: all', lower_bound=0)


def main(argv):
  del argv
  dataset = get_dataset(FLAGS.dataset)
  paths = export(dataset, FLAGS.data_dir or f'data/{dataset.name}', split=FLAGS.split, output_dir=FLAGS.output_dir,
                 count=FLAGS.count or None, labels=FLAGS.labels)
  print(f'{len(paths)} images of {dataset.name} {FLAGS.split} in {FLAGS.output_dir}')


if __name__ == '__main__':
  _define_flags()
  errors.run(main)
