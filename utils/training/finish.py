"""Whether a training has ended, and what to do next: a command that works as it stands, for a shell in this folder."""

import contextlib
import os
import shutil
import sys

from datasets import records
from datasets.hold_out import HELD_OUT
from utils.best import BEST, evaluated_step, no_better_since, read_best
from utils.errors import UserError, quoted, shown
from utils.files import ROOT
from utils.installation import PACKAGE


def ended(settings, step):
  """Why there is nothing left to do for a run.

  Args:
    settings: a TrainSettings, resolved.
    step: step of the run's newest checkpoint.

  Returns:
    one line; None if there are steps to train, or an evaluation is due that a crash kept from its end.
  """
  keeping, last, best = settings.bookkeeping, settings.schedule.max_steps, {}
  if keeping.eval_steps:
    with contextlib.suppress(UserError):
      best = read_best(os.path.join(settings.run_dir, BEST))
    # A step beyond the last is one on the way of a longer run, which may go on.
    is_due = step == last or step % keeping.eval_steps == 0
    if is_due and evaluated_step(best, keeping.eval_split, step) < step:
      return None
  if step >= last:
    return f'{shown(settings.run_dir)} has reached step {step} already; a larger --max_steps continues it'
  if not best or (best.get('split'), best.get('evaluated')) != (keeping.eval_split, step):
    return None
  reason = no_better_since(best, step, every_steps=keeping.eval_steps, early_stop=keeping.early_stop)
  return reason and f'{shown(settings.run_dir)} has stopped early: {reason}; a larger --early_stop continues it'


def next_line(settings):
  """The command that evaluates a run, or labels photographs where there is no split to evaluate.

  Args:
    settings: a TrainSettings, resolved.

  Returns:
    one line.
  """
  data_dir, evaluated = settings.data.data_dir, settings.bookkeeping.eval_split
  split = next((split for split in dict.fromkeys((evaluated, 'val', 'test'))
                if split != settings.data.train_split and os.path.exists(records.stats_path(data_dir, split))), None)
  split = HELD_OUT if settings.data.held.given else split
  ckpt = f'--ckpt={settings.run_dir}'
  if split is None:
    return f'next, with pictures of yours for PHOTOS: {_command("inference", ckpt)} PHOTOS'
  return f'next: {_command("evaluate", ckpt, *([] if split == "val" else [f"--split={split}"]))}'


def _command(script, *words):
  """A command that starts a script of the project with the Python that runs now, from the present folder."""
  if PACKAGE:
    start = _installed(script)
  else:
    path = os.path.join(ROOT, f'{script}.py')
    start = [_known('python', sys.executable), min(os.path.relpath(path), path, key=len)]
  return ' '.join(map(quoted, (*start, *words)))


def _installed(script):
  """Words that start a script of the installation: the command beside the one that runs now, or its module."""
  command = f'fcn-{script}'
  path = os.path.join(os.path.dirname(sys.argv[0]), command)
  return [_known(command, path)] if os.path.exists(path) else [
      _known('python', sys.executable), '-m', f'{PACKAGE}.{script}']


def _known(name, path):
  """The name of a program where a shell finds that at `path` by it, else the path."""
  found = shutil.which(name)
  return name if found and os.path.abspath(found) == os.path.abspath(path) else path
