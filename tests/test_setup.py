"""setup.py's rewriting of the checkout's modules for the package."""

import pathlib

import pytest

import setup
from utils.files import ROOT

pytestmark = pytest.mark.fast

COMMANDS = {'train': 'fcn-train', 'evaluate': 'fcn-evaluate', 'inference': 'fcn-inference',
            'datasets.convert': 'fcn-convert', 'utils.doctor': 'fcn-doctor'}


def rewritten(source):
  return setup.rewritten(source, COMMANDS)


@pytest.mark.parametrize('line, expected', [
    ('from utils.files import ROOT', 'from fcn_googlenet.utils.files import ROOT'),
    ('from  datasets import records, reading', 'from  fcn_googlenet.datasets import records, reading'),
    ('from nets import (\n  a,\n  b)', 'from fcn_googlenet.nets import (\n  a,\n  b)'),
    ('import checkpoints', 'from fcn_googlenet import checkpoints'),
    ('import datasets as data  # ours', 'from fcn_googlenet import datasets as data  # ours'),
    ('def late():\n  import train; import nets',
     'def late():\n  from fcn_googlenet import train; from fcn_googlenet import nets'),
    ('é = "ü"; from train import main', 'é = "ü"; from fcn_googlenet.train import main'),
    ('x = 1\r\nfrom utils import cpu\r\n', 'x = 1\r\nfrom fcn_googlenet.utils import cpu\r\n'),
])
def test_imports_of_the_project(line, expected):
  assert rewritten(line) == expected


@pytest.mark.parametrize('line', [
    'import os, utilities', 'from utils_of_others import x', 'from . import utils', 'from .utils import x',
    'import tensorflow.compat.v1 as tf', 'from tf_slim.nets import vgg', 'datasets = utils.nets', '# import utils', ''])
def test_other_imports_stay(line):
  assert rewritten(line) == line


@pytest.mark.parametrize('line', ['import os, utils', 'import utils.files', 'import utils.files as files'])
def test_an_import_that_cannot_be_rewritten_ends_the_build(line):
  with pytest.raises(SyntaxError, match=f'line 2: {line} cannot become an import of fcn_googlenet'):
    rewritten(f'\n{line}')


@pytest.mark.parametrize('text, expected', [
    ('python train.py --skip=8s', 'fcn-train --skip=8s'),
    ('not written by evaluate.py', 'not written by fcn-evaluate'),
    ('python -m datasets.convert makes it', 'fcn-convert makes it'),
    ('see python -m utils.doctor.', 'see fcn-doctor.'),
    ('python -m utils.doctor.driver 12', 'python -m fcn_googlenet.utils.doctor.driver 12'),
    ('(python -m checkpoints.fetch)', '(python -m fcn_googlenet.checkpoints.fetch)'),
    ('as utils/training/run.py has it', 'as fcn_googlenet/utils/training/run.py has it'),
    *((same, same) for same in (
        'train', 'my_train.py', 'code/train.py', './train.py', 'train.python', 'python -m pip', 'import utils.files',
        'data/utils/x.py', 'checkpoints/vgg_16.ckpt', 'utils/studies', 'caf\\xe9')),
])
def test_texts_name_what_an_installation_has(text, expected):
  for literal in ("'{}'", '"""{}"""', "f'{{a}} {}{{b!r}}'", "r'{}'", "x = ('a '\n     f'{}')", "f(f'{{x[\"y\"]}} {}')"):
    assert rewritten(literal.format(text)) == literal.format(expected)


def test_a_comment_and_a_name_stay():
  source = '# python train.py\ntrain.py = utils.files\n'
  assert rewritten(source) == source


def test_what_is_no_python_ends_the_build():
  with pytest.raises(SyntaxError):
    rewritten('def')


def test_all_recipes_are_in_the_package():
  assert {path.name for path in pathlib.Path(ROOT).glob('*.flags')} == set(setup.RECIPES)


def test_commands_are_those_of_the_entry_points():
  assert setup.commands_of(['fcn-train = fcn_googlenet.train:main', 'fcn-convert=fcn_googlenet.datasets.convert:main',
                            'fcn-doctor = fcn_googlenet.utils.doctor.__main__:main']) == {
      'train': 'fcn-train', 'datasets.convert': 'fcn-convert', 'utils.doctor': 'fcn-doctor'}
