"""Exports a trained network: a SavedModel, a frozen graph (.pb), or a file for ONNX Runtime, OpenVINO or LiteRT.

    python -m utils.export --ckpt=runs/camvid-inception_v3-8s --format=onnx
    python -m utils.export --ckpt=runs/camvid-inception_v3-8s --format=tflite --quantize=int8_weights
    python -m utils.export --ckpt=runs/camvid-inception_v3-8s --format=all

Each file is loaded again by its own engine, and its labels are compared with those of inference.py on images of a
split. Below the share that has to agree, it is kept under another name, and the exit code is 1. See docs/export.md.
"""

import sys

from utils.export.run import export
from utils.export.settings import ExportSettings
from utils.settings import run


def main(argv=None):
  """Exports; `argv` is the command line without the program's name, None for the process's own."""
  return run(export, ExportSettings, argv, text=__doc__)


if __name__ == '__main__':
  sys.exit(main())
