"""Packages as runs: python -m checkpoints.package, and all that takes --ckpt on what it wrote."""

import json
import os
import shutil
import zipfile

import numpy as np
import programs
import pytest
from PIL import Image
from random_run import random_values
from test_evaluate import drawn_sources, write_split
from test_packages import rewrite

import evaluate
import inference
from checkpoints import card, package
from checkpoints.convert import write_run
from datasets.readers.camvid import CAMVID
from nets import get_network
from utils.compat import tf
from utils.errors import UserError
from utils.files import read_json
from utils.inference.predictor import Predictor, weights_of
from utils.inference.temperature import stored_temperature
from utils.packages import Package
from utils.runs import AVERAGE, load_run
from utils.training import warm_start


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
  return write_split(tmp_path_factory.mktemp('data') / 'camvid', drawn_sources())


@pytest.fixture(scope='module')
def averages(tiny):
  """The averages in the run's checkpoint, by the names of their variables."""
  with tf.Graph().as_default():
    get_network(tiny).logits(tf.placeholder(tf.float32, [None, None, None, 3]), len(CAMVID.classes), skip='8s')
    return random_values(tf.global_variables(), seed=4)


@pytest.fixture(scope='module')
def template(tmp_path_factory, data_dir, tiny, averages):
  """A run as training leaves it: weights far from their averages, the optimizer's slots, its powers, a loss scale."""
  variables = {}
  for name, value in averages.items():
    variables |= {name: value + 1, name + AVERAGE: value, f'{name}/Adam': value * 0, f'{name}/Adam_1': value * 0}
  variables |= {'beta1_power': np.float32(0.9), 'loss_scale/scale': np.float32(2.0**15)}
  config = {'flags': {'data_dir': str(data_dir), 'ema_decay': 0.9}, 'network': {'name': tiny, 'skip': '8s'},
            'dataset': {'name': 'camvid', 'classes': list(CAMVID.classes), 'palette': CAMVID.palette.tolist()},
            'working_folder': '/home/somebody'}
  folder = tmp_path_factory.mktemp('runs') / 'template'
  write_run(str(folder), variables, config)
  return folder


@pytest.fixture
def folder(template, tmp_path):
  """The run, for a test to change."""
  return shutil.copytree(template, tmp_path / 'run')


def make(folder, *flags):
  result = programs.run(package.main, f'--ckpt={folder}', *flags)
  assert result.returncode == 0, result.stderr
  return result


def labels(ckpt, images):
  with Predictor(load_run(str(ckpt))) as predictor:
    return [predictor.labels(image[np.newaxis]) for image in images]


def test_labels_in_float32_are_those_of_the_folder(folder, averages, tmp_path):
  """To the bit, from the network's variables alone, which are the averages."""
  result = make(folder, '--weights=float32')
  path = tmp_path / 'run.zip'
  assert ': 100 % of 7,662 pixels have the same label' in result.stdout  # 41 x 30 + 67 x 96
  reader = Package(str(path))
  assert set(reader.get_variable_to_shape_map()) == {*averages, 'global_step'}
  for name, value in averages.items():
    np.testing.assert_array_equal(reader.get_tensor(name), value, strict=True)
  images = [np.random.default_rng(1).integers(0, 256, (*size, 3), np.uint8) for size in ((33, 47), (64, 65))]
  for one, other in zip(labels(folder, images), labels(path, images)):
    np.testing.assert_array_equal(one, other)


def test_float16_says_how_many_labels_agree(folder, tmp_path):
  result = make(folder)
  reader = Package(str(tmp_path / 'run.zip'))
  weights = reader.document('metadata.json')['weights']
  images = [source.image for source in drawn_sources()]
  equal = sum(int((one == other).sum()) for one, other in zip(labels(folder, images), labels(reader.path, images)))
  assert weights['compared'] == {'split': 'val', 'images': 2, 'pixels': 7662, 'equal': equal}
  assert card.compared_line(weights) in result.stdout
  assert card.compared_line(weights) in reader.read('README.md').decode()
  kernels = [np.load(path).dtype for path in extracted(reader.path, tmp_path) if path.endswith('/weights.npy')]
  assert kernels and set(kernels) == {np.dtype(np.float16)}


def extracted(path, folder):
  """Paths of the arrays in a package, taken out as anybody does."""
  with zipfile.ZipFile(path) as archive:
    return [archive.extract(name, folder / 'out') for name in archive.namelist() if name.endswith('.npy')]


def test_the_same_run_is_the_same_bytes(folder, tmp_path):
  make(folder, f'--output={tmp_path}/one.zip')
  os.utime(folder / 'model.ckpt-0.index', (1, 1))
  make(folder, f'--output={tmp_path}/other.zip')
  assert (tmp_path / 'one.zip').read_bytes() == (tmp_path / 'other.zip').read_bytes()
  assert sorted(os.listdir(tmp_path)) == ['one.zip', 'other.zip', 'run']  # and nothing in between is left


def test_evaluate_writes_beside_the_package_and_never_into_it(folder, data_dir, tmp_path):
  make(folder, '--weights=float32', '--num_images=0')
  before, there = (tmp_path / 'run.zip').read_bytes(), sorted(os.listdir(folder))
  result = programs.run(evaluate.main, f'--ckpt={tmp_path}/run.zip')
  assert result.returncode == 0, result.stderr
  assert result.stdout.startswith(f'{tmp_path}/run.zip (step 0) on the 2 images')
  assert (tmp_path / 'run.zip').read_bytes() == before and sorted(os.listdir(folder)) == there
  assert programs.run(evaluate.main, f'--ckpt={folder}').returncode == 0
  one, other = (read_json(tmp_path / name / 'metrics-val.json') for name in ('run', 'run-results'))
  assert (one.pop('checkpoint'), other.pop('checkpoint')) == ('model.ckpt-0', 'run.zip') and one == other


def test_inference(folder, tmp_path):
  make(folder, '--weights=float32', '--num_images=0')
  Image.fromarray(drawn_sources()[1].image).save(tmp_path / 'a.png')
  pictures = []
  for ckpt in ('run', 'run.zip'):
    result = programs.run(inference.main, f'--ckpt={tmp_path}/{ckpt}', f'--output_dir={tmp_path}/of-{ckpt}',
                          tmp_path / 'a.png')
    assert result.returncode == 0, result.stderr
    with Image.open(tmp_path / f'of-{ckpt}/a_label.png') as picture:
      pictures.append(np.asarray(picture))
  np.testing.assert_array_equal(*pictures)


@pytest.mark.parametrize('pretrained', [False, True])
def test_training_starts_from_it(folder, tmp_path, averages, tiny, pretrained):
  """By --init_from, and by --checkpoint, which leaves the scores alone."""
  make(folder, '--weights=float32', '--num_images=0')
  with tf.Graph().as_default(), tf.Session() as session:
    network = get_network(tiny)
    network.logits(tf.placeholder(tf.float32, [None, None, None, 3]), len(CAMVID.classes), skip='8s')
    run = load_run(f'{tmp_path}/run.zip', flag='init_from')
    if pretrained:
      init_fn, names = warm_start.restore_pretrained(run.checkpoint, network.pretrained_scopes or ('Tiny',))
    else:
      init_fn, names, new = warm_start.restore_from_run(run.checkpoint)
      assert new == [] and names == sorted(averages)
    session.run(tf.global_variables_initializer())
    init_fn(None, session)
    for variable in tf.global_variables():
      if variable.op.name in names:
        np.testing.assert_array_equal(session.run(variable), averages[variable.op.name])


def test_the_temperature_goes_along_where_it_is_of_these_weights(folder, tmp_path):
  value = {'temperature': 1.5, 'split': 'val', 'step': 0, 'weights': weights_of(load_run(str(folder))).digest()}
  (folder / 'temperature.json').write_text(json.dumps(value))
  make(folder, '--num_images=0')
  packed = load_run(f'{tmp_path}/run.zip')
  assert packed.config['temperature'] == value and stored_temperature(packed) == 1.5
  (folder / 'temperature.json').write_text(json.dumps({**value, 'weights': 'others'}))
  assert 'is not used: it was fitted on other weights (step 0)' in make(folder, '--num_images=0').stderr
  assert stored_temperature(load_run(f'{tmp_path}/run.zip')) == 1
  (folder / 'temperature.json').write_text('[1]')
  programs.assert_refused(programs.run(package.main, f'--ckpt={folder}'), 'temperature.json')


def test_what_is_in_it_for_others(folder, data_dir, tmp_path):
  """Without paths of this machine that the program can leave out; others are named."""
  result = make(folder, '--num_images=0')
  files = Package(str(tmp_path / 'run.zip'))
  assert 'working_folder' not in files.document('config.json') and files.pictures() == {}
  assert f'note: it names these paths of this machine: {data_dir}\n' in result.stdout
  text = files.read('README.md').decode()
  assert 'python inference.py --ckpt=run.zip photo.jpg' in text and CAMVID.license in text
  assert 'Labels were not compared with those of the run: no images were asked for.' in text


def test_pictures_only_if_asked_for(folder, tmp_path):
  assert f'evaluate.py has put none into {folder}' in make(folder, '--num_images=0', '--pictures').stderr
  assert programs.run(evaluate.main, f'--ckpt={folder}').returncode == 0
  make(folder, '--num_images=0', '--pictures')
  assert Package(str(tmp_path / 'run.zip')).pictures() == {
      'examples-val.png': (folder / 'examples-val.png').read_bytes()}
  assert '](examples-val.png)' in Package(str(tmp_path / 'run.zip')).read('README.md').decode()


def test_data_that_is_not_there(folder, tmp_path):
  config = json.loads((folder / 'config.json').read_text())
  config['flags']['data_dir'] = str(tmp_path / 'gone')
  (folder / 'config.json').write_text(json.dumps(config))
  result = make(folder)
  assert 'note: labels are not compared: ' in result.stderr and 'the data was not there' in result.stdout
  for asked in (f'--data_dir={tmp_path}/gone', '--split=train'):
    programs.assert_refused(programs.run(package.main, f'--ckpt={folder}', asked), 'gone')


def test_a_split_that_is_not_there(folder):
  programs.assert_refused(programs.run(package.main, f'--ckpt={folder}', '--split=tset'), 'tset')


def test_only_packages_are_replaced(folder, tmp_path):
  (tmp_path / 'mine.zip').write_bytes(b'PK\3\4 something')
  programs.assert_refused(programs.run(package.main, f'--ckpt={folder}', f'--output={tmp_path}/mine.zip'),
                          'mine.zip is there already')
  make(folder, '--num_images=0')
  make(folder, '--num_images=0', '--weights=float32')
  programs.assert_refused(programs.run(package.main, f'--ckpt={tmp_path}/run.zip'), 'is a package already')
  programs.assert_refused(programs.run(card.main, f'--ckpt={tmp_path}/run.zip'), 'README.md in it')


def test_the_card_of_a_folder(folder):
  result = programs.run(card.main, f'--ckpt={folder}')
  assert result.returncode == 0, result.stderr
  assert (folder / 'card.md').read_text().startswith('# run\n')


@pytest.mark.parametrize('change', [
    {'dataset': {'classes': ['a'], 'palette': [[0, 0, 256]]}},
    {'dataset': {'classes': ['a', 3], 'palette': [[0, 0, 0]] * 2}},
    {'dataset': {'classes': ['a'], 'palette': [[0, 0]]}},
    {'dataset': {'classes': [], 'palette': []}},
    {'dataset': {'classes': ['a'], 'palette': [[10**30, 0, 0]]}},
    {'network': None}, {'network': {'name': ['enet']}}, {'flags': []}, {'dataset': 'camvid'},
])
def test_a_config_of_somebody_elses_making(folder, tmp_path, change):
  make(folder, '--num_images=0')
  path = tmp_path / 'run.zip'
  with zipfile.ZipFile(path) as archive:
    files = {name: archive.read(name) for name in archive.namelist()}
  files['config.json'] = json.dumps({**json.loads(files['config.json']), **change}).encode()
  rewrite(path, files)
  with pytest.raises(UserError, match=r'--ckpt=.*run.zip: its config.json was not written by train.py'):
    load_run(str(path))


def test_a_damaged_package_is_named(folder, tmp_path):
  make(folder, '--num_images=0')
  path = tmp_path / 'run.zip'
  path.write_bytes(path.read_bytes()[:-100])
  programs.assert_refused(programs.run(evaluate.main, f'--ckpt={path}'), f'--ckpt={path}: ', 'is cut off or damaged')
  programs.assert_refused(programs.run(inference.main, f'--ckpt={path}', 'a.png'), 'is cut off or damaged')
