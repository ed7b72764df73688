"""CamVid with all of its classes, at 960x720, and its sequence CamSeq01: street scenes from a car.

Brostow, Fauqueur and Cipolla, "Semantic object classes in video: a high-definition ground truth database", 2009;
Fauqueur, Brostow and Cipolla, "Assisted video object labeling by joint tracking of regions and keypoints", 2007
(CamSeq01). Labels are pictures in the colors of `label_colors.txt`; of its 32 classes Void is not scored, which leaves
31. `camvid` is the SegNet tutorial's version: 11 classes made of these, 480x360.

The 101 images of CamSeq01 are CamVid's val split: a network trained on either is not to be scored on the other.
"""

import functools
import os

import numpy as np

from datasets.dataset import Dataset, Source, label_map
from datasets.readers import lists
from datasets.readers.archives import ARCHIVES
from datasets.readers.camvid import CAMVID
from datasets.readers.color_labels import read_color_label, read_label_colors
from utils.errors import UserError
from utils.labels import IGNORE_LABEL

# label_colors.txt, in its order. Compared with the copies in Datumaro's camvid format (format/camvid.py) and in the
# README of zhouyuan888888/Public-datasets-preprocessing.
COLORS = {
    'Animal': (64, 128, 64), 'Archway': (192, 0, 128), 'Bicyclist': (0, 128, 192), 'Bridge': (0, 128, 64),
    'Building': (128, 0, 0), 'Car': (64, 0, 128), 'CartLuggagePram': (64, 0, 192), 'Child': (192, 128, 64),
    'Column_Pole': (192, 192, 128), 'Fence': (64, 64, 128), 'LaneMkgsDriv': (128, 0, 192),
    'LaneMkgsNonDriv': (192, 0, 64), 'Misc_Text': (128, 128, 64), 'MotorcycleScooter': (192, 0, 192),
    'OtherMoving': (128, 64, 64), 'ParkingBlock': (64, 192, 128), 'Pedestrian': (64, 64, 0), 'Road': (128, 64, 128),
    'RoadShoulder': (128, 128, 192), 'Sidewalk': (0, 0, 192), 'SignSymbol': (192, 128, 128), 'Sky': (128, 128, 128),
    'SUVPickupTruck': (64, 128, 192), 'TrafficCone': (0, 0, 64), 'TrafficLight': (0, 64, 64),
    'Train': (192, 64, 128), 'Tree': (128, 128, 0), 'Truck_Bus': (192, 128, 192), 'Tunnel': (64, 0, 64),
    'VegetationMisc': (192, 192, 0), 'Void': (0, 0, 0), 'Wall': (64, 192, 0)}
CLASSES = tuple(name for name in COLORS if name != 'Void')
RAW_COLORS = (*((COLORS[name], label) for label, name in enumerate(CLASSES)), (COLORS['Void'], IGNORE_LABEL))
_COLORS_FILE = 'label_colors.txt'
_LABEL_SUFFIX = '_L'  # NAME.png has the label NAME_L.png

# Split of a frame by its sequence and number, equal to the lists of the SegNet tutorial, in which 0016E5 from 7959 to
# 8159 is val, Seq05VD and the second half of 0001TP are test, and the rest is train.
_SEQUENCES = ('0001TP', '0006R0', '0016E5', 'Seq05VD')
_VAL_FRAMES = range(7959, 8160)
_FIRST_TEST_FRAME = 8550  # in 0001TP
_FIRST_CAMSEQ_VAL_FRAME = 8121  # in 7959 to 8159, two apart: the last 20, since neighbors are nearly the same


def _camvid_split(name):
  """Split of an image of CamVid; None if its name is in none of the sequences."""
  sequence, _, frame = name.partition('_')
  number = frame.removeprefix('f')
  if sequence not in _SEQUENCES or not number.isdecimal():
    return None
  if sequence == '0016E5' and int(number) in _VAL_FRAMES:
    return 'val'
  is_test = sequence == 'Seq05VD' or (sequence == '0001TP' and int(number) >= _FIRST_TEST_FRAME)
  return 'test' if is_test else 'train'


def _camseq_split(name):
  """Split of an image of CamSeq01; None if it is no frame of the sequence."""
  if _camvid_split(name) != 'val':
    return None
  return 'val' if int(name.rpartition('_')[2]) >= _FIRST_CAMSEQ_VAL_FRAME else 'train'


def _camvid_sources(source_dir, split):
  """Lists a split of CamVid from the folders of images and of labels."""
  root = lists.find_root(source_dir, ('CamVid', ''), '701_StillsRaw_full', dataset='camvid32')
  return _pair(os.path.join(root, '701_StillsRaw_full'), os.path.join(root, 'LabeledApproved_full'), split,
               _camvid_split)


def _camseq_sources(source_dir, split):
  """Lists a split of CamSeq01 from the folder of images and labels."""
  root = lists.find_root(source_dir, ('CamSeq01/CamSeq01', 'CamSeq01', ''), '0016E5_07959_L.png', dataset='camseq01')
  return _pair(root, root, split, _camseq_split)


def _pair(image_folder, label_folder, split, split_of):
  """Lists the images of a split with their labels; names without a partner are kept, for the converter to report."""
  for folder in {label_folder, image_folder, os.path.dirname(image_folder)}:
    _check_colors(os.path.join(folder, _COLORS_FILE))
  images = lists.list_images(image_folder)
  labels = {stem.removesuffix(_LABEL_SUFFIX): path for stem, path in lists.list_images(label_folder).items()
            if stem.endswith(_LABEL_SUFFIX)}
  names = sorted({stem for stem in images if not stem.endswith(_LABEL_SUFFIX)} | labels.keys())
  for name in names:
    if split_of(name) is None:
      raise UserError(f'{images.get(name, labels.get(name))}: no frame of the dataset is called {name}, so it belongs '
                      'to no split')
  return [Source(name=name, image=images.get(name, os.path.join(image_folder, f'{name}.png')),
                 label=labels.get(name, os.path.join(label_folder, f'{name}{_LABEL_SUFFIX}.png')))
          for name in names if split_of(name) == split]


def _check_colors(path):
  """Raises UserError if there is a list of colors and it differs from COLORS."""
  if not os.path.exists(path):
    return
  found = dict(read_label_colors(path))
  for name in (*COLORS, *found):
    if found.get(name) != COLORS.get(name):
      raise UserError(f'{path}: the color of {name} is {found.get(name)}, where the published list has '
                      f'{COLORS.get(name)}')


CAMVID32 = Dataset(
    name='camvid32',
    classes=CLASSES,
    palette=np.array([COLORS[name] for name in CLASSES], np.uint8),
    splits={'train': 367, 'val': 101, 'test': 233},
    sources=_camvid_sources,
    label_map=label_map({raw: raw for _, raw in RAW_COLORS}),
    read_label=functools.partial(read_color_label, colors=RAW_COLORS),
    url='http://mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid/',
    license='free for research and teaching, with citation of Brostow et al. 2009; no license text of its own',
    caution=CAMVID.caution,
    archives=ARCHIVES['camvid32'])

CAMSEQ01 = Dataset(
    name='camseq01',
    classes=CLASSES,
    palette=CAMVID32.palette,
    splits={'train': 81, 'val': 20},
    sources=_camseq_sources,
    label_map=CAMVID32.label_map,
    read_label=CAMVID32.read_label,
    url='http://mi.eng.cam.ac.uk/research/projects/VideoRec/CamSeq01/',
    license='published for research, with citation of Fauqueur et al. 2007; no license text known',
    caution='All images are of one drive, of which val is the end: scores on val say little about other drives.',
    archives=ARCHIVES['camseq01'])
