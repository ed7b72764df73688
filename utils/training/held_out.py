"""What a run holds out: chosen by flags, kept in config.json, never seen by the weights that the run starts from."""

import os

from datasets import folds, hold_out, records, sanity
from utils.errors import UserError, listed
from utils.training.start import run_of


def hold_out_of_run(settings, dataset, saved):
  """Finds what a run holds out.

  Args:
    settings: a TrainSettings, resolved; its splits are converted.
    dataset: the Dataset.
    saved: config.json of the run to be resumed; None for a new run.

  Returns:
    `(held, note)`: the HoldOut, and what config.json keeps of it: `HoldOut.to_json` and 'images', a dict of split ->
    number of images that are held out of it. None if nothing is held out.

  Raises:
    UserError: if the flags cannot be used, see folds.hold_out; if the resumed run held other images out; or if the
      weights that a new run starts from were trained on images that are held out.
  """
  flags, data_dir = settings.data.held, settings.data.data_dir
  if not flags.given:
    return hold_out.NOTHING, None
  held, evaluated = folds.hold_out(flags, data_dir, dataset.splits), settings.bookkeeping.eval_split
  if settings.bookkeeping.eval_steps and evaluated in (hold_out.HELD_OUT, *sanity.UNIONS):
    holding = '' if evaluated == hold_out.HELD_OUT else f'{evaluated}, which has all images of '
    print(f'note: the best checkpoint is chosen on {holding}{hold_out.HELD_OUT}, so that its score there is too good')
  if saved and hold_out.HoldOut.from_json(saved.get('hold_out')) != held:
    raise UserError(f'{settings.run_dir} held out {hold_out.HoldOut.from_json(saved.get("hold_out"))}, and now it is '
                    f'{held}: a file of patterns or the groups of the data have changed; give this run another '
                    '--run_dir')
  names = {split: list(filter(held.holds, hold_out.read_names(data_dir, split))) for split in held.splits}
  if not saved:
    refuse_seen(settings.start, dataset.name, held, data_dir)
  return held, held.to_json() | {'images': {split: len(of_split) for split, of_split in names.items()}}


def warn_if_trained_on(settings, held):
  """Prints a warning if the split that chooses the best checkpoint has images that the run is trained on.

  Args:
    settings: a TrainSettings, resolved; its splits are converted.
    held: the HoldOut.
  """
  trained, evaluated = settings.data.train_split, settings.bookkeeping.eval_split
  apart = trained != evaluated and trained in hold_out.SPLITS and evaluated not in sanity.UNIONS
  if not settings.bookkeeping.eval_steps or apart:  # splits of a dataset do not overlap, but for such as trainval
    return
  names = [set(hold_out.read_names(settings.data.data_dir, split, held)) for split in (trained, evaluated)]
  if seen := len(set.intersection(*names)):
    print(f'warning: {seen} images of {evaluated} are trained on, so that its scores, and the choice of the best '
          'checkpoint by them, are too good; --eval_steps=0 leaves them out', flush=True)


def refuse_seen(start, dataset_name, held, data_dir):
  """Raises UserError if the weights that a run starts from are those of a run that was trained on images held out.

  A run that itself held them out was started from weights that had not seen them.

  Args:
    start: a training.settings.Start.
    dataset_name: name of the run's dataset.
    held: the HoldOut.
    data_dir: folder with the shards.
  """
  run = run_of(start)
  if run is None or run.config['dataset'].get('name') != dataset_name:
    return
  theirs = hold_out.HoldOut.from_json(run.config.get('hold_out'))
  is_here = os.path.exists(records.stats_path(data_dir, run.train_split))
  trained = [run.train_split] if is_here else held.splits  # such as trainval, which may have images of all of them
  seen = [name for split in trained for name in hold_out.read_names(data_dir, split)
          if held.holds(name) and not theirs.holds(name)]
  if seen:
    flag = 'init_from' if start.init_from else 'checkpoint'
    raise UserError(f'--{flag}={getattr(start, flag)} was trained on {len(seen)} of the images that are held out here, '
                    f'such as {listed(seen, 3)}; start from weights that never saw them')
