"""Running the project's programs inside the tests' own process."""

import contextlib
import dataclasses
import io


@dataclasses.dataclass(frozen=True)
class Result:
  """Exit code and output of a program."""
  returncode: int
  stdout: str
  stderr: str


class _Watched(io.StringIO):
  """A text stream that calls `seen(text so far)` after every line."""

  def __init__(self, seen):
    super().__init__()
    self._seen = seen

  def write(self, text):
    super().write(text)
    if '\n' in text:
      self._seen(self.getvalue())
    return len(text)


def run(main, *arguments, seen=lambda text: None):
  """Calls a program's `main` in this process.

  Args:
    main: `main(argv)` -> exit code.
    *arguments: words of the command line.
    seen: `seen(text)` is called with all that the program has printed, after every line on stdout.

  Returns:
    a Result.
  """
  stdout, stderr = _Watched(seen), io.StringIO()
  with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
    returncode = main([str(argument) for argument in arguments])
  return Result(returncode, stdout.getvalue(), stderr.getvalue())


def assert_refused(result, *parts):
  """Asserts that a program ended with exit code 1 and one line on stderr, an error that holds all of `parts`."""
  assert result.returncode == 1, result.stdout + result.stderr
  lines = result.stderr.strip().splitlines()
  assert len(lines) == 1 and lines[0].startswith('error: '), result.stderr
  for part in parts:
    assert part in lines[0], lines[0]
