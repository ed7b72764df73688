"""Decoding, normalizing and verifying one image, one label, or a pair of them, without TensorFlow.

The right pixels of a picture are those that a viewer shows: EXIF orientation applied, CMYK turned to RGB, 16 bits
scaled to 8, transparent pixels on white. A file that TensorFlow decodes to these keeps its bytes; others become PNGs.
"""

import dataclasses
import io
import warnings

import numpy as np
from PIL import Image, PngImagePlugin, UnidentifiedImageError

from utils.errors import UserError
from utils.labels import IGNORE_LABEL

_ORIENTATION = 0x0112  # EXIF tag
_TURNS = {  # EXIF orientation -> operation that turns the stored pixels upright (Exif 2.3, 4.6.4)
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90}
_SIDEWAYS = (5, 6, 7, 8)  # orientations that swap height and width
_PNG_START, _PNG_END = b'\x89PNG\r\n\x1a\n', b'IEND\xaeB`\x82'
PNG_HEADER = 26  # bytes at the start of a PNG that `png_header` needs
PNG_GRAY, PNG_RGB, PNG_RGBA = 0, 2, 6  # color types of PNG's IHDR chunk
_GRAY_SCALE = {2: 85, 4: 17}  # Pillow's factors on 2- and 4-bit gray, which fill 0..255
_FORMATS = ('JPEG', 'PNG', 'BMP', 'GIF', 'PPM', 'TIFF', 'WEBP')  # not EPS: Pillow runs another program on it
_WIDE_GRAY = ('I;16', 'I;16L', 'I;16B', 'I;16N', 'I')
Image.MAX_IMAGE_PIXELS = 2**28  # above this a picture may be a decompression bomb; Pillow refuses twice as many


class BadFile(UserError):
  """An image or a label that cannot be used: its `path`, and the `reason` with the offending value."""

  def __init__(self, path, reason):
    super().__init__(path, reason)
    self.path, self.reason = path, reason

  def __str__(self):
    return f'{self.path}: {self.reason}'


@dataclasses.dataclass(frozen=True)
class Picture:
  """An encoded image: `encoded` bytes, `format` 'jpeg' or 'png', `height` and `width` in pixels."""
  encoded: bytes
  format: str
  height: int
  width: int


@dataclasses.dataclass(frozen=True)
class Pair:
  """A verified image and label, ready to be stored.

  Attributes:
    name: the source's name.
    picture: the image, a Picture.
    label: bytes of an 8-bit grayscale PNG of label ids.
    counts: int64 [256], number of pixels of each id.
  """
  name: str
  picture: Picture
  label: bytes
  counts: np.ndarray


def _open(path):
  """Reads and wholly decodes a picture. Returns (bytes, PIL image); raises BadFile."""
  try:
    with open(path, 'rb') as file:
      data = file.read()
  except OSError as error:
    reason = 'does not exist' if isinstance(error, FileNotFoundError) else f'cannot be read: {error.strerror}'
    raise BadFile(path, reason) from error
  if not data:
    raise BadFile(path, 'is empty (0 bytes)')
  try:
    with warnings.catch_warnings():
      warnings.simplefilter('ignore')
      image = Image.open(io.BytesIO(data), formats=_FORMATS)
      image.load()
      if image.format == 'PNG':  # Pillow shows the readable part of a PNG; TensorFlow refuses a wrong checksum
        Image.open(io.BytesIO(data)).verify()
        if _PNG_END not in data:
          raise OSError('truncated PNG file')
  except UnidentifiedImageError as error:
    raise BadFile(path, f'is none of {", ".join(_FORMATS)} (it starts with {data[:8]!r})') from error
  except MemoryError:
    raise
  except Exception as error:  # Pillow's decoders raise nearly anything on broken data
    raise BadFile(path, f'cannot be decoded: {error}') from error
  return data, image


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


def _to_rgb(image, path):
  """Converts a decoded PIL image of any mode to 8-bit RGB."""
  if image.mode in _WIDE_GRAY:
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
      raise BadFile(path, f'has gray values from {values.min()} to {values.max()}; 8 and 16 bits are understood')
    return Image.fromarray(((values + 128) // 257).astype(np.uint8)).convert('RGB')
  if image.mode == 'F':
    raise BadFile(path, 'has floating-point pixels; 8 and 16 bits are understood')
  try:
    if image.has_transparency_data:
      image = image.convert('RGBA')
      return Image.alpha_composite(Image.new('RGBA', image.size, 'white'), image).convert('RGB')
    return image.convert('RGB')
  except ValueError as error:
    raise BadFile(path, f'has pixels of mode {image.mode}, which cannot be turned to RGB') from error


def _orientation(image):
  try:
    return image.getexif().get(_ORIENTATION, 1)
  except Exception:  # a broken EXIF block says nothing about the pixels
    return 1


def _turn(image, orientation):
  """Turns and mirrors an image as its EXIF orientation (1 to 8) asks."""
  return image.transpose(_TURNS[orientation]) if orientation in _TURNS else image


def read_rgb(path):
  """Decodes any picture as a viewer shows it.

  Returns:
    uint8 [H, W, 3], RGB.

  Raises:
    BadFile: if the file is missing, empty, truncated or no picture.
  """
  image = _open(path)[1]
  return np.asarray(_turn(_to_rgb(image, path), _orientation(image)))


def encode_png(pixels):
  """Encodes uint8 [H, W] or [H, W, 3] as PNG bytes, lossless."""
  buffer = io.BytesIO()
  Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, 'PNG')
  return buffer.getvalue()


def encode_image(image, size=None):
  """Encodes an image, with its original bytes where TensorFlow decodes these to the right pixels.

  Args:
    image: path of a picture, or uint8 [H, W, 3].
    size: (height, width) of its label. Where only the pixels as stored have this size, the label was drawn without
      regard to EXIF, and the image is left as stored; otherwise it is turned upright.

  Returns:
    a Picture.

  Raises:
    BadFile: as `read_rgb`.
  """
  if isinstance(image, np.ndarray):
    return Picture(encode_png(image), 'png', *image.shape[:2])
  path = image
  data, image = _open(path)
  orientation = _orientation(image)
  if orientation in _SIDEWAYS and size == (image.height, image.width) and image.height != image.width:
    orientation = 1
  if orientation not in _TURNS and _is_plain(data, image):
    return Picture(data, 'png' if image.format == 'PNG' else 'jpeg', image.height, image.width)
  pixels = np.asarray(_turn(_to_rgb(image, path), orientation))
  return Picture(encode_png(pixels), 'png', *pixels.shape[:2])


def read_label(path):
  """Reads a label picture: the palette indices of a palette PNG, the values of a grayscale PNG.

  Returns:
    raw labels, uint8 [H, W].

  Raises:
    BadFile: if it cannot be decoded, has colors or lossy compression, or values above 255.
  """
  data, image = _open(path)
  if image.format in ('JPEG', 'MPO'):
    raise BadFile(path, 'is a JPEG; labels must be stored without loss, as PNG')
  if image.mode not in ('P', 'L', '1', *_WIDE_GRAY):
    raise BadFile(path, f'has pixels of mode {image.mode}; a label is a grayscale or palette picture of ids')
  raw = np.asarray(image)
  if image.mode == 'L' and image.format == 'PNG':
    raw = raw // _GRAY_SCALE.get(png_header(data)[0], 1)
  if image.mode in _WIDE_GRAY and not 0 <= raw.min() <= raw.max() <= 255:
    raise BadFile(path, f'has label values from {raw.min()} to {raw.max()}; ids are 0 to 255')
  return raw.astype(np.uint8)


def describe_valid(label_map):
  """Names the raw labels that a dataset has: '0 to 20, 255'."""
  valid = np.flatnonzero(label_map >= 0)
  runs = np.split(valid, np.flatnonzero(np.diff(valid) > 1) + 1)
  return ', '.join(str(run[0]) if len(run) == 1 else f'{run[0]} to {run[-1]}' for run in runs)


def to_ids(raw, label_map, path):
  """Maps raw labels to ids.

  Args:
    raw: uint8 [H, W].
    label_map: int16 [256], a `Dataset.label_map`.
    path: the label's file, for the message.

  Returns:
    uint8 [H, W] of ids and IGNORE_LABEL.

  Raises:
    BadFile: naming the first raw label that the dataset does not have.
  """
  ids = label_map[raw]
  if (ids < 0).any():
    row, column = np.argwhere(ids < 0)[0]
    others = len(np.unique(raw[ids < 0])) - 1
    more = f' ({others} more values are out of range too)' if others else ''
    raise BadFile(path, f'has label value {raw[row, column]} at row {row}, column {column}; '
                        f'valid are {describe_valid(label_map)}{more}')
  return ids.astype(np.uint8)


def encode_pair(source, label_map, *, read_raw=None, generate=None):
  """Decodes, verifies and encodes one image and its label.

  Args:
    source: a `Source`.
    label_map: the dataset's `label_map`.
    read_raw: the dataset's `read_label`; None for label pictures.
    generate: the dataset's `generate`, or None.

  Returns:
    a Pair; or a list of BadFile, returned and not raised so that the other files are still verified.
  """
  image, label = generate(source) if generate else (source.image, source.label)
  label_path = source.name if isinstance(label, np.ndarray) else label
  bad, raw, picture = [], None, None
  try:
    raw = label if isinstance(label, np.ndarray) else (read_raw or read_label)(label)
    ids = to_ids(raw, label_map, label_path)
  except BadFile as error:
    bad.append(error)
  try:
    picture = encode_image(image, None if raw is None else raw.shape)
  except BadFile as error:
    bad.append(error)
  if raw is not None and picture is not None and (picture.height, picture.width) != raw.shape:
    bad.append(BadFile(label_path, f'is {raw.shape[1]}x{raw.shape[0]} pixels, but its image is '
                                   f'{picture.width}x{picture.height}'))
  if bad:
    return bad
  return Pair(source.name, picture, encode_png(ids), np.bincount(ids.ravel(), minlength=IGNORE_LABEL + 1))
