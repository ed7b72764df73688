"""The session's settings: GPUs, their memory, and errors for missing GPUs; what else could open a GPU."""

import programs
import pytest
from tensorflow.python.eager import context

import train
from utils import compat, cpu, cuda, session
from utils.compat import tf
from utils.errors import UserError

pytestmark = pytest.mark.fast

DETAILS = {'device_name': 'NVIDIA A10', 'compute_capability': (8, 6)}


@pytest.fixture
def gpus(monkeypatch):
  """Returns `gpus(number)`, which makes TensorFlow list this number of GPUs."""
  monkeypatch.setattr(tf.config.experimental, 'enable_tensor_float_32_execution', lambda enabled: None)
  return lambda number: monkeypatch.setattr(tf.config, 'list_physical_devices', lambda kind: [kind] * number)


@pytest.mark.parametrize('number, visible', [(0, ''), (1, '0'), (3, '0')])
def test_by_default_the_first_gpu_grows_as_needed(gpus, number, visible):
  gpus(number)
  config = session.session_config()
  assert config.gpu_options.allow_growth and config.gpu_options.visible_device_list == visible
  assert config.gpu_options.per_process_gpu_memory_fraction == 0 and 'GPU' not in config.device_count


@pytest.mark.parametrize('gpu, expected', [('0', '0'), ('2,0', '2,0'), ('1, 2', '1,2'), ('all', '0,1,2')])
def test_gpus_are_chosen_by_number(gpus, gpu, expected):
  gpus(3)
  assert session.session_config(gpu=gpu).gpu_options.visible_device_list == expected


@pytest.mark.parametrize('gpu, count', [(None, 1), ('all', 3), ('2', 1), ('2,0', 2), ('1, 2', 2)])
def test_every_chosen_gpu_labels_and_no_other(gpus, gpu, count):
  """Within a process the visible ones are numbered from 0."""
  gpus(3)
  assert session.device_names(gpu) == ('/device:GPU:0', '/device:GPU:1', '/device:GPU:2')[:count]
  assert session.device_names('none') == ('/device:CPU:0',)


def test_a_share_of_the_memory_is_taken_at_once():
  options = session.session_config(gpu_memory_fraction=0.25).gpu_options
  assert options.per_process_gpu_memory_fraction == 0.25 and not options.allow_growth
  with pytest.raises(UserError, match='--gpu_memory_fraction=1.5: valid are 0 to 1'):
    session.session_config(gpu_memory_fraction=1.5)


def test_data_is_read_on_the_cpu_alone():
  config = session.cpu_config(use_per_session_threads=True)
  assert config.device_count['GPU'] == 0 and config.use_per_session_threads


def test_functions_of_tf_data_open_no_gpu(monkeypatch):
  """TensorFlow makes its eager context for them, with options of its own, before any session."""
  assert context.context()._initialized or tf.data.Dataset.range(2).map(lambda number: number + 1)
  assert context.context()._initialized  # once a function is there

  def pretended():
    made = context.Context()
    kinds = [context.PhysicalDevice(f'/physical_device:{kind}:0', kind) for kind in ('CPU', 'GPU')]
    made._physical_devices, made._visible_device_list, made._pluggable_devices = kinds, list(kinds), []
    made._memory_growth_map = dict.fromkeys(kinds)
    monkeypatch.setattr(context, '_context', made)
    return made

  opened = pretended().config  # what TensorFlow would open by itself: the GPU, without growth, so with all its memory
  assert opened.device_count['GPU'] == 1 and not opened.gpu_options.allow_growth
  made = pretended()
  compat.keep_functions_off_gpus()
  assert made.config.device_count['GPU'] == 0 and not made.config.gpu_options.visible_device_list


def test_optimizer_passes_are_spared_on_cpus_alone(gpus, monkeypatch):
  monkeypatch.setattr(tf.config.experimental, 'get_device_details', lambda device: DETAILS)
  spared = lambda **options: session.session_config(**options).graph_options.rewrite_options
  gpus(1)
  assert spared(once=True) == tf.ConfigProto().graph_options.rewrite_options
  options = spared(gpu='none')
  assert options.memory_optimization == options.NO_MEM_OPT and not options.meta_optimizer_iterations
  gpus(0)
  assert spared(once=True).meta_optimizer_iterations == options.ONE


def test_none_is_the_cpu_with_gpus_or_without(gpus):
  gpus(2)
  config = session.session_config(gpu='none')
  assert config.device_count['GPU'] == 0 and not config.gpu_options.visible_device_list
  with tf.Graph().as_default(), tf.Session(config=config) as made:
    assert {device.device_type for device in made.list_devices()} <= {'CPU', 'XLA_CPU'}


@pytest.mark.parametrize('gpu', ['3', '-1', '0,3', '0,0', '0,', '', '0,all', '0.5', '²'])
def test_a_missing_gpu_is_refused_with_the_valid_numbers(gpus, gpu):
  gpus(3)
  with pytest.raises(UserError, match=f'^--gpu={gpu}: valid are 0, 1, 2, or several'):
    session.session_config(gpu=gpu)


def test_without_gpus_choosing_one_is_refused(gpus):
  gpus(0)
  with pytest.raises(UserError, match='^--gpu=0: TensorFlow sees no GPU here; .* --gpu=none'):
    session.session_config(gpu='0')


@pytest.mark.parametrize('precision, number, gpu, bfloat16, expected', [
    ('float32', 0, None, True, 'float32'), ('float32', 2, '1', True, 'float32'),
    ('bfloat16', 0, None, True, 'bfloat16'), ('bfloat16', 1, 'none', True, 'bfloat16'),
    ('float16', 1, None, False, 'float16'),
    ('auto', 0, None, True, 'bfloat16'), ('auto', 0, None, False, 'float32'), ('auto', 1, None, True, 'float16'),
    ('auto', 1, 'none', True, 'bfloat16'), ('auto', 1, 'none', False, 'float32')])
def test_the_device_has_the_precision(gpus, monkeypatch, precision, number, gpu, bfloat16, expected):
  gpus(number)
  monkeypatch.setattr(cpu, 'cpu_flags', lambda: frozenset({'avx512_bf16'} if bfloat16 else ()))
  monkeypatch.setattr(tf.config.experimental, 'get_device_details', lambda device: DETAILS)
  switched = []
  monkeypatch.setattr(tf.config.experimental, 'enable_tensor_float_32_execution', switched.append)
  assert session.Device(precision, gpu).chosen == expected
  options = session.session_config(precision, gpu=gpu).graph_options.rewrite_options
  assert (options.auto_mixed_precision, options.auto_mixed_precision_onednn_bfloat16) == (
      expected == 'float16', expected == 'bfloat16')
  session.session_config(precision, gpu=gpu, tf32=True)
  assert switched == ([False, True] if number and gpu != 'none' else [])  # scores in float32 are never in TF32


@pytest.mark.parametrize('precision, number, gpu, bfloat16, message', [
    ('float16', 0, None, True, 'only for GPUs, and this runs on the CPU; use --precision=bfloat16'),
    ('float16', 0, None, False, 'only for GPUs, and this runs on the CPU; use --precision=float32'),
    ('float16', 2, 'none', False, 'only for GPUs, and this runs on the CPU; use --precision=float32'),
    ('bfloat16', 1, None, True, 'CPUs alone; use --precision=float16'),
    ('bfloat16', 0, None, False, 'this CPU has no AVX512-BF16; use --precision=float32'),
    ('float64', 0, None, True, 'valid are float32, bfloat16, float16, auto')])
def test_a_precision_that_the_device_lacks_is_refused(gpus, monkeypatch, precision, number, gpu, bfloat16, message):
  gpus(number)
  monkeypatch.setattr(cpu, 'cpu_flags', lambda: frozenset({'avx512_bf16'} if bfloat16 else ()))
  monkeypatch.setattr(tf.config.experimental, 'get_device_details', lambda device: DETAILS)
  with pytest.raises(UserError, match=f'^--precision={precision}: .*{message}$'):
    session.session_config(precision, gpu=gpu)


def test_train_refuses_a_missing_gpu_before_it_writes_anything(gpus, tmp_path, monkeypatch):
  gpus(0)
  monkeypatch.chdir(tmp_path)
  result = programs.run(train.main, '--gpu=0', f'--run_dir={tmp_path / "run"}')
  programs.assert_refused(result, '--gpu=0: TensorFlow sees no GPU here')
  assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('options, expected', [
    ({}, 'GPU 0 NVIDIA A10; precision float32 (products in TF32)'),
    ({'gpu': '2, 0'}, 'GPU 2 NVIDIA A10, GPU 0 NVIDIA A10; precision float32 (products in TF32)'),
    ({'gpu': '1', 'precision': 'float16'}, 'GPU 1 NVIDIA A10; precision float16'),
    ({'precision': 'auto'}, 'GPU 0 NVIDIA A10; precision float16'),
])
def test_the_line_of_a_run_names_its_gpu(gpus, monkeypatch, options, expected):
  gpus(3)
  monkeypatch.setattr(tf.config.experimental, 'get_device_details', lambda device: DETAILS)
  assert session.device_line(session.Device(**options)) == f'device: {expected}'


def test_a_gpu_of_which_tensorflow_says_nothing_has_no_name(gpus):
  gpus(2)
  assert session.device_line(session.Device()) == 'device: GPU 0 of unknown name; precision float32'


@pytest.mark.parametrize('gpu, hidden, said', [(None, '0', True), ('none', '0', False), (None, '-1', False)])
def test_a_card_that_is_not_found_is_said_unless_it_is_not_wanted(gpus, monkeypatch, gpu, hidden, said):
  gpus(0)
  monkeypatch.setenv('CUDA_VISIBLE_DEVICES', hidden)
  monkeypatch.setattr(cuda, 'has_card', lambda: True)
  line = session.device_line(session.Device(gpu=gpu))
  assert line.startswith('device: CPU, ') and ('python -m utils.doctor says why' in line) == said
