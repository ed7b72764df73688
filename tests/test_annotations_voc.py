"""Folders in Pascal VOC's layout: the user's own, labelme2voc's, VOC's own."""

import os
import re

import numpy as np
import originals
import pytest

import train
from datasets import convert, get_dataset, images, label_pictures
from datasets.dataset import colormap
from datasets.readers import annotations, own, voc
from datasets.readers.camvid import CAMVID
from utils.errors import UserError

IDS = np.array([[0, 1, 2], [255, 2, 0]], np.uint8)


@pytest.fixture(autouse=True)
def one_process(monkeypatch):
  """Converts in this process: worker processes take time to start."""
  monkeypatch.setattr(convert, 'default_workers', lambda: 1)


def lay_out(root, names='abc', classes='_background_\ncat\ndog', label=IDS, folder='SegmentationClass', lists=()):
  """Writes images of 3x2 pixels, each with the same label of ids. Returns the path."""
  for name in names:
    originals.write(root / f'JPEGImages/{name}.jpg', np.full((2, 3, 3), 9, np.uint8))
    if label.ndim == 2:
      originals.write_palette(root / folder / f'{name}.png', label)
    else:
      originals.write(root / folder / f'{name}.png', label)
  for split, listed in lists:
    originals.write(root / f'ImageSets/Segmentation/{split}.txt', ''.join(f'{name}\n' for name in listed))
  if classes:
    originals.write(root / 'class_names.txt', classes)
  return str(root)


def ids_of(root, **told):
  """Yields the ids of each label of a folder, `told` as in dataset.json."""
  dataset = own.decided(own.own_dataset(str(root)), told)
  for source in dataset.sources(None, 'all'):
    yield label_pictures.to_ids(dataset.read_label(source.label), dataset.label_map, source.label).tolist()


def raw_of(root):
  """Ids of the first label."""
  return next(ids_of(root))


def test_a_folder_becomes_records(tmp_path):
  root = lay_out(tmp_path / 'mine', lists=(('train', 'ca'), ('val', 'b'), ('trainval', 'abc')))
  dataset = get_dataset(root)
  assert dataset.classes == ('background', 'cat', 'dog')
  assert dataset.splits == {'train': 2, 'trainval': 3, 'val': 1, 'all': 3}
  np.testing.assert_array_equal(dataset.palette, colormap(3))
  convert.convert(dataset, 'train', source_dir=None, data_dir=str(tmp_path / 'data'), progress=False)
  records = originals.read_back(tmp_path / 'data', 'train')
  assert records.keys() == {'a', 'c'}
  for image, label in records.values():
    assert (image == 9).all() and label.tolist() == IDS.tolist()


@pytest.mark.parametrize('file', ['classes.txt', 'labels.txt', 'class_names.txt'])
def test_every_name_of_the_list(file, tmp_path):
  root = lay_out(tmp_path, classes='')
  originals.write(tmp_path / file, '__ignore__\n_background_\nsky ignore\ndog')
  assert annotations.read(root).classes == ('background', 'dog')
  assert raw_of(root) == [[0, 255, 1], [255, 1, 0]]


def test_colors_of_the_list_and_of_voc(tmp_path):
  root = lay_out(tmp_path, label=colormap(256)[IDS], classes='background\ncat\ndog')
  assert raw_of(root) == IDS.tolist()
  assert any("colors of RGB labels are those of VOC's palette" in note for note in annotations.read(root).notes)
  own = np.array([(9, 9, 9), (1, 2, 3), (128, 0, 0)], np.uint8)[np.minimum(IDS, 2)]
  originals.write(tmp_path / 'SegmentationClass/a.png', own)
  originals.write(tmp_path / 'class_names.txt', 'background 9,9,9\ncat 1,2,3\ndog 128,0,0')
  assert raw_of(root) == np.minimum(IDS, 2).tolist()


@pytest.mark.parametrize('folders', [('SegmentationClass', 'SegmentationClassPNG'), ('SegmentationClassNpy', None),
                                     ('SegmentationClass', None), ('SegmentationClassNpy', 'SegmentationClass')])
def test_what_labelme2voc_writes(folders, tmp_path):
  """Arrays with -1 for void, and in most versions pictures beside them."""
  array, picture = folders
  lay_out(tmp_path, folder=picture or 'unused')
  (tmp_path / array).mkdir(exist_ok=True)
  (tmp_path / 'SegmentationClass').mkdir(exist_ok=True)
  for name in 'abc':
    np.save(tmp_path / array / f'{name}.npy', np.where(IDS == 255, -1, IDS.astype(np.int32)))
  source = annotations.read(str(tmp_path)).splits['all'][0]
  assert os.fspath(source.label).endswith('.png' if picture else '.npy')
  assert raw_of(tmp_path) == IDS.tolist()


@pytest.mark.parametrize('array, problem', [
    (np.zeros((2, 3)), r'is an array of float64 \(2, 3\); a label is whole numbers'),
    (np.zeros((2, 3, 1), int), 'is an array of int64 .2, 3, 1.'),
    (np.full((2, 3), 256), 'has label values from 256 to 256; ids are 0 to 255, -1 is void'),
    (np.full((2, 3), -2), 'has label values from -2'), (np.array([{}]), 'is no array of numpy'),
    (np.array([[1, 7, 1]]), 'has label value 7 at row 0, column 1; valid are 0 to 2, 255')])
def test_a_wrong_array_is_named(array, problem, tmp_path):
  lay_out(tmp_path, folder='unused')
  (tmp_path / 'SegmentationClass').mkdir()
  for name in 'ab':
    np.save(tmp_path / f'SegmentationClass/{name}.npy', array, allow_pickle=True)
  with pytest.raises(images.BadFile, match=f'a.npy: {problem}'):
    raw_of(tmp_path)


@pytest.mark.parametrize('place', ['', 'VOC2012', 'VOCdevkit/VOC2012', 'TrainVal/VOCdevkit/VOC2011'])
def test_voc_itself_needs_no_list(place, tmp_path):
  lay_out(tmp_path / place, classes='', label=np.array([[0, 20, 255]], np.uint8))
  found = annotations.read(str(tmp_path))
  assert found.classes == voc.CLASSES and raw_of(tmp_path) == [[0, 20, 255]]
  assert found.notes[0].startswith("classes are VOC's own 21, since the labels are in VOC's palette")


def test_other_labels_need_a_list(tmp_path):
  root = lay_out(tmp_path, classes='', label=np.array([[0, 21]], np.uint8))
  with pytest.raises(images.BadFile, match='has label value 21 at row 0, column 1; valid are 0 to 20, 255'):
    raw_of(root)
  problem = "has no list of classes .* and .*a.png is not in VOC's palette; write the names of the classes to classes"
  for wrong in (IDS, colormap(256)[np.full((2, 3), 50)]):
    originals.write(tmp_path / 'SegmentationClass/a.png', wrong)
    with pytest.raises(UserError, match=problem):
      annotations.read(root)
  lay_out(tmp_path, classes='', label=colormap(256)[np.array([[0, 20, 255]])])
  assert raw_of(root) == [[0, 20, 255]]


MASK = np.array([[0, 1, 0], [1, 1, 0]], np.uint8)
TWO = 'background\nobject'


@pytest.mark.parametrize('form', ['gray', 'palette', 'rgb', 'npy'])
def test_masks_of_0_and_255_are_refused_or_told(form, tmp_path):
  """As in a folder of images and labels: 255 may be void or the object."""
  lay_out(tmp_path, classes=TWO)
  for path in tmp_path.glob('SegmentationClass/*'):
    if form == 'npy':
      path.unlink()
      np.save(path.with_suffix('.npy'), MASK.astype(np.int32) * 255)
    elif form == 'palette':
      originals.write_palette(path, MASK * 255)
    else:
      originals.write(path, MASK * 255 if form == 'gray' else np.repeat(MASK[..., np.newaxis] * 255, 3, axis=-1))
  with pytest.raises(UserError, match="3 labels such as .*/a.(png|npy) hold the values 0, 255 alone: as ids, 'object' "
                                      'never occurs, 255 is void; in order, 0 is background and 255 is object; to '
                                      'choose, give --labels="0:background,255:object" or --labels=ids'):
    next(ids_of(tmp_path))
  assert list(ids_of(tmp_path, labels={0: 'background', 255: 'object'})) == [MASK.tolist()] * 3
  assert list(ids_of(tmp_path, labels='ids')) == [(MASK * 255).tolist()] * 3
  with pytest.raises(UserError, match="--labels: 'sky' is no class; valid are background, ignore, object"):
    next(ids_of(tmp_path, labels={0: 'sky'}))


def test_masks_in_the_gray_colors_of_classes_are_colors(tmp_path):
  lay_out(tmp_path, classes='background 0,0,0\nobject 255,255,255', names='ab')
  for path in tmp_path.glob('SegmentationClass/*'):
    originals.write(path, MASK * 255)
  assert list(ids_of(tmp_path)) == [MASK.tolist()] * 2


def test_gray_stored_as_rgb_is_ids_where_it_has_no_color_of_vocs(tmp_path):
  lay_out(tmp_path / 'ids', classes=TWO, label=np.repeat(MASK[..., np.newaxis], 3, axis=-1))
  assert list(ids_of(tmp_path / 'ids')) == [MASK.tolist()] * 3
  lay_out(tmp_path / 'colors', classes='\n'.join(voc.CLASSES), label=colormap(256)[MASK * 7])  # a car is gray
  assert list(ids_of(tmp_path / 'colors')) == [(MASK * 7).tolist()] * 3


def test_palettes_decide_as_in_other_folders(tmp_path):
  swapped = colormap(256)[[1, 0, *range(2, 256)]]
  lay_out(tmp_path, classes='', label=np.minimum(IDS, 2), names='ab')
  originals.write_palette(tmp_path / 'SegmentationClass/b.png', np.minimum(IDS, 2), swapped)
  originals.write(tmp_path / 'class_names.txt', 'background\ncat\ndog')
  with pytest.raises(UserError, match='palettes of the labels contradict each other: id 0 is 0,0,0 in .*a.png and '
                                      '128,0,0 in .*b.png'):
    next(ids_of(tmp_path))
  originals.write(tmp_path / 'class_names.txt', 'background 0,0,0\ncat 128,0,0\ndog 0,128,0')
  assert list(ids_of(tmp_path)) == [[[0, 1, 2], [2, 2, 0]], [[1, 0, 2], [2, 2, 1]]]


def test_void_has_vocs_color_where_colors_decide(tmp_path):
  classes = 'background 0,0,0\ncat 0,128,0\ndog 128,0,0'  # ids 1 and 2 change places in VOC's palette
  lay_out(tmp_path, classes=classes, label=IDS)
  assert next(ids_of(tmp_path)) == [[0, 2, 1], [255, 1, 0]]


def test_ids_among_colors_are_refused(tmp_path):
  lay_out(tmp_path, label=colormap(256)[IDS])
  originals.write(tmp_path / 'SegmentationClass/b.png', np.minimum(IDS, 2))
  with pytest.raises(UserError, match='labels must all be of one kind: 2 are RGB colors, such as .*a.png, and 1 are '
                                      'grayscale or palette pictures of ids, such as .*b.png'):
    next(ids_of(tmp_path))


def test_a_run_knows_the_values_of_the_labels(tmp_path):
  lay_out(tmp_path, classes='unclear ignore\ncat\ndog', label=np.minimum(IDS, 2))
  assert own.decided(own.own_dataset(str(tmp_path))).label_values == (1, 2)


def test_names_without_a_label_are_left_out_with_a_word(tmp_path):
  root = lay_out(tmp_path, lists=(('train', 'abxy'), ('val', 'c'), ('test', 'z')))
  for name in 'xyz':
    originals.write(tmp_path / f'JPEGImages/{name}.jpg', np.zeros((2, 3, 3), np.uint8))
  found = annotations.read(root)
  assert {split: len(sources) for split, sources in found.splits.items()} == {'train': 2, 'val': 1}
  notes = '\n'.join(found.notes)
  assert 'train.txt: 2 of 4 names have no label and are left out: x, y' in notes
  assert 'test.txt: 1 of 1 names have no label and are left out: z' in notes
  originals.write(tmp_path / 'ImageSets/Segmentation/train.txt', 'a.jpg\n"b"\n')
  assert [source.name for source in annotations.read(root).splits['train']] == ['a', 'b']
  originals.write(tmp_path / 'ImageSets/Segmentation/train.txt', 'a\n')
  assert any('1 labels stand in no list of' in note and note.endswith(': b') for note in annotations.read(root).notes)


@pytest.mark.parametrize('lists, problem', [
    ((('train', 'xy'), ('val', 'z')), 'none of the names in .* has a label; there are labels of a, b, c'),
    ((('train', 'aba'), ('val', 'c')), 'train.txt: the name a comes twice')])
def test_wrong_lists_are_named(lists, problem, tmp_path):
  with pytest.raises(UserError, match=problem):
    annotations.read(lay_out(tmp_path, lists=lists))


def test_labels_without_image_and_images_without_label(tmp_path):
  root = lay_out(tmp_path / 'mine', names='abcd')
  (tmp_path / 'mine/JPEGImages/a.jpg').unlink()
  (tmp_path / 'mine/SegmentationClass/d.png').unlink()
  dataset = get_dataset(root)
  assert dataset.splits['all'] == 3
  with pytest.raises(convert.BadFiles, match=r'1 of 3 pairs.*\n.*JPEGImages/a.jpg: does not exist'):
    convert.convert(dataset, 'all', source_dir=None, data_dir=str(tmp_path / 'data'), progress=False)
  for path in (tmp_path / 'mine/SegmentationClass').glob('*'):
    path.unlink()
  with pytest.raises(UserError, match='there is no label in .*SegmentationClass'):
    annotations.read(root)


def test_several_years_are_refused(tmp_path):
  lay_out(tmp_path / 'VOCdevkit/VOC2007')
  lay_out(tmp_path / 'VOCdevkit/VOC2012')
  with pytest.raises(UserError, match='holds .*VOC2007 and .*VOC2012; give the path of one of them'):
    annotations.read(str(tmp_path))


def test_the_real_voc_is_read_as_the_known_dataset(shared):
  """All sources and a few labels, by path alone."""
  root = shared / 'data/voc'
  found = annotations.read(str(root))
  decided = own.decided(own.own_dataset(str(root)))
  for split in ('train', 'val'):
    expected = {source.name: source for source in voc.VOC.sources(str(root), split)}
    assert {source.name: source.image for source in found.splits[split]} == {
        name: source.image for name, source in expected.items()}
    for source in found.splits[split][::500]:
      label = label_pictures.read_label(expected[source.name].label)
      np.testing.assert_array_equal(decided.label_map[decided.read_label(source.label)], label)


def test_one_command_trains_on_a_folder(shared, tiny, tmp_path, monkeypatch, run_program):
  """Photographs and labels of CamVid in VOC's layout."""
  for source in CAMVID.sources(str(shared / 'data/camvid'), 'val')[::12][:6]:
    originals.write(tmp_path / f'streets/JPEGImages/{source.name}.jpg', images.read_rgb(source.image)[1:-1:3, :-1:3])
    originals.write_palette(tmp_path / f'streets/SegmentationClass/{source.name}.png',
                            label_pictures.read_label(source.label)[1:-1:3, :-1:3])
  originals.write(tmp_path / 'streets/class_names.txt', '\n'.join([*CAMVID.classes, 'unlabeled ignore']))
  monkeypatch.chdir(tmp_path)
  result = run_program(train.main, '--dataset=streets', f'--net={tiny}', '--checkpoint=none', '--crop_size=64,96',
                       '--batch_size=2', '--max_steps=3', '--eval_steps=0', '--log_steps=1')
  assert result.returncode == 0, result.stderr
  assert len(re.findall(r'^step \d/3  loss [\d.]+', result.stdout, re.M)) == 3, result.stdout
