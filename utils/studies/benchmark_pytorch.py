"""Compares TensorFlow's speed with PyTorch's: the same network, in turn in one run, on as many threads.

    pip install -r requirements-pytorch.txt
    python -m utils.studies.benchmark_pytorch --data_dir=data/camvid

The PyTorch network is made from this project's own graph, layer by layer (utils/studies/torch_network.py), and its
outputs are first compared with TensorFlow's. A training step is forward and backward pass over a constant batch,
clipping of the gradients' global norm and Adam, with batch norm statistics frozen; inference is from pixels to labels.
PyTorch runs as its documentation advises: channels last, torch.autocast for bfloat16, inference mode, fused Adam;
eager, with batch norms folded, and compiled (which needs a C++ compiler, and minutes). Where PyTorch sees a GPU, it
runs there, as TensorFlow does where it sees one.

On CPUs this needs an idle machine: PyTorch's threads wait for each other after every operation, so that other work
slows PyTorch down many times as much as TensorFlow.
"""

import contextlib
import dataclasses
import functools
import os
import sys

import numpy as np

from nets.network import Mode
from utils import runs
from utils.compat import tf
from utils.errors import UserError
from utils.inference.predictor import Predictor
from utils.labels import IGNORE_LABEL
from utils.session import session_config
from utils.settings import flag, run
from utils.studies import benchmark, step_profile
from utils.studies.results import row
from utils.workers import default_workers

try:
  import torch
  from torch.fx.experimental import optimization

  from utils.studies import torch_network
except ImportError as _error:
  torch, _missing = None, str(_error)

# Seconds between two calls: PyTorch's OpenMP threads go on spinning for some milliseconds after their work (here 5).
PAUSE = 0.1
MOST_APART = 1e-3  # greatest difference of two logits of the same float32 network, as a share of the largest logit


def graph_of(network, num_classes, shape, mode, **options):
  """Builds a network for images of one shape in a graph of its own.

  Args:
    network: a Network.
    num_classes: number of classes.
    shape: [B, H, W, N] of the images.
    mode: a Mode; torch_network.convert takes graphs whose batch norms keep their statistics.
    **options: further keywords of the network's `logits`.

  Returns:
    `(logits, images)`: tf.Tensor, and tf.placeholder.
  """
  with tf.Graph().as_default():
    images = tf.placeholder(tf.float32, shape)
    logits, _ = network.logits(images, num_classes, mode, **options)
  return logits, images


def reference(setup, batch_size, *, dropout=False, folded=False):
  """Builds the network in a graph of its own, with random weights under which no layer is silent.

  Args:
    setup: a benchmark.Setup.
    batch_size: number of images.
    dropout: whether dropout drops, as in training.
    folded: whether batch norms are folded into the convolutions before them, as this project's are.

  Returns:
    `(logits, images, values)`: tf.Tensor, tf.placeholder, and dict from variable name to array.
  """
  rng, values = np.random.default_rng(0), {}
  logits, images = graph_of(
      setup.network, setup.dataset.num_classes, [batch_size, *setup.size, 3],
      Mode(is_training=True, dropout=dropout, freeze_batch_norm=True, fold_batch_norm=folded))
  for variable in logits.graph.get_collection(tf.GraphKeys.GLOBAL_VARIABLES):
    shape, name = variable.shape.as_list(), variable.op.name
    if len(shape) == 4:  # keeps the variance through a ReLU, as in He et al., ICCV 2015, section 2.2
      value = rng.normal(0.0, np.sqrt(2.0 / np.prod(shape[:3])), shape)
    else:
      value = rng.uniform(0.5, 1.5, shape) if name.endswith(('moving_variance', 'gamma')) else rng.normal(0, 0.1, shape)
    values[name] = value.astype(np.float32)
  return logits, images, values


def device():
  """The name of the device that PyTorch's side runs on: its GPU if it sees one, else the CPU."""
  return 'cuda' if torch.cuda.is_available() else 'cpu'


def converted(setup, batch_size, **options):
  """The network and its parameters, see torch_network.convert, on the device; `options` are those of `reference`."""
  network, parameters = torch_network.convert(*reference(setup, batch_size, **options))
  return network.to(device()), parameters


def measure_answers(setup):
  """Compares the two networks' logits and labels for a random image, in float32.

  Raises:
    UserError: if the logits differ by more than rounding errors.
  """
  pixels = np.random.default_rng(1).integers(0, 256, (1, *setup.size, 3)).astype(np.float32)
  logits, images, values = reference(setup, 1, folded=True)
  expected = tensorflow_answer(logits, {images: pixels}, values)
  network, _ = converted(setup, 1)
  with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
    found = network(torch.from_numpy(pixels).to(device())).permute(0, 2, 3, 1).cpu().numpy()
  apart, reach = np.abs(found - expected).max(), np.abs(expected).max()
  print(f"PyTorch's logits are up to {apart:.2g} from TensorFlow's, which reach {reach:.3g}", flush=True)
  if not apart <= MOST_APART * reach:
    raise UserError(f'--net={setup.network.name}: the PyTorch network differs; its logits are up to {apart:.2g} '
                    f'from TensorFlow\'s, which reach {reach:.3g}')
  same = (found.argmax(axis=-1) == expected.argmax(axis=-1)).mean()
  return [row('answers', 'greatest difference of two logits', 'of greatest', [apart / reach],
              pytorch=torch.__version__, threads=torch.get_num_threads()),
          row('answers', 'same label', 'of pixels', [same])]


def tensorflow_answer(tensor, feeds, values):
  """Evaluates a tensor, or a list of tensors, in TensorFlow on the CPU, whose float32 is float32 (GPUs have TF32).

  Args:
    tensor: tf.Tensor, or a list of tf.Tensor.
    feeds: dict from placeholder to array.
    values: dict from the name of each variable to its array.
  """
  graph = next(iter(feeds)).graph
  initializers = {variable.op.name: variable.initializer
                  for variable in graph.get_collection(tf.GraphKeys.GLOBAL_VARIABLES)}
  with tf.Session(graph=graph, config=session_config(gpu='none')) as session:
    session.run(list(initializers.values()),
                {initializer.inputs[1]: values[name] for name, initializer in initializers.items()})
    return session.run(tensor, feeds)


def mixed(images, precision):
  """A context in which PyTorch computes in a precision, see loss_function, on the device of the images."""
  low = precision != 'float32'
  return torch.autocast(images.device.type, dtype=getattr(torch, precision) if low else None, enabled=low)


def loss_function(network, precision):
  """Returns `loss(images, labels)`: cross-entropy averaged over the pixels whose label is not IGNORE_LABEL.

  Args:
    network: a module of torch_network.convert.
    precision: 'float32', or 'bfloat16' or 'float16' for PyTorch's own mixed precision (torch.autocast).
  """

  def loss(images, labels):
    with mixed(images, precision):
      logits = network(images)
    return torch.nn.functional.cross_entropy(logits.float(), labels, ignore_index=IGNORE_LABEL)

  return loss


def training_step(network, parameters, batch, *, precision, compiled, pretrained_scopes, rate=1e-4,
                  new_layers_rate=10.0, clip_norm=10.0, weight_decay=4e-5, graphed=lambda function: function):
  """Returns a function that trains the network by one step on a constant batch, and returns the loss.

  Like training.step.make_step: Adam, new layers at a higher rate, gradients clipped by their global norm. The L2 loss
  on convolution weights is Adam's `weight_decay`, by which PyTorch adds the gradient of that loss (after clipping).

  Args:
    network: a module of torch_network.convert, which is trained in place.
    parameters: its parameters, as torch_network.convert returns them.
    batch: (images, labels): float32 [B, H, W, 3] and int [B, H, W] arrays.
    precision: see loss_function.
    compiled: whether forward and backward pass go through torch.compile.
    pretrained_scopes: scopes that learn at `rate`; the others are new layers.
    rate: learning rate.
    new_layers_rate: factor on the rate of the new layers.
    clip_norm: greatest global norm of the gradients.
    weight_decay: factor of the L2 loss on convolution weights.
    graphed: function that turns a function of no arguments on the device into another, see gpu_pytorch.graphed.
  """
  groups = {}
  for name, parameter in parameters.items():
    pretrained, decays = name.split('/')[0] in pretrained_scopes, parameter.ndim == 4
    group = groups.setdefault((pretrained, decays), {
        'params': [], 'lr': rate * (1.0 if pretrained else new_layers_rate),
        'weight_decay': weight_decay if decays else 0.0})
    group['params'].append(parameter)
  place = next(iter(parameters.values())).device
  optimizer = torch.optim.Adam(list(groups.values()), fused=True, capturable=place.type == 'cuda')
  images, labels = torch.tensor(batch[0]).to(place), torch.tensor(batch[1]).long().to(place)
  loss_of = loss_function(network, precision)
  loss_of = torch.compile(loss_of) if compiled else loss_of

  def update():
    optimizer.zero_grad(set_to_none=True)
    loss = loss_of(images, labels)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(list(parameters.values()), clip_norm, foreach=True)
    optimizer.step()
    return loss.detach()

  update = graphed(update)
  return lambda: update().item()


def labeler(network, precision, *, folded=False, compiled=False):
  """Returns `labels(images)`: uint8 [B, H, W, 3] -> uint8 [B, H, W], the most probable class of every pixel.

  Args:
    network: a module of torch_network.convert, which stays unchanged.
    precision: see loss_function.
    folded: whether batch norms are folded into the convolutions before them, and convolution weights converted to the
      precision once instead of in every call.
    compiled: whether the network goes through torch.compile, with constant weights (`freezing`).
  """
  network = folded_network(network, precision) if folded else network
  place = next(network.parameters()).device
  # torch.compile freezes graphs under no_grad, but not in inference mode.
  no_gradients = torch.no_grad if compiled else torch.inference_mode
  classify = functools.partial(_classes, network, precision)
  classify = torch.compile(classify, options={'freezing': True}) if compiled else classify

  def labels(images):
    with no_gradients():
      return classify(torch.from_numpy(images).to(place)).cpu().numpy()

  return labels


def _classes(network, precision, images):
  with mixed(images, precision):
    return network(images.float()).argmax(dim=1).to(torch.uint8)


def folded_network(network, precision):
  """Copies a network, with batch norms folded into the convolutions, and convolution weights in the precision."""
  folded = optimization.fuse(network).to(memory_format=torch.channels_last)
  for module in folded.modules():
    if isinstance(module, torch.nn.Conv2d | torch.nn.ConvTranspose2d):
      module.to(getattr(torch, precision))
  return folded


def random_batch(setup):
  """A batch: float32 [B, H, W, 3] and int64 [B, H, W]."""
  rng, shape = np.random.default_rng(0), (setup.batch_size, *setup.size)
  return rng.uniform(0, 255, (*shape, 3)).astype(np.float32), rng.integers(0, setup.dataset.num_classes, shape)


def measure_train(setup):
  """Seconds of a training step in TensorFlow and in PyTorch, eager and compiled, in turn."""
  network, parameters = converted(setup, setup.batch_size, dropout=True)
  make_step = functools.partial(training_step, network, parameters, random_batch(setup),
                                pretrained_scopes=setup.network.pretrained_scopes)
  for precision in setup.precisions:
    with benchmark.bare_step(setup, precision) as step:
      yield from compared(setup, 'train', precision, {
          'TensorFlow': step, 'PyTorch eager': make_step(precision=precision, compiled=False),
          'PyTorch compiled': make_step(precision=precision, compiled=True)})


def measure_inference(setup):
  """Seconds from a batch of pixels to labels in TensorFlow and in PyTorch, in turn."""
  images = np.random.default_rng(0).integers(0, 256, (setup.batch_size, *setup.size, 3), np.uint8)
  untrained = runs.load_run(setup.checkpoint)
  network, _ = converted(setup, setup.batch_size)
  for precision in setup.precisions:
    with Predictor(untrained, precision) as predictor:
      functions = {'TensorFlow': predictor.labels, 'PyTorch eager': labeler(network, precision),
                   'PyTorch folded': labeler(network, precision, folded=True),
                   'PyTorch folded and compiled': labeler(network, precision, folded=True, compiled=True)}
      yield from compared(setup, 'inference', precision, {
          name: functools.partial(function, images) for name, function in functions.items()})


def measure_product(setup):
  """Seconds of a large square matrix product in TensorFlow and in PyTorch, in turn: the peak of each."""
  size = step_profile.PRODUCT_SIZE
  for precision in setup.precisions:
    factors = [torch.randn(size, size, dtype=getattr(torch, precision), device=device()) for _ in range(2)]
    with step_profile.square_product(precision, size) as product:
      yield from compared(setup, 'product', precision, {
          'TensorFlow': product, 'PyTorch': functools.partial(multiplied, *factors)})


def multiplied(left, right):
  """Multiplies two matrices and waits for the product."""
  product = left @ right
  if product.is_cuda:
    torch.cuda.synchronize()
  return product


def compared(setup, what, precision, functions):
  """Times the functions in turn: a row of seconds for each, and a row of ratios first / other.

  A PyTorch variant that fails is reported and skipped.

  Args:
    setup: a benchmark.Setup.
    what: key of PARTS for the rows.
    precision: arithmetic of the functions, for the rows.
    functions: dict from name to function of no arguments; the first function is TensorFlow's.
  """
  working = {}
  for name, function in functions.items():
    try:
      function()  # compiles
      working[name] = function
    except Exception as error:  # noqa: BLE001, PyTorch's compiler fails in many ways, all of which leave the others
      if not name.startswith('PyTorch'):
        raise
      print(f'{what}, {precision}: {name} fails and is skipped: {str(error).strip().splitlines()[0]}', flush=True)
  times = benchmark.in_turn(working, steps=setup.steps, warmup_steps=setup.warmup_steps, pause=PAUSE)
  first, *others = times
  return ([row(what, f'{precision}: {name}', 's', values) for name, values in times.items()]
          + [row(what, f'{precision}: {first} / {name}', 'ratio', np.divide(times[first], times[name]))
             for name in others])


PARTS = {'answers': measure_answers, 'train': measure_train, 'inference': measure_inference, 'product': measure_product}


@dataclasses.dataclass(frozen=True)
class PytorchSettings(benchmark.MeasureSettings):
  """Flags of this program."""
  steps: int = flag(20, 'timed steps', least=1)
  output: str = flag('benchmark-pytorch.json', 'JSON to write', path=True)
  what: tuple[str, ...] = flag(tuple(PARTS), 'parts to measure, in this order', choices=PARTS)


@contextlib.contextmanager
def threads_as_tensorflow():
  """Gives PyTorch, where it is installed, as many threads as TensorFlow has, inside the block."""
  if torch is None:
    yield
    return
  threads = torch.get_num_threads()
  torch.set_num_threads(default_workers())
  try:
    yield
  finally:
    torch.set_num_threads(threads)


def work(settings):
  """Compares TensorFlow with PyTorch; `settings` is a PytorchSettings. Raises UserError without PyTorch."""
  if torch is None:
    raise UserError(f'PyTorch is not installed ({_missing}): pip install -r requirements-pytorch.txt')
  if os.getloadavg()[0] > 0.5:
    print('other work slows PyTorch most: rely not even on the ratios until the machine is idle', flush=True)
  with threads_as_tensorflow():
    benchmark.measure(settings, 'utils.studies.benchmark_pytorch', PARTS, data=False)


def main(argv=None):
  """Compares; `argv` is the command line without the program's name, None for the process's own."""
  return run(work, PytorchSettings, argv, text=__doc__)


if __name__ == '__main__':
  sys.exit(main())
