"""Robustness: mean IoU under each corruption of corruptions.py, the work of evaluate.py --corruptions.

Michaelis et al., arXiv:1907.07484, equations 1 and 2: mPC, the mean performance under corruption, is the mean over
corruptions of the mean over severities; rPC, the relative performance under corruption, is mPC over the performance on
clean images. The performance here is the mean IoU.

The JSON is written after every corruption, so that a run that is stopped loses one; --resume keeps those it holds.
"""

import collections
import dataclasses
import itertools
import json
import os
from collections.abc import Callable

import numpy as np

from datasets import pipeline
from datasets.hold_out import NOTHING, HoldOut
from utils.errors import UserError, shown
from utils.evaluation import metrics
from utils.evaluation.corruptions import Task, corrupted
from utils.evaluation.scorer import Scorer
from utils.files import read_json, write_json
from utils.progress import Progress
from utils.workers import default_workers, ordered_map


@dataclasses.dataclass(frozen=True)
class Split:
  """The images that are corrupted, and how they are labeled.

  Attributes:
    data_dir: folder with the shards.
    name: name of the split.
    num_images: number of its images.
    label: `label(images)`: takes an iterable of (key, image) to one of stream.Labelled in their order; a key is a tuple
      whose first entry names the image.
    classes: class names, index = label id.
    palette: uint8 [C, 3], RGB.
    held: the HoldOut of the split.
  """
  data_dir: str
  name: str
  num_images: int
  label: Callable
  classes: tuple
  palette: np.ndarray
  held: HoldOut = NOTHING

  def examples(self):
    """Yields (name, image uint8 [H, W, 3], truth integer [H, W])."""
    return pipeline.examples(self.data_dir, self.name, self.held)


def measure(split, asked, clean, path, *, seed=0, num_workers=0):
  """Scores a split under corruptions, and writes the JSON after each.

  Args:
    split: a Split.
    asked: a settings.Corruptions.
    clean: dict for the JSON about the run and its scores on clean images; its `confusion_matrix` tells whether an
      earlier JSON is of the same weights, images and settings.
    path: the JSON.
    seed: int that fixes all that is random.
    num_workers: number of processes that corrupt images; 0 for one per core.

  Returns:
    the content of the JSON: `clean`, and beside it `corruptions` (name -> severity -> scores), `corruption_mean_iou`
    (name -> mean over severities), `mpc` and `rpc`.

  Raises:
    UserError: if a file cannot be written, an image cannot be labeled, or an earlier JSON is of something else.
  """
  value = {**clean, 'seed': seed, 'severities': list(asked.severities), 'corruptions': {}}
  if asked.resume and os.path.exists(path):
    value['corruptions'] = _earlier(path, value, asked.names)
    if value['corruptions']:
      print(f'{shown(path)} has these already: {", ".join(value["corruptions"])}', flush=True)
  write_json(path, value)  # an unwritable file ends the program now
  left = [name for name in asked.names if name not in value['corruptions']]
  cases = list(itertools.product(left, asked.severities))
  found = collections.defaultdict(dict)
  for (name, severity), scorer in scored(split, cases, seed, num_workers or default_workers()) if cases else ():
    result = metrics.to_json(scorer.result(), split.classes, split.num_images)
    found[name][str(severity)] = {key: result[key] for key in (*metrics.SUMMARY, 'class_iou')}
    if len(found[name]) == len(asked.severities):
      value['corruptions'][name] = found[name]
      write_json(path, value)
  value['corruptions'] = {name: value['corruptions'][name] for name in asked.names}
  ious = mean_ious(value, asked.names, asked.severities)
  value['corruption_mean_iou'] = {name: float(np.mean(row)) for name, row in ious.items()}
  value |= totals(ious, clean['mean_iou'])
  write_json(path, value)
  return value


def _earlier(path, value, names):
  """Results of the corruptions that an earlier JSON at `path` holds. Raises UserError if it is of something else."""
  earlier, now = read_json(path), json.loads(json.dumps(value))
  if not isinstance(earlier, dict) or any(earlier.get(key) != now[key] for key in now.keys() - {'corruptions'}):
    raise UserError(f'--resume: {path} is of other weights, images or settings; without --resume it is replaced')
  return {name: part for name, part in earlier['corruptions'].items() if name in names}


def scored(split, cases, seed, num_workers):
  """Labels and scores a split once for each case.

  Args:
    split: a Split.
    cases: list of (name of a corruption, severity).
    seed: see `measure`.
    num_workers: number of processes that corrupt images.

  Yields:
    (case, Scorer) as soon as a case ends.

  Raises:
    UserError: if an image cannot be labeled.
  """
  with Progress(len(cases) * split.num_images, 'images') as progress:
    items = split.label(_images(split, cases, seed, num_workers))
    for case, group in itertools.groupby(items, key=lambda item: item.key[2]):
      progress.label = '{} {}'.format(*case)
      scorer = Scorer(split.classes, where=f'{split.data_dir}, {split.name}')
      for item in group:
        scorer.add(*item.key[:2], item.label)
        progress.update()
      yield case, scorer


def _images(split, cases, seed, num_workers):
  """Yields ((record, truth, case), corrupted image) of all images for each case, one case after the other."""
  truths = collections.deque()  # of the images at work: processes need none

  def tasks():
    for name, severity in cases:
      for record, image, truth in split.examples():
        truths.append(truth)
        yield Task(name, severity, record, image, seed)

  for task, image in ordered_map(corrupted, tasks(), num_workers):
    yield (task.record, truths.popleft(), (task.name, task.severity)), image


def mean_ious(value, names, severities):
  """Dict from corruption to the list of its mean IoUs by severity, of a JSON's content."""
  return {name: [value['corruptions'][name][str(severity)]['mean_iou'] for severity in severities] for name in names}


def totals(ious, clean):
  """mPC and rPC.

  Args:
    ious: dict from corruption to the list of its mean IoUs by severity, fractions of 1.
    clean: mean IoU on clean images, a fraction of 1.

  Returns:
    dict of `mpc`, a fraction of 1, and `rpc`, a ratio; None where `clean` is 0.
  """
  mpc = float(np.mean([np.mean(row) for row in ious.values()]))
  return {'mpc': mpc, 'rpc': mpc / clean if clean else None}
