"""Results of measurements: rows, their table, and the JSON that keeps every part that has ended."""

import json

import numpy as np
import pytest

from utils.errors import UserError
from utils.files import read_json
from utils.studies import results

pytestmark = pytest.mark.fast


def row(case, value=1.0):
  return results.row('part', case, 's', [value])


def test_row_has_the_quartiles():
  line = results.row('train', 'step', 's', [5.0, 1.0, 2.0, 4.0, 9.0], note='x')
  assert line == {'what': 'train', 'case': 'step', 'unit': 's', 'median': 4.0, 'quartiles': [2.0, 5.0],
                  'mean': pytest.approx(4.2), 'count': 5, 'note': 'x'}
  json.dumps(results.row('loop', 'ratio', 'ratio', np.divide([2.0, 3.0], [1.0, 2.0])))


def test_table():
  rows = [results.row('train', 'float32: bare step', 's', [1.0, 2.0, 3.0]),
          results.row('memory', 'peak', 'GiB', [1234.5678])]
  assert results.table(rows) == '\n'.join([
      'what    case                median  quartiles     unit  count',
      'train   float32: bare step  2       1.5 .. 2.5    s     3',
      'memory  peak                1235    1235 .. 1235  GiB   1'])


def test_table_shows_what_is_beside():
  rows = [row('a'), results.row('part', 'b', 's', [2.0], beside={'images/s': 123.456, 'GiB': 0.5})]
  assert results.table(rows) == '\n'.join([
      'what  case  median  quartiles  unit  count  beside it',
      'part  a     1       1 .. 1     s     1',
      'part  b     2       2 .. 2     s     1      123 images/s, 0.5 GiB'])


def test_every_row_is_saved_and_printed_as_it_comes(tmp_path, capsys):
  """The part that is being measured counts as failed until it has ended."""
  path, seen = tmp_path / 'new/out.json', []

  def rows():
    for case in 'abc':
      yield row(case)
      written = json.loads(path.read_text())
      seen.append((len(written['results']), written['parts'], capsys.readouterr().out))

  result = results.begin(str(path), {'machine': 'M'})
  results.add(str(path), result, 'one', rows(), note=7)
  unfinished = lambda count: {'one': {'rows': count, 'failed': 'stopped before its end', 'note': 7}}
  assert seen == [(count, unfinished(count), f'part, {case}: 1 s\n') for count, case in ((1, 'a'), (2, 'b'), (3, 'c'))]
  assert read_json(path) == result
  assert result['parts'] == {'one': {'rows': 3, 'note': 7}} and result['machine'] == 'M'


def stopped(*before, error):
  yield from before
  raise error


@pytest.mark.parametrize('error, reason', [
    (UserError('no memory left'), 'no memory left'), (KeyboardInterrupt(), 'stopped before its end'),
    (RuntimeError('odd'), 'stopped before its end')])
def test_a_rerun_keeps_the_parts_that_ended(error, reason, tmp_path):
  path, about = str(tmp_path / 'out.json'), {'size': (3, 5), 'flags': {'steps': 2}, 'command': 'x'}
  result = results.begin(path, about)
  results.add(path, result, 'one', [row('a'), row('b')])
  with pytest.raises(type(error)):
    results.add(path, result, 'two', stopped(row('lost'), error=error))
  results.add(path, result, 'three', [row('c')])
  written = json.loads((tmp_path / 'out.json').read_text())
  assert written['parts']['two'] == {'rows': 1, 'failed': reason}
  assert [line['case'] for line in written['results']] == ['a', 'b', 'lost', 'c']
  again = results.begin(path, {**about, 'command': 'y', 'nvidia_smi': {'temperature.gpu': '40'}}, resume=True)
  assert again['parts'] == {'one': {'rows': 2}, 'three': {'rows': 1}}
  assert [line['case'] for line in again['results']] == ['a', 'b', 'c']
  assert results.begin(path, about)['results'] == []  # without --resume from the start


@pytest.mark.parametrize('changed, message', [
    ({'size': (3, 6)}, r'was measured with size \[3, 5\], and here it is \[3, 6\]'),
    ({'flags': {'steps': 3}}, 'with flags.steps 2, and here it is 3; give another --output'),
    ({'machine': 'N'}, "with machine nothing, and here it is 'N'")])
def test_other_settings_are_not_mixed(changed, message, tmp_path):
  path, about = tmp_path / 'out.json', {'size': (3, 5), 'flags': {'steps': 2}}
  results.add(str(path), results.begin(str(path), about), 'one', [row('a')])
  before = path.read_bytes()
  with pytest.raises(UserError, match=message):
    results.begin(str(path), {**about, **changed}, resume=True)
  assert path.read_bytes() == before


@pytest.mark.parametrize('content', ['[]', '{}', '{"parts": {}, "results": 3}', '{"parts": [], "results": []}'])
def test_a_file_of_another_program_is_not_taken_up(content, tmp_path):
  path = tmp_path / 'out.json'
  path.write_text(content)
  with pytest.raises(UserError, match='holds no results of this program'):
    results.begin(str(path), {}, resume=True)
  assert path.read_text() == content
