"""Machines on loopback for tests: processes that know each other's addresses, all of which end with the test."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time

from forks import Fork

from utils.files import ROOT
from utils.studies.scripts import free_addresses

SECONDS = 120  # patience with a process on a busy machine


class Machine:
  """A process of which all output is kept.

  Attributes:
    process: the subprocess.Popen or Fork.
    stdout: list of the lines on stdout so far.
    stderr: list of the lines on stderr so far.
  """

  def __init__(self, words, environ, fork):
    """Starts the process, in a process group of its own.

    Args:
      words: list of str, the words after `python`.
      environ: dict, environment variables beside those of the tests.
      fork: whether it is a Fork.
    """
    self.process = Fork(*words, environ=environ) if fork else subprocess.Popen(
        [sys.executable, *words], cwd=ROOT, env={**os.environ, 'PYTHONUNBUFFERED': '1', **environ},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors='backslashreplace', start_new_session=True)
    self.stdout, self.stderr = [], []
    self._readers = [threading.Thread(target=self._read, args=pair, daemon=True) for pair in (
        (self.process.stdout, self.stdout), (self.process.stderr, self.stderr))]
    for reader in self._readers:
      reader.start()

  @staticmethod
  def _read(stream, lines):
    for line in stream:
      lines.append(line.rstrip('\n'))

  def seen(self, text, seconds=SECONDS):
    """Waits for a line on stdout that holds `text`, and returns the first; fails if the process ends before."""
    deadline = time.monotonic() + seconds
    while True:
      ended = self.process.poll() is not None
      found = next((line for line in list(self.stdout) if text in line), None)
      if found is not None:
        return found
      assert not ended and time.monotonic() < deadline, f'no {text!r} in\n{self.output()}'
      time.sleep(0.02)

  def signal(self, number):
    """Sends a signal to the process."""
    self.process.send_signal(number)

  def ended(self, seconds=SECONDS):
    """Waits for the end, and returns the exit code; fails if it does not come."""
    try:
      code = self.process.wait(seconds)
    except subprocess.TimeoutExpired:
      raise AssertionError(f'still running after {seconds} s:\n{self.output()}') from None
    for reader in self._readers:
      reader.join(5)
    return code

  def errors(self):
    """List of the lines on stderr that are the program's own errors."""
    return [line for line in self.stderr if line.startswith('error: ')]

  def output(self):
    """All output so far, as text."""
    return '\n'.join([f'{self.process.args}', *self.stdout, '-- stderr', *self.stderr])

  def destroy(self):
    """Kills the process and its children, also if they are stopped."""
    with contextlib.suppress(ProcessLookupError):
      os.killpg(self.process.pid, signal.SIGKILL)
    self.process.kill()  # if it has no group yet
    self.process.wait()


@contextlib.contextmanager
def started(count, *words, each=lambda number: [], environ=None, tf_config=False, fork=True):
  """Starts machines; kills those that still run at the end of the block.

  Args:
    count: number of machines.
    *words: the script and its flags.
    each: `each(number)` returns a list of further flags of a machine.
    environ: dict, environment variables beside those of the tests.
    tf_config: whether TF_CONFIG tells the machines their addresses, instead of --workers and --worker.
    fork: whether they are Forks; others start slowly, and end as a user's do.

  Yields:
    list of Machine.
  """
  addresses, machines = free_addresses(count), []
  try:
    for number in range(count):
      flags = [f'--workers={",".join(addresses)}', f'--worker={number}']
      config = json.dumps({'cluster': {'worker': addresses}, 'task': {'type': 'worker', 'index': number}})
      machines.append(Machine(
          [*map(str, [*words, *each(number), *([] if tf_config else flags)])],
          {**(environ or {}), **({'TF_CONFIG': config} if tf_config else {})}, fork))
    yield machines
  finally:
    for machine in machines:
      machine.destroy()
