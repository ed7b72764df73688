"""Pictures of any number of bands, and of more than eight bits: GeoTIFF, multi-page TIFF, PNG, or a file for each band.

A band's values stay as they are stored. Georeference is not looked at. Whole numbers that no type of `DTYPES` has
(signed, or of 32 and 64 bits) become float32 if that holds them exactly; float64 is rounded to float32.
"""

import dataclasses
import io
import logging
import os
import re
import struct
import unicodedata
import warnings
import zlib

import imagecodecs
import numpy as np
import tifffile
from PIL import Image

from datasets import images
from datasets.dataset import BadFile
from datasets.reading import COLORS, DTYPES
from utils.errors import UserError, listed

MOST_BYTES = 2**30  # decoded size above which a file may be a decompression bomb, and is too large for a record
EXTENSIONS = ('.tif', '.tiff', '.png')  # of files that hold one band
FAR = 10  # value ranges between the value range and a value that is far outside
_OTHER_PAGES = 1 | 4  # bits of TIFF's NewSubfileType: a smaller copy of another page, a transparency mask
_GDAL_METADATA, _GDAL_NODATA, _ORIENTATION = 42112, 42113, 274  # TIFF tags
ALPHA = (1, 2)  # values of TIFF's ExtraSamples that mark transparency; 0 says nothing
_PNG_GRAY = (0, 4)  # color types of PNG's IHDR chunk: gray, and gray with alpha
_OTHERS = ('JPEG', 'BMP', 'GIF', 'PPM', 'WEBP')  # Pillow's names of further formats
_EXACT = 2**24  # float32 holds all whole numbers up to here
_DESCRIPTION = re.compile(r'<Item name="DESCRIPTION" sample="(\d+)" role="description">([^<]*)</Item>')
_TURNS = {  # orientation -> (whether rows and columns change places first, order of the rows, order of the columns)
    2: (False, 1, -1), 3: (False, -1, -1), 4: (False, -1, 1), 5: (True, 1, 1), 6: (True, 1, -1), 7: (True, -1, -1),
    8: (True, -1, 1)}
logging.getLogger('tifffile').setLevel(logging.CRITICAL)  # what matters in its warnings becomes a BadFile


@dataclasses.dataclass(frozen=True)
class Info:
  """What a file says about its bands.

  Attributes:
    names: names of the bands, as GDAL writes them, or red, green and blue where the file says that it holds colors
      (with 'band 4' and so on behind them); None where it says nothing.
    nodata: the value that stands for no data, a float; None where there is none.
    photometric: what the first bands are, in tifffile's words: 'rgb', 'minisblack', 'separated', ...
    extras: for each band behind those, TIFF's ExtraSamples: 1 or 2 for transparency, 0 for unspecified.
    orientation: 1 to 8, as EXIF's; 1 for pixels that are stored upright.
    bits: bits of a value as stored: 8, 12, 16, 32, ...
  """
  names: tuple | None = None
  nodata: float | None = None
  photometric: str = 'minisblack'
  extras: tuple = ()
  orientation: int = 1
  bits: int = 8

  @property
  def last_is_alpha(self):
    """Whether the last band is marked as transparency."""
    return bool(self.extras) and self.extras[-1] in ALPHA


def read(path):
  """Reads all bands of a file, as stored: neither turned nor scaled, nodata left in it.

  Args:
    path: a TIFF (bands as samples of a pixel or as pages), a PNG, or another picture, which is gray or RGB of 8 bits.

  Returns:
    (array, info): uint8, uint16 or float32 [H, W, N], and the file's Info.

  Raises:
    BadFile: if the file is missing, broken, too large, or of pages or values that make no bands.
  """
  start = images.read_bytes(path, images.PNG_HEADER)
  is_tiff = start.startswith(images.TIFF_STARTS)
  decode = _read_tiff if is_tiff else _read_png if images.png_header(start) else _read_other
  try:
    array, info = decode(path)
  except (BadFile, MemoryError):
    raise
  except Exception as error:  # decoders raise nearly anything on broken data
    raise BadFile(path, f'cannot be decoded: {str(error).splitlines()[0] if str(error) else type(error).__name__}'
                  ) from error
  return known_type(array, path), info


def read_turned(path, reading):
  """As `read`, with the pixels turned as a Reading says."""
  array, info = read(path)
  return np.ascontiguousarray(turned(array, info.orientation)) if reading.exif == 'turn' else array, info


def _read_tiff(path):
  """Reads a TIFF. Returns (array [H, W, N] of any type, Info)."""
  with images.open_file(path) as opened, tifffile.TiffFile(opened) as file:
    pages = own_pages(file)
    if not pages:
      raise BadFile(path, 'holds no page but reduced copies and masks')
    _check_pages(pages, path)
    series = file.series[0]
    if len(pages) == 1 and series.is_truncated:  # one page that stands for a stack of them, as ImageJ's
      _check_bytes(series.size * series.dtype.itemsize, path)
      array = series.asarray()
    else:
      array = np.stack([page.asarray() for page in pages]) if len(pages) > 1 else pages[0].asarray()
    stacked, first = len(pages) > 1 or series.is_truncated, pages[0].aspage()
    if array.ndim > 3:
      raise BadFile(path, f'holds an array of {array.ndim} dimensions, {"x".join(map(str, array.shape))}; rows, '
                          'columns and bands are understood')
    info, colors = tiff_info(first, bands_of_page=1 if stacked else first.samplesperpixel), first.colormap
  if array.ndim == 2:
    array = array[..., np.newaxis]
  elif stacked or first.axes.startswith('S'):
    array = np.moveaxis(array, 0, -1)
  if info.photometric == 'palette':
    array, info = _by_palette(array, colors, path), dataclasses.replace(info, names=COLORS, photometric='rgb')
  if info.photometric == 'miniswhite' and array.dtype.kind in 'ub':
    array = ~array if array.dtype == bool else np.array((1 << info.bits) - 1, array.dtype) - array
  return array, info


def own_pages(file):
  """The pages of a tifffile.TiffFile that are neither smaller copies of another one nor transparency masks, a list."""
  return [page for page in (file.pages[place] for place in range(len(file.pages)))
          if not int(page.subfiletype) & _OTHER_PAGES]


def _check_pages(pages, path):
  """Raises BadFile unless the pages are bands of one picture, whole and small enough."""
  first = pages[0]
  for number, page in enumerate(pages, start=1):
    if len(pages) > 1 and page.samplesperpixel > 1:
      raise BadFile(path, f'has {len(pages)} pages, and {page.samplesperpixel} bands on page {number}; bands are '
                          'either all on one page, or one a page')
    if page.shape != first.shape:
      raise BadFile(path, f'has pages of different sizes: {first.imagewidth}x{first.imagelength} on page 1 and '
                          f'{page.imagewidth}x{page.imagelength} on page {number}')
    if page.dtype != first.dtype:
      raise BadFile(path, f'has pages of different types: {first.dtype} on page 1 and {page.dtype} on page {number}')
  if first.dtype is None:
    raise BadFile(path, f'has values of {first.bitspersample} bits, which are not understood')
  _check_bytes(sum(page.size * page.dtype.itemsize for page in pages), path)
  size = os.path.getsize(path)
  ends = [start + length for page in pages for start, length in zip(page.dataoffsets, page.databytecounts)]
  if max(ends, default=0) > size:
    raise BadFile(path, f'is truncated: its pixels end at byte {max(ends)}, and the file at {size}')


def _check_bytes(count, path):
  if count > MOST_BYTES:
    raise BadFile(path, f'takes {count / 2**30:.1f} GiB decoded, and at most {MOST_BYTES / 2**30:g} are read; cut it '
                        'into parts')


def tiff_info(page, bands_of_page):
  """The Info of a TIFF by its first page."""
  tags = {code: page.tags[code].value for code in (_GDAL_METADATA, _GDAL_NODATA) if code in page.tags}
  try:
    nodata = float(str(tags[_GDAL_NODATA]).strip().strip('\0'))
  except (KeyError, ValueError):
    nodata = None
  found = {int(place): name.strip() for place, name in _DESCRIPTION.findall(str(tags.get(_GDAL_METADATA, '')))}
  photometric = tifffile.PHOTOMETRIC(page.photometric).name.lower()
  photometric = 'rgb' if photometric == 'ycbcr' else photometric  # tifffile decodes it to RGB
  names = None
  if sorted(found) == list(range(bands_of_page)) and len(set(found.values())) == len(found) and all(found.values()):
    names = tuple(found[place] for place in range(bands_of_page))
  elif photometric == 'rgb' and bands_of_page >= len(COLORS):
    names = (*COLORS, *(f'band {place + 1}' for place in range(len(COLORS), bands_of_page)))
  bits = page.bitspersample if isinstance(page.bitspersample, int) else max(page.bitspersample)
  return Info(names, nodata, photometric, tuple(map(int, page.extrasamples)), tiff_orientation(page), bits)


def tiff_orientation(page):
  """The orientation, 1 to 8, of a TIFF's page."""
  orientation = int(page.tags.valueof(_ORIENTATION, 1))
  return orientation if orientation in _TURNS else 1


def _by_palette(array, colors, path):
  """The colors, uint8 [H, W, 3], of palette indices [H, W, 1]; `colors`, uint16 [3, indices], is a TIFF's palette."""
  if colors is None or array.shape[-1] != 1 or array.max(initial=0) >= colors.shape[1]:
    raise BadFile(path, 'has palette indices without a color')
  return (colors.T // 257).astype(np.uint8)[array[..., 0]]


def _read_png(path):
  """Reads a PNG of any depth. Returns (array [H, W, N], Info)."""
  with images.open_file(path) as file:
    data = file.read()
  width, height, bits, kind = struct.unpack('>IIBB', data[16:images.PNG_HEADER])
  _check_bytes(width * height * 4 * max(1, bits // 8), path)
  array = imagecodecs.png_decode(data)
  with Image.open(io.BytesIO(data), formats=('PNG',)) as image:
    turn = images.orientation(image)
  if array.ndim == 2:
    array = array[..., np.newaxis]
  has_alpha = array.shape[-1] in (2, 4)  # imagecodecs turns palettes into colors, and their transparency into alpha
  is_gray = kind in _PNG_GRAY
  names = ('gray',) if is_gray else COLORS
  return array, Info((*names, 'alpha') if has_alpha else names, None, 'minisblack' if is_gray else 'rgb',
                     (2,) if has_alpha else (), turn, 16 if array.dtype == np.uint16 else 8)


def _read_other(path):
  """Reads a picture of another format by Pillow: uint8 [H, W, 1 or 3]."""
  with warnings.catch_warnings(), images.open_file(path) as file, Image.open(file, formats=_OTHERS) as image:
    warnings.simplefilter('ignore')
    is_gray, turn = image.mode in ('1', 'L'), images.orientation(image)
    array = np.asarray(image.convert('L' if is_gray else 'RGB'))
  return array.reshape(*array.shape[:2], -1), Info(
      ('gray',) if is_gray else COLORS, photometric='minisblack' if is_gray else 'rgb', orientation=turn)


def known_type(array, path):
  """Turns an array into one of DTYPES without loss (float64: to the nearest float32)."""
  array = array.astype(array.dtype.newbyteorder('='), copy=False)
  if array.dtype == bool:
    return array.astype(np.uint8)
  if array.dtype.name in DTYPES:
    return array
  if array.dtype.kind not in 'iuf':
    raise BadFile(path, f'has values of type {array.dtype}; whole numbers and floating-point numbers are understood')
  if array.dtype.kind in 'iu':
    low, high = int(array.min()), int(array.max())
    if max(-low, high) > _EXACT:
      raise BadFile(path, f'has {array.dtype} values from {low} to {high}; float32, in which they would be kept, holds '
                          f'whole numbers up to {_EXACT} exactly')
    return array.astype(np.float32)
  with np.errstate(over='ignore'):
    narrow = array.astype(np.float32)
  if (np.isinf(narrow) & np.isfinite(array)).any():
    raise BadFile(path, f'has {array.dtype} values up to {np.nanmax(np.abs(array)):g}, which float32 cannot hold')
  return narrow


def read_as(path, reading):
  """Reads a picture as the pictures of its dataset are read.

  Values that stand for no data (NaN, or GDAL's nodata) become the low end of the band's value range, and so 0 in a
  network.

  Args:
    path: a path, also of a band's own file, beside which those of the other bands lie; or paths, one for each band.
    reading: a Reading with bands.

  Returns:
    [H, W, N] of the reading's dtype, N its number of bands.

  Raises:
    BadFile: as `read`, or if the number of bands, their type, their sizes or their values are not as the reading says.
  """
  paths = tuple(path) if isinstance(path, (list, tuple)) else (band_file(path, reading.bands) or (0, ()))[1]
  if not paths:
    return _read_file(path, reading)
  parts = [_read_file(one, dataclasses.replace(reading, bands=(band,), value_range=_own_range(reading, place)))
           for place, (one, band) in enumerate(zip(paths, reading.bands, strict=True))]
  for one, part in zip(paths, parts):
    if part.shape != parts[0].shape:
      raise BadFile(one, f'is {_size(part)} pixels, and the band beside it, {paths[0]}, is {_size(parts[0])}; bands of '
                         'one picture must have one size')
  return np.concatenate(parts, axis=-1)


def percentiles(path, reading, shares):
  """Percentiles of each band's values in one picture, of those that are data.

  Args:
    path: as of `read_as`.
    reading: a Reading with bands.
    shares: numbers from 0 to 100.

  Returns:
    float64 [len(shares), N]; NaN for a band without data.

  Raises:
    BadFile: as `read`, or if there are too few bands.
  """
  columns = []
  for one in path if isinstance(path, (list, tuple)) else [path]:
    array, info = read(one)
    known = has_data(array, info.nodata)
    columns += [np.percentile(array[..., place][known[..., place]], shares) if known[..., place].any()
                else np.full(len(shares), np.nan) for place in range(array.shape[-1])]
  if len(columns) < len(reading.bands):
    raise BadFile(one, f'has {_count(len(columns))}, and {len(reading.bands)} are wanted')
  return np.stack(columns[:len(reading.bands)], axis=1)


def _own_range(reading, place):
  """The value range of one band, as a Reading's value_range."""
  return reading.value_range[place:place + 1] if len(reading.value_range) > 1 else reading.value_range


def _size(array):
  return f'{array.shape[1]}x{array.shape[0]}'


def fit(array, info, path, reading, *, is_whole=True):
  """Makes what is stored in a file an image as those of its dataset, see `read_as`; it is not turned.

  Args:
    array: [H, W, N], all rows of a file, or some.
    info: the file's Info.
    path: the file, for the message.
    reading: a Reading with bands.
    is_whole: whether `array` is all of the file: only then do its values say what is wrong with all of them.

  Returns:
    [H, W, number of bands] of the reading's dtype.

  Raises:
    BadFile: as `read_as`.
  """
  bands = reading.bands
  if array.shape[-1] == len(bands) + 1 and info.last_is_alpha and reading.alpha != 'band':
    array = _without_alpha(array, reading, path)
  if array.shape[-1] != len(bands):
    raise BadFile(path, f'has {_count(array.shape[-1])}, and {_count(len(bands))} '
                        f'{"is" if len(bands) == 1 else "are"} wanted: {listed(bands, 8)}')
  if info.names and info.names[:3] != COLORS and info.names != bands and set(info.names) == set(bands):
    raise BadFile(path, f'has its bands in another order than the dataset: {listed(info.names, 8)} and not '
                        f'{listed(bands, 8)}')
  if array.dtype != reading.dtype:
    raise BadFile(path, f'has values of type {array.dtype}, and {reading.dtype} is wanted, as the dataset has them')
  if is_whole and array.dtype == np.float32 and _is_missing(array, info.nodata).all():
    raise BadFile(path, 'holds no data: all its values are NaN or nodata')
  array = _without_nodata(array, info.nodata, reading)
  if is_whole and reading.value_range:
    _check_values(array, reading, path)
  return array


def _read_file(path, reading):
  """Reads one file as `read_as`."""
  return fit(*read_turned(path, reading), path, reading)


def _count(number):
  return f'{number} band{"s" * (number != 1)}'


def _without_alpha(array, reading, path):
  """Drops the last band, which is alpha; unless alpha is 'drop', transparent pixels get the high end of the range."""
  colors, alpha = array[..., :-1], array[..., -1:]
  if reading.alpha == 'drop':
    return colors
  most = np.iinfo(array.dtype).max if array.dtype.kind == 'u' else 1
  if reading.alpha == 'auto' and 2 * ((alpha == 0) | (alpha == most)).sum() < alpha.size:
    raise BadFile(path, f'has a last band that is marked as transparency and varies from {alpha.min():g} to '
                        f'{alpha.max():g} as a band does; say alpha "band", "drop" or "white"')
  high, share = reading.limits(colors.shape[-1])[1], alpha.astype(np.float32) / most
  mixed = colors * share + high * (1 - share)
  return (np.rint(mixed) if array.dtype.kind == 'u' else mixed).astype(array.dtype)


def has_data(array, nodata):
  """Whether each value is finite and does not stand for no data, as `nodata` does: bool of the array's shape."""
  return np.isfinite(array) & ~_is_missing(array, nodata)


def _is_missing(array, nodata):
  """Whether each value stands for no data: bool of the array's shape."""
  missing = np.isnan(array) if array.dtype == np.float32 else np.zeros(array.shape, bool)
  if nodata is not None and not np.isnan(nodata):
    missing |= array == np.asarray(nodata, np.float64).astype(np.float32 if array.dtype == np.float32 else np.float64)
  return missing


def _without_nodata(array, nodata, reading):
  """Puts the low end of each band's value range where there is no data."""
  missing = _is_missing(array, nodata)
  if not missing.any():
    return array
  low = np.broadcast_to(reading.limits(array.shape[-1])[0], array.shape)
  return np.where(missing, low.astype(array.dtype), array)


def _check_values(array, reading, path):
  """Raises BadFile if most values of a band are far outside its value range: they are of another unit or scale."""
  low, high = reading.limits(array.shape[-1])
  reach = FAR * (high - low)
  share = ((array < low - reach) | (array > high + reach)).mean(axis=(0, 1))
  place = int(share.argmax())
  if share[place] > 0.5:
    band = array[..., place]
    raise BadFile(path, f'has values from {band.min():g} to {band.max():g} in band {reading.bands[place]!r}, far '
                        f'outside its value range {low[place]:g} to {high[place]:g}')


def turned(array, orientation):
  """A view of pixels [H, W, ...] that is upright, as their orientation, 1 to 8, asks."""
  if orientation not in _TURNS:
    return array
  swapped, rows, columns = _TURNS[orientation]
  return (array.swapaxes(0, 1) if swapped else array)[::rows, ::columns]


def encode(image, reading):
  """Encodes an image of many bands for a record: its raw values, little-endian, compressed by zlib.

  Args:
    image: a path or paths, as of `read_as`; or an array [H, W, N] of the reading's dtype.
    reading: a Reading with bands.

  Returns:
    an images.Picture of the format 'raw'.

  Raises:
    BadFile: as `read_as`.
  """
  array = image if isinstance(image, np.ndarray) else read_as(image, reading)
  if array.shape[2:] != (len(reading.bands),) or array.dtype != reading.dtype:
    raise ValueError(f'{array.dtype} {array.shape} is no image of {len(reading.bands)} bands of {reading.dtype}')
  data = np.ascontiguousarray(array, array.dtype.newbyteorder('<')).tobytes()
  return images.Picture(zlib.compress(data, 1), 'raw', *array.shape[:2], array)


def encode_tiff(array, reading):
  """Encodes an image [H, W, N] as a TIFF, with the bands' names as GDAL writes them; returns its bytes."""
  items = ''.join(f'<Item name="DESCRIPTION" sample="{place}" role="description">{_escaped(name)}</Item>'
                  for place, name in enumerate(reading.bands))
  file = io.BytesIO()
  array, planar = (array, 'contig') if array.shape[-1] > 1 else (array[..., 0], None)
  tifffile.imwrite(file, array, photometric='minisblack', planarconfig=planar, compression='deflate', metadata=None,
                   extratags=[(_GDAL_METADATA, 's', 0, f'<GDALMetadata>{items}</GDALMetadata>', True)])
  return file.getvalue()


def _escaped(name):
  return re.sub(r'[<>&"]', '_', name).encode('ascii', 'replace').decode()


def find_band_files(folder, bands):
  """Finds pictures whose bands are files of their own: `NAME_B02.tif` (also with - or .), or `NAME/B02.tif`.

  Args:
    folder: the folder of the images.
    bands: names of the bands, as they stand in the files' names.

  Returns:
    dict of name -> list of paths in the order of `bands`, sorted by name; empty where no file is named so.

  Raises:
    UserError: naming the picture and the band where one is missing or there twice.
  """
  found = {}
  for place, name, path in _band_files(folder, bands):
    if place in found.setdefault(name, {}):
      raise UserError(f'{folder}: band {bands[place]} of {name} is there twice, as {found[name][place]} and {path}')
    found[name][place] = path
  for name, paths in found.items():
    missing = [band for place, band in enumerate(bands) if place not in paths]
    if missing:
      raise UserError(f'{folder}: {name} has no file of band {listed(missing)}; {next(iter(paths.values()))} is there')
  return {name: [paths[place] for place in range(len(bands))] for name, paths in sorted(found.items())}


def band_file(path, bands):
  """Finds the picture that a file named as one of its bands belongs to, where the files of all bands are there.

  Args:
    path: a file, such as `NAME_B03.tif` or `NAME/B03.tif`.
    bands: names of the bands.

  Returns:
    (place, paths): the place of its band in `bands`, and the tuple of the paths of all bands; None for another file.
  """
  stem, extension = os.path.splitext(path)
  for place, band in enumerate(bands if len(bands) > 1 else ()):
    start = stem.removesuffix(band)
    if start != stem and start.endswith(('_', '-', '.', os.sep)):
      paths = tuple(f'{start}{other}{extension}' for other in bands)
      if all(map(os.path.exists, paths)):
        return place, paths
  return None


def _band_files(folder, bands):
  """Yields (place in `bands`, picture's name in Unicode's form NFC, path) of each file of a band."""
  inside = {band: place for place, band in enumerate(bands)}
  ends = sorted(((f'{mark}{band}', place) for band, place in inside.items() for mark in '_-.'), reverse=True,
                key=lambda pair: len(pair[0]))
  for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
    if entry.name.startswith('.'):
      continue
    if entry.is_dir():
      for name in sorted(os.listdir(entry.path)):
        stem, extension = os.path.splitext(name)
        if extension.lower() in EXTENSIONS and stem in inside:
          yield inside[stem], unicodedata.normalize('NFC', entry.name), os.path.join(entry.path, name)
      continue
    stem, extension = os.path.splitext(entry.name)
    end, place = next(((end, place) for end, place in ends if stem.endswith(end)), ('', None))
    if extension.lower() in EXTENSIONS and place is not None and stem != end:
      yield place, unicodedata.normalize('NFC', stem[:-len(end)]), entry.path
