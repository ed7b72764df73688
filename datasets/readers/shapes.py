"""The built-in dataset: overlapping geometric shapes on textured backgrounds, drawn by a formula, nothing to download.

The colors of a class scatter widely around its mean color, so that a network from scratch soon finds a hold, while only
the outline is certain. Bars, crosses, rings and small objects are narrower than the 32- and 16-pixel strides of an
FCN's coarse maps.
"""

import numpy as np

from datasets.dataset import Dataset, Source, colormap, label_map
from utils.labels import IGNORE_LABEL, edges

HEIGHTS, WIDTHS = (113, 145), (145, 177)  # pixels, both ends included; 129x161 on average
OBJECTS = (6, 12)  # number of objects in a picture, both ends included
RADII = (9.0, 40.0)  # radius of the circle around an object, in pixels, drawn log-uniformly
WALL = 0.3  # thickness of rings, crosses and bars as a part of the radius
LEAST_WALL = 5.0  # least thickness in pixels: two are lost to the void border
CONTRAST = 110.0  # least distance in RGB between an object's colors and the background's mean color
SPREAD = 55.0  # standard deviation of an object's colors around its class's, of 255
NOISE = 10.0  # standard deviation of each pixel's noise, of 255
SPLITS = {'train': 800, 'val': 100}
_SEEDS = {'train': 1, 'val': 2}


def _disc(x, y, wall):
  return x**2 + y**2 < 0.7


def _ring(x, y, wall):
  radius = np.hypot(x, y)
  return (radius < 1) & (radius > 1 - wall)


def _square(x, y, wall):
  return np.maximum(np.abs(x), np.abs(y)) < 0.7


def _triangle(x, y, wall):
  return np.maximum(np.maximum(-0.866 * x + 0.5 * y, 0.866 * x + 0.5 * y), -y) < 0.5


def _star(x, y, wall):
  """Five points at radius 1, five notches at 0.42: folds the plane to one side of a point and cuts along its edge."""
  sector = 2 * np.pi / 5
  angle = np.abs((np.arctan2(y, x) + sector / 2) % sector - sector / 2)
  along, across = np.hypot(x, y) * np.cos(angle), np.hypot(x, y) * np.sin(angle)
  notch_along, notch_across = 0.42 * np.cos(sector / 2), 0.42 * np.sin(sector / 2)
  return (along - 1) * notch_across + across * (1 - notch_along) < 0


def _bar(x, y, wall):
  return (np.abs(x) < 1) & (np.abs(y) < wall / 2)


def _cross(x, y, wall):
  return _bar(x, y, wall) | _bar(y, x, wall)


# Name -> whether points belong to the shape, in coordinates where a circle of radius 1 is around it; `wall` is the
# thickness of rings, crosses and bars, in the same unit.
OUTLINES = {'disc': _disc, 'ring': _ring, 'square': _square, 'triangle': _triangle, 'star': _star, 'cross': _cross,
            'bar': _bar}
CLASSES = ('background', *OUTLINES)
COLORS = np.array([[220, 60, 60], [60, 190, 80], [70, 90, 230], [220, 210, 60], [200, 80, 210], [70, 210, 220],
                    [240, 150, 60]], np.float64)  # mean color of each class, in the order of OUTLINES


def _pattern(rng, height, width):
  """A random texture: clouds, stripes or checks of random scale, float [H, W] in 0..1."""
  from scipy import ndimage  # not at the top: every start of a program would wait for it

  kind = rng.integers(3)
  scale = rng.uniform(1.5, 5.0)
  if kind == 0:
    clouds = ndimage.gaussian_filter(rng.standard_normal((height, width)), scale)
    return np.clip(0.5 + 0.3 * clouds / clouds.std(), 0, 1)
  y, x = np.mgrid[:height, :width]
  angle = rng.uniform(0, np.pi)
  waves = np.sin((x * np.cos(angle) + y * np.sin(angle)) / scale)
  if kind == 2:
    waves = waves * np.sin((y * np.cos(angle) - x * np.sin(angle)) / scale)
  return 0.5 + 0.5 * waves


def _texture(rng, height, width, *, near=None, away_from=None):
  """A pattern between two random colors.

  Args:
    rng: np.random.Generator.
    height, width: in pixels.
    near: mean of both colors, float [3]; None for any colors.
    away_from: color, float [3], at a distance of at least CONTRAST from both.

  Returns:
    float [H, W, 3] in 0..255, and the color in the middle of the two.
  """
  colors = []
  while len(colors) < 2:
    color = rng.uniform(0, 255, 3) if near is None else np.clip(rng.normal(near, SPREAD), 0, 255)
    if away_from is None or np.linalg.norm(color - away_from) >= CONTRAST:
      colors.append(color)
  first, second = colors
  second = first + 0.5 * (second - first)  # keeps patterns fainter than outlines
  return first + _pattern(rng, height, width)[..., np.newaxis] * (second - first), (first + second) / 2


def _place(rng, height, width):
  """Places a circle at random, its center inside the picture.

  Returns:
    slices (rows, columns) of the square around it, as far as it lies in the picture; coordinates x and y in the
    square, float [h, w], turned at random, in which the circle is x**2 + y**2 = 1; and its radius in pixels.
  """
  radius = np.exp(rng.uniform(*np.log(RADII)))
  angle = rng.uniform(0, 2 * np.pi)
  row, column = rng.uniform(0, height), rng.uniform(0, width)
  rows = slice(max(0, int(row - radius)), min(height, int(row + radius) + 2))
  columns = slice(max(0, int(column - radius)), min(width, int(column + radius) + 2))
  y, x = np.mgrid[rows, columns]
  x, y = (x - column) / radius, (y - row) / radius
  cos, sin = np.cos(angle), np.sin(angle)
  return (rows, columns), x * cos + y * sin, y * cos - x * sin, radius


def _with_border(objects, labels):
  """Makes pixels beside (up, down, left or right) another object's void: a border two pixels wide in all."""
  return np.where(edges(objects), IGNORE_LABEL, labels).astype(np.uint8)


def draw(seed):
  """Draws a picture.

  Args:
    seed: int or sequence of ints; equal seeds give equal pictures.

  Returns:
    image uint8 [H, W, 3] and labels uint8 [H, W], with IGNORE_LABEL around the objects.
  """
  rng = np.random.default_rng(seed)
  height, width = (int(rng.integers(low, high, endpoint=True)) for low, high in (HEIGHTS, WIDTHS))
  image, background = _texture(rng, height, width)
  objects, labels = np.zeros((2, height, width), np.int64)
  for number in range(1, rng.integers(*OBJECTS, endpoint=True) + 1):
    label = int(rng.integers(1, len(CLASSES)))
    box, x, y, radius = _place(rng, height, width)
    mask = OUTLINES[CLASSES[label]](x, y, max(WALL, LEAST_WALL / radius))
    fill, _ = _texture(rng, *mask.shape, near=COLORS[label - 1], away_from=background)
    image[box][mask], objects[box][mask], labels[box][mask] = fill[mask], number, label
  image = image + rng.normal(0, NOISE, image.shape)
  return np.clip(np.rint(image), 0, 255).astype(np.uint8), _with_border(objects, labels)


def _sources(source_dir, split):
  return [Source(name=f'{split}-{index:05d}') for index in range(SPLITS[split])]


def _generate(source):
  """Draws the picture that a source's name stands for."""
  split, index = source.name.rsplit('-', 1)
  return draw([_SEEDS[split], int(index)])


SHAPES = Dataset(
    name='shapes',
    classes=CLASSES,
    palette=colormap(len(CLASSES)),
    splits=SPLITS,
    sources=_sources,
    label_map=label_map({**{label: label for label in range(len(CLASSES))}, IGNORE_LABEL: IGNORE_LABEL}),
    generate=_generate,
    url='generated by datasets/readers/shapes.py',
    license="the project's own")
