"""Pictures that records keep as they came: TensorFlow, which trains on them, has to read them as Pillow, which checked.

Both call libjpeg, and differ in what damage they let pass: of JPEGs with a block of zeros one in a hundred is a picture
to Pillow and an error to TensorFlow. The workers of the converter have no TensorFlow; its main process has.
"""

import dataclasses

from PIL import Image

from datasets import images, sanity
from datasets.dataset import BadFile
from datasets.reading import Reading
from datasets.records import decoded
from utils.compat import tf
from utils.session import cpu_config


class Checker:
  """Compares what TensorFlow makes of kept pictures with what Pillow made of them. A context manager; threads share it.
  """

  def __init__(self, reading=Reading()):  # noqa: B008, the record is frozen
    """`reading` is the dataset's Reading."""
    self._reading = reading
    with tf.Graph().as_default():
      self._encoded = tf.placeholder(tf.string, [])
      self._pixels = decoded(self._encoded)
      self._session = tf.Session(config=cpu_config())

  def __call__(self, item):
    """Checks a pair.

    Args:
      item: (source, pair), a Source and what encoding.encode_pair made of it.

    Returns:
      (source, pair): the pair; or with an image that is encoded anew without loss, if TensorFlow reads it otherwise; or
      a list of a BadFile, if TensorFlow cannot read it.
    """
    source, pair = item
    if isinstance(pair, list) or not pair.picture.kept:
      return source, pair
    try:
      pixels = self._session.run(self._pixels, {self._encoded: pair.picture.encoded})
    except tf.errors.OpError as error:
      reason = error.message.splitlines()[0].removesuffix('.')
      return source, [BadFile(source.image, f'cannot be decoded by TensorFlow ({reason}); it is damaged, or too large')]
    if sanity.digest(Image.fromarray(pixels)) == pair.look.digest:
      return source, pair
    picture = images.encode_pixels(images.read_image(source.image, self._reading))
    return source, dataclasses.replace(pair, picture=dataclasses.replace(picture, pixels=None))

  def __enter__(self):
    return self

  def __exit__(self, *exception):
    self._session.close()
