"""Workers of a cluster: their addresses from flags and TF_CONFIG, their servers, waiting for them."""

import contextlib
import errno
import json
import socket
import threading
import unittest.mock

import pytest
from fake_clock import FakeClock

from utils import cluster as clusters
from utils.cluster import Cluster, Workers, cluster_of
from utils.compat import tf
from utils.errors import UserError
from utils.settings import parse
from utils.studies.scripts import free_addresses

pytestmark = pytest.mark.fast

ADDRESSES = ('hill:2222', '10.0.0.7:2223', '[fe80::1]:2222')


def config(cluster, task):
  return {'TF_CONFIG': json.dumps({'cluster': cluster, 'task': task})}


def worker(index, kind='worker'):
  return {'type': kind, 'index': index}


@pytest.mark.parametrize('index', range(3))
def test_flags_and_tf_config_say_the_same(index):
  expected = Cluster(ADDRESSES, index)
  flags = parse(Workers, [f'--workers={",".join(ADDRESSES)}', f'--worker={index}'])
  environ = config({'worker': list(ADDRESSES)}, worker(index))
  assert cluster_of(flags, {}) == cluster_of(Workers(), environ) == cluster_of(flags, environ) == expected
  assert expected.size == 3 and expected.is_chief == (index == 0)
  assert expected.others == [number for number in range(3) if number != index]
  assert expected.name(1) == 'worker 1 (10.0.0.7:2223)'


def test_the_chief_of_tf_config_is_worker_0():
  cluster = {'chief': ['a:1'], 'worker': ['b:1', 'c:1'], 'ps': []}
  assert cluster_of(Workers(), config(cluster, worker(0, 'chief'))) == Cluster(('a:1', 'b:1', 'c:1'), 0)
  assert cluster_of(Workers(), config(cluster, worker(1))) == Cluster(('a:1', 'b:1', 'c:1'), 2)


def test_addresses_have_one_form():
  assert cluster_of(Workers((' Hill.Example:02222', 'my_host-1:65535'), 1), {}).addresses == (
      'hill.example:2222', 'my_host-1:65535')


@pytest.mark.parametrize('settings, environ', [
    (Workers(), {}), (Workers(), {'TF_CONFIG': ' '}), (Workers(), {'TF_CONFIG': '{}'}),
    (Workers(('a:1',)), {}), (Workers(('a:1',), 0), config({'worker': ['a:1']}, worker(0))),
    (Workers(), config({'chief': ['a:1']}, worker(0, 'chief'))),
])
def test_one_worker_is_a_single_machine(settings, environ):
  assert cluster_of(settings, environ) is None


@pytest.mark.parametrize('words, parts', [
    (['--worker=1'], ['--worker=1', 'only with --workers']),
    (['--workers=a:1,b:1'], ['--worker must say', '0 to 1']),
    (['--workers=a:1,b:1', '--worker=2'], ['--worker=2', '0 to 1']),
    (['--workers=a:1,b:1', '--worker=-1'], ['--worker=-1']),
    (['--workers=a:1', '--worker=1'], ['--worker=1', 'valid are 0 to 0']),
    (['--workers=a:1,A:01', '--worker=1'], ['--workers', 'a:1 is there twice']),
    (['--workers=a:1,b', '--worker=1'], ['--workers', "'b'", 'host:port']),
    (['--workers=a:1,:2', '--worker=1'], ["':2'", 'host:port']),
    (['--workers=a:1,b:', '--worker=1'], ["'b:'", 'port', '1 to 65535']),
    (['--workers=a:1,b:0', '--worker=1'], ["port '0'"]),
    (['--workers=a:1,b:65536', '--worker=1'], ["port '65536'"]),
    (['--workers=a:1,b:1_0', '--worker=1'], ["port '1_0'"]),
    (['--workers=a:1,b:²', '--worker=1'], ["port '²'"]),
    (['--workers=a:1,b:-1', '--worker=1'], ["port '-1'"]),
    (['--workers=a:1,http://b:1', '--worker=1'], ["host 'http://b'"]),
    (['--workers=a:1,b..c:1', '--worker=1'], ["host 'b..c'"]),
    (['--workers=a:1,-b:1', '--worker=1'], ["host '-b'"]),
    (['--workers=a:1,b c:1', '--worker=1'], ["host 'b c'"]),
    (['--workers=a:1,256.0.0.1:1', '--worker=1'], ["host '256.0.0.1'"]),
    (['--workers=a:1,1.2.3:1', '--worker=1'], ["host '1.2.3'"]),
    (['--workers=a:1,0.0.0.0:1', '--worker=1'], ["host '0.0.0.0'"]),
    (['--workers=a:1,::1:1', '--worker=1'], ["host '::1'", 'in brackets']),
    (['--workers=a:1,[::]:1', '--worker=1'], ["host '[::]'"]),
    (['--workers=a:1,[b]:1', '--worker=1'], ["host '[b]'"]),
])
def test_flags_that_are_not_valid_are_refused(words, parts):
  refused(lambda: parse(Workers, words), parts)


def refused(call, parts):
  """Asserts that a call raises a UserError of one line with all of `parts`."""
  with pytest.raises(UserError) as raised:
    call()
  text = str(raised.value)
  assert len(text.splitlines()) == 1
  for part in parts:
    assert part in text, text


PAIR = {'worker': ['a:1', 'b:1']}


@pytest.mark.parametrize('environ, parts', [
    ({'TF_CONFIG': '{'}, ['TF_CONFIG', 'not a JSON']),
    ({'TF_CONFIG': '[' * 100_000}, ['TF_CONFIG', 'not a JSON']),
    ({'TF_CONFIG': '[1]'}, ['"cluster"', '[1]']),
    ({'TF_CONFIG': '{"task": {}}'}, ['"cluster" is nothing']),
    ({'TF_CONFIG': '{"cluster": {"worker": ["a:1"]}}'}, ['"task" is nothing']),
    (config(PAIR, {'index': 0}), ['"type" is nothing']),
    (config(PAIR, {'type': 'worker'}), ['index nothing', '0 to 1']),
    (config(PAIR, worker(2)), ['index 2', '0 to 1']),
    (config(PAIR, worker(-1)), ['index -1']),
    (config(PAIR, worker(True)), ['index True']),
    (config(PAIR, worker('1')), ["index '1'"]),
    (config(PAIR, worker(1.0)), ['index 1.0']),
    (config(PAIR, worker(0, 'chief')), ['task chief', 'the cluster has no chief']),
    (config(PAIR, worker(0, 'evaluator')), ["job 'evaluator' is not possible", '"worker" and one "chief"']),
    (config({**PAIR, 'ps': ['c:1']}, worker(0)), ["job 'ps' is not possible"]),
    (config({**PAIR, 'chief': ['c:1', 'd:1']}, worker(0)), ['2 chiefs']),
    (config({**PAIR, 'chief': ['a:1']}, worker(0)), ['a:1 is there twice']),
    (config({'worker': {'0': 'a:1', '1': 'b:1'}}, worker(0)), ['"worker"']),
    (config({'worker': ['a:1', 7]}, worker(0)), ['TF_CONFIG', '7 is no address']),
    (config({}, worker(0)), ['the cluster has no worker']),
])
def test_a_tf_config_that_is_not_valid_is_refused(environ, parts):
  refused(lambda: cluster_of(Workers(), environ), parts)


def test_flags_and_a_tf_config_that_differ_are_refused():
  refused(lambda: cluster_of(Workers(('a:1', 'b:1'), 1), config(PAIR, worker(0))),
          ['worker 1 of a:1,b:1', 'worker 0 of a:1,b:1'])
  refused(lambda: cluster_of(Workers(('a:1',)), config(PAIR, worker(0))), ['worker 0 of a:1,'])


@contextlib.contextmanager
def listening():
  """A socket that listens on loopback; yields it and its address."""
  with socket.create_server(('127.0.0.1', 0)) as server:
    yield server, f'127.0.0.1:{server.getsockname()[1]}'


def test_a_port_that_is_taken_is_said():
  with listening() as (_, address):
    refused(lambda: clusters.start_server(Cluster(('127.0.0.1:1', address), 1), tf.ConfigProto()),
            [f'worker 1 ({address})', 'another program has it'])


@pytest.mark.parametrize('where, error, part', [
    ('socket.socket', OSError(errno.EACCES, 'Permission denied'), 'this user may not open it'),
    ('tf.distribute.Server', tf.errors.UnknownError(None, None, 'Could not start gRPC server'), 'not start gRPC')])
def test_a_server_that_does_not_start_is_said(where, error, part):
  cluster = Cluster((*free_addresses(1), '127.0.0.1:1'), 0)
  with unittest.mock.patch(f'utils.cluster.{where}', side_effect=error):
    refused(lambda: clusters.start_server(cluster, tf.ConfigProto()), [cluster.name(0), part])


def test_a_server_answers_on_all_interfaces_of_the_machine(monkeypatch):
  monkeypatch.setenv('no_grpc_proxy', '')  # is put back after the test
  address, = free_addresses(1)
  assert not clusters.answers(address)
  cluster = Cluster((address, '[::1]:1'), 0)
  server = clusters.start_server(cluster, tf.ConfigProto(device_count={'GPU': 0}))
  port = address.rpartition(':')[2]
  assert server.target == f'grpc://{address}' and clusters.os.environ['no_grpc_proxy'] == '127.0.0.1,::1'
  assert clusters.answers(address) and clusters.answers(f'localhost:{port}')
  if socket.has_dualstack_ipv6():
    assert clusters.answers(f'[::1]:{port}')
  refused(lambda: clusters.start_server(cluster, tf.ConfigProto()), ['another program has it'])


def test_a_program_that_stands_still_does_not_answer():
  """The kernel accepts connections for it."""
  with listening() as (_, address):
    assert not clusters.answers(address, seconds=0.05)


@pytest.mark.parametrize('reply, answered', [
    (b'\0\0\6\4\0\0\0\0\0' + b'\0\3\0\0\0\1', True),  # a frame of settings: at most one stream at a time
    (b'HTTP/1.1 400 Bad Request\r\n\r\n', False), (b'\0\0', False), (b'', False)])
def test_only_a_server_of_grpc_answers(reply, answered):
  with listening() as (server, address):

    def serve():
      connection, _ = server.accept()
      with connection:
        connection.recv(100)
        connection.sendall(reply)

    thread = threading.Thread(target=serve)
    thread.start()
    assert clusters.answers(address) == answered
    thread.join()


THREE = Cluster(('a:1', 'b:1', 'c:1'), 1)


def test_workers_are_waited_for_and_named(capsys):
  clock, asked = FakeClock(), []

  def answers(address):
    asked.append(address)
    return address == 'a:1' or clock() >= 25

  clusters.wait(THREE, 1, clock=clock, sleep=clock.sleep, answers=answers)
  assert set(asked) == {'a:1', 'c:1'} and asked.count('a:1') == 1  # itself it need not ask, and nobody twice
  assert capsys.readouterr().out.splitlines() == [
      'waiting for worker 2 (c:1), 50 s left', 'waiting for worker 2 (c:1), 40 s left']


def test_waiting_comes_to_an_end():
  clock = FakeClock()
  refused(lambda: clusters.wait(THREE, 0.5, clock=clock, sleep=clock.sleep, answers=lambda address: address == 'c:1'),
          ['no answer from worker 0 (a:1) after 30 s', 'start all workers again'])
  assert clock() == 30
