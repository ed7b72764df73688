"""VGG Image Annotator: projects, exports of both versions and CSV; attributes that are the class; mistakes."""

import csv
import io
import json

import numpy as np
import pytest
from export_folders import converted, labels, notes, picture, read, write
from PIL import Image
from pycocotools import mask as coco_mask

from datasets import get_dataset, images
from utils.errors import UserError

pytestmark = pytest.mark.fast

SIZES = ((20, 30), (31, 17))  # height and width of a.png and b.png


def polygon(points):
  return {'name': 'polygon', 'all_points_x': [x for x, _ in points], 'all_points_y': [y for _, y in points]}


RECT = {'name': 'rect', 'x': 3, 'y': 4, 'width': 12, 'height': 7}
CIRCLE = {'name': 'circle', 'cx': 15, 'cy': 10, 'r': 6}
ELLIPSE = {'name': 'ellipse', 'cx': 8, 'cy': 16, 'rx': 12, 'ry': 3.5, 'theta': 1.2}
SHARP = polygon([(-4, 2.5), (27, 9), (40, 31.25), (5, 15)])


def region(shape, **attributes):
  return {'shape_attributes': shape, 'region_attributes': attributes}


def entries(first, second=(), names=('a.png', 'b.png')):
  """The JSON's dict of pictures; regions as lists, as VIA 2 writes them."""
  return {f'{name}{1000 + number}': {'filename': name, 'size': 1000 + number, 'regions': list(regions),
                                     'file_attributes': {}}
          for number, (name, regions) in enumerate(zip(names, (first, second)))}


def version_1(content):
  """The same as VIA 1 writes it."""
  return {key: {'fileref': '', 'base64_img_data': '', 'size': entry['size'], 'filename': entry['filename'],
                'file_attributes': {}, 'regions': {str(i): found for i, found in enumerate(entry['regions'])}}
          for key, entry in content.items()}


def project(content, **options):
  """The same as a project of VIA 2; `options`: attribute -> its values."""
  return {'_via_settings': {'ui': {}, 'core': {'default_filepath': '/home/me/'}, 'project': {'name': 'mine'}},
          '_via_img_metadata': content, '_via_data_format_version': '2.0.10', '_via_image_id_list': list(content),
          '_via_attributes': {'file': {}, 'region': {
              name: {'type': 'dropdown', 'description': '', 'options': dict.fromkeys(values, ''), 'default_options': {}}
              for name, values in options.items()}}}


def as_csv(content, mark=''):
  text = io.StringIO()
  writer = csv.writer(text)
  writer.writerow([f'{mark}filename', 'file_size', 'file_attributes', 'region_count', 'region_id',
                   'region_shape_attributes', 'region_attributes'])
  for entry in content.values():
    for number, found in enumerate(entry['regions'] or [region({})]):
      writer.writerow([entry['filename'], entry['size'], '{}', len(entry['regions']), number,
                       json.dumps(found['shape_attributes']), json.dumps(found['region_attributes'])])
  return text.getvalue()


def lay_out(root, content, name='via_export_json.json'):
  for number, (stem, size) in enumerate(zip('ab', SIZES)):
    picture(root / f'{stem}.png', size, number)
  write(root / name, content)
  return str(root)


def tool_mask(shape, size):
  """Draws a polygon by pycocotools, as the COCO that VIA exports would be drawn."""
  flat = [part for point in zip(shape['all_points_x'], shape['all_points_y']) for part in point]
  return coco_mask.decode(coco_mask.frPyObjects([flat], *size))[..., 0].astype(bool)


def expected():
  """Labels of `FIRST` and `SECOND` by hand: cat 1, dog 2, cow 3."""
  y, x = np.mgrid[:20, :30] + 0.5
  first = np.where(tool_mask(SHARP, SIZES[0]), 2, 0)
  first[4:11, 3:15] = 1
  first[(x - 15)**2 + (y - 10)**2 <= 36] = 3
  y, x = np.mgrid[:31, :17] + 0.5
  along = (x - 8) * np.cos(1.2) + (y - 16) * np.sin(1.2)
  across = (y - 16) * np.cos(1.2) - (x - 8) * np.sin(1.2)
  return {'a': first, 'b': np.where((along / 12)**2 + (across / 3.5)**2 <= 1, 1, 0)}


FIRST = [region(SHARP, kind='dog'), region(RECT, kind='cat'), region(CIRCLE, kind='cow'),
         region({'name': 'point', 'cx': 1, 'cy': 1}), region({**polygon([(1, 1)]), 'name': 'polyline'}, kind='')]
SECOND = [region(ELLIPSE, kind='cat')]


@pytest.mark.parametrize('name, content', [
    ('via_export_json.json', entries(FIRST, SECOND)), ('via_region_data.json', version_1(entries(FIRST, SECOND))),
    ('via_project_1Jan2024.json', project(entries(FIRST, SECOND), kind=['cat', 'dog', 'cow', 'bird'])),
    ('via_export_csv.csv', as_csv(entries(FIRST, SECOND))), ('old.csv', as_csv(entries(FIRST, SECOND), '#'))])
def test_every_form_gives_the_same_pixels(name, content, tmp_path):
  """Through the converter; a project has its options as classes, others those that occur, in their order."""
  found = converted(lay_out(tmp_path / 'set', content, name), tmp_path / 'data')
  dataset = read(tmp_path / 'set')
  is_project = name.startswith('via_project')
  assert dataset.classes == ('background', *(('cat', 'dog', 'cow', 'bird') if is_project else ('dog', 'cat', 'cow')))
  order = [0, 1, 2, 3] if is_project else [0, 2, 1, 3]
  for key, label in expected().items():
    np.testing.assert_array_equal(found[key][1], np.array(order)[label])
    np.testing.assert_array_equal(found[key][0], images.read_rgb(str(tmp_path / f'set/{key}.png')))
  assert any('1 point, 1 polyline' in note for note in notes(dataset))
  assert any("class is its attribute 'kind'" in note for note in notes(dataset))


def test_splits_by_folders(tmp_path):
  """The layout of Matterport's examples: a JSON beside the pictures of each split; all regions are of one class."""
  for split, size in (('train', SIZES[0]), ('val', SIZES[1])):
    picture(tmp_path / split / 'a.png', size)
    write(tmp_path / split / 'via_region_data.json', version_1(entries([region(RECT)], names=('a.png',))))
  with pytest.raises(UserError, match='no region has an attribute that is its class; .*classes.txt: a line "back'):
    get_dataset(str(tmp_path))
  write(tmp_path / 'classes.txt', 'background\nballoon\n')
  dataset = read(tmp_path)
  assert dataset.splits == {'train': 1, 'val': 1, 'all': 2} and dataset.classes == ('background', 'balloon')
  source, = dataset.sources(None, 'val')
  assert dataset.read_label(source.label).shape == SIZES[1] and dataset.read_label(source.label).sum() == 12 * 7
  assert any("all are 'balloon'" in note for note in notes(dataset))


# --- which attribute is the class ---

@pytest.mark.parametrize('first, second, classes', [
    ({'kind': 'cat', 'blurred': 'yes'}, {'kind': 'dog'}, ('cat', 'dog')),  # the one that all have
    ({'kind': {'cat': True, 'dog': False}}, {'kind': {'dog': True}}, ('cat', 'dog')),  # checkboxes
    ({'kind': 7, 'note': ''}, {'kind': ' 8 ', 'note': None}, ('7', '8'))])
def test_the_attribute_that_is_the_class(first, second, classes, tmp_path):
  lay_out(tmp_path, entries([region(RECT, **first)], [region(RECT, **second)]))
  dataset, found = labels(tmp_path)
  assert dataset.classes == ('background', *classes)
  assert np.unique(found['a']).tolist() == [0, 1] and np.unique(found['b']).tolist() == [0, 2]


def test_several_attributes_need_a_word(tmp_path):
  lay_out(tmp_path, entries([region(RECT, kind='cat', color='red')], [region(RECT, kind='dog', color='red')]))
  with pytest.raises(UserError, match='which attribute is the class. There are kind in 2 of 2 regions, color in 2 of 2 '
                                      'regions; name it in .*dataset.json, as in {"via_attribute": "kind"}'):
    get_dataset(str(tmp_path))
  write(tmp_path / 'dataset.json', {'name': 'x', 'via_attribute': 'color'})
  assert get_dataset(str(tmp_path)).classes == ('background', 'red')
  write(tmp_path / 'dataset.json', {'via_attribute': 'colour'})
  with pytest.raises(UserError, match="dataset.json: via_attribute is 'colour'; the regions have kind, color"):
    get_dataset(str(tmp_path))
  write(tmp_path / 'dataset.json', {'via_attribute': 3})
  with pytest.raises(UserError, match='dataset.json: via_attribute is 3; a text is wanted'):
    get_dataset(str(tmp_path))


def test_the_size_is_the_pictures_turned_or_as_stored(tmp_path):
  lay_out(tmp_path, entries([region(RECT, kind='cat')]))
  turned = Image.fromarray(np.zeros((20, 30, 3), np.uint8))
  exif = turned.getexif()
  exif[0x0112] = 6
  turned.save(tmp_path / 'a.png', exif=exif)
  with pytest.raises(UserError, match='do not show whether these were drawn on them turned'):
    read(tmp_path)
  for exif, size in (('turn', (30, 20)), ('stored', (20, 30))):
    dataset = read(tmp_path, exif=exif)
    assert dataset.read_label(dataset.sources(None, 'all')[0].label).shape == size
  Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(tmp_path / 'a.png')
  (tmp_path / 'b.png').write_bytes(b'no picture')
  with pytest.raises(images.BadFile, match='image b.png: has no size, since its picture .*b.png cannot be read'):
    labels(tmp_path)


@pytest.mark.parametrize('name', ['https://host/x/a.png?size=3', 'C:\\photos\\a.png', '/home/me/a.png', '../../a.png'])
def test_names_of_pictures(name, tmp_path):
  lay_out(tmp_path, entries([region(RECT, kind='cat')], names=(name, 'b.png')))
  assert [source.name for source in get_dataset(str(tmp_path)).sources(None, 'all')] == ['a', 'b']


# --- mistakes ---

def test_an_address_that_is_none_is_refused(tmp_path):
  lay_out(tmp_path, entries([region(RECT, kind='cat')], names=('http://[a.png', 'b.png')))
  with pytest.raises(UserError, match='is no path of a picture'):
    get_dataset(str(tmp_path))


@pytest.mark.parametrize('shape, problem', [
    ({**RECT, 'x': '3'}, "'x' is to be a number; found '3'"), ({**RECT, 'width': -2}, "'width' is to be a number of"),
    ({'name': 'rect', 'x': 1, 'y': 2}, "'width' is to be a number of at least 0; found nothing"),
    ({**RECT, 'x': 1000}, 'far beyond the image of 30x20'), ({**CIRCLE, 'r': float('nan')}, "'r' is to be a number of"),
    ({**CIRCLE, 'cx': 1e300}, "'cx' is to be a number"), ({**CIRCLE, 'cy': 90}, 'center at 15, 90, far beyond'),
    ({**ELLIPSE, 'theta': 'x'}, "'theta' is to be a number; found 'x'"), ({'name': 'polygon'}, 'nothing and nothing'),
    ({**SHARP, 'all_points_x': [1, 2]}, r'lists of equally many numbers; found \[1.0, 2.0\] and'),
    ({**SHARP, 'all_points_x': [1, 2, 3, '4']}, r"found \"\[1, 2, 3, '4'\]\" and"),
    (polygon([(1, 1), (5, 5)]), 'a polygon of 2 points'), (polygon([(1, 1), (5, 5), (1e9, 0)]), 'far beyond')])
def test_a_bad_shape_is_a_bad_file(shape, problem, tmp_path):
  lay_out(tmp_path, entries([region(RECT, kind='cat'), region(shape, kind='cat')]))
  with pytest.raises(images.BadFile, match=f'via_export_json.json, image a.png: region 2.*{problem}'):
    labels(tmp_path)


@pytest.mark.parametrize('regions, problem', [
    ([region(RECT, kind='cat'), region(RECT)], "region 2 has no value for the attribute 'kind'; a region is to"),
    ([region(RECT, kind={'cat': True, 'dog': True})], "region 1 has the values cat, dog for the attribute 'kind'"),
    ([region({'name': 'blob'}, kind='cat')], "region 1 has the shape 'blob'; understood are circle, ellipse"),
    ([region({'name': ['rect']}, kind='cat')], r"region 1 has the shape \['rect'\]"),
    ([{'shape_attributes': RECT}], "region 1: 'region_attributes' is to be an object; found nothing"),
    ([7], "region 1: 'shape_attributes' is to be an object"), ([], 'no region has an area; understood are circle'),
    ([region({'name': 'point', 'cx': 1, 'cy': 1}, kind='cat')], 'no region has an area')])
def test_a_wrong_region_is_named(regions, problem, tmp_path):
  lay_out(tmp_path, entries(regions))
  with pytest.raises(UserError, match=f'via_export_json.json.*{problem}') as caught:
    get_dataset(str(tmp_path))
  assert '\n' not in str(caught.value)


@pytest.mark.parametrize('name, content, problem', [
    ('a.json', {'a.png1': {'filename': 7, 'regions': []}}, "a.json, 'a.png1': 'filename' is to be a text; found 7"),
    ('a.json', {'a.png1': {'filename': 'a.png', 'regions': None}}, "image a.png: 'regions' is to be a list or an"),
    ('a.json', {'a.png1': {'filename': 'a.png', 'regions': []}, 'x': 3}, "a.json, 'x': 'filename' is to be a text"),
    ('a.json', '{"x": {"filename": "a.png", "regions": [' + '[' * 10**5, 'nested too deep'),
    ('a.json', '{"x": {"filename": "a.png", "regions": []}, "x": {"filename": "a.png", "regions": []}}', "'x' comes"),
    ('a.json', {'_via_settings': {}, '_via_img_metadata': []}, "'_via_img_metadata' is to be an object"),
    ('a.json', {'project': {}, 'config': {}, 'attribute': {}, 'file': {}}, 'is a project of VIA 3, which is not'),
    ('a.csv', as_csv(entries(FIRST)).replace('{""name"": ""rect""', '{""name'), 'a.csv:3: region_shape_attributes is'),
    ('a.csv', as_csv(entries(FIRST)) + 'a.png,1\n', 'a.csv:8: a row has values for filename, region_count')])
def test_a_wrong_file_is_named(name, content, problem, tmp_path):
  lay_out(tmp_path, content, name)
  with pytest.raises(UserError, match=problem):
    get_dataset(str(tmp_path))


def test_a_project_beside_its_export_is_named(tmp_path):
  content = entries([region(RECT, kind='cat')], [region(RECT, kind='dog')])
  lay_out(tmp_path, content)
  write(tmp_path / 'via_project.json', project(content, kind=['cat']))
  with pytest.raises(UserError, match='via_project.json, image a.png: the picture .*a.png stands in .*via_export_json'):
    get_dataset(str(tmp_path))


def test_two_formats_in_one_folder_are_named(tmp_path):
  lay_out(tmp_path, entries([region(RECT, kind='cat')]))
  write(tmp_path / 'coco.json', {'images': [], 'categories': [], 'annotations': []})
  with pytest.raises(UserError, match='holds annotations of COCO JSON and VGG Image Annotator; leave one of them'):
    get_dataset(str(tmp_path))
