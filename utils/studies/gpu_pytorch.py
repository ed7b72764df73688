"""The parts of benchmark_gpu.py that measure PyTorch, by the functions of benchmark_pytorch.py.

Needs PyTorch. TensorFlow only builds the network, on the CPU. float16 trains without scaling of the loss, which would
only take more time.
"""

import functools

import numpy as np
import torch

from utils.errors import UserError
from utils.studies import benchmark_pytorch
from utils.studies.benchmark import GIB, in_turn
from utils.studies.gpu_parts import each, random_images
from utils.studies.results import row
from utils.studies.scripts import seconds

WARM_UP = 3  # calls before a CUDA graph is captured, as PyTorch's documentation advises


def set_up(settings):
  """Sets PyTorch's switches. Raises UserError if it sees no GPU and one is wanted."""
  if settings.device == 'GPU' and not torch.cuda.is_available():
    raise UserError(f'PyTorch {torch.__version__} sees no GPU here')
  torch.backends.cudnn.benchmark = True


def set_arithmetic(precision):
  """Switches TF32 for the whole process; returns the precision of benchmark_pytorch.py for an entry of ARITHMETIC."""
  torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision != 'float32'
  return 'float32' if precision == 'tf32' else precision


def graphed(function):
  """Captures what a function of no arguments does on the GPU; returns a function that does it again, as CUDA graph."""
  side = torch.cuda.Stream()
  side.wait_stream(torch.cuda.current_stream())
  with torch.cuda.stream(side):
    for _ in range(WARM_UP):
      function()
  torch.cuda.current_stream().wait_stream(side)
  graph = torch.cuda.CUDAGraph()
  with torch.cuda.graph(graph):
    result = function()

  def replay():
    graph.replay()
    return result

  return replay


def timed(setup, what, case, function, **more):
  """Yields a row with the seconds of a function; beside it images/s, the seconds of the first call, the memory."""
  if torch.cuda.is_available():
    torch.cuda.reset_peak_memory_stats()
  first = seconds(function)
  times = in_turn({'': function}, steps=setup.steps, warmup_steps=setup.warmup_steps)['']
  peak = {'GiB': torch.cuda.max_memory_allocated() / GIB} if torch.cuda.is_available() else {}
  yield row(what, case, 's', times, side='PyTorch', **more, beside={
      'images/s': more['batch'] / float(np.median(times)), 's the first': first, **peak})


def train(setup, networks, what, batch, precision, variant):
  """Yields a row with the seconds of a training step; `variant` holds 'eager' or 'compiled', and maybe 'CUDA graph'."""
  setup = setup.resized(batch)
  network, parameters = networks(batch, True)
  step = benchmark_pytorch.training_step(
      network, parameters, benchmark_pytorch.random_batch(setup), precision=set_arithmetic(precision),
      compiled='compiled' in variant, pretrained_scopes=setup.network.pretrained_scopes,
      **({'graphed': graphed} if 'CUDA graph' in variant else {}))
  yield from timed(setup, what, f'train: {precision}, batch {batch}, {variant}', step, task='train',
                   precision=precision, batch=batch)


def label(setup, networks, what, batch, precision, variant):
  """Yields a row with the seconds from a batch of pixels to labels, with folded batch norms."""
  network, _ = networks(batch, False)
  labels = benchmark_pytorch.labeler(network, set_arithmetic(precision), folded=True, compiled=variant == 'compiled')
  function = functools.partial(labels, random_images(batch, *setup.size))
  yield from timed(setup, what, f'inference: {precision}, batch {batch}, {variant}', function, task='inference',
                   precision=precision, batch=batch)


def cases(setup, settings, what, variant, precisions):
  """Yields the rows of training, as CUDA graph too where there is a GPU, and inference; see gpu_parts.each."""
  set_up(settings)
  networks = functools.cache(lambda batch, dropout: benchmark_pytorch.converted(setup, batch, dropout=dropout))
  found, graphs = {}, [f'{variant}, CUDA graph'] if settings.device == 'GPU' else []
  for task, batches in ((train, settings.batch_sizes), (label, settings.inference_batches)):
    for batch in batches:
      for precision in precisions:
        for name in [variant, *graphs] if task is train else [variant]:
          found[f'{task.__name__}, {precision}, batch {batch}, {name}'] = functools.partial(
              task, setup, networks, what, batch, precision, name)
  yield from each(found)


def measure(setup, settings):
  """Eager PyTorch in every arithmetic but float32 proper, in which no one trains on GPUs."""
  yield from cases(setup, settings, 'pytorch', 'eager', [one for one in settings.precisions if one != 'float32'])


def measure_compiled(setup, settings):
  """Compiled PyTorch, in bfloat16: its compilation takes minutes, so the time may be over before."""
  yield from cases(setup, settings, 'pytorch_compiled', 'compiled', ['bfloat16'])


PARTS = {'pytorch': measure, 'pytorch_compiled': measure_compiled}
