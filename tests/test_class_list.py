"""Class lists in this project's form and in those of annotation tools: names, ids, colors and void, or the line."""

import pytest

from datasets.readers.class_list import read_classes
from utils.errors import UserError

pytestmark = pytest.mark.fast

TWO = [('background', None, False, 0), ('object', None, False, 1)]
COLORED = [('background', (0, 0, 0), False, 0), ('object', (255, 0, 0), False, 1)]


def read(path, text, encoding='utf-8'):
  path.write_bytes(text.encode(encoding))
  return [(line.name, line.color, line.ignore, line.raw_id) for line in read_classes(str(path))]


@pytest.mark.parametrize('text, expected', [
    ('__ignore__\n_background_\nobject\n', [('_background_', None, False, 0), ('object', None, False, 1)]),
    ('__ignore__\r\n_background_\r\ncat\r\ndog', [('_background_', None, False, 0), ('cat', None, False, 1),
                                                  ('dog', None, False, 2)]),
    ('_background_\n__ignore__\ncat\n', [('_background_', None, False, 0), ('__ignore__', None, True, 1),
                                         ('cat', None, False, 2)]),
    ('name,r,g,b\nbackground,0,0,0\nobject,255,0,0\n', COLORED),
    ('r,g,b,name\n0,0,0,background\n255,0,0,object\n', COLORED),
    ('id;class;color\n0;background;#000000\n1;object;ff0000\n', COLORED),
    ('name\tred\tgreen\tblue\nbackground\t0\t0\t0\nobject\t255\t0\t0\n', COLORED),
    ('ID,Name,Ignore\n0,background,no\n1,object,0\n9,rest,yes\n', [*TWO, ('rest', None, True, 9)]),
    ('id,name\n3,"traffic sign, small"\n5,car\n', [('traffic sign, small', None, False, 3), ('car', None, False, 5)]),
    ('Pixel Value, Class\n0, background\n1, object\n', TWO),
    ('# label:color_rgb:parts:actions\nbackground:0,0,0::\nobject:255,0,0::\n', COLORED),
    ('background:0,0,0::\nobject:255,0,0:wheel,door:drive\n', COLORED),
    ('background:::\nobject:::\n', TWO),
    ('0 background\n1 object\n', TWO), ('0: background\n1: object\n', TWO), ('0,background\n1,object\n', TWO),
    ('1 object 255,0,0\n0 background 0,0,0\n', [COLORED[1], COLORED[0]]),
    ('background #000000\nobject #FF0000\n', COLORED), ('"background" 0,0,0\n"object" 255,0,0\n', COLORED),
    ('background\nobject\n', TWO),
    ('2-wheeler\n4-wheeler\n', [('2-wheeler', None, False, 0), ('4-wheeler', None, False, 1)]),
])
def test_names_colors_ids_and_void(text, expected, tmp_path):
  assert read(tmp_path / 'classes.txt', text) == expected


@pytest.mark.parametrize('encoding', ['utf-8-sig', 'utf-16', 'utf-16-le', 'utf-16-be', 'latin-1'])
def test_encodings(encoding, tmp_path):
  text = 'stra\xdfe\nobject\n'
  if encoding in ('utf-16-le', 'utf-16-be'):
    with pytest.raises(UserError, match='holds zero bytes; save it as UTF-8 text'):
      read(tmp_path / 'classes.txt', text, encoding)  # without their mark
    text = '\ufeff' + text
  names = [line[0] for line in read(tmp_path / 'classes.txt', text, encoding)]
  assert names == ['stra\udcdfe' if encoding == 'latin-1' else 'stra\xdfe', 'object']


@pytest.mark.parametrize('text, line, problem', [
    ('name,r,g,b\na,0,0\nb,1,1,1\n', 2, 'the header names 4 columns .name, r, g, b., and this line has 3'),
    ('name,r,g,b\na,0,0,x\nb,1,1,1\n', 2, "the color '0,0,x' is not three numbers of 0 to 255"),
    ('name,r,g,b\na,0,0,0\nb,1,1,256\n', 3, 'the color 1,1,256 has the value 256'),
    ('id,name\n0,a\n255,b\n', 3, "the id '255' is not valid; ids are 0 to 254"),
    ('id,name\n0,a\n0,b\n', 3, 'the id 0 stands in .*:2 already'),
    ('id,name,ignore\n0,a,maybe\n1,b,no\n', 2, "ignore is 'maybe'; valid are 1, true"),
    ('name,r,g,b\n,0,0,0\nb,1,1,1\n', 2, 'the class has no name'),
    ('__ignore__\n__ignore__\na\nb\n', 2, '__ignore__ stands in the list twice'),
    ('a\nb;0;0;0\n', 2, 'is a name'), ('a\n{"name": "b"}\n', 2, 'is a name'), ('names: [a, b]\n', 1, 'is a name'),
    ('a: 0\nb: 1\n', 1, 'is a name'), ('a\n1 b\n', 2, 'is a name'), ('0 a\n300 b\n', 2, "the id '300' is not valid")])
def test_other_forms_are_refused_by_line(text, line, problem, tmp_path):
  (tmp_path / 'classes.txt').write_text(text)
  with pytest.raises(UserError, match=f'classes.txt:{line}: .*{problem}'):
    read_classes(str(tmp_path / 'classes.txt'))
