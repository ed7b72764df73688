"""TFRecords -> batches, by tf.data in graph mode.

Every random choice is a function of (seed, epoch) or (seed, position in the stream of examples), so that a run resumed
at a step sees the examples, crops and colors that it would have seen without the break.
"""

import contextlib
import dataclasses
import os

from datasets import hold_out, records
from datasets.inputs import Input
from utils.compat import tf
from utils.errors import UserError
from utils.files import tensorflow_path
from utils.labels import IGNORE_LABEL
from utils.session import cpu_config
from utils.settings import Settings, flag

SHUFFLE_BUFFER = 1000  # encoded records held at a time: about 100 MB of photographs
PAD_VALUE = 127.5  # value of pixels beyond an image's border: zero after a network's normalization to [-1, 1]


@dataclasses.dataclass(frozen=True)
class Augmentation(Settings):
  """Random variation of an image from one epoch to the next; each field is a flag of train.py.

  Attributes:
    crop_size: (height, width) in pixels of the crops that the network is trained on.
    scale_range: (least, greatest) factor by which image and label are resized, drawn log-uniformly.
    flip: mirror half of the images left to right.
    color_jitter: greatest relative change of brightness, contrast and saturation; 0 for none. Bands that are not red,
      green and blue change in brightness and contrast, each for itself.
    cutout: share of the crop's area that a rectangle of random shape and place covers: gray in the image, void in the
      label. DeVries and Taylor, "Improved Regularization of Convolutional Neural Networks with Cutout",
      arXiv:1708.04552, whose squares may reach beyond the border. 0 for none.
  """
  crop_size: tuple[int, int] = flag(
      (319, 415), 'H,W of the crops trained on; 32k + 31 wastes no pixel', least=1, length=2)
  scale_range: tuple[float, float] = flag((0.7, 1.6), 'least,greatest random scale', length=2)
  flip: bool = flag(True, 'mirror half of the images')
  color_jitter: float = flag(0.0, 'greatest change of brightness, contrast, saturation', least=0, most=1)
  cutout: float = flag(0.0, 'share of the crop that a rectangle covers', least=0, most=1)

  def check(self):
    """Raises UserError for the first value that is not valid."""
    super().check()
    least, greatest = self.scale_range
    if least <= 0:
      raise UserError(f'--scale_range={least:g},{greatest:g}: both must be above 0')
    if least > greatest:
      raise UserError(f'--scale_range={least:g},{greatest:g}: the least scale is above the greatest')


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
  wanted = range(batch_size) if places is None else places
  if len(wanted) < batch_size:
    stream = stream.filter(lambda position, _: tf.reduce_any(tf.equal(position % batch_size, wanted)))

  def example(position, serialized):
    return augment(_example(serialized, seen), augmentation, [seed, position], is_photograph=seen.is_photograph)

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


def augment(example, augmentation, seed, *, is_photograph=True):
  """Scales, crops, flips, recolors and cuts out of one example; the label goes with the image.

  Args:
    example: dict with `image` [H, W, N] in 0..255 and `label` int32 [H, W]; other entries are kept.
    augmentation: an Augmentation.
    seed: two integers, or a tensor of them: equal seeds give equal results.
    is_photograph: whether the image is RGB, so that its saturation may change.

  Returns:
    the dict with `image` float32 [h, w, N] in 0..255 and `label` int32 [h, w]; h, w = crop_size. Pixels from beyond
    the image's border, and pixels cut out, are PAD_VALUE in the image and IGNORE_LABEL in the label.
  """
  seed = tf.cast(tf.stack(seed), tf.int64)
  draws = tf.random.stateless_uniform([8], seed=seed)
  image = tf.cast(example['image'], tf.float32)
  label = example['label'][..., None]
  if augmentation.scale_range != (1.0, 1.0):
    image, label = _rescale(image, label, _between(draws[0], augmentation.scale_range))
  image, label = _crop(image, label, augmentation.crop_size, draws[1:3])
  if augmentation.flip:
    flipped = draws[3] < 0.5
    image = tf.cond(flipped, lambda: tf.reverse(image, [1]), lambda: image)
    label = tf.cond(flipped, lambda: tf.reverse(label, [1]), lambda: label)
  if augmentation.color_jitter:
    if is_photograph:
      image = _recolor(image, augmentation.color_jitter, draws[4:7])
    else:
      image = _vary_bands(image, augmentation.color_jitter, tf.random.experimental.stateless_fold_in(seed, 2))
  if augmentation.cutout:
    further = tf.random.stateless_uniform([3], seed=tf.random.experimental.stateless_fold_in(seed, 1))
    image, label = _cut_out(image, label, augmentation.cutout, further)
  return {**example, 'image': image, 'label': label[..., 0]}


def _between(draw, limits):
  """Maps a uniform draw from [0, 1) to a log-uniform one between two positive limits."""
  low, high = limits
  return low * tf.pow(high / low, draw)


def _rescale(image, label, scale):
  """Resizes image (bilinear) and label (nearest) [H, W, C] by one factor, at least to one pixel."""
  size = tf.cast(tf.shape(image)[:2], tf.float32)
  size = tf.maximum(tf.cast(tf.round(size * scale), tf.int32), 1)
  # The resizing of TensorFlow 2 samples both at pixel centers; TensorFlow 1's shifts them by up to half a pixel.
  image = tf.compat.v2.image.resize(image, size, method='bilinear')
  label = tf.compat.v2.image.resize(label, size, method='nearest')
  return image, label


def _crop(image, label, crop_size, draws):
  """Cuts a window of `crop_size` at a random place; puts a smaller image at a random place inside the window."""
  size = tf.shape(image)[:2]
  crop_size = tf.constant(crop_size, tf.int32)
  slack = size - crop_size
  offset = tf.cast(tf.floor(draws * tf.cast(tf.abs(slack) + 1, tf.float32)), tf.int32)
  begin = tf.where(slack > 0, offset, tf.zeros_like(offset))
  length = tf.minimum(size, crop_size)
  before = tf.where(slack < 0, offset, tf.zeros_like(offset))
  paddings = tf.concat([tf.stack([before, crop_size - length - before], axis=1), [[0, 0]]], axis=0)

  def cut(pixels, fill):
    channels = pixels.shape[2]
    pixels = tf.slice(pixels, tf.concat([begin, [0]], 0), tf.concat([length, [-1]], 0))
    pixels = tf.pad(pixels, paddings, constant_values=fill)
    pixels.set_shape([*tf.get_static_value(crop_size), channels])
    return pixels

  image, label = cut(image, PAD_VALUE), cut(label, IGNORE_LABEL)
  return image, label


def _recolor(image, strength, draws):
  """Changes saturation, contrast and brightness each by a factor in 1 - strength .. 1 + strength."""
  saturation, contrast, brightness = tf.unstack(1.0 + strength * (2.0 * draws - 1.0))
  gray = tf.reduce_sum(image * [0.299, 0.587, 0.114], axis=-1, keepdims=True)  # luma of ITU-R BT.601
  image = gray + saturation * (image - gray)
  mean = tf.reduce_mean(gray)
  image = brightness * (mean + contrast * (image - mean))
  return tf.clip_by_value(image, 0.0, 255.0)


def _vary_bands(image, strength, seed):
  """Changes contrast and brightness of each band by factors of its own in 1 - strength .. 1 + strength."""
  draws = tf.random.stateless_uniform([2, image.shape[2]], seed=seed)
  contrast, brightness = tf.unstack(1.0 + strength * (2.0 * draws - 1.0))  # [N]
  mean = tf.reduce_mean(image, axis=(0, 1), keepdims=True)
  return tf.clip_by_value(brightness * (mean + contrast * (image - mean)), 0.0, 255.0)


def _cut_out(image, label, share, draws):
  """Covers a rectangle of the share `share` of image and label [H, W, C] by PAD_VALUE and void."""
  size = tf.cast(tf.shape(label)[:2], tf.float32)
  # Between share^(3/4) of the height by share^(1/4) of the width, and the other way round.
  exponent = 0.25 + 0.5 * draws[0]
  extent = tf.round(size * tf.pow(share, tf.stack([exponent, 1.0 - exponent])))
  begin = tf.floor(draws[1:] * (size - extent + 1.0))
  rows, columns = (tf.range(size[axis]) - begin[axis] for axis in (0, 1))
  covered = ((rows >= 0) & (rows < extent[0]))[:, None, None] & ((columns >= 0) & (columns < extent[1]))[None, :, None]
  return tf.where_v2(covered, PAD_VALUE, image), tf.where_v2(covered, IGNORE_LABEL, label)


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
