"""How sure a network is of each pixel, from passes in which its dropout goes on dropping.

Kendall, Badrinarayanan, Cipolla, "Bayesian SegNet", 2015 (arXiv:1511.02680): each pass draws anew what is kept, the
mean of the softmax over the passes gives the label, and its variance, averaged over the classes, the uncertainty.
"""

import numpy as np

from utils.compat import tf

MEASURES = ('variance', 'entropy', 'mutual_information')
_DRAWS = 'RandomUniform'  # the op that tf.nn.dropout draws with


def take_seeds(graph_def):
  """Makes every random op draw from a seed that is fed, so that what a pass drops depends on nothing before it.

  Args:
    graph_def: tf.GraphDef, changed in place.

  Returns:
    list of the seeds' tensor names, int64 [2], one for each random op; empty if nothing is drawn.
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
  """Finds what all passes over an image have in common, to compute it once.

  Args:
    graph_def: tf.GraphDef whose nodes come after what they read.
    images: name of the node that the images are fed to.
    seeds: tensor names, as of `take_seeds`.

  Returns:
    sorted list of tensor names: what depends on the images but on no seed, and is read by something that does.
  """
  drawn, seen = (_following(graph_def, sources) for sources in ({name.split(':')[0] for name in seeds}, {images}))
  read = {name for node in graph_def.node if node.name in drawn for name in node.input}
  return sorted(name if ':' in name else f'{name}:0' for name in read
                if name.split(':')[0] in seen - drawn and not name.startswith('^'))


def _following(graph_def, sources):
  """Names of the nodes `sources` and of all that read them, at first or second hand."""
  found = set(sources)
  for node in graph_def.node:
    if any(name.split(':')[0].lstrip('^') in found for name in node.input):
      found.add(node.name)
  return found


def average(draw, count, measure=MEASURES[0]):
  """Averages passes one after the other: memory does not grow with their number.

  Args:
    draw: `draw(number)` -> probabilities of pass `number`, float32 [..., C].
    count: number of passes, from 1.
    measure: one of MEASURES. 'variance': of a class's probability over the passes, the mean over the classes.
      'entropy': of the mean, in nats, 0 to log(C). 'mutual_information': that entropy less the mean of the passes' own,
      in nats: what they disagree about (BALD; Houlsby et al., arXiv:1112.5745). None: no uncertainty is wanted.

  Returns:
    `(mean, uncertainty)`: float32 [..., C], whose classes sum to one, and float32 [...], from 0; or None.

  Raises:
    ValueError: for another measure.
  """
  if measure not in (None, *MEASURES):
    raise ValueError(f'measure={measure!r} is none of {", ".join(MEASURES)}')
  mean, spread, own = np.float32(0), np.float32(0), np.float32(0)
  for number in range(count):
    change = draw(number)
    if measure == 'mutual_information':
      own += _entropy(change)
    change = change - mean
    if measure == 'variance':  # Welford's update: the difference of two large numbers would not do
      spread += np.einsum('...c,...c->...', change, change) * np.float32(number / (number + 1))
    change *= np.float32(1 / (number + 1))
    mean += change
  if measure is None:
    return mean, None
  if measure == 'variance':
    return mean, spread / np.float32(count * mean.shape[-1])
  return mean, np.maximum(_entropy(mean) - own / np.float32(count), 0)


def _entropy(probabilities):
  """float32 [...], in nats."""
  return -np.einsum('...c,...c->...', probabilities, np.log(np.maximum(probabilities, np.float32(1e-30))))
