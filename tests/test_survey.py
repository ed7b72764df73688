"""How a dataset's images are read is decided once, from what proves it: EXIF turns, transparency, values, bands."""

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from datasets import convert, images, survey
from datasets.dataset import Source
from datasets.readers import own
from datasets.reading import Reading
from utils.errors import UserError

pytestmark = pytest.mark.fast

ORIENTATION = 0x0112


def photo(height, width, seed=0):
  return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def turned(path, orientation, size=(5, 8)):
  """Writes an image of `size` (height, width) as stored, and its EXIF orientation."""
  exif = Image.Exif()
  exif[ORIENTATION] = orientation
  Image.fromarray(photo(*size)).save(path, exif=exif)
  return str(path)


def decide(sources, **told):
  return survey.decide(sources, told)


def label(height, width):
  return np.zeros((height, width), np.uint8)


@pytest.mark.parametrize('extension', ['jpg', 'png', 'tif', 'webp'])
@pytest.mark.parametrize('drawn', ['turn', 'stored'])
def test_one_label_on_its_side_decides_for_all(drawn, extension, tmp_path):
  """The square image and the one upside down prove nothing, and follow."""
  size = (5, 8) if drawn == 'stored' else (8, 5)
  sources = [Source('a', turned(tmp_path / f'a.{extension}', 6), label(*size)),
             Source('b', turned(tmp_path / f'b.{extension}', 8, (6, 6)), label(6, 6)),
             Source('c', turned(tmp_path / f'c.{extension}', 3), label(5, 8)),
             Source('d', turned(tmp_path / f'd.{extension}', 1), label(5, 8))]
  reading, [decision] = decide(sources)
  assert reading == Reading(exif=drawn)
  assert decision.about == 'exif' and decision.reason.startswith('1 of 3 images with an EXIF turn')
  upright = images.read_image(sources[2].image, reading)
  stored = images.read_image(sources[2].image, Reading(exif='stored'))
  np.testing.assert_array_equal(upright, stored if drawn == 'stored' else stored[::-1, ::-1])


def test_turns_that_nothing_proves_are_refused_unless_told(tmp_path):
  sources = [Source('b', turned(tmp_path / 'b.jpg', 6, (6, 6)), label(6, 6)),
             Source('c', turned(tmp_path / 'c.jpg', 3), label(5, 8)),
             Source('d', turned(tmp_path / 'd.jpg', 1), label(5, 8))]
  with pytest.raises(UserError, match='2 images such as .*b.jpg have an EXIF turn, .*--exif=turn or --exif=stored'):
    decide(sources)
  assert decide(sources, exif='stored')[0].exif == 'stored'
  assert decide(sources[2:]) == (Reading(), [])


def test_turns_that_contradict_each_other_are_refused(tmp_path):
  sources = [Source('a', turned(tmp_path / 'a.jpg', 6), label(5, 8)),
             Source('b', turned(tmp_path / 'b.jpg', 5), label(8, 5))]
  with pytest.raises(UserError, match='of 1 images such as .*b.jpg were drawn on them turned as EXIF says, those of 1 '
                                      'such as .*a.jpg on them as stored; mend one kind, or to choose, give --exif='):
    decide(sources)


def test_published_datasets_follow_their_labels(tmp_path):
  stored = [Source('a', turned(tmp_path / 'a.jpg', 6), label(5, 8)),
            Source('b', turned(tmp_path / 'b.jpg', 3), label(5, 8))]
  assert survey.published(stored).exif == 'stored' and survey.published(stored[1:]).exif == 'stored'
  assert survey.published([Source('a', stored[0].image, label(8, 5))]).exif == 'turn'


def with_alpha(path, alpha):
  alpha = np.asarray(alpha, np.uint8)
  Image.fromarray(np.dstack([photo(*alpha.shape), alpha])).save(path)
  return Source(str(path), str(path), label(*alpha.shape))


@pytest.mark.parametrize('extension', ['png', 'tif', 'webp'])
def test_alpha_of_0_and_255_is_transparency(extension, tmp_path):
  sources = [with_alpha(tmp_path / f'a.{extension}', [[0, 255, 255], [0, 255, 200]]),
             with_alpha(tmp_path / f'b.{extension}', [[255, 255, 255]])]
  reading, [decision] = decide(sources)
  assert reading.alpha == 'white' and 'transparent pixels lie on white (' in str(decision)
  assert decide(sources[1:]) == (Reading(), [])  # opaque


@pytest.mark.parametrize('alpha', [[[40, 40, 40]], [[12, 200, 90], [13, 4, 250]], [[0, 100, 101, 255, 9]]])
def test_a_band_marked_as_transparency_is_refused_unless_told(alpha, tmp_path):
  source = with_alpha(tmp_path / 'a.tif', alpha)
  with pytest.raises(UserError, match='1 images such as .*a.tif have a fourth band that is marked as transparency .*'
                                      '--alpha=band uses it, --alpha=drop'):
    decide([source])
  assert decide([source], alpha='drop')[0] == Reading(alpha='drop')
  reading, decisions = decide([source], alpha='band')
  assert len(reading.bands) == 4 and reading.dtype == 'uint8' and 'kept as uint8' in str(decisions[0])
  np.testing.assert_array_equal(images.read_image(source.image, reading)[..., 3], alpha)


@pytest.mark.parametrize('bits, most, white', [
    (8, 255, 255), (10, 1000, 1023), (12, 2138, 4095), (14, 16383, 16383), (16, 16384, 65535)])
@pytest.mark.parametrize('channels', [1, 3])
def test_the_greatest_value_decides_the_range(bits, most, white, channels, tmp_path):
  sources = []
  for name, top in (('a', most // 2), ('b', most)):
    values = np.linspace(0, top, 35).astype(np.uint16).reshape(5, 7)
    values = values if channels == 1 else np.repeat(values[..., np.newaxis], 3, axis=-1)
    (tmp_path / f'{name}.png').write_bytes(imagecodecs.png_encode(values))
    tifffile.imwrite(tmp_path / f'{name}.tif', values, photometric='minisblack' if channels == 1 else 'rgb')
    sources += [Source(name + end, str(tmp_path / f'{name}.{end}'), label(5, 7)) for end in ('png', 'tif')]
  reading, [decision] = decide(sources)
  assert reading.value_range == ((0, white),) and f'which {bits} bits hold' in decision.reason
  for source in sources[2:]:
    assert images.read_image(source.image, reading).max() == round(most * 255 / white)
  assert decide(sources, value_range=((0.0, 100.0),))[0].value_range == ((0, 100),)


@pytest.mark.parametrize('low, high, expected', [(0, 0.5, (0, 1)), (0, 200, (0, 255)), (-3, 7, (-3, 7))])
def test_ranges_of_floating_point_numbers(low, high, expected, tmp_path):
  tifffile.imwrite(tmp_path / 'a.tif', np.linspace(low, high, 35, dtype=np.float32).reshape(5, 7))
  reading, [decision] = decide([Source('a', str(tmp_path / 'a.tif'), label(5, 7))])
  assert reading.value_range == (expected,) and 'floating-point' in decision.reason


HOLE = (42113, 's', 0, '-9999', True)  # GDAL's tag: the value that stands for no data


@pytest.mark.parametrize('missing', [np.nan, -9999, np.inf, -np.inf])
def test_what_is_no_data_widens_no_range_of_floating_point_numbers(missing, tmp_path):
  """Neither a few values, nor an image of nothing else, which comes first."""
  values = np.linspace(0, 200, 35, dtype=np.float32).reshape(5, 7)
  holes, nothing = values.copy(), np.full_like(values, missing)
  holes[1, 2:5] = missing
  for bands in (1, 4):
    sources = []
    for name, content in (('a', nothing), ('b', holes), ('c', values)):
      content = content if bands == 1 else np.stack([content] * bands, axis=-1)
      tifffile.imwrite(tmp_path / f'{name}.tif', content, photometric='minisblack', extratags=[HOLE], metadata=None,
                       planarconfig='contig' if bands > 1 else None)
      sources.append(Source(name, str(tmp_path / f'{name}.tif'), label(5, 7)))
    for some in (sources, sources[:2]):
      low, high = decide(some)[0].value_range[-1]
      assert (low, high) == ((0, 255) if bands == 1 else pytest.approx((0.2, 199.8), abs=0.05))
  reading = decide(sources[:1])[0]
  assert not reading.value_range or np.isfinite(reading.value_range).all()


def test_what_is_no_data_is_not_the_greatest_value(tmp_path):
  values = np.linspace(0, 4000, 35).astype(np.uint16).reshape(5, 7)
  values[2, 3] = 65535
  tifffile.imwrite(tmp_path / 'a.tif', values, extratags=[(42113, 's', 0, '65535', True)])
  assert decide([Source('a', str(tmp_path / 'a.tif'), label(5, 7))])[0].value_range == ((0, 4095),)
  tifffile.imwrite(tmp_path / 'a.tif', values)
  assert decide([Source('a', str(tmp_path / 'a.tif'), label(5, 7))])[0].value_range == ((0, 65535),)


def test_bands_that_are_no_photograph_are_kept(tmp_path):
  values = np.random.default_rng(0).integers(100, 3000, (5, 7, 6)).astype(np.uint16)
  tifffile.imwrite(tmp_path / 'a.tif', values, photometric='minisblack', planarconfig='contig')
  reading, decisions = decide([Source('a', str(tmp_path / 'a.tif'), label(5, 7))])
  assert len(reading.bands) == 6 and reading.dtype == 'uint16' and len(reading.value_range) == 6
  np.testing.assert_array_equal(images.read_image(str(tmp_path / 'a.tif'), reading), values)
  assert [decision.about for decision in decisions] == ['bands', 'value_range']


def test_a_fourth_band_that_is_not_marked_is_a_band(tmp_path):
  values = np.random.default_rng(0).integers(0, 256, (5, 7, 4)).astype(np.uint8)
  tifffile.imwrite(tmp_path / 'a.tif', values, photometric='rgb', extrasamples=['unspecified'])
  reading, _ = decide([Source('a', str(tmp_path / 'a.tif'), label(5, 7))])
  assert reading.bands[:3] == ('red', 'green', 'blue') and len(reading.bands) == 4


def test_conversion_says_what_was_decided_and_keeps_it(tmp_path, capsys):
  """From a folder with a turned image to the JSON beside the records; a flag overrides, and is remembered."""
  for kind in ('images', 'labels'):
    (tmp_path / f'x/{kind}').mkdir(parents=True)
  for name in 'ab':
    turned(tmp_path / f'x/images/{name}.jpg', 6 if name == 'a' else 1)
    Image.fromarray(np.arange(40, dtype=np.uint8).reshape(5, 8) % 2).save(tmp_path / f'x/labels/{name}.png')
  (tmp_path / 'x/classes.txt').write_text('ground\ncat\n')
  dataset, data_dir = own.own_dataset(str(tmp_path / 'x')), str(tmp_path / 'data')
  stats = convert.convert(dataset, 'all', source_dir=None, data_dir=data_dir, num_workers=1)
  line = 'exif: images are left as stored (1 of 1 images with an EXIF turn have labels of this size, such as '
  assert f'x: {line}' in capsys.readouterr().out
  assert Reading.from_json(stats['reading']) == Reading(exif='stored') and stats['decisions'][0].startswith(line)
  with pytest.raises(convert.BadFiles, match='a.png: is 8x5 pixels, but its image is 5x8'):
    convert.convert(dataset, 'all', source_dir=None, data_dir=data_dir, num_workers=1, told={'exif': 'turn'})
  assert not convert.has_changed(dataset, 'all', source_dir=None, data_dir=data_dir)
  assert convert.has_changed(dataset, 'all', source_dir=None, data_dir=data_dir, told={'exif': 'turn'})
