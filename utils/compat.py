"""TensorFlow as this project uses it, TF1-style graph code, and the repairs that tf_slim needs on it.

Everything else imports `tf` and `slim` from here. Written for tensorflow 2.21, tf-keras 2.21 and tf-slim 1.1.0.
"""

import contextlib
import importlib
import logging
import os
import sys
import tempfile
import warnings

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
os.environ.setdefault('TF_USE_LEGACY_KERAS', '1')
# TensorFlow turns oneDNN on by itself only on CPUs with AVX512-VNNI and newer ones; its own kernels elsewhere have no
# gradient for dilated convolutions, which ENet needs.
os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '1')


@contextlib.contextmanager
def _quiet_import():
  """Holds back what TensorFlow's libraries print while they load, which no log level turns off; shows it on failure."""
  sys.stderr.flush()
  stderr = os.dup(2)
  with tempfile.TemporaryFile() as held:
    os.dup2(held.fileno(), 2)
    try:
      yield
    except BaseException:
      held.seek(0)
      os.write(stderr, held.read())
      raise
    finally:
      os.dup2(stderr, 2)
      os.close(stderr)


with _quiet_import():
  import tensorflow.compat.v1 as tf
  from tensorflow.python.framework import ops as _ops
  tf.config.list_physical_devices('GPU')  # looks for a CUDA driver once, and complains where there is none


def _repair_slim():
  """Puts back what tf_slim 1.1.0 looks for and newer TensorFlows have moved or dropped.

  Raises:
    ImportError: if the installed versions are not the ones that the repairs fit.
  """
  # tf-keras 2.16 to 2.21: slim.batch_norm imports `tf_keras.legacy_tf_layers`, which now lives under `tf_keras.src`.
  try:
    importlib.import_module('tf_keras.legacy_tf_layers.normalization')
  except ImportError:
    try:
      module = importlib.import_module('tf_keras.src.legacy_tf_layers.normalization')
    except ImportError as error:
      raise ImportError(
          f'slim.batch_norm cannot be repaired on tensorflow {tf.__version__} ({error}); install the versions of '
          'requirements.txt: pip install -r requirements.txt') from error
    sys.modules['tf_keras.legacy_tf_layers.normalization'] = module
  # tensorflow 2.16 to 2.21: `ops.Tensor` moved out of framework.ops; slim.learning and slim.layers still ask for it.
  if not hasattr(_ops, 'Tensor'):
    _ops.Tensor = tf.Tensor


with _quiet_import():
  _repair_slim()
  import tf_slim as slim
  import tf_slim.nets  # noqa: F401, makes slim.nets, whose import would be noisy elsewhere

tf.disable_eager_execution()
tf.disable_tensor_equality()  # graphs compare tensors by identity anyway; this way large ones are built much faster
tf.enable_resource_variables()
tf.disable_control_flow_v2()  # an optimizer inside tf.cond (utils/training.py) makes its variables around it only so
tf.logging.set_verbosity(tf.logging.ERROR)
logging.getLogger('absl').setLevel(logging.WARNING)
warnings.filterwarnings('ignore', message='`layer.apply` is deprecated')

__all__ = ['slim', 'tf']
