"""The user's own folder of images with bands: one file, or a file for each band; ranges without nodata."""

import json

import numpy as np
import programs
import pytest
import tifffile
from PIL import Image

from datasets import bands, convert, export, get_dataset, inspection, pipeline, records
from datasets.reading import Reading

pytestmark = pytest.mark.fast

NAMES = ('B02', 'B03', 'B04', 'B08', 'B11')


def image(index, dtype=np.uint16):
  return np.random.default_rng(index).integers(100, 4000, [20 + index, 31, len(NAMES)]).astype(dtype)


def folder(tmp_path, write, told=None, count=6):
  """A dataset of `count` images written by `write(folder, name, array)`. Returns its path."""
  root = tmp_path / 'fields'
  for kind in ('images', 'labels'):
    (root / kind).mkdir(parents=True)
  (root / 'classes.txt').write_text('soil\ncrop\n')
  for index in range(count):
    write(root / 'images', f'tile{index}', image(index))
    Image.fromarray((image(index)[..., 3] > 2000).astype(np.uint8)).save(root / 'labels' / f'tile{index}.png')
  if told:
    (root / 'dataset.json').write_text(json.dumps(told))
  return root


def one_file(where, name, array):
  tifffile.imwrite(where / f'{name}.tif', array, photometric='minisblack', planarconfig='contig')


def pages(where, name, array):
  tifffile.imwrite(where / f'{name}.tiff', np.moveaxis(array, -1, 0), photometric='minisblack')


def suffixes(where, name, array):
  for place, band in enumerate(NAMES):
    tifffile.imwrite(where / f'{name}_{band}.tif', array[..., place])


def folders(where, name, array):
  (where / name).mkdir()
  for place, band in enumerate(NAMES):
    tifffile.imwrite(where / name / f'{band}.tif', array[..., place])


@pytest.mark.parametrize('write, told', [
    (one_file, None), (pages, None), (one_file, {'bands': NAMES}), (suffixes, {'bands': NAMES}),
    (folders, {'bands': NAMES, 'value_range': [0, 5000]})])
def test_every_form_gives_the_same_records(tmp_path, write, told):
  root = folder(tmp_path, write, told)
  result = programs.run(convert.main, f'--dataset={root}', f'--data_dir={tmp_path / "data"}', '--num_workers=1')
  assert result.returncode == 0, result.stderr
  found = {name: values for split in ('train', 'val')
           for name, values, _ in pipeline.examples(str(tmp_path / 'data'), split)}
  assert sorted(found) == [f'tile{index}' for index in range(6)]
  for index in range(6):
    np.testing.assert_array_equal(found[f'tile{index}'], image(index))
  reading = records.read_reading(str(tmp_path / 'data'), 'train')
  assert reading.names == (NAMES if told else tuple(f'band {number}' for number in range(1, 6)))
  if told and 'value_range' in told:
    assert reading.value_range == ((0, 5000),)
  else:
    low, high = np.array(reading.value_range).T
    assert np.all((low >= 100) & (low < 130) & (high > 3970) & (high < 4000))
  assert f'{reading.names[0]}, {reading.names[1]}' in result.stdout  # the decision


@pytest.mark.parametrize('write', [suffixes, folders])
def test_names_of_band_files_and_patterns_are_one_in_every_form_of_unicode(write, tmp_path):
  root = folder(tmp_path, write, {'bands': NAMES, 'splits': {'val': 'cafe\u0301*', 'train': 'rest'}})
  write(root / 'images', 'cafe\u0301', image(0))  # as macOS stores it
  Image.fromarray(np.zeros([20, 31], np.uint8)).save(root / 'labels' / 'caf\u00e9.png')
  dataset = get_dataset(str(root))
  assert dataset.splits == {'all': 7, 'val': 1, 'train': 6}
  [source] = dataset.sources(None, 'val')
  assert source.name == 'caf\u00e9' and len(source.image) == len(NAMES)


def test_an_exported_folder_reads_back_to_the_same(tmp_path):
  root = folder(tmp_path, folders, {'bands': NAMES})
  convert.main([f'--dataset={root}', f'--data_dir={tmp_path / "data"}', '--num_workers=1', '--splits=all'])
  export.export(get_dataset(str(root)), str(tmp_path / 'data'), split='all', output_dir=str(tmp_path / 'again'),
                labels=True)
  convert.main([f'--dataset={tmp_path / "again"}', f'--data_dir={tmp_path / "more"}', '--num_workers=1',
                '--splits=all'])
  first, second = ({name: (image, label) for name, image, label in pipeline.examples(str(tmp_path / where), 'all')}
                   for where in ('data', 'more'))
  assert first.keys() == second.keys() and len(first) == 6
  for name in first:
    np.testing.assert_array_equal(first[name][0], second[name][0])
    np.testing.assert_array_equal(first[name][1], second[name][1])
  assert records.read_reading(str(tmp_path / 'data'), 'all') == records.read_reading(str(tmp_path / 'more'), 'all')


def test_a_band_file_that_is_missing_is_named(tmp_path):
  root = folder(tmp_path, suffixes, {'bands': NAMES})
  (root / 'images' / 'tile4_B08.tif').unlink()
  result = programs.run(convert.main, f'--dataset={root}', f'--data_dir={tmp_path / "data"}')
  programs.assert_refused(result, 'tile4 has no file of band B08')


def test_an_image_of_other_bands_is_named(tmp_path):
  root = folder(tmp_path, one_file)
  one_file(root / 'images', 'tile3', image(3)[..., :4])
  result = programs.run(convert.main, f'--dataset={root}', f'--data_dir={tmp_path / "data"}', '--num_workers=1')
  assert result.returncode == 1
  assert 'tile3.tif: has 4 bands, and 5 bands are wanted: band 1, band 2, band 3, band 4, band 5' in result.stderr


def test_inspection_shows_bands(tmp_path):
  root = folder(tmp_path, suffixes, {'bands': NAMES})
  result = programs.run(inspection.main, f'--dataset={root}', f'--data_dir={tmp_path / "data"}')
  assert result.returncode == 0, result.stderr
  assert (tmp_path / 'data' / 'inspect' / 'inspect-train.png').exists()


def test_ranges_leave_out_what_is_no_data(tmp_path):
  values = np.array([[[5, 1], [np.nan, 2], [-9999, 3], [7, np.nan]]], np.float32)
  path, reading = str(tmp_path / 'x.tif'), Reading(bands=('a', 'b'), dtype='float32')
  tifffile.imwrite(path, values, photometric='minisblack', planarconfig='contig',
                   extratags=[(42113, 's', 0, '-9999', True)])
  np.testing.assert_array_equal(bands.percentiles(path, reading, (0, 50, 100)), [[5, 1], [6, 2], [7, 3]])
  assert get_dataset('shapes').reading == Reading()
