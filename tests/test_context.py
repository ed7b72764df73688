"""Context modules: pooling and dilation by hand, any size, gradients, and what the surroundings decide."""

import numpy as np
import pytest

from nets.context import CONTEXTS, SCOPE, aspp, bin_means, binning_matrix, psp
from utils.compat import slim, tf


def run(tensors, feed=None):
  with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    return session.run(tensors, feed)


def run_with(values, tensors, feed=None):
  """Runs with these values in the variables of SCOPE, by name, and all others as they are initialized."""
  with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    for name, value in values.items():
      variable, = tf.global_variables(f'{SCOPE}/{name}')
      variable.load(np.broadcast_to(np.float32(value), variable.shape), session)
    return session.run(tensors, feed)


def random_map(*shape):
  return np.random.default_rng(0).uniform(0, 1, shape).astype(np.float32)


@pytest.mark.parametrize('cells, bins, expected', [
    (4, 2, [[.5, .5, 0, 0], [0, 0, .5, .5]]),
    (3, 2, [[2 / 3, 1 / 3, 0], [0, 1 / 3, 2 / 3]]),
    (5, 3, [[.6, .4, 0, 0, 0], [0, .2, .6, .2, 0], [0, 0, 0, .4, .6]]),
    (2, 3, [[1, 0], [.5, .5], [0, 1]]),
    (1, 6, [[1]] * 6),
    (7, 1, [[1 / 7] * 7]),
])
def test_binning_matrix_by_hand(cells, bins, expected, graph):
  np.testing.assert_allclose(run(binning_matrix(cells, bins)), expected, atol=1e-6)
  length = tf.placeholder(tf.int32, [])
  np.testing.assert_allclose(run(binning_matrix(length, bins), {length: cells}), expected, atol=1e-6)


def test_bin_means_by_hand(graph):
  """3 rows and 4 columns in 2x2 bins; the middle row is half of either."""
  features = np.float32([[1, 3, 5, 7], [2, 4, 6, 8], [0, 2, 1, 1]])[None, ..., None]
  np.testing.assert_allclose(run(bin_means(tf.constant(features), 2))[0, ..., 0],
                             [[(2 * 2 + 3) / 3, (2 * 6 + 7) / 3], [(3 + 2 * 1) / 3, (7 + 2 * 1) / 3]], rtol=1e-6)


def test_the_mean_of_the_bins_is_that_of_the_map(graph):
  value = random_map(2, 7, 5, 3)
  features = tf.placeholder(tf.float32, [None, None, None, 3])
  means = run([bin_means(features, bins) for bins in (1, 2, 3, 6)], {features: value})
  for bins, mean in zip((1, 2, 3, 6), means):
    assert mean.shape == (2, bins, bins, 3)
    np.testing.assert_allclose(mean.mean(axis=(1, 2)), value.mean(axis=(1, 2)), rtol=1e-5)


def test_psp_by_hand(graph):
  """A row of 4 cells in 2 bins, whose centres lie at 0.5 and 2.5; the fusing kernel sees its centre alone."""
  features = tf.constant(np.float32([1, 3, 5, 15])[None, None, :, None])
  result = psp(features, 2, stride=16, bins=(1, 2))
  kernel = np.zeros([3, 3, 3, 2])
  kernel[1, 1] = [[1, 0], [10, -1], [100, 1]]  # of the features, of the mean, of the two means
  values = {'bins_1/weights': 1, 'bins_2/weights': 1, 'fuse/weights': kernel, 'fuse/biases': [0.25, 0]}
  upsampled = np.array([2, 4, 8, 10])
  np.testing.assert_allclose(run_with(values, result)[0, 0], np.transpose(
      [[1.25 + 60, 3.25 + 60, 5.25 + 60, 15.25 + 60] + 100 * upsampled, [0, 0, 2, 4]]), rtol=1e-5)


def test_aspp_by_hand(graph):
  """On 5 rows and 4 columns with a kernel of ones dilated by 2 and one by 1; the mean of the image; a ReLU each."""
  features = random_map(1, 5, 4, 1)
  result = aspp(tf.constant(features), 1, stride=8, reaches=(16, 4))  # 4 pixels: less than a cell, so one
  values = {'cell/weights': 1, 'cell/biases': -0.5, 'reach_16/weights': 1, 'reach_4/weights': 1, 'image/weights': 2,
            'fuse/weights': np.reshape([1, 10, 1000, 100], [1, 1, 4, 1])}
  padded = np.pad(features[0, ..., 0], 2)
  wide = sum(padded[row:row + 5, column:column + 4] for row in (0, 2, 4) for column in (0, 2, 4))
  near = sum(padded[row:row + 5, column:column + 4] for row in (1, 2, 3) for column in (1, 2, 3))
  expected = np.maximum(features[0, ..., 0] - 0.5, 0) + 10 * wide + 1000 * near + 200 * features.mean()
  np.testing.assert_allclose(run_with(values, result)[0, ..., 0], expected, rtol=1e-5)


def test_aspp_reaches_as_many_pixels_at_every_stride(graph):
  """Where one cell alone is lit, in the rows and columns around it; with the same variables."""
  lit, results = np.zeros([1, 49, 49, 1], np.float32), {}
  lit[0, 24, 24] = 1
  with tf.variable_scope(tf.get_variable_scope(), reuse=tf.AUTO_REUSE):
    for stride in (32, 16, 8):
      results[stride] = aspp(tf.constant(lit), 1, stride=stride)
  assert len(tf.trainable_variables()) == 2 * 6
  values = {'cell/weights': 0, 'image/weights': 0, 'fuse/weights': 1,
            **{f'reach_{reach}/weights': 1 for reach in (64, 128, 192)}}
  for stride, value in run_with(values, results).items():
    rates = {32: (2, 4, 6), 16: (4, 8, 12), 8: (8, 16, 24)}[stride]
    expected = np.zeros([49, 49])
    for rate in rates:
      expected[24 - rate:25 + rate:rate, 24 - rate:25 + rate:rate] += 1
    np.testing.assert_allclose(value[0, ..., 0], expected, atol=1e-6)


@pytest.mark.parametrize('name, layers', [('aspp', 6), ('psp', 5)])
def test_any_size_and_gradients_of_every_variable(name, layers, graph):
  """One cell, fewer cells than bins, unequal odd sizes; the map's shape stays, and every variable moves the result."""
  tf.set_random_seed(1)
  features = tf.placeholder(tf.float32, [None, None, None, 10])
  result = CONTEXTS[name](features, 40, stride=16)
  assert result.shape.as_list()[3] == 40
  variables = tf.trainable_variables()
  assert len(variables) == 2 * layers and all(v.op.name.startswith(f'{SCOPE}/') for v in variables)
  gradients = tf.gradients(tf.reduce_sum(result), [features, *variables])
  with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    for size in ((1, 1), (2, 5), (9, 13)):
      value, moved = session.run([result, gradients], {features: random_map(2, *size, 10)})
      assert value.shape == (2, *size, 40) and value.std() > 0.01
      assert all(np.isfinite(gradient).all() and gradient.any() for gradient in moved)
  with tf.variable_scope('known'):
    assert CONTEXTS[name](tf.zeros([2, 9, 13, 10]), 7, stride=16).shape.as_list() == [2, 9, 13, 7]


@pytest.mark.parametrize('name, normalized', [
    ('aspp', {'cell', 'reach_64', 'reach_128', 'reach_192', 'fuse'}),
    ('psp', {'fuse'}),
])
def test_the_scope_around_decides_on_batch_norms_but_for_pooled_maps(name, normalized, graph):
  """And on the regularizer; not on ReLUs and the first weights, which the scope around may have set for scores."""
  with slim.arg_scope([slim.conv2d], normalizer_fn=slim.batch_norm, weights_initializer=tf.zeros_initializer(),
                      activation_fn=None, weights_regularizer=slim.l2_regularizer(1.0)):
    result = CONTEXTS[name](tf.constant(random_map(2, 4, 3, 400)), 64, stride=32)
  layers = {v.op.name.split('/')[1] for v in tf.global_variables() if v.op.name.endswith('moving_mean')}
  assert layers == normalized
  weights = {v.op.name.split('/')[1]: v for v in tf.trainable_variables() if v.op.name.endswith('weights')}
  assert len(tf.losses.get_regularization_losses()) == len(weights) == {'aspp': 6, 'psp': 5}[name]
  value, weights = run([result, weights])
  assert value.min() == 0 < value.max()
  for layer, values in weights.items():  # He et al.: the square root of 2 over the inputs of a cell
    assert values.std() == pytest.approx(np.sqrt(2 / np.prod(values.shape[:3])), rel=0.05), layer
