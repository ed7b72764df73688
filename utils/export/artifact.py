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
from utils.files import file_digest, read_json, tensorflow_path, write_json
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


def refuse_foreign(target, names=()):
  """Raises UserError if files are in the place of an exported one that this program did not write, or changed since.

  Args:
    target: path of the file, or of its JSON without `.json`.
    names: names of all files and folders to be written beside the JSON; by default that of `target` alone.
  """
  place, beside = os.path.dirname(target), f'{target}.json'
  known = read_json(beside) if os.path.lexists(beside) else {'format': FORMAT}
  if not (isinstance(known, dict) and known.get('format') == FORMAT):
    _refuse(beside)
  rejected = REJECTED if target.endswith(REJECTED) else ''
  files_known = known.get('files') if isinstance(known.get('files'), dict) else {}
  digests = {_renamed(name, rejected): file.get('sha256') for name, file in files_known.items()}
  for path in [os.path.join(place, name) for name in names] or [target]:
    if os.path.islink(path):
      _refuse(path)
    parts = [os.path.join(folder, name) for folder, _, own in os.walk(path) for name in own] or [path]
    for part in parts if os.path.lexists(path) else ():
      digest = digests.get(os.path.relpath(part, place or '.'))
      if not digest or not os.path.isfile(part) or file_digest(part, 'sha256').hex() != digest:
        _refuse(part)


def _refuse(path):
  raise UserError(f'{path} is there already, and was not written by this program, or changed since; give another '
                  '--output_dir')


def _renamed(name, end):
  """A path with `end` after its first part."""
  first, slash, rest = name.partition('/')
  return f'{first}{end}{slash}{rest}'


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
    path = os.path.join(tensorflow_path(folder), os.path.basename(target))  # converters take plain names alone
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
  refuse_foreign(f'{target}{rejected}', [name + rejected for name in os.listdir(folder)])
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
