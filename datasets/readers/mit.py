"""MIT Scene Parsing (ADE20K's benchmark, SceneParse150): 150 classes of things and stuff in scenes.

Zhou et al., "Scene parsing through ADE20K dataset", 2017. In its label pictures 0 is "other", which the benchmark does
not score, and the classes count from 1.
"""

import os

from datasets.dataset import Dataset, Source, Submission, colormap, label_map
from datasets.readers import lists
from datasets.readers.archives import ARCHIVES
from utils.labels import IGNORE_LABEL

# The first name of each line of objectInfo150.txt.
CLASSES = (
    'wall', 'building', 'sky', 'floor', 'tree', 'ceiling', 'road', 'bed', 'windowpane', 'grass', 'cabinet',
    'sidewalk', 'person', 'earth', 'door', 'table', 'mountain', 'plant', 'curtain', 'chair', 'car', 'water',
    'painting', 'sofa', 'shelf', 'house', 'sea', 'mirror', 'rug', 'field', 'armchair', 'seat', 'fence', 'desk',
    'rock', 'wardrobe', 'lamp', 'bathtub', 'railing', 'cushion', 'base', 'box', 'column', 'signboard',
    'chest of drawers', 'counter', 'sand', 'sink', 'skyscraper', 'fireplace', 'refrigerator', 'grandstand', 'path',
    'stairs', 'runway', 'case', 'pool table', 'pillow', 'screen door', 'stairway', 'river', 'bridge', 'bookcase',
    'blind', 'coffee table', 'toilet', 'flower', 'book', 'hill', 'bench', 'countertop', 'stove', 'palm',
    'kitchen island', 'computer', 'swivel chair', 'boat', 'bar', 'arcade machine', 'hovel', 'bus', 'towel', 'light',
    'truck', 'tower', 'chandelier', 'awning', 'streetlight', 'booth', 'television', 'airplane', 'dirt track',
    'apparel', 'pole', 'land', 'bannister', 'escalator', 'ottoman', 'bottle', 'buffet', 'poster', 'stage', 'van',
    'ship', 'fountain', 'conveyer belt', 'canopy', 'washer', 'plaything', 'swimming pool', 'stool', 'barrel',
    'basket', 'waterfall', 'tent', 'bag', 'minibike', 'cradle', 'oven', 'ball', 'food', 'step', 'tank',
    'trade name', 'microwave', 'pot', 'animal', 'bicycle', 'lake', 'dishwasher', 'screen', 'blanket', 'sculpture',
    'hood', 'sconce', 'vase', 'traffic light', 'tray', 'ashcan', 'fan', 'pier', 'crt screen', 'plate', 'monitor',
    'bulletin board', 'shower', 'radiator', 'glass', 'clock', 'flag')

_FOLDERS = {'train': 'training', 'val': 'validation'}


def _sources(source_dir, split):
  """Pairs images and labels of the same stem; stems without a partner are kept, for the converter to report."""
  root = lists.find_root(source_dir, ('ADEChallengeData2016', ''), 'annotations', dataset='mit')
  folders = [os.path.join(root, kind, _FOLDERS[split]) for kind in ('images', 'annotations')]
  images, labels = (lists.list_images(folder) for folder in folders)
  return [Source(name=stem, image=images.get(stem, os.path.join(folders[0], f'{stem}.jpg')),
                 label=labels.get(stem, os.path.join(folders[1], f'{stem}.png')))
          for stem in sorted(images.keys() | labels.keys())]


MIT = Dataset(
    name='mit',
    classes=CLASSES,
    palette=colormap(len(CLASSES) + 1)[1:],  # without black
    splits={'train': 20210, 'val': 2000},
    sources=_sources,
    label_map=label_map({0: IGNORE_LABEL, **{label: label - 1 for label in range(1, len(CLASSES) + 1)}}),
    url='http://sceneparsing.csail.mit.edu/',
    license='annotations BSD 3-clause; photographs for research and education only, not redistributed',
    archives=ARCHIVES['mit'],
    # By the development kit (CSAILVision/sceneparsing): README.md, "Submission format", wants a zip of PNGs named as
    # the images; demoEvaluation.m wants them gray and of the images' size, with 1 to 150 for the classes.
    submission=Submission(url='http://sceneparsing.csail.mit.edu/eval/', archive='submission.zip', offset=1))
