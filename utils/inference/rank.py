"""The pictures to label next: those on which a network is least sure (inference.py --rank).

A picture's score is the mean over its pixels of a measure of mc_dropout.average. Frames of one scene score alike, and
a label for one is worth little for the next. So the list is made greedily, as by maximal marginal relevance (Carbonell
and Goldstein, SIGIR 1998): next comes the picture whose score, times its difference from the nearest one listed over
--rank_apart (at most 1), is greatest. The difference is the root mean square of those of the colors, in levels, of two
thumbnails of CELLS by CELLS pixels. In CamVid it is 5 between frames 1/15 s apart, 27 between frames 1 s apart and 70
between any two: the medians.

Memory is kept of a few KiB a picture, whatever its size.
"""

import csv
import dataclasses
import functools
import os
import sys

import numpy as np
from PIL import Image

from datasets.images import encode_png
from datasets.inputs import Input
from utils.drawing import canvas, colors, gallery
from utils.errors import UserError, shown
from utils.files import identity
from utils.inference import files, ledgers
from utils.inference.mc_dropout import MEASURES
from utils.inference.stream import Failed, Wanted, labelled
from utils.progress import Progress
from utils.settings import Settings, flag, refuse_idle

CELLS = 16  # height and width of the thumbnails by which pictures are compared
HEAT = (48, 36)  # width and height in which a map of the measure is kept for the sheet
MOST_SHOWN = 200  # pictures on the sheet
BRIGHTEST = 0.998  # quantile of the measure that is drawn in the brightest color
OUTPUTS = ('rank.txt', 'rank.csv', 'rank.png')
OF_PASSES = ('variance', 'mutual_information')  # measures of how passes with dropout differ


@dataclasses.dataclass(frozen=True)
class Ranking(Settings):
  """Which pictures to label next."""
  rank: bool = flag(False, 'list the pictures on which the network is least sure, in rank.txt, rank.csv and rank.png, '
                           'instead of writing labels')
  rank_by: str = flag('margin', f'measure of how unsure the network is: {", ".join(MEASURES)}', choices=MEASURES)
  rank_count: int = flag(100, 'pictures to list', least=1)
  rank_apart: int = flag(40, 'difference of two pictures, in levels of color, below which one of them lowers the '
                             "other's place; 0: the scores alone count", least=0, most=255)


@dataclasses.dataclass(frozen=True)
class Seen:
  """What is kept of a labeled picture.

  Attributes:
    item: its files.Input.
    score: the measure's mean over the pixels.
    shares: float32 [C], predicted share of each class.
    cells: uint8 [CELLS, CELLS, 3], its thumbnail.
    heat: float16 [h, w], the measure's map, in the size HEAT.
  """
  item: files.Input
  score: float
  shares: np.ndarray
  cells: np.ndarray
  heat: np.ndarray


def check(settings):
  """Raises UserError if the flags of an InferenceSettings do not go together with --rank, or those of it without."""
  ranking = settings.ranking
  refuse_idle(ranking, 'rank')
  if not ranking.rank:
    return
  for name in ('submission', 'probabilities'):
    if getattr(settings, name):
      raise UserError(f'--rank: not together with --{name}: a ranking writes {", ".join(OUTPUTS)} and nothing else')
  if ranking.rank_by in OF_PASSES and not settings.labelling.samples:
    others = [name for name in MEASURES if name not in OF_PASSES]
    raise UserError(f'--rank_by={ranking.rank_by}: says how passes with dropout differ; give --samples too, as '
                    f'--samples=20, or --rank_by={" or ".join(others)}')


def rank(inputs, found, run, settings, read):
  """Ranks pictures and writes the three files.

  Args:
    inputs: list of files.Input.
    found: list of all files.Input given, none of which may be overwritten.
    run: a runs.Run.
    settings: an InferenceSettings.
    read: `read(inputs)` yields (input, image as of stream.Labelled) or a stream.Failed for each input.

  Returns:
    `(text, failures)`: a line for the user, and a list of Failed, whose keys are paths.

  Raises:
    UserError: if a file cannot be written.
  """
  ranking, ledger, folder = settings.ranking, ledgers.Ledger(settings.output_dir), settings.output_dir
  targets = [os.path.join(folder, name) for name in OUTPUTS]
  protected = {identity(path) for path in (*(item.path for item in found), settings.list_ or '')} - {None}
  obstacle = files.obstacle(targets, protected, ledger, overwrite=settings.overwrite)
  if obstacle:
    raise UserError(f'--rank: {obstacle[0]}')
  pictures = functools.partial(_pictures, read, Input.from_config(run.config))
  seen, failures = look(inputs, run, settings, read)
  if not seen:
    return f'no picture could be ranked; nothing is written to {shown(folder)}', failures
  places = choose(seen, ranking.rank_count, ranking.rank_apart)
  chosen, others = [seen[index] for index in places], [seen[index] for index in sorted({*range(len(seen))} - {*places})]
  write_list(targets[0], chosen, ledger)
  write_table(targets[1], chosen, others, run.classes, ledger)
  ledger.write_png(targets[2], encode_png(sheet(chosen[:MOST_SHOWN], len(seen), ranking.rank_by, pictures)), run)
  return (f'{len(seen)} pictures ranked by {ranking.rank_by}, by {run.named}; the '
          f'{len(places)} to label next: {", ".join(map(shown, targets))}'), failures


def _pictures(read, network_input, inputs):
  """Yields (input, uint8 [H, W, 3]) or a Failed for each input; images of many bands in false color."""
  for item in read(inputs):
    if isinstance(item, Failed):
      yield item
    else:
      yield item[0], colors.false_color(item[1], network_input.reading, network_input.bands)


def look(inputs, run, settings, read):
  """Labels all pictures. Arguments: see `rank`.

  Returns:
    `(seen, failures)`: list of Seen, least sure first, and list of Failed.
  """
  photos = [item for item in inputs if item.kind == files.PHOTO]
  failures = [Failed(item.path, 'is a video; --rank takes photographs', 'video') for item in inputs
              if item.kind != files.PHOTO]
  seen, labelling, reading = [], settings.labelling, Input.from_config(run.config).reading
  with (labelling.open_predictor(run, len(photos), files.sizes(photos, reading)) as predictor,
        Progress(len(photos), 'images') as progress):
    for item in labelled(read(photos), predictor, crf=labelling.refinement, tiles=settings.tiles,
                         wanted=Wanted(measure=settings.ranking.rank_by), num_workers=labelling.num_workers):
      if isinstance(item, Failed):
        failures.append(dataclasses.replace(item, key=item.key.path))
      else:
        picture = colors.false_color(item.image, predictor.seen.reading, predictor.seen.bands)
        seen.append(keep(dataclasses.replace(item, image=picture), len(run.classes)))
      progress.update()
  return sorted(seen, key=lambda one: (-one.score, one.item.path)), failures


def keep(item, num_classes):
  """Returns the Seen of a Labelled, whose image is RGB."""
  cells = np.asarray(Image.fromarray(item.image).resize((CELLS, CELLS), Image.Resampling.BOX))
  heat = np.asarray(Image.fromarray(item.uncertainty).resize(HEAT, Image.Resampling.BOX))
  counts = np.bincount(item.label.ravel(), minlength=num_classes)[:num_classes]
  return Seen(item.key, float(item.uncertainty.mean(dtype=np.float64)), (counts / item.label.size).astype(np.float32),
              cells, heat.astype(np.float16))


def choose(seen, count, apart):
  """Chooses the pictures to list, see the module's docstring.

  Args:
    seen: list of Seen.
    count: greatest number of pictures to choose.
    apart: difference, in levels, from which pictures leave each other's scores alone; 0: all do.

  Returns:
    list of indices, in the order of the list.
  """
  scores = np.array([one.score for one in seen])
  cells = np.array([one.cells.ravel() for one in seen], np.float32)
  places, nearest = [], np.full(len(seen), np.inf)
  for _ in range(min(count, len(seen))):
    worth = scores * np.minimum(nearest / apart, 1) if apart else scores.copy()
    worth[places] = -1
    places.append(int(worth.argmax()))
    nearest = np.minimum(nearest, np.sqrt(np.square(cells - cells[places[-1]]).mean(axis=1)))
  return places


def write_list(path, chosen, ledger):
  """Writes the absolute paths of Seen, one per line, as --list takes them; a name that no line can hold is left out."""
  with ledger.replacing(path) as temporary, open(temporary, 'w', encoding='utf-8') as file:
    for one in chosen:
      line = os.path.abspath(one.item.path)
      if any(mark in '\r\n' or '\ud800' <= mark <= '\udfff' for mark in line):
        print(f'note: {shown(line)} is left out of {shown(path)}: its name is no line of text', file=sys.stderr)
      else:
        file.write(f'{line}\n')


def write_table(path, chosen, others, classes, ledger):
  """Writes a CSV of all pictures, those on the list first: place on it, path, score, predicted share of each class."""
  with ledger.replacing(path) as temporary, open(
      temporary, 'w', encoding='utf-8', errors='surrogateescape', newline='') as file:
    table = csv.writer(file)
    table.writerow(['place', 'path', 'score', *classes])
    for number, one in enumerate([*chosen, *others], start=1):
      place, path = number if number <= len(chosen) else '', os.path.abspath(one.item.path)
      table.writerow([place, path, f'{one.score:.6g}', *(f'{share:.4g}' for share in one.shares)])


def sheet(listed, total, measure, read):
  """Draws pictures beside maps of the measure, with place, score and name, and the scale of the maps.

  Args:
    listed: list of Seen, at least one.
    total: number of pictures ranked.
    measure: its name.
    read: `read(inputs)` yields (input, uint8 [H, W, 3]) or a stream.Failed for each input, one at a time.

  Returns:
    uint8 [h, w, 3], RGB.
  """
  top = float(np.quantile(np.stack([one.heat for one in listed]).astype(np.float32), BRIGHTEST))
  entries = []
  for place, (one, item) in enumerate(zip(listed, read([one.item for one in listed])), start=1):
    image = np.full((*HEAT[::-1], 3), canvas.GRAY, np.uint8) if isinstance(item, Failed) else item[1]  # gone meanwhile
    image = gallery.thumbnail(image)
    heat = Image.fromarray(one.heat.astype(np.float32)).resize(image.shape[1::-1], Image.Resampling.BILINEAR)
    entries.append(gallery.Pair(image, colors.heat(np.asarray(heat), top), os.path.basename(one.item.path),
                                f'{place}.  {one.score:.3g}   '))
  title = f'{len(listed)} of {total} pictures, to label next; score: {measure}, mean of the pixels'
  return colors.with_scale(gallery.pairs(entries, title), top, f'{measure} of a pixel')
