"""Tiles: offsets, cross-fading, no seams."""

import tracemalloc

import numpy as np
import pytest

from utils.inference.tiles import CELL, fade_weights, probability_bands, tile_offsets

pytestmark = pytest.mark.fast


def _whole(probabilities, image, **options):
  """All bands of an image put together, and the first row of each band."""
  bands = [(top, band.copy()) for top, band in probability_bands(probabilities, image, **options)]
  assert [top for top, _ in bands] == np.cumsum([0, *(len(band) for _, band in bands[:-1])]).tolist()
  return np.concatenate([band for _, band in bands])


@pytest.mark.parametrize('tile_size,overlap', [(128, 32), (160, 64), (509, 127), (1414, 353)])
def test_tiles_cover_any_length_on_one_grid_of_cells(tile_size, overlap):
  for length in [1, 31, tile_size - 1, tile_size, tile_size + 1, 2 * tile_size + 17, 3001, 9999]:
    size, offsets = tile_offsets(length, tile_size, overlap)
    assert size <= tile_size and offsets[0] == 0 and offsets[-1] + size == length
    assert all(offset % CELL == 0 for offset in offsets)
    steps = np.diff(offsets)
    assert (steps > 0).all() and (size - steps >= overlap).all()


def test_offsets_by_hand():
  assert tile_offsets(100, 128, 32) == (100, [0])
  # 300 = 9 * 32 + 12, so tiles have 108 = 3 * 32 + 12 pixels; an overlap of 32 leaves steps of 2 cells at most
  assert tile_offsets(300, 128, 32) == (108, [0, 64, 128, 192])


def test_an_overlap_that_leaves_no_step_is_refused():
  with pytest.raises(ValueError, match='96.*80'):
    tile_offsets(1000, 96, 80)


@pytest.mark.parametrize('length,tile_size,overlap', [(300, 128, 32), (777, 256, 96), (5000, 1414, 353), (9, 64, 16)])
def test_weights_sum_to_one_and_are_zero_at_the_outermost_pixels(length, tile_size, overlap):
  size, offsets = tile_offsets(length, tile_size, overlap)
  weights = fade_weights(size, offsets, overlap)
  total = np.zeros(length)
  for number, (offset, weight) in enumerate(zip(offsets, weights)):
    assert weight.shape == (size,) and weight.min() >= 0
    assert number == 0 or not weight[:overlap // 4].any()
    assert number == len(offsets) - 1 or not weight[-(overlap // 4):].any()
    total[offset:offset + size] += weight
  np.testing.assert_allclose(total, 1, atol=1e-6)


def _box_filter(radius):
  """A "network" of two classes with a context of `radius` pixels, borders mirrored."""

  def probabilities(images):
    padded = np.pad(images[0, :, :, 0].astype(np.float64) / 255, radius, mode='symmetric')
    for axis in (0, 1):
      window = np.lib.stride_tricks.sliding_window_view(padded, 2 * radius + 1, axis=axis)
      padded = window.mean(axis=-1)
    return np.stack([padded, 1 - padded], axis=-1)[None].astype(np.float32)

  return probabilities


@pytest.mark.parametrize('shape', [(200, 333), (417, 90), (130, 129), (1, 700)])
def test_tiled_equals_untiled_where_the_context_fits_in_the_overlap(shape):
  image = np.random.default_rng(4).integers(0, 256, (*shape, 3)).astype(np.uint8)
  probabilities = _box_filter(8)
  tiled = _whole(probabilities, image, tile_size=128, overlap=32)
  np.testing.assert_allclose(tiled, probabilities(image[None])[0], atol=1e-6)


def test_tiles_that_disagree_wholly_fade_without_a_step():
  rng = np.random.default_rng(5)
  image = np.zeros((500, 700, 3), np.uint8)
  constant = lambda images: np.full((*images.shape[:3], 1), rng.random(), np.float32)
  tiled = _whole(constant, image, tile_size=160, overlap=64)[..., 0]
  # From one value in [0, 1) to another over 32 pixels.
  for axis in (0, 1):
    steps = np.abs(np.diff(tiled, axis=axis))
    assert 0.005 < steps.max() <= 1 / 32 + 1e-6


def test_memory_is_a_row_of_tiles_however_tall_the_image():
  image = np.zeros((6000, 130, 3), np.uint8)
  probabilities = lambda images: np.zeros((*images.shape[:3], 5), np.float32)
  row = 128 * 130 * 5 * 4
  tracemalloc.start()
  for _top, _band in probability_bands(probabilities, image, tile_size=128, overlap=32):
    pass
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  assert peak < 5 * row < image.shape[0] * image.shape[1] * 5 * 4 / 8
