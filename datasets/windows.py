"""Reading pictures too large for memory, by rows: TIFF by its tiles and strips, PNG and JPEG from a file on disk.

    with open_rows('map.tif', scratch='predictions') as picture:
      picture.shape            # (height, width, 3)
      picture[1000:1500]       # uint8 [500, width, 3]

A TIFF holds tiles or strips, of which those are decoded that the rows touch. PNG and JPEG can be decoded only from
their first row on: they are decoded once, to a memory-mapped file whose pages the system may drop from memory, and
which is gone with the process. The same is done for a TIFF whose strips are large.
"""

import contextlib
import dataclasses
import mmap
import os
import shutil
import tempfile

import imagecodecs
import numpy as np
import tifffile
from PIL import Image

from datasets import bands, images
from datasets.images import BadFile, Header
from datasets.reading import Reading

LARGE_SEGMENT = 2**26  # bytes: a TIFF with larger tiles or strips is decoded as a whole
SAMPLED = 64  # rows that settle what the values of a picture decide
_JPEG_SCAN, _JPEG_END = b'\xff\xda', b'\xff\xd9'
_GEO_TAGS = (33550, 33922, 34264, 34735, 34736, 34737)  # GeoTIFF 1.1: pixel scale, tie points, transformation, keys
_WORLD_SUFFIXES = {'.tif': '.tfw', '.tiff': '.tfw', '.png': '.pgw', '.jpg': '.jgw', '.jpeg': '.jgw'}


def by_rows(header, reading=Reading()):  # noqa: B008, the record is frozen
  """Whether `open_rows` reads a picture with a Reading; `header` is of `read_header`."""
  if not reading.is_plain:
    return header.samples >= len(reading.bands)
  return header.format in ('TIFF', 'PNG') or header.format == 'JPEG' and header.mode in ('L', 'RGB')


class Rows:
  """A picture that is read by rows. `rows[top:bottom]` is an image of these rows; the rows read last are kept.

  Attributes:
    shape: (H, W, number of bands).
  """

  def __init__(self, raw, convert):
    """Takes the stored values, and how they become an image.

    Args:
      raw: array or `_Segments`: [H, W, S], sliced by rows.
      convert: function of values [h, W, S], returns uint8 [h, W, 3], or [h, W, N] for a reading with bands.
    """
    self._raw, self._convert = raw, convert
    self._top, self._kept = 0, convert(np.asarray(raw[:1]))
    self.shape = (*raw.shape[:2], self._kept.shape[-1])

  def __getitem__(self, rows):
    top, bottom, _ = rows.indices(self.shape[0])
    if not self._top <= top <= bottom <= self._top + len(self._kept):
      self._top, self._kept = top, self._convert(np.asarray(self._raw[top:bottom]))
    return self._kept[top - self._top:bottom - self._top]


class _Segments:
  """The stored values of a TIFF's page, [H, W, S], of which the tiles or strips are decoded that given rows touch."""

  def __init__(self, page, path):
    self._page, self._path = page, path
    planes, _, height, width, samples = page.shaped
    self.shape, self.dtype = (height, width, planes * samples), page.dtype
    self._length, self._width = _segment_size(page)

  def __getitem__(self, rows):
    top, bottom, _ = rows.indices(self.shape[0])
    values = np.zeros((bottom - top, *self.shape[1:]), self.dtype)
    down, across = -(-self.shape[0] // self._length), -(-self.shape[1] // self._width)
    for plane in range(self._page.shaped[0]):
      for row in range(top // self._length, -(-bottom // self._length)):
        for column in range(across):
          self._copy((plane * down + row) * across + column, values, top)
    return values

  def _copy(self, index, values, top):
    """Decodes a tile or strip and copies what lies in `values`, whose first row is `top`."""
    count = self._page.databytecounts[index]
    if not count:  # left out by the writer, where there are no data: zeros
      return
    file = self._page.parent.filehandle
    file.seek(self._page.dataoffsets[index])
    data = file.read(count)
    if len(data) < count:
      raise BadFile(self._path, f'is truncated: its tile or strip {index} lies behind its end')
    with _decoding(self._path):
      segment, (plane, _, y, x, _), _ = self._page.decode(data, index, jpegtables=self._page.jpegtables,
                                                           jpegheader=self._page.jpegheader)
    segment = segment[0, max(top - y, 0):top + len(values) - y, :self.shape[1] - x]
    start, samples = max(y - top, 0), segment.shape[-1]
    values[start:start + len(segment), x:x + segment.shape[1], plane * samples:(plane + 1) * samples] = segment


def _segment_size(page):
  """(height, width) of a TIFF page's tiles or strips."""
  return (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, page.imagewidth)


def read_header(path):
  """Reads the header of a picture of any size, also of a TIFF that Pillow does not know, whose mode is ''.

  Returns:
    an images.Header; None where the file is missing or no picture: whoever decodes it says why.
  """
  if not images.is_tiff(path):
    with pixel_limit():
      return images.read_header(path)
  try:
    with tifffile.TiffFile(path) as file:
      page = file.pages.first
      stacked = len(bands.own_pages(file)) > 1
      samples = 0 if stacked or page.photometric == tifffile.PHOTOMETRIC.MINISWHITE else page.samplesperpixel
      return Header('TIFF', '', (page.imagelength, page.imagewidth), samples=samples,
                    orientation=bands.tiff_orientation(page))
  except Exception:  # decoders raise nearly anything on broken data
    return None


@contextlib.contextmanager
def pixel_limit(most=None):
  """A context in which Pillow decodes pictures of up to `most` pixels; of any size by default."""
  before = Image.MAX_IMAGE_PIXELS
  Image.MAX_IMAGE_PIXELS = most if most is None else -(-most // 2)  # Pillow refuses twice as many
  try:
    yield
  finally:
    Image.MAX_IMAGE_PIXELS = before


@contextlib.contextmanager
def open_rows(path, scratch, reading=Reading()):  # noqa: B008, the record is frozen
  """Opens a large picture that can be read `by_rows`.

  Args:
    path: the picture's file.
    scratch: folder on a disk with room for the decoded picture, for PNG, JPEG and TIFFs with large strips.
    reading: the dataset's Reading. What the values of a whole picture would decide is decided by SAMPLED of its rows.

  Yields:
    Rows, as `datasets.images.read_image` reads the whole picture.

  Raises:
    BadFile: if the picture cannot be decoded, is of a kind that is not understood, or the disk has no room.
  """
  header = read_header(path)
  with contextlib.ExitStack() as stack:
    if header.format == 'TIFF':
      with _decoding(path):
        page = stack.enter_context(tifffile.TiffFile(path)).pages.first
      stored = _tiff_values(page, path, scratch)
      fit = _fit_colors(_tiff_colors(page, path)) if reading.is_plain else _fit_bands(page)
    else:
      stored, fit = _decoded(path, header, scratch), _fit_colors(_with_bands)
    if reading.exif == 'turn' and header.orientation != 1:
      if isinstance(stored, _Segments):
        raise BadFile(path, f'is stored turned (orientation {header.orientation}), which is not understood in TIFFs of '
                            'this size')
      stored = bands.turned(stored, header.orientation)
    places = np.linspace(0, stored.shape[0] - 1, SAMPLED).astype(int)
    fit(np.concatenate([stored[place:place + 1] for place in places]), path, reading, is_whole=True)
    settled = _settled(stored.dtype, reading)
    yield Rows(stored, lambda values: fit(values, path, settled, is_whole=False))


def _decoded(path, header, scratch):
  """Decodes a PNG or JPEG to a memory-mapped file. Returns uint8 or uint16 [H, W] or [H, W, S]."""
  with open(path, 'rb') as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
    if header.format == 'JPEG':
      if data.rfind(_JPEG_END) < data.rfind(_JPEG_SCAN):
        raise BadFile(path, 'cannot be decoded: truncated JPEG file')
      values = _scratch(path, scratch, (*header.size, *((3,) if header.mode == 'RGB' else ())), np.uint8)
      with _decoding(path):
        return imagecodecs.jpeg8_decode(data, out=values)
    if data.rfind(images.PNG_END) < 0:
      raise BadFile(path, 'cannot be decoded: truncated PNG file')
    depth, color = images.png_header(data[:images.PNG_HEADER])
    samples = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}[color] + (_has_transparent_color(path) and color in (0, 2, 3))
    shape = (*header.size, *((samples,) if samples > 1 else ()))
    values = _scratch(path, scratch, shape, np.uint16 if depth == 16 else np.uint8)
    with _decoding(path):
      return imagecodecs.png_decode(data, out=values)


def _has_transparent_color(path):
  with pixel_limit(), Image.open(path, formats=('PNG',)) as image:
    return 'transparency' in image.info


def _scratch(path, folder, shape, dtype):
  """Makes an array in a file that has no name, and so is gone with the process."""
  needed = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
  free = shutil.disk_usage(folder).free
  if needed > free:
    raise BadFile(path, f'needs {needed / 1e9:.1f} GB on disk while it is read, and {folder} has {free / 1e9:.1f} left')
  with tempfile.TemporaryFile(dir=folder) as file:
    return np.memmap(file, dtype, 'w+', shape=shape)


def _tiff_values(page, path, scratch):
  """The stored values of a TIFF's page, [H, W, S]: mapped where they are not compressed, else by tiles and strips."""
  planes, _, height, width, samples = page.shaped
  with _decoding(path):
    if page.is_memmappable:
      values = page.asarray(out='memmap')
    elif np.prod(_segment_size(page), dtype=np.int64) * samples * page.dtype.itemsize > LARGE_SEGMENT:
      values = page.asarray(out=_scratch(path, scratch, page.shape, page.dtype))
    else:
      return _Segments(page, path)
  values = values.reshape(planes, height, width, samples)
  return np.moveaxis(values, 0, 2).reshape(height, width, planes * samples) if planes > 1 else values[0]


@contextlib.contextmanager
def _decoding(path):
  """A context in which what decoders raise becomes a BadFile."""
  try:
    yield
  except (BadFile, MemoryError):
    raise
  except Exception as error:  # decoders raise nearly anything on broken data
    raise BadFile(path, f'cannot be decoded: {error}') from error


def _with_bands(values):
  """Values of gray, with or without alpha, or colors [h, W] or [h, W, S] as [h, W, 1, 3 or 4]."""
  if values.ndim == 2:
    return values[..., np.newaxis]
  return values[..., [0, 0, 0, 1]] if values.shape[-1] == 2 else values


def _tiff_colors(page, path):
  """Function that turns stored values [h, W, S] of a TIFF's page to gray or colors [h, W, 1, 3 or 4]."""
  photometric, bits = tifffile.PHOTOMETRIC(page.photometric), page.bitspersample
  if photometric == tifffile.PHOTOMETRIC.PALETTE:
    table = (page.colormap.T >> 8).astype(np.uint8)
    return lambda values: table[values[..., 0]]
  if photometric == tifffile.PHOTOMETRIC.SEPARATED and page.dtype == np.uint8 and page.samplesperpixel == 4:
    return lambda values: np.asarray(Image.fromarray(values, 'CMYK').convert('RGB'))
  is_jpeg = page.compression in (tifffile.COMPRESSION.JPEG, tifffile.COMPRESSION.OJPEG)  # decoded to RGB
  if photometric not in (0, 1, 2) and not (photometric == tifffile.PHOTOMETRIC.YCBCR and is_jpeg):
    raise BadFile(path, f'has colors of the kind {photometric.name}; gray, RGB, palettes and CMYK are understood')
  factor = {1: 255, 2: 85, 4: 17}.get(bits, 1)  # fills 0..255, as Pillow does

  def colors(values):
    values = values.astype(np.uint8) * np.uint8(factor) if bits < 8 else values
    if photometric == tifffile.PHOTOMETRIC.MINISWHITE:
      values = np.iinfo(values.dtype).max - values
    return _with_bands(values)

  return colors


def _settled(dtype, reading):
  """A Reading that leaves nothing to the values of single rows; `dtype` is that of the values as stored."""
  if reading.alpha == 'auto':
    reading = dataclasses.replace(reading, alpha='white')
  if reading.is_plain and dtype != np.uint8 and not reading.value_range:
    reading = dataclasses.replace(reading, value_range=((0, 65535),))
  return reading


def _fit_colors(plain):
  """Function of (values, path, reading, is_whole) that makes an image of RGB; `plain` is as `_with_bands`."""
  return lambda values, path, reading, is_whole: images.to_rgb(plain(values), path, reading)


def _fit_bands(page):
  """Function of (values, path, reading, is_whole) that makes an image of bands of a TIFF's page."""
  info = bands.tiff_info(page, bands_of_page=page.samplesperpixel)
  return lambda values, path, reading, is_whole: bands.fit(
      bands.known_type(values, path), info, path, reading, is_whole=is_whole)


@dataclasses.dataclass(frozen=True)
class Georeference:
  """Where a picture lies on the earth.

  Attributes:
    tags: its GeoTIFF tags, list of (code, type, count, value) as tifffile writes them; empty if it has none.
    world_file: path of the world file beside it, NAME.tfw, NAME.tifw or NAME.wld; None if there is none.
  """
  tags: list
  world_file: str | None


def georeference(path):
  """Finds out where a picture lies on the earth: a Georeference. One that is stored turned lies nowhere."""
  tags = []
  try:
    header = read_header(path)
    if header.orientation != 1:
      return Georeference([], None)
    if header.format == 'TIFF':
      with tifffile.TiffFile(path) as file:
        tags = [(tag.code, int(tag.dtype), tag.count, tag.value) for tag in file.pages.first.tags
                if tag.code in _GEO_TAGS]
  except Exception:  # whoever decodes the picture names what is broken
    return Georeference([], None)
  stem, suffix = os.path.splitext(path)
  ends = (_WORLD_SUFFIXES.get(suffix.lower(), '.wld'), f'{suffix}w', '.wld')
  found = (stem + form(end) for end in ends for form in (str.lower, str.upper))
  return Georeference(tags, next(filter(os.path.isfile, found), None))
