"""The forms of an answer: label PNG, overlay PNG, classes as JSON, arrays for numpy."""

import dataclasses
import io
import os
from collections.abc import Callable

import numpy as np

from utils.inference.results import overlay_png


@dataclasses.dataclass(frozen=True, eq=False)
class Form:
  """A form of an answer.

  Attributes:
    media_type: its type.
    make: `make(result, about, alpha)` returns the answer, bytes or what JSON can hold, for a stream.Labelled, the
      About and the weight of the colors in an overlay.
    confidence: whether the result needs the probability of each pixel's class.
    parameters: names of the parameters in the address that it takes.
  """
  media_type: str
  make: Callable
  confidence: bool = False
  parameters: tuple = ()


@dataclasses.dataclass(frozen=True, eq=False)
class About:
  """What answers say and need of the run: the runs.Run, and the results.Numbering of its label PNGs."""
  run: object
  numbering: object

  def to_json(self):
    """The run for a client: classes with their colors and values in label PNGs, network, dataset, checkpoint."""
    config, values = self.run.config, self.numbering.values.tolist()
    classes = [{'id': number, 'name': name, 'color': color, 'value': value}
               for number, (name, color, value) in enumerate(zip(self.run.classes, self.run.palette.tolist(), values))]
    network = '-'.join(filter(None, (config['network']['name'], config['network'].get('skip'))))
    return {'network': network, 'dataset': config['dataset'].get('name'), 'step': self.run.step,
            'checkpoint': os.path.basename(self.run.checkpoint), 'classes': classes}


def _label(result, about, alpha):
  return about.numbering.png(result.label)


def _overlay(result, about, alpha):
  return overlay_png(result.image, result.label, about.run, alpha)


def _classes(result, about, alpha):
  """The classes present, the largest share first."""
  counts = np.bincount(result.label.ravel(), minlength=len(about.run.classes))
  height, width = result.label.shape
  classes = [{'id': number, 'name': about.run.classes[number], 'pixels': int(counts[number]),
              'share': round(int(counts[number]) / result.label.size, 6)}
             for number in np.argsort(-counts, kind='stable').tolist() if counts[number]]
  return {'width': width, 'height': height, 'classes': classes}


def _arrays(result, about, alpha):
  """The bytes of an .npy, uint8 [2, H, W]: ids, and the probability of each pixel's class in 255ths."""
  confidence = np.rint(np.clip(result.confidence, 0, 1) * 255).astype(np.uint8)
  file = io.BytesIO()
  np.save(file, np.stack([result.label, confidence]), allow_pickle=False)
  return file.getvalue()


FORMS = {  # path -> Form
    'label': Form('image/png', _label),
    'overlay': Form('image/png', _overlay, parameters=('alpha',)),
    'classes': Form('application/json', _classes),
    'arrays': Form('application/octet-stream', _arrays, confidence=True),
}
