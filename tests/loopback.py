"""A web server on loopback for tests of downloads."""

import contextlib
import functools
import http.server
import threading


class _Handler(http.server.SimpleHTTPRequestHandler):

  def log_message(self, *args):
    pass


@contextlib.contextmanager
def serve(folder):
  """Serves the files of `folder` while the block runs; yields the address, which ends with a slash."""
  server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), functools.partial(_Handler, directory=str(folder)))
  thread = threading.Thread(target=server.serve_forever, kwargs={'poll_interval': 0.02})
  thread.start()
  try:
    yield f'http://127.0.0.1:{server.server_port}/'
  finally:
    server.shutdown()
    server.server_close()
    thread.join()
