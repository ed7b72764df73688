"""Writes images of the TFRecords as files, to look at or to run inference.py on.

    python -m datasets.export --dataset=camvid --split=val --output_dir=photos --count=6

With --labels it writes a folder in the layout that train.py takes as --dataset (see datasets/readers/own.py), with the
label values of the user's own labels where the dataset has such. A file that is there with other content stays, unless
--overwrite is given; what cannot be written is left out and named at the end.
"""

import csv
import dataclasses
import functools
import io
import itertools
import json
import os
import sys

import numpy as np
from PIL import Image

from datasets import DATASETS, bands, get_dataset, images, records
from datasets.reading import Reading
from utils.errors import UserError, listed, shown
from utils.files import claim, ends_all, make_folder, write_bytes
from utils.labels import IGNORE_LABEL
from utils.settings import Settings, flag, run

_ENDS = {'jpeg': '.jpg', 'png': '.png', 'raw': '.tif'}


@dataclasses.dataclass(frozen=True)
class ExportSettings(Settings):
  """Flags of `python -m datasets.export`."""
  dataset: str = flag('shapes', f'dataset: {", ".join(DATASETS)}, or the folder of your own', path=True)
  data_dir: str | None = flag(None, 'folder with the TFRecords; default data/DATASET', path=True)
  split: str = flag('val', 'split to take')
  output_dir: str = flag('photos', 'folder to write to', path=True)
  labels: bool = flag(False, 'also write labels and classes.txt')
  count: int = flag(0, 'number of images, the first ones; 0: all', least=0)
  overwrite: bool = flag(False, 'replace files that are there with other content')


def export(dataset, data_dir, *, split, output_dir, count=None, labels=False, overwrite=False):
  """Writes images of a split, encoded as they are in its records, as `NAME.jpg` or `NAME.png`; with bands, `NAME.tif`.

  A name that has folders becomes one name, its parts joined by '-'. With `labels`, images go to `images`, labels to
  `labels`, the classes to `classes.txt`, and how all is read to `dataset.json`.

  Args:
    dataset: a Dataset.
    data_dir: folder with its shards.
    split: name of the split.
    output_dir: folder to write to; made where it is missing.
    count: number of images, the first ones; None for all.
    labels: whether to write the labels and the classes, too.
    overwrite: replace files that are there with other content.

  Returns:
    list of the images' paths.

  Raises:
    UserError: if there are no shards, a record is broken, or the folder cannot be written; or, when all others are
      written, naming those left out: two images would have one file, a file of other content is there, or its name is
      too long.
  """
  shards, stats = records.shard_paths(data_dir, split), records.read_stats(data_dir, split)
  reading = Reading.from_json(stats.get('reading'))
  images_dir, labels_dir = (os.path.join(output_dir, kind) if labels else output_dir for kind in ('images', 'labels'))
  make_folder(images_dir)
  make_folder(labels_dir)
  values, void = _label_values(stats, dataset.num_classes)
  table = np.full(IGNORE_LABEL + 1, void, np.uint8)
  table[:dataset.num_classes] = values
  originals = stats.get('source_dir')
  paths, left_out = {}, []
  for name, image, image_format, label in itertools.islice(records.encoded_examples(shards), count):
    file = '-'.join(part for part in name.split('/') if part)
    path = os.path.join(images_dir, file + _ENDS[image_format])
    if file in paths:
      left_out.append(f'two images would be written to {paths[file]}; the second is {name}')
      continue
    if image_format == 'raw':
      image = bands.encode_tiff(records.raw_image(image, images.png_size(label), reading), reading)
    files = {path: image}
    if labels:
      if table[:-1].tolist() != list(range(IGNORE_LABEL)):
        label = images.encode_png(table[np.asarray(Image.open(io.BytesIO(label)))])
      files[os.path.join(labels_dir, f'{file}.png')] = label
    if _written(files, left_out, overwrite, originals):
      paths[file] = path
  if labels:
    content = _dataset_file(dataset, reading, values, void)
    about = {'classes.txt': _class_list(dataset, values), 'dataset.json': f'{json.dumps(content, indent=2)}\n'.encode()}
    for name, data in about.items():
      _written({os.path.join(output_dir, name): data}, left_out, overwrite, originals)
  if left_out:
    raise UserError(f'{len(paths)} images of {split} are in {output_dir}; left out: '
                    f'{listed(left_out, most=10, separator="; ")}')
  return list(paths.values())


def _label_values(stats, num_classes):
  """The values of the classes in label pictures, a list, and that of void: the user's own where they are numbers."""
  values = list(stats.get('label_values') or ())
  if len(set(map(str, values))) < num_classes or not all(isinstance(value, int) for value in values):
    values = list(range(num_classes))
  free = [value for value in range(IGNORE_LABEL, -1, -1) if value not in values]
  return values, free[0]


def _class_list(dataset, values):
  """Contents of `classes.txt`: a table of ids, names and colors.

  The ids are the values, unless one is 255, which no id is; then `dataset.json` gives the values.
  """
  file = io.StringIO()
  table = csv.writer(file, lineterminator='\n')
  table.writerow(['id', 'name', 'r', 'g', 'b'])
  ids = range(dataset.num_classes) if IGNORE_LABEL in values else values
  table.writerows(zip(ids, dataset.classes, *dataset.palette.T.tolist(), strict=True))
  return file.getvalue().encode()


def _dataset_file(dataset, reading, values, void):
  """Contents of `dataset.json`: labels are ids, or values; JPEGs that were not turned keep their EXIF; the bands."""
  content = {'labels': 'ids'}
  if IGNORE_LABEL in values:
    content = {'labels': {**{str(value): name for value, name in zip(values, dataset.classes)}, str(void): 'ignore'}}
  if reading.exif == 'stored':
    content['exif'] = 'stored'
  known = {} if reading.is_plain else reading.to_json()
  return content | {key: known[key] for key in ('bands', 'value_range') if known.get(key)}


def _written(files, left_out, overwrite, originals):
  """Writes files that belong together, a dict from path to bytes.

  Args:
    files: those that are there with this content stay as they are.
    left_out: list; the reason is added to it if a file cannot be written, or is there with other content.
    overwrite: whether such are to be replaced.
    originals: folder of which no file is replaced; None for none.

  Returns:
    whether all are there.

  Raises:
    UserError: if no file can be written any more.
  """
  files = {path: data for path, data in files.items() if not _holds(path, data)}
  try:
    for path in files:
      if os.path.lexists(path) and not overwrite:
        raise UserError(f'{path} is there already, with other content; --overwrite replaces it')
    claim(files, overwrite=overwrite, inputs=filter(functools.partial(_is_below, folder=originals), files))
    for path, data in files.items():
      write_bytes(path, data)
  except UserError as error:
    if ends_all(error):
      raise
    left_out.append(str(error))
    return False
  return True


def _holds(path, data):
  """Whether a file has this content."""
  if not os.path.isfile(path) or os.path.getsize(path) != len(data):
    return False
  with open(path, 'rb') as file:
    return file.read() == data


def _is_below(path, folder):
  """Whether a path leads below a folder, whatever links are in it."""
  return bool(folder) and os.path.realpath(path).startswith(os.path.join(os.path.realpath(folder), ''))


def export_split(settings):
  """Exports --split to --output_dir."""
  dataset = get_dataset(settings.dataset)
  paths = export(dataset, settings.data_dir or f'data/{dataset.name}', split=settings.split,
                 output_dir=settings.output_dir, count=settings.count or None, labels=settings.labels,
                 overwrite=settings.overwrite)
  print(f'{len(paths)} images of {shown(dataset.name)} {settings.split} in {shown(settings.output_dir)}')


def main(argv=None):
  return run(export_split, ExportSettings, argv, text=__doc__)


if __name__ == '__main__':
  sys.exit(main())
