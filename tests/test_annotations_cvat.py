"""CVAT's exports: shapes of its XML drawn as CVAT draws them, its masks read by their colors, mistakes in a line."""

import pathlib
import pickle
import re
import shutil

import numpy as np
import originals
import pytest
from PIL import Image

import train
from datasets import convert, get_dataset, images, label_pictures
from datasets.readers import annotations
from datasets.readers.annotations import cvat_xml
from datasets.readers.camvid import CAMVID
from utils.errors import UserError

GOLDEN = pathlib.Path(__file__).parent / 'golden/cvat'
SIZES = {'a': (29, 41), 'b': (57, 33), 'c': (64, 95)}
LABELMAP = '# label:color_rgb:parts:actions\nbackground:0,0,0::\ncat:250,50,83::\ntree:51,221,255::\n'
COLORS = np.array([(0, 0, 0), (250, 50, 83), (51, 221, 255)], np.uint8)


@pytest.fixture(autouse=True)
def one_process(monkeypatch):
  """Converts in this process: worker processes take time to start."""
  monkeypatch.setattr(convert, 'default_workers', lambda: 1)


def xml(frames, labels=(('cat', '#fa3253'), ('tree', '#33ddff')), body=''):
  """An annotations.xml; `frames` are (name, text of the shapes), or (name, text, other attributes)."""
  meta = ''.join(f'<label><name>{name}</name><color>{color}</color><type>any</type><attributes></attributes></label>'
                 for name, color in labels)
  text = ''.join(f'<image id="{number}" name="{frame[0]}" width="7" height="5" {"".join(frame[2:])}>\n{frame[1]}\n'
                 '</image>\n' for number, frame in enumerate(frames))
  return (f'<?xml version="1.0" encoding="utf-8"?>\n<annotations><version>1.1</version>\n<meta><task><id>1</id>'
          f'<labels>{meta}</labels></task></meta>\n{text}{body}</annotations>')


def box(label='cat', left=1, top=1, right=3, bottom=3, **others):
  more = ' '.join(f'{key}="{value}"' for key, value in others.items())
  return (f'<box label="{label}" source="manual" occluded="0" xtl="{left}" ytl="{top}" xbr="{right}" ybr="{bottom}" '
          f'{more}></box>')


def lay_out(root, *frames, **options):
  originals.write(root / 'annotations.xml', xml(frames, **options))
  for frame in frames:
    originals.write(root / f'images/{frame[0]}', np.full((5, 7, 3), 9, np.uint8))


def raw_of(root):
  found = annotations.read(str(root))
  source, = found.splits['all']
  return found.read_label(source.label)


def to_records(root, data_dir, split='all'):
  dataset = get_dataset(str(root))
  convert.convert(dataset, split, source_dir=None, data_dir=str(data_dir), progress=False)
  return dataset, originals.read_back(data_dir, split)


# --- CVAT for images: XML ---

def test_shapes_are_drawn_as_cvat_draws_them(tmp_path):
  """Golden file of polygons, boxes, turned boxes, ellipses and masks; see golden/make_cvat.py."""
  shutil.copy(GOLDEN / 'annotations.xml', tmp_path)
  for name, size in SIZES.items():
    originals.write(tmp_path / f'images/{name}.png', np.zeros((*size, 3), np.uint8))
  found = annotations.read(str(tmp_path))
  assert (found.form, found.classes) == ('CVAT for images', ('background', 'tree', 'cat', 'dog'))
  assert found.colors == ((0, 0, 0), (51, 221, 255), (250, 50, 83), (255, 0, 124))
  read_label = pickle.loads(pickle.dumps(found.read_label))
  for source in found.splits['all']:
    expected = np.array(Image.open(GOLDEN / f'{source.name}_label.png'))
    np.testing.assert_array_equal(read_label(pickle.loads(pickle.dumps(source.label))), expected)
    assert set(range(4)) == set(np.unique(expected).tolist())


def test_a_task_becomes_records(tmp_path):
  """By hand: boxes run along the edges of pixels; z_order decides, then the order in the file; masks along rows."""
  mask = '<mask label="tree" rle="1, 2, 1" left="5" top="3" width="2" height="2" z_order="-1"></mask>'
  text = f'{box("tree", 0, 0, 2, 2, z_order=1)}{box("cat", 1, 0, 4, 1)}{box("tree", 3, 0, 5, 4)}{mask}'
  lay_out(tmp_path / 'mine', ('a.png', text), ('b.png', text))
  dataset, records = to_records(tmp_path / 'mine', tmp_path / 'data')
  assert dataset.classes == ('background', 'cat', 'tree') and dataset.splits == {'all': 2, 'train': 1, 'val': 1}
  assert dataset.palette.tolist() == [[0, 0, 0], [250, 50, 83], [51, 221, 255]]
  image, label = records['a']
  assert (image == 9).all()
  assert label.tolist() == [[2, 2, 1, 2, 2, 0, 0], [2, 2, 0, 2, 2, 0, 0], [0, 0, 0, 2, 2, 0, 0],
                            [0, 0, 0, 2, 2, 0, 2], [0, 0, 0, 0, 0, 2, 0]]


def test_what_has_no_area_is_left_out_with_a_word(tmp_path):
  lines = ('<polyline label="cat" points="1,1;3,3" z_order="0"></polyline><points label="tree" points="1,1"></points>'
           '<skeleton label="cat"><points label="1" points="2,2"></points></skeleton><cuboid label="cat"></cuboid>')
  lay_out(tmp_path, ('a.png', box() + lines), ('b.png', lines), ('c.png', ''), ('d.png', '<tag label="cat"></tag>'))
  found = annotations.read(str(tmp_path))
  assert [source.name for source in found.splits['all']] == ['a']
  assert 'left out, since they have no area: cuboid (2), points (2), polyline (2), skeleton (2)' in found.notes
  assert ('3 of 4 images have no shape with an area and are left out, as not yet labeled: b.png, c.png, d.png'
          in found.notes)


def test_groups_of_several_labels_are_told(tmp_path):
  lay_out(tmp_path, ('a.png', box(group_id=1) + box('tree', 4, 1, 6, 3, group_id=1)))
  notes = annotations.read(str(tmp_path)).notes
  assert any('grouped shapes of several labels keep their own' in note for note in notes)
  assert raw_of(tmp_path)[1].tolist() == [0, 1, 1, 0, 2, 2, 0]


@pytest.mark.parametrize('name, subset, place', [
    ('a.png', '', 'images/a.png'), ('day 1/a.png', '', 'images/day 1/a.png'), ('a.png', '', 'a.png'),
    ('a.png', 'Train', 'images/Train/a.png'), ('a.png', 'Train', 'images/a.png'), ('a.png', '', 'images/a.jpg'),
    ('task_7/a.png', '', 'photos/a.png')])
def test_images_are_found(name, subset, place, tmp_path):
  originals.write(tmp_path / 'annotations.xml', xml([(name, box(), f'subset="{subset}"' * bool(subset))]))
  originals.write(tmp_path / place, np.zeros((5, 7, 3), np.uint8))
  source, = annotations.read(str(tmp_path)).splits['all']
  assert (source.name, source.image) == (name[:-4], str(tmp_path / place))


@pytest.mark.parametrize('subsets, splits', [
    (('Train', 'Validation'), {'train': 1, 'val': 1}), (('train', 'val', 'Test'), {'train': 1, 'val': 1, 'test': 1}),
    (('default', 'default'), {'all': 2}), (('Train', 'Test'), {'train': 1, 'test': 1}),
    (('Train', 'Train'), {'all': 2}), (('Train', 'More'), {'all': 2})])
def test_subsets_of_a_project(subsets, splits, tmp_path):
  frames = [(f'{number}.png', box(), f'subset="{subset}"') for number, subset in enumerate(subsets)]
  lay_out(tmp_path, *frames)
  found = annotations.read(str(tmp_path))
  assert {split: len(sources) for split, sources in found.splits.items()} == splits
  told = 'the subsets Train, More are not train and val, so all images are split by their names'
  assert (told in found.notes) == (subsets == ('Train', 'More'))


def test_several_tasks_in_folders(tmp_path):
  lay_out(tmp_path / 'one', ('a.png', box()), ('b.png', box()))
  lay_out(tmp_path / 'two', ('a.png', box('bird')), labels=(('bird', '#000001'), ('cat', '#fa3253')))
  found = annotations.read(str(tmp_path))
  assert found.classes == ('background', 'cat', 'tree', 'bird')
  assert [source.name for source in found.splits['all']] == ['b', 'one/a', 'two/a']
  assert found.splits['all'][2].image == str(tmp_path / 'two/images/a.png')
  assert found.read_label(found.splits['all'][2].label).max() == 3


def test_a_list_chooses_the_classes(tmp_path):
  lay_out(tmp_path, ('a.png', box('tree') + box('cat', 4, 1, 6, 3)))
  (tmp_path / 'classes.txt').write_text('tree\nbackground\ncat ignore')
  with pytest.raises(UserError, match='annotations.xml:5 has the class .cat., which .*labels.txt does not name; it'):
    (tmp_path / 'labels.txt').write_text('tree\nbackground\n')
    (tmp_path / 'classes.txt').unlink()
    annotations.read(str(tmp_path))
  (tmp_path / 'labels.txt').write_text('tree 1,2,3\nbackground\ncat ignore')
  found = annotations.read(str(tmp_path))
  assert (found.classes, found.colors) == (('tree', 'background'), ((1, 2, 3), (0, 0, 0)))
  assert raw_of(tmp_path)[1].tolist() == [1, 0, 0, 1, 255, 255, 1]


def polygon(points, label='cat'):
  return f'<polygon label="{label}" points="{points}" z_order="0"></polygon>'


def mask(**values):
  values = {'label': 'cat', 'rle': '0,4', 'left': 0, 'top': 0, 'width': 2, 'height': 2, **values}
  return f'<mask {" ".join(f"{key}={str(value)!r}" for key, value in values.items())}></mask>'


@pytest.mark.parametrize('shape, problem', [
    (polygon('1,1;2,2'), r"the polygon \(label 'cat'\) has 2 points; a polygon has at least 3"),
    (polygon('1,1;2,2;3'), "has the points '1,1;2,2;3'; valid are"), (polygon(''), "has the points ''"),
    (polygon('1,1;2,x;3,3'), "has the points '1,1;2,x;3,3'"), (polygon('1,1;nan,2;3,3'), 'has the points'),
    (polygon('1,1;inf,2;3,3'), 'has the points'), (polygon('1,1;1e9,2;3,3'), 'has the points'),
    (polygon(';'.join(['0,0', '900000,900000', '3,0'])), 'outline longer than 1048576'),
    ('<box xtl="1" ytl="1" xbr="2" ybr="2"></box>', "the box has the label ''; known are __ignore__, background, cat"),
    (box(left='x'), r"the box \(label 'cat'\) has xtl='x'; valid are numbers from -1048576"),
    (box(rotation='nan'), "has rotation='nan'"), (box(z_order='1.5'), "has z_order='1.5'; valid are whole numbers"),
    ('<box label="cat" xtl="1" ytl="1" xbr="2"></box>', 'has ybr=None'),
    ('<ellipse label="cat" cx="1" cy="1" rx="-2" ry="1"></ellipse>', "has rx='-2'; valid are numbers from 0"),
    (mask(rle='0,3'), 'run lengths that do not make up its 2x2 pixels'), (mask(rle='5,-1'), 'run lengths that do not'),
    (mask(rle=''), 'run lengths that do not'), (mask(rle='0,x'), 'run lengths that do not'),
    (mask(rle='9' * 40), 'run lengths that do not'), (mask(rle='0,' + '9' * 18), 'run lengths that do not'),
    (mask(left=6), 'covers 2x2 pixels from 6,0, more than the image of 7x5'), (mask(left=-1), "has left='-1'"),
    (mask(width='1e3'), "has width='1e3'"), (mask(height=0), "has height='0'")])
def test_a_wrong_shape_is_named(shape, problem, tmp_path):
  lay_out(tmp_path, ('a.png', f'{box()}\n{shape}'))
  with pytest.raises(images.BadFile, match=f'annotations.xml:6: .*{problem}'):
    raw_of(tmp_path)


def test_bad_shapes_are_listed(tmp_path):
  lay_out(tmp_path / 'mine', ('a.png', polygon('1,1;2,2')), ('b.png', box()))
  with pytest.raises(convert.BadFiles, match=r'1 of 2 pairs.*\n  .*annotations.xml:5: the polygon'):
    to_records(tmp_path / 'mine', tmp_path / 'data')


@pytest.mark.parametrize('old, new, problem', [
    ('width="7"', 'width="x"', "annotations.xml:4: the image 'a.png' has width='x'"),
    ('width="7"', '', 'has width=None'), ('height="5"', 'height="0"', "has height='0'"),
    ('width="7" height="5"', 'width="100000" height="100000"', 'is said to have 100000x100000 pixels')])
def test_a_wrong_size_is_named(old, new, problem, tmp_path):
  lay_out(tmp_path, ('a.png', box()))
  path = tmp_path / 'annotations.xml'
  path.write_text(path.read_text().replace(old, new))
  with pytest.raises(images.BadFile, match=problem):
    raw_of(tmp_path)


BOMB = '<!DOCTYPE a [<!ENTITY b "bbbbbbbbbb"><!ENTITY c "&b;&b;&b;&b;">]>'


@pytest.mark.parametrize('text, problem', [
    (xml([('a.png', '')]).replace('<annotations>', f'{BOMB}<annotations>'), 'annotations.xml:2: has a DOCTYPE'),
    (xml([('a.png', '')], body='<track id="0" label="cat"><box frame="0"></box></track>'),
     'annotations.xml:7: holds tracks, as "CVAT for video 1.1" does; export the task as "CVAT for images 1.1" or'),
    (xml([('a.png', '')])[:-20], 'is not valid XML'), ('<annotations>&lol;</annotations>', 'is not valid XML'),
    ('<?xml version="1.0" encoding="x-y"?><annotations></annotations>', 'is not valid XML'),
    ('<x><annotations></annotations></x>', 'annotations.xml:1: starts with <x>; an export of CVAT starts with'),
    (xml([('../a.png', box())]), r'annotations.xml:4: the path \.\./a.png leaves'),
    (xml([('/a.png', box())]), 'the path /a.png leaves'),
    (xml([('', box())]), 'annotations.xml:4: the image has no name'),
    (xml([('a.png', box(), 'subset="../.."')]), r'the path \.\./\.\. leaves'),
    (xml([('a.png', box()), ('a.png', box())]), 'the name a comes twice'),
    (xml([]), 'has 0 images and none with a shape'),
    (xml([('x.png', box())]), 'none of the 1 pictures of its CVAT for images is there or in .*, such as x.png; expo')])
def test_a_wrong_xml_is_named(text, problem, tmp_path):
  originals.write(tmp_path / 'annotations.xml', text)
  originals.write(tmp_path / 'images/a.png', np.zeros((5, 7, 3), np.uint8))
  with pytest.raises(UserError, match=problem):
    get_dataset(str(tmp_path))


def test_deep_nesting_does_no_harm(tmp_path):
  lay_out(tmp_path, ('a.png', box()), body='<x>' * 100000 + '</x>' * 100000)
  assert raw_of(tmp_path).max() == 1


def test_missing_packages_are_named(tmp_path, monkeypatch):
  lay_out(tmp_path, ('a.png', '<ellipse label="cat" cx="3" cy="2" rx="1" ry="1"></ellipse>'))
  monkeypatch.setitem(__import__('sys').modules, 'cv2', None)
  with pytest.raises(UserError, match='CVAT for images needs the package opencv-python-headless .*pip install -r requ'):
    annotations.read(str(tmp_path))
  monkeypatch.setitem(__import__('sys').modules, 'pycocotools', None)
  with pytest.raises(UserError, match='CVAT for images needs the package pycocotools .*requirements-annotations.txt'):
    annotations.read(str(tmp_path))


def test_voc_boxes_are_no_export_of_cvat(tmp_path):
  originals.write(tmp_path / 'a.xml', '<annotation><object></object></annotation>')
  assert not cvat_xml.find(str(tmp_path))


# --- Segmentation mask ---

def lay_out_masks(root, names=('a', 'b', 'c'), labelmap=LABELMAP, folder='JPEGImages', lists=('default',)):
  """Masks of 3x2 pixels: background, cat, tree; tree, tree, background. Returns the path."""
  for name in names:
    originals.write(root / folder / f'{name}.jpg', np.zeros((2, 3, 3), np.uint8))
    originals.write(root / f'SegmentationClass/{name}.png', COLORS[[[0, 1, 2], [2, 2, 0]]])
    originals.write(root / f'SegmentationObject/{name}.png', np.zeros((2, 3, 3), np.uint8))
  for name in lists:
    originals.write(root / f'ImageSets/Segmentation/{name}.txt', ''.join(f'{name}\n' for name in names))
  originals.write(root / 'labelmap.txt', labelmap)
  return str(root)


@pytest.mark.parametrize('names', [('a', 'b', 'c'), ('task 1/frame_0', 'task 1/frame_1', 'x.y'), ('ä', 'b', 'c')])
def test_masks_become_records(names, tmp_path):
  dataset, records = to_records(lay_out_masks(tmp_path / 'mine', names), tmp_path / 'data')
  assert dataset.classes == ('background', 'cat', 'tree') and dataset.palette.tolist() == COLORS.tolist()
  assert records.keys() == set(names) and dataset.splits['all'] == 3
  for _, label in records.values():
    assert label.tolist() == [[0, 1, 2], [2, 2, 0]]


def test_labels_keep_the_order_of_the_labelmap(tmp_path):
  lines = ('tree:51,221,255::', 'ignored:224,224,192::', 'background:0,0,0::', 'cat:250,50,83::')
  root = lay_out_masks(tmp_path, labelmap='\n'.join(lines))
  mask = np.array([[(224, 224, 192), (51, 221, 255), (0, 0, 0)]], np.uint8)
  originals.write(tmp_path / 'SegmentationClass/a.png', mask)
  found = annotations.read(root)
  assert found.classes == ('tree', 'background', 'cat')
  assert found.read_label(found.splits['all'][0].label).tolist() == [[255, 0, 1]]
  (tmp_path / 'classes.txt').write_text('cat\ntree\n')
  found = annotations.read(root)
  assert found.classes == ('cat', 'tree')
  assert found.read_label(found.splits['all'][0].label).tolist() == [[255, 1, 255]]


def test_black_without_a_label_is_background(tmp_path):
  root = lay_out_masks(tmp_path, labelmap='cat:250,50,83::\ntree:51,221,255::')
  found = annotations.read(root)
  assert found.classes == ('background', 'cat', 'tree') and any('is background' in note for note in found.notes)
  assert found.read_label(found.splits['all'][0].label).tolist() == [[0, 1, 2], [2, 2, 0]]


def test_images_beside_the_export_and_unlabeled_frames(tmp_path):
  root = lay_out_masks(tmp_path, folder='images')
  (tmp_path / 'ImageSets/Segmentation/default.txt').write_text('a\nb\nc\nd\ne\n')  # d and e have no shape
  found = annotations.read(root)
  assert [source.image for source in found.splits['all']] == [str(tmp_path / f'images/{name}.jpg') for name in 'abc']
  assert any('2 of 5 names have no label and are left out: d, e' in note for note in found.notes)
  shutil.rmtree(tmp_path / 'images')
  with pytest.raises(UserError, match='holds labels but no image of theirs, such as .*a.jpg for .*Class/a.png'):
    annotations.read(root)


@pytest.mark.parametrize('lists, splits', [(('train', 'val'), {'train', 'val'}), (('train',), {'all'}),
                                           (('Train', 'Validation', 'Test'), {'train', 'val', 'test'}), ((), {'all'})])
def test_lists_of_masks_make_splits(lists, splits, tmp_path):
  assert annotations.read(lay_out_masks(tmp_path, lists=lists)).splits.keys() == splits


def test_grayscale_masks_count_the_lines(tmp_path):
  root = lay_out_masks(tmp_path)
  originals.write(tmp_path / 'SegmentationClass/a.png', np.array([[0, 2, 1], [255, 0, 0]], np.uint8))
  found = annotations.read(root)
  assert found.read_label(found.splits['all'][0].label).tolist() == [[0, 2, 1], [255, 0, 0]]
  originals.write_palette(tmp_path / 'SegmentationClass/a.png', np.array([[0, 2, 1]], np.uint8), COLORS[[2, 1, 0]])
  assert found.read_label(found.splits['all'][0].label).tolist() == [[2, 0, 1]]  # a palette shows colors


@pytest.mark.parametrize('labelmap, pixels, problem', [
    (LABELMAP, [[3, 0]], 'has label value 3 at row 0, column 0; valid are 0 to 2, 255'),
    ('background:0,0,0::\ncat:255,255,255::', [[255, 0]], 'is grayscale, and its value 255 means another label as the'),
    (LABELMAP, [[(1, 2, 3), (0, 0, 0)]], 'has the color 1,2,3, which stands for no class')])
def test_wrong_masks_are_named(labelmap, pixels, problem, tmp_path):
  found = annotations.read(lay_out_masks(tmp_path, labelmap=labelmap))
  originals.write(tmp_path / 'SegmentationClass/a.png', np.array(pixels, np.uint8))
  with pytest.raises(images.BadFile, match=f'SegmentationClass/a.png: {problem}'):
    found.read_label(found.splits['all'][0].label)


@pytest.mark.parametrize('labelmap, problem', [
    ('cat:1,2::\nb:0,0,0::', 'labelmap.txt:1: '), ('a:1,2,3::\nb:1,2,3::', 'labelmap.txt:2: .*stands in .*:1 already'),
    ('a:1,2,3::\na:0,0,0::', 'labelmap.txt:2: .*stands in .*:1 already'),
    ('a:1,2,300::\nb:0,0,0::', '300; valid are 0 to'), ('# nothing', 'labelmap.txt is empty'),
    ('a:::\nb:0,0,0::', 'labelmap.txt:1: the label has no color, and others have')])
def test_wrong_labelmaps_are_named(labelmap, problem, tmp_path):
  with pytest.raises(UserError, match=problem):
    annotations.read(lay_out_masks(tmp_path, labelmap=labelmap))


def test_two_exports_in_one_folder_are_refused(tmp_path):
  lay_out(tmp_path, ('a.png', box()))
  with pytest.raises(UserError, match='holds annotations of CVAT for images and CVAT segmentation masks; leave one'):
    annotations.read(lay_out_masks(tmp_path))


@pytest.mark.parametrize('form', ['xml', 'masks'])
def test_one_command_trains_on_an_export(form, shared, tiny, tmp_path, monkeypatch, run_program):
  """Photographs of CamVid: a box each, or their own labels in CamVid's colors."""
  sources, frames = CAMVID.sources(str(shared / 'data/camvid'), 'val')[::12][:6], []
  for source in sources:
    picture = images.read_rgb(source.image)[1:-1:3, :-1:3]
    height, width = picture.shape[:2]
    originals.write(tmp_path / f'streets/{"images" if form == "xml" else "JPEGImages"}/{source.name}.png', picture)
    frames.append((f'{source.name}.png', box('road', 5, 60, width - 9, height)))
    if form == 'masks':
      label = label_pictures.read_label(source.label)[1:-1:3, :-1:3]
      palette = np.array([*CAMVID.palette.tolist(), (0, 0, 0)], np.uint8)
      originals.write(tmp_path / f'streets/SegmentationClass/{source.name}.png', palette[label])
  if form == 'xml':
    text = xml(frames, labels=[('road', '#804080')])
    originals.write(tmp_path / 'streets/annotations.xml',
                    text.replace('width="7" height="5"', f'width="{width}" height="{height}"'))
  else:
    lines = [f'{name}:{",".join(map(str, color))}::' for name, color in zip(CAMVID.classes, CAMVID.palette.tolist())]
    originals.write(tmp_path / 'streets/labelmap.txt', '\n'.join(['background:0,0,0::', *lines]))
  monkeypatch.chdir(tmp_path)
  result = run_program(train.main, '--dataset=streets', f'--net={tiny}', '--checkpoint=none', '--crop_size=64,96',
                       '--batch_size=2', '--max_steps=3', '--eval_steps=0', '--log_steps=1')
  assert result.returncode == 0, result.stderr
  assert len(re.findall(r'^step \d/3  loss [\d.]+', result.stdout, re.M)) == 3, result.stdout
