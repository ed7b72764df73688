"""Turns VGG weights in the forms of Caffe and MatConvNet into checkpoints, and Caffe's FCNs for VOC into a run.

    python -m checkpoints.convert --input=VGG_ILSVRC_16_layers.caffemodel                # checkpoints/vgg_16.ckpt
    python -m checkpoints.convert --input=imagenet-vgg-verydeep-19.mat --net=vgg_19      # checkpoints/vgg_19.ckpt
    python -m checkpoints.convert --input=fcn8s-heavy-pascal.caffemodel                  # runs/voc-vgg_16-8s-caffe
"""

import dataclasses
import os
import shutil
import sys

import numpy as np

from checkpoints.caffe import read_caffemodel
from checkpoints.caffe_fcn import FCN_MEANS, fcn_from_caffe, is_fcn
from checkpoints.matconvnet import read_mat
from checkpoints.slim_vgg import VGG_MEANS, VGGS, from_caffe, from_matconvnet
from datasets.readers.voc import VOC
from nets import backbones, get_network
from utils import runs
from utils.compat import tf
from utils.errors import UserError, quoted, shown
from utils.files import claim, make_folder, replacing, tensorflow_path, write_json
from utils.session import cpu_config
from utils.settings import Settings, flag, overwrite_flag, run

TAPS = {backbone.name: backbone.taps for backbone in (backbones.VGG_16, backbones.VGG_19)}
_MAT, _HDF5 = b'MATLAB ', b'\x89HDF'  # first bytes of such files; a .caffemodel has no such mark


@dataclasses.dataclass(frozen=True)
class ConvertSettings(Settings):
  """Flags of `python -m checkpoints.convert`."""
  input: str | None = flag(None, 'the .caffemodel, or the .mat file of MatConvNet', required=True, path=True)
  output: str | None = flag(None, "checkpoint to write, or an FCN's run folder; default checkpoints/NET.ckpt, or "
                            'runs/voc-NET-SKIP-caffe', path=True)
  net: str = flag('vgg_16', f'network in the file: {", ".join(VGGS)}', choices=tuple(VGGS))
  overwrite: bool = overwrite_flag()


def convert(path, vgg, output=None, *, overwrite=False):
  """Converts a file to a checkpoint or a run and prints its variables.

  Args:
    path: a `.caffemodel` or a `.mat` file of MatConvNet, told apart by their contents.
    vgg: the slim_vgg.Vgg in the file.
    output: checkpoint to write, in the old single-file format (V1) of slim's; or for an FCN the run's folder.
      Default: checkpoints/NET.ckpt, or runs/voc-NET-SKIP-caffe.
    overwrite: whether a checkpoint that is there may be replaced.

  Returns:
    path of the checkpoint or of the run's folder.

  Raises:
    UserError: if the file cannot be read, holds another network, or nothing can be written; nothing is half written.
  """
  if output and os.path.exists(output) and os.path.exists(path) and os.path.samefile(path, output):
    raise UserError(f'--output={output} is the file to convert; name another')
  if _is_mat(path):
    layers, means = read_mat(path)
    if means is None:
      print(f"{shown(path)} has no average image; VGG's own mean is taken")
      means = VGG_MEANS
    variables = from_matconvnet(layers, vgg, path=path, means=means)
  else:
    layers, means = read_caffemodel(path), VGG_MEANS
    if is_fcn(layers):
      return _convert_fcn(layers, vgg, path=path, output=output)
    variables = from_caffe(layers, vgg, path=path)
  output = output or f'checkpoints/{vgg.name}.ckpt'
  write_checkpoint(output, variables, overwrite=overwrite)
  _describe(variables, means, [name for name in layers if not any(variable.endswith(f'/{name}/weights')
                                                                  for variable in variables)])
  print(f'{shown(output)}: {vgg.name}, from {shown(path)}; next: python train.py --net={vgg.name} '
        f'{quoted(f"--checkpoint={output}")}')
  return output


def _convert_fcn(layers, vgg, *, path, output):
  """Writes an FCN's run and prints its variables. Returns its folder."""
  variables, skip, left_out, notes = fcn_from_caffe(
      layers, vgg, TAPS[vgg.name], path=path, num_classes=VOC.num_classes)
  output = output or f'runs/voc-{vgg.name}-{skip}-caffe'
  settings = {'dataset': VOC.name, 'net': vgg.name, 'skip': skip, 'data_dir': f'data/{VOC.name}', 'checkpoint': path}
  write_run(output, variables, runs.make_config(settings, VOC, get_network(vgg.name)))
  _describe(variables, FCN_MEANS, left_out)
  for note in notes:
    print(note)
  print(f'{shown(output)}: FCN-{skip} on {vgg.name}, from {shown(path)}; next: python evaluate.py '
        f'{quoted(f"--ckpt={output}")}')
  return output


def _is_mat(path):
  """Whether a file is MATLAB's; any other passes for Caffe's. Raises UserError if it cannot be read, or is HDF5."""
  try:
    with open(path, 'rb') as file:
      head = file.read(len(_MAT))
  except OSError as error:
    raise UserError(f'cannot read {path}: {error.strerror}') from error
  if head.startswith(_HDF5):
    raise UserError(f'{path} is an HDF5 file; only .caffemodel in protocol buffers and .mat files can be converted')
  return head == _MAT or path.endswith('.mat')


def _describe(variables, means, left_out):
  """Prints the variables and their shapes, the file's mean, and the layers of the file that are left out."""
  for name, value in variables.items():
    print(f'  {name:<34} {"x".join(map(str, value.shape))}')
  print(f'{len(variables)} variables, {sum(value.nbytes for value in variables.values()) / 1e6:.1f} MB')
  theirs, ours = (', '.join(f'{mean:.3f}' for mean in triple) for triple in (means, backbones.RGB_MEANS))
  print(f'mean color (R, G, B): {theirs}; the biases of conv1_1 make up for the {ours} that is subtracted here')
  print(f'left out: {", ".join(left_out) or "nothing"}')


def write_checkpoint(path, variables, *, overwrite=False):
  """Writes arrays as one file in slim's old checkpoint format (V1), whole or not at all.

  Args:
    path: path of the file.
    variables: dict from name to array.
    overwrite: whether a file that is there, whose origin it does not tell, may be replaced.

  Raises:
    UserError: if the file cannot be written.
  """
  make_folder(os.path.dirname(path) or '.')
  if os.path.isdir(path):
    raise UserError(f'--output={path} is a folder; give the name of the checkpoint, as {path.rstrip("/")}/vgg_16.ckpt')
  claim([path], own=lambda there: False, overwrite=overwrite)
  with replacing(path) as temporary:
    _save(path, variables, lambda names, values: tf.raw_ops.Save(
        filename=os.fsencode(temporary), tensor_names=names, data=values))


def write_run(folder, variables, config):
  """Writes a run's folder at step 0, whole or not at all: config.json, a checkpoint, and the list that names it.

  Args:
    folder: a folder that does not exist, or is empty.
    variables: dict from name to array.
    config: contents of config.json, from utils.runs.make_config.

  Raises:
    UserError: if the folder is not empty, or nothing can be written.
  """
  folder = folder.rstrip('/')
  if os.path.exists(folder) and not (os.path.isdir(folder) and not os.listdir(folder)):
    raise UserError(f'--output={folder} is there already; name a new folder for the run')
  make_folder(os.path.dirname(folder) or '.')
  temporary = f'{folder}.{os.getpid()}.tmp'
  try:
    os.mkdir(temporary)
    write_json(os.path.join(temporary, runs.CONFIG), config)
    variables = variables | {'global_step': np.int64(0)}
    _save(folder, variables, lambda names, values: tf.raw_ops.SaveV2(
        prefix=os.path.join(tensorflow_path(temporary), 'model.ckpt-0'), tensor_names=names,
        shape_and_slices=[''] * len(names), tensors=values))
    with open(os.path.join(temporary, 'checkpoint'), 'w', encoding='utf-8') as file:
      file.write('model_checkpoint_path: "model.ckpt-0"\nall_model_checkpoint_paths: "model.ckpt-0"\n')
    os.rename(temporary, folder)
  except OSError as error:
    raise UserError(f'cannot write {folder}: {error.strerror or error}') from error
  finally:
    shutil.rmtree(temporary, ignore_errors=True)


def _save(path, variables, make_op):
  """Saves variables by the op that `make_op(names, tensors)` makes; raises UserError if it fails."""
  with tf.Graph().as_default(), tf.Session(config=cpu_config()) as session:
    values = {tf.placeholder(value.dtype, value.shape): value for value in variables.values()}
    op = make_op(list(variables), list(values))
    try:
      session.run(op, values)
    except tf.errors.OpError as error:
      raise UserError(f'cannot write {path}: {error.message.splitlines()[0]}') from error


def convert_input(settings):
  """Converts --input."""
  convert(settings.input, VGGS[settings.net], settings.output, overwrite=settings.overwrite)


def main(argv=None):
  return run(convert_input, ConvertSettings, argv, text=__doc__)


if __name__ == '__main__':
  sys.exit(main())
