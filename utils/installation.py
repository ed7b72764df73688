"""Whether this is a checkout or the package fcn_googlenet, which pip installs, and how packages are asked for in each.

setup.py makes the package of the checkout's modules.
"""

import importlib.metadata
import importlib.util
import sys

from utils.errors import UserError, listed

NAME = 'fcn-googlenet'  # for pip
PACKAGE = __name__.rpartition('utils.installation')[0].rstrip('.')  # 'fcn_googlenet'; '' in a checkout
PACKAGES = ('tensorflow', 'tf-slim', 'tf-keras', 'numpy')  # those whose versions change what is computed


def versions(names=PACKAGES):
  """Dict from 'python' and names of packages to their versions; None for a package that is not installed."""
  found = {'python': sys.version.split()[0]}
  for name in names:
    try:
      found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      found[name] = None
  return found


def version():
  """Version of the package; None in a checkout, which has commits."""
  return sys.modules[PACKAGE].__version__ if PACKAGE else None


def listing(extra=''):
  """Name of the list of the packages that an extra needs, as 'crf', or that all of the project needs."""
  if PACKAGE:
    return f'{NAME}[{extra}]' if extra else NAME
  return f'requirements-{extra}.txt' if extra else 'requirements.txt'


def install(extra=''):
  """The command that installs the packages of an extra, or those that all of the project needs."""
  if PACKAGE:
    return f"pip install '{listing(extra)}'" if extra else f'pip install {listing()}'
  return f'pip install -r {listing(extra)}'


def require(modules, what, extra):
  """Raises UserError if modules of an extra are not installed; the message says how to install them.

  Args:
    modules: their names.
    what: what needs them, for the message.
    extra: see `install`.
  """
  missing = [name for name in modules if importlib.util.find_spec(name) is None]
  if missing:
    raise UserError(f'{what} needs the package{"s" * (len(missing) > 1)} {listed(missing)}: {install(extra)}')
