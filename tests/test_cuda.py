"""The driver and CUDA's libraries, from files made like Linux's and from a driver's library that is none."""

import json
import os

import programs
import pytest

from utils import cuda
from utils.doctor import driver, no_gpu

pytestmark = pytest.mark.fast

MISSING = 'cannot open shared object file: No such file or directory'


def made(root, files):
  """Makes files under a folder, and returns it."""
  for path, text in files.items():
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)
  return str(root)


class Driver:
  """libcuda.so.1 of a machine with GPUs: list of (name, GiB, (major, minor), bus)."""

  def __init__(self, gpus=(), runs=12080, code=0):
    self.gpus, self.runs, self.code = gpus, runs, code

  def cuDriverGetVersion(self, number):
    number._obj.value = self.runs

  def cuInit(self, flags):
    return self.code

  def cuDeviceGetCount(self, number):
    number._obj.value = len(self.gpus)

  def cuDeviceGet(self, device, index):
    device._obj.value = index

  def cuDeviceGetName(self, text, size, device):
    text.value = self.gpus[device.value][0].encode()[:size - 1]

  def cuDeviceTotalMem_v2(self, memory, device):
    memory._obj.value = self.gpus[device.value][1] * 2**30

  def cuDeviceGetAttribute(self, value, attribute, device):
    value._obj.value = self.gpus[device.value][2][{75: 0, 76: 1}[attribute]]

  def cuDeviceGetPCIBusId(self, text, size, device):
    text.value = self.gpus[device.value][3].encode()


def loader(opens, reason=MISSING):
  """`load(name)` that opens the libraries of a dict, and raises OSError with a reason for all others."""

  def load(name):
    if name in opens:
      return opens[name]
    raise OSError(f'{name}: {reason}')

  return load


@pytest.mark.parametrize('text, expected', [
    ('NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC 2023\nGCC version: 12.3.0\n',
     '535.104.05'),
    ('NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build  (dvs@u2204)\n', '580.65.06'),
    ('NVRM version: NVIDIA UNIX x86_64 Kernel Module  470.42  Tue\n', '470.42'),
    ('something else 1.2\n', ''), ('', ''),
])
def test_the_drivers_version_is_read(tmp_path, text, expected):
  assert driver.driver_version(made(tmp_path, {'proc/driver/nvidia/version': text})) == expected
  assert driver.driver_version(str(tmp_path / 'none')) == ''


@pytest.mark.parametrize('files, expected', [
    ({}, False),
    ({'dev/nvidia0': ''}, True),
    ({'sys/bus/pci/devices/0/vendor': '0x10de\n', 'sys/bus/pci/devices/0/class': '0x030200\n'}, True),
    ({'sys/bus/pci/devices/0/vendor': '0x10de\n', 'sys/bus/pci/devices/0/class': '0x040300\n'}, False),  # its sound
    ({'sys/bus/pci/devices/0/vendor': '0x1002\n', 'sys/bus/pci/devices/0/class': '0x030000\n'}, False),
])
def test_cards_are_seen_with_and_without_driver(tmp_path, files, expected):
  assert cuda.has_card(made(tmp_path, files)) == expected


@pytest.mark.parametrize('files, expected', [
    ({}, False), ({'.dockerenv': ''}, True), ({'run/.containerenv': ''}, True),
    ({'proc/1/cgroup': '0::/kubepods/pod7\n'}, True), ({'proc/1/cgroup': '0::/init.scope\n'}, False),
])
def test_containers_are_seen(tmp_path, files, expected):
  assert driver.in_container(made(tmp_path, files)) == expected


@pytest.mark.parametrize('value, expected', [(None, False), ('0', False), ('1,0', False), ('', True), ('-1', True)])
def test_gpus_may_be_hidden(value, expected):
  assert cuda.hidden({} if value is None else {'CUDA_VISIBLE_DEVICES': value}) == expected


def test_the_answer_of_nvidia_smi():
  text = ('NVIDIA H100 80GB HBM3, 00000000:65:00.0, 512, 580.65.06\nTesla T4, 00000000:AF:00.0, [N/A], 535.1\n'
          'NVIDIA-SMI has failed\n')
  assert driver.read_smi(text) == [
      {'name': 'NVIDIA H100 80GB HBM3', 'bus': '0000:65:00.0', 'used': 512, 'driver': '580.65.06'},
      {'name': 'Tesla T4', 'bus': '0000:af:00.0', 'used': None, 'driver': '535.1'}]
  assert driver.read_smi('') == []


@pytest.mark.parametrize('cuda_version, cudnn, expected', [
    ('12.5.1', '9', {'libcudart.so.12', 'libcufft.so.11', 'libcusolver.so.11', 'libcusparse.so.12', 'libcudnn.so.9'}),
    ('12', '9.3.0', {'libcublasLt.so.12', 'libcublas.so.12', 'libcudnn.so.9'}),
    ('11.8.0', '8', {'libcudart.so.11', 'libcublas.so.11', 'libcudnn.so.8'}),
])
def test_libraries_have_the_numbers_of_the_build(cuda_version, cudnn, expected):
  assert expected <= set(driver.needed_libraries(cuda_version, cudnn))


def test_libraries_are_searched_as_tensorflow_does(tmp_path):
  here = made(tmp_path, {'libcudnn.so.9': 'no library', 'libbad.so.1': 'no library'})
  inside = os.path.join(here, 'libcudnn.so.9')
  assert driver.failure('libcudart.so.12', load=loader({'libcudart.so.12': 1})) == ''
  assert driver.failure('libcudnn.so.9', [here], load=loader({inside: 1})) == ''
  assert driver.failure('libcudnn.so.9', ['/nowhere'], load=loader({inside: 1})) == 'not found'
  assert driver.failure('libbad.so.1', [here], load=loader({}, 'invalid ELF header')).endswith('invalid ELF header')
  assert 'file too short' in driver.failure('libempty.so.1', [made(tmp_path, {'libempty.so.1': ''})])


def test_the_driver_says_its_gpus():
  gpus = [('NVIDIA H100 80GB HBM3', 79, (9, 0), '0000:65:00.0'), ('Tesla T4', 15, (7, 5), '0000:AF:00.0')]
  found = driver.ask_driver(loader({driver.DRIVER: Driver(gpus)}))
  assert found == {'failure': '', 'cuda': 12080, 'code': 0, 'gpus': [
      {'name': 'NVIDIA H100 80GB HBM3', 'memory': 79 * 2**30, 'bus': '0000:65:00.0', 'capability': [9, 0]},
      {'name': 'Tesla T4', 'memory': 15 * 2**30, 'bus': '0000:af:00.0', 'capability': [7, 5]}]}
  assert driver.ask_driver(loader({driver.DRIVER: Driver(code=100)}))['gpus'] == []
  assert driver.ask_driver(loader({})) == {'failure': 'not found'}


def test_the_program_prints_what_does_not_open(monkeypatch):
  monkeypatch.setattr(driver, 'package_folders', lambda: [])
  opens = loader({driver.DRIVER: Driver(), 'libcudart.so.12': 1, 'libcufft.so.11': 1})
  monkeypatch.setattr(driver.failure, '__defaults__', ((), opens))
  monkeypatch.setattr(driver.ask_driver, '__defaults__', (opens,))
  result = programs.run(driver.main, '12.5.1', '9')
  found = json.loads(result.stdout)
  assert found['driver'] == {'failure': '', 'cuda': 12080, 'code': 0, 'gpus': []}
  assert found['libraries'] == dict.fromkeys(
      ['libcublas.so.12', 'libcublasLt.so.12', 'libcusolver.so.11', 'libcusparse.so.12', 'libcudnn.so.9'], 'not found')
  assert json.loads(programs.run(driver.main).stdout)['libraries'] == {}


ALONE = {'failure': 'not found'}
FINE = {'failure': '', 'cuda': 12080, 'code': 0, 'gpus': []}


@pytest.mark.parametrize('evidence, reason, remedy', [
    ({'driver': ALONE}, 'this machine has no NVIDIA card (libcuda.so.1: not found)', ''),
    ({'driver': ALONE, 'container': True}, 'this container has no NVIDIA card', '--gpus all'),
    ({'driver': ALONE, 'card': True}, 'an NVIDIA card is here, but no driver', 'driver, 525.60.13 or newer'),
    ({'driver': ALONE, 'card': True, 'container': True}, 'but no driver', '--gpus all'),
    ({'driver': ALONE, 'kernel': '580.65.06'}, "driver 580.65.06 runs, but its library does not open", 'LD_LIBRARY'),
    ({'driver': ALONE, 'smi': True, 'container': True}, 'its library does not open', 'compute,utility'),
    ({'driver': {**FINE, 'cuda': 11040}, 'kernel': '470.42'}, 'driver 470.42 is too old: it runs CUDA 11.4, and '
     'TensorFlow is built for 12.5.1', 'install driver 525.60.13'),
    ({'driver': {**FINE, 'code': 100}, 'hidden': True}, 'CUDA_VISIBLE_DEVICES hides', 'unset CUDA_VISIBLE_DEVICES'),
    ({'driver': {**FINE, 'code': 100}, 'container': True}, 'given no GPU', '--gpus all'),
    ({'driver': {**FINE, 'code': 803}}, 'cuInit: 803', 'restart the machine: the driver was updated'),
    ({'driver': {**FINE, 'code': 999}}, 'cuInit: 999, unknown error', 'nvidia-smi'),
    ({'driver': FINE, 'libraries': {'libcudnn.so.9': 'not found', 'libcufft.so.11': 'not found', 'libcudart.so.12':
                                    'invalid ELF header'}},
     'do not open: libcudnn.so.9, libcufft.so.11 (not found); libcudart.so.12 (invalid ELF header)',
     'pip install -r requirements-gpu.txt'),
    ({'driver': FINE, 'card': True, 'cuda': ''}, 'built without CUDA', 'uninstall tensorflow-cpu'),
    ({'driver': FINE, 'words': 'Ignoring visible gpu device (K40)'}, 'Ignoring visible gpu device (K40)', 'messages'),
    ({'driver': None, 'card': True}, "NVIDIA's driver does not answer", 'restart'),
])
def test_why_there_is_no_gpu(evidence, reason, remedy):
  said = no_gpu.why(no_gpu.Evidence(**evidence))
  assert reason in said[0] and remedy in said[1] and bool(remedy) == bool(said[1])
