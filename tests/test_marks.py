"""Marks of the program's own files, and that no other file is replaced, by whatever path or link."""

import io
import json
import os

import numpy as np
import pytest
from PIL import Image

from utils import files, marks
from utils.drawing import colors
from utils.errors import UserError

pytestmark = pytest.mark.fast

WRITERS = {
    'a.json': lambda path: files.write_json(path, {'x': [1, None], 'name': 'caf\udce9'}),
    'empty.json': lambda path: files.write_json(path, {}),
    'a.md': lambda path: files.write_text(path, '# A title\n\n| a | b |\n'),
    'a.png': lambda path: colors.write_png(path, np.arange(24, dtype=np.uint8).reshape(2, 4, 3)),
}


@pytest.fixture(params=WRITERS)
def written(request, tmp_path):
  """(path, function that writes it) of each kind of file, written."""
  path = str(tmp_path / request.param)
  WRITERS[request.param](path)
  return path, WRITERS[request.param]


def content(path):
  with open(path, 'rb') as file:
    return file.read()


def test_own_files_are_known_and_replaced(written):
  path, write = written
  assert marks.is_own(path) and os.listdir(os.path.dirname(path)) == [os.path.basename(path)]
  before = content(path)
  write(path)
  assert content(path) == before


@pytest.mark.parametrize('edit', [
    lambda data: data + b'\n', lambda data: data[:-1], lambda data: b'', lambda data: b'{',
    lambda data: data.replace(b'a', b'b').replace(b'1', b'2').replace(b'}', b' }')])
def test_a_file_that_was_edited_is_the_users(written, edit):
  path, write = written
  with open(path, 'wb') as file:
    file.write(edit(content(path)))
  before = content(path)
  with pytest.raises(UserError, match='is there already, and this program did not write it or it was changed since'):
    write(path)
  assert content(path) == before and len(os.listdir(os.path.dirname(path))) == 1


def test_a_mark_leaves_the_content_as_it_is(tmp_path):
  for name, write in WRITERS.items():
    write(str(tmp_path / name))
  assert files.read_json(tmp_path / 'a.json') == {'x': [1, None], 'name': 'caf\udce9'}
  assert files.read_json(tmp_path / 'empty.json') == {} == marks.without_mark({})
  assert list(json.loads(content(tmp_path / 'a.json'))) == ['written_by', 'x', 'name']
  assert content(tmp_path / 'a.md').startswith(b'# A title\n\n| a | b |\n<!-- FCN-GoogLeNet, checksum ')
  with Image.open(io.BytesIO(content(tmp_path / 'a.png'))) as picture:
    np.testing.assert_array_equal(np.asarray(picture).ravel(), np.arange(24))
    assert picture.text['Software'] == 'FCN-GoogLeNet'


def test_a_written_by_of_others_stays():
  for value in ({'written_by': 'me'}, {'written_by': ['FCN-GoogLeNet, checksum x']}, [], 'FCN-GoogLeNet', None):
    assert marks.without_mark(value) == value


@pytest.fixture
def target(tmp_path):
  """A user's file, and a path where a program wants to write."""
  (tmp_path / 'mine').write_text('mine')
  os.mkdir(tmp_path / 'out')
  return str(tmp_path / 'out/a.json')


def refuse(target, reason, **options):
  for write in (lambda: files.claim([target], **options), lambda: files.write_json(target, {})):
    with pytest.raises(UserError, match=reason):
      write()


@pytest.mark.parametrize('link', [os.symlink, os.link])
def test_links_are_not_followed_and_not_replaced(link, target, tmp_path):
  link(tmp_path / 'mine', target)
  refuse(target, 'is there already')
  with pytest.raises(UserError, match='would overwrite an input; name another place'):
    files.claim([target], overwrite=True, inputs=[str(tmp_path / 'mine')])
  files.claim([target], overwrite=True)
  files.write_json(target, {})
  assert (tmp_path / 'mine').read_text() == 'mine' and not os.path.islink(target)


def test_a_link_to_an_own_file_and_a_dangling_one_stay(target, tmp_path):
  files.write_json(str(tmp_path / 'own.json'), {})
  for goal in ('own.json', 'gone'):
    os.symlink(tmp_path / goal, target)
    refuse(target, 'is there already')
    os.unlink(target)


def test_an_input_is_known_by_any_spelling(target, tmp_path, monkeypatch):
  files.write_json(target, {})
  os.symlink('out', tmp_path / 'here')
  monkeypatch.chdir(tmp_path)
  for spelled in ('out/a.json', 'here/a.json', './out//../out/a.json', target):
    with pytest.raises(UserError, match='would overwrite an input'):
      files.claim([target], overwrite=True, inputs=[spelled])


def test_folders_pipes_and_devices_are_never_replaced(target, tmp_path):
  os.mkfifo(tmp_path / 'out/pipe')
  os.symlink('/dev/null', tmp_path / 'out/null')
  os.mkdir(target)
  for path, reason in ((target, 'it is a folder'), (str(tmp_path / 'out/pipe'), 'it is no plain file'),
                       (str(tmp_path / 'out/null'), 'it is no plain file'), ('/dev/null', 'it is no plain file')):
    for overwrite in (None, False, True):
      refuse(path, reason, overwrite=overwrite)


def test_a_claim_counts_once_and_for_one_file(target, tmp_path, monkeypatch):
  for path in (target, f'{target}2'):
    with open(path, 'w') as file:
      file.write('mine')
  with pytest.raises(UserError, match='give --overwrite to replace it'):
    files.claim([target], overwrite=False)
  with pytest.raises(UserError, match='move it away'):
    files.claim([target])
  monkeypatch.chdir(tmp_path)
  files.claim(['out/a.json'], overwrite=True)
  refuse(f'{target}2', 'is there already')
  monkeypatch.chdir(tmp_path / 'out')
  files.write_bytes('a.json', b'not marked')
  refuse(target, 'is there already')


def test_what_comes_while_the_file_is_made_is_not_lost(target):
  with pytest.raises(UserError, match='is there already'), files.replacing(target) as temporary:
    with open(temporary, 'w') as file:
      file.write('ours')
    with open(target, 'w') as file:
      file.write('mine')
  assert content(target) == b'mine' and os.listdir(os.path.dirname(target)) == ['a.json']
