"""The meaning of the pixels of the user's own labels, decided once for a whole dataset from what proves it.

- 'ids': gray values and palette indices are raw ids.
- 'colors': colors stand for classes, also those of a palette and of gray.
- values: numbers of the user's own stand for classes, as 0 and 255 in masks.

Where nothing proves one of two readings that differ, the dataset is refused, and both are named.
"""

import collections
import dataclasses
import functools

import numpy as np

from datasets import images, label_pictures
from datasets.dataset import BadFile
from datasets.readers import color_labels
from datasets.reading import Decision
from utils.errors import UserError, listed
from utils.labels import IGNORE_LABEL

KINDS = ('ids', 'colors')
IGNORE = 'ignore'  # word for void among the names of classes
_HOW = 'to choose, give --labels={} (or "labels" in dataset.json)'


@dataclasses.dataclass(frozen=True)
class Meaning:
  """How labels are read.

  Attributes:
    read_label: `read_label(path)` -> raw ids, uint8 [H, W]; see `Dataset.read_label`.
    values: dict of raw id -> value (int) or color (r, g, b) in the labels.
    decisions: list of Decision.
  """
  read_label: object
  values: dict
  decisions: list


def read_values(path, values):
  """Reads a label whose gray values or palette indices stand for classes as the user says.

  Args:
    path: file name of the picture.
    values: tuple of (value, raw_id).

  Returns:
    raw ids, uint8 [H, W].

  Raises:
    BadFile: as `label_pictures.read_label`; or naming the first value that is not among them.
  """
  raw = label_pictures.read_label(path)
  table = np.full(256, -1, np.int16)
  for value, raw_id in values:
    table[value] = raw_id
  return label_pictures.to_ids(raw, table, path)


def decide(paths, classes, *, labels=None, transparent=None):
  """Decides how the labels of a dataset are read.

  Args:
    paths: list of the label pictures.
    classes: list of ClassLine.
    labels: 'ids', 'colors', or a dict of value (int) -> name of a class or 'ignore'; None: what the files prove.
    transparent: name of the class of wholly transparent pixels, or 'ignore'; None: the color beneath.

  Returns:
    a Meaning.

  Raises:
    UserError: where two readings differ and nothing proves one, naming both; or where classes lack the colors that the
      labels need.
  """
  raw_ids = {line.name: line.raw_id for line in classes} | {IGNORE: IGNORE_LABEL}
  check_names({'labels': labels, 'transparent': transparent}, classes, '--labels')
  if isinstance(labels, dict):
    values = tuple((value, raw_ids[name]) for value, name in labels.items())
    told = ', '.join(f'{value} is {name}' for value, name in labels.items())
    return Meaning(functools.partial(read_values, values=values), {raw_id: value for value, raw_id in values},
                   [Decision('labels', told, 'as told')])
  headers = {path: header for path in paths if (header := images.read_header(path))}
  decision = None
  if labels is None:
    labels, decision = _kind(headers, classes)
  else:
    decision = Decision('labels', f'read as {labels}', 'as told')
  if labels == 'colors':
    return _by_colors(headers, classes, transparent and raw_ids[transparent], decision)
  values = {line.raw_id: line.raw_id for line in classes}
  return Meaning(label_pictures.read_label, values, [decision] if decision else [])


def check_names(told, classes, where):
  """Checks the names of classes among what the user says of labels.

  Args:
    told: dict of what the user says, see `dataset_file`.
    classes: list of ClassLine.
    where: the file or the flag, for the message.

  Raises:
    UserError: naming one that is no class.
  """
  names, labels = {IGNORE, *(line.name for line in classes)}, told.get('labels')
  for name in (*(labels.values() if isinstance(labels, dict) else ()), *filter(None, [told.get('transparent')])):
    if name not in names:
      raise UserError(f'{where}: {name!r} is no class; valid are {listed(sorted(names), 20)}')


def _by_colors(headers, classes, transparent, decision):
  """The Meaning of colors. Raises UserError if a class has none."""
  for line in classes:
    if not line.color:
      example = next(iter(headers), 'the labels')
      raise UserError(f'{line.where}: the class {line.name!r} has no color, but labels such as {example} are read by '
                      f'their colors (ids are to be grayscale or palette pictures); add it, as in "road 128,64,128"')
  colors = {line.color: line.raw_id for line in classes}
  read_label = functools.partial(color_labels.read_color_label, colors=tuple(colors.items()), transparent=transparent)
  return Meaning(read_label, {raw_id: color for color, raw_id in colors.items()}, [decision] if decision else [])


def _kind(headers, classes):
  """Decides between 'ids' and 'colors'. Returns (kind, Decision or None)."""
  groups = collections.defaultdict(list)
  for path, header in headers.items():
    groups['palette' if header.mode == 'P' else 'gray' if header.mode in _GRAY_MODES else 'colors'].append(path)
  has_colors = any(line.color for line in classes)
  if groups['colors']:
    if not has_colors and not groups['palette'] and all(map(_is_gray, groups['colors'][:_PROOFS])):
      _refuse_masks([*groups['colors'], *groups['gray']], classes)
      return 'ids', Decision('labels', 'ids', f'{len(groups["colors"])} labels are RGB pictures whose red, green and '
                                              'blue are equal')
    _refuse_mixed(groups, classes)
    return 'colors', Decision('labels', 'colors', f'{len(groups["colors"])} of {len(headers)} labels are RGB pictures')
  kind, decision = _kind_of_palettes(groups['palette'], headers, classes) if groups['palette'] else (None, None)
  if kind == 'ids' and not has_colors:
    _refuse_masks([*groups['palette'], *groups['gray']], classes)
    return kind, decision
  if not groups['gray']:
    return kind or 'ids', decision
  if kind == 'colors':
    _refuse_mixed({'colors': groups['palette'], 'gray': groups['gray'], 'palette': []}, classes)
    return kind, decision
  gray_kind, gray_decision = _kind_of_grays(groups['gray'], classes)
  if kind and gray_kind != kind:
    raise UserError(f'labels must all be of one kind: {listed(groups["palette"], 1)} is a palette picture of ids, and '
                    f'{listed(groups["gray"], 1)} a gray one whose values are colors of classes; '
                    + _HOW.format('ids, or --labels=colors'))
  return gray_kind, gray_decision or decision


_GRAY_MODES = ('L', '1', 'LA', *images.WIDE_MODES)
_PROOFS = 8  # labels that are looked at where each one is checked again when it is converted


def _is_gray(path):
  try:
    label_pictures.read_label(path)
  except BadFile:
    return False
  return True


def _refuse_mixed(groups, classes):
  """Raises UserError if a gray or palette picture among colored ones has a color that is no class's."""
  known = {line.color for line in classes}
  others = [*groups['palette'], *groups['gray']]
  ids = [path for path in others if not colors_of(path) <= known]
  if ids:
    raise UserError(f'labels must all be of one kind: {len(groups["colors"])} are RGB colors, such as '
                    f'{groups["colors"][0]}, and {len(ids)} are grayscale or palette pictures of ids, such as {ids[0]}')


def colors_of(path):
  """Set of the colors of a label picture; empty if it cannot be read."""
  try:
    rgb, clear = color_labels.read_colors(path)
  except BadFile:  # the converter names it
    return set()
  rgb = rgb.reshape(-1, 3) if clear is None else rgb[~clear]
  return set(map(tuple, np.unique(rgb, axis=0).tolist()))


def _values_of(path):
  """The values of a label picture, sorted; empty if it cannot be read."""
  try:
    return np.flatnonzero(np.bincount(label_pictures.read_label(path).ravel(), minlength=256)).tolist()
  except BadFile:
    return []


def _kind_of_palettes(paths, headers, classes):
  """Decides for palette pictures: by their colors, where these are the classes' and contradict the ids."""
  colors = {line.raw_id: line.color for line in classes if line.color}
  palettes = collections.defaultdict(list)
  for path in paths:
    palettes[headers[path].palette].append(path)
  if len(palettes) == 1 and all(_color_at(*palettes, raw_id) in (None, color) for raw_id, color in colors.items()):
    return 'ids', None  # ids and colors say the same, or there are no colors
  shown = {}  # (id, color) -> first file that shows it so
  for palette, group in palettes.items():
    for path in group:
      for value in _values_of(path):
        shown.setdefault((value, _color_at(palette, value)), path)
  if not colors:
    return 'ids', _one_palette(shown)
  by_color, void = {color: raw_id for raw_id, color in colors.items()}, {
      IGNORE_LABEL, *(line.raw_id for line in classes if line.ignore)}
  wrong = [(value, color) for value, color in shown
           if color in by_color and by_color[color] != value and not {by_color[color], value} <= void
           and not (value == IGNORE_LABEL and (by_color[color], color) in shown)]  # void, behind a padded palette
  unknown = [(value, color) for value, color in shown if color not in by_color]
  if not wrong:
    return 'ids', Decision('labels', 'ids', 'the colors of the palettes contradict no id')
  names = {line.raw_id: line.name for line in classes}
  value, color = wrong[0]
  text = f'{shown[wrong[0]]} shows id {value} in the color {_text(color)}, which is that of {names[by_color[color]]!r}'
  if not unknown:
    return 'colors', Decision('labels', 'colors of the palettes', f'{text}, and all colors are those of classes')
  raise UserError(f'the labels may be ids or colors: {text} (id {by_color[color]}), but {shown[unknown[0]]} shows id '
                  f'{unknown[0][0]} in {_text(unknown[0][1])}, the color of no class; '
                  + _HOW.format('ids or --labels=colors'))


def _one_palette(shown):
  """Raises UserError if one id has two colors; returns no Decision."""
  first = {}
  for (value, color), path in shown.items():
    if color and first.setdefault(value, (color, path))[0] != color:
      raise UserError(f'the palettes of the labels contradict each other: id {value} is {_text(first[value][0])} in '
                      f'{first[value][1]} and {_text(color)} in {path}; give the classes their colors in the class '
                      'list, then these decide, or --labels=ids (or "labels" in dataset.json) if the ids are right')


def _color_at(palette, index):
  """Color of a palette's entry; None beyond its end, where viewers show black."""
  return tuple(palette[3 * index:3 * index + 3]) if 3 * index + 3 <= len(palette) else None


def _kind_of_grays(paths, classes):
  """Decides for gray pictures: ids, or the gray colors of classes."""
  grays = {line.color[0]: line.raw_id for line in classes if line.color and len(set(line.color)) == 1}
  valid = {line.raw_id for line in classes} | {IGNORE_LABEL}
  if any(raw_id != value for value, raw_id in grays.items()):
    values = sorted(set().union(*map(_values_of, paths)))
    kind, decision = _ids_or_grays(values, grays, valid, classes)
  else:
    kind, decision = 'ids', None
  if kind == 'ids':
    _refuse_masks(paths, classes)
  return kind, decision


def _refuse_masks(paths, classes):
  """Raises UserError if labels hold no id but 0 and 255: then these, or 0, 128 and 255, may stand for the classes."""
  valid, values = {line.raw_id for line in classes}, set()
  for path in _spread(paths):
    values |= set(_values_of(path))
    if values & valid - {0, IGNORE_LABEL}:
      return
  if values - {0}:
    _refuse_values(sorted(values), classes, paths)


def _ids_or_grays(values, grays, valid, classes):
  """Decides between ids and gray colors by all values of the labels."""
  as_ids, as_grays = set(values) <= valid, set(values) <= grays.keys()
  if as_ids and all(grays.get(value, value) == value for value in values):
    return 'ids', None
  shown = listed(values, 8)
  if as_grays != as_ids:
    kind = 'colors' if as_grays else 'ids'
    what = 'gray colors of classes' if as_grays else 'ids of classes'
    return kind, Decision('labels', kind, f'the values {shown} of the gray labels are {what}')
  if as_grays and _missing(values, classes) and not _missing([grays[value] for value in values], classes):
    return 'colors', Decision('labels', 'colors', f'the values {shown} of the gray labels are the colors of all '
                                                  f'classes; as ids {_missing(values, classes)[0]!r} would never occur')
  if as_grays:
    raise UserError(f'the values {shown} of the gray labels are ids of classes and gray colors of others; '
                    + _HOW.format('ids or --labels=colors'))
  return 'ids', None  # the converter names what is out of range


def _missing(raw_ids, classes):
  """Names of the classes that are not ignored and whose raw id is not among `raw_ids`."""
  return [line.name for line in classes if not line.ignore and line.raw_id not in raw_ids]


def _refuse_values(values, classes, paths):
  """Raises UserError for gray labels of which no value but 0 and 255 is an id: masks with values of their own."""
  missing = _missing(values, classes)
  if not missing:
    return
  first = f'as ids, {listed(map(repr, missing))} never occur{"s" * (len(missing) == 1)}, '
  first += '255 is void' if IGNORE_LABEL in values else f'and {values[-1]} is no id'
  names = [line.name for line in classes if line.raw_id != IGNORE_LABEL]
  told = ','.join(f'{value}:{name}' for value, name in zip(values, names))
  second = f'in order, {" and ".join(f"{value} is {name}" for value, name in zip(values, names))}'
  if len(values) != len(names):
    told, second = ','.join(f'{value}:CLASS' for value in values), 'or the values stand for classes in another way'
  raise UserError(f'{len(paths)} labels such as {paths[0]} hold the values {listed(values, 8)} alone: {first}; '
                  f'{second}; ' + _HOW.format(f'"{told}" or --labels=ids'))


def _spread(paths):
  """The paths in an order that soon reaches all parts of a list: every 64th, then the others."""
  return [path for start in range(64) for path in paths[start::64]]


def _text(color):
  return ','.join(map(str, color)) if color else 'no color'
