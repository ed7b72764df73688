"""Playing for Data: palette labels with Cityscapes' ids, the split of split.mat, parts of the download."""

import os

import numpy as np
import originals
import pytest
import scipy.io

from datasets import get_dataset
from datasets.convert import BadFiles, convert
from utils.errors import UserError

pytestmark = pytest.mark.fast

# Cityscapes' train ids by label id, as in its labels.py: 255 is not trained.
TRAIN_IDS = [255, 255, 255, 255, 255, 255, 255, 0, 1, 255, 255, 2, 3, 4, 255, 255, 255, 5, 255, 6, 7, 8, 9, 10, 11, 12,
             13, 14, 15, 255, 255, 16, 17, 18, 255]
RAW = np.arange(35, dtype=np.uint8).reshape(5, 7)


def save_split(folder, train=((1,), (4,)), val=((2,),), test=((3,),), file='split.mat'):
  folder.mkdir(parents=True, exist_ok=True)
  (folder / file).parent.mkdir(exist_ok=True)
  scipy.io.savemat(folder / file, {'trainIds': train, 'valIds': val, 'testIds': test})


def lay_out(folder, numbers, part=''):
  for number in numbers:
    originals.write(folder / f'images/{part}/{number:05d}.png', np.full((5, 7, 3), number % 256, np.uint8))
    originals.write_palette(folder / f'labels/{part}/{number:05d}.png', np.roll(RAW, number))


def names(folder, split='train'):
  return [source.name for source in get_dataset('gta5').sources(str(folder), split)]


def to_records(folder, split='train', **options):
  convert(get_dataset('gta5'), split, source_dir=str(folder), data_dir=str(folder / 'data'), num_workers=1,
          progress=False, **options)
  return originals.read_back(folder / 'data', split)


def test_palette_indices_become_train_ids(tmp_path):
  lay_out(tmp_path, (1, 2, 3, 4))
  save_split(tmp_path)
  found = to_records(tmp_path)
  assert list(found) == ['00001', '00004']
  for number in (1, 4):
    image, label = found[f'{number:05d}']
    assert (image == number).all()
    np.testing.assert_array_equal(label, np.roll(np.reshape(TRAIN_IDS, (5, 7)), number))
  assert list(to_records(tmp_path, 'val')) == ['00002'] and list(to_records(tmp_path, 'test')) == ['00003']


def test_classes_are_cityscapes():
  dataset = get_dataset('gta5')
  assert dataset.label_map.tolist() == TRAIN_IDS + [-1] * 221
  assert (dataset.classes[0], dataset.classes[18]) == ('road', 'bicycle') and dataset.num_classes == 19
  assert dataset.palette[[0, 13]].tolist() == [[128, 64, 128], [0, 0, 142]]
  assert sum(dataset.splits.values()) == 24966


@pytest.mark.parametrize('place', ['', 'GTA5', 'gta5'])
@pytest.mark.parametrize('file', ['split.mat', 'read_mapping/split.mat'])
def test_is_found_from_the_folder_above(place, file, tmp_path):
  lay_out(tmp_path / place, (1,))
  save_split(tmp_path / place, file=file)
  assert names(tmp_path) == ['00001']


def test_parts_as_they_are_downloaded(tmp_path):
  lay_out(tmp_path, (1, 2), part='01')
  lay_out(tmp_path, (4,), part='02')
  save_split(tmp_path)
  assert list(to_records(tmp_path)) == ['00001', '00004']
  os.rename(tmp_path / 'images/02', tmp_path / 'left')  # a download that was interrupted
  with pytest.raises(UserError, match='images has the folders 01, but .*labels has 01, 02'):
    names(tmp_path)
  os.rename(tmp_path / 'left', tmp_path / 'images/02')
  os.rename(tmp_path / 'labels/02/00004.png', tmp_path / 'labels/02/00001.png')
  with pytest.raises(UserError, match='labels: the name 00001 comes twice'):
    names(tmp_path)


def test_frames_without_image_and_label_are_left_out_and_half_ones_are_named(tmp_path):
  lay_out(tmp_path, (1, 4, 5))
  save_split(tmp_path, train=[[1], [2], [4], [5]], val=[[6]])
  os.unlink(tmp_path / 'images/00004.png')
  os.unlink(tmp_path / 'labels/00005.png')
  with pytest.raises(BadFiles) as error:
    to_records(tmp_path)
  assert '2 of 3 pairs' in str(error.value)
  assert 'images/00004.png: does not exist' in str(error.value)
  assert 'labels/00005.png: does not exist' in str(error.value)
  assert list(to_records(tmp_path, skip_bad=True)) == ['00001']


def test_the_sixty_frames_of_unequal_size_are_left_out(tmp_path):
  lay_out(tmp_path, (20800, 20801, 20860, 20861))
  save_split(tmp_path, train=[[number] for number in range(20790, 20870)])
  assert names(tmp_path) == ['20800', '20861']


def test_a_pair_of_unequal_size_is_named(tmp_path):
  lay_out(tmp_path, (1, 4))
  save_split(tmp_path)
  originals.write_palette(tmp_path / 'labels/00004.png', RAW[:4])
  with pytest.raises(BadFiles, match='labels/00004.png: is 7x4 pixels, but its image is 7x5'):
    to_records(tmp_path)


def test_an_id_beyond_the_palette_is_named(tmp_path):
  lay_out(tmp_path, (1, 4))
  save_split(tmp_path)
  originals.write_palette(tmp_path / 'labels/00001.png', RAW + 1)
  with pytest.raises(BadFiles, match='00001.png: has label value 35 at row 4, column 6; valid are 0 to 34'):
    to_records(tmp_path)


def test_a_missing_split_says_where_it_belongs(tmp_path):
  lay_out(tmp_path, (1,))
  with pytest.raises(UserError, match=f'put split.mat of read_mapping.zip at {tmp_path}/split.mat'):
    names(tmp_path)


@pytest.mark.parametrize('train, problem', [
    ([[0]], 'not a list of frame numbers; valid are 1 to 24966'),
    ([[24967]], 'not a list of frame numbers'),
    ([[1.5]], 'not a list of frame numbers'),
    ([[np.nan]], 'not a list of frame numbers'),
    ([['a']], 'not a list of frame numbers'),
    (np.zeros((0, 1)), 'not a list of frame numbers'),
    ([[1], [2], [1]], 'the name 1 comes twice'),
])
def test_a_bad_split_is_refused(train, problem, tmp_path):
  lay_out(tmp_path, (1,))
  save_split(tmp_path, train=train)
  with pytest.raises(UserError, match=f'split.mat: trainIds.*{problem}'):
    names(tmp_path)


def test_a_broken_split_is_named(tmp_path):
  lay_out(tmp_path, (1,))
  for content in (b'no mat', b''):
    originals.write(tmp_path / 'split.mat', content)
    with pytest.raises(UserError, match='split.mat is no .mat file with trainIds'):
      names(tmp_path)
  scipy.io.savemat(tmp_path / 'split.mat', {'other': 1})
  with pytest.raises(UserError, match="split.mat is no .mat file with trainIds: KeyError"):
    names(tmp_path)
