"""Name and features of this machine's CPU."""

import functools

CPUINFO = '/proc/cpuinfo'  # Linux only
# Features that decide how fast TensorFlow computes here, each faster than those before: names, and Linux's for them.
FEATURES = {'AVX2': 'avx2', 'AVX512': 'avx512f', 'AVX512-BF16': 'avx512_bf16', 'AMX': 'amx_bf16'}


def cpu_model():
  """The CPU's name; '' if unknown."""
  return _field('model name')


@functools.cache
def cpu_flags():
  """The CPU's features as Linux names them ('avx2', 'avx512_bf16'): a frozenset, empty if unknown."""
  return frozenset(_field('flags').split())


def cpu_features():
  """Names of FEATURES that this CPU has, a list; empty if unknown."""
  return [name for name, flag in FEATURES.items() if flag in cpu_flags()]


def supports_bfloat16():
  """Whether this CPU multiplies bfloat16 in hardware (AVX512-BF16 or AMX); in software it is slower than float32."""
  return not cpu_flags().isdisjoint({'avx512_bf16', 'amx_bf16'})


def _field(name):
  """A field of /proc/cpuinfo for the first core; '' if there is none."""
  try:
    with open(CPUINFO, encoding='utf-8') as file:
      line = next((line for line in file if line.startswith(name)), '')
  except OSError:
    return ''
  return line.partition(':')[2].strip()
