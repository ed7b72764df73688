"""Measures the server: throughput beside the bare Predictor, latencies, and what malformed requests leave behind.

    python -m utils.studies.serve_load --net=inception_v3 --height=360 --width=480

starts python -m utils.serve, as users start it, on random weights. `throughput`: clients send JPEGs over loopback, each
the next when it has its label; in turn with them, the Predictor in this process labels as many decoded pictures, in
batches as large as the server's. On a busy machine the CPU seconds hold, which are of the server and its decoders.
`malformed`: requests of every kind of malformed.py, all of which must be refused; the server's memory and open files
are read before and after. Needs Linux and requirements-serve.txt.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import functools
import glob
import http.client
import io
import itertools
import os
import subprocess
import sys
import threading
import time

import numpy as np
from PIL import Image

from utils.errors import UserError
from utils.files import text_of
from utils.inference.predictor import Predictor
from utils.runs import load_run
from utils.settings import flag, run
from utils.studies import benchmark, malformed, scripts, starts
from utils.studies.benchmark import MIB
from utils.studies.results import row

WHAT = ('throughput', 'malformed')
UPLOAD_SECONDS = 2.0  # time that slow clients are given
WARM = 0.3  # share of the malformed requests that go before the first look at memory


@dataclasses.dataclass(frozen=True)
class LoadSettings(benchmark.MeasureSettings):
  """Flags of this program; --steps are blocks of requests, --batch_size is the server's --max_batch."""
  what: tuple[str, ...] = flag(WHAT, 'parts to measure', choices=WHAT)
  clients: int = flag(8, 'clients that send at a time', least=1)
  requests: int = flag(40, 'requests of a block, and pictures of a block of the bare Predictor', least=1)
  malformed: int = flag(1000, 'malformed requests, shared out evenly among the kinds', least=1)
  steps: int = flag(7, 'timed blocks', least=1)
  warmup_steps: int = flag(1, 'blocks before the timed ones', least=0)
  output: str = flag('serve-load.json', 'JSON to write', path=True)


@contextlib.contextmanager
def served(setup, precision, **options):
  """Starts the server; yields its address (host, port) and process, and stops it as a user does.

  Args:
    setup: a benchmark.Setup.
    precision: one of session.PRECISIONS.
    **options: further flags.

  Raises:
    UserError: if it does not start, with its last line, or does not stop.
  """
  words = scripts.command('utils.serve', [f'--{name}={value}' for name, value in {
      'ckpt': setup.checkpoint, 'port': 0, 'precision': precision, 'max_batch': setup.batch_size, **options}.items()])
  with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
    try:
      address, last = None, 'it printed nothing'
      for line in process.stdout:
        last = line.strip() or last
        if line.startswith('http://'):
          host, _, port = line.split('/')[2].rpartition(':')
          address = host, int(port)
        if line.startswith('ready:'):
          break
      else:
        raise UserError(f'the server ended too early: {last}')
      threading.Thread(target=process.stdout.read, daemon=True).start()
      yield address, process
      process.terminate()
      if process.wait(60) != 143:
        raise UserError(f'the server ended with the exit code {process.returncode}')
    finally:
      process.kill()


def send_all(address, bodies, clients):
  """Posts pictures from several clients at a time, each the next when it has its answer.

  Args:
    address: (host, port).
    bodies: list of bytes.
    clients: number of clients.

  Returns:
    list of the seconds that each took.

  Raises:
    UserError: if one is not labeled.
  """
  waiting, lock = iter(bodies), threading.Lock()

  def work():
    connection, taken = http.client.HTTPConnection(*address, timeout=600), []
    with contextlib.closing(connection):
      while True:
        with lock:
          body = next(waiting, None)
        if body is None:
          return taken
        start = time.perf_counter()
        label_of(connection, body)
        taken.append(time.perf_counter() - start)

  with concurrent.futures.ThreadPoolExecutor(clients) as pool:
    return list(itertools.chain.from_iterable(
        future.result() for future in [pool.submit(work) for _ in range(clients)]))


def label_of(connection, body):
  """Posts a picture on an http.client.HTTPConnection; returns its label PNG. Raises UserError if it gets none."""
  connection.request('POST', '/label', body)
  response = connection.getresponse()
  data = response.read()
  if response.status != 200:
    raise UserError(f'the server answered {response.status}: {data[:200].decode(errors="replace")}')
  return data


def pictures(size, count):
  """Smooth random pictures: a list of JPEGs, and uint8 [count, H, W, 3] of their pixels."""
  rng, files = np.random.default_rng(0), []
  for _ in range(count):
    small = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8))
    file = io.BytesIO()
    small.resize(size[::-1], Image.Resampling.BICUBIC).save(file, 'JPEG', quality=90)
    files.append(file.getvalue())
  return files, np.stack([np.asarray(Image.open(io.BytesIO(file))) for file in files])


def measure_throughput(setup, settings):
  """Rates of the server and of the bare Predictor in turn, and the server's latencies.

  Args:
    setup: a benchmark.Setup.
    settings: a LoadSettings.

  Yields:
    rows.
  """
  files, images = pictures(setup.size, setup.batch_size)
  bodies = list(itertools.islice(itertools.cycle(files), settings.requests))
  for precision in setup.precisions:
    latencies, cpu = [], {'bare': [], 'server': []}
    with served(setup, precision) as (address, process), Predictor(load_run(setup.checkpoint), precision) as predictor:
      pids = family(process.pid)

      def bare(predictor=predictor, cpu=cpu):
        before = time.process_time()
        for start in range(0, settings.requests, len(images)):
          predictor.labels(images[:settings.requests - start])
        cpu['bare'].append(time.process_time() - before)

      def server(address=address, pids=pids, latencies=latencies, cpu=cpu):
        before = sum(map(starts.cpu_seconds, pids))
        latencies.append(send_all(address, bodies, settings.clients))
        cpu['server'].append(sum(map(starts.cpu_seconds, pids)) - before)

      seconds = benchmark.in_turn({'bare': bare, 'server': server}, steps=setup.steps, warmup_steps=setup.warmup_steps)
    rates = {name: settings.requests / np.array(values) for name, values in seconds.items()}
    costs = {name: np.array(values[setup.warmup_steps:]) / settings.requests for name, values in cpu.items()}
    for name, case in (('bare', f'bare Predictor, batches of {len(images)}'),
                       ('server', f'server, {settings.clients} clients')):
      yield row('throughput', f'{precision}: {case}', 'images/s', rates[name])
      yield row('throughput', f'{precision}: {case}, an image', 'CPU s', costs[name])
    yield row('throughput', f'{precision}: server / bare', 'ratio', rates['server'] / rates['bare'])
    yield row('throughput', f'{precision}: CPU s of bare / server', 'ratio', costs['bare'] / costs['server'])
    for share in (50, 99):
      yield row('latency', f'{precision}: {settings.clients} clients, {share} % of a block below', 's',
                [np.percentile(values, share) for values in latencies[setup.warmup_steps:]])


def family(pid):
  """A process, and those that it started: list of their ids."""
  started = [text_of(path) for path in glob.glob(f'/proc/{pid}/task/*/children')]
  return [pid, *(int(word) for text in started for word in text.split())]


def taken(pid):
  """What a server and the processes that it started hold: (resident bytes, number of open files)."""
  found = [0, 0]
  for one in family(pid):
    sizes = scripts.resident_memory(one)
    found[0] += sizes[0] if sizes else 0
    found[1] += len(os.listdir(f'/proc/{one}/fd'))
  return tuple(found)


def send_malformed(address, numbers, clients):
  """Sends malformed requests, as many of each kind.

  Args:
    address: (host, port).
    numbers: numbers of the requests, each of which is always the same.
    clients: number that are sent at a time.

  Returns:
    list of (kind, status or None, reason, seconds).
  """
  made = malformed.Pictures()

  def work(number):
    kind = list(malformed.KINDS)[number % len(malformed.KINDS)]
    request, start = malformed.KINDS[kind](np.random.default_rng(number), made), time.perf_counter()
    return kind, *malformed.answer(address, request), time.perf_counter() - start

  with concurrent.futures.ThreadPoolExecutor(clients) as pool:
    return list(pool.map(work, numbers))


def measure_malformed(setup, settings):
  """Answers to malformed requests, and what they leave behind.

  Args:
    setup: a benchmark.Setup.
    settings: a LoadSettings.

  Yields:
    rows.

  Raises:
    UserError: if one is not refused with a reason, or a good picture gets another label afterwards.
  """
  [picture], _ = pictures(setup.size, 1)
  with served(setup, setup.precisions[0], upload_seconds=UPLOAD_SECONDS) as (address, process):

    def label(address=address):
      with contextlib.closing(http.client.HTTPConnection(*address, timeout=malformed.SECONDS)) as connection:
        return label_of(connection, picture)

    first = label()
    warm = round(WARM * settings.malformed)
    answers = send_malformed(address, range(warm), settings.clients)
    before = taken(process.pid)
    answers += send_malformed(address, range(warm, settings.malformed), settings.clients)
    time.sleep(UPLOAD_SECONDS)  # connections end
    after = taken(process.pid)
    same = label() == first
  wrong = [answer for answer in answers if not (answer[1] and 400 <= answer[1] < 500 and answer[2])]
  if wrong:
    raise UserError(f'{len(wrong)} of {len(answers)} malformed requests were not refused: {wrong[0]}')
  if not same:
    raise UserError('after malformed requests a good picture has another label')
  for kind in malformed.KINDS:
    own = [answer for answer in answers if answer[0] == kind]
    statuses = collections.Counter(str(status) for _, status, _, _ in own)
    if own:
      yield row('malformed', kind, 's', [seconds for *_, seconds in own], beside=dict(sorted(statuses.items())))
  for name, number, unit in (('resident memory', 0, 'MiB'), ('open files', 1, 'files')):
    for when, values in (('before', before), ('after', after)):
      yield row('malformed', f'{name} {when}', unit, [values[number] / (MIB if unit == 'MiB' else 1)])


def work(settings):
  """Measures; `settings` is a LoadSettings."""
  benchmark.measure(settings, 'utils.studies.serve_load', {
      'throughput': functools.partial(measure_throughput, settings=settings),
      'malformed': functools.partial(measure_malformed, settings=settings)}, data=False)


def main(argv=None):
  """Measures; `argv` is the command line without the program's name, None for the process's own."""
  return run(work, LoadSettings, argv, text=__doc__)


if __name__ == '__main__':
  sys.exit(main())
