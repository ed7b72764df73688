"""Runs the programs under faults of the machine, and judges what they leave: full disks, no permission, no memory, ...

    python -m utils.studies.faults --output=faults.json

For each fault and program: the exit code (docs/reliability.md), one line that names the fault and no traceback, no file
lost or half-written of those that were there, and the same command, given again without the fault, ends well with the
files of a program that met none. faults.json holds every case, faults.md a table of them. What this machine does not
allow is named as skipped. Needs Linux; for full and read-only disks the right to mount, as root has it, else files are
limited in their size.
"""

import contextlib
import dataclasses
import functools
import glob
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile

import numpy as np
from PIL import Image

from datasets import records
from utils.best import BEST, best_checkpoint
from utils.checkpoint_files import newest_checkpoint, read_step
from utils.errors import UserError, brief, shown
from utils.exits import CORRECT, DONE, ended_by_sigterm
from utils.files import claim, commit, file_digest, read_json, text_of, write_json, write_text
from utils.installation import versions
from utils.packages import CONFIG
from utils.progress import Progress
from utils.settings import Settings, flag, overwrite_flag, run
from utils.studies import scripts

FAULTS = ('disk full', 'read-only', 'permission', 'memory', 'clock', 'GPU', 'worker')
SECONDS = 600  # after which a program counts as hanging
SPACE = 256 << 20  # bytes of the small disk while it is not full
STEPS = 4  # of a training; a resumed one goes on from half of them
YEARS = 60 * 365.25 * 86400  # seconds that the clock jumps, as on a board without a battery
# What the line about a fault says.
SAYS = {'disk full': r'No space left|File too large', 'read-only': 'Read-only|not writable',
        'permission': r'Permission denied|not writable', 'memory': 'memory|threads', 'GPU': 'the GPU failed or is gone',
        'worker': 'worker process was killed'}
ABORTED = (-signal.SIGABRT, -signal.SIGSEGV)  # ends of TensorFlow's own where some of its allocations fail
_DAC_OVERRIDE, _DAC_READ_SEARCH, _PR_CAPBSET_DROP = 1, 2, 24  # of Linux


@dataclasses.dataclass(frozen=True)
class FaultSettings(Settings):
  """Flags of this program."""
  faults: tuple[str, ...] = flag(FAULTS, 'faults to make', choices=FAULTS)
  programs: tuple[str, ...] = flag(
      ('convert', 'train', 'resume', 'evaluate', 'inference', 'package'), 'programs to run under them',
      choices=('convert', 'train', 'resume', 'evaluate', 'inference', 'package'))
  positions: int = flag(2, 'places of each fault that has a place, as the byte at which a disk is full', least=1)
  seed: int = flag(0, 'random seed of these places', least=0)
  net: str = flag('segnet_basic', 'network that is trained, without pretrained weights')
  output: str = flag('faults.json', 'JSON to write; the table goes beside it, as .md', path=True)
  overwrite: bool = overwrite_flag()


@dataclasses.dataclass(frozen=True)
class Sizes:
  """Bytes that a program adds to what is there, and those of the largest file that it writes."""
  total: int
  largest: int


@dataclasses.dataclass(frozen=True)
class Place:
  """The folders of a case, in one of its own.

  Attributes:
    folder: the folder.
    net: name of the network.
  """
  folder: str
  net: str

  def path(self, *parts):
    """The path of a file or folder of the case."""
    return os.path.join(self.folder, *parts)

  def train(self, steps):
    """The words of a training of `steps` steps, which saves and evaluates after each."""
    return ['train.py', f'--dataset={self.path("photos")}', f'--data_dir={self.path("data")}', f'--net={self.net}',
            f'--run_dir={self.path("out", "run")}', '--checkpoint=none', '--crop_size=64,64', '--batch_size=2',
            f'--max_steps={steps}', '--eval_steps=1', '--save_minutes=0', '--keep_checkpoints=2', '--log_steps=1',
            '--schedule=constant', '--precision=float32']

  def words(self, program):
    """The command of a program, which writes below `out` alone."""
    trained, out = f'--ckpt={self.path("run")}', self.path('out')
    return {
        'convert': ['datasets.convert', f'--dataset={self.path("photos")}', f'--data_dir={out}/data',
                    '--num_workers=2', '--num_shards=2'],
        'train': self.train(STEPS), 'resume': self.train(STEPS),
        'evaluate': ['evaluate.py', trained, f'--output_dir={out}/scores', f'--data_dir={self.path("data")}'],
        'inference': ['inference.py', trained, f'--output_dir={out}/labels', self.path('photos', 'images')],
        'package': ['checkpoints.package', trained, f'--output={out}/run.zip', f'--data_dir={self.path("data")}'],
    }[program]

  def populate(self, program):
    """Puts below `out` what is there before a program starts: for a resumed training, its first half."""
    if program == 'resume':
      shutil.copytree(self.path('half'), self.path('out', 'run'))


def command(words, fault=''):
  """The command of a program, under a fault that is made within its process."""
  return scripts.command('utils.studies.faulty', [fault, *words]) if fault else scripts.command(words[0], words[1:])


def ended(words, *, fault='', prepare=None, watch=lambda process: None):
  """Runs a program to its end.

  Args:
    words: its words.
    fault: a fault of utils/studies/faulty.py; '' for none.
    prepare: function that the child calls before it starts; None for none.
    watch: `watch(process)` is called once it has started.

  Returns:
    `(code, text)`: exit code, negative for a signal, and all that it printed.
  """
  with (tempfile.TemporaryFile('w+', errors='backslashreplace') as output,
        subprocess.Popen(command(words, fault), stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                         preexec_fn=prepare) as process):
    try:
      watch(process)
      code = process.wait(SECONDS)
    except subprocess.TimeoutExpired:
      code = None
    finally:
      process.kill()
    output.seek(0)
    return code, output.read()


def make_photos(folder, rng):
  """Writes a small dataset: pictures of several sizes, smooth, with two classes, and the lists of its splits."""
  for name in ('images', 'labels'):
    os.makedirs(os.path.join(folder, name))
  names = [f'picture{number:02d}' for number in range(10)]
  for name in names:
    height, width = rng.integers(64, 120, 2).tolist()
    small = Image.fromarray(rng.integers(0, 256, (4, 4, 3), np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
    small.save(os.path.join(folder, 'images', f'{name}.png'))
    label = (np.asarray(small)[..., 0] > 128).astype(np.uint8)
    Image.fromarray(label).save(os.path.join(folder, 'labels', f'{name}.png'))
  for path, text in (('classes.txt', ['dark', 'light']), ('train.txt', names[:6]), ('val.txt', names[6:])):
    with open(os.path.join(folder, path), 'w', encoding='utf-8') as file:
      file.write('\n'.join(text) + '\n')


def prepared(settings, folder):
  """Makes pictures, records, a trained run and half of one; returns the Place. Raises UserError if a program fails."""
  place = Place(folder, settings.net)
  make_photos(place.path('photos'), np.random.default_rng(settings.seed))
  os.makedirs(place.path('out'))
  stages = [(place.words('convert'), 'data', 'data'), (place.train(STEPS // 2), 'run', 'half'),
            (place.train(STEPS), 'run', 'run')]
  needed = max(1 if program in ('convert', 'train') else 2 if program == 'resume' else 3
               for program in settings.programs)
  for words, made, kept in stages[:needed]:
    code, text = ended(words)
    if code:
      raise UserError(f'{" ".join(words)} fails without any fault: {(text.strip() or "no output").splitlines()[-1]}')
    os.rename(place.path('out', made), place.path(kept))
  return place


# What is left --------------------------------------------------------------------------------------------------------


def broken(folder):
  """List of what is half-written or lost below a folder, a phrase each."""
  found = []
  for path in sorted(glob.glob(os.path.join(glob.escape(folder), '**'), recursive=True)):
    name = os.path.basename(path)
    try:
      if name.endswith('.json') and 'shard_bytes' in read_json(path):
        stats = read_json(path)
        there = records.shard_paths(os.path.dirname(path), stats['split'])
        if [os.path.getsize(shard) for shard in there] != stats['shard_bytes']:
          found.append(f'{path} and its shards differ')
      elif name == CONFIG:
        newest_checkpoint(os.path.dirname(path))
      elif name.endswith('.png'):
        with Image.open(path) as image:
          image.load()
      elif name.endswith('.zip') and zipfile.ZipFile(path).testzip():
        found.append(f'{path} is damaged')
      elif name == BEST and os.path.isdir(path):
        best_checkpoint(path)
    except (UserError, OSError, zipfile.BadZipFile) as error:
      found.append(f'{path}: {error}')
  return found


def files_below(folder):
  """Paths of all files below a folder, but for hidden ones."""
  return [path for path in glob.glob(os.path.join(glob.escape(folder), '**'), recursive=True) if os.path.isfile(path)]


def checkpoint_of(folder):
  """Step of the newest whole checkpoint below `out`; -1 for none."""
  with contextlib.suppress(UserError):
    newest = newest_checkpoint(os.path.join(folder, 'run'))
    return -1 if newest is None else read_step(newest)
  return -1


def results(folder):
  """Dict from path to digest of the files below a folder that are the same whenever a program is run."""
  found = {}
  for path in files_below(folder):
    if re.search(rf'\.tfrecord|_label\.png$|metrics-.*\.json$|run/model\.ckpt-{STEPS}\.data', path):
      found[os.path.relpath(path, folder)] = file_digest(path, 'sha256').hex()
  return found


# Faults --------------------------------------------------------------------------------------------------------------


def mounted(folder, *options):
  """Mounts a small disk in memory at a folder, or with `remount` changes it; returns whether this is allowed."""
  words = ['mount', '-t', 'tmpfs', '-o', ','.join((*options, f'size={SPACE}')), 'none', folder]
  if 'remount' in options:
    words = ['mount', '-o', ','.join(options), folder]
  try:
    return subprocess.run(words, capture_output=True).returncode == 0
  except OSError:
    return False


@contextlib.contextmanager
def small_disk(place):
  """Makes `out` a small disk of its own while the block runs; yields whether that is allowed here."""
  allowed = mounted(place.path('out'))
  try:
    yield allowed
  finally:
    if allowed:
      subprocess.run(['umount', place.path('out')], check=True)
    shutil.rmtree(place.path('out'))
    os.makedirs(place.path('out'))


def limit_files(size):
  """Lets this process write no file beyond a size in bytes: the nearest to a full disk where nothing can be mounted."""
  resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def obey_modes():
  """Takes from this process what lets root read and write whatever the modes of files say."""
  import ctypes
  for capability in (_DAC_OVERRIDE, _DAC_READ_SEARCH):
    ctypes.CDLL(None, use_errno=True).prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)


def full_disk(place, words, allowed, share, size):
  """A disk with room for a share of what the program writes, by its Sizes."""
  if not allowed:
    return ended(words, prepare=functools.partial(limit_files, int(share * size.largest)))
  status = os.statvfs(place.path('out'))
  used = (status.f_blocks - status.f_bfree) * status.f_frsize
  mounted(place.path('out'), 'remount', f'size={used + max(4096, int(share * size.total))}')
  try:
    return ended(words)
  finally:
    mounted(place.path('out'), 'remount', f'size={SPACE}')


def read_only(place, words, allowed, share, size):
  """A disk that cannot be written."""
  if not allowed:
    return None
  mounted(place.path('out'), 'remount', 'ro')
  try:
    return ended(words)
  finally:
    mounted(place.path('out'), 'remount', 'rw')


def no_permission(place, words, allowed, share, size):
  """Folders whose modes forbid to write."""
  folders = [place.path('out'), *(path for path in glob.glob(place.path('out', '**'), recursive=True)
                                  if os.path.isdir(path))]
  for path in folders:
    os.chmod(path, 0o555)
  try:
    return ended(words, prepare=obey_modes)
  finally:
    for path in folders:
      os.chmod(path, 0o755)


def no_memory(place, words, allowed, share, size):
  """Memory for a share of 64 mebibytes beside the imports."""
  return ended(words, fault=f'memory={64 * share:.0f}')


def jumping_clock(place, words, allowed, share, size):
  """A clock that jumps by decades, forward or backward."""
  return ended(words, fault=f'clock={-YEARS if share < 0.5 else YEARS:.0f}@{1 + int(100 * share) % 50}')


def lost_gpu(place, words, allowed, share, size):
  """A session that fails as on a lost GPU."""
  return ended(words, fault=f'gpu={1 + int(share * (12 if words[0] == "train.py" else 4))}')


def killed_worker(place, words, allowed, share, size):
  """A process that the program has started is killed."""

  def watch(process):
    end = time.monotonic() + SECONDS
    while process.poll() is None and time.monotonic() < end:
      for path in glob.glob(f'/proc/{process.pid}/task/*/children'):
        with contextlib.suppress(OSError, ValueError):
          for child in text_of(path).split():
            with open(f'/proc/{child}/cmdline', 'rb') as file:
              if b'spawn_main' in file.read():
                os.kill(int(child), signal.SIGKILL)
                return
      time.sleep(0.001)

  return ended(words, watch=watch)


MAKERS = {'disk full': full_disk, 'read-only': read_only, 'permission': no_permission, 'memory': no_memory,
          'clock': jumping_clock, 'GPU': lost_gpu, 'worker': killed_worker}
AT_PLACES = ('disk full', 'memory', 'clock', 'GPU')  # faults that have several
WITHOUT = {'GPU': ('convert', 'package'), 'worker': ('train', 'resume', 'evaluate', 'inference', 'package')}


# Judging -------------------------------------------------------------------------------------------------------------


def complaints(fault, code, text, before, after, left):
  """What is wrong with the end of a program under a fault.

  Args:
    fault: one of FAULTS.
    code: exit code.
    text: what it printed.
    before: step of the newest checkpoint before it.
    after: the same after it.
    left: what is half-written, see `broken`.

  Returns:
    list of phrases.
  """
  found = list(left)
  lines = [line for line in text.splitlines() if line.startswith(('error: ', 'fault: '))]
  wanted = DONE if fault == 'clock' else code if fault == 'memory' and code in ABORTED else CORRECT
  if code != wanted:
    found.append('hangs' if code is None else f'exit code {code}, not {wanted}')
  if 'Traceback' in text or 'Exception ignored' in text or 'Exception in thread' in text:
    found.append('prints a traceback')
  if wanted == CORRECT and len(lines) != 1:
    found.append(f'{len(lines)} lines of errors')
  elif wanted == CORRECT and not re.search(SAYS[fault], lines[0]):
    found.append(f'does not name the fault: {lines[0]}')
  if after < before:
    found.append(f'the checkpoint of step {before} is gone')
  return found


def examined(place, program, fault, share, reference, size):
  """Runs a program under a fault, judges it, and runs it again.

  Args:
    place: the Place.
    program: its name.
    fault: one of FAULTS.
    share: where, 0 to 1.
    reference: `results` of the program without a fault.
    size: the Sizes of what it writes without one.

  Returns:
    dict for the JSON: `fault`, `program`, `share`, `code`, `line` (about the fault), `output` (its end, if something is
    wrong), `wrong` (list of phrases), `skipped` (why; '' if it was made).
  """
  case = {'fault': fault, 'program': program, 'share': share, 'code': None, 'line': '', 'wrong': [], 'skipped': ''}
  with small_disk(place) as allowed:
    place.populate(program)
    words, out = place.words(program), place.path('out')
    before = checkpoint_of(out)
    done = MAKERS[fault](place, words, allowed, share, size)
    if done is None:
      return {**case, 'skipped': 'nothing can be mounted here'}
    code, text = done
    wrong = complaints(fault, code, text, before, checkpoint_of(out), broken(out))
    lines = [line for line in text.splitlines() if line.startswith(('error: ', 'fault: '))] or text.splitlines()
    again, said = ended(words)
    if again != DONE:
      wrong.append(f'started again it ends with {again}: {(said.strip() or "no output").splitlines()[-1]}')
    elif not reference.items() <= results(out).items() or broken(out):
      wrong.append('started again it leaves other files than without the fault')
    return {**case, 'code': code, 'line': lines[-1].replace(place.folder, '.') if lines else '', 'wrong': wrong,
            'output': text[-4000:] if wrong else ''}


def without_fault(place, program):
  """Runs a program without a fault; returns (`results`, the Sizes of what it writes)."""
  place.populate(program)
  before = {path: os.path.getsize(path) for path in files_below(place.path('out'))}
  code, text = ended(place.words(program))
  if code:
    raise UserError(f'{program} fails without any fault: {(text.strip() or "no output").splitlines()[-1]}')
  found = results(place.path('out'))
  after = {path: os.path.getsize(path) for path in files_below(place.path('out'))}
  shutil.rmtree(place.path('out'))
  os.makedirs(place.path('out'))
  largest = max(after[path] for path in after.keys() - before.keys())
  return found, Sizes(sum(after.values()) - sum(before.values()), largest)


def table(cases):
  """The cases as a Markdown table."""
  lines = ['| fault | program | exit codes | cases | line | wrong |', '| --- | --- | --- | --- | --- | --- |']
  groups = {}
  for case in cases:
    groups.setdefault((case['fault'], case['program']), []).append(case)
  for (fault, program), group in groups.items():
    codes = ', '.join(sorted({str(case['code']) for case in group if not case['skipped']}))
    wrong = '; '.join(dict.fromkeys(phrase for case in group for phrase in case['wrong'])) or 'nothing'
    line = next((case['skipped'] and f'skipped: {case["skipped"]}' or case['line'] for case in group), '')
    lines.append(f'| {fault} | {program} | {codes} | {len(group)} | {line[:140].replace("|", " ")} | '
                 f'{wrong[:300].replace("|", " ")} |')
  return '\n'.join(lines) + '\n'


def campaign(settings):
  """Makes all faults; `settings` is a FaultSettings. Returns the exit code: 1 if something is wrong."""
  if not sys.platform.startswith('linux'):
    raise UserError(f'this needs Linux; here is {sys.platform}')
  rng, cases = np.random.default_rng(settings.seed), []
  path = f'{os.path.splitext(settings.output)[0]}.md'
  wanted = [(program, fault, share) for program in settings.programs for fault in settings.faults
            if program not in WITHOUT.get(fault, ())
            for share in rng.uniform(size=settings.positions if fault in AT_PLACES else 1).round(3).tolist()]
  claim([settings.output, path], overwrite=settings.overwrite)
  with ended_by_sigterm(), tempfile.TemporaryDirectory(prefix='faults-') as folder:
    place = prepared(settings, folder)
    found = functools.lru_cache(functools.partial(without_fault, place))
    with Progress(len(wanted), 'cases', interval=30.0) as progress:
      for program, fault, share in wanted:
        cases.append(examined(place, program, fault, share, *found(program)))
        write_json(settings.output, {'settings': dataclasses.asdict(settings), 'commit': commit(), **versions(),
                                     'cases': cases})
        write_text(path, table(cases))
        for phrase in cases[-1]['wrong']:
          print(f'{fault}, {program}, at {share}: {brief(phrase)}', flush=True)
        progress.update()
  wrong = sum(bool(case['wrong']) for case in cases)
  print(f'{len(cases)} cases, {wrong} of them wrong; {shown(settings.output)} and {shown(path)} have them')
  return CORRECT if wrong else DONE


def main(argv=None):
  """Makes the faults; `argv` is the command line without the program's name, None for the process's own."""
  return run(campaign, FaultSettings, argv, text=__doc__)


if __name__ == '__main__':
  sys.exit(main())
