"""Damages input of every kind in nine ways, uses it as users do, and checks what comes of each.

    python -m utils.studies.bad_input --work_dir=bad-input
    python -m utils.studies.bad_input --work_dir=bad-input --only='JPEG/bits/3'

The kinds are those of bad_input_kinds.py, the ways those of damage.py. A damaged file has to be used (the result is
that of the good file; or another where no checksum could tell, and then one that holds together), or refused with exit
code 1 by an error of one line, within 10 s and 1 GiB more than the good file takes. Everything else is a failure: it
ends the study with exit code 1, and keeps its files and its command in WORK_DIR/failures.

Each case runs in a process that is forked from one that has imported everything. What is random follows from --seed and
the case's name. A study that was stopped goes on; results are in bad-input.json, a table of them in bad-input.md.
"""

import collections
import contextlib
import dataclasses
import faulthandler
import functools
import importlib
import json
import os
import re
import shutil
import signal
import sys
import time
import traceback
import zlib

import numpy as np

from utils.errors import UserError, listed
from utils.exits import guarded
from utils.files import claim, make_folder, read_json, text_of, write_json, write_text
from utils.progress import Progress
from utils.settings import Settings, flag, run
from utils.studies import bad_input_kinds
from utils.studies.damage import WAYS, damaged

USED, OTHERWISE, REFUSED, FAILED = OUTCOMES = ('used', 'otherwise', 'refused', 'failed')
SECONDS = 10.0  # more than the good file takes
MEMORY = 2**30  # bytes more than the good file takes
MOST = 2**34  # bytes that making good input may take
_PREPARING = 600.0  # seconds to make a kind's good input
_MOST_LINE = 2010  # characters of a line on stderr
_LOOK = 0.01  # seconds between two looks at a process
_PROGRAMS = ('checkpoints.card', 'checkpoints.package', 'datasets.convert', 'evaluate', 'inference',
             'utils.export.__main__')


@dataclasses.dataclass(frozen=True)
class BadInputSettings(Settings):
  """Flags of this program."""
  work_dir: str = flag('bad-input', 'folder for good input, failures and results', path=True)
  cases: int = flag(2000, 'number of cases, shared out evenly among kinds and ways', least=1)
  seed: int = flag(0, 'random seed of the damage', least=0)
  kinds: tuple[str, ...] = flag((), 'kinds, by commas; default: all')
  ways: tuple[str, ...] = flag(tuple(WAYS), 'ways of damage, by commas', choices=tuple(WAYS))
  only: str | None = flag(None, 'the one case to run, KIND/WAY/NUMBER as in bad-input.json; its output is shown')


@dataclasses.dataclass(frozen=True)
class Ended:
  """What a process did.

  Attributes:
    code: its exit code; minus the number of the signal that killed it.
    seconds: the time that it took.
    peak: the most memory that it held, in bytes.
    over: why it was killed: 'time' or 'memory'; else ''.
    stderr: text.
  """
  code: int
  seconds: float
  peak: int
  over: str
  stderr: str


def forked(function, place, *, seconds, peak):
  """Calls a function in a process of its own.

  Args:
    function: of no arguments; returns an exit code, None for 0.
    place: folder, which gets the files `stdout` and `stderr`.
    seconds: time after which the process is killed.
    peak: bytes of memory beyond which it is killed.

  Returns:
    an Ended.
  """
  sys.stdout.flush()
  sys.stderr.flush()
  start, over = time.monotonic(), ''
  child = os.fork()
  if not child:
    _child(function, place)
  while True:
    ended, status, usage = os.wait4(child, os.WNOHANG)
    if ended:
      break
    held = _peak(child)
    over = 'time' if time.monotonic() - start > seconds else 'memory' if held > peak else ''
    if over:
      os.kill(child, signal.SIGKILL)
      _, status, usage = os.wait4(child, 0)
      break
    time.sleep(_LOOK)
  with contextlib.suppress(ProcessLookupError):
    os.killpg(child, signal.SIGKILL)  # what it may have left behind
  return Ended(os.waitstatus_to_exitcode(status), time.monotonic() - start, usage.ru_maxrss * 1024, over,
               text_of(place, 'stderr'))


def _child(function, place):
  """Ends this process with what a function returns; 70 after an exception."""
  code = 70
  faulthandler.disable()  # pytest's would write to its own output
  try:
    os.setsid()
    for number, name in ((1, 'stdout'), (2, 'stderr')):
      os.dup2(os.open(os.path.join(place, name), os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.stdout, sys.stderr = (os.fdopen(number, 'w', closefd=False) for number in (1, 2))
    code = function() or 0
  except BaseException:
    traceback.print_exc()
  finally:
    with contextlib.suppress(Exception):
      sys.stdout.flush()
      sys.stderr.flush()
    os._exit(code)


def _peak(process):
  """The most memory that a process has held so far, in bytes; 0 where the system does not say."""
  found = re.search(r'VmHWM:\s+(\d+) kB', text_of(f'/proc/{process}/status'))
  return int(found[1]) * 1024 if found else 0


def used(kind, folder):
  """Uses the input of a Kind in a folder; where it is taken, writes what came of it to `result` beside the folder."""
  program = kind.use
  code = (program if isinstance(program, bad_input_kinds.Program) else lambda place: guarded(
      functools.partial(program, place)))(folder)
  if not code:
    result = kind.result(os.path.join(folder, 'out'))
    write_json(os.path.join(os.path.dirname(folder), 'result'), result)
  return code


def fresh(place, good):
  """Makes a folder anew with a copy of good input in `in`; returns the path of the copy."""
  shutil.rmtree(place, ignore_errors=True)
  make_folder(place)
  return shutil.copytree(good, os.path.join(place, 'in'))


def reference(name, kind, work_dir):
  """Makes the good input of a kind and uses it.

  Returns:
    `(ended, result)`: an Ended, and what came of it.

  Raises:
    UserError: if that fails.
  """
  place, good, bounds = os.path.join(work_dir, 'case'), _good(work_dir, name), {'seconds': _PREPARING, 'peak': MOST}
  make_folder(place)
  ended = forked(functools.partial(guarded, functools.partial(bad_input_kinds.write_kind, kind, good)), place, **bounds)
  if not ended.code:
    folder = fresh(place, good)
    ended = forked(functools.partial(used, kind, folder), place, **bounds)
  if ended.code:
    raise UserError(f'{name}: the good input cannot be used: exit code {ended.code}, {ended.stderr[-2000:]}')
  return ended, read_json(os.path.join(place, 'result'))


def _good(work_dir, name):
  return os.path.join(work_dir, 'good', re.sub(r'\W+', '-', name).strip('-'))


def run_case(case, kind, good, known, place, seed):
  """Runs a case.

  Args:
    case: (kind's name, way, number).
    kind: the Kind.
    good: folder of its good input.
    known: `reference` of the kind.
    place: folder to work in.
    seed: --seed.

  Returns:
    dict of the case for the JSON.
  """
  name, way, number = case
  seeds = [seed, zlib.crc32(name.encode()), list(WAYS).index(way), number]
  folder = fresh(place, good)
  files = bad_input_kinds.damaged_files(kind, folder)
  path = files[np.random.default_rng(seeds).integers(len(files))]
  with open(path, 'rb') as file:
    data = damaged(way, file.read(), [*seeds, 1])
  with open(path, 'wb') as file:
    file.write(data)
  ended = forked(functools.partial(used, kind, folder), place, seconds=known[0].seconds + SECONDS,
                 peak=known[0].peak + MEMORY)
  outcome, reason = judged(ended, place, kind, known)
  return {'case': '/'.join(map(str, case)), 'kind': name, 'way': way, 'file': os.path.relpath(path, folder),
          'outcome': outcome, 'reason': reason, 'seconds': round(ended.seconds, 3),
          'mebibytes': (ended.peak - known[0].peak) >> 20}


def judged(ended, place, kind, known):
  """What a case came to: (one of OUTCOMES, the reason in words)."""
  lines = ended.stderr.splitlines()
  errors = [line for line in lines if line.startswith('error: ')]
  strays = [os.path.relpath(os.path.join(folder, name), place) for folder, folders, files in os.walk(place)
            for name in (*folders, *files) if name.endswith('.tmp')]
  strays += sorted(set(os.listdir(place)) - {'in', 'stdout', 'stderr', 'result'})
  if ended.over:
    return FAILED, f'too much {ended.over}: {ended.seconds:.1f} s, {ended.peak >> 20} MiB'
  if ended.peak > known[0].peak + MEMORY:
    return FAILED, f'too much memory: {ended.peak >> 20} MiB'
  if ended.code not in (0, 1):
    return FAILED, f'exit code {ended.code}: {lines[-1] if lines else ""}'
  if strays:
    return FAILED, f'left {listed(strays)}'
  if 'Traceback (most recent call last)' in ended.stderr or max(map(len, lines), default=0) > _MOST_LINE:
    return FAILED, f'no clear line: {ended.stderr[:_MOST_LINE]}'
  if ended.code:
    alone = len(errors) == 1
    return (REFUSED, errors[0]) if alone else (FAILED, f'{len(errors)} lines of errors: {ended.stderr[-500:]}')
  if read_json(os.path.join(place, 'result')) == known[1]:
    return USED, ''
  return (FAILED, 'another result without a word') if kind.guarded else (OTHERWISE, '')


def planned(settings, kinds):
  """The cases, a list of (kind's name, way, number): every kind in every way that it has, again and again."""
  if settings.only:
    name, _, rest = settings.only.partition('/')
    way, _, number = rest.partition('/')
    if name not in kinds or way not in WAYS or not number.isdecimal():
      raise UserError(f'--only={settings.only}: no such case; it is KIND/WAY/NUMBER, kinds are {", ".join(kinds)}')
    return [(name, way, int(number))]
  cells = [(name, way) for way in settings.ways for name, kind in kinds.items()
           if way != 'value' or kind.files.endswith('.json')]
  if not cells:
    raise UserError(f'--ways={",".join(settings.ways)}: none of the kinds is JSON, which alone is damaged so')
  return [(*cells[place % len(cells)], place // len(cells)) for place in range(settings.cases)]


def chosen(settings):
  """The kinds of --kinds, a dict."""
  kinds = bad_input_kinds.kinds()
  unknown = [name for name in settings.kinds if name not in kinds]
  if unknown:
    raise UserError(f'--kinds: there is no {unknown[0]}; valid are {", ".join(kinds)}')
  return {name: kinds[name] for name in settings.kinds or kinds}


def keep(result, case, kind, place, work_dir):
  """Keeps the files and commands of a case that failed."""
  target = os.path.join(work_dir, 'failures', re.sub(r'\W+', '-', result['case']))
  shutil.rmtree(target, ignore_errors=True)
  shutil.copytree(place, target)
  commands = [f"python -m utils.studies.bad_input --work_dir={work_dir} --only='{result['case']}'"]
  if isinstance(kind.use, bad_input_kinds.Program):
    commands.append(kind.use.command(os.path.join(target, 'in')))
  with open(os.path.join(target, 'commands'), 'w', encoding='utf-8') as file:
    file.write('\n'.join([*commands, json.dumps(result), '']))


def table(results):
  """A Markdown table of outcomes by kind and way, the numbers of used (of these otherwise) / refused / failed."""
  counts = collections.Counter((part, result['outcome']) for result in results
                               for part in ((result['kind'], result['way']), (result['kind'], 'all'),
                                            ('all', result['way']), ('all', 'all')))

  def cell(name, way):
    found = [counts[(name, way), outcome] for outcome in OUTCOMES]
    if not any(found):
      return ''
    otherwise = f' ({found[1]})' if found[1] else ''
    return f'{found[0] + found[1]}{otherwise} / {found[2]} / {found[3]}'

  ways = [*(way for way in WAYS if counts['all', way] or any(result['way'] == way for result in results)), 'all']
  names = [*dict.fromkeys(result['kind'] for result in results), 'all']

  def row(*cells):
    return f'| {" | ".join(cells)} |'

  return '\n'.join([row('kind', *ways), row(*['---'] * (len(ways) + 1)),
                    *(row(name, *(cell(name, way) for way in ways)) for name in names), ''])


def campaign(settings):
  """Runs the cases that are not in the JSON yet; returns the exit code, 1 after failures."""
  for program in _PROGRAMS:
    importlib.import_module(program)  # once, before the forks
  work_dir = os.path.abspath(settings.work_dir)
  make_folder(work_dir)
  kinds, output, place = chosen(settings), os.path.join(work_dir, 'bad-input.json'), os.path.join(work_dir, 'case')
  beside = os.path.join(work_dir, 'bad-input.md')
  claim([output, beside])
  before = read_json(output) if os.path.exists(output) and not settings.only else {}
  known = before.get('results', []) if before.get('seed') == settings.seed else []
  results = {result['case']: result for result in known}
  cases = [case for case in planned(settings, kinds) if '/'.join(map(str, case)) not in results]
  known = {name: reference(name, kinds[name], work_dir) for name in dict.fromkeys(case[0] for case in cases)}
  with Progress(len(cases), 'cases', label='bad input') as progress:
    for case in cases:
      name = case[0]
      result = run_case(case, kinds[name], _good(work_dir, name), known[name], place, settings.seed)
      if result['outcome'] == FAILED:
        keep(result, case, kinds[name], place, work_dir)
        print(f'{result["case"]}: {result["reason"]}', flush=True)
      results[result['case']] = result
      progress.update()
      if progress.done % 50 == 0 or progress.done == len(cases):
        write_json(output if not settings.only else f'{output}.only', {
            'seed': settings.seed, 'results': list(results.values())})
  if settings.only:
    print(text_of(place, 'stderr'), results, sep='\n')
    return 0
  write_text(beside, table(results.values()))
  shutil.rmtree(place, ignore_errors=True)
  return summary(results.values())


def summary(results):
  """Prints the numbers of outcomes; returns the exit code."""
  counts = collections.Counter(result['outcome'] for result in results)
  print(f'{len(results)} cases: ' + ', '.join(f'{counts[outcome]} {outcome}' for outcome in OUTCOMES))
  return 1 if counts[FAILED] else 0


def main(argv=None):
  return run(campaign, BadInputSettings, argv, text=__doc__)


if __name__ == '__main__':
  sys.exit(main())
