"""Corruptions: the registry at odd sizes, by hand, on photographs, and beside the figures of a library."""

import glob
import io

import numpy as np
import pytest
from PIL import Image

from utils.evaluation import corruptions
from utils.evaluation.corruptions import CORRUPTIONS, FAMILIES, SEVERITIES, Task, corrupted

pytestmark = pytest.mark.fast

RANDOM = ('gaussian_noise', 'shot_noise', 'impulse_noise', 'glass_blur', 'motion_blur', 'snow', 'fog', 'low_light')


def picture(height, width, seed=0):
  """A smooth random picture, uint8 [height, width, 3]."""
  small = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), np.uint8)
  return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def apply(name, image, severity=3, **more):
  return corrupted(Task(name, severity, 'record', image, **more))


@pytest.mark.parametrize('name', CORRUPTIONS)
def test_any_size_gives_bytes_of_the_same_size_and_leaves_the_image_alone(name):
  assert CORRUPTIONS[name].family in FAMILIES and len(CORRUPTIONS[name].levels) == len(SEVERITIES)
  for size in ((1, 1), (7, 5), (1, 40), (33, 64)):
    for severity in SEVERITIES:
      image = picture(*size)
      before = image.copy()
      result = apply(name, image, severity)
      assert result.dtype == np.uint8 and result.shape == image.shape, (size, severity)
      np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize('name', CORRUPTIONS)
def test_black_and_white_pictures_stay_in_range(name):
  """Nothing wraps around, and nothing is divided by zero: blurs leave an even picture as it is."""
  for value in (0, 255):
    image = np.full((20, 33, 3), value, np.uint8)
    with np.errstate(all='raise'):
      result = apply(name, image, 5)
    if CORRUPTIONS[name].family == 'blur' or name in ('contrast', 'pixelate', 'jpeg_compression'):
      np.testing.assert_array_equal(result, image)


@pytest.mark.parametrize('name', CORRUPTIONS)
def test_seed_record_and_severity_decide_what_is_random(name):
  image = picture(40, 53)
  first = apply(name, image)
  np.testing.assert_array_equal(first, apply(name, image))
  others = [apply(name, image, seed=1), corrupted(Task(name, 3, 'another', image))]
  assert [bool((first != other).any()) for other in others] == [name in RANDOM] * 2
  assert (first != apply(name, image, severity=4)).any()
  corrupted(Task(name, 3, 'caf\udce9', image))  # a name that is no UTF-8


def test_no_two_corruptions_share_their_random_numbers():
  image = np.full((40, 40, 3), 128, np.uint8)
  noises = [np.float64(apply(name, image)) - 128 for name in ('gaussian_noise', 'shot_noise')]
  assert abs(np.corrcoef(*(noise.ravel() for noise in noises))[0, 1]) < 0.1


def photographs(shared, count=6):
  paths = sorted(glob.glob(str(shared / 'data/camvid/val/*.jpg')))
  if not paths:
    pytest.skip(f'no CamVid in {shared}')
  return [np.asarray(Image.open(path)) for path in paths[::len(paths) // count][:count]]


@pytest.mark.parametrize('name', CORRUPTIONS)
def test_on_photographs_a_higher_severity_changes_more(name, shared):
  """With the same random numbers at all severities.

  From 3 to 4 fog changes in its cloud's roughness alone, and the authors' glass blur looks further, but less often.
  """
  corruption, images = CORRUPTIONS[name], [np.float32(image) / 255 for image in photographs(shared)]
  errors = []
  for level in corruption.levels:
    results = [corruption.apply(image, level, np.random.default_rng(number)) for number, image in enumerate(images)]
    errors.append(float(np.mean([np.abs(np.clip(result, 0, 1) - image) for result, image in zip(results, images)])))
  growth = np.diff(errors)
  assert (growth[[0, 1, 3] if name in ('fog', 'glass_blur') else slice(None)] > 0).all(), errors


def test_noise_has_the_deviation_of_its_definition():
  image = np.full((200, 300, 3), 102, np.uint8)  # 0.4
  assert np.std(apply('gaussian_noise', image, 1) / 255) == pytest.approx(0.08, rel=0.02)
  shot = apply('shot_noise', image, 2) / 255  # Poisson: variance 0.4 / 25
  assert (shot.mean(), shot.std()) == (pytest.approx(0.4, abs=2e-3), pytest.approx((0.4 / 25)**0.5, rel=0.02))
  assert set(np.unique(apply('shot_noise', image, 4))) <= {0, 51, 102, 153, 204, 255}  # 5 photons
  impulse = apply('impulse_noise', image, 5)
  assert [float((impulse == value).mean()) for value in (0, 102, 255)] == pytest.approx([0.135, 0.73, 0.135], abs=5e-3)
  assert (impulse == 102).all(axis=-1).mean() == pytest.approx(0.73**3, abs=1e-2)  # each channel for itself


def test_brightness_keeps_hue_and_saturation():
  image = np.uint8([[[51, 102, 0], [0, 0, 0], [204, 204, 204], [255, 10, 0]]])
  assert apply('brightness', image, 2)[0].tolist() == [
      [76, 153, 0], [51, 51, 51], [255, 255, 255], [255, 10, 0]]  # 0.2 more: 102 becomes 153, and 51 1.5 times as much


def test_contrast_goes_to_the_mean_of_each_color():
  image = np.uint8([[[0, 100, 30], [200, 100, 10]]])
  assert apply('contrast', image, 3).tolist() == [[[80, 100, 22], [120, 100, 18]]]  # 0.2


def test_low_light_is_dark_and_noisy():
  image = np.full((100, 101, 3), 128, np.uint8)
  image[0, 0], image[0, 1] = 0, 255
  result = apply('low_light', image, 5)[1:] / 255
  mean = 0.2 * (128 / 255)**2
  assert result.mean() == pytest.approx(mean, abs=2e-3)
  assert result.std() == pytest.approx((mean / 120 + 0.018**2)**0.5, rel=0.05)


def test_pixelate_repeats_means_of_blocks():
  image = picture(16, 24)
  blocks = image.reshape(4, 4, 6, 4, 3).mean(axis=(1, 3))
  result = apply('pixelate', image, 5)  # 0.25: blocks of 4 by 4
  assert np.abs(result - np.kron(blocks, np.ones([4, 4, 1]))).max() <= 1  # rounded twice


def test_jpeg_is_that_of_its_quality():
  image, file = picture(31, 45), io.BytesIO()
  Image.fromarray(image).save(file, 'JPEG', quality=15)
  np.testing.assert_array_equal(apply('jpeg_compression', image, 3), np.asarray(Image.open(file)))


def dot():
  image = np.zeros([61, 81, 3], np.uint8)
  image[30, 40] = 255
  return image


def test_defocus_spreads_a_point_to_a_disk():
  image = dot().astype(np.float32) / 255
  result = corruptions._defocus_blur(image, (3, 0.1), None)[..., 0]
  rows, columns = np.mgrid[-30:31, -40:41]
  disk = rows**2 + columns**2 <= 9
  np.testing.assert_allclose(result, disk / 29, atol=1e-6)  # 29 pixels lie within 3 of the middle
  soft = corruptions._defocus_blur(image, (10, 0.5), None)[..., 0]
  assert soft.sum() == pytest.approx(1, abs=1e-4)
  assert 0 < soft[30, 51] < soft[30, 40] == pytest.approx(1 / 317, abs=1e-5)


def test_motion_leaves_a_trail_that_fades():
  image = dot()[..., :1].astype(np.float32) / 255
  weights = np.exp(-np.arange(7)**2 / 8)
  weights /= weights.sum()
  for angle, places in ((0, [(30, 40 - i) for i in range(7)]), (-90, [(30 + i, 40) for i in range(7)])):
    expected = np.zeros([61, 81])
    expected[tuple(np.transpose(places))] = weights
    np.testing.assert_allclose(corruptions._moved(image, 3, 2, angle=angle)[..., 0], expected, atol=1e-6)


def test_zoom_keeps_the_middle_and_moves_the_rim_outwards():
  ramp = np.tile(np.linspace(0, 1, 101, dtype=np.float32)[None, :, None], (51, 1, 3))
  larger = corruptions._enlarged(ramp, 1.25)
  np.testing.assert_allclose(larger[:, 10:91], 0.5 + (ramp[:, 10:91] - 0.5) / 1.25, atol=1e-5)
  result = corruptions._zoom_blur(ramp, (1.21, 0.1), None)  # once as it is, then 1, 1.1 and 1.2 times as large
  factor = (1 + 1 + 1 / 1.1 + 1 / 1.2) / 4
  np.testing.assert_allclose(result[:, 10:91], 0.5 + (ramp[:, 10:91] - 0.5) * factor, atol=1e-5)


def test_glass_takes_pixels_from_within_its_reach():
  """Between two blurs of no width, colors say where pixels come from."""
  rows, columns = np.mgrid[:20, :31]
  image = np.stack([rows, columns, 0 * rows], axis=-1).astype(np.float32)

  class Draws:
    """Each pixel looks one row down and one column to the left."""

    def integers(self, low, high, shape):
      assert (low, high, shape[0]) == (-2, 2, 2)
      return np.stack([np.ones(shape[1], int), -np.ones(shape[1], int)])

  expected = image.copy()
  for row in range(18, 2, -1):  # from the last pixel to the first: what lies below has moved already
    for column in range(29, 2, -1):
      expected[row, column] = expected[row + 1, column - 1]
  np.testing.assert_allclose(corruptions._glass_blur(image, (1e-3, 2, 1), Draws()), expected, atol=1e-5)
  result = corruptions._glass_blur(image, (1e-3, 2, 1), np.random.default_rng(1))
  assert 0.5 < (np.abs(result - image).max(axis=-1) > 0).mean() < 1 and (result[:3] == image[:3]).all()


def test_cloud_is_periodic_and_smoother_with_more_decay():
  rough, smooth = (corruptions._cloud(64, decay, np.random.default_rng(0)) for decay in (1.2, 3.0))
  for cloud in (rough, smooth):
    assert cloud.shape == (64, 64) and cloud.min() == 0 and cloud.max() == 1 and np.isfinite(cloud).all()
  steps = [np.abs(np.diff(cloud, axis=0)).mean() for cloud in (rough, smooth)]
  assert steps[0] > 3 * steps[1]
  seam = np.abs(smooth[0] - smooth[-1]).mean()
  assert seam < 2 * steps[1]


def test_cloud_without_chance_is_the_mean_of_its_neighbors():
  """Midpoints of a 4x4 cloud by hand: draws come by level, first the center, then the middles of the edges."""

  class Draws:
    """Gives 1/100 of the reach for the first draw, and nothing after it."""

    def __init__(self):
      self.first = True

    def uniform(self, low, high, shape):
      value, self.first = (high / 100 if self.first else 0), False
      return np.full(shape, value)

  cloud = corruptions._cloud(4, 2, Draws())
  # The center is 100; a middle of an edge has two corners (0) and, around the border, the center twice: 50.
  expected = np.array([[0, 0, 50, 0], [0, 0, 0, 0], [50, 0, 100, 0], [0, 0, 0, 0]], float)
  expected[1::2, 1::2] = 50  # each between 0, 50, 50 and 100
  expected[0, 1::2] = (0 + 50 + 50 + 50) / 4
  expected[1::2, 0] = expected[0, 1]
  expected[2, 1::2] = (50 + 100 + 50 + 50) / 4
  expected[1::2, 2] = expected[2, 1]
  np.testing.assert_allclose(cloud, expected / 100, atol=1e-6)


def test_fog_and_snow_of_an_even_picture():
  image = np.full((64, 64, 3), 60, np.uint8)
  fog = apply('fog', image)  # the cloud's 0 to 1 becomes 60 * c / (c + 2.5) to 60, with c = 60 / 255
  assert (fog.min(), fog.max()) == (5, 60)
  snow = apply('snow', image)  # flakes on 0.7 * 60 + 0.3 * (1.5 * 60 + 127.5)
  assert snow.min() >= 107 and snow.max() > 150 and snow.mean() > 110
