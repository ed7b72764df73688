"""What stands for uploads.answer in processes of tests, which import it: nothing that takes long to import."""

import os
import time

from utils.serving import uploads


def dies_or_hangs(connection, reading, max_pixels):
  """Takes the place of uploads.answer: a process that crashes, hangs, or answers nonsense, as the picture asks."""
  connection.send_bytes(uploads.READY)
  while True:
    try:
      _, body = connection.recv_bytes(), connection.recv_bytes()
    except EOFError:
      return
    if body == b'die':
      os._exit(11)
    if body == b'hang':
      time.sleep(60)
    if body == b'nonsense':
      connection.send_bytes(b'[' * 100)
    else:
      connection.send_bytes(b'{"shape": [1, 1, 3], "dtype": "uint8"}')
      connection.send_bytes(b'\x01\x02\x03')


def starts_slowly(connection, *arguments):
  time.sleep(1.5)
  dies_or_hangs(connection, *arguments)
