"""Makes tests/golden/labelme: JSON files with random shapes, and their labels as Labelme's own code draws them.

    pip install --no-deps labelme==6.3.1 && pip install numpy==2.4.6 pillow==13.0.0 loguru scikit-image tifffile
    python tests/golden/make_labelme.py
"""

import base64
import io
import json
import pathlib
import sys
import unittest.mock

import numpy as np
from PIL import Image

for name in ('onnxruntime', 'PyQt5', 'PyQt5.QtCore', 'PyQt5.QtGui', 'PyQt5.QtWidgets', 'imgviz', 'imgviz.io'):
  sys.modules[name] = unittest.mock.MagicMock()  # of its windows, which draw nothing here
from labelme import utils  # noqa: E402

FOLDER = pathlib.Path(__file__).parent / 'labelme'
SIZES = {'a': (29, 41), 'b': (57, 33), 'c': (64, 95)}
VALUES = {'_background_': 0, 'cat': 1, 'dog': 2, 'tree': 3, '__ignore__': 255}
POINTS = {'polygon': 5, 'rectangle': 2, 'circle': 2, 'line': 2, 'linestrip': 4, 'point': 1, 'oriented_rectangle': 4}


def random_shape(rng, kind, height, width):
  """A shape of which a part may lie beyond the border."""
  shape = {'label': str(rng.choice(list(VALUES))), 'group_id': None, 'description': '', 'flags': {}, 'shape_type': kind}
  if kind != 'mask':
    points = rng.uniform((-8, -8), (width + 8, height + 8), (POINTS[kind], 2))
    if kind == 'circle':
      points[1] = points[0] + rng.uniform(0, 9, 2)
    if rng.random() < 0.3:
      points = np.round(points * 2) / 2  # halves, where rounding decides
    return {**shape, 'points': points.tolist(), 'mask': None}
  h, w = (int(value) for value in rng.integers(1, 12, 2))
  x, y = int(rng.integers(0, width - w)), int(rng.integers(0, height - h))
  buffer = io.BytesIO()
  Image.fromarray(rng.random((h, w)) < 0.6).save(buffer, 'PNG')
  return {**shape, 'points': [[x, y], [x + w - 1, y + h - 1]], 'mask': base64.b64encode(buffer.getvalue()).decode()}


def main():
  rng = np.random.default_rng(5)
  FOLDER.mkdir(exist_ok=True)
  for name, (height, width) in SIZES.items():
    shapes = [random_shape(rng, str(kind), height, width) for kind in rng.permutation([*POINTS, 'mask'] * 2)]
    content = {'version': '6.3.1', 'flags': {}, 'shapes': shapes, 'imagePath': f'{name}.png', 'imageData': None,
               'imageHeight': height, 'imageWidth': width}
    (FOLDER / f'{name}.json').write_text(json.dumps(content))
    decoded = [{**shape, 'mask': np.array(Image.open(io.BytesIO(base64.b64decode(shape['mask'])))).astype(bool)}
               if shape['mask'] else shape for shape in shapes]
    label, _ = utils.shapes_to_label((height, width), decoded, VALUES)
    Image.fromarray(label.astype(np.uint8)).save(FOLDER / f'{name}_label.png')


if __name__ == '__main__':
  main()
