"""A variant of course_project.py, which starts it as a process: Inception v3 with some of the project's mistakes.

    python -m utils.studies.course_variant train camvid raw+norms --net=inception_v3_raw_norms ...as train.py
    python -m utils.studies.course_variant score camvid raw+norms --ckpt=RUN ...

The network and the dataset of the variant have names of their own, which only this program knows.
"""

import contextlib
import dataclasses
import functools
import os
import sys
import unittest.mock

import numpy as np

from datasets import DATASETS, get_dataset, images, label_pictures, pipeline, prepare
from datasets.hold_out import HoldOut
from nets import NETWORKS
from nets.fcn import fcn
from utils.compat import slim, tf
from utils.errors import UserError, shown
from utils.evaluation import metrics
from utils.exits import guarded
from utils.files import write_json
from utils.inference.predictor import Predictor
from utils.labels import IGNORE_LABEL
from utils.progress import Progress
from utils.runs import load_run
from utils.session import Device
from utils.settings import Settings, flag, group, run
from utils.training.run import train
from utils.training.settings import TrainSettings

MISTAKES = {
    'raw': 'images enter the network in 0..255, not in -1..1',
    'norms': "batch norms are left out: ImageNet's kernels, with biases that start at zero",
    'squashed': 'images and labels are resized to 224x224, whatever their shape, without interpolation',
    'boundary': 'void is a class, trained and predicted',
}
BASELINE = 'baseline'  # the variant without mistakes
NET = 'inception_v3'
SIZE = (224, 224)  # of squashed images
VOID_COLOR = (224, 224, 192)  # VOC's color of boundaries
SCORES = 'course-{}.json'  # file of a run's scores on a split


@dataclasses.dataclass(frozen=True)
class ScoreSettings(Settings):
  """Flags of `score`."""
  ckpt: str | None = flag(None, 'folder of the run', required=True, path=True)
  data_dir: str | None = flag(
      None, 'folder with the TFRecords of the plain dataset, or with the originals', required=True, path=True)
  source_dir: str | None = flag(None, 'folder with the originals, where it is not --data_dir', path=True)
  split: str = flag('val', 'split to score')
  device: Device = group(Device)


def mistakes_of(variant):
  """The mistakes in a variant's name, in the order of MISTAKES: 'raw+norms' -> ('raw', 'norms'); 'baseline' has none.

  Raises:
    UserError: if there is no such mistake.
  """
  names = [] if variant == BASELINE else variant.split('+')
  unknown = [name for name in names if name not in MISTAKES]
  if unknown:
    raise UserError(f'unknown mistake {unknown[0]!r} in {variant!r}; known are {", ".join(MISTAKES)}, joined by +, and '
                    f'{BASELINE} without any')
  return tuple(name for name in MISTAKES if name in names)


def network_name(mistakes):
  """Name of the variant's network, as a value of --net."""
  return '_'.join([NET, *(mistake for mistake in mistakes if mistake in ('raw', 'norms'))])


def dataset_name(dataset, mistakes):
  """Name of the variant of a dataset, as a value of --dataset."""
  return '_'.join([dataset, *(mistake for mistake in mistakes if mistake in ('squashed', 'boundary'))])


@contextlib.contextmanager
def registered(dataset, mistakes):
  """A context in which --net and --dataset know the variant.

  Args:
    dataset: the Dataset without mistakes.
    mistakes: names of MISTAKES, in their order.
  """
  made, source = network(mistakes), faulty(dataset, mistakes)
  with unittest.mock.patch.dict(NETWORKS, {made.name: made}), unittest.mock.patch.dict(DATASETS, {source.name: source}):
    yield


def network(mistakes):
  """The Network of the variant: NET without normalized images and batch norms, as `mistakes` say."""
  backbone, changes = NETWORKS[NET].build.args[0], {}
  features = backbone.features
  if 'norms' in mistakes:
    features, changes = functools.partial(_without_norms, **features.keywords), {'batch_norm': False}
  if 'raw' in mistakes:
    features = functools.partial(_raw, features=features)
  backbone = dataclasses.replace(backbone, name=network_name(mistakes), features=features, pretrained=NET, **changes)
  made = fcn(backbone)
  with tf.Graph().as_default():
    if 'norms' in mistakes:
      made.logits(tf.zeros([1, *SIZE, 3]), 2)
    biases = tuple(sorted(variable.op.name for scope in backbone.scopes
                          for variable in tf.trainable_variables(f'{scope}/') if variable.op.name.endswith('/biases')))
  return dataclasses.replace(made, optional_scopes=biases)


def _raw(images, mode, *, features):
  """Features of an Inception whose images are not brought to [-1, 1]: what its `features` do to them is undone before.

  Args:
    images: float32 [B, H, W, N] in 0..255.
    mode: a Mode.
    features: as of a Backbone.
  """
  return features((images + 1.0) * 127.5, mode)


def _without_norms(images, mode, *, base, scope):
  """Features of an Inception built outside of slim's arg scope: a bias and a ReLU behind each convolution.

  Arguments are those of backbones._inception_features.
  """
  with slim.arg_scope([slim.conv2d], weights_regularizer=slim.l2_regularizer(mode.weight_decay)):
    _, end_points = base(images / 127.5 - 1.0, scope=scope)
  return end_points


def faulty(dataset, mistakes):
  """The Dataset of the variant: squashed, and with void as its last class, as `mistakes` say."""
  changes = {'name': dataset_name(dataset.name, mistakes)}
  if 'boundary' in mistakes:
    changes |= {'classes': (*dataset.classes, 'void'), 'palette': np.vstack([dataset.palette, [VOID_COLOR]]).astype(
        np.uint8), 'label_map': np.where(dataset.label_map == IGNORE_LABEL, dataset.num_classes,
                                         dataset.label_map).astype(dataset.label_map.dtype)}
  if 'squashed' in mistakes:
    changes |= {'generate': functools.partial(
        squashed_pair, size=SIZE, generate=dataset.generate,
        read_label=dataset.read_label or label_pictures.read_label)}
  return dataclasses.replace(dataset, **changes)


def squashed_pair(source, *, size, generate, read_label):
  """Image and raw labels of a Source, resized to `size`; `generate` and `read_label` are the Dataset's."""
  image, raw = generate(source) if generate else (images.read_rgb(source.image), read_label(source.label))
  return nearest(np.asarray(image), size), nearest(raw, size)


def nearest(array, size):
  """Resizes an array [H, W, ...] to `size`, (height, width), by its nearest pixels."""
  rows, columns = (((np.arange(there) + 0.5) * here / there).astype(int) for there, here in zip(size, array.shape))
  return array[rows][:, columns]


class CourseMetric:
  """The project's own metric (single_metrics in its colorize.py, mode `test` of its inception_FCN.py).

  It works on squashed labels. Void is one of C + 1 classes. A prediction counts as false only where the truth of the
  same image has its class; the sum of the IoUs is divided by C + 1, also where a class is in no image.
  """

  def __init__(self, num_classes):
    """Starts with no images of `num_classes` classes, without void."""
    self._truth, self._predicted, self._right = np.zeros([3, num_classes + 1], np.int64)

  def add(self, truth, prediction):
    """Adds an image: integer [H, W] of ids and IGNORE_LABEL, and integer [H, W] of ids in which void is the last."""
    void = len(self._truth) - 1
    truth = nearest(np.where(truth == IGNORE_LABEL, void, truth), SIZE)
    matrix = metrics.confusion_matrix(truth, nearest(prediction, SIZE), void + 1)
    present = matrix.sum(axis=1) > 0
    self._truth += matrix.sum(axis=1)
    self._predicted += np.where(present, matrix.sum(axis=0), 0)
    self._right += np.diag(matrix)

  def result(self):
    """dict of `mean_iou` and `pixel_accuracy`, fractions of 1."""
    union = self._truth + self._predicted - self._right
    return {'mean_iou': float((self._right / np.maximum(union, 1)).mean()),
            'pixel_accuracy': float(self._right.sum() / max(self._truth.sum(), 1))}


def own_scores(matrix):
  """The product's metric of a variant that may predict void, which is then wrong.

  Args:
    matrix: int64 [C + 1, C + 1], see metrics.confusion_matrix; the truth has no void.

  Returns:
    dict of `mean_iou` over the classes but void, and `pixel_accuracy`, fractions of 1.
  """
  result = metrics.scores(matrix)
  return {'mean_iou': float(np.nanmean(result['class_iou'][:-1])), 'pixel_accuracy': result['pixel_accuracy']}


def score(settings, *, dataset, mistakes):
  """Scores a run by both metrics, and writes SCORES into its folder.

  Args:
    settings: a ScoreSettings.
    dataset: the Dataset without mistakes.
    mistakes: names of MISTAKES.

  Raises:
    UserError: if the run or the data cannot be used, or no image has a labeled pixel.
  """
  trained, device = load_run(settings.ckpt), settings.device
  prepare.prepare(dataset, settings.data_dir, source_dir=settings.source_dir, splits=[settings.split])
  held = HoldOut.from_json(trained.config.get('hold_out'))
  matrix, course = np.zeros([dataset.num_classes + 1] * 2, np.int64), CourseMetric(dataset.num_classes)
  with Predictor(trained, device.precision, gpu=device.gpu, gpu_memory_fraction=device.gpu_memory_fraction) as (
      predictor), Progress(None, 'images', label=settings.split) as progress:
    for _, image, truth in pipeline.examples(settings.data_dir, settings.split, held):
      seen = nearest(image, SIZE) if 'squashed' in mistakes else image
      prediction = nearest(predictor.labels(seen[np.newaxis])[0], truth.shape)
      matrix += metrics.confusion_matrix(truth, prediction, len(matrix))
      course.add(truth, prediction)
      progress.update()
  if not matrix.any():
    raise UserError(f'split {settings.split!r} in {settings.data_dir} has no labeled pixel')
  scores = {'mistakes': list(mistakes), 'step': trained.step, 'own': own_scores(matrix),
            'course': course.result()}
  path = os.path.join(settings.ckpt, SCORES.format(settings.split))
  write_json(path, scores)
  print(f'{shown(path)}: {scores}')


def main(argv=None):
  """Trains or scores; `argv` is the command line without the program's name, None for the process's own."""
  words = sys.argv[1:] if argv is None else argv

  def program():
    if len(words) < 3 or words[0] not in ('train', 'score'):
      raise UserError(f'{" ".join(words)}: wanted are train or score, a dataset and a variant, before the flags')
    mistakes, plain = mistakes_of(words[2]), get_dataset(words[1])
    with registered(plain, mistakes):
      if words[0] == 'score':
        return run(functools.partial(score, dataset=plain, mistakes=mistakes), ScoreSettings, words[3:], text=__doc__)
      return run(train, TrainSettings, words[3:], text=__doc__)

  return guarded(program, typed=argv is None)


if __name__ == '__main__':
  from utils.studies import course_variant  # by its name: the processes that convert images do not know `__main__`

  sys.exit(course_variant.main())
