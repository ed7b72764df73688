"""Processes that decode pictures for the server.

A picture may be made to take hours or to crash a library: here it costs a process, which is ended and started anew.
"""

import json
import math
import multiprocessing
import queue
import threading
import time

import numpy as np

from utils.inference.run import in_own_flags
from utils.serving import uploads
from utils.serving.refusal import Refused
from utils.workers import without_main

DECODE_SECONDS = 20.0  # time in which a picture must be decoded
_MOST_HEAD = 2**16  # bytes of the first message of an answer
_STARTING = threading.Lock()  # held while a process is started: one hides the script at a time


class Decoders:
  """Processes that decode pictures, for calls from several threads."""

  def __init__(self, count, reading, max_pixels, *, seconds=DECODE_SECONDS, work=uploads.answer):
    """Starts the processes.

    Args:
      count: number of processes.
      reading: see uploads.picture.
      max_pixels: see uploads.picture.
      seconds: time in which a picture must be decoded.
      work: takes the place of uploads.answer in tests.
    """
    self._count, self._seconds, self._free = count, seconds, queue.LifoQueue()
    for _ in range(count):
      self._free.put(_Decoder(work, reading, max_pixels))

  def decode(self, body, content_type, deadline):
    """Decodes the picture of a request.

    Args:
      body: see uploads.picture.
      content_type: see uploads.picture.
      deadline: time of time.monotonic until which the picture is wanted.

    Returns:
      an image as of `datasets.images.read_image`.

    Raises:
      Refused: as uploads.picture, or if the picture takes too long or crashes the process.
      TimeoutError: if the deadline passes.
    """
    try:
      decoder = self._free.get(timeout=max(0.0, deadline - time.monotonic()))
    except queue.Empty as error:
      raise TimeoutError from error
    try:
      return decoder.decode(body, content_type, deadline, self._seconds)
    finally:
      self._free.put(decoder)

  def close(self):
    """Ends the processes, each when its picture is done."""
    for _ in range(self._count):
      self._free.get().stop()


class _Decoder:
  """One process."""

  def __init__(self, *arguments):
    self._arguments = arguments
    self._start()

  def _start(self):
    work, reading, max_pixels = self._arguments
    context = multiprocessing.get_context('spawn')
    self._connection, theirs = context.Pipe()
    self._process = context.Process(target=work, args=(theirs, reading, max_pixels), daemon=True)
    with _STARTING, without_main():
      self._process.start()
    theirs.close()
    self._ready = False

  def stop(self):
    """Ends the process."""
    self._process.kill()  # before its connection goes, about which it would print a traceback
    self._process.join()
    self._process.close()
    self._connection.close()

  def decode(self, body, content_type, deadline, most_seconds):
    """As Decoders.decode; the picture has `most_seconds` from when the process is ready."""
    if not self._process.is_alive():  # ended from outside, as for want of memory
      self._restart()
    try:
      self._wait_until_ready(deadline)
      seconds = deadline - time.monotonic()
      return self._exchange(body, content_type, max(0.0, min(seconds, most_seconds)))
    except Refused:
      raise
    except TimeoutError as error:
      if not self._ready:
        raise
      self._restart()
      if seconds < most_seconds:
        raise
      raise Refused(422, f'the picture takes more than {most_seconds:g} s to decode') from error
    except Exception as error:  # it ended, or answered what it should not: nothing of it is kept
      self._restart()
      raise Refused(422, 'the picture cannot be decoded: the decoder crashed') from error

  def _wait_until_ready(self, deadline):
    """Takes the message that a process starts with; imports, which may take seconds, are not the picture's time."""
    if not self._ready:
      if not self._connection.poll(max(0.0, deadline - time.monotonic())):
        raise TimeoutError
      self._connection.recv_bytes(_MOST_HEAD)
      self._ready = True

  def _exchange(self, body, content_type, seconds):
    """Sends the picture, see uploads.answer, and takes the image."""
    self._connection.send_bytes(content_type.encode('latin-1'))
    self._connection.send_bytes(body)
    if not self._connection.poll(seconds):
      raise TimeoutError
    head = json.loads(self._connection.recv_bytes(_MOST_HEAD))
    if 'status' in head:
      raise Refused(head['status'], in_own_flags(head['reason']))
    shape, dtype = tuple(head['shape']), np.dtype(head['dtype'])
    pixels = self._connection.recv_bytes(math.prod(shape) * dtype.itemsize)
    return np.frombuffer(pixels, dtype).reshape(shape)

  def _restart(self):
    self.stop()
    self._start()
