"""TensorFlow as this project uses it, TF1-style graph code, and the repairs that tf_slim needs on it.

All other modules import `tf` and `slim` from here. Written for tensorflow 2.21, tf-keras 2.21 and tf-slim 1.1.0.
"""

import contextlib
import ctypes
import functools
import gc
import importlib
import logging
import os
import sys
import tempfile
import warnings

from utils.exits import ended_at_once
from utils.installation import install, listing

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
os.environ.setdefault('TF_USE_LEGACY_KERAS', '1')
# TensorFlow enables oneDNN by default only on CPUs with AVX512-VNNI or newer; its kernels without oneDNN have no
# gradient for dilated convolutions, which ENet needs.
os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '1')
# A start frees millions of small pieces; the C library (glibc) keeps some in lists that it clears again and again: a
# twelfth of the time to the first step. Its caches for each thread stay.
with contextlib.suppress(OSError, AttributeError):
  ctypes.CDLL(None).mallopt(1, 0)  # M_MXFAST


@contextlib.contextmanager
def without_collection():
  """Collects no garbage inside the block, or inside a function of which this is the decorator.

  For what makes very many objects that stay, as imports and graphs: to look at them again and again for garbage, of
  which there is none, takes a quarter of the time of TensorFlow's import.
  """
  collects = gc.isenabled()
  gc.disable()
  try:
    yield
  finally:
    if collects:
      gc.enable()


@contextlib.contextmanager
def _quiet_import():
  """Holds back messages of TensorFlow's libraries while they load, which no log level stops; shows them on failure."""
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


@contextlib.contextmanager
def _without_scipy():
  """Lets imports inside the block find no SciPy, unless it is there already.

  Keras imports it, where it is installed, for functions that nothing here uses: a tenth of TensorFlow's import.
  """
  missing = sys.modules.setdefault('scipy', None) is None
  try:
    yield
  finally:
    if missing:
      del sys.modules['scipy']


with ended_at_once(), _quiet_import(), without_collection(), _without_scipy():
  import tensorflow.compat.v1 as tf
  from tensorflow.core.protobuf.tensor_bundle_pb2 import BundleEntryProto as BundleEntry
  from tensorflow.core.util.saved_tensor_slice_pb2 import SavedTensorSlices as SavedSlices
  from tensorflow.python.autograph.core import ag_ctx as _autograph
  from tensorflow.python.framework import ops as _ops
  from tensorflow.python.keras.utils import version_utils as _versions
  from tensorflow.python.training.saver import BulkSaverBuilder
  tf.config.list_physical_devices('GPU')  # looks for a CUDA driver once, and complains where there is none


def _repair_slim():
  """Restores names that tf_slim 1.1.0 looks up and newer TensorFlows have moved or dropped.

  Raises:
    ImportError: if the repairs do not fit the installed versions.
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
          f'{listing()}: {install()}') from error
    sys.modules['tf_keras.legacy_tf_layers.normalization'] = module
  # tensorflow 2.16 to 2.21: `ops.Tensor` moved out of framework.ops; slim.learning and slim.layers still ask for it.
  if not hasattr(_ops, 'Tensor'):
    _ops.Tensor = tf.Tensor
  # tensorflow 2.21: each layer made sets its class's bases anew, mostly those that it has, and so empties Python's
  # caches of all layers' methods.
  _versions.swap_class = functools.cache(_versions.swap_class)


with ended_at_once(), _quiet_import(), without_collection(), _without_scipy():
  _repair_slim()
  import tf_slim as slim
  import tf_slim.nets  # noqa: F401, makes slim.nets, whose import would be noisy elsewhere

gc.freeze()  # what is there now stays: no collection looks at it again


def keep_functions_off_gpus():
  """Lets TensorFlow's eager context see no GPU; sessions have options of their own.

  tf.data registers its functions there, also in graph mode, and so makes the context before any session: with the
  default options, which take all memory of all GPUs, and which every session of the process then shares. Has to be
  called before the context is made. Who wants the context to see GPUs, as for tf.config.experimental.get_memory_info,
  calls tf.config.set_visible_devices and set_memory_growth first.
  """
  tf.config.set_visible_devices([], 'GPU')


tf.disable_eager_execution()
keep_functions_off_gpus()
# Nothing here leaves Python's `if` and `for` to AutoGraph; to rewrite the functions of the input takes half a second.
_autograph.ControlStatusCtx(_autograph.Status.DISABLED).__enter__()
tf.disable_tensor_equality()  # graphs compare tensors by identity anyway, and large graphs are built much faster
tf.enable_resource_variables()
tf.disable_control_flow_v2()  # lets an optimizer inside tf.cond (utils/training/step.py) create its variables outside
tf.logging.set_verbosity(tf.logging.ERROR)
logging.getLogger('absl').setLevel(logging.WARNING)
warnings.filterwarnings('ignore', message='`layer.apply` is deprecated')
warnings.filterwarnings('ignore', message=r'\s*Warning: tf\.lite\.Interpreter is deprecated')  # its converter's own

__all__ = ['BulkSaverBuilder', 'BundleEntry', 'SavedSlices', 'slim', 'tf', 'without_collection']
