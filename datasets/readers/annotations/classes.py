"""The classes that an export's labels become: all of the export's, or those of a list that the user puts beside it."""

import dataclasses
import os

from datasets.readers import class_list, lists
from utils.errors import UserError, listed
from utils.labels import IGNORE_LABEL

BACKGROUND = 'background'
VOID = '__ignore__'  # Labelme's label for pixels that are neither trained on nor scored
LISTS = ('classes.txt', 'labels.txt')  # places of the user's list
_LABELME_BACKGROUND = '_background_'


@dataclasses.dataclass(frozen=True)
class Classes:
  """Classes and the labels that they are made of.

  Attributes:
    names: class names; the index is the raw label.
    colors: for each class (r, g, b), or None.
    raws: dict of label -> raw label or IGNORE_LABEL, for every label that may occur.
    rest: raw label of the pixels that nobody labeled: background's, or IGNORE_LABEL.
    notes: lines about what was decided.
  """
  names: tuple
  colors: tuple
  raws: dict
  rest: int
  notes: tuple


def canonical(label):
  """Returns a label in one line, without white space around it; Labelme's `_background_` as 'background'."""
  label = ' '.join(label.split())
  return BACKGROUND if label == _LABELME_BACKGROUND else label


def parsed(label, where):
  """Returns `canonical(label)`. Raises UserError, naming `where`, if nothing is left of it."""
  label = canonical(label)
  if not label:
    raise UserError(f'{where}: a name is empty')
  return label


def is_background(label):
  """Whether a canonical label is that of pixels without an object."""
  return label.lower() == BACKGROUND


def list_path(root, names=LISTS):
  """Finds the user's list of classes.

  Args:
    root: folder of the export.
    names: names that the list may have.

  Returns:
    path of the list; None where there is none.

  Raises:
    UserError: if there are several.
  """
  found = [os.path.join(root, name) for name in names if os.path.isfile(os.path.join(root, name))]
  if len(found) > 1:
    raise UserError(f'{" and ".join(found)} both list classes; leave one of them in the folder')
  return found[0] if found else None


def choose(root, labels, places, colors=None):
  """Chooses and orders the classes.

  Args:
    root: folder of the export; a list of classes in it decides.
    labels: the export's labels, canonical; without a list, the classes come in this order.
    places: dict of label -> where it stands first, for messages; for those that have an object, or may have.
    colors: dict of label -> (r, g, b), or None where the export has no color.

  Returns:
    Classes. Without a list, 'background' comes first, unless it is one of `labels`.

  Raises:
    UserError: if the list lacks a label that has an object, naming its place; or if there are too many classes, or none
      beside the background.
  """
  path, labels = list_path(root), list(dict.fromkeys(labels))
  colors = {label: color for label, color in (colors or {}).items() if color}
  if path:
    return _from_list(path, labels, places, colors)
  names = [label for label in labels if label != VOID]
  if all(map(is_background, names)):
    raise UserError(f'{root}: no class beside the background; the export has '
                    f'{listed(names) or "no class at all"}: label some objects, or list classes in {LISTS[0]}')
  if not any(map(is_background, names)):
    names.insert(0, BACKGROUND)
  if len(names) > IGNORE_LABEL:
    raise UserError(f'{root}: the export has {len(names)} classes with the background; at most {IGNORE_LABEL} '
                    f'have an id. Name those to keep in {os.path.join(root, LISTS[0])}, a line each, and others '
                    'as "NAME ignore"')
  notes = [f'classes are all of the export: {listed(names, 20)} (a {LISTS[0]} in its folder would choose and order '
           'them)']
  return _classes(names, {name: raw for raw, name in enumerate(names)}, {}, colors, labels, notes)


def _from_list(path, labels, places, colors):
  """Makes the Classes that a list names."""
  lines, noted = {}, {}
  for line in class_list.read_classes(path):
    lists.note_place(noted, f'class {canonical(line.name)!r}', line.where)
    lines[canonical(line.name)] = line
  kept = [name for name, line in lines.items() if not line.ignore]
  raws = {name: kept.index(name) if name in kept else IGNORE_LABEL for name in lines}
  missing = [label for label in places if label not in raws and label != VOID and not is_background(label)]
  if missing:
    others = f'; it lacks {listed(map(repr, missing[1:]))} too' if missing[1:] else ''
    raise UserError(f'{places[missing[0]]} has the class {missing[0]!r}, which {path} does not name{others}; it '
                    f'has {listed(lines, 12)}. Add it, as "{missing[0]} ignore" if its pixels are to be void')
  file = os.path.basename(path)
  notes = [f'classes and their order are those of {file}']
  unknown = [name for name in lines if name not in labels and name != VOID and not is_background(name)]
  if unknown:
    notes.append(f'{file} names {listed(unknown)}, which the export does not have')
  ignored = [name for name, line in lines.items() if line.ignore and name in labels]
  if ignored:
    notes.append(f'objects of {listed(ignored)} are void')
  told = {name: line.color for name, line in lines.items() if line.color}
  return _classes(kept, raws, told, colors, labels, notes)


def _classes(names, raws, told, colors, labels, notes):
  """Makes Classes; a color that comes twice stays with the list's class, then with background, which is black."""
  background = next(filter(is_background, raws), None)
  rest = IGNORE_LABEL if background is None else raws[background]
  given, owner = {background: (0, 0, 0), **colors, **told}, {}
  for name in (*told, background, *colors):
    if name in names:
      owner.setdefault(given[name], name)
  own = [given[name] if name in given and owner[given[name]] == name else None for name in names]
  notes.append('pixels without an object are ' + (
      'void, since there is no class background' if background is None else
      'void' if rest == IGNORE_LABEL else repr(background)))
  raws = {VOID: IGNORE_LABEL, BACKGROUND: rest, **{label: rest for label in labels if is_background(label)}, **raws}
  return Classes(tuple(names), tuple(own), raws, rest, tuple(notes))
