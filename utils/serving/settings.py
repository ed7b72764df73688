"""The settings of the server (python -m utils.serve)."""

import dataclasses

from utils import cudnn
from utils.inference.predictor import Predictor
from utils.inference.settings import LABEL_VALUES, Pictures
from utils.inference.temperature import temperature_flag, temperature_of
from utils.inference.tiles import Tiles
from utils.inference.tta import Views
from utils.installation import require
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
  pictures: Pictures = group(Pictures)
  tiles: Tiles = group(Tiles)
  views: Views = group(Views, prefix='test_')
  temperature: float | None = temperature_flag()
  device: Device = group(Device)

  def check(self):
    """Raises UserError if a setting is not valid, or the server's packages are missing."""
    super().check()
    require(PACKAGES, 'the server', 'serve')


  def open_predictor(self, run):
    """Returns a Predictor of a runs.Run with these settings."""
    if device_type(self.device.gpu) == 'GPU':
      cudnn.take_suggestions()  # pictures come in any size
    temperature = temperature_of(run, self.temperature)
    return Predictor(run, self.device.precision, views=self.views, temperature=temperature, gpu=self.device.gpu,
                     gpu_memory_fraction=self.device.gpu_memory_fraction)
