"""The stream from images to labels: the network, in tiles for large images, and the dense CRF after it.

The network runs in threads, one for each of its devices, while the caller reads the next image and uses the last
result. Images in tiles go through one after the other: their tiles are shared out over the devices.
"""

import contextlib
import dataclasses
import functools
import itertools
from typing import Any

import numpy as np

from utils.compat import tf
from utils.drawing import colors
from utils.inference import crf as dense_crf
from utils.inference.labeler import NotFinite
from utils.inference.tiles import Tiles, probability_bands
from utils.workers import default_workers, ordered_map, threaded_map

NO_MEMORY = 'not enough memory; try a lower --max_pixels'
FAILURES = (tf.errors.ResourceExhaustedError, MemoryError, NotFinite)  # of one image, as `failed` tells them


@dataclasses.dataclass(frozen=True)
class Labelled:
  """A labeled image.

  Attributes:
    key: the caller's name for the image.
    image: as it came in: uint8 [H, W, 3], RGB, or [H, W, N] with all bands of a run's images.
    label: uint8 [H, W], label ids.
    plain: uint8 [H, W], the network's own argmax; differs from `label` if a CRF refined it. None if not computed.
    confidence: float32 [H, W], the probability of `plain`; None if not wanted.
    uncertainty: float32 [H, W], see mc_dropout.average; None if not wanted.
  """
  key: Any
  image: np.ndarray
  label: np.ndarray
  plain: np.ndarray | None = None
  confidence: np.ndarray | None = None
  uncertainty: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Failed:
  """An image that could not be labeled.

  Attributes:
    key: the caller's name for the image.
    reason: str, the reason, in words that follow the name.
    cause: str, the kind of reason, in a word or two, by which failures are counted.
  """
  key: Any
  reason: str
  cause: str = 'too large for memory'


@dataclasses.dataclass(frozen=True)
class Wanted:
  """The results wanted beside the labels.

  Attributes:
    confidence: whether Labelled.confidence is wanted.
    measure: measure of Labelled.uncertainty, one of mc_dropout.MEASURES; None for no uncertainty.
    store: `store(key, (H, W, C))`, a context manager that yields a function; the function is called with the
      probabilities, float32 [h, W, C], of each band of rows from top to bottom. None to store nothing.
  """
  confidence: bool = False
  measure: str | None = None
  store: Any = None

  @property
  def labels_only(self):
    """Whether only labels are wanted."""
    return not (self.confidence or self.measure or self.store)


def labelled(images, predictor, *, crf=None, tiles=Tiles(), batch_size=1, wanted=Wanted(), num_workers=0):  # noqa: B008
  """Labels images one after the other, in constant memory.

  Args:
    images: iterable of (key, image as of Labelled) and of Failed, which are passed on in order.
    predictor: a Predictor.
    crf: the crf.Crf that refines the labels, in processes beside the network (for images in tiles: in this process, to
      save memory); None for the network alone.
    tiles: a Tiles.
    batch_size: greatest number of images, all of one size, that go through the network together.
    wanted: a Wanted.
    num_workers: number of processes for the CRF; 0 for one per core.

  Yields:
    a Labelled or a Failed for each image, in the images' order.
  """
  if crf is not None:
    yield from _refined(images, predictor, crf, tiles, wanted, num_workers)
    return
  label = functools.partial(_labelled_batch, predictor=predictor, tiles=tiles, wanted=wanted)
  for results in _spread(label, _batches(images, predictor, tiles, batch_size), predictor, tiles):
    yield from results


def _spread(function, batches, predictor, tiles):
  """Yields `function(batch)` for each of `_batches`, in their order: in threads, but for images in tiles."""
  for large, group in itertools.groupby(batches, lambda batch: _is_large(batch, predictor, tiles)):
    if large:
      yield from map(function, group)
    else:
      yield from threaded_map(function, group, predictor.num_devices)


def _is_large(batch, predictor, tiles):
  """Whether a batch of `_batches` is an image that is labeled in tiles."""
  return not isinstance(batch, Failed) and _in_tiles(predictor, tiles, batch[0][1])


def _labelled_batch(batch, predictor, tiles, wanted):
  """The list of the results of a batch of `_batches`, each a Labelled or a Failed."""
  if isinstance(batch, Failed):
    return [batch]
  if wanted.labels_only and not _is_large(batch, predictor, tiles):
    return _labelled_together(batch, predictor)
  return [_by_bands(key, image, predictor, tiles, wanted)[0] for key, image in batch]


def tasks(images, predictor, *, crf=None, tiles=Tiles(), wanted=Wanted()):  # noqa: B008, the records are frozen
  """Runs the network, and prepares its probabilities for the CRF. Arguments: see `labelled`.

  Yields:
    `(plain, task)`: the Labelled of the network alone, and the crf.Task of the same image, without a key; or
    `(Failed, None)`.
  """
  make = functools.partial(_task, predictor=predictor, crf=crf, tiles=tiles, wanted=wanted)
  yield from _spread(make, _batches(images, predictor, tiles, 1), predictor, tiles)


def _task(batch, predictor, crf, tiles, wanted):
  """What `tasks` yields for a batch of one image, or for a Failed."""
  if isinstance(batch, Failed):
    return batch, None
  [(key, image)] = batch
  reason = dense_crf.too_large(image.shape[:2], predictor.num_classes)
  if reason:
    return Failed(key, reason), None
  plain, probabilities = _by_bands(key, image, predictor, tiles, wanted, keep=True)
  if probabilities is None:
    return plain, None
  picture = colors.false_color(image, predictor.seen.reading, predictor.seen.bands)
  return plain, dense_crf.make_task(None, picture, probabilities, crf)


def _refined(images, predictor, crf, tiles, wanted, num_workers):
  """Yields the results of `labelled`, refined by the CRF."""
  waiting = {}  # number of the task -> Labelled of the network alone, which is not sent to the worker

  def sent():
    for place, (plain, task) in enumerate(tasks(images, predictor, crf=crf, tiles=tiles, wanted=wanted)):
      waiting[place] = plain
      yield place, task

  def alone(item):
    return item[1] is not None and _in_tiles(predictor, tiles, item[1].image)

  for large, group in itertools.groupby(sent(), alone):
    workers = 1 if large else num_workers or default_workers()
    for (place, task), label in ordered_map(dense_crf.refine, group, workers):
      plain = waiting.pop(place)
      yield plain if task is None else dataclasses.replace(plain, label=label, plain=task.plain_labels)


def _batches(images, predictor, tiles, batch_size):
  """Yields lists of (key, image) of one size, each large image as a list of its own, and each Failed, in order."""
  batch = []
  for item in images:
    failed = isinstance(item, Failed)
    if batch and (failed or len(batch) == batch_size or item[1].shape != batch[0][1].shape
                  or _in_tiles(predictor, tiles, item[1])):
      yield batch
      batch = []
    if failed:
      yield item
    else:
      batch.append(item)
  if batch:
    yield batch


def _in_tiles(predictor, tiles, image):
  return tiles.needed(image.shape[:2], predictor.views.enlargement)


def _labelled_together(batch, predictor):
  """The list of the results of a batch; labels image by image if the batch cannot be labeled."""
  try:
    labels = predictor.labels(np.stack([image for _, image in batch]))
  except FAILURES as error:
    if len(batch) == 1:
      return [failed(batch[0][0], error)]
    return [result for single in batch for result in _labelled_together([single], predictor)]
  return [Labelled(key, image, label) for (key, image), label in zip(batch, labels)]


def failed(key, error):
  """The Failed of an image on which the network failed with one of FAILURES."""
  return Failed(key, str(error), 'without result') if isinstance(error, NotFinite) else Failed(key, NO_MEMORY)


def _by_bands(key, image, predictor, tiles, wanted, keep=False):
  """Labels an image from its probabilities, in tiles if it is large.

  Returns:
    `(result, probabilities)`: a Labelled, and float32 [H, W, C], None without `keep`; or a Failed, and None.
  """
  size, num_classes, is_large = image.shape[:2], predictor.num_classes, _in_tiles(predictor, tiles, image)
  tile_size = tiles.size_for(size, num_classes, predictor.views.enlargement)
  maps = predictor.probabilities
  if wanted.measure:
    maps = functools.partial(_probabilities_and_uncertainty, predictor, wanted.measure)
  store = wanted.store or (lambda key, shape: contextlib.nullcontext())
  try:
    label = np.empty(size, np.uint8)
    confidence = np.empty(size, np.float32) if wanted.confidence else None
    uncertainty = np.empty(size, np.float32) if wanted.measure else None
    whole = np.empty((*size, num_classes), np.float32) if keep else None
    with store(key, (*size, num_classes)) as write:
      for top, band in probability_bands(maps, image, tile_size=tile_size, overlap=tile_size // 4,
                                         num_devices=predictor.num_devices if is_large else 1):
        rows, probabilities = slice(top, top + len(band)), band[..., :num_classes]
        label[rows] = probabilities.argmax(axis=-1)
        if confidence is not None:
          confidence[rows] = probabilities.max(axis=-1)
        if uncertainty is not None:
          uncertainty[rows] = band[..., num_classes]
        if whole is not None:
          whole[rows] = probabilities
        if write is not None:
          write(probabilities)
  except FAILURES as error:
    return failed(key, error), None
  return Labelled(key, image, label, plain=label, confidence=confidence, uncertainty=uncertainty), whole


def _probabilities_and_uncertainty(predictor, measure, images):
  """float32 [B, H, W, C + 1]: probabilities, and the uncertainty as last channel, so that tiles cross-fade both."""
  mean, uncertainty = predictor.sampled(images, measure)
  return np.concatenate([mean, uncertainty[..., np.newaxis]], axis=-1)
