"""The datasets by name. A new one is a file of this folder and a line here."""

from datasets.camvid import CAMVID
from datasets.mit import MIT
from datasets.shapes import SHAPES
from datasets.voc import VOC, VOC2011, VOC_AUG
from utils.errors import UserError

DATASETS = {dataset.name: dataset for dataset in (SHAPES, VOC, VOC2011, VOC_AUG, CAMVID, MIT)}


def get_dataset(name):
  """Looks up a Dataset by the name that `--dataset` gives. Raises UserError that lists the known ones."""
  if name not in DATASETS:
    raise UserError(f'--dataset={name}: unknown dataset; known are {", ".join(DATASETS)}')
  return DATASETS[name]
