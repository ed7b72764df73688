"""The results of a program that measures: rows, their table, and the JSON that holds each part as soon as it ends.

    result = results.begin('out.json', {'machine': ...}, resume=True)
    for name in results.missing('out.json', result, parts):
      results.add('out.json', result, name, parts[name]())
    print(results.table(result['results']))

The JSON holds what the figures depend on, the rows as `results`, and as `parts` the number of rows of each part, with
the reason of its failure as `failed`. It is written, whole, after every row: a program that is stopped loses only what
it was measuring.
"""

import itertools
import json
import os

import numpy as np

from utils.errors import UserError, brief, shown
from utils.files import claim, make_folder, read_json, write_json

STOPPED = 'stopped before its end'
FREE = ('output', 'resume', 'overwrite', 'what', 'timeline')  # flags that may differ from those of --resume's file
_FREE = ('command', 'load_average_before', 'nvidia_smi')  # entries of the file that may differ


def row(what, case, unit, values, **more):
  """Returns a line of the results: a dict with the median, quartiles, mean and count of `values`.

  Args:
    what: the part, or the kind of figure.
    case: what has been measured.
    unit: unit of the values.
    values: list of numbers.
    **more: further entries of the dict; `beside`, a dict from unit to number, is shown in the table.
  """
  low, middle, high = np.percentile(values, [25, 50, 75]).tolist()
  return {'what': what, 'case': case, 'unit': unit, 'median': middle, 'quartiles': [low, high],
          'mean': float(np.mean(values)), 'count': len(values), **more}


def table(rows):
  """Formats lines of results for people."""
  cells = [('what', 'case', 'median', 'quartiles', 'unit', 'count')]
  cells += [(line['what'], line['case'], f'{line["median"]:.4g}', '{:.4g} .. {:.4g}'.format(*line['quartiles']),
             line['unit'], str(line['count'])) for line in rows]
  if any('beside' in line for line in rows):
    cells = [(*line, beside) for line, beside in zip(cells, ['beside it', *map(_beside, rows)])]
  widths = [max(map(len, column)) for column in zip(*cells)]
  return '\n'.join('  '.join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in cells)


def _beside(line):
  return ', '.join(f'{value:.3g} {unit}' for unit, value in line.get('beside', {}).items())


def begin(path, about, *, resume=False, overwrite=False):
  """Begins a JSON of results, or takes up one.

  Args:
    path: the JSON.
    about: dict of all that the figures depend on.
    resume: whether to keep the parts that have ended in an earlier JSON at `path`.
    overwrite: whether a file that this program did not write may be replaced.

  Returns:
    the dict that `add` extends, whose `parts` are those kept.

  Raises:
    UserError: if the file cannot be written, or the earlier one is of another machine, version or setting.
  """
  make_folder(os.path.dirname(os.path.abspath(path)))
  result = {**about, 'parts': {}, 'results': []}
  if resume and os.path.exists(path):
    earlier = read_json(path)
    _check_same(path, earlier, about)
    rows = iter(earlier['results'])
    for name, part in earlier['parts'].items():
      own = list(itertools.islice(rows, part['rows']))
      if 'failed' not in part:
        result['parts'][name] = part
        result['results'] += own
  claim([path], overwrite=overwrite)
  write_json(path, result)  # an unwritable file ends the program now
  return result


def _check_same(path, earlier, about):
  """Raises UserError if an earlier JSON at `path` is no result of this program, or measured something else."""
  if not (isinstance(earlier, dict) and isinstance(earlier.get('parts'), dict)
          and isinstance(earlier.get('results'), list)):
    raise UserError(f'--resume: {path} holds no results of this program; give another --output')
  then, now = _flat(earlier), _flat(json.loads(json.dumps(about)))
  for name, value in now.items():
    if then.get(name) != value:
      raise UserError(f'--resume: {path} was measured with {name} {brief(then.get(name))}, and here it is '
                      f'{brief(value)}; give another --output')


def _flat(about):
  """Entries of a dict and of the dicts in it, but for those that may differ."""
  found = {}
  for name, value in about.items():
    if name not in _FREE:
      found |= {f'{name}.{key}': part for key, part in value.items()} if isinstance(value, dict) else {name: value}
  return found


def missing(path, result, names):
  """Yields those of some parts, each once, that `result`, of `begin`, does not have yet; says so of every part."""
  for name in dict.fromkeys(names):
    if name in result['parts']:
      print(f'{name} is in {shown(path)} already', flush=True)
    else:
      print(f'measuring: {name}', flush=True)
      yield name


def add(path, result, name, rows, **more):
  """Adds the rows of a part, as they come: prints a line and writes the JSON after each.

  Args:
    path: the JSON.
    result: dict from `begin`.
    name: the part.
    rows: iterable of rows, which measures while it is gone through.
    **more: further entries of the part.

  Raises:
    whatever the iterable raises; the rows before it stay, and the part is marked as failed.
  """
  part = result['parts'][name] = {'rows': 0, 'failed': STOPPED, **more}
  try:
    for line in rows:
      part['rows'] += 1
      result['results'].append(line)
      write_json(path, result)
      values = f'{line["median"]:.4g} {line["unit"]}'
      print(f'{line["what"]}, {line["case"]}: {", ".join(filter(None, [values, _beside(line)]))}', flush=True)
  except UserError as error:
    part['failed'] = str(error)
    write_json(path, result)
    raise
  del part['failed']
  write_json(path, result)
