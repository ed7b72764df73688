"""Checkpoints that are whole and that are not, and the one of a folder that is used."""

import os
import shutil

import numpy as np
import pytest

from utils import checkpoint_files, runs
from utils.compat import tf
from utils.errors import UserError

pytestmark = pytest.mark.fast

DATA, INDEX = '.data-00000-of-00001', '.index'


def save(folder, *steps, keep=9):
  """Writes checkpoints with a global step and 1000 numbers, as training does."""
  folder.mkdir(parents=True, exist_ok=True)
  with tf.Graph().as_default(), tf.Session() as session:
    step = tf.train.get_or_create_global_step()
    weights = tf.get_variable('weights', initializer=tf.constant(np.arange(1000, dtype=np.float32)))
    saver = tf.train.Saver([step, weights], max_to_keep=keep, save_relative_paths=True)
    session.run(weights.initializer)
    for number in steps:
      step.load(number, session)
      saver.save(session, str(folder / 'model.ckpt'), global_step=number, write_meta_graph=False)


@pytest.fixture(scope='module')
def template(tmp_path_factory):
  folder = tmp_path_factory.mktemp('template') / 'run'
  save(folder, 3, 9, 12)
  return folder


@pytest.fixture
def folder(tmp_path, template):
  """A folder with checkpoints of steps 3, 9 and 12."""
  return shutil.copytree(template, tmp_path / 'run')


def cut(path, size):
  with open(path, 'r+b') as file:
    file.truncate(size)


@pytest.mark.parametrize('suffix', [DATA, INDEX])
def test_a_file_cut_anywhere_is_noticed_and_named(folder, suffix):
  path = folder / f'model.ckpt-12{suffix}'
  whole = path.read_bytes()
  for size in sorted({*range(0, len(whole), max(1, len(whole) // 40)), 1, len(whole) - 1}):
    path.write_bytes(whole[:size])
    assert checkpoint_files.problem(str(folder / 'model.ckpt-12')) == f'{path} is cut off or damaged', size
  path.write_bytes(whole)
  assert checkpoint_files.problem(str(folder / 'model.ckpt-12')) is None


def test_changed_and_missing_files_are_named(folder):
  prefix = str(folder / 'model.ckpt-12')
  with open(prefix + DATA, 'r+b') as file:
    file.seek(1000)
    file.write(b'\0' * 500)
  assert 'model.ckpt-12.data-00000-of-00001 is cut off or damaged' in checkpoint_files.problem(prefix)
  os.unlink(prefix + DATA)
  assert checkpoint_files.problem(prefix) == f'{prefix}{DATA} is missing'
  os.unlink(prefix + INDEX)
  assert checkpoint_files.problem(prefix) == f'no checkpoint at {prefix}'
  os.unlink(str(folder / 'model.ckpt-9.index'))
  assert checkpoint_files.problem(str(folder / 'model.ckpt-9')) == f'{folder}/model.ckpt-9.index is missing'


def test_the_newest_is_used_without_a_word(folder, capsys):
  assert checkpoint_files.newest_checkpoint(str(folder)) == str(folder / 'model.ckpt-12')
  (folder / 'model.ckpt-20.data-00000-of-00001.tempstate7').touch()
  (folder / 'model.ckpt-20_temp').mkdir()
  (folder / 'model.ckpt-20.meta').touch()
  assert checkpoint_files.newest_checkpoint(f'{folder}/') == f'{folder}/model.ckpt-12'
  assert capsys.readouterr().err == ''


@pytest.mark.parametrize('content, said', [
    (b'', 'checkpoint is empty'),
    (b'  \n', 'checkpoint is empty'),
    (b'\xff\xfe\x00', 'checkpoint names no checkpoint'),
    (b'model_checkpoint_path: "model.ck', 'checkpoint names no checkpoint'),
    (b'{"json": 1}', 'checkpoint names no checkpoint'),
    (b'model_checkpoint_path: "model.\0\0\0pt-12"\n', 'checkpoint names no checkpoint'),
    (b'model_checkpoint_path: "model.\\000pt-12"\n', 'checkpoint names no checkpoint'),
    (b'model_checkpoint_path: "model.ckpt-12/"\n', 'checkpoint names no checkpoint'),
    (b'model_checkpoint_path: "model.ckpt-15"\n', 'checkpoint names model.ckpt-15, which is not there'),
    (b'model_checkpoint_path: "../../etc/model.ckpt-15"\n', 'names model.ckpt-15, which is not there'),
    (b'model_checkpoint_path: "/home/x/runs/y/model.ckpt-12"\n', None),  # of another machine
    (b"model_checkpoint_path: 'C:\\\\runs\\\\model.ckpt-12'\n", None),  # of Windows
    (b'all_model_checkpoint_paths: "model.ckpt-3"\nmodel_checkpoint_path: "model.ckpt-12"\n', None),
])
def test_a_list_that_cannot_be_used_is_named(folder, content, said, capsys):
  (folder / 'checkpoint').write_bytes(content)
  assert checkpoint_files.newest_checkpoint(str(folder)) == str(folder / 'model.ckpt-12')
  lines = capsys.readouterr().err.splitlines()
  assert len(lines) == (said is not None)
  if said:
    assert said in lines[0] and lines[0].endswith(f'the checkpoint used is {folder}/model.ckpt-12')


def test_a_list_from_before_the_newest_does_not_count(folder, capsys):
  """The process, or the machine, ended before the newest was listed. A user's choice is a list from after it."""
  path = folder / 'checkpoint'
  path.write_text('model_checkpoint_path: "model.ckpt-9"\n')
  written = os.path.getmtime(folder / 'model.ckpt-12.index')
  os.utime(path, (written - 1, written - 1))
  assert checkpoint_files.newest_checkpoint(str(folder)) == str(folder / 'model.ckpt-12')
  assert f'{path} is older than model.ckpt-12; the checkpoint used is {folder}/model.ckpt-12' in capsys.readouterr().err
  cut(folder / f'model.ckpt-12{DATA}', 100)
  assert checkpoint_files.newest_checkpoint(str(folder)) == str(folder / 'model.ckpt-9')
  os.utime(path, (written + 1, written + 1))
  assert checkpoint_files.newest_checkpoint(str(folder)) == str(folder / 'model.ckpt-9')
@pytest.mark.parametrize('name', ['inception v3 "ü" [1]*.ckpt', "back\\slash's ?.ckpt", 'two\nlines.ckpt', 'x.ckpt-5'])
def test_a_list_may_name_a_checkpoint_of_any_name(name, folder, capsys):
  """TensorFlow writes the list as a text of protocol buffers, with escapes."""
  for path in list(folder.iterdir()):
    if path.name.startswith('model.ckpt-12.'):
      path.rename(folder / path.name.replace('model.ckpt-12', name))
    elif path.is_file() and path.name != 'config.json':
      path.unlink()
  tf.train.update_checkpoint_state(str(folder), name, latest_filename='checkpoint')
  prefix = checkpoint_files.newest_checkpoint(str(folder))
  assert prefix == str(folder / name) and capsys.readouterr().err == ''
  assert checkpoint_files.read_step(prefix) == 12


def test_a_list_may_name_an_older_one_and_may_be_missing(folder, capsys):
  (folder / 'checkpoint').write_text('model_checkpoint_path: "model.ckpt-3"\n')
  assert checkpoint_files.newest_checkpoint(str(folder)) == str(folder / 'model.ckpt-3')
  assert 'checkpoint names model.ckpt-3, though there is model.ckpt-12' in capsys.readouterr().err
  (folder / 'checkpoint').unlink()
  assert checkpoint_files.newest_checkpoint(str(folder)) == str(folder / 'model.ckpt-12')


def test_broken_ones_are_named_and_the_newest_whole_one_is_used(folder, capsys):
  cut(folder / f'model.ckpt-12{DATA}', 100)
  cut(folder / f'model.ckpt-9{INDEX}', 0)
  before = sorted(os.listdir(folder))
  assert checkpoint_files.newest_checkpoint(str(folder)) == str(folder / 'model.ckpt-3')
  line, = capsys.readouterr().err.splitlines()
  for part in (f'model.ckpt-12{DATA} is cut off', f'model.ckpt-9{INDEX} is cut off', 'used is ' + str(folder)):
    assert part in line
  assert sorted(os.listdir(folder)) == before  # nothing is deleted
  (folder / f'model.ckpt-3{DATA}').unlink()
  with pytest.raises(UserError, match=r'run holds no whole checkpoint: .*ckpt-12.*; .*ckpt-9.*; .*ckpt-3.* is missing'):
    checkpoint_files.newest_checkpoint(str(folder))


def test_a_name_that_no_file_has_is_no_checkpoint():
  assert checkpoint_files.problem('a\0b') == 'no checkpoint at a\0b'


def test_a_folder_without_checkpoints(tmp_path):
  assert checkpoint_files.newest_checkpoint(str(tmp_path)) is None
  assert checkpoint_files.newest_checkpoint(str(tmp_path / 'gone')) is None
  (tmp_path / 'checkpoint').touch()
  assert checkpoint_files.newest_checkpoint(str(tmp_path)) is None
  (tmp_path / 'checkpoint').write_text('model_checkpoint_path: "model.ckpt-5"\n')
  with pytest.raises(UserError, match='names model.ckpt-5, which is not there'):
    checkpoint_files.newest_checkpoint(str(tmp_path))


def test_a_checkpoint_of_one_file_is_read(tmp_path):
  """The old format, V1."""
  with tf.Graph().as_default(), tf.Session() as session:
    session.run(tf.raw_ops.Save(filename=str(tmp_path / 'model.ckpt-5'), tensor_names=['global_step', 'weights'],
                                data=[tf.constant(5, tf.int64), tf.zeros([3000])]))
  assert checkpoint_files.newest_checkpoint(str(tmp_path)) == str(tmp_path / 'model.ckpt-5')
  assert checkpoint_files.read_step(str(tmp_path / 'model.ckpt-5')) == 5
  cut(tmp_path / 'model.ckpt-5', 50)
  assert 'model.ckpt-5 is cut off or damaged, or no checkpoint' in checkpoint_files.problem(
      str(tmp_path / 'model.ckpt-5'))


def test_whole_ones_alone_are_counted_and_may_be_deleted(folder):
  cut(folder / f'model.ckpt-9{DATA}', 100)
  prefixes = {step: str(folder / f'model.ckpt-{step}') for step in (3, 12)}
  assert checkpoint_files.kept(prefixes[12]) == [prefixes[3], prefixes[12]]
  assert checkpoint_files.kept(prefixes[3]) == [prefixes[3]]


@pytest.fixture
def run(folder):
  """The folder as that of a run, with a best checkpoint of step 6."""
  runs.save_config(str(folder), {'flags': {'eval_steps': 3, 'eval_split': 'val'},
                                 'dataset': {'classes': ['a', 'b'], 'palette': [[0, 0, 0]] * 2}, 'network': {}})
  save(folder / 'best', 6)
  (folder / 'best/best.json').write_text('{"split": "val", "mean_iou": 0.5, "step": 6}')
  return folder


@pytest.mark.parametrize('given, step', [
    ('', 6), ('/', 6), ('//', 6), ('/checkpoint', 6), ('/model.ckpt-9', 9), ('/model.ckpt-9.index', 9),
    ('/model.ckpt-9.meta', 9), ('/model.ckpt-9.data-00000-of-00001', 9), ('/model.ckpt-9/', 9), ('/best', 6),
    ('/best/', 6), ('/best/checkpoint', 6), ('/best/model.ckpt-6.index', 6), ('/./best/../model.ckpt-3', 3)])
def test_every_form_of_naming_a_checkpoint(run, given, step):
  found = runs.load_run(str(run) + given)
  assert found.step == step and os.path.samefile(found.folder, run)


@pytest.mark.parametrize('inside, given, step', [
    ('', '.', 6), ('', 'checkpoint', 6), ('', 'model.ckpt-3', 3), ('', 'best', 6), ('best', '.', 6),
    ('best', 'checkpoint', 6), ('best', 'model.ckpt-6.index', 6)])
def test_names_within_the_folder(run, monkeypatch, inside, given, step):
  monkeypatch.chdir(run / inside)
  found = runs.load_run(given)
  assert found.step == step and os.path.samefile(found.folder, run)


@pytest.mark.parametrize('given, said', [
    ('/config.json', 'config.json is cut off or damaged, or no checkpoint; beside it are model.ckpt-12'),
    ('/model.ckpt-7', 'no such run folder or checkpoint; beside it are model.ckpt-12, model.ckpt-9, model.ckpt-3'),
    ('/model.ckpt-7.index', 'no such run folder or checkpoint'),
    ('/elsewhere', 'no such run folder')])
def test_what_is_no_checkpoint_is_said(run, given, said):
  with pytest.raises(UserError) as error:
    runs.load_run(str(run) + given)
  assert str(error.value).startswith(f'--ckpt={run}{given}: ') and said in str(error.value)


def break_best(run):
  cut(run / f'best/model.ckpt-6{DATA}', 77)


def break_score(run):
  (run / 'best/best.json').write_text('{"split": ')


@pytest.mark.parametrize('breaking, step, said', [
    (break_best, 12, [f'best/model.ckpt-6{DATA} is cut off', 'the latest checkpoint is taken instead of the best']),
    (break_score, 12, ['best.json is not valid JSON', 'the latest checkpoint is taken'])])
def test_a_broken_best_checkpoint_gives_way_to_the_latest(run, breaking, step, said, capsys):
  breaking(run)
  assert runs.load_run(str(run)).step == step
  line, = capsys.readouterr().err.splitlines()
  assert all(part in line for part in said)


@pytest.mark.parametrize('content', ['[]', '{}', '{"flags": {}}'])
def test_another_programs_config_is_refused(run, content):
  (run / 'config.json').write_text(content)
  with pytest.raises(UserError, match=r'^--ckpt=.*config.json was not written by train.py'):
    runs.load_run(str(run / 'model.ckpt-3'))


def test_savers_of_one_direction_have_no_ops_for_the_other(tmp_path):
  for number, builder in enumerate((checkpoint_files.SavingAlone(), checkpoint_files.RestoringAlone())):
    with tf.Graph().as_default() as graph, tf.Session() as session:
      weights = tf.get_variable('weights', initializer=tf.constant([1.5, 2.5]) * (1 - number))
      saver = tf.train.Saver([weights], builder=builder)
      kinds = {op.type for op in graph.get_operations()}
      assert kinds & {'SaveV2', 'RestoreV2'} == {('SaveV2', 'RestoreV2')[number]}
      session.run(weights.initializer)
      if number == 0:
        saver.save(session, str(tmp_path / 'model.ckpt'), global_step=3, write_meta_graph=False)
      else:
        saver.restore(session, str(tmp_path / 'model.ckpt-3'))
        assert session.run(weights).tolist() == [1.5, 2.5]
