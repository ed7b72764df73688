"""Steps that XLA compiles: the same numbers, what stays outside, one compilation, and --xla of train.py."""

import functools
import re

import numpy as np
import pytest
from few_shapes import convert_shapes
from programs import assert_refused

import train
from nets import NETWORKS, get_network
from nets.dropout import dropout
from nets.network import Mode
from nets.unpooling import max_pool, max_unpool
from utils.checkpoint_files import open_checkpoint
from utils.compat import slim, tf
from utils.errors import UserError
from utils.rewritings import rewritings
from utils.session import chosen_xla, session_config
from utils.training import compiled, gradients, losses
from utils.training.step import dropout_seed, make_step

SIZE, CLASSES = (13, 18), 3


def logits_of(images, mode):
  """A network of a few layers with all that networks here have: batch norm, unpooling, dropout, resizing.

  No ReLU: at its kink a difference of rounding grows.
  """
  with slim.arg_scope([slim.conv2d], weights_regularizer=slim.l2_regularizer(1e-2), activation_fn=tf.nn.softplus):
    with slim.arg_scope([slim.batch_norm], decay=0.5, is_training=mode.learns_batch_norm):
      net = slim.conv2d(images / 255, 6, 3, stride=2, scope='Backbone/conv', normalizer_fn=slim.batch_norm)
    pooled, token = max_pool(net)
    net = max_unpool(slim.conv2d(pooled, 6, 3, rate=2, scope='head/conv'), token)
    net = dropout(net, 0.7, mode=mode)
    net = slim.conv2d(net, CLASSES, 1, scope='head/score', activation_fn=None)
  return tf.image.resize_bilinear(net, SIZE, align_corners=True), {}


def batch_of(size=SIZE, num_classes=CLASSES):
  """Placeholders of a batch of two images, and values of them, a third of the first image void."""
  rng = np.random.default_rng(0)
  labels = rng.integers(0, num_classes, (2, *size))
  labels[0, :size[0] // 3] = 255
  batch = {'image': tf.placeholder(tf.float32, [2, *size, 3]), 'label': tf.placeholder(tf.int32, [2, *size])}
  return batch, {batch['image']: rng.uniform(0, 255, (2, *size, 3)), batch['label']: labels}


def build(xla, logits_fn=logits_of, batch=None, freeze=False, **options):
  """A step in the default graph; returns its StepOutputs."""
  mode = Mode(is_training=True, dropout_seed=dropout_seed(0), freeze_batch_norm=freeze)
  # With an epsilon of 1, Adam's steps are smooth functions of the gradients: tiny ones decide no sign.
  options = {'rate': tf.constant(0.1), 'pretrained_scopes': ('Backbone',), 'new_layers_rate': 10.0,
             'adam_epsilon': 1.0, **options}
  outputs = make_step(functools.partial(logits_fn, mode=mode), **options)(batch)
  return compiled.compiled(outputs) if xla else outputs


def trained(xla, steps=3, **options):
  """Runs some steps; returns all fetched numbers of each step, and all variables by name."""
  with tf.Graph().as_default():
    tf.set_random_seed(1)
    batch, feed = batch_of()
    outputs = build(xla, batch=batch, **options)
    fetches = {**outputs._asdict(), 'averages': [], 'scaling': outputs.scaling or {},
               'gradients': [gradient for gradient, _ in outputs.gradients]}
    with tf.Session(config=session_config(xla=xla)) as session:
      session.run(tf.global_variables_initializer())
      values = [session.run(fetches, feed) for _ in range(steps)]
      return values, {variable.op.name: session.run(variable) for variable in tf.global_variables()}


CASES = {
    'all losses': {'loss': '+'.join(losses.LOSSES), 'class_weights': [1.0, 2.0, 0.5]},
    'parts, averages, scale': {'gradient_accumulation': 2, 'ema_decay': 0.9, 'scaled': True, 'clip_norm': 0.1},
    'products, frozen': {'products': 'all', 'freeze': True, 'scopes': ['head']},
}


@pytest.mark.parametrize('name', CASES)
def test_three_steps_give_the_same_numbers(name):
  (plain, weights), (values, others) = trained(False, **CASES[name]), trained(True, **CASES[name])
  assert weights.keys() == others.keys() and weights['global_step'] == others['global_step'] == 3
  for first, second in zip(tf.nest.flatten(plain), tf.nest.flatten(values)):
    np.testing.assert_allclose(second, first, rtol=2e-4, atol=2e-5)
  for key in weights:
    np.testing.assert_allclose(others[key], weights[key], rtol=2e-4, atol=2e-5, err_msg=key)
  assert plain[0]['loss'] != plain[2]['loss']


def test_a_gradient_that_is_not_finite_changes_no_weight(graph):
  @tf.custom_gradient
  def faulty(x):
    return x, lambda gradient: gradient * np.inf

  batch, feed = batch_of()
  outputs = build(True, lambda images, mode: (faulty(logits_of(images, mode)[0]), {}), batch, scaled=True)
  weights = tf.trainable_variables()
  with tf.Session(config=session_config(xla=True)) as session:
    session.run(tf.global_variables_initializer())
    before = session.run(weights)
    loss, scaling = session.run([outputs.loss, outputs.scaling], feed)
    assert np.isfinite(loss) and scaling['left_out'] == 1
    assert all(np.array_equal(a, b) for a, b in zip(before, session.run(weights)))


def function_of(graph):
  """The FunctionDef of the only function in a graph."""
  function, = graph.as_graph_def().library.function
  return function


def test_only_variables_and_checks_stay_outside(graph):
  batch, _ = batch_of()
  with tf.control_dependencies([tf.debugging.assert_less(tf.reduce_max(batch['label']), 256)]):
    batch['label'] = tf.identity(batch['label'])
  outputs = build(True, batch=batch, loss='lovasz', ema_decay=0.5)
  ops = compiled._ancestors([outputs.loss])
  kinds = {op.type for op in ops}
  assert {'Assert', 'ResourceApplyAdam', 'AssignSubVariableOp', 'PartitionedCall'} <= kinds
  assert not kinds & {'Conv2D', 'MaxPoolGrad', 'Conv2DBackpropFilter', 'DenseBincount', 'FusedBatchNormGradV3'}
  assert sum(op.type == 'PartitionedCall' for op in ops) == 1
  inside = {node.op for node in function_of(graph).node_def}
  assert {'Conv2D', 'MaxPoolGrad', 'DenseBincount'} <= inside
  assert not any('Variable' in kind or kind in ('Assert', 'ResourceApplyAdam', 'Switch') for kind in inside)
  reads = [op.inputs[0].op.name for op in ops if op.type == 'ReadVariableOp' and op.name.startswith('ReadVariableOp')]
  assert len(reads) == len(set(reads))  # each variable is read once for the function


def test_reads_and_writes_keep_their_order(graph):
  """A counter that is added to between two parts: the second part's read is after the write, the write after the first.
  """
  x = tf.placeholder(tf.float32, [3])
  counter = tf.get_variable('counter', initializer=1.0)
  first = tf.reduce_sum(x * counter.read_value())
  with tf.control_dependencies([first]):
    added = counter.assign_add(tf.reduce_max(x), read_value=False)
  with tf.control_dependencies([added]):
    second = tf.exp(first) + counter.read_value()
  result, kept = compiled.compiled([second, 'no tensor'])
  assert kept == 'no tensor' and result is not second
  with tf.Session(config=session_config(xla=True)) as session:
    session.run(counter.initializer)
    assert session.run(result, {x: [0.5, 0.25, 0.75]}) == pytest.approx(np.exp(1.5) + 1.75)
    assert session.run(counter) == 1.75


# Types of ops in the steps of all networks; steps of all of them were compiled, which takes minutes.
COMPILED = {
    'Abs', 'AddN', 'AddV2', 'All', 'AvgPool', 'AvgPoolGrad', 'BatchMatMulV2', 'BatchToSpaceND', 'BiasAdd',
    'BiasAddGrad', 'Bitcast', 'BitwiseAnd', 'BitwiseOr', 'BroadcastGradientArgs', 'Cast', 'ConcatOffset',
    'ConcatV2', 'Const', 'Conv2D', 'Conv2DBackpropFilter', 'Conv2DBackpropInput', 'Cumsum', 'DenseBincount',
    'DepthwiseConv2dNative', 'DepthwiseConv2dNativeBackpropFilter', 'DivNoNan', 'Exp', 'ExpandDims', 'Fill',
    'Floor', 'FloorDiv', 'FloorMod', 'FusedBatchNormGradV3', 'FusedBatchNormV3', 'GatherV2', 'Greater',
    'GreaterEqual', 'Identity', 'IdentityN', 'IsFinite', 'L2Loss', 'LRN', 'Less', 'LogSoftmax', 'LogicalAnd',
    'LogicalNot', 'MatMul', 'Max', 'MaxPool', 'MaxPoolGrad', 'Maximum', 'Minimum', 'Mul', 'Neg', 'NoOp',
    'NotEqual', 'OneHot', 'Pack', 'Pad', 'Range', 'RealDiv', 'Relu', 'ReluGrad', 'Reshape', 'ReverseV2', 'Rsqrt',
    'Select', 'SelectV2', 'ShapeN', 'Slice', 'SpaceToBatchND', 'SparseSoftmaxCrossEntropyWithLogits', 'Split',
    'Sqrt', 'Square', 'StatelessRandomGetKeyCounter', 'StatelessRandomUniformFullIntV2', 'StopGradient',
    'StridedSlice', 'StridedSliceGrad', 'Sub', 'Sum', 'Tile', 'TopKV2', 'Transpose', 'UnsortedSegmentSum',
}


@pytest.mark.parametrize('name', [name for name in NETWORKS if name not in ('resnet_v1_101', 'vgg_19')])
def test_networks_have_only_ops_that_compilers_take(name, graph):
  """XLA knows all of them. TensorFlow's layout optimizer gives up on SelectV2 whose other input is a scalar.

  The two networks left out have more of the layers of resnet_v1_50 and vgg_16.
  """
  network = get_network(name)
  batch, _ = batch_of((64, 64))
  chosen = rewritings('CPU')
  mode = Mode(is_training=True, dropout_keep_prob=0.5, dropout_seed=dropout_seed(0),
              freeze_batch_norm=network.pretrained_batch_norm, fold_batch_norm=chosen.fold_batch_norm)
  with gradients.fast_gradients(chosen.products):
    logits, _ = network.logits(batch['image'], CLASSES, mode)
  loss = losses.segmentation_loss(logits, batch['label'])
  slopes = tf.gradients(loss, tf.trainable_variables())
  split = compiled._split(compiled._ancestors([loss, *(slope for slope in slopes if slope is not None)]))
  assert split.after == [] and len(split.inside) > 100
  assert {op.type for op in split.inside} - COMPILED == set()

  ops = graph.get_operations()
  assert any(op.type == 'StatelessRandomUniformFullIntV2' and 'dropout' in op.name for op in ops)
  assert not [op for op in ops if op.type == 'RandomUniform' and 'dropout' in op.name]
  selects = [op for op in ops if op.type in ('Select', 'SelectV2') and op.outputs[0].shape.rank == 4]
  assert not [op.name for op in selects if any(tensor.shape.rank != 4 for tensor in op.inputs)]


def gpu_rewritten(graph, fetch):
  """The GraphDef of a fetch as TensorFlow's graph optimizer leaves it for --precision=float16 on a pretended GPU."""
  from tensorflow.core.protobuf import device_properties_pb2 as properties
  from tensorflow.python.grappler import cluster, tf_optimizer

  graph.add_to_collection('train_op', fetch)
  config = session_config(xla=True)
  config.graph_options.rewrite_options.auto_mixed_precision = 1  # RewriterConfig.ON
  gpu = properties.DeviceProperties(type='GPU', vendor='NVIDIA', num_cores=80, memory_size=2**34,
                                    environment={'architecture': '8.0', 'cuda': '12050', 'cudnn': '9010'})
  device = properties.NamedDevice(name='/job:localhost/replica:0/task:0/device:GPU:0', properties=gpu)
  return tf_optimizer.OptimizeGraph(config, tf.train.export_meta_graph(graph=graph), verbose=False,
                                    cluster=cluster.Cluster(devices=[device]))


def test_float16_on_a_gpu_reaches_the_compiled_step(graph):
  batch, _ = batch_of()
  outputs = build(True, batch=batch, scaled=True, freeze=True)
  rewritten = gpu_rewritten(graph, outputs.loss)
  function, = rewritten.library.function
  kinds = {(node.op, tf.as_dtype(node.attr['T'].type)) for node in function.node_def if node.op.startswith('Conv2D')}
  assert kinds == {(kind, tf.float16) for kind in ('Conv2D', 'Conv2DBackpropInput', 'Conv2DBackpropFilter')}


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
  return convert_shapes(str(tmp_path_factory.mktemp('shapes')), train=7, val=1, num_shards=1)


@pytest.fixture
def run(run_program, data_dir, tmp_path, tiny):
  """Runs train.py for `steps` steps in all, in a folder; returns its programs.Result."""
  def runs(*options, steps, folder='run'):
    return run_program(
        train.main, '--dataset=shapes', f'--net={tiny}', '--checkpoint=none', '--crop_size=63,95', '--batch_size=2',
        '--log_steps=1', '--eval_steps=0', '--adam_epsilon=1', f'--data_dir={data_dir}',
        f'--run_dir={tmp_path / folder}', f'--max_steps={steps}', *options)
  return runs


def saved(prefix):
  reader = open_checkpoint(str(prefix))
  return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


def test_a_run_goes_on_with_and_without_xla(run, tmp_path):
  """A run that goes on with XLA has the losses of one without, and checkpoints with the same names and numbers."""
  start, compiled_after = run(steps=1), run('--xla=on', '--summarize_gradients', steps=3)
  plain = run('--xla=auto', steps=3, folder='plain')
  losses_of = lambda result: [float(loss) for loss in re.findall(r'step \d/\d  loss (\S+)', result.stdout)]
  np.testing.assert_allclose(losses_of(start) + losses_of(compiled_after), losses_of(plain), atol=2e-4)
  assert len(losses_of(plain)) == 3 and 'XLA' not in start.stdout + plain.stdout
  assert len(re.findall(r'^compiling the step with XLA \.\.\. took \d+ s, .*$', compiled_after.stdout, re.M)) == 1
  assert compiled_after.stderr == ''
  first, second = saved(tmp_path / 'run/model.ckpt-3'), saved(tmp_path / 'plain/model.ckpt-3')
  assert first.keys() == second.keys()
  for name in first:
    np.testing.assert_allclose(first[name], second[name], rtol=1e-3, atol=1e-4, err_msg=name)


def test_what_xla_cannot_compile_is_refused_in_a_line(run, monkeypatch):
  def dilated(logits, ids, labelled, *, class_weights=None):
    weights = tf.zeros([1, 1, logits.shape[-1]])
    return tf.reduce_mean(tf.raw_ops.Dilation2D(
        input=logits, filter=weights, strides=[1] * 4, rates=[1] * 4, padding='SAME'))

  monkeypatch.setitem(losses.LOSSES, 'cross_entropy', dilated)
  assert_refused(run('--xla=on', steps=1), 'XLA cannot compile this step: ', 'Dilation2D', 'use --xla=off')


def test_a_label_that_is_no_class_is_found(graph):
  batch, feed = batch_of()
  checked = compiled.checked(batch, CLASSES)
  outputs = build(True, batch=checked)
  label = batch['label']
  with tf.Session(config=session_config(xla=True)) as session:
    session.run(tf.global_variables_initializer())
    feed[label][1, 2, 3] = CLASSES
    with pytest.raises(tf.errors.InvalidArgumentError, match='assertion failed'):
      session.run(outputs.loss, feed)
    assert session.run(tf.train.get_global_step()) == 0
    feed[label][1, 2, 3] = CLASSES - 1
    assert np.isfinite(session.run(outputs.loss, feed))


def test_a_step_on_several_devices_is_refused(graph):
  parts = []
  for number in range(2):
    with tf.device(f'/CPU:{number}'):
      parts.append(tf.exp(tf.placeholder(tf.float32, [2])))
  with pytest.raises(UserError, match='several devices.*CPU:0, .*CPU:1.*--xla=off'):
    compiled.compiled(tf.add_n(parts))


@pytest.mark.parametrize('xla, expected', [('off', False), ('on', True), ('auto', False)])
def test_xla_is_chosen(xla, expected):
  assert chosen_xla(xla, 'none') == expected
