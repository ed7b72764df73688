"""Networks turned into PyTorch modules: the same answers and the same gradients as TensorFlow's."""

import numpy as np
import pytest

from nets.dropout import dropout
from nets.geometry import bilinear_upsample, mirrored_pad
from nets.network import Mode
from utils.compat import slim, tf
from utils.errors import UserError

torch = pytest.importorskip('torch', reason='PyTorch is not installed: pip install -r requirements-pytorch.txt')

from utils.studies import benchmark_pytorch, torch_network  # noqa: E402, they need it

SIZE = (2, 21, 30)


def small_network(images):
  """Has every layer that the Inceptions have, at odd and even sizes, with odd and even padding."""
  net = mirrored_pad(images, (3, 2), (27, 36)) / 127.5 - 1.0
  with slim.arg_scope([slim.conv2d], normalizer_fn=slim.batch_norm, normalizer_params={'is_training': False}):
    net = slim.conv2d(net, 8, 3, stride=2, scope='first')  # SAME: 27 is padded by 1 and 1, 36 by 0 and 1
    net = slim.max_pool2d(net, 3, stride=2, padding='SAME', scope='pool')  # 14 by 0 and 1
    wide = slim.conv2d(net, 6, (1, 7), scope='wide')
    even = slim.conv2d(net, 5, 2, scope='even')
    mean = slim.avg_pool2d(net, 3, stride=1, padding='SAME', scope='mean')
  net = tf.concat([wide, even, mean], axis=3)
  net = slim.conv2d(net, 4, 1, activation_fn=None, scope='score')  # with biases
  net = slim.conv2d_transpose(net, 4, 3, stride=2, padding='VALID', biases_initializer=None, scope='up')
  net = net[:, 1:14, :18, :]
  return bilinear_upsample(net, 2, (-3.0, -2.0), SIZE[1:])


@pytest.fixture(scope='module')
def converted():
  """The small network and its twin: (images, logits, values, network, parameters)."""
  rng = np.random.default_rng(0)
  with tf.Graph().as_default():
    images = tf.placeholder(tf.float32, [*SIZE, 3])
    logits = small_network(images)
    values = {variable.op.name: rng.uniform(0.1, 1, variable.shape.as_list()).astype(np.float32)
              - (0.5 if 'weights' in variable.op.name else 0) for variable in tf.global_variables()}
    return images, logits, values, *torch_network.convert(logits, images, values)


def pixels():
  return np.random.default_rng(1).uniform(0, 255, (*SIZE, 3)).astype(np.float32)


def test_same_logits(converted):
  images, logits, values, network, _ = converted
  expected = benchmark_pytorch.tensorflow_answer(logits, {images: pixels()}, values)
  with torch.no_grad():
    found = network(torch.from_numpy(pixels()))
  assert expected.std() > 0.1
  np.testing.assert_allclose(found.permute(0, 2, 3, 1).numpy(), expected, rtol=1e-4, atol=1e-4 * abs(expected).max())


@pytest.mark.parametrize('size', [(2 * SIZE[1] + 1, SIZE[2] // 2), (5, 97), SIZE[1:]])
def test_resizing_is_tensorflow_2s(size):
  with tf.Graph().as_default():
    images = tf.placeholder(tf.float32, [*SIZE, 3])
    resized = tf.compat.v2.image.resize(images, size, method='bilinear')
    network, _ = torch_network.convert(resized + 1.0, images, {})
    expected = benchmark_pytorch.tensorflow_answer(resized + 1.0, {images: pixels()}, {})
  np.testing.assert_allclose(network(torch.from_numpy(pixels())).permute(0, 2, 3, 1).numpy(), expected, atol=1e-3)


@pytest.mark.parametrize('paddings', [((1, 0), (1, 2)), ((0, 1), (0, 0))])
def test_symmetric_padding(paddings):
  with tf.Graph().as_default():
    images = tf.placeholder(tf.float32, [*SIZE, 3])
    padded = tf.pad(images, [[0, 0], *paddings, [0, 0]], 'SYMMETRIC') + 1.0
    network, _ = torch_network.convert(padded, images, {})
  found = network(torch.from_numpy(pixels())).permute(0, 2, 3, 1).numpy()
  np.testing.assert_array_equal(found, np.pad(pixels(), ((0, 0), *paddings, (0, 0)), 'symmetric') + 1)


def test_mirroring_without_the_border_is_refused():
  with tf.Graph().as_default():
    images = tf.placeholder(tf.float32, [*SIZE, 3])
    with pytest.raises(UserError, match='MirrorPad without the border pixels has no counterpart'):
      torch_network.convert(tf.pad(images, [[0, 0], [1, 0], [0, 0], [0, 0]], 'REFLECT'), images, {})


def test_resizing_of_tensorflow_1_is_refused():
  with tf.Graph().as_default():
    images = tf.placeholder(tf.float32, [*SIZE, 3])
    with pytest.raises(UserError, match='ResizeBilinear of TensorFlow 1 has no counterpart'):
      torch_network.convert(tf.image.resize_bilinear(images, (9, 9)), images, {})


def test_same_gradients(converted):
  images, logits, values, network, parameters = converted
  labels = np.random.default_rng(2).integers(0, 4, SIZE)
  labels[0, :5] = benchmark_pytorch.IGNORE_LABEL
  with logits.graph.as_default():
    variables = tf.trainable_variables()
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels % 255, logits=logits)
    loss = tf.reduce_sum(losses * (labels < 4)) / (labels < 4).sum()
    expected = benchmark_pytorch.tensorflow_answer([loss, *tf.gradients(loss, variables)], {images: pixels()}, values)
  loss = benchmark_pytorch.loss_function(network, 'float32')(torch.from_numpy(pixels()), torch.from_numpy(labels))
  loss.backward()
  assert loss.item() == pytest.approx(expected[0], rel=1e-4)
  assert set(parameters) == {variable.op.name for variable in variables}
  for variable, gradient in zip(variables, expected[1:]):
    found = parameters[variable.op.name].grad
    found = found.permute(2, 3, 1, 0) if found.ndim == 4 else found.reshape(-1)
    np.testing.assert_allclose(found.numpy(), gradient, rtol=1e-3, atol=1e-4 * abs(gradient).max(),
                               err_msg=variable.op.name)


def test_folding_changes_no_answer(converted):
  network = converted[3]
  folded = benchmark_pytorch.folded_network(network, 'float32')
  count = lambda module: sum(isinstance(layer, torch.nn.BatchNorm2d) for layer in module.modules())
  assert (count(network), count(folded)) == (3, 0)
  with torch.no_grad():
    expected, found = (module(torch.from_numpy(pixels())).numpy() for module in (network, folded))
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * abs(expected).max())


def test_dropout_drops(graph):
  images = tf.placeholder(tf.float32, [2, 40, 50, 3])
  network, _ = torch_network.convert(dropout(images, 0.75, mode=Mode(dropout=True)), images, {})
  found = network(torch.ones(2, 40, 50, 3)).numpy()
  assert found.shape == (2, 3, 40, 50)
  np.testing.assert_allclose(np.unique(found), [0, 4 / 3], rtol=1e-6)
  assert 0.7 < (found > 0).mean() < 0.8


@pytest.mark.parametrize('make, message', [
    (tf.nn.elu, 'Elu has no counterpart'),
    (lambda images: slim.avg_pool2d(images, 2, stride=1, padding='SAME'), 'AvgPool with unequal padding'),
    (lambda images: slim.conv2d_transpose(images, 3, 3, stride=2, biases_initializer=None, activation_fn=None),
     'Conv2DBackpropInput with padding'),
    (lambda images: slim.batch_norm(images, is_training=True), 'FusedBatchNormV3 in training mode'),
    (lambda images: images + np.ones([5, 7, 3], np.float32), 'AddV2 with a constant of shape'),
    (lambda images: images[:, 0], 'StridedSlice that changes the rank'),
])
def test_what_has_no_counterpart_is_named(graph, make, message):
  images = tf.placeholder(tf.float32, [1, 5, 7, 3])
  output = make(images)
  values = {variable.op.name: np.ones(variable.shape.as_list(), np.float32) for variable in tf.global_variables()}
  with pytest.raises(UserError, match=message):
    torch_network.convert(output, images, values)
