"""Reading MatConvNet's .mat files: old and new layouts, and damage."""

import numpy as np
import pytest
import scipy.io
from vgg_files import write_mat

from checkpoints.matconvnet import read_mat
from utils.errors import UserError

pytestmark = pytest.mark.fast

RNG = np.random.default_rng(0)
LAYERS = {'conv1_1': (RNG.normal(size=(3, 2, 3, 5)).astype(np.float32), RNG.normal(size=5).astype(np.float32)),
          'fc8': (RNG.normal(size=(1, 1, 7, 4)).astype(np.float32), RNG.normal(size=4).astype(np.float32))}
IMAGE = RNG.uniform(90, 130, [6, 4, 3])


@pytest.mark.parametrize('old', [False, True])
def test_layouts(tmp_path, old):
  layers, mean = read_mat(write_mat(tmp_path / 'net.mat', LAYERS, IMAGE, old=old))
  assert list(layers) == list(LAYERS)
  for name, arrays in LAYERS.items():
    for found, array in zip(layers[name], arrays, strict=True):
      assert found.dtype == np.float32
      np.testing.assert_array_equal(found, array)
  np.testing.assert_allclose(mean, [IMAGE[:, :, channel].mean() for channel in range(3)], rtol=1e-12)


@pytest.mark.parametrize('mean', [np.float32([[[1, 2, 4]]]), np.uint8([1, 2, 4])])
def test_mean_color(tmp_path, mean):
  np.testing.assert_array_equal(read_mat(write_mat(tmp_path / 'net.mat', LAYERS, mean))[1], [1, 2, 4])


def test_no_mean(tmp_path):
  assert read_mat(write_mat(tmp_path / 'net.mat', LAYERS, np.zeros([0, 0])))[1] is None
  scipy.io.savemat(tmp_path / 'bare.mat', {'layers': scipy.io.loadmat(tmp_path / 'net.mat')['layers']})
  assert read_mat(tmp_path / 'bare.mat')[1] is None


def test_last_axis_of_length_one(tmp_path):
  """MATLAB has no such axis: the one kernel comes as [3, 2, 3]."""
  kernel = LAYERS['conv1_1'][0][..., 0]
  layers, _ = read_mat(write_mat(tmp_path / 'net.mat', {'a': (kernel, np.float32([5]))}, IMAGE))
  np.testing.assert_array_equal(layers['a'][0], kernel[..., None])


@pytest.mark.parametrize('content, problem', [
    ({'mean': 1}, 'no variable `layers`'),
    ({'layers': np.zeros([2, 2])}, 'no convolutions'),
    ({'layers': np.array([{'type': 'relu', 'name': 'a'}])}, 'no convolutions'),
    ({'layers': np.array([{'type': 'conv', 'name': 'a'}])}, "layer 'a' has no pair of filters and biases"),
    ({'layers': np.array([{'type': 'conv', 'weights': 'none'}])}, "layer 'number 0' has no pair"),
    ({'layers': np.array([{'type': 'conv', 'name': 'a', 'filters': 'none', 'biases': np.ones(2)}])}, 'no pair'),
    ({'layers': np.array([{'type': 'conv', 'name': 'a', 'filters': np.ones(5 * [2]), 'biases': np.ones(2)}])},
     r'filters of the shape \[2, 2, 2, 2, 2\]'),
    ({'layers': np.array([{'type': 'conv', 'name': 'a', 'filters': np.ones(4 * [2]), 'biases': np.ones(2)}] * 2)},
     "two layers 'a'"),
    ({'layers': np.array([{'type': 'conv', 'name': 'a', 'filters': np.ones(4 * [2]), 'biases': np.ones(2)}]),
      'normalization': {'averageImage': np.ones([4, 4])}}, r'averageImage is float64 \[4, 4\], not an RGB image'),
])
def test_another_content(tmp_path, content, problem):
  scipy.io.savemat(tmp_path / 'net.mat', content)
  with pytest.raises(UserError, match=problem) as error:
    read_mat(tmp_path / 'net.mat')
  assert 'net.mat' in str(error.value)


def test_damaged(tmp_path):
  whole = write_mat(tmp_path / 'whole.mat', LAYERS, IMAGE).read_bytes()
  damaged = [whole[:len(whole) // 2], whole[:200], whole[:130], b'MATLAB 5.0', b'', b'PNG' * 300,
             whole[:124] + b'\x00\x02IM' + whole[128:]]  # the last: MATLAB 7.3
  for content in damaged:
    (tmp_path / 'cut.mat').write_bytes(content)
    with pytest.raises(UserError, match='cut.mat') as error:
      read_mat(tmp_path / 'cut.mat')
    assert '\n' not in str(error.value)
  assert '7.3' in str(error.value)
  with pytest.raises(UserError, match='cannot read .*gone.mat: No such file'):
    read_mat(tmp_path / 'gone.mat')
