"""Predictor: the frozen network has the outputs of the graph that it was made from, and takes no other checkpoint."""

import functools
import gc
import json
import threading
import weakref

import numpy as np
import pytest
from PIL import Image
from quick import quick_session
from random_run import load, random_values

from nets import get_network
from nets.backbones import Backbone, Tap
from nets.batch_norm import batch_norm_scope
from nets.dropout import dropout
from nets.fcn import fcn
from nets.network import Mode, Network
from utils.compat import slim, tf
from utils.cpu import supports_bfloat16
from utils.errors import UserError
from utils.inference import predictor as predictor_lib
from utils.inference.predictor import Predictor, Weights
from utils.inference.stream import Wanted, labelled
from utils.inference.tiles import Tiles, probability_bands
from utils.inference.tta import Views
from utils.runs import Run, load_run

CLASSES = ('sky', 'road', 'car', 'tree', 'sign')
IMAGES = np.random.default_rng(3).integers(0, 256, (2, 67, 90, 3)).astype(np.uint8)


def _small_features(images, mode):
  """Five convolutions under batch norm, each of stride 2."""
  end_points, net = {}, images / 127.5 - 1
  with tf.variable_scope('small'), slim.arg_scope(
      batch_norm_scope(mode.learns_batch_norm, mode.fold_batch_norm)):
    for number, channels in enumerate((8, 8, 16, 16, 16)):
      net = end_points[f'conv{number}'] = slim.conv2d(net, channels, 3, stride=2, scope=f'conv{number}')
  return end_points


SMALL = fcn(Backbone(
    name='small', features=_small_features, taps=tuple(Tap(f'conv{4 - i}', 32 >> i, 0) for i in range(5)),
    size_step=32, size_base=1, margin=0, scopes=('small',), batch_norm=True, dropout_keep_prob=0.8))


@pytest.fixture(scope='module', autouse=True)
def registry():
  """The registry knows SMALL as well."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(predictor_lib, 'get_network', lambda name: SMALL if name == 'small' else get_network(name))
    yield


def _write_run(folder, network):
  """Writes a run of random weights; returns the probabilities of IMAGES from the graph whose weights are saved."""
  config = {'flags': {}, 'dataset': {'name': 'camvid', 'classes': CLASSES, 'palette': [[9, 9, 9]] * len(CLASSES)},
            'network': {'name': network.name, 'skip': '8s'}}
  (folder / 'config.json').write_text(json.dumps(config))
  with tf.Graph().as_default(), quick_session() as session:
    logits, _ = network.logits(tf.constant(IMAGES, tf.float32), len(CLASSES), skip='8s')
    load(session, random_values(tf.global_variables()), tf.global_variables())
    step = tf.train.get_or_create_global_step()
    session.run(step.initializer)
    tf.train.Saver(save_relative_paths=True).save(
        session, str(folder / 'model.ckpt'), global_step=1234, write_meta_graph=False)
    return session.run(tf.nn.softmax(logits))


@pytest.fixture(scope='module')
def small(tmp_path_factory):
  """Folder of a run of SMALL, and the unfrozen graph's probabilities of IMAGES."""
  folder = tmp_path_factory.mktemp('small')
  return folder, _write_run(folder, SMALL)


@pytest.fixture(scope='module')
def folder(small):
  return small[0]


@pytest.fixture(scope='module')
def unfrozen(small):
  return small[1]


def test_probabilities_equal_the_unfrozen_graphs(predictor, unfrozen):
  probabilities = predictor.probabilities(IMAGES)
  assert probabilities.dtype == np.float32 and probabilities.shape == (2, 67, 90, 5)
  assert unfrozen.max() - unfrozen.min() > 0.3  # the weights say something
  np.testing.assert_allclose(probabilities, unfrozen, atol=1e-4)
  np.testing.assert_allclose(probabilities.sum(axis=-1), 1, atol=1e-5)


def test_labels_are_the_most_probable_classes(predictor, unfrozen):
  labels = predictor.labels(IMAGES)
  assert labels.dtype == np.uint8 and labels.shape == (2, 67, 90)
  best_two = np.sort(unfrozen, axis=-1)[..., -2:]
  clear = best_two[..., 1] - best_two[..., 0] > 1e-3
  assert clear.mean() > 0.9
  np.testing.assert_array_equal(labels[clear], unfrozen.argmax(axis=-1)[clear])
  assert len(np.unique(labels)) > 1


@pytest.mark.parametrize('size', [(1, 1), (1, 40), (33, 2)])
def test_any_size(predictor, size):
  assert predictor.labels(np.full((1, *size, 3), 90, np.uint8)).shape == (1, *size)


def test_an_image_does_not_depend_on_its_batch(predictor):
  np.testing.assert_allclose(predictor.probabilities(IMAGES)[1], predictor.probabilities(IMAGES[1:])[0], atol=1e-4)


def test_tiles_with_much_overlap_give_what_the_whole_image_gives(predictor):
  coarse = np.random.default_rng(8).integers(0, 256, (12, 16, 3)).astype(np.uint8)
  image = np.asarray(Image.fromarray(coarse).resize((381, 303), Image.Resampling.BICUBIC))
  whole = predictor.probabilities(image[None])[0]
  bands = probability_bands(predictor.probabilities, image, tile_size=200, overlap=120)
  tiled = np.concatenate([band.copy() for _, band in bands])
  assert 1e-6 < np.abs(tiled - whole).mean() < 0.02
  assert (tiled.argmax(axis=-1) == whole.argmax(axis=-1)).mean() > 0.97
  for axis in (0, 1):  # no row or column where tiles meet stands out
    steps, expected = (np.abs(np.diff(x, axis=axis)).mean(axis=(1 - axis, 2)) for x in (tiled, whole))
    assert (steps <= 1.25 * expected + 1e-4).all()


def test_inception_v1_frozen_computes_the_same_with_all_batch_norms_folded(tmp_path):
  expected = _write_run(tmp_path, get_network('inception_v1'))
  run = load_run(str(tmp_path))
  with Predictor(run) as made:
    np.testing.assert_allclose(made.probabilities(IMAGES), expected, atol=1e-4)
    with made._sessions.free() as session:
      needed = tf.graph_util.extract_sub_graph(session.graph.as_graph_def(), ['labels', 'probabilities'])
    ops = [node.op for node in needed.node]
  assert expected.max() - expected.min() > 0.3
  assert ops.count('Conv2D') == 57 + 3
  assert not {'FusedBatchNormV3', 'VarHandleOp', 'ReadVariableOp'}.intersection(ops)
  if supports_bfloat16():
    with Predictor(run, 'bfloat16') as low:
      difference = np.abs(low.probabilities(IMAGES) - expected)
    assert difference.max() > 1e-6 and difference.mean() < 0.02


@pytest.mark.parametrize('value', [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused(folder, value):
  """They would label all pixels as the first class, without a word."""
  run, name = load_run(str(folder)), 'small/conv2/weights'
  weights = predictor_lib.weights_of(run)
  weights._values[name] = weights._values[name].copy()
  weights._values[name].flat[7] = value
  with tf.Graph().as_default(), pytest.raises(UserError, match=f'holds values that are not finite: {name}$'):
    predictor_lib.constant_network(run, tf.placeholder(tf.uint8, [None, None, None, 3]), weights=weights)


@pytest.mark.skipif(supports_bfloat16(), reason='this CPU has AVX512-BF16')
def test_bfloat16_is_refused(folder):
  with pytest.raises(UserError, match='bfloat16'):
    Predictor(load_run(str(folder)), 'bfloat16')


def _with_config(folder, target, change):
  config = json.loads((folder / 'config.json').read_text())
  change(config)
  target.mkdir()
  for file in folder.iterdir():
    if file.name != 'config.json':
      (target / file.name).symlink_to(file)
  (target / 'config.json').write_text(json.dumps(config))
  return load_run(str(target))


def _tiny_logits(images, num_classes, mode):
  """Convolution, batch norm, dropout, convolution."""
  features = slim.conv2d(images / 255, 30, 3, normalizer_fn=slim.batch_norm,
                         normalizer_params={'is_training': mode.is_training}, scope='first')
  features = dropout(features, mode.dropout_keep_prob or 0.5, mode=mode)
  return slim.conv2d(features, num_classes, 1, activation_fn=None, scope='second'), {}


@pytest.fixture
def tiny_run(tmp_path, monkeypatch):
  """Makes runs of a tiny network: `tiny_run(dropout_keep_prob=...)`."""
  monkeypatch.setattr(
      predictor_lib, 'get_network', lambda name: Network(name=name, build=_tiny_logits, weight_decay=0.0))
  with tf.Graph().as_default(), tf.Session() as session:
    _tiny_logits(tf.zeros([1, 8, 8, 3]), len(CLASSES), Mode())
    load(session, random_values(tf.global_variables()), tf.global_variables())
    prefix = tf.train.Saver().save(session, str(tmp_path / 'model.ckpt'))

  def run(**flags):
    config = {'flags': flags, 'network': {'name': 'tiny', 'skip': None}, 'dataset': {'classes': CLASSES}}
    return Run(folder=str(tmp_path), checkpoint=prefix, step=1, config=config)

  return run


def test_samples_scatter_around_the_network_without_dropout(tiny_run):
  """The less is dropped, the less samples scatter; batch norm stays at its moving averages."""
  with Predictor(tiny_run()) as made:
    plain = made.probabilities(IMAGES)
  variances = []
  for keep_prob, difference in ((0.5, 0.15), (0.9, 0.06), (0.999, 0.006)):
    with Predictor(tiny_run(dropout_keep_prob=keep_prob), samples=6) as made:
      mean, variance = made.sampled(IMAGES)
      np.testing.assert_array_equal(made.labels(IMAGES), made.probabilities(IMAGES).argmax(axis=-1))
    assert mean.shape == plain.shape and variance.shape == IMAGES.shape[:3]
    np.testing.assert_allclose(mean.sum(axis=-1), 1, atol=1e-5)
    assert 1e-5 < np.abs(mean - plain).mean() < difference
    variances.append(variance.mean())
  assert variances[0] > 2 * variances[1] > 20 * variances[2] > 0


def test_samples_follow_from_the_seed_and_not_from_what_was_labelled_before(tiny_run):
  with Predictor(tiny_run(), samples=3, seed=4) as first, Predictor(tiny_run(), samples=3, seed=4) as second:
    first.labels(IMAGES[:, :40])
    one, two = first.sampled(IMAGES), second.sampled(IMAGES)
  with Predictor(tiny_run(), samples=3, seed=5) as other:
    three = other.sampled(IMAGES)
  for value, same, different in zip(one, two, three):
    np.testing.assert_array_equal(value, same)
    assert (value != different).mean() > 0.9


def test_samples_of_a_network_that_drops_nothing_are_refused(tiny_run):
  with pytest.raises(UserError, match='--samples=8: tiny with --dropout_keep_prob=1 drops nothing'):
    Predictor(tiny_run(dropout_keep_prob=1.0), samples=8)


def _resized(values, size):
  """Independent bilinear resizing of [B, H, W, C] at pixel centers: each pixel from two neighbors along each axis."""
  for axis, length in zip((1, 2), size):
    place = np.clip((np.arange(length) + 0.5) * values.shape[axis] / length - 0.5, 0, values.shape[axis] - 1)
    low = np.floor(place).astype(int)
    high = np.minimum(low + 1, values.shape[axis] - 1)
    share = (place - low).reshape([-1 if i == axis else 1 for i in range(4)])
    values = values.take(low, axis) * (1 - share) + values.take(high, axis) * share
  return values


def test_views_are_averaged_where_the_pixels_lie(tiny_run):
  """Views of odd sizes, mirrored and scaled, each brought back to the image's own pixels."""
  views = Views(flip=True, scales=(0.75, 1.0, 1.3))
  sizes = ((50, 68), (67, 90), (87, 117))
  with Predictor(tiny_run()) as plain, Predictor(tiny_run(), views=views) as made:
    expected = []
    for size in sizes:
      seen = np.rint(_resized(IMAGES.astype(np.float64), size)).astype(np.uint8)
      expected.append(_resized(plain.probabilities(seen), IMAGES.shape[1:3]))
      expected.append(_resized(plain.probabilities(seen[:, :, ::-1])[:, :, ::-1], IMAGES.shape[1:3]))
    probabilities = made.probabilities(IMAGES)
    np.testing.assert_array_equal(made.labels(IMAGES), probabilities.argmax(axis=-1))
  assert probabilities.dtype == np.float32
  np.testing.assert_allclose(probabilities.sum(axis=-1), 1, atol=1e-5)
  assert all(np.abs(one - expected[2]).mean() > 0.01 for one in (expected[0], expected[3], expected[4]))
  differences = np.abs(probabilities - np.mean(expected, axis=0))
  assert np.quantile(differences, 0.99) < 1e-4 and differences.max() < 0.02  # a level may be rounded the other way


@pytest.mark.parametrize('size', [(1, 1), (1, 40), (33, 2)])
def test_views_of_any_size(tiny_run, size):
  with Predictor(tiny_run(), views=Views(flip=True, scales=(0.5, 1.5))) as made:
    probabilities = made.probabilities(np.full((1, *size, 3), 90, np.uint8))
  assert probabilities.shape == (1, *size, len(CLASSES))
  np.testing.assert_allclose(probabilities.sum(axis=-1), 1, atol=1e-5)


def test_samples_and_views_are_averaged_together(tiny_run):
  """Every view has passes of its own; with hardly any dropout, their mean is that of the views."""
  views = Views(flip=True, scales=(0.75, 1.0))
  with Predictor(tiny_run(), views=views) as made:
    alone = made.probabilities(IMAGES)
    _, spread = made.sampled(IMAGES)
  with Predictor(tiny_run(dropout_keep_prob=0.9999), samples=2, views=views) as made:
    mean, variance = made.sampled(IMAGES)
    np.testing.assert_array_equal(made.probabilities(IMAGES), mean)
  assert 0 < np.abs(mean - alone).mean() < 1e-3
  assert np.abs(variance - spread).mean() < 0.05 * spread.mean()  # the views differ, and that counts
  with Predictor(tiny_run(dropout_keep_prob=0.5), samples=2, views=Views(flip=True)) as made:
    passes = [one.copy() for one in made._passes(IMAGES)]
  assert len(passes) == 4
  assert all(np.abs(one - other).mean() > 0.01 for i, one in enumerate(passes) for other in passes[:i])


def test_bfloat16_keeps_the_levels_of_resized_images(tiny_run):
  if not supports_bfloat16():
    pytest.skip('this CPU has no AVX512-BF16')
  image = np.arange(200, 256, dtype=np.uint8)[None, None, :, None] + np.zeros((1, 5, 1, 3), np.uint8)
  with Predictor(tiny_run(), 'bfloat16', views=Views(scales=(2.0,))) as made:
    resized = made._sessions.run(made._resized, {'images:0': image, made._size: (10, 112)})
  assert np.abs(resized[0, 0, :, 0] - np.linspace(199.75, 255.25, 112)).max() <= 0.75


def test_another_number_of_classes_is_refused_by_name_and_shapes(folder, tmp_path):
  def add(config):
    config['dataset']['classes'].append('moon')
    config['dataset']['palette'].append([1, 2, 3])

  run = _with_config(folder, tmp_path / 'a', add)
  with pytest.raises(UserError, match=r'fcn/score_32/weights is \[1, 1, 16, 5\] in it and \[1, 1, 16, 6\] in'):
    Predictor(run)


def test_a_coarser_checkpoint_is_refused(tmp_path, folder):
  run = _with_config(folder, tmp_path / 'b', lambda config: config['network'].update(skip='16s'))
  with pytest.raises(UserError, match='fcn/score_8/.* has no place in the network'):
    Predictor(run)


def test_an_option_that_is_no_more_changes_nothing(tmp_path, folder, predictor):
  with Predictor(_with_config(folder, tmp_path / 'd', lambda config: config['network'].update(context='none'))) as same:
    np.testing.assert_array_equal(same.labels(IMAGES), predictor.labels(IMAGES))


def test_another_network_is_refused(tmp_path, folder):
  with tf.Graph().as_default(), tf.Session() as session:
    tf.get_variable('vgg_16/conv1/weights', [3, 3, 3, 8])
    tf.train.get_or_create_global_step()
    session.run(tf.global_variables_initializer())
    prefix = tf.train.Saver().save(session, str(tmp_path / 'model.ckpt'), global_step=3)
  with tf.Graph().as_default():
    weights = Weights(prefix)
    for number in range(8):
      weights(None, f'InceptionV3/layer_{number}/weights', [1, 1, 2, number])
  with pytest.raises(UserError, match=r'InceptionV3/layer_0/weights is missing in it; .*and 3 more$'):
    weights.check()
  with pytest.raises(UserError, match='unknown network'):
    Predictor(_with_config(folder, tmp_path / 'c', lambda config: config['network'].update(name='alexnet')))


def test_optimiser_slots_and_step_are_left_out(tmp_path):
  with tf.Graph().as_default(), tf.Session() as session:
    weights = tf.get_variable('fcn/weights', [2, 3])
    step = tf.train.get_or_create_global_step()
    tf.train.AdamOptimizer().minimize(tf.reduce_sum(weights), step)
    session.run(tf.global_variables_initializer())
    prefix = tf.train.Saver().save(session, str(tmp_path / 'model.ckpt'))
    expected = session.run(weights)
  with tf.Graph().as_default(), tf.Session() as session:
    weights = Weights(prefix)
    with tf.variable_scope('fcn', custom_getter=weights):
      first, again = tf.get_variable('weights', [2, 3]), tf.get_variable('weights', [2, 3])
    weights.check()
    assert first is again and tf.global_variables() == []
    np.testing.assert_array_equal(session.run(first), expected)


def test_a_truncated_checkpoint_is_named(folder, tmp_path):
  for file in folder.iterdir():
    (tmp_path / file.name).write_bytes(file.read_bytes())
  data = next(tmp_path.glob('*.data-*'))
  data.write_bytes(data.read_bytes()[:5000])
  with pytest.raises(UserError, match='model.ckpt-1234'):
    Predictor(load_run(str(tmp_path)))


def test_calls_leave_nothing_behind(predictor, monkeypatch):
  """No session, no op in the graph, no reference to the images."""
  with predictor._sessions.free() as session:
    operations = session.graph.get_operations()
  monkeypatch.setattr(predictor_lib, '_Session', None)
  images = [IMAGES[:, :size].copy() for size in (30, 40, 50)]
  references = [weakref.ref(image) for image in images]
  for number in range(len(images)):
    predictor.labels(images[number])
    predictor.probabilities(images[number])
    images[number] = None
  predictor.labels(IMAGES)  # TensorFlow holds what it was fed with until the next call
  gc.collect()
  assert [reference() for reference in references] == [None] * 3
  with predictor._sessions.free() as same:
    assert same is session and session.graph.get_operations() == operations


def test_one_copy_of_the_weights_is_kept(tiny_run, monkeypatch):
  """The session drops its own; the memory of those that an output's first call makes is given back after this call."""
  freed, configs, session = [], [], predictor_lib._Session
  monkeypatch.setattr(predictor_lib, '_return_free_memory', lambda: freed.append('free'))
  monkeypatch.setattr(predictor_lib, '_Session', lambda graph, config: configs.append(config) or session(graph, config))
  with Predictor(tiny_run()) as made:
    assert not freed
    for images, count in ((IMAGES, 1), (IMAGES[:, :9], 1)):
      made.labels(images)
      assert len(freed) == count
    made.probabilities(IMAGES)
    made.probabilities(IMAGES)
  assert len(freed) == 2
  assert [config.experimental.optimize_for_static_graph for config in configs] == [True]


@pytest.mark.parametrize('options', [
    {}, {'samples': 2, 'seed': 3}, {'views': Views(flip=True, scales=(0.75, 1.0))}])
def test_several_devices_give_what_one_gives(tiny_run, options):
  """Logical CPUs, each alone and all together; images of several sizes, one in tiles."""
  rng = np.random.default_rng(4)
  images = [(size, rng.integers(0, 256, (*size, 3)).astype(np.uint8)) for size in (
      (40, 51), (33, 70), (300, 331), (40, 52), (61, 45), (7, 90))]
  label = functools.partial(labelled, images, tiles=Tiles(max_pixels=60_000, tile_size=256),
                            wanted=Wanted(confidence=True), batch_size=2)
  with Predictor(tiny_run(), **options) as made:
    expected = list(label(made))
  devices = ['/device:CPU:0', '/device:CPU:1']
  with Predictor(tiny_run(), devices=devices, **options) as made:
    found, free = [list(label(made))], made._sessions._free
    with made._sessions.free() as first, made._sessions.free() as second:
      assert sorted({node.device for node in session.graph.as_graph_def().node if node.op == 'Conv2D'}.pop()
                    for session in (first, second)) == devices
    sessions = [free.get() for _ in devices]
    for session in sessions:
      free.put(session)
      found.append(list(label(made)))
      assert free.get() is session
    for session in sessions:
      free.put(session)
  for results in found:
    for alone, shared in zip(expected, results, strict=True):
      assert alone.key == shared.key
      np.testing.assert_array_equal(alone.confidence, shared.confidence)
      np.testing.assert_array_equal(alone.label, shared.label)


def test_a_device_is_opened_when_those_before_are_busy(tiny_run):
  with Predictor(tiny_run(), devices=['/device:CPU:0', '/device:CPU:1']) as made:
    sessions = made._sessions
    for _ in range(3):
      made.labels(IMAGES)
    assert made.num_devices == 2 and sessions._made == 1
    with sessions.free() as first:
      with sessions.free() as second:
        assert first is not second and sessions._made == 2
        waiting = threading.Thread(target=made.labels, args=[IMAGES])
        waiting.start()
        waiting.join(timeout=0.2)
        assert waiting.is_alive()
      waiting.join(timeout=30)
      assert not waiting.is_alive()  # on the second, which is free again


def test_a_session_that_cannot_be_opened_leaves_the_others(tiny_run, monkeypatch):
  with Predictor(tiny_run(), devices=['/device:CPU:0', '/device:CPU:1']) as made:
    monkeypatch.setattr(predictor_lib, '_on_device', lambda graph, device: 1 / 0)
    with made._sessions.free(), pytest.raises(ZeroDivisionError):
      made.labels(IMAGES)
    assert made.labels(IMAGES).shape == IMAGES.shape[:3]


def test_free_memory_is_returned_where_the_system_can(monkeypatch):
  trimmed = []

  class Library:
    malloc_trim = trimmed.append

  monkeypatch.setattr(predictor_lib.ctypes, 'CDLL', lambda name: Library)
  predictor_lib._return_free_memory()
  assert trimmed == [0]

  def missing(name):
    raise OSError

  for library in (lambda name: object(), missing):
    monkeypatch.setattr(predictor_lib.ctypes, 'CDLL', library)
    predictor_lib._return_free_memory()
  assert trimmed == [0]
