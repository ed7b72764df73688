"""evaluate.py --corruptions as users run it: figures computed apart, files, stopped runs, comparisons, refusals."""

import json

import numpy as np
import programs
import pytest
from PIL import Image
from random_run import write_run
from random_split import drawn_sources, write_split

import evaluate
from datasets.readers.camvid import CAMVID
from utils import settings
from utils.drawing import canvas, charts
from utils.errors import UserError
from utils.evaluation import metrics, robustness, robustness_report
from utils.evaluation.corruptions import CORRUPTIONS, Task, corrupted
from utils.evaluation.settings import Corruptions, EvaluateSettings
from utils.files import read_json, write_json
from utils.inference.predictor import Predictor
from utils.runs import load_run


@pytest.fixture(scope='module')
def template(tmp_path_factory, tiny):
  data_dir = write_split(tmp_path_factory.mktemp('data') / 'camvid', drawn_sources())
  return write_run(tmp_path_factory.mktemp('run'), CAMVID.classes, network=tiny, data_dir=data_dir)


@pytest.fixture
def run(tmp_path, template):
  """A run's folder that a test may change."""
  folder = tmp_path / 'run'
  folder.mkdir()
  for file in template.iterdir():
    (folder / file.name).symlink_to(file)
  return folder


def evaluated(run, *flags):
  return programs.run(evaluate.main, f'--ckpt={run}', '--num_workers=1', *flags)


def results(run, suffix='corruptions'):
  return json.loads((run / f'metrics-val-{suffix}.json').read_text())


def test_scores_are_those_of_the_corrupted_images(run):
  """With processes that corrupt, and each image with random numbers of its own record."""
  process = evaluated(run, '--corruptions=contrast,gaussian_noise', '--severities=1,4', '--num_workers=2')
  assert process.returncode == 0, process.stderr
  value = results(run, 'corruptions_gaussian_noise_contrast-severities_1_4')
  assert list(value['corruptions']) == ['gaussian_noise', 'contrast']  # the registry's order
  with Predictor(load_run(str(run))) as predictor:
    for name, by_severity in value['corruptions'].items():
      for severity, found in by_severity.items():
        matrix = 0
        for source in drawn_sources():
          label = predictor.labels(corrupted(Task(name, int(severity), source.name, source.image))[None])[0]
          matrix += metrics.confusion_matrix(np.where(source.label == 11, 255, source.label), label, 11)
        expected = metrics.scores(matrix)
        assert [found[key] for key in metrics.SUMMARY] == pytest.approx([expected[key] for key in metrics.SUMMARY])
        np.testing.assert_allclose([np.nan if iou is None else iou for iou in found['class_iou'].values()],
                                   expected['class_iou'])
  clean = json.loads((run / 'metrics-val.json').read_text())
  assert value['mean_iou'] == clean['mean_iou'] and value['confusion_matrix'] == clean['confusion_matrix']
  means = {name: np.mean([one['mean_iou'] for one in part.values()]) for name, part in value['corruptions'].items()}
  assert value['corruption_mean_iou'] == pytest.approx(means)
  assert value['mpc'] == pytest.approx(np.mean(list(means.values())))
  assert value['rpc'] == pytest.approx(value['mpc'] / clean['mean_iou'])
  row = next(line for line in process.stdout.splitlines() if line.startswith('contrast ')).split()
  ious = [value['corruptions']['contrast'][severity]['mean_iou'] for severity in '14']
  assert row[1:] == [f'{100 * iou:.1f}' for iou in (*ious, means['contrast'])]


def test_all_corruptions_with_views_and_tiles(run):
  """Every entry of the registry runs in a program; pictures are of all of them."""
  process = evaluated(run, '--corruptions=all', '--severities=3', '--test_flip', '--max_pixels=3000', '--seed=2')
  assert process.returncode == 0, process.stderr
  suffix = 'flip-max_pixels_3000-corruptions-severities_3-seed_2'
  value = results(run, suffix)
  assert list(value['corruptions']) == list(CORRUPTIONS) and value['test_flip'] and value['seed'] == 2
  paths = [run / f'{name}-val-{suffix}' for name in ('metrics', 'chart', 'examples')]
  assert process.stdout.splitlines()[-1] == f'written: {paths[0]}.json, {paths[1]}.png, {paths[2]}.png'
  for path in paths[1:]:
    with Image.open(f'{path}.png') as picture:
      assert picture.mode == 'RGB' and min(picture.size) > 300


def test_a_stopped_evaluation_is_resumed(run, monkeypatch):
  flags = ('--corruptions=noise', '--severities=2')
  assert evaluated(run, *flags).returncode == 0
  whole, scored = results(run, 'corruptions_noise-severities_2'), robustness.scored
  (run / 'metrics-val-corruptions_noise-severities_2.json').unlink()

  def stopped(split, cases, *rest):
    for number, found in enumerate(scored(split, cases, *rest)):
      if number == 2:
        raise KeyboardInterrupt
      yield found

  monkeypatch.setattr(robustness, 'scored', stopped)
  assert evaluated(run, *flags).returncode == 130
  assert list(results(run, 'corruptions_noise-severities_2')['corruptions']) == ['gaussian_noise', 'shot_noise']
  seen = []

  def noted(split, cases, *rest):
    seen.extend(cases)
    return scored(split, cases, *rest)

  monkeypatch.setattr(robustness, 'scored', noted)
  process = evaluated(run, *flags, '--resume')
  assert process.returncode == 0 and 'has these already: gaussian_noise, shot_noise' in process.stdout
  assert seen == [('impulse_noise', 2)]
  assert results(run, 'corruptions_noise-severities_2') == whole


def test_results_of_other_weights_are_not_resumed(run):
  flags = ('--corruptions=contrast', '--severities=2')
  assert evaluated(run, *flags).returncode == 0
  path = run / 'metrics-val-corruptions_contrast-severities_2.json'
  value = read_json(path)
  value['confusion_matrix'][0][0] += 1
  path.unlink()
  write_json(path, value)
  process = evaluated(run, *flags, '--resume')
  assert process.returncode == 1 and f'error: --resume: {path} is of other weights' in process.stderr
  assert read_json(path) == value


def test_comparison_with_an_earlier_run(run, tmp_path):
  assert evaluated(run, '--corruptions=digital', f'--output_dir={tmp_path / "before"}').returncode == 0
  before = tmp_path / 'before/metrics-val-corruptions_digital.json'
  value = json.loads(before.read_text())
  for part in value['corruptions']['contrast'].values():
    part['mean_iou'] += 0.1
  before.write_text(json.dumps(value | {'seed': 5}))
  process = evaluated(run, '--corruptions=digital', f'--compare={before.parent}')
  assert process.returncode == 0, process.stderr
  lines = process.stdout.splitlines()
  changes = {words[0]: words[-1] for words in map(str.split, lines) if words and words[0] in CORRUPTIONS}
  assert changes == {'contrast': '-10.0', 'pixelate': '+0.0', 'jpeg_compression': '+0.0'}
  assert next(line for line in lines if line.startswith('mPC')).split()[-1] == '-3.3'
  assert f'note: what {before.parent} holds was measured with another seed' in process.stdout
  process = evaluated(run, '--corruptions=blur,contrast', f'--compare={before}')
  assert process.returncode == 1
  assert f'error: --compare: {before} lacks defocus_blur at severity 1, defocus_blur at severity 2' in process.stderr


@pytest.mark.parametrize('flags,parts', [
    (['--corruptions=fog,sun'], ['--corruptions=fog,sun', 'low_light']),
    (['--corruptions=all', '--severities=0,3'], ['--severities=0,3', '1 to 5']),
    (['--corruptions=all', '--severities=3,3'], ['--severities=3,3', 'twice']),
    (['--corruptions=all', '--severities='], ['--severities=', '1, 2, 3, 4, 5']),
    (['--severities=3'], ['--severities', '--corruptions']),
    (['--resume'], ['--resume', '--corruptions']),
    (['--compare=x'], ['--compare', '--corruptions']),
])
def test_flags_that_are_refused(flags, parts):
  with pytest.raises(UserError) as refused:
    settings.parse(EvaluateSettings, ['--ckpt=x', *flags])
  assert all(part in str(refused.value) for part in parts)


def test_bands_are_refused_before_anything_is_evaluated(run):
  config = json.loads((run / 'config.json').read_text())
  config['dataset']['reading'] = {'bands': ['red', 'green', 'blue', 'near'], 'dtype': 'uint16'}
  data_dir = write_split(run.parent / 'bands', drawn_sources())
  stats = json.loads((data_dir / 'val.json').read_text())
  (data_dir / 'val.json').write_text(json.dumps({**stats, 'reading': config['dataset']['reading']}))
  (run / 'config.json').unlink()
  (run / 'config.json').write_text(json.dumps(config))
  process = evaluated(run, '--corruptions=all', f'--data_dir={data_dir}')
  programs.assert_refused(process, '--corruptions', str(run), 'bands of uint16', 'near')
  assert not (run / 'metrics-val.json').exists()


@pytest.mark.parametrize('content,message', [
    ('[]', 'no result of'), ('{"mean_iou": 1}', 'no result of'), (None, 'metrics-val-corruptions.json'),
    ('{"mean_iou": "x", "class_iou": {}, "corruptions": {}}', 'no result of'),
    ('{"mean_iou": 1, "class_iou": {"a": 1}, "corruptions": {"fog": 7}}', 'lacks fog at severity 1'),
    ('{"mean_iou": 1, "class_iou": {"a": 1}, "corruptions": {"fog": {"1": {}}}}', 'lacks fog at severity 1')])
def test_what_cannot_be_compared_with(tmp_path, content, message):
  path = tmp_path / 'metrics-val-corruptions.json'
  if content is not None:
    path.write_text(content)
  with pytest.raises(UserError, match=message):
    robustness_report.read_before(str(tmp_path), str(path), Corruptions(('fog',)), ('a',))


def test_a_run_is_compared_with_whatever_temperature_it_has(tmp_path):
  """A temperature that was fitted is in the names of results, and is another for every run."""
  content = {'mean_iou': 0.5, 'class_iou': {'a': 0.5}, 'corruptions': {'fog': {'1': {'mean_iou': 0.25}}}}
  asked = Corruptions(('fog',), severities=(1,))
  read = lambda own: robustness_report.read_before(str(tmp_path), f'/of/{own}', asked, ('a',))
  name = 'metrics-val{}-samples_2-corruptions_fog.json'
  (tmp_path / name.format('-scales_1_2')).write_text('{}')
  (tmp_path / name.format('-temperature_1.3')).write_text(json.dumps(content | {'temperature': 1.3}))
  for own in ('', '-temperature_0.8'):
    assert read(name.format(own))['temperature'] == 1.3
  (tmp_path / name.format('')).write_text(json.dumps(content))
  assert 'temperature' not in read(name.format('')) and read(name.format('-temperature_1.3'))['temperature'] == 1.3
  with pytest.raises(UserError, match=r'--compare=.* holds metrics-val-samples_2-.*, .*1\.3-.*; name one of them'):
    read(name.format('-temperature_0.8'))


def test_what_hampers_a_comparison():
  one = {'split': 'held_out', 'precision': 'float32', 'hold_out': {'patterns': ['a*']}, 'mean_iou': 0.1}
  assert robustness_report.differences(one, dict(one, mean_iou=0.2)) == []
  assert robustness_report.differences(one, one | {'engine': 'x', 'hold_out': None}) == ['hold_out', 'engine']


def test_names_of_families_stand_for_their_corruptions():
  asked = Corruptions(('blur', 'fog', 'glass_blur'))
  assert asked.names == ('defocus_blur', 'glass_blur', 'motion_blur', 'zoom_blur', 'fog')
  assert asked.suffix == 'corruptions_blur_fog'
  assert Corruptions(('snow', 'fog')).suffix == Corruptions(('fog', 'snow')).suffix == 'corruptions_snow_fog'
  assert Corruptions(('fog', 'all')).names == tuple(CORRUPTIONS)
  assert Corruptions(('noise', 'blur', 'weather', 'digital')).suffix == 'corruptions'
  assert Corruptions().names == ()


def test_totals_by_hand():
  ious = {'fog': [0.6, 0.4], 'snow': [0.2, 0.0]}
  assert robustness.totals(ious, 0.75) == {'mpc': pytest.approx(0.3), 'rpc': pytest.approx(0.4)}
  assert robustness.totals(ious, 0.0)['rpc'] is None


def test_chart_shows_losses_means_and_what_was_before():
  chart = charts.severity_chart({'fog': [0.8, 0.2], 'snow': [0.4, 0.0]}, [1, 5], 'val', clean=0.8,
                                before={'fog': 0.25, 'snow': 0.6})
  blue, orange = ((chart == color).all(axis=-1) for color in (canvas.GAIN, canvas.SECOND))
  height = 14 * 3 + 6
  for row, (mean, then) in enumerate(((0.5, 0.25), (0.2, 0.6))):
    rows = slice(canvas.TOP + row * height, canvas.TOP + (row + 1) * height)
    for found, score in ((blue, mean), (orange, then)):
      assert abs(np.ptp(np.flatnonzero(found[rows].any(axis=0))) - 260 * score) <= 1
  navy = np.flatnonzero((chart == canvas.DARK).all(axis=-1).any(axis=1))  # all is lost: snow at severity 5
  assert navy.min() >= canvas.TOP + height and navy.max() < canvas.TOP + 2 * height
