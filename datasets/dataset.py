"""The records that describe a dataset."""

import dataclasses
from collections.abc import Callable

import numpy as np


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


def colormap(num_colours):
  """PASCAL VOC's palette: the bits of an id, three by three, are the high to low bits of red, green and blue.

  Args:
    num_colours: 1 to 256.

  Returns:
    uint8 [num_colours, 3], RGB; all different, the first black.
  """
  ids = np.arange(num_colours)[:, np.newaxis]
  bits = (ids >> np.arange(24)) & 1  # [id, bit]: bit 3k + c of an id is bit 7 - k of channel c
  weights = 128 >> np.arange(8)
  return (bits.reshape(num_colours, 8, 3) * weights[:, np.newaxis]).sum(axis=1).astype(np.uint8)


@dataclasses.dataclass(frozen=True)
class Source:
  """Where one example comes from.

  Attributes:
    name: unique within its split; predictions and error messages carry it.
    image: path of the encoded image, or the image itself as uint8 [H, W, 3]; None for a dataset that is generated.
    label: path of the label picture, or raw labels as an integer array [H, W]; or whatever else the dataset's
      `read_label` takes, an os.PathLike that names the file it came from. None for a dataset that is generated.
  """
  name: str
  image: object = None
  label: object = None


@dataclasses.dataclass(frozen=True)
class Submission:
  """What a dataset's evaluation server takes: an archive of one label PNG for each image of its test split.

  Attributes:
    url: where the archive is uploaded.
    archive: its file name, which ends in '.tar.gz' or '.zip'.
    folder: where the PNGs lie in it; '' for its top.
    offset: what is added to the ids (MIT counts from 1).
    palette: whether the PNGs carry the dataset's palette; greyscale otherwise.
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
    name: what `--dataset` calls it.
    classes: class names; the index is the label id.
    palette: uint8 [num_classes, 3], RGB.
    splits: split name -> number of examples that the original publication has.
    sources: `sources(source_dir, split)` lists the split's `Source`s; raises UserError if the layout is not there.
    label_map: the one map from raw labels to ids: int16 [256], where raw value v has the id `label_map[v]`,
      IGNORE_LABEL for void and -1 for a value that the dataset does not have.
    read_label: `read_label(label)` -> raw labels, uint8 [H, W], of a Source's label; None for the usual picture of ids
      or palette indices. A function of a module, since other processes call it.
    generate: `generate(source)` -> (image uint8 [H, W, 3], raw labels uint8 [H, W]) for a dataset that is computed, not
      read; None otherwise. A function of a module as well.
    url: where its originals are described and to be had.
    licence: under which terms, in a line.
    archives: what `datasets.prepare` downloads and unpacks to get the originals; empty where it has to be fetched by
      hand (an account, a form) or is generated.
    submission: what its evaluation server takes, a Submission; None where there is none.
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
  licence: str = ''
  archives: tuple = ()
  submission: Submission | None = None

  @property
  def num_classes(self):
    return len(self.classes)
