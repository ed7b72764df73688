"""A training step compiled by XLA: its ops without state become one function of the batch and the weights."""

import collections
import contextlib
import re
import time

from utils.compat import tf
from utils.errors import UserError
from utils.labels import IGNORE_LABEL

SCOPE = 'xla'
_BARRIER = '^barrier'
_CONTROL_FLOW = ('Switch', 'Merge', 'Enter', 'Exit', 'NextIteration', 'LoopCond')
_NUMBERS = (tf.bool, tf.uint8, tf.int32, tf.int64, tf.uint32, tf.uint64,
            tf.float16, tf.bfloat16, tf.float32, tf.float64)

# What becomes of the ops that a step depends on. All others stay as they are, and run before the function.
_Split = collections.namedtuple('_Split', [
    'inside',  # list of the ops for XLA: without state, and before all of `after`
    'after',  # list of the ops that need a result of these
    'checks',  # list of the Assert ops before `after`
    'reads',  # dict from the name of a value, read before any write, to the VarHandleOp of the variable
    'writers',  # dict from the name of any other read to the name of the op that wrote last
])


def compiled(fetches):
  """Has XLA compile what tensors depend on, up to the first ops that change variables.

  The ops without state are copied into one function, which is compiled as a whole at its first call. The ops after it,
  as those that change variables, are copied to use its results, and read and write a variable in the order in which
  they were made. Checks (Assert) run before, outside. To TensorFlow's graph optimizer, which rewrites for mixed
  precision, the function is a graph like any other.

  Args:
    fetches: nest of tensors of a graph with static shapes; what is no tensor stays as it is.

  Returns:
    the nest, with tensors of the same values.

  Raises:
    UserError: if the ops are placed on several devices.
  """
  tensors = [leaf for leaf in tf.nest.flatten(fetches) if isinstance(leaf, tf.Tensor)]
  split = _split(_ancestors(tensors))
  devices = {op.device for op in split.inside if op.device and op.type != 'Const'}
  if len(devices) > 1:
    raise UserError(f'--xla=on: the step is on several devices ({", ".join(sorted(devices))}); use --xla=off')
  inside, after = set(split.inside), set(split.after)
  nodes = {node.name: node for node in tensors[0].graph.as_graph_def().node}
  for name, writer in split.writers.items():
    nodes[name].input.append(f'^{writer}')
  values = _read_anew(split.reads)
  results = {tensor.name for tensor in (*_inputs(split.after), *tensors)
             if tensor.op in inside and tensor.op.type != 'Const'}
  with tf.control_dependencies([*split.checks, *_waited_for(split.inside, inside)]):
    values |= _call(split.inside, nodes, values, sorted(results))
  with tf.control_dependencies([values[name] for name in results] + list(_waited_for(split.after, inside | after))):
    barrier = tf.constant(True)
  values |= _copied(split.after, nodes, values, [tensor.name for tensor in tensors if tensor.op in after],
                    barrier=barrier)
  return tf.nest.map_structure(
      lambda leaf: values.get(leaf.name, leaf) if isinstance(leaf, tf.Tensor) else leaf, fetches)


def _inputs(ops):
  """The tensors that ops have as inputs, a list."""
  return [tensor for op in ops for tensor in op.inputs]


def _waited_for(ops, others):
  """The ops, a set without reads of variables, that `ops` wait for and that are not among the `others`."""
  return {source for op in ops for source in op.control_inputs if source.type != 'ReadVariableOp'} - others


def _ancestors(tensors):
  """All ops that tensors depend on, a list in the order in which they were made."""
  found, todo = set(), [tensor.op for tensor in tensors]
  while todo:
    op = todo.pop()
    if op not in found:
      found.add(op)
      todo.extend([*(tensor.op for tensor in op.inputs), *op.control_inputs])
  return [op for op in tensors[0].graph.get_operations() if op in found]


def _split(ops):
  """Splits ops, in the order in which they were made, into a _Split."""
  split, inside, after, written = _Split([], [], [], {}, {}), set(), set(), {}
  for op in ops:
    sources = {*(tensor.op for tensor in op.inputs), *op.control_inputs}
    variables = [_variable(tensor) for tensor in op.inputs if tensor.dtype == tf.resource]
    if op.type == 'ReadVariableOp':
      name, variable = op.outputs[0].name, variables[0]
      if variable not in written:
        split.reads[name] = variable  # whatever else it waits for cannot change the value
        continue
      split.writers[op.name] = written[variable].name
    else:
      written |= dict.fromkeys(variables, op)
    if sources & after:
      after.add(op)
      split.after.append(op)
    elif op.type == 'Assert':
      split.checks.append(op)
    elif _is_pure(op):
      inside.add(op)
      split.inside.append(op)
    elif any(source.type != 'Const' for source in sources & inside):
      after.add(op)
      split.after.append(op)
  return split


def _variable(handle):
  """The op that makes a resource tensor, before the switches of a tf.cond."""
  while handle.op.type in ('Switch', 'Identity'):
    handle = handle.op.inputs[0]
  return handle.op


def _is_pure(op):
  """Whether an op computes numbers from its inputs alone."""
  return not op.op_def.is_stateful and op.type not in _CONTROL_FLOW and not op.type.startswith('Placeholder') and all(
      tensor.dtype in _NUMBERS for tensor in (*op.inputs, *op.outputs))


def _read_anew(reads):
  """Reads each variable once, without waiting for anything: a dict from the names in `reads` to the values."""
  values = {}
  for name, variable in reads.items():
    if variable not in values:
      values[variable] = tf.raw_ops.ReadVariableOp(
          resource=variable.outputs[0], dtype=variable.graph.get_tensor_by_name(name).dtype)
  return {name: values[variable] for name, variable in reads.items()}


def _call(ops, nodes, values, results):
  """Calls the compiled function of ops; arguments and result are those of `_copied`."""
  inside = set(ops)
  inputs = {tensor.name: values.get(tensor.name, tensor) for tensor in _inputs(ops) if tensor.op not in inside}

  @tf.function(jit_compile=True, autograph=False)
  def step(*arguments):
    copies = _copied(ops, nodes, dict(zip(inputs, arguments)), results)
    return [copies[name] for name in results]

  return dict(zip(results, step(*inputs.values())))


def _copied(ops, nodes, values, results, barrier=None):
  """Copies ops into the default graph.

  Args:
    ops: list of the ops.
    nodes: dict from the names of ops to their NodeDefs.
    values: dict from names of tensors that the ops use to the tensors that the copies use instead.
    results: list of the names of tensors whose copies are wanted.
    barrier: tensor that copies wait for where an op waits for an op that is not copied; None for nothing.

  Returns:
    dict from `results` to the copies.
  """
  own, graph = {op.name for op in ops}, tf.GraphDef()
  used = {tensor.name: values.get(tensor.name, tensor) for tensor in _inputs(ops) if tensor.op.name not in own}
  for op in ops:
    node = graph.node.add()
    node.CopyFrom(nodes[op.name])
    node.attr.pop('_class', None)  # colocation with ops that are not copied
    inputs = [name for name in node.input if name[0] != '^' or name[1:] in own]
    if len(inputs) < len(node.input) and barrier is not None:
      inputs.append(_BARRIER)
      used[_BARRIER] = barrier
    del node.input[:]
    node.input.extend(inputs)
  return dict(zip(results, tf.import_graph_def(graph, used, results, name=SCOPE)))


def checked(batch, num_classes):
  """Adds to a batch a check of its label ids, outside of what XLA compiles, where a wrong id goes unnoticed.

  Args:
    batch: dict with `label`, int32 [B, H, W].
    num_classes: number of classes.

  Returns:
    the batch; a label that is neither a class nor IGNORE_LABEL raises tf.errors.InvalidArgumentError.
  """
  labels = batch['label']
  highest = tf.reduce_max(tf.where(tf.equal(labels, IGNORE_LABEL), tf.zeros_like(labels), labels))
  with tf.control_dependencies([tf.debugging.assert_less(highest, num_classes)]):
    return {**batch, 'label': tf.identity(labels)}


@contextlib.contextmanager
def refused_clearly():
  """Turns a failure of XLA to compile, inside the block, into a UserError."""
  try:
    yield
  except tf.errors.OpError as error:
    reason = re.sub(r'\s+', ' ', error.message.removeprefix('Graph execution error:')).strip()
    if not re.search('XLA|tf2xla', reason):
      raise
    print(flush=True)  # ends the line of CompileHook
    raise UserError(f'XLA cannot compile this step: {reason[:300]} ...; use --xla=off') from error


class CompileHook(tf.train.SessionRunHook):
  """Says that the first step is compiled, and how long that took, in a line."""

  def __init__(self):
    self._start = None

  def before_run(self, run_context):
    if self._start is None:
      self._start = time.monotonic()
      print('compiling the step with XLA ...', end='', flush=True)

  def after_run(self, run_context, run_values):
    if self._start:
      print(f' took {time.monotonic() - self._start:.0f} s, with the step itself', flush=True)
      self._start = 0.0
