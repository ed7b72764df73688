"""Each annotation format from a folder as the tool exports it to an inspected, trained and evaluated run."""

import json
import pathlib

import numpy as np
import pytest
from export_folders import picture, write
from PIL import Image

import evaluate
import train
from datasets import convert, inspection

GOLDEN = pathlib.Path(__file__).parent / 'golden/label_studio'
SIZES = ((37, 53), (41, 38), (64, 47), (33, 66))


@pytest.fixture(autouse=True)
def one_process(monkeypatch):
  """Converts in this process: worker processes take time to start."""
  monkeypatch.setattr(convert, 'default_workers', lambda: 1)


def pictures(root):
  for number, size in enumerate(SIZES):
    picture(root / f'p{number}.png', size, number)


def coco_json(root):
  """Roboflow's layout."""
  for split, numbers in (('train', (0, 1)), ('valid', (2, 3))):
    for number in numbers:
      picture(root / split / f'p{number}.jpg', SIZES[number], number)
    write(root / split / '_annotations.coco.json', {
        'images': [{'id': number, 'file_name': f'p{number}.jpg', 'height': SIZES[number][0], 'width': SIZES[number][1]}
                   for number in numbers],
        'categories': [{'id': 0, 'name': 'animals', 'supercategory': 'none'},
                       {'id': 1, 'name': 'cat', 'supercategory': 'animals'}],
        'annotations': [{'id': number, 'image_id': number, 'category_id': 1, 'iscrowd': 0, 'bbox': [2, 3, 20, 15],
                         'segmentation': [[2, 3, 22, 3, 22, 18, 2, 18]]} for number in numbers]})


def label_studio(root):
  """The golden strokes of the library."""
  for number, size in enumerate(((23, 37), (301, 203), (17, 9)), 1):
    picture(root / f'images/photo_{number}.png', size, number)
  write(root / 'project-1-at-2024-05-01-10-00-0123abcd.json', json.loads((GOLDEN / 'export.json').read_text()))


def via(root):
  pictures(root)
  write(root / 'via_export_json.json', {
      f'p{number}.png9': {'filename': f'p{number}.png', 'size': 9, 'file_attributes': {}, 'regions': [
          {'shape_attributes': {'name': 'circle', 'cx': 15, 'cy': 12, 'r': 9}, 'region_attributes': {'kind': 'cat'}}]}
      for number in range(len(SIZES))})


@pytest.mark.parametrize('make, classes', [
    (coco_json, 'background cat'), (label_studio, 'background sky car road'), (via, 'background cat')])
def test_from_an_export_to_an_evaluation(make, classes, tiny, tmp_path, monkeypatch, run_program):
  make(tmp_path / 'export')
  monkeypatch.chdir(tmp_path)
  result = run_program(inspection.main, '--dataset=export')
  assert result.returncode == 0, result.stderr
  for split in ('train', 'val'):
    assert np.asarray(Image.open(tmp_path / f'data/export/inspect/inspect-{split}.png')).ndim == 3
    found = json.loads((tmp_path / f'data/export/inspect/inspect-{split}.json').read_text())
    assert [entry['name'] for entry in found['classes']] == classes.split()
    assert sum(entry['pixels'] > 0 for entry in found['classes']) >= 2
  result = run_program(train.main, '--dataset=export', '--net=tiny', '--checkpoint=none', '--crop_size=32,33',
                       '--batch_size=2', '--max_steps=2', '--eval_steps=0', '--log_steps=1')
  assert result.returncode == 0, result.stderr
  assert 'step 2/2  loss' in result.stdout and 'other files' not in result.stdout
  result = run_program(evaluate.main, '--ckpt=runs/export-tiny-8s')
  assert result.returncode == 0, result.stderr
  assert all(name in result.stdout for name in classes.split())
