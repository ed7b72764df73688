"""Every dataset goes from its original layout to TFRecords, through training steps to an evaluation."""

import dataclasses

import numpy as np
import originals
import pytest

from datasets import DATASETS, pipeline, records
from datasets.augmentation import Augmentation
from datasets.convert import convert
from utils.compat import slim, tf
from utils.evaluation import metrics
from utils.training.step import make_step

CROP = (24, 32)
STEPS = 2


def tiny_logits(images, num_classes):
  """A network for speed alone: the tests are about the way of the data to it and from it."""
  features = slim.conv2d(images / 127.5 - 1.0, 4, 3, scope='features')
  return slim.conv2d(features, num_classes, 1, activation_fn=None, scope='score'), {}


def train(dataset, data_dir):
  """Takes a few steps on crops. Returns the losses, and the trained weights by variable name."""
  with tf.Graph().as_default(), tf.Session() as session:
    augmentation = Augmentation(crop_size=CROP, scale_range=(0.8, 1.5), flip=True, color_jitter=0.2)
    batch = tf.data.make_one_shot_iterator(pipeline.training_batches(
        data_dir, 'train', batch_size=2, augmentation=augmentation, seed=1)).get_next()
    step = make_step(lambda images: tiny_logits(images, dataset.num_classes), rate=tf.constant(0.01),
                              pretrained_scopes=())
    loss = step(batch).loss
    session.run(tf.global_variables_initializer())
    before = session.run(tf.trainable_variables())
    losses = [session.run(loss) for _ in range(STEPS)]
    after = session.run(tf.trainable_variables())
    assert all((old != new).any() for old, new in zip(before, after, strict=True))
    return losses, dict(zip([variable.op.name for variable in tf.trainable_variables()], after, strict=True))


def evaluate(dataset, data_dir, weights):
  """Scores the trained weights on val. Returns the confusion matrix and the number of images."""
  matrix, num_images = np.zeros([dataset.num_classes] * 2, np.int64), 0
  with tf.Graph().as_default(), tf.Session() as session:
    batch = tf.data.make_one_shot_iterator(pipeline.evaluation_batches(data_dir, 'val')).get_next()
    predictions = tf.argmax(tiny_logits(batch['image'], dataset.num_classes)[0], axis=-1)
    for variable in tf.trainable_variables():
      variable.load(weights[variable.op.name], session)
    while True:
      try:
        truth, predicted = session.run([batch['label'], predictions])
      except tf.errors.OutOfRangeError:
        return matrix, num_images
      matrix += metrics.confusion_matrix(truth, predicted, dataset.num_classes)
      num_images += 1


@pytest.mark.parametrize('name', DATASETS)
def test_from_originals_to_an_evaluation(name, tmp_path):
  dataset, data_dir = DATASETS[name], str(tmp_path / 'records')
  if dataset.generate:
    dataset = dataclasses.replace(dataset, sources=lambda folder, split: DATASETS[name].sources(folder, split)[:3])
  else:
    originals.MAKERS[name](tmp_path / 'originals')
  stats = {split: convert(dataset, split, source_dir=str(tmp_path / 'originals'), data_dir=data_dir, num_workers=1,
                          num_shards=2, progress=False) for split in ('train', 'val')}
  assert stats['train']['num_examples'] >= 2 and stats['val']['num_examples'] >= 1
  assert not stats['train']['skipped'] and stats['train']['class_names'] == list(dataset.classes)
  for split in stats:
    records.verify(records.shard_paths(data_dir, split), num_classes=dataset.num_classes)

  losses, weights = train(dataset, data_dir)
  assert np.isfinite(losses).all() and weights['score/weights'].shape[-1] == dataset.num_classes
  matrix, num_images = evaluate(dataset, data_dir, weights)
  assert num_images == stats['val']['num_examples']
  np.testing.assert_array_equal(matrix.sum(axis=1), stats['val']['class_pixels'])
  assert 0 <= metrics.scores(matrix)['mean_iou'] <= 1
