"""datasets.records: finding shards, reading records, and naming a broken record."""

import io
import json
import os

import numpy as np
import pytest
from PIL import Image

from datasets import records
from datasets.encoding import Pair
from datasets.images import Picture, encode_png
from utils.compat import tf
from utils.errors import UserError

pytestmark = pytest.mark.fast

COUNTS = np.zeros(256, np.int64)


def _jpeg(pixels):
  buffer = io.BytesIO()
  Image.fromarray(pixels).save(buffer, 'JPEG', quality=80)
  return buffer.getvalue()


def _example(number=0, **changes):
  """A serialized record of 9x14 pixels, with features changed, or taken away by None."""
  rng = np.random.default_rng(number)
  picture = Picture(encode_png(rng.integers(0, 256, (9, 14, 3), np.uint8)), 'png', 9, 14)
  pair = Pair(f'image{number}', picture, encode_png(rng.integers(0, 3, (9, 14)).astype(np.uint8)), COUNTS)
  example = tf.train.Example.FromString(records.serialize(pair))
  for name, value in changes.items():
    feature = example.features.feature[name.replace('_', '/')]
    feature.Clear()
    if isinstance(value, bytes):
      feature.bytes_list.value.append(value)
    elif value is not None:
      feature.int64_list.value.append(value)
    else:
      del example.features.feature[name.replace('_', '/')]
  return example.SerializeToString()


def _write(path, examples):
  with tf.io.TFRecordWriter(str(path)) as writer:
    for example in examples:
      writer.write(example)
  return str(path)


def _parse(serialized):
  with tf.Graph().as_default(), tf.Session() as session:
    return session.run(records.parse(tf.constant(serialized)))


def test_a_record_comes_back_as_it_went_in():
  image = np.random.default_rng(1).integers(0, 256, (7, 12, 3), np.uint8)
  label = np.arange(84, dtype=np.uint8).reshape(7, 12)
  label[3, 5] = 255
  pair = Pair('straße', Picture(encode_png(image), 'png', 7, 12), encode_png(label), COUNTS)
  parsed = _parse(records.serialize(pair))
  assert set(parsed) == {'image', 'label', 'name'}
  np.testing.assert_array_equal(parsed['image'], image)
  np.testing.assert_array_equal(parsed['label'], label)
  assert parsed['image'].dtype == np.uint8 and parsed['label'].dtype == np.int32
  assert parsed['name'].decode() == 'straße'


def test_a_jpeg_has_pillows_pixels_and_gray_becomes_three_channels():
  y, x = np.mgrid[:31, :46]
  waves = 128 + 100 * np.sin(np.stack([x / 5 + y / 7, x / 4 - y / 3, x / 9], axis=-1))
  for pixels in (waves.astype(np.uint8), waves[..., 0].astype(np.uint8)):
    data = _jpeg(pixels)
    parsed = _parse(_example(image_encoded=data))
    np.testing.assert_array_equal(parsed['image'], np.asarray(Image.open(io.BytesIO(data)).convert('RGB')))


def test_static_shapes_are_those_that_batching_needs(graph):
  parsed = records.parse(tf.placeholder(tf.string, []))
  assert parsed['image'].shape.as_list() == [None, None, 3]
  assert parsed['label'].shape.as_list() == [None, None]


def test_sizes_are_read_without_decoding(tmp_path):
  (tmp_path / 'val.json').write_text(json.dumps(
      {'num_examples': 4, 'num_shards': 2, 'class_names': ['a'], 'class_pixels': [1]}))
  _write(tmp_path / records.shard_name('val', 0, 2), [_example(image_encoded=b'none'), _example(1, image_width=21)])
  _write(tmp_path / records.shard_name('val', 1, 2), [b'no record', _example(3, image_height=None)])
  assert list(records.sizes(str(tmp_path), 'val')) == [(9, 14), (9, 21), None, None]


def test_whole_shards_are_counted(tmp_path):
  paths = [_write(tmp_path / 'a', map(_example, range(3))), _write(tmp_path / 'b', map(_example, range(2)))]
  assert records.verify(paths) == records.verify(paths, num_classes=3) == 5


@pytest.mark.parametrize('offset, problem', [
    (2, 'record 2 is corrupt'),  # in the length
    (9, 'record 2 is corrupt'),  # in the length's checksum
    (60, 'record 2 is corrupt'),  # in the data
])
def test_a_flipped_byte_is_named(offset, problem, tmp_path):
  whole = _write(tmp_path / 'whole', map(_example, range(4)))
  start = os.path.getsize(_write(tmp_path / 'before', map(_example, range(2))))
  path = _write(tmp_path / 'flipped', map(_example, range(4)))
  with open(path, 'r+b') as file:
    file.seek(start + offset)
    byte = file.read(1)[0]
    file.seek(start + offset)
    file.write(bytes([byte ^ 1]))
  with pytest.raises(UserError, match=f'{path}: {problem}'):
    records.verify([whole, path])


@pytest.mark.parametrize('missing', [1, 5, 200])
def test_a_truncated_tail_is_named(missing, tmp_path):
  path = _write(tmp_path / 'shard', map(_example, range(3)))
  os.truncate(path, os.path.getsize(path) - missing)
  with pytest.raises(UserError, match=f'{path}: record 2 is truncated'):
    records.verify([path])


def test_an_empty_file_is_named(tmp_path):
  good, empty = _write(tmp_path / 'good', [_example()]), _write(tmp_path / 'empty', [])
  with pytest.raises(UserError, match=f'{empty} is empty: it holds no record'):
    records.verify([good, empty])


def test_a_missing_file_is_named(tmp_path):
  with pytest.raises(UserError, match=f'{tmp_path}/none: record 0 cannot be read'):
    records.verify([f'{tmp_path}/none'])


@pytest.mark.parametrize('feature', ['image/encoded', 'image/format', 'image/name', 'image/height', 'image/width',
                                     'label/encoded'])
def test_a_missing_feature_is_named(feature, tmp_path):
  path = _write(tmp_path / 'shard', [_example(), _example(1, **{feature.replace('/', '_'): None})])
  with pytest.raises(UserError, match=f'{path}: record 1 has no feature {feature}$'):
    records.verify([path])


@pytest.mark.parametrize('changes, problem', [
    ({'image_encoded': b'no image'}, r'record 1 has an image that cannot be decoded'),
    ({'image_encoded': _jpeg(np.zeros((9, 14, 3), np.uint8))[:-30]}, r'record 1 has an image that cannot be decoded'),
    ({'label_encoded': b'no label'}, r'record 1 has a label that cannot be decoded'),
    ({'label_encoded': encode_png(np.zeros((14, 9), np.uint8))},
     r'record 1 \(image1\) says 14x9 pixels, but its image is 14x9 and its label 9x14'),
    ({'image_height': 8}, r'record 1 \(image1\) says 14x8 pixels, but its image is 14x9 and its label 14x9'),
    ({'label_encoded': encode_png(np.full((9, 14), 7, np.uint8))},
     r'record 1 \(image1\) has label id 7; valid are 0 to 2 and 255'),
    ({'image_height': b'9'}, r'record 1 is no record of this format'),
])
def test_a_mistake_inside_a_record_is_named(changes, problem, tmp_path):
  path = _write(tmp_path / 'shard', [_example(), _example(1, **changes)])
  with pytest.raises(UserError, match=f'{path}: {problem}'):
    records.verify([path], num_classes=3)


def test_a_record_that_is_no_example_is_named(tmp_path):
  path = _write(tmp_path / 'shard', [b'some text'])
  for read in (records.verify, lambda paths: list(records.encoded_examples(paths))):
    with pytest.raises(UserError, match=f'{path}: record 0 is no record of this format'):
      read([path])


# --- reading without decoding ---

def test_encoded_examples_are_the_bytes_that_were_written(tmp_path):
  image = np.random.default_rng(1).integers(0, 256, (7, 12, 3), np.uint8)
  picture, label = Picture(_jpeg(image), 'jpeg', 7, 12), encode_png(image[..., 0])
  first, second = (_write(tmp_path / name, examples) for name, examples in (
      ('a', [records.serialize(Pair('straße', picture, label, COUNTS))]), ('b', [_example(4)])))
  whole, other = records.encoded_examples([first, second])
  assert whole == ('straße', picture.encoded, 'jpeg', label)
  assert other[0] == 'image4' and other[2] == 'png'


def test_encoded_examples_name_a_broken_record(tmp_path):
  path = _write(tmp_path / 'shard', [_example(), _example(1, label_encoded=None)])
  examples = records.encoded_examples([path])
  assert next(examples)[0] == 'image0'
  with pytest.raises(UserError, match=f'{path}: record 1 has no feature label/encoded$'):
    next(examples)
  path = _write(tmp_path / 'shard', map(_example, range(3)))
  os.truncate(path, os.path.getsize(path) - 5)
  with pytest.raises(UserError, match=f'{path}: record 2 is truncated'):
    list(records.encoded_examples([path]))


# --- finding shards ---

def _split(folder, num_shards=3, **stats):
  """Writes the JSON of a split, and empty shards where there are none."""
  for index in range(num_shards):
    (folder / records.shard_name('train', index, num_shards)).touch()
  stats = {'num_examples': 7, 'num_shards': num_shards, 'class_names': ['a'], 'class_pixels': [1], **stats}
  (folder / 'train.json').write_text(json.dumps(stats))


def test_shards_are_found_in_order(tmp_path):
  _split(tmp_path, 12)
  (tmp_path / 'train-00000-of-00002.tfrecord').write_bytes(b'of another conversion')
  (tmp_path / 'trainval-00000-of-00012.tfrecord').write_bytes(b'of another split')
  paths = records.shard_paths(str(tmp_path), 'train')
  assert [os.path.basename(path) for path in paths] == [f'train-{n:05d}-of-00012.tfrecord' for n in range(12)]
  assert records.read_stats(str(tmp_path), 'train')['num_examples'] == 7


def test_a_missing_shard_is_named(tmp_path):
  _split(tmp_path)
  os.unlink(tmp_path / 'train-00001-of-00003.tfrecord')
  with pytest.raises(UserError, match='1 of 3 shards of split .train. are missing, the first is train-00001-of-00003'):
    records.shard_paths(str(tmp_path), 'train')


def test_a_shard_of_another_length_is_named_even_if_its_records_are_whole(tmp_path):
  path = _write(tmp_path / 'train-00000-of-00001.tfrecord', map(_example, range(3)))
  size = os.path.getsize(path)
  _split(tmp_path, num_shards=1, shard_bytes=[size])
  assert records.shard_paths(str(tmp_path), 'train') == [path]
  _write(path, map(_example, range(2)))
  with pytest.raises(UserError, match=f'{path} has {os.path.getsize(path)} bytes where train.json says {size}'):
    records.shard_paths(str(tmp_path), 'train')
  os.truncate(path, os.path.getsize(path) - 3)
  with pytest.raises(UserError, match='record 1 is truncated'):
    records.shard_paths(str(tmp_path), 'train')


def test_an_empty_split_is_an_error(tmp_path):
  _split(tmp_path, num_examples=0)
  with pytest.raises(UserError, match="split 'train' in .* is empty"):
    records.shard_paths(str(tmp_path), 'train')


def test_an_unknown_split_is_told_the_known_ones(tmp_path):
  with pytest.raises(UserError, match='train.json is missing; python -m datasets.convert makes it'):
    records.shard_paths(str(tmp_path), 'train')
  _split(tmp_path)
  with pytest.raises(UserError, match="no split 'val' in .*; it has train"):
    records.shard_paths(str(tmp_path), 'val')


@pytest.mark.parametrize('text, problem', [('{', 'is not valid JSON'), ('{"a": 1}', 'was not written by'),
                                           ('[]', 'was not written by')])
def test_a_broken_json_is_named(text, problem, tmp_path):
  (tmp_path / 'train.json').write_text(text)
  with pytest.raises(UserError, match=f'train.json {problem}'):
    records.shard_paths(str(tmp_path), 'train')


@pytest.mark.parametrize('changed', [
    {'num_shards': 10**12}, {'num_shards': '8'}, {'num_shards': -1}, {'num_shards': 1.0}, {'num_examples': None},
    {'num_examples': True}, {'num_examples': 10**400}, {'class_names': 'ab'}, {'class_names': ['a', 1]},
    {'class_pixels': [1]}, {'class_pixels': [1, -2]}, {'class_pixels': {}}, {'class_names': ['a'] * 300,
                                                                            'class_pixels': [1] * 300},
    {'shard_bytes': 5}, {'shard_bytes': [None]}, {'class_image_pixels': ['a']}, {'reading': 'text'}, {'sanity': 5},
    {'sanity': {'digests': 'text'}}])
def test_a_json_of_other_types_is_refused(changed, tmp_path):
  """A number of shards without end must not be tried."""
  stats = {'num_examples': 1, 'num_shards': 1, 'class_names': ['a', 'b'], 'class_pixels': [1, 2]}
  (tmp_path / 'train.json').write_text(json.dumps(stats))
  assert records.read_stats(str(tmp_path), 'train') == stats
  (tmp_path / 'train.json').write_text(json.dumps({**stats, **changed}))
  with pytest.raises(UserError, match='train.json was not written by datasets.convert$'):
    records.read_stats(str(tmp_path), 'train')
