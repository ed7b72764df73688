"""Advice after an evaluation: what its confusion matrix says went wrong, and what usually helps."""

import numpy as np

from utils.errors import listed
from utils.evaluation.metrics import percent

TAKEN = 0.98  # share of all predictions above which a class has taken over
RARE = 0.01  # share of the truth below which a class is rare: the weights of classes matter then
LARGEST = 0.9  # share of the truth above which its largest class outweighs all others
LAG = 3  # times 1 / (1 - decay): steps after which a moving average has forgotten 95 % of its start


def advice(matrix, classes, *, flags=None, step=0, variables=None):
  """Names what is wrong with predictions, by classes.

  Args:
    matrix: int64 [C, C], see metrics.confusion_matrix: rows are the truth.
    classes: class names, index = label id.
    flags: dict of the run's flags, so that nothing is proposed that it has; None where they are unknown.
    step: training step of the weights; 0 where it is unknown.
    variables: names of the network's variables, by which it has batch norms or not; None where they are unknown.

  Returns:
    a list of lines.
  """
  truth, predicted = matrix.sum(axis=1), matrix.sum(axis=0)
  if not truth.any():
    return []
  if variables is not None and not has_norms(variables):
    step = 0  # there are no averages that lag
  shares, flags = truth / truth.sum(), flags or {}
  taken, never = _taken(matrix), np.flatnonzero((truth > 0) & (predicted == 0))
  lines = []
  if taken is not None:
    lines.append(f'{classes[taken]} takes {percent(predicted[taken] / predicted.sum())} % of the predictions and has '
                 f'{percent(shares[taken])} % of the true pixels; what usually helps: '
                 f'{", ".join(_against_one_class(shares[taken], flags, step))}')
  if never.size:
    names = listed(f'{classes[index]} ({percent(shares[index], 2)} % of the true pixels)' for index in never)
    helps = _against_never(shares[never], flags) if taken is None else []  # the line before says it
    lines.append(f'never predicted: {names}' + ('; what usually helps: ' + ', '.join(helps) if helps else ''))
  false = np.flatnonzero((truth == 0) & (predicted > 0))
  if false.size:
    names = listed(f'{classes[index]} ({predicted[index]} pixels)' for index in false)
    lines.append(f'predicted but nowhere in the truth, which counts as IoU 0 in the mean: {names}')
  return lines


def has_norms(names):
  """Whether a network has batch norms, by the names of its variables."""
  return any(name.endswith('/moving_mean') for name in names)


def _taken(matrix):
  """The class that takes more than TAKEN of the predictions, and most of the other classes' pixels; None without one.

  Where nearly all of the truth is one class, a good network predicts it as often; but it leaves others their pixels.
  """
  largest = int(np.argmax(matrix.sum(axis=0)))
  others = np.delete(matrix, largest, axis=0)
  takes_all = matrix[:, largest].sum() > TAKEN * matrix.sum()
  return largest if takes_all and 2 * others[:, largest].sum() > others.sum() else None


def _against_one_class(share, flags, step):
  """What helps against a class that takes all, by its share of the truth."""
  helps = _balancing(flags) if share > LARGEST else []
  if _averages_lag(flags, step):
    helps.append(f'--batch_norm_decay={max(0.5, round(1 - 10 / step, 2)):g} or more steps (after {step} steps the '
                 f'averages of batch norm with a decay of {flags["batch_norm_decay"]:g} still hold their first values)')
  rate = flags.get('learning_rate')
  helps.append(f'another --learning_rate{f" than {rate:g}" if rate else ""} (a tenth where the loss jumps, ten times '
               'where it hardly falls)')
  if flags.get('checkpoint') == 'none' and not flags.get('init_from'):
    helps.append('pretrained weights instead of --checkpoint=none, if the network has some')
  return [*helps, 'a look at the labels (python -m datasets.inspect)']


def _against_never(shares, flags):
  """What helps against classes that are never predicted, by their shares of the truth."""
  helps = ['more --max_steps', *_balancing(flags)]
  if shares.max() > RARE:  # a class of this size is learned early, unless something is wrong
    helps.append('a look at its labels (python -m datasets.inspect): does it look the same in train?')
  return helps


def _balancing(flags):
  """Flags against unbalanced classes that a run does not have yet."""
  helps = ['--class_weights=median_frequency'] if flags.get('class_weights', 'none') == 'none' else []
  return helps if 'lovasz' in (flags.get('loss') or '') else [*helps, '--loss=cross_entropy+lovasz']


def _averages_lag(flags, step):
  """Whether batch norm's moving averages cannot have left their first values yet."""
  decay = flags.get('batch_norm_decay')
  return bool(decay is not None and step and not flags.get('freeze_batch_norm')
              and step * (1 - decay) < LAG)
