"""ENet: Table 1 of its paper, parameters by hand, geometry at any size, PReLU, spatial dropout."""

import numpy as np
import pytest
from quick import quick_session

from nets import enet, get_network
from nets.enet import ENET, prelu
from nets.network import Mode
from utils.compat import slim, tf

TABLE_1 = {  # for images of 512x512: block -> (size, channels) of the output
    'initial': (256, 16),
    **{f'bottleneck1.{i}': (128, 64) for i in range(5)},
    **{f'bottleneck2.{i}': (64, 128) for i in range(9)},
    **{f'bottleneck3.{i}': (64, 128) for i in range(1, 9)},
    **{f'bottleneck4.{i}': (128, 64) for i in range(3)},
    **{f'bottleneck5.{i}': (256, 16) for i in range(2)},
    'fullconv': (512, 19),
}
ASYMMETRIC = (3, 7)  # numbers of the asymmetric bottlenecks in stages 2 and 3


def random_start(getter, name, shape=None, initializer=None, **options):
  """Starts batch norms and PReLUs at values that a trained network could have."""
  ranges = {'gamma': (.2, .6), 'beta': (-.5, .5), 'alpha': (-.2, .6), 'moving_mean': (-.5, .5)}
  kind = name.split('/')[-1]
  if kind in ranges:
    initializer = tf.random_uniform_initializer(*ranges[kind])
  return getter(name, shape=shape, initializer=initializer, **options)


@pytest.fixture(scope='module')
def built():
  """A network for images of any size and the 19 classes of Cityscapes: (session, images, logits, end points)."""
  with tf.Graph().as_default(), quick_session() as session:
    tf.set_random_seed(1)
    images = tf.placeholder(tf.float32, [None, None, None, 3])
    with tf.variable_scope('', custom_getter=random_start):
      logits, end_points = ENET.logits(images, 19)
    session.run(tf.global_variables_initializer())
    yield session, images, logits, end_points


@pytest.fixture(scope='module')
def weights(built):
  """Shapes of the trainable variables."""
  with built[0].graph.as_default():
    return {v.op.name.removeprefix('enet/'): v.shape.as_list() for v in tf.trainable_variables()}


def test_the_registry_has_it():
  assert get_network('enet') is ENET and not ENET.skips


def test_shapes_of_table_1(built):
  session, images, logits, end_points = built
  with session.graph.as_default():
    shapes = {name: tf.shape(value) for name, value in {**end_points, 'logits': logits}.items()}
  shapes = {name: tuple(shape) for name, shape in session.run(shapes, {images: np.zeros([1, 512, 512, 3])}).items()}
  assert shapes.pop('logits') == (1, 512, 512, 19)
  assert shapes == {name: (1, size, size, channels) for name, (size, channels) in TABLE_1.items()}


def test_kernels_of_every_kind_of_bottleneck(weights):
  kernels = {name.removesuffix('/weights'): shape for name, shape in weights.items() if name.endswith('/weights')}
  assert kernels['initial/conv'] == [3, 3, 3, 13]
  assert kernels['bottleneck1.0/projection'] == [2, 2, 16, 16] and kernels['bottleneck1.1/projection'] == [1, 1, 64, 16]
  for stage in (2, 3):
    for number in range(1, 9):
      name = f'bottleneck{stage}.{number}'
      if number in ASYMMETRIC:
        assert kernels[f'{name}/conv_5x1'] == [5, 1, 32, 32] and kernels[f'{name}/conv_1x5'] == [1, 5, 32, 32]
      else:
        assert kernels[f'{name}/conv'] == [3, 3, 32, 32]
  assert kernels['bottleneck4.0/conv'] == [3, 3, 16, 16] and kernels['bottleneck4.0/main'] == [1, 1, 128, 64]
  assert kernels['bottleneck5.0/main'] == [1, 1, 64, 16] and kernels['fullconv'] == [3, 3, 19, 16]
  assert [name for name in weights if 'bias' in name] == ['fullconv/biases']


def test_parameter_count(weights):
  """By hand, for the 19 classes of Cityscapes: 0.37 million, as in the paper's table of parameters."""
  norm = lambda channels: 2 * channels  # gain and offset
  inner = lambda channels: 2 * (norm(channels) + channels)  # two batch norms and PReLUs around a convolution

  def bottleneck(channels, conv, into=None, projection=1):
    quarter = channels // 4
    return ((into or channels) * quarter * projection + conv * quarter**2 + quarter * channels + inner(quarter)
            + norm(channels) + channels)

  stage_2 = 6 * bottleneck(128, 9) + 2 * bottleneck(128, 10)
  expected = 27 * 13 + norm(16) + 16  # initial
  expected += bottleneck(64, 9, into=16, projection=4) + 4 * bottleneck(64, 9)
  expected += bottleneck(128, 9, into=64, projection=4) + 2 * stage_2
  expected += bottleneck(64, 9, into=128) + 128 * 64 + norm(64) + 2 * bottleneck(64, 9)
  expected += bottleneck(16, 9, into=64) + 64 * 16 + norm(16) + bottleneck(16, 9)
  expected += 9 * 16 * 19 + 19
  assert sum(np.prod(shape) for shape in weights.values()) == expected == 365_474


def reach(gradient, cell):
  """Number of columns that a gradient [B, H, W, C] reaches to the left and to the right of `cell`."""
  columns = np.flatnonzero(np.abs(gradient).sum(axis=(0, 1, 3)))
  return cell - columns.min(), columns.max() - cell


def test_dilations(built):
  """Bottleneck n reaches as far as its dilation, or as its factor of five columns, to both sides."""
  session, images, _, end_points = built
  names = [f'bottleneck{stage}.{number}' for stage in (2, 3) for number in range(1, 9)]
  with images.graph.as_default():
    gradients = {name: tf.gradients(end_points[name][:, :, 30], end_points[before])[0]
                 for before, name in zip(['bottleneck2.0', *names], names)}
  value = np.random.default_rng(1).uniform(0, 255, [1, 8, 480, 3])
  expected = [1, 2, 2, 4, 1, 8, 2, 16]  # Table 1: regular, dilated 2, asymmetric 5, dilated 4, ...
  reached = {name: reach(gradient, 30) for name, gradient in session.run(gradients, {images: value}).items()}
  assert reached == {name: (length, length) for name, length in zip(names, 2 * expected)}


@pytest.mark.parametrize('size', [(1, 1), (5, 2), (9, 27), (16, 24), (23, 33)])
def test_any_size_equals_the_centered_crop_of_a_mirrored_image(size, built):
  """Padded by hand to a size that is not padded again, so that image pixel p is network pixel p + before."""
  session, images, logits, _ = built
  height, width = size
  value = np.random.default_rng(1).uniform(0, 255, [2, height, width, 3])
  before = [(-length % 8) // 2 for length in size]
  after = [-length % 8 - first for length, first in zip(size, before)]
  mirrored = np.pad(value, [(0, 0), *zip(before, after), (0, 0)], mode='reflect')
  whole = session.run(logits, {images: mirrored})
  expected = whole[:, before[0]:before[0] + height, before[1]:before[1] + width]
  assert expected.shape == (2, *size, 19)
  np.testing.assert_allclose(session.run(logits, {images: value}), expected, atol=1e-3 * np.std(whole))


@pytest.mark.parametrize('axis', [1, 2])
def test_shifting_the_image_by_8_pixels_shifts_the_logits(axis, built):
  """Beyond 700 pixels, as far as the dilated convolutions of two stages see, nothing but the position changes."""
  session, images, logits, _ = built
  shape = [1, 8, 8, 3]
  shape[axis] = 1608
  wide = np.random.default_rng(2).uniform(0, 255, shape)
  first, second = (np.moveaxis(session.run(logits, {images: np.take(wide, range(start, start + 1600), axis)}), axis, 0)
                   for start in (0, 8))
  tolerance = 1e-3 * np.std(first)
  np.testing.assert_allclose(first[708:908], second[700:900], atol=tolerance)
  assert np.abs(first[700:900] - second[700:900]).max() > 100 * tolerance


def test_logits_lie_on_the_pixels_that_they_belong_to(built):
  """The pixels that a pixel's logits depend on lie around it, evenly to within one cell of 8 pixels."""
  session, images, logits, _ = built
  with images.graph.as_default():
    gradient = tf.gradients(logits[:, :, 800], images)[0]
  value = np.random.default_rng(3).uniform(0, 255, [1, 8, 1600, 3])
  left, right = reach(session.run(gradient, {images: value}), 800)
  assert 500 < left < 700 and abs(left - right) <= 8


def test_prelu_and_its_gradient_by_hand(graph):
  features = tf.constant([[[[-2.0, -4.0], [3.0, 0.0], [5.0, -1.0]]]])
  result = prelu(features)
  alpha = tf.trainable_variables()[0]
  gradients = tf.gradients(result, [features, alpha])
  with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    np.testing.assert_array_equal(session.run(alpha), [.25, .25])
    alpha.load([.5, -.25], session)
    value, (by_features, by_alpha) = session.run([result, gradients])
  np.testing.assert_allclose(value, [[[[-1, 1], [3, 0], [5, .25]]]])
  np.testing.assert_allclose(by_features[0, 0, :, 0], [.5, 1, 1])
  np.testing.assert_allclose(by_features[0, 0, :, 1], [-.25, -.25, -.25])
  np.testing.assert_allclose(by_alpha, [-2, -5])
  assert alpha in slim.get_model_variables()


def dropped_channels(values):
  """Spatial dropouts, in order: (shares of channels kept, whether channels are kept or dropped whole)."""
  masks = [(value != 0).any(axis=(1, 2), keepdims=True) for value in values]
  return [mask.mean() for mask in masks], [np.array_equal(*np.broadcast_arrays(mask, value != 0))
                                           for mask, value in zip(masks, values)]


def test_training_drops_whole_channels_and_updates_averages(graph):
  """The paper's rates: 0.01 in the five bottlenecks of stage 1, 0.1 in the 22 after them."""
  tf.set_random_seed(1)
  images = tf.random.stateless_uniform([8, 24, 16, 3], [5, 6], 0, 255)
  images = tf.placeholder_with_default(images, [None, None, None, 3])
  ENET.logits(images, 3, Mode(is_training=True))
  dropouts = [op.outputs[0] for op in graph.get_operations() if op.name.endswith('/dropout/dropped')]
  updates = tf.get_collection(tf.GraphKeys.UPDATE_OPS)
  averages = tf.global_variables('.*moving_')
  assert len(updates) == len(averages) > 100
  with quick_session() as session:
    session.run(tf.global_variables_initializer())
    kept, whole = dropped_channels(session.run(dropouts))
    session.run(updates, {images: [[[[3.0, 200.0, 90.0]]]]})  # a single pixel has no variance
    assert all(np.isfinite(value).all() for value in session.run(averages))
  assert len(kept) == 5 + 9 + 8 + 3 + 2 and all(whole)
  assert np.mean(kept[:5]) == pytest.approx(.99, abs=.01) and np.mean(kept[5:]) == pytest.approx(.9, abs=.02)
  assert np.std(kept[5:]) > 0


def test_what_is_kept_can_be_chosen(graph, monkeypatch):
  """In stage 1 and in the later ones alike."""
  tf.set_random_seed(1)

  class Stop(Exception):
    pass

  dropped = []

  def encoder(net, early, late, portable):
    dropped.extend(regularize(tf.ones([8, 3, 2, 200])) for regularize in (early, late))
    raise Stop

  monkeypatch.setattr(enet, '_encoder', encoder)
  with pytest.raises(Stop):
    ENET.logits(tf.zeros([8, 24, 16, 3]), 3, Mode(is_training=True, dropout_keep_prob=.5))
  with tf.Session() as session:
    kept, whole = dropped_channels(session.run(dropped))
  assert all(whole) and kept == pytest.approx([.5, .5], abs=.04)
