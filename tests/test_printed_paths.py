"""Printed paths are escaped, so that each stays on one line and changes nothing in a terminal."""

import ast
import re

import pytest
from test_walls import MODULES, parsed

pytestmark = pytest.mark.fast

PATH = re.compile(r'(^|_|\.)(path|paths|dir|folder|root|ckpt|checkpoint|prefix|output|archive|target|place|list_)$|'
                  r'^(resumed|dataset\.name|file_of\(.*\)|log|compare|settings\.run_dir\(.*\))$')
SAFE = {'shown', 'quoted', 'listed', 'brief', 'len', 'json.dumps', '_command'}


def printed_raw(tree):
  """The expressions in what a syntax tree prints that are paths, by their names, and are not made fit to be shown."""
  found = []

  def look(node):
    if isinstance(node, ast.Call) and ast.unparse(node.func) in SAFE:
      return
    if isinstance(node, ast.FormattedValue) and PATH.search(ast.unparse(node.value)):
      found.append(ast.unparse(node.value))
    for child in ast.iter_child_nodes(node):
      look(child)

  for call in ast.walk(tree):
    if isinstance(call, ast.Call) and ast.unparse(call.func) in ('print', 'say'):
      for argument in call.args:
        look(argument)
  return found


@pytest.mark.parametrize('module', MODULES)
def test_no_path_is_printed_as_it_is(module):
  assert printed_raw(parsed(MODULES[module])) == []


@pytest.mark.parametrize('line, found', [
    ("print(f'{path}: done')", ['path']), ("print(f'{shown(path)}: done')", []),
    ("say(f'in {data_dir}')", ['data_dir']), ("print(f'{settings.output} and {len(paths)}')", ['settings.output']),
    ("print(f'{run.checkpoint} (step {run.step})', file=sys.stderr)", ['run.checkpoint']),
])
def test_a_path_that_is_printed_as_it_is_is_found(line, found):
  assert printed_raw(ast.parse(line)) == found
