"""What the project asks for and this Python does not have.

A checkout asks in its requirements files; the package that pip has installed asks in its metadata.
"""

import contextlib
import glob
import importlib.metadata
import os
import re

from packaging.requirements import Requirement

from utils.files import ROOT
from utils.installation import NAME, PACKAGE, listing


def extras():
  """Names of the extras, as 'crf', sorted."""
  if PACKAGE:
    return sorted(importlib.metadata.metadata(NAME).get_all('Provides-Extra', []))
  paths = glob.glob(os.path.join(glob.escape(ROOT), 'requirements-*.txt'))
  return sorted(os.path.basename(path)[len('requirements-'):-len('.txt')] for path in paths)


def requirements(extra=''):
  """What an extra asks for, or, without one, what all of the project does.

  Args:
    extra: name of an extra; ''.

  Returns:
    list of packaging.requirements.Requirement, those that are for this Python and system.
  """
  if PACKAGE:
    return [found for need in _needs(NAME, extra) for found in _with_extras(need)]
  return _of_file(os.path.join(ROOT, listing(extra)))


def _of_file(path):
  """Reads a requirements file, and the files that it names by -r."""
  found = []
  with open(path, encoding='utf-8') as file:
    lines = [re.sub(r'(^|\s)#.*', '', line).strip() for line in file]
  for line in filter(None, lines):
    other = re.fullmatch(r'(?:-r|--requirement)[ =]*(.+)', line)
    if other:
      found += _of_file(os.path.join(os.path.dirname(path), other[1]))
    elif not line.startswith('-'):
      need = Requirement(line)
      found += _with_extras(need) if not need.marker or need.marker.evaluate() else []
  return found


def _with_extras(requirement):
  """A requirement, and what its package, where installed, asks for under its extras."""
  needs = []
  with contextlib.suppress(importlib.metadata.PackageNotFoundError):
    for extra in sorted(requirement.extras):
      needs += _needs(requirement.name, extra)
  return [requirement, *needs]


def _needs(name, extra):
  """What an installed package asks for on this Python under an extra and not without; '' for what it always asks for.

  Raises:
    importlib.metadata.PackageNotFoundError: if it is not installed.
  """
  found = []
  for need in map(Requirement, importlib.metadata.requires(name) or ()):
    always = not need.marker or need.marker.evaluate({'extra': ''})
    if always != bool(extra) and (always or need.marker.evaluate({'extra': extra})):
      found.append(need)
  return found


def lacking(needed):
  """What is not there of a list of Requirements.

  Returns:
    `(missing, differing)`: names of packages that are not installed, and 'NAME VERSION (VERSIONS wanted)' of those that
    are in another version; each once.
  """
  missing, differing = {}, {}
  for requirement in needed:
    try:
      version = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
      missing[requirement.name] = None
      continue
    if not requirement.specifier.contains(version, prereleases=True):
      differing[f'{requirement.name} {version} ({requirement.specifier} wanted)'] = None
  return list(missing), list(differing)
