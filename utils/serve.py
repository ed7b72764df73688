"""Serves a trained run by HTTP, on this machine alone by default, with a page for browsers.

    python -m utils.serve --ckpt=runs/camvid-inception_v3-8s
    curl --data-binary @photo.jpg http://127.0.0.1:8000/label > label.png
    curl -F picture=@photo.jpg http://127.0.0.1:8000/classes
    curl --data-binary @photo.jpg 'http://127.0.0.1:8000/overlay?alpha=0.4' > overlay.png

docs/serving.md describes requests, answers and limits.
"""

import sys

from utils.serving.settings import ServeSettings
from utils.settings import run


def work(settings):
  """Serves; `settings` is a ServeSettings. Returns the exit code."""
  from utils.serving.server import serve  # needs packages that the settings ask for

  return serve(settings)


def main(argv=None):
  """Serves a run.

  Args:
    argv: list of str, the command line without the program's name; None for the process's own.

  Returns:
    the exit code: 130 after Ctrl-C, 143 after SIGTERM.
  """
  return run(work, ServeSettings, argv, text=__doc__)


if __name__ == '__main__':
  sys.exit(main())
