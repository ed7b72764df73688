"""The server in this process, in a thread, for tests; and requests to it."""

import contextlib
import http.client
import io
import json
import queue
import threading

import numpy as np
from PIL import Image

SECONDS = 60  # for whatever a test waits for


class Running:
  """A server that runs.

  Attributes:
    port: its port on loopback.
    server: its uvicorn.Server.
    code: its exit code, or what it raised; None while it runs.
  """

  def __init__(self, settings):
    from utils.serving.server import serve

    self.code, started = None, queue.Queue()

    def work():
      try:
        self.code = serve(settings, started=lambda *both: started.put(both))
      except BaseException as error:
        self.code = error
        started.put((None, None))

    self.thread = threading.Thread(target=work)
    self.thread.start()
    self.server, self.port = started.get(timeout=SECONDS)

  def stop(self):
    if self.server is not None:
      self.server.should_exit = True
    self.thread.join(SECONDS)
    assert not self.thread.is_alive()

  def connect(self):
    """A connection, closed with its block."""
    return contextlib.closing(http.client.HTTPConnection('127.0.0.1', self.port, timeout=SECONDS))

  def ask(self, path, body=None, method=None, **headers):
    """Sends a request on a connection of its own; `headers` with _ for -. Returns (response, its bytes)."""
    with self.connect() as connection:
      connection.request(method or ('GET' if body is None else 'POST'), path, body,
                         {name.replace('_', '-'): value for name, value in headers.items()})
      response = connection.getresponse()
      return response, response.read()

  def refusal(self, *arguments, **options):
    """The status and the error of a request as of `ask`, which must be refused by a JSON in one line."""
    response, data = self.ask(*arguments, **options)
    assert response.getheader('Content-Type') == 'application/json', data
    [(key, reason)] = json.loads(data).items()
    assert key == 'error' and reason and '\n' not in reason
    return response.status, reason

  def metric(self, name):
    """The value of a line of the metrics, 0.0 where it is not there."""
    _, data = self.ask('/metrics')
    return next((float(line.rpartition(' ')[2]) for line in data.decode().splitlines()
                 if line.rpartition(' ')[0] == name), 0.0)

  def wait(self, reached):
    """Waits until `reached()` is true."""
    for _ in range(SECONDS * 50):
      if reached():
        return
      threading.Event().wait(0.02)
    raise AssertionError('it took too long')

  def until_ready(self):
    """Waits for the network."""
    self.wait(lambda: self.code is not None or self.ask('/readyz')[0].status == 200)
    assert self.code is None, self.code


@contextlib.contextmanager
def running(ckpt, *flags, ready=True):
  """Runs the server of a run while the block runs; yields a Running, by default when the network is loaded."""
  from utils.serving.settings import ServeSettings
  from utils.settings import parse

  found = Running(parse(ServeSettings, [f'--ckpt={ckpt}', '--port=0', '--decoders=1', *flags]))
  try:
    if ready:
      found.until_ready()
    yield found
  finally:
    found.stop()


def encoded(pixels, form='PNG', **options):
  """The bytes of a picture."""
  file = io.BytesIO()
  Image.fromarray(pixels).save(file, form, **options)
  return file.getvalue()


def decoded(data):
  """The pixels of a picture; of one with a palette, the values."""
  with Image.open(io.BytesIO(data)) as picture:
    return np.asarray(picture)


def form(data, name='photo.png', boundary='frontier'):
  """A form with a field and a file: its bytes, and the value of Content-Type."""
  body = (f'--{boundary}\r\nContent-Disposition: form-data; name="a"\r\n\r\nb\r\n--{boundary}\r\nContent-Disposition: '
          f'form-data; name="picture"; filename="{name}"\r\nContent-Type: image/png\r\n\r\n').encode()
  return body + data + f'\r\n--{boundary}--\r\n'.encode(), f'multipart/form-data; boundary="{boundary}"'


def pixels(height, width, seed=0):
  """A smooth random picture, uint8 [height, width, 3]."""
  small = np.random.default_rng(seed).integers(0, 256, (3, 4, 3)).astype(np.uint8)
  return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))
