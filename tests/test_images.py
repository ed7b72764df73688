"""datasets.images: pictures have the pixels that a viewer shows, and TensorFlow decodes the same from the records."""

import numpy as np
import pytest
from PIL import Image

from datasets import images, records
from datasets.dataset import Source, label_map
from utils.compat import tf
from utils.labels import IGNORE_LABEL

pytestmark = pytest.mark.fast

ORIENTATION = 0x0112
LABELS = label_map({0: 0, 1: 1, 2: 2, 255: 255})


def _photo(height, width, seed=0):
  """A smooth picture without symmetry: uint8 [H, W, 3]."""
  rng = np.random.default_rng(seed)
  y, x = np.mgrid[:height, :width]
  planes = [128 + 100 * np.sin(x / rng.uniform(3, 9) + y / rng.uniform(3, 9)) for _ in range(3)]
  return np.stack(planes, axis=-1).astype(np.uint8)


def _save(path, pixels, mode=None, **options):
  image = Image.fromarray(pixels)
  (image.convert(mode) if mode else image).save(path, **options)
  return str(path)


def _save_turned(path, pixels, orientation):
  exif = Image.Exif()
  exif[ORIENTATION] = orientation
  return _save(path, pixels, exif=exif)


def _as_stored(path, size=None):
  """Decodes a picture's stored bytes with the graph of `records.parse`."""
  picture = images.encode_image(path, size)
  label = images.encode_png(np.zeros((picture.height, picture.width), np.uint8))
  pair = images.Pair('x', picture, label, np.zeros(256, np.int64))
  with tf.Graph().as_default(), tf.Session() as session:
    pixels = session.run(records.parse(tf.constant(records.serialize(pair))))['image']
  assert pixels.shape == (picture.height, picture.width, 3)
  return picture, pixels


def _make(kind, folder):
  """Writes a picture of 21x34 pixels. Returns its path and the RGB pixels that went in."""
  image = Image.fromarray(_photo(21, 34))
  extension, mode, options = KINDS[kind]
  if mode == 'P':
    image = image.quantize(16)
  elif mode:
    image = image.convert(mode)
  path = folder / f'x.{extension}'
  image.save(path, **options)
  return str(path), np.asarray(image.convert('RGB'))


MORE = [Image.fromarray(_photo(21, 34, seed=1))]
KEPT = {  # kind -> file extension, Pillow's mode, options for saving
    'jpeg': ('jpg', None, {'quality': 95}),
    'progressive jpeg': ('jpg', None, {'progressive': True, 'quality': 95}),
    'gray jpeg': ('jpg', 'L', {'quality': 95}),
    'several jpegs in one file': ('mpo', None, {'save_all': True, 'append_images': MORE, 'quality': 95}),
    'png': ('png', None, {}),
    'gray png': ('png', 'L', {}),
}
REENCODED = {
    'cmyk jpeg': ('jpg', 'CMYK', {'quality': 95}),
    'palette png': ('png', 'P', {}),
    '4-bit palette png': ('png', 'P', {'bits': 4}),
    '1-bit png': ('png', '1', {}),
    'rgba png': ('png', 'RGBA', {}),
    'gray and alpha png': ('png', 'LA', {}),
    'png with a transparent color': ('png', None, {'transparency': (1, 2, 3)}),
    'animated png': ('png', None, {'save_all': True, 'append_images': MORE}),
    'bmp': ('bmp', None, {}),
    'gif': ('gif', 'P', {}),
    'tiff': ('tif', None, {}),
    'webp': ('webp', None, {'lossless': True}),
}
KINDS = {**KEPT, **REENCODED}


@pytest.mark.parametrize('kind', KINDS)
def test_every_kind_of_picture_keeps_its_pixels(kind, tmp_path):
  path, expected = _make(kind, tmp_path)
  picture, pixels = _as_stored(path)
  np.testing.assert_array_equal(pixels, images.read_rgb(path))
  assert np.abs(pixels.astype(int) - expected).max() <= (40 if 'jpeg' in kind else 0)
  with open(path, 'rb') as file:
    assert (picture.encoded == file.read()) == (kind in KEPT)
  assert picture.format == ('jpeg' if kind in KEPT and 'jpeg' in kind else 'png')


def test_pixels_of_a_real_jpeg_are_the_same_everywhere(shared):
  path = str(next((shared / 'data/mit_scene_parsing/ADEChallengeData2016/images/validation').glob('*.jpg')))
  _, pixels = _as_stored(path)
  np.testing.assert_array_equal(pixels, np.asarray(Image.open(path)))


def test_16_bits_are_scaled_not_cut(tmp_path):
  wide = np.array([[0, 128, 129, 32896, 65535]], np.uint16)
  _, pixels = _as_stored(_save(tmp_path / 'x.png', wide))
  np.testing.assert_array_equal(pixels, np.repeat([[[0], [0], [1], [128], [255]]], 3, axis=2))


def test_transparent_pixels_lie_on_white(tmp_path):
  path = _save(tmp_path / 'x.png', np.array([[[9, 8, 7, 255], [0, 0, 0, 128], [255, 0, 0, 0]]], np.uint8))
  _, pixels = _as_stored(path)
  np.testing.assert_array_equal(pixels, [[[9, 8, 7], [127, 127, 127], [255, 255, 255]]])


def test_cmyk_becomes_the_colors_it_prints(tmp_path):
  path = tmp_path / 'x.jpg'
  Image.new('CMYK', (16, 8), (0, 255, 255, 0)).save(path)
  _, pixels = _as_stored(str(path))
  assert np.abs(pixels.astype(int) - [255, 0, 0]).max() < 4


# A viewer's turn of the stored pixels (Exif 2.3, table of Orientation: where row 0 and column 0 of the storage lie).
UPRIGHT = {1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1],
           5: lambda a: a.swapaxes(0, 1), 6: lambda a: np.rot90(a, -1), 7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
           8: lambda a: np.rot90(a)}


@pytest.mark.parametrize('orientation', UPRIGHT)
@pytest.mark.parametrize('extension', ['png', 'tif'])
def test_exif_orientation_is_applied(orientation, extension, tmp_path):
  photo = _photo(13, 22)
  path = _save_turned(tmp_path / f'x.{extension}', photo, orientation)
  picture, pixels = _as_stored(path)
  np.testing.assert_array_equal(pixels, UPRIGHT[orientation](photo))
  np.testing.assert_array_equal(images.read_rgb(path), pixels)


def test_an_image_stays_as_stored_where_only_that_fits_its_label(tmp_path):
  path = _save_turned(tmp_path / 'x.jpg', _photo(13, 22), 6)
  picture, _ = _as_stored(path, size=(13, 22))
  assert (picture.height, picture.width, picture.format) == (13, 22, 'jpeg')
  picture, _ = _as_stored(path, size=(22, 13))
  assert (picture.height, picture.width, picture.format) == (22, 13, 'png')
  square = _save_turned(tmp_path / 'square.png', _photo(9, 9), 6)
  np.testing.assert_array_equal(_as_stored(square, size=(9, 9))[1], np.rot90(_photo(9, 9), -1))


@pytest.mark.parametrize('name, data, reason', [
    ('none.jpg', None, 'does not exist'),
    ('empty.jpg', b'', 'is empty (0 bytes)'),
    ('text.png', b'not a picture', 'is none of JPEG, PNG'),
    ('program.eps', b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n', 'is none of JPEG, PNG'),
])
def test_a_file_that_is_no_picture_is_named(name, data, reason, tmp_path):
  path = str(tmp_path / name)
  if data is not None:
    (tmp_path / name).write_bytes(data)
  for read in (images.read_rgb, images.encode_image, images.read_label):
    with pytest.raises(images.BadFile) as error:
      read(path)
    assert str(error.value).startswith(f'{path}: {reason}')


@pytest.mark.parametrize('kind', ['jpeg', 'png', '4-bit palette png', 'webp'])
@pytest.mark.parametrize('missing', [1, 6, 20, 300])
def test_a_truncated_picture_is_bad(kind, missing, tmp_path):
  path, _ = _make(kind, tmp_path)
  with open(path, 'rb') as file:
    data = file.read()
  with open(path, 'wb') as file:
    file.write(data[:-missing])
  with pytest.raises(images.BadFile, match='cannot be decoded'):
    images.read_rgb(path)


@pytest.mark.parametrize('kind', ['jpeg', 'png'])
def test_kept_files_can_be_decoded_by_tensorflow(kind, tmp_path):
  """With one bit flipped anywhere: the two libraries agree on which file is broken."""
  path, _ = _make(kind, tmp_path)
  with open(path, 'rb') as file:
    data = file.read()
  verdicts = set()
  with tf.Graph().as_default(), tf.Session() as session:
    encoded = tf.placeholder(tf.string, [])
    decoded = tf.io.decode_jpeg(encoded, channels=3, dct_method='INTEGER_ACCURATE')
    for place in range(2, len(data), 37):
      flipped = data[:place] + bytes([data[place] ^ 16]) + data[place + 1:]
      with open(path, 'wb') as file:
        file.write(flipped)
      try:
        picture = images.encode_image(path)
      except images.BadFile:
        verdicts.add('bad')
        continue
      verdicts.add('good')
      np.testing.assert_array_equal(session.run(decoded, {encoded: picture.encoded}), images.read_rgb(path))
  assert verdicts == ({'bad'} if kind == 'png' else {'bad', 'good'})


def test_floating_point_pixels_are_refused(tmp_path):
  path = _save(tmp_path / 'x.tif', np.ones((2, 3), np.float32))
  with pytest.raises(images.BadFile, match='floating-point'):
    images.read_rgb(path)


def test_labels_are_palette_indices_or_gray_values(tmp_path):
  ids = np.array([[0, 1, 2], [255, 3, 0]], np.uint8)
  np.testing.assert_array_equal(images.read_label(_save(tmp_path / 'gray.png', ids)), ids)
  palette = Image.frombytes('P', (3, 2), ids.tobytes())
  palette.putpalette([255, 255, 255, 0, 0, 0] + [7, 7, 7] * 254)  # colors that say nothing about the ids
  palette.save(tmp_path / 'palette.png')
  np.testing.assert_array_equal(images.read_label(str(tmp_path / 'palette.png')), ids)
  wide = _save(tmp_path / 'wide.png', ids.astype(np.uint16))
  np.testing.assert_array_equal(images.read_label(wide), ids)
  binary = _save(tmp_path / 'binary.png', ids[:1, :2] > 0)
  np.testing.assert_array_equal(images.read_label(binary), [[0, 1]])


@pytest.mark.parametrize('bits, row, expected', [(2, 0b00011011, [0, 1, 2, 3]), (4, 0b00101111, [2, 15])])
def test_labels_of_few_bits_are_not_stretched(bits, row, expected, tmp_path):
  import struct
  import zlib

  def chunk(kind, data):
    return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))

  header = struct.pack('>IIBBBBB', len(expected), 1, bits, 0, 0, 0, 0)
  (tmp_path / 'x.png').write_bytes(b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header)
                                   + chunk(b'IDAT', zlib.compress(bytes([0, row]))) + chunk(b'IEND', b''))
  np.testing.assert_array_equal(images.read_label(str(tmp_path / 'x.png')), [expected])


@pytest.mark.parametrize('name, pixels, reason', [
    ('x.jpg', np.zeros((4, 5), np.uint8), 'is a JPEG; labels must be stored without loss'),
    ('x.png', np.zeros((4, 5, 3), np.uint8), 'has pixels of mode RGB'),
    ('x.png', np.full((4, 5), 300, np.uint16), 'has label values from 300 to 300'),
])
def test_a_picture_that_is_no_label_is_named(name, pixels, reason, tmp_path):
  path = _save(tmp_path / name, pixels)
  with pytest.raises(images.BadFile, match=reason):
    images.read_label(path)


def test_ids_out_of_range_are_named_with_place_and_valid_values():
  raw = np.array([[0, 1, 2], [255, 7, 9]], np.uint8)
  with pytest.raises(images.BadFile) as error:
    images.to_ids(raw, LABELS, 'some.png')
  assert str(error.value) == ('some.png: has label value 7 at row 1, column 1; valid are 0 to 2, 255 '
                              '(1 more values are out of range too)')
  np.testing.assert_array_equal(images.to_ids(raw[:1], LABELS, ''), raw[:1])


def test_valid_values_are_described_as_ranges():
  assert images.describe_valid(label_map({0: 255, 1: 0, 2: 1, 3: 2})) == '0 to 3'
  assert images.describe_valid(label_map({0: 0, 4: 1, 7: 2, 8: 3})) == '0, 4, 7 to 8'


def test_a_pair_has_its_counts_and_a_lossless_label(tmp_path):
  image = _save(tmp_path / 'image.jpg', _photo(5, 8))
  raw = np.full((5, 8), 1, np.uint8)
  raw[0, :3], raw[4] = 2, 255
  pair = images.encode_pair(Source('a', image, _save(tmp_path / 'label.png', raw)), LABELS)
  assert (pair.name, pair.picture.height, pair.picture.width) == ('a', 5, 8)
  assert pair.counts[[0, 1, 2, 255]].tolist() == [0, 29, 3, 8] and pair.counts.sum() == 40
  with tf.Graph().as_default(), tf.Session() as session:
    np.testing.assert_array_equal(session.run(tf.io.decode_png(pair.label))[..., 0], raw)


def test_a_pair_of_one_pixel_and_one_of_arrays(tmp_path):
  image = _save(tmp_path / 'image.png', _photo(1, 1))
  pair = images.encode_pair(Source('a', image, np.array([[2]], np.uint8)), LABELS)
  assert (pair.picture.height, pair.picture.width, pair.counts[2]) == (1, 1, 1)
  pair = images.encode_pair(Source('a', _photo(3, 4), np.zeros((3, 4), np.uint8)), LABELS)
  assert (pair.picture.height, pair.picture.width, pair.counts[0]) == (3, 4, 12)


def test_a_pair_of_two_sizes_is_bad(tmp_path):
  image = _save(tmp_path / 'image.png', _photo(5, 8))
  label = _save(tmp_path / 'label.png', np.zeros((8, 5), np.uint8))
  bad, = images.encode_pair(Source('a', image, label), LABELS)
  assert str(bad) == f'{label}: is 5x8 pixels, but its image is 8x5'


def test_everything_bad_about_a_pair_is_named(tmp_path):
  image = str(tmp_path / 'image.png')
  label = _save(tmp_path / 'label.png', np.full((8, 5), 9, np.uint8))
  bad = images.encode_pair(Source('a', image, label), LABELS)
  assert [error.path for error in bad] == [label, image]
  _save(tmp_path / 'image.png', _photo(5, 8))
  bad = images.encode_pair(Source('a', image, label), LABELS)
  assert [error.reason[:20] for error in bad] == ['has label value 9 at', 'is 5x8 pixels, but i']


def test_ignored_pixels_have_the_one_ignore_label():
  raw = np.array([[0, 3], [1, 0]], np.uint8)
  mit = label_map({0: IGNORE_LABEL, 1: 0, 2: 1, 3: 2})
  np.testing.assert_array_equal(images.to_ids(raw, mit, ''), [[255, 2], [0, 255]])
