"""Fits the temperature that divides a network's logits: the work of evaluate.py --fit_temperature.

Guo, Pleiss, Sun, Weinberger, "On Calibration of Modern Neural Networks", ICML 2017, section 4.2: the temperature T
minimizes the mean negative log-likelihood of the labeled pixels under softmax(logits / T). As a function of b = 1 / T
it is convex, so that its slope has one zero. One pass over the split adds up the slope, and the slope's own, at each
temperature of GRID; between two of them the slope is taken for a cubic. A second pass measures the result.
"""

import functools
import sys

import numpy as np

from datasets import pipeline
from utils.compat import tf
from utils.errors import UserError, shown
from utils.evaluation import calibration, metrics
from utils.inference import temperature
from utils.inference.stream import NO_MEMORY
from utils.inference.tiles import probability_bands
from utils.labels import IGNORE_LABEL
from utils.packages import is_package
from utils.progress import Progress
from utils.workers import threaded_map

GRID = np.geomspace(temperature.GREATEST, temperature.LEAST, 28)  # 1 / T ascends, by a factor of 1.19
_CHUNK = 2**18  # greatest number of logits that are worked on at a time: they stay in a core's cache


def sums(logits, truth, temperatures):
  """Adds up the labeled pixels' losses and confidences at several temperatures.

  Args:
    logits: float32 [..., C].
    truth: integer [...], label ids or IGNORE_LABEL.
    temperatures: float [K].

  Returns:
    `(losses, bins)`: float64 [K, 3], the negative log-likelihood in nats and its first and second derivative by 1 / T;
    and float64 [K, 3, BINS], see calibration.bin_counts. Arrays of several images add up.
  """
  losses, bins = np.zeros([len(temperatures), 3]), np.zeros([len(temperatures), 3, calibration.BINS])
  counted = truth != IGNORE_LABEL
  logits, truth = logits[counted], truth[counted]
  step = max(1, _CHUNK // logits.shape[-1])
  for start in range(0, len(truth), step):
    part, ids = logits[start:start + step].T, truth[start:start + step]
    labels = part.argmax(axis=0)
    part = np.ascontiguousarray(part - part.max(axis=0))  # [C, n]: classes are added up in whole rows
    true = part[ids, np.arange(len(ids))].astype(np.float64)
    for place, value in enumerate(temperatures):
      weights = np.exp(part * np.float32(1 / value))
      whole = weights.sum(axis=0)
      weights *= part
      mean = weights.sum(axis=0) / whole
      weights *= part
      spread = weights.sum(axis=0) / whole - mean**2
      losses[place] += (np.log(whole) - true / value).sum(), (mean - true).sum(), spread.sum(dtype=np.float64)
      bins[place] += calibration.bin_counts(ids, labels, 1 / whole)
  return losses, bins


def best(losses):
  """Finds the temperature at which the loss is least.

  Args:
    losses: float64 [K, 3], of `sums` at GRID.

  Returns:
    float, to four digits; None if it is not between the ends of GRID.
  """
  slopes = losses[:, 1]
  if not slopes[0] < 0 < slopes[-1]:
    return None
  place = np.flatnonzero(slopes < 0)[-1]
  (low, high), (first, last) = 1 / GRID[place:place + 2], slopes[place:place + 2]
  rise, end = losses[place:place + 2, 2] * (high - low)
  cubic = [2 * first - 2 * last + rise + end, 3 * last - 3 * first - 2 * rise - end, rise, first]  # Hermite's
  left, right = 0.0, 1.0
  for _ in range(50):
    middle = (left + right) / 2
    left, right = (middle, right) if np.polyval(cubic, middle) < 0 else (left, middle)
  return float(f'{1 / (low + left * (high - low)):.4g}')


def fit(predictor, run, settings, data_dir, num_images, *, held):
  """Fits a run's temperature on a split, prints what it gains, and keeps it in the run's folder.

  Args:
    predictor: a Predictor of the run, with temperature 1.
    run: a runs.Run.
    settings: an EvaluateSettings.
    data_dir: folder with the shards.
    num_images: number of images in the split.
    held: the HoldOut of the split.

  Raises:
    UserError: if a record cannot be used, no temperature is best, or the file cannot be written.
  """
  split = settings.split
  if is_package(run.folder):
    raise UserError(f'--ckpt={run.folder}: a package is not changed; fit the temperature on the run itself, and '
                    'package it again')
  if split == run.train_split:
    print(f'warning: {shown(run.folder)} was trained on these images, on which it is surer, and right more often, than '
          'on others; fit on val or held_out', file=sys.stderr, flush=True)

  def total(temperatures, label):
    measure = functools.partial(_image_sums, predictor=predictor, tiles=settings.tiles, temperatures=temperatures,
                                where=f'{data_dir}, {split}')
    losses = bins = 0
    with Progress(num_images, 'images', label=f'{split}, {label}') as progress:
      for found in threaded_map(measure, pipeline.examples(data_dir, split, held), predictor.num_devices):
        losses, bins = losses + found[0], bins + found[1]
        progress.update()
    return losses, bins

  value = best(total(GRID, 'fit')[0])
  if value is None:
    raise UserError(f'no temperature from {temperature.LEAST:g} to {temperature.GREATEST:g} is best on {split} in '
                    f'{data_dir}: no pixel is labeled, or the network is right on all or no better than chance')
  losses, bins = total((1.0, value), 'result')
  pixels = int(bins[0, 0].sum())
  result = {'temperature': value, 'split': split, 'hold_out': held.to_json() if held.concerns(split) else None,
            'num_images': num_images, 'pixels': pixels, 'precision': settings.labelling.device.chosen}
  for place, name in enumerate(('before', 'after')):
    result[name] = {'negative_log_likelihood': losses[place, 0] / pixels,
                    'expected_calibration_error': calibration.expected_error(bins[place])}
  temperature.save(run, result)
  print(text(result))
  print(f'written: {shown(temperature.file_of(run))}')


def text(result):
  """Lays out the content of the temperature's file in a line."""
  before, after = result['before'], result['after']
  loss, error = 'negative_log_likelihood', 'expected_calibration_error'
  return (f'temperature {result["temperature"]:g}, fitted on {result["pixels"]:,} pixels: negative log-likelihood '
          f'{before[loss]:.4f}, {after[loss]:.4f} with it; expected calibration error '
          f'{metrics.percent(before[error], 2)} %, {metrics.percent(after[error], 2)} % with it')


def _image_sums(example, predictor, tiles, temperatures, where):
  """The `sums` of an example of pipeline.examples. Raises UserError, naming the record, if it cannot be used."""
  name, image, truth = example
  size = image.shape[:2]
  tile_size = tiles.size_for(size, predictor.num_classes, 1)
  losses = bins = 0
  try:
    metrics.confusion_matrix(truth, np.zeros_like(truth), predictor.num_classes)  # checks the labels
    for top, band in probability_bands(predictor.logits, image, tile_size=tile_size, overlap=tile_size // 4):
      found = sums(band, truth[top:top + len(band)], temperatures)
      losses, bins = losses + found[0], bins + found[1]
  except UserError as error:
    raise UserError(f'{where}, record {name}: {error}') from error
  except (tf.errors.ResourceExhaustedError, MemoryError) as error:
    raise UserError(f'{where}, record {name}: {NO_MEMORY}') from error
  return losses, bins
