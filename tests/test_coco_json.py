"""COCO JSON of any tool: layouts, categories, pixels against pycocotools, and mistakes in the JSON."""

import json
import pickle
import shutil
import unicodedata

import numpy as np
import pytest
from export_folders import converted, labels, notes, picture, read, write
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO as Tool

from datasets import convert, get_dataset, images
from datasets.readers import coco, own
from utils.errors import UserError

pytestmark = pytest.mark.fast

SIZES = ((21, 34), (33, 17), (8, 9))


def annotation(segmentation, number=1, image=1, category=1, **others):
  return {'id': number, 'image_id': image, 'category_id': category, 'iscrowd': 0, 'segmentation': segmentation,
          **others}


def export(annotations, names=('a.png', 'b.png', 'c.png'), categories=None, sizes=SIZES, **others):
  """A JSON's content; images have the ids 1, 2 and so on."""
  return {'images': [{'id': number, 'file_name': name, 'height': height, 'width': width}
                     for number, (name, (height, width)) in enumerate(zip(names, sizes), 1)],
          'categories': categories or [{'id': 1, 'name': 'cat'}, {'id': 2, 'name': 'dog'}],
          'annotations': annotations, **others}


def lay_out(root, annotations=(), **options):
  """Three pictures beside the JSON."""
  for number, (name, size) in enumerate(zip('abc', SIZES)):
    picture(root / f'{name}.png', size, number)
  write(root / 'export.json', export(list(annotations), **options))
  return str(root)


def drawn_by_the_tool(path, image_id, numbers):
  """Draws an image's annotations by pycocotools' own annToMask, the largest first; `numbers`: category id -> raw."""
  tool = Tool(str(path))
  found = [(tool.annToMask(entry), entry) for entry in tool.loadAnns(tool.getAnnIds(imgIds=[image_id]))]
  size = tool.imgs[image_id]['height'], tool.imgs[image_id]['width']
  label = np.zeros(size, np.uint8)
  for mask, entry in sorted(found, key=lambda pair: -int(pair[0].sum())):
    label[mask > 0] = numbers[entry['category_id']]
  return label


SQUARE = [[2, 2, 12, 2, 12, 9, 2, 9]]


def test_pixels_are_those_of_pycocotools(tmp_path):
  """Several polygons, one beyond every border, a concave one, run lengths of both forms with a hole."""
  ring = np.zeros(SIZES[1], np.uint8, order='F')
  ring[5:25, 3:14], ring[10:20, 6:10] = 1, 0
  compressed = coco_mask.encode(ring)['counts'].decode()
  counts = [len(run) for run in np.split(ring.T.ravel(), np.flatnonzero(np.diff(ring.T.ravel())) + 1)]
  size = list(SIZES[1])
  lay_out(tmp_path, [
      annotation([[-5, -7.5, 40.2, 3, 50, 30, 10.4, 35.5]], 1, category=1),
      annotation([[3.5, 2.25, 20, 4, 9, 9.75, 19.5, 17], [25, 3, 31, 3, 28, 12]], 2, category=2),
      annotation({'size': size, 'counts': counts}, 3, image=2, category=2),
      annotation({'size': size, 'counts': compressed}, 4, image=2, category=1, iscrowd=0),
      annotation([[7, 7, 9.5, 8, 8, 31]], 5, image=2, category=2)])
  _, found = labels(tmp_path)
  for image_id, name in enumerate('ab', 1):
    expected = drawn_by_the_tool(tmp_path / 'export.json', image_id, {1: 1, 2: 2})
    np.testing.assert_array_equal(found[name], expected)
    assert np.unique(expected).tolist() == [0, 1, 2]
  assert not found['c'].any() and found['c'].shape == SIZES[2]


def test_the_order_of_the_json_does_not_matter(tmp_path):
  entries = [annotation([[0, 0, 30, 0, 30, 20, 0, 20]], 1, category=1), annotation(SQUARE, 2, category=2)]
  lay_out(tmp_path / 'one', entries)
  lay_out(tmp_path / 'two', entries[::-1])
  (_, first), (_, second) = labels(tmp_path / 'one'), labels(tmp_path / 'two')
  np.testing.assert_array_equal(first['a'], second['a'])
  assert first['a'][2:9, 2:12].tolist() == [[2] * 10] * 7 and first['a'][0, 0] == 1


# --- categories ---

@pytest.mark.parametrize('ids', [(0, 1), (1, 2), (7, 90), ('x', 'y'), (3, -1)])
def test_ids_of_any_kind(ids, tmp_path):
  categories = [{'id': number, 'name': name} for number, name in zip(ids, ('cat', 'dog'))]
  lay_out(tmp_path, [annotation(SQUARE, category=ids[1])], categories=categories)
  dataset, found = labels(tmp_path)
  assert dataset.classes == ('background', 'cat', 'dog')
  assert np.unique(found['a']).tolist() == [0, 2]


def test_roboflows_group_is_no_class(tmp_path):
  categories = [{'id': number, 'name': name, 'supercategory': 'animals' if number else 'none'}
                for number, name in enumerate(('animals', 'cat', 'dog'))]
  lay_out(tmp_path, [annotation(SQUARE)], categories=categories)
  assert get_dataset(str(tmp_path)).classes == ('background', 'cat', 'dog')
  lay_out(tmp_path, [annotation(SQUARE, category=0)], categories=categories)
  assert get_dataset(str(tmp_path)).classes == ('background', 'animals', 'cat', 'dog')  # it has an object


@pytest.mark.parametrize('name', ['background', 'Background', '_background_'])
def test_the_exports_own_background(name, tmp_path):
  lay_out(tmp_path, [annotation(SQUARE, category=1)], categories=[{'id': 1, 'name': 'cat'}, {'id': 2, 'name': name}])
  dataset, found = labels(tmp_path)
  assert dataset.classes == ('cat', 'background' if name == '_background_' else name)
  assert np.unique(found['c']).tolist() == [1]
  assert found['a'][3, 3] == 0 and found['a'][0, 0] == 1


def test_classes_txt_chooses_and_orders(tmp_path):
  entries = [annotation(SQUARE, 1, category=1), annotation([[20, 2, 30, 2, 30, 9]], 2, category=2)]
  lay_out(tmp_path, entries)
  write(tmp_path / 'classes.txt', 'dog 1,2,3\nbackground\ncat ignore\n')
  dataset, found = labels(tmp_path)
  assert dataset.classes == ('dog', 'background') and dataset.palette[0].tolist() == [1, 2, 3]
  assert (found['a'][3, 3], found['a'][3, 29], found['a'][20, 0]) == (255, 0, 1)
  assert any('cat are void' in note for note in notes(dataset))
  write(tmp_path / 'classes.txt', 'dog\ncat\nbird\n')  # no background: pixels without an object are void
  dataset, found = labels(tmp_path)
  assert (found['a'][3, 3], found['a'][3, 29], found['a'][20, 0]) == (1, 0, 255)
  assert any('void' in note for note in notes(dataset)) and any('bird' in note for note in notes(dataset))
  write(tmp_path / 'classes.txt', 'background\ndog\n')
  with pytest.raises(UserError, match="export.json: annotation 1 has the class 'cat', which .*classes.txt does not name"
                                      '; it has background, dog. Add it, as "cat ignore"'):
    get_dataset(str(tmp_path))


def test_colors_of_categories(tmp_path):
  categories = [{'id': 1, 'name': 'cat', 'color': '#0a141e'}, {'id': 2, 'name': 'dog', 'color': [200, 0, 7]},
                {'id': 3, 'name': 'cow', 'color': 'red'}]
  lay_out(tmp_path, [annotation(SQUARE)], categories=categories)
  assert get_dataset(str(tmp_path)).palette.tolist() == [[0, 0, 0], [10, 20, 30], [200, 0, 7], [128, 0, 0]]


# --- layouts and splits ---

@pytest.mark.parametrize('json_name, folder, names', [
    ('_annotations.coco.json', '', ('a.png', 'b.png', 'c.png')),
    ('annotations/instances_default.json', 'images', ('a.png', 'b.png', 'c.png')),  # CVAT
    ('result.json', 'images', ('images/0123abcd-a.png', 'images/b.png', 'images\\c.png')),  # Label Studio
    ('annotations.json', 'JPEGImages', ('JPEGImages/a.png', 'JPEGImages/b.png', 'JPEGImages/c.png')),  # labelme2coco
    ('labels_my-project.json', 'photos/day 1', ('a.png', 'b.png', 'c.png')),  # makesense.ai
    ('x.json', 'images', ('C:\\Users\\me\\a.png', '/home/me/b.png', '../../c.png'))])
def test_layouts_of_tools(json_name, folder, names, tmp_path):
  for number, (name, size) in enumerate(zip('abc', SIZES)):
    picture(tmp_path / folder / f'{name}.png', size, number)
  write(tmp_path / json_name, export([annotation(SQUARE)], names=names))
  dataset, found = labels(tmp_path)
  assert found.keys() == {'a', 'b', 'c'} and dataset.splits['all'] == 3
  assert dataset.splits['train'] + dataset.splits['val'] == 3 and dataset.splits['val'] >= 1
  assert {source.image for source in dataset.sources(None, 'all')} == {
      str(tmp_path / folder / f'{name}.png') for name in 'abc'}
  assert (found['a'] > 0).sum() == 70


@pytest.mark.parametrize('train, val', [
    ('train/_annotations.coco.json', 'valid/_annotations.coco.json'), ('train.json', 'val.json'),
    ('annotations/instances_train2017.json', 'annotations/instances_val2017.json')])
def test_splits_of_tools(train, val, tmp_path):
  """Both splits have a picture a.png, in their own folders, of other sizes."""
  for split, name, size in ((train, 'train', SIZES[0]), (val, 'val', SIZES[1])):
    folder = {'train/_annotations.coco.json': 'train', 'valid/_annotations.coco.json': 'valid'}.get(split, name)
    picture(tmp_path / (f'{folder}2017' if '2017' in split else folder) / 'a.png', size)
    write(tmp_path / split, export([annotation([[1, 1, 5, 1, 5, 5]])], names=['a.png'], sizes=[size]))
  write(tmp_path / 'annotations/captions_train2017.json', {'images': [], 'annotations': []})
  dataset = read(tmp_path)
  assert dataset.splits == {'train': 1, 'val': 1, 'all': 2}
  for split, size in (('train', SIZES[0]), ('val', SIZES[1])):
    source, = dataset.sources(None, split)
    assert dataset.read_label(source.label).shape == size == images.read_rgb(source.image).shape[:2]
  assert any('captions_train2017.json is not read' in note for note in notes(dataset))
  union = dataset.sources(None, 'all')  # predictions and messages carry their names
  assert [source.name for source in union] == ['train/a', 'val/a']
  assert [dataset.read_label(source.label).shape for source in union] == [SIZES[0], SIZES[1]]


@pytest.mark.parametrize('splits, names', [
    ({'val': ['b', 'cafe\u0301'], 'train': 'rest'}, {'val': ['b', 'caf\u00e9'], 'train': ['a']}),
    ({'test': 'some.txt', 'train': 'rest'}, {'test': ['caf\u00e9'], 'train': ['a', 'b']})])
def test_dataset_json_says_the_splits_of_an_export(splits, names, tmp_path):
  names_of_files = ('a.png', 'b.png', 'cafe\u0301.png')  # the last as macOS stores it
  for name, size in zip(names_of_files, SIZES):
    picture(tmp_path / name, size)
  write(tmp_path / 'x.json', export([annotation(SQUARE)], names=names_of_files))
  write(tmp_path / 'dataset.json', {'splits': splits})
  (tmp_path / 'some.txt').write_text('caf\u00e9.png\n')
  dataset = read(tmp_path)
  assert dataset.splits == {**{split: len(of_split) for split, of_split in names.items()}, 'all': 3}
  for split, expected in names.items():
    found = [unicodedata.normalize('NFC', source.name) for source in dataset.sources(None, split)]
    assert sorted(found) == expected
  (tmp_path / 'some.txt').write_text('a\nd\n')
  write(tmp_path / 'dataset.json', {'splits': {'val': 'some.txt', 'train': 'rest'}})
  with pytest.raises(UserError, match="some.txt:2: there is no image of the name 'd'"):
    read(tmp_path)
  write(tmp_path / 'dataset.json', {'splits': {'val': ['some.txt', 'a'], 'train': 'rest'}})
  (tmp_path / 'some.txt').write_text('a\n')
  with pytest.raises(UserError, match='dataset.json: split val: the name a comes twice'):
    read(tmp_path)


@pytest.mark.parametrize('told', [{'labels': 'ids'}, {'transparent': 'ignore'}])
def test_what_is_told_of_pictures_of_labels_is_refused_for_those_that_are_drawn(told, tmp_path):
  lay_out(tmp_path, [annotation(SQUARE)])
  with pytest.raises(UserError, match=f'^{next(iter(told))} is .*, and labels of COCO JSON are read as the exp'):
    own.decided(own.own_dataset(str(tmp_path)), told)


def test_train_alone_is_split_and_parts_are_joined(tmp_path):
  lay_out(tmp_path, [annotation(SQUARE)])
  (tmp_path / 'export.json').rename(tmp_path / 'train.json')
  dataset = read(tmp_path)
  assert dataset.splits == {'train': 2, 'val': 1, 'all': 3}
  assert any('a fifth of train is val' in note for note in notes(dataset))
  (tmp_path / 'train.json').unlink()
  for number, name in enumerate('ab', 1):
    write(tmp_path / f'batch {number}.json', export([annotation(SQUARE if name == 'a' else [[1, 1, 9, 1, 9, 9]])],
                                                    names=[f'{name}.png'], sizes=[SIZES[number - 1]]))
  assert get_dataset(str(tmp_path)).splits['all'] == 2


def test_pictures_of_one_name_in_two_folders(tmp_path):
  for folder, size in (('x', SIZES[0]), ('y', SIZES[1])):
    picture(tmp_path / f'images/{folder}/a.png', size)
  write(tmp_path / 'export.json', export([annotation(SQUARE)], names=['x/a.png', 'y/a.png']))
  _, found = labels(tmp_path)
  assert {name: label.shape for name, label in found.items()} == {'images_x_a': SIZES[0], 'images_y_a': SIZES[1]}
  write(tmp_path / 'export.json', export([annotation(SQUARE)], names=['a.png', 'y/a.png']))
  with pytest.raises(UserError, match="image 0: 'a.png' may be .*x/a.png or .*y/a.png; leave one of them"):
    get_dataset(str(tmp_path))


def test_a_size_that_is_missing_is_the_pictures(tmp_path):
  content = export([annotation(SQUARE)])
  content['images'][0].update(height=None, width=None)
  del content['images'][1]['height'], content['images'][1]['width']
  lay_out(tmp_path)
  write(tmp_path / 'export.json', content)
  assert {name: label.shape for name, label in labels(tmp_path)[1].items()} == dict(zip('abc', SIZES))


# --- iscrowd ---

def run_lengths(size, rows):
  counts = [0, rows] + [size[0] - rows, rows] * (size[1] - 1) + [size[0] - rows]
  return {'size': list(size), 'counts': counts}


def test_crowds_are_void_and_masks_of_cvat_are_objects(tmp_path):
  mask = run_lengths(SIZES[0], 15)
  lay_out(tmp_path, [annotation(mask, 1, category=2, iscrowd=1), annotation(SQUARE, 2)])
  dataset, found = labels(tmp_path)
  assert found['a'][[14, 15, 3], [20, 20, 3]].tolist() == [255, 0, 1]
  assert any('annotations with iscrowd (1) are void' in note for note in notes(dataset))
  lay_out(tmp_path, [annotation(mask, 1, category=2, iscrowd=1, attributes={'occluded': False}), annotation(SQUARE, 2)])
  dataset, found = labels(tmp_path)
  assert found['a'][[14, 15, 3], [20, 20, 3]].tolist() == [2, 0, 1]
  assert any('as CVAT writes them' in note for note in notes(dataset))
  lay_out(tmp_path, [annotation(mask, 1, category=2, iscrowd=1)])
  assert labels(tmp_path)[1]['a'][14, 20] == 2  # every object is one
  for word, raw in (('void', 255), ('object', 2)):
    write(tmp_path / 'dataset.json', {'iscrowd': word})
    assert labels(tmp_path)[1]['a'][14, 20] == raw
  write(tmp_path / 'dataset.json', {'iscrowd': 'ignore'})
  with pytest.raises(UserError, match="dataset.json: 'iscrowd' is 'ignore'; valid are void, object"):
    get_dataset(str(tmp_path))


# --- mistakes ---

@pytest.mark.parametrize('segmentation, problem', [
    ([[1, 1, 5, 5]], 'has a polygon of 2 points; at least three'),
    ([[]], 'has a polygon of 0 points'),
    ([SQUARE[0], [1, 1, 5, 5, 2]], 'has a polygon that is not a list of x and y'),
    ([['1', '1', '5', '1', '5', '5']], 'not a list of x and y'),
    ([[1, 1, 5, 1, float('inf'), 5]], r'the point \[inf, 5.0\], far beyond the image of 34x21'),
    ([[1, 1, 5, 1, float('nan'), 5]], r'the point \[nan, 5.0\]'),
    ([[0, 0, 34, 21, 34, 0] * 50000], 'outline is longer than 1048576 pixels'),
    ({'size': [34, 21], 'counts': [714]}, r'run lengths of the size \[34, 21\]; the image is \[21, 34\]'),
    ({'size': [21, 34], 'counts': [700]}, 'do not make up its 714 pixels'),
    ({'size': [21, 34], 'counts': ['700', 14]}, 'do not make up its 714 pixels'),
    ({'size': [21, 34], 'counts': 'é'}, 'do not make up its 714 pixels')])
def test_a_bad_segmentation_is_a_bad_file(segmentation, problem, tmp_path):
  lay_out(tmp_path, [annotation(segmentation, 7)])
  with pytest.raises(images.BadFile, match=f'export.json, image a.png: annotation 7 .*{problem}'):
    labels(tmp_path)


@pytest.mark.parametrize('change, problem', [
    (lambda content: content.pop('categories'), "holds COCO's captions, or no categories; understood are"),
    (lambda content: content.update(images={}), "export.json: 'images' is to be a list; found {}"),
    (lambda content: content['images'].append(7), "image 3: 'id' is to be a whole number or a text; found nothing"),
    (lambda content: content['images'][1].update(id=1), '3 images have 2 ids'),
    (lambda content: content['images'][1].update(file_name=['b']), "image 1: 'file_name' is to be a text; found"),
    (lambda content: content['images'][1].update(file_name='/'), "image 1: '/' is no path of a picture"),
    (lambda content: content['images'][1].update(file_name='a.png'), 'image a.png: the picture .* stands in'),
    (lambda content: content['images'][1].update(height='9'), "image 1: 'height' is to be a whole number; found '9'"),
    (lambda content: content['images'][1].update(height=2**20, width=2**20), 'is said to be 1048576x1048576 pixels'),
    (lambda content: content['categories'].append({'id': 1, 'name': 'cow'}), "category 2: the id 1 is that of 'cat'"),
    (lambda content: content['categories'].append({'id': 3, 'name': None}), "category 2: 'name' is to be a text"),
    (lambda content: content['annotations'][0].update(category_id=9), 'annotation 1: its category_id 9 is the id of no '
                                                                      'category; there are 1, 2'),
    (lambda content: content['annotations'][0].update(category_id=True), "'category_id' is to be"),
    (lambda content: content['annotations'][0].update(image_id=9), 'its image_id 9 is the id of no image'),
    (lambda content: content['annotations'].append(None), "annotation 1: 'image_id' is to be a whole number or a text"),
    (lambda content: content['annotations'].append({**annotation([], 8), 'bbox': [1, 2, 3, 4]}),
     '1 of 2 annotations have no outline, a box or key points at most, such as annotation 8 of image 1; draw'),
    (lambda content: content['annotations'][0].pop('segmentation'), '1 of 1 annotations have no outline'),
    (lambda content: content['annotations'][0].update(segments_info=[]), 'panoptic annotations, whose labels are'),
    (lambda content: (content['categories'].append({'id': 3, 'name': 'cat'}),
                      content['annotations'].append(annotation(SQUARE, 2, category=3))),
     "the categories 1 and 3 are both named 'cat'"),
    (lambda content: content.update(categories=[], annotations=[]), 'no class beside the background; the export')])
def test_a_wrong_json_is_named(change, problem, tmp_path):
  content = export([annotation(SQUARE)])
  change(content)
  lay_out(tmp_path)
  write(tmp_path / 'export.json', content)
  with pytest.raises(UserError, match=problem) as caught:
    get_dataset(str(tmp_path))
  assert str(tmp_path) in str(caught.value) and '\n' not in str(caught.value)


@pytest.mark.parametrize('text, problem', [
    ('{"images": [], "annotations": [', 'is not valid JSON: '),
    ('{"images": [], "annotations": ' + '[' * 100000, 'nested too deep'),
    ('{"images": [], "images": [], "annotations": [], "categories": []}', "the key 'images' comes twice in one object"),
    ('[{"image_id": 1, "category_id": 2, "score": 1}]', 'results of a detector'),
    ('{"images": [], "annotations": [], "categories": [], "x": 1e400000}', 'no class')])
def test_a_broken_json_is_named(text, problem, tmp_path):
  lay_out(tmp_path)
  if '"categories"' not in text and text.startswith('{'):
    text = text.replace('{', '{"categories": [], ', 1)
  write(tmp_path / 'export.json', text)
  with pytest.raises(UserError, match=problem):
    get_dataset(str(tmp_path))


def test_pictures_that_are_missing(tmp_path, capsys):
  """One is a bad file, which --skip_bad leaves out; all are one line."""
  lay_out(tmp_path / 'set', [annotation(SQUARE, 1), annotation([[1, 1, 5, 1, 5, 5]], 2, image=2)])
  (tmp_path / 'set/c.png').unlink()
  arguments = [f'--dataset={tmp_path / "set"}', f'--data_dir={tmp_path / "data"}', '--num_workers=1', '--splits=all']
  assert convert.main(arguments) == 1
  assert 'set/images/c.png: does not exist' in capsys.readouterr().err
  assert convert.main([*arguments, '--skip_bad']) == 0
  for name in 'ab':
    (tmp_path / f'set/{name}.png').unlink()
  with pytest.raises(UserError, match='none of the 3 pictures of its COCO JSON is there or in a folder below, such as'):
    get_dataset(str(tmp_path / 'set'))


def test_sizes_that_disagree_are_named(tmp_path, capsys):
  lay_out(tmp_path, [annotation(SQUARE)], sizes=((22, 34), *SIZES[1:]))
  assert convert.main([f'--dataset={tmp_path}', f'--data_dir={tmp_path / "data"}', '--num_workers=1']) == 1
  assert 'export.json, image a.png: is 34x22 pixels, but its image is 34x21' in capsys.readouterr().err


def test_two_files_of_a_split_are_refused(tmp_path):
  lay_out(tmp_path, [annotation(SQUARE)])
  for names, problem in ((('train.json', 'export.json'), 'export.json: which split is it'),
                         (('train.json', 'my_training.json', 'val.json'), 'are both named as the split train')):
    for path in tmp_path.glob('*.json'):
      path.unlink()
    for name in names:
      write(tmp_path / name, export([annotation(SQUARE)]))
    with pytest.raises(UserError, match=problem):
      get_dataset(str(tmp_path))


# --- real files ---

def test_coco_itself_as_a_users_folder(shared, tmp_path):
  """The same labels as those of --dataset=coco; converted as a whole with one class renamed and others left out."""
  root = tmp_path / 'mine'
  for split in ('train', 'val'):
    write(root / f'annotations/instances_{split}2017.json',
          (shared / f'data/coco/annotations/instances_{split}2017.json').read_text())
    (root / f'{split}2017').symlink_to(shared / f'data/coco/{split}2017')
  dataset = read(root)
  assert dataset.classes == coco.CLASSES and dataset.splits == {'train': 24, 'val': 12, 'all': 36}
  for split in ('train', 'val'):
    ours = {source.name: dataset.read_label(source.label) for source in dataset.sources(None, split)}
    for source in coco.COCO.sources(str(shared / 'data/coco'), split):
      np.testing.assert_array_equal(ours[source.name], coco.COCO.label_map[coco.read_label(source.label)])


def test_converted_as_roboflow_exports(shared, tmp_path):
  """Real pictures and polygons in Roboflow's layout, through the converter; every pixel by pycocotools."""
  content = json.loads((shared / 'data/coco/annotations/instances_val2017.json').read_text())
  categories = [{'id': 0, 'name': 'things', 'supercategory': 'none'},
                *({**category, 'supercategory': 'things'} for category in content['categories'])]
  crowded = {entry['image_id'] for entry in content['annotations'] if entry['iscrowd']}
  kept = [image for image in content['images'] if image['id'] not in crowded][:4]
  for split, chosen in (('train', kept[:2]), ('valid', kept[2:])):
    ids = {image['id'] for image in chosen}
    write(tmp_path / f'set/{split}/_annotations.coco.json', {
        'images': chosen, 'categories': categories,
        'annotations': [entry for entry in content['annotations'] if entry['image_id'] in ids]})
    for image in chosen:
      shutil.copy(shared / f'data/coco/val2017/{image["file_name"]}', tmp_path / f'set/{split}')
  found = converted(tmp_path / 'set', tmp_path / 'data')
  assert len(kept) == len(found) == 4
  numbers = {number: raw for raw, number in enumerate(coco.CATEGORIES, 1)}
  for split, chosen in (('train', kept[:2]), ('valid', kept[2:])):
    for image in chosen:
      pixels, label = found[image['file_name'].removesuffix('.jpg')]
      expected = drawn_by_the_tool(tmp_path / f'set/{split}/_annotations.coco.json', image['id'], numbers)
      np.testing.assert_array_equal(label, expected)
      np.testing.assert_array_equal(pixels, images.read_rgb(str(tmp_path / f'set/{split}/{image["file_name"]}')))


def nested(depth):
  value = 1
  for _ in range(depth):
    value = [value]
  return value


@pytest.mark.parametrize('depth', [3, 60, 400])
def test_deep_lists_are_refused_in_a_line(depth, tmp_path):
  """Deeper than arrays can be, and than can be sent to another process."""
  deep = nested(depth)
  for segmentation in ([deep], {'size': [21, 34], 'counts': deep}, {'size': deep, 'counts': 1}):
    lay_out(tmp_path, [annotation(segmentation, 7)])
    dataset = read(tmp_path)
    source = pickle.loads(pickle.dumps(dataset.sources(None, 'all')[0]))
    with pytest.raises(images.BadFile, match='annotation 7 has'):
      dataset.read_label(source.label)
