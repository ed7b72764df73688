"""Dropout: shares and values by hand, masks by seed, step and layer, and the ops in a graph for training."""

import functools
import zlib

import numpy as np
import pytest
from random_run import load, random_values

from nets import dropout as dropout_lib
from nets.dropout import dropout
from nets.network import Mode
from utils.compat import slim, tf
from utils.training import step as training_step

FEATURES = np.random.default_rng(0).uniform(1, 2, [3, 21, 17, 40]).astype(np.float32)


def run(*tensors, feed=None):
  with tf.Session() as session:
    return session.run(tensors, feed)


@pytest.mark.parametrize('seed', [None, (0, 5)])
@pytest.mark.parametrize('keep_prob', [0.99, 0.8, 0.5, 0.07])
def test_kept_features_are_scaled_and_their_gradients_too(keep_prob, seed, graph):
  tf.set_random_seed(1)
  features = tf.placeholder_with_default(FEATURES, [None, None, None, 40])
  out = dropout(features, keep_prob, mode=Mode(dropout=True, dropout_seed=seed))
  values, slopes = run(out, tf.gradients(3 * out, features)[0])
  kept = values != 0
  np.testing.assert_allclose(values[kept], FEATURES[kept] / keep_prob, rtol=1e-6)
  np.testing.assert_allclose(slopes, np.where(kept, 3 / keep_prob, 0), rtol=1e-6)
  deviation = np.sqrt(keep_prob * (1 - keep_prob) / kept.size)
  assert abs(kept.mean() - keep_prob) < 5 * deviation


def test_whole_channels_of_each_image(graph):
  values, = run(dropout(tf.constant(FEATURES), 0.6, mode=Mode(dropout=True, dropout_seed=(3, 1)), whole_channels=True))
  kept = values != 0
  assert np.array_equal(kept, np.broadcast_to(kept[:, :1, :1], kept.shape))
  assert 0.4 < kept.mean() < 0.8 and not np.array_equal(kept[0], kept[1])


@pytest.mark.parametrize('keep_prob, mode', [
    (1.0, Mode(dropout=True)), (0.5, Mode()), (0.5, Mode(is_training=True, dropout=False))])
def test_nothing_is_built_where_nothing_drops(keep_prob, mode, graph):
  features = tf.constant(FEATURES)
  assert dropout(features, keep_prob, mode=mode) is features


def test_masks_follow_from_seed_step_and_layer(graph):
  step = tf.placeholder(tf.int32, [])

  def layer(seed, scope='dropout'):
    return dropout(tf.ones([2, 30, 20, 3]), 0.5, mode=Mode(dropout=True, dropout_seed=(seed, step)), scope=scope)

  first, built_again, other_layer, other_seed = layer(0), layer(0), layer(0, 'dropout6'), layer(2**40)
  with tf.Session() as session:
    masks = session.run([first, built_again, other_layer, other_seed], {step: 7})
    again, later = session.run(first, {step: 7}), session.run(first, {step: 8})
  np.testing.assert_array_equal(again, masks[0])
  different = [*masks, later]
  for place, mask in enumerate(different):
    for other in different[place + 1:]:
      assert (mask != other).mean() == pytest.approx(0.5, abs=0.06)
  with tf.Graph().as_default():  # the same layer of another graph, as in a resumed run
    np.testing.assert_array_equal(
        run(dropout(tf.ones([2, 30, 20, 3]), 0.5, mode=Mode(dropout=True, dropout_seed=(0, tf.constant(7)))))[0], again)


def step_of(build, *, size, num_classes=3, parts=1):
  """Builds a training step of `build(images, mode)` with dropout on two images of `size`."""
  rng = np.random.default_rng(1)
  batch = {'image': tf.constant(rng.uniform(0, 255, [2, *size, 3]), tf.float32),
           'label': tf.constant(rng.integers(0, num_classes, [2, *size]), tf.int32)}
  mode = Mode(is_training=True, dropout_keep_prob=0.5, dropout_seed=training_step.dropout_seed(4))
  return training_step.make_step(lambda images: build(images, mode), rate=tf.constant(0.01), pretrained_scopes=(),
                                 gradient_accumulation=parts)(batch)


def tiny_logits(images, mode):
  net = slim.conv2d(images / 255, 8, 3, scope='first')
  return slim.conv2d(dropout(net, 0.5, mode=mode), 3, 1, activation_fn=None, scope='second'), {}


def losses(steps, *, start=None, parts=1):
  """Trains for some steps from `start`, dict of all variables; returns the losses and the variables at the end."""
  with tf.Graph().as_default():
    outputs = step_of(tiny_logits, size=(13, 9), parts=parts)
    variables = tf.global_variables()
    with tf.Session() as session:
      session.run(tf.global_variables_initializer())
      load(session, {**random_values(tf.trainable_variables()), **(start or {})},
           variables if start else tf.trainable_variables())
      found = [session.run(outputs.loss) for _ in range(steps)]
      return found, dict(zip((variable.op.name for variable in variables), session.run(variables)))


@pytest.mark.parametrize('parts', [1, 2])
def test_a_resumed_run_drops_what_it_would_have_dropped(parts):
  whole, end = losses(5, parts=parts)
  _, middle = losses(2, parts=parts)
  rest, resumed_end = losses(3, start=middle, parts=parts)
  np.testing.assert_array_equal(rest, whole[2:])
  for name, value in end.items():
    np.testing.assert_array_equal(resumed_end[name], value, err_msg=name)


def test_parts_of_a_batch_have_masks_of_their_own(graph):
  step_of(tiny_logits, size=(13, 9), parts=2)
  masks = [op.inputs[1] for op in graph.get_operations() if op.name.endswith('/dropped')]
  assert len(masks) == 2
  with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    one, two = session.run(masks)
  assert (one != two).mean() == pytest.approx(0.5, abs=0.1)


def test_masks_are_those_of_stateless_uniform_also_when_xla_compiles_them(graph):
  """XLA's own uniform numbers are others than TensorFlow's; the bits below them are the same."""
  step = tf.placeholder(tf.int32, [])
  drawn = lambda shape: dropout_lib._uniform(shape, 'name', Mode(dropout_seed=(0, step)))
  layer = zlib.crc32(b'0 name') >> 1
  for shape in [(5,), (3, 7, 2, 11), (4, 1, 1, 64)]:
    values, expected, compiled = run(
        drawn(shape), tf.random.stateless_uniform(shape, tf.stack([layer, step])),
        tf.function(functools.partial(drawn, shape), jit_compile=True, autograph=False)(), feed={step: 7})
    assert values.min() >= 0 and values.max() < 1
    np.testing.assert_array_equal(values, expected)
    np.testing.assert_array_equal(values, compiled)
