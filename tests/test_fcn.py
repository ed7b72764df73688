"""The FCNs: geometry at any size, initial state, agreement with slim's classifier."""

import numpy as np
import pytest

from nets import NETWORKS, backbones, get_network
from nets.fcn import fcn, fcn_logits
from nets.geometry import bilinear_kernel, bilinear_upsample, mirrored_pad, upsampling_matrix
from utils.compat import slim, tf
from utils.errors import UserError

SIZES = [(1, 1), (3, 2), (7, 75), (31, 64), (63, 33), (90, 141)]


def run(*tensors, feed=None):
  with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    return session.run(tensors if len(tensors) > 1 else tensors[0], feed)


def assign_random(session, seed, scale=0.3):
  """Gives every variable of the heads random values, so that a network's answer depends on its input."""
  generator = np.random.default_rng(seed)
  for variable in tf.global_variables('fcn'):
    variable.load(generator.normal(0, scale, variable.shape).astype(np.float32), session)


def test_unknown_network_lists_the_known_ones():
  with pytest.raises(UserError, match='inception_v3'):
    get_network('googlenet')


def test_unknown_skip(graph):
  with pytest.raises(ValueError, match='32s, 16s, 8s'):
    get_network('inception_v3').logits(tf.zeros([1, 9, 9, 3]), 3, False, skip='4s')


@pytest.mark.parametrize('name', NETWORKS)
def test_logits_have_the_images_size(name, graph):
  """At any size, unknown while building, with a batch of several, for every skip."""
  network = get_network(name)
  for skip in network.skips or (None,):
    with tf.Graph().as_default(), tf.Session() as session:
      images = tf.placeholder(tf.float32, [None, None, None, 3])
      logits, _ = network.logits(images, 5, False, skip=skip)
      session.run(tf.global_variables_initializer())
      for height, width in SIZES if skip == '8s' else SIZES[2:3]:
        value = session.run(logits, {images: np.full([2, height, width, 3], 99, np.float32)})
        assert value.shape == (2, height, width, 5) and value.dtype == np.float32
        assert np.isfinite(value).all()


@pytest.mark.parametrize('name', NETWORKS)
def test_every_trainable_variable_gets_a_gradient(name, graph):
  network = get_network(name)
  images = tf.random.uniform([1, 70, 61, 3], 0, 255, seed=1)
  logits, _ = network.logits(images, 4, True)
  assert logits.shape.as_list() == [1, 70, 61, 4]
  variables = tf.trainable_variables()
  gradients = tf.gradients(tf.reduce_sum(tf.square(logits - 1)), variables)
  assert [v.name for v, g in zip(variables, gradients) if g is None] == []


def test_unknown_and_known_sizes_agree(graph):
  """Two constructions that share weights give the same answer."""
  network = get_network('inception_v3')
  value = np.random.default_rng(0).uniform(0, 255, [2, 47, 82, 3]).astype(np.float32)
  unknown = tf.placeholder(tf.float32, [None, None, None, 3])
  with tf.variable_scope(tf.get_variable_scope(), reuse=tf.AUTO_REUSE):
    first, _ = network.logits(tf.constant(value), 3, False)
    second, _ = network.logits(unknown, 3, False)
  with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    assign_random(session, seed=2)
    first, second = session.run([first, second], {unknown: value})
  assert np.ptp(first) > 0.1
  np.testing.assert_allclose(first, second, atol=1e-4)


def test_parameter_count(graph):
  """Inception v3 without classifier trains 21 768 352 numbers, as Keras counts them too; the heads by hand."""
  get_network('inception_v3').logits(tf.zeros([1, 75, 75, 3]), 7, False)
  count = lambda scope: sum(np.prod(v.shape.as_list()) for v in tf.trainable_variables(scope))
  assert count('fcn') == 7 * (2048 + 768 + 288) + 3 * 7 + 2 * 9 * 7 * 7
  assert count('InceptionV3') == 21_768_352


@pytest.mark.parametrize('skip', ['32s', '16s', '8s'])
def test_starts_with_equal_scores(skip, graph):
  """Score layers start at zero: every class is equally likely, the loss is the logarithm of the number of classes."""
  logits, _ = get_network('inception_v3').logits(tf.random.uniform([1, 50, 40, 3], 0, 255), 6, True, skip=skip)
  assert np.all(run(logits) == 0)


def test_a_new_skip_starts_from_the_coarser_net_exactly(graph):
  """With the 32s score layer trained and the new skips at zero, 16s and 8s interpolate the same scores."""
  value = np.random.default_rng(3).uniform(0, 255, [1, 139, 170, 3]).astype(np.float32)
  network = get_network('inception_v3')
  logits = {}
  with tf.variable_scope(tf.get_variable_scope(), reuse=tf.AUTO_REUSE):
    for skip in network.skips:
      logits[skip], _ = network.logits(tf.constant(value), 3, False, skip=skip)
  with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    weights = tf.global_variables('fcn/score_32/weights')[0]
    weights.load(np.random.default_rng(4).normal(0, 1, weights.shape).astype(np.float32), session)
    values = session.run(logits)
  # Each finer net reaches the image's border by fading instead of repeating, so the inside is compared.
  inside = np.s_[:, 32:-32, 32:-32]
  assert np.ptp(values['32s'][inside]) > 1e-3
  np.testing.assert_allclose(values['16s'][inside], values['32s'][inside], atol=1e-4)
  np.testing.assert_allclose(values['8s'][inside], values['32s'][inside], atol=1e-4)


# --- geometry ---------------------------------------------------------------------------------------------------------


def _ramp_features(images, is_training, **unused):
  """Inception v3's strides, kernels and paddings, each layer only averaging: a coordinate comes out as a coordinate."""
  del is_training, unused

  def layer(net, kernel, stride, padding):
    if padding == 'SAME':  # symmetric and size-preserving; a mirrored border would bend the ramp, so leave it alone
      return net
    return tf.nn.avg_pool2d(net, kernel, stride, padding)

  net = images
  for kernel, stride, padding in [(3, 2, 'VALID'), (3, 1, 'VALID'), (3, 1, 'SAME'), (3, 2, 'VALID'), (1, 1, 'VALID'),
                                  (3, 1, 'VALID'), (3, 2, 'VALID')]:
    net = layer(net, kernel, stride, padding)
  end_points = {'Mixed_5d': net}
  end_points['Mixed_6e'] = net = layer(net, 3, 2, 'VALID')
  end_points['Mixed_7c'] = layer(net, 3, 2, 'VALID')
  return end_points


RAMP = backbones.Backbone(**{**backbones.INCEPTION_V3.__dict__, 'features': _ramp_features})


@pytest.mark.parametrize('skip', ['32s', '16s', '8s'])
@pytest.mark.parametrize('size', [(203, 170), (177, 261), (196, 195)])
def test_a_coordinate_comes_out_where_it_went_in(size, skip, graph):
  """A ramp of coordinates through the same strides and kernels is, inside the mirrored border, unchanged."""
  rows, columns = np.meshgrid(*map(np.arange, size), indexing='ij')
  images = np.stack([rows, columns, np.ones(size)], axis=-1)[None].astype(np.float32)
  logits, _ = fcn_logits(RAMP, tf.constant(images), 3, False, skip=skip)
  with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    stride = skip[:-1]
    for name in ['32', '16', '8']:
      for variable in tf.global_variables(f'fcn/score_{name}/weights'):
        # Only the finest tap is read; the coarser ones have their own runs.
        variable.load((np.eye(3) if name == stride else np.zeros([3, 3]))[None, None].astype(np.float32), session)
    value = session.run(logits)[0]
  inside = np.s_[72:-72, 72:-72]
  assert np.abs(value[inside] - images[0][inside]).max() < 1e-3


def test_coarse_scores_fuse_onto_the_fine_cells_exactly(graph):
  """A ramp that only the stride-32 tap scores passes both learned upscores and still comes out in place."""
  size = (203, 311)
  rows, columns = np.meshgrid(*map(np.arange, size), indexing='ij')
  images = np.stack([rows, columns, np.ones(size)], axis=-1)[None].astype(np.float32)
  logits, _ = fcn_logits(RAMP, tf.constant(images), 3, False)
  with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    tf.global_variables('fcn/score_32/weights')[0].load(np.eye(3, dtype=np.float32)[None, None], session)
    value = session.run(logits)[0]
  inside = np.s_[64:-64, 64:-64]
  assert np.abs(value[inside] - images[0][inside]).max() < 1e-2


@pytest.mark.parametrize('skip', ['32s', '16s', '8s'])
def test_shifting_the_image_by_32_pixels_shifts_the_logits(skip, graph):
  """Real Inception v3: away from the borders, which context reaches, nothing but the position changes."""
  generator = np.random.default_rng(5)
  wide = generator.uniform(0, 255, [1, 139, 96 + 32, 3]).astype(np.float32)
  wide[:, :, :] *= 0.2  # small contrasts keep a random network's activations tame
  images = tf.placeholder(tf.float32, [None, None, None, 3])
  backbone = backbones.Backbone(**{**backbones.INCEPTION_V3.__dict__, 'features': _local_features})
  logits, _ = fcn_logits(backbone, images, 3, False, skip=skip)
  with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    assign_random(session, seed=6)
    left = session.run(logits, {images: np.pad(wide, [(0, 0), (0, 0), (0, 160), (0, 0)])})
    right = session.run(logits, {images: np.pad(wide, [(0, 0), (0, 0), (32, 128), (0, 0)])})
  assert np.ptp(left) > 1e-3
  np.testing.assert_allclose(left[:, :, 64:192], right[:, :, 96:224], atol=1e-4)


def _local_features(images, is_training, **options):
  """Slim's Inception v3 cut to the layers whose context is short, so that a shift shows away from the borders."""
  del is_training, options
  slim_net = slim.nets.inception_v3
  with slim.arg_scope(slim_net.inception_v3_arg_scope()), slim.arg_scope([slim.batch_norm], is_training=False):
    net, end_points = slim_net.inception_v3_base(images / 127.5 - 1, final_endpoint='MaxPool_5a_3x3')
  end_points['Mixed_5d'] = net
  end_points['Mixed_6e'] = net = slim.max_pool2d(net, 3, 2, padding='VALID')
  end_points['Mixed_7c'] = slim.max_pool2d(net, 3, 2, padding='VALID')
  return end_points


def test_mirrored_pad_equals_numpy(graph):
  value = np.random.default_rng(7).normal(size=[2, 5, 3, 2]).astype(np.float32)
  padded = run(mirrored_pad(tf.constant(value), (7, 9), (30, 21)))
  expected = np.pad(value, [(0, 0), (7, 18), (9, 9), (0, 0)], mode='reflect')
  np.testing.assert_array_equal(padded, expected)


@pytest.mark.parametrize('stride', [8, 16, 32])
def test_bilinear_upsample_is_the_transposed_convolution(stride, graph):
  """Inside the outermost centres it equals tf.nn.conv2d_transpose with a kernel of 2s - 1, VALID."""
  value = np.random.default_rng(8).normal(size=[2, 3, 5, 2]).astype(np.float32)
  triangle = 1 - np.abs(np.arange(2 * stride - 1) - (stride - 1)) / stride
  kernel = np.einsum('i,j,kl->ijkl', triangle, triangle, np.eye(2)).astype(np.float32)
  size = (2 * stride + 2 * stride - 1, 4 * stride + 2 * stride - 1)
  transposed = tf.nn.conv2d_transpose(tf.constant(value), kernel, [2, *size, 2], stride, padding='VALID')
  ours = bilinear_upsample(tf.constant(value), stride, (stride - 1, stride - 1), size)
  transposed, ours = run(transposed, ours)
  inside = np.s_[:, stride - 1:1 - stride, stride - 1:1 - stride]
  np.testing.assert_allclose(ours[inside], transposed[inside], atol=1e-5)
  np.testing.assert_allclose(ours[:, 0, 0], value[:, 0, 0], atol=1e-6)


def test_upsampling_matrix_by_hand(graph):
  expected = [[1, 0], [1, 0], [.75, .25], [.5, .5], [.25, .75], [0, 1]]
  np.testing.assert_allclose(run(upsampling_matrix(2, 4, 1.0, 6)), expected)


def test_bilinear_kernel_by_hand(graph):
  kernel = run(bilinear_kernel([3, 3, 2, 2]))
  np.testing.assert_allclose(kernel[:, :, 0, 0], [[.25, .5, .25], [.5, 1, .5], [.25, .5, .25]])
  assert np.all(kernel[:, :, 0, 1] == 0)


# --- agreement with slim ----------------------------------------------------------------------------------------------


def test_features_equal_slims_own_at_299(graph, shared):
  """End point by end point, with the ImageNet weights; and slim's classifier logits from the map, averaged."""
  image = np.random.default_rng(9).uniform(0, 255, [1, 299, 299, 3]).astype(np.float32)
  with tf.variable_scope(tf.get_variable_scope(), reuse=tf.AUTO_REUSE):
    ours = backbones.INCEPTION_V3.features(
        tf.constant(image), False, freeze_batch_norm=False, batch_norm_decay=0.99, weight_decay=0.0)
    with slim.arg_scope(slim.nets.inception_v3.inception_v3_arg_scope()):
      slim_logits, slims = slim.nets.inception_v3.inception_v3(
          tf.constant(image / 127.5 - 1), num_classes=11, is_training=False, scope='InceptionV3')
    with tf.variable_scope('InceptionV3'):  # the classifier as a 1x1 convolution of every cell
      score_map = slim.conv2d(ours['Mixed_7c'], 11, 1, activation_fn=None, scope='Logits/Conv2d_1c_1x1')
  names = [name for name in slims if name in ours]
  with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    restored = [v for v in tf.global_variables('InceptionV3') if 'Logits' not in v.op.name]
    tf.train.Saver(restored).restore(session, str(shared / 'pretrained/inception_v3.ckpt'))
    ours, slims, score_map, slim_logits = session.run(
        [{n: ours[n] for n in names}, {n: slims[n] for n in names}, score_map, slim_logits])
  assert len(names) == 18
  for name in names:
    np.testing.assert_allclose(ours[name], slims[name], atol=1e-5, err_msg=name)
  np.testing.assert_allclose(score_map.mean((1, 2)), slim_logits, atol=1e-4)


def test_registry_is_built_from_the_backbone():
  assert get_network('inception_v3').logits.args == fcn(backbones.INCEPTION_V3).logits.args
