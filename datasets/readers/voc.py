"""PASCAL VOC segmentation, 20 classes and background, and the annotations that SBD adds to it.

Everingham et al., "The PASCAL Visual Object Classes Challenge", 2010; Hariharan et al., "Semantic contours from inverse
detectors", 2011 (SBD).
"""

import functools
import os

import numpy as np

from datasets import images, label_pictures
from datasets.dataset import Dataset, Source, Submission, colormap, label_map
from datasets.readers import lists
from datasets.readers.archives import ARCHIVES
from utils import matlab
from utils.labels import IGNORE_LABEL

CLASSES = (
    'background', 'aeroplane', 'bicycle', 'bird', 'boat', 'bottle', 'bus', 'car', 'cat', 'chair', 'cow',
    'diningtable', 'dog', 'horse', 'motorbike', 'person', 'pottedplant', 'sheep', 'sofa', 'train', 'tvmonitor')
_LISTS = os.path.join('ImageSets', 'Segmentation')
_SBD_LISTS = ('train.txt', 'val.txt')  # another split than VOC's; only the union is used


def _root(source_dir, year, dataset):
  places = (f'VOCdevkit/VOC{year}', f'TrainVal/VOCdevkit/VOC{year}', f'VOC{year}', '')
  return lists.find_root(source_dir, places, _LISTS, dataset=dataset)


def _names(root, split):
  return lists.read_names(os.path.join(root, _LISTS, f'{split}.txt'))


def _source(root, name):
  return Source(name=name, image=lists.existing(os.path.join(root, 'JPEGImages', f'{name}.jpg')),
                label=os.path.join(root, 'SegmentationClass', f'{name}.png'))


def _sources(source_dir, split, year, dataset):
  """Lists a split of VOC from `ImageSets/Segmentation`."""
  root = _root(source_dir, year, dataset)
  return [_source(root, name) for name in _names(root, split)]


def _aug_sources(source_dir, split):
  """Lists VOC 2012's val; or for train VOC's train, then all further images of SBD that are not in val."""
  root = _root(source_dir, '2012', 'voc_aug')
  if split == 'val':
    return [_source(root, name) for name in _names(root, 'val')]
  sbd = lists.find_root(source_dir, ('benchmark_RELEASE/dataset', 'SBD/dataset', 'sbd', 'dataset', ''), 'cls',
                        dataset='voc_aug (its part SBD)')
  train, val = _names(root, 'train'), set(_names(root, 'val'))
  extra = [name for file in _SBD_LISTS for name in lists.read_names(os.path.join(sbd, file))]
  lists.refuse_duplicates(extra, f'{sbd}/train.txt and val.txt')
  left_out = val.union(train)
  # SBD's pictures are copies of VOC's, and used where VOC's are missing.
  added = [Source(name=name, image=_first_existing(os.path.join(root, 'JPEGImages', f'{name}.jpg'),
                                                   os.path.join(sbd, 'img', f'{name}.jpg')),
                  label=os.path.join(sbd, 'cls', f'{name}.mat'))
           for name in extra if name not in left_out]
  return [_source(root, name) for name in train if name not in val] + added


def _first_existing(*paths):
  return next((path for path in paths if os.path.exists(path)), paths[0])


def _read_aug_label(path):
  """Reads a label of VOC (a palette PNG) or of SBD: uint8 [H, W]. Raises BadFile."""
  if not str(path).endswith('.mat'):
    return label_pictures.read_label(path)
  if not os.path.exists(path):
    raise images.BadFile(path, 'does not exist')
  try:
    raw = matlab.load(path, ['GTcls'])['GTcls'][0, 0]['Segmentation']
  except (OSError, NotImplementedError, ValueError, KeyError, IndexError, TypeError) as error:  # or another content
    raise images.BadFile(path, f'is no .mat file with GTcls.Segmentation: {error!r}') from error
  if raw.ndim != 2 or not raw.size or raw.dtype.kind not in 'ui' or raw.min() < 0 or raw.max() > IGNORE_LABEL:
    raise images.BadFile(path, f'has a GTcls.Segmentation of {raw.dtype} {raw.shape}, not a map of label ids')
  return raw.astype(np.uint8)


def _submission(year):
  """Rules of the evaluation server.

  By VOC's development kit: section 5.3 of its document asks for palette PNGs with ids from 0 to 20 and VOC's colors;
  VOCinit.m names the folder; VOCevalseg.m refuses an id above 20, so void too, and another size than the image's.
  "comp6" may be trained on any data but the test images, as a network that starts from ImageNet is; "comp5" is for
  VOC's own data alone. The server unpacks .tgz and .tar.gz, not .tar (zhanghang1989/PyTorch-Encoding, issue 225).
  """
  return Submission(url='http://host.robots.ox.ac.uk:8080/', archive='results.tar.gz',
                    folder=f'results/VOC{year}/Segmentation/comp6_test_cls', palette=True)


VOC = Dataset(
    name='voc',
    classes=CLASSES,
    palette=colormap(len(CLASSES)),
    splits={'train': 1464, 'val': 1449, 'trainval': 2913},
    sources=functools.partial(_sources, year='2012', dataset='voc'),
    label_map=label_map({**{label: label for label in range(len(CLASSES))}, IGNORE_LABEL: IGNORE_LABEL}),
    url='http://host.robots.ox.ac.uk/pascal/VOC/voc2012/',
    license="photographs from Flickr, under Flickr's terms of use; free for research",
    archives=ARCHIVES['voc'],
    submission=_submission(2012))

VOC2011 = Dataset(
    name='voc2011',
    classes=CLASSES,
    palette=VOC.palette,
    splits={'train': 1112, 'val': 1111, 'trainval': 2223},
    sources=functools.partial(_sources, year='2011', dataset='voc2011'),
    label_map=VOC.label_map,
    url='http://host.robots.ox.ac.uk/pascal/VOC/voc2011/',
    license=VOC.license,
    archives=ARCHIVES['voc2011'],
    submission=_submission(2011))

VOC_AUG = Dataset(
    name='voc_aug',
    classes=CLASSES,
    palette=VOC.palette,
    splits={'train': 10582, 'val': 1449},
    sources=_aug_sources,
    label_map=VOC.label_map,
    read_label=_read_aug_label,
    url=f'{VOC.url} and http://home.bharathh.info/pubs/codes/SBD/download.html',
    license=f'{VOC.license}; SBD: free for research, with citation of Hariharan et al. 2011',
    archives=ARCHIVES['voc_aug'],
    submission=VOC.submission)
