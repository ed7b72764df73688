"""Evaluates a trained network on a split: table, metrics-SPLIT.json, confusion matrix and examples as pictures.

    python evaluate.py --ckpt=runs/voc-inception_v3-8s --split=val
"""

import dataclasses
import os

import numpy as np
from absl import flags

from datasets.dataset import IGNORE_LABEL
from datasets.workers import default_workers, ordered_map
from utils import charts, colors, crf, errors, metrics
from utils.errors import UserError
from utils.evaluation import check_dataset, read
from utils.files import make_folder, write_json
from utils.predictor import Predictor
from utils.progress import Progress
from utils.runs import load_run
from utils.session import define_flags

FLAGS = flags.FLAGS
flags.DEFINE_string('ckpt', None, "run's folder, or one checkpoint in it", required=True)
flags.DEFINE_string('split', 'val', 'split to evaluate')
flags.DEFINE_string('data_dir', None, 'folder with the TFRecords; default: the one the run was trained from')
flags.DEFINE_integer('samples', 0, 'passes with dropout to average; 0: one pass without dropout', lower_bound=0)
flags.DEFINE_integer('seed', 0, 'of what --samples drop', lower_bound=0)
define_flags()
crf.define_flags()

NUM_EXAMPLES = 4  # in the picture
EXAMPLE_HEIGHT = 360  # pixels; taller ones are thinned out


def main(argv):
  if len(argv) > 1:
    raise UserError(f'unexpected argument {argv[1]!r}; all settings are flags, see --help')
  settings = crf.from_flags(FLAGS)
  run = load_run(FLAGS.ckpt)
  data_dir = FLAGS.data_dir or run.config['flags']['data_dir']
  num_images = check_dataset(run, data_dir, FLAGS.split)
  make_folder(run.folder)
  with Predictor(run, FLAGS.precision, samples=FLAGS.samples, seed=FLAGS.seed, gpu=FLAGS.gpu,
                 gpu_memory_fraction=FLAGS.gpu_memory_fraction) as predictor:
    print(f'{run.checkpoint} (step {run.step}) on the {num_images} images of {FLAGS.split} in {data_dir}', flush=True)
    matrix, plain_matrix, examples = evaluate(run, predictor, data_dir, num_images, settings)
  if not matrix.any():
    raise UserError(f'split {FLAGS.split!r} in {data_dir} has no labelled pixel')
  report(run, matrix, plain_matrix, examples, num_images, settings)


def evaluate(run, predictor, data_dir, num_images, settings):
  """Predicts a split image by image, and refines the labels by the CRF if there are `settings` of one.

  Returns:
    `(matrix, plain_matrix, examples)`: the confusion matrix, the one without the CRF, and a few small (image, truth,
    prediction) to look at.
  """
  matrix, plain_matrix = np.zeros([2, len(run.classes), len(run.classes)], np.int64)
  shown = set(np.linspace(0, num_images - 1, NUM_EXAMPLES).astype(int).tolist())
  examples = []
  with Progress(num_images, 'images', label=FLAGS.split) as progress:
    labelled = label_refined(predictor, data_dir, settings) if settings else label(predictor, data_dir)
    for index, (name, image, truth, prediction, plain) in enumerate(labelled):
      try:
        matrix += metrics.confusion_matrix(truth, prediction, len(run.classes), IGNORE_LABEL)
      except UserError as error:
        raise UserError(f'{data_dir}, {FLAGS.split}, record {name}: {error}') from error
      if plain is not None:
        plain_matrix += metrics.confusion_matrix(truth, plain, len(run.classes), IGNORE_LABEL)
      if index in shown:
        thin = (slice(None, None, -(-len(image) // EXAMPLE_HEIGHT)),) * 2
        examples.append((image[thin], truth[thin], prediction[thin]))
      progress.update()
  if progress.done != num_images:
    raise UserError(f'{data_dir} holds {progress.done} images of {FLAGS.split} and its JSON says {num_images}')
  return matrix, plain_matrix, examples


def label(predictor, data_dir):
  """Yields (name, image, truth, prediction, None) of every record, see `read`."""
  for name, image, truth in read(data_dir, FLAGS.split):
    yield name, image, truth, predictor.labels(image[None])[0], None


def label_refined(predictor, data_dir, settings):
  """Yields (name, image, truth, prediction, prediction without the CRF): the network here, the CRF in processes."""

  def tasks():
    for name, image, truth in read(data_dir, FLAGS.split):
      reason = crf.too_large(image.shape[:2], predictor.num_classes)
      if reason:
        raise UserError(f'{data_dir}, {FLAGS.split}, record {name}: {reason}')
      yield crf.make_task((name, truth), image, predictor.probabilities(image[None])[0], settings)

  for task, prediction in ordered_map(crf.labels, tasks(), FLAGS.num_workers or default_workers()):
    name, truth = task.key
    yield name, task.image, truth, prediction, task.plain_labels


def report(run, matrix, plain_matrix, examples, num_images, settings):
  """Prints the table and writes the files into the run's folder."""
  result = metrics.scores(matrix)
  print(metrics.table(result, run.classes))
  if settings:
    plain = metrics.scores(plain_matrix)['mean_iou']
    print(f'mean IoU without the CRF: {100 * plain:.1f} %')
  value = metrics.to_json(result, run.classes, num_images, matrix=matrix)
  value |= {'checkpoint': os.path.basename(run.checkpoint), 'step': run.step, 'precision': FLAGS.precision,
            'samples': FLAGS.samples}
  if settings:
    value |= {'crf': dataclasses.asdict(settings), 'mean_iou_without_crf': plain}
  paths = [os.path.join(run.folder, name.format(FLAGS.split + ('-crf' if settings else '')))
           for name in ('metrics-{}.json', 'confusion-{}.png', 'examples-{}.png')]
  write_json(paths[0], value)
  title = f'{FLAGS.split}, step {run.step}: mean IoU {100 * result["mean_iou"]:.1f} %; rows in % of the true pixels'
  colors.write_png(paths[1], charts.confusion_chart(matrix, run.classes, title))
  colors.write_png(paths[2], stacked(examples, run))
  print('written: ' + ', '.join(paths))


def stacked(examples, run):
  """Draws examples under each other, each as image | truth | prediction, with the legend of the classes in them."""
  pictures = [colors.side_by_side(*example, run.palette) for example in examples]
  width = max(picture.shape[1] for picture in pictures)
  rows = [np.pad(picture, ((0, 4), (0, width - picture.shape[1]), (0, 0)), constant_values=255) for picture in pictures]
  ids = set().union(*(np.unique(part).tolist() for example in examples for part in example[1:]))
  return colors.with_legend(np.concatenate(rows), sorted(ids), run.classes, run.palette)


if __name__ == '__main__':
  errors.run(main)
