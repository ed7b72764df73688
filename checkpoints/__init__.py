"""Pretrained ImageNet weights: a list of them, and fetching them into this folder."""

import dataclasses
import os

from utils import download
from utils.errors import UserError, shown


@dataclasses.dataclass(frozen=True)
class Pretrained:
  """A published checkpoint.

  Attributes:
    name: value of a Network's `pretrained`.
    url: address of the archive.
    member: the checkpoint's path in the archive; the file keeps the last part of its name.
    scope: variable scope of its weights.
    note: origin and accuracy, in a line.
    size: size of the archive in bytes, None where it is not known.
    digest: digest of the archive, 'sha256:HEX', 'sha1:HEX' or 'md5:HEX', None where none is known.
  """
  name: str
  url: str
  member: str
  scope: str
  note: str
  size: int | None = None
  digest: str | None = None


PRETRAINED = {checkpoint.name: checkpoint for checkpoint in (
    # From the table of pretrained models in slim's README (tensorflow/models, research/slim), which gives no digest.
    Pretrained(
        name='inception_v3',
        url='http://download.tensorflow.org/models/inception_v3_2016_08_28.tar.gz',
        member='inception_v3.ckpt',
        scope='InceptionV3',
        note="Inception v3 of TF-Slim, trained on ImageNet: 78.0 % top-1, 93.9 % top-5 by slim's README"),
    Pretrained(
        name='inception_v1',
        url='http://download.tensorflow.org/models/inception_v1_2016_08_28.tar.gz',
        member='inception_v1.ckpt',
        scope='InceptionV1',
        note="Inception v1 (GoogLeNet) of TF-Slim, trained on ImageNet: 69.8 % top-1, 89.6 % top-5 by slim's README",
        # Size and digest from OpenVINO's Open Model Zoo, models/public/googlenet-v1-tf/model.yml.
        size=24_642_554,
        digest='sha256:7a620c430fcaba8f8f716241f5148c4c47c035cce4e49ef02cfbe6cd1adf96a6'),
    Pretrained(
        name='inception_v2',
        url='http://download.tensorflow.org/models/inception_v2_2016_08_28.tar.gz',
        member='inception_v2.ckpt',
        scope='InceptionV2',
        note="Inception v2 of TF-Slim, trained on ImageNet: 73.9 % top-1, 91.8 % top-5 by slim's README",
        size=41_577_079),  # from Open Model Zoo, models/public/googlenet-v2-tf/model.yml; its digest is a SHA-384
    Pretrained(
        name='vgg_16',
        url='http://download.tensorflow.org/models/vgg_16_2016_08_28.tar.gz',
        member='vgg_16.ckpt',
        scope='vgg_16',
        note="VGG-16, Oxford's weights for TF-Slim: 71.5 % top-1, 89.8 % top-5 by slim's README"),
    Pretrained(
        name='vgg_19',
        url='http://download.tensorflow.org/models/vgg_19_2016_08_28.tar.gz',
        member='vgg_19.ckpt',
        scope='vgg_19',
        note="VGG-19, Oxford's weights for TF-Slim: 71.1 % top-1, 89.8 % top-5 by slim's README"),
    Pretrained(
        name='resnet_v1_50',
        url='http://download.tensorflow.org/models/resnet_v1_50_2016_08_28.tar.gz',
        member='resnet_v1_50.ckpt',
        scope='resnet_v1_50',
        note="ResNet v1 with 50 layers for TF-Slim: 75.2 % top-1, 92.2 % top-5 by slim's README"),
    Pretrained(
        name='resnet_v1_101',
        url='http://download.tensorflow.org/models/resnet_v1_101_2016_08_28.tar.gz',
        member='resnet_v1_101.ckpt',
        scope='resnet_v1_101',
        note="ResNet v1 with 101 layers for TF-Slim: 76.4 % top-1, 92.9 % top-5 by slim's README"),
)}


def pretrained_checkpoint(name, folder='checkpoints'):
  """Returns the path of a pretrained checkpoint in `folder`, downloading and unpacking it first where it is missing.

  An archive that was put into `folder` by hand is used, too.

  Args:
    name: a key of PRETRAINED.
    folder: folder of the checkpoints.

  Raises:
    UserError: if the name is unknown, or the archive cannot be downloaded or unpacked, naming the file to fetch by hand
      and its place.
  """
  if name not in PRETRAINED:
    raise UserError(f'unknown pretrained checkpoint {name!r}; known: {", ".join(PRETRAINED)}')
  checkpoint = PRETRAINED[name]
  path = os.path.join(folder, os.path.basename(checkpoint.member))
  if not os.path.exists(path):
    archive = os.path.join(folder, os.path.basename(checkpoint.url))
    if not os.path.exists(archive):
      print(f'{name}: no {shown(path)} yet; downloading {checkpoint.url}', flush=True)
    download.fetch(checkpoint.url, archive, checkpoint.size, digest=checkpoint.digest)
    print(f'{name}: unpacking {shown(archive)} to {shown(path)}', flush=True)
    download.extract(archive, path, member=checkpoint.member)
  return path
