"""TFRecords -> batches, by tf.data in graph mode.

Every random choice is a function of (seed, epoch) or (seed, position in the stream of examples), so that a run resumed
at a step sees the examples, crops and colors that it would have seen without the break.
"""

import contextlib
import os

from datasets import hold_out, records
from datasets.augmentation import augment
from datasets.inputs import Input
from utils.compat import tf
from utils.errors import UserError
from utils.files import tensorflow_path
from utils.session import cpu_config

SHUFFLE_BUFFER = 1000  # encoded records held at a time: about 100 MB of photographs
STYLE_SEED = 500_009  # added to the seed of the stream of the images whose styles others take


def training_batches(data_dir, split, *, batch_size, augmentation, seed, start_step=0, bands=(),
                     places=None, held=hold_out.NOTHING):
  """Endless batches of augmented examples, each epoch in an order of its own.

  Args:
    data_dir: folder with the shards.
    split: name of the split.
    batch_size: examples in a batch.
    augmentation: an Augmentation.
    seed: int that fixes orders, crops, flips and colors.
    start_step: number of batches of this stream to skip, for resuming; cheap at any size.
    bands: places of the bands that are chosen, see inputs.Input; () for all.
    places: ascending places in each batch, from 0, of the examples that are wanted, where other processes train on the
      others; None for all.
    held: the HoldOut: the images that are held out of the split.

  Returns:
    tf.data.Dataset of dicts: `image` float32 [B, h, w, N] in 0..255, RGB or the bands, `label` int32 [B, h, w] of ids
    and IGNORE_LABEL, `name` string [B]; B = batch_size, or the number of places; h, w = crop_size.

  Raises:
    UserError: if there are no shards, or no examples in them; or for an Augmentation that is not valid.
  """
  augmentation.check()
  seen = Input(records.read_reading(data_dir, held.parts(split)[0]), bands)
  stream = _stream(data_dir, split, first=start_step * batch_size, seed=seed, held=held)
  if augmentation.mixes_styles:
    styles = _stream(data_dir, split, first=start_step * batch_size, seed=seed + STYLE_SEED, held=held)
    stream = tf.data.Dataset.zip((stream, styles)).map(lambda own, other: (*own, other[1]))
  wanted = range(batch_size) if places is None else places
  if len(wanted) < batch_size:
    stream = stream.filter(lambda position, *_: tf.reduce_any(tf.equal(position % batch_size, wanted)))

  def example(position, serialized, style=None):
    style = None if style is None else _example(style, seen)['image']
    return augment(_example(serialized, seen), augmentation, [seed, position], is_photograph=seen.is_photograph,
                   style=style)

  # Map and batch side by side are fused by tf.data, with pinned memory where there is a GPU: it copies that fastest.
  stream = stream.map(example, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
  return stream.batch(len(wanted), drop_remainder=True).prefetch(4)


def _stream(data_dir, split, *, first, seed, held):
  """Endless tf.data.Dataset of (position in the stream, serialized record), from the position `first` on."""
  paths = [tensorflow_path(path) for path in hold_out.shard_paths(data_dir, split, held)]
  first_epoch, within_epoch = divmod(first, hold_out.read_stats(data_dir, split, held)['num_examples'])

  def epoch(number):
    # Dataset.shuffle rejects a tensor seed while the graph-level seed is 0; epoch() runs in a graph of its own.
    tf.set_random_seed(1)
    order = tf.random.experimental.stateless_shuffle(tf.constant(paths), seed=[seed, number])
    examples = tf.data.Dataset.from_tensor_slices(order).interleave(
        tf.data.TFRecordDataset, cycle_length=min(len(paths), 16), num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True)
    examples = hold_out.select(examples, data_dir, split, held)
    return examples.shuffle(SHUFFLE_BUFFER, seed=seed + 1_000_003 * number, reshuffle_each_iteration=False)

  return tf.data.Dataset.range(first_epoch, tf.int64.max).flat_map(epoch).skip(within_epoch).enumerate(start=first)


def batch_names(data_dir, split, *, batch_size, seed, step, held=hold_out.NOTHING):
  """Names of the records in a batch of `training_batches`, read anew, outside of any graph: for messages.

  Args:
    data_dir: folder with the shards.
    split: name of the split.
    batch_size: examples in a batch.
    seed: that of the batches.
    step: number of the batch in the stream, from 0.
    held: that of the batches.

  Returns:
    list of str.
  """
  with _reading_session() as session:
    stream = _stream(data_dir, split, first=step * batch_size, seed=seed, held=held).take(batch_size)
    names = stream.map(lambda position, serialized: records.parse(serialized)['name']).batch(batch_size)
    return [os.fsdecode(name) for name in session.run(tf.data.make_one_shot_iterator(names).get_next())]


def ahead(batches, device=None):
  """Iterates over training batches such that the next one lies ready on the device that trains.

  A GPU copies the next images and labels while it computes. Names stay behind: GPUs hold no text; see `batch_names`.

  Args:
    batches: tf.data.Dataset from `training_batches`.
    device: name of the GPU that trains, as '/gpu:0'; None for the CPU, which needs no copies.

  Returns:
    `(batch, initializer)`: dict of the tensors `image` and `label` of the next batch, and the op that begins.
  """
  batches = batches.map(lambda batch: {'image': batch['image'], 'label': batch['label']})
  if device:
    batches = batches.apply(tf.data.experimental.prefetch_to_device(device, buffer_size=1))
  with tf.device(device):
    iterator = tf.data.make_initializable_iterator(batches)
    return iterator.get_next(), iterator.initializer


def _stored(data_dir, split, held):
  """tf.data.Dataset of a split's serialized records, in order."""
  paths = [tensorflow_path(path) for path in hold_out.shard_paths(data_dir, split, held)]
  return hold_out.select(tf.data.TFRecordDataset(paths), data_dir, split, held)


def _example(serialized, seen):
  """A record as a dict; its image as the network sees it (an Input), float32 [H, W, N] in 0..255."""
  parsed = records.parse(serialized, seen.reading)
  return {**parsed, 'image': seen.levels(parsed['image'])}


def evaluation_batches(data_dir, split, bands=(), held=hold_out.NOTHING):
  """The whole split once, in order, at native size, in batches of one example.

  Args:
    data_dir: folder with the shards.
    split: name of the split, or hold_out.HELD_OUT.
    bands: see training_batches.
    held: the HoldOut.

  Returns:
    tf.data.Dataset of dicts as those of `training_batches`, with batch size 1 and sizes that vary.

  Raises:
    UserError: if there are no shards, or no examples in them.
  """
  seen = Input(records.read_reading(data_dir, held.parts(split)[0]), bands)
  return _stored(data_dir, split, held).map(lambda serialized: _example(serialized, seen)).batch(1).prefetch(2)


@contextlib.contextmanager
def _reading_session():
  """A session on the CPU, with a graph and threads of its own, beside any other."""
  with tf.Graph().as_default(), tf.device('/cpu:0'), tf.Session(
      config=cpu_config(use_per_session_threads=True)) as session:
    yield session


def examples(data_dir, split, held=hold_out.NOTHING):
  """Reads a split outside of any graph, image by image, at native size.

  Args:
    data_dir: folder with the shards.
    split: name of the split, or hold_out.HELD_OUT.
    held: the HoldOut.

  Yields:
    (name, image, label int32 [H, W] of ids with IGNORE_LABEL for void); the image is uint8 [H, W, 3], or of a dataset
    with bands [H, W, N] as stored.

  Raises:
    UserError: naming the file and the record if a record is broken.
  """
  with _reading_session() as session:
    reading = records.read_reading(data_dir, held.parts(split)[0])
    stored = _stored(data_dir, split, held).map(lambda serialized: records.parse(serialized, reading)).prefetch(2)
    example = tf.data.make_one_shot_iterator(stored).get_next()
    fetches = [example['name'], example['image'], example['label']]
    while True:
      try:
        name, image, label = session.run(fetches)
      except tf.errors.OutOfRangeError:
        return
      except (tf.errors.DataLossError, tf.errors.InvalidArgumentError) as error:
        records.verify(hold_out.shard_paths(data_dir, split, held))  # names the record
        raise UserError(f'{data_dir}: {error.message.splitlines()[0]}') from error
      yield os.fsdecode(name), image, label
