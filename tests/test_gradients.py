"""The gradients of convolutions are those that TensorFlow gives."""

import contextlib

import numpy as np
import pytest

from utils.compat import tf
from utils.training import gradients

pytestmark = pytest.mark.fast

CASES = {
    # kernel, strides, dilations, padding
    'pointwise': ([1, 1, 5, 6], 1, 1, 'SAME'),
    'pointwise, strided': ([1, 1, 5, 6], 2, 1, 'SAME'),
    'square': ([3, 3, 5, 6], 1, 1, 'VALID'),
    'square, padded': ([3, 3, 5, 6], 1, 1, 'SAME'),
    'even, padded': ([4, 2, 5, 6], 1, 1, 'SAME'),
    'wide, padded': ([1, 7, 5, 6], 1, 1, 'SAME'),
    'tall': ([7, 1, 5, 6], 1, 1, 'VALID'),
    'as large as the image': ([9, 11, 5, 6], 1, 1, 'VALID'),
    'flat, strided': ([1, 7, 5, 6], (1, 2), 1, 'SAME'),
    'dilated': ([3, 3, 5, 6], 1, 2, 'SAME'),
}


def gradients_of(case, context, *, known):
  kernel, strides, dilations, padding = CASES[case]
  generator = np.random.default_rng(0)
  with tf.Graph().as_default() as graph, tf.Session() as session:
    values = generator.normal(size=[2, 9, 11, 5]).astype(np.float32)
    images = tf.constant(values) if known else tf.placeholder_with_default(values, [None, None, None, 5])
    weights = tf.constant(generator.normal(size=kernel).astype(np.float32))
    with context():
      out = tf.nn.conv2d(images, weights, strides=strides, dilations=dilations, padding=padding)
    out = tf.square(tf.nn.relu(out))  # so that the gradient differs from pixel to pixel
    made = tf.gradients(out, [images, weights])
    assert made[1].shape.as_list() == kernel
    return session.run(made), {op.type for op in graph.get_operations()}


@pytest.mark.parametrize('products', ['none', 'pointwise', 'all'])
@pytest.mark.parametrize('known', [True, False])
@pytest.mark.parametrize('case', CASES)
def test_gradients_are_tensorflows_own(case, known, products):
  fast, types = gradients_of(case, lambda: gradients.fast_gradients(products), known=known)
  own, _ = gradients_of(case, contextlib.nullcontext, known=known)
  for value, expected in zip(fast, own):
    np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
  plain = 'strided' not in case and 'dilated' not in case
  assert ('MatMul' in types) == (products != 'none' and case == 'pointwise' or products == 'all' and plain)
