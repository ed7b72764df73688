"""What this machine's CPU can do."""

import functools

CPUINFO = '/proc/cpuinfo'  # Linux only


@functools.cache
def cpu_flags():
  """The CPU's features as Linux names them ('avx2', 'avx512_bf16'): a frozenset, empty where there is no telling."""
  try:
    with open(CPUINFO, encoding='utf-8') as file:
      line = next((line for line in file if line.startswith('flags')), '')
  except OSError:
    return frozenset()
  return frozenset(line.partition(':')[2].split())


def supports_bfloat16():
  """Whether this CPU multiplies bfloat16 in hardware (AVX512-BF16 or AMX); elsewhere it would only be slower."""
  return not cpu_flags().isdisjoint({'avx512_bf16', 'amx_bf16'})
