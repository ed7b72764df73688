"""Evaluates a trained network on a split: the work of evaluate.py."""

import dataclasses
import functools
import hashlib
import os
import urllib.parse

import numpy as np

from datasets import pipeline, records
from datasets.hold_out import HELD_OUT, NOTHING
from datasets.inputs import Input
from utils.checkpoint_files import open_checkpoint
from utils.drawing import charts, colors, gallery
from utils.errors import UserError, listed, shown
from utils.evaluation import metrics, robustness, robustness_report, temperature_fit
from utils.evaluation.advice import advice
from utils.evaluation.data import open_split, sizes
from utils.evaluation.scorer import PARTS, PICTURES, Scorer
from utils.files import claim, locked_folder, make_folder, write_json
from utils.inference import temperature
from utils.inference.stream import Failed, Wanted, labelled
from utils.progress import Progress
from utils.runs import load_run
from utils.session import Device, device_line
from utils.settings import walk

NUM_EXAMPLES = 4  # images shown by examples-SPLIT.png
RESULTS = ('metrics-{}.json', 'confusion-{}.png', 'examples-{}.png')
CORRUPTED = ('metrics-{}.json', 'chart-{}.png', 'examples-{}.png')  # of --corruptions
BUSY = 'another evaluation is writing to {}'


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
  """Evaluates a run on a split: prints a table and writes the report's files; or fits the run's temperature on it.

  Args:
    settings: an EvaluateSettings.

  Raises:
    UserError: if the run, the split or a record cannot be used, or the split has no labeled pixel.
  """
  run = load_run(settings.ckpt)
  data_dir, num_images, held = open_split(run, settings.split, settings.data_dir, settings.held)
  records.check_reading(data_dir, held.parts(settings.split)[0], Input.from_config(run.config).reading,
                        where=f'{run.folder} was trained on')
  output_dir = settings.output_dir or run.results
  try:
    make_folder(output_dir)
  except UserError as error:
    how = 'give another for the results as --output_dir'
    raise UserError(f'{error}; {"the temperature is kept there" if settings.fit_temperature else how}') from error
  settings = settings.with_temperature_of(run)
  asked = settings.corruption
  if asked.names:
    _refuse_bands(run)
  with settings.labelling.open_predictor(run, num_images * (1 + len(asked.names) * len(asked.severities)),
                                         sizes(data_dir, settings.split, held)) as predictor:
    claim_results(run, settings, output_dir, predictor.artifact)
    before = _before(run, settings, output_dir, predictor.artifact) if asked.names else None
    print(f'{run.named} on the {num_images} images of {settings.split} in {shown(data_dir)}', flush=True)
    print(device_line(settings.labelling.placed), flush=True)
    if settings.fit_temperature:
      temperature_fit.fit(predictor, run, settings, data_dir, num_images, held=held)
      return
    evaluation = score_split(predictor, settings, data_dir, run.classes, num_images, held=held)
    if not evaluation.scorer.matrix.any():
      raise UserError(f'split {settings.split!r} in {data_dir} has no labeled pixel')
    value = report(run, evaluation, settings, num_images, output_dir, held=held, artifact=predictor.artifact)
    if asked.names:
      label = functools.partial(_labelled, predictor=predictor, settings=settings,
                                where=f'{data_dir}, {settings.split}')
      split = robustness.Split(data_dir, settings.split, num_images, label, run.classes, run.palette, held)
      corrupt(split, settings, value, before, output_dir, predictor.artifact)


def claim_results(run, settings, output_dir, artifact):
  """Claims the files that an evaluation is to write, see utils.files.claim; arguments as of `report`."""
  if settings.fit_temperature:
    return temperature.claim_file(run, overwrite=settings.overwrite)
  names = RESULTS + (tuple(f'{name}-{{}}.png' for name in PICTURES) if settings.details else ())
  paths = [os.path.join(output_dir, name.format(variant(settings, artifact))) for name in names]
  if settings.corruption.names:
    paths += [_results(settings, output_dir, name, artifact) for name in CORRUPTED]
  compared = settings.corruption.compare
  inputs = [compared, os.path.join(compared, os.path.basename(paths[-len(CORRUPTED)]))] if compared else []
  claim(paths, overwrite=settings.overwrite, inputs=inputs)


def _labelled(images, predictor, settings, where):
  """Yields the stream.Labelled of (key, image); raises UserError for an image that fails, by the first of its key."""
  for item in labelled(images, predictor, crf=settings.labelling.refinement, tiles=settings.tiles,
                       wanted=Wanted(confidence=settings.details), num_workers=settings.labelling.num_workers):
    if isinstance(item, Failed):
      raise UserError(f'{where}, record {item.key[0]}: {item.reason}')
    yield item


def score_split(predictor, settings, data_dir, classes, num_images, *, held=NOTHING):
  """Labels a split image by image and scores it.

  Args:
    predictor: a Predictor.
    settings: an EvaluateSettings.
    data_dir: folder with the shards.
    classes: class names, index = label id.
    num_images: number of images in the split.
    held: the HoldOut of the split.

  Returns:
    an Evaluation.

  Raises:
    UserError: if a record cannot be used; names it.
  """
  where = f'{data_dir}, {settings.split}'
  scorer = Scorer(classes, where=where, parts=PARTS if settings.details else ())
  plain, examples = Scorer(classes, where=where), []
  shown = set(np.linspace(0, num_images - 1, NUM_EXAMPLES).astype(int).tolist())
  images = (((name, truth), image) for name, image, truth in pipeline.examples(data_dir, settings.split, held))
  with Progress(num_images, 'images', label=settings.split) as progress:
    for item in _labelled(images, predictor, settings, where):
      name, truth = item.key
      picture = colors.false_color(item.image, predictor.seen.reading, predictor.seen.bands)
      scorer.add(name, truth, item.label, image=picture, plain=item.plain, confidence=item.confidence)
      if settings.labelling.crf:
        plain.add(name, truth, item.plain)
      if progress.done in shown:
        examples.append(gallery.row(name, picture, truth, item.label))
      progress.update()
  if progress.done != num_images:
    raise UserError(f'{data_dir} holds {progress.done} images of {settings.split} and its JSON says {num_images}')
  return Evaluation(scorer, plain if settings.labelling.crf else scorer, examples)


def variant(settings, artifact=None):
  """The suffix of the files' names: the split and every setting that changes the labels, joined by '-'.

  So the results with one setting never take the place of those with another.

  Args:
    settings: an EvaluateSettings.
    artifact: the exported.Artifact of the exported file that labels; None for the run itself.
  """
  labelling, parts = settings.labelling, [settings.split]
  views, device, crf = labelling.views, labelling.placed, labelling.crf_parameters

  def add(name, *values):
    parts.append('_'.join([name, *(str(value) if isinstance(value, int) else f'{value:g}' for value in values)]))

  if settings.held.given:
    asked = ','.join(settings.held.hold_out or (settings.held.fold, settings.held.group_by))
    asked = urllib.parse.quote(os.fsencode(asked), safe='')
    parts.append(f'of_{asked if len(asked) < 60 else hashlib.sha256(asked.encode()).hexdigest()[:12]}')
  if artifact:
    add(artifact.variant)
  if views.scales != (1.0,):
    add('scales', *views.scales)
  if views.flip:
    add('flip')
  if labelling.temperature not in (None, 1):
    add('temperature', labelling.temperature)
  if labelling.samples:
    add('samples', labelling.samples)
    if labelling.seed:
      add('seed', labelling.seed)
  if device.chosen != Device.precision:
    add(device.chosen)
  for name, field, value in walk(settings.tiles):
    if value != field.default:
      add(name, value)
  if labelling.crf:
    add('crf')
    for name, field, value in walk(crf):
      if value != field.default:
        add(name, value)
  return '-'.join(parts)


def report(run, evaluation, settings, num_images, output_dir, *, held=NOTHING, artifact=None):
  """Prints the table and writes the files.

  Args:
    run: a runs.Run.
    evaluation: an Evaluation.
    settings: an EvaluateSettings.
    num_images: number of images in the split.
    output_dir: folder to write to.
    held: the HoldOut of the split.
    artifact: see `variant`.

  Returns:
    the content of the metrics file.

  Raises:
    UserError: if a file cannot be written.
  """
  scorer, labelling, suffix = evaluation.scorer, settings.labelling, variant(settings, artifact)
  result = scorer.result()
  print(metrics.table(result, run.classes))
  value = metrics.to_json(result, run.classes, num_images, matrix=scorer.matrix)
  value |= {'split': settings.split, 'checkpoint': os.path.basename(run.checkpoint), 'step': run.step,
            'precision': labelling.placed.chosen, 'temperature': labelling.temperature, 'samples': labelling.samples,
            'test_flip': labelling.views.flip, 'test_scales': list(labelling.views.scales),
            'advice': advice(scorer.matrix, run.classes, flags=run.config.get('flags'), step=run.step,
                             variables=open_checkpoint(run.checkpoint).get_variable_to_shape_map())}
  if artifact:
    value |= artifact.to_json()
  if settings.split == HELD_OUT:
    value['hold_out'] = held.to_json()
  for line in value['advice']:
    print(f'advice: {line}')
  if labelling.crf:
    plain = evaluation.plain.result()['mean_iou']
    print(f'mean IoU without the CRF: {100 * plain:.1f} %')
    value |= {'crf': dataclasses.asdict(labelling.crf_parameters), 'mean_iou_without_crf': plain}
  if settings.details:
    value['details'] = scorer.details()
    print(scorer.text(value['details']))
  paths = [os.path.join(output_dir, name.format(suffix)) for name in RESULTS]
  title = (f'{settings.split}, step {run.step}: mean IoU {100 * result["mean_iou"]:.1f} %; '
           'rows in % of the true pixels')
  with locked_folder(output_dir, BUSY.format(output_dir), wait=True):  # so that numbers and pictures are of one run
    write_json(paths[0], value)
    colors.write_png(paths[1], charts.confusion_chart(scorer.matrix, run.classes, title))
    colors.write_png(paths[2], gallery.sheet(evaluation.examples, run.classes, run.palette))
    paths += scorer.write_pictures(output_dir, suffix, run)
  print('written: ' + ', '.join(map(shown, paths)))
  return value


def _results(settings, output_dir, name, artifact):
  """Path of a result of --corruptions, such as metrics-val-corruptions.json for the name 'metrics-{}.json'."""
  suffix = f'{variant(settings, artifact)}-{settings.corruption.suffix}'
  if settings.labelling.seed and not settings.labelling.samples:
    suffix += f'-seed_{settings.labelling.seed}'
  return os.path.join(output_dir, name.format(suffix))


def _refuse_bands(run):
  """Raises UserError for a run whose images cannot be corrupted."""
  reading = Input.from_config(run.config).reading
  if not reading.is_plain:
    raise UserError(f'--corruptions: they are of photographs, red, green and blue in 8 bits; {run.folder} sees bands '
                    f'of {reading.dtype}: {listed(reading.names)}')


def _before(run, settings, output_dir, artifact):
  """Content of the JSON that --compare names; None without. Raises UserError if it cannot be compared with."""
  compare = settings.corruption.compare
  return compare and robustness_report.read_before(
      compare, _results(settings, output_dir, 'metrics-{}.json', artifact), settings.corruption, run.classes)


def corrupt(split, settings, clean, before, output_dir, artifact=None):
  """Scores a split under corruptions: prints a table and writes JSON, chart and pictures.

  Args:
    split: a robustness.Split.
    settings: an EvaluateSettings.
    clean: dict from `report`.
    before: content of the JSON to compare with; None for none.
    output_dir: folder to write to.
    artifact: see `variant`.

  Raises:
    UserError: if a file cannot be written, or an image cannot be labeled.
  """
  asked, labelling = settings.corruption, settings.labelling
  paths = [_results(settings, output_dir, name, artifact) for name in CORRUPTED]
  clean = {'split': split.name, **{key: part for key, part in clean.items() if key not in ('details', 'advice')}}
  value = robustness.measure(
      split, asked, clean, paths[0], seed=labelling.seed, num_workers=labelling.num_workers)
  print(robustness_report.table(value, before))
  other = before and robustness_report.differences(value, before)
  if other:
    print(f'note: what {asked.compare} holds was measured with another {", another ".join(other)}')
  title = f'{split.name}, step {value["step"]}: mPC {metrics.percent(value["mpc"])} %'
  colors.write_png(paths[1], robustness_report.chart(value, title, before))
  colors.write_png(paths[2], robustness_report.sheet(split, asked, labelling.seed, title))
  print('written: ' + ', '.join(map(shown, paths)))
