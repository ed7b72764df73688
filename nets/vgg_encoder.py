"""What SegNet and DeconvNet share: the convolutions of VGG-16 with batch norm, and the way back up.

The convolutions have slim's names and shapes (`vgg_16/conv1/conv1_1/weights`), so that slim's ImageNet checkpoint of
VGG-16 fills them; batch norms, which it does not hold, lie in the network's own scope.
"""

import contextlib

from nets.backbones import RGB_MEANS
from nets.unpooling import max_unpool
from utils.compat import slim, tf

VGG_SCOPE = 'vgg_16'
LAYERS = (2, 2, 3, 3, 3)  # convolutions of each block; a pooling follows each block
CHANNELS = (64, 128, 256, 512, 512)


@contextlib.contextmanager
def arg_scope(*, train_batch_norm, batch_norm_decay, weight_decay):
  """Settings of all layers: batch norm then ReLU after each convolution, weights as by He et al., ICCV 2015.

  A convolution before a batch norm has no bias, which would do nothing there, unless it is one of VGG's.

  Args:
    train_batch_norm: whether batch norm uses the batch's statistics and learns their averages.
    batch_norm_decay: decay of these averages.
    weight_decay: weight of the L2 loss on convolution weights.
  """
  with slim.arg_scope(
      [slim.conv2d, slim.conv2d_transpose], normalizer_fn=slim.batch_norm,
      weights_initializer=slim.variance_scaling_initializer(),
      weights_regularizer=slim.l2_regularizer(weight_decay)), slim.arg_scope(
          [slim.batch_norm], is_training=train_batch_norm, decay=batch_norm_decay, scale=True):
    yield


def normalize(images):
  """Images, RGB in 0..255, as slim's VGG-16 was trained on them: without ImageNet's mean color."""
  return images - RGB_MEANS


def encode_block(features, block, scope):
  """The convolutions of one of VGG's blocks.

  Args:
    features: float [B, H, W, C].
    block: number of the block, 1 to 5.
    scope: variable scope of its batch norms.

  Returns:
    float [B, H, W, CHANNELS[block - 1]].
  """
  for layer in range(1, LAYERS[block - 1] + 1):
    features = vgg_conv(features, CHANNELS[block - 1], 3, f'conv{block}/conv{block}_{layer}', scope)
  return features


def vgg_conv(features, channels, kernel, name, scope, padding='SAME'):
  """One of VGG's convolutions, batch norm and ReLU.

  Args:
    features: float [B, H, W, C].
    channels: number of outputs.
    kernel: height and width of the kernel.
    name: slim's name of the layer in VGG-16, e.g. `conv1/conv1_1`.
    scope: variable scope of the batch norm.
    padding: 'SAME' or 'VALID'.

  Returns:
    float [B, H', W', channels].
  """
  with tf.variable_scope(VGG_SCOPE):
    features = slim.conv2d(features, channels, kernel, padding=padding, activation_fn=None, normalizer_fn=None,
                           scope=name)
  with tf.variable_scope(scope):
    return slim.batch_norm(features, activation_fn=tf.nn.relu, scope=f'{name.split("/")[-1]}_bn')


def decode_block(features, token, names, channels):
  """Unpools, then a 3x3 convolution, batch norm and ReLU for each of `names`.

  Args:
    features: float [B, h, w, C].
    token: from the pooling that is undone.
    names: variable scopes of the layers.
    channels: number of outputs of each layer.

  Returns:
    float [B, H, W, channels[-1]].
  """
  features = max_unpool(features, token)
  for name, depth in zip(names, channels):
    features = slim.conv2d(features, depth, 3, scope=name)
  return features


def mirrored_channels(block):
  """Outputs of the layers on the way up through a block: as many layers as down, the last one as the block before."""
  depth = CHANNELS[block - 1]
  return (depth,) * (LAYERS[block - 1] - 1) + (CHANNELS[max(block - 2, 0)],)
