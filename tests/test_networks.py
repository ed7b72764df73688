"""What every network of the registry must do, whatever it is made of: any size, gradients, shared weights, dropout."""

import collections

import numpy as np
import pytest

from nets import NETWORKS, get_network
from utils.compat import slim, tf
from utils.errors import UserError

Built = collections.namedtuple('Built', 'session images logits')

# FCNs are one function over many backbones; one of them stands for all where building a network often would take long.
ONE_OF_A_KIND = list({getattr(network.logits, 'func', network.logits): name
                      for name, network in NETWORKS.items()}.values())


def random_start(getter, name, shape=None, initializer=None, **options):
  """Starts convolutions by He's rule, and at random what would start at zero: an answer then depends on the image."""
  if name.endswith('weights') and '/upscore_' not in name:
    initializer = slim.variance_scaling_initializer(uniform=True)
  elif isinstance(initializer, tf.zeros_initializer):
    initializer = tf.random_normal_initializer(stddev=0.1)
  return getter(name, shape=shape, initializer=initializer, **options)


def sharing():
  """A variable scope in which all networks of the same name have the same weights."""
  return tf.variable_scope(tf.get_variable_scope(), reuse=tf.AUTO_REUSE, custom_getter=random_start)


@pytest.fixture(scope='module', params=NETWORKS)
def built(request):
  """A network for images of any size, as it is trained with its batch norms frozen."""
  with tf.Graph().as_default(), tf.Session() as session, sharing():
    tf.set_random_seed(1)
    images = tf.placeholder(tf.float32, [None, None, None, 3])
    logits, _ = get_network(request.param).logits(images, 5, True, dropout=False, freeze_batch_norm=True)
    session.run(tf.global_variables_initializer())
    yield Built(session, images, logits)


def test_unknown_network_lists_the_known_ones():
  with pytest.raises(UserError, match='inception_v3'):
    get_network('googlenet')


def test_logits_have_the_images_size(built):
  assert built.logits.shape.as_list()[3] == 5
  generator = np.random.default_rng(0)
  for size in [(1, 1, 1), (3, 3, 2), (2, 31, 64), (1, 90, 141)]:
    value = built.session.run(built.logits, {built.images: generator.uniform(0, 255, [*size, 3])})
    assert value.shape == (*size, 5) and value.dtype == np.float32
    assert np.isfinite(value).all()
  assert np.ptp(value, axis=(1, 2)).max() > 1e-3 * np.abs(value).max() > 0


def test_every_trainable_variable_gets_a_gradient(built):
  with built.session.graph.as_default():
    variables = tf.trainable_variables()
    gradients = tf.gradients(tf.reduce_sum(tf.square(built.logits - 1)), variables)
  assert [v.name for v, gradient in zip(variables, gradients) if gradient is None] == []


@pytest.mark.parametrize('name', ONE_OF_A_KIND)
def test_constructions_agree_but_for_dropout(name, graph):
  """For unknown and known sizes, for inference and, with nothing dropped and batch norm frozen, for training."""
  network = get_network(name)
  value = np.random.default_rng(0).uniform(0, 255, [2, 47, 82, 3]).astype(np.float32)
  images = tf.placeholder(tf.float32, [None, None, None, 3])
  with sharing():
    logits, _ = network.logits(images, 5, False)
    variables = tf.global_variables()
    known, _ = network.logits(tf.constant(value), 5, True, dropout=False, freeze_batch_norm=True)
    dropped, _ = network.logits(images, 5, False, dropout=True, dropout_keep_prob=0.5)
  assert tf.global_variables() == variables
  assert known.shape.as_list() == [2, 47, 82, 5]
  with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    logits, known, first = session.run([logits, known, dropped], {images: value})
    second = session.run(dropped, {images: value})
  assert np.ptp(logits, axis=(1, 2)).max() > 1e-3 * np.abs(logits).max() > 0
  np.testing.assert_allclose(logits, known, rtol=0, atol=1e-4 * np.abs(logits).max())
  drops = any('dropout' in op.name.lower() and 'Random' in op.type for op in graph.get_operations())
  assert np.array_equal(first, second) != drops
