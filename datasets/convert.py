"""Turns a dataset's originals into sharded TFRecords, verifying every pair.

    python -m datasets.convert --dataset=camvid --source_dir=~/CamVid

writes `train-00000-of-00008.tfrecord` and so on and `train.json` into `data/camvid`, whole or not at all. A second run
with nothing changed does nothing.
"""

import contextlib
import dataclasses
import functools
import glob
import hashlib
import inspect
import json
import os
import sys

import numpy as np

from datasets import DATASETS, encoding, get_dataset, label_pictures, records, sanity, survey
from datasets.dataset import check_splits
from datasets.kept import Checker
from datasets.readers import dataset_file
from datasets.readers.folder import ALL
from datasets.readers.own import OwnDataset, check_told, decided, originals
from datasets.reading import Reading
from utils.compat import tf
from utils.errors import UserError, shown
from utils.files import locked_folder, read_json, sync, tensorflow_path, write_json
from utils.labels import IGNORE_LABEL
from utils.progress import Progress
from utils.settings import Settings, flag, group, run
from utils.workers import default_workers, ordered_map, threaded_map

MAX_SHARDS = 512  # all shards of a split are open at once


@dataclasses.dataclass(frozen=True)
class ConvertSettings(Settings):
  """Flags of `python -m datasets.convert`."""
  dataset: str | None = flag(
      None, f'dataset: {", ".join(DATASETS)}, or the folder of your own', required=True, path=True)
  source_dir: str = flag('', 'folder of the originals; not needed for shapes', path=True)
  data_dir: str = flag('', 'folder to write to; default data/DATASET', path=True)
  splits: tuple[str, ...] = flag(('train', 'val'), 'splits to convert, separated by commas')
  skip_bad: bool = flag(False, 'leave out files that cannot be used instead of failing')
  num_workers: int | None = flag(None, 'number of processes; default: one per core', least=1)
  num_shards: int = flag(8, f'number of shards of a split, 1 to {MAX_SHARDS}', least=1, most=MAX_SHARDS)
  reading: dataset_file.ReadingFlags = group(dataset_file.ReadingFlags)


class BadFiles(UserError):
  """Originals that cannot be used; the message lists all of them."""


def convert(dataset, split, *, source_dir, data_dir, num_shards=8, num_workers=None, skip_bad=False, progress=True,
            told=None):
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
    told: dict of what flags say of the pictures of the user's own dataset (`ReadingFlags.told`); what they said when
      other splits were converted holds as well.

  Returns:
    the dict in `<split>.json`: 'dataset', 'split', 'reading' (as Reading.to_json gives it), 'num_examples', 'expected'
    (images in the original publication), 'num_shards', 'shard_bytes', 'skipped' (list of 'name', 'file', 'reason'),
    'class_names', 'class_pixels' (an int for each class), 'class_image_pixels' (pixels of all images in which the class
    occurs), 'void_pixels', 'sanity' (see sanity.Tally), 'fingerprint'; of the user's own dataset also 'source_dir', its
    folder, 'told' (what flags said of its pictures), 'decisions' (lines) and 'label_values' (see Dataset).

  Raises:
    BadFiles: listing every bad file; nothing is written then, and an earlier conversion is untouched.
    UserError: for a wrong argument, layout or list, or where nothing can be written.
  """
  say = functools.partial(print, flush=True) if progress else (lambda line: None)
  sources = _list_sources(dataset, split, source_dir)
  _refuse_other_dataset(dataset, data_dir)
  _refuse_foreign(data_dir, split)
  told = _told(dataset, data_dir, told)
  fingerprint, num_shards = _fingerprint(dataset, split, sources, told), min(num_shards, len(sources))
  stats = _up_to_date(data_dir, split, fingerprint, num_shards=num_shards, skip_bad=skip_bad)
  if stats:
    say(f'{shown(dataset.name)} {split}: {stats["num_examples"]} images in {shown(data_dir)} are up to date')
    return stats
  published, dataset = dataset, _decided(dataset, sources, told, say)
  busy = f'another conversion is writing to {data_dir}; wait for its end'
  with locked_folder(data_dir, busy), _cleaned(data_dir, split):
    stats = _write_shards(dataset, split, sources, data_dir=data_dir, num_shards=num_shards,
                          num_workers=num_workers or default_workers(), skip_bad=skip_bad, progress=progress)
    stats['fingerprint'] = fingerprint
    if not isinstance(dataset, OwnDataset):  # what its labels were drawn on says nothing about the user's photographs
      stats['reading'] = published.reading.to_json()
    else:
      stats |= {'source_dir': os.path.abspath(dataset.root), 'told': told, 'label_values': dataset.label_values,
                'decisions': [str(decision) for decision in dataset.decisions]}
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


def has_changed(dataset, split, *, source_dir, data_dir, told=None):
  """Whether a split's originals differ from the converted ones, by names, sizes and times, or are read otherwise."""
  sources = _list_sources(dataset, split, source_dir)
  fingerprint = _fingerprint(dataset, split, sources, _told(dataset, data_dir, told))
  return records.read_stats(data_dir, split).get('fingerprint') != fingerprint


def _told(dataset, data_dir, told):
  """What flags say of the user's own pictures: now, and when splits in `data_dir` were converted.

  Raises:
    UserError: if flags are given for a dataset that is not the user's own.
  """
  check_told(dataset, told)
  before = {}
  for path in glob.glob(records.stats_path(glob.escape(data_dir), '*')) if isinstance(dataset, OwnDataset) else ():
    with contextlib.suppress(UserError, AttributeError):
      before |= read_json(path).get('told', {})
  return {**dataset_file.checked(before, data_dir), **(told or {})}


def _decided(dataset, sources, told, say):
  """The dataset with the decisions on how its pictures are read; those of the user's own are said."""
  if isinstance(dataset, OwnDataset):
    files = _fingerprint(dataset, ALL, dataset.sources(None, ALL), told)
    known = _decisions.get(dataset.root)
    if known is None or known[0] != files:
      known = _decisions[dataset.root] = (files, decided(dataset, told))
      for decision in known[1].decisions:
        say(f'{shown(dataset.name)}: {decision}')
    return known[1]
  if dataset.generate or dataset.reading != Reading():
    return dataset
  return dataclasses.replace(dataset, reading=survey.published(sources))


_decisions = {}  # folder -> (fingerprint of all its files, decided dataset): its splits are converted one by one


def _fingerprint(dataset, split, sources, told):
  """Hash of the records' origin: names, sizes and times of the originals, the dataset's record, the format."""

  def state(original):
    if isinstance(original, np.ndarray):
      return hashlib.sha256(original.tobytes()).hexdigest()
    if isinstance(original, tuple):  # a file for each band
      return [state(part) for part in original]
    if original is None or not os.path.exists(original):
      return original
    stat = os.stat(original)
    return [os.path.basename(original), stat.st_size, stat.st_mtime_ns]

  code = inspect.getsource(inspect.getmodule(dataset.generate)) if dataset.generate else ''
  own = isinstance(dataset, OwnDataset)  # its reading follows from its files, and from what the user said
  reader = [getattr(None if own else dataset.read_label, key, None) for key in ('args', 'keywords')]  # e.g. colors
  parts = [records.VERSION, dataset.name, list(dataset.classes), dataset.label_map.tolist(), code, reader, split,
           [[source.name, state(source.image), state(source.label)] for source in sources]]
  if own:
    parts.append([{**dataset.told, **told}, dataset.palette.tolist()])
  elif dataset.reading != Reading():
    parts.append(dataset.reading.to_json())
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


def _refuse_foreign(data_dir, split):
  """Raises UserError if files of other programs are where those of a split belong.

  A JSON that is cut off is this program's if whole shards of it are beside.
  """
  path, own, foreign = records.stats_path(data_dir, split), set(), []
  names = records.list_shards(data_dir, split) if os.path.isdir(data_dir) else []
  try:
    stats = read_json(path) if os.path.lexists(path) else None
  except UserError:
    foreign, stats = [] if names else [path], None
  if isinstance(stats, dict) and isinstance(stats.get('num_shards'), int) and 'num_examples' in stats:
    count = min(stats['num_shards'], MAX_SHARDS)
    own = {records.shard_name(split, index, stats['num_shards']) for index in range(count)}
  elif stats is not None:
    foreign = [path]
  foreign += [os.path.join(data_dir, name) for name in names
              if name not in own and not records.is_shard(os.path.join(data_dir, name))]
  if foreign:
    raise UserError(f'{shown(foreign[0])} is there already, and was not written by this program; give another '
                    '--data_dir')


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
def _cleaned(data_dir, split):
  """Removes a split's unfinished shards after the block, and turns an error in writing to a UserError."""
  try:
    yield
  except (OSError, tf.errors.OpError) as error:
    raise UserError(f'cannot write to {data_dir}: {str(error).splitlines()[0]}') from error
  finally:
    _remove(glob.glob(_temporary(glob.escape(data_dir), split)))


def _temporary(data_dir, split, index='*'):
  """Path of an unfinished shard; its final name depends on the number of shards that are not empty."""
  return os.path.join(data_dir, f'{split}-{index}.tfrecord.tmp')


def _write_shards(dataset, split, sources, *, data_dir, num_shards, num_workers, skip_bad, progress):
  """Verifies all pairs and writes them under temporary names; image i goes to shard i modulo their number.

  Returns:
    the stats, without the entries that `_publish` and the caller add.
  """
  encode = functools.partial(encoding.encode_pair, label_map=dataset.label_map, read_raw=dataset.read_label,
                             generate=dataset.generate, reading=dataset.reading)
  bad, num_examples, masks, tally = [], 0, {}, sanity.Tally()
  pixels, image_pixels = np.zeros(IGNORE_LABEL + 1, np.int64), np.zeros(IGNORE_LABEL + 1, np.int64)
  with contextlib.ExitStack() as stack:
    writers = [stack.enter_context(tf.io.TFRecordWriter(tensorflow_path(_temporary(data_dir, split, index))))
               for index in range(num_shards)]
    bar = stack.enter_context(Progress(len(sources), 'images', label=f'{dataset.name} {split}')) if progress else None
    num_workers = min(num_workers, len(sources))
    encoded = stack.enter_context(contextlib.closing(ordered_map(encode, sources, num_workers)))
    check = stack.enter_context(Checker(dataset.reading))
    pairs = stack.enter_context(contextlib.closing(threaded_map(check, encoded, num_workers)))
    for source, pair in pairs:
      if isinstance(pair, list):
        bad += [{'name': source.name, 'file': str(error.path), 'reason': error.reason} for error in pair]
      elif skip_bad or not bad:  # after a bad pair nothing is kept, and the other pairs are only verified
        writers[num_examples % num_shards].write(records.serialize(pair))
        num_examples += 1
        pixels += pair.counts
        tally.add(pair.name, pair.look)
        masks.setdefault(_kind_of_mask(pair.counts), source.label)
        image_pixels += pair.counts.sum() * (pair.counts > 0)
      if bar:
        bar.update()
  _refuse_bad(bad, f'{dataset.name} {split}', total=len(sources), skip_bad=skip_bad)
  if (isinstance(dataset, OwnDataset) and dataset.num_classes == 2 and dataset.read_label is label_pictures.read_label
      and 'labels' not in dataset.told):
    _refuse_two_kinds(masks)
  return {
      'dataset': dataset.name, 'split': split, 'reading': dataset.reading.to_json(),
      'num_examples': num_examples, 'expected': dataset.splits[split],
      'num_shards': min(num_shards, num_examples), 'skipped': bad, 'class_names': list(dataset.classes),
      'class_pixels': pixels[:dataset.num_classes].tolist(),
      'class_image_pixels': image_pixels[:dataset.num_classes].tolist(), 'void_pixels': int(pixels[IGNORE_LABEL]),
      'sanity': tally.to_json()}


def _kind_of_mask(counts):
  """Kind of a label, by the number of its pixels of each id: (whether it has void beside id 0, other ids)."""
  return bool(counts[0] and counts[IGNORE_LABEL]), bool(counts[1:IGNORE_LABEL].any())


def _refuse_two_kinds(masks):
  """Raises UserError if labels of two classes are 0 and 255 in some files and ids in others: 255 may be a class there.

  Args:
    masks: dict of a kind, see `_kind_of_mask`, -> a label of this kind.
  """
  if (True, False) in masks and (False, True) in masks and (True, True) not in masks:
    raise UserError(f'labels of two kinds: {masks[True, False]} holds 0 and 255 alone, {masks[False, True]} ids and no '
                    '255; mend one kind, or give --labels=ids (or "labels" in dataset.json) if 255 is void')


def _refuse_bad(bad, what, *, total, skip_bad):
  """Raises BadFiles if bad files are not to be skipped, or if no pair is left without them."""
  reasons = [f'  {entry["file"]}: {entry["reason"]}' for entry in bad]
  num_bad = len({entry['name'] for entry in bad})
  if bad and not skip_bad:
    raise BadFiles(f'{what}: {num_bad} of {total} pairs cannot be used, so nothing was written '
                   f'(--skip_bad leaves them out):', *reasons)
  if num_bad == total:
    raise BadFiles(f'{what}: none of the {total} pairs can be used:', *reasons)


def _publish(stats, data_dir):
  """Gives the shards their names and removes those of an earlier conversion; the JSON goes first and comes last.

  Each step is on the disk before the next: a power cut leaves no JSON beside shards that are not whole.
  """
  split, num_shards = stats['split'], stats['num_shards']
  names = [records.shard_name(split, index, num_shards) for index in range(num_shards)]
  for index in range(num_shards):
    sync(_temporary(data_dir, split, index))
  _remove([records.stats_path(data_dir, split)])
  sync(data_dir)
  for index, name in enumerate(names):
    os.replace(_temporary(data_dir, split, index), os.path.join(data_dir, name))
  _remove(os.path.join(data_dir, name) for name in records.list_shards(data_dir, split) if name not in names)
  stats['shard_bytes'] = [os.path.getsize(os.path.join(data_dir, name)) for name in names]
  sync(data_dir)
  write_json(records.stats_path(data_dir, split), stats)
  sync(data_dir)


def _remove(paths):
  for path in paths:
    with contextlib.suppress(OSError):
      os.unlink(path)


def _describe(stats, data_dir, say):
  """Prints a summary, and how it differs from the original publication."""
  what, found, expected = f'{shown(stats["dataset"])} {stats["split"]}', stats['num_examples'], stats['expected']
  total = sum(stats['class_pixels']) + stats['void_pixels']
  say(f'{what}: {found} images in {shown(data_dir)}, {stats["num_shards"]} shards of '
      f'{sum(stats["shard_bytes"]) / 1e6:.1f} MB in all; {stats["void_pixels"] / total:.1%} of the pixels are void')
  for entry in stats['skipped']:
    say(f'{what}: left out {shown(entry["file"])}: {shown(entry["reason"])}')
  if found != expected:
    say(f'{what}: {found} images where the original has {expected}')


def convert_splits(settings):
  """Converts each split of --splits; bad files of one split do not keep the next from being verified."""
  dataset = get_dataset(settings.dataset)
  bad, stats = [], {}
  for split in check_splits(dataset, settings.splits):
    try:
      stats[split] = convert(
          dataset, split, source_dir=settings.source_dir,
          data_dir=settings.data_dir or os.path.join('data', dataset.name),
          num_shards=settings.num_shards, num_workers=settings.num_workers, skip_bad=settings.skip_bad,
          told=settings.reading.told)
    except BadFiles as error:
      bad += error.args
  sanity.report(dataset.name, stats)
  if bad:
    raise UserError(*bad)


def main(argv=None):
  return run(convert_splits, ConvertSettings, argv, text=__doc__)


if __name__ == '__main__':
  sys.exit(main())
