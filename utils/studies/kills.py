"""Kills programs at random moments, starts them again until they are done, and compares the results to the bit.

    python -m utils.studies.kills --kills=200 --output=kills.json

Small trainings (with dropout, gradient accumulation, all augmentations, evaluations; plain, with a raised --max_steps,
stopping early, in two stages), evaluations, labelings, conversions and downloads are killed by SIGKILL: while they
start, at a step, inside a save or an evaluation, at their end. In each round the one that was killed least begins in a
new folder, is killed a few times and then left alone; its last checkpoint with all slots and averages, its best
checkpoint, scores and pictures, records or file must then be, byte by byte, those of one that was never killed. The
number of steps that each kill cost, and files and processes left over, are counted. Writes a JSON, and a Markdown table
beside it. Needs Linux.
"""

import collections
import dataclasses
import os
import re
import signal
import sys
import tempfile
import time

import numpy as np

from nets import get_network
from utils.errors import UserError, listed
from utils.exits import ended_by_sigterm
from utils.files import claim, make_folder, write_json, write_text
from utils.settings import Settings, flag, overwrite_flag, run
from utils.studies import conversion, kill_jobs, scripts

KINDS = ('train', 'evaluate', 'inference', 'convert', 'download')
_MOST_IN_A_ROUND = 8  # kills
_FILE_BYTES = 5_000_000  # of the file that is downloaded
_ORIGINALS = (60, 90, 24, 'png', False)  # see conversion.CASES


@dataclasses.dataclass(frozen=True)
class KillSettings(Settings):
  """Flags of this program."""
  kills: int = flag(200, 'kills in all', least=1)
  what: tuple[str, ...] = flag(KINDS, 'programs to kill', choices=KINDS)
  trainings: tuple[str, ...] = flag(
      tuple(kill_jobs.STAGES), 'kinds of training to kill', choices=tuple(kill_jobs.STAGES))
  net: str = flag('segnet_basic', 'network of the training')
  max_steps: int = flag(16, 'steps of a training', least=2)
  seed: int = flag(0, 'random seed of the moments', least=0)
  output: str = flag('kills.json', 'JSON to write; the table goes beside it', path=True)
  overwrite: bool = overwrite_flag()

  def check(self):
    """Raises UserError if a setting is not valid."""
    super().check()
    get_network(self.net)


def prepare(settings, folder):
  """Makes originals and records, and the jobs that do not need a trained run.

  Args:
    settings: a KillSettings.
    folder: folder for all files.

  Returns:
    `(trainings, others, server)`: dicts from name to Job, and the number of the process that serves a file, or None.
  """
  data, records = os.path.join(folder, 'originals'), os.path.join(folder, 'records')
  conversion.write_originals(data, _ORIGINALS)
  finish(kill_jobs.converting(data), folder)
  others, server = {}, None
  if 'convert' in settings.what:
    others['convert'] = kill_jobs.converting(data)
  if 'download' in settings.what:
    content = np.random.default_rng(0).bytes(_FILE_BYTES)
    server, url, digest = kill_jobs.serve(content)
    others['download'] = kill_jobs.downloading(url, len(content), digest)
  return {kind: kill_jobs.training(kind, settings.net, data, records, settings.max_steps)
          for kind in settings.trainings}, others, server


def finish(job, folder):
  """Runs a job to its end.

  Returns:
    dict of seconds: 'all' of its time, and 'start', the time to its first step; all of it without steps.

  Raises:
    UserError: if it fails; the message has the last line that it printed.
  """
  make_folder(folder)
  begin, first = time.monotonic(), []

  def at_first_step(_, text):
    if not first and f'\n{kill_jobs.STEP_LINE}' in text:
      first.append(time.monotonic() - begin)
    return False

  code, text, _ = kill_jobs.live(job, folder, kill_jobs.Moment(at_first_step, 0), 0)
  if code:
    raise UserError(f'{job.name} ended with code {code}: {(text.strip().splitlines() or ["it printed nothing"])[-1]}')
  seconds = time.monotonic() - begin
  return {'all': seconds, 'start': first[0] if first else seconds}


def play(job, folder, reference, times, most, rng):
  """Plays a round: starts a job anew, kills it up to `most` times, lets it end, and compares.

  Args:
    job: a kill_jobs.Job.
    folder: new folder for the round.
    reference: folder of the job that was not killed.
    times: dict from `finish`, of this job.
    most: number of kills, if it does not end before.
    rng: numpy Generator.

  Returns:
    dict: `kills` (list of moments), `lost` (list of steps), `orphans`, `leftovers` (names), `different` (names).
  """
  make_folder(folder)
  kills, lost, orphans, code = [], [], 0, None
  while code is None:
    name = str(rng.choice(list(job.moments)))
    moment = job.moments[name] if len(kills) < most else None
    delay = rng.uniform(0, moment.seconds or times['start']) if moment else 0
    code, text, left = kill_jobs.live(job, folder, moment, delay)
    orphans += left
    if code is None:
      kills.append(name)
      lost += [job.lost(folder, text)] if job.lost else []
  if code:
    last = (text.strip().splitlines() or ['it printed nothing'])[-1]
    return {'kills': kills, 'lost': lost, 'orphans': orphans, 'leftovers': [], 'different': [f'code {code}: {last}']}
  found, expected = job.content(folder), job.content(reference)
  different = sorted(name for name in {**found, **expected} if found.get(name) != expected.get(name))
  return {'kills': kills, 'lost': lost, 'orphans': orphans, 'different': different,
          'leftovers': kill_jobs.leftovers(folder, reference)}


def rounds(settings, folder, report):
  """Plays rounds until there were enough kills; calls `report(name, round)` after each."""
  rng = np.random.default_rng(settings.seed)
  trainings, others, server = prepare(settings, folder)
  try:
    references = {}
    jobs = [*(trainings.values() if 'train' in settings.what else ()), *others.values()]
    if {'evaluate', 'inference'} & set(settings.what):
      reference = os.path.join(folder, 'reference-run')
      references[reference] = finish(next(iter(trainings.values())), reference)
      photos = os.path.join(folder, 'originals', 'images')
      jobs += [kill_jobs.evaluation(f'{reference}/run')] if 'evaluate' in settings.what else []
      jobs += [kill_jobs.labelling(f'{reference}/run', photos)] if 'inference' in settings.what else []
    times, number, kills = {}, 0, 0
    turns = dict.fromkeys(range(len(jobs)), 0)  # job -> its kills and rounds so far
    while kills < settings.kills:
      least = rng.choice([index for index, count in turns.items() if count == min(turns.values())])
      job, reference = jobs[least], os.path.join(folder, f'reference-{least}')
      if job.name not in times:
        times[job.name] = finish(job, reference)
      most = min(settings.kills - kills, int(rng.integers(1, _MOST_IN_A_ROUND + 1)))
      played = play(job, os.path.join(folder, f'round-{number}'), reference, times[job.name], most, rng)
      turns[least] += 1 + len(played['kills'])
      kills, number = kills + len(played['kills']), number + 1
      report(job.name, played)
  finally:
    if server:
      os.kill(server, signal.SIGKILL)
      os.waitpid(server, 0)


def summary(played):
  """The figures of a job's rounds, a list of dicts of `play`, as a dict."""
  lost = [steps for one in played for steps in one['lost']]
  return {
      'rounds': len(played), 'kills': sum(len(one['kills']) for one in played),
      'moments': dict(collections.Counter(name for one in played for name in one['kills'])),
      'equal': sum(not one['different'] for one in played),
      'different': [one['different'] for one in played if one['different']],
      'most_steps_lost': max(lost, default=None), 'mean_steps_lost': float(np.mean(lost)) if lost else None,
      'orphans': sum(one['orphans'] for one in played),
      'leftovers': dict(collections.Counter(
          re.sub(r'\.[0-9a-f]{12}\.tmp$', '.*.tmp', name) for one in played for name in one['leftovers']))}


def table(found):
  """A Markdown table of a dict from a job's name to its `summary`."""
  lines = ['| killed | rounds | kills | at | same to the bit | steps lost, mean (most) | left over |',
           '| --- | --- | --- | --- | --- | --- | --- |']
  for name, one in found.items():
    moments = ', '.join(f'{moment} {count}' for moment, count in one['moments'].items())
    lost = '' if one['most_steps_lost'] is None else f'{one["mean_steps_lost"]:.1f} ({one["most_steps_lost"]})'
    left = listed(f'{name} ({count})' for name, count in one['leftovers'].items()) or 'nothing'
    left += f'; {one["orphans"]} processes' if one['orphans'] else ''
    equal = f'{one["equal"]} of {one["rounds"]}'
    lines.append(f'| {name} | {one["rounds"]} | {one["kills"]} | {moments} | {equal} | {lost} | {left} |')
  return '\n'.join(lines)


def kill(settings):
  """Does the work; `settings` is a KillSettings. Returns 1 if a result was another than without kills, else 0."""
  begin, played, beside = time.monotonic(), {}, f'{os.path.splitext(settings.output)[0]}.md'

  def report(name, one):
    played.setdefault(name, []).append(one)
    found = {name: summary(every) for name, every in played.items()}
    write_json(settings.output, {
        'net': settings.net, 'max_steps': settings.max_steps, 'seed': settings.seed,
        'kills': sum(one['kills'] for one in found.values()), 'seconds': time.monotonic() - begin,
        'cpu_seconds': scripts.cpu_seconds(), 'jobs': found})
    write_text(beside, table(found))
    print(f'{name}: {len(one["kills"])} kills, '
          + (f'DIFFERENT: {listed(one["different"])}' if one['different'] else 'same to the bit'), flush=True)

  make_folder(os.path.dirname(os.path.abspath(settings.output)))
  claim([settings.output, beside], overwrite=settings.overwrite)
  with ended_by_sigterm(), tempfile.TemporaryDirectory() as folder:
    rounds(settings, folder, report)
  print(table({name: summary(every) for name, every in played.items()}))
  return int(any(one['different'] for every in played.values() for one in every))


def main(argv=None):
  """Kills; `argv` is the command line without the program's name, None for the process's own."""
  return run(kill, KillSettings, argv, text=__doc__)


if __name__ == '__main__':
  sys.exit(main())
