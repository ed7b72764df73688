"""What a file says of itself: classes, colors, scores, input and output, and where it comes from."""

from checkpoints.metadata import metadata
from utils import installation
from utils.files import commit
from utils.inference.engines import INPUT
from utils.inference.exported import FORMAT
from utils.inference.predictor import weights_of

VERSION = 1
TOOLS = ('tf2onnx', 'onnx', 'onnxruntime', 'openvino', 'nncf', 'ai-edge-litert')
_COPIED = ('name', 'step', 'checkpoint', 'averages', 'network', 'classes', 'palette', 'label_values', 'void', 'dataset',
           'hold_out')
_SCORE = ('file', 'split', 'num_images', 'mean_iou', 'pixel_accuracy')


def about(run, *, size, flip, temperature, quantize, calibration):
  """Makes the dict that every exported file holds, or has beside it.

  Args:
    run: a runs.Run.
    size: (height, width) of the images; () for any.
    flip: whether probabilities are averaged with those of the mirrored image.
    temperature: number that divides the logits.
    quantize: see settings.ExportSettings.
    calibration: dict about the images that int8 was calibrated on; None without.

  Returns:
    dict that JSON can hold.
  """
  known = metadata(run)
  seen, training = known['input'], known['training']
  area = list(size) or ['height', 'width']
  score = next(iter(known['scores']), None)
  upright = 'turned upright as EXIF says' if seen['exif'] == 'turn' else 'as stored, whatever EXIF says'
  inside = ['preprocessing', *(['moving averages of the weights'] if known['averages'] else []),
            *([f'temperature {temperature:g}'] if temperature != 1 else []),
            *(['mean with the mirrored image'] if flip else [])]
  return {
      'format': FORMAT, 'version': VERSION, **{key: known[key] for key in _COPIED},
      'weights': weights_of(run).digest(),
      'input': {**seen, 'name': INPUT, 'shape': ['batch', *area, len(seen['stored_bands'])],
                'pictures': f'decoded by the caller, {upright}: nothing in the file reads EXIF'},
      'outputs': {'labels': {'dtype': 'uint8', 'shape': ['batch', *area]},
                  'probabilities': {'dtype': 'float32', 'shape': ['batch', *area, len(known['classes'])]}},
      'inside': inside, 'outside': ['tiles', 'test-time scales', 'dropout samples', 'dense CRF'],
      'temperature': temperature, 'test_flip': flip, 'quantize': quantize, 'calibration': calibration,
      'score': score and {key: score.get(key) for key in _SCORE},
      'training': {key: training[key] for key in ('commit', 'versions')},
      'exported': {'commit': commit(), 'versions': versions()},
  }


def versions():
  """Versions of Python and of the packages that make exported files, those that are installed."""
  return {name: version for name, version in installation.versions((*installation.PACKAGES, *TOOLS)).items() if version}
