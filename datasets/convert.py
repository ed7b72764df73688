"""Turns a dataset's originals into sharded TFRecords, verifying every pair.

    python -m datasets.convert --dataset=camvid --source_dir=~/CamVid

writes `train-00000-of-00008.tfrecord` and so on and `train.json` into `data/camvid`, whole or not at all. A second run
with nothing changed does nothing.
"""

import contextlib
import dataclasses
import fcntl
import functools
import glob
import hashlib
import inspect
import json
import os
import sys

import numpy as np

from datasets import DATASETS, get_dataset, images, records
from datasets.dataset import check_splits
from datasets.readers.own import OwnDataset, originals
from utils.compat import tf
from utils.errors import UserError, listed
from utils.files import make_folder, read_json, write_json
from utils.labels import IGNORE_LABEL
from utils.progress import Progress
from utils.settings import Settings, expanded, flag, run
from utils.workers import default_workers, ordered_map

MAX_SHARDS = 512  # all shards of a split are open at once


@dataclasses.dataclass(frozen=True)
class ConvertSettings(Settings):
  """Flags of `python -m datasets.convert`."""
  dataset: str | None = flag(None, f'dataset: {", ".join(DATASETS)}, or the folder of your own', required=True)
  source_dir: str = flag('', 'folder of the originals; not needed for shapes')
  data_dir: str = flag('', 'folder to write to; default data/DATASET')
  splits: tuple[str, ...] = flag(('train', 'val'), 'splits to convert, separated by commas')
  skip_bad: bool = flag(False, 'leave out files that cannot be used instead of failing')
  num_workers: int | None = flag(None, 'number of processes; default: one per core', least=1)
  num_shards: int = flag(8, f'number of shards of a split, 1 to {MAX_SHARDS}', least=1, most=MAX_SHARDS)


class BadFiles(UserError):
  """Originals that cannot be used; the message lists all of them."""


def convert(dataset, split, *, source_dir, data_dir, num_shards=8, num_workers=None, skip_bad=False, progress=True):
  """Converts one split.

  Args:
    dataset: a Dataset.
    split: name of a split of the dataset.
    source_dir: folder of the originals; unused by a generated dataset and by the user's own.
    data_dir: folder to write to, made where it is missing.
    num_shards: number of shards, 1 to MAX_SHARDS; never more than images.
    num_workers: number of processes; by default the number of cores.
    skip_bad: leave out files that cannot be used, instead of failing.
    progress: print the progress (stderr) and a summary (stdout).

  Returns:
    the dict in `<split>.json`: 'dataset', 'split', 'num_examples', 'expected' (images in the original publication),
    'num_shards', 'shard_bytes', 'skipped' (list of 'name', 'file', 'reason'), 'class_names', 'class_pixels' (an int for
    each class), 'class_image_pixels' (pixels of all images in which the class occurs), 'void_pixels', 'fingerprint'; of
    the user's own dataset also 'source_dir', its folder.

  Raises:
    BadFiles: listing every bad file; nothing is written then, and an earlier conversion is untouched.
    UserError: for a wrong argument, layout or list, or where nothing can be written.
  """
  say = functools.partial(print, flush=True) if progress else (lambda line: None)
  sources = _list_sources(dataset, split, source_dir)
  _refuse_other_dataset(dataset, data_dir)
  fingerprint, num_shards = _fingerprint(dataset, split, sources), min(num_shards, len(sources))
  stats = _up_to_date(data_dir, split, fingerprint, num_shards=num_shards, skip_bad=skip_bad)
  if stats:
    say(f'{dataset.name} {split}: {stats["num_examples"]} images in {data_dir} are up to date')
    return stats
  with _locked(data_dir), _cleaned(data_dir, split):
    stats = _write_shards(dataset, split, sources, data_dir=data_dir, num_shards=num_shards,
                          num_workers=num_workers or default_workers(), skip_bad=skip_bad, progress=progress)
    stats['fingerprint'] = fingerprint
    if isinstance(dataset, OwnDataset):
      stats['source_dir'] = os.path.abspath(dataset.root)
    _publish(stats, data_dir)
  _describe(stats, data_dir, say)
  return stats


def _list_sources(dataset, split, source_dir):
  """Lists a split's sources. Raises UserError if the split is unknown or empty, or there are no originals."""
  check_splits(dataset, [split])
  source_dir = originals(dataset, source_dir)
  if not dataset.generate and not source_dir:
    raise UserError(f'--source_dir: say where the originals of {dataset.name} are; they are to be had from '
                    f'{dataset.url}')
  sources = dataset.sources(source_dir, split)
  if not sources:
    raise UserError(f'{dataset.name} {split}: there is no image in {source_dir}')
  return sources


def has_changed(dataset, split, *, source_dir, data_dir):
  """Whether a split's originals differ from the converted ones, by names, sizes and times."""
  sources = _list_sources(dataset, split, source_dir)
  return records.read_stats(data_dir, split).get('fingerprint') != _fingerprint(dataset, split, sources)


def _fingerprint(dataset, split, sources):
  """Hash of the records' origin: names, sizes and times of the originals, the dataset's record, the format."""

  def state(original):
    if isinstance(original, np.ndarray):
      return hashlib.sha256(original.tobytes()).hexdigest()
    if original is None or not os.path.exists(original):
      return original
    stat = os.stat(original)
    return [os.path.basename(original), stat.st_size, stat.st_mtime_ns]

  code = inspect.getsource(inspect.getmodule(dataset.generate)) if dataset.generate else ''
  reader = [getattr(dataset.read_label, key, None) for key in ('args', 'keywords')]  # a partial's: its colors
  parts = [records.VERSION, dataset.name, list(dataset.classes), dataset.label_map.tolist(), code, reader, split,
           [[source.name, state(source.image), state(source.label)] for source in sources]]
  return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _refuse_other_dataset(dataset, data_dir):
  """Raises UserError if the folder holds the shards of another dataset."""
  for path in glob.glob(records.stats_path(glob.escape(data_dir), '*')):
    try:
      stats = read_json(path)
      found, folder = stats.get('dataset', dataset.name), stats.get('source_dir')
    except (UserError, AttributeError):  # broken, or not written by this converter
      continue
    records.check_dataset(data_dir, found, dataset.name)
    if (folder and isinstance(dataset, OwnDataset) and os.path.isdir(folder)
        and not os.path.samefile(folder, dataset.root)):  # another folder of the same name
      raise UserError(f'--data_dir={data_dir} holds the images of {folder}, not those of {dataset.root}; give them '
                      'another --data_dir')


def _up_to_date(data_dir, split, fingerprint, *, num_shards, skip_bad):
  """Returns the stats of an earlier conversion with the same result and whole shards, None where there is none."""
  try:
    stats = read_json(records.stats_path(data_dir, split))
    sizes = [os.path.getsize(shard) for shard in records.shard_paths(data_dir, split)]
    same = (stats['fingerprint'] == fingerprint and stats['shard_bytes'] == sizes
            and stats['num_shards'] == min(num_shards, stats['num_examples']))
    return stats if same and (skip_bad or not stats['skipped']) else None
  except (UserError, OSError, KeyError, TypeError):  # missing, broken or of an older format
    return None


@contextlib.contextmanager
def _locked(data_dir):
  """Makes the folder and keeps other conversions out of it; removes it if the block fails and leaves it empty."""
  existed = os.path.isdir(data_dir)
  make_folder(data_dir)
  folder = os.open(data_dir, os.O_RDONLY)
  try:
    _lock(folder, data_dir)
    yield
  except BaseException:
    if not existed:
      with contextlib.suppress(OSError):
        os.rmdir(data_dir)
    raise
  finally:
    os.close(folder)  # releases the lock


@contextlib.contextmanager
def _cleaned(data_dir, split):
  """Removes a split's unfinished shards after the block, and turns an error in writing to a UserError."""
  try:
    yield
  except (OSError, tf.errors.OpError) as error:
    raise UserError(f'cannot write to {data_dir}: {str(error).splitlines()[0]}') from error
  finally:
    _remove(glob.glob(_temporary(glob.escape(data_dir), split)))


def _lock(folder, data_dir):
  try:
    fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except OSError as error:
    raise UserError(f'another conversion is writing to {data_dir}; wait for its end') from error


def _temporary(data_dir, split, index='*'):
  """Path of an unfinished shard; its final name depends on the number of shards that are not empty."""
  return os.path.join(data_dir, f'{split}-{index}.tfrecord.tmp')


def _write_shards(dataset, split, sources, *, data_dir, num_shards, num_workers, skip_bad, progress):
  """Verifies all pairs and writes them under temporary names; image i goes to shard i modulo their number.

  Returns:
    the stats, without the entries that `_publish` and the caller add.
  """
  encode = functools.partial(images.encode_pair, label_map=dataset.label_map, read_raw=dataset.read_label,
                             generate=dataset.generate)
  bad, num_examples = [], 0
  pixels, image_pixels = np.zeros(IGNORE_LABEL + 1, np.int64), np.zeros(IGNORE_LABEL + 1, np.int64)
  with contextlib.ExitStack() as stack:
    writers = [stack.enter_context(tf.io.TFRecordWriter(_temporary(data_dir, split, index)))
               for index in range(num_shards)]
    bar = stack.enter_context(Progress(len(sources), 'images', label=f'{dataset.name} {split}')) if progress else None
    pairs = stack.enter_context(contextlib.closing(ordered_map(encode, sources, min(num_workers, len(sources)))))
    for source, pair in pairs:
      if isinstance(pair, list):
        bad += [{'name': source.name, 'file': str(error.path), 'reason': error.reason} for error in pair]
      elif skip_bad or not bad:  # after a bad pair nothing is kept, and the other pairs are only verified
        writers[num_examples % num_shards].write(records.serialize(pair))
        num_examples += 1
        pixels += pair.counts
        image_pixels += pair.counts.sum() * (pair.counts > 0)
      if bar:
        bar.update()
  _refuse_bad(bad, f'{dataset.name} {split}', total=len(sources), skip_bad=skip_bad)
  return {
      'dataset': dataset.name, 'split': split, 'num_examples': num_examples, 'expected': dataset.splits[split],
      'num_shards': min(num_shards, num_examples), 'skipped': bad, 'class_names': list(dataset.classes),
      'class_pixels': pixels[:dataset.num_classes].tolist(),
      'class_image_pixels': image_pixels[:dataset.num_classes].tolist(), 'void_pixels': int(pixels[IGNORE_LABEL])}


def _refuse_bad(bad, what, *, total, skip_bad):
  """Raises BadFiles if bad files are not to be skipped, or if no pair is left without them."""
  reasons = ''.join(f'\n  {entry["file"]}: {entry["reason"]}' for entry in bad)
  num_bad = len({entry['name'] for entry in bad})
  if bad and not skip_bad:
    raise BadFiles(f'{what}: {num_bad} of {total} pairs cannot be used, so nothing was written '
                   f'(--skip_bad leaves them out):{reasons}')
  if num_bad == total:
    raise BadFiles(f'{what}: none of the {total} pairs can be used:{reasons}')


def _publish(stats, data_dir):
  """Gives the shards their names and removes those of an earlier conversion; the JSON goes first and comes last."""
  split, num_shards = stats['split'], stats['num_shards']
  names = [records.shard_name(split, index, num_shards) for index in range(num_shards)]
  _remove([records.stats_path(data_dir, split)])
  for index, name in enumerate(names):
    os.replace(_temporary(data_dir, split, index), os.path.join(data_dir, name))
  _remove(os.path.join(data_dir, name) for name in records.list_shards(data_dir, split) if name not in names)
  stats['shard_bytes'] = [os.path.getsize(os.path.join(data_dir, name)) for name in names]
  write_json(records.stats_path(data_dir, split), stats)


def _remove(paths):
  for path in paths:
    with contextlib.suppress(OSError):
      os.unlink(path)


def _describe(stats, data_dir, say):
  """Prints a summary, and how it differs from the original publication."""
  what, found, expected = f'{stats["dataset"]} {stats["split"]}', stats['num_examples'], stats['expected']
  total = sum(stats['class_pixels']) + stats['void_pixels']
  say(f'{what}: {found} images in {data_dir}, {stats["num_shards"]} shards of {sum(stats["shard_bytes"]) / 1e6:.1f} MB '
      f'in all; {stats["void_pixels"] / total:.1%} of the pixels are void')
  missing = [name for name, pixels in zip(stats['class_names'], stats['class_pixels']) if not pixels]
  if missing:
    say(f'{what}: no pixel of {len(missing)} of the {len(stats["class_names"])} classes: {listed(missing)}')
  for entry in stats['skipped']:
    say(f'{what}: left out {entry["file"]}: {entry["reason"]}')
  if found != expected:
    say(f'{what}: {found} images where the original has {expected}')


def convert_splits(settings):
  """Converts each split of --splits; bad files of one split do not keep the next from being verified."""
  dataset = get_dataset(settings.dataset)
  bad = []
  for split in check_splits(dataset, settings.splits):
    try:
      convert(dataset, split, source_dir=expanded(settings.source_dir),
              data_dir=expanded(settings.data_dir) or os.path.join('data', dataset.name),
              num_shards=settings.num_shards, num_workers=settings.num_workers, skip_bad=settings.skip_bad)
    except BadFiles as error:
      bad.append(str(error))
  if bad:
    raise UserError('\n'.join(bad))


def main(argv=None):
  return run(convert_splits, ConvertSettings, argv, text=__doc__)


if __name__ == '__main__':
  sys.exit(main())
