"""The record of what an annotation tool's export holds."""

import dataclasses
from collections.abc import Callable


@dataclasses.dataclass(frozen=True)
class Annotations:
  """Content of an annotation tool's export.

  Attributes:
    form: name of the format in messages, such as 'Labelme JSON'.
    classes: class names; the index is the raw label that `read_label` gives.
    colors: for each class (r, g, b), or None where the export has no color for it.
    splits: dict of split name -> list of `Source`s, sorted by name, whose labels are os.PathLikes for `read_label`;
      where the export has no splits, all are in the split 'all'.
    read_label: `read_label(label)` -> raw labels, uint8 [H, W], IGNORE_LABEL for void; a function of a module or a
      partial of one, since other processes call it. Raises images.BadFile, naming file, object and value. None for
      labels that are pictures.
    notes: lines that say what was decided in reading, such as the order in which overlapping objects are drawn.
    decide: for labels that are pictures, `decide(told)` -> own_labels.Meaning, decided by all of them and by what the
      user says, see `dataset_file`.
    lines: for labels that are pictures, the ClassLines of all classes, void ones too, whose raw ids they hold.
  """
  form: str
  classes: tuple
  colors: tuple
  splits: dict
  read_label: Callable | None = None
  notes: tuple = ()
  decide: Callable | None = None
  lines: tuple = ()
