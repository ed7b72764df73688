"""The splits of an export, by the names of its files, its folders or its groups of pictures."""

import os
import re

from datasets.readers.folder import ALL, SPLITS
from utils.errors import UserError, listed


def of_file(path, root):
  """Names the split that a file of annotations holds, by its folder's name or else its own: None where none tells."""
  folder = os.path.relpath(os.path.dirname(path), root)
  for text in (folder, os.path.splitext(os.path.basename(path))[0]):
    words = [word for word in re.findall('[a-z]+', text.lower()) if word in SPLITS]
    if words:
      return SPLITS[words[0]]
  return None


def by_file(paths, root):
  """Groups files of annotations by their splits.

  Args:
    paths: list of files.
    root: the dataset's folder.

  Returns:
    dict of split -> list of files; all in the split 'all' where no name tells a split.

  Raises:
    UserError: if the names of some files alone tell a split, or those of two tell the same.
  """
  found = {}
  for path in paths:
    found.setdefault(of_file(path, root), []).append(path)
  if len(found) > 1 and None in found:
    raise UserError(f'{found[None][0]}: which split is it? Of the files beside it, some are named by their '
                    'split, as train.json and val.json are; name each so (train, val or test), or leave it out of the '
                    'folder')
  for split, files in found.items():
    if split and len(files) > 1:
      raise UserError(f'{files[0]} and {files[1]} are both named as the split {split}; leave one of them '
                      'in the folder')
  order = [None, 'train', 'val', 'test']
  return {split or ALL: found[split] for split in order if split in found}


def of_groups(groups, what):
  """Makes the splits of an export out of its groups of sources.

  Args:
    groups: dict of the export's name of a group, such as 'Train' or 'default' -> list of Sources.
    what: the groups in messages, such as 'subsets'.

  Returns:
    dict of split -> Sources sorted by name, and a list of notes: train, val and others where both of these are there,
    train and test where these two are, otherwise all sources in 'all'.
  """
  splits = {}
  for group, sources in groups.items():
    splits.setdefault(SPLITS.get(group.lower(), group.lower()), []).extend(sources)
  splits = {split: sources for split, sources in splits.items() if sources}
  notes = []
  if not {'train', 'val'} <= splits.keys() and splits.keys() != {'train', 'test'}:
    if splits.keys() - {ALL, 'default', 'trainval'}:
      notes.append(f'the {what} {listed(groups)} are not train and val, so all images are split by their names')
    splits = {ALL: list({source.name: source for sources in splits.values() for source in sources}.values())}
  return {split: sorted(sources, key=lambda source: source.name) for split, sources in splits.items()}, notes
