"""Kinds of files from outside, for bad_input.py: how a good one is made, what uses it, and what comes of it.

`make(folder)` writes good input below a folder; `use(folder)` does with it as a user does, and writes to the folder's
`out`; `result(out)` is what came of it.
"""

import contextlib
import dataclasses
import functools
import glob
import hashlib
import importlib.util
import io
import json
import os
import shutil
import tarfile
import zipfile
from collections.abc import Callable

import numpy as np
import scipy.io
from PIL import Image

from checkpoints.convert import convert as convert_weights
from checkpoints.slim_vgg import Vgg
from datasets import get_dataset, records
from datasets.convert import convert
from utils import varint
from utils.best import BEST, BEST_SCORE, METRIC
from utils.checkpoint_files import newest_checkpoint
from utils.compat import tf
from utils.download import extract
from utils.errors import UserError
from utils.export.formats import FORMATS
from utils.files import make_folder
from utils.inference.exported import FILES
from utils.session import cpu_config
from utils.studies.conversion import photograph, write_originals
from utils.studies.export_table import random_run

NETWORK = 'segnet_basic'  # few layers, built in a moment
SIZE = (60, 80)  # height and width of pictures
VGG = Vgg('vgg_16', (2, 2, 3, 3, 3), depths=(3, 4, 3, 4, 3), hidden=5, num_classes=6)
_SHAPES = 'shapes'  # the dataset whose classes the network has
_EXPORTS = {  # kind -> (engine that opens the file, name of the file, whether checksums cover it)
    'ONNX': ('onnxruntime', 'model.onnx', True),
    'OpenVINO XML': ('openvino', 'model.xml', True),
    'OpenVINO weights': ('openvino', 'model.bin', True),
    'TFLite': ('litert', 'model.tflite', True),
    'JSON of an export': ('litert', 'model.tflite.json', False),
}


@dataclasses.dataclass(frozen=True)
class Kind:
  """A kind of file.

  Attributes:
    make: function of a folder, which writes good input into it.
    files: pattern of the files that are damaged, one at a time, below the folder.
    use: a Program, or a function of the folder that raises UserError or returns an exit code.
    result: function of the folder's `out`: a dict that JSON can hold, equal where the same came of it; raises
      AssertionError where what came of it contradicts itself.
    guarded: whether checksums cover all that matters: a damaged file that is used must give the same result.
  """
  make: Callable
  files: str
  use: Callable
  result: Callable
  guarded: bool = False


class Program:
  """A program of the project on a folder: a module and the words of its command line, in which {} is the folder."""

  def __init__(self, module, *words):
    self._module, self._words = module, words

  def words(self, folder):
    """The words of the command line."""
    return [word.format(folder) for word in self._words]

  def __call__(self, folder):
    return importlib.import_module(self._module).main(self.words(folder))

  def command(self, folder):
    """The command as a user types it, from the project's folder."""
    script = f'{self._module}.py' if '.' not in self._module else f'-m {self._module}'
    return ' '.join(['python', script, *self.words(folder)])


def digest(*parts):
  """SHA-256 of bytes, and of arrays with their shapes."""
  total = hashlib.sha256()
  for part in parts:
    if isinstance(part, np.ndarray):
      total.update(f'{part.dtype}{part.shape}'.encode())
    total.update(part if isinstance(part, bytes) else np.ascontiguousarray(part).tobytes())
  return total.hexdigest()


def write(folder, name, content):
  """Writes a file of bytes or text, or of a value as JSON."""
  path = os.path.join(folder, name)
  make_folder(os.path.dirname(path))
  if not isinstance(content, (bytes, str)):
    content = json.dumps(content, indent=1)
  with open(path, 'wb') as file:
    file.write(content.encode() if isinstance(content, str) else content)


def encoded(array, form, **options):
  """A picture's bytes by Pillow."""
  file = io.BytesIO()
  Image.fromarray(array).save(file, form, **options)
  return file.getvalue()


def picture(seed=0, size=SIZE):
  """A photograph: uint8 [H, W, 3]."""
  return photograph(np.random.default_rng(seed), *size)


# --- pictures, lists and annotations: datasets.convert ---

def originals(folder, suffix='jpg', in_colors=True, change=None):
  """A dataset's folder with images of a suffix; `change(path)` rewrites the first image."""
  write_originals(os.path.join(folder, 'data'), (*SIZE, 3, suffix, in_colors))
  if change:
    change(os.path.join(folder, 'data/images/00.' + suffix))


def _gray(path):
  Image.open(path).convert('L').save(path, compress_level=9)


def _bands(folder):
  """A dataset of 16-bit TIFFs with five bands."""
  originals(folder, 'png')
  import tifffile
  for number in range(3):
    os.unlink(os.path.join(folder, f'data/images/{number:02}.png'))
    bands = np.uint16(257) * np.concatenate([picture(number), picture(9 + number)[..., :2]], axis=-1)
    tifffile.imwrite(os.path.join(folder, f'data/images/{number:02}.tif'), bands, compression='zlib',
                     photometric='minisblack', planarconfig='contig')


def stored(out, split='train'):
  """What records hold: class names, and digests of pixels. TensorFlow has to read every image as Pillow does."""
  stats = records.read_stats(out, split)
  paths = records.shard_paths(out, split)
  records.verify(paths, num_classes=len(stats['class_names']))
  found = {'classes': stats['class_names'], 'skipped': stats['skipped']}
  with tf.Graph().as_default(), tf.Session(config=cpu_config()) as session:
    data = tf.placeholder(tf.string, [])
    decoded = tf.io.decode_jpeg(data, channels=3, dct_method='INTEGER_ACCURATE')
    for name, image, form, label in records.encoded_examples(paths):
      if form != 'raw':
        pixels = np.asarray(Image.open(io.BytesIO(image)).convert('RGB'))
        assert np.array_equal(session.run(decoded, {data: image}), pixels), f'{name}: TensorFlow reads other pixels'
        image = pixels.tobytes()
      found[name] = [digest(image), digest(np.asarray(Image.open(io.BytesIO(label))))]
  return found


def converted(make, files, split='train', guarded=False):
  """A Kind that is read by datasets.convert."""
  program = Program('datasets.convert', '--dataset={}/data', '--data_dir={}/out', f'--splits={split}',
                    '--num_workers=1', '--num_shards=2')
  return Kind(make, files, program, functools.partial(stored, split=split), guarded)


_POLYGONS = {'road': [(1, 2), (70, 5), (60, 50), (5, 40)], 'sky': [(20, 20), (75, 22), (50, 55)]}


def annotations(content):
  """A function that makes the folder of an annotation tool: a picture, and files by `content()`, dict name -> value."""
  def make(folder):
    write(folder, 'data/a.png', encoded(picture(), 'PNG'))
    for name, value in content().items():
      write(folder, f'data/{name}', value)
  return make


def _coco():
  flat = {name: [sum(points, ())] for name, points in _POLYGONS.items()}
  return {'export.json': {
      'images': [{'id': 1, 'file_name': 'a.png', 'height': SIZE[0], 'width': SIZE[1]}],
      'categories': [{'id': number, 'name': name} for number, name in enumerate(flat, 1)],
      'annotations': [{'id': number, 'image_id': 1, 'category_id': number, 'iscrowd': 0, 'segmentation': points}
                      for number, points in enumerate(flat.values(), 1)]}}


def _labelme():
  return {'a.json': {
      'version': '5.2.1', 'flags': {}, 'imagePath': 'a.png', 'imageData': None, 'imageHeight': SIZE[0],
      'imageWidth': SIZE[1],
      'shapes': [{'label': name, 'points': points, 'shape_type': 'polygon', 'group_id': None, 'flags': {}}
                 for name, points in _POLYGONS.items()]}}


def _via():
  regions = [{'region_attributes': {'class': name}, 'shape_attributes': {
      'name': 'polygon', 'all_points_x': [x for x, _ in points], 'all_points_y': [y for _, y in points]}}
             for name, points in _POLYGONS.items()]
  return {'via.json': {'a.png100': {'filename': 'a.png', 'size': 100, 'regions': regions, 'file_attributes': {}}}}


def _label_studio():
  results = [{'id': name, 'type': 'polygonlabels', 'from_name': 'label', 'to_name': 'image', 'image_rotation': 0,
              'original_width': SIZE[1], 'original_height': SIZE[0],
              'value': {'points': [[100 * x / SIZE[1], 100 * y / SIZE[0]] for x, y in points], 'closed': True,
                        'polygonlabels': [name]}} for name, points in _POLYGONS.items()]
  return {'export.json': [{'id': 1, 'data': {'image': '/data/upload/1/a.png'},
                           'annotations': [{'id': 1, 'was_cancelled': False, 'result': results}]}]}


def _cvat():
  labels = ''.join(f'<label><name>{name}</name><color>#{number}0aa33</color></label>'
                   for number, name in enumerate(_POLYGONS, 1))
  shapes = ''.join(f'<polygon label="{name}" occluded="0" points="{";".join(f"{x},{y}" for x, y in points)}"></polygon>'
                   for name, points in _POLYGONS.items())
  return {'annotations.xml': '<?xml version="1.0" encoding="utf-8"?>\n<annotations><version>1.1</version><meta><task>'
          f'<labels>{labels}</labels></task></meta>\n<image id="0" name="a.png" width="{SIZE[1]}" height="{SIZE[0]}">\n'
          f'{shapes}\n</image></annotations>'}


def _dataset_json(folder):
  originals(folder)
  write(folder, 'data/dataset.json', {'name': 'mine', 'labels': 'colors', 'exif': 'turn',
                                      'splits': {'train': ['00', '01'], 'val': 'rest'}})
  for name in ('train', 'val'):
    os.unlink(os.path.join(folder, f'data/{name}.txt'))


# --- runs, packages and records ---

def trained(folder):
  """A run with random weights, records of the built-in dataset, and a picture."""
  dataset = get_dataset(_SHAPES)
  few = dataclasses.replace(dataset, splits=dict.fromkeys(dataset.splits, 4), sources=lambda source_dir, split: (
      dataset.sources(source_dir, split)[:4]))
  for split in ('train', 'val'):
    convert(few, split, source_dir=None, data_dir=os.path.join(folder, 'data'), num_workers=1, num_shards=2,
            progress=False)
  random_run(os.path.join(folder, 'run'), NETWORK, dataset, os.path.join(folder, 'data'))
  write(folder, 'picture.png', encoded(picture(), 'PNG'))


def _listed(folder):
  trained(folder)
  write(folder, 'photos.txt', 'picture.png\npicture\n')


def _with_best(folder):
  trained(folder)
  run = os.path.join(folder, 'run')
  make_folder(os.path.join(run, BEST))
  for path in glob.glob(f'{glob.escape(run)}/model.ckpt*'):
    shutil.copy(path, os.path.join(run, BEST))
  name = os.path.basename(newest_checkpoint(run))
  write(folder, f'run/{BEST}/{BEST_SCORE}', {'split': 'val', 'metric': METRIC, METRIC: 0.5, 'step': 0,
                                             'checkpoint': name, 'evaluated': 0})


def labels(out):
  """Digests of the labels that inference.py wrote."""
  return {os.path.basename(path): digest(np.asarray(Image.open(path))) for path in
          sorted(glob.glob(os.path.join(glob.escape(out), '*_label.png')))}


def labelled(make, files, ckpt='run', guarded=True, flags=()):
  """A Kind of file of which `inference.py --ckpt` labels a picture."""
  return Kind(make, files, Program('inference', f'--ckpt={{}}/{ckpt}', '--output_dir={}/out', '--outputs=label', *flags,
                                   '{}/picture.png'), labels, guarded)


def _exported(folder, form):
  trained(folder)
  program = Program('utils.export.__main__', '--ckpt={}/run', f'--format={form}', '--data_dir={}/data',
                    '--num_images=1', '--least_equal=0.9')  # of random weights many scores nearly tie
  assert program(folder) == 0


def exports():
  """Dict from name to Kind of the files that --engine opens; of engines whose packages are installed."""
  found = {}
  for name, (engine, file, guarded) in _EXPORTS.items():
    form, _ = FILES[engine]
    if all(map(importlib.util.find_spec, FORMATS[form].packages)):
      found[name] = labelled(functools.partial(_exported, form=form), f'run/export/{file}', guarded=guarded,
                             flags=[f'--engine={engine}'])
  return found


def _packaged(folder):
  trained(folder)
  program = Program('checkpoints.package', '--ckpt={}/run', '--output={}/run.zip', '--data_dir={}/data',
                    '--num_images=1')
  assert program(folder) == 0


def _scored(folder):
  trained(folder)
  assert Program('evaluate', '--ckpt={}/run', '--data_dir={}/data')(folder) == 0


def scores(out):
  """What evaluate.py measured, without what changes from one time to the next."""
  with open(os.path.join(out, 'metrics-val.json'), encoding='utf-8') as file:
    value = json.load(file)
  return {key: value[key] for key in ('mean_iou', 'pixel_accuracy', 'class_iou', 'num_images')}


EVALUATE = Program('evaluate', '--ckpt={}/run', '--data_dir={}/data', '--output_dir={}/out')


# --- weights of other frameworks, and archives ---


def _span(number, content):
  return varint.encoded(number << 3 | 2) + varint.encoded(len(content)) + content


def _caffe(folder):
  """A .caffemodel; the numbers of fields as in checkpoints/caffe.py."""
  rng, layers = np.random.default_rng(0), b''
  for name, (height, width, depth, outputs) in VGG.shapes().items():
    blobs = b''
    for shape in ((outputs, depth, height, width), (outputs,)):
      blobs += _span(7, _span(7, _span(1, b''.join(map(varint.encoded, shape))))
                     + _span(5, rng.normal(size=shape).astype('<f4').tobytes()))
    layers += _span(100, _span(1, name.encode()) + _span(2, b'Convolution') + blobs)
  write(folder, 'weights.caffemodel', layers)


def _mat(folder):
  rng, cells = np.random.default_rng(0), []
  for name, shape in VGG.shapes().items():
    pair = np.empty([1, 2], object)
    pair[0, 0], pair[0, 1] = (rng.normal(size=size).astype(np.float32) for size in (shape, (1, shape[-1])))
    cells.append({'weights': pair, 'name': name, 'type': 'conv'})
  make_folder(folder)
  scipy.io.savemat(os.path.join(folder, 'weights.mat'), {
      'layers': np.array(cells).reshape(1, -1), 'meta': {'normalization': {'averageImage': np.full([4, 4, 3], 120.)}}})


def weights(make, name):
  """A Kind of file that checkpoints.convert reads; of a small VGG, since those that users have take half a gigabyte."""
  def use(folder):
    convert_weights(os.path.join(folder, name), VGG, os.path.join(folder, 'out/vgg.ckpt'))

  def result(out):
    reader = tf.train.load_checkpoint(os.path.join(out, 'vgg.ckpt'))
    return {key: digest(reader.get_tensor(key)) for key in sorted(reader.get_variable_to_shape_map())}

  return Kind(make, name, use, result)


def archived(name):
  """A Kind of archive, which is unpacked."""
  files = {'top/a.png': encoded(picture(), 'PNG'), 'top/list.txt': b'a\n' * 50, 'top/deep/er/b': bytes(range(256)) * 9}

  def make(folder):
    make_folder(folder)
    path = os.path.join(folder, name)
    if name.endswith('.zip'):
      with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
        for file, content in files.items():
          archive.writestr(file, content)
      return
    with tarfile.open(path, 'w:gz' if name.endswith('gz') else 'w') as archive:
      for file, content in files.items():
        entry = tarfile.TarInfo(file)
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))

  def use(folder):
    extract(os.path.join(folder, name), os.path.join(folder, 'out'))

  def result(out):
    found = {}
    for place, _, names in os.walk(out):
      for file in names:
        with open(os.path.join(place, file), 'rb') as opened:
          found[os.path.relpath(os.path.join(place, file), out)] = digest(opened.read())
    return found

  return Kind(make, name, use, result, guarded=not name.endswith('.tar'))


def kinds():
  """Dict from the name of a kind to the Kind."""
  first, data = 'data/images/00.*', functools.partial
  return {
      'JPEG': converted(originals, first),
      'PNG': converted(data(originals, suffix='png'), first, guarded=True),
      'gray PNG': converted(data(originals, suffix='png', change=_gray), first, guarded=True),
      'TIFF': converted(data(originals, suffix='tif'), first),
      'TIFF of five bands': converted(_bands, first),
      'BMP': converted(data(originals, suffix='bmp'), first),
      'GIF': converted(data(originals, suffix='gif'), first),
      'WebP': converted(data(originals, suffix='webp'), first),
      'label of colors': converted(originals, 'data/labels/00.png', guarded=True),
      'label of ids': converted(data(originals, in_colors=False), 'data/labels/00.png', guarded=True),
      'classes.txt': converted(data(originals, in_colors=False), 'data/classes.txt'),
      'list of a split': converted(originals, 'data/train.txt'),
      'dataset.json': converted(_dataset_json, 'data/dataset.json'),
      'COCO JSON': converted(annotations(_coco), 'data/export.json', 'all'),
      'LabelMe JSON': converted(annotations(_labelme), 'data/a.json', 'all'),
      'VIA JSON': converted(annotations(_via), 'data/via.json', 'all'),
      'Label Studio JSON': converted(annotations(_label_studio), 'data/export.json', 'all'),
      'CVAT XML': converted(annotations(_cvat), 'data/annotations.xml', 'all'),
      'zip': archived('files.zip'),
      'tar': archived('files.tar'),
      'tar.gz': archived('files.tar.gz'),
      '.caffemodel': weights(_caffe, 'weights.caffemodel'),
      '.mat': weights(_mat, 'weights.mat'),
      'list of checkpoints': labelled(trained, 'run/checkpoint'),
      'checkpoint index': labelled(trained, 'run/*.index'),
      'checkpoint data': labelled(trained, 'run/*.data*'),
      'config.json': labelled(trained, 'run/config.json', guarded=False),
      'package': labelled(_packaged, 'run.zip', 'run.zip'),
      'picture to label': labelled(trained, 'picture.png'),
      'best.json': labelled(_with_best, f'run/{BEST}/{BEST_SCORE}'),
      'list to label': labelled(_listed, 'photos.txt', guarded=False, flags=['--list={}/photos.txt']),
      'TFRecord': Kind(trained, 'data/val-*.tfrecord', EVALUATE, scores, guarded=True),
      'JSON of records': Kind(trained, 'data/val.json', EVALUATE, scores),
      'metrics JSON': Kind(_scored, 'run/metrics-val.json', Program('checkpoints.card', '--ckpt={}/run',
                                                                    '--output={}/out.md'), lambda out: {}),
      **exports(),
  }


def write_kind(kind, folder):
  """Writes the good input of a Kind, whole or not at all, unless it is there."""
  if os.path.isdir(folder):
    return
  temporary = f'{folder}.tmp'
  shutil.rmtree(temporary, ignore_errors=True)
  make_folder(temporary)
  with contextlib.ExitStack() as stack:
    stack.callback(shutil.rmtree, temporary, ignore_errors=True)
    kind.make(temporary)
    if not damaged_files(kind, temporary):
      raise UserError(f'{folder}: no file {kind.files}')
    os.rename(temporary, folder)


def damaged_files(kind, folder):
  """Sorted list of the files of a Kind that are damaged."""
  return sorted(path for path in glob.glob(os.path.join(glob.escape(folder), kind.files), recursive=True)
                if os.path.isfile(path))
