"""Rewritings of the training graph that give the same numbers in less time: which are used on which device."""

import dataclasses

from utils.cpu import cpu_flags


@dataclasses.dataclass(frozen=True)
class Rewritings:
  """The rewritings of a training graph; by default none.

  Attributes:
    products: which convolutions get their weight gradients as matrix products, see utils/training/gradients.py: 'none',
      'pointwise' for 1x1 kernels, or 'all'.
    fold_batch_norm: whether batch norms that keep their averages are folded into convolutions, see nets/batch_norm.py.
  """
  products: str = 'none'
  fold_batch_norm: bool = False


def rewritings(device):
  """Chooses the rewritings of the training graph by measurement.

  On CPUs, a weight gradient as a convolution takes oneDNN 2 to 5 times as long for 1x1 kernels in bfloat16 (tensorflow
  2.21, AMX, one core), and 1.1 times in float32; for larger kernels without AVX512 1 to 3.7 times (AMD EPYC, two cores,
  the layers of an FCN-2s). On GPUs the rewritings only add kernels to launch: a step of an FCN-8s on four images of
  360x480 takes 28.5 ms with them and 20.9 ms without, on sixteen 42.1 and 41.6 ms (H100, float32).

  Args:
    device: 'CPU' or 'GPU': on which the run computes, see session.device_type.

  Returns:
    a Rewritings.
  """
  if device == 'GPU':
    return Rewritings()
  flags = cpu_flags()
  all_kernels = 'avx2' in flags and 'avx512f' not in flags
  return Rewritings(products='all' if all_kernels else 'pointwise', fold_batch_norm=True)
