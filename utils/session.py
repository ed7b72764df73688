"""Session settings of training, evaluation and inference: precision, GPUs and their memory."""

import dataclasses

from utils import cuda, devices
from utils.compat import tf
from utils.cpu import supports_bfloat16
from utils.errors import UserError
from utils.settings import Settings, flag

PRECISIONS = ('float32', 'bfloat16', 'float16')
_XLA_IS_FASTER = ()  # of 'CPU' and 'GPU': where --xla=auto compiles the training step
_REWRITERS = {'bfloat16': 'auto_mixed_precision_onednn_bfloat16', 'float16': 'auto_mixed_precision'}


@dataclasses.dataclass(frozen=True)
class Device(Settings):
  """The arithmetic and the devices of a session.

  Attributes:
    precision: 'float32'; 'bfloat16' (CPUs) or 'float16' (GPUs) to let TensorFlow's graph rewriter run convolutions and
      the ops between them in it, where variables, and ops that need the range of float32, stay float32; 'auto', see
      `chosen_precision`.
    gpu: numbers of the GPUs to use, '0' or '0,1', counted from 0 among those that TensorFlow sees (so after
      CUDA_VISIBLE_DEVICES); 'all'; 'none' for the CPU alone; None for the first GPU, or the CPU where there is none.
      TensorFlow fixes the choice with the first session of a process that has a GPU: later sessions must ask for the
      same GPUs.
    gpu_memory_fraction: share of each GPU's memory that the process allocates at once and never exceeds, up to 1; 0 to
      allocate memory as needed.
  """
  precision: str = flag(
      'float32', 'arithmetic of the convolutions: float32, bfloat16 on CPUs with AVX512-BF16, float16 on GPUs, or auto',
      choices=(*PRECISIONS, 'auto'), may_change=True)
  gpu: str | None = flag(
      None, 'numbers of the GPUs to use, as 0 or 0,1; all; none for the CPU alone; default: the first', may_change=True)
  gpu_memory_fraction: float = flag(
      0.0, "share of each GPU's memory to allocate; 0: as needed", least=0, most=1, may_change=True)

  @property
  def chosen(self):
    """The precision that `precision` means on the device, see `chosen_precision`."""
    return chosen_precision(self.precision, self.gpu)


def device_type(gpu=None):
  """'GPU' if a session with this --gpu (see Device) computes on GPUs, else 'CPU'."""
  return 'GPU' if gpu != 'none' and tf.config.list_physical_devices('GPU') else 'CPU'


def device_names(gpu=None):
  """TensorFlow's names of the devices on which a session with this --gpu (see Device) computes."""
  if device_type(gpu) == 'CPU':
    return ('/device:CPU:0',)
  return tuple(f'/device:GPU:{number}' for number in range(len(gpu_numbers(gpu))))


def chosen_precision(precision, gpu=None):
  """The precision, one of PRECISIONS, that a --precision (see Device) means on the device of a --gpu.

  'auto' is devices.fastest_precision.

  Raises:
    UserError: if the device has no such precision.
  """
  on_gpu, fastest = device_type(gpu) == 'GPU', devices.fastest_precision(_first_gpu(gpu))
  if precision == 'auto':
    return fastest
  if precision == 'float16' and not on_gpu:
    raise UserError(f'--precision=float16: only for GPUs, and this runs on the CPU; use --precision={fastest}')
  if precision == 'bfloat16' and on_gpu:
    raise UserError("--precision=bfloat16: TensorFlow's graph rewriter has it on CPUs alone; use --precision=float16")
  if precision == 'bfloat16' and not supports_bfloat16():
    raise UserError('--precision=bfloat16: this CPU has no AVX512-BF16; use --precision=float32')
  return precision


def chosen_xla(xla, gpu=None):
  """Whether XLA compiles the training step by an --xla (see TrainSettings) on the device of a --gpu.

  'auto' compiles where it is measured to be faster (docs/gpu.md). On CPUs it is not: a step of an FCN-8s takes 1.3
  times the CPU time, one of ENet 0.5 times at 64x64 pixels and 1.5 times at 256x256. On GPUs nothing is measured yet.

  Args:
    xla: 'off', 'on' or 'auto'.
    gpu: see Device.
  """
  return xla == 'on' or xla == 'auto' and device_type(gpu) in _XLA_IS_FASTER


def cpu_config(**options):
  """The tf.ConfigProto of a session on the CPU alone, as for files and data; `options` are its further fields.

  The first session of a process that has a GPU fixes how its memory is allocated, for all later ones: so every session
  has its config from here or from `session_config`.
  """
  return tf.ConfigProto(device_count={'GPU': 0}, **options)


def session_config(precision='float32', threads=0, *, gpu=None, gpu_memory_fraction=0.0, tf32=False, once=False,
                   xla=False):
  """Returns the tf.ConfigProto of a session.

  Args:
    precision: see Device.
    threads: size of the pool that runs an op in parallel; 0 for one thread per core.
    gpu: see Device.
    gpu_memory_fraction: see Device.
    tf32: whether products of float32 may round their factors to 10 bits on GPUs that have TF32. In one process, the
      latest call decides for all sessions.
    once: whether TensorFlow optimizes graphs for the CPU in one round instead of two, see `_spare_optimizer`.
    xla: whether the graph has a step that XLA compiles (utils/training/compiled.py).

  Raises:
    UserError: if the device has no such precision, a GPU does not exist, or a value is not valid.
  """
  device = Device(precision, gpu, gpu_memory_fraction)
  device.check()
  config = tf.ConfigProto(intra_op_parallelism_threads=threads)
  config.gpu_options.allow_growth = not device.gpu_memory_fraction
  config.gpu_options.per_process_gpu_memory_fraction = device.gpu_memory_fraction
  gpus = gpu_numbers(gpu)
  if device.gpu == 'none':
    config.device_count['GPU'] = 0
  elif gpus:
    config.gpu_options.visible_device_list = ','.join(map(str, gpus))
  chosen = chosen_precision(precision, gpu)
  if chosen != 'float32':
    setattr(config.graph_options.rewrite_options, _REWRITERS[chosen], 1)  # RewriterConfig.ON
  if xla:  # which has no kernels for the ops by which the memory optimizer replaces large sums
    config.graph_options.rewrite_options.memory_optimization = 1  # RewriterConfig.NO_MEM_OPT
  if device_type(gpu) == 'GPU':
    tf.config.experimental.enable_tensor_float_32_execution(tf32)
  else:
    _spare_optimizer(config.graph_options.rewrite_options, once)
  return config


def _spare_optimizer(options, once):
  """Switches off what TensorFlow's graph optimizer does without a gain on CPUs.

  A start spends more time in the optimizer than in anything else but Python: it goes over every set of fetches, also
  the initialization and the saving of a thousand variables, in two rounds of a dozen passes. Five of these change
  nothing on CPUs: layouts of GPUs, memory that could be swapped out or shared, loops, kernels chosen by device, and
  MLIR's normal form. Without them and in one round, the first step of an ENet takes 0.47 of the CPU time and the
  initialization 0.56 (Inception v3: 0.55 and 0.67); eight steps in float32 and in bfloat16 leave the same weights, to
  the bit, in the same time. Of a graph with constant weights the second round is needed in bfloat16: it converts them
  once instead of in every call, which takes 1.37 times as long.

  Args:
    options: the tf.ConfigProto's RewriterConfig, changed in place.
    once: whether one round is enough.
  """
  options.layout_optimizer = options.loop_optimization = options.implementation_selector = options.OFF
  options.memory_optimization, options.disable_tfg_optimizer = options.NO_MEM_OPT, True
  if once:
    options.meta_optimizer_iterations = options.ONE


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
  """The line that says what sessions of a Device compute on: its GPUs, or the CPU.

  Args:
    device: a Device that `session_config` takes.
  """
  numbers, found = gpu_numbers(device.gpu), found_gpus()
  return devices.device_line(
      [found[number] for number in numbers], device.chosen,
      tf32=tf.config.experimental.tensor_float_32_execution_enabled(),
      unused_card=not numbers and device.gpu != 'none' and cuda.unused_card())


def _first_gpu(gpu):
  """The first devices.Gpu of a --gpu that session_config takes; None for the CPU."""
  numbers = gpu_numbers(gpu)
  return found_gpus()[numbers[0]] if numbers else None


def gpu_numbers(gpu=None):
  """Numbers of the GPUs that a --gpu (see Device) means, a list, empty for the CPU.

  Raises:
    UserError: if there is no such GPU.
  """
  available = [str(number) for number in range(len(tf.config.list_physical_devices('GPU')))]
  if gpu == 'none' or (gpu is None and not available):
    return []
  if not available:
    raise UserError(f'--gpu={gpu}: TensorFlow sees no GPU here; leave the flag out, or give --gpu=none')
  numbers = {None: available[:1], 'all': available}.get(gpu) or [number.strip() for number in gpu.split(',')]
  if not set(numbers) <= set(available) or len(set(numbers)) < len(numbers):
    raise UserError(f'--gpu={gpu}: valid are {", ".join(available)}, or several of these separated by commas, all and '
                    'none')
  return [int(number) for number in numbers]
