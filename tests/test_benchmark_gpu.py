"""The benchmark of a GPU, on CPUs: every part with a tiny network, and the processes that it runs them in."""

import dataclasses
import functools
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from programs import assert_refused
from script_flags import assert_flags

from utils.compat import tf
from utils.errors import UserError
from utils.session import chosen_precision
from utils.settings import parse
from utils.studies import benchmark_gpu, gpu_memory, gpu_part, gpu_parts, results
from utils.studies.gpu_parts import GpuSettings, PartSettings
from utils.training.settings import TrainSettings

SMALL = ('--device=CPU', '--height=37', '--width=53', '--batch_sizes=2,1', '--inference_batches=1,3', '--steps=2',
         '--warmup_steps=0', '--product_size=16', '--num_sizes=2')


@pytest.fixture(scope='module')
def small(tiny, tmp_path_factory):
  """Settings with the tiny network, and a folder for the parts."""
  folder = tmp_path_factory.mktemp('work')
  recipe = folder / 'tiny.flags'
  recipe.write_text(f'--dataset=camvid\n--net={tiny}\n--skip=16s\n--decoder_channels=4\n--crop_size=31,45\n'
                    '--batch_size=3\n--loss=cross_entropy+lovasz\n--ema_decay=0.9\n--trainable_scopes=fcn\n')
  settings = parse(GpuSettings, [*SMALL, f'--net={tiny}', '--precisions=tf32', '--xla_precisions=tf32',
                                 f'--recipe={recipe}'])
  patched = pytest.MonkeyPatch()
  patched.setattr(gpu_parts, 'PICTURES', 3)
  gpu_parts.make_work_dir(str(folder), settings)
  patched.undo()
  return settings, str(folder)


def rows_of(part, small):
  settings, folder = small
  lines = list(gpu_part.rows_of(part, folder, settings))
  json.dumps(lines)
  assert all(np.isfinite(line['median']) and line['median'] > 0 for line in lines)
  return lines


def cases(lines):
  return [line['case'] for line in lines]


@pytest.mark.parametrize('precision, on', [('tf32', True), ('float32', False), ('tf32', True)])
def test_tf32_is_switched_for_the_process(precision, on):
  gpu_parts.config_of(precision)
  assert tf.config.experimental.tensor_float_32_execution_enabled() == on


def test_arithmetic_that_the_device_lacks_is_left_out(capsys):
  assert gpu_parts.available(('float32', 'odd', 'tf32')) == ['float32', 'tf32']
  assert capsys.readouterr().out.startswith('odd is left out: --precision=odd: valid are float32')


def test_product(small):
  settings, folder = small
  lines = rows_of('product', (dataclasses.replace(settings, precisions=('tf32', 'bfloat16')), folder))
  assert cases(lines) == ['tf32', 'bfloat16'] and {line['unit'] for line in lines} == {'TFLOP/s'}


def test_training_steps(small):
  lines = rows_of('train', small)
  assert cases(lines) == [f'tf32, batch {batch}{other}' for batch in (2, 1) for other in ('', ', the other rewritings')]
  for line in lines:
    beside = line['beside']
    assert beside['images/s'] == pytest.approx(line['batch'] / line['median']) and beside['s the first'] > 0
  work = [line['beside']['TFLOP/s'] * line['median'] for line in lines]
  assert work[0] == pytest.approx(2 * work[2])  # the same network on half the images


def test_xla_and_recipe(small):
  settings, folder = small
  assert cases(rows_of('xla', (dataclasses.replace(settings, batch_sizes=(2,)), folder))) == [
      'tf32, batch 2, XLA', 'tf32, batch 2, clusters of XLA']
  assert cases(rows_of('recipe', small)) == ['tf32, batch 3']


def test_pipeline(small):
  lines = rows_of('pipeline', small)
  assert cases(lines) == ['batch 2', 'batch 1'] and lines[0]['unit'] == 'images/s'
  assert all(line['beside']['images/s of a core'] > 0 for line in lines)


def test_inference_and_evaluation(small):
  lines = rows_of('inference', small)
  assert cases(lines) == [f'tf32, batch {batch}: {case}' for batch in (1, 3) for case in (
      'bare network', 'from pixels to labels')]
  for part in gpu_parts.SIZES:
    lines = rows_of(part, small)
    assert cases(lines) == [f'tf32, batch 1, {when}' for when in ('first', 'again')]
    assert {(line['what'], line['count']) for line in lines} == {(part, 2)}
  evaluation, = rows_of('evaluation', small)
  assert evaluation['case'] == 'tf32: loop of evaluate.py' and len(evaluation['beside']) == 2


@pytest.fixture
def against(monkeypatch):
  """Takes the place of scripts.against: runs one bare step; returns the list of the commands of train.py."""
  commands = []

  def against(words, step, **blocks):
    commands.append(words)
    step()
    return [0.6], [0.5]

  monkeypatch.setattr(gpu_parts.benchmark.scripts, 'against', against)
  return commands


def test_loop_runs_train_as_users_do(small, against):
  lines = rows_of('loop', small)
  assert [line['median'] for line in lines if line['unit'] == 'ratio'] == [pytest.approx(1.2)] * 2
  assert cases(lines)[0] == f'batch 2, {chosen_precision("auto")}: step of train.py'
  folder = small[1]
  assert {f'--dataset={folder}/originals', f'--data_dir={folder}/data', '--batch_size=2'} <= set(against[0])


def test_loop_of_the_recipe_has_its_flags_on_the_data_that_are_there(small, against):
  assert cases(rows_of('recipe_loop', small))[2] == f'recipe, {chosen_precision("auto")}: train.py / bare'
  found = parse(TrainSettings, against[0][2:])
  assert found.data.dataset == f'{small[1]}/originals' and found.bookkeeping.eval_steps == 0
  assert found.optimizer.loss == 'cross_entropy+lovasz' and found.schedule.batch_size == 3


def test_memory_of_training_is_beside_the_bare_step(small, monkeypatch):
  """On a card of 10 GiB of which others have 1: 3 for train.py, 2.5 with the share of a fifth."""
  settings, commands, sizes = small[0], [], iter([1.0, 4.0, 1.0, 3.5])

  class Process:
    pid = 7

    def __init__(self, words, **options):
      commands.append(words)
      self.stdout = iter(['device: GPU 0', 'step 1/1000000  loss 2.0', 'step 2/1000000  loss 1.9'])

    __enter__ = lambda self: self
    __exit__ = lambda self, *exception: None
    kill = lambda self: None

  card = {'memory.total': str(10 * 1024)}
  monkeypatch.setattr(gpu_memory.benchmark_gpu, 'nvidia_smi', lambda fields, settings: card)
  takes = functools.partial(gpu_memory.training_takes, launch=Process, sleep=lambda seconds: None,
                            taken=lambda settings, pid: next(sizes) * 2**30)
  setup = dataclasses.replace(gpu_parts.make_setup(small[1], settings), warmup_steps=1)
  train, share, bare = gpu_memory.measure_memory(setup, settings, training_takes=takes)
  assert train['median'] == 3 and train['beside'] == {'of the card': 0.3}
  assert share['median'] == 2.5 and share['beside'] == {'of the card': 0.25, 'GiB beyond the share': pytest.approx(0.5)}
  assert bare['case'].endswith(': bare step') and bare['median'] >= 0
  first, second = commands
  assert '--gpu_memory_fraction=0.2' in second and not any('gpu_memory' in word for word in first)
  assert_flags('train', [first[2:], second[2:]])


def test_a_training_that_fails_says_why(small):
  launch = lambda words, **options: subprocess.Popen(['echo', 'error: no disk'], **options)
  with pytest.raises(UserError, match='train.py ended too early: error: no disk'):
    gpu_memory.training_takes(['train'], small[0], steps=1, launch=launch, sleep=lambda seconds: None)


def test_a_case_that_fails_leaves_the_others():
  def fail():
    raise ValueError('no compiler\nand more')
    yield

  cases, seen = {'a': fail, 'b': lambda: [1, 2], 'c': fail}, []
  with pytest.raises(UserError, match='^a and c: no compiler$'):
    for line in gpu_parts.each(cases):
      seen.append(line)
  assert seen == [1, 2]


def step(case, seconds, side, *, batch=2, task='train', tflops=None):
  beside = {'TFLOP/s': tflops} if tflops else {}
  return results.row('part', case, 's', [seconds], task=task, side=side, batch=batch, precision='tf32', beside=beside)


def test_comparisons_by_hand():
  product = results.row('product', 'tf32', 'TFLOP/s', [400.0], task='product', side='TensorFlow', precision='tf32')
  bare = results.row('inference', 'bare', 'images/s', [999.0], task='inference', side='TensorFlow', batch=1,
                     precision='tf32', bare=True)
  rate = results.row('inference', 'labels', 'images/s', [30.0], task='inference', side='TensorFlow', batch=1,
                     precision='tf32', bare=False)
  found = benchmark_gpu.compared([
      product, step('slow', 0.5, 'TensorFlow', tflops=32.0), step('fast', 0.25, 'TensorFlow'),
      step('eager', 0.4, 'PyTorch'), step('graph', 0.2, 'PyTorch'), step('alone', 0.1, 'TensorFlow', batch=7),
      bare, rate, step('torch', 0.05, 'PyTorch', batch=1, task='inference')])
  assert [(line['what'], line['case'], line['median']) for line in found] == [
      ('share', 'part: slow', pytest.approx(0.08)),
      ('best', 'train, batch 2: TensorFlow / PyTorch', pytest.approx(0.8)),
      ('best', 'inference, batch 1: TensorFlow / PyTorch', pytest.approx(1.5))]
  assert (found[1]['tensorflow'], found[1]['pytorch']) == ('part: fast', 'part: graph')
  assert found[1]['beside'] == {'images/s TensorFlow': 8.0, 'images/s PyTorch': 10.0}


def test_images_from_which_the_search_pays_by_hand():
  """A search of 2 s saves 5 ms an image: 401 images, the first included."""
  rates = {'sizes': (1 / 2.5, 100.0), 'sizes_suggested': (1 / 0.5, 1 / 0.015)}
  rows = [results.row(part, when, 'images/s', [rate], when=when) for part, both in rates.items()
          for when, rate in zip(('first', 'again'), both)]
  [line] = benchmark_gpu.compared(rows)
  assert (line['what'], line['unit'], line['median']) == ('search', 'images', pytest.approx(401))
  assert benchmark_gpu.compared(rows[:3]) == []
  rows[1]['median'] = 1.0  # what the search finds is slower
  assert benchmark_gpu.compared(rows) == []


def child(code):
  """Takes the place of subprocess.Popen: a process that finds the file for its rows in argv[1]."""

  def launch(words, **options):
    path = next(word for word in words if word.startswith('--rows=')).removeprefix('--rows=')
    return subprocess.Popen([sys.executable, '-c', code, path], **options)

  return launch


WRITES = 'import sys, time\nfile = open(sys.argv[1], "a")\nfile.write("[1]\\n[2"); file.flush()\n'


def gathered(code, tmp_path, limit=60.0):
  """The values that a part's process wrote, and the reason of its failure, if any."""
  found = []
  try:
    for line in benchmark_gpu.rows_of('train', str(tmp_path), GpuSettings(device='CPU'), limit=limit,
                                      launch=child(code), sleep=lambda seconds: time.sleep(0.02)):
      found.append(line)
  except UserError as error:
    return found, str(error)
  return found, None


def test_rows_of_a_process_come_whole(tmp_path):
  found, failed = gathered(WRITES + 'time.sleep(0.2); file.write("3]\\n")', tmp_path)
  assert failed is None and found[:2] == [[1], [23]]
  assert found[2]['case'] == 'train: peak resident' and found[2]['median'] > 0


@pytest.mark.parametrize('code, reason', [
    (WRITES + 'print("x", flush=True); sys.exit("error: out of luck")', 'out of luck'),
    (WRITES + 'import os; os.kill(os.getpid(), 9)', 'it printed nothing'),
    (WRITES + '1 / 0', 'ZeroDivisionError: division by zero')])
def test_a_process_that_fails_leaves_its_rows(code, reason, tmp_path):
  assert gathered(code, tmp_path) == ([[1]], reason)


def test_a_process_that_does_not_finish_is_ended_with_its_children(tmp_path):
  code = WRITES + f'''
import os, subprocess
other = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])
open({str(tmp_path / "pid")!r}, 'w').write(str(other.pid))
time.sleep(600)
'''
  found, failed = gathered(code, tmp_path, limit=2.0)
  assert found == [[1]] and failed == 'did not finish in 2 s'
  pid = int((tmp_path / 'pid').read_text())
  for _ in range(200):  # until init has taken leave of it
    try:
      with open(f'/proc/{pid}/stat', encoding='utf-8') as file:
        if file.read().rpartition(')')[2].split()[0] == 'Z':
          break
    except OSError:
      break
    time.sleep(0.02)
  else:
    os.kill(pid, signal.SIGKILL)
    raise AssertionError('the child of the part lives on')


def test_environment_of_a_part(monkeypatch):
  monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '3,1')
  monkeypatch.setenv('LD_LIBRARY_PATH', '/cuda12')
  settings = GpuSettings(pytorch_library_path='/cuda13')
  found = [benchmark_gpu.environment(settings, part) for part in ('train', 'pytorch_compiled')]
  assert [one['LD_LIBRARY_PATH'] for one in found] == ['/cuda12', '/cuda13']
  assert {one['CUDA_VISIBLE_DEVICES'] for one in found} == {'3'}
  on_cpu = benchmark_gpu.environment(GpuSettings(device='CPU'), 'pytorch')
  assert on_cpu['CUDA_VISIBLE_DEVICES'] == '-1' and on_cpu['LD_LIBRARY_PATH'] == '/cuda12'


def test_only_sizes_suggested_takes_cudnns_suggestions(monkeypatch):
  monkeypatch.delenv('TF_CUDNN_USE_AUTOTUNE', raising=False)
  monkeypatch.setenv('TF_CUDNN_DETERMINISTIC', '0')
  found = {part: benchmark_gpu.environment(GpuSettings(), part) for part in gpu_parts.TENSORFLOW}
  assert [part for part in found if 'TF_CUDNN_USE_AUTOTUNE' in found[part]] == ['sizes_suggested']
  suggested = found['sizes_suggested']
  assert (suggested['TF_CUDNN_USE_AUTOTUNE'], suggested['TF_CUDNN_DETERMINISTIC']) == ('0', '0')


def test_answers_of_nvidia_smi():
  def command(words, **options):
    assert words[:2] == ['nvidia-smi', '--query-gpu=name,memory.used'] and words[-2] == '-i'
    return subprocess.CompletedProcess(words, 0, 'NVIDIA X, 512\n', '')

  def missing(words, **options):
    raise FileNotFoundError('nvidia-smi')

  fields = ['name', 'memory.used']
  assert benchmark_gpu.nvidia_smi(fields, GpuSettings(), command=command) == {'name': 'NVIDIA X', 'memory.used': '512'}
  assert benchmark_gpu.nvidia_smi(fields, GpuSettings(), command=missing) == {}


def test_whole_program(tiny, tmp_path, monkeypatch, capsys):
  """A part that fails is noted, the rest goes on, and --resume measures it alone."""
  monkeypatch.setattr(gpu_parts, 'PICTURES', 1)
  output, seen = tmp_path / 'new/gpu.json', []
  arguments = [*SMALL, f'--net={tiny}', f'--output={output}', '--parts=train,product,xla']

  def rows_of(part, work_dir, settings, *, limit):
    seen.append((part, 0 < limit <= 120))
    yield step(f'{part} one', 0.5, 'TensorFlow')
    if part == 'product' and seen.count((part, True)) == 1:
      raise UserError('did not finish in 5 s')

  assert benchmark_gpu.work(parse(GpuSettings, arguments), rows_of=rows_of) == 1
  out = capsys.readouterr().out
  assert 'product failed: did not finish in 5 s' in out and 'part  xla one' in out
  written = json.loads(output.read_text())
  assert {part: about.get('failed') for part, about in written['parts'].items()} == {
      'train': None, 'product': 'did not finish in 5 s', 'xla': None}
  assert written['command'].startswith('python -m utils.studies.benchmark_gpu --parts=train,product,xla --device=CPU')
  assert written['machine']['cores'] >= 1 and written['versions']['tensorflow'] == tf.__version__
  assert benchmark_gpu.work(parse(GpuSettings, [*arguments, '--resume']), rows_of=rows_of) == 0
  assert [part for part, _ in seen] == ['train', 'product', 'xla', 'product']
  assert 'train is in ' in capsys.readouterr().out


def test_parts_after_the_time_are_noted(tiny, tmp_path, monkeypatch):
  monkeypatch.setattr(gpu_parts, 'PICTURES', 1)
  output, now = tmp_path / 'gpu.json', iter([0.0, 1.0, 2.0, 30.0, 61.0, 62.0, 63.0])

  def rows_of(part, work_dir, settings, *, limit):
    assert limit == 59.0  # what is left of a minute, not --part_seconds
    yield step('one', 0.5, 'TensorFlow')

  settings = parse(GpuSettings, [*SMALL, f'--net={tiny}', f'--output={output}', '--parts=train,xla', '--minutes=1'])
  assert benchmark_gpu.work(settings, rows_of=rows_of, clock=lambda: next(now)) == 1
  parts = json.loads(output.read_text())['parts']
  assert parts == {'train': {'rows': 1}, 'xla': {'rows': 0, 'failed': 'not begun: --minutes=1 are over'}}


def test_without_a_gpu_one_line_says_so(tiny, tmp_path, run_program, monkeypatch):
  monkeypatch.setattr(gpu_parts, 'PICTURES', 1)
  monkeypatch.setattr(tf.config, 'list_physical_devices', lambda kind: [])
  assert_refused(run_program(benchmark_gpu.main, *SMALL[1:], f'--net={tiny}', f'--output={tmp_path}/x.json'),
                 '--device=GPU: TensorFlow sees no GPU here; --device=CPU tries the program')
  assert not (tmp_path / 'x.json').exists()


def test_a_part_in_a_process_of_its_own(small):
  """The one test of the real command; a matrix product needs no network."""
  settings, folder = small
  settings = dataclasses.replace(settings, net='segnet_basic')  # which every process knows
  product, memory = benchmark_gpu.rows_of('product', folder, settings, limit=120.0)
  assert product['case'] == 'tf32' and product['count'] == 2 and memory['unit'] == 'GiB'


def test_flags_of_a_part_are_those_of_the_program():
  settings = parse(PartSettings, ['--part=train', '--work_dir=w', '--rows=r', '--batch_sizes=3'])
  assert settings.batch_sizes == (3,) and settings.precisions == GpuSettings().precisions
