"""Reports of robustness.py: the table, the chart and the sheet of pictures, and an earlier result beside them."""

import contextlib
import itertools
import os
import re

import numpy as np
from PIL import Image

from utils.drawing import charts, colors, gallery
from utils.errors import UserError, listed
from utils.evaluation import metrics
from utils.evaluation.corruptions import Task, corrupted
from utils.evaluation.robustness import mean_ious, totals
from utils.files import read_json

_SETUP = ('split', 'hold_out', 'num_images', 'precision', 'engine', 'temperature', 'samples', 'test_flip',
          'test_scales', 'crf', 'seed')
_TEMPERATURE = re.compile(r'-temperature_[\d.]+(?=-)')  # in the names of results, see run.variant


def read_before(path, own, asked, classes):
  """Reads the JSON to compare with.

  Args:
    path: the JSON, or a folder with one of the same name as `own`.
    own: path of this evaluation's JSON.
    asked: a settings.Corruptions.
    classes: class names of this evaluation.

  Returns:
    its content.

  Raises:
    UserError: if it is not there, of other classes, or lacks a corruption or severity that is asked for.
  """
  if os.path.isdir(path):
    path = _named_alike(path, os.path.basename(own))
  value = read_json(path)
  if not (isinstance(_part(value, 'corruptions'), dict) and isinstance(_part(value, 'class_iou'), dict)
          and isinstance(_part(value, 'mean_iou'), (int, float))):
    raise UserError(f'--compare: {path} is no result of evaluate.py --corruptions')
  missing = [f'{name} at severity {severity}' for name in asked.names for severity in asked.severities
             if not isinstance(_part(value, 'corruptions', name, str(severity), 'mean_iou'), (int, float))]
  if missing:
    raise UserError(f'--compare: {path} lacks {listed(missing, 3)}')
  if list(value['class_iou']) != list(classes):
    raise UserError(f'--compare: {path} is of other classes')
  return value


def _part(value, *keys):
  """What a JSON's value holds under keys within keys; None without."""
  for key in keys:
    value = value.get(key) if isinstance(value, dict) else None
  return value


def _named_alike(folder, name):
  """Path of the JSON in a folder that has the same name but for the temperature in it, which every run has for itself.

  Raises:
    UserError: if there are several, none of which has this one's.
  """
  path = os.path.join(folder, name)
  if os.path.exists(path):
    return path
  found = sorted(other for other in os.listdir(folder) if _TEMPERATURE.sub('', other) == _TEMPERATURE.sub('', name))
  if len(found) > 1:
    raise UserError(f'--compare={folder} holds {listed(found)}; name one of them')
  return os.path.join(folder, *found) if found else path


def differences(value, before):
  """Names of the settings, such as `seed`, in which two JSONs' contents differ: they hamper a comparison."""
  return [name for name in _SETUP if value.get(name) != before.get(name)]


def table(value, before=None):
  """Lays out mean IoUs in percent: a row for each corruption with its severities and their mean; mPC and rPC.

  Args:
    value: content of a JSON, from `measure`.
    before: content of another with the same corruptions, whose means stand beside; or None.

  Returns:
    str of several lines.
  """
  names, severities = list(value['corruptions']), value['severities']
  heads = [*map(str, severities), 'mean', *(['before', 'change'] if before else [])]
  lines = [('mean IoU % by severity', *heads)]
  then = mean_ious(before, names, severities) if before else {}
  for name, row in mean_ious(value, names, severities).items():
    lines.append((name, *map(metrics.percent, row), *_means(np.mean(row), np.mean(then[name]) if then else None)))
  blank = [''] * len(severities)
  totals_then = totals(then, before['mean_iou']) if then else {}
  lines.append(('mPC, mean of the means', *blank, *_means(value['mpc'], totals_then.get('mpc'))))
  lines.append(('clean', *blank, *_means(value['mean_iou'], before and before['mean_iou'])))
  if value['rpc'] is not None:
    lines.append(('rPC, mPC over clean', *blank, *_means(value['rpc'], totals_then.get('rpc'))))
  width = max(len(line[0]) for line in lines)
  return '\n'.join(f'{line[0]:{width}}' + ''.join(f'  {cell:>6}' for cell in line[1:]).rstrip() for line in lines)


def _means(now, then):
  """Cells of a table: a fraction now, and where there is one from before, this and the change."""
  return (metrics.percent(now), *([] if then is None else [metrics.percent(then), f'{100 * (now - then):+.1f}']))


def chart(value, title, before=None):
  """Draws `table` as a picture, see charts.severity_chart: uint8 [h, w, 3], RGB."""
  names, severities = list(value['corruptions']), value['severities']
  then = mean_ious(before, names, severities) if before else {}
  return charts.severity_chart(
      mean_ious(value, names, severities), severities, title, clean=value['mean_iou'],
      before={name: float(np.mean(row)) for name, row in then.items()})


def sheet(split, asked, seed, title):
  """Draws the image in the middle of the split, clean and under each corruption at a middle severity, and its labels.

  Args:
    split: a Split.
    asked: a settings.Corruptions.
    seed: see `measure`.
    title: a line above.

  Returns:
    uint8 [h, w, 3], RGB.
  """
  with contextlib.closing(split.examples()) as examples:
    record, image, truth = next(itertools.islice(examples, split.num_images // 2, None))
  severity = asked.severities[len(asked.severities) // 2]
  images = itertools.chain([(('clean',), image)], (
      ((f'{name} {severity}',), corrupted(Task(name, severity, record, image, seed))) for name in asked.names))
  palette, shown = split.palette, {*np.unique(truth).tolist()}
  entries = [_pair(image, truth, palette, f'true labels of {record}')]
  for item in split.label(images):
    score = metrics.present_iou(metrics.confusion_matrix(truth, item.label, len(split.classes)))
    entries.append(_pair(item.image, item.label, palette, f'{item.key[0]}: mean IoU {metrics.percent(score)}'))
    shown |= {*np.unique(item.label).tolist()}
  return colors.with_legend(gallery.pairs(entries, title), sorted(shown), split.classes, palette)


def _pair(image, label, palette, text):
  """A gallery.Pair of an image and the colors of its labels."""
  small = Image.fromarray(label.astype(np.uint8))
  small = small.resize(gallery.tile_size(*small.size), Image.Resampling.NEAREST)
  return gallery.Pair(gallery.thumbnail(image), colors.colorize(np.asarray(small), palette), text)
