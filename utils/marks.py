"""Marks in the files that this program writes: by them it tells its own files, as it left them, from all others.

    PNG               two text chunks behind the header
    JSON              the first entry, KEY, which `utils.files.read_json` leaves out
    Markdown          a comment on the last line

Each holds a CRC-32 of all else in the file: a file that was edited since is the user's. utils/files.py replaces no file
of others unasked. Files of other formats are told by what their program knows of them, see `utils.files.claim`.
"""

import json
import os
import re
import struct
import zlib

SOFTWARE = 'FCN-GoogLeNet'
KEY = 'written_by'
_START, _HEADER = b'\x89PNG\r\n\x1a\n', 33  # bytes of the signature, and of it and the first chunk, IHDR
_JSON = re.compile(rb'\{\n  "%s": "%s, checksum ([0-9a-f]{8})"' % (KEY.encode(), SOFTWARE.encode()))
_TEXT = re.compile(rb'<!-- %s, checksum ([0-9a-f]{8}) -->\n\Z' % SOFTWARE.encode())
_TEXT_LENGTH = len(f'<!-- {SOFTWARE}, checksum 00000000 -->\n')


def _chunk(keyword, text):
  """A PNG's tEXt chunk (PNG specification, 11.3.4.3)."""
  body = b'tEXt' + keyword.encode() + b'\0' + text.encode('ascii', 'backslashreplace')
  return struct.pack('>I', len(body) - 4) + body + struct.pack('>I', zlib.crc32(body))


_MARK = _chunk('Software', SOFTWARE)


def png_mark(comment, checksum):
  """The mark of a PNG, bytes whose number does not depend on the checksum: the CRC-32 of all that follows the mark."""
  return _MARK + _chunk('Comment', f'{comment}{", " if comment else ""}checksum {checksum:08x}')


def marked_png(png, comment=''):
  """The bytes of a PNG with the mark in them; `comment` says what the picture is."""
  rest = png[_HEADER:]
  return png[:_HEADER] + png_mark(comment, zlib.crc32(rest)) + rest


def marked_json(value):
  """The bytes of a JSON file that holds the dict `value`, indented, and the mark."""
  rest = json.dumps(value, indent=2)[1:] + '\n'
  rest = (rest if rest.startswith('}') else f',{rest}').encode()
  return f'{{\n  "{KEY}": "{SOFTWARE}, checksum {zlib.crc32(rest):08x}"'.encode() + rest


def marked_text(text):
  """The bytes of Markdown with the mark at its end."""
  data = (text if text.endswith('\n') else f'{text}\n').encode('utf-8', 'backslashreplace')
  return data + f'<!-- {SOFTWARE}, checksum {zlib.crc32(data):08x} -->\n'.encode()


def without_mark(value):
  """The value of a JSON file without the mark's entry."""
  if isinstance(value, dict) and str(value.get(KEY, '')).startswith(f'{SOFTWARE}, checksum '):
    return {key: entry for key, entry in value.items() if key != KEY}
  return value


def is_marked_png(path):
  """Whether a file is a PNG that this program wrote, edited since or not."""
  try:
    with open(path, 'rb') as file:
      start = file.read(_HEADER + len(_MARK))
  except OSError:
    return False
  return start.startswith(_START) and start.endswith(_MARK)


def is_own(path):
  """Whether a plain file, no link, carries the mark, and is as it was written."""
  if os.path.islink(path) or not os.path.isfile(path):
    return False
  try:
    with open(path, 'rb') as file:
      start = file.read(_HEADER + len(_MARK))
      if start.startswith(_START):
        return start.endswith(_MARK) and _is_unchanged_png(file.read())
      if _JSON.match(start) is None and not _ends_with_mark(file):
        return False
      file.seek(0)
      data = file.read()
  except OSError:
    return False
  match = _JSON.match(data)
  rest = data[match.end():] if match else data[:-_TEXT_LENGTH]
  return int((match or _TEXT.search(data))[1], 16) == zlib.crc32(rest)


def _is_unchanged_png(data):
  """Whether what follows a PNG's first chunk of the mark is as it was written."""
  length = int.from_bytes(data[:4], 'big') + 12  # of the chunk: its text, and 4 bytes each of length, type, checksum
  return data[:length - 4].endswith(f'{zlib.crc32(data[length:]):08x}'.encode())


def _ends_with_mark(file):
  """Whether an open file ends with the mark of a text."""
  size = file.seek(0, os.SEEK_END)
  file.seek(max(0, size - _TEXT_LENGTH))
  return _TEXT.match(file.read()) is not None
