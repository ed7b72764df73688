"""The losses: hand-computed values, their definitions in numpy, finite differences, void pixels, class weights."""

import numpy as np
import pytest

from utils import session
from utils.compat import tf
from utils.cpu import supports_bfloat16
from utils.errors import UserError
from utils.training.losses import (
  CLASS_WEIGHTS,
  LOSSES,
  LOVASZ_LEVELS,
  enet_weights,
  median_frequency_weights,
  segmentation_loss,
)

pytestmark = pytest.mark.fast


def evaluate(logits, labels, **options):
  logits = tf.constant(logits, tf.float32)
  loss = segmentation_loss(logits, tf.constant(labels, tf.int32), **options)
  with tf.Session() as session:
    return session.run([loss, tf.gradients(loss, logits)[0]])


def test_by_hand(graph):
  """Two labeled pixels: probability 1/2 and 1/4 of the truth, so (ln 2 + ln 4) / 2."""
  logits = np.log([[[[.5, .25, .25], [.25, .5, .25], [9e3, 1, 1]]]])
  loss, gradient = evaluate(logits, [[[0, 0, 255]]])
  assert loss == pytest.approx(1.5 * np.log(2), abs=1e-6)
  np.testing.assert_allclose(gradient[0, 0, 0], [-.25, .125, .125], atol=1e-6)
  assert np.all(gradient[0, 0, 2] == 0)


def softmax(logits):
  exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
  return exponentials / exponentials.sum(axis=-1, keepdims=True)


def lovasz_extension(errors, truth):
  """Equations 8 and 9 of the paper as they stand: the errors sorted, each times what its pixel adds to 1 - IoU."""
  order = np.argsort(-errors)
  right, union = truth.sum() - np.cumsum(truth[order]), truth.sum() + np.cumsum(1 - truth[order])
  return np.dot(errors[order], np.diff(1 - right / union, prepend=0))


def by_definition(name, logits, labels, weights):
  """A loss of LOSSES straight from its definition, in float64."""
  labelled = labels.ravel() != 255
  ids = labels.ravel()[labelled]
  p = softmax(np.asarray(logits, np.float64).reshape(-1, len(weights))[labelled])
  truth = np.eye(len(weights))[ids]
  sure = p[np.arange(len(ids)), ids]
  present = np.flatnonzero(truth.any(axis=0))
  if name == 'cross_entropy':
    return np.mean(weights[ids] * -np.log(sure))
  if name == 'smoothed_cross_entropy':
    return np.mean(weights[ids] * (-0.9 * np.log(sure) - 0.1 * np.log(p).mean(axis=-1)))
  if name == 'ohem':
    hard = np.sort(sure)[:max((sure <= 0.7).sum(), len(ids) // 16)]
    kept = sure <= hard[-1]
    return np.mean((weights[ids] * -np.log(sure))[kept])
  if name == 'dice':
    of_class = [1 - 2 * (p * truth)[:, c].sum() / (p[:, c]**2 + truth[:, c]).sum() for c in present]
  if name == 'lovasz':
    of_class = [lovasz_extension(np.abs(truth - p)[:, c], truth[:, c]) for c in present]
  return np.average(of_class, weights=weights[present])


def a_batch(seed=0, classes=4):
  """Logits, and labels with some void and without class 2."""
  generator = np.random.default_rng(seed)
  logits = generator.normal(size=[2, 5, 3, classes])
  labels = generator.choice([c for c in range(classes) if c != 2], size=[2, 5, 3])
  labels[0, 1:3] = labels[1, :, 2] = 255
  logits += 2 * (np.arange(classes) == labels[..., None])  # mostly right
  return logits, labels


@pytest.mark.parametrize('weights', [None, [0.5, 3.0, 2.0, 1.0]])
@pytest.mark.parametrize('kind', LOSSES)
def test_value_and_gradient_are_those_of_the_definition(kind, weights, graph):
  logits, labels = a_batch(seed=29)
  errors = np.abs(np.eye(4)[labels[labels != 255]] - softmax(logits[labels != 255]))[:, [0, 1, 3]]
  assert all(np.diff(np.sort(of_class)).min() > 1 / (LOVASZ_LEVELS - 1) for of_class in errors.T)  # a level for each
  loss, gradient = evaluate(logits, labels, kind=kind, class_weights=weights)
  define = lambda values: by_definition(kind, values, labels, np.ones(4) if weights is None else np.array(weights))
  assert loss == pytest.approx(define(logits), rel=1e-5)
  differences = np.zeros_like(logits)
  for index in np.ndindex(logits.shape):
    step = np.zeros_like(logits)
    step[index] = 1e-6
    differences[index] = (define(logits + step) - define(logits - step)) / 2e-6
  np.testing.assert_allclose(gradient, differences, rtol=1e-4, atol=1e-7)
  assert np.abs(differences).max() > 1e-3


@pytest.mark.parametrize('kind', [*LOSSES, 'cross_entropy+lovasz'])
def test_void_pixels_change_nothing(kind, graph):
  logits, labels = a_batch()
  loss, gradient = evaluate(logits, labels, kind=kind)
  other = logits.copy()
  other[labels == 255] = 1e4
  other_loss, other_gradient = evaluate(other, labels, kind=kind)
  assert loss == other_loss
  np.testing.assert_array_equal(gradient, other_gradient)
  assert np.all(gradient[labels == 255] == 0)
  if kind != 'ohem':
    assert np.all(np.abs(gradient[labels != 255]).sum(-1) > 0)


@pytest.mark.parametrize('weights', [None, [1.0, 2.0, 3.0, 4.0]])
@pytest.mark.parametrize('kind', LOSSES)
def test_all_void_is_finite(kind, weights, graph):
  loss, gradient = evaluate(np.ones([1, 2, 3, 4]), np.full([1, 2, 3], 255), kind=kind, class_weights=weights)
  assert loss == 0 and np.all(gradient == 0)


@pytest.mark.parametrize('kind', LOSSES)
def test_great_logits_have_a_finite_loss_and_right_logits_none(kind, graph):
  _, labels = a_batch()
  sure = 1e4 * (2.0 * (np.arange(4) == labels[..., None]) - 1)
  right, right_gradient = evaluate(sure, labels, kind=kind)
  wrong, wrong_gradient = evaluate(-sure, labels, kind=kind)
  if kind != 'smoothed_cross_entropy':  # which holds certainty to be wrong
    assert abs(right) < 1e-6 and np.abs(right_gradient).max() < 1e-6
  assert np.isfinite(wrong) and wrong > 0.6 and np.all(np.isfinite(wrong_gradient))


@pytest.mark.parametrize('kind', LOSSES)
def test_the_loss_of_nan_logits_is_nan(kind, graph):
  logits, labels = a_batch()
  logits[0, 0, 0] = np.nan
  assert np.isnan(evaluate(logits, labels, kind=kind)[0])


def test_class_weights_multiply_each_pixels_loss(graph):
  logits = np.log([[[[.5, .5], [.5, .5], [.5, .5]]]])
  loss, _ = evaluate(logits, [[[0, 1, 1]]], class_weights=[3.0, 0.5])
  assert loss == pytest.approx(np.log(2) * (3 + .5 + .5) / 3, abs=1e-6)


def pixels(*probabilities):
  """Logits of a row of pixels of two classes, from the probabilities of class 0."""
  p = np.array(probabilities)
  return np.log(np.stack([p, 1 - p], axis=-1))[None, None]


def test_ohem_by_hand(graph):
  """Of four pixels two are below 0.7; if all are above, the hardest sixteenth counts: 2 of 32, at least 1."""
  loss, gradient = evaluate(pixels(.9, .5, .25, .8), [[[0, 0, 0, 0]]], kind='ohem')
  assert loss == pytest.approx(1.5 * np.log(2), abs=1e-6)
  np.testing.assert_allclose(gradient[0, 0, :, 0], [0, -.25, -.375, 0], atol=1e-6)
  loss, _ = evaluate(pixels(*[.95] * 30, .8, .75), np.zeros([1, 1, 32]), kind='ohem')
  assert loss == pytest.approx(-np.log(.8 * .75) / 2, abs=1e-6)
  loss, _ = evaluate(pixels(.9, .8, .95), [[[0, 0, 255]]], kind='ohem')
  assert loss == pytest.approx(-np.log(.8), abs=1e-6)


def test_dice_by_hand(graph):
  """Class 0: overlap 1/2 + 1/4, squares 1/4 + 1/16 + 1/16, two pixels; class 1: 3/4, 1/4 + 9/16 + 9/16, one pixel."""
  first, second = 1 - 2 * .75 / (.375 + 2), 1 - 2 * .75 / (1.375 + 1)
  logits, labels = pixels(.5, .25, .25), [[[0, 0, 1]]]
  assert evaluate(logits, labels, kind='dice')[0] == pytest.approx((first + second) / 2, abs=1e-6)
  loss, _ = evaluate(logits, labels, kind='dice', class_weights=[1.0, 3.0])
  assert loss == pytest.approx((first + 3 * second) / 4, abs=1e-6)
  assert evaluate(pixels(.5, .25), [[[0, 0]]], kind='dice')[0] == pytest.approx(1 - 1.5 / 2.3125, abs=1e-6)


def test_lovasz_by_hand(graph):
  """Errors of class 0 (two pixels): .6 of its own, .4 of another, .2 of its own; wrong in this order, they bring IoU
  from 1 to 1/2, 1/3 and 0. Of class 1 (one pixel): .6 of another, .4 of its own, .2 of another: to 1/2, 0 and 0."""
  loss, gradient = evaluate(pixels(.4, .4, .8), [[[0, 1, 0]]], kind='lovasz')
  first, second = .6 / 2 + .4 / 6 + .2 / 3, .6 / 2 + .4 / 2
  assert loss == pytest.approx((first + second) / 2, abs=1e-6)
  slopes = np.array([-(1 / 2 + 1 / 2), 1 / 6 + 1 / 2, -(1 / 3 + 0)]) / 2  # by p of class 0
  np.testing.assert_allclose(gradient[0, 0, :, 0], slopes * [.24, .24, .16], atol=1e-6)
  loss, _ = evaluate(pixels(.4, .4, .8), [[[0, 1, 0]]], kind='lovasz', class_weights=[3.0, 1.0])
  assert loss == pytest.approx((3 * first + second) / 4, abs=1e-6)


def test_lovasz_of_decisions_is_one_minus_mean_iou(graph):
  generator = np.random.default_rng(1)
  labels = generator.choice([0, 1, 3, 4, 255], size=[3, 21, 17])  # class 2 is predicted, but not there
  decided = np.where(generator.random(labels.shape) < .6, labels % 255, generator.integers(0, 5, labels.shape))
  loss, _ = evaluate(2e3 * np.eye(5)[decided], labels, kind='lovasz')
  ious = [((decided == c) & (labels == c)).sum() / (((decided == c) | (labels == c)) & (labels != 255)).sum()
          for c in (0, 1, 3, 4)]
  assert loss == pytest.approx(1 - np.mean(ious), abs=1e-6)


@pytest.mark.parametrize('sharpness', [0.1, 1.0, 10.0])
def test_lovasz_of_many_pixels_is_within_a_level_of_the_definition(sharpness, graph):
  """Thousands of pixels in 1024 levels; the errors of uncertain pixels fill only a few levels."""
  generator = np.random.default_rng(2)
  labels = generator.choice([0, 1, 2, 255], p=[.7, .25, .03, .02], size=[2, 41, 67])
  logits = sharpness * (generator.normal(size=[*labels.shape, 3]) + (np.arange(3) == labels[..., None]))
  loss, _ = evaluate(logits, labels, kind='lovasz')
  assert loss == pytest.approx(by_definition('lovasz', logits, labels, np.ones(3)), abs=0.5 / (LOVASZ_LEVELS - 1))


def test_a_sum_of_losses(graph):
  logits, labels = a_batch()
  weights = [1.0, 2.0, 3.0, 4.0]
  parts = [evaluate(logits, labels, kind=kind, class_weights=weights) for kind in ('cross_entropy', 'lovasz')]
  loss, gradient = evaluate(logits, labels, kind='cross_entropy+lovasz', class_weights=weights)
  assert loss == pytest.approx(parts[0][0] + parts[1][0], rel=1e-6)
  np.testing.assert_allclose(gradient, parts[0][1] + parts[1][1], atol=1e-7)


@pytest.mark.parametrize('kind', ['', 'hinge', 'cross_entropy+', 'lovasz+hinge', 'dice, lovasz'])
def test_an_unknown_loss_lists_the_valid_ones(kind, graph):
  with pytest.raises(UserError) as caught:
    evaluate(*a_batch(), kind=kind)
  assert f'--loss={kind}:' in str(caught.value) and 'cross_entropy, ohem, dice, lovasz' in str(caught.value)


@pytest.mark.parametrize('kind', LOSSES)
def test_a_label_out_of_range_is_an_error(kind, graph):
  with pytest.raises(tf.errors.InvalidArgumentError):
    evaluate(np.zeros([1, 1, 2, 3]), [[[0, 3]]], kind=kind)


@pytest.mark.skipif(not supports_bfloat16(), reason='this CPU has no AVX512-BF16')
@pytest.mark.parametrize('kind', LOSSES)
def test_bfloat16_stops_at_the_logits(kind, graph):
  """Logits from a product in bfloat16 have the same loss as the same logits in float32."""
  generator = np.random.default_rng(4)
  labels = generator.choice([0, 1, 2, 255], size=[2, 31, 23])
  images = tf.constant(generator.normal(size=[*labels.shape, 8]), tf.float32)
  weights = tf.get_variable('weights', initializer=generator.normal(size=[8, 3]).astype(np.float32))
  logits = tf.einsum('bhwi,io->bhwo', images, weights)
  loss = segmentation_loss(logits, tf.constant(labels, tf.int32), kind=kind)
  with tf.Session(config=session.session_config('bfloat16')) as bfloat16:
    bfloat16.run(tf.global_variables_initializer())
    # Only copies are fetched: the graph rewriter keeps fetched ops in float32.
    copies = [tf.identity(value) for value in (logits, loss, *tf.gradients(loss, weights))]
    rounded, value, _ = bfloat16.run(copies)
    exact = evaluate(rounded, labels, kind=kind)[0]
  assert np.all(rounded.view(np.uint32) % 2**16 == 0)  # the product was in bfloat16
  assert value == pytest.approx(exact, rel=1e-5)


def test_median_frequency_by_hand():
  """Frequencies 0.5, 0.1, 0.2 and an absent class: the median over the present classes is 0.2."""
  weights = median_frequency_weights([50, 10, 10, 0], [100, 100, 50, 0])
  np.testing.assert_allclose(weights, [0.4, 2.0, 1.0, 0.0])


def test_enet_weights_by_hand():
  """1 / ln 1.52 and 1 / ln 1.27 for a half and a quarter of all pixels; a class without pixels has weight 0."""
  np.testing.assert_allclose(enet_weights([200, 100, 100, 0]), [2.388286, 4.183805, 4.183805, 0.0], rtol=1e-6)
  np.testing.assert_allclose(enet_weights([10**9, 1]), [1 / np.log(2.02), 1 / np.log(1.02)], rtol=1e-6)


@pytest.mark.parametrize('name', CLASS_WEIGHTS)
def test_every_scheme_weighs_rare_classes_up(name):
  weights = CLASS_WEIGHTS[name]([900, 90, 0, 10], [1000, 1000, 0, 1000])
  assert weights.shape == (4,) and weights[2] == 0
  assert 0 < weights[0] < weights[1] < weights[3]


def test_enet_weights_are_finite_without_any_pixels():
  np.testing.assert_array_equal(enet_weights([0, 0]), [0, 0])
