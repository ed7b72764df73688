"""Initial weights of a run, from the first of these sources that exists.

1. The run's own newest checkpoint in --run_dir: the run is resumed, with its step, its optimizer and its place in the
   shuffled data. tf.train.Scaffold restores it, and calls no `init_fn`; but where the run goes on in float16 and was
   in another precision before, the `init_fn` restores all but the scale of the loss.
2. The checkpoint of another run, --init_from: moving averages if the run has them, since these were evaluated. Layers
   that only the new network has keep their initial values.
3. A pretrained checkpoint, --checkpoint or by default the network's ImageNet weights: it fills the backbone. What it
   lacks of the network's `optional_scopes` is new. It may be that of another run, as for --init_from.
4. The random initial values (--checkpoint=none, or a network without pretrained weights).
"""

import math
import os

import checkpoints
from datasets.inputs import Input
from utils import runs
from utils.checkpoint_files import folder_named, newest_checkpoint, open_checkpoint, without_suffix
from utils.compat import slim, tf
from utils.errors import UserError, listed, shown
from utils.packages import CONFIG, is_package
from utils.training import loss_scale, warm_start

LAGGING = 0.05  # share of their start in batch norm's averages from which scores are clearly too low


def absent_scopes(settings, network):
  """The network's optional scopes that the pretrained checkpoint has nothing of, and which are therefore new layers.

  Args:
    settings: a training.settings.Start, of a new run.
    network: the Network.

  Returns:
    tuple of str.

  Raises:
    UserError: if the checkpoint is missing or cannot be read.
  """
  if not network.optional_scopes or settings.init_from or settings.checkpoint in (None, 'none'):
    return ()  # slim's own checkpoints are whole
  there = open_checkpoint(_given(settings.checkpoint)).get_variable_to_shape_map()
  return tuple(scope for scope in network.optional_scopes if not any(f'{name}/'.startswith(f'{scope}/')
                                                                     for name in there))


def run_of(settings):
  """The runs.Run that --init_from names, or --checkpoint if that is a run's; None without one.

  Args:
    settings: a training.settings.Start.

  Raises:
    UserError: if --init_from names none.
  """
  if settings.init_from:
    return runs.load_run(settings.init_from, flag='init_from')
  path = settings.checkpoint
  if path in (None, 'none'):
    return None
  folder = folder_named(path) or os.path.dirname(path) or '.'
  if not is_package(path) and not any(
      os.path.exists(os.path.join(place, CONFIG)) for place in (folder, os.path.join(folder, '..'))):
    return None  # as of the ImageNet weights, without reading all of them
  try:
    return runs.load_run(path, flag='checkpoint')
  except UserError:  # pretrained weights, or broken ones: `choose` says what is wrong with them
    return None


def choose(settings, network, *, resumed, start_step, seen=Input(), absent=(), classes=()):  # noqa: B008, it is frozen
  """Chooses the source of the initial weights and prints it.

  Args:
    settings: a training.settings.Start.
    network: the Network; its graph is built already.
    resumed: prefix of the run's own newest checkpoint, or None.
    start_step: step of this checkpoint.
    seen: the Input of the network.
    absent: `absent_scopes`, which keep their initial values.
    classes: class names of the dataset, index = label id.

  Returns:
    `(init_fn, names)`: `init_fn(scaffold, session)` for tf.train.Scaffold, None if the weights are random, or the run's
    own and its checkpoint is whole; and the names of the variables that come from other weights.

  Raises:
    UserError: if the checkpoint is missing, cannot be downloaded, or does not fit the network or its bands.
  """
  if resumed:
    print(f'resumed at step {start_step} from {shown(resumed)}', flush=True)
    return warm_start.restore_without(resumed, loss_scale.SCOPE), []
  if settings.init_from:
    run = run_of(settings)
    _compare_bands(run, seen, f'--init_from={settings.init_from}')
    _say_if_other_classes(run, classes)
    init_fn, names, new_names = warm_start.restore_from_run(run.checkpoint)
    print(warm_start.start_line(names, run.checkpoint) + f'; new: {", ".join(new_names) or "none"}', flush=True)
    return init_fn, names
  if settings.checkpoint == 'none' or not (settings.checkpoint or network.pretrained):
    print('started from scratch: all weights are random', flush=True)
    return None, []
  path = _given(settings.checkpoint) if settings.checkpoint else checkpoints.pretrained_checkpoint(network.pretrained)
  makes_kernels = _makes_kernels(settings, seen)
  init_fn, names = warm_start.restore_pretrained(
      path, network.pretrained_scopes, (*settings.checkpoint_exclude_scopes, *absent),
      colors=seen.colors if makes_kernels else warm_start.RGB)
  print(warm_start.start_line(names, path) + (f'; new, being not in it: {listed(absent, 8)}' if absent else ''),
        flush=True)
  if makes_kernels and (seen.colors != warm_start.RGB or seen.bands):
    print(warm_start.bands_line(seen.names, seen.colors), flush=True)
  return init_fn, names


def _makes_kernels(settings, seen):
  """Whether the first kernels are to be made of those of a photograph: not of a run's that saw other bands, as many.

  Raises:
    UserError: if it saw the same bands in another order.
  """
  run = run_of(settings)
  there = Input.from_config(run.config) if run else Input()
  if there.is_photograph or len(there.names) != len(seen.names):
    return True
  _compare_bands(run, seen, f'--checkpoint={settings.checkpoint}')
  return False


def _compare_bands(run, seen, given):
  """Compares the bands that a run saw with those that are to take their places, and says if they are others.

  Args:
    run: the runs.Run that is started from.
    seen: the Input of the network.
    given: the flag that names the run.

  Raises:
    UserError: if they are the same in another order.
  """
  there, here = Input.from_config(run.config).names, seen.names
  if there == here or len(there) != len(here):  # another number does not fit the first kernels, which says so
    return
  if {*there} == {*here}:
    raise UserError(f'{given} saw the bands {", ".join(there)}, and here they are in another order: '
                    f'{", ".join(here)}; --bands={",".join(there)} has them in its order')
  print(f'note: {shown(run.folder)} saw other bands: its {listed(there, 20)} are here {listed(here, 20)}', flush=True)


def _say_if_other_classes(run, classes):
  """Prints a note if scores of a run's classes become those of others; another number of classes does not fit."""
  other = [f'{there} is here {here}' for there, here in zip(run.classes, classes) if there != here]
  if other and len(run.classes) == len(classes):
    print(f'note: {shown(run.folder)} was trained on other classes, whose scores start as those of these: '
          f'{listed(other)}', flush=True)


def _given(path):
  """Prefix of the checkpoint that --checkpoint names. Raises UserError if it is a folder without a whole one."""
  folder = folder_named(path)
  prefix = newest_checkpoint(folder) if folder else without_suffix(path)
  if prefix is None:
    raise UserError(f'--checkpoint={path}: no checkpoint in this folder')
  return prefix


def learns_new_averages(names):
  """Whether batch norms of the default graph learn moving averages that are in none of the variables `names`."""
  learned = tf.get_collection(tf.GraphKeys.UPDATE_OPS) and slim.get_model_variables(suffix='moving_mean')
  return any(variable.op.name not in names for variable in learned)


def say_if_averages_lag(decay, schedule):
  """Prints a hint where batch norm's moving averages, learned from scratch, will not have left their start behind.

  Args:
    decay: decay of the averages in one update; each part of a step makes one.
    schedule: a training.settings.Schedule.
  """
  updates = schedule.max_steps * schedule.gradient_accumulation
  share = decay**updates
  if share <= LAGGING:
    return
  better = math.floor(100 * LAGGING**(1 / updates)) / 100
  enough = f'--max_steps={math.ceil(math.log(LAGGING, decay) / schedule.gradient_accumulation)}' if decay < 1 else ''
  print(f'note: batch norm is evaluated with averages of which {share:.0%} will still be their start after '
        f'{schedule.max_steps} steps, so that scores will lag behind what is learned; '
        f'{" or ".join(filter(None, (f"--batch_norm_decay={better:g}", enough)))} helps', flush=True)


def overview(gradients, learning_rate, factor):
  """Table by outermost scope: number of parameters, number of trained parameters, learning rates of these.

  Args:
    gradients: list of (gradient, variable): the trained variables.
    learning_rate: highest learning rate of the run.
    factor: `factor(name)`, the factor on a variable's learning rate, see step.rate_factor.

  Returns:
    str of several lines. Trainable variables are counted; moving averages are not.
  """
  trained = [variable for _, variable in gradients]
  scopes = {}
  for variable in tf.trainable_variables():
    scopes.setdefault(variable.op.name.split('/')[0], []).append(variable)
  rows = [('scope', 'parameters', 'trained', 'learning rate')]
  for scope, variables in scopes.items():
    learning = [variable for variable in variables if variable in trained]
    rates = sorted({learning_rate * factor(variable.op.name) for variable in learning})
    rows.append((scope, _count(variables), _count(learning), ' to '.join(f'{rate:.3g}' for rate in rates) or '-'))
  rows.append(('all', _count(sum(scopes.values(), [])), _count(trained), ''))
  widths = [max(map(len, column)) for column in zip(*rows)]
  return '\n'.join(f'{row[0]:{widths[0]}}  ' + '  '.join(f'{cell:>{width}}' for cell, width in zip(row[1:], widths[1:]))
                   for row in rows)


def _count(variables):
  return f'{sum(variable.shape.num_elements() for variable in variables):,}'
