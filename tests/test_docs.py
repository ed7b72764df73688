"""The documents say what is there: flags, defaults, commands, links, paths and messages."""

import ast
import contextlib
import functools
import importlib
import importlib.util
import pathlib
import re
import shlex
import sys

import pytest

from utils import settings
from utils.files import ROOT

pytestmark = pytest.mark.fast

TREE = pathlib.Path(ROOT)
DOCUMENTS = sorted([TREE / 'README.md', *(TREE / 'docs').glob('*.md')])
SCRIPTS = ('train', 'evaluate', 'inference')
BUILT_IN = {'flagfile', 'help', 'version'}
HELP_LINE = re.compile(r'  --(?:\[no\])?(\w+): .*?(?: \((?:default: (.*)|(required))\))?')
FOREIGN = {'Killed', 'OOM when allocating tensor'}  # messages of the system and of TensorFlow
DELETED = 'Appendix'  # a section with flags that are no more


@functools.cache
def text(path):
  return path.read_text(encoding='utf-8')


def current(path):
  """A document's text without the section on what was deleted."""
  return re.sub(rf'^## {DELETED}.*?(?=^## |\Z)', '', text(path), flags=re.MULTILINE | re.DOTALL)


def section(path, title):
  """The lines below a heading, up to the next of its level."""
  return re.search(rf'^## {re.escape(title)}\n(.*?)(?=^## |\Z)', text(path), re.MULTILINE | re.DOTALL).group(1)


def rows(markdown):
  """Yields the cells of each line of a table, without its head; pipes in code do not occur."""
  lines = [line for line in markdown.splitlines() if line.startswith('|')]
  for line in lines[2:]:
    yield [cell.strip() for cell in line.strip('|').split('|')]


@functools.cache
def records_of(module_name):
  """The Settings classes that a program knows: those of the module that its `main` is defined in."""
  module = importlib.import_module(module_name)
  if hasattr(module, '__path__'):  # a package, as `python -m` starts it
    module = importlib.import_module(f'{module_name}.__main__')
  module = sys.modules[module.main.__module__]
  return [value for value in vars(module).values()
          if isinstance(value, type) and issubclass(value, settings.Settings) and value is not settings.Settings]


@functools.cache
def flags_of(module_name):
  return {name for record in records_of(module_name) for name, _, _ in settings.walk(record)} | BUILT_IN


def script_settings(script):
  from utils.evaluation.settings import EvaluateSettings
  from utils.inference.settings import InferenceSettings
  from utils.training.settings import TrainSettings

  return {'train': TrainSettings, 'evaluate': EvaluateSettings, 'inference': InferenceSettings}[script]


def of_help(record):
  """List of (flag, default) as --help prints them: 'required', or None where the help text has its own words."""
  found = []
  for line in settings.help_text(record).splitlines():
    match = HELP_LINE.fullmatch(line)
    if match and match[1] not in BUILT_IN:
      found.append((match[1], match[2] or match[3]))
  return found


def of_table(script):
  """List of (flag, default) of a script's table in docs/flags.md; None for a default in words."""
  found = []
  for flag, default, _ in rows(section(TREE / 'docs/flags.md', f'{script}.py')):
    code = re.fullmatch(r'`([^`]*)`', default)
    found.append((flag.strip('`').removeprefix('--'), 'required' if default == 'required' else code and code[1]))
  return found


@pytest.mark.parametrize('script', SCRIPTS)
def test_the_tables_of_flags_are_those_of_help(script):
  record = script_settings(script)
  assert [name for name, _ in of_help(record)] == [name for name, _, _ in settings.walk(record)]
  assert of_table(script) == of_help(record)


def test_flags_that_a_resumed_run_may_change():
  sentence = re.search(r'A resumed run may change these.*?\.\n', text(TREE / 'docs/flags.md'), re.DOTALL)
  assert set(re.findall(r'--(\w+)', sentence[0])) == settings.changeable(script_settings('train'))


@pytest.mark.parametrize('path', DOCUMENTS, ids=lambda path: path.name)
def test_tests_that_are_named_exist(path):
  modules = {module.stem: text(module) for module in TREE.glob('tests/test_*.py')}
  known = {*modules, *re.findall(r'^def (test_\w+)', '\n'.join(modules.values()), re.MULTILINE)}
  assert set(re.findall(r'(?<!-)\btest_\w+', text(path))) - known == set()


def commands(path):
  """Yields the words of each command line in a document's blocks, and of programs named in its prose."""
  block = re.sub(r'\\\n', ' ', '\n'.join(line for line in current(path).splitlines() if line.startswith('    ')))
  for line in block.splitlines():
    with contextlib.suppress(ValueError):  # a lone apostrophe: no command
      yield shlex.split(line, comments=True)
  for code in re.findall(r'`([^`]+)`', current(path)):
    yield code.split()


@functools.cache
def commands_of_an_installation():
  """Dict from commands, as 'fcn-train', to the names of the modules in a checkout."""
  return dict(re.findall(r'^(fcn-\w+) = "fcn_googlenet\.([\w.]+?)(?:\.__main__)?:main"$', text(TREE / 'pyproject.toml'),
                         re.MULTILINE))


def program(words):
  """Module name of the project's program that a command starts, and its arguments; None if it starts another."""
  for place, word in enumerate(words):
    if word == '-m' and words[place - 1].endswith('python') and place + 1 < len(words):
      name, rest = words[place + 1].removeprefix('fcn_googlenet.'), words[place + 2:]
    elif re.fullmatch(r'fcn-(?!googlenet)\w+', word):
      name, rest = commands_of_an_installation()[word], words[place + 1:]
    elif word.endswith('.py') and word.removesuffix('.py') in SCRIPTS:
      name, rest = word.removesuffix('.py'), words[place + 1:]
    else:
      continue
    top = name.split('.')[0]
    return (name, rest) if (TREE / top).is_dir() or (TREE / f'{top}.py').exists() else None
  return None


def flags_in(words):
  """Names of the flags among words; names in capitals stand for any."""
  names = [re.match(r'--([\w-]*)', word)[1] for word in words if word.startswith('--')]
  return [name for name in names if name == name.lower()]


def is_flag(name, known):
  return name in known or name.removeprefix('no') in known


@pytest.mark.parametrize('path', DOCUMENTS, ids=lambda path: path.name)
def test_commands_and_their_flags_exist(path):
  unknown = []
  for words in commands(path):
    started = program(words)
    if started is None:
      continue
    name, rest = started
    assert importlib.util.find_spec(name), f'{path.name}: python -m {name}'
    unknown += [f'{name} --{flag}' for flag in flags_in(rest) if not is_flag(flag, flags_of(name))]
  assert not unknown


@pytest.mark.parametrize('path', DOCUMENTS, ids=lambda path: path.name)
def test_flags_named_in_prose_exist(path):
  known = set().union(*(flags_of(name) for name in programs_named() if importlib.util.find_spec(name)))
  prose = '\n'.join(line for line in current(path).splitlines() if not line.startswith('    '))
  named = [flag for code in re.findall(r'`([^`]+)`', prose) for flag in flags_in(code.split())]
  assert [flag for flag in named if not is_flag(flag, known)] == []


def programs_named():
  started = [program(words) for path in DOCUMENTS for words in commands(path)]
  return {name for name, _ in filter(None, started)}


def test_programs_are_found():
  """So that the tests above look at something."""
  assert {*SCRIPTS, 'datasets.inspect', 'checkpoints.fetch', 'utils.studies.ablations'} <= programs_named()


def anchors(path):
  """The anchors of a document's headings, as GitHub makes them."""
  return {re.sub(r'[^\w\- ]', '', heading.lower()).strip().replace(' ', '-')
          for heading in re.findall(r'^#+ (.*)$', text(path), re.MULTILINE)}


@pytest.mark.parametrize('path', DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path):
  for target in re.findall(r'\]\(([^)\s]+)\)', text(path)):
    if re.match(r'https?:', target):
      continue
    file, _, anchor = target.partition('#')
    linked = (path.parent / file).resolve() if file else path
    assert linked.exists(), target
    assert not anchor or anchor in anchors(linked), target


@pytest.mark.parametrize('path', DOCUMENTS, ids=lambda path: path.name)
def test_files_named_exist(path):
  """Files of the project in code, as `utils/runs.py`; words in capitals stand for names."""
  named = re.findall(r'`((?:utils|nets|datasets|checkpoints|tests|docs)/[\w./]+\.\w+)`', text(path))
  assert [name for name in named if not re.search(r'/[A-Z]+\.', name) and not (TREE / name).exists()] == []


def strings():
  """All string constants in the project's code."""
  paths = [*TREE.glob('*.py'), *(path for folder in ('utils', 'nets', 'datasets', 'checkpoints')
                                 for path in (TREE / folder).rglob('*.py'))]
  return [node.value for path in paths for node in ast.walk(ast.parse(text(path)))
          if isinstance(node, ast.Constant) and isinstance(node.value, str)]


def test_messages_quoted_for_troubleshooting_are_in_the_code():
  """FOLDER and N stand for what a message is about; examples stand behind a colon."""
  constants = strings()
  quotes = [quote for cells in rows(section(TREE / 'README.md', 'Troubleshooting'))
            for quote in re.findall(r'`([^`]+)`', cells[0])]
  quotes = [quote for quote in quotes if quote not in FOREIGN and not quote.endswith('.py')]
  assert len(quotes) >= 6
  for quote in quotes:
    for part in re.split(r'FOLDER|\bN\b', quote.partition(':')[0]):
      assert any(part.strip() in constant for constant in constants), quote


def test_python_in_the_readme_imports():
  imports = re.findall(r'^    (from [\w.]+ import \w+)$', text(TREE / 'README.md'), re.MULTILINE)
  assert len(imports) >= 2
  for line in imports:
    exec(line, {})
