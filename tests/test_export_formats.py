"""Exported files: their engines label as the run does, say where they come from, and are kept aside if they do not."""

import importlib.util
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from PIL import Image
from programs import assert_refused, run
from random_run import random_values, write_run_with_data
from test_bands_runs import FIELD, READING

from checkpoints import package
from checkpoints.convert import write_run
from datasets.convert import convert
from datasets.images import encode_png
from datasets.readers.camvid import CAMVID
from nets import get_network
from utils import limits
from utils.compat import tf
from utils.export import artifact, onnx_file, tflite
from utils.export.__main__ import main
from utils.export.formats import FORMATS, Format
from utils.files import ROOT, read_json
from utils.inference.engines import open_engine
from utils.inference.predictor import Predictor
from utils.inference.tta import Views
from utils.runs import load_run, make_config
from utils.session import cpu_config

RNG = np.random.default_rng(5)
IMAGES = [RNG.integers(0, 256, (*shape, 3)).astype(np.uint8) for shape in ((1, 1, 1), (1, 37, 53), (3, 64, 31))]


def case(name, *quantize):
  """Parameters of a test, a format and a quantization; skipped where a package is not installed."""
  needed = (*FORMATS[name].packages, *(package for key in quantize for package in FORMATS[name].quantize[key]))
  missing = [package for package in needed if importlib.util.find_spec(package) is None]
  return pytest.param(name, *quantize, marks=pytest.mark.skipif(
      bool(missing), reason=f'not installed: {", ".join(missing)} (requirements-export.txt)'))


EACH = pytest.mark.parametrize('name', [case(name) for name in FORMATS])
INSTALLED = [name for name, form in FORMATS.items() if all(map(importlib.util.find_spec, form.packages))]


def path_of(out, name, *parts):
  """Path of a format's file in the folder of the results; `parts` of its name follow its stem."""
  stem, end = os.path.splitext(FORMATS[name].file)
  return out / ('-'.join((stem, *parts)) + end)


@pytest.fixture(scope='module')
def folder(tmp_path_factory, tiny):
  """A run, and its data: two pictures as train and as val."""
  return write_run_with_data(tmp_path_factory.mktemp('made'), tiny)


@pytest.fixture
def out(tmp_path):
  return tmp_path / 'out'


@pytest.fixture(scope='module')
def plain(folder, tmp_path_factory):
  """The run in every format, as it is: the Result, and the folder."""
  out = tmp_path_factory.mktemp('plain')
  return run(main, f'--ckpt={folder}', f'--output_dir={out}', f'--format={",".join(INSTALLED)}'), out


@pytest.fixture(scope='module')
def fixed(folder, tmp_path_factory):
  """The run in every format, for one size, with a temperature and the mirrored image: the Result, and the folder."""
  out = tmp_path_factory.mktemp('fixed')
  return run(main, f'--ckpt={folder}', f'--output_dir={out}', f'--format={",".join(INSTALLED)}', '--test_flip',
             '--temperature=1.7', '--size=37,53'), out


@pytest.fixture(scope='module')
def flipped(folder):
  """The Predictor that `fixed` has to equal."""
  with Predictor(load_run(str(folder)), views=Views(flip=True), temperature=1.7) as predictor:
    yield predictor


@pytest.fixture
def export(folder, out):
  """`export(*flags)` runs the program on the run, into a folder of the test; returns a programs.Result."""
  return lambda *flags: run(main, f'--ckpt={folder}', f'--output_dir={out}', *flags)


def exported(result, path):
  """The content of the JSON beside a file that was exported well."""
  assert result.returncode == 0, result.stderr
  assert f'exported: {path}, ' in result.stdout and 'error' not in result.stderr
  return read_json(path.with_name(f'{path.name}.json'))


def assert_same(engine, predictor, images=IMAGES):
  for batch in images:
    np.testing.assert_array_equal(engine.labels(batch), predictor.labels(batch), strict=True)
    np.testing.assert_allclose(engine.probabilities(batch), predictor.probabilities(batch), atol=1e-5, strict=True)


def inside(name, path):
  """The metadata within a file; None for a frozen graph, which has no place for any."""
  if name == 'saved_model':
    return json.loads((path / 'assets.extra/about.json').read_text())
  if name == 'tflite':
    return tflite.read_metadata(str(path))
  if name == 'onnx':
    import onnx
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    return {entry.key: entry.value if entry.value[:1].isalpha() and entry.value not in ('null', 'true', 'false')
            else json.loads(entry.value) for entry in model.metadata_props}
  if name == 'openvino':
    import openvino
    return json.loads(openvino.Core().read_model(path).get_rt_info(['fcn_googlenet']).value)
  return None


def documented(file):
  """The code of the command in docs/export.md that names a file in quotes; without `python -c`, the command itself."""
  text = pathlib.Path(ROOT, 'docs/export.md').read_text()
  blocks = re.findall(r'^    .*\n(?:    .*\n)*', text, re.MULTILINE)
  block = textwrap.dedent(next(block for block in blocks if file in block))
  return re.sub(r'python -c "(.*)"', r'\1', block, flags=re.DOTALL)


@EACH
def test_a_file_labels_any_size_and_batch_and_says_what_it_is(plain, predictor, name):
  result, out = plain
  path = path_of(out, name)
  about = exported(result, path)
  with open_engine(str(path)) as engine:
    assert_same(engine, predictor)
    assert about['check']['engine'] == engine.name
  check = about['check']
  assert check['equal'] == check['pixels'] == 41 * 30 + 67 * 96 + 2 * 41 * 30 + 27 * 19  # two, a batch, an odd part
  assert check['accepted'] and check['mean_iou']['run'] == check['mean_iou']['exported'] > 0
  assert about['classes'] == list(CAMVID.classes) and about['void'] == 255 and len(about['palette']) == 11
  assert about['step'] == 1234 and about['network']['name'] == 'tiny' and about['score'] is None
  assert about['input']['shape'] == ['batch', 'height', 'width', 3] and 'EXIF' in about['input']['pictures']
  assert about['quantize'] is about['calibration'] is None and about['temperature'] == 1
  assert path.name in {file.split('/')[0] for file in about['files']} <= set(os.listdir(out))
  for file, known in about['files'].items():
    assert os.path.getsize(out / file) == known['bytes']
  assert inside(name, path) in (None, {key: part for key, part in about.items() if key not in ('files', 'check')})


def test_nothing_else_is_left(plain):
  result, out = plain
  assert result.stdout.count('exported: ') == len(INSTALLED)
  assert 'note: nothing in the files reads EXIF' in result.stdout
  files = [os.path.basename(path_of(out, name)) for name in INSTALLED]
  more = ['model.bin'] if 'openvino' in INSTALLED else []
  assert set(os.listdir(out)) == {*files, *(f'{file}.json' for file in files), *more}


@pytest.mark.parametrize('name', [case('onnx'), case('openvino'), case('tflite')])
def test_the_documented_command_of_an_engine(plain, predictor, name, tmp_path, monkeypatch):
  if name == 'tflite':
    pytest.importorskip('ai_edge_litert')
  monkeypatch.chdir(plain[1])
  code = documented(f"'{FORMATS[name].file}'").replace(f"'{name}.npy'", f"'{tmp_path}/{name}.npy'")
  np.save(tmp_path / 'images.npy', IMAGES[2])
  exec(code.replace("'images.npy'", f"'{tmp_path}/images.npy'"), {})
  np.testing.assert_array_equal(np.load(tmp_path / f'{name}.npy'), predictor.labels(IMAGES[2]), strict=True)


@EACH
def test_flip_temperature_and_a_fixed_size_are_inside(fixed, flipped, name):
  """Any batch may come, and no other size."""
  result, out = fixed
  path = path_of(out, name, 'flip', '37x53')
  about = exported(result, path)
  assert about['test_flip'] and about['inside'] == ['preprocessing', 'temperature 1.7', 'mean with the mirrored image']
  assert about['input']['shape'] == ['batch', 37, 53, 3] and about['check']['equal_share'].keys() == {'native', 'batch'}
  with open_engine(str(path)) as engine:
    for batch in (IMAGES[1], RNG.integers(0, 256, (3, 37, 53, 3)).astype(np.uint8)):
      np.testing.assert_allclose(engine.probabilities(batch), flipped.probabilities(batch), atol=1e-5)
      assert (engine.labels(batch) == flipped.labels(batch)).mean() > 0.999
    with pytest.raises(Exception):  # noqa: B017, each engine has its own
      engine.labels(IMAGES[2])


LOADED = f'''
import os, sys
os.environ['TF_CPP_MIN_LOG_LEVEL'] = '2'
{documented('photo.jpg').replace('photo.jpg', 'pictures/1.png')}
batch = np.load('images.npy')
np.save('images.npy', np.concatenate([batch, batch[:, ::-1]]))
{documented("load('saved_model')")}
{documented("'model.pb'")}
signatures = tf.saved_model.load('saved_model').signatures
results = signatures['probabilities'](images=tf.constant(np.load('images.npy')))
pictures = [open(os.path.join('pictures', name), 'rb').read() for name in sorted(os.listdir('pictures'))]
results['encoded'] = signatures['encoded'](encoded=tf.constant(pictures))['labels']
np.savez('results.npz', **{{name: tensor.numpy() for name, tensor in results.items()}})
from tensorflow.python.tools import saved_model_cli
for command in 'saved_model_cli show --dir=saved_model --all', {documented('saved_model_cli run')!r}:
  sys.argv = command.replace(chr(92), '').split()
  try:
    saved_model_cli.main()
  except SystemExit as end:
    assert not end.code, command
'''


def test_tensorflows_files_need_nothing_of_this_project(plain, predictor, out):
  """TensorFlow loads them eagerly, and by its command line; pictures may be JPEGs and PNGs of one size."""
  shutil.copytree(plain[1], out)
  (out / 'pictures').mkdir()
  smooth = Image.fromarray(RNG.integers(0, 256, (5, 4, 3)).astype(np.uint8)).resize((31, 64), Image.Resampling.BICUBIC)
  smooth.save(out / 'pictures/0.jpg', quality=80)
  smooth.save(out / 'pictures/1.png')
  shown = subprocess.run([sys.executable, '-c', LOADED], cwd=out, check=True, stdout=subprocess.PIPE, text=True).stdout
  batch = np.stack([np.asarray(smooth), np.asarray(smooth)[::-1]])
  for path in 'saved_model.npy', 'pb.npy', 'saved_model_cli/labels.npy':
    np.testing.assert_array_equal(np.load(out / path), predictor.labels(batch), strict=True)
  decoded = np.stack([np.asarray(Image.open(out / 'pictures' / name)) for name in ('0.jpg', '1.png')])
  with np.load(out / 'results.npz') as results:
    np.testing.assert_array_equal(results['labels'], predictor.labels(batch))
    np.testing.assert_allclose(results['probabilities'], predictor.probabilities(batch), atol=1e-5)
    np.testing.assert_array_equal(results['encoded'], predictor.labels(decoded))
  for signature in 'serving_default', 'probabilities', 'encoded':
    assert f"signature_def['{signature}']" in shown
  assert shown.count('dtype: DT_UINT8\n        shape: (-1, -1, -1, 3)') == 2


def test_weights_are_stored_once(plain):
  """Also in a SavedModel, whose signatures share them."""
  out = plain[1]
  graphs = [tf.GraphDef.FromString((out / 'model.pb').read_bytes()), tf.saved_model.loader.load(
      tf.Session(graph=tf.Graph(), config=cpu_config()), ['serve'], str(out / 'saved_model')).graph_def]
  alone, whole = ([node.name for node in graph.node if node.op == 'Const' and node.ByteSize() > 500]
                  for graph in graphs)
  assert len(alone) > 5 and sorted(alone) == sorted(whole)


def test_requests_of_tensorflow_serving(plain, predictor):
  """What clients send and get, as messages of its API; the server's part is done by TensorFlow's loader."""
  metadata = pytest.importorskip('tensorflow_serving.apis.get_model_metadata_pb2')
  from tensorflow_serving.apis import predict_pb2

  with tf.Session(graph=tf.Graph(), config=cpu_config()) as session:
    signatures = tf.saved_model.loader.load(session, ['serve'], str(plain[1] / 'saved_model')).signature_def
    answer = metadata.GetModelMetadataResponse()
    answer.metadata['signature_def'].Pack(metadata.SignatureDefMap(signature_def=signatures))
    known = metadata.SignatureDefMap()
    assert metadata.GetModelMetadataResponse.FromString(
        answer.SerializeToString()).metadata['signature_def'].Unpack(known)
    pictures = [encode_png(image) for image in IMAGES[2]]
    for name, sent in (('serving_default', IMAGES[2]), ('probabilities', IMAGES[2]), ('encoded', pictures)):
      request = predict_pb2.PredictRequest()
      request.model_spec.signature_name = name
      request.inputs['encoded' if sent is pictures else 'images'].CopyFrom(tf.make_tensor_proto(sent))
      request = predict_pb2.PredictRequest.FromString(request.SerializeToString())
      signature = known.signature_def[name]
      assert signature.method_name == 'tensorflow/serving/predict'
      assert set(signature.outputs) == {'labels', *(['probabilities'] if name == 'probabilities' else [])}
      response = predict_pb2.PredictResponse()
      for key, value in session.run({key: info.name for key, info in signature.outputs.items()}, fed(
          signature, request.inputs)).items():
        assert tf.as_dtype(signature.outputs[key].dtype) == value.dtype
        assert tf.TensorShape(signature.outputs[key].tensor_shape).is_compatible_with(value.shape)
        response.outputs[key].CopyFrom(tf.make_tensor_proto(value))
      np.testing.assert_array_equal(tf.make_ndarray(response.outputs['labels']), predictor.labels(IMAGES[2]))


def fed(signature, inputs):
  """Checks the inputs of a request against a signature as a server does; returns what to feed to its graph."""
  assert set(inputs) == set(signature.inputs)
  for name, info in signature.inputs.items():
    assert inputs[name].dtype == info.dtype
    assert tf.TensorShape(info.tensor_shape).is_compatible_with(tf.TensorShape(inputs[name].tensor_shape))
  return {info.name: tf.make_ndarray(inputs[name]) for name, info in signature.inputs.items()}


def rounded_channels(path):
  """Numbers of channels of the features [B, C, H, W] that a model of OpenVINO rounds to int8."""
  import openvino

  shapes = [layer.output(0).get_partial_shape() for layer in openvino.Core().read_model(path).get_ordered_ops()
            if layer.get_type_name() == 'FakeQuantize']
  return [shape[1].get_length() for shape in shapes if len(shape) == 4 and shape[1].is_static]


@pytest.mark.parametrize('name, quantize', [
    case('onnx', 'float16'), case('onnx', 'int8_weights'), case('openvino', 'int8'), case('tflite', 'int8_weights'),
    case('tflite', 'int8')])
def test_fewer_bits_take_less_and_differ_a_little(export, plain, out, name, quantize):
  """Random weights have many near ties: of the labels, fewer agree than of a trained network's."""
  size = ('41x30',) if (name, quantize) == ('tflite', 'int8') else ()
  flags = [f'--size={size[0].replace("x", ",")}'] if size else []
  result = export(f'--format={name}', f'--quantize={quantize}', '--least_equal=0.9', *flags)
  about = exported(result, path_of(out, name, quantize, *size))
  check = about['check']
  assert 0 < check['probabilities']['mean_difference'] <= check['limits']['difference']
  assert about['calibration'] == ({'split': 'train', 'num_images': 2} if quantize == 'int8' else None)
  if name == 'openvino':  # whose file is mostly the text of its graph here
    channels = rounded_channels(path_of(out, name, quantize))
    assert len(channels) >= 3 and len(CAMVID.classes) not in channels  # scores are not rounded
  else:
    whole = exported(plain[0], path_of(plain[1], name))['files']
    assert sum(file['bytes'] for file in about['files'].values()) < 0.9 * sum(file['bytes'] for file in whole.values())


# --- what goes wrong ---

@pytest.fixture
def broken(monkeypatch):
  """`broken(write)` lets the format pb be written by another function."""
  return lambda write: monkeypatch.setitem(FORMATS, 'pb', Format('model.pb', write, memory=1))


def write_another(job, path):
  """Writes a network that divides by another temperature: its labels are the same."""
  graph = job.graph_def
  for node in graph.node:
    if node.name == 'probabilities':
      node.op, node.input[0] = 'Identity', 'logits'
  pathlib.Path(path).write_bytes(graph.SerializeToString())


def test_what_differs_is_kept_aside_and_an_older_file_stays(export, out, broken):
  assert export('--format=pb').returncode == 0
  before = {name: (out / name).read_bytes() for name in os.listdir(out)}
  broken(write_another)
  for _ in range(2):
    result = export('--format=pb')
    assert_refused(result, '--format=pb: probabilities differ by', f'kept as {out}/model.pb.rejected')
    assert 'exported:' not in result.stdout
  assert {name: (out / name).read_bytes() for name in before} == before
  assert set(os.listdir(out)) == {*before, 'model.pb.rejected', 'model.pb.rejected.json'}
  check = json.loads((out / 'model.pb.rejected.json').read_text())['check']
  assert not check['accepted'] and check['equal'] == check['pixels'] and len(check['reasons']) == 1


def test_a_folder_is_kept_aside_too(export, out, monkeypatch):
  assert export('--format=saved_model').returncode == 0
  monkeypatch.setattr(artifact.comparison, 'objections', lambda *arguments: ['bad'])
  for _ in range(2):
    assert_refused(export('--format=saved_model'), f'bad; what was written is kept as {out}/saved_model.rejected')
  assert (out / 'saved_model/saved_model.pb').exists() and (out / 'saved_model.rejected/saved_model.pb').exists()


@pytest.mark.parametrize('content', [b'\xff', b''])
def test_what_no_engine_opens(export, out, broken, content):
  broken(lambda job, path: pathlib.Path(path).write_bytes(content))
  assert_refused(export('--format=pb'), 'it does not run: ', 'model.pb.rejected')
  assert not (out / 'model.pb').exists()


def test_one_format_that_fails_leaves_the_others(export, out, broken):
  def fail(job, path):
    pathlib.Path(path).write_bytes(b'half')
    raise RuntimeError('no such op: MaxPoolGrad\nand much more')

  broken(fail)
  result = export('--format=pb,saved_model')
  assert_refused(result, '--format=pb: cannot be converted: no such op: MaxPoolGrad')
  assert 'much more' not in result.stderr and f'exported: {out}/saved_model, ' in result.stdout
  assert set(os.listdir(out)) == {'saved_model', 'saved_model.json'}


def test_too_little_memory_is_said_before_the_work(export, out, monkeypatch):
  monkeypatch.setattr(limits, 'memory', lambda *root: (2**34, 2**29))
  assert_refused(export('--format=pb'), '--format=pb: it takes about 1.0 GiB of memory, and 0.5 are free')
  assert not out.exists()
  monkeypatch.setattr(limits, 'memory', lambda *root: (2**34, 2**31))
  monkeypatch.setitem(FORMATS, 'tflite', Format('model.tflite', None, memory=1e6))
  result = export('--format=tflite,pb')
  assert_refused(result, '--format=tflite: it takes about', '2.0 are free')
  assert f'exported: {out}/model.pb' in result.stdout


def test_files_of_others_are_not_replaced(export, out):
  out.mkdir()
  (out / 'model.pb').write_bytes(b'mine')
  assert_refused(export('--format=saved_model,pb'), 'model.pb is there already, and was not written by this program')
  assert os.listdir(out) == ['model.pb'] and (out / 'model.pb').read_bytes() == b'mine'


def test_without_images_nothing_is_exported(folder, out, tmp_path):
  flags = f'--ckpt={folder}', '--format=pb', f'--output_dir={out}'
  assert_refused(run(main, *flags, f'--data_dir={tmp_path}'), str(tmp_path), 'val')
  assert_refused(run(main, *flags, '--split=test'), "'test'")
  assert not out.exists()


def test_a_package_is_exported_beside_itself(folder, tmp_path):
  assert run(package.main, f'--ckpt={folder}', f'--output={tmp_path}/tiny.zip', '--num_images=0').returncode == 0
  about = exported(run(main, f'--ckpt={tmp_path}/tiny.zip', '--format=pb'), tmp_path / 'tiny-results/export/model.pb')
  assert about['name'] == 'run' and about['step'] == 1234


def test_the_runs_own_temperature_is_taken(folder, export, out, monkeypatch):
  monkeypatch.setattr('utils.inference.temperature.stored_temperature', lambda run: 2.5)
  assert exported(export('--format=pb'), out / 'model.pb')['temperature'] == 2.5
  assert exported(export('--format=pb', '--temperature=1'), out / 'model.pb')['temperature'] == 1


@pytest.mark.parametrize('name', [case('onnx')])
def test_constants_that_are_kept_from_tf2onnx(export, predictor, out, monkeypatch, name):
  """Their values are in the file at last, those of kernels transposed; there is one input."""
  import onnx

  monkeypatch.setattr(onnx_file, 'STAND_IN_BYTES', 1000)
  path = path_of(out, name)
  exported(export('--format=onnx'), path)
  assert [value.name for value in onnx.load(path).graph.input] == ['images']
  with open_engine(str(path)) as engine:
    assert_same(engine, predictor)


def test_images_of_many_bands(tmp_path, out, tiny):
  """Of 16 bits, three of them chosen; without a signature for encoded pictures."""
  convert(FIELD, 'val', source_dir=str(tmp_path), data_dir=str(tmp_path / 'data'), num_workers=1, progress=False)
  config = make_config({'data_dir': str(tmp_path / 'data'), 'skip': '8s'}, FIELD, get_network(tiny))
  config['dataset']['reading'], config['network']['bands'] = READING.to_json(), [4, 1, 6]
  with tf.Graph().as_default():
    get_network(tiny).logits(tf.placeholder(tf.float32, [None, None, None, 3]), 2, skip='8s')
    write_run(str(tmp_path / 'run'), random_values(tf.global_variables()), config)
  names = [name for name in INSTALLED if name not in ('pb', 'openvino')]
  result = run(main, f'--ckpt={tmp_path}/run', f'--output_dir={out}', f'--format={",".join(names)}')
  for name in names:
    about = exported(result, path_of(out, name))
    assert about['input']['shape'][3] == 6 and about['input']['dtype'] == 'uint16'
  images = RNG.integers(0, 6000, (2, 21, 34, 6)).astype(np.uint16)
  with Predictor(load_run(f'{tmp_path}/run')) as predictor:
    for name in names:
      with open_engine(str(path_of(out, name))) as engine:
        assert_same(engine, predictor, [images])
  with tf.Session(graph=tf.Graph(), config=cpu_config()) as session:
    loaded = tf.saved_model.loader.load(session, ['serve'], str(out / 'saved_model'))
  assert set(loaded.signature_def) == {'serving_default', 'probabilities'}
