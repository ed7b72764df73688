"""Temperature scaling: fitted on logits whose right temperature is known, kept for the weights that it belongs to."""

import json
import os
import shutil

import numpy as np
import programs
import pytest
from PIL import Image
from random_run import write_run
from test_evaluate import write_split

import evaluate
import inference
from datasets.dataset import Source
from datasets.hold_out import HELD_OUT, HoldOut
from datasets.readers.camvid import CAMVID
from utils.compat import tf
from utils.cpu import supports_bfloat16
from utils.errors import UserError
from utils.evaluation import calibration, temperature_fit
from utils.evaluation.data import sizes
from utils.evaluation.run import variant
from utils.evaluation.settings import EvaluateSettings
from utils.files import read_json, write_json
from utils.inference.predictor import Predictor
from utils.inference.temperature import stored_temperature
from utils.inference.tta import Views
from utils.runs import load_run
from utils.settings import parse

IMAGES = np.random.default_rng(3).integers(0, 256, (2, 37, 51, 3)).astype(np.uint8)
SIZES = (41, 30), (67, 96), (1, 7)


def calibrated(shape=(2, 7)):
  """Logits float32 [*shape, 2] and truth of pixels that are right as often as softmax(logits) says: 3/4 and 9/10."""
  logits, truth = np.zeros([14, 2], np.float32), np.zeros(14, int)
  logits[:4, 0], logits[4:, 0] = np.log(3), np.log(9)
  truth[[0, 4]] = 1
  return logits.reshape(*shape, 2), truth.reshape(shape)


@pytest.mark.parametrize('factor', [3.0, 1.0, 0.4])
@pytest.mark.parametrize('kind', [np.float32, np.float16, tf.bfloat16.as_numpy_dtype])
def test_logits_times_a_factor_have_this_temperature(factor, kind):
  """Void pixels count nothing, a constant added to all classes changes nothing."""
  logits, truth = calibrated()
  logits, truth = np.concatenate([logits, 50 - logits]), np.concatenate([truth, np.full_like(truth, 255)])
  rounded = (7 + factor * logits).astype(kind).astype(np.float32)
  losses, bins = temperature_fit.sums(rounded, truth, temperature_fit.GRID)
  tolerance = {np.float32: 1e-3, np.float16: 1e-2}.get(kind, 5e-2)
  assert temperature_fit.best(losses) == pytest.approx(factor, rel=tolerance)
  assert bins.shape == (len(temperature_fit.GRID), 3, calibration.BINS) and bins[0, 0].sum() == 14


def test_losses_and_bins_by_hand():
  """Four pixels have p = 3/4 and ten 9/10; at T = 2, 1 / (1 + 3^-0.5) and 1 / (1 + 9^-0.5)."""
  logits, truth = calibrated()
  losses, bins = temperature_fit.sums(logits, truth, (1.0, 2.0))
  right, wrong = np.array([3 / 4, 9 / 10]), np.array([1 / 4, 1 / 10])
  assert losses[0, 0] == pytest.approx(-(np.log(right) * (3, 9) + np.log(wrong)).sum(), rel=1e-6)
  assert losses[0, 1] == pytest.approx(0, abs=1e-5)
  assert losses[0, 2] == pytest.approx((right * wrong * np.log([3, 9])**2 * (4, 10)).sum(), rel=1e-5)
  half = 1 / (1 + np.array([3, 9])**-0.5)
  assert losses[1, 0] == pytest.approx(-(np.log(half) * (3, 9) + np.log(1 - half)).sum(), rel=1e-6)
  assert calibration.expected_error(bins[0]) == pytest.approx(0, abs=1e-6)
  assert calibration.expected_error(bins[1]) == pytest.approx((4 * (3 / 4 - half[0]) + 10 * (9 / 10 - half[1])) / 14)


def test_slopes_are_those_of_the_losses_and_parts_add_up(monkeypatch):
  rng = np.random.default_rng(1)
  logits, truth = rng.normal(size=(13, 17, 5)).astype(np.float32) * 3, rng.choice([0, 1, 2, 3, 4, 255], (13, 17))
  near = 1 / np.array([0.499, 0.5, 0.501])
  losses, bins = temperature_fit.sums(logits, truth, near)
  assert losses[1, 1] == pytest.approx((losses[2, 0] - losses[0, 0]) / 0.002, rel=1e-3)
  assert losses[1, 2] == pytest.approx((losses[2, 1] - losses[0, 1]) / 0.002, rel=1e-3)
  monkeypatch.setattr(temperature_fit, '_CHUNK', 23)
  for whole, parts in zip((losses, bins), temperature_fit.sums(logits, truth, near)):
    np.testing.assert_allclose(parts, whole, rtol=1e-6)


@pytest.mark.parametrize('change', [
    lambda logits, truth: (logits, np.full_like(truth, 255)),  # nothing labeled
    lambda logits, truth: (logits, logits.argmax(axis=-1)),  # all right: the surer the better
    lambda logits, truth: (logits, 1 - logits.argmax(axis=-1)),  # all wrong
    lambda logits, truth: (0 * logits, truth)])  # knows nothing
def test_without_a_best_temperature_there_is_none(change):
  losses, _ = temperature_fit.sums(*change(*calibrated()), temperature_fit.GRID)
  assert temperature_fit.best(losses) is None


@pytest.fixture(scope='module')
def template(tmp_path_factory, tiny):
  """A run, and a split of three pictures whose labels are its own but for a third of the pixels, and void."""
  folder = tmp_path_factory.mktemp('made')
  run, rng, sources = folder / 'run', np.random.default_rng(2), []
  write_run(run, CAMVID.classes, network=tiny, data_dir=folder / 'data')
  with Predictor(load_run(str(run))) as predictor:
    for number, size in enumerate(SIZES):
      image = rng.integers(0, 256, (*size, 3)).astype(np.uint8)
      noise = rng.integers(0, 12, size)
      label = np.where(rng.random(size) < 1 / 3, noise, predictor.labels(image[None])[0])
      sources.append(Source(f'drawn{number}', image, label.astype(np.uint8)))
  write_split(folder / 'data', sources)
  return run, sources


@pytest.fixture
def run(template, tmp_path):
  """A run's folder that a test may change; its data lies where the template's does."""
  return shutil.copytree(template[0], tmp_path / 'run')


def fitted(run, *words):
  """Fits the temperature of a run; returns the content of its file."""
  result = programs.run(evaluate.main, f'--ckpt={run}', '--fit_temperature', *words)
  assert result.returncode == 0, result.stderr
  value = json.loads((run / 'temperature.json').read_text())
  assert f'temperature {value["temperature"]:g}, fitted on ' in result.stdout
  return value


def test_it_is_that_of_all_labeled_pixels(run, template):
  """Against all logits at once: the file's figures, and that no temperature beside it is better."""
  value = fitted(run)
  with Predictor(load_run(str(run))) as predictor:
    logits = np.concatenate([predictor.logits(source.image[None])[0].reshape(-1, 11) for source in template[1]])
  truth = np.concatenate([np.where(source.label == 11, 255, source.label).ravel() for source in template[1]])
  logits, truth = logits[truth < 255].astype(np.float64), truth[truth < 255]

  def loss(temperature):
    scaled = logits / temperature
    return (np.log(np.exp(scaled).sum(axis=-1)) - scaled[np.arange(len(truth)), truth]).mean()

  best = value['temperature']
  assert loss(best) < min(loss(best * 1.005), loss(best / 1.005)) and abs(best - 1) > 0.05
  for name, at in (('before', 1), ('after', best)):
    assert value[name]['negative_log_likelihood'] == pytest.approx(loss(at), rel=1e-5)
    probabilities = np.exp(logits / at) / np.exp(logits / at).sum(axis=-1, keepdims=True)
    error = calibration.expected_error(calibration.bin_counts(
        truth, logits.argmax(axis=-1), probabilities.max(axis=-1)))
    assert value[name]['expected_calibration_error'] == pytest.approx(error, abs=1e-5)
  assert (value['split'], value['num_images'], value['pixels']) == ('val', 3, len(truth))
  assert (value['checkpoint'], value['step'], value['precision']) == ('model.ckpt-1234', 1234, 'float32')
  assert not list(run.glob('metrics*'))


def test_tiles_and_bfloat16_give_nearly_the_same(run):
  whole = fitted(run)
  tiled = fitted(run, '--max_pixels=4000', '--tile_size=256')
  assert tiled['temperature'] == pytest.approx(whole['temperature'], rel=0.05) and tiled['pixels'] == whole['pixels']
  if supports_bfloat16():
    low = fitted(run, '--precision=bfloat16')
    assert low['temperature'] == pytest.approx(whole['temperature'], rel=0.05) and low['precision'] == 'bfloat16'


@pytest.mark.parametrize('temperature', [0.3, 1.7, 8.0])
def test_labels_stay_the_same_to_the_bit_and_probabilities_follow(run, temperature):
  loaded = load_run(str(run))
  with Predictor(loaded) as plain, Predictor(loaded, temperature=temperature) as scaled:
    np.testing.assert_array_equal(scaled.labels(IMAGES), plain.labels(IMAGES))
    np.testing.assert_allclose(scaled.logits(IMAGES), plain.logits(IMAGES) / temperature, rtol=1e-5, atol=1e-5)
    expected = plain.probabilities(IMAGES)**(1 / temperature)
    expected /= expected.sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(scaled.probabilities(IMAGES), expected, atol=1e-5)


def test_each_pass_and_each_view_is_scaled_before_the_mean(run):
  loaded = load_run(str(run))
  for options in ({'samples': 1, 'seed': 5}, {'views': Views(flip=True)}):
    with Predictor(loaded, **options) as plain, Predictor(loaded, temperature=2.5, **options) as scaled:
      passes = [part**(1 / 2.5) for part in plain._passes(IMAGES)]
      expected = np.mean([part / part.sum(axis=-1, keepdims=True) for part in passes], axis=0)
      np.testing.assert_allclose(scaled.probabilities(IMAGES), expected, atol=1e-5)
      assert np.abs(scaled.probabilities(IMAGES) - plain.probabilities(IMAGES)).max() > 0.05


def test_evaluation_and_inference_use_it_and_say_so(run, tmp_path, template):
  """Its results stand beside those without it; calibration is that of the fit."""
  value = fitted(run)
  line = f'temperature {value["temperature"]:g}, fitted on val ({run}/temperature.json)'
  name = f'metrics-val-temperature_{value["temperature"]:g}.json'
  for words, file, error in (([], name, 'after'), (['--temperature=1'], 'metrics-val.json', 'before')):
    result = programs.run(evaluate.main, f'--ckpt={run}', '--details', *words)
    assert result.returncode == 0 and (line in result.stdout.splitlines()) == (not words), result.stderr
    metrics = json.loads((run / file).read_text())
    assert metrics['temperature'] == (1 if words else value['temperature'])
    found = metrics['details']['calibration']['expected_calibration_error']
    assert found == pytest.approx(value[error]['expected_calibration_error'], abs=1e-4)
  picture = tmp_path / 'a.png'
  Image.fromarray(template[1][0].image).save(picture)
  result = programs.run(inference.main, f'--ckpt={run}', f'--output_dir={tmp_path}/out', '--probabilities', picture)
  assert result.returncode == 0 and line in result.stdout.splitlines(), result.stderr
  with Predictor(load_run(str(run)), temperature=value['temperature']) as predictor:
    expected = predictor.probabilities(template[1][0].image[None])[0]
  np.testing.assert_allclose(np.load(tmp_path / 'out/a_probabilities.npy'), expected, atol=1e-3)


def test_it_is_kept_for_its_weights_whatever_they_are_saved_with(run, tmp_path, template, capsys):
  value = fitted(run)['temperature']
  assert stored_temperature(load_run(str(template[0]))) == 1 and capsys.readouterr() == ('', '')
  with tf.Graph().as_default(), tf.Session() as session:  # another step, and an optimizer's slot
    reader = tf.train.load_checkpoint(str(run / 'model.ckpt-1234'))
    names = [name for name in reader.get_variable_to_shape_map() if name != 'global_step']
    saved = {name: tf.constant(reader.get_tensor(name)) for name in names}
    saved = {name: tf.Variable(tensor, name=name.replace('/', '_')) for name, tensor in saved.items()}
    saved |= {f'{names[0]}/Adam': tf.Variable(saved[names[0]].initial_value),
              'global_step': tf.Variable(99, dtype=tf.int64), 'beta1_power': tf.Variable(0.5)}
    session.run(tf.global_variables_initializer())
    tf.train.Saver(saved).save(session, str(run / 'model.ckpt-99'))
    session.run(saved[names[0]].assign_add(tf.fill(saved[names[0]].shape, 1e-3)))
    tf.train.Saver(saved).save(session, str(run / 'model.ckpt-100'))
  assert stored_temperature(load_run(str(run / 'model.ckpt-99'))) == value
  assert capsys.readouterr().out == f'temperature {value:g}, fitted on val ({run}/temperature.json)\n'
  assert stored_temperature(load_run(str(run / 'model.ckpt-100'))) == 1
  out, err = capsys.readouterr()
  note = f'note: {run}/temperature.json is not used: it was fitted on other weights (step 1234) than those of '
  assert not out and err.startswith(note)


@pytest.mark.parametrize('content', [
    '{"temperature": 0}', '{"temperature": -1.5}', '{"temperature": "1.5"}', '{"temperature": NaN}', '{}', '[1.5]',
    '{"temperature": 1e9}', '{'])
def test_a_broken_file_is_refused_by_name(run, content):
  (run / 'temperature.json').write_text(content)
  with pytest.raises(UserError, match='temperature.json'):
    stored_temperature(load_run(str(run)))


@pytest.mark.parametrize('words', [
    ['--details'], ['--samples=2'], ['--test_flip'], ['--test_scales=1,2'], ['--crf'], ['--temperature=2'],
    ['--output_dir=x'], ['--corruptions=blur']])
def test_flags_that_a_fit_does_not_use_are_refused(words, monkeypatch):
  monkeypatch.setattr('utils.inference.crf.require', lambda: None)
  with pytest.raises(UserError, match=f'--fit_temperature .*{words[0].split("=")[0]}'):
    parse(EvaluateSettings, ['--ckpt=x', '--fit_temperature', *words])
  parse(EvaluateSettings, ['--ckpt=x', '--fit_temperature', '--split=test', '--precision=float32', '--max_pixels=9'])


@pytest.mark.parametrize('value', ['0', '-1', '0.05', '11', 'nan', 'warm'])
def test_a_number_that_is_none_is_refused(value):
  with pytest.raises(UserError, match='temperature'):
    parse(EvaluateSettings, ['--ckpt=x', f'--temperature={value}'])


def test_names_of_results_hold_it():
  assert variant(parse(EvaluateSettings, ['--ckpt=x', '--temperature=1.25'])) == 'val-temperature_1.25'
  assert variant(parse(EvaluateSettings, ['--ckpt=x', '--temperature=1'])) == 'val'


def test_splits_that_cannot_be_fitted_on_are_refused(run, template, tmp_path):
  """An older file stays; a label out of range is named with its record; training images are warned of."""
  write_json(run / 'temperature.json', {'older': 1})
  sources = [Source(source.name, source.image, np.full(source.label.shape, 11, np.uint8)) for source in template[1]]
  write_split(tmp_path / 'void', sources)
  words = f'--ckpt={run}', '--fit_temperature', f'--data_dir={tmp_path}/void'
  result = programs.run(evaluate.main, *words)
  assert result.returncode == 1 and 'no temperature from 0.1 to 10 is best on val' in result.stderr
  assert read_json(run / 'temperature.json') == {'older': 1}
  write_split(tmp_path / 'void', template[1], split='train')
  result = programs.run(evaluate.main, *words, '--split=train')
  assert result.returncode == 0 and f'warning: {run} was trained on these images' in result.stderr
  assert json.loads((run / 'temperature.json').read_text())['split'] == 'train'


def test_a_run_that_cannot_be_written_to_is_refused(run, monkeypatch):
  access = os.access
  monkeypatch.setattr(os, 'access', lambda path, mode: path != str(run) and access(path, mode))
  result = programs.run(evaluate.main, f'--ckpt={run}', '--fit_temperature')
  programs.assert_refused(result, f'{run} is not writable; the temperature is kept there')


def test_sizes_of_what_is_held_out_are_those_of_its_records(template):
  held = HoldOut(patterns=('drawn0',), splits=('val',))
  assert list(sizes(str(template[0].parent / 'data'), HELD_OUT, held)) == list(SIZES)
