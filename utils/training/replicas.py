"""Replicas: the devices that train one network together, each on its share of every batch, by tf.distribute.

A step on several replicas is the step of one device. Each part of a batch (--gradient_accumulation) is dealt out to the
replicas in equal runs of neighbors. What the loss averages over, it averages over the whole part: `total` adds up over
the replicas, and `whole` gives a replica the value of the whole part with the gradient of its own share. The sum of the
replicas' gradients is then the gradient of the loss of the whole part.
"""

import contextlib
import dataclasses

from utils.checkpoint_files import SavingAlone
from utils.cluster import JOB
from utils.compat import tf
from utils.errors import UserError

_SUM = tf.distribute.ReduceOp.SUM
PACK_BYTES = 25 << 20  # gradients are added up in packs of this size, while others are still computed


@dataclasses.dataclass(frozen=True)
class Replicas:
  """The replicas of a run.

  Attributes:
    strategy: the tf.distribute.Strategy that has one replica on each device; None for a single replica.
    first: number of this process's first replica among all.
    local: number of replicas of this process.
    count: number of all replicas.
  """
  strategy: object = None
  first: int = 0
  local: int = 1
  count: int = 1

  def check(self, batch_size, parts):
    """Raises UserError if batches cannot be dealt out in equal shares.

    Args:
      batch_size: examples in a batch, of all replicas together.
      parts: number of parts of a batch (--gradient_accumulation).
    """
    if batch_size % (parts * self.count):
      each = f' in each of --gradient_accumulation={parts} parts' if parts > 1 else ''
      raise UserError(f'--batch_size={batch_size} is the whole batch, and cannot be dealt out to {self.count} devices '
                      f'in equal shares{each}; valid are multiples of {parts * self.count}')

  def positions(self, batch_size, parts):
    """Places in a batch, ascending, of the examples that this process trains on."""
    share = batch_size // (parts * self.count)
    places = range(self.first * share, (self.first + self.local) * share)
    return [part * share * self.count + place for part in range(parts) for place in places]

  def session_config(self, config):
    """A session's tf.ConfigProto as the strategy needs it, from one of session.session_config."""
    return self.strategy.update_config_proto(config) if self.strategy else config

  def scope(self):
    """A context manager, in which variables are made with a copy on every replica."""
    return self.strategy.scope() if self.strategy else contextlib.nullcontext()

  def each(self, function, *args):
    """Calls a function for every replica of this process.

    Args:
      function: builds ops on the device of a replica; returns a nest of tensors and None.
      *args: passed on to all.

    Returns:
      its results, with a value for each replica in place of each tensor: `of_replicas` takes it apart.
    """
    if not self.strategy:
      return function(*args)
    return self.strategy.extended.call_for_each_replica(tf.autograph.experimental.do_not_convert(function), args=args)

  def of_replicas(self, value):
    """List of a value from `each`, or of a variable, on every replica of this process."""
    return list(self.strategy.experimental_local_results(value)) if self.strategy else [value]

  def first_of(self, value):
    """A value from `each` on the first replica of this process."""
    return self.of_replicas(value)[0]

  def dealt(self, batch, parts):
    """A dict of this process's tensors [B, ...] of all parts as a list of dicts, the share of each of its replicas."""
    if self.local == 1:
      return [batch]
    with tf.device('/cpu:0'):  # so that only its share goes to a replica's device
      shares = [{} for _ in range(self.local)]
      for name, tensor in batch.items():
        shape = tensor.shape.as_list()
        by_place = tf.reshape(tensor, [parts, self.local, shape[0] // (parts * self.local), *shape[1:]])
        for number, share in enumerate(shares):
          share[name] = tf.reshape(by_place[:, number], [shape[0] // self.local, *shape[1:]])
    return shares

  def joined(self, value, parts):
    """The inverse of `dealt`: a value [B, ...] from `each` as one tensor, in the order of the batch."""
    values = self.of_replicas(value)
    if self.local == 1:
      return values[0]
    shape = values[0].shape.as_list()
    dealt = tf.stack([tf.reshape(one, [parts, shape[0] // parts, *shape[1:]]) for one in values], axis=1)
    return tf.reshape(dealt, [shape[0] * self.local, *shape[1:]])

  def equal_averages(self, updated):
    """The op that sets what replicas update by themselves, the moving averages of batch norms, to its mean over all.

    Args:
      updated: the op that has updated it.
    """
    own = [variable for variable in tf.global_variables()
           if variable.synchronization == tf.VariableSynchronization.ON_READ]
    if not (self.strategy and own):
      return updated

    def on_replica():
      with tf.control_dependencies([updated]):
        values = [variable.read_value() for variable in own]
      return tf.group(*[variable.assign(value / self.count) for variable, value in zip(own, totals(values))])

    return tf.group(*self.of_replicas(self.each(on_replica)))

  def saver(self, variables):
    """A tf.train.Saver that writes variables as this process has them; it is not to restore them.

    That of tf.distribute would take the mean over all replicas, and so wait for processes that do not save.
    """
    return tf.train.Saver([self.first_of(variable) for variable in variables], builder=SavingAlone())


def replicas_of(num_gpus, cluster=None):
  """The Replicas of a run: one on each GPU of each machine, or on the CPU of each.

  The strategy is that of several machines on a single one as well: MirroredStrategy would open all GPUs by itself, with
  other options than those of the session. Gradients are added up by NCCL on GPUs, in a ring on CPUs.

  Args:
    num_gpus: number of GPUs that this machine, like every other, uses; 0 for the CPU.
    cluster: a cluster.Cluster; None for this machine alone.
  """
  if cluster is None and num_gpus <= 1:
    return Replicas()
  spec, workers, index = (cluster.spec, cluster.size, cluster.index) if cluster else (tf.train.ClusterSpec({}), 1, 0)
  resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
      spec, task_type=JOB, task_id=index, num_accelerators={'GPU': num_gpus} if num_gpus else {}, rpc_layer='grpc')
  by = tf.distribute.experimental.CommunicationImplementation
  strategy = tf.compat.v2.distribute.MultiWorkerMirroredStrategy(
      resolver, tf.distribute.experimental.CommunicationOptions(
          bytes_per_pack=PACK_BYTES, implementation=by.NCCL if num_gpus else by.RING))
  local = max(num_gpus, 1)
  return Replicas(strategy, first=index * local, local=local, count=workers * local)


def place():
  """`(number, count)` of the replica in whose function it is called; (0, 1) outside of all."""
  context = tf.distribute.get_replica_context()
  if context is None or context.num_replicas_in_sync == 1:
    return 0, 1
  return int(tf.get_static_value(context.replica_id_in_sync_group)), context.num_replicas_in_sync


def totals(tensors):
  """Sums of tensors over all replicas; no gradient goes through them.

  Args:
    tensors: list of tensors, or of None, which stays.

  Returns:
    a list; the tensors themselves for a single replica.
  """
  if place()[1] == 1:
    return tensors
  given = [tensor for tensor in tensors if tensor is not None]
  # ReplicaContext.all_reduce does not work in graphs: its gradient looks for variables by their names.
  reduced = iter(tf.distribute.get_replica_context().merge_call(
      lambda strategy, *values: strategy.extended.batch_reduce_to(_SUM, [(value, value) for value in values]),
      args=tuple(given)))
  return [None if tensor is None else tf.stop_gradient(next(reduced)) for tensor in tensors]


def total(tensor):
  """Sum of a tensor over all replicas, see `totals`."""
  return totals([tensor])[0]


def whole(tensor):
  """Sum of a tensor over all replicas, with the gradient of this replica's own."""
  return tensor if place()[1] == 1 else tensor + tf.stop_gradient(total(tensor) - tensor)


def stacked(tensor):
  """[R, ...]: a tensor of every replica; no gradient goes through it."""
  number, count = place()
  return total(tf.one_hot(number, count, dtype=tensor.dtype)[(..., *[None] * len(tensor.shape))] * tensor)
