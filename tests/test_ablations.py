"""The study of choices: its flags are train.py's, its runs can be taken up again, its table and chart are right."""

import functools
import json
import os
import pathlib
import signal

import numpy as np
import pytest
from few_shapes import convert_shapes
from programs import assert_refused
from script_flags import assert_flags

from datasets import pipeline
from utils import settings
from utils.drawing import canvas
from utils.errors import UserError
from utils.studies import ablations

FOLDS = ('north*', 'dusk_?')


def write_scores(folder, name, *, cpu_seconds=100.0, mean_iou=0.5, pole=0.1, file='metrics-held_out.json'):
  run_dir = folder / name
  run_dir.mkdir()
  scores = {'mean_iou': mean_iou, 'pixel_accuracy': 0.9, 'class_iou': {'pole': pole, 'sign': None},
            'details': {'boundary_f1': 0.4}}
  (run_dir / file).write_text(json.dumps(scores))
  (run_dir / 'cost.json').write_text(json.dumps({'cpu_seconds': cpu_seconds}))


@pytest.fixture
def measured(tmp_path):
  """Runs of two folds: the baseline's mean is 50 with seed 0 and 54 with seed 1, that of dice 56."""
  write_scores(tmp_path, 'dice-0-north', cpu_seconds=120.0, mean_iou=0.5, pole=0.2)
  write_scores(tmp_path, 'dice-0-dusk', cpu_seconds=140.0, mean_iou=0.62, pole=None)
  write_scores(tmp_path, 'baseline-1-north', mean_iou=0.48, file='metrics-held_out-bfloat16.json')
  write_scores(tmp_path, 'baseline-1-dusk', mean_iou=0.6)
  write_scores(tmp_path, 'baseline-0-dusk', mean_iou=0.54)
  write_scores(tmp_path, 'baseline-0-north', mean_iou=0.46)
  (tmp_path / 'baseline-0-dusk' / 'metrics-held_out-flip.json').write_text('{"mean_iou": 0.9}')  # not the plain one
  (tmp_path / 'baseline-0-dusk' / 'metrics-val.json').write_text('{"mean_iou": 0.9}')  # not the fold
  write_scores(tmp_path, 'noflip-0-north', mean_iou=0.3)  # no such choice
  write_scores(tmp_path, 'gamma-0-north', mean_iou=0.9)  # one fold is missing
  write_scores(tmp_path, 'dice-1-north', mean_iou=0.9)
  (tmp_path / 'dice-1-dusk').mkdir()  # was interrupted
  return tmp_path


class Scripts:
  """Stands for scripts.run and scripts.cpu_seconds: calls end with `codes` (or raise them) after `seconds` of CPU."""

  def __init__(self, codes, seconds=()):
    self._codes, self._seconds, self.calls, self.spent = iter(codes), iter(seconds), [], 0.0

  def run(self, name, arguments, log):
    self.calls.append([name, *arguments])
    self.spent += next(self._seconds, 1.0)
    code = next(self._codes)
    if isinstance(code, BaseException):
      raise code
    return code

  def cpu_seconds(self):
    return self.spent

  def measure(self, name, folder, **settings):
    return ablations.measure(study(folder, **settings), name, 1, 'dusk_?', script=self.run,
                             cpu_seconds=self.cpu_seconds)


def study(folder, **settings):
  return ablations.AblationSettings(**{'only': ('baseline', 'dice'), 'folds': FOLDS, 'output_dir': str(folder),
                                       **settings})


def cost(folder, name):
  return json.loads((folder / name / 'cost.json').read_text())['cpu_seconds']


@pytest.mark.parametrize('name', ablations.STUDIES)
def test_every_choice_has_flags_that_train_knows(name):
  compared = ablations.STUDIES[name]
  arguments = [[*compared.flags.split(), *options.format(vgg='vgg.ckpt').split()]
               for stages in compared.choices.values() for options in stages]
  assert len({tuple(line) for line in arguments}) == len(arguments)
  assert_flags('train', arguments)


def test_a_choice_is_trained_and_scored_once(tmp_path, monkeypatch):
  """The one test that runs the scripts themselves. The fold is not trained on, and what is held out is scored."""
  convert_shapes(str(tmp_path / 'data'), train=3, val=3, num_shards=1)
  fold = next(name for name, _, _ in pipeline.examples(str(tmp_path / 'data'), 'train'))
  monkeypatch.setitem(ablations.STUDIES, 'choices', ablations.Study(
      '--dataset=shapes --net=segnet_basic --crop_size=31,63 --batch_size=1 --eval_steps=0 --max_steps=1',
      {'dice': ['--loss=dice']}))
  runs = tmp_path / 'runs'
  settings_ = study(runs, only=(), folds=(fold,), data_dir=str(tmp_path / 'data'), checkpoint='none')
  runs.mkdir()
  assert ablations.measure(settings_, 'dice', 3, fold)
  run_dir = pathlib.Path(settings_.run_dir('dice', 3, fold))
  flags = json.loads((run_dir / 'config.json').read_text())['flags']
  assert flags['seed'] == 3 and flags['loss'] == 'dice' and flags['hold_out'] == [fold]
  assert json.loads((run_dir / 'metrics-held_out.json').read_text())['num_images'] == 1
  [score] = ablations.collect(settings_)['dice']
  assert score['seed'] == 3 and score['cpu_seconds'] > 0 and 0 <= score['mean_iou'] <= 100
  assert 'step 1/1' in pathlib.Path(f'{run_dir}.log').read_text()
  again = Scripts([])
  assert ablations.measure(settings_, 'dice', 3, fold, script=again.run) and not again.calls


def test_a_staged_choice_goes_on_from_stage_to_stage(tmp_path):
  scripts = Scripts([0, 0, 0, 0])
  assert scripts.measure('staged', tmp_path, precision='bfloat16')
  calls = scripts.calls
  run_dirs = [f'{tmp_path}/staged-1-dusk{stage}' for stage in ('-stage1', '-stage2', '')]
  assert [call[-1] for call in calls[:3]] == [f'--run_dir={folder}' for folder in run_dirs]
  assert [[flag for flag in call if flag.startswith('--init_from=')] for call in calls[:3]] == [
      [], [f'--init_from={run_dirs[0]}'], [f'--init_from={run_dirs[1]}']]
  steps = [int(call[-3 if '--init_from' in call[-2] else -2].removeprefix('--max_steps=')) for call in calls[:3]]
  assert all('--hold_out=dusk_?' in call for call in calls[:3])
  assert sum(steps) == 600 and f'--max_steps={sum(steps)}' in ablations.STUDIES['choices'].flags
  assert calls[3] == ['evaluate.py', f'--ckpt={run_dirs[2]}', '--split=held_out', '--details', '--precision=bfloat16']


@pytest.mark.parametrize('code', [1, 130, 143, -9])
def test_a_training_that_fails_or_is_interrupted_is_not_scored(code, tmp_path):
  scripts = Scripts([0, code])
  assert not scripts.measure('staged', tmp_path)
  assert [call[0] for call in scripts.calls] == ['train.py', 'train.py']


def test_cpu_time_of_all_attempts_adds_up(tmp_path):
  assert not Scripts([143], [3000.0]).measure('dice', tmp_path)  # interrupted
  assert cost(tmp_path, 'dice-1-dusk') == 3000
  assert not Scripts([0, 1], [600.0, 50.0]).measure('dice', tmp_path)  # its evaluation failed
  assert Scripts([0, 0], [8.0, 50.0]).measure('dice', tmp_path)
  assert cost(tmp_path, 'dice-1-dusk') == 3608  # of training alone


def test_cpu_time_of_stages_adds_up_in_an_interrupted_study(tmp_path):
  with pytest.raises(KeyboardInterrupt):
    Scripts([0, KeyboardInterrupt()], [100.0, 20.0]).measure('staged', tmp_path)
  assert cost(tmp_path, 'staged-1-dusk') == 120
  assert Scripts([0, 0, 0, 0], [5.0, 40.0, 60.0, 9.0]).measure('staged', tmp_path)
  assert cost(tmp_path, 'staged-1-dusk') == 225


@pytest.fixture
def heeds_interrupts():
  """Makes Ctrl-C count even where pytest runs in the background of a shell, which makes its jobs ignore Ctrl-C."""
  before = signal.signal(signal.SIGINT, signal.default_int_handler)
  yield
  signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize('interrupt, code', [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_ends_the_study(interrupt, code, heeds_interrupts, tmp_path, capsys):
  """No choice after the interrupted one is begun, and no handler is left."""
  before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
  calls = []

  def script(name, arguments, log):
    calls.append(name)
    signal.raise_signal(interrupt)

  try:
    ended = settings.run(functools.partial(ablations.study, script=script), ablations.AblationSettings,
                         ['--only=baseline,dice', f'--output_dir={tmp_path}'])
  except SystemExit as error:
    ended = error.code
  assert ended == code and calls == ['train.py'] and (tmp_path / 'baseline-0-0006R0' / 'cost.json').exists()
  assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
  assert 'Traceback' not in capsys.readouterr().err


def test_a_study_reports_failures_and_goes_on(measured, capsys):
  """What is finished in both folds is in the table; dice with seed 1 is not."""
  scripts = Scripts([1])
  ablations.study(study(measured, seeds=(0, 1), data_dir='records', checkpoint='start.ckpt'), script=scripts.run)
  out = capsys.readouterr().out
  assert f'dice, seed 1, without dusk_?: failed; {measured}/dice-1-dusk.log says why' in out and '+4.0' in out
  [call] = scripts.calls
  assert {'--data_dir=records', '--precision=float32', '--checkpoint=start.ckpt', '--seed=1', '--threads=0',
          '--hold_out=dusk_?'} <= set(call)


def test_table_and_chart_grow_with_every_run(measured, capsys):
  seen = []

  def script(name, arguments, log):
    if name == 'train.py':  # of dice with seed 1, after the runs that are there
      seen.append((measured / 'choices.md').read_text())
      assert (measured / 'choices.png').exists()
      assert 'dice, seed 0, without dusk_?: mean IoU 62.0' in capsys.readouterr().out
      return 1
    raise AssertionError(name)

  ablations.study(study(measured, seeds=(0, 1)), script=script)
  assert len(seen) == 1 and '+4.0' in seen[0]


def test_collect_reads_what_is_finished_in_every_fold_in_the_order_of_the_choices(measured):
  found = ablations.collect(study(measured))
  assert list(found) == ['baseline', 'dice']
  assert [score['seed'] for score in found['baseline']] == [0, 1]
  assert found['dice'] == [{'seed': 0, 'folds': pytest.approx([50.0, 62.0]), 'cpu_seconds': 130.0,
                            'class_iou': {'pole': 20.0}, 'boundary_f1': 40.0, 'mean_iou': pytest.approx(56.0),
                            'pixel_accuracy': 90.0}]


@pytest.mark.parametrize('details', [{'details': {'boundary_f1': None}}, {}])
def test_a_run_without_boundary_scores_is_read(details, tmp_path):
  write_scores(tmp_path, 'baseline-0-north')
  scores = {'mean_iou': 0.5, 'pixel_accuracy': 0.9, 'class_iou': {}, **details}
  (tmp_path / 'baseline-0-north' / 'metrics-held_out.json').write_text(json.dumps(scores))
  found = ablations.collect(study(tmp_path, folds=FOLDS[:1]))
  assert np.isnan(found['baseline'][0]['boundary_f1']) and found['baseline'][0]['mean_iou'] == 50
  assert '| 90.0 | nan | 50.0 | 50.0 |' in ablations.table(found, study(tmp_path, folds=FOLDS[:1]))


def test_table_by_hand(measured):
  lines = ablations.table(ablations.collect(study(measured)), study(measured)).splitlines()
  cells = [[cell.strip() for cell in line.strip('|').split('|')] for line in lines]
  assert {len(line) for line in cells} == {len(cells[0])}
  assert cells[0][6:8] == ['without north*', 'without dusk_?']
  assert cells[2][:12] == [
      'baseline', '', '0, 1', '1.00', '90.0', '40.0', '47.0', '57.0', '52.0', '4.0', '', '10.0']
  assert cells[3][:3] == ['dice', '`--loss=cross_entropy+dice`', '0']
  assert cells[3][3:13] == ['1.30', '90.0', '40.0', '50.0', '62.0', '56.0', '', '+4.0', '20.0', 'nan']


def test_chart_has_a_bar_each_as_long_as_its_change():
  picture = ablations.chart({'baseline': [49.0, 51.0], 'dice': [60.0], 'ohem': [45.0]})
  blue, red = ((picture == color).all(axis=-1) for color in (canvas.GAIN, canvas.LOSS))
  widths = [int(mask.any(axis=0).sum()) for mask in (blue, red)]
  assert widths[0] == pytest.approx(10 / 15 * ablations._WIDTH, abs=2)
  assert widths[1] == pytest.approx(5 / 15 * ablations._WIDTH, abs=2)
  assert np.flatnonzero(blue.any(axis=1)).max() < np.flatnonzero(red.any(axis=1)).min()  # the best one comes first


def test_report_writes_table_and_chart(measured, capsys):
  ablations.report(study(measured))
  assert '+4.0' in (measured / 'choices.md').read_text() and '+4.0' in capsys.readouterr().out
  assert (measured / 'choices.png').stat().st_size > 0


def test_nothing_to_compare_with_is_said(tmp_path):
  write_scores(tmp_path, 'dice-0-north')
  with pytest.raises(UserError, match=r'baseline has not been measured in north\* and dusk_\?'):
    ablations.report(study(tmp_path))


@pytest.mark.parametrize('flag, valid', [
    ('--only=rain', 'baseline, color'), ('--study=weather', 'choices, recipes, networks'),
    ('--seeds=0,-1', '0 and above')])
def test_bad_flags_are_one_line(flag, valid, tmp_path, run_program):
  assert_refused(run_program(ablations.main, flag, f'--output_dir={tmp_path}'), flag, valid)
  assert not os.listdir(tmp_path)


def test_networks_are_compared_from_their_own_weights(tmp_path):
  scripts = Scripts([0, 0])
  assert scripts.measure('vgg_16', tmp_path, study='networks', only=('vgg_16',), checkpoint='inception.ckpt',
                         vgg_checkpoint='vgg.ckpt')
  assert [word for word in scripts.calls[0] if 'checkpoint' in word][-1] == '--checkpoint=vgg.ckpt'
  with pytest.raises(UserError, match='name them by --vgg_checkpoint'):
    study(tmp_path, study='networks', only=('inception_v3', 'segnet')).check()
