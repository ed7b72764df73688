"""Label pictures that are written as their rows come: tiled TIFF with the input's georeference, and PNG."""

import shutil
import struct
import zlib

import numpy as np
import tifffile

from datasets import images, windows
from utils.inference.ledgers import about
from utils.marks import SOFTWARE, png_mark

TILE = 256  # height and width of a TIFF's tiles, in pixels
_BIG = 2**32 - 2**25  # bytes of pixels above which TIFF's 32-bit offsets may not do
_START, _RGB, _PALETTE = b'\x89PNG\r\n\x1a\n', 2, 3  # PNG's signature, and two of its color types


def paths(source, stem, *, is_large=False):
  """Names the files of a picture's label.

  Args:
    source: path of the picture.
    stem: path of the outputs without suffix.
    is_large: whether the picture is read by rows.

  Returns:
    dict with `label`: NAME_label.tif of a TIFF that is large or georeferenced, NAME_label.png of others; and, where a
    world file lies beside the picture, `world`, its copy beside the label.
  """
  place = windows.georeference(source)
  as_tiff = images.is_tiff(source) and (is_large or place.tags or place.world_file)
  found = {'label': f'{stem}_label.{"tif" if as_tiff else "png"}'}
  return {**found, 'world': f'{stem}_label.{"tfw" if as_tiff else "pgw"}'} if place.world_file else found


def write(source, files, bands, size, output):
  """Writes a picture's label row by row, and copies its world file.

  Args:
    source: path of the picture.
    files: dict of paths, as `paths` names them.
    bands: iterable of uint8 [h, W], label ids from top to bottom.
    size: (height, width).
    output: a results.Output.

  Raises:
    UserError: if a file cannot be written.
  """
  values = (output.numbering.values[band] for band in bands)
  place = windows.georeference(source)
  with output.ledger.replacing(files['label']) as temporary:
    if files['label'].endswith('.tif'):
      write_tiff(temporary, values, size, output.numbering.palette, place.tags)
    else:
      write_png(temporary, values, size, output.numbering.palette, output.run)
  if 'world' in files:
    with output.ledger.replacing(files['world']) as temporary:
      shutil.copyfile(place.world_file, temporary)


def write_tiff(path, bands, size, palette, tags=()):
  """Writes a tiled TIFF, deflate-compressed, BigTIFF if large.

  Args:
    path: path of the file.
    bands: iterable of uint8 [h, W] from top to bottom; of [h, W, 3], RGB, without a palette.
    size: (height, width).
    palette: uint8 [256, 3], or None.
    tags: further tags, list of (code, type, count, value).
  """
  shape = tuple(size) if palette is not None else (*size, 3)
  form = {'photometric': 'rgb'} if palette is None else {
      'photometric': 'palette', 'colormap': palette.T.astype(np.uint16) * 257}
  with tifffile.TiffWriter(path, bigtiff=np.prod(shape, dtype=np.int64) > _BIG) as writer:
    writer.write(_tiles(bands, size), shape=shape, dtype=np.uint8, tile=(TILE, TILE), compression='adobe_deflate',
                 software=SOFTWARE, metadata=None, extratags=[(*tag, True) for tag in tags], **form)


def _tiles(bands, size):
  """Yields uint8 [TILE, TILE] or smaller at the right and the lower edge, row by row."""
  rest, done = None, 0
  for band in bands:
    rest, done = band if rest is None else np.concatenate([rest, band]), done + len(band)
    count = len(rest) if done == size[0] else len(rest) // TILE * TILE
    for top in range(0, count, TILE):
      for left in range(0, size[1], TILE):
        yield np.ascontiguousarray(rest[top:top + TILE, left:left + TILE])
    rest = rest[count:]


def write_png(path, bands, size, palette, run):
  """Writes an 8-bit PNG (PNG 1.2, chapters 4 and 6) with the mark of a run.

  Args:
    path: path of the file.
    bands: iterable of uint8 [h, W] from top to bottom; of [h, W, 3], RGB, without a palette.
    size: (height, width).
    palette: uint8 [256, 3], or None.
    run: the runs.Run whose result it is.
  """
  kind = _RGB if palette is None else _PALETTE
  with open(path, 'wb') as file:
    file.write(_START + _chunk(b'IHDR', struct.pack('>IIBBBBB', size[1], size[0], 8, kind, 0, 0, 0)))
    marked_at, checksum = file.tell(), 0
    file.write(png_mark(about(run), checksum))
    for part in _pixel_chunks(bands, palette):
      file.write(part)
      checksum = zlib.crc32(part, checksum)
    file.seek(marked_at)
    file.write(png_mark(about(run), checksum))


def _pixel_chunks(bands, palette):
  """Yields the bytes of a PNG behind its header, chunk by chunk."""
  if palette is not None:
    yield _chunk(b'PLTE', palette.tobytes())
  packer = zlib.compressobj()
  for band in bands:  # a filter type before each row: 0, the row as it is
    rows = np.pad(band.reshape(len(band), -1), ((0, 0), (1, 0)))
    yield _chunk(b'IDAT', packer.compress(rows.tobytes()))
  yield _chunk(b'IDAT', packer.flush())
  yield _chunk(b'IEND', b'')


def _chunk(kind, data):
  return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))
