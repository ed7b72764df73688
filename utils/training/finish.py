"""What to do next, said at the end of a training: a command that works as it stands, for a shell in this folder."""

import os
import shlex
import shutil
import sys

from datasets import records
from datasets.hold_out import HELD_OUT
from utils.files import ROOT
from utils.installation import PACKAGE


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
  return ' '.join(map(_quoted, (*start, *words)))


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


def _quoted(word):
  """A word as a shell reads it; line breaks and bytes that are not UTF-8 in a form that can be printed and copied."""
  if word.isprintable():
    return shlex.quote(word)
  escaped = ''.join(char if char.isprintable() and char not in '\\\'' else
                    ''.join(f'\\x{byte:02x}' for byte in os.fsencode(char)) for char in word)
  return f"$'{escaped}'"
