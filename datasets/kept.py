"""JPEGs that records keep as they came: TensorFlow, which trains on them, has to read them as Pillow, which checked.

Both call libjpeg, and differ in what they make of damage: some JPEGs with a block of zeros are a picture to Pillow and
an error to TensorFlow, and some progressive ones have other pixels. The converter's workers have no TensorFlow; its
main process has. PNGs have checksums, which both compare.
"""

import dataclasses

from PIL import Image

from datasets import images, sanity
from datasets.dataset import BadFile
from datasets.reading import Reading
from datasets.records import decoded
from utils.compat import tf
from utils.session import cpu_config

_SCALE = 8  # by which baseline JPEGs are decoded smaller: every bit of the file is read, but few pixels are made
_BASELINE = (0xc0, 0xc1)  # markers of a frame that is decoded in one scan, from Huffman's codes
_FRAMES = range(0xc0, 0xd0)  # markers of frames of any kind, and of a few tables
_SAMPLINGS = (0x11, 0x21, 0x22)  # of brightness: 4:4:4, 4:2:2, 4:2:0


def is_baseline(data):
  """Whether a JPEG is of the kind that nearly all are, of which TensorFlow and Pillow make the same pixels or none.

  Args:
    data: bytes of a JPEG, whole or damaged.
  """
  place = 2
  while data[place:place + 1] == b'\xff' and place + 10 < len(data):
    marker, length = data[place + 1], int.from_bytes(data[place + 2:place + 4], 'big')
    if marker in _BASELINE:
      samplings = data[place + 11:place + 2 + length:3]
      return samplings[:1] != b'' and samplings[0] in _SAMPLINGS and set(samplings[1:]) <= {0x11}
    if marker in _FRAMES and marker != 0xc4:  # but for the table of Huffman's codes
      return False
    place += 2 + length
  return False


class Checker:
  """Compares what TensorFlow makes of kept JPEGs with what Pillow made of them. A context manager; threads share it.
  """

  def __init__(self, reading=Reading()):  # noqa: B008, the record is frozen
    """`reading` is the dataset's Reading."""
    self._reading = reading
    with tf.Graph().as_default():
      self._encoded = tf.placeholder(tf.string, [])
      self._pixels, self._few = decoded(self._encoded), decoded(self._encoded, ratio=_SCALE)
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
    if isinstance(pair, list) or not pair.picture.kept or pair.picture.format != 'jpeg':
      return source, pair
    baseline = is_baseline(pair.picture.encoded)
    try:
      pixels = self._session.run(self._few if baseline else self._pixels, {self._encoded: pair.picture.encoded})
    except tf.errors.OpError:  # of libjpeg's reason nothing is in it
      return source, [BadFile(source.image, 'cannot be decoded by TensorFlow, so it is damaged, or too large')]
    if baseline or sanity.digest(Image.fromarray(pixels)) == pair.look.digest:
      return source, pair
    picture = images.encode_pixels(images.read_image(source.image, self._reading))
    return source, dataclasses.replace(pair, picture=dataclasses.replace(picture, pixels=None))

  def __enter__(self):
    return self

  def __exit__(self, *exception):
    self._session.close()
