"""The command `python -m datasets.inspect`; see datasets/inspection.py."""

from datasets import inspection
from utils import errors

if __name__ == '__main__':
  inspection._define_flags()
  errors.run(inspection.main)
