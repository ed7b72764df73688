"""Labels photographs with a trained network: label PNGs, and overlays with a legend of the classes present.

    python inference.py --ckpt=runs/voc-inception_v3-8s --output_dir=predictions photo.jpg folder 'more/*.png'
    python inference.py --ckpt=runs/voc-inception_v3-8s --samples=40 photo.jpg
    python inference.py --ckpt=runs/voc-inception_v3-8s --crf photo.jpg
    python inference.py --ckpt=runs/voc-inception_v3-8s --test_flip --test_scales=0.75,1,1.25 photo.jpg
    python inference.py --ckpt=runs/voc-inception_v3-8s --submission --list=test.txt VOC2012/JPEGImages
"""

import contextlib
import functools
import glob
import itertools
import math
import os
import sys

import numpy as np
from absl import flags

from datasets import submission
from datasets.images import read_rgb
from datasets.readers.lists import read_names
from utils import errors
from utils.compat import tf
from utils.drawing import colors
from utils.errors import UserError
from utils.files import make_folder, replacing
from utils.inference import crf, tta
from utils.inference.mc_dropout import MEASURES
from utils.inference.predictor import Predictor
from utils.inference.tiles import CELL, probability_bands
from utils.progress import Progress
from utils.runs import load_run
from utils.session import define_flags
from utils.workers import default_workers, ordered_map

FLAGS = flags.FLAGS
flags.DEFINE_string('ckpt', None, "run's folder, or one checkpoint in it", required=True)
flags.DEFINE_multi_string('input', [], 'image, folder or quoted glob, also separated by commas; or name them last')
flags.DEFINE_string('output_dir', 'predictions', 'folder for NAME_label.png and NAME_overlay.png')
flags.DEFINE_float('alpha', 0.5, 'weight of the colours in the overlay', 0.0, 1.0)
flags.DEFINE_bool('probabilities', False, 'also write NAME_probabilities.npy, float16 [height, width, class]')
flags.DEFINE_bool('submission', False, "write the archive alone that the dataset's evaluation server takes")
flags.DEFINE_string('list', None, 'file with the names of the images to take, one a line; default: all that are given')
flags.DEFINE_integer('samples', 0, 'passes with dropout to average; also write NAME_uncertainty.png', lower_bound=0)
flags.DEFINE_enum('uncertainty', MEASURES[0], MEASURES, 'what NAME_uncertainty.png shows')
flags.DEFINE_integer('seed', 0, 'of what --samples drop', lower_bound=0)
flags.DEFINE_integer('batch_size', 4, 'images of one size that go through the network together', lower_bound=1)
flags.DEFINE_integer('max_pixels', 2_000_000, 'images with more pixels are done in overlapping tiles', lower_bound=1)
flags.DEFINE_integer('tile_size', 0, 'height and width of a tile; 0: as --max_pixels allows', lower_bound=0)
tta.define_flags()
define_flags()
crf.define_flags()

SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp', '.ppm', '.pgm', '.gif')  # looked for in folders
OUTPUTS = ('_label.png', '_overlay.png', '_uncertainty.png', '_probabilities.npy')
UNCERTAINTIES = {
    'variance': "variance of a class's probability, mean of the classes",
    'entropy': 'entropy of the mean, in nats',
    'mutual_information': 'mutual information of label and pass, in nats',
}
BRIGHTEST = 0.998  # share of the pixels that are darker than the brightest color of an uncertainty's picture
LEAST_TILE = 8 * CELL
BAND_BYTES = 2**30  # of the probabilities that a row of tiles covers
NO_MEMORY = 'not enough memory; try a lower --max_pixels'


def main(argv):
  if 0 < FLAGS.tile_size < LEAST_TILE:
    raise UserError(f'--tile_size={FLAGS.tile_size}: valid are {LEAST_TILE} and above, and 0')
  seen = tta.from_flags(FLAGS)
  settings = crf.from_flags(FLAGS)
  run = load_run(FLAGS.ckpt)
  server = submission.dataset_with_server(run.config['dataset']['name'], run.classes) if FLAGS.submission else None
  failures, sizes = [], {}
  given = argv[1:] + [part for value in FLAGS.input for part in value.split(',')]
  paths = listed(find_images(given, failures))
  make_folder(FLAGS.output_dir)
  if paths:
    targets = output_names(paths, submission.label_folder(server, FLAGS.output_dir) if server else FLAGS.output_dir)
    predictor = Predictor(run, FLAGS.precision, samples=FLAGS.samples, seed=FLAGS.seed, views=seen, gpu=FLAGS.gpu,
                          gpu_memory_fraction=FLAGS.gpu_memory_fraction)
    with predictor, Progress(len(paths), 'images') as progress:
      found = batches(paths, failures, progress)
      for path, image, label in (refined(found, predictor, targets, settings, failures, progress) if settings else
                                 labelled(found, predictor, targets, failures, progress)):
        if server:
          submission.write_label(f'{targets[path]}.png', label, server)
        else:
          write_pictures(targets[path], image, label, run)
        sizes[os.path.basename(targets[path])] = label.shape
        progress.update()
  done = len(paths) - len(set(failures).intersection(paths))
  print(f'{done} images labelled by {run.checkpoint} (step {run.step}), pictures in {FLAGS.output_dir}')
  if failures:
    lost = '; no archive is written' if server else ''
    print(f'error: {len(failures)} inputs left out: {", ".join(failures)}{lost}', file=sys.stderr)
  elif server:
    print(f'{submission.pack(server, FLAGS.output_dir, sizes)}: {len(sizes)} label PNGs for {server.submission.url}')
  return 1 if failures else 0


def fail(failures, what, reason):
  """Notes an input that cannot be used and says so at once."""
  failures.append(what)
  print(f'\nskipped {what}: {reason}', file=sys.stderr)


def find_images(given, failures):
  """Lists the images that files, folders and globs stand for, each once, in the order given; folders sorted by name."""
  if not given:
    raise UserError('no images given; name files, folders or globs after the flags')
  paths = []
  for name in given:
    if os.path.isdir(name):
      found = [os.path.join(name, entry) for entry in sorted(os.listdir(name))
               if entry.lower().endswith(SUFFIXES) and not entry.endswith(OUTPUTS)]
    else:
      found = [name] if os.path.exists(name) else sorted(glob.glob(name, recursive=True))
    if not found:
      fail(failures, name, 'no image in this folder' if os.path.isdir(name) else 'does not exist')
    paths += found
  return list({os.path.realpath(path): path for path in reversed(paths)}.values())[::-1]


def listed(paths):
  """Takes the images that --list names, in its order; all if there is none."""
  if not FLAGS.list:
    return paths
  stems = {os.path.splitext(os.path.basename(path))[0]: path for path in reversed(paths)}
  names = read_names(FLAGS.list)
  missing = [name for name in names if name not in stems]
  if missing:
    raise UserError(f'--list={FLAGS.list}: {len(missing)} of its {len(names)} names are not among the images given: '
                    f'{", ".join(missing[:5])}{" and so on" if len(missing) > 5 else ""}')
  return [stems[name] for name in names]


def output_names(paths, output_dir):
  """Maps each path to its output's path without suffix; a stem that is taken gets a number, and a line says so."""
  targets, taken = {}, {os.path.realpath(path) for path in paths} if FLAGS.submission else set()
  for path in paths:
    stem = os.path.join(output_dir, os.path.splitext(os.path.basename(path))[0])
    target, number = stem, 1
    while target in targets.values():
      number += 1
      target = f'{stem}-{number}'
    if target != stem and FLAGS.submission:
      raise UserError(f'--submission: {path} is the second image of its name; the archive has room for one')
    if target != stem:
      print(f'note: {stem} is taken, so {path} becomes {target}', file=sys.stderr)
    if os.path.realpath(f'{target}.png') in taken:
      raise UserError(f'--output_dir={output_dir}: {target}.png would overwrite an input; choose another folder')
    targets[path] = target
  return targets


def batches(paths, failures, progress):
  """Reads images and yields lists of (path, uint8 [H, W, 3]) of one size; a broken one is named and left out."""
  batch = []
  for path in paths:
    try:
      image = read_rgb(path)
    except UserError as error:
      fail(failures, path, error.reason)
      progress.update()
      continue
    if batch and (len(batch) == FLAGS.batch_size or image.shape != batch[0][1].shape or is_large(image)):
      yield batch
      batch = []
    batch.append((path, image))
  if batch:
    yield batch


def is_large(image):
  """Whether the largest view of an image has more than --max_pixels."""
  return image.shape[0] * image.shape[1] * tta.from_flags(FLAGS).enlargement > FLAGS.max_pixels


def labelled(found, predictor, targets, failures, progress):
  """Yields (path, image, label) of every image in the batches `found`; what memory does not hold is left out."""
  for batch in found:
    try:
      if FLAGS.probabilities or FLAGS.samples or is_large(batch[0][1]):
        labels = [label_by_bands(image, predictor, targets[path]) for path, image in batch]
      else:
        labels = predictor.labels(np.stack([image for _, image in batch]))
    except tf.errors.ResourceExhaustedError:
      fail(failures, ', '.join(path for path, _ in batch), NO_MEMORY)
      progress.update(len(batch))
      continue
    for (path, image), label in zip(batch, labels):
      yield path, image, label


def refined(found, predictor, targets, settings, failures, progress):
  """As `labelled`, with the CRF, which works in processes beside the network; for large images in this one, alone."""

  def tasks():
    for path, image in itertools.chain.from_iterable(found):
      reason = crf.too_large(image.shape[:2], predictor.num_classes)
      if not reason:
        try:
          probabilities = np.empty((*image.shape[:2], predictor.num_classes), np.float32)
          label_by_bands(image, predictor, targets[path], probabilities)
        except tf.errors.ResourceExhaustedError:
          reason = NO_MEMORY
      if reason:
        fail(failures, path, reason)
        progress.update()
      else:
        yield crf.make_task(path, image, probabilities, settings)

  for large, group in itertools.groupby(tasks(), lambda task: is_large(task.image)):
    for task, label in ordered_map(crf.labels, group, 1 if large else FLAGS.num_workers or default_workers()):
      yield task.key, task.image, label


def tile_size_for(image, num_classes):
  """Greatest height and width of a tile; automatically, less for wide images of many classes, for memory's sake."""
  if not is_large(image):
    return max(image.shape)
  bytes_a_row = image.shape[1] * num_classes * np.float32().itemsize
  allowed = int(math.sqrt(FLAGS.max_pixels / tta.from_flags(FLAGS).enlargement))
  return FLAGS.tile_size or max(min(allowed, BAND_BYTES // bytes_a_row), LEAST_TILE)


def label_by_bands(image, predictor, target, whole=None):
  """Labels an image from probabilities, in tiles where it is large; stores these and their uncertainty where asked.

  Args:
    image: uint8 [H, W, 3].
    predictor: a Predictor.
    target: path of the outputs, without suffix.
    whole: float32 [H, W, C] that takes the probabilities, or None.

  Returns:
    uint8 [H, W], label ids.
  """
  num_classes = predictor.num_classes
  tile_size = tile_size_for(image, num_classes)
  label = np.empty(image.shape[:2], np.uint8)
  uncertainty = np.zeros(image.shape[:2], np.float32)
  maps = functools.partial(probabilities_and_uncertainty, predictor) if FLAGS.samples else predictor.probabilities
  with probabilities_file(target, (*label.shape, num_classes)) as stored:
    for top, band in probability_bands(maps, image, tile_size=tile_size, overlap=tile_size // 4):
      probabilities = band[..., :num_classes]
      label[top:top + len(band)] = probabilities.argmax(axis=-1)
      if whole is not None:
        whole[top:top + len(band)] = probabilities
      if FLAGS.samples:
        uncertainty[top:top + len(band)] = band[..., num_classes]
      if stored is not None:
        stored.write(probabilities.astype('<f2').tobytes())
  if FLAGS.samples and not FLAGS.submission:
    write_uncertainty(target, uncertainty)
  return label


def probabilities_and_uncertainty(predictor, images):
  """float32 [B, H, W, C + 1]: behind the classes the uncertainty, so that tiles fade into each other in both."""
  mean, uncertainty = predictor.sampled(images, FLAGS.uncertainty)
  return np.concatenate([mean, uncertainty[..., np.newaxis]], axis=-1)


def write_uncertainty(target, uncertainty):
  """Writes NAME_uncertainty.png: the lighter, the less sure, with the scale below."""
  top = float(np.quantile(uncertainty, BRIGHTEST))
  passes = FLAGS.samples * len(tta.from_flags(FLAGS).each)
  title = f'{UNCERTAINTIES[FLAGS.uncertainty]}; {passes} passes'
  colors.write_png(f'{target}_uncertainty.png', colors.with_scale(colors.heat(uncertainty, top), top, title))


@contextlib.contextmanager
def probabilities_file(target, shape):
  """Yields NAME_probabilities.npy open for its rows, which need not fit in memory together; None if not wanted."""
  if not FLAGS.probabilities:
    yield None
    return
  with replacing(f'{target}_probabilities.npy') as temporary, open(temporary, 'wb') as file:
    np.lib.format.write_array_header_1_0(file, {'descr': '<f2', 'fortran_order': False, 'shape': shape})
    yield file


def write_pictures(target, image, label, run):
  """Writes the label PNG and the overlay."""
  colors.write_label_png(f'{target}_label.png', label, run.palette)
  picture = colors.overlay(image, label, run.palette, FLAGS.alpha)
  colors.write_png(f'{target}_overlay.png', colors.with_legend(picture, np.unique(label), run.classes, run.palette))


if __name__ == '__main__':
  errors.run(main)
