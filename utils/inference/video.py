"""Videos: frames out of ffmpeg and into it, one after the other, so that any length takes the same memory.

ffmpeg comes with the package imageio-ffmpeg, imageio's plugin, which is optional. Frames come upright, as the video's
rotation asks, each stored frame once: a video of variable rate becomes one of the rate that it names. Sound is dropped.
"""

import contextlib
import dataclasses
import glob
import logging
import math
import os
import re
import subprocess
import tempfile

import numpy as np

from datasets.images import BadFile
from utils.drawing import canvas, colors
from utils.errors import UserError, listed
from utils.inference.stream import Failed, labelled
from utils.installation import install
from utils.progress import Progress

_COLORS = ('-vf', 'scale=out_color_matrix=bt709:out_range=tv', '-colorspace', 'bt709', '-color_primaries', 'bt709',
           '-color_trc', 'bt709', '-color_range', 'tv')  # ffmpeg's default, BT.601 unsaid, is shown in other colors
_FILES = ('-protocol_whitelist', 'file')  # a playlist in the guise of a video opens nothing on the net
FORMS = {  # form -> (ffmpeg's name of the pixels that it is given, channels, options)
    'overlay': ('rgb24', ('-c:v', 'libx264', '-preset', 'veryfast', '-crf', '18', '-pix_fmt', 'yuv420p', *_COLORS,
                          '-movflags', '+faststart', '-f', 'mp4')),
    'values': ('gray', ('-c:v', 'ffv1', '-pix_fmt', 'gray', '-f', 'matroska')),
    'colors': ('rgb24', ('-c:v', 'ffv1', '-pix_fmt', 'bgr0', '-f', 'matroska')),
}


@dataclasses.dataclass(frozen=True)
class Video:
  """What a video says of itself.

  Attributes:
    path: its file.
    height: height of the frames in pixels, upright.
    width: width of the frames in pixels, upright.
    rate: frames a second, as ffmpeg takes it: '25' or '30000/1001'.
    frames: number of frames by duration and rate, None if unknown.
  """
  path: str
  height: int
  width: int
  rate: str
  frames: int | None


def ffmpeg():
  """Path of the ffmpeg of imageio-ffmpeg. Raises UserError, which says how to install it, if it is not there."""
  try:
    import imageio_ffmpeg
  except ImportError as error:
    raise UserError(f'videos need the package imageio-ffmpeg: {install("video")}') from error
  return imageio_ffmpeg.get_ffmpeg_exe()


def probe(path):
  """Reads what a video says of itself.

  Returns:
    a Video.

  Raises:
    BadFile: if it is no video that ffmpeg reads, or imageio-ffmpeg is not installed.
  """
  try:
    ffmpeg()
  except UserError as error:
    raise BadFile(path, str(error)) from error
  import imageio_ffmpeg

  logging.getLogger('imageio_ffmpeg').setLevel(logging.ERROR)  # it warns of frames that are turned
  if not os.path.isfile(path) or not os.path.getsize(path):
    raise BadFile(path, 'is empty (0 bytes)' if os.path.isfile(path) else 'does not exist')
  reader = imageio_ffmpeg.read_frames(os.path.abspath(path), input_params=list(_FILES))
  try:
    about = next(reader)
  except (OSError, IndexError, StopIteration, KeyError, RuntimeError, ValueError) as error:
    lines = [line for line in str(error).splitlines() if line.strip()] or ['']
    raise BadFile(path, f'is no video that ffmpeg reads: {lines[-1].strip()}') from error
  finally:
    reader.close()
  (width, height), rate, duration = about['size'], about['fps'], about.get('duration') or 0
  if not rate > 0:
    raise BadFile(path, f'says that it has {rate} frames a second')
  return Video(path, height, width, _exact(rate), round(duration * rate) or None)


def _exact(rate):
  """The rate that ffmpeg prints with two digits, as text: '29.97' stands for '30000/1001'."""
  whole = math.ceil(rate)
  return f'{whole * 1000}/1001' if round(whole * 1000 / 1001, 2) == rate else f'{rate:g}'


def frames(video):
  """Reads the frames of a Video.

  Yields:
    (number, uint8 [H, W, 3]) of each frame, numbers from 1. Last, if the video is broken, a Failed: its key is the
    number of the frame where that was seen, or was the last.
  """
  command = [ffmpeg(), '-nostdin', '-v', 'error', *_FILES, '-i', os.path.abspath(video.path), '-map', '0:v:0',
             '-fps_mode', 'passthrough', '-f', 'rawvideo', '-pix_fmt', 'rgb24', '-']
  size, number, broken_at = video.height * video.width * 3, 0, None
  with tempfile.TemporaryFile() as log, _running(command, stdout=subprocess.PIPE, stderr=log) as process:
    while len(data := process.stdout.read(size)) == size:
      number += 1
      if broken_at is None and os.fstat(log.fileno()).st_size:
        broken_at = number
      yield number, np.frombuffer(data, np.uint8).reshape(video.height, video.width, 3)
    process.wait()
    complaint = _complaint(log) or ('the file is truncated' if _is_cut(video.path) else '')
  if process.returncode or complaint or data:
    total = f' of about {video.frames}' if video.frames else ''
    yield Failed(broken_at or number, f'is broken near frame {broken_at or number}{total} (ffmpeg: '
                 f'{complaint or "ends within a frame"}); {number} frames could be read and are labeled', 'broken')


def _is_cut(path):
  """Whether a file is an AVI, a RIFF file, that is shorter than its header says: ffmpeg may end there in silence."""
  with open(path, 'rb') as file:
    start = file.read(8)
  return start[:4] == b'RIFF' and int.from_bytes(start[4:], 'little') + 8 > os.path.getsize(path)


@contextlib.contextmanager
def _running(command, **pipes):
  """Runs a program, and ends it with the block."""
  process = subprocess.Popen(command, **pipes)
  try:
    yield process
  finally:
    process.kill()
    for pipe in (process.stdin, process.stdout):
      if pipe:
        with contextlib.suppress(OSError):
          pipe.close()
    process.wait()


def _complaint(log):
  """The first line of ffmpeg's log; empty if it has none."""
  log.seek(0)
  return re.sub(r' @ 0x[0-9a-f]+', '', log.readline(1000).decode(errors='backslashreplace').strip())


@contextlib.contextmanager
def writing(path, form, size, rate):
  """Writes a video frame by frame.

  Args:
    path: its file; a video of every form is written whatever its suffix.
    form: one of FORMS: 'overlay', H.264 of colors, with loss, for people; 'values', FFV1 of gray values, and 'colors',
      FFV1 of colors, both without loss.
    size: (height, width); even for an overlay, as H.264 asks.
    rate: frames a second, as Video.rate.

  Yields:
    function of a frame: uint8 [H, W, 3], for 'values' [H, W].

  Raises:
    UserError: if the video cannot be written.
  """
  pixels, options = FORMS[form]
  command = [ffmpeg(), '-nostdin', '-v', 'error', '-y', '-f', 'rawvideo', '-pix_fmt', pixels,
             '-s', f'{size[1]}x{size[0]}', '-r', rate, '-i', '-', *options, os.path.abspath(path)]
  with tempfile.TemporaryFile() as log, _running(command, stdin=subprocess.PIPE, stderr=log) as process:

    def failed():
      process.wait()
      return UserError(f'cannot write {path}: {_complaint(log)}')

    def write(frame):
      try:
        process.stdin.write(np.ascontiguousarray(frame).data)
      except BrokenPipeError as error:
        raise failed() from error

    yield write
    try:
      process.stdin.close()
    except BrokenPipeError as error:
      raise failed() from error
    if process.wait():
      raise failed()


def even(frame):
  """Pads a frame, uint8 [H, W, 3], with white below and at its right to even height and width."""
  return np.pad(frame, ((0, len(frame) % 2), (0, frame.shape[1] % 2), (0, 0)), constant_values=255)


def paths(target, settings):
  """Names the files of a video's results.

  Args:
    target: path of the outputs without suffix.
    settings: an InferenceSettings.

  Returns:
    dict from a result's kind to its file's path: `overlay` NAME_overlay.mp4; `label` NAME_label.mkv or, for a PNG for
    each frame, NAME/000001_label.png, the first of them, and `label 2` and so on where such frames are already there.
  """
  found = {}
  if 'label' in settings.outputs and settings.video_labels == 'frames':
    there = sorted(glob.glob(f'{glob.escape(target)}/[0-9]*_label.png'))
    found = {'label': frame_path(target, 1), **{f'label {number}': path for number, path in enumerate(there, start=2)}}
  elif 'label' in settings.outputs:
    found['label'] = f'{target}_label.mkv'
  return {**found, 'overlay': f'{target}_overlay.mp4'} if 'overlay' in settings.outputs else found


def frame_path(target, number):
  """Path of the label of a frame, numbers from 1."""
  return os.path.join(target, f'{number:06d}_label.png')


def label_video(item, output, predictor, reading):
  """Labels a video frame by frame, and writes its results.

  Args:
    item: a files.Input.
    output: a results.Output.
    predictor: the run's Predictor.
    reading: the run's Reading.

  Returns:
    None; a stream.Failed if the video is broken: the frames that can be read are labeled all the same.

  Raises:
    BadFile: if no frame can be used, or imageio-ffmpeg is not installed; no output is written then.
    UserError: if an output cannot be written.
  """
  settings, failed = output.settings, None
  if settings.submission or settings.probabilities:
    raise BadFile(item.path, 'is a video, for which --submission and --probabilities write nothing')
  if not reading.is_plain:
    raise BadFile(item.path, f'is a video of red, green and blue, and the run takes the bands {listed(reading.bands)}')
  found = probe(item.path)
  with contextlib.ExitStack() as stack:
    writers = [stack.enter_context(writer) for writer in _writers(item, output, found)]
    progress = stack.enter_context(Progress(found.frames, 'frames', label=item.path))
    for result in labelled(frames(found), predictor, crf=settings.labelling.refinement, tiles=settings.tiles,
                           batch_size=settings.batch_size, num_workers=settings.labelling.num_workers):
      if isinstance(result, Failed):
        failed = Failed(item.path, result.reason, result.cause)
        break
      for write in writers:
        write(result)
      progress.update()
    if not progress.done:
      raise BadFile(item.path, failed.reason if failed else 'has no frames')
  return failed


def _writers(item, output, found):
  """Yields the contexts of the functions that write the Labelled of a frame."""
  files, run = output.paths(item), output.run
  if 'overlay' in files:
    yield _overlay_writer(files['overlay'], output, found)
  if 'label' in files and output.settings.video_labels == 'frames':
    yield contextlib.nullcontext(lambda result: output.ledger.write_png(
        frame_path(output.targets[item], result.key), output.numbering.png(result.label), run))
  elif 'label' in files:
    yield _label_writer(files['label'], output, found)


@contextlib.contextmanager
def _overlay_writer(path, output, found):
  """Yields a function that adds the Labelled of a frame to the overlay: its colors, above a legend of all classes."""
  run = output.run
  blank = np.zeros((found.height, found.width, 3), np.uint8)
  strip = colors.legend(range(len(run.classes)), run.classes, run.palette, width=found.width,
                        font_size=canvas.letter_size(blank))

  def draw(image, label):
    return even(canvas.stacked([colors.overlay(image, label, run.palette, output.settings.alpha), strip]))

  size = draw(blank, blank[..., 0]).shape[:2]
  with output.ledger.replacing(path) as temporary, writing(temporary, 'overlay', size, found.rate) as write:
    yield lambda result: write(draw(result.image, result.label))


@contextlib.contextmanager
def _label_writer(path, output, found):
  """Yields a function that adds the Labelled of a frame to the video of labels, in the values of `output.numbering`."""
  form, size = 'colors' if output.numbering.palette is None else 'values', (found.height, found.width)
  with output.ledger.replacing(path) as temporary, writing(temporary, form, size, found.rate) as write:
    yield lambda result: write(output.numbering.values[result.label])
