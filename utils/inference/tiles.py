"""Images larger than memory allows: overlapping tiles, cross-faded, in bands from top to bottom."""

import dataclasses
import functools
import itertools
import math
import operator

import numpy as np

from utils.errors import UserError
from utils.settings import Settings, flag
from utils.workers import threaded_map

CELL = 32  # coarsest stride of the networks: tiles start at its multiples, so that all share one grid of cells
LEAST_TILE = 8 * CELL
BAND_BYTES = 2**30  # limit for the probabilities of a row of tiles, a quarter of which are held for labels alone


@dataclasses.dataclass(frozen=True)
class Tiles(Settings):
  """The size from which images are labeled in tiles, and the tiles' size.

  Attributes:
    max_pixels: greatest number of pixels, in the largest view, of an image that is labeled whole.
    tile_size: greatest height and width of a tile, in pixels; 0: as max_pixels allows.
  """
  max_pixels: int = flag(2_000_000, 'images with more pixels are labeled in overlapping tiles', least=1)
  tile_size: int = flag(0, 'height and width of a tile; 0: as --max_pixels allows', least=0)

  def check(self):
    """Raises UserError if a setting is not valid."""
    super().check()
    if 0 < self.tile_size < LEAST_TILE:
      raise UserError(f'--tile_size={self.tile_size}: valid are {LEAST_TILE} and above, and 0')

  def needed(self, size, enlargement):
    """Whether an image of `size` (height, width) is labeled in tiles; `enlargement` as for size_for."""
    return size[0] * size[1] * enlargement > self.max_pixels

  def size_for(self, size, num_classes, enlargement):
    """Greatest height and width of the tiles, in pixels; by default smaller for wide images and many classes.

    Args:
      size: (height, width) of the image.
      num_classes: number of classes, whose probabilities must fit into BAND_BYTES for a row of tiles.
      enlargement: number of pixels of the largest view over that of the image, see tta.Views.
    """
    if not self.needed(size, enlargement):
      return max(size)
    bytes_a_row = size[1] * num_classes * np.float32().itemsize
    allowed = int(math.sqrt(self.max_pixels / enlargement))
    return self.tile_size or max(min(allowed, BAND_BYTES // bytes_a_row), LEAST_TILE)


def tile_offsets(length, tile_size, overlap):
  """Lays tiles along one axis of an image.

  All tiles have one size, congruent to the image's length modulo CELL: so the last tile ends with the image, and a
  network that centers its padding places its cells as in the whole image.

  Args:
    length: height or width of the image, in pixels.
    tile_size: greatest size of a tile, in pixels.
    overlap: least overlap of two neighbors, in pixels; at most tile_size - 2 * CELL.

  Returns:
    `(size, offsets)`: the tiles' size, and their starts, multiples of CELL, ascending from 0.

  Raises:
    ValueError: if the overlap is too large for the tiles.
  """
  if length <= tile_size:
    return length, [0]
  size = tile_size - (tile_size - length) % CELL
  longest_step = (size - overlap) // CELL
  if longest_step < 1:
    raise ValueError(f'tiles of {tile_size} pixels cannot overlap by {overlap}')
  cells = (length - size) // CELL
  steps = -(-cells // longest_step)
  return size, [CELL * (cells * step // steps) for step in range(steps + 1)]


def fade_weights(size, offsets, overlap):
  """Weights by which neighboring tiles fade into each other.

  Weights ramp linearly from 1 to 0 over `overlap / 2` pixels, centered in the actual overlap: the outermost pixels of a
  tile, which have the least context, get weight 0.

  Args:
    size: height or width of each tile.
    offsets: starts of the tiles, ascending.
    overlap: least overlap of two neighbors, in pixels.

  Returns:
    list of float32 [size], one per tile; at every pixel of the image, the weights sum to 1.
  """
  middles = [(following + offset + size) / 2 for offset, following in zip(offsets, offsets[1:])]

  def risen(position, middle):
    return np.clip((position - middle) / (overlap / 2) + 0.5, 0.0, 1.0)

  weights = []
  for number, offset in enumerate(offsets):
    position = offset + np.arange(size) + 0.5
    fade_in = risen(position, middles[number - 1]) if number else 1.0
    fade_out = risen(position, middles[number]) if number < len(middles) else 0.0
    weights.append((fade_in - fade_out * np.ones(size)).astype(np.float32))
  return weights


def probability_blocks(probabilities, image, *, tile_size, overlap, num_devices=1):
  """Predicts an image tile by tile; holds one tile, and the rows of probabilities that two rows of tiles share.

  With several devices, as many tiles of a row are predicted side by side, and held together with one more.

  Args:
    probabilities: `probabilities(images)`: uint8 [1, h, w, 3] -> float32 [1, h, w, C].
    image: uint8 [H, W, 3], or a large picture that is read by rows (datasets.windows.Rows); each row of tiles reads its
      rows once.
    tile_size: greatest height and width of a tile; a smaller image is one tile.
    overlap: least overlap of neighbors, in pixels.
    num_devices: number of calls of `probabilities` that may run at a time.

  Yields:
    `(top, left, block)`: the place of the block in the image, and its finished probabilities, float32 [h, w, C]. Blocks
    come row by row, from left to right, and cover the image without gap or overlap.
  """
  (height, tops), (width, lefts) = (tile_offsets(length, tile_size, overlap) for length in image.shape[:2])
  vertical, horizontal = fade_weights(height, tops, overlap), fade_weights(width, lefts, overlap)
  mapped = map if num_devices == 1 else functools.partial(threaded_map, num_threads=num_devices)
  below, shared = None, 0  # sums in the `shared` rows that the tiles above have begun
  for top, down, next_top in zip(tops, vertical, tops[1:] + [image.shape[0]]):
    rows, done, beside = image[top:top + height], next_top - top, None
    predicted = mapped(probabilities, (rows[None, :, left:left + width] for left in lefts))
    for left, across, next_left in zip(lefts, horizontal, lefts[1:] + [image.shape[1]]):
      tile = next(predicted)[0]
      if below is None:
        most = max((height - (after - before) for before, after in zip(tops, tops[1:])), default=0)
        below = np.zeros((most, image.shape[1], tile.shape[-1]), np.float32)
      block, begun, finished = tile * (down[:, None] * across)[..., None], 0, next_left - left
      del tile  # and below copies, not views: with many classes each array of a tile's size counts
      if beside is not None:  # columns that the tile at the left has begun
        begun = beside.shape[1]
        block[:, :begun] += beside
      block[:shared, begun:] += below[:shared, left + begun:left + width]
      yield top, left, block[:done, :finished]
      below[:height - done, left:next_left] = block[done:, :finished]
      beside = block[:, finished:].copy()
      del block
    shared = height - done


def probability_bands(probabilities, image, **options):
  """Predicts an image tile by tile; holds one row of tiles at a time. Arguments: see `probability_blocks`.

  Yields:
    `(top, band)`: the first row of the band in the image, and the finished rows, float32 [h, W, C]; bands follow each
    other without a gap.
  """
  blocks = probability_blocks(probabilities, image, **options)
  for top, row in itertools.groupby(blocks, operator.itemgetter(0)):
    band = None
    for _, left, block in row:
      if band is None:
        band = np.empty((len(block), image.shape[1], block.shape[-1]), np.float32)
      band[:, left:left + block.shape[1]] = block
    yield top, band


def label_bands(probabilities, image, **options):
  """Labels an image tile by tile. Arguments: see `probability_blocks`.

  Yields:
    uint8 [h, W], the most probable class of each pixel of the next rows, from top to bottom.
  """
  # With `map`, unlike in a loop, no name holds a block while the next is computed.
  blocks = map(_labelled, probability_blocks(probabilities, image, **options))
  for _, row in itertools.groupby(blocks, operator.itemgetter(0)):
    yield np.concatenate([labels for _, labels in row], axis=1)


def _labelled(part):
  """Turns what `probability_blocks` yields to (top, uint8 [h, w] of labels)."""
  top, _, block = part
  return top, block.argmax(axis=-1).astype(np.uint8)
