"""What evaluation adds up beyond the confusion matrix, and the sheets of the best and the worst images."""

import json
import os
import types

import numpy as np
import pytest
from PIL import Image

from utils.drawing import gallery
from utils.evaluation import details, metrics

CLASSES = ('sky', 'road', 'unicorn')
PALETTE = np.array([[10, 20, 30], [200, 100, 0], [0, 250, 0]], np.uint8)


def add(sums, name, truth, prediction, plain=None):
  """Adds a black image that the network is quite sure of."""
  plain = prediction if plain is None else plain
  details.add(sums, (name, np.zeros((*truth.shape, 3), np.uint8), truth, prediction),
              metrics.confusion_matrix(truth, prediction, len(CLASSES)), plain=plain,
              confidence=np.full(truth.shape, 0.9))


def truth_and_prediction(wrong=0):
  """Two halves of 5x8 pixels with a void corner, of which the prediction has `wrong` pixels of the sky as road."""
  truth = np.tile(np.where(np.arange(8) < 4, 0, 1), (5, 1))
  prediction = truth.astype(np.uint8)
  prediction.flat[:wrong] = 1
  truth[4, 7] = 255
  return truth, prediction


def test_the_best_and_the_worst_images_are_kept_in_order():
  sums = details.start(len(CLASSES))
  wrongs = (2, 0, 3, 1, 4, 0)
  for number, wrong in enumerate(wrongs):
    add(sums, f'image{number}', *truth_and_prediction(wrong))
  add(sums, 'void', np.full((3, 2), 255), np.zeros((3, 2), np.uint8))  # has no score
  assert [one.name for one in sums.best] == ['image1', 'image5', 'image3', 'image0']  # the earlier one of two alike
  assert [one.name for one in sums.worst] == ['image4', 'image2', 'image0', 'image3']
  assert sums.best[0].score == 1
  assert sums.worst[0].score == pytest.approx((16 / 20 + 19 / 23) / 2)


def test_numbers_by_hand():
  sums = details.start(len(CLASSES))
  truth, prediction = truth_and_prediction()
  add(sums, 'right', truth, prediction)
  add(sums, 'wrong', truth, np.zeros_like(prediction), plain=prediction)  # as if a CRF had wiped the road away
  value = json.loads(json.dumps(details.to_json(sums, CLASSES), allow_nan=False))
  assert value['boundary_f1'] == 0.5
  assert value['class_boundary_f1'] == {'sky': 0.5, 'road': 0.5, 'unicorn': None}
  assert value['class_boundary_images'] == {'sky': 2, 'road': 2, 'unicorn': 0}
  narrow, *_, wide = value['trimap']
  assert narrow == {'width': 1, 'mean_iou': pytest.approx((10 / 15 + 5 / 10) / 2), 'pixel_accuracy': 0.75,
                    'pixels': 20}
  assert (wide['width'], wide['pixels']) == (16, 2 * 39)
  assert value['calibration']['accuracy'] == 1  # of the network itself
  assert value['calibration']['expected_calibration_error'] == pytest.approx(0.1)
  assert value['best'][0] == {'name': 'right', 'mean_iou': 1} and value['worst'][0]['name'] == 'wrong'

  lines = details.text(value).splitlines()
  assert lines[0] == 'boundary F1 within 0.75 % of the diagonal: 50.0, the mean of sky 50.0, road 50.0, unicorn -'
  assert lines[1].startswith('mean IoU within 1, 2, 4, 8, 16 pixels of a boundary: 58.3, ')
  assert lines[2] == 'expected calibration error: 10.00; mean confidence 90.0, accuracy 100.0'
  assert lines[3].startswith('best images: right 100.0, wrong ') and lines[4].startswith('worst images: wrong ')


def test_one_pixel_has_no_boundary_and_the_file_says_null():
  sums = details.start(len(CLASSES))
  add(sums, 'dot', np.ones((1, 1), int), np.ones((1, 1), np.uint8))
  value = json.loads(json.dumps(details.to_json(sums, CLASSES), allow_nan=False))
  assert value['boundary_f1'] is None and value['trimap'][0] == {'width': 1, 'mean_iou': None, 'pixel_accuracy': None,
                                                                 'pixels': 0}
  assert details.text(value).splitlines()[1].endswith(': -, -, -, -, -')


def test_pictures_are_written_with_names(tmp_path):
  sums = details.start(len(CLASSES))
  for wrong in (1, 7):
    add(sums, f'image{wrong}', *truth_and_prediction(wrong))
  run = types.SimpleNamespace(step=7, classes=CLASSES, palette=PALETTE)
  paths = details.write_pictures(sums, str(tmp_path), 'val', run=run)
  assert [os.path.basename(path) for path in paths] == ['calibration-val.png', 'best-val.png', 'worst-val.png']
  assert sorted(os.listdir(tmp_path)) == sorted(os.path.basename(path) for path in paths)
  best, worst = (np.asarray(Image.open(path)) for path in paths[1:])
  np.testing.assert_array_equal(best[28:33, :35], worst[28 + 37:33 + 37, :35])  # the rows change places


def test_errors_are_red_and_void_has_its_color():
  truth, prediction = truth_and_prediction(wrong=2)
  painted = gallery.error_map(gallery.row('a', np.full((5, 8, 3), 255, np.uint8), truth, prediction))
  red = (painted == (214, 39, 40)).all(axis=-1)
  assert np.flatnonzero(red).tolist() == [0, 1]
  assert painted[4, 7].tolist() == [224, 224, 192] and painted[2, 2].tolist() == [255, 255, 255]


def test_rows_of_tall_images_are_thinned_and_keep_nothing_of_them():
  image = np.arange(721 * 31 * 3, dtype=np.uint8).reshape(721, 31, 3)
  labels = np.zeros((721, 31), np.uint8)
  one = gallery.row('tall', image, labels, labels)
  assert one.image.shape == (241, 11, 3) and one.truth.shape == (241, 11)
  np.testing.assert_array_equal(one.image, image[::3, ::3])
  assert not np.shares_memory(one.image, image)


def test_sheet_sets_rows_of_different_sizes_under_each_other():
  rows = [gallery.row(f'{height}', np.full((height, width, 3), 9, np.uint8), np.full((height, width), 255),
                      np.zeros((height, width), np.uint8)) for height, width in ((5, 8), (3, 60))]
  sheet = gallery.sheet(rows, CLASSES, PALETTE)
  assert sheet.shape[1] == 3 * 60 + 8 and sheet.shape[0] > 3 + 5 + 8 + 14
  assert (sheet[:5, :8] == 9).all() and (sheet[9:12, :60] == 9).all() and (sheet[5:9] == 255).all()
  assert (sheet[:5, 24:32] == PALETTE[0]).all() and (sheet[:5, 32:] == 255).all()
