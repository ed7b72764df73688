"""The confusion matrix and its scores, against values computed by hand."""

import json
import math

import numpy as np
import pytest

from utils.errors import UserError
from utils.evaluation import metrics

pytestmark = pytest.mark.fast

# Rows are the truth. Class 3 is only predicted (1 pixel); class 4 is in neither.
MATRIX = np.array([
    [6, 2, 0, 0, 0],
    [1, 3, 0, 0, 0],
    [0, 1, 2, 1, 0],
    [0, 0, 0, 0, 0],
    [0, 0, 0, 0, 0],
])
CLASSES = ('sky', 'road', 'car', 'bicyclist', 'sign symbol')


def test_confusion_matrix_counts_truth_in_rows_and_ignores_void():
  labels = np.array([[0, 1, 2, 255, 1], [255, 2, 2, 0, 0]], np.uint8)
  predictions = np.array([[0, 2, 2, 1, 1], [0, 0, 2, 1, 0]], np.uint8)
  matrix = metrics.confusion_matrix(labels, predictions, 3)
  assert matrix.dtype == np.int64
  np.testing.assert_array_equal(matrix, [[2, 1, 0], [0, 1, 1], [1, 0, 2]])


def test_confusion_matrix_of_150_classes_does_not_overflow_8_bits():
  labels = np.array([149, 149, 3], np.uint8)
  matrix = metrics.confusion_matrix(labels, np.array([149, 2, 149], np.uint8), 150)
  assert matrix[149, 149] == matrix[149, 2] == matrix[3, 149] == 1
  assert matrix.sum() == 3


def test_all_void_counts_nothing_and_scores_are_finite():
  void = np.full((3, 5), 255, np.uint8)
  matrix = metrics.confusion_matrix(void, np.zeros_like(void), 4)
  assert matrix.sum() == 0
  result = metrics.scores(matrix)
  assert [result[name] for name in metrics.SUMMARY] == [0, 0, 0, 0]
  assert np.isnan(result['class_iou']).all()


def test_label_out_of_range_is_named():
  with pytest.raises(UserError, match='label id 11 .* 0 to 10'):
    metrics.confusion_matrix(np.array([[3, 11]]), np.zeros((1, 2), int), 11)
  with pytest.raises(UserError, match='label id -1'):
    metrics.confusion_matrix(np.array([-1]), np.array([0]), 11)


def test_prediction_out_of_range_counts_only_where_it_is_scored():
  with pytest.raises(ValueError, match='predicted id 7'):
    metrics.confusion_matrix(np.array([1]), np.array([7]), 5)
  assert metrics.confusion_matrix(np.array([255]), np.array([7]), 5).sum() == 0


def test_shapes_must_agree():
  with pytest.raises(ValueError, match=r'\(3, 5\).*\(5, 3\)'):
    metrics.confusion_matrix(np.zeros((3, 5), int), np.zeros((5, 3), int), 2)


def test_scores_by_hand():
  result = metrics.scores(MATRIX)
  assert result['pixel_accuracy'] == pytest.approx(11 / 16)
  np.testing.assert_allclose(result['class_iou'], [6 / 9, 3 / 7, 2 / 4, 0, np.nan])
  np.testing.assert_allclose(result['class_accuracy'], [6 / 8, 3 / 4, 2 / 4, np.nan, np.nan])
  assert result['mean_accuracy'] == pytest.approx((6 / 8 + 3 / 4 + 2 / 4) / 3)
  assert result['mean_iou'] == pytest.approx((6 / 9 + 3 / 7 + 2 / 4 + 0) / 4)
  assert result['frequency_weighted_iou'] == pytest.approx((8 * 6 / 9 + 4 * 3 / 7 + 4 * 2 / 4) / 16)
  np.testing.assert_array_equal(result['class_pixels'], [8, 4, 4, 0, 0])


def test_perfect_prediction_scores_one():
  result = metrics.scores(np.diag([5, 0, 7]))
  assert [result[name] for name in metrics.SUMMARY] == [1, 1, 1, 1]


def test_matrices_of_several_images_add_up():
  rng = np.random.default_rng(5)
  labels, predictions = rng.integers(0, 4, (2, 7, 9)), rng.integers(0, 4, (2, 7, 9))
  parts = [metrics.confusion_matrix(label, prediction, 4) for label, prediction in zip(labels, predictions)]
  np.testing.assert_array_equal(sum(parts), metrics.confusion_matrix(labels, predictions, 4))


def test_table_has_a_row_per_class_and_names_absent_classes():
  lines = metrics.table(metrics.scores(MATRIX), CLASSES).splitlines()
  assert lines[1].split() == ['sky', '66.7', '75.0', '8']
  assert lines[4].split() == ['bicyclist', '0.0', '-', '0']
  assert lines[5].split() == ['sign', 'symbol', '-', '-', '0']
  assert lines[-1].endswith('left out of the mean IoU, being in neither truth nor prediction: sign symbol')
  assert any(line.split() == ['mean', 'IoU', '39.9'] for line in lines)
  assert 'left out' not in metrics.table(metrics.scores(np.diag([5, 2])), ('a', 'b'))
  assert metrics.table(metrics.scores(np.diag([5, 2])), ('a\x1b[2J', 'b')).splitlines()[1].startswith(r'a\x1b[2J ')


def test_to_json_round_trips_with_null_for_undefined():
  value = json.loads(json.dumps(metrics.to_json(metrics.scores(MATRIX), CLASSES, 3, matrix=MATRIX), allow_nan=False))
  assert value['num_images'] == 3
  assert value['mean_iou'] == pytest.approx((6 / 9 + 3 / 7 + 2 / 4) / 4)
  assert value['class_iou']['bicyclist'] == 0
  assert value['class_iou']['sign symbol'] is None
  assert value['class_accuracy']['bicyclist'] is None
  assert value['class_pixels'] == {'sky': 8, 'road': 4, 'car': 4, 'bicyclist': 0, 'sign symbol': 0}
  assert value['confusion_matrix'] == MATRIX.tolist()
  assert not any(isinstance(v, float) and math.isnan(v) for v in value.values())


def test_present_iou_is_over_the_classes_in_the_truth():
  assert metrics.present_iou(MATRIX) == pytest.approx((6 / 9 + 3 / 7 + 2 / 4) / 3)
  assert metrics.present_iou(np.zeros((3, 3), int)) is None
