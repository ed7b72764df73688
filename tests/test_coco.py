"""COCO: labels drawn from polygons and run lengths, on real files and by hand, and mistakes in the JSON."""

import json
import os
import pickle
import sys

import numpy as np
import originals
import pytest
from PIL import Image, ImageDraw
from pycocotools import mask as coco_mask
from scipy import ndimage

from datasets import get_dataset, images, label_pictures
from datasets.convert import BadFiles, convert
from datasets.readers import coco, masks
from utils.errors import UserError

pytestmark = pytest.mark.fast

HEIGHT, WIDTH = 5, 7


def annotation(segmentation, category=17, **others):
  return {'id': 3, 'image_id': 8, 'category_id': category, 'iscrowd': 0, 'segmentation': segmentation, **others}


def lay_out(folder, annotations, size=(HEIGHT, WIDTH), file='a.png', text=None):
  """One image of train, in the folder of the official layout."""
  originals.write(folder / 'train2017/a.png', np.full((HEIGHT, WIDTH, 3), 5, np.uint8))
  originals.write(folder / 'annotations/instances_train2017.json',
                  text or originals.coco_json([(8, file, *size)], annotations))


def sources_of(folder):
  return get_dataset('coco').sources(str(folder), 'train')


def raw_of(folder, annotations, **options):
  lay_out(folder, annotations, **options)
  source, = sources_of(folder)
  return coco.read_label(source.label)


def to_records(folder, data_dir, split='train'):
  convert(get_dataset('coco'), split, source_dir=str(folder), data_dir=str(data_dir), num_workers=1, progress=False)
  return originals.read_back(data_dir, split)


def rectangle(left, top, right, bottom):
  return [left, top, right, top, right, bottom, left, bottom]


def test_smaller_instances_lie_over_larger_ones_and_crowds_below(tmp_path):
  """Polygons run along the edges of pixels: 1 to 6 covers the columns 1 to 5."""
  crowd = {'size': [HEIGHT, WIDTH], 'counts': [0, 2 * HEIGHT, 5 * HEIGHT]}  # down the columns: the first two
  annotations = [
      annotation([rectangle(2, 1, 4, 2)], category=90),
      annotation([rectangle(1, 0, 6, 4)], category=17),
      annotation(crowd, category=1, iscrowd=1),
      annotation([rectangle(4, 2, 5, 3), rectangle(6, 4, 7, 5)], category=2),  # one instance in two pieces
      annotation([], category=3), annotation([[1, 1, 2, 2]], category=3)]  # without area
  expected = [[255, 17, 17, 17, 17, 17, 0],
              [255, 17, 90, 90, 17, 17, 0],
              [255, 17, 17, 17, 2, 17, 0],
              [255, 17, 17, 17, 17, 17, 0],
              [255, 255, 0, 0, 0, 0, 2]]
  assert raw_of(tmp_path, annotations).tolist() == expected
  assert raw_of(tmp_path, annotations[::-1]).tolist() == expected
  (name, (image, label)), = to_records(tmp_path, tmp_path / 'data').items()
  assert name == 'a' and (image == 5).all()
  ids = {17: 16, 90: 80, 2: 2, 255: 255, 0: 0}  # cat is the 16th, toothbrush the last of 80
  assert label.tolist() == [[ids[raw] for raw in row] for row in expected]


def test_run_lengths_of_both_forms(tmp_path):
  pixels = np.array([[0, 1, 0, 0, 1, 1, 0]] * 2 + [[1, 1, 0, 0, 0, 1, 0]] * 3, np.uint8)
  columns = pixels.T.ravel()
  changes = np.flatnonzero(np.diff(columns, prepend=0)).tolist()
  counts = np.diff([0, *changes, columns.size]).tolist()
  compressed = coco_mask.encode(np.asfortranarray(pixels))
  for written in (counts, compressed['counts'].decode()):
    raw = raw_of(tmp_path, [annotation({'size': [HEIGHT, WIDTH], 'counts': written})])
    np.testing.assert_array_equal(raw, 17 * pixels)


def test_compressed_run_lengths_are_read_as_pycocotools_does():
  """Any size of runs, differences of either sign."""
  rng = np.random.default_rng(0)
  for height, width, share in ((1, 1, 1), (3, 5, 0.5), (300, 200, 0.5), (300, 200, 0.001), (640, 640, 0.00001)):
    pixels = np.asfortranarray(rng.random((height, width)) < share, np.uint8)
    counts = masks.decompress(coco_mask.encode(pixels)['counts'].decode())
    covered = np.repeat(np.arange(len(counts)) % 2, counts).reshape(height, width, order='F')
    np.testing.assert_array_equal(covered, pixels)


def test_an_image_without_instances_is_background(tmp_path):
  assert not raw_of(tmp_path, []).any()
  (_, label), = to_records(tmp_path, tmp_path / 'data').values()
  assert label.shape == (HEIGHT, WIDTH) and not label.any()


# --- mistakes in the JSON ---

@pytest.mark.parametrize('wrong, problem', [
    (annotation([rectangle(1, 1, 3, 3)], category=12), 'annotation 3 has the category 12; valid are those of COCO'),
    (annotation([rectangle(1, 1, 3, 3)], category='cat'), "annotation 3 has the category 'cat'"),
    (annotation([[1, 1, 3, 3, 2]]), 'annotation 3 has a polygon that is not a list of x and y'),
    (annotation([[[1, 1], [3, 3], [2, 0]]]), 'polygon that is not a list of x and y'),
    (annotation([['a'] * 6]), 'polygon that is not a list of x and y'),
    (annotation([1, 2, 3, 4, 5, 6]), 'polygon that is not a list of x and y'),
    (annotation([[1, 1, 3, 1, 15, 3]]), r'polygon with the point \[15.0, 3.0\], far beyond the image of 7x5 pixels'),
    (annotation([[1, 1, 3, 1, 3, -6]]), r'polygon with the point \[3.0, -6.0\], far beyond'),
    (annotation([[1, 1, 3, 1, float('nan'), 3]]), r'polygon with the point \[nan, 3.0\]'),
    (annotation([[1, 1, 3, 1, float('inf'), 3]]), r'polygon with the point \[inf, 3.0\]'),
    (annotation([[0, 0, 7, 5, 7, 0] * 100000]), 'outline is longer than 1048576 pixels'),
    (annotation({'size': [7, 5], 'counts': [35]}), r'run lengths of the size \[7, 5\]; the image is \[5, 7\]'),
    (annotation({'size': [10**9, 10**9], 'counts': [35]}), r'run lengths of the size \[1000000000, 1000000000\]'),
    (annotation({'size': [5, 7], 'counts': [3, 31]}), 'run lengths that do not make up its 35 pixels'),
    (annotation({'size': [5, 7], 'counts': [3, 33]}), 'run lengths that do not make up its 35 pixels'),
    (annotation({'size': [5, 7], 'counts': [36, -1]}), 'run lengths that do not make up its 35 pixels'),
    (annotation({'size': [5, 7], 'counts': [2**62] * 4 + [35]}), 'run lengths that do not make up its 35 pixels'),
    (annotation({'size': [5, 7], 'counts': [10**30]}), 'run lengths that do not make up its 35 pixels'),
    (annotation({'size': [5, 7], 'counts': []}), 'run lengths that do not make up its 35 pixels'),
    (annotation({'size': [5, 7]}), 'run lengths that do not make up its 35 pixels'),
    *((annotation({'size': [5, 7], 'counts': text}), 'run lengths that do not make up its 35 pixels')
      for text in ('', '~~~~~~~~~~~~~', 'é', 'R', 'RRRRRRRRRR1', 'R1 ', '0O', '111O')),
    (annotation(None), 'run lengths of the size None'),
    (annotation('11'), 'run lengths of the size 11'),
])
def test_a_bad_annotation_is_a_bad_file_of_its_image(wrong, problem, tmp_path):
  with pytest.raises(images.BadFile, match=f'instances_train2017.json, image 8: .*{problem}'):
    raw_of(tmp_path, [annotation([rectangle(0, 0, 2, 2)]), wrong])


def test_bad_annotations_are_listed_with_the_other_bad_files(tmp_path):
  lay_out(tmp_path, [annotation([[1, 1, 3, 1, 15, 3]])])
  with pytest.raises(BadFiles, match=r'1 of 1 pairs.*\n  .*instances_train2017.json, image 8: annotation 3 has a poly'):
    to_records(tmp_path, tmp_path / 'data')


@pytest.mark.parametrize('size, problem', [
    ((7, 5), 'instances_train2017.json, image 8: is 5x7 pixels, but its image is 7x5'),
])
def test_a_json_of_other_sizes_is_named(size, problem, tmp_path):
  lay_out(tmp_path, [], size=size)
  with pytest.raises(BadFiles, match=problem):
    to_records(tmp_path, tmp_path / 'data')


@pytest.mark.parametrize('size', [(0, 7), (5, -1), (10**5, 10**5)])
def test_an_image_of_absurd_size_is_refused_before_it_is_drawn(size, tmp_path):
  with pytest.raises(UserError, match=f'json: image 0 is said to be {size[1]}x{size[0]} pixels'):
    raw_of(tmp_path, [], size=size)


@pytest.mark.parametrize('file', ['../a.png', '/etc/passwd', 'b/../../a.png'])
def test_no_path_leaves_the_folder(file, tmp_path):
  with pytest.raises(UserError, match=f'json: image 0: the path {file} leaves'):
    raw_of(tmp_path, [], file=file)


def changed(**changes):
  """A valid JSON with some of its entries exchanged."""
  return json.dumps(json.loads(originals.coco_json([(8, 'a.png', 5, 7)], [])) | changes)


IMAGE = {'id': 8, 'file_name': 'a.png', 'height': 5, 'width': 7}
PERSON = {'id': 1, 'name': 'person'}


@pytest.mark.parametrize('text, problem', [
    ('{"images": [', 'is not valid JSON'),
    ('[' * 100000, 'is not valid JSON'),
    ('[]', "it has no list 'images'"),
    (changed(annotations=None), "it has no list 'annotations'"),
    (changed(categories={}), "it has no list 'categories'"),
    (changed(categories=[PERSON]), "category 2 is None, where COCO has 'bicycle'"),
    (changed(categories=[{'id': 1, 'name': 'face'}]), "category 1 is 'face', where COCO has 'person'"),
    (changed(categories=[*({'id': n, 'name': name} for n, name in coco.CATEGORIES.items()), {'id': 92, 'name': 'sky'}]),
     "category 92 is 'sky', where COCO has None"),
    (changed(categories=[PERSON, 7]), "category 1 has no 'name' of the type str"),
    (changed(images=[{**IMAGE, 'file_name': 7}]), "image 0 has no 'file_name' of the type str"),
    (changed(images=[{**IMAGE, 'height': True}]), "image 0 has no 'height' of the type int"),
    (changed(images=[{**IMAGE, 'width': 7.5}]), "image 0 has no 'width' of the type int"),
    (changed(images=[IMAGE, {**IMAGE, 'file_name': 'b.png'}]), 'the name 8 comes twice'),
    (changed(images=[IMAGE, {**IMAGE, 'id': 9}]), 'the name a comes twice'),
    (changed(annotations=[annotation([], image_id=9)]), 'image_id 9 of an annotation is the id of no image'),
    (changed(annotations=[annotation([], image_id=[])]), "annotation 0 has no 'image_id' of the type int"),
])
def test_a_json_of_another_kind_is_refused(text, problem, tmp_path):
  lay_out(tmp_path, [], text=text)
  with pytest.raises(UserError, match=f'instances_train2017.json.*{problem}'):
    sources_of(tmp_path)


def test_a_missing_folder_of_images_is_named(tmp_path):
  """So that an interrupted download is continued."""
  lay_out(tmp_path, [])
  os.rename(tmp_path / 'train2017', tmp_path / 'elsewhere')
  with pytest.raises(UserError, match=f'does not hold coco: there is no folder {tmp_path}/train2017'):
    sources_of(tmp_path)


def test_without_pycocotools_one_line_says_how_to_install_it(tmp_path, monkeypatch):
  lay_out(tmp_path, [])
  monkeypatch.setitem(sys.modules, 'pycocotools', None)
  with pytest.raises(UserError, match='coco needs the package pycocotools .*: pip install -r requirements-anno'):
    sources_of(tmp_path)


# --- real files ---

def test_categories_are_those_of_the_release(shared):
  for split in ('train', 'val'):
    with open(shared / f'data/coco/annotations/instances_{split}2017.json', encoding='utf-8') as file:
      assert {entry['id']: entry['name'] for entry in json.load(file)['categories']} == coco.CATEGORIES


def test_coco_as_it_is(shared, tmp_path):
  """Converted and read back; a source survives pickling, by which other processes get it."""
  folder = shared / 'data/coco'
  found = to_records(folder, tmp_path, 'val')
  sources = get_dataset('coco').sources(str(folder), 'val')
  assert sorted(found) == sorted(source.name for source in sources) and len(found) == 12
  for source in sources:
    image, label = found[source.name]
    np.testing.assert_array_equal(image, images.read_rgb(source.image))
    raw = coco.read_label(pickle.loads(pickle.dumps(source.label)))
    np.testing.assert_array_equal(label, label_pictures.to_ids(raw, get_dataset('coco').label_map, source.name))
    categories = {annotation['category_id'] for annotation in source.label.annotations if not annotation['iscrowd']}
    assert set(np.unique(raw)) - {0, 255} <= categories
  assert sum((label == 255).sum() for _, label in found.values()) > 10000  # crowds
  assert len(get_dataset('coco').sources(str(folder), 'train')) == 24


def drawn_without_pycocotools(content, image):
  """Draws a label by Pillow's polygons and by counting off run lengths, the larger instances first.

  Returns:
    the label, and the number of the instance on each pixel.
  """
  size, parts = (image['height'], image['width']), []
  for entry in content['annotations']:
    if entry['image_id'] == image['id']:
      segmentation = entry['segmentation']
      if entry['iscrowd']:
        counts = segmentation['counts']
        covered = np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(size, order='F')
        parts.append((np.inf, 255, covered))
      else:
        canvas = Image.new('1', size[::-1])
        for polygon in segmentation:
          ImageDraw.Draw(canvas).polygon(polygon, fill=1)
        parts.append((entry['area'], entry['category_id'], np.asarray(canvas)))
  label, instance = np.zeros(size, np.uint8), np.zeros(size, np.int64)
  for number, (_, raw, covered) in enumerate(sorted(parts, key=lambda part: -part[0]), 1):
    label[covered], instance[covered] = raw, number
  return label, instance


@pytest.mark.parametrize('split, name', [('train', '000000391895'), ('train', '000000574769'), ('val', '000000397133')])
def test_real_labels_against_another_way_of_drawing(split, name, shared):
  """The two disagree along outlines alone, where they round differently: hardly a pixel three inside an instance."""
  folder = shared / 'data/coco'
  with open(folder / f'annotations/instances_{split}2017.json', encoding='utf-8') as file:
    content = json.load(file)
  image, = (entry for entry in content['images'] if entry['file_name'] == f'{name}.jpg')
  source, = (source for source in get_dataset('coco').sources(str(folder), split) if source.name == name)
  ours, (theirs, instance) = coco.read_label(source.label), drawn_without_pycocotools(content, image)
  assert len(np.unique(ours)) >= 3 and (ours == theirs).mean() > 0.97
  window = {'size': 7, 'mode': 'constant', 'cval': -1}  # polygons end short of the image's border, too
  inside = ndimage.maximum_filter(instance, **window) == ndimage.minimum_filter(instance, **window)
  assert inside.mean() > 0.5
  assert (ours != theirs)[inside].sum() <= 1  # in the second image an outline runs into its instance and back
