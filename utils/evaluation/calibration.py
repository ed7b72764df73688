"""Calibration: whether a network's confidence equals its accuracy.

Guo, Pleiss, Sun, Weinberger, "On Calibration of Modern Neural Networks", ICML 2017, section 2: pixels are sorted into
bins by their confidence, the probability of the predicted class, and each bin's mean confidence is compared with its
accuracy, the share of correct pixels.
"""

import numpy as np

from utils.drawing import charts
from utils.evaluation.metrics import percent
from utils.labels import IGNORE_LABEL

BINS = 15  # of equal width; Guo et al., section 5


def bin_counts(truth, prediction, confidence, *, bins=BINS):
  """Counts labeled pixels by their confidence.

  Args:
    truth: integer array of any shape, label ids or IGNORE_LABEL.
    prediction: integer array of the same shape, label ids.
    confidence: float array of the same shape, 0 to 1.
    bins: number of bins; bin m holds confidences above m / bins and up to (m + 1) / bins, bin 0 also holds 0.

  Returns:
    float64 [3, bins]: number of pixels, number of correct pixels, sum of confidences. Arrays of several images add up.
  """
  counted = truth != IGNORE_LABEL
  confidence = confidence[counted].astype(np.float64)
  right = prediction[counted] == truth[counted]
  places = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
  return np.stack([np.bincount(places, weights, bins) for weights in (None, right, confidence)])


def expected_error(counts):
  """Expected calibration error (Guo et al., equation 3): mean of |accuracy - confidence| of the bins, by pixels.

  Args:
    counts: float64 [3, bins], see `bin_counts`.

  Returns:
    float from 0 to 1; None without pixels.
  """
  pixels, right, confidence = counts
  return float(np.abs(right - confidence).sum() / pixels.sum()) if pixels.any() else None


def to_json(counts):
  """Returns the expected calibration error and the bins as a dict that JSON can hold; None for an empty bin.

  Args:
    counts: float64 [3, bins], see `bin_counts`.
  """
  pixels, right, confidence = counts
  total = pixels.sum()
  return {
      'expected_calibration_error': expected_error(counts),
      'accuracy': float(right.sum() / total) if total else None,
      'confidence': float(confidence.sum() / total) if total else None,
      'bin_pixels': pixels.astype(int).tolist(),
      'bin_accuracy': _ratios(right, pixels),
      'bin_confidence': _ratios(confidence, pixels),
  }


def _ratios(parts, wholes):
  return [float(part / whole) if whole else None for part, whole in zip(parts, wholes)]


class Calibration:
  """The part of a Scorer that adds up the confidence of the network's own labels, before any CRF.

  Attributes:
    bins: float64 [3, bins], see bin_counts.
  """

  def __init__(self, num_classes):
    del num_classes
    self.bins = np.zeros([3, BINS])

  def add(self, example):
    """Adds a scorer.Example."""
    self.bins += bin_counts(example.truth, example.plain, example.confidence)

  def to_json(self, classes):
    """Dict for the metrics file: `calibration`, see the function `to_json`."""
    del classes
    return {'calibration': to_json(self.bins)}

  def text(self, value):
    """List of a single line: error, mean confidence, accuracy."""
    value = value['calibration']
    return [f'expected calibration error: {percent(value["expected_calibration_error"], 2)}; mean confidence '
            f'{percent(value["confidence"])}, accuracy {percent(value["accuracy"])}']

  def pictures(self, run, title):
    """Dict with the reliability diagram, uint8 [h, w, 3], RGB."""
    del run
    return {'calibration': charts.reliability_chart(self.bins, title, expected_error(self.bins))}
