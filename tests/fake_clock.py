"""A clock for tests of timing: time passes only where a test says so."""


class FakeClock:
  """Called, it returns its seconds; `sleep` moves them on."""

  def __init__(self):
    self.now = 0.0

  def __call__(self):
    return self.now

  def sleep(self, seconds):
    self.now += seconds
