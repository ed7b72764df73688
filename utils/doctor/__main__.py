"""Says in one screen what this machine gives to training: TensorFlow, GPUs, CPU, memory, disk, packages.

    python -m utils.doctor

The exit code is 0 unless something that training needs is missing; a GPU is not needed. What cannot be found out is
said with the reason. TensorFlow and the driver are asked in processes of their own, with limits of time.
"""

import sys
import textwrap

from utils.doctor.facts import gather
from utils.doctor.findings import missing_for_training, rows_of
from utils.errors import UserError
from utils.exits import guarded

WIDTH = 120  # of the screen, in characters


def examine():
  """Prints what this machine gives. Returns the exit code."""
  facts = gather()
  for title, text in rows_of(facts):
    print(textwrap.fill(f'{title:12}{text}', WIDTH, subsequent_indent=14 * ' ', break_on_hyphens=False,
                        break_long_words=False))
  missing = missing_for_training(facts)
  print(f'\nmissing for training: {"; ".join(missing)}' if missing else '\nready to train')
  return 1 if missing else 0


def main(argv=None):
  """Examines this machine.

  Args:
    argv: list of str, the command line without the program's name; None for the process's own.

  Returns:
    the exit code: 1 if something that training needs is missing.
  """
  words = sys.argv[1:] if argv is None else argv

  def program():
    if words and words[0] in ('--help', '-h'):
      return print(__doc__.strip())
    if words:
      raise UserError(f'unexpected argument {words[0]!r}; there are no flags')
    return examine()

  return guarded(program, typed=argv is None)


if __name__ == '__main__':
  sys.exit(main())
