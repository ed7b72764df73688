"""Progress of a long job: a bar on a terminal, a line every few seconds in a log file."""

import sys
import time

from utils.errors import shown

BAR_WIDTH = 24
STEP_LINE = 'step '  # beginning of a line of training's log, by which other programs find it


def duration(seconds):
  """Formats seconds: '8 s', '3 min 05 s', '2 h 07 min'."""
  seconds = int(round(seconds))
  if seconds < 60:
    return f'{seconds} s'
  if seconds < 3600:
    return f'{seconds // 60} min {seconds % 60:02d} s'
  return f'{seconds // 3600} h {seconds % 3600 // 60:02d} min'


class Progress:
  """Prints done of total, rate and time left to stderr; a context manager.

      with Progress(len(files), 'images', label='camvid train') as progress:
        for file in files:
          ...
          progress.update()

  On a terminal the same line is drawn again and again (at most ten times a second); otherwise a line is printed every
  `interval` seconds. The last state is always printed, also when the block ends with an exception.
  """

  def __init__(self, total, unit, *, label='', interval=10.0, stream=None, clock=time.monotonic):
    """Starts the clock.

    Args:
      total: number of units in the job, or None if unknown.
      unit: name of the units, in the plural: 'images'.
      label: name of the job, first on the line.
      interval: seconds between lines if the stream is no terminal.
      stream: stream to print to; stderr by default.
      clock: function that returns seconds.
    """
    self.total, self.unit, self.label, self.done = total, unit, shown(label), 0
    self._stream = stream or sys.stderr
    self._clock = clock
    self._is_tty = self._stream.isatty()
    self._interval = 0.1 if self._is_tty else interval
    self._start = self._shown = clock()
    self._last = ''

  def update(self, count=1):
    """Counts `count` more units as done."""
    self.done += count
    if self._clock() - self._shown >= self._interval:
      self._show()

  @property
  def rate(self):
    """Units a second since the start."""
    elapsed = self._clock() - self._start
    return self.done / elapsed if elapsed > 0 else 0.0

  def line(self):
    """Returns the line for the current state: 'camvid train: 120/367 images, 81.3/s, 3 s left'."""
    elapsed, rate = self._clock() - self._start, self.rate
    text = f'{self.label}: ' if self.label else ''
    if self._is_tty and self.total:
      filled = min(BAR_WIDTH, BAR_WIDTH * self.done // self.total)
      text += f'[{"#" * filled}{"." * (BAR_WIDTH - filled)}] '
    text += f'{self.done}' + ('' if self.total is None else f'/{self.total}') + f' {self.unit}, {rate:.1f}/s'
    if self.total is not None and self.done < self.total:
      return text + (f', {duration((self.total - self.done) / rate)} left' if rate else '')
    return text + f', {duration(elapsed)}'

  def _show(self, end=False):
    line = self.line()
    if self._is_tty:  # blanks cover the end of the previous line
      self._stream.write('\r' + line.ljust(len(self._last)) + ('\n' if end else ''))
    elif line != self._last:
      self._stream.write(line + '\n')
    self._stream.flush()
    self._last = line
    self._shown = self._clock()

  def __enter__(self):
    return self

  def __exit__(self, *exception):
    self._show(end=True)
