"""The FCNs: geometry over every backbone, initial state, agreement with slim's classifiers."""

import collections
import dataclasses
import functools
import re

import numpy as np
import pytest
from quick import quick_session

from nets import NETWORKS, backbones, get_network
from nets.fcn import fcn
from nets.geometry import bilinear_kernel, bilinear_upsample, mirrored_pad, upsampling_matrix
from nets.network import Mode
from utils.compat import slim, tf

BACKBONES = {name: network.build.args[0] for name, network in NETWORKS.items() if network.skips}


def run(*tensors, feed=None):
  with quick_session() as session:
    session.run(tf.global_variables_initializer())
    return session.run(tensors if len(tensors) > 1 else tensors[0], feed)


def test_unknown_skip(graph):
  with pytest.raises(ValueError, match='32s, 16s, 8s, 4s, 2s'):
    get_network('inception_v3').logits(tf.zeros([1, 9, 9, 3]), 3, skip='1s')


@pytest.mark.parametrize('name', BACKBONES)
def test_records(name):
  network, backbone = NETWORKS[name], BACKBONES[name]
  assert network.name == backbone.name == name
  assert network.pretrained == {'vgg_16_trunk': 'vgg_16'}.get(name, name)
  assert network.skips == backbone.skips and network.default_skip == '8s'
  assert network.pretrained_scopes == backbone.scopes
  assert [tap.stride for tap in backbone.taps] == [32, 16, 8, 4, 2]


# --- geometry of every kind of backbone -------------------------------------------------------------------------------
# The deeper ResNet and VGG have more of the same layers between the same taps; test_networks.py builds every backbone.

def paths(backbone):
  """Pairs of a skip and the stride of the only tap that is scored: the finest by itself, or through the upscores."""
  strides = [tap.stride for tap in backbone.taps]
  return [(f'{stride}s', stride) for stride in strides] + [(f'{strides[-1]}s', stride) for stride in strides[:-1]]


Probe = collections.namedtuple('Probe', 'backbone logits')


def pass_on(getter, name, shape=None, *, scored, choice='/score_', **options):
  """Makes convolutions pass on the mean of their channels at their center; of those of `choice`, only `scored` does."""
  kind = name.rpartition('/')[2]
  if kind.endswith('weights') and '/upscore_' not in name:
    share = 1.0 if kind == 'depthwise_weights' else 1.0 / shape[2]
    share *= not re.search(choice, name) or f'/{scored}/' in name
    pads = [[(size - 1) // 2, size // 2] for size in shape[:2]] + [[0, 0], [0, 0]]
    options['initializer'] = lambda shape, *_, **__: tf.pad(tf.fill([1, 1, *shape[2:]], share), pads)
  return getter(name, shape=shape, **options)


def without_centered_pools(graph):
  """The graph without its pools of stride 1: they move nothing, and would carry the bent border far into the image."""
  graph_def = graph.as_graph_def()
  for node in graph_def.node:
    if node.op in ('MaxPool', 'AvgPool') and set(node.attr['strides'].list.i) == {1}:
      kind = node.attr['T'].type
      node.op = 'Identity'
      node.attr.clear()
      node.attr['T'].type = kind
  return graph_def


@pytest.fixture(scope='module', params=[name for name in BACKBONES if name not in ('resnet_v1_101', 'vgg_19')])
def probe(request):
  """A backbone through which a coordinate should pass unchanged, built once under a head for each tap by itself and one
  through all the upscores.

  `logits(images)` gives a dict from path to [B, H, W].
  """
  backbone, end_points = BACKBONES[request.param], {}

  def features(images, mode):
    if not end_points:
      end_points.update(backbone.features(images, mode))
    return dict(end_points)

  with tf.Graph().as_default() as graph, pytest.MonkeyPatch.context() as patch:
    patch.setattr(backbones, 'VGG_FC_CHANNELS', 16)
    images = tf.placeholder(tf.float32, [None, None, None, 3], name='images')
    names = {}
    for skip, stride in paths(backbone)[:len(backbone.taps) + 1]:
      with tf.variable_scope(f'path_{skip}_{stride}',
                             custom_getter=functools.partial(pass_on, scored=f'score_{stride}')):
        logits, _ = fcn(dataclasses.replace(backbone, features=features)).logits(images, 1, skip=skip)
      names[skip, stride] = tf.squeeze(logits, axis=-1).name
    init = tf.global_variables_initializer().name
  with tf.Graph().as_default(), quick_session() as session:
    tf.import_graph_def(without_centered_pools(graph), name='')
    session.run(init)
    yield Probe(backbone, lambda value: session.run(names, {'images:0': value}))


def in_brightness(value):
  """Gray images [B, H, W, 3] of a value above the mean that is subtracted, so that no ReLU cuts it off."""
  return np.repeat(np.asarray(value, np.float32)[..., None] + 200, 3, axis=-1)


@pytest.mark.parametrize('size', [(161, 142), (136, 173)])
def test_a_coordinate_comes_out_where_it_went_in(probe, size):
  """Max pools shift rising and falling ramps uphill by the same distance: their mean gives the places of the cells."""
  rows, columns = np.meshgrid(*map(np.arange, size), indexing='ij')
  ramp = rows + 2.0 * columns  # no shift of both axes goes unseen
  results = probe.logits(in_brightness([np.zeros(size), np.full(size, 100), ramp, ramp.max() - ramp]))
  for path, (zero, hundred, uphill, downhill) in results.items():
    unit = (hundred - zero) / 100
    rising, falling = (uphill - zero) / unit, ramp.max() - (downhill - zero) / unit
    inside = np.s_[56:-56, 56:-56]  # outside, the mirrored border bends the ramp
    error = np.abs((rising + falling) / 2 - ramp)[inside].max()
    assert error < 0.1, f'{probe.backbone.name}, {path}: off by {error} pixels'


def test_shifting_the_image_by_32_pixels_shifts_the_logits(probe):
  patch = np.random.default_rng(5).uniform(0, 55, [64, 80])
  left, right = np.zeros([2, 183, 193])
  left[44:108, 40:120] = right[76:140, 72:152] = patch
  for path, logits in probe.logits(in_brightness([left, right])).items():
    assert np.ptp(logits) > 1e-3 * np.abs(logits).max()
    np.testing.assert_allclose(
        logits[0, 32:-64, 32:-64], logits[1, 64:-32, 64:-32], atol=1e-4 * np.abs(logits).max(), err_msg=path)


def test_features_are_zero_where_slims_preprocessing_is(probe):
  """[-1, 1] for Inception; less the mean color, here its mean over the channels, for VGG and ResNet v1."""
  logits = probe.logits(in_brightness([np.zeros([9, 9]), np.full([9, 9], 100)]))
  zero, hundred = logits[paths(probe.backbone)[0]][:, 4, 4]
  middle = 127.5 if probe.backbone.name.startswith('inception') else (123.68 + 116.78 + 103.94) / 3
  assert 200 - 100 * zero / (hundred - zero) == pytest.approx(middle, abs=0.01)


# --- heads ------------------------------------------------------------------------------------------------------------


def pooled_features(images, mode):
  """Features of three channels on Inception v3's cells, no pixel of a valid size dropped."""
  del mode
  end_points, net = {}, images
  for name, kernel, stride in [
      ('Conv2d_2b_3x3', 7, 2), ('Conv2d_4a_3x3', 7, 2), ('Mixed_5d', 3, 2), ('Mixed_6e', 3, 2), ('Mixed_7c', 3, 2)]:
    end_points[name] = net = tf.nn.avg_pool2d(net, kernel, stride, 'VALID')
  return end_points


POOLS = dataclasses.replace(backbones.INCEPTION_V3, features=pooled_features)
FCN = fcn(POOLS)
TRAINING = Mode(is_training=True)


def random_image(height, width):
  return np.random.default_rng(3).uniform(0, 255, [1, height, width, 3]).astype(np.float32)


def test_parameter_count_of_the_heads(graph):
  FCN.logits(tf.constant(random_image(75, 75)), 7)
  assert sum(np.prod(v.shape.as_list()) for v in tf.trainable_variables('fcn')) == 3 * (7 * 3 + 7) + 2 * 9 * 7 * 7


@pytest.mark.parametrize('skip', POOLS.skips)
def test_starts_with_equal_scores(skip, graph):
  """Score layers start at zero: every class is equally likely, the loss is the logarithm of the number of classes."""
  logits, end_points = FCN.logits(tf.constant(random_image(50, 40)), 6, TRAINING, skip=skip)
  assert np.all(run(logits) == 0)
  assert [name for name in end_points if name.startswith('score')] == [
      'score_32', 'score_16', 'score_8', 'score_4', 'score_2'][:POOLS.skips.index(skip) + 1]


def test_a_new_skip_starts_from_the_coarser_net_exactly(graph):
  """With the 32s score layer trained and the new skips at zero, all finer nets interpolate the same scores."""
  value, logits = random_image(139, 170), {}
  with tf.variable_scope(tf.get_variable_scope(), reuse=tf.AUTO_REUSE):
    for skip in POOLS.skips:
      logits[skip], _ = FCN.logits(tf.constant(value), 3, skip=skip)
  with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    weights = tf.global_variables('fcn/score_32/weights')[0]
    weights.load(np.random.default_rng(4).normal(0, 1, weights.shape).astype(np.float32), session)
    values = session.run(logits)
  # Each finer net reaches the image's border by fading instead of repeating, so the inside is compared.
  inside = np.s_[:, 32:-32, 32:-32]
  assert np.ptp(values['32s'][inside]) > 1e-3
  for skip in POOLS.skips[1:]:
    np.testing.assert_allclose(values[skip][inside], values['32s'][inside], rtol=1e-4, err_msg=skip)


RAMP = np.stack([np.arange(231.0)[:, None] + 2 * np.arange(242.0)] * 3, axis=-1)[None].astype(np.float32)


@pytest.mark.parametrize('skip, stride', paths(POOLS))
def test_a_ramp_passes_a_decoder(skip, stride, graph):
  """A ramp in any map keeps its place, by itself and through the upsampling of coarser maps."""
  del graph
  with tf.variable_scope(tf.get_variable_scope(), custom_getter=functools.partial(
      pass_on, scored=f'lateral_{stride}', choice=r'/lateral_|/score_\d')):
    logits, _ = FCN.logits(tf.constant(RAMP), 2, skip=skip, decoder_channels=5)
  inside = np.s_[0, 88:-88, 88:-88, 1]
  ramp, value = RAMP[inside], run(logits)[inside]
  value *= np.ptp(ramp) / np.ptp(value)  # batch norms add their epsilon to a variance of one
  np.testing.assert_allclose(value, ramp, atol=0.05)


@pytest.mark.parametrize('scale', [0.6, 1.5, 2.0])
@pytest.mark.parametrize('known', [True, False])
def test_a_ramp_passes_another_input_scale(scale, known, graph):
  images = tf.constant(RAMP) if known else tf.placeholder_with_default(RAMP, [None, None, None, 3])
  with tf.variable_scope(tf.get_variable_scope(), custom_getter=functools.partial(pass_on, scored='score_4')):
    logits, _ = FCN.logits(images, 1, skip='4s', input_scale=scale)
  assert logits.shape.as_list()[1:3] == ([231, 242] if known else [None, None])
  inside = np.s_[0, 88:-88, 88:-88, 0]
  np.testing.assert_allclose(run(logits)[inside], RAMP[inside], atol=0.05)


def test_parameter_count_of_a_decoder(graph):
  """A 1x1 lateral for each map, a 3x3 convolution for each fusion, both with gains and offsets; and score layers."""
  FCN.logits(tf.constant(random_image(75, 75)), 7, skip='4s', decoder_channels=6)
  counted = sum(np.prod(v.shape.as_list()) for v in tf.trainable_variables('fcn'))
  scores = 4 * (3 * 7 + 7) + 3 * 9 * 7 * 7
  assert counted == 4 * (3 * 6 + 12) + 3 * (9 * 6 * 6 + 12) + 6 * 7 + 7 + scores


def test_a_decoder_starts_from_the_fused_scores(graph):
  value, logits = tf.constant(random_image(139, 170)), {}
  with tf.variable_scope(tf.get_variable_scope(), reuse=tf.AUTO_REUSE):
    for channels in (0, 6):
      logits[channels], _ = FCN.logits(
          value, 3, Mode(is_training=True, dropout=False), skip='2s', decoder_channels=channels)
  with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    weights = tf.global_variables('fcn/score_8/weights')[0]
    weights.load(np.random.default_rng(4).normal(0, 1, weights.shape).astype(np.float32), session)
    plain, decoded = session.run([logits[0], logits[6]])
    assert np.ptp(plain) > 1e-3
    np.testing.assert_array_equal(decoded, plain)
    session.run(tf.global_variables('fcn/score_decoder/biases')[0].assign([0.0, 1.0, 2.0]))
    np.testing.assert_allclose(session.run(logits[6]) - plain, np.broadcast_to([0.0, 1.0, 2.0], plain.shape), atol=1e-3)


def test_a_decoders_batch_norms_are_trained_beside_a_frozen_backbone(graph):
  FCN.logits(tf.constant(random_image(75, 75)), 7, Mode(is_training=True, freeze_batch_norm=True), decoder_channels=6)
  assert len(tf.get_collection(tf.GraphKeys.UPDATE_OPS)) == 2 * 5


def test_scale_of_a_tap(graph):
  """Every score is half of the score without the scale."""
  halved = dataclasses.replace(POOLS, taps=tuple(dataclasses.replace(tap, scale=0.5) for tap in POOLS.taps))
  value = tf.constant(random_image(60, 50))
  with tf.variable_scope(tf.get_variable_scope(), reuse=tf.AUTO_REUSE, initializer=tf.ones_initializer()):
    plain, scaled = (fcn(backbone).logits(value, 2)[1] for backbone in (POOLS, halved))
  with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    for weights in tf.trainable_variables('fcn/score'):
      if weights.op.name.endswith('weights'):
        weights.load(np.ones(weights.shape, np.float32), session)
    plain, scaled = session.run([plain['score_8'], scaled['score_8']])
  np.testing.assert_allclose(scaled, plain / 2, rtol=1e-5)
  assert plain.min() > 100


def test_no_bias_is_trained_by_the_fused_gradient(graph):
  """TensorFlow fuses BiasAddGrad with the gradient of the weights, which in bfloat16 spoils memory on VGG's fc7."""
  logits, _ = FCN.logits(tf.constant(random_image(60, 50)), 3, TRAINING)
  gradients = tf.gradients(tf.reduce_sum(logits), tf.trainable_variables())
  assert len(gradients) == 8 and None not in gradients
  assert 'BiasAddGrad' not in {op.type for op in graph.get_operations()}


def test_mirrored_pad_equals_numpy(graph):
  value = np.random.default_rng(7).normal(size=[2, 5, 3, 2]).astype(np.float32)
  padded = run(mirrored_pad(tf.constant(value), (7, 9), (30, 21)))
  expected = np.pad(value, [(0, 0), (7, 18), (9, 9), (0, 0)], mode='reflect')
  np.testing.assert_array_equal(padded, expected)


@pytest.mark.parametrize('stride', [8, 16, 32])
def test_bilinear_upsample_is_the_transposed_convolution(stride, graph):
  """Inside the outermost centers the map equals tf.nn.conv2d_transpose with a kernel of 2s - 1, VALID."""
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

MODE = Mode(weight_decay=0.0, dropout_keep_prob=0.5)


def test_vgg_equals_slims_own_at_224(graph):
  """fc7 of the center cell, whose fc6 reaches over the 7x7 cells that slim's sees; dropout lies behind fc6.

  The network without fc6 and fc7 has the same pools, from the same variables.
  """
  image = random_image(224, 224)
  with tf.variable_scope(tf.get_variable_scope(), reuse=tf.AUTO_REUSE):
    ours = backbones.VGG_16.features(tf.constant(image), MODE)
    dropped = backbones.VGG_16.features(tf.constant(image), dataclasses.replace(MODE, dropout=True))
    trunk = backbones.VGG_16_TRUNK.features(tf.constant(image), MODE)
    names = {v.op.name: v.shape.as_list() for v in slim.get_model_variables()}
    with slim.arg_scope(slim.nets.vgg.vgg_arg_scope()):
      _, slims = slim.nets.vgg.vgg_16(tf.constant(image) - [123.68, 116.78, 103.94], 11, is_training=False)
  slims = {name.rpartition('/')[2]: end_point for name, end_point in slims.items()}  # slim names a second build anew
  new = {v.op.name: v.shape.as_list() for v in slim.get_model_variables() if v.op.name not in names}
  assert new == {'vgg_16/fc8/weights': [1, 1, 4096, 11], 'vgg_16/fc8/biases': [11]}
  pools = {name: slims[name] for name in trunk}
  ours, dropped, trunk, pools, fc7 = run(ours, dropped, trunk, pools, slims['fc7'])
  assert ours['fc7'].shape == (1, 7, 7, 4096) and fc7.shape == (1, 1, 1, 4096) and fc7.max() > 0.1
  assert list(trunk) == [f'pool{block}' for block in range(1, 6)]
  for name, value in pools.items():
    assert value.max() > 0.1
    np.testing.assert_allclose(ours[name], value, rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(trunk[name], ours[name])
  np.testing.assert_allclose(ours['fc7'][:, 3:4, 3:4], fc7, rtol=1e-3, atol=1e-4)
  np.testing.assert_array_equal(ours['fc6'], dropped['fc6'])
  assert np.abs(ours['fc7'] - dropped['fc7']).max() > 0.01


def test_resnet_equals_slims_own(graph):
  """With batch norm in training mode, which keeps an untrained network's features near one."""
  image = random_image(97, 65)
  with tf.variable_scope(tf.get_variable_scope(), reuse=tf.AUTO_REUSE):
    ours = backbones.RESNET_V1_50.features(tf.constant(image), dataclasses.replace(MODE, is_training=True))
    names = {v.op.name for v in slim.get_model_variables()}
    with slim.arg_scope(slim.nets.resnet_v1.resnet_arg_scope()):
      _, slims = slim.nets.resnet_v1.resnet_v1_50(tf.constant(image) - [123.68, 116.78, 103.94], 11, is_training=True)
  assert {v.op.name for v in slim.get_model_variables()} - names == {
      'resnet_v1_50/logits/weights', 'resnet_v1_50/logits/biases'}
  shapes = {'conv1': (1, 49, 33, 64), 'block1/unit_2/bottleneck_v1': (1, 25, 17, 256),
            'block2/unit_3/bottleneck_v1': (1, 13, 9, 512), 'block3/unit_5/bottleneck_v1': (1, 7, 5, 1024),
            'block4': (1, 4, 3, 2048)}
  assert [tap.end_point for tap in backbones.RESNET_V1_50.taps] == list(reversed(shapes))
  ours, slims = run({name: ours[name] for name in shapes}, {name: slims[f'resnet_v1_50/{name}'] for name in shapes})
  for name, shape in shapes.items():
    assert ours[name].shape == shape and ours[name].std() > 0.1
    np.testing.assert_allclose(ours[name], slims[name], atol=1e-3 * ours[name].max())


def test_features_equal_slims_own_at_299(graph, shared):
  """End point by end point, with the ImageNet weights; and slim's classifier logits from the map, averaged."""
  checkpoint = shared / 'pretrained/inception_v3.ckpt'
  if not checkpoint.exists():
    pytest.skip(f'no {checkpoint}')
  image = random_image(299, 299)
  with tf.variable_scope(tf.get_variable_scope(), reuse=tf.AUTO_REUSE):
    ours = backbones.INCEPTION_V3.features(tf.constant(image), MODE)
    with slim.arg_scope(slim.nets.inception_v3.inception_v3_arg_scope()):
      slim_logits, slims = slim.nets.inception_v3.inception_v3(
          tf.constant(image / 127.5 - 1), num_classes=11, is_training=False, scope='InceptionV3')
    with tf.variable_scope('InceptionV3'):  # the classifier as a 1x1 convolution of every cell
      score_map = slim.conv2d(ours['Mixed_7c'], 11, 1, activation_fn=None, scope='Logits/Conv2d_1c_1x1')
  names = [name for name in slims if name in ours]
  with quick_session() as session:
    restored = [v for v in tf.global_variables('InceptionV3') if 'Logits' not in v.op.name]
    assert len(restored) == 376
    tf.train.Saver(restored).restore(session, str(checkpoint))
    session.run(tf.variables_initializer(tf.global_variables('InceptionV3/Logits')))
    ours, slims, score_map, slim_logits = session.run(
        [{n: ours[n] for n in names}, {n: slims[n] for n in names}, score_map, slim_logits])
  assert len(names) == 18
  for name in names:
    # Batch norms folded into the convolutions round otherwise.
    np.testing.assert_allclose(ours[name], slims[name], atol=3e-5 * slims[name].max(), err_msg=name)
  np.testing.assert_allclose(score_map.mean((1, 2)), slim_logits, atol=1e-4)
