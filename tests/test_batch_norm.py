"""Batch norms folded into convolutions compute and learn the same as slim's."""

import numpy as np
import pytest
from random_run import load, random_values

from nets.batch_norm import batch_norm, folded_batch_norm
from utils.compat import slim, tf

pytestmark = pytest.mark.fast

IMAGES = np.random.default_rng(5).uniform(-1, 1, (2, 13, 18, 3)).astype(np.float32)
LAYERS = {
    # Arguments of slim.conv2d, and the number of batch norms that are left in the graph.
    'plain': ({'kernel_size': 3}, 0),
    'strided, of VALID padding': ({'kernel_size': (1, 7), 'stride': 2, 'padding': 'VALID'}, 0),
    'with gain': ({'kernel_size': 3, 'normalizer_params': {'scale': True, 'epsilon': 0.01}}, 0),
    'without offset': ({'kernel_size': 1, 'normalizer_params': {'center': False}}, 0),
    'dilated': ({'kernel_size': 3, 'rate': 2}, 1),  # by space to batch
}


def outputs_and_gradients(build):
  """Runs `build(images)` with random weights: (output, dict from variable to gradient, number of batch norms used)."""
  with tf.Graph().as_default() as graph, tf.Session() as session:
    out = build(tf.constant(IMAGES))
    variables = tf.trainable_variables()
    gradients = tf.gradients(tf.square(out), variables)
    load(session, random_values(tf.global_variables()), tf.global_variables())
    used = tf.graph_util.extract_sub_graph(graph.as_graph_def(), [out.op.name]).node
    values = session.run([out, *gradients])
  return values[0], dict(zip((variable.op.name for variable in variables), values[1:])), sum(
      node.op == 'FusedBatchNormV3' for node in used)


@pytest.mark.parametrize('name', LAYERS)
def test_folded_is_slims_own(name):
  settings, left = LAYERS[name]

  def layer(images, normalizer):
    with slim.arg_scope([slim.batch_norm], is_training=False):
      return slim.conv2d(images, 7, normalizer_fn=normalizer, scope='layer', **settings)

  expected, slopes, norms = outputs_and_gradients(lambda images: layer(images, batch_norm(True)))
  found, own_slopes, own_norms = outputs_and_gradients(lambda images: layer(images, batch_norm(False)))
  assert norms == 1 and own_norms == left
  np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
  assert own_slopes.keys() == slopes.keys() and len(slopes) >= 1
  for variable, slope in slopes.items():
    assert np.abs(slope).max() > 0
    np.testing.assert_allclose(own_slopes[variable], slope, atol=1e-4 * np.abs(slope).max(), err_msg=variable)


@pytest.mark.parametrize('layer', [
    lambda images: slim.conv2d_transpose(images, 5, 3, normalizer_fn=folded_batch_norm),
    lambda images: folded_batch_norm(slim.conv2d(images, 5, 3, normalizer_fn=None)),  # biases, and a ReLU
    lambda images: slim.conv2d(images, 5, 3, normalizer_fn=batch_norm(False, fold=False),
                               normalizer_params={'is_training': False}),
])
def test_other_layers_have_slims_batch_norm(layer):
  assert outputs_and_gradients(layer)[2] == 1


def test_a_folded_norm_never_learns_statistics(graph):
  with slim.arg_scope([slim.batch_norm], is_training=True):
    slim.conv2d(tf.constant(IMAGES), 5, 3, normalizer_fn=batch_norm(False))
  assert not tf.get_collection(tf.GraphKeys.UPDATE_OPS)
