"""Draws the gradient of each layer over a training, from the event files of a run with --summarize_gradients.

    python -m utils.training.gradient_chart --run_dir=runs/camvid-inception_v3-8s --output=gradients.png
"""

import dataclasses
import glob
import os
import sys

import numpy as np

from utils.compat import tf
from utils.drawing import canvas
from utils.drawing.colors import write_png
from utils.errors import UserError, shown
from utils.files import claim, tensorflow_path
from utils.settings import Settings, flag, overwrite_flag, run
from utils.training.summaries import RATIO_PREFIX

ROW, WIDTH = 26, 720  # pixels: height of a row, width of all columns


def read_ratios(run_dir):
  """Reads the ratio of each layer's gradient norm to its weight norm.

  Args:
    run_dir: folder with the event files.

  Returns:
    (steps, layers, ratios): the steps, ascending; names of the layers, new layers first, then from the last to the
    first; float [layers, steps], nan where the run has no value.

  Raises:
    UserError: if the run has no gradient summaries.
  """
  points = {}
  for path in sorted(glob.glob(os.path.join(glob.escape(run_dir), 'events.out.tfevents.*'))):
    for event in _events(path):
      for value in event.summary.value:
        if value.tag.startswith(RATIO_PREFIX):
          points[value.tag.removeprefix(RATIO_PREFIX), event.step] = _scalar(value)
  if not points:
    raise UserError(f'--run_dir={run_dir}: no gradient summaries; train with --summarize_gradients')
  layers, steps = sorted({layer for layer, _ in points}), sorted({step for _, step in points})
  ratios = np.array([[points.get((layer, step), np.nan) for step in steps] for layer in layers])
  return steps, [layer.split('_', 1)[1] for layer in layers], ratios


def _events(path):
  """Yields the events of a file, up to where it is cut off: that of a run that was killed, or still trains, may be."""
  try:
    yield from tf.train.summary_iterator(tensorflow_path(path))
  except tf.errors.DataLossError:
    print(f'note: {shown(path)} is cut off at its end; what is before is drawn', file=sys.stderr, flush=True)


def _scalar(value):
  """The number in a Summary.Value, in the older encoding or the newer."""
  return float(tf.make_ndarray(value.tensor)) if value.HasField('tensor') else value.simple_value


def gradient_chart(steps, layers, ratios):
  """Draws the ratios as a heat map on a logarithmic scale: a row for each layer, a column for each step.

  Args:
    steps: list of the columns' steps.
    layers: names of the rows.
    ratios: float [layers, steps]. A cell without a finite ratio above 0 is blank, with a line through it: all weights
      of the layer were 0, or its whole gradient.

  Returns:
    uint8 [h, w, 3], RGB.
  """
  known = np.isfinite(ratios) & (ratios > 0)
  logs = np.log10(np.maximum(np.where(known, ratios, 1.0), 1e-12))
  low, high, note = 0.0, 1.0, 'no finite ratio above 0 in any layer at any step'
  if known.any():
    low = np.floor(logs[known].min())
    high = max(np.ceil(logs[known].max()), low + 1)
    note = f'white: 1e{low:.0f}, dark: 1e{high:.0f} (logarithmic){"" if known.all() else "; gray line: no ratio"}'
  chart, left = canvas.row_chart('norm of the gradient / norm of the weights, by layer and step', layers, width=WIDTH,
                                 height=ROW, bottom=36, note=note)
  edges = left + np.linspace(0, WIDTH, len(steps) + 1).round().astype(int)
  for row, column in np.ndindex(*ratios.shape):
    y, start, end = canvas.TOP + row * ROW, edges[column], max(edges[column], edges[column + 1] - 1)
    if known[row, column]:
      chart.bar(start, y, end, y + ROW - 2, canvas.shade((logs[row, column] - low) / (high - low)))
    else:
      chart.line(start, y + ROW // 2 - 1, end, y + ROW // 2 - 1, canvas.GRAY)
  last = len(steps) - 1
  for column in sorted({0, len(steps) // 2, last}):
    x, anchor = ((edges[0], 'l') if column == 0 else (edges[-1], 'r') if column == last else
                 ((edges[column] + edges[column + 1]) // 2, 'm'))
    chart.text(x, canvas.TOP + len(layers) * ROW + 12, f'step {steps[column]}', anchor)
  return chart.array()


@dataclasses.dataclass(frozen=True)
class GradientChartSettings(Settings):
  """Flags of this program."""
  run_dir: str | None = flag(None, "run's folder", required=True, path=True)
  output: str = flag('gradients.png', 'picture to write', path=True)
  overwrite: bool = overwrite_flag()


def work(settings):
  """Draws the chart of a run; `settings` is a GradientChartSettings."""
  claim([settings.output], overwrite=settings.overwrite)
  write_png(settings.output, gradient_chart(*read_ratios(settings.run_dir)))
  print(f'{shown(settings.output)} shows which layer of {shown(settings.run_dir)} got gradient when')


def main(argv=None):
  """Draws; `argv` is the command line without the program's name, None for the process's own."""
  return run(work, GradientChartSettings, argv, text=__doc__)


if __name__ == '__main__':
  sys.exit(main())
