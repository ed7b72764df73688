"""The record that describes a network to the scripts and tests."""

import dataclasses
from collections.abc import Callable


@dataclasses.dataclass(frozen=True)
class Network:
  """A segmentation network.

  Attributes:
    name: what `--net` calls it.
    logits: `logits(images, num_classes, is_training, *, skip, dropout, dropout_keep_prob, freeze_batch_norm,
      batch_norm_decay, weight_decay)` builds the graph; all but the first three have defaults. `images` is float32
      [B, H, W, 3] with RGB in 0..255, of any H and W, known or not. `dropout` says whether dropout drops (None: as
      `is_training`), `dropout_keep_prob` what it keeps (None: the network's own value). A network takes all of these,
      also those that mean nothing to it. Returns `(logits, end_points)`: float32 [B, H, W, num_classes], where a pixel
      belongs to the same pixel of the images, and a dict of named activations.
    skips: valid values of `skip`, the coarsest first. Empty if the network has none, and `skip` is None then.
    default_skip: the skip that is built unless another is asked for; None for a network without skips.
    options: names of further arguments of `logits` that shape the graph, and so have to be the same in training and
      afterwards; all have defaults.
    pretrained: name of its ImageNet checkpoint in `checkpoints.PRETRAINED`, or None.
    pretrained_scopes: variable scopes that this checkpoint fills.
    pretrained_batch_norm: whether this checkpoint holds batch norm statistics, which training keeps by default.
  """
  name: str
  logits: Callable
  skips: tuple = ()
  default_skip: str | None = None
  options: tuple = ()
  pretrained: str | None = None
  pretrained_scopes: tuple = ()
  pretrained_batch_norm: bool = False
