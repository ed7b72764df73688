"""Measures how fast conversion, training, its input pipeline and inference are, and how much memory they take.

    python -m utils.studies.benchmark --data_dir=data/camvid

prints a table and writes the same figures, with a description of the machine, to a JSON, each as soon as it is there: a
run that is stopped loses only the part that it was measuring, and --resume measures the rest. Machines are noisy, so a
figure is the median of many steps after a warm-up; and two variants run in turn within a measurement, so that their
ratio (the median of the ratios of neighbors) keeps its value on a machine that slows down meanwhile. Needs Linux.
"""

import contextlib
import dataclasses
import functools
import os
import sys
import tempfile
import time

import numpy as np

from datasets import DATASETS, get_dataset, pipeline, prepare, records
from datasets.augmentation import Augmentation
from nets import NETWORKS, get_network
from nets.network import Mode
from utils import runs
from utils.compat import tf
from utils.cpu import cpu_model, supports_bfloat16
from utils.errors import UserError, shown
from utils.exits import ended_by_sigterm
from utils.files import write_json
from utils.inference.predictor import Predictor
from utils.rewritings import rewritings
from utils.session import device_type, session_config
from utils.settings import Settings, command_line, flag, overwrite_flag, run, to_dict, walk
from utils.studies import conversion, results, scripts
from utils.studies.results import row
from utils.studies.scripts import seconds
from utils.training import compiled, hooks, warm_start
from utils.training.step import dropout_seed, make_step
from utils.workers import default_workers

CPU_PRECISIONS = ('float32', 'bfloat16')
INFERENCE_BATCHES = (1, 8)
BLOCK = 5  # steps of train.py between two lines of its log; batches of the pipeline that are timed as one
MIB, GIB = 2.0**20, 2.0**30


@dataclasses.dataclass(frozen=True)
class MeasureSettings(Settings):
  """Flags of all programs that measure; each has a subclass with flags and defaults of its own."""
  dataset: str | None = flag(
      None, f'dataset: {", ".join(DATASETS)}; default: that of --data_dir, else shapes', path=True)
  data_dir: str | None = flag(
      None, 'folder with the TFRecords; default data/DATASET, for shapes a temporary one', path=True)
  net: str = flag('inception_v3', f'network: {", ".join(NETWORKS)}')
  height: int = flag(360, 'height of crops and images in pixels', least=1)
  width: int = flag(480, 'width of crops and images in pixels', least=1)
  batch_size: int = flag(4, 'images per training step', least=1)
  precisions: tuple[str, ...] = flag(
      CPU_PRECISIONS, 'precisions to measure, where the CPU has them', choices=CPU_PRECISIONS)
  steps: int = flag(40, 'timed steps', least=1)
  warmup_steps: int = flag(5, 'steps before the timed ones', least=0)
  output: str = flag('benchmark.json', 'JSON to write', path=True)
  resume: bool = flag(False, 'keep the parts that have ended in --output, measured with the same settings')
  overwrite: bool = overwrite_flag()

  def check(self):
    """Raises UserError if a setting is not valid, a list is empty, or only bfloat16 is asked of a CPU without it."""
    super().check()
    for name, field, value in walk(self):
      if value == ():
        raise UserError(f'--{name}=: valid are {", ".join(field.metadata["choices"])}, one or several')
    if set(self.precisions) == {'bfloat16'} and not supports_bfloat16():
      raise UserError('--precisions=bfloat16: this CPU has no AVX512-BF16; use --precisions=float32')


@dataclasses.dataclass(frozen=True)
class Setup:
  """A dataset and a network with its default skip, ready to be measured, and the flags.

  Attributes:
    dataset: a Dataset.
    network: a Network.
    data_dir: folder with the dataset's records.
    checkpoint: prefix of an untrained run's checkpoint, see save_run.
    size: (height, width) of the crops trained on and of the labeled images.
    batch_size: images per training step.
    precisions: tuple of some of CPU_PRECISIONS.
    steps: number of timed steps.
    warmup_steps: number of steps before them.
    shape: dict of further keywords of the network's `logits`.
    options: dict of further keywords of training.step.make_step.
    flags: dict of flags of train.py that say the same as `shape` and `options`.
  """
  dataset: object
  network: object
  data_dir: str
  checkpoint: str
  size: tuple
  batch_size: int
  precisions: tuple
  steps: int
  warmup_steps: int
  shape: dict = dataclasses.field(default_factory=dict)
  options: dict = dataclasses.field(default_factory=dict)
  flags: dict = dataclasses.field(default_factory=dict)

  def resized(self, batch_size):
    """This Setup with another batch size."""
    return dataclasses.replace(self, batch_size=batch_size)


def in_turn(functions, *, steps, warmup_steps, pause=0.0, clock=time.perf_counter, sleep=time.sleep):
  """Times a dict of functions: after `warmup_steps` calls of each, one call of each in turn, `steps` times over.

  Args:
    functions: dict from name to function of no arguments.
    steps: calls of each that are timed.
    warmup_steps: calls of each before them.
    pause: seconds before each timed call, in which spinning threads of the previous call fall asleep.
    clock: function that returns seconds.
    sleep: function that waits for some seconds.

  Returns:
    dict from name to list of seconds per call.
  """
  for function in functions.values():
    for _ in range(warmup_steps):
      function()
  times = {name: [] for name in functions}
  for _ in range(steps):
    for name, function in functions.items():
      sleep(pause)
      times[name].append(seconds(function, clock))
  return times


def save_run(folder, dataset, network):
  """Writes a run with random weights, for warm starts and inference; returns its checkpoint's prefix."""
  with tf.Graph().as_default(), tf.Session(config=session_config(gpu='none')) as session:
    network.logits(tf.zeros([1, 75, 75, 3]), dataset.num_classes)
    tf.train.get_or_create_global_step()
    session.run(tf.global_variables_initializer())
    write_json(os.path.join(folder, runs.CONFIG), runs.make_config({'skip': network.default_skip}, dataset, network))
    return tf.train.Saver(hooks.model_variables_and_step()).save(
        session, os.path.join(folder, 'model.ckpt'), global_step=0, write_meta_graph=False)


@contextlib.contextmanager
def bare_step(setup, precision, *, config=None, rewritten=None, xla=False):
  """Yields a function that runs one training step of the graph, with train.py's defaults, on a constant batch.

  The function is a functools.partial of the session's `run` and takes its arguments; its attribute `loss` is the loss
  in the graph as it was before XLA took it.

  Args:
    setup: a Setup.
    precision: one of session.PRECISIONS.
    config: the session's tf.ConfigProto; None for that of the precision.
    rewritten: a rewritings.Rewritings; None for that of the device.
    xla: whether XLA compiles the step; `config` must be for that, see session_config.
  """
  rng, network = np.random.default_rng(0), setup.network
  pixels = (setup.batch_size, *setup.size)
  with tf.Graph().as_default():

    def stored(value):  # a Const batch would be constant-folded through the first layers
      return tf.Variable(value, collections=[tf.GraphKeys.LOCAL_VARIABLES], trainable=False).read_value()

    batch = {'image': stored(rng.uniform(0, 255, (*pixels, 3)).astype(np.float32)),
             'label': stored(rng.integers(0, setup.dataset.num_classes, pixels, np.int32))}
    rewritten = rewritten or rewritings(device_type())
    mode = Mode(is_training=True, dropout_seed=dropout_seed(0), freeze_batch_norm=network.pretrained_batch_norm,
                fold_batch_norm=rewritten.fold_batch_norm)
    step = make_step(
        functools.partial(network.logits, num_classes=setup.dataset.num_classes, mode=mode, **setup.shape),
        rate=tf.constant(1e-4), pretrained_scopes=network.pretrained_scopes, products=rewritten.products,
        scaled=precision == 'float16', **{'new_layers_rate': 10.0, 'clip_norm': 10.0, **setup.options})
    loss = step(batch).loss
    fetch = compiled.compiled(loss) if xla else loss
    with tf.Session(config=config or session_config(precision, tf32=True, once=True)) as session:
      session.run([tf.global_variables_initializer(), tf.local_variables_initializer()])
      if network.pretrained:
        init_fn, _ = warm_start.restore_pretrained(setup.checkpoint, network.pretrained_scopes)
        init_fn(None, session)
      one_step = functools.partial(session.run, fetch)
      one_step.loss = loss
      yield one_step


def measure_train(setup):
  """Seconds of a bare training step in every precision, in turn."""
  with contextlib.ExitStack() as stack:
    steps = {precision: stack.enter_context(bare_step(setup, precision)) for precision in setup.precisions}
    times = in_turn(steps, steps=setup.steps, warmup_steps=setup.warmup_steps)
  first, *others = setup.precisions
  return ([row('train', f'{precision}: bare step', 's', times[precision]) for precision in setup.precisions]
          + [row('train', f'{other} / {first}', 'ratio', np.divide(times[other], times[first])) for other in others])


def script_command(script, **options):
  """The command that runs one of the project's scripts with flags."""
  return scripts.command(script, [f'--{name}={value}' for name, value in options.items()])


def train_command(setup, precision, run_dir, **options):
  """The command that trains as users do; `options` are flags of train.py beside those that the setup fixes."""
  return script_command('train.py', **{
      **setup.flags,
      'dataset': getattr(setup.dataset, 'root', setup.dataset.name),  # an OwnDataset is given by its folder
      'net': setup.network.name, 'data_dir': setup.data_dir, 'run_dir': run_dir,
      'checkpoint': setup.checkpoint if setup.network.pretrained else 'none', 'batch_size': setup.batch_size,
      'crop_size': '{},{}'.format(*setup.size), 'precision': precision, **options})


def measure_loop(setup):
  """Seconds of a step in train.py, without evaluations, and of the bare step, in turn."""
  block = min(BLOCK, setup.steps)
  for precision in setup.precisions:
    with tempfile.TemporaryDirectory() as run_dir, bare_step(setup, precision) as step:
      in_turn({'bare': step}, steps=0, warmup_steps=1 + setup.warmup_steps)
      loop, bare = scripts.against(
          train_command(setup, precision, run_dir, max_steps=10**6, log_steps=block, eval_steps=0), step, block=block,
          blocks=setup.steps // block, warmup_blocks=-(-setup.warmup_steps // block))
    yield row('loop', f'{precision}: step of train.py', 's', loop)
    yield row('loop', f'{precision}: bare step', 's', bare)
    yield row('loop', f'{precision}: train.py / bare', 'ratio', np.divide(loop, bare))


def pipeline_rates(setup):
  """Batches/s of train.py's input pipeline by itself, and the CPU time that training loses to a batch: two lists."""
  augmentation = Augmentation(crop_size=setup.size, scale_range=(0.7, 1.6), flip=True)
  rates, cpu_seconds = [], []
  with tf.Graph().as_default(), tf.Session(config=session_config()) as session:
    iterator = tf.data.make_initializable_iterator(pipeline.training_batches(
        setup.data_dir, 'train', batch_size=setup.batch_size, augmentation=augmentation, seed=0))
    make_batch = tf.group(*iterator.get_next().values())  # not fetched: copying it to Python is no part of training
    session.run(iterator.initializer)
    for number in range(1 + setup.warmup_steps + setup.steps):
      cpu = time.process_time()
      wall = seconds(lambda: [session.run(make_batch) for _ in range(BLOCK)])
      if number > setup.warmup_steps:
        rates.append(BLOCK / wall)
        cpu_seconds.append((time.process_time() - cpu) / BLOCK)
  return rates, cpu_seconds


def measure_pipeline(setup):
  """Batches/s and CPU time of the input pipeline."""
  rates, cpu_seconds = pipeline_rates(setup)
  return [row('pipeline', 'alone', 'batches/s', rates), row('pipeline', 'CPU time, all cores', 's/batch', cpu_seconds)]


def measure_inference(setup):
  """Images/s from pixels to labels."""
  rng = np.random.default_rng(0)
  untrained = runs.load_run(setup.checkpoint)
  for precision in setup.precisions:
    with Predictor(untrained, precision) as predictor:
      for batch_size in INFERENCE_BATCHES:
        images = rng.integers(0, 256, (batch_size, *setup.size, 3), np.uint8)
        times = in_turn({'labels': functools.partial(predictor.labels, images)}, steps=setup.steps,
                        warmup_steps=setup.warmup_steps)
        yield row('inference', f'{precision}, batch {batch_size}', 'images/s', np.divide(batch_size, times['labels']))


def measure_memory(setup):
  """Resident memory of train.py, with a checkpoint and an evaluation at its end, and of evaluate.py over val."""
  for precision in setup.precisions:
    with tempfile.TemporaryDirectory() as run_dir:
      peak, _ = scripts.watched(train_command(setup, precision, run_dir, max_steps=setup.warmup_steps + setup.steps))
    yield row('memory', f'{precision}: train.py, peak', 'GiB', [peak / GIB])
    peak, samples = scripts.watched(script_command(
        'evaluate.py', ckpt=setup.checkpoint, split='val', data_dir=setup.data_dir, precision=precision))
    growth = scripts.growth([size / MIB for _, size in samples])
    thinned = [(round(when, 2), round(size / GIB, 4)) for when, size in samples[::max(1, len(samples) // 100)]]
    yield row('memory', f'{precision}: evaluate.py, peak', 'GiB', [peak / GIB])
    yield row('memory', f'{precision}: evaluate.py, growth', 'MiB', [growth], seconds_and_gib=thinned)


def measure_convert(setup):
  """Images/s from original files to records in one process, and by its CPU time, which others' work disturbs less."""
  with tempfile.TemporaryDirectory() as folder:
    times = in_turn(conversion.conversions(folder), steps=setup.steps, warmup_steps=min(1, setup.warmup_steps),
                    clock=lambda: np.array([time.perf_counter(), time.process_time()]))
  return [row('convert', name, unit, np.divide(conversion.CASES[name][2], values)) for name in times
          for unit, values in zip(('images/s', 'images/CPU s'), zip(*times[name]))]


PARTS = {'convert': measure_convert, 'train': measure_train, 'loop': measure_loop, 'pipeline': measure_pipeline,
         'inference': measure_inference, 'memory': measure_memory}


@dataclasses.dataclass(frozen=True)
class BenchmarkSettings(MeasureSettings):
  """Flags of this program."""
  what: tuple[str, ...] = flag(tuple(PARTS), 'parts to measure, in this order', choices=PARTS)


def available(precisions):
  """Tuple of the precisions that this CPU has, each once; prints a line if bfloat16 is skipped."""
  precisions = tuple(dict.fromkeys(precisions))
  if supports_bfloat16() or 'bfloat16' not in precisions:
    return precisions
  print('bfloat16 is skipped: this CPU has no AVX512-BF16', flush=True)
  return tuple(precision for precision in precisions if precision != 'bfloat16')


def make_setup(settings, folder, precisions, *, data=True):
  """The Setup of a MeasureSettings; new files go to `folder`. Without `data`, no records are made."""
  name = settings.dataset or (
      records.read_stats(settings.data_dir, 'train').get('dataset') if settings.data_dir else 'shapes')
  dataset, network = get_dataset(name), get_network(settings.net)
  data_dir = settings.data_dir or (os.path.join(folder, 'data') if dataset.generate else f'data/{name}')
  if data:
    prepare.prepare(dataset, data_dir)
  return Setup(dataset=dataset, network=network, data_dir=data_dir, checkpoint=save_run(folder, dataset, network),
               size=(settings.height, settings.width), batch_size=settings.batch_size, precisions=precisions,
               steps=settings.steps, warmup_steps=settings.warmup_steps)


def machine():
  """The machine: a dict for the JSON."""
  return {'cpu': cpu_model() or 'unknown', 'cores': default_workers(), 'bfloat16': supports_bfloat16(),
          'memory_gib': round(os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / GIB, 1),
          'gpus': [gpu.name for gpu in tf.config.list_physical_devices('GPU')]}


def about(setup, settings, module):
  """The machine, the code and the settings that figures depend on: a dict for the JSON. `module` is the program's."""
  config = runs.make_config({'skip': setup.network.default_skip}, setup.dataset, setup.network)
  return {
      'command': f'python -m {module} {command_line(settings)}'.rstrip(),
      'machine': machine(),
      **{name: config[name] for name in ('versions', 'commit', 'network')},
      **{name: getattr(setup, name) for name in ('size', 'batch_size', 'steps', 'warmup_steps')},
      'dataset': setup.dataset.name,
      'flags': {name: value for name, value in to_dict(settings).items() if name not in results.FREE},
  }


@contextlib.contextmanager
def prepared(settings, module, *, data=True):
  """Makes a Setup, and the dict for the JSON.

  Args:
    settings: a MeasureSettings.
    module: the program, as `python -m` calls it.
    data: whether the dataset's records are needed, or only its number of classes.

  Yields:
    `(setup, result)`: a Setup, and the dict for the JSON, see results.begin.

  Raises:
    UserError: if this is not Linux, the JSON cannot be written or taken up, or there is no such dataset or network.
  """
  if not sys.platform.startswith('linux'):
    raise UserError(f'this reads /proc, which only Linux has; here is {sys.platform}')
  precisions = available(settings.precisions)
  load = os.getloadavg()[0]  # processes at work during the last minute
  if load > 0.5:
    print(f'something else is running here (load average {load:.1f}): rely on the ratios alone', flush=True)
  with ended_by_sigterm(), tempfile.TemporaryDirectory(prefix='benchmark-') as folder:
    setup = make_setup(settings, folder, precisions, data=data)
    yield setup, results.begin(settings.output, {**about(setup, settings, module), 'load_average_before': load},
                               resume=settings.resume, overwrite=settings.overwrite)


def measure(settings, module, parts, *, data=True):
  """Measures the parts that --what lists.

  Args:
    settings: a MeasureSettings with `what`.
    module: see `prepared`.
    parts: dict from name to a function of a Setup that returns rows, or yields them as they are measured.
    data: see `prepared`.
  """
  with prepared(settings, module, data=data) as (setup, result):
    for name in results.missing(settings.output, result, settings.what):
      results.add(settings.output, result, name, parts[name](setup))
  print(f'{results.table(result["results"])}\nwritten to {shown(settings.output)}')


def work(settings):
  """Measures this machine; `settings` is a BenchmarkSettings."""
  measure(settings, 'utils.studies.benchmark', PARTS)


def main(argv=None):
  """Measures; `argv` is the command line without the program's name, None for the process's own."""
  return run(work, BenchmarkSettings, argv, text=__doc__)


if __name__ == '__main__':
  sys.exit(main())
