"""The input pipeline: every epoch each example once, image and label together, resumable at any step."""

import dataclasses
import pathlib

import numpy as np
import pytest

from datasets import pipeline, records
from datasets.augmentation import Augmentation
from datasets.convert import convert
from datasets.dataset import Dataset, Source, label_map
from datasets.readers.camvid import CAMVID
from utils.compat import tf
from utils.errors import UserError

pytestmark = pytest.mark.fast

GOLDEN = pathlib.Path(__file__).parent / 'golden/batches.npz'
SIZE = (13, 22)
COUNT = 11


def sources(source_dir, split):
  """Images whose red is the row, green the column and blue the example; the label is the row's parity."""
  del source_dir
  rows, columns = np.meshgrid(np.arange(SIZE[0]), np.arange(SIZE[1]), indexing='ij')
  for index in range(COUNT if split == 'train' else 3):
    image = np.stack([rows * 10, columns * 10, np.full(SIZE, index)], axis=-1).astype(np.uint8)
    yield Source(name=f'{split}{index}', image=image, label=(rows % 2).astype(np.uint8))


RAMP = Dataset(name='ramp', classes=('even', 'odd'), palette=np.zeros([2, 3], np.uint8),
               splits={'train': COUNT, 'val': 3}, sources=lambda *arguments: list(sources(*arguments)),
               label_map=label_map({0: 0, 1: 1}))


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
  folder = str(tmp_path_factory.mktemp('ramp'))
  for split in ('train', 'val'):
    convert(RAMP, split, source_dir=folder, data_dir=folder, num_shards=3, num_workers=1, progress=False)
  return folder


def plain(crop_size, **variation):
  """Crops without any variation but the given one."""
  return Augmentation(**{'crop_size': crop_size, 'scale_range': (1.0, 1.0), 'flip': False, **variation})


def batches(data_dir, count, *, start_step=0, seed=7, batch_size=2, augmentation=None, places=None):
  augmentation = augmentation or plain(SIZE)
  with tf.Graph().as_default(), tf.Session() as session:
    stream = pipeline.training_batches(data_dir, 'train', batch_size=batch_size, augmentation=augmentation, seed=seed,
                                       start_step=start_step, places=places)
    batch = tf.data.make_one_shot_iterator(stream).get_next()
    return [session.run(batch) for _ in range(count)]


def names(values):
  return [name.decode() for value in values for name in value['name']]


def test_every_epoch_has_every_example_once_in_another_order(data_dir):
  seen = names(batches(data_dir, 33, batch_size=1))
  epochs = [seen[:11], seen[11:22], seen[22:]]
  assert all(sorted(epoch) == sorted(f'train{i}' for i in range(COUNT)) for epoch in epochs)
  assert epochs[0] != epochs[1] != epochs[2] != epochs[0]


def test_the_seed_decides(data_dir):
  order = names(batches(data_dir, 8))
  assert order == names(batches(data_dir, 8)) != names(batches(data_dir, 8, seed=8))


VARIED = Augmentation(crop_size=(9, 17), scale_range=(.6, 1.7), flip=True, color_jitter=.3)
VARIED_FURTHER = dataclasses.replace(VARIED, class_crops=.5, mix_statistics=.8, mix_amplitude=.6,
                                     white_balance=.2, gamma=2., blur=2., noise=9.)


@pytest.fixture(scope='module')
def varied_stream(data_dir):
  return batches(data_dir, 16, augmentation=VARIED)


@pytest.mark.parametrize('start', [1, 5, 6, 13])
def test_resuming_goes_on_where_the_stream_was(data_dir, varied_stream, start):
  """The same examples, crops, flips, colors and cuts, in the first epoch and later, and within an epoch."""
  resumed = batches(data_dir, 16 - start, start_step=start, augmentation=VARIED)
  for expected, value in zip(varied_stream[start:], resumed, strict=True):
    assert np.array_equal(value['name'], expected['name'])
    np.testing.assert_array_equal(value['image'], expected['image'])
    np.testing.assert_array_equal(value['label'], expected['label'])


@pytest.mark.parametrize('start', [1, 7])
def test_resuming_with_styles_of_other_images(data_dir, start):
  """The images whose styles others take are those that they would have been, too."""
  whole = batches(data_dir, 9, augmentation=VARIED_FURTHER)
  for expected, value in zip(whole[start:], batches(data_dir, 9 - start, start_step=start, augmentation=VARIED_FURTHER),
                             strict=True):
    np.testing.assert_array_equal(value['image'], expected['image'])
    np.testing.assert_array_equal(value['label'], expected['label'])


def test_styles_come_from_other_images_of_the_split(data_dir):
  """Blue is the number of the image: statistics mixed in full give all numbers to all images."""
  seen = batches(data_dir, 40, batch_size=1, augmentation=plain(SIZE, mix_statistics=1.0))
  own = np.array([int(value['name'][0].decode().removeprefix('train')) for value in seen])
  blue = np.array([value['image'][0, 0, 0, 2] for value in seen])
  assert np.abs(blue - own).max() > 4 and blue.min() >= 0 and blue.max() <= COUNT - 1
  assert np.corrcoef(own, blue)[0, 1] > 0.2


@pytest.mark.parametrize('start', [0, 3])
def test_shares_of_several_processes_make_up_the_batches(data_dir, start):
  varied = {'augmentation': VARIED_FURTHER, 'batch_size': 6}
  whole = batches(data_dir, 4, start_step=start, **varied)
  for places in ([0, 3], [1, 2, 4], [5]):
    for share, batch in zip(batches(data_dir, 4, start_step=start, places=places, **varied), whole):
      for name, values in share.items():
        np.testing.assert_array_equal(values, batch[name][places])


def test_batches_are_those_of_earlier_versions(varied_stream):
  """A resumed run may have begun with an older version. Golden batches of commit 245ff64, without cutout."""
  golden = np.load(GOLDEN)
  assert ' '.join(names(varied_stream)) == str(golden['names'])
  for number, value in enumerate(varied_stream[:3]):
    np.testing.assert_array_equal(value['label'], golden['labels'][number])
    np.testing.assert_allclose(value['image'], golden['images'][number], rtol=0, atol=1e-4)  # rounding of other CPUs


@pytest.mark.parametrize('device', [None, '/cpu:1'])
def test_batches_lie_ready_on_the_device(data_dir, varied_stream, device):
  """Another CPU stands for a GPU. Values are the same to the bit, also of a run that is resumed."""
  with tf.Graph().as_default(), tf.Session(config=tf.ConfigProto(device_count={'CPU': 2})) as session:
    batch, begin = pipeline.ahead(pipeline.training_batches(
        data_dir, 'train', batch_size=2, augmentation=VARIED, seed=7, start_step=5), device)
    assert {key: value.shape.as_list() for key, value in batch.items()} == {'image': [2, 9, 17, 3], 'label': [2, 9, 17]}
    session.run(begin)
    traced = tf.RunMetadata()
    for number, expected in enumerate(varied_stream[5:9]):
      value = session.run(batch, options=tf.RunOptions(trace_level=tf.RunOptions.SOFTWARE_TRACE),
                          run_metadata=traced)
      np.testing.assert_array_equal(value['image'], expected['image'], err_msg=str(number))
      np.testing.assert_array_equal(value['label'], expected['label'], err_msg=str(number))
  where = {stats.device.rpartition('/device:')[2] for stats in traced.step_stats.dev_stats
           for node in stats.node_stats if 'IteratorGetNext' in node.node_name}
  assert ('CPU:1' in where) == bool(device)


@pytest.mark.parametrize('step', [0, 4, 5, 11])
def test_names_of_a_batch_are_found_anew(data_dir, varied_stream, step):
  """Within an epoch, across its end, and later."""
  found = pipeline.batch_names(data_dir, 'train', batch_size=2, seed=7, step=step)
  assert found == [name.decode() for name in varied_stream[step]['name']]


def test_without_augmentation_pixels_are_the_originals(data_dir):
  for value in batches(data_dir, 3):
    for name, image, label in zip(value['name'], value['image'], value['label']):
      source = list(sources('', 'train'))[int(name.decode().removeprefix('train'))]
      np.testing.assert_array_equal(image, source.image)
      np.testing.assert_array_equal(label, source.label)


def test_evaluation_is_the_whole_split_in_order_at_native_size(data_dir, graph):
  batch = tf.data.make_one_shot_iterator(pipeline.evaluation_batches(data_dir, 'val')).get_next()
  seen = []
  with tf.Session() as session, pytest.raises(tf.errors.OutOfRangeError):
    while True:
      value = session.run(batch)
      assert value['image'].shape == (1, *SIZE, 3) and value['label'].shape == (1, *SIZE)
      seen.append(value['name'][0].decode())
  assert sorted(seen) == ['val0', 'val1', 'val2']


@pytest.mark.parametrize('bands', [(2, 1, 0), (1,), (0, 2)])
def test_bands_of_photographs_are_chosen(data_dir, bands):
  whole = batches(data_dir, 2)
  with tf.Graph().as_default(), tf.Session() as session:
    stream = pipeline.training_batches(data_dir, 'train', batch_size=2, augmentation=plain(SIZE), seed=7, bands=bands)
    batch = tf.data.make_one_shot_iterator(stream).get_next()
    for expected in whole:
      np.testing.assert_array_equal(session.run(batch)['image'], expected['image'][..., list(bands)])


def test_a_missing_split_is_named(data_dir):
  with pytest.raises(UserError, match='test'):
    pipeline.training_batches(data_dir, 'test', batch_size=1, augmentation=plain((4, 4)), seed=0)


def test_real_photographs(shared, tmp_path):
  """CamVid: crops of a real image show up in the image itself, labels with them."""
  few = dataclasses.replace(CAMVID, sources=lambda *arguments: CAMVID.sources(*arguments)[::30])
  convert(few, 'val', source_dir=str(shared / 'data/camvid'), data_dir=str(tmp_path), num_workers=1, progress=False)
  originals = {}
  with tf.Graph().as_default(), tf.Session() as session:
    example = records.parse(tf.data.make_one_shot_iterator(
        tf.data.TFRecordDataset(records.shard_paths(str(tmp_path), 'val'))).get_next())
    for _ in range(4):
      value = session.run(example)
      originals[value['name']] = value
  with tf.Graph().as_default(), tf.Session() as session:
    stream = pipeline.training_batches(str(tmp_path), 'val', batch_size=3, augmentation=plain((101, 75)), seed=1)
    value = session.run(tf.data.make_one_shot_iterator(stream).get_next())
  for name, image, label in zip(value['name'], value['image'], value['label']):
    original = originals[name]
    windows = np.lib.stride_tricks.sliding_window_view(original['image'][..., 0], (101, 75))
    places = np.argwhere((windows[:, :, ::25, ::25] == image[::25, ::25, 0]).all((2, 3)))
    matches = [(r, c) for r, c in places if np.array_equal(original['image'][r:r + 101, c:c + 75], image)]
    assert len(matches) == 1
    row, column = matches[0]
    np.testing.assert_array_equal(original['label'][row:row + 101, column:column + 75], label)
