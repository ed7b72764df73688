"""SavedModels: what TensorFlow and TensorFlow Serving load, with signatures for images and for encoded pictures.

The weights are constants, stored once: the signatures enter the one network at different places.
"""

import json
import os

from utils.compat import tf
from utils.files import tensorflow_path
from utils.inference.engines import INPUT, OUTPUTS, SIGNATURE
from utils.session import cpu_config

DEFAULT = 'serving_default'  # signature that loaders take without being told: from images to labels
ENCODED = 'encoded'  # signature from JPEGs and PNGs to labels


def write(job, path):
  """Writes a graph.Job as a SavedModel: a folder."""
  with tf.Graph().as_default() as graph:
    encoded = tf.placeholder(tf.string, [None], name='encoded') if job.seen.reading.is_plain else None
    if encoded is None:
      images = tf.placeholder(job.seen.reading.dtype, job.shape, name=INPUT)
    else:
      images = tf.identity(_decoded(encoded), name=INPUT)
    job.add_network(tf.ensure_shape(images, job.shape))
    outputs = {name: graph.get_tensor_by_name(f'{name}:0') for name in OUTPUTS}
    labels = {'labels': outputs['labels']}
    signatures = {DEFAULT: signature({INPUT: images}, labels), SIGNATURE: signature({INPUT: images}, outputs)}
    for one in signatures.values():  # the decoder would take pictures of any size
      one.inputs[INPUT].tensor_shape.CopyFrom(tf.TensorShape(job.shape).as_proto())
    if encoded is not None:
      signatures[ENCODED] = signature({'encoded': encoded}, labels)
    write_graph(graph, signatures, path)
  folder = os.path.join(path, 'assets.extra')  # which loaders leave alone
  os.mkdir(folder)
  with open(os.path.join(folder, 'about.json'), 'w', encoding='utf-8') as file:
    json.dump(job.about, file, indent=2)


def _decoded(encoded):
  """Decodes JPEGs and PNGs of one size, string [B], as the records of the training are decoded: uint8 [B, H, W, 3]."""
  decode = lambda content: tf.io.decode_jpeg(content, channels=3, dct_method='INTEGER_ACCURATE')
  return tf.map_fn(decode, encoded, dtype=tf.uint8)


def signature(inputs, outputs):
  """The SignatureDef from inputs to outputs, each a dict from name to tf.Tensor."""
  infos = [{name: tf.saved_model.build_tensor_info(tensor) for name, tensor in part.items()}
           for part in (inputs, outputs)]
  return tf.saved_model.build_signature_def(*infos, tf.saved_model.signature_constants.PREDICT_METHOD_NAME)


def write_graph(graph, signatures, path):
  """Writes a tf.Graph without variables as a SavedModel.

  Args:
    graph: the tf.Graph.
    signatures: dict from name to SignatureDef.
    path: the folder, which must not be there.
  """
  builder = tf.saved_model.Builder(tensorflow_path(path))
  with tf.Session(graph=graph, config=cpu_config()) as session:
    builder.add_meta_graph_and_variables(session, [tf.saved_model.tag_constants.SERVING], signatures,
                                         strip_default_attrs=True)
  builder.save()
