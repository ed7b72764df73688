"""Augmentation: the label goes with the image, strengths are kept, and what is off changes nothing."""

import functools

import numpy as np
import pytest
import scipy.ndimage
from programs import assert_refused

from datasets.augmentation import PAD_VALUE, Augmentation, augment
from utils import settings
from utils.compat import tf
from utils.errors import UserError
from utils.labels import IGNORE_LABEL

pytestmark = pytest.mark.fast


def plain(crop_size, **variation):
  """Crops without any variation but the given one."""
  return Augmentation(**{'crop_size': crop_size, 'scale_range': (1.0, 1.0), 'flip': False, **variation})


def apply(image, label, augmentation, seeds=((1, 2),), style=None):
  """Augments with each of the seeds: a list of (image, label)."""
  example = {'image': tf.constant(image), 'label': tf.constant(label, tf.int32), 'name': tf.constant('x')}
  seed = tf.placeholder(tf.int64, [2])
  augmented = augment(example, augmentation, seed, style=style)
  with tf.Session() as session:
    found = [session.run(augmented, {seed: values}) for values in seeds]
  for value in found:
    assert value['image'].shape == (*augmentation.crop_size, 3) and value['image'].dtype == np.float32
    assert value['label'].shape == augmentation.crop_size and value['label'].dtype == np.int32
  return [(value['image'], value['label']) for value in found]


@pytest.mark.parametrize('crop_size', [(5, 7), (13, 22), (20, 30), (6, 30), (20, 9)])
@pytest.mark.parametrize('scale_range', [(1.0, 1.0), (0.5, 0.5), (2.0, 2.0), (0.3, 3.0)])
def test_image_and_label_stay_together(crop_size, scale_range, graph):
  """The image carries its row in red; wherever the label says a row's band, the red says the same."""
  rows = np.repeat(np.arange(26) // 13, 44).reshape(26, 44)
  image = np.stack([rows * 200, rows * 0, rows * 0], axis=-1).astype(np.uint8)
  augmentation = Augmentation(crop_size=crop_size, scale_range=scale_range, flip=True)
  for value, label in apply(image, rows, augmentation, [(seed, 9) for seed in range(4)]):
    void = label == IGNORE_LABEL
    assert np.all(value[void] == PAD_VALUE)
    red = value[..., 0]
    between = (red > 60) & (red < 140) & ~void  # the edge, blurred by at most a row or two
    agree = (red > 100) == (label == 1)
    assert np.all(agree[~void & ~between])
    assert np.unique(np.nonzero(between)[0]).size <= 2 * max(1, int(np.ceil(scale_range[1])))


def test_a_small_image_lies_whole_inside_void(graph):
  (value, label), = apply(np.full([2, 3, 3], 50, np.uint8), np.ones([2, 3]), plain((7, 5)))
  assert (label == 1).sum() == 6 and (label == IGNORE_LABEL).sum() == 29
  assert np.all(value[label == 1] == 50)


def test_flip_mirrors_both(graph):
  image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
  label = np.arange(8).reshape(2, 4)
  seen = set()
  for value, flipped in apply(image, label, plain((2, 4), flip=True), [(seed, 0) for seed in range(12)]):
    mirrored = np.array_equal(flipped, label[:, ::-1])
    assert mirrored or np.array_equal(flipped, label)
    np.testing.assert_array_equal(value, image[:, ::-1] if mirrored else image)
    seen.add(mirrored)
  assert seen == {True, False}


def test_color_jitter_changes_colors_within_range_and_no_labels(graph):
  image = np.random.default_rng(0).integers(0, 256, [6, 5, 3]).astype(np.uint8)
  label = np.arange(30).reshape(6, 5)
  (value, same), = apply(image, label, plain((6, 5), color_jitter=0.4))
  assert np.array_equal(same, label)
  assert value.min() >= 0 and value.max() <= 255 and np.abs(value - image).max() > 2


def varied(image, seed, **options):
  """`augment` of a float image [H, W, N], with color jitter alone."""
  with tf.Graph().as_default(), tf.Session() as session:
    example = {'image': tf.constant(image, tf.float32), 'label': tf.zeros(image.shape[:2], tf.int32)}
    augmentation = plain(image.shape[:2], color_jitter=0.4)
    return session.run(augment(example, augmentation, [seed, 1], **options)['image'])


def test_bands_change_each_for_itself():
  """Each band keeps its order of values; factors differ between bands and seeds, and stay within the strength."""
  image = np.random.default_rng(0).uniform(60, 120, [5, 7, 6]).astype(np.float32)
  factors = []
  for seed in range(4):
    found = varied(image, seed, is_photograph=False)
    np.testing.assert_array_equal(varied(image, seed, is_photograph=False), found)
    slope = (found[0, 0] - found[4, 6]) / (image[0, 0] - image[4, 6])
    np.testing.assert_allclose(found - found[:1, :1], slope * (image - image[:1, :1]), atol=1e-3)
    ratio = found.mean(axis=(0, 1)) / image.mean(axis=(0, 1))
    assert np.all((ratio > 0.6) & (ratio < 1.4)) and np.ptp(ratio) > 0.05
    factors.append(ratio)
  assert np.ptp(factors, axis=0).min() > 0.01
  assert not np.allclose(varied(image[..., :3], 0), varied(image[..., :3], 0, is_photograph=False))


SEEDS = [(seed, 11) for seed in range(8)]


def noise_image(height, width, low=90, high=150):
  return np.random.default_rng(height).uniform(low, high, [height, width, 3]).astype(np.float32)


def images(image, augmentation, style=None):
  return [value for value, _ in apply(image, np.zeros(image.shape[:2]), augmentation, SEEDS, style)]


def test_gamma_keeps_black_and_white_and_changes_the_exposure_within_range(graph):
  image = np.linspace(0, 255, 90).reshape(5, 6, 3).astype(np.float32)
  exponents = []
  for value in images(image, plain((5, 6), gamma=2.0)):
    assert value.min() == 0 and value.max() == pytest.approx(255)
    inner = np.log(value.ravel()[1:-1] / 255) / np.log(image.ravel()[1:-1] / 255)
    np.testing.assert_allclose(inner, inner[0], rtol=1e-3)
    exponents.append(inner[0])
  assert 0.5 <= min(exponents) < 0.8 and 1.25 < max(exponents) <= 2


def test_white_balance_scales_each_channel_by_itself_within_range(graph):
  image = noise_image(7, 5)
  gains = np.array([(value / image).reshape(-1, 3) for value in images(image, plain((7, 5), white_balance=0.3))])
  assert np.ptp(gains, axis=1).max() < 1e-4  # the same everywhere in an image
  assert 0.7 <= gains.min() < 0.8 and 1.2 < gains.max() <= 1.3 and np.ptp(gains[:, 0], axis=1).min() > 0.01


def test_half_of_the_images_are_blurred_as_by_scipy(graph):
  """The standard deviation is read from the second moment of a point."""
  point = np.zeros([41, 37, 3], np.float32)
  point[20, 18] = 200
  image, deviations = noise_image(41, 37, 0, 255), []
  rows = np.arange(41) - 20
  for blurred, value in zip(images(point, plain((41, 37), blur=3.0)), images(image, plain((41, 37), blur=3.0)),
                            strict=True):
    deviation = np.sqrt((blurred[..., 0].sum(axis=1) * rows ** 2).sum() / 200)
    expected = scipy.ndimage.gaussian_filter(image, (deviation, deviation, 0), mode='reflect') if deviation else image
    assert np.abs(value - expected).max() < 1.5
    deviations.append(deviation)
  assert 2 <= sum(deviation < 1e-6 for deviation in deviations) <= 6 and 1 < max(deviations) <= 3


def test_noise_is_on_half_of_the_images_without_a_bias(graph):
  image = np.full([40, 50, 3], 128, np.float32)
  spreads = [np.std(value - image) for value in images(image, plain((40, 50), noise=20.0))]
  assert 2 <= sum(spread == 0 for spread in spreads) <= 6 and 8 < max(spreads) < 21
  assert all(abs(value.mean() - 128) < 1 for value in images(image, plain((40, 50), noise=20.0)))


def test_statistics_lie_between_those_of_both_images(graph):
  image = noise_image(11, 9) * [0.9, 1.0, 1.1]
  style = np.random.default_rng(5).normal([100, 150, 120], [10, 4, 20], [30, 17, 3]).astype(np.float32)
  shares = []
  for value in images(image.astype(np.float32), plain((11, 9), mix_statistics=0.8), style):
    own, found, other = (np.concatenate([pixels.mean(axis=(0, 1)), pixels.std(axis=(0, 1))])
                         for pixels in (image, value, style))
    share = (found - own) / (other - own)
    np.testing.assert_allclose(share, share[0], atol=2e-3)
    shares.append(share[0])
  assert 0 <= min(shares) < 0.3 and 0.5 < max(shares) <= 0.8


@pytest.mark.parametrize('size', [(12, 9), (7, 16)])
def test_amplitudes_lie_between_those_of_both_images_and_phases_stay(size, graph):
  image, style = noise_image(*size, 110, 140), noise_image(*size, 100, 150)[::-1]
  own, other = (np.fft.fft2(pixels, axes=(0, 1)) for pixels in (image, style))
  for value in images(image, plain(size, mix_amplitude=0.7), style):
    found = np.fft.fft2(value, axes=(0, 1))
    share = ((np.abs(found) - np.abs(own)) / (np.abs(other) - np.abs(own)))[0, 0, 0]
    assert -1e-3 <= share <= 0.701
    expected = own / np.abs(own) * (np.abs(own) + share * (np.abs(other) - np.abs(own)))
    np.testing.assert_allclose(value, np.fft.ifft2(expected, axes=(0, 1)).real, atol=0.05)


def test_class_crops_find_a_rare_class(graph):
  """A single pixel of 6000: a class drawn evenly is in half of the crops, at every place in them."""
  label = np.zeros([60, 100])
  label[41, 77] = 3
  seeds = [(seed, 2) for seed in range(60)]
  image = np.zeros([60, 100, 3], np.uint8)
  found = {share: [np.argwhere(crop == 3) for _, crop in apply(image, label, plain((9, 12), class_crops=share), seeds)]
           for share in (0.0, 1.0)}
  counts = {share: sum(map(len, places)) for share, places in found.items()}
  assert counts[0.0] < 8 and 18 < counts[1.0] < 46
  places = np.concatenate(found[1.0])
  assert np.ptp(places, axis=0).min() >= 6


@pytest.mark.parametrize('label', [np.full([6, 7], IGNORE_LABEL), np.ones([6, 7])])
@pytest.mark.parametrize('crop_size', [(4, 5), (9, 11), (3, 20)])
def test_class_crops_of_void_or_of_small_images_are_crops(label, crop_size, graph):
  seeds = [(seed, 2) for seed in range(6)]
  for _, crop in apply(np.zeros([6, 7, 3], np.uint8), label, plain(crop_size, class_crops=1.0), seeds):
    inside = min(6, crop_size[0]) * min(7, crop_size[1])
    assert (crop == label[0, 0]).sum() == (crop.size if label[0, 0] == IGNORE_LABEL else inside)


def test_class_crops_put_a_small_image_at_any_place(graph):
  seeds = [(seed, 2) for seed in range(40)]
  crops = apply(np.zeros([6, 7, 3], np.uint8), np.ones([6, 7]), plain((12, 11), class_crops=1.0), seeds)
  places = [tuple(np.argwhere(crop == 1)[0]) for _, crop in crops]
  assert all({place[axis] for place in places} == set(range(slack + 1)) for axis, slack in ((0, 6), (1, 4)))


@pytest.mark.parametrize('crop_size', [(3, 5), (1, 40), (29, 31)])
def test_a_blur_may_be_wider_than_the_crop(crop_size, graph):
  image = noise_image(*crop_size, 0, 255)
  found = images(image, plain(crop_size, blur=10.0))
  assert any(np.abs(value - image).max() > 10 for value in found)
  assert all(value.min() >= image.min() - 1e-3 and value.max() <= image.max() + 1e-3 for value in found)


@pytest.mark.parametrize('option', [
    {'class_crops': 1.0}, {'mix_statistics': 0.5}, {'mix_amplitude': 0.5}, {'white_balance': 0.2},
    {'gamma': 2.0}, {'blur': 2.0}, {'noise': 5.0}, {'color_jitter': 0.3}])
@pytest.mark.parametrize('bands', [1, 3, 5])
def test_bands_are_varied_within_the_range_of_values(option, bands, graph):
  image = np.random.default_rng(1).uniform(0, 255, [21, 34, bands]).astype(np.float32)
  example = {'image': tf.constant(image), 'label': tf.zeros([21, 34], tf.int32)}
  style = tf.constant(image[::-1, ::2])
  with tf.Session() as session:
    for seed in range(3):
      value = session.run(augment(example, plain((17, 29), **option), [seed, 0], is_photograph=False, style=style))
      assert value['image'].shape == (17, 29, bands) and value['image'].dtype == np.float32
      assert value['image'].min() >= 0 and value['image'].max() <= 255.001


@pytest.mark.parametrize('bands, size, crop_size', [(1, (1, 1), (5, 3)), (3, (7, 2), (1, 9)), (5, (23, 31), (13, 17))])
def test_all_kinds_go_together_at_their_limits(bands, size, crop_size, graph):
  """A black band, a white one, and an image that is void but for a pixel; the style is of another size."""
  image = np.random.default_rng(0).choice([0, 255], [*size, bands]).astype(np.float32)
  image[..., -1], label = 0, np.full(size, IGNORE_LABEL, np.int32)
  label[-1, 0] = 2
  augmentation = Augmentation(
      crop_size=crop_size, scale_range=(0.1, 3.0), class_crops=1.0, mix_statistics=1.0,
      mix_amplitude=1.0, color_jitter=1.0, white_balance=1.0, gamma=10.0, blur=10.0, noise=255.0)
  seed = tf.placeholder(tf.int64, [2])
  found = augment({'image': tf.constant(image), 'label': tf.constant(label)}, augmentation, seed,
                  is_photograph=bands == 3, style=tf.fill([4, 6, bands], 255.0))
  with tf.Session() as session:
    for number in range(12):
      value = session.run(found, {seed: (number, 3)})
      assert value['image'].shape == (*crop_size, bands) and value['label'].shape == crop_size
      assert 0 <= value['image'].min() <= value['image'].max() <= 255.001  # neither of which NaN is
      assert set(value['label'].ravel()) <= {2, IGNORE_LABEL}


@pytest.mark.parametrize('setting, problem', [
    ({'scale_range': (float('nan'), 1.0)}, '--scale_range=nan,1: a finite number is wanted'),
    ({'scale_range': (0.0, 1.0)}, '--scale_range=0,1: both must be above 0'),
    ({'scale_range': (-2.0, -1.0)}, '--scale_range=-2,-1: both must be above 0'),
    ({'scale_range': (1.6, 0.7)}, '--scale_range=1.6,0.7: the least scale is above the greatest'),
    ({'crop_size': (0, 9)}, '--crop_size=0,9: valid are 1 and above'),
    ({'color_jitter': 1.5}, '--color_jitter=1.5: valid are 0 to 1'),
    ({'noise': float('inf')}, '--noise=inf: a finite number is wanted'),
    ({'gamma': 0.5}, '--gamma=0.5: valid are 1 to 10'),
    ({'blur': -5.0}, '--blur=-5: valid are 0 to 10'),
    ({'mix_amplitude': 2.0}, '--mix_amplitude=2: valid are 0 to 1'),
])
def test_a_wrong_augmentation_is_refused(setting, problem):
  with pytest.raises(UserError, match=f'^{problem}$'):
    Augmentation(**setting).check()


def test_an_augmentation_is_flags(run_program):
  found = []
  main = functools.partial(settings.run, found.append, Augmentation)
  assert run_program(main, '--crop_size=64,96', '--noflip', '--scale_range=.5,2').returncode == 0
  assert run_program(main).returncode == 0
  assert found == [Augmentation((64, 96), (0.5, 2.0), flip=False),
                   Augmentation((319, 415), (0.7, 1.6), flip=True, color_jitter=0.0)]
  assert_refused(run_program(main, '--crop_size=64'), '--crop_size', 'two numbers are wanted')
  assert_refused(run_program(main, '--scale_range=nan,1'), '--scale_range=nan,1: a finite number is wanted')


