"""U-Net.

Ronneberger, Fischer, Brox, "U-Net: Convolutional Networks for Biomedical Image Segmentation", MICCAI 2015.
"""

import numpy as np

from nets.geometry import mirrored_pad, spatial_size
from nets.network import Network
from utils.compat import slim, tf

SCOPE = 'unet'
CHANNELS = (64, 128, 256, 512, 1024)  # of each level, from full resolution to a sixteenth
KEEP_PROB = 0.5  # as in the authors' own network; the paper gives no number
MARGIN = 92  # pixels that the VALID convolutions take on each side
SIZE_STEP, SIZE_BASE = 16, 4  # outputs of 16k + 4 pixels drop none: all poolings see even sizes


def unet_logits(images, num_classes, is_training, *, skip=None, dropout=None, dropout_keep_prob=None,
                freeze_batch_norm=False, batch_norm_decay=0.99, weight_decay=4e-5):
  """Builds U-Net as in the paper's Figure 1, with a ReLU also after each up-convolution as in the authors' network.

  Dropout is around the lowest two convolutions. The authors' network has it also before the last max pooling, whose
  maxima are larger then in training than at inference: trained on two CamVid images until all their pixels were right,
  it had a mean IoU of 0.81 on them at inference; as it is here, 0.996.

  Nothing is normalized, as in the paper: its initialization (section 3) keeps the features' variance near one instead.
  Of the paper's loss weights (equation 2), --class_weights covers the balance of classes. The term for borders between
  touching objects of one class is left out: labels of classes do not tell such objects apart.

  Args:
    images: float32 [B, H, W, 3], RGB in 0..255, any H and W from 1, known or not. The network sees them in [-1, 1],
      mirrored at their borders (the paper's overlap-tile strategy) by 92 pixels and to a size it can halve four times.
    num_classes: number of classes.
    is_training: only what `dropout` falls back on.
    skip: unused; there are no skips to choose.
    dropout: whether dropout drops; None: as `is_training`.
    dropout_keep_prob: kept by dropout; None: 0.5.
    freeze_batch_norm: unused; there is no batch norm.
    batch_norm_decay: unused.
    weight_decay: weight of the L2 loss on convolution weights.

  Returns:
    logits: float32 [B, H, W, num_classes]; a pixel belongs to the same pixel of the images.
    end_points: dict with `down_0` .. `down_4`, `up_3` .. `up_0`, by level, and `score`.
  """
  del skip, freeze_batch_norm, batch_norm_decay
  dropout = is_training if dropout is None else dropout
  size = spatial_size(images)
  valid = tuple((length - SIZE_BASE + SIZE_STEP - 1) // SIZE_STEP * SIZE_STEP + SIZE_BASE for length in size)
  offset = tuple((total - length) // 2 for total, length in zip(valid, size))
  net = mirrored_pad(images, tuple(MARGIN + first for first in offset), tuple(2 * MARGIN + total for total in valid))
  with tf.variable_scope(SCOPE), slim.arg_scope(
      [slim.conv2d, slim.conv2d_transpose], padding='VALID', weights_regularizer=slim.l2_regularizer(weight_decay)):
    end_points = _contracting(net / 127.5 - 1.0, dropout, dropout_keep_prob or KEEP_PROB)
    end_points |= _expanding(end_points)
    score = end_points['score'] = slim.conv2d(
        end_points['up_0'], num_classes, 1, activation_fn=None, weights_initializer=he_normal(CHANNELS[0]),
        scope='score')
  return score[:, offset[0]:offset[0] + size[0], offset[1]:offset[1] + size[1], :], end_points


def he_normal(connections):
  """Initializer of the paper's section 3: Gaussian, standard deviation sqrt(2 / N) for N connections to a neuron."""
  return tf.random_normal_initializer(stddev=np.sqrt(2 / connections))


def _contracting(net, dropout, keep_prob):
  """The left side: from images [B, 16k + 188, 16m + 188, 3] down to `down_4`, [B, k + 4, m + 4, 1024]."""
  end_points = {}
  for level, channels in enumerate(CHANNELS):
    lowest = level == len(CHANNELS) - 1
    if level > 0:
      net = slim.max_pool2d(net, 2)
    if lowest:
      net = slim.dropout(net, keep_prob, is_training=dropout, scope='dropout_in')
    net = _two_convolutions(net, channels, f'down_{level}')
    if lowest:
      net = slim.dropout(net, keep_prob, is_training=dropout, scope='dropout_out')
    end_points[f'down_{level}'] = net
  return end_points


def _expanding(contracted):
  """The right side: from `down_4` up to `up_0`, each level with the cropped features of the left one beside it."""
  end_points = {}
  net = contracted[f'down_{len(CHANNELS) - 1}']
  for level in reversed(range(len(CHANNELS) - 1)):
    # Kernel and stride are equal, so that each pixel comes from one cell: all its channels are the connections.
    net = slim.conv2d_transpose(net, CHANNELS[level], 2, stride=2, scope=f'upconv_{level}',
                                weights_initializer=he_normal(CHANNELS[level + 1]))
    beside = _center_crop(contracted[f'down_{level}'], spatial_size(net))
    net = _two_convolutions(tf.concat([beside, net], axis=3), CHANNELS[level], f'up_{level}')
    end_points[f'up_{level}'] = net
  return end_points


def _two_convolutions(net, channels, scope):
  with tf.variable_scope(scope):
    for name in ('conv_1', 'conv_2'):
      initializer = he_normal(9 * net.shape.as_list()[3])
      net = slim.conv2d(net, channels, 3, weights_initializer=initializer, scope=name)
  return net


def _center_crop(features, size):
  """The middle of [B, H, W, C] in `size` (height, width); what is cut off is even, so that both sides lose the same."""
  top, left = ((length - cropped) // 2 for length, cropped in zip(spatial_size(features), size))
  return features[:, top:top + size[0], left:left + size[1], :]


UNET = Network(name='unet', logits=unet_logits)
