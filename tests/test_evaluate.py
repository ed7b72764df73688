"""evaluate.py as users run it, against scores computed apart from the label PNGs that inference.py writes."""

import importlib.util
import json
import os

import numpy as np
import programs
import pytest
from PIL import Image
from random_run import write_run
from random_split import drawn_sources, write_split

import evaluate
import inference
from datasets import encoding, records
from datasets.dataset import Source
from datasets.readers.camvid import CAMVID
from utils.compat import tf
from utils.evaluation import boundaries, calibration, metrics
from utils.files import read_json, write_json
from utils.inference import crf
from utils.inference.predictor import Predictor
from utils.inference.tta import Views
from utils.runs import load_run


def script(name, *args):
  """Runs evaluate.py or inference.py in this process; returns a programs.Result."""
  return programs.run({'evaluate': evaluate.main, 'inference': inference.main}[name], *args)


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
  return write_split(tmp_path_factory.mktemp('data') / 'camvid', drawn_sources())


@pytest.fixture
def run(tmp_path, template, data_dir):
  """A run's folder that a test may change."""
  folder = tmp_path / 'run'
  folder.mkdir()
  for file in template.iterdir():
    (folder / file.name).symlink_to(file)
  return folder


@pytest.fixture(scope='module')
def template(tmp_path_factory, data_dir, tiny):
  return write_run(tmp_path_factory.mktemp('run'), CAMVID.classes, network=tiny, data_dir=data_dir)


def scores_apart(pairs, num_classes):
  """The FCN paper's metrics of (truth, prediction) pairs by its formulas, from sets of pixels instead of a matrix.

  Truth is in raw CamVid labels: 11 is void.
  """
  truth = np.concatenate([truth.ravel() for truth, _ in pairs])
  prediction = np.concatenate([prediction.ravel() for _, prediction in pairs])[truth != 11]
  truth = truth[truth != 11]
  accuracies, ious, weighted = [], {}, 0.0
  for c in range(num_classes):
    both, either = ((truth == c) & (prediction == c)).sum(), ((truth == c) | (prediction == c)).sum()
    ious[c] = both / either if either else None
    if (truth == c).any():
      accuracies.append(both / (truth == c).sum())
      weighted += (truth == c).mean() * ious[c]
  present = [iou for iou in ious.values() if iou is not None]
  return {'pixel_accuracy': (truth == prediction).mean(), 'mean_accuracy': np.mean(accuracies),
          'mean_iou': np.mean(present), 'frequency_weighted_iou': weighted, 'class_iou': ious}


def check_metrics(value, pairs, classes):
  expected = scores_apart(pairs, len(classes))
  for name in ('pixel_accuracy', 'mean_accuracy', 'mean_iou', 'frequency_weighted_iou'):
    assert value[name] == pytest.approx(expected[name], abs=1e-9), name
  assert list(value['class_iou']) == list(classes)
  for c, name in enumerate(classes):
    assert value['class_iou'][name] == (None if expected['class_iou'][c] is None
                                        else pytest.approx(expected['class_iou'][c], abs=1e-9)), name
  assert value['num_images'] == len(pairs)


def test_camvid_scores_equal_those_from_inferences_label_pngs(shared, tmp_path, tiny):
  source_dir = shared / 'data/camvid'
  if not source_dir.is_dir():
    pytest.skip(f'no {source_dir}')
  sources = CAMVID.sources(str(source_dir), 'val')[::51]
  data_dir = write_split(tmp_path / 'camvid', sources)
  run = write_run(tmp_path / 'run', CAMVID.classes, network=tiny)
  process = script('evaluate', f'--ckpt={run}', f'--data_dir={data_dir}')
  assert process.returncode == 0, process.stderr
  process = script('inference', f'--ckpt={run}', f'--output_dir={tmp_path / "out"}', *[s.image for s in sources])
  assert process.returncode == 0, process.stderr
  pairs = []
  for source in sources:
    name = os.path.splitext(os.path.basename(source.image))[0]
    with Image.open(source.label) as truth, Image.open(tmp_path / 'out' / f'{name}_label.png') as prediction:
      pairs.append((np.asarray(truth), np.asarray(prediction)))
  check_metrics(json.loads((run / 'metrics-val.json').read_text()), pairs, CAMVID.classes)


def test_what_is_printed_and_written(run, template, data_dir):
  process = script('evaluate', f'--ckpt={run}')
  assert process.returncode == 0, process.stderr
  lines = process.stdout.splitlines()
  assert lines[0] == f'{run}/model.ckpt-1234 (step 1234, the latest) on the 2 images of val in {data_dir}'
  assert lines[1].startswith('device: ') and '; precision float32' in lines[1]
  value = json.loads((run / 'metrics-val.json').read_text())
  for c, name in enumerate(CAMVID.classes):
    fields = next(line for line in lines if line.startswith(f'{name} '))[len(name):].split()
    assert int(fields[2].replace(',', '')) == value['class_pixels'][name]
    assert fields[0] == ('-' if value['class_iou'][name] is None else f'{100 * value["class_iou"][name]:.1f}')
    assert (value['class_pixels'][name] > 0) == (c < 4)
  assert np.sum(value['confusion_matrix']) == sum((source.label < 4).sum() for source in drawn_sources())
  assert (value['step'], value['num_images']) == (1234, 2)
  for name in ('confusion-val.png', 'examples-val.png'):
    with Image.open(run / name) as picture:
      assert picture.mode == 'RGB' and min(picture.size) > 100
  assert [name for name in os.listdir(run) if name.endswith('.tmp')] == []
  assert 'details' not in value and not (run / 'calibration-val.png').exists()
  assert not (template / 'metrics-val.json').exists()  # where the links of the run's files lead


def test_samples_are_averaged(run):
  """The confusion matrix is that of the mean of the passes, and another than without dropout."""
  process = script('evaluate', f'--ckpt={run}', '--samples=2', '--seed=3')
  assert process.returncode == 0, process.stderr
  value = json.loads((run / 'metrics-val-samples_2-seed_3.json').read_text())
  assert value['samples'] == 2 and not (run / 'metrics-val.json').exists()  # plain scores are not overwritten
  matrices = []
  for samples in (2, 0):
    with Predictor(load_run(str(run)), samples=samples, seed=3) as predictor:
      matrices.append(sum(metrics.confusion_matrix(np.where(source.label == 11, 255, source.label),
                                                   predictor.labels(source.image[None])[0], len(CAMVID.classes))
                          for source in drawn_sources()))
  assert value['confusion_matrix'] == matrices[0].tolist() != matrices[1].tolist()


def check_details(value, pairs, bins):
  """Compares what metrics-SPLIT.json holds with the measures of (truth, prediction) pairs; truth in raw labels."""
  pairs = [(np.where(truth == 11, 255, truth), prediction) for truth, prediction in pairs]
  f1, images = sum(boundaries.boundary_f1(*pair, 11) for pair in pairs)
  assert list(value['class_boundary_images'].values()) == images.tolist()
  present = images > 0
  assert value['boundary_f1'] == pytest.approx((f1[present] / images[present]).mean(), abs=1e-3)
  assert [name for name, score in value['class_boundary_f1'].items() if score is not None] == [
      name for name, there in zip(CAMVID.classes, present) if there]
  matrices = sum(boundaries.band_matrices(*pair, 11) for pair in pairs)
  assert [band['pixels'] for band in value['trimap']] == matrices.sum(axis=(1, 2)).tolist()
  for band, matrix in zip(value['trimap'], matrices):
    assert band['mean_iou'] == pytest.approx(metrics.scores(matrix)['mean_iou'], abs=1e-3)
  assert sum(value['calibration']['bin_pixels']) == sum((truth < 255).sum() for truth, _ in pairs)
  assert value['calibration']['expected_calibration_error'] == pytest.approx(calibration.expected_error(bins), abs=1e-3)
  scores = [metrics.present_iou(metrics.confusion_matrix(*pair, 11)) for pair in pairs]
  assert sorted(one['mean_iou'] for one in value['best']) == pytest.approx(sorted(scores), abs=1e-3)
  assert value['worst'] == value['best'][::-1] and len(pairs) == 2


def test_details_of_averaged_views(run):
  process = script('evaluate', f'--ckpt={run}', '--details', '--test_flip', '--test_scales=0.75,1')
  assert process.returncode == 0, process.stderr
  value = json.loads((run / 'metrics-val-scales_0.75_1-flip.json').read_text())
  assert (value['test_flip'], value['test_scales']) == (True, [0.75, 1.0])
  pairs, bins = [], 0
  with Predictor(load_run(str(run)), views=Views(True, (0.75, 1.0))) as predictor:
    for source in drawn_sources():
      probabilities = predictor.probabilities(source.image[None])[0]
      pairs.append((source.label, probabilities.argmax(axis=-1)))
      bins += calibration.bin_counts(np.where(source.label == 11, 255, source.label), pairs[-1][1],
                                     probabilities.max(axis=-1))
  check_metrics(value, pairs, CAMVID.classes)
  check_details(value['details'], pairs, bins)
  assert f'boundary F1 within 0.75 % of the diagonal: {100 * value["details"]["boundary_f1"]:.1f}' in process.stdout
  for name in ('calibration', 'best', 'worst'):
    path = run / f'{name}-val-scales_0.75_1-flip.png'
    assert str(path) in process.stdout.splitlines()[-1]
    with Image.open(path) as picture:
      assert picture.mode == 'RGB' and min(picture.size) > 100


@pytest.mark.skipif(importlib.util.find_spec('pydensecrf') is None,
                    reason='pydensecrf2 is not installed (requirements-crf.txt)')
def test_crf_refines_the_mean_of_samples_and_calibration_is_of_that_mean(run):
  process = script('evaluate', f'--ckpt={run}', '--crf', '--crf_bilateral_rgb=30', '--samples=2', '--seed=3',
                   '--details', '--num_workers=1')
  assert process.returncode == 0, process.stderr
  value = json.loads((run / 'metrics-val-samples_2-seed_3-crf-bilateral_rgb_30.json').read_text())
  assert value['samples'] == 2 and value['crf']['bilateral_rgb'] == 30
  assert sorted(path.name for path in run.glob('*.png')) == [
      f'{name}-val-samples_2-seed_3-crf-bilateral_rgb_30.png'
      for name in ('best', 'calibration', 'confusion', 'examples', 'worst')]
  settings = crf.Crf(bilateral_rgb=30.0)
  refined, plain, bins = [], [], 0
  with Predictor(load_run(str(run)), samples=2, seed=3) as predictor:
    for source in drawn_sources():
      mean = predictor.probabilities(source.image[None])[0]
      task = crf.make_task(None, source.image, mean, settings)
      refined.append((source.label, crf.labels(task)))
      plain.append((source.label, mean.argmax(axis=-1)))
      truth = np.where(source.label == 11, 255, source.label)
      bins += calibration.bin_counts(truth, plain[-1][1], mean.max(axis=-1))
  check_metrics(value, refined, CAMVID.classes)
  expected = scores_apart(plain, len(CAMVID.classes))
  assert value['mean_iou_without_crf'] == pytest.approx(expected['mean_iou'], abs=1e-9)
  assert value['details']['calibration']['accuracy'] == pytest.approx(expected['pixel_accuracy'])
  assert abs(value['pixel_accuracy'] - expected['pixel_accuracy']) > 1e-3
  check_details(value['details'], refined, bins)


def test_large_images_are_evaluated_in_tiles(run, tmp_path):
  """The scores are those of the labels that inference.py makes with the same tiles."""
  rng = np.random.default_rng(5)
  image = np.asarray(Image.fromarray(rng.integers(0, 256, (9, 12, 3)).astype(np.uint8)).resize((500, 330)))
  source = Source('large', image, rng.choice([0, 1, 2, 3, 11], image.shape[:2]).astype(np.uint8))
  data_dir, tiles = write_split(tmp_path / 'large', [source]), ('--max_pixels=80000', '--tile_size=288')
  assert script('evaluate', f'--ckpt={run}', f'--data_dir={data_dir}', *tiles).returncode == 0
  value = json.loads((run / 'metrics-val-max_pixels_80000-tile_size_288.json').read_text())
  Image.fromarray(image).save(tmp_path / 'large.png')
  script('inference', f'--ckpt={run}', f'--output_dir={tmp_path}', *tiles, tmp_path / 'large.png')
  with Image.open(tmp_path / 'large_label.png') as label:
    check_metrics(value, [(source.label, np.asarray(label))], CAMVID.classes)
  with Predictor(load_run(str(run))) as predictor:
    assert (predictor.labels(image[None])[0] != np.asarray(Image.open(tmp_path / 'large_label.png'))).any()


def test_a_corrupt_record_is_named_and_older_results_stay(run, tmp_path):
  broken = write_split(tmp_path / 'broken', drawn_sources() * 2)
  shard = broken / records.shard_name('val', 0, 1)
  data = bytearray(shard.read_bytes())
  data[-40] ^= 255
  shard.write_bytes(data)
  write_json(run / 'metrics-val.json', {'older': 1})
  process = script('evaluate', f'--ckpt={run}', f'--data_dir={broken}')
  assert process.returncode == 1 and 'Traceback' not in process.stderr
  assert f'error: {shard}: record 3 is corrupt' in process.stderr
  assert read_json(run / 'metrics-val.json') == {'older': 1}


def test_a_label_out_of_range_is_named_with_its_record(run, tmp_path):
  sources = drawn_sources()
  data_dir = write_split(tmp_path / 'bad', sources)
  pair = encoding.encode_pair(sources[0], np.full(256, 17, np.int16))
  with tf.io.TFRecordWriter(str(data_dir / records.shard_name('val', 0, 1))) as writer:
    writer.write(records.serialize(pair))
  process = script('evaluate', f'--ckpt={run}', f'--data_dir={data_dir}')
  assert process.returncode == 1 and 'Traceback' not in process.stderr
  assert 'record drawn0: label id 17 is out of range; valid are 0 to 10' in process.stderr


@pytest.mark.parametrize('change,message', [
    ({'class_names': [*CAMVID.classes[:-1], 'unicorn']}, "class 10 is 'unicorn' in"),
    ({'class_names': ['a', 'b'], 'class_pixels': [1, 2], 'class_image_pixels': [3, 3]}, 'has 2 classes and'),
    ({'split': 'test'}, "no split 'test' in"),
])
def test_data_that_does_not_fit_the_run_is_one_line(run, tmp_path, change, message):
  data_dir = write_split(tmp_path / 'other', drawn_sources())
  stats = json.loads((data_dir / 'val.json').read_text())
  (data_dir / 'val.json').write_text(json.dumps({**stats, **change}))
  process = script('evaluate', f'--ckpt={run}', f'--data_dir={data_dir}', f'--split={change.get("split", "val")}')
  errors = [line for line in process.stderr.splitlines() if line.startswith('error: ')]
  assert process.returncode == 1 and 'Traceback' not in process.stderr
  assert len(errors) == 1 and message in errors[0]
