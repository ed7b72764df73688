"""Playing for Data: 24966 frames of the game GTA V at 1914x1052, with the 19 classes that Cityscapes scores.

Richter, Vineet, Roth and Koltun, "Playing for data: ground truth from computer games", ECCV 2016. Labels are palette
PNGs whose indices are Cityscapes' label ids; ids that Cityscapes does not train are void, as in its own scripts. The
split is that of `split.mat`, which comes with the authors' code (read_mapping.zip).

60 frames have labels of another size than their images (the dataset's page says so) and are left out.
"""

import os

import numpy as np

from datasets.dataset import Dataset, Source, label_map
from datasets.readers import lists
from datasets.readers.archives import ARCHIVES
from utils import matlab
from utils.errors import UserError
from utils.labels import IGNORE_LABEL

# Cityscapes' label id -> name and color of a trained class, in the order of the train ids (cityscapesScripts,
# helpers/labels.py).
TRAINED = {
    7: ('road', (128, 64, 128)), 8: ('sidewalk', (244, 35, 232)), 11: ('building', (70, 70, 70)),
    12: ('wall', (102, 102, 156)), 13: ('fence', (190, 153, 153)), 17: ('pole', (153, 153, 153)),
    19: ('traffic light', (250, 170, 30)), 20: ('traffic sign', (220, 220, 0)), 21: ('vegetation', (107, 142, 35)),
    22: ('terrain', (152, 251, 152)), 23: ('sky', (70, 130, 180)), 24: ('person', (220, 20, 60)),
    25: ('rider', (255, 0, 0)), 26: ('car', (0, 0, 142)), 27: ('truck', (0, 0, 70)), 28: ('bus', (0, 60, 100)),
    31: ('train', (0, 80, 100)), 32: ('motorcycle', (0, 0, 230)), 33: ('bicycle', (119, 11, 32))}
LAST_RAW = 34  # license plate, -1 in Cityscapes
LAST_FRAME = 24966
MISMATCHED = range(20801, 20861)  # frames with labels of another size, as listed by public loaders of the dataset
_SPLIT_FILES = ('split.mat', 'read_mapping/split.mat', 'read_mapping/read_mapping/split.mat')


def _sources(source_dir, split):
  """Lists the frames of a split that have an image or a label; the converter reports the missing one of the two."""
  root = lists.find_root(source_dir, ('GTA5', 'gta5', ''), 'images', dataset='gta5')
  folders = [os.path.join(root, kind) for kind in ('images', 'labels')]
  parts = [_parts(folder) for folder in folders]
  if parts[0] != parts[1]:
    raise UserError(f'gta5: {folders[0]} has the folders {", ".join(parts[0]) or "none"}, but {folders[1]} has '
                    f'{", ".join(parts[1]) or "none"}; each needs its counterpart')
  images, labels = (_list_frames(folder) for folder in folders)
  names = [f'{number:05d}' for number in _read_split(root, split) if number not in MISMATCHED]
  return [Source(name=name, image=images.get(name, os.path.join(folders[0], f'{name}.png')),
                 label=labels.get(name, os.path.join(folders[1], f'{name}.png')))
          for name in names if name in images or name in labels]


def _parts(folder):
  """Names of the folders in a folder: a folder for each archive that `datasets.prepare` unpacked."""
  return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir()) if os.path.isdir(folder) else []


def _list_frames(folder):
  """Lists the pictures in a folder and in its parts: a dict of stem -> path."""
  frames = {}
  for part in ('', *_parts(folder)):
    found = lists.list_images(os.path.join(folder, part))
    lists.refuse_duplicates([*frames, *found], folder)
    frames |= found
  return frames


def _read_split(root, split):
  """Reads the frame numbers of a split, in ascending order. Raises UserError if there is no valid list."""
  paths = [os.path.join(root, file) for file in _SPLIT_FILES]
  path = next(filter(os.path.exists, paths), None)
  if path is None:
    raise UserError(f'gta5: the list of the splits is missing; put split.mat of read_mapping.zip at {paths[0]}')
  key = f'{split}Ids'
  try:
    numbers = matlab.load(path, [key])[key].ravel()
  except (OSError, NotImplementedError, ValueError, KeyError) as error:
    raise UserError(f'{path} is no .mat file with {key}: {error!r}') from error
  if numbers.dtype.kind not in 'uif' or not numbers.size or (numbers != np.floor(numbers)).any() or not (
      1 <= numbers.min() <= numbers.max() <= LAST_FRAME):
    raise UserError(f'{path}: {key} is not a list of frame numbers; valid are 1 to {LAST_FRAME}')
  numbers = sorted(numbers.astype(int).tolist())
  lists.refuse_duplicates(numbers, f'{path}: {key}')
  return numbers


GTA5 = Dataset(
    name='gta5',
    classes=tuple(name for name, _ in TRAINED.values()),
    palette=np.array([color for _, color in TRAINED.values()], np.uint8),
    splits={'train': 12403, 'val': 6382, 'test': 6181},
    sources=_sources,
    label_map=label_map({**dict.fromkeys(range(LAST_RAW + 1), IGNORE_LABEL),
                         **{raw: label for label, raw in enumerate(TRAINED)}}),
    url='https://download.visinf.tu-darmstadt.de/data/from_games/',
    license='for research and education only',
    archives=ARCHIVES['gta5'])
