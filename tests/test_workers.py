"""utils.workers: order, bounded memory, no TensorFlow in the workers, and an end to them in every case."""

import os
import pathlib
import subprocess
import sys
import textwrap
import threading

import pytest

from utils.errors import UserError
from utils.workers import default_workers, ordered_map, threaded_map


@pytest.mark.parametrize('num_workers', [1, 2])
def test_maps_in_order(num_workers):
  assert list(ordered_map(abs, range(-50, 0), num_workers)) == [(n, -n) for n in range(-50, 0)]


def test_takes_items_only_as_results_are_taken():
  taken = []

  def items():
    for number in range(1000):
      taken.append(number)
      yield number

  results = ordered_map(abs, items(), 2)
  next(results)
  assert len(taken) <= 8
  next(results)
  assert len(taken) <= 9
  results.close()
  assert len(taken) <= 9


def test_threads_map_in_order_and_read_one_item_ahead():
  taken = []

  def items():
    for number in range(50):
      taken.append(number)
      yield number

  results = threaded_map(lambda number: -number, items(), 2)
  assert next(results) == 0 and len(taken) == 3
  assert list(results) == [-number for number in range(1, 50)]
  assert list(threaded_map(abs, [], 2)) == []


def test_threads_work_side_by_side():
  barrier = threading.Barrier(3, timeout=10)  # breaks unless three wait at a time
  assert len(list(threaded_map(lambda item: barrier.wait(), range(9), 3))) == 9


def test_an_exception_in_a_thread_comes_through_in_its_place():
  results = threaded_map(lambda number: 6 // number, [3, 2, 0, 1], 2)
  assert [next(results), next(results)] == [2, 3]
  with pytest.raises(ZeroDivisionError):
    next(results)


def test_threads_that_are_given_up_begin_nothing_more():
  done = []
  results = threaded_map(lambda number: done.append(number), iter(range(100)), 1)
  next(results)
  results.close()
  assert len(done) <= 3 and threading.active_count() < 50


def test_workers_do_not_import_the_modules_of_this_process():
  import utils.compat  # noqa: F401  (TensorFlow, which pytest's own process has loaded)
  assert 'tensorflow' in sys.modules
  loaded = dict(ordered_map(eval, ["'tensorflow' in __import__('sys').modules"] * 3, 2))
  assert set(loaded.values()) == {False}


def test_a_dead_worker_is_an_error_not_a_hang():
  with pytest.raises(UserError, match='worker process was killed'):
    list(ordered_map(os._exit, [3] * 4, 2))


def test_an_exception_of_the_function_comes_through():
  with pytest.raises(ZeroDivisionError):
    list(ordered_map(eval, ['1', '1 // 0', '2'], 2))


def test_workers_end_with_a_parent_that_is_killed():
  root = pathlib.Path(__file__).resolve().parent.parent
  script = textwrap.dedent("""
      import os, signal
      from utils.workers import ordered_map
      for item, _ in ordered_map(abs, range(1000), 2):
        if item == 20:
          os.kill(os.getpid(), signal.SIGKILL)
      """)
  parent = subprocess.Popen([sys.executable, '-c', script], cwd=root, stdout=subprocess.PIPE)
  parent.communicate(timeout=30)  # ends only when no worker holds the pipe any more
  assert parent.returncode == -9


def test_counts_the_cores_of_this_process():
  assert 1 <= default_workers() <= os.cpu_count()
