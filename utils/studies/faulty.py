"""Runs a program under a fault that has to be made within its process; utils/studies/faults.py starts it.

    python -m utils.studies.faulty clock=1e9@5 train.py --dataset=shapes

The faults: `memory=MIB`, no more than so many mebibytes beside what is in use once all modules are imported;
`clock=SECONDS@CALL`, the time of day jumps at that call of time.time, forward or backward; `gpu=CALL`, from that call
of a session on TensorFlow raises what it raises when a GPU is lost.
"""

import importlib
import itertools
import resource
import sys
import time

from utils.errors import UserError
from utils.exits import guarded
from utils.files import text_of

LOST = 'Failed to enqueue async memcpy from device to host: CUDA_ERROR_LAUNCH_FAILED: unspecified launch failure'


def limit_memory(mebibytes):
  """Lets this process have no more than so many mebibytes beside those in use."""
  [size] = [line.split()[1] for line in text_of('/proc/self/status').splitlines() if line.startswith('VmData')]
  most = 1024 * int(size) + round(float(mebibytes) * 2**20)
  resource.setrlimit(resource.RLIMIT_DATA, (most, most))


def jump(text):
  """Lets time.time jump; `text` is 'SECONDS@CALL'."""
  seconds, _, call = text.partition('@')
  calls, own = itertools.count(1), time.time

  def jumping():
    return own() + (float(seconds) if next(calls) >= int(call) else 0.0)

  time.time = jumping


def lose_gpu(call):
  """Lets calls of a session fail as on a lost GPU, from call number `call` on."""
  from tensorflow.python.client import session

  from utils.compat import tf
  calls, own = itertools.count(1), session.BaseSession._run

  def lost(self, *args, **options):
    if next(calls) >= int(call):
      raise tf.errors.InternalError(None, None, LOST)
    return own(self, *args, **options)

  session.BaseSession._run = lost


FAULTS = {'memory': limit_memory, 'clock': jump, 'gpu': lose_gpu}


def main(argv=None):
  """Runs a program; `argv` is a fault, then the program's name and words, None for the process's own."""
  words = sys.argv[1:] if argv is None else argv

  def program():
    kind, _, value = (words[0] if words else '').partition('=')
    if kind not in FAULTS or len(words) < 2:
      raise UserError(f'{" ".join(words)}: a fault and a program are wanted; valid faults are {", ".join(FAULTS)}')
    module = importlib.import_module(words[1].removesuffix('.py'))
    FAULTS[kind](value)
    return module.main(words[2:])

  return guarded(program, typed=argv is None)


if __name__ == '__main__':
  sys.exit(main())
