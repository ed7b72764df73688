"""Labels photographs with a trained network: label PNGs, and overlays with a legend of the classes present.

    python inference.py --ckpt=runs/voc-inception_v3-8s --output_dir=predictions photo.jpg folder 'more/*.png'
"""

import contextlib
import glob
import math
import os
import sys

import numpy as np
from absl import flags

from datasets.images import read_rgb
from utils import colors, errors
from utils.compat import tf
from utils.errors import UserError
from utils.files import make_folder, replacing
from utils.predictor import Predictor
from utils.progress import Progress
from utils.runs import load_run
from utils.session import PRECISIONS
from utils.tiles import CELL, probability_bands

FLAGS = flags.FLAGS
flags.DEFINE_string('ckpt', None, "run's folder, or one checkpoint in it", required=True)
flags.DEFINE_multi_string('input', [], 'image, folder or quoted glob, also separated by commas; or name them last')
flags.DEFINE_string('output_dir', 'predictions', 'folder for NAME_label.png and NAME_overlay.png')
flags.DEFINE_float('alpha', 0.5, 'weight of the colours in the overlay', 0.0, 1.0)
flags.DEFINE_bool('probabilities', False, 'also write NAME_probabilities.npy, float16 [height, width, class]')
flags.DEFINE_bool('submission', False, "write NAME.png alone, as the dataset's evaluation server wants it")
flags.DEFINE_integer('batch_size', 4, 'images of one size that go through the network together', lower_bound=1)
flags.DEFINE_integer('max_pixels', 2_000_000, 'images with more pixels are done in overlapping tiles', lower_bound=1)
flags.DEFINE_integer('tile_size', 0, 'height and width of a tile; 0: as --max_pixels allows', lower_bound=0)
flags.DEFINE_enum('precision', 'float32', PRECISIONS, 'of convolutions; bfloat16 needs a CPU with AVX512-BF16')

SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp', '.ppm', '.pgm', '.gif')  # looked for in folders
OUTPUTS = ('_label.png', '_overlay.png', '_probabilities.npy')
LEAST_TILE = 8 * CELL
BAND_BYTES = 2**30  # of the probabilities that a row of tiles covers


def main(argv):
  if 0 < FLAGS.tile_size < LEAST_TILE:
    raise UserError(f'--tile_size={FLAGS.tile_size}: valid are {LEAST_TILE} and above, and 0')
  run = load_run(FLAGS.ckpt)
  failures = []
  given = argv[1:] + [part for value in FLAGS.input for part in value.split(',')]
  paths = find_images(given, failures)
  make_folder(FLAGS.output_dir)
  if paths:
    targets = output_names(paths, FLAGS.output_dir)
    with Predictor(run, FLAGS.precision) as predictor, Progress(len(paths), 'images') as progress:
      for batch in batches(paths, failures, progress):
        try:
          process(batch, run, predictor, targets)
        except tf.errors.ResourceExhaustedError:
          fail(failures, ', '.join(path for path, _ in batch), 'not enough memory; try a lower --max_pixels')
        progress.update(len(batch))
  done = len(paths) - len(set(failures).intersection(paths))
  print(f'{done} images labelled by {run.checkpoint} (step {run.step}), pictures in {FLAGS.output_dir}')
  if failures:
    print(f'error: {len(failures)} inputs left out: {", ".join(failures)}', file=sys.stderr)
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


def output_names(paths, output_dir):
  """Maps each path to its output's path without suffix; a stem that is taken gets a number, and a line says so."""
  targets, taken = {}, {os.path.realpath(path) for path in paths} if FLAGS.submission else set()
  for path in paths:
    stem = os.path.join(output_dir, os.path.splitext(os.path.basename(path))[0])
    target, number = stem, 1
    while target in targets.values():
      number += 1
      target = f'{stem}-{number}'
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
  return image.shape[0] * image.shape[1] > FLAGS.max_pixels


def process(batch, run, predictor, targets):
  """Labels a batch of images and writes what was asked for."""
  if FLAGS.probabilities or is_large(batch[0][1]):
    labels = (label_by_bands(image, predictor, targets[path]) for path, image in batch)
  else:
    labels = predictor.labels(np.stack([image for _, image in batch]))
  for (path, image), label in zip(batch, labels):
    write_pictures(targets[path], image, label, run)


def tile_size_for(image, num_classes):
  """Greatest height and width of a tile; automatically, less for wide images of many classes, for memory's sake."""
  if not is_large(image):
    return max(image.shape)
  bytes_a_row = image.shape[1] * num_classes * np.float32().itemsize
  return FLAGS.tile_size or max(min(math.isqrt(FLAGS.max_pixels), BAND_BYTES // bytes_a_row), LEAST_TILE)


def label_by_bands(image, predictor, target):
  """Labels an image from probabilities, in tiles where it is large, and stores the probabilities where asked for."""
  tile_size = tile_size_for(image, predictor.num_classes)
  label = np.empty(image.shape[:2], np.uint8)
  with probabilities_file(target, (*label.shape, predictor.num_classes)) as stored:
    for top, band in probability_bands(
        predictor.probabilities, image, tile_size=tile_size, overlap=tile_size // 4):
      label[top:top + len(band)] = band.argmax(axis=-1)
      if stored is not None:
        stored.write(band.astype('<f2').tobytes())
  return label


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
  """Writes the label PNG and the overlay, or what the evaluation server wants."""
  if FLAGS.submission:
    offset = run.config['dataset'].get('submission_offset', 0)
    # A server that counts from another number than 0 takes plain greyscale: the palette's places would not fit.
    colors.write_label_png(f'{target}.png', label.astype(np.int32) + offset, None if offset else run.palette)
    return
  colors.write_label_png(f'{target}_label.png', label, run.palette)
  picture = colors.overlay(image, label, run.palette, FLAGS.alpha)
  colors.write_png(f'{target}_overlay.png', colors.with_legend(picture, np.unique(label), run.classes, run.palette))


if __name__ == '__main__':
  errors.run(main)
