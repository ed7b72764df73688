"""ENet.

Paszke, Chaurasia, Kim, Culurciello, "ENet: A Deep Neural Network Architecture for Real-Time Semantic Segmentation",
arXiv:1606.02147, 2016.
"""

import functools

from nets.batch_norm import batch_norm_scope
from nets.geometry import mirrored_pad, spatial_size
from nets.network import Network
from nets.unpooling import max_pool, max_unpool
from utils.compat import slim, tf

SCOPE = 'enet'
STRIDE = 8  # pixels a cell of the coarsest map; the network's own sizes are multiples of it
EARLY_KEEP_PROB, KEEP_PROB = 0.99, 0.9  # of the spatial dropout in stage 1 and in all later ones (section 3)


def enet_logits(images, num_classes, is_training, *, skip=None, dropout=None, dropout_keep_prob=None,
                freeze_batch_norm=False, batch_norm_decay=0.99, weight_decay=2e-4):
  """Builds ENet as in the paper's Table 1, with encoder and decoder trained together.

  Convolutions before a batch norm have no bias, which would do nothing there; the last one has. Table 1 leaves the
  kernel of the last full convolution open: here it is 3x3, as section 3 has it for the others.

  Args:
    images: float32 [B, H, W, 3], RGB in 0..255, any H and W from 1, known or not. The network sees them in [-1, 1],
      mirrored at their borders to the next multiple of 8 pixels.
    num_classes: number of classes.
    is_training: whether batch norm, unless frozen, uses the batch's statistics.
    skip: unused; there are no skips to choose.
    dropout: whether spatial dropout drops; None: as `is_training`.
    dropout_keep_prob: kept by it everywhere; None: the paper's 0.99 in stage 1 and 0.9 after it.
    freeze_batch_norm: keep batch norm at its moving averages while training.
    batch_norm_decay: decay of the moving averages.
    weight_decay: weight of the L2 loss on convolution weights; the default is the paper's (section 5.2).

  Returns:
    logits: float32 [B, H, W, num_classes]; a pixel belongs to the same pixel of the images.
    end_points: dict from the blocks' names in Table 1 to activations; bottlenecks of stage 3 are numbered from 3.1, as
      those of stage 2 that they repeat.
  """
  del skip
  size = spatial_size(images)
  padded = tuple((length + STRIDE - 1) // STRIDE * STRIDE for length in size)
  before = tuple((total - length) // 2 for total, length in zip(padded, size))
  dropout = is_training if dropout is None else dropout
  early, late = (functools.partial(_spatial_dropout, dropout=dropout, keep_prob=dropout_keep_prob or keep_prob)
                 for keep_prob in (EARLY_KEEP_PROB, KEEP_PROB))
  with tf.variable_scope(SCOPE), slim.arg_scope(
      [slim.conv2d, slim.conv2d_transpose], activation_fn=prelu,
      weights_initializer=slim.variance_scaling_initializer(),
      weights_regularizer=slim.l2_regularizer(weight_decay)), slim.arg_scope(batch_norm_scope(
          is_training and not freeze_batch_norm, decay=batch_norm_decay, scale=True)):
    net = mirrored_pad(images, before, padded) / 127.5 - 1.0
    end_points, pools = _encoder(net, early, late)
    end_points |= _decoder(end_points['bottleneck3.8'], pools, late)
    end_points['fullconv'] = slim.conv2d_transpose(
        end_points['bottleneck5.1'], num_classes, 3, stride=2, activation_fn=None, normalizer_fn=None,
        scope='fullconv')
  logits = end_points['fullconv'][:, before[0]:before[0] + size[0], before[1]:before[1] + size[1], :]
  return logits, end_points


def prelu(features):
  """x where it is above 0 and alpha x elsewhere; alpha is learned for each channel, a variable in the current scope.

  He, Zhang, Ren, Sun, "Delving Deep into Rectifiers", ICCV 2015, section 2.1; alpha starts at 0.25 and is not decayed.

  Args:
    features: float [B, H, W, C], C known.

  Returns:
    The same shape and type.
  """
  alpha = slim.model_variable('alpha', [features.shape.as_list()[3]], initializer=tf.constant_initializer(0.25))
  return tf.where(features > 0, features, alpha * features)


def _encoder(net, early, late):
  """Stages 0 to 3 of Table 1: from [B, H, W, 3] to [B, H/8, W/8, 128].

  Args:
    net: images in [-1, 1], H and W multiples of 8.
    early: function that regularizes the branches of stage 1.
    late: the same for later stages.

  Returns:
    end_points: dict.
    pools: tokens of the two max poolings of the bottlenecks that downsample, for the decoder.
  """
  end_points, pools = {}, []
  net = end_points['initial'] = _initial(net)
  for stage, channels, regularize, convs in [
      (1, 64, early, [_square] * 4),
      (2, 128, late, _CONTEXT),
      (3, 128, late, _CONTEXT),
  ]:
    if stage < 3:
      name = f'bottleneck{stage}.0'
      net, token = _downsampling(net, channels, regularize, name)
      end_points[name] = net
      pools.append(token)
    for number, conv in enumerate(convs, start=1):
      name = f'bottleneck{stage}.{number}'
      net = end_points[name] = _bottleneck(net, regularize, name, conv)
  return end_points, pools


def _decoder(net, pools, regularize):
  """Stages 4 and 5 of Table 1: from [B, h, w, 128] to [B, 4h, 4w, 16]. Returns the dict of end points."""
  end_points = {}
  for stage, channels, bottlenecks in [(4, 64, 2), (5, 16, 1)]:
    name = f'bottleneck{stage}.0'
    net = end_points[name] = _upsampling(net, channels, pools.pop(), regularize, name)
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
  """Figure 2b: a projection to a quarter of the channels, `conv`, an expansion back, added to what came in."""
  channels = net.shape.as_list()[3]
  with tf.variable_scope(name):
    branch = slim.conv2d(net, channels // 4, 1, scope='projection')
    branch = _expansion(conv(branch), channels, regularize)
    return prelu(net + branch)


def _downsampling(net, channels, regularize, name):
  """A bottleneck to half the resolution, beside max pooling that is padded with zeros to `channels`.

  Returns:
    The [B, H/2, W/2, channels] result, and the token of the pooling.
  """
  with tf.variable_scope(name):
    branch = slim.conv2d(net, channels // 4, 2, stride=2, scope='projection')
    branch = _expansion(_square(branch), channels, regularize)
    pooled, token = max_pool(net)
    pooled = tf.pad(pooled, [[0, 0]] * 3 + [[0, channels - net.shape.as_list()[3]]])
    return prelu(pooled + branch), token


def _upsampling(net, channels, token, regularize, name):
  """A bottleneck to twice the resolution, beside max unpooling to where the pooling of `token` found its maxima."""
  with tf.variable_scope(name):
    branch = slim.conv2d(net, channels // 4, 1, scope='projection')
    branch = slim.conv2d_transpose(branch, channels // 4, 3, stride=2, scope='conv')
    branch = _expansion(branch, channels, regularize)
    main = slim.conv2d(net, channels, 1, activation_fn=None, scope='main')
    return prelu(max_unpool(main, token) + branch)


def _expansion(branch, channels, regularize):
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


def _spatial_dropout(branch, *, keep_prob, dropout):
  """Drops whole channels of each image: Tompson et al., "Efficient Object Localization", CVPR 2015, section 3.2."""
  return slim.dropout(branch, keep_prob, noise_shape=[None, 1, 1, None], is_training=dropout, scope='dropout')


# The bottlenecks of stages 2 and 3 after their first.
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

ENET = Network(name='enet', logits=enet_logits)
