"""Pictures and splits of exports: paths of other machines find the files that are there, or a line says why not."""

import os
import unicodedata

import pytest

from datasets.dataset import BadFile, Source
from datasets.readers.annotations import files, pictures, splits
from utils.errors import UserError

pytestmark = pytest.mark.fast


def lay_out(root, *paths):
  """Makes empty files; only their names count here."""
  for path in paths:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).touch()
  return pictures.Pictures(str(root))


@pytest.mark.parametrize('reference, found', [
    ('a.png', 'images/a.png'), ('C:\\x\\a.png', 'images/a.png'), ('/home/me/a.png', 'images/a.png'),
    ('../../a.png', 'images/a.png'), ('0123abcd-a.png', 'images/a.png'), ('a.jpg', 'images/a.png'),
    ('my_photo_1.JPG', 'images/my photo (1).JPG'), ('0123abcd-my_photo_1.JPG', 'images/my photo (1).JPG'),
    (unicodedata.normalize('NFD', 'für.png'), 'für.png'), ('y/c.png', 'deep/y/c.png'), ('deep/x/c.jpg', 'deep/x/c.png'),
    ('b.tif', None), ('', UserError), ('/', UserError), ('a\0.png', UserError), ('\ud800.png', UserError),
    ('c.png', UserError)])
def test_references(reference, found, tmp_path):
  index = lay_out(tmp_path, 'images/a.png', 'images/my photo (1).JPG', 'für.png', 'deep/x/c.png', 'deep/y/c.png',
                  '.hidden/b.tif', 'notes.txt')
  if found is UserError:
    with pytest.raises(UserError, match='x.json: .* (is no path of a picture|may be .*x/c.png or .*y/c.png; leave)'):
      index.find(reference, 'x.json')
  else:
    assert index.find(reference, 'x.json') == (found and str(tmp_path / found))


def test_folders_go_before_names(tmp_path):
  index = lay_out(tmp_path, 'train/a.png', 'valid/a.png')
  assert index.find('a.png', 'x.json', ('', 'valid')) == str(tmp_path / 'valid/a.png')
  assert index.at('a.png', 'train\\a.bmp') == str(tmp_path / 'train/a.png') and index.at('a.png') is None


def test_a_circle_of_links_ends(tmp_path):
  lay_out(tmp_path, 'x/a.png')
  os.symlink(tmp_path, tmp_path / 'x/again')
  assert files.walk(str(tmp_path), ('.png',)) == ['x/a.png']


def test_reading_is_bounded(tmp_path):
  (tmp_path / 'x').write_bytes(b'12345')
  assert files.read_bounded(str(tmp_path / 'x'), 5) == b'12345'
  for path, problem in (('x', 'x: has 5 bytes; at most 4 are understood'), ('y', 'y: cannot be read: No such file')):
    with pytest.raises(BadFile, match=problem):
      files.read_bounded(str(tmp_path / path), 4)


@pytest.mark.parametrize('groups, found, noted', [
    ({'Train': 'ab', 'Validation': 'c'}, {'train': 'ab', 'val': 'c'}, False),
    ({'train': 'b', 'val': 'c', 'trainval': 'bc'}, {'train': 'b', 'val': 'c', 'trainval': 'bc'}, False),
    ({'Train': 'ab', 'Test': 'c'}, {'train': 'ab', 'test': 'c'}, False), ({'default': 'ba'}, {'all': 'ab'}, False),
    ({'Train': 'b', 'more': 'a'}, {'all': 'ab'}, True), ({'val': 'b', 'test': 'a'}, {'all': 'ab'}, True)])
def test_splits_of_groups(groups, found, noted):
  made, notes = splits.of_groups({group: [Source(name) for name in names] for group, names in groups.items()}, 'lists')
  assert {split: ''.join(source.name for source in sources) for split, sources in made.items()} == found
  assert bool(notes) == noted
