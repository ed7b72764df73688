"""SegNet and SegNet-Basic, plain or Bayesian.

Badrinarayanan, Kendall, Cipolla, "SegNet: A Deep Convolutional Encoder-Decoder Architecture for Image Segmentation",
PAMI 2017. Kendall, Badrinarayanan, Cipolla, "Bayesian SegNet", BMVC 2017, arXiv:1511.02680. Details that the papers
leave open follow the models that the authors released (github.com/alexgkendall/SegNet-Tutorial).
"""

from nets import vgg_encoder
from nets.backbones import without_mean
from nets.dropout import dropout
from nets.network import Network
from nets.unpooling import max_pool, max_unpool
from utils.compat import slim, tf

SCOPE, BASIC_SCOPE = 'segnet', 'segnet_basic'  # variable scopes of all layers but VGG's
BASIC_UNITS, BASIC_CHANNELS, BASIC_KERNEL = 4, 64, 7
DROPOUT_UNITS, BASIC_DROPOUT_UNITS = (3, 4, 5), (3, 4)  # the central units (Bayesian SegNet, section 3)


def segnet_logits(images, num_classes, mode):
  """Builds SegNet: VGG-16's 13 convolutions, and 13 more that mirror them, after unpooling by VGG's own maxima.

  29 445 643 parameters for CamVid's 11 classes, 117.8 MB; the paper's Table 6 has a model of 117 MB. Of these VGG's
  convolutions make up 14.7 million, as in the paper (section 3). The released model has 3712 more: the decoder's
  convolutions have biases there, which do nothing before a batch norm.

  Args:
    images: as of Network.logits. They are not padded: unpooling gives back odd sizes exactly.
    num_classes: number of classes.
    mode: a Mode. With `dropout_keep_prob` the network is Bayesian SegNet, whose paper keeps 0.5, with dropout behind
      poolings 3 to 5 and decoders 5 to 3; without, the network has no dropout.

  Returns:
    logits: float32 [B, H, W, num_classes]; a pixel belongs to the same pixel of the images.
    end_points: dict with `pool1` .. `pool5` and `decoder5` .. `decoder1`.
  """
  drop = _dropout_at(DROPOUT_UNITS, mode)
  end_points, tokens = {}, {}
  with vgg_encoder.arg_scope(mode):
    net = without_mean(images, mode.band_colors)  # [B, H, W, 3]
    for block in range(1, len(vgg_encoder.LAYERS) + 1):
      net, tokens[block] = max_pool(vgg_encoder.encode_block(net, block, SCOPE), mode.portable)
      end_points[f'pool{block}'] = net = drop(net, block)
    # pool1 to pool5, halves rounded up: [B, H/2, W/2, 64], [B, H/4, W/4, 128], [B, H/8, W/8, 256],
    # [B, H/16, W/16, 512], [B, H/32, W/32, 512]
    with tf.variable_scope(SCOPE):
      for block in reversed(tokens):
        names = [f'conv{block}_{layer}_D' for layer in range(vgg_encoder.LAYERS[block - 1], 0, -1)]
        if block == 1:
          names.remove('conv1_1_D')  # the layer of the logits
        net = vgg_encoder.decode_block(net, tokens[block], names, vgg_encoder.mirrored_channels(block))
        end_points[f'decoder{block}'] = net = drop(net, block)
      # decoder5 to decoder1, halves rounded up: [B, H/16, W/16, 512], [B, H/8, W/8, 256], [B, H/4, W/4, 128],
      # [B, H/2, W/2, 64], [B, H, W, 64]
      logits = slim.conv2d(net, num_classes, 3, activation_fn=None, normalizer_fn=None, scope='conv1_1_D')
  return logits, end_points


def segnet_basic_logits(images, num_classes, mode):
  """Builds SegNet-Basic: four encoders and four decoders of one 7x7 convolution each (section 3.1).

  As in the paper, no convolution but the last one has biases and the decoders have no ReLU. The paper normalizes images
  by local contrast; here, as in the released model, each pixel is divided by a power of its own brightness (`lrn`),
  which needs no statistics of the image, so that a part of an image gives the same as the whole.

  1 416 075 parameters for CamVid's 11 classes, 0.6 % less than the 1.425 million of the paper's Table 1. All but 1739
  are weights of the eight convolutions, 49 * 64 * (3 + 7 * 64), so that no reading of the text gives the paper's
  number; the biases of the released model are 512 more.

  Args:
    images: as of Network.logits.
    num_classes: number of classes.
    mode: a Mode. With `dropout_keep_prob`, dropout is behind poolings 3 and 4 and decoders 4 and 3; without, the
      network has no dropout.

  Returns:
    logits: float32 [B, H, W, num_classes]; a pixel belongs to the same pixel of the images.
    end_points: dict with `lrn`, `pool1` .. `pool4` and `decoder4` .. `decoder1`.
  """
  drop = _dropout_at(BASIC_DROPOUT_UNITS, mode)
  tokens = {}
  with tf.variable_scope(BASIC_SCOPE), vgg_encoder.arg_scope(mode):
    # x / (1 + 1e-4 / 5 * (R^2 + G^2 + B^2))^0.75: Caffe divides its alpha by the window of 5, which holds all channels.
    # Of N bands the sum of the squares counts 3 / N times, so that N equal bands are as bright as three.
    bands = images.shape.as_list()[3]
    net = tf.nn.local_response_normalization(
        images, depth_radius=max(bands - 1, 1), bias=1.0, alpha=1e-4 / 5 * 3 / bands, beta=0.75)  # [B, H, W, 3]
    end_points = {'lrn': net}
    for unit in range(1, BASIC_UNITS + 1):
      net = slim.conv2d(net, BASIC_CHANNELS, BASIC_KERNEL, scope=f'conv{unit}')
      net, tokens[unit] = max_pool(net, mode.portable)
      end_points[f'pool{unit}'] = net = drop(net, unit)
    # pool1 to pool4, halves rounded up: [B, H/2, W/2, 64], [B, H/4, W/4, 64], [B, H/8, W/8, 64], [B, H/16, W/16, 64]
    for unit in reversed(tokens):
      net = max_unpool(net, tokens[unit])
      net = slim.conv2d(net, BASIC_CHANNELS, BASIC_KERNEL, activation_fn=None, scope=f'conv_decode{unit}')
      end_points[f'decoder{unit}'] = net = drop(net, unit)
    # decoder4 to decoder1, halves rounded up: [B, H/8, W/8, 64], [B, H/4, W/4, 64], [B, H/2, W/2, 64], [B, H, W, 64]
    logits = slim.conv2d(net, num_classes, 1, activation_fn=None, normalizer_fn=None, scope='conv_classifier')
  return logits, end_points


def _dropout_at(units, mode):
  """Returns `drop(features, unit)`: dropout if `unit` is among `units` and the Mode has a dropout_keep_prob."""

  def drop(features, unit):
    if unit not in units or mode.dropout_keep_prob is None:
      return features
    return dropout(features, mode.dropout_keep_prob, mode=mode)

  return drop


SEGNET = Network(
    name='segnet',
    build=segnet_logits,
    weight_decay=5e-4,  # the released solver's
    pretrained='vgg_16',
    pretrained_scopes=(vgg_encoder.VGG_SCOPE,),
)
SEGNET_BASIC = Network(
    name='segnet_basic',
    build=segnet_basic_logits,
    weight_decay=5e-4,  # the released solver's
)
