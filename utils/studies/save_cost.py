"""Measures how long a training stands still while it saves a checkpoint, as a share of the time between two.

    python -m utils.studies.save_cost --ckpt=runs/shapes-demo --folder=/tmp

Variables of the names and shapes in the run's newest checkpoint, with its values, are saved as train.py saves them, and
in turn by TensorFlow's own Saver alone, which does not wait for the disk.
"""

import dataclasses
import os
import sys
import tempfile
import time

from utils.checkpoint_files import newest_checkpoint, open_checkpoint
from utils.compat import tf
from utils.errors import UserError
from utils.session import cpu_config
from utils.settings import Settings, flag, run
from utils.studies.results import row, table
from utils.studies.scripts import seconds
from utils.training.saving import CheckpointFolder
from utils.training.settings import Bookkeeping


@dataclasses.dataclass(frozen=True)
class SaveCostSettings(Settings):
  """Flags of this program."""
  ckpt: str = flag(None, "run's folder", required=True, path=True)
  folder: str = flag('.', 'folder, on the disk that is to be measured, for temporary checkpoints', path=True)
  count: int = flag(5, 'saves of each kind that are timed, after one that is not', least=1)


def measure(settings):
  """Times the saves; `settings` is a SaveCostSettings."""
  prefix = newest_checkpoint(settings.ckpt)
  if prefix is None:
    raise UserError(f'--ckpt={settings.ckpt}: no checkpoint in this folder')
  reader = open_checkpoint(prefix)
  with tf.Graph().as_default(), tempfile.TemporaryDirectory(dir=settings.folder) as folder:
    variables = [tf.get_variable(name, shape, reader.get_variable_to_dtype_map()[name])
                 for name, shape in reader.get_variable_to_shape_map().items()]
    own, plain = tf.train.Saver(variables), tf.train.Saver(variables, max_to_keep=Bookkeeping.keep_checkpoints)
    checkpoints = CheckpointFolder(os.path.join(folder, 'own'), own, keep=Bookkeeping.keep_checkpoints)
    os.mkdir(os.path.join(folder, 'own'))
    with tf.Session(config=cpu_config()) as session:
      own.restore(session, prefix)
      kinds = {'train.py': lambda step: checkpoints.save(session, step),
               "TensorFlow's Saver": lambda step: plain.save(
                   session, os.path.join(folder, 'plain'), global_step=step, write_meta_graph=False)}
      times = {kind: [] for kind in kinds}
      for step in range(settings.count + 1):
        for kind, save in kinds.items():
          times[kind].append(seconds(lambda save=save, step=step: save(step), time.perf_counter))
    size = sum(file.stat().st_size for file in os.scandir(os.path.join(folder, 'own'))) / Bookkeeping.keep_checkpoints
  rows = [row('save', kind, 's', values[1:]) for kind, values in times.items()]
  interval = 60 * Bookkeeping.save_minutes
  print(f'{table(rows)}\n{size / 1e6:.0f} MB, every {interval:.0f} s: the training stands still for '
        f'{rows[0]["median"] / interval:.2%} of the time, at most {max(times["train.py"]) / interval:.2%}')


def main(argv=None):
  """Measures; `argv` is the command line without the program's name, None for the process's own."""
  return run(measure, SaveCostSettings, argv, text=__doc__)


if __name__ == '__main__':
  sys.exit(main())
