"""The record that describes a network to the scripts and tests."""

import dataclasses
from collections.abc import Callable


@dataclasses.dataclass(frozen=True)
class Network:
  """A segmentation network.

  Attributes:
    name: what `--net` calls it.
    logits: `logits(images, num_classes, is_training, skip=None, **options)` builds the graph. `images` is float32
      [B, H, W, 3] with RGB in 0..255, of any H and W, known or not. Returns `(logits, end_points)`: float32
      [B, H, W, num_classes], where a pixel belongs to the same pixel of the images, and a dict of named activations.
    skips: valid values of `skip`, the coarsest first; the last is the default. Empty if the network has none.
    pretrained: name of its ImageNet checkpoint in `checkpoints.PRETRAINED`, or None.
    pretrained_scopes: variable scopes that this checkpoint fills.
  """
  name: str
  logits: Callable
  skips: tuple = ()
  pretrained: str | None = None
  pretrained_scopes: tuple = ()
