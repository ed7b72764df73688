"""Holding out: chosen images are in no split but `held_out`; counts, streams and statistics are of what is left."""

import collections
import dataclasses
import json
import os

import numpy as np
import originals
import pytest
from PIL import Image

from datasets import DATASETS, convert, folds, get_dataset, hold_out, inspection, pipeline, sanity
from datasets.augmentation import Augmentation
from datasets.dataset import Dataset, Source, label_map
from datasets.folds import HoldOutFlags
from datasets.hold_out import HELD_OUT, NOTHING, HoldOut
from utils.compat import tf
from utils.errors import UserError
from utils.labels import IGNORE_LABEL
from utils.settings import parse

pytestmark = pytest.mark.fast

SIZE = (5, 7)
# Names of two drives and a third that is in both splits; in val, the same frame number as in train.
NAMES = {'train': ('a_0', 'a_1', 'a_2', 'b_0', 'b_1', 'c_0', 'c_1', 'c_2', 'c_3', 'c_4', 'c_5'),
         'val': ('c_6', 'c_7', 'a_9')}


def _sources(source_dir, split):
  """Image i is i everywhere; its label has i + 1 pixels of class 1, and one void."""
  del source_dir
  sources = []
  for index, name in enumerate(NAMES[split]):
    label = np.zeros(SIZE, np.uint8)
    label.flat[:index + 1] = 1
    label[-1, -1] = IGNORE_LABEL
    sources.append(Source(name, np.full([*SIZE, 3], index, np.uint8), label))
  return sources


DRIVES = Dataset(name='drives', classes=('road', 'car'), palette=np.zeros([2, 3], np.uint8),
                 splits={'train': 11, 'val': 3}, sources=_sources,
                 label_map=label_map({0: 0, 1: 1, IGNORE_LABEL: IGNORE_LABEL}))
A, C = (HoldOut((pattern,), splits=('train', 'val')) for pattern in ('a_*', 'c_*'))


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
  folder = str(tmp_path_factory.mktemp('drives'))
  for split in ('train', 'val'):
    convert.convert(DRIVES, split, source_dir=folder, data_dir=folder, num_shards=3, num_workers=1, progress=False)
  return folder


def stream(data_dir, held, count, *, start_step=0, batch_size=2):
  """Names of the first batches of the training's stream, in one list."""
  with tf.Graph().as_default(), tf.Session() as session:
    batch = tf.data.make_one_shot_iterator(pipeline.training_batches(
        data_dir, 'train', batch_size=batch_size, augmentation=Augmentation(crop_size=SIZE), seed=3,
        start_step=start_step, held=held)).get_next()['name']
    return [name.decode() for _ in range(count) for name in session.run(batch)]


@pytest.mark.parametrize('held, kept', [(A, ('b', 'c')), (C, ('a', 'b')), (NOTHING, ('a', 'b', 'c'))])
def test_every_epoch_has_what_is_left_once(data_dir, held, kept):
  expected = sorted(name for name in NAMES['train'] if name[0] in kept)
  found = stream(data_dir, held, 3 * len(expected), batch_size=1)
  epochs = [found[start:start + len(expected)] for start in range(0, len(found), len(expected))]
  assert [sorted(epoch) for epoch in epochs] == [expected] * 3
  assert epochs[0] != epochs[1]


@pytest.mark.parametrize('start', [1, 3, 4, 7])
def test_resuming_goes_on_where_the_stream_was(data_dir, start):
  """Also within an epoch of eight images, which batches of three do not divide."""
  whole = stream(data_dir, A, 9, batch_size=3)
  assert stream(data_dir, A, 9 - start, start_step=start, batch_size=3) == whole[3 * start:]


@pytest.mark.parametrize('held, split, expected', [
    (A, 'train', 'b_0 b_1 c_0 c_1 c_2 c_3 c_4 c_5'), (A, 'val', 'c_6 c_7'), (A, HELD_OUT, 'a_0 a_1 a_2 a_9'),
    (C, 'train', 'a_0 a_1 a_2 b_0 b_1'), (C, 'val', 'a_9'), (C, HELD_OUT, 'c_0 c_1 c_2 c_3 c_4 c_5 c_6 c_7'),
    (HoldOut(('b_?',), splits=('train', 'val')), 'val', 'c_6 c_7 a_9'),
    (HoldOut(('b_?',), splits=('train', 'val')), HELD_OUT, 'b_0 b_1')])
def test_the_splits_by_hand(data_dir, held, split, expected):
  expected = expected.split()
  assert hold_out.read_names(data_dir, split, held) == expected
  assert sorted(name for name, _, _ in pipeline.examples(data_dir, split, held)) == sorted(expected)
  stats = hold_out.read_stats(data_dir, split, held)
  cars = [of_split.index(name) + 1 for name in expected for of_split in NAMES.values() if name in of_split]
  count, pixels = len(expected), SIZE[0] * SIZE[1]
  assert (stats['split'], stats['num_examples'], stats['expected']) == (split, count, count)
  assert stats['class_pixels'] == [count * (pixels - 1) - sum(cars), sum(cars)] and stats['void_pixels'] == count
  assert stats['class_image_pixels'] == [count * pixels] * 2
  assert set(stats['sanity']['digests']) == set(expected)


def few_originals(name, folder):
  """The dataset `name` with at most three images in each split, and its originals in a folder."""
  dataset = DATASETS[name]
  if not dataset.generate:
    originals.MAKERS[name](folder)
    return dataset
  return dataclasses.replace(dataset, sources=lambda folder, split: DATASETS[name].sources(folder, split)[:3])


@pytest.mark.parametrize('name', DATASETS)
def test_every_dataset_holds_out_alike(name, tmp_path):
  """Statistics against those that are counted from the pictures that come back."""
  dataset, data_dir = few_originals(name, tmp_path / 'originals'), str(tmp_path / 'records')
  for split in ('train', 'val'):
    convert.convert(dataset, split, source_dir=str(tmp_path / 'originals'), data_dir=data_dir, num_workers=1,
                    num_shards=2, progress=False)
  names = {split: hold_out.read_names(data_dir, split) for split in ('train', 'val')}
  held = folds.hold_out(HoldOutFlags(hold_out=(names['train'][0],)), data_dir, dataset.splits)
  pictures = originals.read_back(data_dir, 'train') | originals.read_back(data_dir, 'val')
  left = {'train': names['train'][1:], 'val': names['val'], HELD_OUT: names['train'][:1]}
  for split, expected in left.items():
    stats = hold_out.read_stats(data_dir, split, held)
    assert stats['num_examples'] == len(expected) > 0
    ids = np.concatenate([pictures[picture][1].ravel() for picture in expected])
    assert stats['class_pixels'] == np.bincount(ids, minlength=256)[:dataset.num_classes].tolist()
    assert stats['void_pixels'] == (ids == IGNORE_LABEL).sum()
    assert sorted(found for found, _, _ in pipeline.examples(data_dir, split, held)) == sorted(expected)
    scanned = inspection.scan(data_dir, split, dataset.num_classes, progress=False, held=held)
    assert scanned.sanity['digests'] == stats['sanity']['digests']


def test_records_of_an_older_converter_are_read_through(data_dir, tmp_path):
  """Their JSON names no images and has fewer counts."""
  for file in os.listdir(data_dir):
    (tmp_path / file).symlink_to(os.path.join(data_dir, file))
  for split in ('train', 'val'):
    stats = json.loads((tmp_path / f'{split}.json').read_text())
    (tmp_path / f'{split}.json').unlink()
    for key in ('sanity', 'void_pixels', 'class_image_pixels'):
      del stats[key]
    (tmp_path / f'{split}.json').write_text(json.dumps(stats))
  assert sorted(hold_out.read_names(str(tmp_path), 'train', A)) == sorted(hold_out.read_names(data_dir, 'train', A))
  older, newer = (hold_out.read_stats(folder, 'train', A) for folder in (str(tmp_path), data_dir))
  assert older['class_pixels'] == newer['class_pixels'] and older['num_examples'] == 8
  assert 'void_pixels' not in older


def test_a_second_conversion_is_counted_anew(data_dir, tmp_path):
  folder, split = str(tmp_path), 'train'
  options = {'source_dir': folder, 'data_dir': folder, 'num_workers': 1, 'progress': False}
  convert.convert(DRIVES, split, **options)
  held = HoldOut(('a_*',), splits=('train',))
  before = hold_out.read_stats(folder, split, held)['num_examples']
  fewer = dataclasses.replace(DRIVES, sources=lambda *arguments: _sources(*arguments)[1:])
  convert.convert(fewer, split, **options)
  assert (before, hold_out.read_stats(folder, split, held)['num_examples']) == (8, 8)
  assert hold_out.read_stats(folder, HELD_OUT, held)['num_examples'] == 2


def test_a_split_without_an_image_is_refused(data_dir):
  everything = HoldOut(('c_*', 'a_9'), splits=('train', 'val'))
  with pytest.raises(UserError, match=rf'all images of val in {data_dir} are held out by c_\*, a_9: the split he'):
    hold_out.read_stats(data_dir, 'val', everything)
  with pytest.raises(UserError, match='no image of train and val in .* is held out by d'):
    hold_out.read_stats(data_dir, HELD_OUT, HoldOut(('d',), splits=('train', 'val')))
  with pytest.raises(UserError, match='nothing is held out, so there is no split held_out; --hold_out says'):
    hold_out.read_stats(data_dir, HELD_OUT)


NAMED = {split: list(names) for split, names in NAMES.items()}


def choose(*words, names=NAMED):
  return folds.choose(parse(HoldOutFlags, words), names)


def test_patterns_and_files_of_patterns(tmp_path):
  (tmp_path / 'list').write_text('# drives\n\nb_*\n  a_9 \n')
  held = choose(f'--hold_out=@{tmp_path}/list, c_[0-3]')
  assert held == HoldOut(('b_*', 'a_9', 'c_[0-3]'), splits=('train', 'val'))
  held_out = [name for name in sum(NAMED.values(), []) if held.holds(name)]
  assert held_out == ['b_0', 'b_1', 'c_0', 'c_1', 'c_2', 'c_3', 'a_9']
  assert HoldOut.from_json(json.loads(json.dumps(held.to_json()))) == held
  assert HoldOut.from_json(None) == NOTHING and NOTHING.to_json() is None


def test_names_of_any_letters():
  """Names with the marks of patterns are names as well; accents in either form; bytes that are no UTF-8."""
  names = {'train': ['a[1]', 'a1', 'caf\u00e9', 'x\udce9', 'y', 'u\u0308 1']}
  for pattern, expected in (('a[1]', ['a[1]', 'a1']), ('cafe\u0301', ['caf\u00e9']), ('x\udce9', ['x\udce9']),
                            ('u\u0308 1', ['u\u0308 1']), ('\u00fc*', ['u\u0308 1'])):
    held = folds.choose(HoldOutFlags(hold_out=(pattern,)), names)
    assert list(filter(held.holds, names['train'])) == expected


@pytest.mark.parametrize('words, message', [
    (['--hold_out=d_*'], r'--hold_out: d_\* matches none of the 14 names of train and val, such as a_0, '),
    (['--hold_out=a_*,A_*'], r'--hold_out: A_\* matches none'),
    (['--hold_out=*'], r'--hold_out=\*: all 11 images of train are held out, such as a_0, '),
    (['--hold_out=a_0', '--group_by=^.'], 'a_0: 1 of the 4 images of a, a group of --group_by=.*, are held out and'),
    (['--group_by=^([ab])_', '--fold=1/2'], 'finds no group in 8 of 14 names, such as c_0, '),
    (['--group_by=^.', '--fold=1/4'], '--fold=1/4: --group_by=.* finds 3 groups only: a, b, c'),
])
def test_what_holds_nothing_out_or_everything_is_refused(words, message):
  with pytest.raises(UserError, match=message):
    choose(*words)


def test_a_line_of_a_file_that_matches_nothing_is_named(tmp_path):
  (tmp_path / 'list').write_text('a_*\nbb\n')
  with pytest.raises(UserError, match=f'--hold_out: {tmp_path}/list:2: bb matches none'):
    choose(f'--hold_out=@{tmp_path}/list')
  (tmp_path / 'list').write_text('# nothing\n')
  with pytest.raises(UserError, match='there is no pattern in it'):
    choose(f'--hold_out=@{tmp_path}/list')
  with pytest.raises(UserError, match=f'{tmp_path}/none'):
    choose(f'--hold_out=@{tmp_path}/none')


@pytest.mark.parametrize('words, message', [
    (['--hold_out='], '--hold_out is empty'), (['--group_by=', '--fold=1/2'], '--group_by is empty'),
    (['--group_by=(a'], r'--group_by=\(a: no regular expression'), (['--fold=1/2'], 'needs --group_by'),
    (['--fold=1/2', '--group_by=a', '--hold_out=b'], '--fold=1/2 and --hold_out=b: give one'),
    *((['--group_by=a', f'--fold={fold}'], f'--fold={fold}: K/N is wanted')
      for fold in ('0/2', '3/2', '1/1', '2', 'x'))])
def test_flags_that_say_nothing_are_refused(words, message):
  with pytest.raises(UserError, match=message):
    parse(HoldOutFlags, words)


@pytest.mark.parametrize('value', [
    5, [1], 'text', {'patterns': 5}, {'patterns': [1]}, {'groups': 'ab'}, {'group_by': ['a']}, {'group_by': '('},
    {'splits': ['nowhere']}, {'splits': [['train']]}, {'group_by': '(' * 10_000}])
def test_a_hold_out_of_other_types_is_refused(value):
  with pytest.raises(UserError, match='^the hold_out .* of a config.json was not written by this project$'):
    HoldOut.from_json(value)


def test_groups_are_dealt_by_size():
  sizes = {'d': 2, 'a': 7, 'c': 3, 'b': 4, 'e': 3}
  assert folds.dealt(sizes, 2) == [('a', 'e'), ('b', 'c', 'd')]  # 7 + 3 and 4 + 3 + 2
  assert folds.dealt(sizes, 3) == [('a',), ('b', 'd'), ('c', 'e')]  # 7, 4 + 2 and 3 + 3
  assert folds.dealt(dict(reversed(sizes.items())), 3) == folds.dealt(sizes, 3)


def test_folds_hold_every_image_out_once():
  """What follows the underscore is the group: 0, 1, ..., with frames of several drives in it."""
  found = [choose('--group_by=_(.)', f'--fold={number}/3') for number in (1, 2, 3)]
  names = sum(NAMED.values(), [])
  by_fold = [list(filter(held.holds, names)) for held in found]
  assert sorted(sum(by_fold, [])) == sorted(names)
  assert all(len({held.holds(name) for name in names if name[-1] == '0'}) == 1 for held in found)
  assert [len(names) for names in by_fold] == [5, 5, 4]
  assert found[0].groups == ('0', '4', '7') and found[0].group_by == '_(.)'


def test_a_new_group_is_in_no_recorded_fold():
  held = choose('--group_by=^.', '--fold=1/3')
  assert held.groups == ('c',) and held.holds('c_new') and not held.holds('d_0') and not held.holds('')


def test_a_split_of_this_name_is_not_overlooked(data_dir):
  with pytest.raises(UserError, match='--hold_out=a_0: the dataset has a split held_out of its own'):
    folds.hold_out(HoldOutFlags(hold_out=('a_0',)), data_dir, ('train', 'val', HELD_OUT))


def test_the_drives_of_camvid(shared):
  dataset = get_dataset('camvid')
  names = {split: [source.name for source in dataset.sources(str(shared / 'data/camvid'), split)]
           for split in ('train', 'val')}
  assert {split: dict(folds.grouped('^[^_]+', of_split)) for split, of_split in names.items()} == {
      'train': {'0001TP': 62, '0006R0': 101, '0016E5': 204}, 'val': {'0016E5': 101}}
  for words, drive, count in ((['--hold_out=0006R0*'], '0006R0', 101), (['--hold_out=0001TP*'], '0001TP', 62),
                              (['--group_by=^[^_]+', '--fold=2/3'], '0006R0', 101)):
    held = choose(*words, names=names)
    assert sum(map(held.holds, names['train'])) == count and not any(map(held.holds, names['val']))
    assert all(held.holds(name) == name.startswith(drive) for name in names['train'])


def paint(folder, name, seed):
  image = np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), np.uint8)
  for kind, pixels in (('images', image), ('labels', image[..., 0] // 128)):
    (folder / kind).mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(folder / kind / f'{name}.png')


@pytest.fixture
def sites(tmp_path, monkeypatch):
  """A folder of the user's own: four sites, of which one has a copy of another's picture and one is in val as well."""
  monkeypatch.setattr(convert, 'default_workers', lambda: 1)
  folder = tmp_path / 'sites'
  for number, name in enumerate(('p1-a', 'p1-b', 'p2-a', 'p3-a', 'p3-b', 'p4-a')):
    paint(folder, name, 0 if name == 'p3-b' else number)
  (folder / 'classes.txt').write_text('ground\ntree\n')
  (folder / 'train.txt').write_text('p1-a\np1-b\np2-a\np3-b\n')
  (folder / 'val.txt').write_text('p3-a\np4-a\n')
  return folder


def test_inspection_shows_groups_and_what_is_held_out(sites, tmp_path, run_program):
  result = run_program(inspection.main, f'--dataset={sites}', f'--data_dir={tmp_path}/data', '--group_by=^[^-]+')
  assert result.returncode == 0, result.stderr
  assert ('4 groups of --group_by=^[^-]+\n  p1: 2 in train\n  p3: 1 in train, 1 in val\n  p2: 1 in train\n'
          '  p4: 1 in val\n') in result.stdout
  result = run_program(inspection.main, f'--dataset={sites}', f'--data_dir={tmp_path}/data', '--group_by=^[^-]+',
                       '--hold_out=p3-*')
  assert result.returncode == 0, result.stderr
  assert ('held out, as the split held_out: 1 of the 4 images of train and 1 of the 2 images of val; --hold_out=p3-*\n'
          in result.stdout)
  assert '  p3: 1 in train, 1 in val; 2 held out\n' in result.stdout
  assert ('warning: sites: 1 image in both train and held_out, so that scores are too good: '
          'train p1-a = held_out p3-b\n') in result.stdout
  found = {split: json.loads((tmp_path / f'data/inspect/inspect-{split}.json').read_text())
           for split in ('train', 'val', HELD_OUT)}
  assert collections.Counter({split: one['num_examples'] for split, one in found.items()}) == {
      'train': 3, 'val': 1, HELD_OUT: 2}


def test_copies_across_the_gap_are_said_from_the_json_alone(sites, tmp_path, capsys):
  for split in ('train', 'val'):
    convert.convert(get_dataset(str(sites)), split, source_dir=None, data_dir=str(tmp_path / 'data'), progress=False)
  held = HoldOut(('p3-*',), splits=('train', 'val'))
  whole, left = ({split: hold_out.read_stats(str(tmp_path / 'data'), split, one) for split in splits}
                 for splits, one in ((('train', 'val'), NOTHING), (('train', HELD_OUT), held)))
  sanity.report('sites', whole, whole, left)
  lines = capsys.readouterr().out.splitlines()
  assert lines == ['warning: sites: 1 image of train is a copy of another: p1-a = p3-b',
                   'warning: sites: 1 image in both train and held_out, so that scores are too good: train p1-a = '
                   'held_out p3-b']
