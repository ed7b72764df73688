"""Scorer: adds up labeled images, for evaluate.py and for evaluation during training.

A part is a class, made with the number of classes. It has `add(example)` and, for reports, `to_json(classes)` (dict for
the metrics file), `text(value)` (lines of text from this dict) and `pictures(run, title)` (dict from name to uint8
[h, w, 3]). A new metric is a file with a part, and an entry of PARTS.
"""

import dataclasses
import os

import numpy as np

from utils.drawing import colors
from utils.errors import UserError
from utils.evaluation import metrics
from utils.evaluation.boundaries import Boundaries
from utils.evaluation.calibration import Calibration
from utils.evaluation.extremes import Extremes

PARTS = (Boundaries, Calibration, Extremes)  # parts of evaluate.py --details, in the order of the report
PICTURES = ('calibration', 'best', 'worst')  # names of their pictures


@dataclasses.dataclass(frozen=True)
class Example:
  """An evaluated image, as passed to the parts.

  Attributes:
    name: name of its record.
    image: uint8 [H, W, 3], RGB.
    truth: integer [H, W], label ids or IGNORE_LABEL.
    prediction: integer [H, W], label ids.
    plain: integer [H, W], the network's own argmax; differs from the prediction if a CRF refined it.
    confidence: float [H, W], the probability of `plain`.
    matrix: int64 [C, C], the image's confusion matrix.
  """
  name: str
  image: np.ndarray
  truth: np.ndarray
  prediction: np.ndarray
  plain: np.ndarray
  confidence: np.ndarray
  matrix: np.ndarray


class Scorer:
  """Sums over the images of a split so far: memory does not grow with their number.

  Attributes:
    classes: tuple of class names, index = label id.
    matrix: int64 [C, C], the confusion matrix, see metrics.confusion_matrix.
    parts: list of the parts.
  """

  def __init__(self, classes, *, where='', parts=()):
    """Starts with no images.

    Args:
      classes: class names, index = label id.
      where: the split, for messages: 'data/voc, val'.
      parts: classes of the parts to add up, e.g. PARTS.
    """
    self.classes, self._where = tuple(classes), where
    self.matrix = np.zeros([len(classes)] * 2, np.int64)
    self.parts = [part(len(classes)) for part in parts]

  def add(self, name, truth, prediction, *, image=None, plain=None, confidence=None):
    """Adds an image; arguments as the attributes of Example, keyword arguments for the parts alone.

    Raises:
      UserError: if a label is out of range; names the record.
    """
    try:
      matrix = metrics.confusion_matrix(truth, prediction, len(self.classes))
    except UserError as error:
      raise UserError(f'{self._where}{", " if self._where else ""}record {name}: {error}') from error
    self.matrix += matrix
    example = Example(name, image, truth, prediction, plain, confidence, matrix)
    for part in self.parts:
      part.add(example)

  def result(self):
    """The scores so far, see metrics.scores."""
    return metrics.scores(self.matrix)

  def details(self):
    """The parts' results as a dict that JSON can hold; None for undefined values."""
    value = {}
    for part in self.parts:
      value |= part.to_json(self.classes)
    return value

  def text(self, value):
    """Lays out `value`, the dict from `details`, as lines of text, in percent."""
    return '\n'.join(line for part in self.parts for line in part.text(value))

  def write_pictures(self, folder, suffix, run):
    """Writes the parts' pictures as NAME-SUFFIX.png.

    Args:
      folder: folder to write to.
      suffix: suffix of the files' names and start of the charts' titles.
      run: a utils.runs.Run.

    Returns:
      list of the paths.

    Raises:
      UserError: if a file cannot be written.
    """
    paths = []
    for part in self.parts:
      for name, picture in part.pictures(run, f'{suffix}, step {run.step}').items():
        paths.append(os.path.join(folder, f'{name}-{suffix}.png'))
        colors.write_png(paths[-1], picture)
    return paths
