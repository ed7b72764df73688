"""TFLite: files for LiteRT, by TensorFlow's own converter, with TFLite's built-in ops alone."""

import json
import os
import shutil

import numpy as np

from utils.compat import tf
from utils.export.saved_model import DEFAULT, signature, write_graph
from utils.inference.engines import INPUT, OUTPUTS

METADATA = 'FCN-GoogLeNet'  # name of the entry of the file's metadata that holds `about`


def write(job, path):
  """Writes a graph.Job as a TFLite file.

  int8_weights stores kernels as int8 ("dynamic range"); int8 also computes in it where LiteRT has the op in int8, by
  ranges that are taken from the job's images; its input stays as it is, and its probabilities float32.
  """
  from tensorflow.python.eager import context  # has no public name

  folder = f'{os.path.splitext(path)[0]}-saved_model'
  with tf.Graph().as_default() as graph:
    tf.import_graph_def(job.graph_def, name='')
    images, *outputs = (graph.get_tensor_by_name(f'{name}:0') for name in (INPUT, *OUTPUTS))
    write_graph(graph, {DEFAULT: signature({INPUT: images}, dict(zip(OUTPUTS, outputs)))}, folder)
  with context.eager_mode():  # outside of it, an older converter is taken, which keeps no names
    converter = tf.compat.v2.lite.TFLiteConverter.from_saved_model(folder, [DEFAULT])
    if job.quantize:
      converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if job.quantize == 'float16':
      converter.target_spec.supported_types = [tf.float16]
    if job.quantize == 'int8':
      converter.representative_dataset = lambda: ({INPUT: image[np.newaxis]} for image in job.calibration)
    content = converter.convert()
  with open(path, 'wb') as file:
    file.write(with_metadata(content, job.about))
  shutil.rmtree(folder)


def with_metadata(content, about):
  """The bytes of a TFLite file, with a dict as JSON in an entry of its metadata."""
  from tensorflow.lite.python import schema_py_generated as schema  # slow to import
  from tensorflow.lite.tools import flatbuffer_utils

  model = flatbuffer_utils.convert_bytearray_to_object(content)
  entry, buffer = schema.MetadataT(), schema.BufferT()
  entry.name, entry.buffer = METADATA, len(model.buffers)
  buffer.data = np.frombuffer(json.dumps(about).encode(), np.uint8)
  model.buffers.append(buffer)
  model.metadata = [*(model.metadata or ()), entry]
  return flatbuffer_utils.convert_object_to_bytearray(model)


def read_metadata(path):
  """The dict that `with_metadata` has put into a file."""
  from tensorflow.lite.tools import flatbuffer_utils

  model = flatbuffer_utils.read_model(path)
  entry = next(entry for entry in model.metadata if entry.name.decode() == METADATA)
  return json.loads(bytes(model.buffers[entry.buffer].data))
