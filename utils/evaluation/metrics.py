"""Segmentation metrics, all of them functions of one confusion matrix (FCN paper, section 5)."""

import numpy as np

from utils.errors import UserError, shown
from utils.labels import IGNORE_LABEL

SUMMARY = ('pixel_accuracy', 'mean_accuracy', 'mean_iou', 'frequency_weighted_iou')


def confusion_matrix(labels, predictions, num_classes):
  """Counts pixels by true and predicted class. Matrices of several images add up.

  Args:
    labels: integer array of any shape, label ids in [0, num_classes) or IGNORE_LABEL.
    predictions: integer array of the same shape, in [0, num_classes) wherever the label is not IGNORE_LABEL.
    num_classes: number of classes.

  Returns:
    int64 [num_classes, num_classes]: rows are the truth, columns the predictions.

  Raises:
    ValueError: if the shapes differ, or a prediction is out of range.
    UserError: if a label is out of range; the message names it.
  """
  labels, predictions = np.asarray(labels), np.asarray(predictions)
  if labels.shape != predictions.shape:
    raise ValueError(f'labels are {labels.shape} and predictions {predictions.shape}')
  counted = labels != IGNORE_LABEL
  labels, predictions = labels[counted].astype(np.int64), predictions[counted].astype(np.int64)
  valid = f'valid are 0 to {num_classes - 1}, and {IGNORE_LABEL} for pixels that are not scored'
  wrong = _first_outside(labels, num_classes)
  if wrong is not None:
    raise UserError(f'label id {wrong} is out of range; {valid}')
  wrong = _first_outside(predictions, num_classes)
  if wrong is not None:
    raise ValueError(f'predicted id {wrong} is out of range; {valid}')
  counts = np.bincount(labels * num_classes + predictions, minlength=num_classes**2)
  return counts.reshape(num_classes, num_classes)


def scores(matrix):
  """Turns a confusion matrix into the metrics of the FCN paper, section 5.

  A class in neither truth nor prediction has no IoU and does not count in the mean IoU; a class that is only predicted
  has IoU 0 and counts. Mean accuracy is over the classes in the truth.

  Args:
    matrix: int64 [C, C], see `confusion_matrix`.

  Returns:
    dict of `pixel_accuracy`, `mean_accuracy`, `mean_iou`, `frequency_weighted_iou` (floats, fractions of 1; 0 for an
    empty matrix), `class_iou` and `class_accuracy` (float64 [C], nan where undefined), `class_pixels` (int64 [C],
    pixels in the truth).
  """
  correct, truth, predicted = np.diag(matrix), matrix.sum(axis=1), matrix.sum(axis=0)
  class_iou = _ratio(correct, truth + predicted - correct)
  class_accuracy = _ratio(correct, truth)
  total = max(int(truth.sum()), 1)
  return {
      'pixel_accuracy': float(correct.sum() / total),
      'mean_accuracy': _mean(class_accuracy),
      'mean_iou': _mean(class_iou),
      'frequency_weighted_iou': float((truth[truth > 0] * class_iou[truth > 0]).sum() / total),
      'class_iou': class_iou,
      'class_accuracy': class_accuracy,
      'class_pixels': truth,
  }


def present_iou(matrix):
  """Mean IoU of an image over the classes in its truth, as a fraction of 1; None without labeled pixels.

  Args:
    matrix: int64 [C, C], see `confusion_matrix`.
  """
  present = matrix.sum(axis=1) > 0
  return float(scores(matrix)['class_iou'][present].mean()) if present.any() else None


def table(result, classes):
  """Lays out `scores` as lines of text: a row per class, then the summary.

  Args:
    result: dict from `scores`.
    classes: class names, index = label id.

  Returns:
    str of several lines, percentages with one decimal.
  """
  classes = [shown(name) for name in classes]  # of a run, which may be of others
  titles = {name: name.replace('_', ' ').replace('iou', 'IoU') for name in SUMMARY}
  width = max(len(name) for name in (*classes, *titles.values()))
  lines = [f'{"class":{width}}  {"IoU %":>7}  {"acc. %":>7}  {"true pixels":>13}']
  absent = []
  for name, iou, accuracy, pixels in zip(
      classes, result['class_iou'], result['class_accuracy'], result['class_pixels']):
    lines.append(f'{name:{width}}  {percent(iou):>7}  {percent(accuracy):>7}  {int(pixels):13,d}')
    if np.isnan(iou):
      absent.append(name)
  lines.append('')
  lines += [f'{title:{width}}  {percent(result[name]):>7}' for name, title in titles.items()]
  if absent:
    lines.append(f'left out of the mean IoU, being in neither truth nor prediction: {", ".join(absent)}')
  return '\n'.join(lines)


def to_json(result, classes, num_images, matrix=None):
  """Returns `scores` as a dict of plain values for a metrics file; None for undefined values.

  Args:
    result: dict from `scores`.
    classes: class names, index = label id.
    num_images: number of images that were scored.
    matrix: int64 [C, C], the confusion matrix; None to omit it.

  Returns:
    dict with `pixel_accuracy`, `mean_accuracy`, `mean_iou`, `frequency_weighted_iou`, `class_iou` (name to fraction of
    1), `num_images`, `class_accuracy`, `class_pixels`, and `confusion_matrix` (rows truth) if given.
  """
  value = {name: result[name] for name in SUMMARY}
  value['class_iou'] = _by_class(result['class_iou'], classes)
  value['num_images'] = int(num_images)
  value['class_accuracy'] = _by_class(result['class_accuracy'], classes)
  value['class_pixels'] = {name: int(pixels) for name, pixels in zip(classes, result['class_pixels'])}
  if matrix is not None:
    value['confusion_matrix'] = matrix.tolist()
  return value


def _first_outside(ids, num_classes):
  outside = ids[(ids < 0) | (ids >= num_classes)]
  return int(outside[0]) if outside.size else None


def _ratio(part, whole):
  """Divides element by element; nan where `whole` is 0."""
  return np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0)


def _mean(values):
  values = values[~np.isnan(values)]
  return float(values.mean()) if values.size else 0.0


def percent(fraction, digits=1):
  """A fraction of 1 as text in percent; '-' for None and for nan."""
  return '-' if fraction is None or np.isnan(fraction) else f'{100 * fraction:.{digits}f}'


def _by_class(values, classes):
  return {name: None if np.isnan(value) else float(value) for name, value in zip(classes, values)}
