"""Whether this machine has an NVIDIA card, and whether CUDA may use it."""

import glob
import os

from utils.files import text_of


def has_card(root='/'):
  """Whether an NVIDIA graphics card is plugged in, with a driver or without.

  Args:
    root: folder in which dev/ and sys/ lie.
  """
  for folder in glob.glob(os.path.join(glob.escape(root), 'sys/bus/pci/devices/*')):
    if text_of(folder, 'vendor') == '0x10de' and text_of(folder, 'class').startswith('0x03'):
      return True
  return os.path.exists(os.path.join(root, 'dev/nvidia0'))


def hidden(environment):
  """Whether CUDA_VISIBLE_DEVICES in a process's environment hides all GPUs."""
  return environment.get('CUDA_VISIBLE_DEVICES', '0').strip() in ('', '-1', 'none', 'NoDevFiles')


def unused_card():
  """Whether this machine has a card that CUDA_VISIBLE_DEVICES does not hide: TensorFlow should find a GPU."""
  return has_card() and not hidden(os.environ)
