"""Several machines that train one network together: their addresses, and TensorFlow's server on each.

Every machine runs the same command and is one worker. Either each is told its number,

    python train.py ... --workers=hill:2222,dale:2222 --worker=0

or the environment variable TF_CONFIG says the same, as the schedulers of clusters set it (see
https://www.tensorflow.org/guide/distributed_training#TF_CONFIG):

    {"cluster": {"worker": ["hill:2222", "dale:2222"]}, "task": {"type": "worker", "index": 0}}

TensorFlow's server listens on all interfaces of the machine, encrypts nothing and asks nobody who they are: whoever
reaches the port can run graphs on it, and so read and write files as this user ("Running a TensorFlow server" in
TensorFlow's SECURITY.md). Use it in a network that is closed and trusted. What goes over it are tensors and protocol
buffers; nothing is pickled.
"""

import concurrent.futures
import contextlib
import dataclasses
import errno
import ipaddress
import json
import os
import re
import socket
import time

from utils.compat import tf
from utils.errors import UserError, brief, listed
from utils.progress import duration
from utils.settings import Settings, flag

JOB = 'worker'  # name of the workers' job; the chief is the first of them
_LABEL = re.compile(r'[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?')  # part of a host's name (RFC 1123; Docker's names have _)
# The first bytes of a client of HTTP/2 (RFC 9113, sections 3.4 and 6.5): its preface, and settings that say nothing.
_HELLO = b'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n' + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
_SETTINGS_FRAME = 4  # a server's first frame, too
ASK_SECONDS = 5.0  # time in which a worker that runs answers
_SAY_SECONDS = 10.0  # time between two lines about workers that are waited for


@dataclasses.dataclass(frozen=True)
class Cluster:
  """The workers of a run.

  Attributes:
    addresses: tuple of 'host:port', one for each worker.
    index: number of this worker, from 0.
  """
  addresses: tuple[str, ...]
  index: int

  @property
  def size(self):
    """Number of workers."""
    return len(self.addresses)

  @property
  def is_chief(self):
    """Whether this worker, the first, writes checkpoints and summaries."""
    return self.index == 0

  @property
  def others(self):
    """List of the numbers of the other workers."""
    return [number for number in range(self.size) if number != self.index]

  @property
  def spec(self):
    """The tf.train.ClusterSpec."""
    return tf.train.ClusterSpec({JOB: list(self.addresses)})

  def name(self, number):
    """A worker's name in messages: 'worker 1 (dale:2222)'."""
    return f'worker {number} ({self.addresses[number]})'


@dataclasses.dataclass(frozen=True)
class Workers(Settings):
  """The machines of a run.

  Attributes:
    workers: addresses of all workers, 'host:port', where an IPv6 address stands in brackets; the same list on all.
    worker: number of this worker in the list, from 0.
    wait_minutes: minutes that a worker waits for the others at the start, see `wait`.
  """
  workers: tuple[str, ...] = flag(
      (), 'machines that train together, as host:port,host:port; default: TF_CONFIG, or this alone', may_change=True)
  worker: int | None = flag(None, 'number of this machine in --workers, from 0', least=0, may_change=True)
  wait_minutes: float = flag(10.0, 'minutes to wait for the other machines at the start', least=0, may_change=True)

  def check(self):
    """Raises UserError if a setting is not valid."""
    super().check()
    _from_flags(self)


def cluster_of(settings, environ):
  """The cluster that flags or TF_CONFIG describe.

  Args:
    settings: a Workers.
    environ: the environment variables, as os.environ.

  Returns:
    a Cluster; None for a single machine.

  Raises:
    UserError: if flags or TF_CONFIG are not valid, or differ.
  """
  told, found = _from_flags(settings), _from_config(environ.get('TF_CONFIG', ''))
  if told and found and told != found:
    raise UserError(f'--workers and --worker say {_described(told)}, and TF_CONFIG says {_described(found)}; give one '
                    'of the two alone')
  cluster = told or found
  return cluster if cluster and cluster.size > 1 else None


def _described(cluster):
  return f'worker {cluster.index} of {",".join(cluster.addresses)}'


def _from_flags(settings):
  """The Cluster of a Workers; None without --workers."""
  if not settings.workers:
    if settings.worker is not None:
      raise UserError(f'--worker={settings.worker}: only with --workers, the list of all addresses')
    return None
  addresses = _addresses(settings.workers, '--workers')
  if settings.worker is None and len(addresses) > 1:
    raise UserError(f'--workers has {len(addresses)} addresses: --worker must say which is this machine, 0 to '
                    f'{len(addresses) - 1}')
  index = settings.worker or 0
  if index >= len(addresses):
    raise UserError(f'--worker={index}: --workers has {len(addresses)} addresses, valid are 0 to {len(addresses) - 1}')
  return Cluster(addresses, index)


def _from_config(text):
  """The Cluster of a TF_CONFIG; None if it is empty."""
  if not text.strip():
    return None
  try:
    config = json.loads(text)
  except (ValueError, RecursionError) as error:
    raise UserError(f'TF_CONFIG={brief(text)}: not a JSON ({error}); as {_example()}') from error
  if config == {}:
    return None
  cluster, task = (_part(config, name, dict, 'TF_CONFIG') for name in ('cluster', 'task'))
  jobs = {name: addresses for name, addresses in cluster.items() if addresses}
  kind = _part(task, 'type', str, 'task of TF_CONFIG')
  for name in (*jobs, kind):
    if name not in ('chief', JOB):
      raise UserError(f'TF_CONFIG: the job {brief(name)} is not possible; valid are "worker" and one "chief": all '
                      'machines train, and evaluate during training')
  lists = {name: _part(jobs, name, list, 'cluster of TF_CONFIG') for name in ('chief', JOB) if name in jobs}
  if len(lists.get('chief', [])) > 1:
    raise UserError(f'TF_CONFIG: {len(lists["chief"])} chiefs; one is possible')
  index, count = task.get('index'), len(lists.get(kind, []))
  if type(index) is not int or not 0 <= index < count:
    valid = f'valid are 0 to {count - 1}' if count else f'the cluster has no {kind}'
    raise UserError(f'TF_CONFIG: task {kind} with index {brief(index)}: {valid}')
  addresses = _addresses([*lists.get('chief', []), *lists.get(JOB, [])], 'TF_CONFIG')
  return Cluster(addresses, index + (len(lists.get('chief', [])) if kind == JOB else 0))


def _example():
  return json.dumps({'cluster': {JOB: ['host:2222', 'host2:2222']}, 'task': {'type': JOB, 'index': 0}})


def _part(record, name, kind, where):
  """The value `name` of a JSON object, of the Python type `kind`."""
  if not isinstance(record, dict) or not isinstance(record.get(name), kind):
    value = record.get(name) if isinstance(record, dict) else record
    raise UserError(f'{where}: "{name}" is {brief(value)}; as {_example()}')
  return record[name]


def _addresses(given, where):
  """Checks addresses.

  Args:
    given: values that should be 'host:port', each another.
    where: flag or variable that has them, for messages.

  Returns:
    tuple of 'host:port', in the form that TensorFlow takes.

  Raises:
    UserError: if one is not valid.
  """
  addresses = tuple(_address(value, where) for value in given)
  twice = next((address for number, address in enumerate(addresses) if address in addresses[:number]), None)
  if twice:
    raise UserError(f'{where}: {twice} is there twice; each worker needs an address of its own')
  return addresses


def _address(value, where):
  """One of `_addresses`."""
  host, colon, port = value.strip().lower().rpartition(':') if isinstance(value, str) else ('', '', '')
  if not (host and colon):
    raise UserError(f'{where}: {brief(value)} is no address; valid are host:port and [IPv6]:port, as dale:2222')
  if not (port.isascii() and port.isdecimal() and len(port) <= 5 and 1 <= int(port) <= 65535):
    raise UserError(f'{where}: {brief(value)} has the port {brief(port)}; valid are 1 to 65535')
  if not _is_host(host):
    raise UserError(f'{where}: {brief(value)} has the host {brief(host)}; valid are the name of a machine, its IPv4 '
                    'address, or its IPv6 address in brackets')
  return f'{host}:{int(port)}'


def _is_host(host):
  """Whether this is the name of a machine, an IPv4 address or an IPv6 address in brackets, of one machine."""
  bracketed = host.startswith('[') and host.endswith(']')
  labels = host.split('.')
  if not bracketed and not labels[-1].isdecimal():
    return len(host) <= 253 and all(_LABEL.fullmatch(label) for label in labels)
  try:
    address = ipaddress.IPv6Address(host[1:-1]) if bracketed else ipaddress.IPv4Address(host)
  except ValueError:
    return False
  return not (address.is_unspecified or address.is_multicast)


def start_server(cluster, config):
  """Starts TensorFlow's server of this worker, for a MultiWorkerMirroredStrategy in graph mode.

  Args:
    cluster: a Cluster.
    config: tf.ConfigProto of the worker's sessions, updated by `strategy.update_config_proto`: it names the leader of
      the collective ops, and keeps the sessions of a worker to its own devices.

  Returns:
    a tf.distribute.Server; sessions connect to its `target`. It ends with the process.

  Raises:
    UserError: if the port of this worker cannot be opened.
  """
  port = _split(cluster.addresses[cluster.index])[1]
  # gRPC would send what is for the other workers through an HTTP proxy that the environment names.
  os.environ['no_grpc_proxy'] = ','.join(_split(address)[0] for address in cluster.addresses)  # noqa: SIM112
  try:
    with socket.socket() as probe:  # TensorFlow's error does not say why, and prints lines of its own
      probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as gRPC does: not busy after an earlier run
      probe.bind(('', port))
    return tf.distribute.Server(cluster.spec, job_name=JOB, task_index=cluster.index, config=config)
  except (OSError, tf.errors.OpError) as error:
    number = getattr(error, 'errno', None)
    reason = {errno.EADDRINUSE: 'another program has it, or an earlier run that has not ended',
              errno.EACCES: 'this user may not open it'}.get(number, str(error))
    raise UserError(f'{cluster.name(cluster.index)}: port {port} cannot be opened here: {reason}; end it, or give '
                    'another address to all workers') from error


def _split(address):
  """The host, an IPv6 address without brackets, and the port of an address."""
  host, _, port = address.rpartition(':')
  return host.strip('[]'), int(port)


def answers(address, seconds=ASK_SECONDS):
  """Whether a gRPC server answers at an address: a port that is open is not enough, since the kernel opens it for a
  program that stands still.

  Args:
    address: 'host:port'.
    seconds: time that it may take to connect, and again to answer.
  """
  with contextlib.suppress(OSError), socket.create_connection(_split(address), seconds) as connection:
    connection.sendall(_HELLO)
    frame = connection.recv(9, socket.MSG_WAITALL)
    return len(frame) == 9 and frame[3] == _SETTINGS_FRAME
  return False


def silent(cluster, numbers, answers=answers):
  """Lists those of some workers whose servers do not answer; asks all at the same time.

  Args:
    cluster: a Cluster.
    numbers: numbers of the workers.
    answers: see `answers`.
  """
  with concurrent.futures.ThreadPoolExecutor(len(numbers)) as pool:
    replies = pool.map(answers, [cluster.addresses[number] for number in numbers])
    return [number for number, replied in zip(numbers, replies) if not replied]


def wait(cluster, minutes, numbers=None, *, clock=time.monotonic, sleep=time.sleep, answers=answers):
  """Waits until the servers of other workers answer; says which do not, every few seconds.

  Args:
    cluster: a Cluster.
    minutes: time after which to give up.
    numbers: numbers of the workers to wait for; None for all others.
    clock: function that returns seconds.
    sleep: function that waits for seconds.
    answers: see `answers`.

  Raises:
    UserError: if a worker has not answered by then.
  """
  start = said = clock()
  missing = cluster.others if numbers is None else numbers
  while True:
    missing = silent(cluster, missing, answers)
    if not missing:
      return
    now, names = clock(), listed(map(cluster.name, missing))
    if now - start >= 60 * minutes:
      raise UserError(f'no answer from {names} after {duration(now - start)}: has the command been started there, with '
                      'the same addresses, and is the port open? Then start all workers again')
    if now - said >= _SAY_SECONDS:
      print(f'waiting for {names}, {duration(60 * minutes - (now - start))} left', flush=True)
      said = now
    sleep(1.0)
