"""The course project's mistakes: each is the one that is meant, its metric by hand, and the study as users run it."""

import contextlib
import dataclasses
import functools
import json
import os
import pickle
import runpy

import imageio.v3 as imageio
import numpy as np
import pytest
import tiny as tiny_net
from programs import assert_refused

from datasets import DATASETS, convert, get_dataset, pipeline
from datasets.dataset import Dataset, Source, label_map
from nets import NETWORKS, backbones
from nets.fcn import fcn
from nets.network import Mode
from utils.compat import slim, tf
from utils.errors import UserError
from utils.settings import parse
from utils.studies import course_project, course_variant
from utils.studies.course_variant import CourseMetric, faulty, mistakes_of, nearest, network
from utils.training.settings import TrainSettings

VOID = 255
EVERY = ('raw', 'norms', 'squashed', 'boundary')


def tiny_base(images, scope=None):
  """A tiny Inception: five 3x3 convolutions of stride 2, without settings of their own."""
  net, end_points = images, {}
  with tf.variable_scope(scope):
    for number in range(1, 6):
      net = end_points[f'conv{number}'] = slim.conv2d(net, 8, 3, stride=2, scope=f'conv{number}')
  return net, end_points


@pytest.fixture(autouse=True)
def small(monkeypatch):
  """Takes the place of Inception v3 by a tiny one, and shrinks the squashed images."""
  backbone = dataclasses.replace(
      tiny_net.TINY.build.args[0], name='inception_v3',
      features=functools.partial(backbones._inception_features, base=tiny_base, scope='Tiny'))
  monkeypatch.setitem(NETWORKS, 'inception_v3', fcn(backbone))
  monkeypatch.setattr(course_variant, 'SIZE', (32, 32))


@pytest.fixture
def photos(monkeypatch, tmp_path):
  """A dataset of four random pictures for each split, of two classes and void, 40x51."""
  rng = np.random.default_rng(0)

  def sources(folder, split):
    made = []
    for number in range(4):
      image, label = (str(tmp_path / f'{kind}-{split}{number}.png') for kind in ('image', 'label'))
      if not os.path.exists(label):
        imageio.imwrite(image, rng.integers(0, 256, (40, 51, 3), np.uint8))
        imageio.imwrite(label, rng.choice(np.array([0, 1, VOID], np.uint8), (40, 51)))
      made.append(Source(f'{split}{number}', image, label))
    return made

  made = Dataset(name='photos', classes=('a', 'b'), palette=np.array([[0, 0, 0], [9, 9, 9]], np.uint8),
                 splits={'train': 4, 'val': 4}, sources=sources, label_map=label_map({0: 0, 1: 1, VOID: VOID}))
  monkeypatch.setitem(DATASETS, 'photos', made)
  monkeypatch.setattr(convert, 'default_workers', lambda: 1)
  return made


def features(mistakes, image, seed=1):
  """conv1 of a variant's network, and its variables by name."""
  with tf.Graph().as_default(), tf.Session() as session:
    tf.set_random_seed(seed)
    made = network(mistakes).build.args[0].features
    end_points = made(tf.constant(image), Mode(weight_decay=0.5))
    session.run(tf.global_variables_initializer())
    kernel, = tf.global_variables('Tiny/conv1/weights')
    return session.run([end_points['conv1'], kernel]), {v.op.name for v in tf.trainable_variables()}


def expected(image, kernel, epsilon=0.0):
  with tf.Graph().as_default(), tf.Session() as session:
    return session.run(tf.nn.relu(tf.nn.conv2d(image, kernel, 2, 'SAME'))) / np.sqrt(1 + epsilon)


def test_as_a_program_its_functions_are_known_to_other_processes(monkeypatch):
  monkeypatch.setattr(course_variant, 'main', lambda: 7)
  with pytest.raises(SystemExit) as ended:
    runpy.run_module('utils.studies.course_variant', run_name='__main__')
  assert ended.value.code == 7


@pytest.mark.parametrize('mistakes', [(), ('raw',), ('norms',), ('raw', 'norms')])
def test_the_network_of_a_variant(mistakes):
  """Moving averages start at 0 and 1, so that a batch norm divides by the square root of 1 + epsilon."""
  image = np.random.default_rng(0).uniform(0, 255, [1, 33, 65, 3]).astype(np.float32)
  (found, kernel), variables = features(mistakes, image)
  seen = image if 'raw' in mistakes else image / np.float32(127.5) - 1
  wanted = expected(seen, kernel, epsilon=0.0 if 'norms' in mistakes else 1e-3)
  assert wanted.max() > 0.1
  np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-3 * wanted.max())
  assert ('Tiny/conv1/biases' in variables) == ('norms' in mistakes)
  assert any('BatchNorm' in name for name in variables) != ('norms' in mistakes)


def test_biases_alone_may_be_absent_in_the_weights():
  assert network(('norms',)).optional_scopes == tuple(f'Tiny/conv{number}/biases' for number in range(1, 6))
  assert network(('raw',)).optional_scopes == network(()).optional_scopes == ()
  assert network(('norms',)).pretrained_batch_norm is False and network(('raw',)).pretrained_batch_norm
  assert network(('raw', 'norms')).name == 'inception_v3_raw_norms' and network(()).name == 'inception_v3'


def test_nearest_by_hand():
  array = np.arange(15).reshape(3, 5)
  np.testing.assert_array_equal(nearest(array, (2, 3)), [[0, 2, 4], [10, 12, 14]])
  np.testing.assert_array_equal(nearest(array, (6, 5))[:, 0], [0, 0, 5, 5, 10, 10])
  assert nearest(np.zeros([7, 9, 3]), (4, 4)).shape == (4, 4, 3)
  for size in [(32, 32), (40, 51), (97, 33)]:  # what was squashed and widened again is itself
    small = np.random.default_rng(0).integers(0, 9, (32, 32))
    np.testing.assert_array_equal(nearest(nearest(small, size), (32, 32)), small)


def test_the_data_of_a_variant(photos, tmp_path):
  """Squashed as they were read; void is the last class, and nothing is void."""
  made = faulty(photos, EVERY)
  assert made.name == 'photos_squashed_boundary' and made.classes == ('a', 'b', 'void') and made.palette.shape == (3, 3)
  convert.convert(made, 'train', source_dir=str(tmp_path), data_dir=str(tmp_path), num_shards=1, num_workers=1,
                  progress=False)
  assert pickle.loads(pickle.dumps(made.generate)).func is course_variant.squashed_pair  # for other processes
  found = {name: (image, label) for name, image, label in pipeline.examples(str(tmp_path), 'train')}
  assert len(found) == 4
  for source in photos.sources('', 'train'):
    image, label = found[source.name]
    raw = imageio.imread(source.label)
    np.testing.assert_array_equal(image, nearest(imageio.imread(source.image), (32, 32)))
    np.testing.assert_array_equal(label, nearest(np.where(raw == VOID, 2, raw), (32, 32)))


def test_a_dataset_without_mistakes_is_itself(photos):
  same = faulty(photos, ('raw', 'norms'))
  assert (same.name, same.classes, same.generate) == ('photos', ('a', 'b'), None)
  assert (same.label_map == photos.label_map).all()


def label(*rows):
  """A label of the squashed size from a few rows, each of its share of the height."""
  return np.repeat(np.array(rows)[:, None], 32, axis=1).repeat(32 // len(rows), axis=0)


def test_its_metric_by_hand():
  """Four rows of 8 x 32 = 256 pixels; counts below are in rows. Class 1 is predicted where no truth has it."""
  metric = CourseMetric(3)
  metric.add(label(0, 0, 0, VOID), label(0, 0, 1, 0))  # the prediction of 1 counts as nothing but a miss of 0
  metric.add(label(0, 0, 2, 2), label(0, 2, 2, 2))
  # truth: 0: 5, 2: 2, void: 1; right: 0: 3, 2: 2, void: 0; predicted where present: 0: 4, 2: 3.
  assert metric.result() == {'mean_iou': pytest.approx((3 / 6 + 0 + 2 / 3 + 0) / 4), 'pixel_accuracy': 5 / 8}


def test_own_scores_by_hand():
  """Void predicted is a miss of the true class; void itself has no IoU."""
  matrix = np.array([[6, 0, 2], [1, 3, 0], [0, 0, 0]])
  assert course_variant.own_scores(matrix) == {
      'mean_iou': pytest.approx((6 / 9 + 3 / 4) / 2), 'pixel_accuracy': pytest.approx(9 / 12)}


def test_names_of_variants():
  assert mistakes_of('baseline') == () and mistakes_of('boundary+raw') == ('raw', 'boundary')
  assert list(course_project.VARIANTS) == [
      'baseline', *EVERY, 'raw+norms', 'raw+norms+squashed', 'raw+norms+squashed+boundary']
  with pytest.raises(UserError, match="unknown mistake 'rain' in 'raw.rain'; known are raw, norms, squashed, boundary"):
    mistakes_of('raw+rain')


@pytest.fixture
def checkpoint(tmp_path):
  """Weights of the tiny network, with batch norms, and without biases."""
  with tf.Graph().as_default(), tf.Session() as session:
    NETWORKS['inception_v3'].logits(tf.zeros([1, 65, 65, 3]), 2)
    session.run(tf.global_variables_initializer())
    saver = tf.train.Saver(tf.global_variables('Tiny'))
    return saver.save(session, str(tmp_path / 'tiny.ckpt'), write_meta_graph=False)


def here(name, words, log):
  """Takes the place of scripts.run: the variant's program in this process."""
  assert name == 'utils.studies.course_variant'
  with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
    return course_variant.main(words)


def test_the_study_from_end_to_end(photos, checkpoint, tmp_path, monkeypatch, capsys):
  """Two steps of a variant without and one with all mistakes; what is finished is not done again."""
  monkeypatch.setattr(course_project, 'TRAINING', '--crop_size=33,33 --batch_size=2 --eval_steps=0')
  monkeypatch.setattr(course_project, 'SQUASHED', '--crop_size=32,32 --scale_range=1,1')
  settings = course_project.CourseSettings(
      dataset='photos', data_dir=str(tmp_path / 'data'), source_dir=str(tmp_path), checkpoint=checkpoint,
      output_dir=str(tmp_path / 'out'), only=('baseline', '+'.join(EVERY)), steps=2)
  course_project.study(settings, script=here)
  logs = {path.name: path.read_text() for path in (tmp_path / 'out').glob('*.log')}
  scores = [json.loads(path.read_text()) for path in sorted((tmp_path / 'out').glob('*/course-val.json'))]
  assert [score['mistakes'] for score in scores] == [[], list(EVERY)], logs
  for score in scores:
    assert score['step'] == 2
    assert 0 <= score['own']['mean_iou'] <= 1 and 0 < score['course']['pixel_accuracy'] <= 1
  log = logs['raw+norms+squashed+boundary-0.log']
  assert 'warm-started 5 variables under Tiny' in log and 'not in it: Tiny/conv1/biases, ' in log
  config = json.loads((tmp_path / 'out/raw+norms+squashed+boundary-0/config.json').read_text())
  assert config['flags']['net'] == 'inception_v3_raw_norms' and len(config['dataset']['classes']) == 3
  assert config['flags']['crop_size'] == [32, 32]
  rows = (tmp_path / 'out/course-val.md').read_text().splitlines()[:-1]  # the last line is the mark
  assert [row.split(' | ')[0] for row in rows[2:]] == ['| baseline', '| raw+norms+squashed+boundary']
  assert rows[-1] in capsys.readouterr().out
  assert imageio.imread(tmp_path / 'out/course-val.png').shape[1] > 520  # the bars' width
  course_project.study(settings, script=lambda *_: pytest.fail('was measured before'))
  assert 'inception_v3_raw_norms' not in NETWORKS  # the product does not know it


def test_a_failure_is_said_and_the_next_is_measured(tmp_path, capsys):
  calls = []

  def script(name, words, log):
    calls.append(words)
    return 1

  settings = course_project.CourseSettings(only=('raw', 'norms'), checkpoint='a.ckpt', output_dir=str(tmp_path),
                                           data_dir='records', split='held_out', held=course_project.HoldOutFlags(
                                               hold_out=('0006R0*', 'a b')))
  course_project.study(settings, script=script)
  assert [words[:3] for words in calls] == [['train', 'camvid', 'raw'], ['train', 'camvid', 'norms']]
  assert '--hold_out=0006R0*,a b' in calls[0]
  assert f'raw, seed 0: failed; {tmp_path}/raw-0.log says why' in capsys.readouterr().out


def test_flags_are_those_of_train(tmp_path):
  """Of every variant, for train.py and for score."""
  calls = []
  for variant in course_project.VARIANTS:
    course_project.measure(variant, 3, course_project.CourseSettings(output_dir=str(tmp_path)), 'a.ckpt',
                           script=lambda name, words, log: calls.append(words) or 0)
    mistakes = mistakes_of(variant)
    with course_variant.registered(get_dataset('camvid'), mistakes):
      parsed = parse(TrainSettings, calls[-2][3:])
    assert parsed.augmentation.crop_size == ((224, 224) if 'squashed' in mistakes else (223, 287))
    assert parsed.start.checkpoint == 'a.ckpt' and parsed.schedule.max_steps == 2000 and parsed.seed == 3
    assert parse(course_variant.ScoreSettings, calls[-1][3:]).ckpt == parsed.run_dir


def test_table_by_hand():
  scores = lambda own, course: [{'own': {'mean_iou': own, 'pixel_accuracy': 0.9},
                                 'course': {'mean_iou': course, 'pixel_accuracy': 0.8}}]
  lines = course_project.table({'baseline': scores(0.5, 0.4) + scores(0.7, 0.4), 'raw': scores(0.45, 0.1)}).splitlines()
  assert lines[2] == '| baseline | 2 | 60.0 |  | 90.0 | 40.0 |  | 80.0 |'
  assert lines[3] == '| raw | 1 | 45.0 | -15.0 | 90.0 | 10.0 | -30.0 | 80.0 |'
  assert '| raw | 1 | 45.0 |  | 90.0 |' in course_project.table({'raw': scores(0.45, 0.1)})


def test_bad_flags_are_one_line(tmp_path, run_program):
  result = run_program(course_project.main, '--only=raw,rain', f'--output_dir={tmp_path}/out')
  assert_refused(result, "unknown mistake 'rain'", 'squashed')
  assert not os.path.exists(tmp_path / 'out')
