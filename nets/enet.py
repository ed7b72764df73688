"""ENet.

Paszke, Chaurasia, Kim, Culurciello, "ENet: A Deep Neural Network Architecture for Real-Time Semantic Segmentation",
arXiv:1606.02147, 2016.
"""

import functools

from nets.batch_norm import batch_norm_scope
from nets.dropout import dropout
from nets.geometry import centered, crop, mirrored_pad, spatial_size
from nets.network import Network
from nets.unpooling import max_pool, max_unpool
from utils.compat import slim, tf

SCOPE = 'enet'
STRIDE = 8  # pixels a cell of the coarsest map; the network's own sizes are multiples of it
EARLY_KEEP_PROB, KEEP_PROB = 0.99, 0.9  # for the spatial dropout in stage 1 and in all later stages (section 3)


def enet_logits(images, num_classes, mode):
  """Builds ENet as in the paper's Table 1, with encoder and decoder trained together.

  Convolutions before a batch norm have no bias, which would do nothing there; the last one has. Table 1 leaves the
  kernel of the last full convolution open: here it is 3x3, as section 3 has it for the others.

  Args:
    images: as of Network.logits. The network sees them in [-1, 1], mirrored at their borders to the next multiple of
      8 pixels. Of images of N bands, stages 0 and 5 have 13 + N channels instead of 16: the image itself is a part of
      stage 0's output, whose positions of maxima stage 5 takes.
    num_classes: number of classes.
    mode: a Mode. Spatial dropout by default keeps the paper's 0.99 in stage 1 and 0.9 after it.

  Returns:
    logits: float32 [B, H, W, num_classes]; a pixel belongs to the same pixel of the images.
    end_points: dict from the blocks' names in Table 1 to activations; bottlenecks of stage 3 are numbered from 3.1, as
      those of stage 2 that they repeat.
  """
  size = spatial_size(images)
  padded = tuple((length + STRIDE - 1) // STRIDE * STRIDE for length in size)
  before = centered(size, padded)
  early, late = (functools.partial(dropout, keep_prob=mode.dropout_keep_prob or keep_prob, mode=mode,
                                   whole_channels=True) for keep_prob in (EARLY_KEEP_PROB, KEEP_PROB))
  with tf.variable_scope(SCOPE), slim.arg_scope(
      [slim.conv2d, slim.conv2d_transpose], activation_fn=prelu,
      weights_initializer=slim.variance_scaling_initializer(),
      weights_regularizer=slim.l2_regularizer(mode.weight_decay)), slim.arg_scope(
          batch_norm_scope(mode.learns_batch_norm, mode.fold_batch_norm, decay=mode.batch_norm_decay, scale=True)):
    net = mirrored_pad(images, before, padded) / 127.5 - 1.0  # [B, 8h, 8w, 3]
    end_points, pools = _encoder(net, early, late, mode.portable)
    end_points |= _decoder(end_points['bottleneck3.8'], pools, late)
    end_points['fullconv'] = slim.conv2d_transpose(
        end_points['bottleneck5.1'], num_classes, 3, stride=2, activation_fn=None, normalizer_fn=None,
        scope='fullconv')  # [B, 8h, 8w, num_classes]
  return crop(end_points['fullconv'], before, size), end_points


def prelu(features):
  """x for x > 0, alpha * x elsewhere; alpha is learned for each channel, as a variable in the current scope.

  He, Zhang, Ren, Sun, "Delving Deep into Rectifiers", ICCV 2015, section 2.1; alpha starts at 0.25 and is not decayed.

  Args:
    features: float [B, H, W, C], C known.

  Returns:
    activations of the same shape and type.
  """
  alpha = slim.model_variable('alpha', [features.shape.as_list()[3]], initializer=tf.constant_initializer(0.25))
  return tf.where(features > 0, features, alpha * features)


def _encoder(net, early, late, portable):
  """Stages 0 to 3 of Table 1.

  Args:
    net: images [B, 8h, 8w, 3] in [-1, 1].
    early: function that regularizes the branches of stage 1.
    late: the same for later stages.
    portable: see Mode.

  Returns:
    end_points: dict; its last is `bottleneck3.8`, [B, h, w, 128].
    pools: tokens of the two max poolings of the bottlenecks that downsample, for the decoder.
  """
  end_points, pools = {}, []
  net = end_points['initial'] = _initial(net)  # [B, 4h, 4w, 16]; 13 + N of N bands
  for stage, channels, regularize, convs in [
      (1, 64, early, [_square] * 4),  # [B, 2h, 2w, 64]
      (2, 128, late, _CONTEXT),  # [B, h, w, 128]
      (3, 128, late, _CONTEXT),  # [B, h, w, 128]
  ]:
    if stage < 3:
      name = f'bottleneck{stage}.0'
      net, token = _downsampling(net, channels, regularize, name, portable)
      end_points[name] = net
      pools.append(token)
    for number, conv in enumerate(convs, start=1):
      name = f'bottleneck{stage}.{number}'
      net = end_points[name] = _bottleneck(net, regularize, name, conv)
  return end_points, pools


def _decoder(net, pools, regularize):
  """Stages 4 and 5 of Table 1: from [B, h, w, 128] to [B, 4h, 4w, 16]. Returns the dict of end points.

  A stage has as many channels as the map whose pooling it undoes: 64 and 16.
  """
  end_points = {}
  for stage, bottlenecks in [
      (4, 2),  # [B, 2h, 2w, 64]
      (5, 1),  # [B, 4h, 4w, 16]
  ]:
    name, token = f'bottleneck{stage}.0', pools.pop()
    net = end_points[name] = _upsampling(net, token.pooled.shape.as_list()[3], token, regularize, name)
    for number in range(1, bottlenecks + 1):
      name = f'bottleneck{stage}.{number}'
      net = end_points[name] = _bottleneck(net, regularize, name, _square)
  return end_points


def _initial(images):
  """Figure 2a: 13 filters of stride 2 beside the pooled image."""
  with tf.variable_scope('initial'):
    filtered = slim.conv2d(images, 13, 3, stride=2, activation_fn=None, normalizer_fn=None, biases_initializer=None,
                           scope='conv')
    net = tf.concat([filtered, slim.max_pool2d(images, 2)], axis=3)
    return prelu(slim.batch_norm(net, scope='BatchNorm'))


def _bottleneck(net, regularize, name, conv):
  """Figure 2b: a projection to a quarter of the channels, `conv`, an expansion back, added to the input."""
  channels = net.shape.as_list()[3]
  with tf.variable_scope(name):
    branch = slim.conv2d(net, channels // 4, 1, scope='projection')  # [B, H, W, channels / 4]
    branch = _expansion(conv(branch), channels, regularize)  # [B, H, W, channels]
    return prelu(net + branch)


def _downsampling(net, channels, regularize, name, portable):
  """A bottleneck to half the resolution, beside max pooling that is padded with zeros to `channels`.

  Returns:
    result: [B, H/2, W/2, channels].
    token: token of the pooling.
  """
  with tf.variable_scope(name):
    branch = slim.conv2d(net, channels // 4, 2, stride=2, scope='projection')  # [B, H/2, W/2, channels / 4]
    branch = _expansion(_square(branch), channels, regularize)  # [B, H/2, W/2, channels]
    pooled, token = max_pool(net, portable)
    pooled = tf.pad(pooled, [[0, 0]] * 3 + [[0, channels - net.shape.as_list()[3]]])
    return prelu(pooled + branch), token


def _upsampling(net, channels, token, regularize, name):
  """A bottleneck to twice the resolution, beside max unpooling to the positions of the maxima in `token`."""
  with tf.variable_scope(name):
    branch = slim.conv2d(net, channels // 4, 1, scope='projection')  # [B, h, w, channels / 4]
    branch = slim.conv2d_transpose(branch, channels // 4, 3, stride=2, scope='conv')  # [B, 2h, 2w, channels / 4]
    branch = _expansion(branch, channels, regularize)  # [B, 2h, 2w, channels]
    main = slim.conv2d(net, channels, 1, activation_fn=None, scope='main')  # [B, h, w, channels]
    return prelu(max_unpool(main, token) + branch)


def _expansion(branch, channels, regularize):
  """The last convolution of a branch, without PReLU, and its regularizer."""
  return regularize(slim.conv2d(branch, channels, 1, activation_fn=None, scope='expansion'))


def _square(branch, rate=1):
  """A 3x3 convolution, dilated by `rate`."""
  return slim.conv2d(branch, branch.shape.as_list()[3], 3, rate=rate, scope='conv')


def _asymmetric(branch):
  """A 5x5 convolution in two factors, with nothing between them."""
  channels = branch.shape.as_list()[3]
  branch = slim.conv2d(branch, channels, [5, 1], activation_fn=None, normalizer_fn=None, biases_initializer=None,
                       scope='conv_5x1')
  return slim.conv2d(branch, channels, [1, 5], scope='conv_1x5')


# Convolutions of bottlenecks 1 to 8 of stages 2 and 3.
_CONTEXT = (
    _square,
    functools.partial(_square, rate=2),
    _asymmetric,
    functools.partial(_square, rate=4),
    _square,
    functools.partial(_square, rate=8),
    _asymmetric,
    functools.partial(_square, rate=16),
)

ENET = Network(
    name='enet',
    build=enet_logits,
    weight_decay=2e-4,  # the paper's (section 5.2)
    most_bands=51,  # stage 0's 13 + N channels are padded to the 64 of stage 1
)
