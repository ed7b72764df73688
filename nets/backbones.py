"""Feature extractors from tf_slim, and where each one's cells lie in its input."""

import dataclasses
from collections.abc import Callable

from utils.compat import slim


@dataclasses.dataclass(frozen=True)
class Tap:
  """A feature map that is scored.

  Attributes:
    end_point: slim's name for it.
    stride: input pixels between two cells.
    first: position of the centre of cell 0, in input pixels; may be fractional.
  """
  end_point: str
  stride: int
  first: float


@dataclasses.dataclass(frozen=True)
class Backbone:
  """A classification network without its classifier.

  Attributes:
    name: what `--net` calls the FCN on it.
    features: `features(images, is_training, *, freeze_batch_norm, batch_norm_decay, weight_decay, dropout,
      dropout_keep_prob)` -> dict of end points; images are float32 [B, H, W, 3], RGB in 0..255, of a size that
      `size_step` and `size_base` allow.
    taps: the maps to score, the coarsest first.
    size_step: valid input sizes are size_step * k + size_base with k = 1, 2, ...: those drop no pixel.
    size_base: see size_step.
    margin: least padding on each side, so that every image pixel lies where the upsampled scores reach.
    scopes: variable scopes that its ImageNet checkpoint fills.
    batch_norm: whether it has batch norms.
    dropout_keep_prob: kept by the dropout before the coarsest score layer, the value of slim's classifier.
  """
  name: str
  features: Callable
  taps: tuple
  size_step: int
  size_base: int
  margin: int
  scopes: tuple
  batch_norm: bool
  dropout_keep_prob: float


def _inception_v3_features(images, is_training, *, freeze_batch_norm, batch_norm_decay, weight_decay, **unused):
  del unused
  slim_net = slim.nets.inception_v3
  arg_scope = slim_net.inception_v3_arg_scope(weight_decay=weight_decay, batch_norm_decay=batch_norm_decay)
  with slim.arg_scope(arg_scope), slim.arg_scope(
      [slim.batch_norm], is_training=is_training and not freeze_batch_norm):
    # Images enter slim's nets in [-1, 1]. The scope is named: a default name would not be shared by a second build.
    _, end_points = slim_net.inception_v3_base(images / 127.5 - 1.0, scope='InceptionV3')
  return end_points


INCEPTION_V3 = Backbone(
    name='inception_v3',
    features=_inception_v3_features,
    # VALID padding in the stem and both reductions puts the centres here; sizes 32k + 43 give k, 2k + 1, 4k + 3 cells.
    taps=(Tap('Mixed_7c', 32, 37), Tap('Mixed_6e', 16, 21), Tap('Mixed_5d', 8, 13)),
    size_step=32,
    size_base=43,
    margin=6,  # a transposed convolution of stride s and kernel 2s - 1 starts at input pixel 6 for s = 8, 16 and 32
    scopes=('InceptionV3',),
    batch_norm=True,
    dropout_keep_prob=0.8,
)
