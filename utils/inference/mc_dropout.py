"""MC dropout: the uncertainty of each pixel, from passes in which dropout stays on.

Kendall, Badrinarayanan, Cipolla, "Bayesian SegNet", 2015 (arXiv:1511.02680): each pass draws a new dropout mask, the
mean of the softmax over the passes gives the label, and its variance, averaged over the classes, the uncertainty.
"""

import numpy as np

from utils.compat import tf

MEASURES = ('variance', 'entropy', 'mutual_information', 'margin')
_DRAWS = 'RandomUniform'  # op by which tf.nn.dropout draws its mask


def take_seeds(graph_def):
  """Gives every random op a seed that is fed, so that the dropout masks of a pass depend on its seeds alone.

  Args:
    graph_def: tf.GraphDef, changed in place.

  Returns:
    list of str, the names of the seed tensors, each int64 [2], one per random op; empty without random ops.
  """
  names = []
  for node in [node for node in graph_def.node if node.op == _DRAWS]:
    seed = graph_def.node.add(name=f'{node.name}/given_seed', op='Placeholder')
    seed.attr['dtype'].type = tf.int64.as_datatype_enum
    seed.attr['shape'].shape.dim.add(size=2)
    node.op = 'StatelessRandomUniform'
    node.input[:] = [node.input[0], seed.name]
    for name in ('seed', 'seed2'):
      node.attr.pop(name, None)
    node.attr['Tseed'].type = tf.int64.as_datatype_enum
    names.append(f'{seed.name}:0')
  return names


def shared_tensors(graph_def, images, seeds):
  """Finds the tensors that all passes over an image share, to compute them once.

  Args:
    graph_def: tf.GraphDef, each node after its inputs.
    images: name of the placeholder node of the images.
    seeds: names of the seed tensors, from `take_seeds`.

  Returns:
    sorted list of names: tensors that depend on the images but on no seed, and feed nodes that depend on a seed.
  """
  drawn, seen = (_following(graph_def, sources) for sources in ({name.split(':')[0] for name in seeds}, {images}))
  read = {name for node in graph_def.node if node.name in drawn for name in node.input}
  return sorted(name if ':' in name else f'{name}:0' for name in read
                if name.split(':')[0] in seen - drawn and not name.startswith('^'))


def _following(graph_def, sources):
  """Set of the names of `sources` and of all nodes that depend on them."""
  found = set(sources)
  for node in graph_def.node:
    if any(name.split(':')[0].lstrip('^') in found for name in node.input):
      found.add(node.name)
  return found


def average(passes, measure=MEASURES[0]):
  """Averages passes one after the other: memory does not grow with their number.

  Args:
    passes: iterable of the probabilities of each pass, float32 [..., C]; at least one.
    measure: one of MEASURES. 'variance': variance of a class's probability over the passes, averaged over the classes.
      'entropy': entropy of the mean, in nats, 0 to log(C). 'mutual_information': this entropy minus the mean entropy
      of the passes, in nats: their disagreement (BALD; Houlsby et al., arXiv:1112.5745). 'margin': 1 minus the lead of
      the mean's most probable class over the next, 0 to 1 (Scheffer et al., "Active hidden Markov models for
      information extraction", 2001). None: no uncertainty.

  Returns:
    `(mean, uncertainty)`: float32 [..., C], whose classes sum to 1, and float32 [...], at least 0; None without a
    measure.

  Raises:
    ValueError: if `measure` is none of these.
  """
  if measure not in (None, *MEASURES):
    raise ValueError(f'measure={measure!r} is none of {", ".join(MEASURES)}')
  mean, spread, own = np.float32(0), np.float32(0), np.float32(0)
  count = 0
  for count, change in enumerate(passes, start=1):
    if measure == 'mutual_information':
      own += _entropy(change)
    change = change - mean
    if measure == 'variance':  # Welford's update: a difference of two large sums would lose small variances
      spread += np.einsum('...c,...c->...', change, change) * np.float32((count - 1) / count)
    change *= np.float32(1 / count)
    mean += change
  if measure is None:
    return mean, None
  if measure == 'variance':
    return mean, spread / np.float32(count * mean.shape[-1])
  if measure == 'margin':
    return mean, _margin(mean)
  return mean, np.maximum(_entropy(mean) - own / np.float32(count), 0)


def _entropy(probabilities):
  """float32 [...], in nats."""
  return -np.einsum('...c,...c->...', probabilities, np.log(np.maximum(probabilities, np.float32(1e-30))))


def _margin(probabilities):
  """float32 [...], 0 to 1; of a single class 0."""
  if probabilities.shape[-1] == 1:
    return np.zeros(probabilities.shape[:-1], np.float32)
  second, first = np.moveaxis(np.partition(probabilities, -2, axis=-1)[..., -2:], -1, 0)
  return 1 - (first - second)
