"""The archives as they are published: fetched, unpacked beside each other, converted."""

import dataclasses
import tarfile
import zipfile

import originals
import pytest

from datasets import convert, get_dataset, records
from datasets.prepare import prepare
from utils.errors import UserError

pytestmark = pytest.mark.fast


def pack(path, folder, members):
  """Packs files and folders of `folder` as they lie there into a zip or a tar, by the archive's name."""
  path.parent.mkdir(parents=True, exist_ok=True)
  files = sorted(file for member in members for file in (folder / member).rglob('*') if file.is_file())
  files += [folder / member for member in members if (folder / member).is_file()]
  if path.suffix == '.zip':
    with zipfile.ZipFile(path, 'w') as zipped:
      for file in files:
        zipped.write(file, file.relative_to(folder))
  else:
    with tarfile.open(path, 'w:gz' if path.suffix == '.gz' else 'w') as tar:
      for file in files:
        tar.add(file, file.relative_to(folder))


def publish(name, folder, downloads):
  """Packs the originals in `folder` into archives in `downloads`, each as its publisher does."""
  packed = {  # file name, folder in which it was packed, members of the folder
      'camseq01': [('CamSeq01.zip', '', ['.'])],
      'camvid32': [('701_StillsRaw_full.zip', '', ['701_StillsRaw_full']),
                   ('LabeledApproved_full.zip', 'LabeledApproved_full', ['.'])],
      'coco': [('annotations_trainval2017.zip', '', ['annotations']), ('train2017.zip', '', ['train2017']),
               ('val2017.zip', '', ['val2017'])],
      'vkitti': [(f'vkitti_1.3.1_{kind}.tar', '', [f'vkitti_1.3.1_{kind}']) for kind in ('rgb', 'scenegt')],
  }
  if name == 'vkitti2':
    for kind in ('rgb', 'classSegmentation'):
      parts = [path.relative_to(folder) for path in folder.glob(f'Scene*/*/frames/{kind}')]
      pack(downloads / f'vkitti_2.0.3_{kind}.tar', folder, parts)
    pack(downloads / 'vkitti_2.0.3_textgt.tar.gz', folder,
         [path.relative_to(folder) for path in folder.glob('Scene*/*/colors.txt')])
  if name == 'gta5':
    pack(downloads / 'read_mapping.zip', folder, ['split.mat'])
    for part in range(1, 11):
      for kind in ('images', 'labels'):
        numbered = [f'{kind}/{part:05d}.png'] if (folder / f'{kind}/{part:05d}.png').exists() else []
        originals.write(folder / f'{kind}/README{part}', 'each archive holds something')
        pack(downloads / f'{part:02d}_{kind}.zip', folder, [*numbered, f'{kind}/README{part}'])
  for file, inner, members in packed.get(name, []):
    pack(downloads / file, folder / inner, members)


@pytest.mark.parametrize('name', ['camseq01', 'camvid32', 'coco', 'gta5', 'vkitti', 'vkitti2'])
def test_downloaded_archives_become_records(name, tmp_path, monkeypatch):
  monkeypatch.setattr(convert, 'default_workers', lambda: 1)
  originals.MAKERS[name](tmp_path / 'originals')
  data_dir = tmp_path / 'data'
  publish(name, tmp_path / 'originals', data_dir / 'downloads')
  dataset = get_dataset(name)
  archives = tuple(dataclasses.replace(archive, url='http://127.0.0.1:9/', digest=None) for archive in dataset.archives)
  dataset = dataclasses.replace(dataset, archives=archives)
  last = data_dir / 'downloads' / archives[-1].filename  # interrupted before it
  last.rename(tmp_path / 'last')
  with pytest.raises(UserError, match=f'put it at {last}'):
    prepare(dataset, str(data_dir))
  (tmp_path / 'last').rename(last)
  prepare(dataset, str(data_dir))
  for split in ('train', 'val'):
    assert records.verify(records.shard_paths(str(data_dir), split), num_classes=dataset.num_classes) >= 1
