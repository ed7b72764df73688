"""Archives for evaluation servers: files that a server would refuse are refused here, by name."""

import functools
import io
import os
import pathlib
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image
from programs import assert_refused

from datasets import DATASETS, submission
from datasets.label_pictures import read_label
from utils.errors import UserError
from utils.files import replacing

pytestmark = pytest.mark.fast

SIZES = {'2008_000006': (30, 50), '2008_000011': (41, 7)}
FOLDER = 'results/VOC2012/Segmentation/comp6_test_cls'


def write_labels(dataset, output_dir, sizes=SIZES):
  """Writes random labels of all ids; returns name -> label."""
  folder = submission.label_folder(dataset, str(output_dir))
  rng = np.random.default_rng(0)
  labels = {name: rng.integers(0, dataset.num_classes, size).astype(np.uint8) for name, size in sizes.items()}
  for name, label in labels.items():
    pathlib.Path(folder, f'{name}.png').write_bytes(submission.label_png(label, dataset))
  return labels


def test_vocs_archive(tmp_path):
  """results/VOC2012/Segmentation/comp6_test_cls/NAME.png: palette PNGs of ids 0 to 20, without the packer's name."""
  labels = write_labels(DATASETS['voc'], tmp_path)
  path = submission.pack(DATASETS['voc'], str(tmp_path), SIZES)
  assert path == str(tmp_path / 'results.tar.gz')
  assert (tmp_path / 'results.tar.gz').read_bytes()[:2] == b'\x1f\x8b'
  with tarfile.open(path) as archive:
    assert archive.getnames() == [f'{FOLDER}/2008_000006.png', f'{FOLDER}/2008_000011.png']
    for member in archive:
      assert (member.uid, member.gid, member.uname, member.gname) == (0, 0, '', '')
      picture = Image.open(archive.extractfile(member))
      assert picture.mode == 'P' and picture.getpalette()[:9] == [0, 0, 0, 128, 0, 0, 0, 128, 0]
      np.testing.assert_array_equal(np.asarray(picture), labels[os.path.basename(member.name)[:-4]])
  assert sorted(os.listdir(tmp_path)) == ['results', 'results.tar.gz']


def test_mits_archive(tmp_path):
  """A zip of grayscale PNGs of 1 to 150, named as the images, in no folder."""
  labels = write_labels(DATASETS['mit'], tmp_path, {'ADE_test_00000001': (20, 30)})
  (tmp_path / 'ADE_test_00000001_overlay.png').write_bytes(b'of an earlier run')
  with zipfile.ZipFile(submission.pack(DATASETS['mit'], str(tmp_path), {'ADE_test_00000001': (20, 30)})) as archive:
    assert archive.namelist() == ['ADE_test_00000001.png'] and archive.testzip() is None
    picture = Image.open(io.BytesIO(archive.read('ADE_test_00000001.png')))
  assert picture.mode == 'L'
  np.testing.assert_array_equal(np.asarray(picture), labels['ADE_test_00000001'].astype(int) + 1)
  assert np.asarray(picture).min() == 1 and np.asarray(picture).max() == 150


def _label(values, dataset='voc', mode='P', palette=None):
  picture = Image.fromarray(np.asarray(values, np.uint8), 'L').convert('L')
  if mode == 'P':
    picture = Image.fromarray(np.asarray(values, np.uint8))
    picture.putpalette((DATASETS[dataset].palette if palette is None else palette).tobytes())
  file = io.BytesIO()
  picture.save(file, 'PNG')
  return file.getvalue()


ZEROS = np.zeros((30, 50), np.uint8)


@pytest.mark.parametrize('dataset, data, problem', [
    ('voc', _label(np.zeros((50, 30))), 'is 30x50 pixels, but its image is 50x30'),
    ('voc', _label(np.full((30, 50), 255)), 'has values from 255 to 255; valid are 0 to 20'),
    ('voc', _label(ZEROS, mode='L'), 'has pixels of mode L; a palette PNG is wanted'),
    ('voc', _label(ZEROS, palette=DATASETS['mit'].palette[:21]), 'has another palette than voc'),
    ('voc', _label(ZEROS)[:60], 'cannot be decoded as PNG'),
    ('voc', b'GIF89a', 'cannot be decoded as PNG'),
    ('voc', b'', 'cannot be decoded as PNG'),
    ('mit', _label(ZEROS, mode='L'), 'has values from 0 to 0; valid are 1 to 150'),
    ('mit', _label(ZEROS + 151, mode='L'), 'has values from 151 to 151; valid are 1 to 150'),
    ('mit', _label(ZEROS + 1, dataset='mit'), 'has pixels of mode P; a grayscale PNG is wanted'),
    ('voc', None, 'is missing'),
])
def test_a_bad_label_is_named_and_no_archive_is_written(tmp_path, dataset, data, problem):
  dataset = DATASETS[dataset]
  write_labels(dataset, tmp_path)
  path = os.path.join(submission.label_folder(dataset, str(tmp_path)), '2008_000006.png')
  archive = tmp_path / dataset.submission.archive
  archive.write_text('an older one')
  own = functools.partial(replacing, own=os.path.isfile)  # as the ledger of the folder says
  if data is None:
    os.unlink(path)
    with pytest.raises(UserError, match='No such file'):
      submission.pack(dataset, str(tmp_path), SIZES, own)
  else:
    with open(path, 'wb') as file:
      file.write(data)
    with pytest.raises(UserError, match=f'^{archive} is no submission for http.*: .*2008_000006.png {problem}[^;]*$'):
      submission.pack(dataset, str(tmp_path), SIZES, own)
  with pytest.raises(UserError, match=f'^{tmp_path} is no submission for http.*: .*2008_000006.png {problem}'):
    submission.check(dataset, str(tmp_path), SIZES)
  assert archive.read_text() == 'an older one'
  assert [name for name in os.listdir(tmp_path) if name.endswith('.tmp')] == []


def _tar(path, members, mode='w:gz'):
  with tarfile.open(path, mode) as archive:
    for name, data in members:
      info = tarfile.TarInfo(name)
      info.size = len(data)
      archive.addfile(info, io.BytesIO(data))


def test_archives_of_others(tmp_path):
  """Members that belong to no image, come twice or lie elsewhere, and the first five of many."""
  good = [(f'{FOLDER}/a.png', _label(ZEROS)), (f'{FOLDER}/b.png', _label(ZEROS))]
  sizes = {'a': (30, 50), 'b': (30, 50)}
  path = tmp_path / 'their.tgz'
  _tar(path, good)
  submission.check(DATASETS['voc'], str(path), sizes)
  _tar(path, good + good[:1] + [('notes.txt', b'')])
  with pytest.raises(UserError, match=f'{FOLDER}/a.png comes twice; notes.txt belongs to no image$'):
    submission.check(DATASETS['voc'], str(path), sizes)
  _tar(path, [(f'./{name}', data) for name, data in good])  # tar czf their.tgz ./results
  submission.check(DATASETS['voc'], str(path), sizes)
  _tar(path, [(f'my/{name}', data) for name, data in good])
  with pytest.raises(UserError, match=f' my/{FOLDER}/a.png belongs to no image; .* {FOLDER}/b.png is missing$'):
    submission.check(DATASETS['voc'], str(path), sizes)
  _tar(path, good)
  with pytest.raises(UserError, match=r'/06.png is missing and 4 more$'):
    submission.check(DATASETS['voc'], str(path), {f'{number:02}': (1, 1) for number in range(4, 11)})


@pytest.mark.parametrize('damage', ['cut', 'no gzip', 'a zip', 'nothing'])
def test_an_archive_of_another_kind_is_one_line(tmp_path, damage):
  path = tmp_path / 'results.tar.gz'
  _tar(path, [(f'{FOLDER}/a.png', _label(np.random.default_rng(0).integers(0, 21, (300, 500))))],
       'w' if damage == 'no gzip' else 'w:gz')
  if damage == 'cut':
    path.write_bytes(path.read_bytes()[:-5000])
  if damage == 'a zip':
    zipfile.ZipFile(path, 'w').close()
  if damage == 'nothing':
    path.unlink()
  with pytest.raises(UserError, match=f'^{path} cannot be read as tar.gz: '):
    submission.check(DATASETS['voc'], str(path), {'a': (300, 500)})


def test_a_member_of_many_bytes_is_not_read(tmp_path, monkeypatch):
  monkeypatch.setattr(submission, '_MOST_BYTES', 2**20)
  path = tmp_path / 'results.tar.gz'
  _tar(path, [(f'{FOLDER}/a.png', bytes(2**21))])
  with pytest.raises(UserError, match='a.png is no file of less than 1 MiB'):
    submission.check(DATASETS['voc'], str(path), {'a': (300, 500)})


def test_datasets_without_a_server_are_told_those_with_one():
  with pytest.raises(UserError, match='^--submission: no evaluation server is known for the dataset camvid; there are '
                                      'for .*voc.*mit'):
    submission.dataset_with_server('camvid', DATASETS['camvid'].classes)
  with pytest.raises(UserError, match='no evaluation server is known for the dataset my_photos'):
    submission.dataset_with_server('my_photos', ('sky',))
  with pytest.raises(UserError, match='other classes than those of voc'):
    submission.dataset_with_server('voc', ('sky', 'road'))
  assert submission.dataset_with_server('voc_aug', list(DATASETS['voc'].classes)) is DATASETS['voc_aug']


def test_vocs_labels_pass_without_void(shared, tmp_path, run_program):
  source = shared / 'data/voc/VOCdevkit/VOC2012'
  if not source.is_dir():
    pytest.skip(f'no {source}')
  names = (source / 'ImageSets/Segmentation/val.txt').read_text().split()[:5]
  folder = submission.label_folder(DATASETS['voc'], str(tmp_path / 'out'))
  for name in names:
    label = read_label(str(source / f'SegmentationClass/{name}.png'))
    png = submission.label_png(np.where(label == 255, 0, label), DATASETS['voc'])
    pathlib.Path(folder, f'{name}.png').write_bytes(png)
  (tmp_path / 'list.txt').write_text('\n'.join(names))

  def check_command(path, listed='list.txt'):
    return run_program(submission.main, '--dataset=voc', f'--images={source / "JPEGImages"}',
                       f'--list={tmp_path / listed}', path)

  result = check_command(tmp_path / 'out')
  assert result.returncode == 0, result.stderr
  assert result.stdout.startswith(f'{tmp_path / "out"}: 5 label PNGs, as http')
  os.unlink(os.path.join(folder, f'{names[1]}.png'))
  (tmp_path / 'out' / FOLDER / f'{names[0]}.png').write_bytes(
      (source / f'SegmentationClass/{names[0]}.png').read_bytes())
  result = check_command(tmp_path / 'out')
  line = result.stderr.splitlines()[-1]
  assert result.returncode == 1 and line.startswith('error: ')
  assert f'{names[0]}.png has values from 0 to 255' in line and f'{names[1]}.png is missing' in line
  (tmp_path / 'other.txt').write_text('2012_999999')
  assert 'no image 2012_999999, which' in check_command(tmp_path / 'out', 'other.txt').stderr


@pytest.mark.parametrize('arguments, problem', [
    ((), 'flag --dataset: must be given'),
    (('--dataset=voc', 'a.tar.gz'), 'flag --images: must be given'),
    (('--dataset=camvid', '--images=.', 'a.tar.gz'), '--dataset=camvid: valid are voc, voc2011, voc_aug, mit'),
    (('--dataset=voc', '--images=.'), 'name one archive, or the folder that it is packed from'),
    (('--dataset=voc', '--images=.', 'a.tar.gz', 'b.tar.gz'), 'name one archive'),
])
def test_wrong_arguments_are_refused(arguments, problem, run_program):
  assert_refused(run_program(submission.main, *arguments), problem)
