"""The dense CRF against sums over all pairs of pixels, its edge cases, and --crf and the search as users run them."""

import importlib.util
import json
import sys

import numpy as np
import programs
import pytest
from PIL import Image
from random_run import write_run

import evaluate
import inference
from datasets import records
from datasets.dataset import Source, label_map
from datasets.encoding import encode_pair
from utils import settings as settings_lib
from utils.compat import tf
from utils.errors import UserError
from utils.evaluation import metrics
from utils.inference import crf
from utils.inference.crf import Crf
from utils.inference.predictor import Predictor
from utils.inference.settings import Labelling
from utils.labels import IGNORE_LABEL as VOID
from utils.runs import load_run
from utils.studies import crf_search
from utils.workers import ordered_map

CLASSES = ('sky', 'road', 'car', 'tree', 'sign')
SIZES = {'a': (61, 90), 'b': (45, 33), 'c': (258, 290)}  # (height, width) of the photographs
SETTINGS = Crf(gaussian_xy=2.0, gaussian_weight=1.5, bilateral_xy=10.0, bilateral_rgb=15.0,
                        bilateral_weight=3.0, steps=5)

needs_package = pytest.mark.skipif(importlib.util.find_spec('pydensecrf') is None,
                                   reason='pydensecrf2 is not installed (requirements-crf.txt)')


def exact_mean_field(image, probabilities, settings):
  """Mean field with every pair of pixels summed in float64, kernels normalized symmetrically; [H, W, N]."""
  height, width, num_classes = probabilities.shape
  y, x = np.mgrid[:height, :width].reshape(2, -1, 1).astype(np.float64)
  apart = (y - y.T)**2 + (x - x.T)**2
  color = image.reshape(-1, 3).astype(np.float64)
  contrast = ((color[:, None] - color)**2).sum(axis=-1)
  kernels = [
      (settings.gaussian_weight, np.exp(-apart / (2 * settings.gaussian_xy**2))),
      (settings.bilateral_weight, np.exp(-apart / (2 * settings.bilateral_xy**2)
                                         - contrast / (2 * settings.bilateral_rgb**2)))]
  pairwise = sum(weight * kernel / np.sqrt(np.outer(kernel.sum(axis=1), kernel.sum(axis=1)))
                 for weight, kernel in kernels)
  unary = -np.log(np.clip(probabilities.reshape(-1, num_classes), crf.LEAST_PROBABILITY, 1))

  def softmax(scores):
    scores = np.exp(scores - scores.max(axis=1, keepdims=True))
    return scores / scores.sum(axis=1, keepdims=True)

  marginals = softmax(-unary)
  for _ in range(settings.steps):
    marginals = softmax(-unary + pairwise @ marginals)
  return marginals.reshape(probabilities.shape)


def scene(height, width, num_classes=3, seed=0):
  """An image with a bright right half, and noisy probabilities that lean to class 0 left of a line beside its edge."""
  rng = np.random.default_rng(seed)
  image = rng.integers(0, 20, (height, width, 3)) + np.where(np.arange(width) < width // 2, 30, 180)[:, None]
  probabilities = rng.dirichlet(np.ones(num_classes), (height, width))
  left = np.arange(width) < width // 2 + 2
  probabilities[:, left, 0] += 0.5
  probabilities[:, ~left, num_classes - 1] += 0.5
  probabilities /= probabilities.sum(axis=-1, keepdims=True)
  return image.astype(np.uint8), probabilities.astype(np.float32)


@needs_package
@pytest.mark.parametrize('height,width,num_classes', [(21, 34, 3), (37, 18, 5)])
@pytest.mark.parametrize('changes,mean_error', [
    ({'bilateral_weight': 0.0}, 0.004),
    ({'gaussian_weight': 0.0}, 0.02),
    ({'steps': 1}, 0.01),
    ({}, 0.02),
])
def test_agrees_with_sums_over_all_pairs(height, width, num_classes, changes, mean_error):
  settings = Crf(**{**vars(SETTINGS), **changes})
  image, probabilities = scene(height, width, num_classes)
  exact = exact_mean_field(image, probabilities, settings)
  found = crf.mean_field(image, probabilities, settings)
  assert np.abs(exact - probabilities).mean() > 5 * mean_error  # there was something to do
  assert np.abs(found - exact).mean() < mean_error  # the lattice approximates the kernels
  assert (found.argmax(axis=-1) == exact.argmax(axis=-1)).mean() > 0.97


@needs_package
def test_labels_follow_the_edge_in_the_image():
  image, probabilities = scene(30, 45)
  task = crf.make_task('name', image, probabilities, SETTINGS)
  truth = np.where(np.arange(45) < 22, 0, 2) * np.ones((30, 1), int)
  before, after = ((found == truth).mean() for found in (task.plain_labels, crf.labels(task)))
  assert before < 0.9 and after > 0.99
  assert task.key == 'name'


@needs_package
@pytest.mark.parametrize('size', [(1, 1), (1, 19), (23, 1), (2, 3), (31, 17)])
def test_any_size(size):
  image, probabilities = scene(*size)
  found = crf.mean_field(image, probabilities, SETTINGS)
  assert found.shape == probabilities.shape
  np.testing.assert_allclose(found.sum(axis=-1), 1, atol=1e-5)
  labels = crf.labels(crf.make_task(None, image, probabilities, SETTINGS))
  assert labels.shape == size and labels.dtype == np.uint8


@needs_package
def test_rows_are_not_taken_for_columns():
  image, probabilities = scene(19, 32)
  found = crf.mean_field(image, probabilities, SETTINGS)
  turned = crf.mean_field(image.swapaxes(0, 1), probabilities.swapaxes(0, 1), SETTINGS).swapaxes(0, 1)
  assert np.abs(found - turned).mean() < 0.02


@needs_package
def test_certain_pixels_are_safe():
  image, probabilities = scene(14, 25)
  certain = np.eye(3, dtype=np.float32)[probabilities.argmax(axis=-1)]
  found = crf.mean_field(image, certain, SETTINGS)
  assert np.isfinite(found).all()
  one = np.zeros((14, 25, 4), np.float32)
  one[..., 2] = 1
  task = crf.make_task(None, image, one, SETTINGS)
  assert task.classes.tolist() == [2]
  assert (crf.labels(task) == 2).all()
  assert (crf.labels(crf.make_task(None, image, one[..., 2:3], SETTINGS)) == 0).all()  # a network with one class


@needs_package
def test_without_weights_nothing_changes():
  image, probabilities = scene(14, 25)
  settings = Crf(gaussian_weight=0.0, bilateral_weight=0.0)
  found = crf.mean_field(image, probabilities, settings)
  np.testing.assert_allclose(found, np.maximum(probabilities, crf.LEAST_PROBABILITY), atol=1e-4)
  for task in (crf.make_task(None, image, probabilities, settings), crf.make_task(None, image, probabilities, None)):
    np.testing.assert_array_equal(crf.labels(task), probabilities.argmax(axis=-1))


@needs_package
def test_of_many_classes_only_those_that_matter_are_worked_on():
  image, few = scene(17, 26)
  probabilities = np.full((17, 26, 150), 1e-5, np.float32)
  probabilities[..., [7, 40, 149]] += few
  probabilities[3, 4, 99] = 0.02 * probabilities[3, 4].max()
  probabilities /= probabilities.sum(axis=-1, keepdims=True)
  task = crf.make_task(None, image, probabilities, SETTINGS)
  assert task.classes.tolist() == [7, 40, 99, 149]
  np.testing.assert_array_equal(task.plain_labels, probabilities.argmax(axis=-1))
  whole = crf.mean_field(image, probabilities, SETTINGS).argmax(axis=-1)
  assert (crf.labels(task) == whole).mean() > 0.999
  even = np.full((17, 26, 150), 1 / 150, np.float32)
  assert len(crf.make_task(None, image, even, SETTINGS).classes) == 150


@needs_package
def test_an_image_may_be_read_only_and_stays_as_it_is():
  image, probabilities = scene(14, 25)
  expected, before = crf.mean_field(image, probabilities, SETTINGS), image.copy()
  image.flags.writeable = False
  np.testing.assert_array_equal(crf.mean_field(image, probabilities, SETTINGS), expected)
  np.testing.assert_array_equal(image, before)


@needs_package
def test_processes_find_the_same_as_this_one():
  tasks = [crf.make_task(seed, *scene(20 + seed, 33, seed=seed), SETTINGS) for seed in range(5)]
  alone, together = (list(ordered_map(crf.labels, tasks, number)) for number in (1, 2))
  for (task, labels), (other, others) in zip(alone, together):
    assert task is other
    np.testing.assert_array_equal(labels, others)


def test_too_large_an_image_is_refused_before_anything_is_allocated():
  assert crf.too_large((3000, 4000), 11) is None
  assert crf.too_large((3000, 4000), 150) == (
      '4000x3000 pixels of 150 classes are too many for the dense CRF: it would take about 43.0 GiB and may take 8; '
      'scale the image down or leave out --crf')


@needs_package
def test_flags_become_settings():
  words = [f'--crf_{name}={value}' for name, value in vars(SETTINGS).items()]
  assert settings_lib.parse(Labelling, ['--crf', *words]).refinement == SETTINGS
  with pytest.raises(UserError, match='is for --crf, which is not given'):
    settings_lib.parse(Labelling, words)


def test_without_the_package_a_line_says_how_to_install_it(monkeypatch):
  monkeypatch.setitem(sys.modules, 'pydensecrf', None)
  monkeypatch.delitem(sys.modules, 'pydensecrf.densecrf', raising=False)
  monkeypatch.setattr(sys, 'version_info', (3, 12))
  assert settings_lib.parse(Labelling, []).refinement is None
  with pytest.raises(UserError, match=r'pydensecrf2: pip install -r requirements-crf\.txt$'):
    settings_lib.parse(Labelling, ['--crf'])
  programs.assert_refused(programs.run(evaluate.main, '--crf', '--ckpt=/nowhere'), 'pip install')  # at once
  monkeypatch.setattr(sys, 'version_info', (3, 13))
  with pytest.raises(UserError, match='--no-build-isolation'):
    settings_lib.parse(Labelling, ['--crf'])


@pytest.fixture(scope='module')
def data(tmp_path_factory, tiny):
  """A folder with a tiny run in `run`, three photographs in `photos`, and these as split val in `records`."""
  folder = tmp_path_factory.mktemp('crf')
  write_run(folder / 'run', CLASSES, network=tiny, data_dir=folder / 'records')
  for name in ('photos', 'records'):
    (folder / name).mkdir()
  rng = np.random.default_rng(5)
  with tf.io.TFRecordWriter(str(folder / 'records' / records.shard_name('val', 0, 1))) as writer:
    for name, size in SIZES.items():
      image = np.asarray(Image.fromarray(rng.integers(0, 256, (3, 4, 3)).astype(np.uint8)).resize(size[::-1]))
      Image.fromarray(image).save(folder / 'photos' / f'{name}.png')
      pair = encode_pair(Source(name, image, truth(size)), label_map({0: 0, 1: 1, VOID: VOID}))
      writer.write(records.serialize(pair))
  stats = {'dataset': 'camvid', 'split': 'val', 'num_examples': len(SIZES), 'num_shards': 1,
           'class_names': list(CLASSES), 'class_pixels': [1] * len(CLASSES)}
  (folder / 'records' / 'val.json').write_text(json.dumps(stats))
  return folder


def truth(size):
  """Labels: 0 above 1, and void at the left."""
  labels = np.where(np.arange(size[0]) < size[0] // 2, 0, 1)[:, None] * np.ones(size, int)
  labels[:, :3] = VOID
  return labels.astype(np.uint8)


@needs_package
def test_evaluation_and_inference_refine_alike(data, tmp_path):
  flags = [f'--ckpt={data / "run"}', '--crf', '--crf_bilateral_rgb=30', '--crf_steps=2', '--num_workers=2']
  settings = Crf(bilateral_rgb=30.0, steps=2)
  process = programs.run(evaluate.main, *flags)
  assert process.returncode == 0, process.stderr
  value = json.loads((data / 'run' / 'metrics-val-crf-bilateral_rgb_30-steps_2.json').read_text())
  assert value['crf'] == vars(settings)
  assert f'mean IoU without the CRF: {100 * value["mean_iou_without_crf"]:.1f} %' in process.stdout.splitlines()
  assert not (data / 'run' / 'metrics-val.json').exists()

  Image.new('RGB', (4900, 4800)).save(tmp_path / 'huge.png')
  process = programs.run(inference.main, *flags, '--num_workers=1', '--max_pixels=70000',
                         f'--output_dir={tmp_path / "out"}', data / 'photos', tmp_path / 'huge.png')
  assert process.returncode == 1 and 'Traceback' not in process.stderr
  assert f'skipped {tmp_path / "huge.png"}: 4900x4800 pixels of 5 classes are too many for the' in process.stderr
  assert process.stdout.startswith('3 images labeled')

  expected, plain = np.zeros([2, len(CLASSES), len(CLASSES)], int)
  with Predictor(load_run(str(data / 'run'))) as predictor:
    for name, size in SIZES.items():
      image, labels = (np.asarray(Image.open(path)) for path in (data / 'photos' / f'{name}.png',
                                                                 tmp_path / 'out' / f'{name}_label.png'))
      task = crf.make_task(None, image, predictor.probabilities(image[None])[0], settings)
      refined = crf.labels(task)
      # c is large here: it went through the network in tiles, and was refined by the script itself.
      assert labels.shape == size and (labels == refined).mean() > (0.85 if name == 'c' else 0.999)
      expected += metrics.confusion_matrix(truth(size), refined, len(CLASSES))
      plain += metrics.confusion_matrix(truth(size), predictor.labels(image[None])[0], len(CLASSES))
  assert np.abs(plain - expected).sum() > 1000
  assert np.abs(value['confusion_matrix'] - expected).sum() <= 20  # ties may fall either way
  assert value['mean_iou_without_crf'] == pytest.approx(metrics.scores(plain)['mean_iou'], abs=1e-4)


@needs_package
def test_search_starts_from_the_network_alone_and_keeps_the_best(data):
  process = programs.run(crf_search.main, f'--ckpt={data / "run"}', '--count=1', '--rounds=1', '--num_workers=1')
  assert process.returncode == 0, process.stderr
  value = json.loads((data / 'run' / 'crf-search-val.json').read_text())
  assert value['searched_on'] == [0] and value['held_out_on'] == [1]
  assert value['without']['settings'] is None and value['without']['mean_iou'] > 0
  best = max(value['tried'], key=lambda one: one['mean_iou'])
  without, refined = value['held_out']
  assert without['settings'] is None and refined['settings'] == best['settings']
  lines = process.stdout.splitlines()
  assert lines[1] == crf_search.header()
  assert lines[2].split()[:7] == ['-'] * 6 + [f'{100 * value["without"]["mean_iou"]:.2f}']
  assert lines[3].split()[:7] == ['3', '1', '50', '5', '2', '5', f'{100 * value["tried"][0]["mean_iou"]:.2f}']
  change = 100 * (refined['mean_iou'] - without['mean_iou'])
  assert any(line.startswith('mean IoU ') and line.endswith(f' {change:+.2f}') for line in lines)
  options = ' '.join(f'--crf_{name}={number:g}' for name, number in best['settings'].items())
  assert lines[-2] == f'to use it: --crf {options}'


@pytest.mark.parametrize('rounds,expected', [(1, (1, 3)), (2, (3, 4)), (9, (4, 4))])
def test_coordinate_search_goes_round_until_nothing_changes(rounds, expected):
  asked, shown = [], []

  def score(trials, label):
    asked.extend(trials)
    return [crf_search.Score(one, {'mean_iou': -(one.gaussian_xy - one.steps)**2 / 4 - (one.steps - 4)**2}, 0.0)
            for one in trials]

  grid = {'gaussian_xy': (1.0, 2.0, 3.0, 4.0), 'steps': (1, 2, 3, 4)}
  start = Crf(gaussian_xy=1.0, gaussian_weight=1.0, steps=1)
  best, tried = crf_search.search(score, start=start, grid=grid, rounds=rounds, show=shown.append)
  assert (best.settings.gaussian_xy, best.settings.steps) == expected  # worked out by hand
  assert len(set(asked)) == len(asked) and [one.settings for one in tried] == asked and shown == tried


def test_search_tries_no_width_of_a_term_without_weight():
  start = Crf(gaussian_weight=0.0, bilateral_weight=2.0)
  grid = {'gaussian_xy': (1.0, 2.0), 'bilateral_xy': (7.0, 9.0)}
  _, tried = crf_search.search(lambda trials, label: [crf_search.Score(one, {'mean_iou': 0.5}, 0.0) for one in trials],
                               start=start, grid=grid, rounds=1, show=lambda one: None)
  assert [(one.settings.gaussian_xy, one.settings.bilateral_xy) for one in tried] == [(3, 25), (3, 7), (3, 9)]


def test_comparison_leaves_out_classes_that_are_nowhere():
  scores = [crf_search.Score(None, {'class_iou': np.array(ious), 'mean_iou': mean}, 0.0)
            for ious, mean in (([0.5, np.nan, 0.25], 0.375), ([0.625, np.nan, np.nan], 0.625))]
  assert crf_search.comparison(*scores, ('road', 'unicorn', 'sign')).splitlines() == [
      'class     without     with   change',
      'road        50.00    62.50   +12.50',
      'sign        25.00        -        -',
      'mean IoU    37.50    62.50   +25.00']


@pytest.mark.parametrize('num_images,count,expected', [
    (2, 5, [[0], [1]]),
    (9, 2, [[0, 8], [1, 7]]),
    (101, 51, [list(range(0, 101, 2)), list(range(1, 101, 2))]),
])
def test_searched_and_scored_images_differ(num_images, count, expected):
  assert crf_search.pick(num_images, count) == expected
