"""How the user's own labels are read is decided once for a dataset, from what proves it; doubts are refused."""

import json
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from datasets import convert, label_pictures
from datasets.images import BadFile
from datasets.readers import own
from utils.errors import UserError

pytestmark = pytest.mark.fast

MASK = np.array([[0, 0, 1, 1, 0], [0, 1, 1, 0, 0], [0, 0, 0, 0, 0]])
TWO = 'background\nobject\n'
COLORED = 'background 0,0,0\nobject 255,255,255\n'


def save(path, pixels, mode=None, **options):
  path.parent.mkdir(parents=True, exist_ok=True)
  picture = pixels if isinstance(pixels, Image.Image) else Image.fromarray(np.asarray(pixels, np.uint8), mode)
  picture.save(path, **options)


def palette(ids, *colors, **options):
  picture = Image.fromarray(np.asarray(ids, np.uint8), 'P')
  picture.putpalette([value for color in colors for value in color])
  picture.info.update(options)
  return picture


def rgba(mask, inside, outside):
  return np.where(np.asarray(mask)[..., np.newaxis] == 1, inside, outside).astype(np.uint8)


def folder_of(root, labels, classes=TWO, told=None):
  """Writes a folder with an image for each label; returns its dataset, undecided."""
  for number, label in enumerate(labels):
    size = label.size[::-1] if isinstance(label, Image.Image) else np.shape(label)[:2]
    save(root / f'images/{number}.png', np.zeros((*size, 3)))
    save(root / f'labels/{number}.png', label)
  (root / 'classes.txt').write_text(classes)
  if told:
    (root / 'dataset.json').write_text(json.dumps(told))
  return own.own_dataset(str(root))


def read(dataset):
  """Label ids of all pairs of a dataset, decided."""
  dataset = own.decided(dataset)
  return [label_pictures.to_ids(dataset.read_label(source.label), dataset.label_map, source.label).tolist()
          for source in dataset.sources(None, 'all')]


WHITE, CLEAR = (255, 255, 255, 255), (0, 0, 0, 0)


@pytest.mark.parametrize('inside, outside, classes', [
    (WHITE, CLEAR, COLORED),
    (WHITE, (0, 0, 0, 255), COLORED),
    ((9, 8, 7, 255), (1, 2, 3, 0), 'background 1,2,3\nobject 9,8,7\n'),
    ((9, 8, 7, 0), (1, 2, 3, 255), 'background 1,2,3\nobject 9,8,7\n')])
def test_transparent_pixels_have_the_color_beneath(inside, outside, classes, tmp_path):
  dataset = folder_of(tmp_path, [rgba(MASK, inside, outside)] * 2, classes)
  assert read(dataset) == [MASK.tolist()] * 2


@pytest.mark.parametrize('label, problem', [
    (rgba(MASK, WHITE, (7, 7, 7, 0)), r'0.png: has 11 transparent pixels, the first at row 0, column 0, and the color '
                                      'beneath, 7,7,7, stands for no class; "transparent" in dataset.json'),
    (rgba(MASK, (255, 255, 255, 128), CLEAR), '0.png: has alpha 128 at row 0, column 2; pixels of a label are opaque'),
    (rgba(MASK, WHITE, (0, 0, 0, 254)), '0.png: has alpha 254 at row 0, column 0')])
def test_transparent_pixels_of_no_class_are_named(label, problem, tmp_path):
  with pytest.raises(BadFile, match=problem):
    read(folder_of(tmp_path, [label], COLORED))


def test_transparent_pixels_are_what_the_user_says(tmp_path):
  label = rgba(MASK, (9, 8, 7, 255), (5, 5, 5, 0))
  for word, value in (('background', 0), ('ignore', 255), ('object', 1)):
    dataset = folder_of(tmp_path / word, [label], 'background 1,2,3\nobject 9,8,7\n', {'transparent': word})
    assert read(dataset) == [np.where(MASK, 1, value).tolist()]
  with pytest.raises(UserError, match="dataset.json: 'sky' is no class; valid are background, ignore, object"):
    folder_of(tmp_path / 'sky', [label], 'background 1,2,3\nobject 9,8,7\n', {'transparent': 'sky'})


@pytest.mark.parametrize('mode', ['LA', 'P', 'RGB'])
def test_transparency_of_other_modes(mode, tmp_path):
  """Gray with alpha, a palette with a transparent entry, a transparent color: black is transparent everywhere."""
  if mode == 'LA':
    label = Image.merge('LA', [Image.fromarray((MASK * 255).astype(np.uint8))] * 2)
  elif mode == 'P':
    label = palette(MASK, (0, 0, 0), (255, 255, 255), transparency=0)
  else:
    label = Image.fromarray((MASK[..., np.newaxis].repeat(3, -1) * 255).astype(np.uint8))
    label.info['transparency'] = (0, 0, 0)
  dataset = folder_of(tmp_path, [label] * 2, COLORED, {'labels': 'colors'})
  assert read(dataset) == [MASK.tolist()] * 2


@pytest.mark.parametrize('label, classes, told', [
    (MASK * 255, TWO, '0:background,255:object'),
    (np.where(MASK, 255, 128), TWO, '128:background,255:object'),
    (np.where(MASK, 255, np.arange(5) // 4 * 128), 'a\nb\nc\n', '0:a,128:b,255:c'),
    (MASK * 100, TWO, '0:background,100:object'),
    (np.repeat(MASK[..., np.newaxis] * 255, 3, -1), TWO, '0:background,255:object'),
    (palette(MASK * 255, *[(v, v, v) for v in range(256)]), TWO, '0:background,255:object')])
def test_values_that_may_be_classes_are_refused_or_told(label, classes, told, tmp_path):
  """Both readings are named; --labels, or dataset.json, chooses one."""
  dataset = folder_of(tmp_path, [label] * 3, classes)
  with pytest.raises(UserError, match=f'3 labels such as .*0.png hold the values .* alone: as ids, .* never occurs?, .*'
                                      f'; in order, .*--labels="{told}" or --labels=ids'):
    own.decided(dataset)
  values = np.asarray(label)[..., :1].squeeze(-1) if np.ndim(label) == 3 else np.asarray(label)
  order = {int(value): place for place, value in enumerate(np.unique(values))}
  expected = [np.vectorize(order.get)(values).tolist()] * 3
  assert read_told(dataset, told) == expected


def read_told(dataset, text):
  """Label ids of all pairs, --labels given."""
  from datasets.readers.dataset_file import ReadingFlags

  dataset = own.decided(dataset, ReadingFlags(labels=text).told)
  return [dataset.label_map[dataset.read_label(source.label)].tolist() for source in dataset.sources(None, 'all')]


def test_masks_are_refused_beside_gray_colors_that_they_do_not_show(tmp_path):
  dataset = folder_of(tmp_path, [MASK * 255] * 2, 'background 0,0,0\nobject 128,128,128\n')
  with pytest.raises(UserError, match="hold the values 0, 255 alone: as ids, 'object' never occurs, 255 is void; in "
                                      'order, 0 is background and 255 is object'):
    own.decided(dataset)


def test_flags_that_name_no_class_are_refused(tmp_path):
  dataset = folder_of(tmp_path, [MASK * 255] * 2)
  with pytest.raises(UserError, match="--labels: 'sky' is no class; valid are background, ignore, object"):
    own.decided(dataset, {'labels': {0: 'background', 255: 'sky'}})


def test_ids_told_are_ids(tmp_path):
  dataset = folder_of(tmp_path, [MASK * 255] * 2, told={'labels': 'ids'})
  assert read(dataset) == [(MASK * 255).tolist()] * 2


@pytest.mark.parametrize('labels', [
    [np.where(MASK, 255, 0), MASK],  # an id that is neither 0 nor 255 proves ids
    [np.zeros((3, 5))] * 3, [MASK, MASK * 2], [MASK.astype(bool)]])
def test_ids_that_are_proven_are_ids(labels, tmp_path):
  labels = [np.asarray(label) for label in labels]
  pictures = [Image.fromarray(label) if label.dtype == bool else label for label in labels]
  dataset = folder_of(tmp_path, pictures, 'background\nobject\nother\n')
  assert read(dataset) == [label.astype(int).tolist() for label in labels]


@pytest.mark.parametrize('label, classes, expected', [
    (MASK * 255, COLORED, MASK),
    (np.where(MASK, 128, 64), 'a 64,64,64\nb 128,128,128\n', MASK),
    (MASK * 128, 'a 0,0,0\nb 128,128,128\nc 9,9,9\n', MASK),
    (np.where(MASK, 0, 1), 'a 1,1,1\nb 0,0,0\nc 2,2,2\n', None),  # as ids and as colors: two readings
    (Image.fromarray(MASK.astype(bool)), COLORED, MASK),
    (MASK, 'a 0,0,0\nb 1,1,1\n', MASK)])
def test_gray_values_that_are_colors(label, classes, expected, tmp_path):
  dataset = folder_of(tmp_path, [label] * 2, classes)
  if expected is None:
    with pytest.raises(UserError, match='the values 0, 1 of the gray labels are ids of classes and gray colors of'):
      own.decided(dataset)
  else:
    assert read(dataset) == [expected.tolist()] * 2


BLACK, RED = (0, 0, 0), (255, 0, 0)


def test_palettes_that_contradict_each_other_are_named(tmp_path):
  labels = [palette(MASK, BLACK, RED), palette(1 - MASK, RED, BLACK)]
  with pytest.raises(UserError, match='palettes of the labels contradict each other: id 0 is 0,0,0 in .*0.png and '
                                      '255,0,0 in .*1.png; give the classes their colors'):
    own.decided(folder_of(tmp_path / 'a', labels))
  assert read(folder_of(tmp_path / 'b', labels, 'background 0,0,0\nobject 255,0,0\n')) == [MASK.tolist()] * 2
  assert read(folder_of(tmp_path / 'c', labels, told={'labels': 'ids'})) == [MASK.tolist(), (1 - MASK).tolist()]


@pytest.mark.parametrize('classes', [TWO, 'background 0,0,0\nobject 255,0,0\n'])
@pytest.mark.parametrize('colors', [(BLACK, RED), (BLACK, RED, (0, 0, 255)), (BLACK, RED, *[BLACK] * 254)])
def test_void_behind_the_colors_of_a_palette_is_void(classes, colors, tmp_path):
  """Viewers show it black, as the class background is; so do palettes that are filled up with black."""
  ids = np.where(MASK, 1, np.arange(5) // 4 * 255)
  dataset = folder_of(tmp_path, [palette(ids, BLACK, RED, *[BLACK] * 254), palette(MASK, BLACK, RED)], classes)
  path = tmp_path / 'labels/0.png'
  data, chunk = path.read_bytes(), b'PLTE' + np.array(colors, np.uint8).tobytes()
  start = data.index(b'PLTE')
  path.write_bytes(data[:start - 4] + struct.pack('>I', len(chunk) - 4) + chunk + struct.pack('>I', zlib.crc32(chunk))
                   + data[start + 4 + 768 + 4:])
  assert Image.open(path).getpalette()[:6] == [0, 0, 0, 255, 0, 0]
  assert read(dataset) == [ids.tolist(), MASK.tolist()]


def test_palettes_that_differ_in_unused_colors_agree(tmp_path):
  labels = [palette(MASK, BLACK, RED), palette(MASK, BLACK, RED, (9, 9, 9)), palette(MASK * 0, BLACK, (7, 7, 7))]
  dataset = own.decided(folder_of(tmp_path, labels))
  assert read(dataset) == [MASK.tolist(), MASK.tolist(), (MASK * 0).tolist()]


def test_colors_of_palettes_decide_in_every_file(tmp_path):
  """Also in those whose ids fit; the decision names a file, the id and the color."""
  classes = 'background 0,0,0\nobject 255,0,0\nother 0,0,255\n'
  labels = [palette(MASK, BLACK, RED), palette(MASK, RED, BLACK), palette(MASK * 2, BLACK, (1, 1, 1), RED)]
  dataset = own.decided(folder_of(tmp_path, labels, classes))
  assert read(dataset) == [MASK.tolist(), (1 - MASK).tolist(), MASK.tolist()]
  [decision] = dataset.decisions
  assert decision.value == 'colors of the palettes' and '1.png shows id 0 in the color 255,0,0' in decision.reason
  assert dataset.label_values == ((0, 0, 0), (255, 0, 0), (0, 0, 255))


def test_ids_and_colors_that_both_fail_are_refused(tmp_path):
  labels = [palette(MASK, RED, (1, 2, 3))]
  with pytest.raises(UserError, match="0.png shows id 0 in the color 255,0,0, which is that of 'object' .id 1., but "
                                      '.*0.png shows id 1 in 1,2,3, the color of no class; .*--labels=ids or --lab'):
    own.decided(folder_of(tmp_path, labels, 'background 0,0,0\nobject 255,0,0\n'))


def test_labels_of_two_kinds_are_refused_unless_all_have_colors_of_classes(tmp_path):
  colored = np.where(MASK[..., np.newaxis], RED, BLACK)
  classes = 'background 0,0,0\nobject 255,0,0\n'
  with pytest.raises(UserError, match='must all be of one kind: 1 are RGB colors, such as .*0.png, and 1 are gray'):
    own.decided(folder_of(tmp_path / 'a', [colored, MASK], classes))
  assert read(folder_of(tmp_path / 'b', [colored, MASK * 0, palette(MASK, RED, BLACK)], classes)) == [
      MASK.tolist(), (MASK * 0).tolist(), (1 - MASK).tolist()]


def test_gray_stored_as_rgb_is_read_as_ids(tmp_path):
  dataset = own.decided(folder_of(tmp_path, [np.repeat(MASK[..., np.newaxis], 3, -1)] * 2))
  assert read(dataset) == [MASK.tolist()] * 2
  assert 'RGB pictures whose red, green and blue are equal' in str(dataset.decisions[0])


def convert_all(dataset, folder, **options):
  return convert.convert(dataset, 'all', source_dir=None, data_dir=str(folder / 'data'), num_workers=1, progress=False,
                         **options)


def test_masks_of_two_kinds_are_refused_in_conversion(tmp_path):
  """Where some files have 0 and 255 and the others 0 and 1, no single file shows it."""
  dataset = folder_of(tmp_path / 'x', [MASK, MASK * 255, MASK])
  with pytest.raises(UserError, match='of two kinds: .*1.png holds 0 and 255 alone, .*0.png ids and no 255; mend'):
    convert_all(dataset, tmp_path)
  assert not (tmp_path / 'data').exists()
  told = convert_all(dataset, tmp_path, told={'labels': 'ids'})
  assert told['void_pixels'] == 4 and told['told'] == {'labels': 'ids'}


@pytest.mark.parametrize('extension', ['tif', 'bmp'])
def test_colors_in_other_lossless_formats(extension, tmp_path):
  dataset = folder_of(tmp_path, [np.where(MASK[..., np.newaxis], RED, BLACK)], 'background 0,0,0\nobject 255,0,0\n')
  (tmp_path / 'labels/0.png').unlink()
  save(tmp_path / f'labels/0.{extension}', np.where(MASK[..., np.newaxis], RED, BLACK))
  assert read(own.own_dataset(dataset.root)) == [MASK.tolist()]


@pytest.mark.parametrize('content, problem', [
    ('[]', 'holds list, not an object with keys such as name'),
    ('{"label": "ids"}', "unknown key 'label'; valid are name"),
    ('{"labels": "id"}', "labels is 'id'; valid are \"ids\", \"colors\", or the classes of values"),
    ('{"labels": {"256": "object"}}', "'256': 'object' is not a value of 0 to 255 and the name of a class"),
    ('{"labels": {"0": "sky"}}', "'sky' is no class"), ('{"exif": "yes"}', "exif is 'yes'; valid are turn, stored"),
    ('{"value_range": [9, 2]}', r'value_range is \[9, 2\]; low, high is wanted, low below high'),
    ('{"value_range": [0, true]}', 'low, high is wanted'), ('{"bands": []}', 'bands is .*; a list of texts is wanted'),
    ('{"splits": {"Val": "a*"}}', "'Val' is no name of a split"), ('{"name": ""}', "name is ''; a text is wanted"),
    ('{', 'is not valid JSON')])
def test_a_wrong_dataset_file_is_named(content, problem, tmp_path):
  folder_of(tmp_path, [MASK] * 2)
  (tmp_path / 'dataset.json').write_text(content)
  with pytest.raises(UserError, match=f'dataset.json.*{problem}'):
    own.own_dataset(str(tmp_path))


def test_splits_by_patterns(tmp_path):
  told = {'splits': {'val': ['0', '[12]'], 'train': 'rest'}, 'name': 'my masks'}
  dataset = folder_of(tmp_path, [MASK] * 6, told=told)
  assert (dataset.name, dataset.splits) == ('my_masks', {'val': 3, 'train': 3, 'all': 6})
  assert [source.name for source in dataset.sources(None, 'val')] == ['0', '1', '2']
  with pytest.raises(UserError, match="dataset.json: splits: val: '9.' fits no name, such as 0, 1, 2"):
    folder_of(tmp_path, [MASK] * 6, told={'splits': {'val': ['9*'], 'train': 'rest'}})
