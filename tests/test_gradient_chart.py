"""The chart of gradients: read back from event files, dark where they are large."""

import numpy as np
import pytest
from PIL import Image
from programs import assert_refused

from utils.compat import tf
from utils.drawing import canvas
from utils.errors import UserError
from utils.training import gradient_chart
from utils.training.summaries import RATIO_PREFIX

pytestmark = pytest.mark.fast


def write_events(folder, ratios):
  with tf.Graph().as_default():
    writer = tf.summary.FileWriter(str(folder))
  for (tag, step), value in ratios.items():
    writer.add_summary(tf.Summary(value=[tf.Summary.Value(tag=tag, simple_value=value)]), step)
  writer.close()


def test_reads_layers_in_order_and_steps_ascending(tmp_path):
  write_events(tmp_path, {
      (RATIO_PREFIX + '01_Mixed_7c', 1): 0.5, (RATIO_PREFIX + '00_new_layers', 1): 2.0,
      (RATIO_PREFIX + '00_new_layers', 101): 0.25, ('loss/total', 1): 9.0})
  steps, layers, ratios = gradient_chart.read_ratios(str(tmp_path))
  assert steps == [1, 101] and layers == ['new_layers', 'Mixed_7c']
  np.testing.assert_array_equal(ratios, [[2.0, 0.25], [0.5, np.nan]])


def test_a_run_that_was_killed_or_still_trains_has_what_is_whole(tmp_path, run_program):
  """The last record of its event file may be there in part; a resumed run goes on in another file."""
  tag = RATIO_PREFIX + '00_new_layers'
  write_events(tmp_path, {(tag, 1): 2.0, (tag, 101): 1.0})
  [path] = tmp_path.glob('events*')
  path.write_bytes(path.read_bytes()[:-7])
  path.rename(tmp_path / 'events.out.tfevents.0')
  write_events(tmp_path, {(tag, 201): 0.5})
  assert gradient_chart.read_ratios(str(tmp_path))[0] == [1, 201]
  result = run_program(gradient_chart.main, f'--run_dir={tmp_path}', f'--output={tmp_path}/chart.png')
  assert result.returncode == 0 and f'note: {tmp_path}/events.out.tfevents.0 is cut off' in result.stderr


def test_a_run_without_gradients_is_named(tmp_path):
  write_events(tmp_path, {('loss/total', 1): 9.0})
  with pytest.raises(UserError, match='--summarize_gradients'):
    gradient_chart.read_ratios(str(tmp_path))


def cells(picture, shape):
  """Brightness (0 to 765) of a chart's cells near their upper left corners: int [layers, steps]."""
  rows = canvas.TOP + gradient_chart.ROW * np.arange(shape[0]) + 3
  columns = picture.shape[1] - canvas.MARGIN - gradient_chart.WIDTH + np.linspace(
      0, gradient_chart.WIDTH, shape[1], endpoint=False).astype(int) + 30
  return picture.astype(int).sum(axis=-1)[np.ix_(rows, columns)]


def lines(picture, shape):
  """Whether the cells of a chart have the line of a blank cell: bool [layers, steps]."""
  gray = (picture == canvas.GRAY).all(axis=-1)[canvas.TOP:, -canvas.MARGIN - gradient_chart.WIDTH:-canvas.MARGIN]
  gray = gray[:shape[0] * gradient_chart.ROW].reshape(shape[0], gradient_chart.ROW, shape[1], -1)
  return gray.all(axis=3).any(axis=1)


def test_larger_is_darker():
  ratios = np.array([[1.0, 1e-2], [1e-4, np.nan]])
  picture = gradient_chart.gradient_chart([1, 2], ['new_layers', 'Mixed_7c'], ratios)
  brightness = cells(picture, ratios.shape).tolist()
  assert brightness[0][0] < brightness[0][1] < brightness[1][0] == brightness[1][1] == 765
  assert lines(picture, ratios.shape).tolist() == [[False, False], [False, True]]


def test_ratios_without_a_logarithm_are_blank_and_leave_the_others_as_they_are():
  """The score layer of a 32s net is 0 before the first step: norm / 0."""
  ratios = np.array([[np.inf, 1e-1, 1e-2], [1e-3, 1e-4, 0.0], [np.nan, 1e-2, -np.inf]])
  picture = gradient_chart.gradient_chart([1, 2, 3], ['new_layers', 'Mixed_7c', 'Mixed_7b'], ratios)
  known = np.array([[False, True, True], [True, True, False], [False, True, False]])
  np.testing.assert_array_equal(lines(picture, ratios.shape), ~known)
  brightness = cells(picture, ratios.shape)
  assert (brightness[~known] == 765).all()
  assert brightness[0, 1] == sum(canvas.DARK) < brightness[0, 2] == brightness[2, 1] < brightness[1, 0] < 765
  assert brightness[1, 1] == 765  # the smallest ratio is white too, without a line


@pytest.mark.parametrize('value', [0.0, np.inf, np.nan])
def test_a_chart_without_any_ratio_says_so(value, monkeypatch):
  notes = []
  row_chart = canvas.row_chart
  monkeypatch.setattr(canvas, 'row_chart', lambda *args, note, **more: notes.append(note) or row_chart(*args, **more))
  picture = gradient_chart.gradient_chart([1, 2], ['new_layers'], np.full((1, 2), value))
  assert lines(picture, (1, 2)).all() and notes == ['no finite ratio above 0 in any layer at any step']


def test_more_steps_than_columns_of_pixels():
  steps = gradient_chart.WIDTH + 100
  picture = gradient_chart.gradient_chart(range(steps), ['new_layers'], np.full((1, steps), 10.0))
  assert picture.shape[1] > gradient_chart.WIDTH


def test_the_program_writes_its_picture(tmp_path, run_program):
  write_events(tmp_path, {(RATIO_PREFIX + '00_new_layers', 1): 2.0})
  result = run_program(gradient_chart.main, f'--run_dir={tmp_path}', f'--output={tmp_path}/chart.png')
  assert result.returncode == 0, result.stderr
  assert Image.open(tmp_path / 'chart.png').mode == 'RGB' and f'{tmp_path}/chart.png' in result.stdout


def test_the_run_must_be_given(run_program):
  assert_refused(run_program(gradient_chart.main), '--run_dir', 'must be given')
