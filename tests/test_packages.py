"""Packages as files: what is written is read, the same content is the same bytes, and bad archives are refused."""

import hashlib
import io
import json
import os
import stat
import struct
import zipfile

import numpy as np
import pytest

from utils import packages
from utils.checkpoint_files import open_checkpoint, problem, read_step, read_tensors
from utils.compat import tf
from utils.errors import UserError
from utils.packages import Package, shortened, write_package

pytestmark = pytest.mark.fast

RNG = np.random.default_rng(5)
TENSORS = {'Net/conv/weights': RNG.normal(size=(3, 5, 2, 7)).astype(np.float32),
           'Net/conv/biases': RNG.normal(size=7).astype(np.float32), 'global_step': np.int64(41)}
CONFIG = {'flags': {}, 'classes': ['caf\xe9']}


def write(path, tensors=TENSORS, **pictures):
  write_package(str(path), {'config.json': CONFIG, 'README.md': '# A\n'}, tensors, pictures)
  return str(path)


@pytest.fixture
def path(tmp_path):
  return write(tmp_path / 'run.zip')


def members(path):
  """Dict from name to bytes of the files of an archive."""
  with zipfile.ZipFile(path) as archive:
    return {name: archive.read(name) for name in archive.namelist()}


def rewrite(path, files, compression=zipfile.ZIP_STORED, with_index=True, **attributes):
  """Writes an archive by hand, as anybody could; `attributes` are those of its first entry."""
  files = {name: content for name, content in files.items() if name != 'package.json'}
  if with_index:
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    files['package.json'] = json.dumps({'format': 'FCN-GoogLeNet run', 'version': 1, 'sha256': sums}).encode()
  with zipfile.ZipFile(path, 'w', compression) as archive:
    for number, (name, content) in enumerate(files.items()):
      entry = zipfile.ZipInfo(name)
      entry.compress_type = compression
      for attribute, value in attributes.items() if number == 0 else ():
        setattr(entry, attribute, value)
      archive.writestr(entry, content)


def refused(path, match):
  with pytest.raises(UserError, match=match) as caught:
    Package(str(path)).check()
  assert str(path) in str(caught.value) and '\n' not in str(caught.value)


def test_what_is_written_is_read(path):
  reader = open_checkpoint(path)
  assert reader.get_variable_to_shape_map() == {
      'Net/conv/biases': [7], 'Net/conv/weights': [3, 5, 2, 7], 'global_step': []}
  assert reader.get_variable_to_dtype_map()['Net/conv/weights'] == tf.float32
  for name, value in read_tensors(path, TENSORS).items():
    np.testing.assert_array_equal(value, TENSORS[name], strict=True)
  assert (read_step(path), problem(path), Package(path).document('config.json')) == (41, None, CONFIG)
  assert reader.has_tensor('Net/conv/biases') and not reader.has_tensor('Net/conv')
  with pytest.raises(UserError, match='no variable Net/fc'):
    read_tensors(path, ['Net/fc'])


def test_anybody_can_read_it(path):
  """With a zip program, and with numpy alone; without pickles."""
  with np.load(path, allow_pickle=False) as found:
    np.testing.assert_array_equal(found['weights/Net/conv/weights'], TENSORS['Net/conv/weights'])
  assert members(path)['README.md'] == b'# A\n'


def test_float16_is_read_as_float32(tmp_path):
  short = {name: shortened(value) for name, value in TENSORS.items()}
  assert [short[name].dtype for name in TENSORS] == [np.float16, np.float32, np.int64]
  path = write(tmp_path / 'short.zip', short)
  assert open_checkpoint(path).get_variable_to_dtype_map()['Net/conv/weights'] == tf.float32
  expected = TENSORS['Net/conv/weights'].astype(np.float16).astype(np.float32)
  np.testing.assert_array_equal(read_tensors(path, TENSORS)['Net/conv/weights'], expected, strict=True)


@pytest.mark.parametrize('values, kind', [
    ([[0.5, -3e4]], np.float16),
    ([[0.5, 7e4]], np.float32),  # beyond 65504: infinite
    ([[1e-6, 3e-6]], np.float32),  # in float16 0.954e-6 and 2.98e-6
    ([[1e-6, 0.5]], np.float16),  # small beside the others
    ([[0.0, 0.0]], np.float16),
    ([[np.nan, 1.0]], np.float32),
    ([0.5, 1.0], np.float32),  # a vector
])
def test_float16_where_it_rounds_and_no_more(values, kind):
  assert shortened(np.array(values, np.float32)).dtype == kind


def test_the_same_content_is_the_same_bytes(path, tmp_path, monkeypatch):
  monkeypatch.setattr('time.time', lambda: 2e9)
  backwards = dict(reversed(TENSORS.items()))
  with open(path, 'rb') as one, open(write(tmp_path / 'again.zip', backwards), 'rb') as other:
    assert one.read() == other.read()


def test_cut_off_anywhere(path):
  with open(path, 'rb') as file:
    content = file.read()
  for length in (len(content) - 1, len(content) // 2, 40, 5):
    with open(path, 'wb') as file:
      file.write(content[:length])
    refused(path, 'is cut off or damaged')
    assert problem(path)


def test_a_flipped_bit_anywhere_in_a_file_is_found(path):
  with open(path, 'rb') as file:
    content = bytearray(file.read())
  place = content.index(TENSORS['Net/conv/weights'].tobytes())
  content[place + 100] ^= 1
  with open(path, 'wb') as file:
    file.write(content)
  with pytest.raises(UserError, match=r'run.zip is cut off or damaged: Bad CRC-32 for file .*weights.npy'):
    read_tensors(path, ['Net/conv/weights'])
  np.testing.assert_array_equal(read_tensors(path, ['Net/conv/biases'])['Net/conv/biases'], TENSORS['Net/conv/biases'])


def test_another_checksum(path):
  files = members(path)
  files['config.json'] = files['config.json'].replace(b'flags', b'flegs')
  with zipfile.ZipFile(path, 'w') as archive:
    for name, content in files.items():
      archive.writestr(name, content)
  refused(path, 'config.json has another checksum')


@pytest.mark.parametrize('name', [
    '../config.json', '/etc/passwd', 'weights/../../x.npy', 'weights\\x.npy', 'weights/.hidden/x.npy', 'weights/x.npz',
    'weights/', 'model.pkl', 'worst-../x.png', 'C:/x.npy', 'weights/x\n.npy'])
def test_names_that_no_package_has(path, name):
  rewrite(path, {**members(path), name: b''})
  refused(path, 'is refused: .*no package has such a file')


@pytest.mark.parametrize('attributes, match', [
    ({'external_attr': (stat.S_IFLNK | 0o777) << 16}, 'link or device'),
    ({'external_attr': (stat.S_IFIFO | 0o644) << 16}, 'link or device'),
])
def test_links_and_devices(path, attributes, match):
  rewrite(path, members(path), **attributes)
  refused(path, f'is refused: .*{match}')


def test_bombs(path, tmp_path):
  """A compressed file, one that claims more than is there, a long list of files, and one counted by zip64."""
  files = members(path)
  rewrite(path, {**files, 'weights/x.npy': bytes(10**7)}, zipfile.ZIP_DEFLATED)
  assert os.path.getsize(path) < 10**5
  refused(path, 'is compressed')
  rewrite(path, files)
  with open(path, 'rb') as file:
    content = bytearray(file.read())
  first = content.index(b'PK\1\2')  # of the central directory; sizes at 20 and 24
  struct.pack_into('<2L', content, first + 20, 2**31, 2**31)
  (tmp_path / 'claims.zip').write_bytes(content)
  refused(tmp_path / 'claims.zip', 'is refused|cut off or damaged')
  end = content.rindex(b'PK\5\6')
  struct.pack_into('<H', content, end + 10, 50_000)
  (tmp_path / 'many.zip').write_bytes(content)
  refused(tmp_path / 'many.zip', 'is refused: a list of 50000 files')
  (tmp_path / 'zip64.zip').write_bytes(content[:end] + b'PK\6\7' + bytes(16) + content[end:])
  refused(tmp_path / 'zip64.zip', 'no zip64')


def test_files_that_overlap_claim_more_than_the_archive_has(path, monkeypatch):
  """David Fifield, "A better zip bomb", WOOT 2019: many entries share the same bytes."""
  with zipfile.ZipFile(path) as archive:
    entries = archive.infolist()
  copies = []
  for number in range(100):
    copy = zipfile.ZipInfo(f'weights/x{number}.npy')
    copy.file_size = copy.compress_size = 100
    copies.append(copy)
  with pytest.raises(UserError, match='claim .* bytes, more than it has itself'):
    packages._checked(path, entries + copies)


@pytest.mark.filterwarnings('ignore:Duplicate name')
def test_a_file_that_is_there_twice(path):
  with zipfile.ZipFile(path, 'a') as archive:
    archive.writestr('config.json', '{}')
  refused(path, "'config.json': it is there twice")


def test_encrypted_files(path):
  with open(path, 'rb') as file:
    content = bytearray(file.read())
  content[content.index(b'PK\1\2') + 8] |= 1
  with open(path, 'wb') as file:
    file.write(content)
  refused(path, 'is encrypted')


def npy(header, data):
  text = header.encode().ljust(117) + b'\n'
  return b'\x93NUMPY\1\0' + struct.pack('<H', len(text)) + text + data


@pytest.mark.parametrize('content', [
    npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", b'cos\nsystem\n(S"false"\ntR.'),  # a pickle
    npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000, 1000000000), }", bytes(4)),
    npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }", bytes(4)),
    npy("{'descr': '<f4', 'fortran_order': True, 'shape': (1, 1), }", bytes(4)),
    npy("{'descr': '<f8', 'fortran_order': False, 'shape': (1,), }", bytes(8)),
    npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }", bytes(4)),
    npy("__import__('os').abort()", b''),
    npy('[' * 100, b''),
    b'\x93NUMPY\1\0\xff\xff',
    b'',
], ids=['pickle', 'vast', 'negative', 'fortran', 'double', 'short', 'code', 'deep', 'cut', 'empty'])
def test_arrays_are_numbers_and_no_more(path, content):
  rewrite(path, {**members(path), 'weights/Net/x.npy': content})
  refused(path, 'Net/x.npy is (refused|no array of numbers)')
  with pytest.raises(UserError):
    Package(path).get_variable_to_shape_map()


@pytest.mark.parametrize('index, match', [
    (b'{', 'package.json is not valid JSON'),
    (b'[' * 10**5, 'package.json is not valid JSON'),
    (b'{}', 'not written by'),
    (b'{"format": "FCN-GoogLeNet run", "version": 2, "sha256": {}}', 'version 2 of the format'),
    (b'{"format": "FCN-GoogLeNet run", "version": 1, "sha256": {"README.md": ""}}',
     'differ in config.json, weights/Net'),
])
def test_an_index_that_does_not_fit(path, index, match):
  files = {**members_of_tensors(), 'config.json': b'{}', 'README.md': b'', 'package.json': index}
  with zipfile.ZipFile(path, 'w') as archive:
    for name, content in files.items():
      archive.writestr(name, content)
  refused(path, match)


def members_of_tensors():
  stream = io.BytesIO()
  np.save(stream, TENSORS['Net/conv/biases'])
  return {'weights/Net/conv/biases.npy': stream.getvalue()}


def test_any_other_zip_is_named(path):
  rewrite(path, {'README.md': b''}, with_index=False)
  refused(path, 'holds no package.json')


def test_a_package_too_large_is_not_written(tmp_path, monkeypatch):
  monkeypatch.setattr(packages, '_MOST_BYTES', 500)
  with pytest.raises(UserError, match='more than a zip archive holds'):
    write(tmp_path / 'large.zip')
  assert os.listdir(tmp_path) == []
  with pytest.raises(UserError, match='name is no path'):
    write_package(str(tmp_path / 'odd.zip'), {}, {'a//b': np.zeros(1, np.float32)})
  for name in ('worst-val-litert_my model.png', 'a.png'):  # as of an --engine_file of this name
    with pytest.raises(UserError, match=f'picture {name!r} cannot be stored'):
      write(tmp_path / 'odd.zip', **{name: b''})
  assert os.listdir(tmp_path) == []
