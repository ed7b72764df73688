"""What TensorFlow, the driver and nvidia-smi answer, each asked in a process of its own with a limit of time."""

import dataclasses
import json
import os
import re
import subprocess
import sys

from utils.devices import Gpu
from utils.doctor.driver import SMI, read_smi
from utils.files import ROOT
from utils.installation import PACKAGE

# Seconds to wait for answers. Importing TensorFlow from a slow disk takes long; a broken driver never answers.
TENSORFLOW_SECONDS, DRIVER_SECONDS, SMI_SECONDS = 120, 4, 3
# TensorFlow's messages from the search for GPUs, and the one in which it names a library.
_MESSAGE = re.compile(r'(Could not load dynamic library|Ignoring visible gpu|Cannot dlopen|failed call to cuInit).*')


@dataclasses.dataclass(frozen=True)
class Facts:
  """What other processes have answered.

  Attributes:
    report: dict of tensorflow_report; with `error` alone if TensorFlow cannot be imported.
    driver: dict of driver.ask_driver; None if it did not answer.
    libraries: dict from the libraries of CUDA that do not open to the reasons.
    smi: list of driver.read_smi.
    words: TensorFlow's message about GPUs; ''.
  """
  report: dict
  driver: dict | None
  libraries: dict
  smi: list
  words: str = ''

  @property
  def gpus(self):
    """List of devices.Gpu that TensorFlow finds."""
    return [Gpu(gpu['number'], gpu['name'], tuple(gpu['capability'])) for gpu in self.report.get('gpus', ())]


def started(command, **environment):
  """Starts a program; returns its subprocess.Popen, or the OSError that prevents it.

  It starts in the folder that modules are imported from, where no file of the user's is taken for one.
  """
  folder = os.path.dirname(ROOT) if PACKAGE else ROOT
  try:
    return subprocess.Popen(command, cwd=folder, env={**os.environ, **environment}, stdin=subprocess.DEVNULL,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors='replace')
  except OSError as error:
    return error


def answer(process, seconds):
  """Waits for a program's answer, and kills it after some time.

  Args:
    process: of `started`.
    seconds: time to wait.

  Returns:
    `(stdout, stderr, failure)`, three str; `failure` says why it has not ended well, '' if it has.
  """
  if isinstance(process, OSError):
    return '', '', process.strerror or str(process)
  try:
    stdout, stderr = process.communicate(timeout=seconds)
  except subprocess.TimeoutExpired:
    process.kill()  # and no wait: what hangs in the kernel does not even die
    return '', '', f'no answer within {seconds} s'
  if process.returncode < 0:
    return stdout, stderr, f'killed by signal {-process.returncode}'
  return stdout, stderr, f'exit code {process.returncode}' if process.returncode else ''


def gather(start=started):
  """Asks TensorFlow, the driver and nvidia-smi.

  Args:
    start: as `started`.

  Returns:
    a Facts.
  """
  tensorflow = start(_module('tensorflow_report'), TF_CPP_MIN_LOG_LEVEL='0',
                     TF_CPP_VMODULE='dso_loader=1', TF_USE_LEGACY_KERAS='1', TF_ENABLE_ONEDNN_OPTS='1')
  smi, _, _ = answer(start(SMI), SMI_SECONDS)
  stdout, stderr, failure = answer(tensorflow, TENSORFLOW_SECONDS)
  report = _json(stdout) or {'error': _without_answer(stderr, failure)}
  build = report.get('build', {})
  versions = [] if report.get('gpus') or not build.get('cuda_version') else [
      build['cuda_version'], build.get('cudnn_version', '9')]
  found = _json(answer(start([*_module('driver'), *versions]), DRIVER_SECONDS)[0]) or {}
  words = [' '.join(match[0].split(';')[:2]) for match in map(_MESSAGE.search, stderr.splitlines()) if match]
  return Facts(report, found.get('driver'), found.get('libraries', {}), read_smi(smi), words[-1] if words else '')


def _module(name):
  """The command that starts a module of the doctor."""
  return [sys.executable, '-m', f'{__package__}.{name}']


def _json(text):
  """The dict in the last line of a program's output; None if there is none."""
  try:
    found = json.loads(text.strip().splitlines()[-1])
  except (IndexError, ValueError):
    return None
  return found if isinstance(found, dict) else None


def _without_answer(stderr, failure):
  """Why TensorFlow has not answered."""
  if failure == 'killed by signal 4':
    return 'it needs instructions that this CPU lacks (AVX)'
  return ': '.join(filter(None, [failure, *stderr.strip().splitlines()[-1:]]))
