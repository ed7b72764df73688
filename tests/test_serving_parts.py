"""The parts of the server: batches, and the processes that decode."""

import threading
import time

import numpy as np
import pytest
from bad_decoders import dies_or_hangs, starts_slowly
from running_server import encoded, form, pixels

pytest.importorskip('python_multipart', reason='needs requirements-serve.txt')

from datasets.reading import Reading
from utils.serving import uploads
from utils.serving.batcher import Batcher
from utils.serving.decoders import Decoders
from utils.serving.refusal import Refused

pytestmark = pytest.mark.fast


class Network:
  """A network whose labels are the means of the images; it works when it is let."""

  def __init__(self):
    self.batches, self.go = [], threading.Event()

  def __call__(self, images, kind):
    self.batches.append((kind, [image.shape[:2] for image in images]))
    assert self.go.wait(30)
    return [(kind, int(image[0, 0, 0])) for image in images]


def image(value, size=(2, 3)):
  return np.full((*size, 3), value, np.uint8)


def batcher(network, **options):
  return Batcher(network, **{'max_batch': 3, 'max_pixels': 1000, 'max_wait': 0, **options})


def until(reached):
  for _ in range(1500):
    if reached():
      return
    time.sleep(0.02)
  raise AssertionError('it took too long')


def test_a_batch_is_of_one_size_and_kind_and_the_first_come_is_first():
  network = Network()
  made = batcher(network)
  first = made.submit(image(0), 'a')
  until(lambda: network.batches)
  futures = [made.submit(image(number, (2, 3 + number % 2)), 'ab'[number // 6]) for number in range(1, 9)]
  network.go.set()
  assert [future.result(30) for future in [first, *futures]] == [('ab'[number // 6], number) for number in range(9)]
  made.close()
  assert network.batches == [('a', [(2, 3)]), ('a', [(2, 4)] * 3), ('a', [(2, 3)] * 2), ('b', [(2, 3)] * 2),
                             ('b', [(2, 4)])]


def test_a_batch_has_no_more_pixels_than_one_picture_may_have():
  network = Network()
  made = batcher(network, max_pixels=12)
  first = made.submit(image(0), None)
  until(lambda: network.batches)
  futures = [made.submit(image(1), None) for _ in range(3)] + [made.submit(image(2, (9, 9)), None)]
  network.go.set()
  assert all(future.result(30) for future in [first, *futures])
  made.close()
  assert [len(sizes) for _, sizes in network.batches] == [1, 2, 1, 1]


def test_a_picture_waits_for_others_of_its_size():
  network = Network()
  network.go.set()
  made = batcher(network, max_wait=30)
  futures = [made.submit(image(number), None) for number in range(3)]
  assert [future.result(30) for future in futures] == [(None, 0), (None, 1), (None, 2)]
  made.close()
  assert len(network.batches) == 1


def test_cancelled_pictures_do_not_come_to_the_network():
  network = Network()
  made = batcher(network)
  first = made.submit(image(0), None)
  until(lambda: network.batches)
  cancelled, kept = made.submit(image(1), None), made.submit(image(2), None)
  assert cancelled.cancel() and not first.cancel()
  network.go.set()
  assert kept.result(30) == (None, 2)
  made.close()
  assert [len(sizes) for _, sizes in network.batches] == [1, 1]


@pytest.mark.parametrize('label', [lambda images, kind: 1 / 0, lambda images, kind: []])
def test_an_error_reaches_all_of_the_batch_and_the_next_goes_on(label):
  network = Network()
  network.go.set()
  made = batcher(lambda images, kind: (label if kind == 'bad' else network)(images, kind), max_wait=30, max_batch=2)
  bad = [made.submit(image(1), 'bad') for _ in range(2)]
  assert all(isinstance(future.exception(30), (ZeroDivisionError, ValueError)) for future in bad)
  good = [made.submit(image(3), None) for _ in range(2)]
  assert [future.result(30) for future in good] == [(None, 3)] * 2
  made.close()


def test_close_labels_what_waits():
  network = Network()
  made = batcher(network, max_wait=10)
  future = made.submit(image(7), None)
  network.go.set()
  made.close()
  assert future.result(0) == (None, 7)
  with pytest.raises(RuntimeError):
    made.submit(image(7), None)


def decode(decoders, body, seconds=30.0):
  return decoders.decode(body, '', time.monotonic() + seconds)


def test_a_decoder_that_crashes_or_hangs_costs_one_picture():
  decoders = Decoders(1, Reading(), 100, seconds=2.0, work=dies_or_hangs)
  try:
    for body, part in ((b'die', 'crashed'), (b'nonsense', 'crashed'), (b'hang', 'more than 2 s')):
      with pytest.raises(Refused, match=part) as error:
        decode(decoders, body)
      assert error.value.status == 422
      assert decode(decoders, b'good').tolist() == [[[1, 2, 3]]]
    with pytest.raises(TimeoutError):
      decode(decoders, b'hang', 0.3)
    assert decode(decoders, b'good').tolist() == [[[1, 2, 3]]]
  finally:
    decoders.close()


def test_the_start_of_a_decoder_is_not_the_pictures_time():
  decoders = Decoders(1, Reading(), 100, seconds=1.0, work=starts_slowly)
  try:
    with pytest.raises(TimeoutError):
      decode(decoders, b'good', 0.1)
    assert decode(decoders, b'good').tolist() == [[[1, 2, 3]]]
  finally:
    decoders.close()


def test_a_decoder_that_is_killed_is_started_anew():
  decoders = Decoders(1, Reading(), 10_000)
  try:
    picture = pixels(7, 9)
    np.testing.assert_array_equal(decode(decoders, encoded(picture)), picture)
    decoder = decoders._free.queue[0]
    decoder._process.kill()
    decoder._process.join()
    np.testing.assert_array_equal(decode(decoders, encoded(picture)), picture)
    with pytest.raises(Refused, match=r'101x100 pixels; valid are up to 10000'):
      decode(decoders, encoded(pixels(100, 101)))
  finally:
    decoders.close()


def test_no_more_decoders_than_asked_for():
  decoders = Decoders(1, Reading(), 100, work=dies_or_hangs)
  hanging = threading.Thread(target=lambda: pytest.raises(TimeoutError, decode, decoders, b'hang', 2.0))
  hanging.start()
  until(lambda: not decoders._free.queue)
  with pytest.raises(TimeoutError):
    decode(decoders, b'good', 0.2)
  hanging.join()
  decoders.close()


def read(body, content_type='', **options):
  return uploads.picture(body, content_type, Reading(**options), 10_000)


def test_the_picture_of_a_form():
  picture = pixels(7, 9)
  for name in ('a.png', 'ä b".png'.encode().decode('latin-1')):
    np.testing.assert_array_equal(read(*form(encoded(picture), name)), picture)
  body, kind = form(encoded(picture) + b'\r\n--front')  # what looks like a boundary is none
  np.testing.assert_array_equal(read(body, kind.upper().replace('FRONTIER', 'frontier')), picture)


def test_the_reading_of_the_run_counts():
  from PIL import Image

  picture, exif = pixels(7, 9), Image.Exif()
  exif[0x0112] = 3
  data = encoded(picture, exif=exif)
  np.testing.assert_array_equal(read(data), picture[::-1, ::-1])
  np.testing.assert_array_equal(read(data, exif='stored'), picture)
  dark = encoded(np.arange(63, dtype=np.uint16).reshape(7, 9))
  with pytest.raises(Refused, match='--value_range') as error:
    read(dark)
  assert error.value.status == 422
  assert read(dark, value_range=((0, 62),)).max() == 255


@pytest.mark.parametrize('form', ['GIF', 'WEBP', 'TIFF', 'PNG', 'BMP'])
def test_no_format_gets_past_the_limit_of_pixels(form):
  with pytest.raises(Refused, match='101x100') as error:
    read(encoded(pixels(100, 101), form))
  assert error.value.status == 413
