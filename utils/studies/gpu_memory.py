"""The part `memory` of benchmark_gpu.py: what a training takes of the card's memory, beside its bare step.

What counts is the card's own account (nvidia-smi): TensorFlow's pool, and outside of it CUDA's context, the handles of
cuDNN and cuBLAS and the code of the kernels. With --device=CPU it is the peak of a process's resident memory.
"""

import os
import subprocess
import tempfile
import time

from utils.errors import UserError
from utils.progress import STEP_LINE
from utils.session import chosen_precision
from utils.studies import benchmark, benchmark_gpu, gpu_parts
from utils.studies.benchmark import GIB, MIB, train_command
from utils.studies.results import row

FRACTION = 0.2  # of --gpu_memory_fraction


def training_takes(words, settings, *, steps, launch=subprocess.Popen, taken=benchmark_gpu.taken, sleep=time.sleep):
  """Bytes that a training takes of the card's memory after some steps, beyond what others took before.

  Args:
    words: the command of train.py; with --log_steps=1.
    settings: a GpuSettings.
    steps: number of steps.
    launch: takes the place of subprocess.Popen in tests.
    taken: takes the place of benchmark_gpu.taken in tests.
    sleep: function that waits for some seconds.

  Raises:
    UserError: if the training ends before; gives its last line.
  """
  before, last = taken(settings, None), 'it printed nothing'
  with launch(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
    try:
      for line in process.stdout:
        if line.startswith(f'{STEP_LINE}{steps}/'):
          found = taken(settings, process.pid) - before
          break
        last = line.strip() or last
      else:
        raise UserError(f'train.py ended too early: {last}')
    finally:
      process.kill()
  sleep(1.0)  # the driver takes the memory back after the process has ended
  return found


def measure_memory(setup, settings, *, training_takes=training_takes):
  """Memory of train.py, with memory as needed and with a share of the card's, and of the bare step.

  Args:
    setup: a benchmark.Setup.
    settings: a GpuSettings.
    training_takes: takes the place of `training_takes` in tests.

  Yields:
    rows; beside them the share of the card's memory, and for the bare step the peak of TensorFlow's operations.
  """
  precision, steps = chosen_precision('auto'), 1 + setup.warmup_steps
  total = MIB * float(benchmark_gpu.nvidia_smi(['memory.total'], settings).get('memory.total', 0))
  share = lambda size: {'of the card': size / total} if total else {}

  def train(**options):
    with tempfile.TemporaryDirectory() as folder:
      words = train_command(setup, precision, os.path.join(folder, 'run'), max_steps=10**6, log_steps=1, eval_steps=0,
                            **options)
      return training_takes(words, settings, steps=steps)

  def row_of(case, size, **beside):
    return row('memory', f'batch {setup.batch_size}, {precision}: {case}', 'GiB', [size / GIB],
               beside={**share(size), **beside})

  yield row_of('train.py', train())
  size = train(gpu_memory_fraction=FRACTION)
  yield row_of(f'train.py --gpu_memory_fraction={FRACTION:g}', size,
               **({'GiB beyond the share': (size - FRACTION * total) / GIB} if total else {}))
  before = benchmark_gpu.taken(settings, os.getpid())
  with gpu_parts.peak_memory() as peak, benchmark.bare_step(setup, precision) as step:
    for _ in range(steps):
      step()
    yield row_of('bare step', benchmark_gpu.taken(settings, os.getpid()) - before,
                 **{f'{unit} in TensorFlow': value for unit, value in peak().items()})


PARTS = {'memory': measure_memory}
