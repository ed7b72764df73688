"""Warm starts: values arrive, and no variable is skipped in silence."""

import numpy as np
import pytest

from utils.compat import slim, tf
from utils.errors import UserError
from utils.training import warm_start


@pytest.fixture(autouse=True)
def graph():
  with tf.Graph().as_default() as graph:
    yield graph


def variable(name, value):
  """A float32 model variable that starts as `value`."""
  return slim.model_variable(name, initializer=tf.constant(value, tf.float32))


def save(path, values, write_version=tf.train.SaverDef.V2):
  """Writes a checkpoint of `values` (name -> array) in a graph of its own and returns its prefix."""
  with tf.Graph().as_default(), tf.Session() as session:
    for name, value in values.items():
      tf.get_variable(name, initializer=tf.constant(value))
    session.run(tf.global_variables_initializer())
    return tf.train.Saver(write_version=write_version).save(session, str(path), write_meta_graph=False)


def started(init_fn):
  """Values of all global variables, by name, after initialization and `init_fn` through a Scaffold."""
  with tf.train.MonitoredTrainingSession(scaffold=tf.train.Scaffold(init_fn=init_fn)) as session:
    variables = tf.global_variables()
    return dict(zip([variable.op.name for variable in variables], session.run(variables), strict=True))


KERNEL = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.mark.parametrize('version', [tf.train.SaverDef.V1, tf.train.SaverDef.V2])
def test_values_arrive_from_v1_and_v2(tmp_path, version):
  path = save(tmp_path / 'net.ckpt',
              {'Net/a': KERNEL, 'Net/Logits/b': np.float32([7]), 'global_step': np.int64(5)}, version)
  variable('Net/a', np.zeros([2, 3]))
  variable('Net/Logits/b', [1])
  variable('fcn/c', [2])
  tf.train.get_or_create_global_step()
  init_fn, names = warm_start.restore_pretrained(path, ('Net',), exclude_scopes=('Net/Logits',))
  values = started(init_fn)
  assert names == ['Net/a']
  np.testing.assert_array_equal(values['Net/a'], KERNEL)
  assert values['Net/Logits/b'] == [1] and values['fcn/c'] == [2] and values['global_step'] == 0


def test_real_inception_v3(shared):
  """The layers up to the first of the mixed ones: 12 convolutions, each with three variables of its batch norm."""
  from tf_slim.nets import inception
  path = str(shared / 'pretrained/inception_v3.ckpt')
  with slim.arg_scope(inception.inception_v3_arg_scope()):
    inception.inception_v3_base(tf.zeros([1, 107, 75, 3]), final_endpoint='Mixed_5b')
  init_fn, names = warm_start.restore_pretrained(path, ('InceptionV3',))
  assert len(names) == 4 * 12
  assert warm_start.start_line(names, path) == f'warm-started 48 variables under InceptionV3 from {path}'
  values, reader = started(init_fn), tf.train.load_checkpoint(path)
  for name in names:
    np.testing.assert_array_equal(values[name], reader.get_tensor(name), name)


def test_missing_and_misshaped_are_all_listed(tmp_path):
  path = save(tmp_path / 'net.ckpt', {'Net/a': KERNEL, 'Net/d': np.int32([1])})
  for name, value in (('Net/a', np.zeros([3, 2])), ('Net/b', [1]), ('Net/c/w', [1]), ('Net/d', [1])):
    variable(name, value)
  with pytest.raises(UserError) as error:
    warm_start.restore_pretrained(path, ('Net',))
  assert '2 not in it: Net/b, Net/c/w' in str(error.value)
  assert 'Net/a (there [2, 3], here [3, 2])' in str(error.value)
  assert 'Net/d (there int32, here float32)' in str(error.value)


def test_long_lists_are_counted(tmp_path):
  path = save(tmp_path / 'net.ckpt', {'Net/a': KERNEL})
  for index in range(23):
    variable(f'Net/v{index:02}', [1])
  with pytest.raises(UserError, match=r'23 not in it: Net/v00, .*Net/v19 and 3 more'):
    warm_start.restore_pretrained(path, ('Net',))


def test_scopes_match_whole_names_only(tmp_path):
  path = save(tmp_path / 'net.ckpt', {'Net/a': KERNEL})
  variable('Net/a', np.zeros([2, 3]))
  variable('Net2/a', [3])  # not under `Net`, though the string begins alike
  assert warm_start.restore_pretrained(path, ('Net',))[1] == ['Net/a']
  with pytest.raises(UserError, match=r"--checkpoint_exclude_scopes: no variable is under 'Net/aa'; there are Net, "):
    warm_start.restore_pretrained(path, ('Net',), exclude_scopes=('Net/aa',))
  with pytest.raises(UserError, match="no variable is under 'Resnet'"):
    warm_start.restore_pretrained(path, ('Resnet',))


def test_missing_checkpoint(tmp_path):
  variable('Net/a', [1])
  with pytest.raises(UserError, match='no checkpoint at .*gone.ckpt'):
    warm_start.restore_pretrained(str(tmp_path / 'gone.ckpt'), ('Net',))


def test_truncated_v1(tmp_path):
  path = save(tmp_path / 'v1.ckpt', {'Net/a': KERNEL}, tf.train.SaverDef.V1)
  variable('Net/a', np.zeros([2, 3]))
  (tmp_path / 'v1.ckpt').write_bytes((tmp_path / 'v1.ckpt').read_bytes()[:-1])
  with pytest.raises(UserError, match='v1.ckpt is cut off or damaged: its end is missing'):
    warm_start.restore_pretrained(path, ('Net',))


@pytest.mark.parametrize('damage', [lambda data: data[:-1], lambda data: b'\x01' + data[1:], lambda data: b''])
def test_damaged_v2_values(tmp_path, damage):
  path = save(tmp_path / 'v2.ckpt', {'Net/a': KERNEL})
  data = tmp_path / 'v2.ckpt.data-00000-of-00001'
  data.write_bytes(damage(data.read_bytes()))
  variable('Net/a', np.zeros([2, 3]))
  with pytest.raises(UserError, match='v2.ckpt.data-00000-of-00001 is cut off or damaged|v2.ckpt cannot be read, it is '
                                      'truncated or damaged'):
    init_fn, _ = warm_start.restore_pretrained(path, ('Net',))  # the index alone is still fine, and says what is there
    started(init_fn)


# Checkpoint of a 32s run; tensors beside its model variables must not count as model variables.
COARSE = {'Net/a': KERNEL, 'fcn/score_32/weights': np.float32([4]), 'global_step': np.int64(90),
          'beta1_power': np.float32(.9), 'Net/a/Adam': KERNEL, 'Net/a/Adam_1': KERNEL}


def test_finer_net_starts_from_coarser_run(tmp_path):
  prefix = save(tmp_path / 'model.ckpt-90', COARSE)
  weights = [variable('Net/a', np.zeros([2, 3])), variable('fcn/score_32/weights', [0]),
             variable('fcn/score_16/weights', [0, 0])]
  tf.train.get_or_create_global_step()
  tf.train.AdamOptimizer().minimize(tf.add_n([tf.reduce_sum(weight) for weight in weights]))
  init_fn, names, new_names = warm_start.restore_from_run(prefix, new_scopes=('fcn/score_16',))
  values = started(init_fn)
  assert names == ['Net/a', 'fcn/score_32/weights'] and new_names == ['fcn/score_16/weights']
  np.testing.assert_array_equal(values['Net/a'], KERNEL)
  np.testing.assert_array_equal(values['Net/a/Adam'], np.zeros([2, 3]))
  assert values['fcn/score_32/weights'] == [4] and values['global_step'] == 0


def test_averages_are_taken_where_the_run_has_them(tmp_path):
  prefix = save(tmp_path / 'model.ckpt-90', COARSE | {'Net/a/ExponentialMovingAverage': KERNEL + 5})
  variable('Net/a', np.zeros([2, 3]))
  variable('fcn/score_32/weights', [0])
  init_fn, names, _ = warm_start.restore_from_run(prefix)
  values = started(init_fn)
  assert names == ['Net/a', 'fcn/score_32/weights']
  np.testing.assert_array_equal(values['Net/a'], KERNEL + 5)
  assert values['fcn/score_32/weights'] == [4]


def test_coarser_run_must_fit_whole(tmp_path):
  prefix = save(tmp_path / 'model.ckpt-90', COARSE | {'fcn/score_8/weights': np.float32([1])})
  variable('Net/a', np.zeros([2, 3]))
  variable('Net/b', [0])
  variable('fcn/score_32/weights', [0, 0])
  with pytest.raises(UserError) as error:
    warm_start.restore_from_run(prefix)
  assert '1 not in it: Net/b' in str(error.value)
  assert 'fcn/score_32/weights (there [1], here [2])' in str(error.value)
  assert '1 not in this network: fcn/score_8/weights' in str(error.value)


def test_run_of_another_network(tmp_path):
  prefix = save(tmp_path / 'model.ckpt-3', {'other/a': KERNEL})
  variable('fcn/score_32/weights', [0])
  with pytest.raises(UserError, match="holds none of this network's variables"):
    warm_start.restore_from_run(prefix)


def test_real_16s_starts_from_real_32s(tmp_path, monkeypatch):
  """Of VGG-16, here with few channels; the decoder has batch norms."""
  from nets import backbones, get_network
  monkeypatch.setattr(backbones, 'VGG_CHANNELS', (2, 2, 3, 3, 3))
  monkeypatch.setattr(backbones, 'VGG_FC_CHANNELS', 4)
  build = lambda skip: get_network('vgg_16').logits(tf.zeros([1, 40, 61, 3]), 5, skip=skip, decoder_channels=3)
  with tf.Graph().as_default(), tf.Session() as session:
    build('32s')
    coarse = {variable.op.name for variable in slim.get_model_variables()}
    session.run(tf.global_variables_initializer())
    biases, = slim.get_model_variables('fcn/score_32/biases')
    means, = slim.get_model_variables('fcn/lateral_32/BatchNorm/moving_mean')
    session.run([biases.assign(np.arange(5)), means.assign(np.arange(3))])
    prefix = tf.train.Saver().save(session, str(tmp_path / 'model.ckpt'), write_meta_graph=False)
  build('16s')
  init_fn, names, new_names = warm_start.restore_from_run(prefix)
  assert set(names) == coarse and len(names) == 2 * 15 + 2 + 5 + 2
  assert {name.split('/')[1] for name in new_names} == {'score_16', 'upscore_16', 'lateral_16', 'fuse_16'}
  values = started(init_fn)
  np.testing.assert_array_equal(values['fcn/score_32/biases'], np.arange(5))
  np.testing.assert_array_equal(values['fcn/lateral_32/BatchNorm/moving_mean'], np.arange(3))


def mean_kernels(kernel):
  return kernel.mean(axis=2, keepdims=True)


FIRST = np.random.default_rng(3).normal(size=[3, 5, 3, 7]).astype(np.float32)


def test_own_kernels_for_colors_and_their_mean_for_the_others():
  found = warm_start.inflated(FIRST, (2, None, 0, 1, None, None))
  assert found.shape == (3, 5, 6, 7) and found.dtype == np.float32
  np.testing.assert_allclose(found[:, :, [2, 3, 0]], FIRST / 2, rtol=1e-6)
  np.testing.assert_allclose(found[:, :, [1, 4, 5]], np.repeat(mean_kernels(FIRST), 3, axis=2) / 2, atol=1e-6)


@pytest.mark.parametrize('colors', [
    (None,), (None,) * 2, (None,) * 13, (0,), (1, 0), (0, None), (1, 0, None, None), (0, 1, 2, None), (2, 1, 0),
    (None, 2, None)])
def test_gray_pictures_give_what_they_gave(colors):
  """The sum over the bands is that over the colors; a red and a green band take their kernels, others the rest."""
  found = warm_start.inflated(FIRST, colors)
  assert found.shape[2] == len(colors)
  np.testing.assert_allclose(found.sum(axis=2), FIRST.sum(axis=2), atol=1e-5)
  for place, color in enumerate(colors):
    if color is not None and (None in colors or len(colors) == 3):
      np.testing.assert_allclose(found[:, :, place], FIRST[:, :, color] * 3 / len(colors), rtol=1e-6)


def test_photographs_keep_their_kernels():
  np.testing.assert_array_equal(warm_start.inflated(FIRST, (0, 1, 2)), FIRST)
  np.testing.assert_array_equal(warm_start.inflated(FIRST, (2, 0, 1)), FIRST[:, :, [2, 0, 1]])


def test_the_first_kernel_alone_is_inflated(tmp_path):
  """Other variables arrive as they are, and one of another shape is refused all the same."""
  path = save(tmp_path / 'net.ckpt', {'Net/conv1/weights': FIRST, 'Net/conv1/biases': FIRST[0, 0, 0],
                                      'Net/conv2/weights': FIRST[:, :, :2]})
  variable('Net/conv1/weights', np.zeros([3, 5, 4, 7]))
  variable('Net/conv1/biases', np.zeros([7]))
  variable('Net/conv2/weights', np.zeros([3, 5, 2, 7]))
  colors = (0, None, 1, 2)
  init_fn, names = warm_start.restore_pretrained(path, ('Net',), colors=colors)
  assert names == ['Net/conv1/biases', 'Net/conv1/weights', 'Net/conv2/weights']
  values = started(init_fn)
  np.testing.assert_array_equal(values['Net/conv1/weights'], warm_start.inflated(FIRST, colors))
  np.testing.assert_array_equal(values['Net/conv1/biases'], FIRST[0, 0, 0])
  np.testing.assert_array_equal(values['Net/conv2/weights'], FIRST[:, :, :2])
  with pytest.raises(UserError, match=r'Net/conv1/weights \(there \[3, 5, 3, 7\], here \[3, 5, 4, 7\]\)'):
    warm_start.restore_pretrained(path, ('Net',))
  with pytest.raises(UserError, match='with another shape'):
    warm_start.restore_pretrained(path, ('Net',), colors=(None,) * 5)


def test_pretrained_averages_are_taken_where_a_run_has_them(tmp_path):
  """Of --checkpoint=RUN, as of --init_from and of the run's package; the first kernels as well."""
  kept = {'Net/conv1/weights': FIRST, 'Net/conv1/biases': FIRST[0, 0, 0]}
  path = save(tmp_path / 'model.ckpt-9', kept | {f'{name}/ExponentialMovingAverage': value + 5
                                                 for name, value in kept.items()})
  variable('Net/conv1/weights', np.zeros([3, 5, 4, 7]))
  variable('Net/conv1/biases', np.zeros([7]))
  colors = (0, None, 1, 2)
  init_fn, names = warm_start.restore_pretrained(path, ('Net',), colors=colors)
  values = started(init_fn)
  assert names == sorted(kept)
  np.testing.assert_array_equal(values['Net/conv1/weights'], warm_start.inflated(FIRST + 5, colors))
  np.testing.assert_array_equal(values['Net/conv1/biases'], FIRST[0, 0, 0] + 5)


def test_separable_first_kernels_are_inflated_together():
  """Inception v2's first layer: 8 filters for each color, then a convolution of all 24."""
  rng = np.random.default_rng(0)
  depthwise = rng.normal(size=[7, 7, 3, 8]).astype(np.float32)
  depthwise += rng.normal(size=[7, 7, 1, 8])  # the colors' filters resemble each other
  pointwise = rng.normal(size=[1, 1, 24, 64]).astype(np.float32)
  whole = np.einsum('hwbm,bmc->hwbc', depthwise, pointwise.reshape(3, 8, 64))
  names = 'v2/conv/depthwise_weights', 'v2/conv/pointwise_weights'
  for colors in [(0, 1, 2, None), (2, 1, 0), (None, None)]:
    found = warm_start._for_bands(dict(zip(names, (depthwise, pointwise))), colors)
    assert [found[name].shape for name in names] == [(7, 7, len(colors), 8), (1, 1, 8 * len(colors), 64)]
    again = np.einsum('hwbm,bmc->hwbc', found[names[0]], found[names[1]].reshape(len(colors), 8, 64))
    wanted = warm_start.inflated(whole, colors)
    for place, color in enumerate(colors):
      scale = np.abs(wanted[:, :, place]).max()
      assert np.abs(again - wanted)[:, :, place].max() < (1e-4 if color is not None else 0.9) * scale


def test_line_about_the_bands():
  line = warm_start.bands_line(('red', 'Green', 'BLUE', 'nir'), (0, 1, 2, None))
  assert line == ('first kernels of 4 bands: red, Green, BLUE their own; nir the mean of the three colors; '
                  'all times 0.75')
  line = warm_start.bands_line(('nir', 'red', 'green'), (0, 1, 2))
  assert line == 'first kernels of 3 bands: nir as red, red as green, green as blue their own; all times 1'
  assert 'red their own; nir, swir their share of what is left' in warm_start.bands_line(
      ('red', 'nir', 'swir'), (0, None, None))
  assert 'bands: red the mean of the three colors; all times 3' in warm_start.bands_line(('red',), (0,))


def expanded(photo):
  """A photograph as six bands that resemble those of a satellite: its colors and three mixtures of them."""
  mixed = photo @ np.float32([[.2, .6, .1], [.5, .1, .3], [.3, .3, .6]])
  return np.concatenate([photo, mixed], axis=-1)


@pytest.mark.parametrize('names, picked', [
    ((0, 1, 2, None, None, None), (0, 1, 2, 3, 4, 5)), ((None,) * 6, (0, 1, 2, 3, 4, 5)), ((None,), (3,)),
    ((0, 1, None, None), (0, 1, 3, 5))])
def test_activations_of_photographs_keep_their_size(shared, names, picked):
  """The standard deviation behind Inception v3's first convolution, over all filters, on real photographs."""
  from datasets.images import read_rgb
  kernel = tf.train.load_checkpoint(str(shared / 'pretrained/inception_v3.ckpt')).get_tensor(
      'InceptionV3/Conv2d_1a_3x3/weights')
  photos = [read_rgb(str(path)) for path in sorted((shared / 'data/camvid/train').glob('*'))[::60]]
  assert len(photos) > 3

  def deviation(images, weights):
    with tf.Session() as session:
      maps = [session.run(tf.nn.conv2d(image[None] / 127.5 - 1, weights, 2, 'VALID')) for image in images]
    return np.concatenate([part.reshape(-1, part.shape[-1]) for part in maps]).std(axis=0)

  before = deviation([photo.astype(np.float32) for photo in photos], kernel)
  after = deviation([expanded(photo.astype(np.float32))[..., list(picked)] for photo in photos],
                    warm_start.inflated(kernel, names))
  assert abs(np.sqrt((after**2).sum() / (before**2).sum()) - 1) < 0.03
