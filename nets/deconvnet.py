"""DeconvNet.

Noh, Hong, Han, "Learning Deconvolution Network for Semantic Segmentation", ICCV 2015. What the paper leaves open is as
in the model that the authors released (github.com/HyeonwooNoh/DeconvNet).
"""

from nets import vgg_encoder
from nets.geometry import mirrored_pad, spatial_size
from nets.network import Network
from nets.unpooling import max_pool
from utils.compat import slim, tf

SCOPE = 'deconvnet'  # of all that is not VGG's
STRIDE = 32  # pixels a cell of the coarsest map
FC_KERNEL, FC_CHANNELS = 7, 4096


def deconvnet_logits(images, num_classes, is_training, *, skip=None, dropout=None, dropout_keep_prob=None,
                     freeze_batch_norm=False, batch_norm_decay=0.99, weight_decay=5e-4):
  """Builds DeconvNet: VGG-16 up to fc7, and its mirror image, with unpooling by VGG's own maxima (Figure 2).

  The paper cuts proposals of 224x224 pixels out of an image and merges what comes out; here the whole image goes
  through at once, and fc6 sees every 7x7 cells of it. The unstrided 3x3 deconvolutions are convolutions, which they
  equal with the kernel turned round.

  251 801 365 parameters for VOC's 21 classes; the paper has about 252 million (section 6.1). The released model has
  4288 more: the decoder's layers have biases there, which do nothing before a batch norm.

  Args:
    images: float32 [B, H, W, 3], RGB in 0..255, any H and W from 1, known or not. They are mirrored at their borders to
      the next multiple of 32 pixels from 224.
    num_classes: number of classes.
    is_training: whether batch norm, unless frozen, uses the batch's statistics.
    skip: unused; there are no skips to choose.
    dropout: whether dropout drops; None: as `is_training`.
    dropout_keep_prob: kept by dropout behind fc6 and fc7, where VGG has it; None: all, as in the paper (section 6.1).
    freeze_batch_norm: keep batch norm at its moving averages while training.
    batch_norm_decay: decay of the moving averages.
    weight_decay: weight of the L2 loss on convolution weights; the default is that of the released solver.

  Returns:
    logits: float32 [B, H, W, num_classes]; a pixel belongs to the same pixel of the images.
    end_points: dict with `pool1` .. `pool5`, `fc6`, `fc7`, `fc6-deconv` and `deconv5` .. `deconv1`, at padded sizes.
  """
  del skip
  size = spatial_size(images)
  padded = tuple(_padded_size(length) for length in size)
  before = tuple((total - length) // 2 for total, length in zip(padded, size))
  end_points, tokens = {}, {}
  with vgg_encoder.arg_scope(train_batch_norm=is_training and not freeze_batch_norm,
                             batch_norm_decay=batch_norm_decay, weight_decay=weight_decay), slim.arg_scope(
                                 [slim.dropout], is_training=is_training if dropout is None else dropout):
    net = vgg_encoder.normalize(mirrored_pad(images, before, padded))
    for block in range(1, len(vgg_encoder.LAYERS) + 1):
      net, tokens[block] = max_pool(vgg_encoder.encode_block(net, block, SCOPE))
      end_points[f'pool{block}'] = net
    for name, kernel in [('fc6', FC_KERNEL), ('fc7', 1)]:
      net = end_points[name] = vgg_encoder.vgg_conv(net, FC_CHANNELS, kernel, name, SCOPE, padding='VALID')
      net = slim.dropout(net, dropout_keep_prob or 1.0, scope=f'dropout_{name}')
    end_points |= _deconvolution(net, tokens)
    with tf.variable_scope(SCOPE):
      score = slim.conv2d(end_points['deconv1'], num_classes, 1, activation_fn=None, normalizer_fn=None,
                          weights_initializer=tf.random_normal_initializer(stddev=0.01), scope='score')
  return score[:, before[0]:before[0] + size[0], before[1]:before[1] + size[1], :], end_points


def _deconvolution(net, tokens):
  """The way back up, from fc7 [B, h - 6, w - 6, FC_CHANNELS] to `deconv1` [B, 32h, 32w, 64].

  Its weights start from the paper's zero-mean Gaussians (section 6.1), of the released model's deviation.
  """
  end_points = {}
  with tf.variable_scope(SCOPE), slim.arg_scope(
      [slim.conv2d, slim.conv2d_transpose], weights_initializer=tf.random_normal_initializer(stddev=0.01)):
    net = end_points['fc6-deconv'] = slim.conv2d_transpose(
        net, vgg_encoder.CHANNELS[-1], FC_KERNEL, padding='VALID', scope='fc6-deconv')
    for block in reversed(tokens):
      names = [f'deconv{block}_{layer}' for layer in range(1, vgg_encoder.LAYERS[block - 1] + 1)]
      net = end_points[f'deconv{block}'] = vgg_encoder.decode_block(
          net, tokens[block], names, vgg_encoder.mirrored_channels(block))
  return end_points


def _padded_size(length):
  """The smallest size that holds `length` pixels and fills fc6's kernel with whole cells; int or tensor, as given."""
  cells = (length + STRIDE - 1) // STRIDE
  return STRIDE * (max(cells, FC_KERNEL) if isinstance(cells, int) else tf.maximum(cells, FC_KERNEL))


DECONVNET = Network(name='deconvnet', logits=deconvnet_logits, pretrained='vgg_16',
                    pretrained_scopes=(vgg_encoder.VGG_SCOPE,))
