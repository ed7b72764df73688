"""What a training says about the next step: a command that works in a shell."""

import os
import shlex
import shutil
import subprocess
import sys

import pytest

from utils.files import ROOT
from utils.training import finish
from utils.training.settings import Bookkeeping, Data, TrainSettings

pytestmark = pytest.mark.fast


def line(run_dir, data_dir, **bookkeeping):
  return finish.next_line(TrainSettings(data=Data(data_dir=str(data_dir)), run_dir=str(run_dir),
                                        bookkeeping=Bookkeeping(**bookkeeping)))


def words(text):
  """The words that a shell makes of a command."""
  command = text.partition(': ')[2]
  process = subprocess.run(['bash', '-c', f'printf "%s\\0" {command}'], capture_output=True, check=True)
  return [os.fsdecode(word) for word in process.stdout.split(b'\0')[:-1]]


@pytest.fixture
def data_dir(tmp_path):
  folder = tmp_path / 'data'
  folder.mkdir()
  for split in ('train', 'val'):
    (folder / f'{split}.json').touch()
  return folder


@pytest.mark.parametrize('name', [
    'runs/x', 'two words', "quote's", 'exp[1]', '$HOME', 'new\nline', 'tab\t"', os.fsdecode(b'caf\xe9'), '日本 語',
    "\n'\\"])
def test_the_command_is_quoted_for_a_shell(name, data_dir):
  text = line(name, data_dir)
  assert text.startswith('next: ') and text.isprintable()
  assert words(text)[1:] == [os.path.relpath(os.path.join(ROOT, 'evaluate.py')), f'--ckpt={name}']


def test_the_script_is_found_from_another_folder(data_dir, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  python, script, _ = words(line('run', data_dir))
  assert os.path.samefile(script, os.path.join(ROOT, 'evaluate.py'))
  assert os.path.samefile(shutil.which(python), sys.executable)
  monkeypatch.chdir(ROOT)
  assert words(line('run', data_dir))[1] == 'evaluate.py'


def test_python_is_named_so_that_it_is_the_one_that_runs(data_dir, tmp_path, monkeypatch):
  monkeypatch.setenv('PATH', str(tmp_path))
  assert shlex.split(line('run', data_dir))[1] == sys.executable
  os.symlink(sys.executable, tmp_path / 'python')
  monkeypatch.setattr(sys, 'executable', str(tmp_path / 'python'))
  assert shlex.split(line('run', data_dir))[1] == 'python'


def test_an_installation_names_the_command_beside_the_one_that_runs(data_dir, tmp_path, monkeypatch):
  monkeypatch.setattr(finish, 'PACKAGE', 'fcn_googlenet')
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(sys, 'argv', ['bin/fcn-train'])
  assert words(line('run', data_dir))[-4:] == [sys.executable, '-m', 'fcn_googlenet.evaluate', '--ckpt=run']
  for folder in ('bin', 'other'):
    (tmp_path / folder).mkdir()
    (tmp_path / folder / 'fcn-evaluate').touch(0o755)
  monkeypatch.setenv('PATH', str(tmp_path / 'other'), prepend=os.pathsep)
  assert words(line('run', data_dir)) == ['bin/fcn-evaluate', '--ckpt=run']  # the shell would find the other
  monkeypatch.setenv('PATH', str(tmp_path / 'bin'), prepend=os.pathsep)
  assert words(line('run', data_dir)) == ['fcn-evaluate', '--ckpt=run']


def test_the_split_is_one_that_is_there(data_dir):
  assert '--split' not in line('run', data_dir)
  (data_dir / 'test.json').touch()
  (data_dir / 'night.json').touch()
  assert words(line('run', data_dir, eval_split='night'))[-1] == '--split=night'
  assert '--split' not in line('run', data_dir, eval_split='gone')
  (data_dir / 'val.json').unlink()
  assert words(line('run', data_dir, eval_split='val'))[-1] == '--split=test'
  assert words(line('run', data_dir, eval_split='train'))[-1] == '--split=test'


def test_without_a_split_photographs_are_labeled(data_dir):
  (data_dir / 'val.json').unlink()
  text = line('my run', data_dir)
  assert text.startswith('next, with pictures of yours for PHOTOS: ')
  assert words(text)[1:] == [os.path.relpath(os.path.join(ROOT, 'inference.py')), '--ckpt=my run', 'PHOTOS']
