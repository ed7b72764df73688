"""Workers of a cluster: their addresses from flags and TF_CONFIG, their servers, waiting for them."""

import json

import pytest

from utils.cluster import Cluster, Workers, cluster_of
from utils.errors import UserError
from utils.settings import parse

ADDRESSES = ('hill:2222', '10.0.0.7:2223', '[fe80::1]:2222')


def config(cluster, task):
  return {'TF_CONFIG': json.dumps({'cluster': cluster, 'task': task})}


def worker(index, kind='worker'):
  return {'type': kind, 'index': index}


@pytest.mark.fast
@pytest.mark.parametrize('index', range(3))
def test_flags_and_tf_config_say_the_same(index):
  expected = Cluster(ADDRESSES, index)
  flags = parse(Workers, [f'--workers={",".join(ADDRESSES)}', f'--worker={index}'])
  environ = config({'worker': list(ADDRESSES)}, worker(index))
  assert cluster_of(flags, {}) == cluster_of(Workers(), environ) == cluster_of(flags, environ) == expected
  assert expected.size == 3 and expected.is_chief == (index == 0)
  assert expected.others == [number for number in range(3) if number != index]
  assert expected.name(1) == 'worker 1 (10.0.0.7:2223)'


@pytest.mark.fast
def test_the_chief_of_tf_config_is_worker_0():
  cluster = {'chief': ['a:1'], 'worker': ['b:1', 'c:1'], 'ps': []}
  assert cluster_of(Workers(), config(cluster, worker(0, 'chief'))) == Cluster(('a:1', 'b:1', 'c:1'), 0)
  assert cluster_of(Workers(), config(cluster, worker(1))) == Cluster(('a:1', 'b:1', 'c:1'), 2)


@pytest.mark.fast
def test_addresses_have_one_form():
  assert cluster_of(Workers((' Hill.Example:02222', 'my_host-1:65535'), 1), {}).addresses == (
      'hill.example:2222', 'my_host-1:65535')


@pytest.mark.fast
@pytest.mark.parametrize('settings, environ', [
    (Workers(), {}), (Workers(), {'TF_CONFIG': ' '}), (Workers(), {'TF_CONFIG': '{}'}),
    (Workers(('a:1',)), {}), (Workers(('a:1',), 0), config({'worker': ['a:1']}, worker(0))),
    (Workers(), config({'chief': ['a:1']}, worker(0, 'chief'))),
])
def test_one_worker_is_a_single_machine(settings, environ):
  assert cluster_of(settings, environ) is None


@pytest.mark.fast
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


@pytest.mark.fast
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
    (config(PAIR, worker(0, 'evaluator')), ["no 'evaluator' here"]),
    (config({**PAIR, 'ps': ['c:1']}, worker(0)), ["no 'ps' here"]),
    (config({**PAIR, 'chief': ['c:1', 'd:1']}, worker(0)), ['2 chiefs']),
    (config({**PAIR, 'chief': ['a:1']}, worker(0)), ['a:1 is there twice']),
    (config({'worker': {'0': 'a:1', '1': 'b:1'}}, worker(0)), ['"worker"']),
    (config({'worker': ['a:1', 7]}, worker(0)), ['TF_CONFIG', '7 is no address']),
    (config({}, worker(0)), ['the cluster has no worker']),
])
def test_a_tf_config_that_is_not_valid_is_refused(environ, parts):
  refused(lambda: cluster_of(Workers(), environ), parts)


@pytest.mark.fast
def test_flags_and_a_tf_config_that_differ_are_refused():
  refused(lambda: cluster_of(Workers(('a:1', 'b:1'), 1), config(PAIR, worker(0))),
          ['worker 1 of a:1,b:1', 'worker 0 of a:1,b:1'])
  refused(lambda: cluster_of(Workers(('a:1',)), config(PAIR, worker(0))), ['worker 0 of a:1,'])
