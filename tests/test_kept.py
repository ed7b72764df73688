"""What records keep of the user's JPEGs and PNGs: always what TensorFlow reads, as Pillow does."""

import io

import numpy as np
import pytest
from PIL import Image

from datasets import get_dataset, records
from datasets.convert import convert
from datasets.dataset import Source
from datasets.encoding import Pair
from datasets.images import BadFile, Picture
from datasets.kept import Checker, is_baseline
from datasets.sanity import Look, digest
from utils.compat import tf
from utils.errors import UserError
from utils.studies.conversion import photograph, write_originals

pytestmark = pytest.mark.fast

PIXELS = photograph(np.random.default_rng(0), 120, 160)


def jpeg(pixels=PIXELS, **options):
  file = io.BytesIO()
  Image.fromarray(pixels).save(file, 'JPEG', quality=92, **options)
  return file.getvalue()


def by_pillow(data):
  """What Pillow reads, a PIL image of RGB; None if it refuses the file."""
  try:
    return Image.open(io.BytesIO(data)).convert('RGB')
  except (OSError, SyntaxError):
    return None


def pair(data, image):
  """The pair of a kept JPEG, noted to look as a PIL image does."""
  return Pair('a', Picture(data, 'jpeg', image.height, image.width, kept=True), b'', np.zeros(256, int),
              Look(digest(image), '', ()))


def search(is_wanted, whole, starts):
  """The first JPEG with a block of zeros that Pillow reads, and of which `is_wanted(Checker, item)`."""
  with Checker() as check:
    for start in starts:
      data = zeroed(whole, start)
      image = by_pillow(data)
      if image and is_wanted(check, (Source('a', 'a.jpg', None), pair(data, image))):
        return data
  pytest.fail('TensorFlow reads what Pillow reads')


def zeroed(whole, start):
  """A file with 64 bytes of zeros from `start` on, or zeros to its end."""
  return (whole[:start] + bytes(64) + whole[start + 64:])[:len(whole)]


@pytest.fixture(scope='module')
def damaged():
  """A JPEG that Pillow reads, and TensorFlow does not: its end mark is gone."""
  whole = jpeg()
  return search(lambda check, item: isinstance(check(item)[1], list), whole, range(len(whole) - 2, len(whole) - 64, -1))


@pytest.fixture(scope='module')
def ambiguous():
  """A progressive JPEG that the two read with different pixels."""

  def is_wanted(check, item):
    try:
      return not check(item)
    except BadFile:  # encoding it anew would begin with reading a.jpg, which is not there
      return True

  return search(is_wanted, jpeg(progressive=True), range(20, 6000, 3))


def test_a_jpeg_that_tensorflow_cannot_read_is_named(damaged, tmp_path):
  with Checker() as check:
    source, (error,) = check((Source('a', 'b.jpg', None), pair(damaged, by_pillow(damaged))))
  assert source.name == 'a' and isinstance(error, BadFile)
  assert str(error).startswith('b.jpg: cannot be decoded by TensorFlow, ')


@pytest.mark.parametrize('options', [
    {}, {'progressive': True}, {'subsampling': 0}, {'subsampling': 1}, {'optimize': True}, {'keep_rgb': True},
    {'restart_marker_blocks': 3}])
@pytest.mark.parametrize('size', [(120, 160), (97, 31), (8, 8), (1, 1)])
def test_jpegs_of_every_make_are_kept(options, size):
  """Odd sizes, gray as well as colors."""
  for pixels in (PIXELS[:size[0], :size[1]], PIXELS[:size[0], :size[1], 1]):
    data = jpeg(pixels, **({} if pixels.ndim == 2 and 'keep_rgb' in options else options))
    found = pair(data, by_pillow(data))
    with Checker() as check:
      assert check((Source('a', 'a.jpg', None), found))[1] is found
    assert is_baseline(data) == ('progressive' not in options)
    np.testing.assert_array_equal(read(data), by_pillow(data))


def read(data):
  """What TensorFlow reads."""
  with tf.Graph().as_default(), tf.Session() as session:
    return session.run(records.decoded(tf.constant(data)))


def test_baseline_jpegs_have_the_same_pixels_or_none():
  """With a block of zeros anywhere: such JPEGs are only read, and not compared."""
  whole, rng, seen = jpeg(), np.random.default_rng(2), 0
  with tf.Graph().as_default(), tf.Session() as session:
    encoded = tf.placeholder(tf.string, [])
    decoded = records.decoded(encoded)
    for start in rng.integers(0, len(whole) - 64, 300):
      data = zeroed(whole, start)
      image = by_pillow(data)
      if image and is_baseline(data):
        np.testing.assert_array_equal(session.run(decoded, {encoded: data}), image)
        seen += 1
  assert seen > 200


@pytest.mark.parametrize('data', [b'', b'\xff\xd8', jpeg()[:30], b'\xff' * 50, bytes(50), jpeg()[:2] + jpeg()[21:]])
def test_what_is_no_whole_jpeg_is_no_baseline_jpeg(data):
  assert not is_baseline(data)


def test_a_picture_that_tensorflow_reads_otherwise_is_encoded_anew(ambiguous, tmp_path):
  path = tmp_path / 'a.jpg'
  path.write_bytes(ambiguous)
  with Checker() as check:
    _, found = check((Source('a', str(path), None), pair(ambiguous, by_pillow(ambiguous))))
  assert (found.picture.format, found.picture.pixels, found.picture.kept) == ('png', None, False)
  np.testing.assert_array_equal(Image.open(io.BytesIO(found.picture.encoded)), by_pillow(ambiguous))


def test_pairs_that_are_not_kept_pass(tmp_path):
  bad, made = [BadFile('a', 'is bad')], pair(b'no picture', Image.fromarray(PIXELS))
  made = Pair('a', Picture(b'no picture', 'jpeg', 1, 1), b'', made.counts, made.look)
  with Checker() as check:
    for found in (bad, made):
      assert check((Source('a', 'a', None), found))[1] is found


@pytest.mark.parametrize('num_workers', [1, 2])
def test_the_converter_names_it_or_leaves_it_out(num_workers, damaged, tmp_path, capsys):
  write_originals(str(tmp_path / 'own'), (120, 160, 3, 'jpg', False))
  (tmp_path / 'own/images/01.jpg').write_bytes(damaged)
  dataset = get_dataset(str(tmp_path / 'own'))
  options = {'source_dir': None, 'data_dir': str(tmp_path / 'data'), 'num_workers': num_workers, 'progress': False}
  with pytest.raises(UserError, match=r'1 of 3 pairs cannot be used(.|\n)*01.jpg: cannot be decoded by TensorFlow'):
    convert(dataset, 'train', **options)
  assert not (tmp_path / 'data').exists()
  stats = convert(dataset, 'train', skip_bad=True, **options)
  assert stats['num_examples'] == 2 and stats['skipped'][0]['name'] == '01'
  assert records.verify(records.shard_paths(str(tmp_path / 'data'), 'train'), dataset.num_classes) == 2
