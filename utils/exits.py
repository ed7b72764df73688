"""How a program ends: by an exit code, and at most one line about what went wrong, never by a traceback on the screen.

    0    done
    1    something to correct outside the program: a flag, a file, a full disk, no permission, too little memory, a GPU
         that is gone. One line, `error: ...`
    2    a fault of the program. One line, `fault: ...`, which names the log with traceback and versions to report
    130  interrupted by Ctrl-C
    143  interrupted by SIGTERM. Files are whole, as before or as after; the line has the command that goes on

docs/reliability.md describes them for scripts.
"""

import contextlib
import contextvars
import dataclasses
import datetime
import errno
import os
import platform
import re
import secrets
import select
import signal
import sys
import tempfile
import threading
import traceback

from utils.errors import UserError, quoted, shown
from utils.files import commit
from utils.installation import versions

DONE, CORRECT, FAULT, INTERRUPTED, TERMINATED = 0, 1, 2, 130, 143
# What the system says of a machine, not of a program: the disk is full, may not be written, is broken; and so on.
_OF_THE_MACHINE = {getattr(errno, name) for name in (
    'ENOSPC', 'EDQUOT', 'EFBIG', 'EROFS', 'EACCES', 'EPERM', 'EIO', 'ESTALE', 'ENOMEM', 'EMFILE', 'ENFILE', 'ENODEV',
    'ENXIO', 'ETIMEDOUT', 'EHOSTDOWN', 'EAGAIN')}
# The same in messages of TensorFlow, which has no numbers for them: what is said -> pattern.
_IN_MESSAGES = {
    'the GPU failed or is gone': r'CUDA_ERROR_(?!OUT_OF_MEMORY)\w+|cudaError(?!MemoryAllocation)\w+|GPU sync failed|'
                                 r'CUDNN_STATUS_(EXECUTION_FAILED|INTERNAL_ERROR)|Failed to query event|'
                                 r'Failed to enqueue async mem|GPU is lost',
    'not enough memory': r'OOM when allocating|[Oo]ut of memory|OUT_OF_MEMORY|bad_alloc|cudaErrorMemoryAllocation|'
                         r'Cannot allocate memory|Dst tensor is not initialized|Failed to allocate',
    'the disk is full': r'No space left on device|Disk quota exceeded',
    'a file may not be written or read': r'Permission denied|Read-only file system|Operation not permitted|'
                                         r'File too large',
    'the disk failed': r'Input/output error|Stale file handle',
}


@dataclasses.dataclass(frozen=True)
class _Program:
  """The program that runs: its command, None if it was called from Python; the folder of its run, None before that."""
  command: str | None = None
  folder: str | None = None


_NONE = _Program()
_program = contextvars.ContextVar('program', default=_NONE)


def again():
  """The command that was given, for a message about how to go on."""
  return _program.get().command or 'the same command'


def works_in(folder):
  """Notes the folder of the run that the program works on, in which the log of a fault is written."""
  _program.set(dataclasses.replace(_program.get(), folder=folder))


def guarded(program, *, typed=True):
  """Calls a program and turns every end of it into an exit code, with at most one line on stderr.

  Args:
    program: function of no arguments; it returns an exit code, None for 0.
    typed: whether the process's command line is the program's, to be given again.

  Returns:
    the exit code, see above; 1 without a line where the reader of the output has gone (`| head`).
  """
  for stream in (sys.stdout, sys.stderr):
    if hasattr(stream, 'reconfigure'):  # a name that the terminal's encoding lacks is printed escaped
      stream.reconfigure(errors='backslashreplace')
  _program.set(_Program(' '.join(map(quoted, sys.orig_argv)) if typed else None))
  try:
    with ended_by_sigterm(), _threads_without_traceback():
      code = program()
      sys.stdout.flush()
      return code or DONE
  except KeyboardInterrupt:
    return _end(f'interrupted; to go on: {again()}', INTERRUPTED)
  except SystemExit as end:
    if end.code != TERMINATED:
      raise
    return _end(f'ended by SIGTERM; to go on: {again()}', TERMINATED)
  except Exception as error:
    if _reader_has_gone(error):
      return CORRECT
    line = str(error) if isinstance(error, UserError) else problem(error)
    return _end(f'error: {line}', CORRECT) if line is not None else _end(reported(error), FAULT)


@contextlib.contextmanager
def ended_at_once():
  """Ends the process at once, by a line, at Ctrl-C inside the block: for a long import, where nothing is to be saved.

  Does nothing where nobody has started a program, as in a notebook, or Ctrl-C is handled otherwise.
  """
  main = sys.modules.get('__main__')
  if (not hasattr(main, '__file__') or threading.current_thread() is not threading.main_thread()
      or signal.getsignal(signal.SIGINT) != signal.default_int_handler):
    yield
    return
  line = f'interrupted; to go on: {" ".join(map(quoted, sys.orig_argv))}\n'.encode(errors='backslashreplace')
  stderr = os.dup(2)  # what is imported may take the place of the stream

  def end(*_):
    os.write(stderr, line)
    os._exit(INTERRUPTED)

  signal.signal(signal.SIGINT, end)
  try:
    yield
  finally:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.close(stderr)


def _end(line, code):
  """Prints the last line; returns the exit code. An output on a full disk, or whose reader has gone, loses the line."""
  for stream, text in ((sys.stdout, ''), (sys.stderr, f'{line}\n')):
    try:
      stream.write(text)
      stream.flush()
    except OSError:
      _discard(stream)
  return code


def _discard(stream):
  """Discards what else a stream is given, so that Python does not fail to write it at its end."""
  with contextlib.suppress(OSError, ValueError):
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _reader_has_gone(error):
  """Whether an error is that nobody reads the output any more, which needs no line; its rest is discarded."""
  if not isinstance(error, BrokenPipeError):
    return False
  poll = select.poll()
  try:
    poll.register(sys.stdout, 0)
    has_gone = any(event & select.POLLERR for _, event in poll.poll(0))
  except (OSError, ValueError, TypeError):  # no file of the system's
    return False
  if has_gone:
    _discard(sys.stdout)
  return has_gone


@contextlib.contextmanager
def ended_by_sigterm():
  """Turns SIGTERM inside the block into SystemExit(143), so that no child or temporary file is left behind.

  Does nothing outside the main thread, or where the signal is handled or ignored already.
  """
  if (threading.current_thread() is not threading.main_thread()
      or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL):
    yield
    return
  signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
  try:
    yield
  finally:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextlib.contextmanager
def _threads_without_traceback():
  """Turns an exception that ends a thread, inside the block, into a line, as TensorFlow's writer on a full disk."""

  def ended(thread):
    if not isinstance(thread.exc_value, (SystemExit, type(None))):
      why = problem(thread.exc_value) or reported(thread.exc_value)
      print(f'warning: {thread.thread.name if thread.thread else "a thread"} ended: {why}', file=sys.stderr, flush=True)

  previous, threading.excepthook = threading.excepthook, ended
  try:
    yield
  finally:
    threading.excepthook = previous


def problem(error):
  """What is wrong with the machine, by an exception: a phrase with what the system said; None if that is not it.

  Cleaning up may fail as well where memory or threads are wanting: then what came first is said.
  """
  first, found = error.__context__, None
  while first is not None and found is None:
    found, first = _wanting(first), first.__context__
  return _wanting(error) or _of_the_machine(error) or found


def _wanting(error):
  """As `problem`, of memory and threads alone."""
  if isinstance(error, MemoryError):
    return 'not enough memory' + _in_brackets(str(error))
  if isinstance(error, RuntimeError) and "can't start new thread" in str(error):
    return "no more threads can be started: the system's limit, or its memory, is reached"
  return None


def _of_the_machine(error):
  """As `problem`, of all else."""
  if isinstance(error, OSError):
    if error.errno not in _OF_THE_MACHINE:
      return None
    names = [shown(os.fspath(name)) for name in (error.filename, error.filename2) if isinstance(name, (str, bytes))]
    return f'cannot use {" or ".join(names)}: {error.strerror}' if names else f'the system said: {error.strerror}'
  if not type(error).__module__.startswith('tensorflow') and type(error) is not RuntimeError:  # of TensorFlow's C++
    return None
  for what, pattern in _IN_MESSAGES.items():
    found = re.search(f'.*({pattern}).*', str(error))
    if found:
      return what + _in_brackets(found[0])
  return None


def _in_brackets(text):
  """The first line of a text, shortened, in brackets; '' for none."""
  line = next((line.strip() for line in text.splitlines() if line.strip()), '')
  return f' ({shown(line if len(line) <= 200 else f"{line[:197]}...")})' if line else ''


def reported(error):
  """Writes the log of a fault; returns the line about it."""
  what = f'fault: {type(error).__name__}{_in_brackets(str(error))}'
  try:
    where = f'report it with {shown(_write_log(error))}, which holds traceback, versions and the command'
  except OSError as unwritable:
    frames = traceback.extract_tb(error.__traceback__)
    place = f', at {frames[-1].filename}:{frames[-1].lineno}' if frames else ''
    where = f'report it with this line{place}; no log could be written ({unwritable.strerror})'
  return f'{what}. This is a mistake of the program, not yours: please {where}'


def _write_log(error):
  """Writes the log of a fault to the run's folder, or to a temporary folder; returns its path. Raises OSError."""
  lines = [f'command: {_program.get().command or "called from Python"}', f'working folder: {os.getcwd()}',
           f'commit: {commit()}', f'system: {platform.platform()}',
           *(f'{name}: {version}' for name, version in versions().items()), '',
           ''.join(traceback.format_exception(error))]
  name = f'fault-{datetime.datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}.log'
  folder = _program.get().folder
  for place in ([folder] if folder else []) + [tempfile.gettempdir()]:
    path = os.path.join(place, name)
    try:
      with open(path, 'x', encoding='utf-8', errors='backslashreplace') as file:
        file.write('\n'.join(lines))
      return path
    except OSError as unwritable:
      failed = unwritable
      with contextlib.suppress(OSError):
        os.unlink(path)
  raise failed
