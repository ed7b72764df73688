"""SegNet and SegNet-Basic: parameters by hand, shapes at odd sizes, places in the image, dropout, initial layers."""

import functools

import numpy as np
import pytest
from plain_start import bright_pixels

from nets import vgg_encoder
from nets.network import Mode
from nets.segnet import SEGNET, SEGNET_BASIC
from utils.compat import tf

MEANS = (123.68, 116.78, 103.94)


@pytest.fixture
def thin(monkeypatch):
  """SegNet with few channels: fast, and all else the same."""
  monkeypatch.setattr(vgg_encoder, 'CHANNELS', (3, 4, 5, 6, 6))


def parameters(scope=''):
  return sum(int(np.prod(v.shape.as_list())) for v in tf.trainable_variables(scope))


def test_parameters_of_segnet(graph):
  """VGG's own count, the decoder as its mirror image, two numbers a channel of every batch norm."""
  SEGNET.logits(tf.zeros([1, 64, 64, 3]), 11)
  down = [(3, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 256), (256, 512)] + [(512, 512)] * 5
  vgg = sum(9 * before * after + after for before, after in down)
  assert parameters('vgg_16') == vgg == 14_714_688  # the paper's 14.7 million
  decoder = sum(9 * before * after for before, after in down[1:]) + 9 * 64 * 11 + 11
  norms = sum(2 * after for _, after in down) + sum(2 * before for before, _ in down[1:])
  assert parameters() == vgg + decoder + norms == 29_445_643
  assert 4 * parameters() // 10**6 == 117  # megabytes, Table 6


def test_parameters_of_segnet_basic(graph):
  SEGNET_BASIC.logits(tf.zeros([1, 64, 64, 3]), 11)
  assert parameters() == 49 * 64 * (3 + 7 * 64) + 8 * 2 * 64 + 64 * 11 + 11 == 1_416_075
  assert parameters() == pytest.approx(1_425_000, rel=0.0063)  # Table 1
  assert [v.op.name for v in tf.trainable_variables('.*biases')] == ['segnet_basic/conv_classifier/biases']


def test_shapes_at_the_papers_size(graph):
  """CamVid's 360x480: the fourth pooling sees 45 rows, the fifth 23, and unpooling gives them back."""
  logits, end_points = SEGNET.logits(tf.zeros([2, 360, 480, 3]), 11)
  assert logits.shape.as_list() == [2, 360, 480, 11]
  assert {name: value.shape.as_list()[1:] for name, value in end_points.items()} == {
      'pool1': [180, 240, 64], 'pool2': [90, 120, 128], 'pool3': [45, 60, 256], 'pool4': [23, 30, 512],
      'pool5': [12, 15, 512], 'decoder5': [23, 30, 512], 'decoder4': [45, 60, 256], 'decoder3': [90, 120, 128],
      'decoder2': [180, 240, 64], 'decoder1': [360, 480, 64]}


@pytest.mark.parametrize('size, pixel', [((45, 70), (44, 69)), ((33, 61), (17, 38))])
def test_a_pixel_comes_out_where_it_went_in(size, pixel, thin, graph):
  """Convolutions only copy: poolings take one white pixel down, unpoolings bring it back to its place."""
  assert bright_pixels(SEGNET, size, pixel, MEANS) == [pixel]


@pytest.mark.parametrize('size, pixel', [((45, 70), (44, 69)), ((33, 61), (17, 38))])
def test_a_pixel_comes_out_where_it_went_in_basic(size, pixel, graph):
  assert bright_pixels(SEGNET_BASIC, size, pixel, (0, 0, 0)) == [pixel]


def test_shifting_the_image_by_32_pixels_shifts_the_logits(thin, graph):
  """Random weights: away from the left and right borders, nothing but the position changes."""
  wide = np.random.default_rng(0).uniform(0, 255, [1, 41, 1032, 3]).astype(np.float32)
  images = tf.placeholder(tf.float32, [None, None, None, 3])
  logits, _ = SEGNET.logits(images, 3)
  with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    left, right = (session.run(logits, {images: wide[:, :, first:first + 1000]}) for first in (0, 32))
  assert np.ptp(left[:, :, 432:600]) > 1e-2
  np.testing.assert_allclose(left[:, :, 432:600], right[:, :, 400:568], atol=1e-4 * np.abs(left).max())


def test_decoders_of_segnet_basic_have_no_relu(graph):
  _, end_points = SEGNET_BASIC.logits(tf.random.uniform([1, 33, 40, 3], 0, 255, seed=1), 3, Mode(is_training=True))
  with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    values = session.run(end_points)
  for unit in range(1, 5):
    assert values[f'pool{unit}'].min() >= 0
    assert values[f'decoder{unit}'].min() < -0.1


def test_segnet_basic_normalizes_each_pixel_by_its_brightness(graph):
  image = np.random.default_rng(2).uniform(0, 255, [1, 5, 4, 3]).astype(np.float32)
  _, end_points = SEGNET_BASIC.logits(tf.constant(image), 3)
  with tf.Session() as session:
    value = session.run(end_points['lrn'])
  expected = image / (1 + 1e-4 / 5 * np.square(image).sum(axis=-1, keepdims=True))**0.75
  np.testing.assert_allclose(value, expected, rtol=1e-5)


@pytest.mark.parametrize('network, dropped, kept', [
    (SEGNET, ['pool3', 'pool4', 'pool5', 'decoder5', 'decoder4', 'decoder3'],
     ['pool1', 'pool2', 'decoder2', 'decoder1']),
    (SEGNET_BASIC, ['pool3', 'pool4', 'decoder4', 'decoder3'], ['pool1', 'pool2', 'decoder2', 'decoder1']),
])
def test_dropout_of_bayesian_segnet(network, dropped, kept, thin, graph):
  """Behind the central units if the Mode has a dropout_keep_prob; none by default, and none if `dropout` is False."""
  build = functools.partial(network.logits, tf.zeros([1, 40, 40, 3]), 3)
  drops = lambda: sum('dropout' in op.name and 'Random' in op.type for op in graph.get_operations())
  with tf.variable_scope(tf.get_variable_scope(), reuse=tf.AUTO_REUSE):
    build(Mode(is_training=True))
    build(Mode(is_training=True, dropout=False, dropout_keep_prob=0.5))
    assert drops() == 0
    _, end_points = build(Mode(dropout=True, dropout_keep_prob=0.5))
    assert drops() == len(dropped)
  assert sorted(end_points) == sorted(dropped + kept + (['lrn'] if 'lrn' in end_points else []))
  assert [name for name in dropped + kept if 'dropout' in end_points[name].op.name] == dropped
