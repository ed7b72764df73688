"""The settings of python -m utils.export."""

import dataclasses

from utils.errors import UserError
from utils.export.formats import FORMATS, QUANTIZATIONS
from utils.inference.temperature import temperature_flag
from utils.installation import require
from utils.settings import Settings, flag

ALL = 'all'
CALIBRATION_IMAGES = 32


@dataclasses.dataclass(frozen=True)
class ExportSettings(Settings):
  """Flags of this program."""
  ckpt: str = flag(None, "run's folder, or a checkpoint in it", required=True, path=True)
  format: tuple[str, ...] = flag((), f'what to write: {", ".join(FORMATS)}, several by commas, or {ALL}',
                                 choices=(*FORMATS, ALL), required=True)
  quantize: str | None = flag(
      None, 'numbers stored in less: float16, int8_weights, or int8, which also computes in int8; default: float32',
      choices=QUANTIZATIONS)
  size: tuple[int, ...] = flag((), 'H,W: images of this size alone; default: any size', least=1, length=2)
  output_dir: str | None = flag(None, "folder to write to; default: export in the run's", path=True)
  test_flip: bool = flag(False, 'average with the probabilities of the mirrored image, in the file')
  temperature: float | None = temperature_flag()
  split: str = flag('val', "split on whose images labels are compared with the run's own")
  data_dir: str | None = flag(None, "folder with the TFRecords; default: the training's own", path=True)
  num_images: int = flag(16, 'number of these images', least=1)
  least_equal: float | None = flag(
      None, 'share of the pixels that must have the same label; default: by --quantize, see docs/export.md', least=0,
      most=1)
  calibration_images: int | None = flag(
      None, f'images of train by which int8 is calibrated; default: {CALIBRATION_IMAGES}', least=1)

  def check(self):
    """Raises UserError if a setting is not valid, does not fit another, or a package is missing."""
    super().check()
    if not self.formats:
      raise UserError(f'--format=: valid are {", ".join((*FORMATS, ALL))}')
    if self.calibration_images and self.quantize != 'int8':
      raise UserError(f'--calibration_images={self.calibration_images} is for --quantize=int8, which is not given')
    for name in self.formats:
      form = FORMATS[name]
      if self.quantize and self.quantize not in form.quantize:
        raise UserError(f'--format={name} has no --quantize={self.quantize}; '
                        + (f'it has {", ".join(form.quantize)}' if form.quantize else 'it is always float32'))
      if name == 'tflite' and self.quantize == 'int8' and not self.size:
        raise UserError('--quantize=int8 for tflite needs --size=H,W: at sizes beyond those of the calibration its '
                        'positions of pixels are wrong; --quantize=int8_weights takes any size')
      require((*form.packages, *form.quantize.get(self.quantize, ())), f'--format={name}', 'export')

  @property
  def formats(self):
    """Names of the formats to write, each once; `all` stands for those that have the quantization."""
    if ALL in self.format:
      return [name for name, form in FORMATS.items() if not self.quantize or self.quantize in form.quantize]
    return list(dict.fromkeys(self.format))
