"""Tiny originals of every dataset, in the layouts in which they are published, and reading converted ones back.

A maker lays out a dataset in a folder: a few pictures a split, of odd and unequal sizes. `MAKERS` has one for each
dataset that is not generated.
"""

import json

import numpy as np
import scipy.io
from PIL import Image

from datasets import pipeline
from datasets.dataset import colormap
from datasets.readers import camvid32, coco, gta5, vkitti
from utils.compat import tf

SIZES = ((29, 41), (37, 33), (32, 45))


def write(path, content=b''):
  """Writes text, bytes or the pixels of a picture, and the folders above."""
  path.parent.mkdir(parents=True, exist_ok=True)
  if isinstance(content, np.ndarray):
    Image.fromarray(content).save(path)
  else:
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def write_palette(path, ids, palette=None):
  """Writes a palette PNG whose indices are `ids`, uint8 [H, W]."""
  path.parent.mkdir(parents=True, exist_ok=True)
  picture = Image.fromarray(ids, 'P')
  picture.putpalette((colormap(256) if palette is None else palette).tobytes())
  picture.save(path)


def random_image(number):
  return np.random.default_rng(number).integers(0, 256, (*SIZES[number % len(SIZES)], 3), np.uint8)


def random_label(number, ids):
  """Blocks of 8x8 pixels, each with an id of `ids`."""
  height, width = SIZES[number % len(SIZES)]
  blocks = np.random.default_rng(number).choice(np.array(ids, np.uint8), (-(-height // 8), -(-width // 8)))
  return np.kron(blocks, np.ones((8, 8), np.uint8))[:height, :width]


def random_colors(number, colors):
  """A label whose blocks have a color of `colors` each, uint8 [H, W, 3]."""
  return np.array(colors, np.uint8)[random_label(number, range(len(colors)))]


def make_camvid(folder):
  for split, numbers in (('train', (0, 1)), ('val', (2,))):
    names = [(f'{split}/f{number}.png', f'{split}annot/f{number}.png', number) for number in numbers]
    for image, label, number in names:
      write(folder / image, random_image(number))
      write(folder / label, random_label(number, range(12)))
    write(folder / f'{split}.txt',
          ''.join(f'/SegNet/CamVid/{image} /SegNet/CamVid/{label}\n' for image, label, _ in names))


def make_camvid32(folder):
  for number, name in enumerate(('0006R0_f00930', 'Seq05VD_f00000', '0016E5_07959', '0016E5_00390')):
    write(folder / f'701_StillsRaw_full/{name}.png', random_image(number))
    write(folder / f'LabeledApproved_full/{name}_L.png', random_colors(number, list(camvid32.COLORS.values())))


def make_camseq01(folder):
  for number, name in enumerate(('0016E5_07959', '0016E5_08119', '0016E5_08121')):
    write(folder / f'{name}.png', random_image(number))
    write(folder / f'{name}_L.png', random_colors(number, list(camvid32.COLORS.values())))


def coco_json(images, annotations, categories=coco.CATEGORIES):
  """The JSON of COCO's instances; `images` are (id, file name, height, width)."""
  keys = ('id', 'file_name', 'height', 'width')
  return json.dumps({
      'info': {'description': 'a test'}, 'licenses': [], 'images': [dict(zip(keys, image)) for image in images],
      'annotations': annotations, 'categories': [{'id': number, 'name': name} for number, name in categories.items()]})


def make_coco(folder):
  for split, numbers in (('train', (0, 1)), ('val', (2,))):
    images, annotations = [], []
    for number in numbers:
      height, width = SIZES[number]
      images.append((number, f'{number:012d}.jpg', height, width))
      write(folder / f'{split}2017/{number:012d}.jpg', random_image(number))
      for category, polygon in ((1, [2, 2, 20, 2, 20, 25, 2, 25]), (90, [10.5, 5, 30, 8, 15, 28])):
        annotations.append({'id': len(annotations), 'image_id': number, 'category_id': category, 'iscrowd': 0,
                            'segmentation': [polygon]})
      annotations.append({'id': 99, 'image_id': number, 'category_id': 3, 'iscrowd': 1, 'segmentation': {
          'size': [height, width], 'counts': [0, 3 * height, (width - 3) * height]}})
    write(folder / f'annotations/instances_{split}2017.json', coco_json(images, annotations))


def make_gta5(folder):
  for number in (1, 2, 4):
    write(folder / f'images/{number:05d}.png', random_image(number))
    write_palette(folder / f'labels/{number:05d}.png', random_label(number, range(gta5.LAST_RAW + 1)))
  scipy.io.savemat(folder / 'split.mat', {'trainIds': [[1], [4], [7]], 'valIds': [[2], [6]], 'testIds': [[3], [5]]})


def make_mit(folder):
  for split, numbers in (('training', (0, 1)), ('validation', (2,))):
    for number in numbers:
      write(folder / f'ADEChallengeData2016/images/{split}/ADE_{number}.jpg', random_image(number))
      write(folder / f'ADEChallengeData2016/annotations/{split}/ADE_{number}.png', random_label(number, range(151)))


def make_vkitti(folder):
  """Two videos; the cars' colors are others in each."""
  for number, (video, cars) in enumerate((('0001/clone', ((200, 200, 0), (0, 30, 9))), ('0002/fog', ((7, 7, 7),)))):
    colors = {**{name: color for name, color in vkitti.COLORS.items() if name not in ('Car', 'TrafficLight')},
              **{f'Car:{index}': color for index, color in enumerate(cars)}}
    lines = [f'{name} {r} {g} {b}' for name, (r, g, b) in colors.items()]
    labels = folder / 'vkitti_1.3.1_scenegt'
    write(labels / f'{video.replace("/", "_")}_scenegt_rgb_encoding.txt', '\n'.join(['Category(:id) r g b', *lines]))
    for frame in (0, 1):
      write(folder / f'vkitti_1.3.1_rgb/{video}/{frame:05d}.png', random_image(number + frame))
      write(labels / f'{video}/{frame:05d}.png', random_colors(number + frame, list(colors.values())))


def make_vkitti2(folder):
  lines = [f'{name} {r} {g} {b}' for name, (r, g, b) in {'Undefined': (0, 0, 0), **vkitti.COLORS}.items()]
  for number, video in enumerate(('Scene20/15-deg-left', 'Scene02/clone')):
    frames = folder / video / 'frames'
    for frame in (0, 1):
      write(frames / f'rgb/Camera_0/rgb_{frame:05d}.jpg', random_image(number + frame))
      write(frames / f'classSegmentation/Camera_0/classgt_{frame:05d}.png',
            random_colors(number + frame, list(vkitti.COLORS.values())))
    write(folder / video / 'colors.txt', '\n'.join(['Category r g b', *lines]))


def make_voc(folder, year='2012'):
  root = folder / f'VOCdevkit/VOC{year}'
  for split, numbers in (('train', (0, 1)), ('val', (2,))):
    for number in numbers:
      write(root / f'JPEGImages/2007_{number}.jpg', random_image(number))
      write_palette(root / f'SegmentationClass/2007_{number}.png', random_label(number, (*range(21), 255)))
    write(root / f'ImageSets/Segmentation/{split}.txt', ''.join(f'2007_{number}\n' for number in numbers))


def make_voc_aug(folder):
  make_voc(folder)
  root = folder / 'benchmark_RELEASE/dataset'
  write(root / 'img/2008_3.jpg', random_image(3))
  (root / 'cls').mkdir()
  scipy.io.savemat(root / 'cls/2008_3.mat', {'GTcls': {'Segmentation': random_label(3, range(21))}})
  write(root / 'train.txt', '2008_3\n')
  write(root / 'val.txt', '2007_2\n')


MAKERS = {'camseq01': make_camseq01, 'camvid': make_camvid, 'camvid32': make_camvid32, 'coco': make_coco,
          'gta5': make_gta5, 'mit': make_mit, 'vkitti': make_vkitti, 'vkitti2': make_vkitti2, 'voc': make_voc,
          'voc2011': lambda folder: make_voc(folder, '2011'), 'voc_aug': make_voc_aug}


def read_back(data_dir, split):
  """Reads converted records: a dict of name -> (image uint8 [H, W, 3], label int32 [H, W]), in their order."""
  found = {}
  with tf.Graph().as_default(), tf.Session() as session:
    batch = tf.data.make_one_shot_iterator(pipeline.evaluation_batches(str(data_dir), split)).get_next()
    while True:
      try:
        example = session.run(batch)
      except tf.errors.OutOfRangeError:
        return found
      found[example['name'][0].decode()] = example['image'][0].astype(np.uint8), example['label'][0]
