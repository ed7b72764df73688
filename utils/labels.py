"""Label maps: the label of void, the edges between classes, weights that balance classes."""

import numpy as np

IGNORE_LABEL = 255  # void: pixels that are neither trained on nor scored, as in VOC's palette PNGs


def edges(labels):
  """Finds the pixels with a neighbor of another class beside, above or below them.

  Args:
    labels: integer [H, W].

  Returns:
    bool [H, W].
  """
  found = np.zeros(labels.shape, bool)
  vertical, horizontal = labels[1:] != labels[:-1], labels[:, 1:] != labels[:, :-1]
  found[1:] |= vertical
  found[:-1] |= vertical
  found[:, 1:] |= horizontal
  found[:, :-1] |= horizontal
  return found


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
