"""Work spread over processes or threads, in order and in constant memory. Imports no TensorFlow, so neither do workers.
"""

import collections
import concurrent.futures
import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import types

from utils.errors import UserError

_IN_FLIGHT = 4  # items per worker, in work or waiting to be taken: keeps workers busy and memory bounded


def default_workers():
  """Number of cores that this process may use."""
  return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def ordered_map(function, items, num_workers):
  """Maps a function over items in several processes.

  Args:
    function: function of one item, in a module other than the script; function and items can be pickled.
    items: iterable.
    num_workers: number of processes; 1 works in the process of the caller.

  Yields:
    (item, result) in the order of `items`. At most a few items per worker are held at any time.

  Raises:
    UserError: if a worker process is killed.
  """
  if num_workers == 1:
    for item in items:
      yield item, function(item)
    return
  context = multiprocessing.get_context('spawn')  # a fork of a process that runs TensorFlow's threads can hang
  pool = concurrent.futures.ProcessPoolExecutor(num_workers, mp_context=context, initializer=_start)
  pending = collections.deque()
  try:
    for item in items:
      with without_main():
        pending.append((item, pool.submit(function, item)))
      if len(pending) >= _IN_FLIGHT * num_workers:
        item, future = pending.popleft()
        yield item, future.result()
    while pending:
      item, future = pending.popleft()
      yield item, future.result()
  except concurrent.futures.process.BrokenProcessPool as error:
    raise UserError('a worker process was killed, perhaps for want of memory; fewer --num_workers need less') from error
  finally:
    pool.shutdown(cancel_futures=True)


def threaded_map(function, items, num_threads):
  """Maps a function over items in threads: for functions that wait for a device while the caller uses their results.

  Args:
    function: function of one item.
    items: iterable, read by the caller's thread.
    num_threads: number of threads.

  Yields:
    the results in the order of `items`. At most one item more than there are threads is held beside the last result.
  """
  pool, pending = concurrent.futures.ThreadPoolExecutor(num_threads), collections.deque()
  try:
    for item in items:
      pending.append(pool.submit(function, item))
      del item
      if len(pending) > num_threads:
        yield pending.popleft().result()
    while pending:
      yield pending.popleft().result()
  finally:
    pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def without_main():
  """Hides the script from a process being spawned, which would import it again, and TensorFlow with it."""
  main = sys.modules['__main__']
  sys.modules['__main__'] = types.ModuleType('__main__')
  try:
    yield
  finally:
    sys.modules['__main__'] = main


def _start():
  """Makes a worker ignore Ctrl-C, which the parent handles, and end when the parent is killed."""
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  end_with_parent()


def end_with_parent():
  """Makes this process end when its parent is killed."""
  threading.Thread(target=_await_end, daemon=True).start()


def _await_end():
  multiprocessing.parent_process().join()
  os._exit(1)
