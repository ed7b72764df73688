"""CamVid's colors and all of its classes; its splits by the frames' names; CamSeq01."""

import numpy as np
import originals
import pytest

from datasets import get_dataset, label_pictures
from datasets.convert import BadFiles, convert
from datasets.readers import camvid32
from utils.errors import UserError

pytestmark = pytest.mark.fast

ANIMAL, ARCHWAY, WALL, VOID = (64, 128, 64), (192, 0, 128), (64, 192, 0), (0, 0, 0)
LABEL = np.array([[ANIMAL, ARCHWAY, WALL], [VOID, WALL, WALL]], np.uint8)
IDS = [[0, 1, 30], [255, 30, 30]]
LABEL_COLORS = ''.join(f'{r} {g} {b}\t\t{name}\n' for name, (r, g, b) in camvid32.COLORS.items())


def lay_out(folder, names, label=LABEL):
  for number, name in enumerate(names):
    image = np.full((*label.shape[:2], 3), number + 1, np.uint8)
    originals.write(folder / f'701_StillsRaw_full/{name}.png', image)
    originals.write(folder / f'LabeledApproved_full/{name}_L.png', label)


def names_of(dataset, folder, split):
  return [source.name for source in get_dataset(dataset).sources(str(folder), split)]


def to_records(dataset, folder, split):
  convert(get_dataset(dataset), split, source_dir=str(folder), data_dir=str(folder / 'data'), num_workers=1,
          progress=False)
  return originals.read_back(folder / 'data', split)


def test_colors_become_ids(tmp_path):
  lay_out(tmp_path, ['0006R0_f00930', 'Seq05VD_f00000'])
  originals.write(tmp_path / 'LabeledApproved_full/label_colors.txt', LABEL_COLORS)
  (name, (image, label)), = to_records('camvid32', tmp_path, 'train').items()
  assert name == '0006R0_f00930' and (image == 1).all()
  assert label.tolist() == IDS
  (name, (image, label)), = to_records('camvid32', tmp_path, 'test').items()
  assert name == 'Seq05VD_f00000' and (image == 2).all() and label.tolist() == IDS


def test_every_class_has_its_color():
  dataset = get_dataset('camvid32')
  assert dataset.num_classes == 31 and 'Void' not in dataset.classes
  assert list(camvid32.COLORS) == sorted(camvid32.COLORS, key=str.lower) and len(camvid32.COLORS) == 32
  for name, color in (('Bicyclist', (0, 128, 192)), ('Sky', (128, 128, 128)), ('Wall', WALL), ('Animal', ANIMAL)):
    assert tuple(dataset.palette[dataset.classes.index(name)].tolist()) == color


def test_splits_are_those_of_the_tutorial(shared):
  """All names of its train and val; and the rest of the 701, whose numbers follow in steps of 30, is its test."""
  for split in ('train', 'val'):
    with open(shared / f'data/camvid/{split}.txt', encoding='utf-8') as file:
      names = [line.split()[0].rpartition('/')[2].partition('.')[0] for line in file]
    assert len(names) == get_dataset('camvid32').splits[split]
    assert {camvid32._camvid_split(name) for name in names} == {split}
  test = [f'0001TP_{number:06d}' for number in range(8550, 10381, 30)]
  test += [f'Seq05VD_f{number:05d}' for number in range(0, 5101, 30)]
  assert len(test) == get_dataset('camvid32').splits['test']
  assert {camvid32._camvid_split(name) for name in test} == {'test'}


@pytest.mark.parametrize('place', ['', 'CamVid'])
def test_camvid32_is_split_by_name(place, tmp_path):
  lay_out(tmp_path / place, ['0001TP_008520', '0001TP_008550', '0016E5_07959', '0016E5_08159', '0016E5_07920'])
  assert names_of('camvid32', tmp_path, 'train') == ['0001TP_008520', '0016E5_07920']
  assert names_of('camvid32', tmp_path, 'val') == ['0016E5_07959', '0016E5_08159']
  assert names_of('camvid32', tmp_path, 'test') == ['0001TP_008550']


@pytest.mark.parametrize('place', ['', 'CamSeq01', 'CamSeq01/CamSeq01'])
def test_camseq01_is_one_folder(place, tmp_path):
  folder = tmp_path / place
  for number in range(7959, 8160, 2):
    originals.write(folder / f'0016E5_{number:05d}.png', b'not looked at')
    originals.write(folder / f'0016E5_{number:05d}_L.png', b'not looked at')
  originals.write(folder / 'README.txt', 'not a picture')
  originals.write(folder / 'label_colors.txt', LABEL_COLORS)
  train, val = (names_of('camseq01', tmp_path, split) for split in ('train', 'val'))
  assert (len(train), len(val)) == tuple(get_dataset('camseq01').splits.values())
  assert train + val == [f'0016E5_{number:05d}' for number in range(7959, 8160, 2)]
  source = get_dataset('camseq01').sources(str(tmp_path), 'val')[0]
  assert (source.image, source.label) == (f'{folder}/0016E5_08121.png', f'{folder}/0016E5_08121_L.png')


def test_camseq01_becomes_records(tmp_path):
  originals.write(tmp_path / '0016E5_07959.png', np.full((2, 3, 3), 9, np.uint8))
  originals.write(tmp_path / '0016E5_07959_L.png', LABEL)
  (name, (image, label)), = to_records('camseq01', tmp_path, 'train').items()
  assert name == '0016E5_07959' and (image == 9).all() and label.tolist() == IDS


def test_what_is_wrong_is_named(tmp_path):
  lay_out(tmp_path, ['0006R0_f00930', '0006R0_f00960', '0006R0_f00990', '0006R0_f01020'])
  wrong = LABEL.copy()
  wrong[1, 2] = 1, 2, 3
  originals.write(tmp_path / 'LabeledApproved_full/0006R0_f00930_L.png', wrong)
  (tmp_path / 'LabeledApproved_full/0006R0_f00960_L.png').unlink()
  (tmp_path / '701_StillsRaw_full/0006R0_f00990.png').unlink()
  with pytest.raises(BadFiles) as error:
    to_records('camvid32', tmp_path, 'train')
  lines = str(error.value).splitlines()
  assert '3 of 4 pairs cannot be used' in lines[0] and len(lines) == 4
  assert '0006R0_f00930_L.png: has the color 1,2,3, which stands for no class' in lines[1] and 'row 1' in lines[1]
  assert lines[2].endswith('LabeledApproved_full/0006R0_f00960_L.png: does not exist')
  assert lines[3].endswith('701_StillsRaw_full/0006R0_f00990.png: does not exist')


def test_a_frame_of_no_sequence_is_refused(tmp_path):
  lay_out(tmp_path, ['0006R0_f00930', 'holiday'])
  with pytest.raises(UserError, match='701_StillsRaw_full/holiday.png: no frame of the dataset is called holiday'):
    names_of('camvid32', tmp_path, 'train')


def test_missing_labels_are_no_empty_dataset(tmp_path):
  originals.write(tmp_path / '701_StillsRaw_full/0006R0_f00930.png', LABEL)
  with pytest.raises(UserError, match='cannot list .*LabeledApproved_full'):
    names_of('camvid32', tmp_path, 'train')


@pytest.mark.parametrize('change, problem', [
    (('64 128 64', '64 128 65'), 'the color of Animal is .64, 128, 65., where the published list has .64, 128, 64.'),
    (('64 192 0\t\tWall\n', ''), 'the color of Wall is None'),
    (('Wall', 'Wall\n1 1 1 Fountain'), 'the color of Fountain is .1, 1, 1., where the published list has None'),
])
def test_another_list_of_colors_is_refused(change, problem, tmp_path):
  lay_out(tmp_path, ['0006R0_f00930'])
  originals.write(tmp_path / 'label_colors.txt', LABEL_COLORS.replace(*change))
  with pytest.raises(UserError, match=f'label_colors.txt: {problem}'):
    names_of('camvid32', tmp_path, 'train')


def test_colors_are_read_from_a_palette_as_well(tmp_path):
  originals.write_palette(tmp_path / 'a_L.png', np.array([[1, 0]], np.uint8), np.array([VOID, WALL], np.uint8))
  dataset = get_dataset('camvid32')
  raw = dataset.read_label(str(tmp_path / 'a_L.png'))
  assert label_pictures.to_ids(raw, dataset.label_map, 'a').tolist() == [[30, 255]]
