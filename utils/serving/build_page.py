"""Builds a page that labels photographs in the browser, without a server that computes, from an ONNX file.

    python -m utils.export --ckpt=runs/camvid-inception_v3-8s --format=onnx
    python -m utils.serving.build_page --onnx=runs/camvid-inception_v3-8s/export/model.onnx --output_dir=site
    python -m http.server --directory=site

The page is that of utils.serve. It runs the file by onnxruntime-web (MIT license), which npm fetches in a fixed
version; any server of files can then serve the folder.
"""

import base64
import dataclasses
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile

from utils.errors import UserError, brief, quoted, shown
from utils.files import file_digest, make_folder, read_json, replacing, write_bytes, write_json
from utils.serving.page_files import FOLDER, STATIC_FILES, STATIC_POLICY
from utils.settings import Settings, flag, run

RUNTIME = 'onnxruntime-web@1.30.0'
DIGEST = 'q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=='  # SHA-512, as npm's
RUNTIME_FILES = ('ort.wasm.min.mjs', 'ort-wasm-simd-threaded.mjs', 'ort-wasm-simd-threaded.wasm')
FORMAT = 'FCN-GoogLeNet page'
COLORS = ['red', 'green', 'blue']
_CHARSET = '<meta charset="utf-8">'


@dataclasses.dataclass(frozen=True)
class PageSettings(Settings):
  """The settings of this program."""
  onnx: str = flag(None, 'ONNX file of python -m utils.export; its JSON lies beside it', required=True, path=True)
  output_dir: str = flag('site', 'folder for the page', path=True)
  runtime: str | None = flag(None, f'file of the npm package {RUNTIME} (npm pack); default: fetched by npm', path=True)


def build(settings):
  """Builds the page; `settings` is a PageSettings.

  Raises:
    UserError: if the ONNX file cannot be used, the runtime cannot be had, or a file cannot be written.
  """
  model = described(settings.onnx)
  _refuse_foreign(settings.output_dir)
  with tempfile.TemporaryDirectory() as folder:
    runtime = runtime_files(settings.runtime or _fetched(folder))
  make_folder(os.path.join(settings.output_dir, 'ort'))
  write_json(os.path.join(settings.output_dir, 'model.json'), model, own=os.path.isfile)
  for name, data in {**_page(), **{f'ort/{name}': data for name, data in runtime.items()}}.items():
    write_bytes(os.path.join(settings.output_dir, name), data, own=os.path.isfile)  # any: the folder is ours
  with replacing(os.path.join(settings.output_dir, 'model.onnx'), own=os.path.isfile) as temporary:
    shutil.copyfile(settings.onnx, temporary)
  size = model['bytes'] + sum(map(len, runtime.values()))
  print(f'{shown(settings.output_dir)}: the page, {size / 1e6:.0f} MB for a browser to load; '
        f'python -m http.server {quoted(f"--directory={settings.output_dir}")} shows it')


def described(path):
  """Reads what the page needs to know of an ONNX file.

  Returns:
    dict for model.json: `classes` (list of `id`, `name`, `color`, `value`), `network`, `dataset`, `step`, `bytes`.

  Raises:
    UserError: if the file or the JSON beside it cannot be used.
  """
  if not os.path.isfile(path):
    raise UserError(f'--onnx={path}: no such file')
  known = read_json(f'{path}.json')
  try:
    names, colors = known['classes'], known['palette']
    values = known.get('label_values') or list(range(len(names)))
    bands, dtype, shape = (known['input'][name] for name in ('stored_bands', 'dtype', 'shape'))
    classes = [{'id': number, 'name': str(name), 'color': [int(level) for level in color], 'value': value}
               for number, (name, color, value) in enumerate(zip(names, colors, values, strict=True))]
    network = '-'.join(filter(None, (known['network']['name'], known['network'].get('skip'))))
    dataset, step = known['dataset']['name'], known['step']
    digest = known['files'][os.path.basename(path)]['sha256']
  except (KeyError, TypeError, ValueError, AttributeError) as error:
    raise UserError(f'{path}.json was not written by python -m utils.export') from error
  if file_digest(path, 'sha256').hex() != digest:
    raise UserError(f'{shown(path)} is not the file that {shown(path)}.json was written for; export the run again')
  if bands != COLORS or dtype != 'uint8':
    raise UserError(f'--onnx={path}: the network takes {brief(bands)} of type {dtype}, and a browser has photographs: '
                    'red, green and blue of 8 bits')
  if known['input'].get('exif') == 'stored':
    print('note: the network was trained on photographs as they are stored; browsers turn them upright as EXIF says')
  if any(isinstance(length, int) for length in shape[1:3]):
    raise UserError(f'--onnx={path}: the network takes images of one size, {shape[1]}x{shape[2]}; export it without '
                    '--size')
  return {'format': FORMAT, 'network': network, 'dataset': dataset, 'step': step, 'bytes': os.path.getsize(path),
          'classes': classes}


def _refuse_foreign(folder):
  """Raises UserError if a folder holds files that this program did not write."""
  path = os.path.join(folder, 'model.json')
  known = read_json(path) if os.path.exists(path) else None
  if not (isinstance(known, dict) and known.get('format') == FORMAT) and os.path.isdir(folder) and os.listdir(folder):
    raise UserError(f'--output_dir={folder}: holds other files than those of this program; name another folder')


def _fetched(folder):
  """Has npm fetch the runtime's package into a folder; returns its path. Nothing of it is installed or run."""
  try:
    result = subprocess.run(['npm', 'pack', RUNTIME, '--silent', '--ignore-scripts', f'--pack-destination={folder}'],
                            capture_output=True, text=True, cwd=folder)
  except OSError as error:
    raise UserError(f'npm, which fetches {RUNTIME}, cannot be run ({error.strerror}); --runtime=FILE takes the package '
                    'from elsewhere') from error
  if result.returncode:
    lines = [line for line in result.stderr.splitlines() if line.strip()] or ['no reason given']
    raise UserError(f'npm cannot fetch {RUNTIME}: {shown(lines[0])}; --runtime=FILE takes the package from elsewhere')
  return os.path.join(folder, result.stdout.strip().splitlines()[-1])


def runtime_files(path):
  """The files of the runtime out of its package: dict from name to bytes.

  Raises:
    UserError: if it is not the package of the version that the page is for.
  """
  try:
    digest = base64.b64encode(file_digest(path, 'sha512')).decode()
  except OSError as error:
    raise UserError(f'cannot read {shown(path)}: {error.strerror}') from error
  if digest != DIGEST:
    raise UserError(f'{shown(path)} is not {RUNTIME}, or damaged: its SHA-512 differs')
  with tarfile.open(path) as package:
    return {name: package.extractfile(f'package/dist/{name}').read() for name in RUNTIME_FILES}


def _page():
  """The files of the page: dict from name to bytes. Its policy stands in the page, for servers of files send none."""
  files = {}
  for name, source in STATIC_FILES.items():
    with open(os.path.join(FOLDER, source), 'rb') as file:
      files[name] = file.read()
  policy = f'{_CHARSET}\n  <meta http-equiv="Content-Security-Policy" content="{STATIC_POLICY}">'
  files['index.html'] = files['index.html'].replace(_CHARSET.encode(), policy.encode())
  return files


def main(argv=None):
  """Builds a page; `argv` is the command line without the program's name, None for the process's own."""
  return run(build, PageSettings, argv, text=__doc__)


if __name__ == '__main__':
  sys.exit(main())
