"""Errors that a user can correct: one clear line and a non-zero exit code, never a traceback."""

import os
import shlex

_MOST_LINE = 2000  # characters of a line of an error


class UserError(Exception):
  """An error that a user can correct: the message names file, record or flag, the bad value and the valid values.

  Its arguments are the lines of the message, mostly one. Each stays one line, whatever names are in it (see `shown`),
  and is cut where values in it are long.
  """

  def __str__(self):
    return '\n'.join(_cut(shown(str(line))) for line in self.args)


def _cut(line):
  return line if len(line) <= _MOST_LINE else f'{line[:_MOST_LINE - 3]}...'


def listed(names, most=5, separator=', '):
  """Joins names, as `shown`, for a message, of many names only the first few: 'a, b, c and 4 more'."""
  names = list(names)
  more = f' and {len(names) - most} more' if len(names) > most else ''
  return separator.join(shown(str(name)) for name in names[:most]) + more


def shown(name):
  """A file's name as text that can be printed and drawn, on one line: bytes that are no UTF-8 and control characters
  become escapes, as in 'caf\\xe9' and 'two\\nlines'."""

  def escaped(mark):
    if '\udc80' <= mark <= '\udcff':  # stands for a byte (PEP 383)
      return f'\\x{ord(mark) - 0xdc00:02x}'
    return mark if mark.isprintable() else mark.encode('unicode_escape').decode()

  return ''.join(map(escaped, os.fspath(name)))


def quoted(word):
  """A word as a shell reads it; line breaks and bytes that are not UTF-8 in a form that can be printed and copied."""
  if word.isprintable():
    return shlex.quote(word)
  escaped = ''.join(char if char.isprintable() and char not in '\\\'' else
                    ''.join(f'\\x{byte:02x}' for byte in os.fsencode(char)) for char in word)
  return f"$'{escaped}'"


def brief(value):
  """A value from a JSON in a message: in one line, not too long; 'nothing' for None."""
  value = value.tolist() if hasattr(value, 'tolist') else value
  try:
    text = 'nothing' if value is None else repr(value)
  except RecursionError:
    text = 'deeply nested lists'
  return text if len(text) <= 60 else f'{text[:57]}...'
