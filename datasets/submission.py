"""Label PNGs packed as a dataset's evaluation server takes them, and a check of such archives.

The servers' rules, and where they stand, are in the datasets' records (`datasets.dataset.Submission`).

    python -m datasets.submission --dataset=voc --images=VOC2012/JPEGImages \\
        --list=VOC2012/ImageSets/Segmentation/test.txt predictions/results.tar.gz
"""

import dataclasses
import io
import os
import sys
import tarfile
import zipfile
import zlib

import numpy as np
from PIL import Image

from datasets import DATASETS
from datasets.images import read_rgb
from datasets.readers import lists
from utils.drawing import colors
from utils.errors import UserError, listed, shown
from utils.files import make_folder, replacing
from utils.progress import Progress
from utils.settings import Settings, flag, run

SERVED = tuple(name for name, dataset in DATASETS.items() if dataset.submission)  # datasets with an evaluation server
_MOST_BYTES = 2**26  # greatest size of a PNG; a submission may come from anywhere


@dataclasses.dataclass(frozen=True)
class SubmissionSettings(Settings):
  """Flags and argument of `python -m datasets.submission`."""
  dataset: str | None = flag(None, f'dataset of the server: {", ".join(SERVED)}', choices=SERVED, required=True)
  images: str | None = flag(None, 'folder with the images', required=True, path=True)
  list_: str | None = flag(
      None, 'file with the names of the images to submit, one a line; default: all of --images', path=True)
  paths: tuple[str, ...] = flag(
      (), 'archive to check, or the folder that it is packed from', positional=True, path=True)

  def check(self):
    """Raises UserError unless there is exactly one path."""
    super().check()
    if len(self.paths) != 1:
      raise UserError('name one archive, or the folder that it is packed from, after the flags')


def dataset_with_server(name, classes):
  """Returns the Dataset that a run was trained on.

  Args:
    name: name of the run's dataset.
    classes: the run's class names.

  Raises:
    UserError: if no evaluation server is known for it, or its classes are not the run's.
  """
  if name not in SERVED:
    raise UserError(f'--submission: no evaluation server is known for the dataset {name}; there are for '
                    + ', '.join(SERVED))
  dataset = DATASETS[name]
  if tuple(classes) != tuple(dataset.classes):
    raise UserError(f'--submission: the run was trained on other classes than those of {name}')
  return dataset


def label_folder(dataset, output_dir):
  """Folder of the label PNGs of a submission; made where it is missing."""
  folder = os.path.join(output_dir, dataset.submission.folder)
  make_folder(folder)
  return folder


def label_png(label, dataset):
  """Encodes a label map, uint8 [H, W] of ids, as the PNG that the dataset's server takes: bytes."""
  rules = dataset.submission
  return colors.label_png(label.astype(np.int32) + rules.offset, dataset.palette if rules.palette else None)


def archive_path(dataset, output_dir):
  """Path of the archive that `pack` writes."""
  return os.path.join(output_dir, dataset.submission.archive)


def pack(dataset, output_dir, sizes, replacing=replacing):
  """Packs the label PNGs in `label_folder` and checks the archive, which appears only if it passes.

  Args:
    dataset: a Dataset with a submission.
    output_dir: folder as given to `label_folder`; the archive is written here.
    sizes: dict of name -> (height, width) of all images.
    replacing: as utils.files.replacing.

  Returns:
    the archive's path.

  Raises:
    UserError: as `check`, or if the archive cannot be written.
  """
  rules = dataset.submission
  target, folder = archive_path(dataset, output_dir), label_folder(dataset, output_dir)
  members = [(os.path.join(folder, f'{name}.png'), _member(rules, name)) for name in sorted(sizes)]
  with replacing(target) as temporary:
    if rules.archive.endswith('.zip'):
      with zipfile.ZipFile(temporary, 'w') as archive:  # stored: PNGs are compressed already
        for path, member in members:
          archive.write(path, member)
    else:
      with tarfile.open(temporary, 'w:gz', compresslevel=1) as archive:
        for path, member in members:
          archive.add(path, member, filter=_anonymous)
    check(dataset, temporary, sizes, called=target)
  return target


def _member(rules, name):
  return f'{rules.folder}/{name}.png' if rules.folder else f'{name}.png'


def _anonymous(info):
  """Removes the user's name and numbers from a tar."""
  info.uid = info.gid = 0
  info.uname = info.gname = ''
  return info


def check(dataset, path, sizes, called=None):
  """Checks a submission: an archive, or the folder that it is packed from.

  Args:
    dataset: a Dataset with a submission.
    path: path of the archive or folder.
    sizes: dict of name -> (height, width) of all images that the server expects.
    called: name of the submission in messages; by default its path.

  Raises:
    UserError: naming the first few PNGs that are missing, come twice or belong to no image, or whose size, ids, palette
      or mode is wrong.
  """
  rules = dataset.submission
  missing, problems = {_member(rules, name): name for name in sizes}, []
  known = dict(missing)
  with Progress(len(sizes), 'label PNGs', label='checking') as progress:
    for member, data in _read(path, rules):
      if member not in missing:
        problems.append(f'{member} {"comes twice" if member in known else "belongs to no image"}')
        continue
      problem = _problem(data, dataset, sizes[missing.pop(member)])
      if problem:
        problems.append(f'{member} {problem}')
      progress.update()
  problems += [f'{member} is missing' for member in sorted(missing)]
  if problems:
    raise UserError(f'{called or path} is no submission for {rules.url}: {listed(problems, separator="; ")}')


def _read(path, rules):
  """Yields (path inside, bytes) of every file of a submission; None in place of a file that is too large."""
  kind = 'folder' if os.path.isdir(path) else 'zip' if rules.archive.endswith('.zip') else 'tar.gz'
  try:
    if kind == 'folder':
      for name in sorted(os.listdir(os.path.join(path, rules.folder))):
        if name.endswith('.png'):
          with open(os.path.join(path, rules.folder, name), 'rb') as file:
            yield _member(rules, name.removesuffix('.png')), _limited(file)
    elif kind == 'zip':
      with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
          if not info.is_dir():
            with archive.open(info) as file:
              yield info.filename, _limited(file)
    else:
      with tarfile.open(path, 'r:gz') as archive:
        for info in archive:
          if not info.isdir():
            yield os.path.normpath(info.name), _limited(archive.extractfile(info)) if info.isfile() else None
  except (OSError, EOFError, zlib.error, tarfile.TarError, zipfile.BadZipFile, RuntimeError) as error:
    raise UserError(f'{path} cannot be read as {kind}: {getattr(error, "strerror", None) or error}') from error


def _limited(file):
  data = file.read(_MOST_BYTES + 1)
  return data if len(data) <= _MOST_BYTES else None


def _problem(data, dataset, size):
  """Problem of a label PNG for an image of `size`, as a phrase that follows its name; None where there is none."""
  rules = dataset.submission
  if data is None:
    return f'is no file of less than {_MOST_BYTES >> 20} MiB'
  try:
    picture = Image.open(io.BytesIO(data), formats=['PNG'])
    if (picture.height, picture.width) != tuple(size):
      return f'is {picture.width}x{picture.height} pixels, but its image is {size[1]}x{size[0]}'
    picture.load()
  except MemoryError:
    raise
  except Exception as error:  # Pillow's decoders raise nearly anything on broken data
    return f'cannot be decoded as PNG: {error}'
  if picture.mode != ('P' if rules.palette else 'L'):
    return f'has pixels of mode {picture.mode}; a {"palette" if rules.palette else "grayscale"} PNG is wanted'
  values = np.asarray(picture)
  lowest, highest = rules.offset, rules.offset + dataset.num_classes - 1
  if values.min() < lowest or values.max() > highest:
    return f'has values from {values.min()} to {values.max()}; valid are {lowest} to {highest}'
  if rules.palette and picture.getpalette()[:3 * dataset.num_classes] != dataset.palette.ravel().tolist():
    return f'has another palette than {dataset.name}'
  return None


def check_submission(settings):
  """Checks the submission that the command line names."""
  dataset, path = DATASETS[settings.dataset], settings.paths[0]
  images = lists.list_images(settings.images)
  names = lists.read_names(settings.list_) if settings.list_ else list(images)
  sizes = {}
  with Progress(len(names), 'images', label='reading sizes') as progress:
    for name in names:
      if name not in images:
        raise UserError(f'--images={settings.images}: no image {name}, which {settings.list_} names')
      sizes[name] = read_rgb(images[name]).shape[:2]
      progress.update()
  check(dataset, path, sizes)
  print(f'{shown(path)}: {len(sizes)} label PNGs, as {dataset.submission.url} takes them')


def main(argv=None):
  return run(check_submission, SubmissionSettings, argv, text=__doc__)


if __name__ == '__main__':
  sys.exit(main())
