"""Numbers of the server in Prometheus' text format."""

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 60)  # upper bounds of the buckets
MEDIA_TYPE = prometheus_client.CONTENT_TYPE_LATEST
prometheus_client.disable_created_metrics()


class Metrics:
  """The numbers of one server.

  Attributes:
    requests: Counter by `path` and `status`.
    seconds: Histogram by `path`: from a request's head to its answer.
    batches: Histogram of the pictures in a batch.
    network_seconds: Histogram: seconds that a batch took.
  """

  def __init__(self, max_batch, *, in_work, waiting):
    """Makes them.

    Args:
      max_batch: greatest number of pictures of a batch.
      in_work: `in_work()` is the number of requests for labels that are sent, waiting or in work.
      waiting: `waiting()` is the number of pictures that wait for the network.
    """
    self._registry = CollectorRegistry()
    ProcessCollector(registry=self._registry)  # memory, CPU time, open files
    self.requests = Counter('fcn_requests', 'Requests answered', ('path', 'status'), registry=self._registry)
    self.seconds = Histogram('fcn_request_seconds', "From a request's head to its answer", ('path',), buckets=SECONDS,
                             registry=self._registry)
    for name, text, count in (
        ('fcn_requests_in_work', 'Requests for labels that are sent, waiting or in work', in_work),
        ('fcn_pictures_waiting', 'Pictures that wait for the network', waiting)):
      Gauge(name, text, registry=self._registry).set_function(count)
    self.batches = Histogram('fcn_batch_pictures', 'Pictures of a batch', buckets=range(1, max_batch + 1),
                             registry=self._registry)
    self.network_seconds = Histogram('fcn_network_seconds', 'Seconds that a batch took', buckets=SECONDS,
                                     registry=self._registry)

  def text(self):
    """All numbers as bytes."""
    return prometheus_client.generate_latest(self._registry)
