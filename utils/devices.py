"""The device and the arithmetic of a run, in one line for its user. Imports no TensorFlow."""

import dataclasses

from utils.cpu import cpu_features, supports_bfloat16
from utils.limits import usable_cores

FLOAT16_SINCE = (7, 0)  # compute capability of the first GPUs (Volta) with matrix units for float16
TF32_SINCE = (8, 0)  # compute capability of the first GPUs (Ampere) that have TF32


@dataclasses.dataclass(frozen=True)
class Gpu:
  """A GPU as TensorFlow finds it.

  Attributes:
    number: TensorFlow's number, as of --gpu.
    name: the card's name; 'of unknown name' if TensorFlow does not say.
    capability: compute capability (major, minor); () if unknown.
  """
  number: int
  name: str
  capability: tuple = ()


def fastest_precision(gpu):
  """The --precision with which training is fastest on a device, by its features; docs/results.md has the measurements.

  Args:
    gpu: a Gpu; None for this CPU.
  """
  if gpu is not None:
    return 'float16' if gpu.capability >= FLOAT16_SINCE else 'float32'
  return 'bfloat16' if supports_bfloat16() else 'float32'


def device_line(gpus, precision, *, tf32=True, unused_card=False):
  """Describes what a run computes on and how: 'device: CPU, 2 cores, AVX512-BF16; precision float32'.

  Args:
    gpus: list of the Gpus; empty for this CPU.
    precision: value of --precision.
    tf32: whether TensorFlow may round the factors of float32 products on a GPU to TF32.
    unused_card: whether the machine has an NVIDIA card that TensorFlow does not find.
  """
  if not gpus:
    cores = usable_cores()
    where = ', '.join(['CPU', f'{cores:g} {"core" if cores == 1 else "cores"}', *cpu_features()[-1:]])
    if unused_card:
      where += ' (an NVIDIA card is here that TensorFlow does not find; python -m utils.doctor says why)'
  else:
    where = ', '.join(f'GPU {gpu.number} {gpu.name}' for gpu in gpus)
  rounded = gpus and precision == 'float32' and tf32 and gpus[0].capability >= TF32_SINCE
  return f'device: {where}; precision {precision}{" (products in TF32)" if rounded else ""}'
