"""utils.progress: the lines printed, and how often, on a terminal and in a file."""

import io

import pytest

from utils.progress import Progress, duration

pytestmark = pytest.mark.fast


class _Clock:
  """Seconds that a test sets."""

  def __init__(self):
    self.now = 100.0

  def __call__(self):
    return self.now


class _Terminal(io.StringIO):
  def isatty(self):
    return True


@pytest.mark.parametrize('seconds, text', [
    (0, '0 s'), (59.4, '59 s'), (59.6, '1 min 00 s'), (185, '3 min 05 s'), (3599.7, '1 h 00 min'),
    (7620, '2 h 07 min')])
def test_durations(seconds, text):
  assert duration(seconds) == text


def test_a_file_gets_a_line_now_and_then_and_one_at_the_end():
  stream, clock = io.StringIO(), _Clock()
  with Progress(40, 'images', label='voc val', interval=10.0, stream=stream, clock=clock) as progress:
    for _ in range(40):
      clock.now += 0.5
      progress.update()
  assert stream.getvalue() == ('voc val: 20/40 images, 2.0/s, 10 s left\n'
                               'voc val: 40/40 images, 2.0/s, 20 s\n')


def test_a_terminal_gets_one_line_over_and_over():
  stream, clock = _Terminal(), _Clock()
  with Progress(4, 'images', stream=stream, clock=clock) as progress:
    for _ in range(2):
      clock.now += 0.04
      progress.update()
    assert stream.getvalue() == ''  # ten times a second at most
    clock.now += 0.92
    progress.update()
    assert stream.getvalue() == '\r[##################......] 3/4 images, 3.0/s, 0 s left'
  lines = stream.getvalue().split('\r')
  assert len(lines) == 3 and lines[2].endswith('\n') and stream.getvalue().count('\n') == 1


def test_a_shorter_line_covers_a_longer_one():
  stream, clock = _Terminal(), _Clock()
  with Progress(10, 'images', stream=stream, clock=clock) as progress:
    clock.now += 1000
    progress.update(9)
    clock.now += 1
    progress.update(1)
  first, second = stream.getvalue().split('\r')[1:3]
  assert len(second.rstrip('\n')) >= len(first)


def test_an_unknown_total_has_no_time_left():
  stream, clock = io.StringIO(), _Clock()
  with Progress(None, 'records', stream=stream, clock=clock) as progress:
    clock.now += 12
    progress.update(30)
  assert stream.getvalue().splitlines()[0] == '30 records, 2.5/s, 12 s'


def test_the_last_state_is_printed_when_the_work_fails():
  stream = io.StringIO()
  with pytest.raises(ValueError), Progress(9, 'images', stream=stream, clock=_Clock()) as progress:
    progress.update(2)
    raise ValueError
  assert stream.getvalue() == '2/9 images, 0.0/s\n'


def test_nothing_to_do_is_no_division_by_zero():
  stream = io.StringIO()
  with Progress(0, 'images', stream=stream, clock=_Clock()):
    pass
  assert stream.getvalue() == '0/0 images, 0.0/s, 0 s\n'
