"""The settings of evaluate.py."""

import dataclasses

from datasets.folds import HoldOutFlags
from datasets.hold_out import HELD_OUT
from utils.errors import UserError
from utils.inference.settings import Labelling
from utils.inference.tiles import Tiles
from utils.settings import Settings, flag, group


@dataclasses.dataclass(frozen=True)
class EvaluationTiles(Tiles):
  """Tiles for images too large for memory; labels from tiles differ a little from labels of the whole image."""
  max_pixels: int = flag(10_000_000, 'images with more pixels are labeled in overlapping tiles', least=1)


@dataclasses.dataclass(frozen=True)
class EvaluateSettings(Settings):
  """The settings of evaluate.py."""
  ckpt: str = flag(None, "run's folder, or a checkpoint in it", required=True, path=True)
  split: str = flag('val', 'split to evaluate')
  data_dir: str | None = flag(None, "folder with the TFRecords; default: the training's own", path=True)
  output_dir: str | None = flag(None, "folder for the results; default: the run's", path=True)
  details: bool = flag(False, 'report boundary scores, calibration, and the best and the worst images as well')
  labelling: Labelling = group(Labelling)
  tiles: EvaluationTiles = group(EvaluationTiles)
  held: HoldOutFlags = group(HoldOutFlags)

  def check(self):
    """Raises UserError if a setting is not valid, or does not fit another."""
    super().check()
    self.held.refuse_idle()
    if self.held.given and self.split != HELD_OUT:
      raise UserError(f'--split={self.split}: --hold_out and --fold choose the images of --split={HELD_OUT}; without '
                      'them, it has those that the training held out')
