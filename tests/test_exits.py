"""How programs end: exit code, one line, a log of a fault; over all programs of the project."""

import errno
import importlib
import os
import pathlib
import signal
import subprocess
import sys
import threading

import programs
import pytest

from utils import exits, settings
from utils.compat import tf
from utils.errors import UserError
from utils.files import ROOT

pytestmark = pytest.mark.fast

# Started by other programs: one prints JSON whatever happens, one ends by the codes of another, which it runs.
WITHOUT_FLAGS = {'utils.doctor.tensorflow_report', 'utils.studies.faulty'}
# Words before the flags.
FIRST_WORDS = {'utils.studies.course_variant': ['train', 'camvid', 'baseline']}


def all_programs():
  """Names of the modules that run `main` when they are started."""
  for path in sorted(pathlib.Path(ROOT).glob('**/*.py')):
    parts = path.relative_to(ROOT).with_suffix('').parts
    if parts[0] not in ('tests', 'setup', '.venv', 'build') and 'main())' in path.read_text(encoding='utf-8'):
      yield '.'.join(parts)


PROGRAMS = list(all_programs())


def op_error(kind, message):
  return kind(None, None, message)


ENDS = {  # name -> (what happens in the program, exit code, parts of the line)
  'user': (UserError('--x=1: valid are 2'), 1, ['error: --x=1: valid are 2']),
  'disk full': (OSError(errno.ENOSPC, 'No space left on device', '/a/b.png'), 1,
                ['error: cannot use /a/b.png: No space left on device']),
  'permission': (PermissionError(errno.EACCES, 'Permission denied', '/a/b.png'), 1,
                 ['error: cannot use /a/b.png: Permission denied']),
  'memory': (MemoryError('Unable to allocate 3.2 GiB'), 1, ['error: not enough memory (Unable to allocate 3.2 GiB)']),
  'memory of TensorFlow': (op_error(tf.errors.ResourceExhaustedError, '2 root error(s) found.\n  (0) RESOURCE_'
                                    'EXHAUSTED: OOM when allocating tensor with shape[9,9]\n more'), 1,
                           ['error: not enough memory (', 'OOM when allocating tensor with shape[9,9])']),
  'disk of TensorFlow': (op_error(tf.errors.ResourceExhaustedError, '/a/x.tmp; No space left on device'), 1,
                         ['error: the disk is full (/a/x.tmp; No space left on device)']),
  'disk of TensorBoard': (RuntimeError('/a/events; No space left on device\n\tFailed to flush 3 events'), 1,
                          ['error: the disk is full (/a/events; No space left on device)']),
  'GPU': (op_error(tf.errors.InternalError, 'Failed to copy: CUDA_ERROR_LAUNCH_FAILED: a failure'), 1,
          ['error: the GPU failed or is gone (', 'CUDA_ERROR_LAUNCH_FAILED']),
  'threads': (RuntimeError("can't start new thread"), 1, ['error: no more threads']),
  'fault': (ValueError('shapes\nof two kinds'), 2,
            ['fault: ValueError (shapes). This is a mistake of the program, not yours: please report it', '.log']),
  'fault of TensorFlow': (op_error(tf.errors.InvalidArgumentError, 'bad shapes'), 2, ['fault: InvalidArgumentError']),
  'missing file': (FileNotFoundError(errno.ENOENT, 'No such file', 'x'), 2, ['fault: FileNotFoundError']),
  'Ctrl-C': (KeyboardInterrupt(), 130, ['interrupted; to go on: the same command']),
}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
  """Logs of faults go to a folder of the test."""
  monkeypatch.setattr(exits.tempfile, 'gettempdir', lambda: str(tmp_path))


def ended(name, monkeypatch, happens):
  """The Result of a program in which `happens()` takes the place of its work."""
  try:
    module = importlib.import_module(name)
  except ImportError as error:
    pytest.skip(f'{name} needs {error.name}')
  monkeypatch.setattr(settings, 'parse', lambda *args, **options: happens())
  if name == 'utils.doctor.__main__':
    monkeypatch.setattr(module, 'gather', happens)
  return programs.run(module.main, *FIRST_WORDS.get(name, []))


@pytest.mark.parametrize('name', [name for name in PROGRAMS if name not in WITHOUT_FLAGS])
def test_every_program_ends_by_the_same_codes(name, monkeypatch, tmp_path):
  """Its own mistake, the user's, the machine's, Ctrl-C, SIGTERM; a word that it does not know."""
  for error, code, parts in ENDS.values():
    def happens(error=error):
      raise error

    with monkeypatch.context() as patch:
      result = ended(name, patch, happens)
    assert result.returncode == code
    [line] = result.stderr.splitlines()
    assert line.startswith(parts[0]) and all(part in line for part in parts), line
  with monkeypatch.context() as patch:
    result = ended(name, patch, lambda: signal.raise_signal(signal.SIGTERM))
  assert (result.returncode, result.stderr) == (143, 'ended by SIGTERM; to go on: the same command\n')
  assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
  module = importlib.import_module(name)
  programs.assert_refused(programs.run(module.main, *FIRST_WORDS.get(name, []), '--no_such_flag=1'), 'no_such_flag')
  assert programs.run(module.main, *FIRST_WORDS.get(name, []), '--help').returncode == 0


@pytest.mark.parametrize('words, part', [
    ([], 'wanted are train or score'), (['train', 'camvid'], 'train camvid: wanted'),
    (['dance', 'camvid', 'baseline'], 'dance'), (['train', 'moon', 'baseline'], 'moon'),
    (['train', 'camvid', 'moon'], "unknown mistake 'moon'")])
def test_words_before_the_flags_are_checked(words, part):
  from utils.studies import course_variant

  programs.assert_refused(programs.run(course_variant.main, *words), part)


def test_all_programs_are_found():
  assert set(PROGRAMS) >= {'train', 'evaluate', 'inference', 'datasets.convert', 'checkpoints.package', 'utils.serve',
                           'utils.doctor.__main__', 'utils.export.__main__', 'utils.studies.course_variant'}


def fails():
  raise ValueError('a mistake')


def test_the_log_of_a_fault_lies_in_the_runs_folder(tmp_path, capsys):
  folder = tmp_path / 'run'
  folder.mkdir()

  def program():
    exits.works_in(str(folder))
    fails()

  assert exits.guarded(program) == 2
  [log] = folder.glob('fault-*.log')
  error = capsys.readouterr().err
  assert str(log) in error and 'Traceback' not in error and len(error.splitlines()) == 1
  text = log.read_text()
  for part in ('Traceback', 'in fails', 'ValueError: a mistake', 'tensorflow: ', 'python: 3', 'commit: ', 'system: ',
               f'command: {" ".join(map(exits.quoted, sys.orig_argv))}'):
    assert part in text
  assert exits.guarded(fails) == 2 and len(list(folder.iterdir())) == 1  # another program's run is another
  assert len(list(tmp_path.glob('fault-*.log'))) == 1


def test_what_came_before_a_failing_cleanup_is_said(capsys):
  def program():
    try:
      raise MemoryError('Unable to allocate')
    finally:
      fails()

  assert exits.guarded(program) == 1
  assert capsys.readouterr().err == 'error: not enough memory (Unable to allocate)\n'

  def handled():
    try:
      raise PermissionError(errno.EACCES, 'Permission denied', 'x')
    except PermissionError:
      fails()  # a mistake beside what it handles

  assert exits.guarded(handled) == 2


def test_where_no_log_can_be_written_the_line_has_the_place(tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(exits.tempfile, 'gettempdir', lambda: str(tmp_path / 'gone'))
  assert exits.guarded(fails) == 2
  [line] = capsys.readouterr().err.splitlines()
  assert 'no log could be written (No such file or directory)' in line and f'{__file__}:' in line


def test_an_interrupt_says_the_command(capsys):
  def program():
    raise KeyboardInterrupt

  assert exits.guarded(program) == 130
  assert capsys.readouterr().err == f'interrupted; to go on: {" ".join(map(exits.quoted, sys.orig_argv))}\n'


@pytest.mark.parametrize('code, number', [('pass', 0), ('return 7', 7), ('raise UserError("no")', 1), ('1 / 0', 2),
                                          ('os.kill(os.getpid(), 2)', 130), ('os.kill(os.getpid(), 15)', 143)])
def test_codes_of_a_process(code, number, tmp_path):
  script = ('import os, signal, sys, time\nsignal.signal(2, signal.default_int_handler)\n'  # of a job in the background
            'from utils.errors import UserError\nfrom utils.exits import guarded\n'
            f'def program():\n  {code}\n  time.sleep({9 if "kill" in code else 0})\nsys.exit(guarded(program))\n')
  done = subprocess.run([sys.executable, '-c', script], cwd=ROOT, capture_output=True, text=True,
                        env={**os.environ, 'TMPDIR': str(tmp_path)})
  assert done.returncode == number and 'Traceback' not in done.stderr
  assert ('to go on: ' in done.stderr) == (number > 100)


@pytest.mark.parametrize('inside, code, parts', [
    ('with ended_at_once():\n', 130, ['interrupted; to go on: ', 'python']),
    ('with ended_at_once():\n  pass\nif True:\n', -2, ['KeyboardInterrupt'])])
def test_ctrl_c_in_an_import(inside, code, parts, tmp_path):
  """Inside the block it is a line, though what is imported holds stderr back; behind it all is as before."""
  (tmp_path / 'program.py').write_text(
      'import os, signal, time\nsignal.signal(2, signal.default_int_handler)\nfrom utils.exits import ended_at_once\n'
      + inside + '  stderr = os.dup(2)\n  os.dup2(os.open(os.devnull, 1), 2)\n  try:\n    os.kill(os.getpid(), 2)\n'
      '    time.sleep(9)\n  finally:\n    os.dup2(stderr, 2)\n')
  done = subprocess.run([sys.executable, tmp_path / 'program.py'], capture_output=True, text=True,
                        env={**os.environ, 'PYTHONPATH': ROOT})
  assert done.returncode == code and all(part in done.stderr for part in parts)
  assert ('Traceback' in done.stderr) == (code != 130)


def test_tensorflow_is_imported_so_that_ctrl_c_is_a_line():
  lines = pathlib.Path(ROOT, 'utils/compat.py').read_text(encoding='utf-8').splitlines()
  imports = [line for line in lines if line.startswith('with ') and '_quiet_import()' in line]
  assert imports and all('ended_at_once(), ' in line for line in imports)


@pytest.mark.parametrize('stream', ['stdout', 'stderr'])
def test_a_full_output_is_one_line_or_none(stream, tmp_path):
  """/dev/full: every write fails as on a full disk."""
  script = ('import sys\nfrom utils.exits import guarded\ndef program():\n  print("x" * 100_000)\n  1 / 0\n'
            'sys.exit(guarded(program))\n')
  with open('/dev/full', 'w') as full:
    done = subprocess.run([sys.executable, '-c', script], cwd=ROOT, text=True, **{
        'stdout': subprocess.PIPE, 'stderr': subprocess.PIPE, stream: full,
        'env': {**os.environ, 'TMPDIR': str(tmp_path)}})
  assert done.returncode == (1 if stream == 'stdout' else 2)
  assert len(list(tmp_path.glob('fault-*.log'))) == (stream == 'stderr')
  if stream == 'stdout':
    assert done.stderr == 'error: the system said: No space left on device\n'


def test_a_reader_that_has_gone_needs_no_line():
  done = subprocess.run([sys.executable, '-c', 'import sys\nfrom utils.exits import guarded\n'
                         'sys.exit(guarded(lambda: print("x" * 1_000_000)))'], cwd=ROOT, text=True,
                        stdout=_closed_pipe(), stderr=subprocess.PIPE)
  assert (done.returncode, done.stderr) == (1, '')


def _closed_pipe():
  read, write = os.pipe()
  os.close(read)
  return write


def test_a_thread_that_fails_leaves_a_line(tmp_path, capsys):
  before = threading.excepthook

  def full():
    raise OSError(errno.ENOSPC, 'No space left on device', '/a/events')

  def program():
    for work in (full, fails):
      thread = threading.Thread(target=work, name='writer')
      thread.start()
      thread.join()

  assert exits.guarded(program) == 0 and threading.excepthook == before
  full_line, fault_line = capsys.readouterr().err.splitlines()
  assert full_line == 'warning: writer ended: cannot use /a/events: No space left on device'
  assert fault_line.startswith('warning: writer ended: fault: ValueError (a mistake).') and '.log' in fault_line
  assert len(list(tmp_path.glob('fault-*.log'))) == 1


def test_a_broken_pipe_elsewhere_is_not_silent(capsys):
  def program():
    raise BrokenPipeError(errno.EPIPE, 'Broken pipe')

  assert exits.guarded(program) == 2 and 'fault: BrokenPipeError' in capsys.readouterr().err
