"""Variable-length integers: values by hand, as the documentation of Protocol Buffers has them, there and back."""

import pytest

from utils import varint

pytestmark = pytest.mark.fast


@pytest.mark.parametrize('value, data', [
    (0, b'\0'), (1, b'\1'), (127, b'\x7f'), (128, b'\x80\1'), (150, b'\x96\1'), (300, b'\xac\2')])
def test_values(value, data):
  assert varint.encoded(value) == data and varint.read(b'?' + data + b'?', 1) == (value, 1 + len(data))


def test_a_negative_number_has_ten_bytes():
  assert varint.encoded(-2) == b'\xfe' + b'\xff' * 8 + b'\1'


@pytest.mark.parametrize('data', [b'', b'\x80', b'\xff' * 20])
def test_a_number_without_an_end(data):
  with pytest.raises(ValueError, match='a number without an end'):
    varint.read(data, 0)
