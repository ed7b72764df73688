"""Random weights for networks that nobody has trained, whose activations stay of order one."""

import numpy as np


def random_values(variables, seed=0):
  """Random weights for the variables of a network, as a dict from name to array.

  Convolutions keep the scale of what they get (He et al., "Delving Deep into Rectifiers", 2015) and batch norms are far
  from doing nothing.
  """
  rng = np.random.default_rng(seed)
  values = {}
  for variable in variables:
    name, shape = variable.op.name, variable.shape.as_list()
    value = rng.normal(size=shape) * 0.2
    if name.endswith('weights'):
      value = rng.normal(size=shape) * np.sqrt(2 / np.prod(shape[:3]))
    elif name.endswith(('moving_variance', 'gamma')):
      value = rng.uniform(0.5, 1.5, shape)
    values[name] = value.astype(np.float32)
  return values
