"""Compares what labels a trained run: TensorFlow, the engines of its exported files, and compiled PyTorch, on the CPU.

    pip install -r requirements-export.txt -r requirements-pytorch.txt
    python -m utils.export --ckpt=RUN --format=onnx,openvino,tflite
    python -m utils.export --ckpt=RUN --format=openvino --quantize=int8
    python -m utils.export --ckpt=RUN --format=tflite --quantize=int8_weights
    python -m utils.studies.benchmark_engines --ckpt=RUN

Speed is from a batch of pixels to labels. All sides run in turn in this process, a call of each after the other, so
that a ratio (the median of the ratios of neighbors) keeps its value on a machine that slows down meanwhile; each has a
thread for each core. Mean IoU is that of each side on a split of the run's data. PyTorch computes the run's own
weights: its network is made from TensorFlow's graph (torch_network.py), batch norms folded, compiled with constant
weights.

The table, in Markdown, stands beside the JSON, which is written after every row; --resume measures what is missing.
Idle machines alone give ratios to rely on: engines wait for all threads after every op, so other work slows each
differently.
"""

import contextlib
import dataclasses
import functools
import itertools
import os
import sys
from collections.abc import Callable

import numpy as np

from datasets import pipeline
from datasets.inputs import Input
from nets import get_network
from nets.network import Mode
from utils.cpu import supports_bfloat16
from utils.errors import UserError, shown
from utils.evaluation.data import open_split
from utils.evaluation.scorer import Scorer
from utils.export.about import versions
from utils.files import claim, commit, write_text
from utils.inference.engines import STEADY
from utils.inference.exported import FILES, FOLDER, EngineFlags, ExportedNetwork, find_artifact
from utils.inference.labeler import PLAIN
from utils.inference.predictor import Predictor, network_weights
from utils.inference.temperature import temperature_of
from utils.progress import Progress
from utils.runs import load_run
from utils.settings import Settings, command_line, flag, overwrite_flag, run, to_dict
from utils.studies import benchmark, benchmark_pytorch, results
from utils.studies.results import row

PYTORCH = 'PyTorch compiled'
SPEED, SCORE = 'images/s', 'mean IoU'
# Files measured unless others are given: engine, and what --quantize adds to the name of its file.
DEFAULT_FILES = (('onnxruntime', ''), ('openvino', ''), ('openvino', 'int8'), ('litert', ''),
                 ('litert', 'int8_weights'))


@dataclasses.dataclass(frozen=True)
class EnginesSettings(Settings):
  """Flags of this program."""
  ckpt: str = flag(None, "run's folder, or a checkpoint in it", required=True, path=True)
  files: tuple[str, ...] = flag(
      (), "exported files to measure; default: model.onnx, model.xml, model-int8.xml, model.tflite and "
      "model-int8_weights.tflite in the run's export", path=True)
  height: int = flag(360, 'height of the images whose time is measured', least=1)
  width: int = flag(480, 'width of these images', least=1)
  batch_sizes: tuple[int, ...] = flag((1, 8), 'images that go through the network together', least=1)
  repeats: int = flag(30, 'timed calls of each side', least=1)
  warmup: int = flag(STEADY, 'calls of each side before them', least=0)
  split: str = flag('val', 'split on which mean IoU is measured')
  num_images: int = flag(0, 'images of it, evenly spaced; 0: all', least=0)
  data_dir: str | None = flag(None, "folder with the TFRecords; default: the training's own", path=True)
  output: str = flag('benchmark-engines.json', 'JSON to write; the table stands beside it, as .md', path=True)
  overwrite: bool = overwrite_flag()
  resume: bool = flag(False, 'keep what has been measured in --output with the same files and settings')

  def check(self):
    """Raises UserError if a setting is not valid, or there is no batch size."""
    super().check()
    if not self.batch_sizes:
      raise UserError('--batch_sizes=: valid are numbers from 1, several by commas')


@dataclasses.dataclass(frozen=True)
class Side:
  """Something that labels.

  Attributes:
    name: its name in rows and table.
    baseline: name of the side that its speed is compared with: PyTorch's in the same precision, and for files of fewer
      bits in bfloat16, where this CPU has that.
    open: `open(batch_size)`, a context manager that yields `labels(images)`, as of labeler.Labeler.
    digest: SHA-256 of the exported file; '' without one.
  """
  name: str
  baseline: str
  open: Callable
  digest: str = ''


def precisions():
  """The precisions of this CPU that are measured."""
  return ('float32', 'bfloat16') if supports_bfloat16() else ('float32',)


def baseline(precision, quantize=None):
  """Name of PyTorch's side that another of a precision, and of a --quantize of export, is compared with."""
  return f'{PYTORCH} {precisions()[-1] if quantize else precision}'


def artifacts(trained, files):
  """The exported.Artifacts to measure; of a run's own files, those of engines that are not installed are left out.

  Args:
    trained: a runs.Run.
    files: paths; () for DEFAULT_FILES.

  Raises:
    UserError: if one is not there, or is not of the run; names the commands that make them.
  """
  ends = {os.path.splitext(name)[1]: engine for engine, (_, name) in FILES.items()}
  wanted, missing = [], []
  for path in files:
    if os.path.splitext(path)[1] not in ends:
      raise UserError(f'--files={path}: files of {", ".join(FILES)} end with {", ".join(ends)}')
    wanted.append((ends[os.path.splitext(path)[1]], path))
  for engine, quantize in () if files else DEFAULT_FILES:
    form, name = FILES[engine]
    stem, end = os.path.splitext(name)
    path = os.path.join(trained.results, FOLDER, f'{stem}{"-" if quantize else ""}{quantize}{end}')
    wanted.append((engine, path))
    if not os.path.exists(path):
      missing.append(f'there is no {path}: python -m utils.export --ckpt={trained.checkpoint} --format={form}'
                     + (f' --quantize={quantize}' if quantize else ''))
  if missing:
    raise UserError(*missing)
  temperature, found = temperature_of(trained, None), []
  for engine, path in wanted:
    chosen = EngineFlags(engine, path)
    try:
      chosen.check()
    except UserError as error:  # not installed
      if files:
        raise
      print(f'{shown(path)} is left out: {error}', flush=True)
    else:
      found.append(find_artifact(trained, chosen, PLAIN, temperature))
  return found


@contextlib.contextmanager
def _tensorflow(trained, precision, batch_size):
  with Predictor(trained, precision, gpu='none') as predictor:
    yield predictor.labels


@contextlib.contextmanager
def _exported(trained, artifact, precision, batch_size):
  with ExportedNetwork(trained, artifact, PLAIN, precision) as network:
    yield network.labels


@contextlib.contextmanager
def _pytorch(trained, precision, size, batch_size):
  compiled = benchmark_pytorch.labeler(torch_network_of(trained, size, batch_size), precision, folded=True,
                                       compiled=True)

  def labels(images):
    if images.shape != (batch_size, *size, 3):
      raise UserError(f'{PYTORCH} is made for images of {size[0]}x{size[1]} here, and this is {images.shape[1:3]}')
    return compiled(images)

  yield labels


def torch_network_of(trained, size, batch_size):
  """A run's network in PyTorch, for batches of images of one (height, width), see torch_network.convert.

  Raises:
    UserError: if it sees no photographs, or has an operation that PyTorch's side does not know.
  """
  if not Input.from_config(trained.config).reading.is_plain:
    raise UserError(f'{trained.folder} sees bands, and {PYTORCH} is compared on photographs alone')
  config = trained.config['network']
  network = get_network(config['name'])
  logits, images = benchmark_pytorch.graph_of(network, len(trained.classes), [batch_size, *size, 3],
                                              Mode(fold_batch_norm=False), **network.shape(config))
  return benchmark_pytorch.torch_network.convert(logits, images, network_weights(trained))[0]


def sides(trained, found, size):
  """List of the Sides.

  Args:
    trained: a runs.Run.
    found: list of exported.Artifact.
    size: (height, width) of the images that PyTorch's side takes.
  """
  made = [Side(f'TensorFlow {precision}', baseline(precision), functools.partial(_tensorflow, trained, precision))
          for precision in precisions()]
  for artifact in found:
    kind = EngineFlags(artifact.engine).kind
    made += [Side(f'{artifact.variant} {precision}', baseline(precision, artifact.about['quantize']),
                  functools.partial(_exported, trained, artifact, precision),
                  artifact.about['files'][os.path.basename(artifact.path)]['sha256'])
             for precision in precisions() if precision in kind.precisions]
  if benchmark_pytorch.torch is None:
    print(f'{PYTORCH} is left out: not installed, see requirements-pytorch.txt', flush=True)
    return made
  return made + [Side(baseline(precision), baseline(precision), functools.partial(_pytorch, trained, precision, size))
                 for precision in precisions()]


def speed(measured, size, batch_size, settings):
  """Times all sides in turn: a row of images/s for each, and of its ratio to its baseline.

  A side that fails is reported and skipped.

  Args:
    measured: list of Side.
    size: (height, width) of the images.
    batch_size: number of images in a call.
    settings: an EnginesSettings.
  """
  what = f'batch {batch_size}'
  images = np.random.default_rng(0).integers(0, 256, (batch_size, *size, 3), np.uint8)
  with contextlib.ExitStack() as stack:
    functions = {}
    for side in measured:
      with _skipped(f'{what}, {side.name}'):
        labels = stack.enter_context(side.open(batch_size))
        labels(images)  # compiles
        functions[side.name] = functools.partial(labels, images)
    times = benchmark.in_turn(functions, steps=settings.repeats, warmup_steps=settings.warmup,
                              pause=benchmark_pytorch.PAUSE)
  rows = [row(what, name, SPEED, np.divide(batch_size, values)) for name, values in times.items()]
  return rows + [row(what, side.name, 'ratio', np.divide(times[side.baseline], times[side.name]), to=side.baseline)
                 for side in measured if {side.name, side.baseline} <= set(times) and side.name != side.baseline]


@contextlib.contextmanager
def _skipped(what):
  """Reports an error of the block and goes on: engines and compilers fail in many ways, which leave the others."""
  try:
    yield
  except Exception as error:  # noqa: BLE001, as above
    lines = str(error).strip().splitlines() or [type(error).__name__]
    print(f'{what} fails and is skipped: {lines[0]}', flush=True)


def score(side, trained, place):
  """Labels a split, image by image: a list of one row of mean IoU in percent; empty for a side that fails.

  Args:
    side: a Side.
    trained: the runs.Run.
    place: `(data_dir, split, held, chosen)`: folder and HoldOut of the split, and the slice of its images.
  """
  data_dir, split, held, chosen = place
  scorer = Scorer(trained.classes, where=f'{data_dir}, {split}')
  with _skipped(f'{SCORE}, {side.name}'), side.open(1) as labels, Progress(None, 'images', label=side.name) as progress:
    for name, image, truth in itertools.islice(
        pipeline.examples(data_dir, split, held), chosen.start, chosen.stop, chosen.step):
      scorer.add(name, truth, labels(image[np.newaxis])[0])
      progress.update()
    return [row(SCORE, side.name, '%', [100 * scorer.result()['mean_iou']], split=split, num_images=progress.done)]
  return []


def table(rows, batch_sizes):
  """The table in Markdown: a line for each side, with images/s and ratios by batch size, and mean IoU.

  Args:
    rows: results of `speed` and `score`.
    batch_sizes: numbers of images in a call.
  """
  cells, baselines = {}, {}
  for line in rows:
    cells.setdefault(line['case'], {})[line['what'], line['unit']] = line['median']
    baselines[line['case']] = line.get('to') or baselines.get(line['case'])
  split = next((f'{line["split"]}, {line["num_images"]} images' for line in rows if line['what'] == SCORE), '')
  head = ['', *(text for size in batch_sizes for text in (f'batch {size}, images/s', 'times PyTorch')),
          f'{SCORE}, {split}', 'PyTorch of']
  lines = [head, ['---'] * len(head)]
  for name, found in cells.items():
    speeds = [(found.get((f'batch {size}', SPEED)), found.get((f'batch {size}', 'ratio'))) for size in batch_sizes]
    lines.append([name, *(_cell(value, places) for pair in speeds for value, places in zip(pair, (1, 2))),
                  _cell(found.get((SCORE, '%')), 2), (baselines[name] or '').removeprefix(f'{PYTORCH} ')])
  return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def _cell(value, places):
  return '' if value is None else f'{value:.{places}f}'


def measure(settings):
  """Measures; `settings` is an EnginesSettings. Raises UserError if the run, its data or its files cannot be used."""
  trained, size = load_run(settings.ckpt), (settings.height, settings.width)
  beside = f'{os.path.splitext(settings.output)[0]}.md'
  claim([beside], overwrite=settings.overwrite)
  found = artifacts(trained, settings.files)
  for artifact in found:
    artifact.check_sizes([size])
  measured = sides(trained, found, size)
  data_dir, num_images, held = open_split(trained, settings.split, settings.data_dir)
  count = min(settings.num_images or num_images, num_images)
  step = num_images // count
  place = data_dir, settings.split, held, slice(0, step * count, step)
  load = os.getloadavg()[0]
  if load > 0.5:
    print(f'something else is running here (load average {load:.1f}): rely on no figure but {SCORE}', flush=True)
  about = {'command': f'python -m utils.studies.benchmark_engines {command_line(settings)}', 'commit': commit(),
           'machine': benchmark.machine(), 'load_average_before': load, 'step': trained.step,
           'network': trained.config['network'], 'sides': {side.name: side.digest for side in measured},
           'versions': {**versions(), 'torch': getattr(benchmark_pytorch.torch, '__version__', None)},
           'flags': {name: value for name, value in to_dict(settings).items() if name not in results.FREE}}
  parts = {f'batch {batch}': functools.partial(speed, measured, size, batch, settings)
           for batch in dict.fromkeys(settings.batch_sizes)}
  parts |= {f'{SCORE}: {side.name}': functools.partial(score, side, trained, place) for side in measured}
  with benchmark_pytorch.threads_as_tensorflow():
    result = results.begin(settings.output, about, resume=settings.resume, overwrite=settings.overwrite)
    for name in results.missing(settings.output, result, parts):
      results.add(settings.output, result, name, parts[name]())
  text = table(result['results'], list(dict.fromkeys(settings.batch_sizes)))
  write_text(beside, text)
  print(f'{text}\nwritten to {shown(settings.output)} and {shown(beside)}')


def main(argv=None):
  """Measures; `argv` is the command line without the program's name, None for the process's own."""
  return run(measure, EnginesSettings, argv, text=__doc__)


if __name__ == '__main__':
  sys.exit(main())
