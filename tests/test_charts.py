"""Pictures of results: the canvas they are drawn on, charts, and sheets of evaluated images."""

import numpy as np
import pytest

from utils.drawing import canvas, charts, gallery

pytestmark = pytest.mark.fast

CLASSES = ('sky', 'road', 'unicorn')
PALETTE = np.array([[10, 20, 30], [200, 100, 0], [0, 250, 0]], np.uint8)


def ink(picture):
  """Rows and columns of dark pixels."""
  return np.nonzero((picture < 128).all(axis=-1))


def test_text_stays_within_its_width_and_reads_upwards():
  width = canvas.text_width('gradient', 'a longer line')
  assert width == canvas.text_width('a longer line') > canvas.text_width('gradient')
  picture = canvas.Canvas(width + 40, 200)
  picture.text(20, 20, 'a longer line')
  picture.upwards(20, 190, 'a longer line')
  picture.upwards(60, 120, 'a longer line', 'm')
  rows, columns = ink(picture.array())
  assert columns.min() >= 10 and columns[rows < 40].max() < 20 + width
  for upwards, start in ((columns < 40, 190), (columns > 40, 120 + width // 2)):
    found = rows[upwards & (rows > 40)]
    assert start - width <= found.min() < found.max() <= start and np.ptp(found) > width - 8
  side = canvas.Canvas(width, 18)
  side.text(0, 9, 'a longer line')
  np.testing.assert_array_equal(np.rot90(side.array()), picture.array()[190 - width:190, 11:29])


def test_fitting_cuts_the_front():
  text = 'folder/of/an/image.png'
  assert canvas.fitting(text, 1000) == text
  cut = canvas.fitting(text, canvas.text_width(text) // 2)
  assert cut[0] == '…' and text.endswith(cut[1:]) and len(cut) > 5
  assert canvas.text_width(cut) <= canvas.text_width(text) // 2
  assert canvas.fitting('', 0) == '' and canvas.fitting('abc', 0) == '…'


def test_stacked_and_beside_pad_with_white():
  first, second = (np.full((2, width, 3), width, np.uint8) for width in (3, 5))
  sheet = canvas.stacked([first, second], gap=1)
  assert sheet.shape == (6, 5, 3)
  assert (sheet[:2, :3] == 3).all() and (sheet[3:5] == 5).all()
  assert (sheet[:2, 3:] == 255).all() and (sheet[[2, 5]] == 255).all()
  row = canvas.beside([first, second])
  assert row.shape == (2, 3 + canvas.GAP + 5, 3) and (row[:, 3:-5] == 255).all() and (row[:, -5:] == 5).all()


def test_shades_go_from_white_to_navy():
  shades = np.array([canvas.shade(share) for share in np.linspace(0, 1, 11)])
  assert shades[0].tolist() == [255] * 3 and tuple(shades[-1]) == canvas.DARK and (np.diff(shades, axis=0) < 0).all()


@pytest.mark.parametrize('title', ['short', 'a title that is much longer than the rows of the chart'])
def test_a_row_chart_cuts_neither_its_title_nor_its_names(title):
  chart, left = canvas.row_chart(title, ['a', 'the longest name'], width=50, height=20, note='a note')
  picture = chart.array()
  rows, columns = ink(picture)
  assert columns.min() >= canvas.MARGIN and columns.max() < picture.shape[1] - canvas.MARGIN
  names = rows >= canvas.TOP
  assert columns[names].max() < left and np.ptp(columns[names]) > 60
  assert picture.shape[0] == canvas.TOP + 2 * 20 + canvas.MARGIN


def test_confusion_chart_shows_shares_of_rows():
  matrix = np.array([[0, 0, 0], [40, 0, 0], [0, 0, 5]])
  chart = charts.confusion_chart(matrix, ('sky', 'a rather long name', 'car'), 'title')
  full = (chart == [8, 48, 107]).all(axis=-1)  # a share of one: cells (1, 0) and (2, 2)
  rows, columns = np.nonzero(full)
  upper, lower = rows < np.median(rows), rows > np.median(rows)
  assert rows.max() > chart.shape[0] - 30 and columns.max() > chart.shape[1] - 60
  assert columns[upper].max() < columns[lower].min()
  faint = (chart == [236, 236, 236]).all(axis=-1)[rows.min() - 40:rows.min() - 5]  # no sky in the truth
  assert faint.mean(axis=0).max() == 1 and faint.sum() > 3 * 30 * 30


def test_confusion_chart_of_many_classes_has_room_for_every_name():
  chart = charts.confusion_chart(np.eye(150, dtype=np.int64), [f'class {number}' for number in range(150)])
  assert min(chart.shape[:2]) > 150 * 12
  ink = (chart[:, 30:80] < 128).all(axis=-1).any(axis=1)
  assert np.diff(ink.astype(int)).clip(0).sum() >= 150  # lines of text at the left


def test_diagram_shows_what_is_right_and_what_is_missing():
  counts = np.zeros([3, 15])
  counts[:, 14] = 100, 25, 97  # far too sure
  counts[:, 4] = 100, 75, 30  # too modest
  chart = charts.reliability_chart(counts, 'val', 0.585)
  assert chart.dtype == np.uint8 and chart.shape[-1] == 3

  def rows(color, columns):
    return np.flatnonzero((chart[:, columns] == color).all(axis=-1).any(axis=1))

  left, right = slice(64 + 4 * 28 + 4, 64 + 5 * 28 - 4), slice(64 + 14 * 28 + 4, 64 + 15 * 28 - 4)
  bottom = 64 + 420  # of the diagram: 420 pixels for 100 %
  for columns, share in ((left, 0.75), (right, 0.25)):
    blue = rows((66, 120, 181), columns)
    assert abs(blue.min() - (bottom - 420 * share)) <= 1
    assert abs(np.count_nonzero(blue > bottom + 1) - 110 / 2) <= 1  # half of the pixels each
  pale = rows((240, 168, 160), right)
  assert abs(pale.min() - (bottom - 420 * 0.97)) <= 2 and abs(pale.max() - (bottom - 420 * 0.25)) <= 1
  assert not len(rows((240, 168, 160), left))
  line = rows((200, 60, 50), left)
  assert abs(line.mean() - (bottom - 420 * 0.3)) <= 1 and len(line) <= 3


def test_errors_are_red_and_void_has_its_color():
  truth = np.tile(np.where(np.arange(8) < 4, 0, 1), (5, 1))
  prediction = truth.astype(np.uint8)
  prediction.flat[:2] = 1
  truth[4, 7] = 255
  painted = gallery.error_map(gallery.row('a', np.full((5, 8, 3), 255, np.uint8), truth, prediction))
  red = (painted == (214, 39, 40)).all(axis=-1)
  assert np.flatnonzero(red).tolist() == [0, 1]
  assert painted[4, 7].tolist() == [224, 224, 192] and painted[2, 2].tolist() == [255, 255, 255]


def test_rows_of_tall_images_are_thinned_and_keep_nothing_of_them():
  image = np.arange(721 * 31 * 3, dtype=np.uint8).reshape(721, 31, 3)
  labels = np.zeros((721, 31), np.uint8)
  one = gallery.row('tall', image, labels, labels)
  assert one.image.shape == (241, 11, 3) and one.truth.shape == (241, 11)
  np.testing.assert_array_equal(one.image, image[::3, ::3])
  assert not np.shares_memory(one.image, image)


def test_sheet_sets_rows_of_different_sizes_under_each_other():
  rows = [gallery.row(f'{height}', np.full((height, width, 3), 9, np.uint8), np.full((height, width), 255),
                      np.zeros((height, width), np.uint8)) for height, width in ((5, 8), (3, 60))]
  sheet = gallery.sheet(rows, CLASSES, PALETTE)
  assert sheet.shape[1] == 3 * 60 + 8 and sheet.shape[0] > 3 + 5 + 8 + 14
  assert (sheet[:5, :8] == 9).all() and (sheet[9:12, :60] == 9).all() and (sheet[5:9] == 255).all()
  assert (sheet[:5, 24:32] == PALETTE[0]).all() and (sheet[:5, 32:] == 255).all()
