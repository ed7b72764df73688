"""Pictures that are labeled by rows: the whole picture's labels, where it lies on the earth, nothing half-written."""

import os

import numpy as np
import pytest
import tifffile
from PIL import Image
from programs import assert_refused
from random_run import write_run
from test_windows import GEO_TAGS, pixels, truncated

from datasets import windows
from utils.inference import label_files, large, ledgers
from utils.inference.tiles import label_bands, probability_bands
from utils.runs import load_run

CLASSES = ('road', 'car', 'sky', 'tree')
TILED = ('--max_pixels=20000', '--tile_size=256')
BY_ROWS = (*TILED, '--window_pixels=1')


@pytest.fixture(scope='module')
def folder(tmp_path_factory, tiny):
  return write_run(tmp_path_factory.mktemp('run'), CLASSES, network=tiny, dataset='own')


def read(path):
  with Image.open(path) as picture:
    return np.asarray(picture), picture.mode


def write_pictures():
  """Writes pictures of all formats that are read by rows; returns the name of each, and of its label."""
  os.mkdir('in')
  image = pixels(301, 333)
  tifffile.imwrite('in/tiles.tif', image, photometric='rgb', tile=(64, 48), compression='deflate', predictor=True,
                   extratags=[(*tag, True) for tag in GEO_TAGS])
  tifffile.imwrite('in/strips.tif', pixels(301, 340, 1), photometric='rgb', rowsperstrip=20, compression='lzw')
  Image.fromarray(pixels(310, 333, 2)).save('in/a.png')
  exif = Image.Exif()
  exif[0x0112] = 6
  Image.fromarray(pixels(333, 290, 3)).save('in/turned.jpg', exif=exif)
  return {'tiles.tif': 'tif', 'strips.tif': 'tif', 'a.png': 'png', 'turned.jpg': 'png'}


def test_labels_are_those_of_the_whole_picture(infer):
  forms = write_pictures()
  assert infer('--output_dir=whole', *TILED, 'in').returncode == 0
  result = infer('--output_dir=rows', *BY_ROWS, 'in')
  assert result.returncode == 0, result.stderr
  assert result.stdout.startswith('4 images labeled') and 'in/a.png: 1/1 megapixels' in result.stderr
  names = {name: f'{name.split(".")[0]}_label.{form}' for name, form in forms.items()}
  overlays = {f'{name.split(".")[0]}_overlay.png' for name in forms}
  assert set(os.listdir('rows')) == {*names.values(), *overlays, ledgers.LEDGER}
  for name, label in names.items():
    (found, mode), whole = read(f'rows/{label}'), name.split('.')[0] + '_label'
    expected = read(f'whole/{whole}.{"tif" if name == "tiles.tif" else "png"}')[0]
    assert mode == 'P' and len(np.unique(found)) > 1
    np.testing.assert_array_equal(found, expected, err_msg=name)
  for overlay in overlays:  # small pictures keep their size
    np.testing.assert_array_equal(read(f'rows/{overlay}')[0], read(f'whole/{overlay}')[0])


def test_labels_in_the_datasets_own_colors(infer):
  write_pictures()
  assert infer('--output_dir=rows', *BY_ROWS, '--label_values=colors', '--outputs=label', 'in').returncode == 0
  assert infer('--output_dir=whole', *TILED, '--label_values=colors', '--outputs=label', 'in').returncode == 0
  for rows, whole in (('a_label.png', 'a_label.png'), ('strips_label.tif', 'strips_label.png')):
    (found, mode), (expected, _) = read(f'rows/{rows}'), read(f'whole/{whole}')
    assert mode == 'RGB'
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize('flags', [TILED, BY_ROWS])
def test_labels_lie_where_their_pictures_do(flags, infer):
  write_pictures()
  for world in ('in/a.pgw', 'in/turned.jgw', 'in/strips.tfw'):
    with open(world, 'w') as file:
      file.write(f'0.5\n0\n0\n-0.5\n{world}\n0\n')
  result = infer('--output_dir=out', *flags, '--outputs=label', 'in')
  assert result.returncode == 0, result.stderr
  assert windows.georeference('out/tiles_label.tif') == windows.Georeference(GEO_TAGS, None)
  assert windows.georeference('out/strips_label.tif') == windows.Georeference([], 'out/strips_label.tfw')
  assert windows.georeference('out/a_label.png') == windows.Georeference([], 'out/a_label.pgw')
  for name in ('a.pgw', 'strips.tfw'):
    with open(f'in/{name}') as source, open(f'out/{name[:-4]}_label{name[-4:]}') as target:
      assert source.read() == target.read()
  assert 'turned_label.pgw' not in os.listdir('out')  # the world file is of the stored pixels


def test_results_are_replaced_unasked_and_no_inputs(infer):
  write_pictures()
  for _ in range(2):
    result = infer('--output_dir=in', *BY_ROWS, 'in')
    assert result.returncode == 0 and result.stdout.startswith('4 images labeled'), result.stderr
  assert '8 written by this program' in result.stderr
  tifffile.imwrite('in/tiles_label.tif', pixels(), photometric='rgb')
  result = infer('--output_dir=in', *BY_ROWS, 'in/tiles.tif')
  assert result.returncode == 1 and 'in/tiles_label.tif exists, and this program did not write it' in result.stderr


def test_more_pixels_than_allowed(infer):
  write_pictures()
  result = infer('--output_dir=out', '--max_input_pixels=100232', '--window_pixels=50000', '--outputs=label', 'in')
  assert result.returncode == 1 and result.stdout.startswith('1 images labeled')
  assert os.path.exists('out/turned_label.png')  # 333x290
  for line in ('in/tiles.tif: has 333x301 pixels; more than --max_input_pixels=100232',
               'in/a.png: has 333x310 pixels', 'if it is none, give --max_input_pixels=103230'):
    assert line in result.stderr
  assert_refused(infer('--max_input_pixels=0', 'in'), '--max_input_pixels=0')


def test_the_flag_raises_pillows_own_limit(infer, monkeypatch):
  monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 40_000)  # Pillow refuses twice as many
  Image.fromarray(pixels(301, 333)).save('a.bmp')
  result = infer('--output_dir=out', '--outputs=label', '--max_input_pixels=100233', 'a.bmp')
  assert result.returncode == 0, result.stderr
  assert Image.MAX_IMAGE_PIXELS == 40_000


def test_results_of_the_whole_picture_are_still_to_be_had(infer):
  Image.fromarray(pixels(301, 333)).save('a.png')
  result = infer('--output_dir=out', *BY_ROWS, '--probabilities', 'a.png')
  assert result.returncode == 0 and sorted(os.listdir('out'))[1:] == [
      'a_label.png', 'a_overlay.png', 'a_probabilities.npy']


def test_broken_pictures_leave_nothing_behind(infer, tmp_path):
  write_pictures()
  truncated(tmp_path / 'in' / 'strips.tif', 0.7)
  truncated(tmp_path / 'in' / 'a.png', 0.7)
  data = bytearray((tmp_path / 'in' / 'tiles.tif').read_bytes())
  with tifffile.TiffFile('in/tiles.tif') as file:  # a tile in the last row, found when most is labeled
    start = file.pages[0].dataoffsets[-3]
  data[start:start + 60] = bytes(60)
  (tmp_path / 'in' / 'tiles.tif').write_bytes(data)
  result = infer('--output_dir=out', *BY_ROWS, 'in')
  assert result.returncode == 1 and result.stdout.startswith('1 images labeled'), result.stderr
  for name in ('strips.tif', 'a.png', 'tiles.tif'):
    assert f'skipped in/{name}: ' in result.stderr
  assert sorted(os.listdir('out')) == ['turned_label.png', 'turned_overlay.png']


class Source:
  """A picture of any height that holds nothing, and counts the most rows that were asked for at once."""

  def __init__(self, height, width):
    self.shape, self.most = (height, width, 3), 0

  def __getitem__(self, rows):
    top, bottom, _ = rows.indices(self.shape[0])
    self.most = max(self.most, bottom - top)
    rows = np.arange(top, bottom, dtype=np.uint32)[:, None] + np.arange(self.shape[1], dtype=np.uint32)
    return np.repeat((rows % 251).astype(np.uint8)[..., None], 3, axis=-1)


def stripes(images):
  """A "network" of two classes: dark or light."""
  share = images[..., :1].astype(np.float32) / 255
  return np.concatenate([1 - share, share], axis=-1)


@pytest.mark.parametrize('height, num_devices', [(1000, 1), (40_000, 1), (1000, 2)])
def test_a_picture_of_any_height_is_read_a_row_of_tiles_at_a_time(height, num_devices):
  source, overview = Source(height, 300), large.Overview((height, 300))
  rows = heights = 0
  bands = label_bands(stripes, source, tile_size=256, overlap=64, num_devices=num_devices)
  for band in overview.watch(source, bands):
    top, rows, heights = rows, rows + len(band), max(heights, len(band))
    np.testing.assert_array_equal(band, source[top:rows][..., 0] > 127)
  assert rows == height and source.most <= 256 and heights <= 256
  assert np.flatnonzero(overview.present).tolist() == [0, 1]


def test_label_bands_are_the_most_probable_classes():
  image = pixels(500, 411)
  network = lambda images: np.stack([images[..., 0], images.mean(axis=(1, 2, 3), keepdims=True)[..., 0] + 0 *
                                     images[..., 0], images[..., 2]], axis=-1).astype(np.float32)
  expected = np.concatenate([band.argmax(axis=-1) for _, band in
                             probability_bands(network, image, tile_size=160, overlap=64)])
  found = np.concatenate(list(label_bands(network, image, tile_size=160, overlap=64)))
  np.testing.assert_array_equal(found, expected)
  assert found.dtype == np.uint8 and len(np.unique(found)) == 3


def test_overview_is_the_mean_of_the_picture_in_squares(monkeypatch):
  monkeypatch.setattr(large, 'OVERVIEW', 101 * 150 / 9)
  image, label = pixels(), (pixels(seed=4)[..., 0] // 64)
  overview = large.Overview(image.shape[:2])
  bands = list(overview.watch(image, (label[top:top + 13] for top in range(0, 101, 13))))
  np.testing.assert_array_equal(np.concatenate(bands), label)
  run = type('Run', (), {'palette': np.eye(4, 3, dtype=np.uint8) * 255, 'classes': CLASSES})
  drawn = overview.overlay(run, alpha=0)
  expected = image[:99].reshape(33, 3, 50, 3, 3).mean(axis=(1, 3))
  assert abs(drawn[:33, :50].astype(float) - expected).max() <= 1
  np.testing.assert_array_equal(overview.overlay(run, alpha=1)[:33, :50], run.palette[label[:99:3, ::3]])


@pytest.mark.parametrize('count', [1, 100, 256, 300, 999])
@pytest.mark.parametrize('palette', [True, False])
def test_bands_of_any_height_make_the_same_files(count, palette, folder, tmp_path):
  label = pixels(521, 300)
  if palette:
    label, table = label[..., 1], np.random.default_rng(0).integers(0, 256, (256, 3)).astype(np.uint8)
  else:
    table = None
  bands = lambda: (label[top:top + count] for top in range(0, 521, count))
  ledger = ledgers.Ledger(str(tmp_path))
  label_files.write_png(tmp_path / 'a.png', bands(), (521, 300), table, load_run(str(folder)))
  label_files.write_tiff(tmp_path / 'a.tif', bands(), (521, 300), table, GEO_TAGS)
  for name in ('a.png', 'a.tif'):
    found, mode = read(tmp_path / name)
    np.testing.assert_array_equal(found, label)
    assert mode == ('P' if palette else 'RGB')
    if palette:
      with Image.open(tmp_path / name) as picture:
        np.testing.assert_array_equal(np.reshape(picture.getpalette(), (-1, 3)), table)
  np.testing.assert_array_equal(tifffile.imread(tmp_path / 'a.tif'), label)
  Image.open(tmp_path / 'a.png').verify()
  assert ledger.owns(str(tmp_path / 'a.png'))
  data = bytearray((tmp_path / 'a.png').read_bytes())
  data[-30] ^= 1
  (tmp_path / 'a.png').write_bytes(data)
  assert not ledger.owns(str(tmp_path / 'a.png'))
