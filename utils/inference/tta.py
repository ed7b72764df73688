"""Test-time averaging: one image seen in several ways, in other sizes and mirrored, and the answers averaged."""

import dataclasses
import math

from absl import flags

from utils.errors import UserError

flags.disclaim_key_flags()  # so that --help lists what define_flags defines among the script's own

LEAST_SCALE, GREATEST_SCALE = 0.1, 4.0  # the greatest costs 16 times the time and the memory


@dataclasses.dataclass(frozen=True)
class Views:
  """The ways in which an image is seen; by default as it is, and no more.

  Attributes:
    flip: whether every size is seen mirrored, left to right, as well.
    scales: factors of the sizes.
  """
  flip: bool = False
  scales: tuple[float, ...] = (1.0,)

  @property
  def each(self):
    """List of (scale, whether mirrored), a pair a view."""
    return [(scale, mirrored) for scale in self.scales for mirrored in ((False, True) if self.flip else (False,))]

  @property
  def plain(self):
    """Whether an image is seen as it is alone."""
    return self.each == [(1.0, False)]

  @property
  def enlargement(self):
    """How many times the pixels of the image the largest view has; 1 where all are smaller."""
    return max(1.0, *self.scales)**2


def scaled_size(size, scale):
  """Returns (height, width) of a view of an image of `size` (height, width), each at least 1."""
  return tuple(max(1, math.floor(length * scale + 0.5)) for length in size)


def define_flags():
  """Defines --test_flip and --test_scales for a script; only the script reads them."""
  flags.DEFINE_bool('test_flip', False, 'average with what the network says of the mirrored image')
  flags.DEFINE_list('test_scales', ['1'], 'average over these sizes of the image, as 0.75,1,1.25')


def from_flags(values):
  """Returns the Views that a script's flags ask for.

  Args:
    values: absl's FLAGS, or anything else with these attributes.

  Raises:
    UserError: if a scale is no number or out of range, or none is given.
  """
  return Views(values.test_flip, tuple(_scale(text, values.test_scales) for text in values.test_scales or ['']))


def _scale(text, given):
  try:
    scale = float(text)
  except ValueError:
    scale = math.nan
  if not LEAST_SCALE <= scale <= GREATEST_SCALE:  # so for nan
    raise UserError(f'--test_scales={",".join(given)}: valid are numbers from {LEAST_SCALE:g} to {GREATEST_SCALE:g} '
                    'with commas between, as 0.75,1,1.25')
  return scale
