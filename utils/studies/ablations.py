"""Measures which choices matter: trains the same network with one thing changed at a time, on an equal budget.

    python -m utils.studies.ablations --data_dir=data/camvid --checkpoint=inception_v3.ckpt --precision=bfloat16
    python -m utils.studies.ablations --data_dir=data/camvid --checkpoint=inception_v3.ckpt --only=baseline,lovasz \\
      --seeds=0,1,2

Every choice of CHOICES is train.py with BASELINE's flags and its own, and evaluate.py --details on what came last. Runs
lie in --output_dir as NAME-SEED, their output beside them as NAME-SEED.log; what is there already is not trained again,
and a training that was cut off resumes. At the end a Markdown table (OUTPUT/choices.md, also printed) and a chart
(OUTPUT/choices.png) show all that is there. A training that fails is said, and left out.
"""

import os
import resource
import subprocess
import sys

import numpy as np
from absl import flags
from PIL import Image, ImageDraw, ImageFont

from utils import errors
from utils.drawing.colors import write_png
from utils.errors import UserError
from utils.files import ROOT, make_folder, read_json, replacing, write_json
from utils.progress import Progress
from utils.session import PRECISIONS

BASELINE = ('--dataset=camvid --crop_size=223,287 --trainable_scopes=fcn,InceptionV3/Mixed_* --learning_rate=2e-4 '
            '--new_layers_rate=5 --max_steps=500 --eval_steps=0')
# By what they change. A choice of several parts is trained in as many stages, each from the one before.
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
_LEFT, _WIDTH, _ROW, _HEAD = 190, 520, 22, 64  # pixels: names, bars, a row, what stands above
_PAPER, _INK, _BAND = (255, 255, 255), (30, 30, 30), (236, 236, 236)
_GAIN, _LOSS = (66, 120, 181), (200, 60, 50)


def measure(name, seed, output_dir, common):
  """Trains and evaluates one choice with one seed, unless that was done.

  Args:
    name: a key of CHOICES.
    seed: of train.py.
    output_dir: folder for the run `NAME-SEED`, those of its earlier stages, and its log.
    common: list of flags for every training; its --precision is evaluate.py's too.

  Returns:
    Whether it has been measured; if not, its log says why.
  """
  run_dir = os.path.join(output_dir, f'{name}-{seed}')
  if os.path.exists(os.path.join(run_dir, 'metrics-val.json')):
    return True
  *earlier, _ = CHOICES[name]
  folders = [f'{run_dir}-stage{stage}' for stage in range(1, len(earlier) + 1)] + [run_dir]
  precision = [flag for flag in common if flag.startswith('--precision=')]
  before = _cpu_seconds()
  with open(f'{run_dir}.log', 'a', encoding='utf-8') as log:
    for stage, (options, folder) in enumerate(zip(CHOICES[name], folders)):
      start = [f'--init_from={folders[stage - 1]}'] if stage else []
      if _script('train.py', [*BASELINE.split(), *common, f'--seed={seed}', *options.split(), *start,
                              f'--run_dir={folder}'], log):
        return False
    write_json(os.path.join(run_dir, 'cost.json'), {'cpu_seconds': _cpu_seconds() - before})
    return _script('evaluate.py', [f'--ckpt={run_dir}', '--details', *precision], log) == 0


def _script(name, arguments, log):
  """Runs one of the project's scripts, and returns its exit code."""
  return subprocess.run([sys.executable, os.path.join(ROOT, name), *arguments], stdout=log, stderr=subprocess.STDOUT,
                        stdin=subprocess.DEVNULL, check=False).returncode


def _cpu_seconds():
  """CPU time of all that has been run and ended."""
  usage = resource.getrusage(resource.RUSAGE_CHILDREN)
  return usage.ru_utime + usage.ru_stime


def collect(output_dir):
  """Reads what has been measured.

  Args:
    output_dir: folder with runs named NAME-SEED.

  Returns:
    dict from name, in the order of CHOICES, to a list with a dict for each seed: `seed`, `mean_iou`, `pixel_accuracy`
    and `boundary_f1` in percent, `class_iou` (dict from class to percent), and `cpu_seconds` of the training.
  """
  found = {}
  for folder in sorted(os.listdir(output_dir)):
    name, _, seed = folder.rpartition('-')
    metrics, cost = (os.path.join(output_dir, folder, file) for file in ('metrics-val.json', 'cost.json'))
    if name in CHOICES and seed.isdecimal() and os.path.exists(metrics) and os.path.exists(cost):
      result = read_json(metrics)
      found.setdefault(name, []).append({
          'seed': int(seed), 'cpu_seconds': read_json(cost)['cpu_seconds'],
          'class_iou': {label: 100 * iou for label, iou in result['class_iou'].items() if iou is not None},
          'boundary_f1': 100 * result['details']['boundary_f1'],
          **{key: 100 * result[key] for key in ('mean_iou', 'pixel_accuracy')}})
  return {name: found[name] for name in CHOICES if name in found}


def mean(scores, key):
  """The mean of a score over the seeds; key: of a score, or the name of a class; nan if no seed has it."""
  return float(np.mean([score.get(key, score['class_iou'].get(key, np.nan)) for score in scores]))


def table(found):
  """What `collect` returned as a Markdown table; changes are from the baseline's mean over its seeds."""
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
  """Draws the change of the mean IoU from the baseline's, a bar a choice.

  Args:
    found: as `collect` returns it, with the baseline.

  Returns:
    uint8 [h, w, 3], RGB. Best choices come first; dots are single seeds, where there are several; the grey band is as
    wide as the baseline's seeds are apart.
  """
  middle = mean(found['baseline'], 'mean_iou')
  changes = {name: [score['mean_iou'] - middle for score in scores] for name, scores in found.items()}
  order = sorted(changes, key=lambda name: -np.mean(changes[name]))
  low, high = (function(sum(changes.values(), [0.0])) for function in (min, max))

  def place(change):
    return _LEFT + _WIDTH * (change - low) / max(high - low, 1e-6)

  font = ImageFont.load_default(13)
  picture = Image.new('RGB', (_LEFT + _WIDTH + 80, _HEAD + _ROW * len(order) + 16), _PAPER)
  draw = ImageDraw.Draw(picture)
  draw.text((12, 10), f'mean IoU beside the baseline of {middle:.1f}', fill=_INK, font=ImageFont.load_default(16))
  draw.text((12, 36), 'grey: the seeds of the baseline; dots: single seeds', fill=_INK, font=font)
  apart = changes['baseline']
  draw.rectangle((place(min(apart)), _HEAD, place(max(apart)), _HEAD + _ROW * len(order)), fill=_BAND)
  for row, name in enumerate(order):
    y, change = _HEAD + _ROW * row, float(np.mean(changes[name]))
    draw.text((_LEFT - 8, y + _ROW // 2), name, fill=_INK, font=font, anchor='rm')
    ends = sorted((place(0.0), place(change)))
    draw.rectangle((ends[0], y + 4, ends[1], y + _ROW - 5), fill=_GAIN if change > 0 else _LOSS)
    if len(changes[name]) > 1:
      for single in changes[name]:
        x = place(single)
        draw.ellipse((x - 3, y + _ROW // 2 - 3, x + 3, y + _ROW // 2 + 3), fill=_INK)
    right = place(max([0.0, *changes[name]]))
    draw.text((right + 8, y + _ROW // 2), f'{change:+.1f}', fill=_INK, font=font, anchor='lm')
  draw.line((place(0.0), _HEAD, place(0.0), _HEAD + _ROW * len(order)), fill=_INK)
  return np.asarray(picture)


def main(argv):
  args = flags.FLAGS
  if len(argv) > 1:
    raise UserError(f'unexpected argument {argv[1]!r}; all settings are flags, see --help')
  if unknown := [name for name in args.only if name not in CHOICES]:
    raise UserError(f'--only={",".join(args.only)}: {unknown[0]!r} is none of {", ".join(CHOICES)}')
  if bad := [seed for seed in args.seeds if not seed.isdecimal()]:
    raise UserError(f'--seeds={",".join(args.seeds)}: {bad[0]!r} is no whole number from 0 on')
  make_folder(args.output_dir)
  common = [f'--data_dir={args.data_dir}', f'--precision={args.precision}']
  common += [f'--checkpoint={args.checkpoint}'] if args.checkpoint else []
  runs = [(name, int(seed)) for seed in args.seeds for name in args.only or CHOICES]
  with Progress(len(runs), 'trainings', interval=0.0) as progress:
    for name, seed in runs:
      if not measure(name, seed, args.output_dir, common):
        log = os.path.join(args.output_dir, f'{name}-{seed}.log')
        print(f'{name}, seed {seed}: failed; {log} says why', flush=True)
      progress.update()
  report(args.output_dir)


def report(output_dir):
  """Writes and prints what has been measured. Raises UserError if the baseline is not among it."""
  found = collect(output_dir)
  if 'baseline' not in found:
    raise UserError(f'{output_dir}: the baseline has not been measured, so there is nothing to compare with; '
                    'leave --only out, or name baseline in it')
  stem = os.path.join(output_dir, 'choices')
  with replacing(f'{stem}.md') as temporary, open(temporary, 'w', encoding='utf-8') as file:
    file.write(table(found) + '\n')
  write_png(f'{stem}.png', chart(found))
  print(f'{table(found)}\nwritten to {stem}.md and {stem}.png')


def define_flags():
  flags.DEFINE_string('data_dir', 'data/camvid', 'folder with the TFRecords, or with the originals')
  flags.DEFINE_string('checkpoint', None, 'pretrained checkpoint; default: the ImageNet weights, downloaded')
  flags.DEFINE_string('output_dir', 'runs/choices', 'folder for the runs, the table and the chart')
  flags.DEFINE_enum('precision', 'float32', PRECISIONS, 'of convolutions; bfloat16 needs a CPU with AVX512-BF16')
  flags.DEFINE_list('only', [], 'choices to measure; default: all')
  flags.DEFINE_list('seeds', ['0'], 'seeds to train each of them with')


if __name__ == '__main__':
  define_flags()
  errors.run(main)
