"""Label maps as pictures: colors, overlays, legends, palette PNGs."""

import io

import numpy as np
import pytest
from PIL import Image

from utils.drawing import colors
from utils.errors import UserError

pytestmark = pytest.mark.fast

PALETTE = np.array([[128, 0, 0], [0, 64, 128], [250, 10, 30]], np.uint8)
CLASSES = ('sky', 'road', 'bicyclist')
LABEL = np.array([[0, 1, 2, 255, 1], [2, 2, 0, 0, 1], [1, 255, 0, 2, 2]], np.uint8)


def test_colorize_paints_each_id_and_void():
  picture = colors.colorize(LABEL, PALETTE)
  assert picture.shape == (3, 5, 3) and picture.dtype == np.uint8
  np.testing.assert_array_equal(picture[0, :4], [[128, 0, 0], [0, 64, 128], [250, 10, 30], [224, 224, 192]])


def test_a_palette_of_another_shape_is_refused():
  for shape in [(3,), (4, 4), (256, 3)]:
    with pytest.raises(ValueError, match='palette'):
      colors.full_palette(np.zeros(shape, np.uint8))


def test_overlay_blends_and_its_extremes_are_exact():
  image = np.random.default_rng(1).integers(0, 256, (3, 5, 3)).astype(np.uint8)
  painted = colors.colorize(LABEL, PALETTE)
  np.testing.assert_array_equal(colors.overlay(image, LABEL, PALETTE, alpha=0), image)
  np.testing.assert_array_equal(colors.overlay(image, LABEL, PALETTE, alpha=1), painted)
  blended = colors.overlay(image, LABEL, PALETTE, alpha=0.25)
  expected = 0.75 * image.astype(float) + 0.25 * painted
  assert np.abs(blended - expected).max() <= 0.51


def test_side_by_side_keeps_the_order():
  image = np.full((3, 5, 3), 7, np.uint8)
  picture = colors.side_by_side(image, LABEL, np.zeros_like(LABEL), PALETTE)
  assert picture.shape == (3, 3 * 5 + 8, 3)
  np.testing.assert_array_equal(picture[:, :5], image)
  np.testing.assert_array_equal(picture[:, 9:14], colors.colorize(LABEL, PALETTE))
  np.testing.assert_array_equal(picture[:, 18:], np.broadcast_to(PALETTE[0], (3, 5, 3)))


def _has_color(picture, color):
  return (picture == np.array(color, np.uint8)).all(axis=-1).any()


def test_legend_shows_the_classes_present_and_no_others():
  strip = colors.legend([0, 2, 255], CLASSES, PALETTE, width=300)
  assert strip.shape[1] == 300
  assert _has_color(strip, PALETTE[0]) and _has_color(strip, PALETTE[2]) and _has_color(strip, colors.VOID_COLOR)
  assert not _has_color(strip, PALETTE[1])


def test_legend_wraps_and_never_cuts_an_entry():
  wide = colors.legend([0, 1, 2], CLASSES, PALETTE, width=400)
  narrow = colors.legend([0, 1, 2], CLASSES, PALETTE, width=1)
  assert narrow.shape[0] > 2 * wide.shape[0]
  assert narrow.shape[1] > 40  # as wide as its widest entry
  assert (narrow[:, -1] == 255).all()  # no ink at the border
  assert colors.legend([], CLASSES, PALETTE, width=50).shape == (0, 50, 3)


def test_with_legend_leaves_the_picture_unchanged_in_its_corner():
  picture = np.random.default_rng(2).integers(0, 256, (2, 1, 3)).astype(np.uint8)
  result = colors.with_legend(picture, [1], CLASSES, PALETTE)
  np.testing.assert_array_equal(result[:2, :1], picture)
  assert _has_color(result[2:], PALETTE[1])


@pytest.mark.parametrize('shape', [(1, 1), (3, 5), (41, 30)])
def test_label_png_holds_ids_as_values_and_colors_as_palette(shape):
  label = np.random.default_rng(3).integers(0, 3, shape).astype(np.int32)
  label[0, 0] = 255
  png = colors.label_png(label, PALETTE)
  with Image.open(io.BytesIO(png)) as picture:
    assert picture.mode == 'P'
    np.testing.assert_array_equal(np.asarray(picture), label)
    np.testing.assert_array_equal(np.asarray(picture.convert('RGB')), colors.colorize(label, PALETTE))
  assert png[24:26] == bytes([8, 3])  # 8 bits a pixel, palette


def test_a_palette_of_256_colors_has_one_for_every_value():
  full = np.random.default_rng(4).integers(0, 256, (256, 3)).astype(np.uint8)
  label = np.array([[0, 7, 255]])
  with Image.open(io.BytesIO(colors.label_png(label, full))) as picture:
    np.testing.assert_array_equal(np.asarray(picture), label)
    np.testing.assert_array_equal(np.asarray(picture.convert('RGB')), full[label])


def test_label_png_without_palette_is_grayscale():
  with Image.open(io.BytesIO(colors.label_png(LABEL, None))) as picture:
    assert picture.mode == 'L'
    np.testing.assert_array_equal(np.asarray(picture), LABEL)


def test_a_label_that_does_not_fit_is_refused():
  with pytest.raises(ValueError, match='256'):
    colors.label_png(np.array([[0, 256]]), PALETTE)


def test_a_folder_that_is_not_there_is_named(tmp_path):
  with pytest.raises(UserError, match='missing'):
    colors.write_png(tmp_path / 'missing' / 'a.png', np.zeros((2, 3, 3), np.uint8))


def test_palette_of_a_real_voc_label_survives(shared):
  folder = shared / 'data/voc/VOCdevkit/VOC2012/SegmentationClass'
  if not folder.is_dir():
    pytest.skip(f'no {folder}')
  original = sorted(folder.glob('*.png'))[0]
  with Image.open(original) as picture:
    label = np.asarray(picture)
    palette = np.array(picture.getpalette(), np.uint8).reshape(-1, 3)
  with Image.open(io.BytesIO(colors.label_png(label, palette[:21]))) as copy, Image.open(original) as picture:
    np.testing.assert_array_equal(np.asarray(copy), label)
    np.testing.assert_array_equal(np.asarray(copy.convert('RGB')), np.asarray(picture.convert('RGB')))


def test_heat_gets_lighter_from_zero_to_the_top_and_no_further():
  painted = colors.heat(np.array([np.linspace(0, 0.02, 101), np.full(101, 7.0)], np.float32), 0.02)
  assert painted.shape == (2, 101, 3) and painted.dtype == np.uint8
  luminance = painted[0] @ [0.299, 0.587, 0.114]
  assert luminance[0] < 2 and luminance[-1] > 240 and (np.diff(luminance) >= 0).all()
  assert np.abs(np.diff(luminance)).max() < 6  # no step looks like an edge
  assert (painted[1] == painted[0, -1]).all()


def test_heat_of_nothing_is_black():
  assert (colors.heat(np.zeros([2, 3], np.float32), 0.0) == colors.heat(np.zeros([1, 1]), 1.0)).all()


@pytest.mark.parametrize('size', [(1, 1), (40, 31), (50, 900)])
def test_the_scale_stands_under_the_picture_and_shows_every_color(size):
  picture = colors.heat(np.random.default_rng(0).random(size), 1.0)
  below = colors.with_scale(picture, 0.034, 'what it is')[size[0]:]
  assert (colors.with_scale(picture, 0.034, 'what it is')[:size[0], :size[1]] == picture).all()
  assert below.shape[1] >= max(size[1], 100) and below.shape[0] > 40
  bar = below[below.shape[0] * 5 // 11]  # a row through the bar
  assert (bar[[0, -1]] == 255).all()
  inside = bar[(bar < 255).any(axis=-1)] @ np.array([0.299, 0.587, 0.114])
  assert inside[0] < 10 and inside[-1] > 235 and (np.diff(inside) >= 0).all()
  ink = (below < 100).all(axis=-1)
  assert ink[:len(ink) // 3].any() and ink[-len(ink) // 3:].any()  # the title above it, the numbers below
  numbers = np.flatnonzero(ink[-len(ink) // 3:].any(axis=0))
  assert np.count_nonzero(np.diff(numbers) > 6) == 4  # five numbers, apart from each other
