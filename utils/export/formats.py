"""The formats of --format, by name. A new one is a module with its `write`, and a line here."""

import dataclasses
import os
from collections.abc import Callable

from utils.export import onnx_file, openvino_file, pb, saved_model, tflite

QUANTIZATIONS = ('float16', 'int8_weights', 'int8')


@dataclasses.dataclass(frozen=True)
class Format:
  """A format.

  Attributes:
    file: name of the file, or of the folder.
    write: `write(job, path)` writes a graph.Job; other files that belong to it stand beside, with another suffix.
    memory: bytes that the program takes for each byte of the network's weights; on vgg_16, 16 (saved_model, onnx) and
      18 (pb) were measured, 13 of these for the run's own labels.
    quantize: dict from the values of --quantize that it has to the modules that these need besides.
    packages: modules that writing and running need.
  """
  file: str
  write: Callable
  memory: float
  quantize: dict = dataclasses.field(default_factory=dict)
  packages: tuple = ()

  def name(self, job):
    """The file's name for a graph.Job: with all that makes it another file."""
    stem, end = os.path.splitext(self.file)
    parts = job.quantize, 'flip' if job.flip else '', 'x'.join(map(str, job.size))
    return '-'.join(filter(None, (stem, *parts))) + end


FORMATS = {
    'saved_model': Format('saved_model', saved_model.write, 16),
    'pb': Format('model.pb', pb.write, 18),
    'onnx': Format('model.onnx', onnx_file.write, 16, {'float16': (), 'int8_weights': ()},
                   ('tf2onnx', 'onnx', 'onnxruntime')),
    'openvino': Format('model.xml', openvino_file.write, 16, {'float16': (), 'int8': ('nncf',)}, ('openvino',)),
    'tflite': Format('model.tflite', tflite.write, 20, {'float16': (), 'int8_weights': (), 'int8': ()}),
}
