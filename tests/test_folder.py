"""Images, labels and splits of the user's own folder, laid out as people have them."""

import unicodedata

import pytest
from PIL import Image

from datasets import images
from datasets.readers import folder
from utils.errors import UserError

pytestmark = pytest.mark.fast


def lay_out(root, *paths, **lists):
  for path in paths:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_bytes(b'')
  for name, text in lists.items():
    (root / f'{name}.txt').write_bytes(text if isinstance(text, bytes) else text.encode())
  return folder.find_pictures(str(root))


def names(splits):
  return {split: [name for _, name in entries] for split, entries in splits.items()}


@pytest.mark.parametrize('ending', ['_mask', '_label', '-seg', '_gt', '.jpg', '_L', '_segmentation', '_labelIds'])
def test_an_ending_of_all_labels_is_taken_off(ending, tmp_path):
  found = lay_out(tmp_path, 'images/a.jpg', 'images/b_1.jpg', f'labels/a{ending}.png', f'labels/b_1{ending}.png')
  assert found.pairs == ['a', 'b_1'] and found.labels['a'] == str(tmp_path / f'labels/a{ending}.png')
  assert ending in found.notes[0]


@pytest.mark.parametrize('labels', [('a_mask', 'b'), ('a_mask', 'b_label'), ('a_car', 'b_car'), ('c_mask', 'd_mask')])
def test_other_names_are_refused(labels, tmp_path):
  with pytest.raises(UserError, match='no label has the name of an image'):
    lay_out(tmp_path, 'images/a.jpg', 'images/b_.jpg', *(f'labels/{name}.png' for name in labels))


@pytest.mark.parametrize('images, labels', [
    ('images', 'masks'), ('image', 'annotations'), ('imgs', 'gt'), ('Images', 'LABELS')])
def test_folders_of_other_names(images, labels, tmp_path):
  assert lay_out(tmp_path, f'{images}/a.jpg', f'{labels}/a.png').pairs == ['a']


def test_composed_and_decomposed_names_are_one(tmp_path):
  wide, narrow = (unicodedata.normalize(form, 'stra\xdfe-\xe9') for form in ('NFD', 'NFC'))
  found = lay_out(tmp_path, f'images/{wide}.jpg', f'labels/{narrow}.png', train=narrow, val=wide)
  assert found.pairs == [narrow]
  assert names(folder.find_splits(found)) == {'all': [narrow], 'train': [narrow], 'val': [narrow]}


def test_names_that_are_not_utf8(tmp_path):
  name = 'stra\udcdfe'
  found = lay_out(tmp_path, f'images/{name}.jpg', f'labels/{name}.png', train=b'stra\xdfe', val=b'stra\xdfe.jpg\n')
  assert names(folder.find_splits(found)) == {'all': [name], 'train': [name], 'val': [name]}


def test_two_files_of_one_name_are_refused(tmp_path):
  with pytest.raises(UserError, match='images: the name a comes twice, a.jpg and a.png; names must be unique'):
    lay_out(tmp_path, 'images/a.jpg', 'images/a.png', 'labels/a.png')


SUBFOLDERS = ('images/train/a.jpg', 'labels/train/a.png', 'images/train/b.jpg', 'labels/train/b.png',
              'images/val/a.jpg', 'labels/val/a.png')


@pytest.mark.parametrize('paths', [SUBFOLDERS, tuple('{1}/{0}/{2}'.format(*path.split('/')) for path in SUBFOLDERS)])
def test_subfolders_make_the_splits(paths, tmp_path):
  found = lay_out(tmp_path, *paths)
  assert found.pairs == ['train/a', 'train/b', 'val/a']
  assert names(folder.find_splits(found)) == {
      'all': ['train/a', 'train/b', 'val/a'], 'train': ['train/a', 'train/b'], 'val': ['val/a']}


def test_a_test_folder_alone_makes_the_split_test(tmp_path):
  found = lay_out(tmp_path, 'images/test/a.jpg', 'labels/test/a.png', 'images/test/b.jpg', 'labels/test/b.png')
  assert names(folder.find_splits(found)) == {'all': ['test/a', 'test/b'], 'test': ['test/a', 'test/b']}


def test_a_list_alone_that_names_everything(tmp_path):
  found = lay_out(tmp_path, 'images/a.jpg', 'labels/a.png', 'images/b.jpg', 'labels/b.png', test='a\nb\n')
  assert names(folder.find_splits(found)) == {'all': ['a', 'b'], 'test': ['a', 'b']}


PAIRS = ('images/a.jpg', 'labels/a_mask.png', 'images/b.jpg', 'labels/b_mask.png')


@pytest.mark.parametrize('text', [
    'a\nb\n', 'a.jpg\nb.png\n', 'images/a.jpg\nimages/b.jpg\n', '/home/me/data/images/a.jpg\n./b.jpg\n',
    'a.jpg a_mask.png\nb.jpg\tb_mask.png', 'images/a.jpg,labels/a_mask.png\nimages/b.jpg, labels/b_mask.png\n',
    'images\\a.jpg\nimages\\b.jpg\n', '\ufeffa\n\n  b  \n'])
def test_lists_of_every_form(text, tmp_path):
  found = lay_out(tmp_path, *PAIRS, train=text, val=text)
  assert names(folder.find_splits(found))['train'] == ['a', 'b']


def test_utf16_lists_and_names_with_spaces(tmp_path):
  pair = ('images/a b.jpg', 'labels/a b.png')
  found = lay_out(tmp_path, *pair, train='a b\n'.encode('utf-16'), val='a b.jpg')
  assert names(folder.find_splits(found)) == {'all': ['a b'], 'train': ['a b'], 'val': ['a b']}


def test_lists_that_name_two_pictures_are_refused(tmp_path):
  found = lay_out(tmp_path, *PAIRS, train='a.jpg b.jpg', val='b')
  with pytest.raises(UserError, match="train.txt:1: 'a.jpg b.jpg' names two pictures, a and b; a line of a list is"):
    folder.find_splits(found)


def test_a_link_back_up_is_not_followed_for_ever(tmp_path):
  lay_out(tmp_path, 'images/a.jpg', 'labels/a.png')
  (tmp_path / 'images/up').symlink_to(tmp_path / 'images')
  assert folder.find_pictures(str(tmp_path)).pairs == ['a']


@pytest.mark.parametrize('extension', folder.EXTENSIONS)
def test_every_extension_is_of_a_format_that_is_read(extension, tmp_path):
  """Those that not every installation reads are listed all the same, for the converter to name."""
  form = Image.registered_extensions().get(extension, 'HEIF')
  assert form in (*images.FORMATS, 'MPO', 'AVIF', 'HEIF')
  if form == 'MPO' or form in images.FORMATS:
    lay_out(tmp_path, f'images/a{extension}', 'labels/a.png')
    Image.new('1' if extension == '.pbm' else 'L', (7, 5)).save(tmp_path / f'images/a{extension}')
    path = folder.find_pictures(str(tmp_path)).images['a']
    assert images.read_rgb(path).shape == (5, 7, 3)


@pytest.mark.parametrize('ending', ['_mask', '-label', '.seg'])
def test_labels_beside_their_images(ending, tmp_path):
  found = lay_out(tmp_path / 'a', 'a.jpg', f'a{ending}.png', 'b_2.jpg', f'b_2{ending}.png')
  assert found.pairs == ['a', 'b_2'] and found.labels['a'].endswith(f'a{ending}.png')
  found = lay_out(tmp_path / 'b', 'train/a.jpg', f'train/a{ending}.png', 'valid/b.jpg', f'valid/b{ending}.png')
  assert names(folder.find_splits(found)) == {
      'all': ['train/a', 'valid/b'], 'train': ['train/a'], 'val': ['valid/b']}
