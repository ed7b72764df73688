"""Labels pictures that do not fit into memory: read by rows, labeled in tiles, written by rows."""

import collections
import math
import os

import numpy as np
from PIL import Image

from datasets import windows
from datasets.images import BadFile, encode_png
from utils.drawing import colors
from utils.inference import label_files
from utils.inference.stream import FAILURES, failed
from utils.inference.tiles import label_bands
from utils.progress import Progress

OVERVIEW = 4_000_000  # greatest number of pixels of the overlay


class Overview:
  """A picture and its label, made small as their rows come.

  Attributes:
    present: bool [256], the labels that occur.
  """

  def __init__(self, size, show=lambda rows: rows):
    """Takes the picture's (height, width), and a function that makes its rows a picture, uint8 [h, W, 3]."""
    self._show = show
    self._factor = math.ceil(math.sqrt(size[0] * size[1] / OVERVIEW))
    self._images, self._labels = [], []
    self.present = np.zeros(256, bool)

  def watch(self, picture, bands):
    """Passes on the bands of a picture's label, and keeps a small copy of both.

    Args:
      picture: windows.Rows, or an array [H, W, N].
      bands: iterable of uint8 [h, W], from top to bottom.

    Yields:
      the bands.
    """
    done, image = 0, np.empty((0, picture.shape[1], 3), np.uint8)
    label = image[..., 0]
    for band in bands:
      image = np.concatenate([image, self._show(picture[done:done + len(band)])])
      label, done = np.concatenate([label, band]), done + len(band)
      whole = len(label) if done == picture.shape[0] else len(label) // self._factor * self._factor
      self._keep(image[:whole], label[:whole])
      image, label = image[whole:].copy(), label[whole:].copy()
      yield band

  def _keep(self, image, label):
    """Makes rows small: the mean of the image in squares of `factor` pixels, the label of the first pixel of each."""
    if len(label):
      self._images.append(np.asarray(Image.fromarray(image).reduce(self._factor)))
      self._labels.append(label[::self._factor, ::self._factor].copy())
      self.present |= np.bincount(label.ravel(), minlength=256) > 0

  def overlay(self, run, alpha):
    """The label's colors over the picture, with a legend: uint8 [h, w, 3]."""
    picture = colors.overlay(np.concatenate(self._images), np.concatenate(self._labels), run.palette, alpha)
    return colors.with_legend(picture, np.flatnonzero(self.present), run.classes, run.palette)


def label_large(item, output, predictor, reading):
  """Labels a picture that is read by rows. Memory holds a row of tiles, see tiles.probability_blocks.

  The label is written by label_files; the overlay is made small, to at most OVERVIEW pixels.

  Args:
    item: a files.Input that windows.by_rows takes.
    output: a results.Output.
    predictor: the run's Predictor.
    reading: the run's Reading.

  Raises:
    BadFile: if the picture cannot be used; no output is written then.
    UserError: if an output cannot be written.
  """
  settings, paths = output.settings, output.paths(item)
  with windows.open_rows(item.path, os.path.dirname(output.targets[item]), reading) as picture:
    size = picture.shape[:2]
    tile_size = settings.tiles.size_for(size, predictor.num_classes, predictor.views.enlargement)
    seen = predictor.seen
    overview = Overview(size, lambda rows: colors.false_color(rows, seen.reading, seen.bands))
    bands = label_bands(predictor.probabilities, picture, tile_size=tile_size, overlap=tile_size // 4,
                        num_devices=predictor.num_devices)
    try:
      with Progress(math.ceil(size[0] * size[1] / 1e6), 'megapixels', label=item.path) as progress:
        bands = _counted(overview.watch(picture, bands), progress)
        if 'label' in paths:
          label_files.write(item.path, paths, bands, size, output)
        collections.deque(bands, maxlen=0)
    except FAILURES as error:
      raise BadFile(item.path, failed(item, error).reason) from error
  if 'overlay' in paths:
    output.ledger.write_png(paths['overlay'], encode_png(overview.overlay(output.run, settings.alpha)), output.run)


def _counted(bands, progress):
  """Passes on bands and counts their pixels, in millions."""
  pixels = 0
  for band in bands:
    yield band
    pixels += band.size
    progress.update(math.ceil(pixels / 1e6) - progress.done)
