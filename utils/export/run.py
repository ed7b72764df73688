"""Exports a run: the work of python -m utils.export."""

import contextlib
import dataclasses
import os

from datasets import records
from datasets.inputs import Input
from utils.errors import UserError
from utils.evaluation.data import open_split, spaced_examples
from utils.export import comparison
from utils.export.about import about
from utils.export.artifact import Reference, make, refuse_foreign, require_memory
from utils.export.formats import FORMATS
from utils.export.graph import Job
from utils.export.settings import CALIBRATION_IMAGES
from utils.files import locked_folder
from utils.inference.exported import FOLDER
from utils.inference.predictor import Predictor
from utils.inference.temperature import temperature_of
from utils.inference.tta import Views
from utils.runs import load_run


def export(settings):
  """Exports a run in one or several formats.

  Args:
    settings: an ExportSettings.

  Raises:
    UserError: if the run, the images or the folder cannot be used; or, once all formats were tried, if one could not be
      written, or differs too much.
  """
  run = load_run(settings.ckpt)
  output_dir = settings.output_dir or os.path.join(run.results, FOLDER)
  images = read_images(run, settings.split, settings.num_images, settings.data_dir)
  job = make_job(run, settings)
  targets = {name: os.path.join(output_dir, FORMATS[name].name(job)) for name in settings.formats}
  for target in targets.values():
    refuse_foreign(target)
  weights, failures = job.graph_def.ByteSize(), {}
  for name in targets:
    with _noted(failures, name):
      require_memory(FORMATS[name], weights)
  if len(failures) < len(targets):
    with locked_folder(output_dir, f'another export is writing to {output_dir}; wait for it, or give another folder'):
      reference = refer(job, images, settings)
      if job.seen.reading.exif == 'turn':
        print('note: nothing in the files reads EXIF; turn images upright before, as decoding for the training did')
      for name in [name for name in targets if name not in failures]:
        with _noted(failures, name):
          make(name, targets[name], job, reference)
  if failures:
    raise UserError(*(f'--format={name}: {failure}' for name, failure in failures.items()))


@contextlib.contextmanager
def _noted(failures, name):
  """Puts a UserError of the block into a dict, so that the other formats are written."""
  try:
    yield
  except UserError as error:
    failures[name] = error


def read_images(run, split, count, data_dir):
  """Reads images of a split of a run's data, evenly spaced: a list of (image, truth). Raises UserError without any."""
  data_dir, num_images, held = open_split(run, split, data_dir)
  records.check_reading(data_dir, held.parts(split)[0], Input.from_config(run.config).reading,
                        where=f'{run.folder} was trained on')
  return [example[1:] for example in spaced_examples(data_dir, split, held, num_images=num_images, count=count)]


def make_job(run, settings):
  """The graph.Job of an ExportSettings. Reads the images that int8 is calibrated on."""
  images, calibration = (), None
  if settings.quantize == 'int8':
    count = settings.calibration_images or CALIBRATION_IMAGES
    images = [image for image, _ in read_images(run, run.train_split, count, settings.data_dir)]
    images = [comparison.at_size(image, settings.size) for image in images] if settings.size else images
    calibration = {'split': run.train_split, 'num_images': len(images)}
  temperature = temperature_of(run, settings.temperature)
  what = {'size': settings.size, 'flip': settings.test_flip, 'temperature': temperature, 'quantize': settings.quantize}
  return Job(run, about(run, calibration=calibration, **what), calibration=images, **what)


def refer(job, images, settings):
  """Makes the Reference: lets the run's Predictor answer, on the CPU in float32."""
  asked = comparison.cases(images, job.size)
  with Predictor(job.run, views=Views(flip=job.flip), temperature=job.temperature, gpu='none') as predictor:
    answers = comparison.answers(predictor, asked)
  bounds = comparison.LIMITS[job.quantize]
  if settings.least_equal is not None:
    bounds = dataclasses.replace(bounds, equal=settings.least_equal)
  return Reference(asked, answers, bounds, settings.split, len(images))
