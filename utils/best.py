"""A run's best checkpoint: the subfolder BEST, in which best.json says which checkpoint is best, on what, and how good.

best.json is replaced in one go, after the new checkpoint is whole and before the old one is removed: whenever a crash
comes, it describes a whole checkpoint. Whatever else lies there is a leftover, and is removed with the next.
"""

import contextlib
import os
import re
import shutil

from utils.checkpoint_files import problem
from utils.errors import UserError, shown
from utils.files import make_folder, read_json, sync, write_json

BEST = 'best'  # subfolder of a run
# File in BEST: `split`, `metric`, METRIC (the score), `step`, `checkpoint` (its name), `evaluated` (the last step),
# `no_better` (the steps that were evaluated since).
BEST_SCORE = 'best.json'
METRIC = 'mean_iou'  # by which checkpoints are compared
_NAMES = ('model.ckpt', 'best.ckpt')  # of checkpoints, the second if the first has been taken by the old one
_OF_CHECKPOINTS = re.compile(r'(model|best)\.ckpt-.*|checkpoint')  # files and folders in BEST


def read_best(folder):
  """Reads the best.json of a run.

  Args:
    folder: the run's subfolder BEST.

  Returns:
    dict, of which all but METRIC and `step` may be missing if an earlier version wrote it; None if there is none.

  Raises:
    UserError: if it is broken, or was not written by train.py.
  """
  path = os.path.join(folder, BEST_SCORE)
  if not os.path.exists(path):
    return None
  best = read_json(path)
  wanted = {'split': str, 'metric': str, METRIC: (int, float), 'step': int, 'checkpoint': str, 'evaluated': int,
            'no_better': list}
  if not isinstance(best, dict) or not {METRIC, 'step'} <= best.keys() or not all(
      isinstance(best[key], kind) for key, kind in wanted.items() if key in best) or not (
          0 <= best[METRIC] <= 1 and best['step'] >= 0
          and all(isinstance(step, int) for step in best.get('no_better', ()))):
    raise UserError(f'{path} was not written by train.py')
  return best


def best_checkpoint(folder):
  """Prefix of the checkpoint that a run's best.json describes.

  Args:
    folder: the run's subfolder BEST.

  Returns:
    the prefix; None without a best.json.

  Raises:
    UserError: if one of the two is broken.
  """
  best = read_best(folder)
  if best is None:
    return None
  prefix = os.path.join(folder, os.path.basename(best.get('checkpoint', f'{_NAMES[0]}-{best["step"]}')))
  reason = problem(prefix)
  if reason:
    raise UserError(reason)
  return prefix


def scored_on(best, split):
  """Whether the score of a best.json may be compared with one of a split: of this split, by the same metric."""
  return best.get('split') == split and best.get('metric', METRIC) == METRIC


def described(best):
  """A best.json in words: 'the best on val: mean IoU 0.7750'."""
  if best.get('metric', METRIC) != METRIC:
    return f'the best by another metric, {shown(best["metric"])}'
  return f'the best on {shown(best.get("split", "a split that is not named"))}: mean IoU {best[METRIC]:.4f}'


def evaluated_step(best, split, step):
  """The last step up to which a run has been evaluated.

  Args:
    best: content of best.json; None without one.
    split: the split that is evaluated.
    step: step of the run's newest checkpoint: what holds for another split, or of an earlier version, counts as that.
  """
  if best is None:
    return 0
  return best.get('evaluated', step) if scored_on(best, split) else step


def steps_since(best, step, every_steps):
  """The steps after the best one, up to `step`, that were evaluated and were no better.

  Args:
    best: content of best.json.
    step: the last step that counts.
    every_steps: steps between two evaluations, by which the steps of an earlier version, which noted none, are known.

  Returns:
    an ascending list.
  """
  assumed = range(best['step'] + every_steps, min(best.get('evaluated', step), step) + 1, every_steps)
  return sorted(one for one in best.get('no_better', assumed) if best['step'] < one <= step)


def no_better_since(best, step, *, every_steps, early_stop):
  """Why a run with --early_stop ends after the evaluation of a step.

  Args:
    best: content of best.json: the best evaluation.
    step: the step that was evaluated.
    every_steps: see `steps_since`.
    early_stop: number of evaluations without a better one after which the run ends; 0 for never.

  Returns:
    a phrase; None if it goes on.
  """
  since = len(steps_since(best, step, every_steps))
  if not early_stop or since < early_stop:
    return None
  return f'{since} evaluations without a better mean IoU than {best[METRIC]:.4f} (step {best["step"]})'


def note_evaluated(folder, best, step):
  """Notes in the best.json with the content `best` that a later step was evaluated, and was not better."""
  write_json(os.path.join(folder, BEST_SCORE), {**best, 'evaluated': step}, own=os.path.isfile)


def replace_best(folder, best, save):
  """Makes a checkpoint the best one of a run, in place of another.

  Args:
    folder: the run's subfolder BEST, which is created.
    best: content of best.json but `checkpoint`.
    save: `save(name)` writes the checkpoint of this name to the folder.

  Returns:
    the content of best.json.

  Raises:
    UserError: if a file cannot be written; the old one is the best as before.
  """
  make_folder(folder)
  old = None
  with contextlib.suppress(UserError):
    old = best_checkpoint(folder)
  name = next(name for name in (f'{prefix}-{best["step"]}' for prefix in _NAMES)
              if old is None or name != os.path.basename(old))
  save(name)
  best = {**best, 'checkpoint': name}
  write_json(os.path.join(folder, BEST_SCORE), best, own=os.path.isfile)  # any: the folder is the run's
  sync(folder)  # before the old one goes
  remove_others(folder, name)
  return best


def remove_others(folder, name):
  """Removes all files of checkpoints in BEST but those of the checkpoint `name`."""
  for entry in os.listdir(folder):
    if not _OF_CHECKPOINTS.fullmatch(entry) or entry.startswith(f'{name}.') or entry == name:
      continue
    path = os.path.join(folder, entry)
    with contextlib.suppress(OSError):  # the next time, then
      if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
      else:
        os.unlink(path)
