"""What happens between the steps of a training: logging, saving, evaluating, stopping."""

import contextlib
import os
import signal
import sys
import time

import numpy as np

from utils.compat import tf
from utils.errors import UserError
from utils.evaluation import metrics
from utils.files import make_folder, read_json, write_json
from utils.progress import Progress, duration
from utils.runs import AVERAGE, BEST
from utils.training import summaries


class LogHook(tf.train.SessionRunHook):
  """Prints step, loss, learning rate, images/s and time left; stops the run at its last step or a loss not finite.

  On a terminal, the line is drawn over and over with a bar; elsewhere it is printed every `every_steps`.

  In bfloat16 a gradient now and then comes out as NaN for no fault of the run: oneDNN's weight gradient for AMX (seen
  with tensorflow 2.21: brgconv_bwd_w:avx10_1_512_amx, 3x3, SAME padding) multiplies zeros with memory that it has not
  set. `training.make_step` leaves out such a step; this hook counts them and gives up when they come in a row.
  """

  def __init__(self, outputs, names, *, max_steps, batch_size, every_steps, writer, max_left_out=0):
    """Takes what to fetch.

    Args:
      outputs: a training.StepOutputs.
      names: string [B], names of the records in the batch.
      max_steps: the run's last step.
      batch_size: examples a step.
      every_steps: steps between two lines.
      writer: tf.summary.FileWriter for the images/s.
      max_left_out: steps in a row whose gradient may be not finite while the loss is.
    """
    self._max_left_out, self._left_out, self._left_out_in_a_row = max_left_out, 0, 0
    self._fetches = {'step': tf.train.get_global_step(), 'loss': outputs.loss, 'weight_loss': outputs.weight_loss,
                     'rate': outputs.learning_rate, 'gradient_norm': outputs.gradient_norm, 'names': names}
    self._max_steps, self._batch_size, self._every_steps = max_steps, batch_size, every_steps
    self._writer = writer
    self._step = None
    self.done = False  # whether the last step is reached

  def after_create_session(self, session, coord):
    self._step = self._logged_step = session.run(self._fetches['step'])
    self._time = time.monotonic()
    self._losses = []

  def pause(self, seconds):
    """Leaves out `seconds` spent on something else than training from the rate."""
    self._time += seconds

  def before_run(self, run_context):
    return tf.train.SessionRunArgs(self._fetches)

  def after_run(self, run_context, run_values):
    values = run_values.results
    self._step += 1
    self._refuse_not_finite(values)
    self._losses.append(values['loss'])
    self.done = self._step >= self._max_steps
    if self.done or self._step % self._every_steps == 0:
      self._log(values['rate'])
    if self.done:
      run_context.request_stop()

  def _refuse_not_finite(self, values):
    finite_loss = np.isfinite(values['loss'] + values['weight_loss'])
    if finite_loss and np.isfinite(values['gradient_norm']):
      self._left_out_in_a_row = 0
      return
    self._left_out += 1
    self._left_out_in_a_row += 1
    if finite_loss and self._left_out_in_a_row <= self._max_left_out:
      return
    what = 'gradient' if finite_loss else 'loss'
    raise UserError(
        f'the {what} is not finite at step {self._step} (loss {values["loss"]}, L2 of the weights '
        f'{values["weight_loss"]}, gradient norm {values["gradient_norm"]}), learning rate {values["rate"]:.3g}, '
        f'records {", ".join(name.decode() for name in values["names"])}; the last checkpoint is from before. A lower '
        '--learning_rate or --gradient_clip_norm may help')

  def _log(self, rate):
    now = time.monotonic()
    seconds = max(now - self._time, 1e-9)
    steps = self._step - self._logged_step
    speed = steps * self._batch_size / seconds
    left = (self._max_steps - self._step) * seconds / steps
    line = (f'step {self._step}/{self._max_steps}  loss {np.mean(self._losses):.4f}  learning rate {rate:.3g}  '
            f'{speed:.1f} images/s  {duration(left)} left')
    if self._left_out:
      line += f'  ({self._left_out} steps left out)'
    if sys.stdout.isatty():
      filled = 20 * self._step // self._max_steps
      print(f'\r[{"#" * filled}{"." * (20 - filled)}] {line}   ', end='', flush=True)
    else:
      print(line, flush=True)
    self._writer.add_summary(
        tf.Summary(value=[tf.Summary.Value(tag='training/images_per_second', simple_value=speed)]), self._step)
    self._time, self._logged_step, self._losses = now, self._step, []

  def end(self, session):
    if sys.stdout.isatty():
      print()


class SaveHook(tf.train.CheckpointSaverHook):
  """Saves every so often and at the end; a disk that is full ends the run with a line, the older checkpoints whole."""

  def _save(self, session, step):
    with _one_line_if_unwritable(step):
      return super()._save(session, step)


@contextlib.contextmanager
def _one_line_if_unwritable(step):
  """Turns a checkpoint's failure to be written, inside the block, into a UserError."""
  try:
    yield
  except tf.errors.OpError as error:
    raise UserError(f'cannot write the checkpoint of step {step} ({error.message.splitlines()[0]}); the checkpoints '
                    'before it are whole: free some space and start the same command again') from error


class StopOnInterruptHook(tf.train.SessionRunHook):
  """Ctrl-C (or SIGTERM) ends the run after the step in progress, so that it is saved; a second one ends it at once."""

  def begin(self):
    self._signal = None
    self._previous = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}

  def _handle(self, number, frame):
    if self._signal is not None:
      raise KeyboardInterrupt
    self._signal = number
    print('\nstopping after this step; once more to stop at once', file=sys.stderr, flush=True)

  def after_run(self, run_context, run_values):
    if self._signal is not None:
      run_context.request_stop()

  def end(self, session):
    for number, handler in self._previous.items():
      signal.signal(number, handler)


class EvaluateHook(tf.train.SessionRunHook):
  """Evaluates a split every so many steps and at the end, and keeps the checkpoint with the best mean IoU apart."""

  def __init__(self, batches, logits_fn, *, dataset, split, num_images, every_steps, run_dir, writer, log_hook,
               early_stop=0):
    """Builds the evaluation beside the training; its variables must exist already.

    Args:
      batches: tf.data.Dataset as of pipeline.evaluation_batches.
      logits_fn: `logits_fn(images)` -> (logits, end_points), not in training mode, sharing the training's variables.
      dataset: the Dataset.
      split: name of the split.
      num_images: examples in it.
      every_steps: steps between two evaluations.
      run_dir: the run's folder; the best checkpoint and best.json go to its subfolder BEST.
      writer: tf.summary.FileWriter for the metrics.
      log_hook: LogHook, whose clock stands still meanwhile, and which knows the last step.
      early_stop: end the run after so many evaluations without a better mean IoU; 0 for never.
    """
    self._iterator = tf.data.make_initializable_iterator(batches)
    batch = self._iterator.get_next()
    logits, _ = logits_fn(batch['image'])
    self._fetches = [batch['label'], tf.argmax(logits, axis=-1, output_type=tf.int32)]
    self._dataset, self._split, self._num_images = dataset, split, num_images
    self._every_steps, self._early_stop = every_steps, early_stop
    self._writer, self._log_hook = writer, log_hook
    self._folder = os.path.join(run_dir, BEST)
    self._saver = tf.train.Saver(model_variables_and_step(), max_to_keep=1, save_relative_paths=True)
    self._best = {'mean_iou': -1.0, 'step': 0}
    self._global_step = tf.train.get_global_step()

  def after_create_session(self, session, coord):
    path = os.path.join(self._folder, 'best.json')
    if os.path.exists(path):
      self._best = read_json(path)
    self._evaluated = self._step = session.run(self._global_step)

  def after_run(self, run_context, run_values):
    self._step += 1
    if self._step % self._every_steps == 0:
      self._evaluate(run_context.session)
      since_best = (self._step - self._best['step']) // self._every_steps
      if self._early_stop and since_best >= self._early_stop:
        print(f'stopping early: {since_best} evaluations without a better mean IoU than '
              f'{self._best["mean_iou"]:.4f} (step {self._best["step"]})', flush=True)
        run_context.request_stop()

  def end(self, session):
    if self._log_hook.done and self._step != self._evaluated:  # who interrupts a run does not want to wait
      self._evaluate(session)

  def _evaluate(self, session):
    start = time.monotonic()
    matrix = np.zeros([self._dataset.num_classes] * 2, np.int64)
    session.run(self._iterator.initializer)
    with Progress(self._num_images, 'images', label=self._split, interval=60.0) as progress:
      while progress.done < self._num_images:
        labels, predictions = session.run(self._fetches)
        matrix += metrics.confusion_matrix(labels, predictions, self._dataset.num_classes)
        progress.update()
    result = metrics.scores(matrix)
    self._writer.add_summary(summaries.evaluation_summary(result, self._dataset.classes, self._split), self._step)
    self._writer.flush()
    self._evaluated = self._step
    better = result['mean_iou'] > self._best['mean_iou']
    print(f'step {self._step}  {self._split}: mean IoU {result["mean_iou"]:.4f}, pixel accuracy '
          f'{result["pixel_accuracy"]:.4f}' + (', the best so far' if better else ''), flush=True)
    if better:
      self._best = {'mean_iou': result['mean_iou'], 'step': int(self._step)}
      make_folder(self._folder)
      with _one_line_if_unwritable(self._step):
        self._saver.save(session, os.path.join(self._folder, 'model.ckpt'), global_step=self._step,
                         write_meta_graph=False)
      write_json(os.path.join(self._folder, 'best.json'), self._best)
    self._log_hook.pause(time.monotonic() - start)


def model_variables_and_step():
  """Variables that evaluation and inference need: the model's, moving averages of them, and the global step."""
  averages = [variable for variable in tf.global_variables() if variable.op.name.endswith(AVERAGE)]
  return tf.get_collection(tf.GraphKeys.MODEL_VARIABLES) + averages + [tf.train.get_global_step()]
