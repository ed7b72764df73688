"""Virtual KITTI's two encodings: a list of colors for each video with colors of vehicles, and one color per class."""

import os
import shutil

import numpy as np
import originals
import pytest

from datasets import get_dataset
from datasets.convert import BadFiles, convert
from datasets.readers import vkitti
from utils.errors import UserError

pytestmark = pytest.mark.fast

TERRAIN, SKY, CAR, VAN = (210, 0, 200), (90, 200, 255), 12, 13
ENCODING = 'Category(:id) r g b\nTerrain 210 0 200\nSky 90 200 255\nCar:0 200 200 200\nCar:86 1 2 3\nVan:4 9 9 9\n'
LABEL = np.array([[TERRAIN, SKY, (1, 2, 3)], [(200, 200, 200), (9, 9, 9), TERRAIN]], np.uint8)
IDS = [[0, 1, CAR], [CAR, VAN, 0]]
COLORS2 = 'Category r g b\n' + ''.join(f'{name} {r} {g} {b}\n' for name, (r, g, b) in vkitti.COLORS.items())


def lay_out(folder, video='0001/clone', encoding=ENCODING, label=LABEL, frames=(0,)):
  labels = folder / 'vkitti_1.3.1_scenegt'
  originals.write(labels / f'{video.replace("/", "_")}_scenegt_rgb_encoding.txt', encoding)
  for frame in frames:
    originals.write(folder / f'vkitti_1.3.1_rgb/{video}/{frame:05d}.png', np.full(label.shape, 7, np.uint8))
    originals.write(labels / f'{video}/{frame:05d}.png', label)


def lay_out2(folder, video='Scene01/clone', label=LABEL, parts=('', '', ''), frames=(0,), camera=0):
  rgb, classes, text = (folder / part / video for part in parts)
  for frame in frames:
    originals.write(rgb / f'frames/rgb/Camera_{camera}/rgb_{frame:05d}.jpg', np.full(label.shape, 7, np.uint8))
    originals.write(classes / f'frames/classSegmentation/Camera_{camera}/classgt_{frame:05d}.png', label)
  originals.write(text / 'colors.txt', COLORS2)


PARTS = ('vkitti_2.0.3_rgb', 'vkitti_2.0.3_classSegmentation', 'vkitti_2.0.3_textgt')
LABEL2 = np.array([[TERRAIN, SKY, (0, 0, 0)], [(255, 127, 80), (0, 139, 139), (80, 80, 80)]], np.uint8)
IDS2 = [[0, 1, 255], [CAR, VAN, 10]]


def names(dataset, folder, split='train'):
  return [source.name for source in get_dataset(dataset).sources(str(folder), split)]


def to_records(dataset, folder, split='train'):
  convert(get_dataset(dataset), split, source_dir=str(folder), data_dir=str(folder / 'data'), num_workers=1,
          progress=False)
  return originals.read_back(folder / 'data', split)


def test_official_sizes():
  """2126 frames under each of ten conditions make the 21260 of the publication."""
  assert get_dataset('vkitti').splits == {'train': 18930, 'val': 2330, 'val_clone': 233}
  assert get_dataset('vkitti2').splits == get_dataset('vkitti').splits
  assert sum(vkitti.FRAMES.values()) * len(vkitti.VARIATIONS) == 21260 == 18930 + 2330
  assert get_dataset('vkitti').classes == (
      'Terrain', 'Sky', 'Tree', 'Vegetation', 'Building', 'Road', 'GuardRail', 'TrafficSign', 'TrafficLight', 'Pole',
      'Misc', 'Truck', 'Car', 'Van')


def test_vehicles_have_the_class_of_their_category(tmp_path):
  lay_out(tmp_path)
  (name, (image, label)), = to_records('vkitti', tmp_path).items()
  assert name == '0001_clone_00000' and (image == 7).all() and label.tolist() == IDS


def test_every_video_has_its_own_colors(tmp_path):
  lay_out(tmp_path)
  lay_out(tmp_path, '0018/15-deg-left', ENCODING.replace('Car:86', 'Truck:2'))
  found = to_records('vkitti', tmp_path)
  assert [label[0, 2] for _, label in found.values()] == [CAR, CAR - 1]


@pytest.mark.parametrize('place', ['', 'vkitti'])
def test_worlds_are_split(place, tmp_path):
  for video in ('0001/clone', '0020/rain', '0002/clone', '0002/fog', '0006/holiday'):
    lay_out(tmp_path / place, video)
  assert names('vkitti', tmp_path) == ['0001_clone_00000', '0020_rain_00000']
  assert names('vkitti', tmp_path, 'val') == ['0002_clone_00000', '0002_fog_00000']
  assert names('vkitti', tmp_path, 'val_clone') == ['0002_clone_00000']


def test_what_is_wrong_is_named(tmp_path):
  lay_out(tmp_path, frames=(0, 1, 2, 3))
  labels = tmp_path / 'vkitti_1.3.1_scenegt/0001/clone'
  originals.write(labels / '00000.png', np.where(LABEL == 9, 8, LABEL).astype(np.uint8))
  os.unlink(labels / '00001.png')
  os.unlink(tmp_path / 'vkitti_1.3.1_rgb/0001/clone/00003.png')
  with pytest.raises(BadFiles) as error:
    to_records('vkitti', tmp_path)
  lines = str(error.value).splitlines()
  assert '3 of 4 pairs' in lines[0]
  assert 'scenegt/0001/clone/00000.png: has the color 8,8,8, which stands for no class' in lines[1]
  assert lines[2].endswith('scenegt/0001/clone/00001.png: does not exist')
  assert lines[3].endswith('rgb/0001/clone/00003.png: does not exist')


@pytest.mark.parametrize('encoding, problem', [
    (ENCODING + 'Tram 4 4 4', r'encoding.txt:7: unknown category Tram; known are Terrain, Sky, .*, Undefined'),
    (ENCODING + 'Car:5 4 4', r"encoding.txt:7: expected a category and three numbers, found 'Car:5 4 4'"),
    (ENCODING + 'Car:5 4 4 -4', r'encoding.txt:7: expected a category and three numbers'),
    (ENCODING + 'Car:5 4 4 256', r'encoding.txt:7: the color 4,4,256 has the value 256'),
    (ENCODING + 'Van:5 1 2 3', r'encoding.txt:7: the color .1, 2, 3. stands for another category already'),
    ('Category r g b\n', 'encoding.txt lists no color'),
    ('', 'encoding.txt is empty'),
])
def test_a_bad_list_of_colors_is_refused(encoding, problem, tmp_path):
  lay_out(tmp_path, encoding=encoding)
  with pytest.raises(UserError, match=problem):
    names('vkitti', tmp_path)


def test_missing_parts_are_named(tmp_path):
  lay_out(tmp_path)
  os.unlink(tmp_path / 'vkitti_1.3.1_scenegt/0001_clone_scenegt_rgb_encoding.txt')
  with pytest.raises(UserError, match='cannot read the list .*0001_clone_scenegt_rgb_encoding.txt'):
    names('vkitti', tmp_path)
  lay_out(tmp_path, '0006/fog')
  shutil.rmtree(tmp_path / 'vkitti_1.3.1_scenegt/0001')
  shutil.rmtree(tmp_path / 'vkitti_1.3.1_rgb')
  with pytest.raises(UserError, match='cannot list .*vkitti_1.3.1_rgb/0006/fog'):
    names('vkitti', tmp_path)


@pytest.mark.parametrize('parts', [('', '', ''), PARTS])
@pytest.mark.parametrize('place', ['', 'vkitti2'])
def test_vkitti2_has_a_color_a_class(parts, place, tmp_path):
  lay_out2(tmp_path / place, label=LABEL2, parts=parts)
  lay_out2(tmp_path / place, label=LABEL2, parts=parts, camera=1)
  lay_out2(tmp_path / place, 'Scene02/sunset', label=LABEL2, parts=parts, frames=(5, 0))
  (name, (image, label)), = to_records('vkitti2', tmp_path).items()
  assert name == '0001_clone_00000' and (abs(image.astype(int) - 7) < 3).all() and label.tolist() == IDS2
  assert names('vkitti2', tmp_path, 'val') == ['0002_sunset_00000', '0002_sunset_00005']
  assert names('vkitti2', tmp_path, 'val_clone') == []


def test_vkitti2_names_what_is_wrong(tmp_path):
  lay_out2(tmp_path, label=LABEL, frames=(0, 1))
  os.unlink(tmp_path / 'Scene01/clone/frames/rgb/Camera_0/rgb_00001.jpg')
  with pytest.raises(BadFiles) as error:
    to_records('vkitti2', tmp_path)
  assert 'classgt_00000.png: has the color 1,2,3, which stands for no class' in str(error.value)
  assert 'rgb_00001.jpg: does not exist' in str(error.value)
  originals.write(tmp_path / 'Scene01/clone/colors.txt', COLORS2.replace('Car 255 127 80', 'Car 80 127 255'))
  with pytest.raises(UserError, match='colors.txt: the color .80, 127, 255. stands for another category than'):
    names('vkitti2', tmp_path)
