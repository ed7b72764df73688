"""TensorBoard summaries: pictures in the dataset's colors, gradients grouped from the new layers back to the stem."""

import numpy as np
import pytest

from utils.compat import tf
from utils.evaluation import metrics
from utils.training import summaries
from utils.training.step import StepOutputs

pytestmark = pytest.mark.fast

PALETTE = np.array([[10, 20, 30], [200, 100, 0]], np.uint8)


def outputs_over(names):
  variables = [tf.get_variable(name, initializer=[3.0, 4.0]) for name in names]
  pairs = [(tf.constant([0.0, 2.0]), variable) for variable in variables]
  zero = tf.constant(0.0)
  return StepOutputs(zero + 2, zero + 1, zero + .5, zero + 7, pairs, tf.ones([2, 3, 4], tf.int32), None, None)


def parse(op):
  with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    return {value.tag: value for value in tf.Summary.FromString(session.run(op)).value}


def pictured(image, label, prediction):
  return summaries.pictured(outputs_over([])._replace(predictions=prediction), {'image': image, 'label': label})


def test_pictures_stand_side_by_side_in_the_datasets_colors(graph):
  drawn = pictured(tf.fill([1, 2, 3, 3], 300.0), tf.constant([[[0, 255, 1], [1, 1, 1]]]),
                   tf.zeros([1, 2, 3], tf.int32))
  picture = summaries.pictures(drawn, PALETTE)
  with tf.Session() as session:
    value = session.run(picture)
  assert value.shape == (1, 2, 9, 3) and value.dtype == np.uint8
  assert np.all(value[0, :, :3] == 255)
  np.testing.assert_array_equal(value[0, 0, 3:6], [PALETTE[0], [224, 224, 192], PALETTE[1]])
  assert np.all(value[0, :, 6:] == PALETTE[0])


def test_pictures_of_many_bands_show_three(graph):
  image = np.arange(12, dtype=np.float32).reshape(1, 1, 2, 6)
  drawn = pictured(tf.constant(image), *[tf.zeros([1, 1, 2], tf.int32)] * 2)
  with tf.Session() as session:
    for shown in [(2, 1, 0), (5, 5, 5)]:
      picture = session.run(summaries.pictures(drawn, PALETTE, shown))
      np.testing.assert_array_equal(picture[:, :, :2], image[..., list(shown)])


def summary(**options):
  batch = {'image': tf.zeros([2, 3, 4, 3]), 'label': tf.zeros([2, 3, 4], tf.int32)}
  outputs = outputs_over([])
  return summaries.training_summary(outputs, summaries.pictured(outputs, batch), PALETTE, **options)


def test_a_summary_at_some_steps_takes_no_map_of_int32(graph):
  """A tf.cond passes int32 through the host's memory, whichever device it is on."""
  step = tf.train.get_or_create_global_step()
  outputs = outputs_over([])
  drawn = summaries.pictured(outputs, {'image': tf.zeros([2, 3, 4, 3]), 'label': tf.zeros([2, 3, 4], tf.int32)})
  tf.cond(tf.equal(step, 0), lambda: summaries.training_summary(outputs, drawn, PALETTE), lambda: tf.constant(b''))
  switched = [op.inputs[0] for op in graph.get_operations() if op.type == 'Switch']
  maps = {tensor.dtype for tensor in switched if tensor.shape.rank}
  assert maps == {tf.float32, tf.uint8}


def test_training_summary(graph):
  values = parse(summary())
  scalars = {tag: value.simple_value for tag, value in values.items() if not value.HasField('image')}
  assert scalars == {'loss/cross_entropy': 2, 'training/learning_rate': .5, 'training/gradient_norm': 7}
  assert sum(value.HasField('image') for value in values.values()) == 2


def test_the_curve_bears_the_name_of_the_loss(graph):
  values = parse(summary(loss='cross_entropy+lovasz'))
  assert values['loss/cross_entropy_lovasz'].simple_value == 2 and 'loss/cross_entropy' not in values


def test_groups_run_from_the_new_layers_back_to_the_stem(graph):
  names = ['InceptionV3/Conv2d_1a_3x3/weights', 'InceptionV3/Mixed_5b/Branch_0/weights',
           'InceptionV3/Mixed_7c/Branch_0/weights', 'InceptionV3/Mixed_7c/Branch_1/weights', 'fcn/score_32/weights']
  values = parse(summaries.gradient_summary(outputs_over(names), ('InceptionV3',)))
  norms = {tag: value.simple_value for tag, value in values.items() if tag.startswith('gradient_norm_by_layer/')}
  assert sorted(norms) == [f'gradient_norm_by_layer/{group}' for group in (
      '00_new_layers', '01_Mixed_7c', '02_Mixed_5b', '03_Conv2d_1a_3x3')]
  assert norms['gradient_norm_by_layer/00_new_layers'] == 2
  np.testing.assert_allclose(norms['gradient_norm_by_layer/01_Mixed_7c'], np.sqrt(8))
  ratio = values[f'{summaries.RATIO_PREFIX}00_new_layers'].simple_value
  np.testing.assert_allclose(ratio, 2 / 5)
  for kind, group, name in [('gradients', '00_new_layers', names[4]), ('weights', '01_Mixed_7c', names[3])]:
    assert values[f'{kind}_{group}/{name}'].HasField('histo')
    assert values[f'{kind}_{group}/{name}_norm'].simple_value > 0


def test_a_layer_of_zeros_has_the_ratio_zero(graph):
  """The score layer of a 32s net before the first step is such a layer: no infinity in TensorBoard."""
  variable = tf.get_variable('fcn/score_32/weights', initializer=[0.0, 0.0])
  zero = tf.constant(0.0)
  pairs = [(tf.constant([0.0, 2.0]), variable)]
  outputs = StepOutputs(zero, zero, zero, zero, pairs, tf.ones([1, 3, 4], tf.int32), None, None)
  values = parse(summaries.gradient_summary(outputs, ('InceptionV3',)))
  assert values[f'{summaries.RATIO_PREFIX}00_new_layers'].simple_value == 0
  assert values['gradient_norm_by_layer/00_new_layers'].simple_value == 2
  assert all(np.isfinite(value.simple_value) for value in values.values() if not value.HasField('histo'))


def test_evaluation_summary_omits_absent_classes():
  result = metrics.scores(np.array([[3, 1, 0], [0, 4, 0], [0, 0, 0]]))
  values = {v.tag: v.simple_value for v in summaries.evaluation_summary(result, ('a', 'b', 'c'), 'val').value}
  np.testing.assert_allclose(values['val/pixel_accuracy'], 7 / 8)
  np.testing.assert_allclose(values['val_class_iou/b'], 4 / 5)
  assert 'val_class_iou/c' not in values
