"""Evaluation beyond the confusion matrix: boundaries, calibration, and the best and the worst images of a split."""

import dataclasses
import os

import numpy as np

from utils.drawing import charts, colors, gallery
from utils.evaluation import boundaries, calibration, metrics

NUM_EXTREMES = 4  # best and worst images that are shown


@dataclasses.dataclass
class Details:
  """Sums over the images of a split so far: memory does not grow with their number. `add` changes it.

  Attributes:
    f1: float64 [2, C], see boundaries.boundary_f1.
    bands: int64 [number of bands, C, C], see boundaries.band_matrices.
    bins: float64 [3, bins], see calibration.bin_counts.
    best: list of gallery.Row, the best first.
    worst: list of gallery.Row, the worst first.
  """
  f1: np.ndarray
  bands: np.ndarray
  bins: np.ndarray
  best: list = dataclasses.field(default_factory=list)
  worst: list = dataclasses.field(default_factory=list)


def start(num_classes):
  """Returns the Details of no images yet."""
  return Details(np.zeros([2, num_classes]), np.zeros([len(boundaries.BANDS), num_classes, num_classes], np.int64),
                 np.zeros([3, calibration.BINS]))


def add(details, row, matrix, *, plain, confidence):
  """Adds an image.

  Args:
    details: a Details, which is changed.
    row: `(name, image, truth, prediction)`: str, uint8 [H, W, 3], and label ids, integer [H, W], 255 for void in truth.
    matrix: its confusion matrix, int64 [C, C].
    plain: integer [H, W], label ids: what is most probable to the network, with a CRF another than the prediction.
    confidence: float [H, W]: its probability.
  """
  _, _, truth, prediction = row
  num_classes = len(matrix)
  details.f1 += boundaries.boundary_f1(truth, prediction, num_classes)
  details.bands += boundaries.band_matrices(truth, prediction, num_classes)
  details.bins += calibration.bin_counts(truth, plain, confidence)
  score = metrics.present_iou(matrix)
  if score is not None:
    kept = gallery.row(*row, score)
    details.best = sorted([*details.best, kept], key=lambda one: -one.score)[:NUM_EXTREMES]
    details.worst = sorted([*details.worst, kept], key=lambda one: one.score)[:NUM_EXTREMES]


def to_json(details, classes):
  """Returns the details as a dict of plain values for a metrics file; null stands for a value that is undefined."""
  total, images = details.f1
  class_f1 = [float(part / count) if count else None for part, count in zip(total, images)]
  defined = [value for value in class_f1 if value is not None]
  return {
      'boundary_f1': float(np.mean(defined)) if defined else None,
      'class_boundary_f1': dict(zip(classes, class_f1)),
      'class_boundary_images': dict(zip(classes, images.astype(int).tolist())),
      'boundary_tolerance': boundaries.TOLERANCE,
      'trimap': [_band(width, matrix) for width, matrix in zip(boundaries.BANDS, details.bands)],
      'calibration': calibration.to_json(details.bins),
      'best': [{'name': one.name, 'mean_iou': one.score} for one in details.best],
      'worst': [{'name': one.name, 'mean_iou': one.score} for one in details.worst],
  }


def _band(width, matrix):
  result, pixels = metrics.scores(matrix), int(matrix.sum())
  scores = {name: result[name] if pixels else None for name in ('mean_iou', 'pixel_accuracy')}
  return {'width': width, **scores, 'pixels': pixels}


def text(value):
  """Lays out what `to_json` returned as a few lines, in percent.

  Args:
    value: the dict.

  Returns:
    str of several lines.
  """
  bands, sure = value['trimap'], value['calibration']
  by_class = ', '.join(f'{name} {_percent(f1)}' for name, f1 in value['class_boundary_f1'].items())
  lines = [f'boundary F1 within {100 * value["boundary_tolerance"]:g} % of the diagonal: '
           f'{_percent(value["boundary_f1"])}, the mean of {by_class}']
  lines.append(f'mean IoU within {", ".join(str(band["width"]) for band in bands)} pixels of a boundary: '
               f'{", ".join(_percent(band["mean_iou"]) for band in bands)}')
  lines.append(f'expected calibration error: {_percent(sure["expected_calibration_error"], 2)}; mean confidence '
               f'{_percent(sure["confidence"])}, accuracy {_percent(sure["accuracy"])}')
  lines += [f'{title} images: ' + ', '.join(f'{one["name"]} {_percent(one["mean_iou"])}' for one in value[title])
            for title in ('best', 'worst')]
  return '\n'.join(lines)


def _percent(fraction, digits=1):
  return '-' if fraction is None else f'{100 * fraction:.{digits}f}'


def write_pictures(details, folder, suffix, *, run):
  """Writes calibration-SUFFIX.png, best-SUFFIX.png and worst-SUFFIX.png.

  Args:
    details: a Details with at least one labelled pixel.
    folder: where to.
    suffix: the split, for the files' names and the chart's title.
    run: a utils.runs.Run.

  Returns:
    list of the paths.

  Raises:
    UserError: if a file cannot be written.
  """
  pictures = {'calibration': charts.reliability_chart(details.bins, f'{suffix}, step {run.step}')}
  for name, rows in (('best', details.best), ('worst', details.worst)):
    pictures[name] = gallery.sheet(rows, run.classes, run.palette, errors=True)
  paths = [os.path.join(folder, f'{name}-{suffix}.png') for name in pictures]
  for path, picture in zip(paths, pictures.values()):
    colors.write_png(path, picture)
  return paths
