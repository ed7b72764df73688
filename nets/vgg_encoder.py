"""The convolutions of VGG-16 with batch norm, and the way back up, which SegNet and DeconvNet share.

The convolutions have slim's names and shapes (`vgg_16/conv1/conv1_1/weights`), so that slim's ImageNet checkpoint of
VGG-16 fills them; batch norms, which the checkpoint does not hold, lie in the network's own scope.

VGG's biases are restored with the weights, as the released models of both papers do, though a batch norm that learns
subtracts them again with the mean.
"""

import contextlib

from nets.backbones import VGG_CHANNELS, VGG_LAYERS
from nets.unpooling import max_unpool
from utils.compat import slim, tf

VGG_SCOPE = 'vgg_16'
LAYERS, CHANNELS = VGG_LAYERS[VGG_SCOPE], VGG_CHANNELS  # of each block; a pooling follows each block


@contextlib.contextmanager
def arg_scope(mode):
  """Settings of all layers: batch norm then ReLU after each convolution, initial weights as by He et al., ICCV 2015.

  A convolution before a batch norm has no bias, which would do nothing there, unless it is one of VGG's.

  Args:
    mode: a Mode whose weight_decay is a number.
  """
  with slim.arg_scope(
      [slim.conv2d, slim.conv2d_transpose], normalizer_fn=slim.batch_norm,
      weights_initializer=slim.variance_scaling_initializer(),
      weights_regularizer=slim.l2_regularizer(mode.weight_decay)), slim.arg_scope(
          [slim.batch_norm], is_training=mode.learns_batch_norm, decay=mode.batch_norm_decay, scale=True):
    yield


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
    token: PoolToken of the pooling that is undone.
    names: variable scopes of the layers.
    channels: number of outputs of each layer.

  Returns:
    float [B, H, W, channels[-1]].
  """
  features = max_unpool(features, token)  # [B, H, W, C]
  for name, depth in zip(names, channels):
    features = slim.conv2d(features, depth, 3, scope=name)
  return features


def mirrored_channels(block):
  """Outputs of the layers on the way up through a block: as many layers as on the way down.

  The last layer has the outputs of the block before, (512, 512, 256) for block 4; in block 1 its own, (64, 64).
  """
  depth = CHANNELS[block - 1]
  return (depth,) * (LAYERS[block - 1] - 1) + (CHANNELS[max(block - 2, 0)],)
