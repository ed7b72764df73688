"""The results of inference.py: label PNGs in the user's own numbering, overlays, maps of uncertainty, probabilities."""

import contextlib
import dataclasses

import numpy as np

from datasets import submission
from datasets.images import encode_png
from datasets.inputs import Input
from utils.drawing import colors
from utils.errors import UserError, listed
from utils.inference import files, label_files, ledgers, video

UNCERTAINTIES = {
    'variance': "variance of a class's probability, mean of the classes",
    'entropy': 'entropy of the mean, in nats',
    'mutual_information': 'mutual information of label and pass, in nats',
    'margin': '1 minus the lead of the first class over the second',
}
BRIGHTEST = 0.998  # quantile of the uncertainty that is drawn in the brightest color


@dataclasses.dataclass(frozen=True, eq=False)
class Numbering:
  """The values of label PNGs.

  Attributes:
    values: uint8 [C], the value of each class, or [C, 3], its color.
    palette: uint8 [256, 3], the color of each value; None where the values are colors.
  """
  values: np.ndarray
  palette: np.ndarray | None

  def png(self, label):
    """Encodes a label map, uint8 [H, W] of ids, as PNG: bytes."""
    pixels = self.values[label]
    return encode_png(pixels) if self.palette is None else colors.label_png(pixels, self.palette)


def numbering(run, label_values):
  """Makes the Numbering of a run's label PNGs.

  Args:
    run: a runs.Run; `label_values` of its config's dataset holds for each class the value or the color [r, g, b] that
      the user's own labels have. Where it is missing or empty, they have the network's ids.
    label_values: 'dataset' for these, 'ids' for the network's 0, 1, ..., or 'colors' for the run's palette.

  Raises:
    UserError: if the config's values are not valid.
  """
  num_classes = len(run.classes)
  own = run.config['dataset'].get('label_values')
  if label_values == 'colors':
    own = run.palette.tolist()
  elif not own or label_values == 'ids':
    own = list(range(num_classes))
  try:
    values = np.array(own)
    valid = values.dtype.kind == 'i' and values.shape in ((num_classes,), (num_classes, 3))
  except ValueError:  # lists of unequal lengths
    valid = False
  if not valid or values.min() < 0 or values.max() > 255:
    raise UserError(f'{run.folder}/config.json: label_values={own!r}; valid is a value from 0 to 255 for each of the '
                    f'{num_classes} classes, or a color [r, g, b] for each; --label_values=ids does without')
  if values.ndim == 2:
    return Numbering(values.astype(np.uint8), None)
  palette = colors.full_palette(run.palette[:0])  # black but for void
  palette[values] = run.palette
  return Numbering(values.astype(np.uint8), palette)


def described(numbering, classes):
  """Says the values of label PNGs in a line, as 'road 1, car 2'; None where they are the network's ids."""
  values = numbering.values.tolist()
  if values == list(range(len(classes))):
    return None
  pairs = (f'{name} {",".join(map(str, value)) if isinstance(value, list) else value}'
           for name, value in zip(classes, values))
  return f'values of the label PNGs: {listed(pairs, most=8)}'


@dataclasses.dataclass(frozen=True)
class Output:
  """The destination and the form of the results.

  Attributes:
    settings: the InferenceSettings.
    run: the runs.Run.
    server: the Dataset whose evaluation server takes a submission; None for pictures.
    ledger: the ledgers.Ledger of the output folder, through which all files are written.
    numbering: the Numbering of the label PNGs.
    targets: dict from a files.Input to its outputs' path without suffix.
  """
  settings: object
  run: object
  server: object
  ledger: ledgers.Ledger
  numbering: Numbering
  targets: dict

  def paths(self, item):
    """Dict from the kinds of results that are written for a files.Input to their files' paths."""
    settings, target = self.settings, self.targets[item]
    if self.server:
      return {'submission': f'{target}.png'}
    if item.kind == files.VIDEO:
      return video.paths(target, settings)
    kinds = (*settings.outputs, *(['uncertainty'] if settings.labelling.samples else []))
    paths = {kind: f'{target}_{kind}.png' for kind in kinds}
    if 'label' in paths:
      paths |= label_files.paths(item.path, target, is_large=item.kind == files.LARGE)
    return {**paths, 'probabilities': f'{target}_probabilities.npy'} if settings.probabilities else paths


def write(item, output):
  """Writes the pictures for a Labelled.

  Raises:
    UserError: if a file cannot be written.
  """
  run, paths, pictures = output.run, output.paths(item.key), {}
  if 'submission' in paths:
    pictures['submission'] = submission.label_png(item.label, output.server)
  if 'uncertainty' in paths:
    pictures['uncertainty'] = encode_png(draw_uncertainty(item.uncertainty, output.settings))
  if 'world' in paths or paths.get('label', '').endswith('.tif'):
    label_files.write(item.key.path, paths, [item.label], item.label.shape, output)
  elif 'label' in paths:
    pictures['label'] = output.numbering.png(item.label)
  if 'overlay' in paths:
    pictures['overlay'] = overlay_png(item.image, item.label, run, output.settings.alpha)
  for kind, png in pictures.items():
    output.ledger.write_png(paths[kind], png, run)


def overlay_png(image, label, run, alpha):
  """Draws a label's colors over its image, above a legend of the classes present.

  Args:
    image: see stream.Labelled.
    label: uint8 [H, W], label ids.
    run: the runs.Run.
    alpha: weight of the colors.

  Returns:
    bytes of a PNG.
  """
  seen = Input.from_config(run.config)
  picture = colors.false_color(image, seen.reading, seen.bands)
  picture = colors.overlay(picture, label, run.palette, alpha)
  picture = colors.with_legend(picture, np.unique(label), run.classes, run.palette)
  return encode_png(picture, level=1)  # for photographs as small as level 6, in a quarter of the time


def draw_uncertainty(uncertainty, settings):
  """Draws a map of uncertainty, float [H, W], lighter where less certain, with the scale below: uint8 [h, w, 3]."""
  top = float(np.quantile(uncertainty, BRIGHTEST))
  passes = settings.labelling.samples * len(settings.labelling.views.each)
  title = f'{UNCERTAINTIES[settings.uncertainty]}; {passes} passes'
  return colors.with_scale(colors.heat(uncertainty, top), top, title)


@contextlib.contextmanager
def probabilities_file(output, item, shape):
  """Opens NAME_probabilities.npy for writing rows one after the other: all rows need not fit into memory.

  Args:
    output: an Output.
    item: the files.Input.
    shape: (height, width, classes).

  Yields:
    function of float32 [h, W, C], which appends these rows as float16.
  """
  with output.ledger.replacing(output.paths(item)['probabilities']) as temporary, open(temporary, 'wb') as file:
    np.lib.format.write_array_header_1_0(file, {'descr': '<f2', 'fortran_order': False, 'shape': shape})
    yield lambda rows: file.write(rows.astype('<f2').tobytes())
