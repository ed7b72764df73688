"""datasets.encoding: a pair is verified as a whole, and everything bad about it named."""

import numpy as np
import pytest
from pictures import save

from datasets import encoding
from datasets.dataset import Source, label_map
from utils.compat import tf

pytestmark = pytest.mark.fast

LABELS = label_map({0: 0, 1: 1, 2: 2, 255: 255})


def _photo(height, width):
  return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def test_a_pair_has_its_counts_and_a_lossless_label(tmp_path):
  image = save(tmp_path / 'image.jpg', _photo(5, 8))
  raw = np.full((5, 8), 1, np.uint8)
  raw[0, :3], raw[4] = 2, 255
  pair = encoding.encode_pair(Source('a', image, save(tmp_path / 'label.png', raw)), LABELS)
  assert (pair.name, pair.picture.height, pair.picture.width) == ('a', 5, 8)
  assert pair.counts[[0, 1, 2, 255]].tolist() == [0, 29, 3, 8] and pair.counts.sum() == 40
  with tf.Graph().as_default(), tf.Session() as session:
    np.testing.assert_array_equal(session.run(tf.io.decode_png(pair.label))[..., 0], raw)


def test_a_pair_of_one_pixel_and_one_of_arrays(tmp_path):
  image = save(tmp_path / 'image.png', _photo(1, 1))
  pair = encoding.encode_pair(Source('a', image, np.array([[2]], np.uint8)), LABELS)
  assert (pair.picture.height, pair.picture.width, pair.counts[2]) == (1, 1, 1)
  pair = encoding.encode_pair(Source('a', _photo(3, 4), np.zeros((3, 4), np.uint8)), LABELS)
  assert (pair.picture.height, pair.picture.width, pair.counts[0]) == (3, 4, 12)


def test_a_pair_of_two_sizes_is_bad(tmp_path):
  image = save(tmp_path / 'image.png', _photo(5, 8))
  label = save(tmp_path / 'label.png', np.zeros((8, 5), np.uint8))
  bad, = encoding.encode_pair(Source('a', image, label), LABELS)
  assert str(bad) == f'{label}: is 5x8 pixels, but its image is 8x5'


def test_everything_bad_about_a_pair_is_named(tmp_path):
  image = str(tmp_path / 'image.png')
  label = save(tmp_path / 'label.png', np.full((8, 5), 9, np.uint8))
  bad = encoding.encode_pair(Source('a', image, label), LABELS)
  assert [error.path for error in bad] == [label, image]
  save(tmp_path / 'image.png', _photo(5, 8))
  bad = encoding.encode_pair(Source('a', image, label), LABELS)
  assert [error.reason[:20] for error in bad] == ['has label value 9 at', 'is 5x8 pixels, but i']
