"""The reason why a request is not answered as asked."""


class Refused(Exception):
  """A request that is refused.

  Attributes:
    status: the status of the answer, from 400.
    reason: the reason in a line.
    retry_after: seconds after which the same request may succeed; None where it never will.
  """

  def __init__(self, status, reason, retry_after=None):
    super().__init__(reason)
    self.status, self.reason, self.retry_after = status, reason, retry_after
