"""Videos: every container, odd sizes, turned and broken ones, labels without loss, overlays, memory."""

import os
import subprocess

import numpy as np
import pytest
from PIL import Image
from programs import assert_refused
from random_run import write_run

pytest.importorskip('imageio_ffmpeg')

from datasets.images import BadFile  # noqa: E402
from utils.errors import UserError  # noqa: E402
from utils.inference import video  # noqa: E402
from utils.inference.stream import Failed  # noqa: E402
from utils.runs import load_run  # noqa: E402

CLASSES = ('road', 'car', 'sky')
CONTAINERS = {'mp4': 'libx264', 'mov': 'libx264', 'avi': 'mpeg4', 'mkv': 'libx264', 'webm': 'libvpx'}


@pytest.fixture(scope='module')
def folder(tmp_path_factory, tiny):
  return write_run(tmp_path_factory.mktemp('run'), CLASSES, network=tiny, dataset='own')


def ffmpeg(*arguments):
  subprocess.run([video.ffmpeg(), '-v', 'error', '-y', *map(str, arguments)], check=True)


def film(path, size='66x50', rate='10', frames=7, codec='libx264', options=()):
  """Makes a video of a moving test card, with sound."""
  ffmpeg('-f', 'lavfi', '-i', f'testsrc2=size={size}:rate={rate}', '-f', 'lavfi', '-i', 'sine=duration=1',
         '-frames:v', frames, '-c:v', codec, '-pix_fmt', 'yuv420p', *options, path)


def lossless(path, frames, rate='10'):
  """Writes uint8 [N, H, W, 3] as a video without loss."""
  with video.writing(path, 'colors', frames.shape[1:3], rate) as write:
    for frame in frames:
      write(frame)


def noise(number, height, width, seed=0):
  small = np.random.default_rng(seed).integers(0, 256, (number, 4, 5, 3)).astype(np.uint8)
  return np.stack([np.asarray(Image.fromarray(frame).resize((width, height))) for frame in small])


def read(path):
  """(frames, uint8 [N, H, W, 3], Failed or None) of a video."""
  items = list(video.frames(video.probe(str(path))))
  failed = items.pop() if items and isinstance(items[-1], Failed) else None
  assert [number for number, _ in items] == list(range(1, len(items) + 1))
  return np.stack([frame for _, frame in items]), failed


@pytest.mark.parametrize('suffix', CONTAINERS)
def test_containers(suffix, tmp_path):
  path = tmp_path / f'a.{suffix}'
  film(path, rate='30000/1001', codec=CONTAINERS[suffix])
  about = video.probe(str(path))
  assert (about.height, about.width, about.rate) == (50, 66, '30000/1001')
  frames, failed = read(path)
  assert frames.shape == (7, 50, 66, 3) and failed is None
  assert len(np.unique(frames)) > 50


@pytest.mark.parametrize('rate, exact', [
    (25, '25'), (29.97, '30000/1001'), (23.98, '24000/1001'), (59.94, '60000/1001'), (12.5, '12.5'), (30, '30'),
    (0.5, '0.5')])
def test_rates_that_ffmpeg_rounds(rate, exact):
  assert video._exact(rate) == exact


def test_turned_videos_are_upright(tmp_path):
  film(tmp_path / 'a.mp4')
  ffmpeg('-display_rotation', 90, '-i', tmp_path / 'a.mp4', '-c', 'copy', tmp_path / 'turned.mp4')
  upright, turned = read(tmp_path / 'a.mp4')[0], read(tmp_path / 'turned.mp4')[0]
  assert turned.shape == (7, 66, 50, 3)
  assert abs(np.rot90(upright, axes=(1, 2)).astype(int) - turned).mean() < 2


def test_each_frame_of_a_variable_rate_comes_once(tmp_path):
  film(tmp_path / 'a.mp4', rate=20, frames=40)
  ffmpeg('-i', tmp_path / 'a.mp4', '-vf', "select='lt(n,20)+not(mod(n,4))'", '-fps_mode', 'vfr', tmp_path / 'b.mp4')
  frames, failed = read(tmp_path / 'b.mp4')
  assert failed is None and len(frames) == 20 + 5


@pytest.mark.parametrize('form', ['values', 'colors'])
@pytest.mark.parametrize('size', [(33, 47), (50, 66), (1, 3)])
def test_label_videos_lose_nothing(form, size, tmp_path):
  frames = np.random.default_rng(1).integers(0, 256, (6, *size, 3)).astype(np.uint8)
  stored = frames[..., 0] if form == 'values' else frames
  with video.writing(tmp_path / 'a', form, size, '25') as write:
    for frame in stored:
      write(frame)
  found, failed = read(tmp_path / 'a')
  assert failed is None
  np.testing.assert_array_equal(found, frames if form == 'colors' else np.repeat(frames[..., :1], 3, axis=-1))


def test_overlays_keep_their_colors(tmp_path):
  frames = np.zeros((4, 34, 48, 3), np.uint8) + np.array([200, 40, 60], np.uint8)
  with video.writing(tmp_path / 'a.mp4', 'overlay', (34, 48), '25') as write:
    for frame in frames:
      write(frame)
  assert abs(read(tmp_path / 'a.mp4')[0].astype(int) - frames).max() <= 4


def test_what_ffmpeg_cannot_write_is_an_error(tmp_path):
  with pytest.raises(UserError, match='not divisible by 2'), video.writing(
      tmp_path / 'a.mp4', 'overlay', (33, 48), '25') as write:
    write(np.zeros((33, 48, 3), np.uint8))
  with pytest.raises(UserError, match='cannot write .*nowhere'), video.writing(
      tmp_path / 'nowhere' / 'a.mkv', 'values', (200, 300), '25') as write:
    for _ in range(50):  # ffmpeg has gone before the pipe is full
      write(np.zeros((200, 300), np.uint8))


def test_labels_and_overlay_of_a_video(infer, folder, predictor):
  frames, run = noise(5, 45, 61), load_run(str(folder))
  lossless('v.mkv', frames)
  result = infer('--output_dir=out', '--batch_size=2', 'v.mkv')
  assert result.returncode == 0, result.stderr
  assert result.stdout.startswith('0 images and 1 video labeled') and 'v.mkv: 5/5 frames' in result.stderr
  labels, expected = read('out/v_label.mkv')[0][..., 0], predictor.labels(frames)
  assert labels.shape == expected.shape and (labels == expected).mean() > 0.999  # ties may fall either way in a batch
  overlay = read('out/v_overlay.mp4')[0]
  assert overlay.shape[0] == 5 and overlay.shape[1] > 45 and overlay.shape[1] % 2 == overlay.shape[2] % 2 == 0
  blend = (frames.astype(int) + run.palette[expected]) // 2
  assert abs(overlay[:, :45, :61] - blend).mean() < 12  # H.264 halves the resolution of colors


def test_labels_of_frames_as_pictures(infer, predictor):
  frames = noise(3, 40, 52, seed=2)
  lossless('v.avi', frames)
  for _ in range(2):
    result = infer('--output_dir=out', '--outputs=label', '--video_labels=frames', 'v.avi')
    assert result.returncode == 0, result.stderr
  assert sorted(os.listdir('out/v')) == [f'{number:06d}_label.png' for number in (1, 2, 3)]
  for number, label in enumerate(predictor.labels(frames), start=1):
    with Image.open(f'out/v/{number:06d}_label.png') as picture:
      assert picture.mode == 'P' and (np.asarray(picture) == label).mean() > 0.999
  Image.fromarray(frames[0]).save('out/v/000002_label.png')
  result = infer('--output_dir=out', '--outputs=label', '--video_labels=frames', 'v.avi')
  assert result.returncode == 1 and 'out/v/000002_label.png exists, and this program did not write it' in result.stderr


@pytest.mark.parametrize('suffix', ['avi', 'mkv', 'webm', 'mp4'])
def test_what_can_be_read_of_a_broken_video_is_labeled(suffix, infer):
  options = ('-g', 8, '-movflags', '+faststart') if suffix == 'mp4' else ('-g', 8)
  film(f'v.{suffix}', frames=40, codec=CONTAINERS[suffix], options=options)
  with open(f'v.{suffix}', 'r+b') as file:
    file.truncate(os.path.getsize(f'v.{suffix}') * 6 // 10)
  result = infer('--output_dir=out', f'v.{suffix}')
  assert result.returncode == 1
  [line] = [line for line in result.stderr.splitlines() if line.startswith('skipped')]
  assert f'v.{suffix}: is broken near frame ' in line and ' frames could be read and are labeled' in line
  count = int(line.split('); ')[1].split()[0])
  assert 5 < count < 40 and len(read('out/v_label.mkv')[0]) == len(read('out/v_overlay.mp4')[0]) == count


def test_videos_that_are_none(infer):
  film('cut.mp4')
  with open('cut.mp4', 'r+b') as file:
    file.truncate(os.path.getsize('cut.mp4') // 2)
  open('empty.mov', 'w').close()
  with open('text.mkv', 'w') as file:
    file.write('not a video')
  with open('list.avi', 'w') as file:
    file.write('#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n')
  result = infer('--output_dir=out', 'cut.mp4', 'empty.mov', 'text.mkv', 'list.avi')
  assert result.returncode == 1 and 'Traceback' not in result.stderr
  for line in ('cut.mp4: is no video that ffmpeg reads', 'empty.mov: is empty', 'text.mkv: is no', 'list.avi: is'):
    assert f'skipped {line}' in result.stderr
  assert not os.listdir('out')
  with pytest.raises(BadFile, match='does not exist'):
    video.probe('missing.mp4')


def test_results_that_videos_do_not_have(infer):
  film('v.mp4')
  result = infer('--output_dir=out', '--probabilities', 'v.mp4')
  assert result.returncode == 1 and 'is a video, for which --submission and --probabilities' in result.stderr
  assert_refused(infer('--video_labels=none', 'v.mp4'), '--video_labels=none', 'video', 'frames')


def test_an_interrupted_video_leaves_no_file(infer, monkeypatch):
  film('v.mp4', frames=30)
  draw, calls = video.even, []

  def interrupted(frame):
    calls.append(frame)
    if len(calls) == 12:
      raise KeyboardInterrupt
    return draw(frame)

  monkeypatch.setattr(video, 'even', interrupted)
  assert infer('--output_dir=out', 'v.mp4').returncode == 130
  assert not os.listdir('out')


def test_frames_are_labeled_as_they_come(infer, monkeypatch):
  """However long a video is, no more frames are held than go through the network together."""
  film('v.mp4', frames=40)
  taken, written, ahead, frames, legend = [], [], [], video.frames, video.even

  def counted(found):
    for item in frames(found):
      taken.append(1)
      ahead.append(len(taken) - len(written))
      yield item

  monkeypatch.setattr(video, 'frames', counted)
  monkeypatch.setattr(video, 'even', lambda frame: (written.append(1), legend(frame))[1])
  assert infer('--output_dir=out', '--outputs=overlay', '--batch_size=3', 'v.mp4').returncode == 0
  assert len(taken) == 40 and max(ahead) <= 2 * 3


def test_the_package_is_named_where_it_is_missing(infer, monkeypatch):
  film('v.mp4')
  monkeypatch.setitem(__import__('sys').modules, 'imageio_ffmpeg', None)
  result = infer('--output_dir=out', 'v.mp4')
  assert result.returncode == 1 and 'pip install -r requirements-video.txt' in result.stderr
