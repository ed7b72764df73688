"""train.py says what looks wrong with its data before it starts, and at its end what its last evaluation shows."""

import json

import numpy as np
import pytest
from PIL import Image

import evaluate
import train
from datasets import convert

pytestmark = pytest.mark.usefixtures('tiny')
FLAGS = ('--net=tiny', '--checkpoint=none', '--crop_size=33,33', '--batch_size=2', '--log_steps=1')


@pytest.fixture
def folder(tmp_path, monkeypatch):
  """Three images to train on, one of them also to evaluate, on which a class is that they never show."""
  monkeypatch.setattr(convert, 'default_workers', lambda: 1)
  rng, label = np.random.default_rng(0), np.zeros((33, 47), np.uint8)
  label[:, 20:] = 1
  for kind in ('images', 'labels'):
    (tmp_path / 'mine' / kind).mkdir(parents=True)
  for name in ('a', 'b', 'c', 'z'):
    if name != 'z':
      image = Image.fromarray(rng.integers(0, 256, (33, 47, 3), np.uint8))
    image.save(tmp_path / f'mine/images/{name}.png', compress_level=1 if name == 'z' else 9)  # z shows what c shows
    Image.fromarray(label * 2 if name == 'z' else label).save(tmp_path / f'mine/labels/{name}.png')
  (tmp_path / 'mine/train.txt').write_text('a\nb\nc')
  (tmp_path / 'mine/val.txt').write_text('z')
  (tmp_path / 'mine/classes.txt').write_text('ground\ngrass\ncat')
  return tmp_path / 'mine'


def test_before_and_after_training(folder, tmp_path, run_program):
  flags = (*FLAGS, f'--dataset={folder}', f'--data_dir={tmp_path}/data', f'--run_dir={tmp_path}/run', '--seed=1')
  first = run_program(train.main, *flags, '--max_steps=2', '--eval_steps=1')
  assert first.returncode == 0, first.stderr
  wanted = [f'warning: mine: {line}' for line in (
      '1 of 3 classes occurs in val but not in train and cannot be learned: cat',
      '1 of 3 classes never occurs in val and has no score there: grass',
      'all 3 labels of train are the same picture; are they copies of one file?',
      '1 image in both train and val, so that scores are too good: train c = val z')]
  lines = first.stdout.splitlines()
  assert [line for line in lines if line.startswith('warning: ')] == wanted
  assert lines.index(wanted[-1]) < lines.index(next(line for line in lines if line.startswith('step 1/2')))
  advice = [line for line in lines if line.startswith('advice: ')]
  assert advice and lines.index(advice[0]) > lines.index(next(line for line in lines if line.startswith('step 2  val')))
  again = run_program(train.main, *flags, '--max_steps=3', '--eval_steps=0')  # converted before; nothing to evaluate
  found = [line for line in again.stdout.splitlines() if line.startswith(('warning: ', 'advice: '))]
  assert found == ['warning: mine: 1 of 3 classes never occurs in train and cannot be learned: cat',
                   'warning: mine: all 3 labels of train are the same picture; are they copies of one file?']

  scored = run_program(evaluate.main, f'--ckpt={tmp_path}/run')
  assert scored.returncode == 0, scored.stderr
  told = [line.removeprefix('advice: ') for line in scored.stdout.splitlines() if line.startswith('advice: ')]
  assert told == json.loads((tmp_path / 'run/metrics-val.json').read_text())['advice'] and told
