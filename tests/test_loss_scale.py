"""Loss scaling: the scale over steps by hand, gradients and weights as without it, steps left out, checkpoints."""

import numpy as np
import pytest
from random_run import load, random_values

from utils.compat import slim, tf
from utils.training import loss_scale, start, warm_start
from utils.training import step as training_step

pytestmark = pytest.mark.fast


def scales(finite, *, growth_steps=3, monkeypatch):
  """Adjusts a scale over steps; returns the (scale, good steps, steps left out) after each."""
  monkeypatch.setattr(loss_scale, 'GROWTH_STEPS', growth_steps)
  given = tf.placeholder(tf.bool, [])
  state = loss_scale.loss_scale()
  adjust, found = loss_scale.adjusted(state, finite=given), []
  with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    for value in finite:
      session.run(adjust, {given: value})
      found.append(tuple(session.run(state)))
  return found


def test_the_scale_by_hand(graph, monkeypatch):
  first = loss_scale.INITIAL
  assert first == 32768 and loss_scale.GROWTH_STEPS == 2000
  found = scales([True, True, True, True, False, True, True, False, True], monkeypatch=monkeypatch)
  assert found == [(first, 1, 0), (first, 2, 0), (2 * first, 0, 0), (2 * first, 1, 0), (first, 0, 1), (first, 1, 1),
                   (first, 2, 1), (first / 2, 0, 2), (first / 2, 1, 2)]


@pytest.mark.parametrize('finite, steps, expected', [(True, 12, 2.0**24), (False, 17, 1.0)])
def test_the_scale_has_bounds(finite, steps, expected, graph, monkeypatch):
  assert scales([finite] * steps, growth_steps=1, monkeypatch=monkeypatch)[-1][0] == expected


def logits(images):
  with slim.arg_scope([slim.conv2d], weights_regularizer=slim.l2_regularizer(0.1)):
    net = slim.conv2d(images / 255, 4, 3, scope='first')
    return slim.conv2d(net, 3, 1, scope='second', activation_fn=None), {}


def build(*, scaled, logits_fn=logits, parts=1):
  rng = np.random.default_rng(0)
  batch = {'image': tf.constant(rng.uniform(0, 255, [4, 7, 5, 3]), tf.float32),
           'label': tf.constant(rng.integers(0, 3, [4, 7, 5]), tf.int32)}
  return training_step.make_step(logits_fn, rate=tf.constant(0.01), pretrained_scopes=(), clip_norm=0.01,
                                 gradient_accumulation=parts, scaled=scaled)(batch)


def train(steps, **options):
  """Trains from fixed weights: (losses, norms, clipped gradients of the last step, weights)."""
  with tf.Graph().as_default(), tf.Session() as session:
    outputs = build(**options)
    variables = tf.trainable_variables()
    session.run(tf.global_variables_initializer())
    load(session, random_values(variables), variables)
    fetches = [outputs.loss, outputs.gradient_norm, [gradient for gradient, _ in outputs.gradients]]
    found = [session.run(fetches) for _ in range(steps)]
    return [row[0] for row in found], [row[1] for row in found], found[-1][2], session.run(variables)


@pytest.mark.parametrize('parts', [1, 2])
def test_a_finite_step_is_that_without_scaling_to_the_bit(parts):
  """With weight decay, clipping by norm and accumulation: the scale is gone before all of them."""
  plain, scaled = (train(3, scaled=scaled, parts=parts) for scaled in (False, True))
  assert plain[1][0] > 0.01  # the norm is clipped
  for expected, found in zip(tf.nest.flatten(plain), tf.nest.flatten(scaled)):
    np.testing.assert_array_equal(found, expected)


@tf.custom_gradient
def _overflowing(features):
  """The features; backward, infinite like a float16 where a gradient is beyond 65504."""
  return features, lambda upstream: tf.where(tf.abs(upstream) > 65504, upstream * np.inf, upstream)


def overflowing_logits(images):
  scores, _ = logits(images)
  return _overflowing(scores * 1.0), {}


@pytest.mark.parametrize('parts', [1, 2])
def test_overflowing_steps_are_left_out_until_the_scale_fits(parts, graph):
  outputs = build(scaled=True, logits_fn=overflowing_logits, parts=parts)
  state = tf.global_variables(loss_scale.SCOPE)
  assert [variable.op.name for variable in state] == [f'loss_scale/{name}' for name in loss_scale.LossScale._fields]
  weights = tf.trainable_variables()
  with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    load(session, random_values(weights), weights)
    state[0].load(2.0**24, session)
    kept, rows = session.run(weights), []
    for _ in range(12):
      rows.append(session.run([outputs.loss, outputs.gradient_norm, outputs.scaling]))
      left_out = not np.isfinite(rows[-1][1])
      moved = session.run(weights)
      assert left_out == all(np.array_equal(a, b) for a, b in zip(kept, moved))
      kept = moved
    assert session.run(tf.train.get_global_step()) == 12 and np.isfinite([row[0] for row in rows]).all()
    skipped = sum(not np.isfinite(norm) for _, norm, _ in rows)
    assert 0 < skipped < 12 and [np.isfinite(row[1]) for row in rows] == [False] * skipped + [True] * (12 - skipped)
    assert [row[2]['loss_scale'] for row in rows[:skipped + 1]] == [2.0**(24 - n) for n in range(skipped + 1)]
    assert rows[-1][2]['left_out'] == skipped and session.run(state) == [2.0**(24 - skipped), 12 - skipped, skipped]


def save(folder, *, scaled):
  """Trains two steps and saves all variables; returns the checkpoint's prefix and the values by name."""
  with tf.Graph().as_default(), tf.Session() as session:
    outputs = build(scaled=scaled)
    session.run(tf.global_variables_initializer())
    if scaled:
      tf.global_variables('loss_scale/scale')[0].load(4096.0, session)
    for _ in range(2):
      session.run(outputs.loss)
    values = {variable.op.name: session.run(variable) for variable in tf.global_variables()}
    return tf.train.Saver().save(session, str(folder / 'model.ckpt'), global_step=2), values


@pytest.mark.parametrize('scaled', [True, False])
def test_a_resumed_run_has_its_scale_and_one_of_another_precision_the_first(scaled, tmp_path, graph):
  prefix, values = save(tmp_path, scaled=scaled)
  build(scaled=True)
  init_fn, _ = start.choose(None, None, resumed=prefix, start_step=2)
  assert (init_fn is None) == scaled
  creator = tf.train.ChiefSessionCreator(
      tf.train.Scaffold(init_fn=init_fn), checkpoint_filename_with_path=prefix if scaled else None)
  with tf.train.MonitoredSession(creator) as session:
    found = dict(zip((v.op.name for v in tf.global_variables()), session.run(tf.global_variables())))
  assert found['loss_scale/scale'] == (4096 if scaled else loss_scale.INITIAL)
  for name, value in values.items():
    np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_without_scaling_nothing_is_restored_apart(tmp_path, graph):
  prefix, _ = save(tmp_path, scaled=True)
  outputs = build(scaled=False)
  assert outputs.scaling is None and not tf.global_variables('loss_scale')
  assert warm_start.restore_without(prefix, loss_scale.SCOPE) is None
