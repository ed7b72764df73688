"""Fonts for text of any script: Pillow's own for what it has, then installed ones; what none has is spelled out.

Pillow's built-in font has ASCII and little more. A text that it has is set in it alone. Others are set in the first
font that has every character, of the package manimgx-fonts-cjk (Noto Sans CJK: Latin, Greek, Cyrillic, Chinese,
Japanese, Korean), of manimgx-fonts where that is installed too (Noto Sans for some twenty scripts, and emoji), and of
the system; in several fonts where none has all. A character that no font has is written as its number, <U+9053>: a name
stays one that can be told from others, and is never a row of boxes.
"""

import contextlib
import functools
import importlib.util
import math
import os
import sys
import unicodedata

from PIL import ImageFont, features

from utils.errors import shown

PACKAGES = ('manimgx_fonts_cjk', 'manimgx_fonts')  # importable names
COLLECTION = 2  # font of Noto Sans CJK's collection: with the Han characters as simplified Chinese writes them
SUFFIXES = ('.ttf', '.otf', '.ttc', '.otc')
STYLES = ('bold', 'italic', 'oblique', 'light', 'thin', 'black', 'condensed', 'mono', 'serif', 'math')  # taken last
NOT_FONTS = ('lastresort',)  # macOS's has a picture of the script for every character
MOST_FILES = 2000  # of the system's that are looked into
MISSING = ''  # stands for the file of a font where there is none
_WEIGHT = 400  # regular
_PROBE = 16  # pixels: size at which glyphs are compared
_NONE = '\U0010ffff'  # is no character: what a font draws for it, it draws for all that it lacks


@functools.cache
def font(path, size, engine=None):
  """Opens a font.

  Args:
    path: its file; None for Pillow's own.
    size: height of the letters in pixels.
    engine: an ImageFont.Layout; None for the one that joins and reorders letters as their script asks, if it is there.

  Returns:
    a PIL font, of regular weight; None where the file is none that Pillow draws at this size.
  """
  if path is None:
    return ImageFont.load_default(size)
  collection = COLLECTION if PACKAGES[0] in path else 0
  with contextlib.suppress(OSError):
    opened = ImageFont.truetype(path, size, index=collection, layout_engine=engine)
    with contextlib.suppress(OSError):  # of a font of one weight
      opened.set_variation_by_axes([
          min(max(_WEIGHT, axis['minimum']), axis['maximum']) if axis['name'] == b'Weight' else axis['default']
          for axis in opened.get_variation_axes()])
    return opened
  return None


def system_folders():
  """Folders where Linux, macOS and Windows keep fonts: those of the system, then the user's."""
  if sys.platform == 'darwin':
    folders = ['/System/Library/Fonts', '/Library/Fonts', '~/Library/Fonts']
  elif sys.platform == 'win32':
    folders = [r'%WINDIR%\Fonts', r'%LOCALAPPDATA%\Microsoft\Windows\Fonts']
  else:
    folders = ['/usr/share/fonts', '/usr/local/share/fonts', '~/.local/share/fonts', '~/.fonts']
  return [os.path.expanduser(os.path.expandvars(folder)) for folder in folders]


@functools.cache
def font_files():
  """Tuple of the files of fonts: None for Pillow's own, the packages', the system's; plain styles before others."""
  packages = filter(None, map(importlib.util.find_spec, PACKAGES))
  return (None, *(path for spec in packages for path in files_in([os.path.dirname(spec.origin)])),
          *files_in(system_folders()))


def files_in(folders):
  """Lists the files of fonts in folders and the folders within: those of plain style before others, then by name."""
  found = []
  for folder in folders:
    for place, _, names in os.walk(folder):
      found += [os.path.join(place, name) for name in names if name.lower().endswith(SUFFIXES)]

  def order(path):
    name = os.path.basename(path).lower().replace('sansserif', 'sans')
    return sum(style in name for style in STYLES), 'sans' not in name, name, path

  kept = sorted((path for path in found if not any(word in path.lower() for word in NOT_FONTS)), key=order)
  return kept[:MOST_FILES]


@functools.cache
def has(path, character):
  """Whether a font has a character: draws it, and otherwise than one that does not exist."""
  if character == ' ' or (path and unicodedata.category(character) == 'Cf'):  # not seen: joiners, directions
    return path is None or font(path, _PROBE, ImageFont.Layout.BASIC) is not None
  glyph = _drawn(path, character)
  return glyph is not None and any(glyph[1]) and glyph != _drawn(path, _NONE)


@functools.cache
def _drawn(path, character):
  """(size, bytes) of a character's picture; None where the font cannot be opened or draws none."""
  try:
    mask = font(path, _PROBE, ImageFont.Layout.BASIC).getmask(character, mode='L')
  except (AttributeError, OSError, ValueError):
    return None
  return mask.size, bytes(mask)


def plain(text):
  """A text as it is drawn: accents joined to their letters (NFC), one kind of space, what cannot be shown escaped."""
  text = ''.join(' ' if unicodedata.category(character) == 'Zs' else character
                 for character in unicodedata.normalize('NFC', text)
                 if not 0xfe00 <= ord(character) <= 0xfe0f)  # selects a form of the character before
  if not features.check('raqm'):  # nothing shapes: joiners would be drawn
    text = ''.join(character for character in text if unicodedata.category(character) != 'Cf')
  return ''.join(character if unicodedata.category(character) == 'Cf' else shown(character) for character in text)


def drawable(text):
  """Whether some font has each character of a text: nothing of it is spelled out as numbers."""
  return all(any(has(path, character) for path in font_files()) for character in plain(text))


@functools.lru_cache(1000)
def runs(text):
  """Splits a text, as `plain` gives it, into parts of one font each.

  Returns:
    list of (part, file of its font); a part that no font has is spelled out, as '<U+9053 U+8DEF>'.
  """
  if all(has(None, character) for character in text):
    return [(text, None)]
  for path in font_files()[1:]:
    if all(has(path, character) for character in text):
      return [(text, path)]
  found = []
  for character in text:
    last = found[-1][1] if found else None
    chosen = next((path for path in (last or None, *font_files()) if has(path, character)), MISSING)
    if found and chosen == last:
      found[-1][0].append(character)
    else:
      found.append(([character], chosen))
  return [(spelled(part), None) if path == MISSING else (''.join(part), path) for part, path in found]


def spelled(characters):
  """Writes characters as their numbers: '<U+9053 U+8DEF>'."""
  return '<' + ' '.join(f'U+{ord(character):04X}' for character in characters) + '>'


@functools.lru_cache(1000)
def layout(text, size):
  """Lays a line of text out.

  Args:
    text: any text.
    size: height of the letters in pixels.

  Returns:
    `(width, parts)`: the width in pixels, and a list of (x, part, PIL font), `x` in whole pixels from the text's left
    end. All ink lies within the width.
  """
  found = runs(plain(text))
  if len(found) == 1 and found[0][1] is None:
    return font(None, size).getlength(found[0][0]), [(0, found[0][0], font(None, size))]
  parts, x = [], 0
  for part, path in found:
    face = font(path, size)
    left, _, right, _ = face.getbbox(part, anchor='ls')
    x += max(0, -left)  # ink may begin before the pen, and end behind it
    parts.append((x, part, face))
    x += math.ceil(max(face.getlength(part), right))
  return x, parts
