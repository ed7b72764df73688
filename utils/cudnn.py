"""How cuDNN's algorithms for convolutions on GPUs are found: tried out for each size of the images, or as it suggests.

By default TensorFlow 2.21 runs, for every new shape of every convolution, each plan that cuDNN's heuristics list, and
keeps the fastest (tensorflow/core/kernels/autotune_conv_impl.h), again for every new size of an image. Of these two
variables the first makes it take the first plan of the list without a run; kernels read it when they are made. It still
builds all plans; with the second, read with the first convolution of a process, only the first that works
(`CreateOpRunners` in xla/stream_executor/cuda/cuda_dnn.cc).
"""

import itertools
import os

SUGGESTED = {'TF_CUDNN_USE_AUTOTUNE': '0', 'TF_CUDNN_DETERMINISTIC': '1'}
# Images of one size from which a search is taken to pay: it is to cost seconds, and to save milliseconds an image.
# An estimate until benchmark_gpu's parts `sizes` and `sizes_suggested` have run on a card.
LEAST_IMAGES = 300
LOOK = 16  # images whose sizes are looked at


def search_pays(count, sizes):
  """Whether the search for the fastest algorithms pays.

  Args:
    count: number of images that will be labeled.
    sizes: iterable of their (height, width), None where unknown; the first LOOK count.
  """
  return count >= LEAST_IMAGES and len(set(itertools.islice(sizes, LOOK))) <= 1


def take_suggestions():
  """Makes convolutions that come after this, in this process, take what cuDNN suggests; variables of the user's stay.

  Must come before the first convolution of the process.
  """
  for name, value in SUGGESTED.items():
    os.environ.setdefault(name, value)
