"""Compares an exported network with its run on real images: labels, probabilities, mean IoU, time."""

import dataclasses
import time

import numpy as np

from utils.evaluation import metrics
from utils.inference.tiles import Tiles

NATIVE, ODD, BATCH = 'native', 'odd', 'batch'
BATCH_SIZE = 3
MOST_PIXELS = Tiles.max_pixels  # larger images are cut: inference.py would label them in tiles


@dataclasses.dataclass(frozen=True)
class Limits:
  """How far an exported network may differ from its run.

  Attributes:
    equal: least share of the pixels that have the same label.
    difference: greatest mean difference of the probabilities.
  """
  equal: float
  difference: float


# By --quantize; what was measured stands in docs/export.md.
LIMITS = {None: Limits(0.999, 1e-3), 'float16': Limits(0.995, 2e-3), 'int8_weights': Limits(0.98, 1e-2),
          'int8': Limits(0.97, 3e-2)}


@dataclasses.dataclass(frozen=True)
class Case:
  """Images that go through the network together.

  Attributes:
    kind: NATIVE: one image as it is; ODD: a part of one, of odd height and width; BATCH: parts of several.
    images: [B, H, W, N].
    truth: int [B, H, W], label ids and IGNORE_LABEL; None where it is not scored.
  """
  kind: str
  images: np.ndarray
  truth: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Answers:
  """What a network, a Predictor or an Engine, says of Cases.

  Attributes:
    labels: list of uint8 [B, H, W], one for each Case.
    probabilities: the same of float32 [B, H, W, C], of the first Case and of the last.
    milliseconds: time of a NATIVE image, the median.
  """
  labels: list
  probabilities: list
  milliseconds: float


def cases(examples, size=()):
  """Makes Cases of a split's images.

  Args:
    examples: list of (image [H, W, N], truth [H, W]), at least one.
    size: (height, width) to which images are brought, by taking or repeating pixels; () leaves them as they are.

  Returns:
    list of Case: all images, then a BATCH, and without `size` an ODD part.
  """
  examples = [tuple(at_size(part, size) if size else _cut(part) for part in example) for example in examples]
  images = [image for image, _ in examples]
  found = [Case(NATIVE, image[np.newaxis], truth[np.newaxis]) for image, truth in examples]
  several = images[:BATCH_SIZE] if len(images) > 1 else [images[0], images[0][:, ::-1]]
  height, width = (min(lengths) for lengths in zip(*(image.shape[:2] for image in several)))
  found.append(Case(BATCH, np.stack([image[:height, :width] for image in several])))
  if not size:
    height, width = images[0].shape[:2]
    found.append(Case(ODD, images[0][np.newaxis, :2 * height // 3 | 1, :3 * width // 5 | 1]))
  return found


def at_size(pixels, size):
  """Brings an image, or labels, [H, W, ...] to another (height, width): each pixel is that nearest to its place."""
  rows, columns = (np.arange(length) * present // length for length, present in zip(size, pixels.shape))
  return pixels[rows][:, columns]


def _cut(pixels):
  """The upper left part of an image, or of labels, that has MOST_PIXELS at most."""
  height, width = pixels.shape[:2]
  factor = min(1, (MOST_PIXELS / (height * width))**0.5)
  return pixels[:max(1, int(height * factor)), :max(1, int(width * factor))]


def answers(network, asked):
  """Asks a network, which has `labels` and `probabilities` as a Predictor and an Engine, for Answers to Cases."""
  network.labels(asked[0].images)  # a network's first call takes longer
  labels, times = [], []
  for case in asked:
    start = time.perf_counter()
    labels.append(network.labels(case.images))
    if case.kind == NATIVE:
      times.append(time.perf_counter() - start)
  probabilities = [network.probabilities(case.images) for case in (asked[0], asked[-1])]
  return Answers(labels, probabilities, 1000 * float(np.median(times)))


def compared(asked, expected, found, num_classes):
  """Compares the Answers `found` with those of the run, `expected`.

  Args:
    asked: the list of Case.
    expected: Answers.
    found: Answers.
    num_classes: number of classes.

  Returns:
    dict: `pixels`, `equal` (pixels with the same label), `equal_share` (by kind of Case), `probabilities`
    (`mean_difference`, `greatest_difference`), `mean_iou` and `milliseconds`, both with `run` and `exported`.

  Raises:
    ValueError: if labels have another shape or type, or are none of a class.
  """
  pixels, equal = dict.fromkeys((NATIVE, BATCH, ODD), 0), dict.fromkeys((NATIVE, BATCH, ODD), 0)
  matrices = np.zeros([2, num_classes, num_classes], np.int64)
  for case, one, other in zip(asked, expected.labels, found.labels):
    if (one.shape, one.dtype) != (other.shape, other.dtype):
      raise ValueError(f'labels are {other.dtype} {list(other.shape)} instead of {one.dtype} {list(one.shape)}')
    pixels[case.kind] += one.size
    equal[case.kind] += int((one == other).sum())
    if case.truth is not None:
      matrices += [metrics.confusion_matrix(case.truth, labels, num_classes) for labels in (one, other)]
  differences = np.concatenate([np.abs(one - other).ravel()
                                for one, other in zip(expected.probabilities, found.probabilities)])
  names = 'run', 'exported'
  return {
      'pixels': sum(pixels.values()), 'equal': sum(equal.values()),
      'equal_share': {kind: equal[kind] / count for kind, count in pixels.items() if count},
      'probabilities': {'mean_difference': float(differences.mean()), 'greatest_difference': float(differences.max())},
      'mean_iou': dict(zip(names, (metrics.scores(matrix)['mean_iou'] for matrix in matrices))),
      'milliseconds': dict(zip(names, (expected.milliseconds, found.milliseconds))),
  }


def objections(comparison, limits):
  """Reasons why an exported network is not its run: a list of phrases, empty where it keeps the Limits.

  Args:
    comparison: dict of `compared`.
    limits: a Limits.
  """
  share, difference = comparison['equal'] / comparison['pixels'], comparison['probabilities']['mean_difference']
  found = []
  if not share >= limits.equal:
    found.append(f'only {100 * share:.3f} % of the pixels have the same label, and {100 * limits.equal:g} % are wanted')
  if not difference <= limits.difference:
    found.append(f'probabilities differ by {difference:.2g} on average, and {limits.difference:g} is allowed')
  return found
