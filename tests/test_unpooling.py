"""Max unpooling by hand and its gradients, with ties, at odd and unknown sizes, in both precisions."""

import numpy as np
import pytest

from nets.unpooling import max_pool, max_unpool
from utils.compat import tf
from utils.cpu import supports_bfloat16
from utils.session import session_config

pytestmark = pytest.mark.fast

FEATURES = np.array([[[1, 5, 2, 0, -3],
                      [4, 3, 2, 7, -4],
                      [-6, -5, 9, 8, 0]],
                     [[0, 0, 0, 0, 0],
                      [0, 0, 0, 1, 0],
                      [2, 2, -1, -1, -2]]], np.float32)[..., None]
POOLED = np.array([[[5, 7, -3], [-5, 9, 0]], [[0, 1, 0], [2, -1, -2]]], np.float32)[..., None]
VALUES = np.array([[[10, 20, 30], [40, 50, 60]], [[70, 80, 90], [11, 12, 13]]], np.float32)[..., None]
UNPOOLED = np.array([[[0, 10, 0, 0, 30],
                      [0, 0, 0, 20, 0],
                      [0, 40, 50, 0, 60]],
                     [[70, 0, 0, 0, 90],  # the first of equal maxima
                      [0, 0, 0, 80, 0],
                      [11, 0, 12, 0, 13]]], np.float32)[..., None]


def unpooled(features, values, portable=False):
  pooled, token = max_pool(tf.constant(features), portable)
  with tf.Session() as session:
    return session.run([pooled, max_unpool(tf.constant(values), token)])


@pytest.mark.parametrize('portable', [False, True])
def test_by_hand_at_odd_sizes_in_a_batch(graph, portable):
  pooled, result = unpooled(FEATURES, VALUES, portable)
  np.testing.assert_array_equal(pooled, POOLED)
  np.testing.assert_array_equal(result, UNPOOLED)


@pytest.mark.parametrize('size', [(1, 1), (1, 6), (7, 1), (2, 2), (12, 9), (33, 50)])
def test_portable_ops_give_the_same_to_the_bit(size, graph):
  """With many equal maxima, at known and unknown sizes, and with no op that other engines lack."""
  generator = np.random.default_rng(1)
  features = generator.integers(-2, 1, [2, *size, 3]).astype(np.float32)
  values = generator.normal(size=[2, *((length + 1) // 2 for length in size), 3]).astype(np.float32)
  _, expected = unpooled(features, values)
  np.testing.assert_array_equal(unpooled(features, values, portable=True)[1], expected, strict=True)
  inputs = [tf.placeholder(tf.float32, [None, None, None, 3]) for _ in range(2)]
  _, token = max_pool(inputs[0], portable=True)
  result = max_unpool(inputs[1], token)
  with tf.Session() as session:
    np.testing.assert_array_equal(session.run(result, dict(zip(inputs, (features, values)))), expected, strict=True)
  needed = tf.graph_util.extract_sub_graph(graph.as_graph_def(), [result.op.name])
  assert 'MaxPoolGrad' not in {node.op for node in needed.node}


@pytest.mark.parametrize('size', [(1, 1), (1, 6), (7, 1), (2, 2), (12, 9), (33, 50)])
def test_every_value_lands_once_on_a_maximum_of_its_window(size, graph):
  """Compared window by window; the features are few whole numbers, so that many windows have several maxima."""
  generator = np.random.default_rng(0)
  features = generator.integers(-1, 2, [3, *size, 4]).astype(np.float32)
  half = [(length + 1) // 2 for length in size]
  values = generator.uniform(1, 2, [3, *half, 4]).astype(np.float32)
  pooled, result = unpooled(features, values)
  assert result.shape == features.shape
  for row in range(half[0]):
    for column in range(half[1]):
      window = np.s_[:, 2 * row:2 * row + 2, 2 * column:2 * column + 2]
      assert ((result[window] != 0).sum(axis=(1, 2)) == 1).all()
      np.testing.assert_array_equal(result[window].sum(axis=(1, 2)), values[:, row, column])
      np.testing.assert_array_equal(np.where(result[window] != 0, features[window], -9).max(axis=(1, 2)),
                                    pooled[:, row, column])


def test_gradients_by_hand(graph):
  """The gradient of unpooling picks from the maxima, that of pooling puts there; pooled features get none."""
  upstream = np.arange(30, dtype=np.float32).reshape(FEATURES.shape)
  features, values = tf.constant(FEATURES), tf.constant(VALUES)
  pooled, token = max_pool(features)
  of_values, of_features = tf.gradients(max_unpool(values, token), [values, features], tf.constant(upstream))
  of_pooling, = tf.gradients(pooled, features, values)
  with tf.Session() as session:
    of_values, of_pooling = session.run([of_values, of_pooling])
  assert of_features is None
  np.testing.assert_array_equal(of_values[..., 0], [[[1, 8, 4], [11, 12, 14]], [[15, 23, 19], [25, 27, 29]]])
  np.testing.assert_array_equal(of_pooling, UNPOOLED)


@pytest.mark.parametrize('size', [(5, 4), (3, 7)])
def test_gradients_equal_finite_differences(size, graph):
  """Through pooling, a product and unpooling, as networks use them."""
  generator = np.random.default_rng(1)
  start = generator.permutation(2 * size[0] * size[1] * 2).reshape([2, *size, 2]).astype(np.float32)  # no ties nearby
  features = tf.constant(start)
  pooled, token = max_pool(features)
  result = max_unpool(tf.square(pooled) / 50, token)
  error = tf.test.compute_gradient_error  # runs in the default session
  with tf.Session():
    assert error(features, start.shape, result, start.shape, x_init_value=start, delta=0.1) < 0.02


def test_unknown_sizes_and_the_shape_that_is_known(graph):
  features, values = tf.placeholder(tf.float32, [None, None, None, 1]), tf.placeholder(tf.float32, [None] * 3 + [1])
  _, token = max_pool(features)
  result = max_unpool(values, token)
  gradient, = tf.gradients(result, values, tf.ones_like(result))
  with tf.Session() as session:
    for rows in (3, 2):
      feed = {features: FEATURES[:, :rows], values: VALUES[:, :(rows + 1) // 2]}
      value, ones = session.run([result, gradient], feed)
      np.testing.assert_array_equal(value, UNPOOLED[:, :rows])
      np.testing.assert_array_equal(ones, np.ones_like(feed[values]))
  _, token = max_pool(tf.zeros([2, 5, 8, 3]))
  assert max_unpool(tf.zeros([2, 3, 4, 3]), token).shape.as_list() == [2, 5, 8, 3]


def test_another_number_of_channels_is_refused(graph):
  _, token = max_pool(tf.zeros([2, 5, 8, 3]))
  with pytest.raises(ValueError, match='4 channels cannot be put where the maxima of 3 were'):
    max_unpool(tf.zeros([2, 3, 4, 4]), token)


@pytest.mark.skipif(not supports_bfloat16(), reason='this CPU has no AVX512-BF16')
def test_bfloat16_gives_the_same_positions_and_gradients(graph):
  """Between convolutions, where the graph rewriter takes bfloat16; whole numbers below 256 lose nothing in it."""
  generator = np.random.default_rng(2)
  copy = tf.constant(np.eye(16, dtype=np.float32)[None, None])
  features, values = (tf.placeholder(tf.float32, [None, None, None, 16]) for _ in range(2))
  _, token = max_pool(tf.nn.conv2d(features, copy, 1, 'SAME'))
  result = tf.nn.conv2d(max_unpool(tf.nn.conv2d(values, copy, 1, 'SAME'), token), copy, 1, 'SAME')
  gradient, = tf.gradients(result, values, features)
  feed = {features: generator.integers(1, 9, [2, 7, 10, 16]), values: generator.integers(1, 99, [2, 4, 5, 16])}
  runs = []
  for precision in ('float32', 'bfloat16'):
    with tf.Session(config=session_config(precision)) as session:
      runs.append(session.run([result, gradient], feed))
  assert (runs[0][0] != 0).sum() == feed[values].size
  for full, half in zip(*runs):
    np.testing.assert_array_equal(full, half)
