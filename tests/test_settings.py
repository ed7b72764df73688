"""Settings: command lines become frozen records, and bad values one line each."""

import dataclasses

import programs
import pytest

import evaluate
import inference
import train
from utils import settings
from utils.errors import UserError, listed
from utils.evaluation.settings import EvaluateSettings
from utils.files import commit
from utils.inference.settings import InferenceSettings
from utils.settings import Settings, flag, group
from utils.training.settings import TrainSettings

pytestmark = pytest.mark.fast


@dataclasses.dataclass(frozen=True)
class Inner(Settings):
  width: float = flag(3.0, 'width in pixels', least=1)
  least: int = flag(1, 'least', least=0)
  most: int = flag(4, 'most', least=0)

  def check(self):
    super().check()
    if self.least > self.most:
      raise UserError(f'--inner_least={self.least} is above --inner_most={self.most}')


@dataclasses.dataclass(frozen=True)
class Outer(Settings):
  name: str = flag(None, 'a name', required=True)
  steps: int = flag(4000, 'steps', least=1, most=9000, may_change=True)
  rate: float | None = flag(None, 'rate', least=0)
  size: tuple[int, int] = flag((319, 415), 'H,W', least=1, length=2)
  scales: tuple[float, ...] = flag((1.0,), 'scales', most=4)
  flip: bool = flag(True, 'mirror')
  kind: str = flag('poly', 'kind', choices=('poly', 'step'))
  input: tuple[str, ...] = flag((), 'input', repeated=True)
  list_: str | None = flag(None, 'list')
  inner: Inner = group(Inner, prefix='inner_')
  files: tuple[str, ...] = flag((), 'files', positional=True)


def parse(*argv):
  return settings.parse(Outer, ['--name=x', *argv])


def test_every_kind_of_flag():
  made = parse('a.jpg', '--steps=7', '--rate=1e-4', '--size=3, 4', '--scales=0.5,1', '--noflip', '--kind=step',
               '--input=p', '--input=q', '--list=names.txt', '--inner_width=2', 'b.jpg')
  assert made == Outer('x', 7, 1e-4, (3, 4), (0.5, 1.0), False, 'step', ('p', 'q'), 'names.txt', Inner(2.0),
                       ('a.jpg', 'b.jpg'))
  with pytest.raises(dataclasses.FrozenInstanceError):
    made.steps = 8


def test_defaults_and_flag_files(tmp_path):
  (tmp_path / 'x.flags').write_text('# a recipe\n--steps=9\n--inner_width=5\n')
  assert parse() == Outer('x')
  assert parse(f'--flagfile={tmp_path / "x.flags"}', '--inner_width=6') == Outer('x', 9, inner=Inner(6.0))


@pytest.mark.parametrize('word, parts', [
    ('--steps=0', ['--steps=0', '1 to 9000']),
    ('--steps=9001', ['--steps=9001', '1 to 9000']),
    ('--steps=many', ['--steps=many', 'a whole number is wanted']),
    ('--rate=-1', ['--rate=-1', '0 and above']),
    ('--rate=nan', ['--rate=nan', 'a finite number is wanted']),
    ('--size=3', ['--size=3', 'two numbers are wanted', '319,415']),
    ('--size=3,x', ['--size=3,x', 'two numbers are wanted']),
    ('--size=3,0', ['--size=3,0', '1 and above']),
    ('--scales=1,inf', ['--scales=1,inf', 'a finite number']),
    ('--kind=cosine', ['--kind=cosine', 'poly, step']),
    ('--flip=perhaps', ['--flip=perhaps']),
    ('--inner_width=0', ['--inner_width=0', '1 and above']),
    ('--inner_least=5', ['--inner_least=5 is above --inner_most=4']),
    ('--width=2', ['width', '--help lists all flags']),
])
def test_a_bad_value_is_named_with_the_valid_ones(word, parts):
  with pytest.raises(UserError) as error:
    parse(word)
  for part in parts:
    assert part in str(error.value)


@pytest.mark.parametrize('digits', [19, 20, 400])
def test_whole_numbers_beyond_64_bits_are_refused(digits):
  """Also where a flag names no greatest; a seed made of the time fits."""
  for record, word in ((TrainSettings, '--seed'), (EvaluateSettings, '--seed'), (TrainSettings, '--max_steps')):
    with pytest.raises(UserError, match=f'^{word}=9+: the greatest whole number that can be given is {2**62}'):
      settings.parse(record, ['--ckpt=x'][:record is EvaluateSettings] + [f'{word}={"9" * digits}'])
  assert settings.parse(TrainSettings, ['--seed=1764320000123456789']).seed == 1764320000123456789


def test_records_made_by_hand_are_checked_alike():
  with pytest.raises(UserError, match='^--steps=0: valid are 1 to 9000'):
    Outer('x', steps=0).check()
  with pytest.raises(UserError, match='^--inner_least=9 is above'):
    Outer('x', inner=Inner(least=9)).check()


def test_missing_flags_and_unexpected_arguments_are_refused():
  with pytest.raises(UserError, match='--name: must be given'):
    settings.parse(Outer, [])
  with pytest.raises(UserError, match="unexpected argument 'photo.jpg'"):
    settings.parse(Inner, ['photo.jpg'])


def test_command_lines_and_plain_values():
  made = parse('--noflip', '--scales=0.5,1', '--input=p q', '--inner_width=2.5')
  assert settings.command_line(made) == "--name=x --scales=0.5,1 --noflip '--input=p q' --inner_width=2.5"
  values = settings.to_dict(made)
  assert list(values)[:4] == ['name', 'steps', 'rate', 'size'] and values['list'] is None
  assert (values['scales'], values['input'], values['inner_width']) == ([0.5, 1.0], ['p q'], 2.5)
  assert settings.changeable(Outer) == {'steps'}


def test_a_program_ends_with_a_line_and_a_code(capsys):
  seen = []
  assert settings.run(seen.append, Outer, ['--name=x', '--steps=2']) == 0 and seen == [Outer('x', 2)]
  assert settings.run(lambda made: 3, Outer, ['--name=x']) == 3
  assert settings.run(seen.append, Outer, ['--name=x', '--steps=0']) == 1 and len(seen) == 1
  assert capsys.readouterr().err == 'error: --steps=0: valid are 1 to 9000\n'

  def interrupted(made):
    raise KeyboardInterrupt

  assert settings.run(interrupted, Outer, ['--name=x']) == 130


@pytest.mark.parametrize('main, record', [
    (train.main, TrainSettings), (evaluate.main, EvaluateSettings), (inference.main, InferenceSettings)])
def test_help_has_a_line_for_each_flag(main, record):
  result = programs.run(main, '--help')
  assert result.returncode == 0 and result.stderr == ''
  lines = result.stdout.splitlines()
  assert result.stdout.count('python ') >= 1  # the example commands stand above
  for name, field, _ in settings.walk(record):
    [line] = [line for line in lines if line.strip().removeprefix('--').removeprefix('[no]').startswith(f'{name}: ')]
    assert field.metadata['text'] in line
    assert not field.metadata['text'].startswith('of '), line


def test_the_version_is_said(monkeypatch, capsys):
  assert parse('--version') is None and settings.parse(Outer, ['--version']) is None  # --name is not asked for
  assert capsys.readouterr().out == 2 * f'fcn-googlenet {commit() or "of an unknown commit"}\n'
  monkeypatch.setattr(settings, 'commit', lambda: None)
  assert settings.run(None, Outer, ['--version']) == 0
  assert capsys.readouterr().out == 'fcn-googlenet of an unknown commit\n'


def test_a_recipe_of_the_project_is_found_from_everywhere(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  assert settings.parse(TrainSettings, ['--flagfile=demo.flags']).data.dataset == 'shapes'
  (tmp_path / 'demo.flags').write_text('--dataset=voc\n')  # one that is here comes first
  assert settings.parse(TrainSettings, ['--flagfile=demo.flags']).data.dataset == 'voc'
  assert settings.parse(TrainSettings, ['--flagfile=camvid-trainval.flags']).model.decoder_channels == 64
  for name in ('./camvid.flags', 'other.flags', 'docs'):
    with pytest.raises(UserError, match=name):
      settings.parse(TrainSettings, [f'--flagfile={name}'])


def test_names_of_flags_are_unique():
  for record in (TrainSettings, EvaluateSettings, InferenceSettings):
    names = [name for name, _, _ in settings.walk(record)]
    assert len(set(names)) == len(names)


def test_the_first_few_of_many_names():
  assert listed('abc') == 'a, b, c' and listed('abcdefg') == 'a, b, c, d, e and 2 more'
  assert listed(['x', 'y'], 1, '; ') == 'x and 1 more'


@pytest.mark.parametrize('record, words, message', [
    (InferenceSettings, ['--crf_steps=3'], '--crf_steps=3: is for --crf, which is not given'),
    (EvaluateSettings, ['--crf_bilateral_rgb=4.5'], '--crf_bilateral_rgb=4.5: is for --crf, which is not given'),
    (InferenceSettings, ['--rank_count=3'], '--rank_count=3: is for --rank, which is not given'),
    (InferenceSettings, ['--uncertainty=entropy'], '--uncertainty=entropy: is for --samples, which is not given'),
    (InferenceSettings, ['--submission', '--probabilities'], '--submission: not together with --probabilities')])
def test_flags_that_would_do_nothing_are_refused(record, words, message):
  with pytest.raises(UserError) as error:
    settings.parse(record, ['--ckpt=x', *words])
  assert str(error.value).startswith(message)
