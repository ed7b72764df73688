"""The settings of the server (python -m utils.serve)."""

import dataclasses
import importlib.util

from datasets.readers.dataset_file import ReadingFlags
from datasets.reading import EXIF
from utils import cudnn
from utils.errors import UserError, listed
from utils.inference.predictor import Predictor
from utils.inference.settings import LABEL_VALUES
from utils.inference.temperature import GREATEST, LEAST, stored_temperature
from utils.inference.tiles import Tiles
from utils.inference.tta import Views
from utils.installation import install
from utils.session import Device, device_type
from utils.settings import Settings, flag, group

PACKAGES = ('starlette', 'uvicorn', 'python_multipart', 'prometheus_client')  # modules of requirements-serve.txt


@dataclasses.dataclass(frozen=True)
class Limits(Settings):
  """Bounds on what a request may cost; see docs/serving.md for the answers beyond them."""
  max_body_bytes: int = flag(20_000_000, 'bytes of a request; larger ones are refused', least=1)
  max_input_pixels: int = flag(16_000_000, 'pixels of a picture; larger ones are refused', least=1)
  max_requests: int = flag(32, 'requests that are sent, waiting and in work at a time; more are refused', least=1)
  upload_seconds: float = flag(20.0, 'time in which a request must have come', least=0.1)
  request_seconds: float = flag(60.0, 'time in which a request must be answered', least=0.1)
  max_batch: int = flag(4, 'pictures of one size that go through the network together', least=1)
  max_wait: float = flag(0.005, 'seconds that a picture waits for others of its size', least=0, most=10)
  decoders: int = flag(2, 'processes that decode pictures', least=1)


@dataclasses.dataclass(frozen=True)
class ServeSettings(Settings):
  """The settings of the server."""
  ckpt: str = flag(None, "run's folder, or a checkpoint in it", required=True, path=True)
  host: str = flag('127.0.0.1', 'address to listen on; 0.0.0.0 or :: for everybody who reaches this machine')
  port: int = flag(8000, 'port to listen on; 0: a free one', least=0, most=65535)
  cors_origins: tuple[str, ...] = flag(
      (), 'sites whose pages may use the server from a browser, as https://example.org; default: its own page alone')
  label_values: str = flag(
      LABEL_VALUES[0], "values of the label PNGs: those of the dataset's own labels (dataset), the network's 0, 1, ... "
      '(ids), or colors', choices=LABEL_VALUES)
  alpha: float = flag(0.5, 'weight of the colors in the overlay, where a request does not say', least=0, most=1)
  limits: Limits = group(Limits)
  exif: str | None = flag(None, 'turn images as EXIF says, or keep them stored; default: as in training', choices=EXIF)
  image_alpha: str | None = flag(
      None, 'lay transparent pixels on white (white) or leave transparency out (drop); default: as in training',
      choices=('white', 'drop'))
  value_range: tuple[float, ...] = flag(
      (), 'LOW,HIGH: values of images of more than 8 bits that become black and white; default: as in training')
  tiles: Tiles = group(Tiles)
  views: Views = group(Views, prefix='test_')
  temperature: float | None = flag(
      None, "divide the logits by this number; default: the run's, of evaluate.py --fit_temperature, else 1",
      least=LEAST, most=GREATEST)
  device: Device = group(Device)

  def check(self):
    """Raises UserError if a setting is not valid, or the server's packages are missing."""
    super().check()
    self.told  # noqa: B018, raises if a value is not valid
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
      raise UserError(f'the server needs packages that are not installed ({listed(missing)}): {install("serve")}')

  @property
  def told(self):
    """Dict of the parts of the run's Reading that flags override. Raises UserError if a value is not valid."""
    return ReadingFlags(exif=self.exif, alpha=self.image_alpha, value_range=self.value_range).told

  def open_predictor(self, run):
    """Returns a Predictor of a runs.Run with these settings."""
    if device_type(self.device.gpu) == 'GPU':
      cudnn.take_suggestions()  # pictures come in any size
    temperature = stored_temperature(run) if self.temperature is None else self.temperature
    return Predictor(run, self.device.precision, views=self.views, temperature=temperature, gpu=self.device.gpu,
                     gpu_memory_fraction=self.device.gpu_memory_fraction)
