"""The project's folder, and writing files whole or not at all."""

import contextlib
import json
import os

from utils.errors import UserError

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # folder of the project


@contextlib.contextmanager
def replacing(path):
  """Yields a temporary path beside `path` and renames it to `path` when the block ends well; removes it otherwise.

  Raises:
    UserError: if the file cannot be written (no permission, disk full); an earlier file at `path` is untouched.
  """
  temporary = f'{path}.{os.getpid()}.tmp'
  try:
    yield temporary
    os.replace(temporary, path)
  except OSError as error:
    raise UserError(f'cannot write {path}: {error.strerror or error}') from error
  finally:
    with contextlib.suppress(OSError):
      os.unlink(temporary)


def write_json(path, value):
  """Writes `value` to `path` as indented JSON, whole or not at all."""
  with replacing(path) as temporary, open(temporary, 'w', encoding='utf-8') as file:
    json.dump(value, file, indent=2)
    file.write('\n')


def read_json(path):
  """Reads a JSON file. Raises UserError, naming the file, if it is missing or broken."""
  try:
    with open(path, encoding='utf-8') as file:
      return json.load(file)
  except OSError as error:
    raise UserError(f'cannot read {path}: {error.strerror}') from error
  except ValueError as error:
    raise UserError(f'{path} is not valid JSON: {error}') from error


def make_folder(path):
  """Creates a folder and its parents. Raises UserError if the folder cannot be created or written."""
  try:
    os.makedirs(path, exist_ok=True)
  except OSError as error:
    raise UserError(f'cannot create folder {path}: {error.strerror}') from error
  if not os.access(path, os.W_OK):
    raise UserError(f'folder {path} is not writable')
