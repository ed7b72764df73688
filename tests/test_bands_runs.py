"""Six bands of sixteen bits from conversion to inference; the fourth band alone holds the answer."""

import dataclasses
import io
import json

import numpy as np
import programs
import pytest
import tifffile
from PIL import Image
from programs import assert_refused

import evaluate
import inference
import train
from datasets import DATASETS, convert, export, hold_out, inspection, pipeline, records
from datasets.dataset import Dataset, Source, label_map
from datasets.reading import Reading
from nets import NETWORKS
from utils.compat import tf
from utils.drawing import colors
from utils.inference.predictor import Predictor
from utils.inference.tta import Views
from utils.runs import load_run

pytestmark = pytest.mark.usefixtures('tiny')

NAMES = ('blue', 'green', 'red', 'nir', 'swir1', 'swir2')
READING = Reading(bands=NAMES, dtype='uint16', value_range=((1000, 5000),))
COUNTS = {'train': 6, 'val': 3}
SHORT = ('--dataset=field', '--net=tiny', '--skip=4s', '--checkpoint=none', '--crop_size=63,63', '--scale_range=1,1',
         '--batch_size=4', '--dropout_keep_prob=1', '--learning_rate=0.01', '--batch_norm_decay=0.8', '--eval_steps=0',
         '--log_steps=20')


def field(index):
  """An image, uint16 [H, W, 6], and its label: noise, but for a patch that is bright in near infrared alone."""
  rng = np.random.default_rng(index)
  height, width = 61 + index, 83 - index
  label = np.zeros([height, width], np.uint8)
  top, left = rng.integers(5, 25, 2)
  label[top:top + 30, left:left + 30] = 1
  image = rng.integers(1000, 5000, [height, width, 6]).astype(np.uint16)
  image[..., 3] = np.where(label, 4200, 1500) + rng.integers(0, 500, label.shape)
  return image, label


def sources(source_dir, split):
  del source_dir
  first = 0 if split == 'train' else COUNTS['train']
  return [Source(f'{split}{index}', *field(index)) for index in range(first, first + COUNTS[split])]


FIELD = Dataset(name='field', classes=('soil', 'crop'), palette=np.array([[90, 60, 30], [0, 200, 0]], np.uint8),
                splits=COUNTS, sources=sources, label_map=label_map({0: 0, 1: 1}), reading=READING)


@pytest.fixture(scope='module', autouse=True)
def known():
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(DATASETS, 'field', FIELD)
    yield


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
  folder = str(tmp_path_factory.mktemp('field'))
  for split in COUNTS:
    convert.convert(FIELD, split, source_dir=folder, data_dir=folder, num_shards=2, num_workers=1, progress=False)
  return folder


def run(data_dir, run_dir, *args):
  return programs.run(train.main, *SHORT, f'--data_dir={data_dir}', f'--run_dir={run_dir}', *args)


def mean_iou(run_dir):
  result = programs.run(evaluate.main, f'--ckpt={run_dir}')
  assert result.returncode == 0, result.stderr
  return json.loads((run_dir / 'metrics-val.json').read_text())['mean_iou']


@pytest.fixture(scope='module')
def trained(data_dir, tmp_path_factory):
  folder = tmp_path_factory.mktemp('runs') / 'all'
  result = run(data_dir, folder, '--max_steps=120')
  assert result.returncode == 0, result.stderr
  return folder


def test_six_bands_find_what_the_visible_three_cannot(data_dir, trained, tmp_path):
  assert mean_iou(trained) > 0.9
  result = run(data_dir, tmp_path / 'visible', '--max_steps=120', '--bands=1,2,3')
  assert result.returncode == 0, result.stderr
  assert mean_iou(tmp_path / 'visible') < 0.6


def test_records_hold_the_values_as_they_came(data_dir):
  stats = records.read_stats(data_dir, 'val')
  assert Reading.from_json(stats['reading']) == READING
  found = {name: (image, label) for name, image, label in pipeline.examples(data_dir, 'val')}
  for source in sources(None, 'val'):
    np.testing.assert_array_equal(found[source.name][0], source.image)
    np.testing.assert_array_equal(found[source.name][1], source.label)
    assert found[source.name][0].dtype == np.uint16
  assert records.verify(records.shard_paths(data_dir, 'val'), 2) == 3


def test_chosen_bands_enter_the_network_in_their_order(data_dir, graph):
  batch = tf.data.make_one_shot_iterator(pipeline.evaluation_batches(data_dir, 'val', bands=(3, 0))).get_next()
  with tf.Session() as session:
    value = session.run(batch)
  [image] = [source.image for source in sources(None, 'val') if source.name == value['name'][0].decode()]
  np.testing.assert_allclose(value['image'][0], (image[..., [3, 0]] - 1000.0) * 255 / 4000, atol=1e-3)


def test_the_run_keeps_its_bands(data_dir, trained, tmp_path):
  config = load_run(str(trained)).config
  assert config['network']['bands'] == [] and Reading.from_json(config['dataset']['reading']) == READING
  result = run(data_dir, tmp_path / 'two', '--max_steps=1', '--bands=nir,2')
  assert result.returncode == 0, result.stderr
  assert load_run(str(tmp_path / 'two')).config['network']['bands'] == [4, 2]
  assert_refused(run(data_dir, tmp_path / 'two', '--max_steps=2', '--bands=2,4'), '--bands', 'nir,2', '2,4')


@pytest.mark.parametrize('given, part', [
    ('7', 'there is no band 7; the images have 1 blue, 2 green, 3 red, 4 nir, 5 swir1, 6 swir2'), ('0', 'no band 0'),
    ('thermal,1', 'no band thermal'), ('4,nir', 'band nir is named twice'), ('-1', 'no band -1')])
def test_bands_that_are_not_there(data_dir, tmp_path, given, part):
  assert_refused(run(data_dir, tmp_path / 'x', f'--bands={given}'), f'--bands={given}', part)
  assert not (tmp_path / 'x' / 'config.json').exists()


def test_photographs_have_red_green_and_blue(tmp_path, monkeypatch):
  photos = [Source(f'photo{index}', np.full([40, 50, 3], 40 * index, np.uint8), np.zeros([40, 50], np.uint8))
            for index in range(2)]
  monkeypatch.setitem(DATASETS, 'field', dataclasses.replace(FIELD, sources=lambda *_: photos, reading=Reading()))
  args = ('--max_steps=1', f'--source_dir={tmp_path}')
  result = run(tmp_path / 'data', tmp_path / 'run', *args, '--bands=blue,1')
  refused = run(tmp_path / 'data', tmp_path / 'other', *args, '--bands=4')
  assert_refused(refused, 'the images have 1 red, 2 green, 3 blue')
  assert result.returncode == 0, result.stderr
  assert load_run(str(tmp_path / 'run')).config['network']['bands'] == [3, 1]
  Image.new('RGB', (40, 30)).save(tmp_path / 'a.png')
  result = programs.run(inference.main, f'--ckpt={tmp_path / "run"}', f'--output_dir={tmp_path}', tmp_path / 'a.png')
  assert result.returncode == 0, result.stderr


def test_too_many_bands_for_a_network(data_dir, tmp_path, monkeypatch):
  monkeypatch.setitem(NETWORKS, 'tiny', dataclasses.replace(NETWORKS['tiny'], most_bands=5))
  assert_refused(run(data_dir, tmp_path / 'x'), '--net=tiny sees at most 5 bands, and the images have 6; choose some')
  assert run(data_dir, tmp_path / 'x', '--bands=1,2,3,4,5', '--max_steps=1').returncode == 0


@pytest.mark.parametrize('change, part', [
    ({'bands': ('red edge', *NAMES[1:])}, '6 bands of uint16 (red edge, green, red, nir, swir1, swir2)'),
    ({'bands': NAMES[:5]}, '5 bands of uint16 (blue, green, red, nir, swir1)'),
    ({'dtype': 'float32'}, '6 bands of float32'),
    ({'bands': (), 'dtype': 'uint8'}, '3 bands of uint8 (red, green, blue)'),
    ({'value_range': ((0, 9),)}, 'has the value ranges 0 to 9, and train has 1000 to 5000')])
def test_splits_of_another_kind_are_refused(data_dir, trained, tmp_path, change, part):
  """While training; and in evaluation, except for value ranges, where the run's own count."""
  for split in COUNTS:
    for name in records.list_shards(data_dir, split):
      (tmp_path / name).symlink_to(f'{data_dir}/{name}')
    stats = records.read_stats(data_dir, split)
    if split == 'val':
      stats['reading'] = dataclasses.replace(READING, **change).to_json()
    (tmp_path / f'{split}.json').write_text(json.dumps(stats))
  assert_refused(run(tmp_path, tmp_path / 'x', '--eval_steps=9'), part, f'val in {tmp_path}')
  if 'value_range' not in change:
    assert_refused(programs.run(evaluate.main, f'--ckpt={trained}', f'--data_dir={tmp_path}'), part,
                   'was trained on 6 bands of uint16 (blue, green, red, nir')
  stats = {**records.read_stats(data_dir, 'train'), 'reading': stats['reading']}
  (tmp_path / 'train.json').write_text(json.dumps(stats))
  assert_refused(run(tmp_path, trained, '--max_steps=121'), f'{trained} was trained on')


@pytest.fixture
def pictures(data_dir, tmp_path):
  paths = export.export(FIELD, data_dir, split='val', output_dir=str(tmp_path / 'photos'))
  assert [path[-4:] for path in paths] == ['.tif'] * 3
  return paths


def test_inference_on_a_tiff(trained, pictures, tmp_path):
  result = programs.run(inference.main, f'--ckpt={trained}', f'--output_dir={tmp_path / "out"}', *pictures)
  assert result.returncode == 0, result.stderr
  by_name = {source.name: source for source in sources(None, 'val')}
  name = pictures[0].split('/')[-1][:-4]
  label = np.asarray(Image.open(tmp_path / 'out' / f'{name}_label.png'))
  assert (label == by_name[name].label).mean() > 0.9
  overlay = np.asarray(Image.open(tmp_path / 'out' / f'{name}_overlay.png'))
  image = by_name[name].image[..., [2, 1, 0]]  # red, green and blue
  shown = np.rint((image - 1000.0) * 255 / 4000).astype(np.uint8)
  expected = colors.overlay(shown, label, FIELD.palette)
  np.testing.assert_array_equal(overlay[:label.shape[0], :label.shape[1]], expected)


def test_tiles_views_and_one_piece_agree(trained, pictures, tmp_path):
  image = tifffile.imread(pictures[0])
  run = load_run(str(trained))
  with Predictor(run) as whole, Predictor(run, views=Views(flip=True, scales=(1.0, 1.5))) as views:
    plain, seen = whole.probabilities(image[None])[0], views.probabilities(image[None])[0]
    np.testing.assert_array_equal(whole.labels(image[None])[0], plain.argmax(axis=-1))
  assert (plain.argmax(axis=-1) == seen.argmax(axis=-1)).mean() > 0.9 and np.abs(plain - seen).max() > 1e-3
  big = np.tile(image, (5, 4, 1))
  tifffile.imwrite(tmp_path / 'big.tif', big, photometric='minisblack', planarconfig='contig')
  result = programs.run(inference.main, f'--ckpt={trained}', f'--output_dir={tmp_path / "out"}', '--max_pixels=70000',
                        str(tmp_path / 'big.tif'))
  assert result.returncode == 0, result.stderr
  label = np.asarray(Image.open(tmp_path / 'out' / 'big_label.png'))
  assert label.shape == big.shape[:2] and 0.05 < label.mean() < 0.5
  result = programs.run(inference.main, f'--ckpt={trained}', f'--output_dir={tmp_path / "rows"}', '--max_pixels=70000',
                        '--window_pixels=70000', str(tmp_path / 'big.tif'))
  assert result.returncode == 0, result.stderr
  np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / 'rows' / 'big_label.tif')), label)
  np.testing.assert_array_equal(*(np.asarray(Image.open(tmp_path / folder / 'big_overlay.png'))
                                  for folder in ('rows', 'out')))


def test_pictures_of_another_kind_are_left_out_by_name(trained, pictures, tmp_path):
  Image.new('RGB', (40, 30)).save(tmp_path / 'photo.jpg')
  tifffile.imwrite(tmp_path / 'float.tif', np.ones([9, 8, 6], np.float32), photometric='minisblack',
                   planarconfig='contig')
  tifffile.imwrite(tmp_path / 'dark.tif', np.full([9, 8, 6], 60000, np.uint16), photometric='minisblack',
                   planarconfig='contig')
  result = programs.run(inference.main, f'--ckpt={trained}', f'--output_dir={tmp_path / "out"}', pictures[1],
                        *(tmp_path / name for name in ('photo.jpg', 'float.tif', 'dark.tif')))
  assert result.returncode == 1 and '1 images labeled' in result.stdout
  for part in ('photo.jpg: has 3 bands, and 6 bands are wanted: blue, green, red, nir, swir1, swir2',
               'float.tif: has values of type float32, and uint16 is wanted',
               'dark.tif: has values from 60000 to 60000 in band'):
    assert part in result.stderr


def test_inference_on_a_file_for_each_band(trained, pictures, tmp_path):
  """Files of one picture in a folder, and one of them alone, are labeled once, as the picture in one file is."""
  image = tifffile.imread(pictures[0])
  for folder, form in (('a', 'tile_{}.tif'), ('b', 'field/{}.TIF')):
    for place, band in enumerate(NAMES):
      path = tmp_path / folder / form.format(band)
      path.parent.mkdir(parents=True, exist_ok=True)
      tifffile.imwrite(path, image[..., place])
  args = (f'--ckpt={trained}', f'--output_dir={tmp_path / "out"}')
  result = programs.run(inference.main, *args, tmp_path / 'a', tmp_path / 'b', pictures[0])
  assert result.returncode == 0, result.stderr
  assert '3 images labeled' in result.stdout
  whole = next((tmp_path / 'out').rglob('val*_label.png'))
  for name in ('tile', 'field'):
    [label] = (tmp_path / 'out').rglob(f'{name}_label.png')
    assert label.read_bytes() == whole.read_bytes()
  result = programs.run(inference.main, f'--ckpt={trained}', f'--output_dir={tmp_path / "other"}',
                        tmp_path / 'a' / 'tile_nir.tif')
  assert result.returncode == 0 and (tmp_path / 'other' / 'tile_label.png').read_bytes() == whole.read_bytes()
  (tmp_path / 'a' / 'tile_red.tif').unlink()
  result = programs.run(inference.main, f'--ckpt={trained}', f'--output_dir={tmp_path / "third"}',
                        tmp_path / 'a' / 'tile_nir.tif')
  assert result.returncode == 1 and 'tile_nir.tif: has 1 band, and 6 bands are wanted' in result.stderr


def test_ranking_of_pictures_with_bands(trained, pictures, tmp_path):
  result = programs.run(inference.main, '--rank', f'--ckpt={trained}', f'--output_dir={tmp_path / "out"}', *pictures)
  assert result.returncode == 0, result.stderr
  assert len((tmp_path / 'out' / 'rank.txt').read_text().splitlines()) == 3
  assert Image.open(tmp_path / 'out' / 'rank.png').mode == 'RGB'


def test_value_ranges_of_inference(trained, pictures, tmp_path):
  """Flags count in the network as in the pictures, and their number is checked."""
  args = (f'--ckpt={trained}', f'--output_dir={tmp_path / "out"}', pictures[0])
  assert_refused(programs.run(inference.main, *args, '--value_range=0,9,0,9'),
                 'value_range has 2 pairs, and the images have 6 bands')
  for value_range, most in (('0,65535', 0.2), ('1000,5000', 1)):
    result = programs.run(inference.main, *args, f'--value_range={value_range}')
    assert result.returncode == 0, result.stderr
    overlay = np.asarray(Image.open(next((tmp_path / 'out').glob('*_overlay.png'))))
    label = np.asarray(Image.open(next((tmp_path / 'out').glob('*_label.png'))))
    assert (label.any() and overlay[:50, :50].max() > 150) == (most == 1)


def test_the_contact_sheet_is_in_false_color(data_dir):
  scanned = inspection.scan(data_dir, 'val', 2, num_shown=1, progress=False)
  [(name, image, label)] = scanned.shown
  [source] = [source for source in sources(None, 'val') if source.name == name]
  picture = np.asarray(Image.open(io.BytesIO(image)))
  np.testing.assert_array_equal(picture, colors.false_color(source.image, READING))
  sheet = inspection.contact_sheet(scanned.shown, FIELD.palette, FIELD.classes, 'x')
  assert sheet.dtype == np.uint8 and sheet.shape[2] == 3


def test_what_is_noted_of_held_out_images_is_of_all_their_bands(data_dir):
  held = hold_out.HoldOut((sources(None, 'val')[0].name,), splits=('train', 'val'))
  for split in ('val', hold_out.HELD_OUT):
    scanned = inspection.scan(data_dir, split, 2, progress=False, held=held)
    assert scanned.sanity['digests'] == hold_out.read_stats(data_dir, split, held)['sanity']['digests']


def test_false_color():
  image = np.array([[[0, 50, 100, 150], [np.nan, 500, 100, 0]]], np.float32)
  ranges = ((0, 100), (0, 200), (100, 300), (50, 150))
  reading = Reading(bands=('a', 'b', 'c', 'd'), dtype='float32', value_range=ranges)
  np.testing.assert_array_equal(colors.false_color(image, reading), [[[0, 64, 0], [0, 255, 0]]])
  np.testing.assert_array_equal(colors.false_color(image, reading, (3, 0)), [[[255, 0, 0], [0, 0, 0]]])
  np.testing.assert_array_equal(colors.false_color(image, reading, (1,)), [[[64] * 3, [255] * 3]])
  photo = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
  assert colors.false_color(photo, Reading()) is photo
