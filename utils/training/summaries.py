"""TensorBoard summaries of a run: losses, pictures, gradients by layer, metrics."""

from utils.compat import tf
from utils.drawing.colors import full_palette
from utils.evaluation.metrics import SUMMARY

NEW_LAYERS = '00_new_layers'
RATIO_PREFIX = 'gradient_to_weight_ratio_by_layer/'  # prefix of the tags of gradient norm / weight norm, one per layer


def pictured(outputs, batch):
  """What `pictures` draws, such that a tf.cond may draw it at some steps alone.

  A tf.cond gets its inputs in every step, int32 in the memory of the host: from a GPU, labels and predictions would be
  copied there. Their ids and IGNORE_LABEL fit into uint8, which stays on the GPU.

  Args:
    outputs: a step.StepOutputs.
    batch: the batch of the outputs, as from pipeline.training_batches.

  Returns:
    dict: `image` float32 [B, H, W, N] in 0..255, `label` and `prediction` uint8 [B, H, W].
  """
  return {'image': batch['image'], 'label': tf.cast(batch['label'], tf.uint8),
          'prediction': tf.cast(outputs.predictions, tf.uint8)}


def training_summary(outputs, drawn, palette, *, loss='cross_entropy', max_images=3, shown=(0, 1, 2)):
  """Loss, learning rate, gradient norm, and pictures: image | truth | prediction.

  Args:
    outputs: a step.StepOutputs.
    drawn: dict from `pictured`.
    palette: uint8 [C, 3], RGB.
    loss: name of the loss (--loss), for the tag of its curve.
    max_images: pictures per summary.
    shown: see `pictures`.

  Returns:
    Scalar string tensor, a serialized Summary.
  """
  scalars = {
      f'loss/{loss}': outputs.loss,
      'training/learning_rate': outputs.learning_rate,
      'training/gradient_norm': outputs.gradient_norm,
  }
  # No collections: each summary is written at its own time, by its own hook.
  parts = [tf.summary.scalar(name, value, collections=[]) for name, value in scalars.items()]
  parts.append(tf.summary.image(
      'image_truth_prediction', pictures(drawn, palette, shown), max_outputs=max_images, collections=[]))
  return tf.summary.merge(parts, collections=[])


def pictures(drawn, palette, shown=(0, 1, 2)):
  """Sets images, true labels and predictions side by side, in the dataset's colors.

  Args:
    drawn: dict from `pictured`.
    palette: uint8 [C, 3], RGB.
    shown: places of the three bands that are drawn as red, green and blue.

  Returns:
    uint8 [B, H, 3 W, 3].
  """
  colors = tf.constant(full_palette(palette))
  return tf.concat([
      tf.saturate_cast(tf.gather(drawn['image'], shown, axis=-1), tf.uint8),
      *(tf.gather(colors, tf.cast(drawn[key], tf.int32)) for key in ('label', 'prediction')),
  ], axis=2)


def layer_group(name, order):
  """TensorBoard section of a variable: new layers first, then the backbone's layers from the last to the first.

  Args:
    name: the variable's name, e.g. 'InceptionV3/Mixed_7a/Branch_0/Conv2d_1a_3x3/weights'.
    order: list of 'SCOPE/LAYER' of the backbone in the order in which it was built.

  Returns:
    str such as '03_Mixed_7a', or NEW_LAYERS.
  """
  layer = '/'.join(name.split('/')[:2])
  if layer not in order:
    return NEW_LAYERS
  return f'{len(order) - order.index(layer):02d}_{layer.split("/")[1]}'


def gradient_summary(outputs, pretrained_scopes):
  """Histograms and norms of every trained variable and its gradient, grouped by layer.

  The groups are numbered from the new layers back to the stem, so that their order on the page is the order in which
  the error reaches them.

  Args:
    outputs: a step.StepOutputs.
    pretrained_scopes: scopes of the backbone.

  Returns:
    Scalar string tensor, a serialized Summary.
  """
  order = []
  for _, variable in outputs.gradients:
    layer = '/'.join(variable.op.name.split('/')[:2])
    if layer.split('/')[0] in pretrained_scopes and layer not in order:
      order.append(layer)
  parts, groups = [], {}
  for gradient, variable in outputs.gradients:
    group = layer_group(variable.op.name, order)
    groups.setdefault(group, []).append((gradient, variable))
    for kind, value in [('gradients', gradient), ('weights', variable)]:
      tag = f'{kind}_{group}/{variable.op.name}'
      parts.append(tf.summary.histogram(tag, value, collections=[]))
      parts.append(tf.summary.scalar(f'{tag}_norm', tf.norm(value), collections=[]))
  for group, pairs in groups.items():
    gradients, variables = zip(*pairs)
    norm, size = tf.linalg.global_norm(gradients), tf.linalg.global_norm(variables)
    parts.append(tf.summary.scalar(f'gradient_norm_by_layer/{group}', norm, collections=[]))
    ratio = tf.math.divide_no_nan(norm, size)  # 0 while all weights are 0: no infinity in TensorBoard
    parts.append(tf.summary.scalar(f'{RATIO_PREFIX}{group}', ratio, collections=[]))
  return tf.summary.merge(parts, collections=[])


def evaluation_summary(result, classes, split):
  """The metrics of a split as a tf.Summary: the four of the FCN paper, and the IoU of every class where it is defined.

  Args:
    result: dict from metrics.scores.
    classes: class names, index = label id.
    split: name of the split.
  """
  values = {f'{split}/{name}': result[name] for name in SUMMARY}
  values |= {f'{split}_class_iou/{name}': iou for name, iou in zip(classes, result['class_iou']) if iou == iou}
  return tf.Summary(value=[tf.Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()])
