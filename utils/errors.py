"""Errors that a user can correct: one clear line and a non-zero exit code, never a traceback."""

import os
import sys


class UserError(Exception):
  """An error that a user can correct: the message names file, record or flag, the bad value and the valid values."""


def guarded(program):
  """Calls a program and turns a UserError into one line on stderr.

  Args:
    program: function of no arguments; it returns an exit code, None for 0.

  Returns:
    the exit code: 1 after a UserError, or if the reader of the output has gone (`| head`); 130 after Ctrl-C.
  """
  try:
    code = program()
    sys.stdout.flush()
    return code or 0
  except UserError as error:
    print(f'error: {error}', file=sys.stderr)
    return 1
  except KeyboardInterrupt:
    print('interrupted', file=sys.stderr)
    return 130
  except BrokenPipeError:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # discards the rest of the output
    return 1


def listed(names, most=5, separator=', '):
  """Joins names for a message, of many names only the first few: 'a, b, c and 4 more'."""
  names = list(names)
  more = f' and {len(names) - most} more' if len(names) > most else ''
  return separator.join(map(str, names[:most])) + more
