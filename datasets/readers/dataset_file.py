"""`dataset.json`: what the user says of a dataset of his own, beside its class list. Every key may be left out.

    {
      "name": "drives",                  name of the dataset, and of its folders under data and runs
      "exif": "stored",                  labels were drawn on images as stored: no turning by EXIF ("turn": turned)
      "alpha": "drop",                   "white": transparent pixels lie on white; "drop": colors as stored; "band"
      "value_range": [0, 4095],          values that become black and white; or a pair for each band
      "bands": ["red", "green", "blue", "nir"],
      "labels": "ids",                   or "colors", or {"0": "background", "255": "object"}
      "transparent": "background",       class of wholly transparent pixels of labels, or "ignore"
      "splits": {"val": ["0006R0*"], "test": "test.txt", "train": "rest"}   patterns of names, lists, or what is left
    }
"""

import dataclasses
import math
import os
import re

from datasets import reading
from datasets.readers import own_labels
from utils.errors import UserError, brief
from utils.files import read_json
from utils.settings import Settings, flag

FILE = 'dataset.json'
KEYS = ('name', 'exif', 'alpha', 'value_range', 'bands', 'labels', 'transparent', 'splits', 'via_attribute', 'iscrowd')


@dataclasses.dataclass(frozen=True)
class ReadingFlags(Settings):
  """Flags that go before the keys of `dataset.json`."""
  exif: str | None = flag(None, 'own data: turn images as EXIF says (turn) or not (stored)', choices=reading.EXIF,
                          may_change=True)
  alpha: str | None = flag(None, 'own data: what a fourth band marked as transparency is', choices=reading.ALPHA,
                           may_change=True)
  value_range: tuple[float, ...] = flag(
      (), 'own data: LOW,HIGH, the values that become black and white', may_change=True)
  labels: str | None = flag(
      None, 'own data: what labels hold: ids, colors, or the classes of values as in 0:background,255:object',
      may_change=True)

  @property
  def told(self):
    """Dict of the flags that were given, as of `read`. Raises UserError if a value is not valid."""
    content = {'exif': self.exif, 'alpha': self.alpha, 'value_range': list(self.value_range), 'labels': self.labels}
    if self.labels and self.labels not in own_labels.KINDS:
      pairs = [part.partition(':') for part in self.labels.split(',')]
      content['labels'] = {value.strip(): name.strip() for value, _, name in pairs}
    if len(self.value_range) > 2:
      content['value_range'] = [list(self.value_range[place:place + 2]) for place in range(0, len(self.value_range), 2)]
    return checked({key: value for key, value in content.items() if value}, 'flags')


def read(root):
  """Reads the `dataset.json` of a folder.

  Args:
    root: the folder.

  Returns:
    dict of the keys that it has, checked: 'value_range' as ((low, high), ...), 'labels' as 'ids', 'colors' or a dict of
    int -> name, 'splits' as dict of split -> list of patterns; {} where there is no such file.

  Raises:
    UserError: naming the key and the value that is not valid.
  """
  path = os.path.join(root, FILE)
  if not os.path.exists(path):
    return {}
  content = read_json(path)
  if not isinstance(content, dict):
    raise UserError(f'{path} holds {type(content).__name__}, not an object with keys such as {", ".join(KEYS)}')
  if isinstance(content.get('annotations'), list):  # labelme2coco gives this name to its COCO JSON
    return {}
  for key in content:
    if key not in KEYS:
      raise UserError(f'{path}: unknown key {brief(key)}; valid are {", ".join(KEYS)}')
  return checked(content, path)


def checked(content, where):
  """Checks values of `dataset.json`, or of the flags of the same names.

  Args:
    content: dict of key -> value, as in JSON.
    where: the file or the flags, for messages.

  Returns:
    the dict, see `read`.

  Raises:
    UserError: naming the key and the value that is not valid.
  """
  checks = {'exif': _one_of(reading.EXIF), 'alpha': _one_of(reading.ALPHA), 'value_range': _ranges, 'bands': _texts,
            'labels': _labels, 'splits': _splits}
  found = {}
  for key, value in content.items():
    try:
      found[key] = checks.get(key, _text)(value)
    except ValueError as error:
      raise UserError(f'{where}: {key} is {brief(value)}; {error}') from error
  return found


def _text(value):
  if not isinstance(value, str) or not value.strip():
    raise ValueError('a text is wanted')
  return value


def _one_of(choices):
  def check(value):
    if value not in choices:
      raise ValueError(f'valid are {", ".join(choices)}')
    return value
  return check


def _texts(value):
  if not isinstance(value, list) or not value or not all(isinstance(item, str) and item for item in value):
    raise ValueError('a list of texts is wanted')
  if len(set(value)) < len(value):
    raise ValueError('an item comes twice')
  return tuple(value)


def _ranges(value):
  """[low, high] or a list of such pairs -> ((low, high), ...)."""
  wanted = 'low, high is wanted, low below high, or such a pair for each band'
  pairs = value if isinstance(value, list) and value and isinstance(value[0], list) else [value]
  for pair in pairs:
    if not isinstance(pair, list) or len(pair) != 2 or not all(_is_number(part) for part in pair) or pair[0] >= pair[1]:
      raise ValueError(wanted)
  return tuple(tuple(float(part) for part in pair) for pair in pairs)


def _is_number(value):
  return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _labels(value):
  """'ids', 'colors', or {"VALUE": "CLASS"} -> the same with int keys."""
  if value in own_labels.KINDS:
    return value
  if not isinstance(value, dict) or not value:
    raise ValueError('valid are "ids", "colors", or the classes of values, as in {"0": "background", "255": "object"}')
  found = {}
  for number, name in value.items():
    if not re.fullmatch(r'\d{1,3}', number) or int(number) > 255 or not isinstance(name, str):
      raise ValueError(f'{brief(number)}: {brief(name)} is not a value of 0 to 255 and the name of a class or "ignore"')
    found[int(number)] = name
  return found


def _splits(value):
  """{split: pattern or list of patterns} -> {split: list}."""
  if not isinstance(value, dict) or not value:
    raise ValueError('wanted are patterns of names for each split, as in {"val": ["0006*"], "train": "rest"}')
  found = {}
  for split, patterns in value.items():
    patterns = [patterns] if isinstance(patterns, str) else patterns
    if not re.fullmatch(r'[a-z0-9_]+', split) or split == 'all':
      raise ValueError(f'{brief(split)} is no name of a split: small letters, digits and _, and not "all"')
    if not isinstance(patterns, list) or not patterns or not all(isinstance(item, str) and item for item in patterns):
      raise ValueError(f'the patterns of {split} are no list of texts')
    found[split] = patterns
  return found
