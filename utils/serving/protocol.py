"""HTTP/1.1 by uvicorn and h11, with bounds on the time for a request's head and for taking an answer."""

import json

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

TAKE_SECONDS = 60.0  # time in which a client must have taken the end of an answer that is left in our buffers


def protocol(head_seconds, count):
  """Makes a protocol class for uvicorn.

  Args:
    head_seconds: seconds in which the head of a request must have come, also of the first on a connection.
    count: `count(status)` is called for each request that is refused here, before the application sees it.
  """
  return type('Protocol', (TimedProtocol,), {'head_seconds': head_seconds, 'count': staticmethod(count)})


class TimedProtocol(H11Protocol):
  """A connection.

  Attributes:
    head_seconds: see `protocol`.
    count: see `protocol`.
  """
  head_seconds = count = None
  _timer = None

  def connection_made(self, transport):
    super().connection_made(transport)
    self._watch()

  def data_received(self, data):
    super().data_received(data)
    self._watch()

  def connection_lost(self, exc):
    super().connection_lost(exc)
    self._rest()

  def _watch(self):
    """Starts the clock where a head is awaited, or has come in part."""
    if self.conn.their_state is not h11.IDLE:
      self._rest()
    elif self._timer is None:
      self._timer = self.loop.call_later(self.head_seconds, self._too_slow)

  def _rest(self):
    if self._timer is not None:
      self._timer.cancel()
      self._timer = None

  def _too_slow(self):
    self._timer = None
    if self.transport.is_closing() or self.conn.their_state is not h11.IDLE:
      return
    if not self.conn.trailing_data[0]:  # nothing has come: browsers open connections ahead
      self.transport.close()
    else:
      self._refuse(408, f'the head of the request did not come within {self.head_seconds:g} s')

  def send_400_response(self, msg):
    """Answers what is no HTTP; called by uvicorn."""
    self._refuse(400, 'this is no valid HTTP request')

  def _refuse(self, status, reason):
    self.count(status)
    body = json.dumps({'error': reason}).encode()
    head = [(b'content-type', b'application/json'), (b'content-length', str(len(body)).encode()),
            (b'connection', b'close')]
    if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
      for event in (h11.Response(status_code=status, headers=head, reason=b''), h11.Data(body), h11.EndOfMessage()):
        self.transport.write(self.conn.send(event))
    self.transport.close()

  def timeout_keep_alive_handler(self):
    """Closes a connection that is not used; one that does not take its answer, too."""
    super().timeout_keep_alive_handler()
    if self.transport.get_write_buffer_size():
      self.loop.call_later(TAKE_SECONDS, self.transport.abort)
