"""What labels images, whatever computes: the network over all views of an image, in the interface of all that label."""

import numpy as np

from utils.compat import tf
from utils.errors import UserError
from utils.inference import mc_dropout
from utils.inference.tta import Views, scaled_size

PLAIN = Views()


class NotFinite(UserError):
  """The network's outputs for an image hold NaN or infinity, of which labels would all be of the first class."""

  def __init__(self, precision):
    """Says so of a network that computes in `precision`."""
    hint = '; --precision=float32 has a wider range' if precision == 'float16' else ''
    super().__init__(f'the network gives no numbers for it (NaN or infinity, in {precision}){hint}')


class Labeler:
  """Labels images of any size: the base of predictor.Predictor, and of exported.ExportedNetwork. A context manager.

  A subclass has `_run`, `_scaled`, `_view` and `close`.

  Attributes:
    num_classes: number of classes.
    seen: the inputs.Input: the kind of the images, and the bands of them that the network sees.
    views: the tta.Views over which probabilities are averaged.
    num_devices: number of devices, each of which may have a call at a time.
    artifact: the exported.Artifact that computes; None for the run itself.
    precision: arithmetic of the convolutions.
  """
  artifact = None

  def __init__(self, num_classes, seen, views, num_devices, precision):
    """Keeps the attributes."""
    self.num_classes, self.seen, self.views, self.num_devices = num_classes, seen, views, num_devices
    self.precision = precision

  @property
  def is_one_pass(self):
    """Whether an image goes through the network once, as it is."""
    return self.views.plain

  def labels(self, images):
    """Predicts the most probable class of every pixel. Of one pass only labels leave the network, which saves memory.

    Args:
      images: uint8 [B, H, W, 3], RGB, or [B, H, W, N] with all bands of a run's images, of their dtype; H and W from 1.

    Returns:
      uint8 [B, H, W], label ids.

    Raises:
      NotFinite: if they would be of numbers that are not finite.
    """
    if self.is_one_pass:
      return self._run('labels', images)
    return self.probabilities(images).argmax(axis=-1).astype(np.uint8)

  def probabilities(self, images):
    """Predicts the probability of every class at every pixel.

    Args:
      images: as of `labels`.

    Returns:
      float32 [B, H, W, num_classes]; the classes sum to 1. With samples or views, their mean.

    Raises:
      NotFinite: if one is not finite.
    """
    if self.is_one_pass:
      return self._finite(self._run('probabilities', images))
    return self.sampled(images, measure=None)[0]

  def sampled(self, images, measure=mc_dropout.MEASURES[0]):
    """Averages passes with dropout over every view; without samples, one pass over every view.

    Args:
      images: as of `labels`.
      measure: measure of the uncertainty over all passes, see mc_dropout.average.

    Returns:
      `(mean, uncertainty)`: float32 [B, H, W, num_classes], whose classes sum to 1, and float32 [B, H, W]; None without
      a measure.
    """
    return mc_dropout.average(self._passes(images), measure)

  def _passes(self, images):
    """Yields float32 [B, H, W, num_classes] of every pass over every view, in the images' size and orientation."""
    size = images.shape[1:3]
    for number, (scale, mirrored) in enumerate(self.views.each):
      seen = images if scale == 1 else self._scaled(images, scaled_size(size, scale))
      for probabilities in self._view(seen[:, :, ::-1] if mirrored else seen, number, size):
        self._finite(probabilities)
        yield probabilities[:, :, ::-1] if mirrored else probabilities

  def _finite(self, values):
    """Returns the values of the network. Raises NotFinite if one is not finite."""
    if not np.isfinite(np.sum(values)):
      raise NotFinite(self.precision)
    return values

  def _run(self, output, images):
    """The output 'labels' or 'probabilities' of one pass over images as they are."""
    raise NotImplementedError

  def _scaled(self, images, size):
    """Images in another (height, width), see `resizing`."""
    raise NotImplementedError

  def _view(self, images, number, size):
    """Yields the probabilities of each pass over a view in another (height, width); `number` is the view's, from 0."""
    raise NotImplementedError

  def close(self):
    """Frees what it holds, once the calls on it have come to their end."""
    raise NotImplementedError

  def __enter__(self):
    return self

  def __exit__(self, *exception):
    self.close()


def resizing(graph):
  """Adds a placeholder for a size, and the images and the probabilities in that size; returns the names of the three.

  Bilinear, as images are scaled in training. TensorFlow 2's resizing samples at the centers of the pixels, TensorFlow
  1's shifts them by up to half a pixel.

  Args:
    graph: a tf.Graph with the tensors `images` and `probabilities`.
  """
  size = tf.placeholder(tf.int32, [2])
  images, probabilities = (tf.compat.v2.image.resize(graph.get_tensor_by_name(f'{name}:0'), size)
                           for name in ('images', 'probabilities'))
  kind = graph.get_tensor_by_name('images:0').dtype
  images = tf.saturate_cast(tf.round(images), kind) if kind.is_integer else images
  return size.name, images.name, probabilities.name
