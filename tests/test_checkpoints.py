"""The list of pretrained weights, and fetching them."""

import dataclasses
import io
import os
import pathlib
import re
import tarfile
import urllib.request

import pytest
from loopback import serve
from programs import assert_refused

import checkpoints
from checkpoints import fetch
from nets import NETWORKS
from utils.errors import UserError

pytestmark = pytest.mark.fast


def make_archive(path, name='inception_v3.ckpt', content=b'weights'):
  with tarfile.open(path, 'w:gz') as tar:
    item = tarfile.TarInfo(name)
    item.size = len(content)
    tar.addfile(item, io.BytesIO(content))


@pytest.fixture(autouse=True)
def direct(monkeypatch):
  monkeypatch.setenv('no_proxy', '*')


@pytest.mark.parametrize('name', checkpoints.PRETRAINED)
def test_records(name):
  checkpoint = checkpoints.PRETRAINED[name]
  assert checkpoint.name == name and checkpoint.note
  assert re.fullmatch(r'https?://\S+\.(tar\.gz|tgz|tar|zip)', checkpoint.url)
  assert checkpoint.digest is None or re.fullmatch(r'sha256:[0-9a-f]{64}|sha1:[0-9a-f]{40}|md5:[0-9a-f]{32}',
                                                   checkpoint.digest)


@pytest.mark.parametrize('network', [network for network in NETWORKS.values() if network.pretrained],
                         ids=lambda network: network.name)
def test_every_network_knows_its_weights(network):
  assert checkpoints.PRETRAINED[network.pretrained].scope in network.pretrained_scopes


def test_downloaded_and_unpacked(tmp_path, monkeypatch, capsys):
  web, folder = tmp_path / 'web', tmp_path / 'checkpoints'
  web.mkdir()
  make_archive(web / 'inception_v3_2016_08_28.tar.gz')
  with serve(web) as address:
    url = address + 'inception_v3_2016_08_28.tar.gz'
    monkeypatch.setitem(checkpoints.PRETRAINED, 'inception_v3',
                        dataclasses.replace(checkpoints.PRETRAINED['inception_v3'], url=url))
    path = checkpoints.pretrained_checkpoint('inception_v3', str(folder))
  assert path == str(folder / 'inception_v3.ckpt') and pathlib.Path(path).read_bytes() == b'weights'
  assert f'downloading {url}' in capsys.readouterr().out
  os.unlink(folder / 'inception_v3_2016_08_28.tar.gz')
  assert checkpoints.pretrained_checkpoint('inception_v3', str(folder)) == path  # the server is gone, too
  assert capsys.readouterr().out == ''


def test_digest_is_checked(tmp_path, monkeypatch):
  monkeypatch.setitem(checkpoints.PRETRAINED, 'inception_v3',
                      dataclasses.replace(checkpoints.PRETRAINED['inception_v3'], digest='md5:' + 32 * '0'))
  make_archive(tmp_path / 'inception_v3_2016_08_28.tar.gz')
  with pytest.raises(UserError, match='instead of 0{32}; delete it'):
    checkpoints.pretrained_checkpoint('inception_v3', str(tmp_path))


def test_archive_without_the_checkpoint(tmp_path):
  make_archive(tmp_path / 'inception_v3_2016_08_28.tar.gz', name='other.ckpt')
  with pytest.raises(UserError, match='tar.gz holds no inception_v3.ckpt'):
    checkpoints.pretrained_checkpoint('inception_v3', str(tmp_path))


def test_unknown_name(tmp_path):
  with pytest.raises(UserError, match="unknown pretrained checkpoint 'inception_v9'; known: inception_v3"):
    checkpoints.pretrained_checkpoint('inception_v9', str(tmp_path))


@pytest.fixture
def no_network(monkeypatch):
  monkeypatch.setenv('http_proxy', 'http://127.0.0.1:9')  # a port without a listener
  monkeypatch.setenv('no_proxy', '')
  urllib.request.install_opener(None)  # the next one reads the environment again
  yield
  urllib.request.install_opener(None)


def test_command_uses_an_archive_put_there_by_hand(tmp_path, no_network, run_program):
  make_archive(tmp_path / 'inception_v3_2016_08_28.tar.gz')
  result = run_program(fetch.main, '--net=inception_v3', f'--dir={tmp_path}')
  assert result.returncode == 0, result.stderr
  assert f'{tmp_path}/inception_v3.ckpt: Inception v3' in result.stdout
  assert (tmp_path / 'inception_v3.ckpt').read_bytes() == b'weights'


def test_command_without_a_network(tmp_path, no_network, run_program):
  assert_refused(
      run_program(fetch.main, f'--dir={tmp_path / "new"}'),
      'error: cannot download http://download.tensorflow.org/models/inception_v3_2016_08_28.tar.gz (Connection refused)'
      f'; fetch it by hand and put it at {tmp_path}/new/inception_v3_2016_08_28.tar.gz')


@pytest.mark.parametrize('argument, problem', [
    ('--net=inception_v9', '--net=inception_v9: valid are inception_v3, '), ('inception_v3', "'inception_v3'"),
    ('--fold=x', 'fold')])
def test_command_with_wrong_arguments(argument, problem, run_program):
  assert_refused(run_program(fetch.main, argument), problem)
