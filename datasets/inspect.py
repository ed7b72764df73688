"""The command `python -m datasets.inspect`; see datasets/inspection.py."""

import sys

from datasets.inspection import main

if __name__ == '__main__':
  sys.exit(main())
