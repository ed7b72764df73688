"""The campaign of bad input: its ways of damage, its judgment, and a small part of it."""

import json
import os
import pathlib
import sys
import time

import forks
import pytest

from utils.errors import UserError
from utils.settings import parse
from utils.studies import bad_input, bad_input_kinds
from utils.studies.damage import WAYS, damaged

DATA = bytes(range(256)) * 4
KINDS = ('JPEG', 'label of colors', 'classes.txt', 'LabelMe JSON', 'CVAT XML', 'zip', 'tar', '.caffemodel', '.mat')
NOTHING = bad_input_kinds.Kind(make=lambda folder: None, files='*', use=lambda folder: None, result=lambda out: None)


@pytest.mark.fast
@pytest.mark.parametrize('way', WAYS)
@pytest.mark.parametrize('seed', range(5))
def test_damage(way, seed):
  data = json.dumps({'a': [1, {'b': 'c'}], 'd': None}).encode() * (way == 'value') or DATA
  found = damaged(way, data, [seed, 1])
  assert found != data and found == damaged(way, data, [seed, 1])
  assert {'cut': data.startswith(found), 'bits': len(found) == len(data), 'doubled': len(found) == len(data) + 64,
          'zeroed': len(found) == len(data) and bytes(64) in found, 'noise': len(found) == len(data),
          'head': found.endswith(data), 'tail': found.startswith(data), 'empty': not found}.get(way, True)


@pytest.mark.fast
@pytest.mark.parametrize('way', sorted(set(WAYS) - {'value'}))
@pytest.mark.parametrize('data', [b'a', b'ab', b'abc'])
def test_damage_to_small_files(way, data):
  assert len(damaged(way, data, 0)) <= 200


def refuse():
  print('error: no', file=sys.stderr)
  return 1


@pytest.mark.parametrize('function, expected', [
    (lambda: None, (0, '', '')), (refuse, (1, '', 'error: no')), (lambda: 1 / 0, (70, '', 'ZeroDivisionError')),
    (os.abort, (-6, '', '')), (lambda: time.sleep(60), (-9, 'time', '')), (lambda: b'x' * 2**32, (-9, 'memory', ''))])
def test_processes_are_watched(function, expected, tmp_path):
  ended = bad_input.forked(function, str(tmp_path), seconds=5, peak=2**30 + bad_input._peak(os.getpid()))
  assert (ended.code, ended.over) == expected[:2] and expected[2] in ended.stderr


@pytest.mark.fast
@pytest.mark.parametrize('code, over, stderr, result, guarded, outcome', [
    (0, '', '', 1, True, 'used'), (0, '', 'warning: x\n', 1, True, 'used'), (0, '', '', 2, False, 'otherwise'),
    (0, '', '', 2, True, 'failed'), (1, '', 'error: x\n  more', 0, True, 'refused'), (1, '', '', 0, True, 'failed'),
    (1, '', 'error: x\nerror: y', 0, True, 'failed'), (70, '', 'Traceback', 0, True, 'failed'),
    (0, '', 'Traceback (most recent call last)\n', 1, True, 'failed'), (-11, '', '', 0, True, 'failed'),
    (-9, 'time', '', 0, True, 'failed'), (1, '', 'error: ' + 'x' * 3000, 0, True, 'failed')])
def test_judgment(code, over, stderr, result, guarded, outcome, tmp_path):
  (tmp_path / 'in').mkdir()
  (tmp_path / 'result').write_text(json.dumps(result))
  kind = bad_input_kinds.dataclasses.replace(NOTHING, guarded=guarded)
  known = bad_input.Ended(0, 1.0, 10**6, '', ''), 1
  ended = bad_input.Ended(code, 2.0, 10**6, over, stderr)
  assert bad_input.judged(ended, str(tmp_path), kind, known)[0] == outcome
  if outcome != 'failed':
    greedy = bad_input.Ended(code, 2.0, 2 * 2**30, over, stderr)
    assert bad_input.judged(greedy, str(tmp_path), kind, known)[0] == 'failed'
    (tmp_path / 'in/a.tmp').write_text('')
    assert bad_input.judged(ended, str(tmp_path), kind, known) == ('failed', 'left in/a.tmp')


def settings(*words):
  return parse(bad_input.BadInputSettings, words)


@pytest.mark.fast
def test_cases_are_shared_out_evenly():
  kinds = {'a': NOTHING, 'b': bad_input_kinds.dataclasses.replace(NOTHING, files='run/b.json')}
  found = bad_input.planned(settings('--cases=21'), kinds)
  assert len({*found}) == 21 and found[19:] == [('a', 'cut', 1), ('b', 'cut', 1)]
  assert ('b', 'value', 0) in found and ('a', 'value', 0) not in found
  assert bad_input.planned(settings('--only=b/value/7'), kinds) == [('b', 'value', 7)]
  with pytest.raises(UserError, match='--only=c/cut/1: no such case; it is KIND/WAY/NUMBER, kinds are a, b'):
    bad_input.planned(settings('--only=c/cut/1'), kinds)
  with pytest.raises(UserError, match='--kinds: there is no PDF; valid are JPEG, PNG, '):
    bad_input.chosen(settings('--kinds=JPEG,PDF'))


def test_a_small_campaign(tmp_path):
  """Every way of damage to kinds that need no network, in a process of its own: it forks."""
  result = forks.run('-m', 'utils.studies.bad_input', f'--work_dir={tmp_path}', f'--kinds={",".join(KINDS)}',
                     f'--cases={9 * len(KINDS) + 1}')
  assert result.returncode == 0, result.stdout + result.stderr
  value = json.loads((tmp_path / 'bad-input.json').read_text())
  assert len(value['results']) == 9 * len(KINDS) + 1 and not (tmp_path / 'failures').exists()
  outcomes = {found['outcome'] for found in value['results']}
  assert {'used', 'refused'} <= outcomes <= {'used', 'otherwise', 'refused'}
  lines = pathlib.Path(tmp_path / 'bad-input.md').read_text().splitlines()
  assert lines[0].startswith('| kind | cut | bits |') and len(lines) == 4 + len(KINDS)  # the last is the mark
