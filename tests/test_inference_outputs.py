"""What inference.py writes and where: never over files of others, in the user's own numbering, and what it says."""

import errno
import json
import os
import re

import numpy as np
import pytest
from PIL import Image
from programs import assert_refused
from random_run import write_run

from utils.inference.predictor import Predictor
from utils.runs import load_run

CLASSES = ('road', 'car', 'sky')


@pytest.fixture(scope='module')
def folder(tmp_path_factory, tiny):
  return write_run(tmp_path_factory.mktemp('run'), CLASSES, network=tiny, dataset='own')


def photograph(path, height=13, width=22, seed=0, **options):
  """Writes a random picture, its path of any bytes; returns its pixels."""
  image = np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)
  os.makedirs(os.path.dirname(path) or '.', exist_ok=True)
  Image.fromarray(image).save(path, **options)
  return image


def values(path):
  with Image.open(path) as picture:
    return np.asarray(picture)


def contents(root):
  """Dict from the path of every file below a folder to its bytes."""
  paths = (os.path.join(place, name) for place, _, names in os.walk(root) for name in names)
  return {path: open(path, 'rb').read() for path in paths}  # noqa: SIM115


def test_truths_beside_the_photographs_are_never_overwritten(infer):
  for name in ('0001', '0002'):
    photograph(f'p/{name}.jpg')
  photograph('p/0001_label.png', seed=5)
  before = contents('p')
  result = infer('--output_dir=p', 'p/0001.jpg', 'p/0002.jpg')
  assert result.returncode == 1 and result.stdout.startswith('1 images labeled')
  [line] = [line for line in result.stderr.splitlines() if line.startswith('skipped')]
  assert line.startswith('skipped p/0001.jpg: its output p/0001_label.png exists') and '--overwrite' in line
  assert sorted(set(contents('p')) - set(before)) == ['p/0002_label.png', 'p/0002_overlay.png']
  assert before.items() <= contents('p').items()

  result = infer('--output_dir=p', 'p')  # in the folder the truth is an input as well, and the program's own are none
  assert result.returncode == 1 and 'p/0001_label.png would overwrite an input' in result.stderr
  assert 'left out: 2 written by this program (p/0002_label.png, p/0002_overlay.png)' in result.stderr
  assert infer('--output_dir=p', '--overwrite', 'p').returncode == 1
  assert before.items() <= contents('p').items()

  result = infer('--output_dir=p', '--overwrite', 'p/0001.jpg')
  assert result.returncode == 0 and values('p/0001_label.png').shape == (13, 22)


def test_nothing_is_computed_for_outputs_that_cannot_be_written(infer, monkeypatch):
  photograph('a.jpg')
  os.makedirs('out/a_overlay.png')
  monkeypatch.setattr(Predictor, '__init__', None)
  result = infer('--output_dir=out', 'a.jpg')
  assert result.returncode == 1 and 'a_overlay.png cannot be written: it is a folder' in result.stderr
  assert result.stdout.startswith('0 images labeled') and os.listdir('out') == ['a_overlay.png']


def test_own_outputs_are_replaced_until_somebody_changes_them(infer):
  photograph('a.jpg')
  arguments = ('--output_dir=out', '--probabilities', 'a.jpg')
  assert infer(*arguments).returncode == 0
  first = contents('out')
  assert infer(*arguments).returncode == 0
  assert {path: data for path, data in contents('out').items() if path.endswith('png')}.items() <= first.items()
  label = Image.open('out/a_label.png')
  label.putpixel((0, 0), 2)
  label.save('out/a_label.png')  # a corrected label
  result = infer(*arguments)
  assert result.returncode == 1 and 'out/a_label.png exists, and this program did not write it' in result.stderr
  os.unlink('out/a_label.png')
  np.save('out/a_probabilities.npy', np.zeros(3))
  assert 'out/a_probabilities.npy exists' in infer(*arguments).stderr
  assert infer(*arguments, '--overwrite').returncode == 0
  assert np.load('out/a_probabilities.npy').shape == (13, 22, 3)


def test_outputs_mirror_folders(infer):
  for number, name in enumerate(('a.jpg', 'x/a.jpg', 'x/y/a.png')):
    photograph(f'p/{name}', height=10 + number)
  result = infer('--output_dir=p/out', 'p')
  assert result.returncode == 0 and result.stdout.startswith('3 images labeled') and 'taken' not in result.stderr
  assert [values(f'p/out/{name}_label.png').shape[0] for name in ('a', 'x/a', 'x/y/a')] == [10, 11, 12]
  before = sorted(contents('p'))
  again = infer('--output_dir=p/out', 'p')
  assert again.returncode == 0 and again.stdout.startswith('3 images') and sorted(contents('p')) == before
  assert 'left out: 1 output folder (p/out)' in again.stderr


@pytest.mark.parametrize('length, outputs, written', [(244, 'label', 2), (244, 'label,overlay', 1), (250, 'label', 1)])
def test_a_name_too_long_is_left_out_and_the_rest_done(infer, length, outputs, written):
  photograph('p/a.jpg')
  photograph(f'p/{"n" * length}.jpg')
  result = infer('--output_dir=out', f'--outputs={outputs}', 'p')
  assert result.returncode == (written == 1) and result.stdout.startswith(f'{written} images labeled')
  assert ('File name too long' in result.stderr) == (written == 1)


def test_a_result_that_cannot_be_written_is_one_image_and_a_full_disk_all(infer, monkeypatch):
  for name in 'abc':
    photograph(f'p/{name}.jpg')
  replace = os.replace

  def failing(code):
    def replaced(source, target):
      if target.endswith('b_overlay.png'):
        raise OSError(code, os.strerror(code))
      replace(source, target)
    return replaced

  monkeypatch.setattr(os, 'replace', failing(errno.EACCES))
  result = infer('--output_dir=out', 'p')
  assert result.returncode == 1 and result.stdout.startswith('2 images labeled')
  assert 'skipped p/b.jpg: cannot write out/b_overlay.png: Permission denied' in result.stderr
  monkeypatch.setattr(os, 'replace', failing(errno.ENOSPC))
  result = infer('--output_dir=full', '--batch_size=1', 'p')
  assert result.returncode == 1 and not result.stdout
  assert result.stderr.endswith('error: cannot write full/b_overlay.png: No space left on device\n')
  assert sorted(os.listdir('full')) == ['a_label.png', 'a_overlay.png', 'b_label.png']


@pytest.mark.parametrize('arguments, kinds', [
    (('--outputs=label',), ['label.png']), (('--outputs=overlay',), ['overlay.png']),
    (('--outputs=overlay,label',), ['label.png', 'overlay.png']),
    (('--outputs=', '--probabilities'), ['probabilities.npy']),
    (('--outputs=label', '--samples=2'), ['label.png', 'uncertainty.png'])])
def test_outputs_that_are_wanted_alone_are_written(infer, arguments, kinds):
  photograph('a.jpg')
  assert infer('--output_dir=out', *arguments, 'a.jpg').returncode == 0
  assert sorted(name for name in os.listdir('out') if name[0] != '.') == [f'a_{kind}' for kind in kinds]


@pytest.mark.parametrize('arguments, message', [
    (['--outputs='], '--outputs= leaves nothing to write; valid are label, overlay'),
    (['--outputs=labels'], '--outputs=labels: valid are label, overlay'),
    (['--value_range=5'], 'value_range'), (['--value_range=5,5'], 'value_range'),
    (['--value_range=0,9,0,8,0,7'], 'value_range has 3 pairs; photographs without named bands have one'),
    (['--exif=x'], '--exif=x: valid are turn, stored'),
    (['--label_values=raw'], '--label_values=raw: valid are dataset, ids, colors')])
def test_wrong_flags_are_one_line(infer, arguments, message):
  photograph('a.jpg')
  assert_refused(infer(*arguments, 'a.jpg'), message)


@pytest.fixture
def with_values(folder, tmp_path):
  """`with_values(label_values)` makes a copy of the run whose dataset's labels have these values; returns --ckpt."""
  def make(label_values):
    copy = tmp_path / 'copy'
    copy.mkdir()
    for file in folder.iterdir():
      (copy / file.name).symlink_to(file)
    config = json.loads((folder / 'config.json').read_text())
    config['dataset']['label_values'] = label_values
    (copy / 'config.json').unlink()
    (copy / 'config.json').write_text(json.dumps(config))
    return f'--ckpt={copy}'
  return make


@pytest.mark.parametrize('own', [[1, 2, 3], [7, 0, 255], [254, 3, 17]])
def test_labels_have_the_values_of_the_users_own(infer, folder, predictor, with_values, own):
  """And their palette has the classes' colors at these values."""
  ids = predictor.labels(photograph('a.png')[None])[0]
  copy = with_values(own)
  result = infer(copy, '--output_dir=out', '--outputs=label', 'a.png')
  assert f'values of the label PNGs: road {own[0]}, car {own[1]}, sky {own[2]}\n' in result.stdout
  assert len(np.unique(ids)) > 1
  np.testing.assert_array_equal(values('out/a_label.png'), np.array(own)[ids])
  with Image.open('out/a_label.png') as picture:
    assert picture.mode == 'P'
    np.testing.assert_array_equal(np.asarray(picture.convert('RGB')), load_run(str(folder)).palette[ids])
  result = infer(copy, '--output_dir=out', '--outputs=label', '--label_values=ids', 'a.png')
  assert result.returncode == 0 and 'values of' not in result.stdout
  np.testing.assert_array_equal(values('out/a_label.png'), ids)


@pytest.mark.parametrize('own', [[], None, [0, 1, 2]])
def test_without_values_of_their_own_labels_have_the_networks_ids(infer, predictor, with_values, own):
  image = photograph('a.png')
  result = infer(with_values(own), '--output_dir=out', 'a.png')
  assert result.returncode == 0 and 'values of' not in result.stdout
  np.testing.assert_array_equal(values('out/a_label.png'), predictor.labels(image[None])[0])


@pytest.mark.parametrize('own', [[[1, 2, 3], [0, 0, 0], [255, 255, 255]], [[9, 9, 9], [255, 0, 0], [0, 0, 255]], None])
def test_labels_have_the_colors_of_the_users_own(infer, folder, predictor, with_values, own):
  image = photograph('a.png')
  flag = [] if own else ['--label_values=colors']
  result = infer(with_values(own), *flag, '--output_dir=out', '--outputs=label', 'a.png')
  colors = np.array(own or load_run(str(folder)).palette)
  assert f'road {colors[0][0]},{colors[0][1]},{colors[0][2]}, car ' in result.stdout
  np.testing.assert_array_equal(values('out/a_label.png'), colors[predictor.labels(image[None])[0]])


@pytest.mark.parametrize('own', [
    [1, 2], [1, 2, 256], [1, 2, -1], ['1', '2', '3'], [[1, 2, 3], 4, 5], [0.5, 1, 2], 7, [1, None, 3]])
def test_values_that_no_label_can_have_are_refused(infer, with_values, own):
  photograph('a.png')
  copy = with_values(own)
  assert_refused(infer(copy, 'a.png'), 'copy/config.json: label_values=', 'from 0 to 255 for each of the 3 classes')
  assert infer(copy, '--label_values=ids', 'a.png').returncode == 0


def test_names_and_formats_as_people_have_them(infer, capsys):
  names = [b'stra\xdfe.png', b'two\nlines [x]*.png', b'it\'s "one", a.png', 'straße.png'.encode()]
  for name in names:
    photograph(b'p/' + name)
  photograph('p/a.jfif', format='JPEG')
  photograph('p/b.JPE', format='JPEG')
  photograph('p/c.mpo', format='JPEG')
  photograph('p/d_label.png')
  with open('p/list.txt', 'wb') as file:
    file.write('# all but two\nstraße.png\nd_label\nit\'s "one", a\n'.encode())
  result = infer('--output_dir=all', 'p')
  assert result.returncode == 0 and result.stdout.startswith('8 images labeled'), result.stderr
  written = os.listdir(b'all')
  assert sorted(written) == sorted(os.path.splitext(name)[0] + kind for kind in (b'_label.png', b'_overlay.png')
                                   for name in (*names, b'a.x', b'b.x', b'c.x', b'd_label.png'))
  result = infer('--output_dir=some', '--list=p/list.txt', '--outputs=label', f'--input=p/{os.fsdecode(names[2])}', 'p')
  assert result.returncode == 0, result.stderr
  assert sorted(os.listdir('some')) == ['d_label_label.png', 'it\'s "one", a_label.png', 'straße_label.png']


def test_flags_say_what_pictures_of_many_kinds_mean(infer, predictor):
  """Where nothing proves it the picture is left out, with the flag that this program has."""
  rng = np.random.default_rng(0)
  deep = rng.integers(0, 4000, (9, 14)).astype(np.uint16)
  bands = rng.integers(20, 200, (11, 15, 4)).astype(np.uint8)
  turned = rng.integers(0, 256, (8, 17, 3)).astype(np.uint8)
  exif = Image.Exif()
  exif[0x0112] = 6
  os.mkdir('p')
  Image.fromarray(deep).save('p/deep.png')
  Image.fromarray(bands).save('p/bands.tif')
  Image.fromarray(turned).save('p/turned.png', exif=exif)
  result = infer('--output_dir=out', 'p')
  assert result.returncode == 1 and result.stdout.startswith('1 images labeled')
  skipped = [line for line in result.stderr.splitlines() if line.startswith('skipped')]
  assert '--image_alpha=white' in skipped[0] and '--image_alpha=drop' in skipped[0] and '--alpha' not in skipped[0]
  assert '--value_range=0,4095' in skipped[1]
  assert values('out/turned_label.png').shape == (17, 8)
  result = infer('--output_dir=out', '--image_alpha=drop', '--value_range=0,4000', '--exif=stored', 'p')
  assert result.returncode == 0, result.stderr
  gray = np.rint(deep * (255 / 4000)).astype(np.uint8)
  for name, image in (('deep', np.repeat(gray[..., None], 3, axis=-1)), ('bands', bands[..., :3]), ('turned', turned)):
    np.testing.assert_array_equal(values(f'out/{name}_label.png'), predictor.labels(image[None])[0])


def test_avif_is_a_photograph(infer):
  pytest.importorskip('PIL._avif')
  photograph('a.avif', 9, 14)
  assert infer('--output_dir=out', 'a.avif').returncode == 0
  assert values('out/a_label.png').shape == (9, 14)


def test_the_last_lines_count_what_was_skipped_and_why(infer, monkeypatch):
  monkeypatch.setattr('utils.inference.files.images.FORMATS', ('JPEG', 'PNG'))
  for name in ('a.jpg', 'b.png', 'sub/c.jpg'):
    photograph(f'p/{name}')
  for name in ('d.heic', 'e.heic', 'notes.txt', 'f.mp4', 'broken.png'):
    with open(f'p/{name}', 'w') as file:
      file.write('none')
  result = infer('--output_dir=out', 'p', 'nowhere.jpg')
  assert result.returncode == 1
  expected = (r'3 images labeled by \S+ \(step 1234, the latest\), [0-9.]+/s, 5 skipped \(2 .heic, 1 not found, '
              r'2 unreadable\); pictures in out\n')
  assert re.fullmatch(expected, result.stdout), result.stdout
  lines = [line for line in result.stderr.splitlines() if line]
  assert lines[0] == 'left out: 1 .txt (p/notes.txt)'
  assert lines[1] == ('skipped 2 .heic files (p/d.heic, p/e.heic): convert to JPEG or PNG, or pip install pillow-heif')
  assert any(line.startswith('skipped p/f.mp4: is no video that ffmpeg reads') for line in lines)
  assert lines[-1] == 'error: 5 inputs skipped: p/d.heic, p/e.heic, nowhere.jpg, p/broken.png, p/f.mp4'


def test_a_folder_of_own_outputs_alone_holds_nothing_to_label(infer):
  photograph('a.jpg')
  assert infer('--output_dir=out', 'a.jpg').returncode == 0
  result = infer('--output_dir=other', 'out/a_label.png', 'out/a_overlay.png')
  assert result.returncode == 1 and result.stderr.endswith('error: no image is left to label\n')
  assert 'left out: 2 written by this program' in result.stderr and not os.path.exists('other')


def test_an_archive_of_others_is_not_replaced(infer, tmp_path_factory, tiny):
  from datasets.readers.voc import VOC

  run = write_run(tmp_path_factory.mktemp('voc'), VOC.classes, network=tiny, dataset='voc')
  photograph('a.jpg')
  os.mkdir('out')
  with open('out/results.tar.gz', 'w') as file:
    file.write('precious')
  arguments = (f'--ckpt={run}', '--submission', '--output_dir=out', 'a.jpg')
  assert_refused(infer(*arguments), '--submission: its output out/results.tar.gz exists')
  os.unlink('out/results.tar.gz')
  for _ in range(2):
    assert infer(*arguments).returncode == 0
