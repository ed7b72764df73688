"""Profiles a training step: thread time by kind of op, and the share of the CPU's peak that convolutions reach.

    python -m utils.studies.step_profile --data_dir=data/camvid

profiles the bare step of benchmark.py in float32 and bfloat16: prints tables, and writes the same figures to a JSON
and a chart beside it. TensorFlow traces single ops: the time for which an op had a thread, waits for helper threads
included. Ops run side by side, so these times add up to more than the step takes; their shares are the result.

The peak is that of a large square matrix product in the same precision, run in turn with the step. Against it stand the
multiply-adds of the step's convolutions, counted from the shapes in the graph: a convolution has one multiply-add for
each of its outputs and each weight of that output's kernel, also where the kernel lies on padding; so have its gradient
to the weights (a few percent more as products, see training/gradients.py) and its gradient to the input, if the step
needs it.
"""

import collections
import contextlib
import dataclasses
import functools
import json
import os
import re
import sys

import numpy as np

from utils.compat import tf
from utils.drawing import canvas
from utils.drawing.colors import write_png
from utils.errors import shown
from utils.files import claim, write_json
from utils.runs import AVERAGE
from utils.session import session_config
from utils.settings import flag, run
from utils.studies import benchmark, results
from utils.studies.results import row
from utils.training import gradients

FORWARD, TO_INPUT, TO_WEIGHTS = 'convolution', 'convolution: gradient to input', 'convolution: gradient to weights'
REST = 'rest'
# TensorFlow's default names for the update of the weights in training/step.py: Adam, clipping, moving averages.
_UPDATE = '|'.join((r'Adam\w*', 'clip_by_global_norm', 'global_norm', AVERAGE.strip('/')))
# Kinds of ops, each with a pattern for 'TYPE NAME'; the first match counts. oneDNN's types have other beginnings.
KINDS = {
    'casts': r'^Cast ',
    'layout': r'^\S*(Transpose|ToTf|Reorder)\w* ',
    'optimizer, clipping, weight decay':
        rf'^\S*ApplyAdam|^\S+ ({_UPDATE})\b|/Regularizer/',
    TO_WEIGHTS: r'^\w*(Conv2DBackpropFilter\w* |MatMul \S*' + gradients.PRODUCT + ')',
    TO_INPUT: r'^\w*Conv2D\w* gradients/',
    FORWARD: r'^\w*Conv2D\w* ',
    'batch norm, with fused ReLU': r'^\w*BatchNorm\w* ',
    'ReLU': r'^\w*Relu\w* ',
    'pooling': r'^\w*Pool\w* ',
    'sums of gradients': r'^\w*AddN gradients/',
    'concatenation, slices, padding': r'^(ConcatV2|Slice|StridedSlice\w*|Split\w*|Pad\w*|GatherV2) ',
    'loss and upsampling': r'^\w*(Softmax\w*|BatchMatMul\w*|ArgMax) ',
    REST: '',
}
TOP = 15  # number of ops listed by name
PRODUCT_SIZE = 2048  # no size gives TensorFlow's product a higher speed: 1024 is as fast, 4096 is slower in bfloat16
_COLORS = (canvas.GAIN, canvas.SECOND)  # bars of the first precision and of the second
_WIDTH, _BAR = 520, 15  # pixels: length of the longest bar, height of a bar


@dataclasses.dataclass(frozen=True)
class Op:
  """One op of a traced step.

  Attributes:
    name: name of the op in the graph.
    type: TensorFlow's op type, after its graph optimizers.
    seconds: time for which it had a thread, averaged over the traced steps.
    shapes: shapes of its inputs and its outputs, as text.
  """
  name: str
  type: str
  seconds: float
  shapes: str

  @property
  def kind(self):
    """The op's key of KINDS."""
    return kind_of(self.type, self.name)


def kind_of(op_type, name):
  """The key of KINDS for an op of a type and a name."""
  return next(kind for kind, pattern in KINDS.items() if re.search(pattern, f'{op_type} {name}'))


def multiply_adds(fetch):
  """Counts the multiply-adds of every convolution, also transposed, and convolution gradient that a tensor depends on.

  Each op has a map of the size of the convolution's output: its output, or the gradient with respect to it. There is a
  multiply-add for every image, every place in this map and every weight of the kernel.

  Args:
    fetch: tf.Tensor; the convolutions on the way to it have static shapes.

  Returns:
    dict from op name to (key of KINDS, int).
  """
  counts = {}
  # An unused gradient of tf.gradients (that to the images) does not run.
  for node in tf.graph_util.extract_sub_graph(fetch.graph.as_graph_def(), [fetch.op.name]).node:
    op = fetch.graph.get_operation_by_name(node.name)
    if op.type == 'Conv2D':
      places, kernel = op.outputs[0], op.inputs[1]
    elif op.type == 'Conv2DBackpropInput':
      places, kernel = op.inputs[2], op.inputs[1]
    elif op.type == 'Conv2DBackpropFilter':
      places, kernel = op.inputs[2], op.outputs[0]
    elif op.type == 'MatMul' and kind_of(op.type, op.name) == TO_WEIGHTS:
      places, kernel = op.inputs[1], op.outputs[0]
    else:
      continue
    count = np.prod(places.shape.as_list()[:-1]) * np.prod(kernel.shape.as_list())
    counts[op.name] = kind_of(op.type, op.name), int(count)
  return counts


def trace(step):
  """Runs a step, as benchmark.bare_step yields it, under TensorFlow's tracing; returns its tf.RunMetadata."""
  metadata = tf.RunMetadata()
  step(options=tf.RunOptions(trace_level=tf.RunOptions.FULL_TRACE, output_partition_graphs=True),
       run_metadata=metadata)
  return metadata


def read_ops(traces):
  """Reads the ops of traced steps.

  Args:
    traces: list of tf.RunMetadata, as `trace` returns them.

  Returns:
    list of Op, the longest first; seconds are means over the traces.
  """
  seconds, nodes, shapes = collections.Counter(), {}, {}
  for metadata in traces:
    nodes |= {node.name: node for graph in metadata.partition_graphs for node in graph.node}
    for device in metadata.step_stats.dev_stats:
      for stats in device.node_stats:
        if stats.node_name in nodes and device.device.endswith('CPU:0'):
          seconds[stats.node_name] += (stats.op_end_rel_micros - stats.op_start_rel_micros) / 1e6 / len(traces)
          shapes[stats.node_name] = {output.slot: _shape(output.tensor_description) for output in stats.output}
  return [Op(name, nodes[name].op, value, _shapes(nodes[name], shapes)) for name, value in seconds.most_common()]


def _shape(description):
  return 'x'.join(str(dimension.size) for dimension in description.shape.dim)


def _shapes(node, shapes):
  """The shapes of a node's inputs and outputs, without those of scalars."""
  inputs = []
  for source in node.input:
    name, _, slot = source.partition(':')
    inputs.append(shapes.get(name, {}).get(int(slot or 0), ''))
  return f'{" ".join(filter(None, inputs))} -> {" ".join(filter(None, shapes[node.name].values()))}'


@contextlib.contextmanager
def square_product(precision, size):
  """Yields a function that multiplies two constant matrices of size x size in a precision of session.PRECISIONS."""
  with tf.Graph().as_default(), tf.Session(config=session_config()) as session:
    values = tf.random.normal([size, size], seed=0, dtype=tf.float32)
    factors = [tf.Variable(tf.cast(values, tf.as_dtype(precision))) for _ in range(2)]
    product = tf.matmul(*factors).op  # fetching the value would copy it to Python
    session.run(tf.global_variables_initializer())
    yield functools.partial(session.run, product)


def profile(setup, precision, *, product_size, timeline=None):
  """Times a training step and the matrix product in turn, then traces as many steps.

  Args:
    setup: a benchmark.Setup.
    precision: one of session.PRECISIONS.
    product_size: rows and columns of the matrices.
    timeline: path for a trace of one step that Chrome shows (chrome://tracing), or None.

  Returns:
    rows: list of rows from benchmark.row.
    summary: dict for the JSON: `multiply_adds` of the step's convolutions, `kinds` and `top`, lists of dicts.
  """
  with square_product(precision, product_size) as product, benchmark.bare_step(setup, precision) as step:
    counts = multiply_adds(step.loss)
    times = benchmark.in_turn({'step': step, 'product': product}, steps=setup.steps, warmup_steps=setup.warmup_steps)
    trace(step)
    traces = [trace(step) for _ in range(setup.steps)]
  if timeline:
    write_timeline(timeline, traces[-1].step_stats)
  ops, total = read_ops(traces), sum(count for _, count in counts.values())
  speeds, peaks = total / np.array(times['step']), product_size**3 / np.array(times['product'])
  rows = [row('profile', f'{precision}: bare step', 's', times['step']),
          row('profile', f'{precision}: its ops, one after the other', 's', [sum(op.seconds for op in ops)]),
          row('profile', f'{precision}: its convolutions', 'GMAC/s', speeds / 1e9),
          row('profile', f'{precision}: product of {product_size}x{product_size}', 'GMAC/s', peaks / 1e9),
          row('profile', f'{precision}: convolutions / product', 'ratio', speeds / peaks)]
  summary = {'precision': precision, 'multiply_adds': total,
             'kinds': kinds(ops, counts, step_seconds=np.median(times['step']), peak=np.median(peaks)),
             'top': [{**dataclasses.asdict(op), 'kind': op.kind, 'multiply_adds': counts.get(op.name, (op.kind, 0))[1]}
                     for op in ops[:TOP]]}
  return rows, summary


def kinds(ops, counts, *, step_seconds, peak):
  """Adds up the ops of each kind.

  Args:
    ops: list of Op.
    counts: dict from multiply_adds.
    step_seconds: duration of a step that is not traced.
    peak: multiply-adds per second of the CPU at its best.

  Returns:
    list of dicts, the longest kind first: `kind`, number of `ops`, `seconds` of thread time, `share` of the thread time
    of all ops, and for convolutions the `multiply_adds` and `of_peak`, the share of the peak reached in their share of
    the step.
  """
  total, lines = sum(op.seconds for op in ops), []
  for kind in KINDS:
    own = [op for op in ops if op.kind == kind]
    seconds = sum(op.seconds for op in own)
    line = {'kind': kind, 'ops': len(own), 'seconds': seconds, 'share': seconds / total}
    work = sum(count for own_kind, count in counts.values() if own_kind == kind)
    if work:
      line |= {'multiply_adds': work, 'of_peak': work / (line['share'] * step_seconds) / peak}
    lines.append(line)
  return sorted((line for line in lines if line['ops']), key=lambda line: -line['seconds'])


def write_timeline(path, step_stats):
  """Writes a step's ops as a trace for Chrome."""
  from tensorflow.python.client import timeline  # has no public name

  write_json(path, json.loads(timeline.Timeline(step_stats).generate_chrome_trace_format()))


def text(summary):
  """Lays out a summary from `profile` as tables."""
  lines = [f'{summary["precision"]}: {summary["multiply_adds"] / 1e9:.1f} billion multiply-adds in convolutions']
  for line in summary['kinds']:
    lines.append(f'{100 * line["share"]:5.1f} % {1000 * line["seconds"]:9.1f} ms {line["ops"]:5} ops  {line["kind"]}')
    if 'of_peak' in line:
      lines[-1] += f': {line["multiply_adds"] / 1e9:.1f} billion, at {line["of_peak"]:.2f} of the peak'
  lines.append('the longest ops:')
  for op in summary['top']:
    reached = f'  {op["multiply_adds"] / op["seconds"] / 1e9:.0f} GMAC/s' if op['multiply_adds'] else ''
    lines.append(f'{1000 * op["seconds"]:9.2f} ms  {op["type"]}  {op["shapes"]}{reached}  {op["name"]}')
  return '\n'.join(lines)


def chart(summaries):
  """Draws the time of each kind of ops, a bar for each precision.

  Args:
    summaries: list of one or two summaries from `profile`.

  Returns:
    uint8 [h, w, 3], RGB. Kinds are in the order of the first summary; kinds below 0.5 % everywhere are omitted.
  """
  by_kind = [{line['kind']: line for line in summary['kinds']} for summary in summaries]
  names = [kind for kind in dict.fromkeys(kind for lines in by_kind for kind in lines)
           if any(kind in lines and lines[kind]['share'] >= 0.005 for lines in by_kind)]
  longest = max(line['seconds'] for lines in by_kind for line in lines.values())
  height = _BAR * len(summaries) + 12
  picture, left = canvas.row_chart('thread time of a training step', names, width=_WIDTH, height=height, right=140)
  precisions = [(summary['precision'], color) for summary, color in zip(summaries, _COLORS)]
  picture.paste(canvas.MARGIN - canvas.TEXT // 2, 34, canvas.legend(precisions, width=_WIDTH))
  for index, kind in enumerate(names):
    y = canvas.TOP + height * index + 6
    for lines, color in zip(by_kind, _COLORS):
      seconds, share = (lines.get(kind, {}).get(value, 0.0) for value in ('seconds', 'share'))
      end = left + round(_WIDTH * seconds / longest)
      picture.bar(left, y, max(end, left + 1), y + _BAR - 2, color)
      picture.text(end + 6, y + _BAR // 2, f'{seconds:.3f} s, {100 * share:.1f} %')
      y += _BAR
  return picture.array()


@dataclasses.dataclass(frozen=True)
class ProfileSettings(benchmark.MeasureSettings):
  """Flags of this program."""
  steps: int = flag(20, 'timed steps', least=1)
  output: str = flag('profile.json', 'JSON to write', path=True)
  product_size: int = flag(PRODUCT_SIZE, 'rows and columns of the matrices whose product is the peak', least=1)
  timeline: bool = flag(False, 'also write traces for chrome://tracing, OUTPUT-PRECISION-timeline.json')


def work(settings):
  """Profiles a step in every precision; `settings` is a ProfileSettings."""
  stem = os.path.splitext(settings.output)[0]
  traces = [f'{stem}-{precision}-timeline.json' for precision in settings.precisions if settings.timeline]
  claim([f'{stem}.png', *traces], overwrite=settings.overwrite)
  with benchmark.prepared(settings, 'utils.studies.step_profile', data=False) as (setup, result):
    for precision in setup.precisions:
      if precision in result['parts']:
        print(f'{precision} is in {shown(settings.output)} already', flush=True)
        continue
      rows, summary = profile(setup, precision, product_size=settings.product_size,
                              timeline=f'{stem}-{precision}-timeline.json' if settings.timeline else None)
      results.add(settings.output, result, precision, rows, summary=summary)
      print(f'{text(summary)}\n', flush=True)
      write_png(f'{stem}.png', chart([part['summary'] for part in result['parts'].values()]))
  print(f'{results.table(result["results"])}\nwritten to {shown(settings.output)} and {stem}.png')


def main(argv=None):
  """Profiles; `argv` is the command line without the program's name, None for the process's own."""
  return run(work, ProfileSettings, argv, text=__doc__)


if __name__ == '__main__':
  sys.exit(main())
