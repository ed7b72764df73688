"""What the CPU's list of features says."""

import pytest

from utils import cpu

pytestmark = pytest.mark.fast


@pytest.fixture
def cpuinfo(monkeypatch, tmp_path):
  """Makes the CPU one that /proc/cpuinfo describes by a text; None where there is no such file."""

  def describe(text):
    path = tmp_path / 'cpuinfo'
    if text is not None:
      path.write_text(text)
    monkeypatch.setattr(cpu, 'CPUINFO', str(path))
    cpu.cpu_flags.cache_clear()

  yield describe
  cpu.cpu_flags.cache_clear()


@pytest.mark.parametrize('text, expected', [
    ('processor\t: 0\nflags\t\t: fpu avx2 avx512_bf16\n\nprocessor\t: 1\nflags\t\t: fpu\n', True),
    ('model name\t: X amx_bf16\nflags\t\t: fpu avx2 amx_bf16\n', True),
    ('model name\t: X amx_bf16\nflags\t\t: fpu avx2 avx512f avx512_vnni\n', False),
    ('processor\t: 0\n', False),
    (None, False),
])
def test_bfloat16_needs_its_feature(cpuinfo, text, expected):
  cpuinfo(text)
  assert cpu.supports_bfloat16() == expected


@pytest.mark.parametrize('text, expected', [
    ('processor\t: 0\nmodel name\t: X: 2 GHz\nflags\t\t: fpu\n\nmodel name\t: Y\n', 'X: 2 GHz'), (None, '')])
def test_the_model_is_that_of_the_first_core(cpuinfo, text, expected):
  cpuinfo(text)
  assert cpu.cpu_model() == expected
