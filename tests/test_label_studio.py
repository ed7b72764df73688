"""Label Studio's exports: pixels against its own library's files (tests/golden/label_studio), choices, mistakes."""

import json
import pathlib

import numpy as np
import pytest
from export_folders import converted, labels, notes, picture, write
from PIL import Image
from pycocotools import mask as coco_mask

from datasets import get_dataset, images
from datasets.readers.annotations import brush_rle
from utils.errors import UserError

pytestmark = pytest.mark.fast

GOLDEN = pathlib.Path(__file__).parent / 'golden/label_studio'
GOLDEN_SIZES = ((23, 37), (301, 203), (17, 9))
MASKS = ('task-1-annotation-11-by-1-brush-sky-0', 'task-2-annotation-12-by-1-brush-road-0',
         'task-3-annotation-13-by-1-brush-sky-0')
SIZE = (20, 30)  # height and width of the pictures below


def golden(name):
  return json.loads((GOLDEN / name).read_text(encoding='utf-8'))


def golden_mask(number):
  """A stroke as the library exports it to PNG: alpha, uint8 [H, W]."""
  return np.asarray(Image.open(GOLDEN / f'{MASKS[number]}.png'))


# --- brush strokes ---

@pytest.mark.parametrize('number', range(3))
def test_strokes_are_decoded_as_the_library_does(number):
  """Single values, runs up to and above 2**16, literal values; alpha of 1 and 128 as well."""
  rle = golden('export.json')[number]['annotations'][0]['result'][0]['value']['rle']
  alpha = brush_rle.decode(bytes(rle), *GOLDEN_SIZES[number])
  np.testing.assert_array_equal(alpha, golden_mask(number))
  assert len(np.unique(alpha)) == (2, 2, 4)[number]


def bits(text):
  text = text.replace(' ', '')
  text += '0' * (-len(text) % 8)
  return bytes(int(text[start:start + 8], 2) for start in range(0, len(text), 8))


HEADER = f'{8:032b} 00111 0000 0001 0010 0011'  # 8 values of 8 bits; lengths of 1, 2, 3 and 4 bits


def test_a_stroke_by_hand():
  """1x2 pixels: five values 7, two literals 1 and 200, one value 9."""
  data = bits(HEADER + f' 1 10 100 {7:08b}  0 01 01 {1:08b}{200:08b}  1 00 0 {9:08b}')
  assert brush_rle.decode(data, 1, 2).tolist() == [[7, 9]]
  assert brush_rle.decode(data + b'\0', 2, 1).tolist() == [[7], [9]]


@pytest.mark.parametrize('data, problem', [
    (b'', 'have 0 bytes'), (bits(f'{9:032b} 00111 0000 0001 0010 0011'), 'hold 9 values of 8 bits, where 4 of 8'),
    (bits(f'{8:032b} 01111 0000 0001 0010 0011'), 'hold 8 values of 16 bits'), (bits(HEADER), 'end after 0 of 8'),
    (bits(HEADER + f'1 10 100 {7:08b}'), 'end after 5 of 8 values'), (bits(HEADER + '1 11 1111 00000000'), 'more than'),
    (bits(HEADER + '0 11 0111' + '0' * 56), 'end after 0 of 8'), (b'\xff' * 40, 'hold 4294967295 values')])
def test_broken_strokes_are_refused(data, problem):
  with pytest.raises(ValueError, match=problem):
    brush_rle.decode(data, 1, 2)


# --- the library's exports of one project agree ---

def lay_out_golden(root, name):
  for number, size in enumerate(GOLDEN_SIZES, 1):
    picture(root / f'images/photo_{number}.png', size, number)
  (root / name).write_text((GOLDEN / name).read_text())
  return root


def expected_golden():
  """The labels by the library: its PNGs of strokes, its polygons in COCO by pycocotools, drawn over them."""
  found = {f'photo_{number}': np.where(golden_mask(number - 1) > 0, {1: 1, 2: 3, 3: 1}[number], 0)
           for number in (1, 2, 3)}
  content = golden('coco.json')
  for entry in content['annotations']:
    image = content['images'][entry['image_id']]
    mask = coco_mask.decode(coco_mask.frPyObjects(entry['segmentation'], image['height'], image['width']))[..., 0]
    found[f'photo_{entry["image_id"] + 1}'][mask > 0] = {'car': 2, 'road': 3}[
        content['categories'][entry['category_id']]['name']]
  return found


@pytest.mark.parametrize('name', ['export.json', 'export_min.json'])
def test_pixels_are_those_of_the_library(name, tmp_path):
  found = converted(lay_out_golden(tmp_path / 'set', name), tmp_path / 'data')
  assert get_dataset(str(tmp_path / 'set')).classes == ('background', 'sky', 'car', 'road')
  assert found.keys() == expected_golden().keys()
  for key, label in expected_golden().items():
    np.testing.assert_array_equal(found[key][1], label)
    np.testing.assert_array_equal(found[key][0], images.read_rgb(str(tmp_path / f'set/images/{key}.png')))


def test_the_librarys_coco_has_the_polygons_alone(tmp_path):
  lay_out_golden(tmp_path, 'coco.json')
  dataset, found = labels(tmp_path)
  assert dataset.classes == ('background', 'car', 'road', 'sky')
  expected = expected_golden()
  np.testing.assert_array_equal(found['photo_1'] == 1, expected['photo_1'] == 2)
  assert (found['photo_2'] > 0).sum() < (expected['photo_2'] > 0).sum()


@pytest.mark.parametrize('number', range(4))
def test_turned_rectangles_are_those_of_the_library(number, tmp_path):
  entry = golden('rectangles.json')[number]
  value = {key: entry['value'][key] for key in ('x', 'y', 'width', 'height', 'rotation')}
  _, found = drawn(tmp_path, [result('rectanglelabels', value, size=(29, 41))], size=(29, 41))
  corners = [part for corner in entry['corners'] for part in corner]
  expected = coco_mask.decode(coco_mask.frPyObjects([corners], 29, 41))[..., 0]
  np.testing.assert_array_equal(found, expected)
  assert expected.sum() > 100


# --- shapes and their order ---

def result(kind, value, label='cat', size=SIZE, number=1, **others):
  key = kind if kind.endswith('labels') else 'labels'
  names = label if isinstance(label, list) else [label]
  return {'id': f'r{number}', 'type': kind, 'original_height': size[0], 'original_width': size[1], 'image_rotation': 0,
          'value': {**value, **({key: names} if label else {})}, **others}


def task(results, number=1, image='/data/upload/1/0123abcd-a.png', **others):
  return {'id': number, 'data': {'image': image}, 'annotations': [{'id': 5, 'result': results}], **others}


def lay_out(root, tasks, size=SIZE):
  for number, name in enumerate('ab'):
    picture(root / f'{name}.png', size, number)
  write(root / 'project-1-at-2024-05-01.json', tasks)


def drawn(root, results, size=SIZE):
  """Draws one task. Returns the dataset and its label; a second task is empty, to make two images."""
  lay_out(root, [task(results), task([], 2, 'b.png')], size)
  dataset, found = labels(root)
  return dataset, found['a']


BOX = {'x': 10, 'y': 20, 'width': 50, 'height': 50, 'rotation': 0}  # columns 3 to 17, rows 4 to 13
TRIANGLE = {'points': [[0, 0], [100, 0], [0, 100]], 'closed': True}


def test_later_results_lie_over_earlier_ones(tmp_path):
  large = {'x': 0, 'y': 0, 'width': 100, 'height': 100, 'rotation': 0}
  entries = [result('rectanglelabels', BOX, 'dog', number=1), result('rectanglelabels', large, 'cat', number=2)]
  dataset, found = drawn(tmp_path / 'one', entries)
  assert dataset.classes == ('background', 'dog', 'cat') and (found == 2).all()
  dataset, found = drawn(tmp_path / 'two', entries[::-1])
  assert dataset.classes == ('background', 'cat', 'dog') and (found[4:14, 3:18] == 2).all()
  assert (found == 1).sum() == 600 - 150
  assert any('rectangles (2) are filled' in note for note in notes(dataset))


def test_ellipses_and_polygons_by_hand(tmp_path):
  """A circle of radius 6 around (15, 10): the pixels whose centers are in it; turned, an ellipse swaps its axes."""
  y, x = np.mgrid[:20, :30] + 0.5
  circle = {'x': 50, 'y': 50, 'radiusX': 20, 'radiusY': 30, 'rotation': 0}
  _, found = drawn(tmp_path, [result('ellipselabels', circle)])
  np.testing.assert_array_equal(found, (x - 15)**2 + (y - 10)**2 <= 36)
  long = {'x': 50, 'y': 50, 'radiusX': 40, 'radiusY': 10, 'rotation': 90}
  _, found = drawn(tmp_path, [result('ellipselabels', long)])
  np.testing.assert_array_equal(found, ((x - 15) / 2)**2 + ((y - 10) / 12)**2 <= 1)
  beyond = {'x': 100, 'y': -5, 'radiusX': 40, 'radiusY': 40, 'rotation': 30}
  _, found = drawn(tmp_path, [result('ellipselabels', beyond)])
  assert 0 < found.sum() < 100
  _, found = drawn(tmp_path, [result('polygonlabels', TRIANGLE)])
  assert found[0].sum() >= 28 and found[19].sum() <= 1 and abs(found.sum() - 300) < 20


def test_labels_in_a_tag_of_their_own(tmp_path):
  """<Brush> beside <Labels>: each shape comes twice, once with its label."""
  shape = {'format': 'rle', 'rle': golden('export.json')[0]['annotations'][0]['result'][0]['value']['rle']}
  size = GOLDEN_SIZES[0]
  entries = [result('brush', shape, None, size), result('labels', shape, 'cat', size),
             result('choices', {'choices': ['blurred']}, None, number=9), {'type': 'relation', 'from_id': 1}]
  dataset, found = drawn(tmp_path, entries, size)
  np.testing.assert_array_equal(found, golden_mask(0) > 0)
  assert any('1 choices, 1 relation' in note for note in notes(dataset))


def test_class_lists(tmp_path):
  lay_out(tmp_path, [task([result('rectanglelabels', BOX)]), task([], 2, 'b.png')])
  write(tmp_path / 'classes.txt', 'dog\ncat 9,8,7\nbackground\n')
  dataset, found = labels(tmp_path)
  assert dataset.classes == ('dog', 'cat', 'background') and dataset.palette[1].tolist() == [9, 8, 7]
  assert np.unique(found['a']).tolist() == [1, 2] and (found['b'] == 2).all()
  write(tmp_path / 'classes.txt', 'dog\nbackground\n')
  with pytest.raises(UserError, match="task 1: result 1 has the class 'cat', which .*classes.txt does not name"):
    get_dataset(str(tmp_path))


# --- which annotation, which picture ---

def square(left, label='cat'):
  return [result('rectanglelabels', {'x': left, 'y': 0, 'width': 10, 'height': 100}, label)]


@pytest.mark.parametrize('annotations, column', [
    ([{'result': square(0), 'updated_at': '2024-05-02'}, {'result': square(50), 'updated_at': '2024-05-01'}], 0),
    ([{'result': square(0), 'id': 3}, {'result': square(50), 'id': 4}], 15),
    ([{'result': square(0), 'ground_truth': True, 'updated_at': '2024-05-01'},
      {'result': square(50), 'updated_at': '2024-05-02'}], 0),
    ([{'result': square(0)}, {'result': square(50), 'was_cancelled': True, 'updated_at': '2024-05-02'}], 0)])
def test_the_annotation_that_counts(annotations, column, tmp_path):
  lay_out(tmp_path, [{**task([]), 'annotations': annotations}, task(square(90), 2, 'b.png'),
                     {**task([], 3, 'a.png'), 'annotations': [], 'predictions': [{'result': square(0)}]},
                     {**task([], 4, 'a.png'), 'annotations': [{'result': square(0), 'was_cancelled': True}]}])
  dataset, found = labels(tmp_path)
  assert np.flatnonzero(found['a'].any(axis=0)).tolist() == [column, column + 1, column + 2]
  assert any('tasks without an annotation (2) are left out' in note for note in notes(dataset))
  several = any('several annotations (1), the ground truth is read' in note for note in notes(dataset))
  assert several == (not annotations[1].get('was_cancelled'))


@pytest.mark.parametrize('image', [
    '/data/upload/7/0123abcd-my_photo_1.png', '/data/local-files/?d=some%20folder/my%20photo%20(1).png',
    's3://bucket/x/my photo (1).png', 'https://host/x/my%20photo%20%281%29.png?X-Amz-Date=1', 'my photo (1).png',
    'C:\\photos\\my photo (1).png', '../../my photo (1).png'])
def test_references_to_a_picture(image, tmp_path):
  picture(tmp_path / 'images/deep/my photo (1).png', SIZE)
  lay_out(tmp_path, [task(square(0), 1, image), task(square(0), 2, 'b.png')])
  assert get_dataset(str(tmp_path)).sources(None, 'all')[1].image == str(tmp_path / 'images/deep/my photo (1).png')


def test_the_name_of_an_upload(tmp_path):
  lay_out(tmp_path, [task(square(0), 1, 'https://host/resize/x.png', file_upload='0123abcd-a.png'),
                     {**task(square(0), 2), 'data': {'url': 'b.png', 'note': 'a cat', 'text': 'http://[', 'more': 'http://x：1'}}])
  assert [source.name for source in get_dataset(str(tmp_path)).sources(None, 'all')] == ['a', 'b']


# --- mistakes ---

@pytest.mark.parametrize('value, problem', [
    ({'rle': [1, 2, 300]}, r"run lengths are to be a list of bytes, 0 to 255; found '\[1, 2, 300\]'"),
    ({'rle': ['1']}, 'a list of bytes'), ({'rle': 'AAAA'}, "found 'AAAA'"), ({'rle': [0] * 20}, 'hold 0 values'),
    ({'points': [[1, 2], [3]]}, r"closed list of \[x, y\] in percent; found '\[\[1, 2\], \[3\]\]'"),
    ({'points': [['1', '2']] * 3}, 'in percent; found'), ({**TRIANGLE, 'closed': False}, "found 'an open one'"),
    ({'points': [[1, 2], [3, 4]]}, 'a polygon of 2 points'), ({'points': [[1, 2], [3, 4], [1e9, 1]]}, 'far beyond'),
    ({'points': [[1, 2], [3, 4], [float('nan'), 1]]}, 'far beyond'), ({**BOX, 'x': '10'}, "'x' is to be a number; fo"),
    ({**BOX, 'width': -1}, "'width' is to be a number of at least 0; found -1"), ({**BOX, 'y': None}, "'y' is to be"),
    ({**BOX, 'rotation': float('inf')}, "'rotation' is to be a number; found inf"), ({**BOX, 'x': 500}, 'far beyond'),
    ({'x': 500, 'y': 0, 'radiusX': 1, 'radiusY': 1}, 'has its center at 150, 0, far beyond the image of 30x20'),
    ({'x': 5, 'y': 0, 'radiusX': True, 'radiusY': 1}, "'radiusX' is to be a number of at least 0; found True")])
def test_a_bad_shape_is_a_bad_file(value, problem, tmp_path):
  with pytest.raises(images.BadFile, match=f'2024-05-01.json, task 1: result 1.*{problem}') as caught:
    drawn(tmp_path, [result('labels', value)])
  assert '\n' not in str(caught.value)


def test_a_turned_picture_is_a_bad_file(tmp_path):
  with pytest.raises(images.BadFile, match='task 1: result 1: the picture was turned by 90 degrees in Label Studio'):
    drawn(tmp_path, [result('rectanglelabels', BOX, image_rotation=90)])


@pytest.mark.parametrize('tasks, problem', [
    ([task([result('rectanglelabels', BOX, ['cat', 'dog'])])], 'task 1: result 1 has the labels cat, dog; a pixel'),
    ([task([result('rectanglelabels', BOX, None)])], 'task 1: result 1 has no label'),
    ([task([result('rectanglelabels', BOX, [7])])], 'task 1: result 1 has the labels 7'),
    ([task([result('bitmasklabels', {'imageDataURL': 'data:image/png'})])], "of the type 'bitmasklabels', with image"),
    ([task([7])], "task 1: a result: 'value' is to be an object; found nothing"),
    ([task([result('rectanglelabels', BOX, original_width='30')])], "'original_width' is to be a whole number; found"),
    ([task([result('rectanglelabels', BOX, original_width=10**6, original_height=10**6)])], '1000000x1000000 pixels'),
    ([task([result('rectanglelabels', BOX), result('rectanglelabels', BOX, original_width=31)])], 'several pictures'),
    ([task([result('rectanglelabels', BOX, item_index=1)])], 'task 1 has results of several pictures'),
    ([task([]), task([])], 'task 1 has the id 1, as another task has'),
    ([{**task([]), 'annotations': [7]}], 'task 1: an annotation is 7; it is to be an object'),
    ([{**task([]), 'annotations': {}}], "task 0: 'annotations' is to be a list; found {}"),
    ([task([]), 7], 'task 1 is 7; it is to be an object'),
    ([{**task(square(0)), 'data': {'text': 'a cat'}}], 'task 1 names no picture in its data, which has text'),
    ([{**task(square(0)), 'data': {'one': 'a.png', 'two': 'b.png'}}], 'several pictures in its data, one, two'),
    ([task(square(0)), task(square(0), 2, 'a.png')], 'task 2: the picture .*a.png stands in .*task 1 already'),
    ([{**task([]), 'annotations': [], 'predictions': [{}]}], r'none of its tasks has an annotation \(1 tasks\); label'),
    ([task([]), task([], 2, 'b.png')], 'no class beside the background'),
    ([task([result('keypointlabels', {'x': 1, 'y': 2, 'width': 1})])], 'no class beside the background'),
    ([task(square(0), 1, 'x.png')], 'none of the 1 pictures of its Label Studio JSON is there')])
def test_a_wrong_export_is_named(tasks, problem, tmp_path):
  lay_out(tmp_path, tasks)
  with pytest.raises(UserError, match=problem) as caught:
    get_dataset(str(tmp_path))
  assert str(tmp_path) in str(caught.value) and '\n' not in str(caught.value)


@pytest.mark.parametrize('files, problem', [
    ({'task-3-annotation-1-by-1-brush-cat-0.png': ''}, 'as brush labels, which does not say what pictures its masks'),
    ({'task-3-annotation-1-by-1-brush-cat-0.npy': ''}, 'as brush labels'),
    ({'classes.txt': 'cat\ndog', 'notes.json': '{}', 'labels/a.txt': '0 1 1 1 1'}, 'as YOLO, which is not understood')])
def test_exports_without_a_json_are_refused(files, problem, tmp_path):
  picture(tmp_path / 'images/a.png', SIZE)
  for name, text in files.items():
    write(tmp_path / name, text)
  with pytest.raises(UserError, match=f"of Label Studio's export {problem}"):
    get_dataset(str(tmp_path))
