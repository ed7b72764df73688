"""The measurement of the server: all of it once at a tiny size, and what it does not let pass."""

import contextlib
import json
import os
import types

import pytest
from programs import assert_refused

pytest.importorskip('starlette', reason='needs requirements-serve.txt')

from utils.studies import malformed, serve_load


def test_all_of_it_once(tmp_path, run_program):
  output = tmp_path / 'out.json'
  result = run_program(
      serve_load.main, '--net=segnet_basic', '--height=48', '--width=64', '--precisions=float32', '--steps=2',
      '--warmup_steps=1', '--batch_size=2', '--requests=4', '--clients=2', f'--malformed={2 * len(malformed.KINDS)}',
      f'--output={output}')
  assert result.returncode == 0, result.stderr
  rows = json.loads(output.read_text())['results']
  found = {row['case']: row for row in rows}
  for side in ('bare Predictor, batches of 2', 'server, 2 clients', 'server / bare'):
    assert found[f'float32: {side}']['median'] > 0 and found[f'float32: {side}']['count'] == 2
  assert found['float32: 2 clients, 50 % of a block below']['median'] <= found[
      'float32: 2 clients, 99 % of a block below']['median']
  for kind in malformed.KINDS:
    assert found[kind]['count'] == 2
    assert sum(found[kind]['beside'].values()) == 2 and all(status[0] == '4' for status in found[kind]['beside'])
  assert found['resident memory before']['median'] > 50 and found['open files after']['median'] > 5


@contextlib.contextmanager
def nobody(setup, precision, **options):
  """Stands for a server in serve_load.served, where nothing is sent to it."""
  yield ('127.0.0.1', 9), types.SimpleNamespace(pid=os.getpid())


@pytest.mark.parametrize('answer, part', [((200, ''), '200'), ((400, ''), '400')])  # the latter gives no reason
def test_an_answer_that_is_no_refusal_is_reported(tmp_path, tiny, run_program, monkeypatch, answer, part):
  monkeypatch.setattr(malformed, 'answer', lambda address, request: answer)
  monkeypatch.setattr(serve_load, 'served', nobody)
  monkeypatch.setattr(serve_load, 'label_of', lambda connection, body: b'label')
  monkeypatch.setattr(serve_load, 'UPLOAD_SECONDS', 0)
  result = run_program(
      serve_load.main, f'--net={tiny}', '--height=48', '--width=64', '--precisions=float32', '--what=malformed',
      '--batch_size=1', '--malformed=3', '--clients=1', f'--output={tmp_path / "out.json"}')
  assert 'error: 3 of 3 malformed requests were not refused' in result.stderr and part in result.stderr
  assert result.returncode == 1


def test_bad_flags_are_one_line(tmp_path, run_program):
  output = tmp_path / 'out.json'
  assert_refused(run_program(serve_load.main, f'--output={output}', '--what=speed'), '--what=speed')
  assert_refused(run_program(serve_load.main, f'--output={output}', '--clients=0'), '--clients=0')
