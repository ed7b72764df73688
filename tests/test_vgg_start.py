"""Starts from VGG-16's convolutions alone: what is restored, what is new, and at which rates they learn."""

import json

import numpy as np
import programs
import pytest
from few_shapes import convert_shapes
from programs import assert_refused

import train
from nets import backbones, deconvnet, get_network, vgg_encoder
from nets.network import Mode
from utils.compat import tf
from utils.runs import load_run

THIN = (3, 4, 5, 6, 7)  # outputs of the convolutions of each block
FC = ('vgg_16/fc6', 'vgg_16/fc7')


@pytest.fixture(scope='module', autouse=True)
def thin():
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(backbones, 'VGG_CHANNELS', THIN)
    patch.setattr(vgg_encoder, 'CHANNELS', THIN)
    for module in (backbones, deconvnet):
      patch.setattr(module, 'VGG_FC_CHANNELS', 8)
    yield


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
  """Two shapes to train on."""
  return convert_shapes(str(tmp_path_factory.mktemp('shapes')), train=2, val=1, num_shards=1)


def saved(path, net, left_out=()):
  """Saves the variables under vgg_16 of a network, at random; returns the prefix and the values."""
  with tf.Graph().as_default(), tf.Session() as session:
    tf.set_random_seed(3)
    get_network(net).logits(tf.zeros([1, 64, 64, 3]), 3)
    variables = [v for v in tf.global_variables('vgg_16/') if not v.op.name.startswith(tuple(left_out))]
    session.run(tf.global_variables_initializer())
    for variable in variables:
      if variable.op.name.endswith('biases'):
        variable.load(np.random.default_rng(1).normal(size=variable.shape).astype(np.float32), session)
    prefix = tf.train.Saver(variables).save(session, str(path / 'vgg.ckpt'), write_meta_graph=False)
    return prefix, session.run({v.op.name: v for v in variables})


@pytest.fixture(scope='module')
def convolutions(tmp_path_factory):
  return saved(tmp_path_factory.mktemp('convolutions'), 'vgg_16_trunk')


def run(folder, data_dir, net, *words):
  return programs.run(
      train.main, '--dataset=shapes', f'--net={net}', '--crop_size=63,95', '--batch_size=2', '--max_steps=1',
      '--eval_steps=0', f'--data_dir={data_dir}', f'--run_dir={folder}', *words)


def rates(stdout):
  """The table of scopes that a run prints: dict of scope -> learning rates."""
  rows = [line.split() for line in stdout.splitlines()]
  return {row[0]: ' '.join(row[3:]) for row in rows
          if len(row) > 3 and all(cell.replace(',', '').isdecimal() for cell in row[1:3])}


@pytest.mark.parametrize('net, own, absent', [
    ('vgg_16_trunk', 'fcn', ()), ('segnet', 'segnet', ()), ('deconvnet', 'deconvnet', FC)])
def test_the_convolutions_are_restored_and_all_else_is_new(net, own, absent, convolutions, data_dir, tmp_path):
  prefix, values = convolutions
  result = run(tmp_path, data_dir, net, f'--checkpoint={prefix}', '--learning_rate=1e-9')
  assert result.returncode == 0, result.stderr
  assert f'warm-started 26 variables under vgg_16 from {prefix}' in result.stdout
  assert (f'; new, being not in it: {", ".join(absent)}\n' in result.stdout) == bool(absent)
  assert rates(result.stdout) == {own: '1e-08', 'vgg_16': '1e-09 to 1e-08' if absent else '1e-09'}
  assert ('note: batch norm is evaluated with averages of which 99%' in result.stdout) == (net != 'vgg_16_trunk')
  trained = tf.train.load_checkpoint(load_run(str(tmp_path)).checkpoint)
  assert len(values) == 26
  for name, value in values.items():
    np.testing.assert_allclose(trained.get_tensor(name), value, atol=1e-7, err_msg=name)
  config = json.loads((tmp_path / 'config.json').read_text())
  assert config['network'].get('absent_scopes', []) == list(absent)


def test_what_is_in_the_file_is_not_new(data_dir, tmp_path):
  prefix, _ = saved(tmp_path, 'deconvnet')
  result = run(tmp_path / 'run', data_dir, 'deconvnet', f'--checkpoint={prefix}')
  assert 'warm-started 30 variables' in result.stdout and 'being not in it' not in result.stdout
  assert rates(result.stdout) == {'deconvnet': '0.001', 'vgg_16': '0.0001'}


def test_a_resumed_run_goes_on_at_its_rates_without_the_file(convolutions, data_dir, tmp_path):
  """What was absent is in config.json; the pretrained weights may be gone, or be others."""
  assert run(tmp_path, data_dir, 'deconvnet', f'--checkpoint={convolutions[0]}').returncode == 0
  result = run(tmp_path, data_dir, 'deconvnet', '--checkpoint=gone.ckpt', '--max_steps=2')
  assert result.returncode == 0, result.stderr
  assert 'resumed at step 1' in result.stdout
  assert rates(result.stdout) == {'deconvnet': '0.001', 'vgg_16': '0.0001 to 0.001'}
  assert json.loads((tmp_path / 'config.json').read_text())['network']['absent_scopes'] == list(FC)


@pytest.mark.parametrize('net, left_out, named', [
    ('vgg_16', FC, '4 not in it: vgg_16/fc6/biases, vgg_16/fc6/weights, '),
    ('deconvnet', ('vgg_16/fc6/biases',), '1 not in it: vgg_16/fc6/biases'),  # half a layer is a mistake
    ('deconvnet', ('vgg_16/conv5/conv5_3', *FC), '2 not in it: vgg_16/conv5/conv5_3/biases')])
def test_what_else_is_missing_is_refused(net, left_out, named, data_dir, tmp_path):
  prefix, _ = saved(tmp_path, 'deconvnet', left_out)
  assert_refused(run(tmp_path / 'run', data_dir, net, f'--checkpoint={prefix}'), 'does not fit', named)


def test_a_missing_file_is_named(data_dir, tmp_path):
  assert_refused(run(tmp_path / 'run', data_dir, 'deconvnet', f'--checkpoint={tmp_path}/gone.ckpt'), 'gone.ckpt')
  assert not (tmp_path / 'run').exists() or not any((tmp_path / 'run').glob('*.json'))


def test_vggs_biases_do_nothing_before_a_batch_norm_that_learns(graph):
  images = tf.constant(np.random.default_rng(0).uniform(0, 255, [2, 33, 47, 3]), tf.float32)
  logits, _ = get_network('segnet').logits(images, 4, Mode(is_training=True))
  with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    before = session.run(logits)
    for variable in tf.global_variables('vgg_16/'):
      if variable.op.name.endswith('biases'):
        variable.load(np.random.default_rng(1).normal(0, 3, variable.shape).astype(np.float32), session)
    after = session.run(logits)
  assert np.ptp(before) > 0.1
  np.testing.assert_allclose(after, before, atol=1e-3 * np.ptp(before))
