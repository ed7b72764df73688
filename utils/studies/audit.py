"""Asks the package index for known holes in the versions that this project pins, and in all that is installed here.

    python -m utils.studies.audit       (make audit)

The index is the one that pip asks by default; its JSON lists, of each release, the entries of the Open Source
Vulnerabilities database. The exit code is 1 where a version has a hole. Versions of which the index has nothing are
named: some mirrors keep the JSON of a package's newest release alone.
"""

import concurrent.futures
import dataclasses
import glob
import http.client
import importlib.metadata
import json
import os
import re
import sys
import urllib.error
import urllib.request

from packaging.utils import canonicalize_name

from utils.errors import UserError, listed, shown
from utils.files import ROOT
from utils.settings import Settings, flag, run

_PIN = re.compile(r'([A-Za-z0-9][\w.-]*)(?:\[[^]]*\])?==([^;\s]+)')
_TIMEOUT = 60  # seconds
_MOST_BYTES = 64 << 20  # of an answer; those of packages with many releases have a few million
_REQUESTS = 4  # at a time


@dataclasses.dataclass(frozen=True)
class AuditSettings(Settings):
  """Flags of this program."""
  index: str | None = flag(None, "address of the JSON of packages; default: that of pip's index")
  installed: bool = flag(True, 'look at all that is installed here, too, not at the pins alone')


def pins(folder=ROOT):
  """The versions that requirements files pin, for every Python: dict from (name, version) to the file's name."""
  found = {}
  for path in sorted(glob.glob(os.path.join(glob.escape(folder), 'requirements*.txt'))):
    with open(path, encoding='utf-8') as file:
      for line in file:
        match = _PIN.match(line)
        if match:
          found.setdefault((canonicalize_name(match[1]), match[2]), os.path.basename(path))
  return found


def installed():
  """What is installed here, as `pins`."""
  return {(canonicalize_name(found.metadata['Name']), found.version): 'installed'
          for found in importlib.metadata.distributions() if found.metadata['Name']}


def _get(address):
  """The JSON at an address, a dict; None if there is none. Raises UserError if the index does not answer."""
  try:
    with urllib.request.urlopen(address, timeout=_TIMEOUT) as response:
      value = json.loads(response.read(_MOST_BYTES))
  except urllib.error.HTTPError as error:
    if error.code == 404:
      return None
    raise UserError(f'the package index cannot be asked about {address}: HTTP {error.code}') from error
  except (OSError, http.client.HTTPException, ValueError, RecursionError) as error:
    raise UserError(f'the package index cannot be asked about {address}: {error}') from error
  return value if isinstance(value, dict) and isinstance(value.get('info'), dict) else None


def holes(index, name, version):
  """The known holes of a release.

  Args:
    index: address of the JSON of packages.
    name: of the package.
    version: of the release.

  Returns:
    list of lines, one a hole; None where the index has nothing on this release.

  Raises:
    UserError: if the index does not answer.
  """
  answer = _get(f'{index}/{name}/{version}/json')
  if answer is None:
    answer = _get(f'{index}/{name}/json')
    if answer is None or answer['info'].get('version') != version:
      return None
  found = answer.get('vulnerabilities')
  if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
    return None
  lines = []
  for entry in found:
    if not entry.get('withdrawn'):
      names, fixed = (listed(entry.get(key) or ()) for key in ('aliases', 'fixed_in'))
      text = shown(' '.join(str(entry.get('summary') or entry.get('details') or '').split())[:200])
      lines.append(f'{entry.get("id")} ({names}), {"mended in " + fixed if fixed else "not mended"}: {text}')
  return lines


def pip_index():
  """The address of the JSON of packages of the index that pip asks by default."""
  from pip._internal.models.index import PyPI  # not at the top: it imports distutils, before which setuptools must come

  return PyPI.pypi_url


def audit(settings):
  """Prints every known hole; returns the exit code."""
  index = settings.index or pip_index()
  versions = {**(installed() if settings.installed else {}), **pins()}
  with concurrent.futures.ThreadPoolExecutor(_REQUESTS) as pool:
    answers = dict(zip(versions, pool.map(lambda key: holes(index, *key), versions)))
  for (name, version), found in answers.items():
    for line in found or ():
      print(f'{name} {version} ({versions[name, version]}): {line}')
  unknown = sorted(f'{versions[key]}: {" ".join(key)}' for key, found in answers.items() if found is None)
  for line in unknown:
    print(f'the index has nothing on this release; {line}')
  bad = sum(bool(found) for found in answers.values())
  print(f'{len(versions)} versions asked for ({len(pins())} pinned): {bad} with known holes, {len(unknown)} unknown')
  return 1 if bad else 0


def main(argv=None):
  return run(audit, AuditSettings, argv, text=__doc__)


if __name__ == '__main__':
  sys.exit(main())
