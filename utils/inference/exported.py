"""Exported files in the place of the run's own network (--engine): found, checked against the run, and opened.

A file of `python -m utils.export` has a JSON beside it that says which weights, classes and bands it was made of. It
takes the run's place only where all of that is the run's: a file of other weights would label without a word.
"""

import dataclasses
import os
import re

import numpy as np

from datasets.inputs import Input
from utils.compat import tf
from utils.cpu import supports_bfloat16
from utils.errors import UserError, quoted, shown
from utils.files import file_digest, read_json
from utils.inference.engines import ENGINES, first_line, open_engine
from utils.inference.labeler import Labeler, resizing
from utils.inference.predictor import weights_of
from utils.inference.temperature import file_of
from utils.installation import require
from utils.session import PRECISIONS, Device, cpu_config
from utils.settings import Settings, flag

FORMAT = 'FCN-GoogLeNet export'  # what the JSON beside an exported file is known by
FOLDER = 'export'  # of exported files, in the folder of a run's results
TENSORFLOW = 'tensorflow'
# Engine -> (--format of python -m utils.export, name of the file that it writes without any options).
FILES = {'onnxruntime': ('onnx', 'model.onnx'), 'openvino': ('openvino', 'model.xml'),
         'litert': ('tflite', 'model.tflite')}

# What engines say where memory is short, in exceptions of types of their own.
_NO_MEMORY = re.compile(r'[Ff]ailed to allocate memory|[Cc]annot allocate memory|bad_alloc')
# Entries of that JSON, and their types.
_ENTRIES = {'weights': str, 'step': int, 'classes': list, 'network': dict, 'input': dict, 'temperature': int | float,
            'test_flip': bool, 'quantize': str | None, 'calibration': dict | None, 'check': dict, 'files': dict}


@dataclasses.dataclass(frozen=True)
class EngineFlags(Settings):
  """What computes."""
  engine: str = flag(TENSORFLOW, f'what computes: {TENSORFLOW}, or of an exported run {", ".join(FILES)}',
                     choices=(TENSORFLOW, *FILES))
  engine_file: str | None = flag(
      None, "the exported file of --engine; default: model.onnx, model.xml or model.tflite in the run's export",
      path=True)

  def check(self):
    """Raises UserError if a setting is not valid, does not go with the other, or a package is missing."""
    super().check()
    if self.is_tensorflow:
      if self.engine_file:
        raise UserError(f'--engine_file={self.engine_file}: is for --engine={" or ".join(FILES)}, which is not given')
      return
    end = os.path.splitext(FILES[self.engine][1])[1]
    if self.engine_file and not self.engine_file.endswith(end):
      raise UserError(f'--engine_file={self.engine_file}: files of --engine={self.engine} end with {end}')
    require(self.kind.packages, f'--engine={self.engine}', 'export')

  @property
  def is_tensorflow(self):
    """Whether the run itself computes."""
    return self.engine == TENSORFLOW

  @property
  def kind(self):
    """The subclass of engines.Engine that opens files of this engine."""
    return ENGINES[os.path.splitext(FILES[self.engine][1])[1]]

  def device(self, asked):
    """The session.Device that computes: of the flags, `asked`, what this engine has of it.

    Raises:
      UserError: if it has no such device or precision; names the flag.
    """
    if self.is_tensorflow:
      return asked
    for name, plain in (('gpu', (None, 'none')), ('gpu_memory_fraction', (0,))):
      if getattr(asked, name) not in plain:
        raise UserError(f'--{name}={getattr(asked, name)}: --engine={self.engine} computes on the CPU')
    precision = asked.precision
    if precision == 'auto':
      precision = 'bfloat16' if 'bfloat16' in self.kind.precisions and supports_bfloat16() else PRECISIONS[0]
    if precision not in self.kind.precisions:
      raise UserError(f'--precision={precision}: --engine={self.engine} computes in '
                      f'{" or ".join(self.kind.precisions)}; files of fewer bits are given by --engine_file')
    device = Device(precision, 'none')
    device.chosen  # noqa: B018, raises if this CPU has no such precision
    return device


@dataclasses.dataclass(frozen=True)
class Artifact:
  """An exported file that is the network of a run.

  Attributes:
    engine: a key of FILES.
    path: the file.
    about: content of the JSON beside it.
    is_own: whether it lies where the run's exports do.
    opened_by: name and version of the engine that has opened it; '' before.
  """
  engine: str
  path: str
  about: dict
  is_own: bool
  opened_by: str = ''

  @property
  def size(self):
    """(height, width) of the images that it takes; () for any."""
    area = tuple(self.about['input']['shape'][1:3])
    return area if all(isinstance(length, int) for length in area) else ()

  @property
  def variant(self):
    """The engine and all that makes this another file than those beside it, for the names of results."""
    stem = os.path.splitext(os.path.basename(self.path))[0]
    digest = '' if self.is_own else self.about['files'][os.path.basename(self.path)]['sha256'][:8]
    return '_'.join(filter(None, (self.engine, stem.removeprefix('model').lstrip('-').replace('-', '_'), digest)))

  @property
  def line(self):
    """The line that says which file computes, and how it was made."""
    about, calibration = self.about, self.about['calibration']
    made = [f'exported of step {about["step"]}', about['quantize'] or PRECISIONS[0],
            'images of {}x{} alone'.format(*self.size) if self.size else 'images of any size',
            *([f'calibrated on {calibration["num_images"]} images of {calibration["split"]}'] if calibration else []),
            f'compared with the run on {about["check"]["num_images"]} images of {about["check"]["split"]}']
    return f'{self.opened_by}: {shown(self.path)}, {", ".join(made)}'

  def to_json(self):
    """What a file of results keeps of it: `engine`, a line, and `artifact`, where and of what the file was made."""
    kept = {key: self.about[key] for key in ('step', 'quantize', 'calibration', 'test_flip', 'temperature', 'files')}
    return {'engine': f'{self.opened_by}: {os.path.basename(self.path)}',
            'artifact': {'file': self.path, 'size': list(self.size), **kept}}

  def check_sizes(self, sizes):
    """Raises UserError if images are not of the file's size.

    Args:
      sizes: iterable of (height, width); None where it is not known.
    """
    if self.size:
      sizes = [tuple(size) for size in sizes if size]
      others = [size for size in sizes if size != self.size]
      if others:
        raise UserError(f'{shown(self.path)} takes images of {_text(self.size)} alone; {len(others)} of {len(sizes)} '
                        f'have others, such as {_text(others[0])}')


def find_artifact(run, flags, views, temperature):
  """Finds the exported file that takes the place of a run's network.

  Args:
    run: a runs.Run.
    flags: an EngineFlags, not of TensorFlow.
    views: the tta.Views that are asked for.
    temperature: number that divides the logits.

  Returns:
    an Artifact.

  Raises:
    UserError: if it is not there, or is not of this run, or not for these settings; names the command that makes it.
  """
  form, name = FILES[flags.engine]
  folder = os.path.join(run.results, FOLDER)
  path = flags.engine_file or os.path.join(folder, name)
  command = f'python -m utils.export {quoted(f"--ckpt={run.checkpoint}")} --format={form}'
  if temperature != 1 or os.path.exists(file_of(run)):  # else an export takes the one that was fitted
    command += f' --temperature={temperature!r}'
  if not os.path.isfile(path):
    raise UserError(f'--engine_file={shown(path)}: no such file' if flags.engine_file else
                    f'--engine={flags.engine}: there is no {shown(path)}; this makes it: {command}')
  about = _read_about(path)
  own = os.path.realpath(os.path.dirname(path)) == os.path.realpath(folder)
  artifact = Artifact(flags.engine, path, about, own)
  if about['quantize']:
    command += f' --quantize={about["quantize"]}'
  if artifact.size:
    command += f' --size={",".join(map(str, artifact.size))}'
  problems = _differences(run, about, temperature)
  if problems:
    raise UserError(f'{shown(path)} is not the network of {shown(run.checkpoint)} (step {run.step}): '
                    f'{"; ".join(problems)}. This makes one: {command}')
  if about['test_flip'] and not views.flip:
    raise UserError(f'{shown(path)} averages with the mirrored image: give --test_flip as well, or another file')
  if artifact.size and tuple(views.scales) != (1.0,):
    raise UserError(f'--test_scales: {shown(path)} takes images of {_text(artifact.size)} alone')
  return artifact


def _read_about(path):
  """The JSON beside an exported file, whose files are as they were written. Raises UserError if they are not."""
  beside = f'{path}.json'
  try:
    about = read_json(beside)
    files, check = about['files'], about['check']
    valid = (about['format'] == FORMAT and all(isinstance(about[key], kind) for key, kind in _ENTRIES.items())
             and check['accepted'] is True and {'num_images', 'split'} <= {*check} and len(about['input']['shape']) == 4
             and os.path.basename(path) in files and all(os.path.basename(name) == name for name in files)
             and all(isinstance(known['sha256'], str) for known in files.values())
             and {'num_images', 'split'} <= {*(about['calibration'] or check)})
  except (KeyError, TypeError, AttributeError):
    valid = False
  if not valid:
    raise UserError(f'{shown(beside)} does not say of which weights the file is, as that of python -m utils.export; '
                    'export the run again')
  for name, known in files.items():
    file = os.path.join(os.path.dirname(path), name)
    if not os.path.isfile(file) or file_digest(file, 'sha256').hex() != known['sha256']:
      raise UserError(f'{shown(file)} is not the file that {shown(beside)} was written for; export the run again')
  return about


def _differences(run, about, temperature):
  """What an exported file, by its JSON, has other than a run: a list of phrases."""
  seen, there = Input.from_config(run.config), about['input']
  found = []
  if about['weights'] != weights_of(run).digest():
    found.append(f'it has other weights (step {about["step"]})')
  if about['classes'] != list(run.classes):
    found.append(f'it has other classes ({len(about["classes"])}, here {len(run.classes)})')
  if about['network'] != run.config['network']:
    found.append('its network has other options')
  here = {'bands': list(seen.names), 'stored_bands': list(seen.reading.names), 'dtype': seen.reading.dtype}
  if not seen.reading.is_plain:  # of photographs the reader applies it
    here['value_range'] = np.array(seen.reading.value_range).tolist()
  found += [f'its {key} is {there.get(key)}, here {value}' for key, value in here.items() if there.get(key) != value]
  if about['temperature'] != temperature:
    found.append(f'it has temperature {about["temperature"]:g} inside, and {temperature:g} is asked for')
  return found


class ExportedNetwork(Labeler):
  """An exported file in the place of a Predictor: its engine computes, views are averaged outside.

  Attributes:
    artifact: the Artifact.
  """

  def __init__(self, run, artifact, views, precision):
    """Opens the file.

    Args:
      run: the runs.Run.
      artifact: its Artifact.
      views: a tta.Views, the views of each image over which probabilities are averaged.
      precision: one of the engine's `precisions`.

    Raises:
      UserError: if the engine cannot open it.
    """
    if artifact.about['test_flip']:
      views = dataclasses.replace(views, flip=False)  # the file has both
    super().__init__(len(run.classes), Input.from_config(run.config), views, 1, precision)
    self._engine = open_engine(artifact.path, **({'precision': precision} if precision != PRECISIONS[0] else {}))
    self.artifact = dataclasses.replace(artifact, opened_by=self._engine.name)
    with tf.Graph().as_default() as graph:
      tf.placeholder(self.seen.reading.dtype, [None, None, None, len(self.seen.reading.names)], name='images')
      tf.placeholder(tf.float32, [None, None, None, self.num_classes], name='probabilities')
      self._size, self._resized, self._restored = resizing(graph)
    self._session = tf.Session(graph=graph, config=cpu_config())

  def _run(self, output, images):
    """See Labeler.

    Raises:
      UserError: if the images are not of the file's size, or the engine fails.
      MemoryError: if it says that it fails for want of memory.
    """
    size, path = self.artifact.size, shown(self.artifact.path)
    if size and images.shape[1:3] != size:
      raise UserError(f'{path} takes images of {_text(size)} alone, and this is one of {_text(images.shape[1:3])}; '
                      'those of more pixels than --max_pixels are cut into tiles')
    try:
      return getattr(self._engine, output)(images)
    except MemoryError:
      raise
    except Exception as error:  # engines raise nearly anything
      if _NO_MEMORY.search(str(error)):
        raise MemoryError(first_line(error)) from error
      raise UserError(f'{path}: {self._engine.name} fails on {len(images)} images of {_text(images.shape[1:3])}: '
                      f'{first_line(error)}') from error

  def _scaled(self, images, size):
    return self._session.run(self._resized, {'images:0': images, self._size: size})

  def _view(self, images, number, size):
    probabilities = self._run('probabilities', images)
    if images.shape[1:3] != size:
      probabilities = self._session.run(self._restored, {'probabilities:0': probabilities, self._size: size})
    yield probabilities

  def close(self):
    """See Labeler."""
    self._engine.close()
    self._session.close()


def open_exported(run, flags, *, views, temperature, device, sizes):
  """Finds and opens the exported file that takes the place of a run's network, and prints a line about it.

  Args:
    run: a runs.Run.
    flags: see find_artifact.
    views: see find_artifact.
    temperature: see find_artifact.
    device: the session.Device of `flags.device`.
    sizes: iterable of (height, width) of the images, see Artifact.check_sizes.

  Returns:
    an ExportedNetwork.

  Raises:
    UserError: see find_artifact, Artifact.check_sizes and ExportedNetwork.
  """
  artifact = find_artifact(run, flags, views, temperature)
  artifact.check_sizes(sizes)
  network = ExportedNetwork(run, artifact, views, device.precision)
  print(f'engine: {network.artifact.line}', flush=True)
  return network


def _text(size):
  return '{}x{} (height x width)'.format(*size)
