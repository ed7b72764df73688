"""What this process may use of the machine: cores, memory, disk. Control groups and memory are those of Linux."""

import contextlib
import ctypes
import os
import shutil
import tempfile

from utils.files import text_of
from utils.workers import default_workers


def usable_cores(root='/'):
  """Number of cores that this process may use: by its affinity, and by the quota of its control groups (a container's
  --cpus); a float if the quota is no whole number.

  Args:
    root: folder in which proc/ and sys/ lie.
  """
  cores = min([default_workers(), *_quotas(root)])
  return int(cores) if cores == int(cores) else cores


def memory_limit(root='/'):
  """Bytes that the process's control groups may hold (a container's --memory); None without a limit.

  Args:
    root: as of `usable_cores`.
  """
  total, _ = memory(root)
  limits = [int(text) for folder in _control_groups('memory', root)
            for name in ('memory.max', 'memory.limit_in_bytes')
            if (text := text_of(folder, name)).isdecimal()]
  return min((limit for limit in limits if limit < total), default=None)  # version 1 has a huge number for none


def memory(root='/'):
  """The machine's memory: `(total, available)` in bytes.

  Args:
    root: as of `usable_cores`.

  Raises:
    ValueError: if the system does not say.
  """
  fields = dict(line.split(':', 1) for line in text_of(root, 'proc/meminfo').splitlines() if ':' in line)
  try:
    return tuple(int(fields[name].split()[0]) * 1024 for name in ('MemTotal', 'MemAvailable'))
  except (KeyError, IndexError) as error:
    raise ValueError('no /proc/meminfo') from error


def free_disk(path):
  """Free bytes on the disk of a file or folder, which need not exist yet."""
  path = os.path.abspath(path)
  while not os.path.exists(path):
    path = os.path.dirname(path)
  return shutil.disk_usage(path).free


def writable(folder):
  """Whether files can be created in a folder, found by creating one."""
  try:
    with tempfile.TemporaryFile(dir=folder):
      return True
  except OSError:
    return False


def _quotas(root):
  """Yields the cores that each control group of the process may use, of those that have a quota."""
  for folder in _control_groups('cpu', root):
    both = text_of(folder, 'cpu.max').split() or [
        text_of(folder, f'cpu.cfs_{name}_us') for name in ('quota', 'period')]
    if all(text.isdecimal() for text in both) and int(both[1]):  # 'max' and -1 stand for none
      yield max(int(both[0]) / int(both[1]), 0.01)


def _control_groups(controller, root):
  """Yields the folders of the control groups that the process is in, of a controller 'cpu' or 'memory'.

  A group's limit holds for the groups within it, so these are the group and all around it. In a container the path in
  /proc may be the host's; then only the outermost folder exists, and is the container's own.
  """
  base = os.path.join(root, 'sys/fs/cgroup')
  for line in text_of(root, 'proc/self/cgroup').splitlines():
    _, controllers, path = line.split(':', 2)
    if controllers and controller not in controllers.split(','):
      continue
    place = os.path.join(base, controller) if controllers else base  # version 2 has no names and one tree
    parts = [part for part in path.split('/') if part not in ('', '..')]
    for length in range(len(parts), -1, -1):
      yield os.path.join(place, *parts[:length])


def return_free_memory():
  """Gives free memory back to the system, where the C library is glibc.

  Each of many threads frees into a heap of its own, of which glibc returns only the end: records that tf.data shuffles
  come and go with every epoch, and leave more and more pages behind that are free and still count as used.
  """
  with contextlib.suppress(OSError, AttributeError):
    ctypes.CDLL(None).malloc_trim(0)
