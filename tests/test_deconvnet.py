"""DeconvNet: parameters by hand, shapes as in its paper, padding and places in the image, initialization, dropout."""

import numpy as np
import pytest
from plain_start import bright_pixels

from nets import deconvnet, vgg_encoder
from nets.deconvnet import DECONVNET
from nets.network import Mode
from utils.compat import tf

MEANS = (123.68, 116.78, 103.94)


@pytest.fixture
def thin(monkeypatch):
  """DeconvNet with few channels: fast, and all else the same."""
  monkeypatch.setattr(vgg_encoder, 'CHANNELS', (3, 4, 5, 6, 6))
  monkeypatch.setattr(deconvnet, 'VGG_FC_CHANNELS', 8)


@pytest.fixture(scope='module')
def whole():
  """The graph alone, for the paper's proposals and VOC's classes: (graph, logits, end points)."""
  with tf.Graph().as_default() as graph:
    yield graph, *DECONVNET.logits(tf.zeros([2, 224, 224, 3]), 21)


def test_parameters(whole):
  down = [(3, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 256), (256, 512)] + [(512, 512)] * 5
  up = [(after, before) for before, after in down[1:]] + [(64, 64)]
  vgg = sum(9 * before * after + after for before, after in down) + 49 * 512 * 4096 + 4096 * 4096 + 2 * 4096
  decoder = 49 * 4096 * 512 + sum(9 * before * after for before, after in up) + 64 * 21 + 21
  norms = 2 * (sum(after for _, after in down + up) + 2 * 4096 + 512)
  with whole[0].as_default():
    count = lambda scope: sum(int(np.prod(v.shape.as_list())) for v in tf.trainable_variables(scope))
    assert count('vgg_16') == vgg == 134_260_544  # slim's VGG-16 without fc8
    assert count('') == vgg + decoder + norms == 251_801_365
    assert round(count('') / 1e6) == 252  # section 6.1


def test_shapes_as_in_the_paper(whole):
  _, logits, end_points = whole
  assert logits.shape.as_list() == [2, 224, 224, 21]
  assert {name: value.shape.as_list()[1:] for name, value in end_points.items()} == {
      'pool1': [112, 112, 64], 'pool2': [56, 56, 128], 'pool3': [28, 28, 256], 'pool4': [14, 14, 512],
      'pool5': [7, 7, 512], 'fc6': [1, 1, 4096], 'fc7': [1, 1, 4096], 'fc6-deconv': [7, 7, 512],
      'deconv5': [14, 14, 512], 'deconv4': [28, 28, 256], 'deconv3': [56, 56, 128], 'deconv2': [112, 112, 64],
      'deconv1': [224, 224, 64]}


def test_the_decoder_starts_from_gaussians_of_the_released_model(whole):
  graph, deviations = whole[0], {}
  with tf.Session(graph=graph) as session, graph.as_default():
    for name in ('deconv4_3', 'score'):
      weights, = tf.global_variables(f'deconvnet/{name}/weights')
      session.run(weights.initializer)
      deviations[name] = session.run(weights).std()
  assert deviations['deconv4_3'] == pytest.approx(0.01, rel=0.01)
  assert deviations['score'] == pytest.approx(0.01, rel=0.3)


def test_images_are_mirrored_to_whole_cells(thin, graph):
  """Mirroring by hand and cutting out by hand gives the same."""
  generator = np.random.default_rng(0)
  images = tf.placeholder(tf.float32, [None, None, None, 3])
  logits, end_points = DECONVNET.logits(images, 3)
  with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    for size, padded in [((1, 224), (224, 224)), ((225, 319), (256, 320)), ((47, 300), (224, 320))]:
      image = generator.uniform(0, 255, [2, *size, 3]).astype(np.float32)
      top, left = ((total - length) // 2 for total, length in zip(padded, size))
      margins = [(0, 0), (top, padded[0] - size[0] - top), (left, padded[1] - size[1] - left), (0, 0)]
      value, cells = session.run([logits, end_points['pool5']], {images: image})
      expected = session.run(logits, {images: np.pad(image, margins, mode='reflect')})
      expected = expected[:, top:top + size[0], left:left + size[1]]
      assert cells.shape[1:3] == tuple(length // 32 for length in padded)
      assert value.shape == (2, *size, 3) and np.ptp(value) > 0
      np.testing.assert_allclose(value, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize('size, pixel', [((201, 230), (103, 99)), ((30, 225), (20, 130))])
def test_a_pixel_comes_out_where_it_went_in(size, pixel, thin, graph):
  """Convolutions only copy; fc6 and its mirror image copy the cells that have three others on every side."""
  assert bright_pixels(DECONVNET, size, pixel, MEANS) == [pixel]


def test_shifting_the_image_by_32_pixels_shifts_the_logits(thin, graph):
  """Random weights: away from the left and right borders, nothing but the position changes."""
  wide = np.random.default_rng(1).uniform(0, 255, [1, 224, 1184, 3]).astype(np.float32)
  images = tf.placeholder(tf.float32, [None, None, None, 3])
  logits, _ = DECONVNET.logits(images, 3)
  with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    for variable in tf.trainable_variables('deconvnet'):  # gains that make up for the small initial weights
      if variable.op.name.endswith('gamma'):
        variable.load(np.full(variable.shape, 5, np.float32), session)
    left, right = (session.run(logits, {images: wide[:, :, first:first + 1152]}) for first in (0, 32))
  inside = left[:, :, 544:640]
  assert np.ptp(inside) > 1e-2 * np.abs(left).max() > 0
  np.testing.assert_allclose(inside, right[:, :, 512:608], atol=1e-4 * np.abs(left).max())


def test_dropout_only_where_asked_for_and_behind_both_layers(thin, graph):
  drops = lambda: sum('dropout' in op.name and 'Random' in op.type for op in graph.get_operations())
  with tf.variable_scope(tf.get_variable_scope(), reuse=tf.AUTO_REUSE):
    DECONVNET.logits(tf.zeros([1, 224, 224, 3]), 3, Mode(is_training=True))
    assert drops() == 0
    DECONVNET.logits(tf.zeros([1, 224, 224, 3]), 3, Mode(dropout=True, dropout_keep_prob=0.5))
    assert drops() == 2
