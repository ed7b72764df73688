"""Why TensorFlow finds no GPU, and what to do about it."""

import dataclasses

from utils.doctor.driver import DRIVER, OLDEST_DRIVER
from utils.errors import listed
from utils.installation import install

INSTALL = install('gpu')
IN_CONTAINER = ('start the container with GPUs: docker run --gpus all (NVIDIA Container Toolkit on the host, '
                'NVIDIA_DRIVER_CAPABILITIES=compute,utility)')
# Answers of cuInit, CUresult in cuda.h, with more to say than their number.
_NO_DEVICE = 100
_CODES = {
    34: ('a stub of the library', 'remove the stubs folder of the CUDA toolkit from LD_LIBRARY_PATH'),
    _NO_DEVICE: ('no device', 'nvidia-smi must list a GPU; if it does not, restart the machine'),
    802: ('system not ready', 'start nvidia-fabricmanager, in the version of the driver'),
    803: ("the driver's library and its kernel module differ", 'restart the machine: the driver was updated'),
}


@dataclasses.dataclass(frozen=True)
class Evidence:
  """What was found out about GPUs on a machine where TensorFlow finds none.

  Attributes:
    cuda: version of CUDA that TensorFlow is built for, '12.5.1'; '' if it is built without.
    driver: dict of driver.ask_driver; None if the driver did not answer.
    libraries: dict from the names of CUDA's libraries that do not open to the reasons.
    kernel: version of the driver that the kernel runs; '' if it runs none.
    card: whether a card is plugged in.
    smi: whether nvidia-smi lists a GPU.
    container: whether this is a container.
    hidden: whether CUDA_VISIBLE_DEVICES hides all GPUs.
    words: TensorFlow's own message; '' if it has none.
  """
  cuda: str = '12.5.1'
  driver: dict | None = dataclasses.field(default_factory=dict)
  libraries: dict = dataclasses.field(default_factory=dict)
  kernel: str = ''
  card: bool = False
  smi: bool = False
  container: bool = False
  hidden: bool = False
  words: str = ''


def why(evidence):
  """Explains why no GPU is found.

  Args:
    evidence: an Evidence.

  Returns:
    `(reason, remedy)`, a line each; the remedy is '' where nothing is wrong: there is no card.
  """
  there = evidence.card or evidence.kernel or evidence.smi
  if evidence.driver is None:
    return "NVIDIA's driver does not answer", 'restart the machine; dmesg | grep NVRM may say more'
  if there and not evidence.cuda:
    return 'this TensorFlow is built without CUDA', f'pip uninstall tensorflow-cpu; {INSTALL}'
  if evidence.driver.get('failure'):
    return _without_driver_library(evidence)
  return _with_driver_library(evidence)


def _without_driver_library(evidence):
  """`why` where libcuda.so.1 does not open."""
  failure = f'{DRIVER}: {evidence.driver["failure"]}'
  if evidence.kernel or evidence.smi:
    version = f' {evidence.kernel}' if evidence.kernel else ''
    return (f"NVIDIA's driver{version} runs, but its library does not open ({failure})",
            IN_CONTAINER if evidence.container else 'install the library of the same version (Ubuntu: '
            'libnvidia-compute-VERSION), or add its folder to LD_LIBRARY_PATH')
  if evidence.card:
    return (f"an NVIDIA card is here, but no driver of it ({failure})",
            IN_CONTAINER if evidence.container else f"install NVIDIA's driver, {OLDEST_DRIVER} or newer")
  if evidence.container:
    return f'this container has no NVIDIA card ({failure})', f'if the host has one, {IN_CONTAINER}'
  return f'this machine has no NVIDIA card ({failure})', ''


def _with_driver_library(evidence):
  """`why` where libcuda.so.1 opens."""
  runs, code = evidence.driver.get('cuda', 0), evidence.driver.get('code', 0)
  version = f' {evidence.kernel}' if evidence.kernel else ''
  if 0 < runs < 1000 * int((evidence.cuda or '0').split('.')[0]):
    return (f"NVIDIA's driver{version} is too old: it runs CUDA {runs // 1000}.{runs % 1000 // 10}, and TensorFlow is "
            f'built for {evidence.cuda}', f'install driver {OLDEST_DRIVER} or newer')
  if evidence.hidden:
    return 'CUDA_VISIBLE_DEVICES hides all GPUs', 'unset CUDA_VISIBLE_DEVICES'
  if code == _NO_DEVICE and evidence.container:
    return 'this container was given no GPU (cuInit: 100)', IN_CONTAINER
  if code:
    meaning, remedy = _CODES.get(code, ('unknown error', 'nvidia-smi may say more; restart the machine'))
    return f"NVIDIA's driver{version} does not start (cuInit: {code}, {meaning})", remedy
  if evidence.libraries:
    return f'libraries of CUDA do not open: {unopened(evidence.libraries)}', INSTALL
  return evidence.words or 'TensorFlow does not say why', 'TF_CPP_MIN_LOG_LEVEL=0 python train.py shows its messages'


def unopened(libraries):
  """Libraries that do not open, by reason, in one line: 'libcudnn.so.9, libcufft.so.11 (not found)'."""
  reasons = {}
  for name, reason in libraries.items():
    reasons.setdefault(reason, []).append(name)
  return '; '.join(f'{listed(names, most=8)} ({reason})' for reason, names in reasons.items())
