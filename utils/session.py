"""Session settings of training, evaluation and inference: precision, GPUs and their memory."""

import dataclasses

from utils import cuda, devices
from utils.compat import tf
from utils.cpu import supports_bfloat16
from utils.errors import UserError
from utils.settings import Settings, flag

PRECISIONS = ('float32', 'bfloat16')


@dataclasses.dataclass(frozen=True)
class Device(Settings):
  """The arithmetic and the devices of a session.

  Attributes:
    precision: 'float32', or 'bfloat16' to let TensorFlow's graph rewriter run convolutions and the ops between them in
      bfloat16; variables, and ops that need the range of float32, stay float32.
    gpu: numbers of the GPUs to use, '0' or '0,1', counted from 0 among those that TensorFlow sees (so after
      CUDA_VISIBLE_DEVICES); 'none' for the CPU alone; None for all GPUs. TensorFlow fixes the choice with the first
      session of a process that has a GPU: later sessions must ask for the same GPUs.
    gpu_memory_fraction: share of each GPU's memory that the process allocates at once and never exceeds, up to 1; 0 to
      allocate memory as needed.
  """
  precision: str = flag(
      'float32', 'arithmetic of the convolutions: float32, or bfloat16 on a CPU with AVX512-BF16', choices=PRECISIONS,
      may_change=True)
  gpu: str | None = flag(
      None, 'numbers of the GPUs to make visible, as 0 or 0,1; none for the CPU alone; default: all', may_change=True)
  gpu_memory_fraction: float = flag(
      0.0, "share of each GPU's memory to allocate; 0: as needed", least=0, most=1, may_change=True)


def session_config(precision='float32', threads=0, *, gpu=None, gpu_memory_fraction=0.0):
  """Returns the tf.ConfigProto of a session.

  Args:
    precision: see Device.
    threads: size of the pool that runs an op in parallel; 0 for one thread per core.
    gpu: see Device.
    gpu_memory_fraction: see Device.

  Raises:
    UserError: if the CPU has no bfloat16, a GPU does not exist, or a value is not valid.
  """
  device = Device(precision, gpu, gpu_memory_fraction)
  device.check()
  config = tf.ConfigProto(intra_op_parallelism_threads=threads)
  config.gpu_options.allow_growth = not device.gpu_memory_fraction
  config.gpu_options.per_process_gpu_memory_fraction = device.gpu_memory_fraction
  if device.gpu == 'none':
    config.device_count['GPU'] = 0
  elif device.gpu is not None:
    config.gpu_options.visible_device_list = _checked_gpus(device.gpu, len(tf.config.list_physical_devices('GPU')))
  if device.precision == 'bfloat16':
    if not supports_bfloat16():
      raise UserError('--precision=bfloat16: this CPU has no AVX512-BF16; use --precision=float32')
    config.graph_options.rewrite_options.auto_mixed_precision_onednn_bfloat16 = 1  # RewriterConfig.ON
  return config


def found_gpus():
  """GPUs that TensorFlow finds, a list of devices.Gpu."""
  found = []
  for number, device in enumerate(tf.config.list_physical_devices('GPU')):
    try:
      details = tf.config.experimental.get_device_details(device)
    except (ValueError, RuntimeError):
      details = {}
    found.append(devices.Gpu(
        number, details.get('device_name', 'of unknown name'), tuple(details.get('compute_capability') or ())))
  return found


def device_line(device):
  """The line that says what sessions of a Device compute on: the first of its GPUs, or the CPU.

  Args:
    device: a Device that `session_config` takes.
  """
  gpus = [] if device.gpu == 'none' else found_gpus()
  if gpus and device.gpu is not None:
    gpus = [gpus[int(number)] for number in device.gpu.split(',')]
  return devices.device_line(
      gpus[0] if gpus else None, device.precision, tf32=tf.config.experimental.tensor_float_32_execution_enabled(),
      unused_card=not gpus and device.gpu != 'none' and cuda.unused_card())


def _checked_gpus(gpu, available):
  """Returns the list of GPU numbers `gpu` in TensorFlow's form. Raises UserError if a GPU does not exist."""
  if not available:
    raise UserError(f'--gpu={gpu}: TensorFlow sees no GPU here; leave the flag out, or give --gpu=none')
  numbers = [number.strip() for number in gpu.split(',')]
  valid = [str(number) for number in range(available)]
  if not set(numbers) <= set(valid) or len(set(numbers)) < len(numbers):
    raise UserError(f'--gpu={gpu}: valid are {", ".join(valid)}, or several of these separated by commas, and none')
  return ','.join(numbers)
