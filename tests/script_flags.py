"""Whether the scripts know the flags that other programs call them with."""

from utils import settings
from utils.evaluation.settings import EvaluateSettings
from utils.inference.settings import InferenceSettings
from utils.training.settings import TrainSettings


def assert_flags(script, command_lines):
  """Asserts that a script takes command lines; nothing is run.

  Args:
    script: 'train', 'evaluate' or 'inference'.
    command_lines: list of lists of flags.
  """
  record = {'train': TrainSettings, 'evaluate': EvaluateSettings, 'inference': InferenceSettings}[script]
  for words in command_lines:
    assert settings.parse(record, words) is not None
