"""The best and the worst images of a split."""

from utils.drawing import gallery
from utils.errors import shown
from utils.evaluation import metrics

NUM_EXTREMES = 4  # number of best images, and of worst images


class Extremes:
  """The part of a Scorer that keeps the images with the greatest and the least mean IoU.

  Attributes:
    best: list of gallery.Row, the best first.
    worst: list of gallery.Row, the worst first.
  """

  def __init__(self, num_classes):
    del num_classes
    self.best, self.worst = [], []

  def add(self, example):
    """Adds a scorer.Example; an image without labeled pixels has no score and is skipped."""
    score = metrics.present_iou(example.matrix)
    if score is None:
      return
    row = gallery.row(example.name, example.image, example.truth, example.prediction, score)
    self.best = sorted([*self.best, row], key=lambda one: -one.score)[:NUM_EXTREMES]
    self.worst = sorted([*self.worst, row], key=lambda one: one.score)[:NUM_EXTREMES]

  def to_json(self, classes):
    """Dict for the metrics file: `best` and `worst`, lists of names and mean IoUs."""
    del classes
    return {key: [{'name': row.name, 'mean_iou': row.score} for row in rows]
            for key, rows in (('best', self.best), ('worst', self.worst))}

  def text(self, value):
    """List of two lines: the best images, and the worst."""
    return [f'{key} images: ' + ', '.join(f'{shown(row["name"])} {metrics.percent(row["mean_iou"])}'
                                          for row in value[key]) for key in ('best', 'worst')]

  def pictures(self, run, title):
    """Dict with sheets of the best and of the worst images, uint8 [h, w, 3], RGB; errors in red."""
    del title
    return {name: gallery.sheet(rows, run.classes, run.palette, errors=True)
            for name, rows in (('best', self.best), ('worst', self.worst))}
