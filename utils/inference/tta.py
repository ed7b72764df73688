"""Test-time augmentation: an image is labeled in several views, scaled and mirrored, and the probabilities averaged."""

import dataclasses
import math

from utils.errors import UserError
from utils.settings import Settings, flag

LEAST_SCALE, GREATEST_SCALE = 0.1, 4.0  # the greatest scale costs 16 times the time and the memory


@dataclasses.dataclass(frozen=True)
class Views(Settings):
  """The views of an image; by default the original image alone.

  Attributes:
    flip: whether each scale is also mirrored, left to right.
    scales: factors on height and width.
  """
  flip: bool = flag(False, 'average with the probabilities of the mirrored image')
  scales: tuple[float, ...] = flag((1.0,), 'average over these sizes of the image, as 0.75,1,1.25', least=LEAST_SCALE,
                                   most=GREATEST_SCALE)

  def check(self):
    """Raises UserError if a scale is not valid, or there is none."""
    super().check()
    if not self.scales:
      raise UserError(f'--test_scales=: valid are numbers from {LEAST_SCALE:g} to {GREATEST_SCALE:g}, separated '
                      'by commas, as 0.75,1,1.25')

  @property
  def each(self):
    """List of (scale, whether mirrored), a pair for each view."""
    return [(scale, mirrored) for scale in self.scales for mirrored in ((False, True) if self.flip else (False,))]

  @property
  def plain(self):
    """Whether the only view is the original image."""
    return self.each == [(1.0, False)]

  @property
  def enlargement(self):
    """Number of pixels of the largest view over that of the image; 1 if no view is larger than the image."""
    return max(1.0, *self.scales)**2


def scaled_size(size, scale):
  """Returns (height, width) of a view of an image of `size` (height, width), each at least 1."""
  return tuple(max(1, math.floor(length * scale + 0.5)) for length in size)
