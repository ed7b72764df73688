"""How a dataset's pictures are read: decided once for the whole dataset, then the same wherever a picture is read."""

import dataclasses
import math

import numpy as np

from utils.errors import UserError, brief, shown

EXIF = ('turn', 'stored')
ALPHA = ('auto', 'white', 'drop', 'band')
DTYPES = ('uint8', 'uint16', 'float32')
COLORS = ('red', 'green', 'blue')


@dataclasses.dataclass(frozen=True)
class Reading:
  """How pictures become arrays, in conversion as in inference.

  `SPLIT.json` of the TFRecords and a run's config.json keep it as `reading`.

  Attributes:
    exif: 'turn': images are turned upright, as their EXIF orientation says; 'stored': they are left as stored, since
      the labels were drawn so.
    alpha: 'white': transparent pixels lie on white; 'drop': the colors as stored; 'band': alpha is a band as any other;
      'auto': 'white' where alpha is transparency, and refused where it varies as an image does.
    bands: names of the bands of the images; () for red, green and blue in 8 bits, which are kept as JPEG or PNG.
      Others are kept as raw values of `dtype`.
    dtype: type of the values of `bands`, one of DTYPES.
    value_range: ((low, high), ...) for each band, or one for all: the values that become 0 and 255 when an image enters
      a network. () for the whole range of the type, 0 to 255 or 0 to 65535; 16-bit images that use a small part of
      it are refused then.
  """
  exif: str = 'turn'
  alpha: str = 'auto'
  bands: tuple = ()
  dtype: str = 'uint8'
  value_range: tuple = ()

  def __post_init__(self):
    """Raises UserError if there is neither one value range nor one for each band."""
    if not self.bands and len(self.value_range) > 1:
      raise UserError(f'value_range has {len(self.value_range)} pairs; photographs without named bands have one')
    if self.bands and len(self.value_range) not in (0, 1, len(self.bands)):
      raise UserError(f'value_range has {len(self.value_range)} pairs, and the images have {len(self.bands)} bands; '
                      'one pair for all or one for each is wanted')

  @property
  def is_plain(self):
    """Whether images are kept as JPEG or PNG: red, green and blue in 8 bits."""
    return not self.bands

  @property
  def names(self):
    """Tuple of the names of all bands of an image: red, green and blue for plain photographs."""
    return self.bands or COLORS

  def to_json(self):
    """Returns the reading as a dict that JSON can hold."""
    return {**dataclasses.asdict(self), 'bands': list(self.bands), 'value_range': [list(p) for p in self.value_range]}

  @classmethod
  def from_json(cls, value):
    """Makes a Reading of what `to_json` gave; of None or {}, the reading of plain photographs.

    Raises:
      UserError: if it is nothing that `to_json` gives.
    """
    try:
      value = dict(value or {})
      found = cls(**{**value, 'bands': tuple(value.get('bands', ())),
                     'value_range': tuple(tuple(pair) for pair in value.get('value_range', ()))})
      valid = (found.exif in EXIF and found.alpha in ALPHA and found.dtype in DTYPES
               and all(isinstance(band, str) for band in found.bands)
               and all(-math.inf < low <= high < math.inf for low, high in found.value_range))
    except (TypeError, ValueError):
      valid = False
    if not valid:
      raise UserError(f'the reading {brief(value)} of pictures was not written by this project')
    return found

  def limits(self, num_bands):
    """Returns (low, high), two float32 [num_bands]: the values that become 0 and 255."""
    pairs = self.value_range or ((0, 65535 if self.dtype == 'uint16' else 255),)
    low, high = np.array(pairs * (num_bands if len(pairs) == 1 else 1), np.float32).T
    return low, high

  @property
  def stored_limits(self):
    """(low, high) of an image as it is kept, numbers or the arrays of `limits`: photographs are kept in 0 to 255."""
    return (0, 255) if self.is_plain else self.limits(len(self.bands))

  def shown(self, bands=()):
    """Chooses the bands that stand for red, green and blue in a picture in false color.

    Args:
      bands: places of the bands to choose from; () for all.

    Returns:
      three places: those of red, green and blue if all three are there, else of the first three bands; of two, the
      first and twice the second; of one, three times this one, which looks gray.
    """
    bands = tuple(bands) or tuple(range(len(self.names)))
    colors = colors_of(self.names[place] for place in bands)
    if {0, 1, 2} <= {*colors}:
      return tuple(bands[colors.index(color)] for color in range(3))
    return (*bands, *bands[-1:] * 2)[:3]


def colors_of(names):
  """For each band's name its place among COLORS, else None; in any case, and of several reds the first.

  The first letters do for words where all three are there: a band `b` beside `a` and `c` is not blue.
  """
  names = [name.lower() for name in names]
  letters = [color[0] for color in COLORS]
  known = {**{color: place for place, color in enumerate(COLORS)},
           **({letter: place for place, letter in enumerate(letters)} if {*letters} <= {*names} else {})}
  found = [known.get(name) for name in names]
  return tuple(None if color in found[:place] else color for place, color in enumerate(found))


@dataclasses.dataclass(frozen=True)
class Decision:
  """One decision about a whole dataset.

  Attributes:
    about: what was decided: 'exif', 'alpha', 'value_range', 'bands' or 'labels': the key of dataset.json that overrides
      it.
    value: what was decided, in words.
    reason: what proves it, in words.
  """
  about: str
  value: str
  reason: str

  def __str__(self):
    return shown(f'{self.about}: {self.value} ({self.reason})')
