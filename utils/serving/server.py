"""Runs the server: listens, loads the network, answers until it is stopped."""

import contextlib
import ipaddress
import logging
import signal
import socket
import sys
import threading

import uvicorn

from utils.errors import UserError
from utils.inference.run import with_reading
from utils.runs import load_run
from utils.serving.app import make_app
from utils.serving.protocol import protocol
from utils.serving.service import Service
from utils.session import device_line

KEEP_ALIVE_SECONDS = 15  # for which a connection without a request stays open
GRACE_SECONDS = 5.0  # for answers on their way when the server is stopped, beyond the time of a request


def serve(settings, *, started=lambda server, port: None):
  """Serves a run until SIGINT or SIGTERM; requests that were taken are answered first.

  Args:
    settings: a ServeSettings.
    started: called with the uvicorn.Server, whose `should_exit` stops it, and the port, before the first request.

  Returns:
    the exit code: 130 after SIGINT, 143 after SIGTERM, else 0.

  Raises:
    UserError: if the run cannot be used or the address not be listened on.
  """
  run = with_reading(load_run(settings.ckpt), settings.pictures.told)
  service = Service(settings, run)
  failures, signals = [], []
  with _listening(settings.host, settings.port) as listener:
    port = listener.getsockname()[1]
    _say(settings, port)
    server = uvicorn.Server(_config(service, settings))

    def load():
      try:
        service.load()
        print(f'ready: {run.named}, {len(run.classes)} classes; '
              f'{device_line(settings.device)}', flush=True)
      except BaseException as error:
        failures.append(error)
        server.should_exit = True

    loader = threading.Thread(target=load, name='loader')
    loader.start()
    started(server, port)
    try:
      with _handling(signals, server):
        server.run(sockets=[listener])
    finally:
      loader.join()
      service.close()
  if failures:
    raise failures[0]
  print(f'stopped; {server.server_state.total_requests} requests were answered', flush=True)
  return 128 + signals[0] if signals else 0


def _config(service, settings):
  limits = settings.limits
  logging.getLogger('uvicorn.error').setLevel(logging.ERROR)  # its warnings are about what clients do
  return uvicorn.Config(
      make_app(service, settings), loop='asyncio', ws='none', lifespan='off', log_config=None, access_log=False,
      http=protocol(limits.upload_seconds, lambda status: service.metrics.requests.labels('other', status).inc()),
      server_header=False, proxy_headers=False, timeout_keep_alive=KEEP_ALIVE_SECONDS,
      timeout_graceful_shutdown=int(limits.request_seconds + GRACE_SECONDS))


def _listening(host, port):
  """A socket that listens. Raises UserError if the address cannot be had."""
  try:
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    return socket.create_server(address[:2], family=family, backlog=128)
  except (OSError, UnicodeError) as error:
    reason = getattr(error, 'strerror', None) or error
    raise UserError(f'--host={host} --port={port}: cannot listen there: {reason}') from error


def _say(settings, port):
  """Prints the address, and a warning where it can be reached from other machines."""
  host = settings.host
  shown = f'[{host}]' if ':' in host else host
  print(f'http://{shown}:{port}/ is the page; the network is being loaded (Ctrl-C stops)', flush=True)
  if not _is_loopback(host):
    print(f'warning: --host={host}: everybody who reaches this machine can send pictures, without a password and '
          'without encryption; put a proxy with both in front of it, or leave --host out', file=sys.stderr, flush=True)


def _is_loopback(host):
  if host == 'localhost':
    return True
  try:
    return ipaddress.ip_address(host).is_loopback
  except ValueError:
    return False


@contextlib.contextmanager
def _handling(signals, server):
  """Notes the signals that uvicorn raises again when it has stopped for them, which would end the process."""
  if threading.current_thread() is not threading.main_thread():
    yield
    return

  def note(number, frame):
    signals.append(number)
    server.should_exit = True  # for one that comes before uvicorn's own handlers

  previous = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
  try:
    yield
  finally:
    for number, handler in previous.items():
      signal.signal(number, handler)
