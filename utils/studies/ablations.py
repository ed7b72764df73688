"""Ablations: trains the same network with one setting changed at a time, and scores it on roads it never saw.

    python -m utils.studies.ablations --data_dir=data/camvid --checkpoint=inception_v3.ckpt --precision=bfloat16
    python -m utils.studies.ablations --data_dir=data/camvid --checkpoint=inception_v3.ckpt --only=baseline,gamma \\
      --seeds=0,1,2
    python -m utils.studies.ablations --study=networks --data_dir=data/camvid --checkpoint=inception_v3.ckpt \\
      --vgg_checkpoint=vgg_16_hed.ckpt

Each choice of a study is trained once for every fold of --folds, on an equal budget: train.py with the study's flags
and its own, and the images of the fold held out, on which evaluate.py --details then scores it. Runs lie in
--output_dir as NAME-SEED-FOLD, their output beside them as NAME-SEED-FOLD.log; a finished run is not trained again, an
interrupted run resumes, and Ctrl-C lets the training in progress save. A Markdown table (OUTPUT/STUDY.md, also printed
at the end) and a chart (OUTPUT/STUDY.png) show the means over the folds of all that is finished, once the study's first
choice is, which the others are compared with. A run that fails is reported and skipped. Several of these programs may
share an output folder where each has folds, choices or seeds of its own.
"""

import dataclasses
import os
import sys

import numpy as np

from datasets.hold_out import HELD_OUT
from utils.drawing import canvas
from utils.drawing.colors import write_png
from utils.errors import UserError, shown
from utils.exits import ended_by_sigterm
from utils.files import claim, make_folder, read_json, write_json, write_text
from utils.progress import Progress
from utils.session import PRECISIONS
from utils.settings import Settings, flag, overwrite_flag, run
from utils.studies import scripts

# Files in a run's folder: scores of the plain evaluation, in any precision; CPU time of the training.
METRICS = tuple(f'metrics-{HELD_OUT}{precision}.json' for precision in ('', '-bfloat16', '-float16'))
COST = 'cost.json'


@dataclasses.dataclass(frozen=True)
class Study:
  """What is compared.

  Attributes:
    flags: flags of all trainings.
    choices: dict from the name of a choice to its flags, a string for each stage; a stage starts from the stage before.
      The others are compared with the first. {vgg} is the path of --vgg_checkpoint.
  """
  flags: str
  choices: dict


# The recipe for CamVid on images of their own size, a quarter as long.
_RECIPE = ('--dataset=camvid --skip=2s --decoder_channels=64 --loss=cross_entropy+lovasz --crop_size=223,287 '
           '--learning_rate=2e-4 --new_layers_rate=5 --warmup_steps=50 --ema_decay=0.99 '
           '--trainable_scopes=fcn,InceptionV3/Mixed_* --max_steps=600 --eval_steps=0')
_CHOICES = {
    'baseline': [''],
    'color': ['--color_jitter=0.3'],
    'color-strong': ['--color_jitter=0.6'],
    'white-balance': ['--white_balance=0.3'],
    'gamma': ['--gamma=2'],
    'blur': ['--blur=2'],
    'noise': ['--noise=20'],
    'light': ['--color_jitter=0.5 --white_balance=0.2 --gamma=2 --blur=1.5 --noise=15'],
    'statistics': ['--mix_statistics=1'],
    'amplitude': ['--mix_amplitude=1'],
    'color-amplitude': ['--color_jitter=0.5 --mix_amplitude=1'],
    'statistics-amplitude': ['--mix_statistics=1 --mix_amplitude=1'],
    'all-colors': ['--color_jitter=0.5 --mix_statistics=1 --mix_amplitude=1'],
    'color-statistics': ['--color_jitter=0.5 --mix_statistics=1'],
    'wide-scales': ['--scale_range=0.5,2.5'],
    'no-flip': ['--flip=false'],
    'class-crops': ['--class_crops=0.5'],
    'large-crops': ['--crop_size=319,415 --batch_size=2'],
    'small-crops': ['--crop_size=159,191 --batch_size=8'],
    'resolution': ['--input_scale=1.5 --crop_size=159,191'],
    'enet-weights': ['--class_weights=enet'],
    'smoothing': ['--loss=smoothed_cross_entropy+lovasz'],
    'cross-entropy': ['--loss=cross_entropy'],
    'dice': ['--loss=cross_entropy+dice'],
    'ohem': ['--loss=ohem+lovasz'],
    '8s': ['--skip=8s --decoder_channels=0'],
    'decoder-256': ['--decoder_channels=256'],
    'staged': ['--skip=32s --decoder_channels=0 --max_steps=240', '--skip=8s --decoder_channels=0 --max_steps=180',
               '--max_steps=180'],
    'stem': ['--trainable_scopes='],
    'frozen-to-6': ['--trainable_scopes=fcn,InceptionV3/Mixed_6*,InceptionV3/Mixed_7*'],
    'batch-norm': ['--freeze_batch_norm=false'],
    'half-rate': ['--learning_rate=1e-4 --new_layers_rate=10'],
    'double-rate': ['--learning_rate=4e-4 --new_layers_rate=2.5'],
    'dropout': ['--dropout_keep_prob=0.5'],
    'weight-decay': ['--weight_decay=4e-4'],
    'no-averages': ['--ema_decay=0'],
    'long': ['--max_steps=1800 --ema_decay=0.997'],
    'long-light': ['--max_steps=1800 --ema_decay=0.997 --color_jitter=0.5 --white_balance=0.2 --gamma=2 --blur=1.5 '
                   '--noise=15'],
}
# Each network with the rates that docs/networks.md found for it, and VGG with those beside.
_NETWORKS = {
    'inception_v3': ['--net=inception_v3'],
    'vgg_16': ['--net=vgg_16_trunk --checkpoint={vgg}'],
    'vgg_16-low': ['--net=vgg_16_trunk --checkpoint={vgg} --learning_rate=3e-5 --new_layers_rate=33'],
    'vgg_16-high': ['--net=vgg_16_trunk --checkpoint={vgg} --learning_rate=3e-4 --new_layers_rate=3.3'],
    'segnet': ['--net=segnet --checkpoint={vgg} --learning_rate=1e-3 --new_layers_rate=1 --warmup_steps=50'],
    'deconvnet': ['--net=deconvnet --checkpoint={vgg} --learning_rate=1e-3 --new_layers_rate=1 --warmup_steps=50'],
    'enet': ['--net=enet --checkpoint=none --learning_rate=5e-3 --new_layers_rate=1 --warmup_steps=50'],
}
# Flags of each network's steps in the CPU time of VGG's 600, by the times in docs/vgg-or-googlenet.md.
_EQUAL_TIME = {
    'inception_v3': '--max_steps=830',
    'segnet': '--max_steps=200',
    'deconvnet': '--max_steps=90 --batch_norm_decay=0.9',
    'enet': '--max_steps=880',
}
# The recipe chosen on CamVid's val, and the one chosen on roads never seen (camvid.flags).
_RECIPES = {
    'former': [''],
    'recipe': ['--color_jitter=0.5 --mix_statistics=1'],
    'recipe-long': ['--color_jitter=0.5 --mix_statistics=1 --max_steps=5000 --ema_decay=0.999'],
}
STUDIES = {
    'choices': Study(_RECIPE, _CHOICES),
    'recipes': Study('--dataset=camvid --skip=2s --decoder_channels=64 --input_scale=1.5 --batch_size=3 '
                     '--crop_size=255,340 --loss=cross_entropy+lovasz --learning_rate=2e-4 --new_layers_rate=5 '
                     '--warmup_steps=50 --ema_decay=0.998 --trainable_scopes=fcn,InceptionV3/Mixed_* '
                     '--max_steps=2500 --eval_steps=0', _RECIPES),
    'networks': Study('--dataset=camvid --crop_size=223,287 --learning_rate=1e-4 --new_layers_rate=10 '
                      '--batch_norm_decay=0.97 --max_steps=600 --eval_steps=0',
                      _NETWORKS | {f'{name}-time': [f'{_NETWORKS[name][0]} {steps}']
                                   for name, steps in _EQUAL_TIME.items()}),
}
SHOWN = ('pole', 'sign', 'fence', 'pedestrian', 'bicyclist')  # classes with a column of their own
_WIDTH, _ROW = 520, 22  # pixels of a row of the chart


@dataclasses.dataclass(frozen=True)
class AblationSettings(Settings):
  """Flags of this program."""
  data_dir: str = flag('data/camvid', 'folder with the TFRecords, or with the originals', path=True)
  checkpoint: str | None = flag(None, 'pretrained checkpoint; default: the ImageNet weights, downloaded', path=True)
  output_dir: str = flag('runs/choices', 'folder for the runs, the table and the chart', path=True)
  overwrite: bool = overwrite_flag()
  precision: str = flag('float32', 'arithmetic of the convolutions, see train.py',
                        choices=PRECISIONS)
  threads: int = flag(0, 'CPU threads per operation; 0: one per core', least=0)
  folds: tuple[str, ...] = flag(
      ('0006R0*', '0001TP*'), 'patterns of names, each of the images that a fold holds out and scores')
  study: str = flag('choices', 'what to compare', choices=tuple(STUDIES))
  vgg_checkpoint: str | None = flag(None, "VGG-16's weights for --study=networks", path=True)
  only: tuple[str, ...] = flag((), 'choices to measure; default: all')
  seeds: tuple[int, ...] = flag((0,), 'seeds to train each choice with', least=0)

  def check(self):
    """Raises UserError for the first flag that is not valid."""
    super().check()
    choices = STUDIES[self.study].choices
    for name in self.names:
      if name not in choices:
        raise UserError(f'--only={name}: valid are {", ".join(choices)}')
      if any('{vgg}' in options for options in choices[name]) and not self.vgg_checkpoint:
        raise UserError(f"{name} starts from VGG-16's weights: name them by --vgg_checkpoint")

  @property
  def names(self):
    """Names of the choices to measure."""
    return self.only or tuple(STUDIES[self.study].choices)

  @property
  def common(self):
    """List of the flags of every training that do not belong to the study."""
    start = [f'--checkpoint={self.checkpoint}'] if self.checkpoint else []
    return [f'--data_dir={self.data_dir}', f'--precision={self.precision}', f'--threads={self.threads}', *start]

  def run_dir(self, name, seed, fold):
    """Folder of the run of a choice with a seed that holds out the images of the pattern `fold`."""
    return os.path.join(self.output_dir, f'{name}-{seed}-{"".join(filter(str.isalnum, fold))}')


def measure(settings, name, seed, fold, *, script=scripts.run, cpu_seconds=scripts.cpu_seconds):
  """Trains and scores a choice with a seed on a fold, unless this was done before.

  Args:
    settings: an AblationSettings.
    name: name of the choice.
    seed: seed of train.py.
    fold: pattern of the names that are held out.
    script: runs a script, see scripts.run.
    cpu_seconds: function that returns the CPU time of all scripts so far.

  Returns:
    bool, whether the choice has been measured; if not, the log beside the run says why. COST adds up the CPU time of
    all attempts to train the choice, failed and interrupted attempts included.
  """
  compared, run_dir = STUDIES[settings.study], settings.run_dir(name, seed, fold)
  if _scores(run_dir):
    return True
  stages = [options.format(vgg=settings.vgg_checkpoint) for options in compared.choices[name]]
  folders = [f'{run_dir}-stage{stage}' for stage in range(1, len(stages))] + [run_dir]
  with open(f'{run_dir}.log', 'a', encoding='utf-8') as log:
    for stage, (options, folder) in enumerate(zip(stages, folders)):
      start = [f'--init_from={folders[stage - 1]}'] if stage else []
      before = cpu_seconds()
      try:
        code = script('train.py', [*compared.flags.split(), *settings.common, f'--seed={seed}', f'--hold_out={fold}',
                                   *options.split(), *start, f'--run_dir={folder}'], log)
      finally:
        _add_cost(run_dir, cpu_seconds() - before)
      if code:
        return False
    return script('evaluate.py', [f'--ckpt={run_dir}', f'--split={HELD_OUT}', '--details',
                                  f'--precision={settings.precision}'], log) == 0


def _scores(run_dir):
  """Path of the scores of a run's plain evaluation; None before it."""
  paths = [os.path.join(run_dir, name) for name in METRICS]
  return next(filter(os.path.exists, paths), None)


def _add_cost(run_dir, seconds):
  """Adds CPU time to the COST of a run."""
  make_folder(run_dir)
  path = os.path.join(run_dir, COST)
  spent = read_json(path)['cpu_seconds'] if os.path.exists(path) else 0.0
  write_json(path, {'cpu_seconds': spent + seconds}, own=os.path.isfile)  # any: the folder is the study's


def collect(settings):
  """Reads the scores of all choices and seeds that are finished in every fold.

  Args:
    settings: an AblationSettings.

  Returns:
    dict from name, in the order of the study, to a list with a dict for each seed: `seed`; `folds`, list of the mean
    IoU in each fold; and means over the folds: `mean_iou`, `pixel_accuracy` and `boundary_f1` in percent (nan if an
    evaluation has none), `class_iou` (dict from class to percent, over the folds that have the class), and
    `cpu_seconds` of a training.
  """
  found, folders = {}, os.listdir(settings.output_dir)
  for name in STUDIES[settings.study].choices:
    before, after = os.path.basename(settings.run_dir(name, '*', settings.folds[0])).split('*')
    seeds = [folder.removeprefix(before).removesuffix(after) for folder in folders
             if folder.startswith(before) and folder.endswith(after)]
    for seed in sorted(int(seed) for seed in seeds if seed.isdecimal()):
      results = [_result(settings.run_dir(name, seed, fold)) for fold in settings.folds]
      if all(results):
        found.setdefault(name, []).append({'seed': seed, 'folds': [result['mean_iou'] for result in results],
                                           **_mean_over_folds(results)})
  return found


def _result(run_dir):
  """Scores of a run in percent, and its CPU time, as one dict; None if it is not finished."""
  metrics, cost = _scores(run_dir), os.path.join(run_dir, COST)
  if not metrics or not os.path.exists(cost):
    return None
  scores = read_json(metrics)
  return {'cpu_seconds': read_json(cost)['cpu_seconds'],
          'class_iou': {label: 100 * iou for label, iou in scores['class_iou'].items() if iou is not None},
          'boundary_f1': _percent(scores.get('details', {}).get('boundary_f1')),
          **{key: _percent(scores[key]) for key in ('mean_iou', 'pixel_accuracy')}}


def _mean_over_folds(results):
  """Mean of the dicts that `_result` returned; of a class over those that have it."""
  classes = dict.fromkeys(label for result in results for label in result['class_iou'])
  return {**{key: float(np.mean([result[key] for result in results]))
             for key in ('mean_iou', 'pixel_accuracy', 'boundary_f1', 'cpu_seconds')},
          'class_iou': {label: float(np.mean([result['class_iou'][label] for result in results
                                              if label in result['class_iou']])) for label in classes}}


def _percent(score):
  """A score from a JSON in percent; nan for null."""
  return float('nan') if score is None else 100 * score


def mean(scores, key):
  """The mean over the seeds of a score, or of a class's IoU; nan if a seed lacks it."""
  return float(np.mean([score.get(key, score['class_iou'].get(key, np.nan)) for score in scores]))


def table(found, settings):
  """The scores of `collect` as a Markdown table; changes are from the mean of the study's first choice over its seeds.

  Args:
    found: dict from `collect`, with the first choice.
    settings: an AblationSettings.

  Returns:
    str. The spread is the range of the mean IoU over the seeds.
  """
  choices = STUDIES[settings.study].choices
  first = found[next(iter(choices))]
  heads = ['choice', 'flags', 'seeds', 'CPU', 'pixel accuracy', 'boundary F1',
           *(f'without {fold}' for fold in settings.folds), 'mean IoU', 'spread', 'change', *SHOWN]
  lines = [_line(heads), _line(['---'] * len(heads))]
  for name, scores in found.items():
    seeds = ', '.join(str(score['seed']) for score in scores)
    change = '' if scores is first else f'{mean(scores, "mean_iou") - mean(first, "mean_iou"):+.1f}'
    options = ', then '.join(f'`{options}`' for options in choices[name] if options)
    totals = [score['mean_iou'] for score in scores]
    lines.append(_line([name, options, seeds, f'{mean(scores, "cpu_seconds") / mean(first, "cpu_seconds"):.2f}',
                        *(f'{mean(scores, key):.1f}' for key in ('pixel_accuracy', 'boundary_f1')),
                        *(f'{iou:.1f}' for iou in np.mean([score['folds'] for score in scores], axis=0)),
                        f'{np.mean(totals):.1f}', f'{np.ptp(totals):.1f}' if len(totals) > 1 else '', change,
                        *(f'{mean(scores, key):.1f}' for key in SHOWN)]))
  return '\n'.join(lines)


def _line(cells):
  return f'| {" | ".join(cells)} |'


def chart(scores):
  """Draws the change of the mean IoU from that of a study's first choice, a bar for each choice.

  Args:
    scores: dict from name, the first choice first, to a list with the mean IoU of each seed, in percent.

  Returns:
    uint8 [h, w, 3], RGB. The best choices come first; dots are single seeds of a choice with several; the gray band is
    the range of the first choice's seeds.
  """
  first = next(iter(scores))
  middle = float(np.mean(scores[first]))
  changes = {name: [score - middle for score in of_seeds] for name, of_seeds in scores.items()}
  order = sorted(changes, key=lambda name: -np.mean(changes[name]))
  low, high = (function(sum(changes.values(), [0.0])) for function in (min, max))
  picture, left = canvas.row_chart(f'change of the mean IoU from the {middle:.1f} of {first}', order, width=_WIDTH,
                                   height=_ROW, right=80, note=f'gray: range of {first}; dots: single seeds')
  place = lambda change: left + _WIDTH * (change - low) / max(high - low, 1e-6)
  bottom = canvas.TOP + _ROW * len(order)
  picture.bar(place(min(changes[first])), canvas.TOP, place(max(changes[first])), bottom, canvas.FAINT)
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
  stem = os.path.join(settings.output_dir, settings.study)
  claim([f'{stem}.md', f'{stem}.png'], overwrite=settings.overwrite)
  runs = [(name, seed, fold) for seed in settings.seeds for name in settings.names for fold in settings.folds]
  with ended_by_sigterm(), Progress(len(runs), 'trainings', interval=0.0) as progress:
    for name, seed, fold in runs:
      if measure(settings, name, seed, fold, script=script):
        scores = _result(settings.run_dir(name, seed, fold))
        print(f'{name}, seed {seed}, without {fold}: mean IoU {scores["mean_iou"]:.1f}', flush=True)
        save(settings)
      else:
        print(f'{name}, seed {seed}, without {fold}: failed; {shown(settings.run_dir(name, seed, fold))}.log says why',
              flush=True)
      progress.update()
  report(settings)


def save(settings):
  """Writes table and chart of all that is finished if the study's first choice is; returns the table, else None."""
  found = collect(settings)
  if next(iter(STUDIES[settings.study].choices)) not in found:
    return None
  stem, text = os.path.join(settings.output_dir, settings.study), table(found, settings)
  write_text(f'{stem}.md', text)
  write_png(f'{stem}.png', chart({name: [score['mean_iou'] for score in scores] for name, scores in found.items()}))
  return text


def report(settings):
  """Writes and prints table and chart of all that is finished. Raises UserError if the study's first choice is not."""
  text = save(settings)
  if text is None:
    first = next(iter(STUDIES[settings.study].choices))
    raise UserError(f'{settings.output_dir}: {first} has not been measured in {" and ".join(settings.folds)}, so there '
                    f'is nothing to compare with; leave --only out, or name {first} in it')
  print(f'{text}\nwritten to {os.path.join(settings.output_dir, settings.study)}.md and .png')


def main(argv=None):
  """Measures; `argv` is the command line without the program's name, None for the process's own."""
  return run(study, AblationSettings, argv, text=__doc__)


if __name__ == '__main__':
  sys.exit(main())
