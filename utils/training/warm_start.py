"""Restoring other weights: slim's ImageNet checkpoints by scope, or another run's, as a coarser FCN's.

Both are strict: if variables to be filled are missing in the checkpoint, or have another shape there, a UserError lists
them all. A variable keeps its initial value only if `exclude_scopes` or `new_scopes` names it.
"""

import os

from utils.compat import slim, tf
from utils.errors import UserError, listed
from utils.runs import AVERAGE, open_checkpoint

_LISTED = 20  # names listed by an error, which only counts the others


def restore_pretrained(path, scopes, exclude_scopes=(), variables=None):
  """Fills the model variables under `scopes` from a checkpoint that has them under the same names.

  Args:
    path: checkpoint in slim's old single-file format (V1), or prefix of a V2 checkpoint. Other tensors in it
      (classifier, `global_step`, optimizer slots) are ignored.
    scopes: variable scopes to fill, e.g. ('InceptionV3',).
    exclude_scopes: scopes or full variable names under `scopes` that keep their initial values.
    variables: model variables, without optimizer slots and `global_step`; by default slim.get_model_variables(). Call
      this after the network is built and before the graph is finalized: it adds restore ops.

  Returns:
    `(init_fn, names)`: `init_fn(scaffold, session)`, as tf.train.Scaffold calls it, and the sorted names of the
    variables that it fills. `init_fn` raises UserError if the values are damaged.

  Raises:
    UserError: if the checkpoint is missing or unreadable, a scope matches no variable, or a variable is missing in it
      or has another shape or type there; the message lists them.
  """
  reader = open_checkpoint(path)
  wanted = _by_name(slim.get_model_variables() if variables is None else variables)
  _require_matches(scopes, wanted, 'scopes of the pretrained weights')
  wanted = {name: variable for name, variable in wanted.items() if _is_under(name, scopes)}
  _require_matches(exclude_scopes, wanted, '--checkpoint_exclude_scopes')
  wanted = {name: variable for name, variable in wanted.items() if not _is_under(name, exclude_scopes)}
  _require_all(path, missing=_missing(reader, wanted), misshaped=_misshaped(reader, wanted))
  return _init_fn(path, wanted), sorted(wanted)


def restore_from_run(prefix, variables=None, new_scopes=('fcn',)):
  """Fills a network from another run, as a finer FCN from a coarser one: 16s from 32s (FCN paper, section 4.3).

  Every model variable of the run must have its place in the new graph. Variables that only the new graph has keep their
  initial values, if they belong to `new_scopes`. Weights with moving averages are filled with these, which evaluation
  uses. The step and the optimizer's state are not restored.

  Args:
    prefix: the run's checkpoint, e.g. `utils.runs.load_run('runs/voc-32s').checkpoint`.
    variables: the new graph's model variables; by default slim.get_model_variables(). See restore_pretrained.
    new_scopes: scopes (or full variable names) of the layers that the new graph may have beyond the run's.

  Returns:
    `(init_fn, names, new_names)`: as restore_pretrained, and the sorted names of the variables that keep their initial
    values.

  Raises:
    UserError: as restore_pretrained, or if the run has a model variable that the new graph lacks.
  """
  reader = open_checkpoint(prefix)
  graph = _by_name(slim.get_model_variables() if variables is None else variables)
  missing = _missing(reader, graph)
  new_names = [name for name in missing if _is_under(name, new_scopes)]
  wanted = {name: variable for name, variable in graph.items() if name not in missing}
  tops = sorted({name.split('/')[0] for name in graph})
  unplaced = [name for name in _model_variables(reader) if _is_under(name, tops) and name not in graph]
  _require_all(prefix, missing=[name for name in missing if name not in new_names],
               misshaped=_misshaped(reader, wanted), unplaced=unplaced)
  if not wanted:
    raise UserError(f'{prefix} holds none of this network\'s variables')
  stored = {name: name + AVERAGE if reader.has_tensor(name + AVERAGE) else name for name in wanted}
  return _init_fn(prefix, {stored[name]: wanted[name] for name in wanted}), sorted(wanted), new_names


def start_line(names, path):
  """Line about the source of the weights, e.g. 'warm-started 376 variables under InceptionV3 from PATH'."""
  tops = ', '.join(sorted({name.split('/')[0] for name in names}))
  return f'warm-started {len(names)} variables under {tops or "no scope"} from {path}'


def _by_name(variables):
  return {variable.op.name: variable for variable in variables}


def _is_under(name, scopes):
  return any(name == scope.rstrip('/') or name.startswith(scope.rstrip('/') + '/') for scope in scopes)


def _require_matches(scopes, variables, what):
  """Raises UserError if a scope matches none of `variables`, listing the known scopes."""
  unmatched = [scope for scope in scopes if not any(_is_under(name, (scope,)) for name in variables)]
  if unmatched:
    known = sorted({'/'.join(name.split('/')[:depth]) for name in variables for depth in (1, 2)})
    raise UserError(f'{what}: no variable is under {", ".join(map(repr, unmatched))}; there are '
                    f'{", ".join(known) or "no variables"}')


def _missing(reader, variables):
  """Sorted names of `variables` that the checkpoint does not hold."""
  return sorted(name for name in variables if not reader.has_tensor(name))


def _misshaped(reader, variables):
  """Sorted lines about the `variables` that have another shape or type in the checkpoint."""
  shapes, types = reader.get_variable_to_shape_map(), reader.get_variable_to_dtype_map()
  lines = []
  for name, variable in sorted(variables.items()):
    if name not in shapes:
      continue
    there, here = list(shapes[name]), variable.shape.as_list()
    if there != here:
      lines.append(f'{name} (there {there}, here {here})')
    elif types[name] != variable.dtype.base_dtype:
      lines.append(f'{name} (there {types[name].name}, here {variable.dtype.base_dtype.name})')
  return lines


def _model_variables(reader):
  """Sorted names in a checkpoint, without optimizer slots, which are named after their variable, `NAME/Adam`."""
  names = set(reader.get_variable_to_shape_map())
  return sorted(name for name in names if os.path.dirname(name) not in names)


def _require_all(path, **problems):
  """Raises UserError listing every name in `problems` (missing, misshaped, unplaced), unless all are empty."""
  verdicts = {'missing': 'not in it', 'misshaped': 'with another shape or type', 'unplaced': 'not in this network'}
  parts = []
  for kind, names in problems.items():
    if names:
      parts.append(f'{len(names)} {verdicts[kind]}: {listed(names, _LISTED)}')
  if parts:
    raise UserError(f'checkpoint {path} does not fit this network; variables {"; ".join(parts)}')


def _init_fn(path, variables):
  """Adds the restore ops for `variables` (name in the file -> variable); returns `init_fn(scaffold, session)`."""
  saver = tf.train.Saver(variables, name='warm_start') if variables else None

  def init_fn(scaffold, session):
    del scaffold
    try:
      if saver is not None:
        saver.restore(session, path)
    except (tf.errors.OutOfRangeError, tf.errors.DataLossError, tf.errors.NotFoundError, ValueError) as error:
      raise UserError(f'checkpoint {path} cannot be read, it is truncated or damaged '
                      f'({type(error).__name__})') from error

  return init_fn
