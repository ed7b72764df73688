"""datasets.convert: the files written, the originals refused, and that a failure leaves no trace."""

import dataclasses
import fcntl
import os
import pathlib
import resource
import runpy
import sys

import numpy as np
import pytest
from PIL import Image
from programs import assert_refused

from datasets import convert as converter
from datasets import export, get_dataset, images, records
from datasets.convert import BadFiles, convert
from datasets.dataset import Dataset, Source, colormap, label_map
from datasets.readers.own import own_dataset
from utils import files
from utils.compat import tf
from utils.errors import UserError
from utils.files import read_json

SIZES = [(5, 8), (9, 4), (1, 1), (7, 7), (3, 12)]


def _sources(source_dir, split):
  """Pairs of `<split>/NAME.png` and `<split>/NAME_label.png`."""
  folder = pathlib.Path(source_dir, split)
  return [Source(path.stem, str(path), f'{path.parent}/{path.stem}_label.png')
          for path in sorted(folder.glob('*.png')) if not path.stem.endswith('_label')]


TOY = Dataset(name='toy', classes=('x', 'y', 'z'), palette=colormap(3), splits={'train': 5, 'val': 2}, sources=_sources,
              label_map=label_map({0: 0, 1: 1, 2: 2, 255: 255}), url='nowhere')


def _originals(folder, split='train', sizes=SIZES):
  """Writes images of random pixels with labels of a random class in 0..1 each, void in one corner."""
  (folder / split).mkdir(parents=True)
  rng = np.random.default_rng(0)
  for number, size in enumerate(sizes):
    label = rng.integers(0, 2, size).astype(np.uint8)
    label[0, 0] = 255
    Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(folder / split / f'{number}.png')
    Image.fromarray(label).save(folder / split / f'{number}_label.png')
  return folder


def _convert(folder, split='train', dataset=TOY, **options):
  options = {'num_workers': 1, 'num_shards': 2, 'progress': False, **options}
  return convert(dataset, split, source_dir=str(folder), data_dir=str(folder / 'data'), **options)


def _state(folder):
  """Name -> (bytes, time) of every file in a folder."""
  return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in sorted(folder.iterdir())}


def _read(data_dir, split='train'):
  """Decodes all records with the graph that training uses, in the order in which they were converted."""
  with tf.Graph().as_default(), tf.Session() as session:
    serialized = tf.placeholder(tf.string, [])
    parsed = records.parse(serialized)
    shards = [[session.run(parsed, {serialized: record}) for record in tf.io.tf_record_iterator(path)]
              for path in records.shard_paths(str(data_dir), split)]
  return [shard[number] for number in range(len(shards[0])) for shard in shards if number < len(shard)]


def test_records_equal_the_originals(tmp_path):
  stats = _convert(_originals(tmp_path))
  written = _read(tmp_path / 'data')
  assert [example['name'] for example in written] == [b'0', b'1', b'2', b'3', b'4']
  pixels, image_pixels, void = np.zeros(3, int), np.zeros(3, int), 0
  for example, source in zip(written, _sources(tmp_path, 'train'), strict=True):
    np.testing.assert_array_equal(example['image'], np.asarray(Image.open(source.image)))
    label = np.asarray(Image.open(source.label))
    np.testing.assert_array_equal(example['label'], label)
    for index in range(3):
      pixels[index] += (label == index).sum()
      image_pixels[index] += label.size * (label == index).any()
    void += (label == 255).sum()
  assert sorted(os.listdir(tmp_path / 'data')) == [
      'train-00000-of-00002.tfrecord', 'train-00001-of-00002.tfrecord', 'train.json']
  assert stats == read_json(tmp_path / 'data/train.json')
  assert stats['class_pixels'] == pixels.tolist() and pixels[2] == 0
  assert stats['class_image_pixels'] == image_pixels.tolist()
  assert (stats['void_pixels'], stats['num_examples'], stats['expected'], stats['num_shards']) == (void, 5, 5, 2)
  assert (stats['dataset'], stats['split'], stats['class_names']) == ('toy', 'train', ['x', 'y', 'z'])
  assert stats['skipped'] == []


def test_two_processes_write_the_files_of_one(tmp_path):
  """And report the same bad files."""
  _spoil(_originals(tmp_path, sizes=SIZES + SIZES))
  dataset = dataclasses.replace(TOY, sources=lambda source_dir, split: _sources(source_dir, split))
  assert len(_convert(tmp_path, skip_bad=True)['skipped']) == 3
  alone = {name: data for name, (data, _) in _state(tmp_path / 'data').items()}
  convert(dataset, 'train', source_dir=str(tmp_path), data_dir=str(tmp_path / 'other'), num_shards=2, num_workers=2,
          skip_bad=True, progress=False)
  assert {name: data for name, (data, _) in _state(tmp_path / 'other').items()} == alone


def test_nothing_is_done_twice(tmp_path):
  _originals(tmp_path)
  first = _convert(tmp_path)
  state = _state(tmp_path / 'data')
  assert _convert(tmp_path) == first
  assert _convert(tmp_path, skip_bad=True, num_workers=3) == first
  assert _state(tmp_path / 'data') == state


def test_flags_for_folders_of_ones_own_are_refused_for_published_datasets(tmp_path):
  """Also where nothing is left to convert."""
  _originals(tmp_path)
  for _ in range(2):
    with pytest.raises(UserError, match=f'--exif: {TOY.name} is read as it was published; the flag is for folders'):
      _convert(tmp_path, told={'exif': 'turn'})
    _convert(tmp_path)


@pytest.mark.parametrize('change', ['touch', 'new image', 'removed image', 'shards', 'truncated', 'no json', 'bad json',
                                    'classes'])
def test_a_change_is_noticed(change, tmp_path):
  _originals(tmp_path)
  before = _convert(tmp_path)
  dataset, num_shards, data = TOY, 2, tmp_path / 'data'
  if change == 'touch':
    os.utime(tmp_path / 'train/3_label.png', ns=(1, 1))
  elif change == 'new image':
    Image.new('RGB', (2, 2)).save(tmp_path / 'train/9.png')
    Image.new('L', (2, 2)).save(tmp_path / 'train/9_label.png')
  elif change == 'removed image':
    os.unlink(tmp_path / 'train/0.png')
  elif change == 'shards':
    num_shards = 3
  elif change == 'truncated':
    os.truncate(data / 'train-00001-of-00002.tfrecord', 30)
  elif change == 'no json':
    os.unlink(data / 'train.json')
  elif change == 'bad json':
    (data / 'train.json').write_text('{')
  elif change == 'classes':
    dataset = dataclasses.replace(TOY, classes=('x', 'y', 'other'))
  after = _convert(tmp_path, dataset=dataset, num_shards=num_shards)
  same = change in ('shards', 'truncated', 'no json', 'bad json')
  assert (after['fingerprint'] == before['fingerprint']) == same
  expected = {'new image': 6, 'removed image': 4}.get(change, 5)
  assert len(_read(data)) == after['num_examples'] == expected
  assert sorted(os.listdir(data)) == [records.shard_name('train', n, num_shards) for n in range(num_shards)] + [
      'train.json']


def _spoil(folder):
  """Makes three of the pairs bad in different ways. Returns the starts of their messages."""
  (folder / 'train/0.png').write_bytes((folder / 'train/0.png').read_bytes()[:-20])
  Image.new('L', (4, 9), 3).save(folder / 'train/1_label.png')
  Image.new('L', (2, 5)).save(folder / 'train/3_label.png')
  return [f'{folder}/train/0.png: cannot be decoded',
          f'{folder}/train/1_label.png: has label value 3 at row 0, column 0; valid are 0 to 2, 255',
          f'{folder}/train/3_label.png: is 2x5 pixels, but its image is 7x7']


def test_all_bad_files_are_listed_and_nothing_is_left(tmp_path):
  reasons = _spoil(_originals(tmp_path))
  with pytest.raises(BadFiles) as error:
    _convert(tmp_path)
  lines = str(error.value).splitlines()
  assert lines[0].startswith('toy train: 3 of 5 pairs cannot be used, so nothing was written')
  assert [line.strip().startswith(reason) for line, reason in zip(lines[1:], reasons, strict=True)] == [True] * 3
  assert not (tmp_path / 'data').exists()


def test_a_failure_leaves_the_last_good_conversion(tmp_path):
  _originals(tmp_path)
  _convert(tmp_path)
  state = _state(tmp_path / 'data')
  _spoil(tmp_path)
  with pytest.raises(BadFiles):
    _convert(tmp_path, num_shards=3)
  assert _state(tmp_path / 'data') == state


def test_bad_ones_are_left_out_counted_and_named(tmp_path, capsys):
  reasons = _spoil(_originals(tmp_path))
  stats = _convert(tmp_path, skip_bad=True, num_shards=4, progress=True)
  assert stats['num_examples'] == stats['num_shards'] == 2  # no shard is left empty
  assert [entry['name'] for entry in stats['skipped']] == ['0', '1', '3']
  assert [f'{entry["file"]}: {entry["reason"]}'.startswith(reason)
          for entry, reason in zip(stats['skipped'], reasons, strict=True)] == [True] * 3
  assert [example['name'] for example in _read(tmp_path / 'data')] == [b'2', b'4']
  out = capsys.readouterr().out
  assert out.count('toy train: left out') == 3 and 'toy train: 2 images where the original has 5' in out
  state = _state(tmp_path / 'data')
  assert _convert(tmp_path, skip_bad=True, num_shards=4) == stats  # done already
  with pytest.raises(BadFiles):  # but not for one who wants them all
    _convert(tmp_path, num_shards=4)
  assert _state(tmp_path / 'data') == state


def test_nothing_but_bad_ones_is_an_error(tmp_path):
  _originals(tmp_path, sizes=[(3, 3)])
  (tmp_path / 'train/0.png').write_bytes(b'')
  with pytest.raises(BadFiles, match='none of the 1 pairs can be used'):
    _convert(tmp_path, skip_bad=True)
  assert not (tmp_path / 'data').exists()


def test_an_existing_folder_stays_after_a_failure(tmp_path):
  _spoil(_originals(tmp_path))
  (tmp_path / 'data').mkdir()
  with pytest.raises(BadFiles):
    _convert(tmp_path)
  assert list((tmp_path / 'data').iterdir()) == []


def test_leftovers_of_a_killed_conversion_are_removed(tmp_path):
  _originals(tmp_path)
  (tmp_path / 'data').mkdir()
  (tmp_path / 'data/train-7.tfrecord.tmp').write_bytes(b'half')
  (tmp_path / 'data/notes.txt').write_text('mine')
  _convert(tmp_path)
  assert not (tmp_path / 'data/train-7.tfrecord.tmp').exists() and (tmp_path / 'data/notes.txt').exists()


def test_each_step_is_on_the_disk_before_the_next(tmp_path, monkeypatch):
  """So that a power cut leaves no JSON beside shards that are not whole, of a second conversion too."""
  _convert(_originals(tmp_path))
  (tmp_path / 'train/0.png').touch()
  calls = []

  def recorded(name, real):
    def call(path, *more):
      calls.append((name, 'JSON' if os.path.basename(path).startswith('.') else os.path.basename(path)))
      return real(path, *more)
    return call

  monkeypatch.setattr(os, 'replace', recorded('replace', os.replace))
  for module in (converter, files):
    monkeypatch.setattr(module, 'sync', recorded('sync', files.sync))
  monkeypatch.setattr(converter, '_remove', lambda paths: [
      calls.append(('remove', os.path.basename(path))) or os.unlink(path) for path in paths])
  _convert(tmp_path)
  shards = [f'train-{number}.tfrecord.tmp' for number in range(2)]
  assert calls == [*(('sync', shard) for shard in shards), ('remove', 'train.json'), ('sync', 'data'),
                   *(('replace', shard) for shard in shards), ('sync', 'data'), ('sync', 'JSON'), ('replace', 'JSON'),
                   ('sync', 'data')]


def test_splits_live_side_by_side(tmp_path):
  _originals(tmp_path)
  _originals(tmp_path, 'val', sizes=[(4, 6), (6, 4)])
  _convert(tmp_path)
  _convert(tmp_path, 'val', num_shards=8)
  _convert(tmp_path, 'train', num_shards=1)
  assert len(records.shard_paths(str(tmp_path / 'data'), 'val')) == 2  # no more than images
  assert len(records.shard_paths(str(tmp_path / 'data'), 'train')) == 1
  assert records.verify(records.shard_paths(str(tmp_path / 'data'), 'val'), 3) == 2


def test_two_conversions_of_one_folder_do_not_mix(tmp_path):
  _originals(tmp_path)
  (tmp_path / 'data').mkdir()
  folder = os.open(tmp_path / 'data', os.O_RDONLY)
  fcntl.flock(folder, fcntl.LOCK_EX)
  with pytest.raises(UserError, match='another conversion is writing to'):
    _convert(tmp_path)
  os.close(folder)
  _convert(tmp_path)


@pytest.mark.parametrize('options, problem', [
    ({'split': 'test'}, "toy has no split 'test'; it has train, val"),
    ({'split': 'val'}, 'toy val: there is no image in'),
])
def test_wrong_arguments(options, problem, tmp_path):
  _originals(tmp_path)
  with pytest.raises(UserError, match=problem):
    _convert(tmp_path, **options)
  assert not (tmp_path / 'data').exists()


def test_another_datasets_folder_is_refused(tmp_path):
  _originals(tmp_path)
  _convert(tmp_path)
  state = _state(tmp_path / 'data')
  with pytest.raises(UserError, match='holds the dataset toy, not other'):
    _convert(tmp_path, dataset=dataclasses.replace(TOY, name='other'))
  assert _state(tmp_path / 'data') == state


def test_a_folder_that_cannot_be_written(tmp_path):
  _originals(tmp_path)
  (tmp_path / 'file').write_text('')
  with pytest.raises(UserError, match='cannot create folder .*file/data'):
    convert(TOY, 'train', source_dir=str(tmp_path), data_dir=str(tmp_path / 'file/data'), progress=False)


def test_an_interrupted_conversion_leaves_nothing(tmp_path, monkeypatch):
  _originals(tmp_path)

  def interrupt(pair):
    raise KeyboardInterrupt

  monkeypatch.setattr(converter.records, 'serialize', interrupt)
  with pytest.raises(KeyboardInterrupt):
    _convert(tmp_path)
  assert not (tmp_path / 'data').exists()


def test_images_and_labels_of_a_generated_dataset(tmp_path):
  shapes = get_dataset('shapes')
  few = dataclasses.replace(shapes, sources=lambda source_dir, split: shapes.sources(source_dir, split)[:10])
  stats = convert(few, 'val', source_dir=None, data_dir=str(tmp_path / 'a'), num_workers=1, num_shards=3,
                  progress=False)
  example = _read(tmp_path / 'a', 'val')[7]
  image, labels = shapes.generate(Source('val-00007'))
  assert example['name'] == b'val-00007'
  np.testing.assert_array_equal(example['image'], image)
  np.testing.assert_array_equal(example['label'], labels)
  assert (stats['num_examples'], stats['expected']) == (10, 100) and min(stats['class_pixels']) > 0


@pytest.mark.filterwarnings('ignore:.*found in sys.modules:RuntimeWarning')  # imported before it is run
def test_the_command_converts_to_its_default_folder(shared, tmp_path, monkeypatch, capsys):
  """As `python -m` runs it, whose workers have its script hidden from them."""
  source = shared / 'data/mit_scene_parsing'
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(sys, 'argv', ['convert.py', '--dataset=mit', '--splits=val', f'--source_dir={source}',
                                    '--num_workers=2'])
  with pytest.raises(SystemExit) as ended:
    runpy.run_module('datasets.convert', run_name='__main__', alter_sys=True)
  done = capsys.readouterr()
  assert not ended.value.code, done.err
  assert 'mit val: 3 images where the original has 2000' in done.out
  assert 'mit val: 3/3 images' in done.err
  originals = sorted((source / 'ADEChallengeData2016/images/validation').iterdir())
  kept = [images.encode_image(str(path)).encoded for path in originals]
  paths = records.shard_paths(str(tmp_path / 'data/mit'), 'val')
  examples = [tf.train.Example.FromString(record) for path in paths for record in tf.io.tf_record_iterator(path)]
  stored = [example.features.feature['image/encoded'].bytes_list.value[0] for example in examples]
  assert stored == kept == [path.read_bytes() for path in originals]


def test_the_command_lists_bad_files_of_all_splits(tmp_path, run_program):
  for split in ('train', 'val'):
    (tmp_path / f'{split}.txt').write_text('a.png a_label.png\n')
  done = run_program(converter.main, '--dataset=camvid', f'--source_dir={tmp_path}', f'--data_dir={tmp_path / "data"}')
  assert done.returncode == 1
  assert done.stderr.count('/a.png: does not exist') == done.stderr.count('/a_label.png: does not exist') == 2
  assert done.stderr.count('1 of 1 pairs cannot be used') == 2
  assert 'Traceback' not in done.stderr and not (tmp_path / 'data').exists()


def test_the_command_knows_the_home_folder(tmp_path, monkeypatch, run_program):
  _originals(tmp_path / 'photos/images', '', SIZES[:2])
  (tmp_path / 'photos/labels').mkdir()
  for path in (tmp_path / 'photos/images').glob('*_label.png'):
    path.rename(tmp_path / 'photos/labels' / path.name.replace('_label', ''))
  (tmp_path / 'photos/classes.txt').write_text('x\ny\n')
  monkeypatch.setenv('HOME', str(tmp_path))
  done = run_program(converter.main, '--dataset=~/photos', '--data_dir=~/data', '--splits=val,val', '--num_workers=1')
  assert done.returncode == 0, done.stderr
  assert done.stdout.count('photos val: 1 images in') == 1 and (tmp_path / 'data/val.json').exists()


@pytest.mark.parametrize('flags, problem', [
    ((), '--dataset'),
    (('--dataset=voc',), '--source_dir: say where the originals of voc are'),
    (('--dataset=shapes', '--splits='), '--splits is empty; shapes has train, val'),
    (('--dataset=shapes', '--splits=train,test'), "shapes has no split 'test'; it has train, val"),
    (('--dataset=shapes', '--num_shards=0'), '--num_shards=0: valid are 1 to 512'),
    (('--dataset=shapes', '--num_shards=513'), '--num_shards=513: valid are 1 to 512'),
    (('--dataset=shapes', '--num_workers=0'), '--num_workers=0: valid are 1 and above'),
    (('--dataset=shapes', 'val'), "unexpected argument 'val'"),
])
def test_the_command_refuses_wrong_flags(flags, problem, tmp_path, monkeypatch, run_program):
  monkeypatch.chdir(tmp_path)
  assert_refused(run_program(converter.main, *flags), problem)
  assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_an_error_and_nothing_is_left(tmp_path):
  _originals(tmp_path, sizes=[(120, 160)] * 2)
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))  # a longer file cannot be written
  try:
    with pytest.raises(UserError, match=f'cannot write to {tmp_path}/data: '):
      _convert(tmp_path)
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
  assert not (tmp_path / 'data').exists()


def test_export_gives_back_the_originals_bytes(tmp_path):
  """`datasets.export` writes images as they were encoded, the first `count` of them, under their names."""
  _originals(tmp_path / 'in')
  convert(TOY, 'train', source_dir=str(tmp_path / 'in'), data_dir=str(tmp_path / 'data'), num_workers=1, progress=False)
  written = export.export(TOY, str(tmp_path / 'data'), split='train', output_dir=str(tmp_path / 'out'), count=3)
  assert len(written) == 3 == len(os.listdir(tmp_path / 'out'))
  for path in map(pathlib.Path, written):
    assert path.read_bytes() == (tmp_path / 'in/train' / path.name).read_bytes()


def test_export_as_a_command(tmp_path, monkeypatch, run_program):
  shapes = get_dataset('shapes')
  few = dataclasses.replace(shapes, sources=lambda source_dir, split: shapes.sources(source_dir, split)[:3])
  convert(few, 'val', source_dir=None, data_dir=str(tmp_path / 'data/shapes'), num_workers=1, progress=False)
  monkeypatch.chdir(tmp_path)
  done = run_program(export.main, '--count=2')
  assert (done.returncode, done.stdout) == (0, '2 images of shapes val in photos\n')
  assert sorted(os.listdir('photos')) == ['val-00000.png', 'val-00001.png']
  assert_refused(run_program(export.main, 'val'), "unexpected argument 'val'")
  assert_refused(run_program(export.main, '--count=-1'), '--count=-1')
  assert_refused(run_program(export.main, '--split=train'), "no split 'train' in data/shapes", 'it has val')


def test_exported_labels_are_an_own_dataset(tmp_path):
  """Exported and converted again, there are the same images, ids and void pixels, classes and colors."""
  _originals(tmp_path / 'in')
  convert(TOY, 'train', source_dir=str(tmp_path / 'in'), data_dir=str(tmp_path / 'in/data'), num_workers=1,
          progress=False)
  export.export(TOY, str(tmp_path / 'in/data'), split='train', output_dir=str(tmp_path / 'out'), labels=True)
  names = ''.join(f'{number}\n' for number in range(len(SIZES)))
  for split in ('train', 'val'):
    (tmp_path / f'out/{split}.txt').write_text(names)
  own = own_dataset(str(tmp_path / 'out'))
  assert own.classes == TOY.classes and np.array_equal(own.palette, TOY.palette)
  _convert(tmp_path / 'out', dataset=own)
  for first, second in zip(_read(tmp_path / 'in/data'), _read(tmp_path / 'out/data'), strict=True):
    assert first['name'] == second['name']
    np.testing.assert_array_equal(first['image'], second['image'])
    np.testing.assert_array_equal(first['label'], second['label'])
