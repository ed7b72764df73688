"""The study of choices: its flags are train.py's, its runs can be taken up again, its table and chart are right."""

import dataclasses
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from datasets import convert, get_dataset
from utils.errors import UserError
from utils.studies import ablations

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def write_scores(folder, name, *, cpu_seconds=100.0, mean_iou=0.5, pole=0.1):
  run_dir = folder / name
  run_dir.mkdir()
  scores = {'mean_iou': mean_iou, 'pixel_accuracy': 0.9, 'class_iou': {'pole': pole, 'sign': None},
            'details': {'boundary_f1': 0.4}}
  (run_dir / 'metrics-val.json').write_text(json.dumps(scores))
  (run_dir / 'cost.json').write_text(json.dumps({'cpu_seconds': cpu_seconds}))


@pytest.fixture
def measured(tmp_path):
  write_scores(tmp_path, 'lovasz-0', cpu_seconds=120.0, mean_iou=0.56, pole=0.2)
  write_scores(tmp_path, 'baseline-1', mean_iou=0.52)
  write_scores(tmp_path, 'baseline-0')
  write_scores(tmp_path, 'noflip-0', mean_iou=0.3)  # no such choice
  (tmp_path / 'dice-0').mkdir()  # was interrupted
  return tmp_path


def test_every_choice_has_flags_that_train_knows():
  code = ('import sys, json, train\n'
          'for arguments in json.load(sys.stdin):\n'
          '  train.FLAGS.unparse_flags()\n'
          '  train.FLAGS(["train.py", *arguments])\n')
  arguments = [[*ablations.BASELINE.split(), *options.split()] for stages in ablations.CHOICES.values()
               for options in stages]
  assert len({tuple(line) for line in arguments}) == len(arguments)
  subprocess.run([sys.executable, '-c', code], input=json.dumps(arguments), text=True, cwd=ROOT, check=True)


def test_a_choice_is_trained_and_evaluated_once(tmp_path, monkeypatch):
  shapes = get_dataset('shapes')
  few = dataclasses.replace(shapes, sources=lambda where, split: shapes.sources(where, split)[:2])
  for split in ('train', 'val'):
    convert.convert(few, split, source_dir=None, data_dir=str(tmp_path / 'data'), num_shards=1, num_workers=1,
                    progress=False)
  monkeypatch.setattr(ablations, 'BASELINE', '--dataset=shapes --net=segnet_basic --crop_size=31,63 --batch_size=1 '
                                           '--eval_steps=0 --max_steps=1')
  monkeypatch.setattr(ablations, 'CHOICES', {'dice': ['--loss=dice'], 'rain': ['--loss=rain']})
  common = [f'--data_dir={tmp_path / "data"}', '--checkpoint=none', '--precision=float32']
  runs = tmp_path / 'runs'
  runs.mkdir()
  assert ablations.measure('dice', 3, str(runs), common)
  flags = json.loads((runs / 'dice-3' / 'config.json').read_text())['flags']
  assert flags['seed'] == 3 and flags['loss'] == 'dice'
  [score] = ablations.collect(str(runs))['dice']
  assert score['seed'] == 3 and score['cpu_seconds'] > 1 and 0 <= score['mean_iou'] <= 100
  log = (runs / 'dice-3.log').read_text()
  assert ablations.measure('dice', 3, str(runs), common)
  assert (runs / 'dice-3.log').read_text() == log
  assert not ablations.measure('rain', 0, str(runs), common)
  assert 'error: --loss=rain' in (runs / 'rain-0.log').read_text()


def test_a_staged_choice_goes_on_from_stage_to_stage(tmp_path, monkeypatch):
  calls = []

  def script(name, arguments, log):
    calls.append([name, *arguments])
    os.makedirs(arguments[-1].removeprefix('--run_dir='), exist_ok=True)
    return 0

  monkeypatch.setattr(ablations, '_script', script)
  assert ablations.measure('staged', 1, str(tmp_path), ['--precision=bfloat16'])
  run_dirs = [f'{tmp_path}/staged-1-stage1', f'{tmp_path}/staged-1-stage2', f'{tmp_path}/staged-1']
  assert [call[-1] for call in calls[:3]] == [f'--run_dir={folder}' for folder in run_dirs]
  assert [[flag for flag in call if flag.startswith('--init_from=')] for call in calls[:3]] == [
      [], [f'--init_from={run_dirs[0]}'], [f'--init_from={run_dirs[1]}']]
  steps = [int(call[-3 if '--init_from' in call[-2] else -2].removeprefix('--max_steps=')) for call in calls[:3]]
  assert sum(steps) == 500 and f'--max_steps={sum(steps)}' in ablations.BASELINE
  assert calls[3] == ['evaluate.py', f'--ckpt={run_dirs[2]}', '--details', '--precision=bfloat16']


def test_collect_reads_what_is_whole_in_the_order_of_the_choices(measured):
  found = ablations.collect(str(measured))
  assert list(found) == ['baseline', 'lovasz']
  assert [score['seed'] for score in found['baseline']] == [0, 1]
  assert found['lovasz'] == [{'seed': 0, 'cpu_seconds': 120.0, 'class_iou': {'pole': 20.0}, 'boundary_f1': 40.0,
                              'mean_iou': pytest.approx(56.0), 'pixel_accuracy': 90.0}]


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
  blue, red = ((picture == color).all(axis=-1) for color in (ablations._GAIN, ablations._LOSS))
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


@pytest.mark.parametrize('flag', ['--only=lovasz,rain', '--seeds=0,-1'])
def test_bad_flags_are_one_line(flag, tmp_path):
  result = subprocess.run([sys.executable, '-m', 'utils.studies.ablations', flag, f'--output_dir={tmp_path}'], cwd=ROOT,
                          capture_output=True, text=True, check=False)
  assert result.returncode == 1 and len(result.stderr.strip().splitlines()) == 1
  assert flag.split(',')[-1] in result.stderr and not os.listdir(tmp_path)
