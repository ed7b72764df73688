"""A user's mistake is one clear line and a non-zero exit code, never a traceback."""

import os
import sys

from absl import app, flags


class UserError(Exception):
  """What a user can put right: the message names the file, record or flag, the bad value and what would be valid."""


def guarded(program):
  """Calls a program and turns what a user can put right into one line on stderr.

  Args:
    program: function of no arguments; it returns an exit code, None for 0.

  Returns:
    the exit code: 1 after a UserError, or where whoever read the output has left (`| head`); 130 after Ctrl-C.
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
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still to be printed goes nowhere
    return 1


def listed(names, most=5, separator=', '):
  """Joins names for a message, the first few of many: 'a, b, c and 4 more'."""
  names = list(names)
  more = f' and {len(names) - most} more' if len(names) > most else ''
  return separator.join(map(str, names[:most])) + more


def run(main):
  """Runs a script's `main(argv)` under absl: flags parsed, and every UserError ends as one line on stderr, exit code 1.

  Args:
    main: function of the arguments left after the flags; `argv[0]` is the script's own name.
  """

  def guarded(argv):
    try:
      return main(argv)
    except UserError as error:
      print(f'error: {error}', file=sys.stderr)
      return 1
    except KeyboardInterrupt:
      print('interrupted', file=sys.stderr)
      return 130
    except BrokenPipeError:
      _drop_output()
      return 1

  app.run(guarded, flags_parser=_parse_flags)


def _parse_flags(argv):
  """Parses flags; a bad one is one line and exit code 1, where absl by itself would print its usage as well."""
  try:
    return flags.FLAGS(argv)
  except flags.Error as error:
    print(f'error: {error} (--help lists all flags)', file=sys.stderr)
    sys.exit(1)
  except BrokenPipeError:
    _drop_output()
    sys.exit(1)


def _drop_output():
  """Sends what is still to be printed nowhere: whoever read it (`| head`) has left."""
  os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
