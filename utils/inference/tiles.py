"""Images larger than memory allows: overlapping tiles, cross-faded, in bands from top to bottom."""

import numpy as np

CELL = 32  # coarsest stride of the networks: tiles start at its multiples, so all see the same grid of cells


def tile_offsets(length, tile_size, overlap):
  """Lays tiles along one axis of an image.

  All tiles have one size. It is congruent to the image's length modulo CELL: so the last tile ends with the image, and
  a network that centres its padding puts its cells where it would put them in the whole image.

  Args:
    length: of the image, in pixels.
    tile_size: greatest size of a tile, in pixels.
    overlap: least overlap of two neighbours, in pixels; at most tile_size - 2 * CELL.

  Returns:
    `(size, offsets)`: the tiles' size and where they start, multiples of CELL, ascending from 0.

  Raises:
    ValueError: if the overlap leaves no room to go on.
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
  """Weights by which neighbouring tiles fade into each other.

  Each goes from 1 to 0 over half of the least overlap, around the middle of the actual one: the outermost pixels of a
  tile, which see the least around them, count for nothing.

  Args:
    size: of each tile.
    offsets: where they start, ascending.
    overlap: the least overlap.

  Returns:
    list of float32 [size], one a tile; at every pixel of the image they sum to one.
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


def probability_bands(probabilities, image, *, tile_size, overlap):
  """Predicts an image tile by tile; holds one row of tiles at a time.

  Args:
    probabilities: `probabilities(images)`: uint8 [1, h, w, 3] -> float32 [1, h, w, C].
    image: uint8 [H, W, 3].
    tile_size: greatest height and width of a tile; an image within it is one tile.
    overlap: least overlap of neighbours, in pixels.

  Yields:
    `(top, band)`: finished rows, float32 [h, W, C], and the row in the image at which they begin; they follow each
    other without a gap. A band must not be kept: its memory may be used again.
  """
  (height, tops), (width, lefts) = (tile_offsets(length, tile_size, overlap) for length in image.shape[:2])
  vertical, horizontal = fade_weights(height, tops, overlap), fade_weights(width, lefts, overlap)
  band = None
  for top, down, following in zip(tops, vertical, tops[1:] + [image.shape[0]]):
    for left, across in zip(lefts, horizontal):
      tile = probabilities(image[None, top:top + height, left:left + width])[0]
      if band is None:
        band = np.zeros((height, image.shape[1], tile.shape[-1]), np.float32)
      band[:, left:left + width] += tile * (down[:, None] * across)[..., None]
    done = following - top
    yield top, band[:done]
    band[:height - done] = band[done:].copy()  # rows in which the next tiles overlap with these
    band[height - done:] = 0
