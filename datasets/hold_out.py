"""Images that are held out: those of a drive, a patient, a site, which are then in no split but `held_out`.

The records stay as they are: what is held out is left out while they are read, so that folds cost no disk. The split
`held_out` has the images of train and val that are held out; other splits stay whole. The functions here are those of
`records`, for a HoldOut.
"""

import dataclasses
import fnmatch
import functools
import io
import os
import re
import unicodedata

import numpy as np
from PIL import Image

from datasets import records
from utils.compat import tf
from utils.errors import UserError, brief, listed
from utils.labels import IGNORE_LABEL
from utils.progress import Progress

HELD_OUT = 'held_out'  # name of the split
SPLITS = ('train', 'val')  # splits that images are held out of


@dataclasses.dataclass(frozen=True)
class HoldOut:
  """The images that are held out, by their names. A run's config.json keeps it.

  Attributes:
    patterns: names, and patterns of names as of a shell: *, ?, [abc]; in Unicode's form NFC.
    group_by: regular expression that finds the group in a name; '' without `groups`.
    groups: groups whose images are held out; () where `patterns` decide.
    splits: splits that images are held out of, those of SPLITS that the dataset has; () holds nothing out.
  """
  patterns: tuple = ()
  group_by: str = ''
  groups: tuple = ()
  splits: tuple = ()

  @functools.cached_property
  def holds(self):
    """`holds(name)` -> whether the image of this name is held out."""
    if self.groups:
      groups, find = frozenset(self.groups), finder(self.group_by)
      return lambda name: find(name) in groups
    names = frozenset(self.patterns)
    wild = [fnmatch.translate(pattern) for pattern in self.patterns if re.search(r'[*?[]', pattern)]
    matches = re.compile('|'.join(wild)).match if wild else lambda name: None

    def holds(name):
      name = unicodedata.normalize('NFC', name)
      return name in names or matches(name) is not None

    return holds

  def parts(self, split):
    """Names of the converted splits that the images of a split come from."""
    return self.splits if self.splits and split == HELD_OUT else (split,)

  def whole(self, splits):
    """Tuple of the converted splits that the images of several splits come from, each once."""
    return tuple(dict.fromkeys(part for split in splits for part in self.parts(split)))

  def concerns(self, split):
    """Whether a split differs from the converted one of its name."""
    return bool(self.splits) and split in (HELD_OUT, *self.splits)

  def keeps(self, split, name):
    """Whether a split has the image `name` of the converted splits that it comes from."""
    return not self.concerns(split) or self.holds(name) == (split == HELD_OUT)

  def to_json(self):
    """Dict for a run's config.json; None if nothing is held out."""
    return {key: list(value) if isinstance(value, tuple) else value
            for key, value in dataclasses.asdict(self).items()} if self.splits else None

  @classmethod
  def from_json(cls, value):
    """The HoldOut of `to_json`'s dict, whatever else is in it; None is NOTHING.

    Raises:
      UserError: if it is nothing that `to_json` gives.
    """
    known = {field.name: type(field.default) for field in dataclasses.fields(cls)}
    try:
      found = {key: tuple(part) if isinstance(part, list) else part for key, part in (value or {}).items()
               if key in known}
      valid = all(isinstance(part, known[key]) and all(isinstance(item, str) for item in part)
                  for key, part in found.items()) and {*found.get('splits', ())} <= {*SPLITS}
      re.compile(found.get('group_by', '') if valid else '')
    except (AttributeError, re.error, RecursionError):
      valid = False
    if not valid:
      raise UserError(f'the hold_out {brief(value)} of a config.json was not written by this project')
    return cls(**found)

  def __str__(self):
    return listed(self.groups or self.patterns)


NOTHING = HoldOut()


def finder(group_by):
  """`find(name)` -> the name's group, None without one: what the expression matches, or its first parentheses."""
  search, number = re.compile(group_by).search, min(re.compile(group_by).groups, 1)

  def find(name):
    match = search(name)
    return match and match[number]

  return find


def check(data_dir, split, held):
  """Raises UserError if holding images out leaves a split without one, or HELD_OUT where nothing is held out."""
  if split == HELD_OUT and not held.splits and not os.path.exists(records.stats_path(data_dir, split)):
    raise UserError(f'nothing is held out, so there is no split {HELD_OUT}; --hold_out says which images it has')
  if not held.concerns(split) or read_names(data_dir, split, held):
    return
  where = f'{" and ".join(held.parts(split))} in {data_dir}'
  raise UserError(f'no image of {where} is held out by {held}' if split == HELD_OUT else
                  f'all images of {where} are held out by {held}: the split {HELD_OUT} has them')


def read_names(data_dir, split, held=NOTHING):
  """Lists the names of a split's images.

  Args:
    data_dir: folder with the shards.
    split: name of the split, or HELD_OUT.
    held: the HoldOut.

  Returns:
    a list of names, in the order of the originals.

  Raises:
    UserError: if the split is missing or broken.
  """
  names = []
  for part in held.parts(split):
    stats = records.read_stats(data_dir, part)
    known = list(stats.get('sanity', {}).get('digests', ()))
    if len(known) != stats['num_examples']:  # of an older converter
      known = [name for name, *_ in records.encoded_examples(records.shard_paths(data_dir, part))]
    names += [name for name in known if held.keeps(split, name)]
  return names


def shard_paths(data_dir, split, held=NOTHING):
  """Lists the shards that hold a split's images, and others, which `select` leaves out; see `records.shard_paths`."""
  if not held.concerns(split):
    return records.shard_paths(data_dir, split)
  return [path for part in held.parts(split) if any(held.keeps(split, name) for name in read_names(data_dir, part))
          for path in records.shard_paths(data_dir, part)]


def select(stored, data_dir, split, held=NOTHING):
  """Leaves out what a split does not have, in the graph.

  Args:
    stored: tf.data.Dataset of the serialized records in `shard_paths(data_dir, split, held)`, in any order.
    data_dir: folder with the shards.
    split: name of the split, or HELD_OUT.
    held: the HoldOut.

  Returns:
    tf.data.Dataset of the records that `read_stats(data_dir, split, held)` counts.
  """
  if not held.concerns(split):
    return stored
  names = [os.fsencode(name) for part in held.parts(split) for name in read_names(data_dir, part) if held.holds(name)]

  def is_kept(serialized):
    is_held = tf.reduce_any(tf.equal(tf.constant(names, tf.string), records.parse_name(serialized)))
    return tf.equal(is_held, split == HELD_OUT)

  return stored.filter(is_kept) if names else stored


def read_stats(data_dir, split, held=NOTHING):
  """Reads the statistics of a split, as of `records.read_stats`, of the images that it has.

  Args:
    data_dir: folder with the shards.
    split: name of the split, or HELD_OUT.
    held: the HoldOut.

  Returns:
    the dict in `<split>.json`; with images held out, without what describes the shards, and of `sanity` what is known.

  Raises:
    UserError: if the split is missing or broken, or has no image.
  """
  check(data_dir, split, held)
  parts = [records.read_stats(data_dir, part) for part in held.parts(split)]
  if not held.concerns(split):
    return parts[0]
  counts = _counts(data_dir, split, held, parts)
  digests = {name: digest for part in parts for name, digest in part.get('sanity', {}).get('digests', {}).items()
             if held.keeps(split, name)}
  skipped = [entry for part in parts for entry in part.get('skipped', ()) if held.keeps(split, entry['name'])]
  kept = {key: value for key, value in parts[0].items() if key not in ('fingerprint', 'num_shards', 'shard_bytes')}
  return {**kept, **counts, 'split': split, 'expected': counts['num_examples'], 'skipped': skipped,
          'sanity': {'digests': digests}}


def _counts(data_dir, split, held, parts):
  """The counts of images and pixels in a split's statistics; `parts` are the statistics that it comes from."""
  sums = [_held_sums(data_dir, part, held, os.stat(records.stats_path(data_dir, part)).st_mtime_ns)
          for part in held.parts(split)]
  if split == HELD_OUT:
    found = {key: sum(one[key] for one in sums) for key in sums[0]}
  else:
    found = {key: np.array(parts[0].get(key, 0)) - value for key, value in sums[0].items()}
  return {key: value.tolist() for key, value in found.items() if key in parts[0]}  # an older converter noted fewer


@functools.lru_cache(maxsize=16)
def _held_sums(data_dir, split, held, written):
  """Sums over the images of a converted split that are held out, under the names of the statistics.

  Args:
    data_dir: folder with the shards.
    split: name of the split.
    held: a HoldOut.
    written: time of the split's JSON: the sums are kept until it changes.
  """
  del written
  stats, count = records.read_stats(data_dir, split), 0
  pixels, image_pixels = np.zeros(IGNORE_LABEL + 1, np.int64), np.zeros(IGNORE_LABEL + 1, np.int64)
  if any(map(held.holds, read_names(data_dir, split))):
    with Progress(stats['num_examples'], 'images', label=f'counting what is held out of {split}') as progress:
      for name, _, _, label in records.encoded_examples(records.shard_paths(data_dir, split)):
        if held.holds(name):
          found = np.bincount(np.asarray(Image.open(io.BytesIO(label))).ravel(), minlength=IGNORE_LABEL + 1)
          pixels += found
          image_pixels += found.sum() * (found > 0)
          count += 1
        progress.update()
  num_classes = len(stats['class_names'])
  return {'num_examples': np.int64(count), 'class_pixels': pixels[:num_classes],
          'class_image_pixels': image_pixels[:num_classes], 'void_pixels': pixels[IGNORE_LABEL]}
