"""Text of any script in pictures: the fonts it is set in, what stands in for missing letters, and its width."""

import types

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from utils.drawing import canvas, colors, fonts
from utils.errors import shown

pytestmark = pytest.mark.fast

SCRIPTS = ['Straße', '道路 (road)', 'дорога', 'ひらがな', '한국어', 'cafe\u0301', 'Việt Nam', 'ﾃｽﾄ', 'a\u3000道']


def forgotten():
  for function in (fonts.font_files, fonts.has, fonts._drawn, fonts.runs, fonts.layout, fonts.font):
    function.cache_clear()


@pytest.fixture
def bare(monkeypatch):
  """A machine without any font but Pillow's own."""
  forgotten()
  monkeypatch.setattr(fonts, 'PACKAGES', ())
  monkeypatch.setattr(fonts, 'system_folders', list)
  yield
  forgotten()


def drawn(text, anchor='l', size=canvas.TEXT):
  """A picture of a text: uint8 [60, 600, 3]."""
  paper = canvas.Canvas(600, 60)
  paper.text({'l': 100, 'm': 300, 'r': 500}[anchor], 30, text, anchor, size=size)
  return paper.array()


def ink(picture):
  """First and last column that is not white."""
  columns = np.flatnonzero((picture < 250).any(axis=(0, 2)))
  return columns[0], columns[-1]


@pytest.mark.parametrize('anchor', 'lmr')
@pytest.mark.parametrize('text', ['road', '12.5 % | a/b_c.png', '…/folder/x.png', ''])
def test_ascii_is_drawn_as_pillow_draws_it(text, anchor):
  for size in (canvas.SMALL, canvas.HEADING, 33):
    font = ImageFont.load_default(size)
    plain = Image.new('RGB', (600, 60), 'white')
    ImageDraw.Draw(plain).text(({'l': 100, 'm': 300, 'r': 500}[anchor], 30), text, canvas.INK, font, f'{anchor}m')
    np.testing.assert_array_equal(drawn(text, anchor, size), np.asarray(plain))
    assert canvas.text_width(text, size=size) == int(np.ceil(font.getlength(text)))


@pytest.mark.parametrize('text', SCRIPTS)
def test_other_scripts_have_their_letters_and_fill_the_width_measured(text):
  assert fonts.drawable(text)
  assert '<U+' not in ''.join(part for part, _ in fonts.runs(fonts.plain(text)))
  for size in (canvas.SMALL, canvas.TEXT, 40):
    width = canvas.text_width(text, size=size)
    for anchor, start in (('l', 100), ('m', 300 - width / 2), ('r', 500 - width)):
      first, last = ink(drawn(text, anchor, size))
      assert start - 1 <= first < last <= start + width
      assert last - first > 0.75 * width


def test_letters_differ_from_each_other_and_share_a_baseline_with_ascii():
  pictures = [drawn(text, size=30) for text in ('道', '路', 'ж', 'λ', 'ß', 'é', 'e')]
  assert len({picture.tobytes() for picture in pictures}) == len(pictures)
  bottoms = [np.flatnonzero((drawn(text, size=30) < 128).any(axis=(1, 2)))[-1] for text in ('x', 'х', 'ϰ', 'ñ')]
  assert np.ptp(bottoms) <= 1


def test_decomposed_letters_are_drawn_as_composed_ones():
  for composed, decomposed in (('é', 'e\u0301'), ('Å', 'A\u030a'), ('ệ', 'e\u0323\u0302'),
                               ('한', '\u1112\u1161\u11ab')):
    assert composed != decomposed
    np.testing.assert_array_equal(drawn(composed), drawn(decomposed))


@pytest.mark.parametrize('text, instead', [
    ('道路', '<U+9053 U+8DEF>'), ('the ðog 😀', 'the <U+00F0>og <U+1F600>'),
    ('طريق 1', '<U+0637 U+0631 U+064A U+0642> 1'),
    ('e\u0301', '<U+00E9>'), ('q\u0301', 'q<U+0301>'), ('\u05d0\u200d', '<U+05D0 U+200D>'), ('a\u2003b', 'a b')])
def test_without_fonts_letters_become_numbers_and_never_boxes(bare, text, instead):
  assert ''.join(part for part, _ in fonts.runs(fonts.plain(text))) == instead
  first, last = ink(drawn(text))
  assert last < 100 + canvas.text_width(text) and last - first > 0.8 * canvas.text_width(text)


def test_a_class_without_letters_has_its_number(bare):
  assert canvas.named(3, '道路') == 'class 3: 道路' and canvas.named(3, 'road') == 'road'
  palette = np.array([[9, 9, 9], [200, 0, 0]], np.uint8)
  np.testing.assert_array_equal(colors.legend([0, 1], ['sky', '路'], palette, width=400),
                                colors.legend([0, 1], ['sky', 'class 1: <U+8DEF>'], palette, width=400))


def test_no_letters_are_numbers_where_there_is_a_font():
  assert canvas.named(3, '道路') == '道路'


@pytest.mark.parametrize('name, right', [
    ('plain name.png', 'plain name.png'), ('道路é.png', '道路é.png'), ('bad\udce9.png', r'bad\xe9.png'),
    ('two\nlines\t\x1b[31m', r'two\nlines\t\x1b[31m'), ('\ud800', r'\ud800'), ('a\u2028b\x85', r'a\u2028b\x85')])
def test_names_are_shown_on_one_line_and_drawn_so(name, right):
  assert shown(name) == right
  assert right.encode()  # can be printed
  np.testing.assert_array_equal(drawn(name), drawn(right))
  assert canvas.text_width(name) == canvas.text_width(right)


def test_fitting_counts_letters_as_they_are_drawn():
  for text in ('ordner/straße/' * 9 + 'e\u0301.png', '道路' * 40, 'bad\udce9' * 30):
    cut = canvas.fitting(text, 150)
    assert cut[0] == '…' and canvas.text_width(cut) <= 150 < canvas.text_width('…' + text[-len(cut) - 1:])
    assert fonts.plain(text).endswith(cut[1:])


def test_fonts_of_folders_plain_styles_first_and_broken_ones_left_out(tmp_path, monkeypatch):
  for name in ('B-Sans-Bold.ttf', 'sub/A-Sans.ttf', 'A-Serif.otf', 'LastResort.otf', 'Z.TTC', 'notes.txt'):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b'no font')
  found = fonts.files_in([str(tmp_path), '/nowhere'])
  assert [path[len(str(tmp_path)) + 1:] for path in found] == [
      'sub/A-Sans.ttf', 'Z.TTC', 'B-Sans-Bold.ttf', 'A-Serif.otf']
  monkeypatch.setattr(fonts, 'system_folders', lambda: [str(tmp_path)])
  monkeypatch.setattr(fonts, 'PACKAGES', ('no_such_package_of_fonts',))
  forgotten()
  try:
    assert fonts.font_files() == (None, *found)
    assert not fonts.drawable('道') and fonts.drawable('a')
    assert canvas.text_width('道') == canvas.text_width('<U+9053>')
  finally:
    forgotten()


@pytest.mark.parametrize('platform, folder', [
    ('linux', '/home/me/.fonts'), ('darwin', '/home/me/Library/Fonts'), ('win32', r'%WINDIR%\Fonts')])
def test_folders_of_every_system(platform, folder, monkeypatch):
  monkeypatch.setenv('HOME', '/home/me')
  monkeypatch.setattr(fonts, 'sys', types.SimpleNamespace(platform=platform))
  assert folder in fonts.system_folders()
