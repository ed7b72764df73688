"""Temperature scaling: one number that divides the logits, so that a network is as sure as it is right.

Guo, Pleiss, Sun, Weinberger, "On Calibration of Modern Neural Networks", ICML 2017, section 4.2. The number is fitted
by `evaluate.py --fit_temperature` (utils/evaluation/temperature_fit.py) and kept in the run's folder, with a digest of
the weights that it belongs to.
"""

import os
import sys

from utils.errors import UserError, shown
from utils.files import claim, read_json, write_json
from utils.inference.predictor import weights_of
from utils.packages import is_package
from utils.settings import flag

FILE = 'temperature.json'
LEAST, GREATEST = 0.1, 10.0  # Guo et al., table 1 and figure 4: networks are too sure by factors below 4
AGAIN = 'evaluate.py --fit_temperature fits it anew'


def file_of(run):
  """Path of the file with a runs.Run's temperature; of a package, the package."""
  return run.folder if is_package(run.folder) else os.path.join(run.folder, FILE)


def claim_file(run, *, overwrite):
  """Claims the file with a runs.Run's temperature, see utils.files.claim."""
  if not is_package(run.folder):
    claim([file_of(run)], overwrite=overwrite)


def save(run, value):
  """Keeps a temperature in a run's folder; one fitted before is replaced.

  Args:
    run: the runs.Run whose checkpoint it was fitted on.
    value: dict with `temperature`, `split`, and whatever else is known of it.

  Raises:
    UserError: if the file cannot be written.
  """
  write_json(file_of(run), {**value, 'checkpoint': os.path.basename(run.checkpoint), 'step': run.step,
                            'weights': weights_of(run).digest()})


def stored(run):
  """What is kept of the temperature of a runs.Run, in a package's config; see `save`. None if there is none."""
  if is_package(run.folder):
    return run.config.get('temperature')
  return read_json(file_of(run)) if os.path.exists(file_of(run)) else None


def stored_temperature(run):
  """Finds the temperature that was fitted on a run's weights, and says in a line that it is used, or why not.

  Args:
    run: a runs.Run.

  Returns:
    float; 1 if there is none.

  Raises:
    UserError: if the file is broken.
  """
  path = file_of(run)
  value = stored(run)
  if value is None:
    return 1.0
  temperature = value.get('temperature') if isinstance(value, dict) else None
  if not (isinstance(temperature, (int, float)) and LEAST <= temperature <= GREATEST):
    raise UserError(f'{path}: temperature={shown(str(temperature))}; valid are {LEAST:g} to {GREATEST:g}. {AGAIN}; '
                    '--temperature=1 does without')
  if not is_package(run.folder) and value.get('weights') != weights_of(run).digest():
    print(f'note: {shown(path)} is not used: it was fitted on other weights (step {value.get("step")}) than those of '
          f'{shown(run.checkpoint)} (step {run.step}); {AGAIN}', file=sys.stderr, flush=True)
    return 1.0
  print(f'temperature {temperature:g}, fitted on {value.get("split")} ({shown(path)})', flush=True)
  return float(temperature)


def temperature_flag():
  """The flag --temperature of a program that labels images."""
  return flag(None, "divide the logits by this number; default: the run's, of evaluate.py --fit_temperature, else 1",
              least=LEAST, most=GREATEST)


def temperature_of(run, given):
  """The number that divides a runs.Run's logits: the flag's, `given`, or the fitted one, which a line then says."""
  return stored_temperature(run) if given is None else given
