"""The benchmark: its arithmetic, its way of watching other processes, and all of it once at a tiny size."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import time

import numpy as np
import pytest

from datasets import get_dataset
from datasets.convert import convert
from utils.errors import UserError
from utils.studies import benchmark

ROOT = pathlib.Path(__file__).resolve().parent.parent
MIB = 2**20


def run_benchmark(*arguments):
  return subprocess.run([sys.executable, '-m', 'utils.studies.benchmark', *arguments], cwd=ROOT, capture_output=True,
                        text=True, check=False)


def script(code):
  return [sys.executable, '-u', '-c', code]


def test_row_has_the_quartiles():
  line = benchmark.row('train', 'step', 's', [5.0, 1.0, 2.0, 4.0, 9.0], note='x')
  assert line == {'what': 'train', 'case': 'step', 'unit': 's', 'median': 4.0, 'quartiles': [2.0, 5.0],
                  'mean': pytest.approx(4.2), 'count': 5, 'note': 'x'}
  json.dumps(benchmark.row('loop', 'ratio', 'ratio', np.divide([2.0, 3.0], [1.0, 2.0])))


def test_table():
  rows = [benchmark.row('train', 'float32: bare step', 's', [1.0, 2.0, 3.0]),
          benchmark.row('memory', 'peak', 'GiB', [1234.5678])]
  assert benchmark.table(rows) == '\n'.join([
      'what    case                median  quartiles     unit  count',
      'train   float32: bare step  2       1.5 .. 2.5    s     3',
      'memory  peak                1235    1235 .. 1235  GiB   1'])


def test_in_turn_warms_up_and_then_alternates():
  calls = []
  times = benchmark.in_turn({'a': lambda: calls.append('a'), 'b': lambda: (calls.append('b'), time.sleep(0.02))},
                            steps=3, warmup_steps=2)
  assert ''.join(calls) == 'aabb' + 'ababab'
  assert len(times['a']) == len(times['b']) == 3
  assert min(times['b']) >= 0.02 > min(times['a'])


def test_in_turn_pauses_outside_of_what_it_times():
  start = time.perf_counter()
  times = benchmark.in_turn({'a': lambda: None, 'b': lambda: None}, steps=2, warmup_steps=3, pause=0.05)
  assert time.perf_counter() - start >= 0.2 and min(times['a'] + times['b']) < 0.05


def test_growth():
  assert benchmark.growth([7.0] * 40) == 0
  assert benchmark.growth(np.arange(40.0)) == 20  # from the middle of the second quarter to that of the last one
  assert benchmark.growth([0.0] * 10 + [500.0] * 28 + [0.0] * 2) == 0  # neither the start nor the end counts
  assert benchmark.growth([1.0, 9.0, 9.0]) == 0 and benchmark.growth([]) == 0


def test_script_stands_still_while_the_step_runs(tmp_path):
  """A script that worked on during the function's 0.4 s a block would tick, and have its next line ready at once."""
  ticks = tmp_path / 'ticks'
  command = script(f'''
import time
for step in range(1, 1000):
  for _ in range(10):
    time.sleep(0.01)
    open({str(ticks)!r}, 'a').write('x')
  print('some other line')
  print(f'step {{step}}/1000  loss 1.0')
''')
  counted = []

  def step():
    time.sleep(0.02)  # for what the script does between its line and the signal
    before = os.path.getsize(ticks)
    time.sleep(0.2)
    counted.append(os.path.getsize(ticks) - before)

  loop, bare = benchmark.against_script(command, step, block=2, blocks=3, warmup_blocks=1)
  assert counted == [0] * 6
  assert len(loop) == len(bare) == 3
  assert min(bare) >= 0.2
  assert np.median(loop) >= 0.03  # half of 10 times 10 ms, less what passes before the signal


def test_script_that_ends_is_said():
  with pytest.raises(UserError, match='ended too early: error: no data'):
    benchmark.against_script(script('print("step 1/9"); print("error: no data")'), lambda: None, block=1, blocks=3,
                             warmup_blocks=1)


def test_resident_memory_knows_a_peak_that_is_over():
  peak, samples = benchmark.resident_memory(script('''
import time
time.sleep(0.6)
held = b'x' * (96 << 20)
del held
print('ready')
time.sleep(0.8)
'''))
  sizes = [size for _, size in samples]
  assert samples and samples[0][0] > 0.5  # nothing from before the first output
  assert 96 * MIB < peak < 160 * MIB and max(sizes) < 64 * MIB


def test_resident_memory_says_why_a_command_failed():
  with pytest.raises(UserError, match='failed: error: out of luck'):
    benchmark.resident_memory(script('print("fine"); print("error: out of luck"); raise SystemExit(1)'))


def test_precisions_of_this_cpu(monkeypatch, capsys):
  monkeypatch.setattr(benchmark, 'supports_bfloat16', lambda: False)
  assert benchmark.available(('float32', 'bfloat16')) == ('float32',)
  assert 'bfloat16 is left out' in capsys.readouterr().out
  with pytest.raises(UserError, match='--precisions=bfloat16'):
    benchmark.available(('bfloat16',))
  monkeypatch.setattr(benchmark, 'supports_bfloat16', lambda: True)
  assert benchmark.available(('float32', 'bfloat16')) == ('float32', 'bfloat16')
  assert capsys.readouterr().out == ''


def test_chosen():
  assert benchmark.chosen('what', ['loop', 'train', 'loop'], benchmark.PARTS) == ('loop', 'train')
  for values in (['train', 'speed'], []):
    with pytest.raises(UserError, match='--what=.*valid are train, loop, pipeline, inference, memory'):
      benchmark.chosen('what', values, benchmark.PARTS)


@pytest.mark.parametrize('arguments, message', [
    (['--steps=0'], 'steps'),
    (['--what=speed'], '--what=speed: valid are train'),
    (['--data_dir=nowhere'], "no split 'train' in nowhere"),
])
def test_bad_arguments_are_one_line(tmp_path, arguments, message):
  output = tmp_path / 'out.json'
  result = run_benchmark(f'--output={output}', *arguments)
  assert result.returncode == 1
  assert len(result.stderr.splitlines()) == 1 and result.stderr.startswith('error: ') and message in result.stderr
  assert not output.exists()


CASES = {
    'train': {'float32: bare step': 's'},
    'loop': {'float32: step of train.py': 's', 'float32: bare step': 's', 'float32: train.py / bare': 'ratio'},
    'pipeline': {'alone': 'batches/s', 'CPU time, all cores': 's/batch'},
    'inference': {f'float32, batch {size}': 'images/s' for size in (1, 8)},
    'memory': {'float32: train.py, peak': 'GiB', 'float32: evaluate.py, peak': 'GiB',
               'float32: evaluate.py, growth': 'MiB'},
}


def test_all_parts(tmp_path):
  shapes = get_dataset('shapes')
  few = dataclasses.replace(shapes, sources=lambda folder, split: shapes.sources(folder, split)[:5])
  for split in ('train', 'val'):
    convert(few, split, source_dir=None, data_dir=str(tmp_path / 'data'), num_workers=1, progress=False)
  output = tmp_path / 'new/benchmark.json'
  result = run_benchmark('--net=segnet_basic', f'--data_dir={tmp_path / "data"}', '--height=43', '--width=61',
                         '--batch_size=1', '--steps=2', '--warmup_steps=1', '--precisions=float32',
                         f'--output={output}')
  assert result.returncode == 0, result.stderr
  written = json.loads(output.read_text())
  lines = written['results']
  assert [(line['what'], line['case'], line['unit']) for line in lines] == [
      (what, case, unit) for what, cases in CASES.items() for case, unit in cases.items()]
  for line in lines:
    assert np.isfinite(line['median']) and (line['median'] > 0 or line['unit'] == 'MiB')
    assert line['count'] == (1 if line['what'] in ('loop', 'memory') else 2)
    assert ' '.join([line['what'], *line['case'].split()]) in ' '.join(result.stdout.split())
  peaks = [line['median'] for line in lines if line['unit'] == 'GiB']
  assert all(0.3 < peak < 5 for peak in peaks)  # TensorFlow with the network's weights is above, a tiny crop below
  assert (written['dataset'], written['size'], written['batch_size']) == ('shapes', [43, 61], 1)
  assert written['machine']['cores'] >= 1 and written['versions']['tensorflow']
  assert written['command'].startswith('python -m utils.studies.benchmark --net=')
  assert not list(output.parent.glob('*.tmp'))
