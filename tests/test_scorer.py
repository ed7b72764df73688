"""The scorer and its parts, the best and the worst images among them."""

import json
import os
import types

import numpy as np
import pytest
from PIL import Image

from utils.errors import UserError
from utils.evaluation.extremes import Extremes
from utils.evaluation.scorer import PARTS, Scorer

pytestmark = pytest.mark.fast

CLASSES = ('sky', 'road', 'unicorn')
PALETTE = np.array([[10, 20, 30], [200, 100, 0], [0, 250, 0]], np.uint8)


def add(scorer, name, truth, prediction, plain=None):
  """Adds a black image, labeled with a confidence of 0.9."""
  scorer.add(name, truth, prediction, image=np.zeros((*truth.shape, 3), np.uint8),
             plain=prediction if plain is None else plain, confidence=np.full(truth.shape, 0.9))


def truth_and_prediction(wrong=0):
  """Two halves of 5x8 pixels with a void corner; the prediction has `wrong` pixels of the sky as road."""
  truth = np.tile(np.where(np.arange(8) < 4, 0, 1), (5, 1))
  prediction = truth.astype(np.uint8)
  prediction.flat[:wrong] = 1
  truth[4, 7] = 255
  return truth, prediction


def test_matrices_add_up_and_parts_are_optional():
  scorer = Scorer(CLASSES)
  for wrong in (2, 0):
    scorer.add('name', *truth_and_prediction(wrong))
  np.testing.assert_array_equal(scorer.matrix, [[38, 2, 0], [0, 38, 0], [0, 0, 0]])
  assert scorer.result()['pixel_accuracy'] == pytest.approx(76 / 78)
  assert scorer.details() == {} and scorer.text({}) == ''


def test_a_label_out_of_range_is_named_with_its_record():
  with pytest.raises(UserError, match='^data/moon, val, record crater: label id 3 is out of range; valid are 0 to 2'):
    Scorer(CLASSES, where='data/moon, val').add('crater', np.full((2, 2), 3), np.zeros((2, 2), int))


def test_the_best_and_the_worst_images_are_kept_in_order():
  scorer = Scorer(CLASSES, parts=[Extremes])
  wrongs = (2, 0, 3, 1, 4, 0)
  for number, wrong in enumerate(wrongs):
    add(scorer, f'image{number}', *truth_and_prediction(wrong))
  add(scorer, 'void', np.full((3, 2), 255), np.zeros((3, 2), np.uint8))  # has no score
  [sums] = scorer.parts
  assert [one.name for one in sums.best] == ['image1', 'image5', 'image3', 'image0']  # equal scores: the earlier first
  assert [one.name for one in sums.worst] == ['image4', 'image2', 'image0', 'image3']
  assert sums.best[0].score == 1
  assert sums.worst[0].score == pytest.approx((16 / 20 + 19 / 23) / 2)


def test_numbers_by_hand():
  scorer = Scorer(CLASSES, parts=PARTS)
  truth, prediction = truth_and_prediction()
  add(scorer, 'right', truth, prediction)
  add(scorer, 'w\nrong', truth, np.zeros_like(prediction), plain=prediction)  # like a CRF that wiped the road away
  value = json.loads(json.dumps(scorer.details(), allow_nan=False))
  assert value['boundary_f1'] == 0.5
  assert value['class_boundary_f1'] == {'sky': 0.5, 'road': 0.5, 'unicorn': None}
  assert value['class_boundary_images'] == {'sky': 2, 'road': 2, 'unicorn': 0}
  narrow, *_, wide = value['trimap']
  assert narrow == {'width': 1, 'mean_iou': pytest.approx((10 / 15 + 5 / 10) / 2), 'pixel_accuracy': 0.75,
                    'pixels': 20}
  assert (wide['width'], wide['pixels']) == (16, 2 * 39)
  assert value['calibration']['accuracy'] == 1  # accuracy of the network's own labels
  assert value['calibration']['expected_calibration_error'] == pytest.approx(0.1)
  assert value['best'][0] == {'name': 'right', 'mean_iou': 1} and value['worst'][0]['name'] == 'w\nrong'

  lines = scorer.text(value).splitlines()
  assert lines[0] == 'boundary F1 within 0.75 % of the diagonal: 50.0, the mean of sky 50.0, road 50.0, unicorn -'
  assert lines[1].startswith('mean IoU within 1, 2, 4, 8, 16 pixels of a boundary: 58.3, ')
  assert lines[2] == 'expected calibration error: 10.00; mean confidence 90.0, accuracy 100.0'
  assert lines[3].startswith('best images: right 100.0, w\\nrong ') and lines[4].startswith('worst images: w\\nrong ')


def test_one_pixel_has_no_boundary_and_the_file_says_null():
  scorer = Scorer(CLASSES, parts=PARTS)
  add(scorer, 'dot', np.ones((1, 1), int), np.ones((1, 1), np.uint8))
  value = json.loads(json.dumps(scorer.details(), allow_nan=False))
  assert value['boundary_f1'] is None and value['trimap'][0] == {'width': 1, 'mean_iou': None, 'pixel_accuracy': None,
                                                                 'pixels': 0}
  assert scorer.text(value).splitlines()[1].endswith(': -, -, -, -, -')


def test_pictures_are_written_with_names(tmp_path):
  scorer = Scorer(CLASSES, parts=PARTS)
  for wrong in (1, 7):
    add(scorer, f'image{wrong}', *truth_and_prediction(wrong))
  run = types.SimpleNamespace(step=7, classes=CLASSES, palette=PALETTE)
  paths = scorer.write_pictures(str(tmp_path), 'val', run)
  assert [os.path.basename(path) for path in paths] == ['calibration-val.png', 'best-val.png', 'worst-val.png']
  assert sorted(os.listdir(tmp_path)) == sorted(os.path.basename(path) for path in paths)
  best, worst = (np.asarray(Image.open(path)) for path in paths[1:])
  np.testing.assert_array_equal(best[28:33, :35], worst[28 + 37:33 + 37, :35])  # the rows change places
