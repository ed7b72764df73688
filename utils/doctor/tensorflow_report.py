"""What TensorFlow says of itself and of its GPUs.

    python -m utils.doctor.tensorflow_report

prints JSON. It is a process of its own: a TensorFlow that the CPU cannot run ends its process, and one with a broken
driver may never answer.
"""

import dataclasses
import json
import sys


def report():
  """Imports TensorFlow, and all that training needs of it.

  Returns:
    dict: `version`; `build`, of tf.sysconfig.get_build_info; `gpus`, a list of the fields of devices.Gpu; `tf32`.

  Raises:
    ImportError: if something that training imports is missing or does not fit.
  """
  import tensorflow  # before utils.compat, which holds back its messages; which library fails to open is among them
  tensorflow.config.list_physical_devices('GPU')
  from utils.compat import tf
  from utils.session import found_gpus

  return {'version': tf.__version__, 'build': dict(tf.sysconfig.get_build_info()),
          'gpus': [dataclasses.asdict(gpu) for gpu in found_gpus()],
          'tf32': tf.config.experimental.tensor_float_32_execution_enabled()}


def main():
  """Prints the report; where an import fails, a dict with `error` alone."""
  try:
    print(json.dumps(report()))
  except Exception as error:  # whatever a broken installation raises
    print(json.dumps({'error': f'{type(error).__name__}: {error}'}))
    return 1
  return 0


if __name__ == '__main__':
  sys.exit(main())
