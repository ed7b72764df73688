"""Shows a dataset before anyone trains on it: counts, sizes, classes, pictures, and warnings.

    python -m datasets.inspect --dataset=camvid

converts splits that are not converted yet, as train.py does, prints a table for each split and writes into
`data/camvid/inspect` (or --output_dir) `inspect-train.json`, `inspect-train.png` (a contact sheet of images and labels)
and `inspect-train-classes.png` (the share of each class); the same for val. Of a folder of the user's own it shows how
the pictures are read and why, and proposes a `dataset.json` that keeps it so.
"""

import collections
import dataclasses
import io
import json
import os
import re

import numpy as np
from PIL import Image

from datasets import DATASETS, folds, get_dataset, hold_out, images, prepare, records, sanity
from datasets.dataset import check_splits
from datasets.readers.dataset_file import ReadingFlags
from datasets.readers.own import OwnDataset
from datasets.reading import Reading
from utils.drawing import canvas, colors, gallery
from utils.errors import listed, shown
from utils.files import claim, make_folder, write_json
from utils.labels import IGNORE_LABEL, median_frequency_weights
from utils.progress import Progress
from utils.settings import Settings, flag, group, overwrite_flag, run

MOST_GROUPS = 50  # groups that are printed one by one
TINY_SHARE = 0.001  # share of the labeled pixels below which a class is hard to learn
_GAP, _ROW = 8, 24  # pixels
PROPOSAL = 'dataset.json'
_COPY = re.compile(r'([ _.-]*\(\d+\)|[ _.-]+(copy|dup|flip(ped)?|mirror(ed)?|rot(ated)?|aug(mented)?)\d*)+$')


@dataclasses.dataclass(frozen=True)
class InspectSettings(Settings):
  """Flags of `python -m datasets.inspect`."""
  dataset: str | None = flag(
      None, f'dataset: {", ".join(DATASETS)}, or the folder of your own', required=True, path=True)
  source_dir: str | None = flag(None, 'folder with the originals, where it is not --data_dir', path=True)
  data_dir: str | None = flag(None, 'folder with the TFRecords, or with the originals; default data/DATASET', path=True)
  splits: tuple[str, ...] = flag(('train', 'val'), 'splits to look at, separated by commas')
  skip_bad: bool = flag(False, 'leave out originals that cannot be used instead of failing')
  output_dir: str | None = flag(None, 'folder to write to; default inspect in the data folder', path=True)
  overwrite: bool = overwrite_flag()
  count: int = flag(12, 'images on the contact sheet', least=0)
  reading: ReadingFlags = group(ReadingFlags)
  held: folds.HoldOutFlags = group(folds.HoldOutFlags)


@dataclasses.dataclass(frozen=True)
class Scan:
  """Contents of a split's records, image by image.

  Attributes:
    split: the split's name.
    names: list of N names.
    sizes: int64 [N, 2], height and width in pixels.
    counts: int64 [N, C + 1], pixels of each class, and of void in the last column.
    shown: list of (name, encoded image, encoded label) for the contact sheet; images of bands are in false color.
    sanity: what sanity.Tally notes, see there.
  """
  split: str
  names: list
  sizes: np.ndarray
  counts: np.ndarray
  shown: list
  sanity: dict


def scan(data_dir, split, num_classes, *, num_shown=12, progress=True, held=hold_out.NOTHING):
  """Reads all records of a split.

  Args:
    data_dir: folder with the shards.
    split: name of the split.
    num_classes: number of classes.
    num_shown: number of images kept for the contact sheet, evenly spread.
    progress: print the progress.
    held: the HoldOut.

  Returns:
    a Scan.

  Raises:
    UserError: if shards are missing, a record is broken or a label id is out of range.
  """
  shards, stats = hold_out.shard_paths(data_dir, split, held), hold_out.read_stats(data_dir, split, held)
  total, reading = stats['num_examples'], Reading.from_json(stats.get('reading'))
  wanted = set(np.linspace(0, total - 1, min(num_shown, total)).astype(int).tolist())
  is_known = 'different_labels' in stats.get('sanity', {})  # not of parts of a split, nor by an older converter
  tally = None if is_known else sanity.Tally()
  names, sizes, counts, pictures = [], [], [], []
  with Progress(total, 'images', label=f'inspecting {split}', stream=None if progress else io.StringIO()) as bar:
    for name, image, image_format, label in records.encoded_examples(shards):
      if not held.keeps(split, name):
        continue
      ids = np.asarray(Image.open(io.BytesIO(label)))
      if len(names) in wanted or tally:
        decoded = _decoded(image, image_format, ids.shape, reading)
      if len(names) in wanted:
        pictures.append((name, image if reading.is_plain else images.encode_png(colors.false_color(decoded, reading)),
                         label))
      pixels = np.bincount(ids.ravel(), minlength=IGNORE_LABEL + 1)
      if pixels[num_classes:IGNORE_LABEL].any():
        records.verify(shards, num_classes)  # names the record
      if tally:
        tally.add(name, sanity.look(decoded, ids, label, reading.stored_limits))
      names.append(name)
      sizes.append(ids.shape)
      counts.append([*pixels[:num_classes], pixels[IGNORE_LABEL]])
      bar.update()
  return Scan(split, names, np.array(sizes), np.array(counts, np.int64), pictures,
              tally.to_json() if tally else stats['sanity'])


def _decoded(encoded, image_format, size, reading):
  """Decodes a record's image.

  Args:
    encoded: bytes of the image.
    image_format: 'jpeg', 'png', or 'raw' for bands.
    size: (height, width).
    reading: the Reading of the split.

  Returns:
    a PIL image; of bands [H, W, N] as stored.
  """
  return records.raw_image(encoded, size, reading) if image_format == 'raw' else Image.open(io.BytesIO(encoded))


def summarize(scanned, stats, dataset):
  """Makes the contents of `inspect-SPLIT.json`, except the warnings, from a Scan.

  Args:
    scanned: a Scan.
    stats: the converter's JSON of the split.
    dataset: the Dataset.

  Returns:
    a dict: 'dataset', 'split', 'num_examples', 'expected', 'skipped' (number), 'sizes' ('smallest' and 'largest' by
    area, and 'most_common', each [width, height]; 'num_most_common', 'num_different'), 'void_share' (of all pixels),
    'classes' (a list of dicts: 'name', 'color', 'label_value' (number or color in the user's own labels, None where it
    is not known), 'pixels', 'share' of the labeled pixels, 'images', 'median_frequency_weight') and 'decisions' (lines
    on how the pictures are read).
  """
  pixels, counts = scanned.counts.sum(axis=0), scanned.counts
  labelled = max(int(pixels[:-1].sum()), 1)
  image_pixels = (counts.sum(axis=1, keepdims=True) * (counts > 0)).sum(axis=0)
  weights = median_frequency_weights(pixels[:-1], image_pixels[:-1])
  num_images = (counts > 0).sum(axis=0)
  sizes = collections.Counter((width, height) for height, width in scanned.sizes.tolist())
  by_area = sorted(sizes, key=lambda size: size[0] * size[1])
  most_common, num_most_common = sizes.most_common(1)[0]
  values = stats.get('label_values') or [None] * dataset.num_classes
  return {
      'dataset': stats['dataset'], 'split': scanned.split, 'num_examples': len(scanned.names),
      'expected': stats['expected'], 'skipped': len({entry['name'] for entry in stats['skipped']}),
      'sizes': {'smallest': list(by_area[0]), 'largest': list(by_area[-1]), 'most_common': list(most_common),
                'num_most_common': num_most_common, 'num_different': len(sizes)},
      'void_share': float(pixels[-1] / max(pixels.sum(), 1)),
      'classes': [{'name': name, 'color': dataset.palette[i].tolist(), 'label_value': values[i],
                   'pixels': int(pixels[i]), 'share': float(pixels[i] / labelled), 'images': int(num_images[i]),
                   'median_frequency_weight': float(weights[i])}
                  for i, name in enumerate(dataset.classes)],
      'decisions': list(stats.get('decisions', ()))}


def warnings_of(summary):
  """Warnings about one split that sanity.warnings does not give: a list of lines."""
  rare = [entry['name'] for entry in summary['classes'] if 0 < entry['share'] < TINY_SHARE]
  lines = []
  if rare:
    lines.append(f'{len(rare)} of {len(summary["classes"])} classes below {TINY_SHARE:.1%} of the labeled pixels: '
                 + listed(rare))
  if summary['skipped']:
    lines.append(f'left out by the converter, since they cannot be used: {summary["skipped"]}')
  if summary['num_examples'] != summary['expected']:
    lines.append(f'the number of images is {summary["num_examples"]}, and {summary["expected"]} are expected')
  return lines


def similar_names(scans):
  """Images in different splits whose names say that one is a copy of another: a list of at most one line.

  Args:
    scans: list of Scans of different splits.
  """
  names = collections.defaultdict(list)
  for scanned in scans:
    for name in scanned.names:
      names[_without_copy(name)].append((scanned.split, name))
  groups = [listed((f'{split} {shown(name)}' for split, name in found), separator=' = ')
            for found in names.values() if len({split for split, _ in found}) > 1]
  return [f'images of nearly the same name in different splits: {listed(groups)}'] if groups else []


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
  has_values = any(entry['label_value'] is not None for entry in summary['classes'])
  lines = [f'{summary["dataset"]} {summary["split"]}: {count} images (expected {summary["expected"]}), {text}; '
           f'{summary["void_share"]:.1%} of the pixels are void',
           f'{"id":>3}  {"class":{width}}  {"color":>11}  {"  in labels  " * has_values}{"pixels":>13}  {"share":>7}  '
           f'{"images":>15}  weight']
  for index, entry in enumerate(summary['classes']):
    images_of = f'{entry["images"]} ({entry["images"] / count:6.1%})'
    value = f'{_text(entry["label_value"]):>11}  ' if has_values else ''
    lines.append(f'{index:3}  {entry["name"]:{width}}  {_text(entry["color"]):>11}  {value}{entry["pixels"]:13}  '
                 f'{entry["share"]:7.2%}  {images_of:>15}  {entry["median_frequency_weight"]:6.2f}')
  return '\n'.join(lines)


def _text(value):
  """A color as '128,64,128', a number as itself, None as '-'."""
  return '-' if value is None else ','.join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def proposal(dataset, stats):
  """Makes the `dataset.json` that keeps what was decided about a dataset of the user's own.

  Args:
    dataset: the OwnDataset.
    stats: the converter's JSON of a split.

  Returns:
    a dict: what the user's own file and flags say, and beside it the dataset's name, how labels are read, and of
    'exif', 'alpha', 'value_range' and 'bands' what there was to decide.
  """
  reading = Reading.from_json(stats.get('reading')).to_json()
  about = {line.partition(':')[0] for line in stats.get('decisions', ())}
  content = {'name': dataset.name, **{key: reading[key] for key in ('exif', 'alpha', 'value_range', 'bands')
                                      if key in about and reading[key]}}
  if 'value_range' in content:
    pairs = [[int(value) if value == int(value) else value for value in pair] for pair in content['value_range']]
    content['value_range'] = pairs if len(pairs) > 1 else pairs[0]
  values = [value for value in stats.get('label_values') or () if value is not None]
  if values:
    content['labels'] = 'ids' if isinstance(values[0], int) else 'colors'
  return json.loads(json.dumps({**content, **dataset.told, **stats.get('told', {})}))  # tuples become lists


def notes(lines, width):
  """Draws lines of text, wrapped, under each other: uint8 [h, width, 3], RGB; h is 0 without lines."""
  wrapped = [part for line in lines for part in _wrapped(line, width - 2 * _GAP)]
  strip = canvas.Canvas(width, len(wrapped) * _ROW)
  for row, part in enumerate(wrapped):
    strip.text(_GAP, row * _ROW + _ROW // 2, part)
  return strip.array()


def _wrapped(text, width):
  """Breaks a text between words into lines of at most `width` pixels, all but the first indented."""
  first, *words = text.split()
  lines = [first]
  for word in words:
    longer = f'{lines[-1]} {word}'
    if canvas.text_width(longer) > width:
      lines.append(f'    {word}')
    else:
      lines[-1] = longer
  return [canvas.fitting(line, width) for line in lines]


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
  entries, ids = [], set()
  for name, image, label in shown:
    image, label = _thumbnails(image, label)
    ids.update(np.unique(label).tolist())
    entries.append(gallery.Pair(image, colors.overlay(image, label, palette, alpha=0.6), name))
  sheet = gallery.pairs(entries, title)
  strip = colors.legend(sorted(ids), classes, palette, width=sheet.shape[1], font_size=canvas.HEADING)
  return canvas.stacked([sheet, strip])


def _thumbnails(image, label):
  """Decodes an image and its label and makes both small enough for a tile: uint8 [h, w, 3] and uint8 [h, w]."""
  image, label = Image.open(io.BytesIO(image)), Image.open(io.BytesIO(label))
  label = label.resize(gallery.tile_size(*label.size), Image.Resampling.NEAREST)
  return gallery.thumbnail(image), np.asarray(label)


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
      [canvas.named(index, entry['name']) for index, entry in enumerate(entries)], width=decades * decade,
      height=_ROW, right=200)
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


def inspect(dataset, data_dir, splits, *, output_dir, num_shown=12, held=hold_out.NOTHING, overwrite=False):
  """Inspects converted splits: prints tables and warnings and writes the files.

  Args:
    dataset: a Dataset.
    data_dir: folder with its shards.
    splits: list of names.
    output_dir: folder to write to, made where it is missing.
    num_shown: number of images on a contact sheet; 0 writes none.
    held: the HoldOut.
    overwrite: whether files that this program did not write may be replaced.

  Returns:
    a dict of split -> contents of its JSON: those of `summarize` and 'warnings', a list of lines.

  Raises:
    UserError: if shards are missing or broken, or nothing can be written.
  """
  make_folder(output_dir)
  names = [f'inspect-{split}{end}' for split in splits for end in ('-classes.png', '.png', '.json')]
  names += [PROPOSAL] if isinstance(dataset, OwnDataset) and not os.path.samefile(output_dir, dataset.root) else []
  claim([os.path.join(output_dir, name) for name in names], overwrite=overwrite)
  stats = {split: hold_out.read_stats(data_dir, split, held) for split in splits}
  scans, found, written = [], {}, []
  for split in splits:
    scans.append(scan(data_dir, split, dataset.num_classes, num_shown=num_shown, held=held))
    stats[split]['sanity'] = scans[-1].sanity
    found[split] = summarize(scans[-1], stats[split], dataset)
    found[split]['warnings'] = warnings_of(found[split])
    print(table(found[split]), flush=True)
    written += _write(dataset, scans[-1], found[split], output_dir)
  _say_decisions(dataset, stats)
  across = [*sanity.warnings(stats), *similar_names(scans)]
  for name, lines in [*((f'{dataset.name} {split}', found[split]['warnings']) for split in splits),
                      (dataset.name, across)]:
    for line in lines:
      print(f'warning: {name}: {line}')
  for split in splits:
    found[split]['warnings'] += across
    written.append(os.path.join(output_dir, f'inspect-{split}.json'))
    write_json(written[-1], found[split])
  written += _propose(dataset, stats[splits[0]], output_dir)
  print('written: ' + ', '.join(map(shown, sorted(written))))
  return found


def _say_decisions(dataset, stats):
  """Prints how the pictures are read, each decision once."""
  for line in dict.fromkeys(line for one in stats.values() for line in one.get('decisions', ())):
    print(f'decided: {shown(dataset.name)}: {line}')


def _propose(dataset, stats, output_dir):
  """Prints and writes the proposed dataset.json of the user's own dataset, never into its folder. Returns its path."""
  if not isinstance(dataset, OwnDataset):
    return []
  content = proposal(dataset, stats)
  print(f'proposed {PROPOSAL} for {shown(dataset.root)}, to keep it so: {json.dumps(content)}')
  if os.path.samefile(output_dir, dataset.root):
    return []
  write_json(os.path.join(output_dir, PROPOSAL), content)
  return [os.path.join(output_dir, PROPOSAL)]


def _write(dataset, scanned, summary, output_dir):
  """Writes the pictures of a split. Returns their paths."""
  paths = [os.path.join(output_dir, f'inspect-{scanned.split}{end}.png') for end in ('-classes', '')]
  colors.write_png(paths[0], class_chart(summary, dataset.palette))
  if not scanned.shown:
    return paths[:1]
  title = (f'{dataset.name} {scanned.split}: {len(scanned.shown)} of {summary["num_examples"]} images, '
           f'{summary["void_share"]:.1%} void')
  sheet = contact_sheet(scanned.shown, dataset.palette, dataset.classes, title)
  colors.write_png(paths[1], canvas.stacked([sheet, notes(summary['decisions'], sheet.shape[1])]))
  return paths


def say_groups(data_dir, splits, group_by, held):
  """Prints the groups of names, the largest first: the number of images in each split, and which are held out.

  Args:
    data_dir: folder with the shards.
    splits: list of converted splits.
    group_by: regular expression, see folds.HoldOutFlags.
    held: the HoldOut.

  Raises:
    UserError: naming names in which no group is found.
  """
  names = {split: hold_out.read_names(data_dir, split) for split in splits}
  sizes = folds.grouped(group_by, [name for of_split in names.values() for name in of_split])
  by_split = {split: folds.grouped(group_by, of_split) for split, of_split in names.items()}
  out = folds.grouped(group_by, filter(held.holds, (name for split in held.splits for name in names.get(split, ()))))
  print(f'{len(sizes)} group{"s" * (len(sizes) != 1)} of --group_by={group_by}')
  for name, _ in sizes.most_common(MOST_GROUPS):
    counts = ', '.join(f'{found[name]} in {split}' for split, found in by_split.items() if found[name])
    print(f'  {shown(name)}: {counts}' + (f'; {out[name]} held out' if out[name] else ''))
  if len(sizes) > MOST_GROUPS:
    print(f'  and {len(sizes) - MOST_GROUPS} smaller ones')


def inspect_splits(settings):
  """Prepares --splits as train.py does, and inspects them, and what the flags hold out."""
  dataset, flags, held = get_dataset(settings.dataset), settings.held, hold_out.NOTHING
  data_dir, splits = settings.data_dir or f'data/{dataset.name}', check_splits(dataset, settings.splits)
  shown_splits = [*splits, hold_out.HELD_OUT] if flags.given else splits
  prepare.prepare(dataset, data_dir, source_dir=settings.source_dir, splits=shown_splits, told=settings.reading.told,
                  skip_bad=settings.skip_bad)
  if flags.given:
    held = folds.hold_out(flags, data_dir, dataset.splits)
  if flags.group_by:
    say_groups(data_dir, splits, flags.group_by, held)
  inspect(dataset, data_dir, shown_splits, output_dir=settings.output_dir or os.path.join(data_dir, 'inspect'),
          num_shown=settings.count, held=held, overwrite=settings.overwrite)


def main(argv=None):
  return run(inspect_splits, InspectSettings, argv, text=__doc__)
