"""U-Net: Figure 1 of its paper, parameters by hand, geometry at any size, initialization, dropout."""

import numpy as np
import pytest

from nets import get_network
from nets.network import Mode
from nets.unet import UNET, he_normal
from utils.compat import tf

FIGURE_1 = {  # for 572x572 pixels into the network and 388x388 out of it: (size, channels)
    'down_0': (568, 64), 'down_1': (280, 128), 'down_2': (136, 256), 'down_3': (64, 512), 'down_4': (28, 1024),
    'up_3': (52, 512), 'up_2': (100, 256), 'up_1': (196, 128), 'up_0': (388, 64), 'score': (388, 2),
}


def test_the_registry_has_it():
  assert get_network('unet') is UNET and not UNET.skips


def test_shapes_of_figure_1(graph):
  logits, end_points = UNET.logits(tf.zeros([3, 388, 388, 3]), 2)
  shapes = {name: tuple(value.shape.as_list()) for name, value in end_points.items()}
  assert shapes == {name: (3, size, size, channels) for name, (size, channels) in FIGURE_1.items()}
  assert logits.shape.as_list() == [3, 388, 388, 2]


def test_parameter_count(graph):
  """31 031 810 by hand, for RGB and two classes; a grayscale input, the paper's, has 2 * 9 * 64 fewer."""
  UNET.logits(tf.zeros([1, 4, 4, 3]), 2)
  conv = lambda kernel, channels_in, channels: kernel * channels_in * channels + channels
  channels = [3, 64, 128, 256, 512, 1024]
  expected = sum(conv(9, i, o) + conv(9, o, o) for i, o in zip(channels, channels[1:]))
  expected += sum(conv(4, 2 * c, c) + conv(9, 2 * c, c) + conv(9, c, c) for c in channels[1:-1])
  expected += conv(1, 64, 2)
  assert sum(np.prod(v.shape.as_list()) for v in tf.trainable_variables()) == expected == 31_031_810
  kernels = [v for v in tf.trainable_variables() if v.op.name.endswith('/weights')]
  assert len(kernels) == 23  # "in total the network has 23 convolutional layers" (section 2)


def few_channels(monkeypatch, channels=(4, 5, 6, 7, 8)):
  """The same network with so few channels that it runs in no time."""
  monkeypatch.setattr('nets.unet.CHANNELS', channels)


@pytest.mark.parametrize('size', [(1, 1), (4, 5), (20, 3), (21, 50), (35, 36)])
def test_any_size_equals_the_centered_crop_of_a_mirrored_image(size, graph, monkeypatch):
  """Padded by hand, so that image pixel p is network pixel p + 92 + before, known or not while building."""
  few_channels(monkeypatch)
  height, width = size
  value = np.random.default_rng(1).uniform(0, 255, [2, height, width, 3]).astype(np.float32)
  before = [(4 - length) % 16 // 2 for length in size]
  after = [(4 - length) % 16 - first for length, first in zip(size, before)]
  mirrored = np.pad(value, [(0, 0), *((92 + a, 92 + b) for a, b in zip(before, after)), (0, 0)], mode='reflect')
  images = tf.placeholder(tf.float32, [None, None, None, 3])
  with tf.variable_scope(tf.get_variable_scope(), reuse=tf.AUTO_REUSE):
    known, _ = UNET.logits(tf.constant(value), 3)
    unknown, _ = UNET.logits(images, 3)
    unpadded, end_points = UNET.logits(tf.constant(value), 3)
  assert known.shape.as_list() == [2, height, width, 3]
  with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    known, unknown = session.run([known, unknown], {images: value})
    whole = session.run(end_points['score'], {_network_input(unpadded): mirrored / 127.5 - 1})
  expected = whole[:, before[0]:before[0] + height, before[1]:before[1] + width]
  np.testing.assert_allclose(known, expected, atol=1e-3 * np.std(whole))
  np.testing.assert_allclose(unknown, expected, atol=1e-3 * np.std(whole))


def _network_input(logits):
  """The input of the first convolution of the network that ends in `logits`."""
  graph = logits.graph
  convs = [op for op in graph.get_operations() if op.type == 'Conv2D' and '/down_0/conv_1/' in op.name]
  return convs[-1].inputs[0]


@pytest.mark.parametrize('axis', [1, 2])
def test_shifting_the_image_by_16_pixels_shifts_the_logits(axis, graph, monkeypatch):
  """Away from the mirrored borders nothing but the position changes; a shift by 8 pixels changes more."""
  few_channels(monkeypatch)
  shape = [1, 4, 4, 3]
  shape[axis] = 316
  wide = np.random.default_rng(2).uniform(0, 255, shape).astype(np.float32)
  images = tf.placeholder(tf.float32, [None, None, None, 3])
  logits, _ = UNET.logits(images, 3)
  with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    first, second, half = (np.moveaxis(session.run(logits, {
        images: np.take(wide, range(start, start + 300), axis)}), axis, 0) for start in (0, 16, 8))
  tolerance = 1e-3 * np.std(first)
  np.testing.assert_allclose(first[124:188], second[108:172], atol=tolerance)
  assert np.abs(first[124:188] - half[116:180]).max() > 100 * tolerance


def test_logits_lie_on_the_pixels_that_they_belong_to(graph, monkeypatch):
  """A pixel's logits depend on 92 pixels to a side and on the pixels of the same cells of 16, mirrored in a cell."""
  few_channels(monkeypatch, (8, 8, 8, 8, 8))
  images = tf.random.stateless_uniform([1, 4, 308, 3], [3, 4], 0, 255)
  logits, _ = UNET.logits(images, 3)
  gradients = [tf.gradients(logits[0, 1, column, :], images)[0] for column in range(146, 162)]
  reach = []
  with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    for column, gradient in zip(range(146, 162), session.run(gradients)):
      columns = np.flatnonzero(np.abs(gradient).sum(axis=(0, 1, 3)))
      reach.append((column - columns.min(), columns.max() - column))
  left, right = np.transpose(reach)
  assert sorted(left) == sorted(right) == list(range(92, 108))


def test_initialization_keeps_the_variance(graph):
  """Section 3: standard deviation sqrt(2 / N), with N = 9 * 64 for a 3x3 convolution of 64 channels."""
  UNET.logits(tf.zeros([1, 4, 4, 3]), 2)
  variables = {v.op.name.removeprefix('unet/'): v for v in tf.trainable_variables()}
  connections = {'down_0/conv_2': 9 * 64, 'down_2/conv_1': 9 * 128, 'up_1/conv_1': 9 * 256, 'upconv_2': 512,
                 'score': 64}
  with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    for name, count in connections.items():
      weights, biases = session.run([variables[f'{name}/weights'], variables[f'{name}/biases']])
      assert weights.std() == pytest.approx(np.sqrt(2 / count), rel=.15 if name == 'score' else .02), name
      assert np.all(biases == 0)
    tails = session.run(tf.constant(0) + tf.reduce_sum(tf.cast(
        tf.abs(he_normal(2)([100_000])) > 2, tf.int32)))
  assert 4000 < tails < 5100  # a Gaussian that is not truncated has 4.55 % beyond two deviations


@pytest.mark.parametrize('mode, expected', [
    (Mode(is_training=True), .5),
    (Mode(), None),
    (Mode(is_training=True, dropout=False), None),
    (Mode(dropout=True), .5),
    (Mode(is_training=True, dropout_keep_prob=.8), .8),
])
def test_dropout_at_the_end_of_the_contracting_path(mode, expected, graph, monkeypatch):
  few_channels(monkeypatch, (4, 4, 4, 32, 64))
  tf.set_random_seed(1)
  UNET.logits(tf.random.stateless_uniform([1, 4, 4, 3], [5, 6], 0, 255), 3, mode)
  dropped = [op for op in graph.get_operations() if op.name.endswith('/dropped')]
  if expected is None:
    assert dropped == []
    return
  with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    kept = session.run([op.inputs[1] > 0 for op in dropped])
  assert [value.shape for value in kept] == [(1, 8, 8, 32), (1, 4, 4, 64)]
  assert not [op for op in graph.get_operations() if op.type == 'MaxPool' and 'dropout' in op.inputs[0].name]
  for value in kept:
    assert value.mean() == pytest.approx(expected, abs=.05)


def test_nothing_is_normalized(graph, monkeypatch):
  few_channels(monkeypatch)
  UNET.logits(tf.zeros([1, 4, 4, 3]), 2, Mode(is_training=True))
  assert tf.get_collection(tf.GraphKeys.UPDATE_OPS) == []
  assert tf.global_variables() == tf.trainable_variables()
