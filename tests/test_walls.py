"""The walls between layers: permitted imports, the length of functions, flags known to utils/settings.py alone."""

import ast
import pathlib
import sys

import pytest

from utils.files import ROOT

pytestmark = pytest.mark.fast

SCRIPTS = ('train', 'evaluate', 'inference')
# Layer -> layers that it may import beside itself. A module belongs to the layer of its folder.
MAY_IMPORT = {
    'utils': (),
    'nets': ('utils',),
    'datasets': ('utils',),
    'datasets.readers': ('utils', 'datasets'),
    'datasets.readers.annotations': ('utils', 'datasets', 'datasets.readers'),
    'utils.doctor': ('utils',),
    'utils.drawing': ('utils',),
    'checkpoints': ('utils', 'nets', 'datasets', 'datasets.readers'),
    'utils.inference': ('utils', 'nets', 'datasets', 'datasets.readers', 'utils.drawing'),
    'utils.evaluation': ('utils', 'datasets', 'utils.drawing', 'utils.inference'),
    'utils.serving': ('utils', 'datasets', 'datasets.readers', 'utils.inference'),
    'utils.export': ('utils', 'nets', 'datasets', 'checkpoints', 'utils.inference', 'utils.evaluation'),
    'utils.training': (
        'utils', 'nets', 'datasets', 'datasets.readers', 'checkpoints', 'utils.drawing', 'utils.evaluation'),
}
EVERYWHERE = (*MAY_IMPORT, 'utils.studies')
# Programs of datasets/ that draw; its registry and preparation name the readers. Programs of checkpoints/ that label,
# and read scores. The server's program.
ALSO = {
    'checkpoints.card': ('utils.evaluation',),
    'checkpoints.package': ('utils.evaluation', 'utils.inference'),
    'datasets.inspection': ('utils.drawing', 'datasets.readers'),
    'datasets.submission': ('utils.drawing', 'datasets.readers'),
    'datasets.__init__': ('datasets.readers',),
    'datasets.convert': ('datasets.readers',),
    'datasets.folds': ('datasets.readers',),
    'datasets.prepare': ('datasets.readers',),
    'datasets.readers.own': ('datasets.readers.annotations',),
    'utils.serve': ('utils.serving',),
}
MOST_LINES, MOST_LINES_OF_SCRIPT = 60, 150


def sources():
  """Yields (module name, path) of every module of the project but tests."""
  root = pathlib.Path(ROOT)
  for folder in ('.', 'nets', 'datasets', 'checkpoints', 'utils'):
    for path in sorted(root.glob(f'{folder}/*.py' if folder == '.' else f'{folder}/**/*.py')):
      yield '.'.join(path.relative_to(root).with_suffix('').parts), path


MODULES = dict(sources())


def layer_of(module):
  """The layer of a module: its folder, 'scripts' for the three at the top."""
  return module.rpartition('.')[0] or 'scripts'


def imported(tree):
  """Names of the project's modules that a syntax tree imports."""
  found = set()
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
      names = [f'{node.module}.{alias.name}' for alias in node.names]
    else:
      continue
    for name in names:  # `from package import name`: a module of the package, or a name in a module
      module = next((module for module in (name, name.rpartition('.')[0])
                     if module in MODULES or f'{module}.__init__' in MODULES), None)
      if module:
        found.add(module if module in MODULES else f'{module}.__init__')
  return found


def breaches(module, tree):
  """The imports of a module, given as its syntax tree, that lead through a wall."""
  layer = layer_of(module)
  allowed = {layer, *MAY_IMPORT.get(layer, EVERYWHERE), *ALSO.get(module, ())}
  if layer == 'scripts':
    allowed -= {'utils.studies', 'utils.doctor', 'utils.export'}
  return sorted(target for target in imported(tree) if layer_of(target) not in allowed)


def parsed(path):
  return ast.parse(path.read_text(encoding='utf-8'))


@pytest.mark.parametrize('module', MODULES)
def test_imports_point_down(module):
  assert breaches(module, parsed(MODULES[module])) == []


@pytest.mark.parametrize('module, line', [
    ('utils.files', 'from utils.inference.predictor import Predictor'),
    ('utils.runs', 'from datasets import records'),
    ('utils.settings', 'import nets'),
    ('nets.fcn', 'from datasets.dataset import label_map'),
    ('datasets.pipeline', 'from utils.drawing import colors'),
    ('datasets.records', 'from datasets.readers import voc'),
    ('utils.drawing.charts', 'from utils.evaluation import calibration'),
    ('utils.inference.stream', 'def late():\n  from utils.evaluation.scorer import Scorer'),
    ('utils.training.run', 'from utils.studies import benchmark'),
    ('train', 'from utils.studies.benchmark import row'),
    ('train', 'from utils.doctor.facts import gather'),
    ('inference', 'from utils.export.run import export'),
    ('utils.inference.engines', 'from utils.export.formats import FORMATS'),
    ('utils.session', 'from utils.doctor import driver'),
    ('utils.doctor.tensorflow_report', 'from nets import network'),
])
def test_an_import_that_leads_back_up_is_found(module, line):
  assert module in MODULES and breaches(module, ast.parse(line))


def test_layers_of_the_table_are_the_folders():
  assert {layer_of(module) for module in MODULES} == {'scripts', *EVERYWHERE}
  assert set(ALSO) <= set(MODULES)


@pytest.mark.parametrize('module', MODULES)
def test_flags_are_known_to_settings_alone(module):
  """Only utils/settings.py parses a command line, and no module reads absl's FLAGS."""
  tree = parsed(MODULES[module])
  names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
  names |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
  assert 'FLAGS' not in names
  uses_absl = any(isinstance(node, ast.ImportFrom) and (node.module or '').startswith('absl') or
                  isinstance(node, ast.Import) and any(alias.name.startswith('absl') for alias in node.names)
                  for node in ast.walk(tree))
  assert uses_absl == (module == 'utils.settings')


# Calls that make a session or what it runs on, and names that make TensorFlow open GPUs with options of its own.
SESSIONS = {'Session', 'InteractiveSession', 'ChiefSessionCreator', 'WorkerSessionCreator', 'MonitoredTrainingSession',
            'SingularMonitoredSession', 'Server'}
OPENING = {'enable_eager_execution', 'gpu_device_name', 'is_gpu_available', 'list_local_devices',
           'list_logical_devices', 'get_memory_info', 'reset_memory_stats'}


def opens_gpus(module, tree):
  """What a module, given as its syntax tree, opens GPUs with beside the options of utils/session.py."""
  found = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
  found &= (OPENING if module != 'utils.studies.gpu_parts' else set()) | (  # in a process of its own
      {'ConfigProto', 'GPUOptions'} if module != 'utils.session' else set())
  for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
    name = ast.unparse(call.func).rpartition('.')[2]
    if name in SESSIONS and not any('config' in ast.unparse(value) for value in (
        *call.args, *(keyword.value for keyword in call.keywords))):
      found.add(name)
  return sorted(found)


@pytest.mark.parametrize('module', MODULES)
def test_sessions_have_their_options_from_one_place(module):
  """The first that sees a GPU fixes for the whole process which GPUs, and how much of their memory, it takes."""
  assert opens_gpus(module, parsed(MODULES[module])) == []


@pytest.mark.parametrize('line, found', [
    ('tf.Session()', ['Session']), ('tf.Session(graph=graph)', ['Session']),
    ('tf.Session(config=tf.ConfigProto())', ['ConfigProto', 'Session']), ('tf.Session(config=cpu_config())', []),
    ('tf.train.ChiefSessionCreator(scaffold, config=config)', []),
    ('tf.train.ChiefSessionCreator(scaffold)', ['ChiefSessionCreator']),
    ("tf.config.list_logical_devices('GPU')", ['list_logical_devices']),
])
def test_a_session_without_options_is_found(line, found):
  assert opens_gpus('utils.studies.benchmark', ast.parse(line)) == found


def test_no_module_has_a_name_of_the_standard_library():
  """Except datasets.inspect, a command that users type: a file without definitions, imported by nothing."""
  named = [module for module in MODULES if module.split('.')[-1] in sys.stdlib_module_names]
  assert named == ['datasets.inspect']
  assert not any(isinstance(node, (ast.FunctionDef, ast.ClassDef)) for node in parsed(MODULES[named[0]]).body)
  root = pathlib.Path(ROOT)
  assert not any(named[0] in imported(parsed(path)) for path in (*MODULES.values(), *root.glob('tests/*.py')))


def functions(tree):
  return [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]


@pytest.mark.parametrize('module', MODULES)
def test_functions_fit_on_a_screen(module):
  long = {node.name: node.end_lineno - node.lineno + 1 for node in functions(parsed(MODULES[module]))}
  assert {name: lines for name, lines in long.items() if lines > MOST_LINES} == {}


@pytest.mark.parametrize('script', SCRIPTS)
def test_scripts_are_shells(script):
  assert len(MODULES[script].read_text().splitlines()) <= MOST_LINES_OF_SCRIPT
