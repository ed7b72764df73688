"""The study of choices: its flags are train.py's, its runs can be taken up again, its table and chart are right."""

import dataclasses
import functools
import json
import os
import signal

import numpy as np
import pytest
from programs import assert_refused
from script_flags import assert_flags

from datasets import convert, get_dataset
from utils import settings
from utils.drawing import canvas
from utils.errors import UserError
from utils.studies import ablations


def write_scores(folder, name, *, cpu_seconds=100.0, mean_iou=0.5, pole=0.1, file='metrics-val.json'):
  run_dir = folder / name
  run_dir.mkdir()
  scores = {'mean_iou': mean_iou, 'pixel_accuracy': 0.9, 'class_iou': {'pole': pole, 'sign': None},
            'details': {'boundary_f1': 0.4}}
  (run_dir / file).write_text(json.dumps(scores))
  (run_dir / 'cost.json').write_text(json.dumps({'cpu_seconds': cpu_seconds}))


@pytest.fixture
def measured(tmp_path):
  write_scores(tmp_path, 'lovasz-0', cpu_seconds=120.0, mean_iou=0.56, pole=0.2)
  write_scores(tmp_path, 'baseline-1', mean_iou=0.52, file='metrics-val-bfloat16.json')
  write_scores(tmp_path, 'baseline-0')
  (tmp_path / 'baseline-0' / 'metrics-val-flip.json').write_text('{"mean_iou": 0.9}')  # not the plain evaluation
  write_scores(tmp_path, 'noflip-0', mean_iou=0.3)  # no such choice
  (tmp_path / 'dice-0').mkdir()  # was interrupted
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

  def measure(self, name, folder, common=()):
    return ablations.measure(name, 1, str(folder), list(common), script=self.run, cpu_seconds=self.cpu_seconds)


def cost(folder, name):
  return json.loads((folder / name / 'cost.json').read_text())['cpu_seconds']


def test_every_choice_has_flags_that_train_knows():
  arguments = [[*ablations.BASELINE.split(), *options.split()] for stages in ablations.CHOICES.values()
               for options in stages]
  assert len({tuple(line) for line in arguments}) == len(arguments)
  assert_flags('train', arguments)


def test_a_choice_is_trained_and_evaluated_once(tmp_path, monkeypatch):
  """The one test that runs the scripts themselves."""
  shapes = get_dataset('shapes')
  few = dataclasses.replace(shapes, sources=lambda where, split: shapes.sources(where, split)[:2])
  for split in ('train', 'val'):
    convert.convert(few, split, source_dir=None, data_dir=str(tmp_path / 'data'), num_shards=1, num_workers=1,
                    progress=False)
  monkeypatch.setattr(ablations, 'BASELINE', '--dataset=shapes --net=segnet_basic --crop_size=31,63 --batch_size=1 '
                                             '--eval_steps=0 --max_steps=1')
  monkeypatch.setattr(ablations, 'CHOICES', {'dice': ['--loss=dice']})
  common = [f'--data_dir={tmp_path / "data"}', '--checkpoint=none', '--precision=float32']
  runs = tmp_path / 'runs'
  runs.mkdir()
  assert ablations.measure('dice', 3, str(runs), common)
  flags = json.loads((runs / 'dice-3' / 'config.json').read_text())['flags']
  assert flags['seed'] == 3 and flags['loss'] == 'dice'
  [score] = ablations.collect(str(runs))['dice']
  assert score['seed'] == 3 and score['cpu_seconds'] > 0 and 0 <= score['mean_iou'] <= 100
  assert 'step 1/1' in (runs / 'dice-3.log').read_text()
  again = Scripts([])
  assert ablations.measure('dice', 3, str(runs), common, script=again.run) and not again.calls


def test_a_staged_choice_goes_on_from_stage_to_stage(tmp_path):
  scripts = Scripts([0, 0, 0, 0])
  assert scripts.measure('staged', tmp_path, ['--precision=bfloat16'])
  calls = scripts.calls
  run_dirs = [f'{tmp_path}/staged-1-stage1', f'{tmp_path}/staged-1-stage2', f'{tmp_path}/staged-1']
  assert [call[-1] for call in calls[:3]] == [f'--run_dir={folder}' for folder in run_dirs]
  assert [[flag for flag in call if flag.startswith('--init_from=')] for call in calls[:3]] == [
      [], [f'--init_from={run_dirs[0]}'], [f'--init_from={run_dirs[1]}']]
  steps = [int(call[-3 if '--init_from' in call[-2] else -2].removeprefix('--max_steps=')) for call in calls[:3]]
  assert sum(steps) == 500 and f'--max_steps={sum(steps)}' in ablations.BASELINE
  assert calls[3] == ['evaluate.py', f'--ckpt={run_dirs[2]}', '--details', '--precision=bfloat16']


@pytest.mark.parametrize('code', [1, 130, 143, -9])
def test_a_training_that_fails_or_is_interrupted_is_not_scored(code, tmp_path):
  scripts = Scripts([0, code])
  assert not scripts.measure('staged', tmp_path)
  assert [call[0] for call in scripts.calls] == ['train.py', 'train.py']


def test_cpu_time_of_all_attempts_adds_up(tmp_path):
  assert not Scripts([143], [3000.0]).measure('lovasz', tmp_path)  # interrupted
  assert cost(tmp_path, 'lovasz-1') == 3000
  assert not Scripts([0, 1], [600.0, 50.0]).measure('lovasz', tmp_path)  # its evaluation failed
  assert Scripts([0, 0], [8.0, 50.0]).measure('lovasz', tmp_path)
  assert cost(tmp_path, 'lovasz-1') == 3608  # of training alone


def test_cpu_time_of_stages_adds_up_in_an_interrupted_study(tmp_path):
  with pytest.raises(KeyboardInterrupt):
    Scripts([0, KeyboardInterrupt()], [100.0, 20.0]).measure('staged', tmp_path)
  assert cost(tmp_path, 'staged-1') == 120
  assert Scripts([0, 0, 0, 0], [5.0, 40.0, 60.0, 9.0]).measure('staged', tmp_path)
  assert cost(tmp_path, 'staged-1') == 225


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
                         ['--only=baseline,lovasz', f'--output_dir={tmp_path}'])
  except SystemExit as error:
    ended = error.code
  assert ended == code and calls == ['train.py'] and (tmp_path / 'baseline-0' / 'cost.json').exists()
  assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
  assert 'Traceback' not in capsys.readouterr().err


def test_a_study_reports_failures_and_goes_on(measured, capsys):
  """What is finished is in the table; lovasz with seed 1 is not."""
  scripts = Scripts([1])
  ablations.study(ablations.AblationSettings(only=('baseline', 'lovasz'), seeds=(0, 1), output_dir=str(measured),
                                             data_dir='records', checkpoint='start.ckpt'), script=scripts.run)
  out = capsys.readouterr().out
  assert f'lovasz, seed 1: failed; {measured}/lovasz-1.log says why' in out and '+5.0' in out
  [call] = scripts.calls
  assert {'--data_dir=records', '--precision=float32', '--checkpoint=start.ckpt', '--seed=1'} <= set(call)


def test_table_and_chart_grow_with_every_run(measured, capsys):
  seen = []

  def script(name, arguments, log):
    if name == 'train.py':  # of lovasz with seed 1, after the runs that are there
      seen.append((measured / 'choices.md').read_text())
      assert (measured / 'choices.png').exists() and 'lovasz, seed 0: mean IoU 56.0' in capsys.readouterr().out
      return 1
    raise AssertionError(name)

  ablations.study(ablations.AblationSettings(only=('baseline', 'lovasz'), seeds=(0, 1), output_dir=str(measured)),
                  script=script)
  assert len(seen) == 1 and '+5.0' in seen[0]


def test_collect_reads_what_is_whole_in_the_order_of_the_choices(measured):
  found = ablations.collect(str(measured))
  assert list(found) == ['baseline', 'lovasz']
  assert [score['seed'] for score in found['baseline']] == [0, 1]
  assert found['lovasz'] == [{'seed': 0, 'cpu_seconds': 120.0, 'class_iou': {'pole': 20.0}, 'boundary_f1': 40.0,
                              'mean_iou': pytest.approx(56.0), 'pixel_accuracy': 90.0}]


@pytest.mark.parametrize('details', [{'details': {'boundary_f1': None}}, {}])
def test_a_run_without_boundary_scores_is_read(details, tmp_path):
  write_scores(tmp_path, 'baseline-0')
  scores = {'mean_iou': 0.5, 'pixel_accuracy': 0.9, 'class_iou': {}, **details}
  (tmp_path / 'baseline-0' / 'metrics-val.json').write_text(json.dumps(scores))
  found = ablations.collect(str(tmp_path))
  assert np.isnan(found['baseline'][0]['boundary_f1']) and found['baseline'][0]['mean_iou'] == 50
  assert '| 90.0 | nan | 50.0 |' in ablations.table(found)


def test_table_by_hand(measured):
  lines = ablations.table(ablations.collect(str(measured))).splitlines()
  cells = [[cell.strip() for cell in line.strip('|').split('|')] for line in lines]
  assert {len(line) for line in cells} == {len(cells[0])}
  assert cells[2][:9] == ['baseline', '', '0, 1', '1.00', '90.0', '40.0', '51.0', '', '10.0']
  assert cells[3][:3] == ['lovasz', '`--loss=cross_entropy+lovasz`', '0']
  assert cells[3][3:10] == ['1.20', '90.0', '40.0', '56.0', '+5.0', '20.0', 'nan']


def test_chart_has_a_bar_each_as_long_as_its_change():
  scores = lambda *values: [{'seed': seed, 'mean_iou': value, 'class_iou': {}} for seed, value in enumerate(values)]
  picture = ablations.chart({'baseline': scores(49.0, 51.0), 'lovasz': scores(60.0), 'ohem': scores(45.0)})
  blue, red = ((picture == color).all(axis=-1) for color in (canvas.GAIN, canvas.LOSS))
  widths = [int(mask.any(axis=0).sum()) for mask in (blue, red)]
  assert widths[0] == pytest.approx(10 / 15 * ablations._WIDTH, abs=2)
  assert widths[1] == pytest.approx(5 / 15 * ablations._WIDTH, abs=2)
  assert np.flatnonzero(blue.any(axis=1)).max() < np.flatnonzero(red.any(axis=1)).min()  # the best one comes first


def test_report_writes_table_and_chart(measured, capsys):
  ablations.report(str(measured))
  assert '+5.0' in (measured / 'choices.md').read_text() and '+5.0' in capsys.readouterr().out
  assert (measured / 'choices.png').stat().st_size > 0


def test_nothing_to_compare_with_is_said(tmp_path):
  write_scores(tmp_path, 'lovasz-0')
  with pytest.raises(UserError, match='baseline has not been measured'):
    ablations.report(str(tmp_path))


@pytest.mark.parametrize('flag, valid', [('--only=lovasz,rain', 'baseline, 32s'), ('--seeds=0,-1', '0 and above')])
def test_bad_flags_are_one_line(flag, valid, tmp_path, run_program):
  assert_refused(run_program(ablations.main, flag, f'--output_dir={tmp_path}'), flag, valid)
  assert not os.listdir(tmp_path)
