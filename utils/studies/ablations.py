"""Ablations: trains the same network with one setting changed at a time, on an equal budget.

    python -m utils.studies.ablations --data_dir=data/camvid --checkpoint=inception_v3.ckpt --precision=bfloat16
    python -m utils.studies.ablations --data_dir=data/camvid --checkpoint=inception_v3.ckpt --only=baseline,lovasz \\
      --seeds=0,1,2

Each of CHOICES is a run of train.py with BASELINE's flags and its own, then evaluate.py --details on the last stage.
Runs lie in --output_dir as NAME-SEED, their output beside them as NAME-SEED.log; a finished run is not trained again,
an interrupted run resumes, and Ctrl-C lets the training in progress save. After each run its mean IoU is printed, and
a Markdown table (OUTPUT/choices.md, also printed at the end) and a chart (OUTPUT/choices.png) show all finished runs,
once the baseline is among them. A run that fails is reported and skipped.
"""

import dataclasses
import os
import sys

import numpy as np

from utils.drawing import canvas
from utils.drawing.colors import write_png
from utils.errors import UserError
from utils.files import make_folder, read_json, replacing, write_json
from utils.progress import Progress
from utils.session import PRECISIONS
from utils.settings import Settings, flag, run
from utils.studies import scripts

BASELINE = ('--dataset=camvid --crop_size=223,287 --trainable_scopes=fcn,InceptionV3/Mixed_* --learning_rate=2e-4 '
            '--new_layers_rate=5 --max_steps=500 --eval_steps=0')
# Files in a run's folder: scores of the plain evaluation, in any precision; CPU time of the training.
METRICS = ('metrics-val.json', 'metrics-val-bfloat16.json', 'metrics-val-float16.json')
COST = 'cost.json'
# Flags of each choice, a string for each stage; a stage starts from the stage before.
CHOICES = {
    'baseline': [''],
    '32s': ['--skip=32s'],
    '16s': ['--skip=16s'],
    '4s': ['--skip=4s'],
    '2s': ['--skip=2s'],
    'staged': ['--skip=32s --max_steps=200', '--skip=16s --max_steps=150', '--skip=8s --max_steps=150'],
    'decoder': ['--decoder_channels=64'],
    'decoder-256': ['--decoder_channels=256'],
    'decoder-2s': ['--skip=2s --decoder_channels=64'],
    'resolution': ['--input_scale=1.5 --crop_size=159,191'],
    'scratch': ['--checkpoint=none --learning_rate=1e-3 --new_layers_rate=1 --warmup_steps=50 --trainable_scopes='],
    'stem': ['--trainable_scopes='],
    'batch-norm': ['--freeze_batch_norm=false'],
    'batch-norm-batch-8': ['--freeze_batch_norm=false --batch_size=8 --gradient_accumulation=2 --max_steps=250'],
    'no-offsets': ['--train_offsets=false'],
    'half-rate': ['--learning_rate=1e-4'],
    'double-rate': ['--learning_rate=4e-4'],
    'warm-up': ['--warmup_steps=50'],
    'epsilon': ['--adam_epsilon=1e-3'],
    'averages': ['--ema_decay=0.99'],
    'median-weights': ['--class_weights=median_frequency'],
    'enet-weights': ['--class_weights=enet'],
    'ohem': ['--loss=ohem'],
    'dice': ['--loss=cross_entropy+dice'],
    'lovasz': ['--loss=cross_entropy+lovasz'],
    'no-dropout': ['--dropout_keep_prob=1'],
    'no-flip': ['--flip=false'],
    'wide-scales': ['--scale_range=0.5,2'],
    'color': ['--color_jitter=0.3'],
    'cutout': ['--cutout=0.2'],
}
SHOWN = ('pole', 'sign', 'fence', 'pedestrian', 'bicyclist')  # classes with a column of their own
_WIDTH, _ROW = 520, 22  # pixels of a row of the chart


@dataclasses.dataclass(frozen=True)
class AblationSettings(Settings):
  """Flags of this program."""
  data_dir: str = flag('data/camvid', 'folder with the TFRecords, or with the originals', path=True)
  checkpoint: str | None = flag(None, 'pretrained checkpoint; default: the ImageNet weights, downloaded', path=True)
  output_dir: str = flag('runs/choices', 'folder for the runs, the table and the chart', path=True)
  precision: str = flag('float32', 'arithmetic of the convolutions, see train.py',
                        choices=PRECISIONS)
  only: tuple[str, ...] = flag((), 'choices to measure; default: all', choices=CHOICES)
  seeds: tuple[int, ...] = flag((0,), 'seeds to train each choice with', least=0)


def measure(name, seed, output_dir, common, *, script=scripts.run, cpu_seconds=scripts.cpu_seconds):
  """Trains and evaluates a choice with a seed, unless this was done before.

  Args:
    name: a key of CHOICES.
    seed: seed of train.py.
    output_dir: folder for the run `NAME-SEED`, those of its earlier stages, and its log.
    common: list of flags for every training; its --precision is evaluate.py's too.
    script: runs a script, see scripts.run.
    cpu_seconds: function that returns the CPU time of all scripts so far.

  Returns:
    bool, whether the choice has been measured; if not, the log says why. COST adds up the CPU time of all attempts to
    train the choice, failed and interrupted attempts included.
  """
  run_dir = os.path.join(output_dir, f'{name}-{seed}')
  if _scores(run_dir):
    return True
  *earlier, _ = CHOICES[name]
  folders = [f'{run_dir}-stage{stage}' for stage in range(1, len(earlier) + 1)] + [run_dir]
  with open(f'{run_dir}.log', 'a', encoding='utf-8') as log:
    for stage, (options, folder) in enumerate(zip(CHOICES[name], folders)):
      start = [f'--init_from={folders[stage - 1]}'] if stage else []
      before = cpu_seconds()
      try:
        code = script('train.py', [*BASELINE.split(), *common, f'--seed={seed}', *options.split(), *start,
                                   f'--run_dir={folder}'], log)
      finally:
        _add_cost(run_dir, cpu_seconds() - before)
      if code:
        return False
    precision = [option for option in common if option.startswith('--precision=')]
    return script('evaluate.py', [f'--ckpt={run_dir}', '--details', *precision], log) == 0


def _scores(run_dir):
  """Path of the scores of a run's plain evaluation; None before it."""
  paths = [os.path.join(run_dir, name) for name in METRICS]
  return next(filter(os.path.exists, paths), None)


def _add_cost(run_dir, seconds):
  """Adds CPU time to the COST of a run."""
  make_folder(run_dir)
  path = os.path.join(run_dir, COST)
  spent = read_json(path)['cpu_seconds'] if os.path.exists(path) else 0.0
  write_json(path, {'cpu_seconds': spent + seconds})


def collect(output_dir):
  """Reads the scores of all finished runs.

  Args:
    output_dir: folder with runs named NAME-SEED.

  Returns:
    dict from name, in the order of CHOICES, to a list with a dict for each seed: `seed`, `mean_iou`, `pixel_accuracy`
    and `boundary_f1` in percent (nan if the evaluation has none), `class_iou` (dict from class to percent), and
    `cpu_seconds` of the training.
  """
  found = {}
  for folder in sorted(os.listdir(output_dir)):
    name, _, seed = folder.rpartition('-')
    metrics, cost = _scores(os.path.join(output_dir, folder)), os.path.join(output_dir, folder, COST)
    if name in CHOICES and seed.isdecimal() and metrics and os.path.exists(cost):
      result = read_json(metrics)
      found.setdefault(name, []).append({
          'seed': int(seed), 'cpu_seconds': read_json(cost)['cpu_seconds'],
          'class_iou': {label: 100 * iou for label, iou in result['class_iou'].items() if iou is not None},
          'boundary_f1': _percent(result.get('details', {}).get('boundary_f1')),
          **{key: _percent(result[key]) for key in ('mean_iou', 'pixel_accuracy')}})
  return {name: found[name] for name in CHOICES if name in found}


def _percent(score):
  """A score from a JSON in percent; nan for null."""
  return float('nan') if score is None else 100 * score


def mean(scores, key):
  """The mean over the seeds of a score, or of a class's IoU; nan if a seed lacks it."""
  return float(np.mean([score.get(key, score['class_iou'].get(key, np.nan)) for score in scores]))


def table(found):
  """The scores that `collect` returned, as a Markdown table; changes are from the baseline's mean over its seeds."""
  baseline = found['baseline']
  heads = ['choice', 'flags', 'seeds', 'CPU', 'pixel accuracy', 'boundary F1', 'mean IoU', 'change', *SHOWN]
  lines = [_line(heads), _line(['---'] * len(heads))]
  for name, scores in found.items():
    seeds = ', '.join(str(score['seed']) for score in scores)
    change = '' if name == 'baseline' else f'{mean(scores, "mean_iou") - mean(baseline, "mean_iou"):+.1f}'
    options = ', then '.join(f'`{options}`' for options in CHOICES[name] if options)
    lines.append(_line([name, options, seeds, f'{mean(scores, "cpu_seconds") / mean(baseline, "cpu_seconds"):.2f}',
                        *(f'{mean(scores, key):.1f}' for key in ('pixel_accuracy', 'boundary_f1', 'mean_iou')), change,
                        *(f'{mean(scores, key):.1f}' for key in SHOWN)]))
  return '\n'.join(lines)


def _line(cells):
  return f'| {" | ".join(cells)} |'


def chart(found):
  """Draws the change of the mean IoU from the baseline's, a bar for each choice.

  Args:
    found: dict from `collect`, with the baseline.

  Returns:
    uint8 [h, w, 3], RGB. The best choices come first; dots are single seeds of a choice with several; the gray band is
    the range of the baseline's seeds.
  """
  middle = mean(found['baseline'], 'mean_iou')
  changes = {name: [score['mean_iou'] - middle for score in scores] for name, scores in found.items()}
  order = sorted(changes, key=lambda name: -np.mean(changes[name]))
  low, high = (function(sum(changes.values(), [0.0])) for function in (min, max))
  picture, left = canvas.row_chart(f'change of the mean IoU from the baseline of {middle:.1f}', order, width=_WIDTH,
                                   height=_ROW, right=80, note='gray: range of the baseline; dots: single seeds')
  place = lambda change: left + _WIDTH * (change - low) / max(high - low, 1e-6)
  bottom = canvas.TOP + _ROW * len(order)
  picture.bar(place(min(changes['baseline'])), canvas.TOP, place(max(changes['baseline'])), bottom, canvas.FAINT)
  for row, name in enumerate(order):
    y, change = canvas.TOP + _ROW * row, float(np.mean(changes[name]))
    picture.bar(place(min(0.0, change)), y + 4, place(max(0.0, change)), y + _ROW - 5,
                canvas.GAIN if change > 0 else canvas.LOSS)
    if len(changes[name]) > 1:
      for single in changes[name]:
        picture.dot(place(single), y + _ROW // 2)
    text = f'{round(change, 1) + 0.0:+.1f}'  # +0.0, never -0.0
    picture.text(place(max([0.0, *changes[name]])) + 8, y + _ROW // 2, text)
  picture.line(place(0.0), canvas.TOP, place(0.0), bottom)
  return picture.array()


def study(settings, *, script=scripts.run):
  """Measures the choices that the flags name, and reports on all finished runs; `script` is that of `measure`."""
  make_folder(settings.output_dir)
  common = [f'--data_dir={settings.data_dir}', f'--precision={settings.precision}']
  common += [f'--checkpoint={settings.checkpoint}'] if settings.checkpoint else []
  runs = [(name, seed) for seed in settings.seeds for name in settings.only or CHOICES]
  with scripts.ended_by_sigterm(), Progress(len(runs), 'trainings', interval=0.0) as progress:
    for name, seed in runs:
      if not measure(name, seed, settings.output_dir, common, script=script):
        log = os.path.join(settings.output_dir, f'{name}-{seed}.log')
        print(f'{name}, seed {seed}: failed; {log} says why', flush=True)
      else:
        tell(name, seed, settings.output_dir)
      progress.update()
  report(settings.output_dir)


def tell(name, seed, output_dir):
  """Prints the mean IoU of a finished run, and writes table and chart of all so far if the baseline is among them."""
  found = collect(output_dir)
  for score in found.get(name, []):
    if score['seed'] == seed:
      print(f'{name}, seed {seed}: mean IoU {score["mean_iou"]:.1f}', flush=True)
  if 'baseline' in found:
    save(found, output_dir)


def save(found, output_dir):
  """Writes table and chart of what `collect` returned; returns the start of their paths."""
  stem = os.path.join(output_dir, 'choices')
  with replacing(f'{stem}.md') as temporary, open(temporary, 'w', encoding='utf-8') as file:
    file.write(table(found) + '\n')
  write_png(f'{stem}.png', chart(found))
  return stem


def report(output_dir):
  """Writes and prints table and chart of all finished runs. Raises UserError if the baseline is not among them."""
  found = collect(output_dir)
  if 'baseline' not in found:
    raise UserError(f'{output_dir}: the baseline has not been measured, so there is nothing to compare with; '
                    'leave --only out, or name baseline in it')
  stem = save(found, output_dir)
  print(f'{table(found)}\nwritten to {stem}.md and {stem}.png')


def main(argv=None):
  """Measures; `argv` is the command line without the program's name, None for the process's own."""
  return run(study, AblationSettings, argv, text=__doc__)


if __name__ == '__main__':
  sys.exit(main())
