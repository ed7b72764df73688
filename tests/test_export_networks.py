"""Networks of the registry in other engines, with few channels; `utils.studies.export_table` has all as they are."""

import importlib.util
import json
import pathlib
import re

import numpy as np
import programs
import pytest
from test_networks import BACKBONES, thin  # noqa: F401, a fixture

from checkpoints.convert import write_run
from nets import NETWORKS, get_network
from utils.compat import tf
from utils.export import comparison
from utils.export.formats import FORMATS
from utils.export.graph import Job
from utils.files import ROOT
from utils.inference.engines import open_engine
from utils.inference.predictor import Predictor
from utils.runs import load_run
from utils.studies import export_table
from utils.studies.random_weights import random_values

RNG = np.random.default_rng(7)
IMAGES = [RNG.integers(0, 256, shape).astype(np.uint8) for shape in ((1, 33, 47, 3), (2, 50, 29, 3))]
INSTALLED = [name for name in ('onnx', 'openvino', 'tflite')  # others are TensorFlow's own
             if all(map(importlib.util.find_spec, FORMATS[name].packages))]
CLASSES = 'sky', 'road', 'car', 'tree', 'sign'
# Left out to keep the tests short. The tiny FCN of test_export_formats.py has all that FCNs add to a backbone; SegNet,
# DeconvNet and ENet unpool as SegNet-Basic does.
SLOW = {*BACKBONES, 'segnet', 'deconvnet', 'enet'}
PARAMETERS = [pytest.param(name, marks=pytest.mark.skipif(
    name in SLOW, reason=f'slow: python -m utils.studies.export_table --net={name}')) for name in NETWORKS]


@pytest.mark.parametrize('name', PARAMETERS)
def test_a_network_is_the_same_in_every_engine(name, thin, tmp_path):  # noqa: F811
  """At odd sizes, in a batch; with unpooling in ops that all of them have."""
  folder, network = str(tmp_path / 'run'), get_network(name)
  with tf.Graph().as_default():
    network.logits(tf.placeholder(tf.float32, [None, None, None, 3]), len(CLASSES))
    values = random_values(tf.global_variables())
  write_run(folder, values, {'flags': {}, 'network': {'name': name}, 'dataset': {
      'name': 'camvid', 'classes': CLASSES, 'palette': [[9, 9, 9]] * len(CLASSES)}})
  job = Job(load_run(folder), {'name': name})
  with Predictor(job.run) as predictor:
    expected = [(predictor.labels(images), predictor.probabilities(images)) for images in IMAGES]
  assert len(np.unique(expected[0][0])) > 1
  for form in INSTALLED:
    path = str(tmp_path / FORMATS[form].file)
    FORMATS[form].write(job, path)
    with open_engine(path) as engine:
      for images, (labels, probabilities) in zip(IMAGES, expected):
        assert (engine.labels(images) == labels).mean() > 0.99, form
        assert np.abs(engine.probabilities(images) - probabilities).mean() < comparison.LIMITS[None].difference, form


def test_the_table_has_every_network_and_format():
  found = {name: {form: {'equal': 1.0, 'bytes': 2_500_000} for form in FORMATS} for name in NETWORKS}
  found['enet'] |= {'onnx': {'reason': 'no such op'}, 'pb': {'equal': 0.97, 'bytes': 9, 'reason': 'only 97 %'}}
  text = export_table.table(found)
  assert text.count('\n| `') == len(NETWORKS)
  assert '| `enet` | 100 %, 2.5 MB | refused | refused | 100 %, 2.5 MB | 100 %, 2.5 MB |' in text
  assert text.endswith('- `enet`, pb: only 97 %\n- `enet`, onnx: no such op')


def test_what_came_of_an_export_is_read_from_its_files(tmp_path):
  export = tmp_path / 'export'
  export.mkdir()
  check = '{"files": {"a": {"bytes": 3}, "b": {"bytes": 4}}, "check": {"pixels": 8, "equal": 6}}'
  (export / 'model.onnx.json').write_text(check)
  (export / 'model.pb.rejected.json').write_text(check.replace('"pixels": 8, "equal": 6', ''))
  log = 'exported: x\nerror: --format=pb: does not run: y\n--format=tflite: cannot be converted: z\n'
  found = export_table.exported(str(tmp_path), log)
  assert found['onnx'] == {'bytes': 7, 'equal': 0.75}
  assert found['pb'] == {'bytes': 7, 'reason': 'does not run: y'}
  assert found['tflite'] == {'reason': 'cannot be converted: z'}
  assert found['openvino'] == {'reason': 'the program was ended by the system'}


def test_a_study_that_was_stopped_goes_on(monkeypatch, tmp_path):
  """Of a network that is done, neither the run nor the export is made again."""
  started = []

  def export(script, options, log):
    started.append((script, options[0]))
    log.write('error: --format=onnx: no such op\n')
    folder = tmp_path / 'segnet_basic/export'
    folder.mkdir()
    (folder / 'model.pb.json').write_text(json.dumps(
        {'files': {'a': {'bytes': 10**6}}, 'check': {'pixels': 4, 'equal': 4}}))

  monkeypatch.setattr(export_table, 'convert', lambda *arguments, **options: None)
  monkeypatch.setattr(export_table.scripts, 'run', export)
  results = [programs.run(export_table.main, '--net=segnet_basic', f'--work_dir={tmp_path}') for _ in range(2)]
  assert started == [('utils.export', f'--ckpt={tmp_path}/segnet_basic')]
  assert [result.returncode for result in results] == [0, 0]
  for result in results:
    assert '| `segnet_basic` | refused | 100 %, 1.0 MB | refused | refused | refused |' in result.stdout
    assert '- `segnet_basic`, onnx: no such op' in result.stdout
  assert load_run(str(tmp_path / 'segnet_basic')).config['network']['name'] == 'segnet_basic'


def test_the_document_has_every_network_measured():
  text = pathlib.Path(ROOT, 'docs/export.md').read_text()
  head, *rows = re.findall(r'^\| `(?:--)?(\w+)` \| (.*) \|$', text[text.index('| `--net` |'):], re.MULTILINE)
  assert head == ('net', ' | '.join(FORMATS))
  assert sorted(name for name, cells in rows if cells.count(' | ') == len(FORMATS) - 1) == sorted(NETWORKS)
