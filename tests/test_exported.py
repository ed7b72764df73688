"""--engine of the scripts: exported files label as the run does, and a file of anything else is refused."""

import dataclasses
import importlib.util
import json
import os
import pathlib
import shutil

import numpy as np
import pytest
from PIL import Image
from programs import assert_refused, run
from random_run import write_run, write_run_with_data

import evaluate
import inference
from datasets.readers.camvid import CAMVID
from utils.cpu import supports_bfloat16
from utils.errors import UserError
from utils.evaluation.run import variant
from utils.evaluation.settings import EvaluateSettings
from utils.export.__main__ import main as export
from utils.export.formats import FORMATS
from utils.inference import exported
from utils.inference.engines import STEADY
from utils.inference.exported import FILES, EngineFlags, ExportedNetwork, find_artifact
from utils.inference.predictor import Predictor
from utils.inference.settings import InferenceSettings
from utils.inference.tta import Views
from utils.runs import load_run
from utils.settings import parse

RNG = np.random.default_rng(7)
SIZES = (41, 30), (67, 96), (37, 53), (37, 53), (37, 53), (300, 280)


def case(engine):
  """A parameter, an engine; skipped where a package that writes or runs its file is not installed."""
  needed = FORMATS[FILES[engine][0]].packages
  missing = [package for package in needed if importlib.util.find_spec(package) is None]
  return pytest.param(engine, marks=pytest.mark.skipif(
      bool(missing), reason=f'not installed: {", ".join(missing)} (requirements-export.txt)'))


EACH = pytest.mark.parametrize('engine', [case(engine) for engine in FILES])
LITERT = 'litert'  # needs nothing but TensorFlow


@pytest.fixture(scope='module')
def folder(tmp_path_factory, tiny):
  """A run with its data, and its exports for the engines that are installed."""
  made = write_run_with_data(tmp_path_factory.mktemp('made'), tiny)
  forms = [form for form, _ in FILES.values() if all(map(importlib.util.find_spec, FORMATS[form].packages))]
  result = run(export, f'--ckpt={made}', f'--format={",".join(forms)}')
  assert result.returncode == 0, result.stderr
  result = run(export, f'--ckpt={made}', '--format=tflite', '--size=37,53', '--test_flip')
  assert result.returncode == 0, result.stderr
  return made


@pytest.fixture(scope='module')
def photos(tmp_path_factory):
  """Pictures of SIZES: a list of paths."""
  base = tmp_path_factory.mktemp('photos')
  for number, size in enumerate(SIZES):
    small = Image.fromarray(RNG.integers(0, 256, (9, 7, 3)).astype(np.uint8))
    small.resize(size[::-1], Image.Resampling.BICUBIC).save(base / f'{number}.png')
  return sorted(base.iterdir())


@pytest.fixture
def copy(folder, tmp_path):
  """A copy of the run, in which files may be changed."""
  shutil.copytree(folder, tmp_path / 'copy')
  return tmp_path / 'copy'


def told(copy, path='model.tflite', **values):
  """Changes entries of the JSON beside an exported file."""
  beside = copy / 'export' / f'{path}.json'
  beside.write_text(json.dumps({**json.loads(beside.read_text()), **values}))


def opened(folder, engine, views=Views(), path=None, precision='float32'):  # noqa: B008, the record is frozen
  trained = load_run(str(folder))
  artifact = find_artifact(trained, EngineFlags(engine, path and str(path)), views, 1.0)
  return ExportedNetwork(trained, artifact, views, precision)


def read(path):
  with Image.open(path) as image:
    return np.asarray(image)


def labeled(infer, photos, *flags):
  """Labels pictures by inference.py: the Result, a list of label PNGs, and a list of probabilities."""
  shutil.rmtree('predictions', ignore_errors=True)
  result = infer('--probabilities', '--outputs=label', *flags, *photos)
  assert result.returncode == 0, result.stderr
  stems = [f'predictions/{path.stem}' for path in photos]
  return result, [read(f'{stem}_label.png') for stem in stems], [np.load(f'{stem}_probabilities.npy') for stem in stems]


@pytest.fixture(scope='module')
def known():
  """What the run itself gives, by the flags: engines are compared with it, and it is computed once."""
  return {}


def test_names_of_files_are_those_that_export_writes():
  for form, name in FILES.values():
    assert FORMATS[form].file == name


@EACH
@pytest.mark.parametrize('flags', [
    (), ('--test_flip', '--test_scales=0.7,1'), ('--max_pixels=70000', '--tile_size=256')])
def test_inference_labels_as_the_run_does(infer, folder, photos, engine, flags, known):
  """Odd sizes, batches, views, tiles."""
  if flags not in known:
    known[flags] = labeled(infer, photos, *flags)
  _, labels, probabilities = known[flags]
  result, others, other_probabilities = labeled(infer, photos, *flags, f'--engine={engine}')
  path = folder / 'export' / FILES[engine][1]
  assert f': {path}, exported of step 1234, float32, images of any size, compared with' in result.stdout
  for one, other, first, second in zip(labels, others, probabilities, other_probabilities, strict=True):
    assert one.shape == other.shape and (one == other).mean() > 0.999
    np.testing.assert_allclose(first, second, atol=2e-3)  # float16
  assert len(np.unique(labels[-1])) > 2


@EACH
def test_labels_alone_and_a_ranking(infer, photos, engine, known):
  def found(*flags):
    assert infer(*flags, *photos).returncode == 0
    labels = [read(f'predictions/{path.stem}_label.png') for path in photos]
    assert all(os.path.exists(f'predictions/{path.stem}_overlay.png') for path in photos)
    assert infer('--rank', '--output_dir=ranked', *flags, *photos).returncode == 0
    return labels, pathlib.Path('ranked/rank.txt').read_text()

  if 'rank' not in known:
    known['rank'] = found()
    shutil.rmtree('predictions')
    shutil.rmtree('ranked')
  labels, ranks = found(f'--engine={engine}')
  for label, other in zip(labels, known['rank'][0], strict=True):
    assert (label == other).mean() > 0.999
  assert ranks == known['rank'][1] and ranks.count('\n') >= len(photos)


@EACH
def test_views_are_averaged_as_the_predictors(folder, engine):
  images, views = RNG.integers(0, 256, (3, 45, 31, 3)).astype(np.uint8), Views(flip=True, scales=(0.5, 1.0, 1.3))
  with opened(folder, engine, views) as network, Predictor(load_run(str(folder)), views=views) as predictor:
    np.testing.assert_allclose(network.probabilities(images), predictor.probabilities(images), atol=1e-4)
    for measure in ('margin', 'entropy'):
      for one, other in zip(network.sampled(images, measure), predictor.sampled(images, measure), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-3)


@EACH
def test_evaluation_has_a_name_of_its_own(folder, tmp_path, engine):
  flags = f'--ckpt={folder}', f'--output_dir={tmp_path}', '--details'
  assert run(evaluate.main, *flags).returncode == 0
  result = run(evaluate.main, *flags, f'--engine={engine}')
  assert result.returncode == 0, result.stderr
  plain, value = (json.loads((tmp_path / f'metrics-{name}.json').read_text()) for name in ('val', f'val-{engine}'))
  assert value['mean_iou'] == pytest.approx(plain['mean_iou'], abs=1e-3) and value['mean_iou'] > 0
  assert value['engine'].endswith(f': {FILES[engine][1]}') and 'engine' not in plain and 'artifact' not in plain
  artifact = value['artifact']
  assert artifact['file'] == str(folder / 'export' / FILES[engine][1]) and artifact['step'] == 1234
  assert artifact['quantize'] is None and artifact['size'] == [] and FILES[engine][1] in artifact['files']
  assert value['precision'] == 'float32' and (tmp_path / f'confusion-val-{engine}.png').exists()
  error, other = (one['details']['calibration']['expected_calibration_error'] for one in (plain, value))
  assert error == pytest.approx(other, abs=1e-3)


@pytest.mark.parametrize('engine', [case('openvino')])
@pytest.mark.parametrize('fails', [False, True])
def test_images_of_one_shape_get_a_model_of_their_own(folder, predictor, engine, fails, monkeypatch):
  """Labels stay what they are, before, within and after; also where OpenVINO has no such model."""
  shapes = [(1, 37, 53)] * (STEADY + 2) + [(2, 21, 30)] + [(1, 21, 30)] * (STEADY + 1) + [(1, 37, 53)]
  with opened(folder, engine) as network:
    only, own = network._engine._only, []

    def watched(output, shape=None):
      own.append(shape)
      if fails and shape:
        raise RuntimeError('no such kernel')
      return only(output, shape)

    monkeypatch.setattr(network._engine, '_only', watched)
    for shape in shapes:
      images = RNG.integers(0, 256, (*shape, 3)).astype(np.uint8)
      assert (network.labels(images) == predictor.labels(images)).mean() > 0.999
    assert [shape for shape in own if shape] == (
        [(1, 37, 53, 3)] if fails else [(1, 37, 53, 3)] * 3 + [(1, 21, 30, 3)] * 2)
    images = images[:, ::-1]
    np.testing.assert_allclose(network.probabilities(images), predictor.probabilities(images), atol=1e-4)


@pytest.mark.skipif(not supports_bfloat16(), reason='this CPU has no AVX512-BF16')
@pytest.mark.parametrize('engine', [case('openvino')])
def test_openvino_computes_in_bfloat16(folder, tmp_path, engine, monkeypatch):
  """Where OpenVINO has nothing for a shape, in float32."""
  result = run(evaluate.main, f'--ckpt={folder}', f'--output_dir={tmp_path}', '--engine=openvino',
               '--precision=bfloat16')
  assert result.returncode == 0 and ', bf16: ' in result.stdout and 'precision bfloat16' in result.stdout
  value = json.loads((tmp_path / 'metrics-val-openvino-bfloat16.json').read_text())
  assert value['precision'] == 'bfloat16' and ', bf16: ' in value['engine']
  images = RNG.integers(0, 256, (2, 33, 45, 3)).astype(np.uint8)
  with opened(folder, engine) as network, opened(folder, engine, precision='bfloat16') as rounded:
    apart = np.abs(network.probabilities(images) - rounded.probabilities(images))
    assert 0 < apart.mean() < 0.02
    images = RNG.integers(0, 256, (1, 20, 900, 3)).astype(np.uint8)  # bfloat16 rounds positions beyond 256
    apart = np.abs(network.probabilities(images) - rounded.probabilities(images))[:, :, 600:]
    assert apart.mean() < 0.02

    def watched(output, shape=None):
      if shape:
        raise RuntimeError('no such kernel')
      return only(output)

    only = rounded._engine._only
    monkeypatch.setattr(rounded._engine, '_only', watched)
    np.testing.assert_allclose(rounded.probabilities(images), network.probabilities(images), atol=1e-4)


def test_auto_is_the_fastest_precision_of_an_engine(monkeypatch):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: True)
  for has_bfloat16 in (False, True):
    for module in (exported, importlib.import_module('utils.session'), importlib.import_module('utils.devices')):
      monkeypatch.setattr(module, 'supports_bfloat16', lambda has=has_bfloat16: has)
    chosen = {engine: parse(InferenceSettings, ['--ckpt=x', f'--engine={engine}', '--precision=auto']).labelling.placed
              for engine in FILES}
    assert {one.precision for name, one in chosen.items() if name != 'openvino'} == {'float32'}
    assert chosen['openvino'].precision == ('bfloat16' if has_bfloat16 else 'float32')


@EACH
@pytest.mark.parametrize('name', [b'caf\xe9', b'two\nlines [a]*'])
def test_folders_of_any_name(folder, tmp_path, engine, name):
  place = shutil.copytree(folder / 'export', os.path.join(tmp_path, os.fsdecode(name)))
  with opened(folder, engine, path=os.path.join(place, FILES[engine][1])) as network:
    assert network.labels(np.zeros((1, 5, 4, 3), np.uint8)).shape == (1, 5, 4)


# --- refused by flags, before any work ---

@pytest.mark.fast
@pytest.mark.parametrize('record', [InferenceSettings, EvaluateSettings])
@pytest.mark.parametrize('words, message', [
    (['--engine=tensorrt'], '--engine=tensorrt: valid are tensorflow, onnxruntime, openvino, litert'),
    (['--engine=litert', '--samples=4'], '--samples=4: exported files have no dropout'),
    (['--engine=litert', '--gpu=0'], '--gpu=0: --engine=litert computes on the CPU'),
    (['--engine=litert', '--gpu_memory_fraction=0.5'], '--gpu_memory_fraction=0.5: --engine=litert computes'),
    (['--engine=litert', '--precision=bfloat16'], '--precision=bfloat16: --engine=litert computes in float32;'),
    (['--engine=litert', '--precision=float16'], '--precision=float16: --engine=litert computes in float32;'),
    (['--engine=litert', '--engine_file=model.onnx'], '--engine_file=model.onnx: files of --engine=litert end'),
    (['--engine_file=model.onnx'], '--engine_file=model.onnx: is for --engine=onnxruntime or openvino or litert')])
def test_what_an_engine_does_not_have_is_refused(record, words, message):
  with pytest.raises(UserError) as error:
    parse(record, ['--ckpt=no/such/run', *words])
  assert str(error.value).startswith(message)


@pytest.mark.fast
def test_no_temperature_is_fitted_on_an_engine():
  with pytest.raises(UserError, match='it goes without .*--engine'):
    parse(EvaluateSettings, ['--ckpt=x', '--engine=litert', '--fit_temperature'])


@pytest.mark.fast
def test_a_missing_package_is_named(monkeypatch):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  for engine, package in (('onnxruntime', 'onnxruntime'), ('openvino', 'openvino')):
    with pytest.raises(UserError, match=f'--engine={engine} needs the package {package}: .*requirements-export.txt'):
      parse(InferenceSettings, ['--ckpt=x', f'--engine={engine}'])
  parse(InferenceSettings, ['--ckpt=x', '--engine=litert'])  # TensorFlow has an interpreter


# --- refused by what the file says ---

def refused(copy, *flags, engine=LITERT):
  """The error of evaluate.py on a run, one line, without any results."""
  before = sorted(os.listdir(copy))
  result = run(evaluate.main, f'--ckpt={copy}', f'--engine={engine}', *flags)
  assert_refused(result)
  assert sorted(os.listdir(copy)) == before
  return result.stderr


def test_without_an_export_the_command_that_makes_it_is_said(copy, infer, photos):
  shutil.rmtree(copy / 'export')
  command = f'python -m utils.export --ckpt={copy}/model.ckpt-1234 --format=tflite'
  assert f'there is no {copy}/export/model.tflite; this makes it: {command}' in refused(copy)
  assert f'{command} --temperature=1.7' in refused(copy, '--temperature=1.7')
  assert '--engine_file=other.tflite: no such file' in refused(copy, '--engine_file=other.tflite')
  assert f'{command} --temperature=1.2345678\n' in refused(copy, '--temperature=1.2345678')
  (copy / 'temperature.json').write_text('{"temperature": 1.5}')  # which an export would take of itself
  assert f'{command} --temperature=1.0\n' in refused(copy, '--temperature=1')
  (copy / 'temperature.json').unlink()
  result = run(inference.main, f'--ckpt={copy}', '--engine=litert', *photos)
  assert_refused(result, command)
  assert not os.listdir('predictions')


@pytest.mark.parametrize('values, message', [
    ({'weights': 'f' * 64, 'step': 700}, 'it has other weights (step 700). This makes one: python -m utils.export'),
    ({'classes': ['a', 'b']}, 'it has other classes (2, here 11)'),
    ({'network': {'name': 'tiny', 'skip': '8s', 'input_scale': 1.5}}, 'its network has other options'),
    ({'input': {'bands': ['red', 'green', 'blue'], 'stored_bands': ['red', 'green', 'blue'], 'dtype': 'uint16',
                'shape': ['batch', 'height', 'width', 3]}}, 'its dtype is uint16, here uint8'),
    ({'temperature': 2.5}, 'it has temperature 2.5 inside, and 1 is asked for'),
    ({'check': {'accepted': False}}, 'export the run again'),
    ({'format': 'a page'}, 'export the run again'),
    ({'temperature': '1'}, 'export the run again'),
    ({'calibration': {}, 'step': True, 'check': {'accepted': True}}, 'export the run again'),
    ({'input': None}, 'export the run again'),
    ({'files': []}, 'export the run again'),
    ({'files': {'../model.tflite': {'sha256': ''}, 'model.tflite': {'sha256': ''}}}, 'export the run again'),
    ({'files': {'model.tflite': {'sha256': '00'}}}, 'is not the file that')])
def test_a_file_that_is_not_of_the_run_is_refused(copy, values, message):
  told(copy, **values)
  assert message in refused(copy)


def test_a_file_without_or_with_an_older_json_is_refused(copy):
  beside = copy / 'export/model.tflite.json'
  about = json.loads(beside.read_text())
  beside.write_text(json.dumps({key: value for key, value in about.items() if key != 'weights'}))
  assert 'does not say of which weights the file is' in refused(copy)
  beside.write_text('[1]')
  assert 'does not say of which weights the file is' in refused(copy)
  beside.write_text('{')
  assert 'model.tflite.json' in refused(copy)
  beside.unlink()
  assert 'model.tflite.json' in refused(copy)


def test_a_file_of_another_checkpoint_is_refused(copy, folder, tiny, tmp_path):
  other = write_run(tmp_path / 'other', CAMVID.classes, network=tiny, data_dir=folder.parent / 'data', seed=3)
  message = refused(other, f'--engine_file={folder}/export/model.tflite')
  assert f'is not the network of {other}/model.ckpt-1234 (step 1234): it has other weights' in message


def test_changed_bytes_are_noticed(copy):
  with open(copy / 'export/model.tflite', 'r+b') as file:
    file.seek(5000)
    file.write(b'changed')
  assert 'is not the file that' in refused(copy)


@pytest.mark.parametrize('engine', [case('openvino')])
def test_openvinos_second_file_belongs_to_the_first(copy, engine):
  (copy / 'export/model.bin').unlink()
  assert 'model.bin is not the file that' in refused(copy, engine=engine)


def test_the_temperature_of_the_file_is_asked_for(copy):
  """A temperature fitted after the export, as one of the flag."""
  assert 'temperature 1 inside, and 2 is asked for' in refused(copy, '--temperature=2')
  result = run(export, f'--ckpt={copy}', '--format=tflite', '--temperature=2')
  assert result.returncode == 0
  result = run(evaluate.main, f'--ckpt={copy}', '--engine=litert', '--temperature=2')
  assert result.returncode == 0, result.stderr
  assert (copy / 'metrics-val-litert-temperature_2.json').exists()


# --- files with more inside ---

def test_a_fixed_size_and_the_mirrored_image_inside(folder, infer, photos):
  """What is inside is not done again; other sizes are refused before any picture is labeled."""
  file = folder / 'export/model-flip-37x53.tflite'
  flags = '--engine=litert', f'--engine_file={file}'
  assert_refused(infer(*flags, *photos[2:5]), 'averages with the mirrored image: give --test_flip as well')
  assert_refused(infer(*flags, '--test_flip', '--test_scales=1,1.5', *photos[2:5]), '--test_scales: ', '37x53')
  assert_refused(infer(*flags, '--test_flip', *photos), '3 of 6 have others, such as 41x30')
  turned = Image.Exif()
  turned[0x0112] = 6
  Image.new('RGB', (53, 37)).save('sideways.jpg', exif=turned)  # upright 53x37: height and width the other way
  assert_refused(infer(*flags, '--test_flip', 'sideways.jpg'), '1 of 1 have others, such as 53x37')
  Image.new('RGB', (37, 53)).save('upright.jpg', exif=turned)
  assert infer(*flags, '--test_flip', 'upright.jpg').returncode == 0
  _, labels, probabilities = labeled(infer, photos[2:5], '--test_flip')
  result, others, other_probabilities = labeled(infer, photos[2:5], '--test_flip', *flags)
  assert 'images of 37x53' in result.stdout
  assert np.mean([one == other for one, other in zip(labels, others)]) > 0.999
  np.testing.assert_allclose(probabilities, other_probabilities, atol=2e-3)


def test_a_size_that_comes_later_is_refused_in_a_line(folder):
  views, file = Views(flip=True), folder / 'export/model-flip-37x53.tflite'
  with opened(folder, LITERT, views, file) as network:
    assert network.views.plain and network.labels(np.zeros((2, 37, 53, 3), np.uint8)).shape == (2, 37, 53)
    with pytest.raises(UserError, match='takes images of 37x53 .* alone, and this is one of 53x37'):
      network.labels(np.zeros((1, 53, 37, 3), np.uint8))


def test_names_of_results_tell_files_apart(folder, tmp_path):
  settings = parse(EvaluateSettings, ['--ckpt=x', '--engine=litert', '--test_flip'])
  views, path = Views(flip=True), folder / 'export/model-flip-37x53.tflite'
  own = opened(folder, LITERT, views, path).artifact
  assert variant(settings, own) == 'val-litert_flip_37x53-flip'
  shutil.copytree(folder / 'export', tmp_path / 'export')
  other = opened(folder, LITERT, views, tmp_path / 'export' / path.name).artifact
  digest = own.about['files'][path.name]['sha256'][:8]
  assert variant(settings, other) == f'val-litert_flip_37x53_{digest}-flip'
  assert variant(settings, dataclasses.replace(own, path='export/model.tflite')) == 'val-litert-flip'


def test_an_engine_that_fails_is_said_in_a_line(folder, monkeypatch):
  def fail(output, images):
    raise RuntimeError('Exception from x.cpp:1:\n\nnode conv3 does not run\nmore')

  with opened(folder, LITERT) as network:
    monkeypatch.setattr(network._engine, '_run', fail)
    with pytest.raises(UserError, match=r'model.tflite: .* fails on 1 images of 5x4 .*: node conv3 does not run$'):
      network.labels(np.zeros((1, 5, 4, 3), np.uint8))
    said = '[ONNXRuntimeError] : 1 : FAIL : Conv node. Failed to allocate memory for requested buffer of size 13034990'
    for error in (MemoryError(), RuntimeError(said)):
      monkeypatch.setattr(network._engine, '_run', lambda *inputs, error=error: (_ for _ in ()).throw(error))
      with pytest.raises(MemoryError):
        network.probabilities(np.zeros((1, 5, 4, 3), np.uint8))


@pytest.mark.skipif(importlib.util.find_spec('pydensecrf') is None, reason='pydensecrf2 is not installed')
def test_the_crf_refines_an_engines_labels(folder, infer, photos):
  _, labels, _ = labeled(infer, photos[:2], '--crf', '--num_workers=1')
  _, others, _ = labeled(infer, photos[:2], '--crf', '--num_workers=1', '--engine=litert')
  for one, other in zip(labels, others, strict=True):
    assert (one == other).mean() > 0.99


def test_corruptions_of_an_engine(folder, tmp_path):
  result = run(evaluate.main, f'--ckpt={folder}', f'--output_dir={tmp_path}', '--engine=litert',
               '--corruptions=brightness', '--severities=1', '--num_workers=1')
  assert result.returncode == 0, result.stderr
  value = json.loads((tmp_path / 'metrics-val-litert-corruptions_brightness-severities_1.json').read_text())
  assert value['engine'].endswith('model.tflite') and value['mpc'] > 0
