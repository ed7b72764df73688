"""The parts of benchmark_gpu.py that measure TensorFlow; each runs in a process of its own.

A part is a function of a Setup and a GpuSettings that yields rows (results.py). Rows have further entries by which
benchmark_gpu.py compares them: `task` ('product', 'train', 'inference', 'recipe'), `side` ('TensorFlow', 'PyTorch'),
`precision`, `batch`; `beside` holds figures of the same measurement.
"""

import contextlib
import dataclasses
import functools
import os

import numpy as np

from datasets import get_dataset, prepare, records
from nets import NETWORKS, get_network
from utils import runs
from utils.compat import tf
from utils.errors import UserError
from utils.evaluation.run import score_split
from utils.evaluation.settings import EvaluateSettings
from utils.files import ROOT
from utils.inference.predictor import Predictor, constant_network
from utils.rewritings import rewritings
from utils.session import chosen_precision, device_type, session_config
from utils.settings import Settings, flag, overwrite_flag, parse
from utils.studies import benchmark, conversion, step_profile
from utils.studies.benchmark import GIB, Setup, in_turn
from utils.studies.results import row
from utils.studies.scripts import seconds
from utils.training.settings import TrainSettings

# Arithmetic of the convolutions and products: 'float32' is float32 proper, 'tf32' what GPUs take for it by default
# (Ampere and later); the others by the graph rewriter, with variables in float32.
ARITHMETIC = ('float32', 'tf32', 'float16', 'bfloat16')
SIZES = ('sizes', 'sizes_suggested')  # the same, as TensorFlow does by default, and with cudnn.SUGGESTED
TENSORFLOW = ('product', 'train', 'xla', 'recipe', 'loop', 'recipe_loop', 'pipeline', 'inference', *SIZES, 'evaluation',
              'memory')
PYTORCH = ('pytorch', 'pytorch_compiled')
PICTURES = 32  # images made where no --data_dir is given
CHECKPOINT, DATA, ORIGINALS = 'model.ckpt-0', 'data', 'originals'  # in --work_dir


@dataclasses.dataclass(frozen=True)
class GpuSettings(Settings):
  """Flags of benchmark_gpu.py."""
  parts: tuple[str, ...] = flag(TENSORFLOW + PYTORCH, 'parts to measure, in this order', choices=TENSORFLOW + PYTORCH)
  device: str = flag('GPU', 'GPU: the first that is visible; CPU: to try the program', choices=('GPU', 'CPU'))
  data_dir: str | None = flag(None, 'folder with TFRecords; default: pictures of --height and --width', path=True)
  net: str = flag('inception_v3', f'network: {", ".join(NETWORKS)}')
  height: int = flag(360, 'height of crops and images in pixels', least=1)
  width: int = flag(480, 'width of crops and images in pixels', least=1)
  batch_sizes: tuple[int, ...] = flag((16, 4), 'images per training step', least=1)
  inference_batches: tuple[int, ...] = flag((1, 16), 'images per call of the network', least=1)
  precisions: tuple[str, ...] = flag(
      ('tf32', 'bfloat16', 'float16', 'float32'), 'arithmetic to measure', choices=ARITHMETIC)
  xla_precisions: tuple[str, ...] = flag(('float16', 'tf32'), 'arithmetic to measure with XLA', choices=ARITHMETIC)
  recipe: str = flag(os.path.join(ROOT, 'camvid.flags'), 'flags of train.py of the recipe', path=True)
  num_sizes: int = flag(6, 'sizes of images where sizes vary', least=1)
  product_size: int = flag(8192, 'rows and columns of the matrices whose product is the peak', least=1)
  steps: int = flag(20, 'timed steps', least=1)
  warmup_steps: int = flag(5, 'steps before the timed ones, after the first', least=0)
  part_seconds: float = flag(120.0, 'seconds after which a part is ended; the rows until then count', least=1)
  minutes: float = flag(9.0, 'minutes after which the program is to be at its end', least=0.1)
  pytorch_library_path: str | None = flag(
      None, "LD_LIBRARY_PATH of PyTorch's parts, if its CUDA libraries are others than TensorFlow's", path=True)
  output: str = flag('benchmark-gpu.json', 'JSON to write', path=True)
  resume: bool = flag(False, 'keep the parts that have ended in --output, measured with the same settings')
  overwrite: bool = overwrite_flag()


@dataclasses.dataclass(frozen=True)
class PartSettings(GpuSettings):
  """Flags of the process of a part."""
  part: str = flag(None, 'the part to measure', choices=TENSORFLOW + PYTORCH, required=True)
  work_dir: str = flag(None, 'folder that `make_work_dir` has filled', required=True, path=True)
  rows: str = flag(None, 'file to which rows are appended as they come, a line of JSON each', required=True, path=True)


def make_work_dir(folder, settings):
  """Writes an untrained run, and without --data_dir pictures and their TFRecords, for the parts; returns its config."""
  data_dir = settings.data_dir
  if not data_dir:
    originals, data_dir = os.path.join(folder, ORIGINALS), os.path.join(folder, DATA)
    conversion.write_originals(originals, (settings.height, settings.width, PICTURES, 'jpg', False))
    prepare.prepare(get_dataset(originals), data_dir)
  setup = make_setup(folder, settings)
  return runs.load_run(benchmark.save_run(folder, setup.dataset, setup.network)).config


def make_setup(folder, settings):
  """The benchmark.Setup of a folder from `make_work_dir`, for the first of the batch sizes."""
  data_dir = settings.data_dir or os.path.join(folder, DATA)
  dataset = get_dataset(records.read_stats(data_dir, 'train').get('dataset') if settings.data_dir
                        else os.path.join(folder, ORIGINALS))
  return Setup(dataset=dataset, network=get_network(settings.net), data_dir=data_dir,
               checkpoint=os.path.join(folder, CHECKPOINT), size=(settings.height, settings.width),
               batch_size=settings.batch_sizes[0], precisions=('float32',), steps=settings.steps,
               warmup_steps=settings.warmup_steps)


def each(cases):
  """Measures cases one after the other; a case that fails leaves the others.

  Args:
    cases: dict from name to a function of no arguments that yields rows.

  Yields:
    the rows of all cases.

  Raises:
    UserError: at the end, if a case failed; says which and why.
  """
  failures = {}
  for name, rows in cases.items():
    try:
      yield from rows()
    except Exception as error:  # noqa: BLE001, compilers and drivers fail in many ways, all of which leave the others
      reason = (str(error).strip() or type(error).__name__).splitlines()[0]
      failures.setdefault(reason, []).append(name)
  if failures:
    raise UserError('; '.join(f'{" and ".join(names)}: {reason}' for reason, names in failures.items()))


def session_precision(precision):
  """The precision of session.PRECISIONS for an entry of ARITHMETIC."""
  return 'float32' if precision == 'tf32' else precision


def config_of(precision, *, xla=False, clusters=False):
  """The tf.ConfigProto of a session.

  Args:
    precision: an entry of ARITHMETIC.
    xla: whether XLA compiles the step as train.py --xla=on has it.
    clusters: whether XLA compiles clusters of ops of its own choice instead.

  Raises:
    UserError: if the device has no such arithmetic.
  """
  config = session_config(session_precision(precision), xla=xla)
  if clusters:
    config.graph_options.optimizer_options.global_jit_level = tf.OptimizerOptions.ON_1
  switch_tf32(precision)
  return config


def switch_tf32(precision):
  """Switches TF32 on in the whole process, or off for 'float32'; the last call of session_config has changed it."""
  tf.config.experimental.enable_tensor_float_32_execution(precision != 'float32')


def available(precisions):
  """The entries of ARITHMETIC that this device has; prints a line for each other."""
  found = []
  for precision in precisions:
    try:
      config_of(precision)
      found.append(precision)
    except UserError as error:
      print(f'{precision} is left out: {error}', flush=True)
  return found


@contextlib.contextmanager
def peak_memory():
  """Yields a function that returns {'GiB': the peak of TensorFlow's memory on the GPU since}; {} where that is unknown.
  """

  def peak():
    return {'GiB': tf.config.experimental.get_memory_info('GPU:0')['peak'] / GIB}

  try:
    tf.config.experimental.reset_memory_stats('GPU:0')
  except Exception:  # noqa: BLE001, there is no GPU, or this version keeps no account
    peak = dict
  yield peak


def measure_product(setup, settings):
  """TFLOP/s of a square matrix product in every arithmetic."""

  def product(precision):
    with step_profile.square_product(session_precision(precision), settings.product_size) as function:
      switch_tf32(precision)
      times = in_turn({'': function}, steps=setup.steps, warmup_steps=1 + setup.warmup_steps)['']
    yield row('product', precision, 'TFLOP/s', 2 * settings.product_size**3 / np.array(times) / 1e12, task='product',
              side='TensorFlow', precision=precision)

  yield from each({precision: functools.partial(product, precision) for precision in settings.precisions})


def timed_step(setup, what, precision, *, xla=False, clusters=False, rewritten=None, task='train'):
  """Seconds of a bare training step.

  Args:
    setup: a benchmark.Setup.
    what: the part.
    precision: one of ARITHMETIC.
    xla: see config_of.
    clusters: see config_of.
    rewritten: a Rewritings other than that of the device, or None.
    task: see the top of this file.

  Yields:
    a row; beside it images/s, seconds of the first step (XLA's compilation, the search for cuDNN's algorithms), TFLOP/s
    of the convolutions and gradients, the peak of the memory.
  """
  case = f'{precision}, batch {setup.batch_size}{", XLA" if xla else ""}{", clusters of XLA" if clusters else ""}'
  case += ', the other rewritings' if rewritten else ''
  config = config_of(precision, xla=xla, clusters=clusters)
  with peak_memory() as peak, benchmark.bare_step(
      setup, session_precision(precision), config=config, rewritten=rewritten, xla=xla) as step:
    work = 2 * sum(count for _, count in step_profile.multiply_adds(step.loss).values())
    first = seconds(step)
    times = in_turn({'': step}, steps=setup.steps, warmup_steps=setup.warmup_steps)['']
    middle = float(np.median(times))
    yield row(what, case, 's', times, task=task, side='TensorFlow', precision=precision, batch=setup.batch_size,
              beside={'images/s': setup.batch_size / middle, 's the first': first,
                      'TFLOP/s': work / middle / 1e12, **peak()})


def measure_train(setup, settings):
  """Bare training steps in every arithmetic and batch size, and in the first with the other device's rewritings."""
  precisions, other = available(settings.precisions), 'CPU' if device_type() == 'GPU' else 'GPU'
  cases = {}
  for batch_size in settings.batch_sizes:
    sized = setup.resized(batch_size)
    for precision in precisions:
      cases[f'{precision}, batch {batch_size}'] = functools.partial(timed_step, sized, 'train', precision)
    cases[f'other rewritings, batch {batch_size}'] = functools.partial(
        timed_step, sized, 'train', precisions[0], rewritten=rewritings(other))
  yield from each(cases)


def measure_xla(setup, settings):
  """Bare training steps compiled as train.py --xla=on has them, and in the first arithmetic by clusters."""
  cases = {}
  for batch_size in settings.batch_sizes:
    for precision in available(settings.xla_precisions):
      cases[f'{precision}, batch {batch_size}'] = functools.partial(
          timed_step, setup.resized(batch_size), 'xla', precision, xla=True)
  precision = available(settings.xla_precisions)[0]
  cases[f'{precision}, clusters'] = functools.partial(timed_step, setup, 'xla', precision, clusters=True)
  yield from each(cases)


def recipe_of(setup, settings):
  """The Setup of the recipe, with the files of another Setup."""
  recipe = parse(TrainSettings, [f'--flagfile={settings.recipe}'])
  schedule, optimizer = recipe.schedule, recipe.optimizer
  return dataclasses.replace(
      setup, dataset=get_dataset(recipe.data.dataset), network=get_network(recipe.model.net),
      size=recipe.augmentation.crop_size, batch_size=schedule.batch_size, shape=recipe.shape,
      flags={'flagfile': settings.recipe}, options={
          'scopes': optimizer.trainable_scopes, 'loss': optimizer.loss, 'ema_decay': optimizer.ema_decay,
          'clip_norm': optimizer.gradient_clip_norm, 'new_layers_rate': schedule.new_layers_rate or 10.0})


def measure_recipe(setup, settings):
  """The bare step of the recipe, on batches of random pixels."""
  yield from each({precision: functools.partial(timed_step, recipe_of(setup, settings), 'recipe', precision,
                                                task='recipe') for precision in available(settings.precisions)})


def loops(setups):
  """Steps of train.py in the precision that is fastest on the device, beside the bare step, in turn.

  Args:
    setups: dict from name to Setup.
  """

  def loop(name, setup):
    for line in benchmark.measure_loop(dataclasses.replace(setup, precisions=(chosen_precision('auto'),))):
      yield {**line, 'case': f'{name}, {line["case"]}'}

  yield from each({name: functools.partial(loop, name, setup) for name, setup in setups.items()})


def measure_loop(setup, settings):
  """Steps of train.py for each batch size."""
  yield from loops({f'batch {size}': setup.resized(size) for size in settings.batch_sizes})


def measure_recipe_loop(setup, settings):
  """Steps of train.py with the flags of the recipe, on the dataset that is there."""
  yield from loops({'recipe': dataclasses.replace(recipe_of(setup, settings), dataset=setup.dataset)})


def measure_pipeline(setup, settings):
  """Images/s of train.py's input pipeline by itself; of a core, by the CPU time of all threads."""
  for batch_size in settings.batch_sizes:
    rates, cpu = benchmark.pipeline_rates(setup.resized(batch_size))
    yield row('pipeline', f'batch {batch_size}', 'images/s', np.multiply(rates, batch_size),
              beside={'images/s of a core': batch_size / float(np.median(cpu))})


def random_images(count, height, width):
  """uint8 [count, height, width, 3]."""
  return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), np.uint8)


@contextlib.contextmanager
def bare_network(run, images, config):
  """Yields a function that labels images that lie on the device, and leaves the labels there."""
  with tf.Graph().as_default():
    stored = tf.Variable(images, trainable=False)
    labels, _ = constant_network(run, stored.read_value())
    with tf.Session(config=config) as session:
      session.run(stored.initializer)
      yield functools.partial(session.run, labels.op)


def measure_inference(setup, settings):
  """Images/s of the bare network and of the Predictor at one size."""
  untrained = runs.load_run(setup.checkpoint)

  def predictors(precision):
    config = config_of(precision)
    for batch in settings.inference_batches:
      images = random_images(batch, *setup.size)
      with bare_network(untrained, images, config) as bare, opened(untrained, precision) as predictor:
        times = in_turn({'bare network': bare, 'from pixels to labels': functools.partial(predictor.labels, images)},
                        steps=setup.steps, warmup_steps=1 + setup.warmup_steps)
      for name, values in times.items():
        yield row('inference', f'{precision}, batch {batch}: {name}', 'images/s', np.divide(batch, values),
                  task='inference', side='TensorFlow', precision=precision, batch=batch, bare=name == 'bare network')

  yield from each({precision: functools.partial(predictors, precision) for precision in available(settings.precisions)})


def measure_sizes(part, setup, settings):
  """Images/s of the Predictor where every image has another size, the first time and again; `part` is one of SIZES.

  Before, a smaller image pays for the optimization of the graph and the loading of libraries.
  """
  precision = available(settings.precisions)[0]
  images = [random_images(1, setup.size[0] + 8 * number, setup.size[1] + 8 * (number * 3 % 7))
            for number in range(settings.num_sizes)]
  with opened(runs.load_run(setup.checkpoint), precision) as predictor:
    predictor.labels(random_images(1, *(max(1, length // 2) for length in setup.size)))
    for when in ('first', 'again'):
      times = [seconds(functools.partial(predictor.labels, image)) for image in images]
      yield row(part, f'{precision}, batch 1, {when}', 'images/s', np.divide(1, times), when=when)


def opened(run, precision):
  """A Predictor in an entry of ARITHMETIC."""
  predictor = Predictor(run, session_precision(precision))
  switch_tf32(precision)
  return predictor


def measure_evaluation(setup, settings):
  """Images/s of evaluate.py's loop over a split, the second time, beside the bare network's."""
  untrained, split = runs.load_run(setup.checkpoint), 'train'
  count = records.read_stats(setup.data_dir, split)['num_examples']
  options = EvaluateSettings(ckpt=setup.checkpoint, split=split)
  precision = available(settings.precisions)[0]
  with opened(untrained, precision) as predictor, bare_network(
      untrained, random_images(1, *setup.size), config_of(precision)) as bare:
    score = lambda: score_split(predictor, options, setup.data_dir, setup.dataset.classes, count)
    first, again = seconds(score), seconds(score)
    alone = np.median(in_turn({'': bare}, steps=setup.steps, warmup_steps=1 + setup.warmup_steps)[''])
  yield row('evaluation', f'{precision}: loop of evaluate.py', 'images/s', [count / again],
            beside={'images/s the first time': count / first, 'images/s of the bare network': 1 / float(alone)})


PARTS = {'product': measure_product, 'train': measure_train, 'xla': measure_xla, 'recipe': measure_recipe,
         'loop': measure_loop, 'recipe_loop': measure_recipe_loop, 'pipeline': measure_pipeline,
         'inference': measure_inference, **{part: functools.partial(measure_sizes, part) for part in SIZES},
         'evaluation': measure_evaluation}
