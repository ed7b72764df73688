"""Downloads against a server on loopback that breaks off, lies and refuses; archives that try to leave their folder."""

import gzip
import hashlib
import http.server
import io
import os
import re
import socket
import tarfile
import threading
import time
import zipfile

import pytest

from utils import download
from utils.errors import UserError

pytestmark = pytest.mark.fast

PAYLOAD = bytes(range(256)) * 3000  # 768 000 bytes: three chunks and a bit
SHA256 = hashlib.sha256(PAYLOAD).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
  """Serves PAYLOAD at /file as the server's attributes say; `ranges` logs the Range header of every request."""

  def do_GET(self):
    server = self.server
    server.ranges.append(self.headers.get('Range'))
    if self.path != '/file':
      return self.send_error(404)
    wanted = re.fullmatch(r'bytes=(\d+)-', self.headers.get('Range') or '') if server.knows_ranges else None
    start = int(wanted[1]) if wanted else 0
    if start >= len(PAYLOAD):
      self.send_response(416)
      self.send_header('Content-Range', f'bytes */{len(PAYLOAD)}')
      return self.end_headers()
    self.send_response(206 if wanted else 200)
    if wanted:
      self.send_header('Content-Range', f'bytes {start + server.shift}-{len(PAYLOAD) - 1}/{len(PAYLOAD)}')
    if server.knows_length:
      self.send_header('Content-Length', str(len(PAYLOAD) - start))
    self.end_headers()
    end = start + server.breaks.pop(0) if server.breaks else len(PAYLOAD)
    self.wfile.write(PAYLOAD[start:end])

  def log_message(self, *args):
    pass


@pytest.fixture
def server(monkeypatch):
  """A running server; `breaks` lists after how many bytes each of the next answers ends."""
  monkeypatch.setenv('no_proxy', '*')
  monkeypatch.setattr(download, '_PAUSE', 0)
  server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
  server.knows_ranges = server.knows_length = True
  server.ranges, server.breaks, server.shift = [], [], 0
  server.url = f'http://127.0.0.1:{server.server_port}/file'
  thread = threading.Thread(target=server.serve_forever, kwargs={'poll_interval': 0.02})
  thread.start()
  yield server
  server.shutdown()
  server.server_close()
  thread.join()


@pytest.fixture
def path(tmp_path):
  return tmp_path / 'sub' / 'file.tar'


def fetch(server, path, **options):
  return download.fetch(server.url, str(path), progress=False, **options)


@pytest.mark.parametrize('digest', [None, f'sha256:{SHA256}', f'md5:{hashlib.md5(PAYLOAD).hexdigest()}',
                                    f'sha1:{hashlib.sha1(PAYLOAD).hexdigest().upper()}'])
def test_complete(server, path, digest):
  assert fetch(server, path, size=len(PAYLOAD), digest=digest) == str(path)
  assert path.read_bytes() == PAYLOAD
  assert os.listdir(path.parent) == ['file.tar']
  fetch(server, path, size=len(PAYLOAD), digest=digest)
  assert server.ranges == [None]  # a file that is present is checked, not fetched again


def test_without_announced_length(server, path):
  server.knows_length = False
  fetch(server, path, digest=f'sha256:{SHA256}')
  assert path.read_bytes() == PAYLOAD


def test_progress_is_shown(server, path, capfd):
  download.fetch(server.url, str(path))
  assert 'file.tar: 1/1 MB' in capfd.readouterr().err


def test_broken_transfer_is_resumed(server, path):
  server.breaks = [1000, 0, 0, 300_000]
  fetch(server, path, digest=f'sha256:{SHA256}')
  assert path.read_bytes() == PAYLOAD
  assert server.ranges == [None, 'bytes=1000-', 'bytes=1000-', 'bytes=1000-', 'bytes=301000-']


def test_resumed_by_a_later_run(server, path):
  server.breaks = [700] + [0] * 10
  with pytest.raises(UserError, match=f'broke off after 0 of 767300 bytes.*run again.*put it at {path}'):
    fetch(server, path)
  assert not path.exists() and (path.parent / 'file.tar.part').read_bytes() == PAYLOAD[:700]
  server.breaks, server.ranges = [], []
  fetch(server, path)
  assert path.read_bytes() == PAYLOAD and server.ranges == ['bytes=700-']


def test_server_without_ranges(server, path):
  server.knows_ranges, server.breaks = False, [400_000, 100]
  fetch(server, path, size=len(PAYLOAD))
  assert path.read_bytes() == PAYLOAD
  assert server.ranges == [None, 'bytes=400000-', 'bytes=100-']


def test_server_that_gives_another_range(server, path):
  server.breaks, server.shift = [1000], 5
  fetch(server, path)
  assert path.read_bytes() == PAYLOAD
  assert server.ranges == [None, 'bytes=1000-', None]


@pytest.mark.parametrize('left, ranges', [
    (PAYLOAD, ['bytes=768000-']),  # killed between the last byte and the renaming
    (PAYLOAD + b'x', ['bytes=768001-', None])])  # remains of another, longer file
def test_nothing_left_to_fetch(server, path, left, ranges):
  path.parent.mkdir()
  (path.parent / 'file.tar.part').write_bytes(left)
  fetch(server, path)
  assert path.read_bytes() == PAYLOAD and server.ranges == ranges


@pytest.mark.parametrize('left, ranges', [(PAYLOAD, []), (PAYLOAD + b'x', [None])])
def test_known_size_saves_the_request(server, path, left, ranges):
  path.parent.mkdir()
  (path.parent / 'file.tar.part').write_bytes(left)
  fetch(server, path, size=len(PAYLOAD))
  assert path.read_bytes() == PAYLOAD and server.ranges == ranges


def test_wrong_digest(server, path):
  wrong = hashlib.sha256(b'').hexdigest()
  with pytest.raises(UserError, match=f'sha256 {SHA256} instead of {wrong}; the download was removed'):
    fetch(server, path, digest=f'sha256:{wrong}')
  assert os.listdir(path.parent) == []


def test_wrong_size(server, path):
  with pytest.raises(UserError, match='offers 768000 bytes instead of 768001'):
    fetch(server, path, size=len(PAYLOAD) + 1)
  server.knows_length = False
  with pytest.raises(UserError, match='768000 bytes instead of 768001; the download was removed'):
    fetch(server, path, size=len(PAYLOAD) + 1)
  assert os.listdir(path.parent) == []


def test_wrong_file_put_there_by_hand_is_kept(server, path):
  path.parent.mkdir()
  path.write_bytes(b'mine')
  with pytest.raises(UserError, match='file.tar is not the file of .*: 4 bytes instead of 768000; delete it'):
    fetch(server, path, size=len(PAYLOAD))
  assert path.read_bytes() == b'mine' and server.ranges == []


def test_not_found(server, path):
  with pytest.raises(UserError, match=f'cannot download .*/gone .HTTP 404 Not Found.; fetch it by hand .* at {path}'):
    download.fetch(server.url.replace('/file', '/gone'), str(path))
  assert server.ranges == [None] and os.listdir(path.parent) == []


def test_no_listener_fails_at_once(path, monkeypatch):
  monkeypatch.setenv('no_proxy', '*')
  with socket.socket() as taken:  # bound but not listening: nobody answers, and nobody else gets this port
    taken.bind(('127.0.0.1', 0))
    url = f'http://127.0.0.1:{taken.getsockname()[1]}/file'
    monkeypatch.setattr(time, 'sleep', lambda seconds: pytest.fail('waits for a retry'))
    with pytest.raises(UserError, match=f'cannot download {url} .Connection refused.; fetch it by hand and put it at'):
      download.fetch(url, str(path))


def test_unknown_host(path, monkeypatch):
  def fail(*args, **kwargs):
    raise socket.gaierror(-3, 'Temporary failure in name resolution')
  monkeypatch.setattr(socket, 'getaddrinfo', fail)
  monkeypatch.setenv('no_proxy', '*')
  with pytest.raises(UserError, match='Temporary failure in name resolution'):
    download.fetch('http://example.invalid/file', str(path))


def test_connection_dropped_before_an_answer(path, monkeypatch):
  monkeypatch.setenv('no_proxy', '*')
  with socket.create_server(('127.0.0.1', 0)) as listener:
    thread = threading.Thread(target=lambda: listener.accept()[0].close())
    thread.start()
    with pytest.raises(UserError, match='cannot download'):
      download.fetch(f'http://127.0.0.1:{listener.getsockname()[1]}/file', str(path))
    thread.join()


def test_two_processes_at_once(server, path):
  import fcntl
  path.parent.mkdir()
  with open(path.parent / 'file.tar.part', 'ab') as other:
    fcntl.flock(other, fcntl.LOCK_EX)
    with pytest.raises(UserError, match='being downloaded by another process'):
      fetch(server, path)


def test_folder_that_cannot_be_made(server, tmp_path):
  (tmp_path / 'sub').write_text('a file')
  with pytest.raises(UserError, match='sub'):
    fetch(server, tmp_path / 'sub' / 'file.tar')


# --- extraction

FILES = {'top/list.txt': b'1\n', 'top/images/a.png': PAYLOAD[:70_001], 'other/b.txt': b'2\n'}


def make_tar(path, files=FILES, mode='w', extra=()):
  """A tar of `files` (name -> bytes), then of the TarInfos in `extra`."""
  with tarfile.open(path, mode) as tar:
    for name, content in files.items():
      item = tarfile.TarInfo(name)
      item.size, item.mode = len(content), 0o600
      tar.addfile(item, io.BytesIO(content))
    for item in extra:
      tar.addfile(item, io.BytesIO(b'evil'[:item.size]))
  return str(path)


def make_zip(path, files=FILES):
  with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as zipped:
    for name, content in files.items():
      zipped.writestr(name, content)
  return str(path)


def make_gzip(path, files=FILES):
  return make_tar(path, files, 'w:gz')


def tree(folder):
  """Name -> bytes of all files below `folder`."""
  return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob('*') if path.is_file()}


@pytest.mark.parametrize('make', [make_tar, make_gzip, make_zip])
def test_extract(tmp_path, make):
  archive = make(tmp_path / 'archive')
  download.extract(archive, str(tmp_path / 'whole'))
  assert tree(tmp_path / 'whole') == FILES
  download.extract(archive, str(tmp_path / 'deep' / 'top'), member='top')
  assert tree(tmp_path / 'deep') == {name: FILES[name] for name in FILES if name.startswith('top/')}
  download.extract(archive, str(tmp_path / 'list'), member='top/list.txt')
  assert (tmp_path / 'list').read_bytes() == b'1\n'
  assert sorted(os.listdir(tmp_path)) == ['archive', 'deep', 'list', 'whole']


def test_extract_takes_no_more_than_asked(tmp_path):
  archive = make_tar(tmp_path / 'archive', {'top/a': b'1', 'topper/a': b'2', './top/b': b'3'})
  download.extract(archive, str(tmp_path / 'top'), member='top')
  assert tree(tmp_path / 'top') == {'a': b'1', 'b': b'3'}


@pytest.mark.parametrize('member', ['nothing', 'top/list.txt/x', 'to'])
def test_extract_missing_member(tmp_path, member):
  with pytest.raises(UserError, match=f'archive holds no {member}'):
    download.extract(make_tar(tmp_path / 'archive'), str(tmp_path / 'new'), member=member)
  assert os.listdir(tmp_path) == ['archive']


def link(name, target, kind=tarfile.SYMTYPE):
  item = tarfile.TarInfo(name)
  item.type, item.linkname = kind, target
  return item


@pytest.mark.parametrize('make', [make_tar, make_gzip, make_zip])
@pytest.mark.parametrize('name', ['../evil', 'top/../../evil', '/tmp/evil-absolute', 'top/..'])
def test_names_that_leave_the_folder(tmp_path, make, name):
  folder = tmp_path / 'inner'
  folder.mkdir()
  archive = make(folder / 'archive', FILES | {name: b'evil'})
  with pytest.raises(UserError, match='refused: .* would be written outside'):
    download.extract(archive, str(folder / 'new'))
  assert os.listdir(folder) == ['archive'] and os.listdir(tmp_path) == ['inner']


@pytest.mark.parametrize('item', [
    link('top/out', '/etc'), link('out', '../..'), link('hard', '../archive', tarfile.LNKTYPE),
    link('fifo', '', tarfile.FIFOTYPE), link('device', '', tarfile.CHRTYPE)], ids=lambda item: item.name)
def test_links_and_devices(tmp_path, item):
  through = tarfile.TarInfo(f'{item.name}/evil')
  through.size = 4
  archive = make_tar(tmp_path / 'archive', extra=[item, through])
  with pytest.raises(UserError, match=f"refused: '{item.name}' is a link or device"):
    download.extract(archive, str(tmp_path / 'new'))
  assert os.listdir(tmp_path) == ['archive']


def test_link_in_a_zip(tmp_path):
  item = zipfile.ZipInfo('out')
  item.create_system, item.external_attr = 3, 0o120777 << 16
  with zipfile.ZipFile(tmp_path / 'archive', 'w') as zipped:
    zipped.writestr(item, '/etc')
  with pytest.raises(UserError, match="refused: 'out' is a link or device"):
    download.extract(str(tmp_path / 'archive'), str(tmp_path / 'new'))


@pytest.mark.parametrize('make', [make_gzip, make_zip])
def test_bombs(tmp_path, make, monkeypatch):
  monkeypatch.setattr(download, '_SMALL', 10**5)
  archive = make(tmp_path / 'archive', {'zeros': bytes(10**6)})
  assert os.path.getsize(archive) * 100 < 10**6
  with pytest.raises(UserError, match='archive is refused: it holds more than 50 times its own size'):
    download.extract(archive, str(tmp_path / 'new'))
  assert os.listdir(tmp_path) == ['archive']


def test_a_file_of_holes(tmp_path):
  """GNU's sparse files: a header says that a file is a million times as long as what is stored."""
  item = tarfile.TarInfo('sparse')
  item.type, item.size = tarfile.GNUTYPE_SPARSE, 0
  header = bytearray(item.tobuf(tarfile.GNU_FORMAT))
  header[386:410] = b'00000000000\0' * 2  # a piece of no bytes at 0
  header[483:495] = b'77777777777\0'  # the size in octal
  header[148:156] = b' ' * 8
  header[148:156] = f'{sum(header):06o}\0 '.encode()
  (tmp_path / 'archive').write_bytes(bytes(header) + bytes(1024))
  with pytest.raises(UserError, match="refused: 'sparse' is a link or device, or has holes"):
    download.extract(str(tmp_path / 'archive'), str(tmp_path / 'new'))
  assert os.listdir(tmp_path) == ['archive']


@pytest.mark.parametrize('kind', [tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE])
@pytest.mark.parametrize('first', [True, False])
def test_headers_that_would_fill_the_memory(tmp_path, kind, first):
  item = tarfile.TarInfo('x')
  item.type, item.size = kind, 2**33
  before = b'' if first else (tmp_path / make_tar(tmp_path / 'a', {'b': b'1'})).read_bytes()[:1024]
  (tmp_path / 'archive').write_bytes(gzip.compress(before + item.tobuf(tarfile.GNU_FORMAT) + bytes(10**5)))
  with pytest.raises(UserError, match='cannot unpack .*archive: ' + ('' if first else 'a header of 8589934592 bytes')):
    download.extract(str(tmp_path / 'archive'), str(tmp_path / 'new'))
  assert not (tmp_path / 'new').exists()


@pytest.mark.parametrize('place, problem', [(1024, 'bad checksum at byte 1024'), (1025, 'bad checksum at byte 1024')])
def test_a_damaged_header_is_not_the_end(tmp_path, place, problem):
  """tarfile takes it for the end, and what is behind it would be lost without a word."""
  archive = tmp_path / 'archive'
  make_tar(archive, {'a': b'1', 'b': b'2', 'c': b'3'})
  damaged = bytearray(archive.read_bytes())
  damaged[place] ^= 64
  archive.write_bytes(damaged)
  with pytest.raises(UserError, match=f'cannot unpack .*archive: {problem}'):
    download.extract(str(archive), str(tmp_path / 'new'))
  archive.write_bytes(damaged[:1024] + bytes(512) + damaged[1536:])
  with pytest.raises(UserError, match='there is more behind its end mark'):
    download.extract(str(archive), str(tmp_path / 'new'))


@pytest.mark.parametrize('method', [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_other_compressions_of_a_zip(tmp_path, method):
  """LZMA's may ask for gigabytes."""
  with zipfile.ZipFile(tmp_path / 'archive', 'w', method) as zipped:
    zipped.writestr('a', b'1' * 100)
  with pytest.raises(UserError, match="refused: 'a' is compressed by another method than deflate"):
    download.extract(str(tmp_path / 'archive'), str(tmp_path / 'new'))


@pytest.mark.parametrize('make', [make_tar, make_gzip, make_zip])
@pytest.mark.parametrize('part', [0, 0.01, 0.3, 0.7, 0.999])
def test_truncated_archive(tmp_path, make, part):
  archive = tmp_path / 'archive'
  make(archive)
  whole = archive.read_bytes().rstrip(b'\0') if make is make_tar else archive.read_bytes()
  archive.write_bytes(whole[:int(len(whole) * part)])
  with pytest.raises(UserError, match='cannot unpack .*archive: '):
    download.extract(str(archive), str(tmp_path / 'new'))
  assert os.listdir(tmp_path) == ['archive']


def test_tar_cut_between_two_files(tmp_path):
  archive = tmp_path / 'archive'
  make_tar(archive)
  archive.write_bytes(archive.read_bytes()[:1024])  # the first file's header and content
  with pytest.raises(UserError, match='ends before its end mark'):
    download.extract(str(archive), str(tmp_path / 'new'))


@pytest.mark.parametrize('make', [make_gzip, make_zip])
def test_flipped_bit(tmp_path, make):
  archive = tmp_path / 'archive'
  make(archive, {'a': os.urandom(5000)})  # incompressible: stored as it is, so that only the checksum can tell
  damaged = bytearray(archive.read_bytes())
  damaged[2500] ^= 1
  archive.write_bytes(damaged)
  with pytest.raises(UserError, match='cannot unpack'):
    download.extract(str(archive), str(tmp_path / 'new'))


def test_missing_archive_and_taken_target(tmp_path):
  with pytest.raises(UserError, match='cannot unpack .*gone'):
    download.extract(str(tmp_path / 'gone'), str(tmp_path / 'new'))
  with pytest.raises(UserError, match='already there'):
    download.extract(make_tar(tmp_path / 'archive'), str(tmp_path))


def test_unpacked_folder_is_as_readable_as_others(tmp_path):
  download.extract(make_tar(tmp_path / 'archive'), str(tmp_path / 'new'))
  (tmp_path / 'usual').mkdir()
  (tmp_path / 'usual.txt').touch()
  assert (tmp_path / 'new').stat().st_mode == (tmp_path / 'usual').stat().st_mode
  assert (tmp_path / 'new/top/list.txt').stat().st_mode == (tmp_path / 'usual.txt').stat().st_mode
