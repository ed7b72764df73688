"""Where ops would work on a GPU, by TensorFlow's registry of kernels, which it has without a GPU as well."""

from tensorflow.python.framework import kernels, op_def_registry


def known():
  """Whether this TensorFlow is built with kernels for GPUs."""
  return any(kernel.device_type == 'GPU' for kernel in _kernels('Conv2D'))


def through_host(tensors, least):
  """Lists ops that, on a GPU, would take large tensors from the host's memory or leave them there.

  Args:
    tensors: tensors of one graph; all that they need is looked at.
    least: number of elements from which on a tensor is large.

  Returns:
    sorted list of 'TYPE NAME'; ops without a kernel for GPUs are among them.
  """
  needed, waiting = set(), [tensor.op for tensor in tensors]
  while waiting:
    op = waiting.pop()
    if op not in needed:
      needed.add(op)
      waiting += [*(tensor.op for tensor in op.inputs), *op.control_inputs]
  return sorted(f'{op.type} {op.name}' for op in needed
                if any((tensor.shape.num_elements() or 0) >= least for tensor in _on_host(op)))


def _kernels(op_type):
  """The kernels of a type of op for GPUs; where there are none, those for any device."""
  found = kernels.get_registered_kernels_for_op(op_type).kernel
  return [kernel for kernel in found if kernel.device_type == 'GPU'] or [
      kernel for kernel in found if kernel.device_type == 'DEFAULT']


def _fits(kernel, op):
  """Whether a kernel is for an op's types."""
  for constraint in kernel.constraint:
    types = op.get_attr(constraint.name)
    types = types if isinstance(types, list) else [types]
    if not {dtype.as_datatype_enum for dtype in types} <= {*constraint.allowed_values.list.type}:
      return False
  return True


def _on_host(op):
  """Yields the inputs and outputs of an op that lie in the host's memory."""
  kernel = next((kernel for kernel in _kernels(op.type) if _fits(kernel, op)), None)
  if kernel is None:
    yield from (*op.inputs, *op.outputs)
    return
  definition = op_def_registry.get(op.type)
  for arguments, tensors in ((definition.input_arg, op.inputs), (definition.output_arg, op.outputs)):
    tensors = list(tensors)
    for argument in arguments:
      count = (op.get_attr(argument.number_attr) if argument.number_attr
               else len(op.get_attr(argument.type_list_attr)) if argument.type_list_attr else 1)
      taken, tensors = tensors[:count], tensors[count:]
      if argument.name in kernel.host_memory_arg:
        yield from taken
