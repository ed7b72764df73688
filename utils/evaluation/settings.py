"""The settings of evaluate.py."""

import dataclasses

from datasets.folds import HoldOutFlags
from datasets.hold_out import HELD_OUT
from utils.errors import UserError
from utils.evaluation.corruptions import CORRUPTIONS, FAMILIES, SEVERITIES
from utils.inference.settings import Labelling
from utils.inference.temperature import temperature_of
from utils.inference.tiles import Tiles
from utils.settings import Settings, flag, group, overwrite_flag


@dataclasses.dataclass(frozen=True)
class EvaluationTiles(Tiles):
  """Tiles for images too large for memory; labels from tiles differ a little from labels of the whole image."""
  max_pixels: int = flag(10_000_000, 'images with more pixels are labeled in overlapping tiles', least=1)


@dataclasses.dataclass(frozen=True)
class Corruptions(Settings):
  """The corruptions under which a run is evaluated as well; see docs/robustness.md."""
  corruptions: tuple[str, ...] = flag(
      (), f'also evaluate under corruptions: all, {", ".join(FAMILIES)}, or names',
      choices=('all', *FAMILIES, *CORRUPTIONS))
  severities: tuple[int, ...] = flag(SEVERITIES, 'severities of the corruptions', least=1, most=5)
  compare: str | None = flag(None, 'run, or JSON of its corruptions, to compare with', path=True)
  resume: bool = flag(False, 'keep the corruptions that the JSON of a stopped evaluation has')

  def check(self):
    """Raises UserError if a setting is not valid, or there are no corruptions that it concerns."""
    super().check()
    if not self.severities:
      raise UserError(f'--severities= leaves none; valid are {", ".join(map(str, SEVERITIES))}')
    if len(set(self.severities)) < len(self.severities):
      raise UserError(f'--severities={",".join(map(str, self.severities))}: one is named twice')
    for name, given in (('severities', self.severities != SEVERITIES), ('compare', self.compare is not None),
                        ('resume', self.resume)):
      if given and not self.corruptions:
        raise UserError(f'--{name} is for --corruptions, which is not given')

  @property
  def names(self):
    """Tuple of the names of the corruptions, in the registry's order."""
    asked = set(self.corruptions)
    return tuple(name for name, one in CORRUPTIONS.items() if asked & {'all', one.family, name})

  @property
  def suffix(self):
    """The end of the results' names: which corruptions and severities they hold, unless all."""
    words, names = ['corruptions'], set(self.names)
    if len(names) < len(CORRUPTIONS):
      for family in FAMILIES:
        own = [name for name, one in CORRUPTIONS.items() if one.family == family]
        words += [family] if names.issuperset(own) else [name for name in own if name in names]
    if self.severities == SEVERITIES:
      return '_'.join(words)
    return '_'.join(words) + '-severities_' + '_'.join(map(str, self.severities))


@dataclasses.dataclass(frozen=True)
class EvaluateSettings(Settings):
  """The settings of evaluate.py."""
  ckpt: str = flag(None, "run's folder, or a checkpoint in it", required=True, path=True)
  split: str = flag('val', 'split to evaluate')
  data_dir: str | None = flag(None, "folder with the TFRecords; default: the training's own", path=True)
  output_dir: str | None = flag(None, "folder for the results; default: the run's", path=True)
  overwrite: bool = overwrite_flag()
  fit_temperature: bool = flag(False, "fit the temperature on the split and keep it in the run's folder, and no more")
  details: bool = flag(False, 'report boundary scores, calibration, and the best and the worst images as well')
  labelling: Labelling = group(Labelling)
  tiles: EvaluationTiles = group(EvaluationTiles)
  held: HoldOutFlags = group(HoldOutFlags)
  corruption: Corruptions = group(Corruptions)

  def check(self):
    """Raises UserError if a setting is not valid, or does not fit another."""
    super().check()
    self.held.refuse_idle()
    if self.fit_temperature and (self.details or self.output_dir or self.corruption.names
                                 or self.labelling != Labelling(device=self.labelling.device)):
      raise UserError('--fit_temperature fits one pass over the images as they are and keeps the result in the run; '
                      'it goes without --details, --output_dir, --temperature, --samples, --seed, --test_flip, '
                      '--test_scales, --crf, --num_workers, --corruptions, --engine')
    if self.held.given and self.split != HELD_OUT:
      raise UserError(f'--split={self.split}: --hold_out and --fold choose the images of --split={HELD_OUT}; without '
                      'them, it has those that the training held out')

  def with_temperature_of(self, run):
    """These settings with the number that divides a runs.Run's logits, see Labelling; 1 where it is to be fitted."""
    value = 1.0 if self.fit_temperature else temperature_of(run, self.labelling.temperature)
    return dataclasses.replace(self, labelling=dataclasses.replace(self.labelling, temperature=value))
