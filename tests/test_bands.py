"""Reading pictures of many bands: TIFF in all its layouts, PNG of 16 bits, a file for each band; what is refused."""

import numpy as np
import pytest
import tifffile
from PIL import Image

from datasets import bands
from datasets.dataset import BadFile
from datasets.reading import Reading, colors_of
from utils.errors import UserError

pytestmark = pytest.mark.fast

SIX = Reading(bands=('a', 'b', 'c', 'd', 'e', 'f'), dtype='uint16')


def noise(*shape, dtype=np.uint16, most=60000):
  return np.random.default_rng(sum(shape)).integers(0, most, shape).astype(dtype)


def write(path, array, *, pages=False, planar=False, **options):
  """Writes [H, W, N] as a TIFF whose bands are samples (side by side or plane after plane) or pages."""
  if array.shape[-1] == 1:
    array = array[..., 0]
  elif pages or planar:
    array = np.moveaxis(array, -1, 0)
  if not pages and array.ndim > 2:
    options['planarconfig'] = 'separate' if planar else 'contig'
  tifffile.imwrite(path, array, **{'photometric': 'minisblack', 'metadata': None, **options})
  return str(path)


@pytest.mark.parametrize('options', [
    {}, {'planar': True}, {'pages': True}, {'pages': True, 'metadata': {}}, {'pages': True, 'truncate': True,
                                                                              'metadata': {}},
    {'compression': 'lzw', 'predictor': True}, {'compression': 'deflate', 'tile': (16, 32)},
    {'compression': 'zstd', 'planar': True, 'tile': (32, 16)}, {'bigtiff': True}, {'byteorder': '>'},
    {'rowsperstrip': 5, 'compression': 'packbits'}])
@pytest.mark.parametrize('dtype', ['uint8', 'uint16', 'float32'])
def test_every_layout_gives_the_same_values(tmp_path, options, dtype):
  if dtype == 'float32' and 'predictor' in options:
    options = {**options, 'predictor': 3}
  image = noise(37, 53, 6, dtype=dtype, most=250)
  array, info = bands.read(write(tmp_path / 'x.tif', image, **options))
  np.testing.assert_array_equal(array, image)
  assert array.dtype == dtype and info.names is None and not info.last_is_alpha


@pytest.mark.parametrize('count', [1, 2, 3, 13])
def test_any_number_of_bands(tmp_path, count):
  image = noise(5, 9, count)
  for options in ({}, {'pages': True}):
    np.testing.assert_array_equal(bands.read(write(tmp_path / 'x.tif', image, **options))[0], image)


@pytest.mark.parametrize('dtype, values', [('int16', [-5, 0, 300]), ('int32', [-2**24, 7, 2**24]),
                                           ('uint32', [0, 1, 2**24]), ('float64', [-1.5, 0.1, 3e38]),
                                           ('int8', [-128, 0, 5]), ('float16', [0.5, 2, 4])])
def test_other_types_become_float32(tmp_path, dtype, values):
  array, _ = bands.read(write(tmp_path / 'x.tif', np.array([values], dtype)[..., None]))
  assert array.dtype == np.float32
  np.testing.assert_allclose(array[0, :, 0], np.array(values, np.float32), rtol=1e-7)


@pytest.mark.parametrize('dtype, value, part', [('int32', 2**24 + 1, 'whole numbers up to 16777216'),
                                                ('uint32', 2**31, '2147483648'), ('float64', 1e39, '1e+39'),
                                                ('complex64', 1j, 'complex64')])
def test_values_that_float32_cannot_hold_are_refused(tmp_path, dtype, value, part):
  path = write(tmp_path / 'x.tif', np.array([[0, value]], dtype)[..., None])
  with pytest.raises(BadFile, match=part.replace('+', r'\+')):
    bands.read(path)


def test_what_a_file_says_of_its_bands(tmp_path):
  image = noise(4, 7, 4)
  for marked, kind, is_alpha in [('unassalpha', 2, True), ('assocalpha', 1, True), ('unspecified', 0, False)]:
    info = bands.read(write(tmp_path / 'x.tif', image, photometric='rgb', extrasamples=[marked]))[1]
    assert info.names == ('red', 'green', 'blue', 'band 4')
    assert info.extras == (kind,) and info.last_is_alpha == is_alpha
  reading = Reading(bands=('B<2', 'nir', 'c', 'd'), dtype='uint16')
  (tmp_path / 'y.tif').write_bytes(bands.encode_tiff(image, reading))
  array, info = bands.read(str(tmp_path / 'y.tif'))
  assert info.names == ('B_2', 'nir', 'c', 'd')
  np.testing.assert_array_equal(array, image)
  assert bands.read(write(tmp_path / 'x.tif', image, extratags=[(42113, 's', 0, '-9999', True)]))[1].nodata == -9999


def test_copies_and_masks_within_a_file_are_no_bands(tmp_path):
  image = noise(32, 48, 3)
  with tifffile.TiffWriter(tmp_path / 'x.tif') as file:
    file.write(image, photometric='rgb', metadata=None)
    file.write(image[::2, ::2], photometric='rgb', subfiletype=1, metadata=None)
    file.write(image[..., 0] > 9, photometric='mask', subfiletype=4, metadata=None)
  np.testing.assert_array_equal(bands.read(str(tmp_path / 'x.tif'))[0], image)


def test_palettes_and_white_for_zero(tmp_path):
  index = noise(6, 5, 1, dtype=np.uint8, most=4)
  table = noise(3, 256, dtype=np.uint16, most=256) * 257
  tifffile.imwrite(tmp_path / 'p.tif', index[..., 0], photometric='palette', colormap=table)
  array, info = bands.read(str(tmp_path / 'p.tif'))
  np.testing.assert_array_equal(array, (table // 257).T[index[..., 0]])
  assert info.names == ('red', 'green', 'blue')
  array, _ = bands.read(write(tmp_path / 'w.tif', index, photometric='miniswhite'))
  np.testing.assert_array_equal(array, 255 - index)


@pytest.mark.parametrize('channels, names', [(1, ('gray',)), (2, ('gray', 'alpha')), (3, ('red', 'green', 'blue')),
                                             (4, ('red', 'green', 'blue', 'alpha'))])
def test_png_of_16_bits_is_not_cut(tmp_path, channels, names):
  import imagecodecs
  image = noise(6, 11, channels)
  (tmp_path / 'x.png').write_bytes(imagecodecs.png_encode(image.squeeze()))
  array, info = bands.read(str(tmp_path / 'x.png'))
  np.testing.assert_array_equal(array, image)
  assert info.names == names and info.bits == 16 and info.last_is_alpha == (channels in (2, 4))


def test_other_pictures_have_one_or_three_bands(tmp_path):
  for mode, name, shape in [('L', 'x.jpg', (5, 8, 1)), ('RGB', 'x.jpg', (5, 8, 3)), ('RGB', 'x.webp', (5, 8, 3))]:
    Image.new(mode, (8, 5)).save(tmp_path / name)
    assert bands.read(str(tmp_path / name))[0].shape == shape


def broken(tmp_path, kind):
  """Path of a file that cannot be read."""
  path, image = tmp_path / 'x.tif', noise(32, 48, 3)
  if kind == 'missing':
    return path
  if kind == 'sizes':
    with tifffile.TiffWriter(path) as file:
      for step in (1, 2):
        file.write(image[::step, ::step, 0], photometric='minisblack', metadata=None)
    return path
  if kind == 'types':
    with tifffile.TiffWriter(path) as file:
      for dtype in (np.uint8, np.uint16):
        file.write(image[..., 0].astype(dtype), photometric='minisblack', metadata=None)
    return path
  if kind == 'pages of colors':
    with tifffile.TiffWriter(path) as file:
      for _ in range(2):
        file.write(image, photometric='rgb', metadata=None)
    return path
  write(path, image, compression='lzw')
  data = path.read_bytes()
  contents = {'empty': b'', 'no picture': b'hello', 'cut': data[:len(data) // 2], 'start': data[:9],
              'png': b'\x89PNG\r\n\x1a\n' + b'nothing here at all, no picture'}
  path.write_bytes(contents[kind])
  return path


@pytest.mark.parametrize('kind, part', [
    ('missing', 'does not exist'), ('empty', r'empty \(0 bytes\)'), ('no picture', 'cannot be decoded'),
    ('cut', 'is truncated|cannot be decoded'), ('start', 'cannot be decoded'), ('png', 'decoded'),
    ('sizes', '48x32 on page 1 and 24x16 on page 2'), ('types', 'uint8 on page 1 and uint16 on page 2'),
    ('pages of colors', '2 pages, and 3 bands on page 1')])
def test_what_cannot_be_read_is_named(tmp_path, kind, part):
  path = broken(tmp_path, kind)
  with pytest.raises(BadFile, match=part) as error:
    bands.read(str(path))
  assert str(error.value).startswith(f'{path}: ') and '\n' not in str(error.value)


def test_a_bomb_is_not_decoded(tmp_path, monkeypatch):
  path = write(tmp_path / 'x.tif', np.zeros([300, 400, 6], np.uint16), compression='deflate')
  Image.new('RGB', (400, 300)).save(tmp_path / 'x.png')
  monkeypatch.setattr(bands, 'MOST_BYTES', 2**18)
  monkeypatch.setattr(tifffile.TiffPage, 'asarray', None)
  for name in (path, str(tmp_path / 'x.png')):
    with pytest.raises(BadFile, match='GiB decoded'):
      bands.read(name)


def test_read_as_the_dataset(tmp_path):
  image = noise(9, 6, 6)
  path = write(tmp_path / 'x.tif', image)
  np.testing.assert_array_equal(bands.read_as(path, SIX), image)
  for reading, part in [(Reading(bands=('a', 'b'), dtype='uint16'), 'has 6 bands, and 2 bands are wanted: a, b'),
                        (Reading(bands=('a',), dtype='uint16'), 'has 6 bands, and 1 band is wanted: a'),
                        (Reading(bands=SIX.bands, dtype='float32'), 'type uint16, and float32 is wanted'),
                        (Reading(bands=SIX.bands, dtype='uint16', value_range=((0, 1),)),
                         "in band '.', far outside its value range 0 to 1$")]:
    with pytest.raises(BadFile, match=part):
      bands.read_as(path, reading)
  Image.new('RGB', (6, 9)).save(tmp_path / 'x.jpg')
  with pytest.raises(BadFile, match='has 3 bands, and 6 bands are wanted'):
    bands.read_as(str(tmp_path / 'x.jpg'), SIX)


def test_bands_in_another_order_are_named(tmp_path):
  names = ('blue', 'green', 'red', 'nir')
  path, reading = tmp_path / 'x.tif', Reading(bands=names, dtype='uint16')
  path.write_bytes(bands.encode_tiff(noise(3, 4, 4), reading))
  bands.read_as(str(path), reading)
  with pytest.raises(BadFile, match='than the dataset: blue, green, red, nir and not red, green, blue, nir'):
    bands.read_as(str(path), Reading(bands=('red', 'green', 'blue', 'nir'), dtype='uint16'))


@pytest.mark.parametrize('orientation', range(1, 9))
def test_pixels_are_turned_as_pillow_turns_them(tmp_path, orientation):
  image = noise(5, 8, 2, dtype=np.uint8, most=255)
  path = write(tmp_path / 'x.tif', image, extratags=[(274, 'H', 1, orientation, True)])
  reading = Reading(bands=('a', 'b'))
  from PIL import ImageOps
  photo = Image.fromarray(image[..., 1])
  photo.getexif()[274] = orientation
  np.testing.assert_array_equal(bands.read_as(path, reading)[..., 1], np.asarray(ImageOps.exif_transpose(photo)))
  np.testing.assert_array_equal(bands.read_as(path, Reading(bands=('a', 'b'), exif='stored')), image)


def test_no_data_becomes_the_low_end_of_the_range(tmp_path):
  image = np.array([[[0.5, np.nan], [np.nan, 3], [-9999, -9999]]], np.float32)
  reading = Reading(bands=('a', 'b'), dtype='float32', value_range=((0.25, 1), (2, 4)))
  path = write(tmp_path / 'x.tif', image, extratags=[(42113, 's', 0, '-9999', True)])
  np.testing.assert_array_equal(bands.read_as(path, reading), np.float32([[[.5, 2], [.25, 3], [.25, 2]]]))
  path = write(tmp_path / 'y.tif', np.full([2, 3, 2], np.nan, np.float32))
  with pytest.raises(BadFile, match='holds no data'):
    bands.read_as(path, reading)
  path = write(tmp_path / 'z.tif', np.uint16([[[7], [65535]]]), extratags=[(42113, 's', 0, '65535', True)])
  assert bands.read_as(path, Reading(bands=('a',), dtype='uint16')).tolist() == [[[7], [0]]]


def test_transparency_beside_the_bands(tmp_path):
  image = noise(4, 7, 4)
  image[..., 3] = [0, 65535, 0, 65535, 0, 0, 65535]
  path = write(tmp_path / 'x.tif', image, photometric='rgb', extrasamples=['unassalpha'])
  read = lambda **options: bands.read_as(path, Reading(bands=('red', 'green', 'blue'), dtype='uint16', **options))
  np.testing.assert_array_equal(read(alpha='drop'), image[..., :3])
  white = np.where(image[..., 3:] == 0, 65535, image[..., :3])
  np.testing.assert_array_equal(read(alpha='white'), white)
  np.testing.assert_array_equal(read(), white)
  found = read(alpha='white', value_range=((0, 9000),))
  np.testing.assert_array_equal(found, np.where(image[..., 3:] == 0, 9000, white))
  write(path, noise(4, 7, 4), photometric='rgb', extrasamples=['unassalpha'])
  with pytest.raises(BadFile, match='varies from .* as a band does'):
    read()
  with pytest.raises(BadFile, match='has 4 bands, and 3 bands are wanted'):
    read(alpha='band')


def test_a_file_for_each_band(tmp_path):
  image, names = noise(5, 8, 3), ('B1', 'B2', 'B11')
  reading = Reading(bands=names, dtype='uint16', value_range=((0, 9), (0, 70000), (0, 70000)))
  for place, name in enumerate(names):
    write(tmp_path / f'field_{name}.tif', image[..., place:place + 1])
    write(tmp_path / f'other-{name}.TIF', image[..., place:place + 1])
    (tmp_path / 'third.day').mkdir(exist_ok=True)
    write(tmp_path / 'third.day' / f'{name}.tiff', image[..., place:place + 1])
  (tmp_path / 'notes_B1.txt').write_text('no picture')
  (tmp_path / '._field_B1.tif').write_text('no picture')
  found = bands.find_band_files(str(tmp_path), names)
  assert list(found) == ['field', 'other', 'third.day']
  assert [str(tmp_path / f'field_{name}.tif') for name in names] == found['field']
  wide = Reading(bands=names, dtype='uint16')
  for paths in found.values():
    np.testing.assert_array_equal(bands.read_as(paths, wide), image)
  with pytest.raises(BadFile, match="field_B1.tif: .* in band 'B1', far outside its value range 0 to 9"):
    bands.read_as(found['field'], reading)
  write(tmp_path / 'other-B2.TIF', image[:4, :, :1])
  with pytest.raises(BadFile, match='other-B2.TIF: is 8x4 pixels, and the band beside it, .*other-B1.TIF, is 8x5'):
    bands.read_as(found['other'], wide)
  write(tmp_path / 'other-B2.TIF', image)
  with pytest.raises(BadFile, match='other-B2.TIF: has 3 bands, and 1 band is wanted: B2'):
    bands.read_as(found['other'], wide)


def test_missing_and_doubled_band_files(tmp_path):
  assert bands.find_band_files(str(tmp_path), ('B1', 'B2')) == {}
  write(tmp_path / 'x_B1.tif', noise(2, 2, 1))
  with pytest.raises(UserError, match='x has no file of band B2; .*x_B1.tif is there'):
    bands.find_band_files(str(tmp_path), ('B1', 'B2'))
  write(tmp_path / 'x_B2.tif', noise(2, 2, 1))
  write(tmp_path / 'x_B2.tiff', noise(2, 2, 1))
  with pytest.raises(UserError, match='band B2 of x is there twice'):
    bands.find_band_files(str(tmp_path), ('B1', 'B2'))


def test_the_bands_that_a_picture_shows():
  assert Reading(bands=('b', 'g', 'r', 'nir')).shown() == (2, 1, 0)
  assert Reading(bands=('b', 'g', 'r', 'nir')).shown((3, 2, 1)) == (3, 2, 1)
  assert Reading(bands=('x', 'y')).shown() == (0, 1, 1)
  assert Reading(bands=('x', 'y')).shown((1,)) == (1, 1, 1)
  assert Reading().shown() == (0, 1, 2)
  assert colors_of(('Red', 'GREEN', 'blue', 'red', 'B04', 'rededge')) == (0, 1, 2, None, None, None)
  assert colors_of('BGRN') == (2, 1, 0, None) and colors_of('abc') == (None,) * 3
