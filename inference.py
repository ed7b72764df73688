"""Labels photographs with a trained network: label PNGs, and overlays with a legend of the classes present.

    python inference.py --ckpt=runs/voc-inception_v3-8s --output_dir=predictions photo.jpg folder 'more/*.png'
    python inference.py --ckpt=runs/voc-inception_v3-8s --samples=40 photo.jpg
    python inference.py --ckpt=runs/voc-inception_v3-8s --crf photo.jpg
    python inference.py --ckpt=runs/voc-inception_v3-8s --test_flip --test_scales=0.75,1,1.25 photo.jpg
    python inference.py --ckpt=runs/voc-inception_v3-8s --rank folder
    python inference.py --ckpt=runs/voc-inception_v3-8s --submission --list=test.txt VOC2012/JPEGImages
"""

import sys

from utils.inference.run import label
from utils.inference.settings import InferenceSettings
from utils.settings import run


def main(argv=None):
  """Labels photographs.

  Args:
    argv: list of str, the command line without the script's name; None for the process's own.

  Returns:
    the exit code: 1 if an input could not be used.
  """
  return run(label, InferenceSettings, argv, text=__doc__)


if __name__ == '__main__':
  sys.exit(main())
