"""datasets.export: what it writes with labels is read back as the same dataset; nothing of others is overwritten."""

import dataclasses
import json
import os

import numpy as np
import pytest
from PIL import Image
from programs import assert_refused

from datasets import convert, export, get_dataset, records
from datasets.images import encode_png
from utils.errors import UserError

pytestmark = pytest.mark.fast
NAMES = ('traffic light, red', 'ignore', '# 7', 'sky')
RNG = np.random.default_rng(5)


def own(root, names, labels, classes, told=None):
  """Writes a folder of random images of the names and converts it. Returns (dataset, data folder)."""
  for number, (name, label) in enumerate(zip(names, labels, strict=True)):
    for kind, pixels in (('images', RNG.integers(0, 256, (7, 9 + number, 3), np.uint8)), ('labels', label)):
      path = root / kind / f'{name}.png'
      path.parent.mkdir(parents=True, exist_ok=True)
      Image.fromarray(np.asarray(pixels, np.uint8)).save(path)
  for split in ('train', 'val'):
    (root / f'{split}.txt').write_text('\n'.join(names))
  (root / 'classes.txt').write_text(classes)
  if told:
    (root / 'dataset.json').write_text(json.dumps(told))
  return converted(root)


def converted(root):
  dataset, data_dir = get_dataset(str(root)), f'{root}-records'
  stats = convert.convert(dataset, 'train', source_dir=None, data_dir=data_dir, num_workers=1, progress=False)
  return dataset, data_dir, stats


def ids(values, sizes=(9, 10, 11)):
  """Labels of random values, one for each width."""
  return [RNG.choice(values, (7, size)) for size in sizes]


def content(data_dir):
  """Set of (name, image, label) as the records encode them."""
  return {(name, image, label)
          for name, image, _, label in records.encoded_examples(records.shard_paths(data_dir, 'train'))}


@pytest.mark.parametrize('values, classes, told, written', [
    ([0, 1, 2, 255], 'ground 9,9,9\nwall\ncat 1,2,3', None, [0, 1, 2, 255]),
    ([0, 1, 2, 3, 255], 'nothing ignore\nwall 7,7,8\ncat\ndog', None, [1, 2, 3, 255]),
    ([7, 20, 30], '7 wall\n20 cat 1,1,200\n30 dog', None, [7, 20, 30]),
    ([0, 128, 255], 'ground\ncat', {'labels': {'0': 'ground', '255': 'cat', '128': 'ignore'}}, [0, 254, 255])])
def test_exported_it_is_the_same_dataset_in_the_users_own_numbers(values, classes, told, written, tmp_path):
  dataset, data_dir, stats = own(tmp_path / 'mine', ['a', 'b', 'c'], ids(values), classes, told)
  out = tmp_path / 'out'
  export.export(dataset, data_dir, split='train', output_dir=str(out), labels=True)
  found = [np.unique(np.asarray(Image.open(path))) for path in (out / 'labels').iterdir()]
  assert sorted(set(np.concatenate(found).tolist())) == written
  for split in ('train', 'val'):
    (out / f'{split}.txt').write_text('a\nb\nc')
  again, data_again, stats_again = converted(out)
  assert again.classes == dataset.classes and np.array_equal(again.palette, dataset.palette)
  assert content(data_again) == content(data_dir)
  assert stats_again['label_values'] == stats['label_values']
  assert (stats_again['class_pixels'], stats_again['void_pixels']) == (stats['class_pixels'], stats['void_pixels'])


def test_class_names_of_any_kind_are_read_back(tmp_path):
  dataset, data_dir, _ = own(tmp_path / 'mine', ['a', 'b', 'c'], ids([0, 1, 2, 3, 255]), 'a\nb\nc\nd')
  dataset = dataclasses.replace(dataset, classes=NAMES)
  export.export(dataset, data_dir, split='train', output_dir=str(tmp_path / 'out'), labels=True)
  assert get_dataset(str(tmp_path / 'out')).classes == NAMES


def test_images_left_as_stored_stay_so(tmp_path):
  """A JPEG of the records keeps its EXIF turn; the folder says that it does not count."""
  label = RNG.choice([0, 1], (8, 16)).astype(np.uint8)
  exif = Image.Exif()
  exif[0x0112] = 6
  (tmp_path / 'mine/images').mkdir(parents=True)
  Image.fromarray(RNG.integers(0, 256, (8, 16, 3), np.uint8)).save(tmp_path / 'mine/images/a.jpg', exif=exif)
  (tmp_path / 'mine/labels').mkdir()
  Image.fromarray(label).save(tmp_path / 'mine/labels/a.png')
  for split in ('train', 'val'):
    (tmp_path / f'mine/{split}.txt').write_text('a')
  (tmp_path / 'mine/classes.txt').write_text('ground\ncat')
  dataset, data_dir, _ = converted(tmp_path / 'mine')
  export.export(dataset, data_dir, split='train', output_dir=str(tmp_path / 'out'), labels=True)
  assert json.loads((tmp_path / 'out/dataset.json').read_text()) == {'labels': 'ids', 'exif': 'stored'}


def test_names_in_folders_become_names_of_their_own(tmp_path):
  named = [f'{part}/{number}' for part in ('paris', 'rome') for number in (1, 2)]
  dataset, data_dir, _ = own(tmp_path / 'mine', named, ids([0, 1], (9, 10, 11, 12)), 'ground\ncat')
  paths = export.export(dataset, data_dir, split='train', output_dir=str(tmp_path / 'out'), labels=True)
  assert sorted(path.rpartition('/')[2] for path in paths) == [
      'paris-1.png', 'paris-2.png', 'rome-1.png', 'rome-2.png']
  assert len(list((tmp_path / 'out/labels').iterdir())) == 4


@pytest.mark.parametrize('names', [['a/b', 'a-b'], ['/a', 'a'], ['x//y', 'x/y']])
def test_two_images_of_one_file_are_refused(names, tmp_path, monkeypatch):
  encoded = encode_png(np.zeros((2, 2), np.uint8))
  monkeypatch.setattr(records, 'shard_paths', lambda *where: [])
  monkeypatch.setattr(records, 'read_stats', lambda *where: {})
  monkeypatch.setattr(records, 'encoded_examples', lambda paths: [(name, encoded, 'png', encoded) for name in names])
  with pytest.raises(UserError, match=rf'two images would be written to .*; the second is {names[1]}$'):
    export.export(get_dataset('shapes'), 'data/x', split='val', output_dir=str(tmp_path))
  assert len(os.listdir(tmp_path)) == 1


def test_other_files_are_not_overwritten(tmp_path, run_program):
  dataset, data_dir, _ = own(tmp_path / 'mine', ['a', 'b', 'c'], ids([0, 1]), 'ground\ncat')
  flags = (f'--dataset={dataset.root}', f'--data_dir={data_dir}', '--split=train', f'--output_dir={tmp_path}/out',
           '--labels')
  for _ in range(2):  # what is there with the same content is no obstacle
    assert run_program(export.main, *flags).returncode == 0
  for file, other in (('classes.txt', 'mine'), ('labels/b.png', 'painted for a week'), ('images/c.png', '')):
    before = (tmp_path / 'out' / file).read_bytes()
    (tmp_path / 'out' / file).write_text(other)
    assert_refused(run_program(export.main, *flags), f'{file} is there already, with other content; --overwrite')
    assert (tmp_path / 'out' / file).read_text() == other
    assert run_program(export.main, *flags, '--overwrite').returncode == 0
    assert (tmp_path / 'out' / file).read_bytes() == before
