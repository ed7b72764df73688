"""Names and messages on terminals that cannot print them: escaped, never a traceback."""

import io
import os
import pathlib
import sys

import pytest

from datasets.dataset import BadFile
from utils.errors import UserError, shown
from utils.exits import guarded
from utils.progress import Progress

pytestmark = pytest.mark.fast

NAME = os.fsdecode('stra\u00dfe '.encode() + b'\xdf')  # 'ß' in UTF-8, and in Latin-1, which is no UTF-8


@pytest.mark.parametrize('encoding, printed', [('ascii', 'stra\\xdfe \\udcdf\n'), ('utf-8', 'straße \\udcdf\n')])
def test_every_name_can_be_printed(monkeypatch, encoding, printed):
  for stream in ('stdout', 'stderr'):
    monkeypatch.setattr(sys, stream, io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors='strict'))

  def program():
    print(NAME)
    with Progress(1, 'images', label=NAME) as progress:
      progress.update()
    raise UserError(NAME)

  assert guarded(program) == 1
  for stream in (sys.stdout, sys.stderr):
    stream.flush()
  assert sys.stdout.buffer.getvalue().decode(encoding) == printed
  error = sys.stderr.buffer.getvalue().decode(encoding)
  shown = printed.rstrip().replace('\\udcdf', '\\xdf')  # what the program itself says of a name
  assert error.startswith(f'{shown}: 1/1 images') and error.endswith(f'error: {shown}\n')


@pytest.mark.parametrize('lines, text', [
    (('a\nb.png: is bad',), 'a\\nb.png: is bad'), (('2 files:', '  a\x1b[2J', '  b'), '2 files:\n  a\\x1b[2J\n  b'),
    ((os.fsdecode(b'caf\xe9'),), 'caf\\xe9'), ((), '')])
def test_a_message_has_as_many_lines_as_it_was_given(lines, text):
  assert str(UserError(*lines)) == text


def test_a_bad_file_is_one_line():
  assert str(BadFile('a\nb.png', 'is empty')) == 'a\\nb.png: is empty'


@pytest.mark.parametrize('name, text', [
    (os.fsdecode(b'caf\xe9.jpg'), 'caf\\xe9.jpg'), ('two\nlines\x1b[0m', 'two\\nlines\\x1b[0m'),
    ('straße é', 'straße é'), ('\ud800', '\\ud800'), (pathlib.Path('a b'), 'a b'), ('', '')])
def test_names_are_shown_on_one_line(name, text):
  assert shown(name) == text
