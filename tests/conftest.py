"""Fixtures: the project's modules on the path, and real data where a checkout has it beside itself."""

import os
import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

SHARED = pathlib.Path(os.environ.get('FCN_SHARED', ROOT.parent / 'shared'))


@pytest.fixture(scope='session')
def shared():
  """Folder with real data and weights (`data/camvid`, `pretrained/inception_v3.ckpt`, ...)."""
  if not SHARED.is_dir():
    pytest.skip(f'no real data at {SHARED} (set FCN_SHARED)')
  return SHARED


@pytest.fixture
def graph():
  """A fresh default graph, in which random weights are the same in every run: now and then others silence a layer."""
  from utils.compat import tf

  with tf.Graph().as_default() as fresh:
    tf.set_random_seed(1)
    yield fresh


@pytest.fixture(scope='module')
def tiny():
  """Makes a tiny FCN known to --net while a module's tests run; returns its name."""
  from tiny import NAME, registered

  with registered():
    yield NAME


@pytest.fixture(scope='session')
def run_program():
  """`run_program(main, *arguments)` calls a program's `main` in this process; returns a programs.Result."""
  import programs

  return programs.run


@pytest.fixture(scope='module')
def predictor(folder):
  """The Predictor of the run that a module's fixture `folder` makes."""
  from utils.inference.predictor import Predictor
  from utils.runs import load_run

  with Predictor(load_run(str(folder))) as made:
    yield made


@pytest.fixture
def infer(folder, tmp_path, monkeypatch):
  """`infer(*arguments)` runs inference.py on a module's `folder`, in an empty folder; returns a programs.Result."""
  import programs

  import inference

  monkeypatch.chdir(tmp_path)
  return lambda *arguments: programs.run(inference.main, f'--ckpt={folder}', *arguments)
