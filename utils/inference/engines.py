"""Engines that run an exported network: each opens a file of `python -m utils.export` as anybody would.

    with open_engine('runs/camvid/export/model.onnx') as engine:
      labels = engine.labels(images)

An engine takes and gives what a predictor.Predictor does, from the file alone. A fixed size (--size) is the file's.
Each has a thread for each core that this process may use: left to themselves, engines count the cores of the machine.
"""

import collections
import importlib.metadata
import importlib.util
import os

import numpy as np

from utils.compat import tf
from utils.errors import UserError
from utils.files import tensorflow_path
from utils.inference.predictor import inference_config
from utils.installation import require
from utils.session import device_names, session_config
from utils.workers import default_workers

INPUT = 'images'  # name of the input of every exported network
OUTPUTS = ('labels', 'probabilities')
STEADY = 8  # calls with images of one shape from which OpenVINO has a model for it
SIGNATURE = 'probabilities'  # signature of a SavedModel that has both outputs


class Engine:
  """Runs an exported network. A context manager; `close()` frees its memory.

  Attributes:
    name: the engine and its version, for reports.
    precisions: those of session.PRECISIONS in which it computes what the file does not say is less, the default first.
    packages: modules that it needs.
  """
  name = ''
  precisions = ('float32',)
  packages = ()

  def _run(self, output, images):
    """The output 'labels' or 'probabilities' of images."""
    raise NotImplementedError

  def labels(self, images):
    """The most probable class of every pixel.

    Args:
      images: uint8 [B, H, W, 3], RGB, or [B, H, W, N] with all bands of the run's images, of their dtype.

    Returns:
      uint8 [B, H, W], label ids.
    """
    return self._run('labels', images)

  def probabilities(self, images):
    """The probability of every class at every pixel, float32 [B, H, W, num_classes], of images as of `labels`."""
    return self._run('probabilities', images)

  def close(self):
    """Frees what the engine holds."""

  def __enter__(self):
    return self

  def __exit__(self, *exception):
    self.close()


class FrozenGraph(Engine):
  """TensorFlow on a frozen graph, a .pb."""

  def __init__(self, path):
    self.name = f'tensorflow {tf.__version__}'
    config = inference_config(session_config(gpu='none', once=True), device_names('none'))
    self._session = tf.Session(graph=tf.Graph(), config=config)
    with self._session.graph.as_default():
      self._names = self._load(path)

  def _load(self, path):
    """Loads the file into the session; returns a dict from OUTPUTS and INPUT to the names of their tensors."""
    graph_def = tf.GraphDef()
    with open(path, 'rb') as file:
      graph_def.ParseFromString(file.read())
    tf.import_graph_def(graph_def, name='')
    return {name: f'{name}:0' for name in (INPUT, *OUTPUTS)}

  def _run(self, output, images):
    return self._session.run(self._names[output], {self._names[INPUT]: images})

  def close(self):
    self._session.close()


class SavedModel(FrozenGraph):
  """TensorFlow on a SavedModel, by the loader that TensorFlow Serving has."""

  def _load(self, path):
    loaded = tf.saved_model.loader.load(self._session, [tf.saved_model.tag_constants.SERVING], tensorflow_path(path))
    signature = loaded.signature_def[SIGNATURE]
    return {name: tensor.name for name, tensor in (*signature.inputs.items(), *signature.outputs.items())}


class OnnxRuntime(Engine):
  """ONNX Runtime, on the CPU."""
  packages = ('onnxruntime',)

  def __init__(self, path):
    require(self.packages, 'ONNX Runtime', 'export')
    import onnxruntime

    self.name = f'onnxruntime {onnxruntime.__version__}'
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    options.intra_op_num_threads = default_workers()
    self._session = onnxruntime.InferenceSession(tensorflow_path(path), options, providers=['CPUExecutionProvider'])

  def _run(self, output, images):
    return self._session.run([output], {INPUT: images})[0]


class OpenVino(Engine):
  """OpenVINO, on the CPU. It computes in float32: by itself, it would take bfloat16 where the CPU has it.

  A model for any shape takes 1.1 to 1.5 times as long as one for a shape (measured on Inception v3, 360x480): from the
  STEADY-th call with images of one shape on, such a model computes, which takes seconds to compile.

  In bfloat16 it does so from the first call on: bfloat16 has no whole numbers between 256 and 258, and a model for any
  shape computes the positions of pixels in it, from which labels are upsampled. In a model for one shape they are
  constants. So a model for any shape computes in float32.
  """
  precisions = ('float32', 'bfloat16')
  packages = ('openvino',)
  _hints = {'float32': 'f32', 'bfloat16': 'bf16'}

  def __init__(self, path, precision='float32'):
    require(self.packages, 'OpenVINO', 'export')
    import openvino

    self.name = f'openvino {openvino.__version__.split("-")[0]}, {self._hints[precision]}'
    self._core, self._compiled = openvino.Core(), {}
    self._latest = collections.deque(maxlen=STEADY if precision == 'float32' else 1)
    self._options = {'INFERENCE_PRECISION_HINT': self._hints[precision], 'PERFORMANCE_HINT': 'LATENCY',
                     'INFERENCE_NUM_THREADS': default_workers()}
    self._model = self._core.read_model(path)

  def _only(self, output, shape=None):
    """The model compiled for one output, since one for both computes both in every call; and for one shape, or any."""
    known, compiled = self._compiled.get((output, shape is None), (None, None))
    if compiled is None or known != shape:
      model = self._model.clone()
      for result in model.get_results():
        if output not in result.get_output_tensor(0).get_names():
          model.remove_result(result)
      options = self._options
      if shape is None:
        options = {**options, 'INFERENCE_PRECISION_HINT': self._hints['float32']}
      else:
        model.reshape({INPUT: list(shape)})
      compiled = self._core.compile_model(model, 'CPU', options)
      self._compiled[output, shape is None] = shape, compiled
    return compiled

  def _run(self, output, images):
    self._latest.append((output, images.shape))
    if len(self._latest) == self._latest.maxlen and len(set(self._latest)) == 1:
      try:
        return self._infer(self._only(output, images.shape), output, images)
      except RuntimeError:  # of OpenVINO, which has less for fixed shapes: int8 of small products failed
        self._latest = collections.deque(maxlen=0)  # never steady again
    return self._infer(self._only(output), output, images)

  def _infer(self, compiled, output, images):
    return np.array(compiled({INPUT: images})[output])  # a copy: the next call writes to the same memory

  def close(self):
    del self._model, self._compiled


class LiteRt(Engine):
  """LiteRT, or where it is not installed, the interpreter that TensorFlow has of it."""

  def __init__(self, path):
    if importlib.util.find_spec('ai_edge_litert'):
      from ai_edge_litert.interpreter import Interpreter

      self.name = f'ai-edge-litert {importlib.metadata.version("ai-edge-litert")}'
    else:
      Interpreter, self.name = tf.lite.Interpreter, f'tf.lite of tensorflow {tf.__version__}'
    interpreter = Interpreter(model_path=tensorflow_path(path), num_threads=default_workers())
    self._runner = interpreter.get_signature_runner()

  def _run(self, output, images):
    return self._runner(**{INPUT: images})[output]


# Engines by the ends of files' names.
ENGINES = {'.pb': FrozenGraph, '.onnx': OnnxRuntime, '.xml': OpenVino, '.tflite': LiteRt}


def open_engine(path, **options):
  """Opens the Engine of an exported file, or of the folder of a SavedModel.

  Args:
    path: the file, or the folder.
    **options: `precision`, for an engine with several.

  Raises:
    UserError: if it is none of these, the engine's package is not installed, or the engine cannot open it.
  """
  if os.path.isdir(path) and os.path.exists(os.path.join(path, 'saved_model.pb')):
    engine = SavedModel
  else:
    engine = ENGINES.get(os.path.splitext(path)[1])
    if engine is None or not os.path.isfile(path):
      raise UserError(f'{path} is no exported network: neither the folder of a SavedModel, nor a file that ends with '
                      f'{", ".join(ENGINES)}')
  try:
    return engine(path, **options)
  except UserError:
    raise
  except Exception as error:  # engines raise nearly anything on a broken file
    raise UserError(f'{path} cannot be opened by {engine.__name__}: {first_line(error)}') from error


def first_line(error):
  """The first line of an exception's message that says something, or the exception's type where there is none."""
  lines = [line.strip() for line in str(error).splitlines()]
  places = 'Exception from '  # of OpenVINO, with a file and a line of its sources
  return next((line for line in lines if line and not line.startswith(places)), type(error).__name__)
