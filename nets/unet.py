"""U-Net.

Ronneberger, Fischer, Brox, "U-Net: Convolutional Networks for Biomedical Image Segmentation", MICCAI 2015.
"""

import functools

import numpy as np

from nets.dropout import dropout
from nets.geometry import centered, crop, mirrored_pad, spatial_size
from nets.network import Network
from utils.compat import slim, tf

SCOPE = 'unet'
CHANNELS = (64, 128, 256, 512, 1024)  # channels of each level, from full resolution to a sixteenth
KEEP_PROB = 0.5  # as in the authors' own network; the paper gives no number
MARGIN = 92  # pixels that the VALID convolutions take on each side
SIZE_STEP, SIZE_BASE = 16, 4  # outputs of 16k + 4 pixels drop none: all poolings see even sizes


def unet_logits(images, num_classes, mode):
  """Builds U-Net as in the paper's Figure 1, with a ReLU also after each up-convolution as in the authors' network.

  Dropout is around the lowest two convolutions. The authors' network has dropout also before the last max pooling,
  whose maxima are then larger in training than at inference: trained on two CamVid images until all their pixels were
  right, it had a mean IoU of 0.81 on them at inference; the network here has 0.996.

  Nothing is normalized, as in the paper: its initialization (section 3) keeps the features' variance near one instead.
  Of the paper's loss weights (equation 2), --class_weights covers the balance of classes. The term for borders between
  touching objects of one class is left out: labels of classes do not tell such objects apart.

  Args:
    images: as of Network.logits. The network sees them in [-1, 1], mirrored at their borders (the paper's overlap-tile
      strategy) by 92 pixels and to a size that can be halved four times.
    num_classes: number of classes.
    mode: a Mode. Dropout keeps 0.5 by default.

  Returns:
    logits: float32 [B, H, W, num_classes]; a pixel belongs to the same pixel of the images.
    end_points: dict with `down_0` .. `down_4`, `up_3` .. `up_0`, by level, and `score`.
  """
  size = spatial_size(images)
  valid = tuple((length - SIZE_BASE + SIZE_STEP - 1) // SIZE_STEP * SIZE_STEP + SIZE_BASE for length in size)
  before = centered(size, valid)
  # [B, 16k + 188, 16m + 188, 3]
  net = mirrored_pad(images, tuple(MARGIN + first for first in before), tuple(2 * MARGIN + total for total in valid))
  with tf.variable_scope(SCOPE), slim.arg_scope(
      [slim.conv2d, slim.conv2d_transpose], padding='VALID',
      weights_regularizer=slim.l2_regularizer(mode.weight_decay)):
    end_points = _contracting(net / 127.5 - 1.0, mode)
    end_points |= _expanding(end_points)
    score = end_points['score'] = slim.conv2d(
        end_points['up_0'], num_classes, 1, activation_fn=None, weights_initializer=he_normal(CHANNELS[0]),
        scope='score')  # [B, 16k + 4, 16m + 4, num_classes]
  return crop(score, before, size), end_points


def he_normal(connections):
  """Initializer of the paper's section 3: Gaussian, standard deviation sqrt(2 / N) for N connections to a neuron."""
  return tf.random_normal_initializer(stddev=np.sqrt(2 / connections))


def _contracting(net, mode):
  """The left side: from images [B, 16k + 188, 16m + 188, 3] down to `down_4`, [B, k + 4, m + 4, 1024]."""
  drop = functools.partial(dropout, keep_prob=mode.dropout_keep_prob or KEEP_PROB, mode=mode)
  end_points = {}
  for level, channels in enumerate(CHANNELS):
    lowest = level == len(CHANNELS) - 1
    if level > 0:
      net = slim.max_pool2d(net, 2)
    if lowest:
      net = drop(net, scope='dropout_in')
    net = _two_convolutions(net, channels, f'down_{level}')
    if lowest:
      net = drop(net, scope='dropout_out')
    end_points[f'down_{level}'] = net
  # down_0 to down_4: [B, 16k + 184, 16m + 184, 64], [B, 8k + 88, 8m + 88, 128], [B, 4k + 40, 4m + 40, 256],
  # [B, 2k + 16, 2m + 16, 512], [B, k + 4, m + 4, 1024]
  return end_points


def _expanding(contracted):
  """The right side: from `down_4` up to `up_0`, each level beside the cropped features of the left one."""
  end_points = {}
  net = contracted[f'down_{len(CHANNELS) - 1}']
  for level in reversed(range(len(CHANNELS) - 1)):
    # Kernel and stride are equal, so that each pixel comes from one cell: all its channels are the connections.
    net = slim.conv2d_transpose(net, CHANNELS[level], 2, stride=2, scope=f'upconv_{level}',
                                weights_initializer=he_normal(CHANNELS[level + 1]))
    beside = _center_crop(contracted[f'down_{level}'], spatial_size(net))
    net = _two_convolutions(tf.concat([beside, net], axis=3), CHANNELS[level], f'up_{level}')
    end_points[f'up_{level}'] = net
  # up_3 to up_0: [B, 2k + 4, 2m + 4, 512], [B, 4k + 4, 4m + 4, 256], [B, 8k + 4, 8m + 4, 128],
  # [B, 16k + 4, 16m + 4, 64]
  return end_points


def _two_convolutions(net, channels, scope):
  """Two VALID 3x3 convolutions with ReLU: from [B, H, W, C] to [B, H - 4, W - 4, channels]."""
  with tf.variable_scope(scope):
    for name in ('conv_1', 'conv_2'):
      initializer = he_normal(9 * net.shape.as_list()[3])
      net = slim.conv2d(net, channels, 3, weights_initializer=initializer, scope=name)
  return net


def _center_crop(features, size):
  """The middle of [B, H, W, C] in `size` (height, width); margins are even, so that both sides lose the same."""
  return crop(features, centered(size, spatial_size(features)), size)


UNET = Network(
    name='unet',
    build=unet_logits,
    weight_decay=4e-5,  # the FCNs' value; the paper names none
)
