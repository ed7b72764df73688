"""Runs train.py and evaluate.py from a study: to their end, timed, or with their memory watched."""

import contextlib
import os
import random
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time

import numpy as np

from utils.errors import UserError
from utils.files import ROOT
from utils.progress import STEP_LINE

SAMPLE_SECONDS = 0.25  # seconds between two readings of a process's memory


def command(script, options):
  """The command that runs a script of the project (train.py), or a module (utils.studies.gpu_part), with its words."""
  return [sys.executable, *([os.path.join(ROOT, script)] if script.endswith('.py') else ['-m', script]), *options]


def free_addresses(count):
  """List of addresses on loopback whose ports are free, below those that systems give to connections by themselves."""
  with contextlib.ExitStack() as stack:
    found = []
    for port in random.SystemRandom().sample(range(15000, 32000), 500):
      probe = stack.enter_context(socket.socket())
      with contextlib.suppress(OSError):
        probe.bind(('', port))
        found.append(f'127.0.0.1:{port}')
      if len(found) == count:
        return found
  raise UserError('no free ports on this machine')


def run(script, options, log, *, launch=subprocess.Popen):
  """Runs a script of the project to its end.

  A terminal sends Ctrl-C to the script as well; SIGTERM reaches the study alone and is passed on. In both cases the
  script gets the time to save, until a second signal kills it.

  Args:
    script: name of the script, or of a module.
    options: list of its flags.
    log: file for its output.
    launch: takes the place of subprocess.Popen in tests.

  Returns:
    the exit code.

  Raises:
    KeyboardInterrupt, SystemExit: as received by the study, once the script has ended.
  """
  with launch(command(script, options), stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL) as process:
    try:
      return process.wait()
    except KeyboardInterrupt:
      process.wait()
      raise
    except SystemExit:
      process.terminate()
      process.wait()
      raise
    finally:
      process.kill()  # does nothing to a script that has ended
      process.wait()


def cpu_seconds():
  """CPU time of all children of this process that have ended."""
  usage = resource.getrusage(resource.RUSAGE_CHILDREN)
  return usage.ru_utime + usage.ru_stime


def seconds(function, clock=time.perf_counter):
  """Seconds of `clock` that a call of `function()` takes."""
  start = clock()
  function()
  return clock() - start


def against(words, step, *, block, blocks, warmup_blocks, launch=subprocess.Popen, clock=time.perf_counter):
  """Times a training script and a function in turn, a block of steps of each.

  The script and all its threads are stopped while the function runs, so that its pipeline cannot work ahead.

  Args:
    words: the script's command; it prints a line 'step N...' after every `block` steps, and is killed at the end.
    step: function of no arguments that runs a step.
    block: number of steps in a block.
    blocks: number of timed blocks of each, after `warmup_blocks` of the script.
    warmup_blocks: number of untimed blocks of the script after the first, which includes the start.
    launch: takes the place of subprocess.Popen in tests.
    clock: function that returns seconds.

  Returns:
    two lists of seconds per step, a number for each block: the script's and the function's.

  Raises:
    UserError: if the script ends; gives its last line.
  """
  loop, bare = [], []
  with launch(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as script:
    try:
      for _ in range(1 + warmup_blocks):
        _await_step(script, words)
      for _ in range(blocks):
        script.send_signal(signal.SIGSTOP)
        bare.append(seconds(lambda: [step() for _ in range(block)], clock) / block)
        script.send_signal(signal.SIGCONT)
        loop.append(seconds(lambda: _await_step(script, words), clock) / block)
    finally:
      script.kill()
  return loop, bare


def sides_in_turn(sides, *, block, blocks, warmup_blocks, clock=time.perf_counter):
  """Times trainings in turn, a block of steps of each; all processes of the others stand still meanwhile.

  Args:
    sides: dict from name to a list of processes, each a subprocess.Popen; the first prints a line 'step N...' after
      every `block` steps to its pipe.
    block: number of steps in a block.
    blocks: number of timed blocks of each, after `warmup_blocks`.
    warmup_blocks: number of untimed blocks of each after the first, which includes the start.
    clock: function that returns seconds.

  Returns:
    dict from name to seconds per step, a number for each block.

  Raises:
    UserError: if a process ends; gives its last line.
  """
  times = {name: [] for name in sides}
  for number in range(1 + warmup_blocks + blocks):
    for name, processes in sides.items():
      for process in processes:
        process.send_signal(signal.SIGCONT)
      taken = seconds(lambda script=processes[0]: _await_step(script, script.args), clock) / block
      for process in processes:
        process.send_signal(signal.SIGSTOP)
      if number > warmup_blocks:
        times[name].append(taken)
  return times


def _await_step(script, words):
  """Reads a script's output up to the next line of a step."""
  last = 'it printed nothing'
  for line in script.stdout:
    if line.startswith(STEP_LINE):
      return
    last = line.strip() or last
  raise UserError(f'{" ".join(words)} ended too early: {last}')


def resident_memory(pid):
  """Reads a process's resident memory.

  Returns:
    (bytes now, greatest number of bytes so far), Linux's VmRSS and VmHWM; None for a process that has just ended.
  """
  with open(f'/proc/{pid}/status', encoding='utf-8') as file:
    status = dict(line.split(':', 1) for line in file)
  if 'VmHWM' not in status:
    return None
  return tuple(1024 * int(status[name].split()[0]) for name in ('VmRSS', 'VmHWM'))


def watched(words, *, launch=subprocess.Popen, memory=resident_memory, clock=time.perf_counter, sleep=time.sleep):
  """Runs a command and watches its resident memory.

  Args:
    words: the command.
    launch: takes the place of subprocess.Popen in tests.
    memory: takes the place of resident_memory in tests.
    clock: function that returns seconds.
    sleep: function that waits for some seconds.

  Returns:
    the peak in bytes, from the system, and a list of (seconds since the start, bytes) from the first output of the
    command on: the scripts print once their graph is built.

  Raises:
    UserError: if the command fails; gives its last line.
  """
  peak, samples, start = 0, [], clock()
  with (tempfile.TemporaryFile('w+') as output,
        launch(words, stdout=output, stderr=subprocess.STDOUT) as process):
    try:
      while process.poll() is None:
        if sizes := memory(process.pid):
          now, peak = sizes[0], max(peak, *sizes)  # the kernel's peak is corrected downwards at times
          if os.fstat(output.fileno()).st_size:
            samples.append((clock() - start, now))
        sleep(SAMPLE_SECONDS)
    finally:
      process.kill()
    if process.returncode:
      output.seek(0)
      last = (output.read().strip() or 'it printed nothing').splitlines()[-1]
      raise UserError(f'{" ".join(words)} failed: {last}')
  return peak, samples


def growth(sizes):
  """Median of the last quarter of `sizes` minus that of the second quarter; 0 for less than 4 sizes."""
  quarter = len(sizes) // 4
  return float(np.median(sizes[-quarter:]) - np.median(sizes[quarter:2 * quarter])) if quarter else 0.0
