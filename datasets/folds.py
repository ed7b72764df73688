"""Chooses the images that are held out, by flags: names, patterns of names, or one of several folds of groups.

    python train.py --dataset=camvid --hold_out='0006R0*'
    python train.py --dataset=camvid --group_by='^[^_]+' --fold=1/3
"""

import collections
import dataclasses
import re
import unicodedata

from datasets.hold_out import HELD_OUT, SPLITS, HoldOut, finder, read_names
from datasets.readers import lists
from utils.errors import UserError, listed, shown
from utils.settings import Settings, expanded, flag

_FOLD = re.compile(r'(\d+)/(\d+)')


@dataclasses.dataclass(frozen=True)
class HoldOutFlags(Settings):
  """What is held out."""
  hold_out: tuple[str, ...] | None = flag(
      None, 'images to hold out of train and val: patterns of their names, or @FILE with a pattern on each line')
  group_by: str | None = flag(None, 'regular expression that finds the group in a name, as ^[^_]+')
  fold: str | None = flag(None, 'K/N: hold out the K-th of N parts of the groups of --group_by')

  @property
  def given(self):
    """Whether anything is held out."""
    return self.hold_out is not None or self.fold is not None

  def check(self):
    """Raises UserError for the first flag that is not valid, or lacks another."""
    super().check()
    if self.hold_out is not None and not self.hold_out:
      raise UserError('--hold_out is empty; give patterns of names, separated by commas, or @FILE')
    if self.group_by == '':
      raise UserError("--group_by is empty; give a regular expression, as '^[^_]+' for what stands before the first _")
    try:
      re.compile(self.group_by or '')
    except re.error as error:
      raise UserError(f'--group_by={self.group_by}: no regular expression ({error})') from error
    if self.fold is not None:
      self._check_fold()

  def _check_fold(self):
    match = _FOLD.fullmatch(self.fold)
    if not match or not 1 <= int(match[1]) <= int(match[2]) or int(match[2]) < 2:
      raise UserError(f'--fold={self.fold}: K/N is wanted, as 1/5, 2/5, ... 5/5')
    if self.hold_out is not None:
      raise UserError(f'--fold={self.fold} and --hold_out={",".join(self.hold_out)}: give one of them')
    if self.group_by is None:
      raise UserError(f'--fold={self.fold} needs --group_by, which says what stays together')

  def refuse_idle(self):
    """Raises UserError where --group_by is given alone, which holds nothing out."""
    if self.group_by is not None and not self.given:
      raise UserError(f'--group_by={self.group_by} holds nothing out; give --fold or --hold_out as well')


def grouped(group_by, names):
  """Groups names.

  Args:
    group_by: regular expression, see HoldOutFlags; where it has parentheses, the first give the group.
    names: list of names.

  Returns:
    collections.Counter of group -> number of its names.

  Raises:
    UserError: naming names in which no group is found.
  """
  find = finder(group_by)
  found = [find(name) for name in names]
  without = [name for name, group in zip(names, found) if not group]
  if without:
    raise UserError(f'--group_by={group_by} finds no group in {len(without)} of {len(names)} names, such as '
                    f'{_some(without)}')
  return collections.Counter(found)


def dealt(sizes, num_folds):
  """Deals groups to folds: the largest first, each to the fold with the fewest images so far.

  Args:
    sizes: dict of group -> number of its images.
    num_folds: number of folds, at most that of the groups.

  Returns:
    list of `num_folds` sorted tuples of groups; the same for the same sizes.
  """
  folds, totals = [[] for _ in range(num_folds)], [0] * num_folds
  for group in sorted(sizes, key=lambda group: (-sizes[group], group)):
    smallest = totals.index(min(totals))
    folds[smallest].append(group)
    totals[smallest] += sizes[group]
  return [tuple(sorted(fold)) for fold in folds]


def hold_out(flags, data_dir, splits):
  """Finds what flags hold out of converted splits, and prints it.

  Args:
    flags: a HoldOutFlags, checked, in which something is given.
    data_dir: folder with the shards.
    splits: names of the dataset's splits; those of hold_out.SPLITS among them are converted.

  Returns:
    a HoldOut.

  Raises:
    UserError: if a pattern matches no name, everything in train is held out, a group is torn apart, there are fewer
      groups than folds, @FILE cannot be read, or the dataset has a split `held_out` of its own.
  """
  if HELD_OUT in splits:
    raise UserError(f'{_given(flags)}: the dataset has a split {HELD_OUT} of its own; give that another name')
  names = {split: read_names(data_dir, split) for split in SPLITS if split in splits}
  held = choose(flags, names)
  counts = [f'{sum(map(held.holds, of_split))} of the {len(of_split)} images of {split}'
            for split, of_split in names.items()]
  print(f'held out, as the split {HELD_OUT}: {" and ".join(counts)}; {_given(flags)}'
        + (f' is {len(held.groups)} group{"s" * (len(held.groups) != 1)}, {held}' if held.groups else ''), flush=True)
  return held


def choose(flags, names):
  """Finds what flags hold out.

  Args:
    flags: as for `hold_out`.
    names: dict of split -> list of the names of its images.

  Returns:
    a HoldOut.

  Raises:
    UserError: as `hold_out`.
  """
  every = [name for of_split in names.values() for name in of_split]
  sizes = grouped(flags.group_by, every) if flags.group_by else {}
  if flags.fold:
    number, num_folds = map(int, _FOLD.fullmatch(flags.fold).groups())
    if len(sizes) < num_folds:
      raise UserError(f'--fold={flags.fold}: --group_by={flags.group_by} finds {len(sizes)} '
                      f'group{"s" * (len(sizes) != 1)} only: {listed(sorted(sizes))}')
    held = HoldOut(group_by=flags.group_by, groups=dealt(sizes, num_folds)[number - 1], splits=tuple(names))
  else:
    held = HoldOut(patterns=_patterns(flags.hold_out, every), splits=tuple(names))
    _refuse_torn_groups(flags, sizes, [name for name in every if held.holds(name)])
  train = names.get('train', ())
  if train and all(map(held.holds, train)):
    raise UserError(f'{_given(flags)}: all {len(train)} images of train are held out, such as {_some(train)}')
  return held


def _given(flags):
  """The flag that holds images out, as typed."""
  return f'--fold={flags.fold}' if flags.fold else f'--hold_out={shown(",".join(flags.hold_out))}'


def _patterns(given, names):
  """The patterns of --hold_out and of its files, each of which matches a name."""
  found = {}  # pattern -> where it stands
  for word in given:
    lines = _lines(expanded(word[1:])) if word.startswith('@') else [('', word)]
    found.update((unicodedata.normalize('NFC', pattern), where) for where, pattern in lines)
  known = set(names)
  for pattern, where in found.items():
    if pattern not in known and not any(map(HoldOut((pattern,)).holds, names)):
      raise UserError(f'--hold_out: {where}{pattern} matches none of the {len(names)} names of train and val, such as '
                      f'{_some(names)}')
  return tuple(found)


def _lines(path):
  """Lists ('FILE:LINE: ', pattern) of a file; lines that begin with # are left out."""
  lines = [(f'{where}: ', line) for where, line in lists.read_text(path) if not line.startswith('#')]
  if not lines:
    raise UserError(f'--hold_out=@{path}: there is no pattern in it')
  return lines


def _refuse_torn_groups(flags, sizes, held):
  """Raises UserError if patterns hold out a part of a group; `sizes` as of `grouped`, `held` the names held out."""
  for group, count in (grouped(flags.group_by, held) if sizes else {}).items():
    if count < sizes[group]:
      raise UserError(f'{_given(flags)}: {count} of the {sizes[group]} images of {shown(group)}, a group of '
                      f'--group_by={flags.group_by}, are held out and the others are not')


def _some(names, count=3):
  """A few of many names, from all over the list."""
  return listed(names[::-(-len(names) // count)] if names else [])
