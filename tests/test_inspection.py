"""datasets.inspect: the numbers by hand, a warning for every mistake and none without a mistake."""

import json
import os
import pathlib

import numpy as np
import pytest
from PIL import Image
from programs import assert_refused

from datasets import convert, inspection, records
from datasets.prepare import prepare
from datasets.readers import own
from utils.errors import UserError
from utils.training import losses

pytestmark = pytest.mark.fast

CLASSES = ('road', 'sky', 'pole', 'ghost')


def lay_out(root, examples, classes=CLASSES):
  """Writes an own dataset of (split, name, label) with random images. Returns its record."""
  lists = {}
  for number, (split, name, label) in enumerate(examples):
    label = np.asarray(label, np.uint8)
    image = np.random.default_rng(number).integers(0, 256, (*label.shape, 3), np.uint8)
    for kind, pixels in (('images', image), ('labels', label)):
      (root / kind).mkdir(parents=True, exist_ok=True)
      Image.fromarray(pixels).save(root / kind / f'{name}.png')
    lists.setdefault(split, []).append(name)
  for split, names in lists.items():
    (root / f'{split}.txt').write_text('\n'.join(names))
  (root / 'classes.txt').write_text('\n'.join(classes))
  return own.own_dataset(str(root))


def inspected(dataset, tmp_path, **options):
  data_dir = str(tmp_path / 'data')
  prepare(dataset, data_dir)
  return inspection.inspect(dataset, data_dir, ['train', 'val'], output_dir=str(tmp_path / 'out'), **options)


@pytest.fixture(autouse=True)
def one_process(monkeypatch):
  monkeypatch.setattr(convert, 'default_workers', lambda: 1)


@pytest.fixture
def odd(tmp_path):
  """Four images with every kind of mistake."""
  pole = np.zeros((40, 30), np.uint8)
  pole[7, 9] = 2
  return lay_out(tmp_path / 'odd', [
      ('train', 'a', pole), ('train', 'b', [[0, 0, 255], [255, 255, 255]]), ('train', 'c', [[255, 255, 255]] * 2),
      ('val', 'A_copy2', [[1, 1, 0]])])


def test_numbers_by_hand(odd, tmp_path, capsys):
  found = inspected(odd, tmp_path)['train']
  assert (found['dataset'], found['split'], found['num_examples'], found['expected']) == ('odd', 'train', 3, 3)
  assert found['sizes'] == {
      'smallest': [3, 2], 'largest': [30, 40], 'most_common': [3, 2], 'num_most_common': 2, 'num_different': 2}
  assert found['void_share'] == pytest.approx(10 / 1212)
  assert found['void_images'] == ['c']
  road, sky, pole, ghost = found['classes']
  # Frequencies are of the pixels of the images that have the class: road 1201 / 1206, pole 1 / 1200.
  median = (1201 / 1206 + 1 / 1200) / 2
  assert (road['name'], road['pixels'], road['images']) == ('road', 1201, 2)
  assert road['share'] == pytest.approx(1201 / 1202)
  assert road['median_frequency_weight'] == pytest.approx(median * 1206 / 1201)
  assert (pole['pixels'], pole['images'], pole['median_frequency_weight']) == (1, 1, pytest.approx(median * 1200))
  assert sky == {'name': 'sky', 'pixels': 0, 'share': 0.0, 'images': 0, 'median_frequency_weight': 0.0}
  stats = records.read_stats(str(tmp_path / 'data'), 'train')
  np.testing.assert_allclose([entry['median_frequency_weight'] for entry in found['classes']],
                             losses.median_frequency_weights(stats['class_pixels'], stats['class_image_pixels']))
  assert json.loads((tmp_path / 'out/inspect-train.json').read_text()) == found
  lines = capsys.readouterr().out.splitlines()
  start = next(i for i, line in enumerate(lines) if line.startswith('odd train: 3 images (expected 3)'))
  assert lines[start].endswith('2 sizes, 3x2 to 30x40, most often 3x2 (2 times); 0.8% of the pixels are void')
  assert lines[start + 1].split() == ['id', 'class', 'pixels', 'share', 'images', 'weight']
  assert lines[start + 2].split() == ['0', 'road', '1201', '99.92%', '2', '(', '66.7%)', '0.50']
  assert ghost['name'] in lines[start + 5]


def test_warnings(odd, tmp_path, capsys):
  found = inspected(odd, tmp_path)
  assert found['train']['warnings'] == [
      '2 of 4 classes never seen: sky, ghost', '1 of 4 classes below 0.1% of the labeled pixels: pole',
      '1 of 3 images have no labeled pixel: c',
      'images of nearly the same name in different splits: train a = val A_copy2',
      '1 of 4 classes are in val but not in train: sky']
  assert found['val']['warnings'][0] == '2 of 4 classes never seen: pole, ghost'
  out = capsys.readouterr().out
  assert 'warning: odd train: 1 of 3 images have no labeled pixel: c\n' in out
  assert 'warning: odd train and val: 1 of 4 classes are in val but not in train: sky\n' in out


def test_masks_of_0_and_255_are_noticed(tmp_path):
  """Where the user meant 255 as a class, all of it is void."""
  mask = [[0, 255, 255], [255, 255, 255]]
  dataset = lay_out(tmp_path / 'masks', [('train', 'a', mask), ('val', 'b', mask)], classes=('ground', 'cat'))
  lines = inspected(dataset, tmp_path)['train']['warnings']
  assert lines == ['1 of 2 classes never seen: cat', '83.3% of the pixels are void (label 255 always is)']


def test_left_out_images_and_copies_are_noticed(tmp_path):
  label = [[0, 1, 0]]
  dataset = lay_out(tmp_path / 'x', [('train', 'a', label), ('train', 'b', [[9, 9, 9]]), ('val', 'z', label)],
                    classes=('ground', 'cat'))
  for kind in ('images', 'labels'):
    (tmp_path / 'x' / kind / 'z.png').write_bytes((tmp_path / 'x' / kind / 'a.png').read_bytes())
  convert.convert(dataset, 'train', source_dir=None, data_dir=str(tmp_path / 'data'), skip_bad=True, progress=False)
  assert inspected(dataset, tmp_path)['train']['warnings'] == [
      'left out by the converter, since they cannot be used: 1', 'the number of images is 1, and 2 are expected',
      'images that are the very same file: train a = val z']


def test_no_warnings_without_a_mistake(tmp_path):
  dataset = lay_out(tmp_path / 'fine', [('train', 'carrot', [[0, 1, 0]]), ('val', 'car', [[1, 1, 0]])], ('a', 'b'))
  assert [found['warnings'] for found in inspected(dataset, tmp_path).values()] == [[], []]


@pytest.mark.parametrize('name, plain', [
    ('A', 'a'), ('a (1)', 'a'), ('a(12)', 'a'), ('a - Copy', 'a'), ('a_copy2', 'a'), ('a_flipped', 'a'),
    ('a-aug3_rot90', 'a'), ('carrot', 'carrot'), ('a1', 'a1'), ('frame_0001', 'frame_0001'), ('_copy', '_copy')])
def test_names_of_copies(name, plain):
  assert inspection._without_copy(name) == plain


def test_pictures_show_the_labels(tmp_path):
  """Two flat halves: on the sheet the overlay has each class's color, blended, where the label has the class."""
  label = np.zeros((30, 40), np.uint8)
  label[:, 20:] = 1
  dataset = lay_out(tmp_path / 'x', [('train', f'n{i}', label) for i in range(5)] + [('val', 'v', label)],
                    classes=('red 255,0,0', 'blue 0,0,255'))
  for number in range(5):
    Image.new('RGB', (40, 30), (99, 110, 90)).save(tmp_path / f'x/images/n{number}.png')
  found = inspected(dataset, tmp_path, num_shown=4)
  assert found['train']['warnings'] == [
      'images that are the very same file: train n0 = train n1 = train n2 = train n3 = train n4']
  assert sorted(os.listdir(tmp_path / 'out')) == [
      f'inspect-{split}{end}' for split in ('train', 'val') for end in ('-classes.png', '.json', '.png')]
  sheet = np.asarray(Image.open(tmp_path / 'out/inspect-train.png'))
  blended = [[193, 44, 36], [39, 44, 189]]  # 40 % of the image and 60 % of the class's color
  pixels = [(sheet == color).all(axis=-1).sum() for color in [[99, 110, 90], *blended]]
  area = inspection.TILE[0] * inspection.TILE[1]
  assert pixels == [4 * area, 2 * area, 2 * area]
  assert sheet.shape[1] < 3 * (2 * inspection.TILE[0] + 30)
  chart = np.asarray(Image.open(tmp_path / 'out/inspect-train-classes.png'))
  red, blue = ((chart == color).all(axis=-1).sum() for color in ([255, 0, 0], [0, 0, 255]))
  assert red == blue > 5000


def test_a_long_name_is_cut_and_no_sheet_is_wanted(tmp_path):
  dataset = lay_out(tmp_path / 'x', [('train', 'n' * 200, [[0, 1]]), ('val', 'v', [[0, 1]])], ('a', 'b'))
  inspected(dataset, tmp_path, num_shown=0)
  assert 'inspect-train.png' not in os.listdir(tmp_path / 'out')
  scanned = inspection.scan(str(tmp_path / 'data'), 'train', 2, progress=False)
  sheet = inspection.contact_sheet(scanned.shown, dataset.palette, dataset.classes, 'x')
  assert sheet.shape[1] == 2 * inspection.TILE[0] + 3 * inspection._GAP


def test_a_broken_shard_is_named(odd, tmp_path):
  prepare(odd, str(tmp_path / 'data'))
  path = records.shard_paths(str(tmp_path / 'data'), 'train')[1]
  data = bytearray(pathlib.Path(path).read_bytes())
  data[40] ^= 255
  pathlib.Path(path).write_bytes(bytes(data))
  with pytest.raises(UserError, match=f'{path}: record 0 is corrupt'):
    inspection.scan(str(tmp_path / 'data'), 'train', 4, progress=False)


def test_a_label_out_of_range_is_named(odd, tmp_path):
  prepare(odd, str(tmp_path / 'data'))
  with pytest.raises(UserError, match=r'record 0 \(a\) has label id 2; valid are 0 to 1 and 255'):
    inspection.scan(str(tmp_path / 'data'), 'train', 2, progress=False)


def test_as_a_command(odd, tmp_path, run_program):
  result = run_program(inspection.main, f'--dataset={odd.root}', f'--data_dir={tmp_path}/data')
  assert result.returncode == 0, result.stderr
  assert 'inspecting train: 3/3 images' in result.stderr and 'warning: odd train: 2 of 4 classes' in result.stdout
  assert (tmp_path / 'data/inspect/inspect-val.png').exists()
  with pytest.raises(UserError, match='it has train, val$'):  # the folder `inspect` is no split
    records.read_stats(str(tmp_path / 'data'), 'test')


@pytest.mark.parametrize('flags, problem', [
    ((), 'flag --dataset: must be given'), (('--dataset=shapes', 'val'), "unexpected argument 'val'"),
    (('--dataset=shapes', '--splits='), '--splits is empty; shapes has train, val'),
    (('--dataset=shapes', '--splits=val,test'), "--splits: shapes has no split 'test'"),
    (('--dataset=shapes', '--count=-1'), '--count=-1: valid are 0 and above')])
def test_wrong_flags_are_refused(flags, problem, tmp_path, monkeypatch, run_program):
  monkeypatch.chdir(tmp_path)
  assert_refused(run_program(inspection.main, *flags), problem)
  assert os.listdir(tmp_path) == []
