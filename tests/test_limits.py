"""Cores and memory that control groups leave, from folders made like Linux's /proc and /sys."""

import os

import pytest

from utils import limits
from utils.studies import scripts

pytestmark = pytest.mark.fast

GIB = 2**30


@pytest.fixture
def machine(tmp_path, monkeypatch):
  """`machine(files)` makes files under a folder and returns it: a machine of 8 cores and 16 GiB."""
  monkeypatch.setattr(limits, 'default_workers', lambda: 8)

  def make(files):
    for path, text in {'proc/meminfo': 'MemTotal:  16777216 kB\nMemFree: 1 kB\nMemAvailable:  4194304 kB\n',
                       **files}.items():
      (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
      (tmp_path / path).write_text(text)
    return str(tmp_path)

  return make


V2 = {'proc/self/cgroup': '0::/user.slice/job\n'}
V1 = {'proc/self/cgroup': '5:cpu,cpuacct:/docker/1a\n4:memory:/docker/1a\n1:name=systemd:/docker/1a\n'}
GROUP = 'sys/fs/cgroup'


@pytest.mark.parametrize('files, expected', [
    ({}, 8),
    ({**V2, f'{GROUP}/user.slice/job/cpu.max': '200000 100000\n'}, 2),
    ({**V2, f'{GROUP}/user.slice/job/cpu.max': 'max 100000\n', f'{GROUP}/user.slice/cpu.max': '150000 100000\n'}, 1.5),
    ({**V2, f'{GROUP}/cpu.max': '3200000 100000\n'}, 8),
    ({'proc/self/cgroup': '0::/../../elsewhere\n', f'{GROUP}/cpu.max': '50000 100000'}, 0.5),
    ({**V1, f'{GROUP}/cpu/docker/1a/cpu.cfs_quota_us': '-1', f'{GROUP}/cpu/docker/1a/cpu.cfs_period_us': '100000'}, 8),
    ({**V1, f'{GROUP}/cpu/cpu.cfs_quota_us': '300000', f'{GROUP}/cpu/cpu.cfs_period_us': '100000'}, 3),
    ({**V1, f'{GROUP}/cpu/cpu.cfs_quota_us': '300000', f'{GROUP}/cpu/cpu.cfs_period_us': '0'}, 8),
    ({**V2, f'{GROUP}/cpu.max': 'garbage'}, 8),
])
def test_cores_are_those_of_the_affinity_and_of_every_quota(machine, files, expected):
  assert limits.usable_cores(machine(files)) == expected


@pytest.mark.parametrize('files, expected', [
    ({}, None),
    ({**V2, f'{GROUP}/user.slice/job/memory.max': 'max\n'}, None),
    ({**V2, f'{GROUP}/user.slice/job/memory.max': f'{3 * GIB}\n', f'{GROUP}/user.slice/memory.max': str(GIB)}, GIB),
    ({**V1, f'{GROUP}/memory/memory.limit_in_bytes': '9223372036854771712\n'}, None),
    ({**V1, f'{GROUP}/memory/docker/1a/memory.limit_in_bytes': str(5 * GIB)}, 5 * GIB),
    ({**V1, f'{GROUP}/cpu/memory.limit_in_bytes': '1'}, None),
])
def test_memory_has_the_limit_of_the_tightest_group(machine, files, expected):
  root = machine(files)
  assert limits.memory_limit(root) == expected
  assert limits.memory(root) == (16 * GIB, 4 * GIB)


@pytest.mark.parametrize('text', ['', 'MemTotal: 5 kB\n', 'MemTotal:\nMemAvailable: 3 kB\n', 'nothing'])
def test_memory_that_is_not_told_is_an_error(machine, text):
  with pytest.raises(ValueError, match='^no /proc/meminfo$'):
    limits.memory(machine({'proc/meminfo': text}))


def test_disk_and_writing_are_those_of_the_nearest_folder(tmp_path):
  assert limits.free_disk(tmp_path / 'not/yet/there') > 0
  assert limits.writable(tmp_path) and list(tmp_path.iterdir()) == []
  (tmp_path / 'file').write_text('')
  assert not limits.writable(tmp_path / 'none') and not limits.writable(tmp_path / 'file')


def test_free_memory_goes_back_to_the_system():
  """Of pages before a block that is held, which glibc keeps."""
  blocks = [b'x' * 40_000 + bytes([number % 256]) for number in range(5000)]
  held = blocks.pop()
  blocks.clear()
  before, *_ = scripts.resident_memory(os.getpid())
  limits.return_free_memory()
  after, *_ = scripts.resident_memory(os.getpid())
  assert held and before - after > 100e6
