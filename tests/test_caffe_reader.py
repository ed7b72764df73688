"""Reading .caffemodel files: both kinds of layer, every way to store numbers, and damage."""

import struct

import numpy as np
import pytest
from vgg_files import net_message, write_caffemodel

from checkpoints.caffe import read_caffemodel
from utils.errors import UserError
from utils.varint import encoded as varint

pytestmark = pytest.mark.fast

RNG = np.random.default_rng(0)
LAYERS = {'conv1_1': ('Convolution', [RNG.normal(size=(3, 2, 5, 4)).astype(np.float32),
                                      RNG.normal(size=3).astype(np.float32)]),
          'fc6': ('InnerProduct', [RNG.normal(size=(2, 300)).astype(np.float32)])}


@pytest.mark.parametrize('v1', [False, True])
@pytest.mark.parametrize('packed', [False, True])
@pytest.mark.parametrize('double', [False, True])
def test_what_another_writer_wrote(tmp_path, v1, packed, double):
  layers = read_caffemodel(write_caffemodel(tmp_path / 'net', LAYERS, v1=v1, packed=packed, double=double))
  assert list(layers) == ['conv1_1', 'fc6']  # relu1_1 has no weights
  for name, (_, arrays) in LAYERS.items():
    assert len(layers[name]) == len(arrays)
    for found, array in zip(layers[name], arrays):
      assert found.shape == ((1,) * (4 - array.ndim) if v1 else ()) + array.shape and found.dtype == np.float32
      np.testing.assert_array_equal(found.reshape(array.shape), array)


def field(number, wire_type, content):
  return varint(number << 3 | wire_type) + content


def span(number, content, claimed=None):
  return field(number, 2, varint(len(content) if claimed is None else claimed) + content)


def net(blob, name=b'conv'):
  return span(100, span(1, name) + span(7, blob))


def read_bytes(path, content):
  path.write_bytes(content)
  return read_caffemodel(path)


def test_bytes_by_hand(tmp_path):
  """Wire bytes worked out from the encoding's description; unknown fields of every wire type are passed over."""
  unknown = bytes.fromhex('6807' '6a0161' '71' + 8 * '00' + '75' + 4 * '00')  # field 13 as varint, span, 8 and 4 bytes
  blob = bytes.fromhex('2a08' '0000803f' '000000c0' '3a03' '0a01' '02')  # data [1, -2], shape {dim: [2]}
  layer = bytes.fromhex('0a03') + b'abc' + unknown + bytes.fromhex('3a0f') + blob
  layers = read_bytes(tmp_path / 'net', unknown + bytes.fromhex('a206') + varint(len(layer)) + layer)
  np.testing.assert_array_equal(layers['abc'][0], np.float32([1, -2]))


DATA = struct.pack('<6f', *range(6))


@pytest.mark.parametrize('content, problem', [
    (b'', 'has 0 bytes'),
    (b'name: "VGG"\n', 'no .caffemodel'),  # a prototxt
    (b'\x89PNG\r\n\x1a\n', 'no .caffemodel'),
    (b'\xff' * 20, 'a number without an end'),
    (b'\x08\x80', 'a number without an end'),
    (span(1, b'only a name'), 'holds no layer with weights'),
    (net(span(5, DATA) + span(7, span(1, b'\x02\x04'))), r"array 0 of layer 'conv' has the shape \[2, 4\] and 6 num"),
    (net(span(5, DATA) + span(7, span(1, varint(2**62) * 3))), 'and 6 numbers'),
    (net(span(5, DATA) + b''.join(field(number, 0, varint(2**40)) for number in range(1, 5))), 'and 6 numbers'),
    (net(span(5, DATA)), r'has the shape \[0, 0, 0, 0\] and 6 numbers'),
    (net(span(5, DATA[:-1]) + span(7, span(1, b'\x06'))), 'no .caffemodel, or is cut short'),
    (net(span(5, DATA, claimed=2**40)), 'a field claims 1099511627776 bytes and 24 are left'),
    (span(100, b'', claimed=2**63), 'a field claims 9223372036854775808 bytes and 0 are left'),
    (net(span(7, span(1, b'\x01' * 200))), 'has a shape of 203 bytes'),
    (net(b'', name=b'\xff\xfe'), 'no .caffemodel'),
    (net(span(5, DATA) + span(7, span(1, b'\x06'))) * 2, "two layers 'conv'"),
    (span(100, 17 * span(7, b'')), 'has more than 16 arrays'),
])
def test_damaged(tmp_path, content, problem):
  with pytest.raises(UserError, match=problem) as error:
    read_bytes(tmp_path / 'net.caffemodel', content)
  assert str(tmp_path / 'net.caffemodel') in str(error.value) and '\n' not in str(error.value)


def test_fields_of_another_wire_type_are_skipped(tmp_path):
  blob = span(5, DATA) + span(7, span(1, b'\x06')) + field(7, 0, b'\x09') + span(1, b'\x09')
  layers = read_bytes(tmp_path / 'net', span(100, field(1, 0, b'\x05') + span(7, blob)) + field(100, 0, b'\x01'))
  assert list(layers) == [''] and layers[''][0].shape == (6,)


def test_cut_or_altered_anywhere(tmp_path):
  """A damaged file is read or refused, without any other error; a file cut inside a layer is refused."""
  whole = write_caffemodel(tmp_path / 'whole', {'conv': ('Convolution', LAYERS['conv1_1'][1])}).read_bytes()
  last = net_message()
  last.ParseFromString(whole)
  start = len(whole) - last.layer[1].ByteSize()
  for length in range(start, len(whole)):
    with pytest.raises(UserError, match='cut short'):
      read_bytes(tmp_path / 'cut', whole[:length])
  rng = np.random.default_rng(1)
  refused = 0
  for _ in range(500):
    altered = bytearray(whole)
    altered[rng.integers(len(whole) - 480 if rng.random() < 0.8 else len(whole))] = rng.integers(256)
    try:
      read_bytes(tmp_path / 'altered', bytes(altered))
    except UserError:
      refused += 1
  assert 50 < refused < 500


def test_unreadable(tmp_path):
  for path in (tmp_path / 'missing', tmp_path):
    with pytest.raises(UserError, match='cannot read'):
      read_caffemodel(path)
