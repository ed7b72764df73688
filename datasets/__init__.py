"""The datasets by name. A new dataset is a file of datasets/readers and a line here; a user's own, a folder alone."""

import functools
import os
import sys

from datasets.readers.camvid import CAMVID
from datasets.readers.camvid32 import CAMSEQ01, CAMVID32
from datasets.readers.coco import COCO
from datasets.readers.gta5 import GTA5
from datasets.readers.mit import MIT
from datasets.readers.own import own_dataset
from datasets.readers.shapes import SHAPES
from datasets.readers.vkitti import VKITTI, VKITTI2
from datasets.readers.voc import VOC, VOC2011, VOC_AUG
from utils.errors import UserError

DATASETS = {dataset.name: dataset for dataset in (
    SHAPES, VOC, VOC2011, VOC_AUG, CAMVID, CAMVID32, CAMSEQ01, MIT, COCO, GTA5, VKITTI, VKITTI2)}


@functools.cache  # once a process
def _say_if_folder(name):
  """Prints a note where a folder of the user's own dataset has the name of a known dataset."""
  if any(os.path.exists(os.path.join(name, entry)) for entry in ('classes.txt', 'dataset.json', 'images')):
    print(f'note: --dataset={name} is the known dataset of this name; --dataset=./{name} is the folder here',
          file=sys.stderr, flush=True)


def get_dataset(name):
  """Returns the Dataset that `--dataset` gives: by its name, or else by its folder (see `datasets.readers.own`).

  Raises:
    UserError: if there is neither, listing the known names; or if the folder has another layout.
  """
  if name in DATASETS:
    _say_if_folder(name)
    return DATASETS[name]
  if os.sep in name or os.path.isdir(name):
    return own_dataset(name, reserved=tuple(DATASETS))
  raise UserError(f'--dataset={name}: unknown dataset; known are {", ".join(DATASETS)}, or give the path of a folder '
                  'with images, labels and classes.txt')
