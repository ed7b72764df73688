"""Makes the package fcn_googlenet of the checkout's modules, for pip. What pip is told about it is in pyproject.toml.

In a checkout modules are imported as `utils.files`, and programs start as `python train.py`. In site-packages such
names would meet other people's. So the package has the same modules with `fcn_googlenet.` before the names that they
import, and with the commands of an installation in their texts: `fcn-train` for `python train.py`. Tests and the
programs that measure the project itself (utils/studies) stay in the checkout.
"""

import ast
import itertools
import os
import re
import tempfile

import setuptools
from setuptools.command.build_py import build_py
from setuptools.command.editable_wheel import editable_wheel

PACKAGE = 'fcn_googlenet'
SCRIPTS = ('train', 'evaluate', 'inference')
ROOMS = ('nets', 'datasets', 'checkpoints', 'utils')
LEFT_OUT = 'utils.studies'
RECIPES = ('demo.flags', 'camvid.flags', 'camvid-trainval.flags')  # files for --flagfile, beside the scripts

_ROOMS = '|'.join(ROOMS)
_MENTION = re.compile(rf'''
    (?:python[ ])?(?<![\w./-])(?P<script>{"|".join(SCRIPTS)})\.py\b  # python train.py, or train.py alone
    | python[ ]-m[ ](?P<module>(?:{_ROOMS})(?:\.\w+)+)
    | (?<![\w./-])(?P<path>(?:{_ROOMS})/[\w/]+\.py)\b''', re.VERBOSE)


def rewritten(source, commands):
  """A module of the checkout as a module of the package.

  Args:
    source: the module's text.
    commands: dict from programs of the checkout, as 'train' and 'datasets.convert', to commands: 'fcn-train'.

  Returns:
    the text with other imports and string literals; all else is as it was.

  Raises:
    SyntaxError: if the text is no Python, or has an import that cannot be rewritten.
  """
  content, tree = source.encode(), ast.parse(source)
  starts = [0, *itertools.accumulate(map(len, content.splitlines(keepends=True)))]  # of the lines

  def span(node):
    """Where a node lies in `content`; `ast` counts columns in bytes."""
    return starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset

  edits = []
  for node in _imports(tree):
    start, end = span(node)
    edits.append((start, end, _rewritten_import(node, content[start:end].decode())))
  for node in _literals(tree):
    start, end = span(node)
    edits.append((start, end, _MENTION.sub(lambda match: _installed(match, commands), content[start:end].decode())))
  for start, end, text in sorted(edits, reverse=True):
    content = content[:start] + text.encode() + content[end:]
  ast.parse(content)
  return content.decode()


def _ours(name):
  return name.split('.')[0] in (*ROOMS, *SCRIPTS)


def _imports(tree):
  """Yields the statements that import modules of the project."""
  for node in ast.walk(tree):
    if (isinstance(node, ast.ImportFrom) and not node.level and _ours(node.module)) or (
        isinstance(node, ast.Import) and any(_ours(alias.name) for alias in node.names)):
      yield node


def _rewritten_import(node, text):
  """The text of an import of modules of the project, as the package has it."""
  if isinstance(node, ast.ImportFrom):
    return re.sub(r'^from(\s+)', rf'from\1{PACKAGE}.', text)
  if len(node.names) > 1 or '.' in node.names[0].name:
    raise SyntaxError(f'line {node.lineno}: {text} cannot become an import of {PACKAGE}; use from ... import ...')
  return f'from {PACKAGE} {text}'  # binds the same name


def _literals(node):
  """Yields the string literals below a node; an f-string as a whole, as it is one token before Python 3.12."""
  for child in ast.iter_child_nodes(node):
    if isinstance(child, ast.JoinedStr) or (isinstance(child, ast.Constant) and isinstance(child.value, str)):
      yield child
    else:
      yield from _literals(child)


def _installed(match, commands):
  """What takes the place of a program or file of the checkout that a text names."""
  if match['script']:
    return commands[match['script']]
  if match['module']:
    return commands.get(match['module'], f'python -m {PACKAGE}.{match["module"]}')
  return f'{PACKAGE}/{match["path"]}'


def commands_of(entry_points):
  """Dict from programs of the checkout to commands, of lines as 'fcn-train = fcn_googlenet.train:main'."""
  found = {}
  for line in entry_points:
    command, _, target = line.replace(' ', '').partition('=')
    found[target.removeprefix(f'{PACKAGE}.').removesuffix(':main').removesuffix('.__main__')] = command
  return found


class BuildPackage(build_py):
  """Copies the modules, rewritten, and what the package has beside them."""

  def run(self):
    super().run()
    folder = os.path.join(self.build_lib, PACKAGE)
    with open(os.path.join(folder, '__init__.py'), 'w', encoding='utf-8') as file:
      about = self.distribution.metadata
      file.write(f'"""{about.description}."""\n\n__version__ = {about.version!r}\n')
    for name in RECIPES:
      self.copy_file(name, os.path.join(folder, name))

  def build_module(self, module, module_file, package):
    path, copied = super().build_module(module, module_file, package)
    with open(path, encoding='utf-8', newline='') as file:
      source = file.read()
    with open(path, 'w', encoding='utf-8', newline='') as file:
      file.write(rewritten(source, commands_of(self.distribution.entry_points['console_scripts'])))
    return path, copied


class NotEditable(editable_wheel):
  """Refuses `pip install --editable`: the package is made of rewritten copies."""

  def run(self):
    raise SystemExit(f'{PACKAGE} cannot be installed as editable; work in a checkout needs only requirements.txt, and '
                     'python train.py there')


def main():
  """Does what pip asks for, in a new folder: setuptools packs all that an earlier build has left in its own."""
  rooms = setuptools.find_packages(include=[pattern for room in ROOMS for pattern in (room, f'{room}.*')],
                                   exclude=[LEFT_OUT, f'{LEFT_OUT}.*'])
  with tempfile.TemporaryDirectory() as folder:
    setuptools.setup(
        package_dir={PACKAGE: '.'},
        packages=[f'{PACKAGE}.{room}' for room in rooms],
        py_modules=[f'{PACKAGE}.{script}' for script in SCRIPTS],
        include_package_data=False,
        package_data={f'{PACKAGE}.utils.serving': ['page/*']},
        cmdclass={'build_py': BuildPackage, 'editable_wheel': NotEditable},
        options={'build': {'build_base': folder}},
    )


if __name__ == '__main__':
  main()
