"""DeconvNet.

Noh, Hong, Han, "Learning Deconvolution Network for Semantic Segmentation", ICCV 2015. Details that the paper leaves
open follow the model that the authors released (github.com/HyeonwooNoh/DeconvNet).
"""

from nets import vgg_encoder
from nets.backbones import VGG_FC_CHANNELS, VGG_FC_KERNEL, without_mean
from nets.dropout import dropout
from nets.geometry import centered, crop, mirrored_pad, spatial_size
from nets.network import Network
from nets.unpooling import max_pool
from utils.compat import slim, tf

SCOPE = 'deconvnet'  # variable scope of all layers but VGG's
STRIDE = 32  # pixels a cell of the coarsest map


def deconvnet_logits(images, num_classes, mode):
  """Builds DeconvNet: VGG-16 up to fc7, and its mirror image, with unpooling by VGG's own maxima (Figure 2).

  The paper cuts proposals of 224x224 pixels out of an image and merges their scores; here the whole image goes through
  at once, and fc6 sees all its areas of 7x7 cells. The unstrided 3x3 deconvolutions are built as convolutions, which
  are equal to them but for kernels turned by 180 degrees.

  251 801 365 parameters for VOC's 21 classes; the paper has about 252 million (section 6.1). The released model has
  4288 more: the decoder's layers have biases there, which do nothing before a batch norm.

  Args:
    images: as of Network.logits. They are mirrored at their borders to the next multiple of 32 pixels, at least 224.
    num_classes: number of classes.
    mode: a Mode. Dropout is behind fc6 and fc7, where VGG has it; by default it keeps all, as in the paper
      (section 6.1).

  Returns:
    logits: float32 [B, H, W, num_classes]; a pixel belongs to the same pixel of the images.
    end_points: dict with `pool1` .. `pool5`, `fc6`, `fc7`, `fc6-deconv` and `deconv5` .. `deconv1`, at padded sizes.
  """
  size = spatial_size(images)
  padded = tuple(_padded_size(length) for length in size)
  before = centered(size, padded)
  end_points, tokens = {}, {}
  with vgg_encoder.arg_scope(mode):
    net = without_mean(mirrored_pad(images, before, padded), mode.band_colors)  # [B, 32h, 32w, 3]
    for block in range(1, len(vgg_encoder.LAYERS) + 1):
      net, tokens[block] = max_pool(vgg_encoder.encode_block(net, block, SCOPE), mode.portable)
      end_points[f'pool{block}'] = net
    # pool1 to pool5: [B, 16h, 16w, 64], [B, 8h, 8w, 128], [B, 4h, 4w, 256], [B, 2h, 2w, 512], [B, h, w, 512]
    for name, kernel in [('fc6', VGG_FC_KERNEL), ('fc7', 1)]:
      net = vgg_encoder.vgg_conv(net, VGG_FC_CHANNELS, kernel, name, SCOPE, padding='VALID')  # [B, h - 6, w - 6, 4096]
      end_points[name] = net
      net = dropout(net, mode.dropout_keep_prob or 1.0, mode=mode, scope=f'dropout_{name}')
    end_points |= _deconvolution(net, tokens)
    with tf.variable_scope(SCOPE):
      score = slim.conv2d(end_points['deconv1'], num_classes, 1, activation_fn=None, normalizer_fn=None,
                          weights_initializer=tf.random_normal_initializer(stddev=0.01), scope='score')
  return crop(score, before, size), end_points


def _deconvolution(net, tokens):
  """The way back up, from fc7 [B, h - 6, w - 6, VGG_FC_CHANNELS] to `deconv1` [B, 32h, 32w, 64].

  Weights start from the paper's zero-mean Gaussians (section 6.1), with the released model's standard deviation.
  """
  end_points = {}
  with tf.variable_scope(SCOPE), slim.arg_scope(
      [slim.conv2d, slim.conv2d_transpose], weights_initializer=tf.random_normal_initializer(stddev=0.01)):
    net = end_points['fc6-deconv'] = slim.conv2d_transpose(
        net, vgg_encoder.CHANNELS[-1], VGG_FC_KERNEL, padding='VALID', scope='fc6-deconv')  # [B, h, w, 512]
    for block in reversed(tokens):
      names = [f'deconv{block}_{layer}' for layer in range(1, vgg_encoder.LAYERS[block - 1] + 1)]
      net = end_points[f'deconv{block}'] = vgg_encoder.decode_block(
          net, tokens[block], names, vgg_encoder.mirrored_channels(block))
  # deconv5 to deconv1: [B, 2h, 2w, 512], [B, 4h, 4w, 256], [B, 8h, 8w, 128], [B, 16h, 16w, 64], [B, 32h, 32w, 64]
  return end_points


def _padded_size(length):
  """The smallest size that holds `length` pixels and fills fc6's kernel with cells; int or tensor, as given."""
  cells = (length + STRIDE - 1) // STRIDE
  return STRIDE * (max(cells, VGG_FC_KERNEL) if isinstance(cells, int) else tf.maximum(cells, VGG_FC_KERNEL))


DECONVNET = Network(
    name='deconvnet',
    build=deconvnet_logits,
    weight_decay=5e-4,  # the released solver's
    pretrained='vgg_16',
    pretrained_scopes=(vgg_encoder.VGG_SCOPE,),
    optional_scopes=tuple(f'{vgg_encoder.VGG_SCOPE}/{name}' for name in ('fc6', 'fc7')),
)
