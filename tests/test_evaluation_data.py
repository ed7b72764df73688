"""The data that evaluate.py finds: from any folder, as its originals are now; and where it writes."""

import json
import os
import shutil

import imageio.v3 as imageio
import numpy as np
import programs
import pytest
import tifffile
from random_run import write_run

import evaluate
from datasets import convert, get_dataset, inspection, prepare, records
from utils import runs
from utils.errors import UserError
from utils.evaluation.data import find_data, follow_originals, open_split
from utils.evaluation.run import variant
from utils.evaluation.settings import EvaluateSettings
from utils.settings import parse

CLASSES = ('ground', 'cat')


def paint(path, pixels):
  path.parent.mkdir(parents=True, exist_ok=True)
  imageio.imwrite(path, np.array(pixels, np.uint8), extension='.png')


@pytest.fixture
def photos(tmp_path):
  """The user's own folder: two images to train on, one to evaluate, whose label is all ground but for a pixel."""
  folder = tmp_path / 'photos'
  for name in 'abc':
    paint(folder / f'images/{name}.png', np.full([33, 47, 3], 90))
    label = np.zeros([33, 47])
    label[0, 0] = 1
    paint(folder / f'labels/{name}.png', label)
  (folder / 'classes.txt').write_text('\n'.join(CLASSES))
  (folder / 'train.txt').write_text('a\nb\n')
  (folder / 'val.txt').write_text('c\n')
  return folder


@pytest.fixture
def data_dir(photos, tmp_path, monkeypatch):
  monkeypatch.setattr(convert, 'default_workers', lambda: 1)
  for split in ('train', 'val'):
    convert.convert(get_dataset(str(photos)), split, source_dir=None, data_dir=str(tmp_path / 'data'), progress=False)
  return tmp_path / 'data'


@pytest.fixture
def run(tmp_path, tiny, data_dir):
  return write_run(tmp_path / 'run', CLASSES, network=tiny, dataset='photos', data_dir=data_dir)


def pixels(run):
  return json.loads((run / 'metrics-val.json').read_text())['class_pixels']


def test_a_corrected_label_is_scored_as_it_is_now(run, photos, data_dir):
  result = programs.run(evaluate.main, f'--ckpt={run}')
  assert result.returncode == 0 and pixels(run) == {'ground': 33 * 47 - 1, 'cat': 1}
  assert 'other files' not in result.stdout
  label = np.zeros([33, 47])
  label[:10] = 1
  paint(photos / 'labels/c.png', label)
  train_before = (data_dir / 'train.json').read_bytes()
  result = programs.run(evaluate.main, f'--ckpt={run}', f'--data_dir={data_dir}')
  assert f'photos: val was converted from other files than are in {photos} now' in result.stdout
  assert pixels(run) == {'ground': 23 * 47, 'cat': 470}
  assert (data_dir / 'train.json').read_bytes() == train_before


def change_image(photos):
  paint(photos / 'images/c.png', np.full([40, 30, 3], 90))
  paint(photos / 'labels/c.png', np.ones([40, 30]))


def add_to_list(photos):
  (photos / 'val.txt').write_text('c\nb\n')
  (photos / 'train.txt').write_text('a\n')


def move_class(photos):
  (photos / 'classes.txt').write_text('cat\nground\n')


@pytest.mark.parametrize('change, expected', [(change_image, {'ground': 0, 'cat': 1200}),
                                              (add_to_list, {'ground': 2 * (33 * 47 - 1), 'cat': 2})])
def test_other_changes_count_as_well(run, photos, change, expected):
  change(photos)
  result = programs.run(evaluate.main, f'--ckpt={run}')
  assert result.returncode == 0 and 'other files' in result.stdout and pixels(run) == expected


def test_changed_classes_are_refused_before_anything_is_converted(run, photos, data_dir):
  before = {path.name: path.read_bytes() for path in data_dir.iterdir()}
  move_class(photos)
  programs.assert_refused(programs.run(evaluate.main, f'--ckpt={run}'), f'{photos} has other classes now',
                          'cat, ground and ground, cat')
  assert {path.name: path.read_bytes() for path in data_dir.iterdir()} == before


def test_bad_changed_originals_are_refused_by_name(run, photos):
  (photos / 'labels/c.png').write_bytes(b'no picture')
  result = programs.run(evaluate.main, f'--ckpt={run}')
  assert result.returncode == 1 and 'labels/c.png' in result.stderr and 'Traceback' not in result.stderr


def test_without_originals_the_records_are_scored(run, photos, data_dir, capsys):
  loaded = runs.load_run(str(run))
  shutil.rmtree(photos)
  follow_originals(str(data_dir), 'val', loaded)
  assert capsys.readouterr() == ('', '')
  photos.mkdir()  # as where a disk is not mounted
  follow_originals(str(data_dir), 'val', loaded)
  assert 'cannot be read now' in capsys.readouterr().err
  assert programs.run(evaluate.main, f'--ckpt={run}').returncode == 0 and pixels(run)['cat'] == 1


def test_an_image_whose_name_is_no_utf8_is_scored_and_drawn(run, photos, tmp_path):
  for kind in ('images', 'labels'):
    os.rename(os.fsencode(photos / kind / 'c.png'), os.fsencode(photos / kind) + b'/caf\xe9.png')
  (photos / 'val.txt').unlink()
  (photos / 'train.txt').unlink()
  data = str(tmp_path / 'other')
  dataset = get_dataset(str(photos))
  split = next(split for split in ('val', 'train')
               if 'caf\udce9' in [source.name for source in dataset.sources(None, split)])
  convert.convert(dataset, split, source_dir=None, data_dir=data, progress=False)
  result = programs.run(evaluate.main, f'--ckpt={run}', f'--data_dir={data}', f'--split={split}', '--details')
  assert result.returncode == 0, result.stderr
  details = json.loads((run / f'metrics-{split}.json').read_text())['details']
  assert 'caf\udce9' in [one['name'] for one in details['best']]
  result = programs.run(inspection.main, f'--dataset={photos}', f'--data_dir={data}', f'--splits={split}')
  assert result.returncode == 0, result.stderr


@pytest.mark.parametrize('dtype, before, after, ranges', [
    ('uint16', 4000, 9000, '0 to 16383, and .* was trained on 0 to 4095'),
    ('float32', 0.9, 7.5, '0 to 255, and .* was trained on 0 to 1'), ('uint16', 3000, 4000, None),
    ('uint8', 30, 255, None)])
def test_a_new_image_does_not_change_the_brightness_of_all(dtype, before, after, ranges, photos, tmp_path):
  """The greatest value of all images says which is white."""
  def give(name, most):
    (photos / f'images/{name}.png').unlink(missing_ok=True)
    tifffile.imwrite(photos / f'images/{name}.tif', np.linspace(0, most, 33 * 47).reshape(33, 47).astype(dtype))

  for name in 'abc':
    give(name, before)
  data_dir = str(tmp_path / 'wide')
  prepare.prepare(get_dataset(str(photos)), data_dir)
  reading = records.read_reading(data_dir, 'train').to_json()
  run = make_run(tmp_path, data_dir, dataset={'name': 'photos', 'classes': CLASSES, 'reading': reading}, network={})
  assert open_split(run, 'val')[1] == 1
  give('c', after)
  if ranges is None:
    assert open_split(run, 'val')[1] == 1
    return
  for _ in range(2):  # when the images are converted, and later
    with pytest.raises(UserError, match=f'^val in .* has the value ranges {ranges}; value_range in dataset.json'):
      open_split(run, 'val')
  other = make_run(tmp_path, data_dir, dataset={**run.config['dataset'], 'name': 'other'}, network={})
  assert open_split(other, 'val')[1] == 1  # of another dataset each has its own


def make_run(tmp_path, data_dir, **config):
  return runs.Run(str(tmp_path / 'run'), checkpoint='', step=0, config={'flags': {'data_dir': data_dir}, **config})


def test_data_is_found_from_another_folder_and_after_a_move(tmp_path, monkeypatch):
  project = tmp_path / 'project'
  (project / 'data').mkdir(parents=True)
  (project / 'data/val.json').touch()
  made = make_run(tmp_path, 'data', working_folder=str(project))
  assert find_data(made, 'val') == str(project / 'data')
  monkeypatch.chdir(project)
  assert find_data(made, 'val') == 'data'
  monkeypatch.chdir(tmp_path)
  shutil.move(project, tmp_path / 'moved')
  with pytest.raises(UserError, match=rf'is not in {project}/data nor in {tmp_path}/data; .* --data_dir'):
    find_data(made, 'val')
  monkeypatch.chdir(tmp_path / 'moved')
  assert find_data(made, 'val') == 'data'
  assert find_data(make_run(tmp_path, 'data'), 'val') == 'data'  # of a version that did not keep its folder
  assert find_data(make_run(tmp_path, str(tmp_path / 'moved/data')), 'val') == str(tmp_path / 'moved/data')


@pytest.mark.parametrize('given, run_dir', [('data/x', 'runs/a'), ('../data/x', '../runs/a'), (None, 'runs/a')])
def test_data_of_a_moved_project_is_found_beside_its_run_from_any_folder(given, run_dir, tmp_path, monkeypatch):
  """Relative paths, or absolute ones of the place before."""
  project, moved = tmp_path / 'project', tmp_path / 'moved'
  (moved / 'data/x').mkdir(parents=True)
  (moved / 'data/x/val.json').touch()
  (moved / 'runs/a').mkdir(parents=True)
  config = {'flags': {'data_dir': given or str(project / 'data/x'), 'run_dir': run_dir},
            'working_folder': str(project / ('src' if given and given.startswith('..') else ''))}
  monkeypatch.chdir(tmp_path)
  for folder in (str(moved / 'runs/a'), 'moved/runs/a', 'moved/runs/a/'):
    found = find_data(runs.Run(folder, checkpoint='', step=0, config=config), 'val')
    assert os.path.samefile(found, moved / 'data/x')
  (moved / 'runs/a').rename(tmp_path / 'a')  # without its data
  with pytest.raises(UserError, match='give its folder as --data_dir'):
    find_data(runs.Run('a', checkpoint='', step=0, config=config), 'val')


def test_of_two_places_the_one_with_the_split_counts(tmp_path, monkeypatch):
  for place in ('there', 'here'):
    (tmp_path / place / 'data').mkdir(parents=True)
  monkeypatch.chdir(tmp_path / 'here')
  made = make_run(tmp_path, 'data', working_folder=str(tmp_path / 'there'))
  assert find_data(made, 'val') == str(tmp_path / 'there/data')
  (tmp_path / 'here/data/val.json').touch()
  assert find_data(made, 'val') == 'data'
  with pytest.raises(UserError, match='does not say where its data is; .* --data_dir'):
    find_data(make_run(tmp_path, None), 'val')


def test_a_run_that_cannot_be_written_to_is_scored_elsewhere(run, tmp_path, monkeypatch):
  access = os.access
  monkeypatch.setattr(os, 'access', lambda path, mode: path != str(run) and access(path, mode))
  programs.assert_refused(programs.run(evaluate.main, f'--ckpt={run}'), str(run), 'not writable', '--output_dir')
  before = sorted(os.listdir(run))
  assert programs.run(evaluate.main, f'--ckpt={run}', f'--output_dir={tmp_path}/out', '--details').returncode == 0
  assert sorted(os.listdir(run)) == before
  assert {'metrics-val.json', 'confusion-val.png', 'examples-val.png', 'calibration-val.png'} <= set(
      os.listdir(tmp_path / 'out'))


@pytest.mark.parametrize('words, suffix', [
    ([], 'val'), (['--split=test', '--details', '--num_workers=3', '--seed=5'], 'test'),
    (['--test_flip', '--test_scales=0.75,1'], 'val-scales_0.75_1-flip'),
    (['--samples=4'], 'val-samples_4'), (['--samples=4', '--seed=5'], 'val-samples_4-seed_5'),
    (['--precision=bfloat16'], 'val-bfloat16'),
    (['--max_pixels=1234567'], 'val-max_pixels_1234567'),
    (['--tile_size=300', '--test_flip'], 'val-flip-tile_size_300')])
def test_names_hold_all_that_changes_labels(words, suffix):
  assert variant(parse(EvaluateSettings, ['--ckpt=x', *words])) == suffix
