"""Decoding, normalizing and encoding one image, without TensorFlow; for labels see `label_pictures`.

Unless a dataset's Reading says otherwise, the right pixels of a picture are those that a viewer shows: EXIF orientation
applied, CMYK turned to RGB, 16 bits scaled to 8, transparent pixels on white. A file that TensorFlow decodes to these
keeps its bytes; others become PNGs.
"""

import contextlib
import dataclasses
import io
import os
import warnings
import zlib

import numpy as np
from PIL import Image, PngImagePlugin, UnidentifiedImageError, features

from datasets.dataset import BadFile
from datasets.reading import Reading

_ORIENTATION = 0x0112  # EXIF tag
_TIFF_BITS, _TIFF_SAMPLES = 258, 277  # TIFF tags
_TURNS = {  # EXIF orientation -> operation that turns the stored pixels upright (Exif 2.3, 4.6.4)
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90}
_SIDEWAYS = (5, 6, 7, 8)  # orientations that swap height and width
_BACK = {**dict(zip(range(2, 9), range(2, 9))), 6: 8, 8: 6}  # orientation -> the one that undoes it
_TURNED = 'turned'  # key of a TIFF's info: the orientation by which Pillow has turned it in loading
_PNG_START, PNG_END = b'\x89PNG\r\n\x1a\n', b'IEND\xaeB`\x82'
TIFF_STARTS = (b'II*\0', b'MM\0*', b'II+\0', b'MM\0+')  # of TIFF and BigTIFF, little and big endian
_PNG_TAIL = 2**16  # bytes at the end of a PNG in which an EXIF block is looked for
PNG_HEADER = 26  # bytes at the start of a PNG that `png_header` needs
PNG_GRAY, PNG_RGB = 0, 2  # color types of PNG's IHDR chunk
WIDE_MODES = ('I;16', 'I;16L', 'I;16B', 'I;16N', 'I')
Image.MAX_IMAGE_PIXELS = 2**28  # above this a picture may be a decompression bomb; Pillow refuses twice as many


def _optional_formats():
  """Names of the formats that not every installation reads: AVIF, and HEIF by the package pillow-heif."""
  names = ['AVIF'] if features.check('avif') else []
  with contextlib.suppress(ImportError):
    import pillow_heif
    pillow_heif.register_heif_opener()
    names.append('HEIF')
  return names


# Formats that are read. Not EPS: Pillow runs another program on it.
FORMATS = ('JPEG', 'PNG', 'BMP', 'GIF', 'PPM', 'TIFF', 'WEBP', *_optional_formats())
REMEDIES = {  # what to do about pictures of a format that not every installation reads
    'AVIF': 'this Pillow was built without AVIF; convert to JPEG or PNG, or pip install --upgrade pillow',
    'HEIF': 'convert to JPEG or PNG, or pip install pillow-heif'}
_BRANDS = {b'avif': 'AVIF', b'avis': 'AVIF', **dict.fromkeys((b'heic', b'heix', b'hevc', b'hevx', b'mif1'), 'HEIF')}


@dataclasses.dataclass(frozen=True)
class Picture:
  """An encoded image: `encoded` bytes, `format` 'jpeg', 'png' or 'raw', `height` and `width` in pixels.

  `pixels` are what it decodes to, a PIL image or an array [H, W, bands]; None in a Pair. `kept` says whether the bytes
  are those of the original.
  """
  encoded: bytes
  format: str
  height: int
  width: int
  pixels: object = None
  kept: bool = False


def open_file(path):
  """Opens a picture for reading bytes: its path, or an os.PathLike whose `read_bytes()` gives them."""
  return io.BytesIO(path.read_bytes()) if hasattr(path, 'read_bytes') else open(path, 'rb')


def read_bytes(path, count=-1):
  """Reads the first `count` bytes of a picture's file, see `open_file`; all by default.

  Raises:
    BadFile: if it is missing, cannot be read or is empty.
  """
  try:
    with open_file(path) as file:
      data = file.read(count)
  except OSError as error:
    reason = 'does not exist' if isinstance(error, FileNotFoundError) else f'cannot be read: {error.strerror}'
    raise BadFile(path, reason) from error
  if not data:
    raise BadFile(path, 'is empty (0 bytes)')
  return data


def open_picture(path):
  """Reads and wholly decodes a picture by Pillow. Returns (bytes, PIL image); raises BadFile."""
  data = read_bytes(path)
  try:
    with warnings.catch_warnings():
      warnings.simplefilter('ignore')
      image = Image.open(io.BytesIO(data), formats=FORMATS)
      if image.format == 'TIFF':
        image.info[_TURNED] = orientation(image)
      image.load()
      if image.format == 'PNG':  # Pillow shows the readable part of a PNG; TensorFlow refuses a wrong checksum
        Image.open(io.BytesIO(data)).verify()
        if PNG_END not in data:
          raise OSError('truncated PNG file')
  except UnidentifiedImageError as error:
    raise BadFile(path, _unidentified(data)) from error
  except MemoryError:
    raise
  except Exception as error:  # Pillow's decoders raise nearly anything on broken data
    raise BadFile(path, f'cannot be decoded: {error}') from error
  return data, image


def _unidentified(data):
  """Says why Pillow knows nothing of a picture's bytes."""
  # Brand of the first box, ftyp (ISO/IEC 14496-12, 4.3). A renamed HEIC is one still, whatever its suffix says.
  found = _BRANDS.get(data[8:12]) if data[4:8] == b'ftyp' else None
  if found in FORMATS:
    return f'is a broken {found} picture'
  if found:
    return f'is a {found} picture: {REMEDIES[found]}'
  return f'is none of {", ".join(FORMATS)} (it starts with {data[:8]!r})'


def png_size(data):
  """Reads (height, width) in pixels from the first bytes of a PNG."""
  return int.from_bytes(data[20:24], 'big'), int.from_bytes(data[16:20], 'big')


def bands_module():
  """The module `datasets.bands`, which imports this one, and whose packages plain photographs do not need."""
  from datasets import bands

  return bands


def is_tiff(path):
  """Whether a file starts as a TIFF does."""
  with contextlib.suppress(OSError), open(path, 'rb') as file:
    return file.read(4) in TIFF_STARTS
  return False


def png_header(data):
  """Reads the bit depth and the color type of a PNG from its first bytes.

  Args:
    data: bytes of a file, at least the first PNG_HEADER.

  Returns:
    (bit depth, color type), two ints; None where the file is no PNG.
  """
  if not data.startswith(_PNG_START) or len(data) < PNG_HEADER:
    return None
  return data[24], data[25]  # behind the signature, the length and name of IHDR, width and height


def _is_plain(data, image):
  """Whether TensorFlow decodes these bytes to 3 channels as a viewer shows them (but for EXIF)."""
  if image.format in ('JPEG', 'MPO'):  # MPO: a JPEG that more JPEGs follow, from phones
    return image.mode in ('RGB', 'L')
  if isinstance(image, PngImagePlugin.PngImageFile) and 'transparency' not in image.info:
    is_still = getattr(image, 'n_frames', 1) == 1
    return is_still and png_header(data) in ((8, PNG_GRAY), (8, PNG_RGB))
  return False


def is_wide(data, image):
  """Whether Pillow cuts a picture: colors of 16 bits to 8, or a fourth band of a TIFF that is not transparency."""
  if image.format == 'TIFF' and image.mode in ('RGB', 'RGBX', 'RGBA'):
    bits, num_bands = image.tag_v2.get(_TIFF_BITS, (8,)), image.tag_v2.get(_TIFF_SAMPLES, 3)
    return max(bits) > 8 or (num_bands > 3 and image.mode != 'RGBA')
  header = png_header(data)
  return bool(header) and header[0] == 16 and header[1] != PNG_GRAY


def _to_rgb(image, path, reading):
  """Converts a decoded PIL image of any mode to an 8-bit RGB one."""
  if image.mode in (*WIDE_MODES, 'F'):
    return Image.fromarray(scaled(np.asarray(image), path, reading)).convert('RGB')
  try:
    if not image.has_transparency_data:
      return image.convert('RGB')
    image = image.convert('RGBA')
  except ValueError as error:
    raise BadFile(path, f'has pixels of mode {image.mode}, which cannot be turned to RGB') from error
  if _alpha_use(np.asarray(image)[..., 3], path, reading) == 'drop':
    return image.convert('RGB')
  return Image.alpha_composite(Image.new('RGBA', image.size, 'white'), image).convert('RGB')


def scaled(values, path, reading):
  """Scales values of more than 8 bits to 8.

  Args:
    values: numbers [H, W] or [H, W, 3].
    path: the image's file, for the message.
    reading: a Reading, whose value_range becomes 0 to 255; values beyond it are cut.

  Returns:
    uint8 of the same shape; 0 for NaN.

  Raises:
    BadFile: if the reading has no range and the values do not prove one.
  """
  least, most = values.min(), values.max()
  if not reading.value_range and (values.dtype.kind == 'f' or not 0 <= least <= most <= 65535):
    raise BadFile(path, f'has values from {least:g} to {most:g}; say which become black and white: --value_range')
  if not reading.value_range and most < 4096:
    raise BadFile(path, f'has 16 bits, and values up to {most} only; say which value is white, --value_range=0,'
                        f'{white_level(most)} or, if it is so dark, --value_range=0,65535')
  low, high = reading.value_range[0] if reading.value_range else (0, 65535)
  values = np.fmin(np.fmax(values.astype(np.float64), low), high)  # of NaN and a number, the number
  return np.rint((values - low) * (255 / (high - low))).astype(np.uint8)


def white_level(most):
  """The greatest value of 8, 10, 12, 14 or 16 bits, the fewest that hold the value `most`."""
  return next(2**bits - 1 for bits in (8, 10, 12, 14, 16) if most < 2**bits)


def _alpha_use(alpha, path, reading):
  """What becomes of an image's alpha, uint8 [H, W]: 'white' or 'drop', as the reading says or the values prove."""
  if reading.alpha != 'auto' or alpha.min() == 255:
    return reading.alpha if reading.alpha != 'auto' else 'drop'
  if is_transparency(np.bincount(alpha.ravel(), minlength=256)):
    return 'white'
  raise BadFile(path, f'has a fourth band with values from {alpha.min()} to {alpha.max()}, transparency or a band such '
                      'as near infrared; --alpha=white blends it with white, --alpha=drop leaves it out')


def is_transparency(counts):
  """Whether alpha is transparency, by the number of its pixels of each value, [256]: at least half are 0 or 255."""
  return 2 * (counts[0] + counts[255]) >= counts.sum()


def orientation(image):
  """The EXIF orientation, 1 to 8, of a picture that Pillow has opened; no pixel is decoded for it."""
  try:
    if image.format == 'PNG' and image.fp and 'exif' not in image.info:
      image.info.update(_exif_behind_pixels(image.fp))
    found = Image.Image.getexif(image).get(_ORIENTATION, 1)  # PngImageFile.getexif decodes the picture
  except Exception:  # a broken EXIF block says nothing about the pixels
    return 1
  return found if found in _TURNS else 1


def _exif_behind_pixels(file):
  """The EXIF block at the end of a PNG, as an entry of Pillow's info; {} without one."""
  before, size = file.tell(), file.seek(0, os.SEEK_END)
  file.seek(max(0, size - _PNG_TAIL))
  tail = file.read()
  file.seek(before)
  start = tail.rfind(b'eXIf')
  length = int.from_bytes(tail[max(0, start - 4):start], 'big')
  chunk, checksum = tail[start:start + 4 + length], tail[start + 4 + length:start + 8 + length]
  return {'exif': b'Exif\0\0' + chunk[4:]} if start >= 4 and zlib.crc32(chunk).to_bytes(4, 'big') == checksum else {}


def _turn(image, orientation):
  """Turns and mirrors an image as its EXIF orientation (1 to 8) asks."""
  return image.transpose(_TURNS[orientation]) if orientation in _TURNS else image


@dataclasses.dataclass(frozen=True)
class Header:
  """What a picture says of itself before its pixels are decoded.

  Attributes:
    format: Pillow's name of the format, such as 'JPEG'.
    mode: Pillow's mode, such as 'RGB', 'P', 'I;16'; 'WIDE' for colors of more than 8 bits.
    size: (height, width) as stored.
    orientation: EXIF orientation, 1 to 8.
    has_alpha: whether it has alpha or transparent colors.
    palette: bytes of the palette, r g b for each index; None without one.
    samples: of `windows.read_header`, number of values of a pixel that a TIFF of one page stores; else 0.
  """
  format: str
  mode: str
  size: tuple
  orientation: int = 1
  has_alpha: bool = False
  palette: bytes | None = None
  samples: int = 0

  @property
  def pixels(self):
    """Number of pixels."""
    return self.size[0] * self.size[1]


def read_header(path):
  """Reads a picture's header. Returns a Header; None if Pillow cannot read it."""
  try:
    with open_file(path) as file:
      start = file.read(PNG_HEADER)
      with warnings.catch_warnings(), Image.open(file, formats=FORMATS) as image:
        warnings.simplefilter('ignore')
        return _header(start, image)
  except Exception:  # the converter names it
    return None


def _header(start, image):
  """The Header of a picture that Pillow has opened; `start` are its first PNG_HEADER bytes."""
  turn, size = orientation(image), (image.height, image.width)
  if image.format == 'TIFF' and turn in _SIDEWAYS:  # Pillow gives the size that it will have when turned
    size = size[::-1]
  return Header(
      image.format, 'WIDE' if is_wide(start, image) else image.mode, size, turn, image.has_transparency_data,
      bytes(image.palette.palette) if image.mode == 'P' and image.palette else None)


def upright_size(header):
  """(height, width) of a picture that is turned as its EXIF orientation asks."""
  return header.size[::-1] if header.orientation in _SIDEWAYS else header.size


def read_alpha(path):
  """Decodes a picture's alpha: uint8 [H, W]. Raises BadFile as `read_image`."""
  return np.asarray(open_picture(path)[1].convert('RGBA'))[..., 3]


def read_image(path, reading=Reading()):  # noqa: B008, the record is frozen
  """Decodes any picture.

  Args:
    path: file name of the picture.
    reading: the dataset's Reading.

  Returns:
    uint8 [H, W, 3], RGB; for a reading with bands, its dtype [H, W, number of bands].

  Raises:
    BadFile: if the file is missing, empty, truncated or no picture, or the reading does not fit it.
  """
  if not reading.is_plain:
    return bands_module().read_as(path, reading)
  return to_rgb(_load(path, reading)[1], path, reading)


def read_rgb(path):
  """Decodes any picture as a viewer shows it: `read_image` without a Reading."""
  return read_image(path)


def _load(path, reading):
  """Reads and wholly decodes a picture.

  Returns:
    (bytes, PIL image); or (bytes, values [H, W, N], turned as the reading says) where Pillow cannot read the picture or
    would cut it to 8 bits.
  """
  try:
    data, image = open_picture(path)
  except BadFile:
    if not is_tiff(path):
      raise
    return b'', bands_module().read_turned(path, reading)[0]
  return data, bands_module().read_turned(path, reading)[0] if is_wide(data, image) else image


def to_rgb(decoded, path, reading):
  """Turns a decoded picture to RGB.

  Args:
    decoded: PIL image, which is turned as the reading says; or values [H, W, 1, 3 or 4] of any type, already turned.
    path: the image's file, for the message.
    reading: a Reading.

  Returns:
    uint8 [H, W, 3].

  Raises:
    BadFile: if the reading does not fit the picture.
  """
  if not isinstance(decoded, np.ndarray):
    turn = orientation(decoded)
    if reading.exif == 'stored':
      turn = _BACK.get(decoded.info.get(_TURNED), 1)
    return np.asarray(_turn(_to_rgb(decoded, path, reading), turn))
  num_bands = decoded.shape[-1]
  if num_bands not in (1, 3, 4):
    raise BadFile(path, f'has {num_bands} bands; photographs have 1, 3 or 4, and the images of a dataset with more all '
                        'have the same')
  values = decoded if decoded.dtype == np.uint8 else scaled(decoded, path, reading)
  if num_bands == 1:
    return np.repeat(values, 3, axis=-1)
  return np.asarray(_to_rgb(Image.fromarray(values), path, reading))


def encode_png(pixels, level=4):
  """Encodes uint8 [H, W] or [H, W, 3] as PNG bytes, lossless.

  `level` is zlib's, 1 (fast) to 9. Level 4 takes a fifth less time than 6 for labels and half of it for photographs
  (CamVid), and gives 5 and 3 % more bytes.
  """
  buffer = io.BytesIO()
  Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, 'PNG', compress_level=level)
  return buffer.getvalue()


def encode_image(image, reading=Reading()):  # noqa: B008, the record is frozen
  """Encodes an image, with its original bytes where TensorFlow decodes these to the right pixels.

  Args:
    image: path of a picture, or uint8 [H, W, 3]; for a reading with bands, as of `bands.encode`.
    reading: the dataset's Reading.

  Returns:
    a Picture.

  Raises:
    BadFile: as `read_image`.
  """
  if not reading.is_plain:
    return bands_module().encode(image, reading)
  if isinstance(image, np.ndarray):
    return encode_pixels(image)
  data, decoded = _load(image, reading)
  if isinstance(decoded, Image.Image) and _is_plain(data, decoded) and (
      reading.exif == 'stored' or orientation(decoded) == 1):
    return Picture(data, 'png' if decoded.format == 'PNG' else 'jpeg', decoded.height, decoded.width, decoded, True)
  return encode_pixels(to_rgb(decoded, image, reading))


def encode_pixels(pixels):
  """Encodes uint8 [H, W, 3] without loss. Returns a Picture."""
  return Picture(encode_png(pixels), 'png', *pixels.shape[:2], pixels)
