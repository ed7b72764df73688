"""The NVIDIA driver and CUDA's libraries as this machine has them, asked without TensorFlow.

    python -m utils.doctor.driver 12.5.1 9

prints JSON: what the driver says of its GPUs, and the libraries of CUDA 12.5.1 and cuDNN 9 that do not open, with the
reason. It is a process of its own, since a broken driver may never answer.
"""

import ctypes
import glob
import json
import os
import re
import sys
import sysconfig

from utils.files import text_of

DRIVER = 'libcuda.so.1'  # comes with the driver; all others come with CUDA
OLDEST_DRIVER = '525.60.13'  # for CUDA 12, by NVIDIA's "CUDA Compatibility", table of minor version compatibility
SMI = ['nvidia-smi', '--query-gpu=name,pci.bus_id,memory.used,driver_version', '--format=csv,noheader,nounits']
# Libraries that TensorFlow opens before it lists a GPU, and their numbers where these are not CUDA's own.
LIBRARIES = ('cudart', 'cublas', 'cublasLt', 'cufft', 'cusolver', 'cusparse')
_NUMBERS = {('12', 'cufft'): '11', ('12', 'cusolver'): '11'}
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR


def driver_version(root='/'):
  """The version of the driver that the kernel runs, as '580.65.06'; '' if it runs none.

  Args:
    root: folder in which proc/ lies.
  """
  found = re.search(r'Kernel Module.*?\s(\d+\.\d+(?:\.\d+)?)\s', text_of(root, 'proc/driver/nvidia/version'))
  return found[1] if found else ''


def in_container(root='/'):
  """Whether this is a container of Docker, Podman or Kubernetes.

  Args:
    root: folder in which proc/ and the marks of containers lie.
  """
  marks = any(os.path.exists(os.path.join(root, mark)) for mark in ('.dockerenv', 'run/.containerenv'))
  return marks or re.search('docker|kubepods|containerd', text_of(root, 'proc/1/cgroup')) is not None


def read_smi(text):
  """Reads the answer to SMI.

  Args:
    text: a line for each GPU.

  Returns:
    list of dict: `name`, `bus` (see `bus_of`), `used` (MiB; None if not said), `driver`.
  """
  rows = [[cell.strip() for cell in line.split(',')] for line in text.splitlines()]
  return [{'name': row[0], 'bus': bus_of(row[1]), 'used': int(row[2]) if row[2].isdecimal() else None,
           'driver': row[3]} for row in rows if len(row) == 4]


def bus_of(text):
  """A place on the PCI bus in one form: '0000:65:00.0', of '00000000:65:00.0' too."""
  return text.strip().lower()[-12:]


def needed_libraries(cuda, cudnn):
  """Names of the files that a TensorFlow opens before it lists a GPU.

  Args:
    cuda: version of CUDA that it is built for, '12.5.1'.
    cudnn: version of cuDNN, '9'.
  """
  major = cuda.split('.')[0]
  names = [f'lib{name}.so.{_NUMBERS.get((major, name), major)}' for name in LIBRARIES]
  return [*names, f'libcudnn.so.{cudnn.split(".")[0]}']


def failure(name, folders=(), load=ctypes.CDLL):
  """Opens a library as TensorFlow does: by the system's search, then in folders.

  Args:
    name: name of the file.
    folders: folders that packages have put libraries into, see `package_folders`.
    load: opens a library, or raises OSError.

  Returns:
    '' if it opens; else the reason, 'not found' if there is no such file.
  """
  reasons = []
  for path in [name, *(os.path.join(folder, name) for folder in folders)]:
    if path != name and not os.path.exists(path):
      continue
    try:
      load(path)
      return ''
    except OSError as error:
      reasons.append(' '.join(str(error).split()))
  reason = reasons[-1].removeprefix(f'{name}: ')
  return 'not found' if reason.startswith('cannot open shared object file: No such file') else reason


def package_folders():
  """Folders into which the packages of tensorflow[and-cuda] put CUDA's libraries."""
  return sorted(glob.glob(os.path.join(glob.escape(sysconfig.get_path('purelib')), 'nvidia', '*', 'lib')))


def ask_driver(load=ctypes.CDLL):
  """Asks the driver for its GPUs, those that CUDA_VISIBLE_DEVICES leaves, in the order in which TensorFlow counts them.

  Args:
    load: opens a library, or raises OSError.

  Returns:
    dict: `failure` (the reason why the driver's library does not open, '' if it does), and then `cuda` (newest version
    of CUDA that the driver runs, as 12020 for 12.2), `code` (of cuInit, 0 if all is well), `gpus` (list of dict:
    `name`, `memory` in bytes, `capability` [major, minor], `bus`).
  """
  found = {'failure': failure(DRIVER, load=load)}
  if found['failure']:
    return found
  driver, number = load(DRIVER), ctypes.c_int(0)
  driver.cuDriverGetVersion(ctypes.byref(number))
  found.update(cuda=number.value, code=driver.cuInit(0), gpus=[])
  if found['code'] == 0:
    driver.cuDeviceGetCount(ctypes.byref(number))
    found['gpus'] = [_gpu(driver, index) for index in range(number.value)]
  return found


def _gpu(driver, index):
  """What the driver says of one GPU, see `ask_driver`."""
  device, memory, parts = ctypes.c_int(), ctypes.c_size_t(), [ctypes.c_int(), ctypes.c_int()]
  name, bus = ctypes.create_string_buffer(100), ctypes.create_string_buffer(32)
  driver.cuDeviceGet(ctypes.byref(device), index)
  driver.cuDeviceGetName(name, len(name), device)
  driver.cuDeviceGetPCIBusId(bus, len(bus), device)
  driver.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
  for part, attribute in zip(parts, (_MAJOR, _MINOR)):
    driver.cuDeviceGetAttribute(ctypes.byref(part), attribute, device)
  return {'name': name.value.decode(errors='replace'), 'memory': memory.value, 'bus': bus_of(bus.value.decode()),
          'capability': [part.value for part in parts]}


def main(argv=None):
  """Prints the JSON, a dict: `driver` of ask_driver, `libraries` of their names to the reasons why they do not open."""
  versions = sys.argv[1:] if argv is None else argv
  folders = package_folders()
  reasons = {name: failure(name, folders) for name in (needed_libraries(*versions) if versions else ())}
  print(json.dumps({'driver': ask_driver(), 'libraries': {name: why for name, why in reasons.items() if why}}))


if __name__ == '__main__':
  main()
