"""Records of the TFRecord shards: writing, reading and verifying them, and finding the shards of a split.

The image of a record is a JPEG or a PNG; of a dataset with bands, its raw values: little-endian, row by row, the bands
of a pixel side by side, compressed by zlib.
"""

import contextlib
import functools
import glob
import math
import os
import re
import zlib

import numpy as np
from google.protobuf.message import DecodeError

from datasets.reading import Reading
from utils.compat import tf
from utils.errors import UserError, listed, shown
from utils.files import read_json, tensorflow_path
from utils.labels import IGNORE_LABEL
from utils.session import cpu_config
from utils.workers import threaded_map

_MOST_SHARDS = 10_000  # of a split; the converter makes 512 at most
_MOST_BYTES = 2**31  # of a record, a protocol buffer
_MOST_THREADS = 16  # that look at shards at a time
VERSION = 1  # format of the records; converted data of another version is stale
_FEATURES = {
    'image/encoded': tf.io.FixedLenFeature([], tf.string),
    'image/format': tf.io.FixedLenFeature([], tf.string),
    'image/name': tf.io.FixedLenFeature([], tf.string),
    'image/height': tf.io.FixedLenFeature([], tf.int64),
    'image/width': tf.io.FixedLenFeature([], tf.int64),
    'label/encoded': tf.io.FixedLenFeature([], tf.string),
}


def shard_name(split, index, num_shards):
  """File name of a shard: 'train-00003-of-00008.tfrecord'."""
  return f'{split}-{index:05d}-of-{num_shards:05d}.tfrecord'


def stats_path(data_dir, split):
  """Path of the JSON beside a split's shards. It is written last: where it exists, the shards are whole."""
  return os.path.join(data_dir, f'{split}.json')


def serialize(pair):
  """Makes the record of a `datasets.encoding.Pair`: a serialized tf.train.Example."""

  def feature(value):
    if isinstance(value, int):
      return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))

  values = {
      'image/encoded': pair.picture.encoded,
      'image/format': pair.picture.format.encode(),
      'image/name': os.fsencode(pair.name),
      'image/height': pair.picture.height,
      'image/width': pair.picture.width,
      'label/encoded': pair.label,
  }
  features = tf.train.Features(feature={key: feature(value) for key, value in values.items()})
  return tf.train.Example(features=features).SerializeToString(deterministic=True)  # else in any order


def is_shard(path):
  """Whether a file begins with a record of `serialize`."""
  try:
    first = next(iter(tf.io.tf_record_iterator(tensorflow_path(path))), b'')
    return set(tf.train.Example.FromString(first).features.feature) == set(_FEATURES)
  except (tf.errors.OpError, DecodeError):
    return False


def parse(serialized, reading=Reading()):  # noqa: B008, the record is frozen
  """Decodes a record in the graph.

  Args:
    serialized: string scalar, a serialized tf.train.Example.
    reading: the Reading of the split, see read_reading.

  Returns:
    a dict: 'image' uint8 [H, W, 3] RGB (with bands: [H, W, N] of the reading's dtype), 'label' int32 [H, W] of ids with
    IGNORE_LABEL for void, 'name' string scalar.
  """
  features = tf.io.parse_single_example(serialized, _FEATURES)
  if reading.is_plain:
    image = decoded(features['image/encoded'])
  else:
    # TensorFlow's own op inflates whatever is there, which may be a thousand times the record.
    image = tf.numpy_function(functools.partial(_bands, reading=reading), [
        features['image/encoded'], features['image/height'], features['image/width']], tf.as_dtype(reading.dtype))
    image.set_shape([None, None, len(reading.bands)])
  label = tf.io.decode_png(features['label/encoded'], channels=1)[..., 0]
  return {'image': image, 'label': tf.cast(label, tf.int32), 'name': features['image/name']}


def decoded(encoded, ratio=1):
  """Decodes a JPEG or PNG, a string scalar, in the graph: uint8 [H, W, 3] RGB; a JPEG smaller by a ratio, 1 to 8."""
  # decode_jpeg reads PNGs too. With INTEGER_ACCURATE the pixels of a JPEG equal Pillow's, which inference has; without
  # it some differ by 17.
  return tf.io.decode_jpeg(encoded, channels=3, ratio=ratio, dct_method='INTEGER_ACCURATE')


def parse_name(serialized):
  """The name in a serialized record, in the graph: a string scalar. Its pictures are not read."""
  return tf.io.parse_single_example(serialized, {'image/name': _FEATURES['image/name']})['image/name']


def read_stats(data_dir, split):
  """Reads the converter's statistics of a split.

  Returns:
    the dict in `<split>.json`: 'num_examples', 'class_names', 'class_pixels' and so on.

  Raises:
    UserError: if the file is missing or broken.
  """
  path = stats_path(data_dir, split)
  if not os.path.exists(path):
    found = glob.glob(stats_path(glob.escape(data_dir), '*'))
    finished = sorted(os.path.basename(name).removesuffix('.json') for name in found)
    raise UserError(f'no split {split!r} in {data_dir}: {path} is missing; '
                    f'{"it has " + ", ".join(finished) if finished else "python -m datasets.convert makes it"}')
  stats = read_json(path)
  if not _is_stats(stats):
    raise UserError(f'{path} was not written by datasets.convert')
  return stats


def _is_stats(value):
  """Whether a JSON's value has what every `<split>.json` has, of the right types."""

  def counts(numbers):
    return isinstance(numbers, list) and all(type(number) is int and 0 <= number < 2**63 for number in numbers)

  if not isinstance(value, dict):
    return False
  names = value.get('class_names')
  return (counts([value.get('num_examples'), value.get('num_shards')]) and value['num_shards'] <= _MOST_SHARDS
          and isinstance(names, list) and all(isinstance(name, str) for name in names)
          and counts(value.get('class_pixels')) and len(value['class_pixels']) == len(names) <= IGNORE_LABEL
          and all(counts(value.get(key, [])) for key in ('class_image_pixels', 'shard_bytes'))
          and all(isinstance(value.get(key) or {}, dict) for key in ('reading', 'sanity'))
          and isinstance((value.get('sanity') or {}).get('digests', {}), dict))


def read_reading(data_dir, split):
  """Returns the Reading of a split's images, which the converter noted; raises UserError as `read_stats`."""
  return Reading.from_json(read_stats(data_dir, split).get('reading'))


def check_reading(data_dir, split, reading, *, where, ranges=False):
  """Checks that a split's images are of the same kind as others.

  Args:
    data_dir: folder with the shards.
    split: name of the split.
    reading: Reading of the others.
    where: what has these, for the message: 'runs/x was trained on'.
    ranges: whether value ranges must be the same, too; of photographs, where there are some of more than 8 bits.

  Raises:
    UserError: naming both kinds.
  """
  found = read_reading(data_dir, split)
  if (found.names, found.dtype) != (reading.names, reading.dtype):
    raise UserError(f'{split} in {data_dir} has images of {_kind(found)}, and {where} {_kind(reading)}')
  both_given = bool(found.value_range and reading.value_range)
  if ranges and (both_given or not found.is_plain) and found.value_range != reading.value_range:
    raise UserError(f'{split} in {data_dir} has the value ranges {_ranges(found.value_range)}, and {where} '
                    f'{_ranges(reading.value_range)}; value_range in dataset.json settles it')


def _ranges(value_range):
  return listed((f'{low:g} to {high:g}' for low, high in value_range), 8) or 'of their type'


def _kind(reading):
  """Bands and type of images, in words."""
  return f'{len(reading.names)} band{"s" * (len(reading.names) != 1)} of {reading.dtype} ({listed(reading.names, 8)})'


def check_classes(data_dir, split, classes, *, trained):
  """Checks that a split has the classes that a network was trained on.

  Args:
    data_dir: folder with the shards.
    split: name of the split.
    classes: the network's class names, index = label id.
    trained: name of the network in messages: its run's folder.

  Returns:
    the number of examples in the split.

  Raises:
    UserError: naming the first class that differs; or as `read_stats`.
  """
  stats = read_stats(data_dir, split)
  if len(stats['class_names']) != len(classes):
    raise UserError(f'{data_dir} has {len(stats["class_names"])} classes and {trained} was trained on {len(classes)}')
  for index, (found, wanted) in enumerate(zip(stats['class_names'], classes)):
    if found != wanted:
      raise UserError(f'class {index} is {found!r} in {data_dir} and {wanted!r} in {trained}')
  return stats['num_examples']


def check_dataset(data_dir, found, name):
  """Raises UserError if a data folder holds another dataset, `found`, than the dataset `name`."""
  if found != name:
    raise UserError(f'--data_dir={data_dir} holds the dataset {found}, not {name}; every dataset needs a folder of its '
                    'own')


def list_shards(data_dir, split):
  """Lists the file names of all shards of a split, of any conversion, sorted."""
  pattern = re.compile(rf'{re.escape(split)}-\d+-of-\d+\.tfrecord')
  return sorted(name for name in os.listdir(data_dir) if pattern.fullmatch(name))


def shard_paths(data_dir, split):
  """Finds the shards of a split.

  Returns:
    a sorted list of paths.

  Raises:
    UserError: if shards are missing, cut short or of another conversion, or the split is empty.
  """
  stats = read_stats(data_dir, split)
  if stats['num_examples'] < 1:
    raise UserError(f'split {split!r} in {data_dir} is empty (0 images)')
  names = [shard_name(split, index, stats['num_shards']) for index in range(stats['num_shards'])]
  missing = sorted(set(names).difference(list_shards(data_dir, split)))
  if missing:
    raise UserError(f'{data_dir}: {len(missing)} of {len(names)} shards of split {split!r} are missing, the first is '
                    f'{missing[0]}; python -m datasets.convert makes them again')
  paths = [os.path.join(data_dir, name) for name in names]
  for path, size in zip(paths, stats.get('shard_bytes', []), strict=False):
    if os.path.getsize(path) != size:
      verify([path])  # names the record; a shard cut between two records passes
      raise UserError(f'{path} has {os.path.getsize(path)} bytes where {split}.json says {size}; '
                      'python -m datasets.convert makes it again')
  for _ in threaded_map(_check_lengths, paths, _MOST_THREADS):  # it waits for the disk at every record
    pass
  return paths


def _check_lengths(path):
  """Raises UserError if a record claims a length that none has: TensorFlow would ask for the memory, and end."""
  try:
    status = os.stat(path)
    number, length = _first_without_end(path, status.st_size, status.st_mtime_ns)
  except OSError:  # who reads it says so
    return
  if length:
    raise UserError(f'{path}: record {number} is corrupt (it claims {length} bytes)')


@functools.lru_cache(maxsize=2**16)
def _first_without_end(path, size, time):
  """The number of the first record that claims more than _MOST_BYTES, and its length; (0, 0) without one."""
  del time  # a changed file is read again
  number = place = 0
  with open(path, 'rb', buffering=0) as file:
    while place + 8 <= size:
      length = int.from_bytes(os.pread(file.fileno(), 8, place), 'little')
      if length > _MOST_BYTES:
        return number, length
      number, place = number + 1, place + length + 16  # with the length itself and two checksums
  return 0, 0


def encoded_examples(paths):
  """Reads records without decoding their pictures.

  Args:
    paths: list of shards.

  Yields:
    (name, encoded image, format of the image: 'jpeg', 'png' or 'raw', encoded label), the pictures as bytes.

  Raises:
    UserError: naming the file and the record's number in it, from 0, if a record is broken.
  """
  for path in paths:
    for number, record in enumerate(_records(path)):
      try:
        feature = tf.train.Example.FromString(record).features.feature
        name, image, image_format, label = (feature[key].bytes_list.value[0] for key in (
            'image/name', 'image/encoded', 'image/format', 'label/encoded'))
        if image_format not in (b'jpeg', b'png', b'raw'):
          raise DecodeError
      except (DecodeError, IndexError) as error:
        verify([path])  # names a feature that is missing
        raise UserError(f'{path}: record {number} is no record of this format') from error
      yield os.fsdecode(name), image, image_format.decode(), label


def sizes(data_dir, split):
  """Yields (height, width) of a split's images without decoding them; None of a record that says nothing.

  Raises:
    UserError: as `shard_paths`, and where a record cannot be read.
  """
  for path in shard_paths(data_dir, split):
    for record in _records(path):
      try:
        feature = tf.train.Example.FromString(record).features.feature
        yield tuple(feature[f'image/{name}'].int64_list.value[0] for name in ('height', 'width'))
      except (DecodeError, IndexError):
        yield None


def _bands(encoded, height, width, *, reading):
  """As `raw_image`, for TensorFlow, to which a ValueError is an argument that is not valid."""
  try:
    return raw_image(encoded, (int(height), int(width)), reading)
  except UserError as error:
    raise ValueError(str(error)) from error


def raw_image(encoded, size, reading):
  """Decodes a record's raw image outside of a graph.

  Args:
    encoded: bytes of the format 'raw'.
    size: (height, width) of the image, and of its label.
    reading: the Reading of the split.

  Returns:
    [H, W, N] of the reading's dtype.

  Raises:
    UserError: if the record holds more, or less, or is too large.
  """
  kind = np.dtype(reading.dtype).newbyteorder('<')
  wanted = math.prod(size) * len(reading.bands) * kind.itemsize
  stream, data = zlib.decompressobj(), b''
  if wanted < _MOST_BYTES:
    with contextlib.suppress(zlib.error):
      data = stream.decompress(encoded, wanted + 1)
  if len(data) != wanted or not stream.eof:
    raise UserError(f'a record is corrupt: its image is not one of {size[1]}x{size[0]} pixels in {len(reading.bands)} '
                    'bands')
  return np.frombuffer(data, kind).reshape(*size, len(reading.bands)).astype(reading.dtype, copy=False)


def verify(paths, num_classes=None):
  """Reads and decodes every record and refuses the first bad one.

  Args:
    paths: list of shards.
    num_classes: number of classes that label ids are checked against; None checks no ids.

  Returns:
    the number of records.

  Raises:
    UserError: naming the file, the record's number in it, from 0, and the problem.
  """
  total = 0
  with tf.Graph().as_default(), tf.Session(config=cpu_config()) as session:
    serialized = tf.placeholder(tf.string, [])
    features, parsed = tf.io.parse_single_example(serialized, _FEATURES), parse(serialized, _reading_beside(paths))
    stages = {'a feature': features, 'an image': parsed['image'], 'a label': parsed['label']}
    for path in paths:
      number = -1
      for number, record in enumerate(_records(path)):
        values = {}
        for stage, fetched in stages.items():
          try:
            values[stage] = session.run(fetched, {serialized: record})
          except tf.errors.OpError as error:
            raise UserError(f'{path}: record {number} {_problem(stage, error)}') from error
        _check(*values.values(), where=f'{path}: record {number}', num_classes=num_classes)
      if number < 0:
        raise UserError(f'{path} is empty: it holds no record')
      total += number + 1
  return total


def _reading_beside(paths):
  """The Reading of shards by the JSON beside them; that of photographs where there is none."""
  for path in paths[:1]:
    data_dir, split = os.path.dirname(path), re.sub(r'-\d+-of-\d+\.tfrecord$', '', os.path.basename(path))
    if os.path.exists(stats_path(data_dir, split)):
      return read_reading(data_dir, split)
  return Reading()


def _records(path):
  """Yields a shard's serialized records. Raises UserError with the number of the record where reading fails."""
  _check_lengths(path)
  number = 0
  try:
    for record in tf.io.tf_record_iterator(tensorflow_path(path)):
      yield record
      number += 1
  except tf.errors.DataLossError as error:
    reason = 'is truncated' if 'truncated' in error.message else 'is corrupt'
    raise UserError(f'{path}: record {number} {reason} ({error.message.splitlines()[0]})') from error
  except tf.errors.OpError as error:
    raise UserError(f'{path}: record {number} cannot be read: {error.message.splitlines()[0]}') from error


def _problem(stage, error):
  """Phrase for an error in a stage of `verify`."""
  missing = re.search(r'Feature: (\S+) .*is required but could not be found', error.message)
  if missing:
    return f'has no feature {missing.group(1)}'
  return 'is no record of this format' if stage == 'a feature' else f'has {stage} that cannot be decoded'


def _check(features, image, label, *, where, num_classes):
  """Raises UserError if a decoded record contradicts itself."""
  where = f'{where} ({shown(os.fsdecode(features["image/name"]))})'
  size = (features['image/height'], features['image/width'])
  if image.shape[:2] != size or label.shape != size:
    raise UserError(f'{where} says {size[1]}x{size[0]} pixels, but its image is {image.shape[1]}x{image.shape[0]} '
                    f'and its label {label.shape[1]}x{label.shape[0]}')
  if num_classes is not None:
    bad = label[(label >= num_classes) & (label != IGNORE_LABEL)]
    if bad.size:
      raise UserError(f'{where} has label id {bad[0]}; valid are 0 to {num_classes - 1} and {IGNORE_LABEL}')
