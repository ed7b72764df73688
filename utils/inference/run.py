"""Labels photographs with a trained network: the work of inference.py."""

import contextlib
import dataclasses
import functools
import glob
import os
import sys

import numpy as np

from datasets import submission
from datasets.images import read_rgb
from datasets.readers.lists import read_names
from utils.drawing import colors
from utils.errors import UserError, listed
from utils.files import make_folder, replacing
from utils.inference.stream import Failed, Wanted, labelled
from utils.progress import Progress
from utils.runs import load_run

SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp', '.ppm', '.pgm', '.gif')  # of images
OUTPUTS = ('_label.png', '_overlay.png', '_uncertainty.png', '_probabilities.npy')
UNCERTAINTIES = {
    'variance': "variance of a class's probability, mean of the classes",
    'entropy': 'entropy of the mean, in nats',
    'mutual_information': 'mutual information of label and pass, in nats',
}
BRIGHTEST = 0.998  # quantile of the uncertainty that is drawn in the brightest color


@dataclasses.dataclass(frozen=True)
class Output:
  """The destination and the form of the results.

  Attributes:
    settings: the InferenceSettings.
    run: the runs.Run.
    server: the Dataset whose evaluation server takes a submission; None for pictures.
    targets: dict from an image's path to its outputs' path without suffix.
  """
  settings: object
  run: object
  server: object
  targets: dict


def label(settings):
  """Labels photographs and writes the results.

  Args:
    settings: an InferenceSettings.

  Returns:
    the exit code: 1 if an input could not be used.

  Raises:
    UserError: if the run or all inputs cannot be used, or a result cannot be written.
  """
  run = load_run(settings.ckpt)
  server = (submission.dataset_with_server(run.config['dataset']['name'], run.classes) if settings.submission
            else None)
  if not settings.given:
    raise UserError('no images given; name files, folders or globs after the flags')
  paths, failures = find_images(settings.given)
  paths = only_listed(paths, settings.list_)
  make_folder(settings.output_dir)
  sizes = {}
  if paths:
    folder = submission.label_folder(server, settings.output_dir) if server else settings.output_dir
    targets = output_names(paths, folder, server=server)
    more, sizes = label_all(paths, Output(settings, run, server, targets))
    failures += more
  print(f'{len(sizes)} images labeled by {run.checkpoint} (step {run.step}), pictures in {settings.output_dir}')
  if failures:
    lost = '; no archive is written' if server else ''
    print(f'error: {len(failures)} inputs skipped: {", ".join(failures)}{lost}', file=sys.stderr)
    return 1
  if server:
    archive = submission.pack(server, settings.output_dir, sizes)
    print(f'{archive}: {len(sizes)} label PNGs for {server.submission.url}')
  return 0


def label_all(paths, output):
  """Labels images and writes the results.

  Args:
    paths: list of paths.
    output: an Output.

  Returns:
    `(failures, sizes)`: list of the paths that could not be labeled, and dict from the output name of each labeled
    image to its (height, width).
  """
  settings, failures, sizes = output.settings, [], {}
  wanted = Wanted(measure=settings.uncertainty if settings.labelling.samples else None,
                  store=functools.partial(probabilities_file, output) if settings.probabilities else None)
  with settings.labelling.open_predictor(output.run) as predictor, Progress(len(paths), 'images') as progress:
    for item in labelled(read(paths), predictor, crf=settings.labelling.refinement, tiles=settings.tiles,
                         batch_size=settings.batch_size, wanted=wanted, num_workers=settings.labelling.num_workers):
      if isinstance(item, Failed):
        failures.append(report_failure(item.key, item.reason))
      else:
        write(item, output)
        sizes[os.path.basename(output.targets[item.key])] = item.label.shape
      progress.update()
  return failures, sizes


def read(paths):
  """Yields (path, uint8 [H, W, 3]) of each image, or a Failed if it cannot be decoded."""
  for path in paths:
    try:
      yield path, read_rgb(path)
    except UserError as error:
      yield Failed(path, error.reason)


def report_failure(name, reason):
  """Prints that an input cannot be used, and why; returns its name."""
  print(f'\nskipped {name}: {reason}', file=sys.stderr)
  return name


def find_images(given):
  """Lists the images of files, folders and globs, each once, in the order given; folders sorted by name.

  Args:
    given: list of str.

  Returns:
    `(paths, failures)`: two lists; failures are the entries of `given` without an image.
  """
  paths, failures = [], []
  for name in given:
    if os.path.isdir(name):
      found = [os.path.join(name, entry) for entry in sorted(os.listdir(name))
               if entry.lower().endswith(SUFFIXES) and not entry.endswith(OUTPUTS)]
    else:
      found = [name] if os.path.exists(name) else sorted(glob.glob(name, recursive=True))
    if not found:
      failures.append(report_failure(name, 'no image in this folder' if os.path.isdir(name) else 'does not exist'))
    paths += found
  return list({os.path.realpath(path): path for path in reversed(paths)}.values())[::-1], failures


def only_listed(paths, list_path):
  """Selects the images that a file names, in its order.

  Args:
    paths: list of the images' paths.
    list_path: path of the file, which holds names without suffix, one per line; None for all images.

  Returns:
    list of paths.

  Raises:
    UserError: if a name in the file is not among the images.
  """
  if not list_path:
    return paths
  stems = {os.path.splitext(os.path.basename(path))[0]: path for path in reversed(paths)}
  names = read_names(list_path)
  missing = [name for name in names if name not in stems]
  if missing:
    raise UserError(f'--list={list_path}: {len(missing)} of its {len(names)} names are not among the images given: '
                    f'{listed(missing)}')
  return [stems[name] for name in names]


def output_names(paths, output_dir, *, server):
  """Maps each path to its output's path without suffix; a stem already taken gets a number, and a note is printed.

  Args:
    paths: list of the images' paths.
    output_dir: folder of the outputs.
    server: the Dataset of a submission, whose names must be the images' own; None for pictures.

  Returns:
    dict from path to path.

  Raises:
    UserError: if two images of a submission have one name, or an output would overwrite an input.
  """
  targets, taken = {}, set()
  inputs = {os.path.realpath(path) for path in paths} if server else set()
  for path in paths:
    stem = os.path.join(output_dir, os.path.splitext(os.path.basename(path))[0])
    target, number = stem, 1
    while target in taken:
      number += 1
      target = f'{stem}-{number}'
    if target != stem and server:
      raise UserError(f'--submission: {path} is the second image of its name; the archive has room for one')
    if target != stem:
      print(f'note: {stem} is taken, so {path} becomes {target}', file=sys.stderr)
    if os.path.realpath(f'{target}.png') in inputs:
      raise UserError(f'--output_dir={output_dir}: {target}.png would overwrite an input; choose another folder')
    taken.add(target)
    targets[path] = target
  return targets


@contextlib.contextmanager
def probabilities_file(output, path, shape):
  """Opens NAME_probabilities.npy for writing rows one after the other: all rows need not fit into memory.

  Args:
    output: an Output.
    path: the image's path.
    shape: (height, width, classes).

  Yields:
    function of float32 [h, W, C], which appends these rows as float16.
  """
  with replacing(f'{output.targets[path]}_probabilities.npy') as temporary, open(temporary, 'wb') as file:
    np.lib.format.write_array_header_1_0(file, {'descr': '<f2', 'fortran_order': False, 'shape': shape})
    yield lambda rows: file.write(rows.astype('<f2').tobytes())


def write(item, output):
  """Writes the results for a Labelled: pictures, or the label of a submission."""
  target, run = output.targets[item.key], output.run
  if output.server:
    submission.write_label(f'{target}.png', item.label, output.server)
    return
  if item.uncertainty is not None:
    write_uncertainty(target, item.uncertainty, output.settings)
  colors.write_label_png(f'{target}_label.png', item.label, run.palette)
  picture = colors.overlay(item.image, item.label, run.palette, output.settings.alpha)
  picture = colors.with_legend(picture, np.unique(item.label), run.classes, run.palette)
  colors.write_png(f'{target}_overlay.png', picture)


def write_uncertainty(target, uncertainty, settings):
  """Writes NAME_uncertainty.png, lighter where less certain, with the scale below."""
  top = float(np.quantile(uncertainty, BRIGHTEST))
  passes = settings.labelling.samples * len(settings.labelling.views.each)
  title = f'{UNCERTAINTIES[settings.uncertainty]}; {passes} passes'
  colors.write_png(f'{target}_uncertainty.png', colors.with_scale(colors.heat(uncertainty, top), top, title))
