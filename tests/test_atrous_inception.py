"""Atrous Inception v3 against slim's own, strided and dilated, cell by cell."""

import functools

import numpy as np
import pytest

from nets.atrous_inception import BLOCKS, inception_v3_base
from utils.compat import slim, tf

SLIM = slim.nets.inception_v3


def build(base, images, *, is_training=False, **options):
  """Builds a base with offsets that are not zero, so that a cell beyond the border is unlike one of a dark image."""
  with slim.arg_scope(SLIM.inception_v3_arg_scope()), slim.arg_scope(
      [slim.batch_norm], is_training=is_training, param_initializers={'beta': tf.random_normal_initializer(0.1, 0.3)}):
    return base(images, scope='InceptionV3', **options)[1]


def run(tensors, feed):
  with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    return session.run(tensors, feed)


def random_images(*shape):
  return np.random.default_rng(0).uniform(-1, 1, [*shape, 3]).astype(np.float32)


def dilate_slims(monkeypatch, output_stride):
  """Makes slim's code dilate: its layers stride by 1 from the first reduction that would leave `output_stride`."""
  reductions = ('Mixed_6a', 'Mixed_7a')[-2 if output_stride == 8 else -1:]

  def rate():
    block = tf.get_variable_scope().name.partition('/')[2].split('/')[0]
    return 2**sum(block > reduction for reduction in reductions), block in reductions

  def pool(kind, net, rate):
    padded = tf.pad(net, [[0, 0], [rate, rate], [rate, rate], [0, 0]])
    return tf.nn.pool(padded, [3, 3], kind, padding='VALID', dilations=[rate, rate])

  def patched(function, dilated):

    @functools.wraps(function)  # keeps what arg_scope knows it by
    def wrapper(net, *arguments, **options):
      dilation, unstrided = rate()
      strided = options.get('stride') == 2
      if dilation == 1 and not (unstrided and strided):
        return function(net, *arguments, **options)
      return dilated(net, *arguments, rate=dilation, scope=options['scope'])

    return wrapper

  def max_pool(net, kernel, rate, scope):
    return pool('MAX', net, rate)  # zeros beyond the border: no maximum of what comes from ReLUs

  def average_pool(net, kernel, rate, scope):
    return pool('AVG', net, rate) / pool('AVG', tf.ones_like(net), rate)  # over the cells that there are

  for module, name, dilated in ((SLIM.layers, 'conv2d', functools.partial(slim.conv2d, stride=1, padding='SAME')),
                                (SLIM.layers_lib, 'max_pool2d', max_pool),
                                (SLIM.layers_lib, 'avg_pool2d', average_pool)):
    monkeypatch.setattr(module, name, patched(getattr(module, name), dilated))


@pytest.mark.parametrize('output_stride, size', [(16, (59, 123)), (8, (83, 51))])
def test_equals_slims_code_with_dilated_layers(output_stride, size, monkeypatch, graph):
  """At every cell of every end point, batch norm in training mode, with unknown sizes; and what is new is trained."""
  tf.set_random_seed(1)
  images = tf.placeholder(tf.float32, [None, None, None, 3])
  ours = build(inception_v3_base, images, is_training=True, output_stride=output_stride)
  variables = {v.op.name: v.shape.as_list() for v in tf.global_variables()}
  trained = [v for name in BLOCKS if name >= 'Mixed_7' or output_stride == 8
             for v in tf.trainable_variables(f'InceptionV3/{name}/')]
  assert len(trained) == 2 * (6 + 9 + 9 + (4 + 4 * 10) * (output_stride == 8))  # of the blocks that slim did not build
  assert None not in tf.gradients(ours['Mixed_7c'], trained)
  dilate_slims(monkeypatch, output_stride)
  with tf.variable_scope(tf.get_variable_scope(), reuse=True):
    slims = build(SLIM.inception_v3_base, images, is_training=True)
  assert {v.op.name: v.shape.as_list() for v in tf.global_variables()} == variables and len(variables) == 4 * 94
  assert list(ours) == list(slims)
  ours, slims = run([ours, slims], {images: random_images(2, *size)})
  fine = ours['Mixed_6e' if output_stride == 16 else 'Mixed_5d'].shape
  assert ours['Mixed_7c'].shape == (*fine[:3], 2048) and fine[1] != fine[2]
  for name, value in slims.items():
    assert value.std() > 0.1
    np.testing.assert_allclose(ours[name], value, atol=1e-3 * value.max(), err_msg=name)


def test_odd_cells_are_those_of_slims_strided_net(graph):
  """At output stride 16, where the border that has a cell more does not reach: four of slim's cells before it."""
  tf.set_random_seed(2)
  images = tf.constant(random_images(1, 32 * 7 + 27, 32 * 6 + 27))
  ours = build(inception_v3_base, images, output_stride=16)
  assert ours['Mixed_7c'].shape.as_list() == [1, 14, 12, 2048]
  with tf.variable_scope(tf.get_variable_scope(), reuse=True):
    slims = build(SLIM.inception_v3_base, images)
    coarse = build(inception_v3_base, images, output_stride=32)
  names = ('Mixed_6e', 'Mixed_7a', 'Mixed_7c')
  ours, slims, coarse = run([{name: net[name] for name in names} for net in (ours, slims, coarse)], {})
  assert ours['Mixed_7c'].shape == (1, 14, 12, 2048) and slims['Mixed_7c'].shape == (1, 6, 5, 2048)
  top = slims['Mixed_7c'].max()
  assert slims['Mixed_7c'][:, :2, :1].std() > 0.01 * top > 0
  np.testing.assert_allclose(ours['Mixed_6e'], slims['Mixed_6e'], atol=1e-5 * slims['Mixed_6e'].max())
  np.testing.assert_allclose(ours['Mixed_7a'][:, 1:-2:2, 1:-2:2], slims['Mixed_7a'],
                             atol=1e-4 * slims['Mixed_7a'].max())
  np.testing.assert_allclose(ours['Mixed_7c'][:, 1:5:2, 1:3:2], slims['Mixed_7c'][:, :2, :1], atol=1e-4 * top)
  for name in names:
    np.testing.assert_allclose(coarse[name], slims[name], atol=1e-5 * slims[name].max())


def test_output_stride_that_there_is_not(graph):
  with pytest.raises(ValueError, match='output_stride=4 is none of 32, 16, 8'):
    inception_v3_base(tf.zeros([1, 59, 59, 3]), output_stride=4)


def test_a_map_that_cannot_be_split(graph):
  """The input of slim's size, 32k + 43, has an odd number of cells at stride 16."""
  with pytest.raises(ValueError, match='divisible by 2 but is 3'):
    build(inception_v3_base, tf.zeros([1, 59, 75, 3]), output_stride=16)
