"""The split that a run is evaluated on: its folder, found from anywhere, and as its originals are now."""

import itertools
import os
import sys

from datasets import folds, get_dataset, hold_out, pipeline, prepare, records
from datasets.hold_out import HELD_OUT, HoldOut
from datasets.inputs import Input
from utils.errors import UserError, listed, shown
from utils.packages import is_package


def open_split(run, split, data_dir=None, flags=folds.HoldOutFlags()):  # noqa: B008, the record is frozen
  """Finds a converted split, converts it again if the user's own originals have changed, and checks its classes.

  Args:
    run: a runs.Run.
    split: name of the split.
    data_dir: folder with its shards; None for that of the training.
    flags: HoldOutFlags that say which images HELD_OUT has, instead of those that the run held out.

  Returns:
    `(data_dir, num_images, held)`: the folder, the number of images in the split, and the HoldOut of the split.

  Raises:
    UserError: if the split is not there, changed originals cannot be used, the classes are not the run's, photographs
      of its dataset are brighter or darker than in the training, or nothing was held out.
  """
  held = HoldOut.from_json(run.config.get('hold_out'))
  data_dir = data_dir or find_data(run, run.train_split if flags.given else held.parts(split)[0])
  present = [part for part in (*hold_out.SPLITS, HELD_OUT) if os.path.exists(records.stats_path(data_dir, part))]
  if split == HELD_OUT and HELD_OUT not in present and not held.splits and not flags.given:
    raise UserError(f'{run.folder} held nothing out; --hold_out says which images --split={HELD_OUT} has')
  for part in hold_out.SPLITS if flags.given else held.parts(split):
    if part in present or not flags.given:
      follow_originals(data_dir, part, run)
      num_images = records.check_classes(data_dir, part, run.classes, trained=run.folder)
      _refuse_other_brightness(data_dir, part, run)
    else:
      print(f'note: {shown(data_dir)} holds no {part}, so that {HELD_OUT} has no image of it', flush=True)
  if flags.given:
    held = folds.hold_out(flags, data_dir, present)
  if held.concerns(split):
    hold_out.check(data_dir, split, held)
    num_images = len(hold_out.read_names(data_dir, split, held))
  warn_of_seen(run, data_dir, split, held)
  return data_dir, num_images, held


def _refuse_other_brightness(data_dir, split, run):
  """Raises UserError if photographs of the run's dataset were converted by another value range than it was trained on.

  That of images of bands does not matter: the run's own is applied to them.
  """
  reading = Input.from_config(run.config).reading
  if reading.is_plain and records.read_stats(data_dir, split).get('dataset') == run.config['dataset'].get('name'):
    records.check_reading(data_dir, split, reading, where=f'{run.folder} was trained on', ranges=True)


def spaced_examples(data_dir, split, held, *, num_images, count):
  """Reads up to `count` images of a split that `open_split` has found, evenly spaced: a list of pipeline.examples."""
  step = max(num_images // count, 1)
  return list(itertools.islice(pipeline.examples(data_dir, split, held), 0, step * count, step))


def sizes(data_dir, split, held):
  """Iterates over (height, width) of the images in the converted splits that a split of a HoldOut comes from."""
  return itertools.chain.from_iterable(records.sizes(data_dir, part) for part in held.parts(split))


def warn_of_seen(run, data_dir, split, held):
  """Prints a warning if a run was trained on images of another split than its own that it is evaluated on.

  Args:
    run: a runs.Run.
    data_dir: folder with the shards.
    split: name of the split.
    held: the HoldOut of the split.
  """
  trained = HoldOut.from_json(run.config.get('hold_out'))
  # Train, val and test do not overlap; others, as trainval, may.
  usual = run.train_split == 'train' and (split in ('val', 'test') or split == HELD_OUT and held == trained)
  if split == run.train_split or usual or not os.path.exists(records.stats_path(data_dir, run.train_split)):
    return
  if records.read_stats(data_dir, run.train_split).get('dataset') != run.config['dataset'].get('name'):
    return
  scored = set(hold_out.read_names(data_dir, split, held))
  seen = [name for name in hold_out.read_names(data_dir, run.train_split) if name in scored and not trained.holds(name)]
  if seen:
    print(f'warning: {shown(run.folder)} was trained on {len(seen)} of these images, such as {listed(seen, 3)}; their '
          'score is too good', file=sys.stderr, flush=True)


def find_data(run, split):
  """The data folder of a run's training: where it was for the training, or else, for a project that has been moved, at
  the same place beside the run's folder, or the present one.

  Raises:
    UserError: if none is there.
  """
  given = run.config['flags'].get('data_dir')
  if given is None:
    raise UserError(f'{run.folder} does not say where its data is; give its folder as --data_dir')
  there = os.path.normpath(os.path.join(run.config.get('working_folder', ''), given))
  places = [given] if os.path.abspath(there) == os.path.abspath(given) else [there, given]
  run_dir = run.config['flags'].get('run_dir')
  if run_dir and not is_package(run.folder):
    before = os.path.abspath(os.path.join(run.config.get('working_folder', ''), run_dir))
    beside = os.path.abspath(os.path.join(run.folder, os.path.relpath(os.path.abspath(there), before)))
    places += [beside] if beside not in map(os.path.abspath, places) else []
  for present in (lambda place: os.path.exists(records.stats_path(place, split)), os.path.isdir):
    found = next(filter(present, places), None)
    if found:
      return found
  raise UserError(f'the data of {run.folder} is not in {" nor in ".join(map(os.path.abspath, places))}; '
                  'give its folder as --data_dir')


def follow_originals(data_dir, split, run):
  """Converts a split of the user's own dataset again if its files have changed; without these, the records count.

  Raises:
    UserError: if the changed files cannot be used, or their classes are not those of the run; the records are then as
      before.
  """
  stats = records.read_stats(data_dir, split)
  folder = stats.get('source_dir')
  if not folder or not os.path.isdir(folder):
    return
  try:
    dataset = get_dataset(folder)
  except UserError as error:
    print(f'warning: {shown(folder)}, from which {shown(data_dir)} was made, cannot be read now ({error}); the records '
          'made before are evaluated', file=sys.stderr, flush=True)
    return
  if dataset.classes != run.classes:
    raise UserError(f'{folder} has other classes now than {run.folder} was trained on: '
                    f'{", ".join(dataset.classes)} and {", ".join(run.classes)}')
  prepare.prepare(dataset, data_dir, splits=[split], skip_bad=bool(stats.get('skipped')))
