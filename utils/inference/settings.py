"""The settings of inference.py, and those of all programs that label images."""

import dataclasses

from utils.inference import crf
from utils.inference.crf import Crf
from utils.inference.mc_dropout import MEASURES
from utils.inference.predictor import Predictor
from utils.inference.tiles import Tiles
from utils.inference.tta import Views
from utils.session import Device
from utils.settings import Settings, flag, group


@dataclasses.dataclass(frozen=True)
class Labelling(Settings):
  """How images are labeled: MC dropout, test-time augmentation, device, CRF."""
  samples: int = flag(0, 'passes with dropout to average; 0: one pass without dropout', least=0)
  seed: int = flag(0, 'random seed of the dropout passes (--samples)', least=0)
  views: Views = group(Views, prefix='test_')
  device: Device = group(Device)
  crf: bool = flag(False, 'refine the labels by a dense CRF; see docs/crf.md')
  crf_parameters: Crf = group(Crf, prefix='crf_')
  num_workers: int = flag(0, 'processes for --crf; 0: one per core', least=0)

  def check(self):
    """Raises UserError if a setting is not valid, or --crf lacks its package."""
    super().check()
    if self.crf:
      crf.require()

  @property
  def refinement(self):
    """The Crf that refines the labels; None without --crf."""
    return self.crf_parameters if self.crf else None

  def open_predictor(self, run):
    """Returns a Predictor of a runs.Run with these settings."""
    return Predictor(run, self.device.precision, samples=self.samples, seed=self.seed, views=self.views,
                     gpu=self.device.gpu, gpu_memory_fraction=self.device.gpu_memory_fraction)


@dataclasses.dataclass(frozen=True)
class InferenceSettings(Settings):
  """The settings of inference.py."""
  ckpt: str = flag(None, "run's folder, or a checkpoint in it", required=True)
  input: tuple[str, ...] = flag(
      (), 'image, folder or quoted glob, or several separated by commas; or name them last', repeated=True)
  images: tuple[str, ...] = flag((), 'images, folders or quoted globs', positional=True)
  output_dir: str = flag('predictions', 'folder for NAME_label.png and NAME_overlay.png')
  alpha: float = flag(0.5, 'weight of the colors in the overlay', least=0, most=1)
  probabilities: bool = flag(False, 'also write NAME_probabilities.npy, float16 [height, width, class]')
  submission: bool = flag(False, "write only the archive for the dataset's evaluation server")
  list_: str | None = flag(None, 'file with the names of the images to label, one per line; default: all images')
  uncertainty: str = flag(MEASURES[0], 'measure shown by NAME_uncertainty.png (--samples)', choices=MEASURES)
  batch_size: int = flag(4, 'images of one size that go through the network together', least=1)
  tiles: Tiles = group(Tiles)
  labelling: Labelling = group(Labelling)

  @property
  def given(self):
    """List of all images, folders and globs given."""
    return [*self.images, *(part for value in self.input for part in value.split(','))]
