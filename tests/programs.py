"""Running the project's programs inside the tests' own process."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Result:
  """What a program left: its exit code and what it printed."""
  returncode: int
  stdout: str
  stderr: str


def assert_refused(result, *parts):
  """Asserts that a program ended with exit code 1 and one line on stderr, an error that holds all of `parts`."""
  assert result.returncode == 1, result.stdout + result.stderr
  lines = result.stderr.strip().splitlines()
  assert len(lines) == 1 and lines[0].startswith('error: '), result.stderr
  for part in parts:
    assert part in lines[0], lines[0]
