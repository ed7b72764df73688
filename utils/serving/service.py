"""A run at work: from the bodies of requests to labels, in batches."""

import asyncio
import concurrent.futures

import numpy as np

from datasets.reading import Reading
from utils.inference.results import numbering
from utils.inference.stream import Failed, Wanted, labelled
from utils.serving.answers import About
from utils.serving.batcher import Batcher
from utils.serving.decoders import Decoders
from utils.serving.metrics import Metrics
from utils.serving.refusal import Refused

DRAWING_THREADS = 2  # threads that encode answers
WARM_SIZE = (64, 64)  # of the picture that goes through the network before others do: the first takes longer


class Service:
  """A run at work.

  Attributes:
    about: the answers.About.
    metrics: the metrics.Metrics.
    ready: whether the network is loaded.
    in_work: number of requests for labels that are sent, waiting or in work.
  """

  def __init__(self, settings, run):
    """Checks what can be checked at once; `load` does the rest.

    Args:
      settings: a ServeSettings.
      run: the runs.Run, with the Reading that flags change.

    Raises:
      UserError: if the run's config.json is not valid.
    """
    self._settings, self._run = settings, run
    self._reading = Reading.from_json(run.config['dataset'].get('reading'))
    self.about, self.ready = About(run, numbering(run, settings.label_values)), False
    self._predictor = self._batcher = self._decoders = None
    self.in_work = 0
    self.metrics = Metrics(settings.limits.max_batch, in_work=lambda: self.in_work,
                           waiting=lambda: self._batcher.waiting if self._batcher else 0)
    self._reading_threads, self._drawing_threads = map(
        concurrent.futures.ThreadPoolExecutor, (settings.limits.decoders, DRAWING_THREADS))

  def load(self):
    """Loads the network, and tries it out. Raises UserError if the checkpoint or the device cannot be used."""
    limits = self._settings.limits
    self._decoders = Decoders(limits.decoders, self._reading, limits.max_input_pixels)
    self._predictor = self._settings.open_predictor(self._run)
    blank = np.zeros((*WARM_SIZE, len(self._reading.names)), self._reading.dtype)
    for confidence in (False, True):
      self._labelled([blank], confidence)
    max_pixels = int(self._settings.tiles.max_pixels / self._settings.views.enlargement)  # as of one that is not tiled
    self._batcher = Batcher(self._label, max_batch=limits.max_batch, max_pixels=max_pixels, max_wait=limits.max_wait,
                            num_threads=self._predictor.num_devices)
    self.ready = True

  def _label(self, images, confidence):
    """The results of a batch, a list of Labelled and Failed; counts and times it."""
    self.metrics.batches.observe(len(images))
    with self.metrics.network_seconds.time():
      return self._labelled(images, confidence)

  def _labelled(self, images, confidence):
    return list(labelled(enumerate(images), self._predictor, tiles=self._settings.tiles, batch_size=len(images),
                         wanted=Wanted(confidence=confidence)))

  async def answer(self, body, content_type, form, alpha, deadline):
    """Labels the picture of a request.

    Args:
      body: see uploads.picture.
      content_type: see uploads.picture.
      form: the answers.Form of the answer.
      alpha: weight of the colors in an overlay.
      deadline: time of time.monotonic until which the answer is wanted.

    Returns:
      what `form.make` returns.

    Raises:
      Refused: if the picture cannot be labeled.
    """
    loop = asyncio.get_running_loop()
    image = await loop.run_in_executor(self._reading_threads, self._decoders.decode, body, content_type, deadline)
    del body
    result = await asyncio.wrap_future(self._batcher.submit(image, form.confidence))
    if isinstance(result, Failed):
      raise Refused(503, f'the picture could not be labeled: {result.reason}')
    return await loop.run_in_executor(self._drawing_threads, form.make, result, self.about, alpha)

  def close(self):
    """Frees what `load` took, when the work that was taken is done."""
    self.ready = False
    for threads in (self._reading_threads, self._drawing_threads):
      threads.shutdown()
    for part in (self._batcher, self._decoders, self._predictor):
      if part is not None:
        part.close()
