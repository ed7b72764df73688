"""The training loss, over labelled pixels only."""

import numpy as np

from utils.compat import tf


def segmentation_loss(logits, labels, *, ignore_label=255, class_weights=None):
  """Softmax cross-entropy averaged over the labelled pixels of a batch.

  Args:
    logits: float32 [B, H, W, C].
    labels: int32 [B, H, W] of ids below C, and `ignore_label`, whose pixels add nothing and get no gradient.
    ignore_label: id of void pixels.
    class_weights: float [C] by which each pixel's loss is multiplied, by its class; None for ones.

  Returns:
    Scalar, in nats a pixel; 0 for a batch that is void altogether.
  """
  labelled = tf.not_equal(labels, ignore_label)
  ids = tf.where(labelled, labels, tf.zeros_like(labels))
  losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=ids, logits=logits)
  weights = tf.cast(labelled, tf.float32)
  count = tf.maximum(tf.reduce_sum(weights), 1.0)
  if class_weights is not None:
    weights *= tf.gather(tf.constant(class_weights, tf.float32), ids)
  return tf.reduce_sum(losses * weights) / count


def median_frequency_weights(class_pixels, class_image_pixels):
  """Weights that balance classes: the median frequency over the class's own.

  Eigen and Fergus, "Predicting Depth, Surface Normals and Semantic Labels", ICCV 2015, section 6.3.2; used by SegNet.

  Args:
    class_pixels: int [C], pixels of each class.
    class_image_pixels: int [C], pixels of all images in which the class occurs.

  Returns:
    float64 [C]; 0 for a class without pixels.
  """
  pixels = np.asarray(class_pixels, np.float64)
  frequency = pixels / np.maximum(class_image_pixels, 1)
  present = pixels > 0
  weights = np.zeros_like(frequency)
  weights[present] = np.median(frequency[present]) / frequency[present]
  return weights


def enet_weights(class_pixels, class_image_pixels=None):
  """Weights 1 / ln(1.02 + p) for a class of frequency p: from 1.4 for all pixels to 50 for the rarest class.

  ENet (Paszke et al., arXiv:1606.02147), section 5.2.

  Args:
    class_pixels: int [C], pixels of each class.
    class_image_pixels: unused; there so that all of CLASS_WEIGHTS are called alike.

  Returns:
    float64 [C]; 0 for a class without pixels, as in the authors' code.
  """
  del class_image_pixels
  pixels = np.asarray(class_pixels, np.float64)
  frequency = pixels / max(pixels.sum(), 1.0)
  return np.where(pixels > 0, 1.0 / np.log(1.02 + frequency), 0.0)


CLASS_WEIGHTS = {
    # Each is called with the pixels of each class, and with the pixels of all images in which it occurs.
    'median_frequency': median_frequency_weights,
    'enet': enet_weights,
}
