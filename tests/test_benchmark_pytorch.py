"""The comparison with PyTorch: its pieces on a network of two layers, in which every figure can be checked."""

import dataclasses
import importlib.util
import sys

import numpy as np
import pytest
from programs import assert_refused

import nets
from datasets import get_dataset
from nets.dropout import dropout
from nets.network import Network
from utils.compat import slim, tf
from utils.errors import UserError
from utils.studies import benchmark, benchmark_pytorch

needs_torch = pytest.mark.skipif(importlib.util.find_spec('torch') is None,
                                 reason='PyTorch is not installed: pip install -r requirements-pytorch.txt')


def two_layers(images, num_classes, mode):
  assert mode.freeze_batch_norm or not mode.is_training
  net = slim.conv2d(images / 127.5 - 1.0, 6, 3, normalizer_fn=slim.batch_norm, scope='Old/conv',
                    normalizer_params={'is_training': False})
  net = dropout(net, 0.5, mode=mode)
  return slim.conv2d(net, num_classes, 1, activation_fn=None, scope='new/score'), {}


def make_setup(**settings):
  network = Network(name='two', build=two_layers, weight_decay=4e-5, pretrained_scopes=('Old',),
                    pretrained_batch_norm=True)
  return benchmark.Setup(**{
      'dataset': get_dataset('camvid'), 'network': network, 'data_dir': '', 'checkpoint': '', 'size': (13, 18),
      'batch_size': 2, 'precisions': ('float32',), 'steps': 2, 'warmup_steps': 0, **settings})


def converted():
  return benchmark_pytorch.torch_network.convert(*benchmark_pytorch.reference(make_setup(), 2))


def batch():
  rng = np.random.default_rng(3)
  return rng.uniform(0, 255, (2, 13, 18, 3)).astype(np.float32), np.full((2, 13, 18), 4)


def test_without_pytorch_one_line_says_how_to_get_it(tmp_path, monkeypatch, run_program):
  monkeypatch.setitem(sys.modules, 'torch', None)  # imports of it fail
  spec = importlib.util.find_spec('utils.studies.benchmark_pytorch')
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  output = tmp_path / 'out.json'
  assert_refused(run_program(module.main, f'--output={output}'), 'PyTorch is not installed (', 'torch',
                 '): pip install -r requirements-pytorch.txt')
  assert not output.exists()


@needs_torch
def test_answers_are_the_same(capsys):
  apart, same = benchmark_pytorch.measure_answers(make_setup())
  assert 0 <= apart['median'] < 1e-5 and same['median'] == 1
  assert apart['pytorch'] == benchmark_pytorch.torch.__version__ and apart['threads'] >= 1
  assert "from TensorFlow's, which reach" in capsys.readouterr().out


@needs_torch
def test_another_network_is_refused(monkeypatch):
  expected = benchmark_pytorch.tensorflow_answer
  monkeypatch.setattr(benchmark_pytorch, 'tensorflow_answer', lambda *arguments: expected(*arguments) * 1.01)
  with pytest.raises(UserError, match='--net=two: the PyTorch network differs'):
    benchmark_pytorch.measure_answers(make_setup())


@needs_torch
@pytest.mark.parametrize('precision', ['float32', 'bfloat16'])
def test_step_trains_every_parameter_at_its_rate(precision):
  network, parameters = converted()
  before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
  assert set(before) == {'Old/conv/weights', 'Old/conv/BatchNorm/beta', 'new/score/weights', 'new/score/biases'}
  step = benchmark_pytorch.training_step(network, parameters, batch(), precision=precision, compiled=False,
                                         pretrained_scopes=('Old',))
  losses = [step()]
  for name, parameter in parameters.items():  # Adam's first step is the rate, wherever the gradient is not next to 0
    moved = (parameter.detach() - before[name]).abs().median().item()
    assert moved == pytest.approx(1e-4 if name.startswith('Old') else 1e-3, rel=1e-2), name
  losses += [step() for _ in range(8)]
  assert losses[-1] < losses[0] - 0.02


@needs_torch
def test_loss_leaves_void_out():
  torch = benchmark_pytorch.torch
  logits = torch.zeros(1, 2, 2, 2)
  logits[0, 1, 0] = 50.0  # the upper row is class 1
  loss = benchmark_pytorch.loss_function(lambda images: logits, 'float32')
  assert loss(logits, torch.tensor([[[1, 1], [0, 255]]])).item() == pytest.approx(np.log(2) / 3)


@needs_torch
def test_labels_are_those_of_the_logits():
  network, _ = converted()
  torch = benchmark_pytorch.torch
  images = np.random.default_rng(5).integers(0, 256, (2, 13, 18, 3), np.uint8)
  with torch.no_grad():
    expected = network(torch.from_numpy(images).float()).numpy().argmax(axis=1)
  assert len(np.unique(expected)) > 3
  for folded in (False, True):
    labels = benchmark_pytorch.labeler(network, 'float32', folded=folded)(images)
    assert labels.dtype == np.uint8 and (labels == expected).all()
    assert (benchmark_pytorch.labeler(network, 'bfloat16', folded=folded)(images) == expected).mean() > 0.95


@needs_torch
def test_bfloat16_weights_are_turned_once():
  network, parameters = converted()
  folded = benchmark_pytorch.folded_network(network, 'bfloat16')
  torch = benchmark_pytorch.torch
  assert {module.weight.dtype for module in folded.modules() if isinstance(module, torch.nn.Conv2d)} == {torch.bfloat16}
  assert all(parameter.dtype == torch.float32 for parameter in parameters.values())


@needs_torch
def test_a_variant_that_fails_is_skipped(monkeypatch, capsys):
  def fail(*arguments, **options):
    def function(*inputs):
      raise RuntimeError('no compiler\nand more')
    return function

  monkeypatch.setattr(benchmark_pytorch.torch, 'compile', fail)
  rows = benchmark_pytorch.measure_train(make_setup())
  assert [(line['what'], line['case'], line['unit'], line['count']) for line in rows] == [
      ('train', 'float32: TensorFlow', 's', 2), ('train', 'float32: PyTorch eager', 's', 2),
      ('train', 'float32: TensorFlow / PyTorch eager', 'ratio', 2)]
  assert capsys.readouterr().out == 'train, float32: PyTorch compiled fails and is skipped: no compiler\n'


@needs_torch
def test_inference_is_from_pixels_to_labels(tmp_path, monkeypatch):
  """An untrained run goes through TensorFlow, the same graph through PyTorch; nothing is compiled."""
  setup = make_setup()
  monkeypatch.setitem(nets.NETWORKS, 'two', setup.network)
  setup = dataclasses.replace(setup, checkpoint=benchmark.save_run(str(tmp_path), setup.dataset, setup.network))
  monkeypatch.setattr(benchmark_pytorch.torch, 'compile', lambda function, options: function)
  labels, compared = {}, benchmark_pytorch.compared

  def watched(setup, what, precision, functions):
    labels.update({name: function() for name, function in functions.items()})
    return compared(setup, what, precision, functions)

  monkeypatch.setattr(benchmark_pytorch, 'compared', watched)
  rows = benchmark_pytorch.measure_inference(setup)
  names = ['PyTorch eager', 'PyTorch folded', 'PyTorch folded and compiled']
  assert [line['case'] for line in rows] == [
      f'float32: {case}' for case in ('TensorFlow', *names, *(f'TensorFlow / {name}' for name in names))]
  assert {(value.shape, value.dtype.name) for value in labels.values()} == {((2, 13, 18), 'uint8')}
  assert len(np.unique(labels['PyTorch eager'])) > 3
  assert all((labels[name] == labels['PyTorch eager']).all() for name in names)


@needs_torch
def test_product(monkeypatch):
  monkeypatch.setattr(benchmark_pytorch.step_profile, 'PRODUCT_SIZE', 16)
  rows = benchmark_pytorch.measure_product(make_setup())
  names = ('TensorFlow', 'PyTorch', 'TensorFlow / PyTorch')
  assert [line['case'] for line in rows] == [f'float32: {name}' for name in names]
  assert all(line['median'] > 0 and line['count'] == 2 for line in rows)


@needs_torch
def test_a_failure_of_tensorflow_is_no_comparison():
  def fail():
    raise tf.errors.InternalError(None, None, 'broken')

  with pytest.raises(tf.errors.InternalError):
    benchmark_pytorch.compared(make_setup(), 'train', 'float32', {'TensorFlow': fail})
