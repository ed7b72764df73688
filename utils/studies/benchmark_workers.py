"""Measures what training together costs: two processes of one core each against one process of one core.

    python -m utils.studies.benchmark_workers --data_dir=data/camvid

trains with train.py, as users start it, on one core alone; in two processes that know nothing of each other, on a core
each; and on two cores as two machines (--workers) with twice the batch. The three take turns: all processes of the
others stand still while one runs a block of steps. The efficiency is the time of a step alone over that of a step
together. What is lost between alone and apart is the machine's, whose cores share memory and more; what is lost between
apart and together is the cost of the gradients, which go from process to process over loopback. Needs Linux and two
cores.
"""

import contextlib
import dataclasses
import os
import subprocess
import sys
import tempfile

import numpy as np

from utils.errors import UserError
from utils.settings import flag, run
from utils.studies import benchmark, scripts
from utils.studies.results import row
from utils.workers import default_workers


@dataclasses.dataclass(frozen=True)
class WorkersSettings(benchmark.MeasureSettings):
  """Flags of this program; --batch_size is that of a process."""
  output: str = flag('benchmark-workers.json', 'JSON to write', path=True)
  what: tuple[str, ...] = flag(('efficiency',), 'parts to measure', choices=('efficiency',))

  def check(self):
    """Raises UserError if a setting is not valid, or there are not two cores."""
    super().check()
    if default_workers() < 2:
      raise UserError('two cores are needed, and this process may use one')


@contextlib.contextmanager
def trained(commands, launch=subprocess.Popen):
  """Starts processes, each on a core of its own; yields them, and kills them at the end of the block.

  Args:
    commands: list of commands; the output of the first is a pipe.
    launch: takes the place of subprocess.Popen in tests.
  """
  cores, processes = sorted(os.sched_getaffinity(0)), []
  try:
    for core, words in zip(cores, commands):
      processes.append(launch(words, text=True, stdout=subprocess.DEVNULL if processes else subprocess.PIPE,
                              stderr=subprocess.STDOUT))
      os.sched_setaffinity(processes[-1].pid, {core})
    yield processes
  finally:
    for process in processes:
      process.kill()
      process.wait()


def measure_efficiency(setup):
  """Seconds of a step of train.py alone and together, and their ratio, in each precision."""
  block = min(benchmark.BLOCK, setup.steps)
  for precision in setup.precisions:
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:

      def command(name, batch_size, *more, folder=folder, precision=precision):
        return [*benchmark.train_command(
            dataclasses.replace(setup, batch_size=batch_size), precision, os.path.join(folder, name),
            max_steps=10**6, log_steps=block, eval_steps=0, save_minutes=10**6, threads=1), *more]

      workers = f'--workers={",".join(scripts.free_addresses(2))}'
      commands = {'alone': [command('alone', setup.batch_size)],
                  'apart': [command(f'apart-{number}', setup.batch_size) for number in range(2)],
                  'together': [command('together', 2 * setup.batch_size, workers, f'--worker={number}')
                               for number in range(2)]}
      times = scripts.sides_in_turn(
          {name: stack.enter_context(trained(words)) for name, words in commands.items()}, block=block,
          blocks=setup.steps // block, warmup_blocks=-(-setup.warmup_steps // block))
    for case, values in times.items():
      yield row('efficiency', f'{precision}: step {case}', 's', values)
    for case in ('alone', 'apart'):
      yield row('efficiency', f'{precision}: {case} / together', 'ratio', np.divide(times[case], times['together']))


def work(settings):
  """Measures this machine; `settings` is a WorkersSettings."""
  benchmark.measure(settings, 'utils.studies.benchmark_workers', {'efficiency': measure_efficiency})


def main(argv=None):
  """Measures; `argv` is the command line without the program's name, None for the process's own."""
  return run(work, WorkersSettings, argv, text=__doc__)


if __name__ == '__main__':
  sys.exit(main())
