"""What is to be said of a machine, line by line, and what is missing for training."""

import contextlib
import functools
import os
import platform
import re
import tempfile

from utils import cpu, cuda, limits
from utils.devices import device_line, fastest_precision
from utils.doctor import driver, no_gpu
from utils.errors import listed, shown
from utils.files import commit
from utils.installation import PACKAGE, install, listing

GIB = 2.0**30


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
      libraries=facts.libraries, kernel=driver.driver_version(root), card=cuda.has_card(root), smi=bool(facts.smi),
      container=driver.in_container(root), hidden=cuda.hidden(os.environ), words=facts.words)
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
  version = driver.driver_version(root) or next((card['driver'] for card in facts.smi), '')
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
  """The working folder, whether it can be written, and the commit or version of the code."""
  can = 'writable' if limits.writable('.') else 'not writable: give --data_dir and --run_dir in other folders'
  code = commit() or 'unknown: not a git checkout'
  if not PACKAGE:
    code = f'commit {code[:10] + "+" * code.endswith("+") if commit() else code}'
  return f'{shown(os.getcwd())}, {can}; {code}'


def base_lacking():
  """What is not there of all that the project needs, see requirements.lacking."""
  from utils.doctor import requirements  # needs a package, which may itself be missing

  return requirements.lacking(requirements.requirements())


def package_texts(facts):
  """What is there of all that the project needs, and of each extra: list of (title, text)."""
  from utils.doctor import requirements

  base = base_lacking()
  rows, complete = [('packages', _lacking_text('', *base) or f'all of {listing()}')], []
  for extra in requirements.extras():
    needed = requirements.requirements(extra)
    found = requirements.lacking(needed)
    if extra == 'gpu' and facts.gpus:
      found = [], found[1]  # CUDA is there, from elsewhere
    own = [[name for name in names if name not in known] for names, known in zip(found, base)]
    text = _lacking_text(extra, *own)
    if not needed:
      text = f'not for this Python, see {listing(extra)}'
    if text:
      rows.append(('', f'{extra}: {text}'))
    elif not any(found):
      complete.append(extra)
  return [*rows, ('', f'complete: {", ".join(complete) or "no extra"}')]


def _lacking_text(extra, missing, differing):
  """What is missing of the packages of an extra, with the remedy; '' if nothing is."""
  parts = [f'missing {listed(missing, most=3)}'] if missing else []
  parts += [listed(differing, most=3)] if differing else []
  return '; '.join([*parts, install(extra)]) if parts else ''


def missing_for_training(facts):
  """What training needs and is not there, a list of str."""
  needs = []
  if 'error' in facts.report:
    remedy = no_gpu.INSTALL if facts.smi or cuda.has_card() else install()
    needs.append(f'TensorFlow ({facts.report["error"]}; {remedy})')
  with contextlib.suppress(ImportError):
    missing, _ = base_lacking()
    needs += [f'{listed(missing)} ({install()})'] if missing else []
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
    gpus = [gpu] if gpu else []
    probes.append(('train.py', functools.partial(device_line, gpus, 'float32', tf32=facts.report['tf32'],
                                                 unused_card=gpu is None and cuda.unused_card())))
  rows = []
  for title, probe in probes:
    try:
      text = probe()
    except Exception as error:  # whatever it is, the other probes say what they find
      text = f'unknown: {shown(str(error) or type(error).__name__)}'
    rows += text if isinstance(text, list) else [(title, text)]
  return rows
