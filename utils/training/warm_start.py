"""Restoring other weights: slim's ImageNet checkpoints by scope, or another run's, as a coarser FCN's.

Both are strict: if variables to be filled are missing in the checkpoint, or have another shape there, a UserError lists
them all. A variable keeps its initial value only if `exclude_scopes` or `new_scopes` names it.

A network that sees other bands than red, green and blue gets its first convolution from ImageNet's all the same, see
`inflated`.
"""

import os

import numpy as np

from datasets.reading import COLORS, colors_of
from utils.checkpoint_files import RestoringAlone, open_checkpoint, read_tensors
from utils.compat import slim, tf
from utils.errors import UserError, listed, shown
from utils.files import tensorflow_path
from utils.packages import is_package
from utils.runs import AVERAGE

RGB = (0, 1, 2)  # colors of the bands of a photograph
_LISTED = 20  # names listed by an error, which only counts the others


def restore_pretrained(path, scopes, exclude_scopes=(), variables=None, colors=RGB):
  """Fills the model variables under `scopes` from a checkpoint that has them under the same names.

  Args:
    path: checkpoint in slim's old single-file format (V1), or prefix of a V2 checkpoint. Other tensors in it
      (classifier, `global_step`, optimizer slots) are ignored.
    scopes: variable scopes to fill, e.g. ('InceptionV3',). Weights with moving averages are filled with these.
    exclude_scopes: scopes or full variable names under `scopes` that keep their initial values.
    variables: model variables, without optimizer slots and `global_step`; by default slim.get_model_variables(). Call
      this after the network is built and before the graph is finalized: it adds restore ops.
    colors: for each band of the network's images 0, 1 or 2 if it is red, green or blue, else None; by default those of
      photographs.

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
  first = {} if colors == RGB else _first_kernels(reader, wanted, len(colors))
  others = {name: variable for name, variable in wanted.items() if name not in first}
  _require_all(path, missing=_missing(reader, wanted), misshaped=_misshaped(reader, others))
  stored = _stored(reader, wanted)
  restore = _init_fn(path, {stored[name]: variable for name, variable in others.items()})

  def init_fn(scaffold, session):
    restore(scaffold, session)
    kernels = read_tensors(path, [stored[name] for name in first])
    _load(session, _for_bands({name: kernels[stored[name]] for name in first}, colors), first)

  return init_fn, sorted(wanted)


def _first_kernels(reader, variables, num_bands):
  """The kernels of the layer that sees the images: dict of name -> variable, of those of `variables`.

  It is the layer that sees three channels in the checkpoint; of a separable convolution, both kernels.
  """
  shapes = reader.get_variable_to_shape_map()
  layers = {os.path.dirname(name) for name in variables if tuple(shapes.get(name, ()))[2:3] == (len(RGB),)}
  found = {}
  for name, variable in variables.items():
    there = list(shapes.get(name, ()))
    if os.path.dirname(name) in layers and len(there) == 4:
      there[2] = there[2] // len(RGB) * num_bands
      if there == variable.shape.as_list():
        found[name] = variable
  return found


def _for_bands(kernels, colors):
  """Inflates the kernels of `_first_kernels`: dict of name -> array.

  The two kernels of a separable convolution are made one, inflated, and taken apart again as well as the filters of a
  band can (the nearest matrix of their rank): exactly for bands of their own color.
  """
  names = {os.path.basename(name): name for name in kernels}
  if set(names) != {'depthwise_weights', 'pointwise_weights'}:
    return {name: inflated(kernel, colors) for name, kernel in kernels.items()}
  depthwise, pointwise = (kernels[names[key]] for key in ('depthwise_weights', 'pointwise_weights'))
  height, width, _, filters = depthwise.shape  # [h, w, 3, M]; pointwise: [1, 1, 3 M, C]
  whole = inflated(np.einsum('hwbm,bmc->hwbc', depthwise, pointwise.reshape(len(RGB), filters, -1)), colors)
  left, sizes, right = np.linalg.svd(whole.transpose(2, 0, 1, 3).reshape(len(colors), height * width, -1),
                                     full_matrices=False)
  roots = np.sqrt(sizes[:, np.newaxis, :filters])
  left = (left[..., :filters] * roots).reshape(len(colors), height, width, filters).transpose(1, 2, 0, 3)
  right = (right[:, :filters] * roots.transpose(0, 2, 1)).reshape(1, 1, len(colors) * filters, -1)
  return {names['depthwise_weights']: left, names['pointwise_weights']: right}


def _own_colors(colors):
  """The colors whose kernels bands take: none if all of one or two bands are colors, for none could take the rest."""
  return (None,) * len(colors) if len(colors) < len(RGB) and None not in colors else tuple(colors)


def inflated(kernel, colors):
  """Makes the kernel of a first convolution for other bands than red, green and blue.

  Bands that are red, green or blue take their own kernels and all others share what is left: the mean of the three,
  where all three or none are among the bands. Then all are multiplied by 3 / N. So the sum over the bands stays as it
  is, and where all bands show the same, activations are exactly those of a gray photograph. Bands of one scene are so
  much alike that this keeps the activations' size, where the factor for independent inputs, sqrt(3 / N), would not:
  Carreira and Zisserman, "Quo Vadis, Action Recognition?", CVPR 2017, section 3.1, inflate kernels over frames by the
  same rule. A filter between colors, whose three kernels cancel each other, would answer to brightness if one of them
  were left out; hence the sharing.

  Args:
    kernel: float [h, w, 3, C], of red, green and blue.
    colors: for each of N bands 0, 1 or 2 if it is red, green or blue, each at most once, else None.

  Returns:
    float32 [h, w, N, C].
  """
  colors = _own_colors(colors)
  known, scale = [color for color in colors if color is not None], len(RGB) / len(colors)
  rest = kernel.sum(axis=2) / scale - kernel[:, :, known].sum(axis=2)
  rest = rest / max(len(colors) - len(known), 1)
  return np.stack([rest if color is None else kernel[:, :, color] for color in colors], axis=2).astype(
      np.float32) * np.float32(scale)


def bands_line(names, colors):
  """Line about the kernels that bands get.

  Args:
    names: names of the bands.
    colors: see `inflated`.

  Returns:
    'first kernels of 4 bands: red, green, blue their own; nir the mean of the three colors; all times 0.75'.
  """
  colors = _own_colors(colors)
  own = [name if named == color else f'{name} as {COLORS[color]}'
         for name, named, color in zip(names, colors_of(names), colors) if color is not None]
  others = [name for name, color in zip(names, colors) if color is None]
  rest = 'the mean of the three colors' if len(own) in (0, len(RGB)) else 'their share of what is left'
  parts = [f'{", ".join(own)} their own'] * bool(own) + [f'{listed(others, 8)} {rest}'] * bool(others)
  return f'first kernels of {len(names)} bands: {"; ".join(parts)}; all times {len(RGB) / len(names):.3g}'


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
  stored = _stored(reader, wanted)
  return _init_fn(prefix, {stored[name]: wanted[name] for name in wanted}), sorted(wanted), new_names


def start_line(names, path):
  """Line about the source of the weights, e.g. 'warm-started 376 variables under InceptionV3 from PATH'."""
  tops = ', '.join(sorted({name.split('/')[0] for name in names}))
  return f'warm-started {len(names)} variables under {tops or "no scope"} from {shown(path)}'


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


def _stored(reader, names):
  """Dict from names of variables to those of their values in a checkpoint: of the moving averages where it has them,
  since these were evaluated."""
  return {name: name + AVERAGE if reader.has_tensor(name + AVERAGE) else name for name in names}


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


def restore_without(path, scope):
  """Restores a checkpoint of a whole run where it may lack the variables of a scope, which keep their initial values.

  Args:
    path: prefix of the checkpoint's files.
    scope: outermost variable scope.

  Returns:
    `init_fn(scaffold, session)`, as tf.train.Scaffold calls it; None if the checkpoint lacks none of these variables.
  """
  variables = _by_name(tf.global_variables())
  there = open_checkpoint(path).get_variable_to_shape_map()
  lacking = {name for name in variables if name.startswith(f'{scope}/') and name not in there}
  if not lacking:
    return None
  return _init_fn(path, {name: variable for name, variable in variables.items() if name not in lacking})


def with_averages(init_fn, averages, variables):
  """Lets moving averages begin with restored weights: by themselves, they begin with those from before the restore.

  Args:
    init_fn: as of `restore_pretrained`.
    averages: the tf.train.ExponentialMovingAverage of the weights.
    variables: list of the weights that it averages.

  Returns:
    an `init_fn` that sets the averages as well.
  """
  begin = tf.group(*[average.assign(weights) for variable in variables for average, weights in zip(
      _copies(averages.average(variable)), _copies(variable))])

  def both(scaffold, session):
    init_fn(scaffold, session)
    session.run(begin)

  return both


def _copies(variable):
  """Tuple of the copies of a variable on the devices of this process, see replicas.py; itself on one device."""
  return tf.distribute.get_strategy().experimental_local_results(variable)


def _load(session, values, variables):
  """Sets variables (name -> variable) to arrays (name -> array), in one call."""
  copies = {copy: values[name] for name, variable in variables.items() for copy in _copies(variable)}
  session.run([copy.initializer for copy in copies],
              {copy.initializer.inputs[1]: value for copy, value in copies.items()})


def _init_fn(path, variables):
  """Adds the restore ops for `variables` (name in the file -> variable); returns `init_fn(scaffold, session)`."""
  if is_package(path):
    return lambda scaffold, session: _load(session, read_tensors(path, variables), variables)
  copies = list(zip(*map(_copies, variables.values())))  # each with a variable for each name
  savers = [tf.train.Saver(dict(zip(variables, copy)), name='warm_start', builder=RestoringAlone()) for copy in copies]

  def init_fn(scaffold, session):
    del scaffold
    try:
      for saver in savers:
        saver.restore(session, tensorflow_path(path))
    except (tf.errors.OutOfRangeError, tf.errors.DataLossError, tf.errors.NotFoundError, ValueError) as error:
      raise UserError(f'checkpoint {path} cannot be read, it is truncated or damaged '
                      f'({type(error).__name__})') from error

  return init_fn
