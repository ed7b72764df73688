"""The chart of gradients: read back from event files, dark where they are large."""

import numpy as np
import pytest

from utils.compat import tf
from utils.errors import UserError
from utils.studies import gradient_chart


def write_events(folder, ratios):
  with tf.Graph().as_default():
    writer = tf.summary.FileWriter(str(folder))
  for (tag, step), value in ratios.items():
    writer.add_summary(tf.Summary(value=[tf.Summary.Value(tag=tag, simple_value=value)]), step)
  writer.close()


def test_reads_layers_in_order_and_steps_ascending(tmp_path):
  write_events(tmp_path, {
      (gradient_chart.PREFIX + '01_Mixed_7c', 1): 0.5, (gradient_chart.PREFIX + '00_new_layers', 1): 2.0,
      (gradient_chart.PREFIX + '00_new_layers', 101): 0.25, ('loss/total', 1): 9.0})
  steps, layers, ratios = gradient_chart.read_ratios(str(tmp_path))
  assert steps == [1, 101] and layers == ['new_layers', 'Mixed_7c']
  np.testing.assert_array_equal(ratios, [[2.0, 0.25], [0.5, np.nan]])


def test_a_run_without_gradients_is_named(tmp_path):
  write_events(tmp_path, {('loss/total', 1): 9.0})
  with pytest.raises(UserError, match='--summarize_gradients'):
    gradient_chart.read_ratios(str(tmp_path))


def test_larger_is_darker():
  picture = gradient_chart.gradient_chart([1, 2], ['new_layers', 'Mixed_7c'], np.array([[1.0, 1e-2], [1e-4, np.nan]]))
  row = lambda index: gradient_chart.TOP + index * gradient_chart.CELL_HEIGHT + 3
  column = lambda index: gradient_chart.LEFT + index * gradient_chart.WIDTH // 2 + 30
  brightness = [[int(picture[row(r), column(c)].sum()) for c in range(2)] for r in range(2)]
  assert brightness[0][0] < brightness[0][1] < brightness[1][0] == brightness[1][1] == 765
