"""OpenVINO: MODEL.xml and MODEL.bin, read from the frozen graph by OpenVINO itself; int8 by NNCF."""

import json
import os

import numpy as np

from nets.geometry import RESAMPLE_COLUMNS, RESAMPLE_ROWS
from utils.export import pb
from utils.inference.engines import INPUT, OUTPUTS

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
    model = quantized(model, job.calibration)
  model.set_rt_info(json.dumps(job.about), [RT_INFO])
  openvino.save_model(model, path, compress_to_fp16=job.quantize == 'float16')
  os.unlink(graph)


def quantized(model, images):
  """The model in int8, by ranges from images [H, W, N].

  The products that upsample stay as they are: they take next to no time, and where they have constants (--size),
  OpenVINO's CPU plugin fails on what NNCF makes of them.
  """
  import nncf

  upsampling = nncf.IgnoredScope(patterns=[f'.*{name}.*' for name in (RESAMPLE_COLUMNS, RESAMPLE_ROWS)], validate=False)
  return nncf.quantize(model, nncf.Dataset([image[np.newaxis] for image in images]), subset_size=len(images),
                       ignored_scope=upsampling)
