"""The user's own folder: every kind of label gives the same records, every mistake its line."""

import json
import os
import pickle
import re
import shutil

import numpy as np
import pytest
from PIL import Image

import evaluate
import train
from datasets import DATASETS, convert, get_dataset, images, label_pictures, records
from datasets.prepare import prepare
from datasets.readers import class_list, folder, own
from datasets.readers.camvid import CAMVID
from utils.compat import tf
from utils.errors import UserError

CLASSES = '# my classes\nroad 128,64,128\n\nunclear 0 0 0 ignore\ntraffic sign\t220,220,0\n'


@pytest.fixture(autouse=True)
def one_process(monkeypatch):
  """Converts in this process: worker processes take time to start."""
  monkeypatch.setattr(convert, 'default_workers', lambda: 1)


def save(path, pixels):
  path.parent.mkdir(parents=True, exist_ok=True)
  picture = pixels if isinstance(pixels, Image.Image) else Image.fromarray(np.asarray(pixels, np.uint8))
  picture.save(path)


def lay_out(root, names=('a', 'b', 'c'), label=((0, 1, 2), (255, 2, 0)), classes=CLASSES):
  """Writes a tiny dataset of ids: images of 3x2 pixels, each with the same label. Returns its path."""
  for number, name in enumerate(names):
    save(root / f'images/{name}.png', np.full((2, 3, 3), number))
    save(root / f'labels/{name}.png', label)
  (root / 'classes.txt').write_text(classes)
  return str(root)


def convert_all(dataset, data_dir):
  return {split: convert.convert(dataset, split, source_dir=None, data_dir=str(data_dir), num_workers=1, progress=False)
          for split in ('train', 'val')}


def read(data_dir, split):
  """Name -> (image, label) of a split's records."""
  with tf.Graph().as_default(), tf.Session() as session:
    serialized = tf.placeholder(tf.string, [])
    parsed = records.parse(serialized)
    values = [session.run(parsed, {serialized: record}) for path in records.shard_paths(str(data_dir), split)
              for record in tf.io.tf_record_iterator(path)]
  return {value['name'].decode(): (value['image'], value['label']) for value in values}


def test_the_record(tmp_path):
  dataset = get_dataset(lay_out(tmp_path / 'My photos!', names=[f'n{i}' for i in range(20)]) + '/')
  assert dataset.name == 'My_photos' and dataset.root == str(tmp_path / 'My photos!')
  assert dataset.classes == ('road', 'traffic sign')
  assert dataset.palette.tolist() == [[128, 64, 128], [220, 220, 0]] and dataset.palette.dtype == np.uint8
  assert dataset.label_map.tolist() == [0, 255, 1, *[-1] * 252, 255]
  assert sum(dataset.splits.values()) == 40 and dataset.splits.keys() == {'all', 'train', 'val'}
  source = dataset.sources(None, 'val')[0]
  assert source.image == str(tmp_path / f'My photos!/images/{source.name}.png')
  assert dataset.read_label is None and dataset.decisions == ()  # no picture was opened yet
  dataset = own.decided(dataset)
  assert pickle.loads(pickle.dumps(dataset.read_label))(source.label).tolist() == [[0, 1, 2], [255, 2, 0]]


@pytest.mark.parametrize('folder, name', [('voc', 'own-voc'), ('ä b', 'b'), ('!', 'own'), ('2024-05.x', '2024-05.x')])
def test_names_do_not_hide_other_datasets(folder, name, tmp_path):
  assert get_dataset(lay_out(tmp_path / folder)).name == name


def test_a_name_of_the_registry_goes_before_a_folder(tmp_path, monkeypatch):
  lay_out(tmp_path / 'voc')
  lay_out(tmp_path / 'cats')
  monkeypatch.chdir(tmp_path)
  assert get_dataset('voc') is DATASETS['voc']
  assert (get_dataset('./voc').name, get_dataset('cats').root) == ('own-voc', 'cats')
  with pytest.raises(UserError, match='--dataset=dogs: unknown dataset; known are shapes, voc.* or give the path of a '
                                      'folder with images, labels and classes.txt'):
    get_dataset('dogs')
  with pytest.raises(UserError, match='--dataset=./dogs: no such folder'):
    get_dataset('./dogs')


def test_classes_in_every_form(tmp_path):
  path = tmp_path / 'classes.txt'
  path.write_bytes('\ufeffsky\r\nroad, 1, 2, 3\r\ntraffic  sign 4\t5 6 Ignore\nF-16 7,8,9\n2-wheeler ignore\nlane 1\n'
                   .encode())
  found = [(line.name, line.color, line.ignore) for line in class_list.read_classes(str(path))]
  assert found == [('sky', None, False), ('road', (1, 2, 3), False), ('traffic sign', (4, 5, 6), True),
                   ('F-16', (7, 8, 9), False), ('2-wheeler', None, True), ('lane 1', None, False)]
  assert [line.raw_id for line in class_list.read_classes(str(path))] == list(range(6))


@pytest.mark.parametrize('line, problem', [
    ('road 0,0,256', 'the color 0,0,256 has the value 256; valid are 0 to 255'),
    ('road 0,-1,2', 'the color 0,-1,2 has the value -1'),
    ('road 1,2', "is a name .no number.* found 'road 1,2'"), ('1,2,3 road', 'is a name'), ('0 road', 'is a name'),
    ('0: road', 'is a name'), ('7', 'is a name'), ('ignore', 'is a name'), ('1,2,3', 'is a name'),
    ('road #80408', 'is a name'), ('road;128;64;128', 'is a name'), ('road: 7', 'is a name'), ('{', 'is a name'),
    ('road|7', 'is a name'), ('- "road', 'is a name'), ('sky', "the class 'sky' stands in .*classes.txt:1 already"),
    ('road 9,9,9', 'the color 9,9,9 stands in .*classes.txt:1 already')])
def test_a_wrong_class_is_named(line, problem, tmp_path):
  path = tmp_path / 'classes.txt'
  path.write_text(f'sky 9,9,9\n\n{line}\n')
  with pytest.raises(UserError, match=f'classes.txt:3: .*{problem}'):
    class_list.read_classes(str(path))


@pytest.mark.parametrize('text, problem', [
    ('', 'classes.txt is empty'), ('a\nb ignore', 'at least two classes'), ('\n'.join(f'c{i}x' for i in range(256)),
                                                                             '256 classes; at most 255')])
def test_too_few_and_too_many_classes(text, problem, tmp_path):
  (tmp_path / 'classes.txt').write_text(text)
  with pytest.raises(UserError, match=problem):
    class_list.read_classes(str(tmp_path / 'classes.txt'))


def test_classes_without_colors_get_different_ones(tmp_path):
  dataset = own.own_dataset(lay_out(tmp_path, classes='a\nb 0,0,0\nc\nd 128,0,0\n'))
  assert dataset.palette.tolist() == [[0, 128, 0], [0, 0, 0], [128, 128, 0], [128, 0, 0]]


def test_the_hash_split_is_stable(tmp_path):
  """By hand: sha256 of a, b, c, d starts with ca97, 3e23, 2e7d, 18ac; a fifth of the range ends at 3333."""
  train, val = folder.hash_split(['a', 'b', 'c', 'd'])
  assert (sorted(train), sorted(val)) == (['a', 'b'], ['c', 'd'])
  assert folder.hash_split(['a', 'b']) == (['a'], ['b'])  # none in the lowest fifth: the lowest is val
  assert folder.hash_split(['c', 'd']) == (['c'], ['d'])  # both are: the highest is train
  names = [f'IMG_{number:04}' for number in range(1000)]
  train, val = folder.hash_split(names)
  assert sorted(train + val) == names and 160 < len(val) < 240
  assert set(folder.hash_split(names[500:])[1]) == set(val).intersection(names[500:])


def test_lists_make_the_splits(tmp_path):
  root = lay_out(tmp_path, names='abcdef')
  (tmp_path / 'test.txt').write_text('c\n')
  assert own.own_dataset(root).splits == {'all': 6, 'train': 3, 'val': 2, 'test': 1}  # c is in neither
  (tmp_path / 'train.txt').write_bytes(b'\xef\xbb\xbff\r\n\r\na.png\r\n')
  (tmp_path / 'val.txt').write_text('b')
  (tmp_path / 'README.txt').write_text('no split')
  dataset = own.own_dataset(root)
  assert dataset.splits == {'all': 6, 'test': 1, 'train': 2, 'val': 1}
  assert [source.name for source in dataset.sources(None, 'train')] == ['f', 'a']
  with pytest.raises(UserError, match="has no split 'holdout'; it has all, test, train, val"):
    dataset.sources(None, 'holdout')


@pytest.mark.parametrize('text, problem', [
    ('a\nx', r"train.txt:2: there is no image and no label of the name 'x'"),
    ('../a', r"train.txt:1: there is no image and no label of the name '\.\./a'"),
    ('a\nb\na', 'train.txt: the name a comes twice'), ('\n', 'train.txt is empty')])
def test_a_wrong_list_is_named(text, problem, tmp_path):
  root = lay_out(tmp_path)
  (tmp_path / 'train.txt').write_text(text)
  (tmp_path / 'val.txt').write_text('c')
  with pytest.raises(UserError, match=problem):
    own.own_dataset(root).sources(None, 'train')


def test_one_list_alone_is_refused(tmp_path):
  root = lay_out(tmp_path)
  (tmp_path / 'val.txt').write_text('c')
  with pytest.raises(UserError, match='holds val.txt but no train.txt; give both, or neither'):
    own.own_dataset(root)


@pytest.mark.parametrize('spoil, problem', [
    (lambda root: shutil.rmtree(root / 'labels'), 'holds images, labels and classes.txt; labels is missing in'),
    (lambda root: (shutil.rmtree(root / 'labels'), os.unlink(root / 'classes.txt')),
     'labels and classes.txt are missing in .*, and it is no export'),
    (lambda root: [os.unlink(path) for path in root.glob('images/*')], 'there is no picture in .*images .*.jpg'),
    (lambda root: [os.rename(path, path.with_name(path.stem + '_car.png')) for path in root.glob('labels/*')],
     'no label has the name of an image.*images/a.png and .*labels/a_car.png'),
    (lambda root: (os.rename(root / 'labels/a.png', root / 'labels/a_mask.png'), os.unlink(root / 'labels/b.png'),
                   os.unlink(root / 'labels/c.png'), save(root / 'labels/d.png', np.zeros((2, 3)))),
     'no label has the name of an image'),
    (lambda root: save(root / 'images/a.jpg', np.zeros((2, 3, 3))), 'images: the name a comes twice'),
    (lambda root: [os.unlink(root / f'images/{name}.png') for name in 'bc'], "has no split 'train'; it has all"),
    (lambda root: save(root / 'labels/b.png', np.zeros((2, 3, 3))),
     'must all be of one kind: 1 are RGB colors, such as .*labels/b.png, and 2 are .*ids, such as .*labels/a.png'),
    (lambda root: (root / 'images/.cache').mkdir(), None), (lambda root: (root / 'images/Thumbs.db').touch(), None)])
def test_a_wrong_layout_is_named(spoil, problem, tmp_path):
  root = lay_out(tmp_path)
  spoil(tmp_path)
  if not problem:
    assert own.own_dataset(root).splits['all'] == 3
    return
  with pytest.raises(UserError, match=problem):
    own.decided(own.own_dataset(root)).sources(None, 'train')


def test_colors_need_to_be_known(tmp_path):
  root = lay_out(tmp_path, label=np.zeros((2, 3, 3)), classes='# ids?\nroad 1,1,1\nsky\n')
  save(tmp_path / 'labels/b.png', np.full((2, 3, 3), (1, 1, 2)))
  with pytest.raises(UserError, match="classes.txt:3: the class 'sky' has no color, but labels such as .*a.png are"):
    own.decided(own.own_dataset(root))


def test_bad_pairs_are_listed(tmp_path):
  """Id out of range, size, missing partners: each with its file, all at once, and --skip_bad leaves them out."""
  root = lay_out(tmp_path / 'cats', names='abcdefg')
  (tmp_path / 'cats/train.txt').write_text('\n'.join('abcde'))
  (tmp_path / 'cats/val.txt').write_text('f\ng')
  save(tmp_path / 'cats/labels/a.png', [[0, 0, 0], [0, 3, 0]])
  save(tmp_path / 'cats/labels/b.png', [[0, 0]])
  os.unlink(tmp_path / 'cats/labels/c.png')
  os.unlink(tmp_path / 'cats/images/d.png')
  dataset = own.own_dataset(root)
  with pytest.raises(convert.BadFiles) as caught:
    prepare(dataset, str(tmp_path / 'data'))
  assert str(caught.value).splitlines()[1:] == [
      f'  {root}/labels/a.png: has label value 3 at row 1, column 1; valid are 0 to 2, 255',
      f'  {root}/labels/b.png: is 2x1 pixels, but its image is 3x2',
      f'  {root}/labels/c.png: does not exist', f'  {root}/images/d.*: does not exist']
  stats = convert.convert(dataset, 'train', source_dir=None, data_dir=str(tmp_path / 'data'), skip_bad=True,
                          num_workers=1, num_shards=2)
  assert stats['num_examples'] == 1
  time = os.stat(tmp_path / 'data/train.json').st_mtime_ns
  prepare(dataset, str(tmp_path / 'data'))  # converts val and is content with train
  assert os.stat(tmp_path / 'data/train.json').st_mtime_ns == time


def test_a_wrong_color_is_listed(tmp_path):
  root = lay_out(tmp_path / 'cats', label=np.full((2, 3, 3), 0))
  save(tmp_path / 'cats/labels/b.png', np.full((2, 3, 3), (128, 64, 129)))
  with pytest.raises(convert.BadFiles, match='labels/b.png: has the color 128,64,129, which stands for no class, in 6 '
                                             'pixels, the first at row 0, column 0; the nearest known color is 128,'):
    convert_all(own.own_dataset(root), tmp_path / 'data')


def palette_picture(ids, colors):
  picture = Image.fromarray(np.array(ids, np.uint8), 'P')
  picture.putpalette(np.array(colors, np.uint8).tobytes())
  return picture


def camvid_copies(root, shared):
  """Lays out eight images of CamVid three times, a quarter as large: ids, palette indices and colors.

  The lines of classes.txt are CamVid's classes in reverse, with void in their midst. Returns (paths, ids a name).
  """
  lines = [f'{name} {",".join(map(str, color))}' for name, color in zip(CAMVID.classes, CAMVID.palette.tolist())][::-1]
  lines.insert(4, 'unlabeled 0,0,0 ignore')
  raw_ids = np.array([11 - label if 11 - label > 4 else 10 - label for label in range(11)] + [4], np.uint8)
  colors = np.array([lines[raw_id].rsplit(' ', 2 if raw_id == 4 else 1)[1].split(',') for raw_id in range(12)], int)
  expected = {}
  sources = [source for split in ('train', 'val')
             for source in CAMVID.sources(str(shared / 'data/camvid'), split)[::60][:5]]
  for source in sources:
    camvid = label_pictures.read_label(source.label)[:-1:4, 1::4]
    raw = raw_ids[camvid]
    raw[0, 0] = 255 if source is sources[0] else raw[0, 0]
    for kind, label in (('ids', raw), ('palette', palette_picture(raw, np.pad(colors, ((0, 244), (0, 0))))),
                        ('colors', colors[np.where(raw == 255, 4, raw)])):
      save(root / kind / f'images/{source.name}.png', images.read_rgb(source.image)[:-1:4, 1::4])
      save(root / kind / f'labels/{source.name}.png', label)
      (root / kind / 'classes.txt').write_text('\n'.join(lines))
    expected[source.name] = np.where((camvid == 11) | (raw == 255), 255, 10 - camvid.astype(int))
  return {kind: str(root / kind) for kind in ('ids', 'palette', 'colors')}, expected


def test_all_kinds_of_labels_agree(shared, tmp_path):
  paths, expected = camvid_copies(tmp_path, shared)
  found, stats = {}, {}
  for kind, path in paths.items():
    dataset = own.own_dataset(path)
    assert dataset.classes == CAMVID.classes[::-1]
    np.testing.assert_array_equal(dataset.palette, CAMVID.palette[::-1])
    stats[kind] = convert_all(dataset, tmp_path / 'data' / kind)
    found[kind] = {split: read(tmp_path / 'data' / kind, split) for split in ('train', 'val')}
    for split, examples in found[kind].items():
      assert len(examples) == dataset.splits[split] > 0
    both = found[kind]['train'] | found[kind]['val']
    assert both.keys() == expected.keys()
    for name, (image, label) in both.items():
      np.testing.assert_array_equal(label, expected[name])
      np.testing.assert_array_equal(image, images.read_rgb(f'{path}/images/{name}.png'))
  assert len({json.dumps([row[key] for row in both.values() for key in ('class_pixels', 'void_pixels', 'num_examples')])
              for both in stats.values()}) == 1


def test_changes_are_converted_again(tmp_path, capsys):
  root = lay_out(tmp_path / 'cats', label=np.full((2, 3, 3), 0), names='abcd')
  data_dir = str(tmp_path / 'data')
  prepare(own.own_dataset(root), data_dir)
  assert f'cats: no TFRecords of train, val in {data_dir} yet; converting the originals in {root}' in (
      capsys.readouterr().out)
  assert (read(data_dir, 'train')['a'][1] == 255).all()
  prepare(own.own_dataset(root), data_dir)
  assert capsys.readouterr().out == ''
  save(tmp_path / 'cats/images/e.png', np.zeros((2, 3, 3)))  # sha256('e') is 3f79...: train
  save(tmp_path / 'cats/labels/e.png', np.zeros((2, 3, 3)))
  prepare(own.own_dataset(root), data_dir)
  out = capsys.readouterr().out
  assert f'cats: train was converted from other files than are in {root} now' in out and 'cats: val was' not in out
  assert read(data_dir, 'train').keys() == {'a', 'b', 'e'} and read(data_dir, 'val').keys() == {'c', 'd'}
  (tmp_path / 'cats/classes.txt').write_text('road 0,0,0\nsky 1,1,1\n')  # the same files mean something else
  prepare(own.own_dataset(root), data_dir)
  assert (read(data_dir, 'train')['a'][1] == 0).all()


def test_two_folders_of_one_name_do_not_share_a_data_dir(tmp_path):
  first, second = (own.own_dataset(lay_out(tmp_path / place / 'cats')) for place in 'xy')
  os.utime(tmp_path / 'y/cats/labels/a.png', ns=(1, 1))
  prepare(first, str(tmp_path / 'data'))
  with pytest.raises(UserError, match='holds the images of .*x/cats, not those of .*y/cats; give them another'):
    prepare(second, str(tmp_path / 'data'))
  os.rename(tmp_path / 'x/cats', tmp_path / 'cats')  # moving is no change
  time = os.stat(tmp_path / 'data/train.json').st_mtime_ns
  prepare(own.own_dataset(str(tmp_path / 'cats')), str(tmp_path / 'data'))
  assert os.stat(tmp_path / 'data/train.json').st_mtime_ns == time


def test_a_source_dir_is_not_needed(tmp_path):
  dataset = own.own_dataset(lay_out(tmp_path / 'cats'))
  with pytest.raises(UserError, match='--source_dir=/elsewhere: not needed, since --dataset is the folder'):
    prepare(dataset, str(tmp_path / 'data'), source_dir='/elsewhere')


def test_from_a_folder_to_an_evaluation(shared, tiny, tmp_path, monkeypatch, run_program):
  """The commands as the users give them: nothing but --dataset=PATH."""
  camvid_copies(tmp_path / 'mine', shared)
  os.rename(tmp_path / 'mine/colors', tmp_path / 'streets')
  monkeypatch.chdir(tmp_path)
  result = run_program(train.main, '--dataset=streets/', '--net=tiny', '--checkpoint=none', '--crop_size=64,96',
                       '--batch_size=2', '--max_steps=2', '--eval_steps=2', '--log_steps=1')
  assert result.returncode == 0, result.stderr
  assert 'converting the originals in streets' in result.stdout
  assert len(re.findall(r'^step \d/2  loss [\d.]+', result.stdout, re.M)) == 2, result.stdout
  config = json.loads((tmp_path / 'runs/streets-tiny-8s/config.json').read_text())
  assert config['dataset']['name'] == config['flags']['dataset'] == 'streets'
  assert config['flags']['data_dir'] == 'data/streets'
  result = run_program(evaluate.main, '--ckpt=runs/streets-tiny-8s')
  assert result.returncode == 0, result.stderr
  assert 'bicyclist' in result.stdout and 'unlabeled' not in result.stdout
