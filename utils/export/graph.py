"""The graph that is exported: a run's network with all that belongs to it, from images to labels and probabilities."""

import dataclasses
import functools

from datasets.inputs import Input
from utils.compat import tf
from utils.inference.engines import INPUT, OUTPUTS
from utils.inference.predictor import constant_network
from utils.runs import Run


@dataclasses.dataclass(frozen=True)
class Job:
  """What is to be written, in whatever format.

  Attributes:
    run: the Run.
    about: dict for the file's metadata, see about.py.
    size: (height, width) of the images; () for any.
    flip: whether probabilities are averaged with those of the mirrored image.
    temperature: number that divides the logits.
    quantize: one of formats.QUANTIZATIONS; None for float32.
    calibration: list of images [H, W, N], from which the ranges of int8 are taken.
  """
  run: Run
  about: dict
  size: tuple = ()
  flip: bool = False
  temperature: float = 1.0
  quantize: str | None = None
  calibration: tuple = ()

  @property
  def seen(self):
    """The Input of the run."""
    return Input.from_config(self.run.config)

  @property
  def shape(self):
    """Shape of the images, a list; None for what may vary."""
    return [None, *(self.size or (None, None)), len(self.seen.reading.names)]

  def add_network(self, images):
    """Builds the network up to the tensors `labels` and `probabilities`.

    With `flip`, images and mirrored images go through as one batch, so that the weights stay in the graph once.

    Args:
      images: of `shape`, of the reading's dtype.

    Raises:
      UserError: if the checkpoint does not hold exactly the run's network.
    """
    if not self.flip:
      constant_network(self.run, images, temperature=self.temperature, portable=True)
      return
    with tf.name_scope('views'):
      _, both = constant_network(self.run, tf.concat([images, images[:, :, ::-1]], axis=0),
                                 temperature=self.temperature, portable=True)
    count = tf.shape(images)[0]
    mean = 0.5 * (both[:count] + both[count:, :, ::-1])
    tf.cast(tf.argmax(mean, axis=-1, output_type=tf.int32), tf.uint8, name='labels')
    tf.identity(mean, name='probabilities')  # an end of the graph: OpenVINO takes no others for outputs

  @functools.cached_property
  def graph_def(self):
    """The tf.GraphDef from the placeholder `images` to `labels` and `probabilities`, its weights as constants."""
    with tf.Graph().as_default() as graph:
      self.add_network(tf.placeholder(self.seen.reading.dtype, self.shape, name=INPUT))
      return tf.graph_util.extract_sub_graph(graph.as_graph_def(), OUTPUTS)
