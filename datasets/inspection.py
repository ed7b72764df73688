"""Shows what a dataset holds before anyone trains on it: counts, sizes, classes, pictures, and what looks wrong.

    python -m datasets.inspect --dataset=camvid

converts what is not converted yet, as train.py does, prints a table a split and writes into `data/camvid/inspect` (or
--output_dir) `inspect-train.json`, `inspect-train.png` (a contact sheet of images and labels) and
`inspect-train-classes.png` (how often each class is there); the same for val.
"""

import collections
import dataclasses
import hashlib
import io
import os
import re

import numpy as np
from absl import flags
from PIL import Image, ImageDraw, ImageFont

from datasets import DATASETS, get_dataset, prepare, records
from utils import errors
from utils.compat import tf
from utils.drawing import colors
from utils.errors import UserError
from utils.files import make_folder, write_json
from utils.labels import IGNORE_LABEL, median_frequency_weights
from utils.progress import Progress

TINY_SHARE = 0.001  # of the labelled pixels; a class below it is hard to learn
LARGE_VOID = 0.5  # share of the pixels
TILE = (320, 240)  # width and height in pixels that an image of the contact sheet fits into
PAIRS = 3  # in a row of the sheet, each an image and its overlay
_LISTED = 5  # names in a warning
_GAP, _TITLE, _CAPTION, _ROW = 8, 40, 22, 24  # pixels
_INK, _FAINT, _PAPER = (30, 30, 30), (225, 225, 225), (255, 255, 255)
_COPY = re.compile(r'([ _.-]*\(\d+\)|[ _.-]+(copy|dup|flip(ped)?|mirror(ed)?|rot(ated)?|aug(mented)?)\d*)+$')


@dataclasses.dataclass(frozen=True)
class Scan:
  """What the records of a split hold, image by image.

  Attributes:
    split: its name.
    names: list of N names.
    digests: list of N hashes of the encoded images.
    sizes: int64 [N, 2], height and width in pixels.
    counts: int64 [N, C + 1], pixels of each class, and in the last column of void.
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
    progress: print how far it is.

  Returns:
    a Scan.

  Raises:
    UserError: if shards are missing or a record is broken.
  """
  shards, total = records.shard_paths(data_dir, split), records.read_stats(data_dir, split)['num_examples']
  wanted = set(np.linspace(0, total - 1, min(num_shown, total)).astype(int).tolist())
  names, digests, sizes, counts, shown = [], [], [], [], []
  with Progress(total, 'images', label=f'inspecting {split}', stream=None if progress else io.StringIO()) as bar:
    for name, image, label in _examples(shards, num_classes):
      ids = _decode(label)
      if len(names) in wanted:
        shown.append((name, image, label))
      pixels = np.bincount(ids.ravel(), minlength=IGNORE_LABEL + 1)
      names.append(name)
      digests.append(hashlib.sha256(image).hexdigest())
      sizes.append(ids.shape)
      counts.append([*pixels[:num_classes], pixels[IGNORE_LABEL]])
      bar.update()
  return Scan(split, names, digests, np.array(sizes), np.array(counts, np.int64), shown)


def _examples(shards, num_classes):
  """Yields (name, encoded image, encoded label) of every record."""
  try:
    for path in shards:
      for record in tf.io.tf_record_iterator(path):
        feature = tf.train.Example.FromString(record).features.feature
        name, image, label = (feature[key].bytes_list.value[0]
                              for key in ('image/name', 'image/encoded', 'label/encoded'))
        yield os.fsdecode(name), image, label
  except tf.errors.OpError as error:
    records.verify(shards, num_classes)  # names the record
    raise UserError(f'{path}: {error.message.splitlines()[0]}') from error


def _decode(encoded):
  return np.asarray(Image.open(io.BytesIO(encoded)))


def summarize(scanned, stats, classes):
  """Boils a Scan down to what `inspect-SPLIT.json` holds, but for the warnings.

  Args:
    scanned: a Scan.
    stats: the converter's JSON of the split.
    classes: class names, index = label id.

  Returns:
    a dict: 'dataset', 'split', 'num_examples', 'expected', 'skipped' (number), 'sizes' ('smallest' and 'largest' by
    area, and 'most_common', each [width, height]; 'num_most_common', 'num_different'), 'void_share' (of all pixels),
    'classes' (a list of dicts: 'name', 'pixels', 'share' of the labelled pixels, 'images', 'median_frequency_weight')
    and 'void_images' (names of those without a labelled pixel).
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
  """What looks wrong in one split: a list of lines."""
  listed = {
      'never seen': [entry['name'] for entry in summary['classes'] if not entry['pixels']],
      f'below {TINY_SHARE:.1%} of the labelled pixels':
          [entry['name'] for entry in summary['classes'] if 0 < entry['share'] < TINY_SHARE]}
  lines = [f'{len(names)} of {len(summary["classes"])} classes {what}: {_some(names)}'
           for what, names in listed.items() if names]
  if summary['void_images']:
    lines.append(f'{len(summary["void_images"])} of {summary["num_examples"]} images have no labelled pixel: '
                 + _some(summary['void_images']))
  if summary['void_share'] > LARGE_VOID:
    lines.append(f'{summary["void_share"]:.1%} of the pixels are void (label {IGNORE_LABEL} always is)')
  if summary['skipped']:
    lines.append(f'left out by the converter, since they cannot be used: {summary["skipped"]}')
  if summary['num_examples'] != summary['expected']:
    lines.append(f'the number of images is {summary["num_examples"]}, and {summary["expected"]} are expected')
  return lines


def warnings_across(scans, classes):
  """What looks wrong between splits: a list of lines.

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
  lines = [f'{what}: {_some([_some([f"{split} {name}" for split, name in found], " = ") for found in groups])}'
           for what, groups in alike.items() if groups]
  seen = {scanned.split: scanned.counts[:, :-1].any(axis=0) for scanned in scans}
  if {'train', 'val'} <= seen.keys() and (seen['val'] & ~seen['train']).any():
    only = np.flatnonzero(seen['val'] & ~seen['train'])
    lines.append(f'{len(only)} of {len(classes)} classes are in val but not in train: '
                 + _some([classes[index] for index in only]))
  return lines


def _without_copy(name):
  """A name without what copies and augmented copies have at their ends, in lower case."""
  name = name.lower()
  return _COPY.sub('', name) or name


def _some(names, separator=', '):
  """Joins names, the first few of many."""
  return separator.join(names[:_LISTED]) + (f' and {len(names) - _LISTED} more' if len(names) > _LISTED else '')


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
  sheet = Image.new('RGB', (pairs * step[0] + _GAP, _TITLE + -(-len(shown) // pairs) * step[1]), _PAPER)
  draw, font, ids = ImageDraw.Draw(sheet), ImageFont.load_default(14), set()
  draw.text((_GAP, _TITLE // 2), title, fill=_INK, font=ImageFont.load_default(18), anchor='lm')
  for index, (name, image, label) in enumerate(shown):
    image, label = _thumbnails(image, label)
    ids.update(np.unique(label).tolist())
    x, y = _GAP + index % pairs * step[0], _TITLE + index // pairs * step[1]
    left, above = x + TILE[0] - image.shape[1], y + (TILE[1] - image.shape[0]) // 2  # the two meet in the middle
    sheet.paste(Image.fromarray(image), (left, above))
    sheet.paste(Image.fromarray(colors.overlay(image, label, palette, alpha=0.6)), (x + TILE[0] + 2, above))
    draw.text((left, y + TILE[1] + _CAPTION // 2), _fitting(name, font, x + step[0] - left - 2 * _GAP), fill=_INK,
              font=font, anchor='lm')
  strip = colors.legend(sorted(ids), classes, palette, width=sheet.width, font_size=18)
  missing = ((0, 0), (0, strip.shape[1] - sheet.width), (0, 0))  # nothing, unless a name is wider than the sheet
  return np.concatenate([np.pad(np.asarray(sheet), missing, constant_values=255), strip])


def _thumbnails(image, label):
  """Decodes an image and its label and makes both small enough for a tile: uint8 [h, w, 3] and uint8 [h, w]."""
  image, label = Image.open(io.BytesIO(image)), Image.open(io.BytesIO(label))
  scale = min(TILE[0] / label.width, TILE[1] / label.height)
  size = [max(1, round(side * scale)) for side in label.size]
  way = Image.Resampling.BOX if scale < 1 else Image.Resampling.NEAREST
  return (np.asarray(image.convert('RGB').resize(size, way)),
          np.asarray(label.resize(size, Image.Resampling.NEAREST)))


def _fitting(text, font, width):
  """Cuts a text at its front to a width in pixels."""
  while len(text) > 1 and font.getlength(text) > width:
    text = '…' + text[2:]
  return text


def class_chart(summary, palette):
  """Draws how often each class is there: a bar a class, its share of the labelled pixels on a logarithmic axis.

  Args:
    summary: as `summarize` gives it.
    palette: uint8 [C, 3], RGB.

  Returns:
    uint8 [h, w, 3], RGB.
  """
  entries = summary['classes']
  font = ImageFont.load_default(14)
  left = int(max(font.getlength(entry['name']) for entry in entries)) + 2 * _GAP
  decades, decade = 4, 140  # 0.01 % to 100 %; pixels of a factor of ten
  top, bottom = 2 * _TITLE, 2 * _TITLE + _ROW * len(entries)
  picture = Image.new('RGB', (left + decades * decade + 230, bottom + 2 * _GAP), _PAPER)
  draw = ImageDraw.Draw(picture)
  draw.text((_GAP, _TITLE // 2), f'{summary["dataset"]} {summary["split"]}: share of the labelled pixels, by class',
            fill=_INK, font=ImageFont.load_default(18), anchor='lm')
  for power in range(decades + 1):
    x = left + power * decade
    draw.line((x, top - 4, x, bottom), fill=_FAINT)
    draw.text((x, top - 14), f'{10.0**(power - 2):g} %', fill=_INK, font=font, anchor='mm')
  for index, (entry, color) in enumerate(zip(entries, palette.tolist())):
    y = top + index * _ROW
    length = decade * max(0.0, np.log10(max(entry['share'], 1e-9)) + decades)
    draw.text((left - _GAP, y + _ROW // 2), entry['name'], fill=_INK, font=font, anchor='rm')
    if entry['pixels']:
      draw.rectangle((left, y + 3, left + max(1, int(length)), y + _ROW - 4), fill=tuple(color), outline=_INK)
    share = f'{entry["share"]:.2%}' if entry['share'] >= 0.0001 else 'less'
    text = f'{share} in {entry["images"]} images' if entry['pixels'] else 'never'
    draw.text((left + int(length) + _GAP, y + _ROW // 2), text, fill=_INK, font=font, anchor='lm')
  return np.asarray(picture)


def inspect(dataset, data_dir, splits, *, output_dir, num_shown=12):
  """Inspects converted splits: prints tables and warnings and writes the files.

  Args:
    dataset: a Dataset.
    data_dir: folder with its shards.
    splits: list of names.
    output_dir: folder to write to, made where it is missing.
    num_shown: number of images on a contact sheet; 0 writes none.

  Returns:
    a dict of split -> what its JSON holds: `summarize`'s and 'warnings', a list of lines.

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


def _define_flags():
  flags.DEFINE_string('dataset', None, f'dataset: {", ".join(DATASETS)}, or the folder of your own', required=True)
  flags.DEFINE_string('source_dir', None, 'folder with the originals, where it is not --data_dir')
  flags.DEFINE_string('data_dir', None, 'folder with the TFRecords, or with the originals; default data/DATASET')
  flags.DEFINE_list('splits', ['train', 'val'], 'splits to look at, separated by commas')
  flags.DEFINE_string('output_dir', None, 'where to write; default inspect in the data folder')
  flags.DEFINE_integer('count', 12, 'images on the contact sheet', lower_bound=0)


def main(argv):
  if len(argv) > 1:
    raise UserError(f'unexpected argument {argv[1]!r}; all settings are flags, see --help')
  args = flags.FLAGS
  dataset = get_dataset(args.dataset)
  data_dir, splits = args.data_dir or f'data/{dataset.name}', list(dict.fromkeys(args.splits))
  if not splits:
    raise UserError(f'--splits is empty; {dataset.name} has {", ".join(dataset.splits)}')
  prepare.prepare(dataset, data_dir, source_dir=args.source_dir, splits=splits)
  inspect(dataset, data_dir, splits, output_dir=args.output_dir or os.path.join(data_dir, 'inspect'),
          num_shown=args.count)


if __name__ == '__main__':
  _define_flags()
  errors.run(main)
