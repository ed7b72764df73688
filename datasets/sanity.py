"""Sanity of a dataset: what the converter notes of every pair, and the warnings that follow from it without a scan.

The converter passes every image and label to `look`, adds the results up in a Tally, and keeps them as `sanity` in
`<split>.json`. `warnings` makes its lines from these files alone, so that they cost nothing at the start of a training.
"""

import collections
import dataclasses
import hashlib
import itertools
import math

import numpy as np
from PIL import Image

from utils.errors import listed, shown
from utils.labels import IGNORE_LABEL

# Thresholds of brightness, of 255. Of 958 photographs of CamVid, VOC, COCO and ADE20K, dusk and night among them, the
# darkest has 1 % of its pixels above 140, the brightest 1 % below 69. 12 bits read as 16 have nothing above 16.
DARK, BRIGHT = 32, 240
MOST = 0.99  # share of a picture's pixels that makes it dark or bright, of all labels that makes a class suspicious
LARGE_VOID = 0.5  # share of void above which it is suspicious: CamVid, VOC and ADE20K have 3 to 10 %
GRID = 32  # rows and columns of a picture that its brightness and colors are taken from
NAMED = 5  # names kept of each kind of odd pictures
UNIONS = ('all', 'trainval')  # splits made of other splits: they share images by design
_ODD = {  # kind of an odd pair -> what to say of it
    'label': 'show their own labels; are pictures of labels among the images?',
    'dark': f'are nearly black ({MOST:.0%} of the pixels below {DARK} of 255); do they use few of their bits?',
    'bright': f'are blown out ({MOST:.0%} of the pixels above {BRIGHT} of 255)',
    'flat': 'have a single color',
    'void': 'have no labeled pixel'}


@dataclasses.dataclass(frozen=True)
class Look:
  """What is noted of a pair.

  Attributes:
    digest: hash of the image's pixels, 16 hexadecimal digits: the same for every lossless form of a picture.
    label_digest: hash of the label's pixels.
    odd: tuple of the kinds of odd pairs that it belongs to, keys of `_ODD`.
  """
  digest: str
  label_digest: str
  odd: tuple


def look(pixels, ids, encoded_label, limits=(0, 255)):
  """Looks at a decoded pair.

  Args:
    pixels: the image: a PIL image of mode RGB or L, uint8 [H, W, 3], or an array [H, W, bands] of other numbers.
    ids: uint8 [H, W], label ids or IGNORE_LABEL.
    encoded_label: bytes that `ids` are stored as, the same for equal ids.
    limits: (low, high), the values that count as black and white, for all bands or arrays [bands].

  Returns:
    a Look.
  """
  if isinstance(pixels, np.ndarray) and pixels.dtype == np.uint8 and pixels.shape[2] == 3:
    pixels = Image.fromarray(pixels)
  plain = not isinstance(pixels, np.ndarray)
  sample = _sample(pixels)
  sampled_ids = np.asarray(_sampled(Image.fromarray(ids)) if plain else _sampled(ids))
  odd = [_appearance(sample, sampled_ids, *limits), 'void' if ids.min() == IGNORE_LABEL else None]
  return Look(digest(pixels, sample), hashlib.sha1(encoded_label).hexdigest()[:16], tuple(filter(None, odd)))


def _sample(pixels):
  """GRID rows and columns of an image, an array."""
  return _sampled(pixels) if isinstance(pixels, np.ndarray) else np.asarray(_sampled(pixels).convert('RGB'))


def digest(pixels, sample=None):
  """Hash of an image: of all values of an array; of a PIL image's gray values and a sample of its colors.

  Equal gray values everywhere and equal colors on the grid are an equal image; a copy of all colors would take longer
  than decoding them.

  Args:
    pixels: as of `look`.
    sample: GRID rows and columns of them, where they are at hand.

  Returns:
    16 hexadecimal digits.
  """
  sample = _sample(pixels) if sample is None else sample
  whole = np.ascontiguousarray(pixels) if isinstance(pixels, np.ndarray) else pixels.convert('L').tobytes()
  found = hashlib.sha1(whole)  # the fastest of hashlib on current CPUs
  found.update(np.ascontiguousarray(sample))
  found.update(str(np.shape(pixels) if isinstance(pixels, np.ndarray) else pixels.size).encode())
  return found.hexdigest()[:16]


def _sampled(picture):
  """GRID rows and columns, evenly spread, of a PIL image or an array [H, W, ...]."""
  if isinstance(picture, np.ndarray):
    rows, columns = (((np.arange(GRID) + 0.5) * length / GRID).astype(int) for length in picture.shape[:2])
    return picture[rows[:, np.newaxis], columns]
  return picture.resize((GRID, GRID), Image.Resampling.NEAREST)


def _appearance(sample, ids, low, high):
  """The odd kind that an image looks like, given a sample of it and of its label; None for a usual one."""
  if _shows_label(sample, ids):
    return 'label'
  dark, bright = (low + (high - low) * level / 255 for level in (DARK, BRIGHT))
  if (sample < dark).all(axis=-1).mean() >= MOST:
    return 'dark'
  if (sample > bright).all(axis=-1).mean() >= MOST:
    return 'bright'
  return 'flat' if (sample == sample[0, 0]).all() else None


def _shows_label(sample, ids):
  """Whether the colors of an image and the ids of its label, at least two, stand for each other one to one."""
  values = np.unique(ids)
  if len(values) < 2 or len(np.unique(sample[..., 0])) > len(values):  # one band decides nearly always
    return False
  colors, index = np.unique(sample.reshape(-1, sample.shape[-1]), axis=0, return_inverse=True)
  pairs = np.unique(np.stack([index.ravel(), ids.ravel()]), axis=1)
  return len(colors) == len(values) == pairs.shape[1]


class Tally:
  """Adds up the Looks of a split."""

  def __init__(self):
    self._digests, self._labels, self._odd = {}, set(), {kind: [] for kind in _ODD}

  def add(self, name, seen):
    """Adds the Look `seen` of the pair `name`."""
    self._digests[name] = seen.digest
    self._labels.add(seen.label_digest)
    for kind in seen.odd:
      self._odd[kind].append(name)

  def to_json(self):
    """Dict for `sanity` in `<split>.json`.

    Returns:
      a dict: 'digests' (image's name -> digest), 'different_labels' (number), and for each kind of odd pairs that
      occurs a dict of 'count' and the first 'names'.
    """
    odd = {kind: {'count': len(names), 'names': names[:NAMED]} for kind, names in self._odd.items() if names}
    return {'digests': self._digests, 'different_labels': len(self._labels), **odd}


def warnings(stats):
  """Finds what is probably wrong with a dataset.

  Args:
    stats: dict of split -> contents of its `<split>.json`; of an older one without `sanity`, what it has is used.

  Returns:
    a list of lines, each one warning.
  """
  checks = (_absent_classes, _one_class, _void, _odd_pictures, _equal_labels, _twins, _copies)
  return [line for check in checks for line in check(stats)]


def report(name, *found):
  """Prints the warnings about the dataset `name`, each once; `found` are one or several stats as for `warnings`."""
  for line in dict.fromkeys(line for stats in found for line in warnings(stats)):
    print(f'warning: {name}: {line}', flush=True)


def _absent_classes(stats):
  """Classes that occur nowhere, in other splits than train only, or not in a split."""
  classes = next(iter(stats.values()), {}).get('class_names')
  if any(one['class_names'] != classes for one in stats.values()):
    return  # of different conversions, which the programs refuse
  absent = collections.defaultdict(list)
  for index, name in enumerate(classes or ()):
    splits = tuple(split for split in stats if not stats[split]['class_pixels'][index])
    if splits:
      absent[splits].append(name)
  for splits, names in sorted(absent.items(), key=lambda item: not _learned(item[0])):
    some, where = f'{len(names)} of {len(classes)} classes', ' and '.join(splits)
    occur = 'occurs' if len(names) == 1 else 'occur'
    others = ' and '.join(split for split in stats if split not in splits)
    if _learned(splits) and others:
      yield f'{some} {occur} in {others} but not in {_learned(splits)} and cannot be learned: {listed(names)}'
    else:
      so = 'cannot be learned' if _learned(splits) else f'{"has" if len(names) == 1 else "have"} no score there'
      yield f'{some} never {occur} in {where} and {so}: {listed(names)}'


def _learned(splits):
  """The split of these that a network is trained on, train or trainval; None without."""
  return next((split for split in splits if split.startswith('train')), None)


def _one_class(stats):
  """Labels that are nearly all of one class."""
  found = collections.defaultdict(list)
  for split, one in stats.items():
    share = max(one['class_pixels'], default=0) / max(sum(one['class_pixels']), 1)
    if share > MOST:
      name = one['class_names'][int(np.argmax(one['class_pixels']))]
      found[name].append(f'{math.floor(1e4 * share) / 100:g} % in {split}')  # 100 % is all of them
  for name, shares in found.items():
    yield (f'nearly all labeled pixels are {name}: {", ".join(shares)}; look at mean IoU, not at pixel accuracy, and '
           'at how the labels are read (python -m datasets.inspect)')


def _void(stats):
  """Labels of more void than anything else."""
  for split, one in stats.items():
    void = one.get('void_pixels', 0)
    share = void / max(void + sum(one['class_pixels']), 1)
    if share > LARGE_VOID:
      yield f'{share:.1%} of the pixels of {split} are void (label {IGNORE_LABEL} always is)'


def _odd_pictures(stats):
  for kind, said in _ODD.items():
    for split, one in stats.items():
      odd = one.get('sanity', {}).get(kind)
      if odd:
        yield _counted(odd, one['num_examples'], split, said)


def _counted(odd, total, split, said):
  names = ', '.join(shown(name) for name in odd['names'])
  more = f' and {odd["count"] - len(odd["names"])} more' if odd['count'] > len(odd['names']) else ''
  return f'{odd["count"]} of {total} images of {split} {said}: {names}{more}'


def _equal_labels(stats):
  """Labels that are all the same picture; if of one class, other lines say so."""
  for split, one in stats.items():
    several_classes = sum(pixels > 0 for pixels in one['class_pixels']) > 1
    if one.get('sanity', {}).get('different_labels') == 1 and one['num_examples'] > 1 and several_classes:
      yield f'all {one["num_examples"]} labels of {split} are the same picture; are they copies of one file?'


def _twins(stats):
  """Images that stand in two splits, whatever their names."""
  for (first, one), (second, other) in itertools.combinations(stats.items(), 2):
    names, others = _names(one), _names(other)
    common = [digest for digest in names if digest in others]
    if common and not {first, second} & set(UNIONS):
      equal = [f'{first} {shown(names[digest][0])} = {second} {shown(others[digest][0])}' for digest in common]
      yield (f'{len(common)} image{"s" * (len(common) > 1)} in both {first} and {second}, so that scores are too good: '
             f'{listed(equal)}')


def _copies(stats):
  """Images that stand in a split more than once."""
  for split, one in stats.items():
    groups = [names for names in _names(one).values() if len(names) > 1]
    if groups:
      equal = [listed(map(shown, names), separator=' = ') for names in groups]
      count = sum(map(len, groups)) - len(groups)
      are = 'images of {} are copies of others' if count > 1 else 'image of {} is a copy of another'
      yield f'{count} {are.format(split)}: {listed(equal)}'


def _names(one):
  """Dict of digest -> names of a split's images that have it."""
  names = collections.defaultdict(list)
  for name, digest in one.get('sanity', {}).get('digests', {}).items():
    names[digest].append(name)
  return names
