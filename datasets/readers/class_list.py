"""Class lists: `classes.txt` in the form of this project, and in those of annotation tools.

A class stands on each line: its name, then its color as three numbers or as #rrggbb, then the word `ignore` if its
pixels are void. Color and `ignore` may be left out; commas and white space separate; `#` and a space start a comment.
The number of the line among all classes, from 0, is the class's raw id, the value of its pixels in labels of ids.
Read for what they are as well:

- ids before the names, `0 background`, `1: road`, where every line has one;
- tables with a header, such as `name,r,g,b` or `id;class;color`;
- Labelme's labels.txt: `__ignore__` in the first line is void and has no id, `_background_` is the class 0;
- CVAT's labelmap.txt: `road:128,64,128::`.
"""

import collections
import csv
import dataclasses
import re

from datasets.readers import color_labels, lists
from utils.errors import UserError
from utils.labels import IGNORE_LABEL

FORM = ('a line of a class list is a name (no number), then perhaps its color and the word ignore, as in '
        '"road 128,64,128"; or all lines start with an id, as in "7 road"')
LABELME_IGNORE = '__ignore__'
# Word of a header -> column of the table that it stands over.
_HEADER = {
    **dict.fromkeys(('name', 'class', 'class_name', 'label', 'label_name', 'category', 'names', 'classes'), 'name'),
    **dict.fromkeys(('id', 'index', 'class_id', 'label_id', 'value', 'pixel', 'pixel_value', 'idx'), 'id'),
    **dict.fromkeys(('color', 'colour', 'hex', 'rgb'), 'color'), **dict.fromkeys(('ignore', 'void'), 'ignore'),
    **dict.fromkeys(('r', 'red'), 'r'), **dict.fromkeys(('g', 'green'), 'g'), **dict.fromkeys(('b', 'blue'), 'b')}
_CVAT = re.compile(r'([^:]+):(\d+,\d+,\d+)?:[^:]*:[^:]*')
_ID = re.compile(r'(\d+)\s*[\s:,;=]\s*(?=\D)')
_HEX = re.compile(r'#[0-9a-fA-F]{6}')
_YES, _NO = ('1', 'true', 'yes', 'ignore', 'void'), ('', '0', 'false', 'no')


@dataclasses.dataclass(frozen=True)
class ClassLine:
  """A class of a list.

  Attributes:
    name: its name.
    color: (r, g, b), or None.
    ignore: whether its pixels are void.
    raw_id: the value of its pixels in labels of ids.
    where: its place, FILE:LINE.
  """
  name: str
  color: tuple | None
  ignore: bool
  raw_id: int
  where: str


def read_classes(path):
  """Reads a class list.

  Args:
    path: file name of the list.

  Returns:
    a list of ClassLine, in the file's order.

  Raises:
    UserError: naming the line, if it has another form or a name, a color or an id comes twice; or if fewer than two
      classes are not ignored, or there are more classes than ids.
  """
  lines = [(where, line) for where, line in lists.read_text(path) if not re.match(r'#(?![0-9a-fA-F]{6}\b)', line)]
  if not lines:
    raise UserError(f'the list {path} is empty: it holds no class')
  classes = _parse(lines)
  places = {}
  for line in classes:
    lists.note_place(places, f'class {line.name!r}', line.where)
    if line.color:
      lists.note_place(places, f'color {",".join(map(str, line.color))}', line.where)
    if line.raw_id != IGNORE_LABEL:
      lists.note_place(places, f'id {line.raw_id}', line.where)
  if len(classes) > IGNORE_LABEL:
    raise UserError(f'{path}: {len(classes)} classes; at most {IGNORE_LABEL} have an id, {IGNORE_LABEL} itself is void')
  if sum(not line.ignore for line in classes) < 2:
    raise UserError(f'{path}: at least two classes that are not ignored are needed ("background" may be one)')
  return classes


def _parse(lines):
  """Parses the lines of a list, (where, line), by the form that the first ones show."""
  delimiter, columns = _header(lines[0][1])
  if columns:
    return [_table_row(line, where, columns, delimiter, raw_id) for raw_id, (where, line) in enumerate(lines[1:])]
  if all(_CVAT.fullmatch(line) for _, line in lines):
    parts = [(where, _CVAT.fullmatch(line)) for where, line in lines]
    return [_class(match[1].strip(), _color((match[2] or '').split(','), where), False, raw_id, where)
            for raw_id, (where, match) in enumerate(parts)]
  first = 0
  if lines[0][1] == LABELME_IGNORE:  # Labelme gives it the id -1
    first, lines = 1, lines[1:]
  if lines and all(_ID.match(line) for _, line in lines):
    return [_plain(line[_ID.match(line).end():], where, _id(_ID.match(line)[1], where), shown=line)
            for where, line in lines]
  classes = [_plain(line, where, raw_id, shown=line) for raw_id, (where, line) in enumerate(lines)]
  if first and any(line.name == LABELME_IGNORE for line in classes):
    raise UserError(f'{classes[0].where}: {LABELME_IGNORE} stands in the list twice')
  return classes


def _header(line):
  """Returns the delimiter and the column names of a table's header; (None, None) where the line is none."""
  for delimiter in (',', ';', '\t', None):
    words = [word.strip().strip('"\'').lower().replace(' ', '_') for word in line.split(delimiter)]
    columns = [_HEADER.get(word) for word in words]
    named = [column for column in columns if column]
    if len(words) > 1 and None not in columns and 'name' in columns and len(set(named)) == len(named):
      return delimiter, columns
  return None, None


def _table_row(line, where, columns, delimiter, raw_id):
  """Parses a row of a table with a header."""
  fields = next(csv.reader([line], delimiter=delimiter)) if delimiter else line.split()
  fields = [field.strip() for field in fields]
  if len(fields) != len(columns):
    raise UserError(f'{where}: the header names {len(columns)} columns ({", ".join(columns)}), and this line has '
                    f'{len(fields)}: {line!r}')
  row = collections.defaultdict(str, zip(columns, fields))
  color = [row[channel] for channel in 'rgb'] if 'r' in columns else re.split(r'[\s,]+', row['color'].strip('()[]'))
  if row['ignore'].lower() not in (*_YES, *_NO):
    raise UserError(f'{where}: ignore is {row["ignore"]!r}; valid are {", ".join(filter(None, (*_YES, *_NO)))}')
  return _class(row['name'], _color(color, where), row['ignore'].lower() in _YES,
                _id(row['id'], where) if 'id' in columns else raw_id, where)


def _id(text, where):
  if not re.fullmatch(r'\d+', text) or int(text) >= IGNORE_LABEL:
    raise UserError(f'{where}: the id {text!r} is not valid; ids are 0 to {IGNORE_LABEL - 1}, {IGNORE_LABEL} is void')
  return int(text)


def _color(fields, where):
  """Makes a color of three numbers or one '#rrggbb'; None of no fields."""
  fields = [field for field in fields if field]
  if not fields:
    return None
  if len(fields) == 1 and re.fullmatch(r'#?[0-9a-fA-F]{6}', fields[0]):
    return tuple(bytes.fromhex(fields[0].lstrip('#')))
  if len(fields) != 3 or not all(re.fullmatch(r'-?\d+', field) for field in fields):
    raise UserError(f'{where}: the color {",".join(fields)!r} is not three numbers of 0 to 255, as in 128,64,128')
  color = tuple(int(field) for field in fields)
  color_labels.check_color(color, where)
  return color


def _plain(line, where, raw_id, *, shown):
  """Parses a line of the form of this project; `shown` is the whole line, for messages."""
  fields = re.sub(r'[\s,]+', ' ', line).strip().split(' ')
  ignore = fields[-1].lower() == 'ignore'
  fields = fields[:-1] if ignore else fields
  color = None
  if len(fields) > 1 and _HEX.fullmatch(fields[-1]):
    color, fields = _color(fields[-1:], where), fields[:-1]
  elif len(fields) > 3 and all(re.fullmatch(r'-?\d+', field) for field in fields[-3:]):
    color, fields = _color(fields[-3:], where), fields[:-3]
  name = ' '.join(fields)
  if len(name) > 1 and name[0] == name[-1] and name[0] in '"\'':
    name = name[1:-1].strip()
  # A number before the name, or two after it, is a color or an id of another form; the signs are those of tables, JSON
  # and YAML. As a name they would go unnoticed.
  if (not name or re.search(r'[#;|{}\[\]"=]|:\s*(-?\d|$)', name) or re.match(r'-?\d+\W?( |$)', name)
      or re.search(r' -?\d+ -?\d+$', name)):
    raise UserError(f'{where}: {FORM}; found {shown!r}')
  return _class(name, color, ignore, raw_id, where)


def _class(name, color, ignore, raw_id, where):
  if not name:
    raise UserError(f'{where}: the class has no name; {FORM}')
  if name == LABELME_IGNORE:  # CVAT's and Labelme's void, where it is not the first line
    ignore = True
  return ClassLine(name, color, ignore, raw_id, where)
