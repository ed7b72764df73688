"""Dense CRF after the network: every pixel is connected to all others (Kraehenbuehl and Koltun, NIPS 2011).

The energy of a labeling x is (their equations 1 to 3, with Potts' model)

    sum_i -log p_i(x_i)  +  sum_{i<j} [x_i != x_j] (w1 k1(i, j) + w2 k2(i, j)),

where p are the network's probabilities and the two kernels, Gaussians of the pixels' places s and colors c, are

    k1 = exp(-|s_i - s_j|^2 / 2 bilateral_xy^2 - |c_i - c_j|^2 / 2 bilateral_rgb^2)    bilateral: appearance
    k2 = exp(-|s_i - s_j|^2 / 2 gaussian_xy^2)                                         Gaussian: smoothness

pydensecrf2, Kraehenbuehl's own code, approximates the minimum by mean field steps and their sums over all pixels by a
permutohedral lattice. It normalizes each kernel by the square roots of its sums at i and at j, so that a weight means
about the same for every width of the kernel and near the borders.

The package is optional, and holds Python's lock while it works, so images are spread over processes: a `Task` goes to a
worker, `labels(task)` runs there. This module imports no TensorFlow, so neither do the workers.
"""

import dataclasses
import sys
import time
from typing import Any

import numpy as np

from utils.errors import UserError
from utils.installation import install
from utils.settings import Settings, flag

LEAST_PROBABILITY = 1e-5  # smallest probability of a class: unary energies are at most 11.5
LEAST_SHARE = 0.01  # share of the winner's probability that a class needs in some pixel, else it is dropped
MAX_BYTES = 8 * 2**30  # memory limit for an image


@dataclasses.dataclass(frozen=True)
class Crf(Settings):
  """Parameters of the CRF; the defaults gain on CamVid and on VOC, whose best parameters differ (docs/crf.md).

  Attributes:
    gaussian_xy: standard deviation of the Gaussian kernel, in pixels.
    gaussian_weight: weight of the Gaussian kernel; 0 disables it.
    bilateral_xy: standard deviation of the bilateral kernel in place, in pixels.
    bilateral_rgb: standard deviation of the bilateral kernel in color, in levels of 0..255.
    bilateral_weight: weight of the bilateral kernel; 0 disables it.
    steps: number of mean field steps.
  """
  gaussian_xy: float = flag(3.0, 'width of the smoothness term, pixels', least=1)
  gaussian_weight: float = flag(0.0, 'weight of the smoothness term; 0: none', least=0)
  bilateral_xy: float = flag(25.0, 'width of the appearance term in place, pixels', least=1)
  bilateral_rgb: float = flag(3.0, 'width of the appearance term in color, levels of 0..255', least=1)
  bilateral_weight: float = flag(3.0, 'weight of the appearance term; 0: none', least=0)
  steps: int = flag(5, 'mean field steps', least=1)


@dataclasses.dataclass(frozen=True)
class Task:
  """An image to label; small enough to be sent to another process.

  Attributes:
    key: the caller's name for the image.
    image: uint8 [H, W, 3], RGB.
    probabilities: float [H, W, N], probabilities of the N classes kept for this image, see make_task.
    classes: uint8 [N], their label ids, ascending.
    settings: a Crf, or None for the network's own labels.
  """
  key: Any
  image: np.ndarray
  probabilities: np.ndarray
  classes: np.ndarray
  settings: Crf | None

  @property
  def plain_labels(self):
    """uint8 [H, W]: the network's own labels."""
    return self.classes[self.probabilities.argmax(axis=-1)]


def require():
  """Raises UserError if pydensecrf2 is not installed; the message says how to install it."""
  try:
    import pydensecrf.densecrf  # noqa: F401
  except ImportError as error:
    how = install('crf')
    if sys.version_info >= (3, 13):
      how = 'pip install cython setuptools wheel && pip install --no-build-isolation pydensecrf2==1.1'
    raise UserError(f'the dense CRF needs the package pydensecrf2: {how}') from error


def too_large(size, num_classes):
  """Reason why an image is too large for the CRF, which holds the probabilities of all pixels; None if it fits.

  On photographs the CRF was measured to take 20 bytes per pixel and class and 180 bytes per pixel (bilateral_xy=50,
  bilateral_rgb=5); on noise, where pixels share nothing in the lattice, three times as much.

  Args:
    size: (height, width).
    num_classes: number of the network's classes.

  Returns:
    str that names the sizes, or None.
  """
  height, width = size
  needed = height * width * (24 * num_classes + 250)
  if needed <= MAX_BYTES:
    return None
  return (f'{width}x{height} pixels of {num_classes} classes are too many for the dense CRF: it would take about '
          f'{needed / 2**30:.1f} GiB and may take {MAX_BYTES // 2**30}; scale the image down or leave out --crf')


def make_task(key, image, probabilities, settings):
  """Returns the Task of an image.

  Classes below LEAST_SHARE of the winner's probability in every pixel are dropped: they could not win, and time and
  memory grow with the number of classes, of which an image has few.

  Args:
    key: the caller's name for the image.
    image: uint8 [H, W, 3], RGB.
    probabilities: float [H, W, C]; void is none of the C classes.
    settings: a Crf, or None.
  """
  matters = (probabilities >= LEAST_SHARE * probabilities.max(axis=-1, keepdims=True)).any(axis=(0, 1))
  classes = np.flatnonzero(matters).astype(np.uint8)
  return Task(key, image, probabilities[..., classes], classes, settings)


def labels(task):
  """Labels a Task's image: uint8 [H, W], label ids; the network's own if the Task has no settings."""
  if task.settings is None:
    return task.plain_labels
  return task.classes[mean_field(task.image, task.probabilities, task.settings).argmax(axis=-1)]


def refine(item):
  """Labels the Task of a pair (number, Task or None); returns None without a Task. For utils.workers.ordered_map."""
  _, task = item
  return None if task is None else labels(task)


def timed_labels(task):
  """Returns `(labels(task), its CPU time in seconds)`."""
  start = time.process_time()
  result = labels(task)
  return result, time.process_time() - start


def mean_field(image, probabilities, settings):
  """Runs the CRF's mean field steps (algorithm 1 of the paper).

  Args:
    image: uint8 [H, W, 3], RGB; H and W from 1.
    probabilities: float [H, W, N], 0 to 1.
    settings: a Crf.

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
