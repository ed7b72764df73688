"""How well predictions follow the boundaries between classes.

Two pixels beside or above each other whose classes differ are both boundary pixels, each of its own class. The image's
border is no boundary.

Void pixels take what the nearest labelled pixel has, in the truth and in the prediction alike (`without_void`). So what
is predicted in void counts for nothing; void beside or inside one class makes no boundary; and where a seam of void
parts two classes, as in VOC's labels, the boundary runs along its middle instead of being lost.
"""

import math

import numpy as np
from scipy import ndimage

from utils.evaluation.metrics import confusion_matrix
from utils.labels import IGNORE_LABEL, edges

TOLERANCE = 0.0075  # of the image's diagonal, as in Csurka et al.
BANDS = (1, 2, 4, 8, 16)  # pixels


def without_void(truth, prediction):
  """Gives the pixels that are void in the truth what their nearest labelled pixel has.

  Args:
    truth: integer [H, W], label ids or IGNORE_LABEL.
    prediction: integer [H, W], label ids.

  Returns:
    `(truth, prediction)` without void; where nothing is labelled, two maps of one value, which have no boundary.
  """
  void = truth == IGNORE_LABEL
  if void.all():
    return truth, truth
  if not void.any():
    return truth, prediction
  nearest = tuple(ndimage.distance_transform_edt(void, return_distances=False, return_indices=True))
  return truth[nearest], prediction[nearest]


def boundary_f1(truth, prediction, num_classes, *, tolerance=TOLERANCE):
  """F1 of every class's boundary pixels in one image.

  Csurka, Larlus, Perronnin, "What is a good evaluation measure for semantic segmentation?", BMVC 2013: precision is the
  share of the class's predicted boundary pixels that lie less than a tolerance away from one of its true ones, recall
  the share of the true ones that lie so near to a predicted one. A class whose boundary is in one of the two maps alone
  has F1 0; one that has a boundary in neither is not counted in this image (also where it fills both maps).

  Args:
    truth: integer [H, W], label ids or IGNORE_LABEL.
    prediction: integer [H, W], label ids.
    num_classes: number of classes.
    tolerance: as a share of the image's diagonal.

  Returns:
    float64 [2, num_classes]: the F1, and 1 for each class that is counted. Those of several images add up; the first
    row over the second is then each class's mean over the images in which it is counted.
  """
  maps = without_void(truth, prediction)
  outlines = [edges(labels) for labels in maps]
  reach = tolerance * math.hypot(*truth.shape)
  result = np.zeros([2, num_classes])
  for c in np.union1d(*(labels[edge] for labels, edge in zip(maps, outlines))):
    real, found = ((labels == c) & edge for labels, edge in zip(maps, outlines))
    [box] = ndimage.find_objects((real | found).astype(np.uint8))  # distances matter inside it alone
    result[:, c] = _f1(real[box], found[box], reach), 1
  return result


def _f1(real, found, reach):
  """F1 of two bool [H, W] of which at least one has pixels; neither may be empty for it to be above 0."""
  if not (real.any() and found.any()):
    return 0.0
  precision, recall = (float((ndimage.distance_transform_edt(~others)[pixels] < reach).mean())
                       for pixels, others in ((found, real), (real, found)))
  return 2 * precision * recall / (precision + recall) if precision and recall else 0.0


def band_matrices(truth, prediction, num_classes, *, widths=BANDS):
  """Confusion matrices of the pixels near the true boundaries, of one image: the trimap.

  Kohli, Ladicky, Torr, "Robust Higher Order Potentials for Enforcing Label Consistency", IJCV 2009; also
  DeepLab (Chen et al., arXiv:1412.7062), which measures from VOC's void instead. A band of width w holds the pixels
  whose centers lie less than w pixels from that of a boundary pixel: along a straight boundary, w on each side. Void is
  not counted.

  Args:
    truth: integer [H, W], label ids or IGNORE_LABEL.
    prediction: integer [H, W], label ids.
    num_classes: number of classes.
    widths: of the bands, in pixels.

  Returns:
    int64 [len(widths), num_classes, num_classes], see `metrics.confusion_matrix`; those of several images add up.
  """
  outline = edges(without_void(truth, prediction)[0])
  if not outline.any():
    return np.zeros([len(widths), num_classes, num_classes], np.int64)
  distance = ndimage.distance_transform_edt(~outline)
  return np.stack([confusion_matrix(np.where(distance < width, truth, IGNORE_LABEL), prediction, num_classes)
                   for width in widths])
