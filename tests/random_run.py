"""Makes a run's folder without training: random weights whose activations stay of order one."""

import json

import numpy as np

from utils.studies.random_weights import random_values


def load(session, values, variables):
  """Sets variables to the arrays that `values` holds by their names, all in one call."""
  session.run([variable.initializer for variable in variables],
              {variable.initializer.inputs[1]: values[variable.op.name] for variable in variables})


def write_run(folder, classes, *, network='inception_v3', skip='8s', seed=0, dataset='camvid', data_dir='data/camvid',
              step=1234, factor=1.0):
  """Writes config.json and a checkpoint of an FCN, as train.py does, of weights times `factor`. Returns `folder`."""
  from nets import get_network
  from utils.compat import tf

  palette = np.random.default_rng(1).integers(0, 256, (len(classes), 3)).tolist()
  config = {
      'flags': {'data_dir': str(data_dir)},
      'dataset': {'name': dataset, 'classes': list(classes), 'palette': palette},
      'network': {'name': network, 'skip': skip},
  }
  folder.mkdir(parents=True, exist_ok=True)
  (folder / 'config.json').write_text(json.dumps(config))
  with tf.Graph().as_default():
    images = tf.placeholder(tf.float32, [None, None, None, 3])
    get_network(network).logits(images, len(classes), skip=skip)
    variables = tf.global_variables()
    global_step = tf.train.get_or_create_global_step()
    with tf.Session() as session:
      values = {name: factor * value for name, value in random_values(variables, seed).items()}
      load(session, {**values, 'global_step': step}, [*variables, global_step])
      tf.train.Saver(save_relative_paths=True).save(
          session, str(folder / 'model.ckpt'), global_step=step, write_meta_graph=False)
  return folder


def write_run_with_data(base, network):
  """As `write_run` in `base`/run of a network for CamVid's classes, with random train and val in `base`/data."""
  from random_split import drawn_sources, write_split

  from datasets.readers.camvid import CAMVID

  for split in ('train', 'val'):
    write_split(base / 'data', drawn_sources(), split=split)
  return write_run(base / 'run', CAMVID.classes, network=network, data_dir=base / 'data')
