"""What of a picture enters a network: chosen bands, on the scale 0..255 that all networks are made for."""

import dataclasses

import numpy as np

from datasets.reading import COLORS, Reading, colors_of
from utils.compat import tf
from utils.errors import UserError, brief, listed


@dataclasses.dataclass(frozen=True)
class Input:
  """The bands that a network sees.

  Attributes:
    reading: Reading of the pictures.
    bands: places of the chosen bands in `reading.names`, in the network's order, from 0; () for all.
  """
  reading: Reading = Reading()
  bands: tuple = ()

  @classmethod
  def from_config(cls, config):
    """The Input of a run, by its config.json; of a run before there were bands, plain photographs.

    Raises:
      UserError: if its reading is not valid, or a band is none of the pictures'.
    """
    reading, bands = Reading.from_json(config['dataset'].get('reading')), config['network'].get('bands') or ()
    known = range(1, len(reading.names) + 1)
    if not isinstance(bands, (list, tuple)) or not all(type(number) is int and number in known for number in bands):
      raise UserError(f'the bands {brief(bands)} of a config.json: valid are numbers from 1 to {known[-1]}')
    return cls(reading, tuple(number - 1 for number in bands))

  @property
  def numbers(self):
    """List of the numbers of the chosen bands, from 1, as config.json keeps them; [] for all."""
    return [place + 1 for place in self.bands]

  @property
  def places(self):
    """Tuple of the places of the network's bands among the picture's."""
    return self.bands or tuple(range(len(self.reading.names)))

  @property
  def names(self):
    """Tuple of the names of the network's bands."""
    return tuple(self.reading.names[place] for place in self.places)

  @property
  def colors(self):
    """For each of the network's bands 0, 1 or 2 if it is red, green or blue, else None.

    The names say so; and any three chosen bands are red, green and blue in their order, as in pictures in false color,
    unless their names say that they are these colors in another order.
    """
    colors = colors_of(self.names)
    return (0, 1, 2) if len(self.bands) == len(COLORS) and None in colors else colors

  @property
  def is_photograph(self):
    """Whether the network sees red, green and blue, in this order."""
    return colors_of(self.names) == (0, 1, 2)

  @property
  def shown(self):
    """Three places among the network's bands: those drawn as red, green and blue."""
    return tuple(self.places.index(place) for place in self.reading.shown(self.bands))

  def levels(self, images):
    """Takes pictures to what the network sees.

    Args:
      images: [..., N] of the reading's dtype, all bands of the pictures.

    Returns:
      float32 [..., len(names)] in 0..255: the ends of each band's value range become 0 and 255, values beyond them too.
      NaN becomes 0.
    """
    images, (low, high) = tf.cast(images, tf.float32), self.reading.limits(len(self.reading.names))
    if not self.reading.is_plain:
      images -= low  # before bands are chosen: else converters choose among the stored ones, and LiteRT has no uint16
    if self.bands:
      images = tf.gather(images, self.bands, axis=-1)
    if self.reading.is_plain:
      return images
    images = tf.clip_by_value(images * (255 / np.maximum(high - low, 1e-30))[list(self.places)], 0.0, 255.0)
    return tf.where_v2(tf.is_nan(images), 0.0, images) if self.reading.dtype == 'float32' else images


def chosen(reading, bands):
  """Makes the Input of a dataset's Reading and the bands that --bands chooses.

  Args:
    reading: a Reading.
    bands: names of bands, or their numbers from 1, as text; none for all.

  Raises:
    UserError: if there is no such band, or one is named twice.
  """
  places = []
  for band in bands:
    if band in reading.names:
      places.append(reading.names.index(band))
    elif band.isascii() and band.isdecimal() and 1 <= int(band) <= len(reading.names):
      places.append(int(band) - 1)
    else:
      raise UserError(f'--bands={",".join(bands)}: there is no band {band}; the images have '
                      + listed((f'{place} {name}' for place, name in enumerate(reading.names, start=1)), 20))
    if places[-1] in places[:-1]:
      raise UserError(f'--bands={",".join(bands)}: band {band} is named twice')
  return Input(reading, tuple(places))
