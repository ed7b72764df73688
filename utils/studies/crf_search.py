"""Searches the dense CRF's parameters on a split of a trained run, and says what they gain on images not searched on.

    python -m utils.studies.crf_search --ckpt=runs/camvid-inception_v3-8s --split=val --count=30

The network labels up to --count even-numbered images of the split and as many odd-numbered ones, evenly spread; their
probabilities are kept. One parameter after the other takes all values of GRID, the others staying as they are, and
keeps the one with the best mean IoU on the even-numbered images; that is gone through --rounds times. At the end the
odd-numbered images are scored, without the CRF and with the best parameters.
"""

import dataclasses
import os
import time

import numpy as np
from absl import flags

from datasets import pipeline, records
from utils import errors, session
from utils.errors import UserError
from utils.evaluation import metrics
from utils.files import make_folder, write_json
from utils.inference import crf
from utils.inference.predictor import Predictor
from utils.progress import Progress
from utils.runs import load_run
from utils.workers import default_workers, ordered_map

FLAGS = flags.FLAGS
START = crf.Settings(gaussian_xy=3.0, gaussian_weight=1.0, bilateral_xy=50.0, bilateral_rgb=5.0, bilateral_weight=2.0,
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
MAX_BYTES = 4 * 2**30  # that images and probabilities may take


@dataclasses.dataclass(frozen=True)
class Score:
  """What a setting comes to on some images.

  Attributes:
    settings: a crf.Settings, or None for the network alone.
    result: what metrics.scores returned.
    seconds: CPU time an image.
  """
  settings: crf.Settings | None
  result: dict
  seconds: float


def score_all(tasks, trials, *, num_classes, num_workers, label):
  """Scores settings on images.

  Args:
    tasks: list of crf.Task whose keys are the true labels.
    trials: list of Settings; None for the network alone.
    num_classes: of the network.
    num_workers: processes.
    label: for the progress.

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
    score: function of a list of Settings and a label that returns a Score for each.
    start: Settings to start from.
    grid: dict from parameter to its values.
    rounds: how often to go through all parameters; it ends sooner where a round changes nothing.
    show: function that is called with each Score as it comes.

  Returns:
    the best Score, and a list of all, in the order tried.
  """
  [best] = score([start], 'start')
  show(best)
  scores = {start: best}
  for number in range(1, rounds + 1):
    before = best
    for name, values in grid.items():
      if name in WEIGHTS and not getattr(best.settings, WEIGHTS[name]):
        continue  # the width of a term that is left out
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
  names = [field.name for field in dataclasses.fields(crf.Settings)]
  values = [f'{getattr(score.settings, name):g}' if score.settings else '-' for name in names]
  cells = [f'{value:>{len(name)}}' for name, value in zip(names, values)]
  return '  '.join([*cells, f'{100 * score.result["mean_iou"]:8.2f}', f'{score.seconds:5.2f}'])


def header():
  """The first line of the table."""
  return '  '.join([*(field.name for field in dataclasses.fields(crf.Settings)), 'mean IoU', 'CPU s'])


def comparison(without, refined, classes):
  """Lines that compare two Scores class by class, in percent; classes in neither truth nor predictions are left out."""
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
  """Returns the numbers of up to `count` even images and of as many odd ones, each evenly spread over the split."""
  halves = np.arange(0, num_images, 2), np.arange(1, num_images, 2)
  return [half[np.linspace(0, len(half) - 1, min(count, len(half))).round().astype(int)].tolist() for half in halves]


def label_images(predictor, data_dir, wanted):
  """Runs the network on the images with the numbers `wanted`.

  Returns:
    dict from number to crf.Task, probabilities in float16, its key the true labels; and the network's CPU seconds an
    image.
  """
  tasks, kept, seconds = {}, 0, 0.0
  with Progress(len(wanted), 'images', label='network') as progress:
    for index, (name, image, truth) in enumerate(pipeline.examples(data_dir, FLAGS.split)):
      if index not in wanted:
        continue
      reason = crf.too_large(image.shape[:2], predictor.num_classes)
      if reason:
        raise UserError(f'{data_dir}, {FLAGS.split}, record {name}: {reason}')
      start = time.process_time()
      probabilities = predictor.probabilities(image[None])[0]
      seconds += time.process_time() - start
      task = crf.make_task(truth.astype(np.uint8), image, probabilities.astype(np.float16), None)
      tasks[index] = task
      kept += image.nbytes + task.key.nbytes + task.probabilities.nbytes
      if kept > MAX_BYTES:
        raise UserError(f'--count={FLAGS.count}: images up to record {name} take {kept / 2**30:.1f} GiB of memory, and '
                        f'may take {MAX_BYTES // 2**30}; ask for fewer')
      progress.update()
  return tasks, seconds / len(wanted)


def run_search(run, data_dir, num_images):
  """Searches and prints; returns what the JSON file holds."""
  even, odd = pick(num_images, FLAGS.count)
  with Predictor(run, FLAGS.precision, gpu=FLAGS.gpu, gpu_memory_fraction=FLAGS.gpu_memory_fraction) as predictor:
    tasks, network_seconds = label_images(predictor, data_dir, {*even, *odd})

  def score(numbers, trials, label):
    return score_all([tasks[number] for number in numbers], trials, num_classes=len(run.classes),
                     num_workers=FLAGS.num_workers or default_workers(), label=label)

  [without] = score(even, [None], 'without')
  print(f'{len(even)} even-numbered images of {FLAGS.split}; CPU seconds an image, the network takes '
        f'{network_seconds:.2f}\n{header()}\n{line(without)}', flush=True)
  best, tried = search(lambda trials, label: score(even, trials, label), start=START, grid=GRID, rounds=FLAGS.rounds,
                       show=lambda one: print(line(one), flush=True))
  print(f'best of {len(tried)}:\n{header()}\n{line(best)}\n\n{len(odd)} odd-numbered images:')
  held_out = score(odd, [None, best.settings], 'odd-numbered')
  print(comparison(*held_out, run.classes))
  options = ' '.join(f'--crf_{name}={value:g}' for name, value in dataclasses.asdict(best.settings).items())
  print(f'\nto use it: --crf {options}')
  return {'network_seconds': network_seconds, 'searched_on': even, 'held_out_on': odd, 'without': plain(without),
          'tried': [plain(one) for one in tried], 'held_out': [plain(one) for one in held_out]}


def plain(score):
  """A Score as values that JSON can hold."""
  return {'settings': score.settings and dataclasses.asdict(score.settings), 'mean_iou': score.result['mean_iou'],
          'seconds': score.seconds}


def _define_flags():
  flags.DEFINE_string('ckpt', None, "run's folder, or one checkpoint in it", required=True)
  flags.DEFINE_string('split', 'val', 'split to search on')
  flags.DEFINE_string('data_dir', None, 'folder with the TFRecords; default: the one the run was trained from')
  flags.DEFINE_integer('count', 30, 'images to search on, and as many to score the result on', lower_bound=1)
  flags.DEFINE_integer('rounds', 2, 'how often to go through the parameters', lower_bound=1)
  flags.DEFINE_integer('num_workers', 0, 'processes for the CRF; 0: one a core', lower_bound=0)
  session.define_flags()


def main(argv):
  if len(argv) > 1:
    raise UserError(f'unexpected argument {argv[1]!r}; all settings are flags, see --help')
  crf.require()
  run = load_run(FLAGS.ckpt)
  data_dir = FLAGS.data_dir or run.config['flags']['data_dir']
  num_images = records.check_classes(data_dir, FLAGS.split, run.classes, trained=run.folder)
  if num_images < 2:
    raise UserError(f'split {FLAGS.split!r} in {data_dir} has {num_images} image; a search needs 2')
  make_folder(run.folder)
  path = os.path.join(run.folder, f'crf-search-{FLAGS.split}.json')
  write_json(path, run_search(run, data_dir, num_images))
  print(f'written: {path}')


if __name__ == '__main__':
  _define_flags()
  errors.run(main)
