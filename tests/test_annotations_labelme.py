"""Labelme's JSON files: drawn as Labelme draws them, found where people keep them, every mistake in a line."""

import base64
import io
import json
import os
import pathlib
import pickle
import re
import shutil

import numpy as np
import originals
import pytest
from PIL import Image

import train
from datasets import convert, get_dataset, images
from datasets.readers import annotations, own
from datasets.readers.annotations import labelme
from datasets.readers.camvid import CAMVID
from utils.errors import UserError

GOLDEN = pathlib.Path(__file__).parent / 'golden/labelme'
SIZES = {'a': (29, 41), 'b': (57, 33), 'c': (64, 95)}


def shape(label, points, kind='polygon', **others):
  return {'label': label, 'points': points, 'shape_type': kind, 'group_id': None, 'flags': {}, **others}


def square(label, left=1, top=1, right=3, bottom=3):
  return shape(label, [[left, top], [right, bottom]], 'rectangle')


def encoded(pixels):
  buffer = io.BytesIO()
  Image.fromarray(pixels).save(buffer, 'PNG')
  return base64.b64encode(buffer.getvalue()).decode()


def write(path, shapes, image=None, size=(5, 7), **others):
  """Writes a JSON as Labelme does, and its image beside it if `image` is a path."""
  content = {'version': '5.2.1', 'flags': {}, 'shapes': shapes, 'imagePath': f'{path.stem}.png', 'imageData': None,
             'imageHeight': size[0], 'imageWidth': size[1], **others}
  originals.write(path, json.dumps(content, indent=2))
  if image:
    originals.write(image, np.full((*size, 3), 7, np.uint8))


def raw_of(root):
  """The raw labels of the only JSON in a folder."""
  found = annotations.read(str(root))
  source, = found.splits['all']
  return found.read_label(source.label)


def sources_of(root):
  return {source.name: source for source in annotations.read(str(root)).splits['all']}


def test_shapes_are_drawn_as_labelme_draws_them(tmp_path):
  """Golden files of all shape types, voids and backgrounds among them; see golden/make_labelme.py."""
  for name, (height, width) in SIZES.items():
    shutil.copy(GOLDEN / f'{name}.json', tmp_path)
    originals.write(tmp_path / f'{name}.png', originals.random_image(0)[:1].repeat(height, 0)[:, :1].repeat(width, 1))
  found = annotations.read(str(tmp_path))
  assert found.form == 'Labelme JSON' and found.classes == ('background', 'cat', 'dog', 'tree')
  read_label = pickle.loads(pickle.dumps(found.read_label))  # as a worker gets it
  for source in found.splits['all']:
    expected = np.array(Image.open(GOLDEN / f'{source.name}_label.png'))
    np.testing.assert_array_equal(read_label(source.label), expected)
    assert 1 in expected and 255 in expected


def test_a_folder_becomes_records(tmp_path, monkeypatch):
  """By hand: a rectangle covers both its corners, a later shape lies over an earlier one."""
  monkeypatch.setattr(convert, 'default_workers', lambda: 1)
  for name in 'abcd':
    write(tmp_path / f'mine/{name}.json', [square('dog', 1, 1, 4, 3), square('cat', 3, 2, 9, 2), square(
        '__ignore__', -3, -3, 0, 0)], tmp_path / f'mine/{name}.png')
  dataset = get_dataset(str(tmp_path / 'mine'))
  assert dataset.classes == ('background', 'cat', 'dog') and dataset.splits == {'all': 4, 'train': 2, 'val': 2}
  convert.convert(dataset, 'train', source_dir=None, data_dir=str(tmp_path / 'data'), progress=False)
  records = originals.read_back(tmp_path / 'data', 'train')
  assert records.keys() == {'a', 'b'}
  for image, label in records.values():
    assert (image == 7).all()
    assert label.tolist() == [[255, 0, 0, 0, 0, 0, 0], [0, 2, 2, 2, 2, 0, 0], [0, 2, 2, 1, 1, 1, 1],
                              [0, 2, 2, 2, 2, 0, 0], [0, 0, 0, 0, 0, 0, 0]]


@pytest.mark.parametrize('points', [[[1, 1], [3, 2]], [[3, 2], [1, 1]], [[1, 2], [3, 1]],
                                    [[1, 1], [3, 1], [3, 2], [1, 2]], [[3, 2], [1, 2], [1, 1], [3, 1]]])
def test_rectangles_of_two_and_four_points_in_any_order(points, tmp_path):
  write(tmp_path / 'a.json', [shape('x', points, 'rectangle')], tmp_path / 'a.png')
  expected = np.zeros((5, 7), int)
  expected[1:3, 1:4] = 1
  np.testing.assert_array_equal(raw_of(tmp_path), expected)


def test_files_of_version_3_have_no_sizes_and_types(tmp_path):
  old = {'flags': {}, 'lineColor': [0, 255, 0, 128], 'fillColor': [255, 0, 0, 128], 'imagePath': 'a.png',
         'imageData': encoded(np.zeros((4, 6, 3), np.uint8)),
         'shapes': [{'label': 'x', 'points': [[0, 0], [5, 0], [5, 1], [0, 1]], 'line_color': None, 'fill_color': None}]}
  originals.write(tmp_path / 'a.json', json.dumps(old))
  originals.write(tmp_path / 'a.png', np.zeros((4, 6, 3), np.uint8))
  assert raw_of(tmp_path).tolist() == [[1] * 6] * 2 + [[0] * 6] * 2
  old['shapes'][0]['shape_type'] = None
  os.unlink(tmp_path / 'a.png')  # then the copy in the JSON has the size
  originals.write(tmp_path / 'a.json', json.dumps(old))
  assert raw_of(tmp_path).shape == (4, 6)


@pytest.mark.parametrize('json_path, image_path, given', [
    ('a.json', 'a.png', 'a.png'), ('labels/a.json', 'images/a.png', '../images/a.png'),
    ('labels/a.json', 'images/a.png', '..\\images\\a.png'), ('annotations/a.json', 'images/a.png', 'a.png'),
    ('a.json', 'a.png', 'C:\\Users\\me\\a.png'), ('a.json', 'photos/day1/a.png', '/home/other/a.png'),
    ('a.json', 'a.png', 'a.jpg'), ('a.json', 'a.png', 'IMG_7.jpg'), ('labels/x/a.json', 'images/x/a.png', 'b.jpg'),
    ('a.b.json', 'a.b.png', ''), ('a.json', 'a.png', '../../../etc/a.png'), ('a.json', 'a.png', 5)])
def test_images_are_found(json_path, image_path, given, tmp_path):
  write(tmp_path / json_path, [square('x')], tmp_path / image_path, imagePath=given)
  source, = sources_of(tmp_path).values()
  assert source.image == str(tmp_path / image_path)


def test_folders_within_folders(tmp_path):
  """Two images of one name, each with the JSON of the folder of the same name."""
  for day in ('day1', 'day2'):
    write(tmp_path / f'labels/{day}/a.json', [square('x')], tmp_path / f'images/{day}/a.png')
  found = sources_of(tmp_path)
  assert {name: source.image for name, source in found.items()} == {
      f'{day}/a': str(tmp_path / f'images/{day}/a.png') for day in ('day1', 'day2')}
  write(tmp_path / 'labels/day3/a.json', [square('x')])
  with pytest.raises(UserError, match=r'day3/a.json: .labels/day3/a.png. may be .*day1/a.png or .*day2/a.png'):
    sources_of(tmp_path)


@pytest.mark.parametrize('given', ['/home/me/a.png', 'gone/a.png', 'b.png'])
def test_the_image_beside_the_json_goes_before_others_of_its_name(given, tmp_path):
  write(tmp_path / 'a.json', [square('x')], tmp_path / 'a.png', imagePath=given)
  originals.write(tmp_path / 'old/a.png', np.zeros((5, 7, 3), np.uint8))
  assert sources_of(tmp_path)['a'].image == str(tmp_path / 'a.png')


def test_the_copy_in_the_json_is_used_only_where_the_image_is_missing(tmp_path, monkeypatch):
  pixels = originals.random_image(1)
  write(tmp_path / 'a.json', [square('x')], size=pixels.shape[:2], imageData=encoded(pixels))
  source = sources_of(tmp_path)['a']
  np.testing.assert_array_equal(images.read_rgb(source.image), pixels)
  note = annotations.read(str(tmp_path)).notes[-1]
  assert note.startswith('the images of 1 files are missing; the copies in imageData are used: ')
  originals.write(tmp_path / 'a.png', pixels // 2)
  np.testing.assert_array_equal(images.read_rgb(sources_of(tmp_path)['a'].image), pixels // 2)
  monkeypatch.setattr(labelme.base64, 'b64decode', lambda *_, **__: pytest.fail('decoded in listing'))
  sources_of(tmp_path)


def test_copies_alone_decide_how_they_are_read(tmp_path):
  """Their EXIF counts as that of files does; bands that are named are read of them."""
  pixels = originals.random_image(1)
  buffer, exif = io.BytesIO(), Image.Exif()
  exif[0x0112] = 6
  Image.fromarray(pixels).save(buffer, 'PNG', exif=exif)
  for name in 'ab':
    write(tmp_path / f'{name}.json', [square('x')], size=pixels.shape[1::-1],
          imageData=base64.b64encode(buffer.getvalue()).decode())
  dataset = own.decided(get_dataset(str(tmp_path)))
  assert dataset.reading.exif == 'turn'
  image = images.read_image(dataset.sources(None, 'all')[0].image, dataset.reading)
  np.testing.assert_array_equal(image, np.rot90(pixels, -1))
  told = {'bands': ('red', 'green', 'blue'), 'exif': 'turn'}
  assert own.decided(get_dataset(str(tmp_path)), told).reading.bands == told['bands']


@pytest.mark.parametrize('data, problem', [('?', 'imageData: is not base64'), ('AAAA', 'imageData: is none of JPEG')])
def test_a_broken_copy_is_named(data, problem, tmp_path):
  write(tmp_path / 'a.json', [square('x')], imageData=data)
  with pytest.raises(images.BadFile, match=f'a.json, {problem}'):
    images.read_rgb(sources_of(tmp_path)['a'].image)


@pytest.mark.parametrize('file, text, classes, raw', [
    ('classes.txt', 'dog\ncat\nbackground', ('dog', 'cat', 'background'), [0, 1, 2]),
    ('labels.txt', '__ignore__\n_background_\ndog\ncat', ('background', 'dog', 'cat'), [1, 2, 0]),
    ('classes.txt', 'cat\nbird\ndog ignore', ('cat', 'bird'), [255, 0, 255]),
    ('classes.txt', 'background ignore\ndog 1,2,3\ncat 4,5,6', ('dog', 'cat'), [0, 1, 255])])
def test_a_list_chooses_and_orders(file, text, classes, raw, tmp_path):
  write(tmp_path / 'a.json', [square('dog', 0, 0, 0, 4), square('cat', 1, 0, 1, 4)], tmp_path / 'a.png')
  (tmp_path / file).write_text(text)
  found = annotations.read(str(tmp_path))
  assert found.classes == classes and len(found.colors) == len(classes)
  assert raw_of(tmp_path)[2, :3].tolist() == raw
  if 'background' not in text:
    assert any('void, since' in note for note in found.notes)


def test_lists_that_lack_a_label_or_contradict(tmp_path):
  write(tmp_path / 'a.json', [square('dog'), square('cat')], tmp_path / 'a.png')
  (tmp_path / 'classes.txt').write_text('dog\nbird')
  with pytest.raises(UserError, match="a.json, shape 2 has the class 'cat', which .*classes.txt does not name; it has"):
    annotations.read(str(tmp_path))
  (tmp_path / 'labels.txt').write_text('dog\ncat')
  with pytest.raises(UserError, match='classes.txt and .*labels.txt both list classes; leave one'):
    annotations.read(str(tmp_path))


BAD = [
    (shape('x', [[1, 1], [3, 3]]), r"shape 2 \(label 'x'\) has 2 points; a polygon has at least 3"),
    (shape('x', [[1, 1]] * 3, 'rectangle'), 'has 3 points; a rectangle has 2 or 4'),
    (shape('x', [[1, 1]], 'circle'), 'has 1 points; a circle has 2'),
    (shape('x', [[1, 1]], 'linestrip'), 'has 1 points; a linestrip has at least 2'),
    (shape('x', [[1, 1], [2, 2]], 'point'), 'has 2 points; a point has 1'),
    (shape('x', [[1, 1]] * 3, 'spline'), "has the shape_type 'spline'; valid are polygon, rectangle"),
    (shape('x', [[1, 1]] * 3, 7), 'has the shape_type 7'),
    (shape('x', [[1, 1]] * 3, ['polygon']), r'has the shape_type \['),
    (shape('x', None), 'has no list of points'), (shape('x', 'abc'), 'has no list of points'),
    (shape('x', [[1, 1], [2, 2], ['3', 3]]), r"has the point \['3', 3\]; a point is \[x, y\], two numbers"),
    (shape('x', [[1, 1], [2, 2], [3]]), r'has the point \[3\]'), (shape('x', [[1, 1], [2, 2], 3]), 'has the point 3'),
    (shape('x', [[1, 1], [2, 2], [True, 1]]), r'has the point \[True, 1\]'),
    (shape('x', [[1, 1], [2, 2], [float('nan'), 1]]), r'has the point \[nan, 1\]'),
    (shape('x', [[1, 1], [2, 2], [1, float('inf')]]), r'has the point \[1, inf\]'),
    (shape('x', [[1, 1], [2, 2], [10**400, 1]]), r'has the point \[1000'),
    (shape(' ', [[1, 1]] * 3), r"shape 2 .label ' '. is of no known class; known are __ignore__, background, y"),
    (shape(5, [[1, 1]] * 3), 'shape 2 has the label 5; a label is a text'), ('x', 'shape 2 has the label None'),
    (shape('x', [[1, 1], [2, 2]], 'mask', mask='AAAA'), 'has a mask that is no PNG in base64'),
    (shape('x', [[1, 1], [2, 2]], 'mask', mask=None), 'has a mask that is no PNG in base64'),
    (shape('x', [[1, 1], [2, 2]], 'mask', mask=['a']), 'has a mask that is no PNG in base64'),
    (shape('x', [[1, 1], [9, 2]], 'mask', mask=''), 'has a mask from 1,1 to 9,2; its image has 7x5 pixels'),
    (shape('x', [[1, 1], [2, 2]], 'mask', mask=encoded(np.ones((3, 2), np.uint8))),
     'it has 2x3 pixels, and its points stand for 2x2'),
    (shape('x', [[1, 1], [2, 2]], 'mask', mask=encoded(np.ones((2, 2, 3), np.uint8))), 'it has pixels of mode RGB')]


@pytest.mark.parametrize('wrong, problem', BAD)
def test_a_wrong_shape_is_named(wrong, problem, tmp_path):
  write(tmp_path / 'a.json', [square('y'), wrong], tmp_path / 'a.png')
  with pytest.raises(images.BadFile, match=f'a.json: .*{problem}'):
    raw_of(tmp_path)


@pytest.mark.parametrize('text, problem', [
    ('{"shapes": [', 'is not valid JSON'), ('{"shapes": ' + '[' * 100000, 'is not valid JSON'), ('[]', 'is not a JSON'),
    ('{"shapes": {}, "imagePath": "a"}', 'has no list "shapes"'), ('{"shapes": [\xff]}', 'is not valid JSON'),
    ('{"imageHeight": "5", "imageWidth": 7, "shapes": []}', "has the imageHeight '5' and the imageWidth 7; whole"),
    ('{"imageHeight": 1000000, "imageWidth": 1000000, "shapes": []}', 'the imageHeight 1000000'),
    ('{"imageHeight": null, "imageWidth": 7, "shapes": []}', 'the imageHeight None')])
def test_broken_files_are_listed_with_all_others(text, problem, tmp_path, monkeypatch):
  monkeypatch.setattr(convert, 'default_workers', lambda: 1)
  root = tmp_path / 'mine'
  for name in 'abcd':
    write(root / f'{name}.json', [square('x')], root / f'{name}.png')
  (root / 'a.json').write_text(text, encoding='latin-1')
  write(root / 'b.json', [BAD[0][0]])
  with pytest.raises(convert.BadFiles) as caught:
    convert.convert(get_dataset(str(root)), 'train', source_dir=None, data_dir=str(tmp_path / 'data'), progress=False)
  lines = str(caught.value).splitlines()
  assert len(lines) == 3 and re.search(f'a.json: .*{problem}', lines[1]) and 'b.json: shape 1' in lines[2]


def test_sizes_that_differ_from_the_image_are_named(tmp_path, monkeypatch):
  monkeypatch.setattr(convert, 'default_workers', lambda: 1)
  for name in 'ab':
    write(tmp_path / f'mine/{name}.json', [square('x')], tmp_path / f'mine/{name}.png')
  originals.write(tmp_path / 'mine/a.png', np.zeros((10, 14, 3), np.uint8))  # made larger afterwards
  with pytest.raises(convert.BadFiles, match='a.json: is 7x5 pixels, but its image is 14x10'):
    for split in ('train', 'val'):
      convert.convert(get_dataset(str(tmp_path / 'mine')), split, source_dir=None, data_dir=str(tmp_path / split),
                      progress=False)


def test_two_files_of_one_image_are_refused(tmp_path):
  write(tmp_path / 'a.json', [square('x')], tmp_path / 'a.png')
  write(tmp_path / 'copy of a.json', [square('x')], imagePath='a.png')
  with pytest.raises(UserError, match='a.json and .*copy of a.json both label .*a.png'):
    annotations.read(str(tmp_path))


def test_other_files_do_not_count(tmp_path):
  write(tmp_path / 'a.json', [], tmp_path / 'a.png')
  (tmp_path / 'dataset.json').write_text('{"name": "cats"}')
  write(tmp_path / '.hidden/b.json', [square('y')])
  with pytest.raises(UserError, match='no class beside the background; the export has no class at all: label'):
    annotations.read(str(tmp_path))
  write(tmp_path / 'b.json', [square('y')], tmp_path / 'b.png')
  found = annotations.read(str(tmp_path))
  assert found.classes == ('background', 'y')
  assert any(note.startswith('1 of 2 files hold no shape') for note in found.notes)
  (tmp_path / 'other').mkdir()
  originals.write(tmp_path / 'other/x.json', '{"images": [], "annotations": []}')
  assert not labelme.find(str(tmp_path / 'other'))


def test_one_command_trains_on_a_folder(shared, tiny, tmp_path, monkeypatch, run_program):
  """Photographs of CamVid with a polygon each."""
  for source in CAMVID.sources(str(shared / 'data/camvid'), 'val')[::12][:6]:
    picture = Image.fromarray(images.read_rgb(source.image)).resize((160, 121))
    originals.write(tmp_path / f'streets/{source.name}.png', np.asarray(picture))
    write(tmp_path / f'streets/{source.name}.json', [shape('road', [[10, 120], [150.5, 120], [90, 60.2], [70, 60]])],
          size=(121, 160))
  monkeypatch.chdir(tmp_path)
  result = run_program(train.main, '--dataset=streets', f'--net={tiny}', '--checkpoint=none', '--crop_size=64,96',
                       '--batch_size=2', '--max_steps=3', '--eval_steps=0', '--log_steps=1')
  assert result.returncode == 0, result.stderr
  assert len(re.findall(r'^step \d/3  loss [\d.]+', result.stdout, re.M)) == 3, result.stdout
