"""The project as pip installs it: what the wheel holds and asks for, and that it works where only it is."""

import ast
import email
import os
import pathlib
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import types
import venv
import zipfile

import imageio.v3 as imageio
import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.version import Version
from test_walls import MODULES

from setup import RECIPES, ROOMS, SCRIPTS
from utils.files import ROOT, read_json

TREE = pathlib.Path(ROOT)
FOLDERS = ('nets', 'datasets', 'checkpoints', 'utils', 'docs', 'tests')
LEFT_OUT = ('browser', 'dev', 'pytorch')  # requirements of work in a checkout, which are no extras
PREFIX, INFO = 'fcn_googlenet/', re.compile(r'fcn_googlenet-[\d.]+\.dist-info/')
# Programs and files of a checkout, as texts name them.
CHECKOUT = re.compile(r'(?<![\w./-])(train|evaluate|inference)\.py\b|python -m (nets|datasets|checkpoints|utils)\.'
                      r'|python fcn-|(?<![\w./-])(nets|datasets|checkpoints|utils)/[\w/]+\.py')
BUILD = "from setuptools import build_meta; build_meta.build_{}('dist')"


def call(*words, **options):
  """Runs a program; returns its stdout. Its modules are its own: nothing of this process's path."""
  environment = {name: value for name, value in os.environ.items() if name != 'PYTHONPATH'}
  process = subprocess.run(words, capture_output=True, text=True, env=environment, **options)
  assert process.returncode == 0, process.stdout + process.stderr
  return process.stdout


def build(*words, **options):
  """Runs this process's Python, whose packages build others; returns the CompletedProcess."""
  return subprocess.run([sys.executable, *words], capture_output=True, text=True, **options)


@pytest.fixture(scope='module')
def built(tmp_path_factory):
  """A copy of the checkout with files that belong to no package: its `tree`, `files`, and the `wheel` and `sdist`."""
  tree = tmp_path_factory.mktemp('checkout')
  for pattern in ('Makefile', 'LICENSE', 'README.md', 'MANIFEST.in', 'pyproject.toml', 'setup.py', 'requirements*.txt',
                  *RECIPES, *(f'{script}.py' for script in SCRIPTS)):
    for path in TREE.glob(pattern):
      shutil.copy(path, tree)
  for folder in FOLDERS:
    shutil.copytree(TREE / folder, tree / folder, ignore=shutil.ignore_patterns('__pycache__', '*.ckpt*', '*.gz'))
  files = {str(path.relative_to(tree)) for path in tree.rglob('*') if path.is_file()}
  for stray in ('scratch.py', 'checkpoints/x.ckpt', 'utils/notes.txt', 'data/__init__.py', 'data/x.py',
                'build/lib/fcn_googlenet/gone.py', 'build/lib/utils.py', 'nets/__pycache__/fcn.pyc'):
    (tree / stray).parent.mkdir(parents=True, exist_ok=True)
    (tree / stray).write_text('')
  before = set(os.listdir(tree))
  done = build('-c', f'{BUILD.format("sdist")}; {BUILD.format("wheel")}', cwd=tree)
  assert done.returncode == 0, done.stderr
  assert set(os.listdir(tree)) - before == {'dist', 'fcn_googlenet.egg-info'}
  [wheel], [sdist] = (tree / 'dist').glob('*.whl'), (tree / 'dist').glob('*.tar.gz')
  return types.SimpleNamespace(tree=tree, files=files, wheel=wheel, sdist=sdist)


def contents(wheel):
  """Dict from the names in a wheel to their bytes."""
  with zipfile.ZipFile(wheel) as archive:
    return {name: archive.read(name) for name in archive.namelist()}


def modules():
  """Dict from the modules of the wheel to their files in the checkout."""
  return {f'{PREFIX}{path.relative_to(TREE)}': path for module, path in MODULES.items()
          if module != 'setup' and not module.startswith('utils.studies')}


def page():
  """Names in the wheel of the files of the server's page."""
  return {f'{PREFIX}{path.relative_to(TREE)}' for path in TREE.glob('utils/serving/page/*')}


def test_the_wheel_holds_one_package_and_no_more(built):
  names = set(contents(built.wheel))
  info = {name for name in names if INFO.match(name)}
  assert names - info == {*modules(), *page(), *(PREFIX + name for name in ('__init__.py', *RECIPES))}
  assert {INFO.sub('', name) for name in info} == {
      'METADATA', 'WHEEL', 'RECORD', 'entry_points.txt', 'top_level.txt', 'licenses/LICENSE'}


@pytest.mark.skipif(not (TREE / '.git').exists(), reason='no git checkout, which knows what is of the project')
def test_no_file_of_the_rooms_is_missing(built):
  """Files beside modules are in the wheel only if setup.py names them."""
  names = call('git', 'ls-files', '--', *ROOMS, cwd=TREE).splitlines()
  names = {PREFIX + name for name in names if not name.startswith('utils/studies/') and (TREE / name).exists()}
  assert len(names) > 100 and names - set(contents(built.wheel)) == set()


def test_the_source_distribution_is_whole_and_makes_the_same_wheel(built, tmp_path):
  with tarfile.open(built.sdist) as archive:
    names = {member.name.partition('/')[2] for member in archive if member.isfile()}
  assert built.files <= names
  assert {name for name in names - built.files if '.egg-info/' not in name} == {'PKG-INFO', 'setup.cfg'}
  done = build('-m', 'pip', 'wheel', '--quiet', '--no-build-isolation', '--no-deps', '--no-index',
               '--disable-pip-version-check', '--wheel-dir', str(tmp_path), str(built.sdist))
  assert done.returncode == 0, done.stderr
  [again] = tmp_path.glob('*.whl')
  assert contents(again) == contents(built.wheel)


def test_an_editable_installation_is_refused(built):
  done = build('-c', BUILD.format('editable'), cwd=built.tree)
  assert done.returncode == 1 and 'fcn_googlenet cannot be installed as editable' in done.stderr


def plain(source):
  """A module's syntax tree as text, without what the package has otherwise: its name in imports, and strings."""
  tree = ast.parse(source)
  for node in ast.walk(tree):
    for field, value in ast.iter_fields(node):
      if isinstance(value, list):
        setattr(node, field, [ast.Import(names=one.names) if isinstance(one, ast.ImportFrom)
                              and one.module == 'fcn_googlenet' else one for one in value])
    if isinstance(node, ast.ImportFrom):
      node.module = (node.module or '').removeprefix('fcn_googlenet.')
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
      node.value = ''
  return ast.dump(tree)


def strings(source):
  """Yields the strings of a module, joined as Python does; {} stands for what f-strings put in."""
  for node in ast.walk(ast.parse(source)):
    if isinstance(node, ast.JoinedStr):
      yield ''.join(part.value if isinstance(part, ast.Constant) else '{}' for part in node.values)
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
      yield node.value


def test_modules_differ_in_imports_and_texts_alone(built):
  inside = contents(built.wheel)
  for name, path in modules().items():
    source = inside[name].decode()
    assert plain(source) == plain(path.read_text(encoding='utf-8')), name
    assert [text for text in strings(source) if CHECKOUT.search(text)] == [], name
    if not name.endswith('utils/installation.py'):
      assert [text for text in strings(source) if 'pip install -r' in text] == [], name


def test_modules_import_what_is_in_the_wheel(built):
  inside = contents(built.wheel)
  here = {*modules(), f'{PREFIX}__init__.py'}
  outside = {'nets', 'datasets', 'checkpoints', 'utils', *SCRIPTS}
  for name in modules():
    for node in ast.walk(ast.parse(inside[name])):
      if isinstance(node, ast.Import):
        assert not any(alias.name.split('.')[0] in outside for alias in node.names), name
      elif isinstance(node, ast.ImportFrom):
        assert node.module.split('.')[0] not in outside, name
        if node.module.split('.')[0] == 'fcn_googlenet':
          path = node.module.replace('.', '/')
          assert {f'{path}.py', f'{path}/__init__.py'} & here, (name, node.module)


def metadata(wheel):
  """The wheel's METADATA, as a message."""
  return email.message_from_bytes(next(text for name, text in contents(wheel).items() if name.endswith('/METADATA')))


def listed(path):
  """Reads a requirements file: (list of Requirement, set of the extras that it includes)."""
  lines = [re.sub(r'(^|\s)#.*', '', line).strip() for line in path.read_text(encoding='utf-8').splitlines()]
  includes = {line.removeprefix('-r requirements').removesuffix('.txt').lstrip('-') for line in lines
              if line.startswith('-r')}
  return [Requirement(line) for line in lines if line and not line.startswith('-r')], includes - {''}


def test_every_requirements_file_is_an_extra_and_the_other_way_round(built):
  files = {path.stem.removeprefix('requirements-') for path in TREE.glob('requirements-*.txt')}
  assert files - set(LEFT_OUT) == set(metadata(built.wheel).get_all('Provides-Extra'))


@pytest.mark.parametrize('extra', ['', *sorted(
    path.stem.removeprefix('requirements-') for path in TREE.glob('requirements-*.txt')
    if path.stem.removeprefix('requirements-') not in LEFT_OUT)])
def test_an_extra_asks_for_what_its_file_pins(extra, built):
  """The same packages on every Python; versions from the oldest pinned one, and all pinned ones."""
  pins, includes = listed(TREE / f'requirements{"-" if extra else ""}{extra}.txt')
  needs = [Requirement(text) for text in metadata(built.wheel).get_all('Requires-Dist')]
  needs = [need for need in needs if ('extra' in str(need.marker)) == bool(extra)
           and (not extra or need.marker.evaluate({'extra': extra, 'python_version': '3.10'}))]
  assert {name for need in needs if need.name == 'fcn-googlenet' for name in need.extras} == includes
  needs = {need.name: need for need in needs if need.name != 'fcn-googlenet'}
  for python in ('3.10', '3.11', '3.12', '3.13'):
    where = {'python_version': python, 'extra': extra}
    assert {pin.name for pin in pins if not pin.marker or pin.marker.evaluate(where)} == {
        need.name for need in needs.values() if not need.marker or need.marker.evaluate(where)}
  for name, need in needs.items():
    same = [pin for pin in pins if pin.name == name]
    versions = [Version(str(pin.specifier).removeprefix('==')) for pin in same]
    assert all(need.specifier.contains(version) for version in versions), name
    assert str(need.specifier).removeprefix('>=').removeprefix('~=') == str(min(versions))
    assert {frozenset(pin.extras) for pin in same} == {frozenset(need.extras)}


@pytest.fixture(scope='module')
def installed(built, tmp_path_factory):
  """An environment in which the wheel is installed: its folders `bin` and `site`. Third-party packages are this one's.
  """
  folder = tmp_path_factory.mktemp('environment')
  venv.create(folder, symlinks=True)
  [site] = folder.glob('lib/python*/site-packages')
  (site / 'others.pth').write_text(sysconfig.get_path('purelib') + '\n')
  call(folder / 'bin/python', '-m', 'pip', 'install', '--quiet', '--no-deps', '--no-index', '--no-compile',
       '--disable-pip-version-check', built.wheel)
  return types.SimpleNamespace(bin=folder / 'bin', site=site)


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
  """A working folder with a dataset of 60x44 pixels, and other people's modules with the names of a checkout's."""
  monkeypatch.chdir(tmp_path)
  for name in ('utils.py', 'nets.py', 'train.py', 'datasets/__init__.py', 'checkpoints/__init__.py'):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("raise RuntimeError('this is not of the project')\n")
  for folder in ('images', 'labels'):
    (tmp_path / 'photos' / folder).mkdir(parents=True)
  for number, name in enumerate('abc'):
    image = np.full((44, 60, 3), 80 * number, np.uint8)
    image[:, 30:] = 200
    imageio.imwrite(tmp_path / f'photos/images/{name}.png', image)
    imageio.imwrite(tmp_path / f'photos/labels/{name}.png', (image[..., 0] == 200).astype(np.uint8))
  (tmp_path / 'photos/classes.txt').write_text('left\nright\n')
  (tmp_path / 'photos/train.txt').write_text('a\nb\n')
  (tmp_path / 'photos/val.txt').write_text('c\n')
  return tmp_path


FROM_PYTHON = '''
import importlib.metadata
import numpy as np
from fcn_googlenet.utils.inference.predictor import Predictor
from fcn_googlenet.utils.installation import install
from fcn_googlenet.utils.runs import load_run

predictor = Predictor(load_run('run'))
print(predictor.labels(np.zeros([2, 40, 50, 3], np.uint8)).shape, install(), install('crf'))
programs = {entry.name: entry.load() for entry in importlib.metadata.distribution('fcn_googlenet').entry_points}
assert programs['fcn-inference'](['--ckpt=run', '--output_dir=out', 'photos/images/c.png']) == 0
programs['fcn-package'](['--version'])
'''


def entries(folder):
  """Paths of the files in a folder that are not compiled."""
  return {path for path in folder.rglob('*') if path.is_file() and path.suffix != '.pyc'}


def test_an_installation_works_where_nothing_of_the_checkout_is(installed, elsewhere):
  before = entries(installed.site)
  assert {path.name for path in installed.site.iterdir()} == {
      'others.pth', 'fcn_googlenet', f'fcn_googlenet-{metadata_version(installed)}.dist-info'}
  version = f'version {metadata_version(installed)}'
  done = call(installed.bin / 'fcn-train', '--flagfile=demo.flags', '--dataset=photos', '--net=segnet_basic', '--skip=',
              '--crop_size=32,32', '--batch_size=1', '--max_steps=2', '--run_dir=run')
  config = read_json('run/config.json')
  assert config['commit'] == version and config['command'].startswith('fcn-train --dataset=photos ')
  evaluating = done.splitlines()[-1].partition('next: ')[2]
  assert evaluating == f'{installed.bin / "fcn-evaluate"} --ckpt=run'
  call('bash', '-c', evaluating)
  assert read_json('run/metrics-val.json')['num_images'] == 1
  done = call(installed.bin / 'python', '-c', FROM_PYTHON).splitlines()  # other programs in one process
  assert done[0] == "(2, 40, 50) pip install fcn-googlenet pip install 'fcn-googlenet[crf]'"
  assert imageio.imread('out/c_label.png').shape[:2] == (44, 60)
  assert done[-1] == f'fcn-googlenet {version}'
  done = ' '.join(call(installed.bin / 'fcn-doctor').split())
  assert done.startswith('TensorFlow 2.') and f'; {version} packages ' in done
  assert entries(installed.site) == before
  assert {path.name for path in elsewhere.iterdir()} == {
      'utils.py', 'nets.py', 'train.py', 'datasets', 'checkpoints', 'photos', 'data', 'run', 'out'}


def metadata_version(installed):
  [info] = installed.site.glob('*.dist-info')
  return email.message_from_string((info / 'METADATA').read_text(encoding='utf-8'))['Version']


def test_all_commands_are_installed(installed):
  scripts = re.findall(r'^(fcn-\w+) = ', (TREE / 'pyproject.toml').read_text(encoding='utf-8'), re.MULTILINE)
  assert {path.name for path in installed.bin.glob('fcn-*')} == set(scripts) and len(scripts) >= 7
