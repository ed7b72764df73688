"""The server: labels as the Predictor's in every form, limits, many clients at once, a clean stop."""

import concurrent.futures
import contextlib
import io
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from PIL import Image
from programs import assert_refused, run
from random_run import write_run

pytest.importorskip('starlette', reason='needs requirements-serve.txt')
pytest.importorskip('uvicorn', reason='needs requirements-serve.txt')

from running_server import decoded, encoded, form, pixels, running

import utils.serve
from datasets.readers.voc import VOC
from utils.drawing import colors
from utils.errors import UserError
from utils.inference.results import overlay_png
from utils.runs import load_run
from utils.serving import service as services
from utils.serving.settings import ServeSettings
from utils.studies import malformed, serve_load

CLASSES = VOC.classes


@pytest.fixture(scope='module')
def folder(tmp_path_factory, tiny):
  return write_run(tmp_path_factory.mktemp('run'), CLASSES, network=tiny, dataset='voc')


@pytest.fixture(scope='module')
def server(folder):
  """A server with the limits that most tests are about."""
  with running(folder, '--max_body_bytes=300000', '--max_input_pixels=40000', '--upload_seconds=1') as found:
    yield found


@pytest.fixture
def gate(monkeypatch):
  """Holds the network back until it is set; in `gate.entered` stand the pictures of each batch that came to it."""
  event, labelled = threading.Event(), services.labelled
  event.entered = []

  def held(images, *arguments, **options):
    images = list(images)
    if images[0][1].shape[:2] != services.WARM_SIZE:
      event.entered.append(len(images))
      assert event.wait(60)
    return labelled(images, *arguments, **options)

  monkeypatch.setattr(services, 'labelled', held)
  yield event
  event.set()


def test_label_is_the_predictors_from_a_body_and_a_form(server, predictor):
  for number, size in enumerate([(61, 90), (1, 1), (33, 50)]):
    image = pixels(*size, seed=number)
    body, kind = form(encoded(image))
    for data, options in ((encoded(image), {}), (body, {'Content_Type': kind}),
                          (encoded(image), {'Content_Type': 'text/plain'})):  # what it is said to be does not count
      response, answer = server.ask('/label', data, **options)
      assert response.status == 200 and response.getheader('Content-Type') == 'image/png'
      with Image.open(io.BytesIO(answer)) as picture:
        assert picture.mode == 'P'
      np.testing.assert_array_equal(decoded(answer), predictor.labels(image[None])[0])


def test_pictures_are_read_as_inference_reads_them(server, predictor):
  image, exif = pixels(30, 70), Image.Exif()
  exif[0x0112] = 6  # stored lying on its side
  turned = np.rot90(image, -1)
  clear = np.dstack([image, np.where(np.arange(70) < 20, 0, 255) * np.ones((30, 1))]).astype(np.uint8)
  on_white = np.where(clear[..., 3:] == 0, 255, image).astype(np.uint8)
  gray = image[..., 0]
  for data, seen in ((encoded(image, exif=exif), turned), (encoded(clear), on_white),
                     (encoded(gray.astype(np.uint16) * 257), np.dstack([gray] * 3)), (encoded(image, 'TIFF'), image)):
    np.testing.assert_array_equal(decoded(server.ask('/label', data)[1]), predictor.labels(seen[None])[0])


def test_overlay_classes_and_arrays(server, predictor, folder):
  image, found = pixels(45, 64, seed=5), load_run(str(folder))
  label, confidence = predictor.labels(image[None])[0], predictor.probabilities(image[None])[0].max(axis=-1)
  assert server.ask('/overlay?alpha=0.25', encoded(image))[1] == overlay_png(image, label, found, 0.25)
  assert server.ask('/overlay', encoded(image))[1] == overlay_png(image, label, found, 0.5)

  answer = json.loads(server.ask('/classes', encoded(image))[1])
  assert (answer['width'], answer['height']) == (64, 45)
  assert {one['id']: one['pixels'] for one in answer['classes']} == dict(zip(*np.unique(label, return_counts=True)))
  assert all(one['name'] == CLASSES[one['id']] and one['share'] == round(one['pixels'] / label.size, 6)
             for one in answer['classes'])
  shares = [one['share'] for one in answer['classes']]
  assert shares == sorted(shares, reverse=True)

  arrays = np.load(io.BytesIO(server.ask('/arrays', encoded(image))[1]))
  assert arrays.dtype == np.uint8 and arrays.shape == (2, 45, 64)
  np.testing.assert_array_equal(arrays[0], label)
  np.testing.assert_allclose(arrays[1] / 255, confidence, atol=0.51 / 255)
  response, packed = server.ask('/arrays', encoded(image), Accept_Encoding='gzip')
  assert response.getheader('Content-Encoding') == 'gzip' and len(packed) < 2 * 45 * 64


def test_labels_in_the_values_of_the_dataset(folder, tmp_path, tiny):
  values = list(range(100, 100 + len(CLASSES)))
  own = write_run(tmp_path / 'own', CLASSES, network=tiny, dataset='voc')
  config = json.loads((own / 'config.json').read_text())
  config['dataset']['label_values'] = values
  (own / 'config.json').write_text(json.dumps(config))
  data = encoded(pixels(20, 31))
  with running(own) as server:
    own_label, model = decoded(server.ask('/label', data)[1]), json.loads(server.ask('/model')[1])
    ids = np.load(io.BytesIO(server.ask('/arrays', data)[1]))[0]
  np.testing.assert_array_equal(own_label, np.array(values)[ids])
  assert [(one['name'], one['value']) for one in model['classes']] == list(zip(CLASSES, values))


def test_large_pictures_go_in_tiles(folder, predictor):
  image = pixels(600, 530)
  with running(folder, '--max_pixels=100000') as server:
    tiled = decoded(server.ask('/label', encoded(image))[1])
  assert tiled.shape == (600, 530) and (tiled != predictor.labels(image[None])[0]).any()  # the network sees all of it


@pytest.mark.parametrize('status, part, arguments, options', [
    (404, '/label', ('/nowhere',), {}),
    (405, 'valid are POST', ('/label',), {}),
    (405, 'valid are GET, HEAD', ('/metrics', b'x'), {}),
    (400, 'the body is empty', ('/label', b''), {}),
    (400, 'needs a boundary', ('/label', b'x'), {'Content_Type': 'multipart/form-data'}),
    (415, 'none of JPEG', ('/label', b'hello, world'), {'Content_Type': 'image/png'}),
    (415, 'Content-Encoding', ('/label', b'x'), {'Content_Encoding': 'gzip'}),
    (422, 'cannot be decoded', ('/label', encoded(pixels(30, 30))[:-40]), {}),
    (422, "alpha='2'; valid are 0 to 1", ('/overlay?alpha=2', b'x'), {}),
    (422, "unknown parameter 'alpha'", ('/label?alpha=1', b'x'), {}),
    (413, '201x200 pixels; valid are up to 40000', ('/label', encoded(pixels(200, 201))), {}),
    (413, 'valid are up to 300000', ('/label', bytes(300_001)), {}),
    (413, 'valid are up to 300000', ('/label', [bytes(200_000)] * 8), {}),  # in chunks, of a length that is not said
])
def test_refusals_say_why_in_a_line(server, status, part, arguments, options):
  found, reason = server.refusal(*arguments, **options)
  assert found == status and part in reason, reason


def test_slow_bodies_and_heads_are_given_up(server):
  address = ('127.0.0.1', server.port)
  body = b'POST /label HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nabc'
  assert malformed.answer(address, body) == (408, 'the request did not come within 1 s')
  assert malformed.answer(address, b'POST /label HT') == (408, 'the head of the request did not come within 1 s')
  assert malformed.answer(address, b'') == (None, '')  # nothing at all is closed without a word
  with server.connect() as connection:  # the clock stops when a head is whole, and starts anew behind an answer
    for _ in range(3):
      connection.request('GET', '/healthz')
      assert connection.getresponse().read() == b'{"status":"alive"}'
      time.sleep(0.5)


@pytest.fixture(scope='module')
def made():
  return malformed.Pictures()


@pytest.mark.parametrize('kind', malformed.KINDS)
def test_malformed_requests_are_refused_and_leave_nothing(server, predictor, made, kind):
  image = pixels(40, 52)
  server.ask('/label', encoded(image))
  files = len(os.listdir('/proc/self/fd'))

  def answer(number):
    return malformed.answer(('127.0.0.1', server.port), malformed.KINDS[kind](np.random.default_rng(number), made))

  with concurrent.futures.ThreadPoolExecutor(4) as pool:
    for status, reason in pool.map(answer, range(4 if 'slow' in kind else 12)):
      assert status is not None and 400 <= status < 500 and reason, (kind, status, reason)
  server.wait(lambda: server.metric('fcn_requests_in_work') == 0)
  np.testing.assert_array_equal(decoded(server.ask('/label', encoded(image))[1]), predictor.labels(image[None])[0])
  server.wait(lambda: len(os.listdir('/proc/self/fd')) <= files)


def test_many_clients_get_their_own_answers(server, predictor):
  sizes = [(40, 52), (40, 53), (61, 30)]
  images = [pixels(*sizes[number % 3], seed=number) for number in range(30)]
  labels = [predictor.labels(image[None])[0] for image in images]
  assert len({label.tobytes() for label in labels}) == len(labels)
  pictures, batches = (f'fcn_batch_pictures_{name}' for name in ('sum', 'count'))
  before = {name: server.metric(name) for name in (pictures, batches)}

  def work(number):
    with server.connect() as connection:
      for place in np.random.default_rng(number).permutation(len(images)):
        connection.request('POST', '/arrays' if number % 4 == 0 else '/label', encoded(images[place]))
        answer = connection.getresponse().read()
        found = np.load(io.BytesIO(answer))[0] if number % 4 == 0 else decoded(answer)
        # Batches may round ties another way; a picture of another client differs in most pixels.
        assert (found == labels[place]).mean() > 0.99, (number, place)

  with concurrent.futures.ThreadPoolExecutor(12) as pool:
    list(pool.map(work, range(12)))
  labeled = server.metric(pictures) - before[pictures]
  assert labeled == 12 * 30 and server.metric(batches) - before[batches] < labeled


@pytest.mark.parametrize('flags, batches', [
    ((), [1, 3, 1]), (('--max_pixels=5000', '--test_scales=2'), [1, 2, 2])])  # enlarged, of 2400 pixels each
def test_pictures_that_wait_go_together(folder, gate, flags, batches):
  with running(folder, '--max_batch=3', *flags) as server, concurrent.futures.ThreadPoolExecutor(6) as pool:
    first = pool.submit(server.ask, '/label', encoded(pixels(30, 40)))
    server.wait(lambda: gate.entered == [1])
    others = [pool.submit(server.ask, '/label', encoded(pixels(20, 30, seed=seed))) for seed in range(4)]
    server.wait(lambda: server.metric('fcn_pictures_waiting') == 4)
    gate.set()
    assert all(future.result()[0].status == 200 for future in [first, *others])
  assert gate.entered == batches


def test_too_many_requests_are_refused_at_once(folder, gate):
  with running(folder, '--max_requests=2') as server, concurrent.futures.ThreadPoolExecutor(2) as pool:
    taken = [pool.submit(server.ask, '/label', encoded(pixels(30, 40))) for _ in range(2)]
    server.wait(lambda: server.metric('fcn_requests_in_work') == 2)
    response, data = server.ask('/label', encoded(pixels(30, 40)))
    assert response.status == 429 and response.getheader('Retry-After') == '1' and b'2 requests' in data
    assert server.ask('/healthz')[0].status == 200
    gate.set()
    assert [future.result()[0].status for future in taken] == [200, 200]
    assert server.ask('/label', encoded(pixels(30, 40)))[0].status == 200
    assert server.metric('fcn_requests_total{path="/label",status="429"}') == 1


def test_time_is_up(folder, gate):
  with running(folder, '--request_seconds=0.5') as server:
    assert server.refusal('/label', encoded(pixels(30, 40))) == (504, 'the answer took longer than 0.5 s')
    gate.set()
    server.wait(lambda: server.metric('fcn_requests_in_work') == 0)
    server.wait(lambda: server.ask('/label', encoded(pixels(30, 40)))[0].status == 200)


def test_clients_that_leave_are_forgotten(folder, gate):
  data = encoded(pixels(30, 40))
  with running(folder, '--max_wait=0') as server:
    head = f'POST /label HTTP/1.1\r\nHost: a\r\nContent-Length: {len(data)}\r\n\r\n'.encode()
    with contextlib.ExitStack() as stack:
      for number in range(3):
        connection = stack.enter_context(socket.create_connection(('127.0.0.1', server.port)))
        connection.sendall(head + data)
        server.wait(lambda number=number: len(gate.entered) + server.metric('fcn_pictures_waiting') == number + 1)
    server.wait(lambda: server.metric('fcn_requests_in_work') == 0)
    gate.set()
    assert server.ask('/label', data)[0].status == 200
    assert server.metric('fcn_requests_total{path="/label",status="499"}') == 3
  assert gate.entered == [1, 1]  # the two that waited never came to the network


def test_answers_while_the_network_is_loaded(folder, monkeypatch):
  loading, opened = threading.Event(), ServeSettings.open_predictor
  monkeypatch.setattr(ServeSettings, 'open_predictor', lambda *both: loading.wait(60) and opened(*both))
  with running(folder, ready=False) as server:
    assert server.ask('/healthz')[0].status == 200
    assert server.refusal('/readyz') == (503, 'the network is being loaded')
    response, _ = server.ask('/label', encoded(pixels(30, 40)))
    assert response.status == 503 and response.getheader('Retry-After') == '5'
    assert json.loads(server.ask('/model')[1])['ready'] is False
    loading.set()
    server.until_ready()
    assert server.ask('/label', encoded(pixels(30, 40)))[0].status == 200
    assert json.loads(server.ask('/model')[1])['ready'] is True


def test_a_network_that_cannot_be_loaded_ends_the_server(folder, monkeypatch):
  def fail(*_):
    raise UserError('no such network')

  monkeypatch.setattr(ServeSettings, 'open_predictor', fail)
  assert_refused(run(utils.serve.main, f'--ckpt={folder}', '--port=0', '--decoders=1'), 'no such network')


def test_errors_of_the_code_are_answered_and_logged(folder, monkeypatch, capfd):
  """By a line for each, and one log with the traceback, as all programs write it."""
  labelled = services.labelled

  def broken(images, *arguments, **options):
    images = list(images)
    if images[0][1].shape[0] == 13:
      raise ZeroDivisionError('on purpose')
    return labelled(images, *arguments, **options)

  monkeypatch.setattr(services, 'labelled', broken)
  with running(folder) as server:
    for _ in range(2):
      assert server.refusal('/label', encoded(pixels(13, 40)))[0] == 500
    assert server.ask('/label', encoded(pixels(14, 40)))[0].status == 200
  first, second = capfd.readouterr().err.splitlines()
  [log] = pathlib.Path(folder).glob('fault-*.log')
  assert first == second and first.startswith('fault: ZeroDivisionError (on purpose)') and str(log) in first
  assert 'in broken' in log.read_text()
  log.unlink()


def test_a_stop_answers_what_was_taken_and_takes_no_more(folder, gate):
  with running(folder) as server, concurrent.futures.ThreadPoolExecutor(2) as pool:
    taken = pool.submit(server.ask, '/label', encoded(pixels(30, 40)))
    server.wait(lambda: gate.entered == [1])
    server.server.should_exit = True

    def refused():
      try:
        socket.create_connection(('127.0.0.1', server.port), timeout=1).close()
      except OSError:
        return True
      return False

    server.wait(refused)
    assert not taken.done()
    gate.set()
    assert taken.result()[0].status == 200
  assert server.code == 0


PROGRAM = '''
import sys
sys.path[:0] = [{tests!r}, {root!r}]
import tiny, utils.serve
with tiny.registered():
  sys.exit(utils.serve.main(sys.argv[1:]))
'''


@pytest.mark.parametrize('number, code', [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals_end_the_program(folder, number, code):
  tests = pathlib.Path(__file__).parent
  program = PROGRAM.format(tests=str(tests), root=str(tests.parent))
  with subprocess.Popen([sys.executable, '-c', program, f'--ckpt={folder}', '--port=0'], text=True,
                        stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
    lines = iter(process.stdout.readline, '')
    port = int(next(lines).split('/')[2].rpartition(':')[2])
    assert next(line for line in lines if line.startswith('ready: '))
    _, *children = serve_load.family(process.pid)
    status, _ = malformed.answer(('127.0.0.1', port), malformed.post(encoded(pixels(20, 30))))
    process.send_signal(number)
    out, errors = process.communicate(timeout=60)
  assert status == 200 and process.returncode == code and errors == ''
  assert out.splitlines()[-1] == 'stopped; 1 requests were answered'
  assert len(children) >= 2
  deadline = time.monotonic() + 30
  while any(os.path.exists(f'/proc/{child}') for child in children):  # each ends when it sees that its parent has
    assert time.monotonic() < deadline
    time.sleep(0.05)


def test_headers_keep_other_sites_away(server):
  response, _ = server.ask('/', Origin='https://example.org')
  assert response.getheader('Access-Control-Allow-Origin') is None
  policy = response.getheader('Content-Security-Policy')
  assert "default-src 'none'" in policy and 'unsafe' not in policy and response.getheader('X-Frame-Options') == 'DENY'
  assert server.ask('/model')[0].getheader('X-Content-Type-Options') == 'nosniff'


def test_other_sites_that_are_let_in(folder):
  with running(folder, '--cors_origins=https://example.org') as server:
    allowed = server.ask('/model', Origin='https://example.org')[0].getheader('Access-Control-Allow-Origin')
    assert allowed == 'https://example.org'
    assert server.ask('/model', Origin='https://else.org')[0].getheader('Access-Control-Allow-Origin') is None
    headers = {'Origin': 'https://example.org', 'Access_Control_Request_Method': 'POST'}
    assert server.ask('/label', method='OPTIONS', **headers)[0].status == 200


def test_metrics_are_those_of_prometheus(server):
  from prometheus_client.parser import text_string_to_metric_families

  server.ask('/label', encoded(pixels(30, 40)))
  response, data = server.ask('/metrics')
  assert response.getheader('Content-Type').startswith('text/plain; version=')
  found = {family.name: family for family in text_string_to_metric_families(data.decode())}
  assert {'fcn_requests', 'fcn_request_seconds', 'fcn_requests_in_work', 'fcn_pictures_waiting', 'fcn_batch_pictures',
          'fcn_network_seconds', 'process_resident_memory_bytes', 'process_open_fds'} <= found.keys()
  paths = {sample.labels.get('path') for sample in found['fcn_requests'].samples}
  assert paths <= {'/', '/label', '/overlay', '/classes', '/arrays', '/model', '/healthz', '/readyz', '/metrics',
                   'other'}


@pytest.mark.parametrize('flags, parts', [
    (['--port=99999'], ['--port=99999']),
    (['--host=nowhere.invalid', '--port=0'], ['--host=nowhere.invalid', 'cannot listen']),
    (['--max_batch=0'], ['--max_batch=0']),
])
def test_bad_flags_are_one_line(folder, flags, parts):
  assert_refused(run(utils.serve.main, f'--ckpt={folder}', *flags), *parts)


def test_a_port_in_use_and_a_missing_run_are_one_line(folder, tmp_path):
  with socket.create_server(('127.0.0.1', 0)) as other:
    port = other.getsockname()[1]
    assert_refused(run(utils.serve.main, f'--ckpt={folder}', f'--port={port}'), f'--port={port}', 'cannot listen')
  assert_refused(run(utils.serve.main, f'--ckpt={tmp_path}'), 'no checkpoint')


def test_missing_packages_are_named(folder, monkeypatch):
  from utils.serving import settings

  monkeypatch.setattr(settings, 'PACKAGES', ('starlette', 'no_such_package'))
  assert_refused(run(utils.serve.main, f'--ckpt={folder}'), 'no_such_package', 'requirements-serve.txt')


@pytest.mark.parametrize('host, warns', [('0.0.0.0', True), ('127.0.0.2', False), ('localhost', False)])
def test_a_warning_where_others_can_come_in(folder, host, warns, capfd):
  with running(folder, f'--host={host}', ready=False) as server:
    server.wait(lambda: server.server.started)
  captured = capfd.readouterr()
  assert f'http://{host}:{server.port}/' in captured.out
  assert ('warning: --host=0.0.0.0: everybody' in captured.err) == warns


def test_the_run_is_not_written_to_and_no_upload_is_stored(folder, server, tmp_path, monkeypatch):
  before = {path: path.stat().st_mtime_ns for path in folder.rglob('*')}
  monkeypatch.setenv('TMPDIR', str(tmp_path))
  body, kind = form(encoded(pixels(190, 200, seed=8), 'BMP'))
  assert server.ask('/label', body, Content_Type=kind)[0].status == 200
  assert {path: path.stat().st_mtime_ns for path in folder.rglob('*')} == before and not list(tmp_path.iterdir())


def test_palette_holds_the_runs_colors(server, folder):
  with Image.open(io.BytesIO(server.ask('/label', encoded(pixels(30, 40)))[1])) as picture:
    palette = np.array(picture.getpalette()).reshape(-1, 3)
  np.testing.assert_array_equal(palette, colors.full_palette(load_run(str(folder)).palette))
