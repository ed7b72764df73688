"""Measures how long the programs take to start: seconds, and CPU seconds, from the command to their first result.

    python -m utils.studies.starts --net=enet --height=64 --width=64 --batch_size=2 --against=../an-earlier-version

Each start is a process of its own, which is ended at its result: `train` at the first step of a new run with random
weights, `resume` at the first step of a run that goes on, `evaluate` when evaluate.py is ready for the first image, and
`inference` when inference.py has labeled one picture. With --against, the scripts of another folder start in turn with
these: the ratios hold on a machine that does other things as well, CPU seconds more so than seconds. Needs Linux.
"""

import dataclasses
import functools
import os
import subprocess
import sys
import tempfile
import time

import numpy as np
from PIL import Image

from utils.errors import UserError
from utils.exits import ended_by_sigterm
from utils.files import ROOT
from utils.progress import STEP_LINE
from utils.settings import flag, run
from utils.studies import benchmark
from utils.studies.benchmark import MeasureSettings, script_command, train_command
from utils.studies.results import row

KINDS = ('train', 'resume', 'evaluate', 'inference')
TICKS = os.sysconf('SC_CLK_TCK')  # of /proc/PID/stat in a second


@dataclasses.dataclass(frozen=True)
class StartSettings(MeasureSettings):
  """Flags of this program."""
  what: tuple[str, ...] = flag(KINDS, 'starts to measure, in this order', choices=KINDS)
  against: str | None = flag(None, 'folder of another version, whose scripts start in turn with these', path=True)
  precisions: tuple[str, ...] = flag(
      ('float32',), 'precisions to measure, where the CPU has them', choices=benchmark.CPU_PRECISIONS)
  steps: int = flag(5, 'starts of each kind that are timed', least=1)
  warmup_steps: int = flag(1, 'starts of each kind before them', least=0)
  output: str = flag('starts.json', 'JSON to write', path=True)

  def check(self):
    """Raises UserError if a setting is not valid, or --against holds no train.py."""
    super().check()
    if self.against and not os.path.exists(os.path.join(self.against, 'train.py')):
      raise UserError(f'--against={self.against}: no train.py in this folder')


def cpu_seconds(pid):
  """CPU time of a process so far, all its threads together."""
  with open(f'/proc/{pid}/stat', encoding='utf-8') as file:
    fields = file.read().rpartition(')')[2].split()  # the name before may hold anything
  return (int(fields[11]) + int(fields[12])) / TICKS


def start(words, result, *, launch=subprocess.Popen, cpu=cpu_seconds, clock=time.perf_counter):
  """Starts a program and ends it as soon as it prints its first result.

  Args:
    words: the command.
    result: what the line of the result starts with.
    launch: takes the place of subprocess.Popen in tests.
    cpu: takes the place of `cpu_seconds` in tests.
    clock: function that returns seconds.

  Returns:
    array of CPU seconds and seconds.

  Raises:
    UserError: if the program ends without it; gives its last line.
  """
  begin, last = clock(), 'it printed nothing'
  with launch(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
    try:
      for line in process.stdout:
        if line.startswith(result):
          return np.array([cpu(process.pid), clock() - begin])
        last = line.strip() or last
    finally:
      process.kill()
  raise UserError(f'{" ".join(words)} ended too early: {last}')


def of_version(words, root):
  """A command of this version's scripts for those in another folder."""
  return [words[0], os.path.join(root, os.path.relpath(words[1], ROOT)), *words[2:]]


def commands(kind, setup, precision, folder):
  """The start of a kind.

  Args:
    kind: one of KINDS.
    setup: a benchmark.Setup.
    precision: one of session.PRECISIONS.
    folder: folder for what the start needs and writes; of one version alone.

  Returns:
    `(before, words, result)`: a command to be run to its end before the first start, or None; the command; and what the
    line of its result starts with.
  """
  train = functools.partial(train_command, setup, precision, checkpoint='none', log_steps=1, eval_steps=0)
  if kind == 'train':
    return None, train(tempfile.mkdtemp(dir=folder), max_steps=100), f'{STEP_LINE}1/'
  if kind == 'resume':
    run_dir = os.path.join(folder, 'resumed')
    return train(run_dir, max_steps=1), train(run_dir, max_steps=100), f'{STEP_LINE}2/'
  if kind == 'evaluate':
    words = script_command('evaluate.py', ckpt=setup.checkpoint, split='val', data_dir=setup.data_dir,
                           precision=precision)
    return None, words, f'{setup.checkpoint} (step'
  picture = os.path.join(folder, 'picture.png')
  Image.fromarray(np.random.default_rng(0).integers(0, 256, (*setup.size, 3), np.uint8)).save(picture)
  words = script_command('inference.py', ckpt=setup.checkpoint, precision=precision,
                         output_dir=os.path.join(folder, 'out'))
  return None, [*words, picture], '1 images labeled'


def measure_starts(kind, setup, *, against, start=start, prepare=subprocess.run):
  """Seconds and CPU seconds of the starts of a kind, of this version and another in turn.

  Args:
    kind: one of KINDS.
    setup: a benchmark.Setup; its `steps` are starts.
    against: folder of the other version; None for none.
    start: takes the place of `start` in tests.
    prepare: takes the place of subprocess.run in tests.

  Yields:
    rows.
  """
  versions = {'this version': ROOT, **({'the other': os.path.abspath(against)} if against else {})}
  for precision in setup.precisions:
    with tempfile.TemporaryDirectory() as folder:
      folders = {version: tempfile.mkdtemp(dir=folder) for version in versions}
      times = {version: [] for version in versions}
      for version, root in versions.items():
        before, _, _ = commands(kind, setup, precision, folders[version])
        if before:
          prepare(of_version(before, root), check=True, capture_output=True)
      for number in range(setup.warmup_steps + setup.steps):
        for version, root in versions.items():
          _, words, result = commands(kind, setup, precision, folders[version])
          seconds = start(of_version(words, root), result)
          if number >= setup.warmup_steps:
            times[version].append(seconds)
    for column, unit in enumerate(('CPU s', 's')):
      values = {version: np.array(each)[:, column] for version, each in times.items()}
      for version in versions:
        yield row(kind, f'{precision}: {version}', unit, values[version])
      if against:
        yield row(kind, f'{precision}: this version / the other, {unit}', 'ratio',
                  values['this version'] / values['the other'])


def work(settings):
  """Measures the starts; `settings` is a StartSettings."""
  with ended_by_sigterm():
    benchmark.measure(settings, 'utils.studies.starts', {
        kind: functools.partial(measure_starts, kind, against=settings.against) for kind in KINDS})


def main(argv=None):
  """Measures; `argv` is the command line without the program's name, None for the process's own."""
  return run(work, StartSettings, argv, text=__doc__)


if __name__ == '__main__':
  sys.exit(main())
