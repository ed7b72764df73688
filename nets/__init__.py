"""The networks of `--net`, by name. A new network is a file with its Network (or a Backbone), and a line here."""

from nets import backbones
from nets.deconvnet import DECONVNET
from nets.enet import ENET
from nets.fcn import fcn
from nets.segnet import SEGNET, SEGNET_BASIC
from nets.unet import UNET
from utils.errors import UserError

NETWORKS = {network.name: network for network in (
    fcn(backbones.INCEPTION_V3),
    fcn(backbones.INCEPTION_V1),
    fcn(backbones.INCEPTION_V2),
    fcn(backbones.RESNET_V1_50),
    fcn(backbones.RESNET_V1_101),
    fcn(backbones.VGG_16),
    fcn(backbones.VGG_19),
    fcn(backbones.VGG_16_TRUNK),
    ENET,
    UNET,
    SEGNET,
    SEGNET_BASIC,
    DECONVNET,
)}


def get_network(name):
  """Returns the Network called `name`; raises UserError, which lists the known networks, if there is none."""
  if name not in NETWORKS:
    raise UserError(f'unknown network {name!r}; known: {", ".join(NETWORKS)}')
  return NETWORKS[name]
