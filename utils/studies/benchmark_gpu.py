"""Measures all that a GPU has to show; planned for about six minutes on one card.

    python -m utils.studies.benchmark_gpu --data_dir=data/camvid
    python -m utils.studies.benchmark_gpu --parts=train,xla --batch_sizes=16 --precisions=tf32,float16

prints every figure and writes it to a JSON as soon as it is there, and a table at the end. Each part of --parts runs in
a process of its own: one that fails, or takes longer than --part_seconds (`xla`: twice that), is noted with its reason,
and the rest goes on. --resume measures again what failed or did not come to its end. Needs no network; PyTorch's parts
need PyTorch.

Parts: `product`, the speed of a large matrix product, against which the convolutions stand; `train`, the bare training
step, and `xla`, the same compiled; `recipe`, the step of --recipe; `loop` and `recipe_loop`, train.py beside the bare
step; `pipeline`, its input alone; `inference` and `evaluation`, beside the bare network; `sizes` and `sizes_suggested`,
images of sizes that vary, with TensorFlow's search for cuDNN's algorithms and without; `memory`, what train.py takes of
the card, also with --gpu_memory_fraction; `pytorch` and `pytorch_compiled`, the same network there. The memory of a
part is what its processes take of the card; beside a step it is what TensorFlow's or PyTorch's operations take of that.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time

from utils import cudnn
from utils.compat import tf
from utils.cpu import cpu_model
from utils.errors import UserError, shown
from utils.exits import ended_by_sigterm
from utils.files import ROOT, write_json
from utils.settings import command_line, command_words, run, to_dict
from utils.studies import gpu_parts, results, scripts
from utils.studies.benchmark import GIB, MIB
from utils.studies.gpu_parts import GpuSettings
from utils.studies.results import row
from utils.workers import default_workers

POLL_SECONDS = 0.5  # between two looks at a part's rows
MEMORY_SECONDS = 3.0  # between two looks at its memory: nvidia-smi may hold up kernels
FACTS = ('name', 'driver_version', 'memory.total', 'pstate', 'clocks.sm', 'clocks.max.sm', 'clocks.mem', 'power.limit',
         'temperature.gpu')
LONGER = {'xla': 2}  # parts that may take longer than --part_seconds, by their factor: each case is compiled
LIMITS = ('parts', 'part_seconds', 'minutes')  # flags that change no figure


def nvidia_smi(fields, settings, *, command=subprocess.run):
  """Asks nvidia-smi for fields of the GPU: a dict from field to text, {} where the program is not there or fails."""
  words = ['nvidia-smi', f'--query-gpu={",".join(fields)}', '--format=csv,noheader,nounits', '-i',
           environment(settings)['CUDA_VISIBLE_DEVICES']]
  try:
    answer = command(words, capture_output=True, text=True, timeout=20, check=True).stdout
  except (OSError, subprocess.SubprocessError):
    return {}
  return dict(zip(fields, (value.strip() for value in answer.strip().split(','))))


def environment(settings, part=''):
  """The environment of a part's process: one GPU, or none for --device=CPU, where XLA has to be let in; PyTorch's
  libraries for its parts; cuDNN's suggestions for `sizes_suggested`, unless the user's environment says otherwise.
  """
  gpu = os.environ.get('CUDA_VISIBLE_DEVICES', '0').split(',')[0] if settings.device == 'GPU' else '-1'
  paths = settings.pytorch_library_path if part in gpu_parts.PYTORCH else None
  xla = f'{os.environ.get("TF_XLA_FLAGS", "")} --tf_xla_cpu_global_jit'.strip()
  suggested = cudnn.SUGGESTED if part == gpu_parts.SIZES[1] else {}
  return {**suggested, **os.environ, 'CUDA_DEVICE_ORDER': 'PCI_BUS_ID', 'CUDA_VISIBLE_DEVICES': gpu,
          'TF_XLA_FLAGS': xla, **({'LD_LIBRARY_PATH': paths} if paths is not None else {})}


def about(settings, config):
  """The device, the code and the settings that figures depend on: a dict for the JSON.

  Args:
    settings: a GpuSettings.
    config: the config.json of a run made here.
  """
  machine, seen = {'cpu': cpu_model() or 'unknown', 'cores': default_workers()}, {}
  if settings.device == 'GPU':
    details = tf.config.experimental.get_device_details(tf.config.list_physical_devices('GPU')[0])
    seen = nvidia_smi(FACTS, settings)
    machine |= {'gpu': details.get('device_name', 'unknown'), 'compute_capability': str(details.get(
        'compute_capability', 'unknown')), 'memory_mib': seen.get('memory.total'), 'driver': seen.get('driver_version')}
  build = tf.sysconfig.get_build_info()
  return {
      'command': f'python -m utils.studies.benchmark_gpu {command_line(settings)}'.rstrip(), 'machine': machine,
      'build': {name: str(build.get(f'{name}_version', 'none')) for name in ('cuda', 'cudnn')}, 'nvidia_smi': seen,
      **{name: config[name] for name in ('versions', 'commit', 'network')},
      'flags': {name: value for name, value in to_dict(settings).items() if name not in (*results.FREE, *LIMITS)}}


def rows_of(part, work_dir, settings, *, limit, launch=subprocess.Popen, clock=time.monotonic, sleep=time.sleep):
  """Measures a part in a process of its own.

  Args:
    part: name of the part.
    work_dir: folder that gpu_parts.make_work_dir has filled.
    settings: a GpuSettings.
    limit: seconds after which the process, and all that it started, are ended.
    launch: takes the place of subprocess.Popen in tests.
    clock: function that returns seconds.
    sleep: function that waits for some seconds.

  Yields:
    the rows of the part as they come, and at last one with the memory that it took.

  Raises:
    UserError: if the process fails, with its last line, or does not end in time.
  """
  path, start, peak, looked = os.path.join(work_dir, f'{part}.jsonl'), clock(), 0.0, 0.0
  words = [sys.executable, '-m', 'utils.studies.gpu_part', f'--part={part}', f'--work_dir={work_dir}',
           f'--rows={path}', *command_words(settings)]
  before = taken(settings, None)
  with (open(os.path.join(work_dir, f'{part}.log'), 'w+', encoding='utf-8') as log, open(path, 'w+') as rows,
        launch(words, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, cwd=ROOT, start_new_session=True,
               env=environment(settings, part)) as process):
    try:
      while True:
        ended = process.poll() is not None
        yield from whole_lines(rows)
        if ended:
          break
        if clock() - looked >= MEMORY_SECONDS:
          peak, looked = max(peak, taken(settings, process.pid) - before), clock()
        if clock() - start > limit:
          raise UserError(f'did not finish in {limit:.0f} s')
        sleep(POLL_SECONDS)
    finally:
      with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    if process.returncode:
      log.seek(0)
      raise UserError((log.read().strip() or 'it printed nothing').splitlines()[-1].removeprefix('error: '))
  yield row('memory', f'{part}: peak {"on the card" if settings.device == "GPU" else "resident"}', 'GiB', [peak / GIB])


def whole_lines(file):
  """Yields the values of the lines of JSON that were added to an open file; a line without its end waits for it."""
  while True:
    place, line = file.tell(), file.readline()
    if not line.endswith('\n'):
      file.seek(place)
      return
    yield json.loads(line)


def taken(settings, pid):
  """Bytes taken of the card by all processes; for --device=CPU the peak of one's resident memory. 0 if unknown."""
  if settings.device == 'GPU':
    return MIB * float(nvidia_smi(['memory.used'], settings).get('memory.used', 0))
  with contextlib.suppress(OSError, TypeError):
    return scripts.resident_memory(pid)[1]
  return 0


def compared(rows):
  """Rows that follow from those of several parts.

  Args:
    rows: list of rows with the entries that gpu_parts.py describes.

  Returns:
    list of rows: the share of the matrix product's speed for every training step; the number of images of a size from
    which the search for cuDNN's algorithms pays; and for every task and batch size TensorFlow's highest images/s over
    PyTorch's.
  """
  found = []
  products = {line['precision']: line['median'] for line in rows if line.get('task') == 'product'}
  for line in rows:
    if 'TFLOP/s' in line.get('beside', {}) and line['precision'] in products:
      found.append(row('share', f'{line["what"]}: {line["case"]}', 'of product',
                       [line['beside']['TFLOP/s'] / products[line['precision']]]))
  found += [row('search', 'pays from images of a size on', 'images', [count]) for count in search_pays(rows)]
  best = {}
  for line in rows:
    if line.get('task') in ('train', 'inference') and not line.get('bare'):
      speed = line['median'] if line['unit'] == 'images/s' else line['batch'] / line['median']
      place = (line['task'], line['batch'], line['side'])
      best[place] = max(best.get(place, (0.0, '')), (speed, f'{line["what"]}: {line["case"]}'))
  for (task, batch, side), (speed, case) in best.items():
    other = best.get((task, batch, 'PyTorch'))
    if side == 'TensorFlow' and other:
      found.append(row('best', f'{task}, batch {batch}: TensorFlow / PyTorch', 'ratio', [speed / other[0]],
                       tensorflow=case, pytorch=other[1], beside={
                           'images/s TensorFlow': speed, 'images/s PyTorch': other[0]}))
  return found


def search_pays(rows):
  """Yields the number of images of one size from which TensorFlow's search pays, if both parts of SIZES are there."""
  times = {(line['what'], line['when']): 1 / line['median'] for line in rows if line['what'] in gpu_parts.SIZES}
  if len(times) == 4:
    first, again = ([times[part, when] for part in gpu_parts.SIZES] for when in ('first', 'again'))
    if again[0] < again[1]:
      yield 1 + max(0.0, first[0] - first[1]) / (again[1] - again[0])


def work(settings, *, rows_of=rows_of, clock=time.monotonic):
  """Measures a GPU; `settings` is a GpuSettings. Returns the exit code, 1 if a part failed.

  Raises UserError if there is no GPU and --device=GPU, or the JSON cannot be written or taken up.
  """
  end = clock() + 60 * settings.minutes
  if settings.device == 'GPU' and not tf.config.list_physical_devices('GPU'):
    raise UserError('--device=GPU: TensorFlow sees no GPU here; --device=CPU tries the program')
  with ended_by_sigterm(), tempfile.TemporaryDirectory(prefix='benchmark-gpu-') as work_dir:
    result = results.begin(settings.output, about(settings, gpu_parts.make_work_dir(work_dir, settings)),
                           resume=settings.resume, overwrite=settings.overwrite)
    print(', '.join(f'{name} {value}' for name, value in {**result['machine'], **result['nvidia_smi']}.items()),
          flush=True)
    for part in results.missing(settings.output, result, settings.parts):
      limit, start = min(settings.part_seconds * LONGER.get(part, 1), end - clock()), clock()
      with contextlib.suppress(UserError):
        results.add(settings.output, result, part, rows_of(part, work_dir, settings, limit=limit) if limit > 0
                    else out_of_time(settings))
      failed = result['parts'][part].get('failed')
      print(f'{part}: {clock() - start:.0f} s{f"; failed: {failed}" if failed else ""}', flush=True)
    result['compared'] = compared(result['results'])
    write_json(settings.output, result)
  print(results.table(result['results'] + result['compared']))
  failures = {part: about['failed'] for part, about in result['parts'].items() if 'failed' in about}
  for part, reason in failures.items():
    print(f'{part} failed: {reason}')
  print(f'written to {shown(settings.output)}', flush=True)
  return int(bool(failures))


def out_of_time(settings):
  """The rows of a part that was not begun: raises UserError."""
  raise UserError(f'not begun: --minutes={settings.minutes:g} are over')
  yield


def main(argv=None):
  """Measures; `argv` is the command line without the program's name, None for the process's own."""
  return run(work, GpuSettings, argv, text=__doc__)


if __name__ == '__main__':
  sys.exit(main())
