"""The networks that `--net` knows. A new one is a file (or a Backbone) and a line here."""

from nets import backbones
from nets.fcn import fcn
from utils.errors import UserError

NETWORKS = {network.name: network for network in (
    fcn(backbones.INCEPTION_V3),
)}


def get_network(name):
  """Returns the Network called `name`. Raises UserError that lists the known ones."""
  if name not in NETWORKS:
    raise UserError(f'unknown network {name!r}; known: {", ".join(NETWORKS)}')
  return NETWORKS[name]
