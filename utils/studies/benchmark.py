"""Measures how fast training, its input pipeline and inference are, and how much memory they take.

    python -m utils.studies.benchmark --data_dir=data/camvid

prints a table and writes the same figures, with the machine, to a JSON. Machines are noisy, so a figure is the median
of many steps after a warm-up; and what is compared is run in turn within one measurement, so that the ratio (the median
of the ratios of neighbours) keeps its value on a machine that slows down meanwhile. Needs Linux.
"""

import contextlib
import dataclasses
import functools
import os
import signal
import subprocess
import sys
import tempfile
import time

import numpy as np
from absl import flags

from datasets import DATASETS, get_dataset, pipeline, prepare, records
from nets import NETWORKS, get_network
from utils import errors, runs
from utils.compat import tf
from utils.cpu import cpu_model, supports_bfloat16
from utils.errors import UserError
from utils.files import ROOT, make_folder, write_json
from utils.inference.predictor import Predictor
from utils.session import PRECISIONS, session_config
from utils.training import hooks, warm_start
from utils.training.step import make_step
from utils.workers import default_workers

INFERENCE_BATCHES = (1, 8)
BLOCK = 5  # steps of train.py between two lines of its log; batches of the pipeline that are timed as one
SAMPLE_SECONDS = 0.25  # between two looks at a process's memory
MIB, GIB = 2.0**20, 2.0**30


@dataclasses.dataclass(frozen=True)
class Setup:
  """What is measured: a dataset, a network with its default skip, and the flags.

  Attributes:
    checkpoint: prefix of an untrained run's checkpoint, see save_run.
    size: (height, width) of the crops trained on and of the images labelled.
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


def row(what, case, unit, values, **more):
  """Returns one line of the results: a dict with the median, quartiles, mean and count of `values`."""
  low, middle, high = np.percentile(values, [25, 50, 75]).tolist()
  return {'what': what, 'case': case, 'unit': unit, 'median': middle, 'quartiles': [low, high],
          'mean': float(np.mean(values)), 'count': len(values), **more}


def table(rows):
  """Formats lines of results for people."""
  cells = [('what', 'case', 'median', 'quartiles', 'unit', 'count')]
  cells += [(line['what'], line['case'], f'{line["median"]:.4g}', '{:.4g} .. {:.4g}'.format(*line['quartiles']),
             line['unit'], str(line['count'])) for line in rows]
  widths = [max(map(len, column)) for column in zip(*cells)]
  return '\n'.join('  '.join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in cells)


def seconds(function):
  """Wall-clock seconds that a call of `function()` takes."""
  start = time.perf_counter()
  function()
  return time.perf_counter() - start


def in_turn(functions, *, steps, warmup_steps, pause=0.0):
  """Times a dict of functions: after `warmup_steps` calls of each, one call of each in turn, `steps` times over.

  Args:
    functions: dict from name to function of no arguments.
    steps: calls of each that are timed.
    warmup_steps: calls of each before them.
    pause: seconds before each timed call, in which threads that the call before has left waiting can fall asleep.

  Returns:
    dict from name to list of seconds a call.
  """
  for function in functions.values():
    for _ in range(warmup_steps):
      function()
  times = {name: [] for name in functions}
  for _ in range(steps):
    for name, function in functions.items():
      time.sleep(pause)
      times[name].append(seconds(function))
  return times


def save_run(folder, dataset, network):
  """Writes an untrained run with random weights, to warm-start from and to use; returns its checkpoint's prefix."""
  with tf.Graph().as_default(), tf.Session(config=session_config()) as session:
    network.logits(tf.zeros([1, 75, 75, 3]), dataset.num_classes, False, skip=network.default_skip)
    tf.train.get_or_create_global_step()
    session.run(tf.global_variables_initializer())
    write_json(os.path.join(folder, runs.CONFIG), runs.make_config({'skip': network.default_skip}, dataset, network))
    return tf.train.Saver(hooks.model_variables_and_step()).save(
        session, os.path.join(folder, 'model.ckpt'), global_step=0, write_meta_graph=False)


@contextlib.contextmanager
def bare_step(setup, precision):
  """Yields a function that runs one training step of the graph, with train.py's defaults, on a constant batch.

  It is a functools.partial of the session's `run` and the loss, and takes what `run` takes.
  """
  rng, network = np.random.default_rng(0), setup.network
  pixels = (setup.batch_size, *setup.size)
  with tf.Graph().as_default():

    def stored(value):  # TensorFlow would take a constant part of the way through the network ahead of all steps
      return tf.Variable(value, collections=[tf.GraphKeys.LOCAL_VARIABLES], trainable=False).read_value()

    batch = {'image': stored(rng.uniform(0, 255, (*pixels, 3)).astype(np.float32)),
             'label': stored(rng.integers(0, setup.dataset.num_classes, pixels, np.int32))}
    step = make_step(
        functools.partial(network.logits, num_classes=setup.dataset.num_classes, skip=network.default_skip,
                          is_training=True, freeze_batch_norm=network.pretrained_batch_norm),
        rate=tf.constant(1e-4), pretrained_scopes=network.pretrained_scopes, new_layers_rate=10.0, clip_norm=10.0)
    loss = step(batch).loss
    with tf.Session(config=session_config(precision)) as session:
      session.run([tf.global_variables_initializer(), tf.local_variables_initializer()])
      if network.pretrained:
        init_fn, _ = warm_start.restore_pretrained(setup.checkpoint, network.pretrained_scopes)
        init_fn(None, session)
      yield functools.partial(session.run, loss)


def measure_train(setup):
  """Seconds of a bare training step in every precision, in turn."""
  with contextlib.ExitStack() as stack:
    steps = {precision: stack.enter_context(bare_step(setup, precision)) for precision in setup.precisions}
    times = in_turn(steps, steps=setup.steps, warmup_steps=setup.warmup_steps)
  first, *others = setup.precisions
  return ([row('train', f'{precision}: bare step', 's', times[precision]) for precision in setup.precisions]
          + [row('train', f'{other} / {first}', 'ratio', np.divide(times[other], times[first])) for other in others])


def script_command(script, options):
  return [sys.executable, os.path.join(ROOT, script), *(f'--{name}={value}' for name, value in options.items())]


def train_command(setup, precision, run_dir, **options):
  """The command that trains as users do; `options` are flags of train.py beside those that the setup fixes."""
  return script_command('train.py', {
      'dataset': setup.dataset.name, 'net': setup.network.name, 'data_dir': setup.data_dir, 'run_dir': run_dir,
      'checkpoint': setup.checkpoint if setup.network.pretrained else 'none', 'batch_size': setup.batch_size,
      'crop_size': '{},{}'.format(*setup.size), 'precision': precision, **options})


def measure_loop(setup):
  """Seconds of a step in train.py and of the bare step, in turn; evaluating is no part of a step and is left out."""
  rows = []
  block = min(BLOCK, setup.steps)
  for precision in setup.precisions:
    with tempfile.TemporaryDirectory() as run_dir, bare_step(setup, precision) as step:
      in_turn({'bare': step}, steps=0, warmup_steps=setup.warmup_steps)
      loop, bare = against_script(
          train_command(setup, precision, run_dir, max_steps=10**6, log_steps=block, eval_steps=0), step, block=block,
          blocks=setup.steps // block, warmup_blocks=-(-setup.warmup_steps // block))
    rows += [row('loop', f'{precision}: step of train.py', 's', loop),
             row('loop', f'{precision}: bare step', 's', bare),
             row('loop', f'{precision}: train.py / bare', 'ratio', np.divide(loop, bare))]
  return rows


def against_script(command, step, *, block, blocks, warmup_blocks):
  """Times a training script and a function in turn, a block of steps of each.

  The script stands still with all its threads while the function runs, so that its pipeline cannot work ahead then.

  Args:
    command: of the script, which prints a line 'step N...' after every `block` steps; it is killed at the end.
    step: function of no arguments that runs a step.
    block: number of steps.
    blocks: number of blocks of each that are timed, after `warmup_blocks` of the script.

  Returns:
    two lists of seconds a step, one number a block: the script's and the function's.

  Raises:
    UserError: if the script ends; says its last line.
  """
  loop, bare = [], []
  with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as script:
    try:
      for _ in range(1 + warmup_blocks):  # the first one has the start in it
        _await_step(script)
      for _ in range(blocks):
        script.send_signal(signal.SIGSTOP)
        bare.append(seconds(lambda: [step() for _ in range(block)]) / block)
        script.send_signal(signal.SIGCONT)
        loop.append(seconds(lambda: _await_step(script)) / block)
    finally:
      script.kill()
  return loop, bare


def _await_step(script):
  """Reads a script's output up to the next line of a step."""
  last = 'it printed nothing'
  for line in script.stdout:
    if line.startswith('step '):
      return
    last = line.strip() or last
  raise UserError(f'{" ".join(script.args)} ended too early: {last}')


def measure_pipeline(setup):
  """Batches/s of train.py's input pipeline by itself, and the CPU time that training loses to a batch."""
  augmentation = pipeline.Augmentation(crop_size=setup.size, scale_range=(0.7, 1.6), flip=True)
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
  return [row('pipeline', 'alone', 'batches/s', rates), row('pipeline', 'CPU time, all cores', 's/batch', cpu_seconds)]


def measure_inference(setup):
  """Images/s from pixels to labels."""
  rng, rows = np.random.default_rng(0), []
  run = runs.load_run(setup.checkpoint)
  for precision in setup.precisions:
    with Predictor(run, precision) as predictor:
      for batch_size in INFERENCE_BATCHES:
        images = rng.integers(0, 256, (batch_size, *setup.size, 3), np.uint8)
        times = in_turn({'labels': functools.partial(predictor.labels, images)}, steps=setup.steps,
                        warmup_steps=setup.warmup_steps)
        rows.append(row('inference', f'{precision}, batch {batch_size}', 'images/s',
                        np.divide(batch_size, times['labels'])))
  return rows


def measure_memory(setup):
  """Resident memory of train.py, with a checkpoint and an evaluation at its end, and of evaluate.py over val."""
  rows = []
  for precision in setup.precisions:
    with tempfile.TemporaryDirectory() as run_dir:
      peak, _ = resident_memory(train_command(setup, precision, run_dir, max_steps=setup.warmup_steps + setup.steps))
    rows.append(row('memory', f'{precision}: train.py, peak', 'GiB', [peak / GIB]))
    peak, samples = resident_memory(script_command('evaluate.py', {
        'ckpt': setup.checkpoint, 'split': 'val', 'data_dir': setup.data_dir, 'precision': precision}))
    sizes = [size / MIB for _, size in samples]
    thinned = [(round(when, 2), round(size / GIB, 4)) for when, size in samples[::max(1, len(samples) // 100)]]
    rows += [row('memory', f'{precision}: evaluate.py, peak', 'GiB', [peak / GIB]),
             row('memory', f'{precision}: evaluate.py, growth', 'MiB', [growth(sizes)], seconds_and_gib=thinned)]
  return rows


def resident_memory(command):
  """Runs a command and watches its resident memory.

  Returns:
    the peak in bytes, as the system keeps it (VmHWM), and a list of (seconds since the start, bytes) from when the
    command prints something: the scripts do so when they are past building their graph.

  Raises:
    UserError: if the command fails; says its last line.
  """
  peak, samples, start = 0, [], time.perf_counter()
  with (tempfile.TemporaryFile('w+') as output,
        subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT) as process):
    try:
      while process.poll() is None:
        with open(f'/proc/{process.pid}/status', encoding='utf-8') as file:
          status = dict(line.split(':', 1) for line in file)
        if 'VmHWM' in status:  # not so when it has just ended
          now, peak = (1024 * int(status[name].split()[0]) for name in ('VmRSS', 'VmHWM'))
          if os.fstat(output.fileno()).st_size:
            samples.append((time.perf_counter() - start, now))
        time.sleep(SAMPLE_SECONDS)
    finally:
      process.kill()
    if process.returncode:
      output.seek(0)
      last = (output.read().strip() or 'it printed nothing').splitlines()[-1]
      raise UserError(f'{" ".join(command)} failed: {last}')
  return peak, samples


def growth(sizes):
  """By how much the median of the last quarter of `sizes` is above that of the second quarter; 0 for less than 4."""
  quarter = len(sizes) // 4
  return float(np.median(sizes[-quarter:]) - np.median(sizes[quarter:2 * quarter])) if quarter else 0.0


PARTS = {'train': measure_train, 'loop': measure_loop, 'pipeline': measure_pipeline, 'inference': measure_inference,
         'memory': measure_memory}


def chosen(flag, values, known):
  """The values of a flag without repeats. Raises UserError if one is none of `known`, or there are none."""
  if not values or not set(values) <= set(known):
    raise UserError(f'--{flag}={",".join(values)}: valid are {", ".join(known)}, one or several')
  return tuple(dict.fromkeys(values))


def available(precisions):
  """Those of the precisions that this CPU has; says so where it has not all."""
  if supports_bfloat16() or 'bfloat16' not in precisions:
    return precisions
  if precisions == ('bfloat16',):
    raise UserError('--precisions=bfloat16: this CPU has no AVX512-BF16; use --precisions=float32')
  print('bfloat16 is left out: this CPU has no AVX512-BF16', flush=True)
  return tuple(precision for precision in precisions if precision != 'bfloat16')


def make_setup(args, folder, precisions, *, data=True):
  """The Setup that the flags describe; what has to be made for it goes to `folder`. No records without `data`."""
  name = args.dataset or (records.read_stats(args.data_dir, 'train').get('dataset') if args.data_dir else 'shapes')
  dataset, network = get_dataset(name), get_network(args.net)
  data_dir = args.data_dir or (os.path.join(folder, 'data') if dataset.generate else f'data/{name}')
  if data:
    prepare.prepare(dataset, data_dir)
  return Setup(dataset=dataset, network=network, data_dir=data_dir, checkpoint=save_run(folder, dataset, network),
               size=(args.height, args.width), batch_size=args.batch_size, precisions=precisions,
               steps=args.steps, warmup_steps=args.warmup_steps)


def about(setup, module):
  """What figures depend on: the machine, the code and the settings; a dict for the JSON. `module` was run."""
  config = runs.make_config({'skip': setup.network.default_skip}, setup.dataset, setup.network)
  return {
      'command': ' '.join([f'python -m {module}', *sys.argv[1:]]),
      'machine': {
          'cpu': cpu_model() or 'unknown', 'cores': default_workers(), 'bfloat16': supports_bfloat16(),
          'memory_gib': round(os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / GIB, 1),
          'gpus': [gpu.name for gpu in tf.config.list_physical_devices('GPU')],
      },
      **{name: config[name] for name in ('versions', 'commit', 'network')},
      **{name: getattr(setup, name) for name in ('size', 'batch_size', 'steps', 'warmup_steps')},
      'dataset': setup.dataset.name,
  }


def define_flags(parts=tuple(PARTS), *, steps=40, output='benchmark.json'):
  """Defines the flags of a script that measures; those that mean the same are the same in all of them.

  Args:
    parts: names of what it measures, the default of --what; no such flag if there are none.
    steps: default of --steps.
    output: default of --output.
  """
  if parts:
    flags.DEFINE_list('what', list(parts), 'what to measure, in this order')
  flags.DEFINE_string('dataset', None, f'dataset: {", ".join(DATASETS)}; default: that of --data_dir, else shapes')
  flags.DEFINE_string('data_dir', None, 'folder with the TFRecords; default data/DATASET, for shapes a temporary one')
  flags.DEFINE_string('net', 'inception_v3', f'network: {", ".join(NETWORKS)}')
  flags.DEFINE_integer('height', 360, 'of crops and images, in pixels', lower_bound=1)
  flags.DEFINE_integer('width', 480, 'of crops and images, in pixels', lower_bound=1)
  flags.DEFINE_integer('batch_size', 4, 'images a training step', lower_bound=1)
  flags.DEFINE_list('precisions', list(PRECISIONS), 'precisions to measure, where the CPU has them')
  flags.DEFINE_integer('steps', steps, 'steps that are timed', lower_bound=1)
  flags.DEFINE_integer('warmup_steps', 5, 'steps before them', lower_bound=0)
  flags.DEFINE_string('output', output, 'JSON to write')


@contextlib.contextmanager
def prepared(argv, module, *, data=True):
  """Checks the flags and makes what is to be measured.

  Args:
    argv: what the script was called with.
    module: the script, as `python -m` calls it.
    data: whether the dataset's records are needed, or only its number of classes.

  Yields:
    `(setup, result)`: a Setup, and the dict that the JSON is to hold, with an empty list of `results`.
  """
  args = flags.FLAGS
  if len(argv) > 1:
    raise UserError(f'unexpected argument {argv[1]!r}; all settings are flags, see --help')
  if not sys.platform.startswith('linux'):
    raise UserError(f'this reads /proc, which only Linux has; here is {sys.platform}')
  signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # leaves no stopped train.py and no temporary files behind
  precisions = available(chosen('precisions', args.precisions, PRECISIONS))
  make_folder(os.path.dirname(os.path.abspath(args.output)))
  load = os.getloadavg()[0]  # processes at work during the last minute
  if load > 0.5:
    print(f'something else is running here (load average {load:.1f}): rely on nothing but the ratios', flush=True)
  with tempfile.TemporaryDirectory(prefix='benchmark-') as folder:
    setup = make_setup(args, folder, precisions, data=data)
    result = {**about(setup, module), 'load_average_before': load, 'results': []}
    write_json(args.output, result)  # what cannot be written fails now
    yield setup, result


def measure(argv, module, parts, *, data=True):
  """Measures what --what lists of `parts`, a dict from name to a function of a Setup that returns rows.

  `argv`, `module` and `data` are those of prepared.
  """
  args = flags.FLAGS
  names = chosen('what', args.what, parts)
  with prepared(argv, module, data=data) as (setup, result):
    for name in names:
      print(f'measuring: {name}', flush=True)
      result['results'] += parts[name](setup)
      write_json(args.output, result)  # so that a later failure loses only what is to come
  print(f'{table(result["results"])}\nwritten to {args.output}')


def main(argv):
  measure(argv, 'utils.studies.benchmark', PARTS)


if __name__ == '__main__':
  define_flags()
  errors.run(main)
