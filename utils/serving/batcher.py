"""Batches: pictures of one size that wait go through the network together."""

import concurrent.futures
import dataclasses
import threading
import time

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Item:
  """A picture that waits.

  Attributes:
    image: as of `datasets.images.read_image`.
    kind: what is wanted of it; pictures of one batch are of one kind.
    future: the concurrent.futures.Future of its result.
    arrived: time of time.monotonic.
  """
  image: np.ndarray
  kind: object
  future: concurrent.futures.Future
  arrived: float

  @property
  def key(self):
    """What pictures of one batch have in common."""
    return self.image.shape, self.kind


class Batcher:
  """Threads that label pictures in batches, the picture that came first before others.

  While the network works on a batch, the next one gathers; `max_wait` is for when the network is free.
  """

  def __init__(self, label, *, max_batch, max_pixels, max_wait, num_threads=1):
    """Starts the threads.

    Args:
      label: `label(images, kind)` returns a list with a result for each of the images, which are of one size.
      max_batch: greatest number of pictures of a batch.
      max_pixels: greatest number of pixels of a batch of several pictures.
      max_wait: seconds that a picture waits for others of its size.
      num_threads: number of calls of `label` at a time.
    """
    self._label, self._max_batch, self._max_pixels, self._max_wait = label, max_batch, max_pixels, max_wait
    self._waiting, self._closed, self._changed = [], False, threading.Condition()
    self._threads = [threading.Thread(target=self._work, name=f'network {number}') for number in range(num_threads)]
    for thread in self._threads:
      thread.start()

  def submit(self, image, kind):
    """Returns the Future of a picture's result, of which the picture is forgotten if it is cancelled in time.

    Args:
      image: as of `datasets.images.read_image`.
      kind: see Item.
    """
    item = Item(image, kind, concurrent.futures.Future(), time.monotonic())
    with self._changed:
      if self._closed:
        raise RuntimeError('the batcher is closed')
      self._waiting.append(item)
      self._changed.notify_all()
    return item.future

  @property
  def waiting(self):
    """Number of pictures that wait."""
    return len(self._waiting)

  def close(self):
    """Ends the threads when all pictures are labeled."""
    with self._changed:
      self._closed = True
      self._changed.notify_all()
    for thread in self._threads:
      thread.join()

  def _work(self):
    while batch := self._next():
      self._answer(batch)

  def _answer(self, batch):
    """Labels a batch of Items. A function of its own, so that no picture outlives its answer."""
    try:
      results = self._label([item.image for item in batch], batch[0].kind)
      pairs = list(zip(batch, results, strict=True))
    except BaseException as error:  # whoever waits is told
      for item in batch:
        item.future.set_exception(error)
    else:
      for item, result in pairs:
        item.future.set_result(result)

  def _next(self):
    """Waits for a batch and takes it out; a list of Items, None at the end."""
    with self._changed:
      while True:
        self._waiting = [item for item in self._waiting if not item.future.cancelled()]
        if not self._waiting:
          if self._closed:
            return None
          self._changed.wait()
          continue
        first = self._waiting[0]
        height, width = first.image.shape[:2]
        most = max(1, min(self._max_batch, self._max_pixels // (height * width)))
        batch = [item for item in self._waiting if item.key == first.key][:most]
        left = first.arrived + self._max_wait - time.monotonic()
        if len(batch) < most and left > 0 and not self._closed:
          self._changed.wait(left)
          continue
        self._waiting = [item for item in self._waiting if item not in batch]
        batch = [item for item in batch if item.future.set_running_or_notify_cancel()]
        if batch:
          return batch
