"""Evaluates a trained network on a split: table, metrics-SPLIT.json, confusion matrix and examples as pictures.

    python evaluate.py --ckpt=runs/voc-inception_v3-8s --split=val
    python evaluate.py --ckpt=runs/voc-inception_v3-8s --details
    python evaluate.py --ckpt=runs/voc-inception_v3-8s --test_flip --test_scales=0.75,1,1.25
"""

import dataclasses
import os

import numpy as np
from absl import flags

from datasets import pipeline, records
from utils import errors
from utils.drawing import charts, colors, gallery
from utils.errors import UserError
from utils.evaluation import details, metrics
from utils.files import make_folder, write_json
from utils.inference import crf, tta
from utils.inference.predictor import Predictor
from utils.progress import Progress
from utils.runs import load_run
from utils.session import define_flags
from utils.workers import default_workers, ordered_map

FLAGS = flags.FLAGS
flags.DEFINE_string('ckpt', None, "run's folder, or one checkpoint in it", required=True)
flags.DEFINE_string('split', 'val', 'split to evaluate')
flags.DEFINE_string('data_dir', None, 'folder with the TFRecords; default: the one the run was trained from')
flags.DEFINE_integer('samples', 0, 'passes with dropout to average; 0: one pass without dropout', lower_bound=0)
flags.DEFINE_integer('seed', 0, 'of what --samples drop', lower_bound=0)
flags.DEFINE_bool('details', False, 'also scores along boundaries, calibration, and the best and the worst images')
tta.define_flags()
define_flags()
crf.define_flags()

NUM_EXAMPLES = 4  # in the picture


def main(argv):
  if len(argv) > 1:
    raise UserError(f'unexpected argument {argv[1]!r}; all settings are flags, see --help')
  seen = tta.from_flags(FLAGS)
  settings = crf.from_flags(FLAGS)
  run = load_run(FLAGS.ckpt)
  data_dir = FLAGS.data_dir or run.config['flags']['data_dir']
  num_images = records.check_classes(data_dir, FLAGS.split, run.classes, trained=run.folder)
  make_folder(run.folder)
  with Predictor(run, FLAGS.precision, samples=FLAGS.samples, seed=FLAGS.seed, views=seen, gpu=FLAGS.gpu,
                 gpu_memory_fraction=FLAGS.gpu_memory_fraction) as predictor:
    print(f'{run.checkpoint} (step {run.step}) on the {num_images} images of {FLAGS.split} in {data_dir}', flush=True)
    matrix, plain_matrix, examples, more = evaluate(run, predictor, data_dir, num_images, settings)
  if not matrix.any():
    raise UserError(f'split {FLAGS.split!r} in {data_dir} has no labelled pixel')
  report(run, matrix, plain_matrix, examples, more, num_images=num_images, seen=seen, settings=settings)


def evaluate(run, predictor, data_dir, num_images, settings):
  """Predicts a split image by image, and refines the labels by the CRF if there are `settings` of one.

  Returns:
    `(matrix, plain_matrix, examples, more)`: the confusion matrix, the one without the CRF, a few gallery.Row to look
    at, and the details.Details, None if they are not wanted.
  """
  matrix, plain_matrix = np.zeros([2, len(run.classes), len(run.classes)], np.int64)
  shown = set(np.linspace(0, num_images - 1, NUM_EXAMPLES).astype(int).tolist())
  examples, more = [], details.start(len(run.classes)) if FLAGS.details else None
  with Progress(num_images, 'images', label=FLAGS.split) as progress:
    labelled = label_refined(predictor, data_dir, settings) if settings else label(predictor, data_dir)
    for index, (row, plain, confidence) in enumerate(labelled):
      name, _, truth, prediction = row
      try:
        one = metrics.confusion_matrix(truth, prediction, len(run.classes))
      except UserError as error:
        raise UserError(f'{data_dir}, {FLAGS.split}, record {name}: {error}') from error
      matrix += one
      if settings:
        plain_matrix += metrics.confusion_matrix(truth, plain, len(run.classes))
      if more:
        details.add(more, row, one, plain=plain, confidence=confidence)
      if index in shown:
        examples.append(gallery.row(*row))
      progress.update()
  if progress.done != num_images:
    raise UserError(f'{data_dir} holds {progress.done} images of {FLAGS.split} and its JSON says {num_images}')
  return matrix, plain_matrix, examples, more


def label(predictor, data_dir):
  """Yields ((name, image, truth, prediction), plain, confidence) of every record, see `read` and `details.add`.

  The last two are None without --details: then labels alone leave the graph.
  """
  for name, image, truth in pipeline.examples(data_dir, FLAGS.split):
    if not FLAGS.details:
      yield (name, image, truth, predictor.labels(image[None])[0]), None, None
      continue
    probabilities = predictor.probabilities(image[None])[0]
    prediction = probabilities.argmax(axis=-1).astype(np.uint8)
    yield (name, image, truth, prediction), prediction, probabilities.max(axis=-1)


def label_refined(predictor, data_dir, settings):
  """As `label`, always with the last two: the network here, the CRF in processes."""

  def tasks():
    for name, image, truth in pipeline.examples(data_dir, FLAGS.split):
      reason = crf.too_large(image.shape[:2], predictor.num_classes)
      if reason:
        raise UserError(f'{data_dir}, {FLAGS.split}, record {name}: {reason}')
      yield crf.make_task((name, truth), image, predictor.probabilities(image[None])[0], settings)

  for task, prediction in ordered_map(crf.labels, tasks(), FLAGS.num_workers or default_workers()):
    name, truth = task.key
    yield (name, task.image, truth, prediction), task.plain_labels, task.probabilities.max(axis=-1)


def report(run, matrix, plain_matrix, examples, more, *, num_images, seen, settings):
  """Prints the table and writes the files into the run's folder."""
  result = metrics.scores(matrix)
  print(metrics.table(result, run.classes))
  if settings:
    plain = metrics.scores(plain_matrix)['mean_iou']
    print(f'mean IoU without the CRF: {100 * plain:.1f} %')
  value = metrics.to_json(result, run.classes, num_images, matrix=matrix)
  value |= {'checkpoint': os.path.basename(run.checkpoint), 'step': run.step, 'precision': FLAGS.precision,
            'samples': FLAGS.samples, 'test_flip': seen.flip, 'test_scales': list(seen.scales)}
  suffix = FLAGS.split
  if settings:
    value |= {'crf': dataclasses.asdict(settings), 'mean_iou_without_crf': plain}
    suffix += '-crf'
  if more:
    value['details'] = details.to_json(more, run.classes)
    print(details.text(value['details']))
  paths = [os.path.join(run.folder, name.format(suffix))
           for name in ('metrics-{}.json', 'confusion-{}.png', 'examples-{}.png')]
  write_json(paths[0], value)
  title = f'{FLAGS.split}, step {run.step}: mean IoU {100 * result["mean_iou"]:.1f} %; rows in % of the true pixels'
  colors.write_png(paths[1], charts.confusion_chart(matrix, run.classes, title))
  colors.write_png(paths[2], gallery.sheet(examples, run.classes, run.palette))
  if more:
    paths += details.write_pictures(more, run.folder, suffix, run=run)
  print('written: ' + ', '.join(paths))


if __name__ == '__main__':
  errors.run(main)
