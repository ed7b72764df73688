"""What the images of a dataset prove about how they are to be read: EXIF, transparency, value range and bands.

Headers are read of all images; pixels only of those that are not plain photographs of 8 bits.
"""

import dataclasses
import os

import numpy as np
import tifffile

from datasets import bands, images
from datasets.dataset import BadFile
from datasets.reading import Decision, Reading
from utils.errors import UserError, listed

_HOW = 'to choose, give --{0}={1} or --{0}={2} (or "{0}" in dataset.json)'


def decide(sources, told):
  """Decides how the images of a dataset are read.

  Args:
    sources: list of the Sources of all splits.
    told: dict of what dataset.json and flags say, see `readers.dataset_file`.

  Returns:
    (Reading, list of Decision).

  Raises:
    UserError: where two readings differ and nothing proves one, naming both.
  """
  paths = {source.image: source for source in sources if isinstance(source.image, (str, os.PathLike))}
  headers = {path: images.read_header(path) for path in paths}
  reading, decisions = _bands(list(headers) or [source.image for source in sources], told)
  steps = (_exif, _alpha, _value_range) if reading.is_plain else (_exif,)
  for step in steps:
    value, decision = step(headers, paths, told)
    reading = dataclasses.replace(reading, **value)
    decisions += [decision] if decision else []
  return reading, decisions


def published(sources):
  """The Reading of a published dataset, whose images are photographs.

  The sizes of labels decide whether images are turned as EXIF says. Where no label shows it, they are left as stored,
  as the tools of their authors read them (MATLAB's imread and OpenCV of the time know no EXIF).
  """
  paths = {source.image: source for source in sources if isinstance(source.image, str)}
  votes = _votes({path: images.read_header(path) for path in paths}, paths)
  return Reading(exif='turn' if len(votes['turn']) > len(votes['stored']) else 'stored')


def _votes(headers, sources):
  """What the labels' sizes prove of the images that EXIF turns: dict of 'turn' and 'stored' -> list of paths."""
  votes = {'turn': [], 'stored': []}
  for path, header in headers.items():
    if header and images.upright_size(header) != header.size:
      size = _label_size(sources[path].label)
      if size in (header.size, images.upright_size(header)):
        votes['stored' if size == header.size else 'turn'].append(path)
  return votes


def _exif(headers, sources, told):
  """Decides whether images are turned: by the sizes of the labels of those that lie on their sides."""
  if 'exif' in told:
    return {'exif': told['exif']}, Decision('exif', _EXIF[told['exif']], 'as told')
  turned = [path for path, header in headers.items() if header and header.orientation != 1]
  votes = _votes(headers, sources)
  if votes['turn'] and votes['stored']:
    raise UserError(f'the labels of {len(votes["turn"])} images such as {votes["turn"][0]} were drawn on them turned '
                    f'as EXIF says, those of {len(votes["stored"])} such as {votes["stored"][0]} on them as stored; '
                    'mend one kind, or ' + _HOW.format('exif', 'turn', 'stored'))
  if not turned:
    return {}, None
  for value, proofs in votes.items():
    if proofs:
      reason = f'{len(proofs)} of {len(turned)} images with an EXIF turn have labels of this size, such as {proofs[0]}'
      return {'exif': value}, Decision('exif', _EXIF[value], reason)
  raise UserError(f'{len(turned)} images such as {turned[0]} have an EXIF turn, and the sizes of their labels do not '
                  'show whether these were drawn on them turned (as viewers show them) or as stored; '
                  + _HOW.format('exif', 'turn', 'stored'))


_EXIF = {'turn': 'images are turned upright as EXIF says', 'stored': 'images are left as stored'}


def _label_size(label):
  """(height, width) of a Source's label; None where it cannot be read."""
  if isinstance(label, np.ndarray):
    return label.shape
  if hasattr(label, 'size'):  # annotations
    return label.size and tuple(label.size)
  header = images.read_header(label)
  return header and header.size


def _alpha(headers, sources, told):
  """Decides whether a fourth band is transparency: by its values in all images that have one."""
  del sources
  if 'alpha' in told:
    return {'alpha': told['alpha']}, Decision('alpha', _ALPHA[told['alpha']], 'as told')
  having = [path for path, header in headers.items() if header and header.has_alpha]
  counts, between = np.zeros(256, np.int64), []
  for path in having:
    try:
      found = np.bincount(images.read_alpha(path).ravel(), minlength=256)
    except BadFile:  # the converter names it
      continue
    counts += found
    if not images.is_transparency(found):
      between.append(path)
  if between:
    raise UserError(f'{len(between)} images such as {between[0]} have a fourth band that is marked as transparency and '
                    'whose values are those of a band (near infrared?); --alpha=band uses it, --alpha=drop leaves it '
                    'out, --alpha=white blends it with white (or "alpha" in dataset.json)')
  if not counts[:255].any():
    return {}, None
  share = counts[:255].sum() / counts.sum()
  return {'alpha': 'white'}, Decision(
      'alpha', _ALPHA['white'], f'{len(having)} images have alpha, mostly 0 or 255, and {share:.1%} below 255')


_ALPHA = {'white': 'transparent pixels lie on white', 'drop': 'colors as stored, transparent or not',
          'band': 'alpha is a band', 'auto': 'transparent pixels lie on white where alpha is transparency'}


def _value_range(headers, sources, told):
  """Decides which values are black and white in images of more than 8 bits: by the greatest value of all."""
  del sources
  wide = [path for path, header in headers.items()
          if header and header.mode in (*images.WIDE_MODES, 'F', 'WIDE') or header is None and images.is_tiff(path)]
  if 'value_range' in told:
    low, high = told['value_range'][0]
    return {'value_range': told['value_range']}, Decision('value_range', f'{low:g} is black, {high:g} white', 'as told')
  limits = []
  for path in wide:
    try:
      values, info = bands.read(path)
    except BadFile:  # the converter names it
      continue
    known = values[bands.has_data(values, info.nodata)]
    if values.dtype != np.uint8 and known.size:
      limits.append((float(known.min()), float(known.max()), values.dtype.kind))
  if not limits:
    return {}, None
  low, high = min(least for least, _, _ in limits), max(most for _, most, _ in limits)
  if any(kind == 'f' for _, _, kind in limits):
    return _float_range(low, high, len(limits))
  if low < 0 or high > 65535:
    raise UserError(f'{len(limits)} images such as {wide[0]} have values from {low:g} to {high:g}; say which become '
                    'black and white: --value_range=LOW,HIGH (or "value_range" in dataset.json)')
  white = images.white_level(high)
  return {'value_range': ((0.0, float(white)),)}, Decision(
      'value_range', f'0 is black, {white} white',
      f'the greatest value of {len(limits)} images of 16 bits is {high:g}, which {white.bit_length()} bits hold')


def _float_range(low, high, count):
  """The value range of images of floating-point numbers: 0 to 1 or 0 to 255 where all lie in it, else as found."""
  least, most = next(((least, most) for least, most in ((0.0, 1.0), (0.0, 255.0)) if least <= low and high <= most),
                     (low, high))
  if least == most:
    raise UserError(f'{count} images of floating-point numbers all hold the value {low:g} alone')
  return {'value_range': ((least, most),)}, Decision(
      'value_range', f'{least:g} is black, {most:g} white',
      f'the values of {count} images of floating-point numbers lie from {low:g} to {high:g}')


@dataclasses.dataclass(frozen=True)
class _Tiff:
  """What a TIFF says of its bands: their number, and whether the last is marked as transparency."""
  num_bands: int
  has_alpha: bool


def _tiff(path):
  """Reads what a TIFF says of its bands; None if it is broken or no TIFF."""
  try:
    with tifffile.TiffFile(path) as file:
      pages = bands.own_pages(file)
      first = pages[0].aspage()
      return _Tiff(first.samplesperpixel * len(pages), any(extra in bands.ALPHA for extra in first.extrasamples))
  except Exception:  # the converter names it
    return None


def _bands(paths, told):
  """Decides whether images have bands of their own, beside red, green and blue, or values to be kept as they are."""
  tiffs = {path: _tiff(path) for path in paths if isinstance(path, str) and images.is_tiff(path)}
  wider = {path: tiff for path, tiff in tiffs.items() if tiff and (
      tiff.num_bands not in (1, 3) and not (tiff.num_bands == 4 and tiff.has_alpha and told.get('alpha') != 'band'))}
  if not wider and 'bands' not in told and told.get('alpha') != 'band':
    return Reading(), []
  example = next(iter(wider or paths))
  array, info = bands.read(example[0] if isinstance(example, tuple) else example)
  names = told.get('bands') or info.names or tuple(f'band {place + 1}' for place in range(array.shape[-1]))
  why = 'as told' if 'bands' in told else f'{example} has {array.shape[-1]} bands'
  reading = Reading(bands=tuple(names), dtype=array.dtype.name, alpha=told.get('alpha', 'auto'),
                    value_range=told.get('value_range', ()))
  found = [Decision('bands', f'{listed(names, 8)}, kept as {array.dtype}', why)]
  if not reading.value_range and reading.dtype != 'uint8':
    reading = dataclasses.replace(reading, value_range=_ranges(paths, reading))
    shown = listed((f'{low:g} to {high:g}' for low, high in reading.value_range), 8)
    found.append(Decision('value_range', shown, 'values of each band in all images, but for 0.1 % at both ends'))
  return reading, found


def _ranges(paths, reading):
  """The range of each band's values, without the lowest and the highest 0.1 % of each image: ((low, high), ...)."""
  lows, highs = [], []
  for path in paths:
    try:
      low, high = bands.percentiles(path, reading, (0.1, 99.9))
    except BadFile:  # the converter names it
      continue
    lows.append(low)
    highs.append(high)
  if not lows:
    return ()
  pairs = np.stack([np.fmin.reduce(lows), np.fmax.reduce(highs)], axis=1)  # a band without data in one image is NaN
  pairs = np.where(np.isnan(pairs), 0, pairs).tolist()
  return tuple((low, high if high > low else low + 1) for low, high in pairs)
