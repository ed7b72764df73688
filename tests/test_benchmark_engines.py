"""The comparison of engines: rows, ratios, table and resumption on a tiny run; PyTorch with a run's own weights."""

import contextlib
import json

import numpy as np
import pytest
from programs import assert_refused, run
from random_run import write_run_with_data
from test_benchmark_pytorch import make_setup, needs_torch

import nets
from utils.export.__main__ import main as export
from utils.inference.predictor import Predictor
from utils.runs import load_run
from utils.studies import benchmark, benchmark_engines, benchmark_pytorch
from utils.studies.benchmark_engines import SCORE, SPEED, Side, main, speed, table


@pytest.fixture(scope='module')
def folder(tmp_path_factory, tiny):
  """A run with its data, exported for LiteRT."""
  made = write_run_with_data(tmp_path_factory.mktemp('made'), tiny)
  assert run(export, f'--ckpt={made}', '--format=tflite').returncode == 0
  return made


@pytest.fixture
def measured(folder, tmp_path, monkeypatch):
  """`measured(*flags)` measures the run without PyTorch: the Result, and the JSON's content."""
  monkeypatch.setattr(benchmark_pytorch, 'torch', None)
  monkeypatch.setattr(benchmark_engines, 'precisions', lambda: ('float32',))
  output = tmp_path / 'out.json'

  def measure(*flags):
    result = run(main, f'--ckpt={folder}', f'--files={folder}/export/model.tflite', '--height=37', '--width=53',
                 '--batch_sizes=1,2', '--repeats=2', '--warmup=0', f'--output={output}', *flags)
    return result, json.loads(output.read_text()) if output.exists() else None

  return measure


def test_every_side_is_timed_and_scored(measured, tmp_path):
  result, value = measured()
  assert result.returncode == 0, result.stderr
  assert 'PyTorch compiled is left out: not installed' in result.stdout
  found = {(line['what'], line['case']): line for line in value['results']}
  assert set(found) == {(what, side) for what in ('batch 1', 'batch 2', SCORE)
                        for side in ('TensorFlow float32', 'litert float32')}
  assert all(line['unit'] == SPEED and line['median'] > 0 and line['count'] == 2
             for (what, _), line in found.items() if what != SCORE)
  scores = [found[SCORE, side]['median'] for side in ('TensorFlow float32', 'litert float32')]
  assert scores[0] == pytest.approx(scores[1], abs=0.5) and scores[0] > 0
  assert value['machine']['cores'] >= 1 and value['versions']['tensorflow']
  assert len(value['sides']['litert float32']) == 64
  lines = (tmp_path / 'out.md').read_text().splitlines()
  assert lines[0] == ('|  | batch 1, images/s | times PyTorch | batch 2, images/s | times PyTorch '
                      '| mean IoU, val, 2 images | PyTorch of |')
  assert [line.split('|')[1].strip() for line in lines[2:-1]] == ['TensorFlow float32', 'litert float32']


def test_what_is_measured_stays(measured, monkeypatch):
  _, before = measured()
  del before['parts'][f'{SCORE}: litert float32']
  monkeypatch.setattr(benchmark_engines, 'speed', lambda *arguments: pytest.fail('measured again'))
  result, after = measured('--resume')
  assert result.returncode == 0 and result.stdout.count(' already\n') == 4 and after['results'] == before['results']
  assert_refused(measured('--resume', '--repeats=3')[0], 'was measured with flags.repeats 2, and here it is 3')


def test_some_images_of_the_split(measured):
  _, value = measured('--num_images=1', '--batch_sizes=1')
  assert [line['num_images'] for line in value['results'] if line['what'] == SCORE] == [1, 1]


def test_files_that_are_not_there(folder, tmp_path):
  flags = f'--ckpt={folder}', f'--output={tmp_path}/out.json'
  result = run(main, *flags)
  assert result.returncode == 1 and not (tmp_path / 'out.json').exists()
  for words in ('--format=onnx', '--format=openvino', '--format=openvino --quantize=int8',
                '--format=tflite --quantize=int8_weights'):
    assert f'python -m utils.export --ckpt={folder}/model.ckpt-1234 {words}\n' in result.stderr
  assert f'{folder}/export/model.tflite' not in result.stderr
  assert_refused(run(main, *flags, '--files=model.pb'), '--files=model.pb: files of onnxruntime,')
  assert_refused(run(main, *flags, '--files=model.tflite'), 'model.tflite: no such file')


def make_side(name, to, labels):
  return Side(name, to, lambda batch_size: contextlib.nullcontext(labels))


def test_ratios_are_to_the_baseline_and_a_failing_side_is_skipped(capsys):
  settings = benchmark_engines.EnginesSettings(ckpt='x', repeats=3, warmup=0)
  calls = []

  def fail(images):
    raise RuntimeError('no such op\nmore')

  sides = [make_side(name, 'base', lambda images, name=name: calls.append((name, images.shape)))
           for name in ('one', 'base', 'two')] + [make_side('broken', 'base', fail)]
  rows = speed(sides, (3, 4), 2, settings)
  assert [(line['case'], line['unit']) for line in rows] == [
      ('one', SPEED), ('base', SPEED), ('two', SPEED), ('one', 'ratio'), ('two', 'ratio')]
  assert [name for name, _ in calls] == ['one', 'base', 'two'] * 4 and {shape for _, shape in calls} == {(2, 3, 4, 3)}
  assert capsys.readouterr().out == 'batch 2, broken fails and is skipped: no such op\n'


def test_the_table():
  line = lambda what, case, unit, median, **more: {'what': what, 'case': case, 'unit': unit, 'median': median, **more}
  rows = [line('batch 1', 'openvino_int8 float32', SPEED, 20.04),
          line('batch 1', 'PyTorch compiled bfloat16', SPEED, 10),
          line('batch 1', 'openvino_int8 float32', 'ratio', 2.004, to='PyTorch compiled bfloat16'),
          line(SCORE, 'openvino_int8 float32', '%', 69.444, split='val', num_images=101)]
  assert table(rows, [1]).splitlines() == [
      '|  | batch 1, images/s | times PyTorch | mean IoU, val, 101 images | PyTorch of |',
      '| --- | --- | --- | --- | --- |',
      '| openvino_int8 float32 | 20.0 | 2.00 | 69.44 | bfloat16 |',
      '| PyTorch compiled bfloat16 | 10.0 |  |  |  |']


def test_files_of_fewer_bits_are_compared_with_bfloat16(monkeypatch):
  monkeypatch.setattr(benchmark_engines, 'supports_bfloat16', lambda: True)
  assert benchmark_engines.baseline('float32') == 'PyTorch compiled float32'
  assert benchmark_engines.baseline('float32', 'int8') == 'PyTorch compiled bfloat16'
  monkeypatch.setattr(benchmark_engines, 'supports_bfloat16', lambda: False)
  assert benchmark_engines.baseline('float32', 'int8') == 'PyTorch compiled float32'


@needs_torch
def test_pytorch_has_the_runs_weights(tmp_path, monkeypatch):
  """Nothing is compiled."""
  setup = make_setup()
  monkeypatch.setitem(nets.NETWORKS, 'two', setup.network)
  monkeypatch.setattr(benchmark_pytorch.torch, 'compile', lambda function, options: function)
  trained = load_run(benchmark.save_run(str(tmp_path), setup.dataset, setup.network))
  images = np.random.default_rng(5).integers(0, 256, (2, 13, 18, 3), np.uint8)
  [side] = [side for side in benchmark_engines.sides(trained, [], (13, 18)) if side.name == 'PyTorch compiled float32']
  with side.open(2) as labels, Predictor(trained) as predictor:
    expected = predictor.labels(images)
    assert len(np.unique(expected)) > 2 and (labels(images) == expected).mean() > 0.99
    with pytest.raises(benchmark_engines.UserError, match='is made for images of 13x18 here'):
      labels(images[:1])
