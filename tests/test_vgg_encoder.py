"""The convolutions of VGG-16 under batch norms: slim's names, shapes and activations."""

import numpy as np
import pytest

from nets import backbones, get_network, vgg_encoder
from nets.network import Mode
from nets.unpooling import max_pool
from utils.compat import slim, tf


def shapes_under(scope):
  return {v.op.name: tuple(v.shape.as_list()) for v in tf.global_variables(scope)}


@pytest.fixture(scope='module')
def slims():
  """Names and shapes of slim's VGG-16."""
  with tf.Graph().as_default():
    slim.nets.vgg.vgg_16(tf.zeros([1, 224, 224, 3]))
    return shapes_under('vgg_16')


@pytest.mark.parametrize('name, layers', [('segnet', ('conv',)), ('deconvnet', ('conv', 'fc6', 'fc7'))])
def test_variables_under_vgg_16_are_slims(name, layers, slims, graph):
  network = get_network(name)
  network.logits(tf.zeros([1, 224, 224, 3]), 4)
  assert network.pretrained == 'vgg_16' and network.pretrained_scopes == ('vgg_16',)
  assert not network.pretrained_batch_norm
  expected = {name: shape for name, shape in slims.items() if name.split('/')[1].startswith(layers)}
  assert len(expected) == 2 * (13 + len(layers) - 1)
  assert shapes_under('vgg_16') == expected
  assert set(shapes_under('vgg_16')) < {v.op.name for v in slim.get_model_variables()}


def test_activations_are_slims_where_batch_norms_do_nothing(graph):
  """Block by block down to the last pooling, with the same weights and biases."""
  image = np.random.default_rng(0).uniform(0, 255, [1, 224, 224, 3]).astype(np.float32)
  with tf.variable_scope(tf.get_variable_scope(), reuse=tf.AUTO_REUSE):
    _, slims = slim.nets.vgg.vgg_16(tf.constant(image) - [123.68, 116.78, 103.94], is_training=False)
    with vgg_encoder.arg_scope(Mode(weight_decay=0.0)):
      ours, net = [], backbones.without_mean(tf.constant(image))
      for block in range(1, 6):
        net, _ = max_pool(vgg_encoder.encode_block(net, block, 'norms'))
        ours.append(net)
  generator = np.random.default_rng(1)
  with tf.Session() as session:
    used = tf.global_variables('norms') + tf.global_variables('vgg_16/conv')
    session.run(tf.variables_initializer(used))
    for variable in used:
      if variable.op.name.endswith('biases'):
        variable.load(generator.normal(0, 9, variable.shape).astype(np.float32), session)
      if variable.op.name.endswith('moving_variance'):
        variable.load(np.full(variable.shape, 1 - 1e-3, np.float32), session)  # batch norm adds as much
    ours, slims = session.run([ours, [slims[f'vgg_16/pool{block}'] for block in range(1, 6)]])
  for our, slims_own in zip(ours, slims):
    assert np.ptp(our) > 1
    np.testing.assert_allclose(our, slims_own, rtol=1e-4, atol=1e-4 * np.abs(our).max())


def test_decay_and_regularization_reach_the_layers(graph):
  with vgg_encoder.arg_scope(Mode(is_training=True, batch_norm_decay=0.75, weight_decay=0.5)):
    net, token = max_pool(vgg_encoder.encode_block(tf.random.normal([2, 6, 4, 3], seed=0), 1, 'norms'))
    vgg_encoder.decode_block(net, token, ['conv'], [5])
  means = tf.global_variables('norms/conv1_1_bn/moving_mean')[0]
  losses, weights = tf.losses.get_regularization_losses(), [v for v in tf.trainable_variables() if v.shape.rank == 4]
  with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    before = session.run(means)
    session.run(tf.get_collection(tf.GraphKeys.UPDATE_OPS))
    assert np.abs(session.run(means) - before).max() > 0
    values, weights = session.run([losses, weights])
  np.testing.assert_allclose(sorted(values), sorted(0.25 * np.square(w).sum() for w in weights), rtol=1e-5)
  deviations = {w.shape: w.std() for w in weights}  # He et al.: the square root of 2 over the inputs of a cell
  assert deviations[3, 3, 64, 64] == pytest.approx(np.sqrt(2 / (9 * 64)), rel=0.02)
  assert 'norms/conv1_1_bn/moving_mean' not in [v.op.name for v in tf.trainable_variables()]
