"""inference.py as users run it: every kind of picture, broken ones, tiles, what evaluation servers want."""

import importlib.util
import os
import tarfile

import numpy as np
import programs
import pytest
from PIL import Image
from random_run import write_run

import inference
from datasets.readers.voc import VOC
from utils.compat import tf
from utils.drawing import colors
from utils.inference import files
from utils.inference.predictor import Predictor
from utils.inference.tiles import probability_bands
from utils.inference.tta import Views
from utils.runs import load_run

CLASSES = VOC.classes


def infer(*args):
  """Runs inference.py in this process; returns a programs.Result."""
  return programs.run(inference.main, *args)


def pixels(height, width, seed=0, channels=3):
  """A smooth random picture, so that JPEG keeps it about as it is."""
  small = np.random.default_rng(seed).integers(0, 256, (3, 4, channels)).astype(np.uint8)
  picture = Image.fromarray(small.squeeze()).resize((width, height), Image.Resampling.BICUBIC)
  return np.asarray(picture)


@pytest.fixture(scope='module')
def folder(tmp_path_factory, tiny):
  return write_run(tmp_path_factory.mktemp('run'), CLASSES, network=tiny, dataset='voc')


def read_label(path):
  with Image.open(path) as picture:
    assert picture.mode == 'P'
    return np.asarray(picture)


def write_inputs(inputs):
  """Pictures of many kinds; returns name -> (height, width) as a viewer shows them."""
  inputs.mkdir()
  Image.fromarray(pixels(61, 90)).save(inputs / 'one.png')
  Image.fromarray(pixels(61, 90, seed=1)).save(inputs / 'two.png')
  Image.fromarray(pixels(1, 1)).save(inputs / 'dot.png')
  Image.fromarray(pixels(40, 31, channels=1)).save(inputs / 'grey.png')
  Image.fromarray(pixels(33, 50)).convert('CMYK').save(inputs / 'cmyk.jpg')
  clear = pixels(35, 52, channels=4).copy()
  clear[..., 3] = np.where(np.arange(52) < 20, 0, 255)
  Image.fromarray(clear).save(inputs / 'alpha.png')
  Image.fromarray(pixels(21, 77, channels=1).astype(np.uint16) * 257).save(inputs / 'deep.png')
  exif = Image.Exif()
  exif[0x0112] = 6  # stored lying on its side
  Image.fromarray(pixels(30, 70)).save(inputs / 'turned.JPG', exif=exif)
  return {'one': (61, 90), 'two': (61, 90), 'dot': (1, 1), 'grey': (40, 31), 'cmyk': (33, 50), 'alpha': (35, 52),
          'deep': (21, 77), 'turned': (70, 30)}


def test_every_kind_of_picture_and_broken_ones(folder, predictor, tmp_path):
  sizes = write_inputs(tmp_path / 'in')
  good = (tmp_path / 'in' / 'one.png').read_bytes()
  (tmp_path / 'in' / 'cut.png').write_bytes(good[:len(good) // 2])
  (tmp_path / 'in' / 'empty.jpg').touch()
  (tmp_path / 'in' / 'notes.txt').write_text('not looked at')
  (tmp_path / 'text.jpg').write_text('no picture')
  other = tmp_path / 'other' / 'one.jpg'
  other.parent.mkdir()
  Image.fromarray(pixels(20, 30)).save(other)

  process = infer(f'--ckpt={folder}', f'--output_dir={tmp_path / "out"}', '--probabilities',
                  f'--input={tmp_path / "other" / "*.jpg"},{tmp_path / "nowhere.png"}',
                  tmp_path / 'in', tmp_path / 'in' / 'one.png', tmp_path / 'text.jpg')
  assert process.returncode == 1, process.stderr
  assert 'Traceback' not in process.stderr
  skipped = [line.split(':')[0] for line in process.stderr.splitlines() if line.startswith('skipped')]
  assert sorted(os.path.basename(name) for name in skipped) == ['cut.png', 'empty.jpg', 'nowhere.png', 'text.jpg']
  assert 'error: 4 inputs skipped' in process.stderr
  assert process.stdout.startswith('9 images labeled') and '(step 1234, the latest)' in process.stdout
  assert f'{other} becomes {tmp_path / "out" / "one-2"}' in process.stderr

  sizes['one-2'] = (20, 30)
  suffixes = ('_label.png', '_overlay.png', '_probabilities.npy')
  written = [path.name for path in (tmp_path / 'out').glob('[!.]*')]  # all but the ledger
  assert sorted(written) == sorted(name + suffix for name in sizes for suffix in suffixes)
  for name, size in sizes.items():
    label = read_label(tmp_path / 'out' / f'{name}_label.png')
    probabilities = np.load(tmp_path / 'out' / f'{name}_probabilities.npy', allow_pickle=False)
    assert label.shape == size and label.max() < len(CLASSES)
    assert probabilities.dtype == np.float16 and probabilities.shape == (*size, len(CLASSES))
    np.testing.assert_allclose(probabilities.astype(np.float32).sum(axis=-1), 1, atol=5e-3)
    chosen = np.take_along_axis(probabilities, label[..., None].astype(int), axis=-1)[..., 0]
    assert (chosen >= probabilities.max(axis=-1)).all()
  np.testing.assert_array_equal(read_label(tmp_path / 'out' / 'two_label.png'),
                                predictor.labels(pixels(61, 90, seed=1)[None])[0])


def test_batches_label_as_single_images_do_and_overlays_show_it(folder, predictor, tmp_path):
  images = {name: pixels(45, 64, seed=seed) for seed, name in enumerate('abc')}
  images['d'] = pixels(30, 47, seed=9)
  for name, image in images.items():
    Image.fromarray(image).save(tmp_path / f'{name}.png')
  process = infer(f'--ckpt={folder}/model.ckpt-1234', f'--output_dir={tmp_path / "out"}', '--batch_size=2',
                  '--alpha=0.25', tmp_path)
  assert process.returncode == 0, process.stderr
  palette = load_run(str(folder)).palette
  for name, image in images.items():
    label = read_label(tmp_path / 'out' / f'{name}_label.png')
    assert (label == predictor.labels(image[None])[0]).mean() > 0.999  # ties may fall either way in another batch
    with Image.open(tmp_path / 'out' / f'{name}_overlay.png') as picture:
      overlay = np.asarray(picture)
    height, width = label.shape
    np.testing.assert_array_equal(overlay[:height, :width], colors.overlay(image, label, palette, 0.25))
    strip = overlay[height:]
    for i in range(len(CLASSES)):
      assert (strip == palette[i]).all(axis=-1).any() == (i in label)


def test_large_images_go_through_tiles(folder, predictor, tmp_path):
  image = pixels(420, 700, seed=7)
  Image.fromarray(image).save(tmp_path / 'large.png')
  process = infer(f'--ckpt={folder}', f'--output_dir={tmp_path / "out"}', '--max_pixels=90000', '--tile_size=352',
                  '--probabilities', tmp_path / 'large.png')
  assert process.returncode == 0, process.stderr
  probabilities = np.load(tmp_path / 'out' / 'large_probabilities.npy').astype(np.float32)
  np.testing.assert_allclose(probabilities.sum(axis=-1), 1, atol=5e-3)
  whole = predictor.probabilities(image[None])[0]
  assert 1e-4 < np.abs(probabilities - whole).mean() < 0.1  # it was tiled, and is about the same
  label = read_label(tmp_path / 'out' / 'large_label.png')
  assert (label == whole.argmax(axis=-1)).mean() > 0.85


def test_samples_say_how_sure_the_labels_are(folder, tmp_path):
  """In one piece and in tiles: the mean's labels, and a picture of the uncertainty with its scale."""
  sizes = {'small': (45, 64), 'large': (420, 700)}
  for name, size in sizes.items():
    Image.fromarray(pixels(*size)).save(tmp_path / f'{name}.png')
  process = infer(f'--ckpt={folder}', f'--output_dir={tmp_path / "out"}', '--samples=3', '--probabilities',
                  '--uncertainty=entropy', '--max_pixels=90000', '--tile_size=352', tmp_path)
  assert process.returncode == 0, process.stderr
  for name, (height, width) in sizes.items():
    mean = np.load(tmp_path / 'out' / f'{name}_probabilities.npy').astype(np.float32)
    np.testing.assert_allclose(mean.sum(axis=-1), 1, atol=5e-3)
    label = read_label(tmp_path / 'out' / f'{name}_label.png')
    chosen = np.take_along_axis(mean, label[..., None].astype(int), axis=-1)[..., 0]
    assert (chosen >= mean.max(axis=-1) - 1e-3).all()
    with Image.open(tmp_path / 'out' / f'{name}_uncertainty.png') as picture:
      painted = np.asarray(picture)[:height, :width]
      assert picture.mode == 'RGB' and picture.height > height
    entropy = -(mean * np.log(np.maximum(mean, 1e-6))).sum(axis=-1)
    expected = colors.heat(entropy, np.quantile(entropy, 0.998))
    assert np.abs(painted.astype(int) - expected).mean() < 3


def test_views_are_averaged_in_one_piece_and_in_tiles(folder, tmp_path):
  """--max_pixels holds for the largest view: only that is why the larger image is done in tiles of 357 pixels."""
  images = {'small': pixels(45, 64), 'large': pixels(300, 500)}
  for name, image in images.items():
    Image.fromarray(image).save(tmp_path / f'{name}.png')
  process = infer(f'--ckpt={folder}', f'--output_dir={tmp_path / "out"}', '--probabilities', '--test_flip',
                  '--test_scales=0.75,1.25', '--max_pixels=200000', tmp_path)
  assert process.returncode == 0, process.stderr
  with Predictor(load_run(str(folder)), views=Views(True, (0.75, 1.25))) as made:
    for name, image in images.items():
      bands = probability_bands(made.probabilities, image, tile_size=357, overlap=89)
      expected = np.concatenate([band.copy() for _, band in bands])
      probabilities = np.load(tmp_path / 'out' / f'{name}_probabilities.npy').astype(np.float32)
      assert np.abs(probabilities - expected).mean() < 1e-3
      assert (read_label(tmp_path / 'out' / f'{name}_label.png') == expected.argmax(axis=-1)).mean() > 0.999
    assert np.abs(made.probabilities(image[None])[0] - expected).mean() > 0.01


def test_images_lost_to_memory_do_not_count_as_labeled(folder, tmp_path, monkeypatch):
  """A batch that does not fit goes through image by image; the count is of results."""
  for name, size in (('a', (5, 6)), ('b', (5, 6)), ('c', (40, 60)), ('d', (40, 60))):
    Image.fromarray(pixels(*size)).save(tmp_path / f'{name}.png')
  labels = Predictor.labels

  def little_memory(predictor, images):
    if images[..., 0].size > 40 * 30:
      raise tf.errors.ResourceExhaustedError(None, None, 'OOM when allocating tensor')
    return labels(predictor, images)

  monkeypatch.setattr(Predictor, 'labels', little_memory)
  result = infer(f'--ckpt={folder}', f'--output_dir={tmp_path / "out"}', tmp_path)
  assert result.returncode == 1 and result.stdout.startswith('2 images labeled')
  assert f'error: 2 inputs skipped: {tmp_path / "c.png"}, {tmp_path / "d.png"}' in result.stderr
  assert f'skipped {tmp_path / "c.png"}: not enough memory; try a lower --max_pixels' in result.stderr
  assert sorted(os.listdir(tmp_path / 'out')) == [
      f'{name}_{kind}.png' for name in 'ab' for kind in ('label', 'overlay')]


@pytest.fixture(scope='module')
def overflowing(tmp_path_factory, tiny):
  """A run whose weights are finite, and whose outputs are not."""
  return write_run(tmp_path_factory.mktemp('run'), CLASSES, network=tiny, dataset='voc', factor=1e30)


@pytest.mark.parametrize('flags', [
    ('--batch_size=2',), ('--probabilities',), ('--test_flip',), ('--max_pixels=3000', '--tile_size=256'),
    ('--max_pixels=3000', '--tile_size=256', '--window_pixels=1'), ('--rank',),
    pytest.param(('--crf',), marks=pytest.mark.skipif(importlib.util.find_spec('pydensecrf') is None,
                                                      reason='pydensecrf2 is not installed'))])
def test_outputs_that_are_not_finite_are_no_labels(overflowing, tmp_path, flags):
  """They would all be of the first class."""
  (tmp_path / 'in').mkdir()
  for name in 'ab':
    Image.fromarray(pixels(61, 90)).save(tmp_path / 'in' / f'{name}.png')
  result = infer(f'--ckpt={overflowing}', f'--output_dir={tmp_path / "out"}', *flags, tmp_path / 'in')
  assert result.returncode == 1 and 'Traceback' not in result.stderr
  for name in 'ab':
    assert (f'skipped {tmp_path / "in" / name}.png: the network gives no numbers for it (NaN or infinity, in float32)'
            in result.stderr)
  assert not [*tmp_path.glob('out/*.*')]


class Compared(str):
  """Text that counts how often it is compared."""

  count = 0
  __hash__ = str.__hash__

  def __eq__(self, other):
    Compared.count += 1
    return str.__eq__(self, other)

  def __add__(self, other):
    return Compared(str.__add__(self, other))


def test_names_of_outputs_take_time_in_proportion_to_the_images(capsys):
  inputs = [files.Input(f'folder{number % 2}/{number // 2}.jpg', Compared(number // 2), files.PHOTO)
            for number in range(600)]
  targets = files.output_names(inputs, Compared('out'))
  assert Compared.count < 10 * len(inputs)  # each with all before: 180,000
  assert [targets[item] for item in inputs[:4]] == ['out/0', 'out/0-2', 'out/1', 'out/1-2']
  assert capsys.readouterr().err.count('is taken') == 300


def test_submission_is_the_archive_that_the_evaluation_server_takes(folder, predictor, tmp_path):
  """Of the images that the list names, in VOC's layout; datasets.submission has checked it."""
  sizes = {'2008_1': (45, 64), '2008_2': (31, 20), 'not_listed': (5, 6)}
  (tmp_path / 'in').mkdir()
  for name, size in sizes.items():
    Image.fromarray(pixels(*size)).save(tmp_path / 'in' / f'{name}.png')
  (tmp_path / 'test.txt').write_text('2008_2\n2008_1\n')
  process = infer(f'--ckpt={folder}', '--submission', f'--list={tmp_path / "test.txt"}',
                  f'--output_dir={tmp_path / "out"}', tmp_path / 'in')
  assert process.returncode == 0, process.stderr
  assert f'{tmp_path / "out" / "results.tar.gz"}: 2 label PNGs for http' in process.stdout
  with tarfile.open(tmp_path / 'out' / 'results.tar.gz') as archive:
    names = archive.getnames()
    assert [os.path.split(name) for name in names] == [
        ('results/VOC2012/Segmentation/comp6_test_cls', f'{name}.png') for name in ('2008_1', '2008_2')]
    for name in names:
      with Image.open(archive.extractfile(name)) as picture:
        size = sizes[os.path.basename(name)[:-4]]
        assert picture.mode == 'P' and (picture.height, picture.width) == size
        assert (np.asarray(picture) == predictor.labels(pixels(*size)[None])[0]).mean() > 0.999


def test_a_submission_with_an_image_left_out_is_not_packed(folder, tmp_path):
  Image.fromarray(pixels(5, 6)).save(tmp_path / 'a.png')
  (tmp_path / 'b.png').write_bytes((tmp_path / 'a.png').read_bytes()[:50])
  process = infer(f'--ckpt={folder}', '--submission', f'--output_dir={tmp_path / "out"}', tmp_path)
  assert process.returncode == 1 and process.stderr.endswith('b.png; no archive is written\n')
  assert os.listdir(tmp_path / 'out') == ['results']


def test_submission_never_overwrites_its_input(folder, tmp_path):
  Image.fromarray(pixels(5, 6)).save(tmp_path / 'a.png')
  before = (tmp_path / 'a.png').read_bytes()
  folder_of_labels = tmp_path / 'results/VOC2012/Segmentation/comp6_test_cls'
  folder_of_labels.mkdir(parents=True)
  os.rename(tmp_path / 'a.png', folder_of_labels / 'a.png')
  process = infer(f'--ckpt={folder}', '--submission', f'--output_dir={tmp_path}', folder_of_labels)
  assert process.returncode == 1 and 'would overwrite an input' in process.stderr
  assert (folder_of_labels / 'a.png').read_bytes() == before


@pytest.mark.parametrize('args,message', [
    (['--ckpt=/nowhere/run', 'a.png'], '--ckpt=/nowhere/run: no such run folder or checkpoint'),
    (['--ckpt=RUN'], 'no images given'),
    (['--ckpt=RUN', '--tile_size=100', 'a.png'], '--tile_size=100'),
    (['--ckpt=RUN', '--test_scales=1,0', 'a.png'], '--test_scales=1,0: valid are 0.1 to 4'),
    (['--ckpt=RUN', '--list=RUN/names.txt', 'RUN/a.png'], 'names.txt: 1 of its 2 names are not among the images'),
    (['--ckpt=RUN', '--gpu=7', 'RUN/a.png'], '--gpu=7: '),
    (['--ckpt=RUN', '--output_dir=RUN/config.json', 'a.png'], 'config.json'),
    (['a.png'], 'ckpt'),
])
def test_a_bad_flag_is_one_line(folder, tmp_path, args, message):
  for file in folder.iterdir():
    (tmp_path / file.name).symlink_to(file)
  (tmp_path / 'names.txt').write_text('a\nb\n')
  Image.fromarray(pixels(5, 6)).save(tmp_path / 'a.png')
  process = infer(*(arg.replace('RUN', str(tmp_path)) for arg in args))
  assert process.returncode == 1
  errors = [line for line in process.stderr.splitlines() if line.startswith('error: ')]
  assert len(errors) == 1 and message in errors[0]
  assert 'Traceback' not in process.stderr
