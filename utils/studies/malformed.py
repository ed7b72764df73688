"""Requests that no honest client sends, by kind, and the answers to them; for serve_load.py and the tests."""

import contextlib
import io
import json
import re
import socket
import struct
import time
import zlib

import numpy as np
from PIL import Image

BOUNDARY = 'frontier'
SIDE = 20_000  # height and width of the bomb in pixels
_HUGE = 2**31 - 1  # height and width that a header claims
SECONDS = 60.0  # for an answer


class Pictures:
  """Good and bad pictures to make requests of.

  Attributes:
    png, jpeg: a good picture.
    bomb: a PNG that is small as a file and large as a picture.
  """

  def __init__(self, size=(60, 80)):
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    self.png, self.jpeg = (_encoded(Image.fromarray(pixels), form) for form in ('PNG', 'JPEG'))
    self.bomb = _png(SIDE, SIDE, bits=1, color=0, data=bytes(SIDE * (1 + SIDE // 8)))


def _encoded(image, form):
  file = io.BytesIO()
  image.save(file, form)
  return file.getvalue()


def _png(width, height, *, bits=8, color=2, data=bytes(1000)):
  """A PNG; unless its rows are given as `data`, its header is all there is to it."""
  head = b'IHDR' + struct.pack('>IIBBBBB', width, height, bits, color, 0, 0, 0)
  chunks = (struct.pack('>I', len(chunk) - 4) + chunk + struct.pack('>I', zlib.crc32(chunk))
            for chunk in (head, b'IDAT' + zlib.compress(data), b'IEND'))
  return b'\x89PNG\r\n\x1a\n' + b''.join(chunks)


def _bmp(width, height):
  head = struct.pack('<IHHIIiiHHIIiiII', 1078, 0, 0, 54, 40, width, height, 1, 24, 0, 1024, 0, 0, 0, 0)
  return b'BM' + head + bytes(1024)


def _gif(width, height):
  return b'GIF89a' + struct.pack('<HHBBB', width & 0xffff, height & 0xffff, 0, 0, 0) + b'\x2c' + struct.pack(
      '<HHHHB', 0, 0, width & 0xffff, height & 0xffff, 0) + b'\x02\x02\x4c\x01\x00\x3b'


def _tiff(width, height):
  tags = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 8),
          (277, 3, 1, 1), (278, 4, 1, height), (279, 4, 1, 100)]
  return b'II*\0' + struct.pack('<I', 8) + struct.pack('<H', len(tags)) + b''.join(
      struct.pack('<HHII', *tag) for tag in tags) + bytes(104)


def post(body, path='/label', **headers):
  """The bytes of a request; `headers` with _ for -."""
  lines = {'Host': 'localhost', 'Content-Length': len(body), **{name.replace('_', '-'): value
                                                                for name, value in headers.items()}}
  head = ''.join(f'{name}: {value}\r\n' for name, value in lines.items() if value is not None)
  return f'POST {path} HTTP/1.1\r\n{head}\r\n'.encode('latin-1') + body


def _form(parts, boundary=BOUNDARY, end=True):
  """A form; `parts` are pairs of the value of Content-Disposition and the content."""
  body = b''.join(f'--{BOUNDARY}\r\nContent-Disposition: {head}\r\n\r\n'.encode() + data + b'\r\n'
                  for head, data in parts)
  body = body + f'--{BOUNDARY}--\r\n'.encode() if end else body[:-2]
  return post(body, Content_Type=f'multipart/form-data{f"; boundary={boundary}" if boundary else ""}')


def _wrong_form(rng, pictures):
  head, data = 'form-data; name="picture"; filename="a.png"', pictures.png
  return [
      lambda: _form([(head, data)], boundary=None),
      lambda: _form([(head, data)], boundary='another'),
      lambda: _form([(head, data)], boundary='x' * 300),
      lambda: _form([('form-data; name="picture"', data)]),
      lambda: _form([(head, data), (head, data)]),
      lambda: _form([(head, data)], end=False),
      lambda: _form([(head, b'')]),
      lambda: _form([('form-data; name="a"', b'b')] * 100),
      lambda: _form([(head + '; x=' + 'y' * 9000, data)]),
  ][rng.integers(9)]()


def _wrong_type(rng, pictures):
  return post([b'hello, world', b'<html><body></body></html>', b'%PDF-1.7\n' + bytes(2000), b'PK\3\4' + bytes(500),
               rng.bytes(5000), b'%!PS-Adobe-3.0 EPSF-3.0\n', b'\0', b'II*\0', b'RIFF' + bytes(40)][rng.integers(9)],
              Content_Type='image/jpeg')


def _cut(rng, pictures):
  data = (pictures.png, pictures.jpeg)[rng.integers(2)]
  return post(data[:rng.integers(1, len(data) * 9 // 10)])


def _flipped(rng, pictures):
  """A PNG, whose checksums find what is changed behind its signature."""
  data = bytearray(pictures.png)
  data[rng.integers(16, len(data) - 12)] ^= 1 << rng.integers(8)
  return post(bytes(data))


def _no_http(rng, pictures):
  return [b'GARBAGE\r\n\r\n', rng.bytes(400) + b'\r\n\r\n', b'POST /label HTTP/9.9\r\n\r\n',
          b'POST /label HTTP/1.1\r\nHost: a\r\nContent-Length: -5\r\n\r\n',
          b'POST /label HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcde',
          b'POST /label HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n',
          b'POST /label HTTP/1.1\r\nHost: a\r\nBad Header\r\n\r\n'][rng.integers(7)]


def _elsewhere(rng, pictures):
  return [post(pictures.png, '/nowhere'), post(pictures.png, '/../../etc/passwd'), post(pictures.png, '/metrics'),
          b'PUT /label HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n', post(pictures.png, '/overlay?alpha=two'),
          post(pictures.png, '/overlay?alpha=nan'), post(pictures.png, '/label?alpha=1'),
          post(pictures.png, Content_Encoding='gzip')][rng.integers(8)]


KINDS = {  # kind -> function of a numpy Generator and Pictures, returns the bytes of a request
    'cut': _cut,
    'flipped bits': _flipped,
    'wrong type': _wrong_type,
    'huge by its header': lambda rng, pictures: post((_png, _bmp, _gif, _tiff)[rng.integers(4)](_HUGE, _HUGE)),
    'bomb': lambda rng, pictures: post(pictures.bomb),
    'empty': lambda rng, pictures: post(b''),
    'wrong form': _wrong_form,
    'too long': lambda rng, pictures: post(bytes(2**16), Content_Length=10**9, Expect='100-continue'),
    'no HTTP': _no_http,
    'long head': lambda rng, pictures: post(b'', X=('y' * 100_000)),
    'elsewhere': _elsewhere,
    'slow body': lambda rng, pictures: post(pictures.png[:100], Content_Length=len(pictures.png)),
    'slow head': lambda rng, pictures: b'POST /label HTTP/1.1\r\nHost: local',
}


def answer(address, request, seconds=SECONDS):
  """Sends the bytes of a request and waits for the answer.

  Args:
    address: (host, port).
    request: bytes.
    seconds: time for the answer.

  Returns:
    (status, error): the status, and the reason of its JSON; (None, '') where the connection ended without an answer.
  """
  with socket.create_connection(address, timeout=seconds) as connection:
    data, end = b'', time.monotonic() + seconds
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # before its end; the answer may be there
      connection.sendall(request)
    with contextlib.suppress(ConnectionResetError):
      while time.monotonic() < end and not _whole(data):
        part = connection.recv(2**16)
        if not part:
          break
        data += part
  head = re.match(rb'HTTP/1\.1 (\d{3})', data)
  if not head:
    return None, ''
  try:
    return int(head[1]), json.loads(data.partition(b'\r\n\r\n')[2])['error']
  except (ValueError, KeyError, TypeError):
    return int(head[1]), ''


def _whole(data):
  head, separator, body = data.partition(b'\r\n\r\n')
  length = re.search(rb'\r\ncontent-length: (\d+)', head, re.IGNORECASE)
  return bool(separator) and length is not None and len(body) >= int(length[1])
