"""Every network of the registry, whatever its layers: any size, gradients, shared weights, dropout, weight decay.

A network is built once, with few channels where these make it slow, and all that is asked of it is asked of that graph.
"""

import collections
import dataclasses

import numpy as np
import pytest
from quick import quick_session

from nets import NETWORKS, deconvnet, get_network, unet, vgg_encoder
from nets.network import Mode
from utils.compat import slim, tf
from utils.errors import UserError

Built = collections.namedtuple('Built', 'name session images logits end_points')

BACKBONES = {name: network.build.args[0] for name, network in NETWORKS.items() if network.skips}

# FCNs are one function over many backbones; one FCN stands for all in tests that build a network several times.
ONE_OF_A_KIND = list({getattr(network.build, 'func', network.build): name
                      for name, network in NETWORKS.items()}.values())
FROZEN = Mode(is_training=True, dropout=False, freeze_batch_norm=True, weight_decay=0.25)


def random_start(getter, name, shape=None, initializer=None, **options):
  """Starts convolutions by He's rule, and zero-initialized variables at random: logits then depend on the image."""
  if name.endswith('weights') and '/upscore_' not in name:
    initializer = slim.variance_scaling_initializer(uniform=True)
  elif isinstance(initializer, tf.zeros_initializer):
    initializer = tf.random_normal_initializer(stddev=0.1)
  return getter(name, shape=shape, initializer=initializer, **options)


def sharing():
  """A variable scope in which all networks of the same name have the same weights."""
  return tf.variable_scope(tf.get_variable_scope(), reuse=tf.AUTO_REUSE, custom_getter=random_start)


@pytest.fixture(scope='module')
def thin():
  """The heaviest networks with few channels."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(vgg_encoder, 'CHANNELS', (8, 8, 16, 16, 16))
    patch.setattr(deconvnet, 'VGG_FC_CHANNELS', 16)
    patch.setattr(unet, 'CHANNELS', (8, 8, 16, 16, 16))
    yield


@pytest.fixture(scope='module', params=NETWORKS)
def built(request, thin):
  """A network for images of any size, as in training with frozen batch norms."""
  with tf.Graph().as_default(), quick_session() as session, sharing():
    tf.set_random_seed(1)
    images = tf.placeholder(tf.float32, [None, None, None, 3])
    logits, end_points = get_network(request.param).logits(images, 5, FROZEN)
    session.run(tf.global_variables_initializer())
    yield Built(request.param, session, images, logits, end_points)


def test_unknown_network_lists_the_known_ones():
  with pytest.raises(UserError, match='inception_v3'):
    get_network('googlenet')


@pytest.mark.parametrize('name, bands', [
    ('enet', 1), ('enet', 6), ('segnet_basic', 1), ('segnet_basic', 6), ('unet', 2), ('segnet', 6), ('deconvnet', 1),
    ('vgg_16', 6), ('inception_v1', 2)])
def test_images_of_any_number_of_bands(thin, graph, name, bands):
  """Every kind of first layer; logits depend on every band."""
  with quick_session() as session, sharing():
    images = tf.placeholder(tf.float32, [None, None, None, bands])
    logits, _ = get_network(name).logits(images, 3, Mode(weight_decay=0.0))
    session.run(tf.global_variables_initializer())
    image = np.random.default_rng(bands).uniform(0, 255, [1, 29, 37, bands])
    [gradient] = tf.gradients(tf.reduce_sum(logits**2), images)
    values, change = session.run([logits, gradient], {images: image})
  assert values.shape == (1, 29, 37, 3) and np.isfinite(values).all()
  assert np.all(np.abs(change).max(axis=(0, 1, 2)) > 0)


def test_more_bands_than_a_network_takes():
  assert {name: network.most_bands for name, network in NETWORKS.items() if network.most_bands} == {
      'enet': 51, 'inception_v2': 8}
  for name, most in (('enet', 51), ('inception_v2', 8)):
    with tf.Graph().as_default():
      logits, _ = get_network(name).logits(tf.zeros([1, 33, 41, most]), 2)
      assert logits.shape.as_list() == [1, 33, 41, 2]


def test_gray_bands_are_as_bright_as_a_gray_photograph(graph):
  """SegNet-Basic divides by brightness: a picture in N equal bands gives in each what it gives as RGB."""
  gray = np.random.default_rng(0).uniform(0, 255, [1, 9, 13, 1]).astype(np.float32)
  with quick_session() as session:
    maps = []
    for bands in (1, 3, 6):
      with tf.variable_scope(f'bands{bands}'):
        _, end_points = get_network('segnet_basic').logits(tf.constant(np.repeat(gray, bands, axis=-1)), 2)
      maps.append(session.run(end_points['lrn'])[..., :1])
  np.testing.assert_allclose(maps[0], maps[1], rtol=1e-5)
  np.testing.assert_allclose(maps[2], maps[1], rtol=1e-5)


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


def test_frozen_batch_norms_learn_no_statistics(built):
  assert built.session.graph.get_collection(tf.GraphKeys.UPDATE_OPS) == []


@pytest.mark.parametrize('built', ['inception_v3', 'inception_v1', 'resnet_v1_50', 'enet'], indirect=True)
def test_no_batch_norm_is_left_beside_a_convolution(built):
  """Frozen ones are folded into the convolutions, but for dilated ones."""
  nodes = tf.graph_util.extract_sub_graph(built.session.graph.as_graph_def(), [built.logits.op.name]).node
  types = {node.name: node.op for node in nodes}
  assert 'Conv2D' not in {types[node.input[0].split(':')[0]] for node in nodes if node.op == 'FusedBatchNormV3'}
  assert sum(node.op == 'BiasAdd' for node in nodes) > 40


def decays(graph):
  """The weights of the L2 losses of a graph, each rounded to float32, and the kernels that the losses are of."""
  losses = graph.get_collection(tf.GraphKeys.REGULARIZATION_LOSSES)
  factors = [loss.op.inputs for loss in losses]
  assert {loss.op.type for loss in losses} == {'Mul'} and {l2.op.type for _, l2 in factors} == {'L2Loss'}
  return ({float(tf.get_static_value(weight)) for weight, _ in factors},
          {l2.op.inputs[0].op.inputs[0].op.name for _, l2 in factors})


def kernels(graph):
  """Names of the kernels that decay: not upscore layers, which start as bilinear interpolation, nor separable ones."""
  return {variable.op.name for variable in graph.get_collection(tf.GraphKeys.TRAINABLE_VARIABLES)
          if variable.op.name.endswith('/weights') and '/upscore_' not in variable.op.name}


def test_weight_decay_is_the_modes(built):
  assert decays(built.session.graph) == ({0.25}, kernels(built.session.graph))


WEIGHT_DECAYS = {
    **dict.fromkeys(NETWORKS, 4e-5),  # slim's for Inception
    'enet': 2e-4,  # section 5.2
    'segnet': 5e-4, 'segnet_basic': 5e-4, 'deconvnet': 5e-4,  # the released solvers'
}


@pytest.mark.parametrize('name', NETWORKS)
def test_weight_decay_is_the_networks_own_by_default(name):
  network = dataclasses.replace(NETWORKS[name], build=lambda images, num_classes, mode: mode.weight_decay)
  assert network.logits(None, 5) == network.logits(None, 5, Mode(is_training=True)) == WEIGHT_DECAYS[name]
  assert network.logits(None, 5, Mode(weight_decay=0.0)) == 0


@pytest.mark.parametrize('mode, drops, learns', [
    (Mode(), False, False),
    (Mode(is_training=True), True, True),
    (Mode(is_training=True, dropout=False), False, True),
    (Mode(is_training=True, freeze_batch_norm=True), True, False),
    (Mode(dropout=True), True, False),
])
def test_properties_of_a_mode(mode, drops, learns):
  assert (mode.drops, mode.learns_batch_norm) == (drops, learns)


def test_shape_takes_settings_that_the_network_has():
  settings = {'skip': '16s', 'decoder_channels': 8, 'input_scale': None, 'context': 'aspp'}
  assert get_network('vgg_16').shape(settings) == {'skip': '16s', 'decoder_channels': 8}
  assert get_network('enet').shape(settings) == {} == get_network('vgg_16').shape({'skip': None})
  with pytest.raises(TypeError, match='skip'):
    get_network('enet').logits(tf.zeros([1, 8, 8, 3]), 5, skip='8s')


@pytest.mark.parametrize('built', ONE_OF_A_KIND, indirect=True)
def test_constructions_agree_but_for_dropout(built):
  """For unknown and known sizes, for inference and, with nothing dropped and batch norm frozen, for training."""
  network, graph = get_network(built.name), built.session.graph
  value = np.random.default_rng(0).uniform(0, 255, [2, 47, 82, 3]).astype(np.float32)
  with graph.as_default(), sharing():
    variables = tf.global_variables()
    known, _ = network.logits(tf.constant(value), 5)
    dropped, _ = network.logits(built.images, 5, Mode(dropout=True, dropout_keep_prob=0.5))
  assert graph.get_collection(tf.GraphKeys.GLOBAL_VARIABLES) == variables
  assert known.shape.as_list() == [2, 47, 82, 5]
  logits, known, first = built.session.run([built.logits, known, dropped], {built.images: value})
  second = built.session.run(dropped, {built.images: value})
  assert np.ptp(logits, axis=(1, 2)).max() > 1e-3 * np.abs(logits).max() > 0
  np.testing.assert_allclose(logits, known, rtol=0, atol=1e-4 * np.abs(logits).max())
  drops = any('dropout' in op.name.lower() and 'Random' in op.type for op in graph.get_operations())
  assert np.array_equal(first, second) != drops


# Trainable parameters and variables without classifier, and one of the variables with its shape. By hand: a convolution
# under batch norm has weights and an offset, in ResNet a gain as well. GoogLeNet has 57 convolutions, v2 69 (the first
# separable, with bias and no batch norm), v3 94, ResNet 53 and 104. Parameters as torchvision counts them for ResNet
# (25 557 032 and 44 549 160) and VGG (138 357 544 and 143 667 240), and Keras for v3, less the classifier's;
# for v1 and v2 as in slim's own tests, 5 607 184 and 10 173 112, less a moving mean and variance of each channel.
CHECKPOINTS = {
    'inception_v1': (5_607_184 - 2 * 7280, 2 * 57, 'InceptionV1/Mixed_5b/Branch_2/Conv2d_0a_3x3/weights',
                     [3, 3, 32, 128]),
    'inception_v2': (10_173_112 - 2 * 9888, 2 * 68 + 3, 'InceptionV2/Conv2d_1a_7x7/depthwise_weights', [7, 7, 3, 8]),
    'inception_v3': (21_768_352, 2 * 94, 'InceptionV3/Mixed_7c/Branch_1/Conv2d_0c_3x1/weights', [3, 1, 384, 384]),
    'vgg_16': (138_357_544 - 4_097_000, 2 * 15, 'vgg_16/fc6/weights', [7, 7, 512, 4096]),
    'vgg_16_trunk': (14_714_688, 2 * 13, 'vgg_16/conv5/conv5_3/weights', [3, 3, 512, 512]),
    'vgg_19': (143_667_240 - 4_097_000, 2 * 18, 'vgg_19/conv3/conv3_4/weights', [3, 3, 256, 256]),
    'resnet_v1_50': (25_557_032 - 2_049_000, 3 * 53, 'resnet_v1_50/block4/unit_1/bottleneck_v1/shortcut/weights',
                     [1, 1, 1024, 2048]),
    'resnet_v1_101': (44_549_160 - 2_049_000, 3 * 104,
                      'resnet_v1_101/block3/unit_23/bottleneck_v1/conv2/BatchNorm/gamma', [256]),
}


@pytest.mark.parametrize('built', BACKBONES, indirect=True)
def test_variables_are_those_of_the_published_checkpoint(built):
  parameters, variables, name, shape = CHECKPOINTS[built.name]
  with built.session.graph.as_default():
    shapes = {v.op.name: v.shape.as_list() for v in tf.trainable_variables() if not v.op.name.startswith('fcn/')}
  assert sum(np.prod(shape) for shape in shapes.values()) == parameters
  assert len(shapes) == variables and shapes[name] == shape
  assert {name.split('/')[0] for name in shapes} == set(BACKBONES[built.name].scopes)


@pytest.mark.parametrize('built', BACKBONES, indirect=True)
def test_the_cells_of_a_tap_are_half_of_those_of_the_next(built):
  """But for the cells that a border adds or takes."""
  with built.session.graph.as_default():
    maps = [tf.shape(built.end_points[tap.end_point])[1:3] for tap in BACKBONES[built.name].taps]
  sizes = built.session.run(maps, {built.images: np.zeros([1, 90, 141, 3])})
  for coarse, fine in zip(sizes, sizes[1:]):
    assert np.all(fine - 2 * coarse >= -1) and np.all(fine - 2 * coarse <= 5)
