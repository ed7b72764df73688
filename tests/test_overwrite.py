"""No program replaces what it did not write: every output of every program, as a file, a link, and with --overwrite."""

import os
import shutil

import numpy as np
import programs
import pytest
from few_shapes import convert_shapes, few_shapes
from random_run import write_run

import evaluate
import train
from checkpoints import card, package
from checkpoints.convert import write_checkpoint
from datasets import convert, export, get_dataset, inspection
from utils import files
from utils.compat import tf
from utils.errors import UserError
from utils.export import artifact
from utils.studies import results
from utils.training import gradient_chart

CLASSES = tuple(get_dataset('shapes').classes)


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
  folder = tmp_path_factory.mktemp('data') / 'shapes'
  convert_shapes(str(folder), train=4, val=2, num_shards=1)
  return folder


@pytest.fixture(scope='module')
def run(tmp_path_factory, tiny, data_dir):
  return write_run(tmp_path_factory.mktemp('runs') / 'run', CLASSES, network=tiny, dataset='shapes', data_dir=data_dir)


# Program -> (its main, flags, names of what it writes).
PROGRAMS = {
    'evaluate': (evaluate.main, ('--ckpt={run}', '--details', '--output_dir={out}'),
                 ('metrics-val.json', 'confusion-val.png', 'examples-val.png', 'best-val.png', 'worst-val.png',
                  'calibration-val.png')),
    'inspect': (inspection.main, ('--dataset=shapes', '--data_dir={data}', '--splits=val', '--output_dir={out}'),
                ('inspect-val.json', 'inspect-val.png', 'inspect-val-classes.png')),
    'card': (card.main, ('--ckpt={run}', '--results={results}', '--output={out}/card.md'), ('card.md',)),
    'package': (package.main, ('--ckpt={run}', '--results={results}', '--num_images=0', '--output={out}/run.zip'),
                ('run.zip',)),
    'export': (export.main, ('--dataset=shapes', '--data_dir={data}', '--output_dir={out}', '--count=1', '--labels'),
               ('classes.txt', 'dataset.json')),
}


@pytest.fixture(scope='module')
def scored(run, tmp_path_factory):
  folder = tmp_path_factory.mktemp('results')
  assert programs.run(evaluate.main, f'--ckpt={run}', f'--output_dir={folder}').returncode == 0
  return folder


@pytest.fixture(params=PROGRAMS)
def program(request, run, data_dir, scored, tmp_path, monkeypatch):
  """(function that runs a program, its folder, names of its outputs)."""
  monkeypatch.chdir(tmp_path)
  main, flags, names = PROGRAMS[request.param]
  out = tmp_path / 'out'
  out.mkdir()
  words = [word.format(run=run, data=data_dir, results=scored, out=out) for word in flags]
  return lambda *more: programs.run(main, *words, *more), out, names


def test_every_output_is_replaced_if_it_is_ours_and_stays_if_it_is_not(program):
  run_program, out, names = program
  first = run_program()
  assert first.returncode == 0, first.stderr
  again = run_program()
  assert again.returncode == 0 and set(names) <= set(os.listdir(out)), again.stderr
  for name in names:
    ours = (out / name).read_bytes()
    (out / name).write_text('painted for a week')
    refused = run_program()
    assert refused.returncode == 1 and f'{name} is there already' in refused.stderr and '--overwrite' in refused.stderr
    assert (out / name).read_text() == 'painted for a week'
    (out / name).write_bytes(ours)
  for name in names:
    (out / name).write_text('of no use')
  replaced = run_program('--overwrite')
  assert replaced.returncode == 0, replaced.stderr
  assert not any((out / name).read_bytes() == b'of no use' for name in names)
  assert run_program().returncode == 0


def test_no_output_goes_through_a_link(program, tmp_path):
  run_program, out, names = program
  (tmp_path / 'mine').write_text('mine')
  for make in (os.symlink, os.link):
    make(tmp_path / 'mine', out / names[-1])
    assert run_program().returncode == 1
    assert (tmp_path / 'mine').read_text() == 'mine' and os.path.samefile(out / names[-1], tmp_path / 'mine')
    os.unlink(out / names[-1])


def test_pictures_of_a_run_are_not_replaced_when_the_run_is_scored_in_its_folder(run, tmp_path):
  """The refusal comes before the work, and nothing else is written."""
  folder = tmp_path / 'run'
  os.symlink(run, folder)
  (run / 'confusion-val.png').write_bytes(b'mine')
  before = sorted(os.listdir(run))
  try:
    programs.assert_refused(programs.run(evaluate.main, f'--ckpt={folder}'), 'confusion-val.png is there already')
    assert sorted(os.listdir(run)) == before
  finally:
    (run / 'confusion-val.png').unlink()


@pytest.mark.parametrize('name, content', [
    ('config.json', '{"architectures": ["BertModel"]}'), ('config.json', 'no json'), ('checkpoint', 'a list of mine'),
    ('best', None), ('model.ckpt-7.index', ''), ('model.ckpt-7.data-00000-of-00001', 'weights')])
def test_training_leaves_files_of_others(name, content, tiny, data_dir, tmp_path):
  if content is None:
    (tmp_path / name).mkdir()
  else:
    (tmp_path / name).write_text(content)
  result = programs.run(train.main, f'--net={tiny}', '--checkpoint=none', '--max_steps=1', f'--data_dir={data_dir}',
                        '--crop_size=31,31', f'--run_dir={tmp_path}')
  assert result.returncode == 1 and name.split('.data')[0] in result.stderr and '--run_dir' in result.stderr
  assert set(os.listdir(tmp_path)) == {name, 'lock'}
  assert content is None or (tmp_path / name).read_text() == content


def run_conversion(folder):
  with few_shapes(val=5):
    return programs.run(convert.main, '--dataset=shapes', f'--data_dir={folder}', '--splits=val', '--num_shards=2',
                        '--num_workers=1')


def tfrecord(path, record=b'mine'):
  with tf.io.TFRecordWriter(str(path)) as writer:
    writer.write(record)


FOREIGN = {
    **{f'val.json: {text}': lambda path, text=text: path.write_text(text)
       for text in ('{}', '[]', '7', '{"num_shards": "a", "num_examples": 1}', '')},
    'val.json': lambda path: path.write_text('{"images": [], "annotations": [], "categories": []}'),  # COCO's
    'val-00000-of-00002.tfrecord': tfrecord,
    'val-00007-of-00009.tfrecord': lambda path: tfrecord(
        path, tf.train.Example(features=tf.train.Features(feature={'image': tf.train.Feature()})).SerializeToString()),
    'val-00001-of-00002.tfrecord': lambda path: path.write_bytes(b''),
}


@pytest.mark.parametrize('name', FOREIGN)
def test_conversion_leaves_files_of_others(name, tmp_path):
  make, name = FOREIGN[name], name.partition(':')[0]
  make(tmp_path / name)
  before = (tmp_path / name).read_bytes()
  programs.assert_refused(run_conversion(tmp_path), f'{name} is there already', 'another --data_dir')
  assert os.listdir(tmp_path) == [name] and (tmp_path / name).read_bytes() == before


def test_conversion_replaces_its_own_files_of_another_number_and_those_of_a_killed_one(data_dir, tmp_path):
  for shard in data_dir.glob('val-*'):
    (tmp_path / 'val-00003-of-00005.tfrecord').write_bytes(shard.read_bytes())
  for text in (None, '{"dataset": "sha'):
    if text:
      (tmp_path / 'val.json').write_text(text)
      (tmp_path / 'val-00000-of-00002.tfrecord').unlink()
    result = run_conversion(tmp_path)
    assert result.returncode == 0, result.stderr
    assert sorted(os.listdir(tmp_path)) == ['val-00000-of-00002.tfrecord', 'val-00001-of-00002.tfrecord', 'val.json']


def test_an_export_of_a_dataset_goes_on_after_what_it_cannot_write(data_dir, tmp_path):
  first = programs.run(export.main, f'--data_dir={data_dir}', '--split=train', f'--output_dir={tmp_path}')
  assert first.returncode == 0, first.stderr
  names = sorted(os.listdir(tmp_path))
  assert len(names) == 4
  (tmp_path / names[1]).write_text('mine')
  for name in names[2:]:
    (tmp_path / name).unlink()
  result = programs.run(export.main, f'--data_dir={data_dir}', '--split=train', f'--output_dir={tmp_path}')
  assert result.returncode == 1 and f'{names[1]} is there already, with other content' in result.stderr
  assert result.stderr.startswith(f'error: 3 images of train are in {tmp_path}; left out:')
  assert sorted(os.listdir(tmp_path)) == names and (tmp_path / names[1]).read_text() == 'mine'


def test_originals_of_a_dataset_are_not_replaced_by_its_export(tmp_path, monkeypatch):
  """Not even by --overwrite, and not through a link to their folder."""
  from test_export import ids, own

  dataset, data_dir, _ = own(tmp_path / 'mine', ['a', 'b', 'c'], ids([0, 1]), 'ground\ncat')
  os.symlink(dataset.root, tmp_path / 'link')
  before = {path: path.read_bytes() for path in (tmp_path / 'mine').rglob('*') if path.is_file()}
  result = programs.run(export.main, f'--dataset={dataset.root}', f'--data_dir={data_dir}', '--split=train', '--labels',
                        '--overwrite', f'--output_dir={tmp_path}/link')
  assert result.returncode == 1 and 'would overwrite an input' in result.stderr
  assert {path: path.read_bytes() for path in before} == before


def test_a_converted_checkpoint_replaces_none_unasked(tmp_path):
  path = tmp_path / 'vgg.ckpt'
  path.write_text('mine')
  variables = {'x': np.zeros(2, np.float32)}
  with pytest.raises(UserError, match='vgg.ckpt is there already'):
    write_checkpoint(str(path), variables)
  assert path.read_text() == 'mine'
  write_checkpoint(str(path), variables, overwrite=True)
  assert tf.train.load_checkpoint(str(path)).get_variable_to_shape_map() == {'x': [2]}


def test_results_of_a_study_are_not_written_over_a_file_of_others(tmp_path):
  path = tmp_path / 'setup.json'
  path.write_text('{"mine": 1}')
  with pytest.raises(UserError, match='setup.json is there already'):
    results.begin(str(path), {})
  assert path.read_text() == '{"mine": 1}'
  results.add(str(path), results.begin(str(path), {}, overwrite=True), 'part', [results.row('a', 'b', 's', [1.0])])
  assert files.read_json(path)['parts'] == {'part': {'rows': 1}}
  results.begin(str(path), {}, resume=True)


def test_a_chart_of_gradients_is_not_drawn_over_a_picture(tmp_path, monkeypatch):
  monkeypatch.setattr(gradient_chart, 'read_ratios', lambda run_dir: pytest.fail('the refusal comes first'))
  (tmp_path / 'a.png').write_bytes(b'mine')
  programs.assert_refused(programs.run(gradient_chart.main, '--run_dir=x', f'--output={tmp_path}/a.png'),
                          'a.png is there already')


def published(out, names):
  """Publishes files of an exported model.xml, as artifact.make does; `names` may have folders."""
  folder = out / 'new.tmp'
  for name, data in names.items():
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)
  content = {'format': artifact.FORMAT, 'files': artifact.files(str(folder))}
  try:
    artifact._publish(str(folder), str(out / 'model.xml'), '', content)
  finally:
    shutil.rmtree(folder)


@pytest.mark.parametrize('name', ['model.xml', 'model.bin', 'model.xml.json'])
def test_no_part_of_an_exported_file_replaces_one_of_others(name, tmp_path):
  names = {'model.xml': b'graph', 'model.bin': b'weights'}
  (tmp_path / name).write_text('{"mine": 1}')
  with pytest.raises(UserError, match=f'{name} is there already'):
    published(tmp_path, names)
  assert (tmp_path / name).read_text() == '{"mine": 1}'
  (tmp_path / name).unlink()
  published(tmp_path, names)
  published(tmp_path, {**names, 'model.bin': b'others'})
  assert (tmp_path / 'model.bin').read_bytes() == b'others'
  (tmp_path / 'model.bin').write_bytes(b'edited')
  with pytest.raises(UserError, match='model.bin is there already, and was not written by this program, or changed'):
    published(tmp_path, names)


def test_a_file_that_was_put_into_an_exported_folder_is_not_lost(tmp_path):
  names = {'model.xml/a/one': b'1', 'model.xml/two': b'2'}
  published(tmp_path, names)
  published(tmp_path, names)
  (tmp_path / 'model.xml/notes.txt').write_text('mine')
  with pytest.raises(UserError, match='model.xml/notes.txt is there already'):
    published(tmp_path, names)
  assert (tmp_path / 'model.xml/notes.txt').read_text() == 'mine'
