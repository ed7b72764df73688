"""Feature extractors from tf_slim, and where each one's cells lie in its input."""

import dataclasses
import functools
from collections.abc import Callable

from nets.batch_norm import batch_norm_scope
from nets.geometry import mirrored_pad, spatial_size
from utils.compat import slim, tf

RGB_MEANS = (123.68, 116.78, 103.94)  # of ImageNet, which slim's preprocessing for VGG and ResNet v1 subtracts


@dataclasses.dataclass(frozen=True)
class Tap:
  """A feature map that is scored.

  Attributes:
    end_point: slim's name for it.
    stride: input pixels between two cells.
    first: position of the centre of cell 0, in input pixels; may be fractional.
    scale: factor on the features before they are scored.
  """
  end_point: str
  stride: int
  first: float
  scale: float = 1.0


@dataclasses.dataclass(frozen=True)
class Backbone:
  """A classification network without its classifier.

  Attributes:
    name: what `--net` calls the FCN on it.
    features: `features(images, is_training, *, freeze_batch_norm, batch_norm_decay, weight_decay, dropout,
      dropout_keep_prob)` -> dict of end points; images are float32 [B, H, W, 3], RGB in 0..255, of a size that
      `size_step` and `size_base` allow.
    taps: the maps to score, the coarsest first; each stride is half of the one before.
    size_step: valid input sizes are size_step * k + size_base with k = 1, 2, ...: those drop no pixel.
    size_base: see size_step.
    margin: least padding on each side, so that every image pixel lies where the upsampled scores reach.
    scopes: variable scopes that its ImageNet checkpoint fills.
    batch_norm: whether it has batch norms.
    dropout_keep_prob: kept by the dropout before the coarsest score layer, the value of slim's classifier.
  """
  name: str
  features: Callable
  taps: tuple
  size_step: int
  size_base: int
  margin: int
  scopes: tuple
  batch_norm: bool
  dropout_keep_prob: float

  @property
  def skips(self):
    """Names of the FCNs over this backbone after the stride of the finest tap used: '32s', '16s', ..."""
    return tuple(f'{tap.stride}s' for tap in self.taps)


def _inception_features(images, is_training, *, base, scope, freeze_batch_norm, batch_norm_decay, weight_decay,
                        **unused):
  """Features of the Inception that slim's function `base` builds under `scope`."""
  del unused
  # One scope for all three: those of v1 and v2 say the same and have no argument for the decay.
  arg_scope = slim.nets.inception_v3.inception_v3_arg_scope(
      weight_decay=weight_decay, batch_norm_decay=batch_norm_decay)
  with slim.arg_scope(arg_scope), slim.arg_scope(batch_norm_scope(is_training and not freeze_batch_norm)):
    # Images enter slim's nets in [-1, 1]. The scope is named: a default name would not be shared by a second build.
    _, end_points = base(images / 127.5 - 1.0, scope=scope)
  return end_points


def _resnet_v1_features(images, is_training, *, net, scope, freeze_batch_norm, batch_norm_decay, weight_decay,
                        **unused):
  """Features of the ResNet that slim's function `net` builds under `scope`; end points are named without it."""
  del unused
  learns = is_training and not freeze_batch_norm
  with slim.arg_scope(slim.nets.resnet_v1.resnet_arg_scope(
      weight_decay=weight_decay, batch_norm_decay=batch_norm_decay)), slim.arg_scope(batch_norm_scope(learns)):
    _, end_points = net(images - RGB_MEANS, is_training=learns, global_pool=False, scope=scope)
  return {name.rpartition(f'{scope}/')[2]: end_point for name, end_point in end_points.items()}


def _vgg_features(images, is_training, *, scope, repeats, weight_decay, dropout, dropout_keep_prob, **unused):
  """Features of a VGG up to fc7, layer by layer as in slim's vgg.py, whose own function pads fc6 by no more than VALID.

  fc6 sees the 7x7 cells around each cell, mirrored beyond the borders of the map: zeros are what it has never seen on
  ImageNet, and padding the image instead, by 100 pixels as in the FCN paper, doubles the time.
  """
  del is_training, unused
  net, end_points = images - RGB_MEANS, {}
  with tf.variable_scope(scope), slim.arg_scope(slim.nets.vgg.vgg_arg_scope(weight_decay=weight_decay)):
    for block, (layers, depth) in enumerate(zip(repeats, (64, 128, 256, 512, 512)), start=1):
      net = slim.repeat(net, layers, slim.conv2d, depth, 3, scope=f'conv{block}')
      end_points[f'pool{block}'] = net = slim.max_pool2d(net, 2, scope=f'pool{block}')
    net = mirrored_pad(net, (3, 3), tuple(length + 6 for length in spatial_size(net)))
    end_points['fc6'] = net = slim.conv2d(net, 4096, 7, padding='VALID', scope='fc6')
    net = slim.dropout(net, dropout_keep_prob, is_training=dropout, scope='dropout6')
    end_points['fc7'] = slim.conv2d(net, 4096, 1, scope='fc7')
  return end_points


# GoogLeNet, with batch norm. SAME padding: with inputs of 32k + 1 pixels every window of an odd kernel is centred on a
# cell, and cell 0 lies on pixel 0. The last pool, 2x2, is centred between two cells (its last one has but one to pool).
INCEPTION_V1 = Backbone(
    name='inception_v1',
    features=functools.partial(
        _inception_features, base=slim.nets.inception_v1.inception_v1_base, scope='InceptionV1'),
    taps=(Tap('Mixed_5c', 32, 8), Tap('Mixed_4f', 16, 0), Tap('Mixed_3c', 8, 0), Tap('Conv2d_2c_3x3', 4, 0),
          Tap('Conv2d_1a_7x7', 2, 0)),
    size_step=32,
    size_base=1,
    margin=0,
    scopes=('InceptionV1',),
    batch_norm=True,
    dropout_keep_prob=0.8,
)

INCEPTION_V2 = Backbone(
    name='inception_v2',
    features=functools.partial(
        _inception_features, base=slim.nets.inception_v2.inception_v2_base, scope='InceptionV2'),
    # SAME padding and odd kernels only: inputs of 32k + 1 pixels have cells on both their border pixels.
    taps=(Tap('Mixed_5c', 32, 0), Tap('Mixed_4e', 16, 0), Tap('Mixed_3c', 8, 0), Tap('Conv2d_2c_3x3', 4, 0),
          Tap('Conv2d_1a_7x7', 2, 0)),
    size_step=32,
    size_base=1,
    margin=0,
    scopes=('InceptionV2',),
    batch_norm=True,
    dropout_keep_prob=0.8,
)

INCEPTION_V3 = Backbone(
    name='inception_v3',
    features=functools.partial(
        _inception_features, base=slim.nets.inception_v3.inception_v3_base, scope='InceptionV3'),
    # VALID padding in the stem and both reductions puts the centres here; sizes 32k + 43 give k, 2k + 1, 4k + 3,
    # 8k + 7 and 16k + 19 cells.
    taps=(Tap('Mixed_7c', 32, 37), Tap('Mixed_6e', 16, 21), Tap('Mixed_5d', 8, 13), Tap('Conv2d_4a_3x3', 4, 9),
          Tap('Conv2d_2b_3x3', 2, 3)),
    size_step=32,
    size_base=43,
    margin=6,  # a transposed convolution of stride s and kernel 2s - 1 starts at input pixel 6 for s = 4, 8, 16 and 32
    scopes=('InceptionV3',),
    batch_norm=True,
    dropout_keep_prob=0.8,
)


def _resnet_v1(name, units):
  """The Backbone of a ResNet v1 whose blocks have so many units.

  slim puts the stride of a block into its last unit, so that the deepest map at strides 4, 8 and 16 is the last but
  one unit of blocks 1, 2 and 3. All windows are odd and padded equally on both sides, given inputs of 32k + 1 pixels.
  """
  return Backbone(
      name=name,
      features=functools.partial(_resnet_v1_features, net=getattr(slim.nets.resnet_v1, name), scope=name),
      taps=(Tap('block4', 32, 0), Tap(f'block3/unit_{units[2] - 1}/bottleneck_v1', 16, 0),
            Tap(f'block2/unit_{units[1] - 1}/bottleneck_v1', 8, 0),
            Tap(f'block1/unit_{units[0] - 1}/bottleneck_v1', 4, 0), Tap('conv1', 2, 0)),
      size_step=32,
      size_base=1,
      margin=0,
      scopes=(name,),
      batch_norm=True,
      dropout_keep_prob=1.0,  # its classifier has none
  )


RESNET_V1_50 = _resnet_v1('resnet_v1_50', (3, 4, 6, 3))
RESNET_V1_101 = _resnet_v1('resnet_v1_101', (3, 4, 23, 3))


def _vgg(name, repeats):
  """The Backbone of a VGG with so many convolutions before each pool; its 2x2 pools lie on half pixels.

  The scales bring the pools, which no batch norm keeps near one as it does elsewhere, near the size of fc7's features.
  They do the work of the paper's, for at-once training by SGD 0.01 and 0.0001.
  """
  return Backbone(
      name=name,
      features=functools.partial(_vgg_features, scope=name, repeats=repeats),
      taps=(Tap('fc7', 32, 15.5), Tap('pool4', 16, 7.5, scale=0.01), Tap('pool3', 8, 3.5, scale=0.01),
            Tap('pool2', 4, 1.5, scale=0.01), Tap('pool1', 2, 0.5, scale=0.01)),
      size_step=32,
      size_base=0,
      margin=0,
      scopes=(name,),
      batch_norm=False,
      dropout_keep_prob=0.5,
  )


VGG_16 = _vgg('vgg_16', (2, 2, 3, 3, 3))
VGG_19 = _vgg('vgg_19', (2, 2, 4, 4, 4))
