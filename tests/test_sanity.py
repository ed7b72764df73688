"""Warnings about a dataset: a line for each mistake, none without one, from `<split>.json` alone."""

import json
import os

import numpy as np
import pytest
from PIL import Image

from datasets import convert, encoding, get_dataset, images, sanity
from utils.errors import shown

pytestmark = pytest.mark.fast

RNG = np.random.default_rng(7)
CLASSES = ('road', 'sky', 'pole')


@pytest.fixture(autouse=True)
def one_process(monkeypatch):
  monkeypatch.setattr(convert, 'default_workers', lambda: 1)


def stats(pixels, void=0, num_examples=3, **noted):
  """What `<split>.json` holds, as far as warnings need it."""
  return {'class_names': list(CLASSES), 'class_pixels': list(pixels), 'void_pixels': void, 'num_examples': num_examples,
          'sanity': noted}


FINE = stats([50, 30, 20], digests={'a': '1', 'b': '2'}, different_labels=2)


def picture(kind, size=(21, 34)):
  """A picture of a kind: uint8 [H, W, 3]."""
  noise = RNG.random((*size, 3))
  low, high = {'usual': (0, 256), 'black': (0, 1), 'twelve bits of sixteen': (0, 17), 'very dark': (0, 30),
               'white': (255, 256), 'overexposed': (245, 256), 'night': (0, 60), 'snow': (200, 256),
               'gray': (128, 129)}[kind]
  return np.floor(low + noise * (high - low)).astype(np.uint8)


def halves(size=(21, 34), ids=(0, 1)):
  label = np.full(size, ids[0], np.uint8)
  label[:, size[1] // 2:] = ids[1]
  return label


def odd(image, ids):
  return sanity.look(image, ids, images.encode_png(ids)).odd


@pytest.mark.parametrize('kind, found', [
    ('usual', ()), ('night', ()), ('snow', ()), ('black', ('dark',)), ('twelve bits of sixteen', ('dark',)),
    ('very dark', ('dark',)), ('white', ('bright',)), ('overexposed', ('bright',)), ('gray', ('flat',))])
def test_brightness(kind, found):
  for size in ((21, 34), (1, 1), (97, 133)):
    if found or size != (1, 1):  # a single pixel has a single color
      assert odd(picture(kind, size), np.zeros(size, np.uint8)) == found


def test_a_few_lamps_leave_a_picture_dark_and_a_lit_window_does_not():
  image = picture('very dark', (100, 100))
  image[50, 50] = 255
  assert odd(image, halves((100, 100))) == ('dark',)
  image[:20, :20] = 200
  assert odd(image, halves((100, 100))) == ()


@pytest.mark.parametrize('bands, dtype, low, high', [
    (4, np.uint16, 0, 4095), (1, np.float32, -1, 1), (6, np.uint8, 0, 255)])
def test_brightness_of_bands_is_within_their_range(bands, dtype, low, high):
  ids = halves()
  for kind, found in (('usual', ()), ('black', ('dark',)), ('overexposed', ('bright',))):
    values = picture(kind)[..., :1].repeat(bands, axis=2) / 255 * (high - low) + low
    assert sanity.look(values.astype(dtype), ids, b'', (low, high)).odd == found


def test_a_picture_of_the_label_among_the_images_is_noticed():
  ids = RNG.integers(0, 3, (40, 50)).astype(np.uint8)
  for palette in ([[0, 0, 0], [128, 64, 0], [128, 64, 9]], [[0] * 3, [1] * 3, [2] * 3]):
    assert odd(np.array(palette, np.uint8)[ids], ids) == ('label',)
  assert odd(Image.fromarray(ids * 90), ids) == ('label',)
  mixed = np.array([[0, 0, 0], [128, 64, 0], [128, 64, 0]], np.uint8)[ids]  # two classes look alike
  assert odd(mixed, ids) == ()
  assert odd(np.roll(mixed, 1, axis=0), ids) == ()


def test_labels_without_labeled_pixel():
  void = np.full((5, 7), 255, np.uint8)
  assert odd(picture('usual', (5, 7)), void) == ('void',)
  void[4, 6] = 0
  assert odd(picture('usual', (5, 7)), void) == ()


def saved(path, image, **options):
  path.parent.mkdir(parents=True, exist_ok=True)
  (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(path, **options)
  return str(path)


def digest(path):
  picture = images.encode_image(path)
  return sanity.look(picture.pixels, np.zeros((picture.height, picture.width), np.uint8), b'').digest


def test_a_digest_is_of_the_pixels(tmp_path):
  """The same pixels as JPEG, PNG, BMP, TIFF, WebP have one digest; a pixel or a shape that differs has another."""
  first = saved(tmp_path / 'a.jpg', picture('usual', (48, 36)))
  pixels = np.asarray(Image.open(first))
  same = {digest(saved(tmp_path / f'b{end}', pixels, **options)) for end, options in (
      ('.png', {}), ('.bmp', {}), ('.tif', {'compression': 'tiff_lzw'}), ('.webp', {'lossless': True}),
      ('_best.png', {'compress_level': 9}))}
  assert same == {digest(first)}
  gray = picture('usual', (9, 8))[..., 0]
  assert digest(saved(tmp_path / 'g.png', gray)) == digest(saved(tmp_path / 'rgb.png', np.dstack([gray] * 3)))
  other = pixels.copy()
  other[47, 35, 1] ^= 8
  assert digest(saved(tmp_path / 'c.png', other)) not in same
  assert digest(saved(tmp_path / 'd.png', pixels.reshape(36, 48, 3))) not in same
  assert digest(saved(tmp_path / 'e.png', pixels[..., ::-1])) not in same


def test_a_digest_of_bands_is_of_all_values():
  ids, values = halves(), RNG.integers(0, 65536, (21, 34, 5)).astype(np.uint16)
  other = values.copy()
  other[3, 4, 4] += 1
  first, same, changed = (sanity.look(value, ids, b'', (0, 65535)).digest for value in (values, values.copy(), other))
  assert first == same != changed


@pytest.mark.parametrize('train, val, lines', [
    ([5, 5, 0], [5, 5, 0], ['1 of 3 classes never occurs in train and val and cannot be learned: pole']),
    ([9, 0, 9], [0, 9, 9], ['1 of 3 classes occurs in val but not in train and cannot be learned: sky',
                            '1 of 3 classes never occurs in val and has no score there: road']),
    ([5, 0, 0], [5, 7, 8], ['2 of 3 classes occur in val but not in train and cannot be learned: sky, pole']),
    ([5, 9, 9], [5, 0, 0], ['2 of 3 classes never occur in val and have no score there: sky, pole']),
    ([5, 9, 9], [1, 2, 3], [])])
def test_absent_classes(train, val, lines):
  assert [line for line in sanity.warnings({'train': stats(train), 'val': stats(val)})
          if 'nearly all' not in line] == lines


def test_absent_classes_without_train():
  assert sanity.warnings({'val': stats([5, 0, 5])}) == [
      '1 of 3 classes never occurs in val and has no score there: sky']
  assert sanity.warnings({'train': stats([5, 5, 0])}) == [
      '1 of 3 classes never occurs in train and cannot be learned: pole']
  assert sanity.warnings({}) == []


@pytest.mark.parametrize('train, val, share', [
    ([9960, 30, 10], [996, 3, 1], '99.6 % in train, 99.6 % in val'), ([999_999, 1, 1], [2, 1, 1], '99.99 % in train'),
    ([7, 3, 2], [995, 1, 4], '99.5 % in val'), ([99, 1, 0], [98, 1, 1], None)])
def test_one_class_on_nearly_all_pixels(train, val, share):
  lines = [line for line in sanity.warnings({'train': stats(train), 'val': stats(val)}) if 'nearly all' in line]
  assert [line.split(';')[0] for line in lines] == ([f'nearly all labeled pixels are road: {share}'] if share else [])


def test_labels_of_a_single_class_are_said_once():
  lines = sanity.warnings({'train': stats([50, 0, 0], different_labels=1), 'val': stats([7, 0, 0], different_labels=1)})
  assert len(lines) == 2 and lines[0].startswith('2 of 3 classes never occur in train and val')
  assert lines[1].startswith('nearly all labeled pixels are road: 100 % in train, 100 % in val; ')


def test_equal_labels():
  assert sanity.warnings({'train': stats([5, 5, 5], different_labels=1, num_examples=12)}) == [
      'all 12 labels of train are the same picture; are they copies of one file?']
  assert sanity.warnings({'train': stats([5, 5, 5], different_labels=1, num_examples=1)}) == []
  assert sanity.warnings({'train': stats([5, 5, 5], different_labels=2, num_examples=2)}) == []


def test_void():
  assert sanity.warnings({'train': stats([1, 1, 1], void=9)}) == [
      '75.0% of the pixels of train are void (label 255 always is)']
  assert sanity.warnings({'val': stats([1, 1, 1], void=3)}) == []
  assert 'nearly' not in ''.join(sanity.warnings({'train': stats([0, 0, 0], void=3)}))  # of no class either
  two = {'count': 2, 'names': ['a', 'b']}
  assert sanity.warnings({'val': stats([1, 1, 1], void=1, void_=None) | {'sanity': {'void': two}}}) == [
      '2 of 3 images of val have no labeled pixel: a, b']


def test_images_in_two_splits_and_copies_within_one():
  train = stats([5, 5, 5], digests={'a': '1', 'b': '2', 'b2': '2', 'c': '3', 'b3': '2', 'd': '4', 'e': '4'})
  val = stats([5, 5, 5], digests={'x': '1', 'y': '9', 'z': '2'})
  test = stats([5, 5, 5], digests={'y': '9'})
  assert sanity.warnings({'train': train, 'val': val, 'test': test}) == [
      '2 images in both train and val, so that scores are too good: train a = val x, train b = val z',
      '1 image in both val and test, so that scores are too good: val y = test y',
      '3 images of train are copies of others: b = b2 = b3, d = e']


def test_a_split_made_of_others_is_no_mistake():
  for union in ('all', 'trainval'):
    assert sanity.warnings({'train': FINE, union: FINE}) == []


def test_odd_pictures_are_counted_and_a_few_named():
  tally = sanity.Tally()
  for number in range(8):
    tally.add(f'night{number}', sanity.Look(str(number), str(number), ('dark',) if number != 3 else ('bright', 'void')))
  noted = tally.to_json()
  assert noted['dark'] == {'count': 7, 'names': ['night0', 'night1', 'night2', 'night4', 'night5']}
  assert (noted['bright']['count'], noted['different_labels'], 'flat' in noted) == (1, 8, False)
  lines = sanity.warnings({'train': stats([5, 5, 5], num_examples=8) | {'sanity': noted}})
  assert len(lines) == 3
  assert lines[0].startswith('7 of 8 images of train are nearly black (99% of the pixels below 32 of 255)')
  assert lines[0].endswith(': night0, night1, night2, night4, night5 and 2 more')
  assert lines[1].startswith('1 of 8 images of train are blown out') and lines[1].endswith(': night3')


def test_names_that_are_no_text_are_escaped():
  name = os.fsdecode(b'caf\xe9')
  assert shown(name) == 'caf\\xe9' and shown('straße') == 'straße' and shown('plain') == 'plain'
  [line] = sanity.warnings({'train': stats([5, 5, 5], digests={name: '1', 'b': '1'})})
  assert line == '1 image of train is a copy of another: caf\\xe9 = b'
  line.encode()


@pytest.mark.parametrize('keys', [('sanity',), ('sanity', 'void_pixels'), ()])
def test_jsons_of_older_versions(keys):
  old = {key: value for key, value in stats([5, 5, 0], num_examples=4).items() if key not in keys}
  assert sanity.warnings({'train': old, 'val': FINE}) == [
      '1 of 3 classes occurs in val but not in train and cannot be learned: pole']


def test_splits_of_different_classes_are_not_compared():
  other = FINE | {'class_names': ['x', 'y'], 'class_pixels': [3, 0]}
  assert not any('classes' in line for line in sanity.warnings({'train': FINE, 'val': other}))


def own(root, examples):
  """Writes a folder of (split, name, image, label). Returns its path."""
  lists = {}
  for split, name, image, label in examples:
    saved(root / f'images/{name}.png', image)
    saved(root / f'labels/{name}.png', label)
    lists.setdefault(split, []).append(name)
  for split, names in lists.items():
    (root / f'{split}.txt').write_text('\n'.join(names))
  (root / 'classes.txt').write_text('road\nsky')
  return str(root)


def troubled(root):
  twin = picture('usual')
  return own(root, [('train', 'a', twin, halves()), ('train', 'b', picture('very dark'), halves()),
                    ('train', 'c', picture('usual'), halves()), ('val', 'renamed', twin, halves((21, 34), (1, 0)))])


TROUBLES = ['1 of 3 images of train are nearly black',
            'all 3 labels of train are the same picture; are they copies of one file?',
            '1 image in both train and val, so that scores are too good: train a = val renamed']


def assert_told(stdout, name):
  lines = [line for line in stdout.splitlines() if line.startswith('warning: ')]
  assert len(lines) == len(TROUBLES)
  for line, trouble in zip(lines, TROUBLES):
    assert line.startswith(f'warning: {name}: {trouble}')


def test_convert_tells_them_also_when_nothing_changed(tmp_path, run_program):
  for _ in range(2):
    result = run_program(convert.main, f'--dataset={troubled(tmp_path / "mine")}', f'--data_dir={tmp_path}/data')
    assert result.returncode == 0, result.stderr
    assert_told(result.stdout, 'mine')
  noted = json.loads((tmp_path / 'data/train.json').read_text())['sanity']
  assert list(noted['digests']) == ['a', 'b', 'c'] and noted['dark'] == {'count': 1, 'names': ['b']}


def test_convert_is_silent_without_a_mistake(tmp_path, run_program):
  folder = own(tmp_path / 'mine', [('train', 'a', picture('usual'), halves()), ('train', 'b', picture('night'), halves(
      ids=(1, 0))), ('val', 'c', picture('snow'), halves())])
  result = run_program(convert.main, f'--dataset={folder}', f'--data_dir={tmp_path}/data')
  assert result.returncode == 0 and 'warning' not in result.stdout + result.stderr


@pytest.mark.parametrize('name, splits, lines', [
    ('camvid', ('train', 'val'), 0), ('voc', ('train', 'val'), None), ('shapes', ('val',), 0)])
def test_real_data_gives_no_false_alarm(name, splits, lines, shared, tmp_path):
  """Dusk in CamVid, night and snow in VOC; of VOC's few images some classes are truly absent."""
  dataset, found = get_dataset(name), {}
  for split in splits:
    tally, counts = sanity.Tally(), np.zeros(256, np.int64)
    sources = dataset.sources(str(shared / 'data' / name), split)[::6 if name == 'camvid' else 1][:60]
    for source in sources:
      pair = encoding.encode_pair(source, dataset.label_map, read_raw=dataset.read_label, generate=dataset.generate)
      tally.add(pair.name, pair.look)
      counts += pair.counts
    found[split] = {'class_names': list(dataset.classes), 'class_pixels': counts[:dataset.num_classes].tolist(),
                    'void_pixels': int(counts[255]), 'num_examples': len(sources), 'sanity': tally.to_json()}
  told = sanity.warnings(found)
  assert [line for line in told if ' classes ' not in line] == []
  assert lines is None or len(told) == lines
