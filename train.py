"""Trains a network: resumes the run in --run_dir, else starts from ImageNet weights, another run, or from scratch.

    python train.py --dataset=voc --skip=8s
"""

import functools
import os

from absl import flags

import checkpoints
from datasets import DATASETS, get_dataset, pipeline, prepare, records
from nets import NETWORKS, get_network
from utils import errors, runs
from utils.compat import tf
from utils.errors import UserError
from utils.session import define_flags, session_config
from utils.training import hooks, losses, summaries, warm_start
from utils.training.step import SCHEDULES, averaged, learning_rate, make_step

FLAGS = flags.FLAGS

# What is trained, on what, from what.
flags.DEFINE_string('dataset', 'shapes', f'dataset: {", ".join(DATASETS)}, or the folder of your own')
flags.DEFINE_string('net', 'inception_v3', f'network: {", ".join(NETWORKS)}')
flags.DEFINE_string('skip', None, 'finest skip of an FCN: 32s, 16s, 8s, 4s or 2s; default: 8s')
flags.DEFINE_integer('decoder_channels', 0, 'features that an FCN fuses beside its class scores; 0: none', 0)
flags.DEFINE_float('input_scale', 1.0, 'factor by which an FCN resizes images for its backbone', 0.1, 10.0)
flags.DEFINE_string('data_dir', None, 'folder with the TFRecords, or with the originals; default data/DATASET')
flags.DEFINE_string('source_dir', None, 'folder with the originals, where it is not --data_dir')
flags.DEFINE_string('checkpoint', None, 'pretrained checkpoint, or "none"; default: the ImageNet weights, downloaded')
flags.DEFINE_list('checkpoint_exclude_scopes', [], 'scopes that are not restored from --checkpoint')
flags.DEFINE_string('init_from', None, 'run (or checkpoint of one) to start from: a coarser skip, or other settings')
flags.DEFINE_string('run_dir', None, 'folder of the run; default runs/DATASET-NET[-SKIP]')
flags.DEFINE_integer('seed', 0, 'makes a run repeatable', lower_bound=0)

# Training.
flags.DEFINE_integer('batch_size', 4, 'images a step', lower_bound=1)
flags.DEFINE_integer('gradient_accumulation', 1, 'parts in which a batch goes through the network, to save memory', 1)
flags.DEFINE_integer('max_steps', 4000, 'length of the run in steps', lower_bound=1)
flags.DEFINE_float('learning_rate', 1e-4, 'highest learning rate of the pretrained layers', lower_bound=0.0)
flags.DEFINE_float('new_layers_rate', 10.0, 'factor on the learning rate of the new layers', lower_bound=0.0)
flags.DEFINE_enum('schedule', 'poly', list(SCHEDULES), 'learning rate over the run')
flags.DEFINE_integer('warmup_steps', 0, 'steps over which the learning rate rises from zero', lower_bound=0)
flags.DEFINE_float('adam_epsilon', 1e-8, "Adam's epsilon", lower_bound=0.0)
flags.DEFINE_float('weight_decay', 4e-5, 'weight of the L2 loss', lower_bound=0.0)
flags.DEFINE_float('ema_decay', 0.0, 'decay of moving averages of the weights, which are then evaluated; 0: none', 0, 1)
flags.DEFINE_float('gradient_clip_norm', 10.0, 'greatest norm of all gradients together; 0: no limit', lower_bound=0.0)
flags.DEFINE_string('loss', 'cross_entropy', f'{", ".join(losses.LOSSES)}, or several with + between')
flags.DEFINE_enum('class_weights', 'none', ['none', *losses.CLASS_WEIGHTS], 'weights of the classes in the loss')
flags.DEFINE_float('dropout_keep_prob', None, "kept by dropout; default: the network's own value", 0.01, 1.0)
flags.DEFINE_bool('freeze_batch_norm', None,
                  'keep batch norm at its moving averages; default: yes with pretrained weights, no from scratch')
flags.DEFINE_bool('train_offsets', True, 'train the gains and offsets of batch norms, frozen or not')
flags.DEFINE_float('batch_norm_decay', 0.99, "decay of batch norm's moving averages", 0.0, 1.0)
flags.DEFINE_list('trainable_scopes', [], 'scopes to train, e.g. fcn for the new layers; * matches any; default: all')
define_flags()

# Augmentation.
flags.DEFINE_list('crop_size', ['319', '415'], 'H,W of the crops trained on; 32k + 31 wastes no pixel')
flags.DEFINE_list('scale_range', ['0.7', '1.6'], 'least,greatest random scale')
flags.DEFINE_bool('flip', True, 'mirror half of the images')
flags.DEFINE_float('color_jitter', 0.0, 'greatest change of brightness, contrast, saturation', 0.0, 1.0)
flags.DEFINE_float('cutout', 0.0, 'share of the crop that one rectangle covers', 0.0, 1.0)

# Bookkeeping: may change from one start of a run to the next.
BOOKKEEPING = ('data_dir', 'source_dir', 'max_steps', 'checkpoint', 'run_dir', 'eval_split', 'eval_steps', 'early_stop',
               'save_minutes', 'keep_checkpoints', 'log_steps', 'summary_steps', 'summarize_gradients', 'threads',
               'precision', 'gpu', 'gpu_memory_fraction')
flags.DEFINE_string('eval_split', 'val', 'split to evaluate during training')
flags.DEFINE_integer('eval_steps', 500, 'steps between evaluations, which keep the best checkpoint; 0: none', 0)
flags.DEFINE_integer('early_stop', 0, 'stop after so many evaluations without a better mean IoU; 0: never', 0)
flags.DEFINE_float('save_minutes', 5.0, 'minutes between checkpoints', lower_bound=0.0)
flags.DEFINE_integer('keep_checkpoints', 3, 'number of latest checkpoints kept', lower_bound=1)
flags.DEFINE_integer('log_steps', 20, 'steps between lines of the log', lower_bound=1)
flags.DEFINE_integer('summary_steps', 100, 'steps between summaries for TensorBoard', lower_bound=1)
flags.DEFINE_bool('summarize_gradients', False, 'histograms and norms of all weights and gradients in TensorBoard')
flags.DEFINE_integer('threads', 0, 'threads of one operation; 0: one a core', lower_bound=0)


def main(argv):
  if len(argv) > 1:
    raise UserError(f'unexpected argument {argv[1]!r}; all settings are flags, see --help')
  dataset, network = get_dataset(FLAGS.dataset), get_network(FLAGS.net)
  shape = shape_options(network)
  losses.loss_functions(FLAGS.loss)
  if FLAGS.batch_size % FLAGS.gradient_accumulation:
    raise UserError(f'--gradient_accumulation={FLAGS.gradient_accumulation} does not divide '
                    f'--batch_size={FLAGS.batch_size} into equal parts')
  run_dir = FLAGS.run_dir or '-'.join(filter(None, (f'runs/{dataset.name}', network.name, shape['skip'])))
  data_dir = FLAGS.data_dir or f'data/{dataset.name}'
  splits = ('train', FLAGS.eval_split) if FLAGS.eval_steps else ('train',)
  session_settings = session_config(FLAGS.precision, FLAGS.threads, gpu=FLAGS.gpu,
                                    gpu_memory_fraction=FLAGS.gpu_memory_fraction)
  with runs.locked(run_dir):
    settings = {name: FLAGS[name].value for name in own_flags()}
    settings |= {'dataset': os.path.normpath(FLAGS.dataset)}  # 'photos/' is 'photos'
    settings |= {**shape, 'freeze_batch_norm': freeze_batch_norm(network), 'data_dir': data_dir}
    config = runs.make_config(settings, dataset, network)
    runs.save_config(run_dir, config, may_differ=BOOKKEEPING)
    prepare.prepare(dataset, data_dir, source_dir=FLAGS.source_dir, splits=splits)
    tf.set_random_seed(FLAGS.seed)
    try:
      train(dataset, network, run_dir=run_dir, data_dir=data_dir, config=session_settings)
    except (tf.errors.DataLossError, tf.errors.InvalidArgumentError):
      for split in splits:  # a bad record is named with its file
        records.verify(records.shard_paths(data_dir, split), num_classes=dataset.num_classes)
      raise


def own_flags():
  """Names of the flags that this script defines."""
  return sorted(flag.name for flag in FLAGS.get_key_flags_for_module(FLAGS.find_module_defining_flag('skip')))


def shape_options(network):
  """The arguments of network.logits that shape the graph; `skip` is None for a network without skips."""
  skip = FLAGS.skip or network.default_skip
  if skip and skip not in network.skips:
    raise UserError(f'--skip={skip}: {network.name} has {", ".join(network.skips) or "no skips to choose"}')
  for name in ('decoder_channels', 'input_scale'):
    if name not in network.options and FLAGS[name].value != FLAGS[name].default:
      raise UserError(f'--{name}={FLAGS[name].value}: {network.name} has no such option')
  return {'skip': skip, **{name: FLAGS[name].value for name in network.options}}


def freeze_batch_norm(network):
  if FLAGS.freeze_batch_norm is not None:
    return FLAGS.freeze_batch_norm
  return network.pretrained_batch_norm and (FLAGS.checkpoint != 'none' or FLAGS.init_from is not None)


def pair(name, convert):
  """Parses a flag of two numbers."""
  try:
    first, second = map(convert, FLAGS[name].value)
  except ValueError as error:
    raise UserError(f'--{name}={",".join(FLAGS[name].value)}: two numbers are wanted, as '
                    f'{",".join(FLAGS[name].default)}') from error
  if first <= 0 or second <= 0:
    raise UserError(f'--{name}={first},{second}: both must be above 0')
  return first, second


def train(dataset, network, *, run_dir, data_dir, config):
  """Builds the graph and runs it to --max_steps; `config` is the session's."""
  resumed = runs.latest_checkpoint(run_dir)
  start_step = int(runs.read_tensors(resumed, ['global_step'])['global_step']) if resumed else 0
  if start_step >= FLAGS.max_steps:
    print(f'{run_dir} has reached step {start_step} already; a larger --max_steps goes on')
    return
  augmentation = pipeline.Augmentation(
      crop_size=pair('crop_size', int), scale_range=pair('scale_range', float), flip=FLAGS.flip,
      color_jitter=FLAGS.color_jitter, cutout=FLAGS.cutout)
  batches = tf.data.make_initializable_iterator(pipeline.training_batches(
      data_dir, 'train', batch_size=FLAGS.batch_size, augmentation=augmentation, seed=FLAGS.seed,
      start_step=start_step))
  tf.add_to_collection(tf.GraphKeys.TABLE_INITIALIZERS, batches.initializer)  # Scaffold runs these
  batch = batches.get_next()

  logits_fn = functools.partial(network.logits, num_classes=dataset.num_classes, **shape_options(network))
  rate = learning_rate(
      tf.train.get_or_create_global_step(), schedule=FLAGS.schedule, base=FLAGS.learning_rate,
      max_steps=FLAGS.max_steps, warmup_steps=FLAGS.warmup_steps)
  step = make_step(
      functools.partial(logits_fn, is_training=True, freeze_batch_norm=freeze_batch_norm(network),
                        batch_norm_decay=FLAGS.batch_norm_decay, weight_decay=FLAGS.weight_decay,
                        dropout_keep_prob=FLAGS.dropout_keep_prob),
      rate=rate, pretrained_scopes=network.pretrained_scopes, new_layers_rate=FLAGS.new_layers_rate,
      scopes=FLAGS.trainable_scopes, offsets=FLAGS.train_offsets, loss=FLAGS.loss,
      class_weights=class_weights(data_dir), gradient_accumulation=FLAGS.gradient_accumulation,
      clip_norm=FLAGS.gradient_clip_norm, adam_epsilon=FLAGS.adam_epsilon, ema_decay=FLAGS.ema_decay)
  outputs = step(batch)
  init_fn = None if resumed else start(network)
  if resumed:
    print(f'resumed at step {start_step} from {resumed}', flush=True)
  scaffold = tf.train.Scaffold(init_fn=init_fn, saver=tf.train.Saver(
      max_to_keep=FLAGS.keep_checkpoints, save_relative_paths=True))  # so that a run's folder can be moved
  with tf.train.MonitoredTrainingSession(
      checkpoint_dir=run_dir, scaffold=scaffold, config=config,
      hooks=make_hooks(outputs, batch, logits_fn, dataset=dataset, network=network, run_dir=run_dir,
                       data_dir=data_dir, scaffold=scaffold),
      save_checkpoint_secs=None, save_checkpoint_steps=None, save_summaries_steps=None, save_summaries_secs=None,
      log_step_count_steps=None) as session:
    while not session.should_stop():
      session.run(outputs.loss)
  print(f'the run is in {run_dir}; next: python evaluate.py --ckpt={run_dir}')


def class_weights(data_dir):
  if FLAGS.class_weights == 'none':
    return None
  stats = records.read_stats(data_dir, 'train')
  return losses.CLASS_WEIGHTS[FLAGS.class_weights](stats['class_pixels'], stats['class_image_pixels'])


def start(network):
  """Where a new run's weights come from; says so in a line. Returns Scaffold's init_fn, or None from scratch."""
  if FLAGS.init_from:
    coarser = runs.load_run(FLAGS.init_from)
    init_fn, names, new_names = warm_start.restore_from_run(coarser.checkpoint)
    print(warm_start.start_line(names, coarser.checkpoint) + f'; new: {", ".join(new_names) or "none"}', flush=True)
    return init_fn
  if FLAGS.checkpoint == 'none' or not (FLAGS.checkpoint or network.pretrained):
    print('started from scratch: all weights are random', flush=True)
    return None
  path = FLAGS.checkpoint or checkpoints.pretrained_checkpoint(network.pretrained)
  init_fn, names = warm_start.restore_pretrained(path, network.pretrained_scopes, FLAGS.checkpoint_exclude_scopes)
  print(warm_start.start_line(names, path), flush=True)
  return init_fn


def make_hooks(outputs, batch, logits_fn, *, dataset, network, run_dir, data_dir, scaffold):
  """The hooks, in the order in which they look at a step: a loss that is not finite stops it before it is saved."""
  writer = tf.summary.FileWriterCache.get(run_dir)
  log = hooks.LogHook(outputs, batch['name'], max_steps=FLAGS.max_steps, batch_size=FLAGS.batch_size,
                      every_steps=FLAGS.log_steps, writer=writer,
                      max_left_out=3 if FLAGS.precision == 'bfloat16' else 0)
  chain = [log, hooks.StopOnInterruptHook(),
           hooks.SaveHook(run_dir, save_secs=60 * FLAGS.save_minutes, scaffold=scaffold)]
  summary_ops = [summaries.training_summary(outputs, batch, dataset.palette)]
  if FLAGS.summarize_gradients:
    summary_ops.append(summaries.gradient_summary(outputs, network.pretrained_scopes))
  chain += [tf.train.SummarySaverHook(save_steps=FLAGS.summary_steps, summary_writer=writer, summary_op=op)
            for op in summary_ops]
  if FLAGS.eval_steps:
    getter = averaged(outputs.averages) if outputs.averages else None
    with tf.variable_scope(tf.get_variable_scope(), reuse=True, custom_getter=getter):
      chain.append(hooks.EvaluateHook(
          pipeline.evaluation_batches(data_dir, FLAGS.eval_split), functools.partial(logits_fn, is_training=False),
          dataset=dataset, split=FLAGS.eval_split, run_dir=run_dir, writer=writer, log_hook=log,
          num_images=records.read_stats(data_dir, FLAGS.eval_split)['num_examples'], every_steps=FLAGS.eval_steps,
          early_stop=FLAGS.early_stop))
  return chain


if __name__ == '__main__':
  errors.run(main)
