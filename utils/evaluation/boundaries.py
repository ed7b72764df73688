"""Boundary F1 and trimap bands: how closely predictions follow the boundaries between classes.

Two pixels beside or above each other whose classes differ are both boundary pixels, each of its own class. The image's
border is no boundary.

Void pixels take the values of the nearest labeled pixel, in the truth and in the prediction alike (`without_void`). So
predictions in void do not count; void beside or inside a class makes no boundary; and where a seam of void parts two
classes, as in VOC's labels, the boundary runs along its middle instead of being lost.
"""

import math

import numpy as np

from utils.evaluation.metrics import confusion_matrix, percent, scores
from utils.labels import IGNORE_LABEL, edges

TOLERANCE = 0.0075  # share of the image's diagonal, as in Csurka et al.
BANDS = (1, 2, 4, 8, 16)  # widths in pixels


def _ndimage():
  """scipy.ndimage. Imported with the module, it would hold up every start of a training."""
  from scipy import ndimage

  return ndimage


def without_void(truth, prediction):
  """Fills the pixels that are void in the truth with the values of their nearest labeled pixel, in both maps.

  Args:
    truth: integer [H, W], label ids or IGNORE_LABEL.
    prediction: integer [H, W], label ids.

  Returns:
    `(truth, prediction)` without void; without any labeled pixel, two maps of a single value, which have no boundary.
  """
  void = truth == IGNORE_LABEL
  if void.all():
    return truth, truth
  if not void.any():
    return truth, prediction
  nearest = tuple(_ndimage().distance_transform_edt(void, return_distances=False, return_indices=True))
  return truth[nearest], prediction[nearest]


def boundary_f1(truth, prediction, num_classes, *, tolerance=TOLERANCE):
  """F1 of every class's boundary pixels in one image.

  Csurka, Larlus, Perronnin, "What is a good evaluation measure for semantic segmentation?", BMVC 2013: precision is the
  share of the class's predicted boundary pixels that lie closer than the tolerance to its true boundary, recall the
  share of its true boundary pixels that lie as close to its predicted boundary. A class with a boundary in only one of
  the two maps has F1 0; a class with a boundary in neither map is not counted in this image (also if it fills both).

  Args:
    truth: integer [H, W], label ids or IGNORE_LABEL.
    prediction: integer [H, W], label ids.
    num_classes: number of classes.
    tolerance: share of the image's diagonal.

  Returns:
    float64 [2, num_classes]: the F1, and 1 for each class that is counted. Arrays of several images add up; the first
    row over the second is then each class's mean over the images in which it is counted.
  """
  maps = without_void(truth, prediction)
  outlines = [edges(labels) for labels in maps]
  reach = tolerance * math.hypot(*truth.shape)
  result = np.zeros([2, num_classes])
  for c in np.union1d(*(labels[edge] for labels, edge in zip(maps, outlines))):
    real, found = ((labels == c) & edge for labels, edge in zip(maps, outlines))
    [box] = _ndimage().find_objects((real | found).astype(np.uint8))  # outside of the box no distance matters
    result[:, c] = _f1(real[box], found[box], reach), 1
  return result


def _f1(real, found, reach):
  """F1 of two bool [H, W] of which at least one has pixels; 0 if either is empty."""
  if not (real.any() and found.any()):
    return 0.0
  precision, recall = (float((_ndimage().distance_transform_edt(~others)[pixels] < reach).mean())
                       for pixels, others in ((found, real), (real, found)))
  return 2 * precision * recall / (precision + recall) if precision and recall else 0.0


def band_matrices(truth, prediction, num_classes, *, widths=BANDS):
  """Confusion matrices of the pixels near the true boundaries of an image: the trimap.

  Kohli, Ladicky, Torr, "Robust Higher Order Potentials for Enforcing Label Consistency", IJCV 2009; also
  DeepLab (Chen et al., arXiv:1412.7062), which measures from VOC's void instead. A band of width w holds the pixels
  whose centers lie less than w pixels from the center of a boundary pixel: along a straight boundary, w on each side.
  Void is not counted.

  Args:
    truth: integer [H, W], label ids or IGNORE_LABEL.
    prediction: integer [H, W], label ids.
    num_classes: number of classes.
    widths: widths of the bands, in pixels.

  Returns:
    int64 [len(widths), num_classes, num_classes], see `metrics.confusion_matrix`; arrays of several images add up.
  """
  outline = edges(without_void(truth, prediction)[0])
  if not outline.any():
    return np.zeros([len(widths), num_classes, num_classes], np.int64)
  distance = _ndimage().distance_transform_edt(~outline)
  return np.stack([confusion_matrix(np.where(distance < width, truth, IGNORE_LABEL), prediction, num_classes)
                   for width in widths])


class Boundaries:
  """The part of a Scorer that adds up boundary F1 and the bands along boundaries.

  Attributes:
    f1: float64 [2, C], see boundary_f1.
    bands: int64 [number of bands, C, C], see band_matrices.
  """

  def __init__(self, num_classes):
    self._num_classes = num_classes
    self.f1 = np.zeros([2, num_classes])
    self.bands = np.zeros([len(BANDS), num_classes, num_classes], np.int64)

  def add(self, example):
    """Adds a scorer.Example."""
    self.f1 += boundary_f1(example.truth, example.prediction, self._num_classes)
    self.bands += band_matrices(example.truth, example.prediction, self._num_classes)

  def to_json(self, classes):
    """Dict for the metrics file: boundary F1, mean and by class, images of each class, scores of each band."""
    total, images = self.f1
    class_f1 = [float(part / count) if count else None for part, count in zip(total, images)]
    defined = [value for value in class_f1 if value is not None]
    return {
        'boundary_f1': float(np.mean(defined)) if defined else None,
        'class_boundary_f1': dict(zip(classes, class_f1)),
        'class_boundary_images': dict(zip(classes, images.astype(int).tolist())),
        'boundary_tolerance': TOLERANCE,
        'trimap': [_band(width, matrix) for width, matrix in zip(BANDS, self.bands)],
    }

  def text(self, value):
    """List of two lines: F1, and bands."""
    bands = value['trimap']
    by_class = ', '.join(f'{name} {percent(f1)}' for name, f1 in value['class_boundary_f1'].items())
    return [f'boundary F1 within {100 * value["boundary_tolerance"]:g} % of the diagonal: '
            f'{percent(value["boundary_f1"])}, the mean of {by_class}',
            f'mean IoU within {", ".join(str(band["width"]) for band in bands)} pixels of a boundary: '
            f'{", ".join(percent(band["mean_iou"]) for band in bands)}']

  def pictures(self, run, title):
    """Empty dict: this part has no pictures."""
    del run, title
    return {}


def _band(width, matrix):
  result, pixels = scores(matrix), int(matrix.sum())
  defined = {name: result[name] if pixels else None for name in ('mean_iou', 'pixel_accuracy')}
  return {'width': width, **defined, 'pixels': pixels}
