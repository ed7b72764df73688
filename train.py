"""Trains a network: resumes the run in --run_dir, else starts from ImageNet weights, another run, or from scratch.

    python train.py --dataset=voc --skip=8s
"""

import sys

from utils.settings import run
from utils.training.run import train
from utils.training.settings import TrainSettings


def main(argv=None):
  """Trains.

  Args:
    argv: list of str, the command line without the script's name; None for the process's own.

  Returns:
    the exit code: 130 or 143 if the training was interrupted.
  """
  return run(train, TrainSettings, argv, text=__doc__)


if __name__ == '__main__':
  sys.exit(main())
