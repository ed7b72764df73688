"""Draws which layer got gradient when, from the event files of a run with --summarize_gradients.

    python -m utils.studies.gradient_chart --run_dir=runs/camvid-inception_v3-8s --output=gradients.png
"""

import glob
import os

import numpy as np
from absl import flags
from PIL import Image, ImageDraw, ImageFont

from utils import errors
from utils.compat import tf
from utils.drawing.colors import write_png
from utils.errors import UserError

FLAGS = flags.FLAGS
PREFIX = 'gradient_to_weight_ratio_by_layer/'  # of the tags that summaries.gradient_summary writes
LOW = np.array([255, 255, 255])
HIGH = np.array([8, 48, 107])
CELL_HEIGHT, WIDTH, LEFT, TOP = 26, 720, 170, 60  # pixels


def read_ratios(run_dir):
  """Reads the norm of each layer's gradient over that of its weights.

  Args:
    run_dir: folder with the event files.

  Returns:
    (steps, layers, ratios): the steps, ascending; names of the layers, new ones first, then from the last to the first;
    float [layers, steps].

  Raises:
    UserError: if the run has no gradient summaries.
  """
  points = {}
  for path in sorted(glob.glob(os.path.join(glob.escape(run_dir), 'events.out.tfevents.*'))):
    for event in tf.train.summary_iterator(path):
      for value in event.summary.value:
        if value.tag.startswith(PREFIX):
          points[value.tag.removeprefix(PREFIX), event.step] = _scalar(value)
  if not points:
    raise UserError(f'--run_dir={run_dir}: no gradient summaries; train with --summarize_gradients')
  layers, steps = sorted({layer for layer, _ in points}), sorted({step for _, step in points})
  ratios = np.array([[points.get((layer, step), np.nan) for step in steps] for layer in layers])
  return steps, [layer.split('_', 1)[1] for layer in layers], ratios


def _scalar(value):
  """The number in a Summary.Value, in the older encoding or the newer."""
  return float(tf.make_ndarray(value.tensor)) if value.HasField('tensor') else value.simple_value


def gradient_chart(steps, layers, ratios):
  """Draws the ratios as a heat map, logarithmically: a row a layer, a column a step.

  Args:
    steps: list of the columns' steps.
    layers: names of the rows.
    ratios: float [layers, steps], above 0; nan is left white.

  Returns:
    uint8 [h, w, 3], RGB.
  """
  logs = np.log10(np.maximum(ratios, 1e-12))
  low, high = np.floor(np.nanmin(logs)), np.ceil(np.nanmax(logs))
  shares = np.nan_to_num((logs - low) / max(high - low, 1.0))
  font = ImageFont.load_default(13)
  picture = Image.new('RGB', (LEFT + WIDTH + 20, TOP + CELL_HEIGHT * len(layers) + 50), (255, 255, 255))
  draw = ImageDraw.Draw(picture)
  draw.text((12, 10), 'norm of the gradient / norm of the weights, by layer and step', fill=(0, 0, 0),
            font=ImageFont.load_default(16))
  draw.text((12, 36), f'white: 1e{low:.0f}   dark: 1e{high:.0f}   (logarithmic)', fill=(0, 0, 0), font=font)
  edges = np.linspace(0, WIDTH, len(steps) + 1).round().astype(int)
  for row, layer in enumerate(layers):
    y = TOP + row * CELL_HEIGHT
    draw.text((LEFT - 8, y + CELL_HEIGHT // 2), layer, fill=(0, 0, 0), font=font, anchor='rm')
    for column in range(len(steps)):
      color = tuple(np.rint(LOW + shares[row, column] * (HIGH - LOW)).astype(int).tolist())
      draw.rectangle((LEFT + edges[column], y, LEFT + edges[column + 1] - 1, y + CELL_HEIGHT - 2), fill=color)
  bottom = TOP + len(layers) * CELL_HEIGHT + 12
  for column in sorted({0, len(steps) // 2, len(steps) - 1}):
    middle = LEFT + (edges[column] + edges[column + 1]) // 2
    draw.text((middle, bottom), f'step {steps[column]}', fill=(0, 0, 0), font=font, anchor='mm')
  return np.asarray(picture)


def _define_flags():
  flags.DEFINE_string('run_dir', None, "run's folder", required=True)
  flags.DEFINE_string('output', 'gradients.png', 'picture to write')


def main(argv):
  if len(argv) > 1:
    raise UserError(f'unexpected argument {argv[1]!r}; all settings are flags, see --help')
  write_png(FLAGS.output, gradient_chart(*read_ratios(FLAGS.run_dir)))
  print(f'{FLAGS.output} shows which layer of {FLAGS.run_dir} got gradient when')


if __name__ == '__main__':
  _define_flags()
  errors.run(main)
