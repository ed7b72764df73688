"""Dense CRF after the network: every pixel is tied to every other (Kraehenbuehl and Koltun, NIPS 2011).

The energy of a labelling x is (their equations 1 to 3, with Potts' model)

    sum_i -log p_i(x_i)  +  sum_{i<j} [x_i != x_j] (w1 k1(i, j) + w2 k2(i, j)),

where p are the network's probabilities and the two kernels, Gaussians of the pixels' places s and colors c, are

    k1 = exp(-|s_i - s_j|^2 / 2 bilateral_xy^2 - |c_i - c_j|^2 / 2 bilateral_rgb^2)    bilateral: appearance
    k2 = exp(-|s_i - s_j|^2 / 2 gaussian_xy^2)                                         Gaussian: smoothness

pydensecrf2, Kraehenbuehl's own code, approximates the minimum by mean field steps and their sums over all pixels by a
permutohedral lattice. It normalises each kernel by the square roots of its sums at i and at j, so that a weight means
about the same for every width of the kernel and near the borders.

The package is optional, and holds Python's lock while it works, so images are spread over processes: a `Task` goes to a
worker, `labels(task)` runs there. This module imports no TensorFlow, so neither do the workers.
"""

import dataclasses
import sys
import time
from typing import Any

import numpy as np
from absl import flags

from utils.errors import UserError

flags.disclaim_key_flags()  # so that --help lists what define_flags defines among the script's own

LEAST_PROBABILITY = 1e-5  # as certain as a pixel may be: its unary energies are at most 11.5
LEAST_SHARE = 0.01  # of the winner's probability: a class that no pixel gives so much is left out
MAX_BYTES = 8 * 2**30  # that one image may take


@dataclasses.dataclass(frozen=True)
class Settings:
  """The CRF's parameters; the defaults gain something on CamVid and on VOC (docs/crf.md), where the best ones differ.

  Attributes:
    gaussian_xy: standard deviation of the Gaussian kernel, in pixels.
    gaussian_weight: of the Gaussian kernel; 0 leaves it out.
    bilateral_xy: standard deviation of the bilateral kernel in place, in pixels.
    bilateral_rgb: standard deviation of the bilateral kernel in color, in levels of 0..255.
    bilateral_weight: of the bilateral kernel; 0 leaves it out.
    steps: of mean field.
  """
  gaussian_xy: float = 3.0
  gaussian_weight: float = 0.0
  bilateral_xy: float = 25.0
  bilateral_rgb: float = 3.0
  bilateral_weight: float = 3.0
  steps: int = 5


@dataclasses.dataclass(frozen=True)
class Task:
  """An image to label; small enough to be sent to another process.

  Attributes:
    key: whatever the caller knows the image by.
    image: uint8 [H, W, 3], RGB.
    probabilities: float [H, W, N], of the classes that matter in this image.
    classes: uint8 [N], their label ids, ascending.
    settings: a Settings, or None for the network's own labels.
  """
  key: Any
  image: np.ndarray
  probabilities: np.ndarray
  classes: np.ndarray
  settings: Settings

  @property
  def plain_labels(self):
    """uint8 [H, W]: what the network alone says."""
    return self.classes[self.probabilities.argmax(axis=-1)]


def define_flags():
  """Defines --crf, its parameters and --num_workers for a script; only the script reads them."""
  flags.DEFINE_bool('crf', False, 'refine the labels by a dense CRF; see docs/crf.md')
  flags.DEFINE_float('crf_gaussian_xy', Settings.gaussian_xy, 'width of the smoothness term, pixels', 1.0)
  flags.DEFINE_float('crf_gaussian_weight', Settings.gaussian_weight, 'weight of the smoothness term; 0: none', 0.0)
  flags.DEFINE_float('crf_bilateral_xy', Settings.bilateral_xy, 'width of the appearance term in place, pixels', 1.0)
  flags.DEFINE_float('crf_bilateral_rgb', Settings.bilateral_rgb, 'width of the appearance term in color, of 255', 1.0)
  flags.DEFINE_float('crf_bilateral_weight', Settings.bilateral_weight, 'weight of the appearance term; 0: none', 0.0)
  flags.DEFINE_integer('crf_steps', Settings.steps, 'mean field steps', 1)
  flags.DEFINE_integer('num_workers', 0, 'processes for --crf; 0: one a core', 0)


def from_flags(values):
  """Returns the Settings that a script's flags ask for, None without --crf.

  Args:
    values: absl's FLAGS, or anything else with these attributes.

  Raises:
    UserError: if they ask for it and pydensecrf2 is not installed.
  """
  if not values.crf:
    return None
  require()
  return Settings(**{field.name: getattr(values, f'crf_{field.name}') for field in dataclasses.fields(Settings)})


def require():
  """Raises UserError if pydensecrf2 is not installed; the message says how to install it."""
  try:
    import pydensecrf.densecrf  # noqa: F401
  except ImportError as error:
    how = 'pip install -r requirements-crf.txt'
    if sys.version_info >= (3, 13):
      how = 'pip install cython setuptools wheel && pip install --no-build-isolation pydensecrf2==1.1'
    raise UserError(f'the dense CRF needs the package pydensecrf2: {how}') from error


def too_large(size, num_classes):
  """Says why an image is too large for the CRF, which needs its whole probabilities, and more; None if it is not.

  On photographs it was measured to take 20 bytes a pixel and class and 180 a pixel (bilateral_xy=50, bilateral_rgb=5),
  on noise, where pixels share nothing in the lattice, three times as many.

  Args:
    size: (height, width).
    num_classes: of the network.
  """
  height, width = size
  needed = height * width * (24 * num_classes + 250)
  if needed <= MAX_BYTES:
    return None
  return (f'{width}x{height} pixels of {num_classes} classes are too many for the dense CRF: it would take about '
          f'{needed / 2**30:.1f} GiB and may take {MAX_BYTES // 2**30}; scale the image down or leave out --crf')


def make_task(key, image, probabilities, settings):
  """Returns the Task of an image.

  Classes that are nowhere within LEAST_SHARE of the winner are left out: they could not win, and of 150 classes an
  image has few, while time and memory grow with their number.

  Args:
    key: whatever the caller knows the image by.
    image: uint8 [H, W, 3], RGB.
    probabilities: float [H, W, C]; void is none of the C classes.
    settings: a Settings, or None.
  """
  matters = (probabilities >= LEAST_SHARE * probabilities.max(axis=-1, keepdims=True)).any(axis=(0, 1))
  classes = np.flatnonzero(matters).astype(np.uint8)
  return Task(key, image, probabilities[..., classes], classes, settings)


def labels(task):
  """Labels a Task's image: uint8 [H, W], label ids; the network's own where there are no settings."""
  if task.settings is None:
    return task.plain_labels
  return task.classes[mean_field(task.image, task.probabilities, task.settings).argmax(axis=-1)]


def timed_labels(task):
  """Returns `(labels(task), seconds of CPU time that it took)`."""
  start = time.process_time()
  result = labels(task)
  return result, time.process_time() - start


def mean_field(image, probabilities, settings):
  """Runs the CRF's mean field steps (algorithm 1 of the paper).

  Args:
    image: uint8 [H, W, 3], RGB; H and W from 1.
    probabilities: float [H, W, N], 0 to 1.
    settings: a Settings.

  Returns:
    float32 [H, W, N]: each pixel's distribution over the N classes.
  """
  from pydensecrf import densecrf

  height, width, num_classes = probabilities.shape
  unary = -np.log(np.clip(probabilities.astype(np.float32), LEAST_PROBABILITY, 1.0))
  model = densecrf.DenseCRF2D(width, height, num_classes)
  model.setUnaryEnergy(np.ascontiguousarray(unary.reshape(-1, num_classes).T))
  if settings.gaussian_weight:
    model.addPairwiseGaussian(sxy=settings.gaussian_xy, compat=settings.gaussian_weight)
  if settings.bilateral_weight:
    image = np.require(image, np.uint8, ['C', 'W'])  # the package takes no read-only image
    model.addPairwiseBilateral(
        sxy=settings.bilateral_xy, srgb=settings.bilateral_rgb, rgbim=image, compat=settings.bilateral_weight)
  return np.asarray(model.inference(settings.steps)).T.reshape(height, width, num_classes)
