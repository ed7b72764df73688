"""Fetches pretrained weights before they are needed, e.g. on a machine that has a network.

    python -m checkpoints.fetch --net=inception_v3
"""

import dataclasses
import sys

from checkpoints import PRETRAINED, pretrained_checkpoint
from utils.errors import shown
from utils.settings import Settings, flag, run


@dataclasses.dataclass(frozen=True)
class FetchSettings(Settings):
  """Flags of `python -m checkpoints.fetch`."""
  net: str = flag('inception_v3', f'weights to fetch: {", ".join(PRETRAINED)}', choices=tuple(PRETRAINED))
  dir: str = flag('checkpoints', 'folder to put them into', path=True)


def fetch(settings):
  """Fetches the weights and prints their path and a note on them."""
  path = pretrained_checkpoint(settings.net, settings.dir)
  print(f'{shown(path)}: {PRETRAINED[settings.net].note}')


def main(argv=None):
  return run(fetch, FetchSettings, argv, text=__doc__)


if __name__ == '__main__':
  sys.exit(main())
