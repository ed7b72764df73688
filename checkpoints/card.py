"""Writes the model card of a run: what it was trained on, its scores, its limits. Every figure is from a file of it.

    python -m checkpoints.card --ckpt=runs/camvid-inception_v3-8s     # card.md in the run's folder
"""

import dataclasses
import os
import sys
import urllib.parse

from checkpoints.metadata import SUMMARY, is_of_groups, metadata
from datasets.hold_out import HELD_OUT
from datasets.reading import COLORS
from utils.errors import UserError, listed, quoted, shown
from utils.evaluation.metrics import percent
from utils.files import claim, write_text
from utils.packages import CARD, is_package
from utils.runs import load_run
from utils.settings import Settings, flag, overwrite_flag, run

EVALUATE, INFERENCE = 'python evaluate.py', 'python inference.py'
WEAK = 0.5  # IoU below which the card calls a class weak
PICTURES = {'worst': 'The worst images', 'best': 'The best images', 'examples': 'Examples'}


@dataclasses.dataclass(frozen=True)
class CardSettings(Settings):
  """Flags of `python -m checkpoints.card`."""
  ckpt: str = flag(None, "run's folder, or a checkpoint in it", required=True, path=True)
  results: str | None = flag(None, "folder with what evaluate.py wrote; default: the run's", path=True)
  output: str | None = flag(None, "Markdown to write; default: card.md beside the results", path=True)
  overwrite: bool = overwrite_flag()


def card(about, ckpt, pictures=(), weights=None):
  """Makes a model card.

  Args:
    about: dict from metadata.metadata.
    ckpt: value of --ckpt in the commands that it shows.
    pictures: names of evaluate.py's pictures that stand beside the card.
    weights: of a package, what package.py says of its weights; None for a run's folder.

  Returns:
    str, Markdown.
  """
  sections = (
      _head(about), ('How to use it', _use(about, ckpt)), ('Scores', _scores(about, ckpt)),
      ('Boundaries and calibration', _details(about, ckpt)), ('Corrupted images', _corruptions(about, ckpt)),
      ('Best and worst images', _extremes(about, ckpt, pictures)),
      ('Limits', [f'- {line}' for line in limits(about, ckpt)]),
      ('Training', _training(about)), ('Data and its license', _data(about)),
      *([('Weights', _weights(weights))] if weights else []))
  head, *rest = sections
  return '\n'.join([*head, *(line for title, lines in rest for line in ('', f'## {title}', '', *lines))]) + '\n'


def text(value):
  """A name from a file as Markdown text, on one line."""
  found = shown(str(value))
  for mark in '\\`*|[]#':
    found = found.replace(mark, f'\\{mark}')
  return found.replace('&', '&amp;').replace('<', '&lt;')


def _code(command):
  return [f'    {shown(command)}']


def _command(program, ckpt, flags=''):
  """The command that starts a program on the run."""
  return f'{program} {quoted(f"--ckpt={ckpt}")}{flags}'


def _row(*cells):
  return f'| {" | ".join(cells)} |'


def _table(*titles):
  return [_row(*titles), _row(*['---'] * len(titles))]


def _described(network):
  """The network in a few words: 'inception_v3-8s with decoder_channels=64'."""
  options = [f'{name}={value:g}' for name, value in network.items()
             if name not in ('name', 'skip') and type(value) in (int, float) and (name, value) not in (
                 ('decoder_channels', 0), ('input_scale', 1))]
  name = '-'.join(text(part) for part in (network['name'], network.get('skip')) if part)
  return name + (f' with {text(", ".join(options))}' if options else '')


def _head(about):
  classes = about['classes']
  of = 'moving averages of the weights' if about['averages'] else 'weights'
  return [f'# {text(about["name"])}', '',
          f'Labels every pixel of an image as one of {len(classes)} classes: {", ".join(map(text, classes))}. The '
          f'network is {_described(about["network"])}, trained by FCN-GoogLeNet on {text(about["dataset"]["name"])}; '
          f'these are the {of} of step {about["step"]}.']


def _sees_photographs(seen):
  """Whether the pictures are photographs, by `input` of the metadata."""
  return seen['dtype'] == 'uint8' and seen['stored_bands'] == list(COLORS)


def _use(about, ckpt):
  """How to use the run, and what goes in and comes out."""
  seen = about['input']
  if _sees_photographs(seen) and seen['bands'] == list(COLORS):
    kind = 'RGB images of 8 bits'
  else:
    ranges = ', '.join(f'{low:g} to {high:g}' for low, high in seen['value_range'])
    kind = (f'images of {len(seen["stored_bands"])} bands ({", ".join(map(text, seen["stored_bands"]))}) of '
            f'{seen["dtype"]}, of which the network sees {", ".join(map(text, seen["bands"]))}'
            + (f'; values {ranges} become black and white' if ranges else ''))
  values = about['label_values']
  numbered = ', '.join(f'{text(name)} {text(value)}' for name, value in zip(about['classes'], values))
  return [*_code(_command(INFERENCE, ckpt, ' photo.jpg')), *_code(_command(EVALUATE, ckpt)), '',
          f'Input: {kind}, of any size. Output: a class for every pixel, numbered from 0 in the order above'
          + (f'; label PNGs have the values of the original labels: {numbered}' if numbered else '')
          + f'. {about["void"]} in labels is void: neither trained on nor scored, and never predicted.']


def _missing(what, ckpt, flags=''):
  """Lines that say what was not measured, and the command that does."""
  return [f'{what} The command that measures this:', '', *_code(_command(EVALUATE, ckpt, flags))]


def _settings(score):
  """The settings of an evaluation that change labels, in words."""
  scales = score.get('test_scales') or [1]
  parts = [score.get('engine') or '', score.get('precision') or '', 'mirrored too' if score.get('test_flip') else '',
           f'scales {", ".join(f"{scale:g}" for scale in scales)}' if list(scales) != [1] else '',
           f'{score["samples"]} passes with dropout' if score.get('samples') else '',
           f'temperature {score["temperature"]:g}' if score.get('temperature') not in (None, 1) else '',
           'dense CRF' if score.get('crf') else '']
  return ', '.join(filter(None, parts)) or '-'


def _scores(about, ckpt):
  scores = about['scores']
  lines = []
  if scores:
    lines += ['In percent; over all labeled pixels of the split.', '',
              *_table('split', 'images', 'mean IoU', 'pixel accuracy', 'mean accuracy', 'frequency-weighted IoU',
                      'settings', 'file')]
    lines += [_row(text(score['split']), str(score.get('num_images', '-')),
                   *(percent(score.get(key)) for key in SUMMARY), _settings(score), text(score['file']))
              for score in scores]
    lines += ['', *_by_class(scores[0], about['classes'])]
  else:
    lines += _missing('Not measured.', ckpt, ' --split=val --details')
  return lines + [line for left in about['left_out'] for line in ('', f'Left out: {text(left)}.')]


def _by_class(score, classes):
  """Table of the scores of each class."""
  iou, accuracy, pixels = (score.get(key) or {} for key in ('class_iou', 'class_accuracy', 'class_pixels'))
  return [f'By class, on {text(score["split"])} ({text(score["file"])}):', '',
          *_table('class', 'IoU', 'accuracy', 'true pixels'),
          *(_row(text(name), percent(iou.get(name)), percent(accuracy.get(name)),
                 f'{pixels[name]:,d}' if name in pixels else '-') for name in classes)]


def _details(about, ckpt):
  rows = [score for score in about['scores'] if 'boundary_f1' in score]
  if not rows:
    return _missing('Not measured.', ckpt, ' --details')
  return ['In percent. F1 of boundaries; expected calibration error, and mean confidence beside the accuracy.',
          '', *_table('split', 'boundary F1', 'calibration error', 'mean confidence', 'pixel accuracy', 'file'),
          *(_row(text(score['split']), percent(score['boundary_f1']),
                 *(percent(score['calibration'].get(key), digits) for key, digits in (
                     ('expected_calibration_error', 2), ('confidence', 1), ('accuracy', 1))),
                 text(score['file'])) for score in rows)]


def _corruptions(about, ckpt):
  if not about['corruptions'] and not _sees_photographs(about['input']):
    return ['Not measured: corruptions are of photographs.']
  if not about['corruptions']:
    return _missing('Noise, blur, weather and the like: not measured.', ckpt, ' --corruptions=all')
  lines = []
  for found in about['corruptions']:
    severities = sorted({severity for by_severity in found['mean_ious'].values() for severity in by_severity})
    lines += ['', f'Mean IoU in percent on {text(found["split"])}, by severity; {percent(found.get("mean_iou"))} on '
              f'clean images, {percent(found["mpc"])} as the mean of all corruptions ({text(found["file"])}):', '',
              *_table('corruption', *severities),
              *(_row(text(name), *(percent(values.get(severity)) for severity in severities))
                for name, values in found['mean_ious'].items())]
  return lines[1:]


def _extremes(about, ckpt, pictures):
  lines = []
  for score in about['scores']:
    for key in ('worst', 'best'):
      if score.get(key):
        names = ', '.join(f'{text(one["name"])} ({percent(one["mean_iou"])})' for one in score[key])
        lines.append(f'- {PICTURES[key]} of {text(score["split"])} by mean IoU: {names}.')
  lines = lines or _missing('Not listed.', ckpt, ' --details')
  for name in pictures:
    title = PICTURES[name.split('-')[0]]
    lines += ['', f'![{title}]({urllib.parse.quote(name)})']
  return lines


def limits(about, ckpt):
  """What the run's files say of where it is not to be trusted: a list of sentences in Markdown.

  Args:
    about: dict from metadata.metadata.
    ckpt: see `card`.
  """
  scores, data, training = about['scores'], about['dataset'], about['training']
  lines = (_of_classes(scores[0], about['classes']) if scores
           else ['It was not scored: how well it labels is not known.'])
  best = training['best']
  if about['is_best'] and best:
    split = text(best.get('split', 'the evaluated split'))
    lines.append(f'These weights scored best on {split} of all that were evaluated during training: scores on {split} '
                 'are a little too good.')
  lines += [*([data['caution']] if data['caution'] else []), *(f'The data: {text(line)}.' for line in data['warnings']),
            _of_groups(about, ckpt)]
  crop, scales = training['flags'].get('crop_size'), training['flags'].get('scale_range')
  if crop and scales:
    lines.append(f'It was trained on crops of {crop[0]}x{crop[1]} pixels (height, width) from images at {scales[0]:g} '
                 f'to {scales[1]:g} times their size. Things that look larger or smaller than there, other cameras and '
                 'other light were not tried.')
  lines += _of_confidence(scores)
  if not about['corruptions']:
    lines.append('Noise, blur, weather: not measured.')
  lines.append('Whatever is in an image, each pixel gets one of the classes above: nothing says "something else".')
  return lines


def _of_classes(score, classes):
  """Sentences about classes that are weak, or that the split does not have."""
  iou = score.get('class_iou') or {}
  weak = [f'{text(name)} {percent(iou[name])}' for name in classes if iou.get(name) is not None and iou[name] < WEAK]
  unknown = [text(name) for name in classes if iou.get(name) is None]
  where, lines = f'on {text(score["split"])}', []
  if weak:
    lines.append(f'IoU below {percent(WEAK, 0)} % {where}: {", ".join(weak)}.')
  if unknown:
    lines.append(f'Not scored {where}, since neither its labels nor the predictions have them: {", ".join(unknown)}.')
  return lines


def _of_groups(about, ckpt):
  """A sentence about groups of images (drives, patients, sites) that the training never saw."""
  held = about['hold_out']
  if not held:
    return ('No group of images (a drive, a patient, a site) was held out of the training by --hold_out: what it '
            'scores on groups that it never saw is not known from that.')
  what = listed(map(text, held.get('groups') or held.get('patterns') or ()))
  score = next((score for score in about['scores'] if is_of_groups(score, held)), None)
  if score:
    return f'{what} were held out of the training: mean IoU {percent(score["mean_iou"])} % there.'
  command = _command(EVALUATE, ckpt, f' --split={HELD_OUT}')
  return f'{what} were held out of the training and are not scored yet: `{shown(command)}`'


def _of_confidence(scores):
  """A sentence about the probabilities, beside the accuracy."""
  for score in scores:
    confidence, accuracy = (score['calibration'].get(key) for key in ('confidence', 'accuracy'))
    if confidence is not None and accuracy is not None:
      gap = confidence - accuracy
      return [f'On {text(score["split"])} its probabilities are {percent(abs(gap))} points '
              f'{"higher" if gap > 0 else "lower"} than its accuracy, on average.']
  return ['Whether its probabilities can be trusted was not measured.']


def _training(about):
  training, data = about['training'], about['dataset']
  images = ', '.join(f'{count} of {text(split)}' for split, count in data['images'].items())
  settings = ', '.join(f'{name}={"x".join(map(str, value)) if isinstance(value, list) else value}'
                       for name, value in training['flags'].items())
  versions = ', '.join(f'{name} {value}' for name, value in (training['versions'] or {}).items())
  facts = {'steps': str(about['step']), 'images': images, 'started from': training['start'], 'settings': settings,
           'on': (training['device'] or '').removeprefix('device: '), 'begun': training['started'],
           'commit': training['commit'], 'versions': versions}
  command = _code(training['command']) if training['command'] else ['The command was not noted.']
  return [*command, '', *_table('', ''), *(_row(name, text(value) if value else 'not noted')
                                           for name, value in facts.items())]


def _data(about):
  data = about['dataset']
  license_, source = data['license'], data['source']
  return [f'- Dataset: {text(data["name"])}', f'- Source: {text(source) if source else "not noted"}',
          '- License: ' + (text(license_) if license_ else 'not known; ask the authors of the images and labels'), '',
          'Whether weights inherit the terms of the images that they were trained on is not for a program to say.']


def stored_line(weights):
  """A sentence on what a package holds, of the dict that package.py makes."""
  others = '' if weights['type'] == 'float32' else ', all else as float32'
  return (f'{weights["variables"]} variables, {weights["parameters"]:,d} numbers, kernels as {weights["type"]}{others}'
          '; no state of the optimizer.')


def compared_line(weights):
  """A sentence on the labels of a package beside those of its run, of the dict that package.py makes."""
  same = weights['compared']
  if same is None:
    return f'Labels were not compared with those of the run: {weights["not_compared"]}.'
  return (f'Compared with the run on {same["images"]} images of {text(same["split"])}: {share(same)} of '
          f'{same["pixels"]:,d} pixels have the same label.')


def _weights(weights):
  rounded = ['The scores above are those of the run, before its kernels were rounded.', '']
  return [stored_line(weights), '', *(rounded if weights['type'] != 'float32' else []), compared_line(weights)]


def share(same):
  """The share of equal labels; one that is not 1 is never rounded to it."""
  return '100 %' if same['equal'] == same['pixels'] else f'{min(100 * same["equal"] / same["pixels"], 99.9999):.4f} %'


def pictures_of(about, folder):
  """Names of evaluate.py's pictures in a folder that belong to the first scores with any, in the order of PICTURES."""
  for score in about['scores']:
    suffix = score['file'].removeprefix('metrics-').removesuffix('.json')
    names = [f'{kind}-{suffix}.png' for kind in PICTURES if kind == 'examples' or kind in score]
    there = [name for name in names if os.path.exists(os.path.join(folder, name))]
    if there:
      return there
  return []


def write_card(settings):
  """Writes the card of a CardSettings."""
  if is_package(settings.ckpt):
    raise UserError(f'--ckpt={settings.ckpt} is a package; its card is {CARD} in it')
  trained = load_run(settings.ckpt)
  about, folder = metadata(trained, settings.results), settings.results or trained.folder
  output = settings.output or os.path.join(folder, 'card.md')
  beside = os.path.realpath(os.path.dirname(output) or '.') == os.path.realpath(folder)
  content = card(about, settings.ckpt, pictures_of(about, folder) if beside else ())
  claim([output], overwrite=settings.overwrite)
  write_text(output, content)
  print(f'written: {shown(output)}')


def main(argv=None):
  return run(write_card, CardSettings, argv, text=__doc__)


if __name__ == '__main__':
  sys.exit(main())
