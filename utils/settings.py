"""Settings of a program: frozen records, each field of which is one flag of the command line.

    @dataclasses.dataclass(frozen=True)
    class Schedule(Settings):
      max_steps: int = flag(4000, 'length of the run in steps', least=1)

    @dataclasses.dataclass(frozen=True)
    class TrainSettings(Settings):
      run_dir: str | None = flag(None, "run's folder")
      schedule: Schedule = group(Schedule)

    def main(argv=None):
      return run(train, TrainSettings, argv)

`run` reads the command line once, into such a record, and calls `train(settings)`. Nothing else knows of flags: the
work of a program can be called from anywhere with a record made by hand. absl parses (--flag=value, --noflag,
--flagfile), with a registry of its own for every call, so that several programs can run in one process.
"""

import dataclasses
import math
import os
import sys
import types
import typing

from absl import flags

from utils.errors import UserError, quoted
from utils.exits import guarded
from utils.files import ROOT, commit
from utils.installation import NAME

_GREATEST = 2**62  # greatest whole number of a flag: sums with it are still numbers of 64 bits


@dataclasses.dataclass(frozen=True)
class Settings:
  """Base of all settings: a record whose fields are made by `flag` and `group`."""

  def check(self):
    """Raises UserError for the first setting that is not valid for its flag; subclasses add rules of their own."""
    for name, field, value in walk(self):
      _check(name, value, field.metadata)
    for field in dataclasses.fields(self):
      if 'group' in field.metadata:
        getattr(self, field.name).check()


def flag(default, text, *, least=None, most=None, choices=None, length=None, repeated=False, positional=False,
         may_change=False, required=False, path=False):
  """Makes a field of a Settings record; the field's annotation is the flag's type.

  Types are `int`, `float`, `str` and `bool` (with `| None` if the default is None), and `tuple[T, ...]` for values
  separated by commas.

  Args:
    default: value if the flag is not given.
    text: help text, a few words.
    least: smallest valid number; for a tuple, of each part.
    most: greatest valid number; for a tuple, of each part.
    choices: valid values of a str, or of the parts of a tuple.
    length: number of parts that a tuple must have; None for any.
    repeated: whether the flag may be given several times, each time with one part of a tuple of str.
    positional: whether the field holds no flag, but the tuple of all other words of the command line.
    may_change: whether a run may be resumed with another value.
    required: whether the flag must be given.
    path: whether the value, or each part of it, is the path of a file or folder, in which `expanded` replaces ~ and
      variables.

  Returns:
    a field for a dataclass.
  """
  return dataclasses.field(default=default, metadata={
      'text': text, 'least': least, 'most': most, 'choices': choices, 'length': length, 'repeated': repeated,
      'positional': positional, 'may_change': may_change, 'required': required, 'path': path})


def overwrite_flag():
  """Makes the flag --overwrite, see utils.files.claim."""
  return flag(False, 'replace files that this program did not write, but never an input')


def group(record, prefix=''):
  """Makes a field that holds a Settings record; its flags join the others, with `prefix` before their names."""
  return dataclasses.field(default_factory=record, metadata={'group': record, 'prefix': prefix})


def flag_name(field, prefix=''):
  """The flag's name: the field's, without an underscore at its end (`list_` is --list)."""
  return prefix + field.name.rstrip('_')


def walk(record, prefix=''):
  """Yields (flag name, field, value) of all flags of a Settings record; of a class, with the defaults as values."""
  is_class = isinstance(record, type)
  for field in dataclasses.fields(record):
    value = field.default if is_class else getattr(record, field.name)
    if 'group' in field.metadata:
      yield from walk(field.metadata['group'] if is_class else value, prefix + field.metadata['prefix'])
    elif not field.metadata['positional']:
      yield flag_name(field, prefix), field, value


def to_dict(settings):
  """Returns the settings as a flat dict from flag name to a value that JSON can hold."""
  return {name: list(value) if isinstance(value, tuple) else value for name, _, value in walk(settings)}


def refuse_idle(record, name):
  """Raises UserError if flags of a Settings record that begin with `--NAME_` are given, and --NAME, a bool, is not."""
  is_given = getattr(record, name)
  for other, field, value in walk(record):
    if other.startswith(f'{name}_') and value != field.default and not is_given:
      raise UserError(f'--{other}={_text(value)}: is for --{name}, which is not given')


def changeable(record):
  """Set of the names of the flags that may change when a run is resumed."""
  return {name for name, field, _ in walk(record) if field.metadata['may_change']}


def command_words(settings):
  """Returns the flags that differ from their defaults, as a list of words."""
  words = []
  for name, field, value in walk(settings):
    if value == field.default:
      continue
    if isinstance(value, bool):
      words.append(f'--{name}' if value else f'--no{name}')
      continue
    for part in value if field.metadata['repeated'] else [value]:
      words.append(f'--{name}={_text(part)}')
  return words


def command_line(settings):
  """Returns the flags that differ from their defaults, as text for a shell, in one line."""
  return ' '.join(map(quoted, command_words(settings)))


def parse(record, argv, *, text=''):
  """Reads a command line.

  Args:
    record: a Settings class.
    argv: list of str, without the program's name.
    text: text of --help above the list of flags.

  Returns:
    a `record`, checked; None if --help or --version was given, whose text is printed.

  Raises:
    UserError: if a flag is unknown, or a value is not valid.
  """
  values = _Values()
  _define(record, values)
  values.set_gnu_getopt(True)  # flags may stand behind other arguments
  try:
    rest = values(['program', *argv])[1:]
  except (flags.Error, UnicodeDecodeError) as error:  # the latter: a file of --flagfile
    raise UserError(f'{error} (--help lists all flags)') from error
  if values.help or values.helpfull:
    print(f'{text.strip()}\n\n{help_text(record)}'.strip())
    return None
  if values.version:
    print(NAME, commit() or 'of an unknown commit')
    return None
  for name, field, _ in walk(record):
    if field.metadata['required'] and values[name].value is None:
      raise UserError(f'flag --{name}: must be given (--help lists all flags)')
  positional = _positional(record)
  if rest and not positional:
    raise UserError(f'unexpected argument {rest[0]!r}; all settings are flags, see --help')
  settings = _read(record, values)
  if positional:
    settings = dataclasses.replace(settings, **{positional.name: _value(positional, rest)})
  settings.check()
  return settings


def run(work, record, argv=None, *, text=''):
  """Runs a program.

  Args:
    work: `work(settings)` does the program's work and returns the exit code, None for 0.
    record: Settings class of the program's flags.
    argv: list of str, the command line without the program's name; None for the process's own.
    text: see `parse`; the program's docstring.

  Returns:
    the exit code, see utils/exits.py.
  """

  def program():
    words = sys.argv[1:] if argv is None else [str(word) for word in argv]
    settings = parse(record, words, text=text)
    return 0 if settings is None else work(settings)

  return guarded(program, typed=argv is None)


def help_text(record):
  """The text of --help: a line for each flag, with its default unless that is None or empty."""
  lines = []
  for name, field, _ in walk(record):
    lines.append(f'  --{"[no]" if _kind(field)[1] is bool else ""}{name}: {field.metadata["text"]}{_default(field)}')
  positional = _positional(record)
  arguments = [f'arguments: {positional.metadata["text"]}'] if positional else []
  return '\n'.join([*arguments, 'flags:', *lines, '  --flagfile: file with flags, one per line', '  --help: show this',
                    '  --version: show the version or commit of the code'])


def _positional(record):
  """The positional field; None if there is none."""
  return next((field for field in dataclasses.fields(record) if field.metadata.get('positional')), None)


def _default(field):
  if field.metadata['required']:
    return ' (required)'
  shown = _text(field.default)
  return f' (default: {shown})' if shown and field.default is not None else ''


def _text(value):
  """A value as typed on a command line."""
  if isinstance(value, bool):
    return str(value).lower()
  if isinstance(value, float):
    return f'{value:g}' if float(f'{value:g}') == value else repr(value)
  if isinstance(value, (tuple, list)):
    return ','.join(map(_text, value))
  return '' if value is None else str(value)


def _kind(field):
  """Returns (tuple or None, type of one value) of a field: (None, int) for `int | None`, (tuple, float) for tuples."""
  kind = field.type
  if isinstance(kind, types.UnionType):
    [kind] = set(typing.get_args(kind)) - {type(None)}
  if typing.get_origin(kind) is tuple:
    return tuple, typing.get_args(kind)[0]
  return None, kind


class _Number(flags.ArgumentParser):
  """Parses an int or a float, with plain error messages."""

  def __init__(self, kind):
    super().__init__()
    self._kind = kind

  def parse(self, argument):
    try:
      return self._kind(argument)
    except (TypeError, ValueError) as error:
      what = 'a whole number' if self._kind is int else 'a number'
      raise ValueError(f'{what} is wanted') from error


class _Parts(flags.ArgumentParser):
  """Parses values separated by commas into a tuple."""

  def __init__(self, field):
    super().__init__()
    self._field = field

  def parse(self, argument):
    if isinstance(argument, tuple):
      return argument
    kind = _kind(self._field)[1]
    try:
      parts = tuple(kind(part.strip()) for part in argument.split(',') if part.strip())
    except ValueError:
      parts = None
    length = self._field.metadata['length']
    if parts is None or (length is not None and len(parts) != length):
      count = {None: 'numbers', 2: 'two numbers'}.get(length, f'{length} numbers')
      raise ValueError(f'{count} {"are" if kind in (int, float) else "is"} wanted, separated by commas'
                       + (f', as {_text(self._field.default)}' if self._field.default else ''))
    return parts


class _Values(flags.FlagValues):
  """absl's registry of flags; the paths of --flagfile are expanded as those of all flags, within flag files as well."""

  def _get_flag_file_lines(self, filename, parsed_file_stack=None):
    return super()._get_flag_file_lines(_flag_file(filename), parsed_file_stack)


def _flag_file(name):
  """Path of a file for --flagfile; one that is not here may be a recipe of the project's, as demo.flags."""
  path, recipe = expanded(name), os.path.join(ROOT, name)
  comes_with = name == os.path.basename(name) and os.path.isfile(recipe)
  return recipe if comes_with and not os.path.lexists(path) else path


class _Serializer(flags.ArgumentSerializer):

  def serialize(self, value):
    return _text(value)


def _define(record, values):
  """Defines the flags of a Settings class in absl's registry `values`."""
  for name, field, default in walk(record):
    container, kind = _kind(field)
    text = field.metadata['text']
    if field.metadata['repeated']:
      flags.DEFINE_multi_string(name, list(default), text, flag_values=values)
    elif container is tuple:
      flags.DEFINE(_Parts(field), name, default, text, flag_values=values, serializer=_Serializer())
    elif kind is bool:
      flags.DEFINE_bool(name, default, text, flag_values=values)
    elif kind in (int, float):
      flags.DEFINE(_Number(kind), name, default, text, flag_values=values, serializer=_Serializer())
    else:
      flags.DEFINE_string(name, default, text, flag_values=values)
  flags.DEFINE_bool('help', False, 'show this', short_name='h', flag_values=values)
  flags.DEFINE_bool('helpfull', False, 'show this', flag_values=values)
  flags.DEFINE_bool('version', False, 'show the version or commit of the code', flag_values=values)


def _read(record, values, prefix=''):
  """Makes a Settings record from the values that absl has parsed."""
  arguments = {}
  for field in dataclasses.fields(record):
    if 'group' in field.metadata:
      arguments[field.name] = _read(field.metadata['group'], values, prefix + field.metadata['prefix'])
    elif not field.metadata['positional']:
      arguments[field.name] = _value(field, values[flag_name(field, prefix)].value)
  return record(**arguments)


def _value(field, value):
  """The value of a field from what absl has parsed: lists as tuples, paths expanded."""
  if isinstance(value, (list, tuple)):
    return tuple(_value(field, part) for part in value)
  return expanded(value) if field.metadata['path'] else value


def _check(name, value, rules):
  """Raises UserError if a value breaks a rule that `flag` was given; None is always valid."""
  for part in value if isinstance(value, (tuple, list)) else (value,):
    least, most, choices = rules['least'], rules['most'], rules['choices']
    if part is None:
      continue
    if isinstance(part, str) and '\0' in part:  # from a flag file
      raise UserError(f'--{name}={_text(value)}: a null character is in it')
    if choices is not None and part not in choices:
      raise UserError(f'--{name}={_text(value)}: valid are {", ".join(choices)}')
    if not isinstance(part, (int, float)):
      continue
    if isinstance(part, int) and part > _GREATEST:
      raise UserError(f'--{name}={_text(value)}: the greatest whole number that can be given is {_GREATEST}')
    if not math.isfinite(part):
      raise UserError(f'--{name}={_text(value)}: a finite number is wanted')
    if (least is not None and part < least) or (most is not None and part > most):
      raise UserError(f'--{name}={_text(value)}: {_range(least, most)}')


def _range(least, most):
  if most is None:
    return f'valid are {_text(least)} and above'
  return f'valid are {_text(least)} to {_text(most)}'


def expanded(path):
  """A path with `~` and variables (`$HOME`) replaced, which a shell leaves alone after the = of a flag.

  A file that is there under a name with a $ keeps it: the shell that has found it for `*.jpg` leaves it alone, too. One
  whose name starts with ~ is `./~`.
  """
  if path is None:
    return None
  path = os.path.expanduser(path)
  return path if os.path.lexists(path) else os.path.expandvars(path)
