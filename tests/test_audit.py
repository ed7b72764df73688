"""The audit of pinned versions, against an index on loopback."""

import http.server
import json
import threading

import pytest

from utils.errors import UserError
from utils.studies import audit

pytestmark = pytest.mark.fast

HOLE = {'id': 'PYSEC-1', 'aliases': ['CVE-1', 'GHSA-1'], 'fixed_in': ['2.1'], 'summary': None, 'withdrawn': None,
        'details': 'A picture\nwith \x1b[31mtoo many pixels'}


class Index(http.server.BaseHTTPRequestHandler):
  """Answers from a dict of paths; numbers are statuses."""
  answers = {}

  def do_GET(self):  # noqa: N802, http.server's name
    answer = self.answers.get(self.path, 404)
    self.send_response(answer if isinstance(answer, int) else 200)
    self.end_headers()
    if not isinstance(answer, int):
      self.wfile.write(answer if isinstance(answer, bytes) else json.dumps(answer).encode())

  def log_message(self, *arguments):
    pass


@pytest.fixture
def index(monkeypatch):
  """`index(answers)` sets the answers and returns the address."""
  server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Index)
  threading.Thread(target=server.serve_forever, daemon=True).start()

  def answering(answers):
    monkeypatch.setattr(Index, 'answers', answers)
    return f'http://127.0.0.1:{server.server_port}'

  yield answering
  server.shutdown()
  server.server_close()


def release(version, *found):
  return {'info': {'version': version}, 'vulnerabilities': list(found)}


@pytest.mark.parametrize('answers, expected', [
    ({'/a/2.0/json': release('2.0')}, []),
    ({'/a/2.0/json': release('2.0', HOLE, {**HOLE, 'withdrawn': '2020'})},
     ['PYSEC-1 (CVE-1, GHSA-1), mended in 2.1: A picture with \\x1b[31mtoo many pixels']),
    ({'/a/2.0/json': release('2.0', {**HOLE, 'fixed_in': [], 'summary': 'Short'})},
     ['PYSEC-1 (CVE-1, GHSA-1), not mended: Short']),
    ({'/a/json': release('2.0', HOLE)}, ['PYSEC-1 (CVE-1, GHSA-1), mended in 2.1: A picture with \\x1b[31mtoo many '
                                         'pixels']),
    ({'/a/json': release('3.0')}, None),
    ({}, None),
    ({'/a/2.0/json': {'info': {'version': '2.0'}}}, None),
])
def test_holes_of_a_release(answers, expected, index):
  assert audit.holes(index(answers), 'a', '2.0') == expected


@pytest.mark.parametrize('answer', [500, b'<html>', b'[' * 100_000])
def test_an_index_that_does_not_answer_is_an_error(answer, index):
  with pytest.raises(UserError, match='the package index cannot be asked about .*/a/2.0/json'):
    audit.holes(index({'/a/2.0/json': answer}), 'a', '2.0')


def test_pins_are_those_of_every_file_and_python(tmp_path):
  (tmp_path / 'requirements.txt').write_text('# Why\nA.b_c==1.0; python_version < "3.11"\nA.b_c==2.0\nd[x]==3\n-r e\n')
  (tmp_path / 'requirements-e.txt').write_text('e>=1\nd==3\n')
  assert audit.pins(str(tmp_path)) == {('a-b-c', '1.0'): 'requirements.txt', ('a-b-c', '2.0'): 'requirements.txt',
                                       ('d', '3'): 'requirements-e.txt'}
  assert ('tensorflow', '2.21.0') in audit.pins() and ('tensorflow', '2.21.0') in audit.installed()


@pytest.mark.parametrize('found, code', [([], 0), ([HOLE], 1)])
def test_the_program_says_what_it_found(found, code, index, monkeypatch, capsys):
  monkeypatch.setattr(audit, 'pins', lambda: {('a', '2.0'): 'requirements.txt', ('b', '1'): 'requirements-x.txt'})
  assert audit.main(['--noinstalled', f'--index={index({"/a/2.0/json": release("2.0", *found)})}']) == code
  lines = capsys.readouterr().out.splitlines()
  assert ('a 2.0 (requirements.txt): PYSEC-1' in lines[0]) == bool(found)
  assert lines[-2:] == ['the index has nothing on this release; requirements-x.txt: b 1',
                        f'2 versions asked for (2 pinned): {code} with known holes, 1 unknown']
