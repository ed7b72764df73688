"""A headless Chromium for tests of pages, where playwright and a Chromium are installed."""

import base64
import contextlib
import os
import shutil

import pytest

NAMES = ('chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable', 'chrome')


@contextlib.contextmanager
def chromium():
  """Yields a browser of playwright; skips the test, saying why, where there is none.

  The Chromium is that of FCN_CHROMIUM, of the system, or playwright's own.
  """
  playwright = pytest.importorskip('playwright.sync_api', reason='needs playwright (requirements-browser.txt)')
  path = os.environ.get('FCN_CHROMIUM') or next(filter(None, map(shutil.which, NAMES)), None)
  with playwright.sync_playwright() as started:
    path = path or started.chromium.executable_path
    if not os.path.exists(path):
      pytest.skip('needs a Chromium: apt-get install chromium, or name one by FCN_CHROMIUM')
    browser = started.chromium.launch(executable_path=path, args=[
        '--no-sandbox', '--use-fake-device-for-media-stream', '--use-fake-ui-for-media-stream'])
    try:
      yield browser
    finally:
      browser.close()


class Page:
  """The page in a tab of its own, which collects errors of its scripts and its policy.

  Attributes:
    tab: the playwright Page.
    errors: list of str.
  """

  def __init__(self, browser, address, **options):
    self.tab = browser.new_page(**{'viewport': {'width': 1100, 'height': 800}, **options})
    self.tab.set_default_timeout(60_000)
    self.errors = []
    self.tab.on('pageerror', lambda error: self.errors.append(str(error)))
    self.tab.on('console', lambda message: message.type == 'error' and self.errors.append(message.text))
    self.tab.goto(address)

  def choose(self, path):
    """Chooses a file, as in the system's dialog."""
    with self.tab.expect_file_chooser() as chooser:
      self.tab.get_by_role('button', name='Choose a file').or_(
          self.tab.get_by_role('button', name='Another photo')).first.click()
    chooser.value.set_files(path)

  def drop(self, name, data, kind='image/png'):
    """Drops a file on the page."""
    transfer = self.tab.evaluate_handle(
        '''([name, text, kind]) => {
          const transfer = new DataTransfer();
          const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
          transfer.items.add(new File([bytes], name, {type: kind}));
          return transfer;
        }''', [name, base64.b64encode(data).decode(), kind])
    for event in ('dragenter', 'dragover', 'drop'):
      self.tab.dispatch_event('main', event, {'dataTransfer': transfer})

  def wait_for_label(self, size=None):
    """Waits until a photo is labeled; `size` (height, width) tells it from the one before."""
    said = f'{size[1]} × {size[0]} pixels' if size else 'pixels'
    self.tab.locator('#labeled', has_text=said).wait_for()
    self.tab.locator('#working').wait_for(state='hidden')
    self.tab.locator('#classes:not([inert])').wait_for()

  def point_at(self, row, column, size):
    """Points at the middle of a pixel of a photo of `size` (height, width); returns what the page says of it."""
    picture = self.tab.locator('#picture')
    box = picture.bounding_box()
    picture.hover(position={'x': (column + 0.5) * box['width'] / size[1], 'y': (row + 0.5) * box['height'] / size[0]})
    return self.tab.locator('#tip').text_content().strip()

  def error(self):
    """The error that the page shows."""
    self.tab.locator('#error').wait_for()
    return self.tab.locator('#error p').text_content()

  def saved(self, what):
    """The bytes and the name of what the button `what` saves."""
    with self.tab.expect_download() as download:
      self.tab.get_by_role('button', name=f'Save the {what} as PNG').click()
    with open(download.value.path(), 'rb') as file:
      return file.read(), download.value.suggested_filename

  def legend(self):
    """Dict from the classes of the legend to their shares as shown."""
    return {item.locator('.name').text_content(): item.locator('.share').text_content()
            for item in self.tab.locator('#legend li').all()}
