"""train.py as users run it, on a few of the built-in shapes: start, resume, refuse, and what it leaves behind."""

import json
import os
import re
import resource
import shutil
import signal

import imageio.v3 as imageio
import numpy as np
import programs
import pytest
from few_shapes import convert_shapes
from forks import Fork
from programs import assert_refused
from tensorflow.python.client import session

import evaluate
import inference
import train
from datasets import export, get_dataset, records
from utils.best import best_checkpoint
from utils.compat import tf
from utils.files import ROOT
from utils.runs import load_run
from utils.settings import parse
from utils.training import start
from utils.training.settings import TrainSettings

SHORT = ('--dataset=shapes', '--net=tiny', '--checkpoint=none', '--crop_size=63,95', '--batch_size=2', '--log_steps=1',
         '--freeze_batch_norm', '--dropout_keep_prob=1', '--new_layers_rate=10')
IN_A_PROCESS = 'import sys, tiny, train\nwith tiny.registered():\n  sys.exit(train.main())'

pytestmark = pytest.mark.usefixtures('tiny')


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
  """Eight shapes to train on and two to evaluate."""
  return convert_shapes(str(tmp_path_factory.mktemp('shapes')), train=8, val=2)


def run(run_dir, data_dir, *args, **options):
  """Runs train.py in this process, on the tiny network if `args` name none; returns a programs.Result."""
  return programs.run(train.main, *SHORT, f'--run_dir={run_dir}', f'--data_dir={data_dir}', *args, **options)


def succeed(result):
  assert result.returncode == 0, result.stdout + result.stderr
  return result


def losses(output):
  """Step -> loss as printed."""
  return {int(step): float(loss) for step, loss in re.findall(r'^step (\d+)/\d+  loss ([\d.]+)', output, re.M)}


@pytest.fixture(scope='module')
def whole(tmp_path_factory, data_dir, tiny):
  """A run of six steps without a break: (folder, output)."""
  run_dir = tmp_path_factory.mktemp('runs') / 'whole'
  result = run(run_dir, data_dir, '--max_steps=6', '--eval_steps=3', '--summary_steps=2', '--summarize_gradients')
  return run_dir, succeed(result).stdout


def test_no_session_takes_all_memory_of_a_gpu(data_dir, tmp_path, monkeypatch):
  """Those of data and evaluations neither; and the first that may see a GPU has the flags' options."""
  configs, made = [], session.BaseSession.__init__

  def recorded(self, target='', graph=None, config=None):
    configs.append(config)
    made(self, target, graph, config)

  monkeypatch.setattr(session.BaseSession, '__init__', recorded)
  succeed(run(tmp_path / 'run', data_dir, '--max_steps=1', '--eval_split=val', '--gpu_memory_fraction=0.25'))
  with_gpus = [config for config in configs if 'GPU' not in config.device_count]
  assert with_gpus and {config.gpu_options.per_process_gpu_memory_fraction for config in with_gpus} == {0.25}


def test_log_and_files(whole):
  run_dir, output = whole
  assert re.match(r'device: (CPU|GPU \d+).*; precision float32', output) and 'started from scratch' in output
  assert list(losses(output)) == [1, 2, 3, 4, 5, 6]
  assert losses(output)[1] == pytest.approx(np.log(8), abs=1e-3)  # all scores start at zero: eight equal classes
  assert len(re.findall(r'^step [36]  val: mean IoU 0\.\d+, pixel accuracy 0\.\d+', output, re.M)) == 2
  assert {'config.json', 'best', 'checkpoint', 'model.ckpt-6.index'} <= set(os.listdir(run_dir))
  config = json.loads((run_dir / 'config.json').read_text())
  assert config['network'] == {
      'name': 'tiny', 'skip': '8s', 'decoder_channels': 0, 'input_scale': 1.0, 'bands': [],
      'band_colors': [0, 1, 2]}
  assert config['dataset']['classes'] == list(get_dataset('shapes').classes)
  assert config['flags']['max_steps'] == 6 and config['versions']['tensorflow'] == tf.__version__


def written_summaries(run_dir):
  """What a run shows in TensorBoard: dict from scalar's tag to steps, set of histograms' tags, sizes of pictures."""
  scalars, histograms, pictures = {}, set(), []
  for path in run_dir.glob('events*'):
    for event in tf.train.summary_iterator(str(path)):
      for value in event.summary.value:
        if value.HasField('histo'):
          histograms.add(value.tag)
        elif value.HasField('image'):
          pictures.append((value.image.height, value.image.width))
        else:  # simple_value, or a scalar or tensor in the newer encoding
          scalars.setdefault(value.tag, []).append(event.step)
  return scalars, histograms, pictures


def test_tensorboard_has_losses_metrics_pictures_and_gradients(whole):
  scalars, histograms, pictures = written_summaries(whole[0])
  assert {'loss/cross_entropy', 'loss/weights_l2', 'training/learning_rate', 'training/images_per_second',
          'val/mean_iou', 'val_class_iou/disc', 'gradient_norm_by_layer/00_new_layers',
          'gradient_norm_by_layer/01_conv5', 'gradient_norm_by_layer/05_conv1'} <= set(scalars)
  assert scalars['val/mean_iou'] == [3, 6]
  assert len(pictures) >= 2 and set(pictures) == {(63, 3 * 95)}
  for name in ('00_new_layers/fcn/score_8/weights', '05_conv1/Tiny/conv1/weights'):
    assert {f'gradients_{name}', f'weights_{name}'} <= histograms


def test_evaluation_after_training_is_as_during_it(whole):
  """But for the folding of batch norms."""
  run_dir, _ = whole
  succeed(programs.run(evaluate.main, f'--ckpt={run_dir}'))
  scores = json.loads((run_dir / 'metrics-val.json').read_text())
  best = json.loads((run_dir / 'best/best.json').read_text())
  assert scores['mean_iou'] == pytest.approx(best['mean_iou'], abs=2e-3)
  assert (best['split'], best['metric']) == ('val', 'mean_iou')


def test_evaluate_and_inference_need_only_the_run(data_dir, tmp_path):
  """The one training of a whole Inception v3: its layers in TensorBoard, its scores, its labels of photographs."""
  run_dir = tmp_path / 'run'
  succeed(run(run_dir, data_dir, '--net=inception_v3', '--max_steps=1', '--eval_steps=0', '--summary_steps=1',
              '--summarize_gradients'))
  scalars, histograms, _ = written_summaries(run_dir)
  assert {'gradient_norm_by_layer/00_new_layers', 'gradient_norm_by_layer/01_Mixed_7c',
          'gradient_norm_by_layer/16_Conv2d_1a_3x3'} <= set(scalars)
  name = '16_Conv2d_1a_3x3/InceptionV3/Conv2d_1a_3x3/weights'
  assert {f'gradients_{name}', f'weights_{name}'} <= histograms
  succeed(programs.run(evaluate.main, f'--ckpt={run_dir}'))
  scores = json.loads((run_dir / 'metrics-val.json').read_text())
  assert scores['num_images'] == 2 and set(scores['class_iou']) == set(get_dataset('shapes').classes)
  succeed(programs.run(export.main, '--dataset=shapes', f'--data_dir={data_dir}', f'--output_dir={tmp_path}/photos'))
  succeed(programs.run(inference.main, f'--ckpt={run_dir}', f'--output_dir={tmp_path}/out', tmp_path / 'photos'))
  assert sorted(name.split('_')[-1] for name in os.listdir(tmp_path / 'out')) == ['label.png'] * 2 + ['overlay.png'] * 2


def checkpoint_values(run_dir):
  """dict from name to array of all tensors of the checkpoint of step 6."""
  reader = tf.train.load_checkpoint(str(run_dir / 'model.ckpt-6'))
  return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


def test_killed_it_resumes_with_weights_optimizer_and_data(whole, data_dir, tmp_path):
  """SIGKILL after step 3, the same command again: the losses, weights and Adam's slots of a run without the break."""
  run_dir = tmp_path / 'killed'
  args = ('--max_steps=6', '--eval_steps=0', '--save_minutes=0')
  process = Fork('-c', IN_A_PROCESS, *SHORT, f'--run_dir={run_dir}', f'--data_dir={data_dir}', *args)
  assert any(line.startswith('step 3/') for line in process.stdout)
  process.kill()
  process.wait()
  result = succeed(run(run_dir, data_dir, *args))
  resumed_at = int(re.search(r'^resumed at step (\d+) from', result.stdout, re.M).group(1))
  assert 2 <= resumed_at <= 4
  expected, seen = losses(whole[1]), losses(result.stdout)
  assert list(seen) == list(range(resumed_at + 1, 7))
  for step, loss in seen.items():
    assert loss == pytest.approx(expected[step], rel=2e-2)
  first, second = checkpoint_values(whole[0]), checkpoint_values(run_dir)
  assert set(first) == set(second) and second['global_step'] == 6
  slots = [name for name in first if name.endswith(('/Adam', '/Adam_1', '/Adam_10', '/Adam_10_1'))]
  assert {'fcn/score_8/weights/Adam_10_1', 'Tiny/conv1/weights/Adam_1'} <= set(slots)
  for name in (*slots, 'fcn/score_32/weights'):  # second moments of three steps instead of six are half as large
    assert np.abs(first[name] - second[name]).max() <= 0.2 * np.abs(first[name]).max(), name
  assert 'reached step 6' in run(run_dir, data_dir, *args).stdout  # and once more: nothing to do


@pytest.mark.parametrize('number, code', [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_it_saves_and_says_so(number, code, data_dir, tmp_path):
  """Meanwhile the folder is taken; the exit code is the shell's for the signal, and handlers are put back."""
  run_dir, refused = tmp_path / 'interrupted', []
  args = ('--max_steps=500', '--eval_steps=0', '--save_minutes=60')
  before = signal.getsignal(number)

  def seen(text):
    if 'step 2/' in text and not refused:
      refused.append(run(run_dir, data_dir, *args))
      os.kill(os.getpid(), number)

  result = run(run_dir, data_dir, *args, seen=seen)
  assert_refused(refused[0], 'another run is training', 'interrupted')
  assert result.returncode == code and 'next: python evaluate.py' not in result.stdout
  step = tf.train.load_checkpoint(str(run_dir)).get_tensor('global_step')
  assert 2 <= step < 500 and f'interrupted at step {step} of 500' in result.stdout
  assert signal.getsignal(number) is before


def test_a_folder_with_other_settings_is_refused(whole, data_dir):
  run_dir, _ = whole
  before = (run_dir / 'config.json').read_text()
  assert_refused(run(run_dir, data_dir, '--learning_rate=0.5', '--max_steps=9'),
                 '--learning_rate (0.0001 there, 0.5 here)', '--run_dir')
  assert (run_dir / 'config.json').read_text() == before


def test_staged_training_starts_from_the_coarser_run(data_dir, tmp_path):
  coarse, fine = tmp_path / '32s', tmp_path / '16s'
  args = ('--max_steps=2', '--eval_steps=0')
  succeed(run(coarse, data_dir, '--skip=32s', *args))
  result = succeed(run(fine, data_dir, '--skip=16s', f'--init_from={coarse}', *args))
  assert re.search(r'^warm-started \d+ variables under Tiny, fcn from .*32s/model.ckpt-2; new: '
                   r'fcn/score_16/biases, fcn/score_16/weights, fcn/upscore_16/weights$', result.stdout, re.M)
  start, end = (tf.train.load_checkpoint(str(path)) for path in (fine / 'model.ckpt-0', coarse / 'model.ckpt-2'))
  for name in ('fcn/score_32/weights', 'Tiny/conv5/weights'):
    np.testing.assert_array_equal(start.get_tensor(name), end.get_tensor(name))
  assert_refused(run(tmp_path / 'back', data_dir, '--skip=32s', f'--init_from={fine}', *args), 'fcn/score_16')


def test_a_run_that_saw_bands_in_another_order(data_dir, tmp_path):
  """The kernels of its first layer are those of its own bands, wherever they go; other classes are said."""
  args, name = ('--max_steps=1', '--eval_steps=0', '--learning_rate=0'), 'Tiny/conv1/weights'
  kernels = lambda run_dir: tf.train.load_checkpoint(str(run_dir)).get_tensor(name)
  turned = tmp_path / 'turned'
  succeed(run(turned, data_dir, '--bands=3,2,1', *args))
  result = succeed(run(tmp_path / 'same', data_dir, '--bands=blue,green,red', f'--checkpoint={turned}', '--seed=1',
                       *args))
  np.testing.assert_array_equal(kernels(tmp_path / 'same'), kernels(turned))
  assert 'first kernels' not in result.stdout
  for flag in ('init_from', 'checkpoint'):
    assert_refused(run(tmp_path / 'x', data_dir, f'--{flag}={turned}', *args),
                   f'--{flag}={turned} saw the bands blue, green, red, and here they are in another order: red, green, '
                   'blue; --bands=blue,green,red has them in its order')
  config = json.loads((turned / 'config.json').read_text())
  config['dataset']['classes'][1:3] = ['moon', 'sun']
  config['dataset']['reading'] = {'bands': ['blue', 'green', 'nir']}
  (turned / 'config.json').write_text(json.dumps(config))
  result = succeed(run(tmp_path / 'other', data_dir, f'--init_from={turned}', *args))
  assert f'note: {turned} saw other bands: its nir, green, blue are here red, green, blue\n' in result.stdout
  classes = get_dataset('shapes').classes
  assert (f'note: {turned} was trained on other classes, whose scores start as those of these: moon is here '
          f'{classes[1]}, sun is here {classes[2]}\n') in result.stdout


def test_averages_begin_with_the_weights_that_a_run_starts_from(whole, data_dir, tmp_path):
  """Not with the random ones of before: the run may be evaluated, or started from, before its first step."""
  for source in ('init_from', 'checkpoint'):
    run_dir = tmp_path / source
    succeed(run(run_dir, data_dir, f'--{source}={whole[0]}', '--ema_decay=0.9', '--seed=1', '--max_steps=1',
                '--eval_steps=0'))
    start = tf.train.load_checkpoint(str(run_dir / 'model.ckpt-0'))
    for name in ('Tiny/conv1/weights', 'fcn/score_32/weights'):
      np.testing.assert_array_equal(start.get_tensor(f'{name}/ExponentialMovingAverage'), start.get_tensor(name))


def test_what_shapes_the_network_reaches_inference(data_dir, tmp_path):
  """A decoder, another input scale, and averaged weights: evaluation during training and after it agree."""
  run_dir = tmp_path / 'run'
  args = ('--skip=16s', '--decoder_channels=8', '--input_scale=1.25', '--ema_decay=0.9')
  result = succeed(run(run_dir, data_dir, *args, '--loss=cross_entropy+lovasz', '--max_steps=3',
                       '--eval_steps=3'))
  during = float(re.search(r'mean IoU ([\d.]+)', result.stdout)[1])
  succeed(programs.run(evaluate.main, f'--ckpt={run_dir}'))
  after = json.loads((run_dir / 'metrics-val.json').read_text())['mean_iou']
  assert after == pytest.approx(during, abs=1e-4)
  checkpoint = tf.train.load_checkpoint(best_checkpoint(str(run_dir / 'best')))
  name = 'fcn/score_16/weights'
  raw, average = checkpoint.get_tensor(name), checkpoint.get_tensor(f'{name}/ExponentialMovingAverage')
  assert np.abs(raw - average).max() > 1e-5
  succeed(run(tmp_path / 'on', data_dir, *args, f'--init_from={run_dir}', '--max_steps=1', '--eval_steps=0'))
  start = tf.train.load_checkpoint(str(tmp_path / 'on/model.ckpt-0'))
  np.testing.assert_array_equal(start.get_tensor(name), average)  # what was evaluated, not the raw weights


@pytest.mark.parametrize('name', sorted(name for name in os.listdir(ROOT) if name.endswith('.flags')))
def test_flag_files_are_understood(name, tmp_path):
  """The loss is looked up when all else is."""
  flag_file = os.path.join(ROOT, name)
  assert_refused(programs.run(train.main, f'--flagfile={flag_file}', f'--run_dir={tmp_path}', '--loss=none'),
                 '--loss=none')


@pytest.mark.parametrize('args, parts', [
    (['--dataset=moon'], ['moon', 'shapes', 'voc', 'camvid', 'mit']),
    (['--net=alexnet'], ['alexnet', 'inception_v3']),
    (['--skip=1s'], ['1s', '32s, 16s, 8s, 4s, 2s']),
    (['--batch_size=4', '--gradient_accumulation=3'], ['--gradient_accumulation=3', '--batch_size=4']),
    (['--net=unet', '--input_scale=2'], ['--input_scale=2', 'unet']),
    (['--loss=hinge'], ['hinge', 'cross_entropy, ohem']),
    (['--batch_size=0'], ['batch_size', '0']),
    (['--early_stop=2', '--eval_steps=0'], ['--early_stop=2', '--eval_steps=0 makes none']),
    (['--threads=9999999999'], ['--threads=9999999999: valid are 0 to 4096']),
    (['--crop_size=319'], ['crop_size', '319,415']),
    (['--crop_size=319,x'], ['crop_size', '319,415']),
    (['--scale_range=nan,1'], ['--scale_range=nan,1']),
    (['--scale_range=2,1'], ['--scale_range=2,1']),
    (['--learning_rate=nan'], ['--learning_rate=nan']),
    (['--crop_size=0,5'], ['crop_size', '0']),
    (['--schedule=cosine'], ['cosine', 'poly']),
    (['--no_such_flag'], ['no_such_flag']),
    (['photo.jpg'], ['photo.jpg']),
    (['--checkpoint=no/such.ckpt'], ['no/such.ckpt']),
    (['--init_from=no/such/run'], ['no/such/run']),
    (['--checkpoint_exclude_scopes=Tiny'], ['--checkpoint_exclude_scopes=Tiny', 'nothing from a --checkpoint']),
    (['--checkpoint=x', '--init_from=y', '--checkpoint_exclude_scopes=a,b'], ['--checkpoint_exclude_scopes=a,b']),
    (['--net=enet', '--checkpoint=x'], ['--checkpoint=x', 'enet takes no pretrained weights', '--init_from']),
    ([f'--run_dir={ROOT}/train.py'], ['train.py']),
    (['--trainable_scopes=tail'], ['tail', 'Tiny, fcn']),
    (['--eval_split=test'], ['test']),
])
def test_bad_flags_are_one_line(args, parts, data_dir, tmp_path):
  assert_refused(run(tmp_path / 'run', data_dir, '--max_steps=1', *args), *parts)


def test_a_corrupt_record_is_named(data_dir, tmp_path):
  broken = tmp_path / 'broken'
  shutil.copytree(data_dir, broken)
  shard = records.shard_paths(str(broken), 'train')[1]
  with open(shard, 'r+b') as file:
    file.seek(-1000, os.SEEK_END)
    byte = file.read(1)
    file.seek(-1000, os.SEEK_END)
    file.write(bytes([byte[0] ^ 0xff]))
  result = run(tmp_path / 'run', broken, '--max_steps=9', '--eval_steps=0')
  assert_refused(result, os.path.basename(shard), 'record 3')


def test_a_label_out_of_range_is_named_with_its_record(data_dir, tmp_path):
  """Shards of another dataset's making, whose ids go beyond the classes."""
  from datasets import encoding
  from datasets.dataset import Source, label_map

  wrong = tmp_path / 'wrong'
  shutil.copytree(data_dir, wrong)
  stats = json.loads((wrong / 'train.json').read_text())
  for index, shard in enumerate(records.shard_paths(data_dir, 'train')):
    with tf.io.TFRecordWriter(str(wrong / os.path.basename(shard))) as writer:
      source = Source(name=f'moon{index}', image=np.zeros([70, 99, 3], np.uint8), label=np.full([70, 99], 8, np.uint8))
      writer.write(records.serialize(encoding.encode_pair(source, label_map({8: 8}))))
    if 'shard_bytes' in stats:
      stats['shard_bytes'][index] = os.path.getsize(wrong / os.path.basename(shard))
  stats['num_examples'] = 2
  (wrong / 'train.json').write_text(json.dumps(stats))
  assert_refused(run(tmp_path / 'run', wrong, '--max_steps=3', '--eval_steps=0'),
                 'train-00000-of-00002.tfrecord', 'record 0', 'moon0', '8')


def test_a_disk_that_fills_leaves_the_checkpoint_before_whole(data_dir, tmp_path):
  """A limit on the size of files stands for the disk: the first checkpoint is written, then no more fits.

  Only the decoder makes it that large: the event file is to fit.
  """
  run_dir, limit = tmp_path / 'full', resource.getrlimit(resource.RLIMIT_FSIZE)
  args = ('--skip=16s', '--decoder_channels=512', '--max_steps=3', '--eval_steps=0', '--save_minutes=60')

  def seen(text):
    if 'step 1/' in text:
      resource.setrlimit(resource.RLIMIT_FSIZE, (10_000_000, limit[1]))

  try:
    result = run(run_dir, data_dir, *args, seen=seen)
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limit)
  assert_refused(result, 'cannot write the checkpoint of step 3')
  assert tf.train.load_checkpoint(str(run_dir)).get_tensor('global_step') == 0
  succeed(run(run_dir, data_dir, *args))


def test_a_start_that_fails_changes_nothing(whole, data_dir, tmp_path):
  """A data folder that cannot be made, a larger --max_steps: config.json still says what was trained."""
  run_dir = tmp_path / 'run'
  shutil.copytree(whole[0], run_dir)
  before = (run_dir / 'config.json').read_text()
  (tmp_path / 'file').touch()
  assert_refused(run(run_dir, tmp_path / 'file/data', '--max_steps=9'), 'file/data')
  assert_refused(run(run_dir, data_dir, '--max_steps=9', '--eval_split=moon', '--eval_steps=3'), 'moon')
  assert (run_dir / 'config.json').read_text() == before
  succeed(programs.run(evaluate.main, f'--ckpt={run_dir}'))


def test_another_split_forgets_the_best_and_training_on_without_one_does_too(data_dir, tmp_path):
  """best/ keeps one checkpoint over all resumes, that of the split that is evaluated."""
  run_dir, best = tmp_path / 'run', tmp_path / 'run/best'
  args = ('--eval_steps=1',)
  succeed(run(run_dir, data_dir, *args, '--max_steps=1'))
  assert json.loads((best / 'best.json').read_text())['split'] == 'val'
  (best / 'best.json').write_text(json.dumps({'split': 'val', 'mean_iou': 0.99, 'step': 1}))
  result = succeed(run(run_dir, data_dir, *args, '--max_steps=2'))
  assert 'the best so far' not in result.stdout and load_run(str(run_dir)).step == 1
  result = succeed(run(run_dir, data_dir, *args, '--max_steps=3', '--eval_split=train'))
  assert 'the best on val: mean IoU 0.9900; the best on train, which is not compared' in result.stdout
  assert 'step 3  train: mean IoU' in result.stdout
  assert json.loads((best / 'best.json').read_text())['split'] == 'train'
  assert [path.name for path in best.glob('*.index')] == ['model.ckpt-3.index']
  assert 'TFRecords of train, train' not in result.stdout
  succeed(run(run_dir, data_dir, '--eval_steps=0', '--max_steps=4', '--eval_split=train'))
  assert load_run(str(run_dir)).step == 4  # no longer that of step 3


def test_the_table_shows_the_rates_at_which_scopes_learn(data_dir, tmp_path):
  """From scratch without --new_layers_rate all learn at --learning_rate, and so says the log."""
  args = [flag for flag in SHORT if not flag.startswith('--new_layers_rate')]
  result = succeed(programs.run(
      train.main, *args, '--net=segnet_basic', f'--run_dir={tmp_path / "scratch"}', f'--data_dir={data_dir}',
      '--max_steps=1', '--eval_steps=0', '--learning_rate=0.003', '--schedule=constant'))
  assert re.search(r'^segnet_basic +([\d,]+) +\1 +0.003$', result.stdout, re.M)
  assert 'learning rate 0.003  ' in result.stdout
  config = json.loads((tmp_path / 'scratch/config.json').read_text())
  assert config['flags']['new_layers_rate'] == 1 and config['flags']['weight_decay'] == 5e-4  # the paper's
  checkpoint = tf.train.load_checkpoint(str(tmp_path / 'scratch'))
  assert checkpoint.has_tensor('segnet_basic/conv1/weights/Adam')


def test_a_run_of_before_goes_on_with_its_own_rates(data_dir, tmp_path):
  """Earlier versions kept the numbers of lists as text and had other defaults; the same command goes on."""
  run_dir = tmp_path / 'run'
  args = [flag for flag in SHORT if not flag.startswith('--new_layers_rate')]
  args += [f'--run_dir={run_dir}', f'--data_dir={data_dir}', '--eval_steps=0']
  succeed(programs.run(train.main, *args, '--new_layers_rate=10', '--weight_decay=5e-4', '--max_steps=1'))
  config = json.loads((run_dir / 'config.json').read_text())
  config['flags'] |= {'crop_size': ['63', '95'], 'scale_range': ['0.7', '1.6']}
  (run_dir / 'config.json').write_text(json.dumps(config))
  result = succeed(programs.run(train.main, *args, '--max_steps=2'))
  assert 'resumed at step 1' in result.stdout
  flags = json.loads((run_dir / 'config.json').read_text())['flags']
  assert (flags['new_layers_rate'], flags['weight_decay']) == (10, 5e-4)


def test_real_weights_train_in_two_steps(shared, data_dir, tmp_path):
  """ImageNet weights, the new layers alone: Inception's stay as they are, the heads move."""
  path = str(shared / 'pretrained/inception_v3.ckpt')
  result = succeed(run(tmp_path / 'heads', data_dir, '--net=inception_v3', f'--checkpoint={path}', '--skip=16s',
                       '--trainable_scopes=fcn', '--max_steps=2', '--eval_steps=0', '--schedule=constant'))
  assert f'warm-started 376 variables under InceptionV3 from {path}' in result.stdout
  assert re.search(r'^InceptionV3 +21,768,352 +0 +-$', result.stdout, re.M)
  assert re.search(r'^fcn +([\d,]+) +\1 +0.001$', result.stdout, re.M)
  assert 'learning rate 0.001  ' in result.stdout  # of the layers that learn
  trained, original = tf.train.load_checkpoint(str(tmp_path / 'heads')), tf.train.load_checkpoint(path)
  for name in original.get_variable_to_shape_map():
    np.testing.assert_array_equal(trained.get_tensor(name), original.get_tensor(name))
  assert np.abs(trained.get_tensor('fcn/score_32/weights')).max() > 0


def test_a_broken_checkpoint_is_named_and_the_run_goes_on_from_the_whole_one(whole, data_dir, tmp_path):
  """It had saved steps 0 and 6: cut off, a list that is empty; nothing is deleted, and what cannot go on is refused."""
  run_dir = tmp_path / 'run'
  succeed(run(run_dir, data_dir, '--max_steps=4', '--eval_steps=0', '--save_minutes=0', '--keep_checkpoints=3'))
  os.truncate(run_dir / 'model.ckpt-4.data-00000-of-00001', 10_000)
  os.truncate(run_dir / 'checkpoint', 0)
  result = succeed(run(run_dir, data_dir, '--max_steps=5', '--eval_steps=0', '--save_minutes=60'))
  assert 'resumed at step 3 from' in result.stdout and list(losses(result.stdout)) == [4, 5]
  for part in (f'{run_dir}/checkpoint is empty', 'model.ckpt-4.data-00000-of-00001 is cut off',
               f'the checkpoint used is {run_dir}/model.ckpt-3'):
    assert part in result.stderr
  assert {f'model.ckpt-{step}.index' for step in (2, 3, 4, 5)} <= set(os.listdir(run_dir))  # 2, 3, 5 are three
  for step in (2, 3, 5):
    os.truncate(run_dir / f'model.ckpt-{step}.index', 5)
  before = sorted(os.listdir(run_dir))
  assert_refused(run(run_dir, data_dir, '--max_steps=9', '--eval_steps=0'), 'holds no whole checkpoint', 'ckpt-5.index')
  assert sorted(os.listdir(run_dir)) == before


def test_a_broken_best_checkpoint_is_replaced_by_the_next(data_dir, tmp_path):
  run_dir, best = tmp_path / 'run', tmp_path / 'run/best'
  succeed(run(run_dir, data_dir, '--max_steps=1', '--eval_steps=1'))
  (best / 'best.json').write_text(json.dumps({'split': 'val', 'mean_iou': 0.99, 'step': 1}))
  os.truncate(best / 'model.ckpt-1.index', 0)
  result = succeed(run(run_dir, data_dir, '--max_steps=2', '--eval_steps=1'))
  assert 'best/model.ckpt-1.index is cut off' in result.stderr and 'the best so far' in result.stdout
  assert [path.name for path in best.glob('*.index')] == ['model.ckpt-2.index'] and load_run(str(run_dir)).step == 2


def test_weights_are_named_by_any_of_their_files(data_dir, tmp_path):
  args = ('--max_steps=1', '--eval_steps=0')
  succeed(run(tmp_path / 'first', data_dir, *args))
  for name in ('model.ckpt-1.meta', 'checkpoint', ''):
    result = succeed(run(tmp_path / f'from {name}', data_dir, *args, f'--init_from={tmp_path}/first/{name}'))
    assert f'from {tmp_path}/first/model.ckpt-1; new: none' in result.stdout
  assert_refused(run(tmp_path / 'x', data_dir, *args, f'--init_from={tmp_path}/gone'), f'--init_from={tmp_path}/gone')
  (tmp_path / 'empty').mkdir()
  assert_refused(run(tmp_path / 'x', data_dir, *args, '--net=inception_v3', f'--checkpoint={tmp_path}/empty'),
                 f'--checkpoint={tmp_path}/empty: no checkpoint in this folder')


def test_bad_originals_are_left_out_where_the_user_says_so(tmp_path):
  """The error's advice is a flag of train.py."""
  photos = tmp_path / 'photos'
  shapes = get_dataset('shapes')
  for kind in ('images', 'labels'):
    (photos / kind).mkdir(parents=True)
  for name in ('a', 'b', 'c', 'd'):
    for kind, shape in (('images', (40, 50, 3)), ('labels', (40, 50))):
      imageio.imwrite(photos / kind / f'{name}.png', np.zeros(shape, np.uint8))
  (photos / 'classes.txt').write_text('\n'.join(shapes.classes))
  (photos / 'train.txt').write_text('a\nb\nc\n')
  (photos / 'val.txt').write_text('d\n')
  (photos / 'images/b.png').write_bytes(b'no picture')
  args = (f'--dataset={photos}', '--max_steps=1', '--eval_steps=0')
  result = run(tmp_path / 'run', tmp_path / 'data', *args)
  assert result.returncode == 1 and '--skip_bad leaves them out' in result.stderr
  result = succeed(run(tmp_path / 'run', tmp_path / 'data', *args, '--skip_bad'))
  assert f'left out {photos}/images/b.png' in result.stdout
  assert records.read_stats(str(tmp_path / 'data'), 'train')['num_examples'] == 2


@pytest.mark.parametrize('args, said', [
    (['--max_steps=10', '--batch_norm_decay=0.9'],  # 0.9^10 = 0.349; 0.05^(1/10) = 0.741; ln 0.05 / ln 0.9 = 28.4
     'of which 35% will still be their start after 10 steps, .* --batch_norm_decay=0.74 or --max_steps=29 helps'),
    (['--max_steps=10', '--batch_norm_decay=0.9', '--gradient_accumulation=2'],  # 0.9^20 = 0.122, 0.05^(1/20) = 0.861
     'of which 12% .*=0.86 or --max_steps=15 helps'),
    (['--max_steps=10', '--batch_norm_decay=0.74'], None),
    (['--max_steps=10', '--batch_norm_decay=1'], 'of which 100% .*=0.74 helps')])
def test_averages_that_lag_behind_are_said(args, said, capsys):
  made = parse(TrainSettings, args)
  start.say_if_averages_lag(made.optimizer.batch_norm_decay, made.schedule)
  out = capsys.readouterr().out
  assert re.search(said, out) if said else out == ''


def test_averages_are_spoken_of_only_where_they_are_learned_from_scratch(data_dir, tmp_path):
  args = ('--max_steps=1', '--eval_steps=0')
  hint = 'note: batch norm is evaluated with averages'
  assert hint in succeed(run(tmp_path / 'scratch', data_dir, *args, '--nofreeze_batch_norm')).stdout
  assert hint not in succeed(run(tmp_path / 'frozen', data_dir, *args)).stdout
  assert hint not in succeed(run(tmp_path / 'warm', data_dir, *args, '--nofreeze_batch_norm',
                                 f'--init_from={tmp_path}/scratch')).stdout


def test_a_folder_with_the_name_of_a_known_dataset_is_spoken_of(tmp_path, monkeypatch, capsys):
  import datasets

  monkeypatch.chdir(tmp_path)
  datasets._say_if_folder.cache_clear()
  (tmp_path / 'camvid').mkdir()  # may be the originals of CamVid
  assert get_dataset('camvid').name == 'camvid' and capsys.readouterr().err == ''
  datasets._say_if_folder.cache_clear()
  (tmp_path / 'voc').mkdir()
  (tmp_path / 'voc/classes.txt').write_text('a\nb\n')
  assert get_dataset('voc').num_classes == 21 == get_dataset('voc').num_classes
  assert capsys.readouterr().err == (
      'note: --dataset=voc is the known dataset of this name; --dataset=./voc is the folder here\n')
  for given, kept in (('voc', 'voc'), ('./voc', './voc'), ('./photos/', 'photos'), ('voc/', './voc')):
    settings = parse(TrainSettings, [f'--dataset={given}'])
    assert settings.resolved(get_dataset('shapes')).data.dataset == kept
