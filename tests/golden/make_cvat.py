"""Makes tests/golden/cvat: an annotations.xml with random shapes, and labels as CVAT's mask export draws them.

That export hands its shapes to datumaro and OpenCV as is done here (cvat/apps/dataset_manager/formats/mask.py and
transformations.py in CVAT 2): boxes that are turned become polygons, ellipses are drawn by cv2.ellipse, all others by
datumaro, which also puts them over each other. datumaro reads the XML by itself but for turned boxes and ellipses.
CVAT has a copy of datumaro, which rounds coordinates in float64; so `in_float64` puts those in.

    pip install datumaro==1.13.12 opencv-python-headless==4.14.0.94
    python tests/golden/make_cvat.py
"""

import math
import pathlib
import tempfile
import xml.etree.ElementTree as ElementTree

import cv2
import datumaro
import numpy as np
from datumaro.components.annotation import CompiledMask, Mask, Polygon
from PIL import Image

FOLDER = pathlib.Path(__file__).parent / 'cvat'
SIZES = {'a': (29, 41), 'b': (57, 33), 'c': (64, 95)}
LABELS = {'tree': '#33ddff', 'cat': '#fa3253', 'dog': '#ff007c'}


def text(value):
  return f'{value:.2f}'


def random_shape(rng, kind, height, width, order):
  """Attributes of a shape; a part of it may lie beyond the border."""
  values = {'label': str(rng.choice(list(LABELS))), 'source': 'manual', 'occluded': '0'}
  x, y, w, h = rng.uniform(-5, width), rng.uniform(-5, height), rng.uniform(2, 15), rng.uniform(2, 15)
  if kind == 'polygon':
    points = rng.uniform((x - 9, y - 9), (x + 9, y + 9), (5, 2))
    points = np.round(points * 2) / 2 if rng.random() < 0.3 else points  # halves, where rounding decides
    values['points'] = ';'.join(f'{text(px)},{text(py)}' for px, py in points)
  elif kind in ('box', 'turned'):
    values |= {'xtl': text(x), 'ytl': text(y), 'xbr': text(x + w), 'ybr': text(y + h)}
    values |= {'rotation': text(rng.uniform(1, 359))} if kind == 'turned' else {}
  elif kind == 'ellipse':
    values |= {'cx': text(x), 'cy': text(y), 'rx': text(w), 'ry': text(h), 'rotation': text(rng.uniform(0, 359))}
  else:
    w, h = int(w), int(h)
    x, y = int(rng.integers(0, width - w)), int(rng.integers(0, height - h))
    pixels = (rng.random(w * h) < 0.7).astype(int)
    changes = np.flatnonzero(np.diff(pixels, prepend=0)).tolist()
    counts = np.diff([0, *changes, pixels.size]).tolist()
    values |= {'rle': ', '.join(map(str, counts)), 'left': str(x), 'top': str(y), 'width': str(w), 'height': str(h)}
  return ('box' if kind == 'turned' else kind), {**values, 'z_order': str(order)}


def converted(kind, values, label, height, width):
  """What CVAT makes of a shape that datumaro does not read: a mask of an ellipse, a polygon of a turned box."""
  numbers = {key: float(value) for key, value in values.items() if key in ('cx', 'cy', 'rx', 'ry', 'rotation')}
  order = int(values['z_order'])
  if kind == 'ellipse':
    canvas = np.zeros((height, width), np.uint8)
    cv2.ellipse(canvas, (round(numbers['cx']), round(numbers['cy'])), (round(numbers['rx']), round(numbers['ry'])),
                numbers['rotation'], 0, 360, 255, thickness=-1)
    return Mask(canvas > 0, label=label, z_order=order)
  left, top, right, bottom = (float(values[key]) for key in ('xtl', 'ytl', 'xbr', 'ybr'))
  angle, cx, cy = math.radians(numbers['rotation']), left + (right - left) / 2, top + (bottom - top) / 2
  points = []
  for x, y in ((left, top), (right, top), (right, bottom), (left, bottom)):
    points += [cx + math.cos(angle) * (x - cx) - math.sin(angle) * (y - cy),
               cy + math.sin(angle) * (x - cx) + math.cos(angle) * (y - cy)]
  return in_float64(Polygon(points, label=label, z_order=order), points)


def in_float64(annotation, points):
  """Gives an annotation the points that it was made of, which datumaro has rounded in float32."""
  annotation.points = np.around(points, 2).tolist()
  return annotation


def write_xml(path, frames):
  root = ElementTree.Element('annotations')
  ElementTree.SubElement(root, 'version').text = '1.1'
  task = ElementTree.SubElement(ElementTree.SubElement(root, 'meta'), 'task')
  labels = ElementTree.SubElement(task, 'labels')
  for name, color in LABELS.items():
    label = ElementTree.SubElement(labels, 'label')
    for key, value in (('name', name), ('color', color), ('type', 'any')):
      ElementTree.SubElement(label, key).text = value
    ElementTree.SubElement(label, 'attributes')
  for number, (name, shapes) in enumerate(frames.items()):
    height, width = SIZES[name]
    frame = ElementTree.SubElement(root, 'image', id=str(number), name=f'{name}.png', width=str(width),
                                   height=str(height))
    for kind, values in shapes:
      ElementTree.SubElement(frame, kind, values)
  ElementTree.indent(root)
  ElementTree.ElementTree(root).write(path, encoding='utf-8', xml_declaration=True)


def read_by_datumaro(shapes, name):
  """The annotations that datumaro reads, of shapes without turned boxes and ellipses."""
  height, width = SIZES[name]
  with tempfile.TemporaryDirectory() as folder:
    write_xml(f'{folder}/default.xml', {name: shapes})
    (pathlib.Path(folder) / 'images').mkdir()
    Image.new('RGB', (width, height)).save(f'{folder}/images/{name}.png')
    item, = datumaro.Dataset.import_from(folder, 'cvat')
    for annotation, (kind, values) in zip(item.annotations, shapes, strict=True):
      if kind == 'polygon':
        in_float64(annotation, [float(value) for value in values['points'].replace(';', ',').split(',')])
      elif kind == 'box':
        in_float64(annotation, [float(values[key]) for key in ('xtl', 'ytl', 'xbr', 'ybr')])
    return item.annotations


def main():
  rng = np.random.default_rng(3)
  FOLDER.mkdir(exist_ok=True)
  frames = {name: [random_shape(rng, kind, height, width, order) for order, kind in zip(
      rng.permutation(20) - 4, ('polygon', 'box', 'turned', 'ellipse', 'mask') * 4)] for name, (height, width) in
            SIZES.items()}
  write_xml(FOLDER / 'annotations.xml', frames)
  for name, shapes in frames.items():
    height, width = SIZES[name]
    other = [(kind, values) for kind, values in shapes if kind == 'ellipse' or 'rotation' in values]
    items = read_by_datumaro([shape for shape in shapes if shape not in other], name)
    items += [converted(kind, values, list(LABELS).index(values['label']), height, width) for kind, values in other]
    dataset = datumaro.Dataset.from_iterable(
        [datumaro.DatasetItem(name, media=datumaro.Image.from_numpy(np.zeros((height, width, 3), np.uint8)),
                              annotations=items)], categories=list(LABELS))
    for transform in ('polygons_to_masks', 'boxes_to_masks', 'merge_instance_segments'):
      dataset.transform(transform)
    masks = next(iter(dataset)).annotations
    mask = CompiledMask.from_instance_masks(masks, instance_labels=[mask.label + 1 for mask in masks])
    Image.fromarray(mask.class_mask.astype(np.uint8)).save(FOLDER / f'{name}_label.png')


if __name__ == '__main__':
  main()
