"""The page in a real browser: photos come in by every way, labels are the Predictor's, all of it can be reached."""

import io
import json

import numpy as np
import pytest
from browser import Page, chromium
from PIL import Image
from random_run import write_run

pytest.importorskip('starlette', reason='needs requirements-serve.txt')

from running_server import decoded, encoded, pixels, running

from datasets.readers.voc import VOC
from utils.drawing import colors
from utils.runs import load_run

CLASSES = VOC.classes


@pytest.fixture(scope='module')
def folder(tmp_path_factory, tiny):
  return write_run(tmp_path_factory.mktemp('run'), CLASSES, network=tiny, dataset='voc')


@pytest.fixture(scope='module')
def browser():
  with chromium() as found:
    yield found


@pytest.fixture(scope='module')
def server(folder, browser):
  with running(folder, '--max_body_bytes=1000000') as found:
    yield found


@pytest.fixture
def page(browser, server):
  made = Page(browser, f'http://127.0.0.1:{server.port}/')
  yield made
  assert made.errors == []
  made.tab.close()


def dominant(label):
  return CLASSES[np.bincount(label.ravel()).argmax()]


def test_a_chosen_file_gets_the_labels_of_the_predictor(page, predictor, tmp_path, folder):
  image = pixels(61, 90, seed=2)
  label = predictor.labels(image[None])[0]
  (tmp_path / 'my photo.png').write_bytes(encoded(image))
  page.choose(tmp_path / 'my photo.png')
  page.wait_for_label()
  data, name = page.saved('label')
  assert name == 'my photo_label.png'
  np.testing.assert_array_equal(decoded(data), label)
  with Image.open(io.BytesIO(data)) as picture:
    assert picture.mode == 'P'
    np.testing.assert_array_equal(np.array(picture.getpalette()).reshape(-1, 3)[:len(CLASSES)],
                                  load_run(str(folder)).palette)
  legend = page.legend()
  assert list(legend)[0] == dominant(label) and set(legend) == {CLASSES[place] for place in np.unique(label)}
  assert '90 × 61 pixels' in page.tab.locator('#labeled').text_content()


def test_a_dropped_file_and_a_pasted_one(page, predictor):
  for number, way in enumerate(('drop', 'paste')):
    image = pixels(50, 40 + number)
    if way == 'drop':
      page.drop('a.png', encoded(image))
    else:
      page.tab.evaluate('''(bytes) => {
        const clipboardData = new DataTransfer();
        clipboardData.items.add(new File([new Uint8Array(bytes)], 'a.png', {type: 'image/png'}));
        dispatchEvent(new ClipboardEvent('paste', {clipboardData}));
      }''', list(encoded(image)))
    page.wait_for_label(image.shape[:2])
    np.testing.assert_array_equal(decoded(page.saved('label')[0]), predictor.labels(image[None])[0])


def test_a_turned_photo_stands_upright(page, predictor):
  exif = Image.Exif()
  exif[0x0112] = 6
  image = pixels(30, 70)
  page.drop('a.png', encoded(image, exif=exif))
  page.wait_for_label()
  np.testing.assert_array_equal(decoded(page.saved('label')[0]), predictor.labels(np.rot90(image, -1)[None])[0])


def test_the_camera(page):
  page.tab.get_by_role('button', name='Use the camera').first.click()
  page.tab.get_by_role('button', name='Take the photo').click()
  page.wait_for_label()
  label, name = page.saved('label')
  assert name == 'camera_label.png' and decoded(label).size > 1000
  page.tab.get_by_role('button', name='Use the camera').last.click()
  page.tab.get_by_role('button', name='Cancel').last.click()
  page.tab.locator('#camera').wait_for(state='hidden')
  assert page.tab.locator('#classes:not([inert])').is_visible()  # the photo before is still there


def test_large_photos_are_scaled_and_said_to_be(page):
  page.drop('a.jpg', encoded(pixels(1500, 600), 'JPEG'), 'image/jpeg')
  page.wait_for_label()
  assert decoded(page.saved('label')[0]).shape == (1024, 409)
  assert 'scaled from 600 × 1500' in page.tab.locator('#labeled').text_content()
  page.tab.get_by_label('Label at').select_option('480')
  page.wait_for_label((480, 192))
  assert decoded(page.saved('label')[0]).shape == (480, 192)


def test_pointer_keys_and_touch_say_the_class_and_its_probability(page, predictor):
  image = pixels(48, 64, seed=4)
  label, confidence = predictor.labels(image[None])[0], predictor.probabilities(image[None])[0].max(axis=-1)
  page.drop('a.png', encoded(image))
  page.wait_for_label()
  picture, tip = page.tab.locator('#picture'), page.tab.locator('#tip')

  def said(row, column):
    return f'{CLASSES[label[row, column]]}, {round(100 * round(255 * float(confidence[row, column])) / 255)} %'

  for row, column in ((5, 9), (30, 60), (47, 1)):
    assert page.point_at(row, column, label.shape) == said(row, column)
  page.tab.mouse.move(0, 0)
  assert tip.is_hidden()

  picture.focus()
  page.tab.keyboard.press('ArrowRight')  # the first key shows the cross where it is: in the middle
  page.tab.locator('#cross').wait_for()
  for _ in range(20):
    page.tab.keyboard.press('Shift+ArrowLeft')
    page.tab.keyboard.press('Shift+ArrowUp')
  assert tip.text_content().strip() == page.tab.locator('#spoken').text_content() == said(0, 0)
  page.tab.keyboard.press('Escape')
  assert tip.is_hidden()


def shown(page):
  """The pixels of the overlay that the page saves."""
  return decoded(page.saved('overlay')[0])[..., :3].astype(int)


def test_opacity_and_classes_that_are_switched_off(page, predictor, folder):
  image, palette = pixels(40, 52, seed=6), load_run(str(folder)).palette
  label = predictor.labels(image[None])[0]
  page.drop('a.png', encoded(image))
  page.wait_for_label()
  slider = page.tab.get_by_label('Opacity of the colors')
  for value in (0, 40, 100):
    slider.fill(str(value))
    assert page.tab.locator('#percent').text_content() == f'{value} %'
    np.testing.assert_allclose(shown(page), colors.overlay(image, label, palette, value / 100), atol=2)

  first = dominant(label)
  page.tab.get_by_role('checkbox', name=first).uncheck()
  hidden = label == CLASSES.index(first)
  np.testing.assert_allclose(shown(page)[hidden], image[hidden], atol=1)
  np.testing.assert_allclose(shown(page)[~hidden], palette[label[~hidden]], atol=1)
  page.tab.get_by_role('button', name='Show all').click()
  np.testing.assert_allclose(shown(page), palette[label], atol=1)
  page.tab.get_by_role('button', name='Hide all').click()
  np.testing.assert_allclose(shown(page), image, atol=1)


def test_errors_are_clear_and_can_be_left(page, predictor):
  page.drop('notes.txt', b'hello', 'text/plain')
  assert 'cannot read notes.txt as a picture' in page.error()
  page.tab.get_by_role('button', name='Try again').click()
  assert 'cannot read notes.txt' in page.error()
  page.drop('noise.png', encoded(np.random.default_rng(0).integers(0, 256, (600, 700, 3), np.uint8)))
  page.tab.locator('#error', has_text='the server takes 1.0').wait_for()
  page.errors.clear()  # the page logs what it shows
  page.tab.get_by_label('Label at').select_option('480')
  page.wait_for_label((411, 480))
  assert page.tab.locator('#error').is_hidden()
  page.tab.route('**/arrays', lambda route: route.abort())
  page.drop('a.png', encoded(pixels(20, 30)))
  assert page.error() == 'The server does not answer. Is it still running?'
  page.tab.unroute('**/arrays')
  page.errors.clear()
  page.tab.get_by_role('button', name='Try again').click()
  page.wait_for_label()


def test_a_busy_server_is_asked_again(page, predictor):
  answers = iter([429, 503])

  def busy(route):
    status = next(answers, None)
    if status is None:
      route.continue_()
    else:
      route.fulfill(status=status, headers={'Retry-After': '1'}, body=json.dumps({'error': 'no place'}))

  page.tab.route('**/arrays', busy)
  image = pixels(20, 30)
  page.drop('a.png', encoded(image))
  page.wait_for_label()
  np.testing.assert_array_equal(decoded(page.saved('label')[0]), predictor.labels(image[None])[0])
  page.errors.clear()  # the browser logs the two refusals


def test_work_can_be_cancelled(page):
  held = []
  page.tab.route('**/arrays', lambda route: held.append(route))
  page.drop('a.png', encoded(pixels(20, 30)))
  page.tab.get_by_role('button', name='Cancel').first.click()
  assert page.error() == 'Cancelled.'
  for route in held:
    route.abort()
  page.tab.unroute('**/arrays')
  page.errors.clear()
  page.tab.get_by_role('button', name='Try again').click()
  page.wait_for_label()


@pytest.mark.parametrize('width', [375, 320, 1100])
def test_it_fits_a_phone(browser, server, width):
  page = Page(browser, f'http://127.0.0.1:{server.port}/', viewport={'width': width, 'height': 740}, has_touch=True)
  measure = '[document.documentElement.scrollWidth, document.documentElement.clientWidth]'
  assert len({*page.tab.evaluate(measure)}) == 1
  page.drop('a.png', encoded(pixels(300, 400)))
  page.wait_for_label()
  assert len({*page.tab.evaluate(measure)}) == 1
  for button in page.tab.locator('button:visible, select:visible').all():  # large enough for a finger
    assert button.bounding_box()['height'] >= 32
  page.tab.locator('#picture').tap(position={'x': 20, 'y': 20})
  assert page.tab.locator('#tip').is_visible() and page.tab.locator('#cross').is_visible()
  assert page.errors == []
  page.tab.close()


def test_all_of_it_is_reached_by_the_keyboard_and_has_a_name(page):
  page.drop('a.png', encoded(pixels(60, 80)))
  page.wait_for_label()
  page.tab.evaluate('document.activeElement.blur()')
  reached = set()
  for _ in range(40):
    page.tab.keyboard.press('Tab')
    reached.add(page.tab.evaluate('document.activeElement.id || document.activeElement.textContent.trim()'))
  wanted = {'picture', 'opacity', 'size', 'all', 'save-label', 'save-overlay', 'Another photo', 'Use the camera'}
  assert wanted <= reached
  nameless = page.tab.evaluate('''
    [...document.querySelectorAll('button, input:not([aria-hidden]), select, [tabindex="0"]')]
    .filter((one) => one.checkVisibility() && !(one.ariaLabel || one.textContent.trim() || one.labels?.length))
    .map((one) => one.outerHTML)''')
  assert nameless == []


def test_dark_and_light_follow_the_system(browser, server):
  grounds = set()
  for scheme in ('light', 'dark'):
    page = Page(browser, f'http://127.0.0.1:{server.port}/', color_scheme=scheme)
    grounds.add(page.tab.evaluate('getComputedStyle(document.documentElement).backgroundColor'))
    page.tab.close()
  assert len(grounds) == 2
