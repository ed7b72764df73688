"""Several replicas, on two or four logical CPUs, against one device with the same batch: losses, weights, masks."""

import numpy as np
import pytest
from random_run import random_values

from nets.dropout import dropout
from nets.network import Mode
from utils.compat import slim, tf
from utils.labels import IGNORE_LABEL
from utils.training import step as training_step
from utils.training.losses import LOSSES
from utils.training.replicas import Replicas, place
from utils.training.warm_start import with_averages

pytestmark = pytest.mark.fast

SIZE = 8  # examples in a batch


def on_cpus(count):
  """The Replicas of one process on so many logical CPUs, by the strategy of replicas.replicas_of."""
  if count == 1:
    return Replicas()
  resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(tf.train.ClusterSpec({}), num_accelerators={})
  ring = tf.distribute.experimental.CommunicationOptions(
      implementation=tf.distribute.experimental.CommunicationImplementation.RING)
  strategy = tf.compat.v2.distribute.MultiWorkerMirroredStrategy(resolver, ring)
  # TensorFlow's own way to several devices is for GPUs alone.
  strategy.extended._initialize_local(resolver, devices=[f'/cpu:{number}' for number in range(count)])
  return Replicas(strategy, local=count, count=count)


def batch_of(seed):
  """Images and labels of three classes, with void spread unevenly: nearly all of the first examples."""
  generator = np.random.default_rng(seed)
  labels = generator.integers(0, 3, [SIZE, 7, 5])
  labels[0], labels[1, 1:], labels[5, :, 2:] = IGNORE_LABEL, IGNORE_LABEL, IGNORE_LABEL
  return {'image': generator.uniform(0, 255, [SIZE, 7, 5, 3]).astype(np.float32), 'label': labels.astype(np.int32)}


def logits_of(images):
  mode = Mode(is_training=True, dropout_seed=training_step.dropout_seed(3), replica=place())
  with slim.arg_scope([slim.conv2d], weights_regularizer=slim.l2_regularizer(1e-3)):
    net = slim.conv2d(images / 255, 6, 3, scope='Backbone/conv', normalizer_fn=slim.batch_norm,
                      normalizer_params={'is_training': False})
    net = dropout(net, 0.5, mode=mode)
    return slim.conv2d(net, 3, 1, scope='head/score', activation_fn=None), {}


def train(count, steps=1, **options):
  """Trains from fixed weights on batches 0, 1, ...: losses, norms, predictions, and all variables after the last step.
  """
  replicas = on_cpus(count)
  with tf.Graph().as_default(), replicas.scope():
    batch = {'image': tf.placeholder(tf.float32, [SIZE, 7, 5, 3]), 'label': tf.placeholder(tf.int32, [SIZE, 7, 5])}
    options = {'rate': tf.constant(0.01), 'pretrained_scopes': ('Backbone',), 'new_layers_rate': 10.0,
               'clip_norm': 0.2, 'replicas': replicas, **options}
    outputs = training_step.make_step(logits_of, **options)(batch)
    with tf.Session(config=tf.ConfigProto(device_count={'CPU': count})) as session:
      session.run(tf.global_variables_initializer())
      variables = tf.trainable_variables()
      values = random_values(variables)
      session.run([variable.assign(values[variable.op.name]) for variable in variables])
      if outputs.averages:
        with_averages(lambda *_: None, outputs.averages, variables)(None, session)
      fetches = [outputs.loss, outputs.weight_loss, outputs.gradient_norm, outputs.predictions]
      found = [session.run(fetches, {batch[name]: value for name, value in batch_of(step).items()})
               for step in range(steps)]
      every = {variable.op.name: session.run(replicas.of_replicas(variable)) for variable in tf.global_variables()}
  for name, copies in every.items():
    for copy in copies[1:]:
      np.testing.assert_array_equal(copy, copies[0], err_msg=name)  # equal on all
  return found, {name: copies[0] for name, copies in every.items()}


def assert_equal_training(found, expected):
  for step, (values, others) in enumerate(zip(found[0], expected[0])):
    for value, other in zip(values[:3], others[:3]):
      np.testing.assert_allclose(value, other, rtol=2e-5, err_msg=f'step {step}')
    assert np.mean(values[3] == others[3]) > 0.99
  assert found[1].keys() == expected[1].keys()
  for name, value in expected[1].items():
    np.testing.assert_allclose(found[1][name], value, rtol=1e-3, atol=2e-5, err_msg=name)


@pytest.mark.parametrize('loss', [*LOSSES, 'cross_entropy+lovasz'])
def test_ten_steps_of_two_replicas_are_those_of_one_device(loss):
  assert_equal_training(*(train(count, 10, loss=loss) for count in (2, 1)))


@pytest.mark.parametrize('options', [
    {'gradient_accumulation': 2}, {'ema_decay': 0.9}, {'scaled': True}, {'class_weights': [0.5, 2.0, 1.0]},
    {'scopes': ('head',)}, {'clip_norm': 0.0}], ids=lambda options: next(iter(options)))
def test_every_option_trains_as_one_device(options):
  assert_equal_training(*(train(number, 3, **options) for number in (2, 1)))


def test_four_replicas_train_as_one_device_in_parts():
  assert_equal_training(*(train(number, 3, gradient_accumulation=2, loss='ohem+dice') for number in (4, 1)))


def averages_after(count, images):
  """Moving averages of a batch norm that learns, after one step: dict from name to list, a copy for each replica."""
  replicas = on_cpus(count)

  def logits(images):
    return slim.conv2d(images, 2, 1, scope='score', weights_initializer=tf.ones_initializer(),
                       normalizer_fn=slim.batch_norm, normalizer_params={'is_training': True, 'decay': 0.5}), {}

  with tf.Graph().as_default(), replicas.scope():
    batch = {'image': tf.constant(images), 'label': tf.zeros([len(images), 4, 4], tf.int32)}
    outputs = training_step.make_step(logits, rate=tf.constant(0.0), pretrained_scopes=(), replicas=replicas)(batch)
    with tf.Session(config=tf.ConfigProto(device_count={'CPU': count})) as session:
      session.run(tf.global_variables_initializer())
      session.run(outputs.loss)
      return {variable.op.name.split('/')[-1]: session.run(replicas.of_replicas(variable))
              for variable in tf.global_variables() if 'moving' in variable.op.name}


def test_learned_averages_of_batch_norms_are_the_mean_over_replicas():
  images = np.random.default_rng(0).normal(size=[4, 4, 4, 3]).astype(np.float32)
  together = averages_after(2, images)
  halves = [averages_after(1, half) for half in (images[:2], images[2:])]
  for name, copies in together.items():
    expected = (halves[0][name][0] + halves[1][name][0]) / 2
    assert not np.allclose(halves[0][name][0], expected)
    for copy in copies:
      np.testing.assert_allclose(copy, expected, rtol=1e-5)


@pytest.mark.parametrize('batch_size, parts, first, local, count, expected', [
    (8, 1, 0, 1, 1, [0, 1, 2, 3, 4, 5, 6, 7]),
    (8, 1, 1, 1, 4, [2, 3]),
    (8, 2, 0, 1, 2, [0, 1, 4, 5]),  # the first half of each part
    (8, 2, 2, 2, 4, [2, 3, 6, 7]),
    (12, 3, 1, 1, 2, [2, 3, 6, 7, 10, 11]),
])
def test_places_of_a_process_by_hand(batch_size, parts, first, local, count, expected):
  assert Replicas(None, first, local, count).positions(batch_size, parts) == expected
