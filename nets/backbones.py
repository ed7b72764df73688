"""Feature extractors from tf_slim, and the places of their cells in the input."""

import dataclasses
import functools
from collections.abc import Callable

from nets.batch_norm import batch_norm_scope
from nets.dropout import dropout
from nets.geometry import mirrored_pad, spatial_size
from utils.compat import slim, tf

RGB_MEANS = (123.68, 116.78, 103.94)  # ImageNet's mean color, subtracted by slim's preprocessing for VGG and ResNet v1

# VGG: Simonyan, Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", 2014, Table 1, columns
# D and E. Convolutions in each block, before its pool; their outputs; kernel of fc6; outputs of fc6 and fc7.
VGG_LAYERS = {'vgg_16': (2, 2, 3, 3, 3), 'vgg_19': (2, 2, 4, 4, 4)}
VGG_CHANNELS = (64, 128, 256, 512, 512)
VGG_FC_KERNEL, VGG_FC_CHANNELS = 7, 4096


@dataclasses.dataclass(frozen=True)
class Tap:
  """A feature map that is scored.

  Attributes:
    end_point: slim's name of the map.
    stride: input pixels between two cells.
    first: position of the center of cell 0, in input pixels; may be fractional.
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
    name: name of the FCN on it, as a value of `--net`.
    features: `features(images, mode)` -> dict of end points; images are float32 [B, H, W, N], RGB or other bands in
      0..255, of a size that `size_step` and `size_base` allow; weight_decay and dropout_keep_prob of the Mode are
      numbers.
    taps: the maps to score, the coarsest first; each stride is half of the one before.
    size_step: valid input sizes are size_step * k + size_base with k = 1, 2, ...: those drop no pixel.
    size_base: see size_step.
    margin: least padding on each side, in pixels, so that the upsampled scores reach every pixel of the image.
    scopes: variable scopes that its ImageNet checkpoint fills.
    batch_norm: whether it has batch norms.
    dropout_keep_prob: share of the coarsest features that dropout keeps before they are scored; slim's classifiers
      have the same.
    most_bands: see Network.
    pretrained: name of its ImageNet checkpoint, see Network; None: as `name`.
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
  most_bands: int | None = None
  pretrained: str | None = None

  @property
  def skips(self):
    """The FCNs over this backbone, named by the stride of the finest tap used: '32s', '16s', ..."""
    return tuple(f'{tap.stride}s' for tap in self.taps)


def without_mean(images, colors=None):
  """Subtracts ImageNet's mean color from images: from each band that is a color this color's mean, else the mean gray.

  Args:
    images: float32 [B, H, W, N] in 0..255.
    colors: for each band 0, 1 or 2 if it is red, green or blue, else None; None: three bands are red, green and blue in
      this order, and others no colors.

  Returns:
    float32 [B, H, W, N].
  """
  if colors is None:
    num_bands = images.shape.as_list()[3]
    colors = range(num_bands) if num_bands == len(RGB_MEANS) else [None] * num_bands
  gray = sum(RGB_MEANS) / len(RGB_MEANS)
  return images - [gray if color is None else RGB_MEANS[color] for color in colors]


def _inception_features(images, mode, *, base, scope):
  """Features of the Inception that slim's function `base` builds under `scope`."""
  # The arg_scope of v3 serves v1 and v2: their own are the same, but have no argument for the decay.
  arg_scope = slim.nets.inception_v3.inception_v3_arg_scope(
      weight_decay=mode.weight_decay, batch_norm_decay=mode.batch_norm_decay)
  with slim.arg_scope(arg_scope), slim.arg_scope(batch_norm_scope(mode.learns_batch_norm, mode.fold_batch_norm)):
    # Images enter slim's nets in [-1, 1]. The scope is named, because a second build would not share a default one.
    _, end_points = base(images / 127.5 - 1.0, scope=scope)
  return end_points


def _resnet_v1_features(images, mode, *, net, scope):
  """Features of the ResNet that slim's function `net` builds under `scope`; end points are named without the scope."""
  arg_scope = slim.nets.resnet_v1.resnet_arg_scope(
      weight_decay=mode.weight_decay, batch_norm_decay=mode.batch_norm_decay)
  with slim.arg_scope(arg_scope), slim.arg_scope(batch_norm_scope(mode.learns_batch_norm, mode.fold_batch_norm)):
    _, end_points = net(without_mean(images, mode.band_colors), is_training=mode.learns_batch_norm, global_pool=False,
                        scope=scope)
  return {name.rpartition(f'{scope}/')[2]: end_point for name, end_point in end_points.items()}


def _vgg_pools(images, mode, *, scope):
  """Features of a VGG up to pool5, layer by layer as in slim's vgg.py: the end points `pool1` to `pool5`."""
  net, end_points = without_mean(images, mode.band_colors), {}  # [B, H, W, 3]
  with tf.variable_scope(scope), slim.arg_scope(slim.nets.vgg.vgg_arg_scope(weight_decay=mode.weight_decay)):
    for block, (layers, channels) in enumerate(zip(VGG_LAYERS[scope], VGG_CHANNELS), start=1):
      net = slim.repeat(net, layers, slim.conv2d, channels, 3, scope=f'conv{block}')
      end_points[f'pool{block}'] = net = slim.max_pool2d(net, 2, scope=f'pool{block}')
  # pool1 to pool5: [B, H/2, W/2, 64], [B, H/4, W/4, 128], [B, H/8, W/8, 256], [B, H/16, W/16, 512],
  # [B, H/32, W/32, 512]
  return end_points


def _vgg_features(images, mode, *, scope):
  """Features of a VGG up to fc7; slim's own function pads fc6 only as VALID does.

  fc6 sees the 7x7 cells around each cell, mirrored beyond the borders of the map: it has never seen zeros on ImageNet,
  and padding the image instead, by 100 pixels as in the FCN paper, doubles the time.
  """
  end_points = _vgg_pools(images, mode, scope=scope)
  net, margin = end_points['pool5'], VGG_FC_KERNEL // 2  # [B, H/32, W/32, 512], 3
  with tf.variable_scope(scope), slim.arg_scope(slim.nets.vgg.vgg_arg_scope(weight_decay=mode.weight_decay)):
    net = mirrored_pad(net, (margin, margin), tuple(length + 2 * margin for length in spatial_size(net)))
    # [B, H/32 + 6, W/32 + 6, 512]
    end_points['fc6'] = net = slim.conv2d(
        net, VGG_FC_CHANNELS, VGG_FC_KERNEL, padding='VALID', scope='fc6')  # [B, H/32, W/32, 4096]
    net = dropout(net, mode.dropout_keep_prob, mode=mode, scope='dropout6')
    end_points['fc7'] = slim.conv2d(net, VGG_FC_CHANNELS, 1, scope='fc7')  # [B, H/32, W/32, 4096]
  return end_points


# GoogLeNet, with batch norm. SAME padding: with inputs of 32k + 1 pixels every window of an odd kernel is centered on a
# cell, and cell 0 lies on pixel 0. The last pool, 2x2, is centered between two cells; its last window holds one cell.
INCEPTION_V1 = Backbone(
    name='inception_v1',
    features=functools.partial(
        _inception_features, base=slim.nets.inception_v1.inception_v1_base, scope='InceptionV1'),
    taps=(  # for inputs of 32k + 1 pixels
        Tap('Mixed_5c', 32, 8),  # [B, k + 1, k + 1, 1024]
        Tap('Mixed_4f', 16, 0),  # [B, 2k + 1, 2k + 1, 832]
        Tap('Mixed_3c', 8, 0),  # [B, 4k + 1, 4k + 1, 480]
        Tap('Conv2d_2c_3x3', 4, 0),  # [B, 8k + 1, 8k + 1, 192]
        Tap('Conv2d_1a_7x7', 2, 0)),  # [B, 16k + 1, 16k + 1, 64]
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
    taps=(
        Tap('Mixed_5c', 32, 0),  # [B, k + 1, k + 1, 1024]
        Tap('Mixed_4e', 16, 0),  # [B, 2k + 1, 2k + 1, 576]
        Tap('Mixed_3c', 8, 0),  # [B, 4k + 1, 4k + 1, 320]
        Tap('Conv2d_2c_3x3', 4, 0),  # [B, 8k + 1, 8k + 1, 192]
        Tap('Conv2d_1a_7x7', 2, 0)),  # [B, 16k + 1, 16k + 1, 64]
    size_step=32,
    size_base=1,
    margin=0,
    scopes=('InceptionV2',),
    batch_norm=True,
    dropout_keep_prob=0.8,
    most_bands=8,  # its separable first layer has 64 // N filters for each band, at most 8, and ImageNet's has 8
)

INCEPTION_V3 = Backbone(
    name='inception_v3',
    features=functools.partial(
        _inception_features, base=slim.nets.inception_v3.inception_v3_base, scope='InceptionV3'),
    # VALID padding in the stem and both reductions puts the centers here, for inputs of 32k + 43 pixels.
    taps=(
        Tap('Mixed_7c', 32, 37),  # [B, k, k, 2048]
        Tap('Mixed_6e', 16, 21),  # [B, 2k + 1, 2k + 1, 768]
        Tap('Mixed_5d', 8, 13),  # [B, 4k + 3, 4k + 3, 288]
        Tap('Conv2d_4a_3x3', 4, 9),  # [B, 8k + 7, 8k + 7, 192]
        Tap('Conv2d_2b_3x3', 2, 3)),  # [B, 16k + 19, 16k + 19, 64]
    size_step=32,
    size_base=43,
    margin=6,  # a transposed convolution of stride s and kernel 2s - 1 starts at input pixel 6 for s = 4, 8, 16 and 32
    scopes=('InceptionV3',),
    batch_norm=True,
    dropout_keep_prob=0.8,
)


def _resnet_v1(name, units):
  """The Backbone of a ResNet v1 with `units` residual units in its four blocks.

  slim puts the stride of a block into its last unit, so that the deepest map at strides 4, 8 and 16 is the last but
  one unit of blocks 1, 2 and 3. All windows are odd and padded equally on both sides, given inputs of 32k + 1 pixels.
  """
  return Backbone(
      name=name,
      features=functools.partial(_resnet_v1_features, net=getattr(slim.nets.resnet_v1, name), scope=name),
      taps=(
          Tap('block4', 32, 0),  # [B, k + 1, k + 1, 2048]
          Tap(f'block3/unit_{units[2] - 1}/bottleneck_v1', 16, 0),  # [B, 2k + 1, 2k + 1, 1024]
          Tap(f'block2/unit_{units[1] - 1}/bottleneck_v1', 8, 0),  # [B, 4k + 1, 4k + 1, 512]
          Tap(f'block1/unit_{units[0] - 1}/bottleneck_v1', 4, 0),  # [B, 8k + 1, 8k + 1, 256]
          Tap('conv1', 2, 0)),  # [B, 16k + 1, 16k + 1, 64]
      size_step=32,
      size_base=1,
      margin=0,
      scopes=(name,),
      batch_norm=True,
      dropout_keep_prob=1.0,  # the classifier has no dropout
  )


RESNET_V1_50 = _resnet_v1('resnet_v1_50', (3, 4, 6, 3))
RESNET_V1_101 = _resnet_v1('resnet_v1_101', (3, 4, 23, 3))


def _vgg(name):
  """The Backbone of a VGG; the cells of its 2x2 pools lie on half pixels.

  The scales bring the pools, which have no batch norm that keeps them near one, near the size of fc7's features. They
  take the place of the FCN paper's scales for at-once training by SGD, 0.01 and 0.0001.
  """
  return Backbone(
      name=name,
      features=functools.partial(_vgg_features, scope=name),
      taps=(  # for inputs of 32k pixels
          Tap('fc7', 32, 15.5),  # [B, k, k, 4096]
          Tap('pool4', 16, 7.5, scale=0.01),  # [B, 2k, 2k, 512]
          Tap('pool3', 8, 3.5, scale=0.01),  # [B, 4k, 4k, 256]
          Tap('pool2', 4, 1.5, scale=0.01),  # [B, 8k, 8k, 128]
          Tap('pool1', 2, 0.5, scale=0.01)),  # [B, 16k, 16k, 64]
      size_step=32,
      size_base=0,
      margin=0,
      scopes=(name,),
      batch_norm=False,
      dropout_keep_prob=0.5,
  )


VGG_16 = _vgg('vgg_16')
VGG_19 = _vgg('vgg_19')

# VGG-16 without fc6 and fc7, which have nine tenths of its weights: 14.7 million parameters, and the start for weights
# that have the convolutions alone. pool5 has the root mean square 18 on street scenes with the convolutions of HED.
VGG_16_TRUNK = dataclasses.replace(
    VGG_16,
    name='vgg_16_trunk',
    features=functools.partial(_vgg_pools, scope='vgg_16'),
    taps=(Tap('pool5', 32, 15.5, scale=0.1), *VGG_16.taps[1:]),  # [B, k, k, 512]
    dropout_keep_prob=1.0,  # the classifier's lies behind fc6 and fc7
    pretrained='vgg_16',
)
