"""datasets.label_pictures: ids are read without change, and translated; whatever is no label is named."""

import struct
import zlib

import numpy as np
import pytest
from pictures import save
from PIL import Image

from datasets import images, label_pictures
from datasets.dataset import label_map
from utils.labels import IGNORE_LABEL

pytestmark = pytest.mark.fast

LABELS = label_map({0: 0, 1: 1, 2: 2, 255: 255})


def test_labels_are_palette_indices_or_gray_values(tmp_path):
  ids = np.array([[0, 1, 2], [255, 3, 0]], np.uint8)
  np.testing.assert_array_equal(label_pictures.read_label(save(tmp_path / 'gray.png', ids)), ids)
  palette = Image.frombytes('P', (3, 2), ids.tobytes())
  palette.putpalette([255, 255, 255, 0, 0, 0] + [7, 7, 7] * 254)  # colors that say nothing about the ids
  palette.save(tmp_path / 'palette.png')
  np.testing.assert_array_equal(label_pictures.read_label(str(tmp_path / 'palette.png')), ids)
  wide = save(tmp_path / 'wide.png', ids.astype(np.uint16))
  np.testing.assert_array_equal(label_pictures.read_label(wide), ids)
  for mode in ('RGB', 'RGBA', 'LA'):  # as OpenCV and painting programs save gray
    np.testing.assert_array_equal(label_pictures.read_label(save(tmp_path / f'{mode}.png', ids, mode=mode)), ids)
  binary = save(tmp_path / 'binary.png', ids[:1, :2] > 0)
  np.testing.assert_array_equal(label_pictures.read_label(binary), [[0, 1]])


@pytest.mark.parametrize('bits, row, expected', [(2, 0b00011011, [0, 1, 2, 3]), (4, 0b00101111, [2, 15])])
def test_labels_of_few_bits_are_not_stretched(bits, row, expected, tmp_path):
  def chunk(kind, data):
    return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))

  header = struct.pack('>IIBBBBB', len(expected), 1, bits, 0, 0, 0, 0)
  (tmp_path / 'x.png').write_bytes(b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header)
                                   + chunk(b'IDAT', zlib.compress(bytes([0, row]))) + chunk(b'IEND', b''))
  np.testing.assert_array_equal(label_pictures.read_label(str(tmp_path / 'x.png')), [expected])


@pytest.mark.parametrize('name, pixels, reason', [
    ('x.jpg', np.zeros((4, 5), np.uint8), 'is a JPEG with loss; labels must be stored without loss'),
    ('x.png', np.full((4, 5, 3), (7, 7, 8), np.uint8), 'has the color 7,7,8 at row 0, column 0; a label'),
    ('x.png', np.full((4, 5, 4), (7, 7, 7, 254), np.uint8), 'has alpha 254 at row 0, column 0'),
    ('x.webp', np.arange(60, dtype=np.uint8).reshape(4, 5, 3), 'is a WEBP with loss'),
    ('x.png', np.full((4, 5), 300, np.uint16), 'has label values from 300 to 300'),
])
def test_a_picture_that_is_no_label_is_named(name, pixels, reason, tmp_path):
  path = save(tmp_path / name, pixels)
  with pytest.raises(images.BadFile, match=reason):
    label_pictures.read_label(path)


def test_ids_out_of_range_are_named_with_place_and_valid_values():
  raw = np.array([[0, 1, 2], [255, 7, 9]], np.uint8)
  with pytest.raises(images.BadFile) as error:
    label_pictures.to_ids(raw, LABELS, 'some.png')
  assert str(error.value) == ('some.png: has label value 7 at row 1, column 1; valid are 0 to 2, 255 '
                              '(1 more values are out of range too)')
  np.testing.assert_array_equal(label_pictures.to_ids(raw[:1], LABELS, ''), raw[:1])


def test_valid_values_are_described_as_ranges():
  assert label_pictures.describe_valid(label_map({0: 255, 1: 0, 2: 1, 3: 2})) == '0 to 3'
  assert label_pictures.describe_valid(label_map({0: 0, 4: 1, 7: 2, 8: 3})) == '0, 4, 7 to 8'


def test_ignored_pixels_have_the_one_ignore_label():
  raw = np.array([[0, 3], [1, 0]], np.uint8)
  mit = label_map({0: IGNORE_LABEL, 1: 0, 2: 1, 3: 2})
  np.testing.assert_array_equal(label_pictures.to_ids(raw, mit, ''), [[255, 2], [0, 255]])
