"""The picture in the body of a request. Runs in the processes of `decoders`, without TensorFlow; nothing is trusted."""

import json
import os
import resource
import signal

import numpy as np
from PIL import Image, UnidentifiedImageError
from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

from datasets import windows
from datasets.images import BadFile, read_image
from utils.errors import shown
from utils.serving.refusal import Refused
from utils.workers import end_with_parent

FORM = 'multipart/form-data'
MOST_PARTS = 16  # fields and files of a form
MOST_MEMORY = 4 * 2**30  # bytes of address space of a process that decodes
READY = b'ready'  # the first message of such a process


def picture(body, content_type, reading, max_pixels):
  """Decodes the picture of a request.

  Args:
    body: bytes: the picture as it is, whatever its type is said to be; of a form, the form.
    content_type: value of the header Content-Type; '' without one.
    reading: the Reading of the run's images.
    max_pixels: number of pixels above which a picture is refused.

  Returns:
    an image as of `datasets.images.read_image`.

  Raises:
    Refused: 400 for a broken form or nothing at all, 413 for too many pixels, 415 for what is no picture, 422 for a
      picture that is broken or does not fit the reading.
  """
  kind, options = parse_options_header(content_type)
  if kind.decode('latin-1').lower() == FORM:
    body = file_of_form(body, options.get(b'boundary'))
  if not body:
    raise Refused(400, 'no picture: the body is empty')
  with open(os.memfd_create('picture'), 'wb') as file:  # a file in memory: readers of TIFF want a path
    file.write(body)
    file.flush()
    try:
      return _read(f'/proc/self/fd/{file.fileno()}', reading, max_pixels)
    except BadFile as error:
      raise Refused(_status(error.__cause__), shown(f'the picture {error.reason}')) from error
    except MemoryError as error:
      raise Refused(413, 'the picture takes too much memory to decode') from error


def _read(path, reading, max_pixels):
  header = windows.read_header(path)
  if header:  # saves decoding; the header may lie
    _check_pixels(header.size, max_pixels)
  with windows.pixel_limit(max_pixels):
    image = read_image(path, reading)
  _check_pixels(image.shape[:2], max_pixels)
  return image


def _check_pixels(size, max_pixels):
  if size[0] * size[1] > max_pixels:
    raise Refused(413, f'the picture has {size[1]}x{size[0]} pixels; valid are up to {max_pixels}')


def _status(cause):
  """The status for the cause of a BadFile."""
  if isinstance(cause, Image.DecompressionBombError):
    return 413
  return 415 if isinstance(cause, UnidentifiedImageError) else 422


class _Form:
  """The callbacks of a MultipartParser: keeps the one file of a form.

  Attributes:
    file: bytearray, the file's bytes; None before it began.
    ended: whether the file came to its end.
  """

  def __init__(self):
    self.file, self.ended, self._parts, self._header, self._is_file = None, False, 0, [b'', b''], False

  def begin(self):
    self._parts, self._is_file = self._parts + 1, False
    if self._parts > MOST_PARTS:
      raise Refused(400, f'the form has more than {MOST_PARTS} fields')

  def name(self, data, start, end):
    self._header[0] += data[start:end]

  def value(self, data, start, end):
    self._header[1] += data[start:end]

  def header_end(self):
    name, value = self._header
    self._header = [b'', b'']
    if name.lower() == b'content-disposition' and b'filename' in parse_options_header(value)[1]:
      if self.file is not None:
        raise Refused(400, 'the form has more than one file; one picture a request is wanted')
      self.file, self._is_file = bytearray(), True

  def data(self, data, start, end):
    if self._is_file:
      self.file += data[start:end]

  def end(self):
    self.ended = self.ended or self._is_file


def file_of_form(body, boundary):
  """The bytes of the one file in a form, multipart/form-data (RFC 7578).

  Raises:
    Refused: if the form is broken, or has no file or several.
  """
  form = _Form()
  try:
    if not boundary:
      raise Refused(400, f'{FORM} needs a boundary')
    MultipartParser(boundary, {
        'on_part_begin': form.begin, 'on_header_field': form.name, 'on_header_value': form.value,
        'on_header_end': form.header_end, 'on_part_data': form.data, 'on_part_end': form.end}).write(body)
  except FormParserError as error:
    raise Refused(400, shown(f'the form is broken: {error}')) from error
  if form.file is None:
    raise Refused(400, 'the form has no file; a field with a file name is wanted')
  if not form.ended:
    raise Refused(400, 'the form is cut off within its file')
  return form.file


def answer(connection, reading, max_pixels):
  """Decodes one body after the other; the work of a process, which ends when the other side is gone.

  Messages are plain bytes, for a pickle would let whoever takes over this process take over the server: in come the
  value of Content-Type and the body, out go a JSON with `shape` and `dtype` and the pixels, or one with `status` and
  `reason`; before all of them READY.

  Args:
    connection: a multiprocessing.connection.Connection.
    reading: see `picture`.
    max_pixels: see `picture`.
  """
  for number in (signal.SIGINT, signal.SIGTERM):  # the server, which may get it too, ends this process when it is done
    signal.signal(number, signal.SIG_IGN)
  end_with_parent()
  resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
  connection.send_bytes(READY)
  while True:
    try:
      content_type, body = connection.recv_bytes().decode('latin-1'), connection.recv_bytes()
    except EOFError:
      return
    head, image = _answer_to(body, content_type, reading, max_pixels)
    del body
    connection.send_bytes(json.dumps(head).encode())
    if image is not None:
      connection.send_bytes(memoryview(image).cast('B'))


def _answer_to(body, content_type, reading, max_pixels):
  """The two messages for a body, the second None where it is refused."""
  try:
    image = np.ascontiguousarray(picture(body, content_type, reading, max_pixels))
    return {'shape': image.shape, 'dtype': image.dtype.name}, image
  except Refused as refused:
    return {'status': refused.status, 'reason': refused.reason}, None
  except Exception as error:  # decoders raise nearly anything on broken data
    return {'status': 422, 'reason': f'the picture cannot be decoded: {type(error).__name__}'}, None
