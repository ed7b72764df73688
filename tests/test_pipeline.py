"""The input pipeline: every epoch each example once, image and label together, resumable at any step."""

import dataclasses
import functools
import pathlib

import numpy as np
import pytest
from programs import assert_refused

from datasets import pipeline, records
from datasets.convert import convert
from datasets.dataset import Dataset, Source, label_map
from datasets.pipeline import Augmentation
from datasets.readers.camvid import CAMVID
from utils import settings
from utils.compat import tf
from utils.errors import UserError
from utils.labels import IGNORE_LABEL

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


VARIED = Augmentation(crop_size=(9, 17), scale_range=(.6, 1.7), flip=True, color_jitter=.3, cutout=.1)


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


@pytest.mark.parametrize('start', [0, 3])
def test_shares_of_several_processes_make_up_the_batches(data_dir, start):
  varied = {'augmentation': plain((5, 7), scale_range=(0.8, 1.3), flip=True, color_jitter=0.2), 'batch_size': 6}
  whole = batches(data_dir, 4, start_step=start, **varied)
  for places in ([0, 3], [1, 2, 4], [5]):
    for share, batch in zip(batches(data_dir, 4, start_step=start, places=places, **varied), whole):
      for name, values in share.items():
        np.testing.assert_array_equal(values, batch[name][places])


def test_batches_are_those_of_earlier_versions(varied_stream):
  """A resumed run may have begun with an older version. Golden batches of commit 245ff64."""
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


def apply(image, label, augmentation, seeds=((1, 2),)):
  """Augments with each of the seeds: a list of (image, label)."""
  example = {'image': tf.constant(image), 'label': tf.constant(label, tf.int32), 'name': tf.constant('x')}
  seed = tf.placeholder(tf.int64, [2])
  augmented = pipeline.augment(example, augmentation, seed)
  with tf.Session() as session:
    found = [session.run(augmented, {seed: values}) for values in seeds]
  for value in found:
    assert value['image'].shape == (*augmentation.crop_size, 3) and value['image'].dtype == np.float32
    assert value['label'].shape == augmentation.crop_size and value['label'].dtype == np.int32
  return [(value['image'], value['label']) for value in found]


@pytest.mark.parametrize('crop_size', [(5, 7), (13, 22), (20, 30), (6, 30), (20, 9)])
@pytest.mark.parametrize('scale_range', [(1.0, 1.0), (0.5, 0.5), (2.0, 2.0), (0.3, 3.0)])
def test_image_and_label_stay_together(crop_size, scale_range, graph):
  """The image carries its row in red; wherever the label says a row's band, the red says the same."""
  rows = np.repeat(np.arange(26) // 13, 44).reshape(26, 44)
  image = np.stack([rows * 200, rows * 0, rows * 0], axis=-1).astype(np.uint8)
  augmentation = Augmentation(crop_size=crop_size, scale_range=scale_range, flip=True)
  for value, label in apply(image, rows, augmentation, [(seed, 9) for seed in range(4)]):
    void = label == IGNORE_LABEL
    assert np.all(value[void] == pipeline.PAD_VALUE)
    red = value[..., 0]
    between = (red > 60) & (red < 140) & ~void  # the edge, blurred by at most a row or two
    agree = (red > 100) == (label == 1)
    assert np.all(agree[~void & ~between])
    assert np.unique(np.nonzero(between)[0]).size <= 2 * max(1, int(np.ceil(scale_range[1])))


def test_a_small_image_lies_whole_inside_void(graph):
  (value, label), = apply(np.full([2, 3, 3], 50, np.uint8), np.ones([2, 3]), plain((7, 5)))
  assert (label == 1).sum() == 6 and (label == IGNORE_LABEL).sum() == 29
  assert np.all(value[label == 1] == 50)


def test_flip_mirrors_both(graph):
  image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
  label = np.arange(8).reshape(2, 4)
  seen = set()
  for value, flipped in apply(image, label, plain((2, 4), flip=True), [(seed, 0) for seed in range(12)]):
    mirrored = np.array_equal(flipped, label[:, ::-1])
    assert mirrored or np.array_equal(flipped, label)
    np.testing.assert_array_equal(value, image[:, ::-1] if mirrored else image)
    seen.add(mirrored)
  assert seen == {True, False}


def test_color_jitter_changes_colors_within_range_and_no_labels(graph):
  image = np.random.default_rng(0).integers(0, 256, [6, 5, 3]).astype(np.uint8)
  label = np.arange(30).reshape(6, 5)
  (value, same), = apply(image, label, plain((6, 5), color_jitter=0.4))
  assert np.array_equal(same, label)
  assert value.min() >= 0 and value.max() <= 255 and np.abs(value - image).max() > 2


@pytest.mark.parametrize('crop_size, share', [((37, 53), 0.25), ((37, 53), 0.9), ((5, 41), 0.1)])
def test_cutout_covers_one_rectangle_of_its_share_inside_the_crop(crop_size, share, graph):
  """All other pixels, and the other random choices, are as without a cutout."""
  image = np.random.default_rng(0).integers(0, 256, [70, 90, 3]).astype(np.uint8)  # no crop reaches beyond it
  label = 1000 + np.arange(70 * 90).reshape(70, 90)
  others = {'crop_size': crop_size, 'scale_range': (.8, 1.7), 'flip': True, 'color_jitter': .4}
  seeds = [(seed, 5) for seed in range(6)]
  with_cuts, without = (apply(image, label, Augmentation(**others, cutout=area), seeds) for area in (share, 0.0))
  places, shapes = set(), set()
  for cut, whole in zip(with_cuts, without, strict=True):
    cut, whole = (dict(zip(('image', 'label'), pair)) for pair in (cut, whole))
    changed = np.argwhere(cut['label'] != whole['label'])
    (top, left), (bottom, right) = changed.min(axis=0), changed.max(axis=0) + 1
    assert abs(len(changed) - share * cut['label'].size) <= 0.5 * sum(crop_size) + 0.25  # sides are whole pixels
    for key, fill in (('label', IGNORE_LABEL), ('image', pipeline.PAD_VALUE)):
      expected = whole[key].copy()
      expected[top:bottom, left:right] = fill
      np.testing.assert_array_equal(cut[key], expected)
    places.add((top, left))
    shapes.add((bottom - top, right - left))
  assert len(places) > 2 and len(shapes) > 2


def test_evaluation_is_the_whole_split_in_order_at_native_size(data_dir, graph):
  batch = tf.data.make_one_shot_iterator(pipeline.evaluation_batches(data_dir, 'val')).get_next()
  seen = []
  with tf.Session() as session, pytest.raises(tf.errors.OutOfRangeError):
    while True:
      value = session.run(batch)
      assert value['image'].shape == (1, *SIZE, 3) and value['label'].shape == (1, *SIZE)
      seen.append(value['name'][0].decode())
  assert sorted(seen) == ['val0', 'val1', 'val2']


def varied(image, seed, **options):
  """`augment` of a float image [H, W, N], with color jitter alone."""
  with tf.Graph().as_default(), tf.Session() as session:
    example = {'image': tf.constant(image, tf.float32), 'label': tf.zeros(image.shape[:2], tf.int32)}
    augmentation = plain(image.shape[:2], color_jitter=0.4)
    return session.run(pipeline.augment(example, augmentation, [seed, 1], **options)['image'])


def test_bands_change_each_for_itself():
  """Each band keeps its order of values; factors differ between bands and seeds, and stay within the strength."""
  image = np.random.default_rng(0).uniform(60, 120, [5, 7, 6]).astype(np.float32)
  factors = []
  for seed in range(4):
    found = varied(image, seed, is_photograph=False)
    np.testing.assert_array_equal(varied(image, seed, is_photograph=False), found)
    slope = (found[0, 0] - found[4, 6]) / (image[0, 0] - image[4, 6])
    np.testing.assert_allclose(found - found[:1, :1], slope * (image - image[:1, :1]), atol=1e-3)
    ratio = found.mean(axis=(0, 1)) / image.mean(axis=(0, 1))
    assert np.all((ratio > 0.6) & (ratio < 1.4)) and np.ptp(ratio) > 0.05
    factors.append(ratio)
  assert np.ptp(factors, axis=0).min() > 0.01
  assert not np.allclose(varied(image[..., :3], 0), varied(image[..., :3], 0, is_photograph=False))


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


@pytest.mark.parametrize('setting, problem', [
    ({'scale_range': (float('nan'), 1.0)}, '--scale_range=nan,1: a finite number is wanted'),
    ({'scale_range': (0.0, 1.0)}, '--scale_range=0,1: both must be above 0'),
    ({'scale_range': (-2.0, -1.0)}, '--scale_range=-2,-1: both must be above 0'),
    ({'scale_range': (1.6, 0.7)}, '--scale_range=1.6,0.7: the least scale is above the greatest'),
    ({'crop_size': (0, 9)}, '--crop_size=0,9: valid are 1 and above'),
    ({'color_jitter': 1.5}, '--color_jitter=1.5: valid are 0 to 1'),
    ({'cutout': float('inf')}, '--cutout=inf: a finite number is wanted'),
])
def test_a_wrong_augmentation_is_refused(data_dir, setting, problem):
  with pytest.raises(UserError, match=f'^{problem}$'):
    batches(data_dir, 1, augmentation=Augmentation(**setting))


def test_an_augmentation_is_flags(run_program):
  found = []
  main = functools.partial(settings.run, found.append, Augmentation)
  assert run_program(main, '--crop_size=64,96', '--noflip', '--scale_range=.5,2').returncode == 0
  assert run_program(main).returncode == 0
  assert found == [Augmentation((64, 96), (0.5, 2.0), flip=False),
                   Augmentation((319, 415), (0.7, 1.6), flip=True, color_jitter=0.0, cutout=0.0)]
  assert_refused(run_program(main, '--crop_size=64'), '--crop_size', 'two numbers are wanted')
  assert_refused(run_program(main, '--scale_range=nan,1'), '--scale_range=nan,1: a finite number is wanted')


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
