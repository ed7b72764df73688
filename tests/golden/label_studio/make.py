"""Makes this folder's files with Label Studio's own library, outside the project's environment, whose pins it breaks:

    python3 -m venv ls && ls/bin/pip install label-studio-sdk==2.1.2 && ls/bin/python tests/golden/label_studio/make.py

`export.json` is an export as Label Studio writes it; its brush strokes are encoded by the library, but for one in
literal values, which the library decodes and only the editor writes. The library makes of it `export_min.json`
(JSON-MIN), `coco.json` (COCO), `task-*.png` (brush labels to PNG), and `rectangles.json` (corners of rectangles).
"""

import json
import os
import shutil
import tempfile

import numpy as np
from label_studio_sdk.converter import Converter, brush
from label_studio_sdk.converter.utils import convert_annotation_to_yolo_obb

FOLDER = os.path.dirname(os.path.abspath(__file__))
CONFIG = """<View><Image name="image" value="$image"/>
<BrushLabels name="brush" toName="image"><Label value="sky"/><Label value="road"/></BrushLabels>
<PolygonLabels name="outline" toName="image"><Label value="car"/><Label value="road"/></PolygonLabels>
<RectangleLabels name="box" toName="image"><Label value="car"/></RectangleLabels></View>"""
SIZES = ((23, 37), (301, 203), (17, 9))  # height and width of the pictures


def result(number, kind, size, value, from_name):
  return {'id': f'r{number}', 'type': kind, 'from_name': from_name, 'to_name': 'image', 'image_rotation': 0,
          'original_height': size[0], 'original_width': size[1], 'origin': 'manual', 'value': value}


def stroke(number, size, label, rle):
  return result(number, 'brushlabels', size, {'format': 'rle', 'rle': rle, 'brushlabels': [label]}, 'brush')


def polygon(number, size, label, points):
  return result(number, 'polygonlabels', size, {'points': points, 'closed': True, 'polygonlabels': [label]}, 'outline')


def literal_rle(values):
  """Writes values in literal runs of up to eight, as the editor does for noise, and in the editor's sizes."""
  bits = f'{len(values):032b}' + f'{7:05b}' + ''.join(f'{size - 1:04b}' for size in (3, 4, 8, 16))
  for start in range(0, len(values), 8):
    run = values[start:start + 8]
    bits += '000' + f'{len(run) - 1:03b}' + ''.join(f'{value:08b}' for value in run)
  bits += '0' * (-len(bits) % 8)
  return [int(bits[start:start + 8], 2) for start in range(0, len(bits), 8)]


def strokes():
  """The alpha of each picture's strokes, uint8 [H, W]: noise, a disc in a picture with runs above 2**16, soft noise."""
  rng = np.random.default_rng(0)
  noise = (rng.random(SIZES[0]) < 0.3).astype(np.uint8) * 255
  y, x = np.mgrid[:SIZES[1][0], :SIZES[1][1]]
  disc = ((x - 120)**2 + (y - 290)**2 < 900).astype(np.uint8) * 255
  soft = rng.choice(np.array([0, 0, 1, 128, 255], np.uint8), SIZES[2])
  return noise, disc, soft


def tasks():
  noise, disc, soft = strokes()
  literal = np.stack([np.full_like(soft, 99)] * 3 + [soft], axis=-1).ravel()
  found = [
      [stroke(1, SIZES[0], 'sky', brush.mask2rle(noise)),
       polygon(2, SIZES[0], 'car', [[12.3, 8.7], [61.9, 20.1], [55.5, 96.3], [9.9, 71.2]])],
      [stroke(3, SIZES[1], 'road', brush.mask2rle(disc)),
       polygon(4, SIZES[1], 'road', [[50, 50], [103.7, 41.1], [99, 99.5], [70.25, 60.75]])],
      [stroke(5, SIZES[2], 'sky', literal_rle(literal.tolist()))]]
  return [{'id': number, 'data': {'image': f'/data/upload/1/0123abcd-photo_{number}.png'}, 'predictions': [],
           'annotations': [{'id': 10 + number, 'completed_by': 1, 'was_cancelled': False, 'ground_truth': False,
                            'created_at': '2024-05-01T10:00:00.000000Z', 'updated_at': '2024-05-01T10:00:00.000000Z',
                            'result': results}]} for number, results in enumerate(found, 1)]


def rectangles():
  """Turned rectangles and their corners in pixels."""
  values = [{'original_width': 41, 'original_height': 29, 'x': x, 'y': y, 'width': width, 'height': height,
             'rotation': rotation} for x, y, width, height, rotation in (
                 (30, 20, 40, 30, 0), (50, 10, 45, 35, 30), (60.5, 70.25, 20.5, 60, 215), (90, 50, 30, 30, 90))]
  return [{'value': value, 'corners': convert_annotation_to_yolo_obb(value, normalize=False)} for value in values]


def write(name, content):
  with open(os.path.join(FOLDER, name), 'w', encoding='utf-8') as file:
    json.dump(content, file)


def main():
  write('export.json', tasks())
  write('rectangles.json', rectangles())
  export = os.path.join(FOLDER, 'export.json')
  converter = Converter(CONFIG, project_dir=FOLDER, download_resources=False)
  with tempfile.TemporaryDirectory() as folder:
    converter.convert_to_json_min(export, folder, is_dir=False)
    shutil.copy(os.path.join(folder, 'result.json'), os.path.join(FOLDER, 'export_min.json'))
    converter.convert_to_coco(export, folder, is_dir=False)
    shutil.copy(os.path.join(folder, 'result.json'), os.path.join(FOLDER, 'coco.json'))
  brush.convert_task_dir(converter.iter_from_json_file(export), FOLDER, out_format='png')


if __name__ == '__main__':
  main()
