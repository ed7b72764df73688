"""ImageNet's mean color goes with the bands, in runs of earlier versions as these were trained."""

import dataclasses
import json

import numpy as np
import programs
import pytest
import tiny as tiny_net

import train
from datasets import DATASETS
from datasets.dataset import Dataset, Source, label_map
from nets import NETWORKS, backbones, deconvnet, get_network, segnet
from nets.fcn import fcn
from nets.network import Mode
from utils.compat import tf
from utils.inference.predictor import Predictor
from utils.runs import load_run

pytestmark = pytest.mark.fast

GRAY = 114.8  # (123.68 + 116.78 + 103.94) / 3


@pytest.mark.parametrize('num_bands, colors, expected', [
    (3, None, (123.68, 116.78, 103.94)), (3, (0, 1, 2), (123.68, 116.78, 103.94)),
    (3, (2, 1, 0), (103.94, 116.78, 123.68)), (3, (None, 2, 0), (GRAY, 103.94, 123.68)), (3, (None,) * 3, (GRAY,) * 3),
    (4, None, (GRAY,) * 4), (4, (2, 1, 0, None), (103.94, 116.78, 123.68, GRAY)), (1, None, (GRAY,)),
    (1, (1,), (116.78,)),
])
def test_each_band_has_the_mean_of_its_color(num_bands, colors, expected, graph):
  image = np.random.default_rng(0).uniform(0, 255, [2, 3, 5, num_bands]).astype(np.float32)
  with tf.Session() as session:
    found = session.run(backbones.without_mean(tf.constant(image), colors))
  np.testing.assert_allclose(found, image - np.float32(expected), atol=1e-4)


@pytest.fixture
def subtracted(monkeypatch):
  """List of the colors with which networks subtract the mean."""
  colors, without_mean = [], backbones.without_mean

  def watched(images, of_bands=None):
    colors.append(of_bands)
    return without_mean(images, of_bands)

  for module in (backbones, segnet, deconvnet):
    monkeypatch.setattr(module, 'without_mean', watched)
  return colors


@pytest.mark.parametrize('name', ['vgg_16', 'vgg_19', 'vgg_16_trunk', 'resnet_v1_50', 'resnet_v1_101', 'segnet',
                                  'deconvnet'])
def test_every_network_that_subtracts_the_mean_is_told_the_colors(name, subtracted, graph, monkeypatch):
  class Enough(Exception):
    pass

  def stop(images, of_bands=None):
    subtracted.append(of_bands)
    raise Enough  # the rest of the network takes long

  for module in (backbones, segnet, deconvnet):
    monkeypatch.setattr(module, 'without_mean', stop)
  network = get_network(name)
  for shape in ({'band_colors': [2, None, 0]}, {}):
    with pytest.raises(Enough):
      network.logits(tf.zeros([1, 64, 64, 3]), 4, Mode(), **network.shape(shape))
  assert subtracted == [(2, None, 0), None]


@pytest.fixture
def photographs(monkeypatch, tmp_path):
  """A dataset of photographs, and a small network that subtracts the mean. `start(*flags)` trains on it."""
  features = tiny_net.TINY.build.args[0].features
  backbone = dataclasses.replace(tiny_net.TINY.build.args[0], features=lambda images, mode: features(
      backbones.without_mean(images, mode.band_colors), mode))
  monkeypatch.setitem(NETWORKS, 'tiny', fcn(backbone))
  photos = [Source(f'{index}', np.full([40, 50, 3], (40, 90 * index, 200), np.uint8), np.zeros([40, 50], np.uint8))
            for index in range(2)]
  monkeypatch.setitem(DATASETS, 'photos', Dataset(
      name='photos', classes=('a', 'b'), palette=np.array([[0, 0, 0], [9, 9, 9]], np.uint8), splits={'train': 2},
      sources=lambda *_: photos, label_map=label_map({0: 0, 1: 1})))

  def start(*flags):
    result = programs.run(
        train.main, '--dataset=photos', '--net=tiny', '--skip=32s', '--checkpoint=none', '--crop_size=33,33',
        '--batch_size=2', '--eval_steps=0', f'--source_dir={tmp_path}', f'--data_dir={tmp_path / "data"}',
        f'--run_dir={tmp_path / "run"}', *flags)
    assert result.returncode == 0, result.stderr

  return start


def labels(run_dir):
  """Predicts a black picture."""
  with Predictor(load_run(str(run_dir))) as predictor:
    return predictor.labels(np.zeros([1, 30, 40, 3], np.uint8))


def test_a_run_keeps_the_colors_of_its_bands(photographs, subtracted, tmp_path):
  photographs('--bands=3,2,1', '--max_steps=1')
  assert load_run(str(tmp_path / 'run')).config['network']['band_colors'] == [2, 1, 0]
  photographs('--bands=3,2,1', '--max_steps=2')  # resumed
  labels(tmp_path / 'run')
  assert set(subtracted) == {(2, 1, 0)} and len(subtracted) >= 3


def test_a_run_of_an_earlier_version_goes_on_with_its_means(photographs, subtracted, tmp_path):
  photographs('--bands=3,2,1', '--max_steps=1')
  path = tmp_path / 'run/config.json'
  config = json.loads(path.read_text())
  del config['network']['band_colors']
  path.write_text(json.dumps(config))
  subtracted.clear()
  labels(tmp_path / 'run')
  photographs('--bands=3,2,1', '--max_steps=2')
  labels(tmp_path / 'run')
  assert set(subtracted) == {None} and len(subtracted) >= 3
  assert json.loads(path.read_text())['network']['band_colors'] is None


def test_photographs_have_the_colors_of_their_places(photographs, subtracted, tmp_path):
  photographs('--max_steps=1')
  assert load_run(str(tmp_path / 'run')).config['network']['band_colors'] == [0, 1, 2]
  assert set(subtracted) == {(0, 1, 2)}
