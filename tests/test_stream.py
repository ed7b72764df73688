"""The stream of labels: order, batches, images too large for memory, stored probabilities."""

import contextlib
import threading

import numpy as np
import pytest

from datasets.inputs import Input
from utils.compat import tf
from utils.inference import crf, stream
from utils.inference.labeler import NotFinite
from utils.inference.stream import Failed, Labelled, Wanted, labelled
from utils.inference.tiles import Tiles
from utils.inference.tta import Views

pytestmark = pytest.mark.fast


class Brightness:
  """A predictor of two classes: a pixel's brightness is the probability of class 1. Fails above `most` pixels."""

  num_classes, views, seen = 2, Views(), Input()

  def __init__(self, most=10**9, num_devices=1, meet=None):
    """`meet` is called by every prediction: the `wait` of a threading.Barrier."""
    self.most, self.num_devices, self.batches, self.meet = most, num_devices, [], meet or (lambda: None)

  def probabilities(self, images):
    self.meet()
    self.batches.append(len(images))
    if images[..., 0].size > self.most:
      raise tf.errors.ResourceExhaustedError(None, None, 'OOM when allocating tensor')
    second = images[..., 0].astype(np.float32) / 255
    return np.stack([1 - second, second], axis=-1)

  def labels(self, images):
    return self.probabilities(images).argmax(axis=-1).astype(np.uint8)

  def sampled(self, images, measure):
    mean = self.probabilities(images)
    return mean, mean.min(axis=-1)


def image(height, width, value):
  return np.full((height, width, 3), value, np.uint8)


def test_an_image_without_finite_numbers_fails_alone(monkeypatch):
  """The others of its batch keep their labels."""
  labels = Brightness.labels

  def broken(predictor, images):
    if (images == 7).any():
      raise NotFinite('float16')
    return labels(predictor, images)

  monkeypatch.setattr(Brightness, 'labels', broken)
  images = [('a', image(2, 3, 9)), ('b', image(2, 3, 7)), ('c', image(2, 3, 200))]
  found = list(labelled(iter(images), Brightness(), batch_size=3))
  assert found[1] == Failed('b', str(NotFinite('float16')), 'without result')
  assert str(NotFinite('float16')).endswith('; --precision=float32 has a wider range')
  assert [int(found[place].label[0, 0]) for place in (0, 2)] == [0, 1]


def test_order_and_batches():
  """Images of one size are labeled together, at most three; a Failed keeps its place."""
  images = [('a', image(2, 3, 9)), ('b', image(2, 3, 200)), Failed('c', 'is empty'), ('d', image(2, 3, 0)),
            ('e', image(2, 3, 0)), ('f', image(2, 3, 255)), ('g', image(2, 3, 255)), ('h', image(5, 3, 255))]
  predictor = Brightness()
  found = list(labelled(iter(images), predictor, batch_size=3))
  assert [item.key for item in found] == list('abcdefgh')
  assert predictor.batches == [2, 3, 1, 1]
  assert found[2] == Failed('c', 'is empty')
  assert [int(item.label[0, 0]) for item in found if isinstance(item, Labelled)] == [0, 1, 0, 0, 1, 1, 1]
  assert found[-1].label.shape == (5, 3) and found[-1].confidence is None


def test_a_batch_too_large_for_memory_is_labeled_image_by_image():
  images = [('a', image(2, 3, 9)), ('b', image(2, 3, 9)), ('c', image(2, 3, 200)), ('d', image(9, 9, 9))]
  predictor = Brightness(most=6)
  found = list(labelled(images, predictor, batch_size=4))
  assert predictor.batches == [3, 1, 1, 1, 1]
  assert [isinstance(item, Labelled) for item in found] == [True, True, True, False]
  assert found[3] == Failed('d', stream.NO_MEMORY)


def test_confidence_uncertainty_and_stored_probabilities():
  stored = {}

  @contextlib.contextmanager
  def store(key, shape):
    bands = []
    yield lambda rows: bands.append(rows.copy())
    stored[key] = np.concatenate(bands)
    assert stored[key].shape == shape

  [item] = labelled([('a', image(2, 3, 51))], Brightness(), wanted=Wanted(True, 'entropy', store))
  np.testing.assert_allclose(item.confidence, 0.8)
  np.testing.assert_allclose(item.uncertainty, 0.2, rtol=1e-6)
  np.testing.assert_allclose(stored['a'][..., 1], 0.2, rtol=1e-6)
  assert item.plain is item.label and not item.label.any()


def test_large_images_go_through_tiles_by_themselves():
  rng = np.random.default_rng(0)
  large = rng.integers(0, 256, (300, 700, 3)).astype(np.uint8)
  predictor = Brightness(most=290 * 290)
  first, second, third = labelled([('a', image(2, 3, 9)), ('b', large), ('c', image(2, 3, 9))], predictor,
                                  tiles=Tiles(max_pixels=200_000, tile_size=288), batch_size=8)
  np.testing.assert_array_equal(second.label, large[..., 0] > 127)
  assert first.label.shape == third.label.shape == (2, 3) and len(predictor.batches) > 6


def barrier(count):
  """Waits until as many calls wait at a time; breaks after 10 s."""
  return threading.Barrier(count, timeout=10).wait


@pytest.mark.parametrize('options', [{}, {'wanted': Wanted(confidence=True)}, {'crf': crf.Crf(), 'num_workers': 1}])
def test_images_are_shared_out_over_devices(options, monkeypatch):
  """Three at a time, in their order; a Failed keeps its place."""
  monkeypatch.setattr(crf, 'labels', lambda task: task.plain_labels)
  values = [0, 200, 9, 255, 128, 3]
  images = [(value, image(2 + number, 3, value)) for number, value in enumerate(values)]
  found = list(labelled([*images, Failed('x', 'is empty')], Brightness(num_devices=3, meet=barrier(3)), **options))
  assert [item.key for item in found] == [*values, 'x'] and found[-1] == Failed('x', 'is empty')
  assert [int(item.label[0, 0]) for item in found[:-1]] == [0, 1, 0, 1, 1, 0]


def test_tiles_of_an_image_are_shared_out_over_devices():
  """Rows of four tiles, two at a time."""
  large = np.random.default_rng(0).integers(0, 256, (300, 700, 3)).astype(np.uint8)
  options = {'tiles': Tiles(max_pixels=200_000, tile_size=288), 'wanted': Wanted(confidence=True)}
  [alone] = labelled([('a', large)], Brightness(), **options)
  [shared] = labelled([('a', large)], Brightness(num_devices=2, meet=barrier(2)), **options)
  np.testing.assert_array_equal(shared.confidence, alone.confidence)
  np.testing.assert_array_equal(shared.label, alone.label)


def test_the_next_image_is_predicted_while_the_last_is_used():
  seen = threading.Event()

  def images():
    yield 'a', image(2, 3, 9)
    yield 'b', image(2, 3, 9)

  predictor = Brightness()
  predictor.meet = lambda: predictor.batches and seen.set()  # the second prediction
  stream_of_labels = labelled(images(), predictor)
  assert next(stream_of_labels).key == 'a' and seen.wait(timeout=10)
  assert next(stream_of_labels).key == 'b'


def test_failures_keep_their_place_before_the_crf(monkeypatch):
  monkeypatch.setattr(crf, 'labels', lambda task: 1 - task.plain_labels)  # swaps the classes
  images = [('a', image(2, 3, 9)), Failed('b', 'is empty'), ('c', image(9, 9, 9)), ('d', image(2, 3, 200))]
  found = list(labelled(images, Brightness(most=6), crf=crf.Crf(), wanted=Wanted(confidence=True), num_workers=1))
  assert [item.key for item in found] == list('abcd')
  assert found[1] == Failed('b', 'is empty') and found[2] == Failed('c', stream.NO_MEMORY)
  assert found[0].label.all() and not found[0].plain.any() and not found[3].label.any() and found[3].plain.all()
