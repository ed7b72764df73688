"""Whether a network is right as often as it is sure.

Guo, Pleiss, Sun, Weinberger, "On Calibration of Modern Neural Networks", ICML 2017, section 2: pixels are sorted into
bins by their confidence, the probability of the class that they are given, and each bin's mean confidence is compared
with the share of its pixels that are right.
"""

import numpy as np

from utils.labels import IGNORE_LABEL

BINS = 15  # of equal width; Guo et al., section 5


def bin_counts(truth, prediction, confidence, *, bins=BINS):
  """Counts labelled pixels by their confidence.

  Args:
    truth: integer array of any shape, label ids or IGNORE_LABEL.
    prediction: integer array of the same shape, label ids.
    confidence: float array of the same shape, 0 to 1.
    bins: number of bins; bin m holds confidences above m / bins and up to (m + 1) / bins, the first one 0 as well.

  Returns:
    float64 [3, bins]: number of pixels, number of right ones, sum of their confidences. Those of several images add up.
  """
  counted = truth != IGNORE_LABEL
  confidence = confidence[counted].astype(np.float64)
  right = prediction[counted] == truth[counted]
  places = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
  return np.stack([np.bincount(places, weights, bins) for weights in (None, right, confidence)])


def expected_error(counts):
  """Expected calibration error (Guo et al., equation 3): mean distance of accuracy and confidence over the pixels.

  Args:
    counts: float64 [3, bins], see `bin_counts`.

  Returns:
    float from 0 to 1; None where no pixel was counted.
  """
  pixels, right, confidence = counts
  return float(np.abs(right - confidence).sum() / pixels.sum()) if pixels.any() else None


def to_json(counts):
  """Returns the expected calibration error and the bins as a dict of plain values; null where a bin is empty."""
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
