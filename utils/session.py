"""Session settings that training, evaluation and inference share, and their flags."""

from absl import flags

from utils.compat import tf
from utils.cpu import supports_bfloat16
from utils.errors import UserError

PRECISIONS = ('float32', 'bfloat16')

flags.disclaim_key_flags()  # so that --help lists what define_flags defines among the script's own


def define_flags():
  """Defines --precision, --gpu and --gpu_memory_fraction for a script; only the script reads them."""
  flags.DEFINE_enum('precision', 'float32', PRECISIONS, 'of convolutions; bfloat16 needs a CPU with AVX512-BF16')
  flags.DEFINE_string('gpu', None, 'numbers of the GPUs to use, as 0 or 0,1; none for the CPU; default: all')
  flags.DEFINE_float('gpu_memory_fraction', 0.0, "share of each GPU's memory to take; 0: what is needed", 0.0, 1.0)


def session_config(precision='float32', threads=0, *, gpu=None, gpu_memory_fraction=0.0):
  """Returns the tf.ConfigProto of a session.

  Args:
    precision: 'float32', or 'bfloat16' to let TensorFlow's graph rewriter run convolutions and what lies between them
      in bfloat16; variables, and whatever needs the range of float32, stay float32.
    threads: of the pool that runs one op in parallel; 0 for one a core.
    gpu: numbers of the GPUs to use, '0' or '0,1', counted from 0 among those that TensorFlow sees (so after
      CUDA_VISIBLE_DEVICES); 'none' for the CPU alone; None for all. TensorFlow settles this with the first session of a
      process that has a GPU: later ones have to ask for the same.
    gpu_memory_fraction: share of each GPU's memory that the process takes at once and never exceeds, up to 1; 0 to take
      memory as it is needed.

  Raises:
    UserError: for another precision, bfloat16 on a CPU without it, a GPU that is not there, or another fraction.
  """
  if precision not in PRECISIONS:
    raise UserError(f'--precision={precision}: valid are {", ".join(PRECISIONS)}')
  if not 0 <= gpu_memory_fraction <= 1:
    raise UserError(f'--gpu_memory_fraction={gpu_memory_fraction}: valid are 0 to 1')
  config = tf.ConfigProto(intra_op_parallelism_threads=threads)
  config.gpu_options.allow_growth = not gpu_memory_fraction
  config.gpu_options.per_process_gpu_memory_fraction = gpu_memory_fraction
  if gpu == 'none':
    config.device_count['GPU'] = 0
  elif gpu is not None:
    config.gpu_options.visible_device_list = _checked_gpus(gpu, len(tf.config.list_physical_devices('GPU')))
  if precision == 'bfloat16':
    if not supports_bfloat16():
      raise UserError('--precision=bfloat16: this CPU has no AVX512-BF16; use --precision=float32')
    config.graph_options.rewrite_options.auto_mixed_precision_onednn_bfloat16 = 1  # RewriterConfig.ON
  return config


def _checked_gpus(gpu, available):
  """Returns the numbers that `gpu` lists as TensorFlow wants them. Raises UserError if one is not there."""
  if not available:
    raise UserError(f'--gpu={gpu}: TensorFlow sees no GPU here; leave the flag out, or give --gpu=none')
  numbers = [number.strip() for number in gpu.split(',')]
  valid = [str(number) for number in range(available)]
  if not set(numbers) <= set(valid) or len(set(numbers)) < len(numbers):
    raise UserError(f'--gpu={gpu}: valid are {", ".join(valid)}, or several of them with commas between, and none')
  return ','.join(numbers)
