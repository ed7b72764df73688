"""datasets.inspect: the numbers by hand, a warning for every mistake and none without a mistake."""

import dataclasses
import json
import os
import pathlib

import numpy as np
import pytest
from PIL import Image
from programs import assert_refused

from datasets import convert, inspection, records
from datasets.prepare import prepare
from datasets.readers import dataset_file, own
from datasets.reading import Reading
from utils.drawing import gallery
from utils.errors import UserError
from utils.files import read_json
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
  dataset = lay_out(tmp_path / 'odd', [
      ('train', 'a', pole), ('train', 'b', [[0, 0, 255], [255, 255, 255]]), ('train', 'c', [[255, 255, 255]] * 2),
      ('val', 'A_copy2', [[1, 1, 0]])])
  (tmp_path / 'odd/dataset.json').write_text('{"labels": "ids"}')  # 255 is void, and no class
  return own.own_dataset(dataset.root)


def test_numbers_by_hand(odd, tmp_path, capsys):
  found = inspected(odd, tmp_path)['train']
  assert (found['dataset'], found['split'], found['num_examples'], found['expected']) == ('odd', 'train', 3, 3)
  assert found['sizes'] == {
      'smallest': [3, 2], 'largest': [30, 40], 'most_common': [3, 2], 'num_most_common': 2, 'num_different': 2}
  assert found['void_share'] == pytest.approx(10 / 1212)
  road, sky, pole, ghost = found['classes']
  # Frequencies are of the pixels of the images that have the class: road 1201 / 1206, pole 1 / 1200.
  median = (1201 / 1206 + 1 / 1200) / 2
  assert (road['name'], road['pixels'], road['images']) == ('road', 1201, 2)
  assert road['share'] == pytest.approx(1201 / 1202)
  assert road['median_frequency_weight'] == pytest.approx(median * 1206 / 1201)
  assert (pole['pixels'], pole['images'], pole['median_frequency_weight']) == (1, 1, pytest.approx(median * 1200))
  assert sky == {'name': 'sky', 'color': [128, 0, 0], 'label_value': 1, 'pixels': 0,
                 'share': 0.0, 'images': 0, 'median_frequency_weight': 0.0}
  stats = records.read_stats(str(tmp_path / 'data'), 'train')
  np.testing.assert_allclose([entry['median_frequency_weight'] for entry in found['classes']],
                             losses.median_frequency_weights(stats['class_pixels'], stats['class_image_pixels']))
  assert read_json(tmp_path / 'out/inspect-train.json') == found
  lines = capsys.readouterr().out.splitlines()
  start = next(i for i, line in enumerate(lines) if line.startswith('odd train: 3 images (expected 3)'))
  assert lines[start].endswith('2 sizes, 3x2 to 30x40, most often 3x2 (2 times); 0.8% of the pixels are void')
  assert lines[start + 1].split() == ['id', 'class', 'color', 'in', 'labels', 'pixels', 'share', 'images', 'weight']
  assert lines[start + 2].split() == ['0', 'road', '0,0,0', '0', '1201', '99.92%', '2', '(', '66.7%)', '0.50']
  assert ghost['name'] in lines[start + 5]


def test_warnings(odd, tmp_path, capsys):
  found = inspected(odd, tmp_path)
  across = ['1 of 4 classes occurs in val but not in train and cannot be learned: sky',
            '1 of 4 classes never occurs in train and val and cannot be learned: ghost',
            '1 of 4 classes never occurs in val and has no score there: pole',
            'nearly all labeled pixels are road: 99.91 % in train; look at mean IoU, not at pixel accuracy, and at how '
            'the labels are read (python -m datasets.inspect)',
            '1 of 3 images of train have no labeled pixel: c',
            'images of nearly the same name in different splits: train a = val A_copy2']
  assert found['train']['warnings'] == ['1 of 4 classes below 0.1% of the labeled pixels: pole', *across]
  assert found['val']['warnings'] == across
  out = capsys.readouterr().out
  assert 'warning: odd train: 1 of 4 classes below 0.1% of the labeled pixels: pole\n' in out
  assert all(f'warning: odd: {line}\n' in out for line in across)


def test_masks_of_0_and_255_are_noticed(tmp_path):
  """Where the user says that 255 is void, and may have meant a class."""
  mask = [[0, 255, 255], [255, 255, 255]]
  dataset = lay_out(tmp_path / 'masks', [('train', 'a', mask), ('val', 'b', mask)], classes=('ground', 'cat'))
  (tmp_path / 'masks/dataset.json').write_text('{"labels": "ids"}')
  dataset = own.own_dataset(dataset.root)
  lines = inspected(dataset, tmp_path)['train']['warnings']
  assert lines[0] == '1 of 2 classes never occurs in train and val and cannot be learned: cat'
  assert '83.3% of the pixels of train are void (label 255 always is)' in lines


def test_left_out_images_and_copies_are_noticed(tmp_path):
  label = [[0, 1, 0]]
  dataset = lay_out(tmp_path / 'x', [('train', 'a', label), ('train', 'b', [[9, 9, 9]]), ('val', 'z', label)],
                    classes=('ground', 'cat'))
  for kind in ('images', 'labels'):
    (tmp_path / 'x' / kind / 'z.png').write_bytes((tmp_path / 'x' / kind / 'a.png').read_bytes())
  convert.convert(dataset, 'train', source_dir=None, data_dir=str(tmp_path / 'data'), skip_bad=True, progress=False)
  assert inspected(dataset, tmp_path)['train']['warnings'] == [
      'left out by the converter, since they cannot be used: 1', 'the number of images is 1, and 2 are expected',
      '1 image in both train and val, so that scores are too good: train a = val z']


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
      '5 of 5 images of train have a single color: n0, n1, n2, n3, n4',
      'all 5 labels of train are the same picture; are they copies of one file?',
      '4 images of train are copies of others: n0 = n1 = n2 = n3 = n4']
  assert sorted(os.listdir(tmp_path / 'out')) == ['dataset.json'] + [
      f'inspect-{split}{end}' for split in ('train', 'val') for end in ('-classes.png', '.json', '.png')]
  sheet = np.asarray(Image.open(tmp_path / 'out/inspect-train.png'))
  blended = [[193, 44, 36], [39, 44, 189]]  # 40 % of the image and 60 % of the class's color
  pixels = [(sheet == color).all(axis=-1).sum() for color in [[99, 110, 90], *blended]]
  area = gallery.TILE[0] * gallery.TILE[1]
  assert pixels == [4 * area, 2 * area, 2 * area]
  assert sheet.shape[1] < 3 * (2 * gallery.TILE[0] + 30)
  chart = np.asarray(Image.open(tmp_path / 'out/inspect-train-classes.png'))
  red, blue = ((chart == color).all(axis=-1).sum() for color in ([255, 0, 0], [0, 0, 255]))
  assert red == blue > 5000


def test_a_long_name_is_cut_and_no_sheet_is_wanted(tmp_path):
  dataset = lay_out(tmp_path / 'x', [('train', 'n' * 200, [[0, 1]]), ('val', 'v', [[0, 1]])], ('a', 'b'))
  inspected(dataset, tmp_path, num_shown=0)
  assert 'inspect-train.png' not in os.listdir(tmp_path / 'out')
  scanned = inspection.scan(str(tmp_path / 'data'), 'train', 2, progress=False)
  sheet = inspection.contact_sheet(scanned.shown, dataset.palette, dataset.classes, 'x')
  assert sheet.shape[1] == 2 * gallery.TILE[0] + 3 * gallery.SPACE


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


DECISIONS = [
    'exif: images are left as stored (3 of 9 images with an EXIF turn have labels of this size, such as images/c.jpg)',
    'value_range: 0 is black, 4095 white (the greatest value of 9 images of 16 bits is 4011, which 12 bits hold)',
    'labels: colors (9 of 9 labels are RGB pictures)']


def decide(tmp_path, **noted):
  """Adds what a conversion notes of its decisions to the JSONs of both splits."""
  for split in ('train', 'val'):
    path = tmp_path / f'data/{split}.json'
    path.write_text(json.dumps(json.loads(path.read_text()) | noted))


def test_decisions_are_printed_written_and_drawn(tmp_path, capsys):
  label = np.zeros((30, 40), np.uint8)
  label[:, 20:] = 1
  dataset = lay_out(tmp_path / 'x', [('train', 'a', label), ('val', 'b', label)], ('red 255,0,0', 'blue 0,0,255'))
  inspected(dataset, tmp_path)
  plain = np.asarray(Image.open(tmp_path / 'out/inspect-train.png'))
  capsys.readouterr()
  decide(tmp_path, decisions=DECISIONS, label_values=[[255, 0, 0], [0, 0, 255]])
  found = inspected(dataset, tmp_path)
  out = capsys.readouterr().out
  assert [line for line in out.splitlines() if line.startswith('decided')] == [
      f'decided: x: {line}' for line in DECISIONS]  # once, though both splits have them
  assert found['train']['decisions'] == DECISIONS
  sheet = np.asarray(Image.open(tmp_path / 'out/inspect-train.png'))
  np.testing.assert_array_equal(sheet[:len(plain)], plain)
  extra = sheet[len(plain):]
  assert len(extra) >= len(DECISIONS) * inspection._ROW and (extra.max(axis=(1, 2)) == 255).all()
  for row in range(len(extra) // inspection._ROW):  # a text in each line, the margins white
    line = extra[row * inspection._ROW:(row + 1) * inspection._ROW]
    assert line.min() < 100 and line[:, -inspection._GAP // 2:].min() == 255
  row = next(line for line in out.splitlines() if line.split()[:2] == ['1', 'blue'])
  assert row.split()[2:5] == ['0,0,255', '0,0,255', '600']


def test_long_words_are_cut_and_lines_wrapped():
  lines = inspection._wrapped('a ' + 'word ' * 30 + 'x' * 300, 300)
  assert len(lines) > 3 and all(line.startswith('    ') or line.startswith('…') for line in lines[1:])
  assert max(inspection.canvas.text_width(line) for line in lines) <= 300
  assert inspection.notes([], 77).shape == (0, 77, 3)


@pytest.mark.parametrize('noted, told, content', [
    ({}, {}, {'labels': 'ids'}),
    ({'decisions': DECISIONS, 'label_values': [[255, 0, 0], [0, 0, 255]], 'reading': Reading(
        exif='stored', value_range=((0, 4095),)).to_json()}, {},
     {'exif': 'stored', 'value_range': [0, 4095], 'labels': 'colors'}),
    ({'label_values': [1, 2], 'told': {'alpha': 'drop'}}, {'splits': {'val': ['0*'], 'train': ['rest']}},
     {'labels': 'ids', 'alpha': 'drop', 'splits': {'val': ['0*'], 'train': ['rest']}}),
    ({'label_values': [0, 255]}, {'name': 'mine', 'labels': {0: 'a', 255: 'b'}},
     {'name': 'mine', 'labels': {'0': 'a', '255': 'b'}}),
    ({'decisions': ['bands: 4 bands (as found)'], 'label_values': (), 'reading': Reading(
        bands=('red', 'green', 'blue', 'nir'), dtype='uint16').to_json()}, {},
     {'bands': ['red', 'green', 'blue', 'nir']})])
def test_the_proposed_file(noted, told, content, tmp_path, capsys):
  dataset = lay_out(tmp_path / 'x', [('train', 'a', [[0, 1]]), ('val', 'b', [[1, 0]])], ('a', 'b'))
  inspected(dataset, tmp_path)
  assert read_json(tmp_path / 'out/dataset.json') == {'name': 'x', 'labels': 'ids'}
  assert f'proposed dataset.json for {dataset.root}, to keep it so: {{"name": "x", ' in capsys.readouterr().out
  stats = records.read_stats(str(tmp_path / 'data'), 'train') | noted
  proposed = inspection.proposal(dataclasses.replace(dataset, told=told), stats)
  assert proposed == {'name': 'x', **content}
  (tmp_path / 'x/dataset.json').write_text(json.dumps(proposed))
  dataset_file.read(dataset.root)  # refuses what is not valid


def test_nothing_is_proposed_inside_the_users_folder(tmp_path):
  dataset = lay_out(tmp_path / 'x', [('train', 'a', [[0, 1]]), ('val', 'b', [[1, 0]])], ('a', 'b'))
  prepare(dataset, str(tmp_path / 'data'))
  inspection.inspect(dataset, str(tmp_path / 'data'), ['train'], output_dir=str(tmp_path / 'x'))
  assert (tmp_path / 'x/inspect-train.json').exists() and not (tmp_path / 'x/dataset.json').exists()


def test_records_of_an_older_converter_are_looked_at(tmp_path):
  label = [[0, 1, 0]]
  dataset = lay_out(tmp_path / 'x', [('train', 'a', label), ('train', 'b', [[1, 0, 0]]), ('val', 'z', [[0, 0, 1]])],
                    classes=('ground', 'cat'))
  (tmp_path / 'x/images/z.png').unlink()
  Image.open(tmp_path / 'x/images/a.png').save(tmp_path / 'x/images/z.bmp')
  Image.fromarray(np.full((1, 3, 3), 3, np.uint8)).save(tmp_path / 'x/images/b.png')
  dataset = own.own_dataset(str(tmp_path / 'x'))
  told = inspected(dataset, tmp_path)['val']['warnings']
  assert [line.split(' (')[0] for line in told] == [
      '1 of 2 images of train are nearly black',
      '1 image in both train and val, so that scores are too good: train a = val z']
  for split in ('train', 'val'):
    path = tmp_path / f'data/{split}.json'
    path.write_text(json.dumps({key: value for key, value in json.loads(path.read_text()).items() if key != 'sanity'}))
  assert inspected(dataset, tmp_path, num_shown=0)['val']['warnings'] == told


def test_as_a_command(odd, tmp_path, run_program):
  result = run_program(inspection.main, f'--dataset={odd.root}', f'--data_dir={tmp_path}/data')
  assert result.returncode == 0, result.stderr
  assert 'inspecting train: 3/3 images' in result.stderr and 'warning: odd: 1 of 4 classes' in result.stdout
  assert (tmp_path / 'data/inspect/inspect-val.png').exists()
  with pytest.raises(UserError, match='it has train, val$'):  # the folder `inspect` is no split
    records.read_stats(str(tmp_path / 'data'), 'test')


@pytest.mark.parametrize('flags, problem', [
    ((), 'flag --dataset: must be given'), (('--dataset=shapes', 'val'), "unexpected argument 'val'"),
    (('--dataset=shapes', '--splits='), '--splits is empty; shapes has train, val'),
    (('--dataset=shapes', '--splits=val,test'), "shapes has no split 'test'"),
    (('--dataset=shapes', '--count=-1'), '--count=-1: valid are 0 and above')])
def test_wrong_flags_are_refused(flags, problem, tmp_path, monkeypatch, run_program):
  monkeypatch.chdir(tmp_path)
  assert_refused(run_program(inspection.main, *flags), problem)
  assert os.listdir(tmp_path) == []
