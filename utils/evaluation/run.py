"""Evaluates a trained network on a split: the work of evaluate.py."""

import dataclasses
import os

import numpy as np

from datasets import pipeline, records
from utils.drawing import charts, colors, gallery
from utils.errors import UserError
from utils.evaluation import metrics
from utils.evaluation.scorer import PARTS, Scorer
from utils.files import make_folder, write_json
from utils.inference.stream import Failed, Wanted, labelled
from utils.progress import Progress
from utils.runs import load_run

NUM_EXAMPLES = 4  # images shown by examples-SPLIT.png


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """The result of an evaluation.

  Attributes:
    scorer: the Scorer of the predictions.
    plain: the Scorer of the network's own labels; without a CRF, the same object as `scorer`.
    examples: list of up to NUM_EXAMPLES gallery.Row.
  """
  scorer: Scorer
  plain: Scorer
  examples: list


def evaluate(settings):
  """Evaluates a run on a split: prints a table and writes the report's files.

  Args:
    settings: an EvaluateSettings.

  Raises:
    UserError: if the run, the split or a record cannot be used, or the split has no labeled pixel.
  """
  run = load_run(settings.ckpt)
  data_dir = settings.data_dir or run.config['flags']['data_dir']
  num_images = records.check_classes(data_dir, settings.split, run.classes, trained=run.folder)
  make_folder(run.folder)
  with settings.labelling.open_predictor(run) as predictor:
    print(f'{run.checkpoint} (step {run.step}) on the {num_images} images of {settings.split} in {data_dir}',
          flush=True)
    evaluation = score_split(predictor, settings, data_dir, run.classes, num_images)
  if not evaluation.scorer.matrix.any():
    raise UserError(f'split {settings.split!r} in {data_dir} has no labeled pixel')
  report(run, evaluation, settings, num_images)


def score_split(predictor, settings, data_dir, classes, num_images):
  """Labels a split image by image and scores it.

  Args:
    predictor: a Predictor.
    settings: an EvaluateSettings.
    data_dir: folder with the shards.
    classes: class names, index = label id.
    num_images: number of images in the split.

  Returns:
    an Evaluation.

  Raises:
    UserError: if a record cannot be used; names it.
  """
  where = f'{data_dir}, {settings.split}'
  scorer = Scorer(classes, where=where, parts=PARTS if settings.details else ())
  plain, examples = Scorer(classes, where=where), []
  shown = set(np.linspace(0, num_images - 1, NUM_EXAMPLES).astype(int).tolist())
  images = (((name, truth), image) for name, image, truth in pipeline.examples(data_dir, settings.split))
  with Progress(num_images, 'images', label=settings.split) as progress:
    for item in labelled(images, predictor, crf=settings.labelling.refinement, tiles=settings.tiles,
                         wanted=Wanted(confidence=settings.details), num_workers=settings.labelling.num_workers):
      name, truth = item.key
      if isinstance(item, Failed):
        raise UserError(f'{where}, record {name}: {item.reason}')
      scorer.add(name, truth, item.label, image=item.image, plain=item.plain, confidence=item.confidence)
      if settings.labelling.crf:
        plain.add(name, truth, item.plain)
      if progress.done in shown:
        examples.append(gallery.row(name, item.image, truth, item.label))
      progress.update()
  if progress.done != num_images:
    raise UserError(f'{data_dir} holds {progress.done} images of {settings.split} and its JSON says {num_images}')
  return Evaluation(scorer, plain if settings.labelling.crf else scorer, examples)


def variant(settings):
  """The suffix of the files' names: the split and the options that change the labels, joined by '-'."""
  labelling, parts = settings.labelling, [settings.split]
  if labelling.views.scales != (1.0,):
    parts.append('scales_' + '_'.join(f'{scale:g}' for scale in labelling.views.scales))
  if labelling.views.flip:
    parts.append('flip')
  if labelling.samples:
    parts.append(f'samples_{labelling.samples}')
  if labelling.crf:
    parts.append('crf')
  return '-'.join(parts)


def report(run, evaluation, settings, num_images):
  """Prints the table and writes the files into the run's folder.

  Args:
    run: a runs.Run.
    evaluation: an Evaluation.
    settings: an EvaluateSettings.
    num_images: number of images in the split.

  Raises:
    UserError: if a file cannot be written.
  """
  scorer, labelling, suffix = evaluation.scorer, settings.labelling, variant(settings)
  result = scorer.result()
  print(metrics.table(result, run.classes))
  value = metrics.to_json(result, run.classes, num_images, matrix=scorer.matrix)
  value |= {'checkpoint': os.path.basename(run.checkpoint), 'step': run.step,
            'precision': labelling.device.precision, 'samples': labelling.samples,
            'test_flip': labelling.views.flip, 'test_scales': list(labelling.views.scales)}
  if labelling.crf:
    plain = evaluation.plain.result()['mean_iou']
    print(f'mean IoU without the CRF: {100 * plain:.1f} %')
    value |= {'crf': dataclasses.asdict(labelling.crf_parameters), 'mean_iou_without_crf': plain}
  if settings.details:
    value['details'] = scorer.details()
    print(scorer.text(value['details']))
  paths = [os.path.join(run.folder, name.format(suffix))
           for name in ('metrics-{}.json', 'confusion-{}.png', 'examples-{}.png')]
  write_json(paths[0], value)
  title = (f'{settings.split}, step {run.step}: mean IoU {100 * result["mean_iou"]:.1f} %; '
           'rows in % of the true pixels')
  colors.write_png(paths[1], charts.confusion_chart(scorer.matrix, run.classes, title))
  colors.write_png(paths[2], gallery.sheet(evaluation.examples, run.classes, run.palette))
  paths += scorer.write_pictures(run.folder, suffix, run)
  print('written: ' + ', '.join(paths))
