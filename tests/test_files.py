"""JSON within bounds, locks, on file systems with and without them, and names that TensorFlow takes."""

import errno
import fcntl
import os

import pytest

from utils import files, runs
from utils.compat import tf
from utils.errors import UserError
from utils.files import locked_folder, read_json, take_lock, tensorflow_path

pytestmark = pytest.mark.fast

NAMES = ['exp[1]', 'a*b', 'a?b', 'back\\slash', os.fsdecode(b'caf\xe9'), '[', '**']


@pytest.mark.parametrize('data, problem', [
    (b'[' * 10**6, 'is not valid JSON: lists or objects are nested too deep'), (b'{"a":' * 10**6, 'is not valid JSON'),
    (b'\xff', 'is not valid JSON'), (b'', 'is not valid JSON'), (b'[' + b'9' * 5000 + b']', 'is not valid JSON'),
    (b'"' + b'a' * 2000 + b'"', 'has 2002 bytes; at most 1000 are read')])
def test_a_json_that_cannot_be_read_is_one_line(data, problem, tmp_path, monkeypatch):
  if len(data) == 2002:
    monkeypatch.setattr(files, '_MOST_JSON', 1000)
  (tmp_path / 'a.json').write_bytes(data)
  with pytest.raises(UserError, match=f'a.json {problem}') as caught:
    read_json(tmp_path / 'a.json')
  assert '\n' not in str(caught.value)


@pytest.fixture
def failing(monkeypatch):
  """`failing(number)` makes flock fail with this errno."""

  def start(number):
    def flock(*arguments):
      raise OSError(number, os.strerror(number))
    monkeypatch.setattr(fcntl, 'flock', flock)

  return start


@pytest.mark.parametrize('number', [errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EINVAL, errno.EBADF])
def test_without_locks_a_warning_and_work_goes_on(number, failing, tmp_path, capsys):
  failing(number)
  with runs.locked(str(tmp_path / 'run')):
    pass
  with locked_folder(str(tmp_path / 'data'), 'another conversion is writing to it'):
    pass
  first, second = capsys.readouterr().err.splitlines()
  assert first.startswith('warning: ') and os.strerror(number) in first and 'another run is training in' in first
  assert 'another conversion is writing to' in second


@pytest.mark.parametrize('number', [errno.EWOULDBLOCK, errno.EACCES])
def test_a_held_lock_is_said(number, failing, tmp_path):
  failing(number)
  with pytest.raises(UserError, match='^another run is training in .*run; give'), runs.locked(str(tmp_path / 'run')):
    pass


def test_one_lock_a_file_until_it_is_closed(tmp_path):
  path = tmp_path / 'file'
  with open(path, 'w') as one, open(path) as other:
    take_lock(one, 'busy')
    with pytest.raises(UserError, match='^busy$'):
      take_lock(other, 'busy')
    one.close()
    take_lock(other, 'busy')


def test_a_lock_file_of_another_user_or_of_no_use(tmp_path, monkeypatch):
  opened = os.open

  def refusing(path, flags, mode=0o777):
    if flags & os.O_RDWR:
      raise PermissionError(errno.EACCES, 'Permission denied')
    return opened(path, flags, mode)

  (tmp_path / 'lock').touch()
  with monkeypatch.context() as patched:
    patched.setattr(os, 'open', refusing)
    with runs.locked(str(tmp_path)), pytest.raises(UserError, match='another run'), runs.locked(str(tmp_path)):
      pass
  (tmp_path / 'lock').unlink()
  (tmp_path / 'lock').mkdir()
  with pytest.raises(UserError, match='cannot open .*lock: Is a directory'), runs.locked(str(tmp_path)):
    pass
  with pytest.raises(UserError, match='File name too long'), runs.locked(str(tmp_path / ('x' * 300))):
    pass


@pytest.mark.parametrize('path', ['runs/voc', '/tmp/two words', 'quote\'"', 'new\nline', 'ü/-dash', 'a{b}', '~', ''])
def test_plain_names_stay_as_they_are(path):
  assert tensorflow_path(path) == path


@pytest.mark.parametrize('name', NAMES)
def test_a_folder_of_any_name_is_reached_by_a_link(name, tmp_path):
  folder = tmp_path / name
  folder.mkdir()
  link = tensorflow_path(str(folder))
  assert os.path.samefile(link, folder) and link == tensorflow_path(f'{folder}/')
  with tf.io.TFRecordWriter(tensorflow_path(str(folder / 'x.tfrecord'))) as writer:
    writer.write(b'value')
  assert os.listdir(folder) == ['x.tfrecord']
  assert list(tf.io.tf_record_iterator(tensorflow_path(str(folder / 'x.tfrecord')))) == [b'value']


@pytest.mark.parametrize('name', NAMES)
def test_a_checkpoint_of_any_name_is_read(name, tmp_path):
  with tf.Graph().as_default(), tf.Session() as session:
    value = tf.get_variable('value', initializer=tf.constant([3.0, 4.0]))
    session.run(value.initializer)
    tf.train.Saver([value]).save(session, str(tmp_path / 'plain'), write_meta_graph=False, write_state=False)
    for entry in os.listdir(tmp_path):
      os.rename(tmp_path / entry, tmp_path / (name + entry.removeprefix('plain')))
    path = tensorflow_path(str(tmp_path / name))
    session.run(value.assign([0.0, 0.0]))
    tf.train.Saver([value]).restore(session, path)
    assert session.run(value).tolist() == [3.0, 4.0]
  assert tf.train.load_checkpoint(path).get_tensor('value').tolist() == [3.0, 4.0]


def test_what_looks_like_another_file_system_is_a_folder_here(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  os.makedirs('gs:/bucket')
  assert os.path.samefile(tensorflow_path('gs://bucket'), 'gs:/bucket')


def test_without_a_place_for_links_one_line(tmp_path, monkeypatch):
  def refuse(*arguments):
    raise OSError(errno.EROFS, 'Read-only file system')
  (tmp_path / 'a*b').mkdir()
  monkeypatch.setattr(os, 'symlink', refuse)
  with pytest.raises(UserError, match=r'a\*b: TensorFlow cannot take .*Read-only file system\); rename it'):
    tensorflow_path(str(tmp_path / 'a*b'))
