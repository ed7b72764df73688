"""What kills.py kills: trainings, evaluations, labelling, conversions and downloads, as processes that start fast.

A process is a fork of this one after its imports, before it has any session: it starts in the time of its own work.
Modules that are imported here, TensorFlow first of all, must have started no threads, which a fork does not take along.
"""

import collections
import contextlib
import dataclasses
import functools
import hashlib
import http.server
import os
import re
import signal
import sys
import time

from datasets import convert as conversion
from utils import settings
from utils.checkpoint_files import problem, steps_of
from utils.download import fetch
from utils.evaluation.run import evaluate
from utils.evaluation.settings import EvaluateSettings
from utils.files import file_digest
from utils.inference.run import label
from utils.inference.settings import InferenceSettings
from utils.progress import STEP_LINE
from utils.training.run import train
from utils.training.saving import SAVING
from utils.training.settings import TrainSettings

_TICK = 0.001  # seconds between two looks at a process
_STAGE = 'kills: stage '  # what the line begins with that a training prints before each of its stages
_EVERY_EVALUATION = 4  # steps between two evaluations
# All that a training draws at random, averages that it keeps, and steps that change with their number.
_TRAINING = (
    '--checkpoint=none --crop_size=63,95 --batch_size=4 --log_steps=1 --save_minutes=0.01 --eval_split=train '
    f'--eval_steps={_EVERY_EVALUATION} --nofreeze_batch_norm --dropout_keep_prob=0.8 --gradient_accumulation=2 '
    '--class_crops=0.5 --mix_statistics=0.5 --mix_amplitude=0.3 --blur=2 --noise=5 '
    '--color_jitter=0.3 --warmup_steps=5 --ema_decay=0.9 --learning_rate=0.01').split()
STAGES = {  # kind of training -> its stages: (folder, flags); {} is the folder of the training
    'plain': [('run', '--max_steps={steps}')],
    'longer': [('run', '--max_steps={half}'), ('run', '--max_steps={steps}')],  # --max_steps is raised
    'early_stop': [('run', '--max_steps=500 --early_stop=2 --learning_rate=0')],
    'staged': [('first', '--max_steps={half}'), ('run', '--max_steps={half} --init_from={folder}/first')],
}

Moment = collections.namedtuple('Moment', [
    'due',  # `due(folder, text)`: whether it has come, by the job's folder and what the process has printed
    'seconds',  # the process is killed at a random time of at most so many seconds later; None: before its first step,
  # or its end if it has no steps
])


@dataclasses.dataclass(frozen=True)
class Job:
  """Work that is killed and started again until it is done.

  Attributes:
    name: its name in the results.
    work: `work(folder)` does what is left of it and returns the exit code.
    moments: dict from a name to a Moment.
    content: `content(folder)` returns a dict from name to digest of all that must be the same in the end.
    lost: `lost(folder, text)` returns the number of steps that a kill cost; None if nothing is counted.
  """
  name: str
  work: object
  moments: dict
  content: object
  lost: object = None


def start(work, log):
  """Starts `work()` in a process of its own, whose output goes to the end of the file `log`; returns its number."""
  sys.stdout.flush()
  sys.stderr.flush()
  pid = os.fork()
  if pid:
    return pid
  code = 70  # of a program with a fault
  try:
    os.setpgid(0, 0)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.stdout, sys.stderr = (os.fdopen(descriptor, 'w', encoding='utf-8', closefd=False) for descriptor in (1, 2))
    code = work()
  except BaseException:
    sys.excepthook(*sys.exc_info())
  finally:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def live(job, folder, moment, delay):
  """Runs a job until its end, or until it is killed.

  Args:
    job: a Job.
    folder: its folder.
    moment: the Moment at which it is killed; None for its end.
    delay: seconds from then on.

  Returns:
    `(code, text, orphans)`: the exit code, None if it was killed; what it has printed; and 1 if processes that it had
    started have not ended some seconds later, else 0.
  """
  log = os.path.join(folder, 'log')
  with open(log, 'w', encoding='utf-8'):
    pass
  pid = start(functools.partial(job.work, folder), log)
  try:
    with open(log, encoding='utf-8', errors='replace') as file:
      code, text = _watch(pid, file, functools.partial(moment.due, folder) if moment else None, delay)
  except BaseException:  # this program is to end
    with contextlib.suppress(ProcessLookupError):
      os.kill(pid, signal.SIGKILL)
    raise
  return code, text, _orphans(pid)


def _watch(pid, file, due, delay):
  """Waits for a process's end, or kills it `delay` seconds after `due(text)` has held; returns (code, text)."""
  text, since = '', None
  while True:
    text += file.read()
    ended, status = os.waitpid(pid, os.WNOHANG)
    if ended:
      return os.waitstatus_to_exitcode(status), text + file.read()
    if due and since is None and due(text):
      since = time.monotonic()
    if since is not None and time.monotonic() - since >= delay:
      os.kill(pid, signal.SIGKILL)
      os.waitpid(pid, 0)
      return None, text + file.read()
    time.sleep(_TICK)


def _orphans(group, seconds=5.0):
  """1 if processes of a group are still there after some seconds, which are ended then; else 0."""
  end = time.monotonic() + seconds
  while time.monotonic() < end:
    try:
      os.killpg(group, 0)
    except ProcessLookupError:
      return 0
    time.sleep(0.01)
  with contextlib.suppress(ProcessLookupError):
    os.killpg(group, signal.SIGKILL)
  return 1


def digests(folder, wanted):
  """Dict from name to digest of the files below a folder whose names match the pattern `wanted`."""
  return {name: file_digest(os.path.join(folder, name), 'sha256').hex() for name in names(folder)
          if re.search(wanted, name)}


def names(folder):
  """Sorted names of all files below a folder, relative to it."""
  return sorted(os.path.relpath(os.path.join(place, name), folder)
                for place, _, files in os.walk(folder) for name in files)


def leftovers(folder, reference):
  """Names of the files that a job which was killed has left beside those of one that was not; steps do not count."""

  def kinds(place):
    return {re.sub(r'model\.ckpt-\d+', 'model.ckpt-STEP', re.sub(r'(events\.out\.tfevents).*', r'\1', name)): name
            for name in names(place)}

  expected = kinds(reference)
  return sorted(name for kind, name in kinds(folder).items() if kind not in expected)


def training(kind, network, data, data_dir, steps):
  """The Job of a training of a kind of STAGES, and of its evaluation at the end.

  Args:
    kind: key of STAGES.
    network: --net.
    data: --dataset.
    data_dir: folder with its records.
    steps: length of the training.
  """

  def stages(folder):
    for name, flags in STAGES[kind]:
      run_dir = os.path.join(folder, name)
      yield run_dir, [*_TRAINING, f'--net={network}', f'--dataset={data}', f'--data_dir={data_dir}',
                      f'--run_dir={run_dir}', *flags.format(steps=steps, half=steps // 2, folder=folder).split()]

  def work(folder):
    for number, (_, flags) in enumerate(stages(folder)):
      print(f'{_STAGE}{number}', flush=True)
      code = settings.run(train, TrainSettings, flags)
      if code:
        return code
    return settings.run(evaluate, EvaluateSettings, [f'--ckpt={folder}/run', '--split=train'])

  def content(folder):
    run_dir = os.path.join(folder, 'run')
    newest = os.path.basename(next(iter(steps_of(run_dir).values())))
    return digests(run_dir, rf'^{re.escape(newest)}\.|^best/model|^best/best|^metrics')

  def lost(folder, text):
    """Steps from the newest whole checkpoint to the last that was printed in the stage that was killed."""
    _, mark, rest = text.rpartition(_STAGE)
    if not mark:
      return 0
    last = _steps(rest)[-1:]
    run_dir = [run_dir for run_dir, _ in stages(folder)][int(rest.split()[0])]
    saved = next((step for step, prefix in steps_of(run_dir).items() if problem(prefix) is None), 0)
    return max(0, last[0] - saved) if last else 0

  return Job(f'train.py, {kind}', work, {
      'start': Moment(lambda folder, text: True, None),
      'step': Moment(lambda folder, text: bool(_steps(text)), 1.0),
      'save': Moment(lambda folder, text: any(
          os.path.isdir(os.path.join(run_dir, place, SAVING)) for run_dir, _ in stages(folder)
          for place in ('', 'best')), 0.03),
      'evaluation': Moment(lambda folder, text: any(
          step % _EVERY_EVALUATION == 0 for step in _steps(text)[-1:]), 0.3),
      'end': Moment(lambda folder, text: '; next: ' in text, 1.0),
  }, content, lost)


def _steps(text):
  """The steps of the lines of a training's log, in order."""
  return [int(step) for step in re.findall(rf'^{re.escape(STEP_LINE)}(\d+)/', text, re.M)]


def _anywhere():
  return {'anywhere': Moment(lambda folder, text: True, None)}


def evaluation(run_dir):
  """The Job of evaluating the run in `run_dir`."""
  def work(folder):
    return settings.run(evaluate, EvaluateSettings, [
        f'--ckpt={run_dir}', '--split=train', f'--output_dir={folder}/scores', '--details'])

  return Job('evaluate.py', work, _anywhere(), lambda folder: digests(folder, r'^scores/[^.]'))


def labelling(run_dir, photos):
  """The Job of labeling the pictures in the folder `photos` by the run in `run_dir`."""
  def work(folder):
    return settings.run(label, InferenceSettings, [
        f'--ckpt={run_dir}', f'--output_dir={folder}/labels', '--probabilities', photos])

  return Job('inference.py', work, _anywhere(), lambda folder: digests(folder, r'^labels/[^.]'))


def converting(data):
  """The Job of converting the dataset `data` by two processes."""
  def work(folder):
    return settings.run(conversion.convert_splits, conversion.ConvertSettings, [
        f'--dataset={data}', f'--data_dir={folder}/records', '--num_workers=2', '--num_shards=3'])

  return Job('datasets.convert', work, _anywhere(), lambda folder: digests(folder, '^records/'))


def downloading(url, size, digest):
  """The Job of downloading `url`, whose size in bytes and digest (as `fetch` takes it) are known."""
  def work(folder):
    fetch(url, os.path.join(folder, 'downloads', 'file'), size, digest)
    return 0

  return Job('download', work, _anywhere(), lambda folder: digests(folder, '^downloads/'))


class SlowFile(http.server.BaseHTTPRequestHandler):
  """Serves one file, the server's `content`, from any byte on, in parts with pauses between them."""

  def do_GET(self):  # noqa: N802, the name that http.server calls
    content = self.server.content
    begin = int((re.match(r'bytes=(\d+)-', self.headers.get('Range', '')) or [0, 0])[1])
    self.send_response(206 if begin else 200)
    self.send_header('Content-Length', str(len(content) - begin))
    if begin:
      self.send_header('Content-Range', f'bytes {begin}-{len(content) - 1}/{len(content)}')
    self.end_headers()
    step = len(content) // 20
    for place in range(begin, len(content), step):
      self.wfile.write(content[place:place + step])
      time.sleep(0.05)

  def log_message(self, *args):
    """Says nothing."""


def serve(content):
  """Serves the bytes `content` by a process of its own; returns `(pid, url, digest)`."""
  server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), SlowFile)
  server.content = content
  server.handle_error = lambda *_: None  # a client that was killed
  pid = start(server.serve_forever, os.devnull)
  server.server_close()
  return pid, f'http://127.0.0.1:{server.server_port}/file', f'sha256:{hashlib.sha256(content).hexdigest()}'
