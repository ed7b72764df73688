"""The process of one part of benchmark_gpu.py, which starts it: python -m utils.studies.gpu_part --part=train ...

Beside TensorFlow, PyTorch has to touch the GPU first: hence the late imports.
"""

import json
import sys


def main(argv=None):
  """Measures a part; `argv` is the command line without the program's name, None for the process's own."""
  words = sys.argv[1:] if argv is None else argv
  if any(word.startswith('--part=pytorch') for word in words):
    touch()
  from utils.settings import run
  from utils.studies.gpu_parts import PartSettings

  return run(work, PartSettings, words, text=__doc__)


def touch():
  """Lets PyTorch open the GPU, if both are there."""
  try:
    import torch
  except ImportError:
    return
  if torch.cuda.is_available():
    torch.zeros(1).cuda()


def work(settings):
  """Measures a part and appends its rows to a file; `settings` is a PartSettings."""
  with open(settings.rows, 'a', encoding='utf-8') as file:
    for line in rows_of(settings.part, settings.work_dir, settings):
      file.write(json.dumps(line) + '\n')
      file.flush()


def rows_of(part, work_dir, settings):
  """The rows of a part of GpuSettings, as they are measured."""
  from utils.compat import tf
  from utils.errors import UserError
  from utils.studies import gpu_parts

  parts = gpu_parts.PARTS
  if part in gpu_parts.PYTORCH:
    try:
      from utils.studies import gpu_pytorch
    except ImportError as error:
      raise UserError(f'PyTorch is not installed ({error})') from error
    parts = gpu_pytorch.PARTS
  elif part == 'memory':
    from utils.studies import gpu_memory

    parts = gpu_memory.PARTS
  gpus = tf.config.list_physical_devices('GPU')
  tf.config.set_visible_devices(gpus, 'GPU')  # for TensorFlow's account of memory, which is not a session's
  for gpu in gpus:
    tf.config.experimental.set_memory_growth(gpu, True)
  return parts[part](gpu_parts.make_setup(work_dir, settings), settings)


if __name__ == '__main__':
  sys.exit(main())
