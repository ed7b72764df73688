"""The split that a run is evaluated on: its folder, found from anywhere, and as its originals are now."""

import os
import sys

from datasets import get_dataset, prepare, records
from utils.errors import UserError


def open_split(run, split, data_dir=None):
  """Finds a converted split, converts it again if the user's own originals have changed, and checks its classes.

  Args:
    run: a runs.Run.
    split: name of the split.
    data_dir: folder with its shards; None for that of the training.

  Returns:
    `(data_dir, num_images)`: the folder, and the number of images in the split.

  Raises:
    UserError: if the split is not there, changed originals cannot be used, or the classes are not the run's.
  """
  data_dir = data_dir or find_data(run, split)
  follow_originals(data_dir, split, run)
  return data_dir, records.check_classes(data_dir, split, run.classes, trained=run.folder)


def find_data(run, split):
  """The data folder of a run's training: where it was for the training, or else, for a project that has been moved, at
  the same place beside the present folder.

  Raises:
    UserError: if neither is there.
  """
  given = run.config['flags'].get('data_dir')
  if given is None:
    raise UserError(f'{run.folder} does not say where its data is; give its folder as --data_dir')
  there = os.path.normpath(os.path.join(run.config.get('working_folder', ''), given))
  places = [given] if os.path.abspath(there) == os.path.abspath(given) else [there, given]
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
    print(f'warning: {folder}, from which {data_dir} was made, cannot be read now ({error}); the records made before '
          'are evaluated', file=sys.stderr, flush=True)
    return
  if dataset.classes != run.classes:
    raise UserError(f'{folder} has other classes now than {run.folder} was trained on: '
                    f'{", ".join(dataset.classes)} and {", ".join(run.classes)}')
  prepare.prepare(dataset, data_dir, splits=[split], skip_bad=bool(stats.get('skipped')))
