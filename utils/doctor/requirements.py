"""What the project's requirements files ask for and this Python does not have."""

import glob
import importlib.metadata
import os
import re

from packaging.requirements import Requirement

from utils.files import ROOT

BASE = 'requirements.txt'


def extras(root=ROOT):
  """Dict from the name of an extra, as 'crf', to the file of its requirements, sorted."""
  paths = sorted(glob.glob(os.path.join(glob.escape(root), 'requirements-*.txt')))
  return {os.path.basename(path)[len('requirements-'):-len('.txt')]: path for path in paths}


def requirements(path):
  """Reads a requirements file, and the files that it names by -r.

  Args:
    path: the file.

  Returns:
    list of packaging.requirements.Requirement, those that are for this Python and system.
  """
  found = []
  with open(path, encoding='utf-8') as file:
    lines = [re.sub(r'(^|\s)#.*', '', line).strip() for line in file]
  for line in filter(None, lines):
    other = re.fullmatch(r'(?:-r|--requirement)[ =]*(.+)', line)
    if other:
      found += requirements(os.path.join(os.path.dirname(path), other[1]))
    elif not line.startswith('-'):
      found += _with_extras(Requirement(line))
  return found


def _with_extras(requirement):
  """A requirement if it is for this Python, and what its package, where installed, asks for under its extras."""
  if requirement.marker and not requirement.marker.evaluate():
    return []
  try:
    needs = [Requirement(text) for text in importlib.metadata.requires(requirement.name) or ()]
  except importlib.metadata.PackageNotFoundError:
    needs = []
  return [requirement, *(
      need for need in needs for extra in sorted(requirement.extras)
      if need.marker and not need.marker.evaluate({'extra': ''}) and need.marker.evaluate({'extra': extra}))]


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
