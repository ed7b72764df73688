"""Bins and expected calibration error by hand."""

import json

import numpy as np
import pytest

from utils.evaluation import calibration

pytestmark = pytest.mark.fast

TRUTH = np.array([[0, 1, 2], [0, 255, 1]])
PREDICTION = np.array([[0, 1, 1], [1, 1, 1]])
CONFIDENCE = np.array([[0.5, 0.75, 1.0], [0.375, 0.9, 0.875]], np.float32)


def test_bins_by_hand():
  """Bins end with their upper edge: 0.5 and 0.375 in (0.25, 0.5], 0.75 in (0.5, 0.75], void nowhere."""
  counts = calibration.bin_counts(TRUTH, PREDICTION, CONFIDENCE, bins=4)
  assert counts.tolist() == [[0, 2, 1, 2], [0, 1, 1, 1], [0, 0.875, 0.75, 1.875]]
  assert calibration.expected_error(counts) == pytest.approx((0.125 + 0.25 + 0.875) / 5)
  value = json.loads(json.dumps(calibration.to_json(counts), allow_nan=False))
  assert value == {
      'expected_calibration_error': pytest.approx(0.25), 'accuracy': 3 / 5, 'confidence': 3.5 / 5,
      'bin_pixels': [0, 2, 1, 2], 'bin_accuracy': [None, 0.5, 1, 0.5], 'bin_confidence': [None, 0.4375, 0.75, 0.9375]}


def test_counts_of_several_images_add_up():
  parts = [calibration.bin_counts(*(array[row] for array in (TRUTH, PREDICTION, CONFIDENCE))) for row in (0, 1)]
  assert parts[0].shape == (3, 15)
  np.testing.assert_array_equal(sum(parts), calibration.bin_counts(TRUTH, PREDICTION, CONFIDENCE))


def test_the_least_and_the_greatest_confidence_have_a_bin():
  counts = calibration.bin_counts(np.zeros(3, int), np.zeros(3, int), np.array([0.0, 1.0, 1.0 + 1e-6]))
  assert counts[0, 0] == 1 and counts[0, -1] == 2


def test_accuracy_equal_to_confidence_has_error_0_and_no_labeled_pixels_have_none():
  truth = np.array([0, 0, 0, 1])
  assert calibration.expected_error(calibration.bin_counts(truth, np.zeros(4, int), np.full(4, 0.75))) == 0
  nothing = calibration.bin_counts(np.full(4, 255), np.zeros(4, int), np.full(4, 0.75))
  assert calibration.expected_error(nothing) is None
  value = calibration.to_json(nothing)
  assert value['accuracy'] is None and value['bin_pixels'] == [0] * 15 and set(value['bin_accuracy']) == {None}
