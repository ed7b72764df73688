"""What to do next, said at the end of a training: a command that works as it stands, for a shell in this folder."""

import os
import shlex
import shutil
import sys

from datasets import records
from datasets.hold_out import HELD_OUT
from utils.files import ROOT


def next_line(settings):
  """The command that evaluates a run, or labels photographs where there is no split to evaluate.

  Args:
    settings: a TrainSettings, resolved.

  Returns:
    one line.
  """
  data_dir, evaluated = settings.data.data_dir, settings.bookkeeping.eval_split
  split = next((split for split in dict.fromkeys((evaluated, 'val', 'test'))
                if split != 'train' and os.path.exists(records.stats_path(data_dir, split))), None)
  split = HELD_OUT if settings.data.held.given else split
  ckpt = f'--ckpt={settings.run_dir}'
  if split is None:
    return f'next, with pictures of yours for PHOTOS: {_command("inference", ckpt)} PHOTOS'
  return f'next: {_command("evaluate", ckpt, *([] if split == "val" else [f"--split={split}"]))}'


def _command(script, *words):
  """A command that starts a script of the project with the Python that runs now, from the present folder."""
  known = shutil.which('python')
  python = 'python' if known and os.path.abspath(known) == os.path.abspath(sys.executable) else sys.executable
  path = os.path.join(ROOT, f'{script}.py')
  return ' '.join(map(_quoted, (python, min(os.path.relpath(path), path, key=len), *words)))


def _quoted(word):
  """A word as a shell reads it; line breaks and bytes that are not UTF-8 in a form that can be printed and copied."""
  if word.isprintable():
    return shlex.quote(word)
  escaped = ''.join(char if char.isprintable() and char not in '\\\'' else
                    ''.join(f'\\x{byte:02x}' for byte in os.fsencode(char)) for char in word)
  return f"$'{escaped}'"
