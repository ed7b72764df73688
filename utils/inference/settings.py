"""The settings of inference.py, and those of all programs that label images."""

import dataclasses

from datasets.readers.dataset_file import ReadingFlags
from datasets.reading import EXIF
from utils import cudnn
from utils.errors import UserError
from utils.inference import crf, rank
from utils.inference.crf import Crf
from utils.inference.exported import EngineFlags, open_exported
from utils.inference.mc_dropout import MEASURES
from utils.inference.predictor import Predictor
from utils.inference.rank import Ranking
from utils.inference.temperature import temperature_flag, temperature_of
from utils.inference.tiles import Tiles
from utils.inference.tta import Views
from utils.session import Device, device_type
from utils.settings import Settings, flag, group, overwrite_flag, refuse_idle

OUTPUTS = ('label', 'overlay')
VIDEO_LABELS = ('video', 'frames')
LABEL_VALUES = ('dataset', 'ids', 'colors')


@dataclasses.dataclass(frozen=True)
class Pictures(Settings):
  """How pictures are read, where it is not as the training's were."""
  exif: str | None = flag(None, 'turn images as EXIF says, or keep them stored; default: as in training', choices=EXIF)
  image_alpha: str | None = flag(
      None, 'lay transparent pixels on white (white) or leave transparency out (drop); default: as in training',
      choices=('white', 'drop'))
  value_range: tuple[float, ...] = flag(
      (), 'LOW,HIGH: values of images of more than 8 bits that become black and white; default: as in training')

  def check(self):
    """Raises UserError if a setting is not valid."""
    super().check()
    self.told  # noqa: B018, raises if a value is not valid

  @property
  def told(self):
    """Dict of the parts of the run's Reading that flags override. Raises UserError if a value is not valid."""
    return ReadingFlags(exif=self.exif, alpha=self.image_alpha, value_range=self.value_range).told


@dataclasses.dataclass(frozen=True)
class Labelling(Settings):
  """How images are labeled: engine, MC dropout, test-time augmentation, device, CRF."""
  engine: EngineFlags = group(EngineFlags)
  samples: int = flag(0, 'passes with dropout to average; 0: one pass without dropout', least=0)
  seed: int = flag(0, 'random seed of the dropout passes (--samples), and of evaluate.py --corruptions', least=0)
  views: Views = group(Views, prefix='test_')
  temperature: float | None = temperature_flag()
  device: Device = group(Device)
  crf: bool = flag(False, 'refine the labels by a dense CRF; see docs/crf.md')
  crf_parameters: Crf = group(Crf, prefix='crf_')
  num_workers: int = flag(0, 'processes for --crf, and for evaluate.py --corruptions; 0: one per core', least=0)

  def check(self):
    """Raises UserError if a setting is not valid, the engine does not have it, or --crf lacks its package."""
    super().check()
    if self.samples and not self.engine.is_tensorflow:
      raise UserError(f'--samples={self.samples}: exported files have no dropout; only --engine=tensorflow has')
    self.placed  # noqa: B018, raises if the engine has no such device
    refuse_idle(self, 'crf')
    if self.crf:
      crf.require()

  @property
  def placed(self):
    """The session.Device that computes, see EngineFlags.device."""
    return self.engine.device(self.device)

  @property
  def refinement(self):
    """The Crf that refines the labels; None without --crf."""
    return self.crf_parameters if self.crf else None

  def open_predictor(self, run, count, sizes):
    """Returns the labeler.Labeler of a runs.Run with these settings: a Predictor, or with --engine an ExportedNetwork.

    Args:
      run: a runs.Run.
      count: number of images that it will label.
      sizes: iterable of their (height, width), looked at on GPUs, see cudnn.search_pays, and for an exported file.

    Raises:
      UserError: if the run, or its exported file, cannot be used with these settings.
    """
    if not self.engine.is_tensorflow:
      return open_exported(run, self.engine, views=self.views, temperature=temperature_of(run, self.temperature),
                           device=self.placed, sizes=sizes)
    if device_type(self.device.gpu) == 'GPU' and not cudnn.search_pays(count, sizes):
      cudnn.take_suggestions()
    return Predictor(run, self.device.precision, samples=self.samples, seed=self.seed, views=self.views,
                     temperature=temperature_of(run, self.temperature), gpu=self.device.gpu,
                     gpu_memory_fraction=self.device.gpu_memory_fraction)


@dataclasses.dataclass(frozen=True)
class InferenceSettings(Settings):
  """The settings of inference.py."""
  ckpt: str = flag(None, "run's folder, or a checkpoint in it", required=True, path=True)
  input: tuple[str, ...] = flag(
      (), 'image, folder or quoted glob, or several separated by commas; or name them last', repeated=True, path=True)
  images: tuple[str, ...] = flag((), 'images, folders or quoted globs', positional=True, path=True)
  output_dir: str = flag(
      'predictions', 'folder for NAME_label.png and NAME_overlay.png, with subfolders as the inputs', path=True)
  outputs: tuple[str, ...] = flag(OUTPUTS, 'pictures to write: label, overlay or both', choices=OUTPUTS)
  label_values: str = flag(
      LABEL_VALUES[0], "values of the label PNGs: those of the dataset's own labels (dataset), the network's 0, 1, ... "
      '(ids), or colors', choices=LABEL_VALUES)
  overwrite: bool = overwrite_flag()
  alpha: float = flag(0.5, 'weight of the colors in the overlay', least=0, most=1)
  probabilities: bool = flag(False, 'also write NAME_probabilities.npy, float16 [height, width, class]')
  submission: bool = flag(False, "write only the archive for the dataset's evaluation server")
  list_: str | None = flag(
      None, 'file with names or paths of the images to label, one per line; default: all images', path=True)
  uncertainty: str = flag(MEASURES[0], 'measure shown by NAME_uncertainty.png (--samples)', choices=MEASURES)
  pictures: Pictures = group(Pictures)
  batch_size: int = flag(4, 'images of one size that go through the network together', least=1)
  ranking: Ranking = group(Ranking)
  tiles: Tiles = group(Tiles)
  window_pixels: int = flag(64_000_000, 'TIFF, PNG and JPEG with more pixels are read and labeled by rows', least=1)
  max_input_pixels: int = flag(2**29, 'images with more pixels are refused: they may be decompression bombs', least=1)
  video_labels: str = flag(VIDEO_LABELS[0], 'labels of a video: a video without loss, or a PNG a frame (frames)',
                           choices=VIDEO_LABELS)
  labelling: Labelling = group(Labelling)

  def check(self):
    """Raises UserError if a setting is not valid, does not go with another, or nothing is to be written."""
    super().check()
    rank.check(self)
    if self.submission and self.probabilities:
      raise UserError('--submission: not together with --probabilities: the archive holds labels and nothing else')
    if self.uncertainty != MEASURES[0] and not self.labelling.samples:
      raise UserError(f'--uncertainty={self.uncertainty}: is for --samples, which is not given')
    if not (self.outputs or self.probabilities or self.submission):
      raise UserError(f'--outputs= leaves nothing to write; valid are {", ".join(OUTPUTS)}, or add --probabilities')

  @property
  def needs_whole(self):
    """Whether results are wanted for which an image is held in memory as a whole."""
    wanted = self.probabilities, self.submission, self.labelling.crf, self.labelling.samples, self.ranking.rank
    return any(wanted)
