"""Writes images of the TFRecords as files, to look at or to run inference.py on.

    python -m datasets.export --dataset=camvid --split=val --output_dir=photos --count=6

With --labels it writes a folder in the layout that train.py takes as --dataset (see datasets/readers/own.py).
"""

import dataclasses
import itertools
import os
import sys

from datasets import DATASETS, get_dataset, records
from utils.files import make_folder, replacing
from utils.settings import Settings, flag, run


@dataclasses.dataclass(frozen=True)
class ExportSettings(Settings):
  """Flags of `python -m datasets.export`."""
  dataset: str = flag('shapes', f'dataset: {", ".join(DATASETS)}')
  data_dir: str | None = flag(None, 'folder with the TFRecords; default data/DATASET')
  split: str = flag('val', 'split to take')
  output_dir: str = flag('photos', 'folder to write to')
  labels: bool = flag(False, 'also write labels and classes.txt')
  count: int = flag(0, 'number of images, the first ones; 0: all', least=0)


def export(dataset, data_dir, *, split, output_dir, count=None, labels=False):
  """Writes images of a split, encoded as they are in its records, as `NAME.jpg` or `NAME.png`.

  With `labels`, images go to `images`, labels (ids, 255 void) to `labels`, and the classes to `classes.txt`.

  Args:
    dataset: a Dataset.
    data_dir: folder with its shards.
    split: name of the split.
    output_dir: folder to write to; made where it is missing.
    count: number of images, the first ones; None for all.
    labels: whether to write the labels and the classes, too.

  Returns:
    list of the images' paths.

  Raises:
    UserError: if there are no shards, a record is broken, or the folder cannot be written.
  """
  shards = records.shard_paths(data_dir, split)
  images_dir, labels_dir = (os.path.join(output_dir, kind) if labels else output_dir for kind in ('images', 'labels'))
  make_folder(images_dir)
  make_folder(labels_dir)
  paths = []
  for name, image, image_format, label in itertools.islice(records.encoded_examples(shards), count):
    name = os.path.basename(name)
    paths.append(os.path.join(images_dir, f'{name}.{"jpg" if image_format == "jpeg" else "png"}'))
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


def export_split(settings):
  """Exports --split to --output_dir."""
  dataset = get_dataset(settings.dataset)
  paths = export(dataset, settings.data_dir or f'data/{dataset.name}', split=settings.split,
                 output_dir=settings.output_dir, count=settings.count or None, labels=settings.labels)
  print(f'{len(paths)} images of {dataset.name} {settings.split} in {settings.output_dir}')


def main(argv=None):
  return run(export_split, ExportSettings, argv, text=__doc__)


if __name__ == '__main__':
  sys.exit(main())
