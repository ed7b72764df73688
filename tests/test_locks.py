"""Locks: two writers of one folder do not interleave, a dead one is no obstacle, and readers need no lock."""

import os
import signal
import threading

import programs
import pytest
from few_shapes import convert_shapes
from forks import Fork
from random_run import write_run

import evaluate
import inference
import train
from datasets import convert, export, get_dataset
from utils import download, files, runs
from utils.errors import UserError
from utils.export.__main__ import main as export_run

HOLD = """
import sys, time
from utils import runs
from utils.files import locked_folder
with (runs.locked(sys.argv[2]) if sys.argv[1] == 'run' else locked_folder(sys.argv[2], 'busy')):
  print('held', flush=True)
  time.sleep(600)
"""


@pytest.fixture
def hold():
  """`hold(kind, folder)` starts a process that holds a folder's lock; returns it."""
  started = []

  def start(kind, folder):
    process = Fork('-c', HOLD, kind, folder)
    started.append(process)
    assert process.stdout.readline() == 'held\n'
    return process

  yield start
  for process in started:
    process.kill()
    process.wait()


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
  folder = tmp_path_factory.mktemp('data') / 'shapes'
  convert_shapes(str(folder), train=4, val=2, num_shards=1)
  return folder


@pytest.fixture
def run(tmp_path, tiny, data_dir):
  return write_run(tmp_path / 'run', get_dataset('shapes').classes, network=tiny, dataset='shapes', data_dir=data_dir)


def start_training(run_dir, data_dir, net):
  return programs.run(train.main, f'--net={net}', '--checkpoint=none', '--max_steps=1', '--crop_size=31,31',
                      '--batch_size=2', '--eval_steps=0', f'--data_dir={data_dir}', f'--run_dir={run_dir}')


@pytest.mark.parametrize('end', [signal.SIGKILL, signal.SIGSTOP])
def test_a_killed_process_leaves_no_lock_and_a_stopped_one_keeps_it(end, hold, tiny, data_dir, tmp_path):
  run_dir = tmp_path / 'run'
  process = hold('run', str(run_dir))
  programs.assert_refused(start_training(run_dir, data_dir, tiny), 'another run is training in', '--run_dir')
  process.send_signal(end)
  if end == signal.SIGKILL:
    process.wait()
    assert 'lock' in os.listdir(run_dir)
    assert start_training(run_dir, data_dir, tiny).returncode == 0
  else:
    programs.assert_refused(start_training(run_dir, data_dir, tiny), 'another run is training in')


def test_a_run_that_trains_is_scored_and_labels_pictures(run, hold, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  hold('run', str(run))
  assert programs.run(evaluate.main, f'--ckpt={run}').returncode == 0
  photos = tmp_path / 'photos'
  data = files.read_json(run / 'config.json')['flags']['data_dir']
  assert programs.run(export.main, f'--data_dir={data}', f'--output_dir={photos}').returncode == 0
  assert programs.run(inference.main, f'--ckpt={run}', '--output_dir=out', str(photos)).returncode == 0


def test_two_conversions_or_exports_do_not_share_a_folder(run, hold, tmp_path):
  hold('folder', str(tmp_path / 'data'))
  result = programs.run(convert.main, '--dataset=shapes', f'--data_dir={tmp_path}/data', '--splits=val',
                        '--num_workers=1')
  programs.assert_refused(result, 'another conversion is writing to')
  hold('folder', str(tmp_path / 'export'))
  result = programs.run(export_run, f'--ckpt={run}', '--format=pb', f'--output_dir={tmp_path}/export')
  programs.assert_refused(result, 'another export is writing to')
  assert os.listdir(tmp_path / 'data') == os.listdir(tmp_path / 'export') == []


def test_an_evaluation_waits_until_another_has_written_its_files(tmp_path):
  """So that numbers and pictures in a folder are of one evaluation, and none is lost after its work."""
  order = []

  def second():
    with files.locked_folder(str(tmp_path), 'busy', wait=True):
      order.append('second')

  with files.locked_folder(str(tmp_path), 'busy', wait=True):
    with pytest.raises(UserError, match='^busy$'), files.locked_folder(str(tmp_path), 'busy'):
      pass
    thread = threading.Thread(target=second)
    thread.start()
    thread.join(0.2)
    order.append('first')
  thread.join()
  assert order == ['first', 'second']


def test_evaluations_hold_the_lock_while_they_write(run, monkeypatch):
  held = []

  def write(path, value):
    with pytest.raises(UserError, match='^busy$'), files.locked_folder(str(run), 'busy'):
      pass
    held.append(path)

  monkeypatch.setattr('utils.evaluation.run.write_json', write)
  monkeypatch.setattr('utils.drawing.colors.write_png', write)
  assert programs.run(evaluate.main, f'--ckpt={run}').returncode == 0
  assert len(held) == 3


@pytest.fixture
def served(tmp_path, monkeypatch):
  """Lets downloads find the bytes b'weights', once `before()` has run."""
  before = []

  def transfer(url, file, size, progress):
    for function in before:
      function()
    file.write(b'weights')

  monkeypatch.setattr(download, '_transfer_all', transfer)
  return before


def test_a_download_has_its_name_before_its_lock_is_gone(served, tmp_path, monkeypatch):
  """Else another process could open the part, wait for its lock, and write to the file that has its name by then."""
  path, seen = str(tmp_path / 'weights'), []
  monkeypatch.setattr(os, 'replace', lambda old, new, replace=os.replace: (
      seen.append(pytest.raises(UserError, download.fetch, 'http://x/weights', path, progress=False)),
      replace(old, new)))
  assert download.fetch('http://x/weights', path, progress=False) == path
  assert 'is being downloaded by another process' in str(seen[0].value)
  assert os.listdir(tmp_path) == ['weights']


def test_a_part_that_another_process_finished_is_not_written_to(served, tmp_path, monkeypatch):
  """The other one finishes between this one's opening of the part and its lock."""
  path = tmp_path / 'weights'

  def take_lock(file, busy):
    os.replace(file.name, path)
    path.write_bytes(b'whole')

  monkeypatch.setattr(download, 'take_lock', take_lock)
  assert download.fetch('http://x/weights', str(path), progress=False) == str(path)
  assert path.read_bytes() == b'whole' and os.listdir(tmp_path) == ['weights']


def test_a_lock_file_is_left_as_it_is(tmp_path):
  (tmp_path / 'lock').write_text('a note of mine')
  with runs.locked(str(tmp_path)):
    pass
  assert (tmp_path / 'lock').read_text() == 'a note of mine'
