"""What python -m utils.export refuses before any work, and how it compares."""

import importlib.util

import numpy as np
import pytest
from programs import assert_refused, run

from utils.errors import UserError
from utils.export import comparison
from utils.export.__main__ import main
from utils.export.comparison import BATCH, NATIVE, ODD, Answers, Case, Limits
from utils.export.formats import FORMATS
from utils.export.settings import ExportSettings
from utils.inference import engines
from utils.labels import IGNORE_LABEL
from utils.settings import parse

pytestmark = pytest.mark.fast


@pytest.fixture
def all_installed(monkeypatch):
  """Lets every package seem to be installed."""
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: True)


@pytest.mark.parametrize('words, parts', [
    ([], ['--format']),
    (['--format='], ['--format=', 'saved_model, pb, onnx, openvino, tflite, all']),
    (['--format=caffe'], ['--format=caffe', 'onnx']),
    (['--format=pb', '--quantize=float16'], ['--format=pb has no --quantize=float16', 'always float32']),
    (['--format=saved_model,onnx', '--quantize=int8_weights'], ['--format=saved_model has no --quantize=int8_weights']),
    (['--format=onnx', '--quantize=int8'], ['--format=onnx has no --quantize=int8', 'float16, int8_weights']),
    (['--format=openvino', '--quantize=int8_weights'], ['--format=openvino has no', 'float16, int8']),
    (['--format=tflite', '--quantize=int8'], ['for tflite needs --size=H,W', '--quantize=int8_weights']),
    (['--format=all', '--quantize=int8'], ['for tflite needs --size=H,W']),
    (['--format=onnx', '--quantize=int4'], ['--quantize=int4', 'int8_weights']),
    (['--format=onnx', '--size=480'], ['--size']),
    (['--format=onnx', '--size=0,480'], ['--size=0,480']),
    (['--format=onnx', '--least_equal=99'], ['--least_equal=99']),
    (['--format=onnx', '--calibration_images=9'], ['--calibration_images=9 is for --quantize=int8']),
    (['--format=onnx', '--temperature=0'], ['--temperature=0']),
])
def test_what_makes_no_sense_is_refused_before_any_work(all_installed, words, parts):
  assert_refused(run(main, '--ckpt=no/such/run', *words), *parts)


@pytest.mark.parametrize('words, missing, names', [
    (['--format=onnx'], {'tf2onnx'}, 'the package tf2onnx'),
    (['--format=all'], {'tf2onnx', 'onnxruntime', 'openvino'}, 'the packages tf2onnx, onnxruntime'),
    (['--format=openvino', '--quantize=int8'], {'nncf'}, 'the package nncf'),
])
def test_missing_packages_are_named(monkeypatch, words, missing, names):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None if name in missing else True)
  assert_refused(run(main, '--ckpt=no/such/run', *words), f'needs {names}',
                 'pip install -r requirements-export.txt')


def test_what_tensorflow_writes_needs_no_package(monkeypatch):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  parse(ExportSettings, ['--ckpt=x', '--format=saved_model,pb,tflite'])
  for engine in (engines.OnnxRuntime, engines.OpenVino):
    with pytest.raises(UserError, match='pip install -r requirements-export.txt'):
      engine('model')


def test_all_stands_for_the_formats_that_have_it(all_installed):
  of = lambda *words: parse(ExportSettings, ['--ckpt=x', *words]).formats
  assert of('--format=all') == list(FORMATS)
  assert of('--format=all', '--quantize=float16') == ['onnx', 'openvino', 'tflite']
  assert of('--format=all', '--quantize=int8', '--size=3,4') == ['openvino', 'tflite']
  assert of('--format=tflite,pb,tflite') == ['tflite', 'pb']


def test_what_is_no_exported_file(tmp_path):
  for name in ('model.txt', 'model.onnx', 'folder'):
    with pytest.raises(UserError, match=f'{name} is no exported network'):
      engines.open_engine(str(tmp_path / name))
  tmp_path.joinpath('model.pb').write_bytes(b'\xff broken')
  with pytest.raises(UserError, match='model.pb cannot be opened by FrozenGraph'):
    engines.open_engine(str(tmp_path / 'model.pb'))


# --- the comparison ---

def example(height, width, seed=0):
  rng = np.random.default_rng(seed)
  return rng.integers(0, 256, (height, width, 3)).astype(np.uint8), rng.integers(0, 3, (height, width))


def test_cases_are_whole_images_a_batch_and_an_odd_part():
  examples = [example(40, 30), example(31, 64, 1), example(50, 20, 2), example(9, 9, 3)]
  found = comparison.cases(examples)
  assert [case.kind for case in found] == [NATIVE] * 4 + [BATCH, ODD]
  for case, (image, truth) in zip(found, examples):
    np.testing.assert_array_equal(case.images, image[None])
    np.testing.assert_array_equal(case.truth, truth[None])
  assert [found[place].images.shape for place in (4, 5)] == [(3, 31, 20, 3), (1, 27, 19, 3)]
  assert found[4].truth is found[5].truth is None


@pytest.mark.parametrize('height, width', [(1, 1), (2, 3), (4, 1), (6, 5)])
def test_cases_of_one_tiny_image(height, width):
  image, truth = example(height, width)
  _, batch, odd = comparison.cases([(image, truth)])
  np.testing.assert_array_equal(batch.images, [image, image[:, ::-1]])
  assert odd.images.shape[1] % 2 == odd.images.shape[2] % 2 == 1
  assert odd.images.shape[1] <= height and odd.images.shape[2] <= width


def test_cases_of_one_size():
  """Pixels are taken or repeated, of image and truth alike; nothing is odd then."""
  image, truth = example(4, 3)
  found = comparison.cases([(image, truth), example(50, 60)], size=(2, 6))
  assert [case.images.shape for case in found] == [(1, 2, 6, 3), (1, 2, 6, 3), (2, 2, 6, 3)]
  np.testing.assert_array_equal(found[0].images[0], image[[0, 2]][:, [0, 0, 1, 1, 2, 2]])
  np.testing.assert_array_equal(found[0].truth[0], truth[[0, 2]][:, [0, 0, 1, 1, 2, 2]])


def test_large_images_are_cut(monkeypatch):
  monkeypatch.setattr(comparison, 'MOST_PIXELS', 100)
  image, truth = example(40, 10)
  native = comparison.cases([(image, truth)])[0]
  np.testing.assert_array_equal(native.images[0], image[:20, :5])
  np.testing.assert_array_equal(native.truth[0], truth[:20, :5])


def test_comparison_by_hand():
  truth = np.array([[[0, 0, 1, IGNORE_LABEL]]])
  asked = [Case(NATIVE, np.zeros([1, 1, 4, 3]), truth), Case(ODD, np.zeros([1, 1, 1, 3]))]
  one, other = (np.array([[labels]], np.uint8) for labels in ([0, 0, 1, 1], [0, 1, 1, 0]))
  same = np.zeros([1, 1, 1], np.uint8)
  expected = Answers([one, same], [np.array([0.5, 0.5]), np.array([1.0])], 7.0)
  found = comparison.compared(asked, expected, Answers([other, same], [np.array([0.5, 0.2]), np.array([1.0])], 9.0), 2)
  assert (found['pixels'], found['equal']) == (5, 3) and found['equal_share'] == {NATIVE: 0.5, ODD: 1}
  assert found['probabilities'] == {'mean_difference': pytest.approx(0.1), 'greatest_difference': pytest.approx(0.3)}
  assert found['mean_iou'] == {'run': 1, 'exported': 0.5}  # void does not count: IoUs of 1/2 and 1/2
  assert found['milliseconds'] == {'run': 7, 'exported': 9}
  assert comparison.objections(found, Limits(0.6, 0.11)) == []
  share, difference = comparison.objections(found, Limits(0.61, 0.09))
  assert '60.000 % of the pixels' in share and '61 % are wanted' in share and '0.1 on average' in difference
  found['probabilities']['mean_difference'] = float('nan')
  assert len(comparison.objections(found, Limits(0.6, 0.11))) == 1


@pytest.mark.parametrize('labels', [
    np.zeros([1, 1, 3], np.uint8), np.zeros([1, 1, 4], np.int64), np.full([1, 1, 4], 2, np.uint8)])
def test_labels_that_are_none(labels):
  asked = [Case(NATIVE, np.zeros([1, 1, 4, 3]), np.zeros([1, 1, 4], int))]
  expected = Answers([np.zeros([1, 1, 4], np.uint8)], [np.zeros(1)], 1.0)
  with pytest.raises(ValueError, match='labels are|out of range'):
    comparison.compared(asked, expected, Answers([labels], [np.zeros(1)], 1.0), 2)
