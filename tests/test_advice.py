"""Advice after an evaluation, for confusion matrices made by hand."""

import numpy as np
import pytest

from utils.evaluation.advice import advice, has_norms

pytestmark = pytest.mark.fast

CLASSES = ('road', 'sky', 'pole')


def lines(matrix, **options):
  return advice(np.array(matrix, np.int64), CLASSES, **options)


@pytest.mark.parametrize('matrix', [
    [[50, 3, 2], [4, 40, 1], [3, 2, 9]],
    [[9900, 0, 10], [10, 40, 0], [10, 0, 30]],  # nearly all road, and rightly so
    [[50, 0, 0], [4, 40, 0], [0, 0, 0]],  # pole is nowhere: left out of the mean, which the table says
    np.zeros((3, 3))])
def test_nothing_to_say(matrix):
  assert lines(matrix) == []


@pytest.mark.parametrize('matrix, names', [
    ([[60, 0, 0], [0, 39, 0], [1, 0, 0]], ['pole (1.00 % of the true pixels)']),
    ([[0, 60, 0], [0, 30, 10], [0, 0, 10]], ['road (54.55 % of the true pixels)']),
    ([[0, 0, 60], [0, 0, 10], [0, 0, 250]], None)])
def test_classes_that_are_never_predicted(matrix, names):
  found = [line for line in lines(matrix) if line.startswith('never predicted: ')]
  if names is None:
    assert found == ['never predicted: road (18.75 % of the true pixels), sky (3.12 % of the true pixels)']
  else:
    assert len(found) == 1 and found[0].startswith('never predicted: ' + ', '.join(names) + '; what usually helps: ')


def test_what_helps_a_class_that_is_never_predicted():
  rare, common = [[600, 0, 0], [0, 399, 0], [1, 0, 0]], [[60, 0, 0], [0, 30, 0], [5, 5, 0]]
  assert lines(rare)[0].endswith(
      'what usually helps: more --max_steps, --class_weights=median_frequency, --loss=cross_entropy+lovasz')
  assert lines(rare, flags={'class_weights': 'median_frequency', 'loss': 'cross_entropy+lovasz'})[0].endswith(
      'what usually helps: more --max_steps')
  assert lines(common)[0].endswith(
      'a look at its labels (python -m datasets.inspect): does it look the same in train?')


@pytest.mark.parametrize('matrix, start', [
    ([[40, 0, 0], [30, 0, 0], [30, 0, 0]], 'road takes 100.0 % of the predictions and has 40.0 % of the true pixels'),
    ([[0, 10, 1], [0, 985, 0], [0, 4, 0]], 'sky takes 99.9 % of the predictions and has 98.5 % of the true pixels'),
    ([[3, 0, 400], [3, 0, 400], [0, 0, 194]], 'pole takes 99.4 % of the predictions and has 19.4 % of the true')])
def test_a_class_that_takes_nearly_all(matrix, start):
  found = lines(matrix)
  assert found[0].startswith(start) and ' pixels; what usually helps: ' in found[0]
  assert ('--class_weights=median_frequency' in found[0]) == ('98.5' in start)  # the others are balanced
  assert '--learning_rate' in found[0] and 'datasets.inspect' in found[0]
  assert found[1].startswith('never predicted: ') and 'helps' not in found[1]


def test_98_percent_is_not_enough():
  assert not any('takes' in line for line in lines([[98, 1, 1], [0, 0, 0], [0, 0, 0]]))


def test_what_helps_follows_the_run():
  collapsed = [[40, 0, 0], [30, 0, 0], [30, 0, 0]]
  flags = {'batch_norm_decay': 0.99, 'freeze_batch_norm': False, 'learning_rate': 0.001, 'checkpoint': 'none',
           'init_from': None}
  [line, _] = lines(collapsed, flags=flags, step=50)
  assert '--batch_norm_decay=0.8 or more steps (after 50 steps' in line and 'with a decay of 0.99' in line
  assert 'another --learning_rate than 0.001' in line and 'instead of --checkpoint=none' in line
  for change, step in (({}, 4000), ({'freeze_batch_norm': True}, 50), ({'batch_norm_decay': 0.5}, 50), ({}, 0)):
    assert 'batch_norm' not in lines(collapsed, flags=flags | change, step=step)[0]
  assert 'instead of' not in lines(collapsed, flags=flags | {'init_from': 'runs/x'})[0]
  assert '--batch_norm_decay=0.5 or' in lines(collapsed, flags=flags, step=3)[0]


def test_batch_norms_are_known_by_their_averages():
  assert has_norms(['Net/a/weights', 'Net/a/BatchNorm/moving_mean']) and not has_norms(['Net/a/weights', 'global_step'])


def test_predicted_but_nowhere_in_the_truth():
  assert lines([[50, 0, 1], [4, 40, 2], [0, 0, 0]]) == [
      'predicted but nowhere in the truth, which counts as IoU 0 in the mean: pole (3 pixels)']
