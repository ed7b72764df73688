"""Labels in colors: the right id for every pixel, and exact messages about mistakes."""

import functools
import pickle

import numpy as np
import pytest
from PIL import Image

from datasets.images import BadFile
from datasets.readers.color_labels import read_color_label, read_label_colors
from utils.errors import UserError

pytestmark = pytest.mark.fast

COLORS = (((128, 64, 0), 7), ((0, 0, 255), 0), ((0, 64, 128), 255), ((255, 255, 255), 7), ((0, 0, 0), 3))
RGB = np.array([[[128, 64, 0], [0, 0, 255], [0, 64, 128]], [[0, 0, 0], [255, 255, 255], [0, 0, 255]]], np.uint8)
IDS = [[7, 0, 255], [3, 7, 0]]


def save(path, pixels, mode='RGB', **options):
  Image.fromarray(np.asarray(pixels, np.uint8)).convert(mode).save(path, **options)
  return str(path)


@pytest.mark.parametrize('mode', ['RGB', 'RGBA', 'P'])
def test_ids_of_a_picture_by_hand(mode, tmp_path):
  path = tmp_path / 'a.png'
  picture = Image.fromarray(RGB)
  (picture.quantize(6) if mode == 'P' else picture.convert(mode)).save(path)
  ids = read_color_label(str(path), COLORS)
  assert ids.dtype == np.uint8 and ids.tolist() == IDS
  reader = pickle.loads(pickle.dumps(functools.partial(read_color_label, colors=COLORS)))  # as other processes get it
  assert reader(str(path)).tolist() == IDS


def test_every_color_of_many_is_told_apart(tmp_path):
  """Colors that differ in one channel by one, and a picture that holds each of them once."""
  rgb = np.stack(np.meshgrid([0, 1, 254, 255], [0, 1, 127, 255], [0, 1, 128, 255], indexing='ij'), -1).reshape(-1, 3)
  colors = tuple((tuple(color), number) for number, color in enumerate(rgb.tolist()))
  order = np.random.default_rng(0).permutation(len(rgb))
  path = save(tmp_path / 'a.png', rgb[order].reshape(4, 16, 3))
  np.testing.assert_array_equal(read_color_label(path, colors), order.reshape(4, 16))


def test_an_unknown_color_is_named(tmp_path):
  rgb = np.tile(np.array([0, 0, 255], np.uint8), (5, 7, 1))
  rgb[2, 3] = rgb[4, 0] = [90, 200, 90]
  rgb[3, 6] = [10, 200, 90]
  with pytest.raises(BadFile) as caught:
    read_color_label(save(tmp_path / 'a.png', rgb), COLORS)
  assert caught.value.path == str(tmp_path / 'a.png')
  assert caught.value.reason == ('has the color 90,200,90, which stands for no class, in 2 pixels, the first at row 2, '
                                 'column 3 (1 more color unknown; 3 pixels in all)')


def test_a_blurred_color_gets_a_hint(tmp_path):
  rgb = RGB.copy()
  rgb[1, 2] = [120, 70, 9]
  with pytest.raises(BadFile, match='the color 120,70,9, .* in 1 pixel, the first at row 1, column 2; '
                                    'the nearest known color is 128,64,0: has the label been a JPEG'):
    read_color_label(save(tmp_path / 'a.png', rgb), COLORS)


def test_files_that_cannot_be_labels(tmp_path):
  with pytest.raises(BadFile, match='a.jpg: is a JPEG with loss; labels must be stored without loss'):
    read_color_label(save(tmp_path / 'a.jpg', RGB), COLORS)
  with pytest.raises(BadFile, match='none.png: does not exist'):
    read_color_label(str(tmp_path / 'none.png'), COLORS)
  (tmp_path / 'text.png').write_text('text')
  with pytest.raises(BadFile, match='text.png: is none of'):
    read_color_label(str(tmp_path / 'text.png'), COLORS)


def test_colors_in_camvids_form(tmp_path):
  path = tmp_path / 'label_colors.txt'
  path.write_bytes(b'\xef\xbb\xbf64 128 64\tAnimal\r\n\r\n192   0 128\t\tTraffic light \r\n0 0 0 Void')
  assert read_label_colors(str(path)) == [
      ('Animal', (64, 128, 64)), ('Traffic light', (192, 0, 128)), ('Void', (0, 0, 0))]


@pytest.mark.parametrize('line, problem', [
    ('Road 1 2 3', 'expected three numbers and a name, as in "128 64 128 Road", found \'Road 1 2 3\''),
    ('1 2 3', 'expected three numbers and a name'), ('1 2 Road', 'expected three numbers and a name'),
    ('1 -2 3 Road', 'expected three numbers and a name'),
    ('1 256 3 Road', 'the color 1,256,3 has the value 256; valid are 0 to 255'),
    ('64 128 64 Road', 'the color 64,128,64 stands in .*:1 already'),
    ('1 2 3 Animal', 'the name Animal stands in .*:1 already')])
def test_a_wrong_line_is_named(line, problem, tmp_path):
  path = tmp_path / 'label_colors.txt'
  path.write_text(f'64 128 64\tAnimal\n\n{line}\n')
  with pytest.raises(UserError, match=f'label_colors.txt:3: {problem}'):
    read_label_colors(str(path))
