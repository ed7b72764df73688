"""Faster gradients for convolutions."""

import contextlib

from utils.compat import tf

_NAMES = {'pointwise': 'ConvolutionWithProductsForPointwiseWeights', 'all': 'ConvolutionWithProductsForWeights'}
PRODUCT = 'weight_gradient'  # name of the matrix products that are weight gradients


def fast_gradients(products):
  """Returns a context in which the default graph's convolutions get their weight gradients as matrix products.

  The gradients keep their values. The weight gradient of a 1x1 convolution is the product of the pixels' features and
  gradients; larger kernels take a product for each place in the kernel.

  Args:
    products: `products` of a rewritings.Rewritings.
  """
  if products == 'none':
    return contextlib.nullcontext()
  return tf.get_default_graph().gradient_override_map({'Conv2D': _NAMES[products]})


@tf.RegisterGradient(_NAMES['pointwise'])
def _pointwise_gradients(op, gradient):
  return _gradients(op, gradient, as_product=op.inputs[1].shape[:2] == [1, 1])


@tf.RegisterGradient(_NAMES['all'])
def _all_gradients(op, gradient):
  return _gradients(op, gradient, as_product=True)


def _gradients(op, gradient, *, as_product):
  """Gradients of a Conv2D to its input and to its weights, these as products unless it has strides or dilations."""
  images, weights = op.inputs
  settings = {'padding': op.get_attr('padding').decode(), 'strides': op.get_attr('strides'),
              'dilations': op.get_attr('dilations')}
  to_images = tf.nn.conv2d_backprop_input(tf.shape(images), weights, gradient, **settings)
  plain = settings['strides'] == settings['dilations'] == [1, 1, 1, 1]
  if plain and as_product:
    return to_images, _weight_gradient(images, weights.shape.as_list(), gradient, same=settings['padding'] == 'SAME')
  return to_images, tf.nn.conv2d_backprop_filter(images, tf.shape(weights), gradient, **settings)


def _weight_gradient(images, shape, gradient, *, same):
  """The weight gradient of a convolution without strides and dilations: a matrix product for each place in the kernel.

  With the pixels of all images as rows of one matrix, each place in the kernel sees this matrix shifted by a fixed
  number of rows: the products read slices of it, without copies. The gradient is padded by zeros to the images' size.

  Args:
    images: float [B, H, W, C].
    shape: [h, w, C, K] of the weights.
    gradient: float [B, H', W', K].
    same: whether the convolution pads its images by zeros.

  Returns:
    float [h, w, C, K].
  """
  height, width, depth, channels = shape
  if same:
    images = _padded(images, (height - 1) // 2, height // 2, (width - 1) // 2, width // 2)
  row = _length(images, 2)
  images = tf.reshape(images, [-1, depth])
  gradient = tf.reshape(_padded(gradient, 0, height - 1, 0, width - 1), [-1, channels])
  count = _length(images, 0) - (height - 1) * row - (width - 1)
  gradient = gradient[:count]
  products = []
  for y in range(height):
    for x in range(width):
      start = y * row + x
      products.append(tf.matmul(images[start:start + count], gradient, transpose_a=True, name=PRODUCT))
  return tf.reshape(tf.stack(products), shape)


def _length(tensor, axis):
  """The length of a tensor along an axis: an int if known, for smaller graphs, else a tensor."""
  known = tensor.shape.as_list()[axis]
  return tf.shape(tensor)[axis] if known is None else known


def _padded(maps, above, below, left, right):
  if above == below == left == right == 0:
    return maps
  return tf.pad(maps, [[0, 0], [above, below], [left, right], [0, 0]])
