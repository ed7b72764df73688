"""Reading by rows: every layout of TIFF, kind of PNG and turn of JPEG as the whole picture is read; broken files."""

import collections
import os
import struct
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image

from datasets import images, windows
from datasets.images import BadFile
from datasets.reading import Reading

pytestmark = pytest.mark.fast

GEO_TAGS = [(33550, 12, 3, (0.5, 0.5, 0.0)), (33922, 12, 6, (0.0, 0.0, 0.0, 350000.0, 5200000.0, 0.0)),
            (34735, 3, 8, (1, 1, 0, 1, 3072, 0, 1, 32632)), (34737, 2, 8, 'WGS 84|')]


def pixels(height=101, width=150, seed=0):
  small = np.random.default_rng(seed).integers(0, 256, (5, 7, 3)).astype(np.uint8)
  return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def by_rows(path, folder, count=17, **reading):
  """All rows of a picture, read `count` at a time."""
  with windows.open_rows(str(path), str(folder), Reading(**reading)) as picture:
    parts = [picture[top:top + count] for top in range(0, picture.shape[0], count)]
    found = np.concatenate(parts)
    assert found.shape == picture.shape
  return found


def assert_as_a_whole(path, folder, **reading):
  assert windows.by_rows(windows.read_header(str(path)))
  np.testing.assert_array_equal(by_rows(path, folder, **reading), images.read_image(str(path), Reading(**reading)))


@pytest.mark.parametrize('options', [
    {'tile': (32, 48), 'compression': 'deflate', 'predictor': True}, {'tile': (64, 16)},
    {'rowsperstrip': 7, 'compression': 'lzw'}, {'rowsperstrip': 1, 'compression': 'packbits'}, {},
    {'tile': (16, 16), 'compression': 'jpeg'}, {'bigtiff': True, 'rowsperstrip': 33, 'compression': 'zstd'},
    {'byteorder': '>', 'tile': (32, 32)}, {'planarconfig': 'separate', 'tile': (32, 32), 'compression': 'deflate'},
    {'planarconfig': 'separate'}])
def test_layouts_of_tiff(options, tmp_path):
  stored = pixels()
  data = np.moveaxis(stored, -1, 0) if 'planarconfig' in options else stored
  tifffile.imwrite(tmp_path / 'a.tif', data, photometric='rgb', metadata=None, **options)
  found = by_rows(tmp_path / 'a.tif', tmp_path)
  np.testing.assert_array_equal(found, images.read_image(str(tmp_path / 'a.tif')))
  if options.get('compression') != 'jpeg':
    np.testing.assert_array_equal(found, stored)


@pytest.mark.parametrize('kind', ['gray', 'inverted', 'bilevel', 'palette', 'cmyk', 'alpha', '16 bits'])
def test_colors_of_tiff(kind, tmp_path):
  image, path = pixels(), tmp_path / 'a.tif'
  picture = Image.fromarray(image)
  if kind == 'inverted':
    tifffile.imwrite(path, image[..., 0], photometric='miniswhite', rowsperstrip=20, compression='deflate')
  elif kind == '16 bits':
    tifffile.imwrite(path, image[..., 0].astype(np.uint16) * 257, tile=(16, 16), compression='deflate')
  elif kind == 'alpha':
    tifffile.imwrite(path, np.dstack([image, (image[..., 0] > 90) * np.uint8(255)]), photometric='rgb',
                     extrasamples=['unassalpha'], tile=(32, 32), compression='deflate')
  else:
    made = {'gray': lambda: picture.convert('L'), 'bilevel': lambda: picture.convert('1'),
            'palette': lambda: picture.quantize(29), 'cmyk': lambda: picture.convert('CMYK')}[kind]()
    made.save(path, compression='group4' if kind == 'bilevel' else 'tiff_lzw')
  assert_as_a_whole(path, tmp_path)


@pytest.mark.parametrize('mode', ['RGB', 'L', 'LA', 'RGBA', 'P', '1', 'I;16', 'transparent color'])
def test_kinds_of_png(mode, tmp_path):
  image = pixels()
  picture, options = Image.fromarray(image), {}
  if mode == 'RGBA':
    picture = Image.fromarray(np.dstack([image, (image[..., 0] > 90) * np.uint8(255)]))
  elif mode == 'P':
    picture = picture.quantize(29)
  elif mode == 'transparent color':
    picture, options = picture.quantize(29), {'transparency': 3}
  elif mode == 'I;16':
    picture = Image.fromarray(image[..., 1].astype(np.uint16) * 257)
  else:
    picture = picture.convert(mode)
  picture.save(tmp_path / 'a.png', **options)
  assert_as_a_whole(tmp_path / 'a.png', tmp_path)
  assert os.listdir(tmp_path) == ['a.png']


def test_an_interlaced_png(tmp_path):
  image, rows = pixels(), []
  for y, x, down, across in ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2),
                             (1, 0, 2, 1)):  # Adam7's passes: start and step, PNG 1.2, 2.6
    rows += [b'\0' + row.tobytes() for row in image[y::down, x::across]]
  with open(tmp_path / 'a.png', 'wb') as file:
    file.write(b'\x89PNG\r\n\x1a\n')
    for kind, data in ((b'IHDR', struct.pack('>IIBBBBB', 150, 101, 8, 2, 0, 0, 1)),
                       (b'IDAT', zlib.compress(b''.join(rows))), (b'IEND', b'')):
      file.write(struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data)))
  np.testing.assert_array_equal(by_rows(tmp_path / 'a.png', tmp_path), image)


@pytest.mark.parametrize('orientation', range(1, 9))
@pytest.mark.parametrize('suffix', ['jpg', 'png'])
def test_turns(orientation, suffix, tmp_path):
  exif = Image.Exif()
  exif[0x0112] = orientation
  path = tmp_path / f'a.{suffix}'
  Image.fromarray(pixels(31, 50)).save(path, exif=exif, **({'progressive': True} if orientation % 2 else {}))
  assert windows.read_header(str(path)).orientation == orientation
  assert_as_a_whole(path, tmp_path)
  assert_as_a_whole(path, tmp_path, exif='stored')


def test_a_turn_said_behind_the_pixels_of_a_png(tmp_path):
  exif = Image.Exif()
  exif[0x0112] = 6
  Image.fromarray(pixels(31, 50)).save(tmp_path / 'a.png', exif=exif)
  data = (tmp_path / 'a.png').read_bytes()
  start = data.index(b'eXIf') - 4
  end = start + 12 + int.from_bytes(data[start:start + 4], 'big')
  last = data.index(b'IEND') - 4
  (tmp_path / 'a.png').write_bytes(data[:start] + data[end:last] + data[start:end] + data[last:])
  assert windows.read_header(str(tmp_path / 'a.png')).orientation == 6
  assert_as_a_whole(tmp_path / 'a.png', tmp_path)


def test_only_the_tiles_that_the_rows_touch_are_decoded(tmp_path, monkeypatch):
  path = str(tmp_path / 'a.tif')
  tifffile.imwrite(path, pixels(320, 100), photometric='rgb', tile=(32, 32), compression='deflate', metadata=None)
  decoded, copy = collections.Counter(), windows._Segments._copy
  monkeypatch.setattr(windows._Segments, '_copy', lambda self, index, *rest: (
      decoded.update([index // 4]), copy(self, index, *rest))[1])
  with windows.open_rows(path, str(tmp_path)) as picture:
    decoded.clear()
    picture[40:70]
    assert dict(decoded) == {1: 4, 2: 4}  # rows 32 to 95, of 4 tiles each
    picture[45:60]  # is kept
    assert decoded.total() == 8
    picture[64:96]
    assert dict(decoded) == {1: 4, 2: 8}


def test_a_tiff_of_one_large_strip_is_decoded_once(tmp_path, monkeypatch):
  monkeypatch.setattr(windows, 'LARGE_SEGMENT', 10_000)
  tifffile.imwrite(tmp_path / 'a.tif', pixels(), photometric='rgb', rowsperstrip=101, compression='deflate')
  monkeypatch.setattr(windows, '_Segments', None)
  np.testing.assert_array_equal(by_rows(tmp_path / 'a.tif', tmp_path), pixels())
  assert os.listdir(tmp_path) == ['a.tif']


def test_tiles_that_the_writer_left_out_are_zero(tmp_path):
  path = tmp_path / 'a.tif'
  tiles = [np.full((32, 32, 3), 7, np.uint8), None, None, np.full((32, 32, 3), 9, np.uint8)]
  tifffile.imwrite(path, iter(tiles), shape=(64, 64, 3), dtype=np.uint8, photometric='rgb', tile=(32, 32),
                   compression='deflate')
  corners = by_rows(path, tmp_path)[::63, ::63, 0]
  assert corners.tolist() == [[7, 0], [0, 9]]


def truncated(path, share):
  data = path.read_bytes()
  path.write_bytes(data[:int(len(data) * share)])


@pytest.mark.parametrize('share', [0.3, 0.7, 0.98])
@pytest.mark.parametrize('name', ['a.png', 'a.jpg'])
def test_truncated_pictures_are_refused(name, share, tmp_path):
  Image.fromarray(pixels()).save(tmp_path / name)
  truncated(tmp_path / name, share)
  with pytest.raises(BadFile, match=f'{name}: cannot be decoded'):
    by_rows(tmp_path / name, tmp_path)
  assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize('options', [{'tile': (32, 32), 'compression': 'deflate'}, {'rowsperstrip': 9},
                                     {'tile': (32, 32), 'compression': 'jpeg'}])
def test_truncated_tiffs_are_refused(options, tmp_path):
  path = tmp_path / 'a.tif'
  tifffile.imwrite(path, pixels(), photometric='rgb', metadata=None, **options)
  truncated(path, 0.8)
  with pytest.raises(BadFile, match=r'a\.tif: (is truncated|cannot be decoded)'):
    by_rows(path, tmp_path)


def test_damage_within_a_picture_is_refused(tmp_path):
  Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 70, 3)).astype(np.uint8)).save(tmp_path / 'a.png')
  data = bytearray((tmp_path / 'a.png').read_bytes())
  data[5000] ^= 8
  (tmp_path / 'a.png').write_bytes(data)
  with pytest.raises(BadFile, match='cannot be decoded'):
    by_rows(tmp_path / 'a.png', tmp_path)
  tifffile.imwrite(tmp_path / 'a.tif', pixels(), photometric='rgb', tile=(32, 32), compression='deflate')
  data = bytearray((tmp_path / 'a.tif').read_bytes())
  data[len(data) // 2:len(data) // 2 + 40] = bytes(40)
  (tmp_path / 'a.tif').write_bytes(data)
  with pytest.raises(BadFile, match='cannot be decoded'):
    by_rows(tmp_path / 'a.tif', tmp_path)


def test_what_is_not_understood_is_named(tmp_path):
  path = tmp_path / 'lab.tif'
  tifffile.imwrite(path, pixels(), photometric='cielab', tile=(32, 32))
  with pytest.raises(BadFile, match='kind CIELAB; gray, RGB'):
    by_rows(path, tmp_path)
  tifffile.imwrite(path, np.zeros((40, 50, 6), np.uint8), photometric='minisblack', planarconfig='contig')
  with pytest.raises(BadFile, match='6 bands'):
    by_rows(path, tmp_path)
  tifffile.imwrite(path, pixels(), photometric='rgb', tile=(32, 32), compression='deflate', extratags=[
      (274, 3, 1, 6, True)])
  with pytest.raises(BadFile, match='stored turned'):
    by_rows(path, tmp_path)


def test_a_reading_that_the_values_do_not_prove_is_asked_for_once_for_the_whole_picture(tmp_path):
  dark = np.tile(np.arange(300, dtype=np.uint16), (90, 1))
  tifffile.imwrite(tmp_path / 'dark.tif', dark, tile=(32, 32))
  with pytest.raises(BadFile, match='values up to 299 only.*--value_range'):
    by_rows(tmp_path / 'dark.tif', tmp_path)
  assert by_rows(tmp_path / 'dark.tif', tmp_path, value_range=((0, 299),))[3, ::299, 0].tolist() == [0, 255]
  partly = dark.copy()
  partly[80:] = 65535  # upper rows alone would be refused
  tifffile.imwrite(tmp_path / 'partly.tif', partly, tile=(32, 32))
  assert by_rows(tmp_path / 'partly.tif', tmp_path)[::89, 299, 0].tolist() == [1, 255]
  band = np.dstack([pixels(), pixels(seed=3)[..., :1]])
  Image.fromarray(band).save(tmp_path / 'band.png')
  with pytest.raises(BadFile, match='fourth band'):
    by_rows(tmp_path / 'band.png', tmp_path)
  np.testing.assert_array_equal(by_rows(tmp_path / 'band.png', tmp_path, alpha='drop'), band[..., :3])


def bands_tiff(path, values, nodata=None, alpha=False, **options):
  """Writes [H, W, N] as a GeoTIFF of bands."""
  tags = [(42113, 's', 0, f'{nodata}', True)] if nodata is not None else []
  tifffile.imwrite(path, values, photometric='minisblack', planarconfig='contig', metadata=None, extratags=tags,
                   extrasamples=['unspecified'] * (values.shape[-1] - 2) + ['unassalpha' if alpha else 'unspecified'],
                   **options)


@pytest.mark.parametrize('dtype', ['uint8', 'uint16', 'float32'])
@pytest.mark.parametrize('options', [{'tile': (32, 48), 'compression': 'deflate'}, {}, {'rowsperstrip': 9}])
def test_bands(dtype, options, tmp_path):
  values = (np.random.default_rng(0).random((101, 70, 6)) * 200).astype(dtype)
  values[:30] = 7 if dtype != 'float32' else np.nan  # the first rows hold no data at all
  bands_tiff(tmp_path / 'a.tif', values, nodata=7, **options)
  reading = {'bands': tuple('abcdef'), 'dtype': dtype, 'value_range': ((20, 180),)}
  assert_as_a_whole(tmp_path / 'a.tif', tmp_path, **reading)
  assert (by_rows(tmp_path / 'a.tif', tmp_path, **reading)[:30] == 20).all()
  assert not windows.by_rows(windows.read_header(str(tmp_path / 'a.tif')), Reading(bands=tuple('abcdefg')))


def test_bands_that_do_not_fit(tmp_path):
  values = (np.random.default_rng(0).random((60, 50, 4)) * 200).astype(np.uint16)
  bands_tiff(tmp_path / 'a.tif', values, tile=(16, 16))
  with pytest.raises(BadFile, match='has 4 bands, and 2 bands are wanted'):
    by_rows(tmp_path / 'a.tif', tmp_path, bands=('a', 'b'), dtype='uint16')
  with pytest.raises(BadFile, match='type uint16, and uint8 is wanted'):
    by_rows(tmp_path / 'a.tif', tmp_path, bands=tuple('abcd'))
  with pytest.raises(BadFile, match='far outside'):
    by_rows(tmp_path / 'a.tif', tmp_path, bands=tuple('abcd'), dtype='uint16', value_range=((0, 2),))
  empty = np.full((60, 50, 4), np.nan, np.float32)
  bands_tiff(tmp_path / 'b.tif', empty, tile=(16, 16))
  with pytest.raises(BadFile, match='holds no data'):
    by_rows(tmp_path / 'b.tif', tmp_path, bands=tuple('abcd'), dtype='float32')


def test_pages_are_no_bands_of_one_page(tmp_path):
  tifffile.imwrite(tmp_path / 'pages.tif', np.zeros((3, 20, 30), np.uint16), photometric='minisblack')
  header = windows.read_header(str(tmp_path / 'pages.tif'))
  assert not windows.by_rows(header, Reading(bands=tuple('abc'), dtype='uint16'))


def test_room_on_the_disk_is_looked_at_first(tmp_path, monkeypatch):
  Image.fromarray(pixels()).save(tmp_path / 'a.png')
  usage = collections.namedtuple('usage', 'free')
  monkeypatch.setattr(windows.shutil, 'disk_usage', lambda folder: usage(101 * 150 * 3 - 1))
  with pytest.raises(BadFile, match=r'a\.png: needs 0\.0 GB on disk'):
    by_rows(tmp_path / 'a.png', tmp_path)
  monkeypatch.setattr(windows.shutil, 'disk_usage', lambda folder: usage(101 * 150 * 3))
  assert by_rows(tmp_path / 'a.png', tmp_path).shape == (101, 150, 3)


def test_headers(tmp_path):
  assert windows.read_header(str(tmp_path / 'missing.png')) is None
  (tmp_path / 'text.tif').write_bytes(b'II*\0 not a picture')
  (tmp_path / 'text.png').write_text('not a picture')
  assert windows.read_header(str(tmp_path / 'text.tif')) is windows.read_header(str(tmp_path / 'text.png')) is None
  for name, by_rows_too in (('a.png', True), ('a.jpg', True), ('a.tif', True), ('a.bmp', False), ('a.webp', False)):
    Image.fromarray(pixels(20, 31)).save(tmp_path / name)
    header = windows.read_header(str(tmp_path / name))
    assert (header.size, header.pixels, windows.by_rows(header)) == ((20, 31), 620, by_rows_too)
  Image.fromarray(pixels(20, 31)).convert('CMYK').save(tmp_path / 'cmyk.jpg')
  assert not windows.by_rows(windows.read_header(str(tmp_path / 'cmyk.jpg')))


def test_georeference(tmp_path):
  tags = [(*tag, True) for tag in GEO_TAGS]
  tifffile.imwrite(tmp_path / 'a.tif', pixels(), photometric='rgb', extratags=tags)
  assert windows.georeference(str(tmp_path / 'a.tif')) == windows.Georeference(GEO_TAGS, None)
  tifffile.imwrite(tmp_path / 'turned.tif', pixels(), photometric='rgb', extratags=[*tags, (274, 3, 1, 3, True)])
  for name in ('b.png', 'c.JPG', 'd.tif', 'turned.tif'):
    if not (tmp_path / name).exists():
      Image.fromarray(pixels()).save(tmp_path / name)
  for name in ('b.pgw', 'c.jgw', 'd.TFW', 'turned.tfw', 'elsewhere.pgw'):
    (tmp_path / name).write_text('1\n0\n0\n-1\n0\n0\n')
  found = {name: windows.georeference(str(tmp_path / name)).world_file for name in ('b.png', 'c.JPG', 'd.tif')}
  assert found == {'b.png': str(tmp_path / 'b.pgw'), 'c.JPG': str(tmp_path / 'c.jgw'), 'd.tif': str(tmp_path / 'd.TFW')}
  for name in ('turned.tif', 'missing.tif', 'b.pgw'):
    assert windows.georeference(str(tmp_path / name)) == windows.Georeference([], None)
