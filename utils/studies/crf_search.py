"""Searches the dense CRF's parameters on a split of a trained run; scores them on images not searched on.

    python -m utils.studies.crf_search --ckpt=runs/camvid-inception_v3-8s --split=val --count=30

The network labels up to --count even-numbered images of the split and as many odd-numbered images, evenly spread; their
probabilities are kept. The parameters take all values of GRID in turn, the other parameters staying as they are, and
keep the value with the best mean IoU on the even-numbered images; --rounds passes are made. At the end the odd-numbered
images are scored, without the CRF and with the best parameters. Scores are printed and written to a JSON as they come.
"""

import dataclasses
import functools
import os
import sys
import time

import numpy as np

from datasets import pipeline
from datasets.hold_out import NOTHING
from utils import settings as settings_lib
from utils.errors import UserError, shown
from utils.evaluation import metrics
from utils.evaluation.data import open_split
from utils.files import claim, make_folder, write_json
from utils.inference import crf, stream
from utils.inference.crf import Crf
from utils.inference.predictor import Predictor
from utils.inference.temperature import stored_temperature
from utils.progress import Progress
from utils.runs import load_run
from utils.session import Device
from utils.settings import Settings, flag, group, overwrite_flag
from utils.workers import default_workers, ordered_map

START = Crf(gaussian_xy=3.0, gaussian_weight=1.0, bilateral_xy=50.0, bilateral_rgb=5.0, bilateral_weight=2.0,
                     steps=5)
GRID = {
    'bilateral_weight': (0.5, 1.0, 2.0, 4.0, 8.0),
    'bilateral_rgb': (2.0, 3.0, 5.0, 8.0, 13.0),
    'bilateral_xy': (5.0, 10.0, 25.0, 50.0, 80.0),
    'gaussian_weight': (0.0, 0.5, 1.0, 2.0),
    'gaussian_xy': (1.0, 2.0, 3.0, 5.0),
    'steps': (1, 3, 5, 10),
}
WEIGHTS = {'bilateral_rgb': 'bilateral_weight', 'bilateral_xy': 'bilateral_weight', 'gaussian_xy': 'gaussian_weight'}
MAX_BYTES = 4 * 2**30  # limit for images and probabilities


@dataclasses.dataclass(frozen=True)
class Score:
  """The score of CRF parameters on some images.

  Attributes:
    settings: a Crf, or None for the network alone.
    result: dict from metrics.scores.
    seconds: CPU time per image.
  """
  settings: Crf | None
  result: dict
  seconds: float


def score_all(tasks, trials, *, num_classes, num_workers, label):
  """Scores settings on images.

  Args:
    tasks: list of crf.Task whose keys are the true labels.
    trials: list of Crf; None for the network alone.
    num_classes: number of the network's classes.
    num_workers: number of processes.
    label: label of the progress line.

  Returns:
    list of Score, in the order of `trials`.
  """
  matrices = {settings: np.zeros([num_classes] * 2, np.int64) for settings in trials}
  seconds = dict.fromkeys(trials, 0.0)
  jobs = (dataclasses.replace(task, settings=settings) for settings in trials for task in tasks)
  with Progress(len(trials) * len(tasks), 'images', label=label) as progress:
    for task, (labels, spent) in ordered_map(crf.timed_labels, jobs, num_workers):
      matrices[task.settings] += metrics.confusion_matrix(task.key, labels, num_classes)
      seconds[task.settings] += spent
      progress.update()
  return [Score(settings, metrics.scores(matrices[settings]), seconds[settings] / len(tasks)) for settings in trials]


def search(score, *, start, grid, rounds, show):
  """Coordinate search: goes through the parameters, and keeps the value of each with the best mean IoU.

  Args:
    score: function of a list of Crf and a label that returns a Score for each.
    start: Crf to start from.
    grid: dict from parameter to its values.
    rounds: greatest number of passes through all parameters; the search ends sooner if a pass changes nothing.
    show: function that is called with each new Score.

  Returns:
    the best Score, and a list of all Scores, in the order tried.
  """
  [best] = score([start], 'start')
  show(best)
  scores = {start: best}
  for number in range(1, rounds + 1):
    before = best
    for name, values in grid.items():
      if name in WEIGHTS and not getattr(best.settings, WEIGHTS[name]):
        continue  # the width of a term without weight
      trials = [dataclasses.replace(best.settings, **{name: value}) for value in values]
      trials = [settings for settings in trials if settings not in scores]
      if not trials:
        continue
      for one in score(trials, f'round {number}, {name}'):
        show(one)
        scores[one.settings] = one
      best = max(scores.values(), key=lambda one: one.result['mean_iou'])
    if best is before:
      break
  return best, list(scores.values())


def line(score):
  """A line of the table: the parameters, the mean IoU in percent, and CPU seconds an image."""
  names = [field.name for field in dataclasses.fields(Crf)]
  values = [f'{getattr(score.settings, name):g}' if score.settings else '-' for name in names]
  cells = [f'{value:>{len(name)}}' for name, value in zip(names, values)]
  return '  '.join([*cells, f'{100 * score.result["mean_iou"]:8.2f}', f'{score.seconds:5.2f}'])


def header():
  """The first line of the table."""
  return '  '.join([*(field.name for field in dataclasses.fields(Crf)), 'mean IoU', 'CPU s'])


def comparison(without, refined, classes):
  """Lines that compare two Scores class by class, in percent; classes in neither truth nor predictions are omitted."""
  width = max(map(len, (*classes, 'mean IoU')))
  rows = [*zip(classes, without.result['class_iou'], refined.result['class_iou']),
          ('mean IoU', without.result['mean_iou'], refined.result['mean_iou'])]
  lines = [f'{"class":{width}}  without     with   change']
  for name, before, after in rows:
    if not (np.isnan(before) and np.isnan(after)):
      cells = [f'{100 * value:{sign}7.2f}' for value, sign in ((before, ''), (after, ''), (after - before, '+'))]
      lines.append('  '.join([f'{name:{width}}', *cells]).replace('+nan', '   -').replace('nan', '  -'))
  return '\n'.join(lines)


def pick(num_images, count):
  """Returns the numbers of up to `count` even and `count` odd images, two lists evenly spread over the split."""
  halves = np.arange(0, num_images, 2), np.arange(1, num_images, 2)
  return [half[np.linspace(0, len(half) - 1, min(count, len(half))).round().astype(int)].tolist() for half in halves]


def label_images(predictor, images):
  """Runs the network on images.

  Args:
    predictor: a Predictor.
    images: dict from number to (name, image uint8 [H, W, 3], truth integer [H, W]), as `read_images` returns it.

  Returns:
    dict from number to crf.Task, with float16 probabilities and the true labels as key; and the network's CPU seconds
    per image.

  Raises:
    UserError: if an image, or all images together, are too large.
  """
  tasks, kept = {}, 0
  start = time.process_time()
  found = stream.tasks(((name, image) for name, image, _ in images.values()), predictor)
  with Progress(len(images), 'images', label='network') as progress:
    for number, (plain, task) in zip(images, found):
      if task is None:
        raise UserError(f'record {plain.key}: {plain.reason}')
      truth = images[number][2].astype(np.uint8)
      tasks[number] = dataclasses.replace(task, key=truth, probabilities=task.probabilities.astype(np.float16))
      kept += task.image.nbytes + truth.nbytes + tasks[number].probabilities.nbytes
      if kept > MAX_BYTES:
        raise UserError(f'--count: {progress.done + 1} images and their probabilities take {kept / 2**30:.1f} GiB and '
                        f'may take {MAX_BYTES // 2**30}; ask for fewer')
      progress.update()
  return tasks, (time.process_time() - start) / len(images)


def read_images(data_dir, split, wanted, held=NOTHING):
  """Reads the examples of a split whose numbers are in `wanted`: dict from number to (name, image, truth)."""
  examples = enumerate(pipeline.examples(data_dir, split, held))
  return {number: example for number, example in examples if number in wanted}


def run_search(settings, run, data_dir, num_images, save, *, held=NOTHING):
  """Searches and prints; calls `save` with the content of the JSON file after every score."""
  even, odd = pick(num_images, settings.count)
  device = settings.device
  with Predictor(run, device.precision, temperature=stored_temperature(run), gpu=device.gpu,
                 gpu_memory_fraction=device.gpu_memory_fraction) as predictor:
    tasks, network_seconds = label_images(predictor, read_images(data_dir, settings.split, {*even, *odd}, held))

  def score(numbers, trials, label):
    return score_all([tasks[number] for number in numbers], trials, num_classes=len(run.classes),
                     num_workers=settings.num_workers or default_workers(), label=label)

  [without] = score(even, [None], 'without')
  print(f'{len(even)} even-numbered images of {settings.split}; CPU seconds an image, the network takes '
        f'{network_seconds:.2f}\n{header()}\n{line(without)}', flush=True)
  result = {'network_seconds': network_seconds, 'searched_on': even, 'held_out_on': odd, 'without': plain(without),
            'tried': [], 'held_out': []}
  save(result)

  def show(one):
    print(line(one), flush=True)
    result['tried'].append(plain(one))
    save(result)

  best, tried = search(lambda trials, label: score(even, trials, label), start=START, grid=GRID,
                       rounds=settings.rounds, show=show)
  print(f'best of {len(tried)}:\n{header()}\n{line(best)}\n\n{len(odd)} odd-numbered images:')
  held_out = score(odd, [None, best.settings], 'odd-numbered')
  result['held_out'] = [plain(one) for one in held_out]
  save(result)
  print(comparison(*held_out, run.classes))
  options = ' '.join(f'--crf_{name}={value:g}' for name, value in dataclasses.asdict(best.settings).items())
  print(f'\nto use it: --crf {options}')


def plain(score):
  """A Score as values that JSON can hold."""
  return {'settings': score.settings and dataclasses.asdict(score.settings), 'mean_iou': score.result['mean_iou'],
          'seconds': score.seconds}


@dataclasses.dataclass(frozen=True)
class SearchSettings(Settings):
  """The settings of the search."""
  ckpt: str = flag(None, "run's folder, or a checkpoint in it", required=True, path=True)
  split: str = flag('val', 'split to search on')
  data_dir: str | None = flag(None, "folder with the TFRecords; default: the training's own", path=True)
  count: int = flag(30, 'number of images to search on, and of other images to score the result', least=1)
  rounds: int = flag(2, 'passes through the parameters', least=1)
  num_workers: int = flag(0, 'processes for the CRF; 0: one per core', least=0)
  output: str | None = flag(None, "JSON to write; default: crf-search-SPLIT.json in the run's folder", path=True)
  overwrite: bool = overwrite_flag()
  device: Device = group(Device)


def search_run(settings):
  """Searches the parameters and writes the JSON; `settings` is a SearchSettings."""
  crf.require()
  run = load_run(settings.ckpt)
  data_dir, num_images, held = open_split(run, settings.split, settings.data_dir)
  if num_images < 2:
    raise UserError(f'split {settings.split!r} in {data_dir} has {num_images} image; a search needs 2')
  path = settings.output or os.path.join(run.results, f'crf-search-{settings.split}.json')
  make_folder(os.path.dirname(os.path.abspath(path)))
  claim([path], overwrite=settings.overwrite)
  run_search(settings, run, data_dir, num_images, functools.partial(write_json, path), held=held)
  print(f'written: {shown(path)}')


def main(argv=None):
  """Searches; `argv` is the command line without the program's name, None for the process's own."""
  return settings_lib.run(search_run, SearchSettings, argv, text=__doc__)


if __name__ == '__main__':
  sys.exit(main())
