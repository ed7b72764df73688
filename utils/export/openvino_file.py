"""OpenVINO: MODEL.xml and MODEL.bin, read from the frozen graph by OpenVINO itself; int8 by NNCF."""

import json
import os

import numpy as np

from nets.geometry import RESAMPLE_COLUMNS, RESAMPLE_ROWS
from utils.export import pb
from utils.inference.engines import INPUT, OUTPUTS

SCORE_LAYERS = 'Add', 'Convolution', 'ConvolutionBackpropData'
RT_INFO = 'fcn_googlenet'  # place of the metadata in the model's rt_info


def write(job, path):
  """Writes a graph.Job as OpenVINO's two files.

  float16 stores weights in it; they are computed with in what the device takes. int8 also computes in it, by ranges
  that NNCF takes from the job's images.
  """
  import openvino

  graph = f'{os.path.splitext(path)[0]}.pb'
  pb.write(job, graph)
  model = openvino.convert_model(graph)
  model.inputs[0].get_tensor().set_names({INPUT})
  for port in model.outputs:
    port.get_tensor().set_names({next(name for name in OUTPUTS if f'{name}:0' in port.get_names())})
  if job.quantize == 'int8':
    model = quantized(model, job.calibration, len(job.run.classes))
  model.set_rt_info(json.dumps(job.about), [RT_INFO])
  openvino.save_model(model, path, compress_to_fp16=job.quantize == 'float16')
  os.unlink(graph)


def quantized(model, images, num_classes):
  """The model in int8, by ranges from images [H, W, N].

  Two parts stay as they are. Scores, from the layers that make them to the last sum: steps of 1/255 of their range
  change labels (docs/export.md), and these layers are small. The products that upsample: where they have constants
  (--size), OpenVINO's CPU plugin fails on what NNCF makes of them.
  """
  import nncf

  kept = nncf.IgnoredScope(names=score_layers(model, num_classes), validate=False, patterns=[
      f'.*{name}.*' for name in (RESAMPLE_COLUMNS, RESAMPLE_ROWS)])
  return nncf.quantize(model, nncf.Dataset([image[np.newaxis] for image in images]), subset_size=len(images),
                       ignored_scope=kept)


def score_layers(model, num_classes):
  """Names of the layers of an openvino.Model that make, add or upsample scores: they have a channel for each class."""
  found = []
  for layer in model.get_ordered_ops():
    if layer.get_type_name() in SCORE_LAYERS:
      shape = layer.output(0).get_partial_shape()  # [B, C, H, W]
      if shape.rank.is_static and len(shape) == 4 and shape[1] == num_classes:
        found.append(layer.get_friendly_name())
  return found
