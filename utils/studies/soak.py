"""Runs inference and training for a long time, and judges whether memory, open files and threads stay as they are.

    python -m utils.studies.soak --minutes=60 --net=inception_v3

`inference`: inference.py labels many pictures of many sizes, in one process. `training`: train.py trains, evaluates,
writes summaries and saves. Both start from random weights; each is ended by SIGTERM after --minutes from its first
pictures or its first evaluation on, and has to end with 143. A sample is taken every few seconds; what counts is the
median of the last quarter of them beside that of the second (scripts.growth). More than --most_growth of memory, or
more than --most_handles open files or threads gained, is an error. Needs Linux.
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
from utils.exits import TERMINATED
from utils.files import text_of
from utils.settings import flag, run
from utils.studies import benchmark, scripts
from utils.studies.benchmark import MIB, MeasureSettings, script_command, train_command
from utils.studies.results import row

WHAT = ('inference', 'training')
PICTURES = 200  # different ones, of as many sizes
SIDES = (40, 400)  # least and greatest height and width in pixels
THINNED = 200  # samples that the JSON keeps
EVALUATED = ': mean IoU '  # in the line about an evaluation
END_SECONDS = 300  # that a program may take to end


@dataclasses.dataclass(frozen=True)
class SoakSettings(MeasureSettings):
  """Flags of this program."""
  what: tuple[str, ...] = flag(WHAT, 'programs to run', choices=WHAT)
  minutes: float = flag(60.0, 'minutes that each runs', least=0.01)
  most_growth: float = flag(32.0, 'MiB of memory that may be gained from the second quarter to the last', least=0)
  most_handles: int = flag(2, 'open files, and threads, that may be gained meanwhile', least=0)
  pictures: int = flag(30, 'pictures for inference.py, for each second that it runs', least=1)
  precisions: tuple[str, ...] = flag(('float32',), 'precision to run in', choices=benchmark.CPU_PRECISIONS)
  output: str = flag('soak.json', 'JSON to write', path=True)


@dataclasses.dataclass(frozen=True)
class Sample:
  """What a process holds: seconds since its first result, resident memory in MiB, open files, threads."""
  seconds: float
  memory: float
  files: int
  threads: int


def held(pid, seconds):
  """The Sample of a process; None if it has ended."""
  try:
    sizes = scripts.resident_memory(pid)
    files = len(os.listdir(f'/proc/{pid}/fd'))
  except OSError:
    return None
  threads = [line.split()[1] for line in text_of(f'/proc/{pid}/status').splitlines() if line.startswith('Threads:')]
  return Sample(seconds, sizes[0] / MIB, files, int(threads[0])) if sizes and threads else None


def soaked(words, seconds, result, *, launch=subprocess.Popen, held=held, clock=time.monotonic, sleep=time.sleep):
  """Runs a program for some seconds from its first result on, samples what it holds, and ends it by SIGTERM.

  Args:
    words: the command.
    seconds: seconds.
    result: text by which its output tells a result.
    launch: takes the place of subprocess.Popen in tests.
    held: takes the place of `held` in tests.
    clock: function that returns seconds.
    sleep: function that waits for some seconds.

  Returns:
    list of Sample.

  Raises:
    UserError: if the program fails, ends otherwise than by SIGTERM or well, or hangs; gives its last line.
  """
  samples, start, pause = [], None, max(scripts.SAMPLE_SECONDS, seconds / 2000)
  with (tempfile.TemporaryFile('w+', errors='backslashreplace') as output,
        launch(words, stdout=output, stderr=subprocess.STDOUT) as process):
    try:
      while process.poll() is None and (start is None or clock() - start < seconds):
        if start is None and result.encode() in os.pread(output.fileno(), 1 << 20, 0):  # moves no one's place in it
          start = clock()
        if start is not None and (sample := held(process.pid, clock() - start)):
          samples.append(sample)
        sleep(pause)
      process.terminate()
      code = process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
      code = 'no end'
    finally:
      process.kill()
    if code not in (0, TERMINATED):
      output.seek(0)
      last = (output.read().strip() or 'it printed nothing').splitlines()[-1]
      raise UserError(f'{" ".join(words)} ended with {code}: {last}')
  return samples


def judged(name, samples, settings):
  """The rows of what a program gained.

  Args:
    name: the program.
    samples: list of Sample.
    settings: a SoakSettings.

  Yields:
    rows.

  Raises:
    UserError: if it gained more than the settings allow, naming what.
  """
  if len(samples) < 8:
    raise UserError(f'{name} ran for {len(samples)} samples, which is too short to judge; give more --minutes')
  gained = {}
  for what, unit in (('memory', 'MiB'), ('files', 'open files'), ('threads', 'threads')):
    values = [getattr(sample, what) for sample in samples]
    gained[what] = scripts.growth(values)
    thinned = [(round(sample.seconds, 1), round(value, 1)) for sample, value in list(zip(samples, values))[
        ::max(1, len(samples) // THINNED)]]
    yield row(name, what, unit, values, seconds_and_values=thinned)
    yield row(name, f'{what}, gained', unit, [gained[what]])
  yield row(name, 'time', 's', [samples[-1].seconds])
  most = {'memory': settings.most_growth, 'files': settings.most_handles, 'threads': settings.most_handles}
  grown = [f'{value:.1f} {"MiB of " if what == "memory" else ""}{what}' for what, value in gained.items()
           if value > most[what]]
  if grown:
    raise UserError(f'{name} gained {", ".join(grown)} within {samples[-1].seconds:.0f} s')


def make_pictures(folder, count, rng):
  """Writes smooth pictures of many sizes to a folder, and gives each many names, `count` in all."""
  files = []
  for number in range(min(count, PICTURES)):
    height, width = rng.integers(*SIDES, 2, endpoint=True).tolist()
    small = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8))
    files.append(os.path.join(folder, f'{number:07d}.jpg'))
    small.resize((width, height), Image.Resampling.BICUBIC).save(files[-1], quality=90)
  for number in range(len(files), count):
    os.link(files[number % len(files)], os.path.join(folder, f'{number:07d}.jpg'))


def soak_inference(setup, settings):
  """Soaks inference.py; yields rows. Arguments: a benchmark.Setup, a SoakSettings."""
  seconds = 60 * settings.minutes
  with tempfile.TemporaryDirectory(prefix='soak-') as folder:
    pictures = os.path.join(folder, 'pictures')
    os.mkdir(pictures)
    make_pictures(pictures, max(PICTURES, round(settings.pictures * seconds)), np.random.default_rng(0))
    words = script_command('inference.py', ckpt=setup.checkpoint, precision=setup.precisions[0], outputs='label',
                           output_dir=os.path.join(folder, 'labels'))
    samples = soaked([*words, pictures], seconds, ' images, ')
    done = len(os.listdir(os.path.join(folder, 'labels')))
  yield row('inference', 'pictures labeled', 'pictures', [done])
  yield from judged('inference', samples, settings)


def soak_training(setup, settings):
  """Soaks train.py, with evaluations, summaries and checkpoints; yields rows. Arguments: see `soak_inference`."""
  with tempfile.TemporaryDirectory(prefix='soak-') as folder:
    words = train_command(setup, setup.precisions[0], folder, max_steps=10**8, log_steps=10, summary_steps=20,
                          eval_steps=50, save_minutes=0.5)
    samples = soaked(words, 60 * settings.minutes, EVALUATED)  # which takes threads and memory of its own
  yield from judged('training', samples, settings)


def work(settings):
  """Soaks; `settings` is a SoakSettings."""
  benchmark.measure(settings, 'utils.studies.soak', {
      'inference': functools.partial(soak_inference, settings=settings),
      'training': functools.partial(soak_training, settings=settings)})


def main(argv=None):
  """Soaks; `argv` is the command line without the program's name, None for the process's own."""
  return run(work, SoakSettings, argv, text=__doc__)


if __name__ == '__main__':
  sys.exit(main())
