"""Hooks that run between training steps: logging, saving, evaluating, stopping."""

import contextlib
import os
import signal
import sys
import time

import numpy as np

from utils.best import (
    BEST,
    METRIC,
    best_checkpoint,
    described,
    evaluated_step,
    no_better_since,
    note_evaluated,
    read_best,
    remove_others,
    replace_best,
    scored_on,
    steps_since,
)
from utils.compat import tf
from utils.errors import UserError, shown
from utils.evaluation.advice import advice
from utils.evaluation.scorer import Scorer
from utils.exits import TERMINATED, again, problem
from utils.limits import return_free_memory
from utils.progress import STEP_LINE, Progress, duration
from utils.runs import AVERAGE
from utils.training import summaries
from utils.training.replicas import Replicas
from utils.training.saving import write_checkpoint


class LogHook(tf.train.SessionRunHook):
  """Prints step, loss, learning rate, images/s and time left; stops the run at its last step.

  A loss that is not finite ends the run with a UserError. In bfloat16, oneDNN's weight gradient for AMX now and then
  returns NaN, since it multiplies zeros with uninitialized memory (seen with tensorflow 2.21:
  brgconv_bwd_w:avx10_1_512_amx, 3x3, SAME padding); in float16, a scale that is too large overflows (loss_scale.py).
  `step.make_step` skips such a step; this hook counts skipped steps and ends the run after too many in a row.

  Attributes:
    step: number of steps done; None before the session.
    done: whether the last step is reached.
  """

  def __init__(self, outputs, names_of, *, max_steps, batch_size, every_steps, writer, max_left_out=0):
    """Makes the fetches.

    Args:
      outputs: a step.StepOutputs.
      names_of: `names_of(step)`, list of the names of the records in the batch of a step, from 0; for messages.
      max_steps: the run's last step.
      batch_size: images per step.
      every_steps: steps between two lines; on a terminal, a line with a bar is redrawn instead.
      writer: tf.summary.FileWriter for the images/s; None to print and write nothing.
      max_left_out: number of skipped steps in a row (loss finite, gradient not) after which the run still goes on.
    """
    self._max_left_out, self._left_out, self._left_out_in_a_row = max_left_out, 0, 0
    self._step, self._weight_loss, self._names_of = tf.train.get_global_step(), outputs.weight_loss, names_of
    # What every step fetches is computed in every step: of the L2 loss, two kernels for each layer of the network.
    self._fetches = {'loss': outputs.loss, 'rate': outputs.learning_rate, 'gradient_norm': outputs.gradient_norm,
                     'scaling': outputs.scaling or {}}
    self._max_steps, self._batch_size, self._every_steps = max_steps, batch_size, every_steps
    self._writer = writer
    self.step = None
    self.done = False

  def after_create_session(self, session, coord):
    self.step = self._logged_step = session.run(self._step)
    self.done = self.step >= self._max_steps
    if self.done:  # what is left is the last evaluation
      coord.request_stop()
    self._time = time.monotonic()
    self._losses = []

  def pause(self, seconds):
    """Excludes `seconds` of other work than training from the images/s."""
    self._time += seconds

  def before_run(self, run_context):
    return tf.train.SessionRunArgs(self._fetches)

  def after_run(self, run_context, run_values):
    values = run_values.results
    self.step += 1
    self._refuse_not_finite(values, run_context.session)
    self._losses.append(values['loss'])
    self.done = self.step >= self._max_steps
    if self._writer and (self.done or self.step % self._every_steps == 0):
      self._log(values['rate'], values['scaling'])
    if self.done:
      run_context.request_stop()

  def _refuse_not_finite(self, values, session):
    finite_loss = np.isfinite(values['loss'])
    finite = finite_loss and np.isfinite(values['gradient_norm'])
    # A scaled run's count is in its checkpoints.
    self._left_out = int(values['scaling'].get('left_out', self._left_out + (not finite)))
    if finite:
      self._left_out_in_a_row = 0
      return
    self._left_out_in_a_row += 1
    if finite_loss and self._left_out_in_a_row <= self._max_left_out:
      return
    what = 'gradient' if finite_loss else 'loss'
    raise UserError(
        f'the {what} is not finite at step {self.step} (loss {values["loss"]}, L2 of the weights '
        f'{session.run(self._weight_loss)}, gradient norm {values["gradient_norm"]}), learning rate '
        f'{values["rate"]:.3g}, records {", ".join(map(shown, self._names_of(self.step - 1)))}; the last checkpoint is '
        'from before. '
        'A lower --learning_rate or --gradient_clip_norm may help')

  def _log(self, rate, scaling):
    now = time.monotonic()
    seconds = max(now - self._time, 1e-9)
    steps = self.step - self._logged_step
    speed = steps * self._batch_size / seconds
    left = (self._max_steps - self.step) * seconds / steps
    line = (f'{STEP_LINE}{self.step}/{self._max_steps}  loss {np.mean(self._losses):.4f}  learning rate {rate:.3g}  '
            f'{speed:.1f} images/s  {duration(left)} left')
    more = []
    if scaling:
      line += f'  loss scale {scaling["loss_scale"]:.0f}'
      more = [tf.Summary.Value(tag=f'training/{name}', simple_value=value) for name, value in scaling.items()]
    if self._left_out:
      line += f'  ({self._left_out} steps skipped)'
    if sys.stdout.isatty():
      filled = 20 * self.step // self._max_steps
      print(f'\r[{"#" * filled}{"." * (20 - filled)}] {line}   ', end='', flush=True)
    else:
      print(line, flush=True)
    self._writer.add_summary(
        tf.Summary(value=[tf.Summary.Value(tag='training/images_per_second', simple_value=speed), *more]), self.step)
    self._time, self._logged_step, self._losses = now, self.step, []

  def end(self, session):
    if self._writer and sys.stdout.isatty():
      print()


class SaveHook(tf.train.SessionRunHook):
  """Saves checkpoints at the start of a new run, at intervals and at the end.

  Checkpoints come without their .meta, a copy of the graph: the network's own code builds it. On a full disk, raises
  UserError; the older checkpoints are there.
  """

  def __init__(self, checkpoints, *, every_secs, writer, saved=None):
    """Makes the hook.

    Args:
      checkpoints: the saving.CheckpointFolder of the run.
      every_secs: seconds between two checkpoints.
      writer: tf.summary.FileWriter that tells TensorBoard where the run starts.
      saved: step of the run's own checkpoint that the session restores, whole; None if the start is to be saved.
    """
    self._saved, self._time = saved, time.monotonic()
    self._checkpoints = checkpoints
    self._every_secs, self._writer = every_secs, writer
    self._global_step = tf.train.get_global_step()

  def after_create_session(self, session, coord):
    if self._saved is None:
      self._save(session)
    # From its next step on, what a run wrote that was killed and is resumed here is out of date to TensorBoard.
    self._writer.add_session_log(tf.SessionLog(status=tf.SessionLog.START), self._saved + 1)

  def after_run(self, run_context, run_values):
    if time.monotonic() - self._time >= self._every_secs:
      self._save(run_context.session)

  def end(self, session):
    if session.run(self._global_step) != self._saved:
      self._save(session)

  def _save(self, session):
    step = session.run(self._global_step)
    with _one_line_if_unwritable(step):
      self._checkpoints.save(session, step)
    return_free_memory()
    self._saved, self._time = step, time.monotonic()
    self._writer.flush()  # by itself, it does so by the time of day, which may jump back


class SummaryHook(tf.train.SessionRunHook):
  """Writes summaries at intervals of steps.

  The interval is counted in the graph. A summary that is fetched at some steps alone, as by SummarySaverHook, makes two
  graphs of a step, each of which TensorFlow prepares for seconds at its first call.
  """

  def __init__(self, summarize, outputs, *, every_steps, writer):
    """Builds the summaries behind the training step.

    Args:
      summarize: `summarize()` builds the summaries: string scalar, a serialized Summary.
      outputs: the step.StepOutputs of the step.
      every_steps: steps between two summaries; the first is that of the run's first step.
      writer: tf.summary.FileWriter.
    """
    with tf.control_dependencies([outputs.loss]):
      step = tf.train.get_global_step().read_value()

    def tagged():
      with tf.name_scope(None):  # tags are names of ops, without `cond`
        return summarize()

    due = tf.equal((step - 1) % every_steps, 0)
    self._fetches = {'step': step, 'summary': tf.cond(due, tagged, lambda: tf.constant(b''))}
    self._writer = writer

  def before_run(self, run_context):
    return tf.train.SessionRunArgs(self._fetches)

  def after_run(self, run_context, run_values):
    if run_values.results['summary']:
      self._writer.add_summary(run_values.results['summary'], run_values.results['step'])


class WeightLossHook(tf.train.SessionRunHook):
  """Writes the L2 loss of the weights, and the total loss, at the steps that SummaryHook writes.

  It is computed by itself before such a step, so that other steps need not.
  """

  def __init__(self, outputs, *, every_steps, writer):
    """Makes the hook; the arguments are those of SummaryHook."""
    self._outputs, self._every_steps, self._writer = outputs, every_steps, writer
    self._global_step = tf.train.get_global_step()

  def after_create_session(self, session, coord):
    self._done = session.run(self._global_step)

  def before_run(self, run_context):
    self._weight_loss = None
    if self._done % self._every_steps == 0:
      self._weight_loss = run_context.session.run(self._outputs.weight_loss)
    return tf.train.SessionRunArgs(self._outputs.loss)

  def after_run(self, run_context, run_values):
    self._done += 1
    if self._weight_loss is not None:
      values = {'loss/weights_l2': self._weight_loss, 'loss/total': run_values.results + self._weight_loss}
      self._writer.add_summary(tf.Summary(
          value=[tf.Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]), self._done)


@contextlib.contextmanager
def _one_line_if_unwritable(step):
  """Turns a failure to write a checkpoint, inside the block, into a UserError."""
  try:
    yield
  except (tf.errors.OpError, OSError) as error:
    reason = problem(error) or str(error).splitlines()[0]
    raise UserError(f'cannot write the checkpoint of step {step}: {reason}; the checkpoints before it are whole; to go '
                    f'on, once that is mended: {again()}') from error


class StopOnInterruptHook(tf.train.SessionRunHook):
  """Ends the run after the step in progress at Ctrl-C or SIGTERM, so that it is saved; at a second signal, at once.

  A context manager around the session, which restores the earlier signal handlers however the session ends.

  Attributes:
    signal: number of the signal received; None if there was none.
  """

  def __init__(self):
    self.signal, self._previous = None, {}

  def __enter__(self):
    self._previous = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
    return self

  def __exit__(self, *exception):
    for number, handler in self._previous.items():
      signal.signal(number, handler)

  def _handle(self, number, frame):
    if self.signal is not None:
      raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(TERMINATED)
    self.signal = number
    print('\nstopping after this step; interrupt again to stop at once', file=sys.stderr, flush=True)

  def after_run(self, run_context, run_values):
    if self.signal is not None:
      run_context.request_stop()


class EvaluateHook(tf.train.SessionRunHook):
  """Evaluates a split every `every_steps` steps and at the end; keeps the checkpoint with the best mean IoU apart.

  best.json names checkpoint, split and metric; a score of another split is compared with nothing and replaces it. See
  utils/best.py.
  """

  def __init__(self, batches, logits_fn, *, dataset, split, num_images, every_steps, run_dir, writer, log_hook,
               early_stop=0, flags=None, replicas=Replicas(), summed=None):  # noqa: B008, the record is frozen
    """Builds the evaluation beside the training; its variables must exist already.

    Args:
      batches: tf.data.Dataset from pipeline.evaluation_batches, or this process's share of it.
      logits_fn: `logits_fn(images)` -> logits, in inference mode, with the training's variables.
      dataset: the Dataset.
      split: name of the split.
      num_images: number of images in the batches.
      every_steps: steps between two evaluations.
      run_dir: the run's folder; the best checkpoint and best.json go to its subfolder BEST.
      writer: tf.summary.FileWriter for the metrics; None to print, write and keep nothing.
      log_hook: the LogHook; its images/s exclude evaluations, and its `done` calls for the last one.
      early_stop: number of evaluations without a better mean IoU after which the run ends; 0 for never.
      flags: dict of the run's flags, for the advice at the end.
      replicas: the Replicas of this process, each of which labels images of its own.
      summed: `summed(session, matrix)` adds up the confusion matrices int64 [C, C] of all processes; None for one.
    """
    self._iterator = tf.data.make_initializable_iterator(batches)

    def on_replica():
      batch = self._iterator.get_next()
      return batch['name'], batch['label'], tf.argmax(logits_fn(batch['image']), axis=-1, output_type=tf.int32)

    # The fetches of one image for each replica.
    self._fetches = list(zip(*map(replicas.of_replicas, replicas.each(on_replica))))
    self._summed = summed or (lambda session, matrix: matrix)
    self._dataset, self._split, self._num_images = dataset, split, num_images
    self._every_steps, self._early_stop = every_steps, early_stop
    self._writer, self._log_hook, self._flags = writer, log_hook, flags
    self._matrix = None  # of the last evaluation
    self._folder = os.path.join(run_dir, BEST)
    self._saver = replicas.saver(model_variables_and_step()) if writer else None
    self._best = {METRIC: -1.0, 'step': 0}
    self._global_step = tf.train.get_global_step()

  def after_create_session(self, session, coord):
    self._step = session.run(self._global_step)
    self._evaluated = min(self._resume(), self._step)
    if self._step % self._every_steps == 0 and self._evaluated < self._step:  # it was killed before this was done
      self._evaluate_or_stop(session, coord)

  def _resume(self):
    """Takes over the best checkpoint of the run so far; one that is broken counts for nothing.

    Returns:
      the last step that was evaluated.
    """
    try:
      best, checkpoint = read_best(self._folder), best_checkpoint(self._folder)
    except UserError as error:
      print(f'warning: {error}; the next evaluation makes a new best checkpoint', file=sys.stderr, flush=True)
      return self._step
    if best is None or checkpoint is None:
      return 0
    is_comparable = scored_on(best, self._split)
    if is_comparable:
      self._best = best
    if self._writer:
      remove_others(self._folder, os.path.basename(checkpoint))  # leftovers of a crash
      later = 'a better one' if is_comparable else f'the best on {self._split}, which is not compared with it,'
      print(f'{shown(self._folder)} holds the checkpoint of step {best["step"]}, {described(best)}; {later} will '
            'replace it', flush=True)
    return evaluated_step(best, self._split, self._step)

  def after_run(self, run_context, run_values):
    self._step += 1
    if self._step % self._every_steps == 0:
      self._evaluate_or_stop(run_context.session, run_context)

  def _evaluate_or_stop(self, session, context):
    """Evaluates; asks `context` to end the run where it has not got better for long."""
    self._evaluate(session)
    reason = no_better_since(self._best, self._step, every_steps=self._every_steps, early_stop=self._early_stop)
    if reason:
      print(f'stopping early: {reason}', flush=True)
      context.request_stop()

  def end(self, session):
    if self._log_hook.done and self._step != self._evaluated:  # an interrupted run ends without waiting
      self._evaluate(session)
    if self._writer and self._matrix is not None and self._step == self._evaluated:
      for line in advice(self._matrix, self._dataset.classes, flags=self._flags, step=self._step,
                         variables=[variable.op.name for variable in tf.global_variables()]):
        print(f'advice: {line}', flush=True)

  def _evaluate(self, session):
    start = time.monotonic()
    scorer = Scorer(self._dataset.classes, where=self._split)
    session.run(self._iterator.initializer)
    with Progress(self._num_images, 'images', label=self._split, interval=60.0) as progress:
      while progress.done < self._num_images:
        left = self._num_images - progress.done  # no more replicas are asked than there are images
        for names, labels, predictions in session.run(self._fetches[:left]):
          for name, truth, prediction in zip(names, labels, predictions):
            scorer.add(os.fsdecode(name), truth, prediction)
            progress.update()
    scorer.matrix = self._summed(session, scorer.matrix)
    result, self._matrix = scorer.result(), scorer.matrix
    self._evaluated = self._step
    better = result[METRIC] > self._best[METRIC]
    if better:
      self._best = {'split': self._split, 'metric': METRIC, METRIC: result[METRIC], 'step': int(self._step),
                    'no_better': []}
    elif self._step > self._best['step']:  # else it is that of the best once more, after a crash
      before = steps_since(self._best, int(self._step) - 1, self._every_steps)
      self._best = {**self._best, 'no_better': [*before, int(self._step)]}
    if self._writer:
      self._report(session, result, better)
    self._log_hook.pause(time.monotonic() - start)

  def _report(self, session, result, better):
    """Writes and prints the scores, and keeps the weights if they are the best."""
    self._writer.add_summary(summaries.evaluation_summary(result, self._dataset.classes, self._split), self._step)
    self._writer.flush()
    print(f'step {self._step}  {self._split}: mean IoU {result["mean_iou"]:.4f}, pixel accuracy '
          f'{result["pixel_accuracy"]:.4f}' + (', the best so far' if better else ''), flush=True)
    if better:
      self._keep(session)
    elif 'split' in self._best:
      note_evaluated(self._folder, self._best, int(self._step))

  def _keep(self, session):
    """Saves the weights as the best checkpoint."""

    def save(name):
      with _one_line_if_unwritable(self._step):
        write_checkpoint(self._folder, self._saver, session, name)

    self._best = replace_best(self._folder, {**self._best, 'evaluated': int(self._step)}, save)


def model_variables_and_step():
  """List of the variables that evaluation and inference need: model variables, moving averages, the global step."""
  averages = [variable for variable in tf.global_variables() if variable.op.name.endswith(AVERAGE)]
  return tf.get_collection(tf.GraphKeys.MODEL_VARIABLES) + averages + [tf.train.get_global_step()]
