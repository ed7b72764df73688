"""A tiny FCN for tests of programs: all options of the large ones, built and run in a fraction of their time."""

import unittest.mock

from nets import NETWORKS
from nets.backbones import Backbone, Tap
from nets.batch_norm import batch_norm_scope
from nets.fcn import fcn
from utils.compat import slim, tf

NAME, SCOPE = 'tiny', 'Tiny'
CHANNELS = (8, 8, 16, 16, 32)  # of conv1 to conv5; each halves the resolution


def _features(images, mode):
  """Features of five 3x3 convolutions of stride 2 with batch norm: `conv1` to `conv5`.

  The mean over the image is added to conv5, so that every cell sees all of the image, as in a large network: results in
  tiles are others than in one piece.
  """
  net, end_points = images / 127.5 - 1.0, {}  # [B, 32k + 1, 32k + 1, 3]
  with tf.variable_scope(SCOPE), slim.arg_scope(
      [slim.conv2d], weights_regularizer=slim.l2_regularizer(mode.weight_decay)), slim.arg_scope(
          batch_norm_scope(mode.learns_batch_norm, mode.fold_batch_norm, decay=mode.batch_norm_decay)):
    for number, channels in enumerate(CHANNELS, start=1):
      # Cell 0 of each map lies on pixel 0: SAME pads odd lengths by as much on both sides.
      net = end_points[f'conv{number}'] = slim.conv2d(net, channels, 3, stride=2, scope=f'conv{number}')
  end_points['conv5'] = net + tf.reduce_mean(net, axis=(1, 2), keepdims=True)
  return end_points


TINY = fcn(Backbone(
    name=NAME,
    features=_features,
    taps=tuple(Tap(f'conv{number}', 2**number, 0) for number in range(len(CHANNELS), 0, -1)),
    size_step=32,
    size_base=1,
    margin=0,
    scopes=(SCOPE,),
    batch_norm=True,
    dropout_keep_prob=0.8,
))


def registered():
  """A context in which --net knows the tiny FCN."""
  return unittest.mock.patch.dict(NETWORKS, {NAME: TINY})
