"""Writes a file of a format. It gets its name when its own engine has shown that it labels as the run does."""

import contextlib
import dataclasses
import os
import shutil
import tempfile

from checkpoints import card
from utils import cpu, limits
from utils.errors import UserError, shown
from utils.evaluation.metrics import percent
from utils.export import comparison
from utils.export.formats import FORMATS
from utils.files import file_digest, read_json, write_json
from utils.inference.engines import first_line, open_engine
from utils.inference.exported import FORMAT

REJECTED = '.rejected'  # end of the names of files that differ too much from their run
GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Reference:
  """What an exported network has to equal.

  Attributes:
    cases: list of comparison.Case.
    answers: the run's comparison.Answers to them.
    limits: the comparison.Limits.
    split: name of the images' split.
    num_images: number of its images.
  """
  cases: list
  answers: comparison.Answers
  limits: comparison.Limits
  split: str
  num_images: int


def refuse_foreign(target):
  """Raises UserError if a file is there that this program did not write."""
  if os.path.lexists(target):
    known = read_json(f'{target}.json') if os.path.exists(f'{target}.json') else None
    if not (isinstance(known, dict) and known.get('format') == FORMAT):
      raise UserError(f'{target} is there already, and was not written by this program; give another --output_dir')


def require_memory(form, weights):
  """Raises UserError if less memory is free than writing and comparing a Format take; `weights` are the run's bytes."""
  needed = form.memory * weights + GIB
  with contextlib.suppress(ValueError):  # not Linux
    free = min(limits.memory()[1], limits.memory_limit() or needed)
    if free < needed:
      raise UserError(f'it takes about {needed / GIB:.1f} GiB of memory, and {free / GIB:.1f} are free')


def make(name, target, job, reference):
  """Writes a format beside its place, compares it, puts it there with a JSON of all that is known of it, and says so.

  Args:
    name: the format.
    target: path of the file.
    job: the graph.Job.
    reference: the Reference.

  Raises:
    UserError: if it cannot be converted; or differs too much, and then stands under a name that says so.
  """
  print(f'{name}: converting', flush=True)
  folder = tempfile.mkdtemp(prefix='.', suffix='.tmp', dir=os.path.dirname(target))
  try:
    path = os.path.join(folder, os.path.basename(target))
    _convert(FORMATS[name], job, path)
    written = files(folder)
    check, reasons = _check(path, job, reference)
    rejected = REJECTED if reasons else ''
    content = {**job.about, 'files': written, 'check': {**check, 'accepted': not reasons, 'reasons': reasons}}
    _publish(folder, target, rejected, content)
  finally:
    shutil.rmtree(folder, ignore_errors=True)
  if reasons:
    raise UserError(f'{"; ".join(reasons)}; what was written is kept as {target}{rejected}')
  print(_line(target, content), flush=True)


def _convert(form, job, path):
  """Writes a Format. Raises UserError if the converter fails."""
  try:
    form.write(job, path)
  except UserError:
    raise
  except Exception as error:  # converters raise nearly anything
    raise UserError(f'cannot be converted: {first_line(error)}') from error


def files(folder):
  """Dict from the paths of the files in a folder, relative to it, to their `bytes` and `sha256`."""
  found = {}
  for place, _, names in os.walk(folder):
    for path in sorted(os.path.join(place, name) for name in names):
      found[os.path.relpath(path, folder)] = {
          'bytes': os.path.getsize(path), 'sha256': file_digest(path, 'sha256').hex()}
  return found


def _check(path, job, reference):
  """Opens a file by its engine and compares it.

  Returns:
    `(check, reasons)`: a dict for the JSON, and phrases on why the file is rejected, none if it is not.
  """
  bounds = reference.limits
  check = {'split': reference.split, 'num_images': reference.num_images, 'cpu': cpu.cpu_model(),
           'limits': dataclasses.asdict(bounds)}
  try:
    with open_engine(path) as engine:
      check['engine'] = engine.name
      found = comparison.answers(engine, reference.cases)
    check |= comparison.compared(reference.cases, reference.answers, found, len(job.run.classes))
  except Exception as error:  # engines raise nearly anything
    return check, [f'it does not run: {first_line(error)}']
  return check, comparison.objections(check, bounds)


def _publish(folder, target, rejected, content):
  """Moves what a folder holds beside `target`, names ending with `rejected`, and writes the JSON; or UserError."""
  beside, place = f'{target}{rejected}.json', os.path.dirname(target)
  try:
    with contextlib.suppress(FileNotFoundError):
      os.unlink(beside)  # an older one must not stand beside the new file
    for name in os.listdir(folder):
      goal = os.path.join(place, name + rejected)
      if os.path.isdir(goal) and not os.path.islink(goal):
        shutil.rmtree(goal)
      os.replace(os.path.join(folder, name), goal)
  except OSError as error:
    raise UserError(f'cannot write {shown(target)}{rejected}: {error.strerror or error}') from error
  write_json(beside, content)


def _line(target, content):
  """The line on an exported file."""
  check, size = content['check'], sum(file['bytes'] for file in content['files'].values())
  before, after = (percent(check['mean_iou'][name], 2) for name in ('run', 'exported'))
  own, there = (check['milliseconds'][name] for name in ('run', 'exported'))
  return (f'exported: {shown(target)}, {size / 1e6:.1f} MB; {card.share(check)} of {check["pixels"]:,d} pixels have '
          f"the run's label, mean IoU {after} % ({before} % before) on {check['num_images']} images of "
          f'{check["split"]}; {there:.0f} ms an image ({own:.0f} before), {check["engine"]}')
