"""Session settings that training and inference share."""

from utils.compat import tf
from utils.errors import UserError

PRECISIONS = ('float32', 'bfloat16')


def supports_bfloat16():
  """Whether this CPU multiplies bfloat16 in hardware (AVX512-BF16 or AMX); elsewhere it would only be slower."""
  try:
    with open('/proc/cpuinfo', encoding='utf-8') as file:
      flags = file.read()
  except OSError:
    return False
  return 'avx512_bf16' in flags or 'amx_bf16' in flags


def session_config(precision='float32', threads=0):
  """Returns the tf.ConfigProto of a session.

  Args:
    precision: 'float32', or 'bfloat16' to let TensorFlow's graph rewriter run convolutions and what lies between them
      in bfloat16; variables, and whatever needs the range of float32, stay float32.
    threads: of the pool that runs one op in parallel; 0 for one a core.

  Raises:
    UserError: for another precision, or bfloat16 on a CPU without it.
  """
  if precision not in PRECISIONS:
    raise UserError(f'--precision={precision}: valid are {", ".join(PRECISIONS)}')
  config = tf.ConfigProto(intra_op_parallelism_threads=threads)
  config.gpu_options.allow_growth = True
  if precision == 'bfloat16':
    if not supports_bfloat16():
      raise UserError('--precision=bfloat16: this CPU has no AVX512-BF16; use --precision=float32')
    config.graph_options.rewrite_options.auto_mixed_precision_onednn_bfloat16 = 1  # RewriterConfig.ON
  return config
