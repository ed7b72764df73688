"""The benchmark: its arithmetic, and all of it once at a tiny size."""

import dataclasses
import json
import os
import signal

import numpy as np
import pytest
from fake_clock import FakeClock
from programs import assert_refused
from script_flags import assert_flags

from datasets import get_dataset
from datasets.convert import convert
from nets import segnet
from utils.errors import UserError
from utils.settings import parse
from utils.studies import benchmark, conversion, results


def test_in_turn_warms_up_then_alternates_and_pauses():
  clock, calls = FakeClock(), []

  def function(name, seconds):
    def call():
      calls.append(name)
      clock.sleep(seconds)
    return call

  def sleep(seconds):
    calls.append('.')
    clock.sleep(seconds)

  times = benchmark.in_turn({'a': function('a', 2.0), 'b': function('b', 0.5)}, steps=3, warmup_steps=2, pause=8.0,
                            clock=clock, sleep=sleep)
  assert ''.join(calls) == 'aabb' + '.a.b.a.b.a.b'
  assert times == {'a': [2.0] * 3, 'b': [0.5] * 3}  # without the pauses


def test_precisions_of_this_cpu(monkeypatch, capsys):
  monkeypatch.setattr(benchmark, 'supports_bfloat16', lambda: False)
  assert benchmark.available(('float32', 'bfloat16', 'float32')) == ('float32',)
  assert 'bfloat16 is skipped' in capsys.readouterr().out
  with pytest.raises(UserError, match='--precisions=bfloat16: this CPU has no AVX512-BF16'):
    parse(benchmark.BenchmarkSettings, ['--precisions=bfloat16'])
  monkeypatch.setattr(benchmark, 'supports_bfloat16', lambda: True)
  assert parse(benchmark.BenchmarkSettings, ['--precisions=bfloat16']).precisions == ('bfloat16',)
  assert benchmark.available(('float32', 'bfloat16')) == ('float32', 'bfloat16')
  assert capsys.readouterr().out == ''


@pytest.mark.parametrize('arguments, message', [
    (['--steps=0'], 'steps'),
    (['--what=train,speed'], '--what=train,speed: valid are convert, train, loop, pipeline, inference, memory'),
    (['--what='], '--what=: valid are convert, train, loop, pipeline, inference, memory'),
    (['--precisions='], '--precisions=: valid are float32, bfloat16'),
    (['--data_dir=nowhere'], "no split 'train' in nowhere"),
])
def test_bad_arguments_are_one_line(tmp_path, arguments, message, run_program):
  output = tmp_path / 'out.json'
  assert_refused(run_program(benchmark.main, f'--output={output}', *arguments), message)
  assert not output.exists()


def test_sigterm_leaves_no_temporary_files(tmp_path, monkeypatch):
  """The handler ends with the measurement."""
  before, folders = signal.getsignal(signal.SIGTERM), []
  monkeypatch.setattr(benchmark, 'save_run', lambda folder, dataset, network: folders.append(folder))
  settings = benchmark.BenchmarkSettings(dataset='camvid', output=str(tmp_path / 'out.json'), precisions=('float32',))
  with pytest.raises(SystemExit), benchmark.prepared(settings, 'utils.studies.benchmark', data=False):
    assert os.path.isdir(folders[0])
    signal.raise_signal(signal.SIGTERM)
  assert not os.path.exists(folders[0]) and signal.getsignal(signal.SIGTERM) == before


def test_a_part_is_measured_once_in_the_order_asked_for(tmp_path, monkeypatch):
  """The JSON holds the results of the parts before a part that fails."""

  def fail(setup):
    raise UserError('no memory left')

  monkeypatch.setattr(benchmark, 'save_run', lambda folder, dataset, network: '')
  part = lambda name: lambda setup: [results.row(name, 'x', 's', [1.0])]
  output = tmp_path / 'out.json'
  settings = benchmark.BenchmarkSettings(dataset='camvid', output=str(output), precisions=('float32',),
                                         what=('loop', 'train', 'loop', 'memory', 'pipeline'))
  with pytest.raises(UserError, match='no memory left'):
    benchmark.measure(settings, 'utils.studies.benchmark', {
        'train': part('train'), 'loop': part('loop'), 'memory': fail, 'pipeline': part('pipeline')}, data=False)
  assert [line['what'] for line in json.loads(output.read_text())['results']] == ['loop', 'train']


CASES = {
    'convert': {'JPEG 61x43': ('images/s', 'images/CPU s'), 'PNG 61x43': ('images/s', 'images/CPU s')},
    'train': {'float32: bare step': 's'},
    'loop': {'float32: step of train.py': 's', 'float32: bare step': 's', 'float32: train.py / bare': 'ratio'},
    'pipeline': {'alone': 'batches/s', 'CPU time, all cores': 's/batch'},
    'inference': {f'float32, batch {size}': 'images/s' for size in (1, 8)},
    'memory': {'float32: train.py, peak': 'GiB', 'float32: evaluate.py, peak': 'GiB',
               'float32: evaluate.py, growth': 'MiB'},
}


class Scripts:
  """Stands for scripts.against and scripts.watched, which launch processes."""

  def __init__(self):
    self.commands = []

  def against(self, words, step, *, block, blocks, warmup_blocks):
    assert (block, blocks, warmup_blocks) == (2, 1, 1)
    assert np.isfinite(step())
    self.commands.append(words)
    return [0.6], [0.5]

  def watched(self, words):
    self.commands.append(words)
    return 3 * benchmark.GIB, [(float(second), second * benchmark.MIB) for second in range(8)]


def test_all_parts(tmp_path, monkeypatch, run_program):
  """With one of SegNet-Basic's encoders; train.py and evaluate.py are not run, but must know their flags."""
  shapes = get_dataset('shapes')
  few = dataclasses.replace(shapes, sources=lambda folder, split: shapes.sources(folder, split)[:5])
  data_dir = tmp_path / 'data'
  for split in ('train', 'val'):
    convert(few, split, source_dir=None, data_dir=str(data_dir), num_workers=1, progress=False)
  scripts = Scripts()
  monkeypatch.setattr(segnet, 'BASIC_UNITS', 1)
  monkeypatch.setattr(conversion, 'CASES', {
      'JPEG 61x43': (43, 61, 3, 'jpg', False), 'PNG 61x43': (43, 61, 2, 'png', True)})
  monkeypatch.setattr(benchmark.scripts, 'against', scripts.against)
  monkeypatch.setattr(benchmark.scripts, 'watched', scripts.watched)
  output = tmp_path / 'new/benchmark.json'
  result = run_program(benchmark.main, '--net=segnet_basic', f'--data_dir={data_dir}', '--height=43', '--width=61',
                       '--batch_size=1', '--steps=2', '--warmup_steps=1', '--precisions=float32', f'--output={output}')
  assert result.returncode == 0, result.stderr
  written = json.loads(output.read_text())
  lines = written['results']
  assert [(line['what'], line['case'], line['unit']) for line in lines] == [
      (what, case, unit) for what, cases in CASES.items() for case, units in cases.items()
      for unit in ([units] if isinstance(units, str) else units)]
  for line in lines:
    assert np.isfinite(line['median']) and line['median'] > 0
    assert line['count'] == (1 if line['what'] in ('loop', 'memory') else 2)
    assert ' '.join([line['what'], *line['case'].split()]) in ' '.join(result.stdout.split())
  median = {(line['what'], line['case'].removeprefix('float32: ')): line['median'] for line in lines}
  assert median['loop', 'train.py / bare'] == pytest.approx(1.2)
  assert median['memory', 'train.py, peak'] == median['memory', 'evaluate.py, peak'] == 3
  assert median['memory', 'evaluate.py, growth'] == 4
  assert (written['dataset'], written['size'], written['batch_size']) == ('shapes', [43, 61], 1)
  assert written['machine']['cores'] >= 1 and written['versions']['tensorflow']
  assert written['command'] == (
      f'python -m utils.studies.benchmark --data_dir={data_dir} --net=segnet_basic --height=43 --width=61 '
      f'--batch_size=1 --precisions=float32 --steps=2 --warmup_steps=1 --output={output}')
  assert not list(output.parent.glob('*.tmp'))
  loop, train, evaluate = scripts.commands
  assert [os.path.basename(words[1]) for words in scripts.commands] == ['train.py', 'train.py', 'evaluate.py']
  assert {'--crop_size=43,61', '--checkpoint=none', '--log_steps=2', '--eval_steps=0'} <= set(loop)
  assert '--max_steps=3' in train
  assert_flags('train', [loop[2:], train[2:]])
  assert_flags('evaluate', [evaluate[2:]])


@pytest.mark.parametrize('height, width, suffix, in_colors', [
    (360, 480, 'jpg', False), (360, 480, 'png', True), (317, 243, 'jpg', True), (31, 600, 'png', False)])
def test_originals_are_like_photographs_and_convert_to_what_they_are(height, width, suffix, in_colors, tmp_path):
  conversion.write_originals(str(tmp_path / 'a'), (height, width, 2, suffix, in_colors))
  conversion.write_originals(str(tmp_path / 'b'), (height, width, 2, suffix, in_colors))
  files = sorted((tmp_path / 'a').rglob('*.*'))
  assert len(files) == 7 and all(
      file.read_bytes() == (tmp_path / 'b' / file.relative_to(tmp_path / 'a')).read_bytes() for file in files)
  bits = 8 * (tmp_path / 'a/images' / f'00.{suffix}').stat().st_size / (height * width)
  assert (2 if suffix == 'jpg' else 8) < bits < (6 if suffix == 'jpg' else 18)  # CamVid's JPEGs: 3.9
  stats = convert(get_dataset(str(tmp_path / 'a')), 'train', source_dir=None, data_dir=str(tmp_path / 'data'),
                  num_workers=1, progress=False)
  assert stats['num_examples'] == 2 and sum(stats['class_pixels']) == 2 * height * width
  assert min(stats['class_pixels']) > 0 and stats['void_pixels'] == 0
