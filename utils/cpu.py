"""What this machine's CPU can do."""

import functools

CPUINFO = '/proc/cpuinfo'  # Linux only


def cpu_model():
  """The CPU's name; '' where there is no telling."""
  return _field('model name')


@functools.cache
def cpu_flags():
  """The CPU's features as Linux names them ('avx2', 'avx512_bf16'): a frozenset, empty where there is no telling."""
  return frozenset(_field('flags').split())


def supports_bfloat16():
  """Whether this CPU multiplies bfloat16 in hardware (AVX512-BF16 or AMX); elsewhere it would only be slower."""
  return not cpu_flags().isdisjoint({'avx512_bf16', 'amx_bf16'})


def _field(name):
  """What Linux says of the first core under a name; '' if nothing."""
  try:
    with open(CPUINFO, encoding='utf-8') as file:
      line = next((line for line in file if line.startswith(name)), '')
  except OSError:
    return ''
  return line.partition(':')[2].strip()
