"""The page without a server: what it is built of, and its labels in a real browser, by ONNX in WebAssembly."""

import base64
import hashlib
import io
import json
import shutil
import tarfile

import loopback
import numpy as np
import pytest
from browser import Page, chromium
from programs import assert_refused
from random_run import write_run
from running_server import decoded, encoded, pixels

from datasets.readers.voc import VOC
from utils.runs import load_run
from utils.serving import build_page
from utils.serving.page_files import STATIC_FILES, STATIC_POLICY

CLASSES = VOC.classes
DATA = b'onnx' * 100


def about(data=DATA, **changes):
  """What python -m utils.export writes beside an ONNX file, as far as the page needs it."""
  palette = np.random.default_rng(1).integers(0, 256, (len(CLASSES), 3)).tolist()
  seen = {'stored_bands': ['red', 'green', 'blue'], 'dtype': 'uint8', 'shape': ['batch', 'height', 'width', 3]}
  return {'format': 'FCN-GoogLeNet export', 'classes': list(CLASSES), 'palette': palette, 'label_values': [],
          'step': 12, 'network': {'name': 'tiny', 'skip': '8s'}, 'dataset': {'name': 'voc'}, 'input': seen,
          'files': {'model.onnx': {'sha256': hashlib.sha256(data).hexdigest()}}, **changes}


@pytest.fixture
def onnx(tmp_path):
  """An ONNX file, as far as the program that builds looks into it."""
  path = tmp_path / 'model.onnx'
  path.write_bytes(DATA)
  (tmp_path / 'model.onnx.json').write_text(json.dumps(about()))
  return path


@pytest.fixture
def package(tmp_path, monkeypatch):
  """A package with the names of the runtime's files, that the program takes for it."""
  path = tmp_path / 'runtime.tgz'
  with tarfile.open(path, 'w:gz') as archive:
    for name in (*build_page.RUNTIME_FILES, '../../escape.mjs'):
      data, entry = f'{name} of the runtime'.encode(), tarfile.TarInfo(f'package/dist/{name}')
      entry.size = len(data)
      archive.addfile(entry, io.BytesIO(data))
  monkeypatch.setattr(build_page, 'DIGEST', base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode())
  return path


@pytest.mark.fast
def test_the_page_is_all_there(onnx, package, tmp_path, run_program):
  site = tmp_path / 'site'
  for _ in range(2):  # a page that is there is built anew
    result = run_program(build_page.main, f'--onnx={onnx}', f'--runtime={package}', f'--output_dir={site}')
    assert result.returncode == 0, result.stderr
  written = {str(path.relative_to(site)) for path in site.rglob('*') if path.is_file()}
  assert written == {*STATIC_FILES, 'model.json', 'model.onnx', *(f'ort/{name}' for name in build_page.RUNTIME_FILES)}
  assert (site / 'model.onnx').read_bytes() == onnx.read_bytes()
  assert STATIC_POLICY in (site / 'index.html').read_text()
  model = json.loads((site / 'model.json').read_text())
  assert model['bytes'] == 400 and model['network'] == 'tiny-8s' and model['dataset'] == 'voc'
  assert [(one['name'], one['value'], one['color']) for one in model['classes']] == [
      (name, number, about()['palette'][number]) for number, name in enumerate(CLASSES)]


@pytest.mark.fast
@pytest.mark.parametrize('changes, part', [
    ({'classes': None}, 'was not written by python -m utils.export'),
    ({'files': {}}, 'was not written by python -m utils.export'),
    ({'data': b'another file'}, 'is not the file that'),
    ({'palette': [[1, 2, 3]]}, 'was not written by python -m utils.export'),
    ({'input': {**about()['input'], 'stored_bands': ['nir', 'red']}}, 'red, green and blue'),
    ({'input': {**about()['input'], 'shape': ['batch', 360, 480, 3]}}, '360x480'),
])
def test_files_that_make_no_page(onnx, package, tmp_path, run_program, changes, part):
  (tmp_path / 'model.onnx.json').write_text(json.dumps(about(**changes)))
  flags = f'--onnx={onnx}', f'--runtime={package}', f'--output_dir={tmp_path / "site"}'
  assert_refused(run_program(build_page.main, *flags), part)
  assert not (tmp_path / 'site').exists()


@pytest.mark.fast
def test_wrong_flags_are_one_line(onnx, package, tmp_path, run_program, monkeypatch):
  site = tmp_path / 'site'
  assert_refused(run_program(build_page.main, f'--onnx={tmp_path / "no.onnx"}'), 'no.onnx', 'no such file')
  other = tmp_path / 'other.tgz'
  other.write_bytes(package.read_bytes() + b'\0')
  flags = f'--onnx={onnx}', f'--output_dir={site}'
  assert_refused(run_program(build_page.main, *flags, f'--runtime={other}'), 'other.tgz', 'SHA-512')
  assert not site.exists()
  site.mkdir()
  (site / 'index.html').write_text('mine')
  assert_refused(run_program(build_page.main, *flags, f'--runtime={package}'), 'other files')
  assert (site / 'index.html').read_text() == 'mine'
  shutil.rmtree(site)
  monkeypatch.setenv('PATH', str(tmp_path))
  assert_refused(run_program(build_page.main, *flags), 'npm', '--runtime=FILE')


@pytest.fixture(scope='module')
def folder(tmp_path_factory, tiny):
  return write_run(tmp_path_factory.mktemp('run'), CLASSES, network=tiny, dataset='voc')


def write_onnx(folder, path):
  """Writes a run as an ONNX file with its JSON, without its checks."""
  tf2onnx = pytest.importorskip('tf2onnx', reason='needs requirements-export.txt')

  from utils.compat import tf
  from utils.inference.predictor import constant_network

  with tf.Graph().as_default() as graph:
    constant_network(load_run(str(folder)), tf.placeholder(tf.uint8, [None, None, None, 3], name='images'))
  names = ['images', 'labels', 'probabilities']
  model, _ = tf2onnx.convert.from_graph_def(
      graph.as_graph_def(), input_names=['images:0'], output_names=['labels:0', 'probabilities:0'], opset=18,
      tensors_to_rename={f'{name}:0': name for name in names})
  path.write_bytes(model.SerializeToString())
  (path.parent / f'{path.name}.json').write_text(json.dumps(about(path.read_bytes())))


@pytest.fixture(scope='module')
def site(folder, tmp_path_factory):
  """Address of the page of the run, with the real runtime."""
  place = tmp_path_factory.mktemp('static')
  write_onnx(folder, place / 'model.onnx')
  code = build_page.main([f'--onnx={place / "model.onnx"}', f'--output_dir={place / "site"}'])
  if code:
    pytest.skip(f'needs npm, and {build_page.RUNTIME} from it')
  with loopback.serve(place / 'site') as address:
    yield address


@pytest.fixture(scope='module')
def browser():
  with chromium() as found:
    yield found


def test_labels_in_the_browser_are_the_predictors(browser, site, predictor, tmp_path):
  page = Page(browser, site)
  for number, size in enumerate(((61, 90), (33, 40), (50, 44))):
    image = stored = pixels(*size, seed=number)
    if number == 2:  # transparent in part, on black; read as on white
      seen = np.indices(size)[1][..., np.newaxis] > 20
      stored = np.dstack([image * seen, 255 * seen]).astype(np.uint8)
      image = np.where(seen, image, 255).astype(np.uint8)
    (tmp_path / 'a.png').write_bytes(encoded(stored))
    if number:
      page.drop('a.png', encoded(stored))
    else:
      page.choose(tmp_path / 'a.png')
    page.wait_for_label(size)
    found, label = decoded(page.saved('label')[0]), predictor.labels(image[None])[0]
    assert found.shape == label.shape and (found == label).mean() > 0.999  # ties may fall either way
  confidence = predictor.probabilities(image[None])[0].max(axis=-1)
  name, _, percent = page.point_at(10, 20, label.shape).rpartition(', ')
  assert name == CLASSES[label[10, 20]] and abs(int(percent.split()[0]) - 100 * confidence[10, 20]) < 1
  assert '21 classes' in page.tab.locator('#model').text_content() and page.errors == []
  page.tab.close()


def test_nothing_leaves_the_browser(browser, site):
  page, asked = Page(browser, 'about:blank'), []
  page.tab.on('request', lambda request: asked.append((request.method, request.url)))
  page.tab.goto(site)
  page.drop('a.png', encoded(pixels(20, 30)))
  page.wait_for_label()
  assert asked and all(method == 'GET' and url.startswith((site, 'blob:')) for method, url in asked)
  page.tab.close()


def test_a_missing_network_is_said(browser, site):
  page = Page(browser, 'about:blank')
  page.tab.route('**/model.onnx', lambda route: route.fulfill(status=404, body=''))
  page.tab.goto(site)
  assert page.error() == 'model.onnx is not to be had (404).'
  page.tab.unroute('**/model.onnx')
  page.tab.get_by_role('button', name='Try again').click()
  page.tab.locator('#working').wait_for(state='hidden')
  assert page.tab.locator('#error').is_hidden()
  page.tab.close()
