"""Classes of exports: what all formats share, whether the export's own or those of a list."""

import pytest

from datasets.readers.annotations import classes
from utils.errors import UserError
from utils.labels import IGNORE_LABEL

pytestmark = pytest.mark.fast

PLACES = {'cat': 'a.json: 1', 'dog': 'b.json: 2'}


def choose(root, text=None, labels=('cat', 'dog'), places=None, colors=None, file='classes.txt'):
  if text is not None:
    (root / file).write_text(text)
  return classes.choose(str(root), labels, PLACES if places is None else places, colors)


@pytest.mark.parametrize('labels, names, rest', [
    (('cat', 'dog'), ('background', 'cat', 'dog'), 0), (('cat', 'background'), ('cat', 'background'), 1),
    (('Background', 'cat'), ('Background', 'cat'), 0), (('__ignore__', 'cat', 'cat'), ('background', 'cat'), 0)])
def test_without_a_list_all_are_classes(labels, names, rest, tmp_path):
  found = choose(tmp_path, labels=labels)
  assert (found.names, found.rest) == (names, rest)
  assert found.raws['__ignore__'] == IGNORE_LABEL and found.raws['background'] == rest
  assert found.raws['cat'] == names.index('cat')
  assert f'pixels without an object are {names[rest]!r}' in found.notes


@pytest.mark.parametrize('text, names, raws, rest', [
    ('dog\ncat\nbackground', ('dog', 'cat', 'background'), (1, 0), 2), ('cat\ndog', ('cat', 'dog'), (0, 1), 255),
    ('__ignore__\n_background_\ndog\ncat', ('background', 'dog', 'cat'), (2, 1), 0),
    ('id,name\n0,cat\n1,background\n2,dog', ('cat', 'background', 'dog'), (0, 2), 1),
    ('background:0,0,0::\ncat:1,2,3::\ndog:4,5,6::', ('background', 'cat', 'dog'), (1, 2), 0),
    ('background ignore\ndog\ncat', ('dog', 'cat'), (1, 0), 255),
    ('0 background\n1 dog\n2 bird\n3 cat', ('background', 'dog', 'bird', 'cat'), (3, 1), 0)])
@pytest.mark.parametrize('file', classes.LISTS)
def test_every_form_of_list_is_read(file, text, names, raws, rest, tmp_path):
  found = choose(tmp_path, text, file=file)
  assert (found.names, found.rest, found.raws['cat'], found.raws['dog']) == (names, rest, *raws)
  assert (f'{file} names bird, which the export does not have' in found.notes) == ('bird' in text)


def test_what_is_void_is_noted(tmp_path):
  found = choose(tmp_path, 'cat\nbird\ndog ignore')
  assert found.raws['dog'] == found.rest == IGNORE_LABEL
  assert {'objects of dog are void', 'pixels without an object are void, since there is no class background'} < set(
      found.notes)


@pytest.mark.parametrize('text, problem', [
    ('background\ncat', "b.json: 2 has the class 'dog', which .*classes.txt does not name; it has background, cat. Add "
                        'it, as "dog ignore"'),
    ('background\nbird', "a.json: 1 has the class 'cat', .*classes.txt does not name; it lacks 'dog' too; it has"),
    ('background\n_background_\ncat', "classes.txt:2: the class 'background' stands in .*classes.txt:1 already"),
    ('cat', 'at least two classes')])
def test_wrong_lists_are_named(text, problem, tmp_path):
  with pytest.raises(UserError, match=problem):
    choose(tmp_path, text)


def test_a_label_without_an_object_may_be_missing_in_the_list(tmp_path):
  assert choose(tmp_path, 'background\ncat', places={'cat': 'a.json'}).names == ('background', 'cat')


def test_two_lists_are_refused(tmp_path):
  (tmp_path / 'labels.txt').write_text('cat\ndog')
  with pytest.raises(UserError, match='classes.txt and .*labels.txt both list classes; leave one'):
    choose(tmp_path, 'cat\ndog')


@pytest.mark.parametrize('labels, problem', [
    ((), 'no class beside the background; the export has no class at all'), (('background',), 'export has background'),
    (('__ignore__',), 'no class at all'),
    ([f'c{number}' for number in range(255)], 'has 256 classes with the background; at most 255 have an id. Name')])
def test_too_few_and_too_many_are_refused(labels, problem, tmp_path):
  with pytest.raises(UserError, match=problem):
    choose(tmp_path, labels=labels)


@pytest.mark.parametrize('text, colors, expected', [
    (None, {}, ((0, 0, 0), None, None)), (None, {'dog': (0, 0, 0)}, ((0, 0, 0), None, None)),
    (None, {'cat': (1, 2, 3), 'dog': (1, 2, 3)}, ((0, 0, 0), (1, 2, 3), None)),
    (None, {'cat': None, 'dog': (1, 2, 3)}, ((0, 0, 0), None, (1, 2, 3))),
    (None, {'background': (7, 7, 7), 'dog': (0, 0, 0)}, ((7, 7, 7), None, (0, 0, 0))),
    ('background\ncat\ndog 1,2,3', {'cat': (1, 2, 3)}, ((0, 0, 0), None, (1, 2, 3))),
    ('background\ncat 0,0,0\ndog', {}, (None, (0, 0, 0), None)),
    ('background\ncat 4,5,6\ndog', {'cat': (1, 2, 3), 'dog': (4, 5, 6)}, ((0, 0, 0), (4, 5, 6), None))])
def test_a_color_has_one_class(text, colors, expected, tmp_path):
  labels = ('background', 'cat', 'dog')
  assert choose(tmp_path, text, labels=labels, colors=colors).colors == expected
