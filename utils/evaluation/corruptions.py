"""Corruptions of photographs: noise, blur, weather and digital ones, each at five severities.

Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations", ICLR 2019;
taken up for segmentation by Kamann and Rother, "Benchmarking the Robustness of Semantic Segmentation Models", CVPR
2020, and for detection by Michaelis et al., "Benchmarking Robustness in Object Detection", arXiv:1907.07484. The
definitions and the numbers of each severity are those of the authors' ImageNet-C; images of any size take the place of
224x224. `low_light` is that of Kar et al., "3D Common Corruptions and Data Augmentation", CVPR 2022.

Two of ImageNet-C's fifteen are left out: `frost`, which needs photographs of frost, and `elastic_transform`, which
moves pixels away from their labels. Results are rounded, where the authors' code cuts decimals off.

Imports no TensorFlow: processes that corrupt images need none.
"""

import dataclasses
import io
import math
import os
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image
from scipy import fft, ndimage

SEVERITIES = (1, 2, 3, 4, 5)
FAMILIES = ('noise', 'blur', 'weather', 'digital')
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # of ITU-R BT.601


@dataclasses.dataclass(frozen=True)
class Corruption:
  """A corruption.

  Attributes:
    family: one of FAMILIES.
    apply: `apply(image, level, rng)` -> float [H, W, 3]; the image is float32 [H, W, 3] in 0..1, RGB, values of the
      result below 0 and above 1 are cut, and `rng` is a numpy Generator.
    levels: the `level` of each of SEVERITIES.
  """
  family: str
  apply: Callable
  levels: tuple


@dataclasses.dataclass(frozen=True)
class Task:
  """An image to corrupt.

  Attributes:
    name: name of the corruption, a key of CORRUPTIONS.
    severity: one of SEVERITIES.
    record: name of the image's record.
    image: uint8 [H, W, 3], RGB.
    seed: int, at least 0.
  """
  name: str
  severity: int
  record: str
  image: np.ndarray
  seed: int = 0


def corrupted(task):
  """Corrupts an image; all that is random follows from seed, record, corruption and severity.

  Args:
    task: a Task.

  Returns:
    uint8 [H, W, 3], RGB.
  """
  words = (zlib.crc32(os.fsencode(word)) for word in (task.name, task.record))
  rng = np.random.default_rng([task.seed, task.severity, *words])
  corruption = CORRUPTIONS[task.name]
  image = corruption.apply(np.float32(task.image) / 255, corruption.levels[task.severity - 1], rng)
  return _bytes(image)


def _bytes(image):
  """Rounds an image in 0..1 to uint8; values beyond are cut."""
  return np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)


def _gaussian_noise(image, deviation, rng):
  return image + deviation * rng.standard_normal(image.shape, np.float32)


def _shot_noise(image, photons, rng):
  """Poisson noise; a white pixel has a mean of `photons`."""
  return rng.poisson(photons * image) / photons


def _impulse_noise(image, share, rng):
  """Salt and pepper: each value becomes 0 or 1 with a probability of share / 2."""
  draws = rng.random(image.shape, np.float32)
  return np.where(draws < share, draws < share / 2, image)


def _defocus_blur(image, level, rng):
  """A disk whose rim is softened by a Gaussian."""
  del rng
  radius, deviation = level
  soft = 1 if radius <= 8 else 2  # radius of the Gaussian in pixels
  places = np.arange(-radius - soft, radius + soft + 1)
  disk = (places[:, None]**2 + places**2 <= radius**2).astype(np.float32)
  rim = np.exp(-np.arange(-soft, soft + 1)**2 / (2 * deviation**2))
  for axis in (0, 1):
    disk = ndimage.correlate1d(disk, rim / rim.sum(), axis=axis, mode='constant')
  return _convolved(image, disk / disk.sum(), mode='reflect')


def _glass_blur(image, level, rng):
  """Between two Gaussians, each pixel takes the color of one near it, from the last to the first, several times.

  The authors' code is written as a swap of the two; on views of an array, it copies one to the other.
  """
  deviation, reach, passes = level
  height, width, _ = image.shape
  image = ndimage.gaussian_filter(image, (deviation, deviation, 0), mode='nearest')
  rows, columns = (np.arange(length - reach, reach, -1) for length in (height, width))
  own = (rows[:, None] * width + columns).ravel()
  order = list(range(height * width))
  for _ in range(passes):
    down, right = rng.integers(-reach, reach, (2, own.size))
    for here, there in zip(own.tolist(), (own + down * width + right).tolist()):
      order[here] = order[there]
  image = image.reshape(-1, 3)[order].reshape(image.shape)
  return ndimage.gaussian_filter(image, (deviation, deviation, 0), mode='nearest')


def _motion_blur(image, level, rng):
  return _moved(image, *level, angle=rng.uniform(-45, 45))


def _zoom_blur(image, level, rng):
  """The mean of the image and of itself enlarged by 1, 1 + step, ..., below `end`."""
  del rng
  end, step = level
  factors = np.arange(1, end, step)
  return (image + sum(_enlarged(image, factor) for factor in factors)) / (len(factors) + 1)


def _snow(image, level, rng):
  """Enlarged, moved flakes on an image that is made paler; the flakes twice, the second time upside down."""
  mean, deviation, factor, least, radius, length, weight = level
  flakes = rng.normal(mean, deviation, image.shape[:2]).astype(np.float32)
  flakes = _enlarged(flakes[..., None], factor)
  flakes = np.clip(np.where(flakes < least, 0, flakes), 0, 1)
  flakes = _moved(flakes, radius, length, angle=rng.uniform(-135, -45))
  pale = np.maximum(image, 1.5 * (image @ _LUMA)[..., None] + 0.5)
  return weight * image + (1 - weight) * pale + flakes + np.rot90(flakes, 2)


def _fog(image, level, rng):
  """A cloud is added, and the sum brought back to the image's range."""
  strength, decay = level
  height, width, _ = image.shape
  cloud = _cloud(2**math.ceil(math.log2(max(height, width, 2))), decay, rng)[:height, :width, None]
  return (image + strength * cloud) * image.max() / (image.max() + strength)


def _brightness(image, change, rng):
  """Adds to the value of HSV: hue and saturation stay where red, green and blue grow by one factor."""
  del rng
  value = image.max(axis=-1, keepdims=True)
  brighter = np.minimum(value + change, 1)
  return np.where(value > 0, image * (brighter / np.maximum(value, 1e-6)), brighter)


def _low_light(image, brightest, rng):
  """Darkens by a gamma of 2 and a lower maximum, then adds shot noise and that of the sensor."""
  low, high = image.min(), image.max()
  stretched = (image - low) / (high - low) if high > low else image
  return _gaussian_noise(np.clip(_shot_noise(brightest * stretched**2, 120, rng), 0, 1), 0.018, rng)


def _contrast(image, factor, rng):
  """Draws each color toward its mean over the image."""
  del rng
  mean = image.mean(axis=(0, 1), dtype=np.float64)
  return mean + factor * (image - mean)


def _pixelate(image, factor, rng):
  del rng
  picture = Image.fromarray(_bytes(image))
  small = picture.resize([max(1, int(side * factor)) for side in picture.size], Image.Resampling.BOX)
  return np.float32(small.resize(picture.size, Image.Resampling.NEAREST)) / 255


def _jpeg_compression(image, quality, rng):
  del rng
  file = io.BytesIO()
  Image.fromarray(_bytes(image)).save(file, 'JPEG', quality=quality)
  return np.float32(Image.open(file)) / 255


def _convolved(image, kernel, mode):
  """Convolves [H, W, C] with a kernel of odd sides, by Fourier transforms; `mode` is numpy.pad's, for the border."""
  (height, width, _), (up, left) = image.shape, (side // 2 for side in kernel.shape)
  padded = np.pad(image, ((up, up), (left, left), (0, 0)), mode)
  size = [fft.next_fast_len(side, real=True) for side in padded.shape[:2]]  # wraps around only what is cut off below
  product = fft.rfft2(padded, size, axes=(0, 1)) * fft.rfft2(kernel.astype(image.dtype), size)[..., None]
  full = fft.irfft2(product, size, axes=(0, 1))
  return full[2 * up:2 * up + height, 2 * left:2 * left + width]


def _moved(image, radius, deviation, *, angle):
  """Blurs [H, W, C] along a line: pixels leave a trail behind them, whose weights fall as half a Gaussian.

  Args:
    image: float32 [H, W, C].
    radius: half the length of the trail in pixels.
    deviation: standard deviation of the Gaussian in pixels.
    angle: direction in degrees; at 0 the trail runs to the left, at 90 upwards.
  """
  steps = np.arange(2 * radius + 1)
  kernel = np.zeros([2 * len(steps) - 1] * 2, np.float32)
  up, left = (np.rint(steps * part).astype(int) for part in (math.sin(math.radians(angle)),
                                                             math.cos(math.radians(angle))))
  np.add.at(kernel, (2 * radius - up, 2 * radius - left), np.exp(-steps**2 / (2 * deviation**2)))
  return _convolved(image, kernel / kernel.sum(), mode='edge')


def _enlarged(image, factor):
  """Enlarges float32 [H, W, C] around its middle, bilinearly, and cuts it to its size."""
  height, width, _ = image.shape
  box = [(side - side / factor) / 2 for side in (width, height)]
  box += [side - start for side, start in zip((width, height), box)]
  bands = [Image.fromarray(np.ascontiguousarray(band)).resize((width, height), Image.Resampling.BILINEAR, box)
           for band in np.moveaxis(image, -1, 0)]
  return np.stack(bands, axis=-1)


def _cloud(size, decay, rng):
  """A cloud in 0..1 by midpoint displacement (the diamond-square algorithm) that repeats itself beyond its borders.

  Args:
    size: height and width in pixels, a power of two above 1.
    decay: factor by which displacements shrink as their distance halves; squared, as in ImageNet-C.
    rng: a numpy Generator.

  Returns:
    float32 [size, size].
  """
  heights, step, reach = np.zeros([size, size], np.float32), size, 100.0
  while step > 1:
    half, corners = step // 2, heights[::step, ::step]
    displaced = lambda total: total / 4 + reach * rng.uniform(-reach, reach, corners.shape)  # noqa: B023
    right = corners + np.roll(corners, -1, axis=1)
    centers = displaced(right + np.roll(right, -1, axis=0))
    heights[half::step, half::step] = centers
    heights[half::step, ::step] = displaced(
        corners + np.roll(corners, -1, axis=0) + centers + np.roll(centers, 1, axis=1))
    heights[::step, half::step] = displaced(right + centers + np.roll(centers, 1, axis=0))
    step, reach = half, reach / decay
  heights -= heights.min()
  return heights / heights.max()


CORRUPTIONS = {
    'gaussian_noise': Corruption('noise', _gaussian_noise, (0.08, 0.12, 0.18, 0.26, 0.38)),
    'shot_noise': Corruption('noise', _shot_noise, (60, 25, 12, 5, 3)),
    'impulse_noise': Corruption('noise', _impulse_noise, (0.03, 0.06, 0.09, 0.17, 0.27)),
    'defocus_blur': Corruption('blur', _defocus_blur, ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5))),
    'glass_blur': Corruption('blur', _glass_blur, ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2))),
    'motion_blur': Corruption('blur', _motion_blur, ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))),
    'zoom_blur': Corruption('blur', _zoom_blur, ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03))),
    'snow': Corruption('weather', _snow, (
        (0.1, 0.3, 3, 0.5, 10, 4, 0.8), (0.2, 0.3, 2, 0.5, 12, 4, 0.7), (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65), (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55))),
    'fog': Corruption('weather', _fog, ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4))),
    'brightness': Corruption('weather', _brightness, (0.1, 0.2, 0.3, 0.4, 0.5)),
    'low_light': Corruption('weather', _low_light, (0.6, 0.5, 0.4, 0.3, 0.2)),
    'contrast': Corruption('digital', _contrast, (0.4, 0.3, 0.2, 0.1, 0.05)),
    'pixelate': Corruption('digital', _pixelate, (0.6, 0.5, 0.4, 0.3, 0.25)),
    'jpeg_compression': Corruption('digital', _jpeg_compression, (25, 18, 15, 10, 7)),
}
