"""Converted VGGs and FCNs compute the same as the files' networks, by OpenCV's Caffe reader and scipy."""

import dataclasses
import json
import os

import cv2
import numpy as np
import pytest
import scipy.signal
from programs import assert_refused
from vgg_files import THIN_16, THIN_19, prototxt, vgg_layers, write_caffemodel, write_fcn, write_mat

import checkpoints
from checkpoints import convert
from checkpoints.caffe import read_caffemodel
from checkpoints.caffe_fcn import FCN_MEANS, fcn_from_caffe
from checkpoints.slim_vgg import VGG_MEANS, VGGS
from datasets.readers.voc import VOC
from nets import NETWORKS, backbones
from nets.fcn import fcn
from utils import runs
from utils.compat import slim, tf
from utils.errors import UserError
from utils.inference.predictor import Predictor
from utils.training import warm_start

IMAGE = np.random.default_rng(7).integers(0, 256, [224, 224, 3]).astype(np.float32)  # RGB
CLASSES = VOC.num_classes


def variables_of(path):
  reader = tf.train.load_checkpoint(str(path))
  return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


def thin_vgg(images, vgg, padding='SAME'):
  """slim's layers in other depths, images RGB in 0..255; a dict of end points."""
  net, end_points = images - backbones.RGB_MEANS, {}
  with tf.variable_scope(vgg.name), slim.arg_scope(slim.nets.vgg.vgg_arg_scope()):
    for block, (repeats, depth) in enumerate(zip(vgg.repeats, vgg.depths), start=1):
      net = slim.repeat(net, repeats, slim.conv2d, depth, 3, scope=f'conv{block}')
      end_points[f'pool{block}'] = net = slim.max_pool2d(net, 2, scope=f'pool{block}')
    net = slim.conv2d(net, vgg.hidden, 7, padding=padding, scope='fc6')
    end_points['fc7'] = slim.conv2d(net, vgg.hidden, 1, scope='fc7')
  return end_points


def classify(images, checkpoint, vgg):
  """pool5 and the scores of a thin VGG that starts from a checkpoint as train.py does."""
  with tf.Graph().as_default(), tf.Session() as session:
    end_points = thin_vgg(tf.constant(images[None]), vgg, 'VALID')
    with tf.variable_scope(vgg.name):
      scores = slim.conv2d(end_points['fc7'], vgg.num_classes, 1, activation_fn=None, scope='fc8')
    session.run(tf.global_variables_initializer())
    init_fn, names = warm_start.restore_pretrained(str(checkpoint), (vgg.name,))
    assert len(names) == 2 * len(vgg.shapes())
    init_fn(None, session)
    return session.run([end_points['pool5'], scores])


def run_caffe(tmp_path, text, caffemodel, image, means, *outputs):
  """What OpenCV computes, as [height, width, channels] (or [channels])."""
  (tmp_path / 'deploy.prototxt').write_text(text)
  net = cv2.dnn.readNetFromCaffe(str(tmp_path / 'deploy.prototxt'), str(caffemodel))
  bgr = (image - means)[:, :, ::-1].transpose(2, 0, 1)[None]
  net.setInput(np.ascontiguousarray(bgr, np.float32), 'data')
  return [np.moveaxis(array[0], 0, -1) for array in net.forward(list(outputs))]


def assert_close(found, wanted, tolerance=1e-4):
  assert np.ptp(wanted) > 0.1
  np.testing.assert_allclose(found, wanted, atol=tolerance * np.abs(wanted).max())


@pytest.mark.parametrize('vgg, v1', [(THIN_16, True), (THIN_19, False)])
def test_classifier_computes_what_opencv_computes(tmp_path, capsys, vgg, v1):
  """V1 messages with inner products, as VGG's own files have them; and today's with convolutions."""
  model = write_caffemodel(tmp_path / 'vgg.caffemodel', vgg_layers(vgg, inner_products=v1), v1=v1)
  path = convert.convert(str(model), vgg, str(tmp_path / 'new' / 'vgg.ckpt'))
  pool5, scores = run_caffe(tmp_path, prototxt(vgg, 224, 224, inner_products=v1), model, IMAGE, VGG_MEANS,
                            'pool5', 'fc8')
  found_pool5, found_scores = classify(IMAGE, path, vgg)
  assert pool5.shape == (7, 7, vgg.depths[-1])
  assert_close(found_pool5[0], pool5)
  assert_close(found_scores.ravel(), scores.ravel())
  printed = capsys.readouterr().out
  assert f'{vgg.name}/conv1/conv1_1/weights    ' in printed and f'3x3x3x{vgg.depths[0]}' in printed
  assert f'{2 * len(vgg.shapes())} variables' in printed and 'left out: nothing' in printed
  assert os.listdir(tmp_path / 'new') == ['vgg.ckpt']  # one file, nothing temporary


@pytest.mark.parametrize('old', [False, True])
def test_mat_computes_what_scipy_computes(tmp_path, old):
  """RGB, kernels not turned, and the file's own mean, 2 to 5 gray levels from slim's, subtracted."""
  layers = {name: (arrays[0].transpose(2, 3, 1, 0), arrays[1]) for name, (_, arrays) in vgg_layers(THIN_19).items()}
  means = np.array([118.5, 114.25, 106.0])
  image = np.broadcast_to(means, [224, 224, 3]) if old else means.reshape(1, 1, 3)
  path = convert.convert(str(write_mat(tmp_path / 'vgg.mat', layers, image, old=old)), THIN_19,
                         str(tmp_path / 'vgg.ckpt'))
  net = IMAGE[:20, :26].astype(np.float64) - means
  with tf.Graph().as_default(), tf.Session() as session:
    images = tf.constant(IMAGE[None, :20, :26]) - backbones.RGB_MEANS
    for name in ('conv1_1', 'conv1_2'):
      kernel, biases = (variables_of(path)[f'vgg_19/conv1/{name}/{kind}'] for kind in ('weights', 'biases'))
      images = tf.nn.relu(tf.nn.conv2d(images, kernel, 1, 'SAME') + biases)
      net = np.stack([sum(scipy.signal.correlate2d(net[:, :, i], layers[name][0][:, :, i, o], 'same')
                          for i in range(net.shape[2])) for o in range(kernel.shape[3])], axis=-1)
      net = np.maximum(net + layers[name][1], 0)
    found = session.run(images)[0]
  assert_close(found[2:-2, 2:-2], net[2:-2, 2:-2], 1e-5)  # at the border, zeros stand for another color


@pytest.fixture
def thin_network(monkeypatch):
  """`vgg_16` of the registry, thin and with no padding beyond the next multiple of 32."""
  network = fcn(dataclasses.replace(
      backbones.VGG_16, margin=0, features=lambda images, mode: thin_vgg(images, THIN_16)))
  monkeypatch.setitem(NETWORKS, 'vgg_16', network)
  return network


def logits_of(run, image):
  with tf.Graph().as_default(), tf.Session() as session:
    logits, _ = NETWORKS['vgg_16'].logits(tf.constant(image[None]), CLASSES, skip=run.config['network']['skip'])
    tf.train.Saver().restore(session, run.checkpoint)
    return session.run(logits)[0]


# The lattices of cells coincide with 3 pixels before the image: it lacks 6 or 7 to a multiple of 32.
LARGE = np.random.default_rng(3).integers(0, 256, [19 * 32 - 6, 20 * 32 - 7, 3]).astype(np.float32)
REACH = 256  # pixels that a logit depends on, to each side, at most


@pytest.mark.parametrize('kind', ['heavy', 'at-once', '2014'])
def test_fcn_computes_what_opencv_computes(tmp_path, capsys, thin_network, kind):
  """Through the released net's own padding by 100, crops and transposed convolutions, and through a run's folder."""
  heads = write_fcn(tmp_path / 'fcn.caffemodel', kind)
  run = runs.load_run(convert.convert(str(tmp_path / 'fcn.caffemodel'), THIN_16, str(tmp_path / 'run')))
  text = prototxt(THIN_16, *LARGE.shape[:2], heads, pad=100)
  wanted, = run_caffe(tmp_path, text, tmp_path / 'fcn.caffemodel', LARGE, FCN_MEANS, 'score')
  found = logits_of(run, LARGE)
  assert found.shape == wanted.shape == (*LARGE.shape[:2], CLASSES)
  inside = (slice(REACH, -REACH),) * 2
  assert_close(found[inside], wanted[inside])
  assert 'is bilinear' in capsys.readouterr().out
  assert run.step == 0 and run.classes == VOC.classes and run.config['network'] == {'name': 'vgg_16', 'skip': '8s'}
  np.testing.assert_array_equal(run.palette, VOC.palette)


@pytest.mark.parametrize('skip, left_out', [('8s', ()), ('16s', ('score_pool3', 'upscore_pool4', 'upscore8')), (
    '32s', ('score_pool3', 'upscore_pool4', 'upscore8', 'score_pool4', 'upscore2'))])
def test_run_is_taken_by_the_predictor(tmp_path, thin_network, skip, left_out):
  """All three of the released strides; evaluate.py and inference.py run a Predictor on a loaded run."""
  write_fcn(tmp_path / 'whole', 'heavy')
  layers = {name: ('Convolution', arrays) for name, arrays in read_caffemodel(tmp_path / 'whole').items()
            if name not in left_out}
  write_caffemodel(tmp_path / 'fcn', layers)
  folder = convert.convert(str(tmp_path / 'fcn'), THIN_16, str(tmp_path / 'run'))
  os.rename(folder, tmp_path / 'moved')
  run = runs.load_run(str(tmp_path / 'moved'))
  assert run.config['network']['skip'] == skip and run.config['flags']['data_dir'] == 'data/voc'
  with Predictor(run) as predictor:
    labels = predictor.labels(IMAGE[None, :50, :71].astype(np.uint8))[0]
  np.testing.assert_array_equal(labels, logits_of(run, IMAGE[:50, :71]).argmax(axis=-1))
  assert len(np.unique(labels)) > 1


def test_upscore_of_each_class_by_itself(tmp_path):
  """As many groups as classes; a last upsampling that is not bilinear gives a warning."""
  write_fcn(tmp_path / 'whole', 'heavy')
  layers = read_caffemodel(tmp_path / 'whole')
  kernel = np.random.default_rng(5).normal(size=(CLASSES, 1, 4, 4)).astype(np.float32)
  layers |= {'upscore2': [kernel], 'upscore8': [layers['upscore8'][0] * 1.1], 'fc8': [np.ones([2, 9]), np.ones(2)]}
  variables, _, left_out, notes = fcn_from_caffe(layers, THIN_16, backbones.VGG_16.taps, path='f', num_classes=21)
  dense = variables['fcn/upscore_16/weights']
  assert dense.shape == (4, 4, CLASSES, CLASSES) and np.count_nonzero(dense) == kernel.size
  np.testing.assert_array_equal(np.einsum('hwcc->chw', dense), kernel[:, 0])
  assert left_out == ['fc8'] and 'warning: upscore8 is not the bilinear kernel' in notes[0]


@pytest.mark.parametrize('name', VGGS)
def test_true_shapes_are_slims(name):
  with tf.Graph().as_default():
    getattr(slim.nets.vgg, name)(tf.zeros([1, 224, 224, 3]))
    kernels = {variable.op.name.split('/')[-2]: tuple(variable.shape.as_list())
               for variable in slim.get_model_variables() if variable.op.name.endswith('weights')}
  assert VGGS[name].shapes() == kernels


def test_names_are_the_networks_own(tmp_path):
  write_fcn(tmp_path / 'fcn', 'heavy')
  variables, *_ = fcn_from_caffe(read_caffemodel(tmp_path / 'fcn'), THIN_16, backbones.VGG_16.taps, path='fcn',
                                 num_classes=CLASSES)
  with tf.Graph().as_default():
    NETWORKS['vgg_16'].logits(tf.zeros([1, 50, 50, 3]), CLASSES)
    wanted = {variable.op.name: variable.shape.as_list() for variable in tf.global_variables()}
  assert set(variables) == set(wanted)
  for name in ('fcn/upscore_16/weights', 'fcn/upscore_8/weights', 'fcn/score_8/biases'):
    assert list(variables[name].shape) == wanted[name]


def test_default_output_is_what_train_looks_for(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  convert.convert(str(write_caffemodel(tmp_path / 'a.caffemodel', vgg_layers(THIN_16))), THIN_16)
  assert checkpoints.pretrained_checkpoint('vgg_16') == 'checkpoints/vgg_16.ckpt'  # and nothing is downloaded
  assert len(variables_of('checkpoints/vgg_16.ckpt')) == 32


def test_classifier_of_other_classes_is_left_out(tmp_path, capsys):
  layers = vgg_layers(THIN_16)
  layers['fc8'] = 'Convolution', [np.ones([5, 9, 1, 1], np.float32), np.ones(5, np.float32)]
  layers['fc8_flickr'] = layers['conv1'] = layers['fc8']
  path = convert.convert(str(write_caffemodel(tmp_path / 'a', layers)), THIN_16, str(tmp_path / 'a.ckpt'))
  assert len(variables_of(path)) == 30
  assert 'left out: fc8, fc8_flickr, conv1' in capsys.readouterr().out


def without(name):
  return lambda layers: layers.pop(name)


def as_layer(name, *arrays):
  return lambda layers: layers.update({name: ('Convolution', [np.ones(shape, np.float32) for shape in arrays])})


@pytest.mark.parametrize('change, problem', [
    (without('conv3_2'), 'not of --net=vgg_16 .*it lacks conv3_2'),
    (lambda layers: layers.update(vgg_layers(THIN_19)), 'not of --net=vgg_16 .*it has conv3_4, conv4_4, conv5_4'),
    (as_layer('conv2_1', (5, 4, 3, 2), (5,)), r'conv2_1 has arrays of \[5, 4, 3, 2\] and \[5\]; wanted are \[5, 4, 3'),
    (as_layer('conv2_1', (5, 4, 3, 3), (6,)), r'conv2_1 has arrays of \[5, 4, 3, 3\] and \[6\]; wanted'),
    (as_layer('fc6', (9, 8, 3, 3), (9,)), r'fc6 has arrays .* wanted are \[9, 8, 7, 7\], or \[9, 392\], and \[9\]'),
    (as_layer('fc7', (9, 9, 1, 1), (9,), (9,)), r'fc7 has arrays'),
    (lambda layers: layers['conv4_2'][1][0].fill(np.nan), 'conv4_2 holds values that are not finite'),
])
def test_other_weights(tmp_path, change, problem):
  layers = vgg_layers(THIN_16)
  change(layers)
  model = write_caffemodel(tmp_path / 'a.caffemodel', layers)
  with pytest.raises(UserError, match=problem) as error:
    convert.convert(str(model), THIN_16, str(tmp_path / 'a.ckpt'))
  assert str(model) in str(error.value)
  assert os.listdir(tmp_path) == ['a.caffemodel']


def test_mat_of_another_network_shape_or_without_a_mean(tmp_path, capsys):
  layers = {name: (arrays[0].transpose(2, 3, 1, 0), arrays[1]) for name, (_, arrays) in vgg_layers(THIN_19).items()}
  write_mat(tmp_path / 'a.mat', layers, np.ones([1, 1, 3]))
  with pytest.raises(UserError, match='vgg_16 and vgg_19 are known.: it has conv3_4'):
    convert.convert(str(tmp_path / 'a.mat'), THIN_16, str(tmp_path / 'a.ckpt'))
  write_mat(tmp_path / 'a.mat', layers, np.zeros([0, 0]))
  convert.convert(str(tmp_path / 'a.mat'), THIN_19, str(tmp_path / 'a.ckpt'))
  assert "no average image; VGG's own mean" in capsys.readouterr().out
  layers['fc6'] = layers['fc6'][0][:5], layers['fc6'][1]
  write_mat(tmp_path / 'a.mat', layers, np.ones([1, 1, 3]))
  with pytest.raises(UserError, match=r'fc6 has filters \[5, 7, 7, 9\] and 9 biases; vgg_19 has \[7, 7, 7, 9\] and 9'):
    convert.convert(str(tmp_path / 'a.mat'), THIN_19, str(tmp_path / 'a.ckpt'))


@pytest.mark.parametrize('change, problem', [
    (without('score_pool4'), 'has no layer score_pool4'),
    (without('upscore_pool4'), 'has no layer upscore_pool4'),
    (as_layer('score_fr', (60, 9, 1, 1), (60,)), 'score_fr scores 60 classes; only the FCNs for VOC .* score 21'),
    (as_layer('score_pool3', (21, 5, 1, 1), (21,)), r'score_pool3 has arrays of \[21, 5, 1, 1\]'),
    (as_layer('upscore2', (21, 21, 8, 8)), r'upscore2 has arrays of \[21, 21, 8, 8\]; wanted is \[21, 21, 4, 4\]'),
    (as_layer('scale_pool4', (3,)), r'scale_pool4 has arrays of \[\[3\]\] for 7 channels'),
    (without('conv1_2'), 'it lacks conv1_2'),
])
def test_other_fcns(tmp_path, change, problem):
  write_fcn(tmp_path / 'whole', 'heavy')
  layers = {name: ('Convolution', arrays) for name, arrays in read_caffemodel(tmp_path / 'whole').items()}
  change(layers)
  with pytest.raises(UserError, match=problem):
    convert.convert(str(write_caffemodel(tmp_path / 'fcn', layers)), THIN_16, str(tmp_path / 'run'))
  assert sorted(os.listdir(tmp_path)) == ['fcn', 'whole']


@pytest.mark.parametrize('name, content, problem', [
    ('a.h5', b'\x89HDF\r\n\x1a\n' + bytes(99), 'is an HDF5 file'),
    ('a.mat', b'no MATLAB' * 99, 'is no MATLAB file'),
    ('a.bin', b'MATLAB 5.0 MAT-file' + bytes(300), 'is no MATLAB file|no variable `layers`'),
    ('a.prototxt', b'name: "VGG_ILSVRC_16_layers"\n', 'no .caffemodel'),
    ('a.caffemodel', b'', 'has 0 bytes'),
])
def test_other_files(tmp_path, name, content, problem):
  (tmp_path / name).write_bytes(content)
  with pytest.raises(UserError, match=problem) as error:
    convert.convert(str(tmp_path / name), THIN_16, str(tmp_path / 'a.ckpt'))
  assert str(tmp_path / name) in str(error.value)


def test_truncated_file(tmp_path):
  whole = write_caffemodel(tmp_path / 'a', vgg_layers(THIN_16)).read_bytes()
  (tmp_path / 'a').write_bytes(whole[:-len(whole) // 3])
  with pytest.raises(UserError, match='cut short or damaged: a field claims'):
    convert.convert(str(tmp_path / 'a'), THIN_16, str(tmp_path / 'a.ckpt'))


def test_outputs_that_cannot_be_written(tmp_path, thin_network):
  model = str(write_caffemodel(tmp_path / 'vgg', vgg_layers(THIN_16)))
  with pytest.raises(UserError, match=f'--output={tmp_path} is a folder'):
    convert.convert(model, THIN_16, str(tmp_path))
  with pytest.raises(UserError, match='vgg is the file to convert'):
    convert.convert(model, THIN_16, model)
  for output in ('vgg/a.ckpt', 'vgg/b/a.ckpt'):
    with pytest.raises(UserError, match='cannot create folder'):
      convert.convert(model, THIN_16, str(tmp_path / output))
  with pytest.raises(UserError, match='cannot write'):
    convert.convert(model, THIN_16, str(tmp_path / ('a' * 300)))
  write_fcn(tmp_path / 'fcn', 'heavy')
  (tmp_path / 'run').mkdir()
  (tmp_path / 'run' / 'config.json').write_text('{}')
  with pytest.raises(UserError, match='run is there already; name a new folder'):
    convert.convert(str(tmp_path / 'fcn'), THIN_16, str(tmp_path / 'run'))
  with pytest.raises(UserError, match='cannot write'):
    convert.convert(str(tmp_path / 'fcn'), THIN_16, str(tmp_path / ('a' * 300)))
  (tmp_path / 'empty').mkdir()
  convert.convert(str(tmp_path / 'fcn'), THIN_16, f'{tmp_path}/empty/')
  assert json.loads((tmp_path / 'empty' / 'config.json').read_text())['dataset']['name'] == 'voc'
  assert sorted(os.listdir(tmp_path)) == ['empty', 'fcn', 'run', 'vgg']


@pytest.mark.parametrize('arguments, problem', [
    (('--input=gone',), 'cannot read gone: No such file'), ((), 'flag --input: must be given'),
    (('--input=a', '--net=alexnet'), '--net=alexnet: valid are vgg_16, vgg_19'), (('--input=a', 'b'), "'b'")])
def test_command_with_wrong_arguments(arguments, problem, tmp_path, monkeypatch, run_program):
  monkeypatch.chdir(tmp_path)
  result = run_program(convert.main, *arguments)
  assert_refused(result, problem)
  assert result.stdout == '' and os.listdir(tmp_path) == []


def test_command(tmp_path, monkeypatch, run_program):
  """`~` is the user's folder, for input and output."""
  monkeypatch.setenv('HOME', str(tmp_path))
  monkeypatch.setitem(convert.VGGS, 'vgg_19', THIN_19)
  write_caffemodel(tmp_path / 'vgg.caffemodel', vgg_layers(THIN_19))
  result = run_program(convert.main, '--input=~/vgg.caffemodel', '--output=~/vgg.ckpt', '--net=vgg_19')
  assert result.returncode == 0, result.stderr
  assert f'next: python train.py --net=vgg_19 --checkpoint={tmp_path}/vgg.ckpt' in result.stdout
  assert len(variables_of(tmp_path / 'vgg.ckpt')) == 2 * len(THIN_19.shapes())
