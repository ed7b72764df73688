"""Python processes that start in the time of their own work: forks of one that has imported TensorFlow.

A process of tests has threads by then, which a fork does not take along, so it does not fork itself. A fork ends
without the interpreter's own end: where that matters, a test starts a subprocess.
"""

import concurrent.futures
import functools
import multiprocessing
import os
import pathlib
import runpy
import signal
import subprocess
import sys
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from unittest import mock

from programs import Result

from utils.files import ROOT
from utils.workers import without_main

# What the process that is forked imports.
_IMPORTS = ['tiny', 'train', 'utils.agreement', 'utils.studies.bad_input', 'utils.studies.kills']


@functools.cache
def _context():
  """The context of the processes, whose server imports once."""
  context = multiprocessing.get_context('forkserver')
  context.set_forkserver_preload(_IMPORTS)
  places = os.pathsep.join([str(ROOT), str(pathlib.Path(__file__).parent)])
  with mock.patch.dict(os.environ, PYTHONPATH=places), without_main():
    forkserver.ensure_running()
  return context


def _work(stdout, stderr, environ, words):
  """Does in this process what `python WORDS` does."""
  for stream, number in ((stdout, 1), (stderr, 2)):
    os.dup2(stream.fileno(), number)
    stream.close()
  sys.stdout, sys.stderr = (os.fdopen(number, 'w', 1, 'utf-8', 'backslashreplace', closefd=False) for number in (1, 2))
  os.setsid()
  os.chdir(ROOT)
  os.environ.clear()
  os.environ.update(environ)
  kind, *sys.argv = words if words[0] in ('-c', '-m') else ('', *words)
  if kind == '-c':
    exec(sys.argv[0], {'__name__': '__main__'})
  elif kind == '-m':
    runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)
  else:
    runpy.run_path(sys.argv[0], run_name='__main__')


class Fork:
  """A process as `python WORDS` in the project's folder, in a session of its own; what a subprocess.Popen has.

  Attributes:
    args: the words.
    pid: its number.
    stdout: text stream; None if the output goes to a file.
    stderr: text stream; None if the output goes to a file.
  """

  def __init__(self, *words, environ=None, output=None):
    """Starts the process.

    Args:
      *words: a script, or '-c' and a program, or '-m' and a module, and the words of the command line.
      environ: dict, environment variables beside those of the tests.
      output: file for all that it prints; None for two pipes.
    """
    self.args = [str(word) for word in words]
    pipes = [_context().Pipe(duplex=False) for _ in range(2) if not output]
    ends = [end for _, end in pipes] or [Connection(os.dup(output.fileno()), readable=False) for _ in range(2)]
    self._process = _context().Process(target=_work, args=(*ends, {**os.environ, **(environ or {})}, self.args))
    with without_main():
      self._process.start()
    self.pid = self._process.pid
    for end in ends:
      end.close()
    self.stdout, self.stderr = [os.fdopen(os.dup(pipe.fileno()), errors='backslashreplace', encoding='utf-8')
                                for pipe, _ in pipes] or (None, None)

  def __enter__(self):
    return self

  def __exit__(self, *exception):
    self.wait()

  @property
  def returncode(self):
    return self._process.exitcode

  poll = returncode.fget

  def wait(self, timeout=None):
    self._process.join(timeout)
    if self.returncode is None:
      raise subprocess.TimeoutExpired(self.args, timeout)
    return self.returncode

  def send_signal(self, number):
    if self.poll() is None:
      os.kill(self.pid, number)

  def terminate(self):
    self.send_signal(signal.SIGTERM)

  def kill(self):
    self.send_signal(signal.SIGKILL)


def launch(words, *, stdout, **options):
  """Takes the place of subprocess.Popen where a study starts `python WORDS` and reads the output from a file."""
  return Fork(*words[1:], output=stdout)


def run(*words):
  """Runs `python WORDS` as a Fork to its end; returns a programs.Result."""
  process = Fork(*words)
  with concurrent.futures.ThreadPoolExecutor(2) as readers:
    stdout, stderr = readers.map(lambda stream: stream.read(), (process.stdout, process.stderr))
  return Result(process.wait(), stdout, stderr)
