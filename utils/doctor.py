"""Says in one screen what this machine gives to training: TensorFlow, GPUs, CPU, memory, disk, packages.

    python -m utils.doctor

The exit code is 0 unless something that training needs is missing; a GPU is not needed. What cannot be found out is
said with the reason. TensorFlow and the driver are asked in processes of their own, with limits of time.
"""

import contextlib
import dataclasses
import functools
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import textwrap

from utils import cpu, cuda, limits, no_gpu
from utils.devices import Gpu, device_line, fastest_precision
from utils.errors import UserError, guarded, listed, shown
from utils.files import ROOT, commit

GIB = 2.0**30
WIDTH = 120  # of the screen, in characters
# Seconds to wait for answers. Importing TensorFlow from a slow disk takes long; a broken driver never answers.
TENSORFLOW_SECONDS, DRIVER_SECONDS, SMI_SECONDS = 120, 4, 3
# TensorFlow's messages from the search for GPUs, and the one in which it names a library.
_MESSAGE = re.compile(r'(Could not load dynamic library|Ignoring visible gpu|Cannot dlopen|failed call to cuInit).*')


@dataclasses.dataclass(frozen=True)
class Facts:
  """What other processes have answered.

  Attributes:
    report: dict of tensorflow_report; with `error` alone if TensorFlow cannot be imported.
    driver: dict of cuda.ask_driver; None if it did not answer.
    libraries: dict from the libraries of CUDA that do not open to the reasons.
    smi: list of cuda.read_smi.
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
  """Starts a program, in the project's folder; returns its subprocess.Popen, or the OSError that prevents it."""
  try:
    return subprocess.Popen(command, cwd=ROOT, env={**os.environ, **environment}, stdin=subprocess.DEVNULL,
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
  module = [sys.executable, '-m']
  tensorflow = start([*module, 'utils.tensorflow_report'], TF_CPP_MIN_LOG_LEVEL='0', TF_CPP_VMODULE='dso_loader=1',
                     TF_USE_LEGACY_KERAS='1', TF_ENABLE_ONEDNN_OPTS='1')
  smi, _, _ = answer(start(cuda.SMI), SMI_SECONDS)
  stdout, stderr, failure = answer(tensorflow, TENSORFLOW_SECONDS)
  report = _json(stdout) or {'error': _without_answer(stderr, failure)}
  build = report.get('build', {})
  versions = [] if report.get('gpus') or not build.get('cuda_version') else [
      build['cuda_version'], build.get('cudnn_version', '9')]
  found = _json(answer(start([*module, 'utils.cuda', *versions]), DRIVER_SECONDS)[0]) or {}
  words = [' '.join(match[0].split(';')[:2]) for match in map(_MESSAGE.search, stderr.splitlines()) if match]
  return Facts(report, found.get('driver'), found.get('libraries', {}), cuda.read_smi(smi), words[-1] if words else '')


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


def tensorflow_text(facts):
  """TensorFlow's version and build."""
  if 'error' in facts.report:
    return f'does not start: {facts.report["error"]}'
  build = facts.report['build']
  made = (f'built for CUDA {build.get("cuda_version")}, cuDNN {build.get("cudnn_version")}'
          if build.get('is_cuda_build') else 'built without CUDA')
  return f'{facts.report["version"]}, {made}; Python {platform.python_version()}'


def gpu_texts(facts, root='/'):
  """The GPUs, a line each; without any, why, the remedy, and which libraries do not open.

  Args:
    facts: the Facts.
    root: folder in which proc/, dev/ and sys/ lie.

  Returns:
    list of (title, text).
  """
  if facts.gpus:
    return [('GPU', gpu_text(gpu, facts)) for gpu in facts.gpus]
  build = facts.report.get('build', {})
  evidence = no_gpu.Evidence(
      cuda=(build.get('cuda_version') or '') if build.get('is_cuda_build', True) else '', driver=facts.driver,
      libraries=facts.libraries, kernel=cuda.driver_version(root), card=cuda.has_card(root), smi=bool(facts.smi),
      container=cuda.in_container(root), hidden=cuda.hidden(os.environ), words=facts.words)
  if 'error' in facts.report and facts.driver is not None:
    return [('GPU', 'unknown: TensorFlow does not start')]
  reason, remedy = no_gpu.why(evidence)
  rows = [('GPU', f'none found: {reason}'), ('', f'remedy: {remedy}' if remedy else 'training runs on the CPU')]
  if facts.libraries and no_gpu.INSTALL not in remedy:
    rows.append(('', f'CUDA: {no_gpu.unopened(facts.libraries)}; {no_gpu.INSTALL}'))
  return rows


def gpu_text(gpu, facts):
  """One GPU: name, memory and how much of it is in use, compute capability."""
  asked = facts.driver.get('gpus', []) if facts.driver else []
  known = asked[gpu.number] if gpu.number < len(asked) else {}
  used = next((card['used'] for card in facts.smi if card['bus'] == known.get('bus')), None)
  parts = [f'{gpu.number}: {gpu.name}']
  if known:
    in_use = '' if used is None else f' ({used / 1024:.1f} in use)'
    parts.append(f'{known["memory"] / GIB:.1f} GiB{in_use}')
  parts.append(f'compute capability {".".join(map(str, gpu.capability)) or "unknown"}')
  return ', '.join(parts) + kernels_text(gpu.capability, facts.report.get('build', {}))


def kernels_text(capability, build):
  """What is to be said of a GPU for which TensorFlow has no ready kernels; '' if it has them.

  Kernels made for X.Y run on all X.Z with Z >= Y. For a newer X they are compiled from the intermediate code (PTX) that
  TensorFlow carries for the newest architecture it knows.
  """
  made = [(int(text[:-1]), int(text[-1])) for text in re.findall(r'_(\d{2,})', ' '.join(
      build.get('cuda_compute_capabilities', ())))]
  if not made or not capability or any(major == capability[0] and minor <= capability[1] for major, minor in made):
    return ''
  if capability > max(made):
    return '; newer than this TensorFlow, which compiles its kernels at the first start (up to half an hour)'
  return f'; older than this TensorFlow has kernels for ({min(made)[0]}.{min(made)[1]})'


def driver_text(facts, root='/'):
  """The version of NVIDIA's driver, and the CUDA that it runs."""
  version = cuda.driver_version(root) or next((card['driver'] for card in facts.smi), '')
  runs = (facts.driver or {}).get('cuda')
  if not version and not runs:
    return 'none' if facts.driver is not None else 'unknown: no answer from the driver'
  return f'{version or "of unknown version"}{f", runs CUDA {runs // 1000}.{runs % 1000 // 10}" if runs else ""}'


def cpu_text():
  """The CPU's name, the cores that may be used, and its features."""
  features = ', '.join(cpu.cpu_features()) or 'no AVX2'
  cores, present = limits.usable_cores(), os.cpu_count()
  of_all = f' of {present}' if present and present > cores else ''
  return f'{cpu.cpu_model() or "unknown model"}, {cores:g}{of_all} cores to use; {features}'


def precision_text(facts):
  """The fastest --precision; chosen by the device's features."""
  gpu = next(iter(facts.gpus), None)
  return f'--precision={fastest_precision(gpu)} trains fastest here (by the features of the {"GPU" if gpu else "CPU"})'


def memory_text():
  """Memory available, all memory, and the limit of the process's control group."""
  total, available = limits.memory()
  limit = limits.memory_limit()
  limited = f', of which this process may take {limit / GIB:.1f} (control group)' if limit else ''
  return f'{available / GIB:.1f} of {total / GIB:.1f} GiB free{limited}'


def disk_text():
  """Free disk at the folders that training writes to."""
  places = ['data', 'runs', tempfile.gettempdir()]
  return ', '.join(f'{shown(place)} {limits.free_disk(place) / GIB:.1f} GiB free' for place in places)


def folder_text():
  """The working folder, whether it can be written, and the commit of the code."""
  can = 'writable' if limits.writable('.') else 'not writable: give --data_dir and --run_dir in other folders'
  code = commit() or 'unknown: not a git checkout'
  return f'{shown(os.getcwd())}, {can}; commit {code[:10] + "+" * code.endswith("+") if commit() else code}'


def base_lacking():
  """What is not there of requirements.txt, see requirements.lacking."""
  from utils import requirements  # needs a package, which may itself be missing

  return requirements.lacking(requirements.requirements(os.path.join(ROOT, requirements.BASE)))


def package_texts(facts):
  """What is there of requirements.txt and of each extra: list of (title, text)."""
  from utils import requirements

  base = base_lacking()
  rows, complete = [('packages', _lacking_text(requirements.BASE, *base) or f'all of {requirements.BASE}')], []
  for extra, path in requirements.extras().items():
    needed = requirements.requirements(path)
    found = requirements.lacking(needed)
    if extra == 'gpu' and facts.gpus:
      found = [], found[1]  # CUDA is there, from elsewhere
    own = [[name for name in names if name not in known] for names, known in zip(found, base)]
    text = _lacking_text(os.path.basename(path), *own)
    if not needed:
      text = f'not for this Python, see {os.path.basename(path)}'
    if text:
      rows.append(('', f'{extra}: {text}'))
    elif not any(found):
      complete.append(extra)
  return [*rows, ('', f'complete: {", ".join(complete) or "no extra"}')]


def _lacking_text(file, missing, differing):
  """What is missing of a requirements file, with the remedy; '' if nothing is."""
  parts = [f'missing {listed(missing, most=3)}'] if missing else []
  parts += [listed(differing, most=3)] if differing else []
  return '; '.join([*parts, f'pip install -r {file}']) if parts else ''


def missing_for_training(facts):
  """What training needs and is not there, a list of str."""
  needs = []
  if 'error' in facts.report:
    install = no_gpu.INSTALL if facts.smi or cuda.has_card() else 'pip install -r requirements.txt'
    needs.append(f'TensorFlow ({facts.report["error"]}; {install})')
  with contextlib.suppress(ImportError):
    missing, _ = base_lacking()
    needs += [f'{listed(missing)} (pip install -r requirements.txt)'] if missing else []
  if not limits.writable('.'):
    needs.append(f'a writable folder ({shown(os.getcwd())} is not)')
  return needs


def rows_of(facts):
  """All that is to be said: list of (title, text). A probe that fails is said with its reason."""
  gpu = next(iter(facts.gpus), None)
  probes = [
      ('TensorFlow', functools.partial(tensorflow_text, facts)), ('GPU', functools.partial(gpu_texts, facts)),
      ('driver', functools.partial(driver_text, facts)), ('CPU', cpu_text),
      ('precision', functools.partial(precision_text, facts)), ('memory', memory_text), ('disk', disk_text),
      ('folder', folder_text), ('packages', functools.partial(package_texts, facts)),
  ]
  if 'error' not in facts.report:
    probes.append(('train.py', functools.partial(device_line, gpu, 'float32', tf32=facts.report['tf32'],
                                                 unused_card=gpu is None and cuda.unused_card())))
  rows = []
  for title, probe in probes:
    try:
      text = probe()
    except Exception as error:  # whatever it is, the other probes say what they find
      text = f'unknown: {shown(str(error) or type(error).__name__)}'
    rows += text if isinstance(text, list) else [(title, text)]
  return rows


def examine():
  """Prints what this machine gives. Returns the exit code."""
  facts = gather()
  for title, text in rows_of(facts):
    print(textwrap.fill(f'{title:12}{text}', WIDTH, subsequent_indent=14 * ' ', break_on_hyphens=False,
                        break_long_words=False))
  missing = missing_for_training(facts)
  print(f'\nmissing for training: {"; ".join(missing)}' if missing else '\nready to train')
  return 1 if missing else 0


def main(argv=None):
  """Examines this machine.

  Args:
    argv: list of str, the command line without the program's name; None for the process's own.

  Returns:
    the exit code: 1 if something that training needs is missing.
  """
  words = sys.argv[1:] if argv is None else argv

  def program():
    if words and words[0] in ('--help', '-h'):
      return print(__doc__.strip())
    if words:
      raise UserError(f'unexpected argument {words[0]!r}; there are no flags')
    return examine()

  return guarded(program)


if __name__ == '__main__':
  sys.exit(main())
