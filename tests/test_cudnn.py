"""How cuDNN's algorithms are chosen: by the number of images and their sizes; no GPU is needed."""

import itertools
import os

import pytest

from utils import cudnn
from utils.compat import tf
from utils.inference import settings as settings_lib
from utils.inference.settings import Labelling
from utils.session import Device

pytestmark = pytest.mark.fast

MANY = cudnn.LEAST_IMAGES


@pytest.mark.parametrize('count, sizes, pays', [
    (MANY, [(360, 480)] * 20, True),
    (MANY - 1, [(360, 480)] * 20, False),
    (MANY, [(360, 480)] * 15 + [(480, 360)], False),
    (MANY, [(360, 480)] * 16 + [(480, 360)], True),
    (float('inf'), [None], True),  # a video
    (float('inf'), [None, (9, 9)], False),
    (1, [(360, 480)], False),
])
def test_the_search_pays_for_many_images_of_one_size(count, sizes, pays):
  assert cudnn.search_pays(count, sizes) == pays


def test_few_images_are_not_looked_at():
  sizes = iter([(1, 1)] * 40)
  cudnn.search_pays(MANY - 1, sizes)
  assert len(list(sizes)) == 40
  sizes = iter([(1, 1)] * 40)
  cudnn.search_pays(MANY, sizes)
  assert len(list(sizes)) == 40 - cudnn.LOOK


@pytest.fixture
def environment(monkeypatch):
  """The process's environment, without cuDNN's variables."""
  for name in cudnn.SUGGESTED:
    monkeypatch.setenv(name, '')  # restored at the end
    monkeypatch.delenv(name)
  return os.environ


def test_variables_of_the_user_stay(environment, monkeypatch):
  monkeypatch.setenv('TF_CUDNN_USE_AUTOTUNE', '1')
  cudnn.take_suggestions()
  assert [environment[name] for name in cudnn.SUGGESTED] == ['1', '1']
  monkeypatch.delenv('TF_CUDNN_USE_AUTOTUNE')
  cudnn.take_suggestions()
  assert {name: environment[name] for name in cudnn.SUGGESTED} == cudnn.SUGGESTED


@pytest.mark.parametrize('gpus, gpu, count, changed', [
    (1, None, 5, True), (2, '0,1', 5, True), (1, None, MANY, False), (0, None, 5, False), (1, 'none', 5, False)])
def test_programs_choose_before_the_network_is_built(environment, monkeypatch, gpus, gpu, count, changed):
  """On a pretended GPU; on the CPU no size is looked at."""
  found = []
  monkeypatch.setattr(tf.config, 'list_physical_devices', lambda kind: [kind] * gpus)
  monkeypatch.setattr(settings_lib, 'Predictor',
                      lambda run, *args, **options: found.append('TF_CUDNN_USE_AUTOTUNE' in environment))
  looked = itertools.repeat((9, 9)) if changed or gpus and gpu != 'none' else iter(lambda: 1 / 0, None)
  Labelling(device=Device(gpu=gpu), temperature=1.0).open_predictor(None, count, looked)
  assert found == [changed]
