"""Prepares a dataset for training: downloads, unpacks and converts the parts that are missing."""

import glob
import os

from datasets import records
from datasets.convert import convert, has_changed
from datasets.dataset import check_splits
from datasets.hold_out import HELD_OUT, SPLITS
from datasets.readers.own import OwnDataset, check_told, originals
from utils import download
from utils.errors import UserError, shown

DOWNLOADS = 'downloads'  # subfolder of the data folder for the archives


def prepare(dataset, data_dir, source_dir=None, splits=('train', 'val'), told=None, skip_bad=False):
  """Makes sure that `data_dir` holds the TFRecords of the splits; prints a line for each step.

  Converted splits are used as they are; only the user's own dataset is converted again if its files have changed.
  Missing splits are converted from the originals: those in `source_dir`, or in `data_dir` itself, or else downloaded
  to `data_dir`/downloads (archives fetched by hand may lie there as well) and unpacked into `data_dir`.

  Args:
    dataset: a Dataset.
    data_dir: the dataset's own folder, made where it is missing.
    source_dir: folder of the originals, where the user has them; the user's own dataset knows it.
    splits: names of the splits that are needed; HELD_OUT needs train and val.
    told: see `convert.convert`.
    skip_bad: leave out originals that cannot be used, instead of failing.

  Raises:
    UserError: if the dataset has no such split; if there are no originals and they cannot be downloaded, naming the
      file to fetch and its place; if originals are bad; or if `data_dir` holds another dataset.
  """
  check_told(dataset, told)
  source_dir = originals(dataset, source_dir)
  splits = _sources_of(dataset, splits)
  needed = [split for split in splits if not _is_converted(dataset, data_dir, split)]
  if isinstance(dataset, OwnDataset):
    for split in splits:
      if split not in needed and has_changed(dataset, split, source_dir=source_dir, data_dir=data_dir, told=told):
        print(f'{shown(dataset.name)}: {split} was converted from other files than are in {shown(source_dir)} now, or '
              'is read otherwise', flush=True)
        convert(dataset, split, source_dir=source_dir, data_dir=data_dir, told=told, skip_bad=skip_bad)
  if not needed:
    _refuse_mixed_readings(dataset, data_dir, splits)
    return
  check_splits(dataset, needed)
  if not dataset.generate and source_dir is None:
    problem = _problem_with_originals(dataset, data_dir, needed)
    if problem:
      _download(dataset, data_dir, problem)
    source_dir = data_dir
  origin = 'making the images' if dataset.generate else f'converting the originals in {source_dir}'
  print(f'{shown(dataset.name)}: no TFRecords of {", ".join(needed)} in {shown(data_dir)} yet; {origin}', flush=True)
  for split in needed:
    convert(dataset, split, source_dir=source_dir, data_dir=data_dir, told=told, skip_bad=skip_bad)
  _refuse_mixed_readings(dataset, data_dir, splits)


def _sources_of(dataset, splits):
  """The splits that are to be converted for others: those that images are held out of for HELD_OUT."""
  parts = {split: [part for part in SPLITS if part in dataset.splits]
           if split == HELD_OUT and split not in dataset.splits else [split] for split in splits}
  return list(dict.fromkeys(sum(parts.values(), [])))


def _refuse_mixed_readings(dataset, data_dir, splits):
  """Raises UserError if the pictures of two splits of the user's own dataset were read in two ways."""
  if not isinstance(dataset, OwnDataset):
    return
  first = records.read_reading(data_dir, splits[0])
  for split in splits:
    found = records.read_reading(data_dir, split)
    for name in ('exif', 'alpha', 'value_range'):
      if getattr(found, name) != getattr(first, name):
        raise UserError(f'{data_dir}: {name} is {getattr(found, name)!r} for the images of {split} and '
                        f'{getattr(first, name)!r} for those of {splits[0]}; give the same flags for both, or say it '
                        'in dataset.json')


def _is_converted(dataset, data_dir, split):
  """Whether `data_dir` has a split's shards. Raises UserError if some are missing, or are another dataset's."""
  if not os.path.exists(records.stats_path(data_dir, split)):
    return False
  records.check_dataset(data_dir, records.read_stats(data_dir, split).get('dataset'), dataset.name)
  records.shard_paths(data_dir, split)
  return True


def _problem_with_originals(dataset, folder, splits):
  """Reason why the originals of `splits` cannot be listed in `folder`; None if they can."""
  try:
    for split in splits:
      dataset.sources(folder, split)
  except UserError as error:
    return str(error)
  return None


def _download(dataset, data_dir, problem):
  """Downloads and unpacks the dataset's archives into `data_dir`, except those unpacked before."""
  if not dataset.archives:
    raise UserError(f'{dataset.name}: no TFRecords and no originals in {data_dir} ({problem}), and no address to '
                    f'download them from; get them from {dataset.url}, and put them there or give --source_dir')
  for archive in dataset.archives:
    folder = os.path.join(data_dir, archive.folder or os.path.basename(archive.member))
    if os.path.exists(folder):  # unpacked whole, or the user's; the reader names a missing file
      continue
    path = _archive_path(data_dir, archive.filename)
    if not os.path.exists(path):
      print(f'{shown(dataset.name)}: nothing in {shown(data_dir)} yet; downloading {archive.url} to {shown(path)}',
            flush=True)
    download.fetch(archive.url, path, archive.size, digest=archive.digest)
    print(f'{shown(dataset.name)}: unpacking {shown(path)} to {shown(folder)}', flush=True)
    download.extract(path, folder, member=archive.member)


def _archive_path(data_dir, filename):
  """Path of an archive, present or to be downloaded: another dataset beside `data_dir` may have it already."""
  path = os.path.join(data_dir, DOWNLOADS, filename)
  beside = os.path.join(glob.escape(os.path.dirname(os.path.abspath(data_dir))), '*', DOWNLOADS, glob.escape(filename))
  return path if os.path.exists(path) else next(iter(sorted(glob.glob(beside))), path)
