"""A training step on a GPU leaves maps of pixels there: TensorFlow computes most of int32 in the host's memory."""

import functools

import gpu_kernels
import pytest

from datasets import pipeline
from nets import get_network
from nets.network import Mode
from utils.compat import tf
from utils.training import summaries
from utils.training.losses import LOSSES
from utils.training.step import make_step

pytestmark = [pytest.mark.fast, pytest.mark.skipif(
    not gpu_kernels.known(), reason='this TensorFlow has no kernels for GPUs')]

SIZE = (33, 65)  # tensors of as many elements are maps of pixels


def maps_on_host(tensors):
  return gpu_kernels.through_host(tensors, SIZE[0] * SIZE[1])


def batch_ahead():
  """A batch as train.py has it; the rest of the pipeline is on the CPU and not looked at."""
  batch, _ = pipeline.ahead(tf.data.Dataset.from_tensors({
      'image': tf.zeros([2, *SIZE, 3]), 'label': tf.zeros([2, *SIZE], tf.int32)}))
  return batch


def outputs_and_batch(tiny):
  """One step of the tiny network with all losses."""
  batch = batch_ahead()
  logits_fn = functools.partial(get_network(tiny).logits, num_classes=3, mode=Mode(is_training=True), skip='16s')
  step = make_step(logits_fn, rate=tf.constant(1e-3), pretrained_scopes=(), loss='+'.join(LOSSES),
                   class_weights=[1.0, 2.0, 3.0], clip_norm=10.0, ema_decay=0.9)
  return step(batch), batch


def test_a_step_leaves_maps_on_the_gpu(tiny, graph):
  outputs, batch = outputs_and_batch(tiny)
  drawn = summaries.pictured(outputs, batch)
  assert maps_on_host([outputs.loss, outputs.gradient_norm, *drawn.values()]) == []


@pytest.mark.parametrize('function, found', [
    (lambda label: tf.not_equal(label, 255), ['NotEqual']),
    (lambda label: tf.reshape(label, [-1]), ['Reshape']),
    (lambda label: tf.split(label, 2)[0], ['Split']),
    (lambda label: tf.cond(tf.equal(tf.train.get_or_create_global_step(), 0), lambda: label + 1, lambda: label),
     ['AddV2', 'Merge', 'Switch']),
    (lambda label: tf.not_equal(tf.cast(label, tf.int64), 255), []),
])
def test_ops_on_the_host_are_found(function, found, graph):
  label = batch_ahead()['label']
  assert sorted({line.split()[0] for line in maps_on_host([function(label)])}) == found
