"""What python -m utils.doctor says, of answers made up and of this machine."""

import email.message
import importlib.metadata
import json
import re
import subprocess
import sys
import time

import programs
import pytest

from utils import cpu, cuda, devices, limits
from utils.doctor import __main__ as doctor
from utils.doctor import driver, findings, requirements
from utils.doctor.facts import Facts, answer, gather, started
from utils.files import ROOT

pytestmark = pytest.mark.fast

BUILD = {'is_cuda_build': True, 'cuda_version': '12.5.1', 'cudnn_version': '9',
         'cuda_compute_capabilities': ['sm_60', 'sm_70', 'sm_80', 'sm_89', 'compute_90']}
H100 = {'number': 0, 'name': 'NVIDIA H100 80GB HBM3', 'capability': [9, 0]}
REPORT = {'version': '2.21.0', 'build': BUILD, 'gpus': [], 'tf32': True}
ASKED = {'failure': '', 'cuda': 13000, 'code': 0, 'gpus': [
    {'name': 'NVIDIA H100 80GB HBM3', 'memory': 79 * 2**30, 'bus': '0000:65:00.0', 'capability': [9, 0]}]}


def facts(**changes):
  return Facts(**{'report': REPORT, 'driver': {'failure': 'not found'}, 'libraries': {}, 'smi': [], **changes})


class Gone:
  """A process that has ended, as subprocess.Popen."""

  def __init__(self, stdout='', stderr='', returncode=0):
    self.texts, self.returncode = (stdout, stderr), returncode

  def communicate(self, timeout):
    return self.texts


@pytest.fixture
def starts(monkeypatch):
  """`starts(tensorflow, cuda, smi)` returns a `start` whose processes are those given, and the commands started."""

  def make(*processes):
    commands = []

    def start(command, **environment):
      commands.append(command)
      return processes[('utils.doctor.tensorflow_report' in command, 'utils.doctor.driver' in command,
                        command == driver.SMI).index(True)]

    return start, commands

  return make


def test_answers_of_all_processes_are_put_together(starts):
  start, commands = starts(
      Gone('noise\n' + json.dumps(REPORT), "x dso_loader.cc:144] Could not load dynamic library 'libcudnn.so.9'; "
           'dlerror: libcudnn.so.9: no such file; LD_LIBRARY_PATH: /a\nmore\n'),
      Gone(json.dumps({'driver': ASKED, 'libraries': {'libcudnn.so.9': 'not found'}})),
      Gone('NVIDIA H100 80GB HBM3, 00000000:65:00.0, 512, 580.65.06\n'))
  found = gather(start)
  assert found.report == REPORT and found.driver == ASKED and found.libraries == {'libcudnn.so.9': 'not found'}
  assert found.smi[0]['used'] == 512 and found.gpus == []
  assert found.words == "Could not load dynamic library 'libcudnn.so.9'  dlerror: libcudnn.so.9: no such file"
  assert commands[-1][-2:] == ['12.5.1', '9']


def test_with_a_gpu_no_library_is_tried(starts):
  start, commands = starts(Gone(json.dumps({**REPORT, 'gpus': [H100]})), Gone(json.dumps({'driver': ASKED})),
                           FileNotFoundError(2, 'No such file or directory'))
  found = gather(start)
  assert commands[-1][-1] == 'utils.doctor.driver' and found.smi == [] and found.libraries == {}
  assert found.gpus == [devices.Gpu(0, 'NVIDIA H100 80GB HBM3', (9, 0))]


@pytest.mark.parametrize('process, expected', [
    (Gone('{"error": "ImportError: no absl"}', '', 1), 'ImportError: no absl'),
    (Gone('', '', -4), 'it needs instructions that this CPU lacks (AVX)'),
    (Gone('', 'first\nSegmentation\n', -11), 'killed by signal 11: Segmentation'),
    (Gone('[1]', '', 0), ''),
    (Gone('not JSON', 'No module named x', 1), 'exit code 1: No module named x'),
])
def test_a_tensorflow_that_does_not_start_is_missing_for_training(starts, process, expected):
  start, _ = starts(process, Gone(json.dumps({'driver': {'failure': 'not found'}})), Gone())
  found = gather(start)
  assert found.report == {'error': expected} and f'does not start: {expected}' in findings.tensorflow_text(found)
  assert any(expected in need and need.startswith('TensorFlow (') for need in findings.missing_for_training(found))
  assert findings.gpu_texts(found) == [('GPU', 'unknown: TensorFlow does not start')]
  assert 'train.py' not in dict(findings.rows_of(found))


@pytest.mark.parametrize('card, file', [(False, 'requirements.txt'), (True, 'requirements-gpu.txt')])
def test_what_to_install_depends_on_the_card(monkeypatch, card, file):
  monkeypatch.setattr(cuda, 'has_card', lambda: card)
  [need] = findings.missing_for_training(facts(report={'error': 'broken'}))
  assert need == f'TensorFlow (broken; pip install -r {file})'


def test_a_program_that_hangs_is_left_behind():
  start = time.monotonic()
  process = started([sys.executable, '-c', 'import time; time.sleep(60)'])
  assert answer(process, 0.2) == ('', '', 'no answer within 0.2 s')
  assert time.monotonic() - start < 5
  assert process.wait(10) == -9
  assert answer(started(['/no/such/program']), 1) == ('', '', 'No such file or directory')


def test_the_environment_of_a_program_is_this_one_and_more(monkeypatch):
  monkeypatch.setenv('BEFORE', 'b')
  code = 'import os; print(os.environ["BEFORE"], os.environ["MORE"])'
  assert answer(started([sys.executable, '-c', code], MORE='m'), 20) == ('b m\n', '', '')


def test_a_gpu_in_one_line():
  smi = driver.read_smi('NVIDIA H100 80GB HBM3, 00000000:65:00.0, 512, 580.65.06\n')
  rows = findings.gpu_texts(facts(report={**REPORT, 'gpus': [H100]}, driver=ASKED, smi=smi))
  assert rows == [('GPU', '0: NVIDIA H100 80GB HBM3, 79.0 GiB (0.5 in use), compute capability 9.0')]
  two = [H100, {**H100, 'number': 1, 'capability': []}]
  rows = findings.gpu_texts(facts(report={**REPORT, 'gpus': two}, driver=None))
  assert [text for _, text in rows] == ['0: NVIDIA H100 80GB HBM3, compute capability 9.0',
                                        '1: NVIDIA H100 80GB HBM3, compute capability unknown']


@pytest.mark.parametrize('capability, expected', [
    ((9, 0), ''), ((8, 6), ''), ((7, 5), ''), ((6, 1), ''), ((), ''),
    ((12, 0), 'newer than this TensorFlow'), ((10, 3), 'up to half an hour'), ((5, 2), r'kernels for \(6.0\)'),
])
def test_gpus_without_ready_kernels(capability, expected):
  text = findings.kernels_text(capability, BUILD)
  assert re.search(expected, text) and bool(text) == bool(expected)


@pytest.mark.parametrize('driver, smi, files, expected', [
    ({'failure': 'not found'}, [], {}, 'none'),
    (ASKED, [], {}, 'of unknown version, runs CUDA 13.0'),
    (ASKED, [], {'proc/driver/nvidia/version': 'NVIDIA UNIX x86_64 Kernel Module  580.65.06  Sat\n'},
     '580.65.06, runs CUDA 13.0'),
    ({'failure': 'not found'}, [{'driver': '535.1'}], {}, '535.1'),
    (None, [], {}, 'unknown: no answer from the driver'),
])
def test_the_driver_in_a_line(tmp_path, driver, smi, files, expected):
  for path, text in files.items():
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).write_text(text)
  assert findings.driver_text(facts(driver=driver, smi=smi), str(tmp_path)) == expected


def test_without_gpu_the_reason_the_remedy_and_the_libraries(tmp_path, monkeypatch):
  monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
  libraries = {'libcudart.so.12': 'not found'}
  rows = findings.gpu_texts(facts(libraries=libraries), str(tmp_path))
  assert [text for _, text in rows] == [
      'none found: this machine has no NVIDIA card (libcuda.so.1: not found)', 'training runs on the CPU',
      'CUDA: libcudart.so.12 (not found); pip install -r requirements-gpu.txt']
  (tmp_path / 'dev').mkdir()
  (tmp_path / 'dev/nvidia0').write_text('')
  rows = findings.gpu_texts(facts(driver=ASKED, libraries=libraries), str(tmp_path))
  assert [text for _, text in rows] == ['none found: libraries of CUDA do not open: libcudart.so.12 (not found)',
                                        'remedy: pip install -r requirements-gpu.txt']
  built = facts(report={**REPORT, 'build': {'is_cuda_build': False}}, driver=ASKED)
  assert 'built without CUDA' in findings.gpu_texts(built, str(tmp_path))[0][1]
  assert findings.tensorflow_text(built).startswith('2.21.0, built without CUDA; Python 3')
  hanging = findings.gpu_texts(facts(report={'error': 'no answer within 120 s'}, driver=None), str(tmp_path))
  assert 'does not answer' in hanging[0][1] and 'restart' in hanging[1][1]


def test_a_probe_that_fails_is_said_and_the_others_go_on(monkeypatch):
  def fails(*_):
    raise ValueError('no\nsuch thing')

  for module, name in ((limits, 'memory'), (cpu, 'cpu_model'), (requirements, 'extras')):
    monkeypatch.setattr(module, name, fails)
  rows = dict(findings.rows_of(facts()))
  assert rows['memory'] == rows['CPU'] == rows['packages'] == r'unknown: no\nsuch thing'
  assert rows['TensorFlow'].startswith('2.21.0') and 'GiB free' in rows['disk'] and '; precision' in rows['train.py']


@pytest.mark.parametrize('gpu, flags, expected', [
    (None, {'avx2'}, 'float32'), (None, {'avx2', 'avx512f', 'avx512_bf16'}, 'bfloat16'),
    (None, {'amx_bf16'}, 'bfloat16'), (devices.Gpu(0, 'T4', (7, 5)), {'avx512_bf16'}, 'float16'),
    (devices.Gpu(0, 'P100', (6, 0)), {'avx512_bf16'}, 'float32'), (devices.Gpu(0, 'unknown'), set(), 'float32'),
])
def test_the_fastest_precision_is_that_of_the_device(monkeypatch, gpu, flags, expected):
  monkeypatch.setattr(cpu, 'cpu_flags', lambda: frozenset(flags))
  assert devices.fastest_precision(gpu) == expected


@pytest.mark.parametrize('arguments, cores, flags, expected', [
    (([], 'float32'), 2, {'avx2', 'avx512f', 'avx512_bf16'}, 'CPU, 2 cores, AVX512-BF16; precision float32'),
    (([], 'bfloat16'), 1, {'amx_bf16', 'avx2'}, 'CPU, 1 core, AMX; precision bfloat16'),
    (([], 'float32'), 1.5, set(), 'CPU, 1.5 cores; precision float32'),
    (([devices.Gpu(1, 'NVIDIA H100', (9, 0))], 'float32'), 2, set(),
     'GPU 1 NVIDIA H100; precision float32 (products in TF32)'),
    (([devices.Gpu(0, 'Tesla T4', (7, 5)), devices.Gpu(2, 'Tesla T4', (7, 5))], 'float32'), 2, set(),
     'GPU 0 Tesla T4, GPU 2 Tesla T4; precision float32'),
    (([devices.Gpu(0, 'of unknown name')], 'bfloat16'), 2, set(), 'GPU 0 of unknown name; precision bfloat16'),
])
def test_the_line_of_a_device(monkeypatch, arguments, cores, flags, expected):
  monkeypatch.setattr(cpu, 'cpu_flags', lambda: frozenset(flags))
  monkeypatch.setattr(devices, 'usable_cores', lambda: cores)
  assert devices.device_line(*arguments) == f'device: {expected}'


def test_a_card_that_tensorflow_does_not_find_is_said():
  assert 'python -m utils.doctor says why); precision' in devices.device_line([], 'float32', unused_card=True)


def write(folder, **files):
  for name, text in files.items():
    (folder / f'requirements{"-" if name != "base" else ""}{name if name != "base" else ""}.txt').write_text(text)


def test_requirements_are_read_with_what_they_include(monkeypatch, tmp_path):
  write(tmp_path, base='# all\nnumpy==1.0  # old\n\nno_such-package>=2; python_version >= "3"\n--no-index\n',
        extra='-r requirements.txt\nno_other_package==1; python_version < "3"\nabsent[x]==3\n')
  monkeypatch.setattr(requirements, 'ROOT', str(tmp_path))
  assert requirements.extras() == ['extra']
  needed = requirements.requirements('extra')
  assert [requirement.name for requirement in needed] == ['numpy', 'no_such-package', 'absent']
  assert requirements.lacking(needed) == (
      ['no_such-package', 'absent'], [f'numpy {importlib.metadata.version("numpy")} (==1.0 wanted)'])
  assert requirements.lacking([]) == ([], [])


def test_an_extra_of_a_package_asks_for_what_that_lists(monkeypatch, tmp_path):
  listed = ['always', 'cuda-part<3,>=2; extra == "and-cuda"', 'other; extra == "docs"']
  monkeypatch.setattr(importlib.metadata, 'requires', lambda name: listed)
  monkeypatch.setattr(requirements, 'ROOT', str(tmp_path))
  write(tmp_path, gpu='tensorflow[and-cuda]\n', plain='tensorflow\n')
  names = {extra: [need.name for need in requirements.requirements(extra)] for extra in requirements.extras()}
  assert names == {'gpu': ['tensorflow', 'cuda-part'], 'plain': ['tensorflow']}


def test_an_installation_asks_in_its_metadata(monkeypatch):
  needs = {'fcn-googlenet': [
      'numpy>=1', 'none; python_version < "3"', 'cv; extra == "draw"', 'fcn-googlenet[coco]; extra == "draw"',
      'old; python_version < "3" and extra == "coco"', 'coco-tools; extra == "coco"']}
  extras = email.message.Message()
  for name in ('draw', 'coco'):
    extras['Provides-Extra'] = name
  monkeypatch.setattr(importlib.metadata, 'requires', needs.__getitem__)
  monkeypatch.setattr(importlib.metadata, 'metadata', lambda name: extras)
  monkeypatch.setattr(requirements, 'PACKAGE', 'fcn_googlenet')
  assert requirements.extras() == ['coco', 'draw']
  assert {extra: [need.name for need in requirements.requirements(extra)] for extra in ('', 'coco', 'draw')} == {
      '': ['numpy'], 'coco': ['coco-tools'], 'draw': ['cv', 'fcn-googlenet', 'coco-tools']}


def test_packages_of_every_extra(monkeypatch, tmp_path):
  monkeypatch.setattr(requirements, 'ROOT', str(tmp_path))
  write(tmp_path, base='numpy\nno_base\n', crf='numpy==0.1\n', coco='numpy\n', gpu='-r requirements.txt\nno_cuda\n',
        fonts='numpy; python_version < "3"\n', dev='-r requirements.txt\n')
  version = importlib.metadata.version('numpy')
  rows = findings.package_texts(facts())
  assert [text for _, text in rows] == [
      'missing no_base; pip install -r requirements.txt',
      f'crf: numpy {version} (==0.1 wanted); pip install -r requirements-crf.txt',
      'fonts: not for this Python, see requirements-fonts.txt',
      'gpu: missing no_cuda; pip install -r requirements-gpu.txt', 'complete: coco']
  assert 'no_base (pip install -r requirements.txt)' in findings.missing_for_training(facts())
  with_gpu = findings.package_texts(facts(report={**REPORT, 'gpus': [H100]}))
  assert with_gpu[-1][1] == 'complete: coco, gpu' and not any('no_cuda' in text for _, text in with_gpu)


def test_a_folder_that_cannot_be_written_is_missing_for_training(monkeypatch, tmp_path):
  monkeypatch.chdir(tmp_path)
  assert 'writable; commit ' in findings.folder_text() and findings.missing_for_training(facts()) == []
  monkeypatch.setattr(limits, 'writable', lambda folder: False)
  assert 'not writable: give --data_dir' in findings.folder_text()
  assert findings.missing_for_training(facts()) == [f'a writable folder ({tmp_path} is not)']


def test_the_exit_code_and_the_width(monkeypatch):
  monkeypatch.setattr(doctor, 'gather', facts)
  result = programs.run(doctor.main)
  assert result.returncode == 0 and result.stdout.endswith('ready to train\n') and result.stderr == ''
  assert all(len(line) <= 120 for line in result.stdout.splitlines()) and len(result.stdout.splitlines()) < 40
  monkeypatch.setattr(doctor, 'gather', lambda: facts(report={'error': 'broken'}))
  result = programs.run(doctor.main)
  assert result.returncode == 1 and 'missing for training: TensorFlow (broken;' in result.stdout


def test_help_and_a_word_too_many():
  assert 'python -m utils.doctor' in programs.run(doctor.main, '--help').stdout
  programs.assert_refused(programs.run(doctor.main, '--gpu=0'), "unexpected argument '--gpu=0'")


def test_the_doctor_needs_no_tensorflow_and_no_packages():
  """So that it says what is missing where nothing is installed yet."""
  code = ('import sys; sys.path[:] = [path for path in sys.path if "site-packages" not in path]; '
          'import utils.doctor.__main__; '
          'print([name for name in ("tensorflow", "numpy", "absl") if name in sys.modules])')
  assert subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True).stdout == '[]\n'
