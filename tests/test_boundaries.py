"""Boundary F1 and bands around boundaries, against values computed by hand and pixel by pixel."""

import math

import numpy as np
import pytest

from utils.evaluation import boundaries

pytestmark = pytest.mark.fast

VOID = 255


def halves(height, width, first):
  """Class 0 in the first columns, class 1 in the others."""
  return np.tile(np.where(np.arange(width) < first, 0, 1), (height, 1)).astype(np.uint8)


@pytest.mark.parametrize('tolerance,expected', [
    (0.19, 0.0),
    (0.2, 0.0),  # share of a diagonal of 5: the boundaries are one pixel apart, not less
    (0.21, 1.0),
])
def test_a_boundary_one_pixel_off_matches_within_the_tolerance(tolerance, expected):
  f1, images = boundaries.boundary_f1(halves(3, 4, 2), halves(3, 4, 1), 3, tolerance=tolerance)
  assert f1.tolist() == [expected, expected, 0] and images.tolist() == [1, 1, 0]


def test_f1_by_hand():
  """A dot is found, and another dot that does not exist."""
  truth = np.zeros((5, 7), np.uint8)
  truth[2, 3] = 1
  prediction = truth.copy()
  prediction[0, 0] = 1
  f1, images = boundaries.boundary_f1(truth, prediction, 2)
  assert images.tolist() == [1, 1]
  assert f1[1] == pytest.approx(2 / 3)  # precision 1/2, recall 1
  assert f1[0] == pytest.approx(0.8)  # of the background's 4 + 2 predicted boundary pixels 4 are true ones


def test_a_class_in_only_one_of_the_maps_counts_as_0_and_an_absent_class_not_at_all():
  truth, prediction = halves(4, 9, 5), np.where(halves(4, 9, 5) == 1, 2, 0)
  f1, images = boundaries.boundary_f1(truth, prediction, 4)
  assert f1.tolist() == [1, 0, 0, 0] and images.tolist() == [1, 1, 1, 0]
  f1, images = boundaries.boundary_f1(truth, np.zeros_like(truth), 4)  # one class everywhere has no boundary
  assert f1.tolist() == [0, 0, 0, 0] and images.tolist() == [1, 1, 0, 0]


@pytest.mark.parametrize('truth,prediction', [
    (np.zeros((1, 1), np.int32), np.ones((1, 1), np.uint8)),
    (np.full((3, 5), 1), np.zeros((3, 5), np.uint8)),
    (np.full((3, 5), VOID), halves(3, 5, 2)),  # predictions in a void image have no boundary that counts
])
def test_a_truth_of_one_value_has_no_boundary(truth, prediction):
  assert boundaries.boundary_f1(truth, prediction, 2).sum() == 0
  assert boundaries.band_matrices(truth, prediction, 2).sum() == 0


def reference_f1(truth, prediction, c, reach):
  """boundary_f1 from sets of pixels and all pairs of pixels."""
  def boundary(labels):
    height, width = labels.shape
    return [(y, x) for y in range(height) for x in range(width) if labels[y, x] == c and any(
        0 <= y + dy < height and 0 <= x + dx < width and labels[y + dy, x + dx] != c
        for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0)))]

  def matched(pixels, others):
    near = [any(math.dist(pixel, other) < reach for other in others) for pixel in pixels]
    return sum(near) / len(near) if near else 0.0

  real, found = boundary(truth), boundary(prediction)
  if not real and not found:
    return None
  precision, recall = matched(found, real), matched(real, found)
  return 2 * precision * recall / (precision + recall) if precision and recall else 0.0


def test_f1_equals_that_of_all_pairs_of_pixels():
  rng = np.random.default_rng(4)
  for size in ((9, 14), (1, 17), (13, 2)):
    truth, prediction = rng.choice(4, (2, *size), p=[0.6, 0.2, 0.15, 0.05])
    f1, images = boundaries.boundary_f1(truth, prediction, 5, tolerance=0.09)
    for c in range(5):
      expected = reference_f1(truth, prediction, c, 0.09 * math.hypot(*size))
      assert images[c] == (expected is not None) and f1[c] == pytest.approx(expected or 0.0)
  assert 0 < f1.sum() < images.sum()


def test_predictions_in_void_do_not_count_and_void_in_a_class_makes_no_boundary():
  truth = halves(6, 11, 4)
  truth[1:4, 7:10] = VOID
  prediction = halves(6, 11, 4)
  expected = boundaries.boundary_f1(halves(6, 11, 4), prediction, 3)
  prediction[2, 8] = 2
  np.testing.assert_array_equal(boundaries.boundary_f1(truth, prediction, 3), expected)
  truth = np.where(halves(6, 11, 4) == 1, VOID, 0)  # void to the border: no other class is known beside the class
  assert boundaries.boundary_f1(truth, prediction, 3).sum() == 0
  assert boundaries.band_matrices(truth, prediction, 3).sum() == 0


def test_a_seam_of_void_between_two_classes_is_a_boundary():
  row = np.array([[0, 0, VOID, VOID, VOID, VOID, 1, 1]])
  for predicted in ([0, 0, 1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 2, 1, 1]):  # anywhere in the seam is right
    np.testing.assert_array_equal(boundaries.boundary_f1(row, np.array([predicted]), 3), [[1, 1, 0], [1, 1, 0]])
  f1, images = boundaries.boundary_f1(row, np.zeros_like(row), 3)
  assert f1.sum() == 0 and images.tolist() == [1, 1, 0]
  matrices = boundaries.band_matrices(row, np.zeros_like(row), 2, widths=(2, 3, 4))
  assert matrices.tolist() == [[[0, 0], [0, 0]], [[1, 0], [1, 0]], [[2, 0], [2, 0]]]


def test_bands_reach_their_width_on_each_side_and_ignore_void():
  truth = halves(3, 9, 4).astype(np.int32)
  truth[0, 1] = VOID
  matrices = boundaries.band_matrices(truth, np.zeros((3, 9), np.uint8), 2, widths=(1, 2, 4, 8))
  assert matrices.dtype == np.int64
  assert matrices.tolist() == [[[3, 0], [3, 0]], [[6, 0], [6, 0]], [[11, 0], [12, 0]], [[11, 0], [15, 0]]]
