"""PyTorch's parts of the benchmark of a GPU, on CPUs, and that its network can be moved to any device."""

import dataclasses
import os

import numpy as np
import pytest
from test_benchmark_pytorch import make_setup

import nets
from nets.dropout import dropout
from nets.network import Mode
from utils.compat import slim, tf
from utils.errors import UserError
from utils.settings import parse
from utils.studies import gpu_part, gpu_parts
from utils.studies.gpu_parts import GpuSettings

torch = pytest.importorskip('torch', reason='PyTorch is not installed: pip install -r requirements-pytorch.txt')

from utils.studies import torch_network  # noqa: E402, it needs PyTorch


def test_network_moves_with_all_its_tensors(graph):
  """On the device 'meta' an operation on a tensor that was left on the CPU fails."""
  from nets.geometry import bilinear_upsample, mirrored_pad

  images = tf.placeholder(tf.float32, [2, 21, 30, 3])
  net = mirrored_pad(images, (3, 2), (27, 36)) * np.float32([1, 2, 3]) / 127.5 - 1.0
  net = slim.conv2d(net, 8, 3, stride=2, normalizer_fn=slim.batch_norm, normalizer_params={'is_training': False})
  net = dropout(net, 0.5, mode=Mode(dropout=True))
  net = bilinear_upsample(net, 2, (-3.0, -2.0), (21, 30))
  values = {variable.op.name: np.ones(variable.shape.as_list(), np.float32) for variable in tf.global_variables()}
  network, parameters = torch_network.convert(net, images, values)
  network.to('meta')
  assert {tensor.device.type for tensor in [*network.parameters(), *network.buffers()]} == {'meta'}
  answer = network(torch.zeros(2, 21, 30, 3, device='meta'))
  assert answer.device.type == 'meta' and answer.shape == (2, 8, 21, 30)


@pytest.fixture
def settings(tmp_path, monkeypatch):
  monkeypatch.setitem(nets.NETWORKS, 'two', make_setup().network)
  monkeypatch.setattr(gpu_parts, 'PICTURES', 1)
  monkeypatch.setattr(torch, 'compile', lambda function, **options: function)
  settings = parse(GpuSettings, [
      '--net=two', '--device=CPU', '--height=37', '--width=53', '--batch_sizes=2', '--inference_batches=1',
      '--steps=2', '--warmup_steps=0', '--precisions=tf32,float32'])
  gpu_parts.make_work_dir(str(tmp_path), settings)
  return settings


@pytest.mark.parametrize('part, variant', [('pytorch', 'tf32, batch {}, eager'),
                                           ('pytorch_compiled', 'bfloat16, batch {}, compiled')])
def test_rows(part, variant, settings, tmp_path):
  lines = list(gpu_part.rows_of(part, str(tmp_path), settings))
  assert [line['case'] for line in lines] == [f'train: {variant.format(2)}', f'inference: {variant.format(1)}']
  for line in lines:
    assert line['median'] > 0 and line['side'] == 'PyTorch' and line['what'] == part
    assert line['beside']['images/s'] == pytest.approx(line['batch'] / line['median'])
  assert [line['task'] for line in lines] == ['train', 'inference']


def test_no_gpu_is_said(settings, tmp_path):
  wanted = dataclasses.replace(settings, device='GPU')
  with pytest.raises(UserError, match=r'PyTorch .* sees no GPU here'):
    list(gpu_part.rows_of('pytorch', str(tmp_path), wanted))


def test_work_appends_rows(settings, tmp_path, run_program):
  rows = tmp_path / 'rows'
  result = run_program(gpu_part.main, '--part=product', f'--work_dir={tmp_path}', f'--rows={rows}', '--device=CPU',
                       f'--net={settings.net}', '--product_size=8', '--steps=1', '--precisions=float32')
  assert result.returncode == 0, result.stderr
  assert len(rows.read_text().splitlines()) == 1 and os.path.getsize(rows) > 0
