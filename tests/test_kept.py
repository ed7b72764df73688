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
from datasets.kept import Checker
from datasets.sanity import Look, digest
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


@pytest.fixture(scope='module')
def damaged():
  """A JPEG with a block of 64 bytes of zeros that Pillow reads, and TensorFlow does not."""
  whole, rng = jpeg(), np.random.default_rng(1)
  with Checker() as check:
    for _ in range(3000):
      start = int(rng.integers(20, len(whole) - 64))
      data = whole[:start] + bytes(64) + whole[start + 64:]
      image = by_pillow(data)
      if image and isinstance(check((Source('a', 'a.jpg', None), pair(data, image)))[1], list):
        return data
  pytest.fail('TensorFlow reads all that Pillow reads')


def test_a_jpeg_that_tensorflow_cannot_read_is_named(damaged, tmp_path):
  with Checker() as check:
    source, (error,) = check((Source('a', 'b.jpg', None), pair(damaged, by_pillow(damaged))))
  assert source.name == 'a' and isinstance(error, BadFile)
  assert str(error).startswith('b.jpg: cannot be decoded by TensorFlow (')


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


def test_a_picture_that_tensorflow_reads_otherwise_is_encoded_anew(tmp_path):
  """Made up: what is kept has other pixels than what was checked."""
  path, data = tmp_path / 'a.jpg', jpeg()
  path.write_bytes(data)
  other = Image.fromarray(PIXELS[::-1])
  with Checker() as check:
    _, found = check((Source('a', str(path), None), pair(data, other)))
  assert (found.picture.format, found.picture.pixels, found.picture.kept) == ('png', None, False)
  np.testing.assert_array_equal(Image.open(io.BytesIO(found.picture.encoded)), by_pillow(data))


def test_pairs_that_are_not_kept_pass(tmp_path):
  bad, made = [BadFile('a', 'is bad')], pair(b'no picture', Image.fromarray(PIXELS))
  made = Pair('a', Picture(b'no picture', 'png', 1, 1), b'', made.counts, made.look)
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
