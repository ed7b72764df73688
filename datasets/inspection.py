"""Shows a dataset before anyone trains on it: counts, sizes, classes, pictures, and warnings.

    python -m datasets.inspect --dataset=camvid

converts splits that are not converted yet, as train.py does, prints a table for each split and writes into
`data/camvid/inspect` (or --output_dir) `inspect-train.json`, `inspect-train.png` (a contact sheet of images and labels)
and `inspect-train-classes.png` (the share of each class); the same for val.
"""

import collections
import dataclasses
import hashlib
import io
import os
import re

import numpy as np
from PIL import Image

from datasets import DATASETS, get_dataset, prepare, records
from datasets.dataset import check_splits
from utils.drawing import canvas, colors
from utils.errors import listed
from utils.files import make_folder, write_json
from utils.labels import IGNORE_LABEL, median_frequency_weights
from utils.progress import Progress
from utils.settings import Settings, flag, run

TINY_SHARE = 0.001  # share of the labeled pixels below which a class is hard to learn
LARGE_VOID = 0.5  # share of the pixels above which void is suspicious
TILE = (320, 240)  # width and height in pixels that an image of the contact sheet fits into
PAIRS = 3  # in a row of the sheet, each an image and its overlay
_GAP, _TITLE, _CAPTION, _ROW = 8, 40, 22, 24  # pixels
_COPY = re.compile(r'([ _.-]*\(\d+\)|[ _.-]+(copy|dup|flip(ped)?|mirror(ed)?|rot(ated)?|aug(mented)?)\d*)+$')


@dataclasses.dataclass(frozen=True)
class InspectSettings(Settings):
  """Flags of `python -m datasets.inspect`."""
  dataset: str | None = flag(None, f'dataset: {", ".join(DATASETS)}, or the folder of your own', required=True)
  source_dir: str | None = flag(None, 'folder with the originals, where it is not --data_dir')
  data_dir: str | None = flag(None, 'folder with the TFRecords, or with the originals; default data/DATASET')
  splits: tuple[str, ...] = flag(('train', 'val'), 'splits to look at, separated by commas')
  output_dir: str | None = flag(None, 'folder to write to; default inspect in the data folder')
  count: int = flag(12, 'images on the contact sheet', least=0)


@dataclasses.dataclass(frozen=True)
class Scan:
  """Contents of a split's records, image by image.

  Attributes:
    split: the split's name.
    names: list of N names.
    digests: list of N hashes of the encoded images.
    sizes: int64 [N, 2], height and width in pixels.
    counts: int64 [N, C + 1], pixels of each class, and of void in the last column.
    shown: list of (name, encoded image, encoded label) for the contact sheet.
  """
  split: str
  names: list
  digests: list
  sizes: np.ndarray
  counts: np.ndarray
  shown: list


def scan(data_dir, split, num_classes, *, num_shown=12, progress=True):
  """Reads all records of a split.

  Args:
    data_dir: folder with the shards.
    split: name of the split.
    num_classes: number of classes.
    num_shown: number of images kept for the contact sheet, evenly spread.
    progress: print the progress.

  Returns:
    a Scan.

  Raises:
    UserError: if shards are missing, a record is broken or a label id is out of range.
  """
  shards, total = records.shard_paths(data_dir, split), records.read_stats(data_dir, split)['num_examples']
  wanted = set(np.linspace(0, total - 1, min(num_shown, total)).astype(int).tolist())
  names, digests, sizes, counts, shown = [], [], [], [], []
  with Progress(total, 'images', label=f'inspecting {split}', stream=None if progress else io.StringIO()) as bar:
    for name, image, _, label in records.encoded_examples(shards):
      ids = _decode(label)
      if len(names) in wanted:
        shown.append((name, image, label))
      pixels = np.bincount(ids.ravel(), minlength=IGNORE_LABEL + 1)
      if pixels[num_classes:IGNORE_LABEL].any():
        records.verify(shards, num_classes)  # names the record
      names.append(name)
      digests.append(hashlib.sha256(image).hexdigest())
      sizes.append(ids.shape)
      counts.append([*pixels[:num_classes], pixels[IGNORE_LABEL]])
      bar.update()
  return Scan(split, names, digests, np.array(sizes), np.array(counts, np.int64), shown)


def _decode(encoded):
  return np.asarray(Image.open(io.BytesIO(encoded)))


def summarize(scanned, stats, classes):
  """Makes the contents of `inspect-SPLIT.json`, except the warnings, from a Scan.

  Args:
    scanned: a Scan.
    stats: the converter's JSON of the split.
    classes: class names, index = label id.

  Returns:
    a dict: 'dataset', 'split', 'num_examples', 'expected', 'skipped' (number), 'sizes' ('smallest' and 'largest' by
    area, and 'most_common', each [width, height]; 'num_most_common', 'num_different'), 'void_share' (of all pixels),
    'classes' (a list of dicts: 'name', 'pixels', 'share' of the labeled pixels, 'images', 'median_frequency_weight')
    and 'void_images' (names of the images without a labeled pixel).
  """
  pixels, counts = scanned.counts.sum(axis=0), scanned.counts
  labelled = max(int(pixels[:-1].sum()), 1)
  image_pixels = (counts.sum(axis=1, keepdims=True) * (counts > 0)).sum(axis=0)
  weights = median_frequency_weights(pixels[:-1], image_pixels[:-1])
  num_images = (counts > 0).sum(axis=0)
  sizes = collections.Counter((width, height) for height, width in scanned.sizes.tolist())
  by_area = sorted(sizes, key=lambda size: size[0] * size[1])
  most_common, num_most_common = sizes.most_common(1)[0]
  return {
      'dataset': stats['dataset'], 'split': scanned.split, 'num_examples': len(scanned.names),
      'expected': stats['expected'], 'skipped': len({entry['name'] for entry in stats['skipped']}),
      'sizes': {'smallest': list(by_area[0]), 'largest': list(by_area[-1]), 'most_common': list(most_common),
                'num_most_common': num_most_common, 'num_different': len(sizes)},
      'void_share': float(pixels[-1] / max(pixels.sum(), 1)),
      'classes': [{'name': name, 'pixels': int(pixels[i]), 'share': float(pixels[i] / labelled),
                   'images': int(num_images[i]), 'median_frequency_weight': float(weights[i])}
                  for i, name in enumerate(classes)],
      'void_images': [scanned.names[i] for i in np.flatnonzero(counts[:, :-1].sum(axis=1) == 0)]}


def warnings_of(summary):
  """Warnings about one split: a list of lines."""
  groups = {
      'never seen': [entry['name'] for entry in summary['classes'] if not entry['pixels']],
      f'below {TINY_SHARE:.1%} of the labeled pixels':
          [entry['name'] for entry in summary['classes'] if 0 < entry['share'] < TINY_SHARE]}
  lines = [f'{len(names)} of {len(summary["classes"])} classes {state}: {listed(names)}'
           for state, names in groups.items() if names]
  if summary['void_images']:
    lines.append(f'{len(summary["void_images"])} of {summary["num_examples"]} images have no labeled pixel: '
                 + listed(summary['void_images']))
  if summary['void_share'] > LARGE_VOID:
    lines.append(f'{summary["void_share"]:.1%} of the pixels are void (label {IGNORE_LABEL} always is)')
  if summary['skipped']:
    lines.append(f'left out by the converter, since they cannot be used: {summary["skipped"]}')
  if summary['num_examples'] != summary['expected']:
    lines.append(f'the number of images is {summary["num_examples"]}, and {summary["expected"]} are expected')
  return lines


def warnings_across(scans, classes):
  """Warnings about several splits together: a list of lines.

  Args:
    scans: list of Scans of different splits.
    classes: class names, index = label id.
  """
  pictures, names = collections.defaultdict(list), collections.defaultdict(list)
  for scanned in scans:
    for name, digest in zip(scanned.names, scanned.digests):
      pictures[digest].append((scanned.split, name))
      names[_without_copy(name)].append((scanned.split, name))
  alike = {'images that are the very same file': [found for found in pictures.values() if len(found) > 1],
           'images of nearly the same name in different splits':
               [found for found in names.values() if len({split for split, _ in found}) > 1]}
  lines = []
  for kind, groups in alike.items():
    if groups:
      equal = [listed((f'{split} {name}' for split, name in found), separator=' = ') for found in groups]
      lines.append(f'{kind}: {listed(equal)}')
  seen = {scanned.split: scanned.counts[:, :-1].any(axis=0) for scanned in scans}
  if {'train', 'val'} <= seen.keys() and (seen['val'] & ~seen['train']).any():
    only = np.flatnonzero(seen['val'] & ~seen['train'])
    lines.append(f'{len(only)} of {len(classes)} classes are in val but not in train: '
                 + listed(classes[index] for index in only))
  return lines


def _without_copy(name):
  """A name in lower case without the endings of copies and augmented copies."""
  name = name.lower()
  return _COPY.sub('', name) or name


def table(summary):
  """Formats a summary as text: a line on the split, a table of its classes, the share of void."""
  sizes = summary['sizes']
  small, large, common = ('x'.join(map(str, sizes[key])) for key in ('smallest', 'largest', 'most_common'))
  count = summary['num_examples']
  text = f'all of {common} pixels'
  if sizes['num_different'] > 1:
    text = f'{sizes["num_different"]} sizes, {small} to {large}, most often {common} ({sizes["num_most_common"]} times)'
  width = max(len(entry['name']) for entry in summary['classes'])
  lines = [f'{summary["dataset"]} {summary["split"]}: {count} images (expected {summary["expected"]}), {text}; '
           f'{summary["void_share"]:.1%} of the pixels are void',
           f'{"id":>3}  {"class":{width}}  {"pixels":>13}  {"share":>7}  {"images":>15}  weight']
  for index, entry in enumerate(summary['classes']):
    images = f'{entry["images"]} ({entry["images"] / count:6.1%})'
    lines.append(f'{index:3}  {entry["name"]:{width}}  {entry["pixels"]:13}  {entry["share"]:7.2%}  {images:>15}  '
                 f'{entry["median_frequency_weight"]:6.2f}')
  return '\n'.join(lines)


def contact_sheet(shown, palette, classes, title):
  """Draws images beside their overlays, under each pair its name, under all the legend of the classes in them.

  Args:
    shown: list of (name, encoded image, encoded label).
    palette: uint8 [C, 3], RGB.
    classes: class names, index = label id.
    title: a line above it.

  Returns:
    uint8 [h, w, 3], RGB.
  """
  pairs = min(PAIRS, len(shown))
  step = (2 * TILE[0] + 2 * _GAP, TILE[1] + _CAPTION + _GAP)
  width = max(pairs * step[0] + _GAP, canvas.text_width(title, size=canvas.HEADING) + 2 * _GAP)
  sheet, ids = canvas.Canvas(width, _TITLE + -(-len(shown) // pairs) * step[1]), set()
  sheet.text(_GAP, _TITLE // 2, title, size=canvas.HEADING)
  for index, (name, image, label) in enumerate(shown):
    image, label = _thumbnails(image, label)
    ids.update(np.unique(label).tolist())
    x, y = _GAP + index % pairs * step[0], _TITLE + index // pairs * step[1]
    left, above = x + TILE[0] - image.shape[1], y + (TILE[1] - image.shape[0]) // 2  # the two meet in the middle
    sheet.paste(left, above, image)
    sheet.paste(x + TILE[0] + 2, above, colors.overlay(image, label, palette, alpha=0.6))
    sheet.text(left, y + TILE[1] + _CAPTION // 2, canvas.fitting(name, x + step[0] - left - 2 * _GAP))
  strip = colors.legend(sorted(ids), classes, palette, width=width, font_size=canvas.HEADING)
  return canvas.stacked([sheet.array(), strip])


def _thumbnails(image, label):
  """Decodes an image and its label and makes both small enough for a tile: uint8 [h, w, 3] and uint8 [h, w]."""
  image, label = Image.open(io.BytesIO(image)), Image.open(io.BytesIO(label))
  scale = min(TILE[0] / label.width, TILE[1] / label.height)
  size = [max(1, round(side * scale)) for side in label.size]
  method = Image.Resampling.BOX if scale < 1 else Image.Resampling.NEAREST
  return (np.asarray(image.convert('RGB').resize(size, method)),
          np.asarray(label.resize(size, Image.Resampling.NEAREST)))


def class_chart(summary, palette):
  """Draws the share of each class among the labeled pixels: a bar for each class on a logarithmic axis.

  Args:
    summary: as `summarize` gives it.
    palette: uint8 [C, 3], RGB.

  Returns:
    uint8 [h, w, 3], RGB.
  """
  entries = summary['classes']
  decades, decade = 4, 140  # 0.01 % to 100 %; pixels of a factor of ten
  chart, left = canvas.row_chart(
      f'{summary["dataset"]} {summary["split"]}: share of the labeled pixels, by class',
      [entry['name'] for entry in entries], width=decades * decade, height=_ROW, right=200)
  for power in range(decades + 1):
    x = left + power * decade
    chart.line(x, canvas.TOP - 4, x, canvas.TOP + _ROW * len(entries), canvas.FAINT)
    chart.text(x, canvas.TOP - 14, f'{10.0**(power - 2):g}%', 'm')
  for index, (entry, color) in enumerate(zip(entries, palette.tolist())):
    y = canvas.TOP + index * _ROW
    length = int(decade * max(0.0, np.log10(max(entry['share'], 1e-9)) + decades))
    if entry['pixels']:
      chart.bar(left, y + 3, left + max(1, length), y + _ROW - 4, tuple(color), outline=canvas.INK)
    share = f'{entry["share"]:.2%}' if entry['share'] >= 0.0001 else 'less'
    text = f'{share} in {entry["images"]} image{"s" * (entry["images"] != 1)}' if entry['pixels'] else 'never'
    chart.text(left + length + _GAP, y + _ROW // 2, text)
  return chart.array()


def inspect(dataset, data_dir, splits, *, output_dir, num_shown=12):
  """Inspects converted splits: prints tables and warnings and writes the files.

  Args:
    dataset: a Dataset.
    data_dir: folder with its shards.
    splits: list of names.
    output_dir: folder to write to, made where it is missing.
    num_shown: number of images on a contact sheet; 0 writes none.

  Returns:
    a dict of split -> contents of its JSON: those of `summarize` and 'warnings', a list of lines.

  Raises:
    UserError: if shards are missing or broken, or nothing can be written.
  """
  make_folder(output_dir)
  scans, found, written = [], {}, []
  for split in splits:
    scans.append(scan(data_dir, split, dataset.num_classes, num_shown=num_shown))
    found[split] = summarize(scans[-1], records.read_stats(data_dir, split), dataset.classes)
    found[split]['warnings'] = warnings_of(found[split])
    print(table(found[split]), flush=True)
    written += _write(dataset, scans[-1], found[split], output_dir)
  across = warnings_across(scans, dataset.classes)
  for split, lines in [(split, found[split]['warnings']) for split in splits] + [(' and '.join(splits), across)]:
    for line in lines:
      print(f'warning: {dataset.name} {split}: {line}')
  for split in splits:
    found[split]['warnings'] += across
    written.append(os.path.join(output_dir, f'inspect-{split}.json'))
    write_json(written[-1], found[split])
  print('written: ' + ', '.join(sorted(written)))
  return found


def _write(dataset, scanned, summary, output_dir):
  """Writes the pictures of a split. Returns their paths."""
  paths = [os.path.join(output_dir, f'inspect-{scanned.split}{end}.png') for end in ('-classes', '')]
  colors.write_png(paths[0], class_chart(summary, dataset.palette))
  if not scanned.shown:
    return paths[:1]
  title = (f'{dataset.name} {scanned.split}: {len(scanned.shown)} of {summary["num_examples"]} images, '
           f'{summary["void_share"]:.1%} void')
  colors.write_png(paths[1], contact_sheet(scanned.shown, dataset.palette, dataset.classes, title))
  return paths


def inspect_splits(settings):
  """Prepares --splits as train.py does, and inspects them."""
  dataset = get_dataset(settings.dataset)
  data_dir, splits = settings.data_dir or f'data/{dataset.name}', check_splits(dataset, settings.splits)
  prepare.prepare(dataset, data_dir, source_dir=settings.source_dir, splits=splits)
  inspect(dataset, data_dir, splits, output_dir=settings.output_dir or os.path.join(data_dir, 'inspect'),
          num_shown=settings.count)


def main(argv=None):
  return run(inspect_splits, InspectSettings, argv, text=__doc__)
