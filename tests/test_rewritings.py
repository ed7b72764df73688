"""Which rewritings are used follows from the device, and a graph has those alone."""

import pytest

from nets import get_network
from nets.network import Mode
from utils import rewritings as rewritings_lib
from utils import session
from utils.compat import tf
from utils.rewritings import Rewritings, rewritings
from utils.training import gradients, step

AVX2, AVX512 = {'avx', 'avx2'}, {'avx2', 'avx512f', 'avx512_bf16'}


@pytest.mark.parametrize('flags, products', [
    (AVX2, 'all'), (AVX512, 'pointwise'), ({'sse4_2'}, 'pointwise'), (set(), 'pointwise')])
def test_the_device_chooses(flags, products, monkeypatch):
  monkeypatch.setattr(rewritings_lib, 'cpu_flags', lambda: frozenset(flags))
  assert rewritings('CPU') == Rewritings(products=products, fold_batch_norm=True)
  assert rewritings('GPU') == Rewritings(products='none', fold_batch_norm=False)


@pytest.mark.parametrize('gpus, gpu, expected', [
    (0, None, 'CPU'), (0, 'none', 'CPU'), (1, None, 'GPU'), (2, '1', 'GPU'), (2, 'none', 'CPU')])
def test_the_device_is_the_runs_and_not_the_machines(gpus, gpu, expected, monkeypatch):
  monkeypatch.setattr(tf.config, 'list_physical_devices', lambda kind: [kind] * gpus)
  assert session.device_type(gpu) == expected


def step_graph(chosen):
  """Graph of a training step of an FCN with frozen batch norms by a Rewritings."""
  network = get_network('inception_v1')
  mode = Mode(is_training=True, freeze_batch_norm=True, fold_batch_norm=chosen.fold_batch_norm)
  with tf.Graph().as_default() as graph:
    batch = {'image': tf.placeholder(tf.float32, [2, 75, 64, 3]), 'label': tf.placeholder(tf.int32, [2, 75, 64])}
    step.make_step(lambda images: network.logits(images, 5, mode, skip='32s'), rate=tf.constant(0.1),
                   pretrained_scopes=network.pretrained_scopes, products=chosen.products)(batch)
  return graph


def counts(graph):
  """Numbers of products for weight gradients, of convolutions' own weight gradients, of scaled (folded) weights."""
  operations = graph.get_operations()
  return (sum(op.type == 'MatMul' and gradients.PRODUCT in op.name for op in operations),
          sum(op.type == 'Conv2DBackpropFilter' for op in operations),
          sum(op.type == 'Conv2D' and op.inputs[1].op.type == 'Mul' for op in operations))


def test_a_graph_for_gpus_has_no_rewriting_and_one_for_cpus_has_them(monkeypatch):
  """GoogLeNet without its classifier has 57 convolutions with batch norm, 37 of them 1x1, beside a 1x1 of scores."""
  gpu = step_graph(rewritings('GPU'))
  assert counts(gpu) == (0, 58, 0)
  assert not [op for op in gpu.get_operations() if '_gradient_op_type' in op.node_def.attr
              and op.node_def.attr['_gradient_op_type'].s.startswith(b'Convolution')]
  monkeypatch.setattr(rewritings_lib, 'cpu_flags', lambda: frozenset(AVX512))
  assert counts(step_graph(rewritings('CPU'))) == (38, 20, 57)


