"""Inception v3 whose last reductions keep the resolution: slim's variables, and a coarse map at stride 16 or 8.

Chen, Papandreou, Kokkinos, Murphy, Yuille, "DeepLab", PAMI 2018, section 3.1: a layer that strode by 2 strides by 1,
and all that follows reads every second cell. The cells then fall into four sets, by even and odd rows and columns,
which no layer mixes, so that each set goes through the following layers as they are, as an image of its own in a batch
four times as large. That is the same as dilated convolutions and pooling, to the zeros and the divisors at the borders,
and batch norm sees the same values.
"""

import functools

from utils.compat import slim, tf

OUTPUT_STRIDES = {32: 'Mixed_7c', 16: 'Mixed_6e', 8: 'Mixed_5d'}  # and the end point up to which slim builds the net
REDUCTIONS = ('Mixed_6a', 'Mixed_7a')

_max_pool = functools.partial(slim.max_pool2d, kernel_size=3, stride=1, padding='SAME')
_average_pool = functools.partial(slim.avg_pool2d, kernel_size=3, stride=1, padding='SAME')


def _mixed_6(depth):
  """The branches of Mixed_6b to Mixed_6e, whose inner convolutions have `depth` channels."""
  return (
      [('Conv2d_0a_1x1', 192, 1)],
      [('Conv2d_0a_1x1', depth, 1), ('Conv2d_0b_1x7', depth, (1, 7)), ('Conv2d_0c_7x1', 192, (7, 1))],
      [('Conv2d_0a_1x1', depth, 1), ('Conv2d_0b_7x1', depth, (7, 1)), ('Conv2d_0c_1x7', depth, (1, 7)),
       ('Conv2d_0d_7x1', depth, (7, 1)), ('Conv2d_0e_1x7', 192, (1, 7))],
      [_average_pool, ('Conv2d_0b_1x1', 192, 1)],
  )


def _mixed_7(last):
  """The branches of Mixed_7b and Mixed_7c, which differ in the name of Branch_1's last convolution."""
  return (
      [('Conv2d_0a_1x1', 320, 1)],
      [('Conv2d_0a_1x1', 384, 1), [('Conv2d_0b_1x3', 384, (1, 3)), (last, 384, (3, 1))]],
      [('Conv2d_0a_1x1', 448, 1), ('Conv2d_0b_3x3', 384, 3),
       [('Conv2d_0c_1x3', 384, (1, 3)), ('Conv2d_0d_3x1', 384, (3, 1))]],
      [_average_pool, ('Conv2d_0b_1x1', 192, 1)],
  )


# Branches of steps as in slim's inception_v3.py, but that nothing strides. A step is a pool, a convolution (scope,
# channels, kernel), or a list of convolutions side by side; in 6a the name of a 3x3 kernel says 1x1 in slim, too.
BLOCKS = {
    'Mixed_6a': ([('Conv2d_1a_1x1', 384, 3)],
                 [('Conv2d_0a_1x1', 64, 1), ('Conv2d_0b_3x3', 96, 3), ('Conv2d_1a_1x1', 96, 3)],
                 [_max_pool]),
    'Mixed_6b': _mixed_6(128),
    'Mixed_6c': _mixed_6(160),
    'Mixed_6d': _mixed_6(160),
    'Mixed_6e': _mixed_6(192),
    'Mixed_7a': ([('Conv2d_0a_1x1', 192, 1), ('Conv2d_1a_3x3', 320, 3)],
                 [('Conv2d_0a_1x1', 192, 1), ('Conv2d_0b_1x7', 192, (1, 7)), ('Conv2d_0c_7x1', 192, (7, 1)),
                  ('Conv2d_1a_3x3', 192, 3)],
                 [_max_pool]),
    'Mixed_7b': _mixed_7('Conv2d_0b_3x1'),
    'Mixed_7c': _mixed_7('Conv2d_0c_3x1'),
}


def inception_v3_base(inputs, *, output_stride, scope='InceptionV3'):
  """Builds Inception v3 down to an output stride; otherwise like slim's `inception_v3_base`, whose arg_scope it takes.

  The reductions that keep the resolution pad with SAME, so that their cells are those of their input: at output stride
  16 cell i of Mixed_7a to Mixed_7c lies at 16i + 21 pixels, as in Mixed_6e; at 8 that of all maps from Mixed_6a on lies
  at 8i + 13, as in Mixed_5d. Cells 1, 3, 5, ... (at 8: 3, 7, 11, ...) of Mixed_7c are slim's own at stride 32, with
  slim's values but towards the lower and the right border, where slim has a cell less.

  Args:
    inputs: float32 [B, H, W, 3] in [-1, 1], H and W known or not. Those of 32k + 43 pixels (output stride 32), 32k + 27
      (16) or 32k + 19 (8), k = 1, 2, ..., lose no pixel; they give k, 2k or 4k cells.
    output_stride: input pixels between two cells of Mixed_7c, one of OUTPUT_STRIDES; 32 is slim's own net.
    scope: variable scope.

  Returns:
    features: float32 [B, h, w, 2048], the end point Mixed_7c.
    end_points: dict with slim's names, each a whole map.

  Raises:
    ValueError: if `output_stride` is none of OUTPUT_STRIDES; or if a map to be split has an odd number of rows or
      columns, where the size is known (where it is not, running the graph fails).
  """
  if output_stride not in OUTPUT_STRIDES:
    raise ValueError(f'output_stride={output_stride!r} is none of {", ".join(map(str, OUTPUT_STRIDES))}')
  net, end_points = slim.nets.inception_v3.inception_v3_base(
      inputs, final_endpoint=OUTPUT_STRIDES[output_stride], scope=scope)
  splits = 0
  with tf.variable_scope(scope):
    for name, branches in BLOCKS.items():
      if name in end_points:
        continue
      net = _block(net, name, branches)
      end_points[name] = _joined(net, splits)
      if name in REDUCTIONS:
        net, splits = tf.space_to_batch_nd(net, [2, 2], [[0, 0], [0, 0]]), splits + 1
  return end_points['Mixed_7c'], end_points


def _joined(net, splits):
  """Puts the cells of a map that was split so often back in their places."""
  for _ in range(splits):
    net = tf.batch_to_space_nd(net, [2, 2], [[0, 0], [0, 0]])
  return net


def _block(net, name, branches):
  """Builds the branches of one block on `net` and concatenates them."""
  outputs = []
  with tf.variable_scope(name):
    for index, branch in enumerate(branches):
      with tf.variable_scope(f'Branch_{index}'):
        outputs.append(functools.reduce(_step, branch, net))
  return tf.concat(outputs, axis=3)


def _step(net, step):
  """Builds one step of a branch; see BLOCKS."""
  if callable(step):
    return step(net)
  if isinstance(step, list):
    return tf.concat([_step(net, part) for part in step], axis=3)
  scope, depth, kernel = step
  return slim.conv2d(net, depth, kernel, scope=scope)
