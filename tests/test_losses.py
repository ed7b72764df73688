"""The loss: hand-computed values, void pixels, class weights."""

import numpy as np
import pytest

from utils.compat import tf
from utils.losses import CLASS_WEIGHTS, enet_weights, median_frequency_weights, segmentation_loss


def evaluate(logits, labels, **options):
  logits = tf.constant(logits, tf.float32)
  loss = segmentation_loss(logits, tf.constant(labels, tf.int32), **options)
  with tf.Session() as session:
    return session.run([loss, tf.gradients(loss, logits)[0]])


def test_by_hand(graph):
  """Two labelled pixels: probability 1/2 and 1/4 of the truth, so (ln 2 + ln 4) / 2."""
  logits = np.log([[[[.5, .25, .25], [.25, .5, .25], [9e3, 1, 1]]]])
  loss, gradient = evaluate(logits, [[[0, 0, 255]]])
  assert loss == pytest.approx(1.5 * np.log(2), abs=1e-6)
  np.testing.assert_allclose(gradient[0, 0, 0], [-.25, .125, .125], atol=1e-6)
  assert np.all(gradient[0, 0, 2] == 0)


def test_void_pixels_change_nothing(graph):
  generator = np.random.default_rng(0)
  logits = generator.normal(size=[2, 5, 3, 4])
  labels = generator.integers(0, 4, [2, 5, 3])
  labels[0, 1:3] = labels[1, :, 2] = 255
  loss, gradient = evaluate(logits, labels)
  other = logits.copy()
  other[labels == 255] = 1e4
  other_loss, other_gradient = evaluate(other, labels)
  assert loss == other_loss
  np.testing.assert_array_equal(gradient, other_gradient)
  assert np.all(gradient[labels == 255] == 0) and np.all(np.abs(gradient[labels != 255]).sum(-1) > 0)


def test_all_void_is_finite(graph):
  loss, gradient = evaluate(np.ones([1, 2, 3, 4]), np.full([1, 2, 3], 255))
  assert loss == 0 and np.all(gradient == 0)


def test_class_weights_multiply_each_pixels_loss(graph):
  logits = np.log([[[[.5, .5], [.5, .5], [.5, .5]]]])
  loss, _ = evaluate(logits, [[[0, 1, 1]]], class_weights=[3.0, 0.5])
  assert loss == pytest.approx(np.log(2) * (3 + .5 + .5) / 3, abs=1e-6)


def test_a_label_out_of_range_is_an_error(graph):
  with pytest.raises(tf.errors.InvalidArgumentError):
    evaluate(np.zeros([1, 1, 2, 3]), [[[0, 3]]])


def test_median_frequency_by_hand():
  """Frequencies 0.5, 0.1, 0.2 and an absent class: the median of those present is 0.2."""
  weights = median_frequency_weights([50, 10, 10, 0], [100, 100, 50, 0])
  np.testing.assert_allclose(weights, [0.4, 2.0, 1.0, 0.0])


def test_enet_weights_by_hand():
  """1 / ln 1.52 and 1 / ln 1.27 for a half and a quarter of all pixels; a class without pixels has none."""
  np.testing.assert_allclose(enet_weights([200, 100, 100, 0]), [2.388286, 4.183805, 4.183805, 0.0], rtol=1e-6)
  np.testing.assert_allclose(enet_weights([10**9, 1]), [1 / np.log(2.02), 1 / np.log(1.02)], rtol=1e-6)


@pytest.mark.parametrize('name', CLASS_WEIGHTS)
def test_every_scheme_weighs_rare_classes_up(name):
  weights = CLASS_WEIGHTS[name]([900, 90, 0, 10], [1000, 1000, 0, 1000])
  assert weights.shape == (4,) and weights[2] == 0
  assert 0 < weights[0] < weights[1] < weights[3]


def test_enet_weights_are_finite_without_any_pixels():
  np.testing.assert_array_equal(enet_weights([0, 0]), [0, 0])
