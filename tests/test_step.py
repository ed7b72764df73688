"""Schedules, the training step, its two learning rates, and skipped steps."""

import numpy as np
import pytest

from utils.compat import slim, tf
from utils.cpu import supports_bfloat16
from utils.errors import UserError
from utils.session import session_config
from utils.training import gradients
from utils.training import step as training_step

pytestmark = pytest.mark.fast

PRECISIONS = ('float32', 'bfloat16')


def rates(steps, **options):
  step = tf.placeholder(tf.int64, [])
  rate = training_step.learning_rate(step, base=2.0, max_steps=100, **options)
  with tf.Session() as session:
    return [session.run(rate, {step: value}) for value in steps]


@pytest.mark.parametrize('schedule, expected', [
    ('constant', [2, 2, 2, 2]),
    ('step', [2, 2, .2, .02]),
    ('poly', [2, 2 * .67**.9, 2 * .66**.9, 2 * .01**.9]),
])
def test_schedules_by_hand(schedule, expected, graph):
  np.testing.assert_allclose(rates([0, 33, 34, 99], schedule=schedule), expected, rtol=1e-5)


@pytest.mark.parametrize('schedule', training_step.SCHEDULES)
def test_every_schedule_is_finite_beyond_the_end(schedule, graph):
  assert np.isfinite(rates([100, 150], schedule=schedule)).all()


def test_warm_up_rises_linearly(graph):
  np.testing.assert_allclose(rates([0, 1, 3, 4, 50], schedule='constant', warmup_steps=4), [.5, 1, 2, 2, 2])


def tiny_logits(images):
  """A backbone scope and a head, three classes, with batch norm so that there are update ops."""
  with slim.arg_scope([slim.conv2d], weights_regularizer=slim.l2_regularizer(1e-3)):
    net = slim.conv2d(images / 255, 4, 3, scope='Backbone/conv', normalizer_fn=slim.batch_norm,
                      normalizer_params={'decay': 0.5})
    return slim.conv2d(net, 3, 1, scope='head/score', activation_fn=None), {}


def make(batch, **options):
  options = {'rate': tf.constant(0.01), 'pretrained_scopes': ('Backbone',), **options}
  return training_step.make_step(tiny_logits, **options)(batch)


def batch_of(seed=0, size=2):
  generator = np.random.default_rng(seed)
  return {'image': tf.constant(generator.uniform(0, 255, [size, 7, 5, 3]), tf.float32),
          'label': tf.constant(generator.integers(0, 3, [size, 7, 5]), tf.int32)}


def test_the_loss_falls_and_the_step_counts(graph):
  batch = batch_of()
  batch['label'] = tf.cast(batch['image'][..., 0] > 128, tf.int32)
  outputs = make(batch)
  with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    losses = [session.run(outputs.loss) for _ in range(150)]
    assert session.run(tf.train.get_global_step()) == 150
  assert losses[-1] < 0.5 * losses[0]


def changes(outputs):
  """Greatest change of each trainable variable and of batch norm's moving averages in a step: dict by name."""
  variables = tf.trainable_variables() + tf.global_variables('Backbone/conv/BatchNorm/moving')
  with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    before = session.run(variables)
    session.run(outputs.loss)
    after = session.run(variables)
  return {v.op.name: np.abs(a - b).max() for v, a, b in zip(variables, after, before)}


def test_new_layers_learn_at_their_own_rate(graph):
  """Adam's first step is the learning rate, whatever the gradient's size: here 0.01 and 0.1."""
  moved = changes(make(batch_of(), new_layers_rate=10.0))
  assert moved['Backbone/conv/weights'] == pytest.approx(0.01, rel=1e-2)
  assert moved['head/score/weights'] == pytest.approx(0.1, rel=1e-2)
  assert moved['Backbone/conv/BatchNorm/moving_mean'] > 0
  slots = [v.op.name for v in tf.global_variables('head/score/weights/')]
  assert slots == ['head/score/weights/Adam_10', 'head/score/weights/Adam_10_1']


def test_moving_averages_follow_the_weights(graph):
  """By hand: the decay is min(0.9, (1 + n) / (10 + n)) at step n; a graph in the averages' scope uses them."""
  batch = batch_of()
  outputs = make(batch, ema_decay=0.9)
  with tf.variable_scope(tf.get_variable_scope(), reuse=True, custom_getter=training_step.averaged(outputs.averages)):
    logits, _ = tiny_logits(batch['image'])
  weights = tf.trainable_variables('head/score/weights')[0]
  average = outputs.averages.average(weights)
  assert average.op.name == 'head/score/weights/ExponentialMovingAverage'
  assert average.op in _ancestors(logits.op) and weights.op not in _ancestors(logits.op)
  with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    expected = session.run(weights)
    for step in range(3):
      session.run(outputs.loss)
      decay = (1 + step) / (10 + step)
      expected = decay * expected + (1 - decay) * session.run(weights)
      np.testing.assert_allclose(session.run(average), expected, rtol=1e-5)
  assert make_without_averages().averages is None


def make_without_averages():
  with tf.Graph().as_default():
    return make(batch_of())


def _ancestors(op):
  seen, open_ops = set(), [op]
  while open_ops:
    op = open_ops.pop()
    if op not in seen:
      seen.add(op)
      open_ops += [tensor.op for tensor in op.inputs] + op.control_inputs
  return seen


def _is_weight_gradient(op):
  return op.type == 'Conv2DBackpropFilter' or op.type == 'MatMul' and gradients.PRODUCT in op.name


def frozen_logits(images):
  with slim.arg_scope([slim.batch_norm], is_training=False):
    return tiny_logits(images)


def one_step(logits_fn, parts):
  """Runs a step on six images from fixed weights; returns its graph and its results."""
  with tf.Graph().as_default() as graph:
    outputs = training_step.make_step(logits_fn, rate=tf.constant(0.01), pretrained_scopes=('Backbone',),
                                 gradient_accumulation=parts)(batch_of(size=6))
    with tf.Session() as session:
      session.run(tf.global_variables_initializer())
      for index, variable in enumerate(tf.trainable_variables()):
        variable.load(np.random.default_rng(index).normal(size=variable.shape), session)
      names = ('loss', 'weight_loss', 'gradient_norm', 'predictions')
      gradients = [gradient for gradient, _ in outputs.gradients]
      return graph, session.run([*(getattr(outputs, name) for name in names), *gradients])


@pytest.mark.parametrize('parts', [2, 3, 6])
def test_accumulated_gradients_are_those_of_the_whole_batch(parts):
  """All images have as many labeled pixels, and batch norm is frozen, so that parts average to the whole batch."""
  _, whole = one_step(frozen_logits, 1)
  _, accumulated = one_step(frozen_logits, parts)
  assert accumulated[3].shape == (6, 7, 5)
  for value, expected in zip(accumulated, whole):
    np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-6)


def test_parts_of_a_batch_go_one_after_the_other():
  graph, _ = one_step(tiny_logits, 3)
  assert len(graph.get_collection(tf.GraphKeys.UPDATE_OPS)) == 3 * 2
  assert len(graph.get_collection(tf.GraphKeys.REGULARIZATION_LOSSES)) == 2
  first, second, third = (op for op in graph.get_operations() if op.type == 'Conv2D' and op.inputs[0].shape[-1] == 3)
  for later, earlier in [(second, first), (third, second)]:
    waited_for = _ancestors(later)
    assert earlier in waited_for and any(_is_weight_gradient(op) for op in waited_for)


def test_only_the_scopes_asked_for_are_trained(graph):
  moved = changes(make(batch_of(), scopes=['head']))
  assert moved['Backbone/conv/weights'] == 0 and moved['head/score/weights'] > 0


@pytest.mark.parametrize('scope, trained', [
    ('head/', ['head/score/weights', 'head/score/biases']),
    ('*/conv', ['Backbone/conv/weights', 'Backbone/conv/BatchNorm/beta']),
    ('head/score/weights', ['head/score/weights']),
    ('he*', ['head/score/weights', 'head/score/biases']),
])
def test_scopes_may_be_patterns(scope, trained, graph):
  tiny_logits(batch_of()['image'])
  assert [v.op.name for v in training_step.trainable_variables([scope])] == trained


@pytest.mark.parametrize('scope', ['hea', 'score', 'head/s', '*/tail'])
def test_a_part_of_a_name_is_no_scope(scope, graph):
  tiny_logits(batch_of()['image'])
  with pytest.raises(UserError, match='no trainable variable'):
    training_step.trainable_variables([scope])


def test_offsets_of_batch_norms_can_be_kept(graph):
  moved = changes(make(batch_of(), offsets=False))
  assert moved['Backbone/conv/BatchNorm/beta'] == 0 and moved['Backbone/conv/weights'] > 0


def test_an_unknown_scope_is_named_with_the_known_ones(graph):
  with pytest.raises(UserError, match="'tail'.*Backbone, head"):
    make(batch_of(), scopes=['tail'])


def test_gradients_are_clipped_together(graph):
  outputs = make(batch_of(), clip_norm=0.01)
  with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    norm, gradients = session.run([outputs.gradient_norm, [gradient for gradient, _ in outputs.gradients]])
  assert norm > 0.01
  assert np.sqrt(sum((gradient**2).sum() for gradient in gradients)) == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize('bad', [np.nan, np.inf])
def test_a_gradient_that_is_not_finite_changes_no_weight(bad, graph):
  """An op with a finite value and a gradient that is not finite stands for a faulty kernel."""

  @tf.custom_gradient
  def faulty(x):
    return x, lambda gradient: gradient * bad

  outputs = training_step.make_step(
      lambda images: (faulty(tiny_logits(images)[0]), {}), rate=tf.constant(0.01), pretrained_scopes=('Backbone',),
      clip_norm=1.0)(batch_of())
  moved = changes(outputs)
  assert all(moved[variable.op.name] == 0 for variable in tf.trainable_variables())
  assert len(moved) > 4


@pytest.mark.parametrize('condition', [False, True])
def test_ops_run_if_the_condition_holds(graph, condition):
  """What comes after waits for them in both cases, and a tensor from outside is not copied into a branch."""
  counted = tf.get_variable('counted', initializer=1.0)
  value, given = tf.constant(2.0), tf.placeholder(tf.bool, [])
  after = training_step._run_if(given, lambda: tf.group(counted.assign_add(value), counted.assign_add(value)))
  with tf.control_dependencies([after]):
    read = counted.read_value()
  kinds = [op.type for op in graph.get_operations()]
  assert (kinds.count('Switch'), kinds.count('Merge')) == (1, 1)
  with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    assert [session.run(read, {given: condition}) for _ in range(2)] == ([5.0, 9.0] if condition else [1.0, 1.0])


@pytest.mark.parametrize('precision', PRECISIONS)
def test_spared_optimizer_passes_change_no_bit(graph, precision):
  if precision == 'bfloat16' and not supports_bfloat16():
    pytest.skip('this CPU has no AVX512-BF16')
  tf.set_random_seed(4)
  outputs = make(batch_of(size=3), clip_norm=0.5, ema_decay=0.9)
  init, fetches = tf.global_variables_initializer(), [outputs.loss, outputs.gradient_norm]
  found = []
  spared = session_config(precision, once=True)
  whole = tf.ConfigProto()
  name = 'auto_mixed_precision_onednn_bfloat16'
  setattr(whole.graph_options.rewrite_options, name, getattr(spared.graph_options.rewrite_options, name))
  for config in (spared, whole):
    with tf.Session(config=config) as session:
      session.run(init)
      found.append([session.run(fetches) for _ in range(3)] + [session.run(tf.trainable_variables()[0]).tolist()])
  assert found[0] == found[1]
