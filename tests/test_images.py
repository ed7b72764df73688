"""datasets.images: pictures have the pixels that a viewer shows, and TensorFlow decodes the same from the records."""

import dataclasses
import pathlib
import zlib

import imagecodecs
import numpy as np
import pytest
import tifffile
from pictures import save
from PIL import Image, PngImagePlugin

from datasets import encoding, images, label_pictures, records, windows
from datasets.dataset import label_map
from datasets.reading import Reading
from utils.compat import tf

pytestmark = pytest.mark.fast

ORIENTATION = 0x0112
LABELS = label_map({0: 0, 1: 1, 2: 2, 255: 255})


def _photo(height, width, seed=0):
  """A smooth picture without symmetry: uint8 [H, W, 3]."""
  rng = np.random.default_rng(seed)
  y, x = np.mgrid[:height, :width]
  planes = [128 + 100 * np.sin(x / rng.uniform(3, 9) + y / rng.uniform(3, 9)) for _ in range(3)]
  return np.stack(planes, axis=-1).astype(np.uint8)


def _save_turned(path, pixels, orientation):
  exif = Image.Exif()
  exif[ORIENTATION] = orientation
  return save(path, pixels, exif=exif)


def _as_stored(path, reading=Reading()):  # noqa: B008, the record is frozen
  """Decodes a picture's stored bytes with the graph of `records.parse`."""
  picture = images.encode_image(path, reading)
  label = images.encode_png(np.zeros((picture.height, picture.width), np.uint8))
  pair = encoding.Pair('x', picture, label, np.zeros(256, np.int64))
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
  _, pixels = _as_stored(save(tmp_path / 'x.png', wide))
  np.testing.assert_array_equal(pixels, np.repeat([[[0], [0], [1], [128], [255]]], 3, axis=2))


def test_transparent_pixels_lie_on_white(tmp_path):
  path = save(tmp_path / 'x.png', np.array([[[9, 8, 7, 255], [0, 0, 0, 128], [255, 0, 0, 0]]], np.uint8))
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


@pytest.mark.parametrize('orientation', UPRIGHT)
@pytest.mark.parametrize('extension', ['png', 'tif'])
def test_colors_of_16_bits_are_turned_as_those_of_8(orientation, extension, tmp_path):
  photo, path = _photo(13, 22), str(tmp_path / f'x.{extension}')
  wide = photo.astype(np.uint16) * 257
  if extension == 'tif':
    tifffile.imwrite(path, wide, photometric='rgb', extratags=[(274, 'H', 1, orientation, True)])
  else:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    with open(path, 'wb') as file:
      file.write(with_exif(imagecodecs.png_encode(wide), exif.tobytes()[6:]))
  header, reading = images.read_header(path), Reading(value_range=((0, 65535),))
  assert (header.size, header.orientation, header.mode) == ((13, 22), orientation, 'WIDE')
  np.testing.assert_array_equal(images.read_image(path, reading), UPRIGHT[orientation](photo))
  picture = images.encode_image(path, dataclasses.replace(reading, exif='stored'))
  np.testing.assert_array_equal(picture.pixels, photo)


def with_exif(png, block, *, last=True):
  """A PNG with an EXIF block behind its pixels, or before them."""
  place = png.index(b'IEND') - 4 if last else 33
  chunk = b'eXIf' + block
  chunk = len(block).to_bytes(4, 'big') + chunk + zlib.crc32(chunk).to_bytes(4, 'big')
  return png[:place] + chunk + png[place:]


@pytest.mark.parametrize('last', [False, True])
def test_the_header_of_a_png_says_its_turn_wherever_it_stands(last, tmp_path):
  exif = Image.Exif()
  exif[ORIENTATION] = 6
  path = save(tmp_path / 'x.png', _photo(13, 22))
  png = pathlib.Path(path).read_bytes()
  pathlib.Path(path).write_bytes(with_exif(png, exif.tobytes()[6:], last=last))
  assert images.read_header(path).orientation == windows.read_header(path).orientation == 6
  assert images.read_rgb(path).shape == (22, 13, 3)
  whole = with_exif(png, exif.tobytes()[6:])
  for broken in (with_exif(png, b'MM'), whole[:-13] + b'?' + whole[-12:]):
    pathlib.Path(path).write_bytes(broken)
    assert images.read_header(path).orientation == 1


def test_a_header_is_read_without_the_pixels(tmp_path, monkeypatch):
  """Also where a PNG's text alone says how it is turned."""
  text = PngImagePlugin.PngInfo()
  text.add_itxt('XML:com.adobe.xmp', '<x tiff:Orientation="8"/>')
  Image.fromarray(_photo(13, 22)).save(tmp_path / 'x.png', pnginfo=text)
  monkeypatch.setattr(PngImagePlugin.PngImageFile, 'load', lambda self: pytest.fail('decoded'))
  assert images.read_header(str(tmp_path / 'x.png')).orientation == 8


def test_an_image_stays_as_stored_where_the_dataset_says_so(tmp_path):
  path = _save_turned(tmp_path / 'x.jpg', _photo(13, 22), 6)
  picture, pixels = _as_stored(path, Reading(exif='stored'))
  assert (picture.height, picture.width, picture.format) == (13, 22, 'jpeg')
  np.testing.assert_array_equal(images.read_image(path, Reading(exif='stored')), pixels)
  picture, _ = _as_stored(path)
  assert (picture.height, picture.width, picture.format) == (22, 13, 'png')


@pytest.mark.parametrize('alpha, expected', [('white', [127] * 3), ('drop', [0, 0, 0]), ('auto', [127] * 3)])
def test_alpha_is_read_as_the_dataset_says(alpha, expected, tmp_path):
  """By hand: black at alpha 128 over white is 255 * 127 / 255 = 127."""
  path = save(tmp_path / 'x.png', np.array([[[0, 0, 0, 128], [1, 2, 3, 255], [4, 5, 6, 255]]], np.uint8))
  _, pixels = _as_stored(path, Reading(alpha=alpha))
  assert pixels.tolist() == [[expected, [1, 2, 3], [4, 5, 6]]]


@pytest.mark.parametrize('extension', ['png', 'tif'])
def test_a_fourth_band_is_not_taken_for_transparency(extension, tmp_path):
  pixels = np.dstack([_photo(5, 7), np.arange(40, 75, dtype=np.uint8).reshape(5, 7)])
  path = save(tmp_path / f'x.{extension}', pixels)
  with pytest.raises(images.BadFile, match='a fourth band with values from 40 to 74.*--alpha=white.*--alpha=drop'):
    images.read_image(path)
  np.testing.assert_array_equal(images.read_image(path, Reading(alpha='drop')), pixels[..., :3])


@pytest.mark.parametrize('shape', [(1, 5), (1, 5, 3)])
@pytest.mark.parametrize('extension', ['png', 'tif'])
def test_a_value_range_says_what_is_white(shape, extension, tmp_path):
  """12 bits in 16, gray and colored: by hand, 2048 of 4095 is 127.53 of 255."""
  values = np.broadcast_to(np.array([0, 8, 9, 2048, 4095], np.uint16).reshape(1, 5, *[1] * (len(shape) - 2)), shape)
  path = str(tmp_path / f'x.{extension}')
  (tifffile.imwrite if extension == 'tif' else _write_png16)(path, np.ascontiguousarray(values))
  with pytest.raises(images.BadFile, match='16 bits, and values up to 4095 only; .*--value_range=0,4095 or.*=0,65535'):
    images.read_image(path)
  for reading, expected in ((Reading(value_range=((0, 4095),)), [0, 0, 1, 128, 255]),
                            (Reading(value_range=((8, 2048),)), [0, 0, 0, 255, 255])):
    _, pixels = _as_stored(path, reading)
    assert pixels[0, :, 0].tolist() == expected and (pixels == pixels[..., :1]).all()
    np.testing.assert_array_equal(images.read_image(path, reading), pixels)


def _write_png16(path, values):
  with open(path, 'wb') as file:
    file.write(imagecodecs.png_encode(values))


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
  for read in (images.read_rgb, images.encode_image, label_pictures.read_label):
    with pytest.raises(images.BadFile) as error:
      read(path)
    assert str(error.value).startswith(f'{path}: {reason}')


@pytest.mark.parametrize('orientation, turns', [(1, 0), (3, 2), (6, 3), (8, 1)])
def test_a_phones_heic_stands_upright(orientation, turns, tmp_path):
  """Whose container turns it: libheif has done so, and EXIF must not do it again."""
  pixels, exif = _photo(32, 48), Image.Exif()
  exif[ORIENTATION] = orientation
  path = save(tmp_path / 'IMG_1.HEIC', pixels, exif=exif.tobytes(), chroma=444, quality=95)  # from bytes: in both
  upright = np.rot90(pixels, turns)
  assert np.abs(images.read_rgb(path).astype(int) - upright).mean() < 3
  assert images.upright_size(images.read_header(path)) == upright.shape[:2]
  np.testing.assert_array_equal(_as_stored(path)[1], images.read_rgb(path))


def test_a_heic_that_cannot_be_read_is_named_whatever_its_suffix(tmp_path, monkeypatch):
  save(tmp_path / 'a.heic', _photo(32, 48))
  path = tmp_path / 'IMG_1.jpg'
  path.write_bytes((tmp_path / 'a.heic').read_bytes())
  assert images.read_rgb(str(path)).shape == (32, 48, 3)
  path.write_bytes(path.read_bytes()[:300])
  with pytest.raises(images.BadFile, match='IMG_1.jpg: is a broken HEIF picture'):
    images.read_rgb(str(path))
  monkeypatch.setattr(images, 'FORMATS', ('JPEG', 'PNG'))
  with pytest.raises(images.BadFile, match='IMG_1.jpg: is a HEIF picture: convert to JPEG .* pip install pillow-heif'):
    images.read_rgb(str(path))


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


def test_floating_point_pixels_need_a_value_range(tmp_path):
  path = save(tmp_path / 'x.tif', np.array([[0, 0.5, 1]], np.float32))
  with pytest.raises(images.BadFile, match='values from 0 to 1; say which become black and white: --value_range'):
    images.read_rgb(path)
  assert images.read_image(path, Reading(value_range=((0, 1),)))[0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.filterwarnings('error')
def test_floating_point_values_beyond_the_range_are_its_ends_and_nan_is_black(tmp_path):
  path = save(tmp_path / 'x.tif', np.array([[np.nan, -np.inf, -3, 0.5, 9, np.inf]], np.float32))
  assert images.read_image(path, Reading(value_range=((0, 1),)))[0, :, 0].tolist() == [0, 0, 0, 128, 255, 255]
