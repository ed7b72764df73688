"""Random variation of training examples: places and sizes, light and color, sharpness, and style.

Every random choice is a function of the seed of its example.
"""

import dataclasses

import numpy as np

from utils.compat import tf
from utils.errors import UserError
from utils.labels import IGNORE_LABEL
from utils.settings import Settings, flag

PAD_VALUE = 127.5  # value of pixels beyond an image's border: zero after a network's normalization to [-1, 1]
_BLUR_REACH = 3.0  # a Gaussian's weights are cut off at this many standard deviations


@dataclasses.dataclass(frozen=True)
class Augmentation(Settings):
  """Random variation of an image from one epoch to the next; each field is a flag of train.py.

  Attributes:
    crop_size: (height, width) in pixels of the crops that the network is trained on.
    scale_range: (least, greatest) factor by which image and label are resized, drawn log-uniformly.
    class_crops: share of the crops that are put on a pixel of a class, which is drawn evenly from those in the image,
      so that rare classes are seen more often.
    flip: mirror half of the images left to right.
    mix_statistics: greatest share by which the mean and deviation of each channel move towards those of another image
      of the split, as in Reinhard et al., "Color Transfer between Images", 2001, in RGB.
    mix_amplitude: greatest share by which the amplitudes of an image's Fourier transform move towards those of another
      image of the split, phases kept. Xu et al., "A Fourier-based Framework for Domain Generalization", CVPR 2021,
      section 3.2.
    color_jitter: greatest relative change of brightness, contrast and saturation; 0 for none. Bands that are not red,
      green and blue change in brightness and contrast, each for itself.
    white_balance: greatest relative change of each channel's brightness, by itself.
    gamma: greatest exponent of a change of exposure that leaves black and white alone, drawn log-uniformly from
      1/gamma to gamma; 1 for none.
    blur: greatest standard deviation in pixels of a Gaussian blur of half of the images.
    noise: greatest standard deviation in gray levels of 0..255 of noise on half of the images.
  """
  crop_size: tuple[int, int] = flag(
      (319, 415), 'H,W of the crops trained on; 32k + 31 wastes no pixel', least=1, length=2)
  scale_range: tuple[float, float] = flag((0.7, 1.6), 'least,greatest random scale', length=2)
  class_crops: float = flag(
      0.0, 'share of the crops put on a pixel of a class drawn evenly from those in the image', least=0, most=1)
  flip: bool = flag(True, 'mirror half of the images')
  mix_statistics: float = flag(
      0.0, "greatest share by which means and deviations of colors become another image's", least=0, most=1)
  mix_amplitude: float = flag(
      0.0, "greatest share by which amplitudes of the Fourier transform become another image's", least=0, most=1)
  color_jitter: float = flag(0.0, 'greatest change of brightness, contrast, saturation', least=0, most=1)
  white_balance: float = flag(0.0, "greatest change of each channel's brightness by itself", least=0, most=1)
  gamma: float = flag(1.0, 'greatest exponent of a random change of exposure; 1: none', least=1, most=10)
  blur: float = flag(0.0, 'greatest blur of half of the images, in pixels', least=0, most=10)
  noise: float = flag(0.0, 'greatest noise of half of the images, in gray levels', least=0, most=255)

  def check(self):
    """Raises UserError for the first value that is not valid."""
    super().check()
    least, greatest = self.scale_range
    if least <= 0:
      raise UserError(f'--scale_range={least:g},{greatest:g}: both must be above 0')
    if least > greatest:
      raise UserError(f'--scale_range={least:g},{greatest:g}: the least scale is above the greatest')

  @property
  def mixes_styles(self):
    """Whether every example needs another image beside it, whose style it takes."""
    return bool(self.mix_statistics or self.mix_amplitude)


def augment(example, augmentation, seed, *, is_photograph=True, style=None):
  """Varies one example; the label goes with the image.

  Args:
    example: dict with `image` [H, W, N] in 0..255 and `label` int32 [H, W]; other entries are kept.
    augmentation: an Augmentation.
    seed: two integers, or a tensor of them: equal seeds give equal results.
    is_photograph: whether the image is RGB, so that its saturation may change.
    style: another image [H', W', N] in 0..255, whose style the image takes where the augmentation mixes styles.

  Returns:
    the dict with `image` float32 [h, w, N] in 0..255 and `label` int32 [h, w]; h, w = crop_size. Pixels from beyond
    the image's border are PAD_VALUE in the image and IGNORE_LABEL in the label.
  """
  seed = tf.cast(tf.stack(seed), tf.int64)
  draws = tf.random.stateless_uniform([8], seed=seed)
  image = tf.cast(example['image'], tf.float32)
  label = example['label'][..., None]
  if augmentation.mixes_styles:
    image = _restyle(image, style, augmentation, _further(seed, 3, [2]))
  image, label = _place(image, label, augmentation, draws, seed)
  if augmentation.flip:
    flipped = draws[3] < 0.5
    image = tf.cond(flipped, lambda: tf.reverse(image, [1]), lambda: image)
    label = tf.cond(flipped, lambda: tf.reverse(label, [1]), lambda: label)
  if augmentation.color_jitter:
    if is_photograph:
      image = _recolor(image, augmentation.color_jitter, draws[4:7])
    else:
      image = _vary_bands(image, augmentation.color_jitter, tf.random.experimental.stateless_fold_in(seed, 2))
  image = _expose(image, augmentation, seed)
  image = _degrade(image, augmentation, seed)
  return {**example, 'image': image, 'label': label[..., 0]}


def _further(seed, number, shape):
  """Uniform draws in [0, 1) beside an example's first ones; their `number` tells them apart."""
  return tf.random.stateless_uniform(shape, seed=tf.random.experimental.stateless_fold_in(seed, number))


def _between(draw, limits):
  """Maps a uniform draw from [0, 1) to a log-uniform one between two positive limits."""
  low, high = limits
  return low * tf.pow(high / low, draw)


def _restyle(image, style, augmentation, draws):
  """Moves the statistics and amplitudes of an image [H, W, N] towards those of `style` [H', W', N]."""
  style = tf.cast(style, tf.float32)
  if augmentation.mix_statistics:
    image = _mix_statistics(image, style, augmentation.mix_statistics * draws[0])
  if augmentation.mix_amplitude:
    image = _mix_amplitude(image, style, augmentation.mix_amplitude * draws[1])
  return tf.clip_by_value(image, 0.0, 255.0)


def _mix_statistics(image, style, share):
  """Gives each channel a mean and deviation between its own and the other image's."""
  (mean, deviation), (to_mean, to_deviation) = (
      (tf.reduce_mean(pixels, axis=(0, 1)), tf.math.reduce_std(pixels, axis=(0, 1))) for pixels in (image, style))
  factor = 1.0 + share * (tf.math.divide_no_nan(to_deviation, deviation) - 1.0)
  return (image - mean) * factor + mean + share * (to_mean - mean)


def _mix_amplitude(image, style, share):
  """Gives each frequency of each channel an amplitude between its own and that of the other image, resized."""
  style = tf.compat.v2.image.resize(style, tf.shape(image)[:2])
  spectrum, other = (tf.signal.rfft2d(tf.transpose(pixels, [2, 0, 1])) for pixels in (image, style))
  amplitude = tf.abs(spectrum)
  factor = 1.0 + share * (tf.math.divide_no_nan(tf.abs(other), amplitude) - 1.0)
  mixed = tf.signal.irfft2d(spectrum * tf.cast(factor, tf.complex64), tf.shape(image)[:2])
  return tf.ensure_shape(tf.transpose(mixed, [1, 2, 0]), image.shape)


def _place(image, label, augmentation, draws, seed):
  """Scales and crops image and label."""
  if augmentation.scale_range != (1.0, 1.0):
    image, label = _rescale(image, label, _between(draws[0], augmentation.scale_range))
  draws = draws[1:3]
  if augmentation.class_crops:
    chance, place = _further(seed, 5, [2]), _class_place(label, augmentation.crop_size, seed)
    draws = tf.cond(chance[0] < augmentation.class_crops, lambda: place, lambda: draws)
  return _crop(image, label, augmentation.crop_size, draws)


def _rescale(image, label, scale):
  """Resizes image (bilinear) and label (nearest) [H, W, C] by one factor, at least to one pixel."""
  size = tf.cast(tf.shape(image)[:2], tf.float32)
  size = tf.maximum(tf.cast(tf.round(size * scale), tf.int32), 1)
  # The resizing of TensorFlow 2 samples both at pixel centers; TensorFlow 1's shifts them by up to half a pixel.
  image = tf.compat.v2.image.resize(image, size, method='bilinear')
  label = tf.compat.v2.image.resize(label, size, method='nearest')
  return image, label


def _class_place(label, crop_size, seed):
  """Two draws for `_crop` that put the crop on a pixel of a class, drawn evenly from those in the label [H, W, 1]."""
  which, where, within = tf.split(_further(seed, 6, [4]), [1, 1, 2])
  ids = tf.reshape(label, [-1])
  present = tf.unique(tf.boolean_mask(ids, ids < IGNORE_LABEL)).y

  def on_a_class():
    pixels = tf.where(tf.equal(label[..., 0], _pick(present, which[0])))  # [number, 2]
    pixel = tf.cast(_pick(pixels, where[0]), tf.float32)
    slack = tf.cast(tf.shape(label)[:2], tf.float32) - np.float32(crop_size)
    begin = pixel - tf.floor(within * np.float32(crop_size))
    # The draws of _crop: the share of the slack, of size slack + 1, at which the crop begins; it holds all of an image
    # that is smaller.
    return tf.where_v2(slack > 0, tf.clip_by_value((begin + 0.5) / (tf.abs(slack) + 1.0), 0.0, 1.0 - 1e-6), within)

  return tf.cond(tf.size(present) > 0, on_a_class, lambda: within)


def _pick(values, draw):
  """The row of `values` that a uniform draw in [0, 1) chooses."""
  count = tf.shape(values)[0]
  return values[tf.minimum(tf.cast(draw * tf.cast(count, tf.float32), tf.int32), count - 1)]


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


def _expose(image, augmentation, seed):
  """Changes the brightness of each channel, and the exposure of all."""
  if augmentation.white_balance:
    gains = 1.0 + augmentation.white_balance * (2.0 * _further(seed, 7, [image.shape[2]]) - 1.0)
    image = tf.minimum(image * gains, 255.0)
  if augmentation.gamma != 1.0:
    exponent = _between(_further(seed, 8, []), (1.0 / augmentation.gamma, augmentation.gamma))
    image = 255.0 * tf.pow(image / 255.0, exponent)
  return image


def _degrade(image, augmentation, seed):
  """Blurs half of the images, and puts noise on half."""
  chances = _further(seed, 9, [4])
  if augmentation.blur:
    blurred = lambda: _blur(image, augmentation.blur, augmentation.blur * chances[1])
    image = tf.cond(chances[0] < 0.5, blurred, lambda: image)
  if augmentation.noise:
    noise = tf.random.stateless_normal(tf.shape(image), seed=tf.random.experimental.stateless_fold_in(seed, 10))
    strength = tf.where_v2(chances[2] < 0.5, augmentation.noise * chances[3], 0.0)
    image = tf.clip_by_value(image + strength * noise, 0.0, 255.0)
  return image


def _blur(image, most, deviation):
  """Blurs an image [h, w, N] by a Gaussian of a standard deviation in pixels of at most `most`."""
  channels = tf.transpose(image, [2, 0, 1])[..., None]  # [N, h, w, 1]
  for axis, shape in ((1, [-1, 1, 1, 1]), (2, [1, -1, 1, 1])):
    reach = min(int(np.ceil(_BLUR_REACH * most)), channels.shape[axis])  # mirroring reaches no further
    weights = tf.exp(-0.5 * tf.square(np.arange(-reach, reach + 1, dtype=np.float32) / tf.maximum(deviation, 1e-3)))
    kernel = tf.reshape(weights / tf.reduce_sum(weights), shape)
    paddings = [[reach, reach] if place == axis else [0, 0] for place in range(4)]
    channels = tf.nn.conv2d(tf.pad(channels, paddings, 'SYMMETRIC'), kernel, strides=1, padding='VALID')
  return tf.ensure_shape(tf.transpose(channels[..., 0], [1, 2, 0]), image.shape)
