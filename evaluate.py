"""Evaluates a trained network on a split: table, metrics-SPLIT.json, confusion matrix and examples as pictures.

    python evaluate.py --ckpt=runs/voc-inception_v3-8s --split=val
"""

import os

import numpy as np
from absl import flags

from datasets import pipeline, records
from datasets.dataset import IGNORE_LABEL
from utils import charts, colors, errors, metrics
from utils.compat import tf
from utils.errors import UserError
from utils.files import make_folder, write_json
from utils.predictor import Predictor
from utils.progress import Progress
from utils.runs import load_run
from utils.session import PRECISIONS

FLAGS = flags.FLAGS
flags.DEFINE_string('ckpt', None, "run's folder, or one checkpoint in it", required=True)
flags.DEFINE_string('split', 'val', 'split to evaluate')
flags.DEFINE_string('data_dir', None, 'folder with the TFRecords; default: the one the run was trained from')
flags.DEFINE_enum('precision', 'float32', PRECISIONS, 'of convolutions; bfloat16 needs a CPU with AVX512-BF16')

NUM_EXAMPLES = 4  # in the picture
EXAMPLE_HEIGHT = 360  # pixels; taller ones are thinned out


def main(argv):
  if len(argv) > 1:
    raise UserError(f'unexpected argument {argv[1]!r}; all settings are flags, see --help')
  run = load_run(FLAGS.ckpt)
  data_dir = FLAGS.data_dir or run.config['flags']['data_dir']
  num_images = check_dataset(run, data_dir)
  make_folder(run.folder)
  with Predictor(run, FLAGS.precision) as predictor:
    print(f'{run.checkpoint} (step {run.step}) on the {num_images} images of {FLAGS.split} in {data_dir}', flush=True)
    matrix, examples = evaluate(run, predictor, data_dir, num_images)
  if not matrix.any():
    raise UserError(f'split {FLAGS.split!r} in {data_dir} has no labelled pixel')
  report(run, matrix, examples, num_images)


def check_dataset(run, data_dir):
  """Returns the number of images in the split. Raises UserError if its classes are not the run's."""
  stats = records.read_stats(data_dir, FLAGS.split)
  classes = tuple(stats['class_names'])
  if len(classes) != len(run.classes):
    raise UserError(f'{data_dir} has {len(classes)} classes and {run.folder} was trained on {len(run.classes)}')
  for index, (here, there) in enumerate(zip(classes, run.classes)):
    if here != there:
      raise UserError(f'class {index} is {here!r} in {data_dir} and {there!r} in {run.folder}')
  return stats['num_examples']


def evaluate(run, predictor, data_dir, num_images):
  """Predicts a split image by image.

  Returns:
    `(matrix, examples)`: the confusion matrix, and a few small (image, truth, prediction) to look at.
  """
  matrix = np.zeros([len(run.classes)] * 2, np.int64)
  shown = set(np.linspace(0, num_images - 1, NUM_EXAMPLES).astype(int).tolist())
  examples = []
  with Progress(num_images, 'images', label=FLAGS.split) as progress:
    for index, (name, image, truth) in enumerate(read(data_dir)):
      prediction = predictor.labels(image[None])[0]
      try:
        matrix += metrics.confusion_matrix(truth, prediction, len(run.classes), IGNORE_LABEL)
      except UserError as error:
        raise UserError(f'{data_dir}, {FLAGS.split}, record {name}: {error}') from error
      if index in shown:
        thin = (slice(None, None, -(-len(image) // EXAMPLE_HEIGHT)),) * 2
        examples.append((image[thin], truth[thin], prediction[thin]))
      progress.update()
  if progress.done != num_images:
    raise UserError(f'{data_dir} holds {progress.done} images of {FLAGS.split} and its JSON says {num_images}')
  return matrix, examples


def read(data_dir):
  """Yields (name, image uint8 [H, W, 3], truth int32 [H, W]) of every record of the split, at native size.

  Raises:
    UserError: that names the file and the record if one is broken.
  """
  with tf.Graph().as_default(), tf.device('/cpu:0'), tf.Session(config=tf.ConfigProto(
      device_count={'GPU': 0}, use_per_session_threads=True)) as session:
    batch = tf.data.make_one_shot_iterator(pipeline.evaluation_batches(data_dir, FLAGS.split)).get_next()
    fetches = [batch['name'][0], tf.cast(batch['image'][0], tf.uint8), batch['label'][0]]
    while True:
      try:
        name, image, truth = session.run(fetches)
      except tf.errors.OutOfRangeError:
        return
      except (tf.errors.DataLossError, tf.errors.InvalidArgumentError) as error:
        records.verify(records.shard_paths(data_dir, FLAGS.split))  # names the record
        raise UserError(f'{data_dir}: {error.message.splitlines()[0]}') from error
      yield name.decode(), image, truth


def report(run, matrix, examples, num_images):
  """Prints the table and writes the files into the run's folder."""
  result = metrics.scores(matrix)
  print(metrics.table(result, run.classes))
  value = metrics.to_json(result, run.classes, num_images, matrix=matrix)
  value |= {'checkpoint': os.path.basename(run.checkpoint), 'step': run.step, 'precision': FLAGS.precision}
  paths = [os.path.join(run.folder, name.format(FLAGS.split))
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
