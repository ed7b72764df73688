"""The profile of a training step: kinds of ops, counts of multiply-adds, traces, the chart, and all of it, tiny."""

import contextlib
import functools
import json

import numpy as np
import pytest
from PIL import Image

from datasets import get_dataset
from nets import get_network
from utils.compat import tf
from utils.drawing import canvas
from utils.studies import benchmark, results, step_profile
from utils.training.gradients import fast_gradients


def summary(precision, seconds):
  """A summary of a step; `seconds` is a dict from kind to its time."""
  total = sum(seconds.values())
  return {'precision': precision, 'multiply_adds': 3_000_000_000, 'top': [],
          'kinds': [{'kind': kind, 'ops': 2, 'seconds': value, 'share': value / total}
                    for kind, value in seconds.items()]}


@pytest.mark.parametrize('op, name, kind', [
    ('_MklNativeConv2D', 'InceptionV3/Conv2d_1a_3x3/Conv2D', 'convolution'),
    ('_MklNativeFusedConv2D', 'fcn/score_32/add', 'convolution'),
    ('Conv2DBackpropInput', 'fcn/upscore_16/conv2d_transpose', 'convolution'),
    ('_MklNativeConv2D', 'gradients/fcn/upscore_8/conv2d_transpose_grad/Conv2D', 'convolution: gradient to input'),
    ('_MklNativeConv2DBackpropInput', 'gradients/a/Conv2D_grad/Conv2DBackpropInput', 'convolution: gradient to input'),
    ('_MklNativeConv2DBackpropFilter', 'gradients/a/Conv2DBackpropFilter', 'convolution: gradient to weights'),
    ('_MklNativeFusedBatchNormEx', 'a/BatchNorm/FusedBatchNormV3', 'batch norm, with fused ReLU'),
    ('FusedBatchNormGradV3', 'gradients/a/FusedBatchNormGradV3', 'batch norm, with fused ReLU'),
    ('ReluGrad', 'gradients/a/Relu_grad/ReluGrad', 'ReLU'),
    ('_MklNativeAvgPoolGrad', 'gradients/a/AvgPoolGrad', 'pooling'),
    ('Cast', 'gradients/a/Regularizer/l2_regularizer/mul-0-CastToBf16-0-AutoMixedPrecision', 'casts'),
    ('Transpose', 'a/transpose', 'layout'),
    ('_MklToTf', 'Mkl2Tf/a', 'layout'),
    ('ResourceApplyAdam', 'Adam/update_a/ResourceApplyAdam', 'optimizer, clipping, weight decay'),
    ('L2Loss', 'global_norm/L2Loss_194', 'optimizer, clipping, weight decay'),
    ('Mul', 'gradients/a/kernel/Regularizer/l2_regularizer/mul', 'optimizer, clipping, weight decay'),
    ('Mul', 'condenser/mul', 'rest'),
    ('AddN', 'gradients/AddN_3', 'sums of gradients'),
    ('AddN', 'AddN', 'rest'),
    ('ConcatV2', 'a/concat', 'concatenation, slices, padding'),
    ('_MklBatchMatMulV2', 'resample_rows', 'loss and upsampling'),
    ('_MklMatMul', 'gradients/a/Conv2D_grad/weight_gradient', 'convolution: gradient to weights'),
    ('MatMul', 'a/MatMul', 'rest'),
    ('SparseSoftmaxCrossEntropyWithLogits', 'a/b', 'loss and upsampling'),
    ('ReadVariableOp', 'a/ReadVariableOp', 'rest'),
])
def test_kinds_of_ops(op, name, kind):
  assert step_profile.kind_of(op, name) == kind


@pytest.mark.parametrize('context', [contextlib.nullcontext, functools.partial(fast_gradients, 'pointwise')])
def test_multiply_adds_by_hand(graph, context):
  images = tf.zeros([2, 9, 11, 3])
  first = tf.get_variable('first', [3, 5, 3, 4])
  second = tf.get_variable('second', [1, 1, 4, 6])
  up = tf.get_variable('up', [2, 2, 7, 6])
  net = tf.nn.conv2d(images, first, strides=[1, 2, 1, 1], padding='SAME', name='a')  # 2 x 5 x 11 x 4
  with context():
    net = tf.nn.conv2d(net, second, strides=1, padding='VALID', name='b')  # 2 x 5 x 11 x 6
  net = tf.nn.conv2d_transpose(net, up, [2, 10, 22, 7], strides=2, padding='VALID', name='c')
  gradients = tf.gradients(net, [first, second, up])
  a, b, c = 2 * 5 * 11 * (3 * 5 * 3 * 4), 2 * 5 * 11 * (4 * 6), 2 * 5 * 11 * (2 * 2 * 7 * 6)
  assert (a, b, c) == (19800, 2640, 18480)
  counts = step_profile.multiply_adds(tf.add_n([tf.reduce_sum(tensor) for tensor in [net, *gradients]]))
  by_kind = {kind: sorted(count for own, count in counts.values() if own == kind) for kind in step_profile.KINDS}
  assert by_kind['convolution'] == [b, c, a]
  assert by_kind['convolution: gradient to weights'] == [b, c, a]
  assert by_kind['convolution: gradient to input'] == [b, c]  # none to the images
  assert sum(map(len, by_kind.values())) == len(counts) == 8


def test_kinds_add_up():
  ops = [step_profile.Op('x/Conv2D', '_MklNativeConv2D', 0.3, ''),
         step_profile.Op('y/Conv2D', '_MklNativeConv2D', 0.1, ''),
         step_profile.Op('z', 'Cast', 0.4, ''), step_profile.Op('q', 'MaxPool', 0.0, '')]
  counts = {'x/Conv2D': ('convolution', 600), 'y/Conv2D': ('convolution', 200)}
  lines = step_profile.kinds(ops, counts, step_seconds=0.5, peak=6400.0)
  assert [(line['kind'], line['ops']) for line in lines] == [('casts', 1), ('convolution', 2), ('pooling', 1)]
  assert [line['share'] for line in lines] == pytest.approx([0.5, 0.5, 0])
  assert lines[1]['multiply_adds'] == 800 and 'of_peak' not in lines[0]
  assert lines[1]['of_peak'] == pytest.approx(800 / (0.5 * 0.5) / 6400)  # 3200 a second in half of half a second


def test_traces_name_ops_with_shapes(tmp_path, graph):
  images = tf.Variable(np.ones([2, 5, 7, 3], np.float32), name='images')
  weights = tf.Variable(np.ones([3, 3, 3, 4], np.float32), name='weights')
  output = tf.nn.conv2d(images, weights, strides=1, padding='VALID', name='conv')
  with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    step = lambda **options: session.run(output, **options)
    step()
    traces = [step_profile.trace(step) for _ in range(2)]
  step_profile.write_timeline(str(tmp_path / 'timeline.json'), traces[0].step_stats)
  ops = {op.name: op for op in step_profile.read_ops(traces)}
  assert ops['conv'].kind == 'convolution' and 0 < ops['conv'].seconds < 5
  assert ops['conv'].shapes == '2x5x7x3 3x3x3x4 -> 2x3x5x4'
  assert [op.seconds for op in ops.values()] == sorted((op.seconds for op in ops.values()), reverse=True)
  events = json.loads((tmp_path / 'timeline.json').read_text())['traceEvents']
  assert any(event.get('args', {}).get('name') == 'conv' for event in events)


def test_square_product_is_in_its_precision():
  with step_profile.square_product('bfloat16', 8) as product:
    op = product.args[0]
    assert op.type == 'MatMul' and op.outputs[0].dtype == tf.bfloat16 and op.outputs[0].shape.as_list() == [8, 8]
    assert product() is None


def test_text():
  lines = summary('float32', {'convolution': 0.75, 'casts': 0.25})
  lines['kinds'][0] |= {'multiply_adds': 3_000_000_000, 'of_peak': 0.5}
  lines['top'] = [{'type': 'Conv2D', 'shapes': '1 -> 2', 'name': 'a', 'seconds': 0.5, 'multiply_adds': 1_000_000_000}]
  assert step_profile.text(lines).splitlines() == [
      'float32: 3.0 billion multiply-adds in convolutions',
      ' 75.0 %     750.0 ms     2 ops  convolution: 3.0 billion, at 0.50 of the peak',
      ' 25.0 %     250.0 ms     2 ops  casts',
      'the longest ops:',
      '   500.00 ms  Conv2D  1 -> 2  2 GMAC/s  a']


def test_chart_has_a_bar_a_precision():
  picture = step_profile.chart([summary('float32', {'convolution': 1.0, 'casts': 0.001}),
                                 summary('bfloat16', {'convolution': 0.5, 'casts': 0.25, 'pooling': 0.001})])
  assert picture.shape[0] == canvas.TOP + 2 * (2 * step_profile._BAR + 12) + canvas.MARGIN
  widths = [(picture == color).all(axis=2)[canvas.TOP:].sum(axis=1)
            for color in step_profile._COLORS]
  first = step_profile._BAR // 2  # rows through the upper bars' middles
  second = first + 2 * step_profile._BAR + 12
  assert [widths[0][first], widths[1][first + step_profile._BAR]] == [
      step_profile._WIDTH + 1, step_profile._WIDTH // 2 + 1]
  assert [widths[0][second], widths[1][second + step_profile._BAR]] == [2, step_profile._WIDTH // 4 + 1]


def test_kinds_of_a_real_step():
  """The names that KINDS knows are those that the training step gives to its ops."""
  setup = benchmark.Setup(dataset=get_dataset('shapes'), network=get_network('segnet_basic'), data_dir='',
                          checkpoint='', size=(19, 27), batch_size=1, precisions=('float32',), steps=1, warmup_steps=0)
  with benchmark.bare_step(setup, 'float32') as step:
    ops = step.args[0].graph.get_operations()
  kinds = lambda words: {step_profile.kind_of(op.type, op.name) for op in ops if any(word in op.name for word in words)}
  assert kinds(['ApplyAdam', 'clip_by', 'Adam_10/update']) == {'optimizer, clipping, weight decay'}
  assert {step_profile.kind_of(op.type, op.name) for op in ops if op.type == 'L2Loss'} == {
      'optimizer, clipping, weight decay'}
  assert 'sums of gradients' in {step_profile.kind_of(op.type, op.name) for op in ops if op.type == 'AddN'}


def test_whole(tmp_path, run_program):
  output = tmp_path / 'new/profile.json'
  result = run_program(step_profile.main, '--net=segnet_basic', '--dataset=camvid', '--height=19', '--width=27',
                       '--batch_size=1', '--steps=2', '--warmup_steps=1', '--precisions=float32', '--product_size=64',
                       '--timeline', f'--output={output}')
  assert result.returncode == 0, result.stderr
  written = json.loads(output.read_text())
  assert written['command'].startswith('python -m utils.studies.step_profile --dataset=camvid --net=segnet_basic')
  cases = ['bare step', 'its ops, one after the other', 'its convolutions', 'product of 64x64',
           'convolutions / product']
  assert [line['case'] for line in written['results']] == [f'float32: {case}' for case in cases]
  assert all(line['median'] > 0 for line in written['results'])
  profiled = written['parts']['float32']['summary']
  assert sum(line['share'] for line in profiled['kinds']) == pytest.approx(1)
  assert sum(line.get('multiply_adds', 0) for line in profiled['kinds']) == profiled['multiply_adds'] > 0
  assert len(profiled['top']) == step_profile.TOP
  assert step_profile.text(profiled) in result.stdout and results.table(written['results']) in result.stdout
  assert Image.open(output.with_suffix('.png')).mode == 'RGB'
  assert json.loads((output.parent / 'profile-float32-timeline.json').read_text())['traceEvents']
