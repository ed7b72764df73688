"""inference.py --rank: scores by hand, the order, scenes listed once, the three files."""

import csv
import os

import numpy as np
import programs
import pytest
from PIL import Image
from random_run import write_run

import inference
from utils.drawing import canvas, gallery
from utils.inference import files, ledgers, mc_dropout, rank
from utils.inference.predictor import Predictor
from utils.inference.stream import Labelled
from utils.runs import load_run

CLASSES = ('sky', 'road', 'Straße, naß')


def infer(*args):
  """Runs inference.py in this process; returns a programs.Result."""
  return programs.run(inference.main, *args)


def pixels(height, width, seed=0):
  """A smooth random picture."""
  small = np.random.default_rng(seed).integers(0, 256, (3, 4, 3)).astype(np.uint8)
  return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


@pytest.fixture(scope='module')
def folder(tmp_path_factory, tiny):
  return write_run(tmp_path_factory.mktemp('run'), CLASSES, network=tiny, dataset='own')


@pytest.fixture(scope='module')
def pictures(tmp_path_factory):
  """A folder of pictures of many sizes, and one that is none."""
  place = tmp_path_factory.mktemp('in')
  (place / 'ordner é').mkdir()
  for seed, (name, size) in enumerate({'a.png': (45, 64), 'b.png': (61, 30), 'c.png': (5, 7), 'd.png': (1, 1),
                                       'e.png': (300, 420), 'ordner é/道路.png': (45, 64)}.items()):
    Image.fromarray(pixels(*size, seed=seed)).save(place / name)
  (place / 'copy of a.png').write_bytes((place / 'a.png').read_bytes())
  (place / 'cut.png').write_bytes((place / 'a.png').read_bytes()[:60])
  return place


def table(out):
  with open(out / 'rank.csv', encoding='utf-8', newline='') as file:
    return list(csv.DictReader(file))


def margins(probabilities):
  first, second = np.sort(probabilities, axis=-1)[..., :-3:-1].T
  return 1 - (first - second).T


def test_margin_by_hand():
  passes = np.array([[[0.5, 0.3, 0.2], [1, 0, 0], [0.2, 0.4, 0.4], [0.3, 0.1, 0.6]]], np.float32)
  mean, margin = mc_dropout.average([passes], 'margin')
  np.testing.assert_array_equal(mean, passes)
  np.testing.assert_allclose(margin, [[0.8, 0, 1, 0.7]], atol=1e-6)
  other = np.array([[[0.1, 0.5, 0.4], [0, 1, 0], [0.2, 0.4, 0.4], [0.3, 0.1, 0.6]]], np.float32)
  np.testing.assert_allclose(mc_dropout.average([passes, other], 'margin')[1], [[0.9, 1, 1, 0.7]], atol=1e-6)
  np.testing.assert_array_equal(mc_dropout.average([np.ones((2, 3, 1), np.float32)], 'margin')[1], np.zeros((2, 3)))


def test_pictures_are_ranked_by_their_mean_margin(folder, pictures, tmp_path):
  result = infer(f'--ckpt={folder}', f'--output_dir={tmp_path}', '--rank', '--max_pixels=90000', '--tile_size=352',
                 pictures, pictures / 'ordner é')
  assert result.returncode == 1 and 'error: 1 inputs skipped' in result.stderr and 'cut.png' in result.stderr
  assert sorted(os.listdir(tmp_path)) == sorted([*rank.OUTPUTS, ledgers.LEDGER])  # no label, no overlay
  rows = table(tmp_path)
  scores = {os.path.basename(row['path']): float(row['score']) for row in rows}
  assert len(rows) == len(scores) == 7
  with Predictor(load_run(str(folder))) as predictor:
    for row in rows:
      with Image.open(row['path']) as picture:
        probabilities = predictor.probabilities(np.asarray(picture)[None])[0]
      in_tiles = row['path'].endswith('e.png')
      assert float(row['score']) == pytest.approx(margins(probabilities).mean(), rel=0.1 if in_tiles else 1e-4)
      counts = np.bincount(probabilities.argmax(axis=-1).ravel(), minlength=3) / probabilities[..., 0].size
      np.testing.assert_allclose([float(row[name]) for name in CLASSES], counts, atol=0.05 if in_tiles else 2e-3)
  listed = (tmp_path / 'rank.txt').read_text(encoding='utf-8').splitlines()
  assert listed == [row['path'] for row in rows]
  assert [row['place'] for row in rows] == [str(place) for place in range(1, 8)]
  assert os.path.basename(listed[-1]) in ('a.png', 'copy of a.png')
  assert '7 pictures ranked by margin' in result.stdout and 'the 7 to label next' in result.stdout
  again = infer(f'--ckpt={folder}', f'--output_dir={tmp_path}', '--rank', '--rank_apart=0', '--rank_count=4', pictures,
                pictures / 'ordner é')
  assert again.returncode == 1 and 'the 4 to label next' in again.stdout
  rows = table(tmp_path)
  assert [row['place'] for row in rows] == ['1', '2', '3', '4', '', '', '']
  assert sorted(rows, key=lambda row: -float(row['score'])) == rows


@pytest.mark.parametrize('flags, score', [
    (['--rank_by=entropy'], lambda p: -(p * np.log(p)).sum(axis=-1).mean()),
    (['--rank_by=margin', '--samples=3'], None),
    (['--samples=3', '--rank_by=mutual_information'], None),
    (['--rank_by=variance', '--samples=2', '--test_flip'], None),
    (['--test_scales=0.5,1'], None)])
def test_every_measure(folder, pictures, tmp_path, flags, score):
  result = infer(f'--ckpt={folder}', f'--output_dir={tmp_path}', '--rank', '--rank_count=2', *flags,
                 pictures / 'a.png', pictures / 'b.png', pictures / 'c.png')
  assert result.returncode == 0, result.stderr
  rows = table(tmp_path)
  assert [row['place'] for row in rows] == ['1', '2', '']
  assert (tmp_path / 'rank.txt').read_text() == f'{rows[0]["path"]}\n{rows[1]["path"]}\n'
  with Predictor(load_run(str(folder)), samples=3 if '--samples=3' in flags else 0) as predictor:
    for row in rows:
      image = pixels(*{'a': (45, 64), 'b': (61, 30), 'c': (5, 7)}[row['path'][-5]], seed='abc'.index(row['path'][-5]))
      if score:
        expected = score(predictor.probabilities(image[None])[0])
      elif '--rank_by=mutual_information' in flags:
        assert 'ranked by mutual_information' in result.stdout
        expected = predictor.sampled(image[None], 'mutual_information')[1].mean()
      else:
        expected = None
      assert expected is None or float(row['score']) == pytest.approx(expected, rel=1e-3)
      assert float(row['score']) > 0


def picture(name):
  return files.Input(f'{name}.png', f'{name}', files.PHOTO)


def seen(scores, cells):
  return [rank.Seen(picture(index), score, np.ones(1, np.float32), np.full((2, 2, 3), cell, np.uint8), None)
          for index, (score, cell) in enumerate(zip(scores, cells))]


@pytest.mark.parametrize('scores, cells, count, apart, places', [
    ([6, 5, 4], [100, 104, 120], 3, 0, [0, 1, 2]),
    ([6, 5, 4], [100, 104, 120], 3, 4, [0, 1, 2]),
    ([6, 5, 4], [100, 104, 120], 3, 10, [0, 2, 1]),  # 5 * 4 / 10 < 4 * 20 / 20
    ([6, 5, 1], [100, 104, 120], 3, 10, [0, 1, 2]),  # 5 * 4 / 10 > 1
    ([6, 6, 6, 1], [100, 100, 100, 102], 2, 40, [0, 3]),  # a copy is worth nothing
    ([6, 6, 6, 1], [100, 100, 100, 102], 9, 40, [0, 3, 1, 2]),  # but is listed where there is room
    ([1, 2, 3, 4], [0, 255, 0, 255], 3, 255, [3, 2, 0]),
    ([0, 0], [7, 7], 5, 40, [0, 1])])
def test_pictures_like_one_listed_come_later(scores, cells, count, apart, places):
  assert rank.choose(seen(scores, cells), count, apart) == places


def test_frames_of_a_scene_are_listed_behind_other_scenes():
  """Noise and a slight shift count less than somebody who walks in, and that less than another scene."""
  image, other = pixels(120, 160, seed=3), pixels(90, 90, seed=4)
  walked, noisy, shifted = image.copy(), image.copy(), np.roll(image, 1, axis=1)
  walked[60:115, 20:60] = 255 - walked[60:115, 20:60]
  noisy[...] = np.clip(image + np.random.default_rng(0).normal(0, 8, image.shape), 0, 255)
  kept = []
  for number, each in enumerate((image, noisy, shifted, image[::2, ::2], walked, other)):
    sure = np.full(each.shape[:2], 0.5 - 0.01 * number, np.float32)
    kept.append(rank.keep(Labelled(picture(number), each, np.zeros(each.shape[:2], np.uint8), uncertainty=sure), 3))
  assert rank.choose(kept, 3, rank.Ranking().rank_apart) == [0, 5, 4]
  assert kept[0].score == 0.5 and kept[0].shares.tolist() == [1, 0, 0]


def test_what_is_kept_does_not_grow_with_the_picture():
  sizes = []
  for side in (3, 40, 900):
    image = np.zeros((side, 2 * side, 3), np.uint8)
    uncertainty = np.zeros(image.shape[:2], np.float32)
    kept = rank.keep(Labelled(picture('x'), image, image[..., 0], uncertainty=uncertainty), 150)
    arrays = (kept.cells, kept.heat, kept.shares)
    assert not any(np.shares_memory(image, array) for array in arrays)
    sizes.append(sum(array.nbytes for array in arrays))
  assert len(set(sizes)) == 1 and sizes[0] < 6000


def test_sheet_shows_the_pictures_in_order_beside_their_maps(folder, pictures, tmp_path):
  names = ['a.png', 'b.png', 'c.png', 'e.png']
  assert infer(f'--ckpt={folder}', f'--output_dir={tmp_path}', '--rank', *(pictures / name for name in names)
               ).returncode == 0
  with Image.open(tmp_path / 'rank.png') as picture:
    sheet = np.asarray(picture)
  tile, space = gallery.TILE, gallery.SPACE
  assert sheet.shape[1] == 3 * (2 * tile[0] + 2 * space) + space and sheet.shape[0] > 2 * tile[1]
  for index, row in enumerate(table(tmp_path)):
    with Image.open(row['path']) as picture:
      small = gallery.thumbnail(np.asarray(picture))
    x = space + index % 3 * (2 * tile[0] + 2 * space) + tile[0] - small.shape[1]
    found = sheet[:, x:x + small.shape[1]]
    assert any((found[y:y + len(small)] == small).all() for y in range(len(sheet) - len(small)))


def test_a_picture_that_is_gone_meanwhile_is_gray_on_the_sheet():
  gone = rank.Seen(picture('gone'), 0.5, np.ones(1), np.zeros((2, 2, 3), np.uint8), np.full((36, 48), 0.5, np.float16))
  sheet = rank.sheet([gone], 3, 'margin', lambda inputs: [rank.Failed(item, 'does not exist') for item in inputs])
  assert (sheet == canvas.GRAY).all(axis=-1).sum() > 200 * 200


@pytest.mark.parametrize('flags, message', [
    (['--submission'], '--rank: not together with --submission'),
    (['--probabilities'], '--rank: not together with --probabilities'),
    (['--rank_by=variance'], '--rank_by=variance: says how passes with dropout differ; give --samples too'),
    (['--rank_by=mutual_information'], 'or --rank_by=entropy or margin'),
    (['--rank_by=least'], '--rank_by=least: valid are variance, entropy, mutual_information, margin'),
    (['--rank_count=0'], '--rank_count=0: valid are 1 and above'),
    (['--rank_apart=256'], '--rank_apart=256: valid are 0 to 255')])
def test_flags_that_do_not_go_together(folder, pictures, tmp_path, flags, message):
  programs.assert_refused(infer(f'--ckpt={folder}', f'--output_dir={tmp_path}', '--rank', *flags, pictures / 'a.png'),
                          message)
  assert not os.listdir(tmp_path)


def test_an_input_is_never_overwritten(folder, tmp_path):
  Image.fromarray(pixels(5, 6)).save(tmp_path / 'rank.png')
  before = (tmp_path / 'rank.png').read_bytes()
  programs.assert_refused(infer(f'--ckpt={folder}', f'--output_dir={tmp_path}', '--rank', tmp_path / 'rank.png'),
                          'rank.png would overwrite an input')
  assert (tmp_path / 'rank.png').read_bytes() == before and os.listdir(tmp_path) == ['rank.png']


def test_the_list_is_one_that_list_takes_and_a_second_ranking_replaces_it(folder, pictures, tmp_path, monkeypatch):
  bad = os.fsdecode(os.fsencode(tmp_path) + b'/in/\xe9.png')
  (tmp_path / 'in').mkdir()
  for name in ('a.png', 'ordner é/道路.png'):
    (tmp_path / 'in' / os.path.basename(name)).write_bytes((pictures / name).read_bytes())
  for name in (bad, str(tmp_path / 'in/two\nlines.png')):
    with open(name, 'wb') as file:
      file.write((pictures / 'b.png').read_bytes())
  monkeypatch.chdir(tmp_path)
  for _ in range(2):
    result = infer(f'--ckpt={folder}', '--output_dir=out', '--rank', 'in')
    assert result.returncode == 0, result.stderr
  assert r"\xe9.png is left out" in result.stderr and r"two\nlines.png is left out" in result.stderr
  assert len((tmp_path / 'out/rank.txt').read_text(encoding='utf-8').splitlines()) == 2
  with open('out/rank.csv', encoding='utf-8', errors='surrogateescape', newline='') as file:
    assert len(list(csv.DictReader(file))) == 4
  monkeypatch.chdir('/')
  result = infer(f'--ckpt={folder}', f'--output_dir={tmp_path / "labels"}', '--outputs=label',
                 f'--list={tmp_path / "out/rank.txt"}', tmp_path / 'in')
  assert result.returncode == 0, result.stderr
  assert sorted(os.listdir(tmp_path / 'labels')) == ['a_label.png', '道路_label.png']


@pytest.mark.parametrize('name', rank.OUTPUTS)
def test_a_file_of_another_is_never_overwritten(folder, pictures, tmp_path, name):
  (tmp_path / name).write_text('mine')
  programs.assert_refused(infer(f'--ckpt={folder}', f'--output_dir={tmp_path}', '--rank', pictures / 'a.png'),
                          f'{name} exists, and this program did not write it')
  assert os.listdir(tmp_path) == [name] and (tmp_path / name).read_text() == 'mine'


def test_videos_are_not_ranked(folder, pictures, tmp_path):
  (tmp_path / 'in').mkdir()
  (tmp_path / 'in/film.mp4').write_bytes(b'x')
  (tmp_path / 'in/a.png').write_bytes((pictures / 'a.png').read_bytes())
  result = infer(f'--ckpt={folder}', f'--output_dir={tmp_path / "out"}', '--rank', tmp_path / 'in')
  assert result.returncode == 1 and 'film.mp4: is a video; --rank takes photographs' in result.stderr
  assert len(table(tmp_path / 'out')) == 1


def test_nothing_to_rank_writes_nothing(folder, pictures, tmp_path):
  result = infer(f'--ckpt={folder}', f'--output_dir={tmp_path}', '--rank', pictures / 'cut.png')
  assert result.returncode == 1 and 'no picture could be ranked' in result.stdout and not os.listdir(tmp_path)
