"""Hooks: the log line, losses and gradients that are not finite, early stops, a full disk."""

import collections

import numpy as np
import pytest

from utils.compat import tf
from utils.errors import UserError
from utils.training import hooks
from utils.training.saving import CheckpointFolder

pytestmark = pytest.mark.fast


class Full:
  """A saver on a full disk."""

  def save(self, *args, **kwargs):
    raise tf.errors.ResourceExhaustedError(None, None, 'No space left on device')


Outputs = collections.namedtuple('Outputs', 'loss weight_loss learning_rate gradient_norm scaling')


def train(folder, losses, norms, *, max_left_out=0, max_steps=None, scaling=None):
  """Runs LogHook over given losses and gradient norms, a value for each step; returns the last step."""
  step = tf.train.get_or_create_global_step()
  advance = tf.assign_add(step, 1)
  with tf.control_dependencies([advance]):
    index = tf.identity(advance) - 1
    outputs = Outputs(tf.gather(tf.constant(losses, tf.float32), index), tf.constant(0.5), tf.constant(1e-3),
                      tf.gather(tf.constant(norms, tf.float32), index), scaling and scaling(index))
  writer = tf.summary.FileWriterCache.get(str(folder))
  log = hooks.LogHook(outputs, lambda step: [f'left{step}', f'right{step}'], max_steps=max_steps or len(losses),
                      batch_size=2, every_steps=2, writer=writer, max_left_out=max_left_out)
  with tf.train.MonitoredSession(hooks=[log]) as session:
    while not session.should_stop():
      value = session.run(advance)
  return value


def test_the_line_holds_step_loss_rate_speed_and_time_left(graph, tmp_path, capsys):
  assert train(tmp_path, [4, 2, 1, 1, 3], [1] * 5) == 5
  lines = capsys.readouterr().out.splitlines()
  assert [line.split('  ')[0] for line in lines] == ['step 2/5', 'step 4/5', 'step 5/5']
  assert 'loss 3.0000  learning rate 0.001' in lines[0] and 'images/s' in lines[0] and lines[0].endswith('left')


def test_the_line_of_a_scaled_run_holds_the_scale_and_the_runs_count(graph, tmp_path, capsys):
  """The count is the checkpoint's: here one step was left out before the run was resumed."""
  def scaling(index):
    return {'loss_scale': tf.gather(tf.constant([1024.0, 512, 512, 512]), index),
            'left_out': tf.gather([2, 2, 3, 3], index)}

  train(tmp_path, [1] * 4, [np.inf, 1, np.nan, 1], max_left_out=1, scaling=scaling)
  lines = capsys.readouterr().out.splitlines()
  assert lines[0].endswith('left  loss scale 512  (2 steps skipped)') and lines[1].endswith('512  (3 steps skipped)')
  tf.summary.FileWriterCache.clear()
  events = [value for path in tmp_path.iterdir() for event in tf.train.summary_iterator(str(path))
            for value in event.summary.value]
  assert {'training/loss_scale', 'training/left_out'} <= {value.tag for value in events}


@pytest.mark.parametrize('bad', [np.nan, np.inf])
def test_a_loss_that_is_not_finite_names_step_rate_and_records(bad, graph, tmp_path):
  with pytest.raises(UserError, match='loss is not finite at step 3 .*L2 of the weights 0.5, .*rate 0.001, '
                     'records left2, right2;'):
    train(tmp_path, [1, 1, bad, 1], [1] * 4)


def test_a_bad_gradient_ends_a_float32_run_at_once(graph, tmp_path):
  with pytest.raises(UserError, match='gradient is not finite at step 2 .*records left1, right1;'):
    train(tmp_path, [1] * 4, [1, np.nan, 1, 1])


def test_single_bad_gradients_are_skipped_and_counted(graph, tmp_path, capsys):
  assert train(tmp_path, [1] * 6, [1, np.nan, np.nan, 1, np.nan, 1], max_left_out=2) == 6
  assert '(3 steps skipped)' in capsys.readouterr().out.splitlines()[-1]


def test_bad_gradients_in_a_row_end_the_run(graph, tmp_path):
  with pytest.raises(UserError, match='at step 5'):
    train(tmp_path, [1] * 6, [1, 1, np.nan, np.nan, np.nan, 1], max_left_out=2)


def evaluation(folder, scores, *, done=True, labels=(0, 1), **options):
  """An EvaluateHook over a val split of two 1x2 images; `scores`: whether class `a` is predicted right at each step."""
  dataset = collections.namedtuple('D', 'classes num_classes')(('a', 'b'), 2)
  step = tf.train.get_or_create_global_step()
  weights = tf.get_variable('weights', [], collections=[tf.GraphKeys.GLOBAL_VARIABLES, tf.GraphKeys.MODEL_VARIABLES])
  batches = tf.data.Dataset.from_tensor_slices({
      'image': np.zeros([2, 1, 2, 3], np.float32), 'label': np.array([[[0, 1]], [labels]], np.int32),
      'name': ['left', 'right']}).batch(1)

  def logits_fn(images):
    right = tf.gather(tf.constant(scores), tf.minimum(tf.cast(step, tf.int32), len(scores) - 1))
    second = tf.cond(right, lambda: tf.constant([1.0, 0.0]), lambda: tf.constant([0.0, 1.0]))
    return tf.stack([second, [0.0, 0.5]])[None, None] + 0 * images[..., :2] + 0 * weights

  log = collections.namedtuple('L', 'pause done')(lambda seconds: None, done)
  return tf.assign_add(step, 1), hooks.EvaluateHook(
      batches, logits_fn, dataset=dataset, split='val', num_images=2, run_dir=str(folder),
      writer=tf.summary.FileWriterCache.get(str(folder)), log_hook=log, **options)


def test_the_best_checkpoint_is_kept_and_no_progress_stops_early(graph, tmp_path, capsys):
  """Class `b` is always right, `a` in step 2 alone: the evaluation of step 2 is the best."""
  advance, hook = evaluation(tmp_path, [False, False, True] + [False] * 20, every_steps=2, early_stop=3)
  with tf.train.MonitoredSession(hooks=[hook]) as session:
    while not session.should_stop():
      last = session.run(advance)
  assert last == 8
  assert (tmp_path / 'best/model.ckpt-2.index').exists()
  assert not list((tmp_path / 'best').glob('model.ckpt-4*'))
  out = capsys.readouterr().out
  assert 'step 2  val: mean IoU 1.0000, pixel accuracy 1.0000, the best so far' in out
  assert 'step 4  val: mean IoU 0.2500, pixel accuracy 0.5000\n' in out  # worse: (0 + 1 / 2) / 2
  assert 'stopping early' in out


def test_a_label_out_of_range_is_named_with_its_record(graph, tmp_path):
  advance, hook = evaluation(tmp_path, [True] * 9, labels=(0, 7), every_steps=1)
  with pytest.raises(UserError, match='^val, record right: label id 7 is out of range; valid are 0 to 1'), \
      tf.train.MonitoredSession(hooks=[hook]) as session:
    session.run(advance)


@pytest.mark.parametrize('done', [True, False])
def test_the_last_step_is_evaluated_unless_it_was_interrupted(done, graph, tmp_path, capsys):
  advance, hook = evaluation(tmp_path, [True] * 9, every_steps=2, done=done)
  with tf.train.MonitoredSession(hooks=[hook]) as session:
    for _ in range(3):
      session.run(advance)
  assert ('step 3  val' in capsys.readouterr().out) == done


def saving(folder, steps, *, every_secs, saver=None, saved=None):
  """Runs a SaveHook for some steps."""
  step = tf.train.get_or_create_global_step()
  advance = tf.assign_add(step, 1)
  checkpoints = CheckpointFolder(str(folder), saver or tf.train.Saver(), keep=9)
  hook = hooks.SaveHook(checkpoints, every_secs=every_secs, writer=tf.summary.FileWriterCache.get(str(folder)),
                        saved=saved)
  tf.constant(1, name='after_the_writer')
  with tf.train.MonitoredSession(hooks=[hook]) as session:
    for _ in range(steps):
      session.run(advance)
  tf.summary.FileWriterCache.clear()


@pytest.mark.parametrize('every_secs, steps, saved', [
    (3600, 3, {0, 3}),
    (0, 2, {0, 1, 2}),
    (3600, 0, {0}),
])
def test_checkpoints_are_saved_at_the_start_at_intervals_and_at_the_end(every_secs, steps, saved, graph, tmp_path):
  saving(tmp_path, steps, every_secs=every_secs)
  assert {path.name for path in tmp_path.glob('model.ckpt-*.index')} == {f'model.ckpt-{step}.index' for step in saved}
  assert not list(tmp_path.glob('*.meta')) and not list(tmp_path.glob('*.pbtxt'))


@pytest.mark.parametrize('saved, expected', [(0, {2}), (None, {0, 2})])
def test_a_checkpoint_that_the_run_goes_on_from_is_not_written_again(saved, expected, graph, tmp_path):
  saving(tmp_path, 2, every_secs=3600, saved=saved)
  assert {int(path.stem.rpartition('-')[2]) for path in tmp_path.glob('model.ckpt-*.index')} == expected


def test_tensorboard_gets_the_graph_once_and_the_start(graph, tmp_path):
  saving(tmp_path, 3, every_secs=0)
  [path] = tmp_path.glob('events*')
  events = list(tf.train.summary_iterator(str(path)))
  [written] = [event for event in events if event.graph_def]
  names = {node.name for node in tf.GraphDef.FromString(written.graph_def).node}
  assert 'global_step' in names and 'after_the_writer' not in names
  [start] = [event for event in events if event.session_log.status == tf.SessionLog.START]
  assert start.step == 1


def test_a_checkpoint_that_cannot_be_written_is_one_line(graph, tmp_path):
  with pytest.raises(UserError, match='cannot write the checkpoint of step 0: the disk is full .No space left on'):
    saving(tmp_path, 1, every_secs=3600, saver=Full())


@pytest.mark.parametrize('every_steps, start, wanted', [
    (2, 0, [1, 3, 5]),
    (1, 0, [1, 2, 3, 4, 5]),
    (4, 3, [5]),
    (9, 4, []),
])
def test_summaries_are_written_at_intervals_of_the_runs_steps(every_steps, start, wanted, graph, tmp_path):
  """Counted from the run's first step, also where it is resumed; the summary is built once and sees its own step."""
  step = tf.train.get_or_create_global_step()
  with tf.control_dependencies([tf.assign_add(step, 1)]):
    outputs = Outputs(tf.identity(7.0), None, None, None, None)
  hook = hooks.SummaryHook(lambda: tf.summary.scalar('loss', outputs.loss, collections=[]), outputs,
                           every_steps=every_steps, writer=tf.summary.FileWriterCache.get(str(tmp_path)))
  with tf.train.MonitoredSession(hooks=[hook]) as session:
    step.load(start, session._tf_sess())
    for _ in range(5 - start):
      session.run(outputs.loss)
  tf.summary.FileWriterCache.clear()
  [path] = tmp_path.glob('events*')
  found = [(event.step, value.simple_value) for event in tf.train.summary_iterator(str(path))
           for value in event.summary.value]
  assert found == [(number, 7.0) for number in wanted]


def test_the_loss_of_the_weights_is_that_before_its_step_and_computed_at_intervals(graph, tmp_path):
  """A weight loss of 10 times the step; its computation leaves a trace each time."""
  step, computed = tf.train.get_or_create_global_step(), tf.get_local_variable('computed', initializer=0)
  times = computed.read_value()
  advance = tf.assign_add(step, 1)
  with tf.control_dependencies([advance]):
    loss = tf.identity(0.5)
  with tf.control_dependencies([tf.assign_add(computed, 1)]):
    weight_loss = 10.0 * tf.cast(step.read_value(), tf.float32)
  hook = hooks.WeightLossHook(Outputs(loss, weight_loss, None, None, None), every_steps=2,
                              writer=tf.summary.FileWriterCache.get(str(tmp_path)))
  with tf.train.MonitoredSession(hooks=[hook]) as session:
    for _ in range(5):
      session.run(loss)
    assert session.run(times) == 3
  tf.summary.FileWriterCache.clear()
  [path] = tmp_path.glob('events*')
  found = [(event.step, value.tag, value.simple_value) for event in tf.train.summary_iterator(str(path))
           for value in event.summary.value]
  assert found == [(number, tag, value + 10 * (number - 1)) for number in (1, 3, 5)
                   for tag, value in (('loss/weights_l2', 0), ('loss/total', 0.5))]


def test_a_best_checkpoint_that_cannot_be_written_is_one_line(graph, tmp_path):
  advance, hook = evaluation(tmp_path, [True] * 9, every_steps=2)

  hook._saver = Full()
  with pytest.raises(UserError, match='cannot write the checkpoint of step 2: the disk is full .No space left'), \
      tf.train.MonitoredSession(hooks=[hook]) as session:
    for _ in range(2):
      session.run(advance)
  assert not (tmp_path / 'best/best.json').exists()
