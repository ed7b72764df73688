"""What cost the 2017 course project its score: its mistakes put back one by one on Inception v3, on equal steps.

    python -m utils.studies.course_project --dataset=camvid --checkpoint=inception_v3.ckpt --precision=bfloat16
    python -m utils.studies.course_project --checkpoint=inception_v3.ckpt --only=baseline,raw --steps=20

The project (KTH, DD2424, github.com/DeepSegment/FCN-GoogLeNet; doc/report.pdf, Table 1) reports a mean IoU of 20.2,
25.8 and 26.8 for FCN-32s, 16s and 8s on Inception v3 and VOC's val, where Long et al., CVPR 2015, Table 1, have 42.5
for GoogLeNet's FCN-32s; it concludes that VGG outperforms GoogLeNet. MISTAKES in course_variant.py are its code's;
a variant has one of them, or several joined by +. Every run is scored by this project's metric, at the images' own
size, and by the course project's.

Runs lie in --output_dir as VARIANT-SEED, their output beside them as VARIANT-SEED.log, and the variants' data under
`data`. A finished run is not trained again, an interrupted run resumes, and Ctrl-C lets the training in progress save.
After each run the table of all finished runs is written to OUTPUT/course-SPLIT.md and printed; once the baseline is
among them, OUTPUT/course-SPLIT.png is its chart. A run that fails is reported and skipped. What is not put back: the
project's optimizer, its learned upsampling, and its lack of augmentation.
"""

import dataclasses
import os
import sys

import numpy as np

import checkpoints
from datasets import DATASETS
from datasets.folds import HoldOutFlags
from utils.drawing.colors import write_png
from utils.errors import shown
from utils.exits import ended_by_sigterm
from utils.files import claim, make_folder, read_json, write_text
from utils.progress import Progress
from utils.session import PRECISIONS
from utils.settings import Settings, command_words, flag, group, overwrite_flag, run
from utils.studies import ablations, scripts
from utils.studies.course_variant import BASELINE, MISTAKES, NET, SCORES, SIZE, dataset_name, mistakes_of, network_name

PROGRAM = 'utils.studies.course_variant'
# Each mistake alone, then one more at a time.
VARIANTS = (BASELINE, *MISTAKES, *('+'.join(list(MISTAKES)[:count]) for count in range(2, len(MISTAKES) + 1)))
TRAINING = '--crop_size=223,287 --learning_rate=1e-4 --new_layers_rate=10 --eval_steps=0'
SQUASHED = f'--crop_size={SIZE[0]},{SIZE[1]} --scale_range=1,1'  # the whole picture


@dataclasses.dataclass(frozen=True)
class CourseSettings(Settings):
  """Flags of this program."""
  dataset: str = flag('camvid', 'dataset', choices=DATASETS)
  data_dir: str | None = flag(None, 'folder with its TFRecords, or with the originals; default data/DATASET', path=True)
  source_dir: str | None = flag(None, 'folder with the originals, where it is not --data_dir', path=True)
  checkpoint: str | None = flag(None, 'pretrained checkpoint; default: the ImageNet weights, downloaded', path=True)
  output_dir: str = flag('runs/course', 'folder for the runs and the table', path=True)
  overwrite: bool = overwrite_flag()
  precision: str = flag('float32', 'arithmetic of the convolutions, see train.py', choices=PRECISIONS)
  only: tuple[str, ...] = flag((), f'variants: {BASELINE}, or mistakes joined by +; default: {",".join(VARIANTS)}')
  seeds: tuple[int, ...] = flag((0,), 'seeds to train each variant with', least=0)
  skip: str = flag('8s', 'finest skip of the FCN', choices=('32s', '16s', '8s', '4s', '2s'))
  steps: int = flag(2000, 'steps of each training', least=1)
  split: str = flag('val', 'split to score')
  held: HoldOutFlags = group(HoldOutFlags)

  def check(self):
    """Raises UserError for the first flag that is not valid."""
    super().check()
    for variant in self.only:
      mistakes_of(variant)


def measure(variant, seed, settings, checkpoint, *, script=scripts.run):
  """Trains and scores a variant with a seed, unless this was done before.

  Args:
    variant: its name, see mistakes_of.
    seed: seed of train.py.
    settings: a CourseSettings.
    checkpoint: path of the ImageNet weights.
    script: runs a script, see scripts.run.

  Returns:
    bool, whether the variant has been measured; if not, the log says why.
  """
  mistakes, run_dir = mistakes_of(variant), os.path.join(settings.output_dir, f'{variant}-{seed}')
  if os.path.exists(os.path.join(run_dir, SCORES.format(settings.split))):
    return True
  plain = settings.data_dir or f'data/{settings.dataset}'
  source = [f'--source_dir={settings.source_dir}'] if settings.source_dir else []
  name, data = dataset_name(settings.dataset, mistakes), ([f'--data_dir={plain}', *source])
  trained_on = data if name == settings.dataset else [
      f'--data_dir={os.path.join(settings.output_dir, "data", name)}', f'--source_dir={settings.source_dir or plain}']
  common = [f'--precision={settings.precision}']
  training = [f'--net={network_name(mistakes)}', f'--dataset={name}', f'--skip={settings.skip}', f'--seed={seed}',
              f'--checkpoint={checkpoint}', f'--max_steps={settings.steps}', f'--run_dir={run_dir}', *trained_on,
              *common, *TRAINING.split(), *(SQUASHED.split() if 'squashed' in mistakes else ()),
              *command_words(settings.held)]
  scoring = [f'--ckpt={run_dir}', f'--split={settings.split}', *data, *common]
  with open(f'{run_dir}.log', 'a', encoding='utf-8') as log:
    return all(script(PROGRAM, [action, settings.dataset, variant, *words], log) == 0
               for action, words in (('train', training), ('score', scoring)))


def collect(settings):
  """Reads the scores of all finished runs; returns a dict from variant to a list with a dict for each seed.

  Each dict has `own` and `course`, with `mean_iou` and `pixel_accuracy` as fractions of 1, see course_variant.score.
  The variants of VARIANTS come first, in their order.
  """
  found = {}
  for folder in sorted(os.listdir(settings.output_dir)):
    path = os.path.join(settings.output_dir, folder, SCORES.format(settings.split))
    variant, _, seed = folder.rpartition('-')
    if seed.isdecimal() and os.path.exists(path):
      found.setdefault(variant, []).append(read_json(path))
  return {name: found[name] for name in (*VARIANTS, *found) if name in found}


def table(found):
  """The scores that `collect` returned as a Markdown table, in percent; changes are from the baseline's mean."""
  columns = [('own', 'mean_iou'), ('own', 'pixel_accuracy'), ('course', 'mean_iou'), ('course', 'pixel_accuracy')]
  lines = ['| variant | seeds | mean IoU | change | pixel accuracy | its mean IoU | change | its pixel accuracy |',
           f'|{" --- |" * 8}']
  means = {name: [100 * np.mean([score[metric][key] for score in scores]) for metric, key in columns]
           for name, scores in found.items()}
  for name, scores in found.items():
    changes = [f'{mine - start:+.1f}' for mine, start in zip(means[name], means.get(BASELINE, ()))]
    iou, accuracy, course_iou, course_accuracy = (f'{value:.1f}' for value in means[name])
    change, _, course_change, _ = changes if changes and name != BASELINE else [''] * 4
    lines.append(f'| {name} | {len(scores)} | {iou} | {change} | {accuracy} | {course_iou} | {course_change} | '
                 f'{course_accuracy} |')
  return '\n'.join(lines)


def save(settings):
  """Writes the table of all finished runs, and the chart if the baseline is among them."""
  found, stem = collect(settings), os.path.join(settings.output_dir, f'course-{settings.split}')
  write_text(f'{stem}.md', table(found))
  if BASELINE in found:
    write_png(f'{stem}.png', ablations.chart(
        {name: [100 * score['own']['mean_iou'] for score in scores] for name, scores in found.items()}))


def study(settings, *, script=scripts.run):
  """Measures the variants that the flags name, and reports on all finished runs; `script` is that of `measure`."""
  make_folder(settings.output_dir)
  checkpoint = settings.checkpoint or checkpoints.pretrained_checkpoint(NET)
  runs = [(variant, seed) for seed in settings.seeds for variant in settings.only or VARIANTS]
  stem = os.path.join(settings.output_dir, f'course-{settings.split}')
  claim([f'{stem}.md', f'{stem}.png'], overwrite=settings.overwrite)
  with ended_by_sigterm(), Progress(len(runs), 'trainings', interval=0.0) as progress:
    for variant, seed in runs:
      if measure(variant, seed, settings, checkpoint, script=script):
        save(settings)
      else:
        log = os.path.join(settings.output_dir, f'{variant}-{seed}.log')
        print(f'{variant}, seed {seed}: failed; {shown(log)} says why', flush=True)
      progress.update()
      print(table(collect(settings)), flush=True)


def main(argv=None):
  """Measures; `argv` is the command line without the program's name, None for the process's own."""
  return run(study, CourseSettings, argv, text=__doc__)


if __name__ == '__main__':
  sys.exit(main())
