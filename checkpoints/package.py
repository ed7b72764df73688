"""Puts a run into one file, a zip archive of weights, config.json and model card, which `--ckpt` takes as a folder.

    python -m checkpoints.package --ckpt=runs/camvid-inception_v3-8s       # runs/camvid-inception_v3-8s.zip
    python inference.py --ckpt=runs/camvid-inception_v3-8s.zip photo.jpg

The weights are those that evaluate.py scores: moving averages where the run has them. Labels are compared with the
run's own on images of a split. utils/packages.py describes the format.
"""

import dataclasses
import os
import re
import sys
import tempfile

import numpy as np

from checkpoints import card
from checkpoints.metadata import metadata
from datasets import records
from datasets.inputs import Input
from utils.errors import UserError, listed, quoted, shown
from utils.evaluation.data import open_split, spaced_examples
from utils.evaluation.settings import EvaluationTiles
from utils.files import claim, make_folder
from utils.inference import temperature
from utils.inference.predictor import Predictor, network_weights
from utils.inference.stream import Failed, labelled
from utils.packages import CARD, CONFIG, METADATA, Package, is_package, shortened, write_package
from utils.runs import load_run
from utils.settings import Settings, flag, overwrite_flag, run

_ABSOLUTE = re.compile(r'(?<![\w.:/-])/[^\s"\',:]+/[^\s"\',:]*')  # a path of this machine, in a text


@dataclasses.dataclass(frozen=True)
class PackageSettings(Settings):
  """Flags of `python -m checkpoints.package`."""
  ckpt: str = flag(None, "run's folder, or a checkpoint in it", required=True, path=True)
  output: str | None = flag(None, "zip archive to write; default: RUN.zip beside the run's folder", path=True)
  weights: str = flag('float16', 'type of the kernels: float16 takes half of the space', choices=('float16', 'float32'))
  pictures: bool = flag(False, "put the card's pictures in; they show images of the dataset")
  overwrite: bool = overwrite_flag()
  results: str | None = flag(None, "folder with what evaluate.py wrote; default: the run's", path=True)
  num_images: int = flag(8, "images on which labels are compared with the run's own; 0: none", least=0)
  split: str = flag('val', 'split of these images')
  data_dir: str | None = flag(None, "folder with the TFRecords; default: the training's own", path=True)


def package(settings):
  """Writes a package.

  Args:
    settings: a PackageSettings.

  Raises:
    UserError: if the run cannot be used, or nothing can be written.
  """
  trained = load_run(settings.ckpt)
  if is_package(trained.folder):
    raise UserError(f'--ckpt={settings.ckpt} is a package already')
  output = settings.output or f'{os.path.abspath(trained.folder)}.zip'
  claim([output], _is_ours, overwrite=settings.overwrite)
  about, folder = metadata(trained, settings.results), settings.results or trained.folder
  pictures = card.pictures_of(about, folder) if settings.pictures else []
  if settings.pictures and not pictures:
    print(f'note: --pictures: evaluate.py has put none into {shown(folder)}', file=sys.stderr, flush=True)
  config = {name: value for name, value in trained.config.items() if name != 'working_folder'}
  if temperature.stored_temperature(trained) != 1:
    config['temperature'] = temperature.stored(trained)
  tensors = network_weights(trained)
  weights = {'type': settings.weights, 'variables': len(tensors), 'parameters': sum(map(np.size, tensors.values()))}
  tensors = {name: shortened(value) if settings.weights == 'float16' else value for name, value in tensors.items()}
  tensors['global_step'] = np.int64(trained.step)
  make_folder(os.path.dirname(os.path.abspath(output)))
  weights |= compared(trained, config, tensors, settings)
  documents = {CONFIG: config, METADATA: {**about, 'weights': weights},
               CARD: card.card(about, f'{about["name"]}.zip', pictures, weights)}
  write_package(output, documents, tensors, {name: _bytes(folder, name) for name in pictures})
  _report(output, trained, weights, documents)


def compared(trained, config, tensors, settings):
  """Compares the labels of a package with those of its run.

  Args:
    trained: the runs.Run.
    config: the package's config.json.
    tensors: dict of the package's arrays.
    settings: a PackageSettings.

  Returns:
    dict: `compared`, a dict of `split`, `images`, `pixels`, `equal` (pixels with the same label), or None; and
    `not_compared`, the reason, or None.
  """
  if not settings.num_images:
    return {'compared': None, 'not_compared': 'no images were asked for'}
  try:
    data_dir, num_images, held = open_split(trained, settings.split, settings.data_dir)
    records.check_reading(data_dir, held.parts(settings.split)[0], Input.from_config(trained.config).reading,
                          where=f'{trained.folder} was trained on')
  except UserError as error:
    if settings.data_dir or settings.split != PackageSettings.split:  # asked for, so nothing less will do
      raise
    print(f'note: labels are not compared: {error}', file=sys.stderr, flush=True)
    return {'compared': None, 'not_compared': 'the data was not there'}
  images = [(name, image) for name, image, _ in spaced_examples(
      data_dir, settings.split, held, num_images=num_images, count=settings.num_images)]
  with tempfile.TemporaryDirectory(dir=os.path.dirname(os.path.abspath(settings.output or trained.folder))) as folder:
    path = os.path.join(folder, 'package.zip')
    write_package(path, {CONFIG: config}, tensors)
    before, after = labels(trained, images), labels(load_run(path), images)
  same = sum(int((one == other).sum()) for one, other in zip(before, after))
  return {'compared': {'split': settings.split, 'images': len(images), 'pixels': sum(one.size for one in before),
                       'equal': same}, 'not_compared': None}


def labels(run_, images):
  """Labels (name, image) pairs by a runs.Run: a list of uint8 [H, W]. Raises UserError if memory is short."""
  with Predictor(run_) as predictor:
    found = list(labelled(images, predictor, tiles=EvaluationTiles()))
  for item in found:
    if isinstance(item, Failed):
      raise UserError(f'{item.key}: {item.reason}')
  return [item.label for item in found]


def _is_ours(path):
  try:
    return is_package(path) and bool(Package(path))
  except UserError:
    return False


def _bytes(folder, name):
  try:
    with open(os.path.join(folder, name), 'rb') as file:
      return file.read()
  except OSError as error:
    raise UserError(f'cannot read {os.path.join(folder, name)}: {error.strerror}') from error


def _report(output, trained, weights, documents):
  """Prints what is in a package."""
  print(card.stored_line(weights))
  print(card.compared_line(weights))
  paths = sorted(set(_ABSOLUTE.findall(f'{documents[CONFIG]} {documents[CARD]}')))
  if paths:
    print(f'note: it names these paths of this machine: {listed(paths)}')
  print(f'written: {shown(output)}, {os.path.getsize(output) / 1e6:.1f} MB, of step {trained.step}; next: '
        f'python inference.py {quoted(f"--ckpt={output}")} photo.jpg')


def main(argv=None):
  return run(package, PackageSettings, argv, text=__doc__)


if __name__ == '__main__':
  sys.exit(main())
