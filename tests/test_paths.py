"""Paths as people have them: any character in the folders of data and runs, ~ and variables in every flag."""

import dataclasses
import importlib
import io
import os
import re
import sys

import programs
import pytest
from few_shapes import convert_shapes, few_shapes
from test_walls import MODULES
from tiny import NAME

import evaluate
import inference
import train
from checkpoints import card, package
from datasets import convert, export, inspection
from utils import settings
from utils.export.__main__ import main as export_run
from utils.files import read_json
from utils.inference.files import split_at_commas
from utils.inference.settings import InferenceSettings
from utils.training import gradient_chart

PATH = re.compile(r'(^|_)(dir|from|ckpt|input|output|images|paths|list|checkpoint|dataset)_?$')
# Not paths: one of a few names; a number.
CLOSED = {('datasets.submission', 'dataset'), ('utils.studies.course_project', 'dataset'),
          ('checkpoints.package', 'num_images'), ('utils.export.settings', 'num_images'),
          ('utils.export.settings', 'calibration_images'), ('utils.studies.export_table', 'num_images'),
          ('utils.studies.benchmark_engines', 'num_images')}

pytestmark = pytest.mark.usefixtures('tiny')


def succeed(main, *words):
  result = programs.run(main, *words)
  assert result.returncode == 0, result.stdout + result.stderr
  assert 'two\nlines' not in result.stdout + result.stderr  # a path is shown on one line
  return result.stdout


@pytest.mark.parametrize('name', ['-exp[1] a*b a?b \\', 'http://日本',
                                  os.fsdecode(b'caf\xe9 "two\nlines" it\'s $UNKNOWN')])
def test_training_resuming_evaluation_and_inference_in_any_folder(name, tmp_path, monkeypatch):
  """Two of three checkpoints are kept; the event file and all results lie in the folder, and nothing beside it."""
  monkeypatch.chdir(tmp_path)
  data_dir, run_dir = os.path.join(name, 'data'), os.path.join(name, 'run')
  convert_shapes(data_dir, train=4, val=2, num_shards=1)
  args = (f'--net={NAME}', '--checkpoint=none', '--crop_size=31,31', '--batch_size=2', '--save_minutes=0',
          '--keep_checkpoints=2', '--summary_steps=1', '--eval_steps=1', f'--run_dir={run_dir}',
          f'--data_dir={data_dir}', '--summarize_gradients')
  succeed(train.main, *args, '--max_steps=2')
  assert 'resumed at step 2' in succeed(train.main, *args, '--max_steps=3')
  assert {'model.ckpt-2.index', 'model.ckpt-3.index', 'config.json', 'best', 'lock'} <= set(os.listdir(run_dir))
  assert 'model.ckpt-1.index' not in os.listdir(run_dir)
  assert len([entry for entry in os.listdir(run_dir) if entry.startswith('events')]) == 2
  succeed(evaluate.main, f'--ckpt={run_dir}')
  assert read_json(os.path.join(run_dir, 'metrics-val.json'))['num_images'] == 2
  succeed(export.main, f'--data_dir={data_dir}', f'--output_dir={name}/photos', '--count=1')
  succeed(inference.main, f'--ckpt={run_dir}/model.ckpt-2', f'--output_dir={name}/out', os.path.join(
      os.curdir, name, 'photos'))
  assert len(os.listdir(os.path.join(name, 'out'))) == 2
  succeed(inspection.main, '--dataset=shapes', f'--data_dir={data_dir}', '--splits=val', f'--output_dir={name}/look')
  succeed(card.main, f'--ckpt={run_dir}')
  succeed(package.main, f'--ckpt={run_dir}', f'--output={name}/run.zip', '--num_images=1')
  succeed(evaluate.main, f'--ckpt={name}/run.zip', f'--data_dir={data_dir}', f'--output_dir={name}/scores')
  succeed(export_run, f'--ckpt={run_dir}', '--format=pb,saved_model,tflite', '--num_images=1',
          f'--output_dir={name}/exported')
  succeed(gradient_chart.main, f'--run_dir={run_dir}', f'--output={name}/gradients.png')
  assert os.listdir(tmp_path) == [name.split('/')[0]]


def test_a_name_that_is_no_utf8_can_be_printed(monkeypatch):
  stream = io.TextIOWrapper(io.BytesIO(), 'utf-8')
  monkeypatch.setattr(sys, 'stdout', stream)
  assert settings.run(lambda made: print(made.run_dir), train.TrainSettings, ['--run_dir=caf\udce9']) == 0
  stream.flush()
  assert stream.buffer.getvalue() == b'caf\\udce9\n'


def records():
  """(module, record) of every program's settings."""
  for module in MODULES:
    if 'flag(' in MODULES[module].read_text(encoding='utf-8') and module != 'utils.settings':
      for value in vars(importlib.import_module(module)).values():
        if isinstance(value, type) and issubclass(value, settings.Settings) and value.__module__ == module:
          yield module, value


def fields(record):
  positional = [field for field in dataclasses.fields(record) if field.metadata.get('positional')]
  return [(name, field) for name, field, _ in settings.walk(record)] + [(field.name, field) for field in positional]


def test_every_flag_that_names_a_file_or_folder_is_a_path():
  found, wrong = set(), []
  for module, record in records():
    for name, field in fields(record):
      if PATH.search(name) and (module, name) not in CLOSED:
        found.add(name)
        wrong += [] if field.metadata['path'] else [f'{module} --{name}']
  assert wrong == []
  assert {'run_dir', 'data_dir', 'source_dir', 'ckpt', 'init_from', 'input', 'images', 'output', 'list'} <= found


# Flags of text that are no paths: names, numbers, patterns. A new flag of text is a path, or stands here.
NO_PATHS = {'split', 'splits', 'hold_out', 'group_by', 'fold', 'folds', 'labels', 'workers', 'host', 'cors_origins',
            'gpu', 'only', 'net', 'skip', 'bands', 'checkpoint_exclude_scopes', 'trainable_scopes', 'loss',
            'eval_split', 'train_split', 'engine', 'kinds', 'index'}


def test_every_flag_of_text_is_a_path_or_known_to_be_none():
  text = {(module, name, field.metadata['path']) for module, record in records() for name, field in fields(record)
          if settings._kind(field)[1] is str and not field.metadata['choices']}
  assert {(module, name) for module, name, is_path in text if is_path == (name in NO_PATHS)} == set()
  assert len({name for _, name, is_path in text if is_path}) > 20


def needed(record):
  """Words for the flags that a record requires."""
  return [f'--{name}={(field.metadata["choices"] or ("1",))[0]}' for name, field, _ in settings.walk(record)
          if field.metadata['required']]


def test_home_and_variables_in_every_path_of_every_program(home):
  seen = set()
  for module, record in records():
    for name, field in fields(record):
      if not field.metadata['path']:
        continue
      for given in ('~/x', '$HOME/x'):
        word = given if field.metadata['positional'] else f'--{name}={given}'
        made = unchecked(record, [*needed(record), word])
        found = settings.to_dict(made).get(name, getattr(made, name, None))
        assert found in (f'{home}/x', [f'{home}/x'], (f'{home}/x',)), (module, name, found)
      seen.add(module)
  assert len(seen) > 20


def unchecked(record, words):
  """What a record is made of, whatever its rules say of the values."""
  with pytest.MonkeyPatch.context() as patched:
    patched.setattr(record, 'check', lambda self: None)
    return settings.parse(record, words)


@dataclasses.dataclass(frozen=True)
class Paths(settings.Settings):
  folder: str | None = settings.flag(None, 'a folder', path=True)
  several: tuple[str, ...] = settings.flag((), 'several, with commas', path=True)
  input: tuple[str, ...] = settings.flag((), 'one each time', repeated=True, path=True)
  name: str = settings.flag('', 'no path')
  files: tuple[str, ...] = settings.flag((), 'the other words', positional=True, path=True)


@pytest.fixture
def home(tmp_path, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path))
  monkeypatch.setenv('PLACE', 'runs/x')
  monkeypatch.chdir(tmp_path)
  return str(tmp_path)


@pytest.mark.parametrize('given, meant', [
    ('~', '{}'), ('~/x', '{}/x'), ('$HOME/x', '{}/x'), ('${PLACE}', 'runs/x'), ('a/$PLACE', 'a/runs/x'),
    ('~/$PLACE/~', '{}/runs/x/~'), ('./~', './~'), ('a~', 'a~'), ('$UNSET_HERE', '$UNSET_HERE'), ('', '')])
def test_home_and_variables_in_all_kinds_of_flags(home, given, meant):
  meant = meant.format(home)
  made = settings.parse(Paths, [f'--folder={given}', f'--several=y,{given}', f'--input={given}', '--input=z',
                                f'--name={given}', given, 'last'])
  assert made == Paths(meant, tuple(filter(None, ('y', meant))), (meant, 'z'), given, (meant, 'last'))
  assert settings.parse(Paths, []).folder is None


def test_home_and_variables_in_flag_files(home, tmp_path):
  (tmp_path / 'runs/x').mkdir(parents=True)
  (tmp_path / 'outer.flags').write_text('--flagfile=$HOME/$PLACE/inner.flags\n--name=outer\n')
  (tmp_path / 'runs/x/inner.flags').write_text('--folder=~/photos\n')
  for word in ('--flagfile=~/outer.flags', '--flagfile=$HOME/outer.flags', '-flagfile=${HOME}/outer.flags'):
    assert settings.parse(Paths, [word]) == Paths(f'{home}/photos', name='outer')
  assert settings.parse(Paths, ['--flagfile', '$HOME/outer.flags']).name == 'outer'
  (tmp_path / 'null.flags').write_bytes(b'--folder=a\0b\n')
  with pytest.raises(settings.UserError, match=r'^--folder=a\\x00b: a null character is in it$'):
    settings.parse(Paths, ['--flagfile=null.flags'])
  (tmp_path / 'latin1.flags').write_bytes(b'--name=caf\xe9\n')
  with pytest.raises(settings.UserError, match='codec can'):
    settings.parse(Paths, ['--flagfile=latin1.flags'])


def test_a_file_that_is_there_keeps_its_dollar(home, tmp_path):
  (tmp_path / '$PLACE.jpg').touch()
  assert settings.parse(Paths, ['$PLACE.jpg', '$PLACE.png']).files == ('$PLACE.jpg', 'runs/x.png')


def test_programs_understand_home(home, tmp_path):
  with few_shapes(val=3):
    succeed(convert.main, '--dataset=shapes', '--data_dir=~/data', '--splits=val', '--num_workers=1')
  succeed(export.main, '--data_dir=$HOME/data', '--output_dir=~/photos', '--count=1')
  assert sorted(os.listdir(home)) == ['data', 'photos']
  programs.assert_refused(programs.run(evaluate.main, '--ckpt=~/gone'), f'{home}/gone')


def test_home_in_each_part_of_a_value_with_commas(home):
  made = settings.parse(InferenceSettings, ['--ckpt=~/run', '--input=~/a,~/b c,$PLACE'])
  assert split_at_commas(made.input) == [f'{home}/a', f'{home}/b c', 'runs/x'] and made.ckpt == f'{home}/run'
