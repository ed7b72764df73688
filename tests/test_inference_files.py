"""Inputs of inference.py in folders, globs and lists; names of its outputs; what may be overwritten."""

import json
import os

import numpy as np
import pytest
from PIL import Image

from datasets.images import encode_png
from datasets.reading import Reading
from utils import marks
from utils.errors import UserError
from utils.files import identity, replacing
from utils.inference import files, ledgers
from utils.inference.files import PHOTO, VIDEO, Input
from utils.inference.stream import Failed
from utils.runs import Run

pytestmark = pytest.mark.fast

RUN = Run('runs/straße', 'runs/straße/model.ckpt-70', 70, {})
PNG = encode_png(np.arange(24, dtype=np.uint8).reshape(2, 4, 3))


def make(root, *names):
  """Writes PNGs below a folder, whatever their names."""
  for name in names:
    path = os.path.join(root, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, 'wb') as file:
      file.write(PNG)


def found(*given, output_dir='predictions'):
  """Returns ([(path, name)] of the inputs, failures, {path: what} of what is left out)."""
  inputs, failures, left_out = files.find(given, str(output_dir))
  return [(item.path, item.name) for item in inputs], failures, {item.path: item.what for item in left_out}


@pytest.fixture
def here(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  return tmp_path


def test_folders_within_folders_are_searched_in_order(here):
  make('p', 'b.jpg', 'a.JPG', 'cam 2/a.jpg', 'cam 1/deep/a.png', 'cam 1/z.tif')
  assert found('p')[0] == [('p/a.JPG', 'a'), ('p/b.jpg', 'b'), ('p/cam 1/z.tif', 'cam 1/z'),
                           ('p/cam 1/deep/a.png', 'cam 1/deep/a'), ('p/cam 2/a.jpg', 'cam 2/a')]
  assert found('p/cam 1', 'p/b.jpg')[0] == [('p/cam 1/z.tif', 'z'), ('p/cam 1/deep/a.png', 'deep/a'), ('p/b.jpg', 'b')]


@pytest.mark.parametrize('name, kind', [
    ('a.jfif', PHOTO), ('a.jpe', PHOTO), ('a.MPO', PHOTO), ('a.pnm', PHOTO), ('a.Jpeg', PHOTO), ('a.heic', PHOTO),
    ('a.mp4', VIDEO), ('a.MOV', VIDEO), ('a.webm', VIDEO), ('a.txt', None), ('jpg', None), ('a.jpg.part', None)])
def test_kinds_by_name(name, kind):
  assert files.kind_of(f'some.jpg/{name}') == kind


def test_what_is_left_out_is_said(here):
  make('p', 'a.jpg', '._a.jpg', '.hidden.png', '.git/b.png', '@eaDir/a.jpg', '__MACOSX/a.jpg', 'Thumbs.db', 'notes.txt',
       'LIESMICH', 'sub/list.TXT')
  os.mkfifo('p/pipe.jpg')
  inputs, failures, left_out = found('p')
  assert inputs == [('p/a.jpg', 'a')] and not failures
  assert left_out == {
      'p/._a.jpg': 'hidden', 'p/.hidden.png': 'hidden', 'p/.git': 'hidden', 'p/@eaDir': 'of the system',
      'p/__MACOSX': 'of the system', 'p/Thumbs.db': 'of the system', 'p/notes.txt': '.txt', 'p/sub/list.TXT': '.txt',
      'p/LIESMICH': 'without suffix', 'p/pipe.jpg': 'pipe or device'}
  assert found('p/.hidden.png', 'p/notes.txt', 'p')[0] == [  # what is named is tried
      ('p/.hidden.png', '.hidden'), ('p/notes.txt', 'notes'), ('p/a.jpg', 'a')]
  assert not {'p/.hidden.png', 'p/notes.txt'} & set(found('p', 'p/.hidden.png', 'p/notes.txt')[2])
  assert found('p/.git')[0] == [('p/.git/b.png', 'b')]


def test_a_folder_without_an_image_and_a_missing_file_fail(here):
  make('p', 'notes.txt')
  assert found('p', 'nowhere.jpg', 'p/*.gif')[1] == [
      Failed('p', 'no image in this folder', 'without an image'), Failed('nowhere.jpg', 'does not exist', 'not found'),
      Failed('p/*.gif', 'does not exist', 'not found')]


def test_a_folder_that_cannot_be_listed_fails(here, monkeypatch):
  make('p', 'a.jpg', 'locked/b.jpg')
  listdir = os.listdir

  def guarded(path):
    if path.endswith('locked'):
      raise PermissionError(13, 'Permission denied')
    return listdir(path)

  monkeypatch.setattr(os, 'listdir', guarded)
  assert found('p')[:2] == ([('p/a.jpg', 'a')],
                            [Failed('p/locked', 'cannot be listed: Permission denied', 'unreadable')])


def test_formats_that_are_not_installed_are_named(here, monkeypatch):
  make('p', 'a.HEIC', 'b.avif', 'c.jpg')
  monkeypatch.setattr(files.images, 'FORMATS', ('JPEG', 'PNG'))
  inputs, failures, _ = found('p')
  assert inputs == [('p/c.jpg', 'c')] and [failure.cause for failure in failures] == ['.heic', '.avif']
  assert 'pip install pillow-heif' in failures[0].reason
  monkeypatch.setattr(files.images, 'FORMATS', ('JPEG', 'HEIF', 'AVIF'))
  assert [path for path, _ in found('p')[0]] == ['p/a.HEIC', 'p/b.avif', 'p/c.jpg']


def test_links_are_labeled_under_each_name_and_paths_once(here):
  make('p', 'a.jpg')
  os.symlink('a.jpg', 'p/b.jpg')
  os.link('p/a.jpg', 'p/c.jpg')
  os.symlink('gone.jpg', 'p/d.jpg')
  os.symlink('p', 'q')
  os.symlink('../q', 'p/round')
  os.symlink('itself', 'p/itself')
  inputs, _, left_out = found('p', 'p/a.jpg', './p/../p/a.jpg', here / 'p/a.jpg')
  assert inputs == [(f'p/{name}.jpg', name) for name in 'abcd']
  assert left_out == {'p/round': 'linked to a folder above', 'p/itself': 'without suffix'}
  assert found('q')[0] == [(f'q/{name}.jpg', name) for name in 'abcd']


def test_globs_keep_the_folders_from_the_first_wildcard_on(here):
  make('p', 'cam1/0.jpg', 'cam2/0.jpg', 'cam2/notes.txt', 'cam2/in/1.jpg', 'b.jpg')
  assert found('p/*/0.jpg')[0] == [('p/cam1/0.jpg', 'cam1/0'), ('p/cam2/0.jpg', 'cam2/0')]
  assert found('p/cam*')[0] == [
      ('p/cam1/0.jpg', 'cam1/0'), ('p/cam2/0.jpg', 'cam2/0'), ('p/cam2/in/1.jpg', 'cam2/in/1')]
  assert found('*/b.jpg')[0] == [('p/b.jpg', 'p/b')]
  assert found('p/*/../../p/b.jpg')[0][0][1] == 'b'  # never out of the output folder


@pytest.mark.parametrize('name', [
    'two words.jpg', 'new\nline.jpg', "quote'\".jpg", 'a[1].jpg', 'st*r?.jpg', 'comma,s.jpg', 'straße.jpg', '-dash.jpg',
    os.fsdecode(b'stra\xdfe.jpg')])
def test_odd_names_are_taken_as_they_are(here, name):
  make('p', name, 'a1.jpg')
  path = os.path.join('p', name)
  assert (path, name[:-4]) in found('p')[0] and found(path)[0] == [(path, name[:-4])]
  assert files.split_at_commas([path]) == [path]
  if '\n' not in name:
    assert listed_paths(files.find(['p'], 'out')[0], os.fsencode(name), here) == [path]


@pytest.mark.parametrize('value, parts', [
    ('a.jpg,b.jpg', ['a.jpg', 'b.jpg']), ('x,y.jpg', ['x,y.jpg']), ('x,*.jpg', ['x,*.jpg']), (',a.jpg,', ['a.jpg']),
    ('a.jpg,x,y.jpg,b.jpg', ['a.jpg', 'x,y.jpg', 'b.jpg']), ('', [])])
def test_input_is_cut_at_commas_but_not_in_names(here, capsys, value, parts):
  make('.', 'a.jpg', 'b.jpg', 'x,y.jpg')
  assert files.split_at_commas([value]) == parts
  assert not capsys.readouterr().err


def test_a_cut_that_leads_nowhere_is_said(here, capsys):
  make('.', 'a.jpg')
  assert files.split_at_commas(['a.jpg', 'Berlin, Mitte.jpg']) == ['a.jpg', 'Berlin', ' Mitte.jpg']
  assert capsys.readouterr().err == 'note: there is no Berlin, Mitte.jpg, so --input was cut at the commas\n'


def listed_paths(inputs, text, tmp_path):
  (tmp_path / 'list.txt').write_bytes(text if isinstance(text, bytes) else text.encode())
  return [item.path for item in files.only_listed(inputs, str(tmp_path / 'list.txt'))]


@pytest.mark.parametrize('text, paths', [
    ('b\na 1', ['p/b.jpg', 'p/cam/a 1.png']), ('a 1.png\r\n\r\nb.jpg\r\n', ['p/cam/a 1.png', 'p/b.jpg']),
    ('# the best\ncam/a 1\n', ['p/cam/a 1.png']), ('p/b.jpg', ['p/b.jpg']), ('./p/b', ['p/b.jpg']),
    ('#3\n', ['p/#3.jpg']), ('cam\\a 1.png', ['p/cam/a 1.png']), ('b\nb.jpg\n  b  ', ['p/b.jpg']),
    (b'\xef\xbb\xbfb\n', ['p/b.jpg']), ('b.jpg\r\ncam/a 1'.encode('utf-16'), ['p/b.jpg', 'p/cam/a 1.png']),
    ('v1.2', ['p/v1.2.jpg'])])
def test_lists_name_images_in_every_usual_form(here, text, paths):
  make('p', 'b.jpg', 'cam/a 1.png', '#3.jpg', 'v1.2.jpg')
  inputs = files.find(['p'], 'out')[0]
  assert listed_paths(inputs, text, here) == paths
  assert listed_paths(inputs, str(here / 'p/b.jpg'), here) == ['p/b.jpg']


@pytest.mark.parametrize('text, message', [
    ('b\n\nc\nd', 'list.txt: 2 of its 3 names are not among the images given: c (line 3), d (line 4); a line is '),
    ('other/b.jpg', "other/b.jpg (line 1)"), ('b.jpg b.png', 'b.jpg b.png (line 1)'),
    ('a', 'list.txt:1: a stands for 2 images, p/a.jpg, p/cam/a.jpg; write more of the path'), ('', 'is empty')])
def test_wrong_lines_of_a_list_are_named(here, text, message):
  make('p', 'b.jpg', 'a.jpg', 'cam/a.jpg')
  with pytest.raises(UserError) as caught:
    listed_paths(files.find(['p'], 'out')[0], text, here)
  assert message in str(caught.value)
  assert listed_paths(files.find(['p'], 'out')[0], 'cam/a\np/a', here) == ['p/cam/a.jpg', 'p/a.jpg']


def test_own_outputs_are_known_by_their_mark_and_folder(here):
  make('p', 'wine_label.png', 'a.jpg', 'out/other.jpg', 'b_overlay.png')
  ledgers.Ledger('p').write_png('p/a_label.png', PNG, RUN)
  inputs, _, left_out = found('p', output_dir='p/out')
  assert [path for path, _ in inputs] == ['p/a.jpg', 'p/b_overlay.png', 'p/wine_label.png']
  assert left_out == {'p/a_label.png': 'written by this program', 'p/out': 'output folder'}
  assert found('p/a_label.png', 'p/out', output_dir='p/out')[0] == [('p/out/other.jpg', 'other')]


def test_outputs_without_a_mark_are_known_in_every_folder_of_outputs(here):
  """Label TIFFs and overlays of videos that a run before has written to another folder among the pictures."""
  make('p', 'a.jpg', 'before/cam/b.jpg')
  ledger = ledgers.Ledger('p/before')
  for name in ('cam/b_label.tif', 'cam/c_overlay.mp4', 'd_label.tif'):
    with ledger.replacing(f'p/before/{name}') as temporary, open(temporary, 'w') as file:
      file.write(name)
  inputs, _, left_out = found('p', 'p/before/cam/b_label.tif', output_dir='p/out')
  assert [path for path, _ in inputs] == ['p/a.jpg', 'p/before/cam/b.jpg']
  assert left_out['p/before/cam/b_label.tif'] == left_out['p/before/cam/c_overlay.mp4'] == 'written by this program'
  (here / 'p/before/d_label.tif').write_text('corrected by hand')
  assert 'p/before/d_label.tif' in [path for path, _ in found('p', output_dir='p/out')[0]]


def test_a_pipe_is_refused_and_not_waited_for(here):
  os.mkfifo('pipe.png')
  for place in ('pipe.png', 'p*.png', '/dev/null'):
    inputs, [failed], _ = files.find([place], 'out')
    assert inputs == [] and 'is a pipe or device' in failed.reason


def test_the_mark_leaves_the_picture_as_it_is_and_names_the_run(tmp_path):
  ledger = ledgers.Ledger(str(tmp_path))
  ledger.write_png(str(tmp_path / 'a.png'), PNG, RUN)
  with Image.open(tmp_path / 'a.png') as picture:
    np.testing.assert_array_equal(np.asarray(picture).ravel(), np.arange(24))
    assert picture.text['Software'] == 'FCN-GoogLeNet'
    assert picture.text['Comment'].startswith('run stra\\xdfe, step 70, checksum ')
  assert ledger.owns(str(tmp_path / 'a.png')) and marks.is_marked_png(str(tmp_path / 'a.png'))
  assert os.listdir(tmp_path) == ['a.png']  # no ledger


def _edited(path):
  """Draws into a PNG as a program does that keeps its text."""
  from PIL import PngImagePlugin

  with Image.open(path) as picture:
    kept = PngImagePlugin.PngInfo()
    for key, text in picture.text.items():
      kept.add_text(key, text)
    changed = picture.copy()
  changed.putpixel((1, 1), (9, 9, 9))
  changed.save(path, pnginfo=kept)


def _resaved(path):
  with Image.open(path) as picture:
    picture.copy().save(path)


def _lengthened(path):
  with open(path, 'ab') as file:
    file.write(b'x')


@pytest.mark.parametrize('change', [_edited, _resaved, _lengthened])
def test_a_picture_that_was_changed_is_no_longer_ours(tmp_path, change):
  path = str(tmp_path / 'a.png')
  ledgers.Ledger(str(tmp_path)).write_png(path, PNG, RUN)
  change(path)
  assert not ledgers.Ledger(str(tmp_path)).owns(path)


def test_a_file_is_owned_whether_a_kill_comes_before_or_after_it_gets_its_name(tmp_path, monkeypatch):
  path, replace = str(tmp_path / 'a.npy'), os.replace

  def write(text):
    with ledgers.Ledger(str(tmp_path)).replacing(path) as temporary, open(temporary, 'w') as file:
      file.write(text)

  def killed_after(source, target):
    replace(source, target)
    raise SystemExit

  def killed_before(source, target):
    raise SystemExit

  for killed, text in ((killed_after, 'one'), (killed_before, 'other')):
    monkeypatch.setattr(os, 'replace', killed)
    with pytest.raises(SystemExit):
      write(text)
    assert (tmp_path / 'a.npy').read_text() == 'one' and ledgers.Ledger(str(tmp_path)).owns(path)


def test_the_ledger_knows_files_without_a_mark_until_they_change(tmp_path):
  path, other = str(tmp_path / 'sub' / os.fsdecode(b'\xdf\n.npy')), str(tmp_path / 'b.npy')
  os.mkdir(tmp_path / 'sub')
  ledger = ledgers.Ledger(str(tmp_path))
  for name in (path, other):
    with ledger.replacing(name) as temporary, open(temporary, 'w') as file:
      file.write('abc')
  make(tmp_path, 'c.npy')
  with open(tmp_path / ledgers.LEDGER, 'a') as file:
    file.write('{"file": "c.npy", "si\n[]\n3\n{"file": [], "size": 1, "mtime_ns": 2}\n')  # half a line, and nonsense
  again = ledgers.Ledger(str(tmp_path))
  for known in (ledger, again):
    assert known.owns(path) and known.owns(other) and not known.owns(str(tmp_path / 'c.npy'))
    assert not known.owns(str(tmp_path / 'nowhere.npy')) and not known.owns(str(tmp_path / 'sub'))
  (tmp_path / 'b.npy').write_text('abd')
  assert not ledgers.Ledger(str(tmp_path)).owns(other)
  assert len([json.loads(line) for line in (tmp_path / ledgers.LEDGER).read_text().splitlines()[:2]]) == 2


def obstacle(paths, inputs=(), overwrite=False, folder='out'):
  return files.obstacle(paths, {identity(path) for path in inputs}, ledgers.Ledger(folder), overwrite=overwrite)


def test_files_of_others_stand_in_the_way(here):
  make('out', 'mine.png', 'linked.png')
  os.symlink('linked.png', 'out/a.png')
  os.mkdir('out/folder.png')
  assert obstacle(['out/new.png', 'out/sub/new.png']) is None and os.path.isdir('out/sub')
  for name in ('mine', 'a'):
    reason, cause = obstacle(['out/new.png', f'out/{name}.png'])
    assert f'out/{name}.png exists' in reason and '--overwrite' in reason and cause == 'would overwrite a file'
    assert obstacle([f'out/{name}.png'], overwrite=True) is None
  assert obstacle(['out/folder.png'], overwrite=True)[0].endswith('out/folder.png cannot be written: it is a folder')
  assert 'File exists' in obstacle(['out/mine.png/x.png'])[0]
  ledgers.Ledger('out').write_png('out/mine.png', PNG, RUN)
  assert obstacle(['out/mine.png']) is None


def test_an_input_is_never_replaced_by_whatever_name(here):
  make('.', 'in.png')
  os.mkdir('out')
  os.symlink('../in.png', 'out/soft.png')
  os.link('in.png', 'out/hard.png')
  os.symlink('.', 'here')
  for path in ('in.png', 'out/soft.png', 'out/hard.png', 'here/in.png'):
    reason, cause = obstacle([path], inputs=['in.png'], overwrite=True)
    assert path in reason and 'would overwrite an input' in reason and cause == 'would overwrite an input'


def test_names_as_long_as_the_file_system_takes_can_be_written(tmp_path):
  longest = str(tmp_path / ('n' * 251 + '.png'))
  assert obstacle([longest], folder=str(tmp_path)) is None
  with replacing(longest) as temporary, open(temporary, 'wb') as file:
    file.write(PNG)
  assert os.listdir(tmp_path) == ['n' * 251 + '.png']
  reason, cause = obstacle([str(tmp_path / ('n' * 252 + '.png'))], folder=str(tmp_path))
  assert 'File name too long' in reason and cause == 'cannot be written'


def test_a_folder_that_cannot_be_written_is_named(here, monkeypatch):
  make('out', 'a.png')
  monkeypatch.setattr(os, 'access', lambda path, mode: False)
  assert 'folder out is not writable' in obstacle(['out/b.png'])[0]


def test_names_of_outputs_take_a_number_where_they_are_taken(capsys):
  inputs = [Input(path, name, PHOTO) for path, name in (('p/a.jpg', 'a'), ('p/a.png', 'a'), ('p/s/a.jpg', 's/a'))]
  assert list(files.output_names(inputs, 'out').values()) == ['out/a', 'out/a-2', 'out/s/a']
  assert capsys.readouterr().err == 'note: out/a is taken, so p/a.png becomes out/a-2\n'
  with pytest.raises(UserError, match='p/a.png is the second image of its name'):
    files.output_names(inputs, 'out', flat=True)
  assert list(files.output_names(inputs[2:], 'out', flat=True).values()) == ['out/a']


def test_labels_of_frames_go_into_no_folder_with_labels_of_photographs(capsys):
  """drive.mp4 and its frames in drive: both would write drive/000001_label.png."""
  inputs = [Input(path, name, kind) for path, name, kind in (
      ('p/drive.mp4', 'drive', VIDEO), ('p/drive/000001.jpg', 'drive/000001', PHOTO), ('p/b.mp4', 'b', VIDEO))]
  assert list(files.output_names(inputs, 'out', frames=True).values()) == ['out/drive-2', 'out/drive/000001', 'out/b']
  assert capsys.readouterr().err == 'note: out/drive is taken, so p/drive.mp4 becomes out/drive-2\n'
  assert files.output_names(inputs, 'out')[inputs[0]] == 'out/drive'


def test_sizes_of_photographs_are_those_of_their_headers(tmp_path):
  turned = Image.Exif()
  turned[0x0112] = 6
  Image.new('RGB', (9, 5)).save(tmp_path / 'a.png')
  Image.new('RGB', (9, 5)).save(tmp_path / 'turned.jpg', exif=turned)
  (tmp_path / 'b.png').write_bytes(b'no picture')
  inputs = [Input(str(tmp_path / name), name, kind) for name, kind in (
      ('a.png', PHOTO), ('b.png', PHOTO), ('missing.png', PHOTO), ('c.mp4', VIDEO), ('turned.jpg', PHOTO))]
  assert list(files.sizes(inputs, Reading())) == [(5, 9), None, None, None, (9, 5)]
  assert list(files.sizes(inputs, Reading(exif='stored')))[-1] == (5, 9)
