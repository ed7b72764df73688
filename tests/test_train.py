"""train.py as users run it, on a few of the built-in shapes: start, resume, refuse, and what it leaves behind."""

import dataclasses
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from datasets import convert, get_dataset, records
from utils.compat import tf

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TINY = ('--dataset=shapes', '--checkpoint=none', '--crop_size=63,95', '--batch_size=2', '--log_steps=1',
        '--freeze_batch_norm', '--dropout_keep_prob=1')
SMALL = '--net=segnet_basic'  # where any network will do: it is built in a third of the time


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
  """Eight shapes to train on and two to evaluate."""
  folder = str(tmp_path_factory.mktemp('shapes'))
  shapes = get_dataset('shapes')
  counts = {'train': 8, 'val': 2}
  few = dataclasses.replace(shapes, sources=lambda where, split: shapes.sources(where, split)[:counts[split]])
  for split in ('train', 'val'):
    convert.convert(few, split, source_dir=None, data_dir=folder, num_shards=2, num_workers=1, progress=False)
  return folder


def command(run_dir, data_dir, *args):
  script = os.path.join(ROOT, 'train.py')
  return [sys.executable, script, *TINY, f'--run_dir={run_dir}', f'--data_dir={data_dir}', *args]


def start(run_dir, data_dir, *args):
  """Starts train.py; its output is read while it runs."""
  return subprocess.Popen(command(run_dir, data_dir, *args), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def script(*args):
  """Runs another script or module of the project to its end, successfully."""
  result = subprocess.run([sys.executable, *map(str, args)], cwd=ROOT, capture_output=True, text=True, check=False)
  assert result.returncode == 0, result.stderr


def train(run_dir, data_dir, *args, **options):
  return subprocess.run(command(run_dir, data_dir, *args), capture_output=True, text=True, check=False, **options)


def losses(output):
  """Step -> loss as printed."""
  return {int(step): float(loss) for step, loss in re.findall(r'^step (\d+)/\d+  loss ([\d.]+)', output, re.M)}


def assert_refused(result, *parts):
  assert result.returncode == 1, result.stdout + result.stderr
  lines = result.stderr.strip().splitlines()
  assert len(lines) == 1 and lines[0].startswith('error: '), result.stderr
  for part in parts:
    assert part in lines[0]


@pytest.fixture(scope='module')
def whole(tmp_path_factory, data_dir):
  """A run of six steps without a break: (folder, output)."""
  run_dir = tmp_path_factory.mktemp('runs') / 'whole'
  result = train(run_dir, data_dir, '--max_steps=6', '--eval_steps=3', '--summary_steps=2', '--summarize_gradients')
  assert result.returncode == 0, result.stdout + result.stderr
  return run_dir, result.stdout


def test_log_and_files(whole):
  run_dir, output = whole
  assert 'started from scratch' in output
  assert list(losses(output)) == [1, 2, 3, 4, 5, 6]
  assert losses(output)[1] == pytest.approx(np.log(8), abs=1e-3)  # all scores start at zero: eight equal classes
  assert len(re.findall(r'^step [36]  val: mean IoU 0\.\d+, pixel accuracy 0\.\d+', output, re.M)) == 2
  assert {'config.json', 'best', 'checkpoint', 'model.ckpt-6.index'} <= set(os.listdir(run_dir))
  config = json.loads((run_dir / 'config.json').read_text())
  assert config['network'] == {
      'name': 'inception_v3', 'skip': '8s', 'decoder_channels': 0, 'input_scale': 1.0}
  assert config['dataset']['classes'] == list(get_dataset('shapes').classes)
  assert config['flags']['max_steps'] == 6 and config['versions']['tensorflow'] == tf.__version__


def test_tensorboard_has_losses_metrics_pictures_and_gradients(whole):
  run_dir, _ = whole
  scalars, histograms, pictures = {}, set(), 0
  for name in os.listdir(run_dir):
    if name.startswith('events'):
      for event in tf.train.summary_iterator(str(run_dir / name)):
        for value in event.summary.value:
          if value.HasField('histo'):
            histograms.add(value.tag)
          elif value.HasField('image'):
            pictures += 1
            assert (value.image.height, value.image.width) == (63, 3 * 95)
          elif value.HasField('simple_value'):
            scalars.setdefault(value.tag, []).append(event.step)
          else:  # a scalar or tensor in the newer encoding
            scalars.setdefault(value.tag, []).append(event.step)
  assert {'loss/cross_entropy', 'loss/weights_l2', 'training/learning_rate', 'training/images_per_second',
          'val/mean_iou', 'val_class_iou/disc', 'gradient_norm_by_layer/00_new_layers',
          'gradient_norm_by_layer/01_Mixed_7c', 'gradient_norm_by_layer/16_Conv2d_1a_3x3'} <= set(scalars)
  assert scalars['val/mean_iou'] == [3, 6]
  assert pictures >= 2
  for variable in ('fcn/score_8/weights', 'InceptionV3/Conv2d_1a_3x3/weights'):
    assert any(tag.startswith('gradients_') and tag.endswith(variable) for tag in histograms)
    assert any(tag.startswith('weights_') and tag.endswith(variable) for tag in histograms)


def test_evaluate_and_inference_need_only_the_run(whole, data_dir, tmp_path):
  run_dir, _ = whole
  script('evaluate.py', f'--ckpt={run_dir}')
  scores = json.loads((run_dir / 'metrics-val.json').read_text())
  assert scores['num_images'] == 2 and set(scores['class_iou']) == set(get_dataset('shapes').classes)
  best = json.loads((run_dir / 'best/best.json').read_text())
  assert scores['mean_iou'] == pytest.approx(best['mean_iou'], abs=2e-3)  # as during training, but for folding
  script('-m', 'datasets.export', '--dataset=shapes', f'--data_dir={data_dir}', f'--output_dir={tmp_path}/photos')
  script('inference.py', f'--ckpt={run_dir}', f'--output_dir={tmp_path}/out', tmp_path / 'photos')
  assert sorted(name.split('_')[-1] for name in os.listdir(tmp_path / 'out')) == ['label.png'] * 2 + ['overlay.png'] * 2


def test_killed_at_any_moment_it_resumes_as_if_nothing_had_been(whole, data_dir, tmp_path):
  """SIGKILL after step 3, the same command again: same losses as without the break, same weights at the end."""
  run_dir = tmp_path / 'killed'
  args = ('--max_steps=6', '--eval_steps=0', '--save_minutes=0')
  process = start(run_dir, data_dir, *args)
  for line in process.stdout:
    if line.startswith('step 3/'):
      process.kill()
      break
  process.wait()
  result = train(run_dir, data_dir, *args)
  assert result.returncode == 0, result.stderr
  resumed_at = int(re.search(r'^resumed at step (\d+) from', result.stdout, re.M).group(1))
  assert 2 <= resumed_at <= 4
  expected = losses(whole[1])
  seen = losses(result.stdout)
  assert list(seen) == list(range(resumed_at + 1, 7))
  for step, loss in seen.items():
    assert loss == pytest.approx(expected[step], rel=2e-2)
  readers = [tf.train.load_checkpoint(str(folder / 'model.ckpt-6')) for folder in (whole[0], run_dir)]
  assert set(readers[0].get_variable_to_shape_map()) == set(readers[1].get_variable_to_shape_map())
  for name in ('fcn/score_8/weights/Adam_1', 'fcn/score_8/weights/AdamNew_1', 'fcn/score_32/weights'):
    if readers[0].has_tensor(name):
      first, second = (reader.get_tensor(name) for reader in readers)
      assert np.abs(first - second).max() < 0.1 * np.abs(first).max()
  assert readers[1].get_tensor('global_step') == 6
  assert 'reached step 6' in train(run_dir, data_dir, *args).stdout  # and once more: nothing to do


def test_interrupted_it_saves_and_meanwhile_the_folder_is_taken(data_dir, tmp_path):
  run_dir = tmp_path / 'interrupted'
  args = (SMALL, '--max_steps=500', '--eval_steps=0', '--save_minutes=60')
  process = start(run_dir, data_dir, *args)
  for line in process.stdout:
    if line.startswith('step 2/'):
      break
  assert_refused(train(run_dir, data_dir, *args), 'another run is training', 'interrupted')
  process.send_signal(signal.SIGINT)
  process.communicate(timeout=120)
  assert process.returncode == 0
  step = tf.train.load_checkpoint(str(run_dir)).get_tensor('global_step')
  assert 2 <= step < 500


def test_a_folder_with_other_settings_is_refused(whole, data_dir):
  run_dir, _ = whole
  before = (run_dir / 'config.json').read_text()
  assert_refused(train(run_dir, data_dir, '--learning_rate=0.5', '--max_steps=9'),
                 '--learning_rate (0.0001 there, 0.5 here)', '--run_dir')
  assert (run_dir / 'config.json').read_text() == before


def test_staged_training_starts_from_the_coarser_run(data_dir, tmp_path):
  coarse, fine = tmp_path / '32s', tmp_path / '16s'
  args = ('--net=inception_v1', '--max_steps=2', '--eval_steps=0')
  assert train(coarse, data_dir, '--skip=32s', *args).returncode == 0
  result = train(fine, data_dir, '--skip=16s', f'--init_from={coarse}', *args)
  assert result.returncode == 0, result.stderr
  assert re.search(r'^warm-started \d+ variables under InceptionV1, fcn from .*32s/model.ckpt-2; new: '
                   r'fcn/score_16/biases, fcn/score_16/weights, fcn/upscore_16/weights$', result.stdout, re.M)
  start, end = (tf.train.load_checkpoint(str(path)) for path in (fine / 'model.ckpt-0', coarse / 'model.ckpt-2'))
  for name in ('fcn/score_32/weights', 'InceptionV1/Mixed_5c/Branch_0/Conv2d_0a_1x1/weights'):
    np.testing.assert_array_equal(start.get_tensor(name), end.get_tensor(name))
  assert_refused(train(tmp_path / 'back', data_dir, '--skip=32s', f'--init_from={fine}', *args), 'fcn/score_16')


def test_what_shapes_the_network_reaches_inference(data_dir, tmp_path):
  """A decoder, another input scale, and averaged weights: evaluation during training and after it agree."""
  run_dir = tmp_path / 'run'
  result = train(run_dir, data_dir, '--net=inception_v1', '--skip=4s', '--decoder_channels=8',
                 '--input_scale=1.25', '--loss=cross_entropy+lovasz', '--cutout=0.1',
                 '--ema_decay=0.9', '--max_steps=3', '--eval_steps=3')
  assert result.returncode == 0, result.stderr
  during = float(re.search(r'mean IoU ([\d.]+)', result.stdout)[1])
  script('evaluate.py', f'--ckpt={run_dir}')
  after = json.loads((run_dir / 'metrics-val.json').read_text())['mean_iou']
  assert after == pytest.approx(during, abs=1e-4)
  checkpoint = tf.train.load_checkpoint(str(run_dir / 'best'))
  name = 'fcn/score_4/weights'
  raw, average = checkpoint.get_tensor(name), checkpoint.get_tensor(f'{name}/ExponentialMovingAverage')
  assert np.abs(raw - average).max() > 1e-5


@pytest.mark.parametrize('name', sorted(name for name in os.listdir(ROOT) if name.endswith('.flags')))
def test_flag_files_are_understood(name, tmp_path):
  """The loss is looked up when all else is."""
  result = subprocess.run([sys.executable, 'train.py', f'--flagfile={name}', f'--run_dir={tmp_path}', '--loss=none'],
                          cwd=ROOT, capture_output=True, text=True, check=False)
  assert_refused(result, '--loss=none')


@pytest.mark.parametrize('args, parts', [
    (['--dataset=moon'], ['moon', 'shapes', 'voc', 'camvid', 'mit']),
    (['--net=alexnet'], ['alexnet', 'inception_v3']),
    (['--skip=1s'], ['1s', '32s, 16s, 8s, 4s, 2s']),
    (['--batch_size=4', '--gradient_accumulation=3'], ['--gradient_accumulation=3', '--batch_size=4']),
    (['--net=unet', '--input_scale=2'], ['--input_scale=2', 'unet']),
    (['--loss=hinge'], ['hinge', 'cross_entropy, ohem']),
    (['--batch_size=0'], ['batch_size', '0']),
    (['--crop_size=319'], ['crop_size', '319,415']),
    (['--crop_size=0,5'], ['crop_size', '0']),
    (['--schedule=cosine'], ['cosine', 'poly']),
    (['--no_such_flag'], ['no_such_flag']),
    (['photo.jpg'], ['photo.jpg']),
    (['--checkpoint=no/such.ckpt'], ['no/such.ckpt']),
    (['--init_from=no/such/run'], ['no/such/run']),
    (['--run_dir=train.py'], ['train.py']),
    (['--net=inception_v1', '--trainable_scopes=tail'], ['tail', 'InceptionV1, fcn']),
    (['--eval_split=test'], ['test']),
])
def test_bad_flags_are_one_line(args, parts, data_dir, tmp_path):
  assert_refused(train(tmp_path / 'run', data_dir, '--max_steps=1', *args, cwd=ROOT), *parts)


def test_a_corrupt_record_is_named(data_dir, tmp_path):
  broken = tmp_path / 'broken'
  subprocess.run(['cp', '-r', data_dir, broken], check=True)
  shard = records.shard_paths(str(broken), 'train')[1]
  with open(shard, 'r+b') as file:
    file.seek(-1000, os.SEEK_END)
    byte = file.read(1)
    file.seek(-1000, os.SEEK_END)
    file.write(bytes([byte[0] ^ 0xff]))
  result = train(tmp_path / 'run', broken, SMALL, '--max_steps=9', '--eval_steps=0')
  assert_refused(result, os.path.basename(shard), 'record 3')


def test_a_label_out_of_range_is_named_with_its_record(data_dir, tmp_path):
  """Shards of another dataset's making, whose ids go beyond the classes."""
  from datasets import images
  from datasets.dataset import Source, label_map

  wrong = tmp_path / 'wrong'
  subprocess.run(['cp', '-r', data_dir, wrong], check=True)
  stats = json.loads((wrong / 'train.json').read_text())
  for index, shard in enumerate(records.shard_paths(data_dir, 'train')):
    with tf.io.TFRecordWriter(str(wrong / os.path.basename(shard))) as writer:
      source = Source(name=f'moon{index}', image=np.zeros([70, 99, 3], np.uint8), label=np.full([70, 99], 8, np.uint8))
      writer.write(records.serialize(images.encode_pair(source, label_map({8: 8}))))
    if 'shard_bytes' in stats:
      stats['shard_bytes'][index] = os.path.getsize(wrong / os.path.basename(shard))
  stats['num_examples'] = 2
  (wrong / 'train.json').write_text(json.dumps(stats))
  assert_refused(train(tmp_path / 'run', wrong, SMALL, '--max_steps=3', '--eval_steps=0'),
                 'train-00000-of-00002.tfrecord', 'record 0', 'moon0', '8')


def test_a_disk_that_fills_leaves_the_checkpoint_before_whole(data_dir, tmp_path):
  """A limit on the size of files stands for the disk: the first checkpoint is written, then no more fits."""
  run_dir = tmp_path / 'full'
  args = (SMALL, '--max_steps=3', '--eval_steps=0', '--save_minutes=60')
  process = start(run_dir, data_dir, *args)
  while not (run_dir / 'model.ckpt-0.index').exists():
    assert process.poll() is None
    time.sleep(0.05)
  resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (10_000_000, 10_000_000))
  _, stderr = process.communicate(timeout=120)
  assert process.returncode == 1 and 'cannot write the checkpoint of step 3' in stderr.splitlines()[-1]
  assert 'Traceback' not in stderr
  assert tf.train.load_checkpoint(str(run_dir)).get_tensor('global_step') == 0
  assert train(run_dir, data_dir, *args).returncode == 0


def test_real_weights_train_in_two_steps(shared, data_dir, tmp_path):
  """ImageNet weights, the new layers alone: Inception's stay as they are, the heads move."""
  path = str(shared / 'pretrained/inception_v3.ckpt')
  result = train(tmp_path / 'heads', data_dir, f'--checkpoint={path}', '--trainable_scopes=fcn', '--max_steps=2',
                 '--eval_steps=0', '--skip=16s')
  assert result.returncode == 0, result.stderr
  assert f'warm-started 376 variables under InceptionV3 from {path}' in result.stdout
  trained, original = tf.train.load_checkpoint(str(tmp_path / 'heads')), tf.train.load_checkpoint(path)
  for name in original.get_variable_to_shape_map():
    np.testing.assert_array_equal(trained.get_tensor(name), original.get_tensor(name))
  assert np.abs(trained.get_tensor('fcn/score_32/weights')).max() > 0
