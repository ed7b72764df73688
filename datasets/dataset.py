"""The records that describe a dataset."""

import dataclasses
from collections.abc import Callable

import numpy as np

from datasets.reading import Reading
from utils.errors import UserError, shown


class BadFile(UserError):
  """An image or a label that cannot be used: its `path`, and the `reason` with the offending value."""

  def __init__(self, path, reason):
    super().__init__(path, reason)
    self.path, self.reason = path, reason

  def __str__(self):
    return shown(f'{self.path}: {self.reason}')


def label_map(ids):
  """Makes a `Dataset.label_map`.

  Args:
    ids: dict of raw label -> id or IGNORE_LABEL, both in 0..255.

  Returns:
    int16 [256] with -1 for every raw label that `ids` does not name.
  """
  table = np.full(256, -1, np.int16)
  table[list(ids)] = list(ids.values())
  return table


def colormap(num_colors):
  """PASCAL VOC's palette: the bits of an id, three by three, are the high to low bits of red, green and blue.

  Args:
    num_colors: 1 to 256.

  Returns:
    uint8 [num_colors, 3], RGB; all different, the first black.
  """
  ids = np.arange(num_colors)[:, np.newaxis]
  bits = (ids >> np.arange(24)) & 1  # [id, bit]: bit 3k + c of an id is bit 7 - k of channel c
  weights = 128 >> np.arange(8)
  return (bits.reshape(num_colors, 8, 3) * weights[:, np.newaxis]).sum(axis=1).astype(np.uint8)


@dataclasses.dataclass(frozen=True)
class Source:
  """Original image and label of one example.

  Attributes:
    name: unique within its split; predictions and error messages carry it.
    image: path of the encoded image, or a tuple of paths with a band each, or an os.PathLike whose `read_bytes()` gives
      it, or the image itself as uint8 [H, W, 3] (of a dataset with bands: [H, W, N] of its dtype); None for a dataset
      that is generated.
    label: path of the label picture, or raw labels as an integer array [H, W]; or an os.PathLike for the dataset's
      `read_label`, which names the file that it came from. None for a dataset that is generated.
  """
  name: str
  image: object = None
  label: object = None


@dataclasses.dataclass(frozen=True)
class Submission:
  """Format of a dataset's evaluation server: an archive of one label PNG for each image of the test split.

  Attributes:
    url: address that the archive is uploaded to.
    archive: the archive's file name, which ends in '.tar.gz' or '.zip'.
    folder: folder of the PNGs in the archive; '' for its top.
    offset: number added to the ids (MIT counts from 1).
    palette: whether the PNGs carry the dataset's palette; grayscale otherwise.
  """
  url: str
  archive: str
  folder: str = ''
  offset: int = 0
  palette: bool = False


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
  """A segmentation dataset.

  Attributes:
    name: value of `--dataset`.
    classes: class names; the index is the label id.
    palette: uint8 [num_classes, 3], RGB.
    splits: split name -> number of examples in the original publication.
    sources: `sources(source_dir, split)` lists the split's `Source`s; raises UserError if the layout is not there.
    label_map: map from raw labels to ids: int16 [256], where raw value v has the id `label_map[v]`, IGNORE_LABEL for
      void and -1 for a value that the dataset does not have.
    read_label: `read_label(label)` -> raw labels, uint8 [H, W], of a Source's label; None for the usual picture of ids
      or palette indices. A function of a module, since other processes call it.
    generate: `generate(source)` -> (image uint8 [H, W, 3], raw labels uint8 [H, W]) for a dataset that is computed, not
      read; None otherwise. A function of a module as well.
    url: address of the originals and their description.
    license: terms of use, in a line.
    caution: what its scores are to be taken with, in a sentence; '' where nothing is known.
    archives: Archives that `datasets.prepare` downloads and unpacks to get the originals; empty where they have to be
      fetched by hand (an account, a form) or are generated.
    submission: format of its evaluation server, a Submission; None where there is none.
    reading: how its pictures are read, a Reading.
    label_values: for each class, the value (int) or the color (r, g, b) of its pixels in the user's own labels; ()
      where the ids are these values.
    decisions: the `Decision`s that were made about the whole dataset.
  """
  name: str
  classes: tuple
  palette: np.ndarray
  splits: dict
  sources: Callable
  label_map: np.ndarray
  read_label: Callable | None = None
  generate: Callable | None = None
  url: str = ''
  license: str = ''
  caution: str = ''
  archives: tuple = ()
  submission: Submission | None = None
  reading: Reading = Reading()
  label_values: tuple = ()
  decisions: tuple = ()

  @property
  def num_classes(self):
    return len(self.classes)


def check_splits(dataset, splits):
  """Checks the splits that --splits names.

  Args:
    dataset: a Dataset.
    splits: names of splits.

  Returns:
    list of the names, each once.

  Raises:
    UserError: if the list is empty or a split is unknown, listing the dataset's splits.
  """
  known = ', '.join(dataset.splits)
  if not splits:
    raise UserError(f'--splits is empty; {dataset.name} has {known}')
  for split in splits:
    if split not in dataset.splits:
      raise UserError(f'{dataset.name} has no split {split!r}; it has {known}')
  return list(dict.fromkeys(splits))
