"""The server's answers to requests, as an ASGI application of Starlette.

    POST /label  /overlay  /classes  /arrays    the picture is the body, or the file of a form
    GET  /                                      the page
    GET  /model  /healthz  /readyz  /metrics
"""

import asyncio
import contextlib
import functools
import gzip
import math
import os
import sys
import time
import traceback

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from utils.exits import problem, reported
from utils.serving.answers import FORMS
from utils.serving.metrics import MEDIA_TYPE
from utils.serving.page_files import FILES, FOLDER, SERVER_POLICY, TYPES
from utils.serving.refusal import Refused

GONE = 499  # status, in the metrics alone, of a request whose client left before the answer
RETRY_SECONDS = 1  # after which a refused client may come again
LOADING_SECONDS = 5  # after which a client may come again while the network is loaded
DISCARD_SECONDS = 2.0  # time in which the rest of a refused request is read, so that its sender reads the answer
HEADERS = {
    'X-Content-Type-Options': 'nosniff', 'Referrer-Policy': 'no-referrer', 'X-Frame-Options': 'DENY',
    'Cross-Origin-Opener-Policy': 'same-origin', 'Permissions-Policy': 'camera=(self), microphone=(), geolocation=()',
    'Content-Security-Policy': SERVER_POLICY, 'Cache-Control': 'no-store'}


def make_app(service, settings):
  """Makes the application.

  Args:
    service: a service.Service.
    settings: a ServeSettings.

  Returns:
    an ASGI application.
  """
  posts = [Route(f'/{path}', functools.partial(_label, service=service, settings=settings, path=path),
                 methods=['POST']) for path in FORMS]
  files = [Route(f'/{"" if name == "index.html" else name}', functools.partial(_file, source=source))
           for name, source in FILES.items()]
  gets = [
      Route('/model', functools.partial(_model, service=service, settings=settings)),
      Route('/healthz', _health),
      Route('/readyz', functools.partial(_readiness, service=service)),
      Route('/metrics', functools.partial(_metrics, service=service)),
  ]
  paths = frozenset(route.path for route in (*posts, *files, *gets))
  middleware = [Middleware(_Outermost, metrics=service.metrics, paths=paths)]
  if settings.cors_origins:
    middleware.append(Middleware(
        CORSMiddleware, allow_origins=settings.cors_origins, allow_methods=('GET', 'POST'), allow_headers=('*',)))
  return Starlette(routes=[*posts, *files, *gets], middleware=middleware,
                   exception_handlers={HTTPException: _not_found})


def refused(status, reason, headers=None):
  """The answer to a request that is refused: a JSON with the reason in one line."""
  return JSONResponse({'error': reason}, status, headers)


async def _not_found(request, error):
  known = ', '.join(f'/{path}' for path in FORMS)
  reason = {404: f'no such address; pictures are posted to {known}',
            405: f'{request.method} is not for {request.url.path[:40]}; valid are {_allowed(error)}'}
  return refused(error.status_code, reason.get(error.status_code, error.detail), error.headers)


def _allowed(error):
  """The methods that an HTTPException says are allowed."""
  return ', '.join(sorted((error.headers or {}).get('Allow', '').split(', ')))


async def _health(request):
  return JSONResponse({'status': 'alive'})


async def _readiness(request, service):
  if not service.ready:
    return refused(503, 'the network is being loaded', {'Retry-After': str(LOADING_SECONDS)})
  return JSONResponse({'status': 'ready'})


async def _metrics(request, service):
  return Response(service.metrics.text(), media_type=MEDIA_TYPE)


async def _model(request, service, settings):
  limits = settings.limits
  return JSONResponse({**service.about.to_json(), 'ready': service.ready, 'max_body_bytes': limits.max_body_bytes,
                       'max_input_pixels': limits.max_input_pixels, 'request_seconds': limits.request_seconds})


async def _file(request, source):
  return FileResponse(os.path.join(FOLDER, source), media_type=TYPES[os.path.splitext(source)[1]],
                      headers={'Cache-Control': 'no-cache'})


class _Body:
  """The body of a request, read with limits.

  Attributes:
    whole: whether it has come to its end.
  """

  def __init__(self, request, limits):
    self._request, self._limits, self._begun, self.whole = request, limits, False, False

  async def read(self):
    """Reads it: bytearray. Raises Refused if it is too large or comes too slowly, ClientDisconnect if it is cut off."""
    length = self._request.headers.get('content-length', '')
    if length.isdecimal():
      self._check(int(length[:18]))  # as good as all of it
    if self._request.headers.get('content-encoding', 'identity').lower() != 'identity':
      raise Refused(415, 'Content-Encoding is not understood; the picture is wanted as it is')
    data = bytearray()

    async def read():
      async for chunk in self._chunks():
        data.extend(chunk)
        self._check(len(data))

    try:
      await asyncio.wait_for(read(), self._limits.upload_seconds)
    except asyncio.TimeoutError as error:
      raise Refused(408, f'the request did not come within {self._limits.upload_seconds:g} s') from error
    return data

  async def _chunks(self):
    self._begun = True
    while not self.whole:
      message = await self._request.receive()
      if message['type'] == 'http.disconnect':
        raise ClientDisconnect
      self.whole = not message.get('more_body')
      yield message.get('body', b'')

  def _check(self, length):
    if length > self._limits.max_body_bytes:
      raise Refused(413, f'the request has {length} bytes or more; valid are up to {self._limits.max_body_bytes}')

  async def discard(self):
    """Reads what still comes and forgets it; not from a client that waits to be asked for it (100-continue)."""

    async def read():
      async for _ in self._chunks():
        pass

    if self._begun or 'expect' not in self._request.headers:
      with contextlib.suppress(asyncio.TimeoutError, ClientDisconnect):
        await asyncio.wait_for(read(), DISCARD_SECONDS)


async def _label(request, service, settings, path):
  """Answers a request for labels."""
  body = _Body(request, settings.limits)
  try:
    with _admitted(service, settings.limits):
      alpha = _alpha(request, FORMS[path], settings)
      return await _labeled(request, body, service, FORMS[path], alpha, settings.limits)
  except ClientDisconnect:
    return Response(status_code=GONE)
  except Refused as refusal:
    if refusal.status != 408:
      await body.discard()
    headers = {} if body.whole else {'Connection': 'close'}
    if refusal.retry_after:
      headers['Retry-After'] = str(refusal.retry_after)
    return refused(refusal.status, refusal.reason, headers)


@contextlib.contextmanager
def _admitted(service, limits):
  """Counts a request while it is in work. Raises Refused if there are too many, or the network is not loaded yet."""
  if not service.ready:
    raise Refused(503, 'the network is being loaded', LOADING_SECONDS)
  if service.in_work >= limits.max_requests:
    raise Refused(429, f'{service.in_work} requests are in work already; try again', RETRY_SECONDS)
  service.in_work += 1
  try:
    yield
  finally:
    service.in_work -= 1


def _alpha(request, form, settings):
  """The weight of the colors in an overlay. Raises Refused if the address has parameters that are not valid."""
  for name in request.query_params:
    if name not in form.parameters:
      raise Refused(422, f'unknown parameter {name[:40]!r}; valid are: {", ".join(form.parameters) or "none"}')
  text = request.query_params.get('alpha')
  try:
    alpha = settings.alpha if text is None else float(text)
  except ValueError:
    alpha = math.nan
  if not 0 <= alpha <= 1:
    raise Refused(422, f'alpha={text[:40]!r}; valid are 0 to 1')
  return alpha


async def _labeled(request, body, service, form, alpha, limits):
  """Reads a request and labels its picture; ends early where the client leaves or the time is over."""
  end = time.monotonic() + limits.request_seconds
  work = asyncio.ensure_future(service.answer(
      await body.read(), request.headers.get('content-type', ''), form, alpha, end))
  gone = asyncio.ensure_future(_leaves(request))
  try:
    await asyncio.wait({work, gone}, timeout=end - time.monotonic(), return_when=asyncio.FIRST_COMPLETED)
    if gone.done() and not work.done():
      raise ClientDisconnect
    if not work.done() or isinstance(work.exception(), TimeoutError):
      raise Refused(504, f'the answer took longer than {limits.request_seconds:g} s')
    return await _response(request, form, work.result())
  finally:
    gone.cancel()
    work.cancel()


async def _leaves(request):
  """Returns when the client has left."""
  while (await request.receive())['type'] != 'http.disconnect':
    pass


async def _response(request, form, answer):
  if form.media_type == 'application/json':
    return JSONResponse(answer)
  headers = {}
  if not form.media_type.startswith('image/') and 'gzip' in request.headers.get('accept-encoding', ''):
    answer = await asyncio.get_running_loop().run_in_executor(None, functools.partial(gzip.compress, answer, 1))
    headers = {'Content-Encoding': 'gzip', 'Vary': 'Accept-Encoding'}
  return Response(answer, media_type=form.media_type, headers=headers)


class _Outermost:
  """Around all else: counts and times requests, adds headers, and answers where the code has failed."""

  def __init__(self, app, metrics, paths):
    self._app, self._metrics, self._paths, self._lines = app, metrics, paths, {}

  async def __call__(self, scope, receive, send):
    if scope['type'] != 'http':
      return
    path = scope['path'] if scope['path'] in self._paths else 'other'
    start, status = time.perf_counter(), None

    async def noting_send(message):
      nonlocal status
      if message['type'] == 'http.response.start':
        status, names = message['status'], {name.lower() for name, _ in message['headers']}
        added = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
        message = {**message, 'headers': [*message['headers'], *(
            pair for pair in added if pair[0] not in names)]}
      if status != GONE:
        await send(message)

    try:
      await self._app(scope, receive, noting_send)
    except Exception as error:
      print(self._line(error), file=sys.stderr, flush=True)
      if status is None:
        await refused(500, 'internal error; the log of the server has more')(scope, receive, noting_send)
    self._metrics.requests.labels(path, status).inc()
    self._metrics.seconds.labels(path).observe(time.perf_counter() - start)

  def _line(self, error):
    """The line about a failure. A log is written of the first of its kind at a place in the code, not of each."""
    wanting = problem(error)
    if wanting:
      return f'error: {wanting}'
    place = traceback.extract_tb(error.__traceback__)[-1]
    kind = type(error), place.filename, place.lineno
    if kind not in self._lines:
      self._lines[kind] = reported(error)
    return self._lines[kind]
