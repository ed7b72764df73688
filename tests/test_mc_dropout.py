"""Averages of passes by hand, and the parts of a graph that passes share."""

import numpy as np
import pytest

from utils.compat import tf
from utils.inference import mc_dropout

pytestmark = pytest.mark.fast

PASSES = np.array([[[0.5, 0.5], [1.0, 0.0]], [[0.5, 0.5], [0.0, 1.0]], [[0.5, 0.5], [0.5, 0.5]]], np.float32)


@pytest.mark.parametrize('measure, expected', [
    ('variance', [0.0, 1 / 6]),  # variance of 1, 0, 0.5: (0.25 + 0.25 + 0) / 3, the same for both classes
    ('entropy', [np.log(2), np.log(2)]),
    ('mutual_information', [0.0, np.log(2) * 2 / 3]),  # two of the three passes are sure
    (None, None),
])
def test_average_by_hand(measure, expected):
  mean, uncertainty = mc_dropout.average(iter(PASSES.copy()), measure)
  assert mean.dtype == np.float32
  np.testing.assert_allclose(mean, [[0.5, 0.5], [0.5, 0.5]], atol=1e-7)
  if measure:
    assert uncertainty.dtype == np.float32
    np.testing.assert_allclose(uncertainty, expected, atol=1e-6)
  else:
    assert uncertainty is None


def test_small_variances_are_not_lost_beside_large_means():
  values = np.random.default_rng(0).normal(0.9, 1e-4, [50, 40]).astype(np.float32)
  passes = np.stack([values, 1 - values], axis=-1)
  _, variance = mc_dropout.average(passes)
  np.testing.assert_allclose(variance, values.astype(np.float64).var(axis=0), rtol=0.02)


def test_another_measure_is_refused():
  with pytest.raises(ValueError, match="'range' is none of variance, entropy"):
    mc_dropout.average(PASSES, 'range')


def _two_dropouts():
  """GraphDef: images -> 'before' -> dropout -> 'between' -> dropout, plus 'skip'; the kept half is doubled."""
  with tf.Graph().as_default() as graph:
    images = tf.placeholder(tf.float32, [None, None], name='images')
    before = tf.multiply(images, 3.0, name='before')
    skip = tf.add(images, 1.0, name='skip')
    between = tf.add(tf.nn.dropout(before, rate=0.5, name='first'), 0.0, name='between')
    tf.add(tf.nn.dropout(between, rate=0.5, name='second'), skip, name='out')
  return graph.as_graph_def()


def _run(graph_def, fetches, feeds):
  with tf.Graph().as_default(), tf.Session() as session:
    tf.import_graph_def(graph_def, name='')
    return session.run(fetches, feeds)


def test_dropout_masks_depend_on_the_seeds_alone():
  graph_def = _two_dropouts()
  seeds = mc_dropout.take_seeds(graph_def)
  assert len(seeds) == 2 and not [node for node in graph_def.node if node.op == 'RandomUniform']
  images = np.ones([200, 150], np.float32)
  one, again, other = (_run(graph_def, 'out:0', {'images:0': images, seeds[0]: [7, first], seeds[1]: [7, 1]})
                       for first in (0, 0, 5))
  np.testing.assert_array_equal(one, again)
  assert sorted(set(one.ravel())) == [2.0, 14.0]  # the skip alone, or the skip and 3, doubled by both dropouts
  assert (one == 14).mean() == pytest.approx(0.25, abs=0.02)
  assert (one != other).mean() == pytest.approx(0.25, abs=0.02)  # the second dropout has kept the same half


def test_passes_need_the_shared_tensors_and_no_image():
  graph_def = _two_dropouts()
  seeds = mc_dropout.take_seeds(graph_def)
  shared = mc_dropout.shared_tensors(graph_def, 'images', seeds)
  assert {'skip:0'} < set(shared) and not {'images:0', 'between:0', 'out:0', *seeds} & set(shared)
  images = np.random.default_rng(1).normal(size=[5, 7]).astype(np.float32)
  drawn = {name: [3, place] for place, name in enumerate(seeds)}
  values = _run(graph_def, shared, {'images:0': images})
  np.testing.assert_array_equal(_run(graph_def, 'out:0', {**dict(zip(shared, values)), **drawn}),
                                _run(graph_def, 'out:0', {'images:0': images, **drawn}))


def test_a_graph_without_dropout_has_no_seeds():
  with tf.Graph().as_default() as graph:
    tf.nn.relu(tf.nn.dropout(tf.placeholder(tf.float32, [3], name='images'), rate=0.0), name='out')
  assert mc_dropout.take_seeds(graph.as_graph_def()) == []
