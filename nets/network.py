"""Records of a network and of the mode in which its graph is built."""

import dataclasses
from collections.abc import Callable


@dataclasses.dataclass(frozen=True)
class Mode:
  """The mode in which a network's graph is built. Variables have the same names and shapes in every mode.

  A network ignores the settings of layers that it does not have.

  Attributes:
    is_training: whether batch norms, unless frozen, use the batch's statistics; also the default of `dropout`.
    dropout: whether dropout drops; None: as `is_training`.
    dropout_keep_prob: share of the features that dropout keeps, above 0 to 1; None: the network's own value.
    dropout_seed: (seed of the run, step), an int and an int or int32 scalar, from which all dropout masks follow;
      None: TensorFlow draws them from a state of its own.
    replica: (number, count) of the replicas among which the examples of a batch are dealt out in equal runs; a replica
      drops what it would drop as a part of the whole batch.
    freeze_batch_norm: whether batch norms keep their moving averages while training; offsets and gains are trained all
      the same. The batch norms of an FCN's decoder are new, and never frozen.
    fold_batch_norm: whether batch norms that keep their averages are folded into the convolutions before them.
    batch_norm_decay: decay of the moving averages. slim's 0.9997 takes ten thousand steps to forget its start.
    weight_decay: weight of the L2 loss on convolution weights; None: the network's own value.
    portable: whether the graph has only ops that other engines than TensorFlow have, see unpooling.max_pool.
    band_colors: colors of the images' bands for networks that subtract ImageNet's mean color, see
      `backbones.without_mean`.
  """
  is_training: bool = False
  dropout: bool | None = None
  dropout_keep_prob: float | None = None
  dropout_seed: tuple | None = None
  replica: tuple = (0, 1)
  freeze_batch_norm: bool = False
  fold_batch_norm: bool = True
  batch_norm_decay: float = 0.99
  weight_decay: float | None = None
  portable: bool = False
  band_colors: tuple | None = None

  @property
  def drops(self):
    """Whether dropout drops."""
    return self.is_training if self.dropout is None else self.dropout

  @property
  def learns_batch_norm(self):
    """Whether batch norms use the batch's statistics and learn their moving averages."""
    return self.is_training and not self.freeze_batch_norm


INFERENCE = Mode()


@dataclasses.dataclass(frozen=True)
class Network:
  """A segmentation network.

  Attributes:
    name: its name as a value of `--net`.
    build: `build(images, num_classes, mode, **shape)`, which does the work of `logits`. It takes the keywords in
      `options`, and `skip` if the network has skips, all with defaults; `mode.weight_decay` is a number here.
    weight_decay: the network's own weight of the L2 loss on convolution weights.
    skips: valid values of `skip`, the coarsest first; empty for a network without skips.
    default_skip: the skip that is built by default; None for a network without skips.
    options: names of further keywords of `logits` that shape the graph, and so have to be the same in training and
      afterwards.
    pretrained: name of its ImageNet checkpoint in `checkpoints.PRETRAINED`, or None.
    pretrained_scopes: variable scopes that this checkpoint fills.
    optional_scopes: scopes or full variable names under `pretrained_scopes` that a given checkpoint need not have: what
      it has nothing of is a new layer.
    pretrained_batch_norm: whether this checkpoint holds batch norm statistics, which training keeps by default.
    most_bands: greatest number of bands of the images; None for any.
  """
  name: str
  build: Callable
  weight_decay: float
  skips: tuple = ()
  default_skip: str | None = None
  options: tuple = ()
  pretrained: str | None = None
  pretrained_scopes: tuple = ()
  optional_scopes: tuple = ()
  pretrained_batch_norm: bool = False
  most_bands: int | None = None

  def logits(self, images, num_classes, mode=INFERENCE, *, band_colors=None, **shape):
    """Builds the network's graph.

    Args:
      images: float32 [B, H, W, N], RGB or any known number of bands in 0..255, any H and W from 1, known or not.
      num_classes: number of classes.
      mode: a Mode; its band_colors are replaced.
      band_colors: see Mode.
      **shape: `skip` and `options`, as of shape(); a network takes only those that it has.

    Returns:
      logits: float32 [B, H, W, num_classes]; a pixel belongs to the same pixel of the images.
      end_points: dict from name to activation.
    """
    mode = dataclasses.replace(mode, band_colors=band_colors and tuple(band_colors))
    if mode.weight_decay is None:
      mode = dataclasses.replace(mode, weight_decay=self.weight_decay)
    return self.build(images, num_classes, mode, **shape)

  def shape(self, settings):
    """Keywords of `logits` that shape the graph.

    Args:
      settings: dict from name to value, e.g. `network` of config.json. Names that the network does not take, and
        values of None, are ignored.

    Returns:
      dict with `skip`, if the network has skips, `options` and `band_colors`, as far as the settings have them.
    """
    names = (*(('skip',) if self.skips else ()), *self.options, 'band_colors')
    return {name: settings[name] for name in names if settings.get(name) is not None}
