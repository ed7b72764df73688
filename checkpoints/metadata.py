"""Metadata of a run: all that its files say of its data, training and scores, as one dict. Nothing is measured here.

The model card (card.py) is made from it, and a package holds it as metadata.json.
"""

import functools
import glob
import os

import numpy as np

from checkpoints import PRETRAINED
from datasets import DATASETS
from datasets.hold_out import HELD_OUT, HoldOut
from datasets.inputs import Input
from nets import NETWORKS
from utils.best import BEST, read_best
from utils.errors import UserError
from utils.files import read_json
from utils.labels import IGNORE_LABEL
from utils.packages import METADATA, is_package

SUMMARY = ('mean_iou', 'pixel_accuracy', 'mean_accuracy', 'frequency_weighted_iou')
_SPLITS = (HELD_OUT, 'test', 'val')  # splits in the order of how much their scores say of pictures never seen
_COPIED = ('step', 'num_images', *SUMMARY, 'class_iou', 'class_accuracy', 'class_pixels', 'precision', 'samples',
           'test_flip', 'test_scales', 'crf', 'temperature', 'engine', 'hold_out')
_FLAGS = ('max_steps', 'batch_size', 'crop_size', 'scale_range', 'learning_rate', 'loss', 'precision', 'seed')
_DETAILS = ('boundary_f1', 'best', 'worst')
_CALIBRATION = ('expected_calibration_error', 'confidence', 'accuracy')


def metadata(run, results=None):
  """Collects what is known of a run.

  Args:
    run: a runs.Run; of a package, what it holds is returned.
    results: folder with what evaluate.py wrote; None for the run's.

  Returns:
    dict that JSON can hold; what is not known is None, or empty:
    `name`, `step`, `checkpoint` (file name), `is_best` (whether it is the best on a split evaluated during training);
    `network` (as in config.json), `averages` (whether the weights are moving averages);
    `classes`, `palette` (RGB), `label_values` (of the dataset's own labels), `void` (the ignored id);
    `input`: `bands` (names that the network sees), `stored_bands` (names in the pictures), `dtype`, `value_range`,
    `exif`, `alpha`;
    `dataset`: `name`, `license`, `source`, `images` (by split), `warnings`, `caution`;
    `hold_out` (as in config.json);
    `training`: `command`, `started`, `device`, `commit`, `versions`, `start` (of the weights), `flags` (some),
    `best` (best.json);
    `scores`: list, best founded first, of dicts of `file`, `split`, and of what evaluate.py wrote;
    `corruptions`: list of the same for evaluate.py --corruptions, with `mean_ious` (by corruption and severity), `mpc`,
    `rpc`; `left_out`: lines about files that are not used.

  Raises:
    UserError: if a file is broken.
  """
  if is_package(run.folder):
    stored = run.document(METADATA)
    if not isinstance(stored, dict):
      raise UserError(f'{run.folder} holds no {METADATA} of python -m checkpoints.package')
    return stored
  config, flags, seen = run.config, run.config['flags'], Input.from_config(run.config)
  best = read_best(os.path.join(run.folder, BEST))
  in_best = os.path.basename(os.path.dirname(os.path.abspath(run.checkpoint))) == BEST
  is_best = in_best and best is not None and best['step'] == run.step
  scores, corruptions, left_out = _evaluations(results or run.folder, run.step, config.get('hold_out'))
  return {
      'name': os.path.basename(os.path.abspath(run.folder)),
      'step': run.step,
      'checkpoint': os.path.basename(run.checkpoint),
      'is_best': is_best,
      'network': config['network'],
      'averages': bool(flags.get('ema_decay')),
      'classes': list(run.classes),
      'palette': run.palette.tolist(),
      'label_values': config['dataset'].get('label_values') or [],
      'void': IGNORE_LABEL,
      'input': {'bands': list(seen.names), 'stored_bands': list(seen.reading.names), 'dtype': seen.reading.dtype,
                'value_range': np.array(seen.reading.value_range).tolist(), 'exif': seen.reading.exif,
                'alpha': seen.reading.alpha},
      'dataset': _dataset(config['dataset']),
      'hold_out': config.get('hold_out'),
      'training': {**{key: config.get(key) for key in ('command', 'started', 'device', 'commit', 'versions')},
                   'start': _start(flags, config['network']['name']),
                   'flags': {name: flags[name] for name in _FLAGS if name in flags},
                   'best': best},
      'scores': scores,
      'corruptions': corruptions,
      'left_out': left_out,
  }


def _dataset(config):
  """What is known of the data, by `dataset` of config.json; a published dataset is known by its name and classes."""
  known = DATASETS.get(config.get('name'))
  if known and list(known.classes) != config['classes']:
    known = None
  return {'name': config.get('name'), 'license': known and known.license, 'source': known and known.url,
          'images': config.get('images') or {}, 'warnings': config.get('warnings') or [],
          'caution': known.caution if known else ''}


def _start(flags, name):
  """The source of the first weights, in words; None where the flags do not say."""
  if flags.get('init_from'):
    return f'the run {os.path.basename(os.path.abspath(flags["init_from"]))}'
  if 'checkpoint' not in flags:
    return None
  network = NETWORKS.get(name)
  if flags['checkpoint'] == 'none' or not (flags['checkpoint'] or (network and network.pretrained)):
    return 'random weights'
  if flags['checkpoint']:
    return f'the checkpoint {os.path.basename(flags["checkpoint"])}'
  return PRETRAINED[network.pretrained].note


def _evaluations(folder, step, hold_out):
  """What evaluate.py wrote about the weights of a step: (scores, corruptions, lines about what is left out).

  Args:
    folder: the folder with its files.
    step: the step.
    hold_out: as in the run's config.json.
  """
  scores, corruptions, left_out = [], [], []
  for path in sorted(glob.glob(os.path.join(glob.escape(folder), 'metrics-*.json'))):
    name, value = os.path.basename(path), read_json(path)
    if not isinstance(value, dict) or not ({'mean_iou', 'class_iou'} <= value.keys() or 'corruptions' in value):
      left_out.append(f'{name} was not written by evaluate.py')
    elif value.get('step') != step:
      left_out.append(f'{name} is of step {value.get("step", "unknown")}, and these weights are of step {step}')
    elif 'corruptions' in value:
      corruptions.append(_corrupted(name, value))
    else:
      scores.append(_score(name, value))
  return sorted(scores, key=functools.partial(_rank, hold_out=hold_out)), corruptions, left_out


def _score(name, value):
  """The part of a metrics file that metadata keep."""
  details = value.get('details') or {}
  calibration = details.get('calibration') or {}
  split = value.get('split') or name.removeprefix('metrics-').removesuffix('.json').split('-')[0]
  return {'file': name, 'split': split, **{key: value[key] for key in _COPIED if key in value},
          **{key: details[key] for key in _DETAILS if key in details},
          'calibration': {key: calibration[key] for key in _CALIBRATION if key in calibration}}


def _corrupted(name, value):
  """The part of a file of evaluate.py --corruptions that metadata keep; of one that was stopped, what it has."""
  means = {corruption: {severity: scores['mean_iou'] for severity, scores in by_severity.items()}
           for corruption, by_severity in value['corruptions'].items()}
  return {**_score(name, value), 'mean_ious': means, 'mpc': value.get('mpc'), 'rpc': value.get('rpc')}


def is_of_groups(score, hold_out):
  """Whether a score is that of the groups that a run held out, and not of others, which evaluate.py --hold_out names.

  Args:
    score: one of `scores` of `metadata`; of an earlier version, it does not say which groups.
    hold_out: as in the run's config.json.
  """
  own = HoldOut.from_json(hold_out)
  return score['split'] == HELD_OUT and HoldOut.from_json(score.get('hold_out', hold_out)) == own


def _rank(score, hold_out):
  """Key by which scores are sorted: the network alone first; then by what the split says; then with details."""
  plain = f'metrics-{score["split"]}.json' == score['file']
  founded = score['split'] in _SPLITS and (score['split'] != HELD_OUT or is_of_groups(score, hold_out))
  place = _SPLITS.index(score['split']) if founded else len(_SPLITS)
  return not plain, place, 'boundary_f1' not in score, score['file']
