"""Exports every network in every format and lays out what came of it as the table of docs/export.md.

    python -m utils.studies.export_table --work_dir=export-table

The networks have random weights. Each is exported by a process of its own, `python -m utils.export --format=all`, and
compared on pictures of the built-in `shapes`. What is done already is kept: a study that was stopped goes on.
"""

import dataclasses
import os
import re
import sys

from checkpoints.convert import write_run
from datasets import get_dataset, records
from datasets.convert import convert
from nets import NETWORKS, get_network
from utils.compat import tf
from utils.export.formats import FORMATS
from utils.files import claim, make_folder, read_json, write_json
from utils.runs import make_config
from utils.settings import Settings, flag, run
from utils.studies import scripts
from utils.studies.random_weights import random_values

DATASET, SPLIT = 'shapes', 'val'
LEAST_EQUAL = 0.98  # of random weights many scores nearly tie, and maxima that nearly tie move in unpooling


@dataclasses.dataclass(frozen=True)
class TableSettings(Settings):
  """Flags of this program."""
  net: tuple[str, ...] = flag((), f'networks, by commas: {", ".join(NETWORKS)}; default: all', choices=NETWORKS)
  work_dir: str = flag('export-table', 'folder for data, runs, exported files and export-table.json', path=True)
  num_images: int = flag(2, 'number of images that are compared, besides a batch and a part', least=1)


def random_run(folder, name, dataset, data_dir):
  """Writes the run of a network with random weights.

  Args:
    folder: folder of the run.
    name: the network.
    dataset: the Dataset whose classes it has.
    data_dir: folder with the records.
  """
  network = get_network(name)
  with tf.Graph().as_default():
    network.logits(tf.placeholder(tf.float32, [None, None, None, 3]), dataset.num_classes)
    values = random_values(tf.global_variables())
  write_run(folder, values, make_config({'data_dir': data_dir, 'skip': network.default_skip}, dataset, network))


def exported(folder, log):
  """What came of an export in all formats.

  Args:
    folder: folder of the run.
    log: all that the program has printed.

  Returns:
    dict from format to `equal`, the share of equal labels, and `bytes`, where there is a file; and `reason` where there
    is none, or where it was rejected.
  """
  reasons, found = dict(re.findall(r'--format=(\w+): (.*)', log)), {}
  for name, form in FORMATS.items():
    found[name] = {'reason': reasons[name]} if name in reasons else {}
    for end in ('', '.rejected'):
      path = os.path.join(folder, 'export', f'{form.file}{end}.json')
      if os.path.exists(path):
        about = read_json(path)
        found[name]['bytes'] = sum(file['bytes'] for file in about['files'].values())
        if 'pixels' in about['check']:
          found[name]['equal'] = about['check']['equal'] / about['check']['pixels']
    if not found[name]:
      found[name] = {'reason': 'the program was ended by the system'}
  return found


def table(found):
  """The table in Markdown: a row for each network, a column for each format, and below it the reasons.

  Args:
    found: dict from network to the dict of `exported`.
  """
  lines = [f'| `--net` | {" | ".join(FORMATS)} |', f'|{" --- |" * (1 + len(FORMATS))}']
  reasons = []
  for name, formats in found.items():
    lines.append(f'| `{name}` | {" | ".join(_cell(formats[form]) for form in FORMATS)} |')
    reasons += [f'- `{name}`, {form}: {formats[form]["reason"]}' for form in FORMATS if 'reason' in formats[form]]
  return '\n'.join([*lines, *(['', *reasons] if reasons else [])])


def _cell(found):
  size = f', {found["bytes"] / 1e6:.1f} MB' if 'bytes' in found else ''
  share = f'{100 * found["equal"]:.4g} %' if 'equal' in found else 'none'
  return f'{"refused" if "reason" in found else share}{size if "reason" not in found else ""}'


def measure(settings):
  """Exports the networks of a TableSettings and prints the table."""
  dataset, data_dir = get_dataset(DATASET), os.path.join(settings.work_dir, 'data')
  make_folder(settings.work_dir)
  path = os.path.join(settings.work_dir, 'export-table.json')
  claim([path])
  if not os.path.exists(records.stats_path(data_dir, SPLIT)):
    convert(dataset, SPLIT, source_dir=None, data_dir=data_dir)
  found = read_json(path) if os.path.exists(path) else {}
  for name in settings.net or NETWORKS:
    if name in found:
      continue
    print(f'{name}: exporting', flush=True)
    folder = os.path.join(settings.work_dir, name)
    log = os.path.join(folder, 'export.log')
    if not os.path.exists(folder):
      random_run(folder, name, dataset, data_dir)
    with open(log, 'w', encoding='utf-8') as file:
      scripts.run('utils.export', [f'--ckpt={folder}', '--format=all', f'--num_images={settings.num_images}',
                                   f'--least_equal={LEAST_EQUAL}'], file)
    with open(log, encoding='utf-8', errors='replace') as file:
      found[name] = exported(folder, file.read())
    write_json(path, found)
  print(table({name: found[name] for name in NETWORKS if name in found}))


def main(argv=None):
  """Measures; `argv` is the command line without the program's name, None for the process's own."""
  return run(measure, TableSettings, argv, text=__doc__)


if __name__ == '__main__':
  sys.exit(main())
