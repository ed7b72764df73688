"""Evaluates a trained network on a split: table, metrics-SPLIT.json, confusion matrix and examples as pictures.

    python evaluate.py --ckpt=runs/voc-inception_v3-8s --split=val
    python evaluate.py --ckpt=runs/voc-inception_v3-8s --details
    python evaluate.py --ckpt=runs/voc-inception_v3-8s --test_flip --test_scales=0.75,1,1.25
    python evaluate.py --ckpt=runs/voc-inception_v3-8s --fit_temperature
"""

import sys

from utils.evaluation.run import evaluate
from utils.evaluation.settings import EvaluateSettings
from utils.settings import run


def main(argv=None):
  """Evaluates.

  Args:
    argv: list of str, the command line without the script's name; None for the process's own.

  Returns:
    the exit code.
  """
  return run(evaluate, EvaluateSettings, argv, text=__doc__)


if __name__ == '__main__':
  sys.exit(main())
